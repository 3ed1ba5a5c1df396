"""Containers of a Docker engine that runs already: which belong to a system, and their removal. Standard library only.

A container belongs to a server when it shows something of the server's private directory, or when its name begins with
that directory's name: no label is needed, so that what other programs run on the same engine is never touched. Source:
Docker Engine API 1.41.
"""

from __future__ import annotations

import http.client
import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterator

USUAL_SOCKET = "/var/run/docker.sock"
TIMEOUT_S = 60.0


class EngineError(Exception):
    """The container engine does not answer, or refuses."""


class _Connection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def socket_path() -> str:
    """Return where the engine is to be reached; DOCKER_HOST counts when it names a unix socket."""
    return os.environ.get("DOCKER_HOST", "").removeprefix("unix://") or USUAL_SOCKET


def request(
    method: str, path: str, body: bytes | None = None, *, timeout_s: float = TIMEOUT_S, fine: tuple[int, ...] = ()
) -> tuple[int, bytes]:
    """Ask the engine; returns status and answer. Raises EngineError for statuses that are neither 2xx nor in `fine`."""
    connection = _Connection(socket_path(), timeout_s)
    headers = {"Content-Type": "application/x-tar"} if body else {}
    try:
        connection.request(method, path, body=body, headers=headers)
        response = connection.getresponse()
        answer = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise EngineError(f"the container engine does not answer: {error}") from error
    finally:
        connection.close()
    if response.status >= 300 and response.status not in fine:
        raise EngineError(f"{method} {path.partition('?')[0]} answered {response.status}: {answer[-300:]!r}")
    return response.status, answer


def lack_of_image(name: str) -> str | None:
    """Return why containers of this image cannot be made here, None when they can."""
    try:
        status, _ = request("GET", f"/images/{quote(name)}/json", timeout_s=5, fine=(404,))
    except EngineError as error:
        return str(error)
    return None if status == 200 else f"there is no image {name}"


def belongs(container: dict[str, Any], directory: Path) -> bool:
    """Whether a container, as the engine lists it, belongs to the server with this private directory."""
    sources = [Path(mount.get("Source") or "/") for mount in container.get("Mounts") or ()]
    names = container.get("Names") or ()
    return any(directory in source.parents for source in sources) or any(
        name.lstrip("/").startswith(directory.name) for name in names
    )


def of_directory(directory: Path) -> list[str]:
    """Return the ids of the containers that belong to the server with this private directory."""
    _, answer = request("GET", "/containers/json?all=1")
    return [container["Id"] for container in json.loads(answer) if belongs(container, directory)]


def remove(container_id: str) -> None:
    """Kill and remove a container; quiet when it is gone or going."""
    request("DELETE", f"/containers/{container_id}?force=1&v=1", fine=(404, 409))


def output_of(image: str, command: list[str]) -> str:
    """Run a command in a throw-away container of `image` and return what it printed."""
    body = json.dumps({"Image": image, "Cmd": command, "Tty": True, "HostConfig": {"NetworkMode": "none"}}).encode()
    connection = _Connection(socket_path(), TIMEOUT_S)
    try:
        connection.request("POST", "/containers/create", body=body, headers={"Content-Type": "application/json"})
        made = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException) as error:
        raise EngineError(f"no container can be made: {error}") from error
    finally:
        connection.close()
    if "Id" not in made:
        raise EngineError(f"no container can be made: {made}")
    try:
        request("POST", f"/containers/{made['Id']}/start")
        request("POST", f"/containers/{made['Id']}/wait")
        return request("GET", f"/containers/{made['Id']}/logs?stdout=1")[1].decode().strip()
    finally:
        remove(made["Id"])


def build(archive: bytes, name: str) -> Iterator[str]:
    """Build an image from a tar archive with a Dockerfile; yields what the engine says. Raises EngineError."""
    _, answer = request("POST", f"/build?t={quote(name)}&rm=1&forcerm=1", archive, timeout_s=900)
    for line in answer.splitlines():
        event = json.loads(line)
        if "error" in event:
            raise EngineError(str(event["error"]).strip())
        if text := str(event.get("stream") or "").strip():
            yield text
