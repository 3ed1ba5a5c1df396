"""Prints the table of operations as an OpenAPI 3.1 document. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox import errors
from jupyter_sandbox._version import __version__
from jupyter_sandbox.guards import paths
from jupyter_sandbox.guards.shapes import REQUIRED
from jupyter_sandbox.surfaces.native import command_models, models
from jupyter_sandbox.web import FILE, Form

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jupyter_sandbox.surfaces.native.operation import Operation

_LINKED: Final[dict[str, dict[str, str]]] = {
    "Sandbox": {"sandbox_id": "id"},
    "Context": {"sandbox_id": "sandbox_id", "context_id": "id"},
    "Template": {"template": "name"},
    "File": {"sandbox_id": "sandbox_id", "path": "path"},
    "NewSandboxToken": {"sandbox_id": "sandbox_id", "token_id": "id"},
    "Command": {"sandbox_id": "sandbox_id", "command_id": "id"},
    "Execution": {"sandbox_id": "sandbox_id", "context_id": "context_id", "execution_id": "id"},
}
"""Which field of a new object is which part of the paths below it."""
_ALWAYS: Final = (
    errors.InvalidRequestError,
    errors.ForbiddenError,
    errors.TokenError,
    errors.ScopeError,
    errors.BodyTooLargeError,
    errors.RateError,
)


def document(operations: Sequence[Operation], base_url: str) -> dict[str, Any]:
    """Return the document; `base_url` is where the server serves."""
    paths: dict[str, Any] = {}
    for operation in operations:
        item = paths.setdefault(operation.path, _path_item(operation.path))
        item[operation.method.lower()] = _operation(operation, operations)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "jupyter-sandbox",
            "version": __version__,
            "description": "Sandboxes; files, commands, contexts in them; executions in these. A context is a kernel.",
        },
        "servers": [{"url": base_url.rstrip("/") or "/"}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": models.SCHEMAS
            | command_models.SCHEMAS
            | {each.body.name: each.body.schema() for each in operations if each.body},
            "securitySchemes": {
                "token": {
                    "type": "apiKey",
                    "in": "header",
                    "name": "Authorization",
                    "description": "`token` and the server's token, as for all of Jupyter's API, or an issued one.",
                }
            },
        },
    }


def _path_item(path: str) -> dict[str, Any]:
    names = _names(path)
    if not names:
        return {}
    schema = {"type": "string", "minLength": 1}
    parameters: list[dict[str, Any]] = [
        {"name": name, "in": "path", "required": True, "schema": schema} for name in names
    ]
    for parameter in parameters:
        if parameter["name"] == "path":
            parameter["schema"] = schema | {"pattern": paths.ONE_LINE}
            parameter["description"] = "A path below /sandbox, percent-encoded once; slashes may stay. Empty: /sandbox."
        elif parameter["name"] == "template":
            parameter["schema"] = models.TEMPLATE.schema()
    return {"parameters": parameters}


def _operation(operation: Operation, all_operations: Sequence[Operation]) -> dict[str, Any]:
    printed: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "responses": _responses(operation, all_operations),
    }
    parameters = _parameters(operation)
    if parameters:
        printed["parameters"] = parameters
    if operation.body is not None:
        schema = {"$ref": f"#/components/schemas/{operation.body.name}"}
        is_required = (
            any(each.default is REQUIRED for each in operation.body.fields.values()) or operation.body.needs_one
        )
        printed["requestBody"] = {"required": is_required, "content": {str(Form.JSON): {"schema": schema}}}
    if operation.takes_file:
        printed["requestBody"] = {"required": False, "content": {FILE: {}}}
    if operation.resource is None:
        printed["security"] = []
    return printed


def _parameters(operation: Operation) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for name, each in operation.query.fields.items() if operation.query else ():
        schema = each.shape.schema()
        if name in models.REPEATABLE:
            schema = {"type": "array", "items": schema, "maxItems": models.MAX_REPEATED}
        found.append({"name": name, "in": "query", "required": False, "description": each.summary, "schema": schema})
    if operation.takes_key:
        found.append(
            {
                "name": models.KEY_HEADER,
                "in": "header",
                "required": False,
                "description": "The same key gives the same object; other arguments with it are a conflict.",
                "schema": models.KEY.schema(),
            }
        )
    for name, is_wanted, description, schema in (
        ("If-None-Match", operation.takes_file, "*: do not replace what is there.", {"type": "string", "enum": ["*"]}),
        (
            "Range",
            operation.gives_file,
            "With download=1: one range of bytes; others are not obeyed.",
            {"type": "string"},
        ),
    ):
        if is_wanted:
            found.append(
                {"name": name, "in": "header", "required": False, "description": description, "schema": schema}
            )
    return found


def _responses(operation: Operation, all_operations: Sequence[Operation]) -> dict[str, Any]:
    found: dict[str, dict[str, Any]] = {str(operation.status): _success(operation, operation.model)}
    for status, model in operation.others.items():
        found[str(status)] = _success(operation, model, may_stream=False)
    if operation.gives_file:
        found["200"]["content"][FILE] = {}
        found["206"] = {"description": "A range of the file.", "content": {FILE: {}}}
    for made in {"201", "202"} & set(found):
        found[made]["links"] = _links(operation.model or "", all_operations)
    kinds = _ALWAYS if operation.resource else ()
    for kind in (*kinds, *operation.refusals, errors.SandboxError):
        words = (kind.__doc__ or "").strip().splitlines()[0]
        described = found.setdefault(str(kind.status), _problem())
        described["description"] = " ".join(filter(None, (described["description"], f"`{kind.code}`: {words}")))
    return found


def _success(operation: Operation, model: str | None, *, may_stream: bool = True) -> dict[str, Any]:
    printed: dict[str, Any] = {"description": "Done."}
    if model is not None:
        schema = {"schema": {"$ref": f"#/components/schemas/{model}"}}
        forms = (Form.NDJSON, Form.SSE) if operation.always_streams else (Form.JSON,)
        printed["content"] = {str(form): schema for form in forms}
        if operation.streams and may_stream:
            event = {"schema": {"$ref": "#/components/schemas/Event"}}
            printed["content"] |= {str(Form.NDJSON): event, str(Form.SSE): event}
    if operation.status == 201 or operation.streams:
        printed["headers"] = {"Location": {"description": "Where it is.", "schema": {"type": "string"}}}
    return printed


def _links(model: str, all_operations: Sequence[Operation]) -> dict[str, Any]:
    """What can be asked of a new object, or made in it."""
    fields = _LINKED[model]
    return {
        each.name: {
            "operationId": each.name,
            "parameters": {name: f"$response.body#/{field}" for name, field in fields.items()},
        }
        for each in all_operations
        if set(_names(each.path)) == set(fields)
    }


def _names(path: str) -> list[str]:
    return re.findall(r"\{(\w+)\}", path)


def _problem() -> dict[str, Any]:
    return {"description": "", "content": {str(Form.JSON): {"schema": {"$ref": "#/components/schemas/Problem"}}}}
