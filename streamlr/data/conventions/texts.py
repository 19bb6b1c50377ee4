"""Labels of text as codes and a short list, which is how they are kept once they were decoded.

Zarr makes an object of every text, which takes longer than the arithmetic of a pass. So the codes
of a chunk stay in memory, a byte or two for each label, as far as there is room for them.
"""

from __future__ import annotations

import threading
from collections import defaultdict
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

KEPT_BYTES = 16 * 2**20
"""Codes that one array keeps in a process."""
_MOST_TEXTS = 2**16


def text_of(label: Any) -> str:
    """Text of a label or a name, which may be stored as bytes."""
    if isinstance(label, bytes):
        return label.decode("utf-8", errors="backslashreplace")
    return str(label)


def is_gap(value: Any) -> bool:
    """Whether an object equals nothing: None, NaN, or pandas' NA, whose comparisons are NA."""
    same = value == value  # which NaN does not
    return value is None or not (isinstance(same, bool | np.bool_) and same)


@dataclass(frozen=True, slots=True)
class Coded:
    """Some labels."""

    texts: NDArray[np.str_]
    """The distinct ones, (k,), as wide as the longest."""
    codes: NDArray[Any]
    """Which of them each label is, (m,)."""

    @classmethod
    def of(cls, labels: NDArray[Any]) -> Coded:
        """Of text, bytes or objects, (m,), which are told apart by their text."""
        found = labels.tolist()
        if labels.dtype.kind not in "TU":
            found = [text_of(label) for label in found]
        index: defaultdict[str, int] = defaultdict()
        index.default_factory = index.__len__
        codes = np.fromiter(map(index.__getitem__, found), dtype=np.int64, count=len(found))
        least = np.min_scalar_type(max(1, len(index)) - 1)
        return cls(np.array(list(index), dtype=np.str_), codes.astype(least))

    @property
    def labels(self) -> NDArray[np.str_]:
        """The labels, (m,)."""
        return self.texts[self.codes]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.texts.nbytes + self.codes.nbytes


class ChunkLabels(Protocol):
    """Where labels of whole chunks may be had without decoding text."""

    def labels(self, chunk: int) -> NDArray[np.str_] | None:
        """The labels of a chunk; None where its text has to be decoded."""
        ...


class KeptTexts:
    """Chunks of labels that were decoded before."""

    def __init__(self) -> None:
        self._chunks: dict[int, Coded] = {}
        self._nbytes = 0
        self._lock = threading.Lock()

    def labels(self, chunk: int) -> NDArray[np.str_] | None:
        """The labels of a chunk; None where they are not kept."""
        kept = self._chunks.get(chunk)
        return None if kept is None else kept.labels

    def keep(self, chunk: int, coded: Coded) -> None:
        """Keep a chunk, if it is of few labels and there is room."""
        if len(coded.texts) > _MOST_TEXTS:
            return
        with self._lock:
            if chunk not in self._chunks and self._nbytes + coded.nbytes <= KEPT_BYTES:
                self._chunks[chunk] = coded
                self._nbytes += coded.nbytes
