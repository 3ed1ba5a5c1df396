"""Facts that hold for every input, searched for with hypothesis."""

from __future__ import annotations

import contextlib
import json
import posixpath
import string

import pytest

pytest.importorskip("hypothesis", reason="hypothesis is not installed (pip install hypothesis)")

from hypothesis import given
from hypothesis import strategies as some

from jupyter_sandbox import launch, workspace
from jupyter_sandbox.breaker import backoff_s
from jupyter_sandbox.broker import verbs
from jupyter_sandbox.errors import InvalidRequestError, SandboxError, TemplateError
from jupyter_sandbox.guards import ids, processes
from jupyter_sandbox.open_requests import OpenRequests
from jupyter_sandbox.pool import Snapshot, plan
from jupyter_sandbox.specs import Template, Workspace, WorkspaceMode
from jupyter_sandbox.templates import parse
from sandbox_worker import messages

pytestmark = pytest.mark.unit

COUNT = some.integers(0, 10_000)
JSON = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats(allow_nan=False) | some.text(),
    lambda inner: some.lists(inner, max_size=4) | some.dictionaries(some.text(), inner, max_size=4),
    max_leaves=12,
)


@given(COUNT, some.integers(1, 10_000), COUNT, COUNT, COUNT)
def test_the_plan_keeps_to_its_bounds(min_idle, max_total, warm, starting, claimed):
    total = warm + starting + claimed
    template = Template(name="t", min_idle=min_idle, max_total=max_total)
    started = plan(template, Snapshot(warm=warm, starting=starting, total=total))
    assert started >= 0
    assert started == 0 or total + started <= max_total
    assert started == 0 or warm + starting + started <= min_idle
    assert warm + starting + started >= min_idle or total + started >= max_total


@given(some.integers(0, 10**7))
def test_waiting_is_never_more_than_half_a_minute(failures):
    assert 0 <= backoff_s(failures) <= backoff_s(failures + 1) <= 30  # once: OverflowError from 1025 on


@given(some.text())
def test_ids_pass_or_are_refused(text):
    for guard in (ids.sandbox_id, ids.seat, ids.template_name):
        with contextlib.suppress(InvalidRequestError):
            assert set(guard(text)) <= set(string.ascii_lowercase + string.digits + "_-")


@given(some.text(), some.sampled_from(["", "/sandbox/", "/tmp/", "/workspace/"]))
def test_a_working_directory_is_inside_or_refused(text, top):
    try:
        judged = processes.working_directory(top + text)
    except InvalidRequestError:
        return
    assert judged == posixpath.normpath(judged)
    assert judged.split("/")[1] in ("sandbox", "workspace", "tmp")
    assert ".." not in judged.split("/")


@given(
    some.text(some.characters() | some.characters(categories=["Cs"]))
)  # surrogates too: names of files that are no UTF-8
def test_a_workspace_is_one_component_below_its_top(name):
    where = workspace.target(Workspace(mode=WorkspaceMode.OVERLAY, name=name))  # once: UnicodeEncodeError
    top, component = posixpath.split(where)
    assert top == "/workspace"
    assert 0 < len(component.encode()) <= 128
    assert processes.working_directory(where) == where


@given(some.binary(max_size=300) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_a_message_or_refused(data):
    try:
        decoded = messages.decode(data, verbs.REQUESTS)
    except messages.MessageError:
        return
    assert type(decoded) in verbs.REQUESTS


@given(some.sampled_from(verbs.REQUESTS + verbs.ANSWERS), some.dictionaries(some.text(), JSON, max_size=3), some.data())
def test_any_fields_are_a_message_or_refused(kind, extra, data):
    fields = {"type": messages._type_name(kind)} | {name: data.draw(JSON) for name in messages._fields(kind)} | extra
    try:
        decoded = messages.decode(json.dumps(fields).encode(), (kind,))
    except messages.MessageError:
        return
    assert messages.decode(messages.encode(decoded), (kind,)) == decoded


@given(some.dictionaries(some.text(), some.text()))
def test_only_allowed_names_reach_a_kernel(caller):
    passed = launch.environment(caller, {"SPEC": ""})
    assert all(caller[name] == value for name, value in passed.items())
    assert all(name in launch.PASSED | {"SPEC"} or name.startswith(("LC_", "KERNEL_")) for name in passed)


@given(some.lists(some.text(), min_size=1), some.lists(some.text()))
def test_a_command_keeps_its_length(spec, extra):
    command = launch.argument_list(spec, extra, {})
    assert command is None or len(command) == len(spec) + len(extra)


TOML_KEYS = ["description", "preload", "environment", "min_idle", "max_total", "limits", "shares", "other"]
TOML_VALUES = some.sampled_from(["1", "-1", "1.5", "true", '"x"', "[]", "{}", "[1]", '["x"]', "{a = 1}", "[{}]", "nan"])


@given(some.dictionaries(some.sampled_from(TOML_KEYS), TOML_VALUES) | some.text())
def test_any_template_file_is_a_template_or_refused_with_its_name(content):
    text = content if isinstance(content, str) else "\n".join(f"{key} = {value}" for key, value in content.items())
    try:
        assert isinstance(parse("t", text, "/x/t.toml"), Template)
    except TemplateError as error:
        assert "/x/t.toml" in str(error)
        assert isinstance(error, SandboxError)


@given(some.text() | JSON.map(json.dumps))
def test_any_text_on_a_websocket_is_ignored(text):
    executions = OpenRequests()
    executions.sent(text + "execute_request")
    assert executions.take_oldest() == {}
