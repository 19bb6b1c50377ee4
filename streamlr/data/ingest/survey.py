"""The first of two passes over tables: what their columns hold, and what becomes of them.

A column's type, its gaps, and whether it is a feature at all can only be told from all of its rows.
So the tables are read once to decide and once to write, and what cannot be taken is told in one
message before anything is written.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from streamlr.data.ingest.column_facts import ColumnFacts, Span
from streamlr.data.ingest.column_parts import Column, Part
from streamlr.data.ingest.columns import Columns, absent
from streamlr.data.ingest.label_types import settle_labels
from streamlr.data.ingest.table import Layout, NamedTable
from streamlr.data.ingest.troubles import Trouble, feature_troubles, refuse, weight_troubles
from streamlr.errors import ConfigError, IngestError, Message, both, either


@dataclass(frozen=True, slots=True)
class Survey:
    """What was found out."""

    layout: Layout
    """What the rows become."""
    rows: tuple[int, ...]
    """Rows of each table."""
    notes: tuple[str, ...] = ()
    """What the user should know: columns that were left out, labels that are kept as text."""


def survey_tables(
    tables: Sequence[NamedTable], columns: Columns, dtype: np.dtype[Any] | None
) -> Survey:
    """Read all tables once.

    Parameters
    ----------
    tables
        With the same columns, in any order.
    columns
        What was asked for.
    dtype
        Type that was asked for; None: one that holds all features exactly.

    Raises
    ------
    IngestError
        When a column cannot be taken; the message names all that cannot.
    """
    names = _common_features(tables, columns)
    integers = dtype is not None and dtype.kind in "iu"
    found = [
        _facts(table, [*names, *_others(columns)], set(names) if integers else set(), columns)
        for table in tables
    ]
    facts, rows = [one for one, _ in found], tuple(held for _, held in found)
    if not any(rows):
        raise IngestError(
            f"{', '.join(str(table.path) for table in tables)}: the sources hold no rows; nothing "
            "was written"
        )
    parts = {name: _column(name, tables, facts, rows) for name in (*names, *_others(columns))}
    left_out = _left_out([parts[name] for name in names], columns)
    notes = _left_out_notes(tables, left_out)
    features = [parts[name] for name in names if name not in left_out]
    layout_dtype = _dtype_of(features, integers)
    labels = settle_labels(parts[columns.target])
    weights = None if columns.weights is None else parts[columns.weights]
    exact = np.float64 in (layout_dtype, dtype) and dtype not in (np.float32, np.float16)
    refuse([*_troubles(features, weights, exact), *labels.troubles])
    if not features:
        raise IngestError(
            "\n".join([f"{tables[0].path} has no column left to be a feature", *map(both, notes)])
        )
    layout = Layout(
        tuple(column.name for column in features), len(features), layout_dtype, labels.dtype
    )
    return Survey(layout, rows, (*notes, *labels.notes))


def _left_out(candidates: Sequence[Column], columns: Columns) -> dict[str, str]:
    """Names of columns that number or name the rows, and why; none where features were named."""
    if columns.features:
        return {}
    why = {column.name: _why_left_out(column) for column in candidates}
    return {name: told for name, told in why.items() if told and name not in columns.keep}


def _troubles(features: Sequence[Column], weights: Column | None, exact: bool) -> list[Trouble]:
    found = [one for column in features for one in feature_troubles(column, exact=exact)]
    return found if weights is None else [*found, *weight_troubles(weights)]


def _others(columns: Columns) -> tuple[str, ...]:
    return (columns.target,) if columns.weights is None else (columns.target, columns.weights)


def _common_features(tables: Sequence[NamedTable], columns: Columns) -> tuple[str, ...]:
    """Names of what may be features, in the order of the first table; all have to have them."""
    present = {name for table in tables for name in table.choice.present}
    for name in (*columns.drop, *columns.keep):
        if name not in present:
            raise absent(tables[0].path, name, tables[0].choice.present)
        if name in columns.drop and name in columns.keep:
            named = either("--drop and --keep", "drop and keep")
            raise ConfigError(f"{named} both name {name!r}; one of them is meant")
    first = tables[0].choice.features
    for table in tables[1:]:
        ours = table.choice.features
        if set(ours) != set(first):
            sides = (("first", set(ours) - set(first)), ("second", set(first) - set(ours)))
            alone = ", ".join(f"only the {which} has {sorted(own)}" for which, own in sides if own)
            raise IngestError(
                f"{table.path} and {tables[0].path} differ in their columns: {alone}; bring them "
                "to the "
                f"same columns, or leave out with {either('--drop', 'drop=')} what not all of them "
                "have"
            )
    return first


def _facts(
    table: NamedTable, names: Sequence[str], closely: Collection[str], columns: Columns
) -> tuple[dict[str, ColumnFacts], int]:
    """Facts of the columns of one table, and its rows; one pass over it."""
    read = [name for name in names if table.kinds[name].readable]
    found, rows = dict.fromkeys(names, ColumnFacts()), 0
    for first_row, block in table.blocks(read or [columns.target]):
        rows = first_row + len(next(iter(block.values())))
        for name in read:
            found[name] += table.facts(
                block[name], first_row, name == columns.target or name in closely
            )
    return found, rows


def _column(
    name: str,
    tables: Sequence[NamedTable],
    facts: Sequence[dict[str, ColumnFacts]],
    rows: Sequence[int],
) -> Column:
    """One column of the tables that have rows: one that has none has no say."""
    return Column(
        name,
        tuple(
            Part(table.path, table.kinds[name], found[name])
            for table, found, held in zip(tables, facts, rows, strict=True)
            if held
        ),
    )


def _why_left_out(column: Column) -> str | None:
    if column.counts_rows:
        return "it counts the rows"
    if column.identifies_rows:
        distinct, rows = column.distinct_texts
        return f"text, {distinct:,} of {rows:,} values distinct"
    return None


def _left_out_notes(tables: Sequence[NamedTable], left_out: dict[str, str]) -> list[str]:
    by_name = {name: why for table in tables for name, why in table.choice.left_out.items()}
    return [
        Message(
            f"left out the column {name!r} ({why}); "
            f"{either(f'--keep {shlex.quote(name)}', f'keep={[name]!r}')} brings it back"
        )
        for name, why in (by_name | left_out).items()
    ]


def _dtype_of(features: Sequence[Column], integers: bool) -> np.dtype[Any]:
    """Type that holds all features; ``integers``: of text and decimals too, if they are whole."""
    parts = [part for column in features for part in column.parts]
    joined = (
        np.result_type(*[part.kind.dtype or np.dtype(np.float64) for part in parts])
        if parts
        else np.dtype(np.float64)
    )
    whole = not any(
        part.facts.fraction.count or (part.kind.dtype is not None and part.kind.dtype.kind == "f")
        for part in parts
    )
    if joined.kind == "f" and integers and whole:
        span = sum((part.facts.span for part in parts), Span())
        return next((np.dtype(kind) for kind in (np.int64, np.uint64) if span.fits(kind)), joined)
    return joined
