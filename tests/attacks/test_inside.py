"""From inside a kernel: what is visible, what is reachable, what may be called."""

from __future__ import annotations

import os
import platform
import socket
from pathlib import Path

import pytest

from jupyter_sandbox.guards import ids
from tests.attacks.attacker import ENVIRONMENT_SECRET, HOME_SECRET, REPOSITORY

DENIED = ("EACCES", "EPERM", "EROFS")
ABSENT = ("ENOENT", "ENOTDIR")
x86_64 = pytest.mark.skipif(platform.machine() != "x86_64", reason="the numbers below are those of x86_64")

CALLS = {
    "mount": 165, "umount2": 166, "pivot_root": 155, "chroot": 161, "setns": 308, "process_vm_readv": 310,
    "process_vm_writev": 311, "bpf": 321, "add_key": 248, "request_key": 249, "keyctl": 250, "io_uring_setup": 425,
    "io_uring_enter": 426, "userfaultfd": 323, "perf_event_open": 298, "open_by_handle_at": 304,
    "name_to_handle_at": 303, "kexec_load": 246, "kexec_file_load": 320, "reboot": 169, "swapon": 167, "swapoff": 168,
    "init_module": 175, "finit_module": 313, "delete_module": 176, "acct": 163, "quotactl": 179, "settimeofday": 164,
    "clock_settime": 227, "clock_adjtime": 305, "iopl": 172, "ioperm": 173, "modify_ldt": 154, "syslog": 103,
    "sethostname": 170, "setdomainname": 171, "vhangup": 153, "fanotify_init": 300, "kcmp": 312, "pidfd_getfd": 438,
    "open_tree": 428, "move_mount": 429, "fsopen": 430, "fsconfig": 431, "fsmount": 432, "fspick": 433,
    "mount_setattr": 442, "move_pages": 279, "mbind": 237, "set_mempolicy": 238, "migrate_pages": 256,
    "process_madvise": 440, "vmsplice": 278, "uselib": 134, "quotactl_fd": 443,
}  # fmt: skip
NAMESPACES = {
    "time": 0x80, "mnt": 0x20000, "cgroup": 0x2000000, "uts": 0x4000000, "ipc": 0x8000000, "user": 0x10000000,
    "pid": 0x20000000, "net": 0x40000000,
}  # fmt: skip


# -- the network


def test_only_the_loopback_interface_exists(inside):
    assert inside.probe("tell([name for _, name in socket.if_nameindex()])") == ["lo"]
    assert inside.probe("tell(len(read('/proc/net/route').splitlines()))") == 1, "only the heading"
    routes = inside.probe("tell([line.split()[-1] for line in read('/proc/net/ipv6_route').splitlines()])")
    assert set(routes) <= {"lo"}


def test_nothing_outside_answers_v4_v6_metadata_or_dns(inside):
    found = inside.probe(
        """
        import errno
        targets = {4: ["1.1.1.1", "169.254.169.254", "10.0.0.1", "255.255.255.255"], 6: ["2606:4700::1111", "fe80::1"]}
        said = []
        for version, addresses in targets.items():
            for address in addresses:
                for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                    with socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, kind) as channel:
                        channel.settimeout(2)
                        said.append(attempt(channel.connect, (address, 53)))
        said.append(attempt(socket.getaddrinfo, "example.org", 80))
        tell(said)
        """.replace("\n        ", "\n")
    )
    assert set(found[:-1]) <= {"ENETUNREACH", "EACCES", "EINVAL", "EADDRNOTAVAIL"}, found
    assert "name resolution" in str(found[-1]), found[-1]


def test_the_hosts_loopback_and_abstract_sockets_are_elsewhere(inside):
    name = f"\0jsb-attack-{os.getpid()}"
    with socket.socket() as tcp, socket.socket(socket.AF_UNIX) as abstract:
        tcp.bind(("127.0.0.1", 0))
        tcp.listen()
        abstract.bind(name)
        abstract.listen()
        found = inside.probe(
            f"tell([attempt(socket.create_connection, {tcp.getsockname()!r}, 2),"
            f" attempt(socket.socket(socket.AF_UNIX).connect, {name!r})])"
        )
    assert found == ["ECONNREFUSED", "ECONNREFUSED"]


