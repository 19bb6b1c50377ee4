"""How the group of a store is opened, and what is told where it cannot be."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import zarr
from zarr.abc.store import Store
from zarr.storage import ZipStore

from streamlr.config.places import local_path
from streamlr.config.sections import HIDDEN, NOT_KEPT, DataConfig
from streamlr.data.chunks.absent import RefuseMissing
from streamlr.data.chunks.failures import Failure, failure_of
from streamlr.data.chunks.retries import Retries, UnreadableError, retried
from streamlr.data.records import local_store
from streamlr.data.sources.far import far_error, far_store, has_no_listing, is_far_address
from streamlr.errors import (
    ConfigError,
    DataError,
    StoreNotFoundError,
    StoreUnreachableError,
    option,
    override,
)

T = TypeVar("T")

NOBODY_SECONDS = 10.0
"""For how long a store is looked for at an address where nobody answers: it may be a wrong one."""


def open_group(config: DataConfig, how: Retries) -> zarr.Group:
    """Open the group of a store for reading; unless told otherwise, absent chunks will be errors.

    Parameters
    ----------
    config
        Where it is.
    how
        How long that is tried.

    Raises
    ------
    StoreNotFoundError
        When there is nothing at the path, or no group, or it cannot be reached.
    """
    path = local_path(config.store)  # Zarr has a slow generic file system for file://
    if not path:
        raise ConfigError("data.store: missing; give the path or URL of a Zarr group")
    _refuse_hidden(config)
    group = _open_far(path, config, how) if is_far_address(path) else _open_here(path, config, how)
    if config.missing_chunks == "fill":
        return group
    wrapped, inside = RefuseMissing(group.store), group.path
    consolidated = None if has_no_listing(config.store) else False
    with _explained(config, config.shown_store):
        return retried(
            lambda: zarr.open_group(wrapped, path=inside, mode="r", use_consolidated=consolidated),
            lambda: config.shown_store,
            how,
        )


def _open_here(path: str, config: DataConfig, how: Retries) -> zarr.Group:
    location: str | Store = path
    try:
        if "://" not in path:
            _require_directory(Path(path))
    except PermissionError as error:  # of a folder above it
        raise StoreNotFoundError(
            f"no store at {path!r} can be opened: {error.strerror} ({str(error.filename)!r}); "
            "check data.store, or give the user that runs this the right to read it"
        ) from error
    except OSError as error:
        if isinstance(error, DataError):
            raise
        raise StoreNotFoundError(
            f"no store at {path!r:.80}: {error.strerror}; check data.store"
        ) from error
    with _explained(config, config.shown_store):
        if "://" not in path:
            location = (
                ZipStore(path, mode="r")
                if Path(path).is_file()
                else local_store(path, read_only=True)
            )
        options = config.storage_options or None
        return retried(
            lambda: zarr.open_group(
                location, mode="r", use_consolidated=False, storage_options=options
            ),
            lambda: config.shown_store,
            how,
        )


def _open_far(url: str, config: DataConfig, how: Retries) -> zarr.Group:
    """Where nothing can be listed, consolidated metadata are believed: they alone tell what there
    is, and nobody has to be asked for what there is not."""
    store = far_store(url, config)
    consolidated = None if has_no_listing(url) else False
    try:
        return retried(
            lambda: zarr.open_group(store, mode="r", use_consolidated=consolidated),
            lambda: config.shown_store,
            how,
        )
    except Exception as error:  # file systems raise whatever they like
        if failure_of(error) is Failure.MEMORY:
            raise
        raise far_error(error, store, config) from None


@contextmanager
def _explained(config: DataConfig, where: str) -> Iterator[None]:
    """Turn whatever is raised while a group is opened into errors of ours that name it."""
    try:
        yield
    except UnreadableError as error:
        raise StoreUnreachableError(
            f"{where!r} cannot be opened, {error}; see to the disk or the network, then start "
            f"again, or add {option('resume')} "
            "to go on with a run"
        ) from None
    except Exception as error:
        # file systems raise whatever they like, and may name the address with all that it holds
        if isinstance(error, DataError) or failure_of(error) is Failure.MEMORY:
            raise
        raise StoreNotFoundError(
            f"no Zarr group at {where!r} ({type(error).__name__}: "
            f"{config.without_secrets(str(error))}); "
            "check data.store"
        ) from None


def _refuse_hidden(config: DataConfig) -> None:
    """The ``config.yaml`` of a run leaves out what may be secret."""
    hidden = [
        f"data.storage_options.{name}"
        for name, value in config.storage_options.items()
        if value == NOT_KEPT
    ]
    if "://" in config.store and HIDDEN in config.store:
        hidden.append("data.store")
    if hidden:
        raise ConfigError(
            f"{' and '.join(hidden)}: the config.yaml of a run does not keep what may be secret, "
            f"and has {NOT_KEPT} or {HIDDEN} in its place; "
            f"fill it in again, for instance with {override(f'{hidden[0]}=...')}"
        )


def _require_directory(path: Path) -> None:
    """Zarr's own message for a wrong path does not help; and an array is a likely mistake."""
    if path.is_symlink() and not path.exists():
        raise StoreNotFoundError(
            f"no store at {str(path)!r}: it is a link that leads nowhere, or in a circle; check "
            "data.store"
        )
    if not path.exists():
        near = path.parent
        while not near.exists() and near != near.parent:
            near = near.parent
        raise StoreNotFoundError(
            f"no store at {str(path)!r}: it does not exist (the nearest folder that does is "
            f"{str(near)!r}); check data.store"
        )
    if path.is_file() and path.suffix == ".h5ad":
        raise StoreNotFoundError(
            f"no Zarr group at {str(path)!r}: it is AnnData in HDF5; write it as Zarr "
            "(anndata.read_h5ad(FILE).write_zarr(STORE)) and give that"
        )
    if path.is_file() and path.suffix != ".zip":
        raise StoreNotFoundError(
            f"no Zarr group at {str(path)!r}: it is a file; make a store of a table with "
            "`streamlr ingest`"
        )
    if (path / "model.zarr").exists():
        raise StoreNotFoundError(
            f"no Zarr group at {str(path)!r}: it is the directory of a run; data.store must be "
            "the group that holds features and target"
        )
    if (path / ".zarray").exists() or _node_type(path / "zarr.json") == "array":
        raise StoreNotFoundError(
            f"{str(path)!r} is a Zarr array; data.store must be the group that holds features and "
            "target"
        )


def _node_type(metadata: Path) -> str | None:
    try:
        return str(json.loads(metadata.read_text(encoding="utf-8")).get("node_type"))
    except (OSError, ValueError, AttributeError, TypeError, RecursionError):
        return None
