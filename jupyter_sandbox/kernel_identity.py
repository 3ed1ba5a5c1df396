"""Who a kernel is, for its clients and for the next start of its server: seat, key and note; the same over restarts."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final, cast

import zmq

from jupyter_sandbox import notes, owners
from jupyter_sandbox.broker import left, verbs
from jupyter_sandbox.errors import InvalidRequestError
from jupyter_sandbox.guards import ids
from sandbox_worker.protocol import PORTS, CurveKeys

if TYPE_CHECKING:
    from jupyter_client.connect import KernelConnectionInfo

    from jupyter_sandbox.broker.client import Lease

_EARLY_NOTE: Final = 8192
"""Characters of a note that goes along with the request to start a kernel, which holds its environment as well."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where in a sandbox that exists a kernel is to start: the keyword `place` of `start_kernel`.

    `directory` None: where all of its kernels start. Restarts happen in the same place.
    """

    lease: Lease
    directory: str | None = None
    environment: dict[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class Resumed:
    """A kernel that was started by the server before this one: the keyword `resumed` of `start_kernel`.

    What it was noted to be, its seat, and the prefix of its socket paths, which the broker tells.
    """

    lease: Lease
    seat: str
    prefix: str
    note: notes.KernelNote


class Identity:
    """See the module."""

    def __init__(self) -> None:
        """Be somebody new, with a key of its own."""
        self.seat: str = ids.new_seat()
        self._key = os.urandom(32).hex()
        self._curve: CurveKeys | None = None
        self._note: notes.KernelNote | None = None
        self._late_note = ""

    def resume(self, resumed: Resumed) -> None:
        """Be who was noted."""
        self.seat, self._note = resumed.seat, resumed.note
        self._key, self._curve = resumed.note.key, resumed.note.curve

    def encrypt(self) -> None:
        """Have a pair of keys for CurveZMQ, once."""
        if self._curve is None:
            public, secret = zmq.curve_keypair()
            self._curve = CurveKeys(public=public.decode(), secret=secret.decode())

    def connection_info(self, prefix: str) -> KernelConnectionInfo:
        """Return what clients have to know; `prefix` is that of the socket paths."""
        ports = {f"{name}_port": number for number, name in enumerate(PORTS, start=1)}
        identity = {"transport": "ipc", "ip": prefix, "key": self._key.encode(), "signature_scheme": "hmac-sha256"}
        if self._curve is not None:
            identity |= {"curve_publickey": self._curve.public, "curve_secretkey": self._curve.secret}
        return cast("KernelConnectionInfo", identity | ports)

    def kernel(
        self,
        *,
        argv: tuple[str, ...] | None,
        environment: dict[str, str],
        cwd: str | None,
        place: Place | None,
        manager: Any,
    ) -> verbs.Kernel:
        """Return what the broker is asked to start, for Jupyter's `manager` of it.

        `cwd`: the host directory that the workspace of a sandbox of its own shows, if it shows one.
        """
        guest = notes.Guest(directory=place.directory, environment=place.environment) if place else None
        if server_of(manager):
            self._note = notes.KernelNote(
                kernel_id=str(manager.kernel_id),
                kernel_name=str(manager.kernel_name),
                owner=owners.of_kernel(manager),
                hides_files=bool(getattr(manager, "sandbox_hides_files", False)),
                key=self._key,
                curve=self._curve,
                environment=environment,
                cwd=cwd,
                guest=guest,
                sessions=self._note.sessions if self._note else (),
            )
        text = notes.text_of(self._note) if self._note else ""
        self._late_note = text if len(text) > _EARLY_NOTE else ""
        return verbs.Kernel(
            seat=self.seat,
            argv=argv,
            env=environment | (place.environment if place else {}),
            cwd=place.directory if place else None,
            key=self._key,
            curve=self._curve,
            note="" if self._late_note else text,
        )

    async def note_late(self, sandbox: str) -> None:
        """Once it has started, note what was too long to go along with the request. Raises SandboxError.

        A kernel whose environment is too long for that, too, starts all the same; the next server ends it.
        """
        late, self._late_note = self._late_note, ""
        if not late:
            return
        try:
            await left.write_note(sandbox, late, self.seat)
        except InvalidRequestError as error:
            log.warning("the next start of this server will not find it again, a kernel in %s: %s", sandbox, error)

    async def note_sessions(self, sandbox: str, sessions: tuple[notes.Session, ...]) -> None:
        """Note which sessions of Jupyter's have it; quiet when nothing is noted of it. Raises SandboxError."""
        kept = sessions[: notes.MAX_SESSIONS]
        if self._note is not None and kept != self._note.sessions:
            self._note = replace(self._note, sessions=kept)
            await left.write_note(sandbox, notes.text_of(self._note), self.seat)


def server_of(manager: Any) -> str:
    """Return the name of the server that a kernel manager belongs to; empty where there is none that adopts."""
    return str(getattr(manager, "sandbox_server", ""))
