"""The parts of a restart that need no server: signals, notes of claims and sessions, executions of the past."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
from dataclasses import replace
from types import SimpleNamespace

import pytest

from jupyter_sandbox import adoption, execution_slate, notes, sandbox_notes, session_notes
from jupyter_sandbox.broker import left
from jupyter_sandbox.broker.adoption_verbs import MAX_NOTE
from jupyter_sandbox.draining import Draining
from jupyter_sandbox.errors import BrokerUnavailableError
from jupyter_sandbox.events import Origin
from jupyter_sandbox.execution_slate import ExecutionSlate
from jupyter_sandbox.owners import EVERYBODY
from jupyter_sandbox.sandbox import Claim, Sandbox
from jupyter_sandbox.sandbox_notes import SandboxNotes
from jupyter_sandbox.sandboxes import Sandboxes
from jupyter_sandbox.session_notes import SessionNotes
from jupyter_sandbox.slate import Chalked, Slate
from jupyter_sandbox.terms import Term
from tests.conftest import eventually

pytestmark = pytest.mark.unit

CLAIM = Claim(template="python", timeout_s=100, metadata={"a": "b"})


def test_a_server_has_the_same_name_at_the_same_place_only():
    where = ("/home/me", "/run/user/1", "/")
    assert adoption.name_of(*where) == adoption.name_of(*where)
    others = [
        ("/home/me", "/run/user/1", "/x/"),
        ("/home/me/", "run/user/1", "/"),
        ("/home/\udcff", "/run/user/1", "/"),
    ]
    assert len({adoption.name_of(*place) for place in [where, *others]}) == 4


# -- SIGTERM


@pytest.fixture
def stock():
    """The server's own answer to SIGTERM."""
    before, heard = signal.getsignal(signal.SIGTERM), []

    def answer(number, _frame):
        heard.append(number)

    answer.heard = heard
    signal.signal(signal.SIGTERM, answer)
    yield answer
    signal.signal(signal.SIGTERM, before)


async def test_a_server_drains_before_it_ends(stock):
    busy, began = [True], []
    draining = Draining(60, lambda: busy[0], lambda: began.append(1))
    draining.listen(stock)
    os.kill(os.getpid(), signal.SIGTERM)
    await eventually(lambda: began)
    assert draining.has_begun
    assert stock.heard == []
    busy[0] = False
    await eventually(lambda: stock.heard == [signal.SIGTERM])
    draining.stop()
    assert signal.getsignal(signal.SIGTERM) is stock


async def test_a_second_signal_ends_it_at_once(stock):
    draining = Draining(60, lambda: True, lambda: None)
    draining.listen(stock)
    for _ in range(2):
        os.kill(os.getpid(), signal.SIGTERM)
    await eventually(lambda: stock.heard == [signal.SIGTERM])
    draining.stop()
    await eventually(lambda: draining._task is not None)
    draining._task.cancel()


async def test_what_never_ends_is_waited_for_so_long_only(stock):
    draining = Draining(0.1, lambda: True, lambda: None)
    draining.listen(stock)
    os.kill(os.getpid(), signal.SIGTERM)
    await eventually(lambda: stock.heard == [signal.SIGTERM])
    draining.stop()


async def test_who_answers_the_signal_otherwise_goes_on(stock):
    draining = Draining(60, lambda: True, lambda: None)
    draining.listen(lambda number, frame: None)
    assert signal.getsignal(signal.SIGTERM) is stock
    draining.stop()
    assert signal.getsignal(signal.SIGTERM) is stock


# -- notes of claims


@pytest.fixture
def written(monkeypatch):
    """The notes that reach the broker; each takes a turn of the loop, or fails."""

    async def write_note(sandbox, text, seat=""):
        await asyncio.sleep(0)
        if broker.is_away:
            raise BrokerUnavailableError("away")
        broker.notes.append(notes.sandbox(text))

    broker = SimpleNamespace(notes=[], is_away=False)
    monkeypatch.setattr(left, "write_note", write_note)
    return broker


def claimed(**values) -> Sandbox:
    lease = SimpleNamespace(sandbox="sbx_" + "0" * 20)
    sandbox = Sandbox(lease=lease, owner=EVERYBODY, origin=Origin.CLAIM, claim=CLAIM, **values)
    ends(sandbox, 1000.0)
    return sandbox


def ends(sandbox: Sandbox, at: float) -> None:
    sandbox.term = Term(length_s=100, ends_at=at, is_renewed_by_use=True)


@pytest.fixture
def known():
    known = SandboxNotes()
    known.server = "s"
    return known


async def test_changes_that_come_together_are_noted_once_with_the_last(written, known):
    sandbox = claimed()
    known.changed(sandbox)
    ends(sandbox, 2000.0)
    known.keep(sandbox, "part", "text")
    known.keep(sandbox, "part", "text")
    await known.written(sandbox)
    assert [(note.ends_at, note.parts) for note in written.notes] == [(2000.0, {"part": "text"})]
    await known.written(sandbox)


