"""Whose websocket ends when somebody comes with the session it was opened with."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest
from jupyter_server.services.kernels.connection.channels import ZMQChannelsWebsocketConnection

from jupyter_sandbox import websocket_opening

pytestmark = pytest.mark.unit


def coming(*, may: bool):
    """Who comes with the session `tab` of the kernel `k`."""
    authorizer = SimpleNamespace(is_authorized=lambda *_: may)
    return SimpleNamespace(kernel_id="k", get_argument=lambda *_: "tab", authorizer=authorizer, current_user="somebody")


@pytest.mark.parametrize("may", [True, False])
async def test_only_who_may_use_the_kernel_ends_the_websocket_that_is_open(monkeypatch, may):
    ended = asyncio.Event()
    stale = SimpleNamespace(ended=ended, ws_connection=SimpleNamespace(stream=SimpleNamespace(close=ended.set)))
    monkeypatch.setitem(ZMQChannelsWebsocketConnection._open_sessions, "k:tab", stale)
    await websocket_opening.end_stale(coming(may=may))
    assert ended.is_set() == may
