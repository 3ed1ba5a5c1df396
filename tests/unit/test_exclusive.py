"""Exclusive mode: every way round the sandbox is a finding that names the setting which closes it."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from jupyter_server.auth import AllowAllAuthorizer
from jupyter_server.auth.identity import IdentityProvider, PasswordIdentityProvider

from jupyter_sandbox import exclusive, kernel_specs
from jupyter_sandbox.authorizer import OwnerAuthorizer
from jupyter_sandbox.identity import OwnerTokens, SandboxIdentityProvider

pytestmark = pytest.mark.unit


class OurSpecs(kernel_specs.SandboxKernelSpecManager):
    """Our manager, with one kernelspec on a disk that is not there."""

    def find_kernel_specs(self):
        return {"sandbox-python": "/x"}


class StockSpecs:
    """Any other manager: whatever it lists, it starts every name it finds."""

    ensure_native_kernel = False

    def find_kernel_specs(self):
        return {"sandbox-python": "/x"}


def _server(**changes):
    """A ServerApp as far as `findings` looks at it, locked down; `changes` open one way each."""
    specs = OurSpecs(ensure_native_kernel=changes.pop("ensure_native_kernel", False))
    closed = {
        "kernel_spec_manager": specs,
        "kernel_manager": SimpleNamespace(default_kernel_name=changes.pop("default_kernel_name", "sandbox-python")),
        "gateway_config": SimpleNamespace(gateway_enabled=changes.pop("gateway_enabled", False)),
        "terminals_enabled": False,
        "extension_manager": SimpleNamespace(extensions=changes.pop("extensions", {})),
        "allow_root": True,
        "password_required": False,
        "identity_provider": changes.pop("provider", PasswordIdentityProvider)(token=changes.pop("token", "secret")),
        "authorizer": AllowAllAuthorizer(),
    }
    return SimpleNamespace(**closed | changes)


class People(IdentityProvider):
    """Any provider that is not Jupyter's own knows people."""


class PeopleWithTokens(OwnerTokens, People):
    """The same with tokens of ours."""


@pytest.mark.parametrize("provider", [IdentityProvider, PasswordIdentityProvider, People])
def test_without_exclusive_mode_only_tokens_need_our_authorizer(provider):
    assert exclusive.token_findings(_server(provider=provider)) == []
    for with_tokens in (SandboxIdentityProvider, PeopleWithTokens):
        (finding,) = exclusive.token_findings(_server(provider=with_tokens))
        assert "OwnerAuthorizer" in finding
        assert exclusive.token_findings(_server(provider=with_tokens, authorizer=OwnerAuthorizer())) == []


@pytest.mark.parametrize("provider", [IdentityProvider, SandboxIdentityProvider, People, PeopleWithTokens])
def test_with_our_authorizer_no_owner_reaches_another(provider):
    assert exclusive.findings(_server(provider=provider, authorizer=OwnerAuthorizer())) == []


def test_a_closed_server_has_no_findings():
    assert exclusive.findings(_server()) == []


TERMINALS = {"jupyter_server_terminals": SimpleNamespace(enabled=True)}


@pytest.mark.parametrize(
    ("changes", "setting"),
    [
        ({"ensure_native_kernel": True}, "SandboxKernelSpecManager"),
        ({"kernel_spec_manager": StockSpecs()}, "SandboxKernelSpecManager"),
        ({"default_kernel_name": "python3"}, "default_kernel_name"),
        ({"gateway_enabled": True}, "c.GatewayClient.url"),
        ({"terminals_enabled": True}, "terminals_enabled = False"),
        ({"extensions": TERMINALS}, "jupyter_server_terminals"),
        ({"token": ""}, "token or a password"),
        ({"provider": SandboxIdentityProvider}, "OwnerAuthorizer"),
        ({"provider": People}, "OwnerAuthorizer"),
        ({"provider": PeopleWithTokens}, "OwnerAuthorizer"),
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
        "sandbox-provisioner",
        ["sandbox-provisioner"],
        7,
    ],
)
def test_a_spec_that_does_not_name_our_provisioner_is_not_ours(stanza):
    assert not kernel_specs.is_ours({"kernel_provisioner": stanza})


@pytest.mark.parametrize("metadata", [None, {}, [], "sandbox-provisioner"])
def test_a_spec_without_usable_metadata_is_not_ours(metadata):
    assert not kernel_specs.is_ours(metadata)


def test_a_spec_that_names_our_provisioner_is_ours():
    assert kernel_specs.is_ours({"kernel_provisioner": {"provisioner_name": "sandbox-provisioner", "config": {}}})


def test_an_unknown_kernel_is_a_404_and_a_no_such_kernel():
    with pytest.raises(kernel_specs.NoSuchKernel) as raised:
        kernel_specs.SandboxKernelSpecManager(kernel_dirs=[]).get_kernel_spec("python3")
    assert raised.value.status_code == 404
