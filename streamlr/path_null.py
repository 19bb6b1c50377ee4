"""The model with which a path begins: intercept, offset and what nobody penalises, at their optimum.

At the strength from which on l1 leaves no coefficient this is the optimum, so its gradient tells that
strength. Without an offset and without unpenalised features the survey knows it. With an offset alone
the intercept is the root of one equation,

    link(mean activation at u) = link(mean of the target)

whose left side is nearly a straight line in u (of counts and numbers it is one). With unpenalised
features it is a problem like the others: solved on the sample, then on all rows, with the penalised
coefficients held where l1 would hold them. (glmnet has the same, but for alpha = 0 of all but least
squares, where its grid is that of a model without the unpenalised features.)
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamlr.config import ModelConfig
from streamlr.config_penalty import BoundsConfig, PenaltyConfig
from streamlr.execution.scanner import Scanner
from streamlr.kernels.families import Family
from streamlr.kernels.intercept import InterceptScan, InterceptSums
from streamlr.kernels.survey import SampledRows
from streamlr.objective import Evaluation, Moments, Objective
from streamlr.path_grid import penalized
from streamlr.path_start import start_plain, start_together
from streamlr.penalty import Penalty
from streamlr.plan import Plan
from streamlr.solvers import Standing, State, minimize_together
from streamlr.solvers.base import CONVERGED

log = logging.getLogger(__name__)

Array = NDArray[np.float64]

_OF_SLOPE = 1e-9
"""How small the gradient of what is not penalised is to be beside the largest of what is."""
_LEAST_SLOPE = 1e-3
"""Of the slope without any feature: what is less counts as that much, for rounding hides it."""
_MOST_PASSES = 30
"""Whatever ``solver.max_passes`` says: a path that goes on under another has the same strengths."""
_MOST_SCANS = 60
_NEAR = 1e-7
"""A Newton step this short leaves an error of its square."""


@dataclass(frozen=True, slots=True)
class NullModel:
    """Finds the model with which a path begins."""

    unit: Objective
    """Of strength 1 of l1 alone."""
    plan: Plan
    """How much has room."""

    def found(self, sample: SampledRows | None, pass_done: Callable[[int], None]) -> Evaluation | State:
        """Where it is, with the gradient there.

        Parameters
        ----------
        sample
            Rows in memory, if there are any.
        pass_done
            Called, where there are passes to come, with the number of the last one.
        """
        unit, scanner = self.unit, self.unit.scanner
        point = unit.start()
        counted = unit.nonsmooth.thresholds > 0
        if not counted.any():  # no strength means anything
            return unit.without_features(point)
        if unit.coordinates.split(point)[0].any() or self._unpenalized().any():
            return self._solved(sample, counted, pass_done)
        if not scanner.source.has_offset:
            return unit.without_features(point)
        if unit.model.fit_intercept and unit.model.family != "linear":  # of which the start is it
            point[-1] = intercept_beside_offset(scanner, unit.family, unit.moments)
        return unit.evaluate(point[None, :], f"pass {scanner.passes + 1}")[0]

    def _unpenalized(self) -> NDArray[np.bool_]:
        """Which features have no penalty and may have a coefficient, (n,)."""
        given = Penalty.of(self.unit.model, len(self.unit.moments.mean))
        free: NDArray[np.bool_] = (given.l1 == 0) & (given.lower < given.upper)
        return free

    def _solved(self, sample: SampledRows | None, counted: NDArray[np.bool_],
                pass_done: Callable[[int], None]) -> State:
        """At the optimum of all rows, to a gradient that is nothing beside that of what counts."""
        unit, columns = self.unit, self.plan.columns
        pass_done(unit.scanner.passes)
        bounds = _held_bounds(unit.model, len(unit.moments.mean))
        held = replace(unit.model, penalty=PenaltyConfig(), bounds=bounds)
        grid = [[Objective(unit.scanner, held, unit.classes, unit.moments)]]
        begun = start_plain(grid) if sample is None else start_together(grid, sample, 1, columns)
        curvatures, standings = begun
        measure, slope = self._slope_without_features()
        least = _LEAST_SLOPE * slope
        for _ in range(2):
            first, tolerance = unit.scanner.passes, _OF_SLOPE * max(slope, least) * measure
            standings = minimize_together(
                curvatures.problems(grid, tolerance), standings, first, first + _MOST_PASSES, columns,
                lambda number, now, _: None if now[0].ended else pass_done(number))
            state = _state(standings[0])
            slope = float(np.abs(state.gradient[counted]).max())
            log.info("without penalised features: a gradient of %.2g beside %.2g", state.gradient_max, slope * measure)
            if state.gradient_max <= 10 * _OF_SLOPE * max(slope, least) * measure or state.status != CONVERGED:
                break
            standings = [replace(standings[0], state=replace(state, status="", reason=""))]
        return _state(standings[0])

    def _slope_without_features(self) -> tuple[float, float]:
        """What a unit of the gradient is to the tolerance, and the largest entry of a feature (about that, beside an offset)."""
        unit = self.unit
        model = replace(penalized(unit.model, 0.0, 0.0), bounds=BoundsConfig())
        plain = Objective(unit.scanner, model, unit.classes, unit.moments)
        found = plain.without_features(plain.start())
        largest = float(np.abs(plain.coordinates.split(found.gradient)[0]).max())
        return (found.gradient_max / float(np.abs(found.gradient).max()), largest) if largest > 0 else (1.0, 1.0)


def _state(standing: Standing) -> State:
    assert standing.state is not None
    return standing.state


def _held_bounds(model: ModelConfig, n_features: int) -> BoundsConfig:
    """The model's, but for what is penalised, which is held at 0, or at the bound next to it."""
    given = Penalty.of(model, n_features)
    nearest = np.clip(0.0, given.lower, given.upper)
    lower, upper = (np.where(given.l1 > 0, nearest, bound) for bound in (given.lower, given.upper))
    return BoundsConfig(lower.tolist(), upper.tolist())


def intercept_beside_offset(scanner: Scanner, family: Family, moments: Moments) -> float:
    """The best intercept where there are no features, of one output.

    Newton's method, kept to where the offsets leave it. Reads targets and offsets alone: no pass.
    """
    goal = float(family.link(moments.target_mean)[0])
    u, low, high = goal - moments.offset_mean, -np.inf, np.inf
    for _ in range(_MOST_SCANS):
        sums: InterceptSums = scanner.run(InterceptScan(family.name, u), "offset")
        mean = np.array([sums.activation_sum / sums.weight_sum])
        with np.errstate(divide="ignore", over="ignore", invalid="ignore"):
            excess = float(family.link(mean)[0]) - goal
            slope = sums.curvature_sum / sums.weight_sum / float(family.curvature(mean)[0])
            following = u - excess / slope if slope > 0 else np.nan
        # at the smallest offset the activation is at most the mean, at the largest at least
        low, high = max(low, goal - sums.most), min(high, goal - sums.least)
        low, high = (max(low, u), high) if excess < 0 else (low, min(high, u))
        if not low <= following <= high:
            following = (low + high) / 2
        near, u = abs(following - u) <= _NEAR, following
        if near or excess == 0:
            break
    return u
