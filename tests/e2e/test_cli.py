"""`jupyter sandbox`: what it prints, what it does, and the exit codes that scripts rely on."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest

from jupyter_sandbox.broker import client
from jupyter_sandbox.host import places
from tests.conftest import wait_until
from tests.server.brokers import Tree, nothing_is_claimed, sandboxes

COMMAND = (sys.executable, "-m", "jupyter_sandbox.cli")


def cli(*arguments, env=None, **kwargs):
    options = {"timeout": 90, "text": True, "capture_output": True, "check": False} | kwargs
    return subprocess.run([*COMMAND, *arguments], env=os.environ | (env or {}), **options)


@pytest.fixture
def here(tree, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def held(here):
    """A sandbox with a kernel in it that stays until the test releases it."""
    script = (
        "import sys\nfrom jupyter_client.manager import start_new_kernel\n"
        "start_new_kernel(kernel_name='sandbox-python', startup_timeout=60)\n"
        "print('up', flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as holder:
        assert holder.stdout.readline() == b"up\n"
        (sandbox,) = asyncio.run(sandboxes())
        yield sandbox.sandbox
        holder.kill()
    asyncio.run(nothing_is_claimed())


@pytest.fixture
def lonely(tmp_path_factory, monkeypatch):
    """A tree without a broker."""
    tree = Tree()
    monkeypatch.setenv(places.DIRECTORY_VARIABLE, str(tree.directory))
    monkeypatch.delenv(places.SOCKET_VARIABLE, raising=False)
    yield tree
    tree.stop()


def test_it_is_a_subcommand_of_jupyter(here):
    done = subprocess.run(
        [sys.executable, "-m", "jupyter_core", "sandbox", "--version"], text=True, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"\d+\.\d+\S*\n", done.stdout)


# -- run


def test_run_prints_what_the_code_prints(here):
    done = cli("run", "-c", "import sys; print('out'); print('err', file=sys.stderr); 6 * 7")
    assert (done.returncode, done.stdout, done.stderr) == (0, "out\n42\n", "err\n")
    assert asyncio.run(sandboxes()) == []


def test_run_reads_code_from_standard_input(here):
    done = cli("run", "-", input="for i in range(2):\n    print(i)\n")
    assert (done.returncode, done.stdout) == (0, "0\n1\n")


def test_run_sees_the_directory_it_is_called_in_and_changes_nothing_there(here):
    (here / "data.txt").write_text("data")
    done = cli("run", "-c", "print(open('data.txt').read()); open('data.txt', 'w').write('changed');")
    assert (done.returncode, done.stdout) == (0, "data\n")
    assert (here / "data.txt").read_text() == "data"


def test_run_of_code_that_fails_exits_with_1_and_the_traceback(here):
    done = cli("run", "-c", "print('before'); 1 / 0")
    assert (done.returncode, done.stdout) == (1, "before\n")
    assert "ZeroDivisionError" in done.stderr
    assert "jupyter_sandbox" not in done.stderr


def test_run_that_takes_too_long_exits_with_124(here):
    started = time.monotonic()
    done = cli("run", "--timeout", "1", "-c", "print('begun', flush=True); import time; time.sleep(100)")
    assert done.returncode == 124
    assert done.stdout == "begun\n"
    assert "no result within 1.0 s" in done.stderr
    assert time.monotonic() - started < 30
    assert asyncio.run(sandboxes()) == []


def test_run_of_code_that_kills_its_kernel_says_so(here):
    done = cli("run", "-c", "import os; os._exit(3)", timeout=30)
    assert done.returncode == 1
    assert "The kernel ended with exit status 3" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_with_an_unknown_kernel_says_where_to_look(here):
    done = cli("run", "--kernel", "no-such", "-c", "1")
    assert done.returncode == 1
    assert "no kernelspec 'no-such'; `jupyter kernelspec list` shows them" in done.stderr
    assert "Traceback" not in done.stderr


def test_run_with_an_unknown_template_lists_the_known_ones(here, add_kernelspec):
    done = cli("run", "--kernel", add_kernelspec("bad-template", template="no-such"), "-c", "1")
    assert done.returncode == 1
    assert "no template 'no-such'; there are: " in done.stderr
    assert "Traceback" not in done.stderr


def test_run_gives_big_output_whole_to_a_pipe(here):
    done = cli("run", "-c", "for _ in range(100): print('x' * 99_999)")
    assert (done.returncode, len(done.stdout)) == (0, 10_000_000)


def test_run_into_a_closed_pipe_ends_and_frees_its_sandbox(here):
    code = "import time\nwhile True: print('x' * 1000, flush=True); time.sleep(0.01)"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL, "text": True}
    with subprocess.Popen([*COMMAND, "run", "-c", code], **pipes) as running:
        assert running.stdout.read(1000) == "x" * 1000
        running.stdout.close()
        try:
            assert running.wait(timeout=30) != 0
        finally:
            running.kill()
    asyncio.run(nothing_is_claimed())


def test_run_of_code_that_prints_more_than_its_memory_holds_ends(here):
    """The kernel dies of its own output; whoever waits for it must be told."""
    done = cli("run", "-c", "while True: print('x' * 10000)", timeout=50)
    assert (done.returncode, "of memory" in done.stderr) == (1, True), done.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_stopped_run_frees_its_sandbox(here, number):
    code = "print('go', flush=True); import time; time.sleep(100)"
    with subprocess.Popen(
        [*COMMAND, "run", "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout.readline() == "go\n"
        running.send_signal(number)
        _, said = running.communicate(timeout=30)
    asyncio.run(nothing_is_claimed())
    if number == signal.SIGINT:
        assert (running.returncode, "Traceback" in said) == (130, False), said


# -- list, release


def test_list_of_nothing_says_so(here):
    done = cli("list")
    assert (done.returncode, done.stdout) == (0, "No sandboxes.\n")
    assert json.loads(cli("list", "--json").stdout) == []


def test_list_shows_what_lives(held):
    done = cli("list")
    heading, row = done.stdout.splitlines()
    assert heading.split() == ["ID", "TEMPLATE", "AGE", "KERNELS", "MEMORY", "DISK"]
    assert re.fullmatch(rf"{held} +python +\d+m\d\ds +1 +\d+ MiB +\d+/\d+ MiB", row)
    (entry,) = json.loads(cli("list", "--json").stdout)
    assert (entry["sandbox"], entry["template"], len(entry["kernels"])) == (held, "python", 1)
    assert entry["memory_bytes"] > 1 << 20


def test_release_destroys_the_named_sandbox(held):
    done = cli("release", held)
    assert (done.returncode, done.stdout) == (0, f"{held} released\n")
    assert asyncio.run(sandboxes()) == []


def test_release_all_destroys_all(held):
    assert cli("release", "--all").stdout == f"{held} released\n"
    assert asyncio.run(sandboxes()) == []
    assert cli("release", "--all").returncode == 0


@pytest.mark.parametrize("arguments", [[], ["--all", "sbx_00000000000000000000"]])
def test_release_without_a_clear_wish_is_wrong_usage(here, arguments):
    done = cli("release", *arguments)
    assert done.returncode == 2
    assert "name sandboxes, or use --all" in done.stderr


@pytest.mark.parametrize("name", ["sbx_00000000000000000000", "nonsense", "../../etc"])
def test_release_of_an_unknown_sandbox_fails_in_words(here, name):
    done = cli("release", name)
    assert done.returncode == 1
    assert done.stderr.startswith("jupyter sandbox release: ")
    assert "Traceback" not in done.stderr


# -- status, reap, doctor


def test_status_shows_the_broker(held, tree):
    done = cli("status")
    assert done.returncode == 0
    assert f"pid {tree.pid()}, engine {tree.engine}" in done.stdout
    assert "only-one, python, small-disk, small-memory" in done.stdout
    assert "sandboxes: 1 claimed" in done.stdout


def test_without_a_broker_looking_starts_none(lonely):
    for command in ("status", "list"):
        done = cli(command)
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
    assert lonely.pid() is None
    assert "no broker" in cli("status").stdout.lower()


def test_reap_of_a_tidy_machine_finds_nothing(here):
    for arguments in (["reap", "--dry-run"], ["reap"]):
        done = cli(*arguments)
        assert (done.returncode, done.stdout) == (0, "Nothing was left behind.\n")


def test_reap_leaves_alone_what_is_just_being_made(lonely):
    """A broker that has just started is making a warm worker: its disk and its sockets are nobody's leftovers."""
    done = cli("reap", "--dry-run")
    assert (done.returncode, done.stdout) == (0, "Nothing was left behind.\n")


