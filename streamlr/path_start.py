"""Starts and metrics for all models of a path, had from one sample of the rows in memory.

As for one model (see `streamlr.warm_start`), but together: on the sample, too, every read evaluates all models that have not
ended, first on every sixteenth of its rows, then on every fourth, then on all, where the folds come in. The Hessian of the loss is
summed at a few strengths of the penalty, the anchors, since it changes little from one strength to the next; between anchors it is
interpolated. The metric of each model is exact in its own penalty: with VᵀHV = I and VᵀDV = diag(μ),

    (H + λ D)⁻¹  =  V diag(1 / (1 + λ μ)) Vᵀ

so strengths, and all folds of them, may share V where there is no room for one each.
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
from streamlr.execution.local import SerialEngine, ThreadsEngine, available_cores
from streamlr.execution.scanner import Scanner, plan_slabs
from streamlr.kernels.survey import SampledRows
from streamlr.objective import Evaluation, Objective
from streamlr.sample_curvature import SampleCurvature
from streamlr.solvers import Lbfgs, Problem, Standing, State, minimize_together
from streamlr.solvers.lbfgs import Metric
from streamlr.warm_start import MOST_COUPLED_PARAMETERS, fill_unseen

log = logging.getLogger(__name__)

Array = NDArray[np.float64]

_COARSER = 4
_LEVELS = 3
_LEAST_ROWS_PER_PARAMETER = 6
_MOST_ANCHORS = 8
_PASSES_OF_LEVEL = 30
_TOLERANCE_OF_WHOLE = 1e-10
_OF_NOISE = 0.05
"""How much of what chance makes of a sample's gradient, 1 / sqrt(rows), is left when the sample counts as solved."""
_COARSE_OF_NOISE = 0.5
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
    """The Hessian of the loss in a form that is quickly inverted with any strength of the penalty."""

    V: Array
    """VᵀHV = I, (d, d)."""
    mu: Array
    """VᵀDV = diag(μ), (d,)."""

    def with_strength(self, l2: float) -> RidgeMetric:
        return RidgeMetric(self.V, 1.0 / (1.0 + l2 * self.mu))

    @classmethod
    def of(cls, hessian: Array, penalty: Array) -> Curvature:
        """Of a loss, (d, d), and the second derivatives of a penalty of strength 1, (d,)."""
        diagonal = np.diag(hessian)
        root = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
        scaled = hessian / root / root[:, None]
        ridge = _RIDGE
        while True:
            try:
                inverse_factor = np.linalg.inv(np.linalg.cholesky(scaled + ridge * np.eye(len(root))))
                break
            except np.linalg.LinAlgError:
                ridge *= 10.0
        mu, rotation = np.linalg.eigh((inverse_factor * (penalty / root**2)) @ inverse_factor.T)
        return cls(inverse_factor.T @ rotation / root[:, None], np.maximum(mu, 0.0))


def start_plain(grid: Sequence[Sequence[Objective]], tolerance: float) -> tuple[list[Problem], list[Standing]]:
    """Without a sample: every model from intercepts alone, by the plain method."""
    problems, standings = [], []
    for objective in (objective for row in grid for objective in row):
        solver = Lbfgs(objective, tolerance)
        problems.append(Problem(objective, solver, lambda found, solver=solver, objective=objective: solver.init(objective, found)))  # type: ignore[misc]
        standings.append(Standing(objective.start()))
    return problems, standings


def start_together(grid: Sequence[Sequence[Objective]], strengths: Sequence[float], sample: SampledRows, tolerance: float,
                   most_curvatures: int) -> tuple[list[Problem], list[Standing]]:
    """All models of a path, each at the sample's optimum, with the sample's Hessian as metric.

    Parameters
    ----------
    grid
        The objective of every strength of the penalty, from the largest on: first that of all rows, then those of the folds.
    strengths
        Of the squared norm, for each.
    sample
        Rows in memory, with the keys of their parts where there are folds.
    tolerance
        Of the solves on all rows.
    most_curvatures
        Hessians that there is room for.
    """
    here = grid[0][0].scanner.engine
    with ExitStack() as stack:
        engine = here if isinstance(here, SerialEngine | ThreadsEngine) else stack.enter_context(ThreadsEngine(available_cores()))
        stack.enter_context(one_blas_thread())
        return _SampleSolve(grid, strengths, sample, engine, most_curvatures).starts(tolerance)


