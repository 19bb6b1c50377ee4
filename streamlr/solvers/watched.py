"""Early stopping: a solver's steps are watched by the loss of rows that have no part in them.

The run ends when the held-out loss has not fallen below its lowest for so many steps, with the model at which it was lowest
(Goodfellow, Bengio and Courville, "Deep Learning", 2016, algorithm 7.1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamlr.objective.objective import Evaluation, Objective
from streamlr.solvers.base import DIVERGED, PASS_LIMIT, Solver, State

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Watched:
    """A solver whose states also tell the loss of the rows that are held out; where there are none, the solver as it is."""

    solver: Solver
    """Takes the steps."""
    patience: int | None = None
    """Steps without a lower held-out loss after which it ends; None for any number."""

    @property
    def name(self) -> str:
        return self.solver.name

    @property
    def needs_hessian(self) -> bool:
        return self.solver.needs_hessian

    def init(self, objective: Objective, start: Evaluation) -> State:
        return self.begun(self.solver.init(objective, start), start)

    def begun(self, state: State, start: Evaluation) -> State:
        """A state that the solver made of the evaluation of its point."""
        lowest = start.held_loss if np.isfinite(start.held_loss) else np.inf
        return replace(state, held_loss=start.held_loss, best_held_loss=lowest, best_held_point=None if self.patience is None else state.point)

    def candidates(self, state: State) -> Array:
        return self.solver.candidates(state)

    def step(self, state: State, evaluations: list[Evaluation]) -> State:
        """The solver's next state. A pass in which it does not move (to shorten a step, or for a Hessian) is no step."""
        following = self.solver.step(state, evaluations)
        held_loss = next((found.held_loss for found in evaluations if np.array_equal(found.point, following.point, equal_nan=True)), state.held_loss)
        if following.flattest_point is not None and following.point is following.flattest_point:
            held_loss = following.flattest_held_loss
        lower = held_loss < state.best_held_loss
        moved = not np.array_equal(following.point, state.point)
        following = replace(
            following, held_loss=held_loss, best_held_loss=held_loss if lower else state.best_held_loss,
            best_held_point=following.point if lower and self.patience is not None else state.best_held_point,
            steps_without_gain=0 if lower else state.steps_without_gain + moved)
        if following.status or self.patience is None or following.steps_without_gain < self.patience:
            return following
        return replace(following, status=PASS_LIMIT, reason=f"early stopping: the validation loss has not fallen for {self.patience} "
                       f"step{'s' * (self.patience > 1)} (lowest {following.best_held_loss:.9g}, now {held_loss:.9g})")

    def result(self, state: State) -> Array:
        """The parameters with the lowest held-out loss where the run was to end there; of a solve that has ended at the optimum, those."""
        return self.solver.result(state) if state.best_held_point is None or not self.keeps_best(state) else state.best_held_point

    def keeps_best(self, state: State) -> bool:
        """Whether the model is that of the lowest held-out loss, and not where the solver stands."""
        return self.patience is not None and state.status in ("", PASS_LIMIT, DIVERGED)
