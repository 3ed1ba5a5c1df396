"""Jupyter's own description of its kernels, sessions and kernelspecs, corrected where stock Jupyter does otherwise.

Each correction stands in `CORRECTIONS` with its reason. None of them says less of what an answer must be than the
description did, but where stock Jupyter's own answers contradict it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jupyter_server
import yaml

SOURCE = Path(jupyter_server.__file__).parent / "services/api/api.yaml"
RESOURCES = ("/api/kernels", "/api/sessions", "/api/kernelspecs")
ERROR = {
    "type": "object",
    "required": ["message"],
    "properties": {"message": {"type": "string"}, "reason": {"type": "string", "x-nullable": True}},
}
TEXT = {"type": "string", "pattern": r"^[^\u0000]*$"}
ID = {"type": "string", "format": "uuid"}


def nullable(schema: dict[str, Any]) -> dict[str, Any]:
    """That, or null."""
    return schema | {"x-nullable": True}


def refusals(description: dict[str, Any]) -> None:
    """It lists no refusals but two: bad bodies, who may not, what is not there, and methods are refused everywhere."""
    for operation in _operations(description):
        for status in (400, 403, 404, 405, 409):
            operation["responses"].setdefault(status, {"description": "Refused", "schema": ERROR})
            operation["responses"][status]["schema"] = ERROR


def kernel_options(description: dict[str, Any]) -> None:
    """Everything has a default, the body too, which it says of the name itself; Jupyter takes an id, too, that it leaves out."""
    options = description["paths"]["/api/kernels"]["post"]["parameters"][0]["schema"]
    del options["required"]
    options["x-nullable"] = True
    options["properties"] = {"name": nullable(TEXT), "path": nullable(TEXT), "kernel_id": nullable(ID)}


def session_bodies(description: dict[str, Any]) -> None:
    """A request is no Session as answered: path and type are required to create one, and its kernel has id or name."""
    kernel = {"type": "object", "properties": {"id": nullable(ID), "name": nullable(TEXT)}}
    fields = {"path": TEXT, "type": TEXT, "name": nullable(TEXT), "kernel": kernel}
    changes = {"type": "object", "properties": fields}
    creation = description["paths"]["/api/sessions"]["post"]["parameters"][0]
    creation |= {"required": True, "schema": changes | {"required": ["path", "type"]}}
    description["paths"]["/api/sessions"]["post"]["parameters"] = [creation]
    description["paths"]["/api/sessions/{session}"]["patch"]["parameters"][0]["schema"] = changes


def nameless_sessions(description: dict[str, Any]) -> None:
    """A session that was created without a name has null for it."""
    name = description["definitions"]["Session"]["properties"]["name"]
    name["x-nullable"] = True


def location_of_a_restart(description: dict[str, Any]) -> None:
    """A restart makes nothing, and stock Jupyter sends no Location."""
    del description["paths"]["/api/kernels/{kernel_id}/restart"]["post"]["responses"][200]["headers"]


def nothing_has_no_type(description: dict[str, Any]) -> None:
    """A 204 has no content, so it has no Content-Type; Swagger 2 can say so of whole operations only."""
    kinds = description.pop("produces")
    for operation in _operations(description):
        if 204 not in operation["responses"]:
            operation["produces"] = kinds


CORRECTIONS = (
    nothing_has_no_type,
    refusals,
    kernel_options,
    session_bodies,
    nameless_sessions,
    location_of_a_restart,
)


def corrected() -> dict[str, Any]:
    """The description."""
    description: dict[str, Any] = yaml.safe_load(SOURCE.read_text())
    description["paths"] = {path: item for path, item in description["paths"].items() if path.startswith(RESOURCES)}
    for correct in CORRECTIONS:
        correct(description)
    return description


def _operations(description: dict[str, Any]) -> list[dict[str, Any]]:
    items = description["paths"].values()
    return [operation for item in items for method, operation in item.items() if method != "parameters"]
