"""What a kernel is given: a block of rows, and memory to work in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.columns import Columns
from streamlr.kernels.fold import S
from streamlr.kernels.memory import page_memory


@dataclass(frozen=True, slots=True)
class Batch:
    """A block of rows as it was read. Columns of ``X`` are examples."""

    first_row: int
    """Absolute number of the first row."""
    X: NDArray[np.generic]
    """Features, (n, k), in the data's own type and memory order: of rows read as (k, n) it is the
    transposed view."""
    columns: Columns = Columns()  # noqa: RUF009  # it is frozen
    """What stands beside them, as far as the scan asks for it."""

    @property
    def target(self) -> NDArray[Any] | None:
        return self.columns.target

    @property
    def weights(self) -> NDArray[np.float64] | None:
        return self.columns.weights

    @property
    def offset(self) -> NDArray[np.float64] | None:
        return self.columns.offset

    @property
    def groups(self) -> NDArray[np.uint64] | None:
        return self.columns.groups

    def leaves(self, leaf_rows: int) -> Iterator[slice]:
        """Consecutive runs of at most ``leaf_rows`` examples."""
        n_rows = self.X.shape[1]
        return (
            slice(start, min(start + leaf_rows, n_rows)) for start in range(0, n_rows, leaf_rows)
        )

    def weights_of(self, leaf: slice) -> NDArray[np.float64] | None:
        return None if self.weights is None else self.weights[leaf]

    def offset_of(self, leaf: slice) -> NDArray[np.float64] | None:
        return None if self.offset is None else self.offset[leaf]


def sum_over_leaves(batch: Batch, leaf_rows: int, leaf_sums: Callable[[slice], S]) -> S:
    """The sums over a batch: those of its leaves, added from first to last."""
    leaves = batch.leaves(leaf_rows)
    total = leaf_sums(next(leaves))
    for leaf in leaves:
        total = total + leaf_sums(
            leaf
        )  # functools.reduce would keep both terms while the next leaf is summed: two more Hessians
    return total


@dataclass(slots=True)
class Workspace:
    """Memory that one thread reuses from leaf to leaf, since fresh pages cost more than the
    arithmetic on them."""

    _leaf: NDArray[np.float64] = field(default_factory=lambda: np.empty(0))

    def float64_like(self, block: NDArray[np.generic]) -> NDArray[np.float64]:
        """An uninitialised float64 array of the shape (n, k) and memory order of ``block``."""
        size = block.size
        if self._leaf.size < size:
            self._leaf = np.empty(0)  # let go of the old pages before asking for new ones
            self._leaf = page_memory(8 * size).view(np.float64)
        flat = self._leaf
        rows_first = block.strides[0] < block.strides[1] or block.shape[1] == 1
        n, k = block.shape
        return flat[:size].reshape(k, n).T if rows_first else flat[:size].reshape(n, k)

    def cast(
        self, block: NDArray[np.generic], shift: NDArray[np.float64] | None = None
    ) -> NDArray[np.float64]:
        """``block``, (n, k), in float64, less ``shift`` of each feature; valid until the next
        call."""
        leaf = self.float64_like(block)
        np.copyto(leaf, block, casting="unsafe")
        if shift is not None:
            leaf -= shift[:, None]
        return leaf

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self._leaf.nbytes
