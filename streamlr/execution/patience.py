"""Waits that come to an end: what is waited for is said while it lasts, and the end lies far beyond what anything took before."""

from __future__ import annotations

import logging
import queue
import time
from collections.abc import Callable
from typing import TypeVar

log = logging.getLogger(__name__)

_LOOK_SECONDS = 5.0
_TELL_SECONDS = 30.0
_TIMES_THE_SLOWEST = 10.0
"""A slab that takes ten times as long as the slowest so far is not slow but stuck: slabs hold about as many rows each, and what makes one slow (a busy
disk, a neighbour on the machine) makes others slow as well."""

T = TypeVar("T")


class Patience:
    """How long a wait may be.

    Parameters
    ----------
    least_seconds
        However fast everything was so far, so long is waited.
    """

    def __init__(self, least_seconds: float) -> None:
        self._least_seconds = least_seconds
        self._slowest = 0.0

    @property
    def seconds(self) -> float:
        """The longest wait."""
        return max(self._least_seconds, _TIMES_THE_SLOWEST * self._slowest)

    def next(self, done: queue.SimpleQueue[T], awaited: Callable[[], str], hopeless: Callable[[], bool]) -> T | None:
        """What comes next, or None when nothing has come for the longest wait, or nothing can come.

        Parameters
        ----------
        done
            Where it comes.
        awaited
            Says what is waited for.
        hopeless
            Whether nobody is at work on it; looked at every few seconds, and believed the second time in a row.
        """
        started = told = time.monotonic()
        doubts = 0
        while (waited := time.monotonic() - started) < self.seconds and doubts < 2:
            try:
                found = done.get(timeout=min(_LOOK_SECONDS, self.seconds - waited))
            except queue.Empty:
                now = time.monotonic()
                if now - told >= _TELL_SECONDS:
                    told = now
                    log.warning("waiting for %s: nothing has come for %.0f s", awaited(), now - started)
                doubts = doubts + 1 if hopeless() else 0
                continue
            self._slowest = max(self._slowest, time.monotonic() - started)
            return found
        return None
