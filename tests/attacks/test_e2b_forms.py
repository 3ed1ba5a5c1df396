"""E2B's data plane: files in forms that lie about their boundary, never end, or have more parts than anybody needs."""

from __future__ import annotations

import asyncio
import json

import pytest

from jupyter_sandbox.surfaces.e2b import forms, held
from tests.attacks.e2b_calls import Filesystem, allowed, ask, chunk
from tests.attacks.rest_world import as_person, watched
from tests.server.raw_http import opened, received

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]

FORM = {"Content-Type": "multipart/form-data; boundary=XX"}
CHUNKED = {"Transfer-Encoding": "chunked"}
PATHS = ["../x", "/etc/passwd", "/home/user/../../etc/passwd", "%2e%2e/x", "x" * 5000, "/proc/1", "a\x00b", ""]
MIB = bytes(1 << 20)


def part(name, content=b"x", field="file"):
    head = f'--XX\r\nContent-Disposition: form-data; name="{field}"; filename="{name}"\r\n\r\n'
    return head.encode() + content + b"\r\n"


END = b"--XX--\r\n"
GOOD = part("good", b"good")
BAD = {
    "nothing": b"",
    "only its end": END,
    "no end": GOOD + part("more"),
    "no end of the last line": GOOD + part("more") + b"--XX",
    "cut in a head": GOOD + b"--XX\r\nContent-Disposition: form-data; na",
    "cut in a boundary": GOOD + part("more") + b"--X",
    "another boundary": b"--YY" + GOOD[4:] + b"--YY--\r\n",
    "a boundary that only begins as it": GOOD + part("more", b"x\r\n--XXX") + END,
    "something before": b"hello\r\n" + GOOD + END,
    "something behind": GOOD + END + b"more",
    "another form behind": GOOD + END + GOOD + END,
    "no head": GOOD + b"--XX\r\n\r\nx\r\n" + END,
    "two dispositions": GOOD + b"--XX\r\n" + GOOD.split(b"\r\n")[1] + b"\r\n" + GOOD[4:].lstrip() + END,
    "no quote at the end": GOOD + b'--XX\r\nContent-Disposition: form-data; name="file; filename=a\r\n\r\nx\r\n' + END,
    "the same twice": GOOD + b"--XX\r\nContent-Disposition: form-data; name=file; name=file\r\n\r\nx\r\n" + END,
    "no text": GOOD + part("a", b"x").replace(b'"a"', b'"\xff"') + END,
    "an attachment": GOOD + part("a").replace(b"form-data", b"attachment") + END,
    "another charset": GOOD + part("a").replace(b'filename="a"', b"filename*=latin-1''a") + END,
    "no file": part("a", field="other") + END,
}


async def post(filesystem, body, *more, query=""):
    path = f"e2b/sbx/files{query}"
    return await ask(filesystem.world, "POST", path, allowed(filesystem.box, FORM, *more), body)


async def names(filesystem):
    status, body = await filesystem("ListDir", path=".")
    assert status == 200
    return sorted(each["name"] for each in body["entries"])


async def answered(filesystem, code):
    """Send a form again until it is answered so."""
    async with asyncio.timeout(30):
        while (await post(filesystem, GOOD + END)).code != code:  # noqa: ASYNC110 - nobody tells of it
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("case", BAD)
async def test_of_a_form_that_is_none_nothing_is_written(filesystem, case):
    response = await post(filesystem, BAD[case])
    assert (response.code, json.loads(response.body)["code"]) == (400, 400)
    assert await names(filesystem) == []
    assert (await post(filesystem, GOOD + part("b") + END)).code == 200
    assert await names(filesystem) == ["b", "good"]


@pytest.mark.parametrize("path", PATHS)
async def test_a_file_that_may_not_be_there_keeps_the_others_of_its_form_out(filesystem, path):
    assert (await post(filesystem, GOOD + part(path) + END)).code == 400
    assert await names(filesystem) == []


@pytest.mark.parametrize("boundary", ["", "x" * 71, '"\u00e9"', "a b ", "XX; boundary=YY", '"XX', "<x>"])
async def test_a_boundary_that_is_none_is_refused(filesystem, boundary):
    kind = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    assert (await post(filesystem, GOOD + END, kind)).code == 400
    assert (await post(filesystem, GOOD + END, {"Content-Type": "multipart/form-data"})).code == 400
    assert await names(filesystem) == []


async def test_a_path_names_one_file(filesystem):
    assert (await post(filesystem, GOOD + part("b") + END, query="?path=a")).code == 400
    assert await names(filesystem) == []
    assert (await post(filesystem, part("other", field="note") + GOOD + END, query="?path=a")).code == 200
    assert await names(filesystem) == ["a"]


async def test_a_form_has_so_many_parts_and_not_one_more(world, filesystem):
    async with watched(world):
        response = await post(filesystem, b"".join(part(f"{n:03}") for n in range(forms.MAX_PARTS)) + END)
        assert (response.code, len(await names(filesystem))) == (200, forms.MAX_PARTS)
        for field in ("file", "other"):
            response = await post(filesystem, part("x", field=field) * (forms.MAX_PARTS + 1) + END)
            assert response.code == 413
    assert len(await names(filesystem)) == forms.MAX_PARTS


