"""Counts, or rates of events where there is an exposure.

A = exp(Z),   loss = exp(Z) - Y Z
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.families.base import Family, FamilyMetrics
from streamlr.kernels.metrics.regression import deviance, regression_metrics, regression_sums
from streamlr.kernels.metrics.room import room_of_numbers
from streamlr.kernels.scans.labels import numbers

Array = NDArray[np.float64]

_FEW = 4.0
"""Counts up to which a mean is small."""
_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)
_SHIFT = 10
_LARGEST_Z_DRAWN = 20.0


class Poisson(Family):
    """The Poisson distribution."""

    name = "poisson"
    counted = True
    metrics = FamilyMetrics(
        partial(regression_sums, counts=True),
        lambda sums, _: regression_metrics(sums),
        False,
        room_of_numbers,
    )
    signal = 0.5

    def target(self, values: NDArray[Any], classes: NDArray[Any], first_row: int = 0) -> Array:
        return numbers(values, self.name, first_row, least=0.0)

    def activate(self, Z: Array) -> Array:
        # infinity is the answer, and no step that leads there is taken
        with np.errstate(over="ignore"):
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
        """At exp(Z) = Y."""
        least: Array = (Y - Y * np.log(np.where(Y > 0, Y, 1.0))).sum(axis=0)
        return least

    def target_unit(self, mean: Array, variance: Array) -> float:
        """The mean of counts that are not small, to which gradient and Hessian are in
        proportion."""
        largest = float(mean.max())
        return largest if largest > _FEW else 1.0

    def margins(self, Z: Array, Y: Array) -> tuple[Array, Array]:
        """-z of a count of 0; of another count -|z|, which rises to either side."""
        margin = np.where(Y[0] > 0, -np.abs(Z[0]), -Z[0])
        return margin, margin

    def likelihood_base(self, Y: Array) -> Array:
        return -log_factorial(Y[0])

    def deviance(self, loss: Array, Y: Array, A: Array, Z: Array) -> Array:
        return deviance(Y[0], A[0], Z[0])

    def draw(self, rng: np.random.Generator, Z: Array) -> NDArray[Any]:
        return rng.poisson(np.exp(np.minimum(Z[:, 0], _LARGEST_Z_DRAWN)))


def log_factorial(y: Array) -> Array:
    """log y! = log Γ(y + 1) of y, (k,), 0 or above, whole or not.

    Stirling's series at z = y + 11, less the logarithm of the ten factors that lead there: an error
    of 1e-15 beside numbers of 15.
    """
    z = y + 1.0 + _SHIFT
    factors = np.multiply.reduce(y[None, :] + 1.0 + np.arange(_SHIFT)[:, None], axis=0)
    inverse = 1.0 / z
    series = np.zeros_like(z)
    for term in reversed(_STIRLING):
        series = series * inverse**2 + term
    half_log = 0.5 * np.log(2 * np.pi)
    return (z - 0.5) * np.log(z) - z + half_log + series * inverse - np.log(factors)
