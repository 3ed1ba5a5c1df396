"""Files over REST against clients that lie about paths, lengths and ranges, and against what a sandbox put there."""

from __future__ import annotations

import asyncio
from urllib.parse import quote

import pytest

from tests.attacks.naughty import STRINGS
from tests.attacks.rest_world import watched
from tests.server.raw_http import opened, received, send

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]

PATHS = {
    "up": "../etc/passwd",
    "up, in between": "a/../../etc/passwd",
    "up, encoded": "%2e%2e/etc/passwd",
    "up, slash encoded": "..%2f..%2fetc%2fpasswd",
    "up, encoded twice": "%252e%252e%252fetc",
    "up, overlong": "%c0%ae%c0%ae/etc",
    "up, overlong as text": "%25c0%25ae%25c0%25ae/etc",
    "up, full width": "%ef%bc%8e%ef%bc%8e/etc",
    "up, backslash": "..%5c..%5cetc",
    "absolute": "/etc/passwd",
    "absolute, encoded": "%2fetc%2fpasswd",
    "another top": "/sandboxes/a",
    "NUL": "a%00b",
    "newline": "a%0ab",
    "carriage return": "a%0d%0aSet-Cookie:%20x=y",
    "escape": "%1b%5b31m",
    "a surrogate": "%ed%a0%80",
    "half of UTF-8": "%e2%82",
    "Latin-1": "caf%e9",
    "a name that is too long": "x" * 256,
    "a path that is too deep": "a/" * 129 + "b",
    "a path that is too long": "/".join(["x" * 250] * 17),
}


@pytest.fixture
def files(rest, jp_asyncio_loop):
    """The path of the files of a new sandbox."""
    return f"/api/sandboxes/{jp_asyncio_loop.run_until_complete(rest.claimed())['id']}/files"


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
async def test_a_path_that_leads_out_or_is_no_text_is_refused_by_every_method(world, files, path):
    for method, body in (("GET", None), ("PUT", b"x"), ("DELETE", None), ("PATCH", b'{"path": "b"}')):
        reply = await send(world, method, f"{files}/{path}", body)
        assert (reply.status, reply.code) == (400, "invalid_request"), method
    assert (await send(world, "GET", f"{files}/")).model["entries"] == []


async def test_naughty_strings_round_trip_as_names_or_are_refused(world, files):
    """A slash parts names, however it is written; what is between two of them, or `.`, is no name."""
    at_once, kept = asyncio.Semaphore(16), []
    assert (await send(world, "PUT", f"{files}/names/first?parents=1", b"")).status == 201, "or a file has that name"

    async def tried(string):
        path, data = f"{files}/names/{quote(string, safe='')}", string.encode(errors="surrogatepass")
        async with at_once:
            put = await send(world, "PUT", f"{path}?parents=1", data)
            if put.status == 201:
                names = [name for name in ("names", *string.split("/")) if name not in {"", "."}]
                assert put.model["path"] == "/".join(names), ascii(string)
                assert (await send(world, "GET", f"{path}?download=1")).body == data, ascii(string)
                kept.append(string)
            else:
                assert put.status in {400, 404, 409}, (ascii(string), put)

    await asyncio.gather(*map(tried, STRINGS))
    assert len(kept) > len(STRINGS) / 2


async def test_a_path_is_decoded_once_and_no_more(world, files):
    assert (await send(world, "PUT", f"{files}/100%2525", b"x")).model["path"] == "100%25"
    assert (await send(world, "GET", f"{files}/100%2525?download=1")).body == b"x"
    assert (await send(world, "GET", f"{files}/100%25")).code == "unknown_file"


@pytest.mark.parametrize("path", ["../out", "/etc/x", "a\\u0000", "\\ud800", "", "/sandbox"])
async def test_nothing_is_moved_to_a_path_that_is_none(world, files, path):
    await send(world, "PUT", f"{files}/a", b"x")
    reply = await send(world, "PATCH", f"{files}/a", f'{{"path": "{path}"}}'.encode())
    assert (reply.status, reply.code) == (400, "invalid_request")
    assert (await send(world, "GET", f"{files}/a?download=1")).body == b"x"


