"""Who may have a sandbox that a server left, and what the ledger may be made to say."""

from __future__ import annotations

import json
import shutil

import pytest

from jupyter_sandbox.broker.adoption_verbs import MAX_NOTE
from jupyter_sandbox.host import places
from tests.attacks.attacker import STRANGER, USER, Refusal, make_host, running_host, wait_until

SERVER = "the-server"
CLAIM = (
    "lease = asyncio.run(client.Lease.claim('tiny', 'none', '', None, "
    "keepsake=client.Keepsake(server=server, note=note))); result = lease.sandbox"
)
LEFT = "result = [row.sandbox for row in call(verbs.List(after='', left_by=server), verbs.Listing).sandboxes]"
ADOPT = (
    "channel = asyncio.run(client.connect(start=False)); "
    "result = asyncio.run(client.ask(channel, adoption_verbs.Adopt(sandbox=id, server=server), "
    "adoption_verbs.Adopted))[0].template"
)
READ = "result = call(adoption_verbs.ReadNote(sandbox=id, seat=seat), adoption_verbs.Note).text"
WRITE = "call(adoption_verbs.WriteNote(sandbox=id, seat=seat, text=text), verbs.Done)"
RELEASE = "call(verbs.Release(sandbox=id), verbs.Done)"


@pytest.fixture(scope="module")
def shared():
    """Root's broker that serves every local user."""
    config = "c.BrokerApp.socket_mode = 0o666\nc.BrokerApp.idle_exit_s = 0\nc.BrokerApp.recover_grace_s = 60"
    with running_host(0, config=config) as host:
        host.run("result = call(verbs.Status(), verbs.StatusReport).pid")
        yield host


@pytest.fixture(scope="module")
def people(shared):
    """Clients of the broker: the owner of a sandbox, and another user of the machine."""
    hosts = [make_host(uid, variables={places.SOCKET_VARIABLE: str(shared.socket_path())}) for uid in (USER, STRANGER)]
    yield hosts
    for host in hosts:
        if host.process:
            host.process.stdin.close()
            host.process.wait(20)
            host.process.stdout.close()
        shutil.rmtree(host.directory, ignore_errors=True)


@pytest.fixture
def user(people):
    return people[0]


@pytest.fixture
def stranger(people):
    return people[1]


@pytest.fixture
def left(user):
    """A sandbox that the user's server claimed and left."""
    sandbox = user.run(CLAIM, server=SERVER, note="secret")
    user.run("lease.close()")
    wait_until(lambda: user.run(LEFT, server=SERVER) == [sandbox])
    yield sandbox
    user.run(RELEASE, id=sandbox)


REACHES = {"adopt": ADOPT, "read": READ, "write": WRITE}


@pytest.mark.parametrize("verb", REACHES)
@pytest.mark.parametrize("who", ["stranger", "shared"])
def test_another_user_has_no_part_in_what_a_server_left(request, left, user, who, verb):
    """Root, whose broker it is, may read and write; to adopt is its own servers' only."""
    if who == "shared" and verb != "adopt":
        return
    host = request.getfixturevalue(who)
    assert host.run(LEFT, server=SERVER) == []
    with pytest.raises(Refusal) as refused:
        host.run(REACHES[verb], id=left, server=SERVER, seat="", text="planted")
    assert refused.value.code == "unknown_sandbox"
    assert user.run(READ, id=left, seat="") == "secret"


@pytest.mark.parametrize("name", ["another", "", "THE-SERVER", "the-server\n", "*", "../the-server"])
def test_another_server_of_the_same_user_adopts_nothing(user, left, name):
    assert left not in user.run(LEFT, server=name) or name == "", "without a name it is the usual list"
    with pytest.raises(Refusal) as refused:
        user.run(ADOPT, id=left, server=name)
    assert refused.value.code == "unknown_sandbox"


def test_what_is_held_is_not_adopted(user, left):
    assert user.run(ADOPT, id=left, server=SERVER) == "tiny"
    assert user.run(LEFT, server=SERVER) == []
    with pytest.raises(Refusal) as refused:
        user.run(ADOPT.replace("channel", "other"), id=left, server=SERVER)
    assert refused.value.code == "conflict"
    user.run("channel.close()")
    wait_until(lambda: user.run(LEFT, server=SERVER) == [left])
    assert user.run(ADOPT, id=left, server=SERVER) == "tiny"
    user.run("channel.close()")


def test_what_no_server_claimed_is_never_left(user):
    sandbox = user.run(CLAIM, server="", note="x")
    with pytest.raises(Refusal) as refused:
        user.run(ADOPT, id=sandbox, server="")
    assert refused.value.code == "unknown_sandbox"
    user.run("lease.close()")
    wait_until(lambda: user.run("result = len(call(verbs.List(after=''), verbs.Listing).sandboxes)") == 0)


@pytest.mark.parametrize("name", ["../x", "a/b", "a\nb", "a\0b", "x" * 65, " ", ".hidden", "é"])
def test_a_name_that_is_none_claims_nothing(user, name):
    with pytest.raises(Refusal) as refused:
        user.run(CLAIM, server=name, note="")
    assert refused.value.code == "invalid_request"
    assert user.run("result = len(call(verbs.List(after=''), verbs.Listing).sandboxes)") == 0


@pytest.mark.parametrize(
    ("seat", "text"),
    [
        ("", "x" * (MAX_NOTE + 1)),
        ("0123456789ab", "a kernel that is not there"),
        ("../../ledger/x", "x"),
        ("x" * 10_000, "x"),
    ],
    ids=["too long", "no kernel", "a path", "a long seat"],
)
def test_the_ledger_keeps_nothing_else(user, left, seat, text):
    with pytest.raises(Refusal) as refused:
        user.run(WRITE, id=left, seat=seat, text=text)
    assert refused.value.code == "invalid_request"
    assert user.run(READ, id=left, seat="") == "secret"
    assert user.run(READ, id=left, seat=seat) == ("secret" if seat == "" else "")


NAUGHTY = '"}, "owner": 0, "pid": 1, "server": "x\n\0\u202e\ud800'


def test_a_note_is_text_in_its_record_and_nothing_more(shared, user, left):
    user.run(WRITE, id=left, seat="", text=NAUGHTY)
    assert user.run(READ, id=left, seat="") == NAUGHTY
    (path,) = shared.directory.glob(f"**/ledger/{left}.json")
    record = json.loads(path.read_text())
    assert (record["owner"], record["server"], record["notes"]) == (USER, SERVER, {"": NAUGHTY})
    assert path.stat().st_mode & 0o777 == 0o600
    user.run(WRITE, id=left, seat="", text="secret")


def test_a_worker_sees_no_note(user):
    sandbox = user.run(CLAIM, server=SERVER, note="s3cret-note")
    done = user.run(
        "box = Sandbox.__new__(Sandbox); box.id = id; "
        "result = box.command(('/bin/sh', '-c', 'cat /proc/*/environ /proc/*/cmdline /run/* /etc/* 2>/dev/null'))",
        id=sandbox,
    )
    assert done["status"] is not None
    assert "s3cret-note" not in done["out"]
    user.run("lease.close()")
    user.run(RELEASE, id=sandbox)
