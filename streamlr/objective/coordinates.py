"""Coordinates that suit a solver: what its parameters are of, and what they stand for in the units
of the data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamlr.errors import ShapeError
from streamlr.kernels.alignment import Basis
from streamlr.kernels.pairs import Pair, two_sum
from streamlr.objective.moments import Moments

Array = NDArray[np.float64]

_NEARLY_CONSTANT = 100.0
"""Spreads from 0 from which on a feature is."""


@dataclass(frozen=True, slots=True)
class Coordinates:
    """Parameters (V, u) with V = scale * W and u = b + centerᵀ W; there is no u where there is no
    intercept."""

    center: Array
    """(n,); zero where there is no intercept, since moving the features would change the model."""
    scale: Array
    """(n,), positive."""
    n_outputs: int
    """c."""
    fit_intercept: bool
    basis: Basis | None = None
    """The features that W are coefficients of, where they are not those of the data."""

    @property
    def size(self) -> int:
        """Number of parameters."""
        return (len(self.scale) + self.fit_intercept) * self.n_outputs

    def split(self, parameters: Array) -> tuple[Array, Array]:
        """V, (n, c), and u, (c,), of a vector of parameters."""
        n, c = len(self.scale), self.n_outputs
        return parameters[: n * c].reshape(n, c), parameters[
            n * c :
        ] if self.fit_intercept else np.zeros(c)

    def join(self, V: Array, u: Array) -> Array:
        return np.concatenate([V.ravel(), u]) if self.fit_intercept else V.ravel().copy()

    def to_data_units(self, parameters: Array) -> tuple[Array, Array]:
        """W, (n, c), and b, (c,), in the units of the data; of (2, d), whose second row is what the
        first one lacks, to the last digit."""
        if parameters.ndim == 2:
            return self._rounded_once(two_sum(*parameters))
        V, u = self.split(parameters)
        W = V / self.scale[:, None]
        b = u - self.center @ W
        return (W if self.basis is None else self.basis.to_features(W)), b

    def _rounded_once(self, whole: Pair) -> tuple[Array, Array]:
        n, c = len(self.scale), self.n_outputs
        W = Pair(whole.hi[: n * c].reshape(n, c), whole.lo[: n * c].reshape(n, c)) / Pair.of(
            self.scale[:, None]
        )
        u = whole[n * c :] if self.fit_intercept else Pair.zeros(c)
        return W.hi, (u - (Pair.of(self.center[:, None]) * W).total(axis=0)).hi

    def from_data_units(self, W: Array, b: Array) -> Array:
        """The parameters of W, (n, c), and b, (c,).

        Raises
        ------
        ShapeError
            For those of another number of features or outputs.
        """
        if W.shape != (len(self.scale), self.n_outputs):
            raise ShapeError(
                f"the model to start from has coefficients of the shape {W.T.shape}; these data "
                f"want ({self.n_outputs}, {len(self.scale)})"
            )
        W = W if self.basis is None else self.basis.from_features(W)
        return self.join(W * self.scale[:, None], b + self.center @ W)


def spreads_in_penalty(moments: Moments, fit_intercept: bool) -> Array:
    """What coefficients are multiplied by where the penalty is that of standardised features, (n,);
    a constant feature keeps its size."""
    still = np.where(fit_intercept | (moments.mean == 0), 1.0, np.abs(moments.mean))
    return np.where(moments.spread > 0, moments.spread, still)


def standard_coordinates(
    moments: Moments, fit_intercept: bool, *, by_size: bool = False
) -> Coordinates:
    """Coordinates in which features have mean 0 (with an intercept) and spread 1; a constant
    feature keeps its size.

    Without an intercept a feature far from 0 is nearly constant: with ``by_size`` it is its size
    that counts.
    """
    scale, size = spreads_in_penalty(moments, fit_intercept), np.abs(moments.mean)
    if by_size and not fit_intercept:
        scale = np.where(size > _NEARLY_CONSTANT * moments.spread, size, scale)
        scale = np.where(scale > 0, scale, 1.0)
    center = moments.mean if fit_intercept else np.zeros_like(scale)
    return Coordinates(center, scale, len(moments.target_mean), fit_intercept, moments.basis)


def data_coordinates(moments: Moments, fit_intercept: bool) -> Coordinates:
    """Coordinates that are W and b themselves."""
    n = len(moments.mean)
    return Coordinates(np.zeros(n), np.ones(n), len(moments.target_mean), fit_intercept)
