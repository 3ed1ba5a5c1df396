"""A Jupyter server is killed and started anew: what lived in its sandboxes lives on."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import subprocess
import uuid
from datetime import datetime

import pytest

from jupyter_sandbox.broker import client, left, verbs
from jupyter_sandbox.engines import host_languages
from tests.e2e.languages import PROGRAMS

from .conftest import listed, until
from .relays import Relay
from .servers import TOKEN, WAIT, Server, claimed, context_in, go, is_busy, notebook_session, run

pytestmark = [pytest.mark.e2e, pytest.mark.needs_root, pytest.mark.timeout(240)]


async def test_a_notebook_finds_its_kernel_again(server):
    await server.start()
    session = await notebook_session(server)
    kernel_id = session["kernel"]["id"]
    notebook = await server.notebook(kernel_id)
    await notebook.run("x = 41; import os; os.getpid()")
    sandboxes = await listed()
    await server.restart()
    assert await listed() == sandboxes
    assert [each["id"] for each in await server.ask("GET", "api/kernels")] == [kernel_id]
    (found,) = await server.ask("GET", "api/sessions")
    assert {name: found[name] for name in ("id", "path", "name", "type")} == {
        name: session[name] for name in ("id", "path", "name", "type")
    }
    assert found["kernel"]["id"] == kernel_id
    await notebook.closed()
    again = await server.notebook(kernel_id, notebook.session_id)
    assert await again.run("print(x + 1)") == "42\n"
    await again.closed()


async def test_a_claimed_sandbox_is_as_before(server):
    await server.start()
    claim = {"metadata": {"who": "me"}, "env": {"COLOUR": "green"}, "timeout_s": 300, "network": {"deny": ["::/0"]}}
    sandbox = (await claimed(server, "once", **claim))["id"]
    await server.ask("PUT", f"api/sandboxes/{sandbox}/network", {"deny": ["10.0.0.0/8"]})
    first, second = await context_in(server, sandbox), await context_in(server, sandbox, cwd="/tmp")
    await run(server, sandbox, first, "x = 1")
    await run(server, sandbox, second, "x = 2")
    await server.ask("POST", f"api/sandboxes/{sandbox}/renew", {"timeout_s": 900})
    before = await server.ask("GET", f"api/sandboxes/{sandbox}")
    for _ in range(2):
        await server.restart()
    after = await server.ask("GET", f"api/sandboxes/{sandbox}")
    assert after["network"] == {"deny": ["10.0.0.0/8"], "allow": []}
    same = ("id", "template", "state", "metadata", "created_at", "origin")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    assert sorted(after["contexts"]) == sorted([first, second])
    ends = [datetime.fromisoformat(each["expires_at"]) for each in (before, after)]
    assert 0 <= (ends[1] - ends[0]).total_seconds() <= 10.1, "two times what a sandbox may live longer than was noted"
    assert (await claimed(server, "once", **claim))["id"] == sandbox
    for context, value in ((first, "1"), (second, "2")):
        done = await run(server, sandbox, context, "print(x)")
        assert (done["outcome"], done["outputs"][0]["text"]) == ("ok", f"{value}\n")
    where = "import os; print(os.getcwd(), os.environ['COLOUR'], 'x' in globals())"
    assert (await run(server, sandbox, second, where))["outputs"][0]["text"] == "/tmp green True\n"
    async with asyncio.timeout(30):  # use renews it still: when the time that two notes added is over, too
        used = ends[1]
        while used <= ends[1]:
            await run(server, sandbox, second, "1")
            used = datetime.fromisoformat((await server.ask("GET", f"api/sandboxes/{sandbox}"))["expires_at"])
    await server.ask("POST", f"api/sandboxes/{sandbox}/contexts/{second}/restart")
    assert (await run(server, sandbox, second, where))["outputs"][0]["text"] == "/tmp green False\n"
    await server.ask("DELETE", f"api/sandboxes/{sandbox}")
    assert await listed() == []


async def test_kernels_of_every_language_that_is_there_are_as_before(server):
    await server.start()
    sandbox = (await claimed(server))["id"]
    contexts = {}
    for language in host_languages.of_this_host():
        contexts[language] = await context_in(server, sandbox, language=language)
        assert (await run(server, sandbox, contexts[language], PROGRAMS[language].keeps))["outcome"] == "ok"
    await server.restart()
    listed_now = (await server.ask("GET", f"api/sandboxes/{sandbox}/contexts"))["contexts"]
    assert {each["id"]: each["language"] for each in listed_now} == {each: name for name, each in contexts.items()}
    for language, context in contexts.items():
        done = await run(server, sandbox, context, PROGRAMS[language].asks)
        assert (done["outcome"], PROGRAMS[language].says in json.dumps(done["outputs"])) == ("ok", True), language


WITHOUT_A_PAGE = """
from jupyter_server import serverapp
serverapp.ServerApp.write_browser_open_files = lambda _: None
serverapp.main()
"""
"""Jupyter itself does not start where it cannot write the page that opens a browser."""


@pytest.fixture
def small_runtime(server):
    """A runtime directory of Jupyter's that is soon full; where the server listens is known without its files."""
    server.runtime.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(server.runtime)], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    python, _, _, *options = [each.replace("port=0", f"port={port}") for each in server.command()]
    server.command = lambda: [python, "-c", WITHOUT_A_PAGE, *options]
    server.url = f"http://127.0.0.1:{port}/"
    yield server.runtime
    server.close()
    subprocess.run(["umount", str(server.runtime)], check=True)


