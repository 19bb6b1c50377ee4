"""Cells of a column of text, told apart: numbers, truth values, gaps, and all else.

What a column holds is decided by all of its cells, never by those at its beginning. A gap is what
is written with no quotes around it and stands in a list; quotes keep such a spelling a text, but
nothing makes it a number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

GAPS = (
    "",
    "NA",
    "N/A",
    "n/a",
    "#N/A",
    "#N/A N/A",
    "#NA",
    "<NA>",
    "NaN",
    "nan",
    "NAN",
    "-NaN",
    "-nan",
    "1.#IND",
    "-1.#IND",
    "1.#QNAN",
    "-1.#QNAN",
    "null",
    "Null",
    "NULL",
    "None",
    "?",
)
"""What stands for a gap unless something else is said: what pandas, R, spreadsheets, databases,
Python and C write for one, and the UCI data sets."""

TRUE, FALSE = ("true", "True", "TRUE"), ("false", "False", "FALSE")
_NUMBER = r"^[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|(?i:inf|infinity|nan))$"
_WHOLE = r"^[+-]?[0-9]+$"
_CODE = r"^[+-]?0[0-9]+$"
_SAMPLE = 16
"""Cells that are tried before a whole block is: pyarrow words an error for each that fails."""

_LARGEST_EXACT = 2.0**53
_MOST_DIGITS = 100
"""Of a number in a range: far beyond any type, while Python refuses to read thousands of them."""

Mask = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class GapWords:
    """What stands for a gap."""

    words: tuple[str, ...]
    """Their spellings, nothing at all among them."""
    told: bool
    """Whether the user named them."""

    @classmethod
    def of(cls, na: Sequence[str] | None) -> GapWords:
        """Those that were asked for, and nothing at all; None: `GAPS`."""
        return cls(GAPS if na is None else tuple(dict.fromkeys(["", *na])), na is not None)

    @property
    def bare(self) -> list[str]:
        """Spellings as they may stand between two delimiters, a blank before or behind them."""
        return [
            before + word + behind
            for word in self.words
            for before in ("", " ")
            for behind in ("", " ")
        ]

    def among(self, numbers: NDArray[Any]) -> Mask:
        """Which numbers, (k,), the user called gaps, such as -999; by their value."""
        values = (
            [float(word) for word in self.words if re.fullmatch(_NUMBER, word)] if self.told else []
        )
        return np.isin(numbers, values) if values else np.zeros(len(numbers), dtype=bool)


@dataclass(frozen=True, slots=True)
class Cells:
    """A block of one column, (k,) each."""

    texts: Any
    """pyarrow strings; null where a gap stood bare."""
    numbers: NDArray[np.float64]
    """The double nearest to each; 1 and 0 for truth values, NaN where there is no number."""
    gap: Mask
    """Bare gaps."""
    quoted: Mask
    """What is spelled like a gap, but in quotes: a gap in a column of numbers, else a text."""
    word: Mask
    """Truth values."""
    text: Mask
    """All that is none of these, and no number."""

    @property
    def number(self) -> Mask:
        """Numbers."""
        return ~(self.gap | self.quoted | self.word | self.text)


def mask_of(array: Any) -> Mask:
    """A pyarrow array of truth values as NumPy's; nulls are false."""
    return np.asarray(array.fill_null(False).to_numpy(zero_copy_only=False), dtype=bool)


def read_cells(texts: Any, gaps: GapWords) -> Cells:
    """Tell the cells of a block of text apart; ``texts`` are pyarrow strings."""
    gap = mask_of(texts.is_null())
    numbers = _all_numbers(texts)
    if numbers is None:
        return _set_apart(texts, gap, gaps)
    none = np.zeros(len(gap), dtype=bool)
    return Cells(texts, numbers, gap, (np.isnan(numbers) & ~gap) | gaps.among(numbers), none, none)


