"""The tests that every source and every engine passes: derive from them in a test file.

See `streamlr.testing.sources` and `streamlr.testing.engines` for what a test class has to say.
"""

from __future__ import annotations

try:
    import pytest
except ImportError as error:
    raise ImportError(
        "streamlr.testing.conformance needs pytest, which is not installed; "
        "pip install pytest, or use streamlr.testing.wrappers alone"
    ) from error

# before they are imported: so failures show the values that were compared
pytest.register_assert_rewrite("streamlr.testing.sources", "streamlr.testing.engines")

from streamlr.testing.engines import EngineConformance  # noqa: E402
from streamlr.testing.sources import SourceConformance  # noqa: E402

__all__ = ["EngineConformance", "SourceConformance"]
