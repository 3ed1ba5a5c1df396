"""The contexts of a server somewhere else, by its contexts API: one HTTP exchange in a thread for each call.

Tornado's client cannot give up a request that is under way, and giving up is how code is interrupted here: the server
hears that the connection ended.
"""

from __future__ import annotations

import asyncio
import base64
import concurrent.futures
import contextlib
import http.client
import json
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote, unquote, urlsplit

from jupyter_sandbox import errors
from jupyter_sandbox.errors import InvalidRequestError, SandboxError, TransferError, UnknownContextError
from jupyter_sandbox.surfaces.contexts.results import Image, Ran

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_sandbox.surfaces.contexts.models import NewRun
    from jupyter_sandbox.surfaces.mcp.backend import Model

MAX_ANSWER_BYTES: Final = 64 << 20
_MARGIN_S: Final = 30
"""How much longer than the code may run an answer is waited for; and how long for every other."""
_MAX_CALLS: Final = 64
_CONTEXTS: Final = "/api/v1/contexts"


@dataclass(frozen=True, kw_only=True)
class Address:
    """Where a server is, and what is brought there. `path` is its base URL's, without a slash at its end."""

    host: str
    port: int
    path: str
    is_encrypted: bool
    token: str | None = field(default=None, repr=False)

    @classmethod
    def of(cls, url: str, token: str | None) -> Address:
        """Judge a URL; its user's password is the token when there is no other. Raises InvalidRequestError."""
        try:
            parts = urlsplit(url)
            port = parts.port
        except ValueError:
            parts, port = urlsplit(""), None
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
            raise InvalidRequestError("the server's URL must be like http://127.0.0.1:8888 or https://host/path")
        is_encrypted = parts.scheme == "https"
        return cls(
            host=parts.hostname,
            port=port or (443 if is_encrypted else 80),
            path=parts.path.rstrip("/"),
            is_encrypted=is_encrypted,
            token=token or unquote(parts.password or "") or None,
        )

    def __str__(self) -> str:
        """For people."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.is_encrypted else 'http'}://{host}:{self.port}{self.path}"


class _Exchange:
    """One request and its answer. `run` blocks; `abandon` ends it from another thread."""

    def __init__(self, address: Address, timeout_s: float) -> None:
        kind = http.client.HTTPSConnection if address.is_encrypted else http.client.HTTPConnection
        self._connection = kind(address.host, address.port, timeout=timeout_s)
        self._is_abandoned = False

    def run(self, method: str, path: str, body: bytes | None, headers: dict[str, str]) -> tuple[int, bytes]:
        try:
            self._connection.connect()
            if self._is_abandoned:
                raise TimeoutError("nobody waits for it")
            self._connection.request(method, path, body, headers)
            response = self._connection.getresponse()
            return response.status, response.read(MAX_ANSWER_BYTES + 1)
        finally:
            self._connection.close()

    def abandon(self) -> None:
        self._is_abandoned = True
        connected: socket.socket | None = self._connection.sock
        if connected is not None:
            with contextlib.suppress(OSError):
                connected.shutdown(socket.SHUT_RDWR)


class Remote:
    """See Backend."""

    def __init__(self, address: Address) -> None:
        """Connect to nothing yet."""
        self.address = address
        self._threads = concurrent.futures.ThreadPoolExecutor(_MAX_CALLS, "contexts")

    async def check(self) -> None:
        """Raise SandboxError unless the server answers and takes the token."""
        await self._ask("GET", _CONTEXTS)

    async def create(self, name: str, language: str) -> Model:
        """See Backend."""
        return _context(await self._ask("POST", _CONTEXTS, {"session_name": name, "language": language}))

    async def all(self) -> list[Model]:
        """See Backend."""
        found = await self._ask("GET", _CONTEXTS)
        if not isinstance(found, list):
            raise _not_ours()
        return [_context(each) for each in found]

    async def run(self, context_id: str, wanted: NewRun, when_gone: Callable[[Callable[[], object]], None]) -> Ran:
        """See Backend."""
        path = f"{_CONTEXTS}/{quote(context_id, safe='')}/execute"
        body = {"code": wanted.code, "timeout": wanted.timeout}
        return _ran(await self._ask("POST", path, body, wanted.timeout + _MARGIN_S, when_gone))

    async def stop(self, context_id: str) -> None:
        """See Backend."""
        await self._ask("DELETE", f"{_CONTEXTS}/{quote(context_id, safe='')}")

    async def _ask(
        self,
        method: str,
        path: str,
        body: object = None,
        timeout_s: float = _MARGIN_S,
        when_gone: Callable[[Callable[[], object]], None] = lambda _: None,
    ) -> Any:
        headers = {"Accept": "application/json", "Content-Type": "application/json"}
        if self.address.token:
            password = base64.b64encode(f"token:{self.address.token}".encode()).decode()
            headers["Authorization"] = f"Basic {password}"
        data = None if body is None else json.dumps(body).encode()
        exchange = _Exchange(self.address, timeout_s)
        when_gone(exchange.abandon)
        asking = asyncio.get_running_loop().run_in_executor(
            self._threads, exchange.run, method, f"{self.address.path}{path}?full=true", data, headers
        )
        try:
            status, answer = await asking
        except (OSError, http.client.HTTPException) as error:
            raise TransferError(
                f"the Jupyter server at {self.address} does not answer ({str(error) or type(error).__name__}): is it "
                "running, and is SANDBOX_BASE_URL its address?"
            ) from error
        except asyncio.CancelledError:
            exchange.abandon()
            raise
        return _judged(status, answer)


def _judged(status: int, answer: bytes) -> Any:
    """Return what a server answered; raises the error that it told."""
    try:
        model = json.loads(answer) if len(answer) <= MAX_ANSWER_BYTES else None
    except (ValueError, RecursionError):
        model = None
    if status < 300:
        if model is None:
            raise _not_ours()
        return model
    told = model if isinstance(model, dict) else {}
    if told.get("code") == "CONTEXT_NOT_FOUND":
        raise UnknownContextError("the server knows no such context")
    if isinstance(told.get("code"), str) and isinstance(told.get("error"), str):
        raise errors.from_code(told["code"].lower(), told["error"], None)
    raise _not_ours(status)


def _not_ours(status: int | None = None) -> SandboxError:
    with_status = "" if status is None else f" (status {status})"
    return TransferError(
        f"what answers is no jupyter-sandbox{with_status}: SANDBOX_BASE_URL must be the address of a Jupyter server "
        "with that extension, with its base URL"
    )


def _context(model: object) -> Model:
    if not isinstance(model, dict) or not all(isinstance(value, str) for value in model.values()):
        raise _not_ours()
    return model


def _ran(model: object) -> Ran:
    try:
        output: Any = model["output"]  # type: ignore[index]
        return Ran(
            stdout=str(output["stdout"]),
            stderr=str(output["stderr"]),
            success=model["success"] is True,  # type: ignore[index]
            execution_time=float(model["execution_time"]),  # type: ignore[index]
            images=tuple(Image(mime_type=each["mime_type"], data=each["data"]) for each in model["images"]),  # type: ignore[index]
        )
    except (TypeError, KeyError, ValueError) as error:
        raise _not_ours() from error
