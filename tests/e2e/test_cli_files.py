"""`jupyter sandbox cp`, `ls` and `logs`: what comes and goes, and what a sandbox cannot do to who looks."""

from __future__ import annotations

import asyncio
import json
import os
import pty
import re
import signal
import subprocess
from pathlib import Path

import pytest

from jupyter_sandbox import terminal
from tests.conftest import wait_until
from tests.e2e.kernels import several
from tests.e2e.test_cli import COMMAND, cli
from tests.server.brokers import sandboxes

MIB = 1 << 20


@pytest.fixture(scope="module")
def kernel(tree, tmp_path_factory):
    with several(tmp_path_factory.mktemp("notebooks")) as start:
        yield start("sandbox-python")


@pytest.fixture(scope="module")
def sandbox(kernel):
    (only,) = asyncio.run(sandboxes())
    return only.sandbox


@pytest.fixture
def box(kernel, sandbox):
    """The id of a sandbox whose disk is empty."""
    kernel.run(
        "import os, shutil\nfor n in os.listdir('/sandbox'): shutil.rmtree(f'/sandbox/{n}', ignore_errors=True) if os.path.isdir(f'/sandbox/{n}') and not os.path.islink(f'/sandbox/{n}') else os.unlink(f'/sandbox/{n}')"
    )
    return sandbox


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


def done_without_words(*arguments, **how):
    done = cli(*arguments, **how)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


# -- cp


def test_a_file_goes_in_and_comes_out_as_it_is(box, here, kernel):
    data = os.urandom(3 * MIB + 1)
    (here / "a").write_bytes(data)
    done_without_words("cp", "a", f"{box}:b")
    assert kernel.run("import hashlib; print(os.path.getsize('/sandbox/b'))") == f"{len(data)}\n"
    done_without_words("cp", f"{box}:/sandbox/b", "c")
    assert (here / "c").read_bytes() == data
    assert (here / "c").stat().st_mode & 0o777 == 0o666 & ~0o022
    assert sorted(path.name for path in here.iterdir()) == ["a", "c"]


def test_a_file_goes_into_a_directory_by_its_name(box, here, kernel):
    (here / "a.txt").write_text("in")
    (here / "dir").mkdir()
    kernel.run("os.mkdir('/sandbox/dir')")
    for target in (f"{box}:dir", f"{box}:dir/", f"{box}:"):
        done_without_words("cp", "a.txt", target)
    assert kernel.run("print(os.listdir('/sandbox/dir'), open('/sandbox/a.txt').read())") == "['a.txt'] in\n"
    done_without_words("cp", f"{box}:dir/a.txt", "dir")
    assert (here / "dir/a.txt").read_text() == "in"


def test_standard_input_and_output(box, here):
    done_without_words("cp", "-", f"{box}:x", input="from a pipe")
    (here / "file").write_text("from a file")
    with (here / "file").open() as file:
        done_without_words("cp", "-", f"{box}:y", stdin=file, input=None)
    assert cli("cp", f"{box}:x", "-").stdout == "from a pipe"
    assert cli("cp", f"{box}:y", "-").stdout == "from a file"


def test_a_directory_goes_in_and_comes_out(box, here, kernel):
    (here / "tree/deep").mkdir(parents=True)
    (here / "tree/deep/a b").write_text("1")
    (here / "tree/empty").mkdir()
    (here / "tree/.hidden").write_text("2")
    assert "copy it with -r" in cli("cp", "tree", f"{box}:").stderr
    done_without_words("cp", "-r", "tree", f"{box}:")
    done_without_words("cp", "-r", "tree", f"{box}:renamed")
    assert kernel.run("print(sorted(os.listdir('/sandbox')), open('/sandbox/renamed/deep/a b').read())") == (
        "['renamed', 'tree'] 1\n"
    )
    (here / "out").mkdir()
    done_without_words("cp", "-r", f"{box}:tree", "out")
    assert sorted(str(path.relative_to(here / "out")) for path in (here / "out").rglob("*")) == [
        *("tree", "tree/.hidden", "tree/deep", "tree/deep/a b", "tree/empty")
    ]
    for again in (("tree", f"{box}:"), (f"{box}:tree", "out")):
        merged = cli("cp", "-r", *again)
        assert (merged.returncode, "directories are not merged" in merged.stderr) == (1, True)
    done_without_words("cp", "-r", f"{box}:", "all")
    assert sorted(path.name for path in (here / "all").iterdir()) == ["renamed", "tree"]
    assert kernel.run("print(len(os.listdir('/sandbox')))") == "2\n"


