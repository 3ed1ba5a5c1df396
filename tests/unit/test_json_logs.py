"""JSON logs: one line of ASCII for each record, whatever is in it, and nothing that no log may hold."""

from __future__ import annotations

import json
import logging
import sys
from types import SimpleNamespace

import pytest

from jupyter_sandbox import request_ids
from jupyter_sandbox.json_logs import JsonFormatter, cleaned
from tests.unit.naughty import NAMES

pytestmark = pytest.mark.unit


def line(message: str, *args: object, error: BaseException | None = None) -> dict:
    """What becomes of a record, read back; it must be one line that no terminal obeys."""
    exc_info = (type(error), error, error.__traceback__) if error else None
    record = logging.LogRecord("jupyter_sandbox.x", logging.WARNING, __file__, 1, message, args, exc_info)
    text = JsonFormatter().format(record)
    assert text.isascii()
    assert text.isprintable()
    return json.loads(text)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_no_name_begins_a_line_or_colours_a_terminal(name):
    told = line("file %s is gone", name)
    assert told["level"] == "warning"
    assert told["logger"] == "jupyter_sandbox.x"
    assert set(told) == {"time", "level", "logger", "message", "request_id"}


@pytest.mark.parametrize(
    "text",
    [
        "GET /api/sandboxes?token=s3cret (::1)",
        "http://localhost:8888/lab?token=s3cret",
        "http://localhost:8888/lab?a=1&X-Amz-Signature=s3cret.",
        "from 'https://storage.example/o?sig=s3cret'",
        "https://user:s3cret@storage.example/o",
        "Authorization: token s3cret",
        "{'Authorization': 'Bearer s3cret', 'Host': 'x'}",
        '{"X-Auth-Token": "s3cret"}',
        "Cookie: _xsrf=s3cret",
        "IdentityProvider.token = 's3cret'",
        "password=s3cret",
    ],
)
def test_no_secret_and_no_query_is_told(text):
    assert "s3cret" not in json.dumps(line("%s", text))
    assert "s3cret" not in json.dumps(line("failed", error=ValueError(text)))


@pytest.mark.parametrize(
    "text",
    [
        "[Errno 2] No such file or directory: '/home/alice/My Notebooks/h1dden'",
        "Serving notebooks from local directory: /home/alice/h1dden",
        "cannot open /var/lib/h1dden/x.img",
        '"/tmp/h1dden/x"',
        "(/etc/h1dden)",
    ],
)
def test_no_path_of_the_host_is_told(text):
    assert "h1dden" not in line("%s", text)["message"]


@pytest.mark.parametrize(
    "text",
    [
        "200 GET /api/sandboxes/sbx_0/files",
        "'/sandbox/data/a.csv' in sandbox sbx_0 is too large",
        "/workspace/nb/a.csv",
        "and/or, 1/2, what? yes",
        "https://storage.example:9000 answered 403",
        "no token, no XSRF token with a cookie",
    ],
)
def test_what_may_be_told_is_told_as_it_is(text):
    assert cleaned(text) == text


def test_a_long_message_is_cut_before_it_is_searched():
    assert len(line("%s", "/a" * 10_000_000)["message"]) < 5000
    assert len(line("%s", "?" * 10_000_000)["message"]) < 5000


def test_a_record_that_cannot_be_formatted_is_told_so():
    assert "could not be formatted" in line("%d", "x")["message"]


def test_an_exception_is_told_by_modules_and_lines_not_by_files():
    try:
        json.loads("{")
    except ValueError:
        told = line("failed", error=sys.exc_info()[1])
    assert told["error"]["type"] == "JSONDecodeError"
    assert told["error"]["at"][-1].startswith("json.decoder.raw_decode:")
    assert "/" not in json.dumps(told["error"]["at"])


def request(*given: str) -> SimpleNamespace:
    """As much of a request as is asked; tornado itself would refuse some of these headers."""
    return SimpleNamespace(headers=SimpleNamespace(get_list=lambda _: list(given)))


@pytest.mark.parametrize("given", ["a", "7f3a-00", "01ARZ3NDEKTSV4RRFFQ69G5FAV", "x" * 64, "Root=1-67891233-abcdef"])
def test_a_well_formed_request_id_is_kept(given):
    assert request_ids.of(request(given)) == given


@pytest.mark.parametrize(
    "given", ["", " ", "-a", "x" * 65, "a b", "a\tb", "a\x1b[31m", "é", "<a>", 'a"b', "a\\b", "a\n"]
)
def test_any_other_is_replaced_by_one_of_ours(given):
    asked = request(given)
    made = request_ids.of(asked)
    assert made != given
    assert len(made) == 16
    assert request_ids.of(asked) == made


def test_two_are_none():
    assert request_ids.of(request("a", "b")) not in {"a", "b"}