ENDLESS = {
    "parts": (b"", part("a")),
    "other parts": (b"", part("a", field="other")),
    "a head": (GOOD + b"--XX\r\nContent-Disposition: ", b"x" * 1000),
    "lines of a head": (GOOD + b"--XX\r\n", b"a: b\r\n" * 1000),
}


@pytest.mark.parametrize("case", ENDLESS)
async def test_what_has_no_end_is_refused_while_it_comes(world, filesystem, case):
    begin, piece = ENDLESS[case]
    fields = allowed(filesystem.box, FORM, CHUNKED)
    async with watched(world), asyncio.timeout(60):
        reader, writer = await opened(world, "POST", "/e2b/sbx/files", fields)
        writer.write(chunk(begin + piece * forms.MAX_HEAD_BYTES)[: 64 << 10])
        assert b" 413 " in await reader.readuntil(b"\r\n"), "who waits for an answer hears it"
        writer.close()
        _, writer = await opened(world, "POST", "/e2b/sbx/files", fields)
        with pytest.raises(ConnectionError):
            writer.write(chunk(begin))
            while True:
                writer.write(chunk(piece))
                await writer.drain()
    assert await names(filesystem) == []


async def test_a_form_that_is_too_large_is_refused_before_it_comes(world, filesystem):
    fields = allowed(filesystem.box, FORM, {"Content-Length": str(1 << 40)})
    assert (await received(*await opened(world, "POST", "/e2b/sbx/files", fields))).status == 413


async def test_files_of_a_form_count_and_none_is_there_when_the_last_is_too_much(world, tokens, make):
    """1 MiB is what this owner may write."""
    key = tokens.issue("small")
    filesystem = Filesystem(world, await make(key))
    response = await post(filesystem, part("a", MIB[:600_000]) + part("b", MIB[:600_000]) + END)
    assert response.code == 429, response.body
    assert await names(filesystem) == []
    assert (await post(filesystem, part("a", MIB[:600_000]) + END)).code == 200
    assert (await post(filesystem, part("b", MIB[:600_000]) + END)).code == 429
    assert await names(filesystem) == ["a"]


async def test_who_hangs_up_within_a_form_leaves_nothing(world, filesystem):
    fields = allowed(filesystem.box, FORM, CHUNKED)
    for cut in (GOOD, GOOD + part("b", MIB), GOOD + END):
        _, writer = await opened(world, "POST", "/e2b/sbx/files", fields)
        writer.write(chunk(cut[:-1]))
        await writer.drain()
        writer.close()
    await asyncio.sleep(0.2)
    assert await names(filesystem) == []
    assert (await ask(world, "GET", "e2b/sbx/health", allowed(filesystem.box))).code == 204


LIES = {
    "zeros": MIB,
    "almost boundaries": (b"\r\n--X" * 250_000)[: 1 << 20],
    "lines": b"\r\n" * (1 << 19),
    "hyphens": b"-" * (1 << 20),
    "the boundary without its line": (b"--XX--" * 200_000)[: 1 << 20],
}


@pytest.mark.parametrize("lie", LIES)
async def test_a_large_form_takes_no_memory_and_arrives_as_it_was_sent(world, filesystem, lie):
    async with watched(world):
        fields = allowed(filesystem.box, FORM, CHUNKED)
        reader, writer = await opened(world, "POST", "/e2b/sbx/files", fields)
        writer.write(chunk(part("large", b"")[:-2]))
        for _ in range(100):
            writer.write(chunk(LIES[lie]))
            await writer.drain()
        writer.write(chunk(b"\r\n" + END) + chunk(b""))
        assert (await received(reader, writer)).status == 200
    assert await filesystem.size("large") == 100 * len(LIES[lie])
    piece = (await ask(world, "GET", "e2b/sbx/files?path=large", allowed(filesystem.box))).body
    assert piece == LIES[lie] * 100


async def test_files_that_wait_for_the_rest_of_their_forms_are_so_many_of_an_owner(world, make, filesystem):
    fields = allowed(filesystem.box, FORM, CHUNKED)
    many = b"".join(part(f"{n:03}") for n in range(forms.MAX_PARTS))
    writers = []
    for _ in range(held.MAX_DRAFTS // forms.MAX_PARTS):
        _, writer = await opened(world, "POST", "/e2b/sbx/files", fields)
        writer.write(chunk(many))
        writers.append(writer)
    other = Filesystem(world, await make("alice"))  # whichever of their sandboxes
    await answered(other, 429)
    assert (await post(Filesystem(world, await make("bob")), GOOD + END)).code == 200
    for writer in writers:
        writer.close()
    await answered(other, 200)
    assert await names(filesystem) == []


async def test_a_form_that_nobody_may_send_is_not_read(world, filesystem):
    fields = {**allowed(filesystem.box, FORM), "X-Access-Token": "0" * 64, "Content-Length": str(100 << 20)}
    assert (await received(*await opened(world, "POST", "/e2b/sbx/files", fields))).status in (401, 413)
    assert (await as_person(world, "alice").get(f"sbx_{filesystem.box['sandboxID']}", "files")).body["entries"] == []
