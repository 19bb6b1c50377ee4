"""The workers of a cluster: what the scheduler says of them, how those that hang are replaced, and
how long to wait for them.

Nothing here waits without a time-out: a process that is stopped answers no question, and would
otherwise stop whoever asks.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import multiprocessing.process
import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

from distributed import Client, LocalCluster, TimeoutError

from streamlr.errors import StreamlrError
from streamlr.execution.cluster.travel import unwrap, written_call
from streamlr.execution.process import is_stopped

T = TypeVar("T")
log = logging.getLogger(__name__)

ASK_SECONDS = 10.0
"""Longest wait for an answer of the scheduler, which takes milliseconds when all is well."""
_TELL_SECONDS = 5.0
"""For an answer of a worker that has nothing to do, which takes milliseconds too."""
_RESTART_SECONDS = 20.0
_LOOK_SECONDS = 5.0
_LEAST_SILENCE = 5.0
"""A worker that imports libraries for its first task says nothing meanwhile."""
_SLOWER_THAN_SEEN = 10.0
_DOUBLINGS = 5
_NAMED = 3


def call_with_timeout(
    seconds: float, call: Callable[[], T], meanwhile: Callable[[], None] | None = None
) -> T:
    """The result of a call that has no time-out of its own; ``meanwhile`` is called each second
    that it takes.

    Raises
    ------
    TimeoutError
        When it has not returned by then; it is left to itself.
    """
    outcome: queue.SimpleQueue[tuple[T | None, BaseException | None]] = queue.SimpleQueue()

    def run() -> None:
        try:
            outcome.put((call(), None))
        except BaseException as error:
            outcome.put((None, error))

    threading.Thread(target=run, daemon=True, name="streamlr-within").start()
    deadline = time.monotonic() + seconds
    while True:
        left = max(0.0, deadline - time.monotonic())
        try:
            result, error = outcome.get(timeout=left if meanwhile is None else min(left, 1.0))
            break
        except queue.Empty:
            if time.monotonic() >= deadline:
                raise TimeoutError(f"no answer within {seconds:g} s") from None
            if meanwhile is not None:
                meanwhile()
    if error is not None:
        raise error
    return result  # type: ignore[return-value]


def kill_workers(cluster: LocalCluster, addresses: Collection[str]) -> None:
    """Kill processes of a cluster of one's own, without asking: a process that is stopped does not
    go by itself. Their nannies start others."""
    for nanny in list(cluster.workers.values()):
        if nanny.pid is not None and nanny.worker_address in addresses:
            with suppress(ProcessLookupError):
                os.kill(nanny.pid, signal.SIGKILL)


def named(addresses: Collection[str]) -> str:
    """The first few."""
    first = ", ".join(sorted(addresses)[:_NAMED]) or "no worker"
    return first + (f" and {len(addresses) - _NAMED} more" if len(addresses) > _NAMED else "")


class Starting:
    """The processes that come to be while a cluster of one's own starts, which has no list of them
    before it has started."""

    def __init__(self) -> None:
        self._others = set(multiprocessing.active_children())
        self._seen_stopped: set[int] = set()

    def kill_stopped(self) -> None:
        """Kill those that were found stopped before and still are, which ends the attempt: they
        would be waited for as long as for slow ones."""
        stopped = {
            child.pid: child
            for child in self._children()
            if child.pid is not None and is_stopped(child.pid)
        }
        for pid in self._seen_stopped & stopped.keys():
            log.warning("a worker process is stopped before it has started; killing it")
            stopped[pid].kill()
        self._seen_stopped = set(stopped)

    def kill(self) -> None:
        """Kill all that are left of an attempt that failed, or this process would wait for them at
        its end."""
        for child in self._children():
            child.kill()

    def _children(self) -> list[multiprocessing.process.BaseProcess]:
        return [child for child in multiprocessing.active_children() if child not in self._others]


@dataclass(frozen=True, slots=True)
class Load:
    """Which tasks are with which worker: those that run, and those that wait there for their turn
    or for data."""

    ours: dict[str, frozenset[str]]
    """Our tasks, by the address of the worker; only workers that have any."""
    foreign: frozenset[str]
    """Workers that have tasks of others."""


class Workers:
    """Questions to the scheduler, and the one request: to replace workers.

    Parameters
    ----------
    client
        The connection to it.
    cluster
        The cluster, where it is the engine's own.
    """

    def __init__(self, client: Client, cluster: LocalCluster | None = None) -> None:
        self._client = client
        self._cluster = cluster
        self._wanted = 0 if cluster is None else len(cluster.workers)
        self._heard: dict[str, tuple[float, float]] = {}

    def known(self) -> dict[str, Any]:
        """What the scheduler knows of every worker, by address.

        Raises
        ------
        TimeoutError, OSError
            When it does not answer.
        """
        workers: dict[str, Any] = self._ask("identity", {"n_workers": -1})["workers"]
        now = time.monotonic()
        heard = {address: float(worker["last_seen"]) for address, worker in workers.items()}
        # its clock may differ from ours, so what counts is since when it says the same
        self._heard = {
            address: self._heard[address]
            if self._heard.get(address, (None,))[0] == seen
            else (seen, now)
            for address, seen in heard.items()
        }
        return workers

    def silent(self, seconds: float) -> list[str]:
        """Workers of which, by the last two or more calls of `known`, the scheduler has heard
        nothing for so long; they call every half second or so."""
        now = time.monotonic()
        return sorted(
            address for address, (_, since) in self._heard.items() if now - since >= seconds
        )

    def addresses(self) -> list[str]:
        """Of every worker; asked before each pass, so no more than that.

        Raises
        ------
        TimeoutError, OSError
            When the scheduler does not answer.
        """
        return sorted(self._ask("ncores"))

    def load(self, name: str) -> Load:
        """Which tasks are with which worker, apart by whether they are of a name.

        Raises
        ------
        TimeoutError, OSError
            When the scheduler does not answer.
        """
        processing = self._ask("processing", {"workers": None})
        tasks = {address: frozenset(map(str, keys)) for address, keys in processing.items()}
        ours = {
            address: frozenset(key for key in keys if name in key)
            for address, keys in tasks.items()
        }
        return Load(
            {address: keys for address, keys in ours.items() if keys},
            frozenset(address for address, keys in tasks.items() if keys - ours[address]),
        )

    def kept(self, addresses: Collection[str]) -> dict[str, list[str]]:
        """Whose results workers keep in memory.

        Raises
        ------
        TimeoutError, OSError
            When the scheduler does not answer.
        """
        found = self._ask("has_what", {"workers": list(addresses)})
        return {address: list(map(str, keys)) for address, keys in found.items()}

    def any_queued(self, keys: Collection[Any]) -> bool:
        """Whether any of these tasks waits on the scheduler until a worker has room for it.

        Raises
        ------
        TimeoutError, OSError
            When the scheduler does not answer.
        """
        return "queued" in self._ask("get_task_status", {"keys": list(keys)}).values()

    def ask_each(
        self,
        addresses: Collection[str],
        function: Callable[..., Any],
        *arguments: Any,
        seconds: float = _TELL_SECONDS,
    ) -> dict[str, Any]:
        """What a function returns on each worker: its error where it raises one, None where it does
        not answer.

        Each is asked apart, since one that hangs would take the answers of all.

        Raises
        ------
        TimeoutError, OSError
            When the scheduler does not answer.
        """

        async def ask(address: str) -> Any:
            asked = self._client.run(function, *arguments, workers=[address], on_error="return")
            try:
                answer = (await asyncio.wait_for(asked, seconds)).get(address)
            except (TimeoutError, OSError):
                return None
            unheard = isinstance(answer, OSError) and not isinstance(answer, StreamlrError)
            return None if unheard else answer

        async def ask_all() -> list[Any]:
            return list(await asyncio.gather(*map(ask, addresses)))

        answers = call_with_timeout(seconds + ASK_SECONDS, lambda: self._client.sync(ask_all))
        return dict(zip(addresses, answers, strict=True))

    def ask_aside(
        self,
        addresses: Collection[str],
        function: Callable[..., T],
        *arguments: Any,
        seconds: float,
    ) -> dict[str, T | Exception | None]:
        """The same in a thread of its own there, for what may take a while: a worker whose event
        loop stands still is taken to hang.

        A function of ours is looked up in that thread, so that a worker without streamlr answers
        with that error.
        """
        call = written_call(function, *arguments)
        return self.ask_each(addresses, asyncio.to_thread, unwrap, call, seconds=seconds)

    def replace(self, addresses: Collection[str]) -> None:
        """Have workers killed and started again by their nannies; where they have none, or it does
        not answer either, the scheduler lets go of them.

        What they were working on goes to others at once, and what they held is read again.
        """
        dropped = sorted(addresses)
        for address in dropped:
            self._heard.pop(address, None)
        if self._cluster is not None:
            kill_workers(self._cluster, dropped)
            return
        try:
            self._ask(
                "restart_workers",
                {
                    "workers": dropped,
                    "timeout": _RESTART_SECONDS,
                    "wait_for_workers": False,
                    "on_error": "return",
                    "stimulus_id": f"streamlr-replace-{time.time()}",
                },
                _RESTART_SECONDS + ASK_SECONDS,
            )
        except (
            TimeoutError,
            OSError,
        ) as error:  # the next look will tell whether it is the scheduler
            log.warning(
                "could not replace %s: %s", ", ".join(dropped), str(error) or type(error).__name__
            )

    def refill(self) -> None:
        """Start workers of a cluster of one's own that its nannies have given up, such as one that
        was killed while it started."""
        if self._cluster is not None and len(self._cluster.workers) < self._wanted:
            log.warning(
                "%d of %d worker processes are gone for good; starting others",
                self._wanted - len(self._cluster.workers),
                self._wanted,
            )
            self._cluster.scale(self._wanted)

    def _ask(
        self,
        question: str,
        arguments: Mapping[str, Any] | None = None,
        seconds: float = ASK_SECONDS,
    ) -> Any:
        scheduler = self._client.scheduler
        if scheduler is None:
            raise ConnectionError("the connection is closed")
        return self._client.sync(
            getattr(scheduler, question), callback_timeout=seconds, **(arguments or {})
        )


class Patience:
    """How long to wait while nothing moves.

    A slab may be slow for good reasons, and how slow is only seen as slabs come in. So the limit is
    ten times the longest wait that ended well (the first slab of a pass shows how long one takes),
    and at least ``stall_seconds``; and because all slabs may be slower than that, it doubles each
    time that it was reached in vain: work that needs longer is given longer, until five doublings
    have not helped.

    Parameters
    ----------
    stall_seconds
        The least limit.
    """

    def __init__(self, stall_seconds: float) -> None:
        self._stall_seconds = stall_seconds
        self._longest = 0.0
        self._doublings = 0
        self._spoken = 0.0
        self._moved = self._acted = time.monotonic()

    def begin(self) -> None:
        """A pass begins."""
        self._moved = self._acted = time.monotonic()
        self._doublings = 0
        self._spoken = 0.0

    def moved(self) -> None:
        """A slab was finished."""
        now = time.monotonic()
        self._longest = max(self._longest, now - self._acted)
        self._moved = self._acted = now
        self._doublings = 0
        self._spoken = 0.0

    def excuse(self) -> None:
        """Something else moved, which says nothing of how long a slab takes."""
        self._acted = time.monotonic()

    def acted(self) -> None:
        """Something was done about it: wait anew, and for longer."""
        self._doublings += 1
        self._acted = time.monotonic()

    @property
    def look_seconds(self) -> float:
        """How often to look what is going on while nothing moves."""
        return min(self._stall_seconds / 4, _LOOK_SECONDS)

    @property
    def may_speak(self) -> bool:
        """Whether it is time to say that nothing moves: not between slabs that are merely slow, and
        not at every look."""
        return self.quiet_seconds >= max(self._spoken + self._stall_seconds / 4, 2 * self._longest)

    @property
    def time_to_speak(self) -> bool:
        """The same; who asks will speak."""
        if not self.may_speak:
            return False
        self._spoken = self.quiet_seconds
        return True

    @property
    def quiet_seconds(self) -> float:
        """Time since a slab was finished."""
        return time.monotonic() - self._moved

    @property
    def silent_seconds(self) -> float:
        """After how long without a sign of life a worker is taken to hang."""
        return float(max(self._stall_seconds / 4, _LEAST_SILENCE) * 2**self._doublings)

    @property
    def at_its_end(self) -> bool:
        """Whether it is time to do something."""
        return (
            time.monotonic() - self._acted
            >= max(self._stall_seconds, _SLOWER_THAN_SEEN * self._longest) * 2**self._doublings
        )

    @property
    def exhausted(self) -> bool:
        """Whether enough was done in vain."""
        return self._doublings > _DOUBLINGS
