"""Server extension: TCP_NODELAY on the kernel websocket, and nothing else.

jupyter_server leaves Nagle's algorithm on; with the client's delayed acknowledgements that costs about 40 ms per
execution. The baseline `local-nodelay` takes this one effect out of the comparison. The core route is shadowed, so that
no configurable class of the server is replaced.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from jupyter_server.services.kernels.websocket import KernelWebsocketHandler
from jupyter_server.utils import url_path_join

if TYPE_CHECKING:
    from jupyter_server.serverapp import ServerApp


class NoDelayWebsocketHandler(KernelWebsocketHandler):
    """The stock kernel websocket, sending each message at once."""

    async def open(self, kernel_id: str) -> None:
        """Switch Nagle's algorithm off before the first message."""
        self.set_nodelay(True)
        await super().open(kernel_id)  # type: ignore[no-untyped-call]


def _jupyter_server_extension_points() -> list[dict[str, str]]:
    return [{"module": __name__}]


def _load_jupyter_server_extension(server: ServerApp) -> None:
    route = url_path_join(server.base_url, r"/api/kernels/(?P<kernel_id>[\w-]+)/channels")
    server.web_app.add_handlers(".*$", [(route, NoDelayWebsocketHandler)])
