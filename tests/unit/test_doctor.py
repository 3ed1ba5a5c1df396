"""The doctor: what it found reads as text, and the remedy fits the cause."""

from __future__ import annotations

import pytest

from jupyter_sandbox import doctor
from jupyter_sandbox.doctor import Finding, Verdict

pytestmark = pytest.mark.unit

GOOD = Finding(verdict=Verdict.OK, subject="system", fact="Linux")
WEAK = Finding(verdict=Verdict.WEAKER, subject="disk", fact="a tmpfs", remedy="run as root")
BAD = Finding(verdict=Verdict.MISSING, subject="kernel", fact="too old", remedy="use a newer one")


def _sysctls(tmp_path, **values):
    for name, text in values.items():
        path = tmp_path / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("values", "remedy"),
    [
        ({"kernel__unprivileged_userns_clone": "0"}, "unprivileged_userns_clone=1"),
        ({"kernel__apparmor_restrict_unprivileged_userns": "1"}, "apparmor_restrict_unprivileged_userns=0"),
        ({"user__max_user_namespaces": "0"}, "max_user_namespaces=10000"),
        ({}, "--privileged"),
        (
            {
                "kernel__unprivileged_userns_clone": "1",
                "kernel__apparmor_restrict_unprivileged_userns": "0",
                "user__max_user_namespaces": "63000",
            },
            "--privileged",
        ),
        ({"kernel__unprivileged_userns_clone": "1", "user__max_user_namespaces": "0"}, "max_user_namespaces=10000"),
    ],
)
def test_the_remedy_names_the_switch_that_is_off(tmp_path, values, remedy):
    assert remedy in doctor._userns_remedy(_sysctls(tmp_path, **values))


def test_a_good_machine_reads_as_good():
    assert doctor.render([GOOD]).splitlines() == ["[ok     ] system: Linux", "Sandboxes can run here."]


def test_a_weaker_machine_can_still_run_and_is_told_the_remedy():
    lines = doctor.render([GOOD, WEAK]).splitlines()
    assert lines[1:3] == ["[weaker ] disk: a tmpfs", "          to mend it: run as root"]
    assert lines[-1] == "Sandboxes can run here."


def test_a_missing_thing_is_fatal():
    text = doctor.render([GOOD, WEAK, BAD])
    assert "[missing] kernel: too old" in text
    assert text.endswith("Sandboxes cannot run here yet.")


@pytest.mark.parametrize(("findings", "fatal"), [([], False), ([GOOD, WEAK], False), ([GOOD, BAD], True)])
def test_only_what_is_missing_is_fatal(findings, fatal):
    assert doctor.is_fatal(findings) is fatal


def _on(monkeypatch, *, system="linux", machine="x86_64", release="6.1.0-13-amd64"):
    monkeypatch.setattr(doctor.sys, "platform", system)
    monkeypatch.setattr(doctor.platform, "machine", lambda: machine)
    monkeypatch.setattr(doctor.platform, "release", lambda: release)
    return doctor._system()


@pytest.mark.parametrize("release", ["6.1.0-13-amd64", "6.18-generic", "6.100.0-13-amd64", "10.0"])
def test_new_enough_kernels_are_good(monkeypatch, release):
    (finding,) = _on(monkeypatch, release=release)
    assert finding.verdict is Verdict.OK
    assert release in finding.fact


@pytest.mark.parametrize("release", ["6.0.19", "5.15.0-100-generic", "4.18.0-553.el8", "3.10"])
def test_old_kernels_are_told(monkeypatch, release):
    (finding,) = _on(monkeypatch, release=release)
    assert finding.verdict is Verdict.MISSING
    assert "6.1" in finding.remedy


@pytest.mark.parametrize(("system", "machine"), [("darwin", "arm64"), ("linux", "riscv64"), ("win32", "AMD64")])
def test_other_systems_are_told(monkeypatch, system, machine):
    (finding,) = _on(monkeypatch, system=system, machine=machine)
    assert finding.verdict is Verdict.MISSING


