"""`jupyter-sandbox-mcp`: MCP on standard input and output, for hosts that start a program rather than use a URL."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox._version import __version__
from jupyter_sandbox.errors import InvalidRequestError, SandboxError
from jupyter_sandbox.surfaces.contexts import models
from jupyter_sandbox.surfaces.mcp.remote import Address, Remote

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

_URL: Final = "http://127.0.0.1:8888"
_TIMEOUT_S: Final = 30
_MAX_TIMEOUT_S: Final = 86_400
_HELP: Final = f"""\
environment:
  SANDBOX_BASE_URL  address of the Jupyter server, with its base URL (default: {_URL})
  SANDBOX_TOKEN     token of that server, or one of `jupyter sandbox token create`
  SANDBOX_TIMEOUT   when code is interrupted unless the call says otherwise, seconds (default: {_TIMEOUT_S})

Tools: create_context, run_code, list_contexts, stop_context. A host starts this program by itself; to see whether it
would work: jupyter-sandbox-mcp --check
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Serve until standard input ends; exits with 1 when that is not possible, with 2 for wrong usage."""
    parser = argparse.ArgumentParser(
        prog="jupyter-sandbox-mcp",
        description="Gives language models a place to run code: tools of the Model Context Protocol (MCP) on standard "
        "input and output, which use the sandboxes of a Jupyter server with jupyter-sandbox.",
        epilog=_HELP,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=__version__)
    parser.add_argument("--check", action="store_true", help="only see whether the server answers and takes the token")
    options = parser.parse_args(argv)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # what reads standard input in a thread could not be cancelled
    try:
        remote, timeout_s = _settings(os.environ)
        asyncio.run(_check(remote) if options.check else _serve(remote, timeout_s))
    except SandboxError as error:
        _say(str(error))
        sys.exit(1)
    except ImportError as error:
        _say(f"it needs more packages: pip install '.[mcp]' in the checkout ({error})")
        sys.exit(1)


def _settings(environment: Mapping[str, str]) -> tuple[Remote, float]:
    """Return the server and the time of code; raises InvalidRequestError."""
    address = Address.of(environment.get("SANDBOX_BASE_URL") or _URL, environment.get("SANDBOX_TOKEN") or None)
    given = environment.get("SANDBOX_TIMEOUT") or str(_TIMEOUT_S)
    try:
        timeout_s = float(given)
    except ValueError:
        timeout_s = 0
    if not 0 < timeout_s <= _MAX_TIMEOUT_S:
        raise InvalidRequestError(f"SANDBOX_TIMEOUT must be seconds, from 0 to {_MAX_TIMEOUT_S}")
    return Remote(address), timeout_s


async def _check(remote: Remote) -> None:
    await remote.check()
    print(f"{remote.address} answers.")


async def _serve(remote: Remote, timeout_s: float) -> None:
    """Serve; a server that does not answer yet is told, and asked again with each call."""
    from mcp.server.stdio import stdio_server

    from jupyter_sandbox.surfaces.mcp import tools

    def backend_of(_: Any) -> Remote:
        return remote

    server = tools.server(backend_of, models.new_run(timeout_s, _MAX_TIMEOUT_S))
    async with stdio_server() as (incoming, outgoing):
        looking = asyncio.create_task(_look(remote))
        try:
            await server.run(incoming, outgoing, server.create_initialization_options())
        finally:
            looking.cancel()


async def _look(remote: Remote) -> None:
    try:
        await remote.check()
    except SandboxError as error:
        _say(str(error))


def _say(words: str) -> None:
    print(f"jupyter-sandbox-mcp: {words}", file=sys.stderr)
