"""Weights of hits and misses at every distinct score, as sums that merge: all that a ranking is
judged by.

There is one ranking, a *group*, for each class of more than two, and one for two classes. Where
there are more distinct scores in all groups together than are kept, neighbouring ones are joined
(by dropping low bits of the scores), so that memory depends on neither rows nor classes; what is
judged then comes with a bound, see `streamlr.kernels.metrics.ranking`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.metrics.ranking import Ranking

Array = NDArray[np.float64]

SCORES_KEPT = 2**18
_SORTED_AT_ONCE = 2**20
_KEY_BITS = 62  # 1.0 has the bits 0x3FF0...
_OTHER_GROUP = np.uint64(2**64 - 1)  # in the place of a difference: no bits dropped join two groups


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
        if not len(one.keys) or not len(two.keys) or one.group[-1] < two.group[0]:
            return ScoreCounts(
                group,
                keys,
                np.concatenate([one.positive, two.positive]),
                np.concatenate([one.negative, two.negative]),
                np.concatenate([one.spread, two.spread]),
                bits,
            ).bounded()
        order = _order(group, keys, bits)
        group, keys = group[order], keys[order]
        new = _changes(group, keys)
        run = np.empty(len(order), dtype=np.intp)
        run[order] = (
            np.cumsum(new) - 1
        )  # the place of each in the union; no part has two in one place
        parts, places = (one, two), (run[: len(one.keys)], run[len(one.keys) :])
        positive, negative, spread = (
            np.zeros(run.max() + 1),
            np.zeros(run.max() + 1),
            np.zeros(run.max() + 1, dtype=np.bool_),
        )
        for part, place in zip(parts, places, strict=True):
            positive[place] += part.positive
            negative[place] += part.negative
            spread[place] |= part.spread
        if bits:  # with bits dropped, equal keys may have been different scores
            spread[run[order[~new]]] = True
        return ScoreCounts(group[new], keys[new], positive, negative, spread, bits).bounded()

    def with_bits_dropped(self, bits: int) -> ScoreCounts:
        """The same with at least so many low bits dropped."""
        if bits <= self.dropped_bits or not len(self.keys):
            return replace(self, dropped_bits=max(bits, self.dropped_bits))
        keys = self.keys >> np.uint64(bits - self.dropped_bits)
        new = _changes(self.group, keys)
        run = np.cumsum(new) - 1
        spread = np.zeros(run[-1] + 1, dtype=np.bool_)
        spread[run[self.spread]] = True
        spread[run[~new]] = True
        return ScoreCounts(
            self.group[new],
            keys[new],
            np.bincount(run, self.positive).astype(np.float64),
            np.bincount(run, self.negative).astype(np.float64),
            spread,
            bits,
        )

    def bounded(self) -> ScoreCounts:
        """The same with as few more bits dropped as leave no more scores than are kept (and one for
        each group at least)."""
        if len(self.keys) <= SCORES_KEPT:
            return self
        differ = self.keys[1:] ^ self.keys[:-1]
        differ[self.group[1:] != self.group[:-1]] = _OTHER_GROUP
        return self.with_bits_dropped(
            self.dropped_bits + _bits_to_drop(differ, _KEY_BITS - self.dropped_bits)
        )

    def of(self, group: int) -> Ranking:
        """The ranking of one group."""
        here = slice(*np.searchsorted(self.group, [group, group + 1]))
        return Ranking(
            self._scores(here),
            self.positive[here],
            self.negative[here],
            self.spread[here],
            self.resolution,
        )

    @property
    def resolution(self) -> float:
        """Relative error of a score that has lost bits; 0 where all are exact."""
        return min(1.0, 2.0 ** (self.dropped_bits - 53)) if self.dropped_bits else 0.0

    def _scores(self, here: slice) -> Array:
        """Scores of the keys: of those that have lost bits, the middle of what they may have
        been."""
        if not self.dropped_bits:
            return self.keys[here].view(np.float64)
        middle = np.uint64(1 << (self.dropped_bits - 1))
        return np.minimum(
            (self.keys[here] << np.uint64(self.dropped_bits) | middle).view(np.float64), 1.0
        )


def _order(group: NDArray[np.uint16], keys: NDArray[np.uint64], bits: int) -> NDArray[np.intp]:
    """The stable order by group, then key: of two sorted parts in a row that is one merge, where
    group and key fit in one number."""
    width = _KEY_BITS - bits
    if len(group) and int(group.max()).bit_length() + width <= 64:
        return np.argsort(group.astype(np.uint64) << np.uint64(width) | keys, kind="stable")
    order = np.argsort(keys, kind="stable")
    return order[np.argsort(group[order], kind="stable")]


def _changes(group: NDArray[np.uint16], keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Where another group or key begins, (s,), s > 0."""
    new = np.ones(len(keys), dtype=np.bool_)
    np.not_equal(keys[1:], keys[:-1], out=new[1:])
    new[1:] |= group[1:] != group[:-1]
    return new


