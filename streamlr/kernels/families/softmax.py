"""Any number of classes: Y is 1 for the class of the example, 0 for the others.

    A = exp(Z) / Σ exp(Z),   loss = log Σ exp(Z) - Σ Y Z        sums over the classes

With E = exp(Z - max Z) and R the sum of E over all classes but one at the maximum, A = E / (1 + R)
and the loss is log1p(R) + (max Z - Z of the example's class): no overflow and no loss of digits.

A common shift of the ``Z`` of all classes changes nothing. Of the many parameters with the same
meaning those are chosen that sum to 0 over the classes, which have the smallest norm; a penalty, if
any, asks for the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.families.base import Family, FamilyMetrics
from streamlr.kernels.families.logistic import draw_labels
from streamlr.kernels.metrics.classification import class_metrics, class_sums
from streamlr.kernels.metrics.room import room_of_classes
from streamlr.kernels.scans.labels import one_hot

Array = NDArray[np.float64]


class Softmax(Family):
    """The multinomial distribution, in its symmetric parametrisation."""

    name = "softmax"
    labelled = True
    coupled = True
    metrics = FamilyMetrics(class_sums, class_metrics, True, room_of_classes)
    certain_loss = float(np.log(2.0))
    """Where it is less, more than half of the probability is that of the right class."""

    def target(self, values: NDArray[Any], classes: NDArray[Any], first_row: int = 0) -> Array:
        return one_hot(values, classes, first_row)

    def activate(self, Z: Array) -> Array:
        _, A = _softmax(Z)
        return A

    def loss_and_activation(self, Z: Array, Y: Array) -> tuple[Array, Array]:
        rest, A = _softmax(Z)
        # Y picks one Z of each example, so the sum is exact, and the difference 0 where that is
        # the largest
        own = np.einsum("...ck,ck->...k", Z, Y)[..., None, :]
        loss = np.log1p(rest) + (Z.max(axis=-2, keepdims=True) - own)
        return loss, A

    def curvature(self, A: Array) -> Array:
        return A * (1.0 - A)

    def link(self, mean: Array) -> Array:
        logarithm: Array = np.log(mean)
        return logarithm - logarithm.mean()

    def mean_loss(self, mean: Array, Z: Array, variance: Array | float = 0.0) -> float:
        rest, _ = _softmax(Z[:, None])
        return float(np.log1p(rest[0, 0]) + np.sum(mean * (Z.max() - Z)))

    def margins(self, Z: Array, Y: Array) -> tuple[Array, Array]:
        """z of its class less the largest, or the smallest, of the others."""
        own = np.einsum("ck,ck->k", Z, Y)
        largest = np.where(Y > 0, -np.inf, Z).max(axis=0)
        smallest = np.where(Y > 0, np.inf, Z).min(axis=0)
        return own - largest, own - smallest

    def draw(self, rng: np.random.Generator, Z: Array) -> NDArray[Any]:
        return draw_labels(rng, Z)


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
