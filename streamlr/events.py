"""What a run tells while it runs. Engines and solvers publish these records; progress bars, history
files and logs subscribe."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Event:
    """Anything that is published."""


@dataclass(frozen=True, slots=True)
class Note(Event):
    """A sentence for the person who waits."""

    text: str
    """The sentence."""
    warning: bool = False
    """Whether it needs attention."""


@dataclass(frozen=True, slots=True)
class ScanStarted(Event):
    """A read of the data begins."""

    title: str
    """What it is for, such as "pass 3"."""
    n_slabs: int
    """Slabs to come."""
    data_bytes: int
    """Bytes of decoded data to come."""


@dataclass(frozen=True, slots=True)
class SlabFinished(Event):
    """A slab has been summed."""

    data_bytes: int
    """Its decoded bytes."""


@dataclass(frozen=True, slots=True)
class ScanFinished(Event):
    """A read of the data has ended, well or not."""


@dataclass(frozen=True, slots=True)
class PassFinished(Event):
    """One line of the history: a pass, and what it found."""

    number: int
    """Which pass of the run, from 1."""
    loss: float
    """Weighted mean loss at the point that the solver holds after the pass."""
    objective: float
    """The loss plus the penalty."""
    gradient_max: float
    """Largest absolute entry of the gradient, in standardised units, at that point."""
    step: float
    """Length of the step that led there, relative to the direction; 0 where none was taken."""
    seconds: float
    """Time of the pass."""
    bytes_read: int
    """Bytes that it read from storage."""
    validation_loss: float | None = None
    """Weighted mean loss of the rows that are held out, at the same point; None where none are."""

    def as_line(self) -> dict[str, Any]:
        """The line as ``history.jsonl`` has it."""
        record = asdict(self)
        if self.validation_loss is None:
            del record["validation_loss"]
        return {
            "pass": record.pop("number"),
            **{key: finite(value) for key, value in record.items()},
        }


@dataclass(frozen=True, slots=True)
class PathPassFinished(Event):
    """One line of the history of a path: a pass that many models share."""

    number: int
    """Which pass of the run, from 1."""
    active: int
    """Models that go on."""
    models: int
    """Models in all."""
    gradient_max: float
    """Largest entry of a gradient of any model, in standardised units; not a number before the
    first evaluation."""
    seconds: float
    """Time of the pass."""
    bytes_read: int
    """Bytes that it read from storage."""

    def as_line(self) -> dict[str, Any]:
        """The line as ``history.jsonl`` has it."""
        record = asdict(self)
        return {
            "pass": record.pop("number"),
            **{key: finite(value) for key, value in record.items()},
        }


def finite(value: Any) -> Any:
    """The value as JSON can hold it: None for a number that is not finite."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


Subscriber = Callable[[Event], None]


def publisher(subscribers: Iterable[Subscriber]) -> Subscriber:
    """One subscriber that hands every event to all of them, in order."""
    everyone = tuple(subscribers)

    def publish(event: Event) -> None:
        for subscriber in everyone:
            subscriber(event)

    return publish
