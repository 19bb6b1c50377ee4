"""L-BFGS with a metric: limited-memory quasi-Newton whose initial matrix is an inverse Hessian that was had cheaply.

    direction = -H g,  H from the last M pairs (s, y) by the two-loop recursion

(Nocedal and Wright, "Numerical Optimization", 2nd ed., algorithm 7.4). The initial matrix is the inverse Hessian of a
sample of rows where there is one, else the inverse of the Hessian's diagonal at the start, times sᵀy / yᵀH₀y. The step
from the start to the sample's optimum is long, and its pair would tell of the way and not of the place: it is not kept.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamlr.objective.objective import Evaluation, Objective
from streamlr.solvers.base import State, stalled, with_flattest
from streamlr.solvers.convergence import check_convergence
from streamlr.solvers.line_search import best_acceptable, shorter_steps
from streamlr.solvers.newton import RIDGE, inverse_of

log = logging.getLogger(__name__)

Array = NDArray[np.float64]

Metric = Callable[[Array], Array]

_MEMORY = 20
FIRST_STEPS: Array = 4.0 ** -np.arange(4.0)
_MOST_REFUSALS = 4
_STEPS_AFTER_REFUSAL = 4
_MOST_PASSES_WITHOUT_GAIN = 8


@dataclass(frozen=True, slots=True)
class LbfgsState(State):
    """Also the memory, the direction and the step lengths tried next."""

    moves: Array
    """s, the last differences of the point, (M, d)."""
    changes: Array
    """y, the last differences of the gradient, (M, d)."""
    metric: Array
    """Inverse Hessian to start from: its diagonal, (d,), or whole, (d, d)."""
    direction: Array
    """(d,)."""
    trials: Array
    """Step lengths to try, all in one pass, (K,)."""
    refusals: int
    """Passes in a row in which no step length was acceptable."""
    best_gradient_max: float
    """Smallest gradient so far."""
    accepted: int
    """Steps taken so far."""
    passes_without_gain: int
    """Passes since the objective or the gradient last improved."""
    curvature_at: Array
    """Where the curvature of a sample was taken that is the metric in the place of ``metric``, (d,); (0,) where none is."""


def quasi_newton_direction(gradient: Array, moves: Array, changes: Array, metric: Array | Metric) -> Array:
    """-H g by the two-loop recursion.

    Parameters
    ----------
    gradient
        g, (d,).
    moves, changes
        s and y of the last steps, oldest first, (M, d).
    metric
        The initial H: its diagonal, (d,), the whole, (d, d), or a function that multiplies by it.
    """
    q = gradient.copy()
    rho = 1.0 / np.einsum("md,md->m", moves, changes)
    alpha = np.empty(len(moves))
    for i in reversed(range(len(moves))):
        alpha[i] = rho[i] * (moves[i] @ q)
        q -= alpha[i] * changes[i]
    if not isinstance(metric, np.ndarray):
        r = metric(q)
    elif metric.ndim == 2:
        r = metric @ q  # a sample's Hessian has the right size already; to scale it by one pair would spoil it
    else:
        r = metric * q
        if len(moves):
            r *= (moves[-1] @ changes[-1]) / (changes[-1] @ (metric * changes[-1]))
    for i in range(len(moves)):
        r += moves[i] * (alpha[i] - rho[i] * (changes[i] @ r))
    return -r


@dataclass(frozen=True, slots=True)
class Lbfgs:
    """L-BFGS; several step lengths in one pass wherever the first choice is not good enough."""

    objective: Objective
    tolerance: float
    name: str = "lbfgs"
    needs_hessian: bool = False
    sampled: Metric | None = None
    """The metric where it is no matrix: it goes with the state's ``curvature_at``."""

    def init(self, objective: Objective, start: Evaluation) -> LbfgsState:
        """Without a sample: a diagonal metric, and four step lengths in the first pass, since its size is a guess."""
        metric = 1.0 / objective.diagonal()
        return self.init_with(start, metric, -metric * start.gradient, FIRST_STEPS)

    def init_with(self, start: Evaluation, metric: Array, direction: Array, trials: Array, curvature_at: Array | None = None) -> LbfgsState:
        """With a metric (or where that of a sample was taken), a first direction, (d,), and step lengths to try along it, (K,)."""
        outcome, _ = check_convergence(self.objective, self.tolerance, start, direction)
        return LbfgsState(
            point=start.point, loss=start.loss, value=start.value, gradient=start.gradient, gradient_max=start.gradient_max,
            step=0.0, status=outcome.status if outcome else "", reason=outcome.reason if outcome else "",
            moves=np.empty((0, len(start.point))), changes=np.empty((0, len(start.point))), metric=metric, direction=direction,
            trials=trials, refusals=0, best_gradient_max=start.gradient_max, accepted=0, passes_without_gain=0,
            curvature_at=np.empty(0) if curvature_at is None else curvature_at, flattest_point=start.point)

    def candidates(self, state: State) -> Array:
        assert isinstance(state, LbfgsState)
        return state.point + np.outer(state.trials, state.direction)

    def step(self, state: State, evaluations: list[Evaluation]) -> LbfgsState:
        assert isinstance(state, LbfgsState)
        chosen = best_acceptable(state.value, state.gradient, state.direction, state.trials, evaluations)
        if chosen is None:
            return self._refuse(state, evaluations)
        found = evaluations[chosen]
        if found.hessian is not None and np.isfinite(found.hessian).all():  # a direction was tried
            state = replace(state, metric=inverse_of(found.hessian, RIDGE), curvature_at=np.empty(0), moves=state.moves[:0], changes=state.changes[:0])
            moves, changes = state.moves, state.changes
        else:
            moves, changes = self._remember(state, found)
        direction = quasi_newton_direction(found.gradient, moves, changes, self._metric(state))
        outcome, suspect = check_convergence(self.objective, self.tolerance, found, direction, state.suspect)
        gained = found.value < state.value - 1e-15 * abs(state.value) or found.gradient_max < 0.9 * state.best_gradient_max
        idle = 0 if gained else state.passes_without_gain + 1
        following = LbfgsState(
            point=found.point, loss=found.loss, value=found.value, gradient=found.gradient, gradient_max=found.gradient_max,
            step=float(state.trials[chosen]), status=outcome.status if outcome else "", reason=outcome.reason if outcome else "",
            moves=moves, changes=changes, metric=state.metric, direction=direction, trials=np.ones(1), refusals=0,
            best_gradient_max=min(found.gradient_max, state.best_gradient_max), accepted=state.accepted + 1, passes_without_gain=idle,
            curvature_at=state.curvature_at, suspect=suspect)
        return self._start_plain(with_flattest(following, state)) if outcome is None and idle >= _MOST_PASSES_WITHOUT_GAIN else following

    def result(self, state: State) -> Array:
        return state.point

    def _metric(self, state: LbfgsState) -> Array | Metric:
        if len(state.curvature_at):
            assert self.sampled is not None
            return self.sampled
        return state.metric

    def _refuse(self, state: LbfgsState, evaluations: list[Evaluation]) -> LbfgsState:
        """Try shorter steps, then the metric without its memory, then the plain metric; then there is nothing left."""
        refusals = state.refusals + 1
        if refusals >= _MOST_REFUSALS:
            if not len(state.moves):
                return self._start_plain(state)
            direction = quasi_newton_direction(state.gradient, state.moves[:0], state.changes[:0], self._metric(state))
            return replace(state, moves=state.moves[:0], changes=state.changes[:0], direction=direction, trials=FIRST_STEPS,
                           refusals=0, step=0.0)
        slope = float(state.gradient @ state.direction)
        shortest = int(np.argmin(state.trials))
        trials = shorter_steps(state.value, slope, float(state.trials[shortest]), evaluations[shortest].value, _STEPS_AFTER_REFUSAL)
        return replace(state, trials=trials, refusals=refusals, step=0.0)

    def _start_plain(self, state: LbfgsState) -> LbfgsState:
        """Where no step helps, the metric of a sample may be why: go on as if there had been none. Without one, this is the end."""
        if state.metric.ndim == 1 and not len(state.curvature_at):
            return stalled(state, self.tolerance)
        log.warning("no step along the sample's metric lowers the objective at a gradient of %.2g; going on without it", state.gradient_max)
        metric = 1.0 / self.objective.diagonal()
        return replace(state, metric=metric, curvature_at=np.empty(0), direction=-metric * state.gradient, trials=FIRST_STEPS, moves=state.moves[:0],
                       changes=state.changes[:0], refusals=0, passes_without_gain=0, step=0.0)

    def _remember(self, state: LbfgsState, found: Evaluation) -> tuple[Array, Array]:
        """The memory with the latest pair, unless rounding has made its curvature worthless."""
        move, change = found.point - state.point, found.gradient - state.gradient
        if (state.metric.ndim == 2 or len(state.curvature_at)) and state.accepted == 0:
            return state.moves, state.changes
        if move @ change <= 1e-14 * np.linalg.norm(move) * np.linalg.norm(change):
            return state.moves, state.changes
        return np.vstack([state.moves, move])[-_MEMORY:], np.vstack([state.changes, change])[-_MEMORY:]
