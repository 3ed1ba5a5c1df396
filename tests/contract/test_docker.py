"""What only the engine `docker` has to promise: refusals in words, a daemon that is away, containers that nobody owns."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import threading
from pathlib import Path

import docker as library
import pytest

from jupyter_sandbox.engines import container, daemon, docker, image
from jupyter_sandbox.errors import EngineUnavailableError
from jupyter_sandbox.host import places
from tests.conftest import wait_until
from tests.contract.conftest import Broker


class Door:
    """A socket that leads to the daemon as long as it is open."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._target = daemon.address().removeprefix("unix://")
        self._listener: socket.socket | None = None
        self._open: list[socket.socket] = []

    def open(self) -> None:
        self.path.unlink(missing_ok=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen(16)
        threading.Thread(target=self._serve, args=(self._listener,), daemon=True).start()

    def shut(self) -> None:
        assert self._listener is not None
        self.path.unlink(missing_ok=True)
        for each in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()
        self._open.clear()

    def _serve(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                far = socket.socket(socket.AF_UNIX)
                far.connect(self._target)
                self._open += [near, far]
                for pair in ((near, far), (far, near)):
                    threading.Thread(target=self._carry, args=pair, daemon=True).start()

    @staticmethod
    def _carry(source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="session")
def usable():
    """Skip where there is no daemon with our image."""
    if unfit := asyncio.run(docker.unfit(image.DEFAULT)):
        pytest.skip(f"engine docker: {unfit}")


@pytest.fixture
def tree(usable, monkeypatch):
    """A broker's tree, not started."""
    made = Broker("docker")
    monkeypatch.delenv(places.SOCKET_VARIABLE, raising=False)
    monkeypatch.setenv(places.DIRECTORY_VARIABLE, str(made.directory))
    yield made
    made.stop()


@pytest.fixture
def door(tree):
    """A door to the daemon for the tree's broker; open."""
    made = Door(tree.directory / "door")
    made.open()
    tree.variables[daemon.HOST_VARIABLE] = f"unix://{made.path}"
    yield made
    tree.stop()  # it needs the daemon for that
    made.shut()


def refusal(tree, *prefix):
    """Start a broker that must refuse; return what it says."""
    command = [*prefix, sys.executable, "-P", "-m", "jupyter_sandbox.broker", "--background", *tree.arguments]
    done = subprocess.run(command, env=tree.environment(), capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    return json.loads(done.stderr.splitlines()[-1])


def test_without_a_daemon_the_broker_refuses_in_words(tree):
    tree.variables[daemon.HOST_VARIABLE] = f"unix://{tree.directory}/nobody"
    said = refusal(tree)
    assert said["code"] == "isolation_unavailable"
    assert "no container engine answers" in said["message"]


def test_a_daemon_of_another_machine_is_refused(tree):
    tree.variables[daemon.HOST_VARIABLE] = "tcp://127.0.0.1:1"
    assert "of this machine" in refusal(tree)["message"]


def test_without_the_image_the_broker_names_the_command(tree):
    tree.arguments.append("--BrokerApp.docker_image=no-such-image:1")
    said = refusal(tree)
    assert said["code"] == "isolation_unavailable"
    assert "`jupyter sandbox image build`" in said["message"]


def test_an_unknown_runtime_is_refused(tree):
    tree.arguments.append("--BrokerApp.docker_runtime=no-such-runtime")
    assert "no runtime 'no-such-runtime'" in refusal(tree)["message"]


def test_the_limit_of_open_files_is_the_templates_whatever_the_brokers_own_is(tree, claim):
    """The daemon makes the container, so only its limit counts."""
    tree.start("prlimit", "--nofile=2000:2000")
    answer = claim().execute("import resource\nprint(resource.getrlimit(resource.RLIMIT_NOFILE))")
    assert answer["out"] == "(4096, 4096)\n", answer


@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv, to play an ordinary user")
def test_an_ordinary_user_is_refused_in_words(tree):
    os.chown(tree.directory, 12345, 12345)
    tree.variables["HOME"] = str(tree.directory)
    said = refusal(tree, "setpriv", "--reuid=12345", "--regid=12345", "--clear-groups")
    assert (said["code"], "runs as root" in said["message"]) == ("isolation_unavailable", True), said
    os.chown(tree.directory, 0, 0)
    for path in tree.directory.glob("*"):
        if path.stat().st_uid == 12345:
            shutil.rmtree(path)


def test_auto_takes_docker_when_it_is_ready_and_else_the_embedded_engine(tree, door):
    tree.engine = "auto"
    tree.start()
    assert tree.status().engine == "docker"
    os.kill(tree.pid(), 2)
    wait_until(lambda: tree.pid() is None)
    tree.variables[daemon.HOST_VARIABLE] = f"unix://{tree.directory}/nobody"
    tree.start()
    assert tree.status().engine == "embedded"


def test_sandboxes_go_on_while_the_daemon_is_away(tree, door, claim):
    tree.start()
    box = claim()
    wait_until(lambda: tree.status().warm == 1, 30)
    door.shut()
    assert box.execute("print(6 * 7)")["out"] == "42\n"
    warm = claim()  # this one was there already
    assert warm.execute("print(1)")["out"] == "1\n"
    with pytest.raises(EngineUnavailableError) as away:
        claim()
    assert away.value.retry_after_s
    pid = tree.record(box.id)["pid"]
    box.release()
    assert not Path(f"/proc/{pid}").exists()
    door.open()
    wait_until(lambda: tree.status().warm == 1, 40)
    assert warm.execute("print(2)")["out"] == "2\n"
    assert claim().execute("print(3)")["out"] == "3\n"
    wait_until(lambda: f"container {box.id}" not in tree.leftovers(), 20)
    assert tree.reap() == ()


def test_a_container_that_no_record_knows_is_reaped(tree):
    tree.start()
    wait_until(lambda: tree.status().warm == 1, 30)
    where = next(path.parent for path in tree.directory.glob("*/lock"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(places.DIRECTORY_VARIABLE, str(tree.directory))
        instance = places.find().instance
    assert places.find().run == where
    name = "sbx_" + "f" * 20
    api = library.APIClient(base_url=daemon.address())
    labels = {container.INSTANCE: instance, container.SANDBOX: name}
    api.create_container(image.DEFAULT, ["true"], name=name, labels=labels)
    try:
        assert tree.reap(dry_run=True) == (f"container {name}",)
        assert tree.reap() == (f"container {name}",)
        assert tree.reap() == ()
    finally:
        with contextlib.suppress(library.errors.NotFound):
            api.remove_container(name, force=True)
        api.close()


def test_a_container_that_is_stopped_by_hand_is_a_lost_sandbox(tree, claim):
    tree.start()
    box = claim()
    api = library.APIClient(base_url=daemon.address())
    api.kill(box.id)
    api.close()
    assert box.end()["reason"] == "lost"
    wait_until(lambda: box.id not in tree.listed())


def test_the_daemon_keeps_the_limits_that_the_template_sets(tree, claim):
    tree.start()
    box = claim("small-memory", start=False)
    api = library.APIClient(base_url=daemon.address())
    try:
        found = api.inspect_container(box.id)["HostConfig"]
    finally:
        api.close()
    assert (found["Memory"], found["MemorySwap"], found["PidsLimit"]) == (256 << 20, (256 << 20) + 1, 256)
    assert found["CapDrop"] == ["ALL"] or "NET_RAW" in found["CapDrop"], "Podman names all of them"
    assert found["ReadonlyRootfs"]


LOADED = "import sys; print(sorted({'jedi', 'parso', 'executing', 'stack_data', 'pexpect'} & set(sys.modules)))"


def test_a_container_holds_only_what_first_cells_need(tree, claim):
    tree.start()
    box = claim()
    assert box.execute(LOADED)["out"] == "[]\n"
    assert box.execute("1 / 0")["error"] == "ZeroDivisionError: division by zero"
    assert "stack_data" in box.execute(LOADED)["out"]


def test_a_completion_finds_what_was_parsed_for_the_image_and_writes_beside_it(tree, claim):
    tree.start()
    box = claim()
    found = box.kernel.complete("import email.charset as c; c.CODE", 33, reply=True, timeout=30)
    assert any(match.endswith("CODEC_MAP") for match in found["content"]["matches"])
    box.execute("import glob, jedi, os; files = glob.glob(jedi.settings.cache_directory + '/*/*.pkl')")
    assert box.execute("print({os.path.islink(file) for file in files} == {True, False})")["out"] == "True\n"
    assert box.execute("print(os.path.exists('/sandbox/.cache/jedi'))")["out"] == "False\n"


def test_a_broker_killed_while_a_container_starts_leaves_nothing(tree):
    tree.start()
    for delay_s in (0.05, 0.15, 0.3):
        wait_until(lambda: any(tree.directory.glob("*/ledger/*.json")), 30)
        threading.Event().wait(delay_s)
        tree.kill()
        tree.start()
    wait_until(lambda: tree.status().warm == 1, 30)
    wait_until(lambda: len(tree.records()) == 1)
    assert tree.reap() == ()
