"""What helps to test a source or an engine of one's own: nothing here is loaded by a fit.

`streamlr.testing.wrappers` has sources that count, fail and wait; `streamlr.testing.conformance`
(which needs pytest) has the tests that every source and every engine passes. A test file that
derives from these is all that a new one needs::

    import numpy as np
    import pytest
    from streamlr.data.source import ArraySource
    from streamlr.testing.conformance import SourceConformance

    class TestMySource(SourceConformance):
        @pytest.fixture
        def source(self):
            rng = np.random.default_rng(0)
            return ArraySource(rng.normal(size=(300, 4)), rng.integers(0, 2, 300))
"""

from streamlr.testing.wrappers import (
    CountingSource,
    Fault,
    FaultySource,
    Gate,
    Kind,
    Read,
    SlowSource,
    WatchedSource,
)

__all__ = [
    "CountingSource",
    "Fault",
    "FaultySource",
    "Gate",
    "Kind",
    "Read",
    "SlowSource",
    "WatchedSource",
]
