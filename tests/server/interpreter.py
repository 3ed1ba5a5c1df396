"""A client of the code interpreter's API."""

from __future__ import annotations

import json
import uuid


class Interpreter:
    """A client: it knows a token and a user, and nothing else."""

    def __init__(self, fetch, token: str) -> None:
        self._fetch, self.token, self.user = fetch, token, str(uuid.uuid4())

    async def __call__(self, method, *path, body=None, raw=None, user=..., headers=None, timeout=60):
        params = {} if user is None else {"user_uuid": self.user if user is ... else user}
        return await self._fetch(
            *("api", "v1", *path),
            method=method,
            body=raw if raw is not None else None if body is None else json.dumps(body),
            params=params,
            headers={"X-Auth-Token": self.token, "Authorization": ""} | (headers or {}),
            allow_nonstandard_methods=True,
            raise_error=False,
            request_timeout=timeout,
        )

    async def execute(self, code, **how):
        response = await self("POST", "execute", body={"code": code}, **how)
        assert response.code == 200, response.body
        return json.loads(response.body)

    async def detail(self, *request, **how):
        """The status and the words of a refusal."""
        response = await self(*request, **how)
        body = json.loads(response.body)
        assert set(body) == {"detail"}, body
        return response.code, body["detail"]
