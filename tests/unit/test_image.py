"""The workers' image: what goes into its build, and whether one fits this installation."""

from __future__ import annotations

import io
import re
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from jupyter_sandbox import image_build
from jupyter_sandbox.engines import image, suitability
from jupyter_sandbox.errors import StartError
from jupyter_sandbox.languages import NAMES

pytestmark = pytest.mark.unit

INFO = {
    "SecurityOptions": ["name=apparmor", "name=seccomp,profile=default"],
    "Runtimes": {"runc": {}, "crun": {}},
    "MemoryLimit": True,
    "SwapLimit": True,
    "PidsLimit": True,
    "CpuCfsQuota": True,
    "LiveRestoreEnabled": True,
}


def test_an_image_of_this_installation_fits():
    assert image.misfit("i", image.labels(("python",))) is None


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (None, "there is no image i"),
        ({}, "none of ours"),
        ({image.FINGERPRINT: "0" * 16, image.VERSION: "9.9"}, "of version 9.9"),
    ],
)
def test_another_image_is_refused_with_the_command_that_mends_it(labels, words):
    wrong = image.misfit("i", labels)
    assert words in wrong
    assert "`jupyter sandbox image build` with its --language options, or --tag i" in wrong
    assert (image.misfit(image.DEFAULT, labels) or "").endswith(": `jupyter sandbox image build`")


def test_the_fingerprint_is_that_of_the_worker_package(monkeypatch):
    before = image.fingerprint()
    assert re.fullmatch(r"[0-9a-f]{16}", before)
    monkeypatch.setattr(image, "sources", lambda: {"agent.py": b"other"})
    assert image.fingerprint() != before


def test_the_context_holds_all_that_the_build_needs():
    archive = image_build.context_archive(requirements=b"numpy==1\n", certificates=None)
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        names = set(tar.getnames())
    assert {"Dockerfile", "requirements.txt", "sandbox_worker/agent.py", "sandbox_worker/container.py"} <= names
    assert "ca-bundle.crt" not in names
    assert not [name for name in names if "pycache" in name]


def test_the_context_is_the_same_for_the_same_contents():
    made = [image_build.context_archive(requirements=b"", certificates=b"pem") for _ in range(2)]
    assert made[0] == made[1]


def test_the_network_of_the_build_is_passed_on_and_nothing_else():
    environment = {"https_proxy": "p", "PIP_INDEX_URL": "i", "SECRET": "s", "HTTP_PROXY": "", "PIP_CERT": "f"}
    assert image_build.build_arguments("b", environment) == {
        "BASE": "b",
        "PACKAGES": "",
        "https_proxy": "p",
        "PIP_INDEX_URL": "i",
    }


def test_certificates_come_from_the_option_or_the_environment(tmp_path):
    named, other = tmp_path / "named.pem", tmp_path / "other.pem"
    named.write_bytes(b"named")
    other.write_bytes(b"other")
    plan = image_build.Plan(certificates=str(named))
    assert image_build.certificate_file(plan, {"PIP_CERT": str(other)}) == b"named"
    assert image_build.certificate_file(image_build.Plan(), {"SSL_CERT_FILE": str(other)}) == b"other"
    assert image_build.certificate_file(image_build.Plan(), {}) is None
    with pytest.raises(StartError, match="cannot be read"):
        image_build.certificate_file(image_build.Plan(certificates=str(tmp_path / "missing")), {})


def test_the_small_image_stays_what_it_is():
    plan = image_build.Plan()
    assert image_build.tag(plan) == image.DEFAULT
    assert image_build.requirements(plan) == image_build._shipped("requirements.txt")
    assert image_build.debian_packages(plan) == ()


def test_languages_bring_their_packages_and_have_a_name_of_their_own():
    plan = image_build.Plan(languages=("r", "java", "javascript", "typescript", "r"))
    assert image_build.tag(plan) == "jupyter-sandbox-worker:javascript-typescript-r-java"
    assert image_build.tag(replace(plan, tag="mine:1")) == "mine:1"
    more = image_build.requirements(plan).decode().removeprefix(image_build.requirements(image_build.Plan()).decode())
    assert [line.partition("==")[0] for line in more.split()] == ["deno", "jjava"]
    assert image_build.debian_packages(plan) == ("default-jdk-headless", "r-cran-irkernel")
    assert image_build.build_arguments("b", {}, ("r", "j"))["PACKAGES"] == "r j"


def test_a_base_of_debian_packages_takes_those_of_java():
    """They link into the directory of the manual, which is left out: without it they cannot be installed."""
    command = image_build.bootstrap_command("trixie", ("default-jdk-headless",), Path("base.tar"))
    assert "--dpkgopt=path-exclude=/usr/share/man/*" in command
    assert '--essential-hook=mkdir -p "$1"/usr/share/man/man1' in command
    assert "--include=python3,python3-venv,ca-certificates,default-jdk-headless" in command
    assert command[-2:] == ["trixie", "base.tar"]


