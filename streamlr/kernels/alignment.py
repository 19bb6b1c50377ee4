"""Features of which some combinations hardly vary, in a basis in which all of them do.

Where x₃ is nearly x₀ + x₁, no sum tells from the coefficients of the three which way is up along
(1, 1, -1): what counts there is lost in the rounding of what does not. So a feature of each such
combination, its pivot, gives way to the combination itself, taken row by row:

    x'_j = d_jᵀ (x - shift),   x' = x elsewhere;        Z = Wᵀ x + b = W'ᵀ x' + b',   W = W'
    elsewhere + Σ_j W'_j d_j

In units of its own spread that is a feature like any other.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.batch import Workspace

Array = NDArray[np.float64]
Index = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Basis:
    """Combinations of features, and those in whose place they stand."""

    pivots: Index
    """j, the features that give way, (r,)."""
    directions: Array
    """d_j, the combinations in the units of the data, (n, r)."""
    shift: Array
    """Taken from every feature before they are combined, (n,)."""

    def moved(self, values: Array) -> Array:
        """Of what is linear in the features, (n, ...), such as their means, the same of x'."""
        moved = values.copy()
        moved[self.pivots] = self.directions.T @ values
        return moved

    def to_features(self, W: Array) -> Array:
        """Coefficients of the features, (n, c), of those of x', (n, c)."""
        others = W.copy()
        others[self.pivots] = 0.0
        return others + self.directions @ W[self.pivots]

    def from_features(self, W: Array) -> Array:
        """Coefficients of x', (n, c), of those of the features, (n, c)."""
        along = np.linalg.solve(self.directions[self.pivots], W[self.pivots])
        moved = W - self.directions @ along
        moved[self.pivots] = along
        return moved


def aligned_features(
    workspace: Workspace, block: NDArray[np.generic], shift: Array | None, basis: Basis | None
) -> Array:
    """Features, (n, k), in float64 less their shift, in the basis if there is one; valid until the
    workspace is used again."""
    if basis is None:
        return workspace.cast(block, shift)
    X = workspace.cast(block, basis.shift)
    X[basis.pivots] = basis.directions.T @ X
    return X
