"""Whether the codecs of an array that Zarr reads itself notice a changed bit."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

_CHECKED = ("crc32c", "crc32", "adler32", "fletcher32", "jenkins_lookup3", "gzip", "zlib")


def zarr_checksums(metadata: Mapping[str, Any]) -> bool | None:
    """Whether a checksum covers the chunks, by the metadata of the array in JSON form.

    Returns
    -------
    bool or None
        True where a codec is known to have one; None where that is not known.
    """
    return True if any(_has_checksum(codec) for codec in _codecs(metadata)) else None


def _codecs(metadata: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """All codecs, those inside of shards in the place of sharding, whose own are of the index."""
    parts = metadata.get("codecs")
    if parts is None:  # format 2
        parts = [*(metadata.get("filters") or ()), metadata.get("compressor")]
    for part in parts:
        codec = {} if part is None else dict(part)
        inner = dict(codec.get("configuration") or {}).get("codecs")
        if codec.get("name") == "sharding_indexed" and inner:
            yield from (dict(found) for found in inner)
        else:
            yield codec


def _has_checksum(codec: Mapping[str, Any]) -> bool:
    name = str(codec.get("name", codec.get("id", ""))).removeprefix("numcodecs.")
    options = {**codec, **dict(codec.get("configuration") or {})}
    return name in _CHECKED or (name == "zstd" and bool(options.get("checksum")))
