"""Bash's kernel, which tells what failed: `python -m sandbox_worker.bash -f CONNECTION_FILE`.

bash_kernel tells an error by the exit status alone, without a name or a traceback: JupyterLab shows nothing of it then.
"""

from __future__ import annotations

import signal
from typing import Any, Final

from bash_kernel.kernel import BashKernel
from ipykernel.kernelapp import IPKernelApp

_MEANINGS: Final = {"126": "cannot be executed", "127": "command not found"}
_FATAL: Final = 128
"""A shell adds it to the number of the signal that a command died of."""


def meaning(status: str) -> str | None:
    """What a shell means by an exit status, where it means more than that a command failed."""
    if status in _MEANINGS:
        return _MEANINGS[status]
    try:
        return f"ended by {signal.Signals(int(status) - _FATAL).name}"
    except ValueError:
        return None


def explained(content: dict[str, Any]) -> dict[str, Any]:
    """Return an error of bash_kernel with a name and a traceback; anything else as it is."""
    if content.get("ename") != "" or content.get("traceback") != []:
        return content
    said = content["evalue"]
    name = "ExitStatus" if said.isdigit() else "SyntaxError"
    means = meaning(said)
    return content | {"ename": name, "traceback": [f"{name}: {said}" if means is None else f"{name}: {said} ({means})"]}


class Bash(BashKernel):  # type: ignore[misc]
    """The kernel, as its clients hear of it."""

    def send_response(self, stream: Any, msg_or_type: Any, content: Any = None, **more: Any) -> Any:
        """Send an output."""
        if msg_or_type == "error":
            content = explained(content)
        return super().send_response(stream, msg_or_type, content, **more)

    def do_execute(
        self,
        code: str,
        silent: bool,
        store_history: bool = True,
        user_expressions: Any = None,
        allow_stdin: bool = False,
    ) -> dict[str, Any]:
        """Run a cell; what the reply says of an error is what was sent of it. ipykernel looks at the parameters."""
        return explained(super().do_execute(code, silent, store_history, user_expressions, allow_stdin))


if __name__ == "__main__":
    IPKernelApp.launch_instance(kernel_class=Bash)
