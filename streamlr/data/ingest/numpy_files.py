"""Tables that are NumPy files: .npy, mapped, and .npz, unpacked as a stream."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from streamlr.data.ingest.cells import unlike_whole
from streamlr.data.ingest.columns import Columns
from streamlr.data.ingest.survey import Survey
from streamlr.data.ingest.table import BATCH_BYTES, Layout, Rows
from streamlr.data.source import check_feature_dtype
from streamlr.errors import IngestError, either

_TARGET = either("--target", "target")


def _split_columns(path: Path, width: int, columns: Columns) -> tuple[int | None, list[int]]:
    """Number of the labels' column (None: they are elsewhere), and those of the features."""
    if columns.features is not None or columns.drop or columns.weights is not None:
        raise IngestError(
            f"{path}: columns of an array have numbers, not names; "
            f"{either('--features, --drop and --weights', 'features, drop and weights')} are for "
            "CSV and Parquet"
        )
    try:
        target = int(columns.target)
    except ValueError:
        return None, list(range(width))
    if not -width <= target < width:
        raise IngestError(f"{path} has {width} columns; {_TARGET} {target} is none of them")
    return target % width, [at for at in range(width) if at != target % width]


def survey_arrays(tables: Sequence[NpyTable | NpzTable]) -> Survey:
    """What becomes of arrays, whose types say it; nothing is read.

    Raises
    ------
    IngestError
        When they differ in their width, or in whether their labels are text.
    """
    first = tables[0]
    for table in tables:
        if table.n_features != first.n_features:
            raise IngestError(
                f"{table.path} has {table.n_features} features and {first.path} has "
                f"{first.n_features}; bring them to the same columns"
            )
        if table.dtype.kind not in "biuf":
            check_feature_dtype(table.dtype, str(table.path))
        if table.label_dtype.kind not in "biufUS":
            raise IngestError(
                f"{table.paths[-1]}: the labels are {table.label_dtype}; they must be integers, "
                "bools, floats or text"
            )
        if (table.label_dtype.kind in "US") != (first.label_dtype.kind in "US"):
            raise IngestError(
                f"{table.path}: labels are {table.label_dtype} here and {first.label_dtype} "
                "before; bring them to one type"
            )
    dtype, target = (
        np.result_type(*dtypes)
        for dtypes in ([table.dtype for table in tables], [table.label_dtype for table in tables])
    )
    return Survey(
        Layout(None, first.n_features, dtype, target), tuple(table.n_rows for table in tables)
    )


def _as_labels(
    path: Path, labels: NDArray[Any], dtype: np.dtype[Any], first_row: int
) -> NDArray[Any]:
    """Labels, (k,), in the type of those of all tables, if that changes none."""
    if dtype.kind in "US":
        return labels
    stored = labels.astype(dtype, copy=False)
    bad = ~np.isfinite(stored) if dtype.kind == "f" else np.zeros(len(labels), dtype=bool)
    if bad.any():
        at = int(np.argmax(bad))
        raise IngestError(
            f"{path}: row {first_row + at} has no label, but {labels[at]}; drop such rows, then "
            "ingest again"
        )
    if (
        labels.dtype.kind in "iu"
        and dtype.kind == "f"
        and (bad := unlike_whole(labels, stored)).any()
    ):
        at = int(np.argmax(bad))
        raise IngestError(
            f"{path}: row {first_row + at} has the label {labels[at]}, a whole number that "
            f"{dtype} cannot hold exactly; bring the labels of "
            "all sources to one type"
        )
    return stored


