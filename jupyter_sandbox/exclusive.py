"""Exclusive mode: judge whether a server's configuration leaves a way round the sandbox. Reads traits, acts on nothing.

Stock Jupyter always offers native kernels and terminals to whoever may log in. With `SandboxExtension.exclusive` the
extension refuses to start while one of these is open; each finding names the setting that closes it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox import owners
from jupyter_sandbox.authorizer import OwnerAuthorizer
from jupyter_sandbox.identity import OwnerTokens
from jupyter_sandbox.kernel_specs import SandboxKernelSpecManager

if TYPE_CHECKING:
    from collections.abc import Iterator

CLOSED_ROUTES: Final = (r"/nbconvert/.*", r"/api/nbconvert")
"""What no setting of jupyter_server closes and the extension closes: conversions run templates in the server."""


def findings(server: Any) -> list[str]:
    """Return what `server`, a ServerApp after its initialization, leaves open; empty when nothing."""
    return [*_kernels(server), *_terminals(server), *_extensions(server), *_owners(server)]


def token_findings(server: Any) -> list[str]:
    """Return what would give every token of ours the run of all kernels, on a server of any kind."""
    return list(_owners(server)) if isinstance(server.identity_provider, OwnerTokens) else []


def _kernels(server: Any) -> Iterator[str]:
    manager = server.kernel_spec_manager
    if not isinstance(manager, SandboxKernelSpecManager) or manager.ensure_native_kernel:
        yield (
            "native kernels: set c.ServerApp.kernel_spec_manager_class = "
            '"jupyter_sandbox.kernel_specs.SandboxKernelSpecManager"'
        )
    default = server.kernel_manager.default_kernel_name
    if default not in manager.find_kernel_specs():
        yield f"the default kernel {default!r} is not there: set c.MultiKernelManager.default_kernel_name"
    if server.gateway_config.gateway_enabled:
        yield "a gateway runs kernels elsewhere: unset c.GatewayClient.url"


def _terminals(server: Any) -> Iterator[str]:
    if server.terminals_enabled or _enabled(server, "jupyter_server_terminals"):
        yield "terminals: set c.ServerApp.terminals_enabled = False and disable the extension jupyter_server_terminals"


def _extensions(server: Any) -> Iterator[str]:
    if server.allow_root and not server.password_required and not server.identity_provider.token:
        yield "anybody may log in to a server that runs as root: set a token or a password"


def _owners(server: Any) -> Iterator[str]:
    provider = server.identity_provider
    has_several = isinstance(provider, OwnerTokens) or owners.tells_apart(provider)
    if has_several and not isinstance(server.authorizer, OwnerAuthorizer):
        yield (
            "kernels and sessions of other owners: set c.ServerApp.authorizer_class = "
            '"jupyter_sandbox.authorizer.OwnerAuthorizer"'
        )


def _enabled(server: Any, name: str) -> bool:
    return bool(server.extension_manager.extensions.get(name) and server.extension_manager.extensions[name].enabled)
