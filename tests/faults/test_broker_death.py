"""The broker ends, in every way there is: kernels live on for the next one, or nothing of them is left."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jupyter_sandbox.broker import client, verbs
from jupyter_sandbox.errors import IsolationUnavailableError, SandboxError
from jupyter_sandbox.guards import ids
from jupyter_sandbox.host import places
from tests.conftest import broker_pid, eventually, wait_until

from .conftest import ORPHAN_TIMEOUT_S, claim, listed, running_kernel, sandboxes, status, until

pytestmark = [pytest.mark.e2e, pytest.mark.needs_root, pytest.mark.timeout(240)]

ROUNDS = int(os.environ.get("JUPYTER_SANDBOX_KILL_ROUNDS", "20"))
ANOTHER = "[limits]\ndisk_mib = 16\ndisk_inodes = 1024\n"

BUSY = """
import asyncio, os, secrets, sys
from jupyter_sandbox.broker import client, verbs
from jupyter_sandbox.errors import SandboxError
async def one():
    while True:
        lease = await client.Lease.claim("python", "none", "", None)
        seat = secrets.token_hex(6)
        request = verbs.StartKernel(sandbox=lease.sandbox, seat=seat, argv=None, env={}, cwd=None, key="k")
        await client.call(request, verbs.KernelStarted, start=False)
        lease.close()
async def main():
    print("busy", flush=True)
    await asyncio.gather(*(one() for _ in range(4)))
