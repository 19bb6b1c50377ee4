"""Scores of rows held out, by any scorer of scikit-learn's."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.utils import _safe_indexing
from sklearn.utils.validation import _check_method_params


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
    """What the scorer gets beside, such as weights; of what has a value for each row those of the rows."""

    def scores(self, scorer: Callable[..., float], coefficients: NDArray[np.float64], intercepts: NDArray[np.float64],
               estimator_of: Callable[[NDArray[np.float64], NDArray[np.float64]], Any]) -> NDArray[np.float64]:
        """Score of every model, (K, L, R); ``coefficients`` are (K, L, R, c, n) and ``intercepts`` (K, L, R, c)."""
        K, L, R = coefficients.shape[:3]
        scores = np.empty((K, L, R))
        for k in range(K):
            held = np.flatnonzero(self.folds == k)
            X, labels, params = _safe_indexing(self.X, held), self.labels[held], _check_method_params(self.X, self.params, indices=held)
            for j, i in np.ndindex(R, L):
                scores[k, i, j] = scorer(estimator_of(coefficients[k, i, j], intercepts[k, i, j]), X, labels, **params)
        return scores


def naming_classes(scorer: Any, classes: NDArray[Any]) -> Any:
    """The scorer, told of all classes where it can be, since a fold need not hold examples of each; of two the second is the positive one."""
    known = inspect.signature(scorer._score_func).parameters if hasattr(scorer, "_score_func") else {}
    if "labels" not in known:
        return scorer
    told = {"labels": classes, "pos_label": classes[-1]} if len(classes) == 2 and "pos_label" in known else {"labels": classes}
    named = copy.copy(scorer)
    named._kwargs = told | scorer._kwargs
    return named
