"""What a template may be that is defined while the broker runs: less than a file of the operator's may say.

Such a template keeps to the operator's ceiling, and has nothing that reaches out of a sandbox: no shared directories of
the host, no network. The same shape judges it in the server, in the command line, in the broker, and when it is read
from the disk. Pure.
"""

from __future__ import annotations

from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox.errors import ConflictError, InvalidRequestError
from jupyter_sandbox.guards import ids
from jupyter_sandbox.guards.shapes import NAME, Choice, Field, Items, Number, Record, Table, Text, Whole
from jupyter_sandbox.narrowing import LEAST
from jupyter_sandbox.specs import Ceiling, KernelStart, Less, Limits, Template

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jupyter_sandbox.guards.shapes import Shape

ENVIRONMENT: Final = Table(
    names=Text(min_length=1, max_length=128, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$"),
    values=Text(max_length=4096),
    max_entries=64,
    max_characters=8192,
)
_LARGEST: Final = (1 << 32) - 1
_MODULE: Final = Text(min_length=1, max_length=100, pattern=r"^[A-Za-z_][A-Za-z0-9_]*(\.[A-Za-z_][A-Za-z0-9_]*)*$")
_SUMMARIES: Final = {
    "memory_mib": "Memory, MiB.",
    "cpus": "Processor time, in processors.",
    "processes": "Processes and threads together.",
    "open_files": "Open files of one process.",
    "disk_mib": "Disk, MiB.",
    "disk_inodes": "Files and directories of the disk.",
    "tmp_mib": "Size of /tmp, MiB; it counts against the memory.",
    "shm_mib": "Size of /dev/shm, MiB; likewise.",
}
_DEFAULT: Final = Template(name="default")


def _amount(name: str, least: float) -> Shape:
    return Number(minimum=least, maximum=4096) if name == "cpus" else Whole(minimum=int(least), maximum=_LARGEST)


def _less(name: str) -> Field:
    return Field(shape=_amount(name, LEAST[name]), summary=_SUMMARIES[name], default=None)


LESS: Final = Record(name="LowerLimits", build=Less, fields={each.name: _less(each.name) for each in fields(Less)})
"""Limits of a claim."""


def _limit(name: str) -> Field:
    shape = _amount(name, LEAST["cpus"] if name == "cpus" else 1)
    return Field(shape=shape, summary=_SUMMARIES[name], default=getattr(_DEFAULT.limits, name))


LIMITS: Final = {each.name: _limit(each.name) for each in fields(Limits)}
DEFINITION: Final = Record(
    name="TemplateDefinition",
    fields={
        "description": Field(shape=Text(max_length=200, pattern=NAME), summary="One line for people.", default=""),
        "limits": Field(
            shape=Record(name="Limits", fields=LIMITS),
            summary="Caps of each sandbox.",
            default={},
        ),
        "preload": Field(
            shape=Items(shape=_MODULE, min_items=0, max_items=32),
            summary="Modules that are imported once, before kernels are forked.",
            default=(),
        ),
        "environment": Field(shape=ENVIRONMENT, summary="Variables of every kernel; never shown again.", default={}),
        "min_idle": Field(
            shape=Whole(minimum=0, maximum=1000), summary="Warm workers to keep ready.", default=_DEFAULT.min_idle
        ),
        "max_total": Field(
            shape=Whole(minimum=1, maximum=60_000),
            summary="Workers that may exist at once, warm ones included.",
            default=_DEFAULT.max_total,
        ),
        "start": Field(
            shape=Choice(tuple(KernelStart)),
            summary="How Python kernels start: by a fork, or slower by exec, which shares nothing with other kernels.",
            default=str(_DEFAULT.start),
        ),
    },
)


def judge(name: str, value: object, ceiling: Ceiling, where: str = "the template") -> Template:
    """Return the template that `value`, a JSON object, defines.

    Raises InvalidRequestError; ConflictError when it is above the ceiling.
    """
    name = ids.template_name(name)
    values = DEFINITION.judge(value, where)
    template = Template(
        name=name,
        description=values["description"],
        limits=Limits(**values["limits"]),
        preload=values["preload"],
        environment=tuple(sorted(values["environment"].items())),
        min_idle=values["min_idle"],
        max_total=values["max_total"],
        start=KernelStart(values["start"]),
    )
    for key, most in (asdict(ceiling.limits) | {"min_idle": ceiling.min_idle, "max_total": ceiling.max_total}).items():
        asked = getattr(template if hasattr(template, key) else template.limits, key)
        if asked > most:
            raise ConflictError(f"{key} is {asked:g}, and the operator of this host allows at most {most:g}")
    return template


def definition(template: Template) -> dict[str, Any]:
    """Return the JSON object that `judge` makes an equal template of."""
    values: dict[str, Any] = {name: getattr(template, name) for name in DEFINITION.fields}
    return values | {
        "limits": asdict(template.limits),
        "preload": list(template.preload),
        "environment": dict(template.environment),
        "start": str(template.start),
    }


def ceiling(values: Mapping[str, float]) -> Ceiling:
    """Return the usual ceiling but for these values. Raises InvalidRequestError."""
    usual, limits = Ceiling(), {each.name for each in fields(Limits)}
    own = {each.name for each in fields(Ceiling)} - {"limits"}
    for name, value in values.items():
        if name not in limits | own or not 0 <= value <= _LARGEST:
            raise InvalidRequestError(f"{name!a} is no limit, or its value is none; there are {sorted(limits | own)}")
    judged: dict[str, Any] = {name: value if name == "cpus" else int(value) for name, value in values.items()}
    raised = replace(usual.limits, **{name: value for name, value in judged.items() if name in limits})
    return replace(usual, limits=raised, **{name: value for name, value in judged.items() if name in own})
