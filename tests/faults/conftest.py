"""A broker tree for each test of faults: a directory, configuration, uid range and brokers of its own."""

from __future__ import annotations

import asyncio
import contextlib
import glob
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager

from jupyter_sandbox.broker import client, verbs
from jupyter_sandbox.host import places
from tests.conftest import broker_pid, leftovers, stop_broker, wait_until

from .servers import Server

REPOSITORY = Path(__file__).resolve().parents[2]
START_TIMEOUT_S = 60
ORPHAN_TIMEOUT_S = 60
"""A worker that no broker knows of ends by itself after half a minute (sandbox_worker.agent)."""
_UIDS = 0x10000
_RANGES_EACH = 64


def _own_ranges() -> range:
    """Return the first uids of ranges that no other test session has, as long as this process lives.

    Processes are counted, and killed at the end, by their uid. Those of Docker begin at 2^31.
    """
    for number in range(256):
        taken = socket.socket(socket.AF_UNIX)
        try:
            taken.bind(f"\0jupyter-sandbox-test-uids-{number}")
        except OSError:
            taken.close()
            continue
        taken.detach()  # it stays bound until this process ends
        first = 0x40000000 + number * _RANGES_EACH * _UIDS
        return range(first, first + _RANGES_EACH * _UIDS, _UIDS)
    raise AssertionError("256 other test sessions run")


_UID_BASES = itertools.cycle(_own_ranges())

CLAIM_AND_WAIT = """
import asyncio, sys
from jupyter_sandbox.broker import client
async def main():
    lease = await client.Lease.claim(sys.argv[1], "none", "", None)
    print(lease.sandbox, flush=True)
    await asyncio.to_thread(sys.stdin.read)
asyncio.run(main())
"""


