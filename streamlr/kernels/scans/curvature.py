"""The Hessian of coupled outputs, which is too large to be written down, by what it does to a
direction.

    T  = Pᵀ X                    (c, k)     P, (n, c), the direction
    dT = A * (T - sum(A * T))    (c, k)     the sum over the classes
    HP = X · dTᵀ                 (n, c)

It is the mean over examples of [x; 1] [x; 1]ᵀ ⊗ (diag(a) - a aᵀ), and near the product of the two
means, which are small. These sums make a metric and nothing else, so half the digits are enough:
leaves are single precision, sums double.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.alignment import Basis, aligned_features
from streamlr.kernels.batch import Batch, Workspace, sum_over_leaves
from streamlr.kernels.families import FAMILIES

Array = NDArray[np.float64]
Single = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PairSums:
    """Two sums of arrays: a commutative monoid."""

    first: Array
    second: Array

    @property
    def finite_check(self) -> Array:
        return self.first

    def __add__(self, other: PairSums) -> PairSums:
        return PairSums(self.first + other.first, self.second + other.second)


@dataclass(frozen=True, slots=True)
class CurvatureScan:
    """Asks for HP, (n, c) and (c,), in standardised features; without a direction for the two means
    of which H is nearly the product.

    These are sums of [x; 1] [x; 1]ᵀ, (n + 1, n + 1), and of diag(a) - a aᵀ, (c, c).
    """

    reads_features = True
    reads_target = True

    family: str
    """Name of the family."""
    center: Array
    """Taken from every feature, (n,)."""
    scale: Array
    """What it is then divided by, (n,)."""
    coefficients: Array
    """V at which the curvature is taken, (n, c), of standardised features."""
    intercepts: Array
    """u there, (c,)."""
    direction: tuple[Array, Array] | None = None
    """P, (n, c) and (c,)."""
    basis: Basis | None = None
    """The features that all of these are of, where they are not those of the data; the center is
    then that of features less its shift."""

    def sums(self, batch: Batch, leaf_rows: int, workspace: Workspace) -> PairSums:
        """The sums over a batch: its leaves, added from first to last."""
        return sum_over_leaves(
            batch, leaf_rows, lambda leaf: self._leaf_sums(batch, leaf, workspace)
        )

    def _leaf_sums(self, batch: Batch, leaf: slice, workspace: Workspace) -> PairSums:
        X: Single = np.divide(
            self._centered(batch, leaf, workspace),
            self.scale[:, None],
            dtype=np.float32,
            casting="same_kind",
        )
        activate: Callable[[Single], Single] = cast(
            Any, FAMILIES[self.family].activate
        )  # it keeps the precision it is given
        A = activate(_linear(X, self.coefficients, self.intercepts))
        weights = batch.weights_of(leaf)
        omega = (
            np.ones(X.shape[1], dtype=np.float32) if weights is None else weights.astype(np.float32)
        )
        if self.direction is None:
            return PairSums(
                _second_moments(X, omega),
                np.diag((A @ omega).astype(np.float64)) - (A * omega) @ A.T,
            )
        T = _linear(X, *self.direction)
        T -= np.einsum("ck,ck->k", A, T)
        T *= A
        T *= omega
        return PairSums((X @ T.T).astype(np.float64), T.sum(axis=1, dtype=np.float64))

    def _centered(self, batch: Batch, leaf: slice, workspace: Workspace) -> NDArray[np.float64]:
        if self.basis is None:
            return workspace.cast(batch.X[:, leaf], self.center)
        X = aligned_features(workspace, batch.X[:, leaf], None, self.basis)
        X -= self.center[:, None]
        return X


def _linear(X: Single, W: Array, b: Array) -> Single:
    Z: Single = W.astype(np.float32).T @ X
    Z += b.astype(np.float32)[:, None]
    return Z


def _second_moments(X: Single, omega: Single) -> Array:
    """Sum of [x; 1] [x; 1]ᵀ, (n + 1, n + 1)."""
    n = X.shape[0]
    S = np.empty((n + 1, n + 1))
    S[:n, n] = S[n, :n] = X @ omega
    S[n, n] = omega.sum(dtype=np.float64)
    X *= np.sqrt(omega)
    S[:n, :n] = X @ X.T
    return S
