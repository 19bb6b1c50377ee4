"""The families by name."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from streamlr.errors import ConfigError
from streamlr.kernels.families.base import Family
from streamlr.kernels.families.linear import Linear
from streamlr.kernels.families.logistic import Logistic
from streamlr.kernels.families.poisson import Poisson
from streamlr.kernels.families.softmax import Softmax

_FAMILIES: tuple[Family, ...] = (
    Logistic(),
    Softmax(),
    Linear(),
    Poisson(),
)


class _Families(dict[str, Family]):
    """Families by name; of one that is not there it says what is missing."""

    def __missing__(self, name: str) -> Family:
        raise ConfigError(
            f"no family {name!r} is known in this process; import the module that registers it, "
            "in worker processes too (a module that Dask preloads)"
        )


FAMILIES: dict[str, Family] = _Families({family.name: family for family in _FAMILIES})


def register(family: Family) -> None:
    """Take in a family from outside the package, which a configuration may ask for from then on.

    Registered once more, as a notebook may do, the later one counts.

    Raises
    ------
    ConfigError
        When its name is that of one of the package's own.
    """
    if any(family.name == own.name for own in _FAMILIES):
        raise ConfigError(
            f"the family {family.name} is one of streamlr's own; name yours otherwise"
        )
    FAMILIES[family.name] = family


def family_of(name: str, classes: NDArray[Any]) -> Family:
    """The family that is meant: ``logistic`` of more than two classes is softmax."""
    return FAMILIES[Softmax.name if name == Logistic.name and len(classes) > 2 else name]
