"""Names of the features, wherever the conventions of a store keep them.

First of all an array or an attribute ``feature_names``, streamlr's own way, beside the features or
in the group of the store. Then

- AnnData: the index of the frame along the axis, ``var[var.attrs["_index"]]`` (for ``raw/X`` that
  of ``raw/var``); it may be text, a categorical or text with a mask.
- xarray: the coordinate, a 1-D array named as the axis, beside the features or in a group above.
- VCF Zarr: ``variant_id`` or ``sample_id``; a variant without an identifier is named by its place.

Numbers become text, as Python shows them; dates become dates.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import zarr
from numpy.typing import NDArray

from streamlr.data.arrays import RefuseMissing, text_of
from streamlr.data.conventions import axes_of
from streamlr.data.records import holds_pickles
from streamlr.data.retries import retried
from streamlr.errors import ChunkError, DtypeError, ShapeError

_FRAMES = {"layers": ("obs", "var"), "obsp": ("obs", "obs"), "varp": ("var", "var"),
           "obsm": ("obs", None), "varm": ("var", None)}
"""AnnData's frames along the two axes of what lies in a folder; None where nothing names them."""
_VCF_NAMES = {"variants": "variant_id", "samples": "sample_id"}
_NO_IDENTIFIER = ("", ".")
_TIME_UNITS = {"days": "D", "hours": "h", "minutes": "m", "seconds": "s", "milliseconds": "ms",
               "microseconds": "us", "nanoseconds": "ns"}
_OUR_CALENDARS = ("standard", "gregorian", "proleptic_gregorian")


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
    scrub: Callable[[str], str]
    """Takes secrets out of the errors of file systems."""

    @property
    def folders(self) -> list[str]:
        """The groups that the array lies in, from the nearest to the store itself, "" or with a slash at the end."""
        parts = self.path.strip("/").split("/")[:-1]
        return ["".join(f"{part}/" for part in parts[:depth]) for depth in range(len(parts), -1, -1)]

    def node(self, path: str) -> zarr.Array[Any] | zarr.Group | None:
        """What stands at a path of the store, if anything does."""
        try:
            return retried(lambda: self.group[path], lambda: f"{path} of {self.store}")
        except KeyError:
            return None
        except Exception as error:  # of damaged metadata Zarr makes whatever it likes
            raise ChunkError(f"{path} of {self.store}, which may name the features, cannot be opened ({type(error).__name__}: {self.scrub(str(error))}); "
                             "restore its metadata (zarr.json or .zarray), or remove it") from None

    def values(self, array: zarr.Array[Any]) -> NDArray[Any]:
        """All of an array; absent chunks of numbers hold the fill value, since that is how 0 and False are mostly kept, but those of text are an error."""
        path = array.path.removeprefix(self.group.path).strip("/")
        if holds_pickles(array):
            raise DtypeError(f"{path} of {self.store}, which names the features, is stored as pickles, which could execute anything; write it again as numbers "
                             "or text, or remove it")
        if isinstance(array.store, RefuseMissing) and np.dtype(array.dtype).kind in "biufmM":
            array = zarr.open_array(array.store.wrapped, path=array.path, mode="r")
        try:
            return np.asarray(retried(lambda: array[...], lambda: f"{path} of {self.store}"))
        except Exception as error:  # codecs and stores raise whatever they like
            raise ChunkError(f"{path} of {self.store} cannot be read ({type(error).__name__}: {self.scrub(str(error))}); "
                             "write that array again, or remove it") from None


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
        named = "feature_names" if found.origin.endswith("feature_names") else f"names in {found.origin}"
        raise ShapeError(f"{where.store!r} has {where.size} features but {len(found.names)} {named}; they must agree")
    return found


