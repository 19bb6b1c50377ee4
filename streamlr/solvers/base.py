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

_STEP_PER_TOLERANCE = 10.0
"""How far the optimum may be thought to be, in tolerances and relative to the largest coefficient, when the gradient is
within the tolerance: beyond it the gradient is small because the objective is flat, not because the optimum is near."""

_NOTHING = 1e-15
"""A gradient that is no larger is rounding: along a singular direction it still makes for a long step, which means nothing."""
_NO_DECREMENT = 1e-20
"""A predicted decrease of the objective that is nothing but rounding: the square of the precision of its gradient, and less."""

_ROUNDING = 1e-13
"""Of the objective."""
_FAR = 1e-3
"""A predicted step this long, relative to the largest coefficient, does not end at the optimum."""
_FADED = 1e-3
"""A gradient so small, with such a step of Newton's method, may be that of a loss that falls along it for ever."""
_FADED_LONG_AGO = (1e-8, 1e-6)
"""The same of a step of which nobody knows the Hessian: the tolerance, but within these."""
_FEW_PARAMETERS = 512
"""Of which a Hessian is cheap: it tells such a direction better than a metric that was had otherwise."""
_FLAT = 1e-6
"""Curvature along such a direction, relative to the largest."""
_PART_OF_POINT, _PART_OF_TRIED = 0.1, 0.5
"""What is flat of a point or of a direction, relative to the whole, from which on it may be such a direction."""
_ALL_FLAT = 0.99
"""The same of a step that still is one of Newton's method along it, and not rounding of everything else."""
_ROUNDED = 1e-11
"""A gradient below which what is flat about it may be nothing but rounding."""
_SAME = 1e-13
"""How little two directions differ of which one has nothing to tell that the other has not."""

ENDLESS = ("the coefficients grow without end while the gradient fades: some examples are separable by the features (quasi-complete separation), so "
           "there is no finite optimum; set model.penalty.l2 above 0")
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
    hessian = solver.needs_hessian or objective.size <= _FEW_PARAMETERS
    return objective.evaluate(solver.candidates(state), title, hessian=hessian, direction=state.suspect)


def verdict(objective: Objective, tolerance: float, at: Evaluation, newton_step: Array | None, tried: Array | None = None,
            decrement: float | None = None) -> tuple[Outcome | None, Array | None]:
    """Whether a solve ends at this evaluation, and if not, along which direction the loss may fall for ever.

    The gradient decides. Where a solver can tell how far the optimum is (``newton_step``), it has to be near as well: on
    data that are nearly separable the gradient fades while the coefficients still grow. A step along which the objective
    would not change at all (features that are copies of each other leave such directions) says nothing. That there is no optimum is
    said where it has been proven: by a point at which every example is on its side, or by a direction that leads all examples there.

    Parameters
    ----------
    objective, tolerance, at
        What is minimised, to where, and the latest evaluation.
    newton_step
        Where the solver believes the optimum to be, relative to the point, (d,).
    tried
        Direction that was tried in the same pass, (d,), if one was.
    decrement
        By how much the objective would fall along the step, to first order, where the gradient alone does not tell.

    Returns
    -------
    outcome, suspect
        How the solve ends, or None; and a direction that is to be tried in the next pass, or that has proven that there is no optimum, (d,), or None.
    """
    if at.separates and objective.free_to_grow(at.point):
        return Outcome(DIVERGED, SEPARABLE), None
    if not np.isfinite(at.value) or not np.isfinite(at.gradient_max):
        return Outcome(DIVERGED, "the objective is no longer finite; the steps are too long"), None
    if at.recedes:
        return Outcome(DIVERGED, ENDLESS), tried
    size = max(0.1, float(np.abs(at.point).max()))
    reach = 0.0
    if newton_step is not None and at.gradient_max > _NOTHING and (
            -float(at.gradient @ newton_step) if decrement is None else decrement) > _NO_DECREMENT * objective.value_unit:
        reach = float(np.abs(newton_step).max())
    far = newton_step is not None and reach > _FAR * size
    suspect = _suspect(objective, tolerance, at, _way_out(at, newton_step if far else None, tried))
    if at.gradient_max > tolerance or reach > _STEP_PER_TOLERANCE * tolerance * size:
        return None, suspect
    return Outcome(CONVERGED, f"the gradient is {at.gradient_max:.2g}, within the tolerance of {tolerance:g}"), None


def _suspect(objective: Objective, tolerance: float, at: Evaluation, direction: Array | None) -> Array | None:
    """A direction, (d,), as it is to be tried, where the gradient has faded so far that the loss may fall along it for ever."""
    faded = _FADED if at.hessian is not None else float(np.clip(tolerance, *_FADED_LONG_AGO))
    if direction is None or at.gradient_max > faded or not objective.may_recede:
        return None
    direction = objective.unheld(direction)
    size = float(np.abs(direction).max())
    return direction / size if size > 0 else None


def _way_out(at: Evaluation, newton_step: Array | None, tried: Array | None) -> Array | None:
    """Direction along which the loss may fall for ever, (d,), if any: a step that is far, or where one was tried in vain, what is flat of others.

    Where a loss falls for ever, the point is on the way there: what is flat about it moves the examples that are far on their side, and no others.
    """
    if tried is None or at.hessian is None or len(tried) > _FEW_PARAMETERS or not np.isfinite(at.hessian).all():
        return newton_step
    values, vectors = np.linalg.eigh(at.hessian)
    flat = vectors[:, values <= _FLAT * values[-1]]
    if newton_step is not None and at.gradient_max > _ROUNDED and _share(flat, newton_step) > _ALL_FLAT:
        return newton_step
    for whole, share in ((at.point, _PART_OF_POINT), (tried, _PART_OF_TRIED)):
        along: Array = flat @ (flat.T @ whole)
        beside = along - tried * (float(along @ tried) / float(tried @ tried))
        if _share(flat, whole) > share and float(np.linalg.norm(beside)) > _SAME * float(np.linalg.norm(along)):
            return along
    return newton_step


def _share(basis: Array, whole: Array) -> float:
    """Length of a vector's part in an orthonormal basis, relative to its own."""
    size = float(np.linalg.norm(whole))
    return float(np.linalg.norm(basis.T @ whole)) / size if size > 0 else 0.0
