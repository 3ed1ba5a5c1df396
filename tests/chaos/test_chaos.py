"""Bounded runs of chaos against the real system, one for all; `make soak` and the modules run as long as one likes."""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from jupyter_sandbox.broker.app import ENGINE_VARIABLE
from tests.chaos import cuts, kills, uploads
from tests.chaos.actions import Chaos
from tests.chaos.dockerd import a_daemon
from tests.chaos.load import Load
from tests.chaos.soak import ours
from tests.chaos.steady import Steady
from tests.chaos.system import a_system
from tests.conftest import stop_broker, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.needs_root, pytest.mark.slow, pytest.mark.timeout(600)]

EXAMPLES = int(os.environ.get("JUPYTER_SANDBOX_CHAOS_EXAMPLES", "2"))
STEPS = int(os.environ.get("JUPYTER_SANDBOX_CHAOS_STEPS", "8"))
LOAD = 0.5
BYSTANDER_S = 30
"""On a machine with other work, while servers and brokers are killed and started anew."""
picks = some.integers(0, 1 << 20)


@pytest.fixture(scope="module")
def dockerd():
    """Where workers are containers, the engine that these are on: it is killed, too."""
    if os.environ.get(ENGINE_VARIABLE) == "docker":
        with a_daemon() as dockerd:
            yield dockerd
    else:
        yield None


@pytest.fixture
def system(dockerd):
    """A system; when it ends, nothing of it may be left."""
    stop_broker()  # the session's, if there is one: it comes back when it is needed, and would disturb counting
    with a_system(with_clock=True, dockerd=dockerd) as system:
        yield system


@pytest.fixture
def chaos(system):
    """A history of its own; whatever it claimed is given back."""
    chaos = Chaos(system)
    yield chaos
    chaos.finish()
    print(chaos.recoveries())


@pytest.fixture
def chance():
    """Chance that pytest shows when a test fails."""
    seed = random.SystemRandom().getrandbits(32)
    print(f"seed {seed}")
    return random.Random(seed)


def machine(chaos: Chaos) -> type[RuleBasedStateMachine]:
    """Everything that can be done, in any order. The system stays; what it holds is given back after each example."""

    class Machine(RuleBasedStateMachine):
        @initialize(pick=picks)
        def begin(self, pick):
            chaos.history.steps.clear()
            chaos.act("claim", pick)
            chaos.act("add_context", pick)

        @rule(action=some.sampled_from(Chaos.ACTIONS), pick=picks)
        def act(self, action, pick):
            chaos.act(action, pick)

        def teardown(self):
            chaos.finish()

    return Machine


def test_whatever_is_done_and_killed_nothing_is_lost_doubled_or_left(system, chaos):
    bounded = settings(
        max_examples=EXAMPLES,
        stateful_step_count=STEPS,
        phases=[Phase.generate],  # a history is not made shorter: it takes minutes, and faults come when they like
        suppress_health_check=list(HealthCheck),
        print_blob=True,
    )
    bystander = Steady(chaos, LOAD)
    try:
        with bystander.at_work(Load(lambda: ours(system))):
            run_state_machine_as_test(machine(chaos), settings=bounded)
    finally:
        print("the last history:", *chaos.history.steps, sep="\n  ")
        print(f"a bystander executed {bystander.executions} times and waited {bystander.worst_s:.2f} s at most")
    assert bystander.executions > 0
    assert bystander.worst_s < BYSTANDER_S
    wait_until(lambda: len(system.audited("sandbox_ended")) >= len(chaos.history.ever))
    chaos.history.audited(system.audited("sandbox_claimed"), system.audited("sandbox_ended"))


def test_a_clock_that_is_set_ends_nothing_and_keeps_nothing(chaos):
    """All six steps from one of three times to another; servers and brokers come and go meanwhile."""
    chaos.act("claim", 0)
    chaos.act("add_context", 0)
    chaos.act("upload", 0)
    for direction in (0, 1):  # forth, back, right; then back, forth, right
        for victim in ("broker", "server", "zygote"):
            chaos.act("step_clock", direction)
            chaos.act(f"kill_{victim}", 0)
            chaos.act("download", 0)
    assert len([step for step in chaos.history.steps if step.startswith("step_clock")]) == 6


def test_what_is_claimed_is_as_before_after_a_kill_at_any_moment(chaos, chance):
    kills.rounds(chaos, 6 if chaos.system.dockerd else 4, chance)  # each once


def test_output_comes_once_or_its_gap_is_told_whenever_a_websocket_is_cut(chaos, chance):
    print(cuts.run(chaos, 50, chance))


def test_an_upload_that_is_killed_leaves_the_old_file_or_the_new_one(chaos, chance):
    print(uploads.run(chaos, 50, chance, server_each=40))