def test_the_interface_cannot_be_changed(inside):
    code = "import fcntl, struct\n"
    code += "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\n"
    code += "tell([attempt(fcntl.ioctl, s, 0x8914, struct.pack('16sh22x', b'lo', 0)),"
    code += " attempt(s.setsockopt, socket.SOL_SOCKET, 33, 1), shell('ip link add type veth')])"
    down, forced, _ = inside.probe(code)
    assert (down, forced) == ("EPERM", "EPERM")  # SIOCSIFFLAGS, SO_RCVBUFFORCE: both need CAP_NET_ADMIN
    assert inside.probe("tell([name for _, name in socket.if_nameindex()])") == ["lo"]


# -- privileges


def test_every_process_has_no_capability_no_new_privileges_and_a_filter(inside):
    wanted = "('CapInh', 'CapPrm', 'CapEff', 'CapBnd', 'CapAmb', 'NoNewPrivs', 'Seccomp')"
    code = f"""
import glob
tell([[line.split(':')[1].strip() for line in read(path).splitlines() if line.split(':')[0] in {wanted}]
      for path in glob.glob('/proc/[0-9]*/task/*/status')])"""
    rows = inside.probe(code)
    assert len(rows) >= 4, "agent, kernel and the kernel's threads"
    assert {tuple(row) for row in rows} == {("0" * 16,) * 5 + ("1", "2")}
    status = inside.command("cat", "/proc/self/status")["out"]
    assert "CapEff:\t" + "0" * 16 in status
    assert "NoNewPrivs:\t1" in status
    assert "Seccomp:\t2" in status


def own_namespaces(host):
    """A container has no user namespace: its wall is a host user of its own that never had a capability."""
    return {"pid", "net", "ipc", "uts", "mnt", "cgroup"} | ({"user"} if host.engine == "embedded" else set())


def test_all_namespaces_are_its_own(inside, host):
    for name in own_namespaces(host):
        assert inside.ask(f"os.readlink('/proc/self/ns/{name}')") != os.readlink(f"/proc/self/ns/{name}"), name


def test_setuid_programs_give_nothing(inside):
    programs = inside.probe("tell(shell('find /usr/bin /usr/sbin -perm -4000 -type f').split())")
    if not programs:
        pytest.skip("this host has no setuid program")
    found = inside.probe(
        f"tell([os.statvfs(path).f_flag & os.ST_NOSUID for path in {programs!r}] + [shell('su -c id root </dev/null')])"
    )
    assert all(found[:-1])
    assert "uid=0" not in found[-1]


@x86_64
@pytest.mark.parametrize("name", CALLS)
def test_system_call_is_refused(inside, name):
    assert inside.ask(f"syscall({CALLS[name]}, 0, 0, 0, 0, 0, 0)") in ("EPERM", "ENOSYS")


@x86_64
def test_a_child_cannot_be_traced_and_its_memory_not_read(inside):
    code = """
child = subprocess.Popen(['sleep', '9'])
tell([syscall(101, 16, child.pid, 0, 0), attempt(open, f'/proc/{child.pid}/mem', 'r+b')])
child.kill(); child.wait()"""
    assert inside.probe(code)[0] == "EPERM"


@x86_64
@pytest.mark.parametrize("name", NAMESPACES)
def test_no_new_namespace_by_unshare_or_clone(inside, name):
    code = f"""
flags = {NAMESPACES[name]}
cloned = syscall(56, flags | 17, 0, 0, 0, 0)
if cloned == 0: os._exit(0)
tell([syscall(272, flags), cloned])"""
    assert inside.probe(code) == ["EPERM", "EPERM"]


@x86_64
def test_clone3_does_not_exist(inside):
    code = """
import struct
arguments = _ctypes.create_string_buffer(struct.pack('8Q', 0x10000000, 0, 0, 0, 17, 0, 0, 0))
made = syscall(435, _ctypes.byref(arguments), 64)
if made == 0: os._exit(0)
tell(made)"""
    assert inside.probe(code) == "ENOSYS"


