"""Bytes from and to URLs that a client named, over connections to addresses that were judged.

A host's name is resolved once, all answers are judged by `guards.urls`, and the connection is made to one of exactly
these; proxies of the environment are not asked. A redirection is a URL like another, followed three times at most, and
never when something is sent. Every wait has a limit, and so has the whole. What the other end says is told in a few
words of ours, without path and query. HTTP itself is tornado's `http1connection`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import ipaddress
import secrets
import socket
import ssl
from typing import TYPE_CHECKING, Final
from urllib.parse import urljoin

from tornado import httputil
from tornado.http1connection import HTTP1Connection, HTTP1ConnectionParameters
from tornado.iostream import IOStream, SSLIOStream, StreamClosedError

from jupyter_sandbox.errors import TransferError, UrlRefusedError
from jupyter_sandbox.guards import urls

if TYPE_CHECKING:
    from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Mapping, Sequence

    from jupyter_sandbox.guards.urls import Address, Rules, Target

    Resolve = Callable[[str, int], Awaitable[Sequence[Address]]]

_MAX_REDIRECTIONS: Final = 3
_MAX_ADDRESSES: Final = 4
_CONNECT_S: Final = 10
_SILENCE_S: Final = 30
_MAX_HEADER_BYTES: Final = 32 * 1024
_MAX_DIGITS: Final = 18
_CHUNK: Final = 256 * 1024
_ENDLESS: Final = 1 << 62
_REDIRECTIONS: Final = frozenset({301, 302, 303, 307, 308})
_SENT: Final = frozenset({200, 201, 204})

_resolvers = concurrent.futures.ThreadPoolExecutor(64, "resolve")
"""A name server that never answers keeps a thread: none that files need, and there are as many as files can be on
their way, so that other names are looked up meanwhile, as long as their lookups end when the files give up."""


async def resolve(host: str, port: int) -> Sequence[Address]:
    """Return the addresses of a name, as the machine's own configuration says."""
    loop = asyncio.get_running_loop()
    try:
        found = await loop.run_in_executor(_resolvers, _getaddrinfo, host, port)
    except OSError as error:
        raise TransferError(f"the name {host} is not known") from error
    return [ipaddress.ip_address(sockaddr[0]) for *_, sockaddr in found]


def _getaddrinfo(host: str, port: int) -> list[tuple[int, int, int, str, tuple[str, int]]]:
    return socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)  # type: ignore[return-value]


