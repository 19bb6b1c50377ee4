"""Names of the features, wherever the conventions of a store keep them.

First of all an array or an attribute ``feature_names``, streamlr's own way, beside the features or
in the group of the store. Then

- AnnData: the index of the frame along the axis, ``var[var.attrs["_index"]]`` (for ``raw/X`` that
  of ``raw/var``); it may be text, a categorical or text with a mask.
- xarray: the coordinate, a 1-D array named as the axis, beside the features or in a group above.
- VCF Zarr: ``variant_id`` or ``sample_id``; a variant without an identifier is named by its place.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray

from streamlr.data.chunks.absent import RefuseMissing
from streamlr.data.chunks.failures import Failure, failure_of, reason
from streamlr.data.chunks.retries import Retries, UnreadableError, retried
from streamlr.data.chunks.stored_array import StoredArray
from streamlr.data.conventions.attributes import (
    axes_of,
    refuse_odd_attributes,
    refuse_written_attributes,
)
from streamlr.data.conventions.columns import Column, Node, Opener, is_column, open_column
from streamlr.data.conventions.coordinates import coordinate_texts, texts
from streamlr.data.conventions.marks import Meaning
from streamlr.data.records import holds_pickles
from streamlr.errors import ChunkError, DtypeError, ShapeError

_FRAMES: dict[str, tuple[str, str | None]] = {
    "layers": ("obs", "var"),
    "obsp": ("obs", "obs"),
    "varp": ("var", "var"),
    "obsm": ("obs", None),
    "varm": ("var", None),
}
"""AnnData's frames along the two axes of what lies in a folder; None where nothing names them."""
_VCF_NAMES = {"variants": "variant_id", "samples": "sample_id"}
_NO_IDENTIFIER = ("", ".")


class FeatureNames(NamedTuple):
    """What the features are called, and which array or attribute says so."""

    names: tuple[str, ...]
    """One for each feature."""
    origin: str
    """Path in the store."""


@dataclass(frozen=True, slots=True)
class NamedAxis:
    """The axis of an array whose names are looked for."""

    group: zarr.Group
    """The store."""
    path: str
    """Of the array."""
    axes: tuple[str, ...]
    """Names of its axes, or none."""
    axis: int
    """Along which the features lie."""
    size: int
    """How many there are."""
    store: str
    """How messages name the store."""
    how: Retries
    """How its reads are tried again."""

    @property
    def folders(self) -> list[str]:
        """Groups around the array, from the nearest to the store, "" or with a slash at the end."""
        parts = self.path.strip("/").split("/")[:-1]
        return ["".join(f"{part}/" for part in parts[:n]) for n in range(len(parts), -1, -1)]

    def node(self, path: str) -> Node | None:
        """What stands at a path of the store, if anything does."""
        try:
            node = retried(lambda: self.group[path], lambda: f"{path} of {self.store}", self.how)
        except KeyError:
            return None
        except Exception as error:  # of damaged metadata Zarr makes whatever it likes
            if isinstance(error, TypeError | ValueError):
                what = f"{path!r} (names of the features) in {self.store!r}"
                refuse_written_attributes(self.group, path, what)
            raise self._unread(
                error,
                f"{path} of {self.store}, which may name the features, cannot be opened",
                "restore its metadata (zarr.json or .zarray), or remove it",
            ) from None
        refuse_odd_attributes(node, f"{path!r} (names of the features) in {self.store!r}")
        return node

    def _unread(self, error: Exception, what: str, remedy: str) -> Exception:
        """What is raised where something cannot be read: its own error, if it is not what is at
        fault."""
        if failure_of(error) is Failure.MEMORY:
            return error
        if isinstance(error, UnreadableError):
            return ChunkError(f"{what}, {error}; see to the disk or the network, then start again")
        return ChunkError(
            f"{what} ({type(error).__name__}: {self.how.scrub(reason(error))}); {remedy}"
        )

    def values(self, array: zarr.Array[Any]) -> NDArray[Any]:
        """All of an array.

        Absent chunks of numbers hold the fill value, since that is how 0 and False are mostly
        kept; those of text are an error.
        """
        path = array.path.removeprefix(self.group.path).strip("/")
        if holds_pickles(array):
            raise DtypeError(
                f"{path} of {self.store}, which names the features, is stored as pickles, which "
                "could execute anything; write it again as numbers or text, or remove it"
            )
        array = _filled(array)
        try:
            what = f"{path} of {self.store}"
            return np.asarray(retried(lambda: array[...], lambda: what, self.how, fetch_again=True))
        except Exception as error:  # codecs and stores raise whatever they like
            raise self._unread(
                error, f"{what} cannot be read", "write that array again, or remove it"
            ) from None

    def column(self, path: str) -> Column:
        """A column of a frame of AnnData."""

        def part(path: str) -> Node:
            node = self.node(path)
            if node is None:
                raise ShapeError(
                    f"{self.store!r} has no {path}, a part of a column that names the features; "
                    "write the column again"
                )
            return node

        def stored(array: zarr.Array[Any], *, filled: bool = False) -> StoredArray:
            array = _filled(array)
            fill = filled or not isinstance(array.store, RefuseMissing)
            return StoredArray(array, fill_missing=fill, direct=False, retries=self.how)

        return open_column(
            path, Opener(part, self.node, stored, Meaning(where=f" of {self.store}"))
        )


def _filled(array: zarr.Array[Any]) -> zarr.Array[Any]:
    """The same array, of whose numbers absent chunks hold the fill value."""
    if isinstance(array.store, RefuseMissing) and np.dtype(array.dtype).kind in "biufmM":
        return zarr.open_array(array.store.wrapped, path=array.path, mode="r")
    return array