@x86_64
def test_the_32_bit_and_x32_ways_into_the_kernel_are_shut(inside):
    assert inside.ask("syscall(0x40000000 + 39)") == "ENOSYS"  # getpid, x32
    assert inside.ask("syscall(0x40000000 + 272, 0x10000000)") == "ENOSYS"  # unshare, x32


def test_socket_families_that_are_not_needed_are_refused(inside):
    code = """
said = {}
for family in range(1, 46):
    for kind in (1, 2, 3, 5):
        said.setdefault(family, []).append(attempt(lambda: socket.socket(family, kind).close()))
tell(said)"""
    said = inside.probe(code)
    allowed = {int(family) for family, results in said.items() if "done" in results}
    assert allowed == {socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK}
    refused = {word for family, words in said.items() if int(family) not in allowed for word in words}
    assert refused == {"EAFNOSUPPORT"}


def test_raw_sockets_are_refused(inside):
    found = inside.probe(
        "tell([attempt(socket.socket, family, socket.SOCK_RAW, number)"
        " for family, number in ((2, 1), (2, 255), (10, 58), (10, 255))])"
    )
    assert set(found) == {"EPERM"}


def test_keystrokes_cannot_be_pushed_into_a_terminal(inside):
    script = (
        "import os, fcntl, errno\n"
        "master, slave = os.openpty()\n"
        "fcntl.ioctl(slave, 0x540E, 0)\n"  # TIOCSCTTY: it is our own terminal, so only the filter can refuse
        "for request in (0x5412, 0x541C, 0x100005412):\n"
        "    try:\n"
        "        fcntl.ioctl(slave, request & 0xffffffff, b'x'); print('done')\n"
        "    except OSError as error:\n"
        "        print(errno.errorcode[error.errno])\n"
    )
    assert inside.command("python", "-c", script)["out"].split() == ["EPERM"] * 3


@x86_64
def test_personality_cannot_turn_off_address_randomization(inside):
    assert inside.ask("syscall(135, 0x0040000)") == "EPERM"
    assert inside.ask("syscall(135, 0xffffffff)") == 0


def test_a_crash_is_never_piped_to_a_program_of_the_host(inside):
    """core(5): RLIMIT_CORE 0 does not stop a `|program` in core_pattern, which runs as root of the host; 1 does."""
    assert inside.probe("import resource; tell(resource.getrlimit(resource.RLIMIT_CORE))") == [1, 1]


# -- pid 1


@pytest.mark.parametrize(
    "name", ["mem", "environ", "fd", "root", "cwd", "exe", "maps", "stack", "syscall", "map_files"]
)
def test_the_agents_inside_is_unreadable(inside, name):
    way = f"read('/proc/1/{name}')"
    if name in ("root", "cwd", "exe", "fd"):
        way = f"os.readlink('/proc/1/{name}{'/3' if name == 'fd' else ''}')"
    if name == "map_files":
        way = "os.listdir('/proc/1/map_files')"
    assert inside.ask(f"attempt(lambda: {way})") in DENIED


def test_the_agent_cannot_be_killed_stopped_or_traced(inside):
    code = """
import signal, time
for number in range(1, 65):
    attempt(os.kill, 1, number)
time.sleep(0.1)
tell([read('/proc/1/comm').strip(), read('/proc/1/stat').rpartition(')')[2].split()[0]])"""
    name, state = inside.probe(code)
    assert name == "sandbox-agent"
    assert state in "SR"
    assert inside.command("true")["status"] == 0


def test_the_agent_cannot_be_made_the_first_victim_of_the_memory_limit(inside):
    """Without root it can: the agent is the same host user. It costs the sandbox itself, nobody else (documented)."""
    denied = DENIED if inside.host.is_privileged else [*DENIED, "done"]
    assert inside.ask("attempt(write, '/proc/1/oom_score_adj', read('/proc/1/oom_score_adj'))") in denied


# -- the file system


def test_root_usr_and_the_python_environment_are_read_only(inside):
    paths = "[p + '/x' for p in ('', '/usr', '/etc', '/bin', '/home', '/workspace', '/dev', "
    paths += "sys.prefix, os.path.dirname(os.__file__))]"
    assert set(inside.ask(f"[attempt(write, path, '1') for path in {paths}]")) <= {"EROFS", "EACCES"}
    assert inside.ask("[attempt(write, path, '1') for path in ('/etc/passwd', os.__file__)]") == ["EROFS", "EROFS"]


