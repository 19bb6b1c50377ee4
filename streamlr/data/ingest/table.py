"""Tables with named columns, CSV and Parquet, read a batch of rows at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from streamlr.data.ingest.cells import GapWords
from streamlr.data.ingest.column_facts import ColumnFacts, facts_of_text, facts_of_typed, is_text
from streamlr.data.ingest.columns import Choice, Columns, choose, delimiter_of
from streamlr.data.ingest.encoding import find_undecodable, python_encoding
from streamlr.data.ingest.values import labels_of, numbers_of, plain
from streamlr.errors import IngestError

BATCH_BYTES = 16 * 2**20
"""Of what is read at a time."""


@dataclass(frozen=True, slots=True)
class Rows:
    """A batch of rows."""

    first_row: int
    """Number of the first one in its table."""
    features: NDArray[Any]
    """(k, n)."""
    target: NDArray[Any]
    """(k,)."""
    weights: NDArray[np.float64] | None
    """(k,)."""


@dataclass(frozen=True, slots=True)
class Layout:
    """What the rows of all tables become; decided before the first one is written."""

    features: tuple[str, ...] | None
    """Names of the features, in their order; arrays have none."""
    n_features: int
    """How many there are."""
    dtype: np.dtype[Any]
    """Type that holds the features of all tables exactly."""
    target: np.dtype[Any]
    """The same of the labels."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a column says of itself."""

    shown: str
    """Name of its type."""
    dtype: np.dtype[Any] | None
    """NumPy's type; None where the values have to be looked at, as with text and decimals."""
    readable: bool = True
    """Whether it can hold numbers or text."""


