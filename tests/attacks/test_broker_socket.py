"""Other users of the machine at the broker's door: what they may not see, take, stop or plant."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from jupyter_sandbox.broker import verbs
from jupyter_sandbox.broker.server import Connection, Server
from jupyter_sandbox.host import places
from jupyter_sandbox.host.channel import Channel
from tests.attacks.attacker import (
    REPOSITORY,
    STRANGER,
    USER,
    Refusal,
    make_host,
    resident_mib,
    running_host,
    wait_until,
)

VICTIM = 30_000 + os.getpid() % 10_000  # its directory has a fixed name: two suites that run at once share nothing


@pytest.fixture(scope="module")
def shared():
    """Root's broker that serves every local user (`socket_mode = 0o666`)."""
    with running_host(0, config="c.BrokerApp.socket_mode = 0o666\nc.BrokerApp.idle_exit_s = 0") as host:
        host.run("result = call(verbs.Status(), verbs.StatusReport).pid")
        yield host


def visitor(shared, uid):
    return make_host(uid, variables={places.SOCKET_VARIABLE: str(shared.socket_path())})


@pytest.fixture(scope="module")
def user(shared):
    host = visitor(shared, USER)
    yield host
    leave(host)


@pytest.fixture(scope="module")
def stranger(shared):
    host = visitor(shared, STRANGER)
    yield host
    leave(host)


def leave(host):
    if host.process:
        host.process.stdin.close()
        host.process.wait(20)
        host.process.stdout.close()
    shutil.rmtree(host.directory, ignore_errors=True)


@pytest.fixture(scope="module")
def held(user):
    """The user's sandbox with a kernel in it."""
    box = user.sandbox("tiny")
    yield box
    box.release()


def raw(host):
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(10)
    connection.connect(str(host.socket_path()))
    return connection


def status(host):
    return host.run("result = call(verbs.Status(), verbs.StatusReport, start=False).pid")


# -- another user's sandbox

REACHES = {
    "attach": "call(verbs.Attach(sandbox=id), verbs.Attached)",
    "signal": "call(verbs.SignalKernel(sandbox=id, target=seat, number=9), verbs.Done)",
    "release": "call(verbs.Release(sandbox=id), verbs.Done)",
    "open-disk": "call(verbs.OpenDisk(sandbox=id), verbs.Done)",
    "start-kernel": "call(verbs.StartKernel(sandbox=id, seat='0123456789ab', argv=None, env={}, cwd=None, key='k'), "
    "verbs.KernelStarted)",
    "run-command": "call(verbs.RunCommand(sandbox=id, argv=('id',), env={}, cwd=None), "
    "verbs.CommandStarted, [0, 1, 2])",
}


@pytest.mark.parametrize("verb", REACHES)
def test_a_stranger_cannot_use_a_foreign_sandbox(stranger, held, verb):
    with pytest.raises(Refusal) as refused:
        stranger.run(f"result = str({REACHES[verb]})", id=held.id, seat=held.do("box.seat"))
    assert refused.value.code == "unknown_sandbox", "and not a word on whether it exists"
    assert held.ask("1 + 1") == 2


def test_an_owner_without_root_uses_the_files_of_a_root_brokers_sandbox_and_a_stranger_does_not(user, stranger, held):
    held.file("write", "dir/file", "from the owner", parents=True)
    assert held.ask("read('/sandbox/dir/file')") == "from the owner"
    assert held.ask("os.stat('/sandbox/dir/file').st_uid == os.getuid()")
    held.execute("write('/sandbox/private', 'x'); os.chmod('/sandbox/private', 0o600); os.chmod('/sandbox/dir', 0o700)")
    assert held.file("reading", "private") == "x"
    with pytest.raises(Refusal) as refused:
        stranger.run("result = asyncio.run(FILES.stat(id, 'private'))", id=held.id)
    assert refused.value.code == "unknown_sandbox"
    held.file("delete", "dir", recursive=True)


def test_a_stranger_sees_only_what_is_its_own(stranger, user, held):
    assert stranger.run("result = len(call(verbs.List(after=''), verbs.Listing).sandboxes)") == 0
    assert held.id in user.run("result = [row.sandbox for row in call(verbs.List(after=''), verbs.Listing).sandboxes]")
    assert held.id not in stranger.run("result = repr(call(verbs.Status(), verbs.StatusReport))")


