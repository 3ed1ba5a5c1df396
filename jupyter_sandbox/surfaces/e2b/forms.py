"""Forms with files (`multipart/form-data`), read as they come: of a form a piece, or the head of a part, is kept.

It knows neither sandboxes nor disks: who reads a part judges its name. What programs do not send is refused: anything
before the first boundary or behind the last, and lines that only begin with one.

Source: RFC 7578, and RFC 2046, section 5.1.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from jupyter_sandbox.errors import BodyTooLargeError, InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterable

KIND: Final = "multipart/form-data"
MAX_PARTS: Final = 100
MAX_HEAD_BYTES: Final = 8 << 10
_LINE: Final = b"\r\n"
_BOUNDARY: Final = re.compile(r"[0-9A-Za-z'()+_,\-./:=? ]{0,69}[0-9A-Za-z'()+_,\-./:=?]")
_PARAMETER: Final = re.compile(r'[ \t]*;[ \t]*([A-Za-z]+\*?)[ \t]*=[ \t]*(?:"((?:[^"\\]|\\.)*)"|([^\s;"]*))[ \t]*')
_ESCAPED: Final = re.compile(r'\\(["\\])')
_EXTENDED: Final = "utf-8''"


@dataclass(frozen=True, kw_only=True)
class Part:
    """What a part is called; `file_name` is empty when it has none."""

    name: str
    file_name: str


class Form:
    """A form that comes. Iterate `parts` once, and `content` in between for what is in the part that came last."""

    def __init__(self, kind: str, content: AsyncIterable[bytes], max_bytes: int) -> None:
        """`kind`: the header Content-Type. `max_bytes`: of the whole body. Raises InvalidRequestError."""
        boundary = _parameters(kind.partition(";")[1] + kind.partition(";")[2]).get("boundary", "")
        if not _BOUNDARY.fullmatch(boundary):
            raise InvalidRequestError("the form has no boundary, or one that is none")
        self._delimiter = _LINE + b"--" + boundary.encode()
        self._coming, self._max_bytes, self._come = aiter(content), max_bytes, 0
        self._kept = bytearray(_LINE)
        self._is_in_part = False

    async def parts(self) -> AsyncGenerator[Part, None]:
        """Yield the parts; of one whose content nobody wanted it is dropped.

        The form is over when this is. Raises InvalidRequestError, BodyTooLargeError.
        """
        if await self._take(len(self._delimiter)) != self._delimiter:
            raise InvalidRequestError("the form does not begin with its boundary")
        count = 0
        while (following := await self._take(len(_LINE))) == _LINE:
            count += 1
            if count > MAX_PARTS:
                raise BodyTooLargeError(f"a form may have {MAX_PARTS} parts")
            part = _part(await self._head())
            self._is_in_part = True
            yield part
            async for _ in self.content():
                pass
        if following != b"--":
            raise InvalidRequestError("what begins as the form's boundary is none")
        while await self._more():
            if not _LINE.startswith(self._kept):
                break
        if not _LINE.startswith(self._kept):
            raise InvalidRequestError("something follows the end of the form")

    async def content(self) -> AsyncGenerator[bytes, None]:
        """Yield what is in the part. Raises as `parts` does."""
        while self._is_in_part:
            end = self._kept.find(self._delimiter)
            self._is_in_part = end < 0
            ready = end if end >= 0 else max(0, len(self._kept) - len(self._delimiter) + 1)
            piece = bytes(self._kept[:ready])
            del self._kept[: ready if end < 0 else end + len(self._delimiter)]
            if piece:
                yield piece
            if self._is_in_part:
                await self._need_more()

    async def _head(self) -> bytes:
        while (end := self._kept.find(_LINE * 2, 0, MAX_HEAD_BYTES)) < 0:
            if len(self._kept) >= MAX_HEAD_BYTES:
                raise BodyTooLargeError(f"the head of a part may have {MAX_HEAD_BYTES} bytes")
            await self._need_more()
        head = bytes(self._kept[:end])
        del self._kept[: end + len(_LINE * 2)]
        return head

    async def _take(self, size: int) -> bytes:
        while len(self._kept) < size:
            await self._need_more()
        taken = bytes(self._kept[:size])
        del self._kept[:size]
        return taken

    async def _need_more(self) -> None:
        if not await self._more():
            raise InvalidRequestError("the form ends before its last boundary")

    async def _more(self) -> bool:
        """Keep the next piece; return whether there was one."""
        piece = await anext(self._coming, None)
        if piece is None:
            return False
        self._come += len(piece)
        if self._come > self._max_bytes:
            raise BodyTooLargeError(f"a form may have {self._max_bytes} bytes")
        self._kept += piece
        return True


def _part(head: bytes) -> Part:
    """Return what the head of a part says; raises InvalidRequestError."""
    try:
        lines = [line.partition(":") for line in head.decode().split("\r\n")]
        found = [value.strip() for name, _, value in lines if name.strip().lower() == "content-disposition"]
        if len(found) != 1 or not found[0].lower().startswith("form-data"):
            raise InvalidRequestError("a part says once that it is form-data, and how it is called")
        parameters = _parameters(found[0][len("form-data") :])
        extended = parameters.get("filename*", "")
        if extended and not extended.lower().startswith(_EXTENDED):
            raise InvalidRequestError("the name of a file is text in UTF-8")
        file_name = unquote(extended[len(_EXTENDED) :], errors="strict")
        return Part(name=parameters.get("name", ""), file_name=file_name or parameters.get("filename", ""))
    except UnicodeDecodeError:
        raise InvalidRequestError("the head of a part is no text in UTF-8") from None


def _parameters(text: str) -> dict[str, str]:
    """Return `;name="value"` and so on; raises InvalidRequestError."""
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        matched = _PARAMETER.match(text, at)
        name = "" if matched is None else matched[1].lower()
        if matched is None or name in found:
            raise InvalidRequestError("what a form says of itself cannot be read")
        found[name] = matched[3] if matched[2] is None else _ESCAPED.sub(r"\1", matched[2])
        at = matched.end()
    return found
