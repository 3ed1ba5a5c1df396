"""A server of ours to which clients of E2B are led: `jupyter sandbox serve` with a broker of its own.

It runs with what an operator would set and nothing else: an engine, for `docker` an image, places for several sandboxes.
"""

import contextlib
import os
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from harness.broker import serving_broker
from harness.environments import Cache, VirtualEnvironment
from harness.errors import ConformanceError
from harness.processes import stop

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 60.0
MOST_SANDBOXES = 24  # suites run some files at a time, by the number of processors


@dataclass(frozen=True, kw_only=True)
class Engine:
    """What makes the sandboxes: the engine `docker` with an image, or `embedded` where there is none."""

    image: str = ""

    @property
    def name(self) -> str:
        return "docker" if self.image else "embedded"

    @property
    def variables(self) -> dict[str, str]:
        """For the broker; the daemon is where the caller's environment says."""
        daemon = {"DOCKER_HOST": os.environ["DOCKER_HOST"]} if self.image and "DOCKER_HOST" in os.environ else {}
        return {"JUPYTER_SANDBOX_ENGINE": self.name, **daemon}


@contextlib.contextmanager
def serving(
    environment: VirtualEnvironment, variables: Mapping[str, str], engine: Engine, *, cache: Cache, name: str
) -> Iterator[dict[str, str]]:
    """Yield the variables by which E2B's clients come here. Logs are named by `name`."""
    variables = {**variables, **engine.variables}
    broker = serving_broker(
        environment,
        variables,
        shares=[],
        kernel_variables=[],
        log=cache.log(f"{name}-broker"),
        settings=[f"--BrokerApp.docker_image={engine.image}"] if engine.image else [],
    )
    with broker as more, cache.log(f"{name}-server").open("wb") as log:
        token, port = Path(variables["HOME"], "token"), _free_port()
        process = subprocess.Popen(
            [
                environment.python,
                *("-P", "-m", "jupyter_sandbox.cli", "serve", f"--port={port}", f"--token-file={token}"),
                f"--max-total-workers={MOST_SANDBOXES}",
            ],
            cwd=variables["HOME"],  # not in this checkout: the project is the installed one
            env={**variables, **more},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_until_it_answers(process, url, cache.log(f"{name}-server"))
            yield {
                "E2B_API_URL": f"{url}/e2b",
                "E2B_SANDBOX_URL": f"{url}/e2b/sbx",
                "E2B_API_KEY": token.read_text().strip(),
            }
        finally:
            stop(process, STOP_TIMEOUT_S)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_it_answers(process: "subprocess.Popen[bytes]", url: str, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not _answers(url):
        if process.poll() is not None or time.monotonic() > deadline:
            raise ConformanceError(f"the server does not answer\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.1)


def _answers(url: str) -> bool:
    """Whether it is ready. A server without our extension would lead to its login page instead."""
    ready = f"{url}/api/sandboxes/readyz"
    with contextlib.suppress(OSError), urllib.request.urlopen(ready, timeout=5) as answer:
        return bool(answer.url == ready)
    return False