asyncio.run(main())
"""


@pytest.fixture
def broker(tree):
    tree.start()
    return tree


async def test_a_kernel_survives_the_death_of_its_broker(broker, tmp_path):
    async with running_kernel(tmp_path) as kernel:
        await kernel.ready()
        await kernel.run("x = 41; open('/sandbox/file', 'w').close()")
        sandbox, connection = kernel.provisioner.sandbox_id, dict(kernel.provisioner.connection_info)
        old = broker_pid()
        broker.kill_broker()
        assert await kernel.run("print(x)") == "41", "without any broker"
        assert await kernel.provisioner.poll() is None, "this starts the next broker and finds the sandbox again"
        assert broker_pid() not in (None, old)
        assert await listed() == [sandbox]
        assert await kernel.run("print(x + 1)") == "42"
        await kernel.manager.interrupt_kernel()
        await kernel.manager.restart_kernel()
        await kernel.ready_again()
        assert kernel.provisioner.sandbox_id == sandbox
        assert kernel.provisioner.connection_info == connection
        assert await kernel.run("import os; print(os.path.exists('/sandbox/file'), 'x' in globals())") == "True False"
    await until(_nothing_is_claimed)
    await eventually(lambda: len(broker.records()) == 1)


async def _nothing_is_claimed() -> bool:
    return await listed() == []


async def test_several_deaths_in_a_row_are_survived(broker, tmp_path):
    async with running_kernel(tmp_path) as kernel:
        await kernel.ready()
        await kernel.run("x = 0")
        for number in range(3):
            broker.kill_broker()
            await until(lambda: _poll_is_none(kernel), 60)
            assert await kernel.run("x += 1; print(x)") == str(number + 1)
        assert kernel.provisioner.last_words() is None


async def _poll_is_none(kernel) -> bool:
    assert await kernel.provisioner.poll() is None
    return broker_pid() is not None


async def test_a_kernel_that_ends_while_no_broker_runs_is_noticed(broker, tmp_path):
    async with running_kernel(tmp_path) as kernel:
        await kernel.ready()
        broker.kill_broker()
        kernel.channels.execute("import os; os._exit(3)")
        agent = broker.records()[kernel.provisioner.sandbox_id]["pid"]
        children = Path(f"/proc/{agent}/task/{agent}/children")
        await eventually(lambda: not children.read_text().split())
        assert await kernel.provisioner.poll() == 1
        assert "while its broker was away" in kernel.provisioner.last_words()
        await kernel.manager.restart_kernel()
        await kernel.ready_again()


async def test_a_sandbox_whose_engine_is_away_when_the_next_broker_starts_is_left_alone(broker, tmp_path, monkeypatch):
    # once: the engine `embedded` recovered it, and when `docker` was asked for, poll() raised what kept the broker away
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere")
    monkeypatch.setenv("JUPYTER_SANDBOX_ENGINE", "auto")
    async with running_kernel(tmp_path) as kernel:
        await kernel.ready()
        await kernel.run("x = 41")
        record = places.find().ledger / f"{kernel.provisioner.sandbox_id}.json"
        assert json.loads(record.read_text())["engine"] == "embedded"
        broker.kill_broker()
        record.write_text(record.read_text().replace('"embedded"', '"docker"'))
        for _ in range(2):
            assert await kernel.provisioner.poll() is None, "it is tried again"
        broker.wait_for_end()
        assert json.loads(record.read_text())["pid"] in broker.agents()
        record.write_text(record.read_text().replace('"docker"', '"embedded"'))
        assert await kernel.provisioner.poll() is None
        assert await kernel.run("print(x + 1)") == "42"


async def test_a_sandbox_that_died_with_its_broker_is_noticed_and_replaced(broker, tmp_path):
    async with running_kernel(tmp_path) as kernel:
        await kernel.ready()
        sandbox = kernel.provisioner.sandbox_id
        agent = broker.records()[sandbox]["pid"]
        broker.kill_broker()
        os.kill(agent, signal.SIGKILL)
        assert await kernel.provisioner.poll() == 1
        assert "lost together with its broker" in kernel.provisioner.last_words()
        await kernel.manager.restart_kernel()
        await kernel.ready_again()
        assert kernel.provisioner.sandbox_id != sandbox
        assert await kernel.run("print(1)") == "1"


async def test_sigterm_keeps_claimed_sandboxes_for_the_next_broker(broker, tmp_path):
    async with running_kernel(tmp_path) as kernel:
        await kernel.ready()
        await kernel.run("x = 41")
        sandbox = kernel.provisioner.sandbox_id
        os.kill(broker_pid(), signal.SIGTERM)
        broker.wait_for_end()
        assert list(broker.records()) == [sandbox], "warm workers are gone"
        await eventually(lambda: broker.agents() == [broker.records()[sandbox]["pid"]])
        broker.start()
        assert await kernel.provisioner.poll() is None
        assert await kernel.run("print(x + 1)") == "42"
        assert await listed() == [sandbox]


async def test_sigint_ends_everything(broker, tmp_path):
    lease = await claim()
    async with running_kernel(tmp_path) as kernel:
        await kernel.ready()
        os.kill(broker_pid(), signal.SIGINT)
        broker.wait_for_end()
        broker.assert_nothing_left()
        assert broker.brokers[0].wait(10) == 0
    lease.close()


@pytest.mark.parametrize("moment", ["a worker starts", "a sandbox ends"])
def test_sigint_at_a_busy_moment_leaves_nothing(tree, moment):
    # once ("a sandbox ends"): the task that destroys it is cancelled half-way, and the rest is left lying
    for _ in range(4):
        tree.start()
        process, _ = tree.client()
        if moment == "a sandbox ends":
            process.kill()
            process.wait()
        os.kill(broker_pid(), signal.SIGINT)
        tree.wait_for_end()
        tree.assert_nothing_left()


async def test_an_idle_broker_leaves_and_so_does_everything(tree):
    tree.configure(idle_exit_s=0.5)
    tree.start()
    (await claim()).close()
    await asyncio.to_thread(tree.wait_for_end)
    tree.assert_nothing_left()


@pytest.mark.parametrize("comes", ["nobody", "another"])
async def test_a_broker_whose_tree_was_removed_ends_and_leaves_the_next_one_alone(tree, comes):
    """As when its user has logged out, and has come back."""
    tree.start()
    (first,), where = tree.brokers, places.find()
    where.lock.unlink()
    where.socket.unlink()
    if comes == "another":
        tree.start()
    await eventually(lambda: first.poll() is not None, 20)
    assert where.socket.exists() is (comes == "another")
    if comes == "another":
        (await claim()).close()


async def test_a_sandbox_that_nobody_takes_over_ends_after_the_grace(tree):
    tree.configure(recover_grace_s=0.5)
    tree.start()
    process, sandbox = tree.client()
    tree.kill_broker()
    process.kill()
    tree.start()
    await until(_nothing_is_claimed)
    await eventually(lambda: sandbox not in tree.records())
    await eventually(lambda: len(tree.agents()) <= 1, ORPHAN_TIMEOUT_S)


async def test_a_worker_that_does_not_answer_costs_no_other_its_grace(tree):
    """The broker asks one after the other, and who does not answer is waited for longer than the grace."""
    tree.configure(recover_grace_s=5)
    tree.start()
    clients = [tree.client() for _ in range(2)]
    tree.kill_broker()
    for process, _ in clients:
        process.kill()
    other, silent = sorted(sandbox for _, sandbox in clients)
    os.kill(tree.records()[silent]["pid"], signal.SIGSTOP)
    tree.start()
    assert other in await listed()
    await until(_nothing_is_claimed)


@pytest.mark.needs_root
async def test_the_slot_of_a_record_that_cannot_be_read_is_not_given_to_another(tree):
    # once: two workers had the same slot, which is the same uid and the same network
    tree.start()
    tree.client()
    (claimed,) = await listed()
    slot = tree.records()[claimed]["slot"]
    tree.kill_broker()
    record = places.find().ledger / f"{claimed}.json"
    aside = record.rename(record.parent.parent / "aside")
    record.symlink_to(record)  # reading it fails: ELOOP
    tree.start()
    tree.client()
    (other,) = await listed()
    record.unlink()
    records = tree.records()
    aside.rename(record)
    assert slot not in [each["slot"] for each in records.values()]
    await client.call(verbs.Reap(dry_run=False), verbs.Reaped, start=False)
    assert {claimed, other} <= {*await listed()}, "it is taken over when it can be read"


async def test_a_recovered_broker_that_nobody_needs_leaves(tree):
    # once: only the end of a connection sets Server.idle; a sandbox that ends for lack of an owner does not
    tree.start()
    process, _ = tree.client()
    tree.kill_broker()
    process.kill()
    tree.configure(recover_grace_s=0.5, idle_exit_s=0.5)
    tree.start()
    await asyncio.to_thread(tree.wait_for_end)
    tree.assert_nothing_left()


async def test_nobody_else_takes_over_a_sandbox(tree):
    tree.configure(socket_mode=0o666)
    tree.start()
    process, sandbox = tree.client(uid=12345)
    tree.kill_broker()
    tree.start()
    script = (
        "import asyncio, sys; from jupyter_sandbox.broker import client, verbs\n"
        "asyncio.run(client.call(verbs.Attach(sandbox=sys.argv[1]), verbs.Attached))"
    )
    results = {}
    for uid in (12346, 12345):
        command = ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", sys.executable, "-P", "-c", script]
        done = await asyncio.to_thread(
            subprocess.run, [*command, sandbox], env=tree.client_environment, capture_output=True, text=True
        )
        results[uid] = done.stderr.strip().rpartition("\n")[2]
    assert "UnknownSandboxError" in results[12346]
    assert results[12345] == ""
    process.kill()


async def test_a_second_broker_of_the_same_tree_is_refused(broker):
    done = await asyncio.to_thread(
        subprocess.run, [sys.executable, "-P", "-m", "jupyter_sandbox.broker"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert '"code": "broker_unavailable"' in done.stderr
    assert "another broker is running" in done.stderr
    assert (await status()).pid == broker_pid()


async def test_clients_that_come_together_start_one_broker(tree):
    reports = await asyncio.gather(*(client.call(verbs.Status(), verbs.StatusReport) for _ in range(5)))
    assert len({report.pid for report in reports}) == 1
    assert reports[0].pid == broker_pid()


@pytest.fixture
def starts(monkeypatch):
    """The processes that this process started to have a broker."""
    started = []
    execute = asyncio.create_subprocess_exec

    async def counted(*command, **settings):
        started.append(command)
        return await execute(*command, **settings)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", counted)
    return started


async def test_many_that_come_together_start_one_process(tree, starts):
    # once: each started a process, again and again, and they kept the broker from starting: 25 users whose broker had
    # gone because it was idle waited 39 s, and on a busy machine they gave up after 90 s
    reports = await asyncio.gather(*(client.call(verbs.Status(), verbs.StatusReport) for _ in range(25)))
    assert len({report.pid for report in reports}) == 1
    assert len(starts) == 1


async def test_a_broker_that_cannot_start_is_told_to_all_who_wait_for_it(tree, starts, monkeypatch):
    monkeypatch.setenv("JUPYTER_SANDBOX_ENGINE", "no-such-engine")
    calls = (client.call(verbs.Status(), verbs.StatusReport) for _ in range(5))
    answers = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(answer) for answer in answers] == [IsolationUnavailableError] * 5
    assert len(starts) == 1


async def test_who_waits_for_a_start_that_is_cancelled_starts_one_itself(tree, starts):
    first = asyncio.create_task(client.call(verbs.Status(), verbs.StatusReport))
    await eventually(lambda: starts)
    second = asyncio.create_task(client.call(verbs.Status(), verbs.StatusReport))
    await asyncio.sleep(0)
    first.cancel()
    assert (await second).pid == broker_pid()
    assert len(starts) == 2


async def test_two_trees_leave_each_other_s_sandboxes_alone(tree, another_tree):
    # once: the trees of one Python environment share a control group directory, and each reaps what it does not
    # know: the second broker does not start ([Errno 16]), or it removes the group of a worker that the first is making
    tree.start()
    lease = await claim()
    another_tree.start()
    other = await claim()
    await client.call(verbs.Reap(dry_run=False), verbs.Reaped)
    assert await listed() == [other.sandbox]
    tree.use()
    assert await listed() == [lease.sandbox]
    assert (await client.call(verbs.Reap(dry_run=True), verbs.Reaped)).found == ()
    lease.close()
    other.close()


async def test_a_broker_killed_between_fork_and_record_leaves_no_worker(tree):
    # the record has no pid yet, so the next broker cannot find the worker: it must end by itself
    tree.template("cold", "min_idle = 0\n" + ANOTHER)
    tree.start()
    (await claim("cold")).close()
    await eventually(lambda: len(tree.records()) == 1)
    notes = (await status()).notes
    (zygote,) = [int(note.split()[4].rstrip(",")) for note in notes if note.startswith("zygote of cold: pid")]
    os.kill(zygote, signal.SIGSTOP)
    claiming = asyncio.create_task(claim("cold"))
    await eventually(lambda: len(tree.records()) == 2)
    await eventually(lambda: _has_unread_input(zygote))
    tree.kill_broker()
    os.kill(zygote, signal.SIGCONT)
    with pytest.raises(SandboxError):
        await claiming
    tree.start()
    await eventually(lambda: zygote not in tree.processes())
    await eventually(
        lambda: tree.agents() == sorted(record["pid"] for record in tree.records().values()), ORPHAN_TIMEOUT_S
    )


def _has_unread_input(pid: int) -> bool:
    """Whether a message waits in the socket of a stopped zygote: its descriptor has come with it."""
    import fcntl
    import struct
    import termios

    process = os.pidfd_open(pid)
    try:
        with contextlib.suppress(OSError):
            for number in os.listdir(f"/proc/{pid}/fd"):
                if os.readlink(f"/proc/{pid}/fd/{number}").startswith("socket:"):
                    copy = _pidfd_getfd(process, int(number))
                    try:
                        waiting = struct.unpack("i", fcntl.ioctl(copy, termios.FIONREAD, b"\0" * 4))[0]
                    finally:
                        os.close(copy)
                    if waiting:
                        return True
        return False
    finally:
        os.close(process)


def _pidfd_getfd(process: int, number: int) -> int:
    import ctypes

    copy = ctypes.CDLL(None, use_errno=True).syscall(438, process, number, 0)
    if copy < 0:
        raise OSError(ctypes.get_errno(), "pidfd_getfd")
    return copy


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killing_broker_and_client_at_random_moments_leaves_nothing(tree):
    seed = int(os.environ.get("JUPYTER_SANDBOX_SEED", time.time_ns()))
    chance = random.Random(seed)
    tree.configure(recover_grace_s=0.2)
    tree.start()
    for number in range(ROUNDS):
        busy = subprocess.Popen(
            [sys.executable, "-P", "-c", BUSY], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        assert busy.stdout.readline() == "busy\n"
        time.sleep(chance.uniform(0, 0.8))  # the random moment is the point
        victims = [lambda: os.kill(broker_pid(), signal.SIGKILL), busy.kill]
        chance.shuffle(victims)
        for kill in victims:
            kill()
            time.sleep(chance.choice([0, 0, 0.01, 0.1]))
        busy.communicate()
        tree.wait_for_end()
        tree.start()
        wait_until(lambda: sandboxes() == [])
        try:  # once is enough: a worker that is made between two looks has no record in the first
            wait_until(lambda: _strays(tree) == [])
        except AssertionError:
            raise AssertionError(f"round {number} of seed {seed}: {_strays(tree)}") from None
    os.kill(broker_pid(), signal.SIGINT)
    tree.wait_for_end()
    tree.assert_nothing_left(ORPHAN_TIMEOUT_S)


def _strays(tree) -> list[str]:
    """Return what belongs to no record of the ledger: groups, sockets, images."""
    records = tree.records()
    names = {*records, *(sandbox.removeprefix("sbx_") for sandbox in records)}
    names |= {ids.standby_seat(sandbox) for sandbox in records}
    return [
        what
        for what in tree.left()
        if not what.startswith(("process", "loop")) and not any(name in what for name in names)
    ]
