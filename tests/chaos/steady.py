"""A user who executes one cell after the other, whenever the processors have less to do than they are to have."""

from __future__ import annotations

import contextlib
import http.client
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

from tests.chaos.actions import COUNT, Chaos
from tests.chaos.history import Context
from tests.chaos.load import Load
from tests.chaos.system import READY_S, Answer

PAUSE_S = 0.02
REST_S = 0.5
"""However busy the machine is, so often it is looked how long an execution takes."""
ANEW_AFTER = 5_000
"""Executions; a kernel keeps the text of each."""


class Steady:
    """The user, a bystander of all that is killed: has a sandbox, of which each execution must tell the count after the one before, once and whole."""

    def __init__(self, chaos: Chaos, share: float) -> None:
        self._chaos, self._share = chaos, share
        self._over = threading.Event()
        self._failed: BaseException | None = None
        self.executions = 0
        self.worst_s = 0.0
        """The longest wait for an execution, from when it was first asked for."""

    @contextlib.contextmanager
    def at_work(self, load: Load) -> Iterator[None]:
        """Work in a thread of its own until the end of the block, which raises what went wrong there."""
        made = self._chaos.system.request("POST", body={})
        assert made.status == 201, made
        sandbox = made.body["id"]
        self._chaos.beside.add(sandbox)
        self._chaos.history.ever.add(sandbox)
        context_id = self._ask("POST", sandbox, "contexts", body={}).body["id"]
        thread = threading.Thread(target=self._work, args=((sandbox, "contexts", context_id), load))
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()
        self.look()
        assert self._chaos.system.request("DELETE", sandbox).status == 204
        self._chaos.beside.discard(sandbox)

    def look(self) -> None:
        """Raise what went wrong so far."""
        if self._failed is not None:
            raise self._failed

    def _work(self, where: tuple[str, ...], load: Load) -> None:
        try:
            self._live(where, load)
        except BaseException as error:
            self._failed = error

    def _live(self, where: tuple[str, ...], load: Load) -> None:
        history, context, began = self._chaos.history, Context(), time.monotonic()
        while not self._over.is_set():
            if load.share() >= self._share and time.monotonic() < began + REST_S:
                time.sleep(PAUSE_S)
                continue
            token, began = secrets.token_hex(6), time.monotonic()
            with self._perhaps(lambda: history.is_unsure(context)):
                body = {"code": COUNT.format(token=token), "timeout_s": 30}
                answer = self._ask("POST", *where, "executions", body=body)
                assert answer.body["outcome"] == "ok", answer
                history.ran(context, token, answer.printed)
                self.executions += 1
            self.worst_s = max(self.worst_s, time.monotonic() - began)
            if self.executions % ANEW_AFTER == ANEW_AFTER - 1:
                with self._perhaps(lambda: context.counts.add(0)):
                    self._ask("POST", *where, "restart")
                    history.began_anew(context)

    @contextlib.contextmanager
    def _perhaps(self, note: Callable[[], object]) -> Iterator[None]:
        """Have it noted when the server is killed in the middle: it may have been done, or not."""
        try:
            yield
        except (OSError, http.client.HTTPException):
            note()

    def _ask(self, *parts: str, **how: Any) -> Answer:
        """Ask; again while the server, or the broker, is away: then nothing was begun."""
        deadline = time.monotonic() + READY_S
        while True:
            with contextlib.suppress(ConnectionRefusedError):
                answer = self._chaos.system.request(*parts, **how)
                if answer.status != 503:
                    assert answer.status in {200, 201}, answer
                    return answer
            assert time.monotonic() < deadline, "neither server nor broker comes back"
            self._over.wait(0.1)
