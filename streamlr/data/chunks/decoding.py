"""From the bytes of a stored chunk to its values, with every check that the bytes allow.

This is the fast path for chunks in local files: Zarr's own pipeline costs some 300 microseconds a
chunk and a copy more. It knows the codecs in `_BYTES_CODECS`; for anything else `chunk_decoder`
returns None and the caller goes through Zarr. A test holds both to the same values.
"""

from __future__ import annotations

import struct
import sys
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import google_crc32c
import numcodecs
import numpy as np
from numpy.typing import NDArray

Bytes = bytes | memoryview
_CRC_BYTES = 4
_BLOSC_HEADER_BYTES = 16
_ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_HEADER_BYTES = 18
_OVERHEAD_BYTES = 2**20
_ZLIB, _GZIP = zlib.MAX_WBITS, 16 + zlib.MAX_WBITS
"""What zlib is told of the header that it is to expect."""
_GATHERED_COPIES = 1.0
"""Of a Zstandard frame that does not state its size, which is gathered elsewhere and copied."""


class DamagedChunkError(Exception):
    """The bytes of a chunk cannot be what was written; says why. The caller adds where."""


def _strip_crc32c(encoded: Bytes) -> memoryview:
    view = memoryview(encoded)
    if len(view) < _CRC_BYTES:
        raise DamagedChunkError(f"{len(view)} bytes, too few for a checksum")
    (stored,) = struct.unpack("<I", view[-_CRC_BYTES:])
    content = view[:-_CRC_BYTES]
    computed = crc32c(content)
    if stored != computed:
        raise DamagedChunkError(f"checksum crc32c is {computed:08x}, stored was {stored:08x}")
    return content


def crc32c(content: Any, start: int = 0) -> int:
    """Checksum of a contiguous buffer, continued from ``start``."""
    return int(google_crc32c.extend(start, np.frombuffer(content, dtype=np.uint8)))


def _blosc(encoded: Bytes) -> Bytes:
    view = memoryview(encoded)
    if len(view) < _BLOSC_HEADER_BYTES:
        raise DamagedChunkError(f"{len(view)} bytes, too few for a Blosc header")
    (stated,) = struct.unpack("<I", view[12:16])
    if stated != len(
        view
    ):  # Blosc itself decodes a chunk that lost its last bytes into wrong values without a word
        raise DamagedChunkError(f"{len(view)} bytes, but its Blosc header states {stated}")
    return view


def zstd_bytes(encoded: Bytes) -> int | None:
    """Decoded bytes by the header of a Zstandard frame (RFC 8878, 3.1.1.1); None where it does not
    state them, or is none."""
    head = bytes(memoryview(encoded)[:_ZSTD_HEADER_BYTES])
    if len(head) < 5 or head[:4] != _ZSTD_MAGIC:
        return None
    flag, single, dictionary = head[4] >> 6, head[4] >> 5 & 1, (0, 1, 2, 4)[head[4] & 3]
    width = (single, 2, 4, 8)[flag]
    at = 5 + (not single) + dictionary
    if width == 0 or len(head) < at + width:
        return None
    return int.from_bytes(head[at : at + width], "little") + (256 if width == 2 else 0)


class _Deflate:
    """zlib's and gzip's streams. numcodecs lets zlib's pass with anything behind the end, and both
    unfold to gigabytes that no chunk has."""

    def __init__(self, window_bits: int, members: bool) -> None:
        self._window_bits = window_bits
        self._members = members  # a gzip file may be several, one behind the other

    def decode(self, encoded: Bytes, most: int) -> Bytes:
        """What is encoded, if that is not more than ``most`` bytes."""
        parts: list[bytes] = []
        while True:
            stream = zlib.decompressobj(self._window_bits)
            parts.append(stream.decompress(encoded, most + 1 - sum(map(len, parts))))
            if sum(map(len, parts)) > most:
                raise DamagedChunkError(f"it decodes to more than {most} bytes")
            if not stream.eof:
                raise DamagedChunkError("its compressed stream has no end")
            encoded = stream.unused_data
            if not encoded:
                return parts[0] if len(parts) == 1 else b"".join(parts)
            if not self._members:
                raise DamagedChunkError("its compressed stream is followed by something else")


@dataclass(frozen=True, slots=True)
class _BytesCodec:
    """One bytes-to-bytes codec: a check of the encoded bytes, then a decoder."""

    check: Callable[[Bytes], Bytes] | None
    decoder: Any | None
    copies: float = 0.0
    """Decoded chunks that the decoder makes beside the one that it fills."""


# Blosc and Zstandard write to the place of the values, the others gather theirs in pieces that are
# joined at the end
_BYTES_CODECS: dict[str, Callable[[], _BytesCodec]] = {
    "crc32c": lambda: _BytesCodec(_strip_crc32c, None),
    "blosc": lambda: _BytesCodec(_blosc, numcodecs.Blosc()),
    "zstd": lambda: _BytesCodec(None, numcodecs.Zstd()),
    "gzip": lambda: _BytesCodec(None, _Deflate(_GZIP, members=True), 2.0),
    "zlib": lambda: _BytesCodec(None, _Deflate(_ZLIB, members=False), 2.0),
}


