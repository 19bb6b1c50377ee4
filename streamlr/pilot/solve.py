"""A start and a metric for the full data, had from a sample of its rows in memory.

The optimum of s rows lies about sqrt(d / s) from that of all rows, and their Hessian is that of all
rows up to a relative error of the same size; so a solve on the sample replaces most passes over the
data (Byrd, Hansen, Nocedal and Singer, "A stochastic quasi-Newton method for large-scale
optimization", SIAM J. Optim. 26, 2016, use the sample's curvature; here it is the metric of L-BFGS,
whose corrections make it exact). The sample itself is solved in the same way, from a quarter of its
rows, down to a size at which Newton's method is cheap.
"""

from __future__ import annotations

import logging
from contextlib import ExitStack
from dataclasses import dataclass, replace

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
from streamlr.pilot.kronecker import SampleCurvature
from streamlr.solvers import Evaluation, Lbfgs, Newton, Proximal, Status, minimize
from streamlr.solvers.lbfgs import LbfgsState, Preconditioner
from streamlr.solvers.newton import inverse_of
from streamlr.solvers.proximal import ProximalState, loss_hessian
from streamlr.solvers.quasi_newton import FIRST_STEPS

log = logging.getLogger(__name__)

Array = NDArray[np.float64]

MOST_PARAMETERS = 4096
"""Above this many parameters a Hessian is too large to be worth its memory and the time to invert
it."""
MOST_COUPLED_PARAMETERS = 2048
"""The same for coupled outputs, whose Hessian has another way."""
_LEAST_BYTES = 64 * 2**20
_MOST_BYTES = 1024 * 2**20
_WANTED_ROWS_PER_PARAMETER = 40
_WANTED_ROWS_PER_PARAMETER_OF_MANY = 8
_LEAST_ROWS_PER_PARAMETER = 3
_LEAST_OUTPUTS = 4
_LEAST_LOOKED_AT = 1024
_LOOKED_AT_PER_FEATURE = 8
_MOST_LOOKED_AT_BYTES = 8 * 2**20
_NEWTON_PARAMETERS = 256
_NEWTON_PRODUCTS = 2e10
"""Rows times parameters squared up to which a Hessian is cheap: a second or so."""
_CHEAP_PRODUCTS = 5e8
"""The same up to which it costs little more than to look at the rows, so that a coarser sample
would save nothing."""
_COARSER = 4
_TOLERANCE = 1e-6
_TOLERANCE_OF_MANY = 1e-5
_TOLERANCE_OF_WHOLE = 1e-10
_MOST_SAMPLE_PASSES = 60
_MOST_PASSES_OF_FEW = 400
"""Of fewer rows than parameters, which cost next to nothing; the steps are short where classes are
nearly separable."""
_FEW_SAMPLE_PASSES = 10
_RIDGE = 1e-8
_UNSEEN = 0.01
_BLOCK_ROWS = 4096
_MOVED = 1e-6
"""Of what a direction moves an example's Z by, relative to the most: less is rounding."""
_GIVEN_BACK_BYTES = 16 * 2**20
"""Bytes of small blocks that may be free before the operating system gets them."""


def sample_fraction(
    n_rows: int, n_features: int, n_outputs: int, row_bytes: int, *, least: bool = False
) -> float:
    """Share of the rows to draw so that the sample stays within its budget of memory; 0 where a
    sample would not help.

    Parameters
    ----------
    n_rows, n_features, n_outputs
        Size of the problem; an intercept counts as a feature.
    row_bytes
        Bytes of one row as stored.
    least
        Whether the smallest share of use is asked for.
    """
    if n_features > MOST_PARAMETERS:
        return 0.0
    n_parameters = n_features * n_outputs
    # of many outputs the features' second moments are enough for a metric
    least_rows = _LEAST_ROWS_PER_PARAMETER * (
        n_features * _LEAST_OUTPUTS if n_outputs > _LEAST_OUTPUTS else n_parameters
    )
    if least:
        return min(1.0, least_rows / n_rows)
    per_parameter = (
        _WANTED_ROWS_PER_PARAMETER
        if n_parameters <= MOST_PARAMETERS
        else _WANTED_ROWS_PER_PARAMETER_OF_MANY
    )
    rows = min(max(_LEAST_BYTES, per_parameter * n_parameters * row_bytes), _MOST_BYTES) / row_bytes
    if rows >= n_rows:
        return 1.0
    if rows < least_rows:
        return 0.0
    return (
        float(rows - 4.0 * np.sqrt(rows)) / n_rows
    )  # the number drawn is binomial: stay below the budget


