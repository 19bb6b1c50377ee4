"""Mappings become records: every key must be a field, and every value of its kind."""

from __future__ import annotations

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

from streamlr.config.feature_values import OF_FEATURES, read_feature_values
from streamlr.config.path import LAMBDAS, read_lambdas
from streamlr.config.tree import may_be_secret
from streamlr.errors import ConfigError

_BYTE_UNITS = {
    "": 1,
    "b": 1,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
    "kib": 2**10,
    "mib": 2**20,
    "gib": 2**30,
    "tib": 2**40,
}


def build(record: type, tree: Any, prefix: str) -> Any:
    """The record that a mapping of keys stands for; ``prefix`` is what its keys are called in
    messages.

    Raises
    ------
    ConfigError
        For an unknown key, or a value of the wrong kind.
    """
    if tree is None:
        tree = {}
    if not isinstance(tree, Mapping):
        raise ConfigError(f"{prefix.rstrip('.')}: expected a section with keys, got {tree!r}")
    kinds = typing.get_type_hints(record)
    values = {}
    for key, value in tree.items():
        if key not in kinds:
            raise ConfigError(_unknown_key(prefix, str(key), list(kinds)))
        values[key] = _convert(kinds[key], value, prefix + str(key))
    return record(**values)


def _unknown_key(prefix: str, key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.0)
    close = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    hint = (
        f"did you mean {prefix + close[0]!r}?"
        if close
        else f"the nearest known key is {prefix + near[0]!r}."
    )
    return f"unknown key {prefix + key!r}; {hint} Known here: {', '.join(known)}"


def _convert(kind: Any, value: Any, key: str) -> Any:
    if dataclasses.is_dataclass(kind):
        return build(typing.cast(type, kind), value, key + ".")
    if key in _READERS:
        return _READERS[key](value, key)
    options = typing.get_args(kind)
    if typing.get_origin(kind) is Literal:
        return _choice(options, value, key)
    if isinstance(kind, types.UnionType):
        if value is None:
            return None
        return _convert(next(option for option in options if option is not type(None)), value, key)
    return _scalar(kind, value, key)


def _choice(options: tuple[Any, ...], value: Any, key: str) -> Any:
    number = _as_whole(value) if isinstance(options[0], int) else value
    if number in options and not isinstance(number, bool):
        return next(option for option in options if option == number)
    near = difflib.get_close_matches(str(value), [str(option) for option in options], n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise ConfigError(
        f"{key}: {value!r} is none of {', '.join(str(option) for option in options)}{hint}"
    )


def _scalar(kind: Any, value: Any, key: str) -> Any:
    if kind is float and not isinstance(value, bool):
        try:
            return float(value)  # YAML 1.1 reads 1e-8, which lacks a point, as a string
        except (TypeError, ValueError, OverflowError):
            raise ConfigError(f"{key}: expected a number, got {value!r}") from None
    if kind is int:
        value = _as_whole(value)
    origin = typing.get_origin(kind) or kind
    if not isinstance(value, origin) or (kind is int and isinstance(value, bool)):
        if kind is str and isinstance(value, Path):
            return str(value)
        hint = "; put it in quotes if it is meant as text" if kind is str else ""
        got = type(value).__name__ if may_be_secret(key) and isinstance(value, str) else repr(value)
        raise ConfigError(
            f"{key}: expected {_KIND_NAMES.get(origin, str(origin))}, got {got}{hint}"
        )
    return value


def _as_whole(value: Any) -> Any:
    """The whole number that a value is, if it is one as a float, or as a text, as which YAML 1.1
    reads 1e3; else the value."""
    number = value
    if isinstance(value, str):
        with suppress(ValueError):
            return int(value)
        with suppress(ValueError):
            number = float(value)
    return int(number) if isinstance(number, float) and number.is_integer() else value


_KIND_NAMES = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    dict: "a mapping",
}


def _class_weight(value: Any, key: str) -> str | dict[Any, float] | None:
    if value is None or value == "balanced":
        return typing.cast(str | None, value)
    if not isinstance(value, Mapping):
        raise ConfigError(
            f"{key}: expected balanced, null, or a mapping of labels to weights, got {value!r}"
        )
    weights = {label: _scalar(float, weight, f"{key}.{label}") for label, weight in value.items()}
    for label, weight in weights.items():
        if not 0 < weight < float("inf"):
            raise ConfigError(
                f"{key}.{label}: {weight} is out of range; it must be above 0 and finite"
            )
    return weights


def _fill_value(value: Any, key: str) -> str | dict[str, str] | None:
    """What fill values are: of all arrays, or of those that a mapping names."""
    if isinstance(value, Mapping):
        return {
            str(name): _choice(_FILL_VALUES, meant, f"{key}.{name}")
            for name, meant in value.items()
        }
    return None if value is None else _choice(_FILL_VALUES, value, key)


def _bytes(value: Any, key: str) -> int | None:
    """Bytes of ``2000000000``, ``2GB``, ``2 GiB`` or ``2e9``."""
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 2**63:
        return int(value)
    match = re.fullmatch(
        r"\s*\+?((?:[0-9][0-9_]*\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Z]*)\s*",
        str(value),
    )
    if match is None or match[2].lower() not in _BYTE_UNITS or float(match[1]) >= 2**63:
        raise ConfigError(f"{key}: expected bytes such as 4GB or 512MiB, got {value!r}")
    return int(float(match[1]) * _BYTE_UNITS[match[2].lower()])


_FILL_VALUES = ("missing", "value")
_READERS: dict[str, Callable[[Any, str], Any]] = {
    "data.fill_value": _fill_value,
    "model.class_weight": _class_weight,
    "cluster.memory_limit": _bytes,
    LAMBDAS: read_lambdas,
    **dict.fromkeys(OF_FEATURES, read_feature_values),
}
"""Keys whose values have a form of their own, and what reads it."""
