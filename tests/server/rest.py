"""A client of the REST surface: paths below /api/sandboxes, JSON in and out, nothing raised for a refusal."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Reply:
    """An answer. Every refusal must be a problem, and no answer may leak how we are made."""

    status: int
    body: Any
    headers: Any = field(repr=False, default=None)

    def __post_init__(self) -> None:
        if self.status >= 400:
            assert set(self.body) == {"code", "message", "hint"}, self.body
            assert all(isinstance(text, str) and text for text in self.body.values()), self.body
            assert "Traceback" not in json.dumps(self.body)

    @property
    def code(self) -> str:
        return self.body["code"]


class Rest:
    """Fetches as one user."""

    def __init__(self, fetch, server=None, headers: dict[str, str] | None = None) -> None:
        """`server`: the ServerApp, if it is in this process."""
        self._fetch, self._headers = fetch, headers or {}
        if server is not None:
            self.kernel_manager = server.kernel_manager
            (extension,) = server.extension_manager.extension_apps["jupyter_sandbox"]
            self.services = extension._services

    async def __call__(self, method, *parts, body=None, raw=None, params=None, headers=None) -> Reply:
        data = raw if raw is not None else None if body is None else json.dumps(body)
        response = await self._fetch(
            "api",
            "sandboxes",
            *parts,
            method=method,
            body=data,
            allow_nonstandard_methods=True,
            params=params or {},
            request_timeout=60,
            headers={**self._headers, **(headers or {})},
            raise_error=False,
        )
        text = response.body.decode()
        return Reply(response.code, json.loads(text) if text else None, response.headers)

    async def get(self, *parts, **how) -> Reply:
        return await self("GET", *parts, **how)

    async def post(self, *parts, **how) -> Reply:
        return await self("POST", *parts, **how)

    async def delete(self, *parts, **how) -> Reply:
        return await self("DELETE", *parts, **how)

    async def claimed(self, **body) -> dict[str, Any]:
        """A sandbox."""
        reply = await self.post(body=body)
        assert reply.status == 201, reply
        return reply.body

    async def context(self, sandbox_id: str | None = None, **body) -> Context:
        """A context, in a new sandbox unless it is named."""
        sandbox_id = sandbox_id or (await self.claimed())["id"]
        reply = await self.post(sandbox_id, "contexts", body=body)
        assert reply.status == 201, reply
        return Context(self, sandbox_id, reply.body["id"])


class Context:
    """A context and what can be done in it."""

    def __init__(self, rest: Rest, sandbox_id: str, context_id: str) -> None:
        self.rest, self.sandbox_id, self.id = rest, sandbox_id, context_id
        self.parts = (sandbox_id, "contexts", context_id)

    async def start(self, code: str, **body) -> Reply:
        return await self.rest.post(*self.parts, "executions", body={"code": code, **body})

    async def execute(self, code: str, **body) -> dict[str, Any]:
        """The execution of code, whatever its outcome."""
        reply = await self.start(code, **body)
        assert reply.status == 200, reply
        return reply.body

    async def printed(self, code: str, **body) -> str:
        """What code prints, which must not fail."""
        execution = await self.execute(code, **body)
        assert execution["outcome"] == "ok", execution
        return "".join(output["text"] for output in execution["outputs"] if output["output_type"] == "stream")
