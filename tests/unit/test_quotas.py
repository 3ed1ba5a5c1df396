"""Quotas: what an owner may hold counts what is being made, too."""

from __future__ import annotations

import contextlib

import pytest
from traitlets import TraitError
from traitlets.config import Config

from jupyter_sandbox.errors import QuotaError
from jupyter_sandbox.owners import EVERYBODY, named
from jupyter_sandbox.quotas import Held, Quotas

pytestmark = pytest.mark.unit

ALICE, BOB = named("alice"), named("bob")


def test_what_is_being_made_counts():
    quotas = Quotas(sandboxes=3)
    with contextlib.ExitStack() as making:
        making.enter_context(quotas.room(ALICE, Held.SANDBOXES, 1))
        making.enter_context(quotas.room(ALICE, Held.SANDBOXES, 1))
        with pytest.raises(QuotaError) as refused, quotas.room(ALICE, Held.SANDBOXES, 1):
            pass
        assert refused.value.retry_after_s
        with quotas.room(BOB, Held.SANDBOXES, 2), quotas.room(ALICE, Held.CONTEXTS, 1):
            pass
    with quotas.room(ALICE, Held.SANDBOXES, 2):
        pass
    assert not quotas._making, "nothing is kept of what is over"


def test_room_is_given_back_when_making_fails():
    quotas = Quotas(contexts=1)
    for _ in range(3):
        with pytest.raises(OSError, match="no"), quotas.room(ALICE, Held.CONTEXTS, 0):
            raise OSError("no")


def test_named_owners_have_quotas_of_their_own():
    quotas = Quotas(config=Config({"Quotas": {"sandboxes": 7, "owners": {"alice": {"sandboxes": 0, "file_mib": 2}}}}))
    assert [quotas.limit(ALICE, what) for what in Held] == [0, 100, 2]
    assert quotas.limit(BOB, Held.SANDBOXES) == 7
    with pytest.raises(QuotaError), quotas.room(ALICE, Held.SANDBOXES, 0):
        pass


def test_bytes_are_judged_to_the_byte():
    quotas = Quotas(file_mib=1)
    quotas.check_bytes(ALICE, 1 << 20)
    with pytest.raises(QuotaError):
        quotas.check_bytes(ALICE, (1 << 20) + 1)


def test_who_logs_in_as_the_only_owner_has_no_quota():
    quotas = Quotas(sandboxes=0, file_mib=0)
    with quotas.room(EVERYBODY, Held.SANDBOXES, 10**6):
        quotas.check_bytes(EVERYBODY, 10**12)


@pytest.mark.parametrize(
    "wrong", [{"alice": 3}, {"alice": {"sandbox": 3}}, {"alice": {"sandboxes": -1}}, {"alice": {"sandboxes": True}}]
)
def test_quotas_that_are_none_are_told_at_the_start(wrong):
    with pytest.raises(TraitError, match=r"Quotas\.owners: 'alice'"):
        Quotas(owners=wrong)
