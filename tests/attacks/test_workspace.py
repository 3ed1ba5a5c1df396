"""The notebook's directory in a sandbox: nothing else of the host shows, and only `rw` changes it."""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from pathlib import Path

import pytest

from tests.attacks.attacker import HOME_SECRET, USER, Refusal
from tests.attacks.conftest import only_privileged

SECRET = "s3cret-beside-the-notebook"


@pytest.fixture
def project(host):
    """A directory of the user's with a secret beside it and traps in it."""
    top = Path(tempfile.mkdtemp(prefix="jsbw", dir="/tmp"))
    top.chmod(0o755)
    directory = top / "project"
    directory.mkdir()
    (top / "secret").write_text(SECRET)
    (directory / "data.csv").write_text("a,b\n1,2\n")
    (directory / "up").symlink_to("../secret")
    (directory / "shadow").symlink_to("/etc/shadow")
    (directory / "absolute").symlink_to(top / "secret")
    (directory / "root").symlink_to("/proc/1/root")
    for path in [top, *top.rglob("*")]:
        os.chown(path, host.uid, host.uid, follow_symlinks=False)
    yield directory
    shutil.rmtree(top, ignore_errors=True)


def tree(directory):
    return {
        str(path): (path.lstat().st_mode, path.lstat().st_uid, path.lstat().st_size, path.lstat().st_mtime_ns)
        for path in sorted([directory, *directory.rglob("*")])
    }


ABUSE = """
said = []
for action in (lambda: write('data.csv', 'changed'), lambda: write('new', 'x'), lambda: os.unlink('data.csv'),
               lambda: os.rename('data.csv', 'renamed'), lambda: os.chmod('data.csv', 0o777), lambda: os.mkdir('d'),
               lambda: os.symlink('/etc', 'link'), lambda: os.utime('data.csv', (1, 1)), lambda: os.chmod('.', 0o777),
               lambda: os.truncate('data.csv', 0) if os.path.exists('data.csv') else write('data.csv', ''),
               lambda: os.setxattr('data.csv', 'user.x', b'1')):
    said.append(attempt(action))
tell(said)
"""


def test_overlay_never_writes_to_the_host(claim, project):
    before = tree(project)
    box = claim(mode="overlay", directory=project)
    said = box.probe(ABUSE)
    unsupported = said.count("EOPNOTSUPP")  # attributes, on a disk in memory of Linux before 6.6
    assert said.count("done") + unsupported >= 8, said
    assert tree(project) == before


def test_read_only_refuses_every_change(claim, project):
    before = tree(project)
    box = claim(mode="ro", directory=project)
    assert set(box.probe(ABUSE)) <= {"EROFS", "EPERM", "EACCES"}
    assert tree(project) == before


@pytest.mark.parametrize("mode", ["ro", "overlay", "rw"])
def test_symlinks_in_the_workspace_reveal_no_file_of_the_host(claim, project, mode):
    box = claim(mode=mode, directory=project)
    assert box.ask("read('data.csv')").startswith("a,b")
    for name in ("up", "shadow", "absolute", "root"):
        assert box.ask(f"attempt(lambda: read({name!r}))") in ("ENOENT", "EACCES", "EPERM", "EISDIR"), name
    assert box.ask("sorted(os.listdir('..'))") == ["project"]
    assert box.ask("attempt(lambda: os.listdir('../..').count('secret'))") == 0


def test_what_the_overlay_keeps_is_not_in_the_sandboxs_own_files(claim, project):
    box = claim(mode="overlay", directory=project)
    box.execute("write('jsb-new', 'x')")
    assert box.ask("os.listdir('/sandbox')") == []
    assert box.ask("os.path.samefile('/sandbox/..', '/')")
    line = "find / -name jsb-new -not -path '/proc/*' 2>/dev/null"
    assert box.ask(f"shell({line!r}).split()") == [f"{box.cwd}/jsb-new"]


