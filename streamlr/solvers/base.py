"""What a solver is, and the one loop that drives all of them.

A solver is ``init / candidates / step / status`` over an immutable state record (the shape is that of optimistix). The
state is all there is: written down it is a checkpoint, built by hand it is a warm start.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streamlr.objective import Evaluation, Objective

Array = NDArray[np.float64]

CONVERGED = "converged"
PASS_LIMIT = "pass_limit"
STALLED = "stalled"
DIVERGED = "diverged"

_STEP_PER_TOLERANCE = 10.0
"""How far the optimum may be thought to be, in tolerances and relative to the largest coefficient, when the gradient is
within the tolerance: beyond it the gradient is small because the objective is flat, not because the optimum is near."""

_NOTHING = 1e-15
"""A gradient that is no larger is rounding: along a singular direction it still makes for a long step, which means nothing."""
_NO_DECREMENT = 1e-20
"""A predicted decrease of the objective that is nothing but rounding: the square of the precision of its gradient, and less."""

_FAR = 1e-3
"""A predicted step this long, relative to the largest coefficient, leads out of the region in which a solver can trust it."""

_PATIENCE = 6
"""Passes after which an optimum that stays far counts as one that is not there; a finite one is near after two or three."""

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
            state = solver.step(state, objective.evaluate(solver.candidates(state), f"pass {passes}", hessian=solver.needs_hessian))
        pass_done(passes, state)
    if state.status:
        return state, Outcome(state.status, state.reason)
    return state, Outcome(PASS_LIMIT, f"the limit of {max_passes} passes was reached at a gradient of {state.gradient_max:.2g}; raise "
                          "solver.max_passes, or accept the model as it is")


def verdict(objective: Objective, tolerance: float, at: Evaluation, newton_step: Array | None, waited: int = 0,
            decrement: float | None = None) -> tuple[Outcome | None, int]:
    """Whether a solve ends at this evaluation.

    The gradient decides. Where a solver can tell how far the optimum is (``newton_step``), it has to be near as well: on
    data that are nearly separable the gradient fades while the coefficients still grow. A step along which the objective
    would not change at all (features that are copies of each other leave such directions) says nothing.

    Parameters
    ----------
    objective, tolerance, at
        What is minimised, to where, and the latest evaluation.
    newton_step
        Where the solver believes the optimum to be, relative to the point, (d,).
    waited
        Passes in a row for which the gradient has been within the tolerance and the optimum still far.
    decrement
        By how much the objective would fall along the step, to first order, where the gradient alone does not tell.

    Returns
    -------
    outcome, waited
        How the solve ends, or None; and the new count.
    """
    if at.separates and objective.free_to_grow(at.point):
        return Outcome(DIVERGED, SEPARABLE), 0
    if not np.isfinite(at.value) or not np.isfinite(at.gradient_max):
        return Outcome(DIVERGED, "the objective is no longer finite; the steps are too long"), 0
    if at.gradient_max > tolerance:
        return None, waited
    size = max(0.1, float(np.abs(at.point).max()))
    reach = 0.0
    if newton_step is not None and at.gradient_max > _NOTHING and (
            -float(at.gradient @ newton_step) if decrement is None else decrement) > _NO_DECREMENT:
        reach = float(np.abs(newton_step).max())
    far = reach > _FAR * size
    if far and waited + 1 >= _PATIENCE and not objective.penalized:
        return Outcome(DIVERGED, "the coefficients grow without end while the gradient fades: some examples are separable "
                       "by the features (quasi-complete separation), so there is no finite optimum; set model.penalty.l2 above 0"), 0
    if reach <= _STEP_PER_TOLERANCE * tolerance * size:
        return Outcome(CONVERGED, f"the gradient is {at.gradient_max:.2g}, within the tolerance of {tolerance:g}"), 0
    return None, waited + far
