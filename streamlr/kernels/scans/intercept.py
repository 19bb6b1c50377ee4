"""What a model of an intercept alone comes to beside an offset: sums that read no features."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.batch import Batch, Workspace, sum_over_leaves
from streamlr.kernels.families import FAMILIES

Array = NDArray[np.float64]

_LEAST_ROWS = 65_536


@dataclass(frozen=True, slots=True)
class InterceptSums:
    """Sums over some examples at one intercept: a commutative monoid."""

    weight_sum: float
    """Their weight."""
    activation_sum: float
    """Weighted activations."""
    curvature_sum: float
    """Weighted derivatives of them by the intercept."""
    least: float
    """Smallest offset that has weight."""
    most: float
    """Largest."""

    def __add__(self, other: InterceptSums) -> InterceptSums:
        return InterceptSums(
            self.weight_sum + other.weight_sum,
            self.activation_sum + other.activation_sum,
            self.curvature_sum + other.curvature_sum,
            min(self.least, other.least),
            max(self.most, other.most),
        )


@dataclass(frozen=True, slots=True)
class InterceptScan:
    """Asks for the mean activation at an intercept; of families of one output."""

    reads_features = False
    reads_target = True

    family: str
    """Name of the family."""
    intercept: float
    """Added to every offset."""

    def sums(self, batch: Batch, leaf_rows: int, workspace: Workspace) -> InterceptSums:
        """The sums over a batch: its leaves, added from first to last."""
        del workspace
        return sum_over_leaves(
            batch, max(leaf_rows, _LEAST_ROWS), lambda leaf: self._leaf_sums(batch, leaf)
        )

    def _leaf_sums(self, batch: Batch, leaf: slice) -> InterceptSums:
        offset, weights = batch.offset_of(leaf), batch.weights_of(leaf)
        assert offset is not None
        if weights is not None:
            offset, weights = offset[weights > 0], weights[weights > 0]
        omega = np.ones(len(offset)) if weights is None else weights
        family = FAMILIES[self.family]
        with np.errstate(over="ignore"):  # a far too large intercept tells so by an infinite sum
            A = family.activate(self.intercept + offset[None, :])
            activation, curvature = float(A[0] @ omega), float(family.curvature(A)[0] @ omega)
        return InterceptSums(
            float(omega.sum()),
            activation,
            curvature,
            float(offset.min(initial=np.inf)),
            float(offset.max(initial=-np.inf)),
        )
