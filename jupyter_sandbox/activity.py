"""When a kernel was last active and whether it is busy, from messages that were judged.

The rules are those of `MappingKernelManager.start_watching_activity`, which reads every message once more to find three
names in it. Culling and the list of kernels depend on them. Both look at stamps of the wall clock, so the stamp of a
sandbox kernel is set right before it is judged when that clock was moved.
"""

from __future__ import annotations

import functools
import time
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, cast

from jupyter_sandbox import notices

if TYPE_CHECKING:
    from jupyter_sandbox.guards.kernel_messages import Judged


_DRIFT: Final = timedelta(seconds=1)


def note(kernel: Any) -> datetime:
    """Note that a kernel is active now; return the stamp."""
    kernel.sandbox_active_at = time.monotonic()
    kernel.last_activity = datetime.now(UTC)
    return cast("datetime", kernel.last_activity)


def set_right(kernel: Any) -> None:
    """Make the stamp of a kernel's last activity as old as it is, whatever happened to the wall clock meanwhile.

    Of a kernel whose activity is not recorded here nothing is known, and nothing is changed.
    """
    active_at = getattr(kernel, "sandbox_active_at", None)
    if active_at is not None:
        right = datetime.now(UTC) - timedelta(seconds=time.monotonic() - active_at)
        if abs(right - kernel.last_activity) > _DRIFT:
            kernel.last_activity = right


def announce(multi_manager: Any, kernel: Any) -> None:
    """Say in the notebooks of a kernel that the next look may end it, once for each time that it is idle."""
    active_at = getattr(kernel, "sandbox_active_at", None)
    if active_at is None or not multi_manager.cull_connected or getattr(kernel, "sandbox_announced", None) == active_at:
        return
    timeout_s = kernel.kernel_spec.metadata.get("cull_idle_timeout", multi_manager.cull_idle_timeout)
    left_s = timeout_s - (time.monotonic() - active_at)
    if left_s <= multi_manager.cull_interval and (multi_manager.cull_busy or kernel.execution_state != "busy"):
        kernel.sandbox_announced = active_at
        within_s = max(0.0, left_s) + multi_manager.cull_interval
        notices.say(kernel, f"Nobody uses this kernel: it will be shut down within {within_s:.0f} s unless it is used.")


def cull_by_age(multi_manager: Any) -> None:
    """Make culling go by how long kernels were idle and not by the wall clock: a step of that ended them all.

    Before it ends one whose notebooks are open, that is announced there.
    """
    stock = getattr(multi_manager, "cull_kernel_if_idle", None)
    if stock is None:
        return

    @functools.wraps(stock)
    async def cull(kernel_id: str) -> None:
        kernel = multi_manager.get_kernel(kernel_id)
        set_right(kernel)
        await stock(kernel_id)
        if kernel_id in multi_manager:
            announce(multi_manager, kernel)

    multi_manager.cull_kernel_if_idle = cull


def record(multi_manager: Any, kernel: Any, judged: Judged) -> None:
    """Note a message of `kernel` on iopub, on the kernel's manager and on the manager of all."""
    if judged.msg_type == "iopub_welcome":
        return  # somebody came to listen: a stock kernel would have said nothing
    is_asked_by_a_person = multi_manager.track_message_type(judged.parent.get("msg_type"))
    if is_asked_by_a_person or multi_manager.track_message_type(judged.msg_type) or kernel.execution_state == "busy":
        multi_manager.last_kernel_activity = note(kernel)
    if judged.msg_type == "status":
        state = judged.content["execution_state"]
        if is_asked_by_a_person:
            kernel.execution_state = state
        elif kernel.execution_state == "starting" and state != "starting":
            kernel.execution_state = "idle"
