"""Work that must not be lost half-way: what a cancelled caller had begun to take is still given back."""

from __future__ import annotations

import asyncio
import inspect
from typing import TYPE_CHECKING, Any, TypeVar

from jupyter_sandbox.errors import InvalidRequestError

if TYPE_CHECKING:
    import contextlib
    from collections.abc import Awaitable, Callable, Coroutine

Taken = TypeVar("Taken")


async def take(
    undo: contextlib.AsyncExitStack,
    work: Awaitable[Taken],
    give_back: Callable[[Taken], Awaitable[object] | object],
) -> Taken:
    """Return the result of `work`, having put `give_back` of it on `undo`.

    A thread or another process cannot be called back once it has been asked: when the caller is cancelled meanwhile,
    unwinding `undo` waits for the result and gives that back. Raises what `work` raises; then nothing was taken.
    """
    return await asyncio.shield(begin(undo, work, give_back))


def begin(
    undo: contextlib.AsyncExitStack,
    work: Awaitable[Taken],
    give_back: Callable[[Taken], Awaitable[object] | object],
) -> asyncio.Future[Taken]:
    """Like `take`, but do not wait: return the task whose result it is. Wait for it with `asyncio.shield`."""
    task = asyncio.ensure_future(work)

    async def unwind() -> None:
        cancellation = await _ended(task)
        if not task.cancelled() and task.exception() is None:
            result = give_back(task.result())
            if inspect.isawaitable(result):
                await result
        if cancellation is not None:
            raise cancellation

    undo.push_async_callback(unwind)
    return task


def spawn(
    among: set[asyncio.Task[None]], work: Coroutine[Any, Any, None], name: str | None = None
) -> asyncio.Task[None]:
    """Do `work` beside everything else; its task is in `among` until it ends: asyncio itself would forget it."""
    task = asyncio.create_task(work, name=name)
    among.add(task)
    task.add_done_callback(among.discard)
    return task


async def whole(work: Awaitable[Taken]) -> Taken:
    """Return the result of `work`; a cancelled caller leaves only when `work`, which cannot be called back, has ended.

    So the caller may undo it, or close what it uses. Raises what `work` raises.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await _ended(task)
        if not task.cancelled():
            task.exception()  # looked at: nobody else will
        raise


async def as_long_as_asked(
    when_gone: Callable[[Callable[[], object]], object], work: Coroutine[Any, Any, Taken]
) -> Taken:
    """Do what may take long, and stop when the client hangs up; `when_gone` hears what to do then."""
    task = asyncio.create_task(work)
    when_gone(task.cancel)
    try:
        await asyncio.wait([task])
    finally:
        task.cancel()
    if task.cancelled():
        raise InvalidRequestError("the client hung up")
    return task.result()


async def _ended(task: asyncio.Future[Taken]) -> asyncio.CancelledError | None:
    """Wait for the end of `task`, however often the caller is cancelled meanwhile; return the last cancellation."""
    cancellation = None
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError as error:
            cancellation = error
    return cancellation
