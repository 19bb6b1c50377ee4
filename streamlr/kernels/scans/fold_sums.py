"""What one look at the data tells of each part of the rows, such as folds, and of all but one part.

Means and centred sums of squares are joined as those of the statistics pass (see
`streamlr.kernels.scans.moments`). What is constant in a part has exactly that mean and no spread,
whatever leaves the rows lie in.
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.batch import Batch
from streamlr.kernels.families import Family
from streamlr.kernels.split import Split

Array = NDArray[np.float64]

_CONSTANT = 32 * np.finfo(np.float64).eps


def spread_of(mean: Array, square_sum: Array, weight_sum: float) -> Array:
    """Standard deviation (divisor: the weight) of what has these means and centred sums of squares,
    (n,) each; 0 where that is nothing but rounding."""
    spread: Array = np.sqrt(square_sum / weight_sum)
    spread[spread <= _CONSTANT * np.abs(mean)] = 0.0
    return spread


@dataclass(frozen=True, slots=True)
class PartSums:
    """Moments of some rows in each of P parts: a commutative monoid."""

    n_rows: NDArray[np.intp]
    """Rows that have weight, (P,)."""
    weight_sum: Array
    """Their weight, (P,)."""
    least: Array
    """Smallest Y that has weight, (P, c); infinity where none has."""
    most: Array
    """Largest Y that has weight, (P, c); -infinity where none has."""
    target_mean: Array
    """Weighted mean of Y, (P, c)."""
    target_square_sum: Array
    """Weighted sum of squares of Y about it, (P, c)."""
    least_loss_sum: Array
    """Weighted sum of the smallest losses that the targets allow, (P,)."""
    mean: Array
    """Weighted mean of the features, (P, n); (P, 0) where nobody asks for it."""
    square_sum: Array
    """Weighted sum of squares about it, (P, n)."""

    def __add__(self, other: PartSums) -> PartSums:
        weight = self.weight_sum + other.weight_sum
        share = np.divide(other.weight_sum, weight, out=np.zeros_like(weight), where=weight > 0)[
            :, None
        ]
        common = self.weight_sum[:, None] * share
        with np.errstate(
            invalid="ignore", over="ignore"
        ):  # the statistics pass looks for non-finite data
            by_target, by_feature = other.target_mean - self.target_mean, other.mean - self.mean
            return PartSums(
                self.n_rows + other.n_rows,
                weight,
                np.minimum(self.least, other.least),
                np.maximum(self.most, other.most),
                self.target_mean + share * by_target,
                self.target_square_sum + other.target_square_sum + common * by_target**2,
                self.least_loss_sum + other.least_loss_sum,
                self.mean + share * by_feature,
                self.square_sum + other.square_sum + common * by_feature**2,
            )

    @classmethod
    def nothing(cls, n_parts: int, n_outputs: int, n_features: int) -> Self:
        """Those of no rows."""
        count, by_target, by_feature = (
            np.zeros(n_parts),
            (n_parts, n_outputs),
            (n_parts, n_features),
        )
        return cls(
            count.astype(np.intp),
            count,
            np.full(by_target, np.inf),
            np.full(by_target, -np.inf),
            np.zeros(by_target),
            np.zeros(by_target),
            count.copy(),
            np.zeros(by_feature),
            np.zeros(by_feature),
        )

    def without_each(self) -> PartSums:
        """Of all parts but the first, but the second, ..., but the last but one, (P - 1, ...)."""
        each = self._each()
        before = [
            self.nothing(1, self.least.shape[1], self.mean.shape[1]),
            *itertools.accumulate(each, operator.add),
        ]
        after = list(itertools.accumulate(reversed(each), operator.add))[::-1]
        found = [self._part(slice(0)), *(before[p] + after[p + 1] for p in range(len(each) - 1))]
        return PartSums(
            *(
                np.concatenate([getattr(one, field.name) for one in found])
                for field in fields(PartSums)
            )
        )

    def whole(self) -> PartSums:
        """Of all parts, (1, ...)."""
        return functools.reduce(operator.add, self._each())

    def _each(self) -> list[PartSums]:
        return [self._part(slice(p, p + 1)) for p in range(len(self.weight_sum))]

    def _part(self, at: slice) -> PartSums:
        return PartSums(*(getattr(self, field.name)[at] for field in fields(PartSums)))


@dataclass(frozen=True, slots=True)
class PartScan:
    """Asks the statistics pass for the moments of parts."""

    split: Split | None
    """Tells the part of each row; None: all are in the first."""
    count: int
    """Parts that are asked for; the other rows are in one more, the last."""
    features: bool
    """Whether moments of the features are wanted too."""
    less_offset: bool
    """Whether Y is to be less the offset."""

    def sums(
        self,
        batch: Batch,
        leaf: slice,
        Y: Array,
        omega: Array,
        family: Family,
        moments: Callable[[NDArray[np.intp]], tuple[Array, Array]],
    ) -> PartSums:
        """Of the examples of a leaf.

        Parameters
        ----------
        batch, leaf
            The examples.
        Y, omega, family
            Their Y, (c, k), weights, (k,), and what Y is of.
        moments
            Tells mean and centred sum of squares, (n,) each, of the features of some of them,
            called by their numbers in the leaf.
        """
        found = PartSums.nothing(self.count + 1, len(Y), batch.X.shape[0] if self.features else 0)
        parts = np.full(len(omega), self.count)
        if self.split is not None:
            parts = np.minimum(self.split.parts(batch, leaf), self.count).astype(
                np.int16
            )  # quickly sorted
        order = np.argsort(parts, kind="stable")
        order = order[omega[order] > 0]
        if not len(order):
            return found
        at, ours, y = parts[order], omega[order], Y[:, order]
        here, first, rows = np.unique(at, return_index=True, return_counts=True)
        found.n_rows[here] = rows
        found.weight_sum[:] = np.bincount(at, ours, self.count + 1)
        found.least_loss_sum[:] = np.bincount(at, family.least_loss(y) * ours, self.count + 1)
        beside = batch.offset_of(leaf)
        if self.less_offset and beside is not None:
            y = y - beside[order]
        found.least[here] = np.minimum.reduceat(y, first, axis=1).T
        found.most[here] = np.maximum.reduceat(y, first, axis=1).T
        if not family.labelled:
            found.target_mean[here, 0] = y[0, first]  # of a part that is constant exactly the mean
            apart = np.bincount(at, (y[0] - found.target_mean[at, 0]) * ours, self.count + 1)
            found.target_mean[here, 0] += apart[here] / found.weight_sum[here]
            squares = (y[0] - found.target_mean[at, 0]) ** 2
            found.target_square_sum[:, 0] = np.bincount(at, squares * ours, self.count + 1)
        if self.features:
            for part, its in zip(here, np.split(order, first[1:]), strict=True):
                found.mean[part], found.square_sum[part] = moments(its)
        return found
