"""What keeps a column from becoming a feature, a weight or a label, and the remedy."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from streamlr.data.ingest.column_parts import Column, Part, Total
from streamlr.errors import IngestError, either


@dataclass(frozen=True, slots=True)
class Trouble:
    """One thing that is wrong with a column."""

    column: str
    """Its name."""
    text: str
    """What is wrong, and what it needs."""
    droppable: bool = False
    """Whether the column can be left out."""


_WHOLE = either("--dtype int64 or uint64", "dtype='int64' or 'uint64'")


def _drop(name: str) -> str:
    """What leaves a column out."""
    return either(f"--drop {name!r}", f"drop={[name]!r}")


def refuse(troubles: Sequence[Trouble]) -> None:
    """Raise one error for all of them.

    Raises
    ------
    IngestError
        Unless there are none.
    """
    if len(troubles) == 1:
        raise IngestError(troubles[0].text)
    if troubles:
        columns = len({trouble.column for trouble in troubles})
        lines = ["one column cannot be taken as it is:"]
        if columns > 1:
            lines = [f"{columns} columns cannot be taken as they are:"]
        lines += [f"  {trouble.text}" for trouble in troubles]
        drop = dict.fromkeys(trouble.column for trouble in troubles if trouble.droppable)
        if drop:
            options = either(
                " ".join(f"--drop {shlex.quote(name)}" for name in drop), f"drop={list(drop)!r}"
            )
            lines.append(f"to go on without those that were to be features, add: {options}")
        raise IngestError("\n".join(lines))


def feature_troubles(column: Column, *, exact: bool) -> Iterator[Trouble]:
    """What is wrong with a column that is to be a feature.

    Parameters
    ----------
    column
        The column.
    exact
        Whether its whole numbers have to become the same doubles.
    """
    texts = [_not_numbers(column)]
    if texts == [None]:
        rounded = _rounded(column) if exact else None
        texts = [_mixed_truth(column), _gaps(column), _endless(column), rounded]
    yield from (Trouble(column.name, text, droppable=True) for text in texts if text is not None)


def weight_troubles(column: Column) -> Iterator[Trouble]:
    """What is wrong with the weights."""
    part = _part_without_numbers(column)
    if part is None:
        texts = [_mixed_truth(column), _gaps(column), _endless(column), _rounded(column)]
    else:
        texts = [
            f"{part.path}: the column {column.name!r} holds {_shown(part)}, not numbers; weights "
            "must be numbers"
        ]
    yield from (Trouble(column.name, text) for text in texts if text is not None)


def label_troubles(column: Column, dtype: np.dtype[Any]) -> Iterator[Trouble]:
    """What is wrong with the labels, which are to be of one type."""
    texts = [_label_gaps(column)]
    if dtype.kind == "f":
        texts += [_endless_labels(column), _rounded_labels(column)]
    yield from (Trouble(column.name, text) for text in texts if text is not None)


def _part_without_numbers(column: Column) -> Part | None:
    return next((part for part in column.parts if part.is_text or not part.kind.readable), None)


def _not_numbers(column: Column) -> str | None:
    part, name = _part_without_numbers(column), column.name
    if part is None:
        return None
    text = column.total(lambda facts: facts.text)
    if text is not None and sum(part.facts.number.count for part in column.parts) > text.count:
        return (
            f"{text.path}, after row {max(0, text.row - 1)}: {text.value!r} in row {text.row} of "
            f"the column {name!r} is no number ({_of(text, column)} hold none); mend such rows, "
            f"say with {either('--na', 'na=')} that they are gaps, or leave the column out with "
            f"{_drop(name)}"
        )
    return (text is None and _mixed_truth(column)) or (
        f"{part.path}: the column {name!r} holds {_shown(part)}, not numbers; leave it out with "
        f"{_drop(name)}, or {_encoded(part, column)} before"
    )


def _mixed_truth(column: Column) -> str | None:
    word = column.total(lambda facts: facts.word)
    other = column.total(lambda facts: facts.other)
    if word is None or other is None:
        return None
    return (
        f"{word.path}: row {word.row} of the column {column.name!r} holds {word.value!r}, and row "
        f"{other.row} of {other.path} holds {other.value!r}; truth values go with 0 and 1 alone; "
        "bring them to numbers"
    )


def _shown(part: Part) -> str:
    """Name of what the column holds; of text, of what it looks like."""
    if part.kind.shown == "string":
        for kind in (pa.date32(), pa.timestamp("s")):
            try:
                pa.array([part.facts.text.value]).cast(kind)
            except pa.ArrowInvalid:
                continue
            return str(kind)
    return part.kind.shown


def _encoded(part: Part, column: Column) -> str:
    """What makes numbers of it."""
    if not part.kind.readable or _shown(part) != part.kind.shown:
        return "turn it into numbers (such as days, of dates)"
    distinct, _ = column.distinct_texts
    each = f"each of its {distinct:,} categories" if distinct > 1 else "each category"
    return f"encode it (one column for {each})"


def _gaps(column: Column) -> str | None:
    gaps = column.gaps
    if gaps is None:
        return None
    remedy = "fill or drop such rows, then ingest again"
    if gaps.count == column.rows:
        remedy = f"leave it out with {_drop(column.name)}"
    return (
        f"{gaps.path}: row {gaps.row} has no value in the column {column.name!r} "
        f"({_of(gaps, column)} have none); {remedy}"
    )


def _label_gaps(column: Column) -> str | None:
    gaps = column.gaps
    if gaps is None:
        return None
    if gaps.count == column.rows:
        return (
            f"{gaps.path}: the column {column.name!r} begins without labels, and none follows "
            f"({_of(gaps, column)} have none); name another {either('--target', 'target')}"
        )
    spelled = (
        "; where NA is a label and no gap, put it in quotes, or say with "
        f"{either('--na', 'na=')} what is a gap"
    )
    return (
        f"{gaps.path}: row {gaps.row} has no label in the column {column.name!r}; drop such rows, "
        f"then ingest again ({_of(gaps, column)} have none{spelled * column.is_text})"
    )


def _endless(column: Column) -> str | None:
    seen = column.total(lambda facts: facts.endless)
    if seen is None:
        return None
    return (
        f"{seen.path}: the value {seen.value} in row {seen.row}, column {column.name!r}, is not "
        f"finite; clean the source, then ingest again ({_of(seen, column)} hold such)"
    )


def _endless_labels(column: Column) -> str | None:
    seen = column.total(lambda facts: facts.endless)
    if seen is None:
        return None
    return (
        f"{seen.path}: row {seen.row} has no label in the column {column.name!r}, but "
        f"{seen.value}; drop such rows, then ingest again ({_of(seen, column)} hold such)"
    )


def _rounded(column: Column) -> str | None:
    seen = column.total(lambda facts: facts.rounded)
    if seen is None:
        return None
    return (
        f"{_unlike_double(seen, column)}; scale that column, or leave it out with "
        f"{_drop(column.name)} ({_WHOLE} keeps it, where all features are whole numbers)"
    )


def _rounded_labels(column: Column) -> str | None:
    seen = column.total(lambda facts: facts.rounded)
    if seen is None:
        return None
    return (
        f"{_unlike_double(seen, column)} and that stands beside fractions; scale the labels, or "
        "bring them to one type"
    )


def _unlike_double(seen: Total, column: Column) -> str:
    return (
        f"{seen.path}: row {seen.row} holds {seen.value} in the column {column.name!r}, a whole "
        f"number that float64 cannot hold exactly ({_of(seen, column)} hold such)"
    )


def _of(seen: Total, column: Column) -> str:
    """``3 of 1,000 rows``."""
    return f"{seen.count:,} of {column.rows:,} row{'s' * (column.rows != 1)}"
