"""The templates of the broker that serves this process, for whoever shows or changes them.

It knows no HTTP and no owners: who may change a template is decided by who calls, and by the broker once more, which
lets processes of its own user only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jupyter_sandbox.broker import client, template_verbs, verbs
from jupyter_sandbox.guards import ids

if TYPE_CHECKING:
    from collections.abc import Mapping


async def listing() -> list[template_verbs.TemplateReport]:
    """Return all templates, in the order of their names. Raises SandboxError."""
    found: list[template_verbs.TemplateReport] = []
    while True:
        request = template_verbs.ListTemplates(after=found[-1].name if found else "")
        page = await client.call(request, template_verbs.TemplateListing)
        found += page.templates
        if not page.more:
            return found


async def get(name: str) -> template_verbs.TemplateReport:
    """Return one template. Raises SandboxError."""
    return await client.call(template_verbs.GetTemplate(name=ids.template_name(name)), template_verbs.TemplateReport)


async def define(name: str, definition: Mapping[str, Any], *, replace: bool) -> bool:
    """Make a template of what `template_shape.DEFINITION` judged, for claims from now on; return whether it is new.

    Raises SandboxError; ConflictError when it is the operator's, or is there and nothing shall be replaced.
    """
    request = template_verbs.DefineTemplate(name=ids.template_name(name), replace=replace, **definition)
    return (await client.call(request, template_verbs.TemplateDefined)).is_new


async def delete(name: str) -> None:
    """Forget a template; its sandboxes live on. Raises SandboxError; ConflictError when it is the operator's."""
    await client.call(template_verbs.DeleteTemplate(name=ids.template_name(name)), verbs.Done)
