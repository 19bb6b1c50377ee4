"""Logistic regression with scikit-learn's interface."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets

from streamlr.config import ClusterConfig
from streamlr.errors import ConfigError, LabelError
from streamlr.estimator.checks import features_of, target_of, weights_of
from streamlr.estimator.linear_model import LinearModel


class LogisticRegression(ClassifierMixin, LinearModel):  # type: ignore[misc]
    """Logistic regression; of more than two classes multinomial.

    The objective is scikit-learn's: ``C * sum(weight * loss) + (1 - l1_ratio) |coef|^2 / 2 + l1_ratio |coef|_1``, the intercept not penalised. Unlike there,
    ``tol`` bounds the gradient of the *mean* loss in standardised units, and ``max_iter`` counts passes over the data.

    Parameters
    ----------
    C
        Inverse strength of the penalty; ``inf`` for none.
    penalty
        ``l2``, ``l1``, ``elasticnet``, or None for none.
    l1_ratio
        Share of the l1 norm in the penalty, from 0 to 1; with ``elasticnet`` it has to be given, ``l2`` with a share above 0 is one too, and ``l1`` has
        the share 1 whatever is said here.
    fit_intercept
        Whether the model has an intercept.
    class_weight
        ``balanced``, or a mapping of labels to what their examples weigh (1 for those that are not named).
    warm_start
        Whether a fit starts from the coefficients of the last one.
    tol
        Largest entry of the gradient at which the fit has converged.
    max_iter
        Most passes over the data.
    solver
        ``auto``, ``lbfgs`` or ``newton`` (or scikit-learn's name for it, ``newton-cholesky``).
    cluster
        The ``cluster`` section of a configuration, as a mapping or a `streamlr.config.ClusterConfig`; None for threads, and one for what is small.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n) or (n_classes, n)
    intercept_ : ndarray of shape (1,) or (n_classes,)
    classes_ : ndarray of shape (n_classes,)
    n_iter_ : ndarray of shape (1,)
        Passes over the data.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n,)
        Where ``X`` names all its features.
    status_ : str
        ``converged``, ``pass_limit``, ``stalled`` or ``diverged``; a warning tells of all but the first.
    model_ : streamlr.Model
    """

    _family = "logistic"

    def __init__(self, C: float = 1.0, *, penalty: str | None = "l2", l1_ratio: float | None = None, fit_intercept: bool = True,
                 class_weight: str | Mapping[Any, float] | None = None, warm_start: bool = False, tol: float = 1e-8, max_iter: int = 100,
                 solver: str = "auto", cluster: Mapping[str, Any] | ClusterConfig | None = None) -> None:
        self.C = C
        self.penalty = penalty
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.tol = tol
        self.max_iter = max_iter
        self.solver = solver
        self.cluster = cluster

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Fit to features and labels, with weights, if any.

        Parameters
        ----------
        X
            (m, n): an array, a sparse matrix, a frame, or a Zarr or Dask array, which is read in every pass by its chunks.
        y
            Labels of any kind, (m,); held in memory, as are the weights.
        sample_weight
            Weight of each example, (m,).
        """
        share = self._l1_share()
        rows = features_of(self, X, reset=True)
        labels = target_of(self, y, numeric=False)
        classes, codes = _classes_of(labels)
        weights = weights_of(self, sample_weight, len(labels))
        if weights is not None:
            _require_weight(np.bincount(codes, np.abs(weights), len(classes)), classes)
        weights = self._weights(codes, classes, weights)
        total = len(labels) if weights is None else float(weights.sum())
        unpenalised = self.penalty is None or np.isinf(self.C) or total <= 0
        strength = 0.0 if unpenalised else 1.0 / (self.C * total)
        result = self._train(rows, codes, weights, (1.0 - share) * strength, classes, share * strength)
        self.coef_, self.intercept_, self.classes_ = result.model.coef_, result.model.intercept_, classes
        self.n_iter_ = np.array([result.passes], dtype=np.int32)
        return self

    def _l1_share(self) -> float:
        """Share of l1 in the penalty; refuses what cannot be meant."""
        if not self.C > 0:
            raise ConfigError(f"C is {self.C}; it must be above 0 (inf for no penalty)")
        if self.penalty not in ("l2", "l1", "elasticnet", None):
            raise ConfigError(f"penalty is {self.penalty!r}; it must be 'l2', 'l1', 'elasticnet', or None for none")
        if self.l1_ratio is None and self.penalty == "elasticnet":
            raise ConfigError("penalty='elasticnet' needs l1_ratio, the share of the l1 norm from 0 to 1; it is None")
        if self.l1_ratio is not None and not 0 <= self.l1_ratio <= 1:
            raise ConfigError(f"l1_ratio is {self.l1_ratio}; it is the share of the l1 norm in the penalty and must be from 0 to 1")
        return 1.0 if self.penalty == "l1" else float(self.l1_ratio or 0.0)

    def _weights(self, codes: NDArray[np.intp], classes: NDArray[Any], weights: NDArray[np.float64] | None) -> NDArray[np.float64] | None:
        """Sample weights times the weights of the classes; ``balanced`` divides the weight of all by that of the class and by the number of classes."""
        if self.class_weight is None:
            return weights
        if isinstance(self.class_weight, str) and self.class_weight == "balanced":
            class_sums = np.bincount(codes, weights, len(classes))
            factors = class_sums.sum() / (len(classes) * class_sums)
        else:
            factors = compute_class_weight(self.class_weight, classes=classes, y=classes)
        _require_weight(factors, classes)
        by_class: NDArray[np.float64] = factors[codes]
        return by_class if weights is None else by_class * weights

    def decision_function(self, X: Any) -> Any:
        """Log-odds of the second class, (m,), or Z of every class, (m, n_classes); of a Dask array a Dask array."""
        return self._by_blocks(X, lambda model: model.decision_function, self._n_outputs())

    def predict_proba(self, X: Any) -> Any:
        """Probability of each class, (m, n_classes); of a Dask array a Dask array."""
        return self._by_blocks(X, lambda model: model.predict_proba, max(2, self._n_outputs()))

    def predict_log_proba(self, X: Any) -> Any:
        """Logarithm of the probability of each class, (m, n_classes); of a Dask array a Dask array."""
        return self._by_blocks(X, lambda model: model.predict_log_proba, max(2, self._n_outputs()))

    def predict(self, X: Any) -> Any:
        """The most probable label, (m,); of a Dask array a Dask array."""
        classes = getattr(self, "classes_", np.empty(0))
        return self._by_blocks(X, lambda model: model.predict, dtype=classes.dtype)

    def score(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> float:
        """Accuracy."""
        predicted = np.asarray(self.predict(X))
        if len(self.classes_) > 2:
            return float(accuracy_score(np.asarray(y), predicted, sample_weight=sample_weight))
        right = target_of(self, y, numeric=False) == predicted  # scikit-learn refuses labels that are numbers but no integers
        return float(accuracy_score(np.ones(len(right), dtype=bool), right, sample_weight=sample_weight))

    def _n_outputs(self) -> int:
        """Columns of Z; 0 where it has one axis."""
        n_classes = len(getattr(self, "classes_", ()))
        return n_classes if n_classes > 2 else 0


def _classes_of(labels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """The sorted labels, and the number of each example's; numbers that are no integers may be labels of two classes, but not of more."""
    classes, codes = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise LabelError(f"y holds one class only: {classes.tolist()[0]!r} ({len(labels)} rows); a classifier needs examples of two")
    if len(classes) > 2:
        check_classification_targets(labels)
    return classes, codes


def _require_weight(sums: NDArray[Any], classes: NDArray[Any]) -> None:
    """Refuse a class without weight by its label; the engines know its number alone."""
    if (sums == 0).any():
        label = classes.tolist()[int(np.argmax(sums == 0))]
        raise LabelError(f"all examples of the class {label!r} weigh 0; every class needs weight: leave its examples out, or weigh them")
