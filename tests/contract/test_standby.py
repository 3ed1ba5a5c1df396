"""The process of a worker's first kernel, which stands by before anybody asks: confined, unreachable, replaceable."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
from pathlib import Path

import pytest

from tests.conftest import wait_until


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def facts(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def standby(broker, sandbox: str) -> int:
    """The host pid of what stands by in a worker that has no kernel."""
    (waiting,) = children(broker.record(sandbox)["pid"])
    return waiting


def kernel_processes(broker, sandbox: str) -> list[int]:
    return [pid for pid in children(broker.record(sandbox)["pid"]) if facts(pid)["State"][0] not in "ZX"]


def number_inside(pid: int) -> str:
    return facts(pid)["NSpid"].split()[-1]


def sockets(broker) -> set[str]:
    return {path.name for path in broker.directory.glob("*/k/*")}


@pytest.fixture
def claim_warm(broker, claim):
    """Claim a worker of the pool's: one that is made for a claim has no standby."""

    def make(**options):
        wait_until(lambda: broker.status().warm >= 1, 30)
        return claim(**options)

    return make


def answers(box, code: str = "print(6 * 7)") -> str:
    reply = box.execute(code, timeout=40)
    assert reply["status"] == "ok", reply
    return reply["out"].strip()


def test_what_stands_by_in_a_warm_worker_is_confined_like_a_kernel(own_broker, claim):
    wait_until(lambda: own_broker.status().warm == 1, 30)
    (record,) = own_broker.records()
    waiting = standby(own_broker, record.stem)
    before = facts(waiting)
    box = claim()
    assert box.id == record.stem, "the warm worker was claimed"
    after = facts(int(kernel_processes(own_broker, box.id)[0]))
    for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(before[name], 16) == 0, name
    assert (before["NoNewPrivs"], before["Seccomp"]) == ("1", "2")
    for name in ("Uid", "Gid", "Groups", "NoNewPrivs", "Seccomp", "Seccomp_filters"):
        assert before[name] == after[name], name


def test_standby_agent_and_kernels_share_one_user_namespace(own_broker, claim):
    wait_until(lambda: own_broker.status().warm == 1, 30)
    box = claim()
    pids = [own_broker.record(box.id)["pid"], *kernel_processes(own_broker, box.id)]
    assert len({os.readlink(f"/proc/{pid}/ns/user") for pid in pids}) == 1
    assert all(int(facts(pid)["CapEff"], 16) == 0 for pid in pids)


def test_the_first_kernel_is_what_stood_by(broker, claim_warm):
    box = claim_warm(start=False)
    waiting = standby(broker, box.id)
    box.start()
    assert answers(box) == "42"
    assert kernel_processes(broker, box.id) == [waiting]
    assert {name for name in sockets(broker) if name.startswith(box.seat)} == {f"{box.seat}-{n}" for n in range(1, 6)}


def test_no_client_reaches_what_stands_by(broker, claim_warm):
    box = claim_warm(start=False)
    waiting = box.id.removeprefix("sbx_")[:12]
    paths = [path for path in broker.directory.glob("*/k/*") if path.name.startswith(waiting)]
    assert len(paths) == 5
    assert {(path.stat().st_uid, stat.S_IMODE(path.stat().st_mode)) for path in paths} == {(os.getuid(), 0o600)}
    box.start()
    assert not [name for name in sockets(broker) if name.startswith(waiting)]


def test_a_standby_that_was_killed_is_replaced_when_it_is_needed(broker, claim_warm):
    box = claim_warm(start=False)
    waiting = standby(broker, box.id)
    os.kill(waiting, signal.SIGKILL)
    wait_until(lambda: not Path(f"/proc/{waiting}").exists())
    box.start()
    assert answers(box) == "42"


def test_code_that_stops_the_standby_gets_its_kernel_all_the_same(broker, claim_warm):
    """A command may do to it what it may do to a kernel; neither agent nor broker waits long for it."""
    box = claim_warm(start=False)
    waiting = standby(broker, box.id)
    assert box.command(["sh", "-c", "kill -STOP $1", "sh", number_inside(waiting)])["status"] == 0
    wait_until(lambda: facts(waiting)["State"][0] == "T")
    box.start()
    assert answers(box) == "42"
    assert not Path(f"/proc/{waiting}").exists()


