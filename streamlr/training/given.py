"""What is given beside features, and what the configuration names, must not be lost without a
word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from streamlr.config.sections import DataConfig
from streamlr.errors import ConfigError

_ARGUMENTS = {
    "weights": "sample_weight",
    "offset": "offset",
    "exposure": "offset",
    "groups": "groups",
}
"""Which argument has the values, beside ``X``, of what a key names in a store."""


def refuse_lost(data: DataConfig, beside: Mapping[str, Any], *, of_store: bool) -> None:
    """Refuse arguments that a store leaves no use for, and names of arrays that arrays in memory
    do.

    Parameters
    ----------
    data
        What the configuration names.
    beside
        The arguments beside ``X`` and ``y``, by name; None for those that were not given.
    of_store
        Whether the rows are those of a store, not of ``X`` and ``y``.

    Raises
    ------
    ConfigError
        Names the argument or the key.
    """
    if of_store:
        lost = [name for name, values in beside.items() if values is not None]
        if lost:
            raise ConfigError(
                f"{' and '.join(lost)}: {'these go' if len(lost) > 1 else 'goes'} with X and y; "
                "of a store, data.weights, data.offset, data.groups and validation.array name them"
            )
        return
    for key, argument in _ARGUMENTS.items():
        name = getattr(data, key)
        if name is not None and beside[argument] is None:
            log_of = "the logarithms of " if key == "exposure" else ""
            raise ConfigError(
                f"data.{key}: {name!r} is an array of a store; with X and y give "
                f"{log_of}its values as {argument}=, or leave out the key"
            )
