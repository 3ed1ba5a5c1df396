"""A bounded run of chaos against the real system; `make soak` runs as long as one likes."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as some
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from tests.chaos.actions import Chaos, audited
from tests.chaos.system import a_system
from tests.conftest import stop_broker, wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.needs_root, pytest.mark.slow, pytest.mark.timeout(600)]

EXAMPLES = int(os.environ.get("JUPYTER_SANDBOX_CHAOS_EXAMPLES", "3"))
STEPS = int(os.environ.get("JUPYTER_SANDBOX_CHAOS_STEPS", "12"))
picks = some.integers(0, 1 << 20)


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


def test_whatever_is_done_and_killed_nothing_is_lost_doubled_or_left():
    stop_broker()  # the session's, if there is one: it comes back when it is needed, and would disturb counting
    with a_system() as system:
        chaos = Chaos(system)
        bounded = settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            database=None,
            phases=[Phase.generate],  # a history is not made shorter: it takes minutes, and faults come when they like
            suppress_health_check=list(HealthCheck),
            print_blob=True,
        )
        try:
            run_state_machine_as_test(machine(chaos), settings=bounded)
        finally:
            print("the last history:", *chaos.history.steps, sep="\n  ")
            print(chaos.recoveries())
        wait_until(lambda: len(audited(system, "sandbox_ended")) >= len(chaos.history.ever))
        chaos.history.audited(audited(system, "sandbox_claimed"), audited(system, "sandbox_ended"))
