"""Rows that are rare by their target are drawn more often, and weigh less for it.

What a sample tells of classes of which few examples are seen hangs on those few (King and Zeng,
"Logistic regression in rare events data", 2001). Strata are the classes of a label, and of a count
whether it is 0. Each row of a stratum is drawn with the same probability, and weighs the inverse of
it, so that sums over the sample are what they would be without strata, but for chance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.batch import Batch, Workspace
from streamlr.kernels.families import FAMILIES
from streamlr.kernels.scans.labels import codes_of

_RARE = 1 / 8
"""Share of what each stratum would have if they were equal, below which it is rare."""
_SHARE_OF_RARE = 1 / 4
"""Of the sample, at most, for all strata that are rare."""


@dataclass(frozen=True, slots=True)
class StrataSums:
    """How many rows there are in each stratum: a commutative monoid."""

    row_counts: NDArray[np.int64]
    """(S,)."""

    def __add__(self, other: StrataSums) -> StrataSums:
        return StrataSums(self.row_counts + other.row_counts)


@dataclass(frozen=True, slots=True)
class StrataScan:
    """Counts the rows of the strata of numbers; reads no features."""

    reads_features = False
    reads_target = True

    family: str
    """Name of the family."""

    def sums(self, batch: Batch, leaf_rows: int, workspace: Workspace) -> StrataSums:
        """The counts of a batch."""
        del leaf_rows, workspace
        assert batch.target is not None
        codes = strata_of(self.family, batch.target, np.empty(0), batch.first_row)
        return StrataSums(np.bincount(codes, minlength=2).astype(np.int64))


def has_strata(family: str) -> bool:
    """Whether the rows of the family fall into strata."""
    return FAMILIES[family].labelled or FAMILIES[family].counted


def strata_of(
    family: str, target: NDArray[Any], classes: NDArray[Any], first_row: int
) -> NDArray[np.intp]:
    """Number of the stratum of each target, (k,): its class, or of a count 0 for 0 and 1 for
    more."""
    if FAMILIES[family].labelled:
        return codes_of(target, classes, first_row)
    return (FAMILIES[family].target(target, classes, first_row)[0] > 0).astype(np.intp)


def fractions_of(row_counts: NDArray[np.int64], fraction: float) -> tuple[float, ...]:
    """Share of each stratum's rows to draw, (S,), so that the sample has as many rows as one of
    this share of all; none where no stratum is rare.

    Parameters
    ----------
    row_counts
        Rows of each stratum, (S,).
    fraction
        Share of all rows.
    """
    total = float(row_counts.sum())
    rare = (row_counts > 0) & (row_counts < _RARE * total / len(row_counts))
    if not 0.0 < fraction < 1.0 or not rare.any():
        return ()
    wanted = _SHARE_OF_RARE * fraction * total / np.count_nonzero(rare)
    of_rare = np.minimum(1.0, np.maximum(fraction, wanted / np.maximum(row_counts, 1)))
    left = fraction * total - float(of_rare[rare] @ row_counts[rare])
    return tuple(np.where(rare, of_rare, left / float(row_counts[~rare].sum())).tolist())
