"""What a server that starts makes of what the broker and the notes say, whatever that is."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from types import SimpleNamespace

import pytest
from jupyter_client.session import Session

from jupyter_sandbox import adoption, notes, offline
from jupyter_sandbox.adoption import Adoption
from jupyter_sandbox.broker import client, left, verbs
from jupyter_sandbox.broker.adoption import judged
from jupyter_sandbox.errors import BrokerUnavailableError, ConflictError, InvalidRequestError, UnknownSandboxError
from jupyter_sandbox.host import places
from jupyter_sandbox.kernel_identity import Identity
from sandbox_worker import messages
from tests.conftest import eventually

pytestmark = pytest.mark.unit

ONE, TWO = "sbx_" + "1" * 20, "sbx_" + "2" * 20
KERNEL = notes.KernelNote(
    kernel_id="a-b-c-d-1",
    kernel_name="sandbox-python",
    owner="user alice",
    hides_files=True,
    key="0" * 64,
    environment={"LANG": "C"},
    cwd="/home/alice",
    sessions=(notes.Session(id="1", path="a", name="a", type="notebook"),),
)
SANDBOX = notes.SandboxNote(owner="*", timeout_s=900, length_s=900, ends_at=1.0)


class Lease:
    def __init__(self, sandbox: str) -> None:
        self.sandbox, self.tenants, self.exits, self.is_closed = sandbox, set(), {}, False
        self.vacated: list[str] = []

    def close(self) -> None:
        self.is_closed = True

    async def vacate(self, seat) -> None:
        self.vacated.append(seat)


class Stream:
    """A connection on which a kernel answers, or does not."""

    def __init__(self, answers: bool) -> None:
        self.answers, self.is_closed = answers, False
        self.judged = SimpleNamespace(content={"protocol_version": "5.4"})

    def on_recv(self, callback) -> None:
        self.callback = callback

    def send_multipart(self, *_arguments, **_settings) -> None:
        if self.answers:
            asyncio.get_running_loop().call_soon(self.callback, [])

    def close(self) -> None:
        self.is_closed = True


class Kernels(dict):
    """Jupyter's manager of all kernels."""

    connection_dir = "/nowhere"
    is_busy = False

    def __init__(self) -> None:
        super().__init__()
        self.started, self.names = [], {"sandbox-python"}

    def get_kernel(self, kernel_id):
        return self[kernel_id]

    async def start_kernel(self, *, kernel_id, kernel_name, resumed, **settings):
        if kernel_name not in self.names:
            raise KeyError(kernel_name)
        self.started.append((resumed.seat, settings))
        provisioner = SimpleNamespace(lease=resumed.lease, has_process=True, launches=1)
        self.setdefault(
            kernel_id,
            SimpleNamespace(
                provisioner=provisioner,
                session=Session(key=b"key"),
                last_activity=0,
                execution_state="starting",
                connect_shell=lambda identity: Stream(not self.is_busy),
                connect_control=lambda identity: Stream(True),
            ),
        )


class World:
    """A broker that is asked by `left` and `client`, and a server that asks."""

    def __init__(self, monkeypatch) -> None:
        self.left: dict[str, dict[str, str]] = {}
        self.running: set[str] = set()
        self.leases: dict[str, Lease] = {}
        self.refusals: dict[str, Exception] = {}
        self.asked, self.taken_back, self.restored, self.expected = [], [], [], []
        self.offers, self.brokers = [], 0
        self.kernels = Kernels()
        sandboxes = SimpleNamespace(
            notes=SimpleNamespace(server="s"), take_back=lambda lease, note: self.taken_back.append(lease.sandbox)
        )

        async def restore(kernel_id, sessions):
            self.restored.append((kernel_id, sessions))

        sessions = SimpleNamespace(restore=restore)
        clients = {"a-b-c-d-1": "session"}
        self.adoption = Adoption(self.kernels, sandboxes, sessions, clients, 1000, self.offer)
        monkeypatch.setattr(left, "sandboxes", self.sandboxes)
        monkeypatch.setattr(left, "adopt", self.adopt)
        monkeypatch.setattr(left, "read_note", self.read_note)
        monkeypatch.setattr(client, "call", self.call)
        monkeypatch.setattr(client, "next_broker", self.next_broker)
        monkeypatch.setattr(offline, "expect", lambda *arguments: self.expected.append(arguments[1:]))

    async def offer(self):
        self.offers.append(len(self.kernels.started))

    async def sandboxes(self, server):
        assert server == "s"
        return list(self.left)

    async def adopt(self, sandbox, _server):
        if error := self.refusals.get(sandbox):
            raise error
        lease = self.leases[sandbox] = Lease(sandbox)
        seats = [seat for seat in self.left[sandbox] if seat]
        lease.exits = {seat: None for seat in seats if seat not in self.running}
        return lease, {seat: f"/run/k/{seat}" for seat in seats}

    async def read_note(self, sandbox, seat=""):
        return self.left[sandbox].get(seat, "")

    async def next_broker(self):
        self.brokers += 1
        return Lease("")

    async def call(self, request, _kind, **_settings):
        self.asked.append(request)

    def leave(self, sandbox: str, of_sandbox: notes.SandboxNote | None = None, **kernels: object) -> None:
        """Let a server have left a sandbox; kernels are notes, or what stands in the place of one."""
        self.left[sandbox] = {"": notes.text_of(of_sandbox) if of_sandbox else ""}
        for seat, note in kernels.items():
            self.left[sandbox][seat] = note if isinstance(note, str) else notes.text_of(note)
            self.running.add(seat)