def look_fraction(n_rows: int, n_features: int, row_bytes: int) -> float:
    """Share of the rows to draw where no sample is solved: enough to tell which features nearly
    repeat one another; 0 for too many features."""
    rows = min(
        max(_LEAST_LOOKED_AT, _LOOKED_AT_PER_FEATURE * n_features),
        _MOST_LOOKED_AT_BYTES // row_bytes,
    )
    if rows >= n_rows:
        return 1.0
    return 0.0 if rows < _LEAST_ROWS_PER_PARAMETER * n_features else rows / n_rows


@dataclass(frozen=True, slots=True)
class SampleOptimum:
    """What a sample tells of the whole."""

    point: Array
    """Its optimum, (d,)."""
    metric: Array | None
    """Inverse of its Hessian there, (d, d); None where it is of no use."""
    suspect: Array | None = None
    """Direction along which its loss falls for ever, (d,); None where there is none."""


def join_sample(parts: list[SampledRows]) -> SampledRows | None:
    """The sampled rows of all blocks in one, or None where there are none; empties the list, so
    that the rows are in memory once and not twice."""
    if not parts:
        return None
    n_rows = sum(len(part.X) for part in parts)
    X = (
        page_memory(n_rows * parts[0].X[:1].nbytes).view(parts[0].X.dtype).reshape(n_rows, -1)
    )  # pages count when they are written to
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


def start_from_sample(
    objective: Objective, solver: Lbfgs | Proximal, sample: SampledRows, start: Evaluation
) -> tuple[Lbfgs | Proximal, LbfgsState | ProximalState]:
    """The solver, and a state of it that will first try the sample's optimum, with the sample's
    Hessian as its metric.

    Whatever the sample says, the first step is held against the objective of the full data, so a
    bad sample costs passes and nothing else.
    """
    if isinstance(solver, Proximal):
        return solver, _start_proximal(objective, solver, sample, start)
    if objective.family.coupled and not _is_small(objective, sample):
        return _start_many(objective, solver, sample, start)
    here = objective.scanner.engine
    with ExitStack() as stack:
        engine = (
            here
            if isinstance(here, InProcessEngine)
            else stack.enter_context(ThreadsEngine(available_cores()))
        )
        stack.enter_context(one_blas_thread())
        found = _held_back(
            objective, sample, engine, start.point, _solve(objective, sample, engine, start.point)
        )
    if found.metric is None:
        metric: Array = 1.0 / objective.diagonal()
        state = solver.init_with(start, metric, _descent(start, found.point, metric), FIRST_STEPS)
    else:
        state = solver.init_with(
            start, found.metric, _descent(start, found.point, found.metric), np.ones(1)
        )
    return solver, replace(state, suspect=found.suspect)


def _start_proximal(
    objective: Objective, solver: Proximal, sample: SampledRows, start: Evaluation
) -> ProximalState:
    with ThreadsEngine(available_cores()) as engine, one_blas_thread():
        point, hessian = _solve_proximal(
            objective,
            sample,
            engine,
            start.point,
            objective.family.coupled and not _is_small(objective, sample),
        )
    if hessian is None:
        return solver.init_with(start, objective.diagonal(), point, FIRST_STEPS)
    return solver.init_with(start, hessian, point, np.ones(1))


def _solve_proximal(
    objective: Objective, sample: SampledRows, engine: Engine, start: Array, plain: bool
) -> tuple[Array, Array | None]:
    """Optimum of the sample and Hessian of its loss there, coarse to fine as `_solve` has it; none
    of outputs that are too many (``plain``)."""
    n_rows, d = sample.X.shape[0], objective.size
    on_sample = _on_sample(objective, sample, engine)
    few = (
        n_rows * objective.coordinates.n_outputs < d <= MOST_COUPLED_PARAMETERS
    )  # whose curvature changes along with every step
    newton = (
        objective.family.coupled
        or few
        or (d <= _NEWTON_PARAMETERS and n_rows * d**2 <= _CHEAP_PRODUCTS)
    )
    point, hessian = start, None
    if not (plain or newton or n_rows < 2 * _COARSER * _LEAST_ROWS_PER_PARAMETER * d):
        point, hessian = _solve_proximal(objective, sample.every(_COARSER), engine, start, plain)
        if hessian is None:
            return point, None
    first = on_sample.evaluate(point[None, :], "sample", hessian=hessian is None and not plain)[0]
    solver = Proximal(on_sample, _tolerance(on_sample), needs_hessian=newton and not plain)
    if hessian is None:
        hessian = on_sample.diagonal() if plain else loss_hessian(on_sample, first)
    state, outcome = minimize(
        on_sample,
        solver,
        solver.init_with(first, hessian, None, FIRST_STEPS if plain else np.ones(1)),
        0,
        _MOST_PASSES_OF_FEW if few else _MOST_SAMPLE_PASSES,
    )
    log.info(
        "sample of %d rows, proximal: %s at a gradient of %.2g",
        n_rows,
        outcome.status,
        state.gradient_max,
    )
    if plain:
        return state.point, None
    del first, hessian
    found = on_sample.evaluate(state.point[None, :], "sample", hessian=True)[0]
    assert found.hessian is not None
    if (found.separates and on_sample.is_recession_direction(state.point)) or not np.isfinite(
        found.hessian
    ).all():
        return state.point, None
    if n_rows < objective.moments.n_rows:
        fill_unseen(found.hessian)
    return state.point, loss_hessian(on_sample, found)


