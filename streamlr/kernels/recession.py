"""Directions along which a loss has no minimum.

A direction moves Z by z at every example. The loss falls along it for ever, and there is no
optimum, if and only if it rises at no example and falls at some: z is 0 or leads to the example's
own side at all of them, and not 0 at all (Albert and Anderson, "On the existence of maximum
likelihood estimates in logistic regression models", 1984; for counts Correia, Guimarães and Zylkin,
"Verifying the existence of maximum likelihood estimates for generalized linear models", 2019). How
far on its side an example is moved is its margin (see `Family.margins`).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.families import Family

Array = NDArray[np.float64]

_NO_ROWS: Array = np.array([np.inf, -np.inf])


def margins_of(family: Family, Z: Array, Y: Array, counted: NDArray[np.bool_] | None) -> Array:
    """Smallest and largest margin of the examples that count, (2,).

    Parameters
    ----------
    family
        Says how far on its side an example is moved.
    Z
        What a direction adds to the linear predictor, (c, k).
    Y
        Targets, (c, k).
    counted
        Which of the examples count, (k,); None for all.
    """
    least, most = family.margins(Z, Y)
    if counted is not None:
        least, most = least[counted], most[counted]
    return np.array([least.min(), most.max()]) if len(least) else _NO_ROWS


def joined(one: Array, other: Array) -> Array:
    """Margins, (D, 2), of the examples of both."""
    return np.stack(
        [np.minimum(one[:, 0], other[:, 0]), np.maximum(one[:, 1], other[:, 1])], axis=1
    )
