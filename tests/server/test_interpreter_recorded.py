"""Requests as clients of the code interpreter's API send them, recorded, and sent again as they are.

Each file of `recorded` is one user's way: its requests with method, path, headers and body, in order, and what must be
answered. Of a request only `<token>` and `<store>`, an object store's host and port, are put in. In an answer `<id>`,
`<number>`, `<png>` and `<any>` stand for what is new each time, other words between `<` and `>` for a text that begins
with them.
"""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from traitlets.config import Config

from tests.attacks.far_ends import far_end
from tests.server.raw_http import received

TAKEN = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
RECORDED = {path.stem: json.loads(path.read_text()) for path in Path(__file__).with_name("recorded").glob("*.json")}


@pytest.fixture
def jp_base_url():
    """The paths are those of the API."""
    return "/"


@pytest.fixture
def jp_server_config(jp_server_config, free_port):
    """An operator's object store on this machine."""
    jp_server_config.merge(Config({"FileTransfers": {"allowed_hosts": [f"127.0.0.1:{free_port}"]}}))
    return jp_server_config


def is_meant(wanted, said) -> bool:
    """Whether an answer is the one that was recorded."""
    match wanted:
        case "<any>":
            return True
        case "<id>":
            return isinstance(said, str) and said.startswith("sbx_")
        case "<number>":
            return type(said) is int and said > 0
        case "<png>":
            return base64.b64decode(said).startswith(b"\x89PNG")
        case str() if wanted.startswith("<") and wanted.endswith(">"):
            return isinstance(said, str) and said.startswith(wanted[1:-1])
        case dict():
            return (
                isinstance(said, dict)
                and set(said) == set(wanted)
                and all(is_meant(wanted[name], said[name]) for name in wanted)
            )
        case list():
            return isinstance(said, list) and len(said) == len(wanted) and all(map(is_meant, wanted, said))
    return type(said) is type(wanted) and said == wanted


async def sent(address, request, put_in):
    """The answer to a recorded request."""
    method, path, headers, body = (request[name] for name in ("method", "path", "headers", "body"))
    data = b"" if body is None else put_in(body).encode()
    lines = [f"{method} {path} HTTP/1.1", f"Host: {address.netloc}", f"Content-Length: {len(data)}"]
    lines += [f"{name}: {put_in(value)}" for name, value in headers.items()]
    if "Connection" not in headers:
        lines.append("Connection: close")
    reader, writer = await asyncio.open_connection(address.hostname, address.port, limit=1 << 20)
    writer.write("\r\n".join([*lines, "", ""]).encode() + data)
    return await received(reader, writer)


async def store(head):
    """An object store: what is read is three bytes, what is written is taken."""
    yield b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n1,2" if head.startswith("GET") else TAKEN


@pytest.mark.parametrize("way", RECORDED)
async def test_what_was_recorded_is_answered_as_it_was(way, interpreter, jp_serverapp, free_port):
    interpreter.user = RECORDED[way]["user"]  # which is released in the end
    address = urlsplit(jp_serverapp.connection_url)

    def put_in(text):
        return text.replace("<token>", interpreter.token).replace("<store>", f"127.0.0.1:{free_port}")

    async with far_end(store, port=free_port) as end:
        for number, step in enumerate(RECORDED[way]["steps"]):
            answer, wanted = await sent(address, step["request"], put_in), step["answer"]
            said = json.loads(answer.body) if answer.body else None
            assert (number, answer.status) == (number, wanted["status"]), said
            assert is_meant(wanted["body"], said), (number, wanted["body"], said)
            given = {name: answer.headers.get(name, "") for name in wanted["headers"]}
            assert given == {name: value.lower() for name, value in wanted["headers"].items()}, number
    written = [head.split(" ")[0] for head in end.heads if not head.startswith("GET")]
    assert written == (["PUT", "POST"] if way == "files" else [])
