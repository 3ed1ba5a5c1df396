"""Calls `main` of a program, in its sandbox: this text is what Python runs there. The server imports nothing of it.

What it does is believed by nobody, since the program can do the same.
"""

from __future__ import annotations

import json
import os
import sys
import traceback

OUT_OF_MEMORY = 137


def call() -> object:
    """Return what `main` returns. An exception ends all, told without a frame of ours."""
    try:
        with open("args.json", encoding="utf-8") as file:  # noqa: PTH123 - starts faster than with pathlib
            arguments = json.load(file)
        main = getattr(__import__("main"), "main", None)
        if not callable(main):
            sys.exit("Error: main.py defines no function main")
        return main(**arguments)
    except Exception as error:  # noqa: BLE001 - whatever the program raises is told
        traceback.print_exception(error.with_traceback(error.__traceback__ and error.__traceback__.tb_next))
        sys.exit(OUT_OF_MEMORY if isinstance(error, MemoryError) else 1)


def write(value: object, target: str, max_bytes: int) -> None:
    """Write a value as JSON to a new file, or end and say why not."""
    try:
        data = json.dumps(value, ensure_ascii=False, allow_nan=False).encode(errors="backslashreplace")
    except (TypeError, ValueError, RecursionError) as error:
        sys.exit(f"Error: main() returned a value that is not JSON: {error}")
    if len(data) > max_bytes:
        sys.exit(f"Error: main() returned {len(data)} bytes of JSON, of which {max_bytes} are accepted")
    with open(target, "xb") as file:  # noqa: PTH123 - as above
        file.write(data)


if __name__ == "__main__":
    _, to, limit = sys.argv
    del sys.argv[1:]
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - as above
    write(call(), to, int(limit))
