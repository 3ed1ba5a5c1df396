"""How much is measured: one frozen value for a full run and one for a quick look."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Counts of all measurements; every repetition visits all systems before the next one begins."""

    start_repetitions: int = 20
    exec_blocks: int = 15
    exec_block_size: int = 20
    load_rounds: int = 3
    load_users: int = 25
    load_requests: int = 100
    memory_kernels: int = 10
    churn_rounds: int = 3
    churn_kernels: int = 30
    churn_parallel: int = 3


FULL = Plan()
QUICK = Plan(
    start_repetitions=4,
    exec_blocks=3,
    load_rounds=1,
    load_users=5,
    load_requests=20,
    memory_kernels=3,
    churn_rounds=1,
    churn_kernels=6,
)
