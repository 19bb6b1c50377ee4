"""What an engine reads, and the simplest thing to read from: arrays in memory."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from streamlr.data.footprint import IN_MEMORY, Footprint
from streamlr.data.sources.group_keys import group_keys
from streamlr.errors import DtypeError, NonFiniteError, ShapeError
from streamlr.kernels.columns import Columns
from streamlr.kernels.gaps import Marks
from streamlr.kernels.memory import page_memory

_MEMORY_CHUNK_BYTES = 16 * 2**20
_COLUMN_BYTES = 32
"""Of a row in all columns, at most: eight bytes in each."""


class Source(ABC):
    """Rows of features, and what stands beside them.

    It travels to worker processes by pickle, so it is small. What has no default here is all that a
    new kind of data has to say.
    """

    @property
    @abstractmethod
    def n_rows(self) -> int:
        """m."""

    @property
    @abstractmethod
    def n_features(self) -> int:
        """n."""

    @property
    @abstractmethod
    def dtype(self) -> np.dtype[Any]:
        """Type of the features as stored."""

    @property
    @abstractmethod
    def chunk_rows(self) -> int:
        """Number of rows that are stored together."""

    @abstractmethod
    def read_features(self, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        """X, (n, stop - start), in the memory order of the data; valid until the buffer is used
        again."""

    @abstractmethod
    def read_columns(self, start: int, stop: int, *, labels: bool = True) -> Columns:
        """What stands beside the features of some rows; without ``labels`` the offset alone."""

    # what has a default ---------------------------------------------------------------------------

    @property
    def unit_rows(self) -> int:
        """Number of rows that are read together: a chunk, or a part of a large one where parts can
        be read alone. Follows from the store alone."""
        return self.chunk_rows

    @property
    def weighted(self) -> bool:
        """Whether there are sample weights."""
        return False

    @property
    def has_offset(self) -> bool:
        """Whether something is added to Z."""
        return False

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        """Names of the features, (n,)."""
        return None

    @property
    def marks(self) -> Marks | None:
        """Values of the features that stand for missing ones; None where none do."""
        return None

    @property
    def mask(self) -> Source | None:
        """What is true where a feature is missing, in the place of the features; None where there
        is no such array."""
        return None

    @property
    def stored_bytes(self) -> int | None:
        """Bytes that one pass reads from storage; None where that is not known."""
        return None

    @property
    def modified(self) -> str | None:
        """A text that changes when the data are written again; None where that is not known."""
        return None

    @property
    def resident(self) -> bool:
        """Whether its rows travel with it: then each worker gets its own part of them, and nothing
        is gained by keeping them once more."""
        return False

    def part(self, start: int, stop: int) -> Source:
        """The same source holding only some of its rows, which keep their numbers."""
        del start, stop
        return self

    def describe(self, what: str) -> str:
        """How messages name ``features``, ``target``, ``weights``, ``offset`` or ``groups``."""
        return what

    def footprint(self, rows: int) -> Footprint:
        """Memory that a thread takes to read so many rows of the features."""
        return Footprint(rows * self.n_features * self.dtype.itemsize, 0, 0)

    def label_footprint(self, rows: int) -> Footprint:
        """Memory that a thread takes to read so many rows of the columns."""
        return Footprint(_COLUMN_BYTES * rows, 0, 0)

    def open(self) -> None:
        """Make ready to be read, which is what may fail on another machine."""
        _ = self.n_rows


class ForwardingSource(Source):
    """A source that changes something about another one, ``source``, and forwards all else."""

    source: Source

    @property
    def n_rows(self) -> int:
        return self.source.n_rows

    @property
    def n_features(self) -> int:
        return self.source.n_features

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.source.dtype

    @property
    def chunk_rows(self) -> int:
        return self.source.chunk_rows

    def read_features(self, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        return self.source.read_features(start, stop, buffer)

    def read_columns(self, start: int, stop: int, *, labels: bool = True) -> Columns:
        return self.source.read_columns(start, stop, labels=labels)

    @property
    def unit_rows(self) -> int:
        return self.source.unit_rows

    @property
    def weighted(self) -> bool:
        return self.source.weighted

    @property
    def has_offset(self) -> bool:
        return self.source.has_offset

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        return self.source.feature_names

    @property
    def marks(self) -> Marks | None:
        return self.source.marks

    @property
    def mask(self) -> Source | None:
        return self.source.mask

    @property
    def stored_bytes(self) -> int | None:
        return self.source.stored_bytes

    @property
    def modified(self) -> str | None:
        return self.source.modified

    @property
    def resident(self) -> bool:
        return self.source.resident

    def describe(self, what: str) -> str:
        return self.source.describe(what)

    def footprint(self, rows: int) -> Footprint:
        return self.source.footprint(rows)

    def label_footprint(self, rows: int) -> Footprint:
        return self.source.label_footprint(rows)

    def open(self) -> None:
        self.source.open()


class Buffer:
    """Memory that one thread reuses for what it reads; grows to the largest block that was asked
    for."""

    def __init__(self) -> None:
        self._decoded = self._encoded = page_memory(0)

    def lend(self, to: Buffer) -> Buffer:
        """Let another buffer use this one's memory for stored bytes; what it decodes goes to pages
        of its own. Returns the other."""
        to._encoded = self._encoded
        return to

    def take_back(self, other: Buffer) -> None:
        """Keep what the other has grown to."""
        self._encoded = other._encoded

    def let_go(self) -> None:
        """Take other memory from now on for what is decoded: somebody may still write to this."""
        self._decoded = page_memory(0)

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """An uninitialised C-contiguous array for decoded values."""
        nbytes = int(np.prod(shape)) * dtype.itemsize
        if self._decoded.size < nbytes:
            self._decoded = page_memory(0)  # let go of the old pages before asking for new ones
            self._decoded = page_memory(nbytes)
        return self._decoded[:nbytes].view(dtype).reshape(shape)

    def encoded(self, nbytes: int) -> NDArray[np.uint8]:
        """Uninitialised bytes for a chunk as it is stored."""
        if self._encoded.size < nbytes:
            self._encoded = page_memory(0)
            self._encoded = page_memory(
                nbytes + nbytes // 8
            )  # chunks differ a little in what they compress to
        return self._encoded[:nbytes]


def refuse_bad_offset(
    offset: NDArray[np.float64], first_row: int, name: str
) -> NDArray[np.float64]:
    """The offset, (k,); a `NonFiniteError` names the first that is not finite."""
    good = np.isfinite(offset)
    if not good.all():
        at = int(np.argmin(good))
        raise NonFiniteError(
            f"{name} holds {np.count_nonzero(~good)} values that are not finite in the rows from "
            f"{first_row} on (first: {offset[at]} at "
            f"row {first_row + at}); drop or mend those rows"
        )
    return offset


def log_of_exposure(
    exposure: NDArray[np.float64], first_row: int, name: str
) -> NDArray[np.float64]:
    """The offset that an exposure, (k,), amounts to; a `NonFiniteError` names the first that has no
    logarithm."""
    good = np.isfinite(exposure) & (exposure > 0)
    if not good.all():
        at = int(np.argmin(good))
        raise NonFiniteError(
            f"{name} holds {np.count_nonzero(~good)} exposures that are not above 0 and finite in "
            f"the rows from {first_row} on (first: "
            f"{exposure[at]} at row {first_row + at}); drop or mend those rows"
        )
    logarithm: NDArray[np.float64] = np.log(exposure)
    return logarithm


def check_feature_dtype(dtype: np.dtype[Any], name: str) -> None:
    """Refuse what the store contract does not list."""
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise DtypeError(
            f"{name} has dtype {dtype}; features must be float16, float32, float64, an integer "
            "type or bool"
        )


class Rows(Protocol):
    """Features that are no plain array, read by rows (see `streamlr.data.sources.adapters`)."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    @property
    def chunk_rows(self) -> int:
        """Rows that are kept together."""
        ...

    @property
    def stored_bytes(self) -> int | None:
        """Bytes that one pass reads from storage; None where that is not known."""
        ...

    @property
    def passing_bytes(self) -> int:
        """Bytes that a read takes beside the rows, and lets go of."""
        ...

    def part(self, start: int, stop: int) -> Rows:
        """Some of the rows, not read yet."""
        ...

    def read(self, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        """Rows, (stop - start, n); valid until the buffer is used again."""
        ...


def rows_of_memory_chunk(row_bytes: int) -> int:
    """Rows to be taken together where nothing stores them so: a power of two that follows from the
    size of a row alone."""
    rows = 1
    while rows * 2 * row_bytes <= _MEMORY_CHUNK_BYTES:
        rows *= 2
    return rows


@dataclass(frozen=True)
class ArraySource(Source):
    """Arrays in memory, read through the same engines as a store."""

    X: NDArray[Any] | Rows
    """Features, (m, n)."""
    y: NDArray[Any]
    """Labels or numbers, (m,)."""
    sample_weight: NDArray[np.float64] | None = None
    """Sample weights, (m,)."""
    feature_names: tuple[str, ...] | None = None
    """Names of the features."""
    first_row: int = 0
    """Absolute number of the first row held, where this is a part of a larger source."""
    total_rows: int | None = None
    """Rows of the larger source."""
    offset: NDArray[np.float64] | None = None
    """What is added to Z, (m,)."""
    groups: NDArray[Any] | None = None
    """The group of each example, (m,), of any type that labels may have."""

    @classmethod
    def of(cls, X: NDArray[Any], columns: Columns) -> ArraySource:
        """Rows in memory, (m, n), and what stands beside them."""
        assert columns.target is not None
        return cls(X, columns.target, columns.weights, offset=columns.offset, groups=columns.groups)

    def __post_init__(self) -> None:
        if len(self.X.shape) != 2 or 0 in self.X.shape:
            raise ShapeError(
                f"X has shape {self.X.shape}; expected (rows, features), both at least 1"
            )
        if self.y.shape != (self.X.shape[0],):
            raise ShapeError(
                f"X has {self.X.shape[0]} rows and y has shape {self.y.shape}; expected "
                f"({self.X.shape[0]},)"
            )
        if self.sample_weight is not None and self.sample_weight.shape != self.y.shape:
            raise ShapeError(
                f"y has {len(self.y)} entries and sample_weight has shape "
                f"{self.sample_weight.shape}; they must agree"
            )
        if self.offset is not None and self.offset.shape != self.y.shape:
            raise ShapeError(
                f"y has {len(self.y)} entries and offset has shape {self.offset.shape}; they must "
                "agree"
            )
        if self.groups is not None and self.groups.shape != self.y.shape:
            raise ShapeError(
                f"y has {len(self.y)} entries and groups has shape {self.groups.shape}; they must "
                "agree"
            )
        check_feature_dtype(self.X.dtype, "X")

    @property
    def n_rows(self) -> int:
        return self.X.shape[0] if self.total_rows is None else self.total_rows

    @property
    def n_features(self) -> int:
        return self.X.shape[1]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.X.dtype

    @property
    def chunk_rows(self) -> int:
        return (
            rows_of_memory_chunk(self.n_features * self.dtype.itemsize)
            if isinstance(self.X, np.ndarray)
            else self.X.chunk_rows
        )

    @property
    def weighted(self) -> bool:
        return self.sample_weight is not None

    @property
    def has_offset(self) -> bool:
        return self.offset is not None

    @property
    def stored_bytes(self) -> int | None:
        return 0 if isinstance(self.X, np.ndarray) else self.X.stored_bytes

    @property
    def resident(self) -> bool:
        return True

    def describe(self, what: str) -> str:
        return {
            "features": "X",
            "target": "y",
            "weights": "sample_weight",
            "offset": "offset",
            "groups": "groups",
        }[what]

    def part(self, start: int, stop: int) -> ArraySource:
        """The same source holding only some of its rows, which keep their numbers."""
        here = slice(start - self.first_row, stop - self.first_row)
        weight = None if self.sample_weight is None else self.sample_weight[here]
        offset = None if self.offset is None else self.offset[here]
        groups = None if self.groups is None else self.groups[here]
        X = self.X[here] if isinstance(self.X, np.ndarray) else self.X.part(here.start, here.stop)
        return ArraySource(
            X, self.y[here], weight, self.feature_names, start, self.n_rows, offset, groups
        )

    def footprint(self, rows: int) -> Footprint:
        if isinstance(self.X, np.ndarray):
            return IN_MEMORY
        return Footprint(rows * self.n_features * self.dtype.itemsize, 0, self.X.passing_bytes)

    def label_footprint(self, rows: int) -> Footprint:
        del rows
        return IN_MEMORY

    def read_features(self, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        start, stop = start - self.first_row, stop - self.first_row
        return (
            self.X[start:stop].T
            if isinstance(self.X, np.ndarray)
            else self.X.read(start, stop, buffer).T
        )

    def read_columns(self, start: int, stop: int, *, labels: bool = True) -> Columns:
        here = slice(start - self.first_row, stop - self.first_row)
        offset = groups = None
        if self.offset is not None:
            offset = refuse_bad_offset(self.offset[here], start, "offset")
        if not labels:
            return Columns(offset=offset)
        if self.groups is not None:
            groups = group_keys(self.groups[here], start, "groups")
        weights = None if self.sample_weight is None else self.sample_weight[here]
        return Columns(self.y[here], weights, offset, groups)

    def open(self) -> None:
        _ = self.X.shape  # what was packed is opened
