"""What became of code, in the words of the contexts API: two texts, whether it went well, images beside them. Pure.

A program that reads these wants text: results and displays are what a Python prompt would print, tracebacks are among
the errors, nothing has colours but what code printed, and how an execution ended otherwise is one more line there.
"""

from __future__ import annotations

import base64
import binascii
import re
import string
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox.execution_fold import Outcome, text_of
from jupyter_sandbox.named_sandboxes import is_deaf

if TYPE_CHECKING:
    from jupyter_sandbox.execution import ExecutionView

MAX_IMAGES: Final = 32
_IMAGES: Final = ("image/png", "image/jpeg", "image/gif", "image/webp")
_TEXTS: Final = ("text/plain", "text/markdown")
_COLOUR: Final = re.compile(r"\x1b\[[0-9;:?]*[A-Za-z]")
_NO_SPACES: Final = dict.fromkeys(map(ord, string.whitespace))
_LOST: Final = "The context is over with its variables and files; create another one."


@dataclass(frozen=True, kw_only=True)
class Image:
    """A picture. `data` is base64."""

    mime_type: str
    data: str = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Ran:
    """What became of an execution. `execution_time` in seconds, without the time that it waited."""

    stdout: str
    stderr: str
    success: bool
    execution_time: float
    images: tuple[Image, ...] = ()


def ruins(view: ExecutionView) -> bool:
    """Whether an execution has cost its context: the kernel died, or runs on although it was interrupted.

    A kernel that was busy with something else, such as a person's cell, is not touched.
    """
    return view.started_at is not None and (is_deaf(view) or view.outcome is Outcome.DIED)


def of(view: ExecutionView) -> Ran:
    """Return what became of an execution that has ended."""
    stdout, stderr = _Text(), _Text()
    images: list[Image] = []
    for output in view.folded.outputs:
        match output["output_type"]:
            case "stream":
                (stderr if output["name"] == "stderr" else stdout).write(output["text"])
            case "error":
                said = ": ".join(filter(None, (output["ename"], output["evalue"])))
                stderr.line(_COLOUR.sub("", "\n".join(output["traceback"])) or said)
            case _:
                stdout.line(_COLOUR.sub("", _text_of(output["data"])))
                images += _images_of(output["data"])
    for words in (*_words(view), *_gaps(view, len(images))):
        stderr.line(words)
    return Ran(
        stdout=stdout.whole(),
        stderr=stderr.whole(),
        success=view.outcome is Outcome.OK,
        execution_time=round(view.duration_s or 0.0, 6),
        images=tuple(images[:MAX_IMAGES]),
    )


class _Text:
    """A text that is put together of pieces and of whole lines."""

    def __init__(self) -> None:
        self._pieces: list[str] = []

    def write(self, text: str) -> None:
        if text:
            self._pieces.append(text)

    def line(self, text: str) -> None:
        if text and self._pieces and not self._pieces[-1].endswith("\n"):
            self.write("\n")
        self.write(text)
        if text and not text.endswith("\n"):
            self.write("\n")

    def whole(self) -> str:
        return "".join(self._pieces)


def _words(view: ExecutionView) -> tuple[str, ...]:
    """How it ended, for whoever reads the errors; nothing when that is there already."""
    failure = view.folded.failure
    match view.outcome:
        case Outcome.ERROR:
            is_shown = any(output["output_type"] == "error" for output in view.folded.outputs)
            said = f"{failure.name}: {failure.value}" if failure is not None and not is_shown else ""
            told = (said, view.message or "")
        case Outcome.TIMEOUT:
            told = ("The code did not end in time and was interrupted.", view.message or "")
        case Outcome.INTERRUPTED:
            told = ("The code was interrupted.", view.message or "")
        case Outcome.OUTPUT_LIMIT:
            told = (view.message or "", "")
        case Outcome.DIED:
            told = (view.message or "The kernel died.", "")
        case _:
            told = ("", "")
    return (*told, _LOST if ruins(view) else "")


def _gaps(view: ExecutionView, images: int) -> tuple[str, ...]:
    """What is missing in the texts and images."""
    omitted, told = view.folded.omitted, []
    if omitted.outputs or view.outcome is Outcome.OUTPUT_LIMIT:
        left_out = omitted.bytes + omitted.refused_bytes
        told.append(f"The code was stopped: it wrote too much. {left_out} bytes are left out.")
    if omitted.refused_messages:
        told.append(f"{omitted.refused_messages} outputs are left out: no client could read them.")
    if images > MAX_IMAGES:
        told.append(f"{images - MAX_IMAGES} images are left out.")
    return tuple(told)


def _text_of(data: dict[str, Any]) -> str:
    for kind in _TEXTS:
        if kind in data:
            return text_of(data[kind])
    return ""


def _images_of(data: dict[str, Any]) -> list[Image]:
    """Return the pictures of a display; what is no base64 is none."""
    found = []
    for kind in _IMAGES:
        text = text_of(data.get(kind, ""))
        if text.isascii() and (text := text.translate(_NO_SPACES)) and _is_base64(text):
            found.append(Image(mime_type=kind, data=text))
    return found


def _is_base64(text: str) -> bool:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return False
    return True
