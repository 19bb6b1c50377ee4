"""Features matched by name: where those of a model stand among those of the data."""

from __future__ import annotations

import difflib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamlr.errors import ShapeError
from streamlr.text import named

_NAMED = 3


@dataclass(frozen=True, slots=True)
class Match:
    """Where the features of a model stand in the data."""

    columns: NDArray[np.intp]
    """Of each feature of the model its number in the data, (n,)."""
    extra: tuple[str, ...]
    """Names of the data's features that the model does not have."""

    @property
    def in_place(self) -> bool:
        """Whether the data have the features of the model alone, in their order."""
        return not self.extra and bool((self.columns == np.arange(len(self.columns))).all())


def match_names(wanted: Sequence[str], found: Sequence[str], model: str, data: str) -> Match:
    """Where the features ``wanted`` by a model stand among those ``found`` in data.

    Names that are the same in the same order need not be unique.

    Parameters
    ----------
    wanted, found
        Names of the features, (n,) and (k,).
    model, data
        How messages name the two.

    Raises
    ------
    ShapeError
        For features that the data lack, or names that say too little since several have them.
    """
    if tuple(wanted) == tuple(found):
        return Match(np.arange(len(found)), ())
    place = {name: j for j, name in enumerate(found)}
    missing = [name for name in wanted if name not in place]
    if missing:
        raise ShapeError(
            f"{data} lacks {len(missing)} of the {len(wanted)} features of {model}: "
            f"{named(missing)}; it has {len(found)}{_nearest(missing, found)}. "
            "Bring the missing ones, or name the features as the model does"
        )
    known = set(wanted)
    _refuse_ambiguous(wanted, f"of {model}")
    _refuse_ambiguous([name for name in found if name in known], f"of {data}")
    columns = np.array([place[name] for name in wanted], dtype=np.intp)
    return Match(columns, tuple(name for name in found if name not in known))


def ambiguous_names(names: Sequence[str] | None) -> str | None:
    """A sentence on names that several features have; None where all are unique."""
    if names is None or len(set(names)) == len(names):
        return None
    name, times = Counter(names).most_common(1)[0]
    return (
        f"names of features are not unique ({name!r} {times} times): features are taken by "
        "their position"
    )


def _refuse_ambiguous(names: Sequence[str], whose: str) -> None:
    name, times = Counter(names).most_common(1)[0]
    if times > 1:
        raise ShapeError(
            f"{name!r} is the name of {times} features {whose}, and the others are not the same in "
            "the same order: they cannot be matched by name. Make names unique, or bring the "
            "features to the order of the model's"
        )


def _nearest(missing: Sequence[str], found: Sequence[str]) -> str:
    """What may be meant in the place of the first missing names."""
    folded = {name.casefold(): name for name in found}
    pairs = []
    for name in missing[:_NAMED]:
        same = [folded[name.casefold()]] if name.casefold() in folded else []
        pairs += [
            f"{near!r} to {name!r}" for near in same or difflib.get_close_matches(name, found, n=1)
        ]
    return f", nearest {', '.join(pairs)}" if pairs else ""
