"""Starts and metrics for all models of a path, had from one sample of the rows in memory.

As for one model (see `streamlr.pilot.solve`), but together: on the sample, too, every read
evaluates all models that have not ended, first on every sixteenth of its rows, then on every
fourth, then on all, where the folds come in. The Hessian of the loss is summed at a few strengths
of the penalty, the anchors, since it changes little from one strength to the next; between anchors
it is interpolated. The metric of each model is exact in its own penalty: with VᵀHV = I and VᵀDV =
diag(μ),

    (H + λ D)⁻¹  =  V diag(1 / (1 + λ μ)) Vᵀ

so strengths, and all folds of them, may share V where there is no room for one each. With l1 or
bounds the Hessian itself is what the solver asks for.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamlr.data.partition import FEW_SUMS
from streamlr.data.source import ArraySource
from streamlr.execution.engine import Engine, one_blas_thread
from streamlr.execution.local import InProcessEngine, ThreadsEngine, available_cores
from streamlr.execution.scanner import Scanner, plan_slabs
from streamlr.kernels.scans.moments import SampledRows
from streamlr.objective.objective import Objective, evaluate_together
from streamlr.pilot.kronecker import Kronecker, SampleCurvature
from streamlr.pilot.solve import MOST_COUPLED_PARAMETERS, fill_unseen
from streamlr.solvers import (
    Evaluation,
    Lbfgs,
    Newton,
    Proximal,
    Solve,
    SolveProgress,
    Solver,
    State,
    minimize,
    minimize_together,
)
from streamlr.solvers.proximal import loss_hessian

log = logging.getLogger(__name__)

Array = NDArray[np.float64]

_COARSER = 4
_LEVELS = 3
_LEAST_ROWS_PER_PARAMETER = 6
_MOST_ANCHORS = 8
_PASSES_OF_LEVEL = 30
_PASSES_OF_NEWTON = 60
_TOLERANCE_OF_WHOLE = 1e-10
_OF_NOISE = 0.05
"""How much of what chance makes of a sample's gradient, 1 / sqrt(rows), is left when the sample
counts as solved."""
_COARSE_OF_NOISE = 0.5
_NEWTON_PARAMETERS = 256
_CHEAP_PRODUCTS = 5e8
"""Rows times parameters squared up to which a Hessian costs little more than to look at the rows.
"""
_DENSE_PRODUCTS = 2e10
"""The same up to which it is worth being written down for many coupled outputs, as
`streamlr.pilot.solve` has it."""
_RIDGE = 1e-8


@dataclass(frozen=True, slots=True)
class RidgeMetric:
    """The inverse of H + λ D."""

    V: Array
    """(d, d); shared."""
    weights: Array
    """1 / (1 + λ μ), (d,)."""

    def __call__(self, q: Array) -> Array:
        product: Array = self.V @ (self.weights * (q @ self.V))
        return product


@dataclass(frozen=True, slots=True)
class Curvature:
    """The Hessian of the loss in a form that is quickly inverted with any strength of the
    penalty."""

    V: Array
    """VᵀHV = I, (d, d)."""
    mu: Array
    """VᵀDV = diag(μ), (d,)."""

    def with_strength(self, share: float) -> RidgeMetric:
        """With so many times the penalty."""
        return RidgeMetric(self.V, 1.0 / (1.0 + share * self.mu))

    @classmethod
    def of(cls, hessian: Array, penalty: Array) -> Curvature:
        """Of a loss, (d, d), and the second derivatives of a penalty, (d,)."""
        diagonal = np.diag(hessian)
        root = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
        scaled = hessian / root / root[:, None]
        ridge = _RIDGE
        while True:
            try:
                inverse_factor = np.linalg.inv(
                    np.linalg.cholesky(scaled + ridge * np.eye(len(root)))
                )
                break
            except np.linalg.LinAlgError:
                ridge *= 10.0
        mu, rotation = np.linalg.eigh((inverse_factor * (penalty / root**2)) @ inverse_factor.T)
        return cls(inverse_factor.T @ rotation / root[:, None], np.maximum(mu, 0.0))


Known = Curvature | Kronecker | Array
"""What is known of the curvature at some strengths: for L-BFGS what makes its metrics, for the
proximal solver the Hessian of the loss, (d, d)."""


@dataclass(frozen=True, slots=True)
class Curvatures:
    """What is known of the curvature along a path; nothing where there is no sample."""

    known: list[Known]
    nearest: list[int]
    """Which of them serves each strength, (L,)."""

    def problems(
        self, grid: Sequence[Sequence[Objective]], tolerance: float
    ) -> list[Solve[Objective]]:
        """The problems of a grid of objectives: of each strength, that of all rows and those of the
        folds."""
        first = _strength_of_squares(grid[0][0])
        problems = []
        for row, node in zip(grid, self.nearest or [0] * len(grid), strict=True):
            share = _strength_of_squares(row[0]) / first if first > 0 else 0.0
            problems += [
                _problem_of(objective, tolerance, self.known[node] if self.known else None, share)
                for objective in row
            ]
        return problems


def _strength_of_squares(objective: Objective) -> float:
    return objective.model.penalty.l2


def _problem_of(
    objective: Objective, tolerance: float, known: Known | None, share: float
) -> Solve[Objective]:
    """A model that begins at the sample's optimum: the first step counts, since it tells of the
    place and not of the way there."""
    if known is None:
        plain = Lbfgs(objective, tolerance) if objective.smooth else Proximal(objective, tolerance)
        return Solve(objective, plain, lambda found: plain.init(objective, found))
    if isinstance(known, np.ndarray):
        proximal = Proximal(objective, tolerance)
        return Solve(
            objective,
            proximal,
            lambda found: replace(proximal.init_with(found, known, None, np.ones(1)), accepted=1),
        )
    metric = known.with_strength(share)
    solver = Lbfgs(objective, tolerance, preconditioner=metric)

    def begin(found: Evaluation) -> State:
        return replace(
            solver.init_with(found, np.empty(0), -metric(found.gradient), np.ones(1), found.point),
            accepted=1,
        )

    return Solve(objective, solver, begin)


def start_plain(grid: Sequence[Sequence[Objective]]) -> tuple[Curvatures, list[SolveProgress]]:
    """Without a sample: every model from intercepts alone, by the plain method."""
    return Curvatures([], []), [
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
        Hessians, and points evaluated in one read, that there is room for.
    """
    here = grid[0][0].scanner.engine
    with ExitStack() as stack:
        engine = (
            here
            if isinstance(here, InProcessEngine)
            else stack.enter_context(ThreadsEngine(available_cores()))
        )
        stack.enter_context(one_blas_thread())
        return _SampleSolve(grid, sample, engine, most_curvatures, most_columns).starts()


