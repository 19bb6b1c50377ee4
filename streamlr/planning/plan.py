"""What a run will do and need, told before anything is read."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from streamlr.config.feature_values import FeatureValues
from streamlr.config.sections import TrainConfig
from streamlr.data.partition import FEW_SUMS, HEAVY_SUM_BYTES, Partition, with_resident_slabs
from streamlr.data.source import Source
from streamlr.errors import MemoryLimitError
from streamlr.execution.engine import tree_tasks
from streamlr.execution.scanner import plan_slabs
from streamlr.kernels.families import FAMILIES
from streamlr.pilot.size import MOST_PARAMETERS, look_fraction, sample_fraction
from streamlr.planning import memory as memory_model
from streamlr.planning.memory import RunShape, local_peak, worker_peak
from streamlr.planning.workforce import Excess, Room, WorkerLayout, peaks_of
from streamlr.solvers.registry import AUTO, OF_ALL, OF_SMOOTH, OF_SQUARES, SOLVERS

_MOST_CORRELATED = 64
"""Features up to which the first pass sums their products with one another for any family: that
costs it less than one more pass."""
_MOST_CORRELATED_OF_SQUARES = 512
"""The same for least squares by a method that was asked for, whose verdict hangs on them."""
_FEW_ROWS = 1024
"""Of least squares with too many features for their products: rows that take their place."""
_MOST_VALUES_OF_ROWS = 2**25
"""Of these rows."""
"""In the place of the name of a solver."""
_MOST_CANDIDATES = 4
MOST_SECANTS = 17
"""Points of the model with which a path begins that are evaluated in one pass: they cost about as
much as reading does."""
_NOMINAL_BYTES = 128 * 2**20
"""A process before any data, for the size of the sample: what is measured would make the sample,
and with it the last bits, a matter of chance."""
_SMALLEST_SAMPLE = 1 / 64
_USABLE = 0.95
_USABLE_OF_STRANGER = 0.5
"""Of workers that others have started: Dask begins to move results to disk at 0.6 of their limit,
where it was not told otherwise."""


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
    """What each process may use; None where no limit is known."""
    limit_source: str = ""
    """Where that comes from."""
    excess: Excess | None = None
    """What does not fit; None where all does."""
    worker_peak_bytes: int = 0
    """Projected memory of the largest of those that take the sums."""
    models: int = 1
    """Models that are fitted together: strengths of a path and their folds; 1 where there is no
    path."""
    columns: int = 1
    """Of these so many are evaluated in one pass."""
    curvatures: int = 1
    """Hessians of the sample that are kept for them."""
    products: bool = False
    """Whether the first pass sums the products of the features with one another."""
    look_fraction: float = 0.0
    """Share drawn where there is no sample, to learn whether features repeat one another."""
    fitted: str = ""
    """What was made smaller to keep to the limit, and why; empty where nothing was."""

    @property
    def sample_rows(self) -> int:
        """Rows of the sample, about."""
        return round(self.sample_fraction * self.partition.n_rows)

    @property
    def refusal(self) -> str | None:
        """Why it will not run, with both numbers and what to change; None where it will."""
        if self.excess is None:
            return None
        limit, hessian = (
            self.excess.limit,
            " sum no Hessians (solver.name: lbfgs)," if SOLVERS[self.solver].needs_hessian else "",
        )
        return (
            f"the run needs about {self.excess.needed_bytes / 1e6:.0f} MB {self.excess.where} "
            f"({self.threads} thread{'s' * (self.threads > 1)} in all, "
            f"blocks of {self.partition.block_rows * self.row_bytes / 1e6:.0f} MB decoded, sample "
            f"of {self.sample_rows * self.row_bytes / 1e6:.0f} MB), "
            f"and {limit.source} is {limit.nbytes / 1e6:.0f} MB; raise the limit,{hessian} or "
            "write the store in smaller chunks"
        )

    def to_dict(self) -> dict[str, Any]:
        """The plan as ``streamlr plan`` shows it."""
        p = self.partition
        return {
            "solver": self.solver,
            "reason": self.reason,
            "rows": p.n_rows,
            "features": self.features,
            "dtype": self.dtype,
            "blocks": p.n_blocks,
            "slabs": p.n_slabs,
            "tasks_per_pass": p.n_slabs + tree_tasks(p.n_slabs, p.tree_arity),
            "threads": self.threads,
            "data_bytes": self.data_bytes,
            "stored_bytes": self.stored_bytes,
            "block_bytes": p.block_rows * self.row_bytes,
            "leaf_bytes": p.leaf_rows * self.features * 8,
            "models": self.models,
            "columns": self.columns,
            "sample_rows": self.sample_rows,
            "sample_bytes": self.sample_rows * self.row_bytes,
            "held_slabs": p.resident_slabs,
            "held_bytes": p.resident_rows * self.row_bytes,
            "peak_bytes": self.peak_bytes,
            "worker_peak_bytes": self.worker_peak_bytes,
            "memory_limit": self.memory_limit,
            "limit_source": self.limit_source,
            "fitted": self.fitted,
            "refused": self.refusal,
        }


def make_plan(config: TrainConfig, source: Source, workers: WorkerLayout, outputs: int = 1) -> Plan:
    """Project a run: its slabs, its solver and its memory; reads nothing.

    Where a memory limit asks for it, fewer threads than there are will work, which changes no bit
    of the result; a smaller sample, which changes its last ones, is taken only where even one
    thread would not fit.

    Parameters
    ----------
    config, source, workers
        What is asked for, the data, and who takes the sums.
    outputs
        c, 1 for two classes.
    """
    room = Room(config.cluster.memory_limit, workers)
    least = room.of_process
    name, fraction, reason = choose_solver(config, source, outputs)
    fitted = []
    if (
        SOLVERS[name].by_equations
        and least is not None
        and not _fits(_shape_of(config, source, name, fraction, outputs, 1), least.nbytes)
    ):
        fitted.append("not all rows at once" if fraction else "no products of the features")
        name, fraction, reason = choose_solver(config, source, outputs, squares=False)
    if fraction and least is not None:
        smaller = _fitting_sample(config, source, name, fraction, outputs, least.nbytes)
        if smaller != fraction:
            fraction = smaller
            fitted.append(
                f"sample of {round(smaller * source.n_rows):,} rows" if smaller else "no sample"
            )
            reason = choose_reason(source, smaller, name, least.source)
    threads = workers.threads_per_process
    while threads > 1 and not room.fits(
        _shape_of(config, source, name, fraction, outputs, threads * workers.processes), threads
    ):
        threads -= 1
    if threads < workers.threads_per_process:
        fitted.insert(
            0,
            f"{threads} of {workers.threads_per_process} threads"
            + ("" if workers.in_this_process else " in each process"),
        )
    shape = _shape_of(config, source, name, fraction, outputs, threads * workers.processes)
    while shape.candidates > _MOST_CANDIDATES and not room.fits(shape, threads):
        shape = replace(shape, candidates=-(-shape.candidates // 2))
    if shape.candidates < shape.models:
        fitted.append(f"{shape.candidates} of {shape.models} models in a pass")
    if room.limit is not None and least is not None and not source.resident:
        shape = _with_resident(shape, least.nbytes, workers, threads)
    peaks = peaks_of(shape, workers, threads)
    why = (
        ""
        if not fitted or least is None
        else f"{' and '.join(fitted)}: {_shown(least.nbytes)} of {least.source.rstrip(',')}"
    )
    return Plan(
        name,
        reason,
        shape.partition,
        source.n_features,
        str(source.dtype),
        threads * workers.processes,
        source.n_rows * shape.row_bytes,
        source.stored_bytes,
        fraction,
        shape.row_bytes,
        peaks.largest,
        None if least is None else least.nbytes,
        "" if least is None else least.source,
        room.excess(peaks),
        peaks.worker,
        shape.models,
        shape.candidates,
        shape.curvatures,
        shape.products,
        shape.look_rows / source.n_rows,
        why,
    )


def _shape_of(
    config: TrainConfig, source: Source, solver: str, fraction: float, outputs: int, threads: int
) -> RunShape:
    """What a run on so many threads in all asks for."""
    kind = SOLVERS[solver]
    models, secants = models_of(config), MOST_SECANTS if solves_null_model(config) else 0
    partition = plan_slabs(source, threads, outputs * models)
    shape = RunShape(
        partition,
        source.n_features,
        source.dtype.itemsize,
        outputs,
        max(models, kind.candidates, secants),
        kind.needs_hessian,
        math.ceil(fraction * source.n_rows),
        source.footprint(partition.block_rows),
        source.label_footprint(partition.block_rows),
        not kind.smooth_only or secants > 0,
        config.validation.array is not None or config.validation.fraction > 0,
        models,
        strengths_of(config),
        *_parts_of(config),
        _sums_products(config, source, solver, fraction),
        kind.by_equations,
        _look_rows(config, source, solver),
    )
    if (shape.newton or shape.products) and shape.hessian_bytes >= HEAVY_SUM_BYTES:
        return replace(shape, partition=replace(partition, tree_arity=FEW_SUMS))
    return shape


def _look_rows(config: TrainConfig, source: Source, solver: str) -> int:
    """Rows drawn where there is no sample: where a solver was asked for by its name, and for least
    squares."""
    if config.solver.name == AUTO and not SOLVERS[solver].by_equations:
        return 0
    return math.ceil(
        look_fraction(source.n_rows, source.n_features, source.n_features * source.dtype.itemsize)
        * source.n_rows
    )


def _sums_products(config: TrainConfig, source: Source, solver: str, fraction: float) -> bool:
    """Whether the statistics pass is to sum the products of the features: where the solver hangs on
    them, and else where they cost little."""
    most = _MOST_CORRELATED_OF_SQUARES if _is_quadratic(config) else _MOST_CORRELATED
    return (SOLVERS[solver].by_equations and not fraction) or source.n_features <= most


def _is_quadratic(config: TrainConfig) -> bool:
    return (
        FAMILIES[config.model.family].quadratic
        and config.path is None
        and config.model.penalty.l1 == 0
        and not config.model.bounds.given
    )


def models_of(config: TrainConfig) -> int:
    """Models that are fitted together: those of all strengths of a path, to all rows and to those
    of each fold; 1 where there is no path."""
    return strengths_of(config) * (1 if config.path is None else 1 + config.path.folds)


def strengths_of(config: TrainConfig) -> int:
    """Penalties that they have between them."""
    if config.path is None:
        return 1
    return config.path.count if config.path.lambdas is None else len(config.path.lambdas)


def solves_null_model(config: TrainConfig) -> bool:
    """Whether a path begins at a model that has coefficients: not all are penalised, or may be
    0."""
    if config.path is None or config.path.lambdas is not None:
        return False
    factors, bounds = config.model.penalty.factors, config.model.bounds
    return (
        0.0 in _numbers(factors)
        or any(lower > 0 for lower in _numbers(bounds.lower))
        or any(upper < 0 for upper in _numbers(bounds.upper))
    )


def _numbers(values: FeatureValues) -> list[float]:
    """All that are named."""
    if values is None or isinstance(values, float):
        return [] if values is None else [values]
    return list(values.values()) if isinstance(values, dict) else values


def _parts_of(config: TrainConfig) -> tuple[int, bool]:
    """Parts of the rows whose moments the statistics pass tells apart, and whether it tells those
    of the features."""
    if config.path is None:
        return 0, False
    return config.path.folds + 1, config.model.standardize and config.path.folds > 0


def _fitting_sample(
    config: TrainConfig, source: Source, solver: str, fraction: float, outputs: int, limit: int
) -> float:
    """The largest of fraction, fraction / 2, ... with which one thread fits, whatever the engine; 0
    where none of use does."""
    least = sample_fraction(
        source.n_rows,
        source.n_features + config.model.fit_intercept,
        outputs,
        source.n_features * source.dtype.itemsize,
        least=True,
    )
    share = 1.0
    while share >= _SMALLEST_SAMPLE and share * fraction >= least:
        if _fits(_shape_of(config, source, solver, share * fraction, outputs, 1), limit):
            return share * fraction
        share /= 2
    return 0.0


def _fits(shape: RunShape, limit: int) -> bool:
    """Whether one thread has room, whatever the engine and whatever the process held before."""
    return (
        max(local_peak(shape, 1, _NOMINAL_BYTES), worker_peak(shape, 1, 1, _NOMINAL_BYTES)) <= limit
    )


def _with_resident(shape: RunShape, limit: int, workers: WorkerLayout, threads: int) -> RunShape:
    """With as many slabs kept in memory as the rest of the limit has room for, or on a cluster the
    share that Dask does not spill."""

    def with_slabs(budget: int) -> RunShape:
        return replace(
            shape, partition=with_resident_slabs(shape.partition, budget, shape.row_bytes)
        )

    usable = int(
        (_USABLE if workers.in_this_process or workers.answer_directly else _USABLE_OF_STRANGER)
        * limit
    )
    all_resident = with_slabs(
        shape.partition.n_rows * shape.row_bytes
        + shape.row_bytes * shape.partition.block_rows * shape.partition.slab_blocks
    )
    if peaks_of(all_resident, workers, threads).worker <= usable:
        return all_resident
    budget = usable - peaks_of(shape, workers, threads).worker
    if workers.in_this_process or workers.processes == 1:
        return with_slabs(budget)
    slab = shape.partition.slab_blocks * shape.partition.block_rows * shape.row_bytes
    return with_slabs((budget - memory_model.TAKEN_OVER_SLABS * slab) * workers.processes)


def _shown(nbytes: int | None) -> str:
    nbytes = nbytes or 0
    return f"{nbytes / 1e9:.3g} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.0f} MB"


def check_plan(plan: Plan) -> None:
    """Refuse a plan over its limit.

    Raises
    ------
    MemoryLimitError
        With both numbers and what to change.
    """
    if plan.refusal is not None:
        raise MemoryLimitError(plan.refusal)


def choose_solver(
    config: TrainConfig, source: Source, outputs: int = 1, *, squares: bool = True
) -> tuple[str, float, str]:
    """The method, the share of rows to sample for it, and why; with ``squares`` least squares by
    their products where these are not too many."""
    name = config.solver.name
    if squares and (name == AUTO or SOLVERS[name].needs_hessian) and _is_quadratic(config):
        if source.n_features + config.model.fit_intercept <= MOST_PARAMETERS:
            return (
                OF_SQUARES,
                0.0,
                f"{source.n_features} features: least squares, with the Hessian from the first "
                "pass",
            )
        whole = (
            config.model.penalty.l2 == 0 or config.model.penalty.factors is None
        )  # what holds some features alone is another matter
        if (
            whole
            and source.n_rows <= _FEW_ROWS
            and source.n_rows * source.n_features <= _MOST_VALUES_OF_ROWS
        ):
            return (
                OF_SQUARES,
                1.0,
                f"{source.n_rows} rows of {source.n_features} features: least squares, with all "
                "rows from the first pass",
            )
    if name != AUTO:
        return name, 0.0, "solver.name asks for it"
    n_features = source.n_features + config.model.fit_intercept
    fraction = sample_fraction(
        source.n_rows, n_features, outputs, source.n_features * source.dtype.itemsize
    )
    with_l1 = config.model.penalty.l1 > 0 or (config.path is not None and config.path.alpha > 0)
    method = OF_ALL if with_l1 or config.model.bounds.given else OF_SMOOTH
    if fraction == 0.0:
        why = (
            f"more than the {MOST_PARAMETERS} for which a sample's Hessian is worth its cost"
            if n_features > MOST_PARAMETERS
            else "too many for the rows that a sample could hold"
        )
        return method, 0.0, f"{source.n_features} features: {why}"
    return method, fraction, choose_reason(source, fraction, method)


def choose_reason(
    source: Source, fraction: float, method: str, limit: str = "cluster.memory_limit"
) -> str:
    """Why this method, for a person."""
    if not fraction:
        return f"{source.n_features} features: {limit} leaves no room for a sample of use"
    rows = int(np.ceil(fraction * source.n_rows))
    return (
        f"{source.n_features} features: {SOLVERS[method].title} from the optimum of a sample "
        f"of about {rows} rows, with its Hessian as metric"
    )
