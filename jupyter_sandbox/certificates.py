"""Whether a certificate and its key can serve a domain: they are tried, by what clients will do."""

from __future__ import annotations

import contextlib
import ssl
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.errors import InvalidRequestError

if TYPE_CHECKING:
    from pathlib import Path

_FIRST_LABELS: Final = ("api", "49983-" + "0" * 20)
_TURNS: Final = 8
"""More than a handshake takes."""


def require(certificate: Path, key: Path, domain: str) -> None:
    """Raise InvalidRequestError unless a server can start with these, and serve the hosts of `domain` if there is one.

    Who has signed the certificate is for clients to judge.
    """
    for path, what in ((certificate, "certificate"), (key, "key")):
        try:
            path.open("rb").close()
        except OSError as error:
            raise InvalidRequestError(f"the {what} cannot be read: {path}: {error.strerror}") from error
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        server.load_cert_chain(certificate, key, password="")  # nobody is there to be asked for one
    except (ssl.SSLError, ValueError) as error:
        raise InvalidRequestError(
            f"{certificate} and {key} are no certificate and its key, as PEM without a password ({_reason(error)})"
        ) from error
    if not domain:
        return
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN  # the certificate itself is trusted
    client.load_verify_locations(certificate)
    for label in _FIRST_LABELS:
        try:
            _shake_hands(client, server, f"{label}.{domain}")
        except ssl.SSLError as error:
            raise InvalidRequestError(
                f"{certificate} serves no *.{domain}: {_reason(error)}; `jupyter sandbox certificate` makes one"
            ) from error


def _shake_hands(client: ssl.SSLContext, server: ssl.SSLContext, name: str) -> None:
    """Let a client and a server meet in memory; raises ssl.SSLError."""
    to_client, to_server = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = (
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    )
    for _ in range(_TURNS):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()


def _reason(error: Exception) -> str:
    words = getattr(error, "verify_message", None) or getattr(error, "reason", None) or type(error).__name__
    return str(words).rstrip(".")
