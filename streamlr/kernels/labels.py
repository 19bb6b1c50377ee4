"""Labels: which there are, and their codes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.errors import LabelError, NonFiniteError
from streamlr.kernels.batch import Batch, Workspace, sum_over_leaves

_MANY = 1000
_LEAST_LABELS = 65_536
"""Labels sorted at a time: enough that the calls cost nothing beside the sorting."""


@dataclass(frozen=True, slots=True)
class LabelSums:
    """The distinct labels of some rows, with how many rows and how much weight each has."""

    labels: NDArray[Any]
    """Distinct labels, sorted, (L,)."""
    row_counts: NDArray[np.int64]
    """Rows of each label, (L,)."""
    weight_sums: NDArray[np.float64]
    """Weight of each label, (L,)."""

    def __add__(self, other: LabelSums) -> LabelSums:
        labels = np.union1d(self.labels, other.labels)
        counts = np.zeros(len(labels), dtype=np.int64)
        weights = np.zeros(len(labels))
        for part in (self, other):
            at = np.searchsorted(labels, part.labels)
            counts[at] += part.row_counts
            weights[at] += part.weight_sums
        return _refuse_many(LabelSums(labels, counts, weights))


def _refuse_many(sums: LabelSums) -> LabelSums:
    if len(sums.labels) > _MANY:
        raise LabelError(f"the target holds more than {_MANY} distinct values (such as {sums.labels[0]} and {sums.labels[1]}); "
                         "labels of classes are expected: is data.target a continuous quantity?")
    return sums


@dataclass(frozen=True, slots=True)
class LabelScan:
    """Collects the distinct labels; reads no features."""

    reads_features = False
    reads_target = True

    target_name: str = "y"
    weights_name: str = "weights"

    def sums(self, batch: Batch, leaf_rows: int, workspace: Workspace) -> LabelSums:
        """Those of the leaves, added up: sorting the labels of a whole block would take more memory than its features."""
        del workspace
        assert batch.target is not None
        _refuse_nan(batch.target, batch.first_row, self.target_name)
        if batch.weights is not None:
            refuse_bad_weights(batch.weights, batch.first_row, self.weights_name)
        return sum_over_leaves(batch, max(leaf_rows, _LEAST_LABELS), lambda leaf: self._leaf_sums(batch, leaf))

    def _leaf_sums(self, batch: Batch, leaf: slice) -> LabelSums:
        assert batch.target is not None
        target, weights = batch.target[leaf], batch.weights_of(leaf)
        labels, codes, counts = np.unique(target, return_inverse=True, return_counts=True)
        weight_sums = counts.astype(np.float64) if weights is None else np.bincount(codes, weights, len(labels)).astype(np.float64)
        return _refuse_many(LabelSums(labels, counts.astype(np.int64), weight_sums))


def _refuse_nan(target: NDArray[Any], first_row: int, name: str) -> None:
    if target.dtype.kind == "f" and not np.isfinite(target).all():
        bad = ~np.isfinite(target)
        raise NonFiniteError(f"{name} holds {np.count_nonzero(bad)} non-finite labels in the rows from {first_row} on (first at row "
                             f"{first_row + int(np.argmax(bad))}); drop or label those rows and ingest again")


def refuse_bad_weights(weights: NDArray[np.float64], first_row: int, name: str) -> None:
    """Raise a `NonFiniteError` that names the first weight, (k,), that is negative or not finite."""
    good = np.isfinite(weights) & (weights >= 0)
    if not good.all():
        at = int(np.argmin(good))
        raise NonFiniteError(f"{name} holds {np.count_nonzero(~good)} weights that are negative or not finite in the rows from "
                             f"{first_row} on (first: {weights[at]} at row {first_row + at}); weights must be finite and 0 or above")


def indicator(target: NDArray[Any], classes: NDArray[Any], first_row: int = 0) -> NDArray[np.float64]:
    """Y for two classes: 1.0 where the label is the second class, shape (1, k).

    Raises
    ------
    LabelError
        For a label that is neither class.
    """
    second = target == classes[1]
    first = target == classes[0]
    if np.count_nonzero(first) + np.count_nonzero(second) != len(target):
        at = int(np.argmin(first | second))
        raise LabelError(f"row {first_row + at} has the label {target[at].item()!r}, which is neither of the classes {classes[0].item()!r} and "
                         f"{classes[1].item()!r}; were the labels changed since they were listed?")
    return second.astype(np.float64)[None, :]