class _SampleSolve:
    """The solve of a sample for all models."""

    def __init__(self, grid: Sequence[Sequence[Objective]], strengths: Sequence[float], sample: SampledRows, engine: Engine, most_curvatures: int) -> None:
        self.grid = grid
        self.strengths = strengths
        self.sample = sample
        self.engine = engine
        self.most_curvatures = most_curvatures
        self.model = grid[0][0]
        self.whole = len(sample.X) == self.model.moments.n_rows
        self.metrics: list[Metric] = []

    def starts(self, tolerance: float) -> tuple[list[Problem], list[Standing]]:
        points = [[objective.start() for objective in row] for row in self.grid]
        if self._dense():
            points = self._coarse_to_fine(points)
        else:
            self.metrics = self._kronecker()
            points = self._solve(1, points, folds=True, tolerance=self._tolerance(1, _OF_NOISE))
        problems, standings = [], []
        for row, metric, at in zip(self.grid, self.metrics, points, strict=True):
            problems += [problem_of(objective, tolerance, metric) for objective in row]
            standings += [Standing(point) for point in at]
        return problems, standings

    def _dense(self) -> bool:
        """Whether the Hessian is worth being written down; of many coupled outputs it is not."""
        return not self.model.family.coupled or self.model.size <= MOST_COUPLED_PARAMETERS

    def _coarse_to_fine(self, points: list[list[Array]]) -> list[list[Array]]:
        strides = [_COARSER**level for level in reversed(range(_LEVELS))]
        rows = len(self.sample.X)
        strides = [stride for stride in strides if stride == 1 or rows // stride >= _LEAST_ROWS_PER_PARAMETER * self.model.size]
        self._take_curvature(strides[0], points, [0])
        for stride in strides:
            finest = stride == 1
            points = self._solve(stride, points, folds=finest, tolerance=self._tolerance(stride, _OF_NOISE if finest else _COARSE_OF_NOISE))
            self._take_curvature(self._stride_of_curvature() if finest else stride, points, self._anchors())
        return points

    def _tolerance(self, stride: int, of_noise: float) -> float:
        if self.whole and stride == 1:
            return _TOLERANCE_OF_WHOLE
        return of_noise / math.sqrt(len(self.sample.X) // stride)

    def _anchors(self) -> list[int]:
        count = min(len(self.grid), _MOST_ANCHORS)
        return sorted({round(at) for at in np.linspace(0, len(self.grid) - 1, count)})

    def _stride_of_curvature(self) -> int:
        """As many of the rows as make the Hessians of all anchors cost about as much as one of all rows and half a pass over the data."""
        s, d, m = len(self.sample.X), self.model.size, self.model.moments
        columns = sum(len(row) for row in self.grid) * self.model.coordinates.n_outputs
        budget = s * d**2 + 2 * m.n_rows * len(m.mean) * columns
        stride = math.ceil(len(self._anchors()) * s * d**2 / budget)
        return max(1, min(stride, s // (_LEAST_ROWS_PER_PARAMETER * d)))

    def _rows(self, stride: int) -> SampledRows:
        s, every = self.sample, slice(None, None, stride)
        return SampledRows(s.X[every], s.target[every], None if s.weights is None else s.weights[every], None if s.offset is None else s.offset[every],
                           None if s.keys is None else s.keys[every])

    def _on_sample(self, stride: int, folds: bool) -> list[list[Objective]]:
        rows = self._rows(stride)
        source = ArraySource(rows.X, rows.target, rows.weights, offset=rows.offset, groups=rows.keys)
        columns = sum(len(row) for row in self.grid) if folds else len(self.grid)
        partition = replace(plan_slabs(source, self.engine.n_threads, columns * self.model.coordinates.n_outputs), tree_arity=FEW_SUMS)
        scanner = Scanner(self.engine, source, lambda event: None, partition)
        return [[replace_scanner(objective, scanner) for objective in (row if folds else row[:1])] for row in self.grid]

    def _solve(self, stride: int, points: list[list[Array]], *, folds: bool, tolerance: float) -> list[list[Array]]:
        grid = self._on_sample(stride, folds)
        problems, standings = [], []
        for row, metric, at in zip(grid, self.metrics, points, strict=True):
            problems += [problem_of(objective, tolerance, metric) for objective in row]
            standings += [Standing(point) for point in at[: len(row)]]
        scans = []
        found = iter(minimize_together(problems, standings, 0, _PASSES_OF_LEVEL, len(problems) * 4, lambda passes, _: scans.append(passes)))
        solved = [[_point_of(next(found)) for _ in row] for row in grid]
        log.info("every %d. of %d sampled rows, %d models: %d reads", stride, len(self.sample.X), len(problems), len(scans))
        return solved if folds else [[row[0]] * len(at) for row, at in zip(solved, points, strict=True)]

    def _take_curvature(self, stride: int, points: list[list[Array]], anchors: list[int]) -> None:
        """Make the metrics of all strengths from Hessians at the anchors."""
        grid = self._on_sample(stride, folds=False)
        hessians = [self._loss_hessian(grid[i][0], points[i][0]) for i in anchors]
        penalty = penalty_curvature(self.model) / self.strengths[0] if self.strengths[0] > 0 else np.zeros(self.model.size)
        nodes = sorted({round(at) for at in np.linspace(0, len(grid) - 1, max(1, min(len(grid), self.most_curvatures)))}) if len(anchors) > 1 else anchors
        curvatures = [Curvature.of(_between(anchors, hessians, at), penalty) for at in nodes]
        nearest = [int(np.argmin([abs(at - i) for at in nodes])) for i in range(len(grid))]
        self.metrics = [curvatures[node].with_strength(strength) for node, strength in zip(nearest, self.strengths, strict=True)]

    def _loss_hessian(self, objective: Objective, point: Array) -> Array:
        found = objective.evaluate(point[None, :], "sample", hessian=True)[0].hessian
        assert found is not None
        np.einsum("ii->i", found)[:] -= penalty_curvature(objective)
        if not self.whole:
            fill_unseen(found)
        return found

    def _kronecker(self) -> list[Metric]:
        source = ArraySource(self.sample.X, self.sample.target, self.sample.weights)
        base = SampleCurvature(self.model, source, self.model.start(), exact=False).kronecker
        return [base.with_strength(strength / self.strengths[0] if self.strengths[0] > 0 else 1.0) for strength in self.strengths]


def problem_of(objective: Objective, tolerance: float, metric: Metric) -> Problem:
    """A model that begins at the sample's optimum: the first step counts, since it tells of the place and not of the way there."""
    solver = Lbfgs(objective, tolerance, sampled=metric)

    def begin(found: Evaluation) -> State:
        return replace(solver.init_with(found, np.empty(0), -metric(found.gradient), np.ones(1), found.point), accepted=1)

    return Problem(objective, solver, begin)


def _point_of(standing: Standing) -> Array:
    """Where a solve on the sample has got; its start, if that leads nowhere."""
    return standing.point if standing.state is None or not np.isfinite(standing.state.point).all() else standing.state.point


def _between(anchors: list[int], hessians: list[Array], at: int) -> Array:
    """The Hessian at a strength, from those of its neighbours."""
    right = int(np.searchsorted(anchors, at))
    if right == len(anchors) or anchors[right] == at:
        return hessians[min(right, len(anchors) - 1)]
    if right == 0:
        return hessians[0]
    share = (at - anchors[right - 1]) / (anchors[right] - anchors[right - 1])
    return (1.0 - share) * hessians[right - 1] + share * hessians[right]


def penalty_curvature(objective: Objective) -> Array:
    """Second derivatives of the penalty by the parameters, (d,)."""
    c = objective.coordinates.n_outputs
    return objective.coordinates.join(np.repeat(objective.penalty_scale[:, None], c, axis=1), np.zeros(c))


def replace_scanner(objective: Objective, scanner: Scanner) -> Objective:
    """The same objective of other rows."""
    return Objective(scanner, objective.model, objective.classes, objective.moments, objective.coordinates, objective.split, objective.held_out)