@pytest.fixture
def world(monkeypatch):
    monkeypatch.delenv(places.SOCKET_VARIABLE, raising=False)
    return World(monkeypatch)


async def test_a_kernel_is_resumed_with_all_that_was_noted(world):
    world.leave(ONE, one=KERNEL)
    assert await world.adoption.run() == 1
    assert world.offers == [0], "first, or kernels of other languages have no kernelspec"
    ((seat, settings),) = world.kernels.started
    assert (seat, settings) == ("one", {"env": {"LANG": "C"}, "cwd": "/home/alice"})
    kernel = world.kernels["a-b-c-d-1"]
    assert kernel.sandbox_hides_files
    assert world.leases[ONE].tenants == {"one"}
    assert world.restored == [("a-b-c-d-1", KERNEL.sessions)]
    assert world.expected == [("a-b-c-d-1", "session", 1000)]
    assert world.asked == []
    await eventually(lambda: kernel.execution_state == "idle")
    assert kernel._kernel_info_future.result() == {"protocol_version": "5.4"}


async def test_a_kernel_that_runs_code_is_busy_and_known_all_the_same(world):
    world.kernels.is_busy = True
    world.leave(ONE, one=KERNEL)
    await world.adoption.run()
    kernel = world.kernels["a-b-c-d-1"]
    assert await kernel._kernel_info_future == {"protocol_version": "5.4"}
    assert kernel.execution_state == "busy"
    world.adoption.stop()


async def test_a_guest_starts_where_it_was(world):
    guest = notes.Guest(directory="/tmp", environment={"A": "b"})
    world.leave(ONE, SANDBOX, one=replace(KERNEL, guest=guest, cwd=None))
    await world.adoption.run()
    ((_, settings),) = world.kernels.started
    place = settings["place"]
    assert (place.lease, place.directory, place.environment) == (world.leases[ONE], "/tmp", {"A": "b"})
    assert world.taken_back == [ONE]
    world.adoption.stop()


@pytest.mark.parametrize("note", ["", "{", replace(KERNEL, key="short"), replace(KERNEL, kernel_name="gone")], ids=str)
async def test_a_kernel_that_cannot_be_had_again_ends(world, note):
    world.leave(ONE, SANDBOX, one=note)
    assert await world.adoption.run() == 1, "its sandbox was claimed, and stays"
    assert world.leases[ONE].vacated == ["one"]
    assert world.leases[ONE].tenants == set()
    assert not world.leases[ONE].is_closed


async def test_a_sandbox_that_nobody_can_use_is_given_back(world):
    world.leave(ONE, one="{")
    assert await world.adoption.run() == 0
    assert world.asked[-1] == verbs.Release(sandbox=ONE)
    assert world.leases[ONE].is_closed


async def test_of_two_kernels_with_one_id_one_is_had(world):
    world.leave(ONE, SANDBOX, one=KERNEL, two=KERNEL)
    await world.adoption.run()
    assert world.leases[ONE].tenants == {"two"}
    assert world.leases[ONE].vacated == ["one"]
    world.leave(TWO, one=KERNEL)
    world.left.pop(ONE)
    assert await world.adoption.run() == 1, "the first one still"
    assert world.asked[-1] == verbs.Release(sandbox=TWO)
    world.adoption.stop()


@pytest.mark.parametrize("error", [UnknownSandboxError("gone"), ConflictError("held"), RuntimeError("a bug")], ids=str)
async def test_what_cannot_be_adopted_keeps_nobody_else_from_it(world, error):
    world.leave(ONE, one=KERNEL)
    world.leave(TWO, two=replace(KERNEL, kernel_id="a-b-c-d-2"))
    world.refusals[ONE] = error
    assert await world.adoption.run() == 1
    assert list(world.kernels) == ["a-b-c-d-2"]
    world.adoption.stop()


