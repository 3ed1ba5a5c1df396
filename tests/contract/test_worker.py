"""What a sandbox is and does, whatever makes its worker: files, kernels, commands, limits, isolation."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import stat
import threading
from pathlib import Path

import pytest

from jupyter_sandbox.broker import usage_verbs
from jupyter_sandbox.errors import SandboxError
from tests.attacks.driver import call
from tests.conftest import wait_until

FACTS = """
import json, os
status = dict(line.split(":", 1) for line in open("/proc/self/status").read().splitlines() if ":" in line)
links = {name: os.readlink(f"/proc/self/ns/{name}") for name in ("pid", "net", "ipc", "uts", "mnt")}
print(json.dumps({
    "capabilities": [int(status[name], 16) for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")],
    "no_new_privileges": int(status["NoNewPrivs"]),
    "filters": int(status["Seccomp"]),
    "namespaces": links,
    "uid": os.getuid(),
    "user": __import__("pwd").getpwuid(os.getuid()).pw_name,
    "hostname": os.uname().nodename,
    "interfaces": os.listdir("/sys/class/net") if os.path.isdir("/sys/class/net") else sorted(
        line.split(":")[0].strip() for line in open("/proc/net/dev").read().splitlines()[2:]),
    "first": open("/proc/1/comm").read().strip(),
    "home": os.path.expanduser("~"),
    "cwd": os.getcwd(),
    "nameservers": open("/etc/resolv.conf").read(),
}))
"""


def said(box, code, **keywords):
    """What code printed; fails when it raised."""
    reply = box.execute(code, **keywords)
    assert reply["status"] == "ok", reply
    return reply["out"].strip()


def facts(box):
    return json.loads(said(box, FACTS))


def test_the_broker_uses_the_engine_that_was_asked_for(broker, engine):
    assert broker.status().engine == engine


def test_a_kernel_computes_and_keeps_its_state(box):
    said(box, "x = 6 * 7")
    assert said(box, "print(x)") == "42"


def test_a_kernel_collects_its_garbage_and_imports_as_any_python_does(box):
    """Neither is left of how its worker was made ready."""
    look = "import gc, sys; print(gc.isenabled(), [each for each in sys.meta_path if 'sandbox_worker' in repr(each)])"
    assert said(box, look) == "True []"


def test_files_stay_over_a_restart_of_the_kernel(box):
    said(box, "open('/sandbox/kept', 'w').write('kept')")
    box.signal(signal.SIGKILL)
    assert box.end()["reason"] == "requested"
    box.start()
    assert said(box, "print(open('/sandbox/kept').read(), 'x' in globals())") == "kept False"


def test_the_hosts_view_of_the_disk_shows_the_same_files_and_follows_no_link(box):
    said(box, "import os\nopen('/sandbox/seen', 'w').write('seen')\nos.symlink('/etc/passwd', '/sandbox/link')")
    directory = box.disk()
    try:
        with os.fdopen(os.open("seen", os.O_RDONLY, dir_fd=directory)) as file:
            assert file.read() == "seen"
        with pytest.raises(OSError, match="symbolic links"):
            os.open("link", os.O_RDONLY, dir_fd=directory)
    finally:
        os.close(directory)


def test_a_command_runs_with_its_streams_and_its_status(box):
    assert box.command(["sh", "-c", "echo out; exit 3"]) == {"status": 3, "out": "out\n"}


def test_a_program_that_is_missing_is_told(box):
    with pytest.raises(SandboxError, match="no program"):
        box.command(["no-such-program"])


def test_a_kernel_that_is_executed_instead_of_forked_works(claim, broker):
    box = claim(start=False)
    box.start(argv=["{python}", "-m", "ipykernel_launcher", "-f", "{connection_file}", "--quiet"])
    assert said(box, "print(1 + 1)", timeout=40) == "2"


def test_nothing_of_a_kernel_that_has_ended_stays_where_there_is_place_for_some_hundreds(claim, broker):
    """Once a sandbox started no more kernels after some 250."""
    box = claim(start=False)
    for argv in (None, ["{python}", "-m", "ipykernel_launcher", "-f", "{connection_file}", "--quiet"]):
        box.start(argv=argv)
        assert said(box, "import os; print(len(os.listdir('/run')))", timeout=40) == "1"
        box.signal(signal.SIGKILL)
        assert box.end()["reason"] == "requested"
        assert box.command(["ls", "/run"]) == {"status": 0, "out": ""}


def test_the_environment_says_in_which_zone_and_with_which_modules_a_kernel_is(claim, broker):
    box = claim(start=False)
    assert box.command(["sh", "-c", "mkdir lib && echo x = 42 > lib/ours.py"])["status"] == 0
    box.start(env={"TZ": "XYZ-9:30", "PYTHONPATH": "/sandbox/lib:/nowhere"})
    code = "import time, ours; print(time.tzname[0], time.localtime(0).tm_hour, ours.x)"
    assert said(box, code) == "XYZ 9 42"


def test_an_interrupt_ends_the_cell_and_not_the_kernel(box):
    def interrupt():
        box.command(["sh", "-c", "until test -e begun; do sleep 0.05; done; rm begun"])
        box.signal(signal.SIGINT)

    interrupter = threading.Thread(target=interrupt)
    interrupter.start()
    try:
        code = "import time; open('begun', 'w').close(); [time.sleep(0.1) for _ in range(600)]"
        assert box.execute(code)["error"].startswith("KeyboardInterrupt")
    finally:
        interrupter.join()
    assert said(box, "print('alive')") == "alive"


def test_isolation_is_the_same(box):
    found = facts(box)
    ours = {name: os.readlink(f"/proc/self/ns/{name}") for name in found["namespaces"]}
    assert found["capabilities"] == [0] * 5
    assert found["no_new_privileges"] == 1
    assert found["filters"] == 2
    assert not set(ours.values()) & set(found["namespaces"].values())
    assert found["uid"] != 0
    assert found["user"] == "sandbox"
    assert found["hostname"] == "sandbox"
    assert found["interfaces"] == ["lo"]
    assert found["first"] == "sandbox-agent"
    assert (found["home"], found["cwd"]) == ("/sandbox", "/sandbox")
    assert found["nameservers"] == ""


def test_the_disk_is_at_both_homes_and_each_is_a_place_of_its_own(box):
    code = """
import os, pathlib
os.chdir('/home/user')
pathlib.Path('shared').write_text('one disk')
print(os.getcwd(), os.path.islink('/home/user'), pathlib.Path('/sandbox/shared').read_text())
os.unlink('/sandbox/shared')
os.chdir('/sandbox')
"""
    assert said(box, code) == "/home/user False one disk"


@pytest.mark.parametrize(
    "path", ["/", "/etc", "/usr", "/usr/lib", "/var/tmp", "/proc/sys/kernel/hostname", "/workspace"]
)
def test_nothing_else_can_be_written(box, path):
    code = f"import os\ntry:\n    os.close(os.open({path!r} + ('' if os.path.isfile({path!r}) else '/x'), os.O_WRONLY | os.O_CREAT))\nexcept OSError as e:\n    print(e.errno)"
    assert said(box, code) in ("30", "13", "1")


@pytest.mark.parametrize("call", ["mount", "unshare", "ptrace", "bpf", "io_uring_setup", "keyctl", "userfaultfd"])
def test_system_calls_that_are_not_needed_are_refused(box, call):
    numbers = {"mount": 165, "unshare": 272, "ptrace": 101, "bpf": 321, "io_uring_setup": 425, "keyctl": 250}
    number = (numbers | {"userfaultfd": 323})[call]
    code = f"import ctypes, errno\nl = ctypes.CDLL(None, use_errno=True)\nprint(l.syscall({number}, 0, 0, 0, 0), ctypes.get_errno())"
    assert said(box, code) == "-1 1"


def test_every_process_of_a_worker_has_a_host_user_of_its_own(claim, broker, box):
    other = claim(start=False)
    uids = {int(_status(broker.record(each.id)["pid"])["Uid"].split()[0]) for each in (box, other)}
    assert len(uids) == 2
    assert all(uid >= 0x70000000 for uid in uids)


def _status(pid):
    text = Path(f"/proc/{pid}/status").read_text()
    return dict(line.split(":", 1) for line in text.splitlines() if ":" in line)


def test_a_full_disk_is_an_error_and_frees_again(claim, broker):
    box = claim("small-disk")
    code = "try:\n    open('/sandbox/big', 'wb').write(bytes(64 << 20))\nexcept OSError as e:\n    print(e.errno)"
    assert said(box, code) == "28"
    assert said(box, "import os\nos.remove('/sandbox/big')\nprint(open('/sandbox/small', 'w').write('fits'))") == "4"


def test_memory_ends_the_kernel_and_the_person_is_told(claim, broker):
    box = claim("small-memory")
    box.submit("x = b'x' * (512 << 20)")
    end = box.end()
    assert end["reason"] == "memory", end
    assert "256 MiB" in end["message"]
    box.start()
    assert said(box, "print('again')") == "again"


def test_a_template_may_want_more_processors_than_there_are(claim, broker):
    assert said(claim("many-processors"), "print(1)") == "1"


def test_processes_are_limited(claim, broker):
    box = claim()
    code = """
import os, warnings
warnings.simplefilter("ignore")
children = []
try:
    while len(children) < 400:
        pid = os.fork()
        if pid == 0:
            os.execvp("sleep", ["sleep", "30"])
        children.append(pid)
except OSError as e:
    print(e.errno, len(children) < 256)
for pid in children:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
"""
    assert said(box, code, timeout=40) == "11 True"


@pytest.mark.parametrize("hides", [False, True], ids=["in-its-group", "in-sessions-of-their-own"])
def test_nothing_of_a_kernel_that_has_ended_counts_in_the_limits_of_the_next(claim, broker, hides):
    box = claim()
    said(box, CROWD.format(hides=hides), timeout=40)
    agent = broker.record(box.id)["pid"]
    assert len(_processes_beside(agent)) == 102
    box.signal(signal.SIGKILL)
    assert box.end()["reason"] == "requested"
    assert _processes_beside(agent) == {str(agent)}
    box.start()
    assert said(box, "print('again')") == "again"


def test_nothing_of_a_kernel_that_ends_beside_a_command_counts_either(claim, broker):
    """What is not its own stays, so its group alone is waited for."""
    box = claim()
    said(box, CROWD.format(hides=False), timeout=40)
    agent = broker.record(box.id)["pid"]
    command = threading.Thread(target=box.command, args=[["sleep", "5"]])
    command.start()
    wait_until(lambda: len(_processes_beside(agent)) == 103)
    box.submit("os._exit(0)")
    assert box.end()["reason"] == "finished"
    assert len(_processes_beside(agent)) == 2
    command.join()


CROWD = """
import os, time
for _ in range(100):
    if os.fork() == 0:
        if {hides}: os.setsid()
        memory = b"x" * (3 << 20)  # so that its end takes its time
        time.sleep(1000)
print("made")
"""


def _processes_beside(pid):
    """The host pids of what is in the same process namespace, dying ones among them."""
    namespace = os.readlink(f"/proc/{pid}/ns/pid")
    found = set()
    for other in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/{other}/ns/pid_for_children") == namespace:
                found.add(other)
    return found


def test_open_files_and_core_files_are_limited(box):
    code = "import resource as r\nprint(r.getrlimit(r.RLIMIT_NOFILE), r.getrlimit(r.RLIMIT_CORE))"
    assert said(box, code) == "(4096, 4096) (1, 1)"


def test_temporary_places_have_a_size_and_may_be_executed_or_not(box):
    code = "import os\nfor p in ('/tmp', '/run', '/dev/shm'):\n    s = os.statvfs(p)\n    print(p, s.f_blocks * s.f_frsize >> 20, s.f_files, bool(s.f_flag & os.ST_NOEXEC), oct(os.stat(p).st_mode & 0o7777))"
    assert said(box, code).splitlines() == [
        "/tmp 256 16384 False 0o1777",
        "/run 1 256 True 0o1777",
        "/dev/shm 64 4096 False 0o1777",
    ]


def test_usage_is_told(box):
    row = box.row()
    assert row.memory_bytes > 1 << 20
    assert 900 << 20 < row.disk_total_bytes < 1100 << 20
    report = call(usage_verbs.GetUsage(sandbox=box.id), usage_verbs.UsageReport)
    assert report.cpu_s > 0
    assert 0 <= report.memory_cache_bytes <= report.memory_bytes < report.memory_total_bytes
    assert 0 <= report.disk_bytes < report.disk_total_bytes == row.disk_total_bytes


@pytest.mark.parametrize(("mode", "result"), [("ro", "30"), ("overlay", "written"), ("rw", "written")])
def test_the_workspace_shows_as_its_mode_says(claim, broker, tmp_path, mode, result):
    shown = tmp_path / "my work"
    shown.mkdir()
    (shown / "data.csv").write_text("1,2")
    box = claim(mode=mode, directory=shown)
    assert box.cwd == "/workspace/my work"
    assert said(box, "print(open('data.csv').read())") == "1,2"
    code = "try:\n    open('new', 'w').write('x')\n    print('written')\nexcept OSError as e:\n    print(e.errno)"
    assert said(box, code) == result
    assert (shown / "new").exists() == (mode == "rw")


def test_a_share_shows_where_its_template_says(claim, broker, tmp_path):
    box = claim("with-share")
    assert (
        said(box, "import os\nprint(open('/workspace/data/set.csv').read(), os.listdir('/workspace'))")
        == "3,4 ['data']"
    )


def test_releasing_twice_is_quiet_and_leaves_nothing(claim, broker):
    box = claim()
    pid = broker.record(box.id)["pid"]
    box.release()
    box.release()
    assert box.id not in broker.listed()
    assert not Path(f"/proc/{pid}").exists() or _status(pid)["State"].split()[0] in "ZX"
    assert not list(broker.directory.glob(f"*/ledger/{box.id}.json"))


def test_a_worker_whose_first_process_is_killed_is_lost_and_given_back(claim, broker):
    box = claim()
    broker.kill_worker(box.id)
    assert box.end()["reason"] == "lost"
    wait_until(lambda: box.id not in broker.listed())


def test_nothing_of_the_hand_over_stays(broker, box):
    wait_until(lambda: not list(broker.directory.glob("*/h/*")))  # a warm worker may be starting just now
    code = "import os\nprint(os.listdir('/hand-over') if os.path.isdir('/hand-over') else [])"
    assert said(box, code) == "[]"


def test_modes_of_the_sockets_let_only_the_owner_in(broker, box):
    for path in broker.directory.glob("*/[ak]/*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
