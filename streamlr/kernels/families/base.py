"""What a family of models adds to the formulas.

    Z = Wᵀ X + b;   A = mean of the target at Z;   dZ = A - Y

holds of all of them. A family says what A is, what is lost at Z, and all else that others ask of
it: nobody asks for its name. To add one, derive from `Family`, write what has no default here, and
name it in `streamlr.kernels.families.registry`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.metrics.room import SumsRoom

Array = NDArray[np.float64]


class LeafSums(Protocol):
    """Sums over some examples of Z, Y and A, (c, k), their loss, (1, k), and weights, (k,)."""

    def __call__(self, Z: Array, Y: Array, loss: Array, A: Array, omega: Array) -> Any: ...


@dataclass(frozen=True, slots=True)
class FamilyMetrics:
    """What is summed to judge models of a family, and what is told of the sums."""

    sums: LeafSums
    """The sums over some examples, a record of a monoid with the fields ``n_rows`` and
    ``weight_sum``, and a ``probe``."""
    report: Callable[[Any, list[Any]], dict[str, Any]]
    """Metrics by name, of the sums over all rows and the labels of the classes."""
    plotted: bool
    """Whether `streamlr.reporting.plots` draws the report."""
    room: Callable[[int, int, int], SumsRoom]
    """Bytes that the sums take, of so many outputs, rows of a leaf, and rows of all."""


class Family(ABC):
    """A distribution of the target and its link.

    Leading axes of ``Z``, such as that of candidates, are carried along.
    """

    name: ClassVar[str]
    labelled: ClassVar[bool] = False
    """Whether targets are labels of classes; numbers otherwise."""
    counted: ClassVar[bool] = False
    """Whether targets are counts, which may have an exposure, and of which many may be 0."""
    coupled: ClassVar[bool] = False
    """Whether an output's activation depends on the others' ``Z``: there is one for each class."""
    quadratic: ClassVar[bool] = False
    """Whether the loss is a quadratic function of ``Z``."""
    has_dispersion: ClassVar[bool] = False
    """Whether the variance of the target about its mean is estimated; else its mean tells it."""
    metrics: ClassVar[FamilyMetrics]
    """How its models are judged."""
    certain_loss: ClassVar[float] = -np.inf
    """A loss below this value at *every* example proves the classes separable; -inf where that
    cannot be."""

    @property
    def may_recede(self) -> bool:
        """Whether there may be a direction along which the loss falls for ever."""
        return not self.quadratic

    @property
    def takes_offset(self) -> bool:
        """Whether a number that is added to all ``Z`` of an example changes anything."""
        return not self.coupled

    # the formulas ---------------------------------------------------------------------------------

    @abstractmethod
    def target(self, values: NDArray[Any], classes: NDArray[Any], first_row: int = 0) -> Array:
        """Y, (c, k), of targets as stored, (k,); refuses what the family cannot mean, naming the
        row."""

    @abstractmethod
    def activate(self, Z: Array) -> Array:
        """Mean of the target at ``Z``, (..., c, k)."""

    @abstractmethod
    def loss_and_activation(self, Z: Array, Y: Array) -> tuple[Array, Array]:
        """Loss of every example, (..., c, k) or, where the outputs are coupled, (..., 1, k); and A,
        (..., c, k)."""

    @abstractmethod
    def curvature(self, A: Array) -> Array:
        """Second derivative of the loss with respect to the ``Z`` of one output, (..., c, k)."""

    @abstractmethod
    def link(self, mean: Array) -> Array:
        """``Z`` at which the activation is ``mean``, (c,)."""

    @abstractmethod
    def mean_loss(self, mean: Array, Z: Array, variance: Array | float = 0.0) -> float:
        """Mean loss of targets with this mean and variance, (c,), when all examples have the same
        ``Z``, (c,)."""

    # what else is asked of it ---------------------------------------------------------------------

    def least_loss(self, Y: Array) -> Array:
        """Smallest loss of each example at any ``Z``, (k,), of Y, (c, k): what is above is half the
        deviance."""
        return np.zeros(Y.shape[1])

    def target_unit(self, mean: Array, variance: Array) -> float:
        """Unit of the target, which gradients go by, given its mean and variance, (c,)."""
        del mean, variance
        return 1.0

    def margins(self, Z: Array, Y: Array) -> tuple[Array, Array]:
        """How far on its own side each example is moved by what a direction adds to ``Z``, (c, k).

        The least and the most of it, (k,) each (see `streamlr.kernels.recession`).
        """
        del Y
        margin = -np.abs(Z[0])  # the loss rises to either side
        return margin, margin

    def likelihood_base(self, Y: Array) -> Array | None:
        """What the log-likelihood of each example has beside its loss, (k,); None for nothing.

            log-likelihood = -Σ ω loss + Σ ω base

        Of a family with a dispersion those are of a variance of 1: what is reported has the
        variance at its own optimum.
        """
        del Y
        return None

    def deviance(self, loss: Array, Y: Array, A: Array, Z: Array) -> Array:
        """Twice what the log-likelihood of each example lacks to that of a perfect fit, (k,), of
        loss, (1, k), and Y, A and Z, (c, k)."""
        del Y, A, Z
        return 2.0 * loss[0]

    # synthetic data -------------------------------------------------------------------------------

    signal: ClassVar[float] = 1.5
    """Standard deviation of Z of synthetic data."""

    @abstractmethod
    def draw(self, rng: np.random.Generator, Z: Array) -> NDArray[Any]:
        """Targets, (k,), given Z, (k, c)."""
