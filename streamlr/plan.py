"""What a run will do and need, told before anything is read."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from streamlr.config import ClusterConfig, TrainConfig
from streamlr.data.partition import Partition, with_held_slabs
from streamlr.data.source import ArraySource, Source
from streamlr.errors import MemoryLimitError
from streamlr.execution.engine import tree_tasks
from streamlr.execution.scanner import plan_slabs
from streamlr.warm_start import MOST_COUPLED_PARAMETERS, MOST_PARAMETERS, sample_fraction

_PROCESS_BYTES = 160 * 2**20
"""Interpreter, libraries and Dask before any data; measured 120 to 150 MB."""
_MOST_CANDIDATES = 4
_NEWTON_HESSIANS = 6
_VECTORS = 100
_ARRAYS_OF_Z = 4
_SUMS_AT_A_TIME = 8
_USABLE = 0.95
_USABLE_OF_WORKER = 0.5
"""Dask begins to move results to disk at 0.6 of a worker's limit, and may give one a slab more than its share."""


@dataclass(frozen=True, slots=True)
class Plan:
    """The work and the memory of a run."""

    solver: str
    """Method that will be used."""
    reason: str
    """Why that one."""
    partition: Partition
    """What is read and summed together, and which slabs stay in memory."""
    features: int
    dtype: str
    threads: int
    """Slabs summed at a time, in all processes."""
    data_bytes: int
    """Decoded bytes of a pass."""
    stored_bytes: int | None
    """Bytes in storage; None where that is not known."""
    sample_fraction: float
    """Share of the rows drawn into the sample."""
    row_bytes: int
    """Decoded bytes of a row."""
    peak_bytes: int
    """Projected memory of the largest process."""
    memory_limit: int | None
    """What each process may use."""

    @property
    def sample_rows(self) -> int:
        """Rows of the sample, about."""
        return round(self.sample_fraction * self.partition.n_rows)

    def to_dict(self) -> dict[str, Any]:
        """The plan as ``streamlr plan`` shows it."""
        p = self.partition
        return {
            "solver": self.solver, "reason": self.reason, "rows": p.n_rows, "features": self.features, "dtype": self.dtype, "blocks": p.n_blocks,
            "slabs": p.n_slabs, "tasks_per_pass": p.n_slabs + tree_tasks(p.n_slabs), "threads": self.threads, "data_bytes": self.data_bytes,
            "stored_bytes": self.stored_bytes, "block_bytes": p.block_rows * self.row_bytes, "leaf_bytes": p.leaf_rows * self.features * 8,
            "sample_rows": self.sample_rows, "sample_bytes": self.sample_rows * self.row_bytes, "held_slabs": p.held_slabs,
            "held_bytes": p.held_rows * self.row_bytes, "peak_bytes": self.peak_bytes, "memory_limit": self.memory_limit}


@dataclass(frozen=True, slots=True)
class Workers:
    """Who will take the sums."""

    threads: int
    """Slabs summed at a time, in all processes."""
    threads_per_process: int
    """Slabs summed at a time in one of them."""
    in_this_process: bool
    """Whether that is this process, in whose memory the sample is too."""


def workers_of(cluster: ClusterConfig, threads: int) -> Workers:
    """Who will take the sums on an engine with so many threads in all."""
    here = cluster.kind in ("serial", "threads")
    return Workers(threads, threads if here else min(threads, cluster.threads_per_worker), here)


