"""Writing a store: whole chunks, each with a checksum, into a directory that gets its name when it
is complete."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import BloscCodec, Crc32cCodec
from zarr.storage import LocalStore

from streamlr.data.locks import FileLock, lock_output
from streamlr.data.records import commit_directory, local_store, writing
from streamlr.errors import ConfigError, option

Compressor = Literal["lz4", "zstd", "none"]
_CHUNK_BYTES = 8 * 2**20


def chunk_rows_for(n_features: int, itemsize: int) -> int:
    """Rows of a chunk of at most 8 MiB, a power of two: what measures best (scripts/codecs.py), and
    two of them fit the cache."""
    rows = 1
    while rows * 2 * n_features * itemsize <= _CHUNK_BYTES:
        rows *= 2
    return rows


def codecs_for(compressor: Compressor, itemsize: int) -> list[BytesBytesCodec]:
    """Compression (bit-shuffled, since neighbouring values share their leading bits) and a checksum
    over its bytes."""
    if compressor == "none":
        return [Crc32cCodec()]
    level = 5 if compressor == "lz4" else 3
    return [
        BloscCodec(cname=compressor, clevel=level, shuffle="bitshuffle", typesize=itemsize),
        Crc32cCodec(),
    ]


class StoreWriter:
    """A store in the making, in ``STORE.partial`` beside its final place; a context manager, which
    keeps other writers out.

    Parameters
    ----------
    path
        Where the store is to be.
    overwrite
        Whether a store that stands there is to be replaced, once the new one is complete.

    Raises
    ------
    ConfigError
        When something stands there and may not be replaced, or another writer is at it.
    WriteError
        When nothing can be written there.
    """

    def __init__(self, path: str | Path, *, overwrite: bool = False) -> None:
        self.path = Path(path)
        self._lock = claim(self.path, "the store", overwrite=overwrite)
        self.partial = self.path.with_name(self.path.name + ".partial")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self._lock.release()

    def start(self, attributes: Mapping[str, Any]) -> zarr.Group:
        """Drop what an earlier attempt left, and begin."""
        with writing(self.partial):
            shutil.rmtree(self.partial, ignore_errors=True)
            self.path.parent.mkdir(parents=True, exist_ok=True)
            return zarr.open_group(
                local_store(self.partial), mode="w", zarr_format=3, attributes=dict(attributes)
            )

    def reopen(self) -> zarr.Group:
        """Go on with what an earlier attempt left, but for what it had begun to write."""
        for left in self.partial.rglob("*.partial"):
            left.unlink()
        return zarr.open_group(local_store(self.partial), mode="r+", use_consolidated=False)

    def commit(self, *, leave_out: str | None = None) -> None:
        """The store is complete: give it its name, then drop the one file that was of use only
        while it was not."""
        with writing(self.path):
            commit_directory(self.partial, self.path)
            if leave_out is not None:
                (self.path / leave_out).unlink()


def claim(path: Path, what: str, *, overwrite: bool) -> FileLock:
    """The lock of whoever is to write at a path, where that may be.

    Raises
    ------
    ConfigError
        When something stands there and may not be replaced, or another is writing there.
    WriteError
        When nothing can be written there.
    """
    with writing(path):
        _refuse_standing(path, overwrite=overwrite)
        lock = lock_output(path, what)
        try:
            _refuse_standing(
                path, overwrite=overwrite
            )  # which another writer may have made meanwhile
        except BaseException:
            lock.release()
            raise
        return lock


def _refuse_standing(path: Path, *, overwrite: bool) -> None:
    if path.name in ("", ".."):
        raise ConfigError(f"{str(path)!r} is no name for what is to be written; choose one")
    if path.exists() and not overwrite:
        raise ConfigError(
            f"{str(path)!r} exists already; choose another name, or add {option('overwrite')} to "
            "replace it"
        )


def create_array(
    group: zarr.Group,
    name: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: Any,
    compressor: Compressor,
) -> zarr.Array[Any]:
    """An array whose every chunk is written, also where it holds nothing but zeros, and carries a
    checksum."""
    itemsize = 1 if dtype is str else np.dtype(dtype).itemsize
    with writing(path_of(group) / name):
        return group.create_array(
            name,
            shape=shape,
            chunks=chunks,
            dtype=dtype,
            compressors=codecs_for(compressor, itemsize),
            config={"write_empty_chunks": True},
        )


def path_of(group: zarr.Group) -> Path:
    """Directory of a group in local files."""
    assert isinstance(group.store, LocalStore)
    return Path(group.store.root, group.path)


def write_names(group: zarr.Group, names: list[str]) -> None:
    """The array ``feature_names``."""
    array = create_array(group, "feature_names", (len(names),), (max(1, len(names)),), str, "none")
    put(group, array, slice(None), np.array(names, dtype=object))


def put(group: zarr.Group, array: zarr.Array[Any], where: Any, values: NDArray[Any]) -> None:
    """Write values; where there is no room for them, the error names the array."""
    with writing(path_of(group) / array.basename):
        array[where] = values
