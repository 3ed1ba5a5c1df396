"""E2B's synchronous SDK, as it is published, against `jupyter sandbox serve`: two settings, and programs for E2B run here."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from e2b import (
    AuthenticationException,
    CommandExitException,
    FileNotFoundException,
    InvalidArgumentException,
    NotFoundException,
    PtySize,
    SandboxException,
    SandboxNotFoundException,
    SandboxQuery,
    SandboxState,
    TimeoutException,
)
from e2b_code_interpreter import Sandbox

EXAMPLE = Path(__file__).resolve().parents[2] / "examples/e2b_sandbox.py"

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def sandbox(served):
    """One for tests that leave nothing behind."""
    made = Sandbox.create(timeout=170, envs={"FROM": "create"})
    yield made
    made.kill()


@pytest.fixture
def own(served):
    """A sandbox of this test's own."""
    made = Sandbox.create(timeout=60, metadata={"a name": "a & b = c", "kind": "own"})
    yield made
    made.kill()


# -- code


def test_code_keeps_its_state_and_tells_what_it_prints_and_returns(sandbox):
    heard = []
    ran = sandbox.run_code("x = 41\nprint('hello')\nx + 1", on_stdout=lambda message: heard.append(message.line))
    assert (ran.text, "".join(ran.logs.stdout), ran.error) == ("42", "hello\n", None)
    assert "".join(heard) == "hello\n"  # in one piece or two, as the kernel happens to flush
    assert sandbox.run_code("x").text == "41"
    assert "".join(sandbox.run_code("import sys; print('oh', file=sys.stderr)").logs.stderr) == "oh\n"
    assert sandbox.run_code("'quoted'").text == "quoted"


def test_an_exception_is_an_error_with_its_traceback(sandbox):
    ran = sandbox.run_code("print('before')\n1 / 0")
    assert (ran.error.name, ran.error.value) == ("ZeroDivisionError", "division by zero")
    assert "ZeroDivisionError" in ran.error.traceback
    assert "".join(ran.logs.stdout) == "before\n"


def test_results_have_a_field_for_each_representation(sandbox):
    code = """
from IPython.display import HTML, Image, JSON, Latex, Markdown, SVG, display
display(HTML("<b>x</b>"), Markdown("*x*"), JSON({"a": [1]}), Latex("$x$"), SVG("<svg></svg>"))
display({"text/plain": "plain", "x/y": "other"}, raw=True)
"""
    ran = sandbox.run_code(code)
    assert [next(iter(set(each.formats()) - {"text"})) for each in ran.results] == [
        *("html", "markdown", "json", "latex", "svg", "x/y")
    ]
    assert ran.results[2].json == {"a": [1]}
    assert ran.results[-1].extra == {"x/y": "other"}
    plot = sandbox.run_code("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()")
    assert plot.results[0].png.startswith("iVBOR")


CHARTS = {
    "line": "axes.plot([1, 2], [3, 4])",
    "scatter": "axes.scatter([1, 2], [3, 4])",
    "bar": "axes.bar(['a', 'b'], [3, 4])",
    "pie": "axes.pie([1, 2], labels=['a', 'b'])",
    "box_and_whisker": "axes.boxplot([[85, 90, 78, 92, 88], [95, 89, 76, 91, 84, 87]], patch_artist=True)",
}


@pytest.mark.parametrize("kind", CHARTS)
def test_a_figure_is_a_picture_and_a_chart(sandbox, kind):
    code = f"import matplotlib.pyplot as plt\nfigure, axes = plt.subplots()\n{CHARTS[kind]}\naxes.set_title('T')\nplt.show()"
    (shown,) = sandbox.run_code(code).results
    assert shown.png.startswith("iVBOR")
    assert (shown.chart.type, shown.chart.title, len(shown.chart.elements)) == (
        kind,
        "T",
        1 if kind in ("line", "scatter") else 2,
    )
    assert (shown.is_main_result, shown.extra) == (False, None)


def test_a_frame_is_text_html_and_data(sandbox):
    code = "import pandas as pd\npd.DataFrame({'a': [1, None], 'b': pd.to_datetime(['2026-01-01', '2026-01-02'])})"
    (shown,) = sandbox.run_code(code).results
    assert shown.data == {"a": [1.0, None], "b": ["2026-01-01T00:00:00", "2026-01-02T00:00:00"]}
    assert shown.is_main_result
    assert "<table" in shown.html
    assert shown.text.startswith("     a")


