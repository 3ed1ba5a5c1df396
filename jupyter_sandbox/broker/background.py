"""A broker that goes on by itself: its process leaves the one that started it, and says once whether it serves."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jupyter_sandbox.host import places


def detach(where: places.Places) -> None:
    """Go on in a new session as a grandchild; the caller's process exits once we serve, with what we say."""
    reader, writer = os.pipe2(0)
    if os.fork():
        os.close(writer)
        with os.fdopen(reader) as said:
            text = said.read()
        sys.stderr.write(text or json.dumps({"code": "broker_unavailable", "message": "the broker ended at once"}))
        sys.stderr.flush()
        os._exit(0 if '"serving"' in text else 1)
    os.close(reader)
    os.setsid()
    if os.fork():
        os._exit(0)
    os.chdir("/")
    null = os.open(os.devnull, os.O_RDWR)
    errors = os.open(where.run / "broker.err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(errors, 2)
    os.closerange(3, writer)
    os.closerange(writer + 1, 1 << 20)
    os.set_inheritable(writer, False)
    global _report_to
    _report_to = writer


_report_to: int | None = None


def report(word: dict[str, str]) -> None:
    """Tell the process that started us, once, whether we serve; in the foreground only failures are said."""
    global _report_to
    if _report_to is not None:
        with contextlib.suppress(OSError):
            os.write(_report_to, json.dumps(word).encode())
        os.close(_report_to)
        _report_to = None
    elif "code" in word:
        sys.stderr.write(json.dumps(word) + "\n")
