"""Features that people bring as other things than plain arrays, read by rows: sparse matrices, Zarr
arrays, Dask arrays and frames."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import zarr
from numpy.typing import NDArray

from streamlr.data.conventions.columns import PARTS, encoding_of, is_column
from streamlr.data.conventions.marks import FillValue, marks_of_given
from streamlr.data.conventions.texts import is_gap
from streamlr.data.frames import FrameInMemory, frame_numbers
from streamlr.data.source import Buffer, Rows, rows_of_memory_chunk
from streamlr.data.sources.dask_rows import DaskArray, DaskFrame, DaskRows
from streamlr.data.sources.sparse_rows import (
    SparseMatrix,
    SparseRows,
    StoredMatrix,
    StoredSparseRows,
)
from streamlr.data.sources.zarr_rows import ZarrRows
from streamlr.errors import DtypeError, LabelError


@runtime_checkable
class AnnotatedMatrix(Protocol):
    """What tells anndata's AnnData from other things."""

    X: Any
    obs: Any
    var: Any
    layers: Any


@runtime_checkable
class LazyTable(Protocol):
    """What tells Polars' LazyFrame from other things."""

    def collect(self) -> Any: ...

    def collect_schema(self) -> Any: ...


Elsewhere = ZarrRows | DaskRows | StoredSparseRows
"""Rows that are not in memory."""


def refuse_no_array(X: Any) -> None:
    """Refuse what people bring in the place of features that holds them, or says where they are.

    Raises
    ------
    DtypeError
        With what to give.
    """
    if isinstance(X, str | Path):
        raise DtypeError(
            f"X is the text {str(X)!r:.80}, and features are an array; the path of a store goes "
            "into data.store, without X and y"
        )
    if isinstance(X, np.ndarray):
        return
    if isinstance(X, LazyTable):
        raise DtypeError(f"X is a {type(X).__name__}, which holds no rows yet; give X.collect()")
    if isinstance(X, AnnotatedMatrix):
        raise DtypeError(
            f"X is an {type(X).__name__}, of which features are one matrix; give that, X=adata.X "
            "or a layer (X=adata.to_df() "
            "has the names too), or in the place of X and y its Zarr store: data.store, and "
            "data.target: obs/COLUMN"
        )


def stored_rows(X: Any) -> Elsewhere | None:
    """The rows of what stays where it is, such as a Zarr array or a Dask array or frame; None for
    anything else.

    Raises
    ------
    DtypeError
        For what cannot be read by rows of numbers.
    """
    if isinstance(X, zarr.Array):
        return ZarrRows(X)
    if isinstance(X, zarr.Group):
        raise DtypeError(
            f"X is the Zarr group {X.name!r}, and features are an array; give one of those in it, "
            "or of a sparse "
            "matrix that anndata has written anndata.io.sparse_dataset(X)"
        )
    refuse_no_array(X)
    if isinstance(X, StoredMatrix):
        return StoredSparseRows.of(X)
    if isinstance(X, DaskFrame):
        return DaskRows.of_frame(X) if X.ndim == 2 else None
    return DaskRows.of_array(X) if isinstance(X, DaskArray) else None


def rows_of(X: Any, fill_value: FillValue = None) -> NDArray[Any] | Rows:
    """What features are read from: a plain array, or rows that are not one; those of Dask are
    counted where need be.

    Of a Zarr array ``fill_value`` says what its fill value stands for.
    """
    if isinstance(X, zarr.Array):
        return ZarrRows(X, fill_value=fill_value)
    rows = X if isinstance(X, SparseRows | Elsewhere) else stored_rows(X)
    if rows is None:
        return SparseRows(X.tocsr()) if isinstance(X, SparseMatrix) else plain(X, "X")
    return rows.counted() if isinstance(rows, DaskRows) and len(rows.shape) == 2 else rows


def plain(given: Any, name: str) -> NDArray[Any]:
    """What NumPy makes of something in memory.

    Raises
    ------
    DtypeError
        Where that is nothing.
    """
    refuse_no_array(given)
    try:
        values = np.asarray(given)
    except (TypeError, ValueError) as error:
        raise DtypeError(
            f"{name} is a {type(given).__name__}, of which NumPy makes no array ({error}); give "
            "an array of numbers"
        ) from error
    return (
        frame_numbers(given)
        if values.dtype.kind == "O" and isinstance(given, FrameInMemory)
        else values
    )


