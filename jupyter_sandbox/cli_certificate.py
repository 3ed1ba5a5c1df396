"""`jupyter sandbox certificate`: an authority that vouches for one domain, and a certificate for all hosts of it.

The authority can vouch for nothing else, and its key is forgotten when it has signed: whoever trusts it trusts this
one certificate.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jupyter_sandbox import terminal
from jupyter_sandbox.errors import ConflictError, InvalidRequestError, NotInstalledError
from jupyter_sandbox.guards import domains

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

AUTHORITY: Final = "ca.pem"
CERTIFICATE: Final = "certificate.pem"
KEY: Final = "key.pem"
DAYS: Final = 825
"""The longest that every client takes."""
_EARLIER: Final = timedelta(hours=1)
"""Clocks differ."""
_NEXT: Final = """\
Made in {folder}, good until {until:%Y-%m-%d}:
  ca.pem           what clients are to trust; it vouches for {domain} and nothing else
  certificate.pem  of *.{domain} and {domain}
  key.pem          its key, for the server alone

1. Serve with it:
     jupyter sandbox serve --domain {domain} --certificate {certificate} --key {key}
2. Let api.{domain} and all other names below {domain} lead to the server: a wildcard record *.{domain} in DNS, or
   `address=/{domain}/127.0.0.1` of dnsmasq. A file of hosts knows no wildcards: it needs a line for api.{domain} and
   two for each sandbox. Where systemd-resolved answers, all names below `localhost` lead to this machine.
3. In the environment of programs (3874: the port of `serve`, nothing for 443):
     export E2B_DOMAIN={domain}:3874 E2B_API_KEY=...       # what `serve` prints
     export SSL_CERT_FILE={authority}       # Python; instead of all other authorities
     export NODE_EXTRA_CA_CERTS={authority} # JavaScript
"""


@dataclass(frozen=True, kw_only=True)
class Made:
    """PEM of each file."""

    authority: bytes
    certificate: bytes
    key: bytes = field(repr=False)


def declare(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command; `add` takes name, function and summary."""
    command = add("certificate", _certificate, "Make a certificate for all hosts of a domain, and what clients trust.")
    command.formatter_class = terminal.Help
    command.epilog = (
        "E2B's SDKs need one when they know a domain instead of URLs (docs/e2b.md). A certificate of a public\n"
        "authority for *.DOMAIN does as well, and clients trust it already."
    )
    command.add_argument("domain", metavar="DOMAIN", help="two labels or more, as sandbox.example or e2b.localhost")
    command.add_argument("--out", type=Path, metavar="DIR", help="where to write (default: a directory DOMAIN, here)")
    command.add_argument("--replace", action="store_true", help="overwrite what was made there before")


async def _certificate(options: argparse.Namespace) -> int:
    domain = domains.domain(options.domain)
    folder = (options.out or Path(domain)).absolute()
    until = datetime.now(UTC) + timedelta(days=DAYS)
    made = make(domain, until)
    write(folder, made, replace=options.replace)
    authority, certificate, key = (shlex.quote(str(folder / name)) for name in (AUTHORITY, CERTIFICATE, KEY))
    values = {"authority": authority, "certificate": certificate, "key": key}
    print(_NEXT.format(folder=folder, domain=domain, until=until, **values), end="")
    return 0


def make(domain: str, until: datetime) -> Made:
    """Return an authority and its certificate for a judged domain; raises NotInstalledError."""
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
        from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
    except ImportError as error:
        raise NotInstalledError("certificates need cryptography: pip install '.[e2b]' in the checkout") from error

    def named(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])

    def begun(subject: x509.Name, key: ec.EllipticCurvePrivateKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .issuer_name(issuer)
            .subject_name(subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(datetime.now(UTC) - _EARLIER)
            .not_valid_after(until)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()), critical=False)
        )

    def usage(*, signs: bool) -> x509.KeyUsage:
        others = ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only")
        names = dict.fromkeys((*others, "decipher_only", "crl_sign"), False)
        return x509.KeyUsage(key_cert_sign=signs, digital_signature=not signs, **names)

    signer, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    issuer = named(f"jupyter-sandbox {domain}")
    authority = (
        begun(issuer, signer)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(signs=True), critical=True)
        .add_extension(x509.NameConstraints([x509.DNSName(domain)], None), critical=True)
        .sign(signer, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName([x509.DNSName(f"*.{domain}"), x509.DNSName(domain)])
    certificate = (
        begun(named(domain), key)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(signs=False), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(names, critical=False)
        .sign(signer, hashes.SHA256())
    )
    pem, unencrypted = serialization.Encoding.PEM, serialization.NoEncryption()
    return Made(
        authority=authority.public_bytes(pem),
        certificate=certificate.public_bytes(pem),
        key=key.private_bytes(pem, serialization.PrivateFormat.PKCS8, unencrypted),
    )


def write(folder: Path, made: Made, *, replace: bool) -> None:
    """Write the files, the key for its owner only. What is there goes only with `replace`, and no link is followed.

    Raises ConflictError, InvalidRequestError.
    """
    contents = {KEY: (made.key, 0o600), CERTIFICATE: (made.certificate, 0o644), AUTHORITY: (made.authority, 0o644)}
    there = [name for name in contents if os.path.lexists(folder / name)]
    if there and not replace:
        raise ConflictError(f"{folder} has {', '.join(there)} already; --replace overwrites, --out takes another place")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name in there:
            (folder / name).unlink()
        for name, (content, mode) in contents.items():
            descriptor = os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
            with os.fdopen(descriptor, "wb") as file:
                file.write(content)
    except OSError as error:
        raise InvalidRequestError(f"nothing can be written to {folder}: {error.strerror}") from error
