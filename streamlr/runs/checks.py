"""Which data may be trained on, by what the first look at them tells."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.config.sections import ValidationConfig
from streamlr.data.partition import Partition
from streamlr.data.source import Buffer, Source
from streamlr.errors import ConfigError, LabelError, NonFiniteError
from streamlr.kernels.families import FAMILIES
from streamlr.kernels.scans.labels import LabelSums, looks_like_a_quantity
from streamlr.kernels.scans.moments import MomentSums
from streamlr.objective.objective import Moments

_SMALLEST = 1e-150
"""Square root of what a float64 still holds, and some room."""
_LARGEST_WEIGHT = 1e290


def check_classes(labels: LabelSums, where: str, *, holdout: bool = False) -> NDArray[Any]:
    """The classes, two or more.

    Raises
    ------
    LabelError
        When there is one label only, when they look like a quantity, or when one of them has no
        weight.
    """
    found = labels.labels
    named = ", ".join(
        f"{label!r} ({count} rows)"
        for label, count in list(zip(found.tolist(), labels.row_counts.tolist(), strict=True))[:5]
    )
    if len(found) < 2:
        raise LabelError(
            f"{where} holds one class only: {named}; a classifier needs examples of two"
        )
    if looks_like_a_quantity(labels):
        raise LabelError(
            f"{where} holds {len(found)} classes: {named}{', ...' if len(found) > 5 else ''}; "
            "some are no whole numbers, so they look like "
            "a quantity. Was the right array named in data.target? For a number as the target set "
            "model.family: linear"
        )
    total = float(labels.weight_sums.sum())
    if total > 0 and not 1 / _LARGEST_WEIGHT < total < _LARGEST_WEIGHT:
        raise NonFiniteError(
            f"{where}: the weights of all examples add up to {total:.3g}, which leaves float64 no "
            "room to compute; scale them to about 1 each"
        )
    if holdout and (labels.weight_sums <= 0).any():
        raise LabelError(
            f"{where}: no example of the class "
            f"{found[int(np.argmin(labels.weight_sums))].item()!r} that weighs anything is left "
            "in the fit "
            "beside the rows that validation holds out; hold out fewer, or others"
        )
    if (labels.weight_sums <= 0).any():
        raise LabelError(
            f"{where}: all examples of the class "
            f"{found[int(np.argmin(labels.weight_sums))].item()!r} weigh 0; every class needs "
            "weight"
        )
    return found


def check_target(source: Source, family: str, sums: MomentSums) -> None:
    """Refuse examples that all weigh nothing, counts that are all 0, and numbers whose squares no
    sum can hold.

    Raises
    ------
    NonFiniteError, LabelError
    """
    if not sums.weight_sum > 0:
        raise NonFiniteError(f"{source.describe('weights')} are all 0: there is nothing to fit")
    if FAMILIES[family].counted and not sums.target_mean.max() > 0:
        raise LabelError(
            f"{source.describe('target')} is 0 at every example that has weight; there is no "
            "finite rate to fit"
        )
    if not np.isfinite(sums.target_square_sum).all() or not np.isfinite(sums.target_mean).all():
        raise NonFiniteError(
            f"the numbers of {source.describe('target')} are so large that the sum of their "
            "squares overflows; rescale the target and ingest "
            "again"
        )


def check_holdout(source: Source, validation: ValidationConfig, sums: MomentSums) -> None:
    """Refuse a split of which one side weighs nothing.

    Raises
    ------
    ConfigError
    """
    held = sums.holdout
    if held is None:
        return
    key = (
        f"validation.fraction: {validation.fraction:g}"
        if validation.array is None
        else f"validation.array: {source.describe('groups')}"
    )
    count = f"{held.n_rows:,} of {sums.n_rows:,} rows"
    if not held.weight_sum > 0:
        raise ConfigError(
            f"{key} holds out {count}, which weigh nothing, so there is nothing to validate on; "
            "hold out more"
        )
    if not sums.weight_sum > 0:
        raise ConfigError(
            f"{key} holds out {count}, and the others weigh nothing, so there is nothing to fit; "
            "hold out fewer"
        )


def check_magnitude(source: Source, partition: Partition, moments: Moments) -> None:
    """Refuse values whose squares a float64 cannot hold: they would end in a model of nothing.

    Raises
    ------
    NonFiniteError
        Names feature, row and chunk.
    """
    large = ~(
        np.isfinite(moments.spread)
        & np.isfinite(moments.mean)
        & np.isfinite(moments.comoment).all(axis=1)
    )
    small = (
        (moments.spread == 0)
        & (np.abs(moments.mean) < _SMALLEST)
        & (moments.comoment != 0).any(axis=1)
    )
    for bad, what in (
        (large, "so large that their squares overflow"),
        (small, "so small that their squares vanish"),
    ):
        if bad.any():
            feature = int(np.argmax(bad))
            named = feature if source.feature_names is None else repr(source.feature_names[feature])
            raise NonFiniteError(
                f"{source.describe('features')} holds values {what} (feature "
                f"{named}{_where_largest(source, partition, feature)}; "
                f"{np.count_nonzero(bad)} features in all); clean or rescale that feature and "
                "ingest again"
            )


def _where_largest(source: Source, partition: Partition, feature: int) -> str:
    """Row and value of a feature's largest entry: one more read, for the message of an error."""
    row, largest = 0, -1.0
    buffer = Buffer()
    for block in range(partition.n_blocks):
        start, stop = partition.rows_of_block(block)
        sizes = np.abs(source.read_features(start, stop, buffer)[feature].astype(np.float64))
        if sizes.max() > largest:
            row, largest = start + int(np.argmax(sizes)), float(sizes.max())
    return f", largest {largest:.3g} at row {row}, in chunk {row // source.chunk_rows}"
