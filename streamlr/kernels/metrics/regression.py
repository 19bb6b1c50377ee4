"""How well means fit numbers, as one sum that merges.

    R² = 1 - Σ ω (Y - A)² / Σ ω (Y - mean)² D² = 1 - Σ ω d(Y, A) / Σ ω d(Y, mean),   d(y, a) = 2 (y
    log(y / a) - y + a)       the deviance of counts (Poisson)

The spread about the mean of two sets of rows together is that of each about its own, and of the
means about the common one; so it is for squares (Chan, Golub and LeVeque 1979) and for every other
divergence of Bregman's kind, such as d.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class RegressionSums:
    """Sums over some rows: a commutative monoid."""

    n_rows: int
    """Rows."""
    weight_sum: float
    """Their weight."""
    loss_sum: float
    """Weighted loss of the family."""
    square_sum: float
    """Weighted (Y - A)²."""
    absolute_sum: float
    """Weighted \\|Y - A\\|."""
    target_mean: float
    """Weighted mean of Y; 0 where there is no weight."""
    target_square_sum: float
    """Weighted (Y - mean)²."""
    deviance_sum: float | None
    """Weighted d(Y, A); None where Y is no count."""
    target_deviance_sum: float
    """Weighted d(Y, mean)."""

    @property
    def finite_check(self) -> Array:
        return np.array([self.loss_sum])

    def __add__(self, other: RegressionSums) -> RegressionSums:
        weight = self.weight_sum + other.weight_sum
        mean, squares, deviance = (
            self.target_mean,
            self.target_square_sum + other.target_square_sum,
            self.target_deviance_sum + other.target_deviance_sum,
        )
        counts = self.deviance_sum is not None and other.deviance_sum is not None
        if other.weight_sum > 0:
            mean = self.target_mean + (other.target_mean - self.target_mean) * (
                other.weight_sum / weight
            )
            for part in (self, other):
                squares += part.weight_sum * (part.target_mean - mean) ** 2
                deviance += part.weight_sum * _divergence(part.target_mean, mean) if counts else 0.0
        return RegressionSums(
            self.n_rows + other.n_rows,
            weight,
            self.loss_sum + other.loss_sum,
            self.square_sum + other.square_sum,
            self.absolute_sum + other.absolute_sum,
            mean,
            squares,
            self.deviance_sum + other.deviance_sum
            if self.deviance_sum is not None and other.deviance_sum is not None
            else None,
            deviance,
        )


def regression_sums(
    Z: Array, Y: Array, loss: Array, A: Array, omega: Array, *, counts: bool
) -> RegressionSums:
    """The sums over some examples.

    Parameters
    ----------
    Z
        The linear predictor, (1, k).
    Y
        Targets, (1, k).
    loss
        Loss of every example, (1, k).
    A
        Means, (1, k).
    omega
        Weight of each, (k,).
    counts
        Whether targets are counts, of which there is a deviance.
    """
    y, rest = Y[0], Y[0] - A[0]
    weight = float(omega.sum())
    origin = float(
        y[np.argmax(omega > 0)]
    )  # a constant target keeps an exact mean, and a spread of exactly 0
    mean = origin + float((y - origin) @ omega) / weight if weight > 0 else 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        return RegressionSums(
            len(omega),
            weight,
            float(loss[0] @ omega),
            float(rest**2 @ omega),
            float(np.abs(rest) @ omega),
            mean,
            float((y - mean) ** 2 @ omega) if weight > 0 else 0.0,
            float(deviance(y, A[0], Z[0]) @ omega) if counts else None,
            float(deviance(y, np.full_like(y, mean)) @ omega) if counts and weight > 0 else 0.0,
        )


def deviance(y: Array, mean: Array, log_mean: Array | None = None) -> Array:
    """d(y, mean) of counts, (k,).

    Where the two are near each other it is 2 mean ((1 + r) log1p(r) - r) with r = y / mean - 1,
    which keeps the digits that the difference of the logarithms would lose; a mean that is too
    small for a float has its logarithm still.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        r = (y - mean) / mean
        near = np.abs(r) < 0.5
        log_mean = np.log(mean) if log_mean is None else log_mean
        far = np.where(y > 0, y * (np.log(y) - log_mean), 0.0) - y + mean
        r = np.where(near, r, 0.0)
        return 2.0 * np.where(near, mean * ((1.0 + r) * np.log1p(r) - r), far)


def _divergence(y: float, mean: float) -> float:
    return float(deviance(np.array([y]), np.array([mean]))[0])


def regression_metrics(sums: RegressionSums) -> dict[str, Any]:
    """What is reported of the sums; ``weight_sum`` must not be 0. R² and D² are None where all
    targets are equal."""
    found: dict[str, Any] = {
        "rows": sums.n_rows,
        "weight": sums.weight_sum,
        "loss": sums.loss_sum / sums.weight_sum,
        "r2": 1.0 - sums.square_sum / sums.target_square_sum
        if sums.target_square_sum > 0
        else None,
        "mean_squared_error": sums.square_sum / sums.weight_sum,
        "mean_absolute_error": sums.absolute_sum / sums.weight_sum,
    }
    if sums.deviance_sum is not None:
        found["mean_poisson_deviance"] = sums.deviance_sum / sums.weight_sum
        found["d2_poisson"] = (
            1.0 - sums.deviance_sum / sums.target_deviance_sum
            if sums.target_deviance_sum > 0
            else None
        )
    return found
