"""From sums over the data to the covariance of the coefficients, in the units of the data.

Parameters come in as those of features less their center, where the information loses no digits to
a mean that is far larger than a spread, and the intercept there, u = b + centerᵀ W. With S =
diag(H)^½ and the Cholesky factor of S⁻¹ H S⁻¹ = L Lᵀ,

    H⁻¹ = (L⁻¹ S⁻¹)ᵀ (L⁻¹ S⁻¹)

so that every variance is a sum of squares. T takes u to b: cov = T H⁻¹ Tᵀ, or with a meat M the
sandwich T H⁻¹ M H⁻¹ Tᵀ.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamlr.errors import DataError, NonFiniteError

Array = NDArray[np.float64]

_SINGULAR = 1e-11
"""A feature is a combination of others when they leave it no more than this share of its
information: fewer than five digits of it were left."""
_NAMED = 1e-4
"""Share of the largest part that a feature must have in such a combination to be named."""
_MOST_NAMED = 8

CORRECTIONS = ("statsmodels", "stata", "R-HC1", "R-HC0", "none")
"""Whose small-sample factor a sandwich has."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Where parameters stand: coefficients of the features, (n, c), then intercepts, (c,), if any;
    the output runs fastest."""

    names: tuple[str, ...]
    """Names of the features, (n,)."""
    n_outputs: int
    """c, without the output that the others are compared with."""
    fit_intercept: bool

    @property
    def n_features(self) -> int:
        return len(self.names)

    @property
    def size(self) -> int:
        return (self.n_features + self.fit_intercept) * self.n_outputs

    @property
    def n_slopes(self) -> int:
        """Number of coefficients of features, which come first."""
        return self.n_features * self.n_outputs

    def name(self, parameter: int) -> str:
        """What messages call it."""
        feature = parameter // self.n_outputs
        return repr(self.names[feature]) if feature < self.n_features else "the intercept"


def small_sample_factor(correction: str, *, linear: bool, n: float, d: int, groups: int) -> float:
    """What a sandwich of HC1 (``groups`` is 0) or of groups is multiplied by, as programs have it.

    ==========  =====================================  ============================================
    correction  HC1                                    clustered
    ==========  =====================================  ============================================
    statsmodels n/(n-d)                                G/(G-1) (n-1)/(n-d)
    stata       n/(n-d) of linear, else n/(n-1)        G/(G-1) (n-1)/(n-d) of linear, else G/(G-1)
    R-HC1       n/(n-d)                                G/(G-1) (n-1)/(n-d)
    R-HC0                                              G/(G-1)
    none                                               1
    ==========  =====================================  ============================================

    R's are those of the package sandwich: ``vcovHC(type="HC1")`` and ``vcovCL(type=...,
    cadjust=TRUE)``, whose default is HC1 for ``lm`` and HC0 for ``glm``; Stata's those of
    ``vce(robust)`` and ``vce(cluster)``.
    """
    by_parameters = correction in ("statsmodels", "R-HC1") or (correction == "stata" and linear)
    if not groups:
        return n / (n - d) if by_parameters else n / (n - 1)
    if correction == "none":
        return 1.0
    by_groups = groups / (groups - 1)
    return by_groups * (n - 1) / (n - d) if by_parameters else by_groups


class Bread:
    """The inverse of the information.

    Parameters
    ----------
    information
        H, (d, d), of centered features.
    layout
        What its rows are.
    center
        What was taken from the features, (n,); 0 where there is no intercept.

    Raises
    ------
    DataError
        When it is singular; names the features.
    NonFiniteError
        When it holds infinities.
    """

    def __init__(self, information: Array, layout: Layout, center: Array) -> None:
        d = layout.size
        H = information[:d, :d]
        scale = np.sqrt(np.diag(H))
        if not np.isfinite(scale).all():
            raise NonFiniteError(
                "the information of the model is not finite; rescale the features, or drop those "
                "with absurd values, and train again"
            )
        if not (scale > 0).all():
            raise _singular(layout, [int(np.argmin(scale))])
        C = H / scale[:, None]
        C /= scale
        self._half = np.linalg.inv(_factor(C, layout)) / scale  # L⁻¹ S⁻¹
        self._half_in_units = self._half.copy()
        if layout.fit_intercept:
            n, c = layout.n_features, layout.n_outputs
            by_output = self._half[:, : n * c].reshape(d, n, c)
            self._half_in_units[:, n * c :] -= np.einsum("ijk,j->ik", by_output, center)

    def step(self, score: Array) -> Array:
        """H⁻¹ g, (d,): what a step of Newton's method would take from the parameters of centered
        features."""
        return self._half.T @ (self._half @ score[: len(self._half)])

    def variances_of_centered(self) -> Array:
        """Diagonal of H⁻¹, (d,)."""
        variances: Array = (self._half**2).sum(axis=0)
        return variances

    def classical(self) -> Array:
        """T H⁻¹ Tᵀ, (d, d)."""
        return self._half_in_units.T @ self._half_in_units

    def sandwich(self, meat: Array) -> Array:
        """T H⁻¹ M H⁻¹ Tᵀ, (d, d), of M."""
        d = len(self._half)
        P = self._half_in_units.T @ self._half
        covariance: Array = P @ meat[:d, :d] @ P.T
        return 0.5 * (covariance + covariance.T)

    def clustered(self, sums: Array) -> Array:
        """The same of the scores of groups, (g, d), of which M is the sum of squares."""
        Q = sums[:, : len(self._half)] @ self._half.T @ self._half_in_units
        return Q.T @ Q


def _factor(C: Array, layout: Layout) -> Array:
    """L of C = L Lᵀ, whose diagonal is 1: the square of an entry of L's diagonal is the share that
    earlier parameters leave of that one."""
    try:
        L: Array = np.linalg.cholesky(C).astype(np.float64, copy=False)
    except np.linalg.LinAlgError:
        raise _singular(layout, _combination(C)) from None
    if np.diag(L).min() ** 2 < _SINGULAR:
        raise _singular(layout, _combination(C))
    return L


def _singular(layout: Layout, parameters: list[int]) -> DataError:
    named = list(dict.fromkeys(map(layout.name, parameters)))
    listed = ", ".join(named[:_MOST_NAMED]) + (
        f" and {len(named) - _MOST_NAMED} more" if len(named) > _MOST_NAMED else ""
    )
    if len(named) == 1:
        return DataError(
            f"the data tell nothing of the coefficient of {listed}, so it has no standard error: "
            "the feature is constant, or counts only where "
            "the model is certain; leave it out and train again"
        )
    return DataError(
        f"each of {listed} is a combination of the others, so their coefficients have no standard "
        "errors; leave one of them out and train again"
    )


def _combination(C: Array) -> list[int]:
    """The first parameter that is a combination of earlier ones, and these."""
    held = C + 10 * _SINGULAR * np.eye(len(C))
    left = np.diag(np.linalg.cholesky(held)) ** 2
    first = int(np.argmax(left <= 1e3 * left.min()))
    if first == 0:
        return [0]
    parts = np.abs(np.linalg.solve(held[:first, :first], C[:first, first]))
    return [*np.flatnonzero(parts > _NAMED * parts.max()).tolist(), first]
