"""URLs against the server that fetches from them and sends to them: foreign addresses, liars, and those who never end."""

from __future__ import annotations

import asyncio
import gzip
import ipaddress
import os
import shutil
import socket
import ssl
import subprocess
import threading
from types import SimpleNamespace

import pytest

from jupyter_sandbox import errors
from jupyter_sandbox.file_transfers import FileTransfers, Item
from jupyter_sandbox.files import Files
from jupyter_sandbox.host import transfer
from jupyter_sandbox.owners import EVERYBODY, Owner
from tests.attacks.far_ends import Names, endless, far_end, saying
from tests.conftest import eventually

pytestmark = pytest.mark.timeout(60)

BOX = "sbx_00000000000000000000"
SECRET = "X-Amz-Signature=s3cret"
OK = b"HTTP/1.1 200 OK\r\n"


@pytest.fixture
def disk(tmp_path):
    (tmp_path / "file").write_bytes(b"content " * 1000)
    return tmp_path


@pytest.fixture
def files(disk):
    async def open_disk(_sandbox: str) -> int:
        return os.open(disk, os.O_RDONLY | os.O_DIRECTORY)

    return Files(open_disk)


@pytest.fixture
def silence(monkeypatch):
    """Patience that is short enough for a test."""
    monkeypatch.setattr(transfer, "_SILENCE_S", 0.3)


def transfers(files, end=None, names=None, **traits):
    """Transfers for which `storage.test` at the port of `end` is allowed and is this machine."""
    answers = names or Names(storage_test=["127.0.0.1"])
    allowed = [f"storage.test:{end.port}"] if end else []
    return FileTransfers(files, lookup=answers, allowed_hosts=allowed, **traits)


def url(end, path="object", scheme="http"):
    return f"{scheme}://storage.test:{end.port}/{path}?{SECRET}"


async def outcome(work, *items):
    (found,) = await work(EVERYBODY, BOX, items)
    return found


async def refused(work, *items):
    """The error of the only item; whatever it is, it shows nothing of the query."""
    found = await outcome(work, *items)
    assert found.size_bytes is None
    assert "s3cret" not in f"{found.error} {found.error.__cause__} {found!r}"
    return found.error


async def test_a_file_is_brought_whole_and_a_directory_made_for_it(files, disk):
    data = os.urandom(3_000_000)
    async with far_end(saying(OK + f"Content-Length: {len(data)}\r\n\r\n".encode(), data)) as end:
        found = await outcome(transfers(files, end).upload, Item(path="new/file", url=url(end)))
    assert (found.size_bytes, found.error) == (len(data), None)
    assert (disk / "new/file").read_bytes() == data
    (head,) = end.heads
    assert head.startswith(f"GET /object?{SECRET} HTTP/1.1\r\n")
    assert f"\r\nHost: storage.test:{end.port}\r\n" in head
    assert "\r\nAccept-Encoding: identity\r\n" in head
    assert not {"authorization", "cookie", "range"} & {line.split(":")[0].lower() for line in head.splitlines()}


async def test_a_file_in_pieces_is_brought_whole(files, disk):
    pieces = saying(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"3\r\nabc\r\n", b"2\r\nde\r\n", b"0\r\n\r\n")
    async with far_end(pieces) as end:
        assert (await outcome(transfers(files, end).upload, Item(path="x", url=url(end)))).size_bytes == 5
    assert (disk / "x").read_bytes() == b"abcde"


