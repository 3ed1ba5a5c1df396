"""Fixtures and guards that every test gets: a broker tree of our own, and proof that nothing is left behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import docker.errors
import hypothesis
import pytest

from jupyter_sandbox.broker.app import ENGINE_VARIABLE
from jupyter_sandbox.engines import container, daemon
from jupyter_sandbox.host import places

LEAK_TIMEOUT_S = 15
MAY_SKIP_VARIABLE = "JUPYTER_SANDBOX_MAY_SKIP"
"""Names a pattern, as `.ci/run` does: a test that is skipped for a reason that does not match it has failed."""

hypothesis.settings.register_profile("ours", deadline=None, database=None)  # no test measures time
hypothesis.settings.load_profile("ours")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A script that starts a suite in the background has it ignore SIGINT; whatever a test starts would, too.
    signal.signal(signal.SIGINT, signal.default_int_handler)

os.environ.setdefault(ENGINE_VARIABLE, "embedded")  # not whatever this machine offers: name it to test another engine


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_runtest_makereport():
    return judged((yield), os.environ.get(MAY_SKIP_VARIABLE))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_make_collect_report():
    return judged((yield), os.environ.get(MAY_SKIP_VARIABLE))


def judged(report, may_skip: str | None):
    """The report of a test or of a module, as a failure if it is of a skip that may not be. None: every skip may be."""
    if may_skip is not None and report.skipped and not hasattr(report, "wasxfail"):
        reason = report.longrepr[2]
        if not re.search(may_skip, reason):
            report.outcome, report.longrepr = "failed", f"it may not be skipped here: {reason}"
    return report


@pytest.fixture(scope="session")
def sandbox_dir() -> Iterator[Path]:
    """A short directory that holds everything of the brokers this test session starts; they are stopped at the end."""
    directory = Path(tempfile.mkdtemp(prefix="jsbt", dir="/tmp"))
    directory.chmod(0o755)
    before = os.environ.get(places.DIRECTORY_VARIABLE)
    os.environ[places.DIRECTORY_VARIABLE] = str(directory)
    yield directory
    stop_broker()
    left = leftovers(directory)
    if before is None:
        del os.environ[places.DIRECTORY_VARIABLE]
    else:
        os.environ[places.DIRECTORY_VARIABLE] = before
    shutil.rmtree(directory, ignore_errors=True)
    assert not left, f"the test session left {left}"


def broker_pid() -> int | None:
    """The pid of the broker of this tree, by the lock that it holds."""
    lock = places.find().lock
    if not lock.exists():
        return None
    inode = lock.stat().st_ino
    for line in Path("/proc/locks").read_text().splitlines():
        fields = line.split()
        if len(fields) > 5 and fields[5].endswith(f":{inode}") and int(fields[4]) > 0:  # never signal a group
            return int(fields[4])
    return None


def stop_broker(number: int = 2) -> None:
    """Stop this tree's broker with SIGINT (everything is destroyed) or another signal, and wait until it is gone."""
    pid = broker_pid()
    if pid is None:
        return
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, number)
    wait_until(lambda: broker_pid() is None)


def wait_until(condition, timeout_s: float = LEAK_TIMEOUT_S) -> None:
    """Wait for a condition; fails the test when it does not come."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{condition} did not become true within {timeout_s} s"
        time.sleep(0.02)


async def eventually(condition, timeout_s: float = LEAK_TIMEOUT_S) -> None:
    """The same without blocking the event loop."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"{condition} did not become true within {timeout_s} s"
        await asyncio.sleep(0.02)


def leftovers(directory: Path) -> list[str]:
    """What on this machine still belongs to the broker tree at `directory`: loop devices, mounts, groups, processes."""
    found: list[str] = []
    text = str(directory)
    for backing in Path("/sys/block").glob("loop*/loop/backing_file"):
        with contextlib.suppress(OSError):
            if backing.read_text().startswith(text):
                found.append(f"loop device {backing.parts[3]}")
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    found += [f"mount {line.split()[4]}" for line in mounts if text in line]
    tag = places.find().instance
    for parent, names, _ in os.walk("/sys/fs/cgroup"):  # a group that goes away meanwhile upsets glob
        if parent.endswith(f"/jupyter-sandbox/{tag}"):
            found += [f"control group {parent}/{name}" for name in names if name.startswith("sbx_")]
    found += [f"container {name}" for name in containers(tag)]
    found += [f"image {path.name}" for path in directory.glob("images/*/*.img")]
    for kind in ("k", "a", "h", "ledger"):
        found += [f"{kind}/{path.name}" for path in directory.glob(f"*/{kind}/*")]
    return found


def containers(instance: str) -> list[str]:
    """The names of all containers of a broker's tree; none where no container engine answers."""
    if not daemon.socket_exists():
        return []
    client = docker.APIClient(base_url=daemon.address(), timeout=10)
    try:
        found = client.containers(all=True, filters={"label": f"{container.INSTANCE}={instance}"})
        return [name.lstrip("/") for each in found for name in each["Names"]]
    except (docker.errors.DockerException, OSError):
        return []
    finally:
        client.close()


def run_as(uid: int, *command: str, gid: int | None = None, **kwargs) -> subprocess.CompletedProcess[str]:
    """Run a command as another user without groups."""
    return subprocess.run(
        ["setpriv", f"--reuid={uid}", f"--regid={gid or uid}", "--clear-groups", *command],
        text=True,
        capture_output=True,
        check=False,
        **kwargs,
    )


@pytest.fixture
def lease_of(sandbox_dir):
    """Claim sandboxes in a test and give them back at its end: `lease = await lease_of(template="python")`."""
    from jupyter_sandbox.broker import client

    leases = []

    async def claim(template="python", workspace="none", name="", directory=None):
        lease = await client.Lease.claim(template, workspace, name, directory)
        leases.append(lease)
        return lease

    yield claim
    for lease in leases:
        lease.close()
