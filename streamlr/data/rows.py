"""Features that people bring as other things than plain arrays, read by rows: sparse matrices, Zarr arrays, Dask arrays and frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from streamlr.data.dask_rows import DaskArray, DaskFrame, DaskRows
from streamlr.data.source import Buffer, Rows, rows_of_memory_chunk
from streamlr.data.sparse_rows import SparseMatrix, SparseRows, StoredMatrix, StoredSparseRows
from streamlr.data.zarr_rows import ZarrRows
from streamlr.errors import DtypeError

Elsewhere = ZarrRows | DaskRows | StoredSparseRows
"""Rows that are not in memory."""


def stored_rows(X: Any) -> Elsewhere | None:
    """The rows of what stays where it is, such as a Zarr array or a Dask array or frame; None for anything else.

    Raises
    ------
    DtypeError
        For what cannot be read by rows of numbers.
    """
    if isinstance(X, zarr.Array):
        return ZarrRows(X)
    if isinstance(X, zarr.Group):
        raise DtypeError(
            f"X is the Zarr group {X.name!r}, and features are an array; give one of those in it, or of a sparse "
            "matrix that anndata has written anndata.io.sparse_dataset(X)")
    if isinstance(X, StoredMatrix):
        return StoredSparseRows.of(X)
    if isinstance(X, DaskFrame):
        return DaskRows.of_frame(X) if X.ndim == 2 else None
    return DaskRows.of_array(X) if isinstance(X, DaskArray) else None


def rows_of(X: Any) -> NDArray[Any] | Rows:
    """What features are read from: a plain array, or rows that are not one; those of Dask are counted where need be."""
    rows = X if isinstance(X, SparseRows | Elsewhere) else stored_rows(X)
    if rows is None:
        return SparseRows(X.tocsr()) if isinstance(X, SparseMatrix) else np.asarray(X)
    return rows.counted() if isinstance(rows, DaskRows) and len(rows.shape) == 2 else rows


def in_memory(values: Any) -> Any:
    """Labels or weights, (m,), that Zarr or Dask hold elsewhere, brought here; anything else as it is."""
    return np.asarray(values) if isinstance(values, zarr.Array | DaskArray | DaskFrame) else values


def labels_of(y: Any) -> NDArray[Any]:
    """Labels of a type that sorts and travels: Python objects become text or numbers."""
    labels = np.asarray(y)
    return np.array(labels.tolist()) if labels.dtype.kind in "OT" else labels


def read_all_by_blocks(X: NDArray[Any] | Rows, function: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
    """What a function makes of every row, (m,) or (m, c), from blocks of rows, of which one at a time is in memory."""
    m, step = X.shape[0], rows_of_memory_chunk(max(1, X.shape[1]) * 8)
    if isinstance(X, np.ndarray):
        return np.concatenate([function(X[start : start + step]) for start in range(0, m, step)])
    buffer, step = Buffer(), max(1, step // X.chunk_rows) * X.chunk_rows
    return np.concatenate([function(X.read(start, min(start + step, m), buffer)) for start in range(0, m, step)])
