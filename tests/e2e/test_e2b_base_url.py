"""E2B's SDK against a server below a base URL, whose signed URLs have no such path."""

from __future__ import annotations

import urllib.error
import urllib.request
from urllib.parse import urlsplit

import pytest
from e2b_code_interpreter import AsyncSandbox, Sandbox

from tests.e2e import e2b_clients
from tests.e2e.served import served_for_e2b

BASE = "/user/alice"

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def served(tree, tmp_path_factory):
    """A server below a base URL, to which the environment leads."""
    folder = tmp_path_factory.mktemp("below")
    with served_for_e2b(folder, "--min-idle-workers=1", "--max-total-workers=4", base_url=BASE) as server:
        yield server


@pytest.fixture
def sandbox(served):
    made = Sandbox.create(timeout=60)
    yield made
    made.kill()


def code_of(request):
    """The status with which a request is answered."""
    try:
        with urllib.request.urlopen(request) as answer:
            return answer.status
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def test_everything_is_below_it(sandbox):
    assert sandbox.run_code("6 * 7").text == "42"
    context = sandbox.create_code_context()
    assert sandbox.run_code("6 * 8", context=context).text == "48"
    assert sandbox.commands.run("echo hello").stdout == "hello\n"
    sandbox.files.write("a.txt", "text")
    assert sandbox.files.read("a.txt") == "text"
    assert [each.name for each in sandbox.files.list(".")] == ["a.txt"]
    sandbox.set_timeout(50)
    assert [each.sandbox_id for each in Sandbox.list().next_items()] == [sandbox.sandbox_id]
    assert Sandbox.connect(sandbox.sandbox_id).is_running()


def test_signed_urls_work_at_the_top(served, sandbox):
    form = b'--x\r\nContent-Disposition: form-data; name="file"; filename="u.txt"\r\n\r\nsent\r\n--x--\r\n'
    upload = sandbox.upload_url("u.txt", use_signature_expiration=60)
    assert urlsplit(upload).path == "/files"
    request = urllib.request.Request(upload, form, {"Content-Type": "multipart/form-data; boundary=x"})
    assert code_of(request) == 200
    assert sandbox.files.read("u.txt") == "sent"
    url = sandbox.download_url("u.txt")
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"sent"
    assert code_of(url.replace("/files", f"{BASE}/files")) == 200
    for wrong in (url.replace("u.txt", "other"), url.partition("?")[0], sandbox.download_url("u.txt", "user")[:-1]):
        assert code_of(wrong) == 401


@pytest.mark.parametrize("path", ["e2b/sandboxes", "e2b/sbx/files", "e2b/sbx/health", "api/sandboxes", "files/a"])
def test_nothing_else_is_at_the_top(served, sandbox, path):
    headers = {"X-API-Key": served.token, "Authorization": f"token {served.token}"}
    headers |= {"E2b-Sandbox-Id": sandbox.sandbox_id, "X-Access-Token": sandbox._envd_access_token}
    top = served.url.removesuffix(BASE)
    assert code_of(urllib.request.Request(f"{top}/{path}", headers=headers)) == 404


def test_asynchronously_too(served):
    async def use():
        async with await AsyncSandbox.create(timeout=60) as sandbox:
            assert (await sandbox.run_code("6 * 7")).text == "42"
            await sandbox.files.write("a.txt", "text")
            with urllib.request.urlopen(sandbox.download_url("a.txt")) as answer:
                assert answer.read() == b"text"

    e2b_clients.in_a_loop(use)
