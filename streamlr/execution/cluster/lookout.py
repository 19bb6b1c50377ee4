"""What is done while nothing is finished: say what is waited for, and have it done elsewhere where
that harms nobody.

On a cluster of one's own every worker may be killed and started again. On one that others use too,
a worker that is started again takes with it what others run on it. So it is replaced only where a
task of ours runs, or nobody can tell what runs, and none of others does; else the run waits until
the others are through, and says so.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from distributed import Client, TimeoutError

from streamlr.errors import ClusterError, option
from streamlr.execution.cluster.roster import Roster
from streamlr.execution.cluster.tasks import reported_reads, running_keys
from streamlr.execution.cluster.workers import Load, Patience, Workers, named

log = logging.getLogger(__name__)

_RECONNECT_SECONDS = 10.0
_NO_WORKERS_STALLS = 10
_READS_SECONDS = 1.0
"""For an answer that is of use only while it is asked for."""


class LostError(Exception):
    """The tasks of a pass, or data that were sent for it, are gone; says why. All of it is here, so
    it is sent again."""

    def __init__(self, why: str, deaths: int = 1) -> None:
        super().__init__(why)
        self.deaths = deaths


class Lookout:
    """Looks after the tasks of an engine.

    Parameters
    ----------
    client, address
        The connection, and the scheduler that it leads to.
    workers, roster
        The workers, and which of them take part.
    name
        What the keys of all tasks of the engine begin with.
    stall_seconds
        After how long without anything finished something is done.
    shared
        Whether others may use the workers too.
    """

    def __init__(
        self,
        client: Client,
        address: str,
        workers: Workers,
        roster: Roster,
        name: str,
        stall_seconds: float,
        *,
        shared: bool,
    ) -> None:
        self.patience = Patience(stall_seconds)
        self._client = client
        self._address = address
        self._workers = workers
        self._roster = roster
        self._name = name
        self._stall_seconds = stall_seconds
        self._shared = shared
        self._before: Load | None = None
        self._empty_since: float | None = None

    def begin_wait(self) -> None:
        """Something else is waited for from now on."""
        self._before = None

    def session(self, what: str, keys: Sequence[Any]) -> None:
        """Nothing was finished for a while: say what is waited for; and when it is too long, have
        it done elsewhere.

        Parameters
        ----------
        what
            What is waited for, for a person.
        keys
            Of the tasks that are not done, or some of them.

        Raises
        ------
        LostError
            When the tasks are to be sent again.
        ClusterError
            When waiting is of no use.
        """
        try:
            self._look(what, keys)
        except (TimeoutError, OSError) as error:
            log.warning(
                "waiting for %s: the scheduler at %s does not answer (%s)",
                what,
                self._address,
                str(error) or type(error).__name__,
            )
            if self.patience.quiet_seconds >= self._stall_seconds:
                raise self.scheduler_lost() from error

    def _look(self, what: str, keys: Sequence[Any]) -> None:
        workers, load = self._workers.known(), self._workers.load(self._name)
        self._require_taking_part(workers, load)
        busy = self._busy(load, keys)
        silent = self._harmless(self._silent(load), load)
        reads = {} if silent else self._reads(load)
        if self.patience.time_to_speak:
            self._speak(what, workers, load, busy, reads)
        self._workers.refill()
        usable = self._roster.usable(workers)
        self.require_workers(usable)
        before, self._before = self._before, load
        if silent:
            seconds = self.patience.silent_seconds
            self._replace(silent, f"gave no sign of life for {seconds:g} s", what)
        elif busy or any(ends for _, ends in reads.values()):
            self.patience.excuse()
        elif usable:
            paused = [address for address in usable if workers[address].get("status") == "paused"]
            self._compare(before, load, paused, what)

    def _compare(self, before: Load | None, load: Load, paused: list[str], what: str) -> None:
        """See whether anything has moved since the look before this one."""
        if before is not None and not (load.ours or before.ours or paused):
            # Dask forgets tasks that prefer some worker, as held slabs do, when all workers are
            # gone for a moment
            raise LostError(f"no worker is at work on {what}")
        if before is not None and load.ours != before.ours:
            # work that was lost is done again, which finishes nothing that is waited for here
            self.patience.excuse()
        elif self.patience.at_its_end:
            self._end_of_patience(sorted(load.ours) or paused, load, what)

    def _require_taking_part(self, workers: Collection[str], load: Load) -> None:
        """Send the tasks again where some have come to a worker that has joined and cannot take
        part: it may wait for ever for data that it cannot unpickle."""
        if not self._shared:
            return
        joined = self._roster.meet(workers)
        astray = self._roster.refused(load.ours)
        if astray:
            raise LostError(f"{named(astray)} cannot take part", deaths=0 if joined else 1)

    def _reads(self, load: Load) -> dict[str, tuple[str, bool]]:
        """What those at work on our tasks have been reading for long, and whether it ends by
        itself; asked when it may count."""
        if not (self.patience.may_speak or self.patience.at_its_end):
            return {}
        answers = self._workers.ask_each(sorted(load.ours), reported_reads, seconds=_READS_SECONDS)
        return {
            address: reported
            for address, reported in answers.items()
            if isinstance(reported, tuple) and reported[0]
        }

    def _speak(
        self,
        what: str,
        workers: Collection[str],
        load: Load,
        busy: bool,
        reads: Mapping[str, tuple[str, bool]],
    ) -> None:
        seconds = self.patience.quiet_seconds
        if busy:
            log.warning(
                "the workers are busy with tasks of others: waiting for %s, nothing finished "
                "for %.0f s",
                what,
                seconds,
            )
            return
        idle = (
            f"{len(workers)} workers, of which none is at work"
            if workers
            else "new workers, since there are none"
        )
        read = "".join(
            f"; on {address} {reported}" for address, (reported, _) in sorted(reads.items())[:1]
        )
        log.warning(
            "waiting for %s on %s: nothing finished for %.0f s%s",
            what,
            named(load.ours) if load.ours else idle,
            seconds,
            read,
        )

    def _busy(self, load: Load, keys: Sequence[Any]) -> bool:
        """Whether tasks of others are in the way: they run where ours wait, or have taken all the
        room that there is."""
        if not (self._shared and load.foreign):
            return False
        if not load.ours:
            return self._workers.any_queued(keys)
        if load.foreign.isdisjoint(load.ours):
            return False
        running = self._workers.ask_each(sorted(load.ours), running_keys)
        return not any(
            self._name in key for keys in running.values() if isinstance(keys, list) for key in keys
        )

    def _silent(self, load: Load) -> list[str]:
        """Workers without a sign of life, of those on which something of ours is; of another's
        cluster the rest is no business of this run."""
        silent = self._workers.silent(self.patience.silent_seconds)
        if not (self._shared and silent):
            return silent
        kept = self._workers.kept(silent)
        return [
            address
            for address in silent
            if address in load.ours or any(self._name in key for key in kept.get(address, ()))
        ]

    def _harmless(self, addresses: list[str], load: Load) -> list[str]:
        """Those of the workers that may be started again without harm to others."""
        if not (self._shared and addresses):
            return addresses
        kept = self._workers.kept(addresses)
        running = self._workers.ask_each(addresses, running_keys)

        def is_harmless(address: str) -> bool:
            keys = running[address]
            nobody_else = address not in load.foreign
            if isinstance(keys, list) and keys:
                # what runs is known: tasks of others that only wait there go elsewhere
                nobody_else = all(self._name in key for key in keys)
            return nobody_else and all(self._name in key for key in kept.get(address, ()))

        return [address for address in addresses if is_harmless(address)]

    def _end_of_patience(self, addresses: list[str], load: Load, what: str) -> None:
        """Replace workers that have finished nothing for too long; where none can be without harm,
        others are waited for."""
        harmless = self._harmless(addresses, load)
        if harmless:
            self._replace(
                harmless, f"finished nothing for {self.patience.quiet_seconds:.0f} s", what
            )
        elif load.foreign.isdisjoint(addresses):
            self._act(what)
            log.warning(
                "%s finished nothing for %.0f s, and keep results of others, so they are left as "
                "they are",
                named(addresses),
                self.patience.quiet_seconds,
            )
        else:
            log.warning(
                "the workers are busy with tasks of others, so %s, which finished nothing for "
                "%.0f s, are not replaced",
                named(addresses),
                self.patience.quiet_seconds,
            )
            self.patience.excuse()

    def replace_silent(self) -> None:
        """After data were not taken: replace workers that give no sign of life, where that harms
        nobody."""
        self.require_workers(self.usable_workers())
        try:
            load = self._workers.load(self._name)
            silent = self._harmless(self._silent(load), load)
        except (TimeoutError, OSError) as error:
            raise self.scheduler_lost() from error
        if silent:
            self._workers.replace(silent)

    def _replace(self, addresses: list[str], why: str, what: str) -> None:
        self._act(what)
        log.warning("replacing %s, which %s", named(addresses), why)
        self._workers.replace(addresses)

    def _act(self, what: str) -> None:
        """Reckon with an attempt more, which may be one too many."""
        self.patience.acted()
        if self.patience.exhausted:
            raise ClusterError(
                f"nothing was finished for {self.patience.quiet_seconds:.0f} s, with workers "
                f"replaced again and again; {what} still out. See the cluster's logs; if slabs "
                f"need that long, raise cluster.stall_seconds. Add {option('resume')} to go on "
                "from the "
                "last checkpoint"
            )

    def require_workers(self, workers: Collection[str]) -> None:
        """Without any worker there is nothing to wait for but new ones, and for them not for ever.

        Raises
        ------
        ClusterError
            When there have been none for too long.
        """
        if workers:
            self._empty_since = None
            return
        self.patience.excuse()
        now = time.monotonic()
        self._empty_since = self._empty_since or now
        if now - self._empty_since >= _NO_WORKERS_STALLS * self._stall_seconds:
            raise ClusterError(
                f"the scheduler at {self._address} has had no workers{self._roster.but_for()} for "
                f"{now - self._empty_since:.0f} s; start some, then add {option('resume')} to go "
                "on "
                "from the last checkpoint"
            )

    def require_scheduler(self) -> None:
        """After tasks were lost: a connection that broke may come back, and the scheduler with it.

        Raises
        ------
        ClusterError
            When it does not.
        """
        deadline = time.monotonic() + _RECONNECT_SECONDS
        while self._client.status == "connecting" and time.monotonic() < deadline:
            time.sleep(_RECONNECT_SECONDS / 100)
        self.known_workers()
        if self._client.status != "running":
            raise self.scheduler_lost()

    def known_workers(self) -> dict[str, Any]:
        """What the scheduler knows of every worker, by address.

        Raises
        ------
        ClusterError
            When it does not answer.
        """
        try:
            return self._workers.known()
        except (TimeoutError, OSError) as error:
            raise self.scheduler_lost() from error

    def usable_workers(self) -> list[str]:
        """Addresses of the workers that may take part.

        Raises
        ------
        ClusterError
            When the scheduler does not answer.
        """
        return self._roster.usable(self.known_workers())

    def scheduler_lost(self) -> ClusterError:
        """The error that says so."""
        return ClusterError(
            f"lost the scheduler at {self._address}: it does not answer. The last checkpoint is "
            "safe; bring the scheduler back (or name another in cluster.address) and add "
            f"{option('resume')} to go on from there"
        )
