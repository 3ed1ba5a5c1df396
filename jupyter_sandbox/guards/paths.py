"""Paths: a client's text becomes a tuple of plain names below a sandbox's disk, or is refused.

`/sandbox/a/b`, `/home/user/a/b`, `a/b`, `a//b/` and `./a/b` mean the same. No name that passes is empty, `.`, `..`,
holds a slash, a control character or half of a character, or is longer than Linux takes; so a tuple of them cannot lead
out, whatever it is joined with. A name that some decoder would read as `..` is refused as well, though nothing here
decodes it.
"""

from __future__ import annotations

import functools
import re
import unicodedata
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote

from jupyter_sandbox.errors import InvalidRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable

HOME: Final = "/sandbox"
"""Where a disk shows inside its sandbox, and where kernels start when there is no workspace."""
USER_HOME: Final = "/home/user"
"""Where the same disk shows as well, for programs that were written for such a home."""
HOMES: Final = (HOME, USER_HOME)
_TOPS: Final = [top[1:].split("/") for top in HOMES]
MAX_NAME_BYTES: Final = 255
MAX_PATH_BYTES: Final = 4000
"""Less than PATH_MAX, path_resolution(7), so that a path can always be named in one system call."""
MAX_DEPTH: Final = 128
_MAX_TARGET_BYTES: Final = 1024
ONE_LINE: Final = r"^[^\u0000-\u001f\u007f]*$"
PATTERN: Final = (
    r"^(\/+(\.\/+)*(sandbox|home\/+(\.\/+)*user)\/+)?"
    r"[^\/\u0000-\u001f\u007f]{1,255}(\/+[^\/\u0000-\u001f\u007f]{1,255})*\/*$"
)
"""What a JSON Schema can say of a path below the top; `entry` judges more."""

Names = tuple[str, ...]

_UNUSABLE: Final = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_DECODINGS: Final = 5
_OVERLONG: Final = re.compile(r"%c0%ae|%e0%80%ae|%f0%80%80%ae|%u002e|%uff0e|\\u002e|\\x2e|&#46;|&#x2e;|&period;", re.I)
_OVERLONG_SLASH: Final = re.compile(r"%c0%af|%e0%80%af|%u002f|%u2215|\\u002f|\\x2f|&#47;|&#x2f;|&sol;", re.I)


def names(text: str) -> Names:
    """Judge a path; `()` is the disk's top. Raises InvalidRequestError."""
    if not text:
        raise InvalidRequestError(f"the path is empty; the top of the files is {HOME}")
    if len(text) > MAX_PATH_BYTES or _UNUSABLE.search(text) or len(text.encode()) > MAX_PATH_BYTES:
        raise InvalidRequestError(
            f"a path has at most {MAX_PATH_BYTES} bytes, no control characters, no half characters: {_shown(text)}"
        )
    parts = [part for part in text.split("/") if part not in ("", ".")]
    if text.startswith("/"):
        top = next((top for top in _TOPS if parts[: len(top)] == top), None)
        if top is None:
            raise InvalidRequestError(
                f"files are below {HOME}; let code copy there what lies elsewhere: {_shown(text)}"
            )
        del parts[: len(top)]
    if len(parts) > MAX_DEPTH:
        raise InvalidRequestError(f"a path has at most {MAX_DEPTH} names: {_shown(text)}")
    for part in parts:
        if len(part.encode()) > MAX_NAME_BYTES:
            raise InvalidRequestError(f"a name has at most {MAX_NAME_BYTES} bytes: {_shown(part)}")
        if _leads_up(part):
            raise InvalidRequestError(f"`..` is not part of a path, in no spelling: {_shown(text)}")
    return tuple(parts)


def entry(text: str) -> Names:
    """Judge the path of something in the disk, so not of its top. Raises InvalidRequestError."""
    found = names(text)
    if not found:
        raise InvalidRequestError(f"this cannot be done with {HOME} itself")
    return found


def text(found: Iterable[str]) -> str:
    """Return the path that `names` judged, as the sandbox sees it."""
    return "/".join((HOME, *found))


def is_nameable(name: str) -> bool:
    """Whether a name that a sandbox chose can be part of a path; if not, it is deleted with its directory only."""
    return "/" not in name and is_usable(name)


def is_usable(path: str) -> bool:
    """Whether a path of names that a sandbox chose, `a/b`, can be asked for."""
    try:
        return names(path) == tuple(path.split("/"))
    except InvalidRequestError:
        return False


def is_tellable(target: str) -> bool:
    """Whether where a symlink leads, as a sandbox wrote it, can be shown: one line of text that is not too long."""
    return not _UNUSABLE.search(target) and len(target.encode()) <= _MAX_TARGET_BYTES


@functools.lru_cache(4096)  # thousands of names may have the same deep way to them
def _leads_up(part: str) -> bool:
    for _ in range(_DECODINGS):
        folded = unicodedata.normalize("NFKC", _OVERLONG_SLASH.sub("/", _OVERLONG.sub(".", part)))
        if any(piece.strip() == ".." for piece in re.split(r"[/\\\u2215\u2044\x00]", folded)):
            return True
        decoded = unquote(folded, errors="replace")
        if decoded == part:
            return False
        part = decoded
    return True  # so many layers of encoding hide something


def _shown(text: str) -> str:
    return ascii(text[:60])
