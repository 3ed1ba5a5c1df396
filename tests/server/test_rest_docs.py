"""The examples of the REST page run as they stand, against a server of their own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.server.conftest import KERNELSPEC
from tests.server.server_process import TOKEN, a_server

PAGE = (Path(__file__).resolve().parents[2] / "docs/rest.md").read_text()


def examples(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


@pytest.fixture
def url(tree, tmp_path, monkeypatch):
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    shutil.copytree(KERNELSPEC, tmp_path / "jupyter/kernels" / KERNELSPEC.name)
    extensions = {"jupyter_sandbox": True, "jupyter_server_terminals": False}
    with a_server(tree, tmp_path, f"--ServerApp.jpserver_extensions={extensions}") as (_, address):
        yield address.rstrip("/")


def run(*command: str, url: str) -> str:
    environment = os.environ | {"URL": url, "TOKEN": TOKEN}
    done = subprocess.run(command, env=environment, text=True, capture_output=True, timeout=50, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_curl_example_runs(url):
    if not shutil.which("curl"):
        pytest.skip("needs curl")
    said = run("bash", "-euo", "pipefail", "-c", examples("sh")[0], url=url)
    first, *events = said.replace("}{", "}\n{").splitlines()
    execution = json.loads(first)
    assert (execution["outcome"], execution["outputs"][0]["text"]) == ("ok", "42\n")
    files = events.index("3,4")
    begun, *outputs, over = (json.loads(line) for line in events[:files])
    assert (begun["type"], over["type"]) == ("started", "ended")
    assert "".join(output["output"]["text"] for output in outputs) == "0\n1\n2\n"
    assert len(outputs) >= 3, "as they come; on a busy machine one came in two pieces"
    counted, started, typed, ended = (json.loads(line) for line in events[files + 1 :])
    assert (counted["outcome"], counted["exit_code"]) == ("ok", 0)
    assert (started["type"], typed["text"], ended["command"]["outcome"]) == ("started", "typed\n", "ok")


def test_the_curl_example_of_a_network_runs(url):
    if not shutil.which("curl"):
        pytest.skip("needs curl")
    first, network = examples("sh")
    claimed = "".join(line for line in first.splitlines(keepends=True) if line.startswith(("AUTH=", "SANDBOX=")))
    shown = 'curl -sf -H "$AUTH" "$URL$SANDBOX"\n'
    closed, opened = network.splitlines(keepends=True)
    said = run("bash", "-euo", "pipefail", "-c", claimed + closed + shown + opened + shown, url=url)
    told = [json.loads(line)["network"] for line in said.replace("}{", "}\n{").splitlines()]
    assert told == [{"deny": ["0.0.0.0/0", "::/0"], "allow": []}, {"deny": [], "allow": []}]


def test_the_python_example_runs(url):
    (example,) = examples("python")
    assert run(sys.executable, "-c", example, url=url) == "error ZeroDivisionError\n"


def test_the_example_with_files_runs(url):
    assert run(sys.executable, str(Path(__file__).resolve().parents[2] / "examples/files.py"), url=url) == "6\n"
