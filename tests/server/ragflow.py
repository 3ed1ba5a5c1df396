"""A client of RAGFlow's executor: programs in, outcomes out. It speaks as RAGFlow's own providers do."""

from __future__ import annotations

import base64
import json

FIELDS = {
    *("status", "stdout", "stderr", "exit_code", "detail", "time_used_ms", "memory_used_kb", "resource_limit_type"),
    *("unauthorized_access_type", "runtime_error_type", "artifacts", "result"),
}


def body_of(code: str, language: str = "python", /, **arguments) -> dict:
    """What RAGFlow sends."""
    return {"code_b64": base64.b64encode(code.encode()).decode(), "language": language, "arguments": arguments}


def basic(password: str) -> dict[str, str]:
    """The header that a URL with a user and a password becomes."""
    return {"Authorization": "Basic " + base64.b64encode(f"ragflow:{password}".encode()).decode()}


class Ragflow:
    """Fetches as one client."""

    def __init__(self, fetch, headers: dict[str, str] | None = None) -> None:
        self._fetch, self.headers = fetch, headers or {}

    async def ask(self, method: str, path: str, raw: bytes | None = None) -> tuple[int, dict, dict]:
        """Status, body and headers."""
        reply = await self._fetch(
            *("ragflow", path),
            method=method,
            body=raw,
            headers=dict(self.headers),
            params={},
            raise_error=False,
            request_timeout=50,
            allow_nonstandard_methods=True,
        )
        assert reply.headers["Content-Type"] == "application/json"
        assert "Traceback" not in reply.body.decode() or reply.code == 200
        return reply.code, json.loads(reply.body), reply.headers

    async def post(self, body: object) -> tuple[int, dict, dict]:
        """The answer to any body."""
        return await self.ask("POST", "run", body if isinstance(body, bytes) else json.dumps(body).encode())

    async def run(self, code: str, language: str = "python", /, **arguments) -> dict:
        """The outcome of a program."""
        status, outcome, _ = await self.post(body_of(code, language, **arguments))
        assert (status, set(outcome)) == (200, FIELDS), outcome
        return outcome

    async def value(self, code: str, language: str = "python", /, **arguments) -> object:
        """What `main` returned, which must not fail."""
        outcome = await self.run(code, language, **arguments)
        assert (outcome["status"], outcome["exit_code"]) == ("success", 0), outcome
        assert (outcome["result"]["present"], outcome["result"]["type"]) == (True, "json")
        return outcome["result"]["value"]


def contents(outcome: dict) -> dict[str, bytes]:
    """The artifacts of an outcome by name."""
    found = {each["name"]: base64.b64decode(each["content_b64"]) for each in outcome["artifacts"]}
    assert [each["size"] for each in outcome["artifacts"]] == [len(content) for content in found.values()]
    return found
