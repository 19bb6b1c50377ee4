"""Features that people bring as other things than plain arrays, read by rows: sparse matrices, Zarr arrays, Dask arrays and frames."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from streamlr.data.arrays import StoredArray
from streamlr.data.dask_rows import DaskArray, DaskFrame, DaskRows
from streamlr.data.source import Buffer, Rows, rows_of_memory_chunk
from streamlr.data.sparse_rows import SparseMatrix, SparseRows, StoredMatrix, StoredSparseRows
from streamlr.errors import DtypeError


class ZarrRows:
    """A Zarr array, read by its chunks in every pass; a chunk that is absent holds the fill value, as it does for Zarr.

    Parameters
    ----------
    array
        The opened array, (m, n).
    start, stop
        The rows that are meant.
    """

    def __init__(self, array: zarr.Array[Any], start: int = 0, stop: int | None = None) -> None:
        self._array = array
        self._stored = StoredArray(array, fill_missing=True)
        self._start = start
        self._stop = array.shape[0] if stop is None else stop

    def __reduce__(self) -> tuple[Any, ...]:
        return ZarrRows, (self._array, self._start, self._stop)

    @property
    def shape(self) -> tuple[int, ...]:
        return (self._stop - self._start, *self._stored.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._stored.dtype

    @property
    def chunk_rows(self) -> int:
        return self._stored.chunk_rows

    @property
    def stored_bytes(self) -> int | None:
        return self._stored.stored_bytes()

    @property
    def passing_bytes(self) -> int:
        return 0

    def part(self, start: int, stop: int) -> Rows:
        return ZarrRows(self._array, self._start + start, self._start + stop)

    def read(self, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        first, last = self._start + start, self._start + stop
        rows = self._stored.read(first, last, buffer)
        self._stored.prefetch(last, min(last + stop - start, self._stop))
        return rows


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