class Transfers:
    """Fetches and sends by one set of rules."""

    def __init__(self, rules: Rules, *, lookup: Resolve = resolve, trust: ssl.SSLContext | None = None) -> None:
        """`trust`: what certificates must be; by default as the machine says."""
        self._rules = rules
        self._lookup = lookup
        self._trust = trust or ssl.create_default_context()

    @contextlib.asynccontextmanager
    async def fetching(self, url: str) -> AsyncIterator[tuple[int | None, AsyncIterator[bytes]]]:
        """GET a URL; yield the size that is announced, if it is, and what gives the bytes: all, or TransferError.

        Raises UrlRefusedError and TransferError.
        """
        target = urls.target(url, self._rules)
        for _ in range(_MAX_REDIRECTIONS + 1):
            async with self._asked(target, "GET", {}) as exchange:
                exchange.finish()
                code, headers = await exchange.head()
                if code in _REDIRECTIONS:
                    target = self._redirected(target, headers)
                    continue
                if code != 200:
                    raise TransferError(f"{target.origin} answered {code}")
                if "Content-Length" not in headers and "Transfer-Encoding" not in headers:
                    raise TransferError(f"{target.origin} does not say where its answer ends")
                announced = headers.get("Content-Length", "")
                if len(announced) > _MAX_DIGITS:
                    raise TransferError(f"{target.origin} announces more than there can be")
                yield int(announced) if announced.isdecimal() else None, exchange.body()
                return
        raise TransferError(f"{target.origin} redirects once more, which is too often")

    async def put(self, url: str, content: AsyncIterable[bytes], size: int) -> None:
        """PUT `size` bytes. Raises UrlRefusedError, TransferError, and what `content` raises."""
        headers = {"Content-Type": "application/octet-stream", "Content-Length": str(size)}
        await self._send(urls.target(url, self._rules), "PUT", headers, content)

    async def post(
        self, url: str, fields: Mapping[str, str], name: str, content: AsyncIterable[bytes], size: int
    ) -> None:
        """POST `size` bytes as the last part, `file`, of a form that begins with `fields`. Raises as `put` does."""
        target = urls.target(url, self._rules)
        boundary = secrets.token_hex(16)
        before, after = _form(boundary, fields, name)

        async def form() -> AsyncIterator[bytes]:
            yield before
            async for piece in content:
                yield piece
            yield after

        headers = {
            "Content-Type": f"multipart/form-data; boundary={boundary}",
            "Content-Length": str(len(before) + size + len(after)),
        }
        await self._send(target, "POST", headers, form())

    async def _send(
        self, target: Target, method: str, headers: Mapping[str, str], content: AsyncIterable[bytes]
    ) -> None:
        async with self._asked(target, method, headers) as exchange:
            async for piece in content:
                if exchange.is_answered or not await exchange.write(piece):
                    break
            else:
                exchange.finish()
            code, _ = await exchange.head()
            if code not in _SENT:
                raise TransferError(f"{target.origin} answered {code}")

    def _redirected(self, target: Target, headers: httputil.HTTPHeaders) -> Target:
        try:
            location = urljoin(f"{target.origin}{target.path}", headers.get("Location", ""))
        except ValueError as error:
            raise UrlRefusedError(f"{target.origin} redirects to what is no URL") from error
        new = urls.target(location, self._rules)
        if (target.scheme, new.scheme) == ("https", "http"):
            raise UrlRefusedError(f"{target.origin} redirects to a URL without TLS")
        return new

    @contextlib.asynccontextmanager
    async def _asked(self, target: Target, method: str, headers: Mapping[str, str]) -> AsyncIterator[_Exchange]:
        """Connect and send the head of a request; whatever happens, the connection is closed at the end."""
        exchange = _Exchange(await self._connected(target), target, method, headers)
        try:
            yield exchange
        finally:
            await exchange.close()

    async def _connected(self, target: Target) -> IOStream:
        if target.address is None:
            async with _patience(target, _CONNECT_S):
                found = await self._lookup(target.host, target.port)
            urls.addresses(target, found, self._rules)
        else:
            found = [target.address]
        reason: Exception | None = None
        for address in found[:_MAX_ADDRESSES]:
            if not self._rules.exempts(target) and _is_ours(address, target.port):
                raise UrlRefusedError(f"{target.origin}: the host is this machine; an operator can allow it by name")
            try:
                async with asyncio.timeout(_CONNECT_S):
                    return await self._reached(target, address)
            except (OSError, TimeoutError, StreamClosedError) as error:
                reason = error
        kind = "not trusted as that host" if isinstance(reason, ssl.SSLCertVerificationError) else "not reached"
        raise TransferError(f"{target.origin} is {kind}") from reason

    async def _reached(self, target: Target, address: Address) -> IOStream:
        family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
        plain = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        stream = SSLIOStream(plain, ssl_options=self._trust) if target.scheme == "https" else IOStream(plain)
        try:
            await stream.connect((str(address), target.port), server_hostname=target.host)
        except BaseException:
            stream.close()
            raise
        return stream


class _Answer(httputil.HTTPMessageDelegate):
    """What the other end says, as tornado reads it: a head, then one piece at a time, the next when that was taken."""

    def __init__(self, hang_up: Callable[[], None]) -> None:
        self._hang_up = hang_up
        self.head: asyncio.Future[tuple[int, httputil.HTTPHeaders]] = asyncio.get_running_loop().create_future()
        self.is_whole = False
        self._piece = b""
        self._taken: asyncio.Future[None] | None = None
        self._is_over = False
        self._news = asyncio.Event()

    async def piece(self) -> bytes:
        """Return the next piece, or nothing at the end."""
        if self._taken is not None and not self._taken.done():
            self._taken.set_result(None)
        while not self._piece and not self._is_over:
            await self._news.wait()
            self._news.clear()
        piece, self._piece = self._piece, b""
        return piece

    def end(self) -> None:
        """Nothing comes, or is wanted, any more."""
        self._is_over = True
        self._news.set()
        if self._taken is not None and not self._taken.done():
            self._taken.set_result(None)
        if not self.head.done():
            self.head.set_exception(StreamClosedError())
            self.head.exception()  # looked at: perhaps nobody asks

    def headers_received(
        self, start_line: httputil.RequestStartLine | httputil.ResponseStartLine, headers: httputil.HTTPHeaders
    ) -> None:
        """See HTTPMessageDelegate. Interim answers, for which we never ask, are none: some tornados nest for each."""
        if isinstance(start_line, httputil.ResponseStartLine) and start_line.code >= 200 and not self.head.done():
            self.head.set_result((start_line.code, headers))
        else:
            self._hang_up()

    def data_received(self, chunk: bytes) -> asyncio.Future[None] | None:
        """See HTTPMessageDelegate."""
        if self._is_over:
            return None
        self._piece = chunk
        self._taken = asyncio.get_running_loop().create_future()
        self._news.set()
        return self._taken

    def finish(self) -> None:
        """See HTTPMessageDelegate."""
        self.is_whole = True


