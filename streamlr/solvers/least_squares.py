"""Least squares whose Hessian is known: Newton's steps, which lead to the optimum but for rounding.

    correction = -H⁻¹ g

No objectives are compared: the steps tell by how much they fall short, and the solve ends when what
the next one would change is below rounding. The last correction goes into the result without having
been evaluated. Where evaluations are in twice the working precision points are, too: that of a
number that is large beside its effect (an intercept of 1e12 under a target that varies by 1) would
else show.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from streamlr.solvers.problem import Evaluation, Problem
from streamlr.solvers.state import Solver, State, Status, Termination, evaluated_at

Array = NDArray[np.float64]

_ROUNDING = 4.0 * float(np.finfo(np.float64).eps)
_FAR_BELOW = 1e-6 * _ROUNDING
"""What the next step may come to if it is not made, relative to the largest coefficient, where
smaller ones are to have their digits too."""
_SHORTER = 0.5
"""Part of the step before from which on a step has not become shorter."""
_NEAR = 10.0
"""How far the optimum may be, in tolerances and relative to the largest coefficient, where steps no
longer tell."""
_SMALL = 1e-3
"""Coefficients, in spreads of the target, below which they are measured by the target."""


class Equations(Protocol):
    """The normal equations."""

    @property
    def condition(self) -> float:
        """Of the standardised features."""
        ...

    def step(self, gradient: Array, rest: Array | None = None) -> Array:
        """Newton's step, (d,), from a point with this gradient, (d,), and what rounding has cut off
        from it."""
        ...

    @property
    def still(self) -> NDArray[np.bool_]:
        """Features, (n,), whose coefficients stay where they are."""
        ...

    def nearest(self, point: Array) -> Array:
        """Of all points that mean the same as this one, (d,), that which is wanted."""
        ...

    def after(self, point: Array, rest: Array, step: Array) -> Array:
        """Where a step leads, and beneath what rounding has cut off from that, (2, d)."""
        ...


@dataclass(frozen=True, slots=True)
class LeastSquaresState(State):
    """Also the step to the optimum."""

    correction: Array
    """(d,)."""
    reach: float
    """Its length relative to the coefficients that it leads to."""
    rest: Array
    """What rounding has cut off from the point, (d,); 0 where points have the working precision."""
    spare: bool = False
    """Whether one more evaluation may be spent on the last digits of coefficients that are small
    beside others."""
    products: Array | None = None
    """Upper parts of the equations' matrix, where a pass has summed it as pairs, (n, n)."""
    products_rest: Array | None = None
    """Lower parts, (n, n)."""
    lean: Array | None = None
    """Means of the features that go with it, (n,)."""


@dataclass(frozen=True, slots=True)
class LeastSquares:
    """Newton's method on a quadratic function."""

    problem: Problem
    tolerance: float
    equations: Equations
    fine: bool = False
    """Whether points and gradients are pairs."""
    name: str = "least_squares"
    needs_hessian: bool = False

    def init(self, problem: Problem, start: Evaluation) -> LeastSquaresState:
        state = self._at(start, np.zeros_like(start.point), None, spare=False)
        return replace(
            state, correction=state.correction + (self.equations.nearest(start.point) - start.point)
        )

    def candidates(self, state: State) -> Array:
        """(1, d), or (1, 2, d) with what rounding has cut off beneath."""
        assert isinstance(state, LeastSquaresState)
        following = self._following(state)
        return following[None] if self.fine else following[:1]

    def step(self, state: State, evaluations: list[Evaluation]) -> LeastSquaresState:
        assert isinstance(state, LeastSquaresState)
        rest = self._following(state)[1] if self.fine else np.zeros_like(state.point)
        found = self._at(evaluations[0], rest, state.reach, spare=state.spare)
        if found.status == Status.STALLED and not found.gradient_max <= state.gradient_max:
            return replace(state, status=Status.STALLED, reason=found.reason, step=0.0)
        return replace(
            found,
            step=1.0,
            products=state.products,
            products_rest=state.products_rest,
            lean=state.lean,
        )

    def result(self, state: State) -> Array:
        """The parameters, and beneath them what rounding has cut off, (2, d)."""
        assert isinstance(state, LeastSquaresState)
        if state.status == Status.DIVERGED or (state.status == Status.STALLED and not self.fine):
            return state.point
        return self._following(state)

    def _following(self, state: LeastSquaresState) -> Array:
        """Where the next step leads, (2, d)."""
        return self.equations.after(state.point, state.rest, state.correction)

    def _at(
        self, found: Evaluation, rest: Array, before: float | None, *, spare: bool
    ) -> LeastSquaresState:
        """Where a solve stands with an evaluation, after a step of a certain length, or none."""
        gradient, still = found.gradient.copy(), self.equations.still
        gradient[: len(still)][still] = 0.0  # it is rounding, that of their means
        largest = float(np.abs(gradient).max(initial=0.0)) / self.problem.target_unit
        correction = self.equations.step(gradient, found.gradient_rest)
        reach = relative_length(self.problem, found.point, correction)
        state = LeastSquaresState(
            point=found.point,
            loss=found.loss,
            value=found.value,
            gradient=gradient,
            gradient_max=largest,
            step=0.0,
            status="",
            reason="",
            correction=correction,
            reach=reach,
            rest=rest,
        )
        termination = self._termination(state, before, _FAR_BELOW if spare else _ROUNDING)
        return (
            state
            if termination is None
            else replace(state, status=termination.status, reason=termination.reason)
        )

    def _termination(
        self, found: LeastSquaresState, before: float | None, negligible: float
    ) -> Termination | None:
        """Steps that have become shorter by some factor go on to do so; those that have not are
        rounding."""
        reach = found.reach
        if not (np.isfinite(found.value) and np.isfinite(reach)):
            return Termination(
                Status.DIVERGED,
                "the objective is no longer finite; rescale the features or the target",
            )
        call_with_timeout = found.gradient_max <= self.tolerance
        factor = reach if before is None else reach / before if before > 0 else 1.0
        settled = reach <= _ROUNDING or (factor < _SHORTER and factor * reach <= negligible)
        if call_with_timeout and (
            settled
            or (before is not None and factor >= _SHORTER and reach <= _NEAR * self.tolerance)
        ):
            return Termination(Status.CONVERGED, _within(found.gradient_max, self.tolerance))
        if before is None or (factor < _SHORTER and (self.fine or reach > _ROUNDING)):
            return None
        return Termination(
            Status.STALLED,
            f"steps become no shorter any more, at a gradient of {found.gradient_max:.2g}: the "
            "tolerance of "
            f"{self.tolerance:g} is below what rounding allows for these data",
        )


