"""`jupyter sandbox cp` and `ls`: the files of sandboxes from the command line.

What lies in a sandbox is hostile: its names are shown escaped, a name that cannot be part of a path, a symlink or a
device is passed over and told, and no more comes out than was allowed, however large a sparse file says it is.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from jupyter_sandbox import copying, terminal
from jupyter_sandbox.errors import InvalidRequestError
from jupyter_sandbox.files import Files
from jupyter_sandbox.guards import ids
from jupyter_sandbox.host.beneath import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_sandbox.host.beneath import Entry

_PLACE: Final = re.compile(r"(sbx_[^:/]*):(.*)", re.DOTALL)
_EPILOG: Final = """\
One of SOURCE and TARGET is SANDBOX:PATH, the other a path of this machine, or `-` for standard input or output:

    jupyter sandbox cp data.csv sbx_0123456789abcdef0123:data.csv
    jupyter sandbox cp -r sbx_0123456789abcdef0123:results .
    jupyter sandbox cp sbx_0123456789abcdef0123:/sandbox/log.txt - | less

A relative PATH is below /sandbox. A file is written whole or not at all, a directory that is new as well; into a
directory that exists the source is put by its name. Symlinks, devices and names that no path can hold are passed over,
told, and make the command end with 1.
"""


def declare(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the commands; `add` takes name, function and summary."""
    command = add("ls", _ls, "Show a directory of a sandbox, or a file.")
    command.add_argument("place", metavar="SANDBOX[:PATH]", help="an id as shown by `list`, and a path below /sandbox")
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")

    command = add("cp", _cp, "Copy a file or directory into a sandbox, or out of one.")
    command.epilog, command.formatter_class = _EPILOG, terminal.Help
    command.add_argument("source", metavar="SOURCE", help="what is copied")
    command.add_argument("target", metavar="TARGET", help="where to")
    command.add_argument("-r", "--recursive", action="store_true", help="a directory with all that is in it")
    command.add_argument(
        "--max-mib",
        type=_whole,
        default=4096,
        metavar="N",
        help="no more comes out of a sandbox (default: %(default)s)",
    )


@dataclass(frozen=True, kw_only=True)
class Place:
    """A path in a sandbox."""

    sandbox: str
    path: str


def place(text: str) -> Place | None:
    """Return what `SANDBOX:PATH` means, None if it is a path of this machine. Raises InvalidRequestError."""
    found = _PLACE.fullmatch(text)
    return Place(sandbox=ids.sandbox_id(found[1]), path=found[2] or ".") if found else None


async def _ls(options: argparse.Namespace) -> int:
    where = place(options.place if ":" in options.place else f"{options.place}:")
    if where is None:
        raise InvalidRequestError(f"not SANDBOX[:PATH]: {options.place[:60]!a}")
    files = Files()
    entry = await files.stat(where.sandbox, where.path)
    entries: list[Entry] = [entry]
    if entry.kind is Kind.DIRECTORY:
        entries = [each async for each in copying.entries(files, where.sandbox, where.path)]
    if options.json:
        print(json.dumps([_model(each) for each in entries], indent=2))
        return 0
    for each in entries:
        mark = "/" if each.kind is Kind.DIRECTORY else ""
        print(f"{each.kind:10}{terminal.size(each.size_bytes):>12}  {_time(each)}  {terminal.line(each.name)}{mark}")
    return 0


def _model(entry: Entry) -> dict[str, object]:
    name = os.fsencode(entry.name).decode(errors="replace")
    return {"name": name, "type": str(entry.kind), "size_bytes": entry.size_bytes, "last_modified": _time(entry)}


def _time(entry: Entry) -> str:
    try:
        return datetime.fromtimestamp(entry.modified_ns / 1e9, UTC).isoformat(timespec="seconds")
    except (ValueError, OverflowError, OSError):  # a sandbox may set any time
        return f"{'-':25}"


async def _cp(options: argparse.Namespace) -> int:
    source, target = place(options.source), place(options.target)
    if (source is None) == (target is None):
        raise InvalidRequestError("one of source and target must be SANDBOX:PATH, and only one")
    copy = copying.Copy(Files(), recursive=options.recursive, max_bytes=options.max_mib << 20)
    try:
        if source is not None:
            await copy.out(source.sandbox, source.path, options.target)
        elif target is not None:
            await copy.into(options.source, target.sandbox, target.path)
    except BrokenPipeError:  # whoever read standard output has enough
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except OSError as error:
        raise InvalidRequestError(f"{terminal.line(str(error.filename or ''))}: {error.strerror}") from error
    for what in copy.passed_over:
        print(f"passed over: {terminal.line(what)}", file=sys.stderr)
    return 1 if copy.passed_over else 0


def _whole(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 1 << 30:
        raise argparse.ArgumentTypeError(f"{text} is no number of MiB above 0")
    return int(text)
