"""Contexts over REST are Jupyter's own kernels."""

from __future__ import annotations

import asyncio
import json

from jupyter_sandbox.contexts import MAX_CONTEXTS
from tests.conftest import eventually
from tests.server.brokers import sandboxes


async def test_a_context_is_a_kernel_that_a_notebook_can_attach_to(rest, jp_fetch, open_notebook):
    context = await rest.context()
    (kernel,) = json.loads((await jp_fetch("api", "kernels")).body)
    assert (kernel["id"], kernel["name"]) == (context.id, "sandbox-python")
    await context.printed("said = 'over REST'")
    notebook = await open_notebook(context.id)
    assert await notebook.run("print(said); said = 'in the notebook'") == "over REST\n"
    assert await context.printed("print(said)") == "in the notebook\n"


async def test_a_notebooks_kernel_is_a_context(rest, new_notebook):
    notebook = await new_notebook()
    await notebook.run("said = 'in the notebook'")
    (sandbox,) = (await rest.get()).body["sandboxes"]
    (found,) = (await rest.get(sandbox["id"], "contexts")).body["contexts"]
    assert found["id"] == notebook.kernel_id
    reply = await rest.post(sandbox["id"], "contexts", found["id"], "executions", body={"code": "print(said)"})
    assert reply.body["outputs"][0]["text"] == "in the notebook\n"


async def test_contexts_of_one_sandbox_share_files_and_no_variables(rest):
    first = await rest.context()
    second = await rest.context(first.sandbox_id)
    await first.printed("own = 1; _ = open('/sandbox/file', 'w').write('shared')")
    assert await second.printed("print(open('/sandbox/file').read(), 'own' in globals())") == "shared False\n"


async def test_a_context_has_its_directory_and_the_sandboxs_environment(rest):
    sandbox = await rest.claimed(env={"GREETING": "hello 'world'\n"})
    first = await rest.context(sandbox["id"])
    await first.printed("import os; os.mkdir('/sandbox/deep')")
    reply = await rest.post(sandbox["id"], "contexts", body={"cwd": "/sandbox/deep"})
    assert (reply.status, reply.body["cwd"], reply.body["language"]) == (201, "/sandbox/deep", "python")
    assert reply.headers["Location"].endswith(f"/contexts/{reply.body['id']}")
    second = type(first)(rest, sandbox["id"], reply.body["id"])
    shown = await second.printed("import os; print([os.getcwd(), os.environ['GREETING']])")
    assert shown == "['/sandbox/deep', \"hello 'world'\\n\"]\n"
    assert "GREETING" not in json.dumps((await rest.get(sandbox["id"])).body), "an environment may hold secrets"


async def test_a_directory_that_does_not_exist_leaves_no_context_behind(rest, jp_fetch):
    sandbox = await rest.claimed()
    reply = await rest.post(sandbox["id"], "contexts", body={"cwd": "/sandbox/nowhere"})
    assert (reply.status, reply.code) == (409, "conflict")
    assert "no directory '/sandbox/nowhere'" in reply.body["message"]
    assert json.loads((await jp_fetch("api", "kernels")).body) == []
    assert (await rest.get(sandbox["id"])).body["contexts"] == []
    assert rest.kernel_manager._pending_kernels == {}
    assert await (await rest.context(sandbox["id"])).printed("print(1)") == "1\n"


async def test_a_restart_keeps_files_and_place_and_forgets_variables(rest):
    context = await rest.context(cwd="/tmp")
    await context.printed("x = 1; _ = open('/sandbox/file', 'w').write('kept')")
    reply = await rest.post(*context.parts, "restart")
    assert (reply.status, reply.body["id"], reply.body["cwd"]) == (200, context.id, "/tmp")
    code = "import os; print(open('/sandbox/file').read(), 'x' in globals(), os.getcwd())"
    assert await context.printed(code) == "kept False /tmp\n"


async def test_a_deleted_context_leaves_its_sandbox(rest):
    context = await rest.context()
    await context.printed("_ = open('/sandbox/file', 'w').write('kept')")
    assert (await rest.delete(*context.parts)).status == 204
    gone = await rest.get(*context.parts)
    assert (gone.status, gone.code) == (404, "unknown_context")
    assert (await rest.get(context.sandbox_id)).body["contexts"] == []
    again = await rest.context(context.sandbox_id)
    assert await again.printed("print(open('/sandbox/file').read())") == "kept\n"


async def test_a_context_that_dies_comes_back_in_its_sandbox(rest):
    context = await rest.context()
    await context.printed("_ = open('/sandbox/file', 'w').write('kept')")
    died = await context.execute("import os; print('last'); os._exit(3)")
    assert died["outcome"] == "died"
    assert "status 3" in died["message"], died
    assert await context.printed("print(open('/sandbox/file').read())") == "kept\n"
    assert [each.sandbox for each in await sandboxes()] == [context.sandbox_id]


async def test_a_context_deleted_by_several_at_once_is_gone_and_nobody_fails(rest):
    context = await rest.context()
    replies = await asyncio.gather(
        *(rest.delete(*context.parts) for _ in range(4)), rest.post(*context.parts, "restart")
    )
    assert {reply.status for reply in replies} <= {204, 404, 409}
    assert (await rest.get(*context.parts)).status == 404
    assert (await rest.delete(context.sandbox_id)).status == 204


async def test_contexts_that_start_at_once_do_not_pass_the_bound(rest, monkeypatch):
    monkeypatch.setattr("jupyter_sandbox.contexts.MAX_CONTEXTS", 2)
    sandbox = await rest.claimed()
    replies = await asyncio.gather(*(rest.post(sandbox["id"], "contexts", body={}) for _ in range(6)))
    assert sorted(reply.status for reply in replies) == [201, 201, 503, 503, 503, 503]


async def test_a_kernel_shut_down_by_jupyter_is_no_context_any_more(rest, jp_fetch):
    context = await rest.context()
    await context.printed("print(1)")
    await jp_fetch("api", "kernels", context.id, method="DELETE")
    assert (await rest.get(*context.parts)).status == 404
    assert (await rest.get(context.sandbox_id)).status == 200
    await eventually(lambda: not rest.services.executions._queues)


async def test_contexts_of_a_sandbox_are_bounded(rest, monkeypatch):
    monkeypatch.setattr("jupyter_sandbox.contexts.MAX_CONTEXTS", 1)
    context = await rest.context()
    full = await rest.post(context.sandbox_id, "contexts", body={})
    assert (full.status, full.code) == (503, "no_capacity")
    await rest.delete(*context.parts)
    assert (await rest.post(context.sandbox_id, "contexts", body={})).status == 201
    assert MAX_CONTEXTS < 64


async def test_a_sandboxs_contexts_are_not_another_sandboxs(rest):
    first, other = await rest.context(), await rest.claimed()
    reply = await rest.get(other["id"], "contexts", first.id)
    assert (reply.status, reply.code) == (404, "unknown_context")