class Tree:
    """Everything of the brokers that serve one directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.uid_base = next(_UID_BASES)
        self.templates = directory / "config/sandbox-templates"
        self.templates.mkdir(parents=True)
        self.configure()
        self.brokers: list[subprocess.Popen[bytes]] = []
        self.clients: list[subprocess.Popen[str]] = []

    @property
    def environment(self) -> dict[str, str]:
        """What a process of this tree needs in its environment."""
        return {places.DIRECTORY_VARIABLE: str(self.directory), "JUPYTER_CONFIG_DIR": str(self.directory / "config")}

    @property
    def client_environment(self) -> dict[str, str]:
        """The environment of another user's client; only the broker's own user finds the socket by itself."""
        return os.environ | self.environment | {places.SOCKET_VARIABLE: str(places.find().socket)}

    def use(self) -> None:
        """Let this process's clients speak to this tree."""
        os.environ.update(self.environment)

    def configure(self, **traits: object) -> None:
        """Set traits of the brokers that start from now on."""
        traits = {"uid_base": self.uid_base, "idle_exit_s": 0, "recover_grace_s": 20} | traits
        lines = [f"c.BrokerApp.{name} = {value!r}\n" for name, value in traits.items()]
        (self.directory / "config/jupyter_sandbox_config.py").write_text("".join(lines))

    def template(self, name: str, text: str) -> None:
        """Add a template to the brokers that start from now on."""
        (self.templates / f"{name}.toml").write_text(text)

    def start(self, *prefix: str) -> int:
        """Start a broker in the foreground, wait until it serves, and return its pid."""
        self.use()
        output = (self.directory / f"output{len(self.brokers)}").open("wb")
        with output:
            broker = subprocess.Popen(
                [*prefix, sys.executable, "-P", "-m", "jupyter_sandbox.broker"],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
            )
        self.brokers.append(broker)

        def serves() -> bool:
            assert broker.poll() is None, f"the broker ended: {self.output()}"
            return "serves with engine" in self.output()

        wait_until(serves, START_TIMEOUT_S)
        return broker.pid

    def output(self) -> str:
        """Return what the newest broker has said."""
        return (self.directory / f"output{len(self.brokers) - 1}").read_text(errors="replace")

    def kill_broker(self) -> None:
        """Kill the broker, whoever started it, without a chance to clean up."""
        pid = broker_pid()
        assert pid is not None, "no broker runs"
        os.kill(pid, signal.SIGKILL)
        self.wait_for_end()

    def wait_for_end(self) -> None:
        """Wait until no broker runs."""

        def ended() -> bool:
            for broker in self.brokers:
                broker.poll()
            return broker_pid() is None

        wait_until(ended, 30)

    def client(self, template: str = "python", *, uid: int = 0) -> tuple[subprocess.Popen[str], str]:
        """Start a client process of another user that claims a sandbox and waits; return it and the sandbox's id."""
        user = [] if uid == 0 else ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        process = subprocess.Popen(
            [*user, sys.executable, "-P", "-c", CLAIM_AND_WAIT, template],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self.client_environment,
        )
        self.clients.append(process)
        assert process.stdout is not None
        sandbox = process.stdout.readline().strip()
        assert sandbox.startswith("sbx_"), "the client got no sandbox"
        return process, sandbox

    def records(self) -> dict[str, dict]:
        """Return the ledger by sandbox id."""
        found = {}
        for path in places.find().ledger.glob("*.json"):
            with contextlib.suppress(FileNotFoundError, ValueError):
                found[path.stem] = json.loads(path.read_text())
        return found

    def kernel_sockets(self) -> list[Path]:
        """Return the sockets of kernels, but for those of what stands by in workers."""
        waiting = {sandbox.removeprefix("sbx_")[:12] for sandbox in self.records()}
        return [path for path in places.find().run.glob("k/*") if path.name.partition("-")[0] not in waiting]

    def processes(self, *, first: bool = False) -> list[int]:
        """Return the pids of this tree's zygotes, agents and kernels; with `first`, of those that are pid 1 inside."""
        found = []
        for status in Path("/proc").glob("[0-9]*/status"):
            with contextlib.suppress(OSError):
                fields = dict(line.split(":", 1) for line in status.read_text().splitlines() if ":" in line)
                uid = int(fields["Uid"].split()[0])
                living = fields["State"].split()[0] not in "ZX"
                numbers = fields["NSpid"].split()
                inside = len(numbers) > 1 and numbers[-1] == "1"
                if living and 0 <= uid - self.uid_base < _UIDS and (inside or not first):
                    found.append(int(status.parent.name))
        return found

    def agents(self) -> list[int]:
        """Return the pids of the living workers."""
        return sorted(self.processes(first=True))

    def left(self) -> list[str]:
        """Return what is left of this tree on the machine; processes too."""
        return leftovers(self.directory) + [_described(pid) for pid in self.processes()]

    def assert_nothing_left(self, timeout_s: float = 10) -> None:
        """Wait until nothing is left once the brokers have ended; the kernel frees what they held a moment later."""
        with contextlib.suppress(AssertionError):
            wait_until(lambda: not self.left(), timeout_s)
        assert self.left() == []

    def close(self) -> None:
        """End everything of this tree, by force if need be; pytest shows what its brokers said if the test failed."""
        for file in sorted([*self.directory.glob("output*"), *self.directory.glob("*/broker.*")]):
            if file.is_file():
                print(f"--- {file.name}:", file.read_text(errors="replace")[-3000:], sep="\n")
        self.close_brokers()
        for pid in self.processes():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        mine = f"/sys/fs/cgroup/**/jupyter-sandbox/{places.find().instance}/sbx_*"
        for group in glob.glob(mine, recursive=True):  # not Path.glob: groups of others may go while it looks
            with contextlib.suppress(OSError):
                os.rmdir(group)
        shutil.rmtree(self.directory, ignore_errors=True)

    def close_brokers(self) -> None:
        """End the brokers and what they have, and who claimed it."""
        for process in self.clients:
            process.kill()
            process.communicate()
        self.use()
        with contextlib.suppress(AssertionError):
            stop_broker()
        for broker in self.brokers:
            broker.kill()
            broker.wait()


def _described(pid: int) -> str:
    """Return what there is to say of a process that should not be there."""
    said = [f"process {pid}"]
    for name in ("cmdline", "stat", "wchan", "cgroup"):
        with contextlib.suppress(OSError):
            said.append(Path(f"/proc/{pid}/{name}").read_text().replace("\0", " ").strip())
    return "; ".join(said)


def _tree() -> Iterator[Tree]:
    before = dict(os.environ)
    if places.DIRECTORY_VARIABLE in before:
        stop_broker()  # the session's: it comes back when it is needed, and would disturb counting
    directory = Path(tempfile.mkdtemp(prefix="jsbf", dir="/tmp"))
    directory.chmod(0o755)
    tree = Tree(directory)
    tree.use()
    try:
        yield tree
    finally:
        tree.close()
        os.environ.clear()
        os.environ.update(before)


