"""Engines in other processes: a local cluster of workers, and a Dask scheduler that is there already."""

from __future__ import annotations

import copy
import functools
import itertools
import logging
import queue
import threading
import uuid
from asyncio import CancelledError
from collections.abc import Callable, Hashable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import dask
from distributed import Client, LocalCluster, TimeoutError
from threadpoolctl import threadpool_limits

from streamlr.config import ClusterConfig
from streamlr.data.held import HeldRows
from streamlr.data.partition import Partition
from streamlr.data.source import ArraySource, Buffer, Source
from streamlr.errors import ClusterError
from streamlr.execution.engine import Engine, Scan, slab_sums, sum_tree
from streamlr.execution.local import available_cores
from streamlr.execution.patience import Patience
from streamlr.execution.process import process_bytes, process_peak_bytes, settle_allocator

log = logging.getLogger(__name__)

_CONNECT_SECONDS = 30
_TASK_RETRIES = 2
_WORKER_DEATHS = 10
_RESCUES = 3
"""Times in a pass that workers which do not answer are given up."""
_MEMORY_OF_WORKERS = {f"distributed.worker.memory.{key}": value for key, value in
                      {"target": False, "spill": False, "pause": False, "terminate": 1.0}.items()}
"""The plan keeps workers to their limit. What they hold is in use: moved to disk it would be read back, and a paused worker would wait for ever."""


def _hold_slab(source: Source, partition: Partition, slab: int) -> HeldRows:
    """Read a slab into memory: a recipe that the scheduler follows again if the worker that holds it dies."""
    _settle_worker()
    held = HeldRows(source, *partition.rows_of_slab(slab))
    buffer = Buffer()
    for block in partition.blocks_of_slab(slab):
        start, stop = partition.rows_of_block(block)
        held.read_features(start, stop, buffer)
        held.read_target(start, stop)
        held.read_weights(start, stop)
        held.read_offset(start, stop)
    return held


@functools.cache
def _settle_worker() -> None:
    """Once, for the rest of the worker's life: a cluster started by others may not do it, and finding the libraries takes a millisecond."""
    threadpool_limits(limits=1, user_api="blas")
    settle_allocator()


def _slab_sums_on_worker(source: Source, partition: Partition, scan: Scan, slab: int, at_a_time: int | None) -> Any:
    _settle_worker()
    with _turns(at_a_time):
        return slab_sums(source, partition, scan, slab)


_turns_lock = threading.Lock()
_semaphores: dict[int, threading.BoundedSemaphore] = {}


def _turns(at_a_time: int | None) -> AbstractContextManager[object]:
    """What the threads of a worker wait for where fewer may work at a time than there are."""
    if at_a_time is None:
        return nullcontext()
    with _turns_lock:  # the first slabs of a worker come here all at once
        return _semaphores.setdefault(at_a_time, threading.BoundedSemaphore(at_a_time))


async def _busy_workers(name: str, dask_scheduler: Any = None) -> dict[str, bool]:
    """Runs on the scheduler: the workers that should be at tasks whose keys hold a name, and whether a nanny can start them again."""
    return {address: bool(worker.nanny) for address, worker in dask_scheduler.workers.items() if any(name in str(task.key) for task in worker.processing)}


async def _remove_workers(addresses: list[str], dask_scheduler: Any = None) -> None:
    """Runs on the scheduler: count on these no more."""
    for address in addresses:
        await dask_scheduler.remove_worker(address, stimulus_id="streamlr-stuck", close=False)


_WHOLE = -1
"""Stands for the sum of all slabs among the numbers of slabs."""


class _LostPartsError(Exception):
    """Data that were sent to a worker are gone with it."""