def test_a_stranger_cannot_reap_or_send_the_broker_away(stranger, shared):
    for dry_run in (True, False):
        with pytest.raises(Refusal) as refused:
            stranger.run("call(verbs.Reap(dry_run=dry), verbs.Reaped)", dry=dry_run)
        assert refused.value.code == "invalid_request"
    with pytest.raises(Refusal) as refused:
        stranger.run("call(verbs.Retire(), verbs.Done)")
    assert refused.value.code == "invalid_request"
    assert status(shared)


def test_a_strangers_own_sandbox_ends_with_the_stranger_only(stranger, held):
    box = stranger.sandbox("tiny")
    assert box.ask("1 + 1") == 2
    box.release()
    assert held.ask("1 + 1") == 2


def test_kernel_sockets_cannot_be_connected_by_another_user(stranger, held):
    prefix = held.do("box.prefix")
    code = "import errno, socket\nresult = []\nfor port in range(1, 6):\n    s = socket.socket(socket.AF_UNIX)\n"
    code += "    try: s.connect(f'{prefix}-{port}'); result.append('connected')\n"
    code += "    except OSError as error: result.append(errno.errorcode[error.errno])\n    s.close()"
    assert stranger.run(code, prefix=prefix) == ["EACCES"] * 5


def test_nothing_in_the_run_directory_is_open_to_a_stranger(stranger, shared, held):
    run = str(shared.socket_path().parent)
    names = ("", "/k", "/a", "/ledger", "/stage", "/broker.log", "/broker.err", "/lock", "/k/planted", "/planted")
    look = "import errno\nresult = {}\nfor name in names:\n    mode = 'w' if 'planted' in name else 'r'\n"
    look += (
        "    try: result[name] = str(os.path.isdir(run + name) and os.listdir(run + name) or open(run + name, mode))\n"
    )
    look += "    except OSError as error: result[name] = errno.errorcode[error.errno]"
    assert set(stranger.run(look, run=run, names=names).values()) == {"EACCES"}


def test_a_seat_cannot_be_squatted_while_its_kernel_is_away(user, stranger):
    """Socket paths are public (/proc/net/unix): between two kernels of a notebook nobody may take its address."""
    box = user.sandbox("tiny")
    box.do("box.signal(9)")
    assert box.end()["reason"] == "requested"
    box.start()  # the first one was bound elsewhere, before it had this seat
    seat, prefix = box.do("box.seat"), box.do("box.prefix")
    assert any(prefix in line for line in Path("/proc/net/unix").read_text().splitlines()), "public indeed"
    thief = stranger.sandbox("tiny", start=False)
    steal = "call(verbs.StartKernel(sandbox=box.id, seat=seat, argv=None, env={}, cwd=None, key='thief'), "
    steal += "verbs.KernelStarted).prefix"
    with pytest.raises(Refusal) as refused:
        thief.do(steal, seat=seat)
    assert refused.value.code in ("start_failed", "invalid_request")
    box.do("box.signal(9)")
    assert box.end()["reason"] == "requested"
    try:
        with pytest.raises(Refusal):
            thief.do(steal, seat=seat)
    finally:
        thief.release()
    box.start()
    assert box.ask("1 + 1") == 2
    box.release()


# -- nonsense and floods


@pytest.mark.parametrize(
    "data",
    [
        b"\xff\xfe",
        b"{}",
        b"[" * 60000,
        b'{"type": "claim"}',
        b'{"type": "claim", "template": 1, "workspace_mode": "none", "workspace_name": ""}',
        b'{"type": "release", "sandbox": "../../etc/passwd"}',
        b'{"type": "status", "x": 1}',
        b'{"type": "bound"}',
        json.dumps({"type": "status"} | {("x" * 12000) + str(n): 1 for n in range(5)}).encode(),
        b"x" * 70000,
        json.dumps({"type": "release", "sandbox": "sbx_\n\x1b[2J"}).encode(),
        json.dumps(
            {"type": "claim", "template": "\ud800", "workspace_mode": "none", "workspace_name": "\ud800"}
        ).encode(),
        json.dumps({"type": "claim", "template": "python", "workspace_mode": "\ud800", "workspace_name": ""}).encode(),
    ],
    ids=range(13),
)
def test_nonsense_is_answered_once_and_hurts_nobody(shared, data):
    log = shared.socket_path().parent / "broker.log"
    before = log.stat().st_size
    with raw(shared) as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        connection.send(data)
        answer = connection.recv(1 << 17)
    assert b'"refused"' in answer, "the person is told what was wrong"
    assert b"internal_error" not in answer
    assert status(shared)
    assert log.stat().st_size - before < 3000
    assert not set(log.read_bytes()[before:]) & {0x1B, 0x0D}


