"""The rows of the table of operations that are about templates.

They are below the sandboxes' own root, where no id can be in the way: an id of a sandbox begins with `sbx_`.
"""

from __future__ import annotations

from typing import Final

from jupyter_sandbox import errors
from jupyter_sandbox.surfaces.native import template_answers
from jupyter_sandbox.surfaces.native.answers import ROOT
from jupyter_sandbox.surfaces.native.operation import Operation
from jupyter_sandbox.template_shape import DEFINITION

_TEMPLATES: Final = f"{ROOT}/templates"
_TEMPLATE: Final = f"{_TEMPLATES}/{{template}}"
_BROKER: Final = (errors.BrokerUnavailableError, errors.IsolationUnavailableError)

ROWS: Final = (
    Operation(
        name="list_templates",
        method="GET",
        path=_TEMPLATES,
        summary="The templates that sandboxes can be claimed from.",
        serve=template_answers.list_templates,
        model="Templates",
        refusals=_BROKER,
    ),
    Operation(
        name="get_template",
        method="GET",
        path=_TEMPLATE,
        summary="One template.",
        serve=template_answers.get_template,
        model="Template",
        refusals=(errors.UnknownTemplateError, *_BROKER),
    ),
    Operation(
        name="put_template",
        method="PUT",
        path=_TEMPLATE,
        summary="Define a template, or replace one that was defined, for claims from now on. For operators.",
        serve=template_answers.put_template,
        status=201,
        model="Template",
        action="write",
        body=DEFINITION,
        others={200: "Template"},
        refusals=(errors.ConflictError, errors.TemplateError, *_BROKER),
    ),
    Operation(
        name="delete_template",
        method="DELETE",
        path=_TEMPLATE,
        summary="Forget a template that was defined; its sandboxes live on. For operators.",
        serve=template_answers.delete_template,
        status=204,
        action="write",
        refusals=(errors.UnknownTemplateError, errors.ConflictError, errors.TemplateError, *_BROKER),
    ),
)
