"""What a configuration says of a regularisation path: the penalties to fit, and the folds that
judge them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from streamlr.config.feature_values import PenaltyConfig
from streamlr.errors import ConfigError
from streamlr.solvers.registry import SOLVERS, fits_paths, knows_smooth_alone

LAMBDAS = "path.lambdas"
_MOST_FOLDS = 100
_MOST_LAMBDAS = 10_000


@dataclass(frozen=True, slots=True)
class PathConfig:
    """Models of many penalties ``lambda (alpha |W|_1 + (1 - alpha)/(2 s) |W|^2)``, fitted together.

    s is 1, but of ``linear`` the standard deviation of the target, less the offset, as in glmnet.
    """

    lambdas: tuple[float, ...] | None = None
    """The strengths, in any order; null: ``count`` of them, from the smallest at which l1 leaves no
    coefficient but of unpenalised features down to ``ratio`` times that."""
    count: int = 100
    """How many there are, where they are not given."""
    ratio: float | None = None
    """The smallest over the largest, where they are not given; null: 1e-4 with more rows than
    features, else 1e-2."""
    alpha: float = 0.0
    """Share of l1."""
    folds: int = 0
    """Folds by which the strengths are judged, each a fit of its rows alone; 0: none."""
    choose: Literal["min", "1se"] = "min"
    """Which model is kept: that of the lowest held-out loss, or of the largest strength within one
    standard error of it."""


def read_lambdas(value: Any, key: str) -> tuple[float, ...] | None:
    """Strengths as written."""
    if value is None:
        return None
    try:
        if isinstance(value, str | bytes | dict) or any(
            isinstance(number, bool) for number in value
        ):
            raise TypeError
        found = tuple(
            float(number) for number in value
        )  # YAML 1.1 reads 1e-3, which lacks a point, as a text
    except (TypeError, ValueError):
        raise ConfigError(f"{key}: expected a list of numbers, or null, got {value!r}") from None
    return found


def check_path(path: PathConfig) -> None:
    """Ranges.

    Raises
    ------
    ConfigError
        That names the key.
    """
    if path.lambdas is not None:
        _check_lambdas(path.lambdas)
    if not 1 <= path.count <= _MOST_LAMBDAS:
        raise ConfigError(
            f"path.count: {path.count} is out of range; it must be 1 to {_MOST_LAMBDAS}"
        )
    if path.ratio is not None and not 0 < path.ratio < 1:
        raise ConfigError(
            f"path.ratio: {path.ratio} is out of range; it must be above 0 and below 1"
        )
    if not 0 <= path.alpha <= 1:
        raise ConfigError(f"path.alpha: {path.alpha} is out of range; it must be 0 to 1")
    if path.folds and not 2 <= path.folds <= _MOST_FOLDS:
        raise ConfigError(
            f"path.folds: {path.folds} is out of range; it must be 2 to {_MOST_FOLDS}, or 0 for "
            "none"
        )


def what_no_path_has(path: PathConfig, penalty: PenaltyConfig, solver: str) -> str | None:
    """What other keys ask for that goes with no path, and the remedy; None where nothing does."""
    if penalty.l1 > 0 or penalty.l2 > 0:
        return (
            f"model.penalty: l1 is {penalty.l1:g} and l2 is {penalty.l2:g}, and a path goes "
            "through "
            "penalties of its own (path.lambdas, path.alpha); set both to 0"
        )
    if not fits_paths(solver):
        able = [name for name, kind in SOLVERS.items() if kind.fits_paths]
        return f"solver.name: a path is fitted by auto, {' or '.join(able)}, not {solver}"
    if path.alpha > 0 and knows_smooth_alone(solver):
        return (
            f"solver.name: {solver} minimises what is smooth, and path.alpha is {path.alpha:g}; "
            "set solver.name: auto (or proximal), or path.alpha: 0"
        )
    return None


def _check_lambdas(lambdas: tuple[float, ...]) -> None:
    if not 1 <= len(lambdas) <= _MOST_LAMBDAS:
        raise ConfigError(f"{LAMBDAS}: {len(lambdas)} strengths; expected 1 to {_MOST_LAMBDAS}")
    for number in lambdas:
        if not 0 <= number < float("inf"):
            raise ConfigError(
                f"{LAMBDAS}: {number} is out of range; it must be 0 or above and finite"
            )
    if len(set(lambdas)) < len(lambdas):
        twice = next(number for i, number in enumerate(lambdas) if number in lambdas[:i])
        raise ConfigError(f"{LAMBDAS}: {twice:g} is there twice; name each once")
