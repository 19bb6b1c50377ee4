"""Rows that stay in memory after their first read, decoded, for sources of which a fixed part
fits."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from streamlr.data.source import Buffer, ForwardingSource, Source
from streamlr.kernels.columns import Columns


class ResidentRows(ForwardingSource):
    """A source that keeps what it has read of its first rows, in the memory order in which it was
    read.

    Which rows are kept is fixed, and not the last ones read: a scan over more than fits would push
    out of a cache each block just before it is wanted again.

    Parameters
    ----------
    source
        Where the rows come from.
    first_row, stop_row
        The rows to keep.
    """

    def __init__(self, source: Source, first_row: int, stop_row: int) -> None:
        self.source = source
        self._first_row = first_row
        self._stop_row = stop_row
        self._features: dict[tuple[int, int], NDArray[Any]] = {}
        self._columns: dict[tuple[int, int, bool], Columns] = {}

    def read_features(self, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        kept = self._features.get((start, stop))
        if kept is None:
            if not self._keeps(start, stop):
                return self.source.read_features(start, stop, buffer)
            own = buffer.lend(Buffer())  # decoded to pages that stay, which saves a copy
            kept = self.source.read_features(start, stop, own)
            self._features[start, stop] = kept
            buffer.take_back(own)
        return kept

    def read_columns(self, start: int, stop: int, *, labels: bool = True) -> Columns:
        kept = self._columns.get((start, stop, labels)) or self._columns.get((start, stop, True))
        if kept is None:
            kept = self.source.read_columns(start, stop, labels=labels)
            if self._keeps(start, stop):
                # what a source hands over may be a view of what it reads next into
                target = None if kept.target is None else kept.target.copy()
                kept = self._columns[start, stop, labels] = replace(kept, target=target)
        return kept

    def _keeps(self, start: int, stop: int) -> bool:
        return self._first_row <= start and stop <= self._stop_row

    def __sizeof__(self) -> int:
        """Bytes held, which is what Dask asks when it accounts for a worker's memory."""
        features = sum(rows.nbytes for rows in self._features.values())
        columns = sum(kept.nbytes for kept in self._columns.values())
        return sys.getsizeof(self._features) + features + columns
