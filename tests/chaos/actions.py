"""What is done to the system, step by step: each picks its target by a number, and tells the history what it saw."""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Collection
from datetime import UTC, datetime, timedelta

from tests.chaos.cells import Client
from tests.chaos.history import Context, History, Sandbox
from tests.chaos.system import READY_S, TIMEOUT_S, Answer, System
from tests.conftest import wait_until

TEMPLATE = "small"
MARKER = "marker"
COUNT = "n = globals().get('n', 0) + 1; print({token!r}, n)"
LINES = 40
STREAM = (
    "import time\nprint('begun', flush=True)\nfor i in range({lines}): print(i, flush=True); time.sleep({pause_s})\n"
)
FILL = """
import os
with open('/sandbox/filler', 'wb', buffering=0) as file:
    try:
        while True: file.write(bytes(1 << 16))
    except OSError as error: print(error.errno)
"""
MOST = 4
STEPS_S = (0, 3600, -3600)


class Chaos:
    """One run: a system, and the history of what was done to it."""

    ACTIONS = (
        "claim",
        "add_context",
        "run",
        "stream",
        "upload",
        "download",
        "restart",
        "pause",
        "fill",
        "release",
        "kill_server",
        "kill_broker",
        "kill_broker_of_paused",
        "kill_zygote",
        "kill_kernel",
        "kill_agent",
        "kill_dockerd",
        "cut_upload",
        "cut_websocket",
        "step_clock",
    )

    def __init__(self, system: System) -> None:
        self.system, self.history = system, History()
        self.executions = 0
        self.beside: set[str] = set()
        """Sandboxes of others, which are listed too."""
        self.recovered_s: dict[str, list[float]] = {}
        """How long it took until everything was ready again, by what was killed."""
        self._occupied: set[str] = set()
        """Contexts that run something, or are paused."""

    def act(self, action: str, pick: int) -> None:
        """Do one thing, if there is something to do it to, and look whether everything is as it must be."""
        began = time.monotonic()
        if getattr(self, action)(pick) is not None:
            self.history.note(f"{action} {time.monotonic() - began:.2f} s")
            self.history.listed(self.system.listed() - self.beside)

    # -- what a client does

    def claim(self, _pick: int) -> bool | None:
        """A sandbox, which must be new."""
        if len(self.history.sandboxes) >= MOST:
            return None
        answer = self._ask("POST", body={"template": TEMPLATE})
        assert answer.status == 201, answer
        sandbox_id = answer.body["id"]
        before = self._ask("GET", sandbox_id, "files", "", status={200}).body["entries"]
        self.history.claimed(sandbox_id, " ".join(entry["name"] for entry in before))
        self._ask("PUT", sandbox_id, "files", MARKER, raw=sandbox_id.encode(), status={200, 201, 204})
        self.history.sandboxes[sandbox_id].files[MARKER] = {sandbox_id.encode()}
        return True

    def add_context(self, pick: int) -> bool | None:
        """A kernel more in a sandbox."""
        found = self._sandbox(pick)
        if found is None or len(found[1].contexts) >= 2:
            return None
        answer = self._ask("POST", found[0], "contexts", body={})
        assert answer.status == 201, answer
        found[1].contexts[answer.body["id"]] = Context()
        return True

    def run(self, pick: int) -> bool | None:
        """Code whose output says which it is, and how often code was run there."""
        found = self._context(pick)
        if found is None:
            return None
        sandbox_id, _, context_id, context = found
        self._count(sandbox_id, context_id, context)
        return True

    def stream(self, pick: int) -> bool | None:
        """Output of many pieces, with nothing killed meanwhile."""
        return self._through(pick, None)

    def upload(self, pick: int) -> bool | None:
        """A file anew."""
        found = self._sandbox(pick)
        if found is None:
            return None
        name, content = f"file{pick % 3}", secrets.token_bytes(64 + pick % 100_000)
        answer = self._ask("PUT", found[0], "files", name, raw=content, status={200, 201, 204, 507})
        assert answer.status != 507 or found[1].is_full, answer
        self.history.wrote(found[1], name, content, is_done=answer.status != 507)
        return True

    def cut_upload(self, pick: int) -> bool | None:
        """An upload whose client goes away in the middle: the old file is there, whole."""
        found = self._sandbox(pick)
        if found is None:
            return None
        self.system.half_upload(found[0], f"file{pick % 3}", 100_000, 1 + pick % 90_000)
        return self.download(pick)

    def download(self, pick: int) -> bool | None:
        """Every file of a sandbox."""
        found = self._sandbox(pick)
        if found is None:
            return None
        for name in [*found[1].files, f"file{pick % 3}"]:
            answer = self._ask("GET", found[0], "files", name, download="1", status={200, 404})
            self.history.read(found[1], name, answer.body if answer.status == 200 else None)
        return True

    def cut_websocket(self, pick: int) -> bool | None:
        """Output whose client is cut once or twice, and comes back: it comes once, but for what a gap tells."""
        found = self._context(pick)
        if found is None:
            return None
        self.run(pick)
        client = Client(self.system, found[2], random.Random(pick))
        asyncio.run(client.one_cell(1 + pick % 2))
        self.executions += client.cells
        self.history.counted(found[3], client.cells)
        self.run(pick)
        return True

    def restart(self, pick: int) -> bool | None:
        """A kernel anew in its place."""
        found = self._context(pick)
        if found is None:
            return None
        answer = self._ask("POST", found[0], "contexts", found[2], "restart", status={200})
        assert answer.body["id"] == found[2]
        self.history.began_anew(found[3])
        return True

    def pause(self, pick: int) -> bool | None:
        """What is paused goes on where it was."""
        return self._paused(pick, lambda: None)

    def fill(self, pick: int) -> bool | None:
        """The disk of a sandbox until there is no room."""
        found = self._context(pick)
        if found is None or found[1].is_full:
            return None
        self.run(pick)
        answer = self._execute(found[0], found[2], FILL)
        assert (answer.body["outcome"], answer.printed) == ("ok", "28\n"), answer
        found[1].is_full = True
        return self.download(pick)

    def release(self, pick: int) -> bool | None:
        """The end of a sandbox."""
        found = self._sandbox(pick)
        if found is None:
            return None
        self._ask("DELETE", found[0], status={204})
        self.history.ended(found[0])
        assert self._ask("GET", found[0]).status == 404
        return True

    # -- what goes wrong

    def kill_server(self, pick: int) -> bool:
        """What lives lives on, and what ran is told to be unknown."""
        return self._kill_amid(pick, "server", outcomes={"ok", "unknown"})

    def kill_broker(self, pick: int) -> bool:
        """Nothing is lost with it."""
        return self._kill_amid(pick, "broker")

    def kill_broker_of_paused(self, pick: int) -> bool | None:
        """What is paused is that for the next broker, too."""
        return self._paused(pick, lambda: self.kill("broker"))

    def kill_zygote(self, pick: int) -> bool:
        """It is of no importance to what lives."""
        return self._kill_amid(pick, "zygote")

    def kill_dockerd(self, pick: int) -> bool | None:
        """Neither is the container engine, if it is one that restores its containers."""
        return self._kill_amid(pick, "dockerd") if self.system.dockerd else None

    def kill_kernel(self, pick: int) -> bool | None:
        """It comes back in its sandbox with the files, and has forgotten the rest."""
        found = self._context(pick)
        if found is None:
            return None
        self.run(pick)
        answer = self._execute(found[0], found[2], "import os; print(os.getpid())")
        if answer.status != 200 or answer.body["outcome"] != "ok":
            return None
        pid = int(answer.printed)
        result = self._through(pick, lambda: self.system.kill_kernel(found[0], pid), outcomes={"died", "ok"})
        self.history.began_anew(found[3])
        self.run(pick)
        self.download(pick)
        return result

    def kill_agent(self, pick: int) -> bool | None:
        """The sandbox is lost, and said to be."""
        found = self._sandbox(pick)
        if found is None:
            return None
        began = time.monotonic()
        self.system.kill_agent(found[0])
        wait_until(lambda: self._ask("GET", found[0]).status == 404, READY_S)
        self.recovered_s.setdefault("agent", []).append(time.monotonic() - began)
        told = self._ask("GET", found[0], status={404}).body
        assert "was lost" in told["message"], told
        self.history.ended(found[0])
        return True

    def step_clock(self, pick: int) -> bool | None:
        """Set the wall clock of server and broker an hour forth, back or right, in the middle of output: nothing changes."""
        clock = self.system.clock
        if clock is None:
            return None
        offset_s = STEPS_S[(STEPS_S.index(clock.offset_s) + 1 + pick % 2) % len(STEPS_S)]
        if self._through(pick, lambda: clock.set(offset_s)) is None:
            clock.set(offset_s)
        now = self.system.server_clock()
        assert abs(now - datetime.now(UTC) - timedelta(seconds=offset_s)) < timedelta(seconds=READY_S), now
        for sandbox_id in self.history.sandboxes:
            expires_at = self._ask("GET", sandbox_id, status={200}).body["expires_at"]
            left = datetime.fromisoformat(expires_at) - now
            assert timedelta(0) < left < timedelta(seconds=TIMEOUT_S + READY_S), left
        return True

    def kill(self, *victims: str) -> bool:
        """Kill processes at once, start the server anew if it is one, and wait until all that lives serves again.

        That is: all sandboxes are listed, and what has nothing else to do has run code, with its state intact. Returns
        whether there was everything that was to be killed; else it does not count.
        """
        began = time.monotonic()
        was_there = all([getattr(self.system, f"kill_{victim}")() for victim in victims])
        if "server" in victims:
            self.system.start_server()
        self.system.ready()
        wait_until(lambda: set(self.history.sandboxes) <= self.system.listed() & self.system.owned(), READY_S)
        for sandbox_id, sandbox in self.history.sandboxes.items():
            for context_id, context in sandbox.contexts.items():
                if context_id not in self._occupied:
                    self._count(sandbox_id, context_id, context)
        if was_there:
            self.recovered_s.setdefault(" and ".join(victims), []).append(time.monotonic() - began)
        return was_there

    def finish(self) -> None:
        """Give everything back."""
        while self.history.sandboxes:
            self.act("release", 0)

    def contexts(self) -> int:
        """How many there are in all sandboxes."""
        return sum(len(sandbox.contexts) for sandbox in self.history.sandboxes.values())

    def recoveries(self) -> str:
        """What was killed how often, and how soon all was well again."""
        lines = [
            f"{victims} killed {len(took)} times, ready again in {sorted(took)[len(took) // 2]:.1f} s (median), "
            f"{max(took):.1f} s (worst)"
            for victims, took in sorted(self.recovered_s.items())
        ]
        return "\n".join(lines)

    # -- inside

    def _paused(self, pick: int, meanwhile) -> bool | None:
        """Do something while a sandbox is paused."""
        found = self._context(pick)
        if found is None:
            return None
        self.run(pick)
        self._ask("POST", found[0], "pause", status={200})
        self._occupied |= set(found[1].contexts)
        meanwhile()
        self._occupied -= set(found[1].contexts)
        assert self._ask("GET", found[0], status={200}).body["state"] == "paused"
        self._ask("POST", found[0], "resume", status={200})
        self.run(pick)
        return True

    def _kill_amid(self, pick: int, victim: str, outcomes=frozenset({"ok"})) -> bool:
        """Kill in the middle of output, if something runs."""
        if self._through(pick, lambda: self.kill(victim), outcomes) is None:
            self.kill(victim)
        return True

    def _through(self, pick: int, kill, outcomes=frozenset({"ok"})) -> bool | None:
        """Run code that prints many lines, kill something in the middle, and look at what came of it."""
        where = self.begin_stream(pick)
        if where is None:
            return None
        if kill is not None:
            wait_until(lambda: "begun" in self._ask("GET", *where, status={200}).printed, READY_S)
            kill()
        self.end_stream(where, outcomes)
        return True

    def begin_stream(self, pick: int) -> tuple[str, ...] | None:
        """Begin to run code that prints many lines; return where its end will be told."""
        found = self._context(pick)
        if found is None:
            return None
        self.run(pick)
        body = {"code": STREAM.format(lines=LINES, pause_s=0.01), "timeout_s": 50, "detached": True}
        started = self._ask("POST", found[0], "contexts", found[2], "executions", body=body)
        assert started.status in {200, 201, 202}, started
        self._occupied.add(found[2])
        return (found[0], "contexts", found[2], "executions", started.body["id"])

    def end_stream(self, where: tuple[str, ...], outcomes: Collection[str]) -> None:
        """Wait for its end, and look at what came of it."""
        wait_until(lambda: self._ask("GET", *where, status={200}).body["outcome"] is not None, READY_S)
        end = self._ask("GET", *where, status={200})
        self._occupied.discard(where[2])
        assert end.body["outcome"] in outcomes, end
        lines, is_whole = end.printed.split(), end.body["outcome"] == "ok"
        assert lines[:1] == ["begun"] or not (lines or is_whole), lines
        self.executions += 1
        self.history.streamed([int(line) for line in lines[1:]], LINES, is_whole=is_whole)

    def _count(self, sandbox_id: str, context_id: str, context: Context) -> None:
        """Run code that counts, again while the kernel is away, until it was run and its output was judged."""
        deadline = time.monotonic() + READY_S
        while True:
            token = secrets.token_hex(6)
            answer = self._execute(sandbox_id, context_id, COUNT.format(token=token))
            if answer.status == 200 and answer.body["outcome"] == "ok":
                self.history.ran(context, token, answer.printed)
                return
            self.history.is_unsure(context)
            assert time.monotonic() < deadline, f"the kernel does not come back: {answer}"
            time.sleep(0.2)

    def _execute(self, sandbox_id: str, context_id: str, code: str) -> Answer:
        self.executions += 1
        body = {"code": code, "timeout_s": 30}
        return self._ask("POST", sandbox_id, "contexts", context_id, "executions", body=body)

    def _ask(self, method: str, *parts: str, status: set[int] | None = None, **how) -> Answer:
        """Ask; again while the broker is away, which is said by 503."""
        deadline = time.monotonic() + READY_S
        while True:
            answer = self.system.request(method, *parts, **how)
            if answer.status != 503:
                break
            assert time.monotonic() < deadline, answer
            time.sleep(0.1)
        assert status is None or answer.status in status, (method, parts, answer)
        return answer

    def _sandbox(self, pick: int) -> tuple[str, Sandbox] | None:
        living = list(self.history.sandboxes.items())
        return living[pick % len(living)] if living else None

    def _context(self, pick: int) -> tuple[str, Sandbox, str, Context] | None:
        all_of_them = [
            (sandbox_id, sandbox, context_id, context)
            for sandbox_id, sandbox in self.history.sandboxes.items()
            for context_id, context in sandbox.contexts.items()
        ]
        return all_of_them[pick % len(all_of_them)] if all_of_them else None
