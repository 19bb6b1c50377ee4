"""What a pass that scores a store needs, and how many threads have room for it: nothing is read."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

from streamlr.data.footprint import Footprint
from streamlr.data.partition import FEW_SUMS, HEAVY_SUM_BYTES, Partition
from streamlr.data.source import Source
from streamlr.errors import MemoryLimitError
from streamlr.execution.scanner import plan_slabs
from streamlr.kernels.metrics.room import SumsRoom
from streamlr.planning import memory as memory_model
from streamlr.planning.workforce import Excess, Peaks, Room, WorkerLayout

_CLIENT_SUMS = 4
"""The sums that come in at the end, and about three times as much while they are reported."""


@dataclass(frozen=True, slots=True)
class ScoringShape:
    """What a pass asks for, as far as memory goes."""

    partition: Partition
    """Blocks, leaves, slabs."""
    row_bytes: int
    """Decoded bytes of a row."""
    leaf_bytes: int
    """Of a leaf in float64, with what BLAS copies of it for a product."""
    reading: Footprint
    """Of a block of features."""
    labels: Footprint
    """Of what stands beside them."""
    sums: SumsRoom
    """Of what is made of them."""


@dataclass(frozen=True, slots=True)
class ScoringPlan:
    """How a pass will be made, within what may be used."""

    partition: Partition
    """What is read and summed together."""
    threads_per_process: int
    """Slabs summed at a time in one process."""
    peaks: Peaks
    """Projected memory."""
    fitted: str = ""
    """How many threads have to wait, and why; empty where none has."""


def plan_scoring(
    limit: int | None,
    source: Source,
    workers: WorkerLayout,
    outputs: int,
    room_of: Callable[[Partition], SumsRoom],
) -> ScoringPlan:
    """Project a pass over a source, on as many threads as have room; reads nothing.

    Parameters
    ----------
    limit
        ``cluster.memory_limit``.
    source, workers
        The data, and who takes the sums.
    outputs
        c, 1 for two classes.
    room_of
        What the sums of the pass take, by the partition of the rows.

    Raises
    ------
    MemoryLimitError
        Where even one thread has no room, with both numbers and what to change.
    """
    room, all_threads = Room(limit, workers), workers.threads_per_process

    def shape_on(threads: int) -> ScoringShape:
        return _shape_of(source, threads * workers.processes, outputs, room_of)

    threads = all_threads
    while threads > 1 and not room.holds(scoring_peaks(shape_on(threads), workers, threads)):
        threads -= 1
    shape = shape_on(threads)
    peaks = scoring_peaks(shape, workers, threads)
    excess = room.excess(peaks)
    if excess is not None:
        raise MemoryLimitError(_refusal(excess, shape, workers, threads * workers.processes))
    fitted, least = "", room.of_process
    if threads < all_threads and least is not None:
        each = "" if workers.in_this_process else " in each process"
        given = f"{least.nbytes / 1e6:.0f} MB of {least.source}"
        fitted = f"{threads} of {all_threads} threads{each}: {given}"
    return ScoringPlan(shape.partition, threads, peaks, fitted)


def scoring_peaks(shape: ScoringShape, workers: WorkerLayout, threads: int) -> Peaks:
    """Projected bytes of the processes of a pass, on so many threads in each."""
    kept, shared = shape.sums.kept_bytes, memory_model.FIRST_USE_BYTES + shape.labels.shared_bytes
    working = threads * _thread_bytes(shape) + _passing_bytes(shape, threads)
    taken = shared + working + _waiting_bytes(shape, threads)
    if workers.in_this_process:
        peak = round(memory_model.MARGIN * (workers.base_bytes + taken))
        return Peaks(peak, peak)
    idle = (workers.threads_per_process - threads) * memory_model.WAITING_THREAD_BYTES
    worker = round(memory_model.MARGIN * (workers.worker_base_bytes + taken + idle))
    ours = memory_model.FIRST_USE_BYTES + _CLIENT_SUMS * kept
    return Peaks(round(memory_model.MARGIN * (workers.base_bytes + ours)), worker)


def _shape_of(
    source: Source, threads: int, outputs: int, room_of: Callable[[Partition], SumsRoom]
) -> ScoringShape:
    """What a pass on so many threads in all asks for."""
    partition = plan_slabs(source, threads, outputs)
    sums = room_of(partition)
    if sums.kept_bytes >= HEAVY_SUM_BYTES:
        partition = replace(partition, tree_arity=FEW_SUMS)
    leaf = 8 * partition.leaf_rows * source.n_features
    # a matrix times one vector is made of the leaf as it lies
    packed = min(leaf, memory_model.MOST_PACKED_BYTES) if outputs > 1 else 0
    rows = partition.block_rows
    return ScoringShape(
        partition,
        source.n_features * source.dtype.itemsize,
        leaf + packed,
        source.footprint(rows),
        source.label_footprint(rows),
        sums,
    )


def _thread_bytes(shape: ScoringShape) -> int:
    """What stays with a thread from block to block."""
    kept = shape.reading.kept_bytes + shape.labels.kept_bytes + shape.leaf_bytes
    return memory_model.FIRST_USE_OF_THREAD_BYTES + kept


def _passing_bytes(shape: ScoringShape, threads: int) -> int:
    """What comes and goes with a block on all threads, of which some may be adding sums instead:
    those that are added are of different rows, so there are not always enough for all."""
    sums = shape.sums
    made = sums.leaf_bytes + sums.block_bytes
    of_block = max(shape.reading.passing_bytes, shape.labels.passing_bytes, made)
    pairs = -(-sums.apart_bytes // (2 * sums.kept_bytes)) if sums.kept_bytes else 0
    adding = min(threads, pairs)
    return adding * max(of_block, sums.adding_bytes) + (threads - adding) * of_block


def _waiting_bytes(shape: ScoringShape, threads: int) -> int:
    """Sums that wait for others to be added to, within slabs and above them."""
    levels = 1 + math.ceil(math.log2(shape.partition.n_slabs))
    in_slabs = threads * (1 + math.ceil(math.log2(shape.partition.slab_blocks)))
    return min((levels + in_slabs) * shape.sums.kept_bytes, shape.sums.apart_bytes)


def _refusal(excess: Excess, shape: ScoringShape, workers: WorkerLayout, threads: int) -> str:
    """Why a pass is not made: both numbers, and the remedy."""
    several = workers.answer_directly and workers.processes > 1
    fewer = " set cluster.workers to fewer," if several else ""
    block = shape.partition.block_rows * shape.row_bytes / 1e6
    return (
        f"the pass needs about {excess.needed_bytes / 1e6:.0f} MB {excess.where} "
        f"({threads} thread{'s' * (threads > 1)} in all, blocks of {block:.0f} MB decoded), and "
        f"{excess.limit.source} is {excess.limit.nbytes / 1e6:.0f} MB; raise the limit,{fewer} "
        "or write the store in smaller chunks"
    )