class Table(Protocol):
    """A file of rows."""

    path: Path

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files that it is read from."""
        ...

    def batches(self, skip: int, layout: Layout) -> Iterator[Rows]:
        """Rows from number ``skip`` on."""
        ...


class NamedTable(Table, Protocol):
    """A table whose columns have names."""

    @property
    def choice(self) -> Choice:
        """What the names of its columns say."""
        ...

    @property
    def kinds(self) -> Mapping[str, Kind]:
        """What each of its columns says of itself."""
        ...

    def blocks(self, names: Sequence[str], skip: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        """First row, and columns by their names, of one batch of rows after the other."""
        ...

    def facts(self, column: Any, first_row: int, closely: bool) -> ColumnFacts:
        """Facts of a column of a block."""
        ...


def kind_of(path: Path) -> str:
    """Ending of a name, less that of a compression, in lower case."""
    endings = [ending.lower() for ending in path.suffixes]
    return (
        endings[-2]
        if len(endings) > 1 and endings[-1] in (".gz", ".bz2", ".zst")
        else (endings[-1] if endings else "")
    )


def _rows(table: NamedTable, skip: int, columns: Columns, layout: Layout) -> Iterator[Rows]:
    names, gaps = layout.features, GapWords.of(columns.na)
    assert names is not None
    wanted = [*names, columns.target, *([columns.weights] if columns.weights is not None else [])]
    for first_row, block in table.blocks(wanted, skip):
        target = block[columns.target]
        if target.null_count:
            raise IngestError(
                f"{table.path} has other rows from number {first_row} on than it had when it was "
                "looked through; ingest again"
            )
        features = np.empty((len(target), len(names)), dtype=layout.dtype)
        for at, name in enumerate(names):
            features[:, at] = numbers_of(block[name], layout.dtype, gaps)
        weights = (
            None
            if columns.weights is None
            else numbers_of(block[columns.weights], np.dtype(np.float64), gaps)
        )
        yield Rows(first_row, features, labels_of(target, layout.target, gaps), weights)


class CsvTable:
    """A CSV file, plain or compressed; read as text, so no type hangs on where a block ends."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self.path = path
        self._columns = columns
        self._gaps = GapWords.of(columns.na)
        self._encoding = python_encoding(columns.encoding)
        delimiter = delimiter_of(columns, "\t" if kind_of(path) == ".tsv" else ",")
        self._parse = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        self._read = pyarrow.csv.ReadOptions(
            block_size=BATCH_BYTES,
            autogenerate_column_names=not columns.header,
            encoding=self._encoding,
        )
        try:
            with self._open(pyarrow.csv.ConvertOptions()) as reader:
                present = reader.schema.names
        except (pa.ArrowInvalid, OSError, UnicodeError) as error:
            raise self._unreadable(error) or IngestError(
                f"{path} cannot be read as CSV: {error}"
            ) from error
        if any("\0" in name for name in present):
            raise find_undecodable(path, self._encoding) or IngestError(
                f"{path} has a zero byte among the names of its columns; mend the file"
            )
        self.choice = choose(path, present, columns)
        self.kinds = dict.fromkeys(present, Kind("string", None))

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    def batches(self, skip: int, layout: Layout) -> Iterator[Rows]:
        return _rows(self, skip, self._columns, layout)

    def facts(self, column: Any, first_row: int, closely: bool) -> ColumnFacts:
        return facts_of_text(column, first_row, self._gaps, closely)

    def blocks(self, names: Sequence[str], skip: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        convert = pyarrow.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            include_columns=list(names),
            null_values=self._gaps.bare,
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        row = 0
        try:
            with self._open(convert) as reader:
                for batch in reader:
                    fresh = batch.slice(max(0, skip - row))
                    first_row = row + batch.num_rows - fresh.num_rows
                    row += batch.num_rows
                    if fresh.num_rows:
                        yield first_row, {name: fresh.column(name) for name in names}
        except (pa.ArrowInvalid, OSError, UnicodeError) as error:
            raise self._unreadable(error) or IngestError(
                f"{self.path}, after row {row}: {error}; mend the file"
            ) from error

    def _open(self, convert: Any) -> Any:
        return pyarrow.csv.open_csv(
            self.path, read_options=self._read, parse_options=self._parse, convert_options=convert
        )

    def _unreadable(self, error: Exception) -> IngestError | None:
        """The error for text in another encoding, where that is what is wrong."""
        said = str(error)
        suspect = isinstance(error, UnicodeError) or "UTF8" in said or "Expected" in said
        return find_undecodable(self.path, self._encoding) if suspect else None


class ParquetTable:
    """A Parquet file; columns of several types are brought to one that holds them all."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self.path = path
        self._columns = columns
        self._gaps = GapWords.of(columns.na)
        try:
            schema = pyarrow.parquet.read_schema(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise IngestError(f"{path} cannot be read as Parquet: {error}") from error
        self.choice = choose(path, schema.names, columns, _index_names(schema))
        self.kinds = {column.name: _kind(column.type) for column in schema}

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    def batches(self, skip: int, layout: Layout) -> Iterator[Rows]:
        return _rows(self, skip, self._columns, layout)

    def facts(self, column: Any, first_row: int, closely: bool) -> ColumnFacts:
        del closely  # a column with a type says itself whether it holds whole numbers
        return facts_of_typed(column, first_row, self._gaps)

    def blocks(self, names: Sequence[str], skip: int = 0) -> Iterator[tuple[int, dict[str, Any]]]:
        batch_rows = max(1, BATCH_BYTES // (8 * len(names)))
        # no reading ahead of a small buffer: else a whole row group is held, often the whole file
        buffer_bytes = max(2**14, min(2**18, BATCH_BYTES // len(names)))
        row = 0
        try:
            with pyarrow.parquet.ParquetFile(
                self.path, buffer_size=buffer_bytes, pre_buffer=False
            ) as file:
                for group in range(file.num_row_groups):
                    held = file.metadata.row_group(group).num_rows
                    if row + held <= skip:
                        row += held
                        continue
                    for batch in file.iter_batches(
                        batch_rows, row_groups=[group], columns=list(names)
                    ):
                        fresh = batch.slice(max(0, skip - row))
                        first_row = row + batch.num_rows - fresh.num_rows
                        row += batch.num_rows
                        if fresh.num_rows:
                            yield first_row, {name: plain(fresh.column(name)) for name in names}
        except (pa.ArrowInvalid, OSError) as error:
            raise IngestError(f"{self.path}, after row {row}, cannot be read: {error}") from error


def _index_names(schema: Any) -> set[str]:
    """Columns that pandas, whose metadata these are, had for an index."""
    try:
        found = json.loads((schema.metadata or {}).get(b"pandas", b"{}"))["index_columns"]
        # else an index of running numbers, which is no column
        return {name for name in found if isinstance(name, str)}
    except (ValueError, KeyError, TypeError):
        return set()


def _kind(kind: Any) -> Kind:
    if pa.types.is_dictionary(kind):
        return _kind(kind.value_type)
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return Kind(str(kind), np.dtype(kind.to_pandas_dtype()))
    return Kind(
        str(kind), None, pa.types.is_decimal(kind) or pa.types.is_null(kind) or is_text(kind)
    )
