"""Reads that fail for a moment, as networks and their file systems do, and are tried again; and
what a person is told of reads that take long.

Each attempt at something far away has a time-out, since a server may take a request and never
answer it. The time-out grows each time that it was not enough: what it would take to fetch a large
chunk over a slow line is known to nobody beforehand.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
import math
import random
import threading
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from streamlr.data.chunks.failures import Failure, failure_of, reason
from streamlr.data.chunks.files import MissingChunkError
from streamlr.data.chunks.reads import Reading, give_up, under_way
from streamlr.errors import ChunkError, StreamlrError, option

T = TypeVar("T")
log = logging.getLogger(__name__)

RETRY_SECONDS = 300.0
_GO_ON = f"add {option('resume')} to go on from the last checkpoint"
_FIRST_WAIT_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 20.0
_ATTEMPT_SECONDS = 60.0
_LOOK_SECONDS = 0.5
_FETCHES = 3
"""Of what cannot be decoded."""
_ABOUT_ONE_OUTAGE_SECONDS = 120.0
"""Longest time between two failures of one outage."""

_lock = threading.Lock()
_untold = 0


class UnreadableError(Exception):
    """What was read could not be, however often it was tried. The caller adds what, and what to
    do."""

    def __init__(self, attempts: int, seconds: float, failure: Failure, why: str) -> None:
        super().__init__(
            f"in {attempts} attempt{'s' * (attempts > 1)} within {seconds:.0f} s: {why}"
        )
        self.failure = failure


class StoppedError(Exception):
    """Nobody waits for what is read any more."""


@dataclass(frozen=True, slots=True)
class _Attempt:
    """One attempt at a read, as what it does elsewhere may see it."""

    seconds: float
    """How long it may take."""
    began: float
    """When it did, by the monotonic clock."""
    stop: threading.Event | None
    """Set when nobody waits for it any more."""


# both are seen by what the attempt runs in an event loop, in another thread
_attempt: contextvars.ContextVar[_Attempt | None] = contextvars.ContextVar(
    "streamlr_attempt", default=None
)
_stop: contextvars.ContextVar[threading.Event | None] = contextvars.ContextVar(
    "streamlr_stop", default=None
)


def stop_with(event: threading.Event) -> None:
    """From now on have the reads of this thread end when the event is set."""
    _stop.set(event)


@dataclass(slots=True)
class Retries:
    """How the reads of one store are tried again. It may be shared by threads.

    Besides how long one read has failed it knows how long all have: where nothing could be read for
    longer than is to be tried, a read that is new to the failure is not tried for as long again.
    """

    seconds: float = RETRY_SECONDS
    """For how long a read is tried; 0: once."""
    far: bool = False
    """Whether what is read lies elsewhere, so that an attempt has a time-out."""
    nobody_seconds: float | None = None
    """For how long where nobody is there to answer; None: for as long."""
    scrub: Callable[[str], str] = str
    """Takes secrets out of the errors of file systems."""
    _began: float = field(default=0.0, repr=False)
    _failed: float = field(default=-math.inf, repr=False)
    _attempts: int = field(default=0, repr=False)
    _timeout: float = field(default=0.0, repr=False)

    def seconds_for(self, failure: Failure) -> float:
        """How long a failure is tried again."""
        if failure is Failure.NOBODY and self.nobody_seconds is not None:
            return min(self.seconds, self.nobody_seconds)
        return self.seconds

    def timeout(self) -> float:
        """How long an attempt may take: no longer at first than is tried in all."""
        return max(min(_ATTEMPT_SECONDS, self.seconds or _ATTEMPT_SECONDS), self._timeout)

    def took(self, seconds: float) -> None:
        """An attempt succeeded: the outage is over, if there was one, and others may take as
        long."""
        self._failed = -math.inf
        self._timeout = max(self._timeout, 2 * seconds)

    def outage(self, since: float) -> tuple[float, int]:
        """Seconds for which nothing could be read, and attempts meanwhile; to be asked at each
        failure of what is read since then."""
        now = time.monotonic()
        with _lock:
            if now - self._failed >= max(_ABOUT_ONE_OUTAGE_SECONDS, 2 * self.timeout()):
                self._began, self._attempts = since, 0
            self._failed = now
            self._attempts += 1
            return now - min(self._began, since), self._attempts


def retried(
    read: Callable[[], T], what: Callable[[], str], how: Retries, *, fetch_again: bool = False
) -> T:
    """What ``read`` returns, in as many attempts as there is time for, between which it waits twice
    as long each time, with some chance, so that the many that meet with one failure do not come
    back as one.

    Parameters
    ----------
    read
        The read; it may run several times.
    what
        How messages name what is read.
    how
        How long it is tried, and whether an attempt has a time-out.
    fetch_again
        Whether to fetch once or twice more what came from afar and cannot be decoded: it may have
        been cut short, or be the answer of some other server.

    Raises
    ------
    UnreadableError
        When it went on failing with what passes.
    Exception
        What another attempt would only meet again, such as that there is no such file, as it came.
    """
    with under_way(Reading(what, time.monotonic(), how.far)) as reading:
        timeout = how.timeout()
        while True:
            began = time.monotonic()
            try:
                return _attempted(read, how, timeout)
            except Exception as error:
                if time.monotonic() - began >= timeout:
                    timeout = max(timeout, min(2 * timeout, how.seconds - reading.seconds))
                _settle(error, reading, how, fetch_again and how.far)
            _count()
            _rest(reading)


def _attempted(read: Callable[[], T], how: Retries, timeout: float) -> T:
    token = _attempt.set(_Attempt(timeout, time.monotonic(), _stop.get()) if how.far else None)
    began = time.monotonic()
    try:
        value = read()
    finally:
        _attempt.reset(token)
    how.took(time.monotonic() - began)
    return value


def _settle(error: Exception, reading: Reading, how: Retries, fetch_again: bool) -> None:
    """Raise the error, or another in its place, unless what failed is to be tried again."""
    failure = failure_of(error)
    reading.failed(how.scrub(reason(error)))
    _refuse_stopped(error)
    if failure.passes:
        seconds, attempts = how.outage(reading.since)
        reading.seconds_left = how.seconds_for(failure) - seconds
        if reading.seconds_left <= 0:
            raise UnreadableError(
                max(attempts, reading.attempts), seconds, failure, reading.why
            ) from error
    elif not (
        fetch_again
        and failure is Failure.OTHER
        and how.seconds > 0
        and reading.attempts < _FETCHES
        and not isinstance(error, MissingChunkError | StreamlrError)
    ):
        raise error
    log.info(
        "%s could not be read (%s), in attempt %d; trying again",
        reading.what(),
        reading.why,
        reading.attempts,
    )


def _rest(reading: Reading) -> None:
    """Wait before the next attempt."""
    most = min(_FIRST_WAIT_SECONDS * 2.0 ** min(reading.attempts - 1, 16), _LONGEST_WAIT_SECONDS)
    seconds = min(most * random.uniform(0.5, 1.0), reading.seconds_left)
    stop = _stop.get()
    if stop is None:
        time.sleep(seconds)
    else:
        stop.wait(seconds)
        _refuse_stopped(None)


def _refuse_stopped(error: Exception | None) -> None:
    stop = _stop.get()
    if stop is not None and stop.is_set():
        raise StoppedError("nobody waits for it any more") from error


async def limited(request: Coroutine[Any, Any, T]) -> T:
    """What a request to somewhere else answers, within the time of the attempt that it is part of,
    or of one that begins now.

    Raises
    ------
    TimeoutError
        When there is no answer.
    StoppedError
        When nobody waits for it any more.
    """
    attempt = _attempt.get() or _Attempt(_ATTEMPT_SECONDS, time.monotonic(), None)
    task = asyncio.ensure_future(request)
    task.add_done_callback(
        lambda done: None if done.cancelled() else done.exception()
    )  # or it would be complained of
    try:
        while not task.done():
            left = attempt.began + attempt.seconds - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"no answer within {attempt.seconds:.0f} s")
            if attempt.stop is not None and attempt.stop.is_set():
                raise StoppedError("nobody waits for it any more")
            await asyncio.wait({task}, timeout=min(left, _LOOK_SECONDS))
        return task.result()
    finally:
        if not task.done():
            give_up()
        task.cancel()


def unread(what: str, error: Exception, retries: Retries) -> ChunkError:
    """What is told in the middle of a run of what could not be read, though nothing says that it is
    not sound."""
    if isinstance(error, UnreadableError):
        return ChunkError(
            f"{what} cannot be read, {error}; see to the disk or the network, then {_GO_ON} "
            f"(data.retry_seconds, {retries.seconds:g}, says for how long it is tried)"
        )
    why = retries.scrub(reason(error))
    if failure_of(error) is Failure.REFUSED:
        return ChunkError(
            f"{what} cannot be read: access is refused ({why}); renew the credentials, or the "
            f"right to read it, then {_GO_ON}"
        )
    return ChunkError(
        f"{what} cannot be read: {why}; see to the disk or the network, then {_GO_ON}"
    )


def take_read_retries() -> int:
    """How many reads of this process were tried again since this was last asked."""
    global _untold
    with _lock:
        count, _untold = _untold, 0
    return count


def _count() -> None:
    global _untold
    with _lock:
        _untold += 1
