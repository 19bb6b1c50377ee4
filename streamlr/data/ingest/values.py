"""Columns of a table as NumPy arrays, to the last digit.

What they hold was looked at before: see `streamlr.data.ingest.survey`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamlr.data.ingest.cells import GapWords, read_cells, whole_numbers
from streamlr.data.ingest.column_facts import is_text


def numbers_of(column: Any, dtype: np.dtype[Any], gaps: GapWords) -> NDArray[Any]:
    """Values of a pyarrow column, (k,); a fraction that was written out becomes the nearest double.

    Decimals go by their digits: pyarrow's own conversion misses the nearest double now and then.
    """
    kind = column.type
    if pa.types.is_decimal(kind) or is_text(kind):
        texts = column.cast(pa.string())
        return (
            _whole(texts, dtype, gaps)
            if dtype.kind in "iu"
            else read_cells(texts, gaps).numbers.astype(dtype)
        )
    return np.asarray(column.to_numpy(zero_copy_only=False)).astype(dtype, copy=False)


def _whole(texts: Any, dtype: np.dtype[Any], gaps: GapWords) -> NDArray[Any]:
    try:
        return whole_numbers(texts, dtype)
    except pa.ArrowInvalid:  # truth values among them, beside which there are 0 and 1 alone
        return read_cells(texts, gaps).numbers.astype(dtype)


def labels_of(column: Any, dtype: np.dtype[Any], gaps: GapWords) -> NDArray[Any]:
    """Labels of a pyarrow column, (k,): text letter by letter, numbers to the last digit."""
    if dtype.kind != "U":
        return numbers_of(column, dtype, gaps)
    return np.asarray(column.cast(pa.string()).to_numpy(zero_copy_only=False)).astype(np.str_)


def plain(column: Any) -> Any:
    """A column without a dictionary."""
    return (
        pc.cast(column, column.type.value_type) if pa.types.is_dictionary(column.type) else column
    )
