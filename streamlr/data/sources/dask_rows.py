"""Features in Dask arrays and frames, computed block by block in every pass, each by the thread
that wants it.

A block is a run of rows that Dask computes together: a chunk of an array, or a partition of a
frame. It may be a plain array or any of SciPy's sparse matrices, which is made dense where it is
computed. How many rows the blocks have must be known; where Dask does not know it, one more pass
counts them.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from functools import partial
from itertools import accumulate
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from streamlr.data.source import Buffer, Rows
from streamlr.data.sources.sparse_rows import SparseMatrix
from streamlr.errors import DtypeError, ShapeError

_NAMED = 5


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


@runtime_checkable
class DaskFrame(Protocol):
    """What is used of a Dask frame, or of a series, which is a column of one."""

    ndim: int
    columns: Any
    dtypes: Any
    npartitions: int

    def __dask_graph__(self) -> Any: ...

    def map_partitions(self, function: Any) -> Any: ...


@runtime_checkable
class NullableDtype(Protocol):
    """Types of pandas' columns of numbers in which some may be missing."""

    numpy_dtype: np.dtype[Any]


class DaskRows:
    """Rows of a Dask array or frame.

    Parameters
    ----------
    array
        The rows as a Dask array whose blocks are dense, (m, n).
    framed
        Whether its blocks are made of partitions of a frame.
    chunk_rows
        Rows of the largest block, where this is a part of a larger array; None where it is not.

    Notes
    -----
    Rows that are read together rarely end where a block does, if blocks differ in length. What is
    left of the last block is kept, for the same thread will want it next; so most blocks are
    computed once.
    """

    def __init__(self, array: Any, *, framed: bool = False, chunk_rows: int | None = None) -> None:
        self.array = array
        self._framed = framed
        self._chunk_rows = chunk_rows
        self._left = threading.local()
        self._ends: list[int] = []

    def __reduce__(self) -> tuple[Any, ...]:
        made = partial(DaskRows, framed=self._framed, chunk_rows=self._chunk_rows)
        return made, (self.array,)

    @classmethod
    def of_array(cls, array: DaskArray) -> DaskRows:
        """The rows of an array, whatever its blocks are."""
        dtype = np.dtype(array.dtype)
        meta = np.empty((0,) * len(array.shape), dtype=dtype)
        mapped: Any = array.map_blocks
        return cls(mapped(_dense, dtype, dtype=dtype, meta=meta))

    @classmethod
    def of_frame(cls, frame: DaskFrame) -> DaskRows:
        """The rows of a frame of numbers, in the smallest type that holds those of all columns.

        Raises
        ------
        DtypeError
            Names the columns that hold anything else.
        """
        dtype = dtype_of_columns(frame)
        mapped: Any = frame.map_partitions
        meta = np.empty((0, len(frame.columns)), dtype=dtype)
        return cls(mapped(_values_of, dtype, meta=meta), framed=True)

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.array.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.array.dtype)

    @property
    def chunk_rows(self) -> int:
        return self._chunk_rows or max(1, *self.array.chunks[0])

    @property
    def stored_bytes(self) -> int | None:
        return None

    @property
    def passing_bytes(self) -> int:
        """A partition of a frame, and where blocks differ in length a block and what is left of
        one."""
        *most, _ = self.array.chunks[0]
        block_bytes = self.chunk_rows * self.shape[1] * self.dtype.itemsize
        return block_bytes * (2 * self._framed + 2 * (len(set(most)) > 1))

    def counted(self) -> DaskRows:
        """The same with the number of rows of every block, which takes a pass where Dask does not
        know it.

        Raises
        ------
        ShapeError
            When blocks beside one another have different numbers of rows.
        """
        if not np.isnan(self.shape).any():
            return self
        blocks = tuple(map(len, self.array.chunks))
        sizes = self.array.map_blocks(
            _size,
            dtype=np.int64,
            chunks=((1,) * blocks[0], (2,) * blocks[1]),
            meta=np.empty((0, 0), np.int64),
        )
        found = sizes.compute(scheduler="threads").reshape(*blocks, 2)
        if (
            found != np.stack(np.broadcast_arrays(found[:, :1, 0], found[:1, :, 1]), axis=-1)
        ).any():
            raise ShapeError(
                "blocks of X that stand beside one another differ in their numbers of rows, or "
                "those "
                "below one another in their numbers of columns; rechunk X, or mend what computes it"
            )
        chunks = tuple(found[:, 0, 0].tolist()), tuple(found[0, :, 1].tolist())
        known = type(self.array)(self.array.dask, self.array.name, chunks, meta=self.array._meta)
        return DaskRows(known, framed=self._framed)

    def part(self, start: int, stop: int) -> Rows:
        """Some of the rows, with no more of Dask's graph than they need; chunks keep the numbers
        that messages name."""
        rows = _culled(self.array[start:stop])
        return DaskRows(rows, framed=self._framed, chunk_rows=self.chunk_rows)

    def read(self, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        """Rows of whole blocks as they are computed, others in rows that lie one after the
        other."""
        ends = self._ends_of_blocks()
        first, last = ends[bisect_right(ends, start) - 1], ends[bisect_left(ends, stop)]
        left_from, left = getattr(self._left, "rows", (0, None))
        self._left.rows = (0, None)
        if (first, last) == (start, stop):
            return self._computed(start, stop)
        out = buffer.array((stop - start, self.shape[1]), self.dtype)
        filled = 0
        if left is not None and left_from == start:
            filled = min(len(left), stop - start)
            out[:filled] = left[:filled]
            first = start + len(left)
            self._left.rows = (stop, left[filled:])
        if filled < stop - start:
            rows = self._computed(first, last)
            out[filled:] = rows[start + filled - first : stop - first]
            self._left.rows = (stop, rows[stop - first :].copy())
        return out

    def map(
        self, function: Callable[[NDArray[Any]], NDArray[Any]], n_columns: int, dtype: np.dtype[Any]
    ) -> Any:
        """A Dask array of what a function makes of each block of rows, not computed yet: (m,), or
        (m, n_columns) of more than none."""
        blocks = self.array.rechunk({1: -1})
        meta = np.empty((0,) * (1 + (n_columns > 0)), dtype=dtype)
        if n_columns:
            return blocks.map_blocks(
                function, dtype=dtype, chunks=(self.array.chunks[0], (n_columns,)), meta=meta
            )
        return blocks.map_blocks(function, dtype=dtype, drop_axis=1, meta=meta)

    def _ends_of_blocks(self) -> list[int]:
        """Where blocks end, from 0 on."""
        if not self._ends:
            self._ends = [int(end) for end in accumulate(self.array.chunks[0], initial=0)]
        return self._ends

    def _computed(self, start: int, stop: int) -> NDArray[Any]:
        """Rows of whole blocks.

        Raises
        ------
        ShapeError
            When blocks have other numbers of rows than Dask was told.
        """
        rows = np.asarray(self.array[start:stop].compute(scheduler="synchronous"))
        if rows.shape != (stop - start, self.shape[1]):
            raise ShapeError(
                f"the rows {start} to {stop - 1} of X were computed to the shape {rows.shape}, "
                "and its chunks promise "
                f"{(stop - start, self.shape[1])}; mend what computes them, or call "
                "X.compute_chunk_sizes()"
            )
        return rows


def dtype_of_columns(frame: DaskFrame) -> np.dtype[Any]:
    """The smallest type that holds the numbers of all columns; a float where some may be missing.

    Raises
    ------
    DtypeError
        Names the columns that hold no numbers.
    """
    found = {name: _dtype_of(kind) for name, kind in zip(frame.columns, frame.dtypes, strict=True)}
    odd = [
        f"{name!r} ({kind})"
        for (name, dtype), kind in zip(found.items(), frame.dtypes, strict=True)
        if dtype is None
    ]
    if odd:
        more = f" and {len(odd) - _NAMED} more" if len(odd) > _NAMED else ""
        raise DtypeError(
            f"columns of X hold no numbers: {', '.join(odd[:_NAMED])}{more}; leave them out, or "
            "turn them into numbers"
        )
    return np.result_type(*[dtype for dtype in found.values() if dtype is not None])


def _dtype_of(kind: Any) -> np.dtype[Any] | None:
    """How a column of a frame is read; None where it holds no numbers."""
    dtype = kind.numpy_dtype if isinstance(kind, NullableDtype) else kind
    if not isinstance(dtype, np.dtype) or dtype.kind not in "biuf":
        return None
    return np.result_type(dtype, np.float16) if isinstance(kind, NullableDtype) else dtype


def _dense(block: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """A block as a plain array of the type that the whole array has."""
    values = block.toarray(order="C") if isinstance(block, SparseMatrix) else np.asarray(block)
    return values.astype(dtype, copy=False)


def _values_of(frame: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """The numbers of a partition, (k, n), NaN where one is missing."""
    missing = {"na_value": np.nan} if dtype.kind == "f" else {}
    try:
        return np.ascontiguousarray(frame.to_numpy(dtype=dtype, **missing))
    except (TypeError, ValueError) as error:
        raise DtypeError(
            f"a partition of X holds something else than the numbers ({dtype}) that its columns "
            f"promise: {error}"
        ) from error


def _size(block: NDArray[Any]) -> NDArray[np.int64]:
    """Rows and columns of a block, (1, 2)."""
    return np.array([block.shape], dtype=np.int64)


def _culled(array: Any) -> Any:
    """The same array with a graph that makes no other, by Dask's protocol of collections."""
    graph = array.__dask_optimize__(array.__dask_graph__(), array.__dask_keys__())
    rebuild, arguments = array.__dask_postpersist__()
    return rebuild(graph, *arguments)
