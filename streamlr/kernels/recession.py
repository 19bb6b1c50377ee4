"""Directions along which a loss has no minimum.

A direction moves Z by z at every example. The loss falls along it for ever, and there is no optimum, if and only if it rises at no example and falls
at some: z is 0 or leads to the example's own side at all of them, and not 0 at all (Albert and Anderson, "On the existence of maximum likelihood
estimates in logistic regression models", 1984; for counts Correia, Guimarães and Zylkin, "Verifying the existence of maximum likelihood estimates
for generalized linear models", 2019). How far on its side an example is moved is its margin:

    logistic:  ± z, + for the second class
    softmax:   z of its class less the largest, or the smallest, of the others
    poisson:   -z of a count of 0; of another count -|z|, which rises to either side
    linear:    -|z|
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_NO_ROWS: Array = np.array([np.inf, -np.inf])


def margins_of(family: str, Z: Array, Y: Array, counted: NDArray[np.bool_] | None) -> Array:
    """Smallest and largest margin of the examples that count, (2,).

    Parameters
    ----------
    family
        Name of the family.
    Z
        What a direction adds to the linear predictor, (c, k).
    Y
        Targets, (c, k).
    counted
        Which of the examples count, (k,); None for all.
    """
    least, most = _MARGINS[family](Z, Y)
    if counted is not None:
        least, most = least[counted], most[counted]
    return np.array([least.min(), most.max()]) if len(least) else _NO_ROWS


def joined(one: Array, other: Array) -> Array:
    """Margins, (D, 2), of the examples of both."""
    return np.stack([np.minimum(one[:, 0], other[:, 0]), np.maximum(one[:, 1], other[:, 1])], axis=1)


def _logistic(Z: Array, Y: Array) -> tuple[Array, Array]:
    margin = (2.0 * Y[0] - 1.0) * Z[0]
    return margin, margin


def _softmax(Z: Array, Y: Array) -> tuple[Array, Array]:
    own = np.einsum("ck,ck->k", Z, Y)
    others = np.where(Y > 0, -np.inf, Z).max(axis=0), np.where(Y > 0, np.inf, Z).min(axis=0)
    return own - others[0], own - others[1]


def _poisson(Z: Array, Y: Array) -> tuple[Array, Array]:
    margin = np.where(Y[0] > 0, -np.abs(Z[0]), -Z[0])
    return margin, margin


def _linear(Z: Array, Y: Array) -> tuple[Array, Array]:
    margin = -np.abs(Z[0])
    return margin, margin


_MARGINS: dict[str, Callable[[Array, Array], tuple[Array, Array]]] = {"linear": _linear, "logistic": _logistic, "softmax": _softmax, "poisson": _poisson}
