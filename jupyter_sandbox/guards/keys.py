"""Keys of a kernel's connection, judged before they go into a worker."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.errors import InvalidRequestError

if TYPE_CHECKING:
    from sandbox_worker.protocol import CurveKeys

_Z85: Final = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")
"""32 bytes as ZeroMQ's RFC 32 writes them."""


def curve(value: CurveKeys | None) -> CurveKeys | None:
    """Judge a key pair of CurveZMQ: none, or two texts of 40 characters."""
    if value is not None and not (_Z85.fullmatch(value.public) and _Z85.fullmatch(value.secret)):
        raise InvalidRequestError("a CurveZMQ key is 40 characters of Z85")
    return value
