"""What the slabs of a pass read from, and where that lies: a store that each worker opens, slabs
that workers keep in memory, or arrays that were sent to them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

from distributed import Client, TimeoutError

from streamlr.data.partition import Partition
from streamlr.data.source import Source
from streamlr.execution.cluster.handshake import this_streamlr
from streamlr.execution.cluster.lookout import Lookout, LostError
from streamlr.execution.cluster.tasks import load_slab
from streamlr.execution.cluster.travel import pack, pack_uncopied, unwrap, written_call
from streamlr.execution.cluster.workers import call_with_timeout

TASK_RETRIES = 2
_SLOW_NETWORK = 1e7
"""Bytes a second."""


class Placement:
    """Keeps what was sent to workers for as long as an engine works on the same source.

    Parameters
    ----------
    client, lookout
        The connection, and who looks after it.
    name
        What the keys of all tasks of the engine begin with.
    stall_seconds
        What is given to the workers to take data, beside the time that a slow network needs.
    shared
        Whether others may use the workers too.
    """

    def __init__(
        self, client: Client, lookout: Lookout, name: str, stall_seconds: float, *, shared: bool
    ) -> None:
        self._client = client
        self._lookout = lookout
        self._name = name
        self._stall_seconds = stall_seconds
        self._shared = shared
        self._numbers: Iterator[int] = itertools.count()
        self._kept: tuple[Source, Partition, list[Any]] | None = None

    def forget(self) -> None:
        """Let go of what workers keep."""
        self._kept = None

    def resident(self, source: Source, partition: Partition, only: list[str] | None) -> list[Any]:
        """Futures of the slabs that stay in the workers' memory.

        Parameters
        ----------
        source, partition
            The store, and its slabs.
        only
            The workers that may take part, where others are there who may not.
        """
        if not partition.resident_slabs:
            return []
        if not self._is_kept(source, partition):
            addresses = only or self._lookout.usable_workers()
            name = f"{self._name}-resident-{next(self._numbers)}"
            parcel, run_by = pack(source), this_streamlr()
            # dealt out by turns, as the plan reckons with: the scheduler, left alone, gave one
            # worker up to half as many again; a preference only, so that what a dead worker held
            # is read again by another
            futures = [
                self._client.submit(
                    unwrap,
                    written_call(load_slab, run_by, parcel, partition, slab),
                    key=f"{name}-{slab}",
                    retries=TASK_RETRIES,
                    workers=[addresses[slab % len(addresses)]] if addresses else None,
                    allow_other_workers=bool(addresses) and only is None,
                )
                for slab in range(partition.resident_slabs)
            ]
            self._kept = source, partition, futures
        return self._futures()

    def parts(self, source: Source, partition: Partition) -> list[Any]:
        """Futures of the rows of each slab, sent to workers that are known to take them.

        Raises
        ------
        LostError
            When they were not taken in the time that a slow network needs.
        """
        if not self._is_kept(source, partition):
            name = f"{self._name}-part-{next(self._numbers)}"
            slabs = range(partition.n_slabs)
            parts = {f"{name}-{slab}": source.part(*partition.rows_of_slab(slab)) for slab in slabs}
            nbytes = source.n_rows * source.n_features * source.dtype.itemsize
            self._kept = source, partition, self._scatter(parts, nbytes)
        return self._futures()

    def _is_kept(self, source: Source, partition: Partition) -> bool:
        kept = self._kept
        return kept is not None and kept[0] is source and kept[1] == partition

    def _futures(self) -> list[Any]:
        assert self._kept is not None
        return list(self._kept[2])

    def _scatter(self, parts: dict[str, Source], nbytes: int) -> list[Any]:
        seconds = self._stall_seconds + nbytes / _SLOW_NETWORK
        usable = self._lookout.usable_workers()
        sent: dict[str, Any] = {
            key: pack_uncopied(part) if self._shared else part for key, part in parts.items()
        }

        def send() -> dict[str, Any]:
            futures: dict[str, Any] = self._client.scatter(
                sent, workers=usable or None, hash=False, timeout=seconds
            )
            return futures

        try:
            futures = call_with_timeout(seconds, send)
        except (TimeoutError, OSError) as error:
            self._lookout.replace_silent()
            raise LostError(
                "the data in memory could not be sent to the workers "
                f"({str(error) or type(error).__name__})"
            ) from error
        return [futures[key] for key in sent]
