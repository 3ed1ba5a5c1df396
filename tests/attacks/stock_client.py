"""Executes cells on a server by stock clients only: nbclient, and jupyter_client's channels over the kernel websocket.

Reads {"url", "token", "kernel", "cells"} as JSON from standard input; writes the outputs of each cell.
"""

from __future__ import annotations

import functools
import json
import os
import sys

import nbformat
import websocket
from jupyter_server.gateway.gateway_client import GatewayClient
from jupyter_server.gateway.managers import GatewayKernelManager
from nbclient import NotebookClient

TIMEOUT_S = 40


class Manager(GatewayKernelManager):
    """jupyter_client asks by this name."""

    async def _async_is_alive(self) -> bool:
        return await self.is_alive()


def main() -> None:
    order = json.load(sys.stdin)
    GatewayClient.instance(url=order["url"].rstrip("/"), auth_token=order["token"])
    header = [f"Authorization: token {order['token']}"]  # the client knows how to say it over HTTP only
    websocket.create_connection = functools.partial(websocket.create_connection, header=header)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code) for code in order["cells"]])
    manager = Manager(kernel_name=order["kernel"])
    client = NotebookClient(notebook, km=manager, timeout=TIMEOUT_S, allow_errors=True, kernel_name=order["kernel"])
    client.execute(kernel_name=order["kernel"])
    json.dump([cell["outputs"] for cell in notebook["cells"]], sys.stdout)
    sys.stdout.flush()
    os._exit(0)  # the client's thread does not end while the kernel lives


if __name__ == "__main__":
    main()