def test_lists_are_json_and_saved_images_are_shown(sandbox):
    (shown,) = sandbox.run_code("[1, {'a': None}]").results
    assert (shown.text, shown.json) == ("[1, {'a': None}]", [1, {"a": None}])
    saved = sandbox.run_code("from PIL import Image\nImage.new('RGB', (2, 2)).save('/tmp/a.png')")
    assert [each.formats() for each in saved.results] == [["text", "png", "jpeg"]]


def test_a_kernel_that_starts_anew_has_the_same_results(own):
    context = own.create_code_context()
    own.restart_code_context(context)
    (shown,) = own.run_code("import pandas as pd\npd.DataFrame({'a': [1]})", context=context).results
    assert shown.data == {"a": [1]}


def test_programs_start_in_the_home_of_e2b(own):
    ran = own.run_code("import os; print(os.getcwd(), os.path.expanduser('~'), os.environ['E2B_SANDBOX'])")
    assert "".join(ran.logs.stdout) == "/home/user /home/user true\n"
    assert own.commands.run("pwd; cd; pwd").stdout == "/home/user\n/home/user\n"
    assert {each.cwd for each in own.list_code_contexts()} == {"/home/user"}
    own.files.make_dir("a")
    inner = own.create_code_context(cwd="a")
    assert (inner.cwd, own.run_code("import os; os.getcwd()", context=inner).text) == ("/home/user/a", "/home/user/a")
    assert own.commands.run("pwd", cwd="/sandbox/a").stdout == "/sandbox/a\n"
    own.files.write("/sandbox/b", "one disk")
    assert own.files.read("/home/user/b") == own.files.read("b") == "one disk"


def test_text_with_every_kind_of_line_break_arrives_in_one_piece(sandbox):
    text = "a\u2028b\u2029c\x85d\x0be\x1cf\u00e9\U0001f600"
    assert "".join(sandbox.run_code(f"print({text!r}, end='')").logs.stdout) == text


def test_variables_of_the_environment_are_for_one_execution_or_for_all(sandbox):
    code = "import os; os.environ.get('FROM'), os.environ.get('ONCE')"
    assert sandbox.run_code(code, envs={"ONCE": "1", "FROM": "here"}).text == "('here', '1')"
    assert sandbox.run_code(code).text == "('create', None)"
    assert sandbox.run_code("    x = 5\n    os.environ['ONCE']", envs={"ONCE": "2"}).text == "2"
    assert sandbox.run_code("1 / 0", envs={"ONCE": "3"}).error.name == "ZeroDivisionError"
    assert sandbox.run_code(code).text == "('create', None)"


def test_contexts_are_kernels_of_their_own(sandbox):
    first = sandbox.create_code_context()
    assert sandbox.list_code_contexts()[-1].id == first.id
    sandbox.run_code("mine = 1", context=first)
    assert sandbox.run_code("'mine' in globals()").text == "False"
    assert sandbox.run_code("mine", context=first).text == "1"
    assert first.id in {each.id for each in sandbox.list_code_contexts()}
    sandbox.restart_code_context(first)
    assert sandbox.run_code("'mine' in globals()", context=first).text == "False"
    sandbox.remove_code_context(first)
    with pytest.raises(NotFoundException):
        sandbox.run_code("1", context=first)


def test_code_that_its_client_gives_up_is_interrupted(sandbox):
    with pytest.raises(TimeoutException):
        sandbox.run_code("import time\nwhile True: time.sleep(0.05)", timeout=1)
    began = time.monotonic()
    assert sandbox.run_code("6 * 7", timeout=20).text == "42"
    assert time.monotonic() - began < 15


def test_a_language_that_is_not_there_is_told(sandbox):
    with pytest.raises(SandboxException, match="no language 'cobol'"):
        sandbox.run_code("1", language="cobol")


# -- commands


def test_commands_tell_their_output_and_their_exit_code(sandbox):
    heard = []
    done = sandbox.commands.run("echo out; echo err >&2; whoami", on_stdout=heard.append)
    assert (done.stdout, done.stderr, done.exit_code) == ("out\nsandbox\n", "err\n", 0)
    assert "".join(heard) == "out\nsandbox\n"
    with pytest.raises(CommandExitException) as failed:
        sandbox.commands.run("echo no >&2; exit 3")
    assert (failed.value.exit_code, failed.value.stderr) == (3, "no\n")
    done = sandbox.commands.run('echo "$ONE $FROM"; pwd', envs={"ONE": "1"}, cwd="/home/user")
    assert done.stdout == "1 create\n/home/user\n"


