"""What a worker's container looks like, word for word, and the profile of its system calls."""

from __future__ import annotations

import dataclasses
import json

import pytest

from jupyter_sandbox.engines import container, held, suitability
from jupyter_sandbox.specs import Limits, Template
from sandbox_worker import container as worker
from sandbox_worker import syscalls

pytestmark = pytest.mark.unit

HOST = container.Host(image="worker:1", instance="abc", version="1.2", open_files=20000, processes=90000)
TEMPLATE = Template(
    name="data",
    preload=("numpy", "pandas"),
    limits=Limits(memory_mib=512, cpus=1.5, processes=100, open_files=4096, tmp_mib=8, shm_mib=4),
)


def config(template=TEMPLATE, host=HOST):
    return container.container_config(
        sandbox="sbx_1", template=template, uid=1879048193, hand_over="/run/jsb/h/1", host=host
    )


def test_a_container_is_exactly_this():
    made = config()
    (no_new_privileges, seccomp) = made["HostConfig"].pop("SecurityOpt")
    assert no_new_privileges == "no-new-privileges"
    assert json.loads(seccomp.removeprefix("seccomp=")) == container.seccomp_profile()
    assert made == {
        "Image": "worker:1",
        "Entrypoint": ["python", "-P", "-m", "sandbox_worker"],
        "Cmd": ["numpy", "pandas"],
        "User": "1879048193:1879048193",
        "WorkingDir": "/",
        "Hostname": "sandbox",
        "Tty": False,
        "OpenStdin": False,
        "NetworkDisabled": True,
        "Labels": {
            "jupyter-sandbox.instance": "abc",
            "jupyter-sandbox.sandbox": "sbx_1",
            "jupyter-sandbox.template": "data",
            "jupyter-sandbox.version": "1.2",
        },
        "HostConfig": {
            "AutoRemove": False,
            "Binds": [
                "/run/jsb/h/1:/hand-over:ro",
                "/run/jsb/h/1/passwd:/etc/passwd:ro",
                "/run/jsb/h/1/group:/etc/group:ro",
                "/run/jsb/h/1/hosts:/etc/hosts:ro",
                "/run/jsb/h/1/hostname:/etc/hostname:ro",
                "/run/jsb/h/1/resolv.conf:/etc/resolv.conf:ro",
            ],
            "CapAdd": [],
            "CapDrop": ["ALL"],
            "CgroupnsMode": "private",
            "Devices": [],
            "Init": False,
            "IpcMode": "private",
            "LogConfig": {"Type": "none", "Config": {}},
            "MaskedPaths": [
                "/dev/mqueue",
                "/proc/acpi",
                "/proc/asound",
                "/proc/kallsyms",
                "/proc/kcore",
                "/proc/keys",
                "/proc/latency_stats",
                "/proc/sched_debug",
                "/proc/scsi",
                "/proc/sysrq-trigger",
                "/proc/timer_list",
                "/proc/timer_stats",
                "/sys",
            ],
            "Memory": 512 << 20,
            "MemorySwap": (512 << 20) + 1,
            "NanoCpus": 1_500_000_000,
            "NetworkMode": "none",
            "OomScoreAdj": 100,
            "PidsLimit": 100,
            "Privileged": False,
            "ReadonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys"],
            "ReadonlyRootfs": True,
            "RestartPolicy": {"Name": "no"},
            "Sysctls": {"net.ipv4.ping_group_range": "1 0"},
            "Tmpfs": {
                "/tmp": "rw,nosuid,nodev,mode=1777,exec,size=8m",
                "/run": "rw,nosuid,nodev,mode=1777,noexec,size=1m",
                "/dev/shm": "rw,nosuid,nodev,mode=1777,exec,size=4m",
                "/workspace": "rw,nosuid,nodev,noexec,mode=755,size=64k",
                "/var/tmp": "ro,nosuid,nodev,noexec,mode=755,size=4k",
            },
            "Ulimits": [
                {"Name": "core", "Soft": 1, "Hard": 1},
                {"Name": "nofile", "Soft": 4096, "Hard": 4096},
                {"Name": "nproc", "Soft": 100, "Hard": 100},
            ],
        },
    }


def test_a_daemon_that_remaps_users_is_told_not_to():
    host = container.Host(image="i", instance="a", version="1", open_files=1000, processes=50, remaps=True)
    assert config(host=host)["HostConfig"]["UsernsMode"] == "host"
    assert suitability.remaps({"SecurityOptions": ["name=seccomp,profile=default", "name=userns"]})
    assert not suitability.remaps({"SecurityOptions": ["name=seccomp,profile=default"]})


def test_limits_are_never_above_the_engines_own():
    host = container.Host(image="i", instance="a", version="1", open_files=1000, processes=50)
    assert config(host=host)["HostConfig"]["Ulimits"][1:] == [
        {"Name": "nofile", "Soft": 1000, "Hard": 1000},
        {"Name": "nproc", "Soft": 50, "Hard": 50},
    ]


STATUS = "Name:\tdockerd\nCapInh:\t0000000000000000\nCapEff:\t{capabilities:016x}\n"
LIMITS = """Limit                     Soft Limit           Hard Limit           Units
Max cpu time              unlimited            unlimited            seconds
Max processes             {processes:<20} {processes:<20} processes
Max open files            1024                 20000                files
"""


