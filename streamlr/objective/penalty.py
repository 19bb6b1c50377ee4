"""The penalty and the bounds, feature by feature, and what they are to a solver.

    (l2/2) Σ r w² + l1 Σ r |w|,   lower <= w <= upper

r are the factors of the features: those of ``model.penalty.factors``, as they are (glmnet divides
them by their mean; here a factor of 1 means the strength itself), and with ``standardize`` l2 is
applied to σ w and l1 to σ |w|, with the spreads σ. The intercept has no penalty and no bounds. All
of it is separable in coordinates V = scale * W, where |w| = |v| / scale.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamlr.config.feature_values import BoundsConfig, spread_over_features
from streamlr.config.sections import ModelConfig
from streamlr.errors import ConfigError

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Penalty:
    """One number for each feature, by its coefficient in some units."""

    l2: Array
    """Strength of the square, (n,)."""
    l1: Array
    """Strength of the absolute value, (n,)."""
    lower: Array
    """Smallest coefficient, (n,); -inf for none."""
    upper: Array
    """Largest coefficient, (n,); inf for none."""

    @classmethod
    def of(cls, model: ModelConfig, n_features: int) -> Penalty:
        """By the coefficients of a model whose features are numbers by now."""
        penalty, bounds = model.penalty, model.bounds
        factors = spread_over_features(penalty.factors, "model.penalty.factors", n_features, None)
        lower = spread_over_features(bounds.lower, "model.bounds.lower", n_features, None)
        upper = spread_over_features(bounds.upper, "model.bounds.upper", n_features, None)
        return cls(penalty.l2 * factors, penalty.l1 * factors, lower, upper)

    def per(self, unit: Array, spread: Array) -> Penalty:
        """The same by coefficients times ``unit``, where the penalty is that of coefficients times
        ``spread``, (n,) each."""
        return Penalty(
            self.l2 * (spread / unit) ** 2,
            self.l1 * (spread / unit),
            self.lower * unit,
            self.upper * unit,
        )

    @property
    def bounded(self) -> NDArray[np.bool_]:
        """Which coefficients cannot grow without end, (n,)."""
        box = np.isfinite(self.lower) & np.isfinite(self.upper)
        bounded: NDArray[np.bool_] = (self.l2 > 0) | (self.l1 > 0) | box
        return bounded

    def is_recession_direction(self, V: Array) -> bool:
        """Whether coefficients, (n, c), may be multiplied by any number at no cost: then what they
        separate has no optimum."""
        return not ((V != 0) & ~self.free(V)).any()

    def free(self, V: Array) -> NDArray[np.bool_]:
        """Which coefficients, (n, c), may go on in their own direction for ever, at no cost."""
        bounded = np.isfinite(np.where(V > 0, self.upper[:, None], self.lower[:, None]))
        free: NDArray[np.bool_] = ~(bounded | (self.l2 > 0)[:, None] | (self.l1 > 0)[:, None])
        return free


def with_features_by_number(
    model: ModelConfig, n_features: int, names: tuple[str, ...] | None
) -> ModelConfig:
    """The model with a list in the place of every mapping of features.

    Raises
    ------
    ConfigError
        For a list of another length than the data have features, a feature that is not there, or
        bounds that exclude each other.
    """
    penalty, bounds = model.penalty, model.bounds
    if penalty.factors is not None:
        factors = spread_over_features(penalty.factors, "model.penalty.factors", n_features, names)
        penalty = replace(penalty, factors=factors.tolist())
    if not bounds.given:
        return replace(model, penalty=penalty)
    lower = spread_over_features(bounds.lower, "model.bounds.lower", n_features, names)
    upper = spread_over_features(bounds.upper, "model.bounds.upper", n_features, names)
    wrong = np.flatnonzero(lower > upper)
    if len(wrong):
        j = int(wrong[0])
        feature = j if names is None else repr(names[j])
        raise ConfigError(
            f"model.bounds: lower is {lower[j]:g} and upper {upper[j]:g} for feature {feature} "
            f"({len(wrong)} in all); "
            "lower must not be above upper"
        )
    given = (
        None if bounds.lower is None else lower.tolist(),
        None if bounds.upper is None else upper.tolist(),
    )
    return replace(model, penalty=penalty, bounds=BoundsConfig(*given))
