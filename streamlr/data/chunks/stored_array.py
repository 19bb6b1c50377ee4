"""One array of a store, read by rows of examples."""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import LocalStore

from streamlr.data.chunks.absent import wrapped_store
from streamlr.data.chunks.checksums import zarr_checksums
from streamlr.data.chunks.decoding import DamagedChunkError
from streamlr.data.chunks.failures import Failure, failure_of, reason, requested_key, was_answered
from streamlr.data.chunks.files import (
    NO_CHUNK,
    MissingChunkError,
    ShardLayout,
    chunk_files,
    shard_layout,
)
from streamlr.data.chunks.retries import Retries, StoppedError, UnreadableError, retried, unread
from streamlr.data.chunks.watch import FileWatch
from streamlr.data.chunks.wrapped import fetch_shard_index
from streamlr.data.conventions.attributes import axes_of, refuse_encoded, refuse_odd_attributes
from streamlr.data.conventions.texts import KEPT_BYTES, ChunkLabels, Coded, KeptTexts
from streamlr.data.footprint import STORED_SLACK, TEXT_LABEL_BYTES, ZARR_CHUNKS_IN_FLIGHT, Footprint
from streamlr.data.source import Buffer
from streamlr.errors import ChunkError, ShapeError, option

_BRING_BACK = (
    f"Bring back what was there and go on with {option('resume')}, or train on the new data with "
    f"{option('overwrite')}"
)
_LARGEST_WHOLE_BYTES = 32 * 2**20
"""A chunk of more bytes is taken in parts where it is stored as it is, whatever memory there is:
what is summed together follows from the store alone."""
_PART_BYTES = 16 * 2**20