def test_old_packages_are_told_with_the_command_that_mends_it(monkeypatch):
    monkeypatch.setattr(doctor.metadata, "version", lambda name: "6.29.5" if name == "ipykernel" else "99.0")
    (finding,) = doctor._packages()
    assert finding.verdict is Verdict.MISSING
    assert "ipykernel 6.29.5" in finding.fact
    assert "pip install -U" in finding.remedy


def test_new_packages_are_no_news(monkeypatch):
    monkeypatch.setattr(doctor.metadata, "version", lambda _name: "99.0")
    assert doctor._packages() == []


def _network(monkeypatch, *, root=True, missing=(), filters=True, uplinks=None, forwards=True, drops=()):
    monkeypatch.setattr(doctor.os, "geteuid", lambda: 0 if root else 1000)
    for name, value in {
        "missing_tools": list(missing),
        "can_filter": filters,
        "default_uplinks": uplinks or {},
        "foreign_drops": list(drops),
    }.items():
        monkeypatch.setattr(doctor.network, name, lambda value=value: value)
    monkeypatch.setattr(doctor.network, "is_forwarding", lambda _device, _version: forwards)
    return doctor._network()


def test_a_network_that_may_be_opened_is_good(monkeypatch):
    (finding,) = _network(monkeypatch, uplinks={4: "eth0"})
    assert finding.verdict is Verdict.OK


@pytest.mark.parametrize(
    ("values", "fact", "remedy"),
    [
        ({"root": False}, "no root", "as root"),
        ({"missing": ["nft", "ip"]}, "nft and ip not installed", "apt-get install nftables iproute2"),
        ({"filters": False}, "packet filter", ""),
        ({"uplinks": {4: "eth0"}, "forwards": False}, "IPv4 of eth0", "net.ipv4.conf.eth0.forwarding=1"),
        ({"uplinks": {6: "eth0"}, "forwards": False}, "IPv6 of eth0", "net.ipv6.conf.all.forwarding=1"),
        ({"drops": ["table ip filter, chain FORWARD"]}, "table ip filter, chain FORWARD", "jsb*"),
    ],
)
def test_what_keeps_templates_from_opening_the_network_is_told(monkeypatch, values, fact, remedy):
    (finding,) = _network(monkeypatch, **values)
    assert finding.verdict is Verdict.WEAKER, "sandboxes run all the same"
    assert fact in finding.fact
    assert remedy in finding.remedy


async def test_no_sandbox_is_started_where_something_is_missing(monkeypatch):
    monkeypatch.setattr(doctor, "_PROBES", (lambda: [BAD],))
    monkeypatch.setattr(doctor, "_proof", None)
    monkeypatch.setattr(doctor.docker, "unfit", _nothing_there)
    assert (await doctor.examine(prove=True))[0] == BAD


async def test_whose_broker_another_runs_is_judged_by_the_proof_alone(monkeypatch, tmp_path):
    async def proof():
        return GOOD

    monkeypatch.setenv("JUPYTER_SANDBOX_SOCKET", str(tmp_path / "socket"))
    monkeypatch.setattr(doctor.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(doctor, "_PROBES", (lambda: [BAD],))
    monkeypatch.setattr(doctor, "_proof", proof)
    found = await doctor.examine(prove=True)
    assert not doctor.is_fatal(found)
    assert found[-1] == GOOD
    assert str(tmp_path / "socket") in found[-2].fact


async def _nothing_there(_image, _runtime):
    return "there is no container engine's socket"


@pytest.mark.parametrize(
    ("wanted", "verdict"), [("auto", Verdict.OK), ("embedded", Verdict.OK), ("docker", Verdict.MISSING)]
)
async def test_a_container_engine_is_missed_only_where_it_is_wanted(monkeypatch, wanted, verdict):
    monkeypatch.setattr(doctor.docker, "unfit", _nothing_there)
    (finding,) = await doctor._containers(wanted, "jupyter-sandbox-worker:latest", "")
    assert finding.verdict is verdict
    assert bool(finding.remedy) == (verdict is Verdict.MISSING)
