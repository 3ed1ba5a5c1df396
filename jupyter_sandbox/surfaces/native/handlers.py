"""Tornado handlers that serve the table of operations: they judge a request, ask the authorizer, and answer."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

from jupyter_server.auth.decorator import allow_unauthenticated, authorized
from jupyter_server.utils import url_path_join
from tornado import web

from jupyter_sandbox import owners, sandboxes
from jupyter_sandbox.errors import (
    FileRangeError,
    InvalidRequestError,
    SandboxError,
    ScopeError,
    UnknownRouteError,
)
from jupyter_sandbox.guards import ranges, shapes
from jupyter_sandbox.incoming import Incoming
from jupyter_sandbox.surfaces.native import models, openapi
from jupyter_sandbox.surfaces.native.answers import ROOT, Call
from jupyter_sandbox.web import Form, ServiceHandler, form_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

    from jupyter_sandbox.files import Reading
    from jupyter_sandbox.guards.ranges import ByteRange
    from jupyter_sandbox.services import Services
    from jupyter_sandbox.surfaces.native.operation import Operation

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

    def operation_name(self) -> str | None:
        """See ServiceHandler."""
        operation = self._operations.get(self.request.method or "")
        return operation.name if operation else None

    def file_limit(self) -> int | None:
        """See ServiceHandler."""
        operation = self._operations.get(self.request.method or "")
        return self._services.files.max_file_mib << 20 if operation and operation.takes_file else None

    async def prepare(self) -> None:  # type: ignore[override] # as in APIHandler
        """Begin to serve before the body has come, if it is a file."""
        await super().prepare()
        if self.incoming is not None:
            self.when_gone(self.incoming.begin(self._dispatch(tuple(self.path_args))).cancel)

    @web.authenticated
    async def get(self, *ids: str) -> None:
        """Serve the operation of this method."""
        await self._dispatch(ids)

    @web.authenticated
    async def post(self, *ids: str) -> None:
        """Serve the operation of this method."""
        await self._dispatch(ids)

    @web.authenticated
    async def put(self, *ids: str) -> None:
        """Wait for the operation that `prepare` began, now that all of the body has come."""
        if self.incoming is None:
            await self._dispatch(ids)
        else:
            await self.incoming.served()

    @web.authenticated
    async def patch(self, *ids: str) -> None:
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
                bearer=self._judged_bearer(operation, ids),
                ids=ids,
                body=self._judged_body(operation),
                query=self._judged_query(operation),
                key=self._judged_key() if operation.takes_key else None,
                form=self._form(operation),
                content=self.incoming or Incoming(),
                only_new=self._judged_condition() if operation.takes_file else False,
                range=self._range() if operation.gives_file else None,
                when_gone=self.when_gone,
            )
            answer = await operation.serve(self._services, call)
            if answer.file is not None:
                await self._send(answer.file, is_part=call.range is not None)
                return
            if answer.events is not None:
                if answer.location is not None:
                    self.set_header("Location", url_path_join(self.base_url, answer.location))
                await self.stream(call.form, answer.events)
                return
            location = None if answer.location is None else url_path_join(self.base_url, answer.location)
            await self.answer_in_turn(answer.status or operation.status, answer.model, location)
        except SandboxError as error:
            if self.incoming is not None:
                await self.incoming.hear_out(error)
            self.refuse(error)

    async def _send(self, file: AbstractAsyncContextManager[Reading], *, is_part: bool) -> None:
        async with file as reading:
            if is_part and reading.start >= reading.entry.size_bytes:
                raise FileRangeError(f"the file has {reading.entry.size_bytes} bytes")
            await self.send_file(
                reading,
                name=reading.entry.name,
                start=reading.start,
                size=reading.size,
                total=reading.entry.size_bytes,
                is_part=is_part,
            )

    def _form(self, operation: Operation) -> Form:
        form = form_of(self.request.headers.get("Accept", ""))
        if operation.always_streams:
            return Form.NDJSON if form is Form.JSON else form
        return form if operation.streams else Form.JSON

    def _range(self) -> ByteRange | None:
        """Judge the header Range; with If-Range it means nothing, since nothing of ours fits that."""
        given = self.request.headers.get_list("Range")
        return ranges.judge(given[0]) if len(given) == 1 and "If-Range" not in self.request.headers else None

    def _judged_bearer(self, operation: Operation, ids: tuple[str, ...]) -> owners.Bearer | None:
        """Return whose token it is, if it is one, and reaches the sandbox that is meant."""
        user = self.current_user
        if not isinstance(user, owners.Bearer):
            return None
        if user.sandbox_id is not None:
            if "{sandbox_id}" not in operation.path:
                raise ScopeError(f"token {user.token_id} reaches sandbox {user.sandbox_id} and nothing else")
            if ids[0] != user.sandbox_id:
                raise sandboxes.unknown(ids[0])
        return user

    def _judged_condition(self) -> bool:
        """Whether a file must be new; what else a client may demand of it is refused rather than passed over."""
        for name in ("If-Match", "If-Unmodified-Since", "Content-Range", "Content-Encoding"):
            if name in self.request.headers:
                raise InvalidRequestError(f"the header {name} is not obeyed here; leave it out")
        given = self.request.headers.get_list("If-None-Match")
        if given and given != ["*"]:
            raise InvalidRequestError("If-None-Match can be * only: do not replace what is there")
        return bool(given)

    def _judged_body(self, operation: Operation) -> Any:
        if operation.takes_file:
            return None
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
        pattern = re.sub(r"\{\w+\}", "([^/]+)", path.replace("/{path}", "(?:/(.*))?"))
        found.append((pattern, PublicHandler if is_public else OperationHandler, arguments))
    found.append((rf"{ROOT}(?:/.*)?", NowhereHandler, {}))
    return found


def _text(raw: bytes) -> str:
    try:
        return raw.decode()
    except UnicodeDecodeError:
        raise InvalidRequestError("the query is not UTF-8") from None
