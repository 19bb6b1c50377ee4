"""Families of distributions with their canonical link, for which dZ = A - Y.

    linear:   A = Z,                    loss = (Z - Y)² / 2
    logistic: A = 1 / (1 + exp(-Z)),    loss = log(1 + exp(Z)) - Y Z
    softmax:  A = exp(Z) / Σ exp(Z),    loss = log Σ exp(Z) - Σ Y Z        sums over the classes, Y one-hot
    poisson:  A = exp(Z),               loss = exp(Z) - Y Z

With e = exp(-|Z|), which lies in (0, 1], the logistic A = 1/(1+e) for Z >= 0 and e/(1+e) otherwise, and the loss is
log1p(e) + max(Z, 0) - Y Z: no overflow and no loss of digits at any Z (Maechler, "Accurately computing log(1 - exp(-|a|))", 2012).
Softmax is the same for more classes: with E = exp(Z - max Z) and R the sum of E over all classes but one at the maximum,
A = E / (1 + R) and the loss is log1p(R) + (max Z - Z of the example's class).
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.scans.labels import indicator, numbers, one_hot

Array = NDArray[np.float64]


class Family(Protocol):
    """What a family adds to the formulas. Leading axes of ``Z``, such as that of candidates, are carried along."""

    name: str
    labelled: bool
    """Whether targets are labels of classes; numbers otherwise."""
    coupled: bool
    """Whether an output's activation depends on the others' ``Z``."""
    quadratic: bool
    """Whether the loss is a quadratic function of ``Z``."""

    def target(self, values: NDArray[Any], classes: NDArray[Any], first_row: int = 0) -> Array:
        """Y, (c, k), of targets as stored, (k,); refuses what the family cannot mean, naming the row."""
        ...

    def activate(self, Z: Array) -> Array:
        """Mean of the target at ``Z``, (..., c, k)."""
        ...

    def loss_and_activation(self, Z: Array, Y: Array) -> tuple[Array, Array]:
        """Loss of every example, (..., c, k) or, where the outputs are coupled, (..., 1, k); and A, (..., c, k)."""
        ...

    def curvature(self, A: Array) -> Array:
        """Second derivative of the loss by the ``Z`` of one output, (..., c, k)."""
        ...

    def link(self, mean: Array) -> Array:
        """``Z`` at which the activation is ``mean``, (c,)."""
        ...

    def mean_loss(self, mean: Array, Z: Array, variance: Array | float = 0.0) -> float:
        """Mean loss of targets with this mean and variance, (c,), when all examples have the same ``Z``, (c,)."""
        ...

    def least_loss(self, Y: Array) -> Array:
        """Smallest loss of each example at any ``Z``, (k,), of Y, (c, k): what is above is half the deviance."""
        ...

    @property
    def certain_loss(self) -> float:
        """A loss below this value at *every* example proves the classes separable; -inf where that cannot be."""
        ...


class Linear:
    """Least squares: the target is a number."""

    name = "linear"
    labelled = False
    coupled = False
    quadratic = True
    certain_loss = -np.inf

    def target(self, values: NDArray[Any], classes: NDArray[Any], first_row: int = 0) -> Array:
        return numbers(values, self.name, first_row)

    def activate(self, Z: Array) -> Array:
        return Z.copy()

    def loss_and_activation(self, Z: Array, Y: Array) -> tuple[Array, Array]:
        loss = Z - Y
        loss *= loss
        loss *= 0.5
        return loss, Z.copy()

    def curvature(self, A: Array) -> Array:
        return np.ones_like(A)

    def link(self, mean: Array) -> Array:
        return mean.copy()

    def mean_loss(self, mean: Array, Z: Array, variance: Array | float = 0.0) -> float:
        return float(0.5 * np.sum((Z - mean) ** 2 + variance))

    def least_loss(self, Y: Array) -> Array:
        return np.zeros(Y.shape[1])


class Logistic:
    """Two classes: Y is 1 for the second of the sorted labels."""

    name = "logistic"
    labelled = True
    coupled = False
    quadratic = False

    def target(self, values: NDArray[Any], classes: NDArray[Any], first_row: int = 0) -> Array:
        return indicator(values, classes, first_row)

    def activate(self, Z: Array) -> Array:
        e = np.exp(-np.abs(Z))
        return np.where(Z >= 0, 1.0, e) / (1.0 + e)

    def loss_and_activation(self, Z: Array, Y: Array) -> tuple[Array, Array]:
        e = np.abs(Z)
        np.negative(e, out=e)
        np.exp(e, out=e)
        loss = np.log1p(e)
        positive = Z >= 0
        np.add(loss, np.maximum(Z, 0.0) - Y * Z, out=loss)  # in this order: the difference is exact, and 0 on the right side
        A = np.where(positive, 1.0, e)
        np.add(e, 1.0, out=e)
        np.divide(A, e, out=A)
        return loss, A

    def curvature(self, A: Array) -> Array:
        return A * (1.0 - A)

    def link(self, mean: Array) -> Array:
        return np.log(mean) - np.log1p(-mean)

    def mean_loss(self, mean: Array, Z: Array, variance: Array | float = 0.0) -> float:
        return float(np.sum(np.log1p(np.exp(-np.abs(Z))) + np.maximum(Z, 0.0) - mean * Z))

    def least_loss(self, Y: Array) -> Array:
        return np.zeros(Y.shape[1])

    @property
    def certain_loss(self) -> float:
        return float(np.log(2.0))


class Softmax:
    """Any number of classes: Y is 1 for the class of the example, 0 for the others; the parametrisation is symmetric.

    A common shift of the ``Z`` of all classes changes nothing. Of the many parameters with the same meaning those are
    chosen that sum to 0 over the classes, which have the smallest norm; a penalty, if any, asks for the same.
    """

    name = "softmax"
    labelled = True
    coupled = True
    quadratic = False

    def target(self, values: NDArray[Any], classes: NDArray[Any], first_row: int = 0) -> Array:
        return one_hot(values, classes, first_row)

    def activate(self, Z: Array) -> Array:
        _, A = _softmax(Z)
        return A

    def loss_and_activation(self, Z: Array, Y: Array) -> tuple[Array, Array]:
        rest, A = _softmax(Z)
        # Y picks one Z of each example, so the sum is exact, and the difference 0 where that is the largest
        loss = np.log1p(rest) + (Z.max(axis=-2, keepdims=True) - np.einsum("...ck,ck->...k", Z, Y)[..., None, :])
        return loss, A

    def curvature(self, A: Array) -> Array:
        return A * (1.0 - A)

    def link(self, mean: Array) -> Array:
        logarithm: Array = np.log(mean)
        return logarithm - logarithm.mean()

    def mean_loss(self, mean: Array, Z: Array, variance: Array | float = 0.0) -> float:
        rest, _ = _softmax(Z[:, None])
        return float(np.log1p(rest[0, 0]) + np.sum(mean * (Z.max() - Z)))

    def least_loss(self, Y: Array) -> Array:
        return np.zeros(Y.shape[1])

    @property
    def certain_loss(self) -> float:
        """Where it is less than log 2, more than half of the probability is that of the right class."""
        return float(np.log(2.0))


def _softmax(Z: Array) -> tuple[Array, Array]:
    """R, (..., 1, k), and A, (..., c, k): see the top of the module."""
    E = Z - Z.max(axis=-2, keepdims=True)
    np.exp(E, out=E)
    largest = E == 1.0
    E[largest] = 0.0  # summed apart, so that what is far smaller keeps its digits
    rest = E.sum(axis=-2, keepdims=True)
    rest += largest.sum(axis=-2, keepdims=True) - 1
    total = 1.0 + rest
    np.divide(E, total, out=E)
    np.copyto(E, 1.0 / total, where=largest)
    return rest, E


class Poisson:
    """Counts, or rates of events where there is an exposure."""

    name = "poisson"
    labelled = False
    coupled = False
    quadratic = False
    certain_loss = -np.inf

    def target(self, values: NDArray[Any], classes: NDArray[Any], first_row: int = 0) -> Array:
        return numbers(values, self.name, first_row, least=0.0)

    def activate(self, Z: Array) -> Array:
        with np.errstate(over="ignore"):  # infinity is the answer, and no step that leads there is taken
            A: Array = np.exp(Z)
        return A

    def loss_and_activation(self, Z: Array, Y: Array) -> tuple[Array, Array]:
        A = self.activate(Z)
        return A - Y * Z, A

    def curvature(self, A: Array) -> Array:
        return A.copy()

    def link(self, mean: Array) -> Array:
        logarithm: Array = np.log(mean)
        return logarithm

    def mean_loss(self, mean: Array, Z: Array, variance: Array | float = 0.0) -> float:
        return float(np.sum(self.activate(Z) - mean * Z))

    def least_loss(self, Y: Array) -> Array:
        least: Array = (Y - Y * np.log(np.where(Y > 0, Y, 1.0))).sum(axis=0)  # at exp(Z) = Y
        return least


FAMILIES: dict[str, Family] = {family.name: family for family in (Linear(), Logistic(), Softmax(), Poisson())}


def family_of(name: str, classes: NDArray[Any]) -> Family:
    """The family that is meant: ``logistic`` of more than two classes is softmax."""
    return FAMILIES["softmax" if name == "logistic" and len(classes) > 2 else name]
