"""What REST operations on templates answer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jupyter_sandbox import events, owners, template_service
from jupyter_sandbox.surfaces.native import template_models
from jupyter_sandbox.surfaces.native.answers import ROOT, Answer

if TYPE_CHECKING:
    from jupyter_sandbox.services import Services
    from jupyter_sandbox.surfaces.native.answers import Call


async def list_templates(_: Services, __: Call) -> Answer:
    """All templates."""
    found = await template_service.listing()
    return Answer(model={"templates": [template_models.template(report) for report in found]})


async def get_template(_: Services, call: Call) -> Answer:
    """One template."""
    return Answer(model=template_models.template(await template_service.get(*call.ids)))


async def put_template(services: Services, call: Call) -> Answer:
    """The template as it is now."""
    owners.require_operator(call.owner)
    (name,) = call.ids
    is_new = await template_service.define(name, call.body, replace=True)
    services.emit(events.TemplateDefined(owner=call.owner, template=name, is_new=is_new))
    model = template_models.template(await template_service.get(name))
    return Answer(model=model, location=f"{ROOT}/templates/{name}" if is_new else None, status=201 if is_new else 200)


async def delete_template(services: Services, call: Call) -> Answer:
    """Nothing, when it is forgotten."""
    owners.require_operator(call.owner)
    (name,) = call.ids
    await template_service.delete(name)
    services.emit(events.TemplateDeleted(owner=call.owner, template=name))
    return Answer()
