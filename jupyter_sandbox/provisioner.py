"""The kernel provisioner: where Jupyter starts, signals and ends a kernel, we claim, use and release a sandbox.

One provisioner is one kernel id for its whole life, restarts included: the sandbox, its files, the socket paths and
the key stay the same. It writes nothing on its parent, holds nothing that belongs to an event loop, and `poll` only
reads what has arrived. Contract: jupyter_client.provisioning.KernelProvisionerBase; only `cleanup` can trust its
`restart` flag.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import posixpath
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase
from tornado import web
from traitlets import Enum, List, Unicode

from jupyter_sandbox import launch, showing, workspace
from jupyter_sandbox.broker import client, verbs
from jupyter_sandbox.errors import BrokerUnavailableError, ProgramMissingError, SandboxError, StartError
from jupyter_sandbox.events import KernelEnd, kernel_end
from jupyter_sandbox.guards.paths import HOME
from jupyter_sandbox.kernel_events import KernelEvents
from jupyter_sandbox.kernel_identity import Identity, Place, Resumed, server_of
from jupyter_sandbox.specs import UNRESTRICTED, WorkspaceMode

if TYPE_CHECKING:
    from collections.abc import Callable

    from jupyter_client.connect import KernelConnectionInfo
    from jupyter_client.kernelspec import KernelSpec

    from jupyter_sandbox import notes

_POLL_S: Final = 0.01
"""How often to look while the broker is away; else we are told."""
_FAREWELL_S: Final = 0.5
"""How long we wait ourselves for a kernel that was told to end: jupyter_client looks each 100 ms only."""
_REPLACE_S: Final = 10
_LINGER_S: Final = 0.15
"""How long a request to a dead kernel can still reach the next one: jupyter_client's control socket lingers 0.1 s."""
_GIVE_UP_S: Final = 60
"""How long a broker may be away before its sandboxes count as lost."""


class _ProgramMissingHTTPError(web.HTTPError, FileNotFoundError):
    """What jupyter_client's own provisioner raises when a kernelspec's program does not exist; programs look for it."""


