"""`jupyter sandbox token`: what an operator sees, what programs read, and what wrong usage is told."""

from __future__ import annotations

import json
import stat
from datetime import UTC, datetime, timedelta

import pytest

from jupyter_sandbox import cli, tokens
from jupyter_sandbox.token_file import TokenFile

pytestmark = pytest.mark.unit


@pytest.fixture
def file(tmp_path):
    return TokenFile(tmp_path / "tokens.json")


@pytest.fixture
def command(file, capsys):
    """Run it: `code, out, told = command("list")`."""

    def run(action, *arguments):
        with pytest.raises(SystemExit) as ended:
            cli.main(["token", action, f"--file={file.path}", *arguments])
        shown = capsys.readouterr()
        return int(ended.value.code or 0), shown.out, shown.err

    return run


@pytest.mark.parametrize("action", [[], ["create"], ["list"], ["revoke"]])
def test_help_says_what_an_operator_needs(action, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["token", *action, "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert shown.startswith("usage: jupyter sandbox token")
    if not action:
        assert "c.ServerApp.identity_provider_class" in shown
        assert "c.ServerApp.authorizer_class" in shown
    if action == ["create"]:
        assert all(f"  {scope} " in shown for scope in tokens.SCOPES if ":" not in scope)


def test_a_token_is_all_that_is_printed_and_all_but_its_secret_is_kept(command, file):
    code, out, told = command("create", "--owner", "alice", "--scope", "kernels", "--scope", "files:read")
    assert code == 0
    (stored,) = file.read()
    assert tokens.is_secret_of(stored.digest, out.strip())
    assert (stored.id, stored.owner, stored.scopes) == (tokens.id_in(out.strip()), "alice", ("kernels", "files:read"))
    assert stored.id in told
    assert out.strip() not in told + file.path.read_text()
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], timedelta(days=30)),
        (["--expires=90m"], timedelta(minutes=90)),
        (["--expires=12h"], timedelta(hours=12)),
        (["--expires=2w"], timedelta(weeks=2)),
        (["--expires=never"], None),
    ],
)
def test_a_token_expires(command, file, given, expected):
    assert command("create", "--owner=alice", *given)[0] == 0
    (stored,) = file.read()
    assert (None if stored.expires_at is None else stored.expires_at - stored.created_at) == expected


def test_a_token_expires_at_a_day(command, file):
    day = (datetime.now(UTC) + timedelta(days=400)).date().isoformat()
    assert command("create", "--owner=alice", f"--expires={day}T00:00:00Z")[0] == 0
    (stored,) = file.read()
    assert stored.expires_at.isoformat() == f"{day}T00:00:00+00:00"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["create"], "--owner"),
        (["create", "--owner=alice", "--scope=everything"], "invalid choice"),
        (["create", "--owner=alice", "--expires=soon"], "90m, 12h, 30d"),
        (["create", "--owner=alice", "--expires=0d"], "90m, 12h, 30d"),
        (["create", "--owner=alice", "--expires=2020-01-01"], "is over"),
        (["revoke"], "name tokens, or use --owner or --expired"),
        (["revoke", "tok_1", "--expired"], "name tokens, or use --owner or --expired"),
    ],
)
def test_wrong_usage_ends_with_2_and_changes_nothing(command, file, arguments, words):
    code, out, told = command(*arguments)
    assert (code, out) == (2, "")
    assert words in told
    assert not file.path.exists()


@pytest.mark.parametrize("owner", ["", "*", "a b", "a/b", "user alice"])
def test_what_is_no_owner_is_told(command, file, owner):
    code, out, told = command("create", f"--owner={owner}")
    assert (code, out) == (1, "")
    assert "not a name of an owner" in told
    assert not file.path.exists()


def test_tokens_are_listed_without_secrets(command, file):
    assert command("list") == (0, "No tokens.\n", "")
    secret = command("create", "--owner=alice")[1].strip()
    command("create", "--owner=bob", "--expires=never", "--scope=kernels")
    code, out, _ = command("list")
    assert code == 0
    assert [line.split()[1] for line in out.splitlines()] == ["OWNER", "alice", "bob"]
    assert "never" in out
    rows = json.loads(command("list", "--owner=alice", "--json")[1])
    assert [(row["owner"], row["scopes"]) for row in rows] == [("alice", ["sandboxes", "kernels", "files"])]
    digest = file.read()[0].digest.hex()
    assert secret not in out
    assert digest not in out + json.dumps(rows)


def test_an_owner_without_tokens_is_told_with_those_that_have_some(command):
    command("create", "--owner=alice")
    for action in ("list", "revoke"):
        code, out, told = command(action, "--owner=bob")
        assert (code, out) == (1, "")
        assert "no owner 'bob'" in told
        assert "alice" in told


def test_tokens_are_revoked_by_id_by_owner_and_when_they_are_over(command, file):
    for owner in ("alice", "alice", "bob", "carol"):
        command("create", f"--owner={owner}")
    first, second, third, fourth = (token.id for token in file.read())
    assert command("revoke", first) == (0, f"{first} of alice revoked\n", "")
    code, _, told = command("revoke", third, first)
    assert code == 1
    assert "nothing was revoked" in told
    assert command("revoke", "--owner=bob")[1] == f"{third} of bob revoked\n"
    assert [token.id for token in file.read()] == [second, fourth]
    past = datetime.now(UTC) - timedelta(days=1)

    def end(stored):
        return tuple(tokens.Token(**vars(token) | {"expires_at": past}) for token in stored if token.id == second)

    file.change(lambda stored: (*end(stored), *(token for token in stored if token.id == fourth)))
    assert "expired" in command("list", "--owner=alice")[1]
    assert command("revoke", "--expired")[1] == f"{second} of alice revoked\n"
    assert [token.id for token in file.read()] == [fourth]


def test_a_file_that_is_none_is_told_and_left_alone(command, file):
    command("create", "--owner=alice")
    file.path.write_text("{}")
    for action in (["create", "--owner=bob"], ["list"], ["revoke", "tok_1"]):
        code, _, told = command(*action)
        assert code == 1
        assert "is not used" in told
    assert file.path.read_text() == "{}"
