"""A rehearsal: the kernel that stands by answers two requests before anybody makes one.

A fork shares its pages until it writes to them, and the first requests write to many: they took twice as long as later
ones. These two come from within the process over its own shell channel, signed with a key that nobody else has and that
goes with the rehearsal. They are silent, in no history, and nobody hears their output: no client can connect yet, and
`end_of_output` waits until what was sent is gone.
"""

from __future__ import annotations

from threading import Event
from typing import TYPE_CHECKING, Any, Final

import zmq
from jupyter_client.session import Session
from zmq.eventloop.zmqstream import ZMQStream

if TYPE_CHECKING:
    from collections.abc import Callable

    from tornado.ioloop import IOLoop

    from sandbox_worker.kernel import SandboxKernelApp

_EXECUTION: Final = {
    "code": "print()",
    "silent": True,
    "store_history": False,
    "user_expressions": {},
    "allow_stdin": False,
    "stop_on_error": False,
}


def rehearse(app: SandboxKernelApp, endpoint: str, loop: IOLoop, done: Callable[[], None]) -> None:
    """Make the requests at `endpoint`, where the shell channel of `app` can be reached inside; then call `done`."""
    context: Any = app.context
    client = Session(key=app.session.key)
    dealer = context.socket(zmq.DEALER)
    dealer.linger = 0
    dealer.connect(endpoint)
    stream = ZMQStream(dealer, loop)
    waiting = 2

    def hear(_reply: list[bytes]) -> None:
        nonlocal waiting
        waiting -= 1
        if not waiting:
            stream.close()
            app.session.digest_history.clear()
            app.kernel.set_parent([], {}, "shell")
            done()

    stream.on_recv(hear)
    client.send(stream, "kernel_info_request", {})
    client.send(stream, "execute_request", dict(_EXECUTION))


def end_of_output(app: SandboxKernelApp) -> None:
    """Wait until the thread that publishes has sent all that it was given before.

    What nobody listens to is dropped. On a busy machine the end of the rehearsal could be published so late that the
    first client heard it, signed with a key that is not this kernel's.
    """
    sent = Event()
    app.iopub_thread.schedule(sent.set)
    sent.wait()
