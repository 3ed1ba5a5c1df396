"""What the code interpreter's API answers: an execution as one text or one image, errors as its clients know them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from jupyter_sandbox.execution_fold import Outcome, text_of

if TYPE_CHECKING:
    from jupyter_sandbox.errors import SandboxError
    from jupyter_sandbox.execution import ExecutionView
    from jupyter_sandbox.execution_fold import Output

RESET: Final = (
    "The code resulted in an execution timeout or crashed environment. "
    "The environment has been reset, please try again."
)
NOT_RUN: Final = "Something else of this session was still running when the time was over; the code was not run."
NO_SESSION: Final = "No active session found for user"
NOT_MADE: Final = "No environment could be made: {}"
NOT_REACHED: Final = "Gateway Timeout: Could not connect to what makes environments: {}"
BAD_TOKEN: Final = "Invalid or missing authentication token"  # noqa: S105 - words of an answer

DETAILS: Final[dict[str, tuple[int, str | None]]] = {
    "unknown_sandbox": (404, NO_SESSION),
    "sandbox_lost": (503, RESET),
    "unknown_route": (404, "Not Found"),
    "method_not_allowed": (405, "Method Not Allowed"),
    "file_refused": (400, None),
    "file_conflict": (400, None),
    "file_changed": (400, None),
    "quota_exceeded": (503, None),
    "busy": (503, None),
    "unknown_template": (503, NOT_MADE),
    "start_failed": (503, NOT_MADE),
    "program_missing": (503, NOT_MADE),
    "no_disk_space": (503, None),
    "broker_unavailable": (504, NOT_REACHED),
    "engine_unavailable": (504, NOT_REACHED),
}
"""Where status and words differ from the errors' own, by code; no words: the error's own, which others may quote."""


def result(view: ExecutionView) -> dict[str, str | None]:
    """Return `result_text` and `result_base64` of an execution that left its kernel sound.

    The last image wins over all text, and an exception over both; otherwise the text is what was printed, to either
    stream, and the value of the last expression, in the order in which they came.
    """
    failure = view.folded.failure
    if view.outcome is not Outcome.OUTPUT_LIMIT and failure is not None:
        return {"result_text": f"Python Execution Error: {failure.name}: {failure.value}", "result_base64": None}
    image: str | None = None
    texts: list[str] = []
    for output in view.folded.outputs:
        image = _image(output) or image
        texts.append(_text(output))
    if image is not None:
        return {"result_text": None, "result_base64": image}
    omitted = view.folded.omitted.bytes + view.folded.omitted.refused_bytes
    if omitted or view.outcome is Outcome.OUTPUT_LIMIT:
        texts.append(f"\n[The output was too large: {omitted} bytes of it are not here, and the code was stopped.]\n")
    return {"result_text": "".join(texts), "result_base64": None}


def detail(error: SandboxError) -> tuple[int, str]:
    """Return the status and the words for an error."""
    status, words = DETAILS.get(error.code, (error.status, None))
    return status, (words or "{}").format(error)


def _text(output: Output) -> str:
    if output["output_type"] == "stream":
        return str(output["text"])
    return text_of(output["data"].get("text/plain", "")) if output["output_type"] == "execute_result" else ""


def _image(output: Output) -> str | None:
    is_rich = output["output_type"] in ("display_data", "execute_result")
    return text_of(output["data"].get("image/png", "")) or None if is_rich else None
