"""Tornado handlers that serve the table of operations: they judge a request, ask the authorizer, and answer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from jupyter_server.auth.decorator import allow_unauthenticated, authorized
from jupyter_server.utils import url_path_join
from tornado import web

from jupyter_sandbox import owners
from jupyter_sandbox.errors import InvalidRequestError, SandboxError, UnknownRouteError
from jupyter_sandbox.guards import shapes
from jupyter_sandbox.surfaces.native import models, openapi
from jupyter_sandbox.surfaces.native.answers import ROOT, Call, Services
from jupyter_sandbox.web import Form, ServiceHandler, form_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jupyter_sandbox.surfaces.native.operations import Operation

_JUPYTERS_OWN: Final = re.compile(r"token|_xsrf|[0-9]+")
"""Names in a query that are Jupyter's: its token, its XSRF token, and the numbers that its clients put there."""
_DIGITS: Final = re.compile(r"-?[0-9]{1,18}")

Rule = tuple[str, type[ServiceHandler], dict[str, Any]]


class OperationHandler(ServiceHandler):
    """Serves one path: an operation for each of its methods."""

    def initialize(self, operations: dict[str, Operation], services: Services) -> None:
        """`operations`: by method."""
        self._operations, self._services = operations, services
        self.methods = tuple(operations)

    @web.authenticated
    async def get(self, *ids: str) -> None:
        """Serve the operation of this method."""
        await self._dispatch(ids)

    @web.authenticated
    async def post(self, *ids: str) -> None:
        """Serve the operation of this method."""
        await self._dispatch(ids)

    @web.authenticated
    async def delete(self, *ids: str) -> None:
        """Serve the operation of this method."""
        await self._dispatch(ids)

    async def _dispatch(self, ids: tuple[str, ...]) -> None:
        operation = self._operations.get(self.request.method or "")
        if operation is None:
            raise web.HTTPError(405)
        serve: Any = authorized(action=operation.action, resource=operation.resource)(OperationHandler._serve)
        await serve(self, operation, ids)

    async def _serve(self, operation: Operation, ids: tuple[str, ...]) -> None:
        try:
            call = Call(
                owner=owners.of(self),
                ids=ids,
                body=self._judged_body(operation),
                query=self._judged_query(operation),
                key=self._judged_key() if operation.takes_key else None,
                form=form_of(self.request.headers.get("Accept", "")) if operation.streams else Form.JSON,
                when_gone=self.when_gone,
            )
            answer = await operation.serve(self._services, call)
        except SandboxError as error:
            self.refuse(error)
            return
        location = None if answer.location is None else url_path_join(self.base_url, answer.location)
        if answer.events is not None:
            self.set_header("Location", location or "")
            await self.stream(call.form, answer.events)
        else:
            self.answer(answer.status or operation.status, answer.model, location)

    def _judged_body(self, operation: Operation) -> Any:
        data = self.body()
        if operation.body is None:
            if data.strip() not in (b"", b"{}"):
                raise InvalidRequestError("this request takes no body")
            return None
        return operation.body.judge(shapes.decode(data or b"{}"))

    def _judged_query(self, operation: Operation) -> Any:
        given: dict[str, Any] = {}
        fields = operation.query.fields if operation.query else {}
        for name, raw in self.request.query_arguments.items():
            if _JUPYTERS_OWN.fullmatch(name):
                continue
            if name not in fields:
                raise InvalidRequestError(f"unknown name in the query: {name[:40]!a}")
            values = [_text(each) for each in raw]
            if name in models.REPEATABLE:
                if len(values) > models.MAX_REPEATED:
                    raise InvalidRequestError(f"{name} may come {models.MAX_REPEATED} times")
                given[name] = tuple(fields[name].shape.judge(value, name) for value in values)
            elif len(values) > 1:
                raise InvalidRequestError(f"{name} comes twice in the query")
            else:
                is_number = isinstance(fields[name].shape, shapes.Whole) and _DIGITS.fullmatch(values[0])
                given[name] = fields[name].shape.judge(int(values[0]) if is_number else values[0], name)
        if operation.query is None:
            return None
        return operation.query.build(**({name: each.default for name, each in fields.items()} | given))

    def _judged_key(self) -> str | None:
        given = self.request.headers.get_list(models.KEY_HEADER)
        if len(given) > 1:
            raise InvalidRequestError(f"{models.KEY_HEADER} comes twice")
        return models.KEY.judge(given[0], models.KEY_HEADER) if given else None


class PublicHandler(OperationHandler):
    """Serves operations that need nobody's identity, and count as nobody's activity."""

    _track_activity = False

    @allow_unauthenticated
    async def get(self, *ids: str) -> None:
        """Serve the operation."""
        operation = self._operations["GET"]
        try:
            answer = await operation.serve(self._services, Call(owner=owners.EVERYBODY, ids=ids))
        except SandboxError as error:
            self.refuse(error)
            return
        self.answer(operation.status, answer.model)


class DocumentHandler(ServiceHandler):
    """Serves the OpenAPI document."""

    auth_resource = "sandboxes"
    methods = ("GET",)

    def initialize(self, operations: Sequence[Operation]) -> None:
        """`operations`: all that are served."""
        self._operations = operations

    @web.authenticated
    @authorized
    async def get(self) -> None:
        """Answer the document."""
        self.answer(200, openapi.document(self._operations, self.base_url))


class NowhereHandler(ServiceHandler):
    """Everything below our root that is nothing."""

    async def prepare(self) -> None:  # type: ignore[override] # as in APIHandler
        """Refuse, but not before we know that it is somebody."""
        await super().prepare()
        if self.current_user is None:
            raise web.HTTPError(403)
        self.refuse(UnknownRouteError("there is no such resource"))


def rules(operations: Sequence[Operation], services: Services) -> list[Rule]:
    """Return the routes of all operations, of the document, and of nothing."""
    by_path: dict[str, dict[str, Operation]] = {}
    for operation in operations:
        by_path.setdefault(operation.path, {})[operation.method] = operation
    found: list[Rule] = [(rf"{ROOT}/openapi\.json", DocumentHandler, {"operations": operations})]
    for path, served in by_path.items():
        is_public = all(operation.resource is None for operation in served.values())
        arguments = {"operations": served, "services": services}
        found.append((re.sub(r"\{\w+\}", "([^/]+)", path), PublicHandler if is_public else OperationHandler, arguments))
    found.append((rf"{ROOT}(?:/.*)?", NowhereHandler, {}))
    return found


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise InvalidRequestError("the query is not UTF-8") from None