async def answers(server) -> bool:
    try:
        await server.ask("GET", "api/sandboxes/healthz")
    except OSError:
        return False
    return True


async def test_a_server_that_is_started_anew_on_a_full_disk_gives_nothing_up(server, small_runtime):
    # once: kernels ended whose connection files could not be written, and without a slate all sandboxes did
    await server.start()
    sandbox = (await claimed(server))["id"]
    context = await context_in(server, sandbox)
    await run(server, sandbox, context, "x = 41")
    kernel_id = (await notebook_session(server))["kernel"]["id"]
    notebook = await server.notebook(kernel_id)
    await notebook.run("y = 1")
    busy = await context_in(server, sandbox)
    first = (await run(server, sandbox, busy, WAIT, detached=True, timeout_s=600))["id"]
    await until(lambda: is_on(server, first))
    for path in small_runtime.glob("kernel-*.json"):
        path.unlink()  # what lies there already makes room for the next
    before, filler = await listed(), small_runtime / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while file.write(b"x" * 4096):
            pass
    assert os.statvfs(small_runtime).f_bavail == 0
    await server.end()
    server.spawn()
    await until(lambda: answers(server))
    await notebook.closed()
    assert await listed() == before
    assert {each["id"] for each in await server.ask("GET", "api/kernels")} == {context, busy, kernel_id}
    assert (await run(server, sandbox, context, "print(x + 1)"))["outputs"][0]["text"] == "42\n"
    again = await server.notebook(kernel_id, notebook.session_id)
    assert await again.run("print(y)") == "1\n"
    await again.closed()
    said = server.log.read_text()
    assert said.count("the slate of this server cannot be written") == 1
    assert said.count("connection file of kernel") == 3
    filler.unlink()
    running = (await run(server, sandbox, context, WAIT, detached=True, timeout_s=600))["id"]
    await until(lambda: is_on(server, running))
    await server.restart()
    assert await listed() == before
    assert len(list(small_runtime.glob("kernel-*.json"))) == 3


async def is_on(server, execution: str) -> bool:
    return execution in server.slate()