tree = pytest.fixture(_tree)
module_tree = pytest.fixture(_tree, scope="module")


@pytest.fixture
def another_tree() -> Iterator[Tree]:
    """A second tree on the same machine."""
    yield from _tree()


@pytest.fixture
def server(tree, tmp_path) -> Iterator[Server]:
    """A Jupyter server that was not started yet; the broker is."""
    tree.configure(recover_grace_s=120)  # a server starts as slowly as the machine is busy
    tree.start()
    server = Server(tree, tmp_path)
    yield server
    server.close()


def sandboxes() -> list[str]:
    """Return the ids of all claimed sandboxes, from a thread of the event loop's own."""
    return asyncio.run(listed())


async def listed() -> list[str]:
    """Return the ids of all claimed sandboxes."""
    listing = await client.call(verbs.List(after=""), verbs.Listing, start=False)
    return [row.sandbox for row in listing.sandboxes]


async def status() -> verbs.StatusReport:
    """Ask the broker how it is."""
    return await client.call(verbs.Status(), verbs.StatusReport, start=False)


async def until(condition, timeout_s: float = 15) -> None:
    """Wait until an asynchronous condition is true."""
    deadline = asyncio.get_running_loop().time() + timeout_s
    while not await condition():
        assert asyncio.get_running_loop().time() < deadline, f"{condition} did not become true within {timeout_s} s"
        await asyncio.sleep(0.02)


_LEASES: list[client.Lease] = []


@pytest.fixture(autouse=True)
def _give_back() -> Iterator[None]:
    """Close the leases of a test, however it ended."""
    yield
    while _LEASES:
        _LEASES.pop().close()


async def claim(template: str = "python", on_behalf: str = "") -> client.Lease:
    """Claim a sandbox without a workspace; it is given back at the end of the test."""
    lease = await client.Lease.claim(template, "none", "", None, on_behalf=on_behalf)
    _LEASES.append(lease)
    return lease


class Kernel:
    """A kernel behind jupyter_client, as nbclient or a server would have it."""

    def __init__(self, manager: AsyncKernelManager) -> None:
        self.manager = manager
        self.channels = manager.client()

    @property
    def provisioner(self):
        return self.manager.provisioner

    async def ready(self) -> None:
        self.channels.start_channels()
        await self.channels.wait_for_ready(timeout=40)

    async def ready_again(self) -> None:
        """Wait for a restarted kernel until its outputs arrive, too: the two sockets reconnect one after the other."""
        await self.channels.wait_for_ready(timeout=40)
        for _ in range(10):
            with contextlib.suppress(TimeoutError):
                await self.channels.execute_interactive("", silent=True, timeout=4, output_hook=lambda _message: None)
                return
            assert await self.manager.is_alive(), f"the restarted kernel ended: {self.provisioner.last_words()}"
        raise AssertionError("a restarted kernel's outputs do not arrive")

    async def run(self, code: str) -> str:
        """Run code and return what it printed; raises RuntimeError for an error inside."""
        printed: list[str] = []

        def hook(message):
            content = message["content"]
            if message["msg_type"] == "stream":
                printed.append(content["text"])

        reply = await self.channels.execute_interactive(
            code, timeout=40, output_hook=hook, allow_stdin=False, stop_on_error=False
        )
        if reply["content"]["status"] != "ok":
            raise RuntimeError(f"{reply['content'].get('ename')}: {reply['content'].get('evalue')}")
        return "".join(printed).strip()


@asynccontextmanager
async def running_kernel(directory: Path, spec: Path = REPOSITORY / "kernelspecs", name: str = "sandbox-python"):
    """Start a kernel, yield it, shut it down."""
    specs = KernelSpecManager(kernel_dirs=[str(spec)], ensure_native_kernel=False)
    manager = AsyncKernelManager(kernel_name=name, kernel_spec_manager=specs)
    await manager.start_kernel(cwd=str(directory))
    kernel = Kernel(manager)
    try:
        yield kernel
    finally:
        kernel.channels.stop_channels()
        await manager.shutdown_kernel(now=True)
        manager.context.destroy(linger=0)
