"""Some of the features of a source, in an order of their own."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.data.footprint import Footprint
from streamlr.data.source import Buffer, ForwardingSource, Source


@dataclass(frozen=True)
class SelectedFeatures(ForwardingSource):
    """A source of which only some features are seen; what the others hold does not matter."""

    source: Source
    """Where the rows come from."""
    selected: NDArray[np.intp]
    """Number of each feature in that source, (n,)."""

    @property
    def n_features(self) -> int:
        return len(self.selected)

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        names = self.source.feature_names
        return None if names is None else tuple(names[j] for j in self.selected.tolist())

    @property
    def mask(self) -> Source | None:
        mask = self.source.mask
        return None if mask is None else SelectedFeatures(mask, self.selected)

    def part(self, start: int, stop: int) -> Source:
        return replace(self, source=self.source.part(start, stop))

    def footprint(self, rows: int) -> Footprint:
        """The rows as they are read, and those that are selected of them."""
        whole = self.source.footprint(rows)
        return Footprint(
            whole.decoded_bytes + rows * self.n_features * self.dtype.itemsize,
            whole.stored_bytes,
            whole.passing_bytes,
            whole.shared_bytes,
        )

    def read_features(self, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        X = self.source.read_features(start, stop, buffer)  # (features of the source, rows)
        # rows stay rows in memory, and columns columns
        return (
            np.take(X, self.selected, axis=0)
            if X.flags.c_contiguous
            else np.take(X.T, self.selected, axis=1).T
        )
