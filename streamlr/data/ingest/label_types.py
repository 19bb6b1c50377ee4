"""The one type that the labels of all tables are stored in.

Numbers widen among themselves where that is exact. Whole numbers with a zero before their digits
are codes, unless there are fractions among them, so 01 and 1 are two, and whole numbers beyond 64
bits would be rounded: both stay text. Whether labels are classes or a quantity is not asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from streamlr.data.ingest.column_facts import Span
from streamlr.data.ingest.column_parts import Column, Part
from streamlr.data.ingest.troubles import Trouble, label_troubles
from streamlr.errors import Message, either

TEXT = np.dtype("U")
_Class = Literal["text", "code", "float", "int", "bool"]


@dataclass(frozen=True, slots=True)
class Labels:
    """What was settled."""

    dtype: np.dtype[Any]
    """Type of the labels; ``U`` for text."""
    notes: tuple[str, ...] = ()
    """What the user should know."""
    troubles: tuple[Trouble, ...] = ()
    """What keeps them from having one type."""


def settle_labels(column: Column) -> Labels:
    """One type for the labels of all tables."""
    told = [part for part in column.parts if part.values]
    refusal = _unreadable(column) or _words_and_numbers(told) or _truth_and_numbers(told)
    if refusal is not None:
        return Labels(TEXT, troubles=(Trouble(column.name, refusal),))
    textual = any(_class_of(part) in ("text", "code") for part in told)
    dtype = TEXT if textual else _joined(told)
    return Labels(dtype, _notes(column, dtype), tuple(label_troubles(column, dtype)))


def _unreadable(column: Column) -> str | None:
    odd = next((part for part in column.parts if not part.kind.readable), None)
    if odd is None:
        return None
    return (
        f"{odd.path}: the column {column.name!r} holds {odd.kind.shown}; labels must be integers, "
        "bools, floats or text"
    )


def _class_of(part: Part) -> _Class:
    facts, dtype = part.facts, part.kind.dtype
    if dtype is not None:
        return "bool" if dtype.kind == "b" else "float" if dtype.kind == "f" else "int"
    if part.is_text:
        return "text"
    if facts.fraction.count:
        return "float"  # a zero before the digits is no code beside fractions
    if facts.code.count or not _integer_for(facts.span):
        return "code"
    return "int" if facts.number.count else "bool"


def _integer_for(span: Span) -> np.dtype[Any] | None:
    return next((np.dtype(kind) for kind in (np.int64, np.uint64) if span.fits(kind)), None)


def _words_and_numbers(told: Sequence[Part]) -> str | None:
    """What to say where one table has words and another numbers; codes go with whole numbers."""
    classes = [_class_of(part) for part in told]
    for words, numbers in (({"text"}, {"int", "float", "bool"}), ({"code"}, {"float", "bool"})):
        at = [
            next((k for k, kind in enumerate(classes) if kind in group), -1)
            for group in (words, numbers)
        ]
        if min(at) >= 0:
            return _clash(told[min(at)], told[max(at)])
    return None


def _truth_and_numbers(told: Sequence[Part]) -> str | None:
    """What to say where one table has truth values and another numbers other than 0 and 1."""
    if any(part.is_text for part in told):
        return None
    words = [k for k, part in enumerate(told) if part.facts.word.count]
    others = [k for k, part in enumerate(told) if part.facts.other.count]
    if not words or not others:
        return None
    earlier, later = sorted((words[0], others[0]))
    return _clash(told[earlier], told[later])


def _clash(earlier: Part, later: Part) -> str:
    facts = later.facts
    seen = next(
        one for one in (facts.text, facts.code, facts.other, facts.word, facts.number) if one.count
    )
    return (
        f"{later.path}: labels are {_name_of(later)} here and {_name_of(earlier)} before; "
        f"bring them to one type (row {seen.row} holds {seen.value!r})"
    )


def _name_of(part: Part) -> str:
    kind = _class_of(part)
    return "text" if kind in ("text", "code") else str(_dtype_of(part, kind))


def _dtype_of(part: Part, kind: _Class) -> np.dtype[Any]:
    if part.kind.dtype is not None:
        return part.kind.dtype
    return np.dtype(
        {"bool": np.bool_, "float": np.float64}.get(kind) or _integer_for(part.facts.span)
    )


def _joined(parts: Sequence[Part]) -> np.dtype[Any]:
    """Type that holds the numbers of all tables; NumPy has a float for int64 beside uint64."""
    if not parts:
        return np.dtype(np.float64)
    joined = np.result_type(*[_dtype_of(part, _class_of(part)) for part in parts])
    if joined.kind == "f" and all(_class_of(part) in ("int", "bool") for part in parts):
        return _integer_for(sum((part.facts.span for part in parts), Span())) or TEXT
    return joined


def _notes(column: Column, dtype: np.dtype[Any]) -> tuple[str, ...]:
    notes: list[str] = []
    code = column.total(lambda facts: facts.code)
    quoted = column.total(lambda facts: facts.quoted)
    if column.is_text and quoted is not None:
        told = (
            f"labels in the column {column.name!r} that are spelled like a gap, but stand in "
            f"quotes or are none by {either('--na', 'na')}, are taken as labels: "
            f"{quoted.count:,}, the first {quoted.value!r} in row {quoted.row} of {quoted.path}"
        )
        notes.append(Message(told))
    if dtype == TEXT and not column.is_text:
        why = "no integer of 64 bits holds them all"
        if code is not None:
            why = f"row {code.row} of {code.path} holds {code.value!r}"
        notes.append(f"the labels in the column {column.name!r} stay text: {why}")
    return tuple(notes)
