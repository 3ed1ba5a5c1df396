"""Whose an object is, and what somebody may know of."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from jupyter_server.auth.identity import IdentityProvider, PasswordIdentityProvider, User

from jupyter_sandbox import owners
from jupyter_sandbox.identity import OwnerTokens, SandboxIdentityProvider
from jupyter_sandbox.owners import EVERYBODY, Bearer, Reach, named

pytestmark = pytest.mark.unit

ALICE, BOB = named("alice"), named("bob")


class People(IdentityProvider):
    """Any provider that is not Jupyter's own."""


class PeopleWithTokens(OwnerTokens, People):
    """The same, and tokens."""


def _handler(user, provider):
    return SimpleNamespace(current_user=user, identity_provider=provider())


def _kernel(owner, sandbox="sbx_1"):
    return SimpleNamespace(sandbox_owner=owner, provisioner=SimpleNamespace(sandbox_id=sandbox))


@pytest.mark.parametrize("provider", [IdentityProvider, PasswordIdentityProvider, SandboxIdentityProvider])
def test_with_jupyters_own_credentials_all_are_one_owner(provider):
    assert owners.of(_handler(User("anonymous 1"), provider)) == EVERYBODY


@pytest.mark.parametrize("provider", [People, PeopleWithTokens])
def test_with_any_other_provider_an_owner_is_a_user(provider):
    assert owners.of(_handler(User("alice"), provider)) == ALICE
    assert owners.name_of(ALICE) == "alice"


@pytest.mark.parametrize("provider", [SandboxIdentityProvider, PeopleWithTokens])
def test_a_bearer_is_whom_the_token_was_issued_to(provider):
    handler = _handler(Bearer("alice/tok_1", owner=ALICE, token_id="tok_1", sandbox_id="sbx_1"), provider)
    assert owners.of(handler) == ALICE
    assert owners.reach(handler) == Reach(owner=ALICE, sandbox_id="sbx_1")


def test_no_users_name_is_the_owner_of_everybody():
    assert named("*") != EVERYBODY


@pytest.mark.parametrize(
    ("reach", "kernel", "expected"),
    [
        (Reach(owner=ALICE), _kernel(ALICE), True),
        (Reach(owner=ALICE), _kernel(BOB), False),
        (Reach(owner=ALICE), _kernel(EVERYBODY), False),
        (Reach(owner=ALICE), _kernel(None), False),
        (Reach(owner=EVERYBODY), _kernel(ALICE), False),
        (Reach(owner=EVERYBODY), _kernel(None), True),
        (Reach(owner=ALICE, sandbox_id="sbx_1"), _kernel(ALICE), True),
        (Reach(owner=ALICE, sandbox_id="sbx_1"), _kernel(ALICE, "sbx_2"), False),
        (Reach(owner=ALICE, sandbox_id="sbx_1"), _kernel(ALICE, None), False),
        (Reach(owner=ALICE, sandbox_id="sbx_1"), SimpleNamespace(sandbox_owner=ALICE), False),
        (Reach(owner=ALICE, sandbox_id="sbx_1"), _kernel(BOB), False),
    ],
)
def test_what_somebody_may_know_of(reach, kernel, expected):
    assert reach.has(kernel) is expected


def test_an_event_that_names_an_owner_is_that_owners():
    event = {"owner": ALICE, "sandbox_id": "sbx_1"}
    assert Reach(owner=ALICE).has_event(event)
    assert Reach(owner=ALICE, sandbox_id="sbx_1").has_event(event)
    assert not Reach(owner=ALICE, sandbox_id="sbx_2").has_event(event)
    assert not Reach(owner=BOB).has_event(event)
    assert not Reach(owner=ALICE).has_event({"owner": None})
    assert not Reach(owner=EVERYBODY).has_event({"owner": None})


def test_a_kernel_is_being_made_until_its_start_is_over():
    made = []
    multi_manager = SimpleNamespace(kernel_manager_factory=lambda: made.append(SimpleNamespace()) or made[-1])
    owners.note_owners(multi_manager)
    with owners.making(owners.EVERYBODY):
        kernel = multi_manager.kernel_manager_factory()
        assert owners.is_being_made(kernel)
    assert not owners.is_being_made(kernel)
    assert not owners.is_being_made(multi_manager.kernel_manager_factory())
    assert not owners.is_being_made(SimpleNamespace())