async def test_a_stranger_finds_no_files_and_leaves_none(world, files):
    await send(world, "PUT", f"{files}/a", b"x")
    for method, path, body in (
        ("GET", "a", None),
        ("GET", "a?download=1", None),
        ("PUT", "a", b"y"),
        ("PUT", "d?type=directory", b""),
        ("PATCH", "a", b'{"path": "b"}'),
        ("DELETE", "a", None),
    ):
        reply = await send(world, method, f"{files}/{path}", body, token="bob")
        assert (reply.status, reply.code) == (404, "unknown_sandbox"), method
        nobody = await send(world, method, f"{files}/{path}", body, token="nobody")
        assert (nobody.status, nobody.code) == (403, "forbidden"), method
    for name in ("uploads", "exports"):
        body = b'{"files": [{"path": "a", "url": "http://192.0.2.1/"}]}'
        reply = await send(world, "POST", f"{files.removesuffix('files')}{name}", body, token="bob")
        assert (reply.status, reply.code) == (404, "unknown_sandbox")
    assert [each["name"] for each in (await send(world, "GET", f"{files}/")).model["entries"]] == ["a"]
    assert (await send(world, "GET", f"{files}/a?download=1")).body == b"x"


async def test_symlinks_fifos_and_odd_names_are_told_and_not_used(world, rest):
    context = await rest.context()
    await context.printed(
        "import os, socket\nos.chdir('/sandbox')\nos.symlink('/etc/passwd', 'link')\nos.mkfifo('fifo')\n"
        "open(b'\\xff\\n', 'w').close(); open('old', 'w').close(); os.utime('old', ns=(-1 << 62, -1 << 62))\n"
    )
    files = f"/api/sandboxes/{context.sandbox_id}/files"
    entries = {each["quoted"]: each for each in (await send(world, "GET", f"{files}/")).model["entries"]}
    assert {name: each["type"] for name, each in entries.items()} == {
        "%FF%0A": "file",
        "fifo": "other",
        "link": "symlink",
        "old": "file",
    }
    assert entries["%FF%0A"]["path"] is None
    assert entries["%FF%0A"]["name"] == "\ufffd\n"
    for name in ("link", "fifo"):
        for method, path, body in (("GET", f"{name}?download=1", None), ("PUT", name, b"x")):
            reply = await send(world, method, f"{files}/{path}", body)
            assert (reply.status, reply.code) == (403, "file_refused"), (method, name)
        assert (await send(world, "DELETE", f"{files}/{name}")).status == 204


async def test_a_page_of_html_from_a_sandbox_is_a_download_and_no_page(world, files):
    page = b"<script>fetch('/api/sandboxes', {method: 'POST'})</script>"
    for name in ("index.html", "a.svg", "%22%3b%20filename=x.html", "%e2%80%aelmth.exe"):
        await send(world, "PUT", f"{files}/{name}", page)
        reply = await send(world, "GET", f"{files}/{name}?download=1")
        assert (reply.status, reply.body) == (200, page)
        assert reply.headers["content-type"] == "application/octet-stream"
        assert reply.headers["content-disposition"].startswith("attachment; filename*=utf-8''")
        assert set(reply.headers["content-disposition"]) & set('"\r\n') == set()
        assert reply.headers["x-content-type-options"] == "nosniff"
        assert "sandbox" in reply.headers["content-security-policy"]
        assert "allow-scripts" not in reply.headers["content-security-policy"]


@pytest.mark.parametrize(
    ("given", "status", "body"),
    [
        ("bytes=0-0", 206, b"0"),
        ("bytes=5-", 206, b"56789"),
        ("bytes=-3", 206, b"789"),
        ("bytes=-99999999999999999999999", 206, b"0123456789"),
        ("bytes=8-99999999999999999999999", 206, b"89"),
        ("bytes=10-", 416, None),
        ("bytes=99999999999999999999999-", 416, None),
        ("bytes=-0", 416, None),
        ("bytes=5-3", 200, b"0123456789"),
        ("bytes=0-1,2-3", 200, b"0123456789"),
        ("bytes=" + "0-," * 1000 + "0-", 200, b"0123456789"),
        ("bytes=-", 200, b"0123456789"),
        ("bytes=--1", 200, b"0123456789"),
        ("bytes=0x1-", 200, b"0123456789"),
        ("bytes=" + "9" * 5000 + "-", 200, b"0123456789"),
        ("lines=0-1", 200, b"0123456789"),
    ],
)
async def test_a_range_is_one_range_or_none(world, files, given, status, body):
    await send(world, "PUT", f"{files}/a", b"0123456789")
    reply = await send(world, "GET", f"{files}/a?download=1", Range=given)
    assert reply.status == status
    if body is None:
        assert reply.code == "file_range"
    else:
        assert reply.body == body
        assert int(reply.headers["content-length"]) == len(body)
        assert ("content-range" in reply.headers) == (status == 206)


async def test_a_range_of_an_empty_file_is_refused(world, files):
    await send(world, "PUT", f"{files}/a", b"")
    assert (await send(world, "GET", f"{files}/a?download=1", Range="bytes=0-")).code == "file_range"
    assert (await send(world, "GET", f"{files}/a?download=1")).body == b""


