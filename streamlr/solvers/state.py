"""What a solver is: ``init / candidates / step / result`` over an immutable record of where it
stands.

The record is all there is (the shape is that of optimistix): written down it is a checkpoint, built
by hand it is a warm start.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamlr.solvers.problem import Evaluation, Problem

Array = NDArray[np.float64]

_ROUNDING = 1e-13
"""Of the objective."""


class Status(StrEnum):
    """How a solve stands."""

    RUNNING = ""
    CONVERGED = "converged"
    PASS_LIMIT = "pass_limit"
    STALLED = "stalled"
    DIVERGED = "diverged"


@dataclass(frozen=True, slots=True)
class Termination:
    """How a solve has ended."""

    status: Status
    reason: str
    """The same for a person."""


def kept_as(key: str) -> dict[str, str]:
    """Metadata of a field of a state that checkpoints have under another name."""
    return {"key": key}


@dataclass(frozen=True, slots=True)
class State:
    """Where a solver stands.

    Solvers add what they must remember; every field is a number, a text, an array or None.
    """

    point: Array
    """Best parameters that were evaluated, (d,)."""
    loss: float
    """Loss there."""
    value: float
    """Objective there."""
    gradient: Array
    """Gradient there, (d,)."""
    gradient_max: float
    """Its size, which the tolerance is held against."""
    step: float
    """Relative length of the step that led there; 0 where none was taken."""
    status: str
    """A `Status`; empty while the solve goes on."""
    reason: str
    """Why it has ended."""
    validation_loss: float = field(default=np.nan, kw_only=True, metadata=kept_as("held_loss"))
    """Loss at the point of the rows that are held out; this and the next three are what
    `EarlyStopping` remembers."""
    best_validation_loss: float = field(
        default=np.inf, kw_only=True, metadata=kept_as("best_held_loss")
    )
    """Smallest of these so far."""
    best_validation_point: Array | None = field(
        default=None, kw_only=True, metadata=kept_as("best_held_point")
    )
    """Where that was, (d,), if the run is to end there."""
    steps_without_progress: int = field(
        default=0, kw_only=True, metadata=kept_as("steps_without_gain")
    )
    """Steps since it last became smaller."""
    flattest_point: Array | None = field(default=None, kw_only=True)
    """Point of the smallest gradient so far, (d,), of solvers that go back to it where rounding is
    all that is left; this and the next five are what `with_flattest` remembers."""
    flattest_gradient: Array | None = field(default=None, kw_only=True)
    """Gradient there, (d,)."""
    flattest_gradient_max: float = field(default=np.inf, kw_only=True)
    flattest_loss: float = field(default=np.nan, kw_only=True)
    flattest_value: float = field(default=np.nan, kw_only=True)
    flattest_validation_loss: float = field(
        default=np.nan, kw_only=True, metadata=kept_as("flattest_held_loss")
    )
    suspect: Array | None = field(default=None, kw_only=True)
    """Direction along which the loss may fall for ever, (d,), to be tried in the next pass; None
    where there is no reason to think so."""


StateOf = TypeVar("StateOf", bound=State)


def evaluated_at(found: Evaluation) -> dict[str, Any]:
    """The fields of a state that the evaluation of its point tells."""
    return {
        "point": found.point,
        "loss": found.loss,
        "value": found.value,
        "gradient": found.gradient,
        "gradient_max": found.gradient_max,
    }


class Solver(Protocol):
    """A method of minimisation."""

    @property
    def name(self) -> str: ...

    @property
    def needs_hessian(self) -> bool:
        """Whether each pass is to sum the Hessian at its first candidate."""
        ...

    def init(self, problem: Problem, start: Evaluation) -> State:
        """Return the state at a point that has been evaluated. Makes no pass."""
        ...

    def candidates(self, state: State) -> Array:
        """Points to evaluate next, (K, d); the Hessian, where it is needed, at the first."""
        ...

    def step(self, state: State, evaluations: list[Evaluation]) -> State:
        """Return the next state, given what was found at the candidates. Makes no pass."""
        ...

    def result(self, state: State) -> Array:
        """Parameters of the model if the solve ends here, (d,).

        Or (2, d), with what these lack to the last digit beneath.
        """
        ...


def with_flattest(state: StateOf, before: State) -> StateOf:
    """A state with the point of the smallest gradient among its own and those before."""
    if before.flattest_point is None:
        return state
    if state.gradient_max < before.flattest_gradient_max:
        return replace(
            state,
            flattest_point=state.point,
            flattest_gradient=state.gradient,
            flattest_gradient_max=state.gradient_max,
            flattest_loss=state.loss,
            flattest_value=state.value,
            flattest_validation_loss=state.validation_loss,
        )
    return replace(
        state,
        flattest_point=before.flattest_point,
        flattest_gradient=before.flattest_gradient,
        flattest_gradient_max=before.flattest_gradient_max,
        flattest_loss=before.flattest_loss,
        flattest_value=before.flattest_value,
        flattest_validation_loss=before.flattest_validation_loss,
    )


def flattest(state: StateOf) -> StateOf:
    """The state at the point of the smallest gradient, if J is as low there but for rounding.

    Then that is the nearest to the optimum.
    """
    point, gradient = state.flattest_point, state.flattest_gradient
    if point is None or gradient is None or not state.flattest_gradient_max < state.gradient_max:
        return state
    if not state.flattest_value <= state.value + _ROUNDING * abs(state.value):
        return state
    return replace(
        state,
        point=point,
        gradient=gradient,
        gradient_max=state.flattest_gradient_max,
        loss=state.flattest_loss,
        value=state.flattest_value,
        validation_loss=state.flattest_validation_loss,
    )


def stalled(state: StateOf, tolerance: float) -> StateOf:
    """The state as it ends where no step lowers the objective."""
    state = flattest(state)
    size = f"{state.gradient_max:.2g}"
    if state.gradient_max <= tolerance:
        reason = (
            f"the gradient is {size}, within the tolerance of {tolerance:g}, and "
            "no step lowers the objective any further"
        )
        return replace(state, status=Status.CONVERGED, step=0.0, reason=reason)
    reason = (
        f"no step lowers the objective any further, at a gradient of {size}: "
        f"the tolerance of {tolerance:g} is below what rounding allows for these data"
    )
    return replace(state, status=Status.STALLED, step=0.0, reason=reason)
