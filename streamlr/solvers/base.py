"""What a solver is, and the one loop that drives all of them.

A solver is ``init / candidates / step / status`` over an immutable state record (the shape is that of optimistix). The
state is all there is: written down it is a checkpoint, built by hand it is a warm start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamlr.objective.objective import Evaluation, Objective

Array = NDArray[np.float64]

CONVERGED = "converged"
PASS_LIMIT = "pass_limit"
STALLED = "stalled"
DIVERGED = "diverged"

_ROUNDING = 1e-13
"""Of the objective."""
FEW_PARAMETERS = 512
"""Of which a Hessian is cheap: it tells a direction without a minimum better than a metric that was had otherwise."""

SEPARABLE = ("the classes are perfectly separable: every example is classified correctly, so without a penalty there is no finite optimum; "
             "set model.penalty.l2 above 0")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a solve ended."""

    status: str
    """``converged``, ``pass_limit``, ``stalled`` or ``diverged``."""
    reason: str
    """The same for a person."""


@dataclass(frozen=True, slots=True)
class State:
    """Where a solver stands. Solvers add what they must remember; every field is a number, a text, an array or None."""

    point: Array
    """Best parameters that were evaluated, (d,)."""
    loss: float
    """Loss there."""
    value: float
    """Objective there."""
    gradient: Array
    """Gradient there, (d,)."""
    gradient_max: float
    """What the tolerance is held against."""
    step: float
    """Relative length of the step that led there; 0 where none was taken."""
    status: str
    """How the solve has ended, or an empty text."""
    reason: str
    """Why it has ended."""
    held_loss: float = field(default=np.nan, kw_only=True)
    """Loss at the point of the rows that are held out; this and what follows is what `Watched` remembers."""
    best_held_loss: float = field(default=np.inf, kw_only=True)
    """Smallest of these so far."""
    best_held_point: Array | None = field(default=None, kw_only=True)
    """Where that was, (d,), if the run is to end there."""
    steps_without_gain: int = field(default=0, kw_only=True)
    """Steps since it last became smaller."""
    flattest_point: Array | None = field(default=None, kw_only=True)
    """Point of the smallest gradient so far, (d,), of solvers that go back to it where rounding is all that is left; this and what follows is what
    `with_flattest` remembers."""
    flattest_gradient: Array | None = field(default=None, kw_only=True)
    """Gradient there, (d,)."""
    flattest_gradient_max: float = field(default=np.inf, kw_only=True)
    flattest_loss: float = field(default=np.nan, kw_only=True)
    flattest_value: float = field(default=np.nan, kw_only=True)
    flattest_held_loss: float = field(default=np.nan, kw_only=True)
    suspect: Array | None = field(default=None, kw_only=True)
    """Direction along which the loss may fall for ever, (d,), to be tried in the next pass; None where there is no reason to think so."""


StateOfSolver = TypeVar("StateOfSolver", bound=State)


class Function(Protocol):
    """What is evaluated: an `Objective`, or what stands for one."""

    def evaluate(self, points: Array, title: str, *, hessian: bool = False) -> list[Evaluation]:
        """The objective at each row of ``points``, (K, d). One pass."""
        ...


class Solver(Protocol):
    """A method of minimisation."""

    @property
    def name(self) -> str: ...

    @property
    def needs_hessian(self) -> bool:
        """Whether each pass is to sum the Hessian at its first candidate."""
        ...

    def init(self, objective: Objective, start: Evaluation) -> State:
        """The state at a point that has been evaluated. Makes no pass."""
        ...

    def candidates(self, state: State) -> Array:
        """The points to evaluate next, (K, d); the Hessian, where it is needed, at the first."""
        ...

    def step(self, state: State, evaluations: list[Evaluation]) -> State:
        """The next state, given what was found at the candidates. Makes no pass."""
        ...

    def result(self, state: State) -> Array:
        """The parameters of the model if the solve ends here, (d,); or (2, d), with what these lack to the last digit beneath."""
        ...


def minimize(objective: Function, solver: Solver, state: State, passes: int, max_passes: int,
             pass_done: Callable[[int, State], None]) -> tuple[State, Outcome]:
    """Drive a solver until it ends or the passes are used up.

    Parameters
    ----------
    objective
        What to minimise.
    solver, state
        The method and where it starts.
    passes
        Passes already made.
    max_passes
        Most passes in all.
    pass_done
        Called after every pass with its number and the new state.
    """
    while not state.status and passes < max_passes:
        passes += 1
        with np.errstate(over="ignore", invalid="ignore"):  # steps that lead to infinity end in a status, not in a warning
            # what is found has no name here, or its Hessian would be kept throughout the next pass
            state = with_flattest(solver.step(state, _evaluated(objective, solver, state, f"pass {passes}")), state)
        pass_done(passes, state)
    state = state if state.status else flattest(state)
    if state.status:
        return state, Outcome(state.status, state.reason)
    return state, Outcome(PASS_LIMIT, f"the limit of {max_passes} passes was reached at a gradient of {state.gradient_max:.2g}; raise "
                          "solver.max_passes, or accept the model as it is")


def with_flattest(state: StateOfSolver, before: State) -> StateOfSolver:
    """A state with the point of the smallest gradient among its own and those before."""
    if before.flattest_point is None:
        return state
    if state.gradient_max < before.flattest_gradient_max:
        return replace(state, flattest_point=state.point, flattest_gradient=state.gradient, flattest_gradient_max=state.gradient_max,
                       flattest_loss=state.loss, flattest_value=state.value, flattest_held_loss=state.held_loss)
    return replace(state, flattest_point=before.flattest_point, flattest_gradient=before.flattest_gradient, flattest_loss=before.flattest_loss,
                   flattest_gradient_max=before.flattest_gradient_max, flattest_value=before.flattest_value, flattest_held_loss=before.flattest_held_loss)


def flattest(state: StateOfSolver) -> StateOfSolver:
    """The state at the point of the smallest gradient, if the objective is as low there but for rounding: then that is the nearest to the optimum."""
    if state.flattest_point is None or state.flattest_gradient is None or not state.flattest_gradient_max < state.gradient_max:
        return state
    if not state.flattest_value <= state.value + _ROUNDING * abs(state.value):
        return state
    return replace(state, point=state.flattest_point, gradient=state.flattest_gradient, gradient_max=state.flattest_gradient_max,
                   loss=state.flattest_loss, value=state.flattest_value, held_loss=state.flattest_held_loss)


def stalled(state: StateOfSolver, tolerance: float) -> StateOfSolver:
    """The state as it ends where no step lowers the objective."""
    state = flattest(state)
    if state.gradient_max <= tolerance:
        return replace(state, status=CONVERGED, step=0.0, reason=f"the gradient is {state.gradient_max:.2g}, within the tolerance of {tolerance:g}, and "
                       "no step lowers the objective any further")
    return replace(state, status=STALLED, step=0.0, reason=f"no step lowers the objective any further, at a gradient of {state.gradient_max:.2g}: "
                   f"the tolerance of {tolerance:g} is below what rounding allows for these data")


def _evaluated(objective: Function, solver: Solver, state: State, title: str) -> list[Evaluation]:
    """What a pass finds at the solver's candidates; where a direction is to be tried, with the Hessian, if that is cheap."""
    if state.suspect is None:
        return objective.evaluate(solver.candidates(state), title, hessian=solver.needs_hessian)
    assert isinstance(objective, Objective)
    hessian = solver.needs_hessian or objective.size <= FEW_PARAMETERS
    return objective.evaluate(solver.candidates(state), title, hessian=hessian, direction=state.suspect)