def test_nothing_is_writable_but_its_own_places(inside):
    line = (
        "find / \\( -path /proc -o -path /sandbox -o -path /home/user -o -path /tmp -o -path /run -o -path /dev/shm -o -path /dev/pts \\)"
        " -prune -o -writable ! -type l -print 2>/dev/null"
    )
    found = inside.probe(f"tell(shell({line!r}).split())")
    assert set(found) <= {f"/dev/{name}" for name in ("null", "zero", "full", "random", "urandom", "tty")}


def test_both_homes_are_one_disk_and_allow_the_same(inside):
    code = """
write('/sandbox/of-both', 'x')
options = {}
for line in read('/proc/self/mountinfo').splitlines():
    fields = line.split()
    if fields[4] in ('/sandbox', '/home/user'):
        options[fields[4]] = [fields[2], fields[3], sorted(set(fields[5].split(',')) & {'nosuid', 'nodev', 'ro'})]
tell([options, read('/home/user/of-both'), os.statvfs('/sandbox').f_fsid == os.statvfs('/home/user').f_fsid])
os.unlink('/home/user/of-both')"""
    options, read, is_one = inside.probe(code)
    assert options["/sandbox"] == options["/home/user"]
    assert options["/sandbox"][2] == ["nodev", "nosuid"]
    assert (read, is_one) == ("x", True)


def test_no_kernel_setting_is_writable(inside):
    """Not even those of its own namespaces: without root the sandbox has the uid that owns them."""
    code = """
found = shell('find /proc/sys /proc/irq /proc/bus /proc/fs /proc/acpi /proc/scsi -type f -writable 2>/dev/null').split()
found += ['/proc/sys/kernel/core_pattern', '/proc/sys/vm/drop_caches', '/proc/sys/net/ipv4/ip_forward']
tell([path for path in found if os.path.exists(path) and attempt(lambda: write(path, read(path))) == 'done'])"""
    assert inside.probe(code) == []


@pytest.mark.parametrize(
    "name", ["kcore", "kallsyms", "keys", "timer_list", "sysrq-trigger", "kmsg", "kpagemap", "sched_debug"]
)
def test_kernel_files_tell_nothing(inside, name):
    assert inside.ask(f"attempt(lambda: read('/proc/{name}', 100))") in ("", *DENIED, *ABSENT)


def test_sysrq_is_not_reached(inside):
    before = Path("/proc/uptime").read_text()
    inside.ask("attempt(write, '/proc/sysrq-trigger', 'h')")  # `h` would only print help, should the mask be missing
    assert before
    assert inside.ask("attempt(lambda: os.stat('/proc/sysrq-trigger').st_rdev)") in (os.makedev(1, 3), *ABSENT)


def test_devices_cannot_be_made_and_fifos_can(inside):
    code = """
made = []
for place in ('/sandbox', '/home/user', '/tmp', '/run', '/dev/shm'):
    for kind, major in ((stat.S_IFBLK, 7), (stat.S_IFCHR, 1), (stat.S_IFCHR, 5)):
        made.append(attempt(os.mknod, place + '/device', kind | 0o666, os.makedev(major, 1)))
    made.append(attempt(os.mkfifo, place + '/fifo'))
    os.unlink(place + '/fifo')
tell(made)"""
    assert inside.probe(code) == ["EPERM", "EPERM", "EPERM", "done"] * 5
    assert set(inside.ask("os.listdir('/dev')")) - {"mqueue"} == {
        *("null", "zero", "full", "random", "urandom", "tty", "pts", "shm", "fd", "ptmx", "stdin", "stdout", "stderr")
    }


def test_a_whiteout_is_the_only_device_that_may_exist_and_cannot_be_opened(inside):
    code = "path = '/sandbox/w'\nmade = attempt(os.mknod, path, stat.S_IFCHR, 0)\n"
    code += "tell([made, attempt(open, path)])\nattempt(os.unlink, path)"
    made, opened = inside.probe(code)
    assert made in ("done", "EPERM")
    assert opened in (*DENIED, *ABSENT, "ENXIO")


