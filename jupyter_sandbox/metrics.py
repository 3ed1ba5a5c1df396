"""Metrics for Prometheus, made of events and of nothing else; jupyter_server shows them at /metrics.

Every value of a label is a word of ours: an enumeration, an error's code. What a client or a sandbox chose is never
one, so nobody can make series without end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client import Counter, Histogram

from jupyter_sandbox import errors, events

if TYPE_CHECKING:
    from jupyter_sandbox.events import Event

PREFIX: Final = "jupyter_sandbox"
_START_S: Final = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
_EXECUTION_S: Final = (0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800)
_START_KINDS: Final = ("start", "restart")
_PAUSE_KINDS: Final = ("pause", "resume")
_YES_OR_NO: Final = ("no", "yes")

CLAIM_S: Final = Histogram(
    f"{PREFIX}_claim_seconds", "How long owners waited for a sandbox", ["origin"], buckets=_START_S
)
SANDBOXES_ENDED: Final = Counter(f"{PREFIX}_sandboxes_ended", "Sandboxes that ended", ["origin", "reason"])
PAUSE_S: Final = Histogram(
    f"{PREFIX}_pause_seconds", "How long it took to pause sandboxes, and to resume them", ["kind"], buckets=_START_S
)
CONTEXT_START_S: Final = Histogram(
    f"{PREFIX}_context_start_seconds", "How long starts of kernels took, claims included", ["kind"], buckets=_START_S
)
KERNELS_ENDED: Final = Counter(
    f"{PREFIX}_kernels_ended", "Kernels that ended, those that were restarted too", ["reason"]
)
EXECUTIONS: Final = Counter(f"{PREFIX}_executions", "Executions that are over", ["means", "outcome"])
EXECUTION_S: Final = Histogram(
    f"{PREFIX}_execution_seconds", "How long executions had their turn", ["means"], buckets=_EXECUTION_S
)
EXECUTION_WAIT_S: Final = Histogram(
    f"{PREFIX}_execution_wait_seconds", "How long executions waited for their turn", ["means"], buckets=_EXECUTION_S
)
OUTPUT_BYTES: Final = Counter(f"{PREFIX}_output_bytes", "Bytes of outputs", ["means"])
OMITTED_BYTES: Final = Counter(f"{PREFIX}_omitted_output_bytes", "Bytes of outputs beyond a limit", ["means"])
REFUSED_MESSAGES: Final = Counter(f"{PREFIX}_refused_messages", "Messages of kernels that were refused", ["means"])
COMMANDS: Final = Counter(f"{PREFIX}_commands", "Commands that are over", ["outcome"])
COMMAND_S: Final = Histogram(f"{PREFIX}_command_seconds", "How long commands ran", buckets=_EXECUTION_S)
COMMAND_OUTPUT_BYTES: Final = Counter(f"{PREFIX}_command_output_bytes", "Bytes that commands wrote")
FILES: Final = Counter(f"{PREFIX}_files", "Transfers of files", ["direction", "with_url"])
FILE_BYTES: Final = Counter(f"{PREFIX}_file_bytes", "Bytes of files", ["direction", "with_url"])
REFUSALS: Final = Counter(f"{PREFIX}_refusals", "What was refused or failed", ["code"])
DROPPED_EVENTS: Final = Counter(f"{PREFIX}_dropped_events", "Events that a handler did not get or failed at")


def _begin_at_zero() -> None:
    """Make every series that there can be: Prometheus does not notice the first of a kind that begins at one."""
    for origin in events.Origin:
        CLAIM_S.labels(origin)
        for end in events.SandboxEnd:
            SANDBOXES_ENDED.labels(origin, end)
    for kind in _START_KINDS:
        CONTEXT_START_S.labels(kind)
    for reason in events.KernelEnd:
        KERNELS_ENDED.labels(reason)
    for means in events.Means:
        for outcome in events.ExecutionEnd:
            EXECUTIONS.labels(means, outcome)
        for metric in (EXECUTION_S, EXECUTION_WAIT_S, OUTPUT_BYTES, OMITTED_BYTES, REFUSED_MESSAGES):
            metric.labels(means)
    for command_outcome in events.CommandOutcome:
        COMMANDS.labels(command_outcome)
    for direction in events.Direction:
        for with_url in _YES_OR_NO:
            FILES.labels(direction, with_url)
            FILE_BYTES.labels(direction, with_url)
    for code in errors.codes():
        REFUSALS.labels(code)


_begin_at_zero()
for _kind in _PAUSE_KINDS:
    PAUSE_S.labels(_kind)


def read(event: Event, /) -> None:
    """Count an event. See Emit."""
    match event:
        case events.SandboxClaimed():
            CLAIM_S.labels(event.origin).observe(event.took_s)
        case events.SandboxPaused():
            PAUSE_S.labels(_PAUSE_KINDS[0]).observe(event.took_s)
        case events.SandboxResumed():
            PAUSE_S.labels(_PAUSE_KINDS[1]).observe(event.took_s)
        case events.SandboxEnded():
            SANDBOXES_ENDED.labels(event.origin, event.reason).inc()
        case events.ContextStarted():
            CONTEXT_START_S.labels(_START_KINDS[0]).observe(event.took_s)
        case events.ContextRestarted():
            CONTEXT_START_S.labels(_START_KINDS[1]).observe(event.took_s)
            KERNELS_ENDED.labels(event.reason).inc()
        case events.ContextEnded():
            KERNELS_ENDED.labels(event.reason).inc()
        case events.ExecutionEnded():
            _read_execution(event)
        case events.CommandEnded():
            COMMANDS.labels(event.outcome).inc()
            COMMAND_S.observe(event.duration_s)
            COMMAND_OUTPUT_BYTES.inc(event.output_bytes)
        case events.FileTransferred():
            with_url = _YES_OR_NO[event.host is not None]
            FILES.labels(event.direction, with_url).inc()
            FILE_BYTES.labels(event.direction, with_url).inc(event.size_bytes)
        case events.RequestRefused():
            REFUSALS.labels(event.code).inc()


def _read_execution(event: events.ExecutionEnded) -> None:
    EXECUTIONS.labels(event.means, event.outcome).inc()
    EXECUTION_WAIT_S.labels(event.means).observe(event.waited_s)
    if event.duration_s is not None:
        EXECUTION_S.labels(event.means).observe(event.duration_s)
    OUTPUT_BYTES.labels(event.means).inc(event.output_bytes)
    OMITTED_BYTES.labels(event.means).inc(event.omitted_bytes)
    REFUSED_MESSAGES.labels(event.means).inc(event.refused_messages)
