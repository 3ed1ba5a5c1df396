"""Starts and ends sandbox kernels as jupyter_client does, but without its pause.

`jupyter_client.manager.in_pending_state` sleeps 10 ms after each start and each shutdown, for tests that want to see
the state before; whoever asked for a kernel waits for that. Managers of jupyter_server's own class get the same
methods without it, as they are made. Native kernels, restarts, and managers of other classes pause as ever.
"""

from __future__ import annotations

import asyncio
import functools
from typing import TYPE_CHECKING, Any, Final

from jupyter_client.kernelspec import NoSuchKernel
from jupyter_client.manager import KernelManager
from jupyter_server.services.kernels.kernelmanager import ServerKernelManager, emit_kernel_action_event

from jupyter_sandbox import kernel_specs

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    Method = Callable[..., Awaitable[object]]

_WORDS: Final = {
    "start_kernel": "Kernel {kernel_id} was started.",
    "shutdown_kernel": "Kernel {kernel_id} was shutdown.",
}


def hasten(manager: Any) -> None:
    """Take the pause away from a kernel manager that was just made, if its kernel is to be in a sandbox."""
    for name, words in _WORDS.items():
        pausing = getattr(KernelManager, f"_async_{name}")
        is_stock = getattr(type(manager), name, None) is getattr(ServerKernelManager, name)
        if is_stock and hasattr(pausing, "__wrapped__"):
            prompt = emit_kernel_action_event(success_msg=words)(_prompt(name, pausing.__wrapped__))
            setattr(manager, name, functools.partial(_choose, manager, prompt, getattr(manager, name)))


async def _choose(manager: Any, prompt: Method, stock: Method, *arguments: Any, **settings: Any) -> object:
    try:
        is_ours = kernel_specs.is_ours(manager.kernel_spec.metadata)
    except NoSuchKernel:
        is_ours = False
    return await (prompt(manager, *arguments, **settings) if is_ours else stock(*arguments, **settings))


def _prompt(name: str, work: Method) -> Method:
    """Return a method like `in_pending_state(work)`; the events of jupyter_server call it by `name`."""

    async def method(manager: Any, *arguments: Any, **settings: Any) -> object:
        if manager._attempted_start or not manager._ready:  # noqa: SLF001 - as the decorator does
            manager._ready = asyncio.get_running_loop().create_future()  # noqa: SLF001
        try:
            result = await work(manager, *arguments, **settings)
        except Exception as error:
            manager.ready.set_exception(error)
            manager.log.exception("%s of kernel %s failed", name, manager.kernel_id)
            raise
        if manager.owns_kernel:
            manager.ready.set_result(None)
        return result

    method.__name__ = name
    return method
