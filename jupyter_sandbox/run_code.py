"""Run one piece of code in a kernel of its own and print what comes, as a terminal would show it."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import AsyncKernelManager

from jupyter_sandbox.errors import InvalidRequestError, StartError


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
    try:
        await client.wait_for_ready(timeout=60)
        reply = await client.execute_interactive(code, timeout=timeout_s, output_hook=_show, allow_stdin=False)
    except TimeoutError:
        print(f"no result within {timeout_s} s", file=sys.stderr)
        return 124
    except RuntimeError as error:
        provisioner = manager.provisioner
        words = getattr(provisioner, "last_words", lambda: None)()
        raise StartError(words or str(error)) from error
    finally:
        client.stop_channels()
        await asyncio.shield(manager.shutdown_kernel(now=True))
    return 0 if reply["content"]["status"] == "ok" else 1


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
