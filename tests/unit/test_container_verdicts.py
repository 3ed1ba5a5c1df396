"""The judge of what others say of a worker's container notices what is worse than promised."""

from __future__ import annotations

import pytest

from tests.conformance.containers import worse_of_amicontained, worse_of_bench

PASSED = "".join(f"[PASS] 5.{number} - fine (Automated)\n" for number in (1, *range(3, 27), 29))
WARNED = "[WARN] 5.2 - AppArmor\n[WARN]      * No AppArmorProfile Found: sbx_1\n[WARN] 5.27 - health\n"
INSIDE = "AppArmor Profile: unconfined\nCapabilities:\nSeccomp: filtering\nBlocked Syscalls (79):\n\tMSGRCV\n"


def test_what_is_promised_is_no_complaint():
    assert not [*worse_of_bench(PASSED + WARNED, has_apparmor=False), *worse_of_amicontained(INSIDE)]


@pytest.mark.parametrize(
    ("said", "has_apparmor", "complaints"),
    [
        ("", False, 1),
        (PASSED.replace("[PASS] 5.9", "[NOTE] 5.9") + WARNED, False, 1),
        (PASSED + "[PASS] 5.30 - fine\n[WARN] 5.31 - user namespaces\n", False, 1),
        (PASSED + WARNED + "[WARN] 5.31 - user namespaces\n", False, 2),
        (PASSED + WARNED, True, 1),
    ],
)
def test_a_worse_verdict_is_noticed(said, has_apparmor, complaints):
    assert len([*worse_of_bench(said, has_apparmor=has_apparmor)]) == complaints


@pytest.mark.parametrize(
    ("said", "complaints"),
    [
        ("", 2),
        (INSIDE.replace("Capabilities:\n", "Capabilities:\n\tBOUNDING -> chown\n"), 1),
        (INSIDE.replace("Capabilities:\n", ""), 1),
        (INSIDE.replace("filtering", "disabled"), 1),
    ],
)
def test_a_capability_and_a_missing_filter_are_noticed(said, complaints):
    assert len([*worse_of_amicontained(said)]) == complaints