def _bits_to_drop(differ: NDArray[np.uint64], most: int) -> int:
    """The fewest low bits, and at most ``most``, without which no more scores are left than are
    kept.

    ``differ`` holds the bits in which neighbours differ. Those stay apart that differ in a bit
    which is kept, so what decides is the highest bit of the first difference that must go.
    """
    if len(differ) < SCORES_KEPT:
        return 0
    at = len(differ) - SCORES_KEPT
    return min(most, int(np.partition(differ, at)[at]).bit_length())


def score_counts(
    scores: Array, codes: NDArray[np.intp], weights: Array, first_group: int = 0
) -> ScoreCounts:
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
    step = max(
        1, _SORTED_AT_ONCE // max(1, len(codes))
    )  # groups at a time: sorting takes several arrays of their size
    total = _counts_of(scores[:step], codes, weights, first_group)
    for start in range(step, len(scores), step):
        total = total + _counts_of(
            scores[start : start + step], codes, weights, first_group + start
        )
    return total


def _counts_of(
    scores: Array, codes: NDArray[np.intp], weights: Array, first_group: int
) -> ScoreCounts:
    keys = (scores + 0.0).view(
        np.uint64
    )  # of floats that are not negative the bits sort as the numbers do; + 0.0 turns -0.0 into 0.0
    groups = np.arange(first_group, first_group + len(scores), dtype=np.uint16)
    order = None
    if (
        weights == 1.0
        # which example has which score matters for hits alone, and to sort is five times as fast as
        # to find an order
    ).all():
        mine = np.flatnonzero((codes >= first_group) & (codes < first_group + len(scores)))
        mine = mine[np.argsort(codes[mine], kind="stable")]
        rows = codes[mine] - first_group
        hits = keys[rows, mine]
        keys.sort(axis=1)
    else:
        order = np.argsort(keys, axis=1, kind="stable")
        keys = np.take_along_axis(keys, order, axis=1)
    bits, first, spread = _runs(keys)
    if order is None:
        run = np.searchsorted(first, _places(keys, rows, hits), side="right") - 1
        positive = np.bincount(run, minlength=len(first)).astype(np.float64)
        negative = np.diff(first, append=keys.size) - positive
    else:
        omega, right = weights[order], codes[order] == groups[:, None]
        positive, negative = (
            np.add.reduceat(np.where(of, omega, 0.0).ravel(), first) if len(first) else np.empty(0)
            for of in (right, ~right)
        )
    return ScoreCounts(
        groups[first // max(1, keys.shape[1])],
        keys.ravel()[first] >> np.uint64(bits),
        positive,
        negative,
        spread,
        bits,
    )


def _runs(keys: NDArray[np.uint64]) -> tuple[int, NDArray[np.intp], NDArray[np.bool_]]:
    """Of keys, (g, k), ascending in each row: low bits to drop; where each run of those that are
    equal then begins; whether it joins different ones."""
    differ: NDArray[np.uint64] = np.empty(keys.shape, dtype=np.uint64)
    np.bitwise_xor(keys[:, 1:], keys[:, :-1], out=differ[:, 1:])
    differ[:, :1] = _OTHER_GROUP
    differ = differ.reshape(-1)
    bits = _bits_to_drop(differ[1:], _KEY_BITS)
    first = np.flatnonzero(differ >= np.uint64(1 << bits))
    if not bits:
        return bits, first, np.zeros(len(first), dtype=np.bool_)
    distinct = np.cumsum(differ > 0, dtype=np.int64)  # keys so far
    return bits, first, np.diff(distinct[first], append=distinct[-1] + 1) > 1


def _places(
    keys: NDArray[np.uint64], rows: NDArray[np.intp], wanted: NDArray[np.uint64]
) -> NDArray[np.intp]:
    """Where among all keys, (g, k), ascending in each row, those stand that are ``wanted``, (h,),
    one in each of the ``rows``, (h,), ascending."""
    ends = np.searchsorted(rows, np.arange(len(keys) + 1))
    places = [
        row * keys.shape[1] + np.searchsorted(keys[row], wanted[ends[row] : ends[row + 1]])
        for row in np.flatnonzero(np.diff(ends))
    ]
    return np.concatenate([np.empty(0, dtype=np.intp), *places])
