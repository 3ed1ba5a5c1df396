"""Run a command in a sandbox that lives, as if it ran where we were started: streams, signals, exit status, terminal.

The sandbox never gets a descriptor of ours, least of all our terminal: pipes are between, and its terminal is its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import signal
import sys
import termios
import threading
import tty
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox.broker import verbs
from jupyter_sandbox.broker.running import RunningCommand
from jupyter_sandbox.errors import ProgramMissingError, StartError
from jupyter_sandbox.guards import processes
from jupyter_sandbox.host import pipes, tasks
from sandbox_worker.protocol import TerminalSize

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

_STDIN, _STDOUT, _STDERR = 0, 1, 2
_PROGRAM_MISSING: Final = 127
_BY_SIGNAL: Final = 128
"""Exit statuses, as shells have them."""


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to run where. A terminal has input in any case."""

    sandbox: str
    argv: tuple[str, ...]
    cwd: str | None = None
    env: dict[str, str] = field(default_factory=dict)
    with_input: bool = False
    with_terminal: bool = False


async def run_command(wanted: Wanted) -> int:
    """Run it; return its exit status, 128 and its signal, or 127 when there is no such program. Raises SandboxError."""
    request = verbs.RunCommand(
        sandbox=wanted.sandbox,
        argv=wanted.argv,
        env=({"TERM": os.environ.get("TERM", "xterm-256color")} if wanted.with_terminal else {}) | wanted.env,
        cwd=wanted.cwd,
        terminal=_size() if wanted.with_terminal else None,
    )
    try:
        running = await RunningCommand.start(request, with_input=wanted.with_input or wanted.with_terminal)
    except ProgramMissingError as error:
        print(f"jupyter sandbox exec: {error}", file=sys.stderr)
        return _PROGRAM_MISSING
    with contextlib.ExitStack() as undo:
        undo.callback(running.close)
        if wanted.with_terminal:
            undo.enter_context(_raw())
        return await _attend(running, with_terminal=wanted.with_terminal)


async def _attend(running: RunningCommand, *, with_terminal: bool) -> int:
    if running.input is not None:
        _begin_typing(running.input)
        running.close_input()  # it has a copy
    carriers = [_Carrier(*pair) for pair in zip(running.outputs, (_STDOUT, _STDERR), strict=False)]
    writing = [asyncio.create_task(carrier.write()) for carrier in carriers]
    told = asyncio.create_task(running.ended())
    try:
        with _signals(running, with_terminal=with_terminal) as stopped:
            waited: list[asyncio.Future[Any]] = [told, stopped, *writing]
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if told.done():
                for carrier in carriers:
                    await carrier.end(is_terminal=with_terminal)
                waited = [stopped, asyncio.gather(*writing)]
                await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if stopped.done():
                return _BY_SIGNAL + stopped.result()
            await asyncio.gather(*writing)
    except BrokenPipeError:  # who read our output is gone
        return _BY_SIGNAL + signal.SIGPIPE
    finally:
        for carrier in carriers:
            carrier.source.stop()
        for task in (told, *writing):
            task.cancel()
        await asyncio.wait([told, *writing])
    exited = told.result()
    if exited is None or exited.reason == "lost":
        raise StartError(exited.message if exited else "the broker went away, and the command with it")
    if exited.reason in ("memory", "disk"):
        print(f"jupyter sandbox exec: {exited.message}", file=sys.stderr)
    return exited.status if exited.status >= 0 else _BY_SIGNAL - exited.status


class _Carrier:
    """Carries one stream of the command to one of ours: a block is read when the last was written."""

    def __init__(self, output: int, ours: int) -> None:
        self._ours = ours
        self._blocks: asyncio.Queue[bytes] = asyncio.Queue()
        self.source = pipes.Source(output, self._blocks.put_nowait, lambda: None)

    async def write(self) -> None:
        """Write until the end; raises OSError when that is not possible any more."""
        while block := await self._blocks.get():
            await asyncio.to_thread(_write, self._ours, block)
            self.source.resume()

    async def end(self, *, is_terminal: bool) -> None:
        """The command has ended: take what it wrote before, and no more."""
        await self.source.finish(is_terminal=is_terminal)
        self._blocks.put_nowait(b"")


def _write(descriptor: int, block: bytes) -> None:
    while block:
        block = block[os.write(descriptor, block) :]


def _begin_typing(target: int) -> None:
    """Give the command what we are given, in a thread that ends with us: nothing can end its wait for that."""
    copy = os.dup(target)
    os.set_blocking(copy, True)

    def work() -> None:
        with contextlib.suppress(OSError):
            while block := os.read(_STDIN, pipes.BLOCK):
                _write(copy, block)
        os.close(copy)

    threading.Thread(target=work, name="input", daemon=True).start()


@contextlib.contextmanager
def _raw() -> Iterator[None]:
    """Let our terminal pass on every key as it is, Ctrl-C too; it is as before afterwards, whatever happens."""
    before = termios.tcgetattr(_STDIN)
    try:
        tty.setraw(_STDIN, termios.TCSANOW)
        yield
    finally:
        termios.tcsetattr(_STDIN, termios.TCSANOW, before)


@contextlib.contextmanager
def _signals(running: RunningCommand, *, with_terminal: bool) -> Iterator[asyncio.Future[int]]:
    """Pass on what a keyboard sends, and new sizes; yield the number of a signal that ends us."""
    loop = asyncio.get_running_loop()
    stopped: asyncio.Future[int] = loop.create_future()
    sending: set[asyncio.Task[None]] = set()

    def send(make: Callable[[], Coroutine[None, None, None]]) -> None:
        tasks.spawn(sending, make())

    def stop(number: int) -> None:
        if not stopped.done():
            stopped.set_result(number)

    def pass_on(number: int) -> None:
        send(lambda: running.signal(number))

    handlers: dict[int, Callable[[], None]] = {
        **{number: functools.partial(pass_on, number) for number in (signal.SIGINT, signal.SIGQUIT)},
        **{number: functools.partial(stop, number) for number in (signal.SIGTERM, signal.SIGHUP)},
    }
    if with_terminal:
        handlers[signal.SIGWINCH] = lambda: send(lambda: running.resize(_size()))
    try:
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        yield stopped
    finally:
        for number in handlers:
            loop.remove_signal_handler(number)
        for task in sending:
            task.cancel()


def _size() -> TerminalSize:
    """Return the size of our terminal, as far as it is one that may be asked for; one that says 0 does not know."""
    columns, rows = os.get_terminal_size(_STDIN)
    return TerminalSize(
        rows=min(rows or 24, processes.MAX_TERMINAL), columns=min(columns or 80, processes.MAX_TERMINAL)
    )
