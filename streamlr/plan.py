"""What a run will do and need, told before anything is read."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from streamlr.config import TrainConfig
from streamlr.data.partition import Partition
from streamlr.data.source import Source
from streamlr.errors import MemoryLimitError
from streamlr.execution.scanner import plan_slabs
from streamlr.warm_start import MOST_PARAMETERS, sample_fraction

_PROCESS_BYTES = 160 * 2**20
"""Interpreter, libraries and Dask before any data; measured 120 to 150 MB."""
_MOST_CANDIDATES = 4
_NEWTON_HESSIANS = 6


@dataclass(frozen=True, slots=True)
class Plan:
    """The work and the memory of a run."""

    solver: str
    """Method that will be used."""
    reason: str
    """Why that one."""
    rows: int
    features: int
    dtype: str
    blocks: int
    """Units of reading."""
    slabs: int
    """Tasks of a pass, apart from their sums."""
    threads: int
    """Slabs summed at a time."""
    data_bytes: int
    """Decoded bytes of a pass."""
    stored_bytes: int | None
    """Bytes in storage; null where that is not known."""
    block_bytes: int
    """Decoded bytes of a block."""
    leaf_bytes: int
    """Bytes of a leaf in float64."""
    sample_rows: int
    """Rows of the sample, about."""
    sample_bytes: int
    """Bytes of the sample."""
    peak_bytes: int
    """Projected memory of the largest process."""
    memory_limit: int | None
    """What it may use."""

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def make_plan(config: TrainConfig, source: Source, n_threads: int, threads_per_process: int, *, in_this_process: bool = True) -> Plan:
    """Project a run.

    Parameters
    ----------
    config, source
        The run.
    n_threads
        Slabs summed at a time, in all processes.
    threads_per_process
        Slabs summed at a time in one of them.
    in_this_process
        Whether the client itself takes sums (then the sample is in the same memory).
    """
    partition = plan_slabs(source, n_threads)
    name, fraction, reason = choose_solver(config, source)
    row_bytes = source.n_features * source.dtype.itemsize
    block_bytes = partition.block_rows * row_bytes
    leaf_bytes = partition.leaf_rows * source.n_features * 8
    sample_rows = round(fraction * source.n_rows)
    hessian_bytes = (source.n_features + 1) ** 2 * 8
    peak = _PROCESS_BYTES + threads_per_process * _thread_bytes(partition, block_bytes, leaf_bytes)
    if name == "newton":
        peak += threads_per_process * _NEWTON_HESSIANS * hessian_bytes
    if in_this_process:
        peak += 2 * sample_rows * row_bytes + (_NEWTON_HESSIANS * hessian_bytes if fraction else 0)
    return Plan(
        name, reason, source.n_rows, source.n_features, str(source.dtype), partition.n_blocks, partition.n_slabs, n_threads,
        source.n_rows * row_bytes, source.stored_bytes, block_bytes, leaf_bytes, sample_rows, sample_rows * row_bytes, peak,
        config.cluster.memory_limit)


def _thread_bytes(partition: Partition, block_bytes: int, leaf_bytes: int) -> int:
    """A block as stored and decoded, a leaf in float64, and what the kernel needs beside it."""
    return 2 * block_bytes + leaf_bytes + partition.leaf_rows * 8 * 8 * _MOST_CANDIDATES


def check_plan(plan: Plan) -> None:
    """Refuse a plan over its limit.

    Raises
    ------
    MemoryLimitError
        With both numbers and what to change.
    """
    if plan.memory_limit is not None and plan.peak_bytes > plan.memory_limit:
        raise MemoryLimitError(
            f"the run needs about {plan.peak_bytes / 1e6:.0f} MB in one process ({plan.threads} threads, chunks of "
            f"{plan.block_bytes / 1e6:.0f} MB decoded, sample of {plan.sample_bytes / 1e6:.0f} MB), and cluster.memory_limit is "
            f"{plan.memory_limit / 1e6:.0f} MB; raise the limit, lower cluster.workers, or write the store in smaller chunks")


def choose_solver(config: TrainConfig, source: Source) -> tuple[str, float, str]:
    """The method, the share of rows to sample for it, and why."""
    name = config.solver.name
    if name != "auto":
        return name, 0.0, "solver.name asks for it"
    n_parameters = source.n_features + config.model.fit_intercept
    fraction = sample_fraction(source.n_rows, n_parameters, source.n_features * source.dtype.itemsize, config.cluster.memory_limit)
    if fraction == 0.0:
        why = f"more than the {MOST_PARAMETERS} for which a sample's Hessian is worth its cost" if n_parameters > MOST_PARAMETERS else \
            "too many for the rows that a sample could hold"
        return "lbfgs", 0.0, f"{source.n_features} features: {why}"
    rows = int(np.ceil(fraction * source.n_rows))
    return "lbfgs", fraction, f"{source.n_features} features: L-BFGS from the optimum of a sample of about {rows} rows, with its Hessian as metric"
