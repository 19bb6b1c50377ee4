"""Large blocks of memory, taken from the operating system and given back to it.

The allocator behind NumPy keeps what is freed, in pieces that no other block may fit into; over a run with many blocks of
some MB that doubled the memory of the process. Pages of their own do not, and they can be large ones.
"""

from __future__ import annotations

import contextlib
import mmap

import numpy as np
from numpy.typing import NDArray

_OWN_PAGES_BYTES = 2**20


def page_memory(nbytes: int) -> NDArray[np.uint8]:
    """Uninitialised (in truth: zero) bytes, (nbytes,), given back when the last view of them is gone."""
    if nbytes < _OWN_PAGES_BYTES:
        return np.empty(nbytes, dtype=np.uint8)
    pages = mmap.mmap(-1, nbytes)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without large pages: small ones do
            pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, dtype=np.uint8)
