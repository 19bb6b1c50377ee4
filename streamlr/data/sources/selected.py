"""Some of the features of a source, in an order of their own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.data.footprint import Footprint
from streamlr.data.source import Buffer, Source
from streamlr.kernels.gaps import Marks


@dataclass(frozen=True)
class SelectedFeatures:
    """A source of which only some features are seen; what the others hold does not matter."""

    source: Source
    """Where the rows come from."""
    columns: NDArray[np.intp]
    """Number of each feature in that source, (n,)."""

    @property
    def n_rows(self) -> int:
        return self.source.n_rows

    @property
    def n_features(self) -> int:
        return len(self.columns)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.source.dtype

    @property
    def chunk_rows(self) -> int:
        return self.source.chunk_rows

    @property
    def unit_rows(self) -> int:
        return self.source.unit_rows

    @property
    def weighted(self) -> bool:
        return self.source.weighted

    @property
    def has_offset(self) -> bool:
        return self.source.has_offset

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        names = self.source.feature_names
        return None if names is None else tuple(names[j] for j in self.columns.tolist())

    @property
    def marks(self) -> Marks | None:
        return self.source.marks

    @property
    def mask(self) -> Source | None:
        mask = self.source.mask
        return None if mask is None else SelectedFeatures(mask, self.columns)

    @property
    def stored_bytes(self) -> int | None:
        return self.source.stored_bytes

    @property
    def modified(self) -> str | None:
        return self.source.modified

    def describe(self, what: str) -> str:
        return self.source.describe(what)

    def footprint(self, rows: int) -> Footprint:
        """The rows as they are read, and those that are selected of them."""
        whole = self.source.footprint(rows)
        return Footprint(
            whole.decoded_bytes + rows * self.n_features * self.dtype.itemsize,
            whole.stored_bytes,
            whole.passing_bytes,
            whole.shared_bytes,
        )

    def label_footprint(self, rows: int) -> Footprint:
        return self.source.label_footprint(rows)

    def read_features(self, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        X = self.source.read_features(start, stop, buffer)
        # rows stay rows in memory, and columns columns
        return (
            np.take(X, self.columns, axis=0)
            if X.flags.c_contiguous
            else np.take(X.T, self.columns, axis=1).T
        )

    def read_target(self, start: int, stop: int) -> NDArray[Any]:
        return self.source.read_target(start, stop)

    def read_weights(self, start: int, stop: int) -> NDArray[np.float64] | None:
        return self.source.read_weights(start, stop)

    def read_offset(self, start: int, stop: int) -> NDArray[np.float64] | None:
        return self.source.read_offset(start, stop)

    def read_groups(self, start: int, stop: int) -> NDArray[np.uint64] | None:
        return self.source.read_groups(start, stop)
