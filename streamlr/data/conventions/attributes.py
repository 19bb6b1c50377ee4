"""What xarray and others write beside an array, by which its values or axes mean something else
than they seem to.

The CF conventions keep a number as ``(value - add_offset) / scale_factor``, often in a small
integer, and an unsigned one as ``_Unsigned``. To train on what is stored would give a model of the
codes, and nobody would be told. What stands for missing values: `streamlr.data.conventions.marks`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import zarr
from zarr.core.buffer import default_buffer_prototype
from zarr.core.sync import sync

from streamlr.errors import DtypeError, ShapeError

_HARMLESS = {"scale_factor": 1.0, "add_offset": 0.0}
_SIGN = "_Unsigned"


def refuse_odd_attributes(node: zarr.Array[Any] | zarr.Group, name: str) -> None:
    """Refuse an array, or a group, whose attributes are no mapping, which Zarr opens and then
    cannot read.

    Raises
    ------
    DtypeError
        With what they are and the remedy.
    """
    _refuse_no_mapping(node.metadata.attributes, name)


def refuse_written_attributes(group: zarr.Group, path: str, name: str) -> None:
    """Refuse the same of what stands at a path of a group and was not opened, as Zarr does not from
    3.4 on; nothing where something else is the reason.

    Raises
    ------
    DtypeError
    """
    for file in ("zarr.json", ".zattrs"):
        key = "/".join(part for part in (group.path, path.strip("/"), file) if part)
        try:
            stored = sync(group.store.get(key, default_buffer_prototype()))
            written = None if stored is None else json.loads(stored.to_bytes())
        except Exception:  # asked for a message alone: that of Zarr stands
            return
        if file == "zarr.json":
            written = written.get("attributes") if isinstance(written, Mapping) else None
        if written is not None:
            _refuse_no_mapping(written, name)


def _refuse_no_mapping(found: Any, name: str) -> None:
    if not isinstance(found, Mapping):
        raise DtypeError(
            f"the attributes of {name} are a {type(found).__name__} ({found!r:.40}), and must be "
            "a mapping of names to values; mend its metadata (zarr.json or .zattrs), or write the "
            "array again"
        )


def refuse_encoded(attributes: Mapping[str, Any], dtype: np.dtype[Any], name: str) -> None:
    """Refuse an array whose attributes say that its values stand for others.

    Raises
    ------
    DtypeError
        Names the attribute.
    """
    for key, harmless in _HARMLESS.items():
        if key in attributes and _number(attributes[key]) != harmless:
            raise DtypeError(
                f"{name} has the attribute {key} {attributes[key]!r}, by which others decode its "
                "values; streamlr takes them as they are stored. "
                "Write the array decoded, or remove the attribute if what is stored is what is "
                "meant"
            )
    reported = str(attributes.get(_SIGN, "")).lower()
    if (reported, dtype.kind) in (("true", "i"), ("false", "u")):
        raise DtypeError(
            f"{name} has the attribute {_SIGN} {attributes[_SIGN]!r} and the type {dtype}: others "
            "read its values as "
            f"{'un' * (reported == 'true')}signed ones, and streamlr takes them as they are "
            "stored. Write the array decoded, or remove the attribute "
            "if what is stored is what is meant"
        )


def refuse_turned(
    features: Sequence[str], others: Mapping[str, Sequence[str]], sample_axis: int, name: str
) -> None:
    """Refuse features whose named axes say that the examples lie along the other one, which no
    shape tells where both are of one length.

    Parameters
    ----------
    features
        Names of their axes, or none.
    others
        The same of the arrays that have one value for each example.
    sample_axis, name
        Along which axis the examples are said to lie, and of what.

    Raises
    ------
    ShapeError
        With both names and the remedy.
    """
    if len(features) != 2 or features[0] == features[1]:
        return
    for other, axes in others.items():
        if list(axes) == [features[1 - sample_axis]]:
            raise ShapeError(
                f"the axes of {name} are named {features[0]!r} and {features[1]!r}, and that of "
                f"{other} {axes[0]!r}: the examples lie along axis "
                f"{1 - sample_axis}, and data.sample_axis is {sample_axis}; set data.sample_axis: "
                f"{1 - sample_axis}, or correct the names"
            )


def axes_of(array: zarr.Array[Any]) -> tuple[str, ...]:
    """Names of the axes: in the metadata of Zarr 3, or as xarray's attribute in Zarr 2; none where
    they have none."""
    names = getattr(array.metadata, "dimension_names", None) or array.attrs.get("_ARRAY_DIMENSIONS")
    return tuple(str(name) for name in names) if isinstance(names, list | tuple) else ()


def _number(value: Any) -> Any:
    """The number in a list of one, as some writers have it; anything else as it is."""
    return value[0] if isinstance(value, list) and len(value) == 1 else value