class _Exchange:
    """One request and its answer."""

    def __init__(self, stream: IOStream, target: Target, method: str, headers: Mapping[str, str]) -> None:
        """Send the head of the request and begin to read the answer."""
        self._stream, self._target = stream, target
        parameters = HTTP1ConnectionParameters(
            no_keep_alive=True, chunk_size=_CHUNK, max_header_size=_MAX_HEADER_BYTES, max_body_size=_ENDLESS
        )
        self._connection = HTTP1Connection(stream, True, parameters)
        self._answer = _Answer(lambda: self._connection.detach().close())
        all_headers = httputil.HTTPHeaders(
            {"Host": target.netloc, "Accept-Encoding": "identity", "Connection": "close", **headers}
        )
        sent = self._connection.write_headers(httputil.RequestStartLine(method, target.path, ""), all_headers)
        sent.add_done_callback(lambda sent: sent.exception())  # the answer, or its absence, tells it
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        try:
            with contextlib.suppress(OSError, ValueError):  # what is no HTTP, or ends in the middle: never whole
                await self._connection.read_response(self._answer)
        finally:
            self._answer.end()

    @property
    def is_answered(self) -> bool:
        """Whether the other end has answered, or hung up, though more was to be sent."""
        return self._answer.head.done()

    async def write(self, piece: bytes) -> bool:
        """Send a piece of the body; return whether the other end took it."""
        async with _patience(self._target, _SILENCE_S):
            try:
                await self._connection.write(piece)
            except StreamClosedError:
                return False
        return True

    def finish(self) -> None:
        """Say that all was sent."""
        if not self.is_answered:
            self._connection.finish()

    async def head(self) -> tuple[int, httputil.HTTPHeaders]:
        """Return status and headers of the answer."""
        async with _patience(self._target, _SILENCE_S):
            try:
                return await asyncio.shield(self._answer.head)
            except StreamClosedError as error:
                raise TransferError(f"{self._target.origin} hung up, or what it answered is no HTTP") from error

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the answer's body; raises TransferError when it ends too early or pauses too long."""
        while True:
            async with _patience(self._target, _SILENCE_S):
                piece = await self._answer.piece()
            if not piece:
                break
            yield piece
        if not self._answer.is_whole:
            raise TransferError(f"{self._target.origin} broke off before the end of its answer")

    async def close(self) -> None:
        """End the connection and whoever reads from it."""
        self._answer.end()
        self._stream.close()
        await asyncio.wait([self._reading])


@contextlib.asynccontextmanager
async def _patience(target: Target, seconds: float) -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(seconds):
            yield
    except TimeoutError as error:
        raise TransferError(f"{target.origin} was silent for {seconds} s") from error


def _is_ours(address: Address, port: int) -> bool:
    """Whether an address, public as it may be, is one of this machine. Nothing is sent."""
    family = socket.AF_INET6 if address.version == 6 else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as probe:
        try:
            probe.connect((str(address), port))
        except OSError:
            return False
        return ipaddress.ip_address(probe.getsockname()[0]) == address


def _form(boundary: str, fields: Mapping[str, str], name: str) -> tuple[bytes, bytes]:
    """Return what comes before and after the file in a form. RFC 7578; storage services want the file last."""
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{_quoted(key)}"\r\n\r\n{value}\r\n'
        for key, value in fields.items()
    ]
    parts.append(
        f'--{boundary}\r\nContent-Disposition: form-data; name="file"; filename="{_quoted(name)}"\r\n'
        "Content-Type: application/octet-stream\r\n\r\n"
    )
    return "".join(parts).encode(), f"\r\n--{boundary}--\r\n".encode()


def _quoted(text: str) -> str:
    """Escape a name in a header of a form as browsers do."""
    return text.replace('"', "%22").replace("\r", "%0D").replace("\n", "%0A")
