"""Registry.claim, each step of the binding made to fail in turn, by a fake engine whose agents say what we want."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
import threading
from collections import deque
from dataclasses import dataclass, field, replace
from functools import partial
from ipaddress import IPv4Network
from pathlib import Path
from types import SimpleNamespace

import pytest

from jupyter_sandbox import agents, ledger, restrictions, template_shape
from jupyter_sandbox.broker import adoption, adoption_verbs, pausing, recording, recovery, restricting, upkeep, verbs
from jupyter_sandbox.broker.catalog import Catalog
from jupyter_sandbox.broker.registry import Registry
from jupyter_sandbox.broker.server import Server
from jupyter_sandbox.engines import Remains, Usage
from jupyter_sandbox.errors import (
    BrokerUnavailableError,
    CapacityError,
    ConflictError,
    DiskSpaceError,
    IsolationUnavailableError,
    SandboxError,
    StartError,
    TemplateFailingError,
    UnknownSandboxError,
    UnknownTemplateError,
    WorkspaceError,
)
from jupyter_sandbox.host import channel, places
from jupyter_sandbox.host.places import Places
from jupyter_sandbox.ledger import Ledger, Record
from jupyter_sandbox.specs import (
    UNRESTRICTED,
    EgressRule,
    Limits,
    Policy,
    Restriction,
    Share,
    Template,
    Workspace,
    WorkspaceMode,
)
from jupyter_sandbox.template_store import TemplateStore
from sandbox_worker import protocol
from tests.conftest import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(60)]

NONE = Workspace(mode=WorkspaceMode.NONE, name="")
OVERLAY = Workspace(mode=WorkspaceMode.OVERLAY, name="notes")
TEMPLATES = {
    "python": Template(name="python", min_idle=0, max_total=3),
    "one": Template(name="one", min_idle=0, max_total=1),
    "kept": Template(name="kept", min_idle=1, max_total=2),
    "open": Template(
        name="open",
        min_idle=0,
        policy=Policy(egress=(EgressRule(to=IPv4Network("203.0.113.7/32"), first_port=443, last_port=443),)),
    ),
    "shared": Template(name="shared", min_idle=0, shares=(Share(source="/data", target="/workspace/data"),)),
}
OWNER = 12345


@dataclass
class FakeDisk:
    directory: Path
    error: OSError | None = None

    def layers(self) -> int:
        if self.error:
            raise self.error
        return os.open(self.directory, os.O_RDONLY)

    def home(self, _target: str) -> int:
        return self.layers()


@dataclass
class FakeWorker:
    id: str
    slot: int
    disk: FakeDisk | None
    limits: Limits = field(default_factory=Limits)
    uid: int = 70001
    inner_uid: int = 1
    pid: int = field(default_factory=os.getpid)
    kills: int = 0
    stale: bool = False

    def is_current(self) -> bool:
        return not self.stale

    async def attach(self, mounts) -> dict[str, int]:
        return dict(mounts)

    def rlimits(self) -> dict[str, int]:
        return {"RLIMIT_CORE": 0}

    def out_of_memory_kills(self) -> int:
        return self.kills

    def network_namespace(self) -> int:
        return os.open("/proc/self/ns/net", os.O_RDONLY)

    def usage(self) -> Usage:
        return Usage(cpu_s=0, memory_bytes=0, memory_cache_bytes=0, disk_bytes=0, disk_total_bytes=0)


ANSWERS = {
    protocol.StandBy: protocol.StandingBy(),
    protocol.Bind: protocol.Bound(),
    protocol.StartKernel: protocol.Started(pid=2),
    protocol.StartCommand: protocol.Started(pid=3),
    protocol.Describe: protocol.Description(bound=True, running=()),
}


class FakeEngine:
    """Makes workers whose agents answer from `answers`: a message, raw bytes, None for silence, or "hang up"."""

    name = "fake"

    def __init__(self, where: Places, ledger: Ledger) -> None:
        self.places = where
        self.ledger = ledger
        self.answers: dict[type, object] = dict(ANSWERS)
        self.error: BaseException | None = None
        self.disk: FakeDisk | None = FakeDisk(where.run)
        self.made: list[FakeWorker] = []
        self.forgotten: list[str] = []
        self.destroyed: list[str] = []
        self.slow = asyncio.Event()
        self.slow.set()
        self.tasks: dict[str, asyncio.Task[None]] = {}
        self.channels: dict[str, channel.Channel] = {}
        self.descriptors: list[int] = []

    async def forget(self, template):
        self.forgotten.append(template.name)

    async def create(self, sandbox, template):
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        worker = FakeWorker(sandbox, len(self.made) + 1, self.disk, template.limits)
        self.ledger.write(Record(id=sandbox, template=template.name, slot=worker.slot))
        listener = channel.listen(self.places.agent_socket(sandbox), kind=socket.SOCK_SEQPACKET, mode=0o600)
        self.tasks[sandbox] = asyncio.create_task(self._agent(sandbox, listener))
        self.made.append(worker)
        await asyncio.sleep(0)  # a task that has not begun would not close the listener
        return worker

    async def _agent(self, sandbox: str, listener: socket.socket) -> None:
        with listener:
            accepted, _ = await asyncio.get_running_loop().sock_accept(listener)
        agent = self.channels[sandbox] = channel.Channel(accepted, protocol.TO_AGENT)
        try:
            while (received := await agent.receive()) is not None:
                request, descriptors = received
                if not isinstance(request, protocol.StandBy):
                    self.descriptors.append(len(descriptors))
                for descriptor in descriptors:
                    os.close(descriptor)
                answer = self.answers.get(type(request))
                if answer == "hang up":
                    return
                if isinstance(answer, bytes):
                    accepted.send(answer)
                elif isinstance(answer, list):
                    for message in answer:
                        await agent.send(message)
                elif answer is not None:
                    await agent.send(answer)
        except OSError:
            pass
        finally:
            agent.close()

    async def destroy(self, worker):
        await self.slow.wait()
        if worker.id in self.destroyed:
            return
        self.tasks[worker.id].cancel()
        await asyncio.wait([self.tasks[worker.id]])
        self.places.agent_socket(worker.id).unlink(missing_ok=True)
        self.ledger.remove(worker.id)
        self.destroyed.append(worker.id)

    async def remains(self):
        return []

    async def recover(self, record, template):
        worker = FakeWorker(record.id, record.slot, None, template.limits)
        listener = channel.listen(self.places.agent_socket(record.id), kind=socket.SOCK_SEQPACKET, mode=0o600)
        self.tasks[record.id] = asyncio.create_task(self._agent(record.id, listener))
        self.made.append(worker)
        await asyncio.sleep(0)  # a task that has not begun would not close the listener
        return worker


class FakeMounter:
    """Gives a descriptor of the run directory, or raises."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mount_error: WorkspaceError | None = None
        self.share_error: WorkspaceError | None = None

    def mount(self, _workspace, _directory, _disk, *, owner, uid) -> int:
        if self.mount_error:
            raise self.mount_error
        return os.open(self.directory, os.O_RDONLY)

    def share(self, _share, *, owner, uid) -> int:
        if self.share_error:
            raise self.share_error
        return os.open(self.directory, os.O_RDONLY)


