"""Small records of arrays and attributes, such as models, as Zarr groups that appear whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from streamlr.errors import DataError


def local_store(path: str | Path, *, read_only: bool = False) -> LocalStore:
    """A directory as Zarr's store. Never hand Zarr a path as text: it may read one with ``#``, ``?`` or ``:`` as an address."""
    return LocalStore(Path(path), read_only=read_only)


def write_record(path: Path, arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]) -> None:
    """Write a group beside its place, then rename it there; what stood there before is replaced."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    group = zarr.open_group(local_store(partial), mode="w", zarr_format=3, attributes=dict(attributes))
    for name, values in arrays.items():
        group.create_array(name, data=np.ascontiguousarray(values), config={"write_empty_chunks": True})
    commit_directory(partial, path)


def commit_directory(partial: Path, path: Path) -> None:
    """Flush a finished directory to the disk and give it its name."""
    for folder, _, names in os.walk(partial):
        for name in names:
            sync_path(Path(folder, name))
        sync_path(Path(folder))
    if path.exists():
        old = path.with_name(f".{path.name}.old-{os.getpid()}")
        os.replace(path, old)
        os.replace(partial, path)
        shutil.rmtree(old)
    else:
        os.replace(partial, path)
    sync_path(path.parent)


def sync_path(path: Path) -> None:
    """Flush a file or directory to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def holds_pickles(array: zarr.Array[Any]) -> bool:
    """Whether a codec of the array would unpickle what it reads, which could execute anything."""
    return "pickle" in json.dumps(array.metadata.to_dict(), default=str).split('"')


def read_attributes(path: Path) -> dict[str, Any] | None:
    """Attributes of a group, or None where there is no group that can be opened."""
    try:
        return dict(zarr.open_group(local_store(path, read_only=True), mode="r", use_consolidated=False).attrs)
    except Exception:  # codecs and stores raise whatever they like
        return None


def read_array(path: Path, name: str) -> NDArray[Any]:
    """One array of a group.

    Raises
    ------
    DataError
        When it cannot be read whole.
    """
    try:
        group = zarr.open_group(local_store(path, read_only=True), mode="r", use_consolidated=False)
        array = group[name]
        if not isinstance(array, zarr.Array) or holds_pickles(array):
            raise DataError("it is no array of numbers or text")
        return np.asarray(array[...])
    except Exception as error:  # codecs and stores raise whatever they like
        raise DataError(f"{name!r} in {str(path)!r} cannot be read ({type(error).__name__}: {error}); restore it or train again") from error
