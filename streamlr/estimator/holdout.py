"""What folds come to, and scores of the rows that they hold out, by any scorer of
scikit-learn's."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _check_method_params

from streamlr.training.path import PathResult


@dataclass(frozen=True, slots=True)
class Tried:
    """Models of L strengths of the penalty with R shares of l1 each, fitted to all rows and to
    those that K folds leave."""

    Cs: NDArray[np.float64]
    """Inverse strengths as they were given, (L,)."""
    l1_ratios: NDArray[np.float64]
    """(R,)."""
    coefficients: NDArray[np.float64]
    """Of all rows, (L, R, c, n)."""
    intercepts: NDArray[np.float64]
    """(L, R, c)."""
    fold_coefficients: NDArray[np.float64]
    """(K, L, R, c, n)."""
    fold_intercepts: NDArray[np.float64]
    """(K, L, R, c)."""
    summed: dict[str, NDArray[np.float64]]
    """The scores that the passes have summed, (K, L, R) each."""
    passes: NDArray[np.int32]
    """Passes that the slowest of the models of a strength took, (L, R)."""

    @classmethod
    def of(
        cls,
        found: Sequence[PathResult],
        Cs: NDArray[np.float64],
        l1_ratios: NDArray[np.float64],
        at: NDArray[np.intp],
    ) -> Self:
        """From a path for each share; ``at`` leads from a place in ``Cs`` to one in a path."""

        def stack(tables: Sequence[Any]) -> NDArray[Any]:
            return np.stack([np.asarray(table)[at] for table in tables], axis=1)

        W, b = (
            np.moveaxis(stack(tables), 2, 0)
            for tables in (
                [each.fold_coefficients for each in found],
                [each.fold_intercepts for each in found],
            )
        )
        summed = {
            name: np.moveaxis(stack([each.fold_scores[name] for each in found]), 2, 0)
            for name in found[0].fold_scores
        }
        passes = stack([[row["passes"] for row in each.table] for each in found]).astype(np.int32)
        return cls(
            Cs,
            l1_ratios,
            stack([each.coefficients for each in found]),
            stack([each.intercepts for each in found]),
            W,
            b,
            summed,
            passes,
        )


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Rows in memory, and the folds that hold them out."""

    X: Any
    """Features as they were given, (m, n)."""
    labels: NDArray[Any]
    """(m,)."""
    folds: NDArray[np.intp]
    """The fold that holds out each row, (m,); -1 for none."""
    params: Mapping[str, Any]
    """What the scorer gets beside, such as weights; of what has a value for each row those of the
    rows."""

    def scores(
        self,
        scorer: Callable[..., float],
        tried: Tried,
        estimator_of: Callable[[NDArray[np.float64], NDArray[np.float64]], Any],
    ) -> NDArray[np.float64]:
        """Score of every model of a fold, (K, L, R), whose estimator ``estimator_of`` makes of its
        coefficients and intercepts."""
        K, L, R = tried.fold_intercepts.shape[:3]
        scores = np.empty((K, L, R))
        for k in range(K):
            held = np.flatnonzero(self.folds == k)
            X, labels, params = (
                _safe_indexing(self.X, held),
                self.labels[held],
                _check_method_params(self.X, self.params, indices=held),
            )
            for j, i in np.ndindex(R, L):
                scores[k, i, j] = scorer(
                    estimator_of(tried.fold_coefficients[k, i, j], tried.fold_intercepts[k, i, j]),
                    X,
                    labels,
                    **params,
                )
        return scores


def naming_classes(scorer: Any, classes: NDArray[Any]) -> Any:
    """The scorer, told of all classes where it can be, since a fold need not hold examples of each;
    of two the second is the positive one."""
    known = (
        inspect.signature(scorer._score_func).parameters if hasattr(scorer, "_score_func") else {}
    )
    if "labels" not in known:
        return scorer
    reported = (
        {"labels": classes, "pos_label": classes[-1]}
        if len(classes) == 2 and "pos_label" in known
        else {"labels": classes}
    )
    named = copy.copy(scorer)
    named._kwargs = reported | scorer._kwargs
    return named
