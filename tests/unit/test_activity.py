"""A kernel's activity is recorded by the rules of the stock server."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from types import SimpleNamespace

import pytest
from jupyter_client.session import Session
from jupyter_server.services.kernels.kernelmanager import MappingKernelManager

from jupyter_sandbox import activity, notices
from jupyter_sandbox.guards import kernel_messages

pytestmark = pytest.mark.unit

SESSION = Session(key=b"key")
STATES = ["starting", "busy", "idle", None]
MESSAGES = [
    ("status", {"execution_state": "busy"}),
    ("status", {"execution_state": "idle"}),
    ("status", {"execution_state": "starting"}),
    ("stream", {"name": "stdout", "text": "x"}),
    ("comm_open", {"comm_id": "1", "target_name": "t"}),
]


class Manager(MappingKernelManager):
    """The stock manager, with one kernel whose iopub is ours to speak on."""

    def __init__(self, kernel: SimpleNamespace) -> None:
        super().__init__()
        self._kernels = {"1": kernel}


def kernel(state: str | None) -> SimpleNamespace:
    stream = SimpleNamespace(on_recv=lambda callback: setattr(stream, "callback", callback))
    return SimpleNamespace(session=SESSION, connect_iopub=lambda: stream, execution_state=state)


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("asked", ["execute_request", "kernel_info_request", "complete_request", None])
@pytest.mark.parametrize(("msg_type", "content"), MESSAGES, ids=[f"{kind}-{said}" for kind, said in MESSAGES])
def test_it_is_what_the_stock_server_would_record(state, asked, msg_type, content):
    parent = {"msg_id": "1", "msg_type": asked} if asked else {}
    parts = SESSION.serialize(SESSION.msg(msg_type, content, parent=parent))
    stock, ours = kernel(state), kernel(state)
    stock_manager, our_manager = Manager(stock), Manager(ours)
    for manager in (stock_manager, our_manager):
        manager.start_watching_activity("1")
    before = {manager: manager.last_kernel_activity for manager in (stock_manager, our_manager)}
    assert stock.last_activity
    stock.last_activity = ours.last_activity = None
    stock._activity_stream.callback(parts)
    activity.record(our_manager, ours, kernel_messages.judge_head("iopub", parts, SESSION.sign, 1 << 20))
    assert (ours.execution_state, ours.last_activity is None) == (stock.execution_state, stock.last_activity is None)
    changed = [manager.last_kernel_activity != before[manager] for manager in (stock_manager, our_manager)]
    assert changed in ([True, True], [False, False])
    assert changed[0] == (stock.last_activity is not None)


def test_a_welcome_is_no_activity():
    """ipykernel says it to everybody when somebody subscribes; a stock kernel only to the first."""
    parts = SESSION.serialize(SESSION.msg("iopub_welcome", {"subscription": ""}))
    ours = kernel("busy")
    ours.last_activity = None
    manager = Manager(ours)
    before = manager.last_kernel_activity
    activity.record(manager, ours, kernel_messages.judge_head("iopub", parts, SESSION.sign, 1 << 20))
    assert (ours.execution_state, ours.last_activity) == ("busy", None)
    assert manager.last_kernel_activity == before


class Stepped(datetime):
    """A wall clock that was moved."""

    step = timedelta()

    @classmethod
    def now(cls, tz=None):
        return datetime.now(tz) + cls.step


class Culler:
    """Culls as the stock manager does: by the stamp of the wall clock."""

    cull_connected, cull_busy, cull_idle_timeout, cull_interval = True, False, 600, 60

    def __init__(self, kernel) -> None:
        self.kernel, self.culled = kernel, False
        kernel.execution_state, kernel.kernel_spec = "idle", SimpleNamespace(metadata={})

    def __contains__(self, _kernel_id):
        return not self.culled

    def get_kernel(self, _kernel_id):
        return self.kernel

    async def cull_kernel_if_idle(self, _kernel_id):
        self.culled = Stepped.now(UTC) - self.kernel.last_activity > timedelta(seconds=600)


@pytest.mark.parametrize("step_s", [0, 3600, -3600])
@pytest.mark.parametrize("idle_s", [0, 590, 610])
async def test_a_kernel_is_culled_for_how_long_it_was_idle_wherever_the_wall_clock_is_moved(
    monkeypatch, step_s, idle_s
):
    kernel = SimpleNamespace()
    stamp = activity.note(kernel)
    kernel.last_activity = stamp - timedelta(seconds=idle_s)
    kernel.sandbox_active_at -= idle_s
    monkeypatch.setattr(activity, "datetime", Stepped)
    monkeypatch.setattr(Stepped, "step", timedelta(seconds=step_s))
    manager = Culler(kernel)
    activity.cull_by_age(manager)
    await manager.cull_kernel_if_idle("k")
    assert manager.culled is (idle_s > 600)


async def test_a_kernel_whose_activity_others_record_is_left_alone():
    # once: the stamp of a native kernel was put back to its start, and so it was culled while it was used
    kernel = SimpleNamespace(last_activity=datetime.now(UTC) - timedelta(seconds=5))
    manager = Culler(kernel)
    activity.cull_by_age(manager)
    before = kernel.last_activity
    await manager.cull_kernel_if_idle("k")
    assert kernel.last_activity == before
    assert not manager.culled


@pytest.mark.parametrize(
    ("idle_s", "change", "is_told"),
    [
        (539, {}, False),
        (541, {}, True),
        (541, {"cull_connected": False}, False),  # then nobody is there to read it
        (541, {"cull_interval": 10}, False),
        (10, {"cull_idle_timeout": 30}, True),
    ],
)
async def test_a_kernel_with_open_notebooks_is_told_once_before_it_is_culled(idle_s, change, is_told):
    kernel, told = SimpleNamespace(), []
    activity.note(kernel)
    kernel.last_activity -= timedelta(seconds=idle_s)
    kernel.sandbox_active_at -= idle_s
    manager = Culler(kernel)
    vars(manager).update(change)
    notices.listen(kernel, told.append)
    activity.cull_by_age(manager)
    await manager.cull_kernel_if_idle("k")
    await manager.cull_kernel_if_idle("k")
    assert len(told) == is_told
    assert all("it will be shut down within" in words for words in told)


async def test_a_busy_kernel_is_not_told_that_it_ends():
    kernel, told = SimpleNamespace(), []
    activity.note(kernel)
    kernel.last_activity -= timedelta(seconds=599)
    kernel.sandbox_active_at -= 599
    manager = Culler(kernel)
    kernel.execution_state = "busy"
    notices.listen(kernel, told.append)
    activity.cull_by_age(manager)
    await manager.cull_kernel_if_idle("k")
    assert told == []