def read_names(where: NamedAxis) -> FeatureNames | None:
    """The names of the features; None where no convention has any.

    Raises
    ------
    ShapeError
        For names that are not as many as the features.
    ChunkError, DtypeError
        For names that cannot be read.
    """
    found = _listed(where) or _index_of_frame(where) or _coordinate(where)
    if found is not None and len(found.names) != where.size:
        ours = found.origin.endswith("feature_names")
        raise ShapeError(
            f"{where.store!r} has {where.size} features but {len(found.names)} "
            f"{'feature_names' if ours else f'names in {found.origin}'}; they must agree"
        )
    return found


def _listed(where: NamedAxis) -> FeatureNames | None:
    """An array, or else an attribute, ``feature_names``."""
    for folder in where.folders:
        origin = f"{folder}feature_names"
        node = where.node(origin)
        if node is not None:
            return FeatureNames(_labels(where, node), origin)
        group = where.node(folder.rstrip("/")) if folder else where.group
        names = None if group is None else group.attrs.get("feature_names")
        if names is None:
            continue
        if not isinstance(names, list) or not all(isinstance(n, str | int | float) for n in names):
            raise ShapeError(
                f"the attribute {origin} of {where.store!r} is no list of texts; write one text "
                "for each feature, or remove it"
            )
        return FeatureNames(texts(names), origin)
    return None


def _index_of_frame(where: NamedAxis) -> FeatureNames | None:
    """AnnData: the index of ``var``, or of whatever frame lies along the axis."""
    *above, name = where.path.strip("/").split("/")
    folder = above[-1] if above else ""
    if name == "X":
        frames: tuple[str, str | None] = ("obs", "raw/var" if folder == "raw" else "var")
        root = above[:-1] if folder == "raw" else above
    elif folder in _FRAMES:
        frames, root = _FRAMES[folder], above[:-1]
    else:
        return None
    frame = frames[where.axis]
    if frame is None:
        return None
    path = "/".join([*root, frame])
    node = where.node(path)
    index = node.attrs.get("_index") if isinstance(node, zarr.Group) else None
    column = where.node(f"{path}/{index}") if isinstance(index, str) and index else None
    return None if column is None else FeatureNames(_labels(where, column), f"{path}/{index}")


def _labels(where: NamedAxis, column: Node) -> tuple[str, ...]:
    """Text, and AnnData's columns as what they mean; what is missing is ""."""
    if isinstance(column, zarr.Array):
        return texts(where.values(column).ravel())
    path = column.path.removeprefix(where.group.path).strip("/")
    if not is_column(column):
        raise ShapeError(
            f"{path} of {where.store!r}, which names the features, is neither an array nor a "
            "categorical (codes, categories) nor text with a mask (values, mask); write it again "
            "as an array of texts"
        )
    values, missing = where.column(path).read_all()
    named = zip(texts(values), missing.tolist(), strict=True)
    return tuple("" if gap else name for name, gap in named)


def _coordinate(where: NamedAxis) -> FeatureNames | None:
    """xarray: the 1-D array named as the axis; VCF Zarr: the identifiers along it."""
    axis = where.axes[where.axis] if len(where.axes) == 2 else ""
    if axis in ("", ".", "..", "None") or "/" in axis:
        return None
    candidates = [axis, *([_VCF_NAMES[axis]] if axis in _VCF_NAMES else [])]
    for folder in where.folders:
        for path in (folder + name for name in candidates):
            node = where.node(path)
            if not isinstance(node, zarr.Array) or not _lies_along(node, axis, where):
                continue
            if path.endswith("variant_id"):
                return FeatureNames(_identifiers(where, folder, node), path)
            return FeatureNames(coordinate_texts(where.values(node), node.attrs), path)
    return None


def _lies_along(array: zarr.Array[Any], axis: str, where: NamedAxis) -> bool:
    """Whether an array lies along this axis alone; if it does not say so its length has to fit."""
    axes = axes_of(array)
    return array.ndim == 1 and (axes == (axis,) or (not axes and array.shape == (where.size,)))


def _identifiers(where: NamedAxis, folder: str, array: zarr.Array[Any]) -> tuple[str, ...]:
    """Identifiers of variants; for those without one their place, where the store has it."""
    names = texts(where.values(array))
    if not any(name in _NO_IDENTIFIER for name in names):
        return names
    places = _places(where, folder, len(names))
    if places is None:
        return names
    return tuple(
        place if name in _NO_IDENTIFIER else name for name, place in zip(names, places, strict=True)
    )


def _places(where: NamedAxis, folder: str, count: int) -> Sequence[str] | None:
    """``chr1:12345:A:T`` of each variant; None where contigs or positions are not there."""
    wanted = ("contig_id", "variant_contig", "variant_position", "variant_allele")
    nodes = {name: where.node(folder + name) for name in wanted}
    arrays = {
        name: where.values(node) for name, node in nodes.items() if isinstance(node, zarr.Array)
    }
    if any(name not in arrays for name in wanted[:3]):
        return None
    contigs = texts(arrays["contig_id"])
    numbers, positions = arrays["variant_contig"], arrays["variant_position"]
    alleles = arrays.get("variant_allele", np.empty((count, 0), dtype=object))
    if not len(numbers) == len(positions) == len(alleles) == count:
        return None
    if numbers.min() < 0 or numbers.max() >= len(contigs):
        return None
    rows = zip(numbers.tolist(), positions.tolist(), alleles, strict=True)
    return [
        ":".join([contigs[number], str(position), *_known(texts(of))])
        for number, position, of in rows
    ]


def _known(alleles: Sequence[str]) -> list[str]:
    """Those that are there: rows of alleles are filled up with nothing."""
    return [allele for allele in alleles if allele not in _NO_IDENTIFIER]
