"""Features in sparse matrices, of which only the rows that are read are ever dense."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from streamlr.data.source import Buffer, Rows, rows_of_memory_chunk
from streamlr.errors import DtypeError


@runtime_checkable
class SparseMatrix(Protocol):
    """What SciPy's sparse matrices and arrays have in common."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    def tocsr(self) -> Any:
        """The same by rows; itself where it is so already."""
        ...

    def toarray(self, order: Any = None, out: Any = None) -> NDArray[Any]:
        """All of it, dense."""
        ...


@runtime_checkable
class StoredMatrix(Protocol):
    """What anndata's `sparse_dataset` gives: a sparse matrix that stays in its store."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    format: str
    backend: str

    def to_memory(self) -> Any:
        """The same as one of SciPy's."""
        ...

    def __getitem__(self, index: Any) -> Any: ...


@dataclass(frozen=True, slots=True)
class SparseRows:
    """A sparse matrix by rows, of which only what is read is ever dense."""

    matrix: Any
    """The matrix in the format CSR, (m, n)."""

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.matrix.shape)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.matrix.dtype)

    @property
    def chunk_rows(self) -> int:
        return rows_of_memory_chunk(self.shape[1] * self.dtype.itemsize)

    @property
    def stored_bytes(self) -> int | None:
        return 0

    @property
    def passing_bytes(self) -> int:
        return 0

    def part(self, start: int, stop: int) -> Rows:
        return SparseRows(self.matrix[start:stop])

    def read(self, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        out = buffer.array((stop - start, self.shape[1]), self.dtype)
        self.matrix[start:stop].toarray(out=out)
        return out


@dataclass(frozen=True, slots=True)
class StoredSparseRows:
    """Rows of a sparse matrix that stays in its Zarr store, from which they are read in every
    pass."""

    matrix: Any
    """The matrix as anndata has it, in the format CSR."""
    first_row: int
    stop_row: int

    @classmethod
    def of(cls, matrix: StoredMatrix) -> StoredSparseRows:
        """All rows of a matrix.

        Raises
        ------
        DtypeError
            For one that cannot be read by rows, or not by several threads and processes.
        """
        kind = f"X is a sparse_dataset of anndata's ({type(matrix).__name__})"
        remedy = "give X.to_memory() where it fits, or write it to a Zarr store in the format CSR"
        if matrix.backend != "zarr":
            raise DtypeError(
                f"{kind} in a file of {matrix.backend}, which threads and processes cannot read "
                "from "
                f"together; {remedy}"
            )
        if matrix.format != "csr":
            raise DtypeError(
                f"{kind} in the format {matrix.format}, of which every few rows would take a read "
                "of "
                f"the whole; {remedy}"
            )
        return cls(matrix, 0, matrix.shape[0])

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.stop_row - self.first_row, self.matrix.shape[1])

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(self.matrix.dtype)

    @property
    def chunk_rows(self) -> int:
        return rows_of_memory_chunk(self.shape[1] * self.dtype.itemsize)

    @property
    def stored_bytes(self) -> int | None:
        return None

    @property
    def passing_bytes(self) -> int:
        return 0

    def part(self, start: int, stop: int) -> Rows:
        return StoredSparseRows(self.matrix, self.first_row + start, self.first_row + stop)

    def read(self, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        out = buffer.array((stop - start, self.shape[1]), self.dtype)
        self.matrix[self.first_row + start : self.first_row + stop].toarray(out=out)
        return out
