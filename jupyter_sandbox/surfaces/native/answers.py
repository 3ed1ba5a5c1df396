"""What REST operations answer: each calls a service and says its value in our words."""

from __future__ import annotations

import base64
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox import sandbox, usage_service
from jupyter_sandbox.incoming import Incoming
from jupyter_sandbox.sandbox import Filter
from jupyter_sandbox.surfaces.native import models
from jupyter_sandbox.web import Form

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from jupyter_sandbox.execution import Execution
    from jupyter_sandbox.execution_fold import OutputEvent
    from jupyter_sandbox.files import Reading
    from jupyter_sandbox.guards.ranges import ByteRange
    from jupyter_sandbox.owners import Bearer, Owner
    from jupyter_sandbox.services import Services

ROOT: Final = "/api/sandboxes"


@dataclass(frozen=True, kw_only=True)
class Call:
    """One judged request. `when_gone` is told what to do when the client hangs up."""

    owner: Owner
    ids: tuple[str, ...]
    bearer: Bearer | None = None
    """Whose token it came with, if it was one of ours."""
    body: Any = None
    query: Any = None
    key: str | None = None
    form: Form = Form.JSON
    content: Incoming = field(default_factory=Incoming)
    """The body, when the operation takes a file."""
    only_new: bool = False
    """Whether what is there must not be replaced."""
    range: ByteRange | None = None
    when_gone: Callable[[Callable[[], object]], None] = lambda _: None


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What is answered: a model, a stream of events or a file; `location` is relative to the server's base URL."""

    model: object | None = None
    location: str | None = None
    events: AsyncGenerator[dict[str, Any], None] | None = None
    file: AbstractAsyncContextManager[Reading] | None = None
    status: int | None = None
    """Another than the row says."""


# -- sandboxes


async def claim_sandbox(services: Services, call: Call) -> Answer:
    """A new sandbox, or the one with the same key."""
    view = await services.sandboxes.claim(call.owner, call.body, call.key)
    return Answer(model=models.sandbox(view), location=f"{ROOT}/{view.id}")


async def list_sandboxes(services: Services, call: Call) -> Answer:
    """A page of sandboxes."""
    page = call.query
    metadata = tuple(tuple(item.split(":", 1)) for item in page.metadata)
    states = None if page.state is None else frozenset({page.state})
    wanted = Filter(states=states, template=page.template, metadata=metadata)
    mine = services.sandboxes.views(call.owner)
    found, has_more = sandbox.page(mine, wanted, page.limit, place=sandbox.by_id, after=_after(page.cursor))
    following = base64.urlsafe_b64encode(found[-1].id.encode()).decode() if has_more else None
    return Answer(model={"sandboxes": [models.sandbox(view) for view in found], "next": following})


def _after(cursor: str | None) -> str:
    """The id that a cursor is made of; what is none is only a place in the order of ids."""
    return base64.urlsafe_b64decode(cursor or "").decode("latin-1")


async def get_sandbox(services: Services, call: Call) -> Answer:
    """One sandbox."""
    return Answer(model=models.sandbox(services.sandboxes.get(call.owner, *call.ids)))


async def renew_sandbox(services: Services, call: Call) -> Answer:
    """The sandbox with its new time."""
    (sandbox_id,) = call.ids
    renewed = services.sandboxes.renew(call.owner, sandbox_id, call.body.timeout_s)
    await services.sandboxes.noted(sandbox_id)
    return Answer(model=models.sandbox(renewed))


async def pause_sandbox(services: Services, call: Call) -> Answer:
    """The sandbox, when nothing of it runs."""
    return Answer(model=models.sandbox(await services.sandboxes.pause(call.owner, *call.ids)))


async def resume_sandbox(services: Services, call: Call) -> Answer:
    """The sandbox, when it goes on."""
    return Answer(model=models.sandbox(await services.sandboxes.resume(call.owner, *call.ids)))


