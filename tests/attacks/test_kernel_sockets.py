"""A kernel that turns on the sockets it was given: its own clients may suffer, nobody else."""

from __future__ import annotations

import ast
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.attacks.attacker import STRANGER

EXECUTED = [
    "python",
    "-m",
    "ipykernel_launcher",
    "-f",
    "{connection_file}",
    "--HistoryManager.hist_file=:memory:",
    "--debug",
]

LISTENERS = """
def listeners():
    'The host-bound listeners among our descriptors, by port.'
    found = {}
    for name in os.listdir('/proc/self/fd'):
        try:
            if not os.readlink(f'/proc/self/fd/{name}').startswith('socket:'): continue
            s = socket.socket(fileno=os.dup(int(name)))
        except OSError: continue
        if s.family == socket.AF_UNIX and s.getsockopt(1, 30) and s.getsockname():
            found[int(s.getsockname()[-1])] = (int(name), s)
    return found
"""

STEAL = """
import os, socket, threading
def steal(listener, descriptors=0):
    'Answer who connects there with nonsense, beside whoever listens.'
    def feed():
        held = []
        while True:
            peer, _ = listener.accept()
            held.append(peer)
            greeting = b'\\xff' + bytes(8) + b'\\x7f' + os.urandom(4096)
            try:
                if descriptors: socket.send_fds(peer, [greeting], [os.open('/dev/null', 0)] * descriptors)
                else: peer.send(greeting)
                for _ in range(64): peer.send(os.urandom(65536), socket.MSG_DONTWAIT)
            except OSError: pass
    listener.setblocking(True)
    for _ in range(2): threading.Thread(target=feed, daemon=True).start()
"""


def test_a_kernel_that_steals_its_listeners_harms_only_its_own_clients(host, inside, claim):
    box = claim()
    box.execute(LISTENERS + STEAL + "for number, listener in listeners().values(): steal(listener, 8)")
    # a client that connects now may talk to the thief
    box.do("box.connect(box.prefix, wait=False)")
    assert box.execute("1", timeout=1)["status"] in ("ok", "timeout", "dead", "nonsense")
    assert inside.ask("2 + 2") == 4
    assert claim().ask("3 + 3") == 6
    box.do("box.signal(9)")
    assert box.end()["reason"] in ("requested", "signal", "failed"), "its ZeroMQ may have died of it before"
    box.start()
    assert box.ask("4 + 4") == 8


def test_a_daemon_that_kept_the_listeners_does_not_get_the_next_kernels_clients(claim):
    box = claim()
    code = """
held = [s for _, s in listeners().values()]
if os.fork() == 0:
    os.setsid()
    import time
    for s in held: s.setblocking(False)
    while True:
        for s in held:
            try: s.accept()[0].close()
            except OSError: pass
        time.sleep(0.01)
"""
    box.execute(LISTENERS + code, timeout=5)
    box.do("box.signal(9)")
    assert box.end()["reason"] == "requested"
    box.start()
    assert [box.ask("5 + 5") for _ in range(3)] == [10] * 3


def test_shut_listeners_end_with_the_kernel(claim):
    box = claim()
    box.execute(LISTENERS + "for number, s in listeners().values():\n    attempt(s.shutdown, 2); os.close(number)")
    box.do("box.signal(9)")
    assert box.end()["reason"] == "requested"
    box.start()
    assert box.ask("6 + 6") == 12


def test_the_connection_file_inside_is_for_its_user_only(inside):
    seat = inside.do("box.seat")
    assert inside.ask(f"oct(os.stat('/run/kernel-{seat}.json').st_mode)") == "0o100600"


def test_a_key_is_never_in_the_ledger_or_log(host, inside):
    key = inside.do("box.key")
    files = [path for path in host.directory.rglob("*") if path.is_file()]
    assert files
    assert not [path for path in files if key.encode() in path.read_bytes()]


def test_an_executed_kernel_that_steals_its_own_ports_harms_only_its_own_clients(inside, claim):
    box = claim(start=False)
    box.start(EXECUTED)
    assert box.execute("1 + 1")["status"] == "ok"
    code = """
stolen = []
for name in os.listdir('/proc/self/fd'):
    try: s = socket.socket(fileno=os.dup(int(name)))
    except OSError: continue
    if s.family == socket.AF_INET and s.getsockopt(1, 30):
        steal(s); stolen.append(s)
print(len(stolen))
"""
    assert int(box.execute(STEAL + code)["out"]) >= 5
    box.do("box.connect(box.prefix, wait=False)")
    assert box.execute("1", timeout=1)["status"] in ("ok", "timeout", "dead", "nonsense")
    assert inside.ask("2 + 2") == 4
    assert box.command("echo", "agent lives")["out"].strip() == "agent lives"
    box.do("box.signal(9)")
    assert box.end()["reason"] in ("requested", "signal", "failed"), "its ZeroMQ may have died of it before"
    box.start(EXECUTED)
    assert box.execute("1 + 1")["status"] == "ok"


def test_an_executed_kernels_ports_are_on_a_loopback_that_nobody_else_has(claim):
    box, other = claim(start=False), claim()
    box.start(EXECUTED)
    seat = box.do("box.seat")
    file = f"import json; print(json.load(open('/run/kernel-{seat}.json')))"
    info = ast.literal_eval(box.execute(file)["out"])
    assert (info["transport"], info["ip"]) == ("tcp", "127.0.0.1")
    attempt = f"attempt(socket.create_connection, ('127.0.0.1', {info['shell_port']}), 1)"
    assert other.ask(attempt) == "ECONNREFUSED"
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", info["shell_port"]), 1)


def test_a_directory_in_the_way_of_an_executed_kernel_is_told(claim):
    box = claim()
    seat = box.do("box.seat")
    box.execute(f"os.unlink('/run/kernel-{seat}.json'); os.makedirs('/run/kernel-{seat}.json/x')")
    box.do("box.signal(9)")
    assert box.end()["reason"] == "requested"
    with pytest.raises(Exception, match="directory") as refused:
        box.start(EXECUTED)
    assert refused.value.code == "start_failed"
    assert box.command("echo", "agent lives")["out"].strip() == "agent lives"


def test_a_crowd_of_connections_to_a_relay_is_bounded(host, inside, claim):
    box = claim(start=False)
    box.start(EXECUTED)
    crowd = """
import socket
crowd = []
for _ in range(120):
    s = socket.socket(socket.AF_UNIX); s.settimeout(2); crowd.append(s)
    try: s.connect(box.prefix + '-1'); s.send(b'x' * 60000)
    except OSError: pass
for s in crowd: s.close()
result = len(crowd)"""
    host.run(f"box = SANDBOXES[box_number]\n{crowd}", box_number=box.number)
    assert box.command("echo", "agent lives")["out"].strip() == "agent lives"
    assert inside.ask("2 + 2") == 4


def test_a_default_brokers_socket_is_closed_to_others(host):
    code = "import errno, socket, sys\ns = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)\n"
    code += "try: s.connect(sys.argv[1]); print('connected')\n"
    code += "except OSError as error: print(errno.errorcode[error.errno])"
    host.run("call(verbs.Status(), verbs.StatusReport)")
    path = str(host.socket_path())
    done = subprocess.run(
        ["setpriv", f"--reuid={STRANGER}", f"--regid={STRANGER}", "--clear-groups", sys.executable, "-c", code, path],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "EACCES"
    assert Path(path).stat().st_mode & 0o777 == 0o600