class _SampleSolve:
    """The solve of a sample for all models."""

    def __init__(
        self,
        grid: Sequence[Sequence[Objective]],
        sample: SampledRows,
        engine: Engine,
        most_curvatures: int,
        most_columns: int,
    ) -> None:
        self.grid = grid
        self.sample = sample
        self.engine = engine
        self.most_curvatures = most_curvatures
        self.most_columns = most_columns
        self.model = grid[0][0]
        self.whole = len(sample.X) == self.model.moments.n_rows
        self.curvatures = Curvatures([], [])

    def starts(self) -> tuple[Curvatures, list[SolveProgress]]:
        points = [[objective.start() for objective in row] for row in self.grid]
        if self._few():
            points = self._one_by_one(points)
            self._take_curvature(1, points, self._anchors())
        elif self._dense():
            points = self._coarse_to_fine(points)
        else:
            if self.model.smooth:
                self.curvatures = Curvatures([self._kronecker()], [0] * len(self.grid))
            points = self._solve(1, points, folds=True, tolerance=self._tolerance(1, _OF_NOISE))
        return self.curvatures, [SolveProgress(point) for row in points for point in row]

    def _dense(self) -> bool:
        """Whether the Hessian is worth being written down; of many coupled outputs it is not."""
        d = self.model.size
        few = d <= _NEWTON_PARAMETERS or (
            d <= MOST_COUPLED_PARAMETERS and len(self.sample.X) * d**2 <= _DENSE_PRODUCTS
        )
        return not self.model.family.coupled or few

    def _few(self) -> bool:
        """Whether there are so few rows that the curvature changes along with every set of features
        that are used, and from fold to fold."""
        d = self.model.size
        return (
            not self.model.smooth
            and len(self.sample.X) * self.model.coordinates.n_outputs < d <= MOST_COUPLED_PARAMETERS
        )

    def _one_by_one(self, points: list[list[Array]]) -> list[list[Array]]:
        """Each model by Newton's method from that of the next larger strength."""
        solved = [points[0]]
        for row in self._on_sample(1, folds=True):
            solved.append(
                [
                    _newton(objective, point, self._tolerance(1, _OF_NOISE))
                    for objective, point in zip(row, solved[-1], strict=True)
                ]
            )
        return solved[1:]

    def _coarse_to_fine(self, points: list[list[Array]]) -> list[list[Array]]:
        strides = [_COARSER**level for level in reversed(range(_LEVELS))]
        rows = len(self.sample.X)
        strides = [
            stride
            for stride in strides
            if stride == 1 or rows // stride >= _LEAST_ROWS_PER_PARAMETER * self.model.size
        ]
        self._take_curvature(strides[0], points, [0])
        for stride in strides:
            finest = stride == 1
            points = self._solve(
                stride,
                points,
                folds=finest,
                tolerance=self._tolerance(stride, _OF_NOISE if finest else _COARSE_OF_NOISE),
            )
            self._take_curvature(
                self._stride_of_curvature() if finest else stride, points, self._anchors()
            )
        return points

    def _tolerance(self, stride: int, of_noise: float) -> float:
        if self.whole and stride == 1:
            return _TOLERANCE_OF_WHOLE
        return of_noise / math.sqrt(len(self.sample.X) // stride)

    def _anchors(self) -> list[int]:
        count = min(len(self.grid), _MOST_ANCHORS)
        return sorted({round(at) for at in np.linspace(0, len(self.grid) - 1, count)})

    def _stride_of_curvature(self) -> int:
        """As many of the rows as make the Hessians of all anchors cost about as much as one of all
        rows and half a pass over the data."""
        s, d, m = len(self.sample.X), self.model.size, self.model.moments
        columns = sum(len(row) for row in self.grid) * self.model.coordinates.n_outputs
        budget = s * d**2 + 2 * m.n_rows * len(m.mean) * columns
        stride = math.ceil(len(self._anchors()) * s * d**2 / budget)
        return max(1, min(stride, s // (_LEAST_ROWS_PER_PARAMETER * d)))

    def _on_sample(self, stride: int, folds: bool) -> list[list[Objective]]:
        rows = self.sample.every(stride)
        source = ArraySource.of(rows.X, rows.columns)
        columns = sum(len(row) for row in self.grid) if folds else len(self.grid)
        partition = replace(
            plan_slabs(source, self.engine.n_threads, columns * self.model.coordinates.n_outputs),
            tree_arity=FEW_SUMS,
        )
        scanner = Scanner(self.engine, source, lambda event: None, partition)
        return [
            [replace_scanner(objective, scanner) for objective in (row if folds else row[:1])]
            for row in self.grid
        ]

    def _solve(
        self, stride: int, points: list[list[Array]], *, folds: bool, tolerance: float
    ) -> list[list[Array]]:
        grid = self._on_sample(stride, folds)
        problems = self.curvatures.problems(grid, tolerance)
        standings = [
            SolveProgress(point)
            for row, at in zip(grid, points, strict=True)
            for point in at[: len(row)]
        ]
        scans: list[int] = []
        most = _PASSES_OF_LEVEL * -(-len(problems) // self.most_columns)
        standings = minimize_together(
            problems,
            standings,
            0,
            most,
            evaluate_together,
            lambda number, *_: scans.append(number),
            self.most_columns,
        )
        each = iter(zip(problems, standings, strict=True))
        solved: list[list[Array]] = []
        for row in grid:
            before = solved[-1] if solved else [objective.start() for objective in row]
            solved.append([_point_of(*next(each), of_larger, tolerance) for of_larger in before])
        log.info(
            "every %d. of %d sampled rows, %d models: %d reads",
            stride,
            len(self.sample.X),
            len(problems),
            len(scans),
        )
        return (
            solved
            if folds
            else [[row[0]] * len(at) for row, at in zip(solved, points, strict=True)]
        )

    def _take_curvature(self, stride: int, points: list[list[Array]], anchors: list[int]) -> None:
        """Know the curvature of all strengths from Hessians at the anchors."""
        grid = self._on_sample(stride, folds=False)
        hessians = [self._loss_hessian(grid[i][0], points[i][0]) for i in anchors]
        nodes = (
            sorted(
                {
                    round(at)
                    for at in np.linspace(
                        0, len(grid) - 1, max(1, min(len(grid), self.most_curvatures))
                    )
                }
            )
            if len(anchors) > 1
            else anchors
        )
        between = (_between(anchors, hessians, at) for at in nodes)
        known: list[Known] = [
            Curvature.of(hessian, self.model.penalty_curvature) if self.model.smooth else hessian
            for hessian in between
        ]
        self.curvatures = Curvatures(
            known, [int(np.argmin([abs(at - i) for at in nodes])) for i in range(len(grid))]
        )

    def _loss_hessian(self, objective: Objective, point: Array) -> Array:
        hessian = loss_hessian(
            objective, objective.evaluate(point[None, :], "sample", hessian=True)[0]
        )
        if not self.whole:
            fill_unseen(hessian)
        return hessian

    def _kronecker(self) -> Kronecker:
        columns = replace(self.sample.columns, offset=None, groups=None)
        source = ArraySource.of(self.sample.X, columns)
        return SampleCurvature(self.model, source, self.model.start(), exact=False).kronecker


def _point_of(
    solve: Solve[Objective], progress: SolveProgress, of_larger: Array, tolerance: float
) -> Array:
    """Where a solve has got: its start, if that leads nowhere; where the curvature of others did
    not do and its own is cheap, by Newton's method from the optimum of the next larger strength,
    (d,)."""
    if progress.state is None or not np.isfinite(progress.state.point).all():
        return progress.point
    objective = solve.problem
    cheap = (
        objective.size <= _NEWTON_PARAMETERS
        and objective.scanner.source.n_rows * objective.size**2 <= _CHEAP_PRODUCTS
    )
    return (
        progress.state.point
        if progress.ended or not cheap
        else _newton(objective, of_larger, tolerance)
    )


def _newton(objective: Objective, point: Array, tolerance: float) -> Array:
    """Where Newton's method leads from a point."""
    first = objective.evaluate(point[None, :], "sample", hessian=True)[0]
    solver: Solver
    if objective.smooth:
        solver = newton = Newton(objective, tolerance)
        state: State = newton.init(objective, first)
    else:
        solver = proximal = Proximal(objective, tolerance, needs_hessian=True)
        state = proximal.init_with(first, loss_hessian(objective, first), None, np.ones(1))
    state, outcome = minimize(objective, solver, state, 0, _PASSES_OF_NEWTON)
    log.info(
        "a model of the sample, Newton: %s at a gradient of %.2g",
        outcome.status,
        state.gradient_max,
    )
    return state.point


def _between(anchors: list[int], hessians: list[Array], at: int) -> Array:
    """The Hessian at a strength, from those of its neighbours."""
    right = int(np.searchsorted(anchors, at))
    if right == len(anchors) or anchors[right] == at:
        return hessians[min(right, len(anchors) - 1)]
    if right == 0:
        return hessians[0]
    share = (at - anchors[right - 1]) / (anchors[right] - anchors[right - 1])
    return (1.0 - share) * hessians[right - 1] + share * hessians[right]


def replace_scanner(objective: Objective, scanner: Scanner) -> Objective:
    """The same objective of other rows."""
    return Objective(
        scanner,
        objective.model,
        objective.classes,
        objective.moments,
        objective.coordinates,
        objective.split,
        objective.holdout,
        objective.penalty_spread,
    )
