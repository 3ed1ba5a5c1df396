"""Files over the code interpreter's API: from URLs, to URLs, deleted, in batches that succeed or fail as a whole."""

from __future__ import annotations

import asyncio
import json

import pytest
from tornado.simple_httpclient import HTTPTimeoutError
from traitlets.config import Config

from tests.attacks.far_ends import endless, far_end, saying
from tests.conftest import eventually
from tests.server.brokers import sandboxes

CSV = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n1,2"
TAKEN = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
MISSING = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"


@pytest.fixture
def jp_server_config(jp_server_config, free_port, request):
    """An operator's object store on this machine, and small files; with the `template` of the test, if it names one."""
    if "template" in request.fixturenames:
        jp_server_config.CodeInterpreter.template = request.getfixturevalue("template")
    store = {"FileTransfers": {"allowed_hosts": [f"127.0.0.1:{free_port}"]}, "CodeInterpreter": {"max_file_mib": 1}}
    jp_server_config.merge(Config(store))
    return jp_server_config


@pytest.fixture
def store(free_port):
    return f"http://127.0.0.1:{free_port}"


def names(*paths, **more):
    """The body of a request about files, `directory name` each."""
    rows = []
    for path in paths:
        directory, name = path.split(" ")
        rows.append({"path": directory, "name": name} | more)
    return {"files": rows}


async def test_files_come_from_urls_into_directories_that_are_made(interpreter, store, free_port):
    body = names("/sandbox/data/ one.csv", "/sandbox/nested/deep two.csv", download_url=f"{store}/x?signed=1")
    async with far_end(saying(CSV), port=free_port):
        response = await interpreter("POST", "files", body=body)
    assert (response.code, json.loads(response.body)) == (
        201,
        {
            "success": True,
            "results": [
                {"full_path": "/sandbox/data/one.csv", "size": 3},
                {"full_path": "/sandbox/nested/deep/two.csv", "size": 3},
            ],
        },
    )
    code = "open('/sandbox/data/one.csv').read() + open('nested/deep/two.csv').read()"
    assert (await interpreter.execute(code))["result_text"] == "'1,21,2'"


async def test_a_path_that_ends_with_the_name_is_the_whole_path(interpreter, store, free_port):
    async with far_end(saying(CSV), port=free_port):
        response = await interpreter("POST", "files", body=names("/sandbox/a.csv a.csv", download_url=store))
    assert json.loads(response.body)["results"] == [{"full_path": "/sandbox/a.csv", "size": 3}]


async def test_files_go_to_urls_by_put_and_by_the_fields_of_a_form(interpreter, store, free_port):
    await interpreter.execute("open('/sandbox/out.txt', 'w').write('result')")
    async with far_end(saying(TAKEN), port=free_port) as end:
        body = names("/sandbox out.txt", upload_url=f"{store}/put?signed=1")
        response = await interpreter("POST", "files", "export", body=body)
        assert (response.code, json.loads(response.body)) == (
            200,
            {"success": True, "results": [{"path": "/sandbox", "name": "out.txt", "size": 6}]},
        )
        body["files"][0]["upload_fields"] = {"policy": "p", "key": "k"}
        assert (await interpreter("POST", "files", "export", body=body)).code == 200
    assert [head.split(" ")[0] for head in end.heads] == ["PUT", "POST"]
    assert "Content-Length: 6" in end.heads[0]
    assert end.bodies[0] == b"result"
    fields = [part.split(b'"')[1] for part in end.bodies[1].split(b"name=")[1:]]
    assert (fields[0], fields[1]) == (b"policy", b"key")
    assert b"result" in end.bodies[1].rpartition(b'name="file"')[2]


async def test_files_are_deleted(interpreter):
    await interpreter.execute("open('/sandbox/a', 'w').close(); open('/sandbox/b', 'w').close()")
    response = await interpreter("DELETE", "files", body=names("/sandbox a", "/sandbox/b b"))
    assert (response.code, response.body) == (204, b"")
    assert (await interpreter.execute("import os; os.listdir('/sandbox')"))["result_text"] == "[]"
    status, words = await interpreter.detail("DELETE", "files", body=names("/sandbox a", "/sandbox b"))
    assert status == 404
    assert words.startswith("Deletion failed for 2/2 file(s): ")


