"""The step that L-BFGS and its proximal form share: what is tried, kept, given up.

Both try a few lengths of a way in one pass, take the best that is acceptable, and correct a
curvature that was had cheaply by the last M pairs (s, y), s the step and y the change of the
gradient. They differ in the way that the model of J leads: a direction, or a point that meets kinks
and bounds exactly. The step from the start to a sample's optimum is long, and its pair would tell
of the way and not of the place: it is not kept.
"""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from dataclasses import dataclass, field, replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamlr.solvers.line_search import shorter_steps
from streamlr.solvers.problem import Evaluation, Problem
from streamlr.solvers.state import State, Termination, evaluated_at, kept_as, stalled, with_flattest

log = logging.getLogger(__name__)

Array = NDArray[np.float64]

FIRST_STEPS: Array = 4.0 ** -np.arange(4.0)
_MEMORY = 20
_MOST_REJECTIONS = 4
_LENGTHS_AFTER_REJECTION = 4
_MOST_PASSES_WITHOUT_PROGRESS = 8
_LEAST_CURVATURE = 1e-14
"""sᵀy, relative to the lengths of both, from which on a pair tells more than rounding."""


@dataclass(frozen=True, slots=True)
class QuasiNewtonState(State):
    """Also the memory, and the step lengths tried next."""

    steps: Array = field(metadata=kept_as("moves"))
    """s, the last differences of the point, (M, d)."""
    gradient_changes: Array = field(metadata=kept_as("changes"))
    """y, the last differences of the gradient, (M, d)."""
    metric: Array
    """What the model of J begins with: a diagonal, (d,), or the whole of a matrix, (d, d); L-BFGS
    has the inverse of the Hessian there, the proximal form the Hessian of the loss."""
    trials: Array
    """Step lengths to try, all in one pass, (K,)."""
    rejections: int = field(metadata=kept_as("refusals"))
    """Number of passes in a row in which no step length was acceptable."""
    best_gradient_max: float
    """Smallest gradient so far."""
    accepted: int
    """Number of steps taken so far."""
    passes_without_progress: int = field(metadata=kept_as("passes_without_gain"))
    """Number of passes since the objective or the gradient last improved."""


StateOfMethod = TypeVar("StateOfMethod", bound=QuasiNewtonState)


def first_fields(start: Evaluation, metric: Array, trials: Array) -> dict[str, Any]:
    """Fields of a `QuasiNewtonState` at a point from which no step was taken yet."""
    none = np.empty((0, len(start.point)))
    return {
        **evaluated_at(start),
        "step": 0.0,
        "status": "",
        "reason": "",
        "steps": none,
        "gradient_changes": none,
        "metric": metric,
        "trials": trials,
        "rejections": 0,
        "best_gradient_max": start.gradient_max,
        "accepted": 0,
        "passes_without_progress": 0,
        "flattest_point": start.point,
    }


