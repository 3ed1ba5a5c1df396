"""E2B's SDKs, as they are published, find `jupyter sandbox serve` by a domain, over TLS with the helper's certificate.

Each program runs in a process of its own, whose environment has the domain, the key and the authority, and no URL.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.served import Served
from tests.e2e.test_e2b_javascript import HERE, install, needs_node

EXAMPLES = HERE.parents[1] / "examples"
DOMAIN = "e2b.localhost"
PYTHON = """
import asyncio, os, socket, ssl, urllib.request
from e2b import NotFoundException, SandboxException
from e2b_code_interpreter import AsyncSandbox, Sandbox

resolve = socket.getaddrinfo  # of urllib; the SDK knows by itself where names below `localhost` lead
socket.getaddrinfo = lambda host, *rest, **more: resolve("127.0.0.1", *rest, **more)

with Sandbox.create() as sandbox:
    domain = os.environ["E2B_DOMAIN"]
    assert sandbox.get_host(49999) == f"49999-{sandbox.sandbox_id}.{domain}"
    context = sandbox.create_code_context()
    sandbox.run_code("x = 41", context=context)
    assert sandbox.run_code("x + 1", context=context).text == "42"
    assert sandbox.commands.run("echo $((6 * 7))").stdout == "42\\n"
    heard = []
    sandbox.run_code("print('hello')", on_stdout=lambda message: heard.append(message.line))
    assert heard == ["hello\\n"]
    sandbox.files.write("a b.txt", "mine")
    url = sandbox.download_url("a b.txt")
    assert url.startswith(f"https://49983-{sandbox.sandbox_id}.{domain}/files?")
    with urllib.request.urlopen(url) as answer:
        assert answer.read() == b"mine"
    assert [each.sandbox_id for each in Sandbox.list().next_items()] == [sandbox.sandbox_id]
    again = Sandbox.connect(sandbox.sandbox_id)
    assert again.files.read("a b.txt") == "mine"
    try:
        urllib.request.urlopen(f"https://{sandbox.get_host(8080)}/")
    except urllib.error.HTTPError as error:
        assert error.code == 501
        assert b"port '8080' is not open" in error.read()
    else:
        raise AssertionError("another port answered")
    sandbox.kill()
    assert not again.is_running()

async def use():
    async with await AsyncSandbox.create() as sandbox:
        await sandbox.run_code("y = 1")
        assert (await sandbox.run_code("y + 1")).text == "2"
        assert (await sandbox.commands.run("echo hi")).stdout == "hi\\n"

asyncio.run(use())
print("done", flush=True)
os._exit(0)  # at an ordinary end the SDK's threads, which are not Python's, may abort the process
"""
UNTRUSTED = """
from e2b_code_interpreter import Sandbox

try:
    Sandbox.create()
except Exception as error:
    print("invalid peer certificate" in repr(error) + repr(error.__cause__) + repr(error.__context__))
"""

pytestmark = pytest.mark.timeout(240)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the certificate is."""
    folder = tmp_path_factory.mktemp("domain")
    command = [sys.executable, "-m", "jupyter_sandbox.cli", "certificate", DOMAIN, "--out", str(folder)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder


@pytest.fixture(scope="module")
def environment(tree, folder):
    """What leads programs to a server of the domain."""
    tls = [f"--certificate={folder / 'certificate.pem'}", f"--key={folder / 'key.pem'}"]
    server = Served(folder, "--min-idle-workers=1", "--max-total-workers=4", f"--domain={DOMAIN}", *tls)
    told = f"E2B's SDKs: E2B_DOMAIN={DOMAIN}:{server.port} E2B_API_KEY={server.token}\n"
    assert told in server.log.read_text()
    without = {name: value for name, value in os.environ.items() if not name.startswith("E2B_")}
    yield without | {"E2B_DOMAIN": f"{DOMAIN}:{server.port}", "E2B_API_KEY": server.token}
    server.stop()


def run(*command: str | Path, environment: dict[str, str], cwd: Path | None = None) -> str:
    """What a program says that ends well."""
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_python_programs_find_the_server_by_its_domain(folder, environment):
    trusting = environment | {"SSL_CERT_FILE": str(folder / "ca.pem")}
    assert run(sys.executable, "-c", PYTHON, environment=trusting) == "done\n"
    expected = "said: 3 days\nmean: 11.0\nfile: 11.0\nlines: 4\nwrong: IndexError\n"
    assert run(sys.executable, EXAMPLES / "e2b_sandbox.py", environment=trusting) == expected


def test_who_does_not_trust_the_authority_sends_nothing(environment):
    assert run(sys.executable, "-c", UNTRUSTED, environment=environment) == "True\n"


@needs_node
def test_javascript_programs_find_the_server_by_its_domain(folder, environment, tmp_path):
    install(tmp_path)
    shutil.copy(HERE / "javascript/loopback.mjs", tmp_path)
    trusting = environment | {"NODE_EXTRA_CA_CERTS": str(folder / "ca.pem")}
    node = ("node", "--import", "./loopback.mjs")
    expected = "said: 3 days\nmean: 11.0\nfile: 11.0\nlines: 4\nwrong: IndexError\n"
    assert run(*node, "e2b_sandbox.mjs", environment=trusting, cwd=tmp_path) == expected
    parts = ("contexts are kernels", "commands tell", "signed addresses", "a sandbox that is gone", "wrong key")
    options = ("--test-force-exit", "--test-reporter=tap", f"--test-name-pattern={'|'.join(parts)}")
    said = run(*node, *options, "e2b.mjs", environment=trusting, cwd=tmp_path)
    ran = [line for line in said.splitlines() if line.startswith("ok ") and "# SKIP" not in line]
    assert len(ran) == len(parts)
