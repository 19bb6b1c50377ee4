"""What runs on workers: functions that a task looks up there, and what they hand back."""

from __future__ import annotations

import functools
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, TypeVar, TypeVarTuple

import dask
from distributed import Worker, get_worker
from threadpoolctl import threadpool_limits

from streamlr.data.chunks.reads import readings, reported, stay_quiet
from streamlr.data.chunks.retries import take_read_retries
from streamlr.data.partition import Partition
from streamlr.data.source import Buffer, Source
from streamlr.data.sources.resident import ResidentRows
from streamlr.errors import ChunkError, DataError, StoreNotFoundError, StreamlrError, both
from streamlr.execution.arithmetic import Arithmetic, arithmetic
from streamlr.execution.cluster.handshake import require_this_streamlr, tell
from streamlr.execution.cluster.travel import Parcel, unpack
from streamlr.execution.engine import Scan, fold_list, slab_sums
from streamlr.execution.limits import FoundLimit, found_limit, memory_reported
from streamlr.execution.process import configure_allocator, process_bytes, process_peak_bytes

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

_LONG_SECONDS = 5.0

Computed = tuple[Arithmetic, str]
"""An arithmetic, and the address of a worker that computes with it."""


@dataclass(frozen=True, slots=True)
class Job:
    """What all slabs of a pass have in common."""

    partition: Partition
    scan: Scan
    at_a_time: int | None
    """Slabs that one process may sum at a time; None: as many as it has threads."""
    shared: bool
    """Whether the workers are others' machines, which errors are to name."""


@dataclass(frozen=True, slots=True)
class Counted:
    """Sums, and what is counted beside them: a monoid as well, so that it takes the same way."""

    sums: Any
    """The sums of a scan."""
    read_retries: int
    """Reads that were tried again in the worker process since it told last."""
    computed: frozenset[Computed]
    """Who summed, and with which arithmetic."""

    def __add__(self, other: Counted) -> Counted:
        return Counted(
            self.sums + other.sums,
            self.read_retries + other.read_retries,
            self.computed | other.computed,
        )


def _bare_errors(task: Callable[[*Ts], T]) -> Callable[[*Ts], T]:
    """Have errors of ours leave a task without those that led to them.

    Dask sends an error along with its causes, and where one of these cannot be pickled, as those of
    Zarr and of file systems cannot, with nothing but a text of it all.
    """

    @functools.wraps(task)
    def instead(*arguments: *Ts) -> T:
        try:
            with memory_reported():
                return task(*arguments)
        except StreamlrError as error:
            met = error
        met.__cause__ = met.__context__ = None
        raise met

    return instead


@_bare_errors
def sum_slab(run_by: str, job: Parcel, source: Parcel | Source, slab: int) -> Counted:
    """The sums of one slab.

    Parameters
    ----------
    run_by
        The streamlr that the run is made with.
    job, source
        A `Job`, and what is read from: packed, or rows that this worker, or another, holds.
    slab
        Number of the slab.
    """
    address: str = get_worker().address
    require_this_streamlr(run_by, address)
    settle_worker()
    reported: Job = unpack(job)
    with _turns(reported.at_a_time), _named(address, reported.shared):
        sums = slab_sums(_opened(source, address), reported.partition, reported.scan, slab)
    return Counted(sums, take_read_retries(), frozenset({(arithmetic(), address)}))


def sum_nodes(run_by: str, nodes: list[Any]) -> Any:
    """The sum of a few nodes of the tree of sums."""
    require_this_streamlr(run_by, get_worker().address)
    return fold_list(nodes)


@_bare_errors
def load_slab(run_by: str, source: Parcel, partition: Partition, slab: int) -> ResidentRows:
    """Read a slab into memory: a recipe that the scheduler follows again if the worker that holds
    it dies."""
    address: str = get_worker().address
    require_this_streamlr(run_by, address)
    settle_worker()
    resident = ResidentRows(_opened(source, address), *partition.rows_of_slab(slab))
    buffer = Buffer()
    for block in partition.blocks_of_slab(slab):
        start, stop = partition.rows_of_block(block)
        resident.read_features(start, stop, buffer)
        resident.read_columns(start, stop)
    return resident


