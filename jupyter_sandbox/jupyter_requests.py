"""Requests to Jupyter's own routes of kernels and sessions, judged before Jupyter's handlers see them.

Stock Jupyter takes bodies as they are: what has the wrong type fails inside with a 500, or is kept and spoils every
later answer. What is refused here is refused as Jupyter refuses: JSON with a message and a reason. What Jupyter takes
and ignores, it still takes.
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, NoSuchKernel
from jupyter_core.utils import ensure_async
from jupyter_server.base.handlers import APIHandler, JupyterHandler
from jupyter_server.kernelspecs import handlers as resources
from jupyter_server.services.kernels import handlers as kernels
from jupyter_server.services.kernelspecs import handlers as kernelspecs
from jupyter_server.services.sessions import handlers as sessions
from tornado import web

from jupyter_sandbox import kernel_pauses
from jupyter_sandbox.errors import InvalidRequestError
from jupyter_sandbox.guards import ids
from jupyter_sandbox.guards.shapes import Nullable, Shape, Text, decode
from jupyter_sandbox.web import MAX_BODY_BYTES, http_error, no_kernel

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_TEXT: Final = Text(max_length=4096)
_KERNEL_ID: Final = Text(max_length=164, pattern=ids.KERNEL_ID)
_NATIVE_ALIAS: Final = "python"
"""jupyter_client takes it for the native kernel."""
_NO_ROUTES: Final = (r"/api/(?:kernels|sessions)/[^/]+", r"/api/kernels/[^/]+/(?:restart|interrupt)")
"""Ids that no route of Jupyter's takes."""


@dataclass(frozen=True)
class OpenRecord:
    """An object; the names that it knows have their shapes, and others are nobody's business."""

    fields: Mapping[str, Shape]

    def judge(self, value: object, where: str) -> dict[str, Any]:
        """See Shape."""
        if not isinstance(value, dict):
            raise InvalidRequestError(f"{where} must be a JSON object")
        for name, shape in self.fields.items():
            if name in value:
                shape.judge(value[name], name)
        return value

    def schema(self) -> dict[str, Any]:
        """See Shape."""
        return {"type": "object", "properties": {name: shape.schema() for name, shape in self.fields.items()}}


_NEW_KERNEL: Final = Nullable(
    OpenRecord({"name": Nullable(_TEXT), "path": Nullable(_TEXT), "kernel_id": Nullable(_KERNEL_ID)})
)
_SESSION: Final = Nullable(
    OpenRecord(
        {
            "path": _TEXT,
            "type": _TEXT,
            "name": Nullable(_TEXT),
            "kernel": OpenRecord({"id": Nullable(_KERNEL_ID), "name": Nullable(_TEXT)}),
            "notebook": OpenRecord({"path": _TEXT, "name": _TEXT}),
        }
    )
)


def leaves_root(path: str) -> bool:
    """Whether an API path names something above the server's root directory."""
    return posixpath.normpath(path.strip("/")).split("/")[0] == ".."


def refusal_in(error: BaseException | None) -> BaseException | None:
    """Return the refusal that a handler of Jupyter's made a 500 of, or `error` itself."""
    is_wrapped = isinstance(error, web.HTTPError) and error.status_code == 500
    return error.__cause__ if error is not None and is_wrapped and isinstance(error.__cause__, web.HTTPError) else error


