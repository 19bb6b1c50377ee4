"""The engine in other processes: slabs are tasks of a Dask cluster, whichever it is."""

from __future__ import annotations

import itertools
import logging
import queue
import time
import uuid
from collections.abc import Callable, Collection, Hashable, Mapping
from typing import Any

from distributed import Client, KilledWorker, LocalCluster, TimeoutError
from distributed.comm.core import CommClosedError

from streamlr.data.chunks.retries import take_read_retries
from streamlr.data.partition import Partition
from streamlr.data.source import Source
from streamlr.errors import ClusterError, DataError, StreamlrError, option
from streamlr.execution.cluster.handshake import OtherStreamlrError, this_streamlr
from streamlr.execution.cluster.lookout import Lookout, LostError
from streamlr.execution.cluster.placement import TASK_RETRIES, Placement
from streamlr.execution.cluster.roster import Roster
from streamlr.execution.cluster.tasks import (
    Counted,
    Job,
    naming,
    prove,
    reported_bytes,
    reported_limit,
    sum_nodes,
    sum_slab,
)
from streamlr.execution.cluster.travel import pack, remote
from streamlr.execution.cluster.workers import (
    ASK_SECONDS,
    Workers,
    call_with_timeout,
    kill_workers,
    named,
)
from streamlr.execution.engine import Engine, Scan, sum_tree
from streamlr.execution.limits import FoundLimit
from streamlr.execution.process import process_peak_bytes

log = logging.getLogger(__name__)

CLOSE_SECONDS = 15
_OPEN_SECONDS = 20.0
"""For a worker to open a store that is far away; its tasks would do it in any case."""
WORKER_DEATHS = 10
_KEYS_LOOKED_AT = 100
"""Tasks of a pass whose state is asked for, to tell whether they wait or are lost."""


