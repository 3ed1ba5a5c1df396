"""How the notebook's directory shows in the sandbox of a kernel that was started without a server."""

from __future__ import annotations

import pytest

from tests.e2e.kernels import several


@pytest.fixture(scope="module")
def specs(add_kernelspec):
    for mode in ("none", "ro", "overlay", "rw"):
        add_kernelspec(f"workspace-{mode}", workspace=mode)


@pytest.fixture
def started_in(tree, specs):
    """Start a kernel with a mode in a directory."""
    with several(None) as start:
        yield lambda mode, directory, **kwargs: start(f"workspace-{mode}", cwd=str(directory), **kwargs)


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "my notes"
    folder.mkdir()
    (folder / "data.txt").write_text("data")
    return folder


@pytest.mark.parametrize("mode", ["ro", "overlay", "rw"])
def test_a_relative_file_of_the_notebooks_directory_is_read(started_in, folder, mode):
    kernel = started_in(mode, folder)
    assert kernel.run("import os; print(os.getcwd(), open('data.txt').read())") == "/workspace/my notes data\n"


def test_what_an_overlay_takes_does_not_reach_the_host(started_in, folder):
    kernel = started_in("overlay", folder)
    kernel.run("open('data.txt', 'w').write('changed'); open('new.txt', 'w').write('new')")
    assert kernel.run("print(open('data.txt').read(), sorted(os.listdir()) if 'os' in globals() else '')")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"data.txt": "data"}


def test_what_the_host_changes_later_shows_in_every_mode(started_in, folder):
    kernels = [started_in(mode, folder) for mode in ("ro", "rw")]
    (folder / "later.txt").write_text("later")
    assert [kernel.run("print(open('later.txt').read())") for kernel in kernels] == ["later\n", "later\n"]


def test_a_read_only_workspace_refuses_writing(started_in, folder):
    result = started_in("ro", folder).execute("open('data.txt', 'a')")
    assert "Read-only file system" in result.reply["evalue"]
    assert (folder / "data.txt").read_text() == "data"


def test_a_writable_workspace_is_the_hosts_directory(started_in, folder):
    kernel = started_in("rw", folder)
    kernel.run("import os; open('made.txt', 'w').write('made'); os.mkdir('sub'); os.rename('data.txt', 'sub/data.txt')")
    assert (folder / "made.txt").read_text() == "made"
    assert (folder / "sub" / "data.txt").read_text() == "data"
    assert (folder / "made.txt").stat().st_uid == folder.stat().st_uid


def test_without_a_workspace_nothing_of_the_host_shows(started_in, folder):
    kernel = started_in("none", folder)
    assert kernel.run("import os; print(os.getcwd(), os.listdir('/workspace'))") == "/sandbox []\n"


def test_the_sandboxs_disk_and_the_workspace_are_writable_by_default(new_kernel, folder):
    kernel = new_kernel(cwd=str(folder))
    assert kernel.run("print(open('new.txt', 'w').write('1'), open('/sandbox/new.txt', 'w').write('22'))") == "1 2\n"


@pytest.mark.parametrize("name", ["ünïcode ☃", "-rf", "a'b\"c", "x" * 200, "new\nline", "trailing "])
def test_directories_with_strange_names_show(started_in, tmp_path, name):
    folder = tmp_path / name
    folder.mkdir()
    (folder / "data.txt").write_text("data")
    kernel = started_in("overlay", folder)
    assert (
        kernel.run("import os; print(os.getcwd().startswith('/workspace/'), open('data.txt').read())") == "True data\n"
    )


def test_the_root_directory_is_never_shown(started_in):
    kernel = started_in("overlay", "/")
    assert kernel.run("import os; print(os.getcwd(), os.listdir('/workspace'))") == "/sandbox []\n"


def test_a_directory_that_is_gone_does_not_keep_the_kernel_from_starting(started_in, tmp_path):
    kernel = started_in("overlay", tmp_path / "gone")
    assert kernel.run("import os; print(os.getcwd())") == "/sandbox\n"


def test_a_symlink_out_of_the_directory_leads_nowhere(started_in, folder, tmp_path):
    (tmp_path / "secret.txt").write_text("secret")
    (folder / "link").symlink_to(tmp_path / "secret.txt")
    result = started_in("overlay", folder).execute("open('link').read()")
    assert result.reply["ename"] == "FileNotFoundError"


def test_a_big_file_is_read_through_the_overlay(started_in, folder):
    (folder / "big.bin").write_bytes(b"\x07" * (20 << 20))
    kernel = started_in("overlay", folder)
    code = "data = open('big.bin', 'rb').read(); print(len(data), set(data))"
    assert kernel.run(code) == f"{20 << 20} {{7}}\n"


def test_a_file_larger_than_the_sandboxs_disk_cannot_be_changed_in_place(started_in, add_kernelspec, folder, tmp_path):
    """A copy up would need more than the quota: the cell gets an error, the host's file stays."""
    (folder / "big.bin").write_bytes(b"\x07" * (20 << 20))
    add_kernelspec("workspace-tiny", template="small-disk", workspace="overlay")
    result = started_in("tiny", folder).execute("open('big.bin', 'r+b')")
    assert "No space left on device" in result.reply["evalue"]
    assert (folder / "big.bin").stat().st_size == 20 << 20


def test_modules_beside_the_notebook_can_be_imported(started_in, folder):
    (folder / "helper.py").write_text("value = 42")
    assert started_in("overlay", folder).run("import helper; print(helper.value)") == "42\n"
