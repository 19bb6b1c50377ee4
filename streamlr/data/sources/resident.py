"""Rows that stay in memory after their first read, decoded, for sources of which a fixed part fits."""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.data.footprint import Footprint
from streamlr.data.source import Buffer, Source
from streamlr.kernels.gaps import Marks


class HeldRows:
    """A source that keeps what it has read of its first rows, in the memory order in which it was read.

    Which rows are kept is fixed, and not the last ones read: a scan over more than fits would push out of a cache each
    block just before it is wanted again.

    Parameters
    ----------
    source
        Where the rows come from.
    first_row, stop_row
        The rows to keep.
    """

    def __init__(self, source: Source, first_row: int, stop_row: int) -> None:
        self._source = source
        self._first_row = first_row
        self._stop_row = stop_row
        self._features: dict[tuple[int, int], NDArray[Any]] = {}
        self._target: dict[tuple[int, int], NDArray[Any]] = {}
        self._weights: dict[tuple[int, int], NDArray[np.float64] | None] = {}
        self._offset: dict[tuple[int, int], NDArray[np.float64] | None] = {}
        self._groups: dict[tuple[int, int], NDArray[np.uint64] | None] = {}

    @property
    def n_rows(self) -> int:
        return self._source.n_rows

    @property
    def n_features(self) -> int:
        return self._source.n_features

    @property
    def dtype(self) -> np.dtype[Any]:
        return self._source.dtype

    @property
    def chunk_rows(self) -> int:
        return self._source.chunk_rows

    @property
    def unit_rows(self) -> int:
        return self._source.unit_rows

    @property
    def weighted(self) -> bool:
        return self._source.weighted

    @property
    def has_offset(self) -> bool:
        return self._source.has_offset

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        return self._source.feature_names

    @property
    def marks(self) -> Marks | None:
        return self._source.marks

    @property
    def mask(self) -> Source | None:
        return self._source.mask

    @property
    def stored_bytes(self) -> int | None:
        return self._source.stored_bytes

    @property
    def modified(self) -> str | None:
        return self._source.modified

    def describe(self, what: str) -> str:
        return self._source.describe(what)

    def footprint(self, rows: int) -> Footprint:
        return self._source.footprint(rows)

    def label_footprint(self, rows: int) -> Footprint:
        return self._source.label_footprint(rows)

    def read_features(self, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        kept = self._features.get((start, stop))
        if kept is None:
            if not (self._first_row <= start and stop <= self._stop_row):
                return self._source.read_features(start, stop, buffer)
            own = buffer.lend(Buffer())  # decoded to pages that stay, which saves a copy
            kept = self._features[start, stop] = self._source.read_features(start, stop, own)
            buffer.take_back(own)
        return kept

    def read_target(self, start: int, stop: int) -> NDArray[Any]:
        kept = self._target.get((start, stop))
        if kept is None:
            kept = self._source.read_target(start, stop)
            if self._first_row <= start and stop <= self._stop_row:
                kept = self._target[start, stop] = kept.copy()
        return kept

    def read_weights(self, start: int, stop: int) -> NDArray[np.float64] | None:
        if (start, stop) in self._weights:
            return self._weights[start, stop]
        weights = self._source.read_weights(start, stop)
        if self._first_row <= start and stop <= self._stop_row:
            self._weights[start, stop] = weights
        return weights

    def read_offset(self, start: int, stop: int) -> NDArray[np.float64] | None:
        if (start, stop) in self._offset:
            return self._offset[start, stop]
        offset = self._source.read_offset(start, stop)
        if self._first_row <= start and stop <= self._stop_row:
            self._offset[start, stop] = offset
        return offset

    def read_groups(self, start: int, stop: int) -> NDArray[np.uint64] | None:
        if (start, stop) in self._groups:
            return self._groups[start, stop]
        groups = self._source.read_groups(start, stop)
        if self._first_row <= start and stop <= self._stop_row:
            self._groups[start, stop] = groups
        return groups

    def __sizeof__(self) -> int:
        """Bytes held, which is what Dask asks when it accounts for a worker's memory."""
        arrays = [*self._features.values(), *self._target.values(), *(w for w in self._weights.values() if w is not None),
                  *(o for o in self._offset.values() if o is not None), *(g for g in self._groups.values() if g is not None)]
        return sys.getsizeof(self._features) + sum(array.nbytes for array in arrays)
