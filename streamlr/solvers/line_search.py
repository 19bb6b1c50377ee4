"""Which of several step lengths to take, when all were evaluated in the same pass.

A point is acceptable when it lowers the objective in proportion to the step (Armijo), or, where the
decrease drowns in rounding, when the slope along the direction has not grown (the approximate
condition of Hager and Zhang, "A new conjugate gradient method with guaranteed descent and an
efficient line search", SIAM J. Optim. 16, 2005, eq. 4.1).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamlr.solvers.problem import Evaluation

Array = NDArray[np.float64]

SUFFICIENT_DECREASE = 1e-4
_ROUNDING = 1e-13


def best_acceptable(
    value: float, gradient: Array, direction: Array, steps: Array, evaluations: list[Evaluation]
) -> int | None:
    """Index of the acceptable evaluation with the lowest objective, or None.

    Parameters
    ----------
    value, gradient
        Objective and gradient, (d,), where the direction starts.
    direction
        (d,).
    steps
        Step lengths of the evaluations, (K,).
    evaluations
        What was found at ``point + step * direction``.
    """
    return best_by_slopes(
        value,
        float(gradient @ direction),
        steps,
        evaluations,
        [float(found.gradient @ direction) for found in evaluations],
    )


def best_by_slopes(
    value: float, slope: float, steps: Array, evaluations: list[Evaluation], slopes: list[float]
) -> int | None:
    """The same from the slope at step 0 and those that were found, for objectives whose slope is
    more than a product with the gradient."""
    best: int | None = None
    for k, found in enumerate(evaluations):
        if not (np.isfinite(found.value) and np.isfinite(found.gradient_max)):
            continue
        decreased = found.value <= value + SUFFICIENT_DECREASE * float(steps[k]) * slope
        flat = found.value <= value + _ROUNDING * abs(value) and abs(slopes[k]) <= abs(slope)
        if (decreased or flat) and (best is None or found.value < evaluations[best].value):
            best = k
    return best


def shorter_steps(value: float, slope: float, step: float, found: float, count: int) -> Array:
    """Step lengths to try after ``step`` was refused, (count,): about the minimum of the parabola
    through what is known.

    Parameters
    ----------
    value, slope
        Objective and slope at step 0.
    step, found
        The shortest step that was refused, and the objective there.
    count
        How many to try in the same pass.
    """
    guess = 0.5 * step
    if np.isfinite(found):
        excess = found - value - slope * step
        if excess > 0:
            guess = float(np.clip(-slope * step**2 / (2.0 * excess), 0.02 * step, 0.7 * step))
    steps: Array = guess * 4.0 ** -np.arange(float(count))
    return steps
