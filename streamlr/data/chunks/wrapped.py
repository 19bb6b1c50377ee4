"""Stores that lie elsewhere, as Zarr sees them."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Coroutine, Iterable
from typing import Any, TypeVar

import zarr
from zarr.abc.store import ByteRequest, RangeByteRequest, Store, SuffixByteRequest
from zarr.core.buffer import Buffer as ZarrBuffer
from zarr.core.buffer import BufferPrototype, default_buffer_prototype
from zarr.core.sync import sync
from zarr.storage import LocalStore, MemoryStore, WrapperStore, ZipStore

from streamlr.data.chunks.absent import is_metadata
from streamlr.data.chunks.decoding import DamagedChunkError
from streamlr.data.chunks.failures import Failure, RequestError, failure_of
from streamlr.data.chunks.files import ShardIndex, ShardLayout, read_shard_index
from streamlr.data.chunks.retries import limited

T = TypeVar("T")
log = logging.getLogger(__name__)


class FarStore(WrapperStore[Store]):
    """A store elsewhere, in which every request has a time-out and errors say for which key.

    Metadata that may not be read count as absent, since that is what servers say of all that is not
    there to those who may not list it; what was said last is kept for the case that nothing else
    explains what is missing.
    """

    def __init__(self, store: Store) -> None:
        super().__init__(store)
        self.refusal: Exception | None = None

    @property
    def wrapped(self) -> Store:
        return self._store

    async def get(
        self, key: str, prototype: BufferPrototype, byte_range: ByteRequest | None = None
    ) -> ZarrBuffer | None:
        try:
            return await limited(super().get(key, prototype, byte_range))
        except Exception as error:  # file systems raise whatever they like
            if is_metadata(key) and failure_of(error) is Failure.REFUSED:
                log.info(
                    "%s: taken for absent, since access is refused (%s)", key, type(error).__name__
                )
                self.refusal = error
                return None
            raise RequestError(key) from error

    async def get_partial_values(
        self, prototype: BufferPrototype, key_ranges: Iterable[tuple[str, ByteRequest | None]]
    ) -> list[ZarrBuffer | None]:
        wanted = list(key_ranges)
        try:
            return await limited(super().get_partial_values(prototype, wanted))
        except Exception as error:
            raise RequestError(wanted[0][0]) from error

    async def exists(self, key: str) -> bool:
        return await limited(super().exists(key))

    async def list_dir(self, prefix: str) -> AsyncIterator[str]:
        for name in await limited(_collected(super().list_dir(prefix))):
            yield name

    async def list_prefix(self, prefix: str) -> AsyncIterator[str]:
        for name in await limited(_collected(super().list_prefix(prefix))):
            yield name


def _collected(names: AsyncIterator[str]) -> Coroutine[Any, Any, list[str]]:
    async def collect() -> list[str]:
        return [name async for name in names]

    return collect()


def fetch_shard_index(
    array: zarr.Array[Any], shard: tuple[int, ...], layout: ShardLayout
) -> ShardIndex:
    """Where the chunks of a shard lie, wherever that is.

    Raises
    ------
    DamagedChunkError
        When that cannot be.
    """
    request: ByteRequest = (
        SuffixByteRequest(layout.index_bytes)
        if layout.at_end
        else RangeByteRequest(0, layout.index_bytes)
    )
    key = array.metadata.encode_chunk_key(shard)
    raw = sync((array.store_path / key).get(default_buffer_prototype(), request))
    where = read_shard_index(b"" if raw is None else raw.to_bytes(), layout)
    if where.overlapping.any():
        raise DamagedChunkError("the index of its shard has chunks overlap")
    return where


def is_far(store: Store) -> bool:
    """Whether a store lies elsewhere, as far as that is known: not in files, a zip file or
    memory."""
    return not isinstance(store, LocalStore | ZipStore | MemoryStore | FarStore)


def with_time_outs(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """The same array, read through a `FarStore` where it lies elsewhere."""
    return (
        zarr.open_array(FarStore(array.store), path=array.path, mode="r")
        if is_far(array.store)
        else array
    )