def test_a_disk_full_of_overlay_files_is_full(claim, project):
    box = claim(mode="overlay", directory=project)
    code = (
        "error = 'none'\ntry:\n    with open('big', 'wb') as f:\n        for _ in range(100): f.write(bytes(1 << 20))\n"
    )
    code += "except OSError as failure: error = _errno.errorcode[failure.errno]\ntell(error)"
    assert box.probe(code) == "ENOSPC"


# -- the home directory


def hidden(box):
    return box.probe(
        """
said = [os.path.exists('.ssh'), '.ssh' in os.listdir('.'), attempt(lambda: read('.ssh/id_rsa'))]
attempt(os.mkdir, '.ssh'); attempt(os.rmdir, '.ssh')
attempt(os.mkdir, '.ssh')
for name in ('user.overlay.opaque', 'user.overlay.redirect', 'trusted.overlay.opaque', 'user.overlay.overlay.opaque'):
    attempt(os.removexattr, '.ssh', name); attempt(os.setxattr, '.ssh', name, b'n')
said.append(attempt(lambda: read('.ssh/id_rsa')))
attempt(os.mkdir, 'other')
for name in ('user.overlay.redirect', 'trusted.overlay.redirect'):
    for value in (b'.ssh', b'/.ssh'): attempt(os.setxattr, 'other', name, value)
said.append(attempt(lambda: read('other/id_rsa')))
attempt(os.rename, '.ssh', 'moved')
said.append(attempt(lambda: read('moved/id_rsa')))
found = shell("grep -rsl 's3cret-of-the' /sandbox /workspace /tmp /run /dev/shm 2>/dev/null | head")
tell(said + [found])"""
    )


