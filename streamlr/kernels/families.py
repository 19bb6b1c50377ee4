"""Families of distributions with their canonical link, for which dZ = A - Y.

    logistic: A = 1 / (1 + exp(-Z)),  loss = log(1 + exp(Z)) - Y Z

With e = exp(-|Z|), which lies in (0, 1], A = 1/(1+e) for Z >= 0 and e/(1+e) otherwise, and the loss is
log1p(e) + max(Z, 0) - Y Z: no overflow and no loss of digits at any Z (Maechler, "Accurately computing log(1 - exp(-|a|))", 2012).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


class Family(Protocol):
    """What a family adds to the formulas."""

    name: str

    def activate(self, Z: Array) -> Array:
        """Mean of the target at ``Z``, (c, k)."""
        ...

    def loss_and_activation(self, Z: Array, Y: Array) -> tuple[Array, Array]:
        """Loss of every example, (c, k), and A, (c, k)."""
        ...

    def curvature(self, A: Array) -> Array:
        """Second derivative of the loss by ``Z``, (c, k)."""
        ...

    def link(self, mean: Array) -> Array:
        """``Z`` at which the activation is ``mean``."""
        ...

    def mean_loss(self, mean: Array, Z: Array) -> float:
        """Mean loss of targets with this mean when all examples have the same ``Z``, (c,)."""
        ...

    @property
    def certain_loss(self) -> float:
        """A loss below this value at *every* example proves the classes separable; 0 where that cannot be."""
        ...


class Logistic:
    """Two classes: Y is 1 for the second of the sorted labels."""

    name = "logistic"

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

    def mean_loss(self, mean: Array, Z: Array) -> float:
        return float(np.sum(np.log1p(np.exp(-np.abs(Z))) + np.maximum(Z, 0.0) - mean * Z))

    @property
    def certain_loss(self) -> float:
        return float(np.log(2.0))


FAMILIES: dict[str, Family] = {"logistic": Logistic()}
