"""How near features are to being combinations of one another, from their correlations or from rows
in memory.

With features in units of their spread, and about their means where there is an intercept, σ is the
factor by which they stretch a unit vector of coefficients; the largest over the smallest σ is their
condition number. Mean products of the features tell σ down to 1e-7, where the rounding of σ²
begins. From there on rows tell: the few combinations that hardly vary are taken row by row, and
their singular values are exact to the rounding of a row.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.intp]

_EPS = float(np.finfo(np.float64).eps)
NEARLY = 1e-3
"""A combination that varies less, relative to the features, is told from them in coordinates of its
own alone."""
UNTOLD = 1e-6
"""One that varies less is not told well by mean products."""
EXACTLY = 64 * _EPS
"""One that varies less is rounding."""
_BLOCK_ROWS = 4096
_CHEAP_PRODUCTS = 1e9
"""Rows times features squared up to which products are summed in some hundredths of a second."""
_LEAST_ROWS_PER_FEATURE = 6
_SINGLE_FEATURES = 512
"""From here on single precision has to do."""
_OF_SINGLE = 3e-3
"""The least σ that such products tell."""
_MOST_WEAK = 256
"""Directions that are looked at."""


@dataclass(frozen=True, slots=True)
class Extent:
    """What mean products of features tell of how far they stretch coefficients."""

    largest: float
    """Largest σ."""
    smallest: float
    """Smallest σ."""
    weak: Array
    """Unit vectors of coefficients along which they hardly vary, (n, q)."""
    sizes: Array
    """σ of these, (q,), as far as products tell it."""


def units_of(spread: Array, mean: Array, centered: bool) -> Array:
    """What features are divided by, (n,): their spread about the mean, or about 0 where there is no
    intercept; 1 where that is 0."""
    size = spread if centered else np.hypot(spread, mean)
    return np.where(size > 0, size, 1.0)


def products_of(correlation: Array, spread: Array, mean: Array, centered: bool) -> Array:
    """Mean products of features in these units, (n, n), from their correlations about the means."""
    if centered:
        return correlation
    unit = units_of(spread, mean, centered)
    return correlation * np.outer(spread / unit, spread / unit) + np.outer(mean / unit, mean / unit)


def extent_of_rows(
    X: NDArray[np.generic], weights: Array | None, mean: Array, unit: Array, centered: bool
) -> Extent | None:
    """The extent of features, (n,), by some of their rows, (s, n); None where none varies there.

    Products are taken in units of the spread among these rows, in which the most is told, and the
    directions from there to those of all rows.
    """
    products, own = _products_of_rows(X, weights, mean, unit, centered)
    found = extent_of(products)
    if found is None or not found.weak.shape[1]:
        return found
    return replace(found, weak=np.linalg.qr(found.weak / own[:, None])[0])


def _products_of_rows(
    X: NDArray[np.generic], weights: Array | None, mean: Array, unit: Array, centered: bool
) -> tuple[Array, Array]:
    """Mean products, (n, n), in units of the spread among some of the rows, (s, n), and these in
    the given ones, (n,).

    Of a feature that does not vary there they are 0 and infinity.
    """
    rows, n = X.shape
    step = max(1, int(rows * n**2 / max(_CHEAP_PRODUCTS, _LEAST_ROWS_PER_FEATURE * float(n) ** 3)))
    total, sums, weight = np.zeros((n, n)), np.zeros(n), 0.0
    for start in range(0, rows, _BLOCK_ROWS * step):
        at = slice(start, start + _BLOCK_ROWS * step, step)
        Z = standardized(X[at], mean, unit, centered)
        omega = np.ones(len(Z)) if weights is None else weights[at]
        sums += omega @ Z
        weight += float(omega.sum())
        if weights is not None:
            Z *= np.sqrt(omega)[:, None]
        half = Z if n < _SINGLE_FEATURES else Z.astype(np.float32)
        total += half.T @ half
    if centered and weight > 0:
        total -= np.outer(sums / weight, sums)
    square = np.diag(total) / (weight or 1.0)
    own = np.sqrt(np.where(square > EXACTLY**2, square, np.inf))
    return total / (weight or 1.0) / own[:, None] / own, own


def standardized(X: NDArray[np.generic], mean: Array, unit: Array, centered: bool) -> Array:
    """Rows, (k, n), in float64, about the mean or not, and in these units."""
    Z = X.astype(np.float64)
    if centered:
        Z -= mean
    Z /= unit
    return Z


def extent_of(products: Array) -> Extent | None:
    """The extent of features from their mean products, (n, n), 0 for those that do not vary; None
    where none varies."""
    alive = np.flatnonzero(np.diag(products) > 0)
    if not len(alive):
        return None
    part = products[np.ix_(alive, alive)]
    values = np.linalg.eigvalsh(part)
    least = NEARLY if len(products) < _SINGLE_FEATURES else _OF_SINGLE
    count = min(int(np.count_nonzero(values < least**2)), _MOST_WEAK)
    weak = np.zeros((len(products), count))
    if count:
        weak[alive] = np.linalg.eigh(part)[1][:, :count]
    sizes = np.sqrt(np.maximum(values, 0.0))
    return Extent(float(sizes[-1]), float(sizes[0]), weak, sizes[:count])


def sharpened(
    weak: Array,
    X: NDArray[np.generic],
    weights: Array | None,
    mean: Array,
    unit: Array,
    centered: bool,
) -> tuple[Array, Array]:
    """Weak directions, (n, q), turned so that they are uncorrelated in some rows, (s, n), and σ of
    each there, (q,), from the largest on."""
    omega = np.ones(len(X)) if weights is None else weights
    parts = [
        standardized(X[at : at + _BLOCK_ROWS], mean, unit, centered) @ weak
        for at in range(0, len(X), _BLOCK_ROWS)
    ]
    P = np.concatenate(parts)
    weight = float(omega.sum())
    if centered:
        P -= omega @ P / weight
    P *= np.sqrt(omega / weight)[:, None]
    _, sizes, turn = np.linalg.svd(np.linalg.qr(P, mode="r"))
    return weak @ turn.T, sizes


def pivots_of(directions: Array) -> tuple[Index, Array]:
    """A feature for each of some directions, (n, q), by elimination with complete pivoting, (q,);
    and the directions that it leaves, (n, q), with 1 at one of them and 0 at the others."""
    left, q = directions.copy(), directions.shape[1]
    pivots, free = np.empty(q, dtype=np.intp), np.ones(len(left), dtype=bool)
    for k in range(q):
        rest = np.abs(left[:, k:]) * free[:, None]
        row, column = divmod(int(np.argmax(rest)), q - k)
        left[:, [k, k + column]] = left[:, [k + column, k]]
        pivots[k], free[row] = row, False
        left[:, k] /= left[row, k]
        others = np.arange(q) != k
        left[:, others] -= np.outer(left[:, k], left[row, others])
    return pivots, left
