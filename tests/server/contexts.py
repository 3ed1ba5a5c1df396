"""A client of the contexts API."""

from __future__ import annotations

import json


class ContextsApi:
    """Fetches as one user; nothing is raised for a refusal."""

    def __init__(self, fetch, headers: dict[str, str] | None = None) -> None:
        self._fetch, self._headers = fetch, headers or {}

    async def response(self, method, *path, body=None, raw=None, headers=None, params=None):
        return await self._fetch(
            *("api", "v1", "contexts", *path),
            method=method,
            body=raw if raw is not None else None if body is None else json.dumps(body),
            params=params or {},
            headers=self._headers | (headers or {}),
            allow_nonstandard_methods=True,
            raise_error=False,
            request_timeout=60,
        )

    async def __call__(self, method, *path, **how):
        """Status and answer. Every refusal must be of the API's form."""
        response = await self.response(method, *path, **how)
        model = json.loads(response.body)
        if response.code >= 400:
            assert set(model) == {"error", "code"}, model
            assert model["code"].isupper()
        return response.code, model

    async def created(self, **body) -> str:
        """The id of a new context."""
        status, model = await self("POST", body=body)
        assert status == 200, model
        return model["context_id"]

    async def ran(self, context_id, code, *, full=False, **body):
        """What became of code."""
        params = {"full": "true"} if full else {}
        status, model = await self("POST", context_id, "execute", body={"code": code, **body}, params=params)
        assert status == 200, model
        return model

    async def printed(self, context_id, code, **body) -> str:
        """What code prints, which must not fail."""
        model = await self.ran(context_id, code, **body)
        assert model["success"], model
        return model["output"]["stdout"]
