"""What stands at the paths of a store, and what is said of paths at which nothing of use does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import zarr

from streamlr.config.sections import DataConfig
from streamlr.data.chunks.absent import RefuseMissing
from streamlr.data.chunks.failures import Failure, failure_of, reason
from streamlr.data.chunks.retries import Retries, UnreadableError, retried
from streamlr.data.chunks.stored_array import StoredArray
from streamlr.data.chunks.wrapped import FarStore
from streamlr.data.conventions.attributes import refuse_odd_attributes, refuse_written_attributes
from streamlr.data.conventions.columns import (
    Column,
    Node,
    Opener,
    encoding_of,
    is_column,
    open_column,
    refuse_part,
    written_share,
)
from streamlr.data.conventions.marks import MASK_SUFFIX, Meaning
from streamlr.data.records import holds_pickles
from streamlr.data.sources.far import has_no_listing
from streamlr.errors import (
    DtypeError,
    ShapeError,
    StoreNotFoundError,
    StoreUnreachableError,
    option,
)

_NAMED = 20
_NONE = "no arrays"
_SPARSE = ("csr_matrix", "csc_matrix")


@dataclass(frozen=True, slots=True)
class Place:
    """Where nodes are looked for."""

    group: zarr.Group
    """The group of the store."""
    config: DataConfig
    """What is asked of the store."""
    how: Retries
    """How long it is tried to open what is in it."""


def node_at(place: Place, name: str, key: str) -> Node:
    """The array or group at a path, which a key of the configuration names.

    Raises
    ------
    StoreNotFoundError
        When there is none, or none that can be opened.
    DtypeError
        When its values are pickles, or its attributes no mapping.
    """
    group, store = place.group, place.config.shown_store
    try:
        node = retried(lambda: group[name], lambda: f"{name!r} in {store!r}", place.how)
    except KeyError:
        held = _held(lambda: _nearby(place, name, key), place.config)
        raise StoreNotFoundError(
            f"{store!r} has no array {name!r} ({key}){_unless_refused(place)}; {held}"
        ) from None
    except Exception as error:  # of damaged metadata Zarr makes whatever it likes
        what = f"{name!r} ({key}) in {store!r}"
        if isinstance(error, TypeError | ValueError):
            refuse_written_attributes(group, name, what)
        raise _unopened(error, what, place.config) from None
    if isinstance(node, zarr.Array) and holds_pickles(node):
        raise DtypeError(
            f"{name!r} ({key}) in {store!r} is stored as pickles, which could execute anything; "
            "write it again as numbers or text"
        )
    refuse_odd_attributes(node, f"{name!r} ({key}) in {store!r}")
    return node


def _unopened(error: Exception, what: str, config: DataConfig) -> Exception:
    """What is raised where something is there that cannot be opened."""
    if failure_of(error) is Failure.MEMORY:
        return error
    if isinstance(error, UnreadableError):
        return StoreUnreachableError(
            f"{what} cannot be opened, {error}; see to the disk or the network, then start again, "
            f"or add {option('resume')} to go on with a run"
        )
    why = f"{type(error).__name__}: {config.without_secrets(reason(error))}"
    return StoreNotFoundError(
        f"{what} cannot be opened ({why}); restore its metadata (zarr.json or .zarray), or write "
        "the store again"
    )


def _unless_refused(place: Place) -> str:
    """For the message of what is missing: it may be there for others."""
    store = place.group.store
    store = store.wrapped if isinstance(store, RefuseMissing) else store
    if not isinstance(store, FarStore) or store.refusal is None:
        return ""
    why = place.config.without_secrets(reason(store.refusal))
    return f", or none that may be read ({why})"


def find(place: Place, name: str, key: str) -> Node | None:
    """The same; None where there is nothing."""
    return node_at(place, name, key) if holds(place, name) else None


def holds(place: Place, name: str) -> bool:
    """Whether there is something at a path."""
    group, store = place.group, place.config.shown_store
    try:
        return retried(lambda: name in group, lambda: f"{name!r} in {store!r}", place.how)
    except Exception:  # there is something, and opening it says what is wrong with it
        return True


def member(place: Place, name: str, key: str) -> zarr.Array[Any]:
    """The array at a path.

    Raises
    ------
    DataError
        When there is none, or it is a part of a column.
    """
    node = node_at(place, name, key)
    _refuse_part(place, name, key)
    if isinstance(node, zarr.Array):
        return node
    raise _is_a_group(node, name, key, place.config)


def column(
    place: Place,
    name: str,
    key: str,
    meaning: Meaning,
    stored: Callable[..., StoredArray],
) -> Column:
    """The values at a path for each example: an array, or the arrays that make up a column.

    Raises
    ------
    DataError
        When there is none, or it is a part of another.
    """
    node = node_at(place, name, key)
    _refuse_part(place, name, key)
    if isinstance(node, zarr.Group) and not is_column(node):
        raise _is_a_group(node, name, key, place.config)

    def at(path: str) -> Node:
        return node_at(place, path, key)

    return open_column(name, Opener(at, lambda path: find(place, path, key), stored, meaning))


def mask_of(place: Place, features: zarr.Array[Any], meaning: Meaning) -> str | None:
    """Name of the array that is true where a feature is missing; None where nothing is marked so.

    Raises
    ------
    ShapeError
        When it does not go with the features.
    """
    name = place.config.features + MASK_SUFFIX
    mask = find(place, name, "data.features") if meaning.vcf else None
    if not isinstance(mask, zarr.Array) or written_share(mask) == 0:
        return None
    if mask.shape != features.shape or mask.dtype.kind != "b":
        raise ShapeError(
            f"{name} in {place.config.shown_store} has shape {mask.shape} and dtype {mask.dtype}; "
            f"expected bools of the shape {features.shape}, true where {place.config.features} is "
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
    held = _held(lambda: _contents(node, f"{name}/", key), config)
    return StoreNotFoundError(f"{what} is a group, not an array; {held}")


def _refuse_part(place: Place, name: str, key: str) -> None:
    above = name.strip("/").rpartition("/")[0]
    parent = find(place, above, key) if above else None
    refuse_part(name, key, parent, repr(place.config.shown_store))


def _held(contents: Callable[[], str], config: DataConfig) -> str:
    """What a group holds, for the message of what it does not."""
    try:
        found = contents()
        if found != _NONE or not has_no_listing(config.store):
            return f"it holds {found}"
    except Exception as error:  # file systems raise whatever they like
        if failure_of(error) is Failure.MEMORY:
            raise
    return (
        "what it holds cannot be listed, so name one that you know it has, or write what it holds "
        "into its metadata (zarr.consolidate_metadata)"
    )


def _nearby(place: Place, name: str, key: str) -> str:
    """What there is in the group that a path leads into, if there is one, else in which it
    begins."""
    above, below, group = name.strip("/").rpartition("/")[0], "", place.group
    parent = group[above] if above and holds(place, above) else group
    if isinstance(parent, zarr.Group) and parent.path != group.path:
        group, below = parent, f"{above}/"
    return _contents(group, below, key)


def _contents(group: zarr.Group, below: str, key: str) -> str:
    """Arrays and columns of a group, by the paths that find them; else its groups, and a hint."""
    columns = [name for name, inner in group.groups() if is_column(inner)]
    arrays = [f"{below}{name}" for name in sorted([*group.array_keys(), *columns])]
    groups = [f"{below}{name}" for name in sorted(group.group_keys())]
    if arrays or not groups:
        return _first(arrays) or _NONE
    return (
        f"no arrays, but groups ({_first(groups)}): set {key}: {groups[0]}/NAME for an array in "
        "one of them"
    )


def _first(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(names[:_NAMED]) + more
