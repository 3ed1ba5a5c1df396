"""`jupyter sandbox`: look at sandboxes, run something in one, mend what was left, ask what this machine can do."""

from __future__ import annotations

import argparse
import asyncio
import functools
import json
import math
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from jupyter_core.paths import jupyter_runtime_dir

from jupyter_sandbox import (
    cli_certificate,
    cli_files,
    cli_languages,
    cli_logs,
    cli_serve,
    cli_templates,
    cli_tokens,
    connection_files,
)
from jupyter_sandbox._version import __version__
from jupyter_sandbox.broker import client, verbs
from jupyter_sandbox.errors import BrokerUnavailableError, InvalidRequestError, SandboxError, UnknownSandboxError
from jupyter_sandbox.host import places
from jupyter_sandbox.languages import NAMES

if TYPE_CHECKING:
    from collections.abc import Sequence

KERNEL_NAME: Final = "sandbox-python"
_MIB: Final = 1 << 20


def main(argv: Sequence[str] | None = None) -> None:
    """Run a sub-command; exits with 0, with 1 when it failed, with 2 for wrong usage."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["broker"]:  # a Jupyter application with traits of its own
        from jupyter_sandbox.broker.app import main as broker

        sys.argv[0] = "jupyter sandbox broker"
        broker(arguments[1:])
        return
    options = _read(arguments)
    try:
        code = asyncio.run(options.run(options))
    except SandboxError as error:
        print(f"jupyter sandbox {options.command}: {error}", file=sys.stderr)
        code = 1
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)


def _read(arguments: list[str]) -> argparse.Namespace:
    """Return what the arguments say; what comes after the first `--` of `exec` is its command's, be it another `--`."""
    if arguments[:1] != ["exec"] or "--" not in arguments[:-1]:
        return _parser().parse_args(arguments)
    at = arguments.index("--")
    options = _parser().parse_args([*arguments[: at + 1], "its command"])
    before = [each for each in options.argv[:-1] if each != "--"]
    options.argv = [*before, *arguments[at if before else at + 1 :]]
    return options


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="jupyter sandbox",
        description="Jupyter kernels in isolated workers. Choose the kernel `Python 3 (sandbox)` "
        "in JupyterLab, or use one of these commands.",
        epilog="Every command has its own --help. "
        "`jupyter sandbox broker --help-all` lists all settings of the host side.",
    )
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    command = _add(commands, "list", _list, "Show the sandboxes that live now.")
    command.add_argument("--json", action="store_true", help="print JSON instead of a table")

    command = _add(commands, "run", _run, "Run code in a new sandbox, print what it prints, and destroy the sandbox.")
    code = command.add_mutually_exclusive_group(required=True)
    code.add_argument("file", metavar="FILE", nargs="?", help="a file with the code; `-` reads it from standard input")
    code.add_argument("-c", "--code", metavar="CODE", help="the code itself")
    command.add_argument("--kernel", default=KERNEL_NAME, help="kernelspec to use (default: %(default)s)")
    command.add_argument("--timeout", type=_seconds, default=None, metavar="SECONDS", help="give up after so long")

    command = _add(commands, "exec", _exec, "Run a command in a sandbox that lives; its exit status becomes ours.")
    command.add_argument("sandbox", metavar="ID", help="id as shown by `list`")
    command.add_argument("-i", "--stdin", action="store_true", help="let it read our standard input")
    command.add_argument("-t", "--terminal", action="store_true", help="give it a terminal, which ours shows")
    command.add_argument("-C", "--cwd", metavar="DIRECTORY", help="where to start it, inside the sandbox")
    command.add_argument(
        "-e", "--env", action="append", default=[], type=_variable, metavar="NAME=VALUE", help="an environment variable"
    )
    command.add_argument("argv", nargs="+", metavar="ARGUMENT", help="after `--`: the program and its arguments")

    for part in (cli_serve, cli_certificate, cli_files, cli_logs, cli_templates, cli_languages):
        part.declare(functools.partial(_add, commands))

    command = _add(commands, "release", _release, "Destroy sandboxes; their kernels die and their files are gone.")
    command.add_argument("sandbox", nargs="*", metavar="ID", help="ids as shown by `list`")
    command.add_argument("--all", action="store_true", help="all sandboxes of yours")

    command = _add(commands, "reap", _reap, "Destroy what crashes left behind and nobody owns.")
    command.add_argument("--dry-run", action="store_true", help="only say what that is")

    _add(commands, "status", _status, "Show the broker: engine, templates, warm and claimed sandboxes.")

    command = _add(commands, "doctor", _doctor, "Say what this machine can do, what is missing, and how to mend it.")
    command.add_argument("--quick", action="store_true", help="do not start a sandbox to prove it")
    command.add_argument("--json", action="store_true", help="print JSON instead of text")

    command = _add(commands, "image", _image, "Make the image that workers of the engine `docker` run.")
    command.add_argument("action", choices=["build"], help="build it, or build it again after an upgrade")
    command.add_argument("--base", default="", help="image to start from, or `debian`; see docs/docker.md")
    command.add_argument("--suite", default="", help="Debian release whose packages make a base where none can be had")
    command.add_argument(
        "--ca", default="", metavar="FILE", help="certificates that the build trusts; not in the image"
    )
    command.add_argument("--tag", default="", help="name of the image; the broker's trait docker_image names it, too")
    command.add_argument(
        "--language",
        dest="languages",
        action="append",
        default=[],
        choices=NAMES,
        help="what its kernels shall speak besides Python; may be given more than once",
    )

    cli_tokens.add(commands)

    commands.add_parser(
        "broker", help="Run the privileged host process in the foreground (it normally starts by itself)."
    )
    return parser


