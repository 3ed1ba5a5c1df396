"""What one sandbox gets less of than its template allows: judged, and applied to its limits. Pure."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Final

from jupyter_sandbox.errors import ConflictError, InvalidRequestError

if TYPE_CHECKING:
    from jupyter_sandbox.specs import Less, Limits

LEAST: Final[dict[str, float]] = {"memory_mib": 64, "cpus": 0.01, "processes": 32, "open_files": 64}
"""With less, not even an empty kernel starts."""


def shown(less: Less) -> dict[str, float]:
    """Return what there is less of, and how much there is then."""
    return {name: value for name, value in asdict(less).items() if value is not None}


def narrowed(limits: Limits, less: Less, template: str) -> Limits:
    """Return the limits that are left of those of `template`.

    Raises InvalidRequestError for a value with which nothing works, ConflictError for more than the template allows.
    """
    asked = shown(less)
    for name, value in asked.items():
        most = getattr(limits, name)
        if not value >= LEAST[name]:  # so that NaN is none either
            raise InvalidRequestError(f"{name} is {value}, and a kernel needs at least {LEAST[name]}")
        if value > most:
            raise ConflictError(f"{name} is {value}, and template {template} allows at most {most}")
    return lowered(limits, less)


def lowered(limits: Limits, less: Less) -> Limits:
    """Return the limits that are left, whatever they are."""
    return replace(limits, **shown(less))  # type: ignore[arg-type] # cpus alone is no whole number