def test_what_is_no_file_is_passed_over_and_told(box, here, kernel):
    kernel.run(
        "os.mkdir('/sandbox/d'); os.symlink('/etc/passwd', '/sandbox/d/link'); os.mkfifo('/sandbox/d/fifo')\n"
        "open('/sandbox/d/\\x1b[2Jfake', 'w').close(); open(b'/sandbox/d/\\xff', 'w').close(); open('/sandbox/d/good', 'w').close()"
    )
    done = cli("cp", "-r", f"{box}:d", "d")
    assert done.returncode == 1
    assert sorted(path.name for path in (here / "d").iterdir()) == ["good"]
    assert sorted(done.stderr.splitlines()) == [
        f"passed over: d/{name}" for name in (r"\udcff", r"\x1b[2Jfake", "fifo", "link")
    ]
    for name in ("link", "fifo"):
        refused = cli("cp", f"{box}:d/{name}", "x")
        assert (refused.returncode, "Traceback" in refused.stderr) == (1, False)
    (here / "good").symlink_to("/etc/passwd")
    (here / "e").mkdir()
    (here / "e/link").symlink_to("/etc/passwd")
    told = cli("cp", "-r", "e", f"{box}:e")
    assert (told.returncode, told.stderr) == (1, "passed over: e/link\n")


def test_no_device_of_the_host_is_replaced(box, here, kernel):
    kernel.run("open('/sandbox/a', 'w').write('x')")
    os.mkfifo(here / "fifo")
    for target in ("/dev/null", "fifo"):
        done = cli("cp", f"{box}:a", target)
        assert (done.returncode, "is no regular file" in done.stderr) == (1, True)
    assert Path("/dev/null").is_char_device()
    (here / "real").write_text("old")
    (here / "link").symlink_to("real")
    done_without_words("cp", f"{box}:a", "link")
    assert ((here / "link").is_symlink(), (here / "real").read_text()) == (True, "x")


def test_no_more_comes_out_than_was_allowed(box, here, kernel):
    kernel.run("os.truncate(os.open('/sandbox/hole', os.O_CREAT | os.O_RDWR), 1 << 40)")
    for target in ("hole", "-"):
        done = cli("cp", f"{box}:hole", target)
        assert (done.returncode, done.stdout) == (1, "")
        assert "1024.0 GiB, and --max-mib allows less" in done.stderr
    kernel.run("os.mkdir('/sandbox/d')\nfor n in '12': open('/sandbox/d/' + n, 'w').write('x' * 700_000)")
    assert cli("cp", "-r", "--max-mib", "1", f"{box}:d", "d").returncode == 1
    assert list(here.iterdir()) == []


def test_a_copy_that_is_killed_or_finds_the_disk_full_leaves_nothing(box, here, kernel):
    kernel.run("open('/sandbox/a', 'w').write('old')")
    with subprocess.Popen([*COMMAND, "cp", "-", f"{box}:a"], stdin=subprocess.PIPE, stderr=subprocess.PIPE) as copy:
        copy.stdin.write(b"new" * MIB)
        copy.stdin.flush()
        copy.send_signal(signal.SIGINT)
        assert copy.wait(timeout=20) in {130, -signal.SIGINT}
    (here / "full").mkdir()
    (here / "full/first").write_text("x")
    (here / "full/last").touch()
    os.truncate(here / "full/last", 1100 * MIB)
    done = cli("cp", "-r", "full", f"{box}:full")
    assert (done.returncode, "is full" in done.stderr) == (1, True)
    assert kernel.run("print(os.listdir('/sandbox'), open('/sandbox/a').read())") == "['a'] old\n"


def test_a_long_copy_shows_how_far_it_is_on_a_terminal(box, here, monkeypatch):
    with (here / "large").open("wb") as file:
        file.truncate(700 * MIB)
    ours, theirs = pty.openpty()
    with subprocess.Popen([*COMMAND, "cp", "large", f"{box}:large"], stderr=theirs) as copy:
        os.close(theirs)
        shown = b""
        while True:
            try:
                piece = os.read(ours, 4096)
            except OSError:
                break
            shown += piece
        assert copy.wait(timeout=60) == 0
    os.close(ours)
    assert re.search(rb"\r\[#*\.*\] +\d+%, [\d.]+ MiB, [\d.]+ MiB/s", shown), shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["a", "b"], "one of source and target must be SANDBOX:PATH"),
        (["sbx_" + "0" * 20 + ":a", "sbx_" + "0" * 20 + ":b"], "one of source and target must be SANDBOX:PATH"),
        (["sbx_1:a", "b"], "not a sandbox id"),
        (["sbx_" + "0" * 20 + ":a", "b"], "no sandbox sbx_"),
        (["{box}:../a", "b"], "`..` is not part of a path"),
        (["{box}:/etc/passwd", "b"], "files are below /sandbox"),
        (["{box}:missing", "b"], "there is no"),
        (["missing", "{box}:a"], "missing: No such file or directory"),
        (["-", "{box}:"], "this cannot be done with /sandbox itself"),
        (["here.txt", "{box}:no/such/dir"], "there is no"),
        (["here.txt", "{box}:dir/"], "there is no directory"),
        (["{box}:", "b"], "copy it with -r"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_copied_is_told_in_words(box, here, arguments, words):
    (here / "here.txt").write_text("x")
    done = cli("cp", *(each.format(box=box) for each in arguments), input="")
    assert done.returncode == 1
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in here.iterdir()] == ["here.txt"]


