"""How well models of folds rank and name the rows that they have not seen, as one sum that merges.

A row is scored by the models of its own fold alone, so the work is that of one column for each
strength of the penalty, whatever the number of folds. Log-odds fall into bins of equal width about
the mean of each model; areas under the ROC curve count rows of the same bin as ties, and come with
the bound of what their order could change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.batch import Batch, Workspace
from streamlr.kernels.families import FAMILIES, Family
from streamlr.kernels.metrics.ranking import Ranking
from streamlr.kernels.split import Split

Array = NDArray[np.float64]

MOST_CELLS = 2**17
"""Bins of all models together: sums of them wait for each other, like those of a gradient."""
_MOST_BINS = 4096
LEAST_BINS = 64
_SPREADS = 6.0
"""Bins reach that many standard deviations to both sides of the mean; what lies outside is in the
first or the last."""
_PROBE_ROWS = 512


@dataclass(frozen=True, slots=True)
class Bins:
    """Bins of the log-odds of every model."""

    count: int
    """How many there are for each."""
    lowest: Array
    """Where the first begins, (L, K)."""
    width: Array
    """(L, K), above 0."""


@dataclass(frozen=True, slots=True)
class FoldScores:
    """Sums over some rows: a commutative monoid."""

    weight_sum: Array
    """Weight of the rows held out of each model, (L, K)."""
    correct_sum: Array
    """Weight of those that it names rightly, (L, K)."""
    bin_sum: Array
    """Weight of misses and of hits in every bin, (L, K, bins, 2); of more than two classes there
    are no bins."""
    finite_check: Array
    """Not finite if any feature is not."""

    def __add__(self, other: FoldScores) -> FoldScores:
        return FoldScores(
            self.weight_sum + other.weight_sum,
            self.correct_sum + other.correct_sum,
            self.bin_sum + other.bin_sum,
            self.finite_check + other.finite_check,
        )

    def areas(self) -> tuple[Array, Array]:
        """Area under the ROC curve of every model and the bound of its error, (L, K) each; not a
        number where all its rows are of one class."""
        found = [
            ranking_of(bins).area() or (np.nan, np.nan)
            for bins in self.bin_sum.reshape(-1, *self.bin_sum.shape[2:])
        ]
        both = np.array(found).reshape(*self.weight_sum.shape, 2)
        return both[..., 0], both[..., 1]


def ranking_of(bins: Array) -> Ranking:
    """The ranking of one model, from the misses and hits in its bins, (bins, 2)."""
    return Ranking(
        np.arange(float(len(bins))), bins[:, 1], bins[:, 0], np.ones(len(bins), dtype=np.bool_)
    )


@dataclass(frozen=True, slots=True)
class FoldScoreScan:
    """Asks how well the models of folds do on the rows that are held out of them."""

    reads_features = True
    reads_target = True

    family: str
    """Name of the family."""
    classes: NDArray[np.generic]
    """The sorted labels."""
    coefficients: Array
    """W of every model, (L, K, n, c)."""
    intercepts: Array
    """b of every model, (L, K, c)."""
    split: Split
    """Tells the fold of each row."""
    bins: Bins
    """For the log-odds of each model."""

    def sums(self, batch: Batch, leaf_rows: int, workspace: Workspace) -> FoldScores:
        """The sums over a batch: its leaves, from first to last."""
        L, K, _, c = self.coefficients.shape
        total = FoldScores(
            np.zeros((L, K)),
            np.zeros((L, K)),
            np.zeros((L, K, self.bins.count if c == 1 else 0, 2)),
            np.zeros(1),
        )
        for leaf in batch.leaves(leaf_rows):
            self._add_leaf(batch, leaf, workspace, total)
        return total

    def _add_leaf(self, batch: Batch, leaf: slice, workspace: Workspace, total: FoldScores) -> None:
        assert batch.target is not None
        family = FAMILIES[self.family]
        X = workspace.cast(batch.X[:, leaf])
        total.finite_check[0] += X.sum()
        Y = family.target(batch.target[leaf], self.classes, batch.first_row + leaf.start)
        weights, offset, parts = (
            batch.weights_of(leaf),
            batch.offset_of(leaf),
            self.split.parts(batch, leaf),
        )
        L, K, n, c = self.coefficients.shape
        for fold in range(K):
            rows = np.flatnonzero(parts == fold)
            Z = self.coefficients[:, fold].transpose(0, 2, 1).reshape(L * c, n) @ X[:, rows]
            Z += self.intercepts[:, fold].reshape(L * c, 1)
            if offset is not None:
                Z += offset[rows]
            omega = np.ones(len(rows)) if weights is None else weights[rows]
            total.weight_sum[:, fold] += omega.sum()
            total.correct_sum[:, fold] += _right(Z.reshape(L, c, -1), Y[:, rows], family) @ omega
            if c == 1:
                total.bin_sum[:, fold] += self._binned(Z, Y[0, rows], omega, fold)

    def _binned(self, Z: Array, Y: Array, omega: Array, fold: int) -> Array:
        """Weight of misses and hits in the bins of one fold's models, (L, bins, 2)."""
        L, bins = len(Z), self.bins.count
        Z -= self.bins.lowest[:, fold, None]
        Z /= self.bins.width[:, fold, None]
        np.nan_to_num(Z, copy=False)
        np.clip(Z, 0, bins - 1, out=Z)
        cells = 2 * Z.astype(np.intp) + Y.astype(np.intp)
        summed: Array = np.stack(
            [np.bincount(row, omega, 2 * bins).astype(np.float64) for row in cells]
        )
        return summed.reshape(L, bins, 2)


def _right(Z: Array, Y: Array, family: Family) -> NDArray[np.bool_]:
    """Whether each model, of Z, (L, c, k), names each example's class, Y, (c, k): (L, k)."""
    if family.coupled:
        right: NDArray[np.bool_] = Z.argmax(axis=1) == Y.argmax(axis=0)
        return right
    return (Z[:, 0] > 0) == (Y[0] > 0.5)


def bins_for(coefficients: Array, intercepts: Array, probe: Array) -> Bins:
    """Bins for models W, (L, K, n, c), and b, (L, K, c), of one output, from what they make of a
    few rows, (s, n)."""
    L, K, n, c = coefficients.shape
    count = int(np.clip(MOST_CELLS // (L * K), LEAST_BINS, _MOST_BINS))
    if c > 1:
        return Bins(count, np.zeros((L, K)), np.ones((L, K)))
    Z = coefficients.reshape(L * K, n) @ probe.T + intercepts.reshape(L * K, 1)
    middle, spread = Z.mean(axis=1).reshape(L, K), Z.std(axis=1).reshape(L, K)
    spread = np.where(np.isfinite(spread) & (spread > 0), spread, 1.0)
    return Bins(count, np.nan_to_num(middle) - _SPREADS * spread, 2 * _SPREADS * spread / count)


def probe_rows(X: NDArray[np.generic]) -> Array:
    """A few of the rows, (s, n), at equal distances."""
    return np.ascontiguousarray(X[:: max(1, len(X) // _PROBE_ROWS)], dtype=np.float64)
