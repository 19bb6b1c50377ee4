"""What is said while sums are taken in this process and none of them is finished."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from streamlr.data.chunks import reads

log = logging.getLogger(__name__)


class _Quiet:
    """How long nothing was finished, and what was said of it."""

    def __init__(self, n_slabs: int) -> None:
        self._n_slabs = n_slabs
        self._done = 0
        self._longest = self._spoken = 0.0
        self._moved = time.monotonic()

    def moved(self) -> None:
        """A slab was finished."""
        now = time.monotonic()
        self._longest = max(self._longest, now - self._moved)
        self._moved, self._spoken = now, 0.0
        self._done += 1

    def session(self) -> None:
        """Say what is waited for, if it is time: not between slabs that are merely slow."""
        seconds = time.monotonic() - self._moved
        if seconds < self._spoken + reads.SPEAK_SECONDS:
            return
        waiting = reads.reported(reads.SPEAK_SECONDS)
        if waiting or seconds >= 2 * self._longest:
            self._spoken = seconds
            left = f"{self._n_slabs - self._done} of {self._n_slabs} slabs"
            more = f"; {waiting}" if waiting else ""
            log.warning("waiting for %s: nothing finished for %.0f s%s", left, seconds, more)


@contextmanager
def report_of_quiet(
    n_slabs: int, slab_done: Callable[[int], None]
) -> Iterator[Callable[[int], None]]:
    """Have it said each half minute in which nothing is finished what is waited for. Gives what is
    to be called with the number of each slab that is done, in the place of ``slab_done``."""
    quiet = _Quiet(n_slabs)

    def done(slab: int) -> None:
        quiet.moved()
        slab_done(slab)

    with reads.watched(quiet.session):
        yield done
