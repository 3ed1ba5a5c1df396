"""A kernel in a sandbox does without its connection file, and a native one does not."""

from __future__ import annotations

import contextlib
import errno
import json
import os

import pytest
from jupyter_client import connect
from jupyter_client.manager import KernelManager

from jupyter_sandbox import kernel_files
from jupyter_sandbox.kernel_identity import Identity
from jupyter_sandbox.provisioner import SandboxProvisioner

pytestmark = pytest.mark.unit


@pytest.fixture
def manager(tmp_path):
    manager = KernelManager(connection_file=str(tmp_path / "kernel-1.json"), kernel_id="1")
    manager.provisioner = SandboxProvisioner(parent=manager, kernel_id="1", kernel_spec=None)
    kernel_files.spare(manager)
    return manager


@pytest.fixture
def info():
    return Identity().connection_info("/run/k/1")


@contextlib.contextmanager
def full(number: int, *, half: bool):
    """A disk on which a file is not made, or only the half of it."""

    @contextlib.contextmanager
    def secure_write(path: str):
        if half:
            with open(path, "w") as file:
                file.write('{"shell_port": 1')
        raise OSError(number, os.strerror(number))
        yield

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(connect, "secure_write", secure_write)
        yield


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO])
@pytest.mark.parametrize("half", [False, True])
def test_a_kernel_whose_file_cannot_be_written_is_had_and_has_one_with_its_next_start(
    manager, info, tmp_path, caplog, number, half
):
    # once: a server that was started anew on a full disk ended the kernels that it was to adopt
    with full(number, half=half):
        manager._reconcile_connection_info(info)
    assert "The connection file of kernel 1 cannot be written" in caplog.text
    assert manager._equal_connections(info, manager.get_connection_info())
    assert list(tmp_path.iterdir()) == []
    manager._reconcile_connection_info(info)
    written = json.loads((tmp_path / "kernel-1.json").read_text())
    assert (written["ip"], written["key"]) == (info["ip"], info["key"].decode())


def test_a_file_that_says_so_already_is_left_as_it_is(manager, info, tmp_path, caplog):
    path = tmp_path / "kernel-1.json"
    path.write_text(json.dumps(info | {"key": info["key"].decode()}))
    before = path.stat().st_ino
    with full(errno.EROFS, half=False):
        manager._reconcile_connection_info(info)
    assert (path.stat().st_ino, caplog.text) == (before, "")


def test_a_native_kernel_needs_its_file(manager, info):
    manager.provisioner = None
    with full(errno.ENOSPC, half=False), pytest.raises(OSError, match="No space left"):
        manager._reconcile_connection_info(info)