async def restrict_sandbox(services: Services, call: Call) -> Answer:
    """The sandbox, when it reaches no more than that."""
    (sandbox_id,) = call.ids
    return Answer(model=models.sandbox(await services.sandboxes.restrict(call.owner, sandbox_id, call.body)))


async def release_sandbox(services: Services, call: Call) -> Answer:
    """Nothing, when it has ended."""
    await services.sandboxes.release(call.owner, *call.ids)
    return Answer()


async def get_usage(services: Services, call: Call) -> Answer:
    """What the sandbox uses. Who only looks does not use it."""
    sandbox = services.sandboxes.get(call.owner, *call.ids)
    return Answer(model=models.usage(await usage_service.get(sandbox.id)))


# -- contexts


async def create_context(services: Services, call: Call) -> Answer:
    """A new context."""
    (sandbox_id,) = call.ids
    view = await services.contexts.create(call.owner, sandbox_id, call.body)
    return Answer(model=models.context(view), location=f"{ROOT}/{view.sandbox_id}/contexts/{view.id}")


async def list_contexts(services: Services, call: Call) -> Answer:
    """The contexts of a sandbox."""
    found = services.contexts.all_in(call.owner, *call.ids)
    return Answer(model={"contexts": [models.context(view) for view in found]})


async def get_context(services: Services, call: Call) -> Answer:
    """One context."""
    return Answer(model=models.context(services.contexts.view(services.contexts.get(call.owner, *call.ids))))


async def restart_context(services: Services, call: Call) -> Answer:
    """The context, when its new kernel runs."""
    return Answer(model=models.context(await services.contexts.restart(call.owner, *call.ids)))


async def interrupt_context(services: Services, call: Call) -> Answer:
    """Nothing."""
    await services.contexts.interrupt(call.owner, *call.ids)
    return Answer()


async def delete_context(services: Services, call: Call) -> Answer:
    """Nothing, when its kernel has ended."""
    await services.contexts.delete(call.owner, *call.ids)
    return Answer()


# -- executions


async def execute(services: Services, call: Call) -> Answer:
    """An execution that has ended, or its events, or one that goes on by itself."""
    sandbox_id, context_id = call.ids
    execution = services.executions.start(call.owner, sandbox_id, context_id, call.body)
    location = f"{ROOT}/{execution.sandbox_id}/contexts/{execution.context_id}/executions/{execution.id}"
    if execution.wanted.detached:
        return Answer(model=models.execution(execution.view()), location=location, status=202)
    call.when_gone(execution.cancel)
    if call.form is not Form.JSON:
        return Answer(events=_lines(execution, execution.events()), location=location)
    return Answer(model=models.execution(await execution.ended()), location=location)


async def _lines(execution: Execution, events: AsyncIterator[OutputEvent]) -> AsyncGenerator[dict[str, Any], None]:
    yield {"type": "started", "execution": models.execution(execution.view(), with_outputs=False)}
    async for event in events:
        yield models.event(event)
    yield {"type": "ended", "execution": models.execution(execution.view(), with_outputs=False)}


async def list_executions(services: Services, call: Call) -> Answer:
    """The executions that are known."""
    found = services.executions.all_in(call.owner, *call.ids)
    return Answer(model={"executions": [models.execution(view, with_outputs=False) for view in found]})


async def get_execution(services: Services, call: Call) -> Answer:
    """One execution."""
    return Answer(model=models.execution(services.executions.get(call.owner, *call.ids).view()))


async def interrupt_execution(services: Services, call: Call) -> Answer:
    """Nothing; it ends soon."""
    services.executions.get(call.owner, *call.ids).cancel()
    return Answer()


# -- the server itself


async def health(_: Services, __: Call) -> Answer:
    """That we are here."""
    return Answer(model={"status": "ok"})


async def readiness(services: Services, _: Call) -> Answer:
    """That a broker is, too."""
    await services.sandboxes.check()
    return Answer(model={"status": "ready"})
