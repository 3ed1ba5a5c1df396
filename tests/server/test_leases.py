"""How long claimed sandboxes live: use renews, the end is announced in the notebook, no clock on the wall matters."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest
from jupyter_server.services.kernels import kernelmanager
from traitlets.config import Config

from jupyter_sandbox import activity, events, sandbox_terms
from tests.conftest import eventually
from tests.server.notebook import FORMATS
from tests.server.test_events import Audit

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def audit():
    return Audit()


@pytest.fixture
def jp_server_config(jp_server_config, audit):
    jp_server_config.merge(Config({"EventLogger": {"handlers": [audit]}}))
    return jp_server_config


class Turned:
    """The clock of the service, which a test can turn on."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


@pytest.fixture
def clock(rest):
    turned = rest.services.sandboxes._clock = Turned()
    return turned


def left_s(rest, sandbox_id: str) -> float:
    service = rest.services.sandboxes
    return service._claimed[sandbox_id].term.ends_at - service._clock()


async def test_whatever_a_client_does_in_it_renews_a_sandbox(rest, clock):
    context = await rest.context((await rest.claimed(timeout_s=600))["id"])
    sandbox_id = context.sandbox_id
    uses = [
        lambda: context.start("1"),
        lambda: rest.post(sandbox_id, "commands", body={"argv": ["true"]}),
        lambda: rest("PUT", sandbox_id, "files", "f", raw="x"),
        lambda: rest.get(sandbox_id, "files", "f"),
        lambda: rest.post(sandbox_id, "contexts", body={}),
    ]
    for use in uses:
        clock.ahead_s += 500
        assert (await use()).status < 300
        await rest.services.sandboxes.tick()
        assert left_s(rest, sandbox_id) > 590
    clock.ahead_s += 500
    for looking in ((sandbox_id,), (), (sandbox_id, "contexts"), (sandbox_id, "usage")):
        assert (await rest.get(*looking)).status == 200
    await rest.services.sandboxes.tick()
    assert left_s(rest, sandbox_id) < 150, "who only looks does not use it"
    clock.ahead_s += 150
    await rest.services.sandboxes.tick()
    await eventually(lambda: sandbox_id not in rest.services.sandboxes._claimed)


async def test_what_runs_for_a_client_keeps_its_sandbox(rest, clock):
    context = await rest.context((await rest.claimed(timeout_s=600))["id"])
    started = await context.start("import time; time.sleep(60)", detached=True, timeout_s=600)
    clock.ahead_s += 700
    await rest.services.sandboxes.tick()
    assert left_s(rest, context.sandbox_id) > 590
    assert (await rest.delete(context.sandbox_id, "contexts", context.id)).status == 204, started


@pytest.mark.parametrize("protocol", FORMATS)
async def test_a_notebook_renews_its_sandbox_and_is_told_below_its_last_cell_that_it_ends(
    rest, clock, audit, open_notebook, protocol
):
    context = await rest.context((await rest.claimed(timeout_s=600))["id"])
    notebook = await open_notebook(context.id, protocol)
    await notebook.run("print('first')")
    sandbox = rest.services.sandboxes._claimed[context.sandbox_id]
    sandbox.term = sandbox.term.begun(time.monotonic() - 300, 600, is_renewed_by_use=True)
    cell = notebook.start("print('last')")
    assert (await notebook.finish(cell)).status == "ok"
    await rest.services.sandboxes.tick()
    assert left_s(rest, context.sandbox_id) > 590
    clock.ahead_s += 545
    await rest.services.sandboxes.tick()
    await rest.services.sandboxes.tick()
    (told,) = [
        message
        for message in await notebook.receive_until(lambda message: message["content"].get("name") == "stderr")
        if message["content"].get("name") == "stderr"
    ]
    assert told["parent_id"] == cell
    assert "This sandbox ends in 5" in told["content"]["text"]
    assert "unless it is used or renewed" in told["content"]["text"]
    event = await audit.one(events.SandboxEndsSoon, sandbox_id=context.sandbox_id)
    assert 40 < event["left_s"] < 60


async def test_what_a_kernel_says_by_itself_renews_nothing(rest, clock, open_notebook):
    context = await rest.context((await rest.claimed(timeout_s=600))["id"])
    notebook = await open_notebook(context.id)
    code = "import threading, time\ndef talk():\n    while True: print('alive', flush=True); time.sleep(0.01)\n"
    cell = notebook.start(code + "threading.Thread(target=talk, daemon=True).start()")
    assert (await notebook.finish(cell)).status == "ok"
    await notebook.printed(cell, "alive")
    clock.ahead_s += 500
    await notebook.printed(cell, "alive")
    await rest.services.sandboxes.tick()
    assert left_s(rest, context.sandbox_id) < 150


class Stepped(datetime):
    """A wall clock that was moved."""

    step = timedelta()

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + cls.step


@pytest.mark.parametrize("hours", [1, -1])
async def test_a_step_of_the_wall_clock_ends_nothing_and_keeps_nothing(rest, monkeypatch, clock, hours):
    claimed = await rest.claimed(timeout_s=600)
    said = datetime.fromisoformat(claimed["expires_at"])
    monkeypatch.setattr(sandbox_terms, "datetime", Stepped)
    monkeypatch.setattr(Stepped, "step", timedelta(hours=hours))
    await rest.services.sandboxes.tick()
    now = await rest.get(claimed["id"])
    assert now.status == 200
    moved = datetime.fromisoformat(now.body["expires_at"]) - said
    assert abs(moved - timedelta(hours=hours)) < timedelta(seconds=5), "it says when it ends on the clock as it is"
    clock.ahead_s += 601
    await rest.services.sandboxes.tick()
    await eventually(lambda: claimed["id"] not in rest.services.sandboxes._claimed)


async def test_a_step_of_the_wall_clock_culls_no_kernel(new_notebook, jp_serverapp, monkeypatch):
    notebook = await new_notebook()
    await notebook.run("1")
    manager = jp_serverapp.kernel_manager
    kernel = manager.get_kernel(notebook.kernel_id)
    manager.cull_idle_timeout, manager.cull_connected = 600, True
    for hours in (1, -1):
        monkeypatch.setattr(activity, "datetime", Stepped)
        monkeypatch.setattr(Stepped, "step", timedelta(hours=hours))
        monkeypatch.setattr(kernelmanager, "utcnow", lambda: Stepped.now(UTC))
        await manager.cull_kernel_if_idle(notebook.kernel_id)
        assert notebook.kernel_id in manager
    kernel.sandbox_active_at -= 599
    await manager.cull_kernel_if_idle(notebook.kernel_id)
    told = await notebook.receive_until(lambda message: message["content"].get("name") == "stderr")
    assert "Nobody uses this kernel: it will be shut down" in told[-1]["content"]["text"]
    kernel.sandbox_active_at -= 2
    await manager.cull_kernel_if_idle(notebook.kernel_id)
    assert notebook.kernel_id not in manager
