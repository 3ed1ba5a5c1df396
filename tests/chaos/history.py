"""What may be after each step, and what must not: the checker of a history. It knows no system, only what was seen.

Of a value that a fault may have changed there are several that may be; of everything else there is one.
"""

from __future__ import annotations

from dataclasses import dataclass, field


class Violation(AssertionError):
    """Something was seen that must not be."""


@dataclass
class Context:
    """A kernel: it counts its executions from 1."""

    counts: set[int] = field(default_factory=lambda: {0})
    """What its count may be."""


@dataclass
class Sandbox:
    """A sandbox: its contexts, and what each of its files may hold."""

    contexts: dict[str, Context] = field(default_factory=dict)
    files: dict[str, set[bytes | None]] = field(default_factory=dict)
    is_full: bool = False


class History:
    """What was seen so far."""

    def __init__(self) -> None:
        self.sandboxes: dict[str, Sandbox] = {}
        """Those that live."""
        self.ever: set[str] = set()
        self.steps: list[str] = []

    def note(self, step: str) -> None:
        """Write down what was done."""
        self.steps.append(step)

    def claimed(self, sandbox_id: str, marker: str) -> None:
        """A sandbox was handed out; `marker`: what was found in it that a claim before would have left."""
        if sandbox_id in self.ever:
            raise Violation(f"{sandbox_id} was handed out twice")
        if marker:
            raise Violation(f"{sandbox_id} is not new: it holds {marker!r}")
        self.ever.add(sandbox_id)
        self.sandboxes[sandbox_id] = Sandbox()

    def ended(self, sandbox_id: str) -> None:
        """It was released or lost."""
        del self.sandboxes[sandbox_id]

    def listed(self, sandbox_ids: set[str]) -> None:
        """All that live were listed."""
        if sandbox_ids != set(self.sandboxes):
            lost, strange = set(self.sandboxes) - sandbox_ids, sandbox_ids - set(self.sandboxes)
            raise Violation(f"lost: {sorted(lost)}, not known: {sorted(strange)}")

    def ran(self, context: Context, token: str, output: str) -> None:
        """An execution ended well that prints its token and the count after it."""
        printed, _, count = output.strip().partition(" ")
        if printed != token or not count.isdigit():
            raise Violation(f"not the output of this execution, once and whole: {output!r} instead of {token!r}")
        if int(count) - 1 not in context.counts:
            raise Violation(f"the state is not intact: execution {count} follows {sorted(context.counts)}")
        context.counts = {int(count)}

    def counted(self, context: Context, times: int) -> None:
        """Executions counted there whose output was judged elsewhere."""
        context.counts = {count + times for count in context.counts}

    def is_unsure(self, context: Context) -> None:
        """An execution ended otherwise: it may have counted, or not."""
        context.counts |= {count + 1 for count in context.counts}

    def began_anew(self, context: Context) -> None:
        """The kernel was restarted, or killed and then restarted: it has forgotten everything."""
        context.counts = {0}

    def streamed(self, numbers: list[int], total: int, *, is_whole: bool) -> None:
        """An execution that prints 0, 1, 2 ... `total` - 1 had this output."""
        if numbers != list(range(len(numbers))):
            raise Violation(f"output was lost or doubled: {numbers}")
        if is_whole and len(numbers) != total:
            raise Violation(f"output is missing: {len(numbers)} of {total} lines")

    def wrote(self, sandbox: Sandbox, name: str, content: bytes, *, is_done: bool) -> None:
        """A file was written, or that was refused: then it is as before."""
        if is_done:
            sandbox.files[name] = {content}
        else:
            sandbox.files.setdefault(name, {None})

    def may_have_written(self, sandbox: Sandbox, name: str, content: bytes) -> None:
        """All of a file was sent, and nobody answered: it is the old one or the new one."""
        sandbox.files.setdefault(name, {None}).add(content)

    def read(self, sandbox: Sandbox, name: str, content: bytes | None) -> None:
        """A file was read; None: there is none."""
        if content not in sandbox.files.get(name, {None}):
            size = "nothing" if content is None else f"{len(content)} bytes"
            raise Violation(f"{name} holds {size} that nobody wrote")

    def audited(self, claims: list[str], ends: list[str]) -> None:
        """Everything was told: each sandbox was claimed once and ended once."""
        for what, seen in (("claimed", claims), ("ended", ends)):
            if sorted(seen) != sorted(self.ever):
                twice = sorted({each for each in seen if seen.count(each) > 1})
                raise Violation(f"{what}: {sorted(self.ever - set(seen))} never, {twice} twice")
