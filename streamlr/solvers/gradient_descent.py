"""Gradient descent, exactly as the formulas write it.

    W -= α dW ; b -= α db

in the units of the data, from zero; one pass is one iteration.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamlr.solvers.convergence import SEPARABLE
from streamlr.solvers.problem import Evaluation, Problem
from streamlr.solvers.state import State, Status, evaluated_at

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GradientDescentState(State):
    """Also what the update needs."""

    following: Array
    """Parameters after the update, (d,): the next to be evaluated."""
    start_value: float
    """Objective at the start."""


@dataclass(frozen=True, slots=True)
class GradientDescent:
    """The textbook update; works in coordinates that are W and b themselves."""

    learning_rate: float
    tolerance: float
    penalized: bool = False
    name: str = "gradient_descent"
    needs_hessian: bool = False

    def init(self, problem: Problem, start: Evaluation) -> GradientDescentState:
        empty = GradientDescentState(
            **evaluated_at(start),
            step=0.0,
            status="",
            reason="",
            following=start.point,
            start_value=start.value,
        )
        return self._at(empty, start)

    def candidates(self, state: State) -> Array:
        assert isinstance(state, GradientDescentState)
        return state.following[None, :]

    def step(self, state: State, evaluations: list[Evaluation]) -> GradientDescentState:
        assert isinstance(state, GradientDescentState)
        return self._at(state, evaluations[0])

    def result(self, state: State) -> Array:
        assert isinstance(state, GradientDescentState)
        return state.point if state.status == Status.CONVERGED else state.following

    def _at(self, state: GradientDescentState, at: Evaluation) -> GradientDescentState:
        status, reason = "", ""
        if not np.isfinite(at.value):
            status, reason = (
                Status.DIVERGED,
                "the loss is no longer finite; lower solver.learning_rate (now "
                f"{self.learning_rate:g})",
            )
        elif at.gradient_max <= self.tolerance and at.separates and not self.penalized:
            status, reason = Status.DIVERGED, SEPARABLE
        elif at.gradient_max <= self.tolerance:
            status, reason = (
                Status.CONVERGED,
                f"the gradient is {at.gradient_max:.2g}, within the tolerance of "
                f"{self.tolerance:g}",
            )
        return replace(
            state,
            **evaluated_at(at),
            step=self.learning_rate,
            status=status,
            reason=reason,
            following=at.point - self.learning_rate * at.gradient,
        )
