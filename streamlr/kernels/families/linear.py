"""Least squares: the target is a number.

A = Z,   loss = (Z - Y)² / 2
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.families.base import Family, FamilyMetrics
from streamlr.kernels.metrics.regression import regression_metrics, regression_sums
from streamlr.kernels.metrics.room import room_of_numbers
from streamlr.kernels.scans.labels import numbers

Array = NDArray[np.float64]


class Linear(Family):
    """The normal distribution."""

    name = "linear"
    quadratic = True
    has_dispersion = True
    metrics = FamilyMetrics(
        partial(regression_sums, counts=False),
        lambda sums, _: regression_metrics(sums),
        False,
        room_of_numbers,
    )

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

    def target_unit(self, mean: Array, variance: Array) -> float:
        """The spread of the target."""
        spread = float(np.sqrt(variance.max()))
        return spread if spread > 0 else 1.0

    def draw(self, rng: np.random.Generator, Z: Array) -> NDArray[Any]:
        return Z[:, 0] + rng.standard_normal(len(Z))
