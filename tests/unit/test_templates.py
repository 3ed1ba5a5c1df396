"""Template files: every key arrives, and every mistake is told with the file and the key it is in."""

from __future__ import annotations

from dataclasses import fields
from ipaddress import IPv4Network, IPv6Network

import pytest

from jupyter_sandbox import templates
from jupyter_sandbox.errors import InvalidRequestError, TemplateError, UnknownTemplateError
from jupyter_sandbox.specs import EgressRule, KernelStart, Limits, Policy, Share, Template, Transport, WorkspaceMode

pytestmark = pytest.mark.unit

EVERYTHING = """
description = "Everything"
preload = ["numpy", "pandas"]
min_idle = 3
max_total = 7
start = "exec"

[environment]
ZED = "z"
ALPHA = "a"

[limits]
memory_mib = 2048
cpus = 1.5
processes = 64
open_files = 512
disk_mib = 100
disk_inodes = 1000
tmp_mib = 10
shm_mib = 20

[network]
egress = [
    { to = "203.0.113.7", port = 443 },
    { to = "2001:db8::/64", port = "8000-8009", protocol = "tcp" },
    { to = "192.0.2.0/24", port = 53, protocol = "udp" },
]

[[shares]]
source = "/data"
target = "/workspace/data"

[[shares]]
source = "/scratch"
target = "/tmp/scratch"
writable = true
"""


def parse(text: str, name: str = "t") -> Template:
    return templates.parse(name, text, f"/etc/x/{name}.toml")


def test_every_key_arrives():
    template = parse(EVERYTHING)
    assert template == Template(
        name="t",
        description="Everything",
        preload=("numpy", "pandas"),
        min_idle=3,
        max_total=7,
        start=KernelStart.EXEC,
        environment=(("ALPHA", "a"), ("ZED", "z")),
        limits=Limits(
            memory_mib=2048,
            cpus=1.5,
            processes=64,
            open_files=512,
            disk_mib=100,
            disk_inodes=1000,
            tmp_mib=10,
            shm_mib=20,
        ),
        shares=(
            Share(source="/data", target="/workspace/data"),
            Share(source="/scratch", target="/tmp/scratch", writable=True),
        ),
        policy=Policy(
            egress=(
                EgressRule(to=IPv4Network("203.0.113.7/32"), first_port=443, last_port=443),
                EgressRule(to=IPv6Network("2001:db8::/64"), first_port=8000, last_port=8009),
                EgressRule(to=IPv4Network("192.0.2.0/24"), first_port=53, last_port=53, protocol=Transport.UDP),
            )
        ),
    )


def test_the_test_above_sets_every_field_there_is():
    template = parse(EVERYTHING)
    for value, default in ((template, Template(name="x")), (template.limits, Limits())):
        same = [field.name for field in fields(value) if getattr(value, field.name) == getattr(default, field.name)]
        assert same == []


def test_an_empty_file_is_the_default_template():
    assert parse("") == Template(name="t")


def test_a_whole_number_of_processors_is_a_number():
    assert parse("[limits]\ncpus = 2").limits.cpus == 2


