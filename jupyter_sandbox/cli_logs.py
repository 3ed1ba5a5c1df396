"""`jupyter sandbox logs`: the end of what kernels wrote to their raw standard output and error."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jupyter_sandbox import terminal
from jupyter_sandbox.broker import client, verbs
from jupyter_sandbox.errors import InvalidRequestError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable


def declare(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command; `add` takes name, function and summary."""
    command = add(
        "logs",
        _logs,
        "Show the last 8 KiB that each kernel of a sandbox wrote to its raw standard output and error: what crashing "
        "libraries and programs say. Outputs of cells are the notebook's.",
    )
    command.add_argument("sandbox", metavar="SANDBOX", help="an id as shown by `list`")
    command.add_argument("kernel", metavar="KERNEL", nargs="?", help="only this one, as shown by `list --json`")


async def _logs(options: argparse.Namespace) -> int:
    running = (await client.call(verbs.ListKernels(sandbox=options.sandbox), verbs.Kernels, start=False)).kernels
    if options.kernel is not None and options.kernel not in running:
        raise InvalidRequestError(
            f"no kernel {options.kernel[:60]!a} runs there; there are: {', '.join(running) or '-'}"
        )
    for kernel in running if options.kernel is None else [options.kernel]:
        request = verbs.ReadLog(sandbox=options.sandbox, kernel=kernel)
        log = await client.call(request, verbs.Log, start=False)
        if options.kernel is None:
            print(f"==> kernel {kernel} <==")
        print(terminal.lines(log.text).rstrip("\n"))
    return 0
