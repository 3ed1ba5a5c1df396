"""Forks of the broker that make system calls only and end by `os._exit`: they enter or make namespaces for it."""

from __future__ import annotations

import os
import warnings


def fork() -> int:
    """Fork as `os.fork` does, without Python's warning that a process with threads should not.

    The child must run no Python machinery. It holds copies of all descriptors, also of pipes that other threads have
    open, so it must not wait for one of its own to close.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()
