"""Exclusive mode: every way round the sandbox is a finding that names the setting which closes it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from jupyter_sandbox import exclusive

pytestmark = pytest.mark.unit

OURS = {"metadata": {"kernel_provisioner": {"provisioner_name": "sandbox-provisioner"}}}


def _server(**changes):
    """A ServerApp as far as `findings` looks at it, locked down; `changes` open one way each."""
    specs = changes.pop("specs", {"sandbox-python": OURS})
    closed = {
        "kernel_spec_manager": SimpleNamespace(
            ensure_native_kernel=changes.pop("ensure_native_kernel", False),
            get_all_specs=lambda: {name: {"resource_dir": "/x", "spec": spec} for name, spec in specs.items()},
        ),
        "kernel_manager": SimpleNamespace(default_kernel_name=changes.pop("default_kernel_name", "sandbox-python")),
        "gateway_config": SimpleNamespace(gateway_enabled=changes.pop("gateway_enabled", False)),
        "terminals_enabled": False,
        "extension_manager": SimpleNamespace(extensions=changes.pop("extensions", {})),
        "default_services": ("api", "kernels"),
        "allow_root": True,
        "password_required": False,
        "identity_provider": SimpleNamespace(token=changes.pop("token", "secret")),
    }
    return SimpleNamespace(**closed | changes)


def test_a_closed_server_has_no_findings():
    assert exclusive.findings(_server()) == []


TERMINALS = {"jupyter_server_terminals": SimpleNamespace(enabled=True)}


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"ensure_native_kernel": True}, "ensure_native_kernel = False"),
        ({"specs": {"sandbox-python": OURS, "python3": {"metadata": {}}}}, "allowed_kernelspecs"),
        ({"specs": {"sandbox-python": OURS, "ir": {}}}, "'ir'"),
        ({"default_kernel_name": "python3"}, "default_kernel_name"),
        ({"gateway_enabled": True}, "c.GatewayClient.url"),
        ({"terminals_enabled": True}, "terminals_enabled = False"),
        ({"extensions": TERMINALS}, "jupyter_server_terminals"),
        ({"default_services": ("api", "nbconvert")}, "default_services"),
        ({"token": ""}, "token or a password"),
    ],
)
def test_each_open_way_is_one_finding_that_names_its_setting(changes, setting):
    found = exclusive.findings(_server(**changes))
    assert len(found) == 1
    assert setting in found[0]


def test_all_open_ways_are_told_at_once():
    server = _server(ensure_native_kernel=True, terminals_enabled=True, gateway_enabled=True, token="")
    assert len(exclusive.findings(server)) == 4


@pytest.mark.parametrize("changes", [{"allow_root": False, "token": ""}, {"password_required": True, "token": ""}])
def test_a_server_without_root_or_with_a_password_may_have_no_token(changes):
    assert exclusive.findings(_server(**changes)) == []


def test_a_disabled_terminals_extension_is_no_way():
    disabled = {"jupyter_server_terminals": SimpleNamespace(enabled=False)}
    assert exclusive.findings(_server(extensions=disabled)) == []


@pytest.mark.parametrize(
    "stanza",
    [
        {"provisioner_name": "local-provisioner"},
        {"provisioner_name": "Sandbox-Provisioner"},
        {"provisioner_name": None},
        {"provisioner_name": ["sandbox-provisioner"]},
        {},
        None,
        # bug shown: AttributeError; the server calls it an extension that failed to load and goes on, not exclusive
        "sandbox-provisioner",
        ["sandbox-provisioner"],
        7,
    ],
)
def test_a_spec_that_does_not_name_our_provisioner_is_a_finding(stanza):
    spec = {"metadata": {"kernel_provisioner": stanza}}
    found = exclusive.findings(_server(specs={"sandbox-python": OURS, "odd": spec}))
    assert len(found) == 1
    assert "'odd'" in found[0]
