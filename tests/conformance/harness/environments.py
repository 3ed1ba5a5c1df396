"""Virtual environments, sdists and process environments.

Rules it keeps: the stock environment never has the project in it, so the reference knows nothing of us;
a child sees a home directory of its own and none of the caller's JUPYTER_*, PYTEST_* or PYTHON* variables;
everything is below one cache directory, and what cannot be finished is not left there half done.
"""

import hashlib
import os
import shutil
import sys
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from harness.errors import ConformanceError
from harness.processes import run_or_raise
from harness.provisioners import Provisioner

CONFORMANCE = Path(__file__).resolve().parents[1]
PROJECT = CONFORMANCE.parents[1]
INSTALL_TIMEOUT_S = 900.0
DOWNLOAD_TIMEOUT_S = 300.0
CHECK_TIMEOUT_S = 60.0

# The last lines matter most: a switch that does not work would compare the stock provisioner with itself.
CHECK_PROGRAM = """
import sys
from importlib.metadata import entry_points
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import start_new_kernel
entry_point, kernel_name = sys.argv[1:]
provisioners = {found.name: found for found in entry_points(group="jupyter_client.kernel_provisioners")}
if entry_point not in provisioners:
    sys.exit(f"no kernel provisioner {entry_point!r}, only {sorted(provisioners)}")
specs = sorted(KernelSpecManager().find_kernel_specs())
if kernel_name not in specs:
    sys.exit(f"no kernelspec {kernel_name!r}, only {specs}")
wanted = provisioners[entry_point].load()
for name in {"python3", kernel_name}:
    manager, client = start_new_kernel(kernel_name=name)
    found = type(manager.provisioner)
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    if found is not wanted:
        sys.exit(f"the kernelspec {name!r} is started by {found.__name__}, not by {wanted.__name__}")
"""


@dataclass(frozen=True, kw_only=True)
class Cache:
    """The directory that survives a run: environments and sdists; `work` is thrown away."""

    root: Path

    @property
    def sdists(self) -> Path:
        return self.root / "sdists"

    @property
    def work(self) -> Path:
        return self.root / "work"

    def log(self, name: str) -> Path:
        """A file for the output of one step; it stays until the step runs again."""
        directory = self.root / "logs"
        directory.mkdir(parents=True, exist_ok=True)
        return directory / f"{name}.log"


