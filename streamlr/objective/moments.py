"""What the statistics pass tells of the data, in the form in which objectives and reports use
it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.alignment import Basis
from streamlr.kernels.scans.fold_sums import spread_of
from streamlr.kernels.scans.moments import MomentSums
from streamlr.solvers.state import kept_as

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Moments:
    """What the statistics pass tells of the data, but for the rows that it was told to hold out."""

    n_rows: int
    """Rows."""
    weight_sum: float
    """Their weight."""
    mean: Array
    """Weighted mean of the features, (n,)."""
    spread: Array
    """Weighted standard deviation of the features (divisor: the weight), (n,); 0 for a constant
    feature."""
    target_mean: Array
    """Weighted mean of Y, (c,)."""
    comoment: Array
    """Weighted mean of (X - mean)(Y - target_mean)ᵀ, (n, c)."""
    fingerprint: str
    """Digest of every bit of the data."""
    target_variance: Array
    """Weighted variance of Y (divisor: the weight), (c,)."""
    offset_mean: float = 0.0
    """Weighted mean of the offset; 0 where there is none."""
    holdout_rows: int = field(default=0, metadata=kept_as("held_rows"))
    """Rows that are held out."""
    validation_weight_sum: float = field(default=0.0, metadata=kept_as("held_weight_sum"))
    """Their weight."""
    holdout_target_mean: Array | None = field(default=None, metadata=kept_as("held_target_mean"))
    """Weighted mean of their Y, (c,); None where none are held out."""
    holdout_target_variance: Array | None = field(
        default=None, metadata=kept_as("held_target_variance")
    )
    """Weighted variance of their Y, (c,); None where none are held out."""
    holdout_digest: str = field(default="", metadata=kept_as("held_digest"))
    """Of which rows they are."""
    groups_digest: str = ""
    """Of the groups that deal the rows out to folds; empty where none do."""
    correlation: Array | None = None
    """Correlations of the features, about their means, (n, n): 1 on the diagonal, 0 in the rows and
    columns of constant features; None where their products were not summed."""
    condition_number: float | None = None
    """Of the features in units of their spread; None where that is not known."""
    collinearity: str = ""
    """Which features are combinations of one another, or nearly, for a person; empty where none
    are."""
    pivots: NDArray[np.intp] | None = None
    """Features in whose place combinations stand that hardly vary (see
    `streamlr.kernels.alignment`), of which mean, spread and co-moment then are, (r,); None where
    there are none."""
    directions: Array | None = None
    """These combinations, (n, r)."""
    shift: Array | None = None
    """What is taken from the features before they are combined, (n,)."""

    @property
    def basis(self) -> Basis | None:
        """The features that the moments are of, where they are not those of the data."""
        if self.pivots is None or self.directions is None or self.shift is None:
            return None
        return Basis(self.pivots, self.directions, self.shift)

    @classmethod
    def from_sums(cls, sums: MomentSums) -> Moments:
        spread, held = spread_of(sums.mean, sums.square_sum, sums.weight_sum), sums.holdout
        known = cls(
            sums.n_rows,
            sums.weight_sum,
            sums.mean,
            spread,
            sums.target_mean,
            sums.comoment / sums.weight_sum,
            sums.fingerprint.hex(),
            sums.target_square_sum / sums.weight_sum,
            sums.offset_mean,
            groups_digest=sums.groups_digest.hex(),
            correlation=None if sums.cross is None else _correlation(sums.cross, spread),
        )
        if held is None or not held.weight_sum > 0:
            return known
        return replace(
            known,
            n_rows=sums.n_rows - held.n_rows,
            holdout_rows=held.n_rows,
            validation_weight_sum=held.weight_sum,
            holdout_target_mean=held.target_mean,
            holdout_target_variance=held.target_square_sum / held.weight_sum,
            holdout_digest=held.digest.hex(),
        )


def _correlation(cross: Array, spread: Array) -> Array:
    """Of sums of products about the means, (n, n), scaled by their own diagonal: other sums of the
    same squares differ in their last digits."""
    varies = (spread > 0) & (np.diag(cross) > 0)
    unit = np.sqrt(np.where(varies, np.diag(cross), np.inf))
    correlation = np.empty_like(cross)
    for row, divisor in enumerate(unit):  # by rows: there is not always room for another matrix
        np.divide(cross[row] / divisor, unit, out=correlation[row])
    np.fill_diagonal(correlation, varies)
    return correlation
