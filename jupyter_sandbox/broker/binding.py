"""Turn a warm worker into somebody's sandbox: give it its mounts and network, take its privileges.

Every mount is a descriptor that the worker's engine or its agent attaches inside; whatever fails or is cancelled, all
of them are closed here.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING, Final

from jupyter_sandbox import workspace
from jupyter_sandbox.errors import StartError
from jupyter_sandbox.guards.paths import HOMES
from jupyter_sandbox.host import tasks
from jupyter_sandbox.specs import Workspace, WorkspaceMode
from sandbox_worker import protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_sandbox.broker.sandbox import Sandbox
    from jupyter_sandbox.firewall import Firewall

_KERNELSPEC: Final = Workspace(mode=WorkspaceMode.READ_ONLY, name="kernelspec")


async def bind(
    sandbox: Sandbox,
    mounter: workspace.Mounter,
    firewall: Firewall,
    wanted: Workspace,
    directory: int | None,
    kernelspec: int | None,
) -> None:
    """Bind the claimed `sandbox`; raises SandboxError, and its worker is then of no more use.

    `directory` is the notebook's, shown as `wanted` says, and `kernelspec` the kernelspec's, both open.
    """
    worker, disk = sandbox.worker, sandbox.worker.disk
    if disk is None:
        raise StartError(f"{sandbox.id} has no disk")
    async with contextlib.AsyncExitStack() as undo:
        mounts: dict[str, int] = {}
        for home in HOMES:
            mounts[home] = disk.home(home)
            undo.callback(os.close, mounts[home])
        layers = disk.layers()
        undo.callback(os.close, layers)

        async def mount(target: str, make: Callable[..., int], *what: object) -> None:
            making = asyncio.to_thread(make, *what, owner=sandbox.owner, uid=worker.uid)
            mounts[target] = await tasks.take(undo, making, os.close)

        for share in sandbox.template.shares:
            await mount(share.target, mounter.share, share)
        if directory is not None:
            await mount(sandbox.cwd, mounter.mount, wanted, directory, layers)
        if kernelspec is not None:
            await mount(workspace.KERNELSPEC, mounter.mount, _KERNELSPEC, kernelspec, layers)
        await _open_network(sandbox, firewall, undo)
        left = await worker.attach(mounts)
        request = protocol.Bind(
            mounts=tuple(protocol.MountPoint(target=target) for target in left),
            uid=worker.inner_uid,
            hostname="sandbox",
            rlimits=worker.rlimits(),
        )
        await sandbox.reach().ask(request, protocol.Bound, list(left.values()))


async def _open_network(sandbox: Sandbox, firewall: Firewall, undo: contextlib.AsyncExitStack) -> None:
    """Put the template's policy in force, restricted as wanted, while nothing of an owner is in the worker.

    It is closed with the worker.
    """
    policy = sandbox.template.policy
    if policy.egress:
        namespace = sandbox.worker.network_namespace()
        undo.callback(os.close, namespace)
        async with sandbox.changing:  # who restricts it meanwhile comes before, or after
            opening = asyncio.to_thread(firewall.open, sandbox.worker.slot, policy, namespace, sandbox.restriction)
            await tasks.take(undo, opening, lambda _: None)
