"""A Jupyter server with the extension, its sandbox kernelspecs, and proof that nothing stays claimed after a test."""

from __future__ import annotations

import json
import shutil
import socket
from datetime import UTC, datetime
from pathlib import Path

import pytest
from traitlets.config import Config

from jupyter_sandbox import tokens
from jupyter_sandbox.host import places
from jupyter_sandbox.token_file import TokenFile
from tests.server.brokers import Tree, nothing_is_claimed
from tests.server.interpreter import Interpreter
from tests.server.notebook import Notebook
from tests.server.rest import Rest

KERNELSPEC = Path(__file__).resolve().parents[2] / "kernelspecs" / "sandbox-python"


def pytest_collection_modifyitems(items):
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker(pytest.mark.server)


@pytest.fixture(scope="session")
def kept_tree():
    """A broker tree for all tests of this folder; its broker stays when servers tell it to go."""
    tree = Tree()
    yield tree
    tree.stop()


@pytest.fixture
def own_tree(monkeypatch):
    """A broker tree of one test's own; nobody starts a broker in it but the server under test."""
    tree = Tree()
    monkeypatch.setenv(places.DIRECTORY_VARIABLE, str(tree.directory))
    yield tree
    tree.stop()


@pytest.fixture(autouse=True)
def tree(request, monkeypatch):
    """The broker tree that this test uses."""
    monkeypatch.delenv(places.SOCKET_VARIABLE, raising=False)
    if "own_tree" in request.fixturenames:
        return request.getfixturevalue("own_tree")
    kept = request.getfixturevalue("kept_tree")
    kept.start()
    monkeypatch.setenv(places.DIRECTORY_VARIABLE, str(kept.directory))
    return kept


@pytest.fixture(autouse=True)
def jp_asyncio_loop(jp_asyncio_loop, tree):
    """pytest-jupyter's loop. When it ends the server has stopped: whatever was claimed must have been given back."""
    yield jp_asyncio_loop
    jp_asyncio_loop.run_until_complete(nothing_is_claimed())


@pytest.fixture
def jp_server_config(add_kernelspec):
    """Our extension, and nothing that we do not need."""
    extensions = {"jupyter_sandbox": True, "jupyter_server_terminals": False}
    return Config({"ServerApp": {"jpserver_extensions": extensions}})


@pytest.fixture
def add_kernelspec(jp_data_dir):
    """Install kernelspecs for this test: `add_kernelspec("tiny", template="small-memory")`. Ours is there already."""
    kernels = Path(jp_data_dir, "kernels")
    shutil.copytree(KERNELSPEC, kernels / KERNELSPEC.name)

    def add(name, **config):
        spec = json.loads((KERNELSPEC / "kernel.json").read_text())
        spec["env"] = config.pop("env", {})
        spec["metadata"]["kernel_provisioner"].setdefault("config", {}).update(config)
        directory = kernels / name
        directory.mkdir()
        (directory / "kernel.json").write_text(json.dumps(spec))
        return name

    return add


@pytest.fixture
def start_kernel(jp_fetch):
    """Start a kernel as a client does; return its id."""

    async def start(name="sandbox-python", **body):
        response = await jp_fetch("api", "kernels", method="POST", body=json.dumps({"name": name} | body))
        assert response.code == 201
        return json.loads(response.body)["id"]

    return start


@pytest.fixture
def open_notebook(jp_ws_fetch, jp_asyncio_loop):
    """Open a kernel's websocket: `notebook = await open_notebook(kernel_id, protocol)`."""
    opened = []

    async def connect(kernel_id, protocol=None, session_id=None):
        session_id = session_id or f"test-{len(opened)}"
        subprotocols = [protocol] if protocol else None
        parts = ("api", "kernels", kernel_id, "channels")
        websocket = await jp_ws_fetch(*parts, params={"session_id": session_id}, subprotocols=subprotocols)
        assert websocket.selected_subprotocol == protocol
        notebook = Notebook(websocket, protocol)
        notebook.kernel_id = kernel_id
        opened.append(notebook)
        return notebook

    yield connect
    for notebook in opened:
        jp_asyncio_loop.run_until_complete(notebook.closed())


@pytest.fixture
def new_notebook(start_kernel, open_notebook):
    """Start a kernel and open its websocket: `notebook = await new_notebook("tiny")`."""

    async def make(name="sandbox-python", protocol=None):
        kernel_id = await start_kernel(name)
        return await open_notebook(kernel_id, protocol)

    return make


@pytest.fixture
def free_port():
    """A port of this machine at which nobody listens, kept for who binds it with SO_REUSEADDR too."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(("127.0.0.1", 0))
        yield probe.getsockname()[1]


@pytest.fixture
def interpreter(jp_serverapp, jp_fetch, jp_asyncio_loop):
    """A user of the code interpreter's API; what it has made is released."""
    client = Interpreter(jp_fetch, jp_serverapp.identity_provider.token)
    yield client
    jp_asyncio_loop.run_until_complete(client("POST", "release"))


@pytest.fixture
def rest(jp_fetch, jp_serverapp):
    """A client of the REST surface: `reply = await rest.get("healthz")`."""
    return Rest(jp_fetch, jp_serverapp)


@pytest.fixture
def owners_token(tmp_path, jp_server_config):
    """Issue tokens: `owners_token("kernels")`. An owner may begin two executions in a minute."""
    file = TokenFile(tmp_path / "tokens.json")
    server = {
        "identity_provider_class": "jupyter_sandbox.identity.SandboxIdentityProvider",
        "authorizer_class": "jupyter_sandbox.authorizer.OwnerAuthorizer",
    }
    more = {"OwnerTokens": {"token_file": str(file.path)}, "Rates": {"executions_per_minute": 2}}
    jp_server_config.merge(Config({"ServerApp": server, **more}))

    def issue(*scopes):
        token_id, text, digest = tokens.mint()
        values = {"id": token_id, "owner": "alice", "scopes": scopes, "created_at": datetime.now(UTC)}
        file.change(lambda stored: (*stored, tokens.Token(**values, expires_at=None, digest=digest)))
        return text

    return issue
