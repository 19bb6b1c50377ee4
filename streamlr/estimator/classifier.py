"""Logistic regression with scikit-learn's interface."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import sparse
from sklearn.base import ClassifierMixin
from sklearn.metrics import accuracy_score
from sklearn.utils import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from streamlr.config.sections import ClusterConfig
from streamlr.data.sources.adapters import in_memory
from streamlr.errors import ConfigError, LabelError
from streamlr.estimator.checks import features_of, target_of, weights_of
from streamlr.estimator.linear_model import LinearModel, Restraints, shown
from streamlr.model import Model


class LogisticRegression(ClassifierMixin, LinearModel):  # type: ignore[misc]
    """Logistic regression; of more than two classes multinomial.

    The objective is scikit-learn's: ``C * sum(weight * loss) + (1 - l1_ratio) |coef|^2 / 2 +
    l1_ratio |coef|_1``, the intercept not penalised. Unlike there, ``tol`` bounds the gradient of
    the *mean* loss in standardised units, and ``max_iter`` counts passes over the data.

    Parameters
    ----------
    C
        Inverse strength of the penalty; ``inf`` for none.
    penalty
        ``l2``, ``l1``, ``elasticnet``, or None for none; ``deprecated``, which is what scikit-learn
        has here since 1.8, is ``l2``.
    l1_ratio
        Share of the l1 norm in the penalty, from 0 to 1; ``l2`` with a share above 0 is an elastic
        net too, and ``l1`` has the share 1 whatever is said here. None is 0, but for an
        ``elasticnet``, which refuses it.
    fit_intercept
        Whether the model has an intercept.
    class_weight
        ``balanced``, or a mapping of labels to what their examples weigh (1 for those that are not
        named). Of more than two classes those whose examples all weigh 0 are never predicted: their
        intercept is -inf and their coefficients are 0, where the optimum lies; two classes have to
        weigh something.
    warm_start
        Whether a fit starts from the coefficients of the last one.
    tol
        Largest entry of the gradient at which the fit has converged.
    max_iter
        Most passes over the data.
    solver
        ``auto``, ``lbfgs``, ``newton``, or a name of scikit-learn's for one of them:
        ``newton-cholesky`` is ``newton``; ``newton-cg``, ``sag``, ``saga`` and ``liblinear`` are
        ``auto``. The optimum is one and the same; the intercept that liblinear penalises is not
        penalised here.
    dual, intercept_scaling, random_state, n_jobs
        Taken for scikit-learn's sake: the optimum does not depend on them, and ``cluster`` says
        where the work is done.
    verbose
        Whether to show the passes as they end, on standard error.
    cluster
        The ``cluster`` section of a configuration, as a mapping or a
        `streamlr.config.sections.ClusterConfig`; None for threads, and one for what is small.

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
        ``converged``, ``pass_limit``, ``stalled`` or ``diverged``; a warning tells of all but the
        first.
    model_ : streamlr.Model
    """

    _family = "logistic"

    def __init__(
        self,
        C: float = 1.0,
        *,
        penalty: str | None = "l2",
        l1_ratio: float | None = 0.0,
        fit_intercept: bool = True,
        class_weight: str | Mapping[Any, float] | None = None,
        warm_start: bool = False,
        tol: float = 1e-8,
        max_iter: int = 100,
        solver: str = "auto",
        dual: bool = False,
        intercept_scaling: float = 1.0,
        random_state: Any = None,
        n_jobs: int | None = None,
        verbose: int = 0,
        cluster: Mapping[str, Any] | ClusterConfig | None = None,
    ) -> None:
        self.C = C
        self.penalty = penalty
        self.l1_ratio = l1_ratio
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.warm_start = warm_start
        self.tol = tol
        self.max_iter = max_iter
        self.solver = solver
        self.dual = dual
        self.intercept_scaling = intercept_scaling
        self.random_state = random_state
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.cluster = cluster

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Fit to features and labels, with weights, if any.

        Parameters
        ----------
        X
            (m, n): an array, a sparse matrix, a frame, or a Zarr or Dask array, which is read in
            every pass by its chunks.
        y
            Labels of any kind, (m,); held in memory, as are the weights.
        sample_weight
            Weight of each example, (m,).
        """
        share = self._l1_share()
        rows = features_of(self, X, reset=True)
        labels = target_of(self, y, numeric=False)
        classes, codes = classes_of(labels)
        self._check_solver(classes)
        if self.n_jobs is not None:
            warnings.warn(
                f"'n_jobs' has no effect (it is {self.n_jobs}), and goes when scikit-learn's "
                "does; set cluster instead",
                FutureWarning,
                stacklevel=2,
            )
        weights = self._weights(codes, classes, weights_of(self, sample_weight, len(labels)))
        present = _with_weight(codes, classes, weights)
        start = self._start(len(classes) if len(classes) > 2 else 1, rows.shape[1], classes)
        result = self._train(
            rows,
            _among(present)[codes],
            weights,
            self._restraints(share, codes, weights, present),
            classes[present],
            start if present.all() else None,
        )
        self.model_ = _with_absent(self.model_, classes, present)
        self.coef_, self.intercept_ = (
            shown(self.model_.coef_, rows.dtype),
            shown(self.model_.intercept_, rows.dtype),
        )
        self.classes_ = classes
        self.n_iter_ = np.array([result.passes], dtype=np.int32)
        return self

    def _restraints(
        self,
        share: float,
        codes: NDArray[np.intp],
        weights: NDArray[np.float64] | None,
        present: NDArray[np.bool_],
    ) -> Restraints:
        """The penalty beside the mean loss.

        Where two of more classes have weight, their one output is w = W1 - W0 with W1 = -W0, whose
        penalty in a softmax is (l2/2) |w|²/2 + l1 |w|.
        """
        total = len(codes) if weights is None else float(weights.sum())
        if self.penalty is None or np.isinf(self.C) or total <= 0:
            return Restraints()
        strength = 1.0 / (self.C * total)
        return Restraints(
            (1.0 - share)
            * strength
            * (0.5 if np.count_nonzero(present) == 2 < len(present) else 1.0),
            share * strength,
        )

    def _l1_share(self) -> float:
        """Share of l1 in the penalty; refuses what cannot be meant."""
        if not self.C > 0:
            raise ConfigError(f"C is {self.C}; it must be above 0 (inf for no penalty)")
        if self.penalty not in ("l2", "l1", "elasticnet", "deprecated", None):
            raise ConfigError(
                f"penalty is {self.penalty!r}; it must be 'l2', 'l1', 'elasticnet', or None for "
                "none"
            )
        if self.l1_ratio is None and self.penalty == "elasticnet":
            raise ConfigError(
                "penalty='elasticnet' needs l1_ratio, the share of the l1 norm from 0 to 1; it is "
                "None"
            )
        if self.l1_ratio is not None and not 0 <= self.l1_ratio <= 1:
            raise ConfigError(
                f"l1_ratio is {self.l1_ratio}; it is the share of the l1 norm in the penalty and "
                "must be from 0 to 1"
            )
        return 1.0 if self.penalty == "l1" else float(self.l1_ratio or 0.0)

    def _check_solver(self, classes: NDArray[Any]) -> None:
        """Refuse what scikit-learn refuses of its own solvers, where silence would mean another
        model than the name promises."""
        if self.dual and self.solver != "liblinear":
            raise ConfigError(
                f"Solver {self.solver} supports only dual=False, got dual={self.dual}"
            )
        if self.solver == "liblinear" and len(classes) > 2:
            raise ConfigError(
                "The 'liblinear' solver does not support multiclass classification (y holds "
                f"{len(classes)} classes); set solver='auto' for a "
                "softmax, or wrap the estimator in a OneVsRestClassifier"
            )
        if self.penalty is None and self.C != 1:
            warnings.warn(
                f"Setting penalty=None will ignore the C and l1_ratio parameters (C is {self.C})",
                stacklevel=3,
            )

    def _weights(
        self, codes: NDArray[np.intp], classes: NDArray[Any], weights: NDArray[np.float64] | None
    ) -> NDArray[np.float64] | None:
        """Sample weights times the weights of the classes; ``balanced`` divides the weight of all
        by that of the class and by the number of classes."""
        if self.class_weight is None:
            return weights
        if isinstance(self.class_weight, str) and self.class_weight == "balanced":
            class_sums = np.bincount(codes, weights, len(classes))
            factors = class_sums.sum() / (
                np.count_nonzero(class_sums) * np.where(class_sums == 0, np.inf, class_sums)
            )
        else:
            factors = compute_class_weight(self.class_weight, classes=classes, y=classes)
        by_class: NDArray[np.float64] = factors[codes]
        return by_class if weights is None else by_class * weights

    def decision_function(self, X: Any) -> Any:
        """Log-odds of the second class, (m,), or Z of every class, (m, n_classes); of a Dask array
        a Dask array."""
        return self._by_blocks(X, lambda model: model.decision_function, self._n_outputs())

    def predict_proba(self, X: Any) -> Any:
        """Probability of each class, (m, n_classes); of a Dask array a Dask array."""
        return self._by_blocks(X, lambda model: model.predict_proba, max(2, self._n_outputs()))

    def predict_log_proba(self, X: Any) -> Any:
        """Logarithm of the probability of each class, (m, n_classes); of a Dask array a Dask
        array."""
        return self._by_blocks(X, lambda model: model.predict_log_proba, max(2, self._n_outputs()))

    def predict(self, X: Any) -> Any:
        """The most probable label, (m,); of a Dask array a Dask array."""
        classes = getattr(self, "classes_", np.empty(0))
        return self._by_blocks(X, lambda model: model.predict, dtype=classes.dtype)

    def score(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> float:
        """Accuracy."""
        predicted = np.asarray(self.predict(X))
        if len(self.classes_) > 2:
            return float(
                accuracy_score(
                    np.asarray(in_memory(y, "y")), predicted, sample_weight=sample_weight
                )
            )
        right = (
            target_of(self, y, numeric=False) == predicted
        )  # scikit-learn refuses labels that are numbers but no integers
        return float(
            accuracy_score(np.ones(len(right), dtype=bool), right, sample_weight=sample_weight)
        )

    def sparsify(self) -> Self:
        """Make ``coef_`` a sparse matrix, which saves memory where most of it is 0."""
        check_is_fitted(self)
        self.coef_ = sparse.csr_matrix(self.coef_)
        return self

    def densify(self) -> Self:
        """Make ``coef_`` an array again."""
        check_is_fitted(self)
        if sparse.issparse(self.coef_):
            self.coef_ = self.coef_.toarray()
        return self

    def _n_outputs(self) -> int:
        """Columns of Z; 0 where it has one axis."""
        n_classes = len(getattr(self, "classes_", ()))
        return n_classes if n_classes > 2 else 0


def classes_of(labels: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.intp]]:
    """The sorted labels, and the number of each example's; numbers that are no integers may be
    labels of two classes, but not of more."""
    classes, codes = np.unique(labels, return_inverse=True)
    if len(classes) < 2:
        raise LabelError(
            f"y holds one class only: {classes.tolist()[0]!r} ({len(labels)} rows); a classifier "
            "needs examples of two"
        )
    if len(classes) > 2:
        check_classification_targets(labels)
    return classes, codes


