"""Whether the files of an array are still those that a run began with.

A pass over data of which a part was written anew would mix two data sets in one sum, and no solver
could tell. So every chunk that is read is held against the newest one when the store was opened,
and against itself when it was read before; that takes a look at its entry in the file system, about
two microseconds. The metadata of the array are looked at with its first chunk.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from zarr.abc.store import Store
from zarr.storage import LocalStore, ZipStore

from streamlr.data.chunks.files import ChunkFiles, chunk_statuses

_MOST_CHUNKS = 2**22


class FileWatch:
    """The files of one array, and when they were written.

    Parameters
    ----------
    store
        Where the array is.
    array
        The opened array.
    files
        Its chunk files, where they are read without Zarr.
    """

    def __init__(self, store: Store, array: zarr.Array[Any], files: ChunkFiles | None) -> None:
        self.newest: int | None = None
        """When the newest file was written, in nanoseconds, as far as the run reckons with; None:
        nothing is refused."""
        self._array = array
        self._files = files
        self._zip = Path(store.path) if isinstance(store, ZipStore) else None
        self._root = Path(store.root, array.path) if isinstance(store, LocalStore) else None
        self._metadata = (
            None
            if self._root is None
            else self._root / ("zarr.json" if array.metadata.zarr_format == 3 else ".zarray")
        )
        self._mark: int | None = None
        self._stated: Any = None
        self._mark, self._stated = self._read_metadata()
        counts = [
            -(-size // max(1, part)) for size, part in zip(array.shape, array.chunks, strict=True)
        ]
        small = int(np.prod(counts, dtype=np.float64)) <= _MOST_CHUNKS
        self._seen = np.zeros(counts, dtype=np.int64) if small else None

    def modified(self) -> int | None:
        """When a file was last written, in nanoseconds; None where that is not known."""
        if self._zip is not None and self._zip.exists():
            return os.stat(self._zip).st_mtime_ns
        return (
            None
            if self._root is None
            else max((status.st_mtime_ns for status in chunk_statuses(self._root)), default=0)
        )

    def rewritten(self, index: tuple[int, ...]) -> str | None:
        """What tells that the file of a chunk has changed since the run began; None where nothing
        does."""
        path = self._path(index)
        if self.newest is None or path is None:
            return None
        try:
            status = os.stat(path)
        except OSError:
            return None  # the reading tells what is missing
        mark = status.st_mtime_ns ^ (status.st_size << 20)
        if status.st_mtime_ns > self.newest:
            return (
                f"file {path}, {(status.st_mtime_ns - self.newest) / 1e9:.3g} s after the "
                "newest one at the start"
            )
        if self._seen is not None:
            if self._seen[index] not in (0, mark):
                return f"file {path}, which had another size or time when it was read before"
            self._seen[index] = mark
        return None

    def metadata_changed(self) -> str | None:
        """What tells that the array's metadata are others now than when it was opened; None where
        nothing does. Attributes may change."""
        if self.newest is None or self._metadata is None:
            return None
        mark, stated = self._read_metadata()
        if stated != self._stated:
            return f"file {self._metadata}" + (", which is gone" if mark is None else "")
        self._mark = mark
        return None

    def _read_metadata(self) -> tuple[int | None, Any]:
        """A mark of the file, and what it states but for attributes; read only where the mark is
        another."""
        if self._metadata is None:
            return None, None
        try:
            status = os.stat(self._metadata)
            mark = status.st_mtime_ns ^ (status.st_size << 20)
            if mark == self._mark:
                return mark, self._stated
            stated = json.loads(self._metadata.read_bytes())
            return mark, {key: value for key, value in stated.items() if key != "attributes"}
        except OSError:
            return None, None
        except (ValueError, AttributeError, RecursionError):
            return 0, "no metadata"

    def _path(self, index: tuple[int, ...]) -> Path | None:
        if self._files is not None:
            return self._files.path_of(index)
        if self._root is None:
            return self._zip
        outer = self._array.shards or self._array.chunks
        key = self._array.metadata.encode_chunk_key(
            tuple(
                i * part // whole
                for i, part, whole in zip(index, self._array.chunks, outer, strict=True)
            )
        )
        return self._root / key
