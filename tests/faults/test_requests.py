"""Requests that cannot be served: each gets its error, and nobody else is disturbed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from tornado.web import HTTPError

from jupyter_sandbox.broker import client, verbs
from jupyter_sandbox.errors import (
    BrokerUnavailableError,
    CapacityError,
    ConflictError,
    InvalidRequestError,
    SandboxError,
    StartError,
    UnknownSandboxError,
    UnknownTemplateError,
    WorkspaceError,
)
from jupyter_sandbox.host import places
from sandbox_worker import messages
from tests.conftest import eventually, run_as, wait_until

from .conftest import claim, listed, running_kernel, status, until

pytestmark = [pytest.mark.e2e, pytest.mark.needs_root, pytest.mark.timeout(180)]

ABSENT = "sbx_" + "0" * 20
SEAT = "0123456789ab"


@pytest.fixture(scope="module")
def tree(module_tree):
    module_tree.configure(socket_mode=0o666)
    module_tree.template("full", "min_idle = 0\nmax_total = 2\n[limits]\ndisk_mib = 16\ndisk_inodes = 1024")
    module_tree.template("kept", "min_idle = 1\nmax_total = 2\n[limits]\ndisk_mib = 16\ndisk_inodes = 1024")
    module_tree.start()
    return module_tree


def connected() -> socket.socket:
    """Return a raw connection to the broker."""
    raw = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    raw.settimeout(20)
    try:
        raw.connect(str(places.find().socket))
    except OSError:
        raw.close()
        raise
    return raw


def answer_to(data: bytes, descriptors: list[int] | None = None) -> verbs.Refused:
    """Send one raw datagram; return the refusal, having seen that the broker hung up."""
    with connected() as raw:
        socket.send_fds(raw, [data], descriptors or [])
        received = messages.receive(raw, verbs.ANSWERS)
        assert received is not None
        assert isinstance(received[0], verbs.Refused)
        assert raw.recv(1) == b""
        return received[0]


async def test_an_unknown_template_is_refused_with_the_known_ones(tree):
    with pytest.raises(UnknownTemplateError, match="no template 'ruby'; there are: full, kept, python"):
        await claim("ruby")
    assert await listed() == []


@pytest.mark.parametrize("template", ["", "../python", "PYTHON", "python\n", "p" * 1000])
async def test_a_template_that_is_no_name_is_refused(tree, template):
    with pytest.raises(InvalidRequestError, match="not a template name"):
        await claim(template)


@pytest.mark.parametrize(
    ("mode", "error"),
    [
        ("everything", InvalidRequestError),
        ("", InvalidRequestError),
        ("rw", WorkspaceError),
        ("overlay", WorkspaceError),
    ],
)
async def test_a_workspace_without_its_directory_is_refused_and_takes_no_worker(tree, mode, error):
    await until(lambda: _warm_is(1))
    with pytest.raises(error):
        await client.Lease.claim("python", mode, "x", None)
    assert (await status()).warm == 1


async def _warm_is(number: int) -> bool:
    return (await status()).warm == number


@pytest.mark.parametrize("name", ["caf\udce9", "\ud800"])
async def test_a_directory_whose_name_is_no_utf8_is_shown(tree, name, tmp_path):
    # once: UnicodeEncodeError in workspace.target; in a directory with a Latin-1 name no kernel starts
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        lease = await client.Lease.claim("python", "ro", name, descriptor)
    finally:
        os.close(descriptor)
    lease.close()
    assert lease.cwd.startswith("/workspace/")


def _requests(sandbox: str) -> list[tuple[object, list[int]]]:
    """Every request that names a sandbox."""
    return [
        (verbs.Attach(sandbox=sandbox), []),
        (verbs.StartKernel(sandbox=sandbox, seat=SEAT, argv=None, env={}, cwd=None, key="k"), []),
        (verbs.SignalKernel(sandbox=sandbox, target=SEAT, number=9), []),
        (verbs.VacateSeat(sandbox=sandbox, seat=SEAT), []),
        (verbs.RunCommand(sandbox=sandbox, argv=("true",), env={}, cwd=None), [0, 1, 2]),
        (verbs.OpenDisk(sandbox=sandbox), []),
        (verbs.Release(sandbox=sandbox), []),
    ]


NAMES = [type(request).__name__ for request, _ in _requests(ABSENT)]


@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
@pytest.mark.parametrize("hostile", ["", "sbx_", ABSENT + "\n", "../../etc/passwd", "x" * 5000, "\ud800"])
async def test_an_id_that_is_none_is_refused_by_every_verb(tree, index, hostile):
    request, descriptors = _requests(hostile)[index]
    with pytest.raises(InvalidRequestError, match="not a sandbox id"):
        await client.call(request, verbs.Done, descriptors)


@pytest.mark.parametrize("index", range(len(NAMES)), ids=NAMES)
async def test_an_id_that_nobody_has_is_unknown_to_every_verb(tree, index):
    request, descriptors = _requests(ABSENT)[index]
    with pytest.raises(UnknownSandboxError):
        await client.call(request, verbs.Done, descriptors)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"seat": "../../tmp/x"}, InvalidRequestError),
        ({"seat": ""}, InvalidRequestError),
        ({"argv": ()}, InvalidRequestError),
        ({"argv": ("a\0b",)}, InvalidRequestError),
        ({"env": {"A=B": "x"}}, InvalidRequestError),
        ({"cwd": "/etc"}, InvalidRequestError),
        ({"cwd": "/sandbox/no/such/directory"}, ConflictError),  # known inside only
        ({"argv": ("python", "-c", "1"), "cwd": "/sandbox/no/such/directory"}, ConflictError),
    ],
)
async def test_a_kernel_with_a_wrong_argument_is_refused_and_leaves_no_socket(tree, changes, error):
    lease = await claim()
    try:
        values = {"sandbox": lease.sandbox, "seat": SEAT, "argv": None, "env": {}, "cwd": None, "key": "k"} | changes
        with pytest.raises(error):
            await client.call(verbs.StartKernel(**values), verbs.KernelStarted)
        assert tree.kernel_sockets() == []
    finally:
        lease.close()


async def test_a_seat_is_taken_once(tree):
    lease = await claim()
    try:
        request = verbs.StartKernel(sandbox=lease.sandbox, seat=SEAT, argv=None, env={}, cwd=None, key="k")
        await client.call(request, verbs.KernelStarted)
        with pytest.raises(StartError, match="its seat is taken"):
            await client.call(request, verbs.KernelStarted)
        assert len(tree.kernel_sockets()) == 5
    finally:
        lease.close()
    await eventually(lambda: not tree.kernel_sockets())


async def test_a_seat_is_vacated_by_a_kernel_that_has_ended_and_by_no_other(tree):
    first, second = await claim(), await claim()
    try:
        request = verbs.StartKernel(sandbox=first.sandbox, seat=SEAT, argv=None, env={}, cwd=None, key="k")
        vacate = verbs.VacateSeat(sandbox=first.sandbox, seat=SEAT)
        await client.call(request, verbs.KernelStarted)
        with pytest.raises(StartError, match="has not ended"):
            await client.call(vacate, verbs.Done)
        await client.call(verbs.SignalKernel(sandbox=first.sandbox, target=SEAT, number=9), verbs.Done)
        await eventually(lambda: first.listen() or SEAT in first.exits)
        elsewhere = replace(request, sandbox=second.sandbox)
        with pytest.raises(StartError, match="its seat is taken"):
            await client.call(elsewhere, verbs.KernelStarted)
        for _ in range(2):
            await client.call(vacate, verbs.Done)
        await client.call(elsewhere, verbs.KernelStarted)
    finally:
        first.close()
        second.close()


async def test_who_gives_back_the_seat_of_a_kernel_that_lives_ends_it(tree):
    """Its start was asked for, and nobody took the answer."""
    lease = await claim()
    try:
        request = verbs.StartKernel(sandbox=lease.sandbox, seat=SEAT, argv=None, env={}, cwd=None, key="k")
        await client.call(request, verbs.KernelStarted)
        await lease.vacate(SEAT)
        assert lease.exits[SEAT].reason == "requested"
        assert not tree.kernel_sockets()
        await client.call(request, verbs.KernelStarted)
    finally:
        lease.close()


async def test_release_twice_is_unknown_the_second_time(tree):
    lease = await claim()
    await client.call(verbs.Release(sandbox=lease.sandbox), verbs.Done)
    with pytest.raises(UnknownSandboxError):
        await client.call(verbs.Release(sandbox=lease.sandbox), verbs.Done)
    lease.close()


STRANGER = f"""
import asyncio, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from jupyter_sandbox.broker import client, verbs
from jupyter_sandbox.errors import SandboxError
from tests.faults.test_requests import _requests
async def main():
    listing = await client.call(verbs.List(after=""), verbs.Listing, start=False)
    print("list", len(listing.sandboxes))
    for request, descriptors in _requests(sys.argv[1]):
        try:
            await client.call(request, verbs.Done, descriptors, start=False)
            print(type(request).__name__, "done")
        except SandboxError as error:
            print(type(request).__name__, error.code)
    try:
        await client.call(verbs.Reap(dry_run=False), verbs.Reaped, start=False)
        print("Reap done")
    except SandboxError as error:
        print("Reap", error.code)
