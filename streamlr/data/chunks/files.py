"""Chunks of a Zarr array in local files: plain ones, and those packed into shards."""

from __future__ import annotations

import os
import stat
import struct
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from streamlr.data.chunks.decoding import (
    DamagedChunkError,
    Decoder,
    chunk_decoder,
    chunk_decoder_v2,
    crc32c,
)
from streamlr.data.source import Buffer

NO_CHUNK = 2**64 - 1
"""Offset and length of a chunk that a shard lacks."""
_SHARD_INDICES_KEPT = 64
_HEAD_BYTES = 32


class MissingChunkError(Exception):
    """There is no such chunk. The caller adds where, and what to do."""


@dataclass(frozen=True, slots=True)
class ShardLayout:
    """How chunks lie in a shard."""

    chunks_per_shard: tuple[int, ...]
    at_end: bool
    checksummed: bool
    dtype: str
    """Of the offsets and lengths, with their byte order."""

    @property
    def index_bytes(self) -> int:
        return 16 * int(np.prod(self.chunks_per_shard)) + (4 if self.checksummed else 0)


@dataclass(frozen=True, slots=True)
class ShardIndex:
    """Where the chunks of one shard lie."""

    entries: NDArray[np.uint64]
    """Offset and length of every chunk, (chunks..., 2)."""
    overlapping: NDArray[np.bool_]
    """Which of them share bytes with another, (chunks...)."""


