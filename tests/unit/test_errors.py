"""Errors: codes are public, unique and find their class again on the other side of a socket."""

from __future__ import annotations

import re

import pytest

from jupyter_sandbox import errors

pytestmark = pytest.mark.unit


def _subclasses(kind: type) -> set[type]:
    return {kind}.union(*(_subclasses(child) for child in kind.__subclasses__()))


ALL = sorted(_subclasses(errors.SandboxError), key=lambda kind: kind.__name__)


def test_every_class_has_a_code_of_its_own():
    codes = [kind.code for kind in ALL]
    assert len(set(codes)) == len(codes) >= 12
    assert all(re.fullmatch(r"[a-z]+(_[a-z]+)*", code) for code in codes)


def test_no_code_names_an_engine():
    assert not [kind.code for kind in ALL if re.search("embedded|docker|kubernetes|cgroup|loop", kind.code)]


@pytest.mark.parametrize("kind", ALL)
def test_every_status_is_an_http_error(kind):
    assert 400 <= kind.status < 600


@pytest.mark.parametrize("kind", ALL)
def test_every_code_finds_its_class_again(kind):
    found = errors.from_code(kind.code, "no such thing", 7)
    assert type(found) is kind
    assert str(found) == "no such thing"
    assert found.retry_after_s == 7


@pytest.mark.parametrize("code", ["", "from_the_future", "__class__", "SandboxError"])
def test_an_unknown_code_becomes_the_base_class(code):
    found = errors.from_code(code, "hm", None)
    assert type(found) is errors.SandboxError
    assert (found.code, found.status, found.retry_after_s) == ("internal_error", 500, None)


def test_a_full_disk_is_a_lack_of_capacity():
    assert issubclass(errors.DiskSpaceError, errors.CapacityError)
    assert errors.DiskSpaceError.status == 503, "clients try that again, and 507 they do not"