def _listed(where: NamedAxis) -> FeatureNames | None:
    """An array, or else an attribute, ``feature_names``."""
    for folder in where.folders:
        node = where.node(f"{folder}feature_names")
        if node is not None:
            return FeatureNames(_labels(where, node), f"{folder}feature_names")
        group = where.node(folder.rstrip("/")) if folder else where.group
        names = None if group is None else group.attrs.get("feature_names")
        if names is None:
            continue
        if not isinstance(names, list | tuple) or not all(isinstance(name, str | int | float) for name in names):
            raise ShapeError(f"the attribute feature_names of {where.store!r} is no list of texts; write one text for each feature, or remove it")
        return FeatureNames(_texts(names), f"{folder}feature_names")
    return None


def _index_of_frame(where: NamedAxis) -> FeatureNames | None:
    """AnnData: the index of ``var``, or of whatever frame lies along the axis."""
    parts = where.path.strip("/").split("/")
    if parts[-1] == "X" and parts[-2:-1] == ["raw"]:
        depth, frames = 2, ("obs", "raw/var")
    elif parts[-1] == "X":
        depth, frames = 1, ("obs", "var")
    elif len(parts) > 1 and parts[-2] in _FRAMES:
        depth, frames = 2, _FRAMES[parts[-2]]
    else:
        return None
    frame = frames[where.axis]
    if frame is None:
        return None
    path = "/".join([*parts[:-depth], frame])
    node = where.node(path)
    index = node.attrs.get("_index") if isinstance(node, zarr.Group) else None
    column = where.node(f"{path}/{index}") if isinstance(index, str) and index else None
    return None if column is None else FeatureNames(_labels(where, column), f"{path}/{index}")


def _labels(where: NamedAxis, column: zarr.Array[Any] | zarr.Group) -> tuple[str, ...]:
    """A column of AnnData's as what it means: text, a categorical, or values with a mask; what is missing has the name ""."""
    if isinstance(column, zarr.Array):
        return _texts(where.values(column).ravel())
    members = {name: column.get(name) for name in ("codes", "categories", "values", "mask")}
    arrays = {name: where.values(member).ravel() for name, member in members.items() if isinstance(member, zarr.Array)}
    if {"codes", "categories"} <= arrays.keys():
        categories, codes = _texts(arrays["categories"]), arrays["codes"].tolist()
        if max(codes, default=-1) < len(categories):
            return tuple(categories[code] if code >= 0 else "" for code in codes)
    if {"values", "mask"} <= arrays.keys() and arrays["values"].shape == arrays["mask"].shape:
        return tuple("" if masked else name for name, masked in zip(_texts(arrays["values"]), arrays["mask"].tolist(), strict=True))
    raise ShapeError(f"{column.path} of {where.store!r}, which names the features, is neither a categorical (codes, categories) nor text with a mask (values, "
                     "mask); write it again, or give the store an array feature_names")


def _coordinate(where: NamedAxis) -> FeatureNames | None:
    """xarray: the 1-D array named as the axis; VCF Zarr: the identifiers along it."""
    name = where.axes[where.axis] if len(where.axes) == 2 else ""
    if name in ("", ".", "..", "None") or "/" in name:
        return None
    for folder in where.folders:
        for path in (folder + name, *(folder + _VCF_NAMES[axis] for axis in _VCF_NAMES if axis == name)):
            node = where.node(path)
            if isinstance(node, zarr.Array) and path != where.path.strip("/") and _lies_along(node, name, where.size):
                return FeatureNames(_identifiers(where, folder, node) if path.endswith("variant_id") else _decoded(where.values(node), node.attrs), path)
    return None


def _lies_along(array: zarr.Array[Any], axis: str, size: int) -> bool:
    """Whether an array of one axis is said to lie along ``axis``; where that is not said, its length has to fit."""
    axes = axes_of(array)
    return array.ndim == 1 and (axes == (axis,) or (not axes and array.shape == (size,)))


def _texts(values: Iterable[Any]) -> tuple[str, ...]:
    """Numbers keep the precision of their type: 0.1 in float32 is "0.1"."""
    return tuple(text_of(value) for value in values)


