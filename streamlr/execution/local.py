"""Engines in this process: a plain loop, and Dask's threaded scheduler."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import dask.threaded
from dask.callbacks import Callback

from streamlr.config.sections import ClusterConfig
from streamlr.data.chunks.retries import stop_with, take_read_retries
from streamlr.data.partition import Partition
from streamlr.data.source import Source
from streamlr.data.sources.resident import ResidentRows
from streamlr.execution.engine import (
    Engine,
    Scan,
    one_blas_thread,
    release_memory,
    slab_sums,
    sum_tree,
)
from streamlr.execution.limits import FoundLimit
from streamlr.execution.news import report_of_quiet
from streamlr.execution.process import configure_allocator, process_peak_bytes
from streamlr.kernels.fold import fold


class _Holder:
    """Keeps the rows that a partition wants kept, for as long as an engine works on the same
    source."""

    def __init__(self) -> None:
        self._resident: tuple[Source, int, ResidentRows] | None = None

    def source(self, source: Source, partition: Partition) -> Source:
        if not partition.resident_slabs:
            return source
        if (
            self._resident is None
            or self._resident[0] is not source
            or self._resident[1] != partition.resident_rows
        ):
            self._resident = (
                source,
                partition.resident_rows,
                ResidentRows(source, 0, partition.resident_rows),
            )
        return self._resident[2]


class SerialEngine:
    """One slab after another: the reference that every other engine must equal to the bit."""

    n_threads = 1
    description = "one thread"
    dashboard_link: str | None = None

    def __init__(self) -> None:
        self._holder = _Holder()
        self.read_retries = 0

    def run(
        self, source: Source, partition: Partition, scan: Scan, slab_done: Callable[[int], None]
    ) -> Any:
        resident = self._holder.source(source, partition)

        def nodes(done: Callable[[int], None]) -> Any:
            for slab in range(partition.n_slabs):
                yield slab_sums(resident, partition, scan, slab)
                done(slab)

        with one_blas_thread(), report_of_quiet(partition.n_slabs, slab_done) as done:
            sums = fold(nodes(done))
        self.read_retries += take_read_retries()
        return sums

    def peak_memory_bytes(self) -> int:
        return process_peak_bytes()

    def memory_of_workers(self, peak: bool) -> int | None:
        del peak
        return None

    def limit_of_workers(self) -> FoundLimit | None:
        return None

    def arithmetic_of_workers(self) -> list[dict[str, Any]] | None:
        return None

    def limit_threads(self, per_process: int) -> None:
        del per_process

    def __enter__(self) -> Engine:
        configure_allocator()
        return self

    def __exit__(self, *exception: object) -> None:
        release_memory()


class ThreadsEngine:
    """Slabs in threads of this process, under Dask's threaded scheduler."""

    dashboard_link: str | None = None

    def __init__(self, n_threads: int) -> None:
        self.n_threads = n_threads
        self.description = f"{n_threads} thread{'s' * (n_threads > 1)}"
        self._holder = _Holder()
        self.read_retries = 0
        self._stop = threading.Event()
        self._pool = self._new_pool()

    def _new_pool(self) -> ThreadPoolExecutor:
        """Threads whose reads end with the engine: a process does not end before its threads
        have."""
        return ThreadPoolExecutor(self.n_threads, "streamlr", stop_with, (self._stop,))

    def run(
        self, source: Source, partition: Partition, scan: Scan, slab_done: Callable[[int], None]
    ) -> Any:
        slabs: list[Hashable] = [("slab", slab) for slab in range(partition.n_slabs)]
        tree = sum_tree(slabs, "slab", partition.tree_arity)
        graph: dict[Hashable, Any] = {
            key: (slab_sums, "source", "partition", "scan", slab) for slab, key in enumerate(slabs)
        }
        graph |= {
            "source": self._holder.source(source, partition),
            "partition": partition,
            "scan": scan,
            **tree.tasks,
        }
        with (
            one_blas_thread(),
            report_of_quiet(partition.n_slabs, slab_done) as done,
            Callback(
                posttask=lambda key, *_: (
                    done(key[1]) if isinstance(key, tuple) and key[0] == "slab" else None
                )
            ),
        ):
            sums = dask.threaded.get(
                graph, cast(Any, tree.root), pool=self._pool, num_workers=self.n_threads
            )
        self.read_retries += take_read_retries()
        return sums

    def peak_memory_bytes(self) -> int:
        return process_peak_bytes()

    def memory_of_workers(self, peak: bool) -> int | None:
        del peak
        return None

    def limit_of_workers(self) -> FoundLimit | None:
        return None

    def arithmetic_of_workers(self) -> list[dict[str, Any]] | None:
        return None

    def limit_threads(self, per_process: int) -> None:
        self.n_threads = min(self.n_threads, per_process)
        self.description = f"{self.n_threads} thread{'s' * (self.n_threads > 1)}"
        self._pool.shutdown()
        self._pool = self._new_pool()

    def __enter__(self) -> Engine:
        configure_allocator()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        release_memory()


def open_threads(config: ClusterConfig) -> Engine:
    """The engine of ``cluster.kind: threads``."""
    return ThreadsEngine(config.workers or available_cores())


def available_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
