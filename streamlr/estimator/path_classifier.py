"""Logistic regression whose penalty is chosen by folds, with scikit-learn's interface."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping, Sequence
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.model_selection import check_cv

from streamlr.config import ClusterConfig
from streamlr.data.source import Rows
from streamlr.errors import ConfigError
from streamlr.estimator.checks import features_of, target_of, weights_of
from streamlr.estimator.classifier import LogisticRegression, classes_of
from streamlr.path_run import PathResult, path

_SCORES = {"accuracy": ("accuracy", 1.0), "neg_log_loss": ("loss", -1.0), "roc_auc": ("auc", 1.0)}


class LogisticRegressionCV(LogisticRegression):
    """Logistic regression with the strength of the penalty that folds choose; the models of all strengths and folds share the passes over the data.

    The objective is that of `LogisticRegression`, in the folds too: ``C`` goes with the sum of the loss over the rows that are fitted. The model is fitted to
    all rows with the chosen ``C``, which costs nothing more.

    Parameters
    ----------
    Cs
        Inverse strengths of the penalty, or how many of them there are from 1e-4 to 1e4, evenly by their logarithms.
    cv
        As in scikit-learn: a number of stratified folds (None: 5), a splitter, or pairs of train and test rows; they have to hold out no row twice, and
        nothing but the rows held out may be missing among those to train on.
    l1_ratio
        Share of the l1 norm in the penalty, from 0 to 1.
    scoring
        ``accuracy`` (None means that), ``neg_log_loss``, or of two classes ``roc_auc``.
    fit_intercept, class_weight, tol, max_iter, solver, cluster
        As for `LogisticRegression`; ``solver`` is ``auto``, ``lbfgs`` or ``proximal``.
    random_state
        Seed of the sample from whose optimum the solves start.

    Attributes
    ----------
    coef_, intercept_, classes_, n_iter_, n_features_in_, feature_names_in_, status_, model_
        As for `LogisticRegression`.
    C_ : ndarray of shape (1,) or (n_classes,)
        The chosen inverse strength, the same for all classes.
    Cs_ : ndarray of shape (n_cs,)
    scores_ : dict
        Of each class (of two the second alone) the scores of the rows held out, (n_folds, n_cs), the same for all classes.
    coefs_paths_ : dict
        Of each class (of two the second alone) the coefficients in the folds, (n_folds, n_cs, n) or, with the intercept at the end, (n_folds, n_cs, n + 1).
    """

    def __init__(self, *, Cs: int | Sequence[float] = 10, cv: Any = None, l1_ratio: float | None = 0.0, scoring: str | None = None,
                 fit_intercept: bool = True, class_weight: str | Mapping[Any, float] | None = None, tol: float = 1e-8, max_iter: int = 100,
                 solver: str = "auto", random_state: int = 0, cluster: Mapping[str, Any] | ClusterConfig | None = None) -> None:
        self.Cs = Cs
        self.cv = cv
        self.l1_ratio = l1_ratio
        self.scoring = scoring
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.tol = tol
        self.max_iter = max_iter
        self.solver = solver
        self.random_state = random_state
        self.cluster = cluster

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None, groups: ArrayLike | None = None) -> Self:
        """Fit to features and labels, with weights, if any.

        Parameters
        ----------
        X, y, sample_weight
            As for `LogisticRegression`.
        groups
            The group of each example, (m,), for a ``cv`` that asks for it, such as scikit-learn's `GroupKFold`.
        """
        Cs, score, sign = self._inverse_strengths(), *self._score()
        rows = features_of(self, X, reset=True)
        labels = target_of(self, y, numeric=False)
        classes, codes = classes_of(labels)
        weights = self._weights(codes, classes, weights_of(self, sample_weight, len(labels)))
        order = np.argsort(Cs)
        found = self._path(rows, codes, weights, _fold_of(self.cv, codes, groups), Cs[order])
        self._keep(found, classes, Cs, np.argsort(order), sign * found.fold_scores[score])
        return self

    def _inverse_strengths(self) -> NDArray[np.float64]:
        Cs = np.logspace(-4, 4, self.Cs) if isinstance(self.Cs, int | np.integer) else np.array(self.Cs, dtype=np.float64)
        if Cs.ndim != 1 or not len(Cs) or not (np.isfinite(Cs) & (Cs > 0)).all():
            raise ConfigError(f"Cs is {self.Cs!r}; it must be a number of strengths, or a list of numbers above 0")
        return Cs

    def _score(self) -> tuple[str, float]:
        wanted = self.scoring or "accuracy"
        if wanted not in _SCORES:
            raise ConfigError(f"scoring is {wanted!r}; it must be one of {', '.join(_SCORES)}")
        return _SCORES[wanted]

    def _path(self, rows: NDArray[Any] | Rows, codes: NDArray[np.intp], weights: NDArray[np.float64] | None, folds: NDArray[np.intp],
              Cs: NDArray[np.float64]) -> PathResult:
        """All strengths, from the largest on, and their folds."""
        if self.scoring == "roc_auc" and codes.max() > 1:
            raise ConfigError("scoring='roc_auc' is for two classes; set neg_log_loss or accuracy")
        total, n_folds, held = len(codes) if weights is None else float(weights.sum()), int(folds.max()) + 1, folds >= 0
        held_weight = np.bincount(folds[held], None if weights is None else weights[held], n_folds)
        shares = total / np.where(held_weight < total, total - held_weight, total)
        return path(
            {"model": {"family": self._family, "fit_intercept": bool(self.fit_intercept)}, "run": {"seed": int(self.random_state)},
             "solver": {"name": self.solver, "tolerance": float(self.tol), "max_passes": int(self.max_iter)}, "cluster": self._cluster_for(rows),
             "path": {"lambdas": (1.0 / (Cs * total)).tolist(), "alpha": float(self.l1_ratio or 0.0), "folds": n_folds}},
            X=rows, y=codes, sample_weight=weights, folds=folds, fold_shares=shares.tolist())

    def _keep(self, found: PathResult, classes: NDArray[Any], Cs: NDArray[np.float64], at: NDArray[np.intp], scores: NDArray[np.float64]) -> None:
        """Keep the model of the best mean score, and what the folds have come to; ``at`` leads from a place in ``Cs`` to one in the path."""
        best = int(np.argmax(scores[at].mean(axis=1)))
        chosen = int(at[best])
        names = getattr(self, "feature_names_in_", None)
        self.model_ = dataclasses.replace(found.model, coef_=found.coefficients[chosen], intercept_=found.intercepts[chosen], classes_=classes,
                                          feature_names=None if names is None else tuple(map(str, names)))
        self.coef_, self.intercept_, self.classes_ = self.model_.coef_.copy(), self.model_.intercept_.copy(), classes
        shown = classes[1:] if len(classes) == 2 else classes
        self.Cs_, self.C_ = Cs, np.full(len(shown), Cs[best])
        self.scores_ = {label: scores[at].T for label in shown.tolist()}
        W = found.fold_coefficients[at].transpose(2, 1, 0, 3)
        if self.fit_intercept:
            W = np.concatenate([W, found.fold_intercepts[at].transpose(2, 1, 0)[..., None]], axis=-1)
        self.coefs_paths_ = dict(zip(shown.tolist(), W, strict=True))
        self.n_iter_ = np.array([found.passes], dtype=np.int32)
        self.status_ = found.status
        if found.status != "converged":
            warnings.warn(f"{type(self).__name__} did not converge ({found.status}): {found.reason}", ConvergenceWarning, stacklevel=3)


def _fold_of(cv: Any, codes: NDArray[np.intp], groups: ArrayLike | None) -> NDArray[np.intp]:
    """The fold that holds out each row, (m,); -1 for none.

    Raises
    ------
    ConfigError
        Where a row is held out twice, or a fold trains on other rows than those that it does not hold out.
    """
    m = len(codes)
    found = np.full(m, -1, dtype=np.intp)
    for fold, (train, test) in enumerate(check_cv(cv, codes, classifier=True).split(np.empty((m, 0)), codes, groups)):
        kept, out = np.zeros(m, dtype=bool), np.zeros(m, dtype=bool)
        kept[train], out[test] = True, True
        if (found[out] >= 0).any() or (kept == out).any():
            raise ConfigError(f"cv: fold {fold + 1} of {cv!r} holds out rows that another does, or trains on fewer rows than those that it leaves; take "
                              "folds that hold out each row once, such as KFold")
        found[out] = fold
    return found
