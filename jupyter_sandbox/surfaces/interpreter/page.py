"""The page to try the code interpreter in a browser: one file, which asks nothing of any other host."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path
from typing import Final

from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.base.handlers import JupyterHandler

ROUTE: Final = "/sandbox/try"
_PAGE: Final = Path(__file__).with_name("try.html").read_bytes()


class PageHandler(JupyterHandler):
    """Serves the page to everybody: it holds no secret, and does nothing without a token that somebody types."""

    @property
    def content_security_policy(self) -> str:
        """See Jupyter: the page's own script and style, its API, and images that are data; nothing else."""
        return POLICY

    def set_default_headers(self) -> None:
        """As Jupyter does it; the page is new with each version."""
        super().set_default_headers()
        self.set_header("Cache-Control", "no-cache")
        self.set_header("Referrer-Policy", "no-referrer")

    @allow_unauthenticated
    async def get(self) -> None:
        """Answer the page."""
        self.set_header("Content-Type", "text/html; charset=UTF-8")
        self.finish(_PAGE)

    head = get


def _policy() -> str:
    hashes = {}
    for kind in (b"script", b"style"):
        (content,) = re.findall(rb"<%s>(.*?)</%s>" % (kind, kind), _PAGE, re.DOTALL)
        hashes[kind] = base64.b64encode(hashlib.sha256(content).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{hashes[b'script']}'; style-src 'sha256-{hashes[b'style']}'; "
        "connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


POLICY: Final = _policy()
