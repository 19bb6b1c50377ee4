"""A configuration as text and as nested mappings, before any key has a meaning. Reading one
executes nothing."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from streamlr.errors import ConfigError, either

_MOST_NODES = 10_000
_SET = either("--set", "in overrides,")
_AS_WRITTEN = {
    "bool": r"(?i:true|false)",
    "int": r"-?(0|[1-9][0-9]*)",
    "null": "(?!)",
    "timestamp": "(?!)",
}
"""By YAML's kinds, how keys that are no text may be written: so that they cannot be taken for a
name."""


def read_tree(path: Path) -> dict[str, Any]:
    """The mapping that a YAML file holds.

    Raises
    ------
    ConfigError
        When there is none.
    """
    try:
        text = path.read_text(encoding="utf-8")
        refuse_odd_keys(text, repr(str(path)))
        tree = yaml.safe_load(text)
    except FileNotFoundError:
        raise ConfigError(
            f"no configuration file at {str(path)!r}; check the path given to "
            f"{either('--config', 'load_config')}"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the configuration {str(path)!r}: {error}") from error
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{str(path)!r} is not valid YAML: {_yaml_problem(error)}") from None
    _refuse_bomb(tree, repr(str(path)))
    if tree is None:
        tree = {}
    if not isinstance(tree, dict):
        raise ConfigError(
            f"{str(path)!r} holds a {type(tree).__name__}; a configuration is a mapping of sections"
        )
    return tree


def _yaml_problem(error: Exception) -> str:
    """What is wrong, and where; not the line itself, which may hold a password."""
    mark = getattr(error, "problem_mark", None)
    what = getattr(error, "problem", None) or (
        type(error).__name__ if mark is not None else str(error)
    )
    return (
        f"{what} (line {mark.line + 1}, column {mark.column + 1})"
        if mark is not None
        else str(what)
    )


def refuse_odd_keys(text: str, name: str) -> None:
    """Refuse names that YAML 1.1 turns into something else: ``NO`` into false, ``012`` into 10,
    ``2024-01-01`` into a date.

    Raises
    ------
    ConfigError
        Names the key, its line, and what it is read as.
    yaml.YAMLError
        When it is no YAML.
    """
    seen: set[int] = set()
    left = [yaml.compose(text, Loader=yaml.SafeLoader)]
    while left:
        node = left.pop()
        if node is None or id(node) in seen:  # aliases lead to the same node
            continue
        seen.add(id(node))
        if isinstance(node, yaml.SequenceNode):
            left += node.value
        elif isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                _refuse_odd_key(key, name)
                left += [key, value]


def _refuse_odd_key(key: yaml.Node, name: str) -> None:
    kind = key.tag.rpartition(":")[2]
    if (
        not isinstance(key, yaml.ScalarNode)
        or kind not in _AS_WRITTEN
        or re.fullmatch(_AS_WRITTEN[kind], key.value)
    ):
        return
    read = {"null": "null", "timestamp": "a date", "bool": "true or false"}.get(
        kind, "another number"
    )
    raise ConfigError(
        f"{name}, line {key.start_mark.line + 1}: YAML reads the key "
        f"{key.value or 'that is empty'} as {read}; put it in "
        f"quotes ('{key.value}') where it is a name, or write it as what it is"
    )


def may_be_secret(key: str) -> bool:
    """Whether messages must not show the value of a key."""
    return key.strip().startswith("data.storage_options")


def _refuse_bomb(tree: Any, name: str) -> None:
    """Aliases of aliases make a few lines of YAML into more than any memory holds, as soon as they
    are copied or shown."""
    left = [tree]
    count = 0
    while left:
        value = left.pop()
        count += 1
        if count > _MOST_NODES:
            raise ConfigError(
                f"{name} holds more than {_MOST_NODES:,} values (by aliases such as *a, perhaps); "
                "a configuration has about thirty"
            )
        if isinstance(value, dict):
            left += value.values()
        elif isinstance(value, list | tuple | set):
            left += value


def copy_tree(source: Mapping[str, Any]) -> dict[str, Any]:
    """A mapping of mappings that may be changed without changing the first."""
    return {
        key: copy_tree(value) if isinstance(value, Mapping) else value
        for key, value in source.items()
    }


def apply_override(tree: dict[str, Any], setting: str) -> None:
    """Put a setting of the form ``section.key=value`` into the tree; the value is read as YAML.

    Raises
    ------
    ConfigError
        When it has another form.
    """
    dotted, separator, text = setting.partition("=")
    if not separator or not dotted.strip():
        raise ConfigError(
            f"{_SET} {setting!r}: expected KEY=VALUE with a dotted key, such as solver.name=lbfgs"
        )
    try:
        refuse_odd_keys(text, f"{_SET} {dotted}")
        value = yaml.safe_load(text)
    except ConfigError:
        raise
    except (yaml.YAMLError, ValueError, RecursionError):
        raise ConfigError(
            f"{_SET} {dotted}: the value{'' if may_be_secret(dotted) else f' {text!r}'} is not "
            "valid YAML"
        ) from None
    _refuse_bomb(value, f"{_SET} {dotted}")
    *sections, key = dotted.strip().split(".")
    for name in sections:
        inner = tree.setdefault(name, {})
        if inner is None:
            inner = tree[name] = {}
        if not isinstance(inner, dict):
            raise ConfigError(f"{_SET} {dotted}: {name!r} is a value, not a section")
        tree = inner
    tree[key] = value


def flat_settings(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    """Dotted keys and values."""
    pairs: list[tuple[str, Any]] = []
    for key, value in tree.items():
        pairs += (
            flat_settings(value, f"{prefix}{key}.")
            if isinstance(value, Mapping) and value
            else [(f"{prefix}{key}", value)]
        )
    return pairs
