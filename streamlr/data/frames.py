"""Tables in memory whose columns have names: what these are, and some columns in another order."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from streamlr.data.conventions.coordinates import coordinate_texts
from streamlr.data.conventions.texts import text_of
from streamlr.data.matching import match_names
from streamlr.errors import DtypeError

_NAMED = 5


@runtime_checkable
class ArrowTable(Protocol):
    """What is used of pyarrow's tables and record batches."""

    column_names: Sequence[str]

    def select(self, columns: list[int]) -> Any:
        """Some of the columns."""
        ...


@runtime_checkable
class Frame(Protocol):
    """What frames of pandas, Polars, Dask and their kin have in common."""

    columns: Iterable[Any]
    dtypes: Any

    def __getitem__(self, labels: Any) -> Any: ...


@runtime_checkable
class PandasFrame(Frame, Protocol):
    """Those of them that are not taken apart by ``[:, columns]``: pandas' and Dask's."""

    iloc: Any


@runtime_checkable
class FrameInMemory(PandasFrame, Protocol):
    """Those of pandas alone."""

    def to_numpy(self, dtype: Any, *, na_value: Any) -> Any: ...


@runtime_checkable
class LabelledArray(Protocol):
    """What is used of xarray's DataArray."""

    dims: tuple[Any, ...]
    coords: Mapping[Any, Any]

    def __getitem__(self, index: Any) -> Any: ...


def column_names(X: object) -> tuple[str, ...] | None:
    """Names of the columns of a frame, or of the coordinate along the second axis of an array.

    None where there are none. Labels that are no text, such as numbers, become text: the column 3
    is called "3".
    """
    if isinstance(X, np.ndarray):
        return None
    if isinstance(X, ArrowTable):
        return tuple(X.column_names)
    if isinstance(X, Frame):
        return tuple(text_of(label) for label in X.columns)
    if isinstance(X, LabelledArray) and len(X.dims) == 2 and X.dims[1] in X.coords:
        return coordinate_texts(np.asarray(X.coords[X.dims[1]]), {})
    return None


def frame_numbers(frame: FrameInMemory) -> NDArray[np.float64]:
    """The numbers of a frame whose columns have no one type in NumPy, such as nullable ones, (m,
    n); missing ones are NaN.

    Raises
    ------
    DtypeError
        Names the columns that are no numbers.
    """
    kinds = [(text_of(name), kind) for name, kind in zip(frame.columns, frame.dtypes, strict=True)]
    others = [f"{name!r} ({kind})" for name, kind in kinds if kind.kind not in "biuf"]
    if others:
        raise DtypeError(
            f"X has {len(others)} of {len(kinds)} columns that are no numbers: "
            f"{', '.join(others[:_NAMED])}{', ...' * (len(others) > _NAMED)}; encode or drop them"
        )
    numbers: NDArray[np.float64] = frame.to_numpy(np.float64, na_value=np.nan)
    return numbers


def in_order_of(names: Sequence[str] | None, X: object, model: str) -> tuple[Any, tuple[str, ...]]:
    """The columns of a table with these names, in their order, and the names of the others.

    What has no names stays as it is, as does everything where no names are asked for.

    Parameters
    ----------
    names
        Of the features of a model.
    X
        Whatever is to be predicted from.
    model
        How messages name the model.

    Raises
    ------
    ShapeError
        For columns that are missing.
    """
    found = None if names is None else column_names(X)
    if names is None or found is None:
        return X, ()
    match = match_names(names, found, model, "X")
    return (X if match.in_place else _selected(X, match.columns)), match.extra


def _selected(X: Any, columns: NDArray[np.intp]) -> Any:
    if isinstance(X, ArrowTable):
        return X.select(columns.tolist())
    # by number, since labels may be what a frame takes for something else, such as True
    return X.iloc[:, columns.tolist()] if isinstance(X, PandasFrame) else X[:, columns.tolist()]
