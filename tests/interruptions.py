"""Runs that end between two passes, as by a power cut."""

from __future__ import annotations

from collections.abc import Callable

from streamlr.events import Event, PassFinished


class BrokenOffError(Exception):
    """What ends a run that is broken off."""


def broken_off_after(passes: int) -> Callable[[Event], None]:
    """A subscriber that ends the run after a pass."""

    def see(event: Event) -> None:
        if isinstance(event, PassFinished) and event.number == passes:
            raise BrokenOffError

    return see