def _is_small(objective: Objective, sample: SampledRows) -> bool:
    """Whether the Hessian of coupled outputs is worth being written down."""
    d = objective.size
    return d <= _NEWTON_PARAMETERS or (
        d <= MOST_COUPLED_PARAMETERS and len(sample.X) * d**2 <= _NEWTON_PRODUCTS
    )


def sampled_metric(objective: Objective, sample: SampledRows, point: Array) -> SampleCurvature:
    """The metric of L-BFGS for many coupled outputs: the sample's curvature at a point."""
    rows = len(sample.X)
    exact = rows == objective.moments.n_rows or rows >= _LEAST_ROWS_PER_PARAMETER * objective.size
    return SampleCurvature(objective, _source_of(sample), point, exact=exact)


def _start_many(
    objective: Objective, solver: Lbfgs, sample: SampledRows, start: Evaluation
) -> tuple[Lbfgs, LbfgsState]:
    """Solve the sample by L-BFGS with its Kronecker product as metric, which is cheap, then where
    that does not get there with its Hessian.

    The Hessian at the optimum is the metric for all rows.
    """
    metric = sampled_metric(objective, sample, start.point)
    with ThreadsEngine(available_cores()) as engine, one_blas_thread():
        on_sample = _on_sample(objective, sample, engine)
        point, status = _refine_many(
            on_sample,
            metric.kronecker,
            start.point,
            _MOST_SAMPLE_PASSES if metric.exact else _FEW_SAMPLE_PASSES,
        )
        if metric.exact and status not in (Status.CONVERGED, Status.DIVERGED):
            point, status = _refine_many(
                on_sample, sampled_metric(objective, sample, point), point, _MOST_SAMPLE_PASSES
            )
    if status != Status.DIVERGED:
        metric = sampled_metric(objective, sample, point)
    direction = _descent(start, point, metric)
    return replace(solver, preconditioner=metric), solver.init_with(
        start, np.empty(0), direction, np.ones(1), metric.point
    )


def _refine_many(
    objective: Objective, metric: Preconditioner, point: Array, most_passes: int
) -> tuple[Array, str]:
    """Where L-BFGS with a metric gets from a point, and how it ended."""
    whole = objective.scanner.source.n_rows == objective.moments.n_rows
    solver = Lbfgs(
        objective, _TOLERANCE_OF_WHOLE if whole else _TOLERANCE_OF_MANY, preconditioner=metric
    )
    first = objective.evaluate(point[None, :], "sample")[0]
    state, outcome = minimize(
        objective,
        solver,
        solver.init_with(first, np.empty(0), -metric(first.gradient), np.ones(1), point),
        0,
        most_passes,
    )
    log.info(
        "sample of %d rows, L-BFGS: %s at a gradient of %.2g",
        objective.scanner.source.n_rows,
        outcome.status,
        state.gradient_max,
    )
    return state.point, outcome.status


def _descent(start: Evaluation, goal: Array, metric: Array | SampleCurvature) -> Array:
    """The way to the goal if it leads downhill, else the quasi-Newton direction."""
    direction = goal - start.point
    if float(direction @ start.gradient) < 0 and np.isfinite(direction).all():
        return direction
    if isinstance(metric, SampleCurvature):
        return -metric(start.gradient)
    return -(metric @ start.gradient) if metric.ndim == 2 else -metric * start.gradient


def _source_of(sample: SampledRows) -> ArraySource:
    return ArraySource.of(sample.X, replace(sample.columns, groups=None))


def _on_sample(objective: Objective, sample: SampledRows, engine: Engine) -> Objective:
    """The same objective of the sample's rows alone."""
    source = _source_of(sample)
    partition = replace(
        plan_slabs(source, engine.n_threads, objective.coordinates.n_outputs), tree_arity=FEW_SUMS
    )
    return Objective(
        Scanner(engine, source, lambda event: None, partition),
        objective.model,
        objective.classes,
        objective.moments,
        objective.coordinates,
    )


