"""Blocks of rows for kernels, written down shortly."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from streamlr.kernels.batch import Batch
from streamlr.kernels.columns import Columns

Values = NDArray[Any] | None


def batch_of(
    first_row: int,
    X: NDArray[Any],
    target: Values = None,
    weights: Values = None,
    offset: Values = None,
    groups: Values = None,
) -> Batch:
    """Rows from ``first_row`` on: X, (n, k), and what stands beside it, (k,) each."""
    return Batch(first_row, X, Columns(target, weights, offset, groups))
