"""Sources around another one that count its reads, fail at some, or wait before them."""

from __future__ import annotations

import copy
import threading
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from streamlr.data.source import Buffer, ForwardingSource, Source
from streamlr.kernels.columns import Columns

Kind = Literal["features", "labels", "offset"]
"""What is read: features; all that stands beside them; or of that the offset alone."""


@dataclass(frozen=True, slots=True)
class Read:
    """One read of consecutive rows."""

    kind: Kind
    """What was read."""
    start: int
    """The first row."""
    stop: int
    """One past the last."""


class _Tally:
    """Counts under a lock; a copy in another process begins anew."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[Hashable] = Counter()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Tally, ()

    def add(self, key: Hashable) -> int:
        """Count one more; gives how many there were before."""
        with self._lock:
            self._counts[key] += 1
            return self._counts[key] - 1

    def counts(self) -> Counter[Hashable]:
        """What has been counted so far."""
        with self._lock:
            return Counter(self._counts)

    def clear(self) -> None:
        """Begin anew."""
        with self._lock:
            self._counts.clear()


class WatchedSource(ForwardingSource):
    """A source that does something before each read of another one, and changes nothing of it.

    Parts of it (see `Source.part`) share what it knows; a copy in another process knows of its own
    reads alone.
    """

    def __init__(self, source: Source) -> None:
        self.source = source

    @abstractmethod
    def before(self, read: Read) -> None:
        """What is done before a read, in the thread that reads."""

    def read_features(self, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        self.before(Read("features", start, stop))
        return self.source.read_features(start, stop, buffer)

    def read_columns(self, start: int, stop: int, *, labels: bool = True) -> Columns:
        self.before(Read("labels" if labels else "offset", start, stop))
        return self.source.read_columns(start, stop, labels=labels)

    @property
    def mask(self) -> Source | None:
        """The mask of the other source, whose reads are not watched."""
        return self.source.mask

    def part(self, start: int, stop: int) -> Source:
        part = copy.copy(self)
        part.source = self.source.part(start, stop)
        return part


class CountingSource(WatchedSource):
    """A source that counts its reads by what is read and of which rows."""

    def __init__(self, source: Source) -> None:
        super().__init__(source)
        self._tally = _Tally()

    def before(self, read: Read) -> None:
        self._tally.add(read)

    @property
    def reads(self) -> Counter[Read]:
        """How often each stretch of rows was read."""
        return Counter(
            {read: n for read, n in self._tally.counts().items() if isinstance(read, Read)}
        )

    def of_each_row(self, kind: Kind) -> NDArray[np.int64]:
        """How often each row was read, (m,)."""
        counts = np.zeros(self.n_rows, dtype=np.int64)
        for read, times in self.reads.items():
            if read.kind == kind:
                counts[read.start : read.stop] += times
        return counts

    def times(self, kind: Kind) -> int:
        """How often all rows were read.

        Raises
        ------
        AssertionError
            Where some were read more often than others.
        """
        counts = self.of_each_row(kind)
        least, most = int(counts.min()), int(counts.max())
        if least != most:
            raise AssertionError(
                f"{kind} were read {least} times of row {counts.argmin()} and {most} times of row "
                f"{counts.argmax()}; all rows should have been read equally often"
            )
        return most

    def forget(self) -> None:
        """Count from 0 again."""
        self._tally.clear()


@dataclass(frozen=True, slots=True)
class Fault:
    """An error and the reads that it is raised at: all of a kind, unless it says which."""

    error: Exception
    """What is raised; it travels to other processes by pickle."""
    kind: Kind = "features"
    """Reads of what."""
    read: int | None = None
    """Number of the read among those of its kind, from 0; several threads read in any order."""
    row: int | None = None
    """A row that the read contains."""
    times: int | None = None
    """How often it is raised, in one process, before reads succeed; None for always."""

    def meets(self, read: Read, number: int) -> bool:
        """Whether a read, of this number among those of its kind, is one of those."""
        return (
            read.kind == self.kind
            and self.read in (None, number)
            and (self.row is None or read.start <= self.row < read.stop)
        )


class FaultySource(WatchedSource):
    """A source some of whose reads fail.

    Parameters
    ----------
    source
        Where the rows come from.
    faults
        The errors and when they are raised; the first that fits a read is.
    """

    def __init__(self, source: Source, *faults: Fault) -> None:
        super().__init__(source)
        self._faults = faults
        self._tally = _Tally()

    def before(self, read: Read) -> None:
        number = self._tally.add(read.kind)
        for at, fault in enumerate(self._faults):
            if not fault.meets(read, number):
                continue
            if fault.times is None or self._tally.add(("fault", at)) < fault.times:
                raise fault.error.with_traceback(None)


class SlowSource(WatchedSource):
    """A source whose reads wait for something.

    Parameters
    ----------
    source
        Where the rows come from.
    wait
        Called with each read before it is made, in the thread that reads: a `Gate`, or any other
        function. For workers in other processes it has to travel by pickle.
    """

    def __init__(self, source: Source, wait: Callable[[Read], object]) -> None:
        super().__init__(source)
        self._wait = wait

    def before(self, read: Read) -> None:
        self._wait(read)


class Gate:
    """Holds up reads in this process until it is opened, and tells when one has come to it.

    Parameters
    ----------
    kind
        Reads of what are held up.
    row
        Those alone that contain this row; None for all.
    timeout
        Seconds after which a `TimeoutError` is raised in the place of waiting for ever.
    """

    def __init__(
        self, kind: Kind = "features", row: int | None = None, timeout: float = 60.0
    ) -> None:
        self._kind = kind
        self._row = row
        self._timeout = timeout
        self._arrived = threading.Event()
        self._opened = threading.Event()

    def __call__(self, read: Read) -> None:
        """Wait, if this read is one that is held up."""
        if read.kind != self._kind:
            return
        if self._row is not None and not read.start <= self._row < read.stop:
            return
        self._arrived.set()
        self._pass(self._opened, "the gate was not opened")

    def wait_for_arrival(self) -> None:
        """Return when a read stands before the gate."""
        self._pass(self._arrived, "no read came to the gate")

    def open(self) -> None:
        """Let all reads through from now on."""
        self._opened.set()

    def _pass(self, event: threading.Event, otherwise: str) -> None:
        if not event.wait(self._timeout):
            raise TimeoutError(f"{otherwise} within {self._timeout:g} s")
