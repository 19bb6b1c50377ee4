"""Which columns of a table are what, by their names alone."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from streamlr.errors import ConfigError, IngestError, either

_DELIMITERS = {"\\t": "\t", "tab": "\t"}
_INDEX_NAMES = ("rownames", "row.names", "row_names", "rowname", "__null_dask_index__")
_INDEX_PATTERN = re.compile(r"Unnamed: 0(\.\d+)*|__index_level_\d+__")
_FIRST_INDEX_NAMES = ("", "...1")
"""Headers of row names where they stand first: pandas and R leave it blank, readr fills it in."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns are what, and how their text is to be understood."""

    target: str
    """Name of the labels' column; for arrays its number, the path of a .npy file, or the name of an
    array in a .npz file."""
    weights: str | None = None
    """Name of the weights' column."""
    features: tuple[str, ...] | None = None
    """Names of the features' columns; None: all others."""
    drop: tuple[str, ...] = ()
    """Names of columns to leave out."""
    delimiter: str = ","
    """What separates the columns of a CSV file; a tab may be written ``\\t`` or ``tab``."""
    header: bool = True
    """Whether a CSV file begins with the names of its columns; else they are called f0, f1, ..."""
    keep: tuple[str, ...] = ()
    """Names of columns to take though they look like row numbers, row names or identifiers."""
    na: tuple[str, ...] | None = None
    """What stands for a gap where it is not in quotes, beside nothing at all; None:
    `streamlr.data.ingest.cells.GAPS`."""
    encoding: str = "utf-8"
    """How a CSV file encodes its text."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the names of one table's columns say."""

    present: tuple[str, ...]
    """All columns, in their order."""
    features: tuple[str, ...]
    """Those that may become features."""
    left_out: dict[str, str]
    """Those that are row names or numbers by a convention, and by which."""


def delimiter_of(columns: Columns, default: str) -> str:
    """The one character that separates columns; ``default`` where none was asked for.

    Raises
    ------
    ConfigError
        When it is no single character, or one that has another meaning.
    """
    asked = _DELIMITERS.get(columns.delimiter, columns.delimiter)
    if len(asked) != 1 or not asked.isascii() or asked in '"\r\n':
        raise ConfigError(
            f"{either('--delimiter', 'delimiter')} {columns.delimiter!r} is not one character that "
            "separates columns; give one, such as ';' or '|', or tab"
        )
    return default if asked == "," else asked


def choose(
    path: Path, present: Sequence[str], columns: Columns, index_names: Collection[str] = ()
) -> Choice:
    """Which columns may be features.

    Parameters
    ----------
    path
        The table, for errors.
    present
        Names of its columns.
    columns
        What was asked for.
    index_names
        Columns that the table's own metadata call an index.

    Raises
    ------
    IngestError
        When a column is absent, occurs twice, or would tell a model its answer.
    """
    for name in (columns.target, columns.weights, *(columns.features or ())):
        if name is not None and name not in present:
            raise absent(path, name, present)
    named = {columns.target, columns.weights, *columns.drop, *columns.keep}
    left_out = {
        name: why for name, why in _row_names(present, index_names).items() if name not in named
    }
    taken = {columns.target, columns.weights, *columns.drop}
    chosen = columns.features or tuple(
        name for name in present if name not in taken and name not in left_out
    )
    if columns.target in chosen or columns.weights in chosen:
        answer = columns.target if columns.target in chosen else columns.weights
        raise IngestError(
            f"{path}: {either('--features', 'features')} names {answer!r}, which is the target or "
            "the weights; a model would be told its answer"
        )
    for name in (*chosen, columns.target, columns.weights):
        if list(present).count(name or "") > 1 and name is not None:
            raise IngestError(f"{path}: the column {name!r} occurs more than once; rename one")
    return Choice(tuple(present), tuple(chosen), {} if columns.features else left_out)


def absent(path: Path, name: str, present: Iterable[str]) -> IngestError:
    """The error for a column that a table lacks."""
    names = list(present)
    shown = ", ".join(names[:12]) + (", ..." if len(names) > 12 else "")
    return IngestError(f"{path} has no column {name!r}; it has {shown}")


def _row_names(present: Sequence[str], index_names: Collection[str]) -> dict[str, str]:
    found = {
        name: "the index of the frame that was written" for name in present if name in index_names
    }
    first = True  # several of them, where pandas writes an index of several levels
    for name in present:
        first = first and name.strip() in _FIRST_INDEX_NAMES
        if first or name in _INDEX_NAMES or _INDEX_PATTERN.fullmatch(name):
            found.setdefault(name, "row names or numbers, by its header")
    return found
