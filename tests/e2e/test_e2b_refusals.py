"""E2B's SDK where there is no room: which of its errors a program gets, and what it tries again by itself."""

from __future__ import annotations

import contextlib
import io
import json
import threading
import urllib.request

import pytest
from e2b import NotEnoughSpaceException, SandboxException, ServiceBusyException
from e2b_code_interpreter import AsyncSandbox, Sandbox

from tests.e2e import e2b_clients
from tests.e2e.served import served_for_e2b

PLACES = 2
DISK_MIB = 24

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def served(tree, tmp_path_factory):
    """A server with few places and small disks."""
    small = ("--min-idle-workers=0", f"--max-total-workers={PLACES}", f"--worker-disk-mb={DISK_MIB}")
    with served_for_e2b(tmp_path_factory.mktemp("small"), *small) as server:
        yield server


@pytest.fixture
def create(served):
    """Make sandboxes that end with the test."""
    with contextlib.ExitStack() as made:

        def create(**how):
            sandbox = Sandbox.create(timeout=100, **how)
            made.callback(sandbox.kill)
            return sandbox

        yield create


def test_the_same_key_makes_one_sandbox_and_not_with_other_arguments(create):
    key = "k-" + "1" * 253
    first = create(idempotency_key=key, metadata={"a": "1"})
    again = create(idempotency_key=key, metadata={"a": "1"})
    assert again.sandbox_id == first.sandbox_id
    again.files.write("a.txt", "by the second")
    assert first.files.read("a.txt") == "by the second"
    with pytest.raises(SandboxException, match=r"409.*other arguments"):
        create(idempotency_key=key, metadata={"a": "2"})
    other = create(idempotency_key=key[:-1] + "2", metadata={"a": "1"})
    assert other.sandbox_id != first.sandbox_id, "once only the beginning of a key counted"


def test_a_key_is_free_again_when_its_sandbox_has_gone(create):
    first = create(idempotency_key="once")
    assert first.kill()
    assert create(idempotency_key="once", envs={"A": "b"}).sandbox_id != first.sandbox_id


def test_refreshes_give_a_sandbox_more_time(served, create):
    sandbox = create()
    for body, least_s in (({"duration": 900}, 800), ({}, 250)):
        headers = {"X-API-Key": served.token, "Content-Type": "application/json"}
        url = f"{served.url}/e2b/sandboxes/{sandbox.sandbox_id}/refreshes"
        with urllib.request.urlopen(urllib.request.Request(url, json.dumps(body).encode(), headers)) as answer:
            assert answer.status == 204
        info = sandbox.get_info()
        assert least_s < (info.end_at - info.started_at).total_seconds() < 2 * least_s


def test_a_full_server_is_busy_and_is_asked_again_until_there_is_a_place(create):
    first, _ = create(), create()
    with pytest.raises(ServiceBusyException):
        create(retries=0)
    leaving = threading.Timer(1, first.kill)
    leaving.start()
    create(retries=20)
    leaving.join()


def test_a_full_server_is_busy_for_the_asynchronous_sdk_too(create):
    create(), create()

    async def use():
        with pytest.raises(ServiceBusyException):
            await AsyncSandbox.create(retries=0)

    e2b_clients.in_a_loop(use)


def test_a_full_disk_is_not_enough_space_and_what_was_there_stays(create):
    sandbox = create()
    sandbox.files.write("a.bin", b"before")
    large = bytes(DISK_MIB + 4 << 20)
    for content in (io.BytesIO(large), large):
        with pytest.raises(NotEnoughSpaceException):
            sandbox.files.write("a.bin", content)
    assert sandbox.files.read("a.bin") == "before"
    sandbox.files.write("b.txt", "there is room again")
    assert sandbox.run_code("open('/home/user/b.txt').read()").text == "there is room again"
