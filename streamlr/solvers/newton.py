"""Damped Newton: the Hessian is summed in the same pass as the gradient.

    direction = -H⁻¹ g,  halved (by a parabola) until the objective falls

A Hessian that is not positive definite in floating point is given a ridge on its diagonal (Nocedal
and Wright, "Numerical Optimization", 2nd ed., algorithm 3.3).
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from streamlr.solvers.convergence import check_convergence
from streamlr.solvers.line_search import best_acceptable, shorter_steps
from streamlr.solvers.problem import Evaluation, Problem
from streamlr.solvers.state import State, evaluated_at, kept_as, stalled, with_flattest

Array = NDArray[np.float64]

_SMALLEST_RIDGE = 1e-12
_MOST_REJECTIONS = 12
RIDGE = 1e-11
"""Relative to the diagonal: far below any curvature that matters, and above the rounding of a
Hessian that is singular."""


def inverse_of(hessian: Array, ridge: float = 0.0) -> Array:
    """Inverse of a symmetric matrix with ``ridge`` times its diagonal added, and as much more as
    makes it positive definite."""
    diagonal = np.abs(np.diag(hessian)).copy()
    diagonal[diagonal == 0] = 1.0
    # scaled to a unit diagonal, so that the ridge means the same for every parameter
    root = np.sqrt(diagonal)
    scaled = _divided_by_outer(hessian, root, np.empty_like(hessian))
    unit = np.diag(scaled).copy()
    while True:
        np.fill_diagonal(scaled, unit + ridge)
        try:
            factor = np.linalg.cholesky(scaled)
            break
        except np.linalg.LinAlgError:
            ridge = max(_SMALLEST_RIDGE, 10.0 * ridge)
    del scaled
    inverse_factor = np.linalg.inv(factor)
    del factor
    inverse = inverse_factor.T @ inverse_factor
    return _divided_by_outer(inverse, root, inverse)


def _divided_by_outer(matrix: Array, root: Array, out: Array) -> Array:
    """``matrix / outer(root, root)``, by rows: the outer product would be one more matrix in
    memory, and there are few enough bytes for those needed."""
    for row, divisor in enumerate(root):
        np.divide(matrix[row], divisor * root, out=out[row])
    return out


@dataclass(frozen=True, slots=True)
class NewtonState(State):
    """Also the direction and how much of it is tried next."""

    direction: Array
    """(d,)."""
    trial: float
    """Step length to try."""
    rejections: int = field(metadata=kept_as("refusals"))
    """Step lengths rejected in a row."""


@dataclass(frozen=True, slots=True)
class Newton:
    """Newton's method with a backtracking line search."""

    problem: Problem
    tolerance: float
    name: str = "newton"
    needs_hessian: bool = True

    def init(self, problem: Problem, start: Evaluation) -> NewtonState:
        """Without a Hessian yet: the first pass evaluates the start again, with one."""
        return NewtonState(
            **evaluated_at(start),
            step=0.0,
            status="",
            reason="",
            direction=np.zeros_like(start.point),
            trial=0.0,
            rejections=0,
            flattest_point=start.point,
        )

    def candidates(self, state: State) -> Array:
        assert isinstance(state, NewtonState)
        return (state.point + state.trial * state.direction)[None, :]

    def step(self, state: State, evaluations: list[Evaluation]) -> NewtonState:
        assert isinstance(state, NewtonState)
        found = evaluations[0]
        first = state.trial == 0.0
        if (
            not first
            and best_acceptable(
                state.value, state.gradient, state.direction, np.array([state.trial]), evaluations
            )
            is None
        ):
            return self._rejected(state, found)
        assert found.hessian is not None
        direction = (
            -(inverse_of(found.hessian, RIDGE) @ found.gradient)
            if np.isfinite(found.hessian).all()
            else np.zeros_like(found.point)
        )
        termination, suspect = check_convergence(
            self.problem, self.tolerance, found, direction, state.suspect
        )
        following = NewtonState(
            **evaluated_at(found),
            step=state.trial,
            status=termination.status if termination else "",
            reason=termination.reason if termination else "",
            direction=direction,
            trial=1.0,
            rejections=0,
            suspect=suspect,
        )
        if termination is None and not first and _no_longer_moves(state, found):
            return stalled(with_flattest(following, state), self.tolerance)
        return following

    def result(self, state: State) -> Array:
        return state.point

    def _rejected(self, state: NewtonState, found: Evaluation) -> NewtonState:
        if state.rejections + 1 >= _MOST_REJECTIONS:
            return stalled(state, self.tolerance)
        slope = float(state.gradient @ state.direction)
        trial = float(shorter_steps(state.value, slope, state.trial, found.value, 1)[0])
        return replace(state, trial=trial, rejections=state.rejections + 1, step=0.0)


def _no_longer_moves(state: State, found: Evaluation) -> bool:
    """Whether neither objective nor gradient have improved: rounding is all that is left."""
    return (
        found.value >= state.value - 1e-15 * abs(state.value)
        and found.gradient_max >= 0.5 * state.gradient_max
    )
