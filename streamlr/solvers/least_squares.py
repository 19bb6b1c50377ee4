"""Least squares whose Hessian is known: Newton's steps, which lead to the optimum but for rounding.

    correction = -H⁻¹ g

No objectives are compared: the steps tell by how much they fall short, and the solve ends when what the next one would change is below
rounding. The last correction goes into the result without having been evaluated.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streamlr.objective import Evaluation, Objective
from streamlr.solvers.base import CONVERGED, DIVERGED, STALLED, Outcome, Solver, State

Array = NDArray[np.float64]

_ROUNDING = 4.0 * float(np.finfo(np.float64).eps)
_FAR_BELOW = 1e-6 * _ROUNDING
"""What the next step may come to if it is not made: relative to the largest coefficient, so that smaller ones have their digits too."""
_SHORTER = 0.5
"""Part of the step before from which on a step has not become shorter."""
_NEAR = 10.0
"""How far the optimum may be, in tolerances and relative to the largest coefficient, where steps no longer tell."""
_SMALL = 1e-3
"""Coefficients, in spreads of the target, below which they are measured by the target."""


class Equations(Protocol):
    """The normal equations."""

    @property
    def condition(self) -> float:
        """Of the standardised features."""
        ...

    def step(self, gradient: Array, rest: Array | None = None) -> Array:
        """Newton's step, (d,), from a point with this gradient, (d,), and what rounding has cut off from it."""
        ...

    def nearest(self, point: Array) -> Array:
        """Of all points that mean the same as this one, (d,), that which is wanted."""
        ...


@dataclass(frozen=True, slots=True)
class LeastSquaresState(State):
    """Also the step to the optimum."""

    correction: Array
    """(d,)."""
    reach: float
    """Its length relative to the coefficients that it leads to."""
    products: Array | None = None
    """Upper parts of the equations' matrix, where a pass has summed it as pairs, (n, n)."""
    products_rest: Array | None = None
    """Lower parts, (n, n)."""
    lean: Array | None = None
    """Means of the features that go with it, (n,)."""


@dataclass(frozen=True, slots=True)
class LeastSquares:
    """Newton's method on a quadratic function."""

    objective: Objective
    tolerance: float
    equations: Equations
    name: str = "least_squares"
    needs_hessian: bool = False

    def init(self, objective: Objective, start: Evaluation) -> LeastSquaresState:
        return self._at(start, None)

    def candidates(self, state: State) -> Array:
        assert isinstance(state, LeastSquaresState)
        return self.equations.nearest(state.point + state.correction)[None, :]

    def step(self, state: State, evaluations: list[Evaluation]) -> LeastSquaresState:
        assert isinstance(state, LeastSquaresState)
        found = self._at(evaluations[0], state.reach)
        if found.status == STALLED and not found.gradient_max <= state.gradient_max:
            return replace(state, status=STALLED, reason=found.reason, step=0.0)
        return replace(found, step=1.0, products=state.products, products_rest=state.products_rest, lean=state.lean)

    def result(self, state: State) -> Array:
        """The parameters, and beneath them what rounding has cut off, (2, d)."""
        assert isinstance(state, LeastSquaresState)
        if state.status in (STALLED, DIVERGED):
            return state.point
        nearest = self.equations.nearest(state.point + state.correction)
        if np.array_equal(nearest, state.point + state.correction):
            return np.stack([state.point, state.correction])
        return nearest

    def _at(self, found: Evaluation, before: float | None) -> LeastSquaresState:
        """Where a solve stands with an evaluation, after a step of a certain length, or none."""
        correction = self.equations.step(found.gradient, found.gradient_rest)
        reach = relative_length(self.objective, found.point, correction)
        outcome = self._outcome(found, reach, before)
        return LeastSquaresState(
            point=found.point, loss=found.loss, value=found.value, gradient=found.gradient, gradient_max=found.gradient_max, step=0.0,
            status=outcome.status if outcome else "", reason=outcome.reason if outcome else "", correction=correction, reach=reach)

    def _outcome(self, found: Evaluation, reach: float, before: float | None) -> Outcome | None:
        """Steps that have become shorter by some factor go on to do so; those that have not are rounding."""
        if not (np.isfinite(found.value) and np.isfinite(reach)):
            return Outcome(DIVERGED, "the objective is no longer finite; rescale the features or the target")
        within = found.gradient_max <= self.tolerance
        factor = reach if before is None else reach / before if before > 0 else 1.0
        settled = reach <= _ROUNDING or (factor < _SHORTER and factor * reach <= _FAR_BELOW)
        if within and (settled or (before is not None and factor >= _SHORTER and reach <= _NEAR * self.tolerance)):
            return Outcome(CONVERGED, f"the gradient is {found.gradient_max:.2g}, within the tolerance of {self.tolerance:g}")
        if before is None or (factor < _SHORTER and reach > _ROUNDING):
            return None
        return Outcome(STALLED, f"steps become no shorter any more, at a gradient of {found.gradient_max:.2g}: the tolerance of "
                       f"{self.tolerance:g} is below what rounding allows for these data")


@dataclass(frozen=True, slots=True)
class Judged:
    """A solver of least squares that does not know the Hessian, and ends where those say that the optimum is who do."""

    solver: Solver
    """Takes the steps."""
    objective: Objective
    tolerance: float
    equations: Equations

    @property
    def name(self) -> str:
        return self.solver.name

    @property
    def needs_hessian(self) -> bool:
        return self.solver.needs_hessian

    def init(self, objective: Objective, start: Evaluation) -> State:
        return self._judged(self.solver.init(objective, start))

    def candidates(self, state: State) -> Array:
        return self.solver.candidates(state)

    def step(self, state: State, evaluations: list[Evaluation]) -> State:
        return self._judged(self.solver.step(state, evaluations))

    def result(self, state: State) -> Array:
        """Where it has ended, with the step that is left, which costs nothing."""
        found = self.solver.result(state)
        return self.equations.nearest(found + self.equations.step(state.gradient) if state.status == CONVERGED else found)

    def _judged(self, state: State) -> State:
        """A quadratic function has an optimum, however long the steps to it are; and it is reached when the last of them is short."""
        if state.status == CONVERGED and self._reach(state) > _NEAR * self.tolerance:
            return replace(state, status="", reason="")
        if state.status == DIVERGED and np.isfinite(state.value) and np.isfinite(state.gradient_max):
            return replace(state, status="", reason="")
        return state

    def _reach(self, state: State) -> float:
        return relative_length(self.objective, state.point, self.equations.step(state.gradient))


def relative_length(objective: Objective, point: Array, step: Array) -> float:
    """Of a step, (d,), by what it leads to: of the coefficients by the largest of them, of an intercept by itself as well."""
    n = len(objective.coordinates.scale)
    goal = np.abs(point + step)
    size = max(float(goal[:n].max(initial=0.0)), _SMALL * objective.target_unit)
    by_u = float(np.abs(step[n:]).max(initial=0.0)) / max(float(goal[n:].max(initial=0.0)), size)
    return max(float(np.abs(step[:n]).max(initial=0.0)) / size, by_u)