def test_descriptors_that_nobody_asked_for_are_closed(shared):
    broker = status(shared)

    def sent() -> int:  # its pool opens and closes others meanwhile
        found = 0
        for descriptor in os.listdir(f"/proc/{broker}/fd"):
            with contextlib.suppress(FileNotFoundError):
                found += os.readlink(f"/proc/{broker}/fd/{descriptor}") == os.devnull
        return found

    before = sent()
    null = os.open(os.devnull, os.O_RDONLY)
    for size in (24, 60, 200):
        with raw(shared) as connection:
            for _ in range(20):
                try:
                    socket.send_fds(connection, [b'{"type": "status"}'], [null] * size)
                    connection.recv(1 << 17)
                except OSError:
                    break
    os.close(null)
    wait_until(lambda: sent() == before)
    assert status(shared) == broker


def test_unknown_targets_do_not_fill_the_brokers_memory(shared, user, held):
    broker = status(shared)
    before = resident_mib(broker)
    code = """
async def flood():
    channel = await client.connect()
    for n in range(1500):
        await client.ask(channel, verbs.SignalKernel(sandbox=id, target=f"{n:07}" * 8500, number=9), verbs.Done)
    channel.close()
try: asyncio.run(flood())
except Exception as error: result = str(error)[:200]"""
    user.run(code, id=held.id)
    assert resident_mib(broker) - before < 30


class _Held:
    holder = None


def test_a_client_that_never_reads_its_events_loses_its_sandbox():
    """Its queue is bounded; when that is full the connection ends, and with it the lease: as if the client had died."""
    released = []

    async def release(sandbox):
        released.append(sandbox)

    async def attack():
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        registry = SimpleNamespace(leave=release, claimed=lambda owner=None: [])
        sandbox = _Held()
        server = Server(ours, registry, engine=None, catalog=None)
        connection = Connection(Channel(ours.dup(), verbs.REQUESTS))
        server._connections.add(connection)
        connection.held.add(sandbox)
        attending = asyncio.ensure_future(server._attend(connection))
        event = verbs.SandboxGone(sandbox="x", message="y" * 500)
        for _ in range(3000):
            connection.tell(event)
            await asyncio.sleep(0)
        noticed, _ = await asyncio.wait([attending], timeout=2)
        attending.cancel()
        await asyncio.wait([attending])
        ours.close()
        theirs.close()
        assert noticed, "the connection was closed and nobody noticed: its sandboxes live on without a lease"
        assert released == [sandbox]
        assert server._connections == set()

    asyncio.run(attack())


GREEDY = """
import select, socket, sys
connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
connection.connect(sys.argv[1])
connection.setblocking(False)
print("go", flush=True)
while not select.select([sys.stdin], [], [], 0)[0]:
    try:
        for _ in range(50): connection.send(b'{"type": "status"}')
    except BlockingIOError: pass
    except OSError: break
    try:
        while connection.recv(65536): pass
    except BlockingIOError: pass
    except OSError: break
"""


