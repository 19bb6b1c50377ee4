"""Sums by group: a member of a monoid holds those of the groups that its rows belong to."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamlr.errors import MemoryLimitError, option
from streamlr.kernels.batch import Batch, Workspace

Array = NDArray[np.float64]
Keys = NDArray[np.uint64]


@dataclass(frozen=True, slots=True)
class GroupSums:
    """The sum over the rows of each group: a commutative monoid."""

    keys: Keys
    """Keys of the groups, sorted, (g,)."""
    sums: Array
    """Of each, (g, d)."""

    def __add__(self, other: GroupSums) -> GroupSums:
        keys = np.union1d(self.keys, other.keys)
        sums = np.zeros((len(keys), self.sums.shape[1]))
        for part in (self, other):
            sums[np.searchsorted(keys, part.keys)] += part.sums
        return GroupSums(keys, sums)


def sum_by_group(keys: Keys, values: Array) -> GroupSums:
    """Sums of the values, (d, k), over the rows of each group, whose keys are (k,)."""
    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return GroupSums(ordered[starts], np.add.reduceat(values.T[order], starts, axis=0))


@dataclass(frozen=True, slots=True)
class GroupKeys:
    """The groups that some rows belong to: a commutative monoid."""

    keys: Keys
    """Sorted, (g,)."""
    most: int
    """More are refused."""
    name: str
    """How messages name the groups."""

    def __add__(self, other: GroupKeys) -> GroupKeys:
        return _checked(GroupKeys(np.union1d(self.keys, other.keys), self.most, self.name))


def _checked(groups: GroupKeys) -> GroupKeys:
    if len(groups.keys) > groups.most:
        raise MemoryLimitError(
            f"{groups.name} holds {len(groups.keys):,} groups or more, and there is room for the "
            f"sums of {groups.most:,} with as many "
            "parameters as the model has; cluster by coarser groups, or take "
            f"{option('errors', 'robust')} where every row is its own"
        )
    return groups


@dataclass(frozen=True, slots=True)
class GroupScan:
    """Collects the groups; reads no features."""

    reads_features = False
    reads_target = True

    most: int
    """More groups are refused."""
    name: str = "groups"
    """How messages name them."""

    def sums(self, batch: Batch, leaf_rows: int, workspace: Workspace) -> GroupKeys:
        """Those of a batch."""
        del leaf_rows, workspace
        assert batch.groups is not None
        return _checked(GroupKeys(np.unique(batch.groups), self.most, self.name))