def test_another_base_takes_those_of_java_too():
    install = image_build._shipped("Dockerfile").decode().partition("apt-get install")[0]
    assert "mkdir -p /usr/share/man/man1 && " in install


def test_why_a_base_cannot_be_made_is_told_and_not_that_it_cannot():
    said = [
        "Setting up libgpg-error0:amd64 (1.51-4) ...",
        "update-alternatives: error: error creating symbolic link 'java.1.gz': No such file or directory",
        "E: Sub-process env returned an error code (1)",
        "E: mmdebstrap failed to run",
    ]
    assert image_build.cause(said) == said[1]
    assert image_build.cause(said[:1]) == said[0]
    assert image_build.cause([]) == "it said nothing"


def test_a_base_that_is_pulled_is_told_by_few_lines_however_many_events_come():
    bytes_so_far = [
        {"status": "Downloading", "id": "a1", "progressDetail": {"current": so_far << 10, "total": 29 << 20}}
        for so_far in range(1000)
    ]
    events = [
        {"status": "Pulling from library/python", "id": "3.13-slim"},
        {"status": "Already exists", "progressDetail": {}, "id": "b2"},
        {"status": "Pulling fs layer", "progressDetail": {}, "id": "a1"},
        *bytes_so_far,
        {"status": "Download complete", "progressDetail": {}, "id": "a1"},
        {"status": "Extracting", "id": "a1", "progressDetail": {"current": 1, "total": 29 << 20}},
        {"status": "Pull complete", "progressDetail": {}, "id": "a1"},
        {"status": "Digest: sha256:1"},
    ]
    told: list[str] = []
    image_build._follow(events, told.append)
    assert [line.strip() for line in told] == [
        "b2: already exists",
        "a1: 29.0 MiB",
        "a1: download complete",
        "a1: pull complete",
    ]


def test_every_requirement_of_the_image_is_pinned():
    lines = image_build.requirements(image_build.Plan(languages=NAMES)).decode().split()
    assert all(re.fullmatch(r"[\w.-]+==[\w.]+", line) for line in lines)
    assert {"ipykernel", "numpy", "pandas", "matplotlib"} <= {line.partition("==")[0] for line in lines}


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("python:3", ("python", "3")),
        ("python", ("python", "latest")),
        ("host:5000/a/b", ("host:5000/a/b", "latest")),
        ("host:5000/a@sha256:12", ("host:5000/a", "sha256:12")),
    ],
)
def test_a_name_has_a_tag(name, parts):
    assert image_build._name_and_tag(name) == parts


def test_a_good_engine_is_neither_refused_nor_weaker():
    assert suitability.refusal(INFO) is None
    assert suitability.refusal(INFO, "crun") is None
    assert suitability.weaknesses({}, INFO, 0x1FFFFFFFFFF) == []


@pytest.mark.parametrize(
    ("change", "runtime", "words"),
    [
        ({"SecurityOptions": ["name=seccomp", "name=rootless"]}, "", "without root"),
        ({"SecurityOptions": ["name=apparmor"]}, "", "no seccomp"),
        ({}, "kata", "no runtime 'kata'; it has: crun, runc"),
    ],
)
def test_an_engine_that_cannot_hold_workers_is_refused(change, runtime, words):
    assert words in suitability.refusal(INFO | change, runtime)


@pytest.mark.parametrize(
    ("change", "capabilities", "words"),
    [
        ({"SecurityOptions": ["name=seccomp"]}, None, "AppArmor"),
        ({"PidsLimit": False}, None, "processes"),
        ({"SwapLimit": False}, None, "swap"),
        ({"LiveRestoreEnabled": False}, None, "restarted"),
        ({}, 0x1FFFEFFFFFF, "CAP_SYS_RESOURCE"),
    ],
)
def test_a_weaker_engine_is_told_with_a_remedy(change, capabilities, words):
    (weakness,) = suitability.weaknesses({}, INFO | change, capabilities)
    assert words in weakness.fact
    assert weakness.remedy


def test_podman_is_not_judged_by_what_it_does_not_look_at():
    said = INFO | {"CpuCfsQuota": False, "SwapLimit": False, "LiveRestoreEnabled": False}
    podman = {"Components": [{"Name": "Podman Engine"}]}
    assert suitability.weaknesses(podman, said | {"CgroupVersion": "2"}, None) == []
    assert len(suitability.weaknesses(podman, said | {"CgroupVersion": "1"}, None)) == 2
    assert len(suitability.weaknesses({}, said | {"CgroupVersion": "2"}, None)) == 3


def test_an_engine_that_says_little_is_not_judged():
    assert suitability.processors({}) == 0
    assert suitability.refusal({}) is None
    assert suitability.weaknesses({}, {}, None) == []
