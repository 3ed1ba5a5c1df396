"""Exclusive mode on real servers: each way round the sandbox keeps the server from starting; closed, all are closed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from jupyter_client.kernelspec import NoSuchKernel
from jupyter_server.gateway.gateway_client import GatewayClient
from tornado.httpclient import HTTPClientError
from traitlets.config import Config

from jupyter_sandbox import exclusive
from jupyter_sandbox.languages import TABLE
from tests.server.server_process import a_server, command, request

CONFIG_FILE = Path(__file__).resolve().parents[2] / "jupyter_server_config.py"


@pytest.fixture
def closed_config(add_kernelspec):
    """The least configuration that is exclusive and closed."""
    GatewayClient.clear_instance()
    yield Config(
        {
            "SandboxExtension": {"exclusive": True},
            "ServerApp": {
                "jpserver_extensions": {"jupyter_sandbox": True, "jupyter_server_terminals": False},
                "kernel_spec_manager_class": "jupyter_sandbox.kernel_specs.SandboxKernelSpecManager",
                "terminals_enabled": False,
            },
            "MultiKernelManager": {"default_kernel_name": "sandbox-python"},
        }
    )
    GatewayClient.clear_instance()


def test_a_closed_server_starts(jp_configurable_serverapp, closed_config):
    server = jp_configurable_serverapp(config=closed_config)
    assert exclusive.findings(server) == []


STOCK_SPECS = "jupyter_client.kernelspec.KernelSpecManager"
OPEN_WAYS = {
    "stock kernelspecs": ({"ServerApp": {"kernel_spec_manager_class": STOCK_SPECS}}, "native kernels"),
    "foreign default": ({"MultiKernelManager": {"default_kernel_name": "echo"}}, "the default kernel 'echo'"),
    "gateway": ({"GatewayClient": {"url": "http://127.0.0.1:9"}}, "a gateway runs kernels elsewhere"),
    "terminals": ({"ServerApp": {"terminals_enabled": True}}, "terminals"),
    "terminals extension": (
        {"ServerApp": {"jpserver_extensions": {"jupyter_sandbox": True, "jupyter_server_terminals": True}}},
        "terminals",
    ),
    "no token": ({"IdentityProvider": {"token": ""}, "ServerApp": {"token": ""}}, "anybody may log in"),
}


@pytest.mark.parametrize("way", OPEN_WAYS)
def test_an_open_way_keeps_the_server_from_starting(jp_configurable_serverapp, closed_config, capfd, way):
    change, words = OPEN_WAYS[way]
    closed_config.merge(Config(change))
    with pytest.raises(SystemExit) as ending:
        jp_configurable_serverapp(config=closed_config)
    assert ending.value.code == 1
    _, _, told = capfd.readouterr().err.partition("but this configuration opens ways round it:")
    assert words in told


def test_a_gateway_with_its_own_managers_keeps_the_server_from_starting(jp_configurable_serverapp, closed_config):
    del closed_config.ServerApp["kernel_spec_manager_class"]
    closed_config.GatewayClient.url = "http://127.0.0.1:9"
    with pytest.raises(SystemExit) as ending:
        jp_configurable_serverapp(config=closed_config)
    assert ending.value.code == 1


def test_asking_for_the_native_kernel_does_not_bring_it(jp_configurable_serverapp, closed_config):
    for name in ("KernelSpecManager", "SandboxKernelSpecManager"):
        closed_config[name].ensure_native_kernel = True
        closed_config[name].allowed_kernelspecs = {"python3", "echo", "sandbox-python"}
    server = jp_configurable_serverapp(config=closed_config)
    assert set(server.kernel_spec_manager.get_all_specs()) == {"sandbox-python"}
    for name in ("python3", "echo"):
        with pytest.raises(NoSuchKernel):
            server.kernel_spec_manager.get_kernel_spec(name)


def test_a_server_that_cannot_be_judged_does_not_start(jp_configurable_serverapp, closed_config, monkeypatch):
    """jupyter_server only warns when an extension fails to load: an error of the judge must not open the way."""

    def broken(_server):
        raise AttributeError("a configuration that the judge does not know")

    monkeypatch.setattr(exclusive, "findings", broken)
    with pytest.raises(SystemExit):
        jp_configurable_serverapp(config=closed_config)


def test_the_operator_reads_why_the_server_does_not_start(tree, tmp_path):
    more = [f"--config={CONFIG_FILE}", "--ServerApp.terminals_enabled=True"]
    process = {"env": tree.environment(), "cwd": tmp_path, "timeout": 60}
    done = subprocess.run(command(tmp_path, *more), capture_output=True, text=True, check=False, **process)
    assert done.returncode == 1
    assert "opens ways round it" in done.stderr
    assert "set c.ServerApp.terminals_enabled = False" in done.stderr
    assert "Traceback" not in done.stderr


CLOSED = {
    "native kernel": ("api/kernels", "POST", {"name": "python3"}, 404),
    "default kernel by another name": ("api/kernels", "POST", {"name": "native"}, 404),
    "native session": (
        "api/sessions",
        "POST",
        {"path": "a.ipynb", "name": "a", "type": "notebook", "kernel": {"name": "python3"}},
        404,
    ),
    "native kernel by jupyter_client's alias": ("api/kernels", "POST", {"name": "python"}, 404),
    "terminal": ("api/terminals", "POST", {}, 404),
    "list of terminals": ("api/terminals", "GET", None, 404),
    "conversion of a file": ("nbconvert/html/a.ipynb", "GET", None, 403),
    "conversion of a body": ("nbconvert/html", "POST", {}, 403),
    "formats": ("api/nbconvert", "GET", None, 403),
}


async def test_the_repositorys_configuration_starts_and_runs_sandboxes_only(tree, tmp_path):
    (tmp_path / "a.ipynb").write_text('{"cells": [], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}')
    with a_server(tree, tmp_path, f"--config={CONFIG_FILE}") as (_, url):
        specs = await request(f"{url}api/kernelspecs")
        assert specs["default"] == "sandbox-python"
        assert {"sandbox-python"} <= set(specs["kernelspecs"]) <= {language.kernelspec for language in TABLE}
        refusals = {}
        for way, (path, method, body, _) in CLOSED.items():
            with pytest.raises(HTTPClientError) as refusal:
                await request(f"{url}{path}", method, body)
            refusals[way] = refusal.value.code
        expected = {way: code for way, (_, _, _, code) in CLOSED.items() if code}
        assert {way: refusals[way] for way in expected} == expected
        assert await request(f"{url}api/kernels") == []
        assert await request(f"{url}api/kernels", "POST", {})
        assert [kernel["name"] for kernel in await request(f"{url}api/kernels")] == ["sandbox-python"]
