"""500 claims at once of 20 places, again and again: `python -m tests.chaos.creates --count 10`.

20 get a sandbox, each another one; the others are told within a second when to come again; after the release the pool has its number
soon. The server is a process of its own. The status is 1 when one of that is not so.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.chaos.by_hand import verdict
from tests.chaos.system import System, a_system
from tests.conftest import wait_until
from tests.faults.conftest import status
from tests.faults.servers import TOKEN
from tests.server import crowd

CLAIMS, PLACES, WARM = 500, 20, 2
TEMPLATE = f"min_idle = {WARM}\nmax_total = {PLACES}\n[limits]\ndisk_mib = 16\ndisk_inodes = 1024\n"
REFUSED_S, REFILLED_S = 1.0, 30.0
MOST_S = 120


@dataclass(frozen=True)
class Seen:
    """What came of one crowd. `refusals`: of each its status, its code and its Retry-After."""

    made: Sequence[str]
    live: frozenset[str]
    refusals: Sequence[tuple[int, str, str]]
    refused_s: float
    """The longest wait for a refusal."""
    refilled_s: float


def wrong(seen: Seen) -> list[str]:
    """What is not as it must be, a sentence each."""
    found = []
    if len(set(seen.made)) != len(seen.made):
        found.append("a sandbox was handed out twice")
    if len(seen.made) != PLACES or set(seen.made) != seen.live:
        found.append(f"{len(seen.made)} were served and {len(seen.live)} live, of {PLACES} places")
    if len(seen.refusals) != CLAIMS - PLACES:
        found.append(f"{len(seen.refusals)} were refused, not {CLAIMS - PLACES}")
    strange = {each for each in seen.refusals if each[0] not in (429, 503) or not each[2].isdigit()}
    if strange:
        found.append(f"refused without a word when to come again: {sorted(strange)}")
    if seen.refused_s > REFUSED_S:
        found.append(f"a refusal took {seen.refused_s:.2f} s, more than {REFUSED_S:g}")
    if seen.refilled_s > REFILLED_S:
        found.append(f"the pool had its number {seen.refilled_s:.1f} s after the release, more than {REFILLED_S:g}")
    return found


def is_full() -> bool:
    """Whether the pool has its number, and nothing else of the template is there any more."""
    rows = asyncio.run(status()).workers
    return any((row.warm, row.total) == (WARM, WARM) for row in rows if row.name == "twenty")


def crowded(system: System) -> Seen:
    """Let them come, look what they got, and release it."""
    body = json.dumps({"template": "twenty"}).encode()
    url = f"http://{system.address.netloc}"
    answers = asyncio.run(crowd.posted(url, "/api/sandboxes", body, TOKEN, CLAIMS))
    refused = [each for each in answers if each.answer.status != 201]
    made = [each.answer.model["id"] for each in answers if each.answer.status == 201]
    live = frozenset(system.listed() & system.owned())
    began = time.monotonic()
    for sandbox in set(made):
        assert system.request("DELETE", sandbox).status == 204
    wait_until(is_full, MOST_S)
    refusals = [(each.answer.status, each.answer.code, each.answer.headers.get("retry-after", "")) for each in refused]
    return Seen(made, live, refusals, max(each.wait_s for each in refused), time.monotonic() - began)


def main() -> int:
    """Run, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=10)
    options = parser.parse_args()
    found = []
    with a_system(twenty=TEMPLATE) as system, crowd.many_files():
        made = system.request("POST", body={"template": "twenty"})  # a template that nobody used has no warm workers
        assert (made.status, system.request("DELETE", made.body["id"]).status) == (201, 204)
        wait_until(is_full, MOST_S)
        for _ in range(options.count):
            seen = crowded(system)
            print(f"all refused in {seen.refused_s:.2f} s, the pool was full {seen.refilled_s:.2f} s after the release")
            found += wrong(seen)
    return verdict(found, "each time 20 were served, and the others told at once when to come again")


if __name__ == "__main__":
    sys.exit(main())
