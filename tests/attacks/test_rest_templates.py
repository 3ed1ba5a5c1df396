"""Templates against people who are no operators, and against definitions that reach out of a sandbox."""

from __future__ import annotations

import json

import pytest

from jupyter_sandbox.broker import template_verbs
from jupyter_sandbox.owners import EVERYBODY, Owner, require_operator
from tests.attacks import attacker
from tests.attacks.attacker import STRANGER
from tests.attacks.test_broker_socket import leave, visitor
from tests.server.raw_http import send

pytestmark = [pytest.mark.server, pytest.mark.timeout(120)]

DEFINITION = {
    "name": "planted",
    "replace": True,
    "description": "",
    "limits": {},
    "preload": (),
    "environment": {},
    "min_idle": 0,
    "max_total": 1,
    "start": "fork",
}


def test_who_is_told_apart_from_others_is_no_operator():
    require_operator(EVERYBODY)
    for owner in ("user operator", "user *", ""):
        with pytest.raises(Exception, match="only operators") as caught:
            require_operator(Owner(owner))
        assert caught.value.code == "forbidden"


async def test_people_see_templates_and_change_none(world, rest):
    listed = (await rest.get("templates")).body
    for name in ("python", "attacker", "planted"):
        for reply in (await rest("PUT", "templates", name, body={}), await rest.delete("templates", name)):
            assert (reply.status, reply.code) == (403, "forbidden"), name
    assert (await rest.get("templates")).body == listed
    nobody = await send(world, "GET", "/api/sandboxes/templates", token="nobody")
    assert (nobody.status, nobody.code) == (403, "forbidden")


@pytest.mark.parametrize(
    "body",
    [
        {"shares": [{"source": "/etc", "target": "/workspace/etc"}]},
        {"network": {"egress": [{"to": "169.254.169.254", "port": 80}]}},
        {"preload": ["os;import socket"]},
        {"limits": {"memory_mib": -1}},
        [],
    ],
    ids=str,
)
async def test_a_definition_that_is_none_is_refused(rest, body):
    reply = await rest("PUT", "templates", "planted", raw=json.dumps(body).encode())
    assert (reply.status, reply.code) == (400, "invalid_request")


@pytest.mark.parametrize("name", ["..", "%2e%2e%2fx", "A", "a%0a", "%00", "x" * 41, "python.toml"])
async def test_a_name_that_is_none_is_refused(world, name):
    reply = await send(world, "GET", f"/api/sandboxes/templates/{name}")
    assert (reply.status, reply.code) in {(400, "invalid_request"), (404, "unknown_route")}


@pytest.fixture(scope="module")
def shared():
    """Root's broker that serves every local user."""
    with attacker.running_host(0, config="c.BrokerApp.socket_mode = 0o666\nc.BrokerApp.idle_exit_s = 0") as host:
        host.run("result = call(verbs.Status(), verbs.StatusReport).pid")
        yield host


@pytest.fixture(scope="module")
def stranger(shared):
    host = visitor(shared, STRANGER)
    yield host
    leave(host)


def test_another_user_of_the_machine_defines_and_deletes_nothing(shared, stranger):
    own = "call(template_verbs.DefineTemplate(**definition), template_verbs.TemplateDefined)"
    shared.run(own, definition=DEFINITION | {"name": "own"})
    for order in (own, "call(template_verbs.DeleteTemplate(name='own'), verbs.Done)"):
        with pytest.raises(attacker.Refusal) as refused:
            stranger.run(order, definition=DEFINITION)
        assert refused.value.code == "forbidden"
    listing = "call(template_verbs.ListTemplates(after=''), template_verbs.TemplateListing)"
    names = f"result = [each.name for each in {listing}.templates]"
    assert "own" in stranger.run(names)
    assert "planted" not in shared.run(names)
    shared.run("call(template_verbs.DeleteTemplate(name='own'), verbs.Done)")


@pytest.mark.parametrize(
    "change",
    [
        {"name": "../../etc/x"},
        {"name": "python"},
        {"limits": {"memory_mib": 1e12}},
        {"limits": {"shares": 1}},
        {"start": "x"},
        {"max_total": 10_000},
    ],
    ids=str,
)
def test_the_broker_judges_once_more(shared, change):
    with pytest.raises(attacker.Refusal) as refused:
        order = "call(template_verbs.DefineTemplate(**definition), template_verbs.TemplateDefined)"
        shared.run(order, definition=DEFINITION | change)
    assert refused.value.code in {"invalid_request", "conflict"}


def test_every_field_of_a_definition_is_one_of_the_verb():
    assert set(DEFINITION) == set(template_verbs.DefineTemplate.__dataclass_fields__)
