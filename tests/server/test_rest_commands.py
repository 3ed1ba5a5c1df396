"""Commands over REST: as a whole, as events, later, from many clients, at a terminal."""

from __future__ import annotations

import asyncio
import base64
import json

import pytest

NDJSON = "application/x-ndjson"


class Box:
    """A sandbox and the commands in it."""

    def __init__(self, rest, fetch, sandbox_id) -> None:
        self.rest, self.fetch, self.id = rest, fetch, sandbox_id

    async def start(self, **body):
        return await self.rest.post(self.id, "commands", body=body)

    async def run(self, line, **body):
        reply = await self.start(line=line, **body)
        assert reply.status == 200, reply
        return reply.body

    async def detached(self, line, **body):
        reply = await self.start(line=line, detached=True, **body)
        assert reply.status == 202, reply
        return reply.body

    async def ask(self, command, verb, **body):
        return await self.rest.post(self.id, "commands", command["id"], verb, body=body)

    async def ended(self, command):
        reply = await self.rest.get(self.id, "commands", command["id"], params={"wait_s": 20})
        assert reply.body["state"] == "ended"
        return reply.body

    async def events(self, *parts, accept=NDJSON, **how):
        """Events of a stream that comes to its end."""
        parts = ("api", "sandboxes", self.id, "commands", *parts)
        response = await self.fetch(*parts, headers={"Accept": accept}, request_timeout=30, **how)
        assert response.headers["Content-Type"] == accept
        return [json.loads(line) for line in response.body.decode().splitlines()]


@pytest.fixture
def box(rest, jp_fetch, jp_asyncio_loop):
    """A sandbox without a kernel."""
    claimed = jp_asyncio_loop.run_until_complete(rest.claimed(env={"CLAIMED": "yes"}))
    return Box(rest, jp_fetch, claimed["id"])


def texts(command) -> dict[str, str]:
    return {piece["stream"]: piece["text"] for piece in command["output"]}


async def test_a_command_is_answered_when_it_has_ended(box):
    reply = await box.start(argv=["sh", "-c", "echo $CLAIMED $MORE; pwd; echo no >&2; exit 3"], env={"MORE": "too"})
    command = reply.body
    assert reply.status == 200
    assert reply.headers["Location"].endswith(f"/api/sandboxes/{box.id}/commands/{command['id']}")
    assert texts(command) == {"stdout": "yes too\n/sandbox\n", "stderr": "no\n"}
    assert (command["outcome"], command["exit_code"], command["signal"]) == ("error", 3, None)
    assert command["written_bytes"] == {"stdout": 17, "stderr": 3}
    assert command["pid"] > 0
    assert 0 < command["duration_s"] < 20


async def test_bytes_that_are_no_text_come_as_base64(box):
    (out, _) = (await box.run("printf 'a\\377'"))["output"]
    assert (out["text"], base64.b64decode(out["base64"])) == (None, b"a\xff")


async def test_output_comes_as_events(box):
    body = json.dumps({"line": "echo one; sleep 3; echo ä; exit 7"})
    first, *pieces, last = await box.events(method="POST", body=body)
    assert (first["type"], first["command"]["state"]) == ("started", "running")
    assert "".join(piece["text"] for piece in pieces) == "one\nä\n"
    assert [piece["offset"] for piece in pieces] == [0, 4]
    assert (last["type"], last["command"]["exit_code"]) == ("ended", 7)
    assert "output" not in last["command"]


async def test_who_follows_loses_nothing_however_little_is_kept(box):
    body = json.dumps({"line": "seq 1 20000", "max_output_bytes": 5})
    _, *pieces, last = await box.events(method="POST", body=body)
    assert "".join(piece["text"] for piece in pieces) == "".join(f"{n}\n" for n in range(1, 20_001))
    assert last["command"]["written_bytes"]["stdout"] == 108_894