@dataclass(frozen=True, slots=True)
class Decoder:
    """Turns the bytes of one chunk into its values."""

    codecs: tuple[_BytesCodec, ...]
    """In the order of decoding."""
    checksummed: bool
    """Whether a checksum covers the stored bytes."""

    @property
    def is_raw(self) -> bool:
        """Whether the stored bytes are the values themselves."""
        return not self.codecs

    def copies(self, head: Bytes) -> float:
        """Decoded chunks that exist for a moment beside the one that is filled, of chunks whose
        stored bytes begin so (nothing: not known)."""
        gathered = (
            bool(head)
            and bool(self.codecs)
            and isinstance(self.codecs[-1].decoder, numcodecs.Zstd)
            and zstd_bytes(head) is None
        )
        return sum(codec.copies for codec in self.codecs) + gathered * _GATHERED_COPIES

    def decode(self, encoded: Bytes, out: NDArray[Any]) -> None:
        """Decode into ``out``, C-contiguous, of the shape of a whole chunk.

        Raises
        ------
        DamagedChunkError
            When a checksum or a length is wrong, or a codec fails.
        """
        target = out.reshape(-1).view(np.uint8)
        for at, codec in enumerate(self.codecs):
            if codec.check is not None:
                encoded = codec.check(encoded)
            if codec.decoder is None:
                continue
            last = at == len(self.codecs) - 1
            if last and isinstance(codec.decoder, numcodecs.Blosc):
                _require_length(struct.unpack("<I", memoryview(encoded)[4:8])[0], target.nbytes)
                _run(codec.decoder, encoded, target)
                return
            stated = (
                zstd_bytes(encoded) if last and isinstance(codec.decoder, numcodecs.Zstd) else None
            )
            if stated is not None:
                _require_length(stated, target.nbytes)
                _run(
                    codec.decoder,
                    encoded,
                    target,
                    # numcodecs would leave the rest of a larger place as it was, hence the
                    # comparison
                )
                return
            # what a codec leaves to the next is never much more than the values
            encoded = _run(
                codec.decoder,
                encoded,
                target.nbytes if last else 2 * target.nbytes + _OVERHEAD_BYTES,
            )
        _require_length(memoryview(encoded).nbytes, target.nbytes)
        target[:] = np.frombuffer(encoded, dtype=np.uint8)


def _run(decoder: Any, encoded: Bytes, place: NDArray[np.uint8] | int) -> Any:
    """Decode to a place, or to one of the decoder's own, of that many bytes at most where it can be
    told."""
    try:
        if isinstance(place, int):
            return (
                decoder.decode(encoded, place)
                if isinstance(decoder, _Deflate)
                else decoder.decode(encoded)
            )
        return decoder.decode(encoded, place)
    except DamagedChunkError:
        raise
    except Exception as error:  # zlib.error and the like derive from Exception alone
        raise DamagedChunkError(f"{type(decoder).__name__} cannot decode it: {error}") from error


def _require_length(found: int, expected: int) -> None:
    if found != expected:
        raise DamagedChunkError(f"it decodes to {found} bytes instead of {expected}")


def chunk_decoder(codecs: Sequence[Mapping[str, Any]]) -> Decoder | None:
    """The decoder of a Zarr 3 codec list (JSON form), or None where a codec is not known here."""
    if not codecs or codecs[0]["name"] != "bytes":
        return None
    if (codecs[0].get("configuration") or {}).get("endian", sys.byteorder) != sys.byteorder:
        return None
    names = [codec["name"] for codec in codecs[1:]]
    if not all(name in _BYTES_CODECS for name in names):
        return None
    return Decoder(
        tuple(_BYTES_CODECS[name]() for name in reversed(names)),
        "crc32c" in names or _zstd_checksum(codecs),
    )


def _zstd_checksum(codecs: Sequence[Mapping[str, Any]]) -> bool:
    return codecs[-1]["name"] == "gzip" or (
        codecs[-1]["name"] == "zstd"
        and bool((codecs[-1].get("configuration") or {}).get("checksum"))
    )


def chunk_decoder_v2(metadata: Mapping[str, Any]) -> Decoder | None:
    """The same for the metadata of a Zarr 2 array."""
    if metadata.get("order") != "C" or metadata.get("filters"):
        return None
    dtype = np.dtype(metadata["dtype"]) if isinstance(metadata["dtype"], str) else None
    if dtype is None or not dtype.isnative or dtype.kind == "O":
        return None
    compressor = metadata.get("compressor")
    names = [] if compressor is None else [compressor["id"]]
    if not all(name in _BYTES_CODECS for name in names):
        return None
    return Decoder(tuple(_BYTES_CODECS[name]() for name in names), names in (["gzip"], ["zlib"]))
