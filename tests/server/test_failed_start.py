"""A kernel that cannot start: the person reads why, and the server goes on and can be stopped."""

from __future__ import annotations

import asyncio
import json
import re
import socket

import pytest
from tornado.httpclient import HTTPClientError

from jupyter_sandbox.host import places
from tests.server.brokers import sandboxes


async def refused(jp_fetch, name, resource="kernels"):
    """Ask for a kernel; return status, reason and message of the refusal."""
    body = {"name": name}
    if resource == "sessions":
        body = {"path": "nb.ipynb", "name": "nb.ipynb", "type": "notebook", "kernel": {"name": name}}
    with pytest.raises(HTTPClientError) as refusal:
        await jp_fetch("api", resource, method="POST", body=json.dumps(body))
    return refusal.value.code, refusal.value.message, json.loads(refusal.value.response.body)["message"]


async def stops(server) -> None:
    """The server shuts down at once: a failed start that stays pending would make it wait for ever."""
    async with asyncio.timeout(15):
        await server._cleanup()
    assert await sandboxes() == []


async def test_an_unknown_template_is_a_404_that_lists_the_known_ones(jp_fetch, add_kernelspec):
    code, reason, message = await refused(jp_fetch, add_kernelspec("bad", template="no-such-thing"))
    assert (code, reason) == (404, "The sandbox could not start (unknown_template)")
    assert "no template 'no-such-thing'; there are: " in message
    assert "small-disk" in message
    assert "Traceback" not in message


async def test_a_full_template_is_a_503_that_says_what_to_do(jp_fetch, start_kernel, add_kernelspec):
    name = add_kernelspec("single", template="only-one")
    kernel_id = await start_kernel(name)
    code, reason, message = await refused(jp_fetch, name)
    assert (code, reason) == (503, "The sandbox could not start (no_capacity)")
    assert "all 1 sandboxes of template only-one are in use; shut down kernels" in message
    assert re.search(r"; try again in \d+ s", message)
    await jp_fetch("api", "kernels", kernel_id, method="DELETE")
    assert await start_kernel(name)


@pytest.mark.parametrize("what", ["absent", "refusing"])
async def test_a_broker_that_is_away_is_a_503(jp_fetch, monkeypatch, tmp_path_factory, what):
    path = tmp_path_factory.mktemp("s") / "broker"
    if what == "refusing":
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as dead:
            dead.bind(str(path))
    monkeypatch.setenv(places.SOCKET_VARIABLE, str(path))
    code, reason, message = await refused(jp_fetch, "sandbox-python")
    assert (code, reason) == (503, "The sandbox could not start (broker_unavailable)")
    assert "nobody listens at the socket that JUPYTER_SANDBOX_SOCKET names" in message


async def test_a_session_that_cannot_start_keeps_the_message(jp_fetch, add_kernelspec):
    """jupyter_server wraps it in a 500 of its own words."""
    code, _, message = await refused(jp_fetch, add_kernelspec("bad", template="no-such-thing"), "sessions")
    assert code in {404, 500}
    assert "no template 'no-such-thing'" in message


async def test_a_program_that_the_sandbox_does_not_have_is_named(jp_fetch, add_kernelspec, jp_data_dir):
    name = add_kernelspec("absent")
    file = jp_data_dir / "kernels" / name / "kernel.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"argv": ["no-such-program", "{connection_file}"]}))
    code, reason, message = await refused(jp_fetch, name)
    assert (code, reason) == (500, "The sandbox could not start (program_missing)")
    assert "the sandbox has no program 'no-such-program'" in message


async def test_a_refused_start_leaves_nothing_behind(jp_fetch, add_kernelspec):
    await refused(jp_fetch, add_kernelspec("bad", template="no-such-thing"))
    assert await sandboxes() == []
    assert json.loads((await jp_fetch("api", "kernels")).body) == []


async def test_the_server_stops_at_once_after_a_failed_start_with_a_live_kernel(
    jp_serverapp, jp_fetch, start_kernel, add_kernelspec
):
    await start_kernel()
    await refused(jp_fetch, add_kernelspec("bad", template="no-such-thing"))
    assert jp_serverapp.kernel_manager._pending_kernels, "jupyter_client has mended its trap: simplify stop_extension"
    assert len(await sandboxes()) == 1
    await stops(jp_serverapp)


async def test_a_server_without_a_broker_starts_tells_and_stops(jp_serverapp, jp_fetch, caplog):
    """The broker cannot be started: the server lives, says so in its log, and serves everything else."""
    assert json.loads((await jp_fetch("api", "kernelspecs")).body)["kernelspecs"]
    await stops(jp_serverapp)


async def test_a_kernel_whose_program_is_missing_says_so(jp_fetch, add_kernelspec, jp_data_dir, open_notebook):
    name = add_kernelspec("missing")
    file = jp_data_dir / "kernels" / name / "kernel.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"argv": ["no-such-program", "{connection_file}"]}))
    response = await jp_fetch("api", "kernels", method="POST", body=json.dumps({"name": name}), raise_error=False)
    message = json.loads(response.body).get("message", "")
    assert (response.code, "no-such-program" in message) == (500, True), (response.code, message)
