"""Large blocks of memory, taken from the operating system and given back to it.

The allocator behind NumPy keeps what is freed, in pieces that no other block may fit into: over the 8 GB of configs/big.yaml
the process grew by 280 MB that nothing held. Pages of their own go back when they are let go of. They are huge ones where the system
has them for those who ask: the first touch of 2 GB in blocks of 8 MB takes half the time (2.4 to 3.1 s with small pages, 1.2 to 1.8 s).
"""

from __future__ import annotations

import mmap

import numpy as np
from numpy.typing import NDArray

_OWN_PAGES_BYTES = 2**20


def page_memory(nbytes: int) -> NDArray[np.uint8]:
    """Bytes of no particular content, (nbytes,), given back when the last view of them is gone."""
    if nbytes < _OWN_PAGES_BYTES:
        return np.empty(nbytes, dtype=np.uint8)
    pages = mmap.mmap(-1, nbytes)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, dtype=np.uint8)
