"""How much is measured: one frozen value for a full run and one for a quick look."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Counts of all measurements; every repetition visits all systems before the next one begins."""

    quiet_timeout_s: float = 4.0
    steady_window_s: float = 1.0
    start_repetitions: int = 12
    spread_starts: int = 200
    spread_s: float = 15.0
    ready_repetitions: int = 6
    exec_blocks: int = 8
    exec_block_size: int = 30
    load_rounds: int = 2
    load_users: int = 25
    load_requests: int = 100
    churn_rounds: int = 2
    churn_kernels: int = 18
    churn_parallel: int = 3
    notebook_rounds: int = 2
    notebook_runs: int = 3
    context_rounds: int = 2
    context_runs: int = 4
    idle_parallel: int = 4
    idle_kernels: int = 25
    idle_s: float = 60.0
    memory_kernels: int = 6
    density_kernels: int = 200
    density_containers: int = 50
    density_start_s: float = 55.0
    density_idle_s: float = 30.0
    scale_kernels: tuple[int, ...] = (1, 5, 25, 50, 100)
    scale_starts: int = 3
    scale_requests: int = 500
    scale_parallel: int = 4
    scale_budget_s: float = 35.0
    transfer_rounds: int = 5
    transfer_mib: int = 1024


FULL = Plan()
QUICK = Plan(
    quiet_timeout_s=1.0,
    steady_window_s=0.5,
    start_repetitions=2,
    spread_starts=10,
    spread_s=2.0,
    ready_repetitions=1,
    exec_blocks=1,
    exec_block_size=20,
    load_rounds=1,
    load_users=3,
    load_requests=20,
    churn_rounds=1,
    churn_kernels=4,
    notebook_rounds=1,
    notebook_runs=1,
    context_rounds=1,
    context_runs=2,
    idle_kernels=3,
    idle_s=5.0,
    memory_kernels=3,
    density_kernels=5,
    density_containers=3,
    density_start_s=20.0,
    density_idle_s=3.0,
    scale_kernels=(1, 2),
    scale_starts=1,
    scale_requests=20,
    scale_budget_s=15.0,
    transfer_rounds=1,
    transfer_mib=64,
)
