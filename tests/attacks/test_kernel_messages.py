"""A kernel that lies to the Jupyter server: code in a real sandbox that sends what no kernel should.

Each abuse runs in a kernel of its own server process's; afterwards its client has an end for the execution, an ordinary
execution of another client's kernel works, the server has not grown and was never busy for long. With root's broker only: what
a kernel sends does not depend on the broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import struct
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from tests.attacks.attacker import REPOSITORY
from tests.server.brokers import Tree
from tests.server.notebook import FORMATS, V1, Notebook
from tests.server.server_process import TOKEN, a_server, request

pytestmark = [pytest.mark.server, pytest.mark.timeout(180)]

GROWTH_MIB = 64
"""What the server may take more while it is attacked, at any moment."""
BUSY_S = 0.1

PRELUDE = r'''
import json, os, socket, stat, threading, time
from IPython import get_ipython
kernel = get_ipython().kernel
session = kernel.session

def parent():
    return kernel.get_parent("shell")["header"]

def frames(kind="stream", content=None, head=None, parents=None, metadata=b"{}", buffers=()):
    """The frames of a message, signed with the kernel's key; parts that are bytes are taken as they are."""
    content = {"name": "stdout", "text": "x"} if content is None else content
    head = session.msg_header(kind) if head is None else head
    parts = [head, parent() if parents is None else parents, metadata, content]
    parts = [part if isinstance(part, bytes) else session.pack(part) for part in parts]
    return [b"<IDS|MSG>", session.sign(parts), *parts, *buffers]

def publish(parts, **options):
    kernel.iopub_socket.send_multipart([b"topic", *parts], **options)

def answer(parts):
    """Send to this client's shell socket, from the thread that owns ours."""
    identity, done = kernel._parent_ident["shell"], threading.Event()
    def send():
        kernel.shell_stream.send_multipart([*identity, *parts])
        done.set()
    kernel.shell_stream.io_loop.add_callback(send)
    done.wait(10)

def distort(kind, change, times=1):
    """Let the kernel's own code send its next messages of this type changed by us, or not at all."""
    serialize, left = session.serialize, [times]
    def distorted(message, ident=None):
        parts = serialize(message, ident)
        if message["header"]["msg_type"] != kind or not left[0]:
            return parts
        left[0] -= 1
        if not left[0]:
            session.serialize = serialize
        at = parts.index(b"<IDS|MSG>")
        return [*parts[:at], *change(parts[at:])]
    session.serialize = distorted

def changed(**parts):
    """For `distort`: other parts (header, parent, metadata, content), signed again."""
    def change(old):
        new = list(old[2:6])
        for name, part in parts.items():
            index = ["header", "parent", "metadata", "content"].index(name)
            new[index] = part if isinstance(part, bytes) else session.pack(part)
        return [old[0], session.sign(new), *new]
    return change

def connections():
    """The kernel's own connected stream sockets, beneath libzmq."""
    for number in map(int, os.listdir("/proc/self/fd")):
        try:
            if stat.S_ISSOCK(os.fstat(number).st_mode):
                found = socket.socket(fileno=os.dup(number))
                if found.family == socket.AF_UNIX and found.type == socket.SOCK_STREAM and found.getsockname():
                    found.getpeername()
                    yield found
        except OSError:
            pass

def raw(data, times=1):
    """Write beneath libzmq to every client of ours, once that has nothing more to say: else it may come amid our bytes,
    and what we announce then never ends."""
    time.sleep(0.5)
    def write(found):
        try:
            found.setblocking(True)
            found.settimeout(5)
            for _ in range(times):
                found.sendall(data)
        except OSError:
            pass
    writers = [threading.Thread(target=write, args=[found]) for found in connections()]
    assert writers
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()

def deep(depth):
    return b'{"name": "stdout", "text": ' + b"[" * depth + b"]" * depth + b"}"