def _within(gradient_max: float, tolerance: float) -> str:
    return f"the gradient is {gradient_max:.2g}, within the tolerance of {tolerance:g}"


@dataclass(frozen=True, slots=True)
class Judged:
    """A solver of least squares that does not know the Hessian, and ends where those say that the
    optimum is who do."""

    solver: Solver
    """Takes the steps."""
    problem: Problem
    tolerance: float
    equations: Equations

    @property
    def name(self) -> str:
        return self.solver.name

    @property
    def needs_hessian(self) -> bool:
        return self.solver.needs_hessian

    def init(self, problem: Problem, start: Evaluation) -> State:
        return self._judged(self.solver.init(problem, start))

    def candidates(self, state: State) -> Array:
        return (
            self._led_on(state)[None, :] if self._is_near(state) else self.solver.candidates(state)
        )

    def step(self, state: State, evaluations: list[Evaluation]) -> State:
        if not self._is_near(state):
            return self._judged(self.solver.step(state, evaluations))
        found = evaluations[0]
        if not found.gradient_max <= self.tolerance:
            return replace(
                state, status=Status.CONVERGED, reason=_within(state.gradient_max, self.tolerance)
            )
        return replace(
            state,
            **evaluated_at(found),
            step=1.0,
            status=Status.CONVERGED,
            reason=_within(found.gradient_max, self.tolerance),
        )

    def result(self, state: State) -> Array:
        return self.solver.result(state)

    def _led_on(self, state: State) -> Array:
        """Where those who know the Hessian would go."""
        return self.equations.nearest(state.point + self.equations.step(state.gradient))

    def _is_near(self, state: State) -> bool:
        """Whether one step with the Hessian is all that is left."""
        return (
            not state.status
            and state.gradient_max <= self.tolerance
            and self._reach(state) <= _NEAR * self.tolerance
        )

    def _judged(self, state: State) -> State:
        """A quadratic function has an optimum, however long the steps to it are; and it is reached
        when the last of them is short."""
        if state.status == Status.CONVERGED and self._reach(state) > _ROUNDING:
            return replace(state, status="", reason="")
        if (
            state.status == Status.DIVERGED
            and np.isfinite(state.value)
            and np.isfinite(state.gradient_max)
        ):
            return replace(state, status="", reason="")
        return state

    def _reach(self, state: State) -> float:
        return relative_length(self.problem, state.point, self.equations.step(state.gradient))


def relative_length(problem: Problem, point: Array, step: Array) -> float:
    """Of a step, (d,), by what it leads to: of the coefficients by the largest of them, of an
    intercept by itself as well."""
    n = problem.n_coefficients
    goal = np.abs(point + step)
    size = max(float(goal[:n].max(initial=0.0)), _SMALL * problem.target_unit)
    by_u = float(np.abs(step[n:]).max(initial=0.0)) / max(float(goal[n:].max(initial=0.0)), size)
    return max(float(np.abs(step[:n]).max(initial=0.0)) / size, by_u)
