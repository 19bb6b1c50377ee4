"""The rows of a pilot in memory, and objectives of these rows alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streamlr.data.partition import FEW_SUMS
from streamlr.data.source import ArraySource
from streamlr.execution.engine import Engine, one_blas_thread
from streamlr.execution.local import InProcessEngine, ThreadsEngine, available_cores
from streamlr.execution.process import trim_allocator
from streamlr.execution.scanner import Scanner, plan_slabs
from streamlr.kernels.columns import joined
from streamlr.kernels.memory import page_memory
from streamlr.kernels.scans.moments import SampledRows
from streamlr.objective.objective import Objective

Array = NDArray[np.float64]

_UNSEEN = 0.01
_GIVEN_BACK_BYTES = 16 * 2**20
"""Bytes of small blocks that may be free before the operating system gets them."""


def join_sample(parts: list[SampledRows]) -> SampledRows | None:
    """The sampled rows of all blocks in one, or None where there are none.

    Empties the list, so that the rows are in memory once and not twice.
    """
    if not parts:
        return None
    n_rows = sum(len(part.X) for part in parts)
    # pages count when they are written to
    X = page_memory(n_rows * parts[0].X[:1].nbytes).view(parts[0].X.dtype).reshape(n_rows, -1)
    columns = joined([part.columns for part in parts])
    parts.reverse()
    row = given = 0
    while parts:
        part = parts.pop().X
        X[row : row + len(part)] = part
        row += len(part)
        if (row - given) * X[:1].nbytes >= _GIVEN_BACK_BYTES:
            del part
            trim_allocator()
            given = row
    return SampledRows(X, columns)


@contextmanager
def pilot_engine(objective: Objective) -> Iterator[Engine]:
    """The engine of passes over rows in memory: the run's own, if that has them in its memory."""
    here = objective.scanner.engine
    with ExitStack() as stack:
        if not isinstance(here, InProcessEngine):
            here = stack.enter_context(ThreadsEngine(available_cores()))
        stack.enter_context(one_blas_thread())
        yield here


def on_sample(
    grid: Sequence[Sequence[Objective]], sample: SampledRows, engine: Engine
) -> list[list[Objective]]:
    """The same objectives of the sample's rows alone.

    Rows that are held out of all of them are not drawn, and have no keys to tell them by.
    """
    source = ArraySource.of(sample.X, sample.columns)
    outputs = sum(len(row) for row in grid) * grid[0][0].coordinates.n_outputs
    partition = replace(plan_slabs(source, engine.n_threads, outputs), tree_arity=FEW_SUMS)
    scanner = Scanner(engine, source, lambda event: None, partition)
    keyed = sample.columns.groups is not None
    return [[_of_rows(objective, scanner, keyed) for objective in row] for row in grid]


def _of_rows(objective: Objective, scanner: Scanner, keyed: bool) -> Objective:
    return Objective(
        scanner,
        objective.model,
        objective.classes,
        objective.moments,
        objective.coordinates,
        objective.split if keyed else None,
        objective.holdout,
        objective.penalty_spread,
    )


def fill_unseen(hessian: Array) -> None:
    """Give parameters that the sample's rows tell nothing of (a feature that is 0 in all of them)
    the curvature of the others.

    Features are in units of their spread, so curvatures are alike. With next to none, the metric
    sent the first step so far that none along it was acceptable.
    """
    curvature = np.diag(hessian)
    usual = float(np.median(curvature))
    unseen = np.flatnonzero(curvature < _UNSEEN * usual)
    hessian[unseen, unseen] = usual