def _add(commands: Any, name: str, run: Any, summary: str) -> argparse.ArgumentParser:
    command = cast("argparse.ArgumentParser", commands.add_parser(name, help=summary, description=summary))
    command.set_defaults(run=run)
    return command


async def _list(options: argparse.Namespace) -> int:
    rows = await _sandboxes()
    if options.json:
        print(json.dumps([vars(row) for row in rows], indent=2))
        return 0
    if not rows:
        print("No sandboxes.")
        return 0
    print(f"{'ID':26}{'TEMPLATE':12}{'AGE':>9}{'KERNELS':>9}{'MEMORY':>11}{'DISK':>18}")
    for row in rows:
        age_s = int((datetime.now(UTC) - datetime.fromisoformat(row.created_at)).total_seconds())
        disk = f"{row.disk_bytes // _MIB}/{row.disk_total_bytes // _MIB} MiB"
        memory = f"{row.memory_bytes // _MIB} MiB"
        columns = f"{row.sandbox:26}{row.template:12}{_age(age_s):>9}{len(row.kernels):>9}{memory:>11}{disk:>18}"
        print(columns + ("  paused" if row.paused else ""))
    return 0


async def _sandboxes() -> list[verbs.Summary]:
    """Return all visible sandboxes; none when no broker runs."""
    rows: list[verbs.Summary] = []
    try:
        while True:
            page = await client.call(verbs.List(after=rows[-1].sandbox if rows else ""), verbs.Listing, start=False)
            rows += page.sandboxes
            if not page.more:
                return rows
    except BrokerUnavailableError as error:
        if not error.is_absent:
            raise
        return rows


async def _run(options: argparse.Namespace) -> int:
    from jupyter_sandbox.run_code import run_code

    code = options.code if options.code is not None else _text(options.file)
    return await run_code(code, kernel_name=options.kernel, timeout_s=options.timeout)


def _text(file: str) -> str:
    try:
        return sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise InvalidRequestError(f"there is no file {file[:200]!r}; code itself is given with -c") from error
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"{file}: {error}") from error