def test_reap_destroys_what_a_crash_left(lonely):
    """An image and a socket of a broker that was killed while it made them."""
    lonely.start()
    wait_until(lambda: b" 1 warm" in cli("status", text=False).stdout, timeout_s=30)
    image = next(lonely.directory.glob("images/*")) / "sbx_00000000000000000000.img"
    image.write_text("left")
    done = cli("reap", "--dry-run")
    assert done.stdout == "disk image sbx_00000000000000000000.img: would be destroyed\n"
    assert image.exists()
    assert "destroyed" in cli("reap").stdout
    assert not image.exists()


def test_doctor_says_that_sandboxes_can_run(here):
    done = cli("doctor")
    assert done.returncode == 0, done.stdout
    assert "Sandboxes can run here." in done.stdout
    assert "a sandbox was started and destroyed" in done.stdout
    assert all(
        entry["level"] != "fatal" for entry in json.loads(cli("doctor", "--quick", "--json").stdout) if "level" in entry
    )
    assert asyncio.run(sandboxes()) == []


def test_a_broker_that_cannot_be_reached_is_told_in_one_line(here):
    done = cli("run", "-c", "1", env={places.SOCKET_VARIABLE: "/nonexistent/broker"})
    assert done.returncode == 1
    assert "its operator starts the broker" in done.stderr
    assert "Traceback" not in done.stderr


