"""Notebooks in a folder: what the session's kernel sees of it, and what never reaches the host."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import pytest

from tests.server.brokers import nothing_is_claimed

FOLDER = "project one/ünïcode"


@pytest.fixture
def new_session(jp_fetch, jp_root_dir, open_notebook):
    """A notebook beside `data.csv` in FOLDER, opened as JupyterLab does: `notebook = await new_session(kernel=...)`."""
    folder = jp_root_dir / FOLDER
    folder.mkdir(parents=True)
    (folder / "data.csv").write_text("a,b\n1,2\n")
    (folder / "nb.ipynb").write_text("{}")

    async def make(kernel="sandbox-python"):
        body = {"path": f"{FOLDER}/nb.ipynb", "name": "nb.ipynb", "type": "notebook", "kernel": {"name": kernel}}
        response = await jp_fetch("api", "sessions", method="POST", body=json.dumps(body))
        session = json.loads(response.body)
        notebook = await open_notebook(session["kernel"]["id"])
        notebook.kernel_id, notebook.session_id = session["kernel"]["id"], session["id"]
        notebook.folder = folder
        return notebook

    return make


async def test_the_kernel_starts_in_the_notebooks_directory(new_session):
    notebook = await new_session()
    assert await notebook.run("import os; print(os.getcwd())") == "/workspace/ünïcode\n"
    assert await notebook.run("print(sorted(os.listdir()))") == "['data.csv', 'nb.ipynb']\n"
    assert await notebook.run("print(open('data.csv').read())") == "a,b\n1,2\n\n"


async def test_nothing_of_the_parent_directory_shows(new_session, jp_root_dir):
    (jp_root_dir / "secret.txt").write_text("secret")
    notebook = await new_session()
    assert await notebook.run("import os; print(os.listdir('..'), os.path.exists('../../secret.txt'))") == (
        "['ünïcode'] False\n"
    )


async def test_what_code_writes_stays_in_the_sandbox(new_session):
    notebook = await new_session()
    await notebook.run("open('new.txt', 'w').write('new'); open('data.csv', 'a').write('3,4\\n')")
    await notebook.run("import os; os.remove('nb.ipynb'); os.mkdir('made')")
    assert await notebook.run("print(sorted(os.listdir()), len(open('data.csv').read()))") == (
        "['data.csv', 'made', 'new.txt'] 12\n"
    )
    on_the_host = {path.name: path.read_text() for path in notebook.folder.iterdir()}
    assert on_the_host == {"data.csv": "a,b\n1,2\n", "nb.ipynb": "{}"}


async def test_a_restarted_kernel_is_in_the_same_directory_with_what_it_wrote(new_session, jp_fetch):
    notebook = await new_session()
    await notebook.run("open('new.txt', 'w').write('new')")
    await jp_fetch("api", "kernels", notebook.kernel_id, "restart", method="POST", body="{}")
    await notebook.answers()
    assert await notebook.run("import os; print(os.getcwd(), sorted(os.listdir()))") == (
        "/workspace/ünïcode ['data.csv', 'nb.ipynb', 'new.txt']\n"
    )


async def test_with_rw_the_host_gets_what_code_writes(new_session, add_kernelspec):
    notebook = await new_session(add_kernelspec("rw", workspace="rw"))
    await notebook.run("open('new.txt', 'w').write('new')")
    assert (notebook.folder / "new.txt").read_text() == "new"
    assert (notebook.folder / "new.txt").stat().st_uid == notebook.folder.stat().st_uid


async def test_with_ro_nothing_can_be_written(new_session, add_kernelspec):
    notebook = await new_session(add_kernelspec("ro", workspace="ro"))
    result = await notebook.execute("open('new.txt', 'w')")
    assert (result.reply["ename"], "Read-only file system" in result.reply["evalue"]) == ("OSError", True)
    assert await notebook.run("print(open('data.csv').read())") == "a,b\n1,2\n\n"


async def test_with_none_the_kernel_starts_on_its_own_disk(new_session, add_kernelspec):
    notebook = await new_session(add_kernelspec("none", workspace="none"))
    assert await notebook.run("import os; print(os.getcwd(), os.listdir('/workspace'))") == "/sandbox []\n"


async def test_the_kernel_knows_its_notebooks_path(new_session, jp_root_dir):
    notebook = await new_session()
    said = await notebook.run("import os; print(os.environ['JPY_SESSION_NAME']); print(__session__)")
    assert said.splitlines() == [str(jp_root_dir / FOLDER / "nb.ipynb")] * 2


@pytest.mark.parametrize("path", ["data.csv", "./data.csv", "/workspace/ünïcode/data.csv"])
async def test_a_path_of_the_kernel_resolves_to_the_file_of_the_notebooks_directory(new_session, jp_fetch, path):
    notebook = await new_session()
    query = {"path": path, "kernel": notebook.kernel_id}
    found = json.loads((await jp_fetch("api", "resolvePath", params=query)).body)["resolved"]
    of_the_kernel = [entry["path"] for entry in found if entry["scope"] == "kernel"]
    assert of_the_kernel == [str(notebook.folder / "data.csv")], urlencode(query)


@pytest.mark.parametrize("path", ["/etc/passwd", "/sandbox/x", "../../secret.txt", "missing.txt"])
async def test_a_path_outside_the_notebooks_directory_resolves_to_nothing(new_session, jp_fetch, jp_root_dir, path):
    (jp_root_dir / "secret.txt").write_text("secret")
    notebook = await new_session()
    query = {"path": path, "kernel": notebook.kernel_id}
    found = json.loads((await jp_fetch("api", "resolvePath", params=query)).body)["resolved"]
    assert [entry for entry in found if entry["scope"] == "kernel"] == []


async def test_deleting_the_session_destroys_the_sandbox(new_session, jp_fetch):
    notebook = await new_session()
    await jp_fetch("api", "sessions", notebook.session_id, method="DELETE")
    await nothing_is_claimed()


async def test_changing_the_sessions_kernel_leaves_one_sandbox(new_session, jp_fetch, add_kernelspec):
    from tests.server.brokers import sandboxes

    notebook = await new_session()
    first = await sandboxes()
    body = {"kernel": {"name": add_kernelspec("other")}}
    await jp_fetch("api", "sessions", notebook.session_id, method="PATCH", body=json.dumps(body))
    second = await sandboxes()
    assert (len(first), len(second)) == (1, 1)
    assert first != second
