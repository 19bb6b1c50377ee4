"""Tables with named columns, CSV and Parquet, read a batch of rows at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from numpy.typing import NDArray

from streamlr.errors import IngestError

BATCH_BYTES = 16 * 2**20
"""Of what is read at a time."""


@dataclass(frozen=True, slots=True)
class Columns:
    """Which columns are what."""

    target: str
    """Name of the labels' column; for arrays its number, or the path of a .npy file, or the name of an array in a .npz file."""
    weights: str | None = None
    """Name of the weights' column."""
    features: tuple[str, ...] | None = None
    """Names of the features' columns; None: all others."""
    drop: tuple[str, ...] = ()
    """Names of columns to leave out."""
    delimiter: str = ","
    """What separates the columns of a CSV file."""
    header: bool = True
    """Whether a CSV file begins with the names of its columns; else they are called f0, f1, ..."""


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


class Table(Protocol):
    """A file of rows."""

    path: Path
    feature_names: tuple[str, ...] | None
    dtype: np.dtype[Any]

    @property
    def n_features(self) -> int: ...

    @property
    def paths(self) -> tuple[Path, ...]:
        """All files that it is read from."""
        ...

    def batches(self, skip: int) -> Iterator[Rows]:
        """Rows from number ``skip`` on."""
        ...


def kind_of(path: Path) -> str:
    """Ending of a name, less that of a compression, in lower case."""
    endings = [ending.lower() for ending in path.suffixes]
    return endings[-2] if len(endings) > 1 and endings[-1] in (".gz", ".bz2", ".zst") else (endings[-1] if endings else "")


def _select(path: Path, present: Sequence[str], columns: Columns) -> tuple[str, ...]:
    """Names of the features' columns."""
    repeated = {name for name in present if list(present).count(name) > 1}
    if repeated:
        raise IngestError(f"{path}: the column {sorted(repeated)[0]!r} occurs more than once; rename one")
    for name in (columns.target, columns.weights, *(columns.features or ()), *columns.drop):
        if name is not None and name not in present:
            shown = ", ".join(present[:12]) + (", ..." if len(present) > 12 else "")
            raise IngestError(f"{path} has no column {name!r}; it has {shown}")
    taken = {columns.target, columns.weights, *columns.drop}
    chosen = columns.features or tuple(name for name in present if name not in taken)
    if columns.target in chosen or columns.weights in chosen:
        raise IngestError(f"{path}: --features names {columns.target if columns.target in chosen else columns.weights!r}, which is the target or the weights; "
                          "a model would be told its answer")
    if not chosen:
        raise IngestError(f"{path} has no column left to be a feature")
    return tuple(chosen)


def _check_types(path: Path, schema: Any, names: Sequence[str]) -> None:
    for name in names:
        kind = schema.field(name).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind) or pa.types.is_null(kind)
                or pa.types.is_decimal(kind)):
            raise IngestError(f"{path}: the column {name!r} holds {kind}, not numbers; leave it out with --drop {name!r}, or encode it "
                              "(one column for each category) before")


def _numbers(path: Path, batch: Any, names: Sequence[str], dtype: np.dtype[Any], first_row: int,
             whole: frozenset[int] = frozenset()) -> NDArray[Any]:
    """Columns as a matrix, (k, n); ``whole`` are those that hold integers in the source though they were read as floats."""
    out = np.empty((batch.num_rows, len(names)), dtype=dtype)
    for at, name in enumerate(names):
        column = batch.column(name)
        if column.null_count:
            row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
            raise IngestError(f"{path}: row {first_row + row} has no value in the column {name!r} ({column.null_count} missing nearby); fill or drop "
                              "such rows, then ingest again")
        values = (column.cast(pa.float64()) if pa.types.is_decimal(column.type) else column).to_numpy(zero_copy_only=False)
        out[:, at] = values
        if at in whole and np.abs(values).max(initial=0.0) > 2**53:
            row = int(np.argmax(np.abs(values) > 2**53))
            raise IngestError(f"{path}: row {first_row + row} holds a whole number beyond 2**53 in the column {name!r}, which float64 cannot hold exactly; "
                              "scale that column, or leave it out with --drop")
        if values.dtype.kind in "iu" and dtype.kind == "f" and not _exact(values, out[:, at]):
            row = int(np.argmax(out[:, at].astype(object) != values.astype(object)))
            raise IngestError(f"{path}: row {first_row + row} holds {values[row]} in the column {name!r}, a whole number that {dtype} cannot hold exactly; "
                              "scale that column, or leave it out with --drop")
    return out


def _exact(whole: NDArray[Any], stored: NDArray[Any]) -> bool:
    """Whether all these integers survived the conversion to floating point."""
    limit = 2 ** (np.finfo(stored.dtype).nmant + 1)
    small = whole.size == 0 or (int(whole.max()) <= limit and int(whole.min()) >= -limit)
    return small or [int(value) for value in stored] == whole.tolist()


def _labels(path: Path, batch: Any, name: str, first_row: int) -> NDArray[Any]:
    column = batch.column(name)
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if column.null_count:
        row = int(np.argmax(column.is_null().to_numpy(zero_copy_only=False)))
        raise IngestError(f"{path}: row {first_row + row} has no label in the column {name!r}; drop such rows, then ingest again")
    values = column.to_numpy(zero_copy_only=False)
    values = values.astype(np.str_) if values.dtype == object else values
    if values.dtype.kind not in "biufU":
        raise IngestError(f"{path}: the column {name!r} holds {column.type}; labels must be integers, bools, floats or text")
    empty = values == "" if values.dtype.kind == "U" else ~np.isfinite(values)
    if empty.any():
        raise IngestError(f"{path}: row {first_row + int(np.argmax(empty))} has no label in the column {name!r}; drop such rows, then ingest again")
    return values


