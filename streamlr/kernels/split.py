"""Which part of a split every row belongs to: parts are held out of a fit, and tell how well it
does on rows that it has not seen.

The part follows from a hash of the row's absolute number, or of its group, so it depends on neither
chunks nor engines, needs no memory, and rows of one group stay together. Or an array of the data
lists the rows of one part, or numbers the parts of all.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamlr.errors import LabelError
from streamlr.kernels.batch import Batch

HOLDOUT = 0
"""The part that is held out where there is one, and the rest."""
_NO_PART = np.iinfo(np.intp).max
"""The part of rows that are in none: not -1, by which objectives say that they hold out nothing."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_SPLIT = 0x5851F42D4C957F2D
"""Keeps the split of a seed apart from the sample of the same seed, which hashes rows too."""


@dataclass(frozen=True, slots=True)
class Split:
    """Shares of the rows."""

    shares: tuple[float, ...]
    """Share of the rows in each part, in order; the rest, if any, is in a last part."""
    seed: int
    """Seed of the hash."""
    listed: str = ""
    """Name of the array that the groups are, which lists the rows of part 0 by a 1; else the parts
    follow from the hash."""
    numbered: bool = False
    """Whether the groups are the numbers of the parts, as somebody has dealt the rows out; those of
    numbers below 0 are in none."""

    @property
    def seed_of_hash(self) -> int:
        return self.seed ^ _SPLIT

    def parts(self, batch: Batch, leaf: slice) -> NDArray[np.intp]:
        """The part of each example of a leaf, (k,): by its group where there are groups, else by
        its number."""
        if self.listed:
            return self._listed_parts(batch, leaf)
        if self.numbered:
            assert batch.groups is not None
            numbers = batch.groups[leaf].view(np.int64)
            return np.where(numbers < 0, _NO_PART, numbers).astype(np.intp)
        keys = split_keys(batch, leaf)
        bounds = (np.cumsum(self.shares) * 2.0**53).round().astype(np.uint64)
        places = hashed(keys, self.seed_of_hash) >> np.uint64(11)
        if len(bounds) == 1:  # the same, in a fifth of the time
            return (places >= bounds[0]).astype(np.intp)
        return np.searchsorted(bounds, places, side="right")

    def holdout(self, batch: Batch, leaf: slice) -> NDArray[np.bool_]:
        """Which examples of a leaf are in the part that is held out, (k,)."""
        return self.parts(batch, leaf) == HOLDOUT

    def _listed_parts(self, batch: Batch, leaf: slice) -> NDArray[np.intp]:
        assert batch.groups is not None
        keys = batch.groups[leaf]
        good = keys <= 1
        if not good.all():
            raise LabelError(
                f"row {batch.first_row + leaf.start + int(np.argmin(good))} of {self.listed} is "
                "neither 0 nor 1; rows to be held out are 1 (or "
                "true), the others 0 (or false)"
            )
        return np.where(keys == 1, HOLDOUT, HOLDOUT + 1).astype(np.intp)


def folds(n_folds: int, seed: int) -> Split:
    """Folds of about the same size."""
    return Split((1.0 / n_folds,) * (n_folds - 1), seed)


def split_keys(batch: Batch, leaf: slice = slice(None)) -> NDArray[np.uint64]:
    """What is hashed of each example of a leaf, (k,): its group where there are groups, else its
    absolute number."""
    if batch.groups is not None:
        return batch.groups[leaf]
    start, stop, _ = leaf.indices(batch.X.shape[1])
    return np.arange(batch.first_row + start, batch.first_row + stop, dtype=np.uint64)


def hashed(keys: NDArray[np.uint64], seed: int) -> NDArray[np.uint64]:
    """A hash of each key (splitmix64; Steele, Lea and Flood 2014): (k,)."""
    with np.errstate(over="ignore"):
        z = (keys + np.uint64(1)) * _GOLDEN + np.uint64(seed % 2**64) * np.uint64(
            0xD1342543DE82EF95
        )
        z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        z ^= z >> np.uint64(31)
    return z
