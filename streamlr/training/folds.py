"""What the folds of a path leave to be fitted: what their penalties are by, and what they can
judge.

A fold is what a fit of its rows alone would be, as in glmnet: with ``standardize`` its penalty is
by their spreads, and of least squares its l2 by the spread of their target (see
`streamlr.training.lambda_grid`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamlr.config.sections import ModelConfig
from streamlr.kernels.families import FAMILIES, Family
from streamlr.kernels.scans.fold_sums import PartScan, PartSums, spread_of
from streamlr.kernels.split import Split
from streamlr.objective.objective import Moments, standard_coordinates

Array = NDArray[np.float64]
Marks = NDArray[np.bool_]

_MOST_NAMED = 5
_LEAST_FOLDS = 2
"""Fewer cannot tell how sure they are."""
_LEAST_CLASSES = 2
"""Among the rows that they hold out: of one alone there is nothing to tell."""


@dataclass(frozen=True, slots=True)
class FoldMoments:
    """What the statistics pass tells of the rows that each of K folds leaves, and of those that it
    holds out.

    Of what is no class but a number or a count, C is 1, and marked is where all of them are the
    same, or 0.
    """

    target_spread: Array
    """Of least squares the spread of the target less the offset, of all rows, then of those that
    each fold leaves, (1 + K,); of all else 1."""
    feature_spread: Array
    """With ``standardize`` what the penalty of each fold is by, (K, n); else (K, 0)."""
    least_loss: Array
    """Mean of the smallest losses that the targets allow which each fold holds out, (K,)."""
    unknown: Marks
    """Which classes have no row of weight among those that each fold leaves, (K, C)."""
    unseen: Marks
    """The same of the rows that each fold holds out."""

    @classmethod
    def none(cls) -> FoldMoments:
        """Where there are no folds, nor a target whose spread counts."""
        unmarked = np.empty((0, 1), dtype=bool)
        return cls(np.ones(1), np.empty((0, 0)), np.empty(0), unmarked, unmarked)

    @classmethod
    def of(cls, sums: PartSums, moments: Moments, model: ModelConfig) -> FoldMoments:
        """From what the statistics pass says of K folds and the rows in none."""
        left, n_folds = sums.without_each(), len(sums.weight_sum) - 1
        spreads, features = np.ones(1 + n_folds), np.empty((n_folds, 0))
        if FAMILIES[model.family].quadratic:
            spreads = np.concatenate([_target_spread(sums.whole()), _target_spread(left)])
        if sums.mean.shape[1] and n_folds:
            features = np.stack(
                [_feature_spread(left, k, moments, model.fit_intercept) for k in range(n_folds)]
            )
        held = sums.weight_sum[:n_folds]
        least = np.divide(
            sums.least_loss_sum[:n_folds], held, out=np.zeros(n_folds), where=held > 0
        )
        several = sums.n_rows[:n_folds, None] > 1  # whoever leaves out one row at a time knows
        return cls(
            spreads,
            features,
            least,
            _missing(left, model.family),
            _missing(sums, model.family)[:n_folds] & several,
        )

    def penalty_spread(self, fold: int) -> Array | None:
        """Of a fold, or of all rows (-1), for `Objective`, (n,); None for those that it knows."""
        return None if fold < 0 or not self.feature_spread.size else self.feature_spread[fold]

    def unsolved(self, family: str) -> Marks:
        """The folds that leave rows of which no model is the best, (K,): a class is not among them,
        or no count above 0."""
        found: Marks = np.asarray(self.unknown.any(axis=1))
        return np.zeros_like(found) if FAMILIES[family].quadratic else found

    def left_out(self, family: str) -> Marks:
        """The folds that have no say in what the held-out rows come to, (K,).

        Those are the unsolved, where the others hold out rows of two classes or more.
        """
        out = self.unsolved(family)
        seen = np.count_nonzero((~self.unseen[~out]).any(axis=0))
        enough = np.count_nonzero(~out) >= _LEAST_FOLDS and seen >= _LEAST_CLASSES
        return out if enough else np.zeros_like(out)

    def warnings(self, family: str, classes: Sequence[object]) -> list[str]:
        """What a person should know of the folds."""
        says = _sayings(FAMILIES[family])
        reported = []
        if self.unknown.any():
            then = says.of_left_out if self.left_out(family).any() else says.of_fitted
            reported.append(
                f"{says.fitted} {lacking(self.unknown, classes)}: {then}; set path.folds lower, "
                "or deal the rows out to folds otherwise"
            )
        if self.unseen.any():
            reported.append(f"{says.holdout} {lacking(self.unseen, classes)}: {says.of_holdout}")
        return reported


@dataclass(frozen=True, slots=True)
class _Sayings:
    """What is said of folds that lack something."""

    fitted: str
    """Among the rows that they leave."""
    of_fitted: str
    """What follows."""
    of_left_out: str
    """What follows where others can judge without them."""
    holdout: str
    """Among those that they hold out."""
    of_holdout: str
    """What follows."""


_OF_CLASSES = _Sayings(
    "no row of a class (that weighs anything) is left to be fitted in",
    "the models there cannot know it, and the held-out scores say little",
    "the models there cannot know it, and the held-out scores are those of the other folds",
    "no row of a class (that weighs anything) is held out in",
    "the held-out scores there say nothing of it",
)
_OF_COUNTS = _Sayings(
    "every count that is left to be fitted is 0 in",
    "no finite rate fits them, and the held-out scores say little",
    "",
    "every count that is held out is 0 in",
    "the held-out scores there say nothing of others",
)
_OF_NUMBERS = _Sayings(
    "every target that is left to be fitted is the same in",
    "the models there are constants",
    "",
    "every target that is held out is the same in",
    "the held-out scores there say nothing of others",
)


def _sayings(family: Family) -> _Sayings:
    if family.labelled:
        return _OF_CLASSES
    return _OF_COUNTS if family.counted else _OF_NUMBERS


def parts_asked(model: ModelConfig, n_folds: int, split: Split | None) -> PartScan | None:
    """What the statistics pass is to tell of the folds of a path, and of the target of least
    squares."""
    quadratic = FAMILIES[model.family].quadratic
    if not n_folds and not quadratic:
        return None
    return PartScan(split, n_folds, model.standardize and n_folds > 0, quadratic)


def _target_spread(sums: PartSums) -> Array:
    """(P,); 1 where it is nothing, and no coefficient will be anything."""
    every = zip(sums.target_mean, sums.target_square_sum, sums.weight_sum.tolist(), strict=True)
    found = [
        float(spread_of(mean, square, weight)[0]) if weight > 0 else 0.0
        for mean, square, weight in every
    ]
    return np.where(np.array(found) > 0, found, 1.0)


def _feature_spread(left: PartSums, fold: int, moments: Moments, fit_intercept: bool) -> Array:
    """What the penalty of a fold is by, (n,)."""
    weight, mean = float(left.weight_sum[fold]), left.mean[fold]
    if not weight > 0:
        return np.ones_like(mean)
    ours = replace(moments, mean=mean, spread=spread_of(mean, left.square_sum[fold], weight))
    return standard_coordinates(ours, fit_intercept).scale


def _missing(sums: PartSums, family: str) -> Marks:
    """Which classes have no row of weight in each part, (P, C)."""
    asked = FAMILIES[family]
    missing: Marks
    if asked.counted or asked.coupled:
        missing = sums.most <= 0
    elif asked.labelled:
        missing = np.hstack([sums.least >= 1, sums.most <= 0])
    else:
        missing = sums.least >= sums.most
    return missing


def lacking(marks: Marks, classes: Sequence[object]) -> str:
    """The folds, and which classes they lack, (K, C), for a person."""
    named = []
    for k in np.flatnonzero(marks.any(axis=1)).tolist():
        lacks = (
            [f"class {classes[j]!r}" for j in np.flatnonzero(marks[k]).tolist()]
            if len(classes)
            else []
        )
        named.append(f"fold {k + 1}" + (f" ({_some(lacks)})" if lacks else ""))
    return f"{_some(named)} of {len(marks)}"


def _some(names: Sequence[str]) -> str:
    """The first few, and how many more."""
    more = len(names) - _MOST_NAMED
    return ", ".join(names[:_MOST_NAMED]) + (f" and {more} more" if more > 0 else "")