@pytest.fixture
def at_home(host):
    """The user's home, whatever the password database of this machine says. Root's is one test's at a time."""
    if not host.is_privileged:
        yield host.home
        return
    home = Path("/root")
    directory = os.open(home, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        if not any(name.startswith(".") for name in os.listdir(home)):
            pytest.skip("/root has no dot file")
        yield home
    finally:
        os.close(directory)


@pytest.fixture
def home_secret(host, at_home):
    """A key in a dot directory of the home."""
    if not host.is_privileged:
        yield at_home
        return
    trap = at_home / ".jsb-attack"
    shutil.rmtree(trap, ignore_errors=True)  # of a session that was killed
    trap.mkdir(mode=0o700)
    (trap / "id_rsa").write_text(HOME_SECRET)
    yield at_home
    shutil.rmtree(trap)


def test_overlay_hides_the_homes_dot_files_and_they_cannot_be_recovered(host, claim, home_secret):
    box = claim(mode="overlay", directory=home_secret)
    assert box.ask("[name for name in os.listdir('.') if name.startswith('.')]") == []
    if host.is_privileged:
        box.execute("os.mkdir('.jsb-attack')")
        assert box.ask("attempt(lambda: read('.jsb-attack/id_rsa'))") == "ENOENT"
        return
    exists, listed, *said, found = hidden(box)
    assert (exists, listed) == (False, False)
    assert set(said) <= {"ENOENT", "ENOTDIR", "EPERM", "EACCES"}
    assert found == ""


@pytest.mark.parametrize("mode", ["ro", "rw"])
def test_the_other_modes_hide_the_homes_dot_files_too(claim, home_secret, mode):
    """workspace.py: "In the owner's home directory, names that begin with a dot stay hidden"."""
    try:
        box = claim(mode=mode, directory=home_secret)
    except Refusal as refusal:
        assert refusal.code == "workspace_unavailable"
        return
    assert box.ask("[name for name in os.listdir('.') if name.startswith('.')]") == []


def test_a_dot_file_made_after_the_claim_shows_until_the_sandbox_ends(host, claim, at_home):
    """A documented limit: what hides a name is put there when the home directory is mounted."""
    box = claim(mode="overlay", directory=at_home)
    late = at_home / f".jsb-late-{os.getpid()}"
    late.write_text(HOME_SECRET)
    os.chown(late, host.uid, host.uid)
    try:
        assert box.ask(f"attempt(lambda: read({late.name!r}))") == HOME_SECRET
        assert claim(mode="overlay", directory=at_home).ask(f"attempt(lambda: read({late.name!r}))") == "ENOENT"
    finally:
        late.unlink()


def test_a_directory_above_the_home_is_refused(claim, at_home):
    with pytest.raises(Refusal) as refused:
        claim(mode="overlay", directory=at_home.parent, name="above")
    assert refused.value.code == "workspace_unavailable"


# -- what may be shown


def test_the_root_directory_is_refused(claim):
    with pytest.raises(Refusal) as refused:
        claim(mode="ro", directory="/", name="x")
    assert refused.value.code == "workspace_unavailable"


WITH = """
import asyncio
async def attack(descriptor, name):
    channel = await client.connect()
    request = verbs.Claim(template="tiny", workspace_mode="overlay", workspace_name=name)
    try:
        return (await client.ask(channel, request, verbs.Claimed, [descriptor]))[0].cwd
    except Exception as error:
        return getattr(error, "code", type(error).__name__)
    finally:
        channel.close()
"""


def offered(host, opening, name="x"):
    """What the broker says to a descriptor that is the value of `opening` in the client."""
    return host.run(
        f"{WITH}\ndescriptor = {opening}\nresult = asyncio.run(attack(descriptor, name))\nos.close(descriptor)",
        name=name,
    )


def test_a_descriptor_that_proves_no_right_to_read_is_refused(host, project):
    assert offered(host, f"os.open({str(project)!r}, os.O_PATH | os.O_DIRECTORY)") == "workspace_unavailable"
    assert offered(host, f"os.open({str(project / 'data.csv')!r}, os.O_RDONLY)") == "workspace_unavailable"
    assert offered(host, "os.pipe()[0]") == "workspace_unavailable"
    assert offered(host, "os.open('/dev/null', os.O_RDONLY)") == "workspace_unavailable"


def test_a_deleted_directory_is_refused(host, project):
    gone = project / "gone"
    gone.mkdir()
    os.chown(gone, host.uid, host.uid)
    opening = f"(lambda d: (os.rmdir({str(gone)!r}), d)[1])(os.open({str(gone)!r}, os.O_RDONLY))"
    assert offered(host, opening) == "workspace_unavailable"


def test_a_replaced_directory_is_not_shown(host, project):
    """The name now belongs to another directory: what shows must be the one that was opened, or nothing."""
    first, hideout = project / "first", project / "first (deleted)"
    first.mkdir()
    hideout.mkdir()
    for path in (first, hideout):
        os.chown(path, host.uid, host.uid)
    opening = f"(lambda d: (os.rmdir({str(first)!r}), d)[1])(os.open({str(first)!r}, os.O_RDONLY))"
    assert offered(host, opening) == "workspace_unavailable"


@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".",
        "",
        "a/b",
        "../../etc",
        "x" * 5000,
        "new\nline",
        "\x1b[2J",
        "\u202egnp.exe",
        "\0",
        "ünï " * 60,
        "\udc80\udcff",
        "\ud800",
        "  ",
    ],
    ids=range(14),
)
def test_weird_workspace_names_become_one_harmless_component(host, project, name):
    cwd = offered(host, f"os.open({str(project)!r}, os.O_RDONLY)", name)
    assert cwd.startswith("/workspace/"), cwd
    component = cwd.removeprefix("/workspace/")
    assert component
    assert "/" not in component
    assert component not in (".", "..")
    assert len(component.encode()) <= 128
    assert component.isprintable()


# -- rights


def test_files_of_other_users_in_the_directory_stay_closed(host, claim, project):
    for name, uid, mode in (("others", 54321, 0o600), ("roots", 0, 0o640), ("public", 54321, 0o644)):
        (project / name).write_text("x")
        os.chown(project / name, uid, uid)
        (project / name).chmod(mode)
    for mode in ("ro", "overlay", "rw"):
        box = claim(mode=mode, directory=project)
        roots_is_mine = host.is_privileged  # root's broker for root: the owner of the files is the owner of the sandbox
        assert box.ask("attempt(lambda: read('others'))") == "EACCES"
        assert box.ask("attempt(lambda: read('public'))") == "x"
        if not roots_is_mine:
            assert box.ask("attempt(lambda: read('roots'))") == "EACCES"
        assert box.ask("[attempt(write, n, 'y') for n in ('others', 'public')]") in (
            ["EROFS", "EROFS"] if mode == "ro" else ["EACCES", "EACCES"],
            ["EACCES", "EACCES"],
            ["EACCES", "EROFS"],
        )
        box.release()