def default_cache_root() -> Path:
    """Where to keep things when nobody says."""
    if chosen := os.environ.get("JUPYTER_SANDBOX_CONFORMANCE_DIR"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jupyter-sandbox-conformance"


@dataclass(frozen=True, kw_only=True)
class VirtualEnvironment:
    """One installed environment, for one provisioner."""

    directory: Path
    provisioner: Provisioner

    @property
    def python(self) -> Path:
        return self.directory / "bin" / "python"

    def program(self, name: str) -> Path:
        """A console script of the environment."""
        return self.directory / "bin" / name

    def process_environment(self, *, home: Path, temporary: Path) -> dict[str, str]:
        """The whole environment of a child: what a fresh login has, and the switch.

        `JUPYTER_DEFAULT_PROVISIONER_NAME` routes every kernelspec without a stanza, so no file of a suite changes.
        """
        inherited = {name: os.environ[name] for name in ("LANG", "LC_ALL", "TERM", "TZ", "USER") if name in os.environ}
        return {
            "LANG": "C.UTF-8",
            **inherited,
            "HOME": str(home),
            "PATH": f"{self.directory / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "TMPDIR": str(temporary),
            "VIRTUAL_ENV": str(self.directory),
            "JUPYTER_DEFAULT_PROVISIONER_NAME": self.provisioner.entry_point,
        }


def prepare_environment(
    cache: Cache, kind: str, requirements: Sequence[str], provisioner: Provisioner, *, python: str
) -> VirtualEnvironment:
    """Make or reuse the environment `kind` for `provisioner`; install the project afresh if it is ours.

    `requirements` are pinned; when they or the interpreter change, the environment is made anew.
    """
    directory = cache.root / f"venv-{kind}-{provisioner}"
    stamp = directory / "conformance-stamp"
    wanted = hashlib.sha256("\n".join([python, *sorted(requirements)]).encode()).hexdigest()
    environment = VirtualEnvironment(directory=directory, provisioner=provisioner)
    label = f"{kind}-{provisioner}"
    if not stamp.is_file() or stamp.read_text() != wanted:
        print(f"preparing the {kind} environment for {provisioner} ...", flush=True)
        shutil.rmtree(directory, ignore_errors=True)
        cache.root.mkdir(parents=True, exist_ok=True)
        _step(cache, f"venv-{label}", [python, "-m", "venv", directory], "cannot make a virtual environment")
        _pip_install(cache, environment, label, list(requirements))
        stamp.write_text(wanted)
    if provisioner is Provisioner.SANDBOX:
        _pip_install(cache, environment, f"{label}-project", [str(PROJECT)])
    check: list[str | Path] = [
        environment.python,
        "-c",
        CHECK_PROGRAM,
        provisioner.entry_point,
        provisioner.kernel_name,
    ]
    run_or_raise(
        check,
        directory=cache.root,
        environment=environment.process_environment(home=cache.root, temporary=cache.root),
        timeout_s=CHECK_TIMEOUT_S,
        log=cache.log(f"check-{label}"),
        purpose=f"the {kind} environment cannot serve {provisioner}",
    )
    return environment


def fetch_sdist(cache: Cache, python: str | Path, project: str, version: str) -> Path:
    """The sdist of one release, by pip, kept in the cache.

    pip builds the metadata of what it downloads, so this needs the build requirements too.
    """
    cache.sdists.mkdir(parents=True, exist_ok=True)
    if found := _find_sdist(cache, project, version):
        return found
    print(f"fetching the sdist of {project} {version} ...", flush=True)
    command: list[str | Path] = [python, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", project]
    command += ["--dest", cache.sdists, f"{project}=={version}"]
    run_or_raise(
        command,
        directory=cache.root,
        environment=os.environ,
        timeout_s=DOWNLOAD_TIMEOUT_S,
        log=cache.log(f"sdist-{project}"),
        purpose=f"cannot fetch the sdist of {project} {version}",
    )
    if found := _find_sdist(cache, project, version):
        return found
    raise ConformanceError(f"pip fetched {project} {version}, but not as a .tar.gz of that name")


def unpack_sdist(archive: Path, members: Sequence[str], into: Path) -> None:
    """Write the files of `archive` that are, or are below, `members` (relative to its top directory).

    Only regular files, only below `into`: links, devices and `..` in an archive are not followed.
    """
    missing = set(members)
    with tarfile.open(archive) as tar:
        for entry in tar:
            path = PurePosixPath(*PurePosixPath(entry.name).parts[1:])
            chosen = {member for member in members if path.is_relative_to(member)}
            if not entry.isfile() or not chosen or ".." in path.parts:
                continue
            source = tar.extractfile(entry)
            if source is None:
                continue
            target = into / path
            target.parent.mkdir(parents=True, exist_ok=True)
            with source, target.open("wb") as sink:
                shutil.copyfileobj(source, sink)
            target.chmod(0o755 if entry.mode & 0o100 else 0o644)
            missing -= chosen
    if missing:
        raise ConformanceError(f"{archive.name} has no {', '.join(sorted(missing))}")


def read_requirements(path: Path) -> list[str]:
    """The requirements of a file, one a line, without comments."""
    lines = (line.split("#")[0].strip() for line in path.read_text().splitlines())
    return [line for line in lines if line]


def default_python() -> str:
    """The interpreter the environments are made with when nobody says."""
    return sys.executable


def _find_sdist(cache: Cache, project: str, version: str) -> Path | None:
    wanted = f"{_normalised(project)}-{version}.tar.gz"
    return next((path for path in cache.sdists.glob("*.tar.gz") if _normalised(path.name) == wanted), None)


def _normalised(name: str) -> str:
    return name.lower().replace("_", "-")


def _pip_install(cache: Cache, environment: VirtualEnvironment, label: str, what: list[str]) -> None:
    command: list[str | Path] = [environment.python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    command += what
    _step(cache, f"install-{label}", command, f"cannot install into the environment {environment.directory.name}")


def _step(cache: Cache, name: str, command: Sequence[str | Path], purpose: str) -> None:
    """A step of preparation; pip and venv see the caller's own environment (proxies, certificates, indexes)."""
    run_or_raise(
        command,
        directory=cache.root,
        environment=os.environ,
        timeout_s=INSTALL_TIMEOUT_S,
        log=cache.log(name),
        purpose=purpose,
    )