def test_commands_in_the_background_are_listed_followed_and_killed(sandbox):
    line = "echo 1; until test -e go; do sleep 0.05; done; rm go; echo 2"
    running = sandbox.commands.run(line, background=True)
    assert running.pid in {each.pid for each in sandbox.commands.list()}
    following = sandbox.commands.connect(running.pid)
    sandbox.files.write("go", "")
    assert following.wait().stdout == "1\n2\n"
    endless = sandbox.commands.run("sleep 1000", background=True)
    assert endless.kill()
    with pytest.raises(CommandExitException):
        endless.wait()
    assert not sandbox.commands.kill(endless.pid)
    assert sandbox.commands.list() == []


def test_who_is_told_that_a_command_was_killed_finds_it_gone(sandbox):
    for _ in range(20):
        endless = sandbox.commands.run("sleep 1000", background=True)
        assert [sandbox.commands.kill(endless.pid) for _ in range(2)] == [True, False]
        assert sandbox.commands.list() == []
    terminal = sandbox.pty.create(PtySize(rows=24, cols=80))
    assert [sandbox.pty.kill(terminal.pid) for _ in range(2)] == [True, False]


def test_a_command_reads_what_is_sent_and_the_end_of_it(sandbox):
    running = sandbox.commands.run("cat; echo done", background=True, stdin=True)
    sandbox.commands.send_stdin(running.pid, "typed\n")
    sandbox.commands.close_stdin(running.pid)
    assert running.wait().stdout == "typed\ndone\n"


def test_a_command_that_takes_too_long_is_killed(sandbox):
    with pytest.raises(TimeoutException):
        sandbox.commands.run("sleep 1000", timeout=1)
    deadline = time.monotonic() + 10
    while sandbox.commands.list():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_terminal_is_one_and_can_be_resized(sandbox):
    seen = []
    terminal = sandbox.pty.create(PtySize(rows=24, cols=80), cwd="/home/user")
    sandbox.pty.resize(terminal.pid, PtySize(rows=30, cols=100))
    sandbox.pty.send_stdin(terminal.pid, b"stty size; exit 0\n")
    terminal.wait(on_pty=seen.append)
    assert b"30 100" in b"".join(seen)


def test_there_is_one_user(sandbox):
    assert sandbox.commands.run("whoami", user="user").stdout == "sandbox\n"
    with pytest.raises(AuthenticationException, match="invalid username: 'root'"):
        sandbox.commands.run("whoami", user="root")
    assert sandbox.commands.run("echo again").stdout == "again\n"


# -- files


def test_files_are_written_read_listed_moved_and_removed(own):
    files = own.files
    written = files.write("a/b.txt", "text")
    assert (written.path, written.name) == ("/home/user/a/b.txt", "b.txt")
    assert files.read("/home/user/a/b.txt") == files.read("~/a/b.txt") == files.read("a/b.txt") == "text"
    files.write_files([{"path": "one", "data": b"\x00\xff"}, {"path": "two/three", "data": "3"}])
    assert files.read("one", format="bytes") == b"\x00\xff"
    assert sorted(each.path for each in files.list("/home/user", depth=2)) == [
        *("/home/user/a", "/home/user/a/b.txt", "/home/user/one", "/home/user/two", "/home/user/two/three")
    ]
    assert {each.path for each in files.list(".")} == {each.path for each in files.list("~/./")}
    assert own.run_code("open('/home/user/a/b.txt').read()").text == "text"
    assert (files.make_dir("d"), files.make_dir("d"), files.make_dir("/home/user")) == (True, False, False)
    for name in ("one", "one/below"):  # a file
        with pytest.raises(InvalidArgumentException):
            files.make_dir(name)
    assert files.rename("a/b.txt", "d/c.txt").path == "/home/user/d/c.txt"
    info = files.get_info("d/c.txt")
    assert (info.size, info.permissions, info.type.value) == (4, "-rw-r--r--", "file")
    files.remove("d")
    assert not files.exists("d/c.txt")
    with pytest.raises(FileNotFoundException):
        files.read("d/c.txt")
    with pytest.raises(SandboxException):
        files.read("/etc/passwd")


def test_a_symlink_tells_where_it_leads_and_nothing_else_does(own):
    own.files.write("file", "text")
    own.commands.run("ln -s file link; ln -s /etc/passwd away; ln -s nowhere broken; mkdir directory")
    links = {"link": "file", "away": "/etc/passwd", "broken": "nowhere"}
    assert {each.name: each.symlink_target for each in own.files.list(".")} == links | {"file": None, "directory": None}
    for name, target in links.items():
        info = own.files.get_info(name)
        assert (info.type.value, info.symlink_target) == ("symlink", target)
    assert own.files.get_info("file").symlink_target is None