def _all_numbers(texts: Any) -> NDArray[np.float64] | None:
    """The numbers that all cells but nulls are; None where one is not."""
    try:
        texts.slice(0, _SAMPLE).cast(pa.float64())
        return np.asarray(texts.cast(pa.float64()).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid:
        return None


def _set_apart(texts: Any, gap: Mask, gaps: GapWords) -> Cells:
    trimmed = pc.ascii_trim_whitespace(texts)
    true, false, spelled = (
        mask_of(pc.is_in(trimmed, value_set=pa.array(words, pa.string())))
        for words in (TRUE, FALSE, gaps.words)
    )
    quoted = spelled & ~gap
    number = mask_of(pc.match_substring_regex(trimmed, _NUMBER)) & ~quoted
    numbers = np.full(len(gap), np.nan)
    numbers[number] = (
        trimmed.filter(pa.array(number)).cast(pa.float64()).to_numpy(zero_copy_only=False)
    )
    numbers[true], numbers[false] = 1.0, 0.0
    quoted |= (number & np.isnan(numbers)) | gaps.among(numbers)
    return Cells(texts, numbers, gap, quoted, true | false, ~(gap | quoted | true | false | number))


def unlike_double(texts: Any, numbers: NDArray[np.float64]) -> Mask:
    """Which cells, (k,), are whole numbers that no double equals.

    A fraction has a nearest double, and so has what is written with an exponent, since that is how
    doubles are written; a whole number that is written out is meant to its last digit.
    """
    with np.errstate(invalid="ignore"):
        large = np.flatnonzero((np.abs(numbers) >= _LARGEST_EXACT) & np.isfinite(numbers))
    bad = np.zeros(len(numbers), dtype=bool)
    if large.size:
        some = pc.ascii_trim_whitespace(texts.take(pa.array(large)))
        bad[large] = _unlike(some, numbers[large])
    return bad


def _unlike(texts: Any, numbers: NDArray[np.float64]) -> Mask:
    try:
        texts.slice(0, _SAMPLE).cast(pa.int64())
        whole = np.asarray(texts.cast(pa.int64()).to_numpy(zero_copy_only=False))
    except pa.ArrowInvalid:
        return np.array(
            [
                _text_unlike(text, number)
                for text, number in zip(texts.to_pylist(), numbers.tolist(), strict=True)
            ]
        )
    return unlike_whole(whole, numbers)


def unlike_whole(whole: NDArray[Any], numbers: NDArray[Any]) -> Mask:
    """Which integers, (k,), differ from the floats that they became, compared as integers."""
    limits = np.iinfo(whole.dtype)
    # float(max) is one more than max, which none of these equals
    inside = (numbers >= float(limits.min)) & (numbers < float(limits.max))
    back = np.where(inside, numbers, 0).astype(whole.dtype)
    return ~inside | (back != whole)


def _text_unlike(text: str, number: float) -> bool:
    if "e" in text or "E" in text:
        return False
    value = Decimal(text)
    return value == value.to_integral_value() and value != Decimal(number)


def written_whole(texts: Any) -> tuple[Mask, Mask]:
    """Which cells, (k,), are written as whole numbers, and which of these begin with a zero."""
    trimmed = pc.ascii_trim_whitespace(texts)
    whole = mask_of(pc.match_substring_regex(trimmed, _WHOLE))
    return whole, whole & mask_of(pc.match_substring_regex(trimmed, _CODE))


def whole_numbers(texts: Any, dtype: np.dtype[Any]) -> NDArray[Any]:
    """Cells that are written as whole numbers, as integers to the last digit.

    Raises
    ------
    pyarrow.ArrowInvalid
        When one is no such number, or has no room in ``dtype``.
    """
    return np.asarray(
        _unsigned(texts).cast(pa.from_numpy_dtype(dtype)).to_numpy(zero_copy_only=False)
    )


def _unsigned(texts: Any) -> Any:
    """Without a plus sign and without the minus of a zero, which pyarrow's integers refuse."""
    trimmed = pc.ascii_trim_whitespace(texts)
    return pc.replace_substring_regex(trimmed, r"^(?:\+|-(0+)$)", r"\1")


def range_of(texts: Any) -> tuple[int, int]:
    """The least and the largest of at least one cell that is written as a whole number."""
    try:
        found = pc.min_max(_unsigned(texts).cast(pa.int64()))
        return int(found["min"].as_py()), int(found["max"].as_py())
    except pa.ArrowInvalid:
        values = [int(text[:_MOST_DIGITS]) for text in pc.ascii_trim_whitespace(texts).to_pylist()]
        return min(values), max(values)
