"""`jupyter sandbox serve`: a code interpreter for programs, with the options that its API's first server had.

It defines a template for the sandboxes, keeps a token in a file, and becomes a Jupyter server that runs nothing outside
sandboxes.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import secrets
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from jupyter_core.paths import jupyter_data_dir
from tornado import netutil

from jupyter_sandbox import certificates, template_service, template_shape, terminal
from jupyter_sandbox.errors import ConflictError, InvalidRequestError, TokenFileError
from jupyter_sandbox.guards import domains

if TYPE_CHECKING:
    from collections.abc import Callable

TEMPLATE: Final = "code-interpreter"
PORT: Final = 3874
CONFIG: Final = Path(__file__).with_name("serve_config.py")
_TOKEN_CHARACTERS: Final = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_")
_LEAST_TOKEN: Final = 16
_PREFIX: Final = "e2b_"
"""Some of E2B's SDKs take no key without it; for the others it is a token like any."""
_INODES: Final = 65_536
_INODES_PER_MIB: Final = 128
"""As many as twice the usual: on a small disk they would take more room than files."""
_PRELOADED: Final = ("numpy", "pandas", "matplotlib")
_EPILOG: Final = """\
Clients send the token in the header X-Auth-Token:

  curl -H "X-Auth-Token: TOKEN" -H "Content-Type: application/json" -d '{"code": "6 * 7"}' \\
    "http://127.0.0.1:3874/api/v1/execute?user_uuid=$(uuidgen)"

Programs for E2B run here with E2B_API_URL=http://127.0.0.1:3874/e2b, E2B_SANDBOX_URL=http://127.0.0.1:3874/e2b/sbx and
E2B_API_KEY=TOKEN, or with --domain by E2B_DOMAIN=DOMAIN:3874 and the token alone: docs/e2b.md.

/sandbox/try is a page to try it in a browser. All else that this package serves is there, too: JupyterLab, if it is
installed, Jupyter's own API, and /api/sandboxes, with `Authorization: token TOKEN`. Ctrl-C ends the server and every
sandbox that it started. The template `code-interpreter`, which sandboxes are made from, stays until the next start or
`jupyter sandbox template delete`. Settings of the Jupyter server can follow: jupyter sandbox serve -- --ServerApp...
"""


