"""The control plane: sandboxes are made, found, kept and ended, with an API key in a header."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from tornado import web

from jupyter_sandbox import errors, narrowing, template_service
from jupyter_sandbox.guards import processes, shapes
from jupyter_sandbox.sandbox import Claim, SandboxState
from jupyter_sandbox.surfaces.e2b import listing, networks, words
from jupyter_sandbox.surfaces.keyed import KeyedHandler

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jupyter_sandbox.errors import SandboxError
    from jupyter_sandbox.owners import Owner
    from jupyter_sandbox.sandbox import SandboxView
    from jupyter_sandbox.surfaces.e2b.held import Held, HeldSandboxes

KEY_HEADER: Final = "X-API-Key"
_USUAL_S: Final = 300
_MOST_METADATA: Final = 64
_TEXT: Final = shapes.Text(max_length=4096)
_IDEMPOTENCY: Final = "Idempotency-Key"
_KEY: Final = shapes.Text(min_length=1, max_length=255)
_THEIRS: Final = frozenset({"base", "code-interpreter-v1", "code-interpreter", "code-interpreter-beta", "python"})


class ControlHandler(KeyedHandler):
    """Base of the resources."""

    surface: HeldSandboxes
    key_header = KEY_HEADER
    page_headers = "*"  # SDKs say what they are
    open_to_pages = True

    def check_host(self) -> bool:
        """See Jupyter: what is below the domain is ours, wherever the server listens."""
        return self.surface.is_at(self.request.host) or super().check_host()

    def authorization(self) -> str | None:
        """See KeyedHandler."""
        key = self.request.headers.get(KEY_HEADER)
        return f"token {key}" if key else None

    def refuse_stranger(self, error: SandboxError) -> None:
        """See KeyedHandler."""
        self.refuse(error, 401)

    def refuse(self, error: SandboxError, status: int | None = None) -> None:
        """See ServiceHandler; SDKs try again by themselves unless they are told that it does not help."""
        if error.retry_after_s is None and (status or error.status) >= 500:
            self.set_header("Should-Retry", "false")
        super().refuse(error, status)

    def problem(self, error: SandboxError) -> object:
        """See ServiceHandler."""
        return words.problem(self.get_status(), error)

    def timeout(self, table: dict[str, Any], usual: float = _USUAL_S) -> float:
        """Return how long a sandbox is to live."""
        value = table.get("timeout", usual)
        most = self.surface.settings.max_timeout_s
        return shapes.Number(minimum=0, maximum=most).judge(usual if value is None else value, "timeout")

    def our_template(self, theirs: str) -> str:
        """Return the name of the template that a client means."""
        return self.surface.settings.template if theirs in _THEIRS else theirs

    def model(self, held: Held) -> dict[str, Any]:
        """Return a sandbox as who makes or connects to it gets it."""
        return {
            "templateID": held.template,
            "alias": held.template,
            "sandboxID": words.sandbox_id(held.sandbox_id),
            "clientID": words.CLIENT_ID,
            "envdVersion": words.ENVD_VERSION,
            "envdAccessToken": held.token,
            "trafficAccessToken": held.token,
            "domain": None,
        }

    async def owner_of_all(self) -> Owner:
        """Return who asks, if it may do all that a sandbox's token may, which is what it gets; raises as `owner`."""
        for resource, action in (("kernels", "execute"), ("contents", "write")):
            await self.owner(resource, action)
        return await self.owner("sandboxes", "write")


class SandboxesHandler(ControlHandler):
    """`POST /sandboxes` and `GET /sandboxes`, in both versions."""

    operation = "claim_sandbox"

    async def on_post(self) -> None:
        """Make a sandbox."""
        owner = await self.owner_of_all()
        table = shapes.decode_object(self.body() or b"{}")
        asked = _TEXT.judge(table.get("templateID", ""), "templateID")
        if table.get("autoPause") or table.get("volumeMounts") or table.get("iam"):
            raise errors.NotSupportedError("autoPause, volumeMounts and iam are not supported here")
        wanted = Claim(
            template=self.our_template(asked),
            timeout_s=self.timeout(table),
            metadata=_texts(table.get("metadata"), "metadata"),
            env=processes.environment(words.ENVIRONMENT | _texts(table.get("envVars"), "envVars")),
            network=networks.judge(table.get("network"), table.get("allow_internet_access")),
        )
        key = self.request.headers.get(_IDEMPOTENCY)
        if key is not None:
            _KEY.judge(key, _IDEMPOTENCY)
        view = await self.services.sandboxes.claim(owner, wanted, key)
        held = self.surface.of(owner, view.id, asked)
        await self.services.sandboxes.noted(view.id)
        self.answer(201, self.model(held))

    async def on_get(self) -> None:
        """List sandboxes."""
        owner = await self.owner("sandboxes", "read")
        query = {name: self.get_query_arguments(name, strip=False) for name in self.request.query_arguments}
        wanted = listing.judge(query, self.our_template)
        views, following = wanted.of(self.services.sandboxes.views(owner))
        if following:
            self.set_header("X-Next-Token", following)
        limits = {report.name: report.limits for report in await template_service.listing()}
        self.answer(200, [_listed(view, limits) for view in views])


