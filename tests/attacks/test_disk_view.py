"""The host's view of a sandbox's files (OpenDisk): what the sandbox plants there must not lead the host astray."""

from __future__ import annotations

import os

import pytest

SETUP = """
import shutil
os.makedirs('/sandbox/plain', exist_ok=True)
write('/sandbox/plain/file', 'hello')
os.symlink('/etc/passwd', '/sandbox/absolute')
os.symlink('../../../../../../etc/passwd', '/sandbox/relative')
os.symlink('plain', '/sandbox/directory')
os.symlink('/proc/self/root/etc/passwd', '/sandbox/magic')
os.mkfifo('/sandbox/fifo')
os.link('/sandbox/plain/file', '/sandbox/hard')
write('/sandbox/setuid', '#!/bin/sh\\nid\\n'); attempt(os.chmod, '/sandbox/setuid', 0o6755)
s = socket.socket(socket.AF_UNIX); s.bind('/sandbox/socket'); s.listen()
tell(read('/sandbox/directory/file'))
"""

HOST = """
import errno, stat
from sandbox_worker import linux
view = box.disk()
def opened(path, flags=os.O_RDONLY | os.O_NONBLOCK):
    try: descriptor = os.open(path, flags, dir_fd=view)
    except OSError as error: return errno.errorcode[error.errno]
    kind = stat.filemode(os.fstat(descriptor).st_mode)[0]
    os.close(descriptor)
    return kind
"""


@pytest.fixture(scope="module")
def planted(host):
    box = host.sandbox("tiny")
    assert box.probe(SETUP) == "hello", "symlinks work inside"
    yield box
    box.release()


def look(planted, expression):
    return planted.host.run(
        f"box = SANDBOXES[number]\n{HOST}\nresult = {expression}\nos.close(view)", number=planted.number
    )


@pytest.mark.parametrize("name", ["absolute", "relative", "directory/file", "magic"])
def test_the_hosts_view_follows_no_symlink(planted, name):
    assert look(planted, f"opened({name!r})") == "ELOOP"


def test_the_hosts_view_reads_plain_files_and_cannot_leave(planted):
    assert look(planted, "opened('plain/file')") == "-"
    assert look(planted, "os.path.samestat(os.stat('..', dir_fd=view), os.stat('.', dir_fd=view))"), (
        "`..` of the top is the top"
    )
    assert look(planted, "sorted(set(os.listdir(view)) & {'upper', 'work', 'home', 'lost+found'})") == []
    assert look(planted, "opened('../upper')") == "ENOENT"


def test_a_fifo_does_not_block_and_a_socket_does_not_open(planted):
    assert look(planted, "opened('fifo')") == "p"
    assert look(planted, "opened('socket')") == "ENXIO"


def test_hard_links_are_told_by_their_count(planted):
    assert look(planted, "os.stat('hard', dir_fd=view).st_nlink") == 2


def test_setuid_devices_and_programs_mean_nothing_in_the_hosts_view(planted):
    flags = look(planted, "os.fstatvfs(view).f_flag")
    assert flags & os.ST_NOSUID
    assert flags & os.ST_NODEV
    assert flags & os.ST_NOEXEC


def test_the_view_of_a_released_sandbox_is_not_the_next_ones(host, claim):
    first = claim()
    first.execute("write('/sandbox/mine', 'first')")
    host.run("box = SANDBOXES[number]; kept = box.disk()", number=first.number)
    first.release()
    second = claim()
    assert second.ask("os.path.exists('/sandbox/mine')") is False
    assert host.run("result = os.listdir(kept); os.close(kept)") in ([], ["mine"])
