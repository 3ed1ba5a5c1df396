"""A client that finds no broker starts one in the background: once for all of its process that wait for it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import json
import os
import sys
from typing import TYPE_CHECKING, Final

from jupyter_sandbox import errors
from jupyter_sandbox.broker import verbs
from jupyter_sandbox.host import places
from jupyter_sandbox.host.channel import Channel

if TYPE_CHECKING:
    from pathlib import Path

_LOOK_S: Final = 0.05

_starts: dict[Path, concurrent.futures.Future[None]] = {}
"""Starts of brokers that are under way in this process, by the socket."""


async def once(socket: Path, deadline: float, retry_s: float) -> None:
    """Start a broker, or wait for whoever in this process is at it: a start costs a processor a second.

    Many who come together and start one each keep it from starting. Called from any event loop.
    """
    under_way = _starts.get(socket)
    if under_way is not None:
        await asyncio.shield(asyncio.wrap_future(under_way))
        return
    mine = _starts[socket] = concurrent.futures.Future()
    try:
        await _start(socket, deadline, retry_s)
    except errors.SandboxError as error:
        mine.set_exception(error)
        raise
    finally:
        del _starts[socket]
        if not mine.done():
            mine.set_result(None)


async def _start(socket: Path, deadline: float, retry_s: float) -> None:
    """Start a broker in the background. When another client was faster, wait so long for that one to serve."""
    loop = asyncio.get_running_loop()
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "jupyter_sandbox.broker", "--background"),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        raise errors.BrokerUnavailableError(f"no process could be made for the broker: {error}") from error
    try:
        async with asyncio.timeout_at(deadline):
            _, said = await process.communicate()
    except TimeoutError as error:
        raise errors.BrokerUnavailableError("the broker did not start in time") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode == 0:
        return
    word = {"code": "broker_unavailable", "message": said.decode(errors="replace")[-500:]}
    with contextlib.suppress(ValueError, IndexError):
        word = json.loads(said.splitlines()[-1])
    if "another broker" in str(word.get("message")) and loop.time() < deadline:
        again_at = loop.time() + retry_s
        while loop.time() < again_at and not await _serves(socket):  # noqa: ASYNC110 - another process has no event
            await asyncio.sleep(_LOOK_S)  # it is starting or ending
        return
    raise errors.from_code(str(word.get("code")), str(word.get("message")), None)


async def _serves(socket: Path) -> bool:
    try:
        (await Channel.connect(socket, verbs.ANSWERS)).close()
    except OSError:
        return False
    return True


def absence() -> str:
    """Say that nobody listens, for who may start no broker."""
    if places.SOCKET_VARIABLE in os.environ:
        return f"nobody listens at the socket that {places.SOCKET_VARIABLE} names; its operator starts the broker"
    return "no broker runs for this user and Python environment; the next kernel starts one, which finds what lives"