class ClusterEngine:
    """Slabs as tasks of a Dask cluster; the sums come back through a shallow tree, the data never do."""

    def __init__(self, client: Client, cluster: LocalCluster | None = None, stall_seconds: float = 300.0) -> None:
        self._client = client
        self._cluster = cluster
        self._address = client.scheduler.address if client.scheduler is not None else "?"
        self._stall_seconds = stall_seconds
        self._runs = itertools.count()
        self._name = f"streamlr-{uuid.uuid4().hex[:8]}"
        self._parts: tuple[Source, Partition, list[Any]] | None = None
        self._slabs_at_a_time: int | None = None
        workers = self._workers()
        self.n_threads = max(1, sum(worker["nthreads"] for worker in workers.values()))
        self.description = f"{len(workers)} worker process{'es' * (len(workers) != 1)}, {self.n_threads} threads in all"

    @property
    def dashboard_link(self) -> str | None:
        services = self._client.scheduler_info(n_workers=0).get("services", {})
        return self._client.dashboard_link if "dashboard" in services else None

    def run(self, source: Source, partition: Partition, scan: Scan, slab_done: Callable[[int], None]) -> Any:
        told: set[int] = set()

        def tell(slab: int) -> None:
            if slab not in told:  # a second attempt sums again what the first had told already
                told.add(slab)
                slab_done(slab)

        for attempt in range(_WORKER_DEATHS):
            try:
                return self._run_once(source, partition, scan, tell)
            except _LostPartsError:  # arrays in memory have no recipe on the cluster: they are here, so they are sent again
                log.warning("workers were lost with parts of the data in memory; sending or reading them again (attempt %d)", attempt + 2)
                self._parts = None
            except (OSError, TimeoutError, CancelledError) as error:
                if self._client.status == "running":
                    raise
                raise self._scheduler_lost() from error
        raise ClusterError(f"workers were lost {_WORKER_DEATHS} times within one pass; see the cluster's logs for why they die")

    def _run_once(self, source: Source, partition: Partition, scan: Scan, slab_done: Callable[[int], None]) -> Any:
        name = f"{self._name}-{next(self._runs)}"
        slabs: list[Hashable] = [(f"{name}-slab", slab) for slab in range(partition.n_slabs)]
        tree = sum_tree(slabs, name, partition.tree_arity)
        graph: dict[Hashable, Any] = {f"{name}-partition": partition, f"{name}-scan": scan, **tree.tasks}
        sources = self._sources(source, partition, graph, name, scan.reads_features)
        for slab, key in enumerate(slabs):
            graph[key] = (_slab_sums_on_worker, sources[slab], f"{name}-partition", f"{name}-scan", slab, self._slabs_at_a_time)
        *futures, root = self._client.get(graph, [*slabs, tree.root], sync=False, retries=_TASK_RETRIES, pure=False)
        try:
            self._wait({**dict(enumerate(futures)), _WHOLE: root}, partition.n_slabs, slab_done, futures.clear)
            return root.result(timeout=_CONNECT_SECONDS)
        finally:
            if not root.done() and self._client.status == "running":
                root.cancel()

    def _wait(self, out: dict[int, Any], n_slabs: int, slab_done: Callable[[int], None], let_go: Callable[[], None]) -> None:
        """Wait for every slab and the sum of all, letting go of each slab when it is done, so that its sums live only until they are added up."""
        let_go()
        done: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slab, future in out.items():
            future.add_done_callback(lambda _, slab=slab: done.put(slab))
        patience, rescues = Patience(self._stall_seconds), 0

        def awaited() -> str:
            slabs = len(out) - (_WHOLE in out)
            return f"{slabs} of {n_slabs} slabs on {self._address}" if slabs else f"the sum of {n_slabs} slabs on {self._address}"

        while out:
            found = patience.next(done, awaited, self._is_idle)
            if found is None:
                rescues += 1
                if rescues > _RESCUES or self._client.status != "running":
                    raise ClusterError(f"nothing was finished for {patience.seconds:.0f} s (cluster.stall_seconds), {rescues} times in this pass, while "
                                       f"waiting for {awaited()}; see the cluster's dashboard and logs, then add --resume to go on")
                self._give_up_stuck_workers()
                continue
            slab = found
            future = out.pop(found)
            if future.status == "error":
                raise future.exception()
            if future.status != "finished":
                if self._client.status != "running":
                    raise self._scheduler_lost()
                if self._parts is not None:
                    raise _LostPartsError
                raise ClusterError(f"the scheduler at {self._address} gave up slab {found} ({future.status}); is it still running? Add --resume to go on")
            if found != _WHOLE:
                slab_done(found)

    def _scheduler_lost(self) -> ClusterError:
        return ClusterError(f"the scheduler at {self._address} no longer answers; start it again (or set cluster.address), then add --resume to go on after "
                            "the last pass that was finished")

    def _is_idle(self) -> bool:
        """Whether there are workers, and none has anything to do for this engine."""
        if self._client.status != "running":
            return False
        return bool(self._workers()) and not self._client.run_on_scheduler(_busy_workers, self._name)

    def _give_up_stuck_workers(self) -> None:
        """Have others do what the workers that should be at it do not get done: they hang, or their machine has gone without a word."""
        stuck: dict[str, bool] = self._client.run_on_scheduler(_busy_workers, self._name)
        if not stuck:  # Dask 2026.8 leaves tasks without a worker where all that they were meant for are gone: ask for them anew
            raise _LostPartsError
        log.warning("nothing has come for too long from %s; giving up on %s, others will read what they had", ", ".join(sorted(stuck)),
                    "them" if len(stuck) > 1 else "it")
        nannied = sorted(address for address, has_nanny in stuck.items() if has_nanny)
        if nannied:
            self._client.restart_workers(nannied, timeout=_CONNECT_SECONDS, raise_for_error=False)
        alone = sorted(set(stuck) - set(nannied))
        if alone:
            self._client.run_on_scheduler(_remove_workers, alone)

    def _sources(self, source: Source, partition: Partition, graph: dict[Hashable, Any], name: str, reads_features: bool) -> list[Any]:
        """What every slab reads from: one small record for a store, its own rows for arrays in memory."""
        if not isinstance(source, ArraySource):
            graph[f"{name}-source"] = source
            held = self._held_slabs(source, partition) if reads_features else []
            return held + [f"{name}-source"] * (partition.n_slabs - len(held))
        if self._parts is None or self._parts[0] is not source or self._parts[1] != partition:
            parts = [source.part(*partition.rows_of_slab(slab)) for slab in range(partition.n_slabs)]
            self._parts = source, partition, self._client.scatter(parts, hash=False)
        return list(self._parts[2])

    def _held_slabs(self, source: Source, partition: Partition) -> list[Any]:
        """Futures of the slabs that stay in the workers' memory."""
        if not partition.held_slabs:
            return []
        if self._parts is None or self._parts[0] is not source or self._parts[1] != partition:
            addresses = sorted(self._workers())
            # dealt out by turns, as the plan reckons with: the scheduler, left alone, gave one worker up to half as many again; a preference only,
            # so that what a dead worker held is read again by another
            name = f"{self._name}-held-{next(self._runs)}"
            held = [self._client.submit(_hold_slab, source, partition, slab, key=f"{name}-{slab}", retries=_TASK_RETRIES,
                                        workers=[addresses[slab % len(addresses)]], allow_other_workers=True)
                    for slab in range(partition.held_slabs)]
            self._parts = source, partition, held
        return list(self._parts[2])

    def _workers(self) -> dict[str, Any]:
        workers: dict[str, Any] = self._client.scheduler_info(n_workers=-1)["workers"]
        return workers

    def peak_memory_bytes(self) -> int:
        return max(process_peak_bytes(), self.memory_of_workers(peak=True) or 0)

    def memory_of_workers(self, peak: bool) -> int | None:
        self._ask_workers(_settle_worker)
        return max(self._ask_workers(process_peak_bytes if peak else process_bytes).values(), default=None)

    def _ask_workers(self, question: Callable[[], Any]) -> dict[str, Any]:
        """What each worker answers; nothing where one of them does not."""
        answers: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()

        def ask() -> None:
            try:
                answers.put(self._client.run(question, on_error="ignore"))
            except (OSError, TimeoutError, CancelledError):
                answers.put({})

        threading.Thread(target=ask, daemon=True).start()  # Dask's own call has no time-out
        try:
            return answers.get(timeout=_CONNECT_SECONDS)
        except queue.Empty:
            log.warning("not all workers answer within %d s; their memory is not known", _CONNECT_SECONDS)
            return {}

    def limit_threads(self, per_process: int) -> None:
        self._slabs_at_a_time = per_process

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exception: object) -> None:
        self._parts = None
        for part in (self._client, self._cluster):
            if part is not None:
                try:
                    part.close(timeout=_CONNECT_SECONDS)
                except (OSError, TimeoutError, CancelledError) as error:
                    log.warning("the cluster did not close in an orderly way: %s", error)


