"""The Docker daemon (or Podman, which speaks the same language) as an asynchronous collaborator.

Each call runs in a thread of a small pool of its own and has a time limit; nothing here blocks the event loop. A
call that is cancelled is waited for all the same: only so can its caller undo what it did. Errors of two kinds leave:
EngineUnavailableError when the daemon does not answer, StartError when it refuses.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
import socket
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from jupyter_sandbox.errors import EngineUnavailableError, IsolationUnavailableError, StartError
from jupyter_sandbox.host import processes, tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    import docker

HOST_VARIABLE: Final = "DOCKER_HOST"
DEFAULT_SOCKET: Final = "unix:///var/run/docker.sock"
TIMEOUT_S: Final = 30
_PROBE_TIMEOUT_S: Final = 5
_THREADS: Final = 4
_REMOVAL_POLL_S: Final = 0.02
_RETRY_AFTER_S: Final = 5
_INSTALL: Final = "pip install '.[docker]' in the checkout"


class _MissingError(Exception):
    """There is no such container or image; never leaves this module."""


def address() -> str:
    """Return the address of the daemon: `DOCKER_HOST`, else Docker's usual socket."""
    return os.environ.get(HOST_VARIABLE) or DEFAULT_SOCKET


def socket_exists() -> bool:
    """Whether a daemon may be there at all; cheap, and imports nothing."""
    kind, _, path = address().partition("://")
    return kind == "unix" and Path(path).exists()


def client(timeout_s: int) -> docker.APIClient:
    """Return a blocking client of the daemon of this machine.

    Raises IsolationUnavailableError when there can be none, and one of `failures` when the daemon does not answer.
    """
    if not address().startswith("unix://"):
        raise IsolationUnavailableError(
            f"workers need a container engine of this machine, by its unix socket; {HOST_VARIABLE} names another"
        )
    try:
        import docker
    except ImportError as error:
        raise IsolationUnavailableError(f"the Docker library is not installed: {_INSTALL}") from error
    return docker.APIClient(base_url=address(), timeout=timeout_s)


def failures() -> tuple[type[Exception], ...]:
    """Return what calls of a blocking client raise."""
    import docker.errors

    return (docker.errors.DockerException, OSError)


def reason(error: BaseException) -> str:
    """Return the daemon's own words for a failure, at most 500 characters."""
    return str(getattr(error, "explanation", None) or error)[:500].strip()