def _with_weight(
    codes: NDArray[np.intp], classes: NDArray[Any], weights: NDArray[np.float64] | None
) -> NDArray[np.bool_]:
    """Which classes have an example that weighs something; refuses, by its label, one without
    weight where fewer than two are left."""
    present = (
        np.ones(len(classes), dtype=bool)
        if weights is None
        else np.bincount(codes, np.abs(weights), len(classes)) != 0
    )
    if np.count_nonzero(present) < 2:
        label = classes.tolist()[int(np.argmin(present))]
        raise LabelError(
            f"all examples of the class {label!r} weigh 0, and at most one other class has "
            "weight; a classifier needs examples of two"
        )
    return present


def _among(present: NDArray[np.bool_]) -> NDArray[np.intp]:
    """The number of each class among those that have weight; which one the examples of the others
    are given does not matter."""
    return np.where(present, np.cumsum(present) - 1, 0)


def _with_absent(model: Model, classes: NDArray[Any], present: NDArray[np.bool_]) -> Model:
    """The model with the classes that have no weight added where their optimum lies: at an
    intercept of -inf."""
    if present.all():
        return model
    coef, intercept = np.zeros((len(classes), model.coef_.shape[1])), np.full(len(classes), -np.inf)
    two = len(model.coef_) == 1
    coef[present] = np.concatenate([-model.coef_, model.coef_]) / 2 if two else model.coef_
    intercept[present] = (
        np.concatenate([-model.intercept_, model.intercept_]) / 2 if two else model.intercept_
    )
    return replace(model, coef_=coef, intercept_=intercept, classes_=classes, family="softmax")