def _decoded(values: NDArray[Any], attributes: Any) -> tuple[str, ...]:
    """A coordinate as the CF conventions mean it: packed numbers unpacked, and times with what they count from."""
    if values.dtype.kind in "mM":
        return tuple(_date(value) if values.dtype.kind == "M" else str(value) for value in values)
    if values.dtype.kind not in "iuf":
        return _texts(values)
    scale, shift = _number(attributes.get("scale_factor", 1)), _number(attributes.get("add_offset", 0))
    if (scale, shift) != (1, 0):
        values = values.astype(np.float64) * scale + shift
    units, calendar = str(attributes.get("units", "")), str(attributes.get("calendar", "standard"))
    unit, _, start = units.partition(" since ")
    if unit not in _TIME_UNITS:
        return _texts(values)
    dates = _dates(values, unit, start) if start and calendar in _OUR_CALENDARS else None
    if dates is not None:
        return dates
    other = "" if calendar in _OUR_CALENDARS else f" ({calendar})"
    return tuple(f"{value} {units}{other}" for value in values)


def _number(value: Any) -> float:
    """The number of an attribute, which some writers have in a list."""
    return float(value[0] if isinstance(value, list) else value)


def _dates(values: NDArray[Any], unit: str, start: str) -> tuple[str, ...] | None:
    """Dates so many units after a start; None where the start is not one that NumPy reads, or the numbers are not whole."""
    whole = np.array([int(value) for value in values.tolist()] if np.isfinite(values).all() else [], dtype=np.int64)
    if len(whole) != len(values) or (whole != values).any():
        return None
    clean = re.sub(r"(\.\d*?)0+$", r"\1", start.strip().removesuffix("Z").removesuffix(" UTC")).rstrip(".").replace(" ", "T")
    try:
        first = np.datetime64(clean)
    except ValueError:
        return None
    return tuple(_date(first + np.timedelta64(count, _TIME_UNITS[unit])) for count in whole.tolist())  # type: ignore[call-overload]


def _date(value: np.datetime64) -> str:
    """As pandas shows it: in seconds, or as many digits as it has."""
    for unit in ("s", "us"):
        rounded = value.astype(f"datetime64[{unit}]")
        if rounded == value:
            return str(rounded).replace("T", " ")
    return str(value).replace("T", " ")


def _identifiers(where: NamedAxis, folder: str, array: zarr.Array[Any]) -> tuple[str, ...]:
    """The identifiers of variants; of those without one contig, position and alleles, as far as the store has them."""
    names = _texts(where.values(array))
    if not any(name in _NO_IDENTIFIER for name in names):
        return names
    places = _places(where, folder, len(names))
    return names if places is None else tuple(place if name in _NO_IDENTIFIER else name for name, place in zip(names, places, strict=True))


def _places(where: NamedAxis, folder: str, count: int) -> Sequence[str] | None:
    """``chr1:12345:A:T`` of each variant; None where contigs or positions are not there."""
    nodes = {name: where.node(folder + name) for name in ("contig_id", "variant_contig", "variant_position", "variant_allele")}
    arrays = {name: where.values(node) for name, node in nodes.items() if isinstance(node, zarr.Array)}
    if any(name not in arrays for name in ("contig_id", "variant_contig", "variant_position")):
        return None
    contigs, numbers, positions = _texts(arrays["contig_id"]), arrays["variant_contig"], arrays["variant_position"]
    alleles = arrays.get("variant_allele", np.empty((count, 0), dtype=object))
    if not len(numbers) == len(positions) == len(alleles) == count or not (0 <= numbers.min() and numbers.max() < len(contigs)):
        return None
    return [":".join([contigs[number], str(position), *(text for text in _texts(of) if text not in _NO_IDENTIFIER)])
            for number, position, of in zip(numbers.tolist(), positions.tolist(), alleles, strict=True)]
