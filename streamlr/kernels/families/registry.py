"""The families by name."""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

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
FAMILIES: dict[str, Family] = {family.name: family for family in _FAMILIES}


def family_of(name: str, classes: NDArray[Any]) -> Family:
    """The family that is meant: ``logistic`` of more than two classes is softmax."""
    return FAMILIES[Softmax.name if name == Logistic.name and len(classes) > 2 else name]
