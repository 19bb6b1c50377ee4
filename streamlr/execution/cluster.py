"""The engine in other processes: slabs are tasks of a Dask cluster, whichever it is."""

from __future__ import annotations

import functools
import itertools
import logging
import math
import queue
import threading
import time
import uuid
from collections.abc import Callable, Collection, Hashable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

from distributed import Client, KilledWorker, LocalCluster, TimeoutError
from distributed.comm.core import CommClosedError
from threadpoolctl import threadpool_limits

from streamlr.data.held import HeldRows
from streamlr.data.partition import Partition
from streamlr.data.retries import take_read_retries
from streamlr.data.source import ArraySource, Buffer, Source
from streamlr.errors import ClusterError
from streamlr.execution.engine import Engine, Scan, slab_sums, sum_tree
from streamlr.execution.process import process_bytes, process_peak_bytes, settle_allocator
from streamlr.execution.workers import ASK_SECONDS, Patience, Workers, kill_workers, within

log = logging.getLogger(__name__)

CLOSE_SECONDS = 15
_RECONNECT_SECONDS = 10.0
_NO_WORKERS_STALLS = 10
_SLOW_NETWORK = 1e7
"""Bytes a second."""
_TASK_RETRIES = 2
WORKER_DEATHS = 10
_NAMED = 3


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
        held.read_groups(start, stop)
    return held


@functools.cache
def _settle_worker() -> None:
    """Once, for the rest of the worker's life: a cluster started by others may not do it, and finding the libraries takes a millisecond."""
    threadpool_limits(limits=1, user_api="blas")
    settle_allocator()


def _told_bytes(peak: bool) -> int:
    """What a worker holds, or held at most, settled first."""
    _settle_worker()
    return process_peak_bytes() if peak else process_bytes()


@dataclass(frozen=True, slots=True)
class _Counted:
    """Sums, and what is counted beside them: a monoid as well, so that it takes the same way."""

    sums: Any
    """The sums of a scan."""
    read_retries: int
    """Reads that were tried again in the worker process since it told last."""

    def __add__(self, other: _Counted) -> _Counted:
        return _Counted(self.sums + other.sums, self.read_retries + other.read_retries)


def _slab_sums_on_worker(source: Source, partition: Partition, scan: Scan, slab: int, at_a_time: int | None) -> _Counted:
    _settle_worker()
    with _turns(at_a_time):
        sums = slab_sums(source, partition, scan, slab)
    return _Counted(sums, take_read_retries())


_turns_lock = threading.Lock()
_semaphores: dict[int, threading.BoundedSemaphore] = {}


def _turns(at_a_time: int | None) -> AbstractContextManager[object]:
    """What the threads of a worker wait for where fewer may work at a time than there are."""
    if at_a_time is None:
        return nullcontext()
    with _turns_lock:  # the first slabs of a worker come here all at once
        return _semaphores.setdefault(at_a_time, threading.BoundedSemaphore(at_a_time))


class _LostError(Exception):
    """The tasks of a pass, or data that were sent for it, are gone; says why. All of it is here, so it is sent again."""

    def __init__(self, why: str, deaths: int = 1) -> None:
        super().__init__(why)
        self.deaths = deaths


