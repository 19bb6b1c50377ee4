"""The keys of the penalty and the bounds, and numbers of features: one for all, a list, or a
mapping of names or numbers of features to them."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamlr.errors import ConfigError
from streamlr.solvers.registry import knows_smooth_alone

FeatureValues = float | list[float] | dict[str | int, float] | None
"""As a configuration holds them; None stands for the value of a feature that nothing is said of."""

OF_FEATURES: dict[str, tuple[float, float, float]] = {
    "model.penalty.factors": (0.0, 1e300, 1.0),
    "model.bounds.lower": (-math.inf, 1e300, -math.inf),
    "model.bounds.upper": (-1e300, math.inf, math.inf),
}
"""Keys that hold numbers of features: from where to where these go, and what stands where nothing
is said."""
_SHAPES = (
    "a number for all features, a list with one for each, or a mapping of names or numbers "
    "of features to them"
)


@dataclass(frozen=True, slots=True)
class PenaltyConfig:
    """Strengths of the penalty ``(l2/2) sum(r W^2) + l1 sum(r |W|)``; the intercept is never
    penalised."""

    l2: float = 0.0
    """Strength of the squared norm; scikit-learn's ``C`` is ``l2 = 1 / (C * sum of weights)``."""
    l1: float = 0.0
    """Strength of the sum of absolute values."""
    factors: FeatureValues = None
    """r of the features, taken as they are (they are not rescaled to a mean of 1): a list, or a
    mapping of names or numbers of features to factors, 1 for those that are not named; 0 is no
    penalty. null: 1 for all."""


@dataclass(frozen=True, slots=True)
class BoundsConfig:
    """Bounds on the coefficients, in the units of the data: null, a number for all, a list, or a
    mapping of names or numbers of features."""

    lower: FeatureValues = None
    """Smallest values; 0 makes coefficients non-negative."""
    upper: FeatureValues = None
    """Largest values."""

    @property
    def given(self) -> bool:
        return self.lower is not None or self.upper is not None


def check_penalty(penalty: PenaltyConfig, bounds: BoundsConfig, solver: str) -> None:
    """Refuse strengths out of range, and solvers that cannot mean what is asked for.

    Raises
    ------
    ConfigError
    """
    for key, number in {"model.penalty.l2": penalty.l2, "model.penalty.l1": penalty.l1}.items():
        if not 0 <= number < math.inf:
            raise ConfigError(f"{key}: {number} is out of range; it must be 0 or above and finite")
    if isinstance(penalty.factors, float):
        raise ConfigError(
            f"model.penalty.factors: {penalty.factors:g} is one number; give a list or a mapping "
            "of features to factors, or change l2 and l1"
        )
    if (
        isinstance(bounds.lower, float)
        and isinstance(bounds.upper, float)
        and bounds.lower > bounds.upper
    ):
        raise ConfigError(
            f"model.bounds: lower is {bounds.lower:g} and upper {bounds.upper:g}; lower must not "
            "be above upper"
        )
    if knows_smooth_alone(solver) and (penalty.l1 > 0 or bounds.given):
        key, value = (
            ("model.penalty.l1", f"{penalty.l1:g}") if penalty.l1 > 0 else ("model.bounds", "given")
        )
        raise ConfigError(
            f"solver.name: {solver} minimises what is smooth, and {key} is {value}; set "
            f"solver.name: auto (or proximal), or remove {key}"
        )


def read_feature_values(value: object, key: str) -> FeatureValues:
    """What a configuration says under one of the keys of `OF_FEATURES`, every number a float; null
    in a list or mapping says nothing.

    Raises
    ------
    ConfigError
        When it is something else; the message names key, value and remedy.
    """
    if value is None:
        return None
    if isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str | int) or isinstance(name, bool):
                raise ConfigError(
                    f"{key}: {name!r} is neither the name of a feature nor its number (from 0 "
                    "on); a name that is not read "
                    "as text wants quotes, since YAML reads yes, no, on, off, null and dates as "
                    "something else"
                )
        return {name: _number(number, key, f".{name}") for name, number in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_number(number, key, f"[{j}]") for j, number in enumerate(value)]
    return _number(value, key, expected=_SHAPES)


def _number(value: object, key: str, at: str = "", expected: str = "a number") -> float:
    least, most, default = OF_FEATURES[key]
    if value is None:
        return default
    try:
        # YAML 1.1 reads 1e-8 as a text
        number = float("" if isinstance(value, bool) else value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{key}{at}: expected {expected}, got {value!r}") from None
    if number == math.inf and least == 0:
        name = at.strip(".[]") or "NAME"
        raise ConfigError(
            f"{key}{at}: {number:g} is out of range; what holds a coefficient at 0 is bounds of "
            "0: leave the factor out, "
            f"and set model.bounds: {{lower: {{{name}: 0}}, upper: {{{name}: 0}}}}"
        )
    if not least <= number <= most:
        raise ConfigError(
            f"{key}{at}: {number:g} is out of range; it must be "
            f"{'0 or above' if least == 0 else 'a bound that some number keeps'}"
        )
    return number


def spread_over_features(
    values: FeatureValues, key: str, n_features: int, names: Sequence[str] | None
) -> NDArray[np.float64]:
    """One number for each feature, (n,).

    Parameters
    ----------
    values, key
        What the configuration says, and where.
    n_features, names
        Of the data; None where the features have no names.

    Raises
    ------
    ConfigError
        For a list of another length, or a feature that is not there; the latter names the nearest
        known one.
    """
    numbers = np.full(n_features, OF_FEATURES[key][2])
    if isinstance(values, Mapping):
        known: dict[str, list[int]] = {}
        for j, name in enumerate(names or ()):
            known.setdefault(name, []).append(j)
        for which, number in values.items():
            numbers[_index(which, key, n_features, known)] = number
    elif isinstance(values, Sequence):
        if len(values) != n_features:
            raise ConfigError(
                f"{key}: a list of {len(values)} numbers, and the data have {n_features} "
                "features; give one for each, or a mapping that names "
                "those that differ"
            )
        numbers[:] = values
    elif values is not None:
        numbers[:] = values
    return numbers


def _index(name: str | int, key: str, n_features: int, known: Mapping[str, Sequence[int]]) -> int:
    """A name is a name first; a text of digits that is none is a number.

    So is a number, unless it is the name of another feature: then it may be either.
    """
    places = known.get(str(name), ())
    if len(places) > 1 and isinstance(name, str):
        raise ConfigError(
            f"{key}: {len(places)} features are named {name!r} "
            f"(numbers {', '.join(map(str, places))}); give their numbers"
        )
    if places and isinstance(name, str):
        return places[0]
    number = int(name) if isinstance(name, int) or name.isdecimal() else None
    if number is not None and 0 <= number < n_features:
        if places and number not in places:
            other = next(other for other, at in known.items() if number in at)
            raise ConfigError(
                f"{key}: {number} may be the feature named {str(name)!r} (number "
                f"{places[0]}) or feature number {number} ({other!r}); write it as a "
                "text for the name, or name the other"
            )
        return number
    if len(places) == 1:
        return places[0]
    if number is not None:
        raise ConfigError(
            f"{key}: there is no feature {number}; the data have {n_features}, from 0 to "
            f"{n_features - 1}"
        )
    if not known:
        raise ConfigError(
            f"{key}: there is no feature {name!r}; the features of these data have no names, give "
            "their numbers (from 0 on)"
        )
    near = difflib.get_close_matches(str(name), list(known), n=1, cutoff=0.0)[0]
    raise ConfigError(f"{key}: there is no feature {name!r}; the nearest name is {near!r}")
