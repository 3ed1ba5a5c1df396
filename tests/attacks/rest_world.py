"""A server in a process of its own with several people, for attacks on its REST surface."""

from __future__ import annotations

import asyncio
import contextlib
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest
from tornado.httpclient import AsyncHTTPClient
from tornado.simple_httpclient import HTTPStreamClosedError

from jupyter_sandbox import tokens
from jupyter_sandbox.token_file import TokenFile
from tests.attacks.attacker import REPOSITORY
from tests.server.brokers import Tree
from tests.server.rest import Rest
from tests.server.server_process import a_server, request

GROWTH_MIB = 64
"""What the server may take more while it is attacked, at any moment."""
BUSY_S = 0.1
CONFIG = """
c.ServerApp.identity_provider_class = "tests.attacks.people.PeopleWithTokens"
c.ServerApp.authorizer_class = "jupyter_sandbox.authorizer.OwnerAuthorizer"
c.OwnerTokens.token_file = {token_file!r}
c.E2b.domain = "sandbox.example"
c.Rates.reads_per_minute = c.Rates.writes_per_minute = c.Rates.executions_per_minute = 1_000_000
c.Quotas.owners = {{
    "three": {{"sandboxes": 3}},
    "two": {{"contexts": 2}},
    "small": {{"file_mib": 1}},
    "nothing": {{"sandboxes": 0}},
}}
# Whatever any logger says, however unimportant.
everything = {{"level": "DEBUG", "handlers": ["all"]}}
c.Application.logging_config = {{
    "handlers": {{"all": {{"class": "logging.FileHandler", "filename": {log!r}, "level": "DEBUG"}}}},
    "loggers": {{"ServerApp": everything, "SandboxExtension": everything, "tornado": everything, "jupyter_sandbox": everything}},
}}
"""


async def once_refused(ask, good=200, within_s=10):
    """Ask again until the answer's code is another, and return that answer: a token's end is noticed once a second.

    Who is connected at that moment is hung up on.
    """
    async with asyncio.timeout(within_s):
        while True:
            with contextlib.suppress(HTTPStreamClosedError):
                answer = await ask()
                if (answer.status if hasattr(answer, "status") else answer.code) != good:
                    return answer
            await asyncio.sleep(0.02)


class Tokens:
    """An operator's tokens of a server in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.file, self.log = TokenFile(folder / "tokens.json"), folder / "server.log"
        self.secrets: list[str] = []

    def issue(self, owner: str, *scopes: str, expires_in_s: float | None = None) -> str:
        """A new token; `jupyter sandbox token create` does no more."""
        token_id, text, digest = tokens.mint()
        now = datetime.now(UTC)
        token = tokens.Token(
            id=token_id,
            owner=owner,
            scopes=scopes or ("sandboxes", "kernels", "files"),
            created_at=now,
            expires_at=None if expires_in_s is None else now + timedelta(seconds=expires_in_s),
            digest=digest,
        )
        self.file.change(lambda stored: (*stored, token))
        self.secrets.append(text)
        return text

    def revoke(self, text: str) -> None:
        self.file.change(lambda stored: tuple(token for token in stored if token.id != tokens.id_in(text)))


@contextlib.contextmanager
def a_world(folder: Path, more_config: str = ""):
    """Yield the address of a server whose sandbox kernels have the memory to attack it, and that watches itself.

    `more_config`: lines of Python for its configuration.
    """
    tree = Tree()
    config_file = folder / "world_config.py"
    known = Tokens(folder)
    config_file.write_text(CONFIG.format(token_file=str(known.file.path), log=str(known.log)) + more_config)
    (tree.templates / "attacker.toml").write_text("min_idle = 0\n[limits]\nmemory_mib = 3072\n")
    text = (REPOSITORY / "kernelspecs/sandbox-python/kernel.json").read_text()
    for name, config in (("sandbox-python", {}), ("attacker", {"template": "attacker", "workspace": "none"})):
        spec = json.loads(text)
        spec["metadata"]["kernel_provisioner"]["config"] = config
        directory = folder / "jupyter/kernels" / name
        directory.mkdir(parents=True)
        (directory / "kernel.json").write_text(json.dumps(spec))
    extensions = {"jupyter_sandbox": True, "tests.attacks.loop_watch": True, "jupyter_server_terminals": False}
    tree.start()
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", str(REPOSITORY))
            patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
            more = [f"--ServerApp.jpserver_extensions={extensions}", "--ServerApp.log_level=ERROR"]
            more += [f"--config={config_file}"]
            with a_server(tree, folder, *more) as (process, url):
                yield url
                ended = process.poll()
                assert ended is None, f"the server died ({ended}): {process.stderr.read().decode()[-3000:]}"
    finally:
        tree.stop()


def as_person(url: str, name: str) -> Rest:
    """A client of the REST surface."""
    client = AsyncHTTPClient(force_instance=True, max_clients=200)

    async def fetch(*parts, params, **how):
        path = "/".join(quote(part, safe="") for part in parts)
        query = f"?{urlencode(params)}" if params else ""
        return await client.fetch(f"{url}{path}{query}", **how)

    return Rest(fetch, headers={"Authorization": f"token {name}"} if name else {})


@contextlib.asynccontextmanager
async def watched(url: str, busy_s: float = BUSY_S, growth_mib: float = GROWTH_MIB):
    """The server grows by less than `growth_mib` while this runs; its loop is never busy for so long with one thing.

    Nor for five times as long with all that came while the machine did something else.
    """
    before = await request(f"{url}watch", "POST", {})
    yield
    after = await request(f"{url}watch", "DELETE")
    grown, longest_s = round(after["peak_mib"] - before["rss_mib"]), after["longest_work_s"]
    assert grown < growth_mib, f"grown {grown} MiB"
    assert longest_s < busy_s, f"busy {longest_s:.3f} s"
    assert after["longest_turn_s"] < 5 * busy_s, f"busy {after['longest_turn_s']:.3f} s in a turn"
