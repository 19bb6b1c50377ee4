"""The curvature of a quadratic model: a Hessian that was had cheaply, corrected by the pairs (s, y)
of BFGS, written out as a sum.

    B = H + Σ σ w wᵀ,   w = y / √(yᵀs), σ = 1,  and  w = B s / √(sᵀ B s), σ = -1,  for each pair

(Nocedal and Wright, "Numerical Optimization", 2nd ed., eq. 6.19.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Index = NDArray[np.intp]

_RIDGE = 1e-11
"""Of the diagonal: far below any curvature that matters, and above the rounding of a Hessian that
is singular."""


@dataclass(frozen=True, slots=True)
class Curvature:
    """B = H + Σ σ w wᵀ."""

    hessian: Array
    """H without ``added``: its diagonal, (d,), or whole, (d, d); never written to."""
    added: Array
    """What is added to its diagonal, (d,)."""
    vectors: Array
    """w, (K, d)."""
    signs: Array
    """σ, (K,)."""

    def product(self, p: Array) -> Array:
        """B p, (d,)."""
        first = self.hessian @ p if self.hessian.ndim == 2 else self.hessian * p
        return first + self.added * p + self.vectors.T @ (self.signs * (self.vectors @ p))

    @property
    def diagonal(self) -> Array:
        """Of B, (d,), positive."""
        own = np.diag(self.hessian) if self.hessian.ndim == 2 else self.hessian
        diagonal = own + self.added + self.signs @ self.vectors**2
        least = 1e-10 * float(diagonal.max(initial=0.0))
        return np.maximum(diagonal, least if least > 0 else 1.0)

    def part(self, at: Index) -> Array:
        """Rows and columns of B, (k, k)."""
        assert self.hessian.ndim == 2
        W = self.vectors[:, at]
        B = self.hessian[np.ix_(at, at)]
        B += W.T @ (self.signs[:, None] * W)
        B[np.arange(len(at)), np.arange(len(at))] += self.added[at] + _RIDGE * np.abs(np.diag(B))
        return B

    def rows(self, at: Index) -> Array:
        """Rows of B, (k, d), with the same ridge."""
        assert self.hessian.ndim == 2
        rows: Array = self.hessian[at]
        if len(self.signs):
            rows += (self.vectors[:, at].T * self.signs) @ self.vectors
        here = np.arange(len(at))
        rows[here, at] += self.added[at]
        rows[here, at] += _RIDGE * np.abs(rows[here, at])
        return rows

    def solve(self, at: Index, rhs: Array) -> Array:
        """The inverse of a part of B times ``rhs``, (k,)."""
        if self.hessian.ndim == 2:
            return np.asarray(np.linalg.solve(self.part(at), rhs), dtype=np.float64)
        inverse, W = 1.0 / (self.hessian + self.added)[at], self.vectors[:, at]
        small = (
            np.diag(self.signs) + (W * inverse) @ W.T
        )  # Woodbury; the inverse of a sign is itself
        return inverse * rhs - inverse * (W.T @ np.linalg.solve(small, W @ (inverse * rhs)))


def curvature_of(hessian: Array, added: Array, steps: Array, changes: Array) -> Curvature:
    """B from a Hessian, (d,) or (d, d), and the last steps.

    A diagonal is a guess and takes the size that the last pair tells; a matrix has the right size
    already.

    Parameters
    ----------
    hessian, added
        H is their sum: its diagonal, (d,), or the whole, (d, d); and what is added to its diagonal,
        (d,).
    moves, changes
        s and y of the last steps, oldest first, (M, d), with sᵀy > 0.
    """
    if hessian.ndim == 1:
        hessian, added = hessian + added, np.zeros_like(added)
        if len(steps):
            hessian = hessian * float(
                (changes[-1] @ (changes[-1] / hessian)) / (steps[-1] @ changes[-1])
            )
    B = Curvature(hessian, added, np.empty((0, len(added))), np.empty(0))
    for s, y in zip(steps, changes, strict=True):
        Bs = B.product(s)
        size = float(s @ Bs)
        if not size > 0:
            continue
        B = replace(
            B,
            vectors=np.vstack([B.vectors, Bs / np.sqrt(size), y / np.sqrt(s @ y)]),
            signs=np.append(B.signs, [-1.0, 1.0]),
        )
    return B
