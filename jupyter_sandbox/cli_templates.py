"""`jupyter sandbox template`: show templates, and define those that need no file of the operator's."""

from __future__ import annotations

import json
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox import template_service, template_shape, terminal
from jupyter_sandbox.errors import InvalidRequestError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable

_EPILOG: Final = """\
A template is a TOML file as in the broker's configuration, without [network] and [[shares]]:

    description = "Python for data work"
    preload = ["numpy", "pandas"]
    min_idle = 2
    [limits]
    memory_mib = 4096
"""


def declare(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add the command; `add` takes name, function and summary."""
    command = add("template", _list, "Show the templates that sandboxes are made from, define and delete some.")
    actions = command.add_subparsers(dest="action", required=True, metavar="ACTION")

    def act(name: str, run: object, summary: str, **more: Any) -> argparse.ArgumentParser:
        action: argparse.ArgumentParser = actions.add_parser(name, help=summary, description=summary, **more)
        action.set_defaults(run=run)
        return action

    action = act("list", _list, "Show all templates.")
    action.add_argument("--json", action="store_true", help="print JSON instead of a table")

    action = act("show", _show, "Show all that may be known of one template, as JSON.")
    action.add_argument("name", metavar="NAME", help="as shown by `list`")

    action = act(
        "create",
        _create,
        "Define a template for sandboxes from now on; it stays when the broker ends.",
        epilog=_EPILOG,
        formatter_class=terminal.Help,
    )
    action.add_argument("name", metavar="NAME", help="lower-case letters, digits and `-`, at most 40")
    action.add_argument("file", metavar="FILE", help="what it is, in TOML; `-` reads it from standard input")
    action.add_argument("--replace", action="store_true", help="in place of one that was defined before")

    action = act("delete", _delete, "Forget a template that was defined. Its sandboxes live on.")
    action.add_argument("name", metavar="NAME", help="as shown by `list`")


async def _list(options: argparse.Namespace) -> int:
    found = await template_service.listing()
    if options.json:
        print(json.dumps([vars(report) for report in found], indent=2))
        return 0
    print(f"{'NAME':22}{'FROM':15}{'MEMORY':>10}{'CPUS':>7}{'DISK':>11}{'IDLE':>6}{'TOTAL':>7}  DESCRIPTION")
    for report in found:
        origin = "configuration" if report.is_fixed else "definition"
        memory, disk = (f"{report.limits[name]:.0f} MiB" for name in ("memory_mib", "disk_mib"))
        counts = f"{report.limits['cpus']:>7g}{disk:>11}{report.min_idle:>6}{report.max_total:>7}"
        print(f"{report.name:22}{origin:15}{memory:>10}{counts}  {terminal.line(report.description)}")
    return 0


async def _show(options: argparse.Namespace) -> int:
    print(json.dumps(vars(await template_service.get(options.name)), indent=2))
    return 0


async def _create(options: argparse.Namespace) -> int:
    definition = template_shape.DEFINITION.judge(_values(options.file), options.file)
    is_new = await template_service.define(options.name, definition, replace=options.replace)
    print(f"{options.name} {'defined' if is_new else 'replaced'}")
    return 0


def _values(file: str) -> dict[str, Any]:
    try:
        return tomllib.loads(sys.stdin.read() if file == "-" else Path(file).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InvalidRequestError(f"{file}: {error}") from error


async def _delete(options: argparse.Namespace) -> int:
    await template_service.delete(options.name)
    print(f"{options.name} deleted")
    return 0
