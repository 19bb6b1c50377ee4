"""Proximal quasi-Newton, for objectives with an l1 penalty or bounds on the coefficients.

    x = argmin  gᵀ(x - v) + ½ (x - v)ᵀ B (x - v) + Σ t |x|,   lower <= x <= upper;   v += τ (x - v)

(Lee, Sun and Saunders, "Proximal Newton-type methods for minimizing composite functions", SIAM J.
Optim. 24, 2014). B is the Hessian of a sample of rows at the sample's optimum where there is one,
else the Hessian's diagonal at the start, corrected by the last M pairs (s, y) of L-BFGS. Where the
sample's support is that of all rows, as it nearly is, x has its zeros and the steps are those of
L-BFGS on the rest. A step is long enough when the objective falls in proportion to what the first
order promises, Δ = gᵀ(x - v) + Σ t (|x| - |v|).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamlr.solvers.convergence import check_convergence
from streamlr.solvers.curvature import curvature_of
from streamlr.solvers.line_search import best_by_slopes
from streamlr.solvers.problem import Evaluation, Problem
from streamlr.solvers.quadratic import minimum
from streamlr.solvers.quasi_newton import FIRST_STEPS, QuasiNewton, QuasiNewtonState, first_fields
from streamlr.solvers.state import State, Termination

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ProximalState(QuasiNewtonState):
    """Also where the model is smallest.

    Its ``metric`` is where B begins: the diagonal of the Hessian, or the whole Hessian of the loss
    alone, which problems that differ in their penalty may share; never written to.
    """

    goal: Array
    """x, (d,)."""


def loss_hessian(problem: Problem, found: Evaluation) -> Array:
    """Hessian of an evaluation without the penalty's part, (d, d); the evaluation's own,
    changed."""
    assert found.hessian is not None
    np.einsum("ii->i", found.hessian)[:] -= problem.penalty_curvature
    return found.hessian


@dataclass(frozen=True, slots=True)
class Proximal(QuasiNewton[ProximalState]):
    """Proximal quasi-Newton; several step lengths in one pass wherever the first is not good
    enough.

    With ``needs_hessian`` each pass sums the Hessian, which then is B: Newton's method, for what is
    small.
    """

    name: str = "proximal"

    def init(self, problem: Problem, start: Evaluation) -> ProximalState:
        """Without a sample: a diagonal, and four step lengths in the first pass, since its size is
        a guess."""
        return self.init_with(start, self.plain_metric(), None, FIRST_STEPS)

    def init_with(
        self, start: Evaluation, metric: Array, goal: Array | None, trials: Array
    ) -> ProximalState:
        """The state with a curvature to start from (see `ProximalState`), a first goal, (d,), or
        None for that of the model, and step lengths to try, (K,)."""
        state = ProximalState(**first_fields(start, metric, trials), goal=start.point)
        if goal is not None:
            state = replace(state, goal=goal)
        if not self.slope(state) < 0:
            state = self.aimed(state)
        return self.begun(start, state)

    def candidates(self, state: State) -> Array:
        """At the full length the goal itself, whose zeros and bounds are exact."""
        now = self.own(state)
        between = self.problem.nonsmooth.clip(
            now.point + np.outer(now.trials, now.goal - now.point)
        )
        return np.where(now.trials[:, None] == 1.0, now.goal, between)

    def own(self, state: State) -> ProximalState:
        assert isinstance(state, ProximalState)
        return state

    def aimed(self, state: ProximalState) -> ProximalState:
        problem, metric = self.problem, state.metric
        added = problem.penalty_curvature if metric.ndim == 2 else np.zeros_like(metric)
        B = curvature_of(metric, added, state.steps, state.gradient_changes)
        goal = minimum(
            state.gradient, state.point, B, problem.nonsmooth, singular=problem.underdetermined
        )
        return replace(state, goal=goal)

    def chosen(self, state: ProximalState, evaluations: list[Evaluation]) -> int | None:
        direction = state.goal - state.point
        slopes = [self._slope_at(found, direction) for found in evaluations]
        return best_by_slopes(state.value, self.slope(state), state.trials, evaluations, slopes)

    def verdict(
        self, found: Evaluation, state: ProximalState, tried: Array | None
    ) -> tuple[Termination | None, Array | None]:
        step, decrement = state.goal - state.point, -self.slope(state)
        return check_convergence(self.problem, self.tolerance, found, step, tried, decrement)

    def slope(self, state: ProximalState) -> float:
        """Δ."""
        rise = self.problem.nonsmooth.thresholds @ (np.abs(state.goal) - np.abs(state.point))
        return float(state.gradient @ (state.goal - state.point)) + float(rise)

    def with_hessian(self, state: ProximalState, found: Evaluation) -> ProximalState | None:
        if found.hessian is None:
            return None
        return replace(state, metric=loss_hessian(self.problem, found))

    def plain_metric(self) -> Array:
        return self.problem.diagonal()

    def _slope_at(self, found: Evaluation, direction: Array) -> float:
        """Slope of J along a direction: at kinks the one next to 0 of those that it has there."""
        thresholds = self.problem.nonsmooth.thresholds
        slope = float((found.gradient + thresholds * np.sign(found.point)) @ direction)
        kinks = float(thresholds @ np.where(found.point == 0, np.abs(direction), 0.0))
        return max(0.0, abs(slope) - kinks)
