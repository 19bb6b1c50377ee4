"""Weights of hits and misses at every distinct score, as sums that merge: all that a ranking is judged by.

There is one ranking, a *group*, for each class of more than two, and one for two classes. Where there are more distinct
scores in all groups together than are kept, neighbouring ones are joined (by dropping low bits of the scores), so that memory
depends on neither rows nor classes; what is judged then comes with a bound, see `streamlr.kernels.ranking`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.ranking import Ranking

Array = NDArray[np.float64]

SCORES_KEPT = 2**18
_SORTED_AT_ONCE = 2**20
_KEY_BITS = 62  # 1.0 has the bits 0x3FF0...


@dataclass(frozen=True, slots=True)
class ScoreCounts:
    """Weight of hits and misses at every distinct score of every group."""

    group: NDArray[np.uint16]
    """Group of each score, ascending, (s,)."""
    keys: NDArray[np.uint64]
    """Scores as ordered bits, less the dropped ones, ascending within a group, (s,)."""
    positive: Array
    """Weight of hits at each, (s,)."""
    negative: Array
    """Weight of misses at each, (s,)."""
    spread: NDArray[np.bool_]
    """Whether different scores were joined there, (s,)."""
    dropped_bits: int
    """Low bits of the scores that were dropped."""

    def __add__(self, other: ScoreCounts) -> ScoreCounts:
        bits = max(self.dropped_bits, other.dropped_bits)
        one, two = self.with_bits_dropped(bits), other.with_bits_dropped(bits)
        group, keys = np.concatenate([one.group, two.group]), np.concatenate([one.keys, two.keys])
        order = _order(group, keys, bits)
        return _join_equal(ScoreCounts(
            group[order], keys[order], np.concatenate([one.positive, two.positive])[order], np.concatenate([one.negative, two.negative])[order],
            np.concatenate([one.spread, two.spread])[order], bits)).bounded()

    def with_bits_dropped(self, bits: int) -> ScoreCounts:
        """The same with at least so many low bits dropped."""
        if bits <= self.dropped_bits:
            return self
        keys = self.keys >> np.uint64(bits - self.dropped_bits)
        return _join_equal(ScoreCounts(self.group, keys, self.positive, self.negative, self.spread, bits))

    def bounded(self) -> ScoreCounts:
        """The same with as few more bits dropped as leave no more scores than are kept (and one for each group at least)."""
        if len(self.keys) <= SCORES_KEPT:
            return self
        differ = self.keys[1:] ^ self.keys[:-1]
        differ[self.group[1:] != self.group[:-1]] = np.iinfo(np.uint64).max  # no bits dropped join two groups
        few, enough = 0, _KEY_BITS - self.dropped_bits
        while enough - few > 1:
            bits = (few + enough) // 2
            if 1 + np.count_nonzero(differ >> np.uint64(bits)) > SCORES_KEPT:
                few = bits
            else:
                enough = bits
        return self.with_bits_dropped(self.dropped_bits + enough)

    def of(self, group: int) -> Ranking:
        """The ranking of one group."""
        here = slice(*np.searchsorted(self.group, [group, group + 1]))
        return Ranking(self._scores(here), self.positive[here], self.negative[here], self.spread[here], self.resolution)

    @property
    def resolution(self) -> float:
        """Relative error of a score that has lost bits; 0 where all are exact."""
        return min(1.0, 2.0 ** (self.dropped_bits - 53)) if self.dropped_bits else 0.0

    def _scores(self, here: slice) -> Array:
        """Scores of the keys: of those that have lost bits, the middle of what they may have been."""
        if not self.dropped_bits:
            return self.keys[here].view(np.float64)
        middle = np.uint64(1 << (self.dropped_bits - 1))
        return np.minimum((self.keys[here] << np.uint64(self.dropped_bits) | middle).view(np.float64), 1.0)


def _order(group: NDArray[np.uint16], keys: NDArray[np.uint64], bits: int) -> NDArray[np.intp]:
    """The stable order by group, then key: of two sorted parts in a row that is one merge, where group and key fit in one number."""
    width = _KEY_BITS - bits
    if len(group) and int(group.max()).bit_length() + width <= 64:
        return np.argsort(group.astype(np.uint64) << np.uint64(width) | keys, kind="stable")
    order = np.argsort(keys, kind="stable")
    return order[np.argsort(group[order], kind="stable")]


def _join_equal(counts: ScoreCounts) -> ScoreCounts:
    """Add up the weights at equal keys of a group, which stand side by side."""
    if not len(counts.keys):
        return counts
    same = (counts.keys[1:] == counts.keys[:-1]) & (counts.group[1:] == counts.group[:-1])
    first = np.flatnonzero(np.concatenate([[True], ~same]))
    spread = counts.spread
    if counts.dropped_bits:  # with bits dropped, equal keys may have been different scores
        spread = spread | np.concatenate([[False], same]) | np.concatenate([same, [False]])
    return ScoreCounts(counts.group[first], counts.keys[first], np.add.reduceat(counts.positive, first),
                       np.add.reduceat(counts.negative, first), np.logical_or.reduceat(spread, first), counts.dropped_bits)


def score_counts(scores: Array, codes: NDArray[np.intp], weights: Array, first_group: int = 0) -> ScoreCounts:
    """Counts of some examples.

    Parameters
    ----------
    scores
        In [0, 1], for every group, (g, k).
    codes
        The group in which the example is a hit, (k,); in the others it is a miss.
    weights
        Weight of each example, (k,); those of none are left out.
    first_group
        The first of the groups.
    """
    weighty = weights > 0
    if not weighty.all():
        scores, codes, weights = scores[:, weighty], codes[weighty], weights[weighty]
    step = max(1, _SORTED_AT_ONCE // max(1, len(codes)))  # groups at a time: sorting takes several arrays of their size
    total = _counts_of(scores[:step], codes, weights, first_group)
    for start in range(step, len(scores), step):
        total = total + _counts_of(scores[start : start + step], codes, weights, first_group + start)
    return total


def _counts_of(scores: Array, codes: NDArray[np.intp], weights: Array, first_group: int) -> ScoreCounts:
    keys = (scores + 0.0).view(np.uint64)  # of floats that are not negative the bits sort as the numbers do; + 0.0 turns -0.0 into 0.0
    # ones have the same sum in any order; a stable sort takes four times as long
    order = np.argsort(keys, axis=1, kind=None if (weights == 1.0).all() else "stable")
    groups = np.arange(first_group, first_group + len(scores), dtype=np.uint16)
    hits = codes[order] == groups[:, None]
    omega = weights[order]
    return _join_equal(ScoreCounts(
        np.repeat(groups, scores.shape[1]), np.take_along_axis(keys, order, axis=1).ravel(), np.where(hits, omega, 0.0).ravel(),
        np.where(hits, 0.0, omega).ravel(), np.zeros(keys.size, dtype=np.bool_), 0)).bounded()