asyncio.run(main())
"""


async def test_another_owner_s_sandbox_is_unknown_to_every_verb(tree):
    process, sandbox = tree.client(uid=12345)
    done = await asyncio.to_thread(
        run_as, 12346, sys.executable, "-P", "-c", STRANGER, sandbox, env=tree.client_environment
    )
    assert done.returncode == 0, done.stderr[-500:]
    expected = ["list 0", *(f"{name} unknown_sandbox" for name in NAMES), "Reap invalid_request"]
    assert done.stdout.splitlines() == expected
    assert await listed() == [sandbox], "the broker's own user sees it, and it lives"
    process.kill()
    await until(lambda: _nothing_is_claimed())


async def _quiet() -> bool:
    """Whether nothing is claimed and the pool is full; `kept` is asked for by one later test only."""
    now = await status()
    return now.claimed == 0 and now.warm == 1


async def _nothing_is_claimed() -> bool:
    return await listed() == []


async def test_a_killed_client_s_sandbox_is_destroyed(tree):
    process, sandbox = tree.client(uid=12345)
    record = tree.records()[sandbox]
    process.kill()
    await until(_nothing_is_claimed)
    await eventually(lambda: sandbox not in tree.records())
    await eventually(lambda: not Path(f"/proc/{record['pid']}").exists())
    assert not [what for what in tree.left() if sandbox in what or sandbox.removeprefix("sbx_") in what]


async def test_a_client_that_leaves_while_it_claims_leaves_no_sandbox(tree):
    for _ in range(5):
        with connected() as raw:
            messages.send(raw, verbs.Claim(template="python", workspace_mode="none", workspace_name=""))
    await until(lambda: _warm_is(1))
    await until(_nothing_is_claimed)
    await eventually(lambda: len(tree.records()) == 1)


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\xff" * 1000,
        b"{}",
        b'{"type": "claimed", "sandbox": "x", "cwd": "y"}',
        b'{"type": "status", "more": 1}',
        b'{"type": "list", "after": 1}',
        b"[" * 60_000,
        b'{"type": "status"' + b" " * 70_000 + b"}",
        b" " * 150_000,
    ],
    ids=range(9),
)
async def test_nonsense_is_answered_once_and_disturbs_nobody(tree, data):
    lease = await claim()
    refusal = await asyncio.to_thread(answer_to, data)
    assert refusal.code == "protocol_error"
    assert await listed() == [lease.sandbox]
    lease.close()


def _descriptors_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


async def test_too_many_descriptors_are_refused_and_closed(tree):
    pid = (await status()).pid
    await until(_quiet)
    before = _descriptors_of(pid)
    for count in (25, 200, 253):
        refusal = await asyncio.to_thread(answer_to, b'{"type": "status"}', [0] * count)
        assert refusal.code == "protocol_error"
    await eventually(lambda: _descriptors_of(pid) <= before)


async def test_descriptors_that_nobody_asked_for_are_closed(tree):
    pid = (await status()).pid
    await until(_quiet)
    before = _descriptors_of(pid)
    for _ in range(3):
        await client.call(verbs.Status(), verbs.StatusReport, [0] * 20)
    await eventually(lambda: _descriptors_of(pid) <= before)


async def test_a_full_template_is_told_and_has_room_again_after_a_release(tree):
    leases = [await claim("full"), await claim("full")]
    with pytest.raises(CapacityError, match="all 2 sandboxes of template full are in use") as caught:
        await claim("full")
    assert (caught.value.code, caught.value.status, caught.value.retry_after_s) == ("no_capacity", 503, 5)
    leases.pop().close()

    async def there_is_room() -> bool:
        with contextlib.suppress(CapacityError):
            leases.append(await claim("full"))
            return True
        return False

    await until(there_is_room)
    for lease in leases:
        lease.close()
    await until(_nothing_is_claimed)


async def test_the_pool_is_filled_again_after_a_claim_and_after_a_release(tree):
    await until(lambda: _warm_is(1))  # of `python`
    first = await claim("kept")
    await until(lambda: _warm_is(2))
    second = await claim("kept")
    await until(lambda: _warm_is(1))  # `kept` has reached its total
    first.close()
    # once: Registry._destroy wakes the pool before it forgets the sandbox, so the pool counts it and sleeps on
    await until(lambda: _warm_is(2))
    second.close()
    await until(_nothing_is_claimed)


def _children(pid: int) -> set[str]:
    return set(Path(f"/proc/{pid}/task/{pid}/children").read_text().split())


async def test_a_client_that_reads_nothing_and_dies_frees_its_sandbox(tree):
    # once: the answer and an event wait for the same socket to become writable; add_writer() keeps the second:
    # the connection's task never ends, and its sandbox lives for ever
    with connected() as raw:
        messages.send(raw, verbs.Claim(template="python", workspace_mode="none", workspace_name=""))
        claimed = messages.receive(raw, verbs.ANSWERS)[0]
        sandbox = claimed.sandbox
        pid = tree.records()[sandbox]["pid"]
        standby = _children(pid)
        with open(os.devnull, "r+") as null:
            messages.send(
                raw, verbs.RunCommand(sandbox=sandbox, argv=("sleep", "60"), env={}, cwd=None), [null.fileno()] * 3
            )
        command = messages.receive(raw, verbs.ANSWERS)[0].command
        raw.settimeout(1)
        with contextlib.suppress(TimeoutError):
            while True:
                messages.send(raw, verbs.Status())
        await client.call(verbs.SignalKernel(sandbox=sandbox, target=command, number=signal.SIGKILL), verbs.Done)
        await eventually(lambda: _children(pid) <= standby)
        await status()  # the event was queued before this was answered
    await until(_nothing_is_claimed)


async def test_a_burst_of_clients_is_served(tree):
    # once: connections beyond the backlog of 128 fail at once with "the broker went away" instead of waiting
    pid = (await status()).pid
    os.kill(pid, signal.SIGSTOP)
    try:
        calls = [asyncio.create_task(status()) for _ in range(300)]
        for _ in range(10):
            await asyncio.sleep(0)
    finally:
        os.kill(pid, signal.SIGCONT)
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(answer) for answer in answers} == {verbs.StatusReport}


def _spec(directory: Path, argv: list[str]) -> Path:
    """Write a kernelspec called `odd`; return the directory that holds it."""
    (directory / "specs/odd").mkdir(parents=True)
    stanza = {"provisioner_name": "sandbox-provisioner", "config": {"workspace": "none"}}
    spec = {"argv": argv, "display_name": "x", "language": "x", "metadata": {"kernel_provisioner": stanza}}
    (directory / "specs/odd/kernel.json").write_text(json.dumps(spec))
    return directory / "specs"


async def test_a_kernel_that_ends_at_once_says_why(tree, tmp_path):
    specs = _spec(tmp_path, ["python", "-c", "import sys; sys.exit('the end')"])
    async with running_kernel(tmp_path, specs, "odd") as kernel:
        with pytest.raises(RuntimeError, match="Kernel died"):
            await kernel.ready()
        words = kernel.provisioner.last_words()
        assert "exit status 1" in words
        assert "the end" in words
    await until(_nothing_is_claimed)
    assert tree.kernel_sockets() == []


async def test_a_kernel_whose_program_is_absent_does_not_start(tree, tmp_path):
    specs = _spec(tmp_path, ["no-such-program", "-f", "{connection_file}"])
    with pytest.raises(HTTPError, match="no program 'no-such-program'") as refused:
        async with running_kernel(tmp_path, specs, "odd"):
            pass
    assert isinstance(refused.value, FileNotFoundError), "as with stock Jupyter"
    await until(_nothing_is_claimed)
    assert tree.kernel_sockets() == []


async def test_more_connections_than_descriptors_do_not_end_the_broker(another_tree):
    # once: accept() raises EMFILE, which ends Server.serve, the broker and everybody's sandboxes. MAX_CONNECTIONS
    # is 4096, a process may usually open 1024 files, and with socket_mode 0o666 every local user can do this.
    pid = another_tree.start("prlimit", "--nofile=160:160")
    lease = await claim()
    crowd = []
    with contextlib.suppress(OSError):
        for _ in range(200):
            crowd.append(connected())
    for raw in crowd:
        raw.close()

    async def is_answered() -> bool:
        assert another_tree.brokers[0].poll() is None, another_tree.output()[-500:]
        with contextlib.suppress(SandboxError):
            return (await status()).pid == pid
        return False

    await until(is_answered)
    assert await listed() == [lease.sandbox]
    lease.close()


async def test_without_a_broker_a_client_that_may_start_none_is_told(another_tree):
    with pytest.raises(BrokerUnavailableError, match="no broker runs"):
        await client.call(verbs.Status(), verbs.StatusReport, start=False)


async def test_a_socket_that_nobody_listens_at_is_no_broker(another_tree):
    path = places.find().socket
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
        dead.bind(str(path))
    with pytest.raises(BrokerUnavailableError, match="no broker runs"):
        await client.call(verbs.Status(), verbs.StatusReport, start=False)


async def test_a_named_broker_is_never_started(another_tree, monkeypatch, tmp_path):
    monkeypatch.setenv(places.SOCKET_VARIABLE, str(tmp_path / "socket"))
    with pytest.raises(BrokerUnavailableError, match="nobody listens at"):
        await claim()


@pytest.mark.parametrize("kind", ["stream", "file", "too long"])
async def test_what_is_no_broker_s_socket_is_told(another_tree, monkeypatch, tmp_path, kind):
    # once: OSError (EPROTOTYPE, "AF_UNIX path too long") leaves the client instead of a SandboxError
    path = tmp_path / ("x" * 200 if kind == "too long" else "socket")
    monkeypatch.setenv(places.SOCKET_VARIABLE, str(path))
    with contextlib.ExitStack() as stack:
        if kind == "stream":
            other = stack.enter_context(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM))
            other.bind(str(path))
            other.listen()
        elif kind == "file":
            path.touch()
        with pytest.raises(BrokerUnavailableError):
            await client.call(verbs.Status(), verbs.StatusReport, start=False)


async def test_a_user_that_may_not_use_the_socket_is_told(another_tree):
    another_tree.start()
    script = "import asyncio; from jupyter_sandbox.broker import client; asyncio.run(client.connect())"
    done = await asyncio.to_thread(
        run_as, 12345, sys.executable, "-P", "-c", script, env=another_tree.client_environment
    )
    assert "BrokerUnavailableError: this user may not use the broker's socket" in done.stderr


def _liar(path: Path, reply: bytes, descriptors: int) -> None:
    """Play a broker that answers one request with `reply`."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
        listener.bind(str(path))
        listener.listen()
        listener.settimeout(20)
        connection, _ = listener.accept()
        with connection:
            connection.recv(65536)
            if reply:
                socket.send_fds(connection, [reply], [0] * descriptors)


