"""Least squares in twice the working precision: residuals, their products with the features, and
the features' products.

    r  = Wᵀ (X - center) + u - Y         (k,)      Y less the offset, if any
    dW = (X - center) · (ω r)            (n,)
    du = sum(ω r)
    G  = (X - center) diag(ω) (X - center)ᵀ        where it is asked for

Rounding of residuals moves the solution by the condition of the features, rounding of the sums and
of G by its square (Björck, "Iterative refinement of linear least squares solutions I", BIT 7,
1967), so that all of them are had without either.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.batch import Batch, Workspace, sum_over_leaves
from streamlr.kernels.families.linear import Linear
from streamlr.kernels.pairs import (
    MOST_TERMS,
    SLICES,
    Pair,
    cross_product,
    power_above,
    product,
    slices,
    two_sum,
)
from streamlr.kernels.split import HOLDOUT, Split

Array = NDArray[np.float64]

LEAF_VALUES = 2**16
"""Of a leaf, which lies in memory in some ten copies."""
LEAF_VALUES_OF_PRODUCTS = 2**18
"""The same where products are summed, which are as large as there are features whatever the rows.
"""
MOST_FEATURES_OF_PRODUCTS = 512
"""Features whose products are worth being summed as pairs."""


@dataclass(frozen=True, slots=True)
class ResidualSums:
    """Sums over some rows at one point: a commutative monoid."""

    n_rows: int
    """Rows summed."""
    weight_sum: float
    """Their weight, without that of the rows that are held out, in the unit of the scan, as all
    that is weighted."""
    loss_sum: float
    """Weighted loss of these."""
    validation_weight_sum: float
    """Weight of the rows that are held out."""
    validation_loss_sum: float
    """Weighted loss of these."""
    coefficient_sum: Pair
    """dW, (n,)."""
    intercept_sum: Pair
    """du, ()."""
    products: Pair | None = None
    """G, (n, n); None where it was not asked for."""
    feature_sum: Pair | None = None
    """Weighted sum of X - center, (n,); likewise."""

    @property
    def finite_check(self) -> Array:
        return self.coefficient_sum.hi

    def __add__(self, other: ResidualSums) -> ResidualSums:
        return ResidualSums(
            self.n_rows + other.n_rows,
            self.weight_sum + other.weight_sum,
            self.loss_sum + other.loss_sum,
            self.validation_weight_sum + other.validation_weight_sum,
            self.validation_loss_sum + other.validation_loss_sum,
            self.coefficient_sum + other.coefficient_sum,
            self.intercept_sum + other.intercept_sum,
            _added(self.products, other.products),
            _added(self.feature_sum, other.feature_sum),
        )


def residual_leaf_rows(n_features: int, *, products: bool) -> int:
    """Rows of a leaf, at most."""
    values, most = (
        (LEAF_VALUES_OF_PRODUCTS, MOST_TERMS // SLICES) if products else (LEAF_VALUES, MOST_TERMS)
    )
    return max(1, min(most, values // max(1, n_features)))


def _added(first: Pair | None, second: Pair | None) -> Pair | None:
    return None if first is None or second is None else first + second


@dataclass(frozen=True, slots=True)
class ResidualScan:
    """Asks for the sums at one point of the family ``linear``."""

    reads_features = True
    reads_target = True

    coefficients: Pair
    """W, (n,)."""
    intercept: Pair
    """u, (), that goes with features less their center."""
    center: Array
    """Taken from every feature, (n,)."""
    products: bool = False
    """Whether G is wanted."""
    split: Split | None = None
    """Tells which rows are held out, where some are."""
    weight_unit: float = 1.0
    """A power of two near the weights: those at the end of the range of float64 leave no room for
    products."""

    def sums(self, batch: Batch, leaf_rows: int, workspace: Workspace) -> ResidualSums:
        """The sums over a batch: its leaves, added from first to last."""
        del workspace
        rows = min(leaf_rows, residual_leaf_rows(len(self.center), products=self.products))
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # non-finite data show in the sums, and are looked for there
            return sum_over_leaves(batch, rows, lambda leaf: self._leaf_sums(batch, leaf))

    def _leaf_sums(self, batch: Batch, leaf: slice) -> ResidualSums:
        X = two_sum(batch.X[:, leaf].T.astype(np.float64), -self.center)
        unit = power_above(np.abs(X.hi).max(axis=0))
        X = X.scaled(1.0 / unit)
        cut = slices(X)
        residual = self._residuals(batch, leaf, cut, unit)
        weights = batch.weights_of(leaf)
        omega = np.ones(len(residual.hi)) if weights is None else weights / self.weight_unit
        loss = 0.5 * residual.hi**2
        out = (
            np.zeros(len(omega), dtype=bool)
            if self.split is None
            else self.split.parts(batch, leaf) == HOLDOUT
        )
        kept = np.where(out, 0.0, omega)
        weighted = residual * Pair.of(kept)
        products = feature_sum = None
        if self.products:
            products, feature_sum = _products(X, cut, unit, kept)
        return ResidualSums(
            len(omega),
            float(kept.sum()),
            float(loss @ kept),
            float(omega[out].sum()),
            float(loss[out] @ omega[out]),
            _dots(cut, weighted).scaled(unit),
            weighted.total(),
            products,
            feature_sum,
        )

    def _residuals(self, batch: Batch, leaf: slice, cut: Array, unit: Array) -> Pair:
        """r, (k,), of features in slices, (5, k, n), in units of their own, (n,)."""
        assert batch.target is not None
        Y = Linear().target(batch.target[leaf], np.empty(0), batch.first_row + leaf.start)[0]
        offset = batch.offset_of(leaf)
        target = Pair.of(Y) if offset is None else two_sum(Y, -offset)
        return _dots(cut.swapaxes(1, 2), self.coefficients.scaled(unit)) + (self.intercept - target)


def _dots(cut: Array, x: Pair) -> Pair:
    """Aᵀ x, (p,), of a matrix in slices, (5, K, p), whose entries are at most 1, and a vector,
    (K,)."""
    size = power_above(np.abs(x.hi).max(initial=0.0))
    by = slices(x.scaled(1.0 / size))[:, :, None]
    parts = [slice(first, first + MOST_TERMS) for first in range(0, cut.shape[1], MOST_TERMS)]
    found = reduce(add, (product(cut[:, part].swapaxes(1, 2), by[:, part]) for part in parts))
    return found[:, 0].scaled(size)


def _products(X: Pair, cut: Array, unit: Array, omega: Array) -> tuple[Pair, Pair]:
    """G, (n, n), and the weighted sum of the features, (n,), of (k, n) in their units and in
    slices."""
    size, weighted = 1.0, cut
    if not (omega == 1.0).all():
        size = float(power_above(np.array(omega.max(initial=0.0))))
        weighted = slices(X * Pair.of(omega[:, None] / size))
    ones = np.zeros((SLICES, len(omega), 1))
    ones[0] = 1.0
    G, total = cross_product(weighted, cut), cross_product(weighted, ones)[:, 0]
    return G.scaled(size * unit[:, None]).scaled(unit), total.scaled(size * unit)
