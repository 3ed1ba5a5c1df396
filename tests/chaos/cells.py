"""A client that runs a cell, loses its websocket again and again, and comes back with the same session, as JupyterLab does.

What it had read before a cut, it has; what it had not is gone with the connection. It judges what it got of the cell.
"""

from __future__ import annotations

import asyncio
import collections
import contextlib
import os
import random
import re
import socket
import struct
import uuid

from tornado.httpclient import HTTPRequest
from tornado.websocket import websocket_connect

from tests.chaos.history import Violation
from tests.chaos.system import System
from tests.faults.servers import TOKEN
from tests.server.notebook import Notebook

LINES = 40
CELL = """
import sys, time
n = globals().get('n', 0) + 1
for i in range({lines}):
    sys.stdout.write(f'{{i}}\\n')  # in one piece: what print writes in two can be sent in two messages
    sys.stdout.flush()
    time.sleep({pause_s})
"""
GAP = re.compile(r"([\d,]+) messages with [\d,]+ bytes (?:of output may be missing here|were dropped while)")
WAYS = ("closed", "reset", "ended", "forgotten")
"""A websocket is closed as a browser does it; its connection is reset, or ended, or left open and never read again."""
END_S = 30


class Cell:
    """What a client has of one execution."""

    def __init__(self, msg_id: str) -> None:
        self.msg_id = msg_id
        self.text = self.gaps = ""
        self.has_reply = self.is_idle = self.was_seen = False

    @property
    def is_over(self) -> bool:
        return self.has_reply and self.is_idle

    def take(self, message: dict) -> None:
        """One message, whichever."""
        if message["parent_id"] != self.msg_id:
            return
        self.was_seen = True
        content = message["content"]
        match message["msg_type"]:
            case "stream" if content["name"] == "stdout":
                self.text += content["text"]
            case "stream":
                self.gaps += content["text"]
            case "execute_reply":
                self.has_reply = True
            case "status":
                self.is_idle = self.is_idle or content["execution_state"] == "idle"

    def judge(self) -> bool:
        """Raise unless each number came once, but for as many as gaps told; return whether one was told.

        Each number is a message of its own, and a gap tells how many of them may be missing.
        """
        numbers = [int(line) for line in self.text.split()]
        gaps = [int(each.replace(",", "")) for each in GAP.findall(self.gaps)]
        if numbers != sorted(set(numbers)) or not set(numbers) <= set(range(LINES)):
            raise Violation(f"doubled or out of order: {numbers}")
        if LINES - len(numbers) > sum(gaps):
            missing = sorted(set(range(LINES)) - set(numbers))
            raise Violation(f"{sum(gaps)} lost were told, and {len(missing)} were: {missing}; said was {self.gaps!r}")
        return bool(gaps)


class Client:
    """One person with a notebook and a bad line."""

    def __init__(self, system: System, kernel_id: str, chance: random.Random) -> None:
        self._system, self._kernel_id, self._chance = system, kernel_id, chance
        self._session = uuid.uuid4().hex
        self._forgotten: list[int] = []
        self.cuts: collections.Counter[str] = collections.Counter()
        self.cells = self.told = self.unsent = 0

    async def open(self) -> Notebook:
        """Connect, always with the same session."""
        address = (
            f"ws://{self._system.address.netloc}/api/kernels/{self._kernel_id}/channels?session_id={self._session}"
        )
        request = HTTPRequest(address, headers={"Authorization": f"token {TOKEN}"})
        return Notebook(await websocket_connect(request), None)

    async def one_cell(self, cuts: int) -> None:
        """Run a cell, be cut so often, and look at what came of it."""
        notebook = await self.open()
        cell = Cell(notebook.start(CELL.format(lines=LINES, pause_s=self._chance.choice((0, 0.002, 0.01)))))
        for _ in range(cuts):
            await self._listen(notebook, cell)
            await asyncio.sleep(self._chance.choice((0, 0, 0.05, 0.3)))
            notebook = await self.open()
        await self._to_the_end(notebook, cell)
        await notebook.closed()
        while self._forgotten:
            os.close(self._forgotten.pop())
        if cell.was_seen:
            self.cells += 1
            self.told += cell.judge()
        else:
            self.unsent += 1

    async def counted(self) -> int:
        """How many cells the kernel has run."""
        notebook = await self.open()
        text = await notebook.run("print(globals().get('n', 0))")
        await notebook.closed()
        return int(text)

    async def _listen(self, notebook: Notebook, cell: Cell) -> None:
        """Take what comes until the line is cut, and what had come until then."""

        async def listen() -> None:
            with contextlib.suppress(AssertionError):  # it is closed
                while True:
                    cell.take(await notebook.receive(END_S))

        listening = asyncio.create_task(listen())
        await asyncio.sleep(self._chance.uniform(0, 0.4))
        self._cut(notebook)
        await listening

    def _cut(self, notebook: Notebook) -> None:
        way, stream = self._chance.choice(WAYS), notebook.stream
        self.cuts[way] += 1
        if way == "reset":
            stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if way == "forgotten":  # the other end hears nothing of it
            self._forgotten.append(os.dup(stream.socket.fileno()))
        if way != "closed":
            stream.close()
        notebook.close()

    async def _to_the_end(self, notebook: Notebook, cell: Cell) -> None:
        """Wait for the end of a cell; if the kernel answers a later question first, it never got the cell."""
        question = notebook.send("kernel_info_request", {})
        async with asyncio.timeout(END_S):
            while not cell.is_over:
                message = await notebook.receive(END_S)
                cell.take(message)
                if (message["parent_id"], message["msg_type"]) == (question, "kernel_info_reply") and not cell.was_seen:
                    return
