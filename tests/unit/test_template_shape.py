"""What may be defined while a broker runs, and that it is kept as it was."""

from __future__ import annotations

import json
from dataclasses import asdict, fields, replace

import pytest

from jupyter_sandbox import template_shape
from jupyter_sandbox.errors import ConflictError, InvalidRequestError
from jupyter_sandbox.specs import Ceiling, KernelStart, Limits, Template
from jupyter_sandbox.template_store import TemplateStore

pytestmark = pytest.mark.unit

CEILING = Ceiling()
FULL = Template(
    name="full",
    description="Everything",
    limits=Limits(memory_mib=2048, cpus=1.5, disk_mib=100),
    preload=("numpy", "os.path"),
    environment=(("A", "1"), ("B", "é\n\U0001f600")),
    min_idle=2,
    max_total=7,
    start=KernelStart.EXEC,
)


@pytest.mark.parametrize("template", [FULL, Template(name="empty")], ids=lambda each: each.name)
def test_what_is_printed_is_judged_to_be_the_same(template):
    printed = json.loads(json.dumps(template_shape.definition(template)))
    assert template_shape.judge(template.name, printed, CEILING) == template


def test_every_key_has_a_default_and_it_is_that_of_files():
    assert template_shape.judge("t", {}, CEILING) == Template(name="t")


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {"shares": [{"source": "/", "target": "/workspace/x"}]},
        {"network": {"egress": [{"to": "0.0.0.0/0", "port": 80}]}},
        {"policy": {}},
        {"name": "python"},
        {"limits": None},
        {"limits": {"memory": 1}},
        {"limits": {"memory_mib": 0}},
        {"limits": {"memory_mib": -1}},
        {"limits": {"memory_mib": "1024"}},
        {"limits": {"memory_mib": 1.5}},
        {"limits": {"memory_mib": True}},
        {"limits": {"cpus": 0}},
        {"limits": {"cpus": float("nan")}},
        {"preload": "numpy"},
        {"preload": ["os; import sys"]},
        {"preload": ["../x"]},
        {"preload": ["os."]},
        {"preload": ["a"] * 33},
        {"environment": {"A=B": "1"}},
        {"environment": {"A": "\0"}},
        {"environment": {"A": 1}},
        {"environment": {f"A{n}": "x" * 4000 for n in range(3)}},
        {"description": "two\nlines"},
        {"description": "\x1b[2J"},
        {"description": "x" * 201},
        {"min_idle": -1},
        {"max_total": 0},
        {"start": "spawn"},
    ],
    ids=str,
)
def test_what_is_no_template_is_refused(value):
    with pytest.raises(InvalidRequestError):
        template_shape.judge("t", value, CEILING)


@pytest.mark.parametrize("name", ["", "Python", "../x", "a/b", "a\n", "a" * 41, "-a"])
def test_a_name_that_is_none_is_refused(name):
    with pytest.raises(InvalidRequestError):
        template_shape.judge(name, {}, CEILING)


@pytest.mark.parametrize("name", [each.name for each in fields(Limits)])
def test_no_limit_goes_through_the_ceiling(name):
    most = getattr(CEILING.limits, name)
    assert getattr(template_shape.judge("t", {"limits": {name: most}}, CEILING).limits, name) == most
    with pytest.raises(ConflictError, match=f"{name} is .* allows at most"):
        template_shape.judge("t", {"limits": {name: most + 1}}, CEILING)


@pytest.mark.parametrize("name", ["min_idle", "max_total"])
def test_no_number_of_workers_goes_through_the_ceiling(name):
    most = getattr(CEILING, name)
    assert getattr(template_shape.judge("t", {name: most}, CEILING), name) == most
    with pytest.raises(ConflictError, match=f"{name} is .* allows at most"):
        template_shape.judge("t", {name: most + 1}, CEILING)


def test_a_ceiling_is_the_usual_one_but_for_what_is_named():
    changed = template_shape.ceiling({"memory_mib": 512.0, "max_total": 3.0})
    assert changed == replace(CEILING, max_total=3, limits=replace(CEILING.limits, memory_mib=512))
    assert template_shape.ceiling({}) == CEILING


@pytest.mark.parametrize("values", [{"memory": 1}, {"memory_mib": -1}, {"limits": 1}, {"cpus": float("inf")}], ids=str)
def test_a_ceiling_that_is_none_is_refused(values):
    with pytest.raises(InvalidRequestError):
        template_shape.ceiling(values)


def test_the_usual_ceiling_allows_the_defaults():
    for name, value in asdict(Limits()).items():
        assert value <= getattr(CEILING.limits, name)


# -- kept


def test_a_template_is_kept_for_its_owner_alone_until_it_is_removed(tmp_path):
    store = TemplateStore(tmp_path / "templates")
    assert list(store.load(CEILING)) == []
    store.remove("full")
    store.write(FULL)
    store.write(replace(FULL, min_idle=1))
    store.write(Template(name="a"))
    assert list(TemplateStore(tmp_path / "templates").load(CEILING)) == [Template(name="a"), replace(FULL, min_idle=1)]
    assert (tmp_path / "templates").stat().st_mode & 0o777 == 0o700
    assert {path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "templates").iterdir()} == {
        "a.json": 0o600,
        "full.json": 0o600,
    }
    store.remove("full")
    assert [template.name for template in store.load(CEILING)] == ["a"]


@pytest.mark.parametrize("text", ["", "{", "[]", '{"limits": {"memory_mib": 999999}}', '{"shares": []}', "\udcff"])
def test_a_file_that_cannot_be_used_is_passed_over_and_stays(tmp_path, text, caplog):
    store = TemplateStore(tmp_path)
    store.write(FULL)
    bad = tmp_path / "bad.json"
    bad.write_bytes(text.encode(errors="surrogateescape"))
    assert list(store.load(CEILING)) == [FULL]
    assert "bad.json is not used" in caplog.text
    assert bad.exists()


def test_a_write_that_fails_leaves_the_old_template(tmp_path, monkeypatch):
    store = TemplateStore(tmp_path)
    store.write(FULL)
    monkeypatch.setattr("os.fsync", lambda _: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OSError, match="No space"):
        store.write(replace(FULL, min_idle=1))
    monkeypatch.undo()
    assert list(store.load(CEILING)) == [FULL]
    store.write(replace(FULL, min_idle=1))
    assert list(store.load(CEILING)) == [replace(FULL, min_idle=1)]