async def test_an_upload_that_breaks_off_leaves_the_old_file(world, files):
    """Its client hangs up, or has said a larger length than it sends."""
    await send(world, "PUT", f"{files}/a", b"old")
    for headers, body in (
        ({"Content-Length": "1000000"}, b"new" * 1000),
        ({"Transfer-Encoding": "chunked"}, b"3\r\nnew\r\n"),
        ({"Transfer-Encoding": "chunked"}, b"3\r\nnew\r\nnonsense\r\n"),
    ):
        reader, writer = await opened(world, "PUT", f"{files}/a", headers)
        writer.write(body)
        await writer.drain()
        writer.write_eof()
        async with asyncio.timeout(20):
            await reader.read()  # until the server closes
        writer.close()
        assert (await send(world, "GET", f"{files}/a?download=1")).body == b"old"
    assert [each["name"] for each in (await send(world, "GET", f"{files}/")).model["entries"]] == ["a"]


async def test_an_upload_that_says_it_is_too_large_is_refused_before_it_came(world, files):
    reply = await send(world, "PUT", f"{files}/a", Content_Length=str((2048 << 20) + 1))
    assert (reply.status, reply.code) == (413, "file_too_large")
    assert (await send(world, "GET", f"{files}/a")).code == "unknown_file"


async def test_an_upload_without_end_fills_the_disk_and_not_the_server(world, files):
    await send(world, "PUT", f"{files}/a", b"old")
    async with watched(world):
        reader, writer = await opened(world, "PUT", f"{files}/a", {"Transfer-Encoding": "chunked"})
        chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
        for _ in range(1100):  # a disk has 1024 MiB
            writer.write(chunk)
            await writer.drain()
        writer.write(b"0\r\n\r\n")
        reply = await received(reader, writer)
    assert (reply.status, reply.code) == (507, "disk_full")
    assert (await send(world, "GET", f"{files}/a?download=1")).body == b"old"


async def test_who_reads_nothing_of_a_large_file_takes_no_memory(world, rest):
    context = await rest.context()
    await context.printed("import os; os.truncate(os.open('/sandbox/hole', os.O_CREAT | os.O_RDWR), 1 << 40)")
    files = f"/api/sandboxes/{context.sandbox_id}/files"
    async with watched(world):
        held = [await opened(world, "GET", f"{files}/hole?download=1", {}) for _ in range(10)]
        for reader, _ in held:
            await reader.readuntil(b"\r\n\r\n")
        assert (await send(world, "GET", f"{files}/hole")).model["size_bytes"] == 1 << 40
        for _, writer in held:
            writer.close()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("If-Match", '"x"'),
        ("If-None-Match", '"x"'),
        ("If-None-Match", ""),
        ("Content-Range", "bytes 0-1/2"),
        ("Content-Encoding", "gzip"),
    ],
)
async def test_a_condition_that_is_not_obeyed_is_refused(world, files, name, value):
    reply = await send(world, "PUT", f"{files}/a", b"x", **{name: value})
    assert (reply.status, reply.code) == (400, "invalid_request")
    assert (await send(world, "GET", f"{files}/a")).code == "unknown_file"


@pytest.mark.parametrize("query", ["cursor=a", "cursor=!", "cursor=", "limit=0", "limit=1001", "download=2", "x=1"])
async def test_a_query_that_is_none_is_refused(world, files, query):
    reply = await send(world, "GET", f"{files}/?{query}")
    assert (reply.status, reply.code) == (400, "invalid_request")


async def test_a_directory_of_many_names_is_listed_in_pages(world, rest):
    context = await rest.context()
    await context.printed(
        "import os\nos.mkdir('/sandbox/many')\n"
        "for n in range(100_000):\n"
        "    if n % 50_000 == 0: first = f'/sandbox/first{n}'; open(first, 'w').close()\n"
        "    os.link(first, f'/sandbox/many/{n:06}')\n"
    )
    many = f"/api/sandboxes/{context.sandbox_id}/files/many"
    seen, more = [], ""
    async with watched(world):
        for _ in range(3):
            page = (await send(world, "GET", f"{many}?limit=1000{more}")).model
            seen += [each["name"] for each in page["entries"]]
            more = f"&cursor={page['next']}"
    assert seen == [f"{n:06}" for n in range(3000)]


async def test_no_private_address_is_asked_for_a_file(world, files):
    body = b'{"files": [{"path": "a", "url": "http://127.0.0.1/"}, {"path": "../b", "url": "http://192.0.2.1/"}]}'
    for name in ("uploads", "exports"):
        reply = await send(world, "POST", f"{files.removesuffix('files')}{name}", body)
        assert reply.status == 200
        codes = {each["error"]["code"] for each in reply.model["files"]}
        assert codes <= {"url_refused", "invalid_request", "unknown_file"}
