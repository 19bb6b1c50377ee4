"""Progress for a person: a live bar on a terminal, plain lines elsewhere, nothing when quiet. All
of it on standard error."""

from __future__ import annotations

import json
import math
import sys
from typing import Any, TextIO

from tqdm import tqdm

from streamlr.events import (
    Event,
    Note,
    PassFinished,
    PathPassFinished,
    ScanFinished,
    ScanStarted,
    SlabFinished,
    finite,
)

_BAR = (
    "{desc}: {percentage:3.0f}% |{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}, "
    "{rate_fmt}{postfix}]"
)


def plain(text: str) -> str:
    """Text without control characters: names that come from data must not steer a terminal."""
    return "".join(
        character if character.isprintable() or character == "\n" else f"\\x{ord(character):02x}"
        for character in text
    )


def json_text(document: Any) -> str:
    """A JSON document; numbers that JSON cannot hold are null."""
    try:
        return json.dumps(document, indent=2, allow_nan=False)
    except ValueError:
        return json.dumps(_all_finite(document), indent=2, allow_nan=False)


def _all_finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _all_finite(entry) for name, entry in value.items()}
    return (
        [_all_finite(entry) for entry in value]
        if isinstance(value, list | tuple)
        else finite(value)
    )


class Console:
    """A subscriber that shows what it is told.

    Parameters
    ----------
    quiet
        Whether to show warnings alone.
    stream
        Where to; standard error by default.
    """

    def __init__(self, *, quiet: bool = False, stream: TextIO | None = None) -> None:
        self._quiet = quiet
        self._stream = stream or sys.stderr
        self._bar: tqdm[Any] | None = None
        self._slabs = self._slabs_done = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, SlabFinished):
            self._advance(event)
        elif isinstance(event, ScanStarted):
            self._start_bar(event)
        elif isinstance(event, ScanFinished):
            self._end_bar()
        elif isinstance(event, PassFinished) and not self._quiet:
            self._line(pass_line(event))
        elif isinstance(event, PathPassFinished) and not self._quiet:
            self._line(path_pass_line(event))
        elif isinstance(event, Note) and (event.warning or not self._quiet):
            self._line(("warning: " if event.warning else "") + event.text)

    def _start_bar(self, event: ScanStarted) -> None:
        self._end_bar()
        if self._quiet or not self._stream.isatty():
            return
        self._slabs, self._slabs_done = event.n_slabs, 0
        self._bar = tqdm(
            total=event.data_bytes,
            desc=event.title,
            unit="B",
            unit_scale=True,
            leave=False,
            file=self._stream,
            bar_format=_BAR,
            dynamic_ncols=True,
            mininterval=0.1,
        )

    def _advance(self, event: SlabFinished) -> None:
        if self._bar is not None:
            self._slabs_done += 1
            self._bar.set_postfix_str(f"slab {self._slabs_done}/{self._slabs}", refresh=False)
            self._bar.update(event.data_bytes)

    def _end_bar(self) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _line(self, text: str) -> None:
        self._stream.write(plain(text) + "\n")
        self._stream.flush()


def pass_line(event: PassFinished) -> str:
    """One line for one pass."""
    speed = event.bytes_read / event.seconds / 1e9 if event.seconds > 0 else 0.0
    validation = (
        "" if event.validation_loss is None else f"validation {event.validation_loss:.9f}   "
    )
    return (
        f"pass {event.number:3d}   loss {event.loss:.9f}   {validation}gradient "
        f"{event.gradient_max:.2e}   step {event.step:<6.3g} "
        f"{event.seconds:7.2f} s   {speed:.2f} GB/s"
    )


def path_pass_line(event: PathPassFinished) -> str:
    """One line for one pass that many models share."""
    speed = event.bytes_read / event.seconds / 1e9 if event.seconds > 0 else 0.0
    gradient = f"gradient {event.gradient_max:.2e}" if math.isfinite(event.gradient_max) else ""
    return (
        f"pass {event.number:3d}   {f'{event.active} of {event.models} models go on':30} "
        f"{gradient:17} {event.seconds:7.2f} s   {speed:.2f} GB/s"
    )


class RowCounter:
    """Rows written so far, for commands that make a store."""

    def __init__(
        self, title: str, total: int | None, *, quiet: bool, stream: TextIO | None = None
    ) -> None:
        target = stream or sys.stderr
        self._bar = tqdm(
            total=total,
            desc=title,
            unit=" rows",
            unit_scale=True,
            leave=False,
            file=target,
            dynamic_ncols=True,
            disable=quiet or not target.isatty(),
        )

    def __call__(self, rows: int) -> None:
        self._bar.update(rows)

    def __enter__(self) -> RowCounter:
        return self

    def __exit__(self, *exception: object) -> None:
        self._bar.close()