class ClusterEngine:
    """Slabs as tasks of a Dask cluster; the sums come back through a shallow tree, the data never
    do."""

    def __init__(
        self,
        client: Client,
        address: str,
        stall_seconds: float,
        cluster: LocalCluster | None = None,
    ) -> None:
        self._client = client
        self._cluster = cluster
        self._address = address
        self._shared = cluster is None
        self._workers = Workers(client, cluster)
        self._roster = Roster(self._workers)
        self._name = f"streamlr-{uuid.uuid4().hex[:8]}"
        self._lookout = Lookout(
            client,
            address,
            self._workers,
            self._roster,
            self._name,
            stall_seconds,
            shared=self._shared,
        )
        self._placement = Placement(
            client, self._lookout, self._name, stall_seconds, shared=self._shared
        )
        self._runs = itertools.count()
        self._proven: tuple[Source, set[str]] | None = None
        self._slabs_at_a_time: int | None = None
        self.read_retries = 0
        workers = self._lookout.known_workers()
        self._meet(workers)
        self._roster.require_usable(workers, address)
        usable = self._roster.usable(workers)
        self.n_threads = max(1, sum(workers[address]["nthreads"] for address in usable))
        processes = f"{len(usable)} worker process{'es' * (len(usable) != 1)}"
        self.description = f"{processes}, {self.n_threads} threads in all"

    @property
    def dashboard_link(self) -> str | None:
        try:
            known = call_with_timeout(ASK_SECONDS, lambda: self._client.scheduler_info(n_workers=0))
        except (TimeoutError, OSError):
            return None  # the pass that follows will tell
        return self._client.dashboard_link if "dashboard" in known.get("services", {}) else None

    def run(
        self, source: Source, partition: Partition, scan: Scan, slab_done: Callable[[int], None]
    ) -> Any:
        reported: set[int] = set()

        def tell(slab: int) -> None:
            self._lookout.patience.moved()
            if slab not in reported:  # a second attempt sums again what the first had told already
                reported.add(slab)
                slab_done(slab)

        deaths = 0
        while True:
            self._lookout.patience.begin()
            self._workers.refill()
            try:
                counted = self._run_once(source, partition, scan, self._admitted(source), tell)
            except LostError as lost:
                deaths += lost.deaths
                self._placement.forget()
                self._lookout.require_scheduler()
                if deaths > WORKER_DEATHS:
                    raise ClusterError(
                        f"workers were lost {deaths} times within one pass (at last: {lost}). Most "
                        "likely a slab needs more memory than they have: see the cluster's logs "
                        "for "
                        "why they die, and `streamlr plan` for what a slab should need"
                    ) from None
                log.warning("%s; sending the pass again", lost)
            else:
                self.read_retries += counted.read_retries + take_read_retries()
                self._roster.note(counted.computed)
                return counted.sums

    def _admitted(self, source: Source) -> list[str] | None:
        """To which workers the tasks of a pass may go, after those that have joined were asked;
        None for all.

        All is the rule, since Dask keeps no queue of tasks that are restricted to some workers:
        those who join later then have a share, too. A task that comes to one who may not take part
        is refused there.
        """
        if not self._shared:
            return None
        while True:
            addresses = self._addresses()
            self._meet(addresses)
            usable = self._roster.usable(addresses)
            if usable or not addresses:
                break
            # those that could have gone, and their nannies may bring them back
            self._lookout.require_workers(usable)
            time.sleep(self._lookout.patience.look_seconds)
        self._prove(source, usable)
        return usable if len(usable) < len(addresses) else None

    def _addresses(self) -> list[str]:
        """Of the workers that are there; a connection that broke since the last pass gets the time
        to come back."""
        try:
            return self._workers.addresses()
        except (TimeoutError, OSError):
            self._lookout.require_scheduler()
        return sorted(self._lookout.known_workers())

    def _meet(self, addresses: Collection[str]) -> None:
        """Ask workers of another's cluster what they are."""
        if self._shared:
            try:
                self._roster.meet(addresses)
            except (TimeoutError, OSError) as error:
                raise self._lookout.scheduler_lost() from error

    def _prove(self, source: Source, addresses: list[str]) -> None:
        """Have every worker open a store before it is read, so that one that does not see it is
        named at once, and not by chance.

        Raises
        ------
        DataError
            Of the first that cannot.
        """
        if source.resident:
            return
        if self._proven is None or self._proven[0] is not source:
            self._proven = source, set()
        unproven = [address for address in addresses if address not in self._proven[1]]
        if not unproven:
            return
        self._proven[1].update(unproven)
        try:
            found = self._workers.ask_aside(unproven, prove, pack(source), seconds=_OPEN_SECONDS)
        except (TimeoutError, OSError) as error:
            raise self._lookout.scheduler_lost() from error
        for address, met in found.items():
            if isinstance(met, DataError):
                raise naming(met, address)

    def _run_once(
        self,
        source: Source,
        partition: Partition,
        scan: Scan,
        only: list[str] | None,
        slab_done: Callable[[int], None],
    ) -> Counted:
        name = f"{self._name}-{next(self._runs)}"
        slabs: list[Hashable] = [(f"{name}-slab", slab) for slab in range(partition.n_slabs)]
        tree = sum_tree(slabs, name, partition.tree_arity)
        run_by = this_streamlr()
        graph: dict[Hashable, Any] = {
            f"{name}-job": pack(Job(partition, scan, self._slabs_at_a_time, self._shared))
        }
        graph |= {key: remote(sum_nodes, run_by, nodes) for key, (_, nodes) in tree.tasks.items()}
        sources = self._sources(source, partition, graph, name, scan.reads_features, only)
        for slab, key in enumerate(slabs):
            graph[key] = remote(sum_slab, run_by, f"{name}-job", sources[slab], slab)
        *futures, root = self._client.get(
            graph, [*slabs, tree.root], sync=False, retries=TASK_RETRIES, pure=False, workers=only
        )
        try:
            # they wait for room on a worker, as slabs do, and slabs wait for them
            common = [f"{name}-job", f"{name}-source"]
            self._wait_for_slabs(dict(enumerate(futures)), common, slab_done, futures.clear)
            return self._fetch(root, common)
        finally:
            if not root.done():
                root.cancel()

    def _wait_for_slabs(
        self,
        out: dict[int, Any],
        common: list[Any],
        slab_done: Callable[[int], None],
        let_go: Callable[[], None],
    ) -> None:
        """Wait for every slab, letting go of each when it is done, so that its sums live only until
        they are added up."""
        let_go()
        done: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slab, future in out.items():
            future.add_done_callback(lambda _, slab=slab: done.put(slab))
        n_slabs = len(out)
        self._lookout.begin_wait()
        while out:
            try:
                slab = done.get(timeout=self._lookout.patience.look_seconds)
            except queue.Empty:
                some = itertools.islice(out.values(), _KEYS_LOOKED_AT)
                self._lookout.session(
                    f"{len(out)} of {n_slabs} slabs", [*common, *(future.key for future in some)]
                )
                continue
            self._require_success(out.pop(slab), f"slab {slab}")
            slab_done(slab)

    def _fetch(self, root: Any, common: list[Any]) -> Counted:
        """The sum of all: a few more additions, and a transfer that gets twice the time each time
        that it was not enough."""
        self._lookout.begin_wait()
        seconds = self._lookout.patience.look_seconds
        while True:
            try:
                counted: Counted = root.result(timeout=seconds)
                return counted
            except TimeoutError:
                seconds *= 2
                self._lookout.session("the sum of all slabs", [*common, root.key])
            except CommClosedError as error:
                # whether the scheduler is gone is looked at before the pass is sent again
                raise LostError(
                    f"the connection broke at the sum of all slabs ({error})"
                ) from error
            except Exception:
                self._require_success(root, "the sum of all slabs")
                raise

    def _require_success(self, future: Any, what: str) -> None:
        """Tell a task that failed from one that was lost, or came to a worker that cannot take
        part."""
        if future.status == "error":
            error = future.exception(timeout=ASK_SECONDS)
            if isinstance(error, KilledWorker):
                deaths = error.allowed_failures + 1
                raise LostError(f"{deaths} workers died while they worked on {what}", deaths)
            if isinstance(error, OtherStreamlrError) and not self._shared:
                raise ClusterError(
                    f"{error}: files of the package were changed after this process had loaded "
                    f"them; start again, or go on with {option('resume')}"
                )
            if self._shared and not isinstance(error, StreamlrError):
                self._require_taking_part(error)
            raise error
        if future.status != "finished":
            raise LostError(f"the scheduler gave up {what} ({future.status})")

    def _require_taking_part(self, error: Exception) -> None:
        """After an error that is none of ours: it may be that of a worker which has joined, or was
        started again, with another streamlr or none."""
        try:
            strangers = self._roster.meet_again(self._workers.addresses())
        except (TimeoutError, OSError) as silence:
            raise self._lookout.scheduler_lost() from silence
        if strangers:
            raise LostError(f"{named(strangers)} cannot take part", deaths=0) from error
        if isinstance(error, OtherStreamlrError):
            raise LostError(f"{error}, and is gone") from error

    def _sources(
        self,
        source: Source,
        partition: Partition,
        graph: dict[Hashable, Any],
        name: str,
        reads_features: bool,
        only: list[str] | None,
    ) -> list[Any]:
        """What every slab reads from: one small record for a store, its own rows for arrays in
        memory."""
        if source.resident:
            return self._placement.parts(source, partition)
        graph[f"{name}-source"] = pack(source)
        resident = self._placement.resident(source, partition, only) if reads_features else []
        return resident + [f"{name}-source"] * (partition.n_slabs - len(resident))

    def peak_memory_bytes(self) -> int:
        """Of this process and of the workers that are there and answer; those of workers that died
        are gone with them."""
        return max(process_peak_bytes(), self.memory_of_workers(peak=True) or 0)

    def memory_of_workers(self, peak: bool) -> int | None:
        try:
            reported = self._workers.ask_each(
                self._roster.usable(self._workers.addresses()), reported_bytes, peak
            )
        except (TimeoutError, OSError) as error:
            log.warning(
                "the workers were not asked for their memory (%s); it is left out",
                str(error) or type(error).__name__,
            )
            return None
        mute = [address for address, found in reported.items() if not isinstance(found, int)]
        if mute:
            log.warning("%s did not tell what memory it has; left out", named(mute))
        return max((found for found in reported.values() if isinstance(found, int)), default=None)

    def limit_of_workers(self) -> FoundLimit | None:
        if not self._shared:
            return None  # they share that of this machine
        try:
            known = self._workers.known()
            reported = self._workers.ask_each(self._roster.usable(known), reported_limit)
        except (TimeoutError, OSError) as error:
            log.warning(
                "the workers were not asked for their limits of memory (%s); none is known",
                str(error) or type(error).__name__,
            )
            return None
        limits = [
            found if isinstance(found, FoundLimit) else _started_with(address, known[address])
            for address, found in reported.items()
        ]
        return min(
            (limit for limit in limits if limit), key=lambda limit: limit.nbytes, default=None
        )

    def arithmetic_of_workers(self) -> list[dict[str, Any]] | None:
        return self._roster.arithmetic()

    def limit_threads(self, per_process: int) -> None:
        self._slabs_at_a_time = per_process

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exception: object) -> None:
        self._placement.forget()
        self._proven = None
        try:
            call_with_timeout(CLOSE_SECONDS, lambda: self._client.close(timeout=CLOSE_SECONDS))
        except Exception as error:  # the run has its result, or an error of its own
            log.info(
                "closing the connection to %s: %s",
                self._address,
                str(error) or type(error).__name__,
            )
        if self._cluster is not None:
            close_cluster(self._cluster)


def _started_with(address: str, worker: Mapping[str, Any]) -> FoundLimit | None:
    """The limit of a worker that tells of none, as the scheduler knows it; 0 is none."""
    limit = int(worker.get("memory_limit") or 0)
    return FoundLimit(limit, f"the memory limit of the worker at {address}") if limit else None


def close_cluster(cluster: LocalCluster) -> None:
    """Close it; workers that do not go by themselves are killed, or this process would wait for
    them at its end."""
    try:
        cluster.close(timeout=CLOSE_SECONDS)
    except Exception as error:  # the run has its result, or an error of its own
        log.info("closing the cluster: %s", str(error) or type(error).__name__)
        kill_workers(cluster, [nanny.worker_address for nanny in cluster.workers.values()])
