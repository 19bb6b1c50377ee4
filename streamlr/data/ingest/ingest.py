"""From tables to a store: streamed, checked, committed by a rename, and continued where it was
interrupted.

Rows keep their order. Whole chunks are written as they fill up; after each, a journal in the
unfinished store says how many rows are safe, so that a second attempt with the same sources and
options skips them.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from streamlr.config.places import local_output
from streamlr.data.conventions.coded_text import write_codes
from streamlr.data.ingest.cells import Mask, unlike_whole
from streamlr.data.ingest.columns import Columns
from streamlr.data.ingest.numpy_files import NpyTable, NpzTable, survey_arrays
from streamlr.data.ingest.survey import Survey, survey_tables
from streamlr.data.ingest.table import CsvTable, ParquetTable, Rows, Table, kind_of
from streamlr.data.records import commit_file, sync_path, writing
from streamlr.data.source import check_feature_dtype
from streamlr.data.writing import Compressor, StoreWriter, chunk_rows_for, create_array, write_names
from streamlr.errors import IngestError, either

log = logging.getLogger(__name__)

FORMAT_VERSION = 1
_JOURNAL = "ingest.json"
_DTYPE = either("--dtype", "dtype")


@dataclass(frozen=True, slots=True)
class IngestSpec:
    """How tables become a store."""

    columns: Columns
    """Which columns are what."""
    dtype: str | None = None
    """Type of the stored features; None: one that holds the source's values exactly."""
    chunk_rows: int | None = None
    """Rows of a chunk; None: as many as measured best."""
    compressor: Compressor = "lz4"
    """Compression of the chunks."""


@dataclass(frozen=True, slots=True)
class IngestResult:
    """What came of it."""

    rows: int
    """Rows of the store."""
    features: int
    """Its features."""
    resumed_rows: int
    """Rows that an earlier attempt had written."""
    notes: tuple[str, ...] = ()
    """What the user should know, such as which columns were left out."""


def ingest(
    sources: Sequence[str | Path],
    path: str | Path,
    spec: IngestSpec,
    *,
    overwrite: bool = False,
    rows_done: Callable[[int], None] = lambda rows: None,
) -> IngestResult:
    """Write a store from tables with the same columns, one after the other. Tables with names are
    read twice: to look, and to write.

    Parameters
    ----------
    sources
        Paths of CSV, Parquet, .npy or .npz files.
    path
        Where the store is to be.
    spec
        How.
    overwrite
        Whether to replace a store that stands there.
    rows_done
        Called with the number of rows that have just been written.

    Raises
    ------
    IngestError
        When a source cannot become rows of the store; the message names file, row and column.
    """
    path = local_output(path, either("STORE", "path"))
    tables = [open_table(Path(source), spec.columns) for source in sources]
    with StoreWriter(path, overwrite=overwrite) as writer:
        survey = _survey(tables, spec)
        for note in survey.notes:
            log.info("%s", note)
        dtype = np.dtype(spec.dtype) if spec.dtype is not None else survey.layout.dtype
        check_feature_dtype(dtype, str(tables[0].path))
        sink = _Sink(writer, spec, dtype, survey.layout.features, _identity(tables, spec))
        resumed = sink.rows
        rows_done(resumed)
        for table, rows in _all_rows(tables, survey, resumed):
            _check_rows(table, rows, dtype, survey.layout.features)
            for count in sink.add(table, rows):
                rows_done(count)
        rows_done(sink.finish())
        writer.commit(leave_out=_JOURNAL)
        return IngestResult(sink.rows, sink.n_features, resumed, survey.notes)


def open_table(path: Path, columns: Columns) -> Table:
    """Open a source by the ending of its name.

    Raises
    ------
    IngestError
        When there is no such file, its kind is not known, or it lacks a column.
    """
    if not path.is_file():
        raise IngestError(f"no file at {str(path)!r}; check {either('SOURCE', 'sources')}")
    kind = kind_of(path)
    readers: dict[str, Any] = {
        ".csv": CsvTable,
        ".tsv": CsvTable,
        ".txt": CsvTable,
        ".parquet": ParquetTable,
        ".pq": ParquetTable,
        ".npy": NpyTable,
        ".npz": NpzTable,
    }
    if kind not in readers:
        raise IngestError(f"{str(path)!r} ends in {kind!r}; streamlr reads {', '.join(readers)}")
    table: Table = readers[kind](path, columns)
    return table


def _survey(tables: Sequence[Table], spec: IngestSpec) -> Survey:
    named = [table for table in tables if isinstance(table, CsvTable | ParquetTable)]
    arrays = [table for table in tables if isinstance(table, NpyTable | NpzTable)]
    if named and arrays:
        raise IngestError(
            f"{named[0].path} has columns with names and {arrays[0].path} has none; bring them to "
            "the same columns"
        )
    return (
        survey_tables(named, spec.columns, None if spec.dtype is None else np.dtype(spec.dtype))
        if named
        else survey_arrays(arrays)
    )


