"""The broker's verbs about templates. See `verbs`."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class DefineTemplate:
    """Make a template, or with `replace` another of that name, for claims from now on. Answer: TemplateDefined.

    Only for the broker's own user. The fields are those of `template_shape.DEFINITION`.
    """

    name: str
    replace: bool
    description: str
    limits: dict[str, float]
    preload: tuple[str, ...]
    environment: dict[str, str] = field(repr=False)
    min_idle: int
    max_total: int
    start: str


@dataclass(frozen=True, kw_only=True)
class TemplateDefined:
    """It counts, and will for the brokers that come; `is_new` when there was none of that name."""

    is_new: bool


@dataclass(frozen=True, kw_only=True)
class DeleteTemplate:
    """Forget a template that was defined; its sandboxes live on. Only for the broker's own user. Answer: Done."""

    name: str


@dataclass(frozen=True, kw_only=True)
class GetTemplate:
    """Ask for one template. Answer: TemplateReport."""

    name: str


@dataclass(frozen=True, kw_only=True)
class TemplateReport:
    """What everybody may know of a template: of variables the names, of shares where they show inside."""

    name: str
    description: str
    is_fixed: bool
    """Whether it is one of the operator's files, or built in."""
    limits: dict[str, float]
    preload: tuple[str, ...]
    environment: tuple[str, ...]
    shares: tuple[str, ...]
    egress: tuple[str, ...]
    min_idle: int
    max_total: int
    start: str


@dataclass(frozen=True, kw_only=True)
class ListTemplates:
    """List the templates whose name is greater than `after`, in order. Answer: TemplateListing."""

    after: str


@dataclass(frozen=True, kw_only=True)
class TemplateListing:
    """A page of templates; `more` when there are others after the last."""

    templates: tuple[TemplateReport, ...]
    more: bool


REQUESTS = (DefineTemplate, DeleteTemplate, GetTemplate, ListTemplates)
ANSWERS = (TemplateDefined, TemplateReport, TemplateListing)
