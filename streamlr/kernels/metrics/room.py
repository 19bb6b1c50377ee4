"""What memory sums over rows take, told without summing any."""

from __future__ import annotations

from dataclasses import dataclass

from streamlr.kernels.metrics.score_counts import SCORES_KEPT

_KEPT_BYTES = 27
"""Of one score and the weights at it."""
_ADDING_BYTES = 120
"""Of each score of two counts while they are merged: both joined, their order, and what is kept."""
_CLASS_ROW_BYTES, _CLASS_VALUE_BYTES = 150, 76
"""Of each row of a leaf, and of each value of its Z, while it is summed for classes."""
_NUMBER_ROW_BYTES = 100
"""The same of each row where the target is a number."""


@dataclass(frozen=True, slots=True)
class SumsRoom:
    """Bytes of the sums of a pass."""

    leaf_bytes: int = 0
    """Gone again when a leaf is summed: Z, what is made of it, and its sums."""
    block_bytes: int = 0
    """Gone again when a block is done with."""
    kept_bytes: int = 0
    """Of the sums over many rows."""
    adding_bytes: int = 0
    """While two such sums are added."""
    apart_bytes: int = 0
    """Of all sums together, were none of them added."""


def room_of_classes(outputs: int, leaf_rows: int, n_rows: int) -> SumsRoom:
    """Bytes of `ClassSums`: there is a ranking for two classes, and of more one for each and one
    of the confidence."""
    rankings = 1 if outputs == 1 else outputs + 1
    scores = min(SCORES_KEPT, rankings * n_rows)
    return SumsRoom(
        leaf_bytes=(_CLASS_ROW_BYTES + _CLASS_VALUE_BYTES * outputs) * leaf_rows,
        kept_bytes=_KEPT_BYTES * scores + 8 * max(2, outputs) ** 2,
        adding_bytes=_ADDING_BYTES * min(2 * SCORES_KEPT, rankings * n_rows),
        apart_bytes=_KEPT_BYTES * rankings * n_rows + 8 * max(2, outputs) ** 2,
    )


def room_of_numbers(outputs: int, leaf_rows: int, n_rows: int) -> SumsRoom:
    """Bytes of `RegressionSums`, of which a leaf alone has any to speak of."""
    del n_rows
    return SumsRoom(leaf_bytes=_NUMBER_ROW_BYTES * outputs * leaf_rows)
