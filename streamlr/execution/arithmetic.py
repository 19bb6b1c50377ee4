"""With which arithmetic a process computes: the last bits of a sum are the same only where it is.

They depend on the kernels that OpenBLAS chooses for the processor, and on the loops that NumPy
chooses for it: ``exp`` of a processor with AVX-512 differs from that of one with AVX2. Names do not
tell enough, so the functions that the kernels use are tried on fixed numbers, and what comes out is
hashed.
"""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamlr.execution.engine import blas_core, one_blas_thread

_DIGITS = 16
_FEATURES, _OUTPUTS, _ROWS = 96, 3, 512
"""Large enough for the kernels that a leaf of real data meets, and a matter of a millisecond."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """What a process computes with."""

    digest: str
    """Of the results: two processes that share it give the same bits."""
    numpy: str
    """Version of NumPy."""
    blas: str
    """The library, its version and the kernel that it chose."""

    def __str__(self) -> str:
        return f"{self.digest} (NumPy {self.numpy}, {self.blas})"


@functools.cache
def arithmetic() -> Arithmetic:
    """Of this process; tried once."""
    found = hashlib.sha256()
    with one_blas_thread():
        for dtype in (np.float64, np.float32):
            for result in _results(np.dtype(dtype)):
                found.update(np.ascontiguousarray(result).tobytes())
    return Arithmetic(found.hexdigest()[:_DIGITS], np.__version__, blas_core())


def _numbers(count: int) -> NDArray[np.float64]:
    """Numbers in [0, 1) that look drawn, (count,): whole numbers scaled by a power of two, so that
    every machine has the same."""
    return (
        np.arange(1, count + 1, dtype=np.uint64) * np.uint64(2654435761) % np.uint64(2**32)
    ).astype(np.float64) / 2**32


def _results(dtype: np.dtype[np.floating]) -> list[NDArray[np.floating]]:
    """Of the functions and products that the kernels are made of, in one precision."""
    X = (
        (_numbers(_FEATURES * _ROWS).reshape(_ROWS, _FEATURES) - 0.5).astype(dtype).T
    )  # (n, k), as rows are read
    W = (_numbers(_FEATURES * _OUTPUTS).reshape(_FEATURES, _OUTPUTS) - 0.5).astype(dtype)
    one = W[:, :1]
    Z, z = W.T @ X, one.T @ X
    spread = 20 * Z  # into the range where exp and log1p take their several ways
    falling = np.exp(-np.abs(spread))
    A = falling / falling.sum(axis=0)
    scaled = X * A[0]
    return [
        Z,
        z,
        falling,
        np.log1p(falling),
        np.log(falling + 1),
        np.sqrt(falling),
        A,
        X @ A.T,
        X @ A[0],
        X @ z.T,
        scaled @ scaled.T,
        scaled @ X.T,
        X @ X.T,
        A.sum(axis=1),
        X.sum(axis=1),
        np.add.reduceat(A, [0, 5, 9], axis=1),
        np.einsum("ck,ck->k", A, Z),
    ]
