"""Who may have another worker: judged before anything is made, so that who cannot be served is told at once.

It knows how many there are only as it is told. What it remembers by itself are the starts that are under way, those
of each template that failed, and who was refused a short while ago.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from jupyter_sandbox import capacity
from jupyter_sandbox.breaker import Breaker, BreakerState
from jupyter_sandbox.errors import CapacityError, EngineUnavailableError, TemplateFailingError
from jupyter_sandbox.host import readings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from jupyter_sandbox.broker.sandbox import Sandbox
    from jupyter_sandbox.capacity import Party, Space
    from jupyter_sandbox.specs import Template

RETRY_S: Final = 5
_REMEMBERED_S: Final = 3 * RETRY_S
"""How long a place is kept for who was refused: as long as it takes to come again, and once more."""
_MAX_REMEMBERED: Final = 1024
_MAX_REASON: Final = 300
_WORKER_MIB: Final = 64
"""What a worker that starts takes of the host's memory before anybody can measure it."""

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Marks:
    """Up to where workers may use the host. Its disk is judged where disks are made."""

    max_total: int = 0
    """Workers of all templates; 0: no number."""
    memory_percent: int = 95


class Admission:
    """See the module."""

    def __init__(
        self,
        marks: Marks | None = None,
        *,
        memory: Callable[[], Space] = readings.memory,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Nothing starts, nothing has failed."""
        self._marks = marks or Marks()
        self._memory, self._clock = memory, clock
        self._starting = 0
        self._breakers: dict[Template, Breaker] = {}
        self._reasons: dict[Template, str] = {}
        """Why the last start of those failed."""
        self._claiming: collections.Counter[tuple[Party, str]] = collections.Counter()
        self._in_vain: dict[tuple[Party, str], float] = {}
        """When who was refused a sandbox of which template, the latest last."""

    def state(self, template: Template) -> BreakerState:
        """Return whether workers of a template are started."""
        return self._breakers.get(template, Breaker()).state(self._clock())

    @contextlib.contextmanager
    def claim(self, party: Party, template: Template, claimed: Iterable[Sandbox]) -> Iterator[None]:
        """Let a claim of `party` be served within this. Raises CapacityError when what is left is for others.

        `claimed`: all sandboxes that somebody has.
        """
        try:
            self._judge_claim(party, template, list(claimed))
            self._claiming[party, template.name] += 1
            try:
                yield
            finally:
                self._claiming -= collections.Counter([(party, template.name)])
        except CapacityError:
            self._remember(party, template.name)
            raise
        self._in_vain.pop((party, template.name), None)

    @contextlib.contextmanager
    def start(self, template: Template, *, of_template: int, workers: int) -> Iterator[None]:
        """Let a worker be started within this; how that ends counts for the next ones.

        `of_template` and `workers` are how many there are without this one, those that start or end too. Raises
        CapacityError or TemplateFailingError before anything was done.
        """
        self._judge_start(template, of_template, workers)
        breaker = self._breakers.get(template, Breaker()).begun(self._clock())
        self._note(template, breaker)
        self._starting += 1
        try:
            yield
        except (CapacityError, EngineUnavailableError):  # that is not the template's fault
            self._note(template, self._breakers.get(template, Breaker()).undecided())
            raise
        except Exception as error:
            self._note(template, self._breakers.get(template, Breaker()).failed(self._clock()))
            self._reasons[template] = str(error)[:_MAX_REASON]
            if self.state(template) is BreakerState.OPEN:
                log.error("workers of template %s do not start; claims are refused for a while", template.name)
            raise
        except BaseException:
            self._note(template, self._breakers.get(template, Breaker()).undecided())
            raise
        finally:
            self._starting -= 1
        for noted in (self._breakers, self._reasons):
            noted.pop(template, None)

    def _note(self, template: Template, breaker: Breaker) -> None:
        if breaker.failures:
            self._breakers[template] = breaker

    def _judge_claim(self, party: Party, template: Template, claimed: list[Sandbox]) -> None:
        held = collections.Counter(sandbox.party for sandbox in claimed)
        of_template = sum(sandbox.template.name == template.name for sandbox in claimed)
        for (who, name), number in self._claiming.items():
            held[who] += number
            of_template += number if name == template.name else 0
        users: collections.Counter[int] = collections.Counter()
        for (user, _), number in held.items():
            users[user] += number
        since = self._clock() - _REMEMBERED_S
        self._in_vain = {refused: at for refused, at in self._in_vain.items() if at > since}
        rooms = [(template.max_total - of_template, {who for who, name in self._in_vain if name == template.name})]
        if self._marks.max_total:
            rooms.append((self._marks.max_total - held.total(), {who for who, _ in self._in_vain}))
        for free, in_vain in rooms:
            if 0 < free <= capacity.kept_for_others(party, held, in_vain, users):
                raise CapacityError(
                    "the sandboxes that are left are for others, who hold fewer and are waiting; release one",
                    retry_after_s=RETRY_S,
                )

    def _judge_start(self, template: Template, of_template: int, workers: int) -> None:
        if of_template >= template.max_total:
            raise CapacityError(
                f"all {template.max_total} sandboxes of template {template.name} are in use; "
                "shut down kernels that are not needed, or raise max_total",
                retry_after_s=RETRY_S,
            )
        if self._marks.max_total and workers >= self._marks.max_total:
            raise CapacityError(
                f"all {self._marks.max_total} sandboxes that may exist do; shut down kernels that are not needed",
                retry_after_s=RETRY_S,
            )
        if not self._memory().holds(_WORKER_MIB * (self._starting + 1), percent=self._marks.memory_percent):
            raise CapacityError(
                f"{self._marks.memory_percent} % of the host's memory is in use; shut down kernels that are idle",
                retry_after_s=RETRY_S,
            )
        wait_s = self._breakers.get(template, Breaker()).wait_s(self._clock())
        if wait_s:
            raise TemplateFailingError(
                f"sandboxes of template {template.name} do not start, and none is tried now. The last time: "
                f"{self._reasons.get(template, 'unknown')}",
                retry_after_s=int(wait_s) + 1,
            )

    def _remember(self, party: Party, template: str) -> None:
        """Know who was refused; where there are too many, the oldest of the user who has the most is forgotten."""
        self._in_vain.pop((party, template), None)
        self._in_vain[party, template] = self._clock()
        if len(self._in_vain) > _MAX_REMEMBERED:
            users = collections.Counter(user for (user, _), _ in self._in_vain)
            ((greedy, _),) = users.most_common(1)
            del self._in_vain[next(refused for refused in self._in_vain if refused[0][0] == greedy)]
