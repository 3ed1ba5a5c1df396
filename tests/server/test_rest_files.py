"""Files over REST: look, list, write, read, make directories, move, delete, bring from URLs and send to URLs."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os

import pytest
from traitlets.config import Config

from jupyter_sandbox.incoming import Incoming
from tests.attacks.far_ends import far_end, saying


@pytest.fixture
def jp_server_config(jp_server_config, request):
    if "store" in request.fixturenames:
        port = request.getfixturevalue("free_port")
        jp_server_config.merge(Config({"FileTransfers": {"allowed_hosts": [f"127.0.0.1:{port}"]}}))
    return jp_server_config


@pytest.fixture
def box(rest, jp_asyncio_loop):
    """Ask about the files of a new sandbox: `reply = await box("GET", "a/b")`; `download` gives bytes."""
    return Files(rest, jp_asyncio_loop.run_until_complete(rest.claimed())["id"])


class Files:
    def __init__(self, rest, sandbox_id):
        self.rest, self.id = rest, sandbox_id

    async def __call__(self, method, path, **how):
        return await self.rest(method, self.id, "files", *path.split("/"), **how)

    async def download(self, path, **headers):
        return await self.rest._fetch(
            *("api", "sandboxes", self.id, "files", *path.split("/")),
            method="GET",
            params={"download": "1"},
            headers=headers,
            request_timeout=50,
        )


async def test_a_file_is_written_looked_at_read_moved_and_deleted(box):
    made = await box("PUT", "data/a b.csv", raw=b"1,2", params={"parents": "1"})
    assert (made.status, made.body["path"], made.body["size_bytes"]) == (201, "data/a b.csv", 3)
    assert made.headers["Location"].endswith(f"/api/sandboxes/{box.id}/files/data/a%20b.csv")
    again = await box("PUT", "data/a b.csv", raw=b"3,4,5")
    assert (again.status, again.body["size_bytes"]) == (200, 5)
    assert (await box.download("data/a b.csv")).body == b"3,4,5"
    seen = (await box("GET", "data/a b.csv")).body
    assert (seen["type"], seen["entries"], seen["name"]) == ("file", None, "a b.csv")
    moved = await box("PATCH", "data/a b.csv", body={"path": "b.csv"})
    assert (moved.status, moved.body["path"]) == (200, "b.csv")
    assert (await box("GET", "data/a b.csv")).code == "unknown_file"
    assert (await box("DELETE", "b.csv")).status == 204
    assert (await box("DELETE", "b.csv")).code == "unknown_file"


async def test_a_directory_is_made_listed_and_deleted(box):
    assert (await box("PUT", "a/b", raw=b"", params={"type": "directory"})).code == "unknown_file"
    how = {"raw": b"", "params": {"type": "directory", "parents": "1"}}
    assert [(await box("PUT", "a/b", **how)).status for _ in range(2)] == [201, 200]
    assert (await box("PUT", "a/c", raw=b"x", params={"type": "directory"})).code == "invalid_request"
    for name in ("x", "y", "z"):
        await box("PUT", f"a/{name}", raw=b"")
    first = (await box("GET", "a", params={"limit": 3})).body
    assert [each["path"] for each in first["entries"]] == ["a/b", "a/x", "a/y"]
    rest = (await box("GET", "a", params={"cursor": first["next"]})).body
    assert ([each["name"] for each in rest["entries"]], rest["next"]) == (["z"], None)
    assert (await box("DELETE", "a")).code == "file_conflict"
    assert (await box("DELETE", "a", params={"recursive": "1"})).status == 204
    assert (await box.rest("GET", box.id, "files", "")).body["entries"] == []


async def test_nothing_is_replaced_unasked(box):
    only_new = {"If-None-Match": "*"}
    assert (await box("PUT", "a", raw=b"1", headers=only_new)).status == 201
    assert (await box("PUT", "a", raw=b"2", headers=only_new)).code == "file_conflict"
    await box("PUT", "b", raw=b"3")
    assert (await box("PATCH", "b", body={"path": "a"})).code == "file_conflict"
    assert (await box.download("a")).body == b"1"
    assert (await box("PATCH", "b", body={"path": "a", "replace": True})).status == 200
    assert (await box.download("a")).body == b"3"


async def test_64_mib_go_in_and_come_out_as_they_are(box, rest):
    data = os.urandom(1 << 20) * 64
    assert (await box("PUT", "large", raw=data)).body["size_bytes"] == len(data)
    context = await rest.context(box.id)
    code = "import hashlib; print(hashlib.sha256(open('/sandbox/large', 'rb').read()).hexdigest())"
    assert await context.printed(code) == f"{hashlib.sha256(data).hexdigest()}\n"
    assert (await box.download("large")).body == data
    part = await box.download("large", Range="bytes=1000000-3000000")
    assert (part.code, part.body) == (206, data[1_000_000:3_000_001])
    assert part.headers["Content-Range"] == f"bytes 1000000-3000000/{len(data)}"


async def test_a_large_file_comes_in_large_pieces_of_bounded_size(box, monkeypatch):
    """Each piece is some turns of the loop: by 64 KiB, which is tornado's way, they are half of the work."""
    sizes, put = [], Incoming.put
    monkeypatch.setattr(Incoming, "put", lambda self, piece: sizes.append(len(piece)) or put(self, piece))
    await box("PUT", "large", raw=bytes(64 << 20))
    assert sum(sizes) == 64 << 20
    assert max(sizes) <= 1 << 20
    assert len(sizes) < (64 << 20) / (64 << 10) / 2


@pytest.fixture
def store():
    """An object store on this machine that the operator allowed."""


async def test_files_come_from_urls_and_go_to_urls(store, free_port, box, rest):
    answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello"
    async with far_end(saying(answer), port=free_port) as end:
        url = f"http://127.0.0.1:{free_port}/a?signature=secret"
        wanted = {"files": [{"url": url, "path": "in/a"}, {"url": "http://127.0.0.1:1/", "path": "b"}]}
        first, second = (await rest.post(box.id, "uploads", body=wanted)).body["files"]
        assert first == {"path": "in/a", "size_bytes": 5, "error": None}
        assert second["error"]["code"] == "url_refused"
        assert (await box.download("in/a")).body == b"hello"
        sent = await rest.post(box.id, "exports", body={"files": [{"path": "in/a", "url": url}]})
        assert sent.body["files"] == [{"path": "in/a", "size_bytes": 5, "error": None}]
        assert end.bodies == [b"hello"]
        assert "secret" not in json.dumps(sent.body)


async def test_a_batch_has_1_to_100_files(box, rest):
    for count in (0, 101):
        files = [{"url": "http://192.0.2.1/", "path": "a"}] * count
        for name in ("uploads", "exports"):
            assert (await rest.post(box.id, name, body={"files": files})).code == "invalid_request"


async def test_writers_at_once_leave_one_whole_file(box):
    texts = [bytes([number]) * 100_000 for number in range(20)]
    replies = await asyncio.gather(*(box("PUT", "a", raw=text) for text in texts))
    assert {reply.status for reply in replies} <= {200, 201}
    assert (await box.download("a")).body in texts
