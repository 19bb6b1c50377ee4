"""Who takes the sums of a run, and what each process may use."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from streamlr.config.sections import ClusterConfig
from streamlr.errors import MemoryLimitError
from streamlr.execution import ENGINES, engine_facts
from streamlr.execution.limits import FoundLimit, found_limit
from streamlr.execution.local import available_cores
from streamlr.execution.process import process_bytes
from streamlr.planning import memory as memory_model
from streamlr.planning.memory import (
    SAMPLES_FORWARDED,
    SAMPLES_SENT,
    RunShape,
    client_peak,
    local_peak,
    worker_peak,
)


@dataclass(frozen=True, slots=True)
class Excess:
    """What a run needs over what it may use."""

    needed_bytes: int
    """Projected."""
    where: str
    """In which process, or how many of them."""
    limit: FoundLimit
    """What it is over."""


@dataclass(frozen=True, slots=True)
class WorkerLayout:
    """Who will take the sums."""

    threads: int
    """Slabs summed at a time, in all processes."""
    threads_per_process: int
    """Slabs summed at a time in one of them."""
    in_this_process: bool
    """Whether that is this process, in whose memory the sample is too."""
    base_bytes: int
    """What this process holds before the run."""
    worker_base_bytes: int
    """The same of the others, where there are any."""
    answer_directly: bool = False
    """Whether they send what they have summed straight to this process, on whose machine they are.
    """
    found: FoundLimit | None = None
    """What this process may use, or together with the workers on its machine."""
    worker_found: FoundLimit | None = None
    """What each of the workers of others may use."""

    @property
    def processes(self) -> int:
        return self.threads // self.threads_per_process


@dataclass(frozen=True, slots=True)
class Peaks:
    """Projected bytes of the processes of a run."""

    client: int
    """Of this process."""
    worker: int
    """Of the largest that takes sums; the same process where that is this one."""

    @property
    def largest(self) -> int:
        return max(self.client, self.worker)


@dataclass(frozen=True, slots=True)
class Room:
    """What may be used: under the limit that was set and those that were found."""

    limit: int | None
    """``cluster.memory_limit``, of each process."""
    workers: WorkerLayout

    @property
    def of_process(self) -> FoundLimit | None:
        """The least that one process may use."""
        reported = [] if self.limit is None else [FoundLimit(self.limit, "cluster.memory_limit")]
        found = [
            limit for limit in (self.workers.found, self.workers.worker_found) if limit is not None
        ]
        return min(reported + found, key=lambda limit: limit.nbytes, default=None)

    def fits(self, shape: RunShape, threads: int) -> bool:
        """Whether it does on so many threads in each process; of the client no limit that was set
        is asked, since fewer threads would not help it."""
        return self.holds(peaks_of(shape, self.workers, threads))

    def holds(self, peaks: Peaks) -> bool:
        """Whether fewer threads are not needed."""
        reported = self.limit is None or peaks.worker <= self.limit
        return reported and not any(
            found.needed_bytes > found.limit.nbytes for found in self._found(peaks)
        )

    def excess(self, peaks: Peaks) -> Excess | None:
        """The first limit that does not hold."""
        reported = (
            []
            if self.limit is None
            else [
                Excess(
                    peaks.largest, "in one process", FoundLimit(self.limit, "cluster.memory_limit")
                )
            ]
        )
        return next(
            (
                found
                for found in [*reported, *self._found(peaks)]
                if found.needed_bytes > found.limit.nbytes
            ),
            None,
        )

    def _found(self, peaks: Peaks) -> Iterator[Excess]:
        """What is needed under each limit that was found, over it or not."""
        workers = self.workers
        if workers.found is not None:
            together = workers.answer_directly and not workers.in_this_process
            needed = peaks.client + together * workers.processes * peaks.worker
            yield Excess(
                needed,
                f"in {workers.processes + 1} processes" if together else "in one process",
                workers.found,
            )
        if workers.worker_found is not None:
            yield Excess(peaks.worker, "in a worker", workers.worker_found)


def workers_of(
    cluster: ClusterConfig,
    threads: int,
    worker_base_bytes: int | None = None,
    worker_found: FoundLimit | None = None,
) -> WorkerLayout:
    """Who will take the sums on an engine with so many threads in all.

    Parameters
    ----------
    cluster, threads
        The engine, and its threads.
    worker_base_bytes
        What its processes hold before the run, where there is an engine to ask.
    worker_found
        What the smallest of its workers may use, where they are not on this machine and told it.
    """
    here = found_limit()
    if ENGINES[cluster.kind].in_process:
        return WorkerLayout(threads, threads, True, process_bytes(), 0, found=here)
    started = worker_base_bytes is not None
    return WorkerLayout(
        threads,
        min(threads, cluster.threads_per_worker),
        False,
        process_bytes() + (0 if started else memory_model.CLUSTER_BYTES),
        memory_model.WORKER_BYTES if worker_base_bytes is None else worker_base_bytes,
        ENGINES[cluster.kind].answers_directly,
        here,
        worker_found,
    )


def with_room(cluster: ClusterConfig) -> ClusterConfig:
    """The same, if processes of our own fit under what was found before they hold any data.

    The system would kill them while they start, and nobody would be told why.

    Raises
    ------
    MemoryLimitError
        Where they do not.
    """
    if not ENGINES[cluster.kind].answers_directly:
        return cluster
    workers = workers_of(cluster, engine_facts(cluster)[0])
    processes, found = workers.processes, workers.found
    needed = workers.base_bytes + processes * workers.worker_base_bytes
    if found is not None and needed > found.nbytes:
        raise MemoryLimitError(
            f"{processes} worker process{'es' * (processes > 1)} beside this one take about "
            f"{needed / 1e6:.0f} MB before they read anything, and {found.source} is "
            f"{found.nbytes / 1e6:.0f} MB; raise the limit, set cluster.workers to fewer, "
            "or use cluster.kind: threads"
        )
    return cluster


def peaks_of(shape: RunShape, workers: WorkerLayout, threads: int) -> Peaks:
    """What a run takes with so many threads in each process."""
    if workers.in_this_process:
        peak = local_peak(shape, threads, workers.base_bytes, available_cores())
        return Peaks(peak, peak)
    samples = SAMPLES_SENT if workers.answer_directly else SAMPLES_FORWARDED
    worker = worker_peak(
        shape,
        threads,
        workers.processes,
        workers.worker_base_bytes,
        samples,
        workers.threads_per_process - threads,
    )
    return Peaks(client_peak(shape, available_cores(), workers.base_bytes), worker)