def test_a_command_that_ends_leaves_the_standby_and_nothing_that_hid(broker, claim_warm):
    box = claim_warm(start=False)
    waiting = standby(broker, box.id)
    hide = "setsid sleep 1000 >/dev/null 2>&1 & until grep -lsx sleep /proc/[0-9]*/comm; do :; done"
    said = box.command(["sh", "-c", hide])
    assert (said["status"], said["out"][:6]) == (0, "/proc/"), said
    wait_until(lambda: kernel_processes(broker, box.id) == [waiting])
    box.start()
    assert answers(box) == "42"
    assert kernel_processes(broker, box.id) == [waiting]


def test_a_fork_bomb_that_hides_leaves_room_for_a_kernel(broker, claim_warm):
    """What forks faster than it is found is killed with the standby."""
    box = claim_warm(start=False)
    bomb = "import os\nos.setsid()\nwhile True:\n    try: os.fork()\n    except OSError: pass"
    box.command(["sh", "-c", 'python3 -c "$1" >/dev/null 2>&1 & sleep 1', "sh", bomb])
    box.start()
    assert answers(box) == "42"
    wait_until(lambda: len(kernel_processes(broker, box.id)) == 1)


def test_a_command_does_not_reach_into_the_standby(broker, claim_warm):
    """A process of the same user may else open its memory and, by that, take over its listeners."""
    box = claim_warm(start=False)
    inside = number_inside(standby(broker, box.id))
    look = 'for name in mem maps environ; do (: < "/proc/$1/$name") 2>/dev/null && echo $name; done; ls "/proc/$1/fd"'
    assert box.command(["sh", "-c", f"({look}) 2>/dev/null; true", "sh", inside])["out"] == ""
    box.start()
    assert answers(box) == "42"
    said = box.command(["sh", "-c", look, "sh", inside])["out"].split()
    assert said[:3] == ["mem", "maps", "environ"], "a kernel is open to its own user"


def test_a_kernel_that_is_executed_replaces_the_standby(broker, claim_warm):
    box = claim_warm(start=False)
    waiting = standby(broker, box.id)
    box.start(argv=["{python}", "-m", "ipykernel_launcher", "-f", "{connection_file}", "--quiet"])
    assert answers(box) == "42"
    assert not Path(f"/proc/{waiting}").exists()
    assert len(kernel_processes(broker, box.id)) == 1


def test_a_start_that_is_refused_costs_only_the_standby(broker, claim_warm):
    box = claim_warm(start=False)
    with pytest.raises(Exception, match="no program"):
        box.start(argv=["no-such-program", "{connection_file}"])
    assert not [name for name in sockets(broker) if name.startswith((box.seat, box.id.removeprefix("sbx_")[:12]))]
    box.start()
    assert answers(box) == "42"


def test_environment_directory_and_identity_are_the_kernels(claim_warm, tmp_path):
    shown = tmp_path / "notes"
    shown.mkdir()
    box = claim_warm(mode="overlay", directory=shown, start=False)
    box.start(env={"KERNEL_WORD": "said", "JPY_SESSION_NAME": "a notebook"})
    code = "import os\nprint(os.getcwd(), os.environ['KERNEL_WORD'], __session__, os.environ['HOME'])"
    assert answers(box, code) == "/workspace/notes said a notebook /sandbox"
    code = "from ipykernel.connect import get_connection_file\nprint(open(get_connection_file()).read())"
    said = answers(box, code)
    assert box.key in said
    assert box.prefix in said


def test_a_sandbox_without_a_kernel_outlives_its_broker_and_then_starts_one(own_broker, claim):
    wait_until(lambda: own_broker.status().warm == 1, 30)
    box = claim(start=False)
    waiting = standby(own_broker, box.id)
    own_broker.kill()
    own_broker.start()
    box.lease.listen()
    asyncio.run(box.lease.reattach())
    assert own_broker.reap() == ()
    box.start()
    assert answers(box) == "42"
    assert not Path(f"/proc/{waiting}").exists(), "its listeners went with the broker that had them"


def test_a_released_sandbox_leaves_no_standby(broker, claim_warm):
    box = claim_warm(start=False)
    waiting = standby(broker, box.id)
    box.release()
    wait_until(lambda: not Path(f"/proc/{waiting}").exists())
    assert not [name for name in sockets(broker) if name.startswith(box.id.removeprefix("sbx_")[:12])]