@pytest.mark.parametrize(
    ("reply", "descriptors", "code"),
    [
        (b"", 0, "broker_unavailable"),
        (b"garbage", 0, "protocol_error"),
        (b'{"type": "status"}', 0, "protocol_error"),
        (b'{"type": "done"}', 3, "protocol_error"),
        (b" " * 100_000, 3, "protocol_error"),
        (b'{"type": "refused", "code": "made_up", "message": "m"}', 3, "internal_error"),
        (b'{"type": "refused", "code": "no_capacity", "message": "m", "retry_after_s": 9}', 0, "no_capacity"),
    ],
    ids=range(7),
)
async def test_a_broker_that_talks_nonsense_is_an_error_of_ours(tree, monkeypatch, tmp_path, reply, descriptors, code):
    path = tmp_path / "s"
    monkeypatch.setenv(places.SOCKET_VARIABLE, str(path))
    liar = asyncio.create_task(asyncio.to_thread(_liar, path, reply, descriptors))
    await eventually(path.exists)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(SandboxError) as caught:
        await until(_has_asked)
    assert caught.value.code == code
    await liar
    assert len(os.listdir("/proc/self/fd")) <= before


async def _has_asked() -> bool:
    try:
        await client.call(verbs.Status(), verbs.StatusReport, start=False)
    except BrokerUnavailableError as error:
        if error.is_absent:  # not listening yet
            return False
        raise
    return True


def test_nothing_is_left_when_this_module_has_ended(tree):
    for process in tree.clients:
        process.kill()
    os.kill(tree.brokers[0].pid, signal.SIGINT)
    wait_until(lambda: tree.brokers[0].poll() is not None)
    tree.assert_nothing_left()