class FakeFirewall:
    """Writes down what it is told; it opens for as long as `slow` is not set."""

    def __init__(self, engine: FakeEngine) -> None:
        self.engine = engine
        self.error: SandboxError | None = None
        self.verdict: SandboxError | None = None
        self.said: list[object] = []
        self.opening, self.slow = threading.Event(), threading.Event()
        self.slow.set()

    def judge(self, template: Template) -> None:
        if self.verdict and template.policy.egress:
            raise self.verdict

    def open(self, slot: int, policy: Policy, namespace: int, restriction: Restriction) -> None:
        assert os.fstat(namespace)
        assert self.engine.descriptors == [], "nothing was bound yet"
        self.opening.set()
        self.slow.wait(10)
        if self.error:
            raise self.error
        self.said.append(("open", slot, policy, restriction))

    def is_open(self, slot: int) -> bool:
        return any(said[:2] == ("open", slot) for said in self.said)

    def change(self, slot: int, namespace: int, restriction: Restriction) -> None:
        assert os.fstat(namespace)
        if self.error:
            raise self.error
        self.said.append(("change", slot, restriction))

    def close(self, slot: int) -> None:
        assert len(self.engine.destroyed) < len(self.engine.made), "before the slot is another's"
        self.said.append(("close", slot))

    def reap(self, known, *, dry_run):
        self.said.append(("reap", set(known()), dry_run))
        return []

    def stop(self) -> None:
        pass

    def survey(self, templates) -> None:
        pass

    def notes(self) -> list[str]:
        return []


class Bench:
    """A registry of fakes, with what its holders heard."""

    def __init__(self, directory: Path) -> None:
        self.places = Places(run=directory / "r", images=directory / "i", socket=directory / "r/broker")
        places.make(self.places)
        self.ledger = Ledger(self.places.ledger)
        self.engine = FakeEngine(self.places, self.ledger)
        self.mounter = FakeMounter(directory)
        self.firewall = FakeFirewall(self.engine)
        self.registry = Registry(
            engine=self.engine,
            ledger=self.ledger,
            places=self.places,
            mounter=self.mounter,
            known_templates=TEMPLATES,
            firewall=self.firewall,
        )
        self.heard: list[object] = []
        self.directory = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        self.before = len(os.listdir("/proc/self/fd"))

    async def claim(self, template: str = "python", wanted: Workspace = NONE, **how):
        directory = None if wanted is NONE else self.directory
        return await self.registry.claim(OWNER, template, wanted, directory, self.heard.append, **how)

    async def claim_warm(self):
        """Claim a worker of the pool's: its first kernel stands by."""
        self.registry.pool.want(TEMPLATES["kept"])
        refill = asyncio.create_task(self.registry.pool.run())
        await eventually(lambda: len(self.registry.pool.warm()) == 1)
        refill.cancel()
        await asyncio.wait([refill])
        return await self.claim("kept")

    async def assert_nothing_left(self) -> None:
        await eventually(lambda: sorted(self.engine.destroyed) == sorted(worker.id for worker in self.engine.made), 5)
        await eventually(lambda: len(os.listdir("/proc/self/fd")) <= self.before, 5)
        assert self.registry.claimed() == []
        assert self.registry.pool.warm() == []
        assert [self.registry.count(template) for template in TEMPLATES.values()] == [0] * len(TEMPLATES)
        assert list(self.ledger.records()) == []
        assert [*self.places.run.glob("a/*"), *self.places.run.glob("k/*")] == []


@pytest.fixture
def bench(tmp_path, jp_asyncio_loop):
    made: list[Bench] = []

    async def make():
        made.append(Bench(tmp_path))

    jp_asyncio_loop.run_until_complete(make())
    yield made[0]

    async def end():
        made[0].engine.slow.set()
        await made[0].registry.stop(everything=True)
        for task in made[0].engine.tasks.values():
            task.cancel()
        await asyncio.gather(*made[0].engine.tasks.values(), return_exceptions=True)

    jp_asyncio_loop.run_until_complete(end())
    os.close(made[0].directory)


async def test_a_claim_binds_every_mount_and_a_release_gives_all_back(bench):
    sandbox = await bench.claim("shared", OVERLAY)
    assert sandbox.cwd == "/workspace/notes"
    assert bench.engine.descriptors == [4]  # home at its two places, share, workspace
    (record,) = bench.ledger.records()
    assert (record.owner, record.workspace) == (OWNER, "/workspace/notes")
    await bench.registry.release(sandbox)
    await bench.registry.release(sandbox)
    await bench.assert_nothing_left()
    assert bench.heard == []


BINDING = {
    "the workspace cannot be mounted": (
        lambda bench: setattr(bench.mounter, "mount_error", WorkspaceError("replaced")),
        WorkspaceError,
    ),
    "the share cannot be mounted": (
        lambda bench: setattr(bench.mounter, "share_error", WorkspaceError("absent")),
        WorkspaceError,
    ),
    "the worker has no disk": (lambda bench: setattr(bench.engine, "disk", None), StartError),
    "the disk cannot be shown": (
        lambda bench: setattr(bench.engine, "disk", FakeDisk(Path("/"), OSError(errno.EIO, "I/O error"))),
        (SandboxError, OSError),
    ),
    "the record cannot be written": (
        lambda bench: setattr(bench.ledger, "write", _second_time(bench)),
        (SandboxError, OSError),
    ),
    "the worker cannot be made": (lambda bench: setattr(bench.engine, "error", StartError("no")), StartError),
    "the agent refuses": (lambda bench: _say(bench, protocol.Failed(reason="move_mount: no")), StartError),
    "the agent hangs up": (lambda bench: _say(bench, "hang up"), StartError),
    "the agent gives a wrong answer": (lambda bench: _say(bench, protocol.Started(pid=1)), StartError),
    "the agent talks nonsense": (lambda bench: _say(bench, b"nonsense"), StartError),
    "the agent says too much": (lambda bench: _say(bench, b" " * 70_000), StartError),
    "the agent says nothing": (lambda bench: _say(bench, None), StartError),
}


def _say(bench: Bench, answer: object) -> None:
    bench.engine.answers[protocol.Bind] = answer


def _second_time(bench: Bench):
    write, calls = bench.ledger.write, []

    def fail(record: Record) -> None:
        calls.append(record)
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(record)

    return fail


@pytest.mark.parametrize("what", BINDING)
async def test_a_claim_that_fails_leaves_nothing(bench, monkeypatch, what):
    # once ("no disk", "record"): AgentClient.close() cancels a task that has not begun; nobody closes the channel
    monkeypatch.setattr(agents, "ANSWER_TIMEOUT_S", 0.3)
    arrange, error = BINDING[what]
    arrange(bench)
    with pytest.raises(error):
        await bench.claim("shared", OVERLAY)
    await bench.assert_nothing_left()


@pytest.mark.parametrize(
    ("wanted", "directory"), [(NONE, True), (OVERLAY, False)], ids=["a directory too many", "a directory too few"]
)
async def test_a_workspace_and_its_directory_come_together(bench, wanted, directory):
    with pytest.raises(WorkspaceError):
        await bench.registry.claim(OWNER, "python", wanted, bench.directory if directory else None, bench.heard.append)
    assert bench.engine.made == []


async def test_an_unknown_template_makes_no_worker(bench):
    with pytest.raises(UnknownTemplateError):
        await bench.claim("absent")
    assert bench.engine.made == []


