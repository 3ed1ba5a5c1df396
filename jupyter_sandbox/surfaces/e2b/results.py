"""What code said, in the words of E2B's code interpreter: one JSON object for each output. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox.errors import InvalidRequestError
from jupyter_sandbox.execution_fold import Outcome, text_of
from jupyter_sandbox.guards import shapes
from jupyter_sandbox.surfaces.e2b import charts

if TYPE_CHECKING:
    from datetime import datetime

    from jupyter_sandbox.execution import ExecutionView
    from jupyter_sandbox.execution_fold import Output, OutputEvent

_KINDS: Final[dict[str, str]] = {
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "text/latex": "latex",
    "application/javascript": "javascript",
    "e2b/data": "data",
    "e2b/chart": "chart",
}
"""The fields of a result by MIME type, beside text and JSON; the rest is in `extra`."""
_JUDGED: Final = {"e2b/data": charts.is_data, "e2b/chart": charts.is_chart}
"""What clients look into: if it is not what they expect, the result does not have it."""
_MAX_JUDGED: Final = 2 << 20
"""Characters: twice what the kernels of ours send."""
_ANSI: Final = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")


def of_output(event: OutputEvent, now: datetime) -> dict[str, Any] | None:
    """Return the event for an output; None for what E2B has no word for."""
    output = event.output
    if event.kind != "output":
        return None
    match output["output_type"]:
        case "stream":
            return {"type": output["name"], "text": output["text"], "timestamp": now.isoformat()}
        case "error":
            traceback = "\n".join(output["traceback"])
            return {"type": "error", "name": output["ename"], "value": output["evalue"], "traceback": traceback}
        case "execute_result" | "display_data":
            return result(output)
    return None


def result(output: Output) -> dict[str, Any]:
    """Return a result: one field for each representation."""
    found: dict[str, Any] = {"type": "result", "is_main_result": output["output_type"] == "execute_result"}
    extra = {}
    for kind, value in output["data"].items():
        if kind == "text/plain":
            found["text"] = _unquoted(_ANSI.sub("", text_of(value)))
        elif kind == "application/json":
            found["json"] = _object(value)
        elif kind in _JUDGED:
            if len(text := text_of(value)) <= _MAX_JUDGED and _JUDGED[kind](judged := _object(text)):
                found[_KINDS[kind]] = judged
        elif kind in _KINDS:
            found[_KINDS[kind]] = text_of(value)
        else:
            extra[kind] = value
    return found | ({"extra": extra} if extra else {})


def end_of(view: ExecutionView) -> list[dict[str, Any]]:
    """Return the last events: how many executions there were, and why it ended if that was no exception of the code."""
    events: list[dict[str, Any]] = []
    failure = view.folded.failure
    if view.outcome not in (Outcome.OK, Outcome.ERROR) and (failure is None or view.outcome is not Outcome.INTERRUPTED):
        name = {Outcome.TIMEOUT: "TimeoutError", Outcome.OUTPUT_LIMIT: "OutputLimitError"}.get(
            view.outcome or Outcome.DIED, "KernelError"
        )
        events.append({"type": "error", "name": name, "value": view.message or str(view.outcome), "traceback": ""})
    if view.folded.execution_count is not None:
        events.append({"type": "number_of_executions", "execution_count": view.folded.execution_count})
    return [*events, {"type": "end_of_execution"}]


def _object(value: Any) -> Any:
    """JSON that a kernel sent as text, within the bounds of all JSON; None when it is none."""
    if not isinstance(value, str):
        return value
    try:
        return shapes.decode(value.encode())
    except (InvalidRequestError, UnicodeEncodeError):
        return None


def _unquoted(text: str) -> str:
    """A text's representation without its quotes, as E2B shows it."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text
