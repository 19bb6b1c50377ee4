"""Targets: which labels there are, and the Y that labels and numbers stand for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.errors import DtypeError, LabelError, NonFiniteError
from streamlr.kernels.batch import Batch, Workspace, sum_over_leaves
from streamlr.kernels.split import Split

_MANY = 1000
_LARGEST = float(np.sqrt(np.finfo(np.float64).max))
"""Of a target that is a number: the square of any more would be infinite."""
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
    """Weight of each label, without that of the rows that are held out, (L,)."""

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
        raise LabelError(
            f"the target holds more than {_MANY} distinct values (such as {sums.labels[0]} and "
            f"{sums.labels[1]}); "
            "labels of classes are expected: is data.target a continuous quantity?"
        )
    return sums


@dataclass(frozen=True, slots=True)
class LabelScan:
    """Collects the distinct labels; reads no features."""

    reads_features = False
    reads_target = True

    target_name: str = "y"
    weights_name: str = "weights"
    split: Split | None = None
    """Tells which rows are held out, where some are."""

    def sums(self, batch: Batch, leaf_rows: int, workspace: Workspace) -> LabelSums:
        """Those of the leaves, added up: sorting the labels of a whole block would take more memory
        than its features."""
        del workspace
        assert batch.target is not None
        _refuse_nan(batch.target, batch.first_row, self.target_name)
        if batch.weights is not None:
            refuse_bad_weights(batch.weights, batch.first_row, self.weights_name)
        return sum_over_leaves(
            batch, max(leaf_rows, _LEAST_LABELS), lambda leaf: self._leaf_sums(batch, leaf)
        )

    def _leaf_sums(self, batch: Batch, leaf: slice) -> LabelSums:
        assert batch.target is not None
        target, weights = batch.target[leaf], batch.weights_of(leaf)
        if self.split is not None:
            weights = np.where(
                self.split.holdout(batch, leaf), 0.0, 1.0 if weights is None else weights
            )
        labels, codes, counts = np.unique(target, return_inverse=True, return_counts=True)
        weight_sums = (
            counts.astype(np.float64)
            if weights is None
            else np.bincount(codes, weights, len(labels)).astype(np.float64)
        )
        return _refuse_many(LabelSums(labels, counts.astype(np.int64), weight_sums))


def looks_like_a_quantity(sums: LabelSums) -> bool:
    """Whether the labels are more than two, and some of them no whole numbers."""
    labels = sums.labels
    return len(labels) > 2 and labels.dtype.kind == "f" and bool((labels != np.rint(labels)).any())


def _refuse_nan(target: NDArray[Any], first_row: int, name: str) -> None:
    if target.dtype.kind == "f" and not np.isfinite(target).all():
        bad = ~np.isfinite(target)
        raise NonFiniteError(
            f"{name} holds {np.count_nonzero(bad)} non-finite labels in the rows from {first_row} "
            "on (first at row "
            f"{first_row + int(np.argmax(bad))}); drop or label those rows and ingest again"
        )


def refuse_bad_weights(weights: NDArray[np.float64], first_row: int, name: str) -> None:
    """Raise a `NonFiniteError` that names the first weight, (k,), that is negative or not
    finite."""
    good = np.isfinite(weights) & (weights >= 0)
    if not good.all():
        at = int(np.argmin(good))
        raise NonFiniteError(
            f"{name} holds {np.count_nonzero(~good)} weights that are negative or not finite in "
            "the rows from "
            f"{first_row} on (first: {weights[at]} at row {first_row + at}); weights must be "
            "finite and 0 or above"
        )


def indicator(
    target: NDArray[Any], classes: NDArray[Any], first_row: int = 0
) -> NDArray[np.float64]:
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
        raise LabelError(
            f"row {first_row + at} has the label {target[at].item()!r}, which is neither of the "
            f"classes {classes[0].item()!r} and "
            f"{classes[1].item()!r}; were the labels changed since they were listed?"
        )
    return second.astype(np.float64)[None, :]


def codes_of(target: NDArray[Any], classes: NDArray[Any], first_row: int = 0) -> NDArray[np.intp]:
    """Number of the class of each label, (k,).

    Raises
    ------
    LabelError
        For a label that is none of the classes.
    """
    codes = np.minimum(np.searchsorted(classes, target), len(classes) - 1)
    known = classes[codes] == target
    if not known.all():
        at = int(np.argmin(known))
        raise LabelError(
            f"row {first_row + at} has the label {target[at].item()!r}, which is none of the "
            f"{len(classes)} classes {classes[0].item()!r} to "
            f"{classes[-1].item()!r}; were the labels changed since they were listed?"
        )
    return codes


def one_hot(target: NDArray[Any], classes: NDArray[Any], first_row: int = 0) -> NDArray[np.float64]:
    """Y for any number of classes: 1.0 at the class of each label, shape (c, k)."""
    Y = np.zeros((len(classes), len(target)))
    Y[codes_of(target, classes, first_row), np.arange(len(target))] = 1.0
    return Y


def numbers(
    target: NDArray[Any], family: str, first_row: int = 0, least: float = -np.inf
) -> NDArray[np.float64]:
    """Y of targets that are numbers, not below ``least``, shape (1, k).

    Raises
    ------
    DtypeError
        For text.
    NonFiniteError
        For NaN, infinity, and what is so large that its square is infinite.
    LabelError
        For a number below ``least``.
    """
    if target.dtype.kind not in "biuf":
        raise DtypeError(
            f"the target has dtype {target.dtype}; the family {family} is fitted to numbers. Are "
            "labels meant (model.family: logistic)?"
        )
    Y = target.astype(np.float64)
    good = np.abs(Y) <= _LARGEST
    if not good.all():
        at = int(np.argmin(good))
        remedy = (
            "its square overflows: mend that row, or rescale the target"
            if np.isfinite(Y[at])
            else "drop or mend that row"
        )
        raise NonFiniteError(
            f"row {first_row + at} has the target {Y[at]}; {remedy} and ingest again"
        )
    if len(Y) and Y.min() < least:
        at = int(np.argmax(least > Y))
        raise LabelError(
            f"row {first_row + at} has the target {Y[at]:g}; the family {family} is fitted to "
            f"numbers of {least:g} or above"
        )
    return Y[None, :]
