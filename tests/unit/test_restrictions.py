"""What one sandbox may not reach of what its template opens."""

from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_network

import pytest

from jupyter_sandbox import restrictions
from jupyter_sandbox.errors import ConflictError, InvalidRequestError
from jupyter_sandbox.specs import EgressRule, Policy, Restriction

pytestmark = pytest.mark.unit

POLICY = Policy(
    egress=tuple(
        EgressRule(to=ip_network(target), first_port=443, last_port=443)
        for target in ("203.0.113.0/24", "198.51.100.9", "2001:db8::/64")
    )
)


def test_addresses_and_ranges_are_judged_and_kept_apart():
    assert restrictions.judge(["2001:db8::/32", "10.0.0.0/8", "192.0.2.1"], ["10.1.2.3"]) == Restriction(
        denied=(IPv4Network("10.0.0.0/8"), IPv4Network("192.0.2.1/32"), IPv6Network("2001:db8::/32")),
        excepted=(IPv4Network("10.1.2.3/32"),),
    )


def test_what_overlaps_or_touches_is_put_together():
    judged = restrictions.judge(["10.0.0.0/9", "10.128.0.0/9", "10.1.2.3", "10.0.0.0/9"], ["::/1", "8000::/1"])
    assert judged == Restriction(denied=(IPv4Network("10.0.0.0/8"),), excepted=(IPv6Network("::/0"),))


def test_at_most_64_of_a_kind_are_named():
    many = [f"10.{number}.0.1" for number in range(65)]
    assert len(restrictions.judge(many[:64], many[:64]).denied) == 64
    for denied, excepted in ((many, []), ([], many)):
        with pytest.raises(InvalidRequestError, match="64"):
            restrictions.judge(denied, excepted)


@pytest.mark.parametrize(
    "value", ["example.org", "10.0.0.1/8", "::ffff:10.0.0.1", "2001:db8::1%x; drop", "", "127.0.0.1"]
)
def test_what_a_policy_cannot_name_a_restriction_cannot_either(value):
    for denied, excepted in (([value], []), ([], [value])):
        with pytest.raises(InvalidRequestError):
            restrictions.judge(denied, excepted)


@pytest.mark.parametrize("target", ["203.0.113.7", "203.0.0.0/16", "198.51.100.9", "0.0.0.0/0", "::/0"])
def test_what_a_template_opens_some_of_can_be_excepted(target):
    restrictions.within(POLICY, restrictions.judge(["0.0.0.0/0"], [target]), "open")


@pytest.mark.parametrize("target", ["203.0.114.1", "198.51.100.8", "2001:db8:1::/64", "10.0.0.0/8"])
def test_what_a_template_opens_nothing_of_is_told(target):
    with pytest.raises(ConflictError, match=f"template open opens nothing of {target}"):
        restrictions.within(POLICY, restrictions.judge([], [target]), "open")


def test_anything_can_be_denied_of_a_template_that_opens_nothing_and_nothing_excepted():
    restrictions.within(Policy(), restrictions.judge(["0.0.0.0/0", "::/0"], []), "python")
    with pytest.raises(ConflictError):
        restrictions.within(Policy(), restrictions.judge(["0.0.0.0/0"], ["0.0.0.0/0"]), "python")


@pytest.mark.parametrize(
    ("denied", "excepted", "closed"),
    [
        (["0.0.0.0/0", "::/0"], [], True),
        (["::/0", "128.0.0.0/1", "0.0.0.0/1"], [], True),
        (["0.0.0.0/0"], [], False),
        (["0.0.0.0/0", "::/0"], ["10.0.0.1"], False),
        ([], [], False),
    ],
)
def test_closed_is_what_leaves_nothing(denied, excepted, closed):
    assert restrictions.is_closed(restrictions.judge(denied, excepted)) is closed


def test_one_address_is_written_without_a_prefix():
    assert [restrictions.words(ip_network(text)) for text in ("10.1.2.3", "10.0.0.0/8", "::/0", "2001:db8::1")] == [
        *("10.1.2.3", "10.0.0.0/8", "::/0", "2001:db8::1")
    ]
