"""Features that people bring as other things than plain arrays, read by rows: sparse matrices, Zarr arrays and Dask arrays."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import zarr
from numpy.typing import NDArray

from streamlr.data.arrays import StoredArray
from streamlr.data.source import Buffer, Rows, rows_of_memory_chunk
from streamlr.errors import DtypeError, LabelError, ShapeError


@runtime_checkable
class SparseMatrix(Protocol):
    """What SciPy's sparse matrices and arrays have in common."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def tocsr(self) -> Any:
        """The same by rows; itself where it is so already."""
        ...

    def toarray(self, order: Any = None, out: Any = None) -> NDArray[Any]:
        """All of it, dense."""
        ...


@runtime_checkable
class DaskArray(Protocol):
    """What is used of a Dask array; only the engines import Dask."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    chunks: tuple[tuple[int, ...], ...]

    def __dask_graph__(self) -> Any: ...

    def __getitem__(self, index: Any) -> Any: ...

    def rechunk(self, chunks: Any) -> Any: ...

    def map_blocks(self, function: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class SparseRows:
    """A sparse matrix by rows, of which only what is read is ever dense."""

    matrix: Any
    """The matrix in the format CSR, (m, n)."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.matrix.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.matrix.dtype)

    @property
    def chunk_rows(self) -> int:
        return rows_of_memory_chunk(self.shape[1] * self.dtype.itemsize)

    @property
    def stored_bytes(self) -> int | None:
        return 0

    def part(self, start: int, stop: int) -> Rows:
        return SparseRows(self.matrix[start:stop])

    def read(self, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        out = buffer.array((stop - start, self.shape[1]), self.dtype)
        self.matrix[start:stop].toarray(out=out)
        return out


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

    def part(self, start: int, stop: int) -> Rows:
        return ZarrRows(self._array, self._start + start, self._start + stop)

    def read(self, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        first, last = self._start + start, self._start + stop
        rows = self._stored.read(first, last, buffer)
        self._stored.prefetch(last, min(last + stop - start, self._stop))
        return rows


@dataclass(frozen=True, slots=True)
class DaskRows:
    """A Dask array, computed by its blocks of rows in every pass, each by the thread that wants it."""

    array: Any
    """The array, (m, n)."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.array.dtype)

    @property
    def chunk_rows(self) -> int:
        return max(1, *self.array.chunks[0])

    @property
    def stored_bytes(self) -> int | None:
        return None

    def part(self, start: int, stop: int) -> Rows:
        return DaskRows(self.array[start:stop])

    def read(self, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        del buffer
        return np.asarray(self.array[start:stop].compute(scheduler="synchronous"))

    def map(self, function: Callable[[NDArray[Any]], NDArray[Any]], n_columns: int, dtype: np.dtype[Any]) -> Any:
        """A Dask array of what a function makes of each block of rows, not computed yet: (m,), or (m, n_columns) of more than none."""
        blocks = self.array.rechunk({1: -1})
        meta = np.empty((0,) * (1 + (n_columns > 0)), dtype=dtype)
        if n_columns:
            return blocks.map_blocks(function, dtype=dtype, chunks=(self.array.chunks[0], (n_columns,)), meta=meta)
        return blocks.map_blocks(function, dtype=dtype, drop_axis=1, meta=meta)


def stored_rows(X: Any) -> ZarrRows | DaskRows | None:
    """The rows of a Zarr or Dask array, which stay where they are; None for anything else."""
    if isinstance(X, zarr.Array):
        return ZarrRows(X)
    return DaskRows(X) if isinstance(X, DaskArray) else None


def rows_of(X: Any) -> NDArray[Any] | Rows:
    """What features are read from: a plain array, or rows that are not one.

    Raises
    ------
    ShapeError
        For a Dask array that does not know how many rows it has.
    """
    rows = X if isinstance(X, SparseRows | ZarrRows | DaskRows) else stored_rows(X)
    if rows is None:
        return SparseRows(X.tocsr()) if isinstance(X, SparseMatrix) else np.asarray(X)
    if np.isnan(rows.shape[0]):
        raise ShapeError(f"X is a Dask array of the unknown shape {rows.shape}; call its compute_chunk_sizes() first")
    return rows


def labels_of(y: Any) -> NDArray[Any]:
    """Labels of a type that sorts and travels: Python objects become text or numbers.

    Raises
    ------
    LabelError
        When one of them is None, NaN or pandas' NA among objects.
    DtypeError
        When they are neither numbers nor text.
    """
    labels = np.asarray(y)
    if labels.dtype.kind == "U" and isinstance(y, list | tuple):
        labels = np.asarray(y, dtype=object)  # NumPy has made text of a NaN among texts
    if labels.dtype.kind not in "OT":
        return labels
    refuse_gaps(labels)
    plain = np.array(labels.tolist())
    if plain.dtype.kind != "O":
        return plain
    try:
        return plain.astype(np.float64)  # decimals and fractions
    except (TypeError, ValueError) as error:
        kind = type(plain.flat[0]).__name__
        raise DtypeError(
            f"y holds objects of the type {kind}; labels must be integers, bools, floats or text"
        ) from error


def refuse_gaps(labels: NDArray[Any]) -> None:
    """Refuse Python objects, (m,), among which some stand for no label; else `nan` would be a class.

    Raises
    ------
    LabelError
        With their number, and the first.
    """
    values = labels.ravel().tolist()
    gaps = [row for row, value in enumerate(values) if _is_gap(value)]
    if gaps:
        raise LabelError(
            f"y holds {len(gaps)} missing label{'s' * (len(gaps) > 1)} (first: {values[gaps[0]]} at "
            f"row {gaps[0]}); drop or label those rows"
        )


def _is_gap(value: Any) -> bool:
    """Whether an object equals nothing: None, NaN, or pandas' NA, whose comparisons are NA."""
    same = value == value  # which NaN does not
    return value is None or not (isinstance(same, bool | np.bool_) and same)


def read_all_by_blocks(X: NDArray[Any] | Rows, function: Callable[[NDArray[Any]], NDArray[Any]]) -> NDArray[Any]:
    """What a function makes of every row, (m,) or (m, c), from blocks of rows, of which one at a time is in memory."""
    m, step = X.shape[0], rows_of_memory_chunk(max(1, X.shape[1]) * 8)
    if isinstance(X, np.ndarray):
        return np.concatenate([function(X[start : start + step]) for start in range(0, m, step)])
    buffer, step = Buffer(), max(1, step // X.chunk_rows) * X.chunk_rows
    return np.concatenate([function(X.read(start, min(start + step, m), buffer)) for start in range(0, m, step)])
