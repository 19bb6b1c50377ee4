"""The strengths of a path, and what its folds say of them.

The grid is glmnet's (Friedman, Hastie and Tibshirani, "Regularization paths for generalized linear models via coordinate descent",
J. Stat. Softw. 33, 2010, section 2.5): from the smallest strength at which l1 leaves no coefficient, evenly on the scale of logarithms.

    largest = max |gradient without features, in the units of the penalty| / max(alpha, 0.001)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamlr.config import ModelConfig
from streamlr.config_path import PathConfig
from streamlr.objective import Evaluation, Objective

Array = NDArray[np.float64]

_LEAST_ALPHA = 1e-3
_ABOVE = 1.0 + 1e-7
"""By how much the largest strength is raised: at the very edge, where a threshold equals a gradient, rounding would decide."""
_SMALLEST = 1e-4
_SMALLEST_OF_FEW_ROWS = 1e-2


def penalized(model: ModelConfig, strength: float, alpha: float) -> ModelConfig:
    """The model with the penalty of a strength."""
    return replace(model, penalty=replace(model.penalty, l1=alpha * strength, l2=(1.0 - alpha) * strength))


def strengths(path: PathConfig, objective: Objective, start: Evaluation) -> Array:
    """The strengths of a path, from the largest on, (L,).

    Parameters
    ----------
    path
        What is asked for.
    objective
        Of strength 1 of l1 alone.
    start
        Without features.
    """
    if path.lambdas is not None:
        return np.sort(np.array(path.lambdas))[::-1].copy()
    largest = largest_strength(objective, start, path.alpha)
    few = objective.moments.n_rows <= len(objective.moments.mean)
    ratio = path.ratio or (_SMALLEST_OF_FEW_ROWS if few else _SMALLEST)
    return largest * ratio ** np.linspace(0.0, 1.0, path.count)


def largest_strength(objective: Objective, start: Evaluation, alpha: float) -> float:
    """The smallest strength at which l1 leaves no coefficient."""
    unit = objective.nonsmooth.thresholds  # what a coefficient of this parametrisation counts in the penalty
    free = unit > 0
    slope = float((np.abs(start.gradient[free]) / unit[free]).max(initial=0.0))
    return _ABOVE * slope / max(alpha, _LEAST_ALPHA) or 1.0  # 0 where no feature tells anything: any strength will do


@dataclass(frozen=True, slots=True)
class Judgement:
    """What the folds say of every strength."""

    mean: Array
    """Mean held-out loss, weighted by the folds, (L,)."""
    standard_error: Array
    """Of the mean, (L,)."""
    lowest: int
    """Index of the lowest mean."""
    within_one: int
    """Index of the largest strength whose mean is within one standard error of the lowest."""

    @classmethod
    def of(cls, values: Array, weights: Array) -> Judgement:
        """Of the losses, (L, K), of folds of these weights, (L, K); strengths fall from the first on."""
        mean, error = mean_and_error(values, weights)
        lowest = int(np.nanargmin(mean))
        within = np.flatnonzero(mean <= mean[lowest] + error[lowest])
        return cls(mean, error, lowest, int(min(within.min(initial=lowest), lowest)))


def mean_and_error(values: Array, weights: Array) -> tuple[Array, Array]:
    """Weighted mean over the folds, and its standard error, (L,) each, of (L, K); as glmnet has them."""
    total = weights.sum(axis=1)
    mean = (values * weights).sum(axis=1) / total
    variance = ((values - mean[:, None]) ** 2 * weights).sum(axis=1) / total
    return mean, np.sqrt(variance / (values.shape[1] - 1))


def nonzero(coefficients: Sequence[Array] | Array) -> list[int]:
    """How many features have a coefficient other than 0, of each model's (c, n)."""
    return [int(np.count_nonzero(np.abs(W).max(axis=0))) for W in coefficients]
