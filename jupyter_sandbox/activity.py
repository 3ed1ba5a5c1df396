"""When a kernel was last active and whether it is busy, from messages that were judged.

The rules are those of `MappingKernelManager.start_watching_activity`, which reads every message once more to find three
names in it. Culling and the list of kernels depend on them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from jupyter_sandbox.guards.kernel_messages import Judged


def record(multi_manager: Any, kernel: Any, judged: Judged) -> None:
    """Note a message of `kernel` on iopub, on the kernel's manager and on the manager of all."""
    if judged.msg_type == "iopub_welcome":
        return  # somebody came to listen: a stock kernel would have said nothing
    is_asked_by_a_person = multi_manager.track_message_type(judged.parent.get("msg_type"))
    if is_asked_by_a_person or multi_manager.track_message_type(judged.msg_type) or kernel.execution_state == "busy":
        multi_manager.last_kernel_activity = kernel.last_activity = datetime.now(UTC)
    if judged.msg_type == "status":
        state = judged.content["execution_state"]
        if is_asked_by_a_person:
            kernel.execution_state = state
        elif kernel.execution_state == "starting" and state != "starting":
            kernel.execution_state = "idle"
