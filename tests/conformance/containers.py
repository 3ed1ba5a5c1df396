"""Let others judge a worker's container: `python tests/conformance/containers.py DOCKER-BENCH-SECURITY AMICONTAINED`

The first is a clone of docker/docker-bench-security, of which one commit is run, whatever the clone has checked out; the
second is the program that a clone of genuinetools/amicontained builds. The worker has a kernel and is started by a broker
with the engine `docker`, as root; the container engine is the one that `DOCKER_HOST` names. The status is 1 when a
verdict is worse than what is promised. Never start amicontained outside a sandbox: it tries every system call.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(REPOSITORY))

from jupyter_sandbox.host import places  # noqa: E402 - the path is set above
from tests.attacks.driver import Sandbox  # noqa: E402
from tests.server.brokers import Tree  # noqa: E402

BENCH_COMMIT = "ff26d67f25be60fc2d82a01710ee14570b2cb9db"
LEAST_PASSED = 26
MOST_WARNED = 2
ALLOWED = {
    "5.2": "AppArmor: this machine's kernel has none",
    "5.27": "health check: a program that the engine starts inside again and again; the broker watches pid 1 instead",
}
"""Warnings that may be, each with its reason."""
APPARMOR = Path("/sys/module/apparmor/parameters/enabled")
TIMEOUT_S = 120
LAST_WORDS = "Looking for Docker.sock"
"""What amicontained says before it asks every socket that it finds, and waits for the answers."""
_CHECK = re.compile(r"^\[(PASS|WARN|NOTE|INFO)\] (5\.\d+) - (.*)$", re.MULTILINE)


def worse_of_bench(said: str, *, has_apparmor: bool) -> Iterator[str]:
    """Yield what is worse than promised in what docker-bench-security says. Pure."""
    checks = _CHECK.findall(said)
    passed = [check for verdict, check, _ in checks if verdict == "PASS"]
    warned = {check: title for verdict, check, title in checks if verdict == "WARN"}
    if len(passed) < LEAST_PASSED:
        yield f"{len(passed)} checks passed, at least {LEAST_PASSED} must"
    if len(warned) > MOST_WARNED:
        yield f"{len(warned)} warnings, at most {MOST_WARNED} may be"
    for check, title in warned.items():
        if check not in ALLOWED or (check == "5.2" and has_apparmor):
            yield f"a warning without a reason: {check} {title}"


def worse_of_amicontained(said: str) -> Iterator[str]:
    """Yield what is worse than promised in what amicontained says inside a worker. Pure."""
    if not re.search(r"^Capabilities:\nSeccomp:", said, re.MULTILINE):  # a title without a line: five empty sets
        yield "it does not say that there are no capabilities"
    if not re.search(r"^Seccomp: filtering$", said, re.MULTILINE):
        yield "it does not say that system calls are filtered"


def bench(clone: Path, folder: Path, container: str) -> str:
    """Run the section of docker-bench-security about containers on one; return what it says."""
    archive = subprocess.run(["git", "-C", clone, "archive", BENCH_COMMIT], capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", folder], input=archive, check=True)
    command = ["bash", "docker-bench-security.sh", "-b", "-c", "container_runtime", "-i", container]
    return subprocess.run(
        command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=TIMEOUT_S, check=True
    ).stdout


def amicontained(sandbox: str) -> str:
    """Run the program in the working directory of a sandbox; return what it says until it looks for sockets."""
    command = [sys.executable, "-m", "jupyter_sandbox.cli", "exec", sandbox, "--"]
    command += ["timeout", str(TIMEOUT_S), "./amicontained"]
    said = ""
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout or ():
            said += line
            if line.startswith(LAST_WORDS):
                process.terminate()
    return said


def main() -> int:
    """Return 0 when no verdict is worse than promised."""
    clone, program = Path(sys.argv[1]), Path(sys.argv[2])
    tree = Tree("docker")
    os.environ |= tree.environment()
    os.environ.pop(places.SOCKET_VARIABLE, None)
    try:
        tree.start()
        with tempfile.TemporaryDirectory(prefix="jsbk", dir=tree.directory) as made:
            shutil.copy(program, Path(made, "amicontained"))
            box = Sandbox(mode="ro", directory=made)
            box.start()
            with tempfile.TemporaryDirectory(prefix="jsbk", dir="/tmp") as folder:
                verdict = bench(clone, Path(folder), box.id)
            inside = amicontained(box.id)
            box.release()
    finally:
        tree.stop()
    has_apparmor = APPARMOR.exists() and APPARMOR.read_text().startswith("Y")
    print(*(" ".join(each) for each in _CHECK.findall(verdict)), "", inside, sep="\n")
    for check in [check for outcome, check, _ in _CHECK.findall(verdict) if outcome == "WARN" and check in ALLOWED]:
        print(f"may be: {check}, {ALLOWED[check]}")
    worse = [*worse_of_bench(verdict, has_apparmor=has_apparmor), *worse_of_amicontained(inside)]
    print(*worse or ("no verdict is worse than promised",), sep="\n")
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