# -- what is visible of the host


def test_no_process_of_the_host_is_visible(inside):
    names = inside.probe("import glob\ntell([read(path).strip() for path in glob.glob('/proc/[0-9]*/comm')])")
    assert "sandbox-agent" in names
    assert len(names) < 8
    assert not {"sandbox-zygote", "systemd", "sshd"} & set(names)
    assert inside.ask(f"attempt(os.kill, {os.getpid()}, 0)") == "ESRCH"


def test_no_name_path_or_secret_of_the_host_is_visible(inside):
    host = inside.host
    assert inside.ask("[socket.gethostname(), read('/proc/sys/kernel/hostname').strip()]") == ["sandbox", "sandbox"]
    assert inside.ask("read('/etc/passwd').count(':x:')") == 2
    assert (
        inside.ask(
            "[line.split(':')[2] for line in read('/proc/self/cgroup').splitlines() "
            "if line.split(':')[1] in ('memory', 'pids', 'cpu', '')]"
        ).count("/")
        > 0
    )
    paths = [host.home, host.directory / "config", "/home/" + os.environ.get("USER", "x"), "/sys/kernel"]
    paths.append(f"{REPOSITORY}/tests")
    if host.engine == "embedded":  # an image has a root of its own
        paths += ["/root", "/var/lib", "/etc/shadow", "/etc/machine-id"]
    assert not any(inside.ask(f"[os.path.exists(path) for path in {[str(path) for path in paths]!r}]"))
    lines = inside.ask("read('/proc/self/cgroup')").splitlines()
    ours = [line for line in lines if len(lines) == 1 or "memory" in line or "pids" in line]
    assert ours
    assert not [line for line in ours if "sbx_" in line]


def test_the_servers_environment_is_not_visible(inside):
    code = """
import glob
texts = []
for path in glob.glob('/proc/[0-9]*/environ') + glob.glob('/proc/[0-9]*/cmdline'):
    try: texts.append(read(path))
    except OSError: pass
tell([sorted(os.environ), ''.join(texts)])"""
    names, text = inside.probe(code)
    assert set(names) <= {
        "HOME",
        "PATH",
        "LANG",
        "JPY_PARENT_PID",
        "PWD",
        "SHLVL",
        "_",
        "PYDEVD_USE_FRAME_EVAL",
        "CLICOLOR",
        "FORCE_COLOR",
        "CLICOLOR_FORCE",
        "TERM",
        "PAGER",
        "GIT_PAGER",
        "MPLBACKEND",
        "COLUMNS",
        "LINES",
    }, names
    assert ENVIRONMENT_SECRET not in text
    assert HOME_SECRET not in text
    key = inside.do("box.key")
    assert key not in text, "the connection key is in an argument list or environment"


def test_keys_of_other_kernels_and_the_brokers_sockets_are_not_in_the_tree(inside):
    line = (
        "find / -path /proc -prune -o \\( -name 'kernel-*.json' -o -name 'jpserver-*' -o -type s \\) -print 2>/dev/null"
    )
    found = inside.probe(f"tell(shell({line!r}).split())")
    seat = inside.do("box.seat")
    assert all(seat in path for path in found), found
    directory = str(inside.host.directory)
    tag = next(path.name for path in inside.host.directory.iterdir() if (path / "lock").exists())
    names = [
        f"{directory}/{tag}/broker",
        f"{directory}/{tag}/a/{inside.id[4:]}",
        f"/proc/1/root{directory}/{tag}/broker",
    ]
    said = inside.ask(
        f"[attempt(socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect, path) for path in {names!r}]"
    )
    assert set(said) <= {*ABSENT, *DENIED}


def test_the_stash_is_sealed(inside):
    found = inside.ask("[attempt(os.listdir, '/.stash'), attempt(os.chmod, '/.stash', 0o777)]")
    assert set(found) <= {*DENIED, *ABSENT}
    assert inside.ask("[attempt(os.listdir, f'/.stash/{n}') for n in range(3)]") != [[]] * 3
    assert set(inside.ask("[attempt(os.listdir, f'/.stash/{n}') for n in range(3)]")) <= {*DENIED, *ABSENT}