def declare(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command; `add` takes name, function and summary."""
    command = add("serve", _serve, "Serve a code interpreter over HTTP: a session for each user, idle workers at hand.")
    command.formatter_class = terminal.Help
    command.epilog = _EPILOG
    command.add_argument("--ip", default="127.0.0.1", metavar="ADDRESS", help="where to listen (default: %(default)s)")
    command.add_argument("--port", type=_port, default=PORT, help="(default: %(default)s)")
    command.add_argument(
        "--min-idle-workers", type=_whole(0), default=2, metavar="N", help="kept ready (default: %(default)s)"
    )
    command.add_argument(
        "--max-total-workers",
        type=_whole(1),
        default=8,
        metavar="N",
        help="the most, idle or busy (default: %(default)s)",
    )
    command.add_argument(
        "--worker-cpu", type=_positive, default=1.0, metavar="CPUS", help="processors of each (default: %(default)s)"
    )
    command.add_argument(
        "--worker-ram-mb", type=_whole(64), default=1024, metavar="MIB", help="memory of each (default: %(default)s)"
    )
    command.add_argument(
        "--worker-disk-mb", type=_whole(16), default=500, metavar="MIB", help="disk of each (default: %(default)s)"
    )
    command.add_argument(
        "--execution-timeout",
        type=_positive,
        default=120.0,
        metavar="SECONDS",
        help="code that takes longer loses its session (default: %(default)s)",
    )
    command.add_argument(
        "--idle-timeout",
        type=_positive,
        default=3600.0,
        metavar="SECONDS",
        help="a session that nobody uses for so long is given back (default: %(default)s)",
    )
    command.add_argument(
        "--token-file",
        type=Path,
        default=None,
        metavar="FILE",
        help="holds the token; made when it is not there (default: in Jupyter's data directory)",
    )
    command.add_argument(
        "--domain",
        default="",
        help="be there for E2B's SDKs at api.DOMAIN and PORT-ID.DOMAIN, which lead here; they speak TLS, to this "
        "server or to a proxy in front of it",
    )
    command.add_argument(
        "--certificate",
        type=Path,
        metavar="FILE",
        help="speak TLS, with this; `jupyter sandbox certificate` makes one for a domain",
    )
    command.add_argument("--key", type=Path, metavar="FILE", help="the certificate's key")
    command.add_argument("settings", metavar="SETTING", nargs="*", help="after `--`: settings of the Jupyter server")


async def _serve(options: argparse.Namespace) -> int:
    if options.min_idle_workers > options.max_total_workers:
        raise InvalidRequestError("--min-idle-workers is more than --max-total-workers")
    options.domain = domains.domain(options.domain) if options.domain else ""
    _require_tls(options)
    path = options.token_file or Path(jupyter_data_dir(), "code_interpreter_token")
    _require_free(options.ip, options.port)
    token = kept_token(path)
    await _define(options)
    host = _host(options.ip)
    scheme, host = ("https", options.domain or host) if options.certificate else ("http", host)
    url = f"{scheme}://{host}:{options.port}"
    print(f"Code interpreter: {url}/api/v1")
    print(f"X-Auth-Token: {token}   (kept in {path})")
    print(f"Page to try it: {url}/sandbox/try#token={token}", flush=True)
    if options.domain:
        port = f":{options.port}" if options.certificate else ""  # else a proxy's, which is the usual one
        print(f"E2B's SDKs: E2B_DOMAIN={options.domain}{port} E2B_API_KEY={token}", flush=True)
    _become_server(options, token)


def _require_tls(options: argparse.Namespace) -> None:
    """Raise InvalidRequestError for a certificate with which no server can start, or that clients would not take."""
    if (options.certificate is None) != (options.key is None):
        raise InvalidRequestError("--certificate and --key go together")
    if options.certificate is not None:
        certificates.require(options.certificate, options.key, options.domain)


async def _define(options: argparse.Namespace) -> None:
    """Define the template of the sandboxes, or replace it by what is wanted now."""
    values = {
        "description": "Sessions of the code interpreter",
        "limits": {
            "cpus": options.worker_cpu,
            "memory_mib": options.worker_ram_mb,
            "disk_mib": options.worker_disk_mb,
            "disk_inodes": min(_INODES, options.worker_disk_mb * _INODES_PER_MIB),
        },
        "preload": [name for name in _PRELOADED if importlib.util.find_spec(name)],
        "min_idle": options.min_idle_workers,
        "max_total": options.max_total_workers,
    }
    try:
        definition = template_shape.DEFINITION.judge(values, "the workers")
        await template_service.define(TEMPLATE, definition, replace=True)
    except ConflictError as error:
        raise ConflictError(f"{error}; BrokerApp.template_ceiling raises that") from error


def _require_free(address: str, port: int) -> None:
    """Raise ConflictError when somebody listens there: the server that does may use the template."""
    try:
        for each in netutil.bind_sockets(port, address.removeprefix("*")):
            each.close()
    except OSError as error:
        raise ConflictError(
            f"nobody can listen at {address}:{port}: {error.strerror or error}; --port takes another"
        ) from error


def _host(address: str) -> str:
    """Return the address for a URL."""
    if address in ("", "*"):
        return "localhost"
    return f"[{address}]" if ":" in address else address


def kept_token(path: Path) -> str:
    """Return the token that a file holds, made now if there is none. Raises TokenFileError."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except FileExistsError:
            return _known_token(path)
        token = _PREFIX + secrets.token_hex(32)
        with os.fdopen(descriptor, "w") as file:
            file.write(token + "\n")
        return token
    except OSError as error:
        raise TokenFileError(f"the token cannot be kept in {path}: {error.strerror}") from error


def _known_token(path: Path) -> str:
    with path.open("rb") as file:
        is_private = os.fstat(file.fileno()).st_mode & 0o077 == 0
        token = file.read(1024).decode("ascii", "replace").strip()
    if not is_private:
        raise TokenFileError(f"{path} can be read by others: chmod 600 it, or delete it for a new token")
    if len(token) < _LEAST_TOKEN or not set(token) <= _TOKEN_CHARACTERS:
        raise TokenFileError(
            f"{path} holds no token: at least {_LEAST_TOKEN} letters, digits, - and _; delete it for a new one"
        )
    return token


def _become_server(options: argparse.Namespace, token: str) -> NoReturn:
    """Go on as the server: it has our pid, so signals and supervisors find it."""
    arguments: list[Any] = [
        *(sys.executable, "-m", "jupyter_server", f"--config={CONFIG}"),
        *(f"--ServerApp.ip={options.ip}", f"--ServerApp.port={options.port}"),
        f"--CodeInterpreter.template={TEMPLATE}",
        f"--E2b.template={TEMPLATE}",
        f"--CodeInterpreter.execution_timeout_s={options.execution_timeout}",
        f"--CodeInterpreter.idle_timeout_s={options.idle_timeout}",
        *(("--allow-root",) if os.geteuid() == 0 else ()),
        *_named(options),
        *options.settings,
    ]
    os.execve(sys.executable, arguments, os.environ | {"JUPYTER_TOKEN": token})


def _named(options: argparse.Namespace) -> list[str]:
    """Return the settings of TLS, and of a domain, which may be asked for pages itself."""
    named = []
    if options.certificate is not None:
        named += [f"--ServerApp.certfile={options.certificate.absolute()}"]
        named += [f"--ServerApp.keyfile={options.key.absolute()}"]
    if options.domain:
        named += [f"--E2b.domain={options.domain}"]
        named += [f"--ServerApp.local_hostnames={name}" for name in ("localhost", options.domain)]
    return named


def _whole(least: int) -> Callable[[str], int]:
    def judge(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not least <= int(text[:12]) < 1 << 32:
            raise argparse.ArgumentTypeError(f"not a whole number of at least {least}: {text!r}")
        return int(text)

    return judge


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.01 <= value < 1e9:
        raise argparse.ArgumentTypeError(f"not a positive number: {text!r}")
    return value


def _port(text: str) -> int:
    value = _whole(1)(text)
    if value > 65535:
        raise argparse.ArgumentTypeError(f"not a port: {text!r}")
    return value
