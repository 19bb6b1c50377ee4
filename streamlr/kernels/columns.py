"""What stands beside the features of some rows: one record, from the store to the kernel."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Columns:
    """Target, weights, offset and groups of k rows; None for what there is not, or nobody asked."""

    target: NDArray[Any] | None = None
    """Labels or numbers as stored, (k,)."""
    weights: Array | None = None
    """Sample weights, (k,); None where every example weighs 1."""
    offset: Array | None = None
    """Added to Z, (k,); None for nothing."""
    groups: NDArray[np.uint64] | None = None
    """Key of the group that each example belongs to, (k,); None where every example is its own."""

    def part(self, rows: slice | NDArray[Any]) -> Columns:
        """Those of some of the rows."""
        return Columns(*(None if values is None else values[rows] for values in self.arrays))

    @property
    def arrays(self) -> tuple[NDArray[Any] | None, ...]:
        """All four, in their order."""
        return self.target, self.weights, self.offset, self.groups

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(values.nbytes for values in self.arrays if values is not None)


def joined(parts: list[Columns]) -> Columns:
    """Those of consecutive rows in one."""

    def join(name: str) -> NDArray[Any] | None:
        each = [getattr(part, name) for part in parts]
        return None if each[0] is None else np.concatenate(each)

    return Columns(join("target"), join("weights"), join("offset"), join("groups"))