class JudgedRequest(APIHandler):
    """Put before a handler of Jupyter's."""

    judged_method = ""
    shape: Shape = Nullable(OpenRecord({}))
    """What the body of that method must be."""
    _model: dict[str, Any] | None = None

    async def prepare(self) -> None:  # type: ignore[override] # as in APIHandler
        """Judge what can be judged without acting; who is not known is refused by the handler itself."""
        await super().prepare()
        if self.current_user is None or self._finished:
            return
        if "kernel_id" in self.path_kwargs:
            self.require_kernel(self.path_kwargs["kernel_id"])
            self.judge_kernel(self.path_kwargs["kernel_id"])
        if self.request.method == self.judged_method and self.request.body:
            if len(self.request.body) > MAX_BODY_BYTES:
                raise web.HTTPError(413, f"the body has more than {MAX_BODY_BYTES} bytes")
            try:
                self._model = self.shape.judge(decode(self.request.body), "the body")
            except InvalidRequestError as error:
                raise http_error(error) from error
            if self._model is not None:
                await self.judge_names(self._model)

    async def judge_names(self, model: dict[str, Any]) -> None:
        """Raise a 404 for what a judged body names and is not there."""

    def get_json_body(self) -> dict[str, Any] | None:
        """Return what was judged."""
        return self._model

    def judge_kernel(self, kernel_id: str) -> None:
        """Raise a refusal for a kernel that cannot do what is asked."""

    def require_kernel(self, kernel_id: str) -> None:
        """Raise a 404 unless the kernel is there, in Jupyter's words."""
        if kernel_id not in self.kernel_manager:
            raise no_kernel(kernel_id)

    async def require_spec(self, name: str) -> None:
        """Raise a 404 unless there is such a kernelspec."""
        try:
            await ensure_async(
                self.kernel_spec_manager.get_kernel_spec(NATIVE_KERNEL_NAME if name == _NATIVE_ALIAS else name)
            )
        except NoSuchKernel as error:
            if isinstance(error, web.HTTPError):
                raise
            raise web.HTTPError(404, "there is no such kernelspec") from error

    def send_error(self, status_code: int = 500, **kwargs: Any) -> None:
        """Answer as a refusal what a handler of Jupyter's makes a 500 of, and that a kernel has just gone."""
        error = kwargs.get("exc_info", (None, None))[1]
        refusal = refusal_in(error)
        if status_code == 500 and refusal is error:
            refusal = self._gone()
        if isinstance(refusal, web.HTTPError) and refusal is not error:
            status_code, kwargs["exc_info"] = refusal.status_code, (type(refusal), refusal, None)
        super().send_error(status_code, **kwargs)

    def _gone(self) -> web.HTTPError | None:
        kernel_id = self.path_kwargs.get("kernel_id")
        if kernel_id is None:
            return None
        if kernel_id not in self.kernel_manager:
            return no_kernel(kernel_id)
        kernel = self.kernel_manager.get_kernel(kernel_id)
        if not kernel.has_kernel or not kernel.ready.done():
            return web.HTTPError(409, "the kernel is just starting or ending")
        return None

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Say which methods there are, when it is that."""
        if status_code == 405:
            unknown = web.RequestHandler._unimplemented_method  # noqa: SLF001 - how tornado tells them apart
            known = (name for name in self.SUPPORTED_METHODS if getattr(type(self), name.lower()) is not unknown)
            self.set_header("Allow", ", ".join(known))
        super().write_error(status_code, **kwargs)


class ActionRequest(JudgedRequest):
    """An interrupt or a restart."""

    def judge_kernel(self, kernel_id: str) -> None:
        """See JudgedRequest."""
        kernel_pauses.refuse(self.kernel_manager.get_kernel(kernel_id))


class NewKernelRequest(JudgedRequest):
    """What is asked of the list of kernels."""

    judged_method = "POST"
    shape = _NEW_KERNEL

    async def judge_names(self, model: dict[str, Any]) -> None:
        """See JudgedRequest."""
        _require_inside(model.get("path"))
        if model.get("name") is not None:
            await self.require_spec(model["name"])


class NewSessionRequest(JudgedRequest):
    """What is asked of the list of sessions."""

    judged_method = "POST"
    shape = _SESSION

    async def judge_names(self, model: dict[str, Any]) -> None:
        """See JudgedRequest."""
        self._judge_paths(model)
        kernel = model.get("kernel", {})
        kernel_id, name = kernel.get("id"), kernel.get("name")
        if kernel_id not in self.kernel_manager and name is not None and (kernel_id or name):
            await self.require_spec(name)

    def _judge_paths(self, model: dict[str, Any]) -> None:
        notebook = model.get("notebook", {})
        for path in (model.get("path"), notebook.get("path"), notebook.get("name")):
            _require_inside(path)


class SessionRequest(NewSessionRequest):
    """What is asked of a session, which is there itself: a kernel or a kernelspec that is not, is a 409."""

    judged_method = "PATCH"

    async def judge_names(self, model: dict[str, Any]) -> None:
        """See JudgedRequest."""
        self._judge_paths(model)
        kernel = model.get("kernel", {})
        try:
            if kernel.get("id") is not None:
                self.require_kernel(kernel["id"])
            elif kernel.get("name") is not None:
                await self.require_spec(kernel["name"])
        except web.HTTPError as error:
            raise web.HTTPError(409, error.log_message, reason=error.reason) from error


class ResourceRequest(JupyterHandler):
    """Put before the handler of a kernelspec's files."""

    async def prepare(self, *args: Any, **kwargs: Any) -> None:
        """No file has such a name, and asking the system for it fails otherwise than for others."""
        await super().prepare(*args, **kwargs)
        if "\0" in self.path_kwargs["path"]:
            raise web.HTTPError(404, "there is no such file")


class NothingThere(APIHandler):
    """Answers 404 as the other handlers do."""

    async def prepare(self) -> None:  # type: ignore[override] # as in APIHandler
        """Refuse before any method is looked at."""
        await super().prepare()
        raise web.HTTPError(404, "there is no such thing")


_MIXED_IN: Final[Mapping[type[web.RequestHandler], type[JupyterHandler]]] = {
    kernels.MainKernelHandler: NewKernelRequest,
    kernels.KernelHandler: JudgedRequest,
    kernels.KernelActionHandler: ActionRequest,
    sessions.SessionRootHandler: NewSessionRequest,
    sessions.SessionHandler: SessionRequest,
    kernelspecs.MainKernelSpecHandler: JudgedRequest,
    kernelspecs.KernelSpecHandler: JudgedRequest,
    resources.KernelSpecResourceHandler: ResourceRequest,
}
_STOCK: Final = (
    *kernels.default_handlers,
    *sessions.default_handlers,
    *kernelspecs.default_handlers,
    *resources.default_handlers,
)


def judged(stock: type[web.RequestHandler]) -> type[web.RequestHandler]:
    """Return a handler of Jupyter's that sees judged requests only; itself when there is nothing to judge."""
    mixed_in = _MIXED_IN.get(stock)
    return stock if mixed_in is None else type(f"Judged{stock.__name__}", (mixed_in, stock), {})


def rules() -> Iterator[tuple[str, type[web.RequestHandler]]]:
    """Yield routes that shadow Jupyter's."""
    for route, stock in _STOCK:
        if stock in _MIXED_IN:
            yield route, judged(stock)
    yield from ((route, NothingThere) for route in _NO_ROUTES)


def _require_inside(path: str | None) -> None:
    if path is not None and leaves_root(path):
        raise web.HTTPError(404, "the path is outside of the server's root directory")
