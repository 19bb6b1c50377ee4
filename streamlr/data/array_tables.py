"""Tables that are NumPy files: .npy, mapped, and .npz, unpacked as a stream."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from streamlr.data.tables import BATCH_BYTES, Columns, Rows
from streamlr.errors import IngestError


def _split_columns(path: Path, width: int, columns: Columns) -> tuple[int | None, list[int]]:
    """Number of the labels' column (None: they are elsewhere), and those of the features."""
    if columns.features is not None or columns.drop or columns.weights is not None:
        raise IngestError(f"{path}: columns of an array have numbers, not names; --features, --drop and --weights are for CSV and Parquet")
    try:
        target = int(columns.target)
    except ValueError:
        return None, list(range(width))
    if not -width <= target < width:
        raise IngestError(f"{path} has {width} columns; --target {target} is none of them")
    return target % width, [at for at in range(width) if at != target % width]


class NpyTable:
    """A .npy file with a matrix; labels are one of its columns, or a .npy file of their own (``--target y.npy``)."""

    feature_names: tuple[str, ...] | None = None

    def __init__(self, path: Path, columns: Columns) -> None:
        self.path = path
        self._columns = columns
        self._array = _mapped(path)
        if self._array.ndim != 2:
            raise IngestError(f"{path} has shape {self._array.shape}; expected a matrix of rows and features")
        self._target, self._features = _split_columns(path, self._array.shape[1], columns)
        self._labels = None
        if self._target is None:
            self._labels = _mapped(Path(columns.target))
            if self._labels.shape != self._array.shape[:1]:
                raise IngestError(f"{path} has {self._array.shape[0]} rows and {columns.target} has shape {self._labels.shape}; they must agree")
        self.dtype = self._array.dtype

    @property
    def n_features(self) -> int:
        return len(self._features)

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,) if self._labels is None else (self.path, Path(self._columns.target))

    def batches(self, skip: int) -> Iterator[Rows]:
        step = max(1, BATCH_BYTES // max(1, self._array.itemsize * self._array.shape[1]))
        for start in range(skip, len(self._array), step):
            block = np.asarray(self._array[start : start + step])
            labels = block[:, self._target] if self._labels is None else np.asarray(self._labels[start : start + step])
            yield Rows(start, block if self._labels is not None else block[:, self._features], labels, None)


def _mapped(path: Path) -> NDArray[Any]:
    if not path.is_file():
        raise IngestError(f"no file at {str(path)!r}; --target of a .npy file is the number of a column, or another .npy file")
    try:
        return np.asanyarray(np.load(path, mmap_mode="r", allow_pickle=False))
    except (ValueError, OSError, EOFError) as error:
        raise IngestError(f"{path} cannot be read as .npy: {error}") from error


class NpzTable:
    """A .npz file with a matrix and, under the name of ``--target``, its labels; unpacked as a stream."""

    feature_names: tuple[str, ...] | None = None

    def __init__(self, path: Path, columns: Columns) -> None:
        self.path = path
        if columns.drop or columns.weights is not None:
            raise IngestError(f"{path}: columns of an array have numbers, not names; --drop and --weights are for CSV and Parquet")
        try:
            with zipfile.ZipFile(path) as archive:
                self._shapes = {name.removesuffix(".npy"): self._header(archive, name) for name in archive.namelist() if name.endswith(".npy")}
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise IngestError(f"{path} cannot be read as .npz: {error}") from error
        matrices = [name for name, (shape, _) in self._shapes.items() if len(shape) == 2]
        self._name = columns.features[0] if columns.features else (matrices[0] if len(matrices) == 1 else "X")
        if self._name not in matrices or columns.target not in self._shapes:
            held = ", ".join(f"{name} {shape}" for name, (shape, _) in self._shapes.items())
            raise IngestError(f"{path} holds {held}; name the matrix with --features (default X) and the labels with --target")
        self._target = columns.target
        (rows, _), self.dtype = self._shapes[self._name]
        if self._shapes[self._target][0] != (rows,):
            raise IngestError(f"{path}: {self._name} has {rows} rows and {self._target} has shape {self._shapes[self._target][0]}; they must agree")

    @property
    def n_features(self) -> int:
        return self._shapes[self._name][0][1]

    @property
    def paths(self) -> tuple[Path, ...]:
        return (self.path,)

    def batches(self, skip: int) -> Iterator[Rows]:
        (rows, width), dtype = self._shapes[self._name]
        label_dtype = self._shapes[self._target][1]
        step = max(1, BATCH_BYTES // max(1, dtype.itemsize * width))
        with zipfile.ZipFile(self.path) as archive, archive.open(self._name + ".npy") as X, archive.open(self._target + ".npy") as y:
            _read_header(X)
            _read_header(y)
            for start in range(0, rows, step):
                count = min(step, rows - start)
                block = _take(X, count * width, dtype, self.path).reshape(count, width)
                labels = _take(y, count, label_dtype, self.path)
                fresh = max(0, skip - start)
                if fresh < count:
                    yield Rows(start + fresh, block[fresh:], labels[fresh:], None)

    def _header(self, archive: zipfile.ZipFile, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        with archive.open(name) as file:
            shape, fortran, dtype = _read_header(file)
        if fortran and len(shape) > 1:
            raise IngestError(f"{self.path}: {name} is stored by columns (Fortran order), which cannot be streamed by rows; save a C-ordered copy, "
                              "or the array alone as .npy")
        if dtype.hasobject:
            raise IngestError(f"{self.path}: {name} holds Python objects, which would have to be unpickled; save numbers or fixed-width text")
        return shape, dtype


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(file)
    return shape, fortran, dtype


def _take(file: IO[bytes], count: int, dtype: np.dtype[Any], path: Path) -> NDArray[Any]:
    content = file.read(count * dtype.itemsize)
    if len(content) != count * dtype.itemsize:
        raise IngestError(f"{path} ends {count * dtype.itemsize - len(content)} bytes too early; fetch or write it again")
    return np.frombuffer(content, dtype=dtype)
