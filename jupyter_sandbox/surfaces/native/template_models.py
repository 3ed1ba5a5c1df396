"""How templates look as JSON, with the schemas of that. What a request may define is `template_shape`'s business."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox.specs import KernelStart
from jupyter_sandbox.surfaces.native import schemas
from jupyter_sandbox.template_shape import LIMITS

if TYPE_CHECKING:
    from jupyter_sandbox.broker.template_verbs import TemplateReport
    from jupyter_sandbox.guards.shapes import Schema

_CONFIGURATION: Final = "configuration"
_DEFINED: Final = "defined"
_TEXTS: Final[Schema] = {"type": "array", "items": schemas.TEXT}


def template(report: TemplateReport) -> dict[str, Any]:
    """A template."""
    return {
        "name": report.name,
        "description": report.description,
        "origin": _CONFIGURATION if report.is_fixed else _DEFINED,
        "limits": {name: value if name == "cpus" else int(value) for name, value in report.limits.items()},
        "preload": list(report.preload),
        "environment": list(report.environment),
        "shares": list(report.shares),
        "egress": list(report.egress),
        "min_idle": report.min_idle,
        "max_total": report.max_total,
        "start": report.start,
    }


SCHEMAS: Final[dict[str, Schema]] = {
    "Template": schemas.record(
        name=schemas.TEXT,
        description=schemas.TEXT,
        origin={"enum": [_CONFIGURATION, _DEFINED]},
        limits=schemas.record(**{name: {"type": "number"} if name == "cpus" else schemas.COUNT for name in LIMITS}),
        preload=_TEXTS,
        environment=_TEXTS | {"description": "Names of variables."},
        shares=_TEXTS | {"description": "Where directories of the host show inside."},
        egress=_TEXTS | {"description": "What its network reaches."},
        min_idle=schemas.COUNT,
        max_total=schemas.COUNT,
        start={"enum": [str(start) for start in KernelStart]},
    ),
    "Templates": schemas.record(templates=schemas.list_of("Template")),
}
