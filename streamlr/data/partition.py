"""The fixed partition of the rows.

A **block** is a chunk's worth of rows (or, where chunks are tiny, an aligned run of 2^j of them):
the unit in which data are read and the bottom of the tree of sums. A **leaf** is a part of a block
that fits the cache. Both follow from the store alone. A **slab** is an aligned run of 2^k blocks,
what one task takes; k follows from the number of workers, and since a slab is a node of the tree of
sums (see `streamlr.kernels.fold`) it does not change a bit of the result.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

_SMALLEST_BLOCK_BYTES = 4 * 2**20
_LEAF_BYTES = 8 * 2**20
_LEAF_ROWS_MOST = 65_536
_LARGEST_SLAB_BYTES = 8 * 2**30
_SLABS_PER_THREAD = 8
_FEW_THREADS = 16
_SLABS_PER_THREAD_OF_MANY = 2
_BYTES_PER_SECOND = 1.75e9
"""What a thread reads, decodes and sums; measured by scripts/bench."""
_SCHEDULER_SECONDS = 2e-3
"""What a slab costs the scheduler; measured by scripts/overhead.py."""

MANY_SUMS = 8
"""Sums that one task of the tree adds up: three levels of the binary tree, which spares the
scheduler tasks."""
FEW_SUMS = 2
"""The same where the sums are so large that those that wait for each other would fill the memory.
"""
HEAVY_SUM_BYTES = 2**20
"""From this size on sums are added up two at a time: eight that wait for each other would need the
memory of eight."""


@dataclass(frozen=True, slots=True)
class Partition:
    """Which rows are read, summed and sent out together."""

    n_rows: int
    """Rows of the data."""
    block_rows: int
    """Rows of a block; the last one may have fewer."""
    leaf_rows: int
    """Rows of a leaf; the last one of a block may have fewer."""
    slab_blocks: int = 1
    """Blocks of a slab, a power of two."""
    resident_slabs: int = 0
    """Slabs, from the first on, that stay in memory after their first read."""
    tree_arity: int = MANY_SUMS
    """Sums that one task of the tree adds up, a power of two."""

    @property
    def n_blocks(self) -> int:
        return -(-self.n_rows // self.block_rows)

    @property
    def n_slabs(self) -> int:
        return -(-self.n_blocks // self.slab_blocks)

    def rows_of_block(self, block: int) -> tuple[int, int]:
        """First row and one past the last."""
        return block * self.block_rows, min((block + 1) * self.block_rows, self.n_rows)

    def blocks_of_slab(self, slab: int) -> range:
        return range(slab * self.slab_blocks, min((slab + 1) * self.slab_blocks, self.n_blocks))

    @property
    def resident_rows(self) -> int:
        """Rows, from the first on, that stay in memory after their first read."""
        return min(self.resident_slabs * self.slab_blocks * self.block_rows, self.n_rows)

    def rows_of_slab(self, slab: int) -> tuple[int, int]:
        """First row and one past the last."""
        blocks = self.blocks_of_slab(slab)
        return self.rows_of_block(blocks[0])[0], self.rows_of_block(blocks[-1])[1]


def partition_rows(
    n_rows: int, n_features: int, chunk_rows: int, itemsize: int, n_outputs: int = 1
) -> Partition:
    """The blocks and leaves of a store, with one block a slab.

    Parameters
    ----------
    n_rows, n_features
        Shape of the data.
    chunk_rows
        Rows that are stored together.
    itemsize
        Bytes of one stored value.
    n_outputs
        Outputs of the model, c: a leaf has as many values of Z as of X where there are as many
        outputs as features.
    """
    block_rows = max(1, min(chunk_rows, n_rows))
    while block_rows * n_features * itemsize * 2 <= _SMALLEST_BLOCK_BYTES and block_rows < n_rows:
        block_rows *= 2
    leaf_rows = 64
    while (
        leaf_rows * 2 <= _LEAF_ROWS_MOST
        and leaf_rows * 2 * max(n_features, n_outputs) * 8 <= _LEAF_BYTES
    ):
        leaf_rows *= 2
    return Partition(n_rows, block_rows, min(leaf_rows, block_rows))


def with_resident_slabs(partition: Partition, budget_bytes: int, row_bytes: int) -> Partition:
    """The same, with as many slabs kept in memory as fit into the budget."""
    slab_bytes = partition.slab_blocks * partition.block_rows * row_bytes
    return replace(
        partition, resident_slabs=max(0, min(partition.n_slabs, budget_bytes // max(1, slab_bytes)))
    )


def with_slabs_for(partition: Partition, n_threads: int, row_bytes: int) -> Partition:
    """The same blocks in slabs of a size that costs the least time.

    N slabs cost the scheduler N h seconds, and at the end of a pass threads wait for about half a
    slab of B / N bytes at a rate of v: together least at N = sqrt(B / (2 v h)). There are never
    fewer than a few for each thread, and none is larger than one would like to read again when a
    worker dies. A task streams through its slab, so a slab costs no memory: more data mean larger
    slabs, and few more tasks.
    """
    block_bytes = max(1, partition.block_rows * row_bytes)
    cheapest = math.sqrt(
        partition.n_rows * row_bytes / (2.0 * _BYTES_PER_SECOND * _SCHEDULER_SECONDS)
    )
    per_thread = _SLABS_PER_THREAD if n_threads <= _FEW_THREADS else _SLABS_PER_THREAD_OF_MANY
    wanted = max(cheapest, per_thread * n_threads)
    slab_blocks = 1
    while (
        2 * slab_blocks * block_bytes <= _LARGEST_SLAB_BYTES
        and partition.n_blocks / (2 * slab_blocks) >= wanted
    ):
        slab_blocks *= 2
    return replace(partition, slab_blocks=slab_blocks)
