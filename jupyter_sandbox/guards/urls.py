"""URLs that a client names for the server to fetch from or send to: judged here, and so are the addresses behind them.

A URL is judged as text, its host's addresses when they are known, all of them; whoever connects does so to an address
that was judged here, and asks nobody again. What is not plainly a public address is refused: private, loopback,
link-local, shared, documentation, multicast and reserved ranges, cloud metadata, and every IPv6 form that holds an
IPv4 address. An operator's allow-list names the exceptions. Sources: RFC 3986, the IANA registries of special-purpose
addresses, the host parsing of the WHATWG URL standard for what programs read as numbers.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.errors import InvalidRequestError, UrlRefusedError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_URL: Final = 8192
_PORTS: Final = {"http": 80, "https": 443}
_URL: Final = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]{2,45}\]|[a-z0-9._-]{1,254})(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[^?#]*)?(?P<query>\?[^#]*)?(?:#.*)?",
    re.IGNORECASE,
)
_LABEL: Final = re.compile(r"[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?")
_NUMBER: Final = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PLACE: Final = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]{2,45}\]|[A-Za-z0-9._-]{1,253}):(?P<port>[0-9]{1,5})")

_NOT_PUBLIC: Final = tuple(
    ipaddress.ip_network(network)
    for network in (
        *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12"),
        *("192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24"),
        *("203.0.113.0/24", "224.0.0.0/4", "240.0.0.0/4"),
        "168.63.129.16/32",  # a cloud's metadata, at an address that looks public
        *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),  # Teredo and 6to4 among them
    )
)
_GLOBAL_IPV6: Final = ipaddress.IPv6Network("2000::/3")
"""All that is given out to anybody; loopback, mapped, NAT64, local and multicast addresses lie outside."""


@dataclass(frozen=True, kw_only=True)
class Target:
    """A judged URL. `host` is a lower-case name, or an address as `ipaddress` writes it; `path` has the query, too."""

    scheme: str
    host: str
    port: int
    path: str = field(repr=False)
    address: Address | None
    """The host, when it is an address."""

    @property
    def origin(self) -> str:
        """What may be told and logged of it: never path or query, which may hold secrets."""
        return f"{self.scheme}://{self.netloc}"

    @property
    def netloc(self) -> str:
        """The value of the header Host."""
        host = f"[{self.host}]" if isinstance(self.address, ipaddress.IPv6Address) else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"


@dataclass(frozen=True, kw_only=True)
class Rules:
    """Which ports public hosts may be asked at, and which hosts and ports may be asked wherever they are."""

    ports: frozenset[int]
    allowed: frozenset[tuple[str, int]] = frozenset()

    def exempts(self, target: Target) -> bool:
        """Whether an operator named this host and port."""
        return (target.host, target.port) in self.allowed


def rules(ports: Collection[int], allowed: Iterable[str]) -> Rules:
    """Judge an operator's settings; `allowed` are texts `host:port`. Raises InvalidRequestError."""
    if not all(0 < port < 65536 for port in ports):
        raise InvalidRequestError(f"ports are between 1 and 65535: {sorted(ports)}")
    places = set()
    for text in allowed:
        found = _PLACE.fullmatch(text)
        if found is None or not 0 < int(found["port"]) < 65536:
            raise InvalidRequestError(f"not a host and port, `storage.example:9000`: {text[:100]!a}")
        places.add((_host(found["host"])[0], int(found["port"])))
    return Rules(ports=frozenset(ports), allowed=frozenset(places))


def target(text: str, judge: Rules) -> Target:
    """Judge a URL. Raises UrlRefusedError, whose message shows nothing of the URL but what is wrong with it."""
    if len(text) > MAX_URL or not text.isascii() or not text.isprintable() or " " in text or "\\" in text:
        raise UrlRefusedError(f"a URL has at most {MAX_URL} printable ASCII characters, no blanks and no backslash")
    found = _URL.fullmatch(text)
    if found is None:
        raise UrlRefusedError("a URL is http:// or https://, a host, perhaps a port, and a path; no user and password")
    scheme = found["scheme"].lower()
    host, address = _host(found["host"])
    judged = Target(
        scheme=scheme,
        host=host,
        port=_PORTS[scheme] if found["port"] is None else int(found["port"]),
        path=(found["path"] or "/") + (found["query"] or ""),
        address=address,
    )
    if judged.port not in judge.ports and not judge.exempts(judged):
        raise UrlRefusedError(f"port {judged.port} is not one that URLs may name here")
    if address is not None:
        addresses(judged, [address], judge)
    return judged


def named_host(text: str) -> str | None:
    """Return the host that a text names as a URL, whether it may be used or not; None when it is no URL of ours."""
    found = _URL.fullmatch(text) if len(text) <= MAX_URL else None
    return None if found is None else found["host"].lower()


def addresses(judged: Target, found: Collection[Address], judge: Rules) -> None:
    """Judge all addresses of a target's host: one that is not public spoils the rest. Raises UrlRefusedError."""
    if not found:
        raise UrlRefusedError(f"{judged.origin}: the host has no address")
    if not judge.exempts(judged) and not all(map(is_public, found)):
        raise UrlRefusedError(f"{judged.origin}: the host is not public; an operator can allow it by name and port")


def is_public(address: Address) -> bool:
    """Whether everybody may reach this address over the internet."""
    if isinstance(address, ipaddress.IPv6Address) and (address not in _GLOBAL_IPV6 or address.scope_id is not None):
        return False
    return not any(address in network for network in _NOT_PUBLIC if network.version == address.version)


def _host(text: str) -> tuple[str, Address | None]:
    """Judge a host; return how it is written from now on, and its address if it is one."""
    if text.startswith("["):
        return _literal(ipaddress.IPv6Address, text[1:-1])
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    if _NUMBER.fullmatch(labels[-1]):  # programs read such names as addresses: 2130706433, 0x7f.1, 0177.0.0.1
        return _literal(ipaddress.IPv4Address, name)
    if len(name) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise UrlRefusedError("the URL's host is not a name")
    return name, None


def _literal(kind: type[ipaddress.IPv4Address | ipaddress.IPv6Address], text: str) -> tuple[str, Address]:
    try:
        address = kind(text)
    except ValueError as error:
        raise UrlRefusedError("the URL's host is neither a name nor an address in its usual form") from error
    return str(address), address
