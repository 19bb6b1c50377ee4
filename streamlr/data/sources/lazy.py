"""A source that has travelled, and is opened when something of it is first asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from streamlr.data.source import Source


class LazySource:
    """Stands for a source, which it opens at its first use: to unpickle it touches nothing, and so
    cannot fail.

    Parameters
    ----------
    open_source, arguments
        The function that opens the source, and what it takes; both travel by pickle.
    """

    def __init__(self, open_source: Callable[..., Source], *arguments: Any) -> None:
        self._open = open_source
        self._arguments = arguments
        self._source: Source | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return LazySource, (self._open, *self._arguments)

    def __getattr__(self, name: str) -> Any:
        """Whatever the source has; an error of opening it is raised here.

        Names with an underscore are left out: they are what libraries look for in an object that
        they only pass on.
        """
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        if self._source is None:
            self._source = self._open(*self._arguments)
        return getattr(self._source, name)