def _all_rows(tables: Sequence[Table], survey: Survey, skip: int) -> Iterator[tuple[Table, Rows]]:
    for table, held in zip(tables, survey.rows, strict=True):
        if skip < held:
            for rows in table.batches(skip, survey.layout):
                yield table, rows
        skip = max(0, skip - held)


def _check_rows(
    table: Table, rows: Rows, dtype: np.dtype[Any], names: Sequence[str] | None
) -> None:
    """Refuse values that are not finite, or that the stored type cannot hold; only float32 and
    float16, which were asked for, may round."""
    with np.errstate(over="ignore", invalid="ignore"):
        stored = rows.features.astype(dtype, copy=False)
    kind = rows.features.dtype.kind
    if kind == "f" and not np.isfinite(rows.features).all():
        _refuse(
            table,
            rows,
            ~np.isfinite(rows.features),
            "is not finite; clean the source, then ingest again",
            names,
        )
    if dtype.kind == "f" and not np.isfinite(stored).all():
        _refuse(
            table,
            rows,
            ~np.isfinite(stored),
            f"is too large for {dtype}; choose another {_DTYPE}",
            names,
        )
    if dtype.kind != "f" and not np.array_equal(stored, rows.features):
        _refuse(
            table,
            rows,
            stored != rows.features,
            f"cannot be held by {dtype}; choose another {_DTYPE}",
            names,
        )
    if (
        rows.features.dtype.itemsize == 8
        and kind in "iu"
        and dtype == np.float64
        and (unlike := unlike_whole(rows.features, stored)).any()
    ):
        _refuse(
            table,
            rows,
            unlike,
            f"is a whole number that {dtype} cannot hold exactly; choose another {_DTYPE}, or "
            "scale that column",
            names,
        )


def _refuse(table: Table, rows: Rows, bad: Mask, what: str, names: Sequence[str] | None) -> None:
    at, feature = (int(i) for i in np.argwhere(bad)[0])
    name = names[feature] if names is not None else feature
    raise IngestError(
        f"{table.path}: the value {rows.features[at, feature].item()} in row "
        f"{rows.first_row + at}, column {name!r}, {what}"
    )


def _identity(tables: Sequence[Table], spec: IngestSpec) -> dict[str, Any]:
    """What must be the same for an interrupted attempt to be continued."""
    paths = [path for table in tables for path in table.paths]
    files = [
        [str(path.resolve()), os.stat(path).st_size, os.stat(path).st_mtime_ns] for path in paths
    ]
    return json.loads(
        json.dumps({"format_version": FORMAT_VERSION, "files": files, "spec": asdict(spec)})
    )


