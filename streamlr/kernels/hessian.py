"""Second derivatives of the loss over a leaf.

one output:      H = [X; 1] diag(A') [X; 1]ᵀ
coupled outputs: H = Σ over examples of [x; 1] [x; 1]ᵀ ⊗ (diag(a) - a aᵀ)
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.families import Family

Array = NDArray[np.float64]

_PRODUCT_BYTES = 32 * 2**20


def hessian_leaf_rows(leaf_rows: int, n: int, c: int) -> int:
    """Rows of a leaf of which the Hessian is summed too.

    What a leaf costs beside its rows is the size of a Hessian, so there are many; but of coupled
    outputs every example makes a column of (n + 1) c numbers, so there are no more than those have
    room.
    """
    return (
        max(leaf_rows, n)
        if c == 1
        else max(64, min(max(leaf_rows, n), _PRODUCT_BYTES // (8 * (n + 1) * c)))
    )


def hessian_of(X: Array, A: Array, family: Family, weights: Array | None) -> Array:
    """Second derivatives by (W, b), ((n + 1) c, (n + 1) c), the output running fastest; ``X``, (n,
    k), is overwritten.

    Parameters
    ----------
    X, A
        Features, (n, k), and activation, (c, k).
    family
        Whose loss it is.
    weights
        Sample weights, (k,), if any.
    """
    if family.coupled:
        return _coupled(X, A, weights)
    return weighted_squares(
        X, family.curvature(A)[0] if weights is None else family.curvature(A)[0] * weights
    )


def weighted_squares(X: Array, d: Array) -> Array:
    """[X; 1] diag(d) [X; 1]ᵀ, (n + 1, n + 1), of d, (k,), 0 or above; ``X``, (n, k), is
    overwritten."""
    n = X.shape[0]
    H = np.empty((n + 1, n + 1))
    H[:n, n] = H[n, :n] = X @ d
    H[n, n] = d.sum()
    X *= np.sqrt(d)
    H[:n, :n] = (
        X @ X.T
    )  # NumPy hands a product with its own transpose to a symmetric rank-k update: half the work
    return H


def _coupled(X: Array, A: Array, weights: Array | None) -> Array:
    (n, k), c = X.shape, len(A)
    whole = np.empty((n + 1, k))
    whole[:n], whole[n] = X, 1.0
    root = np.ones(k) if weights is None else np.sqrt(weights)
    columns = ((whole * root)[:, None, :] * A).reshape((n + 1) * c, k)
    H: Array = columns @ columns.T
    np.negative(H, out=H)
    by_output = H.reshape(n + 1, c, n + 1, c)
    for output in range(c):
        scaled = whole * (root * np.sqrt(A[output]))
        by_output[:, output, :, output] += scaled @ scaled.T
    return H