def _solve(
    objective: Objective, sample: SampledRows, engine: Engine, start: Array
) -> SampleOptimum:
    """Optimum and inverse Hessian of the sample, coarse to fine."""
    n_rows, d = sample.X.shape[0], objective.size
    on_sample = _on_sample(objective, sample, engine)
    if objective.family.coupled or (d <= _NEWTON_PARAMETERS and n_rows * d**2 <= _CHEAP_PRODUCTS):
        return _newton(on_sample, start)
    if n_rows < 2 * _COARSER * _LEAST_ROWS_PER_PARAMETER * d:
        return _chord(on_sample, start)
    coarse = _solve(objective, sample.every(_COARSER), engine, start)
    return coarse if coarse.metric is None else _refine(on_sample, coarse)


def _held_back(
    objective: Objective, sample: SampledRows, engine: Engine, start: Array, found: SampleOptimum
) -> SampleOptimum:
    """Where the sample's loss falls for ever along a direction, as it often does where a feature is
    rare, not its way there, but where all rows may well have their optimum: that of the examples
    that the direction does not move, and along it as far as so many examples of the same kind speak
    for.
    """
    if found.suspect is None or len(sample.X) == objective.moments.n_rows:
        return found
    W, b = objective.coordinates.to_data_units(found.suspect)
    blocks = (
        sample.X[at : at + _BLOCK_ROWS].astype(np.float64)
        for at in range(0, len(sample.X), _BLOCK_ROWS)
    )
    size = np.concatenate([np.abs(block @ W + b).max(axis=1) for block in blocks])
    moved = size > _MOVED * float(size.max())
    omega = np.ones(len(size)) if sample.weights is None else sample.weights
    rest = _solve(
        objective,
        SampledRows(sample.X, replace(sample.columns, weights=np.where(moved, 0.0, omega))),
        engine,
        start,
    )
    if rest.suspect is not None or rest.metric is None:
        return found
    spoken = np.log1p(2.0 * omega[moved].sum() ** 2 / (omega[moved] ** 2).sum())
    point = rest.point + spoken * omega[moved].sum() / (omega[moved] @ size[moved]) * found.suspect
    return _with_metric(_on_sample(objective, sample, engine), point, found.suspect)


def _newton(objective: Objective, start: Array) -> SampleOptimum:
    solver = Newton(objective, _tolerance(objective))
    first = objective.evaluate(start[None, :], "sample", hessian=True)[0]
    state, outcome = minimize(
        objective, solver, solver.init(objective, first), 0, _MOST_SAMPLE_PASSES
    )
    log.info(
        "sample of %d rows, Newton: %s after a gradient of %.2g",
        objective.scanner.source.n_rows,
        outcome.status,
        state.gradient_max,
    )
    return _with_metric(
        objective, state.point, state.suspect if state.status == Status.DIVERGED else None
    )


def _chord(objective: Objective, start: Array) -> SampleOptimum:
    """L-BFGS with the Hessian at the start for its metric: a Hessian costs as much as some hundred
    gradients here."""
    first = objective.evaluate(start[None, :], "sample", hessian=True)[0]
    assert first.hessian is not None
    return _refine(objective, SampleOptimum(start, inverse_of(first.hessian, ridge=_RIDGE)))


def _refine(objective: Objective, coarse: SampleOptimum) -> SampleOptimum:
    assert coarse.metric is not None
    solver = Lbfgs(objective, _tolerance(objective))
    first = objective.evaluate(coarse.point[None, :], "sample")[0]
    state, outcome = minimize(
        objective,
        solver,
        solver.init_with(first, coarse.metric, -(coarse.metric @ first.gradient), np.ones(1)),
        0,
        _MOST_SAMPLE_PASSES,
    )
    log.info(
        "sample of %d rows, L-BFGS: %s at a gradient of %.2g",
        objective.scanner.source.n_rows,
        outcome.status,
        state.gradient_max,
    )
    if outcome.status != Status.CONVERGED:
        log.warning(
            "the solve on the sample ended %s; it serves as a start all the same", outcome.status
        )
    return _with_metric(
        objective, state.point, state.suspect if state.status == Status.DIVERGED else None
    )


def _tolerance(objective: Objective) -> float:
    """Where the sample is the whole, its optimum is the answer; elsewhere more digits would be
    digits of the sample alone."""
    return (
        _TOLERANCE_OF_WHOLE
        if objective.scanner.source.n_rows == objective.moments.n_rows
        else _TOLERANCE
    )


def _with_metric(objective: Objective, point: Array, suspect: Array | None) -> SampleOptimum:
    """A sample that is separable has no optimum, and its curvature at any point says nothing of the
    whole."""
    found = objective.evaluate(point[None, :], "sample", hessian=True)[0]
    hessian = found.hessian
    assert hessian is not None
    if (found.separates and objective.is_recession_direction(point)) or not np.isfinite(
        hessian
    ).all():
        return SampleOptimum(point, None, suspect)
    if objective.scanner.source.n_rows < objective.moments.n_rows:
        fill_unseen(hessian)
    return SampleOptimum(point, inverse_of(hessian, ridge=_RIDGE), suspect)


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
