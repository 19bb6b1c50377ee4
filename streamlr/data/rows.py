"""Features that people bring as other things than plain arrays, read by rows: sparse matrices, Zarr arrays and Dask arrays."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore, MemoryStore

from streamlr.config import public_url
from streamlr.data.arrays import StoredArray
from streamlr.data.records import local_store
from streamlr.data.source import Buffer, Rows, rows_of_memory_chunk
from streamlr.errors import ShapeError, StoreNotFoundError


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
    travelled
        Whether it was opened in another process, so that it may not be there.
    """

    def __init__(
        self,
        array: zarr.Array[Any],
        start: int = 0,
        stop: int | None = None,
        *,
        travelled: bool = False,
    ) -> None:
        self._array = array if travelled else seen_from_anywhere(array)
        self._travelled = travelled
        self._start = start
        self._stop = array.shape[0] if stop is None else stop
        if not travelled:
            _ = self._stored  # what cannot be read is refused here

    def __reduce__(self) -> tuple[Any, ...]:
        return functools.partial(ZarrRows, travelled=True), (self._array, self._start, self._stop)

    @functools.cached_property
    def _stored(self) -> StoredArray:
        if self._travelled:
            return _stored_there(_Place.of(self._array))
        return StoredArray(self._array, fill_missing=True)

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


def seen_from_anywhere(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """The same array; where it was opened by a relative path, by its path from the root on, since
    workers may stand in other folders."""
    store = array.store
    if not isinstance(store, LocalStore) or store.root.is_absolute():
        return array
    root = local_store(store.root.absolute(), read_only=True)
    return zarr.open_array(root, path=array.path, mode="r")


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an array is, and what it is: the same for all parts of it that come to a process."""

    where: str
    """Its address, without what may be secret."""
    metadata: str
    """Shape, type, chunks and codecs."""
    own: int
    """Tells apart stores in memory, which have no address."""
    array: zarr.Array[Any] = field(compare=False)
    """The array as it travelled."""

    @classmethod
    def of(cls, array: zarr.Array[Any]) -> _Place:
        own = id(array) if isinstance(array.store, MemoryStore) else 0
        return cls(public_url(str(array.store_path)), _metadata_of(array), own, array)


def _metadata_of(array: zarr.Array[Any]) -> str:
    metadata = array.metadata.to_dict()
    stated = {key: value for key, value in metadata.items() if key != "attributes"}
    return json.dumps(stated, sort_keys=True, default=str)


@functools.lru_cache(maxsize=4)
def _stored_there(place: _Place) -> StoredArray:
    """Open an array that has travelled; where it is not seen from this process, Zarr would read fill
    values in its place.

    Raises
    ------
    StoreNotFoundError, ShapeError
        When there is none, or another.
    """
    try:
        here = zarr.open_array(place.array.store, path=place.array.path, mode="r")
    except Exception as error:  # stores raise whatever they like
        why = type(error).__name__
        raise StoreNotFoundError(f"no Zarr array at {place.where} ({why})") from error
    if _metadata_of(here) != place.metadata:
        raise ShapeError(
            f"the array at {place.where} has another shape, type or chunks here than where the run "
            "started; all workers must see the same one"
        )
    return StoredArray(place.array, fill_missing=True)


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