BROKEN = {
    "hangs up at once": saying(),
    "no HTTP": saying(b"SSH-2.0-OpenSSH_9\r\n\r\n"),
    "endless head": endless(OK, b"X-Header: " + b"x" * 1000 + b"\r\n"),
    "only interim answers": endless(b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"),
    "an interim answer": saying(b"HTTP/1.1 100 Continue\r\n\r\n" + OK + b"Content-Length: 1\r\n\r\nx"),
    "an error": saying(b"HTTP/1.1 404 Not Found\r\nContent-Length: 6\r\n\r\ns3cret"),
    "a part": saying(b"HTTP/1.1 206 Partial Content\r\nContent-Length: 1\r\n\r\nx"),
    "nothing": saying(b"HTTP/1.1 204 No Content\r\n\r\n"),
    "no length": saying(OK + b"\r\n", b"abc"),
    "less than it said": saying(OK + b"Content-Length: 10\r\n\r\nabc"),
    "two lengths": saying(OK + b"Content-Length: 3\r\nContent-Length: 5\r\n\r\nabcde"),
    "a negative length": saying(OK + b"Content-Length: -1\r\n\r\nabc"),
    "a length that is none": saying(OK + b"Content-Length: 0x3\r\n\r\nabc"),
    "a length of too many digits": saying(OK + b"Content-Length: " + b"9" * 5000 + b"\r\n\r\nabc"),
    "length and pieces": saying(OK + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"),
    "pieces that break off": saying(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"),
    "a piece with a wrong size": saying(OK + b"Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n"),
    "a piece longer than it said": saying(OK + b"Transfer-Encoding: chunked\r\n\r\n2\r\nabc\r\n0\r\n\r\n"),
}


@pytest.mark.parametrize("what", BROKEN)
async def test_an_answer_that_is_not_whole_leaves_no_file(files, disk, what, caplog):
    async with far_end(BROKEN[what]) as end:
        error = await refused(transfers(files, end).upload, Item(path="x", url=url(end)))
    assert error.code == "transfer_failed"
    assert os.listdir(disk) == ["file"]
    assert "s3cret" not in caplog.text
    assert "Traceback" not in caplog.text


async def test_more_than_was_said_is_not_taken(files, disk):
    async with far_end(saying(OK + b"Content-Length: 3\r\n\r\nabcdef")) as end:
        assert (await outcome(transfers(files, end).upload, Item(path="x", url=url(end)))).size_bytes == 3
    assert (disk / "x").read_bytes() == b"abc"


async def test_nothing_is_unpacked(files, disk):
    bomb = gzip.compress(bytes(50_000_000))
    head = OK + f"Content-Encoding: gzip\r\nContent-Length: {len(bomb)}\r\n\r\n".encode()
    async with far_end(saying(head, bomb)) as end:
        assert (await outcome(transfers(files, end).upload, Item(path="x", url=url(end)))).size_bytes == len(bomb)


@pytest.mark.parametrize(
    "script",
    [
        endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + bytes(1 << 16) + b"\r\n"),
        endless(OK + b"Content-Length: 1000000000000\r\n\r\n", bytes(1 << 16)),
    ],
    ids=["pieces", "length"],
)
async def test_an_answer_without_end_is_ended_at_the_limit(files, disk, script):
    files.max_file_mib = 2
    async with far_end(script) as end:
        error = await refused(transfers(files, end).upload, Item(path="file", url=url(end)))
        assert error.code == "file_too_large"
        assert end.sent < 16 << 20, "the server does not read on"
    assert (disk / "file").read_bytes() == b"content " * 1000


async def test_the_files_of_a_batch_have_a_limit_together(files, disk):
    async with far_end(saying(OK + b"Content-Length: 600000\r\n\r\n", bytes(600_000))) as end:
        items = [Item(path=f"x{number}", url=url(end)) for number in range(3)]
        found = await transfers(files, end, max_batch_mib=1).upload(EVERYBODY, BOX, items)
    assert sorted(str(one.error and one.error.code) for one in found) == ["None", "file_too_large", "file_too_large"]
    assert len(os.listdir(disk)) == 2
    pieces = endless(OK + b"Transfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + bytes(1 << 16) + b"\r\n")
    async with far_end(pieces) as end:
        assert (await refused(transfers(files, end, max_batch_mib=1).upload, Item(path="x", url=url(end)))).code == (
            "file_too_large"
        )


@pytest.mark.parametrize(
    "script",
    [
        saying(1000),
        saying(OK, 1000),
        saying(OK + b"Content-Length: 10\r\n\r\nabc", 1000),
        saying(OK + b"Transfer-Encoding: chunked\r\n\r\n3\r\nab", 1000),
    ],
    ids=["no answer", "half a head", "half a body", "half a piece"],
)
async def test_who_falls_silent_is_given_up(files, disk, silence, script):
    async with far_end(script) as end:
        error = await refused(transfers(files, end).upload, Item(path="x", url=url(end)))
    assert error.code == "transfer_failed"
    assert "silent" in str(error)
    assert os.listdir(disk) == ["file"]


async def test_who_drips_is_given_up_at_the_deadline_and_others_come_through(files, disk):
    async def script(head):
        if "fast" in head:
            yield OK + b"Content-Length: 1\r\n\r\nx"
            return
        yield OK + b"Content-Length: 1000000\r\n\r\n"
        while True:
            yield b"x"
            yield 2

    async with far_end(script) as end:
        items = [Item(path=f"slow{number}", url=url(end)) for number in range(3)] + [
            Item(path="x", url=url(end, "fast"))
        ]
        *slow, fast = await transfers(files, end, timeout_s=1).upload(EVERYBODY, BOX, items)
    assert [one.error.code for one in slow] == ["transfer_failed"] * 3
    assert fast.size_bytes == 1
    assert sorted(os.listdir(disk)) == ["file", "x"]


# -- whose address it is


PUBLIC = "93.184.215.14"


@pytest.fixture
def connected(monkeypatch):
    """Where connections would go; they all end at a server of ours, whose port is to be set."""
    detour = SimpleNamespace(seen=[], port=0)
    connect = transfer.IOStream.connect

    def diverted(stream, address, *arguments, **keywords):
        detour.seen.append(address)
        return connect(stream, ("127.0.0.1", detour.port), *arguments, **keywords)

    monkeypatch.setattr(transfer.IOStream, "connect", diverted)
    return detour


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "169.254.169.254", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "0x7f.1", "127.1"]
)
async def test_an_address_that_is_not_public_is_never_connected(files, connected, host):
    for work in (transfers(files).upload, transfers(files).export):
        assert (await refused(work, Item(path="file", url=f"http://{host}/?{SECRET}"))).code == "url_refused"
    assert connected.seen == []


@pytest.mark.parametrize(
    "answers",
    [
        "127.0.0.1",
        "10.0.0.1",
        f"{PUBLIC} 127.0.0.1",
        f"169.254.169.254 {PUBLIC}",
        f"{PUBLIC} ::1",
        f"{PUBLIC} ::ffff:10.0.0.1",
        *(f"{PUBLIC} 64:ff9b::7f00:1", f"{PUBLIC} 2002:7f00:1::", "fd00:ec2::254", "100.100.100.200", ""),
    ],
)
async def test_a_name_with_one_address_that_is_not_public_is_never_connected(files, connected, answers):
    names = Names(evil_test=[answers])
    for work in (transfers(files, names=names).upload, transfers(files, names=names).export):
        assert (await refused(work, Item(path="file", url=f"http://evil.test/?{SECRET}"))).code == "url_refused"
    assert connected.seen == []


async def test_a_name_that_changes_its_address_is_asked_once_and_connected_as_judged(files, disk, connected):
    names = Names(rebinding_test=[PUBLIC, "127.0.0.1"])
    async with far_end(saying(OK + b"Content-Length: 1\r\n\r\nx")) as end:
        connected.port = end.port
        found = await outcome(transfers(files, names=names).upload, Item(path="x", url="http://rebinding.test/"))
        assert found.size_bytes == 1
        assert (names.asked, connected.seen) == (["rebinding.test"], [(PUBLIC, 80)])
        error = await refused(transfers(files, names=names).upload, Item(path="x", url="http://rebinding.test/"))
        assert error.code == "url_refused"
        assert connected.seen == [(PUBLIC, 80)]
    assert "\r\nHost: rebinding.test\r\n" in end.heads[0]


@pytest.mark.parametrize(
    "location",
    [
        "http://169.254.169.254/latest/meta-data/",
        "http://127.0.0.1:22/",
        "http://[::1]/",
        "//10.0.0.1/",
        "http://2130706433/",
        "http://inside.test/",
        "http://user:pass@example.test/",
        "file:///etc/passwd",
        "gopher://127.0.0.1/",
        "ftp://example.test/",
        "http://example.test:22/",
        "http://[",
        "",
    ],
)
async def test_a_redirection_is_judged_like_any_url(files, disk, connected, location):
    names = Names(public_test=[PUBLIC], inside_test=["192.168.1.1"], example_test=[PUBLIC])
    async with far_end(
        saying(f"HTTP/1.1 302 Found\r\nLocation: {location}\r\nContent-Length: 0\r\n\r\n".encode())
    ) as end:
        connected.port = end.port
        error = await refused(transfers(files, names=names).upload, Item(path="x", url=f"http://public.test/?{SECRET}"))
    assert error.code == ("url_refused" if location else "transfer_failed")
    assert {address for address, _ in connected.seen} == {PUBLIC}
    assert os.listdir(disk) == ["file"]


async def test_redirections_are_followed_three_times(files, disk, connected):
    async def script(head):
        number = int(head.split()[1].strip("/") or 0)
        if number == 3:
            yield OK + b"Content-Length: 1\r\n\r\nx"
        else:
            yield f"HTTP/1.1 307 Temporary Redirect\r\nLocation: /{number + 1}\r\nContent-Length: 0\r\n\r\n".encode()

    async with far_end(script) as end:
        connected.port = end.port
        work = transfers(files, names=Names(public_test=[PUBLIC])).upload
        assert (await outcome(work, Item(path="x", url="http://public.test/"))).size_bytes == 1
        assert (await refused(work, Item(path="y", url="http://public.test/-1"))).code == "transfer_failed"


async def test_what_is_sent_is_not_redirected(files, connected):
    async with far_end(saying(b"HTTP/1.1 307 Temporary Redirect\r\nLocation: http://public.test/\r\n\r\n")) as end:
        connected.port = end.port
        work = transfers(files, names=Names(public_test=[PUBLIC])).export
        error = await refused(work, Item(path="file", url=f"http://public.test/?{SECRET}"))
    assert "answered 307" in str(error)
    assert len(end.heads) == 1


async def test_an_allowed_name_is_allowed_at_its_port_only(files, connected):
    async with far_end(saying(OK)) as end:
        connected.port = end.port
        work = transfers(files, end).export
        for other in ("http://storage.test/", f"http://storage.test:{end.port + 1}/", f"http://127.0.0.1:{end.port}/"):
            assert (await refused(work, Item(path="file", url=other))).code == "url_refused"
    assert connected.seen == []


async def test_this_machines_own_addresses_are_refused_though_they_look_public(files, connected, monkeypatch):
    monkeypatch.setattr(transfer.urls, "is_public", lambda _address: True)
    for address in ("127.0.0.1", "::1"):
        work = transfers(files, names=Names(own_test=[address])).upload
        assert "this machine" in str(await refused(work, Item(path="x", url="http://own.test/")))
    assert connected.seen == []
    assert not transfer._is_ours(ipaddress.ip_address("192.0.2.1"), 80)


async def test_no_proxy_of_the_environment_is_asked(files, monkeypatch):
    async with far_end(saying(OK)) as proxy, far_end(saying(OK + b"Content-Length: 0\r\n\r\n")) as end:
        for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.port}")
        assert (await outcome(transfers(files, end).upload, Item(path="x", url=url(end)))).size_bytes == 0
    assert proxy.heads == []