async def test_an_ended_kernel_is_neither_busy_nor_asked(world):
    world.leave(ONE, one=KERNEL)
    world.running.clear()
    await world.adoption.run()
    assert world.kernels["a-b-c-d-1"].execution_state == "starting", "who restarts it sees that it ended"
    assert world.expected == []


async def test_without_a_broker_and_without_records_there_is_nothing(world, monkeypatch):
    async def away(_server):
        raise BrokerUnavailableError("away")

    monkeypatch.setattr(left, "sandboxes", away)
    monkeypatch.setattr(adoption, "_has_records", lambda: False)
    assert await world.adoption.run() == 0
    monkeypatch.setattr(adoption, "_has_records", lambda: True)
    with pytest.raises(BrokerUnavailableError):
        await world.adoption.run()
    assert world.brokers == 1, "one was started"
    monkeypatch.setenv(places.SOCKET_VARIABLE, "/run/elsewhere")
    with pytest.raises(BrokerUnavailableError):
        await world.adoption.run()
    assert world.brokers == 1, "somebody else starts it"


async def test_a_broker_that_comes_late_is_waited_for(world, monkeypatch):
    monkeypatch.setattr(adoption, "_RETRY_S", 0.01)
    monkeypatch.setenv(places.SOCKET_VARIABLE, "/run/elsewhere")
    world.leave(ONE, one=KERNEL)
    calls = []

    async def late(_server):
        calls.append(1)
        if len(calls) < 3:
            raise BrokerUnavailableError("not yet")
        return [ONE]

    monkeypatch.setattr(left, "sandboxes", late)
    assert await world.adoption.go_on(30) == 1
    calls.clear()
    monkeypatch.setattr(left, "sandboxes", late)
    with pytest.raises(BrokerUnavailableError):
        await world.adoption.go_on(-1)
    world.adoption.stop()


async def test_a_kernel_whose_sessions_cannot_be_had_again_costs_no_other_its_place(world, monkeypatch):
    # once: those that came after it in the same sandbox ran on where nobody could reach or end them
    async def restore(kernel_id, sessions):
        raise OSError("database or disk is full")

    monkeypatch.setattr(world.adoption._sessions, "restore", restore)
    world.leave(ONE, SANDBOX, one=KERNEL, two=replace(KERNEL, kernel_id="a-b-c-d-2"))
    assert await world.adoption.run() == 1
    assert sorted(world.kernels) == ["a-b-c-d-1", "a-b-c-d-2"]
    await eventually(lambda: {each.execution_state for each in world.kernels.values()} == {"idle"})


@pytest.mark.parametrize("value", ['"' * 17_000, '"' * 24_000])
async def test_a_kernel_starts_though_its_note_is_too_long(monkeypatch, caplog, value):
    # once: what the environment may hold was more than a message about the note can, and the start failed
    async def call(request, *_arguments, **_settings):
        judged(request.text)  # as the broker does
        try:
            messages.encode(request)
        except messages.MessageError as error:
            raise InvalidRequestError(str(error)) from error

    monkeypatch.setattr(client, "call", call)
    manager = SimpleNamespace(sandbox_server="s", kernel_id="a-b-c-d-1", kernel_name="sandbox-python")
    identity = Identity()
    identity.kernel(argv=None, environment={"A": value}, cwd=None, place=None, manager=manager)
    await identity.note_late(ONE)
    assert "will not find it again" in caplog.text


@pytest.mark.parametrize("asks", ["for a sandbox", "for a note"])
async def test_what_a_broker_that_died_meanwhile_did_not_give_is_asked_of_the_next_one(world, monkeypatch, asks):
    # once: it counted as a sandbox that cannot be adopted, and was destroyed when nobody took it over in time
    monkeypatch.setattr(adoption, "_RETRY_S", 0.01)
    world.leave(ONE, SANDBOX, one=KERNEL)
    world.leave(TWO, SANDBOX, two=replace(KERNEL, kernel_id="a-b-c-d-2"))
    away = BrokerUnavailableError("the broker went away")

    async def no_note(sandbox, seat=""):
        if sandbox == TWO and seat:
            raise away
        return world.left[sandbox].get(seat, "")

    if asks == "for a sandbox":
        world.refusals[TWO] = away
    else:
        monkeypatch.setattr(left, "read_note", no_note)
    with pytest.raises(BrokerUnavailableError):
        await world.adoption.run()
    assert world.taken_back == [ONE], "nobody else is kept from it"
    if asks == "for a note":
        assert world.leases[TWO].is_closed
    world.refusals.clear()
    monkeypatch.setattr(left, "read_note", world.read_note)
    assert await world.adoption.go_on(30) == 2
    assert world.taken_back == [ONE, TWO], "what was had is not asked for again"
    assert sorted(world.kernels) == ["a-b-c-d-1", "a-b-c-d-2"]
    world.adoption.stop()