def default_processes(config: ClusterConfig) -> int:
    """Worker processes that fill the cores."""
    return max(1, available_cores() // config.threads_per_worker)


def open_processes(config: ClusterConfig) -> Engine:
    """The engine of ``cluster.kind: processes``: a scheduler and workers on this machine, gone with the run."""
    workers = config.workers or default_processes(config)
    with dask.config.set({"distributed.scheduler.allowed-failures": _WORKER_DEATHS, **_MEMORY_OF_WORKERS}):
        cluster = LocalCluster(
            n_workers=workers, threads_per_worker=config.threads_per_worker, processes=True,
            memory_limit="auto" if config.memory_limit is None else config.memory_limit,
            config=copy.deepcopy(dask.config.config),  # a worker that is started again, later, would otherwise have lost these settings
            dashboard_address=":0", silence_logs=logging.ERROR)
        return ClusterEngine(Client(cluster, timeout=_CONNECT_SECONDS, direct_to_workers=True), cluster, config.stall_seconds)


def open_address(config: ClusterConfig) -> Engine:
    """The engine of ``cluster.kind: address``: an existing scheduler and its workers.

    Raises
    ------
    ClusterError
        When nobody answers there, or the scheduler has no workers.
    """
    try:
        client = Client(config.address, timeout=_CONNECT_SECONDS)
    except (OSError, TimeoutError, ValueError) as error:
        raise ClusterError(f"no Dask scheduler answers at {config.address!r} within {_CONNECT_SECONDS} s ({error}); check "
                           "cluster.address, or start one with `dask scheduler`") from error
    try:
        client.wait_for_workers(1, timeout=_CONNECT_SECONDS)
    except TimeoutError:
        client.close()
        raise ClusterError(f"the scheduler at {config.address!r} has no workers; start some with `dask worker {config.address}`") from None
    return ClusterEngine(client, stall_seconds=config.stall_seconds)