async def test_two_claims_at_once_do_not_pass_the_total(bench):
    outcomes = await asyncio.gather(*(bench.claim("one") for _ in range(5)), return_exceptions=True)
    claimed = [outcome for outcome in outcomes if not isinstance(outcome, Exception)]
    assert len(claimed) == 1
    assert {type(outcome) for outcome in outcomes} == {type(claimed[0]), CapacityError}


async def test_a_failed_start_does_not_count_for_ever(bench):
    bench.engine.error = StartError("no")
    for _ in range(2):
        with pytest.raises(StartError):
            await bench.claim("one")
    bench.engine.error = None
    assert await bench.claim("one")


async def test_a_template_whose_starts_fail_is_refused_without_a_start_and_others_are_served(bench):
    bench.engine.error = StartError("no")
    for _ in range(3):
        with pytest.raises(StartError):
            await bench.claim("one")
    bench.engine.error = None
    with pytest.raises(TemplateFailingError, match="template one do not start") as refused:
        await bench.claim("one")
    assert (refused.value.code, refused.value.status) == ("template_failing", 503)
    assert 1 <= refused.value.retry_after_s <= 3
    assert bench.engine.made == []
    assert await bench.claim("python")


async def test_a_cancelled_claim_leaves_nothing(bench):
    _say(bench, None)
    claiming = asyncio.create_task(bench.claim())
    await eventually(lambda: bench.engine.descriptors)
    claiming.cancel()
    with pytest.raises(asyncio.CancelledError):
        await claiming
    await bench.assert_nothing_left()


async def test_a_policy_is_in_force_before_anything_is_bound_and_until_the_worker_ends(bench):
    sandbox = await bench.claim("open")
    assert bench.firewall.said == [("open", 1, TEMPLATES["open"].policy, UNRESTRICTED)]
    await bench.registry.reap(dry_run=True)
    await bench.registry.release(sandbox)
    assert bench.firewall.said[1:] == [("reap", {1}, True), ("close", 1)]
    await bench.assert_nothing_left()


async def test_a_template_without_rules_never_troubles_the_firewall(bench):
    await bench.registry.release(await bench.claim())
    assert bench.firewall.said == [("close", 1)]


async def test_a_policy_that_cannot_be_enforced_makes_no_worker(bench):
    bench.firewall.verdict = IsolationUnavailableError("not here")
    with pytest.raises(IsolationUnavailableError):
        await bench.claim("open")
    assert bench.engine.made == []


async def test_a_network_that_cannot_be_made_leaves_nothing_and_binds_nothing(bench):
    bench.firewall.error = StartError("nft: no")
    with pytest.raises(StartError):
        await bench.claim("open")
    assert bench.engine.descriptors == []
    await bench.assert_nothing_left()


async def test_a_claim_that_is_cancelled_while_its_network_is_made_takes_it_back(bench):
    bench.firewall.slow.clear()
    claiming = asyncio.create_task(bench.claim("open"))
    await eventually(bench.firewall.opening.is_set)
    claiming.cancel()
    await asyncio.sleep(0.05)
    assert bench.firewall.said == [], "it is not undone while it is being made"
    bench.firewall.slow.set()
    with pytest.raises(asyncio.CancelledError):
        await claiming
    assert [said[0] for said in bench.firewall.said] == ["open", "close"]
    await bench.assert_nothing_left()


# -- a ledger that cannot be written


class FullDisk:
    """Lets nothing be written into a ledger until `is_full` is unset."""

    def __init__(self, monkeypatch, number: int = errno.ENOSPC) -> None:
        self.is_full = True

        def tried(path, mode, **how):
            if self.is_full:
                raise OSError(number, os.strerror(number))
            return open(path, mode, **how)

        monkeypatch.setattr(ledger, "open", tried, raising=False)


async def freeze(_worker):
    """Do what an engine is asked."""


def the_record(bench) -> Record:
    (record,) = bench.ledger.records()
    return record


@pytest.mark.parametrize(
    ("number", "error"), [(errno.ENOSPC, DiskSpaceError), (errno.EDQUOT, DiskSpaceError), (errno.EIO, SandboxError)]
)
async def test_what_must_be_recorded_before_is_undone_and_refused_where_it_cannot_be(bench, monkeypatch, number, error):
    # once: the seat stayed taken, and who asked was told that the broker failed inside
    sandbox = await bench.claim("open")
    monkeypatch.setattr(bench.engine, "pause", freeze, raising=False)
    monkeypatch.setattr(bench.engine, "resume", freeze, raising=False)
    before, disk = the_record(bench), FullDisk(monkeypatch, number)
    noted = replace(_kernel(sandbox, 1), note="mine")
    for refused in (
        bench.registry.start_kernel(sandbox, noted),
        pausing.pause(sandbox, bench.engine, bench.registry.record),
        restrict(bench, sandbox),
    ):
        with pytest.raises(error, match=f"record of sandbox {sandbox.id} cannot be written") as told:
            await refused
        assert type(told.value) is error
    assert (sandbox.seats, sandbox.notes, sandbox.kernels) == (set(), {}, {})
    assert (sandbox.is_paused, sandbox.restriction) == (False, UNRESTRICTED)
    assert the_record(bench) == before
    disk.is_full = False
    await bench.registry.start_kernel(sandbox, noted)
    assert the_record(bench).notes == {noted.seat: "mine"}


async def test_what_is_so_already_goes_through_and_is_recorded_when_it_can_be(bench, monkeypatch, caplog):
    # once: a sandbox that went on was told to have failed, and recorded as paused for good
    sandbox = await bench.claim()
    monkeypatch.setattr(bench.engine, "pause", freeze, raising=False)
    monkeypatch.setattr(bench.engine, "resume", freeze, raising=False)
    first, second = _kernel(sandbox, 1), _kernel(sandbox, 2)
    for kernel in (first, second):
        await bench.registry.start_kernel(sandbox, kernel)
    await pausing.pause(sandbox, bench.engine, bench.registry.record)
    disk = FullDisk(monkeypatch)
    await pausing.resume(sandbox, bench.engine, bench.registry.record)
    sandbox.kernels.clear()
    bench.registry.vacate(sandbox, first.seat)
    await bench.registry.start_kernel(sandbox, replace(second, note="again"))
    server = Server(None, bench.registry, bench.engine, None)
    note = adoption_verbs.WriteNote(sandbox=sandbox.id, seat="", text="of the sandbox")
    assert await server._serve(SimpleNamespace(uid=OWNER), note, []) == (verbs.Done(), [])
    assert not sandbox.is_paused
    assert (the_record(bench).paused, the_record(bench).seats) == (True, (first.seat, second.seat))
    assert len([each for each in caplog.records if "until it is recorded" in each.message]) == 1, "told once"
    upkeeping = asyncio.create_task(upkeep.keep_up(bench.registry, every_s=0.01))
    await asyncio.sleep(0)
    disk.is_full = False
    await eventually(lambda: not sandbox.is_unrecorded)
    upkeeping.cancel()
    assert (the_record(bench).paused, the_record(bench).seats) == (False, (second.seat,))
    assert the_record(bench).notes == {second.seat: "again", "": "of the sandbox"}