def test_one_greedy_client_does_not_starve_the_others(shared):
    """As many requests as it can, reading every answer: each verb that does not wait must still give way to others."""
    become = ("setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups")
    program = (sys.executable, "-c", GREEDY, str(shared.socket_path()))
    waits = []
    with subprocess.Popen([*become, *program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as greedy:
        greedy.stdout.readline()
        end = time.monotonic() + 4
        while len(waits) < 20 or time.monotonic() < end:
            started = time.monotonic()
            status(shared)
            waits.append(time.monotonic() - started)
        assert greedy.poll() is None, "it was hung up on"
    assert statistics.median(waits) < 1, waits
    assert max(waits) < 20, waits


def test_a_flood_of_connections_does_not_end_the_broker():
    """1024 open files is the usual limit: with all of them taken, the broker must refuse, not fall."""
    with running_host(USER, prefix=("prlimit", "--nofile=200:200", "--")) as host:
        box = host.sandbox("tiny")
        broker = status(host)
        connections = []
        deadline = time.monotonic() + 5
        while len(connections) < 400 and time.monotonic() < deadline:
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            connection.setblocking(False)
            connections.append(connection)
            try:
                connection.connect(str(host.socket_path()))
            except BlockingIOError:  # its queue is full: a moment later there may be room
                connections.pop().close()
                time.sleep(0.05)
            except OSError:
                break
        assert len(connections) > 150, "not a flood"
        assert Path(f"/proc/{broker}").exists()
        for connection in connections:
            connection.close()
        time.sleep(0.5)
        assert status(host) == broker
        assert box.ask("1 + 1") == 2


# -- planted


def as_user(uid, code, **variables):
    environment = {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONPATH": str(REPOSITORY), "LANG": "C.UTF-8"}
    return subprocess.Popen(
        ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", sys.executable, "-c", code],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment | variables,
        cwd="/",
    )


@pytest.fixture
def planted_top():
    """The directory that a user without XDG_RUNTIME_DIR uses, made first by somebody else."""
    top = Path(f"/tmp/jupyter-sandbox-{VICTIM}")
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir()
    os.chown(top, STRANGER, STRANGER)
    top.chmod(0o777)
    yield top
    shutil.rmtree(top, ignore_errors=True)


def test_a_broker_that_somebody_else_planted_is_not_trusted(planted_top):
    """It would be handed the notebook's directory, the keys and the code."""
    plant = (
        "import os, socket\nfrom jupyter_sandbox.host import places\nfrom pathlib import Path\n"
        f"os.getuid = lambda: {VICTIM}\nwhere = places.find()\nwhere.run.mkdir(parents=True)\n"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\ns.bind(str(where.socket))\n"
        "where.socket.chmod(0o777)\ns.listen()\n"
        "print('ready', flush=True)\ninput()\n"
    )
    attacker = as_user(STRANGER, plant)
    try:
        assert attacker.stdout.readline().strip() == "ready", attacker.stdout.read()
        trust = (
            "import asyncio\nfrom jupyter_sandbox.broker import client\n"
            "async def main():\n    channel = await client.connect(start=False)\n"
            "    print('trusted', channel.peer_uid())\n"
            "asyncio.run(main())"
        )
        victim = as_user(VICTIM, trust)
        said = victim.communicate(timeout=30)[0]
        assert "trusted" not in said, said
        assert "BrokerUnavailableError" in said
    finally:
        attacker.communicate("\n", timeout=20)


def test_a_run_directory_below_somebody_elses_is_refused(planted_top):
    """Its owner could rename what we make in it, and put a socket of its own there."""
    victim = as_user(
        VICTIM,
        "from jupyter_sandbox.host import places\nplaces.make(places.find())\nprint('made')",
        HOME=str(planted_top),
    )
    said = victim.communicate(timeout=30)[0]
    assert "made" not in said, said
    assert "BrokerUnavailableError" in said


@pytest.mark.parametrize("part", ["", "jsb"])
def test_a_symlink_in_place_of_the_run_directory_is_refused(planted_top, part):
    elsewhere = planted_top.with_name(planted_top.name + "-elsewhere")
    shutil.rmtree(elsewhere, ignore_errors=True)
    elsewhere.mkdir()
    elsewhere.chmod(0o777)
    os.chown(elsewhere, VICTIM, VICTIM)
    link = planted_top / part if part else planted_top
    if not part:
        planted_top.rmdir()
    link.symlink_to(elsewhere)
    try:
        victim = as_user(
            VICTIM,
            "from jupyter_sandbox.host import places\nplaces.make(places.find())\nprint('made')",
            HOME=str(elsewhere),
        )
        said = victim.communicate(timeout=30)[0]
        assert "made" not in said, said
    finally:
        link.unlink()
        planted_top.mkdir(exist_ok=True)
        shutil.rmtree(elsewhere, ignore_errors=True)


# -- two brokers


def test_brokers_of_different_users_do_not_touch_each_other(shared):
    """They share Python and the control group tree; each has its own run directory."""
    box = shared.sandbox("tiny")
    with running_host(USER) as other:
        mine = other.sandbox("tiny")
        assert mine.ask("1 + 1") == 2
        assert box.ask("1 + 1") == 2
    with running_host(0) as other:
        mine = other.sandbox("tiny")
        assert mine.ask("1 + 1") == 2
    assert box.ask("1 + 1") == 2
    box.release()


def test_the_environment_shows_no_directory_that_holds_secrets(monkeypatch):
    """A Python installed with the prefix ~/.local: its tree holds the runtime directory with keys and tokens."""
    from jupyter_core.paths import jupyter_runtime_dir

    from jupyter_sandbox.engines import zygotes

    monkeypatch.setenv("HOME", "/home/somebody")
    monkeypatch.delenv("JUPYTER_CONFIG_DIR", raising=False)
    monkeypatch.setattr(sys, "base_prefix", "/home/somebody/.local")
    shown = [Path(path) for path in zygotes.environment_paths()]
    secrets = [Path("/home/somebody"), Path("/home/somebody/.ssh"), Path(jupyter_runtime_dir())]
    assert [path for path in shown for secret in secrets if secret.is_relative_to(path)] == []