@_bare_errors
def prove(source: Parcel) -> None:
    """Open a source on a worker, as its tasks will."""
    _open(source)


def naming(error: DataError, worker: str) -> DataError:
    """The same error for data that cannot be opened, with the worker that found it."""
    remedy = ""
    if isinstance(error, StoreNotFoundError):
        remedy = (
            "; it is looked for there, so put it on a file system that all workers share, under "
            "the same path, or give a URL"
        )
    return type(error)(f"the worker at {worker} cannot open the data: {both(error)}{remedy}")


def reported_bytes(peak: bool) -> int:
    """What a worker holds, or held at most, settled first."""
    settle_worker()
    return process_peak_bytes() if peak else process_bytes()


def reported_limit(dask_worker: Worker) -> FoundLimit | None:
    """What a worker may use: by its machine, and by Dask, which stops giving it work long before
    its memory limit is reached, and has it killed a little before."""
    address: str = dask_worker.address
    here = found_limit()
    found = (
        [] if here is None else [replace(here, source=f"{here.source} (the worker at {address})")]
    )
    limit: int | None = dask_worker.memory_manager.memory_limit
    pause = dask_worker.memory_manager.memory_pause_fraction
    kill = bool(dask_worker.nanny) and dask.config.get("distributed.worker.memory.terminate")
    share = min([1.0, *(float(part) for part in (pause, kill) if part)])
    if limit:
        source = f"the memory limit of the worker at {address} ({limit / 1e6:.0f} MB)"
        if share < 1.0:
            source += f", of which Dask lets it use {share:.0%},"
        found.append(FoundLimit(round(share * limit), source))
    return min(found, key=lambda known: known.nbytes, default=None)


def reported_reads() -> tuple[str, bool]:
    """What a worker has been reading for long, for a message, and whether that ends by itself:
    reads are tried again for a while, and then are errors."""
    long = [reading for reading in readings() if reading.seconds >= _LONG_SECONDS]
    return reported(_LONG_SECONDS), any(reading.ends for reading in long)


def reported_self() -> dict[str, str]:
    """What a worker tells of itself, settled first."""
    settle_worker()
    return tell()


def running_keys(dask_worker: Worker) -> list[str]:
    """Tasks that a worker is at, those of others too, and not those that wait there for their
    turn."""
    return [str(task.key) for task in dask_worker.state.executing | dask_worker.state.long_running]


@functools.cache
def settle_worker() -> None:
    """Once, for the rest of the worker's life: a cluster started by others may not do it, and
    finding the libraries takes a millisecond."""
    threadpool_limits(limits=1, user_api="blas")
    configure_allocator()
    stay_quiet()


_turns_lock = threading.Lock()
_semaphores: dict[int, threading.BoundedSemaphore] = {}


def _turns(at_a_time: int | None) -> AbstractContextManager[object]:
    """What the threads of a worker wait for where fewer may work at a time than there are."""
    if at_a_time is None:
        return nullcontext()
    with _turns_lock:  # the first slabs of a worker come here all at once
        return _semaphores.setdefault(at_a_time, threading.BoundedSemaphore(at_a_time))


def _open(source: Parcel | Source) -> Source:
    found: Source = unpack(source) if isinstance(source, tuple) else source
    found.open()
    return found


def _opened(source: Parcel | Source, worker: str) -> Source:
    """Unpack a source and open it, which is what may fail on a worker that does not see what others
    see.

    Raises
    ------
    DataError
        Names the worker.
    """
    try:
        return _open(source)
    except DataError as error:
        raise naming(error, worker) from error


@contextmanager
def _named(worker: str, shared: bool) -> Iterator[None]:
    """Name the worker on which a chunk cannot be read, where that may be another machine."""
    try:
        yield
    except ChunkError as error:
        if not shared:
            raise
        raise ChunkError(f"{both(error)} (found by the worker at {worker})") from error
