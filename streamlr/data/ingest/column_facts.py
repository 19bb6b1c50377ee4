"""What a pass over a table finds out about a column.

Facts of two runs of rows add up to those of both, in their order, wherever a block ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from streamlr.data.ingest.cells import (
    Cells,
    GapWords,
    Mask,
    mask_of,
    range_of,
    read_cells,
    unlike_double,
    unlike_whole,
    written_whole,
)

MOST_DISTINCT = 2**16
"""Distinct texts of a column that are kept, by a hash, in half a megabyte; once there are as many,
the column is judged by the rows so far."""


@dataclass(frozen=True, slots=True)
class Sighting:
    """How often something occurs, and where first."""

    count: int = 0
    """Rows."""
    row: int = -1
    """Number of the first one in its table."""
    value: str = ""
    """What stands there."""

    def __add__(self, later: Sighting) -> Sighting:
        first = self if self.count else later
        return Sighting(self.count + later.count, first.row, first.value)


@dataclass(frozen=True, slots=True)
class Run:
    """Whether the values grow by one from row to row."""

    rows: int = 0
    first: float = 0.0
    last: float = 0.0
    by_one: bool = True

    def __add__(self, later: Run) -> Run:
        if not self.rows or not later.rows:
            return later if later.rows else self
        joined = self.by_one and later.by_one and later.first == self.last + 1
        return Run(self.rows + later.rows, self.first, later.last, joined)


@dataclass(frozen=True, slots=True)
class Distinct:
    """Distinct texts."""

    hashes: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    """Sorted; how many there are does not depend on the seed of Python's hashes."""
    rows: int = 0
    """Rows that they were looked for in."""

    def __add__(self, later: Distinct) -> Distinct:
        if len(self.hashes) >= MOST_DISTINCT or not later.rows:
            return self
        return (
            Distinct(np.union1d(self.hashes, later.hashes), self.rows + later.rows)
            if self.rows
            else later
        )


@dataclass(frozen=True, slots=True)
class Span:
    """Range of whole numbers; None before the first."""

    least: int | None = None
    largest: int | None = None

    def __add__(self, other: Span) -> Span:
        ends = [
            end for end in (self.least, self.largest, other.least, other.largest) if end is not None
        ]
        return Span(min(ends), max(ends)) if ends else self

    def fits(self, dtype: Any) -> bool:
        """Whether an integer type holds all of it."""
        limits = np.iinfo(dtype)
        return (
            self.least is None
            or self.largest is None
            or (limits.min <= self.least and self.largest <= limits.max)
        )


@dataclass(frozen=True, slots=True)
class ColumnFacts:
    """Facts of one column of one table."""

    rows: int = 0
    gap: Sighting = Sighting()
    """Rows without a value."""
    quoted: Sighting = Sighting()
    """Rows with what is spelled like a gap, in quotes: gaps of numbers, texts of texts."""
    number: Sighting = Sighting()
    """Numbers."""
    word: Sighting = Sighting()
    """Truth values."""
    text: Sighting = Sighting()
    """All that is none of these."""
    other: Sighting = Sighting()
    """Numbers that are neither 0 nor 1."""
    fraction: Sighting = Sighting()
    """Numbers that are not written as whole ones; told apart where it matters."""
    code: Sighting = Sighting()
    """Numbers with a zero before their digits, likewise."""
    endless: Sighting = Sighting()
    """Infinities, and of floating-point columns NaN."""
    rounded: Sighting = Sighting()
    """Whole numbers that no double equals."""
    span: Span = Span()
    """Range of the whole numbers, where they are told apart."""
    run: Run = Run()
    """Whether the column counts."""
    distinct: Distinct = field(default_factory=Distinct)
    """Its distinct texts."""

    def __add__(self, later: ColumnFacts) -> ColumnFacts:
        return ColumnFacts(
            *(getattr(self, entry.name) + getattr(later, entry.name) for entry in fields(self))
        )

    @property
    def gaps_of_numbers(self) -> Sighting:
        """Rows without a value, if this is a column of numbers."""
        both = self.gap + self.quoted
        first = min(
            (one for one in (self.gap, self.quoted) if one.count),
            key=lambda one: one.row,
            default=both,
        )
        return Sighting(both.count, first.row, first.value)