@pytest.mark.parametrize("dies", ["the server", "the server and its broker"])
async def test_what_is_paused_is_still_paused_and_goes_on_when_it_is_resumed(tree, server, dies):
    await server.start()
    sandbox = (await claimed(server))["id"]
    context = await context_in(server, sandbox)
    await run(server, sandbox, context, "x = 41")
    notebook = await server.notebook((await notebook_session(server))["kernel"]["id"])
    await notebook.run("y = 1")
    (other,) = set(await listed()) - {sandbox}
    running = (await run(server, sandbox, context, WAIT, detached=True, timeout_s=600))["id"]
    await until(lambda: is_busy(server, context))
    for each in (sandbox, other):
        await server.ask("POST", f"api/sandboxes/{each}/pause")
    await server.end()
    await notebook.closed()
    if "broker" in dies:
        tree.kill_broker()
    await server.start()
    for each in (sandbox, other):
        assert (await server.ask("GET", f"api/sandboxes/{each}"))["state"] == "paused"
    assert {each["execution_state"] for each in await server.ask("GET", "api/kernels")} == {"paused"}
    path = f"api/sandboxes/{sandbox}/contexts/{context}/executions"
    assert (await server.ask("POST", path, {"code": "x"}, status=409))["code"] == "sandbox_paused"
    await go(server, sandbox)
    for each in (sandbox, other):
        assert (await server.ask("POST", f"api/sandboxes/{each}/resume"))["state"] == "ready"
    assert (await run(server, sandbox, context, "print(x + 1)", timeout_s=60))["outputs"][0]["text"] == "42\n"
    assert (await server.ask("GET", f"{path}/{running}"))["outcome"] == "unknown"
    again = await server.notebook(notebook.kernel_id, notebook.session_id)
    assert await again.run("print(y)") == "1\n"
    await again.closed()


async def test_a_kernel_that_died_without_a_server_starts_again_and_says_so(server):
    await server.start()
    kernel_id = (await notebook_session(server))["kernel"]["id"]
    notebook = await server.notebook(kernel_id)
    await notebook.run("open('/sandbox/file', 'w').close()")
    (sandbox,) = await listed()
    await server.end()
    await notebook.closed()
    kernels = await client.call(verbs.ListKernels(sandbox=sandbox), verbs.Kernels, start=False)
    (seat,) = kernels.kernels
    await client.call(verbs.SignalKernel(sandbox=sandbox, target=seat, number=9), verbs.Done, start=False)

    async def is_dead() -> bool:
        return await client.call(verbs.ListKernels(sandbox=sandbox), verbs.Kernels, start=False) == verbs.Kernels(
            kernels=()
        )

    await until(is_dead)
    await server.start()
    again = await server.notebook(kernel_id, notebook.session_id)
    assert await again.run("import os; print(os.path.exists('/sandbox/file'))") == "True\n"
    await again.closed()


async def numbered(server) -> dict[str, str]:
    """Claim three sandboxes, each with one context that has its number as x; return their contexts."""
    sandboxes = {}
    for number in range(3):
        sandbox = (await claimed(server))["id"]
        sandboxes[sandbox] = await context_in(server, sandbox)
        await run(server, sandbox, sandboxes[sandbox], f"x = {number}")
    return sandboxes


async def judge_numbers(server, sandboxes: dict[str, str]) -> None:
    """Each has its number still."""
    for number, (sandbox, context) in enumerate(sandboxes.items()):
        assert (await run(server, sandbox, context, "print(x)"))["outputs"][0]["text"] == f"{number}\n"


async def test_a_server_that_is_killed_while_it_adopts_loses_nothing(server):
    await server.start()
    sandboxes = await numbered(server)
    await server.end()
    for count in range(1, 4):  # killed when it has that many
        await asyncio.to_thread(server.spawn)

        async def has_adopted(count: int = count) -> bool:
            request = verbs.List(after="", left_by=server_name(server))
            left = (await client.call(request, verbs.Listing, start=False)).sandboxes
            return len(left) <= len(sandboxes) - count

        await until(has_adopted, 60)
        await server.end()
    await server.start()
    await judge_numbers(server, sandboxes)


@pytest.mark.parametrize("message", ["adopt", "read_note"])
async def test_a_broker_that_is_killed_while_its_server_adopts_costs_nothing(tree, server, message):
    await server.start()
    sandboxes = await numbered(server)
    await server.end()
    relay = Relay(message, 3, tree.kill_broker)
    try:
        await server.start()  # which starts the next broker
        await until(relay.has_acted, 60)
        await until(lambda: has_contexts(server, sandboxes), 60)
        await judge_numbers(server, sandboxes)
    finally:
        relay.close()


async def has_contexts(server, sandboxes: dict[str, str]) -> bool:
    listed_now = (await server.ask("GET", "api/sandboxes"))["sandboxes"]
    return {each["id"]: each["contexts"] for each in listed_now} == {name: [one] for name, one in sandboxes.items()}


def server_name(server) -> str:
    (slate,) = server.runtime.glob("*.slate")
    return slate.stem.removeprefix("sandbox-server-")


async def test_nobody_adopts_the_sandboxes_of_another_server(tree, server, tmp_path_factory):
    await server.start()
    sandbox = (await claimed(server))["id"]
    context = await context_in(server, sandbox)
    await run(server, sandbox, context, "x = 41")
    elsewhere = Server(tree, tmp_path_factory.mktemp("elsewhere"))
    twin = Server(tree, server.folder)
    twin.starts = 100
    try:
        await twin.start()  # the same place, while the first one lives
        assert "another server runs here" in twin.said()
        assert await twin.ask("GET", "api/kernels") == []
        await claimed(twin)
        await server.end()
        await elsewhere.start()
        assert await elsewhere.ask("GET", "api/kernels") == []
        assert (await elsewhere.ask("GET", "api/sandboxes"))["sandboxes"] == []
        await server.start()
        assert [each["id"] for each in (await server.ask("GET", "api/sandboxes"))["sandboxes"]] == [sandbox]
        assert (await run(server, sandbox, context, "print(x + 1)"))["outputs"][0]["text"] == "42\n"
        await twin.end()
        await until(lambda: only(sandbox))
    finally:
        twin.close()
        elsewhere.close()


async def only(sandbox: str) -> bool:
    return await listed() == [sandbox]


async def test_sigterm_lets_code_end_and_leaves_sandboxes_to_the_next_start(server):
    server.options = ("--SandboxExtension.drain_s=30",)
    await server.start()
    sandbox = (await claimed(server))["id"]
    context = await context_in(server, sandbox)
    notebook = await server.notebook((await notebook_session(server))["kernel"]["id"])
    await notebook.run("y = 42")
    running = asyncio.create_task(run(server, sandbox, context, WAIT + "x = 41", timeout_s=60))
    await until(lambda: is_busy(server, context))
    server.process.send_signal(signal.SIGTERM)
    await until(lambda: refuses(server))
    refused = await server.ask("POST", "api/sandboxes", {"template": "python"}, status=503)
    assert refused["code"] == "server_stopping"
    await go(server, sandbox)
    assert (await running)["outcome"] == "ok"
    assert await server.wait() == 0
    await notebook.closed()
    assert "Traceback" not in server.said()
    assert sandbox in await listed()
    await server.start()
    assert (await run(server, sandbox, context, "print(x + 1)"))["outputs"][0]["text"] == "42\n"
    again = await server.notebook(notebook.kernel_id, notebook.session_id)
    assert await again.run("print(y)") == "42\n"
    await again.closed()


async def refuses(server) -> bool:
    try:
        await server.ask("GET", "api/sandboxes/readyz", status=503)
    except AssertionError:
        return False
    return True


async def test_sandboxes_whose_server_does_not_come_back_end(tree, tmp_path):
    tree.configure(recover_grace_s=1)
    tree.start()
    server = Server(tree, tmp_path)
    try:
        await server.start()
        await notebook_session(server)
        await context_in(server, (await claimed(server))["id"])
        assert len(await listed()) == 2
        await server.end()
        await until(nothing_lives)
    finally:
        server.close()
    os.kill(tree.brokers[0].pid, signal.SIGINT)
    tree.wait_for_end()
    tree.assert_nothing_left()


async def nothing_lives() -> bool:
    return await listed() == []