@pytest.mark.parametrize(
    ("capabilities", "processes", "expected"),
    [
        (~(1 << 24) & (1 << 41) - 1, "90000", (20000, 90000)),
        (~(1 << 24) & (1 << 41) - 1, "unlimited", (20000, 1 << 20)),
        ((1 << 41) - 1, "90000", (1 << 20, 1 << 20)),
    ],
)
def test_an_engine_without_that_capability_sets_no_limit_above_its_own(capabilities, processes, expected):
    status, limits = STATUS.format(capabilities=capabilities), LIMITS.format(processes=processes)
    assert suitability.highest(status, limits) == expected


def test_an_engine_that_cannot_be_seen_is_not_judged_by_its_limits():
    assert suitability.highest("", "") == (1 << 20, 1 << 20)


def test_a_runtime_is_known_by_its_program_too():
    info = {
        "Runtimes": {"strict": {"path": "/usr/local/bin/runsc"}, "runc": {"path": "runc"}},
        "DefaultRuntime": "runc",
    }
    assert "gives containers a kernel of their own" in suitability.refusal(info, "strict")
    assert suitability.refusal(info) is None


@pytest.mark.parametrize("runtime", ["runsc", "io.containerd.runsc.v1", "kata", "io.containerd.kata.v2"])
def test_a_runtime_with_a_kernel_of_its_own_is_refused(runtime):
    info = {"SecurityOptions": ["name=seccomp,profile=default"], "Runtimes": {runtime: {}, "runc": {}}}
    assert "use runc or crun" in suitability.refusal(info, runtime)
    assert "use runc or crun" in suitability.refusal(info | {"DefaultRuntime": runtime})
    assert suitability.refusal(info | {"DefaultRuntime": runtime}, "runc") is None


@pytest.mark.parametrize(("processors", "expected"), [(1, 1_000_000_000), (2, 1_500_000_000), (0, 1_500_000_000)])
def test_no_more_processors_are_asked_for_than_there_are(processors, expected):
    """The daemon refuses a container that may use more than the machine has."""
    made = config(host=dataclasses.replace(HOST, processors=processors))
    assert made["HostConfig"]["NanoCpus"] == expected


def test_a_runtime_is_named_only_when_it_was_chosen():
    host = container.Host(image="i", instance="a", version="1", runtime="crun", open_files=1000, processes=50)
    assert config(host=host)["HostConfig"]["Runtime"] == "crun"
    assert "Runtime" not in config()["HostConfig"]


def test_podman_reads_the_profile_from_a_file():
    assert suitability.is_podman({"Components": [{"Name": "Podman Engine"}]})
    assert not suitability.is_podman({"Components": [{"Name": "Engine"}, {"Name": "containerd"}]})
    assert not suitability.is_podman({})
    made = config(host=dataclasses.replace(HOST, profile="/run/jsb/seccomp.json"))
    assert made["HostConfig"]["SecurityOpt"] == ["no-new-privileges", "seccomp=/run/jsb/seccomp.json"]


def test_every_temporary_place_that_can_be_written_has_a_number_of_files():
    places = config()["HostConfig"]["Tmpfs"]
    assert set(container.inode_limits(TEMPLATE.limits)) == {at for at, how in places.items() if how.startswith("rw")}


def test_both_sides_mean_the_same_hand_over_socket():
    assert f"{container.HAND_OVER}/socket" == worker.HAND_OVER


def test_public_files_know_one_user():
    files = container.public_files(4711)
    assert set(files) == set(container.PUBLIC_FILES)
    assert "sandbox:x:4711:4711:sandbox:/sandbox:/bin/bash\n" in files["passwd"]
    assert files["resolv.conf"] == ""


def rules(machine, name):
    return [rule for rule in container.seccomp_profile(machine)["syscalls"] if name in rule["names"]]


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_profile_allows_what_the_filter_allows_and_nothing_else(machine):
    profile = container.seccomp_profile(machine)
    assert profile["defaultAction"] == "SCMP_ACT_ERRNO"
    allowed = {name for rule in profile["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}
    judged = set(syscalls.JUDGED[machine]) - set(syscalls.ABSENT)
    assert allowed == set(syscalls.allowed_names(machine)) | judged
    assert not allowed & {"mount", "unshare", "setns", "bpf", "ptrace", "io_uring_setup", "keyctl", "userfaultfd"}


@pytest.mark.parametrize("name", ["clone3", "openat2"])
def test_calls_that_no_filter_can_judge_do_not_exist(name):
    (rule,) = rules("x86_64", name)
    assert (rule["action"], rule["errnoRet"]) == ("SCMP_ACT_ERRNO", 38)


def test_arguments_are_judged_where_the_format_can():
    (clone,) = rules("x86_64", "clone")
    assert clone["args"] == [{"index": 0, "value": syscalls.NAMESPACE_FLAGS, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]
    assert [rule["args"][0]["value"] for rule in rules("x86_64", "socket")] == list(syscalls.SOCKET_FAMILIES)
    (chmod,) = rules("x86_64", "chmod")
    assert chmod["args"] == [{"index": 1, "value": 0o6000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]
    assert [(rule["args"][0]["index"], rule["args"][0]["value"]) for rule in rules("x86_64", "openat")] == [
        (3, 0o6000),
        (2, syscalls.CREATES),
    ]


def test_an_unknown_machine_has_no_profile():
    with pytest.raises(ValueError, match="riscv64"):
        container.seccomp_profile("riscv64")


def test_slots_are_given_once_until_they_come_back():
    slots = held.Slots()
    assert [slots.take("a"), slots.take("b")] == [1, 2]
    slots.keep("c", 3)
    slots.free("a")
    slots.free("a")
    assert [slots.take("d"), slots.take("e")] == [1, 4]
    slots.free("a")
    assert slots.take("f") == 5, "who has none gives back no other's"
