"""What the first look tells of features that are combinations of one another, or nearly, and what
follows from it for a solve.

Where nothing else holds the coefficients of features that nearly repeat one another, the objective
is so flat along them that a gradient within its tolerance says nothing of where the optimum is. The
solve then has combinations in the place of some of these features (see
`streamlr.kernels.alignment`), each in units of its own spread, and comes to the optimum as it does
on any other data. Combinations that do not vary at all are left alone: along them nothing is known,
and nothing moves.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.config.sections import ModelConfig
from streamlr.kernels.alignment import Basis
from streamlr.kernels.collinearity import (
    EXACTLY,
    NEARLY,
    UNTOLD,
    Extent,
    extent_of,
    extent_of_rows,
    pivots_of,
    products_of,
    sharpened,
    units_of,
)
from streamlr.kernels.families import FAMILIES
from streamlr.kernels.scans.moments import SampledRows
from streamlr.objective.moments import Moments
from streamlr.objective.penalty import Penalty
from streamlr.runs.session import Session
from streamlr.solvers import SOLVERS

Array = NDArray[np.float64]

MOST_FEATURES = 2048
"""Of which rows in memory tell the condition number: of more that would cost as much as the solve.
"""
_ROWS_OF_FEATURE = 2
"""Rows a feature below which a sample does not tell what hardly varies."""
_MOST_DIRECTIONS = 64
"""Combinations that stand in the place of features: each costs as much as one more candidate in
every pass."""
_TOLD_BELOW = 1e-5
"""σ of a combination below which a person is told, though the coefficients along it are those of
the optimum."""
_MOST_NAMED = 6
_MOST_TOLD = 5
_NO_PART = 1e-9
"""Of a feature in a combination, relative to the one that counts most: rounding."""
_LARGEST_CONDITION = 1.0 / float(np.finfo(np.float64).eps)


@dataclass(frozen=True, slots=True)
class _Weak:
    """Combinations of features in units of their spread that hardly vary."""

    vectors: Array
    """(n, q), of length 1."""
    sizes: Array
    """σ of each, (q,)."""
    exact: NDArray[np.bool_]
    """Which of them do not vary but by rounding, (q,)."""
    mean: Array
    """Of each, less that of its features, (q,); this and what follows only where it was measured.
    """
    spread: Array
    """(q,)."""
    comoment: Array
    """With the target, (q, c)."""

    def some(self, which: NDArray[np.bool_]) -> _Weak:
        return _Weak(
            self.vectors[:, which],
            self.sizes[which],
            self.exact[which],
            self.mean[which],
            self.spread[which],
            self.comoment[which],
        )


def align(
    session: Session,
    model: ModelConfig,
    classes: NDArray[Any],
    moments: Moments,
    sample: SampledRows | None,
    apart: float,
) -> Moments:
    """The moments, with what is known of combinations that hardly vary; where these are to stand in
    the place of features, the moments of those.

    Parameters
    ----------
    look, model, classes, moments
        The data and what is fitted to them.
    sample
        Some of the rows, or all, where they are in memory.
    apart
        σ of the weakest combination from which on downwards such combinations stand in the place of
        features, and a pass is made to measure them where not all rows are in memory; 0 for never.
    """
    centered, unit = (
        model.fit_intercept,
        units_of(moments.spread, moments.mean, model.fit_intercept),
    )
    if moments.n_rows < len(unit) + centered:
        return replace(
            moments, condition_number=_LARGEST_CONDITION
        )  # so few rows that every feature is a combination of the others
    extent = _extent(moments, sample, unit, centered)
    if extent is None:
        return moments
    if not extent.weak.shape[1]:
        return replace(moments, condition_number=extent.largest / extent.smallest)
    weak = _measured(
        session,
        classes,
        moments,
        sample,
        unit,
        extent,
        centered=centered,
        reads=extent.smallest < apart,
    )
    smallest = max(float(weak.sizes.min()), 1.0 / _LARGEST_CONDITION)
    weak = weak.some((weak.sizes < NEARLY) & ~_bounded_along(model, moments, unit, weak.vectors))
    reported = _described(weak, unit, _names(session, len(unit)))
    moments = replace(
        moments,
        condition_number=min(extent.largest / smallest, _LARGEST_CONDITION),
        collinearity=reported,
    )
    near = weak.some(~weak.exact)
    return (
        _in_basis(moments, near, unit)
        if extent.smallest < apart and 0 < len(near.sizes) <= _MOST_DIRECTIONS
        else moments
    )


def apart_of(session: Session, moments: Moments) -> float:
    """How little combinations of features vary that stand in their place.

    That is where the solver's coordinates are its own, and the penalty allows it; where products of
    the features are its Hessian, only what these do not tell.
    """
    model, solver, wanted = session.model, session.plan.solver, session.settings.solver.name
    kind, penalty = SOLVERS[solver], model.penalty
    by_l2 = penalty.l2 > 0 and (model.standardize or not kind.smooth_only)
    if penalty.l1 > 0 or model.bounds.given or by_l2 or kind.in_data_units or kind.by_equations:
        return 0.0
    quadratic = FAMILIES[model.family].quadratic
    judged = quadratic and kind.judged_by_equations and wanted == kind.name
    return UNTOLD if judged and moments.correlation is not None else NEARLY


def _extent(
    moments: Moments, sample: SampledRows | None, unit: Array, centered: bool
) -> Extent | None:
    """From the products of all rows, if they were summed, or from rows in memory; None where
    neither tells."""
    n = len(unit)
    if moments.correlation is not None:
        return extent_of(products_of(moments.correlation, moments.spread, moments.mean, centered))
    if (
        sample is None
        or n > MOST_FEATURES
        or len(sample.X) < min(_ROWS_OF_FEATURE * n, moments.n_rows)
    ):
        return None
    return extent_of_rows(sample.X, sample.weights, moments.mean, unit, centered)


def _measured(
    session: Session,
    classes: NDArray[Any],
    moments: Moments,
    sample: SampledRows | None,
    unit: Array,
    extent: Extent,
    *,
    centered: bool,
    reads: bool,
) -> _Weak:
    """How much combinations vary: by rows in memory if these are all or leave nothing to ask, else
    by a pass over all rows."""
    vectors, sizes = extent.weak, extent.sizes
    q, c = vectors.shape[1], moments.comoment.shape[1]
    if sample is not None and len(sample.X) >= min(_ROWS_OF_FEATURE * len(unit), moments.n_rows):
        vectors, sizes = sharpened(vectors, sample.X, sample.weights, moments.mean, unit, centered)
    rounding = EXACTLY * (np.abs(vectors).T @ (1.0 + np.abs(moments.mean) / unit))
    whole = sample is not None and len(sample.X) == moments.n_rows
    unmeasured = _Weak(vectors, sizes, sizes <= rounding, np.zeros(q), sizes, np.zeros((q, c)))
    if not reads or (unmeasured.exact.all() and (whole or moments.correlation is not None)):
        return unmeasured
    basis = Basis(pivots_of(vectors)[0], vectors / unit[:, None], moments.mean)
    sums = session.moments_along(classes, basis, sample if whole else None)
    mean, spread = sums.mean[basis.pivots], np.sqrt(sums.square_sum[basis.pivots] / sums.weight_sum)
    if not whole:
        sizes = spread if centered else np.hypot(spread, mean + basis.directions.T @ moments.mean)
    return _Weak(
        vectors,
        sizes,
        sizes <= rounding,
        mean,
        spread,
        sums.comoment[basis.pivots] / sums.weight_sum,
    )


def _bounded_along(
    model: ModelConfig, moments: Moments, unit: Array, vectors: Array
) -> NDArray[np.bool_]:
    """Along which of the directions the penalty tells enough, (q,)."""
    penalty = Penalty.of(model, len(unit)).per(
        unit, unit if model.standardize else np.ones_like(unit)
    )
    by_l1 = (penalty.l1 > 0) @ np.abs(vectors) > NEARLY
    held: NDArray[np.bool_] = (penalty.l2 @ vectors**2 >= NEARLY**2) | by_l1
    return held


def _in_basis(moments: Moments, near: _Weak, unit: Array) -> Moments:
    """The moments of features in whose place some combinations stand."""
    directions = near.vectors / unit[:, None]
    pivots = pivots_of(near.vectors)[0]
    basis = Basis(pivots, directions, moments.mean)
    mean, spread, comoment = (
        basis.moved(moments.mean),
        moments.spread.copy(),
        moments.comoment.copy(),
    )
    mean[pivots] += near.mean
    spread[pivots], comoment[pivots] = near.spread, near.comoment
    return replace(
        moments,
        mean=mean,
        spread=spread,
        comoment=comoment,
        correlation=None,
        pivots=pivots,
        directions=directions,
        shift=moments.mean,
    )


def _names(session: Session, n: int) -> tuple[str, ...]:
    names = session.source.feature_names
    return tuple(f"x{j}" for j in range(n)) if names is None else tuple(map(repr, names))


def _described(weak: _Weak, unit: Array, names: tuple[str, ...]) -> str:
    """What a person is told of combinations that do not vary, or next to nothing; nothing where
    there are none."""
    exact, near = weak.some(weak.exact), weak.some(~weak.exact & (weak.sizes < _TOLD_BELOW))
    pivots, left = pivots_of(exact.vectors)
    reported = [
        _shown(vector, 0.0, unit, names) + " does not vary, so nothing" for vector in left.T
    ]
    others = (
        near.vectors - left @ near.vectors[pivots]
    )  # what does not vary takes features out of what hardly does
    for vector in pivots_of(others)[1].T:
        size = float(
            np.linalg.norm(near.sizes * (near.vectors.T @ vector))
            / np.linalg.norm(near.vectors.T @ vector)
        )
        reported.append(
            f"{_shown(vector, size, unit, names)} varies {size:.1g} times as much as they do, so "
            "little"
        )
    if not reported:
        return ""
    more = (
        f" (and {len(reported) - _MOST_TOLD} more such combinations)"
        if len(reported) > _MOST_TOLD
        else ""
    )
    return (
        f"features {'' if len(exact.sizes) else 'nearly '}repeat one another: "
        f"{'; '.join(f'{text} is known along it' for text in reported[:_MOST_TOLD])}{more}"
    )


def _shown(vector: Array, size: float, unit: Array, names: tuple[str, ...]) -> str:
    """A combination of features in units of their spread, (n,), that varies so much, in words and
    the units of the data."""
    order = np.argsort(-np.abs(vector), kind="stable")
    part = order[np.abs(vector[order]) > max(size, _NO_PART) * np.abs(vector[order[0]])]
    by_unit = vector / unit * (unit[part[0]] / vector[part[0]])
    terms = [
        f"{'-' if by_unit[j] < 0 else '+'} {_factor(abs(by_unit[j]))}{names[j]}"
        for j in sorted(part[1:_MOST_NAMED])
    ]
    rest = [f"and {len(part) - _MOST_NAMED} others"] if len(part) > _MOST_NAMED else []
    return " ".join([names[part[0]], *terms, *rest])


def _factor(size: float) -> str:
    shown = f"{size:.3g} "
    return "" if shown == "1 " else shown
