"""Reads that are under way in this process, and a thread that says what is waited for.

Whoever waits for a read cannot speak meanwhile, so another thread does, each half minute or as its
watcher has it. It sleeps else, and ends with the process.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

log = logging.getLogger(__name__)

SPEAK_SECONDS = 30.0
"""Between two words on what is waited for, here and by `streamlr.execution.news`."""
_LOOK_SECONDS = 0.5
_NAMED = 2


@dataclass(slots=True)
class Reading:
    """A read that is under way."""

    what: Callable[[], str]
    """How messages name what is read."""
    since: float
    """When it began, by the monotonic clock."""
    far: bool
    """Whether it ends by itself, because attempts have a time-out."""
    attempts: int = 0
    """Those that have failed."""
    why: str = ""
    """Why the last of them did."""
    seconds_left: float = math.inf
    """How long it is tried again."""
    spoken: float = 0.0
    """Seconds after which it was last spoken of."""

    def failed(self, why: str) -> None:
        """An attempt has."""
        self.attempts += 1
        self.why = why

    @property
    def seconds(self) -> float:
        """Since it began."""
        return time.monotonic() - self.since

    @property
    def ends(self) -> bool:
        """Whether it will come to an end without anybody's help."""
        return self.far or self.attempts > 0

    def __str__(self) -> str:
        text = f"{self.what()} has been read for {self.seconds:.0f} s"
        if not self.attempts:
            return text
        times = f"{self.attempts} time{'s' * (self.attempts > 1)}"
        return f"{text} and has failed {times}: {self.why}"


_readings: dict[int, Reading] = {}
_watchers: list[Callable[[], None]] = []
_lock = threading.Lock()
_speaker: threading.Thread | None = None
_quiet = False
_given_up = False


@contextmanager
def under_way(reading: Reading) -> Iterator[Reading]:
    """List a read while it lasts."""
    _readings[id(reading)] = reading
    _wake()
    try:
        yield reading
    except Exception:
        raise
    except BaseException:  # Ctrl-C does not reach what is waited for
        give_up()
        raise
    finally:
        del _readings[id(reading)]


def give_up() -> None:
    """Note that a request is not waited for any more: a thread may go on waiting for its answer."""
    global _given_up
    _given_up = True


def may_wait_for_ever() -> bool:
    """Whether there may be a thread that waits for an answer, so that this process would not
    end."""
    return _given_up or bool(_readings)


@contextmanager
def watched(session: Callable[[], None]) -> Iterator[None]:
    """Have ``look`` called twice a second meanwhile, by another thread; it says what is to be said,
    of reads too."""
    with _lock:
        _watchers.append(session)
    _wake()
    try:
        yield
    finally:
        with _lock:
            _watchers.remove(session)


def readings() -> list[Reading]:
    """Those under way, the longest first."""
    return sorted(list(_readings.values()), key=lambda reading: reading.since)


def reported(least_seconds: float = 0.0) -> str:
    """What is read, for a message that goes on with it; empty where nothing has been for so
    long."""
    long = [reading for reading in readings() if reading.seconds >= least_seconds]
    if not long:
        return ""
    more = f" (and {len(long) - _NAMED} reads more)" if len(long) > _NAMED else ""
    return "; ".join(map(str, long[:_NAMED])) + more


def stay_quiet() -> None:
    """Say nothing in this process: it takes sums for another, which asks it."""
    global _quiet
    _quiet = True


def _wake() -> None:
    global _speaker
    if _speaker is not None or _quiet:
        return
    with _lock:
        if _speaker is None:
            _speaker = threading.Thread(target=_speak, daemon=True, name="streamlr-speaker")
            _speaker.start()


def _speak() -> None:
    while True:
        time.sleep(_LOOK_SECONDS)
        with _lock:
            watchers = list(_watchers)
        for session in watchers:
            session()
        if not watchers and not _quiet:
            _speak_of_reads()


def _speak_of_reads() -> None:
    """Where nobody else does: while a store is opened, for instance."""
    due = [reading for reading in readings() if reading.seconds >= reading.spoken + SPEAK_SECONDS]
    for reading in due[:_NAMED]:
        log.warning("waiting: %s", reading)
    for reading in due:
        reading.spoken = reading.seconds