async def test_a_name_server_that_never_answers_keeps_nobody_from_files(files, disk, monkeypatch):
    release = threading.Event()
    monkeypatch.setattr(transfer, "_getaddrinfo", lambda _host, _port: release.wait(30) and [])
    monkeypatch.setattr(transfer, "_CONNECT_S", 0.3)
    work = FileTransfers(files).upload
    try:
        batch = asyncio.create_task(
            work(EVERYBODY, BOX, [Item(path=f"x{number}", url="http://slow.test/") for number in range(20)])
        )
        for _ in range(10):
            assert (await files.stat(BOX, "file")).size_bytes == 8000
        found = await batch
    finally:
        release.set()
    assert {one.error.code for one in found} == {"transfer_failed"}


async def test_an_owner_whose_names_nobody_answers_for_leaves_batches_and_lookups_to_others(files, monkeypatch):
    alice, bob, release = Owner("user alice"), Owner("user bob"), threading.Event()

    def lookup(host, _port):
        if host == "slow.test":
            release.wait(30)
        raise socket.gaierror(socket.EAI_NONAME, "no such name")

    monkeypatch.setattr(transfer, "_getaddrinfo", lookup)
    work = FileTransfers(files).upload
    slow = [Item(path=f"x{number}", url="http://slow.test/") for number in range(4)]
    batches = [asyncio.create_task(work(alice, BOX, slow)) for _ in range(8)]
    try:
        await asyncio.sleep(0)
        with pytest.raises(errors.QuotaError) as caught:
            await work(alice, BOX, slow)
        assert caught.value.retry_after_s == 10
        async with asyncio.timeout(5):
            (found,) = await work(bob, BOX, [Item(path="x", url="http://unknown.test/")])
        assert str(found.error) == "the name unknown.test is not known"
    finally:
        release.set()
        await asyncio.wait(batches)