@dataclass(frozen=True, slots=True)
class QuasiNewton(ABC, Generic[StateOfMethod]):
    """A quasi-Newton method with several step lengths wherever the first is not good enough."""

    problem: Problem
    tolerance: float
    name: str = ""
    needs_hessian: bool = False

    # what a method adds ---------------------------------------------------------------------------

    @abstractmethod
    def own(self, state: State) -> StateOfMethod:
        """The state as one of this method."""

    @abstractmethod
    def aimed(self, state: StateOfMethod) -> StateOfMethod:
        """The state with the way that its model of J leads from its point."""

    @abstractmethod
    def chosen(self, state: StateOfMethod, evaluations: list[Evaluation]) -> int | None:
        """Index of the best acceptable evaluation, or None."""

    @abstractmethod
    def verdict(
        self, found: Evaluation, state: StateOfMethod, tried: Array | None
    ) -> tuple[Termination | None, Array | None]:
        """Whether the solve ends at an evaluation (see `check_convergence`)."""

    @abstractmethod
    def slope(self, state: StateOfMethod) -> float:
        """By how much J falls along the way, to first order; below 0 where it falls."""

    @abstractmethod
    def with_hessian(self, state: StateOfMethod, found: Evaluation) -> StateOfMethod | None:
        """The state with the Hessian of an evaluation for its metric; None where there is none."""

    @abstractmethod
    def plain_metric(self) -> Array:
        """What the model begins with where there is no sample: a diagonal, (d,)."""

    def of_sample(self, state: StateOfMethod) -> bool:
        """Whether the metric is that of a sample of the rows."""
        return state.metric.ndim == 2

    def on_plain(self, state: StateOfMethod) -> StateOfMethod:
        """The state with a plain metric in the place of that of a sample."""
        return replace(state, metric=self.plain_metric())

    # the step -------------------------------------------------------------------------------------

    def begun(self, start: Evaluation, state: StateOfMethod) -> StateOfMethod:
        """A first state, which may be the last."""
        return self._ended(state, self.verdict(start, state, None)[0])

    def step(self, state: State, evaluations: list[Evaluation]) -> StateOfMethod:
        now = self.own(state)
        chosen = self.chosen(now, evaluations)
        if chosen is None:
            return self._rejected(now, evaluations)
        found = evaluations[chosen]
        following = self.aimed(self._moved(now, found, float(now.trials[chosen])))
        termination, suspect = self.verdict(found, following, now.suspect)
        following = self._ended(replace(following, suspect=suspect), termination)
        if termination is None and (
            following.passes_without_progress >= _MOST_PASSES_WITHOUT_PROGRESS
        ):
            return self._start_plain(with_flattest(following, now))
        return following

    def result(self, state: State) -> Array:
        return state.point

    def _moved(self, state: StateOfMethod, found: Evaluation, length: float) -> StateOfMethod:
        """The state at an evaluation, with the pair that led there."""
        progress = (
            found.value < state.value - 1e-15 * abs(state.value)
            or found.gradient_max < 0.9 * state.best_gradient_max
        )
        with_hessian = self.with_hessian(state, found)
        following = (
            self._with_pair(state, found) if with_hessian is None else _without_memory(with_hessian)
        )
        return replace(
            following,
            **evaluated_at(found),
            step=length,
            trials=np.ones(1),
            rejections=0,
            best_gradient_max=min(found.gradient_max, state.best_gradient_max),
            accepted=state.accepted + 1,
            passes_without_progress=0 if progress else state.passes_without_progress + 1,
        )

    def _ended(self, state: StateOfMethod, termination: Termination | None) -> StateOfMethod:
        if termination is None:
            return state
        return replace(state, status=termination.status, reason=termination.reason)

    def _with_pair(self, state: StateOfMethod, found: Evaluation) -> StateOfMethod:
        """The memory with the latest pair, unless rounding has made its curvature worthless."""
        if self.of_sample(state) and state.accepted == 0 and not self.needs_hessian:
            return state  # the way to the sample's optimum tells nothing of the place
        s, y = found.point - state.point, found.gradient - state.gradient
        if s @ y <= _LEAST_CURVATURE * np.linalg.norm(s) * np.linalg.norm(y):
            return state
        return replace(
            state,
            steps=np.vstack([state.steps, s])[-_MEMORY:],
            gradient_changes=np.vstack([state.gradient_changes, y])[-_MEMORY:],
        )

    def _rejected(self, state: StateOfMethod, evaluations: list[Evaluation]) -> StateOfMethod:
        """Try shorter steps, then the metric without its memory, then the plain metric; then there
        is nothing left."""
        rejections = state.rejections + 1
        if rejections >= _MOST_REJECTIONS:
            if not len(state.steps):
                return self._start_plain(state)
            state = self.aimed(_without_memory(state))
            return replace(state, trials=FIRST_STEPS, rejections=0, step=0.0)
        shortest = int(np.argmin(state.trials))
        trials = shorter_steps(
            state.value,
            self.slope(state),
            float(state.trials[shortest]),
            evaluations[shortest].value,
            _LENGTHS_AFTER_REJECTION,
        )
        return replace(state, trials=trials, rejections=rejections, step=0.0)

    def _start_plain(self, state: StateOfMethod) -> StateOfMethod:
        """Go on as if there had been no sample, whose metric may be why no step helps.

        Where there was none, this is the end.
        """
        if not self.of_sample(state):
            return stalled(state, self.tolerance)
        log.warning(
            "no step along the sample's metric lowers the objective at a gradient of %.2g; "
            "going on without it",
            state.gradient_max,
        )
        state = self.aimed(_without_memory(self.on_plain(state)))
        return replace(state, trials=FIRST_STEPS, rejections=0, passes_without_progress=0, step=0.0)


def _without_memory(state: StateOfMethod) -> StateOfMethod:
    return replace(state, steps=state.steps[:0], gradient_changes=state.gradient_changes[:0])
