"""Codes that `ingest` writes beside labels of text, so that no pass has to decode text.

``y`` stays an array of text, for everybody, and is what counts. Beside it ``y_codes`` holds the
same as a categorical column of AnnData, and of every chunk of ``y`` the size and the checksum that
its codes were made from. Where the file of a chunk still has both the codes are taken; where it
has not, since somebody changed the labels or a disk did, the text is decoded as it would be
without them.
"""

from __future__ import annotations

import struct
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from streamlr.data.chunks.absent import wrapped_store
from streamlr.data.chunks.decoding import crc32c
from streamlr.data.chunks.stored_array import StoredArray
from streamlr.data.conventions.texts import Coded
from streamlr.data.source import Buffer
from streamlr.data.writing import Compressor, create_array, put

CODES = "codes"
"""The attribute of an array of text that names its codes."""
_MARKS = "text_marks"
_CRC_BYTES = 4
_CODES_KIND = np.dtype(np.int16)
_MOST_TEXTS = np.iinfo(_CODES_KIND).max
_CATEGORICAL = {"encoding-type": "categorical", "encoding-version": "0.2.0", "ordered": False}
_ARRAY = {"encoding-type": "array", "encoding-version": "0.2.0"}
_TEXTS = {"encoding-type": "string-array", "encoding-version": "0.2.0"}


class CodedText:
    """The codes of an array of text in local files.

    Parameters
    ----------
    text
        The array of text.
    codes
        What reads its codes.
    categories
        The texts that they stand for, (k,).
    marks
        What `_mark` made of each chunk file of the text that the codes were made from.
    """

    def __init__(
        self,
        text: zarr.Array[Any],
        codes: StoredArray,
        categories: NDArray[np.str_],
        marks: NDArray[np.uint64],
    ) -> None:
        self._text = text
        self._codes = codes
        self._categories = categories
        self._marks = marks

    def labels(self, chunk: int) -> NDArray[np.str_] | None:
        """The labels of a chunk; None where its text is not what the codes were made from."""
        if _mark(self._text, chunk) != int(self._marks[chunk]):
            return None
        start = chunk * self._codes.chunk_rows
        stop = min(start + self._codes.chunk_rows, self._codes.n_rows)
        codes = self._codes.read(start, stop, Buffer())
        if codes.min() < 0 or codes.max() >= len(self._categories):
            return None
        found = np.flatnonzero(np.bincount(codes, minlength=len(self._categories)))
        place = np.zeros(len(self._categories), dtype=np.intp)
        place[found] = np.arange(len(found))
        # as wide as the longest of this chunk, which is what decoding it would give
        texts = np.array(self._categories[found].tolist(), dtype=np.str_)
        return Coded(texts, place[codes]).labels


def codes_of(
    text: zarr.Array[Any],
    path: str,
    find: Callable[[str], Any],
    stored: Callable[[zarr.Array[Any]], StoredArray],
) -> CodedText | None:
    """The codes of an array of text; None where it has none that go with it.

    Parameters
    ----------
    text
        The array.
    path
        Where it stands.
    find
        What stands at another path, if anything does.
    stored
        What reads an array.
    """
    reported = text.attrs.get(CODES)
    if not isinstance(reported, str) or not isinstance(wrapped_store(text), LocalStore):
        return None
    beside = f"{path.strip('/').rpartition('/')[0]}/{reported}".lstrip("/")
    names = ("codes", "categories", _MARKS)
    codes, categories, marks = (find(f"{beside}/{name}") for name in names)
    if not all(isinstance(part, zarr.Array) for part in (codes, categories, marks)):
        return None
    kinds = codes.dtype == _CODES_KIND and marks.dtype == np.dtype(np.uint64)
    alike = codes.shape == text.shape and codes.chunks == text.chunks
    if not kinds or not alike or marks.shape != (text.nchunks,) or codes.shards or text.shards:
        return None
    texts, known = (_read_all(stored(part)) for part in (categories, marks))
    return CodedText(text, stored(codes), texts, known)


def _read_all(array: StoredArray) -> NDArray[Any]:
    return array.read(0, array.n_rows, Buffer())


def write_codes(group: zarr.Group, name: str, compressor: Compressor) -> None:
    """Write the codes of an array of text that was just written whole, unless it is of too many
    texts to be classes.

    Parameters
    ----------
    group
        The group that holds it, in local files.
    name
        Its name.
    compressor
        How the codes are to be compressed.
    """
    text = group[name]
    assert isinstance(text, zarr.Array)
    index: defaultdict[str, int] = defaultdict()
    index.default_factory = index.__len__
    beside = group.create_group(f"{name}_{CODES}", overwrite=True, attributes=_CATEGORICAL)
    codes = create_array(beside, "codes", text.shape, text.chunks, _CODES_KIND, compressor)
    marks = np.zeros(text.nchunks, dtype=np.uint64)
    for chunk in range(text.nchunks):
        rows = slice(chunk * text.chunks[0], min((chunk + 1) * text.chunks[0], text.shape[0]))
        coded = Coded.of(np.asarray(text[rows]))
        known = np.array([index[label] for label in coded.texts.tolist()], dtype=np.int64)
        if len(index) > _MOST_TEXTS:
            del group[beside.basename]
            return
        put(beside, codes, rows, known[coded.codes].astype(_CODES_KIND))
        marks[chunk] = _mark(text, chunk)
    codes.attrs.update(_ARRAY)
    _write_list(beside, "categories", np.array(list(index), dtype=object), str, _TEXTS)
    _write_list(beside, _MARKS, marks, np.uint64, _ARRAY)
    text.attrs[CODES] = beside.basename


def _write_list(
    group: zarr.Group, name: str, values: NDArray[Any], kind: Any, attributes: dict[str, str]
) -> None:
    array = create_array(group, name, values.shape, values.shape, kind, "none")
    put(group, array, ..., values)
    array.attrs.update(attributes)


def _mark(text: zarr.Array[Any], chunk: int) -> int:
    """Size and checksum of the file of a chunk of text, in one number; 0 for one that is not as it
    was written.

    The checksum is that of what stands before it in the file: over both it would be the same for
    every chunk.
    """
    store = wrapped_store(text)
    assert isinstance(store, LocalStore)
    path = Path(store.root, text.path, text.metadata.encode_chunk_key((chunk,)))
    try:
        content = path.read_bytes()
    except OSError:
        return 0  # the reading of the text tells
    (stated,) = struct.unpack("<I", content[-_CRC_BYTES:].rjust(_CRC_BYTES, b"\0"))
    found = crc32c(memoryview(content)[:-_CRC_BYTES])
    return len(content) << 32 | found if found == stated else 0
