"""Run one piece of code in a kernel of its own and print what comes, as a terminal would show it."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING, Any, Final

from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import AsyncKernelManager

from jupyter_sandbox.errors import InvalidRequestError, StartError

if TYPE_CHECKING:
    from jupyter_client.asynchronous.client import AsyncKernelClient

_READY_S: Final = 60
_LAST_OUTPUT_S: Final = 0.3


async def run_code(code: str, *, kernel_name: str, timeout_s: float | None) -> int:
    """Run `code`; return 0, 1 when it raised, 124 when it took longer than `timeout_s`. Raises SandboxError."""
    manager = AsyncKernelManager(kernel_name=kernel_name)
    try:
        await manager.start_kernel()
    except NoSuchKernel as error:
        raise InvalidRequestError(f"no kernelspec {kernel_name!r}; `jupyter kernelspec list` shows them") from error
    except Exception as error:
        raise StartError(str(error)) from error
    client = manager.client()
    client.start_channels()
    execution = asyncio.create_task(_execute(client, code, timeout_s))
    death = asyncio.create_task(_wait(manager))
    try:
        await asyncio.wait([execution, death], return_when=asyncio.FIRST_COMPLETED)
        if not execution.done():  # what it printed may still be on its way
            await asyncio.wait([execution], timeout=_LAST_OUTPUT_S)
        if not execution.done():
            raise StartError(_last_words(manager) or "the kernel ended")
        return 0 if execution.result() == "ok" else 1
    except TimeoutError:
        print(f"no result within {timeout_s} s", file=sys.stderr)
        return 124
    except RuntimeError as error:
        raise StartError(_last_words(manager) or str(error)) from error
    finally:
        for task in (execution, death):
            task.cancel()
        await asyncio.wait([execution, death])
        client.stop_channels()
        await asyncio.shield(manager.shutdown_kernel(now=True))


async def _execute(client: AsyncKernelClient, code: str, timeout_s: float | None) -> str:
    await client.wait_for_ready(timeout=_READY_S)
    reply = await client.execute_interactive(code, timeout=timeout_s, output_hook=_show, allow_stdin=False)
    return str(reply["content"]["status"])


async def _wait(manager: AsyncKernelManager) -> None:
    if manager.provisioner:
        await manager.provisioner.wait()


def _last_words(manager: AsyncKernelManager) -> str | None:
    words: str | None = getattr(manager.provisioner, "last_words", lambda: None)()
    return words


def _show(message: dict[str, Any]) -> None:
    content = message["content"]
    match message["header"]["msg_type"]:
        case "stream":
            stream = sys.stderr if content["name"] == "stderr" else sys.stdout
            stream.write(content["text"])
            stream.flush()
        case "execute_result" | "display_data":
            print(content["data"].get("text/plain", ""))
        case "error":
            print("\n".join(content["traceback"]), file=sys.stderr)
