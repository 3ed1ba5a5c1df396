"""What is done to a container engine, and must be true of its sandboxes then: it stops, is killed, and comes back."""

from __future__ import annotations

import json
import signal
import time

from tests.chaos.dockerd import RESTORES, Dockerd
from tests.chaos.system import Answer, System
from tests.conftest import wait_until

SANDBOXES = 2
BACK_S = 60


class Counter:
    """A sandbox whose code counts."""

    def __init__(self, system: System) -> None:
        self._system = system
        made = system.request("POST", body={"template": "small"})
        assert made.status == 201, made
        self.id = made.body["id"]
        self._context = system.request("POST", self.id, "contexts", body={}).body["id"]
        self.said = 0
        self.count()

    def count(self) -> None:
        """One more; what was counted before is still there."""
        code = "n = globals().get('n', 0) + 1; print(n)"
        where = (self.id, "contexts", self._context, "executions")
        answer = self._system.request("POST", *where, body={"code": code, "timeout_s": 20})
        self.said += 1
        assert answer.body["outputs"][0]["text"] == f"{self.said}\n", answer


def refusal(system: System) -> Answer:
    """Claim until that is refused; release what was got."""
    got = []
    try:
        while True:
            began = time.monotonic()
            answer = system.request("POST", body={"template": "small"})
            if answer.status != 201:
                print(f"  a claim was refused after {time.monotonic() - began:.2f} s: {answer.body['message']}")
                return answer
            got.append(answer.body["id"])
    finally:
        for each in got:
            system.request("DELETE", each)


def outage(system: System, dockerd: Dockerd, number: signal.Signals) -> None:
    """End the engine, which restores what lives, and start it again: nobody who has a sandbox notices."""
    print(f"{number.name} with live-restore")
    counters = [Counter(system) for _ in range(SANDBOXES)]
    dockerd.end(number)
    for each in counters:
        each.count()
    refused = refusal(system)
    assert (refused.status, refused.code, (refused.retry_after or "").isdigit()) == (503, "engine_unavailable", True)
    dockerd.start(RESTORES)
    _claimable(system)
    for each in counters:
        each.count()
        assert system.request("DELETE", each.id).status == 204


def end_of_all(system: System, dockerd: Dockerd) -> None:
    """End an engine that takes its containers along: their owners are told, and new ones come when it is back."""
    print("SIGTERM without live-restore")
    dockerd.end(signal.SIGTERM)
    dockerd.start()
    _claimable(system)
    counters = [Counter(system) for _ in range(SANDBOXES)]
    dockerd.end(signal.SIGTERM)
    wait_until(lambda: not system.listed() & {each.id for each in counters}, BACK_S)
    for each in counters:
        gone = system.request("GET", each.id)
        assert (gone.status, gone.code) == (404, "unknown_sandbox"), gone
    told = [json.loads(line) for line in system.audit.read_text().splitlines()]
    ended = {event["sandbox_id"]: event["reason"] for event in told if "/sandbox_ended/" in event["__schema__"]}
    assert [ended[each.id] for each in counters] == ["lost"] * SANDBOXES
    dockerd.start()
    _claimable(system)


def _claimable(system: System) -> None:
    began = time.monotonic()
    wait_until(lambda: system.request("GET", "readyz").status == 200, BACK_S)

    def claimed() -> bool:
        made = system.request("POST", body={"template": "small"})
        return made.status == 201 and system.request("DELETE", made.body["id"]).status == 204

    wait_until(claimed, BACK_S)
    print(f"  a sandbox could be claimed {time.monotonic() - began:.1f} s after the engine was back")