async def test_a_name_that_does_not_exist_is_told(files):
    error = await refused(FileTransfers(files).upload, Item(path="x", url="http://name.invalid/"))
    assert (error.code, str(error)) == ("transfer_failed", "the name name.invalid is not known")


# -- what is sent


async def test_a_file_is_put_with_its_length(files):
    async with far_end(saying(OK + b"Content-Length: 0\r\n\r\n")) as end:
        assert (await outcome(transfers(files, end).export, Item(path="file", url=url(end)))).size_bytes == 8000
    assert end.heads[0].startswith(f"PUT /object?{SECRET} HTTP/1.1\r\n")
    assert "\r\nContent-Length: 8000\r\n" in end.heads[0]
    assert end.bodies == [b"content " * 1000]


async def test_a_form_has_its_fields_first_the_file_last_and_no_header_of_the_clients(files, disk):
    os.rename(disk / "file", disk / 'a"b')
    fields = {"key": "up/x", "policy": "a\r\nb", 'evil"\r\nX: y': "1"}
    async with far_end(saying(b"HTTP/1.1 204 No Content\r\n\r\n")) as end:
        item = Item(path='a"b', url=url(end), fields=fields)
        assert (await outcome(transfers(files, end).export, item)).size_bytes == 8000
    boundary = end.heads[0].partition("boundary=")[2].split("\r\n")[0].encode()
    parts = end.bodies[0].split(b"--" + boundary)
    assert len(parts) == 6
    assert parts[1] == b'\r\nContent-Disposition: form-data; name="key"\r\n\r\nup/x\r\n'
    assert parts[3].startswith(b'\r\nContent-Disposition: form-data; name="evil%22%0D%0AX: y"\r\n\r\n1')
    assert b'name="file"; filename="a%22b"\r\n' in parts[4]
    assert parts[4].endswith(b"\r\n\r\n" + b"content " * 1000 + b"\r\n")
    assert parts[5] == b"--\r\n"