async def test_what_could_not_be_recorded_is_when_its_broker_ends(bench, monkeypatch):
    # once: what went on was paused again by the next broker, though there was room long before
    sandbox = await bench.claim()
    monkeypatch.setattr(bench.engine, "pause", freeze, raising=False)
    monkeypatch.setattr(bench.engine, "resume", freeze, raising=False)
    await pausing.pause(sandbox, bench.engine, bench.registry.record)
    disk = FullDisk(monkeypatch)
    await pausing.resume(sandbox, bench.engine, bench.registry.record)
    disk.is_full = False
    await bench.registry.stop(everything=False)
    assert not the_record(bench).paused


async def test_a_restriction_that_failed_is_recorded_as_undone_when_it_can_be(bench, monkeypatch):
    # once: the error of the ledger hid why it was refused, and the next broker put it in force
    sandbox = await bench.claim("open")
    disk = FullDisk(monkeypatch)
    disk.is_full = False

    def refuse(*_what):
        disk.is_full = True
        raise StartError("no")

    monkeypatch.setattr(bench.firewall, "change", refuse)
    with pytest.raises(StartError, match="no"):
        await restrict(bench, sandbox)
    assert (sandbox.restriction, recorded(bench)) == (UNRESTRICTED, CLOSED)
    disk.is_full = False
    recording.catch_up(bench.registry.claimed(), bench.registry.record)
    assert recorded(bench) == UNRESTRICTED


# -- restrictions

CLOSED = restrictions.judge(restrictions.EVERYWHERE, [])


async def restrict(bench, sandbox, wanted=CLOSED):
    await restricting.restrict(sandbox, wanted, bench.firewall, bench.registry.record)


def recorded(bench):
    (record,) = bench.ledger.records()
    return restrictions.judge(record.denied, record.excepted)


async def test_a_restricted_claim_opens_its_network_so(bench):
    sandbox = await bench.claim("open", restriction=CLOSED)
    assert bench.firewall.said == [("open", 1, TEMPLATES["open"].policy, CLOSED)]
    assert (sandbox.restriction, recorded(bench)) == (CLOSED, CLOSED)
    await bench.registry.release(sandbox)


async def test_a_claim_of_what_its_template_never_opened_makes_no_worker(bench):
    for template in ("python", "open"):
        with pytest.raises(ConflictError, match=r"192\.0\.2\.1"):
            await bench.claim(template, restriction=restrictions.judge([], ["192.0.2.1"]))
    assert bench.engine.made == []


async def test_a_restriction_is_recorded_before_it_is_put_in_force(bench, monkeypatch):
    sandbox, seen = await bench.claim("open"), []
    monkeypatch.setattr(bench.firewall, "change", lambda *_: seen.append(recorded(bench)))
    await restrict(bench, sandbox)
    assert seen == [CLOSED]
    await bench.registry.release(sandbox)


async def test_a_restriction_that_cannot_be_put_in_force_is_told_and_not_recorded(bench):
    sandbox = await bench.claim("open")
    bench.firewall.error = StartError("nft: no")
    with pytest.raises(StartError):
        await restrict(bench, sandbox)
    assert (sandbox.restriction, recorded(bench)) == (UNRESTRICTED, UNRESTRICTED)
    bench.firewall.error = None
    await restrict(bench, sandbox)
    assert bench.firewall.said[1:] == [("change", 1, CLOSED)]
    await bench.registry.release(sandbox)
    await bench.assert_nothing_left()


async def test_a_sandbox_without_a_network_is_restricted_on_paper(bench):
    sandbox = await bench.claim()
    await restrict(bench, sandbox)
    assert (bench.firewall.said, recorded(bench)) == ([], CLOSED)
    await bench.registry.release(sandbox)


async def test_who_restricts_a_sandbox_whose_network_is_being_made_comes_after_that(bench):
    bench.firewall.slow.clear()
    claiming = asyncio.create_task(bench.claim("open"))
    await eventually(bench.firewall.opening.is_set)
    (sandbox,) = bench.registry.claimed()
    changing = asyncio.create_task(restrict(bench, sandbox))
    await asyncio.sleep(0.05)
    assert bench.firewall.said == []
    bench.firewall.slow.set()
    await asyncio.gather(claiming, changing)
    assert [said[0] for said in bench.firewall.said] == ["open", "change"]
    await bench.registry.release(sandbox)


async def test_a_restriction_whose_client_goes_is_carried_out_whole(bench, monkeypatch):
    sandbox, going, goes = await bench.claim("open"), threading.Event(), threading.Event()

    def change(*_):
        going.set()
        goes.wait(10)

    monkeypatch.setattr(bench.firewall, "change", change)
    changing = asyncio.create_task(restrict(bench, sandbox))
    await eventually(going.is_set)
    changing.cancel()
    await asyncio.sleep(0.05)
    goes.set()
    with pytest.raises(asyncio.CancelledError):
        await changing
    assert (sandbox.restriction, recorded(bench)) == (CLOSED, CLOSED)
    await bench.registry.release(sandbox)


async def test_what_has_ended_is_not_restricted(bench):
    sandbox = await bench.claim("open")
    await bench.registry.release(sandbox)
    with pytest.raises(UnknownSandboxError):
        await restrict(bench, sandbox)
    await bench.assert_nothing_left()


async def test_others_do_not_find_a_sandbox(bench):
    sandbox = await bench.claim()
    assert bench.registry.get(OWNER, sandbox.id) is sandbox
    assert bench.registry.get(os.getuid(), sandbox.id) is sandbox
    with pytest.raises(UnknownSandboxError):
        bench.registry.get(OWNER + 1, sandbox.id)
    assert bench.registry.claimed(OWNER + 1) == []
    await bench.registry.release(sandbox)
    with pytest.raises(UnknownSandboxError):
        bench.registry.get(OWNER, sandbox.id)


async def test_a_lost_agent_is_told_once_and_leaves_nothing(bench):
    sandbox = await bench.claim()
    bench.engine.channels[sandbox.id].close()
    bench.engine.tasks[sandbox.id].cancel()
    await bench.assert_nothing_left()
    assert bench.heard == [verbs.SandboxGone(sandbox=sandbox.id, message=bench.heard[0].message)]
    assert "it crashed" in bench.heard[0].message


async def test_a_kernel_that_cannot_start_leaves_no_socket(bench):
    sandbox = await bench.claim()
    bench.engine.answers[protocol.StartKernel] = protocol.Failed(reason="no")
    request = verbs.StartKernel(sandbox=sandbox.id, seat="0" * 12, argv=None, env={}, cwd=None, key="k")
    with pytest.raises(StartError):
        await bench.registry.start_kernel(sandbox, request)
    assert sandbox.kernels == {}
    assert list(bench.places.run.glob("k/*")) == []
    bench.engine.answers = dict(ANSWERS)
    await bench.registry.start_kernel(sandbox, request)
    assert len(list(bench.places.run.glob("k/*"))) == 5
    await bench.registry.release(sandbox)
    await bench.assert_nothing_left()


def _kernel(sandbox, number: int) -> verbs.StartKernel:
    return verbs.StartKernel(sandbox=sandbox.id, seat=f"{number:012x}", argv=None, env={}, cwd=None, key="k")


