"""Places that owners share."""

from __future__ import annotations

import contextlib

import pytest

from jupyter_sandbox import owners
from jupyter_sandbox.errors import CapacityError, QuotaError
from jupyter_sandbox.owners import Owner
from jupyter_sandbox.shares import Shares

ALICE, BOB, CAROL = map(Owner, ("user alice", "user bob", "user carol"))


def take(stack, shares, owner, times):
    for _ in range(times):
        stack.enter_context(shares.place(owner))


def test_one_owner_leaves_half_to_others_and_gives_back_what_he_had():
    shares = Shares(6, "places")
    for _ in range(2):
        with contextlib.ExitStack() as stack:
            take(stack, shares, ALICE, 3)
            with pytest.raises(QuotaError, match="you may have 3 places, and do") as caught:
                take(stack, shares, ALICE, 1)
            assert caught.value.retry_after_s == 10
            take(stack, shares, BOB, 3)
            with pytest.raises(CapacityError, match="all 6 places are taken") as full:
                take(stack, shares, CAROL, 1)
            assert full.value.retry_after_s == 10
    assert not shares._held


def test_the_only_owner_of_a_server_may_have_all():
    shares = Shares(6, "places")
    with contextlib.ExitStack() as stack:
        take(stack, shares, owners.EVERYBODY, 6)
        with pytest.raises(CapacityError):
            take(stack, shares, owners.EVERYBODY, 1)
