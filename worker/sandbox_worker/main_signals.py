"""Signals of a kernel's process are for its main thread: threads of the kernel's own block what code is interrupted by.

Linux gives a signal to any thread that does not block it, also when it was meant to wake the main thread and that has
to wait for a processor. Python's handler would be called all the same, but what the main thread waits for, as a sleep,
would not end: an interrupt that nobody notices.
"""

from __future__ import annotations

import contextlib
import signal
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_INTERRUPTING: Final = {
    signal.SIGINT,
    signal.SIGALRM,
    signal.SIGVTALRM,
    signal.SIGPROF,
    signal.SIGUSR1,
    signal.SIGUSR2,
}
"""Not those that end: what a thread starts has its mask."""


@contextlib.contextmanager
def kept() -> Iterator[None]:
    """Threads that begin meanwhile leave the signals to this one."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPTING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def shared() -> None:
    """This thread gets signals as others do, and so do those that it begins: they may run code that starts others."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPTING)
