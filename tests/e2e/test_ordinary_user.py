"""An ordinary user without any right on the machine: the same clients, isolation by user namespaces."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from jupyter_sandbox.host import places
from tests.conftest import run_as
from tests.server.brokers import Tree

UID = 12345

pytestmark = [pytest.mark.needs_root, pytest.mark.timeout(180)]


def why_not() -> str:
    if os.geteuid() != 0:
        return "needs root to become another user"
    if shutil.which("setpriv") is None:
        return "setpriv is not installed"
    if run_as(UID, sys.executable, "-c", "import jupyter_sandbox").returncode:
        return "this Python environment cannot be reached by other users"
    if run_as(UID, "unshare", "--user", "true").returncode:
        return "other users may make no user namespaces here"
    return ""


@pytest.fixture(scope="module")
def person():
    """A user with a home and a broker tree; `person(*command)` runs as that user in the home directory."""
    if reason := why_not():
        pytest.skip(reason)
    tree = Tree()
    for directory in (tree.directory, tree.templates):
        os.chown(directory, UID, UID)
    home = Path(tree.directory, "home")
    home.mkdir(mode=0o700)
    os.chown(home, UID, UID)
    kept = ("PATH", "LANG", "JUPYTER_PREFER_ENV_PATH")
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    environment |= {"HOME": str(home), "USER": "ada", places.DIRECTORY_VARIABLE: str(tree.directory)}

    def run(*command, cwd=home, **kwargs):
        done = run_as(UID, sys.executable, *map(str, command), cwd=cwd, env=environment, timeout=120, **kwargs)
        assert "Traceback" not in done.stderr or done.returncode, done.stderr
        return done

    run.home, run.tree = home, tree
    yield run
    tree.stop()


def own(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    for each in (path.parent, path):
        os.chown(each, UID, UID)
    return path


def test_doctor_says_that_sandboxes_can_run(person):
    done = person("-m", "jupyter_sandbox.cli", "doctor")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Sandboxes can run here." in done.stdout


def test_run_prints_what_the_code_prints(person):
    done = person("-m", "jupyter_sandbox.cli", "run", "-c", "import os; print(6 * 7, os.getuid() != 0)")
    assert (done.returncode, done.stdout) == (0, "42 True\n"), done.stderr


def test_a_template_of_the_user_is_kept_for_the_user_alone(person):
    command = ("-m", "jupyter_sandbox.cli", "template")
    done = person(*command, "create", "mine", "-", input="min_idle = 0\n")
    assert (done.returncode, done.stdout) == (0, "mine defined\n"), done.stderr
    (file,) = person.tree.directory.glob("images/*/templates/mine.json")
    assert (file.stat().st_mode & 0o777, file.stat().st_uid) == (0o600, UID)
    assert person(*command, "delete", "mine").returncode == 0
    assert not file.exists()


def test_the_broker_is_the_users_own(person):
    assert person("-m", "jupyter_sandbox.cli", "run", "-c", "1").returncode == 0
    broker = person.tree.pid()
    uids = next(line for line in Path(f"/proc/{broker}/status").read_text().splitlines() if line.startswith("Uid:"))
    assert uids.split()[1:] == [str(UID)] * 4


def test_a_notebook_in_the_home_directory_reads_its_data_and_changes_nothing(person):
    own(person.home / "data.csv", "a,b\n1,2\n")
    own(person.home / ".ssh" / "id_ed25519", "secret key")
    cells = [
        "print(open('data.csv').read())",
        "open('data.csv', 'w').write('changed'); open('new.txt', 'w').write('new')",
        "import os; print(os.getcwd(), sorted(os.listdir()), os.path.exists('.ssh'))",
    ]
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in cells])
    own(person.home / "nb.ipynb", nbformat.writes(notebook))
    script = (
        "import nbformat, nbclient\n"
        "notebook = nbformat.read('nb.ipynb', 4)\n"
        "options = {'kernel_name': 'sandbox-python', 'resources': {'metadata': {'path': '.'}}}\n"
        "nbclient.NotebookClient(notebook, timeout=60, **options).execute()\n"
        "nbformat.write(notebook, 'out.ipynb')\n"
    )
    done = person("-W", "ignore", "-c", script)
    assert done.returncode == 0, done.stderr
    first, _, last = nbformat.read(person.home / "out.ipynb", 4).cells
    assert first.outputs[0].text == "a,b\n1,2\n\n"
    assert last.outputs[0].text == "/workspace/home ['data.csv', 'nb.ipynb', 'new.txt'] False\n"
    assert (person.home / "data.csv").read_text() == "a,b\n1,2\n"
    assert not (person.home / "new.txt").exists()


def test_a_notebook_below_the_home_directory_shows_its_own_directory_only(person):
    own(person.home / "project" / "data.txt", "data")
    own(person.home / "private.txt", "private")
    code = "import os; print(open('data.txt').read(), os.listdir('..'), os.path.exists('../private.txt'))"
    done = person("-m", "jupyter_sandbox.cli", "run", "-c", code, cwd=person.home / "project")
    assert (done.returncode, done.stdout) == (0, "data ['project'] False\n"), done.stderr


@pytest.mark.parametrize("kind", ["too much memory", "too much disk"])
def test_limits_hold_without_root(person, kind):
    code = {
        "too much memory": "try:\n    x = b'x' * (3 << 30)\nexcept MemoryError:\n    print('stopped')",
        "too much disk": "try:\n    f = open('/sandbox/big', 'wb', 0)\n    while True: f.write(bytes(1 << 20))\n"
        "except OSError as error:\n    print('stopped', file=__import__('sys').stdout)",
    }[kind]
    done = person("-m", "jupyter_sandbox.cli", "run", "-c", code)
    assert done.stdout == "stopped\n" or "of memory" in done.stderr, done.stderr


def test_list_shows_nothing_of_others_and_nothing_is_left(person):
    done = person("-m", "jupyter_sandbox.cli", "list", "--json")
    assert (done.returncode, json.loads(done.stdout)) == (0, [])


def test_two_kernels_of_one_user_do_not_see_each_other(person):
    script = (
        "from jupyter_client.manager import start_new_kernel\n"
        "kernels = [start_new_kernel(kernel_name='sandbox-python', startup_timeout=60) for _ in range(2)]\n"
        "write = \"open('/sandbox/x', 'w');\"\n"
        "look = \"import os, glob; print(os.listdir('/sandbox'), len(glob.glob('/proc/[0-9]*')) < 5)\"\n"
        "for (_, client), code in zip(kernels, [write, look]):\n"
        "    client.execute_interactive(code, timeout=60)\n"
        "for manager, client in kernels:\n"
        "    client.stop_channels(); manager.shutdown_kernel(now=True)\n"
    )
    done = person("-W", "ignore", "-c", script)
    assert (done.returncode, done.stdout) == (0, "[] True\n"), done.stderr
