"""What an engine is, and the work that all of them do in the same way."""

from __future__ import annotations

import functools
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController, threadpool_info

from streamlr.data.partition import Partition
from streamlr.data.source import Buffer, Source
from streamlr.errors import NonFiniteError
from streamlr.execution.limits import FoundLimit
from streamlr.kernels.batch import Batch, Workspace
from streamlr.kernels.columns import Columns
from streamlr.kernels.fold import Sums, fold
from streamlr.kernels.scans.moments import locate_non_finite


class Scan(Protocol):
    """What is asked of every row: a small record that travels to where the rows are."""

    @property
    def reads_features(self) -> bool: ...

    @property
    def reads_target(self) -> bool:
        """Whether it asks for targets and weights. The offset comes with either, and groups with
        targets."""
        ...

    def sums(self, batch: Batch, leaf_rows: int, workspace: Workspace) -> Any:
        """The sums over a batch, a member of a monoid (see `streamlr.kernels.fold`).

        Where features are read, its attribute ``probe`` is an array that is not finite if any of
        them is not.
        """
        ...


class Engine(Protocol):
    """Takes the sums of a scan over all rows. Every engine gives the same bits."""

    @property
    def n_threads(self) -> int:
        """How many slabs are summed at a time."""
        ...

    @property
    def description(self) -> str:
        """What a person is told of it."""
        ...

    @property
    def dashboard_link(self) -> str | None: ...

    @property
    def read_retries(self) -> int:
        """Reads that failed for a moment and were tried again, in all scans so far; without those
        of workers that died before they told."""
        ...

    def run(
        self, source: Source, partition: Partition, scan: Scan, slab_done: Callable[[int], None]
    ) -> Any:
        """Sum over all slabs; ``slab_done`` is called with the number of each, from this thread, in
        any order."""
        ...

    def peak_memory_bytes(self) -> int:
        """Largest resident memory of any one process of the engine so far."""
        ...

    def memory_of_workers(self, peak: bool) -> int | None:
        """Resident memory, now or at its largest, of the largest process that takes sums; None
        where that is this process."""
        ...

    def limit_of_workers(self) -> FoundLimit | None:
        """What the smallest process that takes sums may use; None where that is this machine's
        limit, or nobody can tell."""
        ...

    def arithmetic_of_workers(self) -> list[dict[str, Any]] | None:
        """What the processes that take sums compute with, and which with what (see
        `streamlr.execution.arithmetic`); None where that is this process."""
        ...

    def limit_threads(self, per_process: int) -> None:
        """From now on sum no more slabs at a time in one process."""
        ...

    def __enter__(self) -> Engine: ...

    def __exit__(self, *exception: object) -> None: ...


class _Memory:
    """What one slab after another is read into and summed in."""

    def __init__(self) -> None:
        self.buffer = Buffer()
        self.workspace = Workspace()


_idle: list[_Memory] = []
"""Memory that no slab is using: there is as much in all as slabs were ever summed at a time, and
not as there are threads."""


@contextmanager
def _lent_memory() -> Iterator[_Memory]:
    try:
        memory = _idle.pop()
    except IndexError:
        memory = _Memory()
    try:
        yield memory
    finally:
        _idle.append(memory)


def release_memory() -> None:
    """Let go of what was kept for further slabs."""
    _idle.clear()


def slab_sums(source: Source, partition: Partition, scan: Scan, slab: int) -> Any:
    """Sum over the blocks of one slab: a node of the tree of sums. Pure: it may run twice,
    anywhere."""
    with _lent_memory() as memory:
        return fold(
            _block_sums(source, partition, scan, block, memory)
            for block in partition.blocks_of_slab(slab)
        )


def _block_sums(
    source: Source, partition: Partition, scan: Scan, block: int, memory: _Memory
) -> Any:
    start, stop = partition.rows_of_block(block)
    batch = read_batch(source, scan, start, stop, memory.buffer)
    sums = scan.sums(batch, partition.leaf_rows, memory.workspace)
    if scan.reads_features and not np.isfinite(sums.finite_check).all():
        _refuse_non_finite(source, batch)
    return sums


def read_batch(source: Source, scan: Scan, start: int, stop: int, buffer: Buffer) -> Batch:
    """Read what the scan asks for of the rows ``start`` to ``stop``, into the buffer."""
    X: NDArray[Any] = np.empty((0, stop - start))
    if scan.reads_features:
        X = source.read_features(start, stop, buffer)
    columns = Columns()
    if scan.reads_features or scan.reads_target:
        columns = source.read_columns(start, stop, labels=scan.reads_target)
    return Batch(start, X, columns)


def _refuse_non_finite(source: Source, batch: Batch) -> None:
    """Say which chunk, row and feature made the sums non-finite; return if no value of the data
    did."""
    found = locate_non_finite(batch.X)
    if found is None:
        return
    row, feature = batch.first_row + found[1], found[2]
    first = row - row % source.chunk_rows
    chunk = batch.X[
        :, max(first - batch.first_row, 0) : first + source.chunk_rows - batch.first_row
    ]
    count = int(np.count_nonzero(~np.isfinite(chunk)))
    name = repr(source.feature_names[feature]) if source.feature_names is not None else str(feature)
    value = batch.X[feature, found[1]]
    raise NonFiniteError(
        f"chunk {row // source.chunk_rows} of {source.describe('features')} holds {count} "
        "non-finite "
        f"value{'s' * (count > 1)} (first: {value} at row {row}, feature {name}); clean the "
        "source and ingest again"
    )


def fold_list(nodes: list[Sums]) -> Sums:
    """`fold` as a task."""
    return fold(nodes)


@dataclass(frozen=True, slots=True)
class Tree:
    """The shallow tree of sums above the slabs, as keys of a graph."""

    tasks: dict[Hashable, tuple[Any, ...]]
    """Key of every inner node, and the call that computes it."""
    root: Hashable
    """Key of the whole."""


def sum_tree(leaves: Sequence[Hashable], name: str, arity: int = 8) -> Tree:
    """Add ``arity`` nodes, a power of two, at a time: so many levels of the binary tree in one
    task, which leaves its order untouched."""
    tasks: dict[Hashable, tuple[Any, ...]] = {}
    level = 0
    nodes = list(leaves)
    while len(nodes) > 1:
        level += 1
        parents: list[Hashable] = []
        for at in range(0, len(nodes), arity):
            key = (f"{name}-sum-{level}", at // arity)
            tasks[key] = (fold_list, nodes[at : at + arity])
            parents.append(key)
        nodes = parents
    return Tree(tasks, nodes[0])


def tree_tasks(n_slabs: int, arity: int = 8) -> int:
    """Number of inner nodes of `sum_tree`."""
    count = 0
    while n_slabs > 1:
        n_slabs = -(-n_slabs // arity)
        count += n_slabs
    return count


def one_blas_thread() -> AbstractContextManager[object]:
    """BLAS on one thread: the number of its threads changes the last bits of a product, and slabs
    already fill the cores."""
    return _blas_libraries().limit(limits=1, user_api="blas")


@functools.cache
def _blas_libraries() -> ThreadpoolController:
    """Found once: NumPy's is there from the start, and looking for them takes 3 ms, more than a
    pass over small data."""
    return ThreadpoolController()


def blas_core() -> str:
    """The kernel that BLAS chose for this processor: bits are the same only where it is."""
    cores = {
        f"{info.get('internal_api')} {info.get('version')} {info.get('architecture', '')}".strip()
        for info in threadpool_info()
        if info.get("user_api") == "blas"
    }
    return ", ".join(sorted(cores))