async def test_the_death_of_server_and_broker_is_survived(tree, server):
    await server.start()
    kernel_id = (await notebook_session(server))["kernel"]["id"]
    notebook = await server.notebook(kernel_id)
    await notebook.run("x = 41")
    await server.end()
    await notebook.closed()
    tree.kill_broker()
    await server.start()  # which starts a broker as well
    again = await server.notebook(kernel_id, notebook.session_id)
    assert await again.run("print(x + 1)") == "42\n"
    await again.closed()


NAUGHTY_NOTES = {
    "nothing": "",
    "no JSON": "{",
    "a path for an id": "kernel_id",
    "a kernel that nobody has": "kernel_name",
}


async def test_a_note_that_no_server_writes_costs_its_kernel_only(server):
    await server.start()
    sandbox = (await claimed(server))["id"]
    good = await context_in(server, sandbox)
    await run(server, sandbox, good, "x = 41")
    seats = set((await client.call(verbs.ListKernels(sandbox=sandbox), verbs.Kernels)).kernels)
    for what in NAUGHTY_NOTES:
        await context_in(server, sandbox)
        (seat,) = set((await client.call(verbs.ListKernels(sandbox=sandbox), verbs.Kernels)).kernels) - seats
        seats.add(seat)
        text = NAUGHTY_NOTES[what]
        if text.startswith("kernel"):
            text = json.dumps(json.loads(await left.read_note(sandbox, seat)) | {text: "../../../tmp/x"})
        await left.write_note(sandbox, text, seat)
    await server.end()
    await server.start()
    assert (await server.ask("GET", f"api/sandboxes/{sandbox}"))["contexts"] == [good]
    assert [each["id"] for each in await server.ask("GET", "api/kernels")] == [good]
    assert (await run(server, sandbox, good, "print(x + 1)"))["outputs"][0]["text"] == "42\n"
    await until(lambda: has_kernels(sandbox, 1))
    await left.write_note(sandbox, "[]")
    await server.end()
    await server.start()
    assert (await server.ask("GET", "api/sandboxes"))["sandboxes"][0]["origin"] == "kernel", "nobody knows the claim"
    assert (await run(server, sandbox, good, "print(x + 2)"))["outputs"][0]["text"] == "43\n"


async def has_kernels(sandbox: str, count: int) -> bool:
    return len((await client.call(verbs.ListKernels(sandbox=sandbox), verbs.Kernels)).kernels) == count


async def test_clients_of_other_apis_go_on(server):
    server.options = (
        "--ServerApp.identity_provider_class=jupyter_sandbox.identity.SandboxIdentityProvider",
        "--ServerApp.authorizer_class=jupyter_sandbox.authorizer.OwnerAuthorizer",
        f"--SandboxIdentityProvider.token={TOKEN}",
    )
    await server.start()

    async def execute(code: str) -> str:
        key = {"X-Auth-Token": TOKEN}
        return (await server.ask("POST", f"api/v1/execute?user_uuid={uuid.UUID(int=1)}", {"code": code}, headers=key))[
            "result_text"
        ]

    key = {"X-API-Key": TOKEN}
    await execute("x = 41")
    made = await server.ask("POST", "e2b/sandboxes", {"templateID": "base", "timeout": 300}, headers=key)
    mine = (await claimed(server))["id"]
    context = await context_in(server, mine)
    wanted = {"timeout_s": 600, "scopes": ["kernels:read"]}
    issued = await server.ask("POST", f"api/sandboxes/{mine}/tokens", wanted)
    for _ in range(2):
        await server.restart()
    assert await execute("print(x + 1)") == "42\n"
    again = await server.ask("POST", f"e2b/sandboxes/{made['sandboxID']}/connect", {"timeout": 300}, headers=key)
    assert again["envdAccessToken"] == made["envdAccessToken"]
    with_token = {"Authorization": f"token {issued['token']}"}
    contexts = await server.ask("GET", f"api/sandboxes/{mine}/contexts", headers=with_token)
    assert [each["id"] for each in contexts["contexts"]] == [context]
    await server.ask("DELETE", f"api/sandboxes/{mine}/tokens/{issued['id']}")
    await server.restart()
    await server.ask("GET", f"api/sandboxes/{mine}/contexts", headers=with_token, status=403)
