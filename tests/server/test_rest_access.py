"""Who may use REST: Jupyter's token, cookie, XSRF token and authorizer decide, as for Jupyter's own API."""

from __future__ import annotations

import asyncio
import json
import re
from http import HTTPStatus

import pytest
from jupyter_server.auth import Authorizer
from traitlets.config import Config

from jupyter_sandbox import web
from tests.conftest import eventually
from tests.server import raw_http
from tests.server.rest import Rest

ASKED: list[tuple[str, str]] = []


class Recording(Authorizer):
    """Allows everything but to execute in kernels."""

    def is_authorized(self, handler, user, action, resource):
        ASKED.append((resource, action))
        return (resource, action) != ("kernels", "execute")


@pytest.fixture
def jp_server_config(jp_server_config, request):
    if "authorizer" in request.fixturenames:
        jp_server_config.merge(Config({"ServerApp": {"authorizer_class": Recording}}))
    return jp_server_config


@pytest.fixture
def authorizer():
    ASKED.clear()
    return ASKED


async def test_the_authorizer_is_asked_as_for_jupyters_own_kernels(authorizer, rest):
    context = await rest.context()
    reply = await context.start("print(1)")
    assert (reply.status, reply.code) == (403, "forbidden")
    await rest.get(*context.parts)
    await rest.delete(context.sandbox_id)
    assert authorizer == [
        *(
            ("sandboxes", "write"),
            ("kernels", "write"),
            ("kernels", "execute"),
            ("kernels", "read"),
            ("sandboxes", "write"),
        )
    ]


async def test_a_cookie_alone_changes_nothing(rest, jp_serverapp, http_server_client, jp_base_url):
    """A page of another site can make a browser send the cookie, but not the XSRF token that lies in another one."""

    async def fetch(*parts, headers, params, **how):
        return await http_server_client.fetch(f"{jp_base_url}{'/'.join(parts)}", headers=headers, **how)

    reply = await rest.get("openapi.json")
    cookies = [cookie.split(";")[0] for cookie in reply.headers.get_list("Set-Cookie")]
    browser = Rest(fetch, headers={"Cookie": "; ".join(cookies)})
    assert (await browser.get(headers={"Referer": f"http://{jp_serverapp.ip}/"})).status in {200, 403}
    for reply in (await browser.post(body={}), await browser.delete(f"sbx_{'0' * 20}")):
        assert (reply.status, reply.code) == (403, "forbidden")
    assert (await rest.get()).body["sandboxes"] == []


async def test_the_document_is_served_with_the_servers_own_bounds(rest):
    document = (await rest.get("openapi.json")).body
    assert document["openapi"].startswith("3.1")
    assert document["servers"] == [{"url": "/a%40b"}]
    assert document["components"]["schemas"]["Claim"]["properties"]["timeout_s"]["maximum"] == 86_400
    assert json.dumps(document).count("operationId") > 17


async def test_a_server_that_takes_no_tokens_issues_none(rest):
    box = (await rest.claimed())["id"]
    for reply in (await rest.post(box, "tokens", body={}), await rest.get(box, "tokens")):
        assert (reply.status, reply.code) == (403, "forbidden")
    await rest.delete(box)


HEADS = {
    "a path that is no text": (
        "PUT",
        "api/sandboxes/sbx_00000000000000000000/files/caf%e9",
        {},
        HTTPStatus.BAD_REQUEST,
    ),
    "an owner that is unknown": ("POST", "api/sandboxes", {"Authorization": "token nobody"}, HTTPStatus.FORBIDDEN),
}


@pytest.mark.parametrize(("method", "path", "headers", "status"), HEADS.values(), ids=HEADS)
async def test_who_is_refused_by_the_head_of_a_request_can_send_its_small_body_and_read_why(
    rest, jp_serverapp, jp_base_url, method, path, headers, status
):
    given = {"Content-Length": "2", "Authorization": f"token {jp_serverapp.identity_provider.token}", **headers}
    url = f"http://127.0.0.1:{jp_serverapp.port}"
    reader, writer = await raw_http.opened(url, method, f"{jp_base_url}{path}", given, token=None)
    for part in (b"{", b"}"):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.2):
                await reader.read(1)  # who is answered here is hung up on, and sends to nobody
        writer.write(part)
    answer = await raw_http.received(reader, writer)
    assert (answer.status, answer.headers["connection"]) == (status, "close")
    assert answer.code


async def test_who_is_refused_and_sends_no_body_is_answered_all_the_same(rest, jp_serverapp, jp_base_url, monkeypatch):
    monkeypatch.setattr(web, "REST_PATIENCE_S", 0.1)
    url, headers = f"http://127.0.0.1:{jp_serverapp.port}", {"Content-Length": "1"}
    answer = await raw_http.received(
        *await raw_http.opened(url, "POST", f"{jp_base_url}api/sandboxes", headers, "nobody")
    )
    assert answer.status == HTTPStatus.FORBIDDEN


async def test_who_is_refused_and_hangs_up_is_done_with_at_once(rest, jp_serverapp, jp_base_url, caplog, monkeypatch):
    monkeypatch.setattr(web, "REST_PATIENCE_S", 600)
    url, headers = f"http://127.0.0.1:{jp_serverapp.port}", {"Content-Length": "1"}
    reader, writer = await raw_http.opened(url, "POST", f"{jp_base_url}api/sandboxes", headers, "nobody")
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.2):
            await reader.read(1)
    writer.transport.abort()
    await eventually(lambda: any(re.search("403 POST .*ms", record.getMessage()) for record in caplog.records))
    assert (await rest.get()).status == HTTPStatus.OK
    assert [record for record in caplog.records if record.exc_info] == []
