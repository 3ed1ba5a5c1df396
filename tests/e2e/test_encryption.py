"""CurveZMQ: jupyter_client's `transport_encryption`, with forked kernels and with executed ones."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import zmq
from jupyter_client import KernelManager

from tests.conftest import wait_until
from tests.e2e.kernels import several

pytestmark = pytest.mark.skipif(
    not hasattr(KernelManager, "transport_encryption"), reason="this jupyter_client knows no encryption"
)

EXECUTED = ["python", "-m", "ipykernel_launcher", "-f", "{connection_file}", "--InteractiveShell.cache_size=77"]
SILENCE_MS = 1000


@pytest.fixture(scope="module", params=["forked", "executed"])
def spec(request, add_kernelspec):
    return add_kernelspec(f"curve-{request.param}", argv=EXECUTED if request.param == "executed" else None)


@pytest.fixture(scope="module")
def encrypted(spec, tmp_path_factory):
    """A kernel that must be encrypted, for the tests that leave it as it was."""
    with several(tmp_path_factory.mktemp("notebooks")) as start:
        yield start(spec, transport_encryption="required")


def strangers_answer(kernel, channel, *, with_key):
    """What somebody hears who connects by hand and knows the path, or the kernel's public key as well."""
    socket_type, port = {"shell": (zmq.DEALER, 1), "control": (zmq.DEALER, 4), "hb": (zmq.REQ, 5)}[channel]
    info = kernel.manager.get_connection_info()
    with zmq.Context() as context, context.socket(socket_type) as stranger:
        stranger.linger = 0
        if with_key:
            stranger.curve_publickey, stranger.curve_secretkey = zmq.curve_keypair()
            stranger.curve_serverkey = info["curve_publickey"].encode()
        stranger.connect(f"ipc://{info['ip']}-{port}")
        if channel == "hb":
            stranger.send(b"ping")
        else:
            session = kernel.client.session
            session.send(stranger, session.msg("kernel_info_request"))
        return stranger.poll(SILENCE_MS) != 0


def test_an_encrypted_kernel_runs_code(encrypted):
    assert encrypted.run("print(6 * 7)") == "42\n"


def test_the_heart_of_an_encrypted_kernel_beats(encrypted):
    assert strangers_answer(encrypted, "hb", with_key=True)
    wait_until(encrypted.client.hb_channel.is_beating)  # a beat that takes a second, on a busy machine, does not count


@pytest.mark.parametrize("channel", ["shell", "control", "hb"])
def test_who_has_not_the_key_of_an_encrypted_kernel_is_not_heard(encrypted, channel):
    assert not strangers_answer(encrypted, channel, with_key=False)


def test_the_connection_file_gives_other_clients_the_keys(encrypted):
    info = json.loads(Path(encrypted.manager.connection_file).read_text())
    assert len(info["curve_publickey"]) == len(info["curve_secretkey"]) == 40
    other = encrypted.manager.blocking_client()
    other.start_channels()
    try:
        other.wait_for_ready(timeout=30)
    finally:
        other.stop_channels()


def test_the_debugger_of_an_encrypted_kernel_answers(encrypted):
    arguments = {"type": "request", "seq": 1, "command": "debugInfo", "arguments": {}}
    assert encrypted.control("debug_request", arguments)["success"]


def test_restart_keeps_the_keys(spec, new_kernel):
    kernel = new_kernel(spec, transport_encryption="required")
    before = kernel.manager.get_connection_info()
    kernel.restart()
    assert kernel.run("print('again')") == "again\n"
    assert kernel.manager.get_connection_info() == before


def test_auto_encrypts_what_says_that_it_can(new_kernel):
    kernel = new_kernel(transport_encryption="auto")
    assert "curve_publickey" in kernel.manager.get_connection_info()
    assert kernel.run("print(6 * 7)") == "42\n"


def test_without_a_wish_nothing_is_encrypted(kernel):
    assert "curve_publickey" not in kernel.manager.get_connection_info()


def test_two_kernels_have_different_keys(new_kernel):
    first, second = (new_kernel(transport_encryption="auto").manager.get_connection_info() for _ in range(2))
    assert first["curve_publickey"] != second["curve_publickey"]
