"""A client of the broker as some user, driven by a test over its standard streams: one JSON object a line.

Runs `{"do": code, "with": values}` in one namespace and answers `{"result": ...}` or `{"error": ..., "kind": ...}`.
So one test serves root's broker and an ordinary user's.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import queue
import sys
import time
import traceback
from pathlib import Path

import zmq
from jupyter_client.blocking.client import BlockingKernelClient

from jupyter_sandbox import owners, restrictions
from jupyter_sandbox.broker import adoption_verbs, client, restriction_verbs, template_verbs, verbs
from jupyter_sandbox.broker.running import RunningCommand
from jupyter_sandbox.errors import SandboxError
from jupyter_sandbox.file_watches import FileWatches
from jupyter_sandbox.files import Files
from jupyter_sandbox.guards import ids
from jupyter_sandbox.host import pipes, places
from jupyter_sandbox.specs import Less
from sandbox_worker.protocol import TerminalSize

SANDBOXES: dict[int, Sandbox] = {}
SEND_TIMEOUT_MS = 1000


def call(request, kind, descriptors=(), **kwargs):
    return asyncio.run(client.call(request, kind, descriptors, **kwargs))


async def _of(values):
    for value in values:
        yield value


FILES = Files()
WATCHES = FileWatches(FILES)


class Sandbox:
    """A claimed sandbox with at most one kernel."""

    def __init__(self, template="python", mode="none", directory=None, name=None, network=((), ()), less=None):
        descriptor = None if directory is None else os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            name = Path(directory or "").name if name is None else name
            claiming = client.Lease.claim(
                template, mode, name, descriptor, restriction=restrictions.judge(*network), less=Less(**(less or {}))
            )
            self.lease = asyncio.run(claiming)
        finally:
            if descriptor is not None:
                os.close(descriptor)
        self.id, self.cwd = self.lease.sandbox, self.lease.cwd
        self.seat = str(ids.new_seat())
        self.key = os.urandom(32).hex()
        self.kernel: BlockingKernelClient | None = None
        SANDBOXES[len(SANDBOXES)] = self

    def restrict(self, denied=(), excepted=()):
        """Let it reach less than its template opens."""
        asyncio.run(self.lease.restrict(restrictions.judge(denied, excepted)))

    def start(self, argv=None, wait=True, env=None):
        """Start the kernel, again if need be."""
        self.lease.tenants.add(self.seat)
        self.lease.exits.pop(self.seat, None)
        request = verbs.StartKernel(
            sandbox=self.id, seat=self.seat, argv=argv and tuple(argv), env=env or {}, cwd=None, key=self.key
        )
        prefix = call(request, verbs.KernelStarted).prefix
        self.prefix = prefix
        self.connect(prefix, wait=wait)
        return prefix

    def connect(self, prefix, *, wait=True):
        if self.kernel:
            self.kernel.stop_channels()
        self.kernel = BlockingKernelClient()
        ports = {f"{name}_port": number for number, name in enumerate(("shell", "iopub", "stdin", "control", "hb"), 1)}
        self.kernel.load_connection_info(
            {"transport": "ipc", "ip": prefix, "key": self.key, "signature_scheme": "hmac-sha256", **ports}
        )
        self.kernel.start_channels()
        self.kernel.shell_channel.socket.sndtimeo = (
            SEND_TIMEOUT_MS  # ZeroMQ waits for ever while a thief holds its peer
        )
        deadline = time.monotonic() + 45
        while wait:
            try:
                self.kernel.wait_for_ready(timeout=45)
                break
            except RuntimeError:  # so says a client without a manager too when a kernel loads for over a second
                self.lease.listen()
                if self.seat in self.lease.exits or time.monotonic() > deadline:
                    raise RuntimeError(f"no kernel: {self.lease.exits.get(self.seat)}") from None

    def execute(self, code, timeout=20):
        """Run code; return {status, out, error}. Status `dead`, `timeout`, or `nonsense` when there is no reply."""
        out: list[str] = []

        def show(message):
            content = message["content"]
            if message["msg_type"] == "stream" and len(out) < 1000:
                out.append(content["text"][:200_000])

        try:
            reply = self.kernel.execute_interactive(
                code, timeout=timeout, output_hook=show, allow_stdin=False, stop_on_error=False
            )
        except (TimeoutError, queue.Empty, zmq.Again):
            return {"status": "timeout", "out": "".join(out), "error": ""}
        except RuntimeError as error:
            return {"status": "dead", "out": "".join(out), "error": str(error)}
        except (ValueError, TypeError) as error:  # what jupyter_client says of frames that are no message
            return {"status": "nonsense", "out": "".join(out), "error": str(error)}
        content = reply["content"]
        error = f"{content.get('ename')}: {content.get('evalue')}" if content["status"] == "error" else ""
        return {"status": content["status"], "out": "".join(out), "error": error}

    def submit(self, code):
        """Send code and do not wait."""
        self.kernel.execute(code, silent=True, store_history=False)

    def end(self, timeout=20):
        """Wait for the end of the kernel; return {reason, message, status} or None."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            self.lease.listen()
            found = self.lease.exits.get(self.seat)
            if found:
                return {"reason": found.reason, "message": found.message, "status": found.status}
            if self.lease.loss or not self.lease.is_connected:
                return {"reason": "lost", "message": str(self.lease.loss), "status": -1}
            time.sleep(0.02)
        return None

    def command(self, argv, timeout=20, limit=200_000, *, terminal=False):
        """Run a command; return {status, out}. A terminal has 24 rows and 80 columns."""
        size = TerminalSize(rows=24, columns=80) if terminal else None
        request = verbs.RunCommand(sandbox=self.id, argv=tuple(argv), env={}, cwd=None, terminal=size)
        return asyncio.run(self._command(request, timeout, limit))

    async def _command(self, request, timeout, limit):
        running, said = await RunningCommand.start(request, with_input=request.terminal is not None), bytearray()
        sources = [
            pipes.Source(output, said.extend, lambda: 0 if len(said) < limit else None) for output in running.outputs
        ]
        try:
            async with asyncio.timeout(timeout):
                ended = await running.ended()
            for source in sources:
                await source.rest(1)
        finally:
            for source in sources:
                source.stop()
            running.close()
        return {"status": ended and ended.status, "out": said[:limit].decode(errors="replace")}

    def signal(self, number, target=None):
        call(verbs.SignalKernel(sandbox=self.id, target=target or self.seat, number=number), verbs.Done)

    def disk(self):
        """A directory descriptor of the host's view."""
        return asyncio.run(client.open_disk(self.id))

    def file(self, operation, *arguments, **keywords):
        """What the files service answers: of `reading` the text, else as it is."""
        return asyncio.run(self._file(operation, arguments, keywords))

    async def _file(self, operation, arguments, keywords):
        if operation == "reading":
            async with FILES.reading(self.id, *arguments, **keywords) as reading:
                return b"".join([block async for block in reading]).decode("latin-1")
        if operation == "write":
            path, text = arguments
            arguments = path, _of([text.encode("latin-1")])
        answer = await getattr(FILES, operation)(self.id, *arguments, **keywords)
        return dataclasses.asdict(answer) if dataclasses.is_dataclass(answer) else answer

    def row(self):
        listing = call(verbs.List(after=""), verbs.Listing)
        return next(row for row in listing.sandboxes if row.sandbox == self.id)

    def release(self):
        if self.kernel:
            self.kernel.stop_channels()
            self.kernel = None
        with contextlib.suppress(SandboxError):
            call(verbs.Release(sandbox=self.id), verbs.Done, start=False)
        self.lease.close()


def main():
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    namespace = {
        "Sandbox": Sandbox,
        "SANDBOXES": SANDBOXES,
        "call": call,
        "client": client,
        "verbs": verbs,
        "adoption_verbs": adoption_verbs,
        "restriction_verbs": restriction_verbs,
        "template_verbs": template_verbs,
        "FILES": FILES,
        "WATCHES": WATCHES,
        "OWNER": owners.EVERYBODY,
        "places": places,
        "asyncio": asyncio,
        "os": os,
    }
    for line in sys.stdin:
        order = json.loads(line)
        namespace |= order["with"]
        namespace.pop("result", None)
        try:
            exec(order["do"], namespace)
            answer = {"result": namespace.get("result")}
        except BaseException as error:
            code = getattr(error, "code", None)
            answer = {"error": traceback.format_exc()[-3000:], "kind": type(error).__name__, "code": code}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
