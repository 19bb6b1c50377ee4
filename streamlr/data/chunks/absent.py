"""A store on which an absent chunk is an error."""

from __future__ import annotations

from typing import Any

import zarr
from zarr.abc.store import ByteRequest, Store
from zarr.core.buffer import Buffer, BufferPrototype
from zarr.storage import WrapperStore

from streamlr.data.chunks.files import MissingChunkError

_METADATA_NAMES = ("zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata")


def is_metadata(key: str) -> bool:
    """Whether a key of a store is that of metadata, and not of a chunk."""
    return key.rpartition("/")[2] in _METADATA_NAMES


class RefuseMissing(WrapperStore[Store]):
    """A store that fails on an absent chunk, where Zarr would hand back the fill value in
    silence."""

    @property
    def wrapped(self) -> Store:
        return self._store

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> Buffer | None:
        value = await super().get(key, prototype, byte_range)
        if value is None and not is_metadata(key):
            raise MissingChunkError(key)
        return value


def wrapped_store(array: zarr.Array[Any]) -> Store:
    """The store of an array, without what refuses absent chunks."""
    return array.store.wrapped if isinstance(array.store, RefuseMissing) else array.store