@pytest.mark.parametrize("fields", [{"a": "x" * 40_000}, {str(n): "" for n in range(65)}, {"a": "\ud800"}])
async def test_a_form_that_is_too_large_or_no_text_is_refused(files, fields):
    async with far_end(saying(OK)) as end:
        error = await refused(transfers(files, end).export, Item(path="file", url=url(end), fields=fields))
    assert error.code == "invalid_request"
    assert end.bodies == []


@pytest.mark.parametrize("code", [400, 403, 411, 413, 500, 503])
async def test_an_answer_before_the_end_of_the_body_is_told(files, disk, code):
    (disk / "file").write_bytes(bytes(50 << 20))
    script = saying(f"HTTP/1.1 {code} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode(), 20)
    async with far_end(script, reads_body=False) as end:
        error = await refused(transfers(files, end).export, Item(path="file", url=url(end)))
    assert str(error) == f"http://storage.test:{end.port} answered {code}"


async def test_who_does_not_read_is_given_up(files, disk, silence):
    (disk / "file").write_bytes(bytes(50 << 20))
    async with far_end(saying(1000), reads_body=False) as end:
        assert "silent" in str(await refused(transfers(files, end).export, Item(path="file", url=url(end))))


async def test_a_file_that_shrinks_is_not_sent_as_a_whole_one(files, disk):
    (disk / "file").write_bytes(bytes(20 << 20))
    async with far_end(saying(OK + b"Content-Length: 0\r\n\r\n")) as end:
        real = files.reading

        def shrinking(*arguments, **keywords):
            reading = real(*arguments, **keywords)
            enter = reading.__aenter__

            async def entered():
                found = await enter()
                os.truncate(disk / "file", 5 << 20)
                return found

            reading.__aenter__ = entered
            return _Entered(entered, reading.__aexit__)

        files.reading = shrinking
        error = await refused(transfers(files, end).export, Item(path="file", url=url(end)))
        await eventually(lambda: end.bodies)
    assert error.code == "file_changed"
    assert len(end.bodies[0]) < 20 << 20, "its server sees that the body is not whole"


class _Entered:
    def __init__(self, enter, leave):
        self._enter, self._leave = enter, leave

    async def __aenter__(self):
        return await self._enter()

    async def __aexit__(self, *error):
        return await self._leave(*error)


@pytest.mark.parametrize("make", [lambda path: os.symlink("/etc/passwd", path), os.mkfifo, os.mkdir])
async def test_what_is_no_file_is_not_sent_and_nobody_is_asked(files, disk, make):
    make(disk / "odd")
    async with far_end(saying(OK)) as end:
        error = await refused(transfers(files, end).export, Item(path="odd", url=url(end)))
    assert error.code in ("file_refused", "file_conflict")
    assert end.heads == []


# -- TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.skip("openssl is not installed")
    directory = tmp_path_factory.mktemp("tls")
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=storage.test"
    command += f" -addext subjectAltName=DNS:storage.test -keyout {directory}/key -out {directory}/certificate"
    subprocess.run(command.split(), check=True, capture_output=True)
    return directory


@pytest.fixture
def trusts(certificate):
    """Of a server with the certificate, and of a client that trusts it."""
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(certificate / "certificate", certificate / "key")
    return server, ssl.create_default_context(cafile=str(certificate / "certificate"))


async def test_tls_is_spoken_with_the_name_not_the_address(files, trusts, connected):
    server, client = trusts
    async with far_end(saying(OK + b"Content-Length: 1\r\n\r\nx"), trust=server) as end:
        connected.port = end.port
        names = Names(storage_test=[PUBLIC], other_test=[PUBLIC])
        work = FileTransfers(files, lookup=names, trust=client).upload
        assert (await outcome(work, Item(path="x", url="https://storage.test/"))).size_bytes == 1
        error = await refused(work, Item(path="y", url=f"https://other.test/?{SECRET}"))
        assert "not trusted" in str(error)
        distrusting = FileTransfers(files, lookup=names).upload
        assert "not trusted" in str(await refused(distrusting, Item(path="y", url="https://storage.test/")))
    assert connected.seen[0] == (PUBLIC, 443)


async def test_tls_is_not_given_up_by_a_redirection(files, trusts, connected):
    server, client = trusts
    answer = b"HTTP/1.1 302 Found\r\nLocation: http://storage.test/\r\nContent-Length: 0\r\n\r\n"
    async with far_end(saying(answer), trust=server) as end:
        connected.port = end.port
        work = FileTransfers(files, lookup=Names(storage_test=[PUBLIC]), trust=client).upload
        assert (await refused(work, Item(path="x", url="https://storage.test/"))).code == "url_refused"
    assert len(connected.seen) == 1


# -- batches


async def test_each_file_of_a_batch_has_its_own_result_in_order(files, disk):
    async def script(head):
        if "good" in head:
            yield OK + b"Content-Length: 1\r\n\r\nx"
        else:
            yield b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"

    async with far_end(script) as end:
        items = [
            Item(path="a", url=url(end, "good")),
            Item(path="../b", url=url(end, "good")),
            Item(path="c", url=url(end, "bad")),
            Item(path="d", url="http://127.0.0.1/"),
            Item(path="file/e", url=url(end, "good")),
            Item(path="f", url=url(end, "good")),
        ]
        found = await transfers(files, end).upload(EVERYBODY, BOX, items)
    assert [one.path for one in found] == [item.path for item in items]
    codes = [one.error and one.error.code for one in found]
    assert codes == [None, "invalid_request", "transfer_failed", "url_refused", "file_conflict", None]
    assert sorted(os.listdir(disk)) == ["a", "f", "file"]


async def test_a_hundred_files_go_at_once_and_no_more(files, disk):
    async with far_end(saying(OK + b"Content-Length: 1\r\n\r\nx")) as end:
        items = [Item(path=f"x{number}", url=url(end)) for number in range(100)]
        found = await transfers(files, end).upload(EVERYBODY, BOX, items)
        assert [one.size_bytes for one in found] == [1] * 100
        for wrong in ([], [*items, items[0]]):
            with pytest.raises(errors.InvalidRequestError):
                await transfers(files, end).upload(EVERYBODY, BOX, wrong)


async def test_too_many_batches_are_refused_with_a_time_and_a_cancelled_one_leaves_nothing(files, disk):
    async with far_end(saying(1000)) as end:
        service = transfers(files, end)
        batches = [
            asyncio.create_task(service.upload(EVERYBODY, BOX, [Item(path="x", url=url(end))])) for _ in range(16)
        ]
        await eventually(lambda: len(end.heads) == 16)
        with pytest.raises(errors.CapacityError) as caught:
            await service.upload(EVERYBODY, BOX, [Item(path="x", url=url(end))])
        assert caught.value.retry_after_s == 10
        for batch in batches:
            batch.cancel()
        await asyncio.wait(batches)
        assert all(batch.cancelled() for batch in batches)
    assert os.listdir(disk) == ["file"]


@pytest.mark.parametrize(
    "traits", [{"ports": [0]}, {"ports": [70000]}, {"allowed_hosts": ["*"]}, {"allowed_hosts": ["x:y"]}]
)
def test_settings_that_mean_nothing_are_refused(files, traits):
    from traitlets import TraitError

    with pytest.raises(TraitError):
        FileTransfers(files, **traits)
