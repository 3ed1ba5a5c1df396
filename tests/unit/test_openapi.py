"""The OpenAPI document says what is served, in words of its own standard."""

from __future__ import annotations

import json
import re

import pytest
from jsonschema import Draft202012Validator

from jupyter_sandbox import errors, events
from jupyter_sandbox.hints import HINTS
from jupyter_sandbox.services import Services
from jupyter_sandbox.surfaces.native import handlers, models, openapi, operations
from jupyter_sandbox.web import Form, form_of

pytestmark = pytest.mark.unit

OPERATIONS = operations.table(models.Times())
DOCUMENT = openapi.document(OPERATIONS, "/base/")
NOBODY = Services(
    sandboxes=None,
    contexts=None,
    executions=None,
    named=None,
    commands=None,
    files=None,
    transfers=None,
    watches=None,
    kept_watches=None,
    tokens=None,
    emit=events.ignore,
)


def test_the_document_has_the_operations_that_are_served():
    """Paths and methods are those of the handlers' rules, which are all there are below our root."""
    served = set()
    for route, handler, arguments in handlers.rules(OPERATIONS, NOBODY):
        if issubclass(handler, handlers.OperationHandler):
            served |= {(route, method.lower()) for method in arguments["operations"]}
    documented = {
        (re.sub(r"\{\w+\}", "([^/]+)", path.replace("/{path}", "(?:/(.*))?")), method)
        for path, item in DOCUMENT["paths"].items()
        for method in item
        if method != "parameters"
    }
    assert documented == served
    assert len(documented) == len(OPERATIONS) == 41


def test_every_reference_leads_somewhere():
    for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT)):
        assert name in DOCUMENT["components"]["schemas"]
    names = {operation.name for operation in OPERATIONS}
    assert set(re.findall(r'"operationId": "(\w+)"', json.dumps(DOCUMENT))) == names


@pytest.mark.parametrize("name", DOCUMENT["components"]["schemas"])
def test_every_schema_is_one(name):
    Draft202012Validator.check_schema(DOCUMENT["components"]["schemas"][name])


@pytest.mark.parametrize("operation", OPERATIONS, ids=lambda operation: operation.name)
def test_defaults_are_accepted(operation):
    for record in filter(None, (operation.body, operation.query)):
        for name, field in record.fields.items():
            if isinstance(field.default, str | int | float | dict) and field.default is not None:
                field.shape.judge(field.default, name)


def test_the_only_condition_of_a_new_file_is_the_one_that_is_obeyed():
    headers = DOCUMENT["paths"]["/api/sandboxes/{sandbox_id}/files/{path}"]["put"]["parameters"]
    (schema,) = (each["schema"] for each in headers if each["name"] == "If-None-Match")
    assert [value for value in ("*", "", '"x"') if Draft202012Validator(schema).is_valid(value)] == ["*"]


def test_every_operation_has_a_name_of_its_own_and_says_what_it_does():
    assert len({operation.name for operation in OPERATIONS}) == len(OPERATIONS)
    assert all(operation.summary.endswith(".") for operation in OPERATIONS)


def test_every_error_has_a_hint():
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.SandboxError)]
    assert set(HINTS) == {kind.code for kind in kinds}


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", Form.JSON),
        ("*/*", Form.JSON),
        ("text/html, application/x-ndjson;q=0.9", Form.NDJSON),
        ("Text/Event-Stream", Form.SSE),
        ("application/json, text/event-stream", Form.JSON),
        (";;,,", Form.JSON),
    ],
)
def test_the_first_known_form_is_taken(accept, form):
    assert form_of(accept) is form