async def test_what_changes_while_it_is_noted_is_noted_after(written, known):
    sandbox = claimed()
    known.changed(sandbox)
    await asyncio.sleep(0)
    ends(sandbox, 2000.0)
    known.changed(sandbox)
    await known.written(sandbox)
    assert [note.ends_at for note in written.notes] == [1000.0, 2000.0]


async def test_not_each_use_is_noted_and_none_is_forgotten_for_long(written, known):
    sandbox = claimed(noted_until=1000.0)
    ends(sandbox, 1000.0 + sandbox_notes.slack_s(100))
    known.used(sandbox)
    await known.written(sandbox)
    assert written.notes == []
    later = 1000.1 + sandbox_notes.slack_s(100)
    ends(sandbox, later)
    known.used(sandbox)
    await known.written(sandbox)
    assert [note.ends_at for note in written.notes] == [later]
    assert sandbox.noted_until == later


@pytest.mark.parametrize(("timeout_s", "slack_s"), [(1, 0.25), (20, 5), (86_400, 5)])
def test_the_slack_is_small(timeout_s, slack_s):
    assert sandbox_notes.slack_s(timeout_s) == slack_s


async def test_a_broker_that_is_away_is_no_failure(written, known):
    written.is_away = True
    sandbox = claimed()
    known.changed(sandbox)
    await known.written(sandbox)
    written.is_away = False
    known.changed(sandbox)
    await known.written(sandbox)
    assert len(written.notes) == 1


async def test_what_could_not_be_noted_is_noted_when_the_broker_is_back(written, known):
    # once: a token that was revoked meanwhile was good again for the next start of the server
    sandboxes = Sandboxes(SimpleNamespace(list_kernel_ids=list), lambda: 0.0)
    sandboxes.notes.server = "s"
    nothing = {"listen": lambda: None, "close": lambda: None}
    lease = SimpleNamespace(sandbox="sbx_" + "0" * 20, template="python", loss=None, is_connected=True, **nothing)
    sandboxes.take_back(lease, notes.sandbox(known.keepsake(EVERYBODY, CLAIM, None, 1000.0).note))
    sandbox = sandboxes.find(EVERYBODY, lease.sandbox)
    written.is_away = True
    sandboxes.notes.keep(sandbox, "tokens", "none")
    await sandboxes.noted(sandbox.id)
    written.is_away = False
    for _ in range(2):
        await sandboxes.tick()
        await sandboxes.noted(sandbox.id)
        assert [note.parts for note in written.notes] == [{"tokens": "none"}]
    await sandboxes.leave()


async def test_a_server_without_a_name_notes_nothing(written):
    nameless, sandbox = SandboxNotes(), claimed()
    nameless.keep(sandbox, "part", "text")
    await nameless.written(sandbox)
    assert written.notes == []
    assert nameless.keepsake(EVERYBODY, CLAIM, None, 1.0).server == ""


def test_a_claim_goes_with_its_note_unless_that_is_too_long(known):
    keepsake = known.keepsake(EVERYBODY, CLAIM, "key", 1000.0)
    assert keepsake.server == "s"
    assert notes.sandbox(keepsake.note).metadata == {"a": "b"}
    long = replace(CLAIM, metadata={"a": "x" * MAX_NOTE})
    assert known.keepsake(EVERYBODY, long, None, 1000.0).server == ""


def test_a_claim_is_what_it_was_for_the_next_start(known):
    wanted = replace(CLAIM, is_renewed_by_use=True, env={"A": "b"})
    note = notes.sandbox(known.keepsake(EVERYBODY, wanted, "key", 1000.0).note)
    assert sandbox_notes.claim(note, "python") == wanted
    assert (note.key, note.length_s) == ("key", 100)
    assert sandbox_notes.granted_until(note) == 1005.0


async def test_the_length_that_a_renewal_chose_is_noted(written, known):
    sandbox = claimed()
    sandbox.term = Term(length_s=7, ends_at=1000.0, is_renewed_by_use=True)
    known.changed(sandbox)
    await known.written(sandbox)
    assert [(note.timeout_s, note.length_s) for note in written.notes] == [(100, 7)]


# -- Jupyter's sessions


class Sessions:
    """Jupyter's manager of sessions, as far as it matters."""

    def __init__(self) -> None:
        connection = sqlite3.connect(":memory:")
        connection.row_factory = sqlite3.Row
        self.cursor = connection.cursor()
        self.cursor.execute("CREATE TABLE session (session_id, path, name, type, kernel_id)")

    async def save_session(self, session_id, path=None, name=None, type=None, kernel_id=None):
        self.cursor.execute("INSERT INTO session VALUES (?,?,?,?,?)", (session_id, path, name, type, kernel_id))
        return session_id

    async def update_session(self, session_id, **changes):
        for name, value in changes.items():
            self.cursor.execute(f"UPDATE session SET {name}=? WHERE session_id=?", (value, session_id))

    async def delete_session(self, session_id):
        self.cursor.execute("DELETE FROM session WHERE session_id=?", (session_id,))

    def rows(self):
        return [tuple(row) for row in self.cursor.execute("SELECT * FROM session").fetchall()]


