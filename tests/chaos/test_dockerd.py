"""The container engine goes away and comes back: with `live-restore` no sandbox is lost, without it their ends are told."""

from __future__ import annotations

import signal

import pytest

from jupyter_sandbox.broker.app import ENGINE_VARIABLE
from tests.chaos.dockerd import a_daemon
from tests.chaos.outages import end_of_all, outage
from tests.chaos.system import a_system
from tests.conftest import stop_broker

pytestmark = [pytest.mark.e2e, pytest.mark.needs_root, pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def world():
    """A system, and the engine that only its workers are on; when they end, nothing of them may be left."""
    stop_broker()
    with pytest.MonkeyPatch.context() as patch, a_daemon() as dockerd:
        patch.setenv(ENGINE_VARIABLE, "docker")
        with a_system() as system:
            yield system, dockerd


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_nothing_is_lost_while_an_engine_that_restores_is_away(world, number):
    outage(*world, number)


def test_what_an_engine_takes_along_is_told_and_new_ones_come(world):
    end_of_all(*world)
