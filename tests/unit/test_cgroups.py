"""Control groups on a fake tree: where groups are made, what is written in which order, and what is left."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from jupyter_sandbox import cgroups
from jupyter_sandbox.specs import Limits

pytestmark = pytest.mark.unit

LIMITS = Limits(memory_mib=100, cpus=1.5, processes=33)
V1_OWN = "5:cpu,cpuacct:/user\n4:memory:/user\n3:pids:/\n1:name=systemd:/\n0::/\n"


@pytest.fixture(autouse=True)
def cgroupfs_rmdir(tmp_path, monkeypatch):
    """In cgroupfs a directory goes away with its files, unless it has processes or sub-directories."""
    original = Path.rmdir

    def rmdir(path: Path) -> None:
        if path.is_relative_to(tmp_path) and path.is_dir():
            if any(entry.is_dir() for entry in path.iterdir()) or (path / "busy").exists():
                raise OSError(16, "Device or resource busy")
            shutil.rmtree(path)
        else:
            original(path)

    monkeypatch.setattr(Path, "rmdir", rmdir)


@pytest.fixture
def v1(tmp_path):
    for controller, own in (("memory", "user"), ("cpu", "user"), ("pids", "")):
        for directory in {tmp_path / controller, tmp_path / controller / own}:
            directory.mkdir(parents=True, exist_ok=True)
            (directory / "cgroup.procs").touch()
    return tmp_path


@pytest.fixture
def v2(tmp_path):
    (tmp_path / "cgroup.controllers").write_text("cpu memory pids")
    (tmp_path / "user/session").mkdir(parents=True)
    for group in (tmp_path, tmp_path / "user/session"):
        (group / "cgroup.procs").write_text("1\n")
    return tmp_path


def test_memberships_by_controller():
    assert cgroups._memberships(V1_OWN) == {
        "cpu": "/user",
        "cpuacct": "/user",
        "memory": "/user",
        "pids": "/",
        "name=systemd": "/",
        "": "/",
    }
    assert cgroups._memberships("0::/a:b/c\n") == {"": "/a:b/c"}
    assert cgroups._memberships("") == {}


def test_version_1_makes_groups_at_the_root_of_each_controller(v1):
    hierarchy = cgroups.find("tag", root=v1, own=V1_OWN)
    assert hierarchy is not None
    assert hierarchy.version == 1
    assert hierarchy.parents == {
        "memory": v1 / "memory/jupyter-sandbox/tag",
        "cpu": v1 / "cpu/jupyter-sandbox/tag",
        "pids": v1 / "pids/jupyter-sandbox/tag",
    }
    assert all(parent.is_dir() for parent in hierarchy.parents.values())


@pytest.mark.parametrize("together", [True, False])
def test_version_1_counts_processor_time_where_that_is_mounted(v1, together):
    if together:
        (v1 / "cpuacct").symlink_to("cpu")
    else:
        (v1 / "cpuacct").mkdir()
        (v1 / "cpuacct/cgroup.procs").touch()
    hierarchy = cgroups.find("tag", root=v1, own=V1_OWN)
    group = hierarchy.create("sbx_1", LIMITS)
    key = "cpu" if together else "cpuacct"
    assert set(group.paths) == {"memory", "cpu", "pids", key}
    assert group.cpu_s() is None
    (v1 / key / "jupyter-sandbox/tag/sbx_1/cpuacct.usage").write_text("1500000000\n")
    assert group.cpu_s() == 1.5
    group.remove()
    hierarchy.remove_parents()
    assert not (v1 / key / "jupyter-sandbox").exists()


def test_version_1_takes_the_mount_itself_when_our_own_group_is_not_shown(v1):
    own = "4:memory:/docker/123\n5:cpu:/docker/123\n3:pids:/docker/123\n"
    hierarchy = cgroups.find("tag", root=v1, own=own)
    assert hierarchy is not None
    assert hierarchy.parents["memory"] == v1 / "memory/jupyter-sandbox/tag"


def test_version_1_without_a_controller_is_none(v1):
    shutil.rmtree(v1 / "pids")
    assert cgroups.find("tag", root=v1, own=V1_OWN) is None


def test_version_1_that_may_not_be_written_is_none(v1):
    for group in ("cpu", "cpu/user"):
        (v1 / group / "jupyter-sandbox").touch()  # mkdir below it fails
    assert cgroups.find("tag", root=v1, own=V1_OWN) is None


def test_version_1_falls_back_to_our_own_group_where_the_root_may_not_be_written(v1):
    (v1 / "cpu/jupyter-sandbox").touch()
    hierarchy = cgroups.find("tag", root=v1, own=V1_OWN)
    assert hierarchy is not None
    assert hierarchy.parents["cpu"] == v1 / "cpu/user/jupyter-sandbox/tag"


def test_version_1_limits(v1):
    hierarchy = cgroups.find("tag", root=v1, own=V1_OWN)
    group = hierarchy.create("sbx_1", LIMITS)
    memory, cpu, pids = (group.paths[name] for name in ("memory", "cpu", "pids"))
    assert memory == v1 / "memory/jupyter-sandbox/tag/sbx_1"
    assert (memory / "memory.limit_in_bytes").read_text() == str(100 << 20)
    assert not (memory / "memory.memsw.limit_in_bytes").exists()  # a kernel without swap accounting has no such file
    assert (cpu / "cpu.cfs_period_us").read_text() == "100000"
    assert (cpu / "cpu.cfs_quota_us").read_text() == "150000"
    assert (pids / "pids.max").read_text() == "33"


def test_version_1_swap_is_limited_where_it_is_accounted(v1):
    hierarchy = cgroups.find("tag", root=v1, own=V1_OWN)
    swap = hierarchy.parents["memory"] / "sbx_1/memory.memsw.limit_in_bytes"
    swap.parent.mkdir()
    swap.touch()
    hierarchy.create("sbx_1", LIMITS)
    assert swap.read_text() == str(100 << 20)


def test_the_memory_limit_is_written_before_the_swap_limit():
    files = [file for file, _ in cgroups._settings(1, LIMITS)]  # the kernel refuses memsw < limit
    assert files.index("memory.limit_in_bytes") < files.index("memory.memsw.limit_in_bytes")


def test_version_2_uses_the_root_when_it_may(v2):
    hierarchy = cgroups.find("tag", root=v2, own="0::/user/session\n")
    assert hierarchy == cgroups.Hierarchy(version=2, parents={"unified": v2 / "jupyter-sandbox/tag"})
    for directory in (v2, v2 / "jupyter-sandbox", v2 / "jupyter-sandbox/tag"):
        assert (directory / "cgroup.subtree_control").read_text() == "+memory +cpu +pids"


def test_version_2_hands_controllers_down_again_when_another_of_our_processes_has_left(v2):
    hierarchy = cgroups.find("tag", root=v2, own="0::/\n")
    cgroups.find("tag", root=v2, own="0::/\n").remove_parents()
    hierarchy.create("sbx_1", LIMITS)
    for directory in (v2 / "jupyter-sandbox", v2 / "jupyter-sandbox/tag"):
        assert (directory / "cgroup.subtree_control").read_text() == "+memory +cpu +pids"


def test_version_2_uses_our_delegated_group_when_the_root_is_not_ours(v2):
    (v2 / "jupyter-sandbox").touch()
    hierarchy = cgroups.find("tag", root=v2, own="0::/user/session\n")
    assert hierarchy is not None
    assert hierarchy.parents == {"unified": v2 / "user/session/jupyter-sandbox/tag"}


def test_version_2_leaves_a_group_of_its_own_to_the_sandboxes_and_finds_it_again(v2):
    (v2 / "jupyter-sandbox").touch()
    ours, procs = v2 / "user/session/jupyter-sandbox-broker", v2 / "user/session/cgroup.procs"
    procs.write_text(f"{os.getpid()}\n1\n")
    cgroups.find("tag", root=v2, own="0::/user/session\n")
    assert not ours.exists(), "somebody else is there"
    procs.write_text(f"{os.getpid()}\n")
    parents = {"unified": v2 / "user/session/jupyter-sandbox/tag"}
    for own in ("0::/user/session\n", "0::/user/session/jupyter-sandbox-broker\n"):
        assert cgroups.find("tag", root=v2, own=own).parents == parents
        assert (ours / "cgroup.procs").read_text() == str(os.getpid())
        assert not (ours / "jupyter-sandbox-broker").exists()


def test_version_2_that_hands_no_controllers_down_is_none_and_keeps_nothing(v2):
    for directory in (v2, v2 / "user/session"):
        (directory / "cgroup.subtree_control").mkdir()  # writing to it fails, as with processes in our own group
    assert cgroups.find("tag", root=v2, own="0::/user/session\n") is None
    assert list(v2.glob("**/jupyter-sandbox")) == []


def test_version_2_that_may_not_be_written_is_none(v2):
    for directory in (v2, v2 / "user/session"):
        (directory / "jupyter-sandbox").touch()
    assert cgroups.find("tag", root=v2, own="0::/user/session\n") is None


def test_version_2_limits(v2):
    group = cgroups.find("tag", root=v2, own="0::/\n").create("sbx_1", LIMITS)
    (directory,) = group.directories()
    assert (directory / "memory.max").read_text() == str(100 << 20)
    assert (directory / "cpu.max").read_text() == "150000 100000"
    assert (directory / "pids.max").read_text() == "33"
    assert not (directory / "memory.swap.max").exists()


def test_version_2_forbids_swap_where_there_is_some(v2):
    hierarchy = cgroups.find("tag", root=v2, own="0::/\n")
    swap = hierarchy.parents["unified"] / "sbx_1/memory.swap.max"
    swap.parent.mkdir()
    swap.touch()
    hierarchy.create("sbx_1", LIMITS)
    assert swap.read_text() == "0"


def test_no_hierarchy_at_all_is_none(tmp_path):
    assert cgroups.find("tag", root=tmp_path / "absent", own=V1_OWN) is None
    assert cgroups.find("tag", root=tmp_path, own="") is None


@pytest.fixture(params=[1, 2])
def hierarchy(request, tmp_path):
    made = cgroups.find("tag", root=request.getfixturevalue(f"v{request.param}"), own=V1_OWN)
    assert made.version == request.param
    return made


def test_a_limit_that_is_refused_leaves_no_group(hierarchy, monkeypatch):
    original = Path.write_text

    def write_text(path, *args, **kwargs):
        if path.name == "pids.max":
            raise OSError(22, "Invalid argument")
        return original(path, *args, **kwargs)

    monkeypatch.setattr(Path, "write_text", write_text)
    with pytest.raises(OSError, match="Invalid argument"):
        hierarchy.create("sbx_1", LIMITS)
    assert hierarchy.names() == set()


def test_names_are_the_groups_that_exist(hierarchy):
    assert hierarchy.names() == set()
    hierarchy.create("sbx_1", LIMITS)
    hierarchy.create("sbx_2", LIMITS)
    assert hierarchy.names() == {"sbx_1", "sbx_2"}
    hierarchy.group("sbx_1").remove()
    assert hierarchy.names() == {"sbx_2"}


def test_removing_a_group_twice_is_quiet(hierarchy):
    group = hierarchy.create("sbx_1", LIMITS)
    group.remove()
    group.remove()


def test_a_group_that_stays_busy_is_told(hierarchy):
    group = hierarchy.create("sbx_1", LIMITS)
    for directory in group.directories():
        (directory / "busy").touch()
    with pytest.raises(OSError, match="busy"):
        group.remove(timeout_s=0)


def test_a_process_is_put_into_every_directory_of_the_group(hierarchy):
    group = hierarchy.create("sbx_1", LIMITS)
    group.add(4321)
    assert {(directory / "cgroup.procs").read_text() for directory in group.directories()} == {"4321"}
    assert len(group.directories()) == (3 if hierarchy.version == 1 else 1)


@pytest.fixture
def freezer(hierarchy):
    """A group with a freezer, and its files: what is written and what tells that it happened."""
    if hierarchy.version == 1:
        root = hierarchy.parents["memory"].parents[2]
        (root / "freezer").mkdir()
        (root / "freezer/cgroup.procs").touch()
        group = cgroups.find("tag", root=root, own=V1_OWN).create("sbx_1", LIMITS)
        file = told = group.paths["freezer"] / "freezer.state"
    else:
        group = hierarchy.create("sbx_1", LIMITS)
        file, told = (group.paths["unified"] / name for name in ("cgroup.freeze", "cgroup.events"))
        told.write_text("populated 1\nfrozen 0\n")
    file.touch()
    return group, file, told


def test_a_group_is_frozen_when_it_says_so_and_thawed(freezer):
    group, file, told = freezer
    assert group.can_freeze
    if file != told:
        told.write_text("populated 1\nfrozen 1\n")
    group.freeze(timeout_s=0)
    assert file.read_text() in ("FROZEN", "1")
    group.thaw()
    assert file.read_text() in ("THAWED", "0")
    group.remove()
    group.thaw()


def test_a_group_that_cannot_be_frozen_in_time_goes_on(freezer, monkeypatch):
    group, file, told = freezer
    original = Path.read_text

    def read_text(path, *args, **kwargs):
        return "FREEZING\n" if path == told and group.version == 1 else original(path, *args, **kwargs)

    monkeypatch.setattr(Path, "read_text", read_text)
    with pytest.raises(TimeoutError, match="not every process"):
        group.freeze(timeout_s=0)
    monkeypatch.undo()
    assert file.read_text() in ("THAWED", "0")


def test_a_frozen_group_that_nobody_owns_is_thawed_so_that_it_ends(freezer):
    group, file, _ = freezer
    file.write_text("FROZEN" if group.version == 1 else "1")
    thawed = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cgroups.Group, "remove", lambda _: thawed.append(file.read_text()))
        group.destroy()
    assert thawed in (["THAWED"], ["0"])


def test_a_group_without_a_freezer_says_so(hierarchy):
    group = hierarchy.create("sbx_1", LIMITS)
    assert not group.can_freeze
    with pytest.raises(FileNotFoundError):
        group.freeze()
    group.thaw()


FIGURES = {
    1: {
        "memory": {
            "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
            "memory.usage_in_bytes": "4096\n",
            "memory.stat": "cache 8\nrss 99\ntotal_cache 1024\ntotal_rss 99\n",
        },
        "cpu": {"cpuacct.usage": "2500000000\n"},
    },
    2: {
        "unified": {
            "memory.events": "low 0\nhigh 0\nmax 12\noom 4\noom_kill 3\noom_group_kill 0\n",
            "memory.current": "4096\n",
            "memory.stat": "anon 99\nfile 1024\nfile_mapped 8\n",
            "cpu.stat": "usage_usec 2500000\nuser_usec 1\nsystem_usec 1\n",
        }
    },
}


def figures(group):
    return group.out_of_memory_kills(), group.memory_bytes(), group.memory_cache_bytes(), group.cpu_s()


def write_figures(group):
    for key, files in FIGURES[group.version].items():
        for name, text in files.items():
            (group.paths[key] / name).write_text(text)


def test_what_a_group_uses_is_read(hierarchy):
    group = hierarchy.create("sbx_1", LIMITS)
    assert figures(group) == (0, None, None, None)
    write_figures(group)
    assert figures(group) == (3, 4096, 1024, 2.5)


def test_version_2_tells_a_limit_of_its_own_from_a_host_without_memory(v2):
    group = cgroups.find("tag", root=v2, own="0::/\n").create("sbx_1", LIMITS)
    (group.paths["unified"] / "memory.events").write_text("max 0\noom 0\noom_kill 2\n")
    assert group.out_of_memory_kills() == 0


@pytest.mark.parametrize("text", ["", "\n", "x\n", "max\n", "usage_usec\n", "file x\n"])
def test_figures_that_are_none_are_unknown(hierarchy, text):
    group = hierarchy.create("sbx_1", LIMITS)
    write_figures(group)
    for key, files in FIGURES[group.version].items():
        for name in files:
            (group.paths[key] / name).write_text(text)
    assert figures(group) == (0, None, None, None)


def test_figures_of_a_group_that_is_gone_are_unknown(hierarchy):
    assert figures(hierarchy.group("sbx_1")) == (0, None, None, None)


@pytest.mark.parametrize("tree", ["v1", "v2"])
def test_the_group_that_somebody_else_made_is_read(tree, request, monkeypatch):
    root = request.getfixturevalue(tree)
    memberships = {"v1": "4:memory:/user\n5:cpu,cpuacct:/user\n", "v2": "0::/user/session\n"}[tree]
    monkeypatch.setattr(Path, "read_text", _memberships_of_4321(memberships))
    group = cgroups.of_process(4321, root=root)
    assert group is not None
    write_figures(group)
    assert figures(group) == (3, 4096, 1024, 2.5)
    assert cgroups.of_process(4322, root=root) is None, "it has ended"


def _memberships_of_4321(memberships):
    """Of a machine on which there is no other process: whatever runs on this one, 4322 may be one of them."""
    original = Path.read_text

    def read_text(path, *args, **kwargs):
        if path == Path("/proc/4321/cgroup"):
            return memberships
        if path.is_relative_to("/proc"):
            raise FileNotFoundError(path)
        return original(path, *args, **kwargs)

    return read_text


def test_parents_go_only_when_they_are_empty(hierarchy):
    group = hierarchy.create("sbx_1", LIMITS)
    hierarchy.remove_parents()
    assert hierarchy.names() == {"sbx_1"}
    group.remove()
    hierarchy.remove_parents()
    assert not any(parent.exists() or parent.parent.exists() for parent in hierarchy.parents.values())