def facts_of_text(texts: Any, first_row: int, gaps: GapWords, closely: bool) -> ColumnFacts:
    """Facts of a block of text, (k,) pyarrow strings.

    ``closely`` tells whole numbers from others, and codes from whole numbers, which takes longer.
    """
    cells = read_cells(texts, gaps)
    number = cells.number
    whole, code = written_whole(texts) if closely else (number, np.zeros_like(number))
    whole &= number
    see = _seer(texts, first_row)
    return ColumnFacts(
        rows=len(number),
        gap=see(cells.gap),
        quoted=see(cells.quoted),
        number=see(number),
        word=see(cells.word),
        text=see(cells.text),
        other=see(number & _other(cells.numbers)),
        fraction=see(number & ~whole),
        code=see(number & code),
        endless=see(np.isinf(cells.numbers)),
        rounded=see(unlike_double(texts, cells.numbers)),
        span=_span_of(texts.filter(pa.array(whole))) if closely and whole.any() else Span(),
        run=_run_of(cells),
        distinct=_distinct(texts.filter(pa.array(cells.text))) if cells.text.any() else Distinct(),
    )


def _other(numbers: NDArray[Any]) -> Mask:
    """Which numbers, (k,), are neither 0 nor 1, and so no truth values."""
    return np.asarray((numbers != 0) & (numbers != 1))


def _span_of(texts: Any) -> Span:
    return Span(*range_of(texts))


def _seer(values: Any, first_row: int) -> Callable[[Mask], Sighting]:
    def see(where: Mask) -> Sighting:
        count = int(np.count_nonzero(where))
        if not count:
            return Sighting()
        at = int(np.argmax(where))
        return Sighting(count, first_row + at, str(values[at].as_py()))

    return see


def _run_of(cells: Cells) -> Run:
    plain = not (cells.text.any() or cells.word.any())
    return run_of(cells.numbers) if plain else Run(len(cells.numbers), by_one=False)


def run_of(numbers: NDArray[Any]) -> Run:
    """Whether values, (k,), grow by one."""
    if not len(numbers):
        return Run()
    # nearly all columns are done with after three rows
    by_one = _grows_by_one(numbers[:3]) and _grows_by_one(numbers)
    return Run(len(numbers), float(numbers[0]), float(numbers[-1]), by_one)


def _grows_by_one(numbers: NDArray[Any]) -> bool:
    values = numbers.astype(np.float64)  # int8 would turn round from 127 to -128
    with np.errstate(invalid="ignore"):
        return bool(np.all(np.diff(values) == 1))


def _distinct(texts: Any) -> Distinct:
    values = [value for value in pc.unique(texts).to_pylist() if value is not None]
    hashes = np.fromiter(map(hash, values), dtype=np.int64, count=len(values))
    return Distinct(np.unique(hashes), len(texts) - texts.null_count)


def facts_of_typed(column: Any, first_row: int, gaps: GapWords) -> ColumnFacts:
    """Facts of a block of a column that has a type, (k,); one of decimals goes by its digits."""
    kind = column.type
    if pa.types.is_decimal(kind):
        return facts_of_text(column.cast(pa.string()), first_row, gaps, closely=True)
    if is_text(kind):
        return _facts_of_strings(column.cast(pa.string()), first_row, gaps)
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        return _facts_of_numbers(column, first_row, gaps)
    see, gap = _seer(column, first_row), mask_of(column.is_null())
    word = ~gap if pa.types.is_boolean(kind) else np.zeros_like(gap)
    return ColumnFacts(len(gap), see(gap), word=see(word), run=Run(len(gap), by_one=False))


def _facts_of_numbers(column: Any, first_row: int, gaps: GapWords) -> ColumnFacts:
    see, gap = _seer(column, first_row), mask_of(column.is_null())
    whole = pa.types.is_integer(column.type)
    values = np.asarray(column.fill_null(0).to_numpy(zero_copy_only=False))
    missing = gaps.among(values) & ~gap
    rounded = np.zeros_like(gap)
    if whole and values.dtype.itemsize == 8:
        rounded = unlike_whole(values, values.astype(np.float64))
    ends = pc.min_max(column) if whole else {}
    return ColumnFacts(
        rows=len(gap),
        gap=see(gap),
        quoted=see(missing),
        number=see(~gap & ~missing),
        other=see(~gap & _other(values)),
        endless=see(np.zeros_like(gap) if whole else ~np.isfinite(values)),
        rounded=see(rounded),
        span=Span(*(end.as_py() for end in ends.values())),
        run=run_of(values),
    )


def _facts_of_strings(column: Any, first_row: int, gaps: GapWords) -> ColumnFacts:
    """Text of a typed column is as if in quotes, but where the user named what stands for a gap.

    An empty text tells nothing.
    """
    see = _seer(column, first_row)
    words = pa.array(gaps.words if gaps.told else ("",), pa.string())
    gap = mask_of(column.is_null()) | mask_of(pc.is_in(column, value_set=words))
    run = Run(len(gap), by_one=False)
    return ColumnFacts(len(gap), see(gap), text=see(~gap), run=run, distinct=_distinct(column))


def is_text(kind: Any) -> bool:
    """Whether a pyarrow type is text."""
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )
