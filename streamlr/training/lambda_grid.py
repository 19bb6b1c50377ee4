"""The strengths of a path, and what its folds say of them.

The grid is glmnet's (Friedman, Hastie and Tibshirani, "Regularization paths for generalized linear
models via coordinate descent", J. Stat. Softw. 33, 2010, section 2.5): from the smallest strength
at which l1 leaves no coefficient, evenly on the scale of logarithms.

    largest = max |gradient without penalised features, in the units of the penalty| / max(alpha,
    0.001)

Without them means at the optimum of the intercept and of the features that have no penalty, beside
the offset (see `streamlr.training.null_model`). Of a coefficient within bounds that side alone
counts to which it may move.

Of least squares too a strength λ is glmnet's, which fits the target divided by its standard
deviation s, and tells its strengths times s. In the units of the target that is

    RSS / (2 N) + λ (α Σ r |w| + (1 - α) / (2 s) Σ r w²)

so neither the grid nor what is chosen hangs on the unit of the target. Beside an offset s is that
of what it leaves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamlr.config.path import PathConfig
from streamlr.config.sections import ModelConfig
from streamlr.objective.objective import Objective
from streamlr.solvers import Evaluation, State

Array = NDArray[np.float64]

_LEAST_ALPHA = 1e-3
_ABOVE = 1.0 + 1e-7
"""By how much the largest strength is raised: at the very edge, where a threshold equals a
gradient, rounding would decide."""
_SMALLEST = 1e-4
_SMALLEST_OF_FEW_ROWS = 1e-2


def penalized(
    model: ModelConfig, strength: float, alpha: float, target_spread: float = 1.0
) -> ModelConfig:
    """The model with the penalty of a strength; ``target_spread`` is s of least squares, of all
    else 1."""
    l1, l2 = alpha * strength, (1.0 - alpha) * strength / target_spread
    return replace(model, penalty=replace(model.penalty, l1=l1, l2=l2))


def strengths(path: PathConfig, objective: Objective, start: Evaluation | State) -> Array:
    """The strengths of a path, from the largest on, (L,).

    Parameters
    ----------
    path
        What is asked for.
    objective
        Of strength 1 of l1 alone.
    start
        The model without the penalised features.
    """
    if path.lambdas is not None:
        return given_strengths(path.lambdas)
    largest = largest_strength(objective, start, path.alpha)
    few = objective.moments.n_rows <= len(objective.moments.mean)
    ratio = path.ratio or (_SMALLEST_OF_FEW_ROWS if few else _SMALLEST)
    return largest * ratio ** np.linspace(0.0, 1.0, path.count)


def given_strengths(lambdas: Sequence[float]) -> Array:
    """From the largest on, (L,)."""
    return np.sort(np.array(lambdas))[::-1].copy()


def largest_strength(objective: Objective, start: Evaluation | State, alpha: float) -> float:
    """The smallest strength at which l1 leaves no coefficient."""
    nonsmooth, v, gradient = objective.nonsmooth, start.point, start.gradient
    unit = nonsmooth.thresholds  # what a coefficient of this parametrisation counts in the penalty
    counted = unit > 0
    may_move = np.where(gradient < 0, v < nonsmooth.upper, v > nonsmooth.lower)
    pull = np.where(may_move, np.abs(gradient), 0.0)
    slope = float((pull[counted] / unit[counted]).max(initial=0.0))
    return (
        _ABOVE * slope / max(alpha, _LEAST_ALPHA) or 1.0
    )  # 0 where no feature tells anything: any strength will do


@dataclass(frozen=True, slots=True)
class CrossValidation:
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
    def of(cls, values: Array, weights: Array, least: Array | float = 0.0) -> CrossValidation:
        """Of the losses, (L, K), of folds of these weights, (L, K); strengths fall from the first
        on.

        What no model can change of the losses, ``least``, (K,), says nothing of how sure the mean
        is.
        """
        mean, _ = mean_and_error(values, weights)
        error = mean_and_error(values - least, weights)[1]
        lowest = int(np.nanargmin(mean))
        call_with_timeout = np.flatnonzero(mean <= mean[lowest] + error[lowest])
        return cls(mean, error, lowest, int(min(call_with_timeout.min(initial=lowest), lowest)))


def mean_and_error(values: Array, weights: Array) -> tuple[Array, Array]:
    """Weighted mean over the folds, and its standard error, (L,) each, of (L, K); as glmnet has
    them.

    Folds of weight 0 have no part in it; where there is no other the mean is no number, and of one
    alone the error is none.
    """
    counted = weights > 0
    values, folds = np.where(counted, values, 0.0), counted.sum(axis=1)
    with np.errstate(invalid="ignore", divide="ignore"):
        total = weights.sum(axis=1)
        mean = (values * weights).sum(axis=1) / total
        variance = ((values - mean[:, None]) ** 2 * weights).sum(axis=1) / total
        return mean, np.sqrt(variance / (folds - 1))


def nonzero(coefficients: Sequence[Array] | Array) -> list[int]:
    """How many features have a coefficient other than 0, of each model's (c, n)."""
    return [int(np.count_nonzero(np.abs(W).max(axis=0))) for W in coefficients]
