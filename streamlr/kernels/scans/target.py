"""What targets look like before a family is chosen for them: their range, their mean, and their
distinct values if those are few."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.errors import LabelError
from streamlr.kernels.batch import Batch, Workspace
from streamlr.kernels.families import FAMILIES
from streamlr.kernels.scans.labels import LabelScan, LabelSums


@dataclass(frozen=True, slots=True)
class NumberSums:
    """Moments of numbers: a commutative monoid."""

    weight_sum: float
    """Weight of the rows."""
    mean: float
    """Their weighted mean; 0 where they weigh nothing."""
    least: float | int
    """The smallest number."""
    largest: float | int
    """The largest number."""
    whole: bool
    """Whether none has a fraction."""

    def __add__(self, other: NumberSums) -> NumberSums:
        weight = self.weight_sum + other.weight_sum
        share = other.weight_sum / weight if weight > 0 else 0.0
        return NumberSums(
            weight,
            (1.0 - share) * self.mean + share * other.mean,
            min(self.least, other.least),
            max(self.largest, other.largest),
            self.whole and other.whole,
        )


@dataclass(frozen=True, slots=True)
class TargetSums:
    """What is known of the targets of some rows."""

    numbers: NumberSums | None
    """Of numbers; None for text."""
    labels: LabelSums | None
    """Each distinct value; None where there are too many for classes."""

    def __add__(self, other: TargetSums) -> TargetSums:
        numbers = (
            None if self.numbers is None or other.numbers is None else self.numbers + other.numbers
        )
        try:
            labels = (
                None if self.labels is None or other.labels is None else self.labels + other.labels
            )
        except LabelError:  # too many
            labels = None
        return TargetSums(numbers, labels)


@dataclass(frozen=True, slots=True)
class TargetScan:
    """Asks for what a family could mean by the targets; reads no features."""

    reads_features = False
    reads_target = True

    family: str
    """Name of the family; one of numbers refuses targets that it is not fitted to."""
    target_name: str = "y"
    weights_name: str = "weights"

    def sums(self, batch: Batch, leaf_rows: int, workspace: Workspace) -> TargetSums:
        """The sums over a batch.

        Raises
        ------
        NonFiniteError, DtypeError, LabelError
            For targets or weights that no model of the family can be fitted to.
        """
        assert batch.target is not None
        if not FAMILIES[self.family].labelled:
            FAMILIES[self.family].target(batch.target, np.empty(0), batch.first_row)
        labels: LabelSums | None = None
        with contextlib.suppress(LabelError):  # too many
            labels = LabelScan(self.target_name, self.weights_name).sums(
                batch, leaf_rows, workspace
            )
        return TargetSums(_numbers(batch.target, batch.weights), labels)


def _numbers(target: NDArray[Any], weights: NDArray[np.float64] | None) -> NumberSums | None:
    if target.dtype.kind not in "biuf":
        return None
    weight_sum = float(len(target)) if weights is None else float(weights.sum())
    mean = 0.0
    if weight_sum > 0:
        shares = np.full(len(target), 1.0 / weight_sum) if weights is None else weights / weight_sum
        mean = float(
            target.astype(np.float64) @ shares
        )  # each term a share, so that large numbers do not overflow
    as_number = float if target.dtype.kind == "f" else int
    return NumberSums(
        weight_sum,
        mean,
        as_number(target.min()),
        as_number(target.max()),
        target.dtype.kind != "f" or bool((target == np.rint(target)).all()),
    )
