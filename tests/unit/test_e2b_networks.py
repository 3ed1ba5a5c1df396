"""What E2B's SDKs say of a network, in our words; names and shapes as the SDKs send them."""

from __future__ import annotations

import pytest

from jupyter_sandbox import restrictions
from jupyter_sandbox.errors import InvalidRequestError, NotSupportedError
from jupyter_sandbox.specs import UNRESTRICTED
from jupyter_sandbox.surfaces.e2b import networks

pytestmark = pytest.mark.unit
CLOSED = restrictions.judge(restrictions.EVERYWHERE, [])


@pytest.mark.parametrize(
    ("network", "internet"),
    [
        *((None, None), ({}, None), ({}, True), ({"allowOut": [], "denyOut": None}, True)),
        ({"allowPublicTraffic": True, "rules": {}, "egressProxy": None, "dnsServers": [], "maskRequestHost": ""}, None),
        ({"allowPublicTraffic": False}, None),
    ],
)
def test_what_takes_nothing_away(network, internet):
    assert networks.judge(network, internet) == UNRESTRICTED


@pytest.mark.parametrize(
    ("network", "internet"),
    [
        *((None, False), ({}, False), ({"denyOut": ["0.0.0.0/0"]}, None)),
        *(({"denyOut": ["0.0.0.0/0", "10.0.0.1"]}, True), ({"denyOut": ["0.0.0.0/1", "128.0.0.0/1"]}, None)),
        ({"denyOut": [f"10.{number}.0.1" for number in range(64)]}, False),
    ],
)
def test_all_traffic_is_that_of_both_families(network, internet):
    assert networks.judge(network, internet) == CLOSED


def test_what_is_allowed_is_excepted_from_what_is_denied():
    wanted = {"denyOut": ["0.0.0.0/0"], "allowOut": ["1.1.1.1", "8.8.8.0/24"]}
    assert networks.judge(wanted, None) == restrictions.judge(restrictions.EVERYWHERE, ["1.1.1.1", "8.8.8.0/24"])
    assert networks.judge({"denyOut": ["10.0.0.0/8"]}, None) == restrictions.judge(["10.0.0.0/8"], [])


@pytest.mark.parametrize(
    "network",
    [
        {"allowOut": ["example.com"]},
        {"allowOut": ["*.example.com"], "denyOut": ["0.0.0.0/0"]},
        {"denyOut": ["10.0.0.1 accept; drop"]},
        {"denyOut": ["$(id)"]},
        {"rules": {"api.example.com": [{"transform": {"headers": {"a": "b"}}}]}},
        {"egressProxy": {"address": "10.0.0.1:1080"}},
        {"dnsServers": ["8.8.8.8"]},
        {"httpsPorts": [3000]},
        {"maskRequestHost": "localhost"},
        {"somethingNew": True},
        {"somethingNew": False},
        {"denyIn": ["10.0.0.1"]},
    ],
)
def test_what_cannot_be_obeyed_is_refused_as_such(network):
    with pytest.raises(NotSupportedError, match="not supported here"):
        networks.judge(network, None)


@pytest.mark.parametrize(
    ("network", "internet"),
    [
        *(("x", None), ([], None), (1, None), ({"denyOut": "10.0.0.1"}, None), ({"denyOut": {}}, None)),
        *(({"denyOut": [1]}, None), ({"denyOut": [["10.0.0.1"]]}, None), ({"denyOut": [None]}, None)),
        *(({"denyOut": ["10.0.0.1/8"]}, None), ({"denyOut": ["::ffff:10.0.0.1"]}, None), ({"denyOut": [""]}, None)),
        *(({"denyOut": ["0.0.0.0/0", "10.0.0.1/8"]}, None), ({"denyOut": ["10.0.0.1/8"]}, False)),
        *(({"denyOut": ["10.0.0.999"]}, None), ({"denyOut": ["10.0.0.1"] * 10_000}, None)),
        *(({"denyOut": ["1" * 10_000]}, None), ({}, "false"), ({}, 0), ({"allowPublicTraffic": "no"}, None)),
    ],
)
def test_what_is_no_network_is_refused(network, internet):
    with pytest.raises(InvalidRequestError):
        networks.judge(network, internet)


def test_what_is_told_is_what_the_sdks_read():
    assert networks.shown(UNRESTRICTED) == {"allowInternetAccess": None}
    assert networks.shown(CLOSED) == {
        "allowInternetAccess": False,
        "network": {"allowOut": [], "denyOut": ["0.0.0.0/0", "::/0"]},
    }
    assert networks.shown(restrictions.judge(["0.0.0.0/0"], ["1.1.1.1"])) == {
        "allowInternetAccess": None,
        "network": {"allowOut": ["1.1.1.1"], "denyOut": ["0.0.0.0/0"]},
    }
