"""Early stopping: a solver's steps are watched by the loss of rows that have no part in them.

The run ends when the validation loss has not fallen below its lowest for so many steps, with the
model at which it was lowest (Goodfellow, Bengio and Courville, "Deep Learning", 2016, algorithm
7.1).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamlr.solvers.problem import Evaluation, Problem
from streamlr.solvers.state import Solver, State, Status

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class EarlyStopping:
    """A solver whose states also tell the loss of the rows that are held out.

    Where there are none, the solver as it is.
    """

    solver: Solver
    """Takes the steps."""
    patience: int | None = None
    """Number of steps without a lower validation loss after which it ends; None for any number."""

    @property
    def name(self) -> str:
        return self.solver.name

    @property
    def needs_hessian(self) -> bool:
        return self.solver.needs_hessian

    def init(self, problem: Problem, start: Evaluation) -> State:
        return self.begun(self.solver.init(problem, start), start)

    def begun(self, state: State, start: Evaluation) -> State:
        """A state that the solver made of the evaluation of its point."""
        loss = start.validation_loss
        return replace(
            state,
            validation_loss=loss,
            best_validation_loss=loss if np.isfinite(loss) else np.inf,
            best_validation_point=None if self.patience is None else state.point,
        )

    def candidates(self, state: State) -> Array:
        return self.solver.candidates(state)

    def step(self, state: State, evaluations: list[Evaluation]) -> State:
        """The solver's next state.

        A pass in which it does not move (to shorten a step, or for a Hessian) is no step.
        """
        following = self.solver.step(state, evaluations)
        loss = next(
            (
                found.validation_loss
                for found in evaluations
                if np.array_equal(found.point, following.point, equal_nan=True)
            ),
            state.validation_loss,
        )
        if following.flattest_point is not None and following.point is following.flattest_point:
            loss = following.flattest_validation_loss
        lower = loss < state.best_validation_loss
        moved = not np.array_equal(following.point, state.point)
        following = replace(
            following,
            validation_loss=loss,
            best_validation_loss=loss if lower else state.best_validation_loss,
            best_validation_point=(
                following.point
                if lower and self.patience is not None
                else state.best_validation_point
            ),
            steps_without_progress=0 if lower else state.steps_without_progress + moved,
        )
        going_on = self.patience is None or following.steps_without_progress < self.patience
        if following.status or going_on:
            return following
        return replace(
            following,
            status=Status.PASS_LIMIT,
            reason=f"early stopping: the validation loss has not fallen for {self.patience} "
            f"step{'s' * (self.patience != 1)} (lowest {following.best_validation_loss:.9g}, "
            f"now {loss:.9g})",
        )

    def result(self, state: State) -> Array:
        """The parameters with the lowest validation loss where the run was to end there.

        Of a solve that has ended at the optimum, those.
        """
        if state.best_validation_point is None or not self.keeps_best(state):
            return self.solver.result(state)
        return state.best_validation_point

    def keeps_best(self, state: State) -> bool:
        """Whether the model is that of the lowest validation loss, not where the solver stands."""
        ends = (Status.RUNNING, Status.PASS_LIMIT, Status.DIVERGED)
        return self.patience is not None and state.status in ends
