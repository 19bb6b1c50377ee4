"""Coordinates of an axis as text, decoded as the CF conventions mean them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.data.conventions.texts import text_of

_TIME_UNITS = {
    "days": "D",
    "hours": "h",
    "minutes": "m",
    "seconds": "s",
    "milliseconds": "ms",
    "microseconds": "us",
    "nanoseconds": "ns",
}
_OUR_CALENDARS = ("standard", "gregorian", "proleptic_gregorian")


def texts(values: Iterable[Any]) -> tuple[str, ...]:
    """One text for each value; numbers in the precision of their type: 0.1 in float32 is "0.1"."""
    return tuple(text_of(value) for value in values)


def coordinate_texts(values: NDArray[Any], attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """One text for each value of a coordinate, (n,).

    Packed numbers are unpacked. Dates become dates, whatever day they are counted from: that is
    another one when the same dates are written in another order. Spans of time, and dates of
    calendars that NumPy does not know, keep their unit.

    Parameters
    ----------
    values, attributes
        As stored.
    """
    if values.dtype.kind == "M":
        return tuple(_date(value) for value in values)
    if values.dtype.kind not in "iuf":
        return texts(values)
    scale = _number(attributes.get("scale_factor", 1))
    shift = _number(attributes.get("add_offset", 0))
    if (scale, shift) != (1, 0):
        values = values.astype(np.float64) * scale + shift
    units, calendar = str(attributes.get("units", "")), str(attributes.get("calendar", "standard"))
    unit, _, start = units.partition(" since ")
    if unit not in _TIME_UNITS:
        return texts(values)
    dates = _dates(values, unit, start) if start and calendar in _OUR_CALENDARS else None
    if dates is not None:
        return dates
    other = "" if calendar in _OUR_CALENDARS else f" ({calendar})"
    return tuple(f"{value} {units}{other}" for value in values)


def _number(value: Any) -> float:
    """The number of an attribute, which some writers have in a list."""
    return float(value[0] if isinstance(value, list) else value)


def _dates(values: NDArray[Any], unit: str, start: str) -> tuple[str, ...] | None:
    """Dates so many units after a start; None for a start that NumPy does not read, or parts."""
    if not np.isfinite(values).all() or (values != np.rint(values)).any():
        return None
    text = start.strip().removesuffix("Z").removesuffix("UTC").strip().replace(" ", "T")
    try:
        first = np.datetime64(re.sub(r"\.0*$", "", text))
    except ValueError:
        return None
    steps = values.astype(np.int64).astype(f"timedelta64[{_TIME_UNITS[unit]}]")
    return tuple(_date(date) for date in first + steps)


def _date(value: np.datetime64) -> str:
    """As pandas shows it: in seconds, or as many digits as it has."""
    for unit in ("s", "us"):
        rounded = value.astype(f"datetime64[{unit}]")
        if rounded == value:
            return str(rounded).replace("T", " ")
    return str(value).replace("T", " ")
