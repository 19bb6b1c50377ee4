"""The kinds of data, of which each says whether it takes what is given and then opens it.

Of a store that is the address in ``data.store``, and what it is opened as is a whole `Source`. Of
``X`` it is the object that was given, and what it is opened as are the `Rows` of the features; what
stands beside them is given beside them. Kinds from outside the package are asked first.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import zarr
from numpy.typing import NDArray

from streamlr.config.sections import DataConfig
from streamlr.data.conventions.marks import FillValue
from streamlr.data.source import Rows, Source
from streamlr.data.sources.adapters import plain, refuse_no_array
from streamlr.data.sources.dask_rows import DaskArray, DaskFrame, DaskRows
from streamlr.data.sources.sparse_rows import (
    SparseMatrix,
    SparseRows,
    StoredMatrix,
    StoredSparseRows,
)
from streamlr.data.sources.store import ZarrSource
from streamlr.data.sources.zarr_rows import ZarrRows

_OPENED = SparseRows | ZarrRows | DaskRows | StoredSparseRows


class OpenStore(Protocol):
    """Opens a store."""

    def __call__(
        self, config: DataConfig, *, labelled: bool = True, listed: str | None = None
    ) -> Source:
        """Open the store of a configuration.

        Parameters
        ----------
        config
            Where it is, and how it names its arrays.
        labelled
            Whether labels and weights are wanted; a store to predict from need not have any.
        listed
            Name of an array that lists the rows which are held out, which is read in the place of
            groups.
        """
        ...


@dataclass(frozen=True, slots=True)
class StoreKind:
    """A kind of store."""

    name: str
    takes: Callable[[DataConfig], bool]
    """Whether ``data.store`` is the address of such a one."""
    open: OpenStore


@dataclass(frozen=True, slots=True)
class RowsKind:
    """A kind of object that features may be given as."""

    name: str
    takes: Callable[[Any], bool]
    """Whether an object is one."""
    open: Callable[[Any, FillValue], NDArray[Any] | Rows]
    """What the features are read from, (m, n); told what fill values of Zarr 2 stand for."""
    elsewhere: bool = True
    """Whether the rows stay where they are, and are not in memory."""


_STORES = (StoreKind("zarr", lambda config: True, ZarrSource),)
_ROWS = (
    RowsKind("rows", lambda X: isinstance(X, _OPENED), lambda X, _: X, elsewhere=False),
    RowsKind(
        "zarr array",
        lambda X: isinstance(X, zarr.Array),
        lambda X, fill: ZarrRows(X, fill_value=fill),
    ),
    RowsKind(
        "stored sparse matrix",
        lambda X: isinstance(X, StoredMatrix),
        lambda X, _: StoredSparseRows.of(X),
    ),
    RowsKind(
        "dask frame",
        lambda X: isinstance(X, DaskFrame) and X.ndim == 2,
        lambda X, _: DaskRows.of_frame(X),
    ),
    RowsKind(
        "dask array",
        lambda X: isinstance(X, DaskArray) and not isinstance(X, DaskFrame),
        lambda X, _: DaskRows.of_array(X),
    ),
    RowsKind(
        "sparse matrix",
        lambda X: isinstance(X, SparseMatrix),
        lambda X, _: SparseRows(X.tocsr()),
        elsewhere=False,
    ),
    RowsKind("in memory", lambda X: True, lambda X, _: plain(X, "X"), elsewhere=False),
)
_stores_from_outside: dict[str, StoreKind] = {}
_rows_from_outside: dict[str, RowsKind] = {}


def register_store(kind: StoreKind) -> None:
    """Take in a kind of store from outside the package; of the same name the later one counts."""
    _stores_from_outside[kind.name] = kind


def register_rows(kind: RowsKind) -> None:
    """Take in a kind of features from outside; of the same name the later one counts."""
    _rows_from_outside[kind.name] = kind


def open_source(config: DataConfig, *, labelled: bool = True, listed: str | None = None) -> Source:
    """Open ``data.store`` as whatever kind of store it is (see `OpenStore`)."""
    kinds = (*_stores_from_outside.values(), *_STORES)
    kind = next(kind for kind in kinds if kind.takes(config))
    return kind.open(config, labelled=labelled, listed=listed)


def is_from_outside(X: Any) -> bool:
    """Whether features are of a kind from outside the package."""
    return any(kind.takes(X) for kind in _rows_from_outside.values())


def stored_rows(X: Any) -> Rows | None:
    """Rows of what stays where it is, such as a Zarr or a Dask array; None for anything else.

    Those of Dask need not be counted yet.

    Raises
    ------
    DtypeError
        For what cannot be read by rows of numbers.
    """
    kind = _kind_of(X)
    rows: Any = kind.open(X, None) if kind.elsewhere else None
    return rows


def rows_of(X: Any, fill_value: FillValue = None) -> NDArray[Any] | Rows:
    """What features are read from: a plain array, or rows that are not one; those of Dask are
    counted where need be.

    Of a Zarr array ``fill_value`` says what its fill value stands for.
    """
    rows = _kind_of(X).open(X, fill_value)
    return rows.counted() if isinstance(rows, DaskRows) and len(rows.shape) == 2 else rows


def _kind_of(X: Any) -> RowsKind:
    for kind in _rows_from_outside.values():
        if kind.takes(X):
            return kind
    refuse_no_array(X)
    return next(kind for kind in _ROWS if kind.takes(X))
