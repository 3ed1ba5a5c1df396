"""Calls to E2B's protocols as bytes, whatever SDKs would send."""

from __future__ import annotations

import contextlib
import json
import struct

from tornado.httpclient import AsyncHTTPClient

UNARY = {"Content-Type": "application/json"}
STREAM = {"Content-Type": "application/connect+json"}


def envelope(value) -> bytes:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack(">BI", 0, len(data)) + data


async def ask(url, method, path, headers, body=None):
    return await AsyncHTTPClient().fetch(
        f"{url}{path}",
        method=method,
        headers=headers,
        body=body,
        allow_nonstandard_methods=True,
        follow_redirects=False,
        raise_error=False,
        request_timeout=60,
    )


def of(box, **headers):
    return {"E2b-Sandbox-Id": box["sandboxID"]} | headers


@contextlib.contextmanager
def making(url, loop):
    """Make sandboxes as somebody: `box = await make("alice")`; they end with this."""
    made = []

    async def make(key, **body):
        headers = {"X-API-Key": key} | UNARY
        response = await ask(url, "POST", "e2b/v2/sandboxes", headers, json.dumps({"templateID": "base"} | body))
        assert response.code == 201, response.body
        box = json.loads(response.body)
        made.append((key, box["sandboxID"]))
        return box

    yield make
    for key, sandbox in made:
        loop.run_until_complete(ask(url, "DELETE", f"e2b/sandboxes/{sandbox}", {"X-API-Key": key}))


def allowed(box, *more):
    """Header fields of who may do everything in a sandbox."""
    fields = of(box, **{"X-Access-Token": box["envdAccessToken"]})
    for each in more:
        fields |= each
    return fields
