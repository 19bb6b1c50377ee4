"""What every test stands on."""

from __future__ import annotations

import os
import signal
from typing import Any

import pytest

from streamlr.data.source import ArraySource
from streamlr.testing import CountingSource, Kind

# a shell without job control has what it starts in the background ignore it, children included
signal.signal(signal.SIGINT, signal.default_int_handler)

_PROCESS, _EXIT = os.getpid(), os._exit


def _refuse_to_end(status: int) -> None:
    """Ends of forked children are their own; that of this process would pass for a suite without a
    failure."""
    if os.getpid() == _PROCESS:
        os.write(2, b"os._exit was called in the process of the tests\n")
        _EXIT(70)
    _EXIT(status)


os._exit = _refuse_to_end  # type: ignore[assignment]


class ReadsOfArrays:
    """How often arrays that were given to ``train`` were read."""

    def __init__(self) -> None:
        self._sources: list[CountingSource] = []

    def open(self, *arrays: Any, **columns: Any) -> CountingSource:
        """The arrays of a fit, as `ArraySource` takes them, counted."""
        self._sources.append(CountingSource(ArraySource(*arrays, **columns)))
        return self._sources[-1]

    def __call__(self, kind: Kind) -> int:
        """How often all rows of the only fit were read, which has to be the same for each."""
        (source,) = self._sources
        return source.times(kind)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> ReadsOfArrays:
    """Have `train` read arrays through a source that counts; the sample, which is in memory, is no
    read of the data."""
    counted = ReadsOfArrays()
    monkeypatch.setattr("streamlr.training.opening.ArraySource", counted.open)
    return counted
