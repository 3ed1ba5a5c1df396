"""`jupyter sandbox serve`: the options, the token, the page in a real browser, and nothing left when it ends.

One server is used by all tests but those about its start and end. The screenshot is kept in pytest's temporary
directory, or in $JUPYTER_SANDBOX_SCREENSHOTS.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import pytest
from browser.devtools import chromium_path

from jupyter_sandbox import cli_serve
from tests.conftest import wait_until
from tests.e2e.served import COMMAND, Served
from tests.server.brokers import nothing_is_claimed

EXAMPLE = Path(__file__).parents[2] / "jupyter_server_config.py"


class Store(BaseHTTPRequestHandler):
    """An object store with presigned URLs, in memory."""

    kept: ClassVar[dict[str, bytes]] = {}

    def do_GET(self):
        found = self.kept.get(self.path.partition("?")[0])
        self.send_response(200 if found is not None else 404)
        self.send_header("Content-Length", str(len(found or b"")))
        self.end_headers()
        self.wfile.write(found or b"")

    def do_PUT(self):
        self.kept[self.path.partition("?")[0]] = self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        """Say nothing."""


@pytest.fixture(scope="module")
def store():
    with ThreadingHTTPServer(("127.0.0.1", 0), Store) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.fixture(scope="module")
def served(tree, store, tmp_path_factory):
    server = Served(
        tmp_path_factory.mktemp("serve"),
        *("--min-idle-workers=1", "--max-total-workers=3", "--worker-disk-mb=32", "--worker-ram-mb=600"),
        *("--execution-timeout=15", "--", f"--FileTransfers.allowed_hosts={store}"),
    )
    yield server
    server.stop()


def test_the_token_is_printed_and_kept_for_its_owner_alone(served):
    assert f"X-Auth-Token: {served.token}" in served.log.read_text()
    assert served.token_file.stat().st_mode & 0o777 == 0o600
    assert len(served.token) >= 40
    command_line = Path(f"/proc/{served.process.pid}/cmdline").read_bytes()
    assert served.token.encode() not in command_line


def test_workers_have_the_limits_that_were_asked_for(served):
    user = str(uuid.uuid4())
    disk = served.execute("import os; s = os.statvfs('/sandbox'); print(s.f_blocks * s.f_frsize >> 20)", user)
    assert 24 <= int(disk) <= 32
    filled = served.execute("open('big', 'wb').write(bytes(40 << 20))", user)
    assert "No space left on device" in filled
    assert served.execute("import getpass, os; print(getpass.getuser(), os.getcwd())", user) == "sandbox /sandbox\n"
    assert served.ask("POST", "execute", {"code": "while True: pass"}, user)[0] == 503
    assert served.ask("POST", "execute", {"code": "x = bytearray(800 << 20)"}, user)[0] == 503
    assert served.ask("POST", "release", user=user)[0] in (204, 404)


def test_beyond_the_most_workers_the_next_user_is_told_when_to_try_again(served):
    users = [str(uuid.uuid4()) for _ in range(4)]
    try:
        for user in users[:3]:
            wait_until(lambda user=user: served.ask("POST", "execute", {"code": "1"}, user)[0] == 200)
        status, said, headers = served.ask_fully("POST", "execute", {"code": "1"}, users[3])
        assert (status, "in use" in said["detail"]) == (503, True)
        assert int(headers["Retry-After"]) > 0
    finally:
        released = [served.ask("POST", "release", user=user)[0] for user in users]
    assert released == [204] * 3 + [404]


def test_nothing_runs_outside_sandboxes(served):
    request = urllib.request.Request(
        f"{served.url}/api/kernels",
        method="POST",
        data=b'{"name": "python3"}',
        headers={"Authorization": f"token {served.token}"},
    )
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request)
    with refused.value:
        assert refused.value.code == 404
    wait_until(lambda: served.ask("GET", "status")[1]["busy_workers"] == 0)  # what others gave back may still end


# -- the page


@pytest.mark.browser
@pytest.mark.skipif(chromium_path() is None, reason="chromium is not installed (apt install chromium)")
def test_a_person_tries_it_in_a_browser(served, store, tmp_path):
    Store.kept["/in.csv"] = b"1,2,3"
    screenshot = Path(os.environ.get("JUPYTER_SANDBOX_SCREENSHOTS") or tmp_path) / "try.png"
    done = subprocess.run(
        [sys.executable, "-m", "browser.try_page", served.url, served.token, f"http://{store}", screenshot],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert Store.kept["/out.txt"] == b"1,2,31,2,3"
    assert screenshot.stat().st_size > 10_000


def test_the_page_loads_nothing_from_elsewhere_and_cannot_be_framed(served):
    with urllib.request.urlopen(f"{served.url}/sandbox/try") as answer:
        policy = answer.headers["Content-Security-Policy"]
        text = answer.read().decode()
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert "http://" not in text.replace("http://127.0.0.1", "")
    assert "https://" not in text


# -- start and end


@pytest.fixture
def hasty(tree, tmp_path):
    """A server whose sessions end when nobody uses them for two seconds."""
    server = Served(tmp_path, "--min-idle-workers=0", "--worker-disk-mb=32", "--idle-timeout=2")
    yield server
    assert server.stop() == 0


@pytest.mark.browser
@pytest.mark.skipif(chromium_path() is None, reason="chromium is not installed (apt install chromium)")
def test_a_person_who_was_away_for_too_long_is_told_so(hasty):
    done = subprocess.run(
        [sys.executable, "-m", "browser.try_page_idle", hasty.url, hasty.token],
        cwd=Path(__file__).parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_a_session_that_nobody_uses_ends_after_the_idle_timeout(hasty):
    user = str(uuid.uuid4())
    assert hasty.execute("kept = 1", user) == ""
    wait_until(lambda: hasty.ask("GET", "status")[1]["busy_workers"] == 0)
    assert "NameError" in hasty.execute("kept", user)


def test_it_ends_with_ctrl_c_and_leaves_nothing(tree, tmp_path):
    server = Served(tmp_path, "--min-idle-workers=0")
    assert server.execute("6 * 7", str(uuid.uuid4())) == "42"
    assert server.stop() == 0
    asyncio.run(nothing_is_claimed())
    first = server.token
    again = Served(tmp_path, "--min-idle-workers=0")
    assert again.token == first
    again.stop()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--port=0"], "not a whole number of at least 1"),
        (["--worker-cpu=none"], "not a positive number"),
        (["--min-idle-workers=3", "--max-total-workers=2"], "--min-idle-workers is more than --max-total-workers"),
        (["--max-total-workers=100000"], "60000"),
        (["--worker-ram-mb=1000000"], "BrokerApp.template_ceiling"),
        (["--no-such-option"], "unrecognized arguments"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_wrong_options_are_told_before_anything_starts(tree, tmp_path, options, words):
    done = subprocess.run(
        [*COMMAND, f"--token-file={tmp_path / 'token'}", *options], capture_output=True, text=True, check=False
    )
    assert done.returncode in (1, 2)
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_an_exclusive_server_whose_extension_cannot_be_set_up_does_not_start(tree, tmp_path):
    """Jupyter goes on without an extension that fails, and would then run whatever it is asked to, on the host."""
    command = [sys.executable, "-m", "jupyter_server", f"--config={EXAMPLE}", "--allow-root", "--ServerApp.port=0"]
    ended = subprocess.run(
        [*command, "--E2b.max_timeout_s=0"], cwd=tmp_path, capture_output=True, text=True, timeout=40, check=False
    )
    assert ended.returncode != 0
    assert "max_timeout_s" in ended.stderr


@pytest.mark.parametrize(("address", "shown"), [("::1", "[::1]"), ("*", "localhost")])
def test_any_address_that_jupyter_takes_is_listened_at(address, shown):
    cli_serve._require_free(address, 0)
    assert cli_serve._host(address) == shown


def test_a_port_that_is_taken_is_told_before_the_template_is_changed(served, tmp_path):
    def template():
        show = [*COMMAND[:-1], "template", "show", "code-interpreter"]
        return json.loads(subprocess.run(show, capture_output=True, text=True, check=True).stdout)

    before = template()
    options = [f"--port={served.port}", f"--token-file={tmp_path / 'token'}", "--min-idle-workers=0", "--worker-cpu=2"]
    done = subprocess.run([*COMMAND, *options], capture_output=True, text=True, check=False)
    assert (done.returncode, "nobody can listen" in done.stderr) == (1, True)
    assert template() == before


@pytest.mark.parametrize("wrong", ["others-can-read", "no-token", "a-directory"])
def test_a_token_file_that_is_not_right_is_told_and_left_alone(tree, tmp_path, wrong):
    path = tmp_path / "token"
    if wrong == "a-directory":
        path.mkdir()
    else:
        path.write_text("a-token-that-is-long-enough" if wrong == "others-can-read" else "short")
        path.chmod(0o644 if wrong == "others-can-read" else 0o600)
    done = subprocess.run([*COMMAND, f"--token-file={path}"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert str(path) in done.stderr
    assert path.exists()
    shutil.rmtree(path) if path.is_dir() else path.unlink()