def numbers_of(given: Any, name: str, fill_value: FillValue = None) -> NDArray[np.float64]:
    """Weights or an offset as numbers.

    Raises
    ------
    DtypeError
        Where they are none.
    """
    values = plain(in_memory(given, name, fill_value), name)
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DtypeError(
            f"{name} has the type {values.dtype}, and must be numbers ({error})"
        ) from error


def in_memory(given: Any, name: str, fill_value: FillValue = None) -> Any:
    """What Zarr or Dask hold elsewhere, such as labels, (m,), brought here; anything else as it is.

    Raises
    ------
    MissingValueError
        For missing values in a Zarr array, with their number and the first.
    """
    if isinstance(given, DaskArray | DaskFrame):
        return np.asarray(given)
    if isinstance(given, zarr.Group):
        how = (
            "its values, anndata.io.read_elem(GROUP)" if is_column(given) else "one of those in it"
        )
        raise DtypeError(
            f"{name} is the Zarr group {given.name!r}, and one array is wanted; give {how}"
        )
    if not isinstance(given, zarr.Array):
        return given
    _refuse_part_of_column(given, name)
    values, marks = np.asarray(given[...]), marks_of_given(given, name, fill_value)
    if marks is not None and values.ndim in (1, 2) and marks.where(values).any():
        gaps = marks.gaps(np.atleast_2d(values.T), 0)
        raise marks.refusal(gaps, given.chunks[0], of_features=values.ndim == 2)
    return values


def _refuse_part_of_column(given: zarr.Array[Any], name: str) -> None:
    """Codes without their categories, or values without their mask, are no labels."""
    above, _, part = given.path.rpartition("/")
    if part not in PARTS or not above:
        return
    try:
        parent = zarr.open_group(
            given.store, path=above, mode="r", zarr_format=given.metadata.zarr_format
        )
    except FileNotFoundError:
        return
    if is_column(parent):
        raise DtypeError(
            f"{name} is the part {part!r} of the column {above!r} ({encoding_of(parent)}), and "
            "means nothing without the others; "
            "give the values of the column, anndata.io.read_elem(GROUP)"
        )


def labels_of(y: Any, fill_value: FillValue = None) -> NDArray[Any]:
    """Labels of a type that sorts and travels: Python objects become text or numbers.

    Raises
    ------
    LabelError
        When one of them is None, NaN or pandas' NA among objects.
    DtypeError
        When they are neither numbers nor text.
    """
    labels = without_gaps(in_memory(y, "y", fill_value))
    if labels.dtype.kind in "Mm":
        raise _unusable(labels.dtype)
    if labels.dtype.kind not in "OT":
        return labels
    values = labels.tolist()
    try:
        plain = np.array(values)
        return plain if plain.dtype.kind != "O" else plain.astype(np.float64)  # decimals, fractions
    except (TypeError, ValueError) as error:
        raise _unusable(f"objects of the type {type(values[0]).__name__}") from error


def _unusable(what: object) -> DtypeError:
    return DtypeError(f"y holds {what}; labels must be integers, bools, floats or text")


def without_gaps(y: Any) -> NDArray[Any]:
    """Labels as NumPy has them, none of which is missing; else ``nan`` would be a class.

    Raises
    ------
    LabelError
        When objects or texts among them stand for no label; with their number, and the first.
    """
    labels = np.asarray(y)
    if labels.dtype.kind == "U" and isinstance(y, list | tuple):
        labels = np.asarray(y, dtype=object)  # NumPy has made text of a NaN among texts
    if labels.dtype.kind not in "OT":
        return labels
    values = labels.ravel().tolist()
    gaps = [row for row, value in enumerate(values) if is_gap(value)]
    if gaps:
        raise LabelError(
            f"y holds {len(gaps)} missing label{'s' * (len(gaps) > 1)} (first: {values[gaps[0]]} "
            "at "
            f"row {gaps[0]}); drop or label those rows"
        )
    return labels


def read_all_by_blocks(
    X: NDArray[Any] | Rows, function: Callable[[NDArray[Any]], NDArray[Any]]
) -> NDArray[Any]:
    """What a function makes of every row, (m,) or (m, c), from blocks of rows, of which one at a
    time is in memory."""
    m, step = X.shape[0], rows_of_memory_chunk(max(1, X.shape[1]) * 8)
    if isinstance(X, np.ndarray):
        return np.concatenate([function(X[start : start + step]) for start in range(0, m, step)])
    buffer, step = Buffer(), max(1, step // X.chunk_rows) * X.chunk_rows
    return np.concatenate(
        [function(X.read(start, min(start + step, m), buffer)) for start in range(0, m, step)]
    )
