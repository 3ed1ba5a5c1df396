"""Which engine a broker uses when sandboxes outlived the one before, and what keeps the next one from starting."""

from __future__ import annotations

import errno
import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from jupyter_sandbox.broker import client, recovery
from jupyter_sandbox.engines import held
from jupyter_sandbox.errors import (
    BrokerUnavailableError,
    EngineUnavailableError,
    InvalidRequestError,
    IsolationUnavailableError,
    StartError,
)
from jupyter_sandbox.guards import ids
from jupyter_sandbox.host import processes
from jupyter_sandbox.ledger import Record

pytestmark = pytest.mark.unit

LIVING = Record(
    id=ids.SandboxId("sbx_" + "1" * 20),
    template="python",
    slot=1,
    pid=os.getpid(),
    started=processes.start_time(os.getpid()),
    owner=0,
    engine="docker",
)
WARM, ENDED, OLD = replace(LIVING, owner=None), replace(LIVING, started=1), replace(LIVING, engine="")


def test_what_lives_keeps_its_engine_when_nobody_asks_for_another():
    # once: sandboxes in containers were recovered by the engine `embedded` while the daemon was away
    assert recovery.engine_for("auto", [ENDED, LIVING]) == "docker"
    assert recovery.engine_for("docker", [LIVING]) == "docker"


@pytest.mark.parametrize("record", [WARM, ENDED, OLD, replace(LIVING, pid=0)], ids=["warm", "ended", "old", "no pid"])
def test_what_ended_or_has_no_owner_or_tells_no_engine_decides_nothing(record):
    for wanted in ("auto", "embedded", "docker"):
        assert recovery.engine_for(wanted, [record]) == wanted


def test_another_engine_is_refused_while_sandboxes_live_that_it_cannot_take_over():
    with pytest.raises(IsolationUnavailableError, match="sandboxes of the engine docker live"):
        recovery.engine_for("embedded", [LIVING])
    with pytest.raises(IsolationUnavailableError, match="docker, embedded"):
        recovery.engine_for("auto", [LIVING, replace(LIVING, engine="embedded")])


NOT_NOW = [OSError(errno.EMFILE, "Too many open files"), OSError(errno.ENOMEM, "Cannot allocate memory")]


def _fail_with(error):
    def fail(*_args):
        raise error

    return fail


@pytest.mark.parametrize("error", NOT_NOW)
@pytest.mark.parametrize("place", [(os, "pidfd_open"), (Path, "read_text")], ids=["pidfd_open", "stat"])
def test_a_process_that_cannot_be_looked_at_now_is_not_taken_for_dead(monkeypatch, place, error):
    # once: too many open files at the wrong moment cost a living sandbox
    before = len(os.listdir("/proc/self/fd"))
    monkeypatch.setattr(*place, _fail_with(error))
    with pytest.raises(OSError, match=error.strerror):
        processes.open_living(LIVING.pid, LIVING.started)
    slots = held.Slots()
    with pytest.raises(OSError, match=error.strerror):
        held.open_recorded(LIVING, slots)
    assert slots.take("sbx_" + "2" * 20) != LIVING.slot
    with pytest.raises(IsolationUnavailableError, match="sandboxes of the engine docker live"):
        recovery.engine_for("embedded", [LIVING])
    assert len(os.listdir("/proc/self/fd")) == before


def _caused_by(error) -> StartError:
    ours = StartError("it could not be done")
    ours.__cause__ = error
    return ours


@pytest.mark.parametrize("error", [*NOT_NOW, TimeoutError(), subprocess.TimeoutExpired("nft", 10)])
def test_what_timed_out_or_the_machine_could_not_do_may_pass(error):
    assert recovery.may_pass(_caused_by(error))
    assert recovery.may_pass(EngineUnavailableError("away"))


@pytest.mark.parametrize(
    "error", [None, ConnectionRefusedError(), BrokenPipeError(), FileNotFoundError(), ValueError()]
)
def test_what_an_agent_said_and_that_nobody_listens_is_final(error):
    assert not recovery.may_pass(_caused_by(error))
    assert not recovery.may_pass(InvalidRequestError("too much"))


@pytest.mark.parametrize("number", [errno.ESRCH, errno.ENOENT, errno.EINVAL])
def test_a_process_that_is_gone_is_dead_even_if_a_thread_has_its_number(monkeypatch, number):
    monkeypatch.setattr(os, "pidfd_open", _fail_with(OSError(number, "")))
    assert processes.open_living(LIVING.pid, LIVING.started) is None
    slots = held.Slots()
    assert held.open_recorded(LIVING, slots) is None
    assert slots.take("sbx_" + "2" * 20) == LIVING.slot


@pytest.mark.parametrize("error", [IsolationUnavailableError("no container engine"), EngineUnavailableError("away")])
async def test_a_next_broker_that_does_not_start_is_away_whatever_keeps_it(monkeypatch, error):
    # once: the error went through `poll` of every kernel that lives
    async def connect(**_how):
        raise error

    monkeypatch.setattr(client, "connect", connect)
    lease = client.Lease(_Closed(), LIVING.id, "/", "python", "")
    for _ in range(2):
        with pytest.raises(BrokerUnavailableError, match=str(error)):
            await lease.reattach()
    assert lease.loss is None


class _Closed:
    """The channel to a broker that died."""

    closed = True

    def close(self) -> None:
        return