# -- ls


def test_ls_shows_a_directory_and_cannot_be_commanded(box, kernel):
    kernel.run(
        "os.mkdir('/sandbox/d'); open('/sandbox/a', 'w').write('x' * 2048); os.symlink('a', '/sandbox/l')\n"
        "open('/sandbox/\\x1b]0;owned\\x07', 'w').close(); os.utime('/sandbox/a', ns=(-1 << 62, -1 << 62))"
    )
    done = cli("ls", box)
    assert (done.returncode, done.stderr) == (0, "")
    assert [(line.split()[0], line.split()[-1]) for line in done.stdout.splitlines()] == [
        ("file", r"\x1b]0;owned\x07"),
        ("file", "a"),
        ("directory", "d/"),
        ("symlink", "l"),
    ]
    assert "2.0 KiB" in done.stdout
    assert json.loads(cli("ls", f"{box}:a", "--json").stdout)[0]["size_bytes"] == 2048
    for place, words in ((f"{box}:x", "there is no"), ("sbx_1", "not a sandbox id"), ("x", "not SANDBOX[:PATH]")):
        refused = cli("ls", place)
        assert (refused.returncode, words in refused.stderr) == (1, True), refused.stderr


# -- logs


def test_logs_show_the_end_of_raw_output_escaped_and_bounded(box, kernel):
    kernel.run("os.system('')")
    kernel.execute(
        "import subprocess; subprocess.run(['sh', '-c', 'for n in $(seq 4000); do echo line $n; done; printf \"\\\\033[2Jevil\\\\n\"'])"
    )
    wait_until(lambda: "evil" in cli("logs", box).stdout)
    done = cli("logs", box)
    assert done.stdout.endswith("line 4000\n\\x1b[2Jevil\n")
    assert len(done.stdout) < 8192 + 100
    (seat,) = asyncio.run(sandboxes())[0].kernels
    assert done.stdout.startswith(f"==> kernel {seat} <==\n")
    assert cli("logs", box, seat).stdout in done.stdout
    for arguments, words in (((box, "nobody"), f"there are: {seat}"), (("sbx_1",), "not a sandbox id")):
        refused = cli("logs", *arguments)
        assert (refused.returncode, words in refused.stderr) == (1, True), refused.stderr


# -- template


def test_a_template_is_created_used_and_deleted(here, tree, add_kernelspec):
    (here / "mine.toml").write_text(
        'description = "Mine"\nmin_idle = 0\n[limits]\ndisk_mib = 32\n[environment]\nA = "1"\n'
    )
    try:
        assert cli("template", "create", "mine", "mine.toml").stdout == "mine defined\n"
        assert re.search(r"^mine +definition +1024 MiB +2 +32 MiB +0 +200  Mine$", cli("template", "list").stdout, re.M)
        shown = json.loads(cli("template", "show", "mine").stdout)
        assert (shown["limits"]["disk_mib"], shown["environment"]) == (32, ["A"])
        name = add_kernelspec("mine", template="mine")
        assert cli("run", "--kernel", name, "-c", "import os; print(os.environ['A'])").stdout == "1\n"
        again = cli("template", "create", "mine", "-", input='[environment]\nA = "2"')
        assert (again.returncode, again.stderr) == (1, "jupyter sandbox template: template mine exists\n")
        assert (
            cli("template", "create", "mine", "-", "--replace", input='[environment]\nA = "2"').stdout
            == "mine replaced\n"
        )
        assert cli("run", "--kernel", name, "-c", "import os; print(os.environ['A'])").stdout == "2\n"
        wrong = cli("template", "create", "other", "-", input="[limits]\nmemory = 1")
        assert (wrong.returncode, "unknown fields: 'memory'" in wrong.stderr) == (1, True)
    finally:
        assert cli("template", "delete", "mine").stdout == "mine deleted\n"
    assert cli("template", "delete", "mine").returncode == 1
    assert "comes from" not in cli("template", "delete", "python").stdout


# -- run FILE


def test_run_reads_a_file_and_says_when_there_is_none(here):
    (here / "code.py").write_text("print('é')\n")
    assert cli("run", "code.py").stdout == "é\n"
    done = cli("run", "print(1)")
    assert (done.returncode, done.stdout) == (1, "")
    assert "there is no file 'print(1)'; code itself is given with -c" in done.stderr


# -- the terminal


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a b", "a b"),
        ("é", "é"),
        ("\x1b[2J", r"\x1b[2J"),
        ("a\nb", r"a\nb"),
        ("\u202e", r"\u202e"),
        ("\udcff", r"\udcff"),
    ],
)
def test_no_character_commands_the_terminal(text, shown):
    assert terminal.line(text) == shown


@pytest.mark.parametrize(
    ("number", "shown"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 << 20, "5.0 MiB"), (1 << 40, "1024.0 GiB")],
)
def test_sizes_are_for_people(number, shown):
    assert terminal.size(number) == shown
