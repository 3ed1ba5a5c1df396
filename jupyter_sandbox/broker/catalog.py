"""The templates of a broker: those of the operator's files, which never change, and those defined while it runs.

What is defined counts for the next claim. Sandboxes that live keep what they were made from; only warm workers, which
are nobody's yet, are given up with the template that they were made for.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

from jupyter_sandbox import template_shape, templates
from jupyter_sandbox.broker import template_verbs
from jupyter_sandbox.errors import ConflictError, TemplateError
from jupyter_sandbox.host import tasks
from sandbox_worker import messages

if TYPE_CHECKING:
    from jupyter_sandbox.broker.sandbox import Sandbox
    from jupyter_sandbox.engines import Engine
    from jupyter_sandbox.pool import Pool
    from jupyter_sandbox.specs import Ceiling, EgressRule, Template
    from jupyter_sandbox.template_store import TemplateStore

MAX_DEFINED: Final = 100
_PAGE_BYTES: Final = messages.MAX_MESSAGE_BYTES // 2
_SHOWN: Final = 64
"""Of each list of a template; an operator's file may hold more than a message takes."""
_SHOWN_TEXT: Final = 200

log = logging.getLogger(__name__)


class Catalog:
    """All templates of one broker."""

    def __init__(
        self,
        known: dict[str, Template],
        *,
        store: TemplateStore,
        ceiling: Ceiling,
        pool: Pool[Sandbox],
        engine: Engine,
    ) -> None:
        """`known` are the operator's templates; from now on it holds the defined ones as well."""
        self._known = known
        self._fixed = frozenset(known)
        self._store = store
        self._ceiling = ceiling
        self._pool = pool
        self._engine = engine
        self._changing = asyncio.Lock()

    def load(self) -> None:
        """Take what earlier brokers were told; the operator's templates win. Blocking."""
        for template in self._store.load(self._ceiling):
            if self._known.setdefault(template.name, template) is not template:
                log.warning("the template %s that was defined is hidden by one of the configuration", template.name)

    def page(self, after: str) -> template_verbs.TemplateListing:
        """Return the templates that follow `after` by name, as many as one message takes."""
        found: list[template_verbs.TemplateReport] = []
        size = 0
        for name in sorted(name for name in self._known if name > after):
            report = self.report(name)
            size += len(messages.encode(report))
            if found and size > _PAGE_BYTES:
                return template_verbs.TemplateListing(templates=tuple(found), more=True)
            found.append(report)
        return template_verbs.TemplateListing(templates=tuple(found), more=False)

    def report(self, name: str) -> template_verbs.TemplateReport:
        """Return what everybody may know of a template. Raises UnknownTemplateError."""
        template = templates.find(self._known, name)
        return template_verbs.TemplateReport(
            name=template.name,
            description=template.description[:_SHOWN_TEXT],
            is_fixed=template.name in self._fixed,
            limits={key: float(value) for key, value in asdict(template.limits).items()},
            preload=tuple(module[:_SHOWN_TEXT] for module in template.preload[:_SHOWN]),
            environment=tuple(variable for variable, _ in template.environment[:_SHOWN]),
            shares=tuple(share.target[:_SHOWN_TEXT] for share in template.shares[:_SHOWN]),
            egress=tuple(_words(rule) for rule in template.policy.egress[:_SHOWN]),
            min_idle=template.min_idle,
            max_total=template.max_total,
            start=str(template.start),
        )

    async def define(self, request: template_verbs.DefineTemplate) -> template_verbs.TemplateDefined:
        """Make a template, or replace one that was defined. Raises SandboxError; it is as before then."""
        template = template_shape.judge(request.name, _values(request), self._ceiling)
        async with self._changing:
            self._refuse_fixed(template.name)
            before = self._known.get(template.name)
            if before is not None and not request.replace:
                raise ConflictError(f"template {template.name} exists")
            if before is None and len(self._known) - len(self._fixed) >= MAX_DEFINED:
                raise ConflictError(f"{MAX_DEFINED} templates are defined; delete one that is not needed")
            try:
                await tasks.whole(asyncio.to_thread(self._store.write, template))
            except OSError as error:
                raise TemplateError(f"template {template.name} could not be kept: {error.strerror}") from error
            self._known[template.name] = template
            if before is not None and before != template:
                await self._give_up(before)
        log.info("template %s is %s", template.name, "defined" if before is None else "replaced")
        return template_verbs.TemplateDefined(is_new=before is None)

    async def delete(self, name: str) -> None:
        """Forget a template that was defined. Raises SandboxError; it is as before then."""
        async with self._changing:
            template = templates.find(self._known, name)
            self._refuse_fixed(name)
            try:
                await tasks.whole(asyncio.to_thread(self._store.remove, name))
            except OSError as error:
                raise TemplateError(f"template {name} could not be forgotten: {error.strerror}") from error
            del self._known[name]
            await self._give_up(template)
        log.info("template %s is deleted", name)

    def _refuse_fixed(self, name: str) -> None:
        if name in self._fixed:
            raise ConflictError(f"template {name} is one of the configuration: it is changed there")

    async def rest(self, kept: Template) -> None:
        """Nobody needs anything: keep ready only what a broker that has just begun keeps, workers of `kept`."""
        for template in self._pool.templates():
            if template != kept:
                log.info("nobody asks for template %s: nothing is kept ready for it", template.name)
                await self._give_up(template)

    async def _give_up(self, template: Template) -> None:
        await self._pool.forget(template)
        await self._engine.forget(template)


def _values(request: template_verbs.DefineTemplate) -> dict[str, object]:
    values = {name: getattr(request, name) for name in template_shape.DEFINITION.fields}
    return values | {"preload": list(request.preload)}


def _words(rule: EgressRule) -> str:
    ports = f"{rule.first_port}-{rule.last_port}" if rule.last_port != rule.first_port else f"{rule.first_port}"
    return f"{rule.to} {rule.protocol} {ports}"
