"""Make the image of workers: `jupyter sandbox image build`.

The build's context is made here from what the wheel carries: the Dockerfile and the pinned requirements of
`sandbox_worker/image`, and the package itself. Settings of the network are passed to the build and do not reach the
image. Where the default base image cannot be had, because no registry is in reach, one is made from Debian packages.
Blocking: this is a command for people, with its own process.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import shutil
import subprocess
import tarfile
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import sandbox_worker
from jupyter_sandbox import languages
from jupyter_sandbox.engines import daemon, image
from jupyter_sandbox.errors import IsolationUnavailableError, SandboxError, StartError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    Say = Callable[[str], None]

DEFAULT_BASE: Final = "python:3.13-slim"
DEBIAN_BASE: Final = "jupyter-sandbox-base"
DEBIAN: Final = "debian"
"""As a base: make one from Debian packages."""
DEFAULT_SUITE: Final = "trixie"

NETWORK_VARIABLES: Final = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")
INDEX_VARIABLES: Final = ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL")
CERTIFICATE_VARIABLES: Final = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "CURL_CA_BUNDLE")

_IMAGE_ID: Final = re.compile(r"sha256:[0-9a-f]{64}")
_STAGE: Final = "jupyter-sandbox.stage"
"""Label of the build's first stage, set by the Dockerfile."""
_TIMEOUT_S: Final = 3600
_DEBIAN_PACKAGES: Final = ("python3", "python3-venv", "ca-certificates")
_LEFT_OUT: Final = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*")
_LEFT_IN: Final = ("/usr/share/doc/*/copyright",)
_LAYER_STEPS: Final = ("Already exists", "Download complete", "Pull complete")
_ERROR: Final = re.compile(r"\berror: |^E: ")
_CHANGES: Final = ("ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "ENV LANG=C.UTF-8")


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to build, as the command line says it."""

    tag: str = ""
    """Empty: the usual one, or with `languages` one that names them, so that the small image stays."""
    languages: tuple[str, ...] = ()
    """What it shall speak besides Python, by name."""
    base: str = ""
    """An image, or `debian`; empty: the default image, else Debian packages."""
    suite: str = DEFAULT_SUITE
    certificates: str = ""
    """File with the certificates that the build trusts; empty: what the environment names, if anything."""


def build(plan: Plan, environment: Mapping[str, str], say: Say) -> None:
    """Build the image, telling progress line by line. Raises SandboxError."""
    certificates = certificate_file(plan, environment)
    name, spoken = tag(plan), languages.spoken_with(plan.languages)
    client = _connect()
    try:
        base, packages = _base(client, plan, say)
        say(f"Building {name} from {base} ...")
        context = context_archive(requirements=requirements(plan), certificates=certificates)
        events = client.build(
            fileobj=io.BytesIO(context),
            custom_context=True,
            tag=name,
            labels=image.labels(spoken),
            buildargs=build_arguments(base, environment, packages),
            rm=True,
            forcerm=True,
            decode=True,
        )
        _follow(events, say)
        labels = (client.inspect_image(name).get("Config") or {}).get("Labels") or {}
        wrong = image.misfit(name, labels)
        if wrong:
            raise StartError(wrong)
        _tidy(client)
        say(f"{name} is ready: the engine `docker` can use it. It speaks {', '.join(spoken)}.")
        if name != image.DEFAULT:
            say(f'Name it in the configuration of the broker: c.BrokerApp.docker_image = "{name}"')
    except daemon.failures() as error:
        raise StartError(f"the image could not be built: {daemon.reason(error)}") from error
    finally:
        client.close()


def tag(plan: Plan) -> str:
    """Return the name of the image. Pure."""
    named = "-".join(name for name in languages.NAMES if name in plan.languages and name != languages.PYTHON)
    return plan.tag or (f"{image.DEFAULT.partition(':')[0]}:{named}" if named else image.DEFAULT)


def requirements(plan: Plan) -> bytes:
    """Return the requirements file: what every image has, and what brings the kernels of the languages."""
    wanted = sorted({each for language in _wanted(plan) for each in language.requirements})
    return _shipped("requirements.txt") + "".join(f"{each}\n" for each in wanted).encode()


def debian_packages(plan: Plan) -> tuple[str, ...]:
    """Return the packages of Debian that the kernels of the languages need. Pure."""
    return tuple(sorted({each for language in _wanted(plan) for each in language.packages}))


def _wanted(plan: Plan) -> list[languages.Language]:
    return [language for language in languages.TABLE if language.name in plan.languages]


def build_arguments(base: str, environment: Mapping[str, str], packages: Sequence[str] = ()) -> dict[str, str]:
    """Return the build's arguments: base, packages of Debian, and the settings of the network that are set. Pure."""
    wanted = (*NETWORK_VARIABLES, *INDEX_VARIABLES)
    given = {name: environment[name] for name in wanted if environment.get(name)}
    return {"BASE": base, "PACKAGES": " ".join(packages)} | given


def certificate_file(plan: Plan, environment: Mapping[str, str]) -> bytes | None:
    """Return the certificates to pass to the build, or None; raises SandboxError for a file that cannot be read."""
    named = plan.certificates or next(
        (environment[name] for name in CERTIFICATE_VARIABLES if environment.get(name)), ""
    )
    if not named:
        return None
    try:
        return Path(named).read_bytes()
    except OSError as error:
        raise StartError(f"the certificates cannot be read: {error}") from error


def context_archive(*, requirements: bytes, certificates: bytes | None) -> bytes:
    """Return the build's context as a tar archive: the same bytes for the same contents."""
    files = {"Dockerfile": _shipped("Dockerfile"), "requirements.txt": requirements}
    files |= {f"sandbox_worker/{name}": content for name, content in image.sources().items()}
    if certificates is not None:
        files["ca-bundle.crt"] = certificates
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _shipped(name: str) -> bytes:
    return (Path(sandbox_worker.__file__).parent / "image" / name).read_bytes()


def _connect() -> Any:
    if not daemon.socket_exists():
        raise IsolationUnavailableError("no container engine's socket was found; start Docker, or set DOCKER_HOST")
    return daemon.client(_TIMEOUT_S)


def _base(client: Any, plan: Plan, say: Say) -> tuple[str, tuple[str, ...]]:
    """Return the name of a base image that is there, and the Debian packages that it lacks."""
    packages = debian_packages(plan)
    if plan.base == DEBIAN:
        return _from_debian(client, plan.suite, packages, say), ()
    wanted = plan.base or DEFAULT_BASE
    if client.images(name=wanted):
        return wanted, packages
    say(f"Getting {wanted} ...")
    try:
        _follow(client.pull(*_name_and_tag(wanted), stream=True, decode=True), say)
    except (SandboxError, OSError) as error:
        why = daemon.reason(error)
        if plan.base:
            raise StartError(f"the base image {wanted} cannot be had: {why}") from error
        say(f"{wanted} cannot be had ({why}); making a base from Debian packages instead.")
        return _from_debian(client, plan.suite, packages, say), ()
    return wanted, packages


def _name_and_tag(name: str) -> tuple[str, str]:
    if "@" in name:
        repository, _, digest = name.partition("@")
        return repository, digest
    repository, colon, tag = name.rpartition(":")
    return (repository, tag) if colon and "/" not in tag else (name, "latest")


def _from_debian(client: Any, suite: str, packages: Sequence[str], say: Say) -> str:
    """Import a minimal Debian with Python and `packages`; it is made again only when it is not there yet."""
    label = "-".join((suite, *packages))
    name = f"{DEBIAN_BASE}:{label}"
    if client.images(name=name):
        say(f"{name} is there already.")
        return name
    if shutil.which("mmdebstrap") is None:
        raise StartError(
            "no base image can be had and mmdebstrap, which could make one, is not installed: `apt-get install "
            "mmdebstrap`, or name an image with Python 3.12 or newer by --base"
        )
    with tempfile.TemporaryDirectory(prefix="sandbox-base") as directory:
        archive = Path(directory, "base.tar")
        _bootstrap(suite, packages, archive, say)
        say(f"Importing {name} ({archive.stat().st_size >> 20} MiB) ...")
        answer = client.import_image_from_file(str(archive), repository=DEBIAN_BASE, tag=label, changes=list(_CHANGES))
        imported = _IMAGE_ID.search(answer)
        if '"error"' in answer or imported is None:
            raise StartError(f"the base image could not be imported: {answer[-300:]}")
        client.tag(imported[0], DEBIAN_BASE, label, force=True)  # Podman 4.3 imports as `latest`, whatever is asked
    return name


def bootstrap_command(suite: str, packages: Sequence[str], archive: Path) -> list[str]:
    """Return the command that makes an archive of a minimal Debian. Pure."""
    command = ["mmdebstrap", "--variant=minbase", f"--include={','.join((*_DEBIAN_PACKAGES, *packages))}"]
    command += ['--aptopt=Acquire::Languages "none"', '--aptopt=Acquire::Retries "3"']
    command += [f"--dpkgopt=path-exclude={pattern}" for pattern in _LEFT_OUT]
    command += [f"--dpkgopt=path-include={pattern}" for pattern in _LEFT_IN]
    command += ['--essential-hook=mkdir -p "$1"/usr/share/man/man1']  # Java's packages fail without it
    command += ['--customize-hook=rm -rf "$1"/var/lib/apt/lists/* "$1"/var/cache/apt/*']
    return [*command, suite, str(archive)]


def _bootstrap(suite: str, packages: Sequence[str], archive: Path, say: Say) -> None:
    say(f"Making a base from the packages of Debian {suite} (half a minute) ...")
    said = []
    process = subprocess.Popen(
        bootstrap_command(suite, packages, archive),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    with process:
        for line in process.stderr or ():
            said.append(line.strip())
            if line.startswith("I: "):
                say(f"  {line[3:].rstrip()}")
    if process.returncode:
        raise StartError(f"mmdebstrap failed: {cause(said)}")


def cause(said: Sequence[str]) -> str:
    """Return the line that tells why a program failed, of all that it said: its last one may say only that. Pure."""
    return next((line for line in said if _ERROR.search(line)), said[-1] if said else "it said nothing")[-300:]


def _follow(events: Iterable[Mapping[str, Any]], say: Say) -> None:
    """Tell a stream of the daemon; raises StartError for an error in it."""
    told = set()
    for event in events:
        if "error" in event:
            raise StartError(str(event["error"])[-500:].strip())
        text = str(event.get("stream") or "").rstrip()
        if text.strip():
            say(f"  {text}")
        layer = layer_line(event)
        if layer and layer not in told:
            told.add(layer)
            say(f"  {layer}")


def layer_line(event: Mapping[str, Any]) -> str:
    """Return what an event of a pull says that people want to read: three lines of a layer at most, else empty. Pure.

    Source: Docker Engine API, ImageCreate; there are many events of each layer, with the bytes so far.
    """
    layer, status = event.get("id"), str(event.get("status") or "")
    total = (event.get("progressDetail") or {}).get("total")
    if status == "Downloading" and total:
        return f"{layer}: {total / (1 << 20):.1f} MiB"
    return f"{layer}: {status.lower()}" if status in _LAYER_STEPS else ""


def _tidy(client: Any) -> None:
    """Remove images of ours that have lost their name, but the newest stage, whose layers the next build uses again."""
    for label in (image.FINGERPRINT, _STAGE):
        unnamed = client.images(filters={"dangling": True, "label": label})
        newest_first = sorted(unnamed, key=lambda found: found["Created"], reverse=True)
        for found in newest_first[1 if label == _STAGE else 0 :]:
            with contextlib.suppress(*daemon.failures()):  # workers may still run it: the next time, then
                client.remove_image(found["Id"])


def main(plan: Plan) -> int:
    """Build for a terminal; the exit status."""
    build(plan, os.environ, lambda line: print(line, flush=True))
    return 0
