"""Small records of arrays and attributes, such as models, as Zarr groups that appear whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from streamlr.errors import DataError


def write_record(path: Path, arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]) -> None:
    """Write a group beside its place, then rename it there; what stood there before is replaced."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    group = zarr.open_group(str(partial), mode="w", zarr_format=3, attributes=dict(attributes))
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


def read_record(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays and attributes of a group.

    Raises
    ------
    DataError
        When it cannot be read whole.
    """
    try:
        group = zarr.open_group(str(path), mode="r", use_consolidated=False)
        return {name: np.asarray(array[...]) for name, array in group.arrays()}, dict(group.attrs)
    except Exception as error:  # codecs and stores raise whatever they like
        raise DataError(f"{str(path)!r} cannot be read ({type(error).__name__}: {error}); restore it or train again") from error
