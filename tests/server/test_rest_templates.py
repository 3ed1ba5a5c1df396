"""Templates over REST: seen by everybody, defined by operators, used at once, and no harm to sandboxes that live."""

from __future__ import annotations

import asyncio
import os
import signal

import pytest

from tests.conftest import eventually
from tests.server.brokers import Tree

SMALL = {"min_idle": 0, "limits": {"disk_mib": 32, "memory_mib": 512}}


@pytest.fixture
def define(rest, jp_asyncio_loop):
    """Define a template that the test leaves nothing of: `reply = await define("name", {...})`."""
    names = set()

    async def put(name, body):
        names.add(name)
        return await rest("PUT", "templates", name, body=body)

    yield put
    for name in names:
        jp_asyncio_loop.run_until_complete(rest.delete("templates", name))


async def in_a_new_sandbox(rest, template, code):
    context = await rest.context((await rest.claimed(template=template))["id"])
    return context, (await context.printed(code)).strip()


async def test_a_template_is_defined_seen_used_replaced_and_deleted(rest, define):
    made = await define("mine", {**SMALL, "description": "Mine", "environment": {"WHO": "first"}})
    assert (made.status, made.body["origin"], made.body["limits"]["disk_mib"]) == (201, "defined", 32)
    assert made.headers["Location"].endswith("/api/sandboxes/templates/mine")
    assert (await rest.get("templates", "mine")).body == made.body
    listed = {each["name"]: each for each in (await rest.get("templates")).body["templates"]}
    assert listed["mine"] == made.body
    assert list(listed) == sorted(listed)
    _, who = await in_a_new_sandbox(rest, "mine", "import os; print(os.environ['WHO'])")
    assert who == "first"

    again = await define("mine", {**SMALL, "environment": {"WHO": "second"}})
    assert (again.status, again.body["description"]) == (200, "")
    _, who = await in_a_new_sandbox(rest, "mine", "import os; print(os.environ['WHO'])")
    assert who == "second"

    assert (await rest.delete("templates", "mine")).status == 204
    for reply in (await rest.delete("templates", "mine"), await rest.get("templates", "mine")):
        assert (reply.status, reply.code) == (404, "unknown_template")
    assert (await rest.post(body={"template": "mine"})).code == "unknown_template"


async def test_a_sandbox_lives_on_when_its_template_is_replaced_or_deleted(rest, define):
    await define("mine", {**SMALL, "environment": {"WHO": "first"}})
    context, _ = await in_a_new_sandbox(rest, "mine", "kept = 42; print()")
    await define("mine", {**SMALL, "environment": {"WHO": "second"}})
    assert await context.printed("print(kept)") == "42\n"
    await rest.delete("templates", "mine")
    assert await context.printed("print(kept)") == "42\n"
    assert (await rest.get(context.sandbox_id)).body["template"] == "mine"
    second = await rest.context(context.sandbox_id)
    assert await second.printed("import os; print(os.environ['WHO'])") == "first\n"


async def test_a_warm_worker_of_the_old_template_is_nobodys_sandbox(rest, define):
    size = "import os; s = os.statvfs('/tmp'); print(s.f_blocks * s.f_frsize >> 20)"
    await define("mine", {"min_idle": 1, "limits": {"disk_mib": 32, "tmp_mib": 16}})
    assert (await in_a_new_sandbox(rest, "mine", size))[1] == "16"
    await define("mine", {"min_idle": 1, "limits": {"disk_mib": 32, "tmp_mib": 24}})
    assert (await in_a_new_sandbox(rest, "mine", size))[1] == "24"


async def test_what_comes_from_the_configuration_cannot_be_changed(rest, define):
    for name in ("python", "small-memory"):
        assert (await rest.get("templates", name)).body["origin"] == "configuration"
        for reply in (await rest("PUT", "templates", name, body=SMALL), await rest.delete("templates", name)):
            assert (reply.status, reply.code) == (409, "conflict")
            assert "configuration" in reply.body["message"]
    shown = (await rest.get("templates", "with-share")).body
    assert shown["shares"] == ["/workspace/data"], "and not where it is on the host"


async def test_variables_are_named_and_not_shown(rest, define):
    reply = await define("mine", {**SMALL, "environment": {"TOKEN": "s3cret"}})
    assert reply.body["environment"] == ["TOKEN"]
    assert "s3cret" not in str((await rest.get("templates")).body)


async def test_more_than_the_operator_allows_is_refused(rest, define):
    reply = await define("mine", {"limits": {"memory_mib": 1 << 20}})
    assert (reply.status, reply.code) == (409, "conflict")
    assert "at most 8192" in reply.body["message"]
    assert (await rest.get("templates", "mine")).code == "unknown_template"


async def test_executed_kernels_share_no_hash_seed_and_forked_ones_do(rest, define):
    """See the threat model: what a fork cannot renew."""
    for start, wanted in (("exec", 2), ("fork", 1)):
        await define("mine", {**SMALL, "start": start})
        context, first = await in_a_new_sandbox(rest, "mine", "print(hash('x'))")
        second = await rest.context(context.sandbox_id)
        assert len({first, (await second.printed("print(hash('x'))")).strip()}) == wanted, start
        assert (await rest.post(*second.parts, "restart")).status == 200
        assert await second.printed("print(6 * 7)") == "42\n"


async def test_a_hundred_templates_are_enough(rest, define):
    replies = [await define(f"t{number}", SMALL) for number in range(101)]
    assert [reply.status for reply in replies] == [201] * 100 + [409]
    assert len((await rest.get("templates")).body["templates"]) > 100


@pytest.fixture
def own_tree(own_tree):
    own_tree.start()
    return own_tree


async def test_a_template_is_there_for_the_broker_that_comes(own_tree: Tree, rest):
    assert (await rest("PUT", "templates", "mine", body={**SMALL, "environment": {"WHO": "kept"}})).status == 201
    await asyncio.to_thread(restart, own_tree)
    context, who = await in_a_new_sandbox(rest, "mine", "import os; print(os.environ['WHO'])")
    assert who == "kept"
    await rest.delete(context.sandbox_id)  # or its lease would look for the next broker, and start one
    (file,) = own_tree.directory.glob("images/*/templates/*")
    assert (file.name, file.stat().st_mode & 0o777) == ("mine.json", 0o600)

    (own_tree.templates / "mine.toml").write_text("min_idle = 0\n")
    await asyncio.to_thread(restart, own_tree)
    assert (await rest.get("templates", "mine")).body["origin"] == "configuration"
    assert (await rest.delete("templates", "mine")).status == 409
    assert file.exists()


def restart(tree: Tree) -> None:
    asyncio.run(gone(tree))
    tree.start()


async def gone(tree: Tree) -> None:
    ends = tree.log().count("broker ends")
    os.kill(tree.pid(), signal.SIGINT)
    await eventually(lambda: tree.log().count("broker ends") > ends and tree.pid() is None, timeout_s=30)
