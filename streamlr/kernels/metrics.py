"""How well probabilities fit labels, as sums that merge: log-loss, Brier score, accuracy, and the area under the ROC curve.

The area is that of Mann and Whitney: the chance that a positive example is ranked above a negative one, ties counting
half. It follows from the weight of both classes at every distinct score. Where there are more distinct scores than are
kept, neighbouring ones are joined (by dropping low bits of the score); pairs within a joined score are then counted as
ties, and half their weight bounds the error.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.batch import Batch, Workspace, sum_over_leaves
from streamlr.kernels.families import FAMILIES
from streamlr.kernels.labels import indicator, refuse_bad_weights

Array = NDArray[np.float64]

SCORES_KEPT = 2**18


@dataclass(frozen=True, slots=True)
class ScoreCounts:
    """Weight of both classes at every distinct score."""

    keys: NDArray[np.uint64]
    """Scores as ordered bits, less the dropped ones, ascending, (s,)."""
    positive: Array
    """Weight of positive examples at each, (s,)."""
    negative: Array
    """Weight of negative examples at each, (s,)."""
    spread: NDArray[np.bool_]
    """Whether different scores were joined there, (s,)."""
    dropped_bits: int
    """Low bits of the scores that were dropped."""

    def __add__(self, other: ScoreCounts) -> ScoreCounts:
        bits = max(self.dropped_bits, other.dropped_bits)
        parts = [part.with_bits_dropped(bits) for part in (self, other)]
        keys = np.concatenate([part.keys for part in parts])
        order = np.argsort(keys, kind="stable")
        joined = _join_equal(
            keys[order], np.concatenate([part.positive for part in parts])[order],
            np.concatenate([part.negative for part in parts])[order], np.concatenate([part.spread for part in parts])[order], bits)
        return joined.bounded()

    def with_bits_dropped(self, bits: int) -> ScoreCounts:
        """The same with at least so many low bits dropped."""
        if bits <= self.dropped_bits:
            return self
        more = np.uint64(bits - self.dropped_bits)
        keys = self.keys >> more
        return _join_equal(keys, self.positive, self.negative, self.spread, bits)

    def bounded(self) -> ScoreCounts:
        """The same with bits dropped until no more scores are left than are kept."""
        counts = self
        while len(counts.keys) > SCORES_KEPT:
            counts = counts.with_bits_dropped(counts.dropped_bits + 1)
        return counts

    def area(self) -> tuple[float, float] | None:
        """Area under the ROC curve and the bound of its error; None where a class has no weight."""
        pairs = self.positive.sum() * self.negative.sum()
        if pairs <= 0:
            return None
        below = np.cumsum(self.negative) - self.negative
        ties = self.positive * self.negative
        area = float((self.positive @ below + 0.5 * ties.sum()) / pairs)
        return area, float(0.5 * ties[self.spread].sum() / pairs)


def _join_equal(keys: NDArray[np.uint64], positive: Array, negative: Array, spread: NDArray[np.bool_], bits: int) -> ScoreCounts:
    """Add up the weights at equal keys, which stand side by side."""
    if not len(keys):
        return ScoreCounts(keys, positive, negative, spread, bits)
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    joins_different = spread
    if bits:  # with bits dropped, equal keys may have been different scores
        joins_different = spread | _repeated(keys)
    return ScoreCounts(keys[first], np.add.reduceat(positive, first), np.add.reduceat(negative, first),
                       np.logical_or.reduceat(joins_different, first), bits)


def _repeated(keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    same = keys[1:] == keys[:-1]
    return np.concatenate([[False], same]) | np.concatenate([same, [False]])


def score_counts(scores: Array, Y: Array, weights: Array | None) -> ScoreCounts:
    """Counts of some examples: scores in [0, 1], (k,), and Y of 0 or 1, (k,)."""
    keys = (scores + 0.0).view(np.uint64)  # of floats that are not negative the bits sort as the numbers do; + 0.0 turns -0.0 into 0.0
    order = np.argsort(keys, kind="stable")
    omega = np.ones(len(scores)) if weights is None else weights
    return _join_equal(keys[order], (Y * omega)[order], ((1.0 - Y) * omega)[order], np.zeros(len(keys), dtype=np.bool_), 0).bounded()


@dataclass(frozen=True, slots=True)
class MetricSums:
    """Sums over some rows."""

    n_rows: int
    """Rows."""
    weight_sum: float
    """Their weight."""
    log_loss_sum: float
    """Weighted loss."""
    brier_sum: float
    """Weighted squared difference of probability and Y."""
    confusion_sum: Array
    """Weight by true and predicted class, (2, 2)."""
    scores: ScoreCounts
    """What the area under the ROC curve is made of."""

    @property
    def probe(self) -> Array:
        return np.array([self.log_loss_sum, self.brier_sum])

    def __add__(self, other: MetricSums) -> MetricSums:
        return MetricSums(
            self.n_rows + other.n_rows, self.weight_sum + other.weight_sum, self.log_loss_sum + other.log_loss_sum,
            self.brier_sum + other.brier_sum, self.confusion_sum + other.confusion_sum, self.scores + other.scores)


@dataclass(frozen=True, slots=True)
class MetricScan:
    """Asks how well a model fits."""

    reads_features = True
    reads_target = True

    family: str
    """Name of the family."""
    classes: NDArray[np.generic]
    """The sorted labels."""
    coefficients: Array
    """W, (n, 1)."""
    intercept: Array
    """b, (1,)."""
    weights_name: str = "weights"
    """How messages name the weights."""

    def sums(self, batch: Batch, leaf_rows: int, workspace: Workspace) -> MetricSums:
        """The sums over a batch: its leaves, added from first to last."""
        return sum_over_leaves(batch, leaf_rows, lambda leaf: self._leaf_sums(batch, leaf, workspace))

    def _leaf_sums(self, batch: Batch, leaf: slice, workspace: Workspace) -> MetricSums:
        assert batch.target is not None
        if batch.weights is not None:
            refuse_bad_weights(batch.weights[leaf], batch.first_row + leaf.start, self.weights_name)
        Y = indicator(batch.target[leaf], self.classes, batch.first_row + leaf.start)
        weights = batch.weights_of(leaf)
        Z = linear(workspace.cast(batch.X[:, leaf]), self.coefficients, self.intercept)
        with np.errstate(over="ignore", invalid="ignore"):
            loss, A = FAMILIES[self.family].loss_and_activation(Z, Y)
        omega = np.ones(Y.shape[1]) if weights is None else weights
        predicted = (Z[0] > 0).astype(np.intp)
        confusion = np.bincount(2 * Y[0].astype(np.intp) + predicted, omega, 4).astype(np.float64).reshape(2, 2)
        if not np.isfinite(A).all():  # a NaN has no rank; the probe of the sums has the batch looked at
            A = np.zeros_like(A)
        return MetricSums(Y.shape[1], float(omega.sum()), float(loss[0] @ omega), float((A[0] - Y[0]) ** 2 @ omega),
                          confusion, score_counts(A[0], Y[0], weights))


def linear(X: Array, W: Array, b: Array) -> Array:
    """Z = Wᵀ X + b, (c, k)."""
    with np.errstate(over="ignore", invalid="ignore"):
        Z: Array = W.T @ X + b[:, None]
    return Z
