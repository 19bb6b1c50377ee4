"""Values as what is equal only where every bit of them is."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TEXT = "UTSO"


def bits_of(value: Any) -> Any:
    """What is equal for two values, such as records of sums, only where type, shape and every bit
    of each array and number in them are; NaN equals NaN, and 0.0 does not equal -0.0."""
    if isinstance(value, np.ndarray) and value.dtype.kind not in _TEXT:
        return value.dtype.str, value.shape, np.ascontiguousarray(value).tobytes()
    if isinstance(value, np.ndarray):  # the width of a text is that of the longest beside it
        return "text", value.shape, tuple(str(text) for text in value.ravel().tolist())
    if dataclasses.is_dataclass(value):
        fields = dataclasses.fields(value)
        each = tuple((field.name, bits_of(getattr(value, field.name))) for field in fields)
        return type(value).__name__, each
    if isinstance(value, Mapping):
        return tuple((key, bits_of(value[key])) for key in sorted(value))
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return tuple(bits_of(each) for each in value)
    if isinstance(value, float | np.floating):
        return "number", np.float64(value).tobytes()
    return value


def first_difference(found: NDArray[Any], expected: NDArray[Any]) -> str:
    """Where two arrays differ first, in words."""
    if found.dtype.kind not in _TEXT and found.dtype != expected.dtype:
        return f"the types are {found.dtype} and {expected.dtype}"
    if found.shape != expected.shape:
        return f"the shapes are {found.shape} and {expected.shape}"
    for at in np.ndindex(found.shape):
        if bits_of(found[at][None]) != bits_of(expected[at][None]):
            return f"at {at} stand {found[at]!r} and {expected[at]!r}"
    return "they do not differ"


def require_same(found: Any, expected: Any, what: str) -> None:
    """Raise an `AssertionError` that names ``what`` and the first difference of two arrays, either
    of which may be None."""
    if bits_of(found) == bits_of(expected):
        return
    if found is None or expected is None:
        raise AssertionError(f"{what}: {found!r} in the place of {expected!r}")
    raise AssertionError(f"{what}: {first_difference(found, expected)}")
