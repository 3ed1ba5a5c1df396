"""The routes of E2B's protocols."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from jupyter_server.utils import url_path_join

from jupyter_sandbox.surfaces.e2b import code, control, data, files, filesystem, inputs, metrics, process, watches
from jupyter_sandbox.surfaces.e2b.domain import Entrance
from jupyter_sandbox.surfaces.e2b.held import E2b, HeldSandboxes
from jupyter_sandbox.web import ServiceHandler

if TYPE_CHECKING:
    from jupyter_sandbox.services import Services

ROOT: Final = "/e2b"
DATA: Final = "/e2b/sbx"
SIGNED: Final = "/files"
_ID: Final = "([^/]+)"

Rule = tuple[str, type[ServiceHandler], dict[str, Any]]


def rules(services: Services, settings: E2b) -> list[Rule]:
    """Return the routes."""
    surface = HeldSandboxes(services, settings)
    served: dict[str, type[ServiceHandler]] = {
        f"{ROOT}(?:/v2)?/sandboxes": control.SandboxesHandler,
        f"{ROOT}(?:/v2)?/sandboxes/{_ID}/connect": control.ConnectHandler,
        f"{ROOT}(?:/v2)?/sandboxes/{_ID}/pause": control.PauseHandler,
        f"{ROOT}(?:/v2)?/sandboxes/{_ID}/resume": control.ResumeHandler,
        f"{ROOT}/sandboxes/{_ID}/(?:timeout|refreshes)": control.TimeoutHandler,
        f"{ROOT}/sandboxes/{_ID}/network": control.NetworkHandler,
        f"{ROOT}/sandboxes/{_ID}/metrics": metrics.MetricsHandler,
        f"{ROOT}/sandboxes/metrics": metrics.AllMetricsHandler,
        f"{ROOT}/sandboxes/{_ID}": control.SandboxHandler,
        f"{DATA}/health": code.HealthHandler,
        f"{DATA}/envs": data.EnvsHandler,
        f"{DATA}/files": files.FilesHandler,
        SIGNED: files.FilesHandler,
        f"{DATA}/execute": code.ExecuteHandler,
        f"{DATA}/contexts": code.ContextsHandler,
        f"{DATA}/contexts/{_ID}/restart": code.RestartHandler,
        f"{DATA}/contexts/{_ID}": code.ContextHandler,
        **{f"{DATA}/process.Process/{name}": handler for name, handler in process.METHODS.items()},
        **{f"{DATA}/process.Process/{name}": handler for name, handler in inputs.METHODS.items()},
        **{f"{DATA}/filesystem.Filesystem/{name}": handler for name, handler in filesystem.METHODS.items()},
        **{f"{DATA}/filesystem.Filesystem/{name}": handler for name, handler in watches.METHODS.items()},
        f"{DATA}/.*": data.NotSupportedHandler,
        f"{ROOT}/.*": control.NotSupportedHandler,
    }
    return [(path, handler, {"services": services, "surface": surface}) for path, handler in served.items()]


def serve_top(application: Any, routes: list[Rule]) -> None:
    """Serve signed URLs of a web application below a base URL at its top, too: SDKs leave out the path of the base."""
    if application.settings["base_url"] != "/":
        application.add_handlers(".*$", [rule for rule in routes if rule[0] == SIGNED])


def serve_domain(application: Any, settings: E2b) -> None:
    """Let a web application that has the routes serve them to the hosts of the domain, too."""
    base = application.settings["base_url"]
    Entrance(application, settings.domain, control=url_path_join(base, ROOT), data=url_path_join(base, DATA))
