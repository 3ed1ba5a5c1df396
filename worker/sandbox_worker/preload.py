"""Import, before any fork, the modules a live kernel ends up with.

The list is found, not written down: a throw-away child runs one kernel through the usual requests and reports what
it had imported. pydevd alone (the debugger) would otherwise cost each kernel more than 100 ms. How far the requests
go is the caller's choice: what an error or a completion needs is 9 MiB, shared by the workers of a zygote, but each
container's own.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import zmq
from ipykernel.kernelapp import IPKernelApp
from jupyter_client.session import Session

from sandbox_worker import linux
from sandbox_worker.protocol import PORTS

if TYPE_CHECKING:
    from collections.abc import Iterable

ENVIRONMENT: Final = {
    "HOME": "/tmp",
    "IPYTHONDIR": "/tmp/.ipython",
    "LANG": "C.UTF-8",
    "OPENBLAS_NUM_THREADS": "1",  # a thread would not survive the fork
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",  # else it warns about frozen modules in every log
    "MPLBACKEND": "module://matplotlib_inline.backend_inline",
}
"""The environment in which kernels are prepared; theirs comes with StartKernel."""

_FIRST_CODE: Final = ("1 + 1", "print('hi')", "x = [1, 2]\nx")
_MORE_CODE: Final = ("1 / 0", "%pwd", "!true", "import asyncio\nawait asyncio.sleep(0)")
_TIMEOUT_S = 20


def preload(names: Iterable[str], known: Iterable[str] | None = None) -> list[str]:
    """Import `names` and what a kernel needs; return a note for each module that could not be.

    `known` are the modules of a live kernel if they were found before, when an image was built.
    A wanted module that starts threads is reported too: a fork copies only one thread, so the zygote may not keep it.
    """
    notes = [note for name in names if (note := _import(name))]
    for name in modules_of_a_live_kernel() if known is None else known:
        if name not in sys.modules and not name.startswith("__main"):
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    threads = len(os.listdir("/proc/self/task"))
    if threads > 1:
        notes.append(f"{threads - 1} threads are alive after the preload; they do not exist in a fork")
    return notes


def _import(name: str) -> str | None:
    try:
        importlib.import_module(name)
    except ImportError as error:
        return f"preload {name}: {error}"
    return None


def modules_of_a_live_kernel(*, first_cells_only: bool = False) -> list[str]:
    """Return the names of the modules that a kernel has imported after a few requests; empty when none could start.

    With `first_cells_only` nothing fails, is completed, inspected or shut down, and no other program runs.
    """
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        _report(writer, first_cells_only=first_cells_only)
    os.close(writer)
    with os.fdopen(reader) as report:
        text = report.read()
    os.waitpid(child, 0)
    return [str(name) for name in json.loads(text)] if text else []


def _report(writer: int, *, first_cells_only: bool) -> None:
    """In the child: run a kernel, write the names of its modules, exit."""
    try:
        linux.prctl(linux.PR_SET_PDEATHSIG, signal.SIGKILL)  # a zygote that is killed meanwhile leaves no kernel
        null = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        with tempfile.TemporaryDirectory() as directory:
            info: dict[str, Any] = {"transport": "ipc", "ip": f"{directory}/k", "key": "preload"}
            info |= {f"{name}_port": number for number, name in enumerate(PORTS, start=1)}
            file = Path(directory, "connection.json")
            file.write_text(json.dumps(info | {"signature_scheme": "hmac-sha256"}))
            app = IPKernelApp.instance()
            app.initialize(["-f", str(file), "--HistoryManager.hist_file=:memory:"])
            threading.Thread(target=_tell, args=(directory, writer, first_cells_only), daemon=True).start()
            app.start()
    finally:
        os._exit(1)


def _tell(directory: str, writer: int, first_cells_only: bool) -> None:
    """Make the requests, write the names, and end the process, also when one fails or nobody reads any more."""
    try:
        _converse(directory, first_cells_only)
        os.write(writer, json.dumps(sorted(sys.modules)).encode())
    finally:
        os._exit(0)


def _converse(directory: str, first_cells_only: bool) -> None:
    session = Session(key=b"preload")
    context: zmq.Context[Any] = zmq.Context.instance()

    def ask(kind: str, content: dict[str, Any], port: int = 1) -> None:
        with context.socket(zmq.DEALER) as channel:
            channel.linger = 0
            channel.connect(f"ipc://{directory}/k-{port}")
            session.send(channel, session.msg(kind, content))
            channel.poll(_TIMEOUT_S * 1000)

    ask("kernel_info_request", {})
    ask("kernel_info_request", {}, 4)
    for code in _FIRST_CODE if first_cells_only else (*_FIRST_CODE, *_MORE_CODE):
        flags = {"silent": False, "store_history": True, "allow_stdin": False, "stop_on_error": False}
        ask("execute_request", {"code": code, "user_expressions": {}, **flags})
    ask("comm_info_request", {})
    if not first_cells_only:
        ask("complete_request", {"code": "imp", "cursor_pos": 3})
        ask("inspect_request", {"code": "print", "cursor_pos": 3, "detail_level": 0})
        ask("is_complete_request", {"code": "1"})
        ask("usage_request", {}, 4)  # imports what a shutdown needs, too
