"""Which stored values stand for missing ones, by what xarray, CF and VCF Zarr write.

xarray puts the ``_FillValue`` of an array into the ``fill_value`` of Zarr 2, and reads it so; in
Zarr 3 it is the attribute that counts. VCF Zarr has -1 for a missing integer and -2 for one that
there is not, and says nothing of it beside the array. Whether a mark occurs is found when the
values are read.
"""

from __future__ import annotations

import base64
import binascii
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import zarr

from streamlr.config.sections import DataConfig
from streamlr.data.conventions.attributes import axes_of
from streamlr.errors import DtypeError
from streamlr.kernels.gaps import Marks

VCF_AXES = {"variants", "samples"}
"""Names of the axes of a matrix of VCF Zarr."""
VCF_VERSION = "vcf_zarr_version"
"""The attribute of the root of a store of VCF Zarr."""
MASK_SUFFIX = "_mask"
"""Of the name of the array that is true where one of VCF Zarr is missing."""
_ATTRIBUTES = ("_FillValue", "missing_value")
_TEXT = "UTSO"
_VCF_MARKS: dict[str, tuple[Any, ...]] = {"i": (-1, -2), **{kind: (".", "") for kind in _TEXT}}
_REMEDY = "drop those rows, or fill them in, and write the store again"

FillValue = str | Mapping[str, str] | None
"""``data.fill_value``: what a fill value of Zarr 2 is, of all arrays or of those named."""


@dataclass(frozen=True, slots=True)
class Meaning:
    """What is to be made of the values of a store's arrays."""

    fill_value: FillValue = None
    """``missing`` or ``value``, for all arrays or by their names; None where nobody said."""
    vcf: bool = False
    """Whether the store is one of VCF Zarr."""
    where: str = ""
    """How messages name the store, after the name of an array."""
    words: tuple[str, str] = ("row", "feature")
    """What messages call an example and a feature."""

    def of(self, name: str) -> str | None:
        """What the fill value of one array is; None where nobody said."""
        reported = self.fill_value
        return reported.get(name) if isinstance(reported, Mapping) else reported

    def takes_all(self, name: str) -> bool:
        """Whether all values of one array are values, whatever a convention has; what is said of
        all arrays is said of fill values of Zarr 2, which nobody states on purpose."""
        return isinstance(self.fill_value, Mapping) and self.of(name) == "value"


def meaning_of(store: zarr.Group, features: zarr.Array[Any], config: DataConfig) -> Meaning:
    """What is to be made of a store's values, by its attributes and the axes of its features."""
    axes = axes_of(features)
    vcf = VCF_VERSION in store.attrs or set(axes) >= VCF_AXES
    words = _words(axes, config.sample_axis) if vcf else ("row", "feature")
    return Meaning(config.fill_value, vcf, f" in {config.shown_store}", words)


def _words(axes: tuple[str, ...], sample_axis: int) -> tuple[str, str]:
    """What an example and a feature of VCF Zarr are called."""
    turned = len(axes) == 2 and axes[sample_axis] == "variants"
    return ("variant", "sample") if turned else ("sample", "variant")


def shape_hint(features: zarr.Array[Any], name: str) -> str:
    """What to do about features that have other than two axes."""
    if not set(axes_of(features)) >= VCF_AXES:
        return "write it again so, or name another array in data.features"
    return (
        "these are the alleles of each sample at each variant: write how many of them are not the "
        "reference, (variants, samples), with -1 where any is below 0 (of "
        f"g = store[{name!r}][...]: numpy.where((g < 0).any(-1), -1, (g > 0).sum(-1))), name that "
        "array in data.features and set data.sample_axis: 1"
    )


def marks_of(array: zarr.Array[Any], name: str, meaning: Meaning) -> Marks | None:
    """The values of an array that stand for missing ones; None where none do.

    Parameters
    ----------
    array
        The opened array.
    name
        What the configuration calls it.
    meaning
        What is known of its store.

    Raises
    ------
    DtypeError
        For a mark that cannot be understood.
    """
    dtype = np.dtype(array.dtype)
    if dtype.kind not in "biuf" + _TEXT:
        return None
    found: dict[Any, str] = {}
    for reported in (
        _stated(array, name, dtype, meaning),
        _fill_value(array, name, dtype, meaning),
        _of_vcf(name, dtype, meaning),
    ):
        for mark, reason in reported:
            found.setdefault(mark, reason)
    if not found:
        return None
    values = np.array(list(found), dtype=np.str_ if dtype.kind in _TEXT else dtype)
    return Marks(values, tuple(found.values()), f"{name}{meaning.where}", meaning.words)


def marks_of_given(array: zarr.Array[Any], name: str, fill_value: FillValue) -> Marks | None:
    """The same of an array that was handed over in the place of a store's."""
    axes = axes_of(array)
    vcf = set(axes) >= VCF_AXES
    words = _words(axes, 0) if vcf else ("row", "feature")
    marks = marks_of(array, name, Meaning(fill_value, vcf, "", words))
    if marks is None:
        return None
    taken = f"; or hand over {name}[...], of which every value is taken as it is"
    return replace(marks, reasons=tuple(reason + taken for reason in marks.reasons))


