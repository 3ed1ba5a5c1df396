"""A kernel with its blocking client, as a script would use them."""

from __future__ import annotations

import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from queue import Empty
from typing import Any

from jupyter_client.manager import KernelManager

START_S = 45
TIMEOUT_S = 30


@dataclass
class Result:
    """What one execution brought."""

    reply: dict[str, Any]
    outputs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def status(self) -> str:
        return self.reply["status"]

    def of(self, msg_type: str) -> list[dict[str, Any]]:
        """The contents of all outputs of a type."""
        return [message["content"] for message in self.outputs if message["msg_type"] == msg_type]

    def text(self, name: str = "stdout") -> str:
        return "".join(content["text"] for content in self.of("stream") if content["name"] == name)


class Kernel:
    """A started kernel."""

    def __init__(self, manager, client) -> None:
        self.manager = manager
        self.client = client

    def execute(self, code: str, timeout_s: float = TIMEOUT_S, **kwargs) -> Result:
        """Run code; collect everything.

        An error does not abort what follows: ipykernel aborts what comes a moment after the error's reply as well.
        """
        outputs = []
        options = {"stop_on_error": False, **kwargs}
        reply = self.client.execute_interactive(code, timeout=timeout_s, output_hook=outputs.append, **options)
        return Result(reply["content"], outputs)

    def run(self, code: str, timeout_s: float = TIMEOUT_S) -> str:
        """Run code that must not fail; return what it printed."""
        result = self.execute(code, timeout_s)
        assert result.status == "ok", result
        return result.text()

    def wait_for(self, condition, channel: str = "iopub", timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        """Return the first message that fulfils `condition`; drops those before it."""
        deadline = time.monotonic() + timeout_s
        seen = []
        while True:
            try:
                message = getattr(self.client, f"get_{channel}_msg")(timeout=max(0.01, deadline - time.monotonic()))
            except Empty:
                raise AssertionError(f"not within {timeout_s} s on {channel}; there came {seen}") from None
            if condition(message):
                return message
            seen.append((message["msg_type"], message["content"]))

    def reply_to(self, msg_id: str, channel: str = "shell", timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        """Return the content of the reply to a request."""
        message = self.wait_for(lambda message: message["parent_header"].get("msg_id") == msg_id, channel, timeout_s)
        return message["content"]

    def printed(self, msg_id: str, text: str) -> None:
        """Wait until an execution has printed `text`."""
        self.wait_for(
            lambda message: (
                message["parent_header"].get("msg_id") == msg_id and text in message["content"].get("text", "")
            )
        )

    def control(self, msg_type: str, content: dict[str, Any], timeout_s: float = TIMEOUT_S) -> dict[str, Any]:
        """Send a request on the control channel; return the content of its reply."""
        message = self.client.session.msg(msg_type, content)
        self.client.control_channel.send(message)
        return self.reply_to(message["header"]["msg_id"], "control", timeout_s)

    def become_ready(self) -> None:
        """Wait until it answers; what is heard of one that does not is told."""
        try:
            self.client.wait_for_ready(timeout=START_S)
        except RuntimeError as error:
            says = "its control channel answers"
            try:
                self.control("kernel_info_request", {}, timeout_s=5)
            except AssertionError as silence:
                says = f"control: {silence}"
            beats = self.client.hb_channel.is_beating()
            raise AssertionError(
                f"{error}; heartbeat: {beats}; {says}; {self.manager.provisioner.last_words()}"
            ) from error

    def restart(self) -> None:
        self.manager.restart_kernel(now=False)
        self.client.wait_for_ready(timeout=TIMEOUT_S)


@contextmanager
def started(name: str = "sandbox-python", **kwargs):
    """Start a kernel; it is shut down at the end, also when it has never become ready."""
    manager = KernelManager(kernel_name=name)
    manager.start_kernel(**kwargs)
    client = manager.client()
    try:
        client.start_channels()
        kernel = Kernel(manager, client)
        kernel.become_ready()
        yield kernel
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
        manager.context.destroy(linger=0)


@contextmanager
def several(cwd):
    """Yield a function that starts kernels; they are shut down at the end."""
    with ExitStack() as stack:
        yield lambda name="sandbox-python", **kwargs: stack.enter_context(started(name, **{"cwd": cwd} | kwargs))
