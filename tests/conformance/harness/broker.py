"""A broker of our own for one suite or notebook: what an operator would set up for it, and nothing left afterwards.

It runs in the foreground with directories of its own, so it neither meets another broker of this machine nor outlives
what it is for. What is configured is what operators have: directories of the host as shares of a template, and the
names of variables that kernels get, in a kernelspec. Foreign files stay as they are.
"""

import contextlib
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.environments import VirtualEnvironment
from harness.errors import ConformanceError
from harness.processes import stop
from harness.provisioners import Provisioner

START_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 30.0
IDLE_EXIT_S = 600  # longer than any test goes without a kernel; ends a broker whose run was killed


@dataclass(frozen=True, kw_only=True)
class Share:
    """A directory of the host that every sandbox shows at `target`, which must lie below /workspace or /tmp."""

    source: Path
    target: str
    writable: bool


@contextlib.contextmanager
def serving_broker(
    environment: VirtualEnvironment,
    variables: Mapping[str, str],
    *,
    shares: Sequence[Share],
    kernel_variables: Sequence[str],
    log: Path,
    settings: Sequence[str] = (),
) -> Iterator[dict[str, str]]:
    """Yield more variables for the client's process; none for the stock provisioner.

    `kernel_variables` are names of variables of the client's process that kernels of `python3` get. `settings` are more
    arguments of the broker, its output is in `log`.
    """
    if environment.provisioner is not Provisioner.SANDBOX:
        yield {}
        return
    directory = Path(tempfile.mkdtemp(prefix="jsc-broker-", dir="/tmp"))
    directory.chmod(0o711)  # kernels are other users, and pass through it to their sockets
    try:
        more = {"JUPYTER_SANDBOX_DIR": str(directory)}
        templates = directory / "templates"
        templates.mkdir()
        (templates / "python.toml").write_text("".join(_share_table(share) for share in shares))
        if kernel_variables:
            more["JUPYTER_PATH"] = str(directory / "share")
            _write_kernelspec(environment, directory / "share" / "kernels" / "python3", kernel_variables)
        with log.open("wb") as sink:
            process = subprocess.Popen(
                [
                    environment.python,
                    *("-P", "-m", "jupyter_sandbox.broker", f"--BrokerApp.idle_exit_s={IDLE_EXIT_S}"),
                    f"--BrokerApp.template_directories={templates}",
                    *settings,
                ],
                env={**variables, **more},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
            try:
                _wait_until_it_serves(process, directory, log)
                yield more
            finally:
                stop(process, STOP_TIMEOUT_S)
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _share_table(share: Share) -> str:
    """As a template file has it; JSON's texts and booleans are TOML's."""
    values = {"source": str(share.source), "target": share.target, "writable": share.writable}
    return "[[shares]]\n" + "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


def _write_kernelspec(environment: VirtualEnvironment, directory: Path, kernel_variables: Sequence[str]) -> None:
    """The environment's own `python3` with a stanza for our provisioner, found before it by JUPYTER_PATH."""
    spec = json.loads((environment.directory / "share/jupyter/kernels/python3/kernel.json").read_text())
    spec["metadata"]["kernel_provisioner"] = {
        "provisioner_name": environment.provisioner.entry_point,
        "config": {"environment_names": list(kernel_variables)},
    }
    directory.mkdir(parents=True)
    (directory / "kernel.json").write_text(json.dumps(spec))


def _wait_until_it_serves(process: "subprocess.Popen[bytes]", directory: Path, log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while not list(directory.glob("*/broker")):
        if process.poll() is not None or time.monotonic() > deadline:
            raise ConformanceError(f"the broker does not serve\n{log.read_text(errors='replace')[-3000:]}")
        time.sleep(0.05)