class Provisioner:
    def __init__(self) -> None:
        self.sessions = ()
        self.is_away = False

    async def note_sessions(self, sessions):
        if self.is_away:
            raise BrokerUnavailableError("away")
        self.sessions = sessions


class Kernels(dict):
    def get_kernel(self, kernel_id):
        return SimpleNamespace(provisioner=self[kernel_id])


@pytest.fixture
def kernels(monkeypatch):
    monkeypatch.setattr(session_notes, "SandboxProvisioner", Provisioner)
    return Kernels(k1=Provisioner(), k2=Provisioner(), native=object())


async def test_every_change_of_a_session_is_noted_with_its_kernel(kernels):
    manager = Sessions()
    SessionNotes(manager, kernels)
    assert await manager.save_session("1", path="a.ipynb", name="a", type="notebook", kernel_id="k1") == "1"
    await manager.save_session("2", path="b", name="b", type="console", kernel_id="k1")
    assert [session.id for session in kernels["k1"].sessions] == ["1", "2"]
    await manager.update_session("1", path="c.ipynb")
    assert {session.path for session in kernels["k1"].sessions} == {"b", "c.ipynb"}
    await manager.update_session("1", kernel_id="k2")
    assert [session.id for session in kernels["k1"].sessions] == ["2"]
    assert [session.path for session in kernels["k2"].sessions] == ["c.ipynb"]
    await manager.delete_session("1")
    assert kernels["k2"].sessions == ()
    await manager.save_session("3", path="n", kernel_id="native")
    await manager.delete_session("3")


async def test_a_session_is_made_although_it_cannot_be_noted(kernels):
    manager = Sessions()
    SessionNotes(manager, kernels)
    kernels["k1"].is_away = True
    await manager.save_session("1", path="a", kernel_id="k1")
    assert len(manager.rows()) == 1


async def test_sessions_are_restored_once(kernels):
    manager = Sessions()
    sessions = SessionNotes(manager, kernels)
    session = notes.Session(id="1", path="a", name="b", type="notebook")
    for _ in range(2):
        await sessions.restore("k1", (session,))
    assert manager.rows() == [("1", "a", "b", "notebook", "k1")]
    await manager.save_session("2", path="c", kernel_id="k1")
    assert {each.id for each in kernels["k1"].sessions} == {"1", "2"}


# -- executions of the past

DETACHED = Chalked(
    id="exe_" + "1" * 20,
    context_id="k",
    owner="*",
    sandbox_id="sbx_" + "1" * 20,
    detached=True,
    accepted_at="2026-01-01T00:00:00+00:00",
    timeout_s=60,
)


@pytest.mark.parametrize(
    ("change", "outcome", "words"),
    [
        ({}, "unknown", "is not known"),
        ({"began": False}, "interrupted", "was not run"),
        ({"ended": True}, "unknown", "was lost"),
        ({"began": False, "ended": True}, "unknown", "was lost"),
    ],
)
async def test_an_execution_of_the_past_says_what_is_known(change, outcome, words):
    execution = execution_slate.past(replace(DETACHED, **change))
    view = execution.view()
    assert (view.id, view.outcome, view.detached, view.accepted_at.year) == (DETACHED.id, outcome, True, 2026)
    assert words in view.message
    told = execution.end_event()
    assert (told.outcome, round(told.waited_s, 1)) == (outcome, 0.0), "how long it waited is not known"


@pytest.mark.parametrize(
    "change", [{"id": "exe_x"}, {"id": "m1"}, {"accepted_at": "yesterday"}, {"accepted_at": ""}], ids=str
)
async def test_what_cannot_have_been_one_is_none(change):
    assert execution_slate.past(replace(DETACHED, **change)) is None


async def test_what_nobody_comes_for_is_wiped_off_when_it_is_read(tmp_path):
    slate = Slate(tmp_path / "x.slate")
    waits = replace(DETACHED, id="exe_" + "2" * 20, detached=False)
    cell = Chalked(id="m", context_id="k", session="s")
    for each in (DETACHED, waits, cell):
        slate.write(each)
    slate.close()
    after = Slate(tmp_path / "x.slate")
    known = ExecutionSlate(after)
    assert known.left() == [DETACHED, waits]
    assert after.under_way() == [DETACHED, cell]
    known.told(DETACHED)
    known.forget_all_but({DETACHED.id})
    assert {each.id: each.told for each in after.under_way()} == {DETACHED.id: True, "m": False}
    known.forget_all_but(())
    assert after.under_way() == [cell]
    after.close()