class _Sink:
    """Collects rows into whole chunks and writes them."""

    def __init__(
        self,
        writer: StoreWriter,
        spec: IngestSpec,
        dtype: np.dtype[Any],
        names: tuple[str, ...] | None,
        identity: dict[str, Any],
    ) -> None:
        self._writer = writer
        self._spec = spec
        self._dtype = dtype
        self._names = names
        self._identity = identity
        self._group: zarr.Group | None = None
        self._buffered: list[Rows] = []
        self._buffered_rows = 0
        self.rows = self._rows_of_earlier_attempt()
        self.n_features = 0
        self._chunk = 0
        if self.rows:
            self._group = writer.reopen()
            self._chunk, self.n_features = self._array("X").chunks

    def add(self, table: Table, rows: Rows) -> Iterator[int]:
        """Take rows; yields the rows of every chunk that was written."""
        if self._group is None:
            self._start(rows)
        self._check_labels(table, rows)
        self._buffered.append(rows)
        self._buffered_rows += len(rows.target)
        while self._buffered_rows >= self._chunk:
            yield self._write(self._chunk)

    def finish(self) -> int:
        """Write what is left and cut the arrays to their length."""
        if self._group is None or self.rows + self._buffered_rows == 0:
            raise IngestError("the sources hold no rows; nothing was written")
        if self.rows == 0:
            self._shrink_chunks(self._buffered_rows)
        count = self._write(self._buffered_rows) if self._buffered_rows else 0
        for name in ("X", "y", "weights"):
            if name in self._group:
                array = self._array(name)
                array.resize((self.rows, *array.shape[1:]))
        if self._array("y").dtype.kind in "TUO":
            write_codes(self._group, "y", self._spec.compressor)
        return count

    def _start(self, rows: Rows) -> None:
        self._group = self._writer.start({"made_by": "streamlr ingest"})
        self.n_features = rows.features.shape[1]
        self._chunk = self._spec.chunk_rows or chunk_rows_for(self.n_features, self._dtype.itemsize)
        how = self._spec.compressor
        labels: Any = str if rows.target.dtype.kind in "UT" else rows.target.dtype
        create_array(
            self._group, "X", (0, self.n_features), (self._chunk, self.n_features), self._dtype, how
        )
        create_array(
            self._group, "y", (0,), (self._chunk,), labels, "none" if labels is str else how
        )
        if rows.weights is not None:
            create_array(self._group, "weights", (0,), (self._chunk,), np.float64, how)
        write_names(self._group, list(self._names or [f"f{j}" for j in range(self.n_features)]))

    def _shrink_chunks(self, rows: int) -> None:
        """Make the chunks of all arrays, of which none was written yet, no longer than the rows
        that there are: a few labels of text would take megabytes."""
        assert self._group is not None
        self._chunk = rows
        for name in ("X", "y", "weights"):
            if name in self._group:
                old = self._array(name)
                text = old.dtype.kind in "TUO"
                how = "none" if text else self._spec.compressor
                chunks = (rows, *old.chunks[1:])
                del self._group[name]
                create_array(self._group, name, old.shape, chunks, str if text else old.dtype, how)

    def _check_labels(self, table: Table, rows: Rows) -> None:
        stored = np.dtype(self._array("y").dtype)
        text = stored.kind in "TUO"
        if (rows.target.dtype.kind in "UT") != text or (
            not text and not np.can_cast(rows.target.dtype, stored, "safe")
        ):
            raise IngestError(
                f"{table.path}: labels are {rows.target.dtype} here and {stored} before; bring "
                "them to one type"
            )

    def _write(self, count: int) -> int:
        """Write the first ``count`` held rows, at most a chunk, and tell the journal."""
        taken: list[Rows] = []
        left = count
        while left:
            rows = self._buffered.pop(0)
            if len(rows.target) > left:
                self._buffered.insert(0, _cut(rows, left, None))
                rows = _cut(rows, 0, left)
            taken.append(rows)
            left -= len(rows.target)
        stop = self.rows + count
        self._put(
            "X",
            stop,
            np.concatenate([rows.features for rows in taken]).astype(self._dtype, copy=False),
        )
        self._put("y", stop, np.concatenate([rows.target for rows in taken]))
        if taken[0].weights is not None:
            self._put(
                "weights",
                stop,
                np.concatenate([rows.weights for rows in taken if rows.weights is not None]),
            )
        self._sync_chunk()
        self._buffered_rows -= count
        self.rows = stop
        self._write_journal()
        return count

    def _sync_chunk(self) -> None:
        """Flush the chunk that was just written: the journal must not call rows safe that a power
        cut could still take."""
        for name in ("X", "y", "weights"):
            folder = self._writer.partial / name
            if folder.is_dir():
                array = self._array(name)
                chunk = folder / array.metadata.encode_chunk_key(
                    (self.rows // self._chunk,) + (0,) * (array.ndim - 1)
                )
                sync_path(chunk)
                while chunk != folder:
                    chunk = chunk.parent
                    sync_path(chunk)
                sync_path(folder / "zarr.json")

    def _put(self, name: str, stop: int, values: NDArray[Any]) -> None:
        array = self._array(name)
        with writing(self._writer.partial / name):
            array.resize((stop, *array.shape[1:]))
            array[self.rows : stop] = values if values.dtype.kind != "U" else values.astype(object)

    def _array(self, name: str) -> zarr.Array[Any]:
        assert self._group is not None
        array = self._group[name]
        assert isinstance(array, zarr.Array)
        return array.with_config(
            {"write_empty_chunks": True}
        )  # an option of the open array, not of the stored one

    def _write_journal(self) -> None:
        journal = self._writer.partial / _JOURNAL
        text = json.dumps({**self._identity, "rows": self.rows, "chunk_rows": self._chunk})
        commit_file(journal, lambda file: file.write(text.encode("utf-8")))

    def _rows_of_earlier_attempt(self) -> int:
        """Whole chunks that an earlier attempt with the same sources and options has written."""
        try:
            journal = json.loads((self._writer.partial / _JOURNAL).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return 0
        if {key: journal.get(key) for key in self._identity} != self._identity:
            return 0
        rows, chunk = int(journal["rows"]), int(journal["chunk_rows"])
        return rows - rows % chunk


def _cut(rows: Rows, start: int, stop: int | None) -> Rows:
    here = slice(start, stop)
    return Rows(
        rows.first_row + start,
        rows.features[here],
        rows.target[here],
        None if rows.weights is None else rows.weights[here],
    )
