"""Logistic regression with scikit-learn's interface, fitted by streamlr's engines and solvers."""

from __future__ import annotations

from typing import Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamlr.errors import ConfigError, StreamlrError
from streamlr.model import Model
from streamlr.training import train

_PARAMETERS = ("C", "fit_intercept", "tol", "max_iter", "solver", "cluster")


class LogisticRegression:
    """Logistic regression on arrays in memory; of more than two classes multinomial.

    The objective is scikit-learn's: ``C * sum(weight * loss) + |coef|^2 / 2``, the intercept not penalised. Unlike there,
    ``tol`` bounds the gradient of the *mean* loss in standardised units, and ``max_iter`` counts passes over the data.

    Parameters
    ----------
    C
        Inverse strength of the penalty; ``inf`` for none.
    fit_intercept
        Whether the model has an intercept.
    tol
        Largest entry of the gradient at which the fit has converged.
    max_iter
        Most passes over the data.
    solver
        ``auto``, ``lbfgs`` or ``newton``.
    cluster
        The ``cluster`` section of a configuration; None for threads.

    Attributes
    ----------
    coef_ : ndarray of shape (1, n) or (n_classes, n)
    intercept_ : ndarray of shape (1,) or (n_classes,)
    classes_ : ndarray of shape (n_classes,)
    n_iter_ : ndarray of shape (1,)
        Passes over the data.
    n_features_in_ : int
    """

    def __init__(self, C: float = 1.0, *, fit_intercept: bool = True, tol: float = 1e-8, max_iter: int = 100, solver: str = "auto",
                 cluster: dict[str, Any] | None = None) -> None:
        self.C = C
        self.fit_intercept = fit_intercept
        self.tol = tol
        self.max_iter = max_iter
        self.solver = solver
        self.cluster = cluster

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """The parameters by name."""
        del deep
        return {name: getattr(self, name) for name in _PARAMETERS}

    def set_params(self, **parameters: Any) -> Self:
        """Change parameters by name."""
        for name, value in parameters.items():
            if name not in _PARAMETERS:
                raise ConfigError(f"LogisticRegression has no parameter {name!r}; it has {', '.join(_PARAMETERS)}")
            setattr(self, name, value)
        return self

    def fit(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Self:
        """Fit to ``X``, (m, n), and labels ``y``, (m,), with weights, (m,), if any."""
        if not self.C > 0:
            raise ConfigError(f"C is {self.C}; it must be above 0 (inf for no penalty)")
        labels = np.asarray(y)
        total = len(labels) if sample_weight is None else float(np.sum(np.asarray(sample_weight, dtype=np.float64)))
        l2 = 0.0 if np.isinf(self.C) or total <= 0 else 1.0 / (self.C * total)
        result = train(
            {"model": {"fit_intercept": self.fit_intercept, "penalty": {"l2": l2}},
             "solver": {"name": self.solver, "tolerance": self.tol, "max_passes": self.max_iter}, "cluster": self.cluster or {}},
            X=X, y=labels, sample_weight=sample_weight)
        self.model_ = result.model
        self.status_ = result.status
        self.coef_, self.intercept_, self.classes_ = result.model.coef_, result.model.intercept_, result.model.classes_
        self.n_iter_ = np.array([result.passes])
        self.n_features_in_ = result.model.coef_.shape[1]
        return self

    def _fitted(self) -> Model:
        if not hasattr(self, "model_"):
            raise StreamlrError("this LogisticRegression is not fitted yet; call fit before predicting")
        return self.model_

    def decision_function(self, X: ArrayLike) -> NDArray[np.float64]:
        """Log-odds of the second class, (m,), or Z of every class, (m, n_classes)."""
        return self._fitted().decision_function(X)

    def predict_proba(self, X: ArrayLike) -> NDArray[np.float64]:
        """Probability of each class, (m, n_classes)."""
        return self._fitted().predict_proba(X)

    def predict(self, X: ArrayLike) -> NDArray[Any]:
        """The most probable label, (m,)."""
        return self._fitted().predict(X)

    def score(self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> float:
        """Accuracy."""
        right = self.predict(X) == np.asarray(y)
        return float(np.average(right, weights=None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)))