BAD = [
    ("description = 1", "description"),
    ("min_idle = '1'", "min_idle"),
    ("min_idle = true", "min_idle"),
    ("min_idle = 1.0", "min_idle"),
    ("min_idle = -1", "min_idle"),
    ("max_total = 0", "max_total"),
    ("max_total = [1]", "max_total"),
    ("preload = 'numpy'", "preload"),
    ("preload = [1]", "preload"),
    ("preload = {}", "preload"),
    ("environment = 'A=1'", "environment"),  # once: "'str' object has no attribute 'items'"
    ("environment = {A = 1}", "environment"),  # once: "object of type 'int' has no len()"
    ("environment = {'A B' = 'x'}", "environment"),
    ("limits = 5", "limits"),  # once: "'int' object has no attribute 'items'"
    ("limits = []", "limits"),  # once: the same
    ("shares = 5", "shares"),  # once: "'int' object is not iterable"
    ("shares = ['/data']", "shares"),
    ("shares = [1]", "shares"),  # once: the same
    *[(f"[limits]\n{field.name} = 'x'", f"limits.{field.name}") for field in fields(Limits)],
    *[(f"[limits]\n{field.name} = true", f"limits.{field.name}") for field in fields(Limits)],
    *[(f"[limits]\n{field.name} = 0", f"limits.{field.name}") for field in fields(Limits)],
    *[(f"[limits]\n{field.name} = -1", f"limits.{field.name}") for field in fields(Limits)],
    *[(f"[limits]\n{field.name} = 4294967296", f"limits.{field.name}") for field in fields(Limits)],
    ("[limits]\nmemory_mib = 1.5", "limits.memory_mib"),
    ("[limits]\ncpus = inf", "limits.cpus"),
    ("[limits]\ncpus = nan", "limits.cpus"),
    ("[limits]\nmemory = 5", "limits.memory"),
    ("[[shares]]\ntarget = '/tmp/x'", "shares.source"),
    ("[[shares]]\nsource = '/x'", "shares.target"),
    ("[[shares]]\nsource = 'x'\ntarget = '/tmp/x'", "shares.source"),
    ("[[shares]]\nsource = '/x'\ntarget = '/etc'", "directory"),
    ("[[shares]]\nsource = '/x'\ntarget = '/home/user/x'", "shares.target"),
    ("[[shares]]\nsource = '/x'\ntarget = '/sandbox/x'", "shares.target"),
    ("[[shares]]\nsource = '/x'\ntarget = '/tmp/../tmp/x'", "shares.target"),
    ("[[shares]]\nsource = '/x'\ntarget = '/tmp/x'\nwritable = 1", "shares.writable"),
    ("[[shares]]\nsource = '/x'\ntarget = '/tmp/x'\nmode = 'rw'", "mode"),
    ("network = 1", "network"),
    ("[network]\nallow = []", "allow"),
    ("[network]\negress = 1", "network.egress"),
    ("[network]\negress = [1]", "network.egress[0]"),
    ("[network]\negress = [{ to = '192.0.2.1' }]", "network.egress[0]"),
    ("[network]\negress = [{ port = 1 }]", "network.egress[0]"),
    ("[network]\negress = [{ to = '192.0.2.1', port = 1, via = 'x' }]", "network.egress[0]"),
    ("[network]\negress = [{ to = '192.0.2.1', port = 1 }, { to = 'example.org', port = 1 }]", "network.egress[1]"),
    ("[network]\negress = [{ to = '192.0.2.1/24', port = 1 }]", "host bits"),
    ("[network]\negress = [{ to = '::1', port = 1 }]", "loopback"),
    ("[network]\negress = [{ to = 1, port = 1 }]", "to must be of type str"),
    ("[network]\negress = [{ to = '192.0.2.1', port = true }]", "port must be of type int"),
    ("[network]\negress = [{ to = '192.0.2.1', port = 1.5 }]", "port must be of type int"),
    ("[network]\negress = [{ to = '192.0.2.1', port = 65536 }]", "1 to 65535"),
    ("[network]\negress = [{ to = '192.0.2.1', port = '90-80' }]", "the lower one first"),
    ("[network]\negress = [{ to = '192.0.2.1', port = 1, protocol = 'icmp' }]", "network.egress[0].protocol"),
    ("[network]\negress = [{ to = '192.0.2.1', port = 1, protocol = ['tcp'] }]", "network.egress[0].protocol"),
    ("[network]\negress = [" + "{ to = '192.0.2.1', port = 1 }," * 65 + "]", "at most 64"),
    ("colour = 'blue'", "colour"),
    ("name = 'other'", "name"),
    ("max_total = \n", "line 1"),
    ("[limits]\n[limits]", "line 2"),
]


@pytest.mark.parametrize(("text", "key"), BAD)
def test_a_mistake_is_told_with_file_and_key(text, key):
    with pytest.raises(TemplateError) as caught:
        parse(text)
    assert "/etc/x/t.toml" in str(caught.value)
    assert key in str(caught.value)


@pytest.mark.parametrize("name", ["Upper", "under_score", "-", "a" * 41, ""])
def test_a_file_s_name_must_be_a_template_s_name(name):
    with pytest.raises(TemplateError, match="template name"):
        parse("", name)


def test_later_directories_win_and_the_built_in_one_is_always_there(tmp_path):
    site, user = tmp_path / "site", tmp_path / "user"
    for directory, text in ((site, "min_idle = 1"), (user, "min_idle = 2")):
        directory.mkdir()
        (directory / "r.toml").write_text(text)
    (site / "only.toml").write_text("")
    (site / "notes.txt").write_text("no template")
    found = templates.load([site, user, tmp_path / "absent"])
    assert set(found) == {"python", "r", "only"}
    assert found["r"].min_idle == 2
    assert found["python"] == templates.BUILT_IN["python"]


def test_a_file_may_replace_the_built_in_template(tmp_path):
    (tmp_path / "python.toml").write_text("max_total = 2")
    assert templates.load([tmp_path])["python"].max_total == 2
    assert templates.BUILT_IN["python"].max_total == 200


def test_a_bad_file_is_named_when_a_directory_is_loaded(tmp_path):
    (tmp_path / "good.toml").write_text("")
    (tmp_path / "bad.toml").write_text("colour = 1")
    with pytest.raises(TemplateError, match=r"bad\.toml"):
        templates.load([tmp_path])


def test_a_file_that_is_no_text_is_named(tmp_path):
    # once: UnicodeDecodeError leaves the package
    (tmp_path / "latin.toml").write_bytes(b'description = "caf\xe9"')
    with pytest.raises(TemplateError, match=r"latin\.toml"):
        templates.load([tmp_path])


def test_an_unknown_template_lists_the_known_ones():
    known = {name: Template(name=name) for name in ("b", "a")}
    assert templates.find(known, "a").name == "a"
    with pytest.raises(UnknownTemplateError, match="no template 'c'; there are: a, b"):
        templates.find(known, "c")


@pytest.mark.parametrize("hostile", ["../a", "", "A", "a\n"])
def test_a_name_is_judged_before_it_is_looked_up(hostile):
    with pytest.raises(InvalidRequestError):
        templates.find({hostile: Template(name="a")}, hostile)


def test_workspace_modes_are_words_of_the_api():
    assert [str(mode) for mode in WorkspaceMode] == ["none", "ro", "overlay", "rw"]
