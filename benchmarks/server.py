"""Run one system: a fresh jupyter_server process with private directories, and everything that comes from it.

The server listens on 127.0.0.1 only and asks for a random token. Rules: what runs was asked for (extensions and engine
are checked in the server's log, the kernel in its list), and afterwards nothing is left: processes are ended by the
keeper, containers and mounts of the private directory are removed before it is.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import secrets
import shutil
import site
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import containers
from benchmarks.client import ServerClient, open_client
from benchmarks.processes import Process, all_processes, descendants, mounts_below

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping, Sequence

    from benchmarks.metrics import Results
    from benchmarks.systems import System

START_TIMEOUT_S = 60.0
_LOG = "server.log"
_ENGINE = re.compile(r"Sandbox kernels are ready \(engine (\w+)")
STOP_TIMEOUT_S = 120.0
REPOSITORY = Path(__file__).resolve().parent.parent
_CONFIG = """\
import sys

sys.path.append({repository!r})
c = get_config()
c.ServerApp.ip = "127.0.0.1"
c.ServerApp.port = {port}
c.ServerApp.port_retries = 0
c.ServerApp.root_dir = {root!r}
c.ServerApp.open_browser = False
c.ServerApp.allow_root = True
c.ServerApp.jpserver_extensions = {extensions!r}
c.IdentityProvider.token = {token!r}
"""


class NotInstalledError(Exception):
    """A system cannot run here; the message says what is missing."""


@dataclass(frozen=True, kw_only=True)
class Server:
    """A running system: how to talk to it, which processes it consists of, and where others can join it."""

    system: System
    url: str
    token: str
    client: ServerClient
    keeper_pid: int
    directory: Path
    environment: Mapping[str, str]

    @property
    def python(self) -> str:
        """Return the interpreter that the server runs in."""
        return _python(self.system)

    def tell_end_of_log(self, results: Results, measurement: str) -> None:
        """Add what the server logged last to results in which it failed."""
        if results.failure_count(self.system.name):
            _note_log(self.directory, self.system, results, measurement)

    def processes(self) -> list[Process]:
        """Return the processes of this system: descendants, and those of its containers with what runs beside each."""
        everything = all_processes()
        own = descendants(self.keeper_pid, everything)
        if self.system.image:
            ids = containers.of_directory(self.directory)
            for process in everything.values():
                if process.pid not in own and any(container in process.command for container in ids):
                    own[process.pid] = process
                    own.update(descendants(process.pid, everything))
        return list(own.values())


def _python(system: System) -> str:
    return system.python or sys.executable


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _placed(text: str, directory: Path) -> str:
    return text.replace("{directory}", str(directory)).replace("{name}", directory.name)


def _environment(system: System, directory: Path) -> dict[str, str]:
    """Return the caller's environment, with all places where Jupyter and the engine write moved to `directory`."""
    foreign = ("JUPYTER", "IPYTHON", "JPY_", "XDG_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(foreign)}
    environment["PATH"] = os.pathsep.join([str(Path(_python(system)).parent), environment.get("PATH", os.defpath)])
    environment["PYTHONUSERBASE"] = site.getuserbase()
    places = {
        "HOME": "home",
        "IPYTHONDIR": "ipython",
        "JUPYTER_CONFIG_DIR": "config",
        "JUPYTER_DATA_DIR": "data",
        "JUPYTER_RUNTIME_DIR": "runtime",
        "XDG_CACHE_HOME": "cache",
        "XDG_CONFIG_HOME": "xdg-config",
        "XDG_DATA_HOME": "xdg-data",
        "XDG_RUNTIME_DIR": "xdg-runtime",
        "XDG_STATE_HOME": "state",
    }
    for name, place in places.items():
        path = directory / place
        path.mkdir(mode=0o700)
        environment[name] = str(path)
    environment |= {name: _placed(value, directory) for name, value in system.environment.items()}
    return environment


def _write_config(system: System, directory: Path, port: int, token: str) -> None:
    root = directory / "root"
    root.mkdir()
    text = _CONFIG.format(
        repository=str(REPOSITORY), port=port, root=str(root), extensions=dict(system.extensions), token=token
    )
    (directory / "config" / "jupyter_server_config.py").write_text(text)
    for name, content in system.files.items():
        (directory / name).parent.mkdir(parents=True, exist_ok=True)
        (directory / name).write_text(content)


def _log_tail(log: Path, lines: int = 15) -> str:
    """Return the last lines of a log without those of level INFO."""
    return "\n".join([line for line in log.read_text(errors="replace").splitlines() if line[:2] != "[I"][-lines:])


def _note_log(directory: Path, system: System, results: Results, measurement: str = "run") -> None:
    results.note(system.name, f"end of the server's log:\n{_log_tail(directory / _LOG)}", measurement)


def _check_extensions(system: System, log: Path) -> None:
    text = log.read_text(errors="replace")
    for extension, wanted in system.extensions.items():
        loaded = f"{extension} | extension was successfully loaded" in text
        if loaded != wanted:
            state = "was not loaded" if wanted else "was loaded although it is switched off"
            raise NotInstalledError(f"{system.name}: server extension {extension} {state}\n{_log_tail(log)}")


async def _check_engine(system: System, log: Path) -> None:
    """Wait until our extension has said which engine makes workers. Raises NotInstalledError."""
    end = time.monotonic() + START_TIMEOUT_S
    while (found := _ENGINE.search(text := log.read_text(errors="replace"))) is None:
        if "Sandbox kernels cannot start" in text or time.monotonic() > end:
            raise NotInstalledError(f"{system.name}: no engine {system.engine} here\n{_log_tail(log)}")
        await asyncio.sleep(0.1)
    if found[1] != system.engine:
        raise NotInstalledError(f"{system.name}: workers are made by the engine {found[1]}, not {system.engine}")


async def _wait_until_ready(server: Server, keeper: asyncio.subprocess.Process, log: Path) -> None:
    """Wait until the server answers and offers the kernel. Raises NotInstalledError."""
    system = server.system
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            while (kernels := await server.client.kernel_names()) is None:
                await asyncio.sleep(0.1)
                if keeper.returncode is not None:
                    raise NotInstalledError(f"{system.name}: the server ended at once\n{_log_tail(log)}")
    except TimeoutError:
        message = f"{system.name}: no answer from the server within {START_TIMEOUT_S:.0f} s\n{_log_tail(log)}"
        raise NotInstalledError(message) from None
    _check_extensions(system, log)
    if system.engine:
        await _check_engine(system, log)
    if system.kernel_name not in kernels:
        raise NotInstalledError(f"{system.name}: no kernelspec {system.kernel_name}, only {', '.join(sorted(kernels))}")


async def _stop(keeper: asyncio.subprocess.Process, system: System, results: Results) -> None:
    async with asyncio.timeout(STOP_TIMEOUT_S):
        output, _ = await keeper.communicate(b"")  # closes the keeper's input
    report = json.loads(output)
    if report["killed"]:
        results.fail(system.name, "stop", "the server did not end on SIGTERM and was killed")
    if report["outlived"]:
        commands = sorted(set(report["outlived"]))
        results.note(system.name, f"{len(report['outlived'])} processes outlived the server and were ended: {commands}")


def _remove(directory: Path, system: System, results: Results) -> None:
    try:
        left = containers.of_directory(directory) if system.image else []
        for container in left:
            containers.remove(container)
        if left:
            results.note(system.name, f"{len(left)} containers outlived the server and were removed")
    except containers.EngineError as error:
        results.fail(system.name, "stop", f"containers may be left behind: {error}")
    for point in mounts_below(directory):
        results.note(system.name, f"mount left behind: {point.relative_to(directory)}")
        subprocess.run(["umount", "--lazy", str(point)], check=False)
    if mounts_below(directory):
        results.fail(system.name, "stop", f"{directory} was not removed: something is still mounted in it")
    else:
        shutil.rmtree(directory)


@asynccontextmanager
async def running(system: System, options: Sequence[str], results: Results) -> AsyncIterator[Server]:
    """Start a system and stop it at the end; what stopping revealed is added to `results`.

    `options` are appended to the command line of the server. Raises NotInstalledError.
    """
    if lack := system.lack():
        raise NotInstalledError(f"system {system.name} cannot run here: {lack}")
    directory = Path(tempfile.mkdtemp(prefix="jsb-"))
    directory.chmod(0o711)  # workers with a uid of their own pass through; what is secret lies in closed directories
    log = directory / _LOG
    failed_before = results.failure_count(system.name)
    try:
        port, token = _free_port(), secrets.token_hex(16)
        environment = _environment(system, directory)
        _write_config(system, directory, port, token)
        command = [_python(system), "-m", "jupyter_server"]
        command += [_placed(option, directory) for option in (*system.options, *options)]
        with log.open("wb") as log_file:
            keeper = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "benchmarks.keeper", *command),
                cwd=REPOSITORY,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                start_new_session=True,
            )
        try:
            url = f"http://127.0.0.1:{port}"
            async with open_client(url, token) as client:
                server = Server(
                    system=system,
                    url=url,
                    token=token,
                    client=client,
                    keeper_pid=keeper.pid,
                    directory=directory,
                    environment=environment,
                )
                await _wait_until_ready(server, keeper, log)
                yield server
        finally:
            await _stop(keeper, system, results)
            if results.failure_count(system.name) > failed_before:
                _note_log(directory, system, results)
    finally:
        _remove(directory, system, results)