def test_read_write_changes_only_what_the_owner_may_change(host, claim, project):
    for name in ("foreign", "foreign2"):
        (project / name).write_text("x")
        os.chown(project / name, 54321, 54321)
    box = claim(mode="rw", directory=project)
    code = "tell([attempt(write, 'foreign', 'y'), attempt(os.chmod, 'foreign', 0o777), "
    code += "attempt(os.chown, 'foreign', 1000, 1000),"
    code += " attempt(os.chown, 'data.csv', 0, 0), attempt(write, 'mine', 'y')])"
    wrote, *changed, mine = box.probe(code)
    assert (wrote, mine) == ("EACCES", "done")
    assert set(changed) <= {"EPERM", "EOVERFLOW", "EINVAL"}
    assert (project / "foreign").read_text() == "x"
    assert (project / "mine").stat().st_uid == host.uid


def test_read_write_plants_no_setuid_program_on_the_host(claim, project):
    """The file would be the owner's, on the host, for every local user to run as the owner."""
    box = claim(mode="rw", directory=project)
    box.execute(
        "import shutil\nshutil.copy('/bin/sh', 'sh')\n"
        "for mode in (0o4755, 0o2755, 0o6777): attempt(os.chmod, 'sh', mode)\n"
        "attempt(lambda: os.close(os.open('made', os.O_CREAT | os.O_WRONLY, 0o4755)))\n"
        "attempt(os.mknod, 'node', 0o104755)\nattempt(os.mkdir, 'directory', 0o2777)\n"
        "f = open('sh', 'rb'); attempt(os.fchmod, f.fileno(), 0o4755)\n"
        "syscall(452, -100, b'sh', 0o4755, 0)"
    )
    marked = [path.name for path in project.iterdir() if path.lstat().st_mode & (stat.S_ISUID | stat.S_ISGID)]
    assert marked == []


def test_read_write_makes_no_device_on_the_host(claim, project):
    box = claim(mode="rw", directory=project)
    assert box.ask("attempt(os.mknod, 'sda', stat.S_IFBLK | 0o666, os.makedev(254, 0))") == "EPERM"
    assert box.ask("attempt(os.link, '/etc/passwd', 'passwd')") in ("EXDEV", "EPERM", "EROFS")


@only_privileged
def test_the_roots_of_other_mounts_in_the_directory_do_not_show(host, claim, project):
    """Only this one directory was handed over, not what is mounted below it."""
    import subprocess

    below = project / "below"
    below.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", below], check=True)
    try:
        (below / "file").write_text(SECRET)
        box = claim(mode="ro", directory=project)
        assert box.ask("os.listdir('below')") == []
    finally:
        subprocess.run(["umount", below], check=True)


def test_without_root_the_sandbox_is_the_user_itself_on_the_host(host, claim, project):
    """A documented limit: a sandbox has no uid of its own there; with root it has, and a workspace maps the owner."""
    (project / "private").write_text("x")
    os.chown(project / "private", host.uid, host.uid)
    (project / "private").chmod(0o600)
    box = claim(mode="ro", directory=project)
    assert box.ask("read('private')") == "x"
    line = next(
        line
        for line in Path(f"/proc/{worker_pid(host, box)}/status").read_text().splitlines()
        if line.startswith("Uid")
    )
    uid = int(line.split()[1])
    assert uid == USER if not host.is_privileged else uid > 0x70000000


def worker_pid(host, box):
    import json

    (record,) = host.directory.glob(f"*/ledger/{box.id}.json")
    return json.loads(record.read_text())["pid"]
