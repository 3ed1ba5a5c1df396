"""What this host's network has and allows: its programs, forwarding, other people's filters.

All of it blocks, for some milliseconds. Sources: ip(8), nft(8), iptables(8); Documentation/networking/ip-sysctl.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.errors import StartError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

TOOLS: Final = {"nft": "nftables", "ip": "iproute2", "conntrack": "conntrack", "nsenter": "util-linux"}
"""Programs, and the Debian packages they are in."""
_PATH: Final = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
_TIMEOUT_S: Final = 10


def missing_tools() -> list[str]:
    """Return which of the programs that we need are not installed."""
    return [name for name in TOOLS if shutil.which(name, path=_PATH) is None]


def closed_uplinks(addresses: Iterable[str]) -> list[str]:
    """Return, in words, what keeps this host from forwarding to and from `addresses`.

    Answers come back by the interface that leads to the target, so that one must forward, too. It is not ours: we do
    not make a router of a host whose operator did not.
    """
    closed = []
    answer = run(["ip", "-json", "-force", "-batch", "-"], _lines("route get", addresses), can_fail=True)
    for line in answer.splitlines():
        for route in json.loads(line):
            device, version = str(route["dev"]), 6 if ":" in str(route["dst"]) else 4
            if route.get("type") == "local":
                closed.append(f"{route['dst']} is an address of the host itself, which no sandbox may reach")
            elif not is_forwarding(device, version):
                setting = f"net.ipv4.conf.{device}.forwarding" if version == 4 else "net.ipv6.conf.all.forwarding"
                closed.append(f"`sysctl -w {setting}=1` for {route['dst']}")
    return list(dict.fromkeys(closed))


def is_forwarding(device: str, version: int, settings: Path = Path("/proc/sys/net")) -> bool:
    """Return whether what arrives on `device` is forwarded. IPv6 has one switch for all, until Linux 6.17."""
    files = [settings / f"ipv{version}/conf/{device}/{'forwarding' if version == 4 else 'force_forwarding'}"]
    files += [settings / "ipv6/conf/all/forwarding"] if version == 6 else []
    return any(_setting(file) == "1" for file in files)


def can_filter() -> bool:
    """Return whether this process may use the host's packet filter."""
    try:
        run(["nft", "list", "tables"])
    except StartError:
        return False
    return True


def foreign_drops() -> list[str]:
    """Return other people's chains that drop what they do not know of what is forwarded; ours cannot overrule them."""
    found = []
    with contextlib.suppress(StartError):
        for item in json.loads(run(["nft", "-j", "list", "chains"]))["nftables"]:
            chain = item.get("chain", {})
            if chain.get("hook") == "forward" and chain.get("policy") == "drop":
                found.append(f"table {chain['family']} {chain['table']}, chain {chain['name']}")
    for program, names in (("iptables-legacy", "ip_tables_names"), ("ip6tables-legacy", "ip6_tables_names")):
        with contextlib.suppress(StartError):
            used = "filter" in _setting(Path("/proc/net") / names)
            if used and "-P FORWARD DROP" in run([program, "-S", "FORWARD"]):
                found.append(f"{program}, chain FORWARD")
    return found


def default_uplinks() -> dict[int, str]:
    """Return the interface of the default route, by IP version."""
    found: dict[int, str] = {}
    for version in (4, 6):
        with contextlib.suppress(StartError):
            for route in json.loads(run(["ip", "-json", f"-{version}", "route", "show", "default"]) or "[]"):
                found.setdefault(version, str(route.get("dev", "")))
    return found


def _setting(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""


def _lines(command: str, arguments: Iterable[str]) -> str:
    return "".join(f"{command} {argument}\n" for argument in arguments)


def run(command: Sequence[str], text: str = "", descriptors: Sequence[int] = (), *, can_fail: bool = False) -> str:
    """Run a host program with `text` as its input; return what it said. Raises StartError."""
    try:
        done = subprocess.run(
            command,
            input=text,
            text=True,
            capture_output=True,
            timeout=_TIMEOUT_S,
            pass_fds=descriptors,
            env={"PATH": _PATH, "LC_ALL": "C"},
            check=False,
        )
    except OSError as error:
        raise StartError(f"{command[0]} cannot be run: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise StartError(f"{command[0]} did not finish within {_TIMEOUT_S} s") from error
    if done.returncode and not can_fail:
        raise StartError(f"the network could not be made: {command[0]}: {done.stderr[-300:].strip()}")
    return done.stdout