def make_plan(config: TrainConfig, source: Source, workers: Workers, n_outputs: int = 1) -> Plan:
    """Project a run: its slabs, its solver and its memory; reads nothing. ``n_outputs`` is c, where there are more than two classes."""
    partition = plan_slabs(source, workers.threads, n_outputs)
    name, fraction, reason = choose_solver(config, source, n_outputs)
    row_bytes = source.n_features * source.dtype.itemsize
    peak = _peak_bytes(partition, source, name, workers, n_outputs)
    if workers.in_this_process:
        sample = 2 * round(fraction * source.n_rows) * row_bytes  # the parts, and the whole that they are joined to
        peak += sample + (_metric_bytes(source, n_outputs) if fraction else 0)
    limit = config.cluster.memory_limit
    if limit is not None and not isinstance(source, ArraySource):
        partition = with_held_slabs(partition, _holding_budget(limit, peak, workers), row_bytes)
        if workers.in_this_process:
            peak += partition.held_rows * row_bytes
        elif partition.held_slabs:
            peak += -(-partition.held_slabs * workers.threads_per_process // workers.threads) * partition.slab_blocks * partition.block_rows * row_bytes
    return Plan(name, reason, partition, source.n_features, str(source.dtype), workers.threads, source.n_rows * row_bytes,
                source.stored_bytes, fraction, row_bytes, peak, limit)


def _peak_bytes(partition: Partition, source: Source, solver: str, workers: Workers, n_outputs: int) -> int:
    """Of one process that takes sums: for each thread a block as stored and decoded, a leaf in float64 with its squares, some vectors and sums."""
    block = partition.block_rows * source.n_features * source.dtype.itemsize
    leaf = partition.leaf_rows * source.n_features * 8
    thread = 2 * block + 2 * leaf + partition.leaf_rows * 8 * 8 * _MOST_CANDIDATES
    if n_outputs > 1:
        thread += (partition.leaf_rows * _ARRAYS_OF_Z + source.n_features * _SUMS_AT_A_TIME) * n_outputs * 8 * _MOST_CANDIDATES
    if solver == "newton":
        thread += _NEWTON_HESSIANS * _hessian_bytes(source, n_outputs)
    return _PROCESS_BYTES + workers.threads_per_process * thread


def _hessian_bytes(source: Source, n_outputs: int) -> int:
    return ((source.n_features + 1) * n_outputs) ** 2 * 8


def _metric_bytes(source: Source, n_outputs: int) -> int:
    """Of the sample's curvature: Hessians, or of many outputs what their Kronecker product takes, with the solver's memory of its steps."""
    parameters = (source.n_features + 1) * n_outputs
    if n_outputs == 1 or parameters <= MOST_COUPLED_PARAMETERS:
        return _NEWTON_HESSIANS * _hessian_bytes(source, n_outputs)
    return 8 * (_NEWTON_HESSIANS * ((source.n_features + 1) ** 2 + n_outputs**2) + _VECTORS * parameters)


def _holding_budget(limit: int, peak: int, workers: Workers) -> int:
    """Bytes that may be kept of the data: what is left of the limit, or on a cluster of the share that Dask does not spill."""
    if workers.in_this_process:
        return int(_USABLE * limit) - peak
    processes = workers.threads // workers.threads_per_process
    return processes * (int(_USABLE_OF_WORKER * limit) - peak)


def check_plan(plan: Plan) -> None:
    """Refuse a plan over its limit.

    Raises
    ------
    MemoryLimitError
        With both numbers and what to change.
    """
    if plan.memory_limit is not None and plan.peak_bytes > plan.memory_limit:
        raise MemoryLimitError(
            f"the run needs about {plan.peak_bytes / 1e6:.0f} MB in one process ({plan.threads} threads in all, chunks of "
            f"{plan.partition.block_rows * plan.row_bytes / 1e6:.0f} MB decoded, sample of {plan.sample_rows * plan.row_bytes / 1e6:.0f} MB), and "
            "cluster.memory_limit is "
            f"{plan.memory_limit / 1e6:.0f} MB; raise the limit, lower cluster.workers, or write the store in smaller chunks")


def choose_solver(config: TrainConfig, source: Source, n_outputs: int = 1) -> tuple[str, float, str]:
    """The method, the share of rows to sample for it, and why."""
    name = config.solver.name
    if name != "auto":
        return name, 0.0, "solver.name asks for it"
    n_features = source.n_features + config.model.fit_intercept
    fraction = sample_fraction(source.n_rows, n_features, n_outputs, source.n_features * source.dtype.itemsize, config.cluster.memory_limit)
    if fraction == 0.0:
        why = f"more than the {MOST_PARAMETERS} for which a sample's Hessian is worth its cost" if n_features > MOST_PARAMETERS else \
            "too many for the rows that a sample could hold"
        return "lbfgs", 0.0, f"{source.n_features} features: {why}"
    rows = int(np.ceil(fraction * source.n_rows))
    return "lbfgs", fraction, f"{source.n_features} features: L-BFGS from the optimum of a sample of about {rows} rows, with its Hessian as metric"
