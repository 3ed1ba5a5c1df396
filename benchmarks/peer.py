"""Prepare the peer, gateway-provisioners: a virtual environment and a kernel image of its own.

The image is built on our worker image, without any registry: so both have the same Python and the same ipykernel, and
what is compared is the way a kernel gets into a container. Everything else is the peer's own, installed by its own
commands as its documentation says (`jupyter image-bootstrap install`, `jupyter docker-spec install`).
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from benchmarks import containers
from benchmarks.systems import PEER_IMAGE, PEER_KERNEL, PEER_PYTHON, WORKER_IMAGE

PACKAGE = "gateway_provisioners"
SERVER_PACKAGES = (PACKAGE, "docker", "jupyter_server", "ipykernel", "nbclient", "nbformat")
_DOCKERFILE = f"""\
FROM {WORKER_IMAGE}
USER root
COPY wheels /wheels
RUN python -m pip install --quiet --no-index --no-compile /wheels/* \\
 && jupyter image-bootstrap install --languages python \\
 && python -m compileall -q "$(python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')" \\
    /usr/local/bin/kernel-launchers \\
 && chmod -R a+rx /usr/local/bin/bootstrap-kernel.sh /usr/local/bin/kernel-launchers && rm -r /wheels
ENV KERNEL_LANGUAGE=python
USER 1000:100
CMD ["/usr/local/bin/bootstrap-kernel.sh"]
"""
_OWN_PLACES = {"HOME": "/tmp", "IPYTHONDIR": "/tmp/ipython"}
"""Of the kernel: else the launcher hands the server's directories on, which a container does not have."""


def _say(text: str) -> None:
    print(f"peer: {text}", file=sys.stderr, flush=True)


def _run(*command: str) -> None:
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def _wheels(directory: Path) -> None:
    """Download what the image needs, for the image's Python."""
    version = containers.output_of(WORKER_IMAGE, ["python", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"])
    command = [str(PEER_PYTHON), "-m", "pip", "download", "--quiet", "--disable-pip-version-check"]
    command += ["--only-binary", ":all:", "--python-version", version, "--dest", str(directory), PACKAGE]
    _run(*command)


def _context(wheels: Path) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        entry = tarfile.TarInfo("Dockerfile")
        entry.size = len(_DOCKERFILE.encode())
        archive.addfile(entry, io.BytesIO(_DOCKERFILE.encode()))
        archive.add(wheels, "wheels")
    return buffer.getvalue()


def _name_own_places() -> None:
    file = PEER_PYTHON.parent.parent / "share/jupyter/kernels" / PEER_KERNEL / "kernel.json"
    kernelspec = json.loads(file.read_text())
    kernelspec["env"] |= _OWN_PLACES
    file.write_text(json.dumps(kernelspec, indent=1))


def prepare() -> None:
    """Make what is missing. Raises EngineError, CalledProcessError."""
    if not PEER_PYTHON.exists():
        _say(f"installing {', '.join(SERVER_PACKAGES)} into an environment of their own ...")
        _run(sys.executable, "-m", "venv", str(PEER_PYTHON.parent.parent))
    _run(str(PEER_PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *SERVER_PACKAGES)
    _run(
        *(str(PEER_PYTHON.parent / "jupyter"), "docker-spec", "install", "--sys-prefix", "--replace", "--log-level=30"),
        *(f"--image-name={PEER_IMAGE}", f"--kernel-name={PEER_KERNEL}"),
    )
    _name_own_places()
    with tempfile.TemporaryDirectory() as directory:
        _wheels(Path(directory))
        _say(f"building {PEER_IMAGE} ...")
        for text in containers.build(_context(Path(directory)), PEER_IMAGE):
            if text.startswith("Step"):
                _say(text)


def is_prepared() -> bool:
    """Whether nothing is missing."""
    return PEER_PYTHON.exists() and containers.lack_of_image(PEER_IMAGE) is None


def main() -> int:
    """Prepare the peer if it can be had here; say why not otherwise. The exit status is 0 in both cases."""
    if lack := containers.lack_of_image(WORKER_IMAGE):
        _say(f"left out: {lack}")
    elif not is_prepared():
        try:
            prepare()
        except (containers.EngineError, subprocess.CalledProcessError) as error:
            _say(f"left out: {error}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