def test_every_directory_mount_is_nosuid(inside):
    code = """
points = [line.split()[4] for line in read('/proc/self/mountinfo').splitlines()]
tell([point for point in points if os.path.isdir(point) and not os.statvfs(point).f_flag & os.ST_NOSUID])"""
    assert inside.probe(code) == []


def test_the_kernel_inherits_nothing_but_its_listeners(inside):
    code = """
import fcntl
found = []
for name in os.listdir('/proc/self/fd'):
    try: link = os.readlink(f'/proc/self/fd/{name}')
    except OSError: continue
    row = [int(name), link.partition(':')[0] if ':[' in link else link]
    if link.startswith('socket:'):
        s = socket.socket(fileno=os.dup(int(name)))
        row += [int(s.family), int(s.type), s.getsockopt(1, 30), repr(s.getsockname())]
        s.close()
    found.append(row)
tell(found)"""
    found = inside.probe(code)
    listeners = [row for row in found if row[1] == "socket" and row[4] and row[2] == socket.AF_UNIX]
    assert len(listeners) == 5
    prefix = Path(inside.do("box.prefix"))
    stood_by = prefix.with_name(ids.standby_seat(inside.id))  # where a kernel that was forked ahead was bound
    bound = {row[5] for row in listeners}
    assert bound in [{repr(f"{each}-{port}") for port in range(1, 6)} for each in (prefix, stood_by)]
    for row in found:
        if row[1] == "socket":
            local = row[2] == socket.AF_INET and row[5].startswith(
                "('127.0.0.1'"
            )  # the debugger's, in its own namespace
            assert row[2] == socket.AF_UNIX or local, row
            assert row[3] == socket.SOCK_STREAM, f"{row}: the agent's and broker's sockets are SOCK_SEQPACKET"
        else:
            kinds = ("pipe", "/dev/null", "anon_inode")
            assert row[1].startswith((*kinds, "/proc/")), row


def test_a_command_inherits_nothing_but_its_streams(inside):
    out = inside.command("python", "-c", "import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd'))[:-1])")
    assert out["out"].strip() == "[0, 1, 2]"
    child = inside.probe("tell(shell('ls /proc/self/fd').split())")
    assert child == ["0", "1", "2", "3"], "3 is the listing itself"


def test_a_command_at_a_terminal_has_that_terminal_of_its_own_worker_only(inside):
    code = "import os; print(sorted(int(n) for n in os.listdir('/proc/self/fd'))[:-1], os.ttyname(0), os.ttyname(2))"
    fds, *names = inside.command("python", "-c", code, terminal=True)["out"].strip().rsplit(" ", 2)
    assert fds == "[0, 1, 2]"
    assert len(set(names)) == 1
    assert names[0].startswith("/dev/pts/")


def test_a_child_of_the_kernel_does_not_inherit_the_kernels_sockets(inside):
    """os.system closes nothing: only close-on-exec keeps the listeners, which clients trust, to the kernel."""
    code = "os.system('ls -l /proc/self/fd > /tmp/fds 2>&1')\ntell(read('/tmp/fds'))"
    assert "socket:" not in inside.probe(code)


def test_other_sandboxes_cannot_be_seen_or_signalled(inside, claim, host):
    other = claim()
    other.execute("for place in ('/tmp', '/dev/shm', '/sandbox'): write(place + '/anothers', 'x')")
    assert (
        inside.ask("[os.path.exists(p + '/anothers') for p in ('/tmp', '/dev/shm', '/sandbox', '/run')]") == [False] * 4
    )
    inside.ask("[attempt(os.kill, pid, 9) for pid in range(2, 3000) if not os.path.exists(f'/proc/self/task/{pid}')]")
    inside.ask("attempt(os.kill, -1, 9)")  # everything but the caller and pid 1
    assert other.ask("1 + 1") == 2
    for kind in own_namespaces(host):
        assert inside.ask(f"os.readlink('/proc/self/ns/{kind}')") != other.ask(
            f"os.readlink('/proc/self/ns/{kind}')"
        ), kind