async def _exec(options: argparse.Namespace) -> int:
    from jupyter_sandbox.run_command import Wanted, run_command

    if options.terminal and not sys.stdin.isatty():
        print("jupyter sandbox exec: -t needs a terminal as standard input", file=sys.stderr)
        return 2
    wanted = Wanted(
        sandbox=options.sandbox,
        argv=tuple(options.argv),
        cwd=options.cwd,
        env=dict(options.env),
        with_input=options.stdin,
        with_terminal=options.terminal,
    )
    return await run_command(wanted)


async def _release(options: argparse.Namespace) -> int:
    if bool(options.sandbox) == options.all:
        print("jupyter sandbox release: name sandboxes, or use --all", file=sys.stderr)
        return 2
    chosen = [row.sandbox for row in await _sandboxes()] if options.all else options.sandbox
    status = 0
    for sandbox in chosen:
        try:
            await client.call(verbs.Release(sandbox=sandbox), verbs.Done, start=False)
            print(f"{sandbox} released")
        except UnknownSandboxError as error:
            if not options.all:  # else it ended by itself meanwhile
                print(f"jupyter sandbox release: {error}", file=sys.stderr)
                status = 1
    return status


async def _reap(options: argparse.Namespace) -> int:
    reaped = await client.call(verbs.Reap(dry_run=options.dry_run), verbs.Reaped)
    verb = "would be destroyed" if options.dry_run else "destroyed"
    files = list(connection_files.stale(Path(jupyter_runtime_dir()), places.find().run / "k"))
    for path in files:
        if not options.dry_run:
            path.unlink(missing_ok=True)
    found = [*reaped.found, *(f"connection file {path.name}" for path in files)]
    for what in found:
        print(f"{what}: {verb}")
    if not found:
        print("Nothing was left behind.")
    return 0


async def _status(_options: argparse.Namespace) -> int:
    try:
        status = await client.call(verbs.Status(), verbs.StatusReport, start=False)
    except BrokerUnavailableError as error:
        if not error.is_absent:
            raise
        words = str(error)
        print(" ".join([f"{words[0].upper()}{words[1:]}.", *_log()]))
        return 0
    print(f"broker {status.version}, pid {status.pid}, engine {status.engine}")
    print(f"templates: {', '.join(status.templates)}")
    print(f"languages: {', '.join(status.languages)}")
    print(f"sandboxes: {status.claimed} claimed, {status.warm} warm")
    for workers in status.workers:
        if workers.starts != "closed":
            print(f"template {workers.name}: its sandboxes do not start, claims are refused; see the broker's log")
    for note in status.notes:
        print(f"- {note}")
    for told in _log():
        print(told)
    return 0


def _log() -> tuple[str, ...]:
    log = places.own_log()
    return (f"The log of brokers in the background: {log}",) if log else ()


async def _doctor(options: argparse.Namespace) -> int:
    from jupyter_sandbox import doctor

    findings = await doctor.examine(prove=not options.quick)
    if options.json:
        print(json.dumps([vars(finding) for finding in findings], indent=2))
    else:
        print(doctor.render(findings))
    return 1 if doctor.is_fatal(findings) else 0


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is no number of seconds above 0")
    return seconds


def _variable(text: str) -> tuple[str, str]:
    name, is_set, value = text.partition("=")
    if not name or not is_set:
        raise argparse.ArgumentTypeError(f"{text!a} is not NAME=VALUE")
    return name, value


async def _image(options: argparse.Namespace) -> int:
    from jupyter_sandbox import image_build

    named = {"base": options.base, "suite": options.suite, "certificates": options.ca, "tag": options.tag}
    plan = image_build.Plan(languages=tuple(options.languages), **{key: value for key, value in named.items() if value})
    await asyncio.to_thread(image_build.main, plan)
    return 0


def _age(seconds: int) -> str:
    hours, rest = divmod(max(0, seconds), 3600)
    return f"{hours}h{rest // 60:02}m" if hours else f"{rest // 60}m{rest % 60:02}s"


if __name__ == "__main__":
    main()