def test_signed_urls_work_for_what_they_were_signed_for_and_so_long(own):
    own.files.write("s.txt", "signed")
    url = own.download_url("s.txt", use_signature_expiration=60)
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"signed"
        assert answer.headers["Content-Disposition"].startswith("attachment")
    for wrong in (url.replace("s.txt", "other.txt"), own.download_url("s.txt", use_signature_expiration=-5)):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(wrong)
        with refused.value:
            assert refused.value.code == 401
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="u.txt"\r\n\r\nsent\r\n--x--\r\n'
    request = urllib.request.Request(own.upload_url("u.txt"), data=form)
    request.add_header("Content-Type", "multipart/form-data; boundary=x")
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
    assert own.files.read("u.txt") == "sent"


# -- the life of a sandbox


def test_sandboxes_are_found_by_what_they_were_given(own):
    found = Sandbox.list(query=SandboxQuery(metadata={"a name": "a & b = c"})).next_items()
    assert [each.sandbox_id for each in found] == [own.sandbox_id]
    assert found[0].metadata == {"a name": "a & b = c", "kind": "own"}
    assert Sandbox.list(query=SandboxQuery(metadata={"kind": "other"})).next_items() == []
    others = [Sandbox.create(timeout=60, metadata={"kind": "own"}) for _ in range(2)]
    pages = Sandbox.list(query=SandboxQuery(metadata={"kind": "own"}), limit=2)
    assert [len(pages.next_items()), pages.has_next, len(pages.next_items()), pages.has_next] == [2, True, 1, False]
    for other in others:
        assert other.kill()


def listed(order="desc", limit=None, **query):
    """The ids of all pages, and how many were on each."""
    query = SandboxQuery(metadata={"kind": "listed"}, **query)
    pages, sizes, found = Sandbox.list(query=query, order=order, limit=limit), [], []
    while pages.has_next:
        page = pages.next_items()
        sizes.append(len(page))
        found += [each.sandbox_id for each in page]
    return found, sizes


def test_sandboxes_are_listed_by_their_time_on_full_pages(served):
    made = [Sandbox.create(timeout=60, metadata={"kind": "listed"}) for _ in range(3)]
    ids = [each.sandbox_id for each in made]
    for limit, sizes in ((None, [3]), (1, [1, 1, 1]), (2, [2, 1]), (3, [3])):
        assert listed("asc", limit) == (ids, sizes)
        assert listed("desc", limit) == (ids[::-1], sizes)
    second = made[1].get_info().started_at
    assert listed(started_after=second) == (ids[:0:-1], [2])
    assert listed(started_after=datetime.now(UTC) + timedelta(seconds=60)) == ([], [0])
    assert listed(template="base")[0] == listed(template=made[0].get_info().template_id)[0] == ids[::-1]
    assert listed(template="nothing") == ([], [0])
    made[1].pause()
    assert listed(state=[SandboxState.PAUSED]) == ([ids[1]], [1])
    assert listed(state=[SandboxState.RUNNING], limit=1) == ([ids[2], ids[0]], [1, 1])
    assert len(listed(state=[SandboxState.RUNNING, SandboxState.PAUSED])[0]) == 3
    for each in made:
        assert each.kill()


