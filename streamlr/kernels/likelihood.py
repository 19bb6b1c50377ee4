"""What a family's likelihood has beside the loss, and the deviance.

    log-likelihood = -Σ ω loss + Σ ω base         deviance = 2 (log-likelihood of a perfect fit - log-likelihood)

Of the linear family these are those of a variance of 1: what is reported has the variance at its own optimum.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.metrics.regression import deviance

Array = NDArray[np.float64]

_STIRLING = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360)
_SHIFT = 10


@dataclass(frozen=True, slots=True)
class Likelihood:
    """What a family adds."""

    base: Callable[[Array], Array] | None
    """Of Y, (c, k): what the log-likelihood of each example has beside its loss, (k,); None for nothing."""
    deviance: Callable[[Array, Array, Array, Array], Array]
    """Of loss, (1, k), Y, A and Z, (c, k): the deviance of each example, (k,)."""


def log_factorial(y: Array) -> Array:
    """log y! = log Γ(y + 1) of y, (k,), 0 or above, whole or not.

    Stirling's series at z = y + 11, less the logarithm of the ten factors that lead there: an error of 1e-15 beside numbers of 15.
    """
    z = y + 1.0 + _SHIFT
    factors = np.multiply.reduce(y[None, :] + 1.0 + np.arange(_SHIFT)[:, None], axis=0)
    inverse = 1.0 / z
    series = np.zeros_like(z)
    for term in reversed(_STIRLING):
        series = series * inverse**2 + term
    return (z - 0.5) * np.log(z) - z + 0.5 * np.log(2 * np.pi) + series * inverse - np.log(factors)


def _twice_the_loss(loss: Array, Y: Array, A: Array, Z: Array) -> Array:
    del Y, A, Z
    return 2.0 * loss[0]


LIKELIHOODS: dict[str, Likelihood] = {
    "linear": Likelihood(None, _twice_the_loss),
    "logistic": Likelihood(None, _twice_the_loss),
    "softmax": Likelihood(None, _twice_the_loss),
    "poisson": Likelihood(lambda Y: -log_factorial(Y[0]), lambda loss, Y, A, Z: deviance(Y[0], A[0], Z[0])),
}
