"""The model with which a path begins: intercept, offset and what nobody penalises, at their
optimum.

At the strength from which on l1 leaves no coefficient this is the optimum, so its gradient tells
that strength. Without an offset and without unpenalised features the statistics pass knows it. With
an offset alone the intercept is the root of one equation,

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

from streamlr.config.feature_values import BoundsConfig, PenaltyConfig
from streamlr.config.sections import ModelConfig
from streamlr.execution.scanner import Scanner
from streamlr.kernels.families import FAMILIES, Family
from streamlr.kernels.scans.intercept import InterceptScan, InterceptSums
from streamlr.kernels.scans.moments import SampledRows
from streamlr.objective.objective import Moments, Objective, evaluate_together
from streamlr.objective.penalty import Penalty
from streamlr.pilot.solve import start_plain, start_together
from streamlr.planning.plan import MOST_SECANTS, Plan
from streamlr.solvers import Evaluation, SolveProgress, State, Status, minimize_together
from streamlr.training.lambda_grid import penalized

log = logging.getLogger(__name__)

Array = NDArray[np.float64]

_OF_SLOPE = 1e-9
"""How small the gradient of what is not penalised is to be beside the largest of what is."""
_LEAST_SLOPE = 1e-3
"""Of the slope without any feature: what is less counts as that much."""
_MOST_PASSES = 30
"""Whatever ``solver.max_passes`` says: a path that goes on under another has the same strengths."""
_SECANT = 1e-5
"""How far apart they are: half of the digits go to rounding, and the others to the change of the
Hessian."""
_MOST_NEWTON = 4
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

    def found(
        self, sample: SampledRows | None, pass_done: Callable[[int], None]
    ) -> Evaluation | State:
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
            return self._solved(sample, pass_done)
        if not scanner.source.has_offset:
            return unit.without_features(point)
        if unit.model.fit_intercept and not unit.family.quadratic:  # of which the start is it
            point[-1] = intercept_beside_offset(scanner, unit.family, unit.moments)
        return unit.evaluate(point[None, :], f"pass {scanner.passes + 1}")[0]

    def _unpenalized(self) -> NDArray[np.bool_]:
        """Which features have no penalty and may have a coefficient, (n,)."""
        given = Penalty.of(self.unit.model, len(self.unit.moments.mean))
        free: NDArray[np.bool_] = (given.l1 == 0) & (given.lower < given.upper)
        return free

    def _solved(
        self, sample: SampledRows | None, pass_done: Callable[[int], None]
    ) -> Evaluation | State:
        """At the optimum of all rows, to a gradient that is nothing beside that of what counts."""
        unit, columns = self.unit, self.plan.columns
        bounds = _fixed_bounds(unit.model, len(unit.moments.mean))
        held = replace(unit.model, penalty=PenaltyConfig(), bounds=bounds)
        null = Objective(unit.scanner, held, unit.classes, unit.moments)
        pass_done(unit.scanner.passes)
        begun = (
            start_plain([[null]])
            if sample is None
            else start_together([[null]], sample, 1, columns)
        )
        curvatures, (standing,) = begun
        scale = _Scale.of(unit)
        if sample is not None:
            found = _by_secants(null, standing.point, scale, columns, pass_done)
            if isinstance(found, Evaluation):
                return found
            standing = SolveProgress(found)
        tolerance = scale.tolerance(scale.most)
        for _ in range(2):
            first = unit.scanner.passes
            (standing,) = minimize_together(
                curvatures.solves([[null]], tolerance),
                [standing],
                first,
                first + _MOST_PASSES,
                evaluate_together,
                lambda number, now, _: None if now[0].ended else pass_done(number),
                columns,
            )
            state = _state(standing)
            tolerance = scale.tolerance(scale.slope(state))
            log.info(
                "without penalised features: a gradient of %.2g, wanted %.2g",
                state.gradient_max,
                tolerance,
            )
            if state.gradient_max <= 10 * tolerance or state.status != Status.CONVERGED:
                break
            standing = replace(standing, state=replace(state, status="", reason=""))
        return _state(standing)


@dataclass(frozen=True, slots=True)
class _Scale:
    """What gradients are held against."""

    counted: NDArray[np.bool_]
    """Parameters that are penalised, (d,)."""
    measure: float
    """What a unit of the gradient is to the tolerance."""
    most: float
    """Slope of a feature where there is none: what the others leave is hardly more."""
    unit: float
    """Of the parameters, about: curvatures change by their size along so much."""

    @classmethod
    def of(cls, unit: Objective) -> _Scale:
        """From the model without any features (about, beside an offset)."""
        model = replace(penalized(unit.model, 0.0, 0.0), bounds=BoundsConfig())
        plain = Objective(unit.scanner, model, unit.classes, unit.moments)
        found = plain.without_features(plain.start())
        slope = float(np.abs(plain.coordinates.split(found.gradient)[0]).max())
        measure = found.gradient_max / float(np.abs(found.gradient).max()) if slope > 0 else 1.0
        of_target = 1.0 / measure if FAMILIES[model.family].quadratic else 1.0
        return cls(unit.nonsmooth.thresholds > 0, measure, slope if slope > 0 else 1.0, of_target)

    def slope(self, at: Evaluation | State) -> float:
        """Largest entry of the gradient of what is penalised, as far as rounding does not hide
        it."""
        return max(float(np.abs(at.gradient[self.counted]).max()), _LEAST_SLOPE * self.most)

    def tolerance(self, slope: float) -> float:
        """What the gradient of the others may be beside it, as solvers are told."""
        return _OF_SLOPE * slope * self.measure

    def settled(self, at: Evaluation, free: NDArray[np.intp], error: float) -> bool:
        """Whether a share, the error, of the gradient of what is free is as small, and no bound
        holds more."""
        wanted, wrong = (
            _OF_SLOPE * self.slope(at),
            float(np.abs(at.gradient[free]).max(initial=0.0)),
        )
        return (
            wrong * error <= wanted and at.gradient_max <= 1.001 * max(wrong, wanted) * self.measure
        )


def _by_secants(
    null: Objective,
    point: Array,
    scale: _Scale,
    most_columns: int,
    pass_done: Callable[[int], None],
) -> Evaluation | Array:
    """From near the optimum by Newton's method, whose Hessians are had from gradients of the same
    pass.

    It takes two passes, or one where the point is the optimum: the last step is taken without
    looking, for the Hessian tells the gradient where it leads. Where that does not do, or there is
    no room for so many points, how far it has led, (d,).
    """
    free = np.flatnonzero(null.nonsmooth.free(point))
    if len(free) >= min(most_columns, MOST_SECANTS):
        return point
    steps = np.zeros((1 + len(free), len(point)))
    steps[1 + np.arange(len(free)), free] = _SECANT * scale.unit
    best, value = point, np.inf
    for _ in range(_MOST_NEWTON):
        here, *beside = null.evaluate(point + steps, f"pass {null.scanner.passes + 1}")
        if not here.value < value:
            break
        gradients = np.array([found.gradient for found in beside]).reshape(len(free), len(point))
        curvature = (gradients - here.gradient).T / (_SECANT * scale.unit)
        step = _newton_step(here, curvature, free)
        length = float(np.abs(step).max()) / scale.unit
        if scale.settled(here, free, max(_SECANT, length)):
            return replace(
                here, point=point + step, gradient=here.gradient + curvature @ step[free]
            )
        best, value = here.point, here.value
        point = null.nonsmooth.clip(point + step)
        pass_done(null.scanner.passes)
    return best


def _newton_step(at: Evaluation, curvature: Array, free: NDArray[np.intp]) -> Array:
    """(d,), with those columns of the Hessian that are free, (d, f); the shortest where some repeat
    others."""
    step = np.zeros_like(at.point)
    step[free] = np.linalg.lstsq(curvature[free], -at.gradient[free], rcond=None)[0]
    return step


def _state(standing: SolveProgress) -> State:
    assert standing.state is not None
    return standing.state


def _fixed_bounds(model: ModelConfig, n_features: int) -> BoundsConfig:
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
