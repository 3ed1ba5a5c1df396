"""How long an event loop could not run something else, and how much memory its process took meanwhile."""

from __future__ import annotations

import asyncio
import os
import threading
import time

_PAGE_MIB = os.sysconf("SC_PAGE_SIZE") / (1 << 20)


class Ticker:
    """Measures how long the loop could not run something else, less what the whole process or machine stood still."""

    def __init__(self) -> None:
        self.longest_work_s = 0.0
        """The most processor time that one callback of the loop took: whatever else the machine does."""
        self.longest_turn_s = 0.0
        """The most that all its callbacks took between two turns of ours: much may have come while the machine stood."""
        self._stop = threading.Event()
        self._stalls: list[tuple[float, float]] = []
        self._gaps: list[tuple[float, float]] = []
        self._thread = threading.Thread(target=self._tick_in_thread, daemon=True)
        self.peak_mib = 0.0

    def _tick_in_thread(self) -> None:
        before = time.monotonic()
        with open("/proc/self/statm") as statm:
            while not self._stop.is_set():
                time.sleep(0.002)
                now = time.monotonic()
                self._stalls.append((before, now))
                before = now
                statm.seek(0)
                self.peak_mib = max(self.peak_mib, int(statm.read().split()[1]) * _PAGE_MIB)

    async def _tick_in_loop(self) -> None:
        before, worked = time.monotonic(), time.thread_time()
        while True:
            await asyncio.sleep(0.002)
            now, work = time.monotonic(), time.thread_time()
            self.longest_turn_s, worked = max(self.longest_turn_s, work - worked), work
            self._gaps.append((before, now))
            before = now

    def _measured(self, loop: asyncio.AbstractEventLoop, handle: asyncio.Handle) -> None:
        """Run a callback of any loop of this process; what takes time on the given one counts."""
        began = time.thread_time()
        self._run(handle)
        if handle._loop is loop:
            self.longest_work_s = max(self.longest_work_s, time.thread_time() - began)

    def start(self) -> None:
        self._thread.start()
        loop = asyncio.get_running_loop()
        self._task = loop.create_task(self._tick_in_loop())
        self._run = asyncio.Handle._run
        asyncio.Handle._run = lambda handle: self._measured(loop, handle)

    async def stop(self) -> None:
        await asyncio.sleep(0.01)
        asyncio.Handle._run = self._run
        self._task.cancel()
        self._stop.set()
        self._thread.join()

    async def __aenter__(self) -> Ticker:
        self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    def longest_block_s(self) -> float:
        """The longest gap of the loop in which a thread of the same process could still run."""
        longest = 0.0
        for start, end in self._gaps:
            if end - start <= longest:
                continue
            stalls = [min(end, e) - max(start, s) for s, e in self._stalls if s < end and e > start]
            longest = max(longest, end - start - max(stalls, default=0.0))
        return longest
