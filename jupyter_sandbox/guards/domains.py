"""Names of domains that an operator gives: judged here before hosts are compared with one."""

from __future__ import annotations

import re
from typing import Final

from jupyter_sandbox.errors import InvalidRequestError

MAX_DOMAIN: Final = 189
"""A name may have 253 characters, and the label of a sandbox comes before it."""
_DOMAIN: Final = re.compile(r"(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?\.)+[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")


def domain(value: str) -> str:
    """Judge a domain, and return it in lower case: two labels or more, since clients take no certificate for `*.com`.

    Raises InvalidRequestError.
    """
    if not value.isascii() or len(value) > MAX_DOMAIN or _DOMAIN.fullmatch(value.lower()) is None:
        raise InvalidRequestError(f"not a domain of two labels or more, without a port: {value[:60]!a}")
    return value.lower()