async def test_one_failure_fails_the_batch_and_the_others_stay(interpreter, store, free_port):
    async def script(head):
        yield MISSING if "GET /missing" in head else CSV

    body = names("/sandbox here", download_url=f"{store}/here")
    body["files"] += names("/sandbox gone", download_url=f"{store}/missing")["files"]
    async with far_end(script, port=free_port):
        status, words = await interpreter.detail("POST", "files", body=body)
    assert status == 502
    assert words.startswith("Upload failed for 1/2 file(s): ")
    assert (await interpreter.execute("import os; os.listdir('/sandbox')"))["result_text"] == "['here']"


@pytest.mark.parametrize("announced", [True, False], ids=["announced", "not-announced"])
async def test_a_file_that_is_too_large_does_not_come(interpreter, store, free_port, announced):
    body = b"x" * 1_100_000
    head = b"Content-Length: %d\r\n\r\n" % len(body) if announced else b"Transfer-Encoding: chunked\r\n\r\n"
    tail = body if announced else b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    big = b"HTTP/1.1 200 OK\r\n" + head + tail
    async with far_end(saying(big), port=free_port):
        status, words = await interpreter.detail("POST", "files", body=names("/sandbox big", download_url=store))
    assert (status, words) == (413, f"Upload failed for 1/1 file(s): {words.partition(': ')[2]}")
    assert (await interpreter.execute("import os; os.listdir('/sandbox')"))["result_text"] == "[]"


@pytest.mark.parametrize("template", ["small-disk"])
async def test_a_disk_that_is_full_takes_no_file(interpreter, store, free_port, template):
    said = await interpreter.execute("for _ in range(64): open('big', 'ab').write(bytes(1 << 20))")
    assert "No space left on device" in said["result_text"]
    big = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n" + b"x" * 1_000_000
    async with far_end(saying(big), port=free_port):
        status, words = await interpreter.detail("POST", "files", body=names("/sandbox more", download_url=store))
    assert (status, words.startswith("Upload failed for 1/1 file(s): ")) == (507, True)


async def test_what_is_not_in_the_sandbox_cannot_be_sent(interpreter, store):
    await interpreter.execute("import os; os.symlink('/etc/passwd', '/sandbox/link'); os.mkdir('/sandbox/directory')")
    for name, expected in (("missing", 404), ("link", 400), ("directory", 400)):
        body = names(f"/sandbox {name}", upload_url=store)
        status, words = await interpreter.detail("POST", "files", "export", body=body)
        assert (name, status) == (name, expected)
        assert words.startswith("Export failed for 1/1 file(s): ")


async def test_who_has_no_session_gets_one_to_bring_files_to_and_to_nothing_else(interpreter, store, free_port):
    for request in (
        ("DELETE", ["files"], names("/sandbox a")),
        ("POST", ["files", "export"], names("/sandbox a", upload_url=store)),
    ):
        method, path, body = request
        assert await interpreter.detail(method, *path, body=body) == (404, "No active session found for user")
    assert await sandboxes() == []
    async with far_end(saying(CSV), port=free_port):
        assert (await interpreter("POST", "files", body=names("/sandbox a", download_url=store))).code == 201
    assert len(await sandboxes()) == 1


async def test_who_hangs_up_gives_the_place_of_his_batch_back(interpreter, rest, store, free_port):
    await interpreter.execute("1")
    async with far_end(endless(b"HTTP/1.1 200 OK\r\nContent-Length: 900000\r\n\r\n", 50), port=free_port) as end:
        asked = asyncio.ensure_future(
            interpreter("POST", "files", body=names("/sandbox slow", download_url=store), timeout=3)
        )
        await eventually(lambda: end.heads)
        assert rest.services.transfers._shares._held.total() == 1
        with pytest.raises(HTTPTimeoutError):
            await asked
        await eventually(lambda: not rest.services.transfers._shares._held)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/x", "http://169.254.169.254/latest/meta-data", "http://localhost/", "http://[::1]/"]
)
async def test_urls_that_lead_inside_are_refused_on_both_ways(interpreter, url):
    await interpreter.execute("open('/sandbox/a', 'w').close()")
    status, words = await interpreter.detail("POST", "files", body=names("/sandbox b", download_url=url))
    assert (status, "failed for 1/1" in words) == (400, True)
    status, words = await interpreter.detail("POST", "files", "export", body=names("/sandbox a", upload_url=url))
    assert (status, "failed for 1/1" in words) == (400, True)