class ClusterEngine:
    """Slabs as tasks of a Dask cluster; the sums come back through a shallow tree, the data never do."""

    def __init__(self, client: Client, address: str, stall_seconds: float, cluster: LocalCluster | None = None) -> None:
        self._client = client
        self._cluster = cluster
        self._address = address
        self._workers = Workers(client, cluster)
        self._patience = Patience(stall_seconds)
        self._stall_seconds = stall_seconds
        self._runs = itertools.count()
        self._name = f"streamlr-{uuid.uuid4().hex[:8]}"
        self._parts: tuple[Source, Partition, list[Any]] | None = None
        self._at_work: dict[str, frozenset[str]] | None = None
        self._slabs_at_a_time: int | None = None
        self._empty_since: float | None = None
        self.read_retries = 0
        workers = self._known_workers()
        self.n_threads = max(1, sum(worker["nthreads"] for worker in workers.values()))
        self.description = f"{len(workers)} worker process{'es' * (len(workers) != 1)}, {self.n_threads} threads in all"

    @property
    def dashboard_link(self) -> str | None:
        try:
            services = within(ASK_SECONDS, lambda: self._client.scheduler_info(n_workers=0)).get("services", {})
        except (TimeoutError, OSError):
            return None  # the pass that follows will tell
        return self._client.dashboard_link if "dashboard" in services else None

    def run(self, source: Source, partition: Partition, scan: Scan, slab_done: Callable[[int], None]) -> Any:
        told: set[int] = set()

        def tell(slab: int) -> None:
            self._patience.moved()
            if slab not in told:  # a second attempt sums again what the first had told already
                told.add(slab)
                slab_done(slab)

        deaths = 0
        while True:
            self._patience.begin()
            self._workers.refill()
            try:
                counted = self._run_once(source, partition, scan, tell)
            except _LostError as lost:
                deaths += lost.deaths
                self._parts = None
                self._require_scheduler()
                if deaths > WORKER_DEATHS:
                    raise ClusterError(f"workers were lost {deaths} times within one pass (at last: {lost}). Most likely a slab needs more memory than "
                                       "they have: see the cluster's logs for why they die, and `streamlr plan` for what a slab should need") from None
                log.warning("%s; sending the pass again", lost)
            else:
                self.read_retries += counted.read_retries + take_read_retries()
                return counted.sums

    def _run_once(self, source: Source, partition: Partition, scan: Scan, slab_done: Callable[[int], None]) -> _Counted:
        name = f"{self._name}-{next(self._runs)}"
        slabs: list[Hashable] = [(f"{name}-slab", slab) for slab in range(partition.n_slabs)]
        tree = sum_tree(slabs, name, partition.tree_arity)
        graph: dict[Hashable, Any] = {f"{name}-partition": partition, f"{name}-scan": scan, **tree.tasks}
        sources = self._sources(source, partition, graph, name, scan.reads_features)
        for slab, key in enumerate(slabs):
            graph[key] = (_slab_sums_on_worker, sources[slab], f"{name}-partition", f"{name}-scan", slab, self._slabs_at_a_time)
        *futures, root = self._client.get(graph, [*slabs, tree.root], sync=False, retries=_TASK_RETRIES, pure=False)
        try:
            self._wait_for_slabs(dict(enumerate(futures)), slab_done, futures.clear)
            return self._fetch(root)
        finally:
            if not root.done():
                root.cancel()

    def _wait_for_slabs(self, out: dict[int, Any], slab_done: Callable[[int], None], let_go: Callable[[], None]) -> None:
        """Wait for every slab, letting go of each when it is done, so that its sums live only until they are added up."""
        let_go()
        done: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slab, future in out.items():
            future.add_done_callback(lambda _, slab=slab: done.put(slab))
        n_slabs = len(out)
        self._at_work = None
        while out:
            try:
                slab = done.get(timeout=self._patience.look_seconds)
            except queue.Empty:
                self._look_after(f"{len(out)} of {n_slabs} slabs")
                continue
            _require_success(out.pop(slab), f"slab {slab}")
            slab_done(slab)

    def _fetch(self, root: Any) -> _Counted:
        """The sum of all: a few more additions, and a transfer that gets twice the time each time that it was not enough."""
        self._at_work = None
        seconds = self._patience.look_seconds
        while True:
            try:
                counted: _Counted = root.result(timeout=seconds)
                return counted
            except TimeoutError:
                seconds *= 2
                self._look_after("the sum of all slabs")
            except CommClosedError as error:  # whether the scheduler is gone is looked at before the pass is sent again
                raise _LostError(f"the connection broke while the sum was fetched ({error})") from error
            except Exception:
                _require_success(root, "the sum of all slabs")
                raise

    def _look_after(self, what: str) -> None:
        """Nothing was finished for a while: say what is waited for; and when it is too long, have it done elsewhere."""
        patience = self._patience
        try:
            workers, at_work = self._workers.known(), self._workers.at_work(self._name)
        except (TimeoutError, OSError) as error:
            log.warning("waiting for %s: the scheduler at %s does not answer (%s)", what, self._address, str(error) or type(error).__name__)
            if patience.quiet_seconds >= self._stall_seconds:
                raise self._scheduler_lost() from error
            return
        if patience.time_to_speak:
            idle = f"{len(workers)} workers, of which none is at work" if workers else "new workers, since there are none"
            who = _named(at_work) if at_work else idle
            log.warning("waiting for %s on %s: nothing finished for %.0f s", what, who, patience.quiet_seconds)
        self._workers.refill()
        self._require_workers(workers)
        before, self._at_work = self._at_work, at_work
        silent = self._workers.silent(patience.silent_seconds)
        paused = [address for address, worker in workers.items() if worker.get("status") == "paused"]
        if silent:
            self._replace(silent, f"gave no sign of life for {patience.silent_seconds:g} s", what)
        elif workers and not at_work and not paused and before == at_work:
            # Dask forgets tasks that prefer some worker, as held slabs do, when all workers are gone for a moment
            raise _LostError(f"no worker is at work on {what}")
        elif before is not None and at_work != before:  # work that was lost is done again, which finishes nothing that is waited for here
            patience.excuse()
        elif workers and patience.at_its_end:
            self._replace(sorted(at_work) or paused, f"finished nothing for {patience.quiet_seconds:.0f} s", what)

    def _replace(self, addresses: list[str], why: str, what: str) -> None:
        self._patience.acted()
        if self._patience.exhausted:
            raise ClusterError(f"nothing was finished for {self._patience.quiet_seconds:.0f} s, with workers replaced again and again; {what} still out. "
                               "See the cluster's logs; if slabs need that long, raise cluster.stall_seconds. Add --resume to go on from the last checkpoint")
        log.warning("replacing %s, which %s", _named(addresses), why)
        self._workers.replace(addresses)

    def _require_workers(self, workers: dict[str, Any]) -> None:
        """Without any worker there is nothing to wait for but new ones, and for them not for ever."""
        if workers:
            self._empty_since = None
            return
        self._patience.excuse()
        now = time.monotonic()
        self._empty_since = self._empty_since or now
        if now - self._empty_since >= _NO_WORKERS_STALLS * self._stall_seconds:
            raise ClusterError(f"the scheduler at {self._address} has had no workers for {now - self._empty_since:.0f} s; start some, then add --resume to "
                               "go on from the last checkpoint")

    def _require_scheduler(self) -> None:
        """After tasks were lost: a connection that broke may come back, and the scheduler with it.

        Raises
        ------
        ClusterError
            When it does not.
        """
        deadline = time.monotonic() + _RECONNECT_SECONDS
        while self._client.status == "connecting" and time.monotonic() < deadline:
            time.sleep(_RECONNECT_SECONDS / 100)
        try:
            self._workers.known()
        except (TimeoutError, OSError) as error:
            raise self._scheduler_lost() from error
        if self._client.status != "running":
            raise self._scheduler_lost()

    def _scheduler_lost(self) -> ClusterError:
        return ClusterError(f"lost the scheduler at {self._address}: it does not answer. The last checkpoint is safe; bring the scheduler back (or name "
                            "another in cluster.address) and add --resume to go on from there")

    def _known_workers(self) -> dict[str, Any]:
        try:
            return self._workers.known()
        except (TimeoutError, OSError) as error:
            raise self._scheduler_lost() from error

    def _sources(self, source: Source, partition: Partition, graph: dict[Hashable, Any], name: str, reads_features: bool) -> list[Any]:
        """What every slab reads from: one small record for a store, its own rows for arrays in memory."""
        if not isinstance(source, ArraySource):
            graph[f"{name}-source"] = source
            held = self._held_slabs(source, partition) if reads_features else []
            return held + [f"{name}-source"] * (partition.n_slabs - len(held))
        if self._parts is None or self._parts[0] is not source or self._parts[1] != partition:
            self._parts = source, partition, self._scatter([source.part(*partition.rows_of_slab(slab)) for slab in range(partition.n_slabs)])
        return list(self._parts[2])

    def _scatter(self, parts: list[ArraySource]) -> list[Any]:
        """Send arrays out; in the time that a slow network takes, or not to those that do not take them."""
        seconds = self._stall_seconds + sum(math.prod(part.X.shape) * part.X.dtype.itemsize for part in parts) / _SLOW_NETWORK
        self._known_workers()
        try:
            futures: list[Any] = within(seconds, lambda: self._client.scatter(parts, hash=False, timeout=seconds))
        except (TimeoutError, OSError) as error:
            self._require_workers(self._known_workers())
            silent = self._workers.silent(self._patience.silent_seconds)
            if silent:
                self._workers.replace(silent)
            raise _LostError(f"the data in memory could not be sent to the workers ({str(error) or type(error).__name__})") from error
        return futures

    def _held_slabs(self, source: Source, partition: Partition) -> list[Any]:
        """Futures of the slabs that stay in the workers' memory."""
        if not partition.held_slabs:
            return []
        if self._parts is None or self._parts[0] is not source or self._parts[1] != partition:
            addresses = sorted(self._known_workers())
            # dealt out by turns, as the plan reckons with: the scheduler, left alone, gave one worker up to half as many again; a preference only,
            # so that what a dead worker held is read again by another
            name = f"{self._name}-held-{next(self._runs)}"
            held = [self._client.submit(_hold_slab, source, partition, slab, key=f"{name}-{slab}", retries=_TASK_RETRIES,
                                        workers=[addresses[slab % len(addresses)]] if addresses else None, allow_other_workers=bool(addresses))
                    for slab in range(partition.held_slabs)]
            self._parts = source, partition, held
        return list(self._parts[2])

    def peak_memory_bytes(self) -> int:
        """Of this process and of the workers that are there and answer; those of workers that died are gone with them."""
        return max(process_peak_bytes(), self.memory_of_workers(peak=True) or 0)

    def memory_of_workers(self, peak: bool) -> int | None:
        try:
            told = self._workers.ask_each(functools.partial(_told_bytes, peak))
        except (TimeoutError, OSError) as error:
            log.warning("the workers were not asked for their memory (%s); it is left out", str(error) or type(error).__name__)
            return None
        mute = [address for address, found in told.items() if found is None]
        if mute:
            log.warning("%s did not tell what memory it has; left out", _named(mute))
        return max((found for found in told.values() if found is not None), default=None)

    def limit_threads(self, per_process: int) -> None:
        self._slabs_at_a_time = per_process

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exception: object) -> None:
        self._parts = None
        try:
            within(CLOSE_SECONDS, lambda: self._client.close(timeout=CLOSE_SECONDS))
        except Exception as error:  # the run has its result, or an error of its own
            log.info("closing the connection to %s: %s", self._address, str(error) or type(error).__name__)
        if self._cluster is not None:
            close_cluster(self._cluster)


def _require_success(future: Any, what: str) -> None:
    """Tell a task that failed from one that was lost."""
    if future.status == "error":
        error = future.exception(timeout=ASK_SECONDS)
        if isinstance(error, KilledWorker):
            deaths = error.allowed_failures + 1
            raise _LostError(f"{deaths} workers died while they worked on {what}", deaths)
        raise error
    if future.status != "finished":
        raise _LostError(f"the scheduler gave up {what} ({future.status})")


def _named(addresses: Collection[str]) -> str:
    """The first few."""
    first = ", ".join(sorted(addresses)[:_NAMED]) or "no worker"
    return first + (f" and {len(addresses) - _NAMED} more" if len(addresses) > _NAMED else "")


def close_cluster(cluster: LocalCluster) -> None:
    """Close it; workers that do not go by themselves are killed, or this process would wait for them at its end."""
    try:
        cluster.close(timeout=CLOSE_SECONDS)
    except Exception as error:  # the run has its result, or an error of its own
        log.info("closing the cluster: %s", str(error) or type(error).__name__)
        kill_workers(cluster, [nanny.worker_address for nanny in cluster.workers.values()])