class Daemon:
    """A connection to the daemon of this machine."""

    def __init__(self, client: docker.APIClient, executor: ThreadPoolExecutor) -> None:
        """Use `connect` instead."""
        self._client = client
        self._executor = executor

    @classmethod
    async def connect(cls, timeout_s: int = TIMEOUT_S) -> Daemon:
        """Connect; raises IsolationUnavailableError when this can never work, EngineUnavailableError when not now."""
        executor = ThreadPoolExecutor(_THREADS, thread_name_prefix="docker")
        try:
            connected = await _run(executor, lambda: client(timeout_s))
        except BaseException:
            executor.shutdown(wait=False)
            raise
        return cls(connected, executor)

    @classmethod
    async def probe(cls) -> Daemon:
        """Connect with a short time limit, to find out whether there is one; raises as `connect`."""
        return await cls.connect(_PROBE_TIMEOUT_S)

    def close(self) -> None:
        """Let go; quiet when done twice."""
        self._executor.shutdown(wait=False, cancel_futures=True)
        self._client.close()

    def process(self) -> tuple[str, str]:
        """Return what /proc says of the process at the socket, `status` and `limits`; empty texts when unknown."""
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as peer:
                peer.settimeout(1)
                peer.connect(address().removeprefix("unix://"))
                pid = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
            return Path(f"/proc/{pid}/status").read_text(), Path(f"/proc/{pid}/limits").read_text()
        except OSError:
            return "", ""

    async def version(self) -> dict[str, Any]:
        """Return SystemVersion."""
        return dict(await self._call(self._client.version))

    async def info(self) -> dict[str, Any]:
        """Return SystemInfo."""
        return dict(await self._call(self._client.info))

    async def image_labels(self, name: str) -> dict[str, str] | None:
        """Return the labels of an image, None when there is none of that name."""
        try:
            found = await self._look(self._client.inspect_image, name)
        except _MissingError:
            return None
        labels = (found.get("Config") or {}).get("Labels") or {}
        return {str(key): str(value) for key, value in labels.items()}

    async def create(self, name: str, config: Mapping[str, Any]) -> None:
        """Create the container `name`."""
        await self._call(self._client.create_container_from_config, dict(config), name)

    async def start(self, name: str) -> int:
        """Start a container; return its pid 1 as the host numbers it."""
        await self._call(self._client.start, name)
        state = (await self._call(self._client.inspect_container, name))["State"]
        pid = state.get("Pid")
        if not isinstance(pid, int) or pid <= 0:
            raise StartError(f"the container {name} ended at once (exit status {state.get('ExitCode')})")
        return pid

    async def update(self, name: str, resources: Mapping[str, Any]) -> None:
        """Hold a container to other limits: part of its `HostConfig`."""
        await self._call(self._update, name, resources)

    def _update(self, name: str, resources: Mapping[str, Any]) -> None:
        """Ask for it by docker-py's session, since its `update_container` knows neither `NanoCpus` nor `PidsLimit`."""
        import docker.errors

        url = f"{self._client.base_url}/v{self._client.api_version}/containers/{name}/update"
        answer = self._client.post(url, json=dict(resources), timeout=self._client.timeout)
        if not answer.ok:
            raise docker.errors.APIError(answer.reason, answer, answer.text)

    async def pause(self, name: str) -> None:
        """Freeze every process of a container; quiet when they are."""
        if not await self._is_paused(name):
            await self._call(self._client.pause, name)

    async def resume(self, name: str) -> None:
        """Let every process of a container go on; quiet when they do."""
        if await self._is_paused(name):
            await self._call(self._client.unpause, name)

    async def _is_paused(self, name: str) -> bool:
        return bool((await self._call(self._client.inspect_container, name))["State"].get("Paused"))

    async def end_start(self, name: str) -> None:
        """Kill what waits for a start that the daemon did not live to make: a new one only forgets it. Else quiet."""
        with contextlib.suppress(_MissingError):
            found = await self._look(self._client.inspect_container, name)
            if found["State"].get("Status") == "created":
                await asyncio.to_thread(processes.kill_in_group, str(found["Id"]))

    async def remove(self, name: str) -> None:
        """Kill and remove a container and wait until it is gone; quiet when there is none."""
        async with asyncio.timeout(TIMEOUT_S):
            with contextlib.suppress(_MissingError):
                while True:  # somebody else may be removing it: the daemon itself, once its pid 1 has ended
                    await self._look(self._remove, name)
                    await self._look(self._client.inspect_container, name)
                    await asyncio.sleep(_REMOVAL_POLL_S)

    def _remove(self, name: str) -> None:
        import docker.errors

        try:
            self._client.remove_container(name, force=True, v=True)
        except docker.errors.APIError as error:
            is_just_ending = error.status_code == 409 or "container state improper" in reason(error)  # Docker, Podman
            if not is_just_ending:
                raise

    async def containers(self, label: str) -> dict[str, dict[str, str]]:
        """Return the labels of all containers, running or not, that carry `label` (`key=value`), by name."""
        found = await self._call(self._client.containers, all=True, filters={"label": label})
        return {str(each["Names"][0]).lstrip("/"): dict(each.get("Labels") or {}) for each in found}

    async def _call(self, function: Callable[..., Any], *args: object, **kwargs: object) -> Any:
        """Call for something that must be there."""
        try:
            return await self._look(function, *args, **kwargs)
        except _MissingError as error:
            raise StartError(f"the container engine lost what it had: {error}") from error

    async def _look(self, function: Callable[..., Any], *args: object, **kwargs: object) -> Any:
        """Call for something that may be missing; raises _MissingError then."""
        return await _run(self._executor, functools.partial(function, *args, **kwargs))


async def _run(executor: ThreadPoolExecutor, function: Callable[[], Any]) -> Any:
    try:
        return await tasks.whole(asyncio.get_running_loop().run_in_executor(executor, function))
    except Exception as error:
        raise _translated(error) from error


def _translated(error: Exception) -> Exception:
    """Return the error of ours for one of a call; those of ours, and those that nobody foresaw, as they are."""
    import docker.errors

    match error:
        case docker.errors.NotFound():
            return _MissingError(f"not found: {reason(error)}")
        case docker.errors.APIError():
            return StartError(f"the container engine refused: {reason(error)}")
        case docker.errors.DockerException() | OSError():
            return EngineUnavailableError(
                "the container engine does not answer; it may be restarting", retry_after_s=_RETRY_AFTER_S
            )
    return error