def masked(name: str, mask: str, meaning: Meaning) -> Marks:
    """The marks of an array of bools that is true where another one is missing."""
    reason = f"true in {mask} means that there is no value; {_REMEDY}"
    where = f"{name}{meaning.where}"
    return Marks(np.array([True]), (reason,), where, meaning.words, f"by {mask}")


def _stated(
    array: zarr.Array[Any], name: str, dtype: np.dtype[Any], meaning: Meaning
) -> Iterator[tuple[Any, str]]:
    """Marks that attributes state, and why they are."""
    for key in () if meaning.takes_all(name) else _ATTRIBUTES:
        values = array.attrs.get(key, [])
        for value in values if isinstance(values, list) else [values]:
            mark = _decoded(value, dtype, f"{name} has the attribute {key} {value!r}")
            if mark is not None:
                value = f"data.fill_value: {{{name}: value}} if it is a value like others"
                yield mark, f"{mark!r} is its {key}; {_REMEDY}, or set {value}"


def _fill_value(
    array: zarr.Array[Any], name: str, dtype: np.dtype[Any], meaning: Meaning
) -> Iterator[tuple[Any, str]]:
    """The fill value of an array of Zarr 2 whose axes are named as xarray does."""
    if array.metadata.zarr_format != 2 or "_ARRAY_DIMENSIONS" not in array.attrs:
        return
    fill, meant = array.metadata.fill_value, meaning.of(name)
    if fill is None or meant == "value":
        return
    fill = fill.item() if isinstance(fill, np.generic) else fill
    mark = _decoded(fill, dtype, f"{name} has the fill_value {fill!r}")
    if mark is None:
        return
    if meant is None and meaning.vcf and _is_ambiguous(mark, dtype):
        return  # there are marks of its own; 0 is what zarr-python puts there, and most genotypes
    value = f"data.fill_value: value if it is a value (data.fill_value: {{{name}: value}} for "
    if meant == "missing":
        reason = f"its fill_value {mark!r} stands for missing ones, by data.fill_value; {_REMEDY}"
    elif _is_ambiguous(mark, dtype):
        reason = (
            f"xarray reads its fill_value {mark!r} as missing, and others write it where nothing "
            "is meant by it: set data.fill_value: missing if it stands for missing ones, "
            f"{value}this array alone)"
        )
    else:
        reason = (
            f"xarray reads its fill_value {mark!r} as missing; {_REMEDY}, or set {value}this "
            "array alone)"
        )
    yield mark, reason


def _of_vcf(name: str, dtype: np.dtype[Any], meaning: Meaning) -> Iterator[tuple[Any, str]]:
    """Marks that VCF Zarr has without a word."""
    if not meaning.vcf or meaning.takes_all(name):
        return
    marks = _VCF_MARKS.get(dtype.kind, ())
    for mark in marks:
        yield (
            mark,
            f"in VCF Zarr {marks[0]!r} and {marks[1]!r} stand for missing ones; drop those samples "
            "or variants, or fill them in, and write the array again, or set data.fill_value: "
            f"{{{name}: value}} if they are values",
        )


def _decoded(value: Any, dtype: np.dtype[Any], what: str) -> Any:
    """A mark as an array of the type holds it; None for one that none can hold, and for NaN,
    which is refused wherever it stands.

    Raises
    ------
    DtypeError
        When it is neither a number nor text.
    """
    if value is None:
        return None
    if dtype.kind in _TEXT:
        return value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value)
    number = _number(value)
    if number is None:
        raise DtypeError(
            f"{what}, by which values would be missing, and which cannot be read as {dtype}; "
            "write a number, or remove it"
        )
    if dtype.kind == "f":
        with np.errstate(over="ignore"):
            rounded = float(dtype.type(number))
        return rounded if np.isfinite(rounded) else None
    least, most = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
    if not least <= number <= most or number != int(number):
        return None
    return bool(number) if dtype.kind == "b" else int(number)


def _number(value: Any) -> int | float | None:
    """A number as attributes have it: as one, as text, or, of floats in Zarr 3, as the base64 of
    a float64; None where it is none."""
    if isinstance(value, bool | int | float):
        return value
    if not isinstance(value, str):
        return None
    for read in (int, float, _unpacked):
        try:
            return read(value)
        except (ValueError, binascii.Error, struct.error):
            continue
    return None


def _unpacked(text: str) -> float:
    (number,) = struct.unpack("<d", base64.b64decode(text, validate=True))
    return float(number)


def _is_ambiguous(mark: Any, dtype: np.dtype[Any]) -> bool:
    """Whether a fill value may be there by default, or be a value like others: 0, nothing, or an
    end of the range of the type."""
    if dtype.kind in "iu":
        return mark in (0, np.iinfo(dtype).min, np.iinfo(dtype).max)
    return dtype.kind == "b" or mark in (0, "")
