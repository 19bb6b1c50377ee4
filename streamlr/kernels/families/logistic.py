"""Two classes: Y is 1 for the second of the sorted labels.

    A = 1 / (1 + exp(-Z)),   loss = log(1 + exp(Z)) - Y Z

With e = exp(-|Z|), which lies in (0, 1], A is 1 / (1 + e) for Z >= 0 and e / (1 + e) otherwise, and
the loss is log1p(e) + max(Z, 0) - Y Z: no overflow and no loss of digits at any Z (Maechler,
"Accurately computing log(1 - exp(-|a|))", 2012).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.families.base import Family, FamilyMetrics
from streamlr.kernels.metrics.classification import class_metrics, class_sums
from streamlr.kernels.metrics.room import room_of_classes
from streamlr.kernels.scans.labels import indicator

Array = NDArray[np.float64]


class Logistic(Family):
    """The Bernoulli distribution."""

    name = "logistic"
    labelled = True
    metrics = FamilyMetrics(class_sums, class_metrics, True, room_of_classes)
    certain_loss = float(np.log(2.0))

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
        # in this order: the difference is exact, and 0 on the right side
        np.add(loss, np.maximum(Z, 0.0) - Y * Z, out=loss)
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

    def margins(self, Z: Array, Y: Array) -> tuple[Array, Array]:
        """± z, + for the second class."""
        margin = (2.0 * Y[0] - 1.0) * Z[0]
        return margin, margin

    def draw(self, rng: np.random.Generator, Z: Array) -> NDArray[Any]:
        return draw_labels(rng, Z)


def draw_labels(rng: np.random.Generator, Z: Array) -> NDArray[Any]:
    """Numbers of classes, (k,), given Z, (k, c)."""
    uniform = rng.random(Z.shape)
    if Z.shape[1] == 1:
        odds = np.exp(-np.clip(Z[:, 0], -700, 700))
        return (uniform[:, 0] * (1.0 + odds) < 1.0).astype(np.int64)
    gumbel = -np.log(-np.log(np.clip(uniform, 1e-300, 1.0 - 1e-16)))
    return np.argmax(Z + gumbel, axis=1)
