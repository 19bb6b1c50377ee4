"""What a solver works on: a problem, what is asked of it, and what it answers.

A solver knows a problem by these names alone, and a problem is all that gives numbers to them: how
they are had, from data on disk or from rows in memory, is not its concern.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The objective at one point."""

    point: Array
    """The parameters, (d,)."""
    loss: float
    """Weighted mean loss."""
    value: float
    """The loss plus the penalty, J."""
    gradient: Array
    """Gradient of the smooth part of J, that is without l1, with respect to the parameters, (d,).
    """
    gradient_max: float
    """Largest absolute entry of the gradient with respect to the coefficients of standardised
    features and the intercept; with l1 of the shortest subgradient, with bounds of the gradient
    less what would leave them."""
    hessian: Array | None = None
    """Hessian of the smooth part of J, (d, d), where it was asked for."""
    separates: bool = False
    """Whether the point classifies every example correctly: a proof that without a penalty there
    is no optimum."""
    validation_loss: float = np.nan
    """Mean loss of the rows that are held out; not a number where none are."""
    validation_weight: float = 0.0
    """Their weight."""
    recedes: bool = False
    """Whether the loss falls for ever along the direction that was tried in the same pass: a proof
    that there is no optimum."""
    gradient_rest: Array | None = None
    """What rounding has cut off from the gradient, (d,), where that is known."""


@dataclass(frozen=True, slots=True)
class Nonsmooth:
    """The part of J that is not smooth: the sum of ``thresholds * |v|``, and the bounds."""

    thresholds: Array
    """(d,)."""
    lower: Array
    """(d,)."""
    upper: Array
    """(d,)."""

    def value(self, v: Array) -> float:
        return float(self.thresholds @ np.abs(v))

    def clip(self, v: Array) -> Array:
        """The nearest point within the bounds, (d,)."""
        return np.clip(v, self.lower, self.upper)

    def nearest(
        self, z: Array, curvature: Array | float, at: slice | NDArray[np.intp] | int = slice(None)
    ) -> Array:
        """Minimum of ``curvature/2 (v - z)² + thresholds |v|`` within the bounds, (d,).

        Of all entries or of those ``at``: the proximal operator.
        """
        shrunk = np.sign(z) * np.maximum(np.abs(z) - self.thresholds[at] / curvature, 0.0)
        return np.clip(shrunk, self.lower[at], self.upper[at])

    def subgradient(self, v: Array, gradient: Array) -> Array:
        """Shortest subgradient of the whole, (d,), where the smooth part has this gradient.

        It is 0 in entries that would leave the bounds.
        """
        upwards = gradient + np.where(v >= 0, self.thresholds, -self.thresholds)
        downwards = gradient + np.where(v > 0, self.thresholds, -self.thresholds)
        rise = np.where(v < self.upper, np.minimum(upwards, 0.0), 0.0)
        fall = np.where(v > self.lower, np.maximum(downwards, 0.0), 0.0)
        return rise + fall

    def free(self, v: Array) -> NDArray[np.bool_]:
        """Entries about which the whole is smooth, (d,)."""
        call_with_timeout = (v > self.lower) & (v < self.upper)
        smooth: NDArray[np.bool_] = call_with_timeout & ((v != 0) | (self.thresholds == 0))
        return smooth


class Evaluator(Protocol):
    """What evaluates J at points."""

    def evaluate(
        self, points: Array, title: str, *, hessian: bool = False, direction: Array | None = None
    ) -> list[Evaluation]:
        """Evaluate J at each row of ``points``, (K, d). One pass over the data.

        Parameters
        ----------
        points
            Parameters to evaluate.
        title
            What a person is told meanwhile.
        hessian
            Whether second derivatives are wanted, at the first point alone.
        direction
            Along which J may fall for ever, (d,), which the first evaluation then tells.
        """
        ...


class Problem(Evaluator, Protocol):
    """A function J of d parameters, smooth but for l1 and bounds, and what is known of it."""

    @property
    def size(self) -> int:
        """Number of parameters, d."""
        ...

    @property
    def n_coefficients(self) -> int:
        """Number of parameters that are coefficients; the rest are intercepts."""
        ...

    @property
    def underdetermined(self) -> bool:
        """Whether the data have fewer numbers to be met (rows times outputs) than parameters."""
        ...

    @property
    def nonsmooth(self) -> Nonsmooth:
        """Thresholds of l1 and bounds."""
        ...

    @property
    def penalty_curvature(self) -> Array:
        """Second derivatives of the penalty with respect to the parameters, (d,)."""
        ...

    @property
    def target_unit(self) -> float:
        """Unit of the target, which gradients go by."""
        ...

    @property
    def value_unit(self) -> float:
        """Unit of J."""
        ...

    @property
    def may_recede(self) -> bool:
        """Whether there may be a direction along which J falls for ever."""
        ...

    def start(self) -> Array:
        """Parameters at which no feature counts, (d,)."""
        ...

    def diagonal(self) -> Array:
        """Diagonal of the Hessian at the start, (d,)."""
        ...

    def recession_part(self, direction: Array) -> Array:
        """Part of a direction, (d,), along which penalty and bounds let J fall for ever."""
        ...

    def is_recession_direction(self, point: Array) -> bool:
        """Whether the coefficients of a point may be multiplied by any number at no cost."""
        ...


ProblemOf = TypeVar("ProblemOf", bound=Problem)


@dataclass(frozen=True, slots=True)
class Query(Generic[ProblemOf]):
    """What a solver asks of a pass."""

    problem: ProblemOf
    """Whose objective."""
    points: Array
    """Where, (K, d)."""
    hessian: bool = False
    """Whether the Hessian is wanted, at the first point alone."""
    direction: Array | None = None
    """Along which J may fall for ever, (d,)."""
