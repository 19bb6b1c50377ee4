"""Solves a pilot, for one model or for all models of a path, and starts solvers from its optimum.

The optimum of s rows lies about sqrt(d / s) from that of all rows, and their Hessian is that of all
rows up to a relative error of the same size; so a solve on the sample replaces most passes over the
data (Byrd, Hansen, Nocedal and Singer, "A stochastic quasi-Newton method for large-scale
optimization", SIAM J. Optim. 26, 2016, use the sample's curvature; here it is the preconditioner of
L-BFGS, whose corrections make it exact). The sample itself is solved in the same way, coarse to
fine, from every sixteenth of its rows on.

On the sample, too, every read evaluates all models that have not ended; folds come in where all of
its rows do. A model alone has its reads to itself, so that they may sum Hessians: where these are
cheap, Newton's method takes the place of the coarser levels.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamlr.data.source import ArraySource
from streamlr.execution.engine import Engine
from streamlr.kernels.scans.moments import SampledRows
from streamlr.objective.objective import Objective, evaluate_together
from streamlr.pilot.curvature import Curvatures, preconditioned
from streamlr.pilot.kronecker import SampleCurvature
from streamlr.pilot.sample import fill_unseen, on_sample, pilot_engine
from streamlr.pilot.size import (
    MOST_ANCHORS,
    has_few_rows,
    is_cheap,
    is_dense,
    most_stride,
    tells_hessian,
)
from streamlr.solvers import (
    Newton,
    Proximal,
    Solve,
    SolveProgress,
    Solver,
    State,
    Status,
    minimize,
    minimize_together,
)
from streamlr.solvers.proximal import loss_hessian

log = logging.getLogger(__name__)

Array = NDArray[np.float64]
Points = list[list[Array]]
"""Of every strength, the parameters of the model of all rows, (d,), then those of the folds."""

_COARSER = 4
_LEVELS = 3
_PASSES_OF_LEVEL = 30
_PASSES_OF_FACTORS = 10
"""Where there are so few rows that they tell no Hessian but a Kronecker product."""
_PASSES_OF_NEWTON = 60
_PASSES_OF_FEW = 400
"""Of fewer rows than parameters, which cost next to nothing; the steps are short where classes are
nearly separable."""
_TOLERANCE_OF_WHOLE = 1e-10
"""Where the sample is the whole, its optimum is the answer."""
_OF_NOISE = 0.05
"""How much of what chance makes of a sample's gradient, 1 / sqrt(rows), is left when the sample
counts as solved; more digits would be digits of the sample alone."""
_OF_NOISE_OF_ONE = 0.001
"""The same of one model, of which a digit more costs little; what is rare has less noise than
that."""
_OF_COARSE = 10.0
"""How much more is left of a coarser level."""


@dataclass(frozen=True, slots=True)
class PilotOptimum:
    """What a sample tells of the whole."""

    points: Points
    """The optima of its rows."""
    curvatures: Curvatures
    """What its rows tell of the curvature there; nothing where that is of no use."""
    status: str = ""
    """How the solve of a single model has ended."""
    suspect: Array | None = None
    """Of a single model, direction along which its loss falls for ever, (d,)."""


def start_plain(
    grid: Sequence[Sequence[Objective]],
) -> tuple[Curvatures, list[SolveProgress]]:
    """Without a sample: every model from intercepts alone, by the plain method."""
    return Curvatures.none(), [
        SolveProgress(objective.start()) for row in grid for objective in row
    ]


def start_together(
    grid: Sequence[Sequence[Objective]],
    sample: SampledRows,
    most_curvatures: int,
    most_columns: int,
) -> tuple[Curvatures, list[SolveProgress]]:
    """All models of a path, each at the sample's optimum, and the sample's curvature there.

    Parameters
    ----------
    grid
        The objective of every strength of the penalty, from the largest on: first that of all rows,
        then those of the folds.
    sample
        Rows in memory, with the keys of their parts where there are folds.
    most_curvatures, most_columns
        Number of Hessians, and of points evaluated in one read, that there is room for.
    """
    points = [[objective.start() for objective in row] for row in grid]
    with pilot_engine(grid[0][0]) as engine:
        solve = PilotSolve(grid, sample, engine, most_curvatures, most_columns)
        found = solve.optimum(points)
    return found.curvatures, [SolveProgress(point) for row in found.points for point in row]


class PilotSolve:
    """The solve of a sample for all models of a grid.

    Parameters
    ----------
    grid, sample, most_curvatures, most_columns
        As `start_together` has them.
    engine
        Makes the passes over the sample.
    """

    def __init__(
        self,
        grid: Sequence[Sequence[Objective]],
        sample: SampledRows,
        engine: Engine,
        most_curvatures: int = 1,
        most_columns: int = 1,
    ) -> None:
        self.grid = grid
        self.sample = sample
        self.engine = engine
        self.most_curvatures = most_curvatures
        self.most_columns = most_columns
        self.model = grid[0][0]
        self.rows = len(sample.X)
        self.whole = self.rows == self.model.moments.n_rows
        self.alone = sum(len(row) for row in grid) == 1
        self.curvatures = Curvatures.none()
        self.status = ""
        self.suspect: Array | None = None

    def optimum(self, points: Points) -> PilotOptimum:
        """The optima that are found from these points, and the curvature there."""
        coupled, d = self.model.family.coupled, self.model.size
        if self._few():
            points = self._one_by_one(1, points, _PASSES_OF_FEW)
            self._take_curvature(1, points, self._anchors())
        elif is_dense(self.rows, d, coupled=coupled):
            points = self._coarse_to_fine(points)
        elif self.model.smooth:
            points = self._by_factors(points)
        else:
            points = self._solve(1, points, _PASSES_OF_LEVEL)
        return PilotOptimum(points, self.curvatures, self.status, self.suspect)

    def curvature(self, points: Points) -> Curvatures:
        """The curvature of all rows of the sample at points."""
        self._take_curvature(1, points, self._anchors())
        return self.curvatures

    # ways -----------------------------------------------------------------------------------------

    def _few(self) -> bool:
        """Whether there are so few rows that the curvature changes along with every set of features
        that are used, and from fold to fold."""
        numbers = self.rows * self.model.coordinates.n_outputs
        return not self.model.smooth and has_few_rows(numbers, self.model.size)

    def _coarse_to_fine(self, points: Points) -> Points:
        for stride in self._strides():
            finest = stride == 1
            if self._by_newton(stride):
                points = self._one_by_one(stride, points, _PASSES_OF_NEWTON)
            else:
                if not self.curvatures.known:
                    self._take_curvature(stride, points, [0])
                points = self._solve(stride, points, _PASSES_OF_LEVEL)
            at = self._stride_of_curvature() if finest else stride
            self._take_curvature(at, points, self._anchors())
            if not self.curvatures.known:
                break
        return points

    def _by_factors(self, points: Points) -> Points:
        """By a Kronecker product, which is cheap; then for one model, where that does not do, by
        the Hessian that it is near to."""
        near = sampled_preconditioner(self.model, self.sample, points[0][0])
        self.curvatures = Curvatures([near.kronecker], [0] * len(self.grid))
        points = self._solve(1, points, _PASSES_OF_LEVEL if near.exact else _PASSES_OF_FACTORS)
        if self.alone and near.exact and self.status not in (Status.CONVERGED, Status.DIVERGED):
            nearer = sampled_preconditioner(self.model, self.sample, points[0][0])
            (row,) = on_sample(self.grid, self.sample, self.engine)
            solves = [preconditioned(row[0], self._tolerance(1), nearer)]
            (progress,) = self._driven(solves, points[0], _PASSES_OF_LEVEL)
            points = [[progress.reached.point]]
        return points

    def _strides(self) -> list[int]:
        """Of the rows of each level, the coarsest first."""
        strides = [1]
        most = most_stride(self.rows, self.model.size)
        while len(strides) < _LEVELS and not self._by_newton(strides[0]):
            if _COARSER * strides[0] > most:
                break
            strides.insert(0, _COARSER * strides[0])
        return strides

    def _by_newton(self, stride: int) -> bool:
        """Whether a level is solved by Newton's method, which no other model shares a read with."""
        cheap = is_cheap(self.rows // stride, self.model.size)
        return self.alone and (self.model.family.coupled or cheap)

    # steps ----------------------------------------------------------------------------------------

    def _objectives(self, stride: int, *, folds: bool) -> list[list[Objective]]:
        grid = self.grid if folds else [row[:1] for row in self.grid]
        return on_sample(grid, self.sample.every(stride), self.engine)

    def _one_by_one(self, stride: int, points: Points, most_passes: int) -> Points:
        """Each model by Newton's method from that of the next larger strength."""
        solved = [points[0]]
        for row in self._objectives(stride, folds=True):
            tolerance = self._tolerance(stride)
            states = [
                _newton(objective, point, tolerance, most_passes)
                for objective, point in zip(row, solved[-1], strict=True)
            ]
            self._note(states)
            solved.append([state.point for state in states])
        return solved[1:]

    def _solve(self, stride: int, points: Points, most_passes: int) -> Points:
        """All models together; those of the folds only on all rows of the sample."""
        folds = stride == 1
        grid = self._objectives(stride, folds=folds)
        tolerance = self._tolerance(stride)
        solves = self.curvatures.solves(grid, tolerance)
        starts = [point for row, at in zip(grid, points, strict=True) for point in at[: len(row)]]
        each = iter(zip(solves, self._driven(solves, starts, most_passes), strict=True))
        solved: Points = []
        for row in grid:
            before = solved[-1] if solved else [objective.start() for objective in row]
            solved.append([_point_of(*next(each), of_larger, tolerance) for of_larger in before])
        if folds:
            return solved
        return [[row[0]] * len(at) for row, at in zip(solved, points, strict=True)]

    def _driven(
        self, solves: list[Solve[Objective]], starts: list[Array], most_passes: int
    ) -> list[SolveProgress]:
        """Where the solves get from points, (d,) each."""
        reads: list[int] = []
        progress = minimize_together(
            solves,
            [SolveProgress(point) for point in starts],
            0,
            most_passes * -(-len(solves) // self.most_columns),
            evaluate_together,
            lambda number, *_: reads.append(number),
            self.most_columns,
        )
        rows = solves[0].problem.scanner.source.n_rows
        log.info("%d sampled rows, %d models: %d reads", rows, len(solves), len(reads))
        self._note([here.reached for here in progress])
        return progress

    def _note(self, states: Sequence[State]) -> None:
        """Keep how a single model has ended."""
        if not self.alone:
            return
        (state,) = states
        self.status = state.status
        log.info("its gradient is %.2g: %s", state.gradient_max, state.status or Status.PASS_LIMIT)
        diverged = self.model.smooth and state.status == Status.DIVERGED
        self.suspect = state.suspect if diverged else None

    def _tolerance(self, stride: int) -> float:
        if self.whole and stride == 1:
            return _TOLERANCE_OF_WHOLE
        of_noise = _OF_NOISE_OF_ONE if self.alone else _OF_NOISE
        left = of_noise * (1.0 if stride == 1 else _OF_COARSE)
        return left / math.sqrt(self.rows // stride)

    # curvature ------------------------------------------------------------------------------------

    def _anchors(self) -> list[int]:
        count = min(len(self.grid), MOST_ANCHORS)
        return sorted({round(at) for at in np.linspace(0, len(self.grid) - 1, count)})

    def _stride_of_curvature(self) -> int:
        """As many of the rows as make the Hessians of all anchors cost about as much as one of all
        rows and half a pass over the data."""
        d, m = self.model.size, self.model.moments
        columns = sum(len(row) for row in self.grid) * self.model.coordinates.n_outputs
        budget = self.rows * d**2 + 2 * m.n_rows * len(m.mean) * columns
        stride = math.ceil(len(self._anchors()) * self.rows * d**2 / budget)
        return max(1, min(stride, most_stride(self.rows, d)))

    def _take_curvature(self, stride: int, points: Points, anchors: list[int]) -> None:
        """Know the curvature of all strengths from Hessians at the anchors.

        There is nothing to know where all of the sample is separable: it has no optimum, and its
        curvature at any point says nothing of the whole.
        """
        self.curvatures = Curvatures.none()  # what was known makes room
        grid = self._objectives(stride, folds=False)
        hessians = [(i, self._loss_hessian(grid[i][0], points[i][0])) for i in anchors]
        found = {i: hessian for i, hessian in hessians if hessian is not None}
        del hessians
        if found:
            strengths = [row[0] for row in grid]
            self.curvatures = Curvatures.between(
                list(found), list(found.values()), strengths, self.most_curvatures
            )

    def _loss_hessian(self, objective: Objective, point: Array) -> Array | None:
        (found,) = objective.evaluate(point[None, :], "sample", hessian=True)
        separable = found.separates and objective.is_recession_direction(point)
        assert found.hessian is not None
        if separable or not np.isfinite(found.hessian).all():
            return None
        hessian = loss_hessian(objective, found)
        if not self.whole:
            fill_unseen(hessian)
        return hessian


def sampled_preconditioner(
    objective: Objective, sample: SampledRows, point: Array
) -> SampleCurvature:
    """The preconditioner of L-BFGS for many coupled outputs: the sample's curvature at a point."""
    rows = len(sample.X)
    exact = rows == objective.moments.n_rows or tells_hessian(rows, objective.size)
    source = ArraySource.of(sample.X, replace(sample.columns, groups=None))
    return SampleCurvature(objective, source, point, exact=exact)


def _point_of(
    solve: Solve[Objective], progress: SolveProgress, of_larger: Array, tolerance: float
) -> Array:
    """Where a solve has got, (d,): its start, if that leads nowhere; where the curvature of others
    did not do and its own is cheap, by Newton's method from the optimum of the next larger
    strength."""
    if progress.state is None or not np.isfinite(progress.state.point).all():
        return progress.point
    problem = solve.problem
    if progress.ended or not is_cheap(problem.scanner.source.n_rows, problem.size):
        return progress.state.point
    return _newton(problem, of_larger, tolerance, _PASSES_OF_NEWTON).point


def _newton(objective: Objective, point: Array, tolerance: float, most_passes: int) -> State:
    """Where Newton's method leads from a point."""
    # of what is smooth, the first step has its Hessian from a read of its own
    (first,) = objective.evaluate(point[None, :], "sample", hessian=not objective.smooth)
    solver: Solver
    if objective.smooth:
        solver = newton = Newton(objective, tolerance)
        state: State = newton.init(objective, first)
    else:
        solver = proximal = Proximal(objective, tolerance, needs_hessian=True)
        state = proximal.init_with(first, loss_hessian(objective, first), None, np.ones(1))
    del first  # its Hessian makes room for the next
    state, outcome = minimize(objective, solver, state, 0, most_passes)
    log.info("Newton on the sample: %s at a gradient of %.2g", outcome.status, state.gradient_max)
    return state