class StoredArray:
    """An array whose examples lie along one axis; reads whole chunks from local files itself, all
    else through Zarr.

    Parameters
    ----------
    array
        The opened array.
    sample_axis
        The axis of the examples.
    fill_missing
        Whether an absent chunk stands for the fill value; otherwise it is an error.
    direct
        Whether the fast path may be taken.
    retries
        How its reads are tried again.
    """

    def __init__(
        self,
        array: zarr.Array[Any],
        sample_axis: int = 0,
        *,
        fill_missing: bool = False,
        direct: bool = True,
        retries: Retries | None = None,
    ) -> None:
        self._array = array
        self.name = array.path.rsplit("/", 1)[-1]
        self.shape: tuple[int, ...] = tuple(array.shape)
        self.sample_axis = sample_axis
        self.n_rows = self.shape[sample_axis] if len(self.shape) > sample_axis else 0
        self.chunk_shape: tuple[int, ...] = tuple(array.chunks)
        if min(self.chunk_shape, default=1) < 1:
            raise ShapeError(
                f"{self.name} has chunks of shape {self.chunk_shape}; restore its metadata "
                "(zarr.json or .zarray), or write the store again"
            )
        refuse_odd_attributes(array, self.name or "the array")
        refuse_encoded(array.attrs, np.dtype(array.dtype), self.name)
        self.axes = axes_of(array)
        self._fill_missing = fill_missing
        self.dtype = np.dtype(array.dtype)
        self._files = None
        self.direct = direct
        self.coded: ChunkLabels | None = None
        self._texts = None if self.dtype.kind in "biuf" else KeptTexts()
        store = wrapped_store(array)
        if direct and isinstance(store, LocalStore) and self.dtype.kind in "biuf":
            self._files = chunk_files(
                Path(store.root), array.path, array.metadata.to_dict(), self.shape
            )
        self._watch = FileWatch(store, array, self._files)
        self._retries = Retries() if retries is None else retries
        self._last_chunk = threading.local()
        self._whole_shards: set[tuple[int, ...]] = set()

    @property
    def chunk_rows(self) -> int:
        return self.chunk_shape[self.sample_axis]

    @functools.cached_property
    def unit_rows(self) -> int:
        """Rows that are read together: those of a chunk, or of a part of one that is large and
        whose rows lie in its file as they are."""
        chunk_bytes = self.dtype.itemsize * int(np.prod(self.chunk_shape))
        whole = (
            self.sample_axis != 0
            or self.chunk_shape[1:] != self.shape[1:]
            or chunk_bytes <= _LARGEST_WHOLE_BYTES
        )
        if (
            whole
            or self._files is None
            or not self._files.decoder.is_raw
            or self._files.shards is not None
        ):
            return self.chunk_rows
        rows = 1
        while (
            2 * rows * chunk_bytes <= _PART_BYTES * self.chunk_rows and 2 * rows <= self.chunk_rows
        ):
            rows *= 2
        return rows

    @property
    def identity(self) -> str:
        """Shape, type, chunks and codecs, as a digest."""
        metadata = {
            key: value
            for key, value in self._array.metadata.to_dict().items()
            if key != "attributes"
        }
        return hashlib.sha256(
            json.dumps(metadata, sort_keys=True, default=str).encode()
        ).hexdigest()

    @property
    def reads_files(self) -> bool:
        """Whether the fast path is taken."""
        return self._files is not None

    @property
    def checksummed(self) -> bool | None:
        """Whether checksums cover the chunks; None where that is not known."""
        return (
            zarr_checksums(self._array.metadata.to_dict())
            if self._files is None
            else self._files.decoder.checksummed
        )

    def stored_bytes(self) -> int | None:
        """Bytes in storage; None where that would take a listing of a remote store."""
        return None if self._files is None else self._files.stored_bytes()

    def modified(self) -> int | None:
        """When a chunk was last written, in nanoseconds; None where that is not known."""
        return self._watch.modified()

    def watch(self, newest: int | None) -> None:
        """Refuse from now on to read a chunk that was written after this time."""
        self._watch.newest = newest

    def footprint(self, rows: int) -> Footprint:
        """Memory of a read of so many rows that begin with a chunk."""
        per_row = self.dtype.itemsize * int(
            np.prod([size for axis, size in enumerate(self.shape) if axis != self.sample_axis])
        )
        chunk_bytes = self.dtype.itemsize * int(np.prod(self.chunk_shape))
        if self.dtype.kind not in "biuf":
            return Footprint(
                rows * self.dtype.itemsize,
                0,
                rows * TEXT_LABEL_BYTES,
                min(KEPT_BYTES, 2 * self.n_rows),
            )
        if self._files is None:
            chunks = min(
                ZARR_CHUNKS_IN_FLIGHT,
                -(-rows // self.chunk_rows) * (self.n_chunks // -(-self.n_rows // self.chunk_rows)),
            )
            codecs: Any = self._array.metadata.to_dict().get(
                "codecs"
            )  # of format 2 there are none: taken for encoded
            encoded = codecs is None or len(codecs) > 1
            return Footprint(
                rows * per_row, 0, (1 + encoded) * chunks * chunk_bytes
            )  # as stored, and decoded where that is not the same
        if self.unit_rows < self.chunk_rows:
            return Footprint(rows * per_row, 0, 0)
        decoded = (
            -(-rows // self.chunk_rows) * self.chunk_rows * per_row
        )  # rows that pad the last chunk are decoded too
        decoder = self._files.decoder
        stored = (
            0 if decoder.is_raw and self._files.shards is None else self._largest_chunk(chunk_bytes)
        )
        in_place = all(
            part == size
            or (axis == self.sample_axis and (axis == 0 or rows <= part))  # as `_place_chunk` asks
            for axis, (size, part) in enumerate(zip(self.shape, self.chunk_shape, strict=True))
        )
        return Footprint(
            decoded,
            stored,
            round(chunk_bytes * ((not in_place) + decoder.copies(self._files.head()))),
        )

    def _largest_chunk(self, chunk_bytes: int) -> int:
        assert self._files is not None
        if self._files.shards is None:
            return self._files.largest_bytes()
        return min(
            round(STORED_SLACK * self._files.stored_bytes() / self.n_chunks),
            chunk_bytes + chunk_bytes // 64 + 1024,
        )

    @property
    def n_chunks(self) -> int:
        return int(
            np.prod(
                [-(-size // part) for size, part in zip(self.shape, self.chunk_shape, strict=True)]
            )
        )

    def describe(self) -> dict[str, Any]:
        """Name, shape, chunks, shards, codecs and path of reading, for people."""
        metadata = self._array.metadata.to_dict()
        codecs: Any = metadata.get("codecs") or [metadata.get("compressor")]
        return {
            "name": self.name,
            "shape": list(self.shape),
            "dtype": str(self.dtype),
            "chunks": list(self.chunk_shape),
            "shards": None if self._array.shards is None else list(self._array.shards),
            "zarr_format": metadata["zarr_format"],
            "codecs": [
                dict(codec).get("name", dict(codec).get("id"))
                for codec in codecs
                if codec is not None
            ],
            "checksummed": self.checksummed,
            "n_chunks": self.n_chunks,
            "read": "directly" if self.reads_files else "through zarr",
            "rows_of_a_read": self.unit_rows,
        }

    def chunk_name(self, index: tuple[int, ...]) -> str:
        """How messages name a chunk: "chunk 17 of X (rows 17000 to 17999)"."""
        first = index[self.sample_axis] * self.chunk_rows
        last = min(first + self.chunk_rows, self.n_rows) - 1
        across = all(
            size <= part
            for axis, (size, part) in enumerate(zip(self.shape, self.chunk_shape, strict=True))
            if axis != self.sample_axis
        )
        label = str(index[self.sample_axis]) if across else ".".join(str(i) for i in index)
        return f"chunk {label} of {self.name} (rows {first} to {last})"

    def missing_chunks(self) -> Iterator[tuple[int, ...]]:
        """Absent chunks, as far as a listing of local files tells; none where they stand for the
        fill value."""
        if self._files is None or self._fill_missing:
            return
        try:
            yield from self._files.missing()
        except OSError as error:
            raise ChunkError(
                f"the chunks of {self.name} cannot be listed ({error}); see to it that they can "
                "be read, or restore them"
            ) from error

    def read(self, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        """Examples ``start`` to ``stop``, the other axis whole, in the orientation of storage;
        valid until ``buffer`` is reused.

        Raises
        ------
        ChunkError
            For a chunk that is missing or damaged.
        """
        if self._files is None:
            return self._read_through_zarr(start, stop, buffer)
        if self.unit_rows < self.chunk_rows:
            return self._read_parts(start, stop, buffer)
        rows = self.chunk_rows
        first, last = start // rows, -(-stop // rows)
        padded = list(self.shape)
        padded[self.sample_axis] = (last - first) * rows
        try:
            whole = buffer.array(tuple(padded), self.dtype)
        except (OSError, MemoryError, ValueError) as error:
            raise ChunkError(
                f"rows {start} to {stop - 1} of {self.name} come in chunks of {self.chunk_shape}, "
                f"which do not fit into memory ({error}); write "
                "the store again in smaller chunks, or restore its metadata if they are not what "
                "was written"
            ) from error
        for index in self._indices(start, stop):
            self._place_chunk(index, first, whole, buffer)
        return whole[self._along(start - first * rows, stop - first * rows)]

    def read_labels(self, start: int, stop: int) -> NDArray[Any]:
        """The same for a one-dimensional array; keeps the thread's last chunk, since a chunk of
        labels spans many blocks."""
        rows = self.chunk_rows
        parts = [
            self._label_chunk(chunk)[max(start - chunk * rows, 0) : stop - chunk * rows]
            for chunk in range(start // rows, -(-stop // rows))
        ]
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    def prefetch(self, start: int, stop: int) -> None:
        """Have the operating system fetch what `read` will want next."""
        if self._files is None:
            return
        for index in self._indices(start, stop):
            self._files.prefetch(index)

    def _read_parts(self, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        """Of chunks that are stored as they are, no more than the rows that are asked for."""
        out = buffer.array((stop - start, *self.shape[1:]), self.dtype)
        for chunk in range(start // self.chunk_rows, -(-stop // self.chunk_rows)):
            first, last = (
                max(start, chunk * self.chunk_rows),
                min(stop, (chunk + 1) * self.chunk_rows),
            )
            self._read_chunk(
                (chunk, *(0 for _ in self.shape[1:])),
                out[first - start : last - start],
                buffer,
                first - chunk * self.chunk_rows,
            )
        return out

    def _along(self, start: int, stop: int) -> tuple[slice, ...]:
        return tuple(
            slice(start, stop) if axis == self.sample_axis else slice(None)
            for axis in range(len(self.shape))
        )

    def _place_chunk(
        self, index: tuple[int, ...], first: int, whole: NDArray[Any], buffer: Buffer
    ) -> None:
        """Decode a chunk straight to its place where that is contiguous, else by way of a scratch
        array."""
        place = tuple(
            slice(
                (i - (first if axis == self.sample_axis else 0)) * part,
                (i + 1 - (first if axis == self.sample_axis else 0)) * part,
            )
            for axis, (i, part) in enumerate(zip(index, self.chunk_shape, strict=True))
        )
        target = whole[place]
        if target.shape == self.chunk_shape and target.flags.c_contiguous:
            self._read_chunk(index, target, buffer)
        else:
            chunk = np.empty(self.chunk_shape, dtype=self.dtype)
            self._read_chunk(index, chunk, buffer)
            target[...] = chunk[tuple(slice(0, size) for size in target.shape)]

    def _read_chunk(
        self, index: tuple[int, ...], out: NDArray[Any], buffer: Buffer, first: int | None = None
    ) -> None:
        """A whole chunk, or its rows from ``first`` on."""
        assert self._files is not None
        whole, part = (
            functools.partial(self._files.read, index, out, buffer),
            functools.partial(self._files.read_rows, index),
        )
        read: Callable[[], None] = whole if first is None else functools.partial(part, first, out)
        try:
            retried(read, lambda: self.chunk_name(index), self._retries)
        except MissingChunkError:
            if not self._fill_missing:
                raise self._missing_error(index) from None
            out[...] = (
                0 if self._array.fill_value is None else self._array.fill_value
            )  # Zarr reads an undefined one as 0
        except (DamagedChunkError, UnreadableError, OSError) as error:
            if failure_of(error) is Failure.MEMORY:
                raise
            if not isinstance(error, DamagedChunkError):
                raise unread(self.chunk_name(index), error, self._retries) from error
            raise ChunkError(
                f"{self.chunk_name(index)} is damaged: {error} (file "
                f"{self._files.path_of(index)}); "
                "restore that file or write the store again"
            ) from error
        self._refuse_rewritten(index)

    def _refuse_rewritten(self, index: tuple[int, ...]) -> None:
        changed = None if any(index) else self._watch.metadata_changed()
        if changed is not None:
            raise ChunkError(
                f"the metadata of {self.name} have changed ({changed}) after the store was "
                "opened: it may be in the middle of being written "
                f"again. {_BRING_BACK}"
            )
        found = self._watch.rewritten(index)
        if found is not None:
            raise ChunkError(
                f"{self.chunk_name(index)} was written again ({found}) after the store was "
                "opened: the sums would mix old data with new. "
                f"{_BRING_BACK}"
            )

    def _missing_error(self, index: tuple[int, ...]) -> ChunkError:
        return ChunkError(
            f"{self.chunk_name(index)} is missing from the store; Zarr would read it as "
            f"{self._array.fill_value}. Restore "
            "it or write the store again; if chunks of nothing but the fill value were left out "
            "on purpose, set "
            "data.missing_chunks: fill"
        )

    def _label_chunk(self, chunk: int) -> NDArray[Any]:
        kept = getattr(self._last_chunk, "kept", None)
        if kept is None or kept[0] != chunk:
            start = chunk * self.chunk_rows
            values = self._known_labels(chunk)
            if values is None:
                values = self.read(start, min(start + self.chunk_rows, self.n_rows), Buffer())
            kept = self._last_chunk.kept = (chunk, values)
        values_of_chunk: NDArray[Any] = kept[1]
        return values_of_chunk

    def _known_labels(self, chunk: int) -> NDArray[np.str_] | None:
        """Labels of a chunk of text that need not be decoded; None where it has to be."""
        for known in (self.coded, self._texts):
            labels = None if known is None else known.labels(chunk)
            if labels is not None:
                self._refuse_rewritten((chunk,))
                return labels
        return None

    def _read_through_zarr(self, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        try:
            return retried(
                lambda: self._read_once_through_zarr(start, stop, buffer),
                lambda: f"rows {start} to {stop - 1} of {self.name}",
                self._retries,
                fetch_again=True,
            )
        except StoppedError:
            raise
        except (
            Exception
        ) as error:  # codecs and stores raise whatever they like, and never name the chunk
            if failure_of(error) is Failure.MEMORY:
                raise
            raise self._explain(start, stop, error) from None

    def _refuse_rewritten_rows(self, start: int, stop: int) -> None:
        for index in self._indices(start, stop):
            self._refuse_rewritten(index)

    def _read_once_through_zarr(self, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        selection = self._along(start, stop)
        self._refuse_missing_in_shards(start, stop)
        if self.dtype.kind not in "biuf":
            coded = Coded.of(np.asarray(self._array[selection]))
            self._refuse_rewritten_rows(start, stop)
            if self._texts is not None and (start % self.chunk_rows, stop) == (
                0,
                min(start + self.chunk_rows, self.n_rows),
            ):
                self._texts.keep(start // self.chunk_rows, coded)
            return coded.labels
        shape = tuple(
            stop - start if axis == self.sample_axis else size
            for axis, size in enumerate(self.shape)
        )
        out = buffer.array(shape, self.dtype)
        try:
            self._array.get_basic_selection(
                selection, out=default_buffer_prototype().nd_buffer.from_numpy_array(out)
            )
        except Exception:
            buffer.let_go()  # other chunks of the same read may still be on their way into it
            raise
        self._refuse_rewritten_rows(start, stop)
        return out

    def _refuse_missing_in_shards(self, start: int, stop: int) -> None:
        """Look for absent chunks in the indices of shards, which Zarr reads as the fill value
        however its store is wrapped."""
        if self._fill_missing or self._array.shards is None:
            return
        layout = shard_layout(self._array.metadata.to_dict())
        if layout is None:
            raise ChunkError(
                f"the shards of {self.name} have an index that streamlr cannot check for missing "
                "chunks; set data.missing_chunks: fill "
                "if none can be missing, or write the array again"
            )
        per_shard = layout.chunks_per_shard[self.sample_axis] * self.chunk_rows
        for shard in itertools.product(
            *(
                range(start // per_shard, -(-stop // per_shard))
                if axis == self.sample_axis
                else range(-(-size // part))
                for axis, (size, part) in enumerate(
                    zip(self.shape, self._array.shards, strict=True)
                )
            )
        ):
            if shard not in self._whole_shards:
                self._check_shard(shard, layout)
                self._whole_shards.add(shard)

    def _check_shard(self, shard: tuple[int, ...], layout: ShardLayout) -> None:
        first = tuple(i * per for i, per in zip(shard, layout.chunks_per_shard, strict=True))
        try:
            where = fetch_shard_index(self._array, shard, layout)
        except DamagedChunkError as error:
            raise ChunkError(
                f"{self.chunk_name(first)} is damaged: {error}; restore it or write the store again"
            ) from error
        absent = np.argwhere(where.entries[..., 0] == np.uint64(NO_CHUNK))
        for call_with_timeout in absent.tolist():
            index = tuple(i + j for i, j in zip(first, call_with_timeout, strict=True))
            if all(
                i * part < size
                for i, part, size in zip(index, self.chunk_shape, self.shape, strict=True)
            ):
                raise self._missing_error(index)

    def _explain(self, start: int, stop: int, error: Exception) -> ChunkError:
        """What a failed read is told as; where it does not say which chunk is at fault, each is
        read alone."""
        if isinstance(error, ChunkError):
            return error
        rows = f"rows {start} to {stop - 1} of {self.name}"
        reported = (
            isinstance(error, UnreadableError)
            or failure_of(error) is Failure.REFUSED
            or was_answered(error)
        )
        asked = self._asked_for(start, stop, error)
        if reported and (asked is not None or self._retries.far):
            return unread(asked or rows, error, self._retries)
        for index in self._indices(start, stop):
            try:
                self._array[
                    tuple(
                        slice(i * part, (i + 1) * part)
                        for i, part in zip(index, self.chunk_shape, strict=True)
                    )
                ]
            except MissingChunkError:
                return self._missing_error(index)
            except Exception as found:
                name, why = self.chunk_name(index), self._retries.scrub(reason(found))
                if (
                    failure_of(found).passes
                    or failure_of(found) is Failure.REFUSED
                    or was_answered(found)
                ):
                    return unread(name, error if reported else found, self._retries)
                return ChunkError(
                    f"{name} cannot be decoded: {why}; restore it or write the store again"
                )
        return ChunkError(f"{rows} cannot be read: {self._retries.scrub(reason(error))}")

    def _indices(self, start: int, stop: int) -> Iterator[tuple[int, ...]]:
        """Of the chunks that hold these rows."""
        yield from itertools.product(
            *(
                range(start // part, -(-stop // part))
                if axis == self.sample_axis
                else range(-(-size // part))
                for axis, (size, part) in enumerate(zip(self.shape, self.chunk_shape, strict=True))
            )
        )

    def _asked_for(self, start: int, stop: int, error: Exception) -> str | None:
        """The chunk whose request failed, or the first in its shard; None where that is not
        known."""
        key = requested_key(error)
        outer = self._array.shards or self._array.chunks
        for index in self._indices(start, stop):
            stored = tuple(
                i * part // whole
                for i, part, whole in zip(index, self.chunk_shape, outer, strict=True)
            )
            if key is not None and key.endswith(
                f"/{self._array.metadata.encode_chunk_key(stored)}"
            ):
                return self.chunk_name(index)
        return None
