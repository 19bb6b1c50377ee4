"""Small records of arrays and attributes, such as models, as Zarr groups that appear whole or not
at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.storage import LocalStore

from streamlr.errors import DataError, WriteError


def local_store(path: str | Path, *, read_only: bool = False) -> LocalStore:
    """A directory as Zarr's store. Never hand Zarr a path as text: it may read one with ``#``,
    ``?`` or ``:`` as an address."""
    return LocalStore(Path(path), read_only=read_only)


def write_record(
    path: Path, arrays: Mapping[str, NDArray[Any]], attributes: Mapping[str, Any]
) -> None:
    """Write a group beside its place, then rename it there; what stood there before is replaced."""
    partial = path.with_name(f".{path.name}.partial-{os.getpid()}")
    shutil.rmtree(partial, ignore_errors=True)
    with writing(path):
        try:
            group = zarr.open_group(
                local_store(partial), mode="w", zarr_format=3, attributes=dict(attributes)
            )
            for name, values in arrays.items():
                group.create_array(
                    name, data=np.ascontiguousarray(values), config={"write_empty_chunks": True}
                )
            commit_directory(partial, path)
        except OSError:
            shutil.rmtree(
                partial, ignore_errors=True
            )  # on a full disk it would be in the way of the next attempt
            raise


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the operating system says while a file is written into a `WriteError` that names
    the file and what is free there."""
    try:
        yield
    except WriteError:
        raise
    except OSError as error:
        free = ""
        with suppress(OSError):
            free = f"; {shutil.disk_usage(path.parent).free / 1e6:,.1f} MB are free there"
        raise WriteError(f"cannot write {str(path)!r} ({error.strerror or error}{free})") from error


def commit_file(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Write a file beside its place, flush it to the disk and give it its name, which outlives a
    power cut too.

    Raises
    ------
    WriteError
        When there is no room, or no permission; what stood there before still does.
    """
    partial = path.with_name(f".{path.name}.partial")
    with writing(path):
        try:
            partial.unlink(missing_ok=True)
            with open(partial, "xb") as file:  # never through a link that somebody put there
                write(file)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, path)
        except OSError:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
            raise
        sync_path(path.parent)


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
        if old.is_dir() and not old.is_symlink():
            shutil.rmtree(old)
        else:
            old.unlink()
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
        return dict(
            zarr.open_group(
                local_store(path, read_only=True), mode="r", use_consolidated=False
            ).attrs
        )
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
        raise DataError(
            f"{name!r} in {str(path)!r} cannot be read ({type(error).__name__}: {error}); restore "
            "it or train again"
        ) from error