def test_a_sandbox_lives_as_long_as_it_is_told(own):
    before = own.get_info().end_at
    own.set_timeout(200)
    assert 100 < (own.get_info().end_at - before).total_seconds() < 200
    same = Sandbox.connect(own.sandbox_id, timeout=10)
    assert own.get_info().end_at > before, "to connect never shortens it"
    own.run_code("y = 1")
    assert same.run_code("y").text == "1"
    short = Sandbox.create(timeout=1)
    deadline = time.monotonic() + 15
    while short.is_running():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_paused_sandbox_keeps_its_memory_and_its_files_and_goes_on_where_it_is_connected_to(own):
    own.run_code("x = 41")
    own.files.write("kept.txt", "text")
    running = own.commands.run("cat; echo done", background=True, stdin=True)
    assert own.pause()
    assert not own.pause()
    assert not own.is_running()
    for use in (lambda: own.commands.run("ls"), lambda: own.files.read("x"), lambda: own.run_code("x")):
        with pytest.raises((SandboxException, TimeoutException), match="not found"):
            use()
    assert own.get_info().state is SandboxState.PAUSED
    for state, found in ((SandboxState.PAUSED, [own.sandbox_id]), (SandboxState.RUNNING, [])):
        listed = Sandbox.list(query=SandboxQuery(metadata={"kind": "own"}, state=[state])).next_items()
        assert [each.sandbox_id for each in listed] == found
    with pytest.raises(SandboxException, match="not supported here"):
        Sandbox.connect(own.sandbox_id, on_resume="reboot")
    before = own.get_info().end_at
    same = Sandbox.connect(own.sandbox_id, timeout=120)
    assert own.is_running()
    assert own.get_info().end_at > before
    assert same.run_code("x + 1").text == own.run_code("x + 1").text == "42"
    assert same.files.read("kept.txt") == "text"
    same.commands.send_stdin(running.pid, "typed\n")
    same.commands.close_stdin(running.pid)
    assert same.commands.connect(running.pid).wait().stdout == "typed\ndone\n"
    assert own.get_info().state is SandboxState.RUNNING


def test_a_paused_sandbox_is_killed_and_one_that_is_not_there_is_not_paused(served):
    made = Sandbox.create(timeout=60)
    assert made.pause()
    assert made.kill()
    assert not made.kill()
    for use in (made.pause, lambda: Sandbox.connect(made.sandbox_id)):
        with pytest.raises(SandboxNotFoundException):
            use()


def test_a_sandbox_that_is_gone_is_told_as_the_sdk_expects(served):
    gone = Sandbox.create()
    assert gone.is_running()
    assert gone.kill()
    assert not gone.is_running()
    assert not gone.kill()
    for use in (lambda: gone.commands.run("ls"), lambda: gone.files.read("x"), lambda: gone.run_code("1")):
        with pytest.raises((SandboxException, TimeoutException), match="not found"):
            use()
    with pytest.raises(SandboxNotFoundException):
        Sandbox.connect(gone.sandbox_id)


def test_code_whose_sandbox_is_killed_meanwhile_is_told_as_the_sdk_expects(served):
    doomed = Sandbox.create(timeout=60)

    def kill():
        while not doomed.files.exists("begun"):
            time.sleep(0.05)
        doomed.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(TimeoutException, match="sandbox was killed while the request was in progress"):
        doomed.run_code("import time; open('begun', 'w').close(); time.sleep(300)", timeout=300)
    killer.join()


def test_a_network_is_closed_when_that_is_asked_and_can_be_changed(served):
    made = Sandbox.create(timeout=60, allow_internet_access=False)
    info = made.get_info()
    assert info.allow_internet_access is False
    assert info.network == {"allow_out": [], "deny_out": ["0.0.0.0/0", "::/0"]}
    made.update_network({"deny_out": ["10.0.0.0/8", "192.0.2.1"]})
    assert made.get_info().network == {"allow_out": [], "deny_out": ["10.0.0.0/8", "192.0.2.1"]}
    Sandbox.update_network(made.sandbox_id, {"allow_internet_access": False})
    assert made.get_info().allow_internet_access is False
    made.update_network({})
    info = made.get_info()
    assert (info.allow_internet_access, info.network) == (None, None)
    with pytest.raises(SandboxException, match=r"opens nothing of 203\.0\.113\.7"):
        made.update_network({"allow_out": ["203.0.113.7"], "deny_out": lambda context: [context.all_traffic]})
    assert made.run_code("1").text == "1"
    made.kill()
    with pytest.raises(SandboxNotFoundException):
        made.update_network({})


def test_what_is_not_served_says_so(own):
    changes = {"allow_out": ["example.com"]}
    refused = (lambda: own.pause(mode="filesystem"), own.create_snapshot, lambda: own.update_network(changes))
    for use in refused:
        with pytest.raises(SandboxException, match="not supported here"):
            use()
    with pytest.raises(SandboxException, match="no template 'nope'"):
        Sandbox.create(template="nope")
    with pytest.raises(SandboxException, match="autoPause"):
        Sandbox.create(lifecycle={"on_timeout": "pause"})
    assert own.run_code("1").text == "1"


def test_a_wrong_key_opens_nothing(served):
    with pytest.raises(AuthenticationException):
        Sandbox.create(api_key="e2b_" + "0" * 64)


def test_the_example_runs(served):
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "said: 3 days\nmean: 11.0\nfile: 11.0\nlines: 4\nwrong: IndexError\n")
