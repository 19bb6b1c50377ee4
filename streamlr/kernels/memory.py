"""Large blocks of memory, taken from the operating system and given back to it.

The allocator behind NumPy keeps what is freed, in pieces that no other block may fit into: over the
8 GB of configs/big.yaml the process grew by 280 MB that nothing held. Pages of their own go back
when they are let go of. They are private ones: Python's default for an anonymous map is shared
memory, of which the first touch of 2 GB takes 1.2 s and the release 0.4 s, where private pages take
0.8 s and 0.2 s.
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
    return np.frombuffer(
        mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), dtype=np.uint8
    )
