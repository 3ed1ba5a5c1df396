"""Paths: what passes cannot lead out of a disk, and what cannot be a path says why."""

from __future__ import annotations

import os
import posixpath
import re
from urllib.parse import quote

import pytest

pytest.importorskip("hypothesis", reason="hypothesis is not installed (pip install hypothesis)")

from hypothesis import given
from hypothesis import strategies as some

from jupyter_sandbox.errors import InvalidRequestError
from jupyter_sandbox.guards import paths
from tests.unit.naughty import NAMES

pytestmark = pytest.mark.unit

UP = [
    "..",
    "../etc/passwd",
    "a/../b",
    "/sandbox/../etc/passwd",
    "/sandbox/..",
    "a/..",
    "..\\..\\etc",
    "a\\..\\b",
    "%2e%2e",
    "%2E%2e/%2e%2E",
    ".%2e",
    "%2e.",
    "%252e%252e",
    "%25252e%25252e",
    "..%2fetc",
    "..%5cetc",
    "..%c0%af",
    "%c0%ae%c0%ae",
    "%C0%AE%C0%AE/x",
    "%e0%80%ae%e0%80%ae",
    "%u002e%u002e",
    "%uff0e%uff0e",
    "\uff0e\uff0e",
    "\u2025",
    ".\uff0e",
    "..\uff0fetc",
    "..\u2215etc",
    "\\x2e\\x2e",
    "\\u002e\\u002e",
    "&#46;&#46;",
    "&#x2e;&period;",
    ".. ",
    " ..",
    "%2525252525252525252e",
    "..%00",
    "..%00.png",
]


@pytest.mark.parametrize("text", UP)
def test_no_spelling_of_dot_dot_passes(text):
    with pytest.raises(InvalidRequestError):
        paths.names(text)


@pytest.mark.parametrize("text", ["/etc/passwd", "/", "//", "/sandboxes/x", "/Sandbox/x", "/workspace/x", "/./etc"])
def test_an_absolute_path_elsewhere_is_refused(text):
    with pytest.raises(InvalidRequestError, match="below /sandbox"):
        paths.names(text)


@pytest.mark.parametrize(
    "text", ["\0", "a\0b", "a\nb", "a\rb", "\x1b[2J", "tab\there", "\x7f", "\ud800", "a\udcff", "x/\udfff/y"]
)
def test_control_characters_and_halves_of_characters_are_refused(text):
    with pytest.raises(InvalidRequestError):
        paths.names(text)


@pytest.mark.parametrize("text", ["", "a" * 256, "ä" * 128, "a/" * 129, "a/" * 2001, "/sandbox/" + "é" * 2000])
def test_what_is_empty_or_too_long_is_refused(text):
    with pytest.raises(InvalidRequestError):
        paths.names(text)


@pytest.mark.parametrize("text", ["a" * 255, "ä" * 127, "/".join(["a"] * 128)])
def test_what_is_just_short_enough_passes(text):
    assert paths.names(text) == tuple(text.split("/"))


@pytest.mark.parametrize(
    "text", ["/sandbox/a/b", "a/b", "./a/b", "a//b", "a/./b/", "//sandbox/a/b", "/./sandbox//a/b/."]
)
def test_spellings_of_one_path_mean_the_same(text):
    assert paths.names(text) == ("a", "b")


@pytest.mark.parametrize("text", ["/sandbox", "/sandbox/", ".", "./", "/sandbox/.", "/home/user", "/home//user/."])
def test_the_top_has_no_names_and_is_no_entry(text):
    assert paths.names(text) == ()
    with pytest.raises(InvalidRequestError, match="itself"):
        paths.entry(text)


@pytest.mark.parametrize(
    "text",
    [
        "...",
        "..a",
        "a..",
        "..a..",
        "%",
        "%zz",
        "100%",
        "a%20b",
        "-rf",
        "~",
        "$HOME",
        "sandbox/x",
        "\u202egnp.exe",
        "x;rm",
    ],
)
def test_odd_but_plain_names_pass_as_they_are(text):
    assert paths.names(text) == tuple(text.split("/"))


@pytest.mark.parametrize("name", NAMES)
def test_a_naughty_text_passes_unchanged_or_is_refused(name):
    try:
        found = paths.names(name)
    except InvalidRequestError as error:
        assert str(error).isascii(), "what goes into logs is escaped"
        return
    assert all(part and part not in (".", "..") and "/" not in part for part in found)
    assert paths.text(found) == posixpath.normpath(f"/sandbox/{name}")


@given(
    some.text() | some.lists(some.sampled_from(["..", ".", "", "a", "sandbox", "%2e", "\\", "\0", "ä"])).map("/".join)
)
def test_what_passes_stays_below_whatever_it_is_joined_with(text):
    try:
        found = paths.names(text)
    except InvalidRequestError:
        return
    assert os.path.normpath(os.path.join("/disk", *found)).startswith("/disk")
    assert all(0 < len(os.fsencode(part)) <= 255 and not {"\0", "/"} & set(part) for part in found)
    assert paths.names(paths.text(found)) == found, "the path we tell leads to the same file"


@given(some.integers(1, 4), some.sampled_from(["..", "../..", "a/../../b", ".\uff0e"]))
def test_no_number_of_percent_encodings_hides_dot_dot(times, text):
    for _ in range(times):
        text = quote(text, safe="").replace(".", "%2E")
    with pytest.raises(InvalidRequestError):
        paths.names(text)


@pytest.mark.parametrize("name", ["a\nb", "a\udcff", "..", ".", "", "a/b", "%2e%2e", "x" * 256])
def test_a_name_that_no_path_can_have_is_known(name):
    assert not paths.is_nameable(name)


@given(
    some.text()
    | some.lists(some.sampled_from(["a", "/", ".", "/sandbox/", "\0", "\n", "a" * 255, "b" * 256])).map("".join)
)
def test_every_entry_that_passes_matches_the_published_pattern(text):
    try:
        paths.entry(text)
    except InvalidRequestError:
        return
    assert re.search(paths.PATTERN.removesuffix("$") + r"\Z", text)