class SandboxProvisioner(KernelProvisionerBase):
    """Starts the kernel in an isolated worker of its own."""

    template = Unicode("python", help="Name of the template the sandbox is made from.").tag(config=True)
    workspace = Enum(
        [str(mode) for mode in WorkspaceMode],
        default_value="overlay",
        help="How the notebook's directory shows in the sandbox: `none`, `ro` (read only), "
        "`overlay` (readable; writes go to the sandbox's disk) or `rw`.",
    ).tag(config=True)
    environment_names = List(
        Unicode(), help="Names of more environment variables that kernels get from the server's environment."
    ).tag(config=True)

    def __init__(self, **kwargs: Any) -> None:
        """Start with no sandbox."""
        super().__init__(**kwargs)
        self.connection_info = {}  # the base class shares one dict between all instances
        self._lease: client.Lease | None = None
        self._identity = Identity()
        self._directory: str | None = None
        self._arguments: tuple[str, ...] | None = None
        self._launched = self._is_forked = False
        self.launches = 0
        """How often a kernel was started: who waits for one that was replaced can tell."""
        self._place: Place | None = None
        self._resumed: Resumed | None = None
        self._ends = launch.Ends()
        self._launching = asyncio.Lock()  # two at once, of restarts of a dead kernel, would claim two sandboxes
        self._shutdown_requested = False
        self._asked_when_dead = False
        self._broker_away_since: float | None = None
        self._restriction = UNRESTRICTED  # of the sandbox before, for the one that takes its place
        self._tell = KernelEvents(self.parent, self.kernel_id)

    # -- what others may ask

    @property
    def has_process(self) -> bool:
        """Whether a kernel was launched and not cleaned up."""
        return self._launched

    @property
    def lease(self) -> client.Lease | None:
        """What keeps the sandbox that this kernel lives in."""
        return self._lease

    @property
    def is_guest(self) -> bool:
        """Whether the kernel was started in a sandbox that existed: when that is gone, it will not start again."""
        return self._place is not None

    @property
    def directory(self) -> str | None:
        """The working directory of the kernel, inside."""
        if self._place and self._place.directory:
            return self._place.directory
        return self._lease.cwd if self._lease else None

    @property
    def sandbox_id(self) -> str | None:
        """The sandbox this kernel lives in."""
        return self._lease.sandbox if self._lease else None

    @property
    def welcomes(self) -> bool:
        """Whether its kernel is our Python application, which says `iopub_welcome` to everybody who subscribes."""
        return self._is_forked

    def last_words(self) -> str | None:
        """Return why the kernel ended, as a sentence for people, or None when it lives or was asked to end."""
        if self._lease is None or self._shutdown_requested:
            return None
        if self._lease.loss:
            return self._lease.loss
        end = self._lease.exits.get(self._identity.seat)
        return end.message if end and end.reason != "requested" else None

    def call_at_end(self, callback: Callable[[], object] | None) -> None:
        """See Lease.call_at_end; of the kernel that was launched last."""
        if self._lease is not None:
            self._lease.call_at_end(self._identity.seat, callback)

    def resolve_path(self, path: str) -> str | None:
        """Return the host path of a file of the workspace, or None: other files of a sandbox have none."""
        if self._lease is None or self._directory is None or self._lease.cwd == HOME:
            return None
        relative = posixpath.relpath(posixpath.join(self._lease.cwd, path), self._lease.cwd)
        found = Path(self._directory, relative)
        return str(found) if not relative.startswith("..") and found.exists() else None

    # -- the contract, in Jupyter's order

    async def pre_launch(self, **kwargs: Any) -> dict[str, Any]:
        """Judge what we are asked to start."""
        encryption = kwargs.pop("transport_encryption", None) or getattr(
            self.parent, "transport_encryption", "disabled"
        )
        if launch.wants_curve(str(encryption).lower(), self._spec.metadata):
            self._identity.encrypt()
        self._place = kwargs.pop("place", None)
        resumed = kwargs.pop("resumed", None)
        self._resumed = None if self.launches else resumed
        extra = kwargs.pop("extra_arguments", None) or []
        self._arguments = launch.argument_list(self._spec.argv, extra, {"resource_dir": workspace.KERNELSPEC})
        return await super().pre_launch(cmd=list(self._arguments or ["python"]), **kwargs)

    async def launch_kernel(self, cmd: list[str], **kwargs: Any) -> KernelConnectionInfo:
        """Claim a sandbox, unless this is a restart and it still lives, and start the kernel in it."""
        self._tell.begins(self._end_of_kernel() if self.launches else None)
        self._shutdown_requested = False
        environment = launch.environment(kwargs.get("env") or {}, self._spec.env, self.environment_names)
        try:
            async with self._launching:
                with self._ends.none_meanwhile(self.kernel_id):
                    prefix = await self._start_or_resume(environment, kwargs.get("cwd"))
        except SandboxError as error:
            await self._give_back()
            self.log.error("Kernel %s did not start: %s", self.kernel_id, error)
            if not self.is_guest:  # else who asked for a context is refused, and that is told
                self._tell.refused(error)
            kind = _ProgramMissingHTTPError if isinstance(error, ProgramMissingError) else web.HTTPError
            again = f"; try again in {error.retry_after_s} s" if error.retry_after_s else ""
            raise kind(error.status, f"{error}{again}", reason=f"The sandbox could not start ({error.code})") from error
        except BaseException:
            await self._give_back()
            raise
        self._launched = True
        self.launches += 1
        if self._lease is not None and self._resumed is None:
            self._tell.started(self._lease)
        self.connection_info = self._identity.connection_info(prefix)
        return self.connection_info

    async def poll(self) -> int | None:
        """Return None while the kernel lives, else its exit status. Costs no I/O but a look into a socket's buffer."""
        lease = self._lease
        if lease is None or not self._launched:
            return 0
        lease.listen()
        if not lease.is_connected and lease.loss is None:
            await self._reattach(lease)
        if lease.loss is not None:
            return 1
        end = lease.exits.get(self._identity.seat)
        return None if end is None else end.status

    async def wait(self) -> int | None:
        """Wait until the kernel has ended."""
        while (status := await self.poll()) is None:
            await self._hear(_REPLACE_S)
        return status

    async def send_signal(self, signum: int) -> None:
        """Signal the kernel's process group; quiet when it has ended."""
        if self._lease is None or await self.poll() is not None:
            return
        request = verbs.SignalKernel(sandbox=self._lease.sandbox, target=self._identity.seat, number=int(signum))
        with contextlib.suppress(SandboxError):
            await client.call(request, verbs.Done, start=False)

    async def kill(self, restart: bool = False) -> None:
        """Kill the kernel; the sandbox stays."""
        self._asked_when_dead |= await self.poll() is not None  # jupyter_client has sent it an interrupt before
        await self.send_signal(signal.SIGKILL)
        await self._farewell()

    async def terminate(self, restart: bool = False) -> None:
        """Ask the kernel's process to end; the sandbox stays."""
        await self.send_signal(signal.SIGTERM)

    async def shutdown_requested(self, restart: bool = False) -> None:
        """Note that the coming end of the kernel is wanted."""
        self._shutdown_requested = True
        self._asked_when_dead = await self.poll() is not None
        await self._farewell()

    async def cleanup(self, restart: bool = False) -> None:
        """Release the sandbox, unless the kernel is being restarted in it; quiet when done twice."""
        if not restart:
            self._ends.add()
            await self._give_back()
            return
        self._ends.note_restart()
        if self._asked_when_dead:
            self._asked_when_dead = False
            await asyncio.sleep(_LINGER_S)  # or the next kernel, behind the same sockets, would obey

    # -- inside

    async def _farewell(self) -> None:
        """Wait a moment for the kernel's end, if there is a kernel."""
        await self._go_on()
        deadline = time.monotonic() + _FAREWELL_S
        while await self.poll() is None and (left_s := deadline - time.monotonic()) > 0:
            await self._hear(left_s)

    async def _go_on(self) -> None:
        """Resume a sandbox that is paused: its kernel is to end, or another is to start."""
        if (lease := self._lease) is not None and lease.is_paused:
            with contextlib.suppress(SandboxError):
                self._tell.resumed(lease, await lease.resume())

    async def _hear(self, timeout_s: float) -> None:
        """Wait until the broker says something, or is gone."""
        if self._lease is not None and self._lease.is_connected:
            await self._lease.hear(timeout_s)
        else:
            await asyncio.sleep(_POLL_S)

    @property
    def _spec(self) -> KernelSpec:
        return cast("KernelSpec", self.kernel_spec)

    async def _start_or_resume(self, environment: dict[str, str], cwd: object) -> str:
        """Return the prefix of the kernel's socket paths."""
        resumed = self._resumed
        if resumed is None:
            return await self._start(environment, str(cwd) if cwd else None)
        self._identity.resume(resumed)
        self._lease, self._directory = resumed.lease, resumed.note.cwd
        self._is_forked = self._arguments is None
        return resumed.prefix

    async def _start(self, environment: dict[str, str], cwd: str | None) -> str:
        lease = self._lease
        if self._place is not None:
            lease = self._lease = await self._reach(self._place.lease)
        if lease is not None and (lease.loss is not None or not lease.is_connected):
            lease.tenants.discard(self._identity.seat)
            lease.close()
            self._restriction = lease.restriction
            if not (lease.is_kept or lease.tenants):
                self._tell.left(lease)
            lease = None
        elif lease is not None and await self.poll() is None:
            await self.kill()  # a second start without a shutdown replaces the kernel
            async with asyncio.timeout(_REPLACE_S):
                await self.wait()
        kernel = self._identity.kernel(
            argv=self._arguments,
            environment=environment,
            cwd=self._showing(cwd),
            place=self._place,
            manager=self.parent,
        )
        started = None
        if lease is None:
            lease = self._lease = await self._claim(cwd, kernel)
            started = lease.first
        if started is None:
            lease.tenants.add(self._identity.seat)
            lease.exits.pop(self._identity.seat, None)
            if self.launches:  # what is paused just now would refuse the next kernel, too, and be left by it
                await self._go_on()
            request = verbs.StartKernel(sandbox=lease.sandbox, **vars(kernel))
            started = await client.call(request, verbs.KernelStarted)
        await self._identity.note_late(lease.sandbox)
        self._is_forked = started.is_forked
        return started.prefix

    async def _reach(self, lease: client.Lease) -> client.Lease:
        """Return the lease of the place we are to start in; raises StartError when it is gone for good."""
        lease.listen()
        if not lease.is_connected and lease.loss is None:
            await self._reattach(lease)
        if lease.loss is not None or not lease.is_connected:
            raise StartError(lease.loss or f"{lease.sandbox} has ended")
        return lease

    async def _claim(self, cwd: str | None, kernel: verbs.Kernel) -> client.Lease:
        """Claim a sandbox and start `kernel` in it."""
        keepsake = client.Keepsake(server=server_of(self.parent))
        lease, self._directory = await showing.claim(
            self.template,
            self._shows(),
            cwd,
            self._spec,
            kernel,
            keepsake,
            self._tell.on_behalf,
            self._restriction,
            self.log,
        )
        self._tell.claimed(lease)
        return lease

    def _shows(self) -> str:
        """Return the mode of the workspace: a token's bearer has no part in the server's files."""
        hides = getattr(self.parent, "sandbox_hides_files", False)
        return str(WorkspaceMode.NONE) if hides else str(self.workspace)

    def _showing(self, cwd: str | None) -> str | None:
        """Return the directory that the workspace of a sandbox of its own shows; None when it shows none."""
        is_shown = self._place is None and self._shows() != WorkspaceMode.NONE
        return os.path.realpath(cwd or ".") if is_shown else None

    async def note_sessions(self, sessions: tuple[notes.Session, ...]) -> None:
        """Note which sessions of Jupyter's have the kernel, for the next start of its server. Raises SandboxError."""
        if self._lease is not None:
            await self._identity.note_sessions(self._lease.sandbox, sessions)

    async def _reattach(self, lease: client.Lease) -> None:
        """The broker died: find the sandbox again with the next one."""
        now = time.monotonic()
        self._broker_away_since = self._broker_away_since or now
        try:
            await lease.reattach()
        except BrokerUnavailableError as error:
            self.log.warning("Kernel %s: the broker is gone: %s", self.kernel_id, error)
            if now - self._broker_away_since > _GIVE_UP_S:
                lease.loss = "The sandbox was lost: its broker is gone and none could be started."
            return
        self._broker_away_since = None

    async def _give_back(self) -> None:
        """Leave the sandbox. Who leaves it last destroys it and waits until that is done, unless it is kept.

        A broker that is gone destroys it by itself.
        """
        lease, was_launched = self._lease, self._launched
        if lease is not None and was_launched:
            self._tell.ended(lease, self._end_of_kernel())
        self._lease, self._launched = None, False
        if lease is None:
            return
        lease.tenants.discard(self._identity.seat)
        self._restriction = lease.restriction
        if lease.is_kept or lease.tenants:
            with contextlib.suppress(SandboxError):
                await lease.vacate(self._identity.seat)
            return
        with contextlib.suppress(SandboxError):
            await client.call(verbs.Release(sandbox=lease.sandbox), verbs.Done, start=False)
        lease.close()
        self._tell.left(lease)

    def _end_of_kernel(self) -> KernelEnd:
        """Return why the kernel that was launched last ended; one that lives is about to be asked to."""
        if self._lease is None:
            return KernelEnd.UNKNOWN
        if self._lease.loss:
            return KernelEnd.LOST
        end = self._lease.exits.get(self._identity.seat)
        return KernelEnd.REQUESTED if end is None or self._shutdown_requested else kernel_end(end.reason)
