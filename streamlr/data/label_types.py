"""The one type that the labels of all tables are stored in.

Numbers widen among themselves where that is exact. Whole numbers with a zero before their digits are codes, so 01 and 1 are two
of them, and whole numbers beyond 64 bits would be rounded: both stay text. Whether labels are classes or a quantity is not asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from streamlr.data.column_facts import Span
from streamlr.data.column_parts import Column, Part
from streamlr.data.table_troubles import Trouble, label_troubles

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
    odd = next((part for part in column.parts if not part.kind.readable), None)
    if odd is not None:
        text = f"{odd.path}: the column {column.name!r} holds {odd.kind.shown}; labels must be integers, bools, floats or text"
        return Labels(TEXT, troubles=(Trouble(column.name, text),))
    told = [(part, _class_of(part)) for part in column.parts if part.values]
    classes = {kind for _, kind in told}
    clash = _clash(told)
    if clash is not None:
        return Labels(TEXT, troubles=(Trouble(column.name, clash),))
    dtype = TEXT if classes & {"text", "code"} else _joined([part for part, _ in told])
    return Labels(dtype, _notes(column, dtype), tuple(label_troubles(column, dtype)))


def _class_of(part: Part) -> _Class:
    facts, dtype = part.facts, part.kind.dtype
    if dtype is not None:
        return "bool" if dtype.kind == "b" else "float" if dtype.kind == "f" else "int"
    if part.is_text:
        return "text"
    if facts.code.count or not (facts.fraction.count or _integer_for(facts.span)):
        return "code"
    return "float" if facts.fraction.count else "int" if facts.number.count else "bool"


def _integer_for(span: Span) -> np.dtype[Any] | None:
    return next((np.dtype(kind) for kind in (np.int64, np.uint64) if span.fits(kind)), None)


def _clash(told: Sequence[tuple[Part, _Class]]) -> str | None:
    """What to say where a table has words and another has numbers; codes are numbers and go with whole ones."""
    for words, numbers in (({"text"}, {"int", "float", "bool"}), ({"code"}, {"float", "bool"})):
        found = [
            next((entry for entry in told if entry[1] in group), None) for group in (words, numbers)
        ]
        if None not in found:
            (earlier, _), (later, _) = sorted(
                (entry for entry in found if entry is not None), key=told.index
            )
            seen = next(
                one
                for one in (
                    later.facts.text,
                    later.facts.code,
                    later.facts.number,
                    later.facts.word,
                )
                if one.count
            )
            return (
                f"{later.path}: labels are {_name_of(later)} here and {_name_of(earlier)} before; bring them to one type (row {seen.row} holds "
                f"{seen.value!r})"
            )
    return None


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
    """Type that holds the numbers of all tables; NumPy has float64 for int64 beside uint64, which does not."""
    if not parts:
        return np.dtype(np.float64)
    joined = np.result_type(*[_dtype_of(part, _class_of(part)) for part in parts])
    if joined.kind == "f" and all(_class_of(part) in ("int", "bool") for part in parts):
        span = sum((part.facts.span for part in parts), Span())
        return _integer_for(span) or TEXT
    return joined


def _notes(column: Column, dtype: np.dtype[Any]) -> tuple[str, ...]:
    notes = []
    code = column.total(lambda facts: facts.code)
    quoted = column.total(lambda facts: facts.quoted)
    if column.is_text and quoted is not None:
        notes.append(
            f"{quoted.count:,} labels in the column {column.name!r} are spelled like a gap, but stand in quotes, and are taken as labels (the "
            f"first: {quoted.value!r} in row {quoted.row} of {quoted.path})"
        )
    if dtype == TEXT and not column.is_text:
        why = (
            f"row {code.row} of {code.path} holds {code.value!r}"
            if code is not None
            else "they are whole numbers beyond 64 bits"
        )
        notes.append(f"the labels in the column {column.name!r} stay text: {why}")
    return tuple(notes)