# -- wrong usage

WRONG = [
    [],
    ["nonsense"],
    ["run"],
    ["run", "--timeout", "soon", "-c", "1"],
    ["run", "-c", "1", "file"],
    ["list", "--all"],
    ["doctor", "extra"],
]


@pytest.mark.parametrize("arguments", WRONG, ids=" ".join)
def test_wrong_usage_exits_with_2_and_the_usage(here, arguments):
    done = cli(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("usage: jupyter sandbox")


@pytest.mark.parametrize("timeout", ["0", "-1", "nan"])
def test_a_timeout_that_is_none_is_wrong_usage(here, timeout):
    assert cli("run", "--timeout", timeout, "-c", "1").returncode == 2


@pytest.mark.parametrize("command", ["list", "run", "release", "reap", "status", "doctor"])
def test_every_command_has_help(here, command):
    done = cli(command, "--help")
    assert done.returncode == 0
    assert done.stdout.startswith(f"usage: jupyter sandbox {command}")


# -- the broker in the foreground and its end


def test_the_broker_in_the_foreground_serves_until_it_is_told_to_end(lonely):
    with subprocess.Popen([*COMMAND, "broker"], stderr=subprocess.PIPE, text=True) as broker:
        wait_until(lambda: list(lonely.directory.glob("*/broker")), timeout_s=60)
        second = cli("broker")
        assert (second.returncode, "another broker is running already" in second.stderr) == (1, True)
        assert cli("run", "-c", "print(42)", cwd="/tmp").stdout == "42\n"
        broker.send_signal(signal.SIGINT)
        _, said = broker.communicate(timeout=30)
    assert (broker.returncode, "Traceback" in said) == (0, False), said
    assert lonely.leftovers() == []


@pytest.mark.parametrize("_repetition", range(3))
def test_a_broker_that_ends_while_it_releases_leaves_nothing(lonely, _repetition):
    lonely.start()

    async def claim_and_leave():
        leases = [await client.Lease.claim("python", "none", "", None) for _ in range(3)]
        for lease in leases:
            lease.close()

    asyncio.run(claim_and_leave())
    os.kill(lonely.pid(), signal.SIGINT)
    wait_until(lambda: lonely.pid() is None, timeout_s=30)
    assert lonely.leftovers() == []


def test_two_brokers_of_one_environment_leave_each_other_alone(held):
    """Another directory is another broker: its start and its reaping must not touch the sandboxes of the first."""
    other = Tree()
    try:
        other.start()
        done = cli("reap", env=other.environment())
        assert (done.returncode, done.stdout) == (0, "Nothing was left behind.\n")
        assert cli("run", "-c", "print(42)", env=other.environment()).stdout == "42\n"
    finally:
        other.stop()
    assert [sandbox.sandbox for sandbox in asyncio.run(sandboxes())] == [held]


def test_a_broker_started_in_the_background_ends_without_a_complaint(lonely):
    """What it has to say after it has detached goes to a file that nobody reads in time."""
    assert cli("run", "-c", "1", cwd="/tmp").returncode == 0
    os.kill(lonely.pid(), signal.SIGINT)
    wait_until(lambda: lonely.pid() is None, timeout_s=30)
    wait_until(lambda: "broker ends" in lonely.log())
    said = [file.read_text() for file in lonely.directory.glob("*/broker.err")]
    assert "Traceback" not in "".join(said), said
