"""L-BFGS: limited-memory quasi-Newton whose initial matrix is an inverse Hessian had cheaply.

    direction = -H g,  H from the last M pairs (s, y) by the two-loop recursion

(Nocedal and Wright, "Numerical Optimization", 2nd ed., algorithm 7.4). The initial matrix is the
inverse Hessian of a sample of rows where there is one, else the inverse of the Hessian's diagonal
at the start, times sᵀy / yᵀH₀y.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from streamlr.solvers.convergence import check_convergence
from streamlr.solvers.line_search import best_acceptable
from streamlr.solvers.newton import RIDGE, inverse_of
from streamlr.solvers.problem import Evaluation, Problem
from streamlr.solvers.quasi_newton import FIRST_STEPS, QuasiNewton, QuasiNewtonState, first_fields
from streamlr.solvers.state import State, Termination, kept_as

Array = NDArray[np.float64]

Preconditioner = Callable[[Array], Array]
"""Multiplies a vector, (d,), by about the inverse of the Hessian."""


@dataclass(frozen=True, slots=True)
class LbfgsState(QuasiNewtonState):
    """Also the direction."""

    direction: Array
    """(d,)."""
    preconditioner_point: Array = field(metadata=kept_as("curvature_at"))
    """Where the curvature of a sample was taken that stands in the place of ``metric``, (d,); (0,)
    where none does."""


def quasi_newton_direction(
    gradient: Array, steps: Array, gradient_changes: Array, metric: Array | Preconditioner
) -> Array:
    """-H g by the two-loop recursion, (d,).

    Parameters
    ----------
    gradient
        g, (d,).
    steps, gradient_changes
        s and y of the last steps, oldest first, (M, d).
    metric
        The initial H: its diagonal, (d,), the whole, (d, d), or a function that multiplies by it.
    """
    q = gradient.copy()
    rho = 1.0 / np.einsum("md,md->m", steps, gradient_changes)
    alpha = np.empty(len(steps))
    for i in reversed(range(len(steps))):
        alpha[i] = rho[i] * (steps[i] @ q)
        q -= alpha[i] * gradient_changes[i]
    if not isinstance(metric, np.ndarray):
        r = metric(q)
    elif metric.ndim == 2:
        # a sample's Hessian has the right size already; to scale it by one pair would spoil it
        r = metric @ q
    else:
        r = metric * q
        if len(steps):
            s, y = steps[-1], gradient_changes[-1]
            r *= (s @ y) / (y @ (metric * y))
    for i in range(len(steps)):
        r += steps[i] * (alpha[i] - rho[i] * (gradient_changes[i] @ r))
    return -r


@dataclass(frozen=True, slots=True)
class Lbfgs(QuasiNewton[LbfgsState]):
    """L-BFGS; several step lengths in one pass wherever the first is not good enough."""

    name: str = "lbfgs"
    preconditioner: Preconditioner | None = None
    """The metric where it is no matrix: it goes with the state's ``preconditioner_point``."""

    def init(self, problem: Problem, start: Evaluation) -> LbfgsState:
        """Without a sample: a diagonal metric, and four step lengths in the first pass, since its
        size is a guess."""
        metric = self.plain_metric()
        return self.init_with(start, metric, -metric * start.gradient, FIRST_STEPS)

    def init_with(
        self,
        start: Evaluation,
        metric: Array,
        direction: Array,
        trials: Array,
        preconditioner_point: Array | None = None,
    ) -> LbfgsState:
        """The state with a metric, (d,) or (d, d), or with the point of that of a sample, a first
        direction, (d,), and step lengths to try along it, (K,)."""
        state = LbfgsState(
            **first_fields(start, metric, trials),
            direction=direction,
            preconditioner_point=(
                np.empty(0) if preconditioner_point is None else preconditioner_point
            ),
        )
        return self.begun(start, state)

    def candidates(self, state: State) -> Array:
        now = self.own(state)
        return now.point + np.outer(now.trials, now.direction)

    def own(self, state: State) -> LbfgsState:
        assert isinstance(state, LbfgsState)
        return state

    def aimed(self, state: LbfgsState) -> LbfgsState:
        metric: Array | Preconditioner = state.metric
        if len(state.preconditioner_point):
            assert self.preconditioner is not None
            metric = self.preconditioner
        direction = quasi_newton_direction(
            state.gradient, state.steps, state.gradient_changes, metric
        )
        return replace(state, direction=direction)

    def chosen(self, state: LbfgsState, evaluations: list[Evaluation]) -> int | None:
        return best_acceptable(
            state.value, state.gradient, state.direction, state.trials, evaluations
        )

    def verdict(
        self, found: Evaluation, state: LbfgsState, tried: Array | None
    ) -> tuple[Termination | None, Array | None]:
        return check_convergence(self.problem, self.tolerance, found, state.direction, tried)

    def slope(self, state: LbfgsState) -> float:
        return float(state.gradient @ state.direction)

    def with_hessian(self, state: LbfgsState, found: Evaluation) -> LbfgsState | None:
        """A Hessian comes with an evaluation where a direction was tried."""
        if found.hessian is None or not np.isfinite(found.hessian).all():
            return None
        metric = inverse_of(found.hessian, RIDGE)
        return replace(state, metric=metric, preconditioner_point=np.empty(0))

    def plain_metric(self) -> Array:
        return 1.0 / self.problem.diagonal()

    def of_sample(self, state: LbfgsState) -> bool:
        return state.metric.ndim == 2 or len(state.preconditioner_point) > 0

    def on_plain(self, state: LbfgsState) -> LbfgsState:
        return replace(state, metric=self.plain_metric(), preconditioner_point=np.empty(0))
