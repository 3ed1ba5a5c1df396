"""What this machine can do, what is missing, and the command that mends it.

Each probe looks at one thing and returns findings; nothing is changed. With `prove`, a real sandbox is started at
the end, since only that shows that everything works together.
"""

from __future__ import annotations

import asyncio
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Final

from jupyter_sandbox import cgroups, rulesets
from jupyter_sandbox.broker import client, namespaces, verbs
from jupyter_sandbox.broker.app import BrokerApp
from jupyter_sandbox.engines import docker, suitability
from jupyter_sandbox.engines.daemon import Daemon
from jupyter_sandbox.errors import SandboxError
from jupyter_sandbox.guards import ids
from jupyter_sandbox.host import network, places
from jupyter_sandbox.host.channel import MAX_SOCKET_PATH

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class Verdict(StrEnum):
    """How good a finding is."""

    OK = "ok"
    WEAKER = "weaker"
    MISSING = "missing"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One fact about this machine; `remedy` is what to do, empty when nothing."""

    verdict: Verdict
    subject: str
    fact: str
    remedy: str = ""


_MINIMUM_KERNEL: Final = (6, 1)
_OLD_PACKAGES: Final = {"ipykernel": 7, "jupyter_client": 8, "jupyter_server": 2}


async def examine(*, prove: bool) -> list[Finding]:
    """Return all findings; `prove` starts a sandbox and takes about two seconds."""
    if places.SOCKET_VARIABLE in os.environ and os.geteuid() != 0:
        findings = [*_system(), *_packages(), _others_broker()]
    else:
        settings = BrokerApp()
        settings.load_config_file()
        findings = [finding for probe in _PROBES for finding in probe()]
        findings += await _containers(settings.engine, settings.docker_image, settings.docker_runtime)
    if prove and not is_fatal(findings):
        findings.append(await _proof())
    return findings


def is_fatal(findings: Sequence[Finding]) -> bool:
    """Whether sandboxes cannot work here."""
    return any(finding.verdict is Verdict.MISSING for finding in findings)


def render(findings: Sequence[Finding]) -> str:
    """Return the findings as text for a terminal."""
    lines = []
    for finding in findings:
        lines.append(f"[{finding.verdict:7}] {finding.subject}: {finding.fact}")
        if finding.remedy:
            lines.append(f"{'':10}to mend it: {finding.remedy}")
    last = "Sandboxes cannot run here yet." if is_fatal(findings) else "Sandboxes can run here."
    return "\n".join([*lines, last])


def _system() -> list[Finding]:
    release = platform.release()
    numbers = tuple(int(part) for part in release.split("-")[0].split(".")[:2] if part.isdigit())
    machine = platform.machine()
    if sys.platform != "linux" or machine not in ("x86_64", "aarch64"):
        return [
            Finding(
                verdict=Verdict.MISSING,
                subject="system",
                fact=f"{sys.platform} on {machine} is not supported",
                remedy="use Linux on x86_64 or aarch64",
            )
        ]
    if numbers < _MINIMUM_KERNEL:
        return [
            Finding(
                verdict=Verdict.MISSING,
                subject="kernel",
                fact=f"Linux {release} is too old: it cannot show a notebook's directory with the sandbox's user ids",
                remedy="use Linux 6.1 or newer",
            )
        ]
    python = f"Python {platform.python_version()}"
    return [Finding(verdict=Verdict.OK, subject="system", fact=f"Linux {release} on {machine}, {python}")]


def _packages() -> list[Finding]:
    old = []
    for name, minimum in _OLD_PACKAGES.items():
        version = metadata.version(name)
        if int(version.split(".")[0]) < minimum:
            old.append(f"{name} {version} (needs {minimum})")
    if old:
        remedy = f"{sys.executable} -m pip install -U {' '.join(_OLD_PACKAGES)}"
        return [Finding(verdict=Verdict.MISSING, subject="packages", fact=f"too old: {', '.join(old)}", remedy=remedy)]
    return []


def _rights() -> list[Finding]:
    if os.geteuid() == 0:
        return [Finding(verdict=Verdict.OK, subject="rights", fact="root: every worker gets a host user of its own")]
    return [
        Finding(
            verdict=Verdict.WEAKER,
            subject="rights",
            fact="no root: all workers run as your own host user, apart from each other by namespaces and filters only",
            remedy="run the broker as root for one host user per worker (docs/operating.md)",
        )
    ]


def _namespaces() -> list[Finding]:
    """Try in a child, which is the only way to know; the sysctls only explain a refusal."""
    child = os.fork()
    if child == 0:
        try:
            namespaces.enter()
        except BaseException:  # noqa: BLE001 - the exit status is the answer
            os._exit(1)
        os._exit(0)
    if os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0:
        return [Finding(verdict=Verdict.OK, subject="namespaces", fact="may be made")]
    return [
        Finding(
            verdict=Verdict.MISSING,
            subject="namespaces",
            fact="this machine lets us make none",
            remedy=_userns_remedy(),
        )
    ]


def _userns_remedy(sysctls: Path = Path("/proc/sys")) -> str:
    def value(name: str) -> str:
        try:
            return (sysctls / name).read_text().strip()
        except OSError:
            return ""

    if value("kernel/unprivileged_userns_clone") == "0":
        return "sudo sysctl -w kernel.unprivileged_userns_clone=1"
    if value("kernel/apparmor_restrict_unprivileged_userns") == "1":
        return "sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0"
    if value("user/max_user_namespaces") == "0":
        return "sudo sysctl -w user.max_user_namespaces=10000"
    return "run as root on the host, or inside a container with --privileged"


def _disk() -> list[Finding]:
    if os.geteuid() != 0:
        return [
            Finding(
                verdict=Verdict.WEAKER,
                subject="disk",
                fact="no root: a sandbox's disk is a tmpfs of fixed size, so it lives in memory",
                remedy="run the broker as root for disks on disk (docs/operating.md)",
            )
        ]
    findings = []
    if shutil.which("mkfs.ext4", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None:
        findings.append(
            Finding(
                verdict=Verdict.MISSING,
                subject="disk",
                fact="mkfs.ext4 is not installed",
                remedy="apt-get install e2fsprogs",
            )
        )
    if not Path("/dev/loop-control").exists():
        findings.append(
            Finding(verdict=Verdict.MISSING, subject="disk", fact="no loop devices", remedy="modprobe loop")
        )
    where = places.find().images
    existing = next(path for path in (where, *where.parents) if path.exists())
    free_mib = shutil.disk_usage(existing).free >> 20
    return findings or [
        Finding(verdict=Verdict.OK, subject="disk", fact=f"ext4 images on loop devices; {free_mib} MiB free")
    ]


def _limits() -> list[Finding]:
    hierarchy = cgroups.find(places.find().instance)
    if hierarchy is None:
        return [
            Finding(
                verdict=Verdict.WEAKER,
                subject="limits",
                fact="no control groups may be made here: rlimits hold memory and processes, nothing holds cpu shares",
                remedy=_groups_remedy(),
            )
        ]
    hierarchy.remove_parents()
    return [
        Finding(
            verdict=Verdict.OK, subject="limits", fact=f"control groups version {hierarchy.version}: memory, cpu, pids"
        )
    ]


def _groups_remedy() -> str:
    if os.geteuid() == 0:
        return "in a container run it with --cgroupns=host, or the broker as the only process of its container"
    return "run the broker as root, or by itself in a unit with Delegate=yes (docs/operating.md)"


def _network() -> list[Finding]:
    """Whether templates may open the network; closed it is everywhere."""
    if os.geteuid() != 0:
        fact, remedy = "no root: templates that open the network are refused", "run the broker as root"
        return [_closed(fact, f"{remedy} (docs/operating.md)")]
    missing = network.missing_tools()
    if missing:
        fact = f"{' and '.join(missing)} not installed: templates that open the network are refused"
        return [_closed(fact, f"apt-get install {' '.join(network.TOOLS[name] for name in missing)}")]
    if not network.can_filter():
        return [_closed("the packet filter may not be used here: templates that open the network are refused")]
    findings = []
    for version, device in network.default_uplinks().items():
        if not network.is_forwarding(device, version):
            name = f"net.ipv4.conf.{device}.forwarding" if version == 4 else "net.ipv6.conf.all.forwarding"
            fact = f"IPv{version} of {device} is not forwarded: templates that open the network beyond it are refused"
            findings.append(_closed(fact, f"only for such templates, and see docs/operating.md: sysctl -w {name}=1"))
    for chain in network.foreign_drops():
        fact = f"{chain}, drops what it does not know: it blocks templates that open the network"
        findings.append(_closed(fact, f"only for such templates: let {rulesets.WIRES}* pass there (docs/operating.md)"))
    return findings or [Finding(verdict=Verdict.OK, subject="network", fact="templates may open it to named targets")]


def _closed(fact: str, remedy: str = "") -> Finding:
    return Finding(verdict=Verdict.WEAKER, subject="network", fact=fact, remedy=remedy)


def _sockets() -> list[Finding]:
    longest = f"{places.find().kernel_sockets(ids.new_seat())}-5"
    if len(longest.encode()) <= MAX_SOCKET_PATH:
        return []
    return [
        Finding(
            verdict=Verdict.MISSING,
            subject="sockets",
            fact=f"the run directory's path is too long ({len(longest)} of {MAX_SOCKET_PATH} bytes)",
            remedy="set XDG_RUNTIME_DIR to a short path",
        )
    ]


def _others_broker() -> Finding:
    """Say whose broker it is: what that needs is no matter of this user."""
    fact = f"its operator's, at {places.find().socket}; that one's `jupyter sandbox doctor` says what its host can do"
    return Finding(verdict=Verdict.OK, subject="broker", fact=fact)


async def _containers(wanted: str, image_name: str, runtime: str) -> list[Finding]:
    """Look at the container engine. That there is none matters only if it is wanted: `auto` takes the embedded one."""
    subject = "containers"
    unfit = await docker.unfit(image_name, runtime)
    if os.geteuid() != 0:
        unfit = "the engine `docker` needs a broker that runs as root"
    if unfit or wanted == "embedded":
        missing = wanted == "docker"
        fact = unfit or "the engine `embedded` is chosen"
        return [
            Finding(
                verdict=Verdict.MISSING if missing else Verdict.OK,
                subject=subject,
                fact=fact if missing else f"not used: {fact}",
                remedy="see docs/docker.md, or use the engine `embedded`" if missing else "",
            )
        ]
    daemon = await Daemon.probe()
    try:
        version, info = await daemon.version(), await daemon.info()
        status, _ = daemon.process()
    finally:
        daemon.close()
    findings = [
        Finding(verdict=Verdict.OK, subject=subject, fact=f"{suitability.summary(version, info)}; the image fits")
    ]
    for weakness in suitability.weaknesses(version, info, suitability.capabilities(status)):
        findings.append(Finding(verdict=Verdict.WEAKER, subject=subject, fact=weakness.fact, remedy=weakness.remedy))
    return findings


async def _proof() -> Finding:
    loop = asyncio.get_running_loop()
    began = loop.time()
    try:
        lease = await client.Lease.claim("python", "none", "", None)
        try:
            await client.call(verbs.Release(sandbox=lease.sandbox), verbs.Done)
        finally:
            lease.close()
        status = await client.call(verbs.Status(), verbs.StatusReport)
    except SandboxError as error:
        return Finding(
            verdict=Verdict.MISSING,
            subject="proof",
            fact=f"a sandbox could not be started: {error}",
            remedy=f"see {places.own_log() or 'the log of the broker'}",
        )
    milliseconds = (loop.time() - began) * 1000
    fact = f"a sandbox was started and destroyed in {milliseconds:.0f} ms (engine {status.engine})"
    return Finding(verdict=Verdict.OK, subject="proof", fact=fact)


_PROBES: Final[tuple[Callable[[], list[Finding]], ...]] = (
    _system,
    _packages,
    _rights,
    _namespaces,
    _disk,
    _limits,
    _network,
    _sockets,
)