'''


@dataclass(frozen=True)
class Abuse:
    """Code of the kernel's, and what its client sees: words on stderr, the status of the reply."""

    code: str
    says: str | None = r"is not valid and was not shown \((header|json|parts|content|structure|state|signature)\)"
    status: str = "ok"


UNUSABLE = r"^$|not shown \(unusable\)"  # as stock: the old wire format trips over it, the new one passes it on
ENDED = {"status": "error"}  # the reply itself was refused: the server ended the execution
UNTOLD = {"says": None}
UNANSWERED = "The kernel became idle and did not answer"
GIVEN_UP = "a message without end, or bytes that are no message. Its connection is made anew"
TOO_LARGE = {"says": "Output too large: a message of [0-9,]+ bytes was not shown"}

ABUSES = {
    # frames
    "too few frames": Abuse("publish(frames()[:3])"),
    "no frames": Abuse("publish([])"),
    "no delimiter": Abuse("publish(frames()[1:])"),
    "a hundred thousand frames": Abuse("publish(frames(buffers=[b''] * 100_000))", says=GIVEN_UP),
    "a thousand topics": Abuse("publish([b't'] * 1000 + frames())"),
    "a wrong signature": Abuse("publish([b'<IDS|MSG>', b'0' * 64, *frames()[2:]])"),
    "no signature": Abuse("publish([b'<IDS|MSG>', b'', *frames()[2:]])"),
    "the same message again and again": Abuse("again = frames()\nfor _ in range(50): publish(again)", says=UNUSABLE),
    # JSON
    "no JSON": Abuse("publish(frames(content=b'nonsense'))"),
    "half of it": Abuse('publish(frames(content=b\'{"name": "stdout"\'))'),
    "NaN": Abuse('publish(frames(\'comm_msg\', b\'{"comm_id": "c", "data": NaN}\'))'),
    "a number of infinite size": Abuse('publish(frames(\'comm_msg\', b\'{"comm_id": "c", "data": 1e999}\'))'),
    "a number of a million digits": Abuse("publish(frames(content=b'{\"text\": ' + b'9' * 1_000_000 + b'}'))"),
    "deep JSON": Abuse("publish(frames(content=deep(500)))"),
    "very deep JSON": Abuse("publish(frames(content=deep(2_000_000)))"),
    "deep JSON in a header": Abuse("publish(frames(head=deep(3000)))"),
    "millions of small values": Abuse("publish(frames(content=b'{\"text\": [' + b'[],' * 2_600_000 + b'1]}'))"),
    "millions of ends": Abuse("publish(frames(content=b'[' * 51 + b']' * 8_000_000))"),
    "UTF-16": Abuse('publish(frames(content=\'{"name": "stdout", "text": "x"}\'.encode(\'utf-16\')))'),
    "a header that is no UTF-8": Abuse('publish(frames(head=b\'{"msg_id": "\\xff"}\'))'),
    # types
    "a list for content": Abuse("publish(frames(content=[1, 2]))"),
    "null for a header": Abuse("publish(frames(head=b'null'))"),
    "null for a parent header": Abuse("publish(frames(parents=b'null'))"),
    "a text for metadata": Abuse("publish(frames(metadata=b'\"x\"'))"),
    "a number for an id": Abuse("publish(frames(head={'msg_id': 5, 'msg_type': 'stream'}))"),
    "a list for a type": Abuse("publish(frames(head={'msg_id': '5', 'msg_type': ['stream']}))"),
    "a version that is none": Abuse("publish(frames(head={'msg_id': '5', 'msg_type': 'stream', 'version': 'x'}))"),
    "a date that is none": Abuse(
        "publish(frames(head={'msg_id': '5', 'msg_type': 'stream', 'date': '2026-99-99T99:99:99Z'}))", says=UNUSABLE
    ),
    "a header of a megabyte": Abuse("publish(frames(head={'msg_id': 'x' * 1_000_000, 'msg_type': 'stream'}))"),
    "a stream that is none": Abuse("publish(frames(content={'name': 'stdlog', 'text': 'x'}))"),
    "output that is a text": Abuse("publish(frames('display_data', {'data': 'x', 'metadata': {}}))"),
    "a traceback of numbers": Abuse("publish(frames('error', {'ename': 'E', 'evalue': '', 'traceback': [1]}))"),
    # names
    "a type nobody knows": Abuse("publish(frames('no_such_type', {}))", **UNTOLD),
    "a request instead of an answer": Abuse("publish(frames('shutdown_request', {'restart': False}))", **UNTOLD),
    "an answer on the wrong channel": Abuse(
        "publish(frames('execute_reply', {'status': 'ok'}))", says=r"not valid and was not shown \(wrong_channel\)"
    ),
    "output on the wrong channel": Abuse(
        "answer(frames('stream', {'name': 'stdout', 'text': 'x'}))", says=r"\(wrong_channel\)", status="error"
    ),
    "a question on the wrong channel": Abuse(
        "publish(frames('input_request', {'prompt': 'token? ', 'password': True}))", says=r"\(wrong_channel\)"
    ),
    # states
    "the server's word that the kernel is dead": Abuse("publish(frames('status', {'execution_state': 'dead'}))"),
    "the server's word that it restarts": Abuse("publish(frames('status', {'execution_state': 'restarting'}))"),
    "idle too early": Abuse("publish(frames('status', {'execution_state': 'idle'}))", **UNTOLD),
    "busy, for nobody's request": Abuse("publish(frames('status', {'execution_state': 'busy'}, parents={}))", **UNTOLD),
    "a thousand states": Abuse(
        "for n in range(1000): publish(frames('status', {'execution_state': ['busy', 'idle'][n % 2]}, parents={}))",
        **UNTOLD,
    ),
    "never idle": Abuse("distort('status', changed(content={'execution_state': 'busy'}))", **UNTOLD),
    "an idle that is none": Abuse("distort('status', changed(content={'execution_state': 5}))"),
    "an idle for somebody else": Abuse("distort('status', changed(parent={'msg_id': 'foreign'}))", **UNTOLD),
    # replies
    "a reply that is no JSON": Abuse("distort('execute_reply', changed(content=b'nonsense'))", **ENDED),
    "a reply without a status": Abuse("distort('execute_reply', changed(content={}))", **ENDED),
    "a reply with a wrong signature": Abuse(
        "distort('execute_reply', lambda old: [old[0], b'0' * 64, *old[2:]])", **ENDED
    ),
    "a reply of three frames": Abuse("distort('execute_reply', lambda old: old[:3])", **ENDED),
    "a reply to a number": Abuse("distort('execute_reply', changed(parent={'msg_id': 5}))", says=UNANSWERED, **ENDED),
    "a reply to a list": Abuse("distort('execute_reply', changed(parent={'msg_id': []}))", **ENDED),
    "a reply to somebody else": Abuse(
        "distort('execute_reply', changed(parent={'msg_id': 'foreign'}))", says=UNANSWERED, **ENDED
    ),
    "a reply that is a status": Abuse(
        "distort('execute_reply', changed(header=session.msg_header('status')))",
        says=r"\(wrong_channel\)|\(content\)",
        status="error",
    ),
    "a reply of 20 MB": Abuse(
        "distort('execute_reply', changed(content={'status': 'ok', 'x': 'x' * 20_000_000}))", **TOO_LARGE, **ENDED
    ),
    "replies nobody asked for": Abuse(
        "for _ in range(100): answer(frames('execute_reply', {'status': 'ok'}, parents={'msg_id': 'nobody'}))",
        **UNTOLD,
    ),
    "an answer to kernel_info of a version that is none": Abuse(
        "answer(frames('kernel_info_reply', {'protocol_version': 'x'}, parents={'msg_id': 'nobody'}))",
        says=r"\(content\)",
    ),
    # amounts
    "one message of 500 MB": Abuse(
        "publish(frames('display_data', b'{\"data\": {\"text/plain\": \"' + b'x' * 500_000_000 + b'\"}}'), copy=False)",
        **TOO_LARGE,
    ),
    "a hundred messages of 10 MB": Abuse(
        "for _ in range(100): publish(frames(content={'name': 'stdout', 'text': 'x' * 10_000_000}))",
        says=r"Output too large(.|\n)*In all, \d+ messages with [0-9,]+ bytes were not shown",
    ),
    "a buffer of 300 MB": Abuse("publish(frames(buffers=[bytes(300_000_000)]), copy=False)", **TOO_LARGE),
    "a thousand buffers of 1 MB": Abuse("publish(frames(buffers=[bytes(1_000_000)] * 1000), copy=False)", **TOO_LARGE),
    "a flood of small messages": Abuse("for _ in range(20_000): publish(frames('no_such_type', {}))", **UNTOLD),
    "a flood of comms": Abuse(
        "for n in range(20_000): publish(frames('comm_open', {'comm_id': str(n), 'target_name': 't', 'data': {}}))",
        **UNTOLD,
    ),
    # beneath ZMQ, on all channels at once
    "bytes that are no ZMTP": Abuse("raw(b'\\xff' * 1000)", says=GIVEN_UP, **ENDED),
    "random bytes": Abuse("raw(os.urandom(1000))", says=f"{GIVEN_UP}|not shown", **ENDED),
    "a frame of 2**62 bytes": Abuse("raw(b'\\x02' + (1 << 62).to_bytes(8, 'big'))", says=GIVEN_UP, **ENDED),
    "a message whose frames never end": Abuse(
        "raw(b'\\x03' + (1 << 20).to_bytes(8, 'big') + bytes(1 << 20), times=100)", says="not shown", **ENDED
    ),
    "a message of endless empty frames": Abuse("raw(b'\\x01\\x00' * 200_000)", says=GIVEN_UP, **ENDED),
    "commands": Abuse("raw(b'\\x04\\x05\\x04PING' * 10_000)", **UNTOLD),
}


@contextlib.contextmanager
def serving(folder: Path, *more: str):
    """A server in a process of its own, with sandbox kernels that have the memory to attack it; yields its address."""
    tree = Tree()
    (tree.templates / "attacker.toml").write_text("min_idle = 0\n[limits]\nmemory_mib = 3072\n")
    spec = json.loads((REPOSITORY / "kernelspecs/sandbox-python/kernel.json").read_text())
    spec["metadata"]["kernel_provisioner"]["config"] = {"template": "attacker", "workspace": "none"}
    kernels = folder / "jupyter/kernels/attacker"
    kernels.mkdir(parents=True)
    (kernels / "kernel.json").write_text(json.dumps(spec))
    extensions = {"jupyter_sandbox": True, "tests.attacks.loop_watch": True, "jupyter_server_terminals": False}
    tree.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(REPOSITORY))
            patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
            always = [f"--ServerApp.jpserver_extensions={extensions}", "--SandboxExtension.slow_reader_s=2"]
            with a_server(tree, folder, *always, *more) as (process, url):
                yield url
                ended = process.poll()
                assert ended is None, f"the server died ({ended}): {process.stderr.read().decode()[-3000:]}"
    finally:
        tree.stop()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One of them; yields its address."""
    with serving(tmp_path_factory.mktemp("server")) as url:
        yield url


class Client:
    """A browser's half: kernels and their websockets."""

    def __init__(self, url: str) -> None:
        self.url, self.notebooks = url, []

    async def start(self, name: str) -> str:
        return (await request(f"{self.url}api/kernels", "POST", {"name": name}))["id"]

    async def open(self, kernel_id: str, protocol=V1, session_id=None, buffer_bytes=None) -> Notebook:
        address = f"{self.url}api/kernels/{kernel_id}/channels".replace("http", "ws", 1)
        address += f"?session_id={session_id or f'client-{len(self.notebooks)}'}"
        opening = HTTPRequest(address, headers={"Authorization": f"token {TOKEN}"})
        websocket = await websocket_connect(
            opening, subprotocols=[protocol] if protocol else None, max_message_size=64 << 20
        )
        notebook = Notebook(websocket, protocol)
        notebook.kernel_id = kernel_id
        self.notebooks.append(notebook)
        return notebook

    async def new(self, name: str = "attacker", protocol=V1) -> Notebook:
        return await self.open(await self.start(name), protocol)

    async def refusals(self, kernel_id: str) -> dict[str, int]:
        return await request(f"{self.url}refusals/{kernel_id}")

    async def end(self) -> None:
        for notebook in self.notebooks:
            await notebook.closed()
        for kernel in await request(f"{self.url}api/kernels"):
            await request(f"{self.url}api/kernels/{kernel['id']}", "DELETE")


@pytest.fixture
def client(server, jp_asyncio_loop):
    made = Client(server)
    yield made
    jp_asyncio_loop.run_until_complete(made.end())


@pytest.fixture
def exemplary_client(tmp_path, jp_asyncio_loop):
    """The same, of a server with the configuration that operators are given as an example."""
    with serving(tmp_path, f"--config={REPOSITORY / 'jupyter_server_config.py'}") as url:
        made = Client(url)
        yield made
        jp_asyncio_loop.run_until_complete(made.end())


@contextlib.asynccontextmanager
async def watched(client: Client):
    """The server grows by less than the bound while this runs, and its loop is never busy for long: see rest_world."""
    before = await request(f"{client.url}watch", "POST", {})
    assert before["frozen_objects"] > 50_000, "or a collection of garbage looks through the whole server meanwhile"
    yield
    after = await request(f"{client.url}watch", "DELETE")
    grown = round(after["peak_mib"] - before["rss_mib"])
    print(
        f"grown {grown} MiB, left {round(after['rss_mib'] - before['rss_mib'])} MiB, "
        f"busy {after['longest_work_s'] * 1000:.0f} ms"
    )
    assert grown < GROWTH_MIB
    assert after["longest_work_s"] < BUSY_S
    assert after["longest_turn_s"] < 5 * BUSY_S


@pytest.mark.timeout(900)
@pytest.mark.parametrize("protocol", FORMATS, ids=["legacy", "v1"])
async def test_a_kernel_that_lies_hurts_nobody_but_itself(client, protocol):
    """All abuses, one after the other, of one kernel: what it did before must not matter either."""
    victim = await client.new("sandbox-python")
    await victim.run("kept = 'still here'")
    liar = await client.new(protocol=protocol)
    await liar.run(PRELUDE)
    failures = []
    for name, abuse in ABUSES.items():
        print(name, end=": ", flush=True)
        try:
            await suffer(client, liar, victim, abuse)
        except (AssertionError, TimeoutError) as failure:
            failures.append(f"{name}: {type(failure).__name__} {str(failure)[:300]}")
            print("FAILED", failures[-1])
    assert failures == []


async def suffer(client, liar, victim, abuse) -> None:
    async with watched(client):
        result = await liar.execute(abuse.code, timeout_s=120)
        await liar.answers(timeout_s=120)  # connections that were made anew come back one after the other
        executions = (victim.execute("print(kept)", timeout_s=60), liar.execute("6 * 7", timeout_s=60))
        ordinary, own = await asyncio.gather(*executions)
    assert ordinary.text() == "still here\n"
    assert own.value == "42", own
    assert result.status == abuse.status, result
    said = result.text("stderr")
    if abuse.says is None:
        assert said == ""
    else:
        assert re.search(abuse.says, said), said


LIES = {
    "a count of frames without end": (V1, (1 << 63).to_bytes(8, "little")),
    "a million frames": (V1, (1 << 20).to_bytes(8, "little")),
    "frames that overlap": (V1, struct.pack("<202Q", 201, *[0, 1 << 21] * 100, 0) + bytes(1 << 21)),
    "buffers without end, in the older format": (None, struct.pack("!I", (1 << 31) - 1)),
    "millions of small values": (None, '{"header": {}, "content": [' + "[]," * 3_000_000 + "1]}"),
}


@pytest.mark.parametrize(("protocol", "message"), LIES.values(), ids=LIES)
async def test_a_client_whose_message_is_none_is_hung_up_on_before_it_is_read(client, protocol, message):
    liar, victim = await client.new("sandbox-python", protocol), await client.new("sandbox-python")
    await victim.run("kept = 'still here'")
    async with watched(client):
        await liar._websocket.write_message(message, binary=isinstance(message, bytes))
        async with asyncio.timeout(20):
            while await liar._websocket.read_message() is not None:
                pass
        assert liar._websocket.close_code == 1007
        assert await victim.run("print(kept)") == "still here\n"
    again = await client.open(liar.kernel_id, protocol, session_id="another")
    assert (await again.execute("6 * 7")).value == "42"


MANY_LARGE = "for _ in range(100): publish(frames('display_data', {'data': {'text/plain': 'x' * 4_000_000}}))"


async def test_a_client_that_reads_nothing_is_hung_up_on_and_can_come_again(client):
    await reads_nothing(client)


async def test_a_client_that_reads_nothing_takes_as_little_of_the_server_that_is_our_example(exemplary_client):
    await reads_nothing(exemplary_client)


async def reads_nothing(client):
    """400 MB for a client that reads nothing: 4 MiB wait in the server, the rest in the sandbox, until it is cut off."""
    liar, victim = await client.new(), await client.new("sandbox-python")
    await liar.run(PRELUDE)
    async with watched(client):
        liar.start(MANY_LARGE)
        await asyncio.sleep(6)
        assert await victim.run("print(1)") == "1\n"
        with pytest.raises(AssertionError, match="closed"):
            for _ in range(100):
                await liar.receive()
    websocket = liar._websocket
    assert websocket.close_code in {1008, None}  # None when the farewell did not come through the full buffer any more
    again = await client.open(liar.kernel_id, session_id="another")
    await again.answers()
    assert (await again.execute("6 * 7")).value == "42"


async def test_a_client_that_reads_slowly_gets_everything(client):
    liar = await client.new()
    await liar.run(PRELUDE)
    async with watched(client):
        running = liar.start(MANY_LARGE.replace("100", "40"))
        shown = 0
        while True:
            message = await liar.receive()
            if message["parent_id"] != running:
                continue
            if message["msg_type"] == "display_data":
                shown += 1
                await asyncio.sleep(0.05)
            elif message["content"].get("execution_state") == "idle":
                break
    assert shown == 40


async def test_what_a_closed_tab_missed_is_bounded_and_it_is_told(client):
    liar = await client.open(await client.start("attacker"), session_id="tab")
    await liar.run(PRELUDE)
    running = liar.start(f"publish(frames(content={{'name': 'stdout', 'text': 'go'}})); time.sleep(3)\n{MANY_LARGE}")
    await liar.printed(running, "go")
    async with watched(client):
        await liar.closed()
        while (await request(f"{client.url}api/kernels/{liar.kernel_id}"))["execution_state"] != "idle":  # noqa: ASYNC110 - a server has no event for it
            await asyncio.sleep(0.1)
    again = await client.open(liar.kernel_id, session_id="tab")

    def is_idle(message) -> bool:
        return message["parent_id"] == running and message["content"].get("execution_state") == "idle"

    messages = await again.receive_until(lambda message: "were dropped while" in message["content"].get("text", ""))
    marker = messages[-1]
    if not any(is_idle(message) for message in messages):  # the last ones may come while the tab is opened again
        messages += await again.receive_until(is_idle)
    shown = [message for message in messages if message["msg_type"] == "display_data"]
    assert 3 <= len(shown) < 20
    assert {message["parent_id"] for message in shown} == {running} == {marker["parent_id"]}
    assert marker["content"]["name"] == "stderr"
    dropped = int(marker["content"]["text"].split()[0])
    assert dropped + len(shown) == 100
    kinds = [message["msg_type"] for message in messages]
    assert "execute_reply" in kinds, "what a client waits for is kept"
    assert (await again.execute("6 * 7")).value == "42"


async def test_many_tabs_of_one_lying_kernel_have_an_end_each(client):
    """Another client of the same kernel is told, too, and its own execution ends."""
    first = await client.new()
    second = await client.open(first.kernel_id)
    await first.run(PRELUDE)
    result = await first.execute("distort('execute_reply', changed(content=b'nonsense'))")
    assert result.status == "error"
    assert (await second.execute("6 * 7")).value == "42"
    assert (await client.refusals(first.kernel_id))["json"] == 1


async def test_requests_of_other_kinds_have_an_end_too(client):
    liar = await client.new()
    await liar.run(PRELUDE)
    await liar.run("distort('complete_reply', changed(content=b'nonsense'))")
    asked = liar.send("complete_request", {"code": "impo", "cursor_pos": 4})
    (*_, reply) = await liar.receive_until(lambda message: message["msg_type"] == "complete_reply")
    assert (reply["parent_id"], reply["content"]["status"]) == (asked, "error")


async def test_an_interrupted_question_does_not_matter(client):
    """A question that is none: the person is told, and interrupt helps as always."""
    liar = await client.new()
    await liar.run(PRELUDE)
    await liar.run("distort('input_request', changed(content={'prompt': 5}))")
    running = liar.start("input()", allow_stdin=True)
    await liar.printed(running, "is not valid and was not shown (content)")
    await request(f"{client.url}api/kernels/{liar.kernel_id}/interrupt", "POST", {})
    assert (await liar.finish(running)).reply["ename"] == "KeyboardInterrupt"


async def test_the_activity_watcher_believes_only_what_was_judged(client):
    liar = await client.new()
    await liar.run(PRELUDE)
    for state in ("dead", 5, "restarting"):
        await liar.run(f"publish(frames('status', {{'execution_state': {state!r}}}))")
        assert (await request(f"{client.url}api/kernels/{liar.kernel_id}"))["execution_state"] in {"idle", "busy"}


async def test_a_native_kernel_of_the_same_server_is_left_as_it_is(client):
    """Its large and odd messages pass as with stock Jupyter."""
    native = await client.new("python3")
    code = "from IPython.display import display\ndisplay({'text/plain': 'y' * 12_000_000}, raw=True)"
    (shown,) = [output for output in (await native.execute(code)).outputs if output["msg_type"] == "display_data"]
    assert len(shown["content"]["data"]["text/plain"]) == 12_000_000
    await native.run(PRELUDE)
    odd = await native.execute("publish(frames('no_such_type', {'a': 1}))")
    assert [output["msg_type"] for output in odd.outputs] == ["execute_input", "no_such_type"]


async def test_an_honest_large_output_passes_and_a_larger_one_is_named(client):
    notebook = await client.new()
    code = "from IPython.display import display\ndisplay({'text/plain': 'y' * %d}, raw=True)"
    whole = await notebook.execute(code % 8_000_000)
    (shown,) = [output for output in whole.outputs if output["msg_type"] == "display_data"]
    assert len(shown["content"]["data"]["text/plain"]) == 8_000_000
    refused = await notebook.execute(code % 9_000_000)
    assert refused.status == "ok"
    assert re.fullmatch(
        r"Output too large: a message of 9,000,\d\d\d bytes was not shown. One message may have 8 MiB "
        r"\(SandboxExtension.max_message_mib\).\n",
        refused.text("stderr"),
    )


async def test_text_that_is_no_utf_8_is_shown_as_a_browser_shows_it(client):
    """An honest kernel: names of files that are not UTF-8."""
    for protocol in FORMATS:
        notebook = await client.new(protocol=protocol)
        said = await notebook.run("import os; print(os.fsdecode(b'caf\\xe9'))")
        assert said == "caf\ufffd\n"


async def test_nbclient_comes_to_the_end_of_a_notebook_of_lies(client):
    """nbclient waits for each reply and each idle; it reaches the server by jupyter_client's websocket channels."""
    lies = [name for name in ABUSES if "reply" in name or "idle" in name or "status" in name]
    assert len(lies) > 10
    order = {
        "url": client.url,
        "token": TOKEN,
        "kernel": "attacker",
        "cells": [PRELUDE, *(ABUSES[name].code for name in lies), "6 * 7"],
    }
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(REPOSITORY / "tests/attacks/stock_client.py")),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    said, complaints = await process.communicate(json.dumps(order).encode())
    assert process.returncode == 0, complaints.decode()[:3000]
    *_, last = json.loads(said)
    assert [output["data"]["text/plain"] for output in last] == ["42"]
