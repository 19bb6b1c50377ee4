"""Stores for tests: small, written through zarr itself, in every layout that the contract
accepts."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fsspec
import numcodecs
import numpy as np
import zarr
from click.testing import CliRunner
from fsspec.implementations.memory import MemoryFileSystem
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

from streamlr.config.sections import DataConfig
from streamlr.data.source import Buffer
from streamlr.data.sources.store import ZarrSource

CODECS_V3: dict[str, list[Any]] = {
    "raw": [],
    "blosc lz4": [BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")],
    "blosc zstd": [BloscCodec(cname="zstd", clevel=3, shuffle="shuffle")],
    "zstd": [ZstdCodec(level=1)],
    "zstd with checksum": [ZstdCodec(level=1, checksum=True)],
    "gzip": [GzipCodec(level=1)],
    "crc32c": [Crc32cCodec()],
    "blosc lz4, crc32c": [BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"), Crc32cCodec()],
    "zstd, crc32c": [ZstdCodec(level=1), Crc32cCodec()],
}
CODECS_V2: dict[str, list[Any]] = {
    "raw": [],
    "blosc lz4": [numcodecs.Blosc(cname="lz4")],
    "blosc zstd": [numcodecs.Blosc(cname="zstd")],
    "zstd": [numcodecs.Zstd(level=1)],
    "gzip": [numcodecs.GZip(level=1)],
    "zlib": [numcodecs.Zlib(level=1)],
}
CODECS: dict[int, dict[str, list[Any]]] = {2: CODECS_V2, 3: CODECS_V3}
CHECKSUMMED = ("zstd with checksum", "gzip", "crc32c", "blosc lz4, crc32c", "zstd, crc32c")
DTYPES = (
    "float16",
    "float32",
    "float64",
    "int8",
    "int16",
    "int32",
    "int64",
    "uint8",
    "uint16",
    "uint32",
    "uint64",
    "bool",
)


class Remote(MemoryFileSystem):  # type: ignore[misc]
    """What ``remote://`` means in tests: files of another system, in memory. (What ``memory://``
    means depends on the version of Zarr.)"""

    protocol = "remote"
    store: dict[str, Any] = {}  # noqa: RUF012 - as fsspec has it
    pseudo_dirs: list[str] = [""]  # noqa: RUF012

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("remote://", "memory://", 1)))


fsspec.register_implementation("remote", Remote, clobber=True)


def put(
    group: zarr.Group,
    name: str,
    values: Any,
    chunks: Sequence[int] | None = None,
    *,
    codec: str = "raw",
    every_chunk: bool = True,
    **options: Any,
) -> zarr.Array[Any]:
    """Write one array; ``every_chunk=False`` leaves out chunks of fill values, as zarr-python does
    when nothing is said."""
    values = np.asarray(values)
    text = values.dtype.kind in "UO"
    array = group.create_array(
        name,
        shape=values.shape,
        chunks=tuple(chunks or values.shape),
        dtype=str if text else values.dtype,
        compressors=CODECS[group.metadata.zarr_format][codec] or None,
        config={"write_empty_chunks": every_chunk},
        **options,
    )
    array[...] = values.astype(object) if text else values
    return array


def write_store(
    path: Path,
    X: NDArray[Any],
    y: Any,
    chunks: Sequence[int] | None = None,
    *,
    y_chunk: int | None = None,
    weights: Any = None,
    sample_axis: int = 0,
    zarr_format: Any = 3,
    codec: str = "raw",
    every_chunk: bool = True,
    **options: Any,
) -> DataConfig:
    """A store of X, (m, n), and y, (m,); ``chunks`` and ``shards`` are (rows, features), whatever
    the sample axis."""
    group = zarr.open_group(str(path), mode="w", zarr_format=zarr_format)
    turned = slice(None, None, 1 if sample_axis == 0 else -1)
    if "shards" in options:
        options["shards"] = tuple(options["shards"][turned])
    put(
        group,
        "X",
        X if sample_axis == 0 else X.T,
        tuple(chunks or X.shape)[turned],
        codec=codec,
        every_chunk=every_chunk,
        **options,
    )
    put(group, "y", y, None if y_chunk is None else (y_chunk,), every_chunk=every_chunk)
    if weights is not None:
        put(
            group,
            "weights",
            weights,
            None if y_chunk is None else (y_chunk,),
            every_chunk=every_chunk,
        )
    return DataConfig(
        store=str(path),
        weights=None if weights is None else "weights",
        sample_axis=1 if sample_axis else 0,
    )


def any_values(dtype: str, shape: tuple[int, ...], seed: int = 0) -> NDArray[Any]:
    """Every bit pattern that the type has: the extremes of integers; infinities, NaN, -0.0 and
    subnormals among the floats."""
    rng = np.random.default_rng(seed)
    kind = np.dtype(dtype)
    if kind.kind == "b":
        return rng.random(shape) < 0.5
    drawn = (
        np.frombuffer(rng.bytes(int(np.prod(shape)) * kind.itemsize), dtype=kind)
        .reshape(shape)
        .copy()
    )
    if kind.kind == "f":
        special = np.array(
            [
                np.nan,
                np.inf,
                -np.inf,
                -0.0,
                0.0,
                np.finfo(kind).max,
                np.finfo(kind).smallest_subnormal,
            ],
            dtype=kind,
        )
        drawn.flat[: min(drawn.size, len(special))] = special[: drawn.size]
    return drawn


def two_class_data(
    rows: int = 400, features: int = 6, seed: int = 0, dtype: str = "float32"
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Features of a few digits (so that every codec shortens them) and labels that overlap, in no
    order."""
    rng = np.random.default_rng(seed)
    X = np.round(rng.standard_normal((rows, features)) * 4).astype(dtype)
    y = (
        X.astype(np.float64) @ rng.standard_normal(features) + 4 * rng.standard_normal(rows) > 0
    ).astype(np.int64)
    return X, y


def read_rows(
    source: ZarrSource, step: int, start: int = 0, stop: int | None = None
) -> NDArray[Any]:
    """Features from ``start`` to ``stop``, (k, n), read ``step`` rows at a time into one buffer."""
    buffer, stop = Buffer(), source.n_rows if stop is None else stop
    parts = [
        source.read_features(at, min(at + step, stop), buffer).T.copy()
        for at in range(start, stop, step)
    ]
    return np.concatenate(parts)


def bits(values: NDArray[Any]) -> tuple[str, tuple[int, ...], bytes]:
    """What is equal only where type, shape and every bit of every value are, in the byte order of
    this machine: NaN equals NaN, and 0.0 not -0.0."""
    native = values.astype(values.dtype.newbyteorder("="))
    return str(native.dtype), native.shape, np.ascontiguousarray(native).tobytes()


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, and what it holds."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def chunk_paths(folder: Path) -> list[Path]:
    """The files of an array that are no metadata."""
    return sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and path.name != "zarr.json" and not path.name.startswith(".z")
    )


def runner() -> CliRunner:
    """Runs commands and keeps the two streams apart, as click does by itself from 8.2 on."""
    return CliRunner(
        **({"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {})
    )