@dataclass(frozen=True)
class ChunkFiles:
    """The chunks of one array below a directory."""

    directory: Path
    """Directory of the array."""
    chunk_shape: tuple[int, ...]
    """Shape of a chunk; of an inner one where there are shards."""
    grid: tuple[int, ...]
    """Number of chunks along each axis."""
    decoder: Decoder
    """What turns the bytes of a chunk into values."""
    key_prefix: str
    """What the key of a chunk begins with."""
    key_separator: str
    """What stands between the coordinates."""
    shards: ShardLayout | None = None
    """How chunks are packed into shards, where they are."""
    _indices: OrderedDict[tuple[int, ...], ShardIndex] = field(
        default_factory=OrderedDict, repr=False
    )
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def path_of(self, index: tuple[int, ...]) -> Path:
        """The file that holds a chunk (or, with shards, the shard of a chunk)."""
        if self.shards is not None:
            index = tuple(
                i // per for i, per in zip(index, self.shards.chunks_per_shard, strict=True)
            )
        return self.directory / (self.key_prefix + self.key_separator.join(str(i) for i in index))

    def read(self, index: tuple[int, ...], out: NDArray[Any], buffer: Buffer) -> None:
        """Read one whole chunk into ``out``, C-contiguous, of the shape of a chunk; ``buffer``
        lends memory for its stored bytes.

        Raises
        ------
        MissingChunkError
            When there is no such file, or the shard lacks the chunk.
        DamagedChunkError
            When its bytes are not what was written.
        """
        try:
            with open_chunk(self.path_of(index)) as file:
                size = os.fstat(file.fileno()).st_size
                if self.shards is not None:
                    self._read_from_shard(file.fileno(), size, index, out, buffer)
                    return
                if not self.decoder.is_raw:
                    encoded = buffer.encoded(size)
                    read_exactly(file.fileno(), encoded, 0)
                    self.decoder.decode(encoded.data, out)
                elif size != out.nbytes:
                    raise DamagedChunkError(f"its file has {size} bytes instead of {out.nbytes}")
                else:
                    read_exactly(file.fileno(), out.reshape(-1).view(np.uint8), 0)
        except FileNotFoundError:
            raise MissingChunkError from None

    def read_rows(self, index: tuple[int, ...], first: int, out: NDArray[Any]) -> None:
        """Read some rows of a chunk that is stored as it is, from its row ``first`` on, into
        ``out``, C-contiguous and as wide as the chunk.

        Raises as `read` does.
        """
        expected = int(np.prod(self.chunk_shape)) * out.dtype.itemsize
        try:
            with open_chunk(self.path_of(index)) as file:
                size = os.fstat(file.fileno()).st_size
                if size != expected:
                    raise DamagedChunkError(f"its file has {size} bytes instead of {expected}")
                read_exactly(file.fileno(), out.reshape(-1).view(np.uint8), first * out[:1].nbytes)
        except FileNotFoundError:
            raise MissingChunkError from None

    def head(self) -> bytes:
        """The first bytes of the first chunk; none where it is missing, or in a shard."""
        try:
            with open_chunk(self.path_of((0,) * len(self.grid))) as file:
                return b"" if self.shards is not None else file.read(_HEAD_BYTES)
        except (OSError, DamagedChunkError):
            return b""  # the read that follows will tell

    def prefetch(self, index: tuple[int, ...]) -> None:
        """Ask the operating system to bring the file of a chunk into memory meanwhile; a hint, so
        failures do not matter."""
        if self.shards is not None or not hasattr(os, "posix_fadvise"):
            return
        try:
            descriptor = os.open(self.path_of(index), os.O_RDONLY | os.O_NONBLOCK)
        except OSError:
            return  # the read that follows will tell
        try:
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_WILLNEED)
        finally:
            os.close(descriptor)

    def missing(self) -> Iterator[tuple[int, ...]]:
        """Chunks (or first chunks of shards) that have no file, by listing directories rather than
        asking for each."""
        per = self.shards.chunks_per_shard if self.shards is not None else (1,) * len(self.grid)
        listed: dict[Path, set[str]] = {}
        for index in _indices(
            [range(0, size, step) for size, step in zip(self.grid, per, strict=True)]
        ):
            path = self.path_of(index)
            names = listed.get(path.parent)
            if names is None:
                names = listed[path.parent] = (
                    set(os.listdir(path.parent)) if path.parent.is_dir() else set()
                )
            if path.name not in names:
                yield index

    def stored_bytes(self) -> int:
        """Bytes of all chunk files."""
        return sum(status.st_size for status in chunk_statuses(self.directory))

    def largest_bytes(self) -> int:
        """Bytes of the largest chunk file (of the largest shard)."""
        return max((status.st_size for status in chunk_statuses(self.directory)), default=0)

    def _read_from_shard(
        self, descriptor: int, size: int, index: tuple[int, ...], out: NDArray[Any], buffer: Buffer
    ) -> None:
        assert self.shards is not None
        shard = tuple(i // per for i, per in zip(index, self.shards.chunks_per_shard, strict=True))
        call_with_timeout = tuple(
            i % per for i, per in zip(index, self.shards.chunks_per_shard, strict=True)
        )
        where = self._index_of(descriptor, shard)
        offset, nbytes = (int(value) for value in where.entries[call_with_timeout])
        if offset == NO_CHUNK and nbytes == NO_CHUNK:
            raise MissingChunkError
        first, last = (
            (0, size - self.shards.index_bytes)
            if self.shards.at_end
            else (self.shards.index_bytes, size)
        )
        if not first <= offset <= offset + nbytes <= last:
            raise DamagedChunkError(
                f"the chunks of its shard lie at {first} to {last}, but by the index it lies at "
                f"{offset} to {offset + nbytes}"
            )
        if where.overlapping[call_with_timeout]:
            raise DamagedChunkError(
                f"by the index of its shard it lies at {offset} to {offset + nbytes}, where "
                "another chunk lies too"
            )
        encoded = buffer.encoded(nbytes)
        read_exactly(descriptor, encoded, offset)
        self.decoder.decode(encoded.data, out)

    def _index_of(self, descriptor: int, shard: tuple[int, ...]) -> ShardIndex:
        with self._lock:
            where = self._indices.get(shard)
        if where is None:
            assert self.shards is not None
            at = (
                max(0, os.fstat(descriptor).st_size - self.shards.index_bytes)
                if self.shards.at_end
                else 0
            )
            where = read_shard_index(os.pread(descriptor, self.shards.index_bytes, at), self.shards)
            with self._lock:
                self._indices[shard] = where
                if len(self._indices) > _SHARD_INDICES_KEPT:
                    self._indices.popitem(last=False)
        return where


def chunk_statuses(directory: Path) -> Iterator[os.stat_result]:
    """What the file system tells of every chunk file of an array."""
    for folder, _, names in os.walk(directory):
        for name in names:
            if not name.startswith(".z") and name != "zarr.json":
                try:
                    status = os.stat(os.path.join(folder, name))
                except OSError:
                    continue  # gone, or a link that leads nowhere: the reading tells
                yield status


def read_exactly(descriptor: int, out: NDArray[np.uint8], offset: int) -> None:
    """Fill ``out`` from a place in a file.

    Raises
    ------
    DamagedChunkError
        When the file ends before.
    """
    view = out.data
    done = 0
    while done < len(view):
        got = os.preadv(descriptor, [view[done:]], offset + done)
        if got == 0:
            raise DamagedChunkError(
                f"its file ended after {done} of {len(view)} bytes while it was read"
            )
        done += got


def open_chunk(path: Path) -> IO[bytes]:
    """Open a chunk's file.

    Raises
    ------
    DamagedChunkError
        When it is something else: a pipe would have its reader wait for ever.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return os.fdopen(descriptor, "rb", buffering=0)
    os.close(descriptor)
    raise DamagedChunkError("what stands there is no file")


def read_shard_index(raw: bytes, layout: ShardLayout) -> ShardIndex:
    """Where the chunks of a shard lie, by the bytes of its index.

    Raises
    ------
    DamagedChunkError
        When they are too few or their checksum is wrong.
    """
    if len(raw) != layout.index_bytes:
        raise DamagedChunkError(
            f"its shard has {len(raw)} bytes where an index of {layout.index_bytes} is due"
        )
    if layout.checksummed:
        raw, (stored,) = raw[:-4], struct.unpack("<I", raw[-4:])
        if crc32c(raw) != stored:
            raise DamagedChunkError(
                f"the index of its shard has checksum crc32c {crc32c(raw):08x}, stored was "
                f"{stored:08x}"
            )
    entries = (
        np.frombuffer(raw, dtype=layout.dtype)
        .astype(np.uint64)
        .reshape(*layout.chunks_per_shard, 2)
    )
    return ShardIndex(entries, _overlapping(entries))


def _overlapping(entries: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Entries that share bytes with another: no writer makes such an index, and each alone would
    look sound."""
    starts, lengths = entries[..., 0].ravel(), entries[..., 1].ravel()
    there = np.flatnonzero((starts != NO_CHUNK) & (lengths > 0))
    order = there[np.argsort(starts[there], kind="stable")]
    starts, ends = (
        starts[order],
        np.where(
            lengths[order] > NO_CHUNK - starts[order],
            np.uint64(NO_CHUNK),
            starts[order] + lengths[order],
        ),
    )
    found = np.zeros(entries.shape[:-1], dtype=np.bool_)
    found.ravel()[order[:-1]] |= starts[1:] < ends[:-1]
    found.ravel()[order[1:]] |= starts[1:] < np.maximum.accumulate(ends)[:-1]
    return found


def chunk_files(
    root: Path, path: str, metadata: Mapping[str, Any], shape: tuple[int, ...]
) -> ChunkFiles | None:
    """The chunk files of an array, or None where its layout is one that only Zarr itself reads.

    Parameters
    ----------
    root
        Directory of the store.
    path
        Path of the array in the store.
    metadata
        Its metadata, in JSON form.
    shape
        Its shape.
    """
    if metadata["zarr_format"] == 2:
        return _files_v2(root / path, metadata, shape)
    grid = metadata["chunk_grid"]
    keys = metadata["chunk_key_encoding"]
    if (
        grid["name"] != "regular"
        or keys["name"] not in ("default", "v2")
        or metadata.get("storage_transformers")
    ):
        return None
    outer = tuple(grid["configuration"]["chunk_shape"])
    codecs = [dict(codec) for codec in metadata["codecs"]]
    shards = None
    chunk_shape = outer
    if codecs[0]["name"] == "sharding_indexed":
        layout = shard_layout(metadata)
        if layout is None:
            return None
        chunk_shape = tuple(codecs[0]["configuration"]["chunk_shape"])
        codecs, shards = list(codecs[0]["configuration"]["codecs"]), layout
    decoder = chunk_decoder(codecs)
    if decoder is None:
        return None
    default = keys["name"] == "default"
    separator = (keys.get("configuration") or {}).get("separator", "/" if default else ".")
    return ChunkFiles(
        root / path,
        chunk_shape,
        _grid(shape, chunk_shape),
        decoder,
        "c" + separator if default else "",
        separator,
        shards,
    )


def _files_v2(
    directory: Path, metadata: Mapping[str, Any], shape: tuple[int, ...]
) -> ChunkFiles | None:
    decoder = chunk_decoder_v2(metadata)
    if decoder is None:
        return None
    chunk_shape = tuple(metadata["chunks"])
    return ChunkFiles(
        directory,
        chunk_shape,
        _grid(shape, chunk_shape),
        decoder,
        "",
        metadata.get("dimension_separator", "."),
    )


def shard_layout(metadata: Mapping[str, Any]) -> ShardLayout | None:
    """How chunks lie in the shards of a Zarr 3 array, or None where that is not known here."""
    codecs = [dict(codec) for codec in metadata["codecs"]]
    options = codecs[0]["configuration"]
    index_names = [codec["name"] for codec in options["index_codecs"]]
    order = (options["index_codecs"][0].get("configuration") or {}).get("endian", "little")
    if len(codecs) != 1 or index_names not in (["bytes"], ["bytes", "crc32c"]):
        return None
    outer = metadata["chunk_grid"]["configuration"]["chunk_shape"]
    per_shard = tuple(
        size // part for size, part in zip(outer, options["chunk_shape"], strict=True)
    )
    location = getattr(
        options.get("index_location", "end"), "value", options.get("index_location", "end")
    )
    return ShardLayout(
        per_shard,
        location == "end",
        "crc32c" in index_names,
        ">u8" if getattr(order, "value", order) == "big" else "<u8",
    )


def _indices(ranges: Sequence[range]) -> Iterator[tuple[int, ...]]:
    """As `itertools.product`, which would first list every range: damaged metadata may claim any
    number of chunks."""
    if not ranges:
        yield ()
        return
    for i in ranges[0]:
        for rest in _indices(ranges[1:]):
            yield (i, *rest)


def _grid(shape: tuple[int, ...], chunk_shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(-(-size // part) for size, part in zip(shape, chunk_shape, strict=True))