class NpyTable:
    """A .npy file with a matrix; labels are one of its columns, or a .npy file of their own
    (``--target y.npy``)."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self.path = path
        self._columns = columns
        self._array = _mapped(path)
        if self._array.ndim != 2:
            raise IngestError(
                f"{path} has shape {self._array.shape}; expected a matrix of rows and features"
            )
        self._target, self._features = _split_columns(path, self._array.shape[1], columns)
        self._labels = None
        if self._target is None:
            self._labels = _mapped(Path(columns.target))
            if self._labels.shape != self._array.shape[:1]:
                raise IngestError(
                    f"{path} has {self._array.shape[0]} rows and {columns.target} has shape "
                    f"{self._labels.shape}; they must agree"
                )
        self.dtype = self._array.dtype
        self.label_dtype = self.dtype if self._labels is None else self._labels.dtype

    @property
    def n_rows(self) -> int:
        return len(self._array)

    @property
    def n_features(self) -> int:
        return len(self._features)

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,) if self._labels is None else (self.path, Path(self._columns.target))

    def batches(self, skip: int, layout: Layout) -> Iterator[Rows]:
        step = max(1, BATCH_BYTES // max(1, self._array.itemsize * self._array.shape[1]))
        for start in range(skip, len(self._array), step):
            block = np.asarray(self._array[start : start + step])
            labels = (
                block[:, self._target]
                if self._labels is None
                else np.asarray(self._labels[start : start + step])
            )
            features = block if self._labels is not None else block[:, self._features]
            yield Rows(
                start, features, _as_labels(self.paths[-1], labels, layout.target, start), None
            )


def _mapped(path: Path) -> NDArray[Any]:
    if not path.is_file():
        raise IngestError(
            f"no file at {str(path)!r}; {_TARGET} of a .npy file is the number of a column, or "
            "another .npy file"
        )
    try:
        return np.asanyarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, OSError, EOFError) as error:
        raise IngestError(f"{path} cannot be read as .npy: {error}") from error


class NpzTable:
    """A .npz file with a matrix and, under the name of ``--target``, its labels; unpacked as a
    stream."""

    def __init__(self, path: Path, columns: Columns) -> None:
        self.path = path
        if columns.drop or columns.weights is not None:
            raise IngestError(
                f"{path}: columns of an array have numbers, not names; "
                f"{either('--drop and --weights', 'drop and weights')} are for CSV and Parquet"
            )
        try:
            with zipfile.ZipFile(path) as archive:
                self._shapes = {
                    name.removesuffix(".npy"): self._header(archive, name)
                    for name in archive.namelist()
                    if name.endswith(".npy")
                }
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise IngestError(f"{path} cannot be read as .npz: {error}") from error
        matrices = [name for name, (shape, _) in self._shapes.items() if len(shape) == 2]
        self._name = (
            columns.features[0]
            if columns.features
            else (matrices[0] if len(matrices) == 1 else "X")
        )
        if self._name not in matrices or columns.target not in self._shapes:
            held = ", ".join(f"{name} {shape}" for name, (shape, _) in self._shapes.items())
            raise IngestError(
                f"{path} holds {held}; name the matrix with "
                f"{either('--features', 'features=')} (default X) and the labels with "
                f"{either('--target', 'target=')}"
            )
        self._target = columns.target
        (rows, _), self.dtype = self._shapes[self._name]
        if self._shapes[self._target][0] != (rows,):
            raise IngestError(
                f"{path}: {self._name} has {rows} rows and {self._target} has shape "
                f"{self._shapes[self._target][0]}; they must agree"
            )
        self.label_dtype = self._shapes[self._target][1]

    @property
    def n_rows(self) -> int:
        return self._shapes[self._name][0][0]

    @property
    def n_features(self) -> int:
        return self._shapes[self._name][0][1]

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    def batches(self, skip: int, layout: Layout) -> Iterator[Rows]:
        (rows, width), dtype = self._shapes[self._name]
        step = max(1, BATCH_BYTES // max(1, dtype.itemsize * width))
        with (
            zipfile.ZipFile(self.path) as archive,
            archive.open(self._name + ".npy") as X,
            archive.open(self._target + ".npy") as y,
        ):
            _read_header(X)
            _read_header(y)
            for start in range(0, rows, step):
                count = min(step, rows - start)
                block = _take(X, count * width, dtype, self.path).reshape(count, width)
                labels = _take(y, count, self.label_dtype, self.path)
                fresh = max(0, skip - start)
                if fresh < count:
                    yield Rows(
                        start + fresh,
                        block[fresh:],
                        _as_labels(self.path, labels[fresh:], layout.target, start + fresh),
                        None,
                    )

    def _header(self, archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        with archive.open(name) as file:
            shape, fortran, dtype = _read_header(file)
        if fortran and len(shape) > 1:
            raise IngestError(
                f"{self.path}: {name} is stored by columns (Fortran order), which cannot be "
                "streamed by rows; save a C-ordered copy, "
                "or the array alone as .npy"
            )
        if dtype.hasobject:
            raise IngestError(
                f"{self.path}: {name} holds Python objects, which would have to be unpickled; "
                "save numbers or fixed-width text"
            )
        return shape, dtype


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype


def _take(file: IO[bytes], count: int, dtype: np.dtype[Any], path: Path) -> NDArray[Any]:
    content = file.read(count * dtype.itemsize)
    if len(content) != count * dtype.itemsize:
        raise IngestError(
            f"{path} ends {count * dtype.itemsize - len(content)} bytes too early; fetch or write "
            "it again"
        )
    return np.frombuffer(content, dtype=dtype)
