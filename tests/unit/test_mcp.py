"""Visits of MCP clients, addresses of servers, answers of servers: pure."""

from __future__ import annotations

import json

import pytest

from jupyter_sandbox import errors
from jupyter_sandbox.errors import InvalidRequestError, TransferError, UnknownRouteError
from jupyter_sandbox.owners import Owner
from jupyter_sandbox.surfaces.mcp import remote
from jupyter_sandbox.surfaces.mcp.handlers import judge_message
from jupyter_sandbox.surfaces.mcp.remote import Address
from jupyter_sandbox.surfaces.mcp.visits import MAX_VISITS, Visits

pytestmark = pytest.mark.unit

ALICE, BOB = Owner("user alice"), Owner("user bob")


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_visit_is_its_owners(clock):
    known = Visits(10, clock)
    assert known.begin(ALICE, "one") is None
    known.use(ALICE, "one")
    for owner, visit_id in ((BOB, "one"), (ALICE, "two"), (BOB, "")):
        with pytest.raises(UnknownRouteError):
            known.use(owner, visit_id)
    known.end("one")
    known.end("one")
    with pytest.raises(UnknownRouteError):
        known.use(ALICE, "one")


def test_a_visit_ends_when_it_is_not_used(clock):
    known = Visits(10, clock)
    known.begin(ALICE, "one")
    clock.now = 9
    known.use(ALICE, "one")
    clock.now = 18
    known.use(ALICE, "one")
    clock.now = 29
    with pytest.raises(UnknownRouteError):
        known.use(ALICE, "one")


def test_of_too_many_the_one_that_was_not_used_for_the_longest_time_ends(clock):
    known = Visits(10, clock)
    known.begin(BOB, "bob")
    for number in range(MAX_VISITS):
        assert known.begin(ALICE, f"{number}") is None
    known.use(ALICE, "0")
    assert known.begin(ALICE, "more") == "1"
    known.use(BOB, "bob")
    known.use(ALICE, "0")
    with pytest.raises(UnknownRouteError):
        known.use(ALICE, "1")


@pytest.mark.parametrize(
    ("url", "shown", "token"),
    [
        ("http://127.0.0.1:8888", "http://127.0.0.1:8888", None),
        ("http://localhost/", "http://localhost:80", None),
        ("https://box/user/alice/", "https://box:443/user/alice", None),
        ("http://[::1]:8888/base", "http://[::1]:8888/base", None),
        ("http://any:pass%2Fword@box:1", "http://box:1", "pass/word"),
    ],
)
def test_an_address_is_a_url_with_its_path(url, shown, token):
    address = Address.of(url, None)
    assert (str(address), address.token) == (shown, token)
    assert "pass/word" not in repr(address)
    assert Address.of(url, "given").token == "given"


@pytest.mark.parametrize(
    "url", ["", "box:8888", "ftp://box", "http://", "http://box:x", "http://box/?a=b", "http://[::1"]
)
def test_what_is_no_address_is_refused(url):
    with pytest.raises(InvalidRequestError):
        Address.of(url, None)


def test_errors_of_a_server_come_back_as_they_were():
    def told(status, model):
        return remote._judged(status, json.dumps(model).encode())

    with pytest.raises(errors.UnknownContextError):
        told(404, {"error": "Context not found", "code": "CONTEXT_NOT_FOUND"})
    with pytest.raises(errors.QuotaError, match="too many"):
        told(429, {"error": "too many", "code": "QUOTA_EXCEEDED"})
    assert told(200, []) == []


@pytest.mark.parametrize(
    ("status", "answer"),
    [
        (404, b"<html>not found</html>"),
        (200, b"<html>login</html>"),
        (500, b""),
        (502, b'{"error": 1, "code": 2}'),
        (200, b"[" * 100_000),
        (302, b"{}"),
        (403, b"null"),
    ],
)
def test_an_answer_of_something_else_says_what_to_set(status, answer):
    with pytest.raises(TransferError, match="SANDBOX_BASE_URL"):
        remote._judged(status, answer)


@pytest.mark.parametrize(
    "model", [None, [], {}, {"output": {}}, {"output": {"stdout": "", "stderr": ""}, "success": True}]
)
def test_half_an_execution_is_none(model):
    with pytest.raises(TransferError):
        remote._ran(model)
    with pytest.raises(TransferError):
        remote._context([model])


@pytest.mark.parametrize("number", ['"a"', "1", "-1", "null", '"\\u2028"'])
def test_a_message_has_an_id_that_can_be_answered(number):
    judge_message(f'{{"jsonrpc": "2.0", "method": "ping", "id": {number}}}'.encode())
    judge_message(b'{"jsonrpc": "2.0", "method": "notifications/initialized"}')


@pytest.mark.parametrize(
    "data",
    [
        *(b"", b"null", b"[]", b'[{"id": 1}]', b"{", b'{"id": true}', b'{"id": 1.5}', b'{"id": {}}', b'{"id": NaN}'),
        *(b'{"id": 1, "id": 2}', b'{"id": 9007199254740992}', b'{"id": "' + b"x" * 257 + b'"}', b"[" * 100_000),
        b'{"id": ' + b"9" * 5_000 + b"}",
    ],
    ids=lambda data: str(data[:30]),
)
def test_what_is_no_message_is_refused(data):
    with pytest.raises(InvalidRequestError):
        judge_message(data)