def _without_port(monkeypatch, port: int) -> None:
    listen = channel.listen

    def fail(path, **kwargs):
        if path.name.endswith(f"-{port}"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return listen(path, **kwargs)

    monkeypatch.setattr(channel, "listen", fail)


@pytest.mark.parametrize("port", [1, 3, 5])
async def test_a_socket_that_cannot_be_made_leaves_none(bench, monkeypatch, port):
    sandbox = await bench.claim()
    await bench.registry.start_kernel(sandbox, _kernel(sandbox, 1))
    _without_port(monkeypatch, port)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(StartError):
        await bench.registry.start_kernel(sandbox, _kernel(sandbox, 2))
    assert list(sandbox.kernels) == [f"{1:012x}"]
    assert len(list(bench.places.run.glob("k/*"))) == 5
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("port", [1, 3, 5])
async def test_a_worker_whose_standby_cannot_listen_leaves_nothing(bench, monkeypatch, port):
    _without_port(monkeypatch, port)
    with pytest.raises(StartError):
        await bench.registry._make_warm(TEMPLATES["kept"])
    await bench.assert_nothing_left()


@pytest.mark.parametrize("answer", [protocol.Failed(reason="no"), protocol.Bound(), b"x", "hang up"])
async def test_a_worker_whose_standby_does_not_stand_by_leaves_nothing(bench, answer):
    bench.engine.answers[protocol.StandBy] = answer
    with pytest.raises(StartError):
        await bench.registry._make_warm(TEMPLATES["kept"])
    await bench.assert_nothing_left()


async def test_a_worker_that_is_made_for_a_claim_has_no_standby(bench):
    sandbox = await bench.claim()
    assert (sandbox.standby, list(bench.places.run.glob("k/*"))) == (None, [])


async def test_the_first_kernel_has_the_sockets_of_the_standby_and_the_second_its_own(bench):
    sandbox = await bench.claim_warm()
    waiting = {path.name: path.stat().st_ino for path in bench.places.run.glob("k/*")}
    assert len(waiting) == 5
    await bench.registry.start_kernel(sandbox, _kernel(sandbox, 1))
    first = {path.name: path.stat().st_ino for path in bench.places.run.glob("k/*")}
    assert sorted(first.values()) == sorted(waiting.values())
    assert sorted(first) == [f"{1:012x}-{port}" for port in range(1, 6)]
    await bench.registry.start_kernel(sandbox, _kernel(sandbox, 2))
    assert len(list(bench.places.run.glob("k/*"))) == 10
    await bench.registry.release(sandbox)
    await bench.assert_nothing_left()


async def test_sockets_that_cannot_be_moved_to_their_kernel_leave_none(bench, monkeypatch):
    sandbox = await bench.claim_warm()
    rename = Path.rename

    def fail(path, target):
        if path.name.endswith("-3"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", fail)
    with pytest.raises(StartError):
        await bench.registry.start_kernel(sandbox, _kernel(sandbox, 1))
    assert list(bench.places.run.glob("k/*")) == []
    monkeypatch.undo()
    await bench.registry.release(sandbox)
    await bench.assert_nothing_left()


async def test_a_record_of_nobody_is_forgotten(bench):
    sandbox = await bench.claim()
    stray = Record(id="sbx_" + "0" * 20, template="python", slot=9)
    bench.ledger.write(stray)
    for dry_run in (True, False):
        assert await bench.registry.reap(dry_run=dry_run) == [f"ledger record {stray.id}"]
    assert [record.id for record in bench.ledger.records()] == [sandbox.id]
    await bench.registry.release(sandbox)
    await bench.assert_nothing_left()


async def test_now_and_then_what_nobody_owns_is_destroyed_and_agents_hear_of_their_broker(bench, monkeypatch):
    sandbox = await bench.claim()
    heard: list[object] = []
    tell = type(sandbox.agent).tell

    async def listening(agent, order):
        heard.append(order)
        await tell(agent, order)

    monkeypatch.setattr(type(sandbox.agent), "tell", listening)
    stray = bench.places.run / "k" / "000000000000-1"
    stray.touch()
    fails = [OSError("no")]
    found = bench.registry.reap

    async def reap(*, dry_run):
        if fails:
            raise fails.pop()
        return await found(dry_run=dry_run)

    monkeypatch.setattr(bench.registry, "reap", reap)
    task = asyncio.create_task(upkeep.keep_up(bench.registry, every_s=0.01))
    await eventually(lambda: not stray.exists())
    assert not fails, "one look that failed was not the last"
    assert protocol.Renew() in heard
    task.cancel()
    await asyncio.wait([task])
    assert upkeep.EVERY_S * 3 <= protocol.LEASE_S
    await bench.registry.release(sandbox)
    await bench.assert_nothing_left()


async def test_a_warm_worker_whose_packages_were_changed_is_never_handed_out(bench):
    bench.registry.pool._warm["python"] = deque(
        [await bench.registry._make_warm(TEMPLATES["python"]) for _ in range(2)]
    )
    stale, current = bench.engine.made
    stale.stale = True
    sandbox = await bench.claim()
    assert sandbox.worker is current
    assert stale.id in bench.engine.destroyed
    await bench.registry.release(sandbox)
    await bench.assert_nothing_left()


async def test_when_nothing_is_claimed_only_the_default_template_is_kept_ready(bench):
    default, other = TEMPLATES["python"], TEMPLATES["kept"]
    for template in (default, other):
        bench.registry.pool.want(template)
        bench.registry.pool._warm[template.name] = deque([await bench.registry._make_warm(template)])
    sandbox = await bench.claim()
    catalog = Catalog(
        TEMPLATES,
        store=TemplateStore(bench.places.templates),
        ceiling=template_shape.ceiling({}),
        pool=bench.registry.pool,
        engine=bench.engine,
    )
    rest = partial(catalog.rest, default)
    task = asyncio.create_task(upkeep.keep_up(bench.registry, rest=rest, every_s=0.01))
    await asyncio.sleep(0.1)
    assert bench.registry.pool.templates() == [default, other], "somebody is there"
    await bench.registry.release(sandbox)
    await eventually(lambda: bench.registry.pool.templates() == [default])
    await eventually(lambda: bench.engine.forgotten == ["kept"])
    assert bench.engine.made[1].id in bench.engine.destroyed
    task.cancel()
    await asyncio.wait([task])
    await bench.registry.stop(everything=True)
    await bench.assert_nothing_left()


async def test_an_agent_that_is_frozen_is_told_nothing(bench, monkeypatch):
    sandbox, heard = await bench.claim(), []

    async def listening(_agent, order):
        heard.append(order)

    monkeypatch.setattr(type(sandbox.agent), "tell", listening)
    sandbox.is_paused = True
    await bench.registry.renew()
    assert heard == []
    sandbox.is_paused = False
    await bench.registry.renew()
    assert heard == [protocol.Renew()]
    monkeypatch.undo()
    await bench.registry.release(sandbox)
    await bench.assert_nothing_left()


async def test_a_reap_leaves_the_sockets_of_what_stands_by(bench):
    sandbox = await bench.claim_warm()
    assert await bench.registry.reap(dry_run=False) == []
    assert len(list(bench.places.run.glob("k/*"))) == 5
    await bench.registry.release(sandbox)


async def test_a_reap_while_a_standby_becomes_the_kernel_leaves_its_sockets(bench):
    # once: they were nobody's from the request to the agent on until it had answered, and the start failed
    sandbox = await bench.claim_warm()
    bench.engine.answers[protocol.StartKernel] = None
    starting = asyncio.create_task(bench.registry.start_kernel(sandbox, _kernel(sandbox, 1)))
    await eventually(lambda: len(bench.engine.descriptors) == 2)
    assert await bench.registry.reap(dry_run=False) == []
    await bench.engine.channels[sandbox.id].send(protocol.Started(pid=2))
    await starting
    assert len(list(bench.places.run.glob("k/*"))) == 5
    await bench.registry.release(sandbox)
    await bench.assert_nothing_left()


async def test_a_claim_with_a_kernel_is_recorded_once_with_its_seat(bench, monkeypatch):
    written = []
    write = bench.ledger.write
    monkeypatch.setattr(bench.ledger, "write", lambda record: (written.append(record), write(record)))
    sandbox = await bench.registry.claim(OWNER, "python", NONE, None, bench.heard.append, seat=f"{1:012x}")
    await bench.registry.start_kernel(sandbox, _kernel(sandbox, 1))
    assert [record.seats for record in written if record.owner == OWNER] == [(f"{1:012x}",)]


@pytest.mark.parametrize("seat", ["../etc", "0" * 13, "", "x" * 12])
async def test_a_claim_for_a_bad_seat_leaves_nothing(bench, seat):
    with pytest.raises(SandboxError):
        await bench.registry.claim(OWNER, "python", NONE, None, bench.heard.append, seat=seat)
    await bench.assert_nothing_left()


async def test_signals_for_what_does_not_run_are_forgotten(bench):
    # once: every target ever signalled stays in Sandbox.ending, 64 KiB each, as long as the sandbox lives
    sandbox = await bench.claim()
    for number in range(100):
        await sandbox.signal(f"{number:060000}", 9)
    assert sandbox.ending == set()


async def test_a_release_makes_room_for_a_warm_worker(bench):
    # once: _destroy wakes the pool before the sandbox is forgotten, and not after
    refill = asyncio.create_task(bench.registry.pool.run())
    try:
        first = await bench.claim("kept")
        await eventually(lambda: len(bench.registry.pool.warm()) == 1)
        await bench.claim("kept")
        assert bench.registry.pool.warm() == []
        await bench.registry.release(first)
        await eventually(lambda: len(bench.registry.pool.warm()) == 1, 5)
    finally:
        refill.cancel()
        await asyncio.wait([refill])


async def test_the_end_of_the_broker_does_not_interrupt_the_end_of_a_sandbox(bench):
    # once: stop() cancels the task that destroys a lost sandbox, then skips it because it is doomed already
    bench.engine.slow.clear()
    sandbox = await bench.claim()
    bench.engine.channels[sandbox.id].close()
    bench.engine.tasks[sandbox.id].cancel()
    await eventually(lambda: sandbox.state == "doomed")
    stopping = asyncio.create_task(bench.registry.stop(everything=True))
    await asyncio.sleep(0)
    bench.engine.slow.set()
    await stopping
    assert bench.engine.destroyed == [sandbox.id]


async def test_an_engine_that_fails_to_destroy_does_not_keep_the_sandbox_s_place(bench, monkeypatch):
    sandbox = await bench.claim("one")
    destroy = bench.engine.destroy

    async def fail(worker):
        await destroy(worker)
        raise OSError(errno.EBUSY, "Device or resource busy")

    monkeypatch.setattr(bench.engine, "destroy", fail)
    with contextlib.suppress(OSError):
        await bench.registry.release(sandbox)
    # once: the doomed sandbox is never forgotten and counts against max_total for ever
    assert bench.registry.count(TEMPLATES["one"]) == 0


RECORD = Record(
    id="sbx_" + "1" * 20,
    template="python",
    slot=4,
    pid=5,
    started=6,
    owner=OWNER,
    workspace="/sandbox",
    seats=("0" * 12,),
)


async def test_a_recovered_sandbox_has_its_owner_and_its_kernels(bench):
    bench.ledger.write(RECORD)
    bench.engine.answers[protocol.Describe] = protocol.Description(bound=True, running=("0" * 12, "cmd_" + "1" * 20))
    await bench.registry.recover(grace_s=60)
    sandbox = bench.registry.get(OWNER, RECORD.id)
    assert list(sandbox.kernels) == ["0" * 12]
    assert list(sandbox.commands) == ["cmd_" + "1" * 20]
    assert sandbox.ending == {"cmd_" + "1" * 20}, "it ended with the connection to its broker, so it was killed"
    with pytest.raises(UnknownSandboxError):
        bench.registry.get(OWNER + 1, RECORD.id)


async def test_a_sandbox_whose_record_cannot_be_read_when_a_broker_begins_is_taken_over_when_it_can(bench, monkeypatch):
    # once: any error removed the record, and the next reap all that belonged to its worker
    bench.ledger.write(RECORD)
    bench.engine.answers[protocol.Describe] = protocol.Description(bound=True, running=("0" * 12,))
    gone, read, fails = [], Path.read_bytes, [True]
    owned = Remains(what="a container", made_for=RECORD.id, remove=lambda: gone.append(1))
    monkeypatch.setattr(bench.engine, "remains", lambda: asyncio.sleep(0, [owned]))

    def fail(path):
        if fails and path.stem == RECORD.id:
            fails.pop()
            raise OSError(errno.EMFILE, "Too many open files")
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", fail)
    fails *= 3  # so often it is looked at until the first reap is over
    await bench.registry.recover(grace_s=60)
    assert bench.registry.claimed() == []
    fails.append(True)
    assert await bench.registry.reap(dry_run=False) == [], "it could be read a moment later"
    assert await bench.registry.reap(dry_run=False) == []
    assert list(bench.registry.get(OWNER, RECORD.id).kernels) == ["0" * 12]
    assert gone == []


NO_FILES = OSError(errno.EMFILE, "Too many open files")


def unjudged(bench, monkeypatch, times, error=NO_FILES):
    """Let the engine fail to judge a worker so often; return what is left of that."""
    recover, fails = bench.engine.recover, [True] * times

    async def fail(record, template):
        if fails:
            fails.pop()
            raise error
        return await recover(record, template)

    bench.ledger.write(RECORD)
    monkeypatch.setattr(bench.engine, "recover", fail)
    return fails


async def test_a_sandbox_that_cannot_be_judged_when_a_broker_begins_is_taken_over_when_it_can(bench, monkeypatch):
    # once: any error of a look at its process was its death
    bench.engine.answers[protocol.Describe] = protocol.Description(bound=True, running=("0" * 12,))
    socket_of_its_kernel = bench.places.run / "k" / f"{'0' * 12}-1"
    socket_of_its_kernel.touch()
    gone, fails = [], unjudged(bench, monkeypatch, 2)
    owned = Remains(what="a container", made_for=RECORD.id, remove=lambda: gone.append(1))
    monkeypatch.setattr(bench.engine, "remains", lambda: asyncio.sleep(0, [owned]))
    await bench.registry.recover(grace_s=60)
    assert bench.registry.claimed() == []
    assert not fails, "the first reap tried again"
    assert [record.id for record in bench.ledger.records()] == [RECORD.id]
    assert socket_of_its_kernel.exists()
    assert ("reap", set(), False) not in bench.firewall.said, "nobody knows which network is its"
    assert await bench.registry.reap(dry_run=False) == []
    assert list(bench.registry.get(OWNER, RECORD.id).kernels) == ["0" * 12]
    assert gone == []
    assert socket_of_its_kernel.exists()


@pytest.fixture
def late(bench, monkeypatch):
    """Let the agent of a recovered sandbox be connected to again and again, and say nothing at first; be impatient."""
    monkeypatch.setattr(agents, "ANSWER_TIMEOUT_S", 0.1)
    monkeypatch.setattr(recovery, "PAUSE_S", 0.1)
    once = bench.engine._agent

    async def again(sandbox, listener):
        with listener:
            while True:
                await once(sandbox, listener.dup())

    monkeypatch.setattr(bench.engine, "_agent", again)
    bench.ledger.write(RECORD)
    bench.engine.answers[protocol.Describe] = None
    return bench


async def test_a_sandbox_whose_agent_is_late_is_taken_over_when_it_answers(late):
    # once: one time-out was the end of a sandbox
    socket_of_its_kernel = late.places.run / "k" / f"{'0' * 12}-1"
    socket_of_its_kernel.touch()
    await late.registry.recover(grace_s=60)
    assert late.registry.claimed() == []
    with pytest.raises(BrokerUnavailableError, match="try again"):
        late.registry.get(OWNER, RECORD.id)
    assert await late.registry.reap(dry_run=False) == []
    assert late.firewall.said == [("reap", {RECORD.slot}, False)] * 2, "its network is known"
    assert socket_of_its_kernel.exists()
    late.engine.answers[protocol.Describe] = protocol.Description(bound=True, running=("0" * 12,))
    await eventually(lambda: late.registry.claimed() != [])
    assert list(late.registry.get(OWNER, RECORD.id).kernels) == ["0" * 12]
    await late.registry.release(late.registry.get(OWNER, RECORD.id))
    await late.assert_nothing_left()


async def test_a_sandbox_that_never_answers_is_given_up(late, monkeypatch, caplog):
    monkeypatch.setattr(recovery, "PATIENCE_S", 0.3)
    await late.registry.recover(grace_s=60)
    await late.assert_nothing_left()
    assert f"sandbox {RECORD.id} is destroyed; it still cannot be taken over" in caplog.text
    with pytest.raises(UnknownSandboxError):
        late.registry.get(OWNER, RECORD.id)


async def test_a_late_sandbox_whose_agent_goes_is_given_up_at_once(late):
    await late.registry.recover(grace_s=60)
    late.engine.answers[protocol.Describe] = "hang up"
    await late.assert_nothing_left()


async def test_a_kernel_that_is_started_anew_ends_the_late_sandbox_that_had_it(late):
    # once: its seat was taken for as long as that was late, and waited for its client
    await late.registry.recover(grace_s=60)
    sandbox = await late.claim(seat="0" * 12)
    assert late.engine.destroyed == [RECORD.id]
    await late.registry.release(sandbox)
    await late.assert_nothing_left()


async def test_a_late_sandbox_is_shown_to_its_server_and_can_be_released(late):
    # once: a server that was started anew at that moment never saw it
    late.ledger.write(replace(RECORD, server="s"))
    await late.registry.recover(grace_s=60)
    server, peer = Server(None, late.registry, late.engine, None), SimpleNamespace(uid=OWNER)
    listing, _ = await server._serve(peer, verbs.List(after="", left_by="s"), [])
    assert [each.sandbox for each in listing.sandboxes] == [RECORD.id]
    assert (await server._serve(peer, verbs.List(after="", left_by=""), []))[0].sandboxes == ()
    for asked in (adoption_verbs.Adopt(sandbox=RECORD.id, server="s"), verbs.ListKernels(sandbox=RECORD.id)):
        with pytest.raises(BrokerUnavailableError):
            await server._serve(peer, asked, [])
    with pytest.raises(BrokerUnavailableError):
        await server._serve(SimpleNamespace(uid=OWNER + 1), verbs.Release(sandbox=RECORD.id), [])
    await server._serve(peer, verbs.Release(sandbox=RECORD.id), [])
    await late.assert_nothing_left()


async def test_a_sandbox_is_never_unknown_while_it_is_judged(bench, monkeypatch):
    # once: for a moment it was, and its client took it for lost; and a second reap took its sockets for nobody's
    judged, recover = asyncio.Event(), bench.engine.recover

    async def slow(record, template):
        await judged.wait()
        return await recover(record, template)

    monkeypatch.setattr(bench.engine, "recover", slow)
    unjudged(bench, monkeypatch, 2, RuntimeError("can't start new thread"))
    await bench.registry.recover(grace_s=60)
    judging = asyncio.create_task(bench.registry.recover_waiting())
    await asyncio.sleep(0)
    with pytest.raises(BrokerUnavailableError):
        bench.registry.get(OWNER, RECORD.id)
    async with asyncio.timeout(10):
        await bench.registry.recover_waiting()  # which leaves it to who is at it
    judged.set()
    await judging
    assert bench.registry.get(OWNER, RECORD.id).owner == OWNER


async def test_what_waits_to_be_judged_is_tried_again_soon(bench, monkeypatch):
    # once: by the next reap, when its clients had given it up
    monkeypatch.setattr(recovery, "PAUSE_S", 0.01)
    unjudged(bench, monkeypatch, 5)
    await bench.registry.recover(grace_s=60)
    upkeeping = asyncio.create_task(upkeep.keep_up(bench.registry, every_s=600))
    await eventually(lambda: bench.registry.claimed() != [])
    upkeeping.cancel()


async def test_what_is_judged_after_its_kernel_was_started_anew_is_given_up(bench, monkeypatch):
    # once: its end took the sockets of the new kernel
    unjudged(bench, monkeypatch, 2)
    await bench.registry.recover(grace_s=60)
    sandbox = await bench.claim(seat="0" * 12)
    socket_of_its_kernel = bench.places.run / "k" / f"{'0' * 12}-1"
    socket_of_its_kernel.touch()
    await bench.registry.recover_waiting()
    assert bench.engine.destroyed == [RECORD.id]
    assert socket_of_its_kernel.exists()
    socket_of_its_kernel.unlink()
    await bench.registry.release(sandbox)
    await bench.assert_nothing_left()


async def test_a_sandbox_that_is_late_for_one_broker_is_left_to_the_next(late):
    await late.registry.recover(grace_s=60)
    await late.registry.stop(everything=False)
    assert late.engine.destroyed == []
    assert [record.id for record in late.ledger.records()] == [RECORD.id]


async def test_a_paused_sandbox_that_is_late_is_paused_until_it_is_tried_again(late, monkeypatch):
    late.ledger.write(replace(RECORD, paused=True))
    did = []
    for verb in ("pause", "resume"):
        monkeypatch.setattr(
            late.engine, verb, lambda _worker, verb=verb: asyncio.sleep(0, did.append(verb)), raising=False
        )
    await late.registry.recover(grace_s=60)
    assert did[:2] == ["resume", "pause"]
    late.engine.answers[protocol.Describe] = ANSWERS[protocol.Describe]
    await eventually(lambda: late.registry.claimed() != [])
    await eventually(lambda: late.registry.get(OWNER, RECORD.id).is_paused)
    assert did[-2:] == ["resume", "pause"]


async def test_a_recovered_sandbox_has_what_its_server_left_with_it(bench):
    bench.ledger.write(replace(RECORD, server="s", notes={"": "of the sandbox", "0" * 12: "of the kernel"}))
    bench.engine.answers[protocol.Describe] = protocol.Description(bound=True, running=("0" * 12,))
    await bench.registry.recover(grace_s=60)
    sandbox = bench.registry.get(OWNER, RECORD.id)
    assert (sandbox.server, sandbox.notes) == ("s", {"": "of the sandbox", "0" * 12: "of the kernel"})
    assert adoption.is_left(sandbox, OWNER, "s")
    assert not adoption.is_left(sandbox, OWNER + 1, "s")


async def test_a_sandbox_that_is_left_waits_for_its_server_only(bench):
    await bench.registry.recover(grace_s=60)
    kept = await bench.registry.claim(OWNER, "python", NONE, None, bench.heard.append, server="s")
    other = await bench.registry.claim(OWNER, "python", NONE, None, bench.heard.append)
    for sandbox in (kept, other):
        await bench.registry.leave(sandbox)
    assert bench.registry.claimed() == [kept]
    await bench.registry.release(kept)


async def test_a_sandbox_that_is_left_counts_for_its_party_until_it_is_adopted_or_ends(bench):
    await bench.registry.recover(grace_s=60)
    kept = await bench.registry.claim(OWNER, "python", NONE, None, bench.heard.append, server="s", on_behalf="ab")
    await bench.registry.leave(kept)
    assert [each.party for each in bench.registry.claimed()] == [(OWNER, "ab")]
    assert bench.registry.count(TEMPLATES["python"]) == 1
    (record,) = bench.ledger.records()
    assert (record.on_behalf, record.server) == ("ab", "s")
    await bench.registry.release(kept)


async def test_each_departure_has_a_grace_of_its_own(bench):
    # once: a server that dies again within the grace of its first death is given the rest of that only
    await bench.registry.recover(grace_s=0.3)
    sandbox = await bench.registry.claim(OWNER, "python", NONE, None, bench.heard.append, server="s")
    await bench.registry.leave(sandbox)
    await asyncio.sleep(0.2)
    sandbox.holder = bench.heard.append  # adopted
    await bench.registry.leave(sandbox)
    await asyncio.sleep(0.2)
    assert bench.registry.claimed() == [sandbox]
    await eventually(lambda: bench.registry.claimed() == [])


async def test_who_comes_back_and_leaves_again_and_again_leaves_one_task(bench):
    # once: each departure had a task of its own that slept for the whole grace
    await bench.registry.recover(grace_s=60)
    sandbox = await bench.registry.claim(OWNER, "python", NONE, None, bench.heard.append, server="s")
    before = len(asyncio.all_tasks())
    for _ in range(100):
        sandbox.holder = bench.heard.append  # adopted
        await bench.registry.leave(sandbox)
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) <= before + 1
    await bench.registry.release(sandbox)
    await eventually(lambda: len(asyncio.all_tasks()) < before)
    await bench.assert_nothing_left()


async def test_what_has_ended_has_no_grace(bench):
    # once: it was kept in memory by a task that slept for the whole grace
    await bench.registry.recover(grace_s=60)
    sandbox = await bench.registry.claim(OWNER, "python", NONE, None, bench.heard.append, server="s")
    await bench.registry.release(sandbox)
    before = len(asyncio.all_tasks())
    await bench.registry.leave(sandbox)
    assert (sandbox.grace, len(asyncio.all_tasks())) == (None, before)


async def test_without_a_grace_nothing_waits(bench):
    sandbox = await bench.registry.claim(OWNER, "python", NONE, None, bench.heard.append, server="s")
    await bench.registry.leave(sandbox)
    await bench.assert_nothing_left()


@contextlib.asynccontextmanager
async def served(bench):
    """A server of the bench's registry, and a client's connection to it."""
    path = bench.places.socket
    with channel.listen(path, kind=socket.SOCK_SEQPACKET, mode=0o600) as listener:
        server = Server(listener, bench.registry, bench.engine, None)
        serving = asyncio.create_task(server.serve())
        lease = await channel.Channel.connect(path, verbs.ANSWERS)
        try:
            yield server, lease
        finally:
            serving.cancel()
            lease.close()
            await asyncio.wait([serving])
            await server.stop()


async def test_a_claim_whose_client_is_gone_before_the_answer_is_nobodys(bench):
    # once: it waited for the next start of the server, which had never heard of it, and took a place meanwhile
    await bench.registry.recover(grace_s=60)
    bench.engine.answers[protocol.Bind] = None
    async with served(bench) as (server, lease):
        await lease.send(verbs.Claim(template="python", workspace_mode="none", workspace_name="", server="0" * 16))
        await eventually(lambda: len(bench.engine.descriptors) == 1)
        lease.close()
        (sandbox,) = bench.registry.claimed()
        await bench.engine.channels[sandbox.id].send(protocol.Bound())
        await eventually(lambda: server.is_idle, 5)
    await bench.assert_nothing_left()


async def test_notes_end_with_the_seat_and_the_record_says_so(bench):
    seat, other = f"{1:012x}", f"{2:012x}"
    sandbox = await bench.registry.claim(
        OWNER, "python", NONE, None, bench.heard.append, seat=seat, server="s", notes={"": "a", seat: "b"}
    )
    sandbox.seats.add(other)
    assert adoption.write(sandbox, other, "c")
    assert not adoption.write(sandbox, other, "c")
    bench.registry.vacate(sandbox, seat)
    (record,) = bench.ledger.records()
    assert (record.server, record.notes) == ("s", {"": "a", other: "c"})
    await bench.registry.release(sandbox)


async def test_a_kernel_that_ends_during_the_recovery_does_not_cost_the_sandbox(bench):
    # once: its Exited comes before the Description, and _exited() now takes it for a lie
    bench.ledger.write(RECORD)
    ended = protocol.Exited(target="0" * 12, status=0, disk_full=False, log="")
    bench.engine.answers[protocol.Describe] = [ended, protocol.Description(bound=True, running=())]
    await bench.registry.recover(grace_s=60)
    assert bench.registry.get(OWNER, RECORD.id).kernels == {}


@pytest.mark.parametrize("answer", [protocol.Description(bound=False, running=()), protocol.Failed(reason="x"), b"x"])
async def test_a_worker_that_cannot_be_recovered_is_destroyed(bench, answer):
    bench.ledger.write(RECORD)
    bench.engine.answers[protocol.Describe] = answer
    await bench.registry.recover(grace_s=60)
    await bench.assert_nothing_left()


async def test_a_warm_worker_of_a_dead_broker_is_destroyed(bench):
    bench.ledger.write(Record(id=RECORD.id, template="python", slot=4, pid=5, started=6))
    await bench.registry.recover(grace_s=60)
    await bench.assert_nothing_left()


async def test_a_recovered_sandbox_that_nobody_takes_over_ends(bench):
    bench.ledger.write(RECORD)
    await bench.registry.recover(grace_s=0)
    await bench.assert_nothing_left()


async def test_a_client_that_is_dropped_for_not_reading_loses_its_sandbox(bench):
    # once: Channel.close() removes the socket from under a task that waits for it, and nobody wakes that task
    async with served(bench) as (server, lease):
        await lease.send(verbs.Claim(template="python", workspace_mode="none", workspace_name=""))
        assert await lease.receive() is not None
        (sandbox,) = bench.registry.claimed()
        gone = verbs.SandboxGone(sandbox=sandbox.id, message="x")
        for _ in range(1000):  # more than a connection's queue holds, before it can deliver one
            sandbox.holder(gone)
        await eventually(lambda: bench.registry.claimed() == [], 5)
        await eventually(lambda: server.is_idle, 5)
    await bench.assert_nothing_left()
