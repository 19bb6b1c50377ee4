"""Proximal quasi-Newton, for objectives with an l1 penalty or bounds on the coefficients.

    x = argmin  gᵀ(x - v) + ½ (x - v)ᵀ B (x - v) + Σ t |x|,   lower <= x <= upper;   v += τ (x - v)

(Lee, Sun and Saunders, "Proximal Newton-type methods for minimizing composite functions", SIAM J. Optim. 24, 2014). B is the
Hessian of a sample of rows at the sample's optimum where there is one, else the Hessian's diagonal at the start, corrected by the last M
pairs (s, y) of L-BFGS. Where the sample's support is that of all rows, as it nearly is, x has its zeros and the steps are those of L-BFGS
on the rest. A step is long enough when the objective falls in proportion to what the first order promises, Δ = gᵀ(x - v) + Σ t (|x| - |v|).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamlr.objective.objective import Evaluation, Objective
from streamlr.solvers.base import Outcome, State, stalled, with_flattest
from streamlr.solvers.convergence import check_convergence
from streamlr.solvers.curvature import curvature_of
from streamlr.solvers.lbfgs import FIRST_STEPS
from streamlr.solvers.line_search import best_by_slopes, shorter_steps
from streamlr.solvers.quadratic import minimum

log = logging.getLogger(__name__)

Array = NDArray[np.float64]

_MEMORY = 20
_MOST_REFUSALS = 4
_STEPS_AFTER_REFUSAL = 4
_MOST_PASSES_WITHOUT_GAIN = 8


@dataclass(frozen=True, slots=True)
class ProximalState(State):
    """Also the memory, where the model is smallest and the step lengths tried next."""

    moves: Array
    """s, the last differences of the point, (M, d)."""
    changes: Array
    """y, the last differences of the gradient, (M, d)."""
    metric: Array
    """Where B begins: the diagonal of the Hessian, (d,), or the whole Hessian of the loss alone, (d, d), which problems that differ in their
    penalty may share; never written to."""
    goal: Array
    """x, (d,)."""
    trials: Array
    """Step lengths τ to try, all in one pass, (K,)."""
    refusals: int
    """Passes in a row in which no step length was acceptable."""
    best_gradient_max: float
    """Smallest gradient so far."""
    accepted: int
    """Steps taken so far."""
    passes_without_gain: int
    """Passes since the objective or the gradient last improved."""


def loss_hessian(objective: Objective, found: Evaluation) -> Array:
    """The Hessian of an evaluation without the penalty's part; the evaluation's own array, changed."""
    assert found.hessian is not None
    np.einsum("ii->i", found.hessian)[:] -= objective.penalty_curvature
    return found.hessian


@dataclass(frozen=True, slots=True)
class Proximal:
    """Proximal quasi-Newton; several step lengths in one pass wherever the first choice is not good enough."""

    objective: Objective
    tolerance: float
    name: str = "proximal"
    needs_hessian: bool = False
    """Whether each pass sums the Hessian, which then is B: Newton's method, for what is small."""

    def init(self, objective: Objective, start: Evaluation) -> ProximalState:
        """Without a sample: a diagonal, and four step lengths in the first pass, since its size is a guess."""
        return self.init_with(start, objective.diagonal(), None, FIRST_STEPS)

    def init_with(self, start: Evaluation, metric: Array, goal: Array | None, trials: Array) -> ProximalState:
        """With a curvature to start from (see `ProximalState.metric`), a first goal, (d,), or None for that of the model, and step lengths to try, (K,)."""
        none = np.empty((0, len(start.point)))
        if goal is None or not self._promise(start, goal) < 0:
            goal = self._goal(start, metric, none, none)
        outcome, _ = self._verdict(start, goal, None)
        return ProximalState(
            point=start.point, loss=start.loss, value=start.value, gradient=start.gradient, gradient_max=start.gradient_max,
            step=0.0, status=outcome.status if outcome else "", reason=outcome.reason if outcome else "",
            moves=none, changes=none, metric=metric, goal=goal, trials=trials, refusals=0, best_gradient_max=start.gradient_max, accepted=0,
            passes_without_gain=0, flattest_point=start.point)

    def candidates(self, state: State) -> Array:
        """At the full length the goal itself, whose zeros and bounds are exact."""
        assert isinstance(state, ProximalState)
        between = self.objective.nonsmooth.clip(state.point + np.outer(state.trials, state.goal - state.point))
        return np.where(state.trials[:, None] == 1.0, state.goal, between)

    def step(self, state: State, evaluations: list[Evaluation]) -> ProximalState:
        assert isinstance(state, ProximalState)
        direction = state.goal - state.point
        slopes = [self._slope(found, direction) for found in evaluations]
        chosen = best_by_slopes(state.value, self._promise(state, state.goal), state.trials, evaluations, slopes)
        if chosen is None:
            return self._refuse(state, evaluations)
        found = evaluations[chosen]
        moves, changes, metric = self._remember(state, found)
        goal = self._goal(found, metric, moves, changes)
        outcome, suspect = self._verdict(found, goal, state.suspect)
        gained = found.value < state.value - 1e-15 * abs(state.value) or found.gradient_max < 0.9 * state.best_gradient_max
        idle = 0 if gained else state.passes_without_gain + 1
        following = ProximalState(
            point=found.point, loss=found.loss, value=found.value, gradient=found.gradient, gradient_max=found.gradient_max,
            step=float(state.trials[chosen]), status=outcome.status if outcome else "", reason=outcome.reason if outcome else "",
            moves=moves, changes=changes, metric=metric, goal=goal, trials=np.ones(1), refusals=0,
            best_gradient_max=min(found.gradient_max, state.best_gradient_max), accepted=state.accepted + 1, passes_without_gain=idle, suspect=suspect)
        return self._start_plain(with_flattest(following, state)) if outcome is None and idle >= _MOST_PASSES_WITHOUT_GAIN else following

    def result(self, state: State) -> Array:
        return state.point

    def _goal(self, at: Evaluation | State, metric: Array, moves: Array, changes: Array) -> Array:
        added = self.objective.penalty_curvature if metric.ndim == 2 else np.zeros_like(metric)
        few = self.objective.moments.n_rows * self.objective.coordinates.n_outputs < self.objective.size
        return minimum(at.gradient, at.point, curvature_of(metric, added, moves, changes), self.objective.nonsmooth, singular=few)

    def _promise(self, at: Evaluation | State, goal: Array) -> float:
        """Δ: by how much the objective falls on the way to the goal, to first order; below 0 where it falls."""
        rise = self.objective.nonsmooth.thresholds @ (np.abs(goal) - np.abs(at.point))
        return float(at.gradient @ (goal - at.point)) + float(rise)

    def _slope(self, found: Evaluation, direction: Array) -> float:
        """Slope of the objective along a direction: at kinks the one next to 0 of those that it has there."""
        thresholds = self.objective.nonsmooth.thresholds
        slope = float((found.gradient + thresholds * np.sign(found.point)) @ direction)
        return max(0.0, abs(slope) - float(thresholds @ np.where(found.point == 0, np.abs(direction), 0.0)))

    def _verdict(self, at: Evaluation, goal: Array, tried: Array | None) -> tuple[Outcome | None, Array | None]:
        return check_convergence(self.objective, self.tolerance, at, goal - at.point, tried, -self._promise(at, goal))

    def _refuse(self, state: ProximalState, evaluations: list[Evaluation]) -> ProximalState:
        """Try shorter steps, then the metric without its memory, then the plain metric; then there is nothing left."""
        refusals = state.refusals + 1
        if refusals >= _MOST_REFUSALS:
            if not len(state.moves):
                return self._start_plain(state)
            none = state.moves[:0]
            return replace(state, moves=none, changes=none, goal=self._goal(state, state.metric, none, none), trials=FIRST_STEPS, refusals=0, step=0.0)
        shortest = int(np.argmin(state.trials))
        trials = shorter_steps(state.value, self._promise(state, state.goal), float(state.trials[shortest]), evaluations[shortest].value,
                               _STEPS_AFTER_REFUSAL)
        return replace(state, trials=trials, refusals=refusals, step=0.0)

    def _start_plain(self, state: ProximalState) -> ProximalState:
        """Where no step helps, the metric of a sample may be why: go on as if there had been none. Without one, this is the end."""
        if state.metric.ndim == 1:
            return stalled(state, self.tolerance)
        log.warning("no step along the sample's metric lowers the objective at a gradient of %.2g; going on without it", state.gradient_max)
        metric, none = self.objective.diagonal(), state.moves[:0]
        return replace(state, metric=metric, goal=self._goal(state, metric, none, none), trials=FIRST_STEPS, moves=none, changes=none, refusals=0,
                       passes_without_gain=0, step=0.0)

    def _remember(self, state: ProximalState, found: Evaluation) -> tuple[Array, Array, Array]:
        """The memory with the latest pair, unless rounding has made its curvature worthless, and the metric: the Hessian where there is one."""
        if found.hessian is not None:
            return state.moves[:0], state.changes[:0], loss_hessian(self.objective, found)
        move, change = found.point - state.point, found.gradient - state.gradient
        long = state.metric.ndim == 2 and state.accepted == 0 and not self.needs_hessian  # the way to the sample's optimum tells nothing of the place
        if long or move @ change <= 1e-14 * np.linalg.norm(move) * np.linalg.norm(change):
            return state.moves, state.changes, state.metric
        return np.vstack([state.moves, move])[-_MEMORY:], np.vstack([state.changes, change])[-_MEMORY:], state.metric
