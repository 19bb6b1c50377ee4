"""What stands at the paths of a store, and what is said of paths at which nothing of use does."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import zarr

from streamlr.config import DataConfig
from streamlr.data.arrays import StoredArray
from streamlr.data.columns import (
    Column,
    Node,
    Opener,
    encoding_of,
    is_column,
    open_column,
    refuse_part,
    written_share,
)
from streamlr.data.conventions import refuse_odd_attributes
from streamlr.data.marks import MASK_SUFFIX, Meaning
from streamlr.data.records import holds_pickles
from streamlr.data.retries import retried
from streamlr.errors import DtypeError, ShapeError, StoreNotFoundError

_NAMED = 20
_SPARSE = ("csr_matrix", "csc_matrix")


def node_at(group: zarr.Group, name: str, key: str, config: DataConfig) -> Node:
    """The array or group at a path, which a key of the configuration names.

    Raises
    ------
    StoreNotFoundError
        When there is none, or none that can be opened.
    DtypeError
        When its values are pickles, or its attributes no mapping.
    """
    store = config.shown_store
    try:
        node = retried(lambda: group[name], lambda: f"{name!r} in {store!r}")
    except KeyError:
        near = _nearest(group, name)
        below = "" if near.path == group.path else f"{name.strip('/').rpartition('/')[0]}/"
        raise StoreNotFoundError(
            f"{store!r} has no array {name!r} ({key}); it holds {_contents(near, below, key)}"
        ) from None
    except Exception as error:  # of damaged metadata Zarr makes whatever it likes
        why = f"{type(error).__name__}: {config.without_secrets(str(error))}"
        raise StoreNotFoundError(
            f"{name!r} ({key}) in {store!r} cannot be opened ({why}); "
            "restore its metadata (zarr.json or .zarray), or write the store again"
        ) from None
    if isinstance(node, zarr.Array) and holds_pickles(node):
        raise DtypeError(
            f"{name!r} ({key}) in {store!r} is stored as pickles, which could execute anything; "
            "write it again as numbers or text"
        )
    refuse_odd_attributes(node, f"{name!r} ({key}) in {store!r}")
    return node


def find(group: zarr.Group, name: str, key: str, config: DataConfig) -> Node | None:
    """The same; None where there is nothing."""
    return node_at(group, name, key, config) if holds(group, name) else None


def holds(group: zarr.Group, name: str) -> bool:
    """Whether there is something at a path."""
    try:
        return name in group
    except Exception:  # there is something, and opening it says what is wrong with it
        return True


def member(group: zarr.Group, name: str, key: str, config: DataConfig) -> zarr.Array[Any]:
    """The array at a path.

    Raises
    ------
    DataError
        When there is none, or it is a part of a column.
    """
    node = node_at(group, name, key, config)
    _refuse_part(group, name, key, config)
    if isinstance(node, zarr.Array):
        return node
    raise _is_a_group(node, name, key, config)


def column(
    group: zarr.Group,
    name: str,
    key: str,
    config: DataConfig,
    meaning: Meaning,
    stored: Callable[..., StoredArray],
) -> Column:
    """The values at a path for each example: an array, or the arrays that make up a column.

    Raises
    ------
    DataError
        When there is none, or it is a part of another.
    """
    node = node_at(group, name, key, config)
    _refuse_part(group, name, key, config)
    if isinstance(node, zarr.Group) and not is_column(node):
        raise _is_a_group(node, name, key, config)

    def at(path: str) -> Node:
        return node_at(group, path, key, config)

    return open_column(
        name, Opener(at, lambda path: find(group, path, key, config), stored, meaning)
    )


def mask_of(
    group: zarr.Group, features: zarr.Array[Any], meaning: Meaning, config: DataConfig
) -> str | None:
    """Name of the array that is true where a feature is missing; None where nothing is marked so.

    Raises
    ------
    ShapeError
        When it does not go with the features.
    """
    name = config.features + MASK_SUFFIX
    mask = find(group, name, "data.features", config) if meaning.vcf else None
    if not isinstance(mask, zarr.Array) or written_share(mask) == 0:
        return None
    if mask.shape != features.shape or mask.dtype.kind != "b":
        raise ShapeError(
            f"{name} in {config.shown_store} has shape {mask.shape} and dtype {mask.dtype}; "
            f"expected bools of the shape {features.shape}, true where {config.features} is "
            "missing: write it again, or remove it"
        )
    return name


def _is_a_group(
    node: zarr.Group, name: str, key: str, config: DataConfig
) -> DtypeError | StoreNotFoundError:
    """The error for a path at which a group stands that no array is read from."""
    what, encoding = f"{name!r} ({key}) in {config.shown_store!r}", encoding_of(node)
    if encoding in _SPARSE:
        return DtypeError(
            f"{what} is a sparse matrix ({encoding}), and its arrays mean nothing without one "
            "another; write it as a dense array"
        )
    if is_column(node):
        return StoreNotFoundError(
            f"{what} is a column ({encoding}) of one value for each row; name an array of two axes"
        )
    held = _contents(node, f"{name}/", key)
    return StoreNotFoundError(f"{what} is a group, not an array; it holds {held}")


def _refuse_part(group: zarr.Group, name: str, key: str, config: DataConfig) -> None:
    above = name.strip("/").rpartition("/")[0]
    parent = find(group, above, key, config) if above else None
    refuse_part(name, key, parent, repr(config.shown_store))


def _nearest(group: zarr.Group, name: str) -> zarr.Group:
    """The group that a path leads into, if there is one, else that in which it begins."""
    above = name.strip("/").rpartition("/")[0]
    parent = group[above] if above and holds(group, above) else group
    return parent if isinstance(parent, zarr.Group) else group


def _contents(group: zarr.Group, below: str, key: str) -> str:
    """Arrays and columns of a group, by the paths that find them; else its groups, and a hint."""
    columns = [name for name, inner in group.groups() if is_column(inner)]
    arrays = [f"{below}{name}" for name in sorted([*group.array_keys(), *columns])]
    groups = [f"{below}{name}" for name in sorted(group.group_keys())]
    if arrays or not groups:
        return _first(arrays) or "no arrays"
    return (
        f"no arrays, but groups ({_first(groups)}): set {key}: {groups[0]}/NAME for an array in "
        "one of them"
    )


def _first(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