async def test_a_detached_command_is_followed_by_many_and_read_later(box):
    command = await box.detached("echo one; read x; echo $x", stdin=True, tag="mine", timeout_s=None)
    following = [asyncio.create_task(box.events(command["id"])) for _ in range(3)]
    assert (await box.ask(command, "stdin", text="two\n", close=True)).status == 204
    for events in await asyncio.gather(*following):
        assert "".join(event["text"] for event in events[1:-1]) == "one\ntwo\n"
    assert texts(await box.ended(command)) == {"stdout": "one\ntwo\n", "stderr": ""}
    late = await box.events(command["id"])
    assert [event["type"] for event in late] == ["started", "output", "ended"]
    (listed,) = (await box.rest.get(box.id, "commands")).body["commands"]
    assert (listed["id"], listed["tag"]) == (command["id"], "mine")
    await box.rest.delete(box.id)
    assert (await box.ended(command))["outcome"] == "ok"


async def test_of_much_output_the_end_is_kept(box):
    command = await box.run("seq 1 100000", max_output_bytes=7)
    (out, _) = command["output"]
    assert (out["offset"], out["text"]) == (588_895 - 7, "100000\n")


async def test_a_terminal_is_typed_at_resized_and_signalled(box):
    command = await box.detached("stty size; cat; true", terminal={"rows": 11, "columns": 22})
    assert command["has_terminal"]
    assert (await box.ask(command, "resize", rows=33, columns=44)).status == 204
    assert (await box.ask(command, "stdin", text="typed\n")).status == 204
    refused = await box.ask(command, "stdin", close=True)
    assert (refused.status, refused.code) == (409, "conflict")
    assert (await box.ask(command, "stdin", base64="BA==")).status == 204  # Ctrl-D
    ended = await box.ended(command)
    assert (ended["outcome"], [piece["stream"] for piece in ended["output"]]) == ("ok", ["terminal"])
    assert "typed" in texts(ended)["terminal"]
    assert (await box.ask(command, "resize", rows=1, columns=1)).status == 204
    assert (await box.ask(command, "signal", signal="SIGKILL")).status == 204


async def test_a_signal_ends_a_command(box):
    command = await box.detached("exec sleep 1000")
    assert (await box.ask(command, "resize", rows=1, columns=1)).code == "conflict"
    assert (await box.ask(command, "stdin", text="x")).code == "conflict"
    assert (await box.ask(command, "signal", signal="SIGINT")).status == 204
    ended = await box.ended(command)
    assert (ended["outcome"], ended["signal"], ended["exit_code"]) == ("signalled", "SIGINT", None)


async def test_time_is_over(box):
    command = await box.run("echo before; exec sleep 1000", timeout_s=3)
    assert (command["outcome"], texts(command)["stdout"]) == ("timeout", "before\n")


async def test_what_cannot_start_is_told(box):
    for body, code in (
        ({"argv": ["no-such-program"]}, "conflict"),
        ({"line": "true", "cwd": "/sandbox/nowhere"}, "conflict"),
        ({"line": "true", "cwd": "/tmp/../etc"}, "invalid_request"),
        ({"argv": ["true", "\u20ac" * 8000]}, "invalid_request"),
    ):
        assert (await box.start(**body)).code == code
    assert (await box.rest.get(box.id, "commands")).body["commands"] == []


async def test_as_many_run_as_may(box):
    box.rest.services.commands.bounds = type(box.rest.services.commands.bounds)(max_running=2)
    running = [await box.detached("exec sleep 1000") for _ in range(2)]
    refused = await box.start(line="true")
    assert (refused.status, refused.code, refused.headers["Retry-After"]) == (429, "busy", "1")
    await box.ask(running[0], "signal", signal="SIGKILL")
    await box.ended(running[0])
    assert (await box.run("true"))["outcome"] == "ok"


async def test_commands_run_in_the_sandbox_of_a_notebook(rest, jp_fetch, start_kernel):
    await start_kernel()
    (sandbox,) = (await rest.get()).body["sandboxes"]
    assert (await Box(rest, jp_fetch, sandbox["id"]).run("id -un"))["output"][0]["text"] == "sandbox\n"


async def test_a_server_that_stops_ends_its_commands(box):
    command = await box.detached("exec sleep 1000")
    await box.rest.services.commands.stop()
    assert (await box.ended(command))["outcome"] == "signalled"