def _rows(path: Path, batch: Any, names: Sequence[str], columns: Columns, dtype: np.dtype[Any], first_row: int,
          whole: frozenset[int] = frozenset()) -> Rows:
    weights = None
    if columns.weights is not None:
        weights = _numbers(path, batch, [columns.weights], np.dtype(np.float64), first_row)[:, 0]
    return Rows(first_row, _numbers(path, batch, names, dtype, first_row, whole), _labels(path, batch, columns.target, first_row), weights)


class CsvTable:
    """A CSV file, plain or compressed; numbers are read as float64."""

    dtype = np.dtype(np.float64)

    def __init__(self, path: Path, columns: Columns) -> None:
        self.path = path
        self._columns = columns
        tabs = kind_of(path) == ".tsv" and columns.delimiter == ","
        delimiter = "\t" if tabs else columns.delimiter
        self._parse = pyarrow.csv.ParseOptions(delimiter=delimiter, newlines_in_values=True)
        self._read = pyarrow.csv.ReadOptions(block_size=BATCH_BYTES, autogenerate_column_names=not columns.header)
        with self._open(pyarrow.csv.ConvertOptions()) as reader:
            schema = reader.schema
        self.feature_names = _select(path, schema.names, columns)
        _check_types(path, schema, self.feature_names)
        numbers = [*self.feature_names] + ([columns.weights] if columns.weights is not None else [])
        self._whole = frozenset(at for at, name in enumerate(self.feature_names) if pa.types.is_integer(schema.field(name).type))
        types = {name: _csv_type(schema.field(name).type) for name in numbers}
        types[columns.target] = schema.field(columns.target).type
        if pa.types.is_null(types[columns.target]):
            raise IngestError(f"{path}: the column {columns.target!r} begins without labels; drop rows without one, then ingest again")
        self._convert = pyarrow.csv.ConvertOptions(column_types=types, include_columns=list(types), strings_can_be_null=False)

    @property
    def n_features(self) -> int:
        return len(self.feature_names)

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    def batches(self, skip: int) -> Iterator[Rows]:
        row = 0
        assert self.feature_names is not None
        with self._open(self._convert) as reader:
            try:
                for batch in reader:
                    fresh = batch.slice(max(0, skip - row))
                    first = row + batch.num_rows - fresh.num_rows
                    row += batch.num_rows
                    if fresh.num_rows:
                        yield _rows(self.path, fresh, self.feature_names, self._columns, self.dtype, first, self._whole)
            except (pa.ArrowInvalid, OSError) as error:
                raise IngestError(f"{self.path}, after row {row}: {error}; mend the file, or leave the column out with --drop") from error

    def _open(self, convert: Any) -> Any:
        try:
            return pyarrow.csv.open_csv(self.path, read_options=self._read, parse_options=self._parse, convert_options=convert)
        except (pa.ArrowInvalid, OSError) as error:
            raise IngestError(f"{self.path} cannot be read as CSV: {error}") from error


def _csv_type(inferred: Any) -> Any:
    """Whole numbers and truth values are checked on their way to float64; a column that begins empty is a number."""
    return inferred if pa.types.is_boolean(inferred) else pa.float64()


class ParquetTable:
    """A Parquet file; columns of several types are brought to one that holds them all."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self.path = path
        self._columns = columns
        try:
            schema = pyarrow.parquet.read_schema(path)
        except (pa.ArrowInvalid, OSError) as error:
            raise IngestError(f"{path} cannot be read as Parquet: {error}") from error
        present = [name for name in schema.names if not name.startswith("__index_level_")]
        self.feature_names = _select(path, present, columns)
        _check_types(path, schema, self.feature_names)
        kinds = [schema.field(name).type for name in self.feature_names]
        self.dtype = np.result_type(*[np.float64 if pa.types.is_decimal(kind) or pa.types.is_null(kind) else kind.to_pandas_dtype()
                                      for kind in kinds])

    @property
    def n_features(self) -> int:
        return len(self.feature_names)

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    def batches(self, skip: int) -> Iterator[Rows]:
        columns, names = self._columns, self.feature_names
        assert names is not None
        wanted = [*names, columns.target] + ([columns.weights] if columns.weights is not None else [])
        batch_rows = max(1, BATCH_BYTES // (8 * len(wanted)))
        row = 0
        try:
            with pyarrow.parquet.ParquetFile(self.path) as file:
                for group in range(file.num_row_groups):
                    held = file.metadata.row_group(group).num_rows
                    if row + held <= skip:
                        row += held
                        continue
                    for batch in file.iter_batches(batch_rows, row_groups=[group], columns=wanted):
                        fresh = batch.slice(max(0, skip - row))
                        first = row + batch.num_rows - fresh.num_rows
                        row += batch.num_rows
                        if fresh.num_rows:
                            yield _rows(self.path, fresh, names, columns, self.dtype, first)
        except (pa.ArrowInvalid, OSError) as error:
            raise IngestError(f"{self.path}, after row {row}, cannot be read: {error}") from error
