"""Tokens as values, and the file that keeps them: hashed, whole, for its owner only."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
import stat
import threading
import time
from datetime import UTC, datetime, timedelta

import pytest

from jupyter_sandbox import tokens
from jupyter_sandbox.errors import InvalidRequestError, TokenFileError
from jupyter_sandbox.token_file import KnownTokens, TokenFile

pytestmark = pytest.mark.unit

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)


def a_token(owner="alice", expires_at=None, **more):
    token_id, text, digest = tokens.mint()
    values = {"id": token_id, "owner": owner, "scopes": ("kernels",), "created_at": NOW, "expires_at": expires_at}
    return tokens.Token(**values | {"digest": digest} | more), text


@pytest.fixture
def file(tmp_path):
    return TokenFile(tmp_path / "deep" / "tokens.json")


def test_a_token_has_256_random_bits_and_tells_its_id():
    token, text = a_token()
    assert tokens.id_in(text) == token.id
    assert len(text.encode()) == 68
    assert token.digest == hashlib.sha256(text.encode()).digest()
    assert len({tokens.mint()[1][-43:] for _ in range(1000)}) == 1000


def test_a_token_does_not_show_its_digest():
    token, _ = a_token()
    assert token.digest.hex() not in repr(token)
    assert repr(token.digest) not in repr(token)


@pytest.mark.parametrize(
    "change", [str.upper, lambda text: text[:-1], lambda text: text + "=", lambda text: text + "\n"]
)
def test_only_the_whole_text_is_the_token(change):
    token, text = a_token()
    assert tokens.is_secret_of(token.digest, text)
    assert tokens.id_in(change(text)) is None
    assert not tokens.is_secret_of(token.digest, change(text))


def test_what_no_scope_names_is_allowed_by_none():
    everything = list(tokens.SCOPES)
    for resource in ("config", "server", "terminals", "csp", "nbconvert", "", "sandbox"):
        assert not any(tokens.allows(everything, resource, action) for action in ("read", "write", "execute"))
    assert not tokens.allows(everything, "events", "write")


@pytest.mark.parametrize("scope", [scope for scope in tokens.SCOPES if scope.endswith(":read")])
def test_a_scope_to_look_is_part_of_the_whole_one_and_looks_only(scope):
    assert tokens.SCOPES[scope] < tokens.SCOPES[scope.removesuffix(":read")]
    assert {action for _, action in tokens.SCOPES[scope]} == {"read"}


@pytest.mark.parametrize("name", ["alice", "a.b_c@d-e+f", "9", "x" * 64])
def test_a_name_of_an_owner(name):
    assert tokens.owner_name(name) == name


@pytest.mark.parametrize("name", ["", "*", "a b", "a\n", "ü", "../a", ".a", "x" * 65, "user alice", "a\0"])
def test_anything_else_is_no_name_of_an_owner(name):
    with pytest.raises(InvalidRequestError):
        tokens.owner_name(name)


def test_tokens_come_back_from_the_file_as_they_were(file):
    stored = (a_token()[0], a_token("bob", NOW + timedelta(days=1))[0])
    file.change(lambda _: stored)
    assert file.read() == stored


def test_the_file_has_no_secret_and_one_reader(file):
    token, text = a_token()
    file.change(lambda _: (token,))
    assert text[-43:] not in file.path.read_text()
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    assert sorted(path.name for path in file.path.parent.iterdir()) == ["tokens.json", "tokens.json.lock"]


def test_a_change_that_fails_leaves_the_file_as_it_was(file):
    token, _ = a_token()
    file.change(lambda _: (token,))

    def broken(_):
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        file.change(broken)
    assert file.read() == (token,)
    assert sorted(path.name for path in file.path.parent.iterdir()) == ["tokens.json", "tokens.json.lock"]


def test_changes_at_once_lose_nothing(file):
    threads = [threading.Thread(target=file.change, args=(lambda stored: (*stored, a_token()[0]),)) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(file.read()) == 20


BROKEN = {
    "nothing": "",
    "half": '{"version": 1, "tokens": [',
    "a list": "[]",
    "a later version": '{"version": 2, "tokens": []}',
    "no tokens": '{"version": 1}',
    "no list": '{"version": 1, "tokens": {}}',
    "numbers": '{"version": 1, "tokens": [1]}',
    "depth": "[" * 100_000,
}


@pytest.mark.parametrize("text", BROKEN.values(), ids=BROKEN)
def test_a_file_that_is_none_is_refused_by_its_name_only(file, text):
    file.change(lambda _: ())
    file.path.write_text(text)
    with pytest.raises(TokenFileError, match=r"tokens\.json is not used") as refused:
        file.read()
    assert str(file.path.parent) not in str(refused.value)


@pytest.mark.parametrize(
    "change",
    [
        {"id": "tok_1"},
        {"id": 7},
        {"owner": "*"},
        {"owner": ["alice"]},
        {"scopes": []},
        {"scopes": ["everything"]},
        {"scopes": "kernels"},
        {"sha256": "ab"},
        {"sha256": None},
        {"expires_at": "soon"},
        {"created_at": None},
    ],
)
def test_a_record_that_is_none_makes_the_file_none(file, change):
    token, _ = a_token()
    file.change(lambda _: (token,))
    stored = json.loads(file.path.read_text())
    stored["tokens"][0] |= change
    file.path.write_text(json.dumps(stored))
    with pytest.raises(TokenFileError):
        file.read()


def test_an_id_twice_makes_the_file_none(file):
    token, _ = a_token()
    file.change(lambda _: (token, token))
    with pytest.raises(TokenFileError):
        file.read()


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644])
def test_a_file_that_others_may_read_or_write_is_not_used(file, mode):
    file.change(lambda _: ())
    file.path.chmod(mode)
    with pytest.raises(TokenFileError, match="chmod 600"):
        file.read()


def test_what_is_no_file_of_its_own_is_not_used(file, tmp_path):
    file.change(lambda _: ())
    kept = file.path.rename(tmp_path / "kept.json")
    file.path.symlink_to(kept)
    with pytest.raises(TokenFileError, match="cannot be opened"):
        file.read()
    file.path.unlink()
    os.mkfifo(file.path, 0o600)
    with pytest.raises(TokenFileError, match="no file of tokens"):
        file.read()


def test_no_file_is_no_token(file):
    assert file.read() == ()
    assert file.stamp() is None


async def test_a_server_knows_what_changed_and_nothing_of_a_file_that_cannot_be_trusted(file):
    token, _ = a_token()
    known = KnownTokens(file)
    known.load()
    file.change(lambda _: (token,))
    assert known.get(token.id) is None
    assert await known.get_fresh(token.id) == token
    file.path.chmod(0o644)
    await known.refresh()
    assert known.get(token.id) is None
    file.path.chmod(0o600)
    await known.refresh()
    assert known.get(token.id) == token
    file.change(lambda _: ())
    await known.refresh()
    assert known.get(token.id) is None


async def test_unknown_tokens_do_not_make_a_server_look_more_often_than_ten_times_a_second(file, monkeypatch):
    known, looks = KnownTokens(file), []
    known.load()
    monkeypatch.setattr(file, "stamp", lambda: looks.append(1))
    started = time.monotonic()
    for _ in range(3):
        await asyncio.gather(*(known.get_fresh(f"tok_{number:020}") for number in range(1000)))
    assert len(looks) - 1 <= (time.monotonic() - started) / 0.1
