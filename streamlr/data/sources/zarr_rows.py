"""Features in an opened Zarr array, which travel to workers as the array that they are, and are
looked for there before they are read."""

from __future__ import annotations

import functools
import json
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore, MemoryStore

from streamlr.config.sections import public_url
from streamlr.data.chunks.retries import Retries
from streamlr.data.chunks.stored_array import StoredArray
from streamlr.data.chunks.wrapped import is_far, with_time_outs
from streamlr.data.conventions.columns import count_gaps
from streamlr.data.conventions.marks import FillValue, marks_of_given
from streamlr.data.records import local_store
from streamlr.data.source import Buffer, Rows
from streamlr.errors import ShapeError, StoreNotFoundError
from streamlr.kernels.gaps import Marks


class ZarrRows:
    """A Zarr array, read by its chunks in every pass; a chunk that is absent holds the fill value,
    as it does for Zarr.

    Parameters
    ----------
    array
        The opened array, (m, n).
    start, stop
        The rows that are meant.
    fill_value
        What a fill value of Zarr 2 stands for (see `streamlr.data.conventions.marks`).
    travelled
        Whether it was opened in another process, so that it may not be there.
    """

    def __init__(
        self,
        array: zarr.Array[Any],
        start: int = 0,
        stop: int | None = None,
        fill_value: FillValue = None,
        *,
        travelled: bool = False,
    ) -> None:
        self._array = array if travelled else seen_from_anywhere(array)
        self._fill_value = fill_value
        self._travelled = travelled
        self._start = start
        self._stop = array.shape[0] if stop is None else stop
        if not travelled:
            _ = self._stored, self._marks  # what cannot be read is refused here

    def __reduce__(self) -> tuple[Any, ...]:
        known = self._array, self._start, self._stop, self._fill_value
        return functools.partial(ZarrRows, travelled=True), known

    @functools.cached_property
    def _stored(self) -> StoredArray:
        if self._travelled:
            return _stored_there(_Place.of(self._array))
        return _stored(self._array)

    @functools.cached_property
    def _marks(self) -> Marks | None:
        return marks_of_given(self._array, "X", self._fill_value)

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
        return ZarrRows(self._array, self._start + start, self._start + stop, self._fill_value)

    def read(self, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        first, last = self._start + start, self._start + stop
        rows = self._stored.read(first, last, buffer)
        if self._marks is not None and self._marks.where(rows).any():
            raise self._marks.refusal(count_gaps(self._stored, self._marks), self.chunk_rows)
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
    """Open an array that has travelled; where it is not seen from this process, Zarr would read
    fill values in its place.

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
    return _stored(place.array)


def _stored(array: zarr.Array[Any]) -> StoredArray:
    """What reads an array, and tries again what fails as networks do where that is elsewhere."""
    far = is_far(array.store)
    return StoredArray(with_time_outs(array), fill_missing=True, retries=Retries(far=far))