class SandboxHandler(ControlHandler):
    """`GET` and `DELETE /sandboxes/{id}`."""

    operation = "get_sandbox"

    async def on_get(self, theirs: str) -> None:
        """Tell about a sandbox; its token is for who makes it or connects to it."""
        owner = await self.owner("sandboxes", "read")
        view = self.services.sandboxes.get(owner, words.our_id(theirs))
        limits = {report.name: report.limits for report in await template_service.listing()}
        self.answer(200, _listed(view, limits) | {"domain": None} | networks.shown(view.network))

    async def on_delete(self, theirs: str) -> None:
        """End a sandbox."""
        owner = await self.owner("sandboxes", "write")
        view = self.services.sandboxes.get(owner, words.our_id(theirs))
        await self.services.sandboxes.release(owner, view.id)
        self.answer(204, None)


class TimeoutHandler(ControlHandler):
    """`POST /sandboxes/{id}/timeout` and `/refreshes`."""

    operation = "renew_sandbox"

    async def on_post(self, theirs: str) -> None:
        """Let a sandbox live so long from now on."""
        owner = await self.owner("sandboxes", "write")
        table = shapes.decode_object(self.body() or b"{}")
        seconds = self.timeout({"timeout": table.get("timeout", table.get("duration"))})
        self.services.sandboxes.renew(owner, words.our_id(theirs), seconds)
        await self.services.sandboxes.noted(words.our_id(theirs))
        self.answer(204, None)


class NetworkHandler(ControlHandler):
    """`PUT /sandboxes/{id}/network`."""

    operation = "restrict_sandbox"

    async def on_put(self, theirs: str) -> None:
        """Let a sandbox reach less than its template opens; what was said before is forgotten."""
        owner = await self.owner("sandboxes", "write")
        table = shapes.decode_object(self.body() or b"{}")
        internet = table.pop("allow_internet_access", None)
        wanted = networks.judge(table, internet)
        await self.services.sandboxes.restrict(owner, words.our_id(theirs), wanted)
        self.answer(204, None)


class PauseHandler(ControlHandler):
    """`POST /sandboxes/{id}/pause`."""

    operation = "pause_sandbox"

    async def on_post(self, theirs: str) -> None:
        """Keep a sandbox as it is, with its memory, and let it do nothing."""
        owner = await self.owner("sandboxes", "write")
        _judge_memory(shapes.decode_object(self.body() or b"{}"))
        view = self.services.sandboxes.get(owner, words.our_id(theirs))
        if view.state is SandboxState.PAUSED:
            raise errors.ConflictError(f"sandbox {theirs} is paused already")
        await self.services.sandboxes.pause(owner, view.id)
        self.answer(204, None)


class ConnectHandler(ControlHandler):
    """`POST /sandboxes/{id}/connect`."""

    operation = "renew_sandbox"
    usual_s = _USUAL_S

    async def on_post(self, theirs: str) -> None:
        """Return a sandbox that runs, resumed if it was paused, which lives at least so long from now on."""
        owner = await self.owner_of_all()
        view = self.services.sandboxes.get(owner, words.our_id(theirs))
        await self.connect(owner, view, shapes.decode_object(self.body() or b"{}"))

    async def connect(self, owner: Owner, view: SandboxView, table: dict[str, Any]) -> None:
        """Answer so, for a sandbox that was found and a judged request."""
        is_paused = view.state is SandboxState.PAUSED
        if is_paused:
            _judge_memory(table)
        held = self.surface.of(owner, view.id, view.template)
        seconds = self.timeout(table, self.usual_s)
        if view.expires_at is not None and (view.expires_at - datetime.now(UTC)).total_seconds() < seconds:
            self.services.sandboxes.renew(owner, view.id, seconds)
        if is_paused:
            await self.services.sandboxes.resume(owner, view.id)
        await self.services.sandboxes.noted(view.id)
        self.answer(201 if is_paused else 200, self.model(held))


class ResumeHandler(ConnectHandler):
    """`POST /sandboxes/{id}/resume`, which older SDKs use."""

    operation = "resume_sandbox"
    usual_s = 15

    async def connect(self, owner: Owner, view: SandboxView, table: dict[str, Any]) -> None:
        """See ConnectHandler; only what is paused can be resumed."""
        if view.state is not SandboxState.PAUSED:
            raise errors.ConflictError(f"sandbox {words.sandbox_id(view.id)} is not paused")
        if table.get("autoPause"):
            raise errors.NotSupportedError("autoPause is not supported here")
        await super().connect(owner, view, table)


class NotSupportedHandler(ControlHandler):
    """What E2B has and this server does not."""

    async def on_get(self, *_: str) -> None:
        """Say so."""
        await self.owner("sandboxes", "read")
        raise errors.NotSupportedError("this part of E2B's API is not supported here; see docs/e2b.md")

    on_post = on_delete = on_put = on_patch = on_get

    @web.authenticated
    async def patch(self, *ids: str) -> None:
        """Serve."""
        await self.serve(ids)


def _judge_memory(table: Mapping[str, Any]) -> None:
    """Raise NotSupportedError for who wants the files without the memory: a pause keeps all, and a start none."""
    if table.get("memory") is False:
        raise errors.NotSupportedError("to pause without keeping memory, or resume without it, is not supported here")


def _texts(value: object, where: str) -> dict[str, str]:
    table = shapes.Table(names=_TEXT, values=_TEXT, max_entries=_MOST_METADATA, max_characters=16_384)
    return table.judge({} if value is None else value, where)


def _listed(view: SandboxView, limits: Mapping[str, Mapping[str, float]]) -> dict[str, Any]:
    return words.listed(view, {**limits.get(view.template, {}), **narrowing.shown(view.less)})
