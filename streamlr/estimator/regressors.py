"""Least squares and Poisson regression with scikit-learn's interface."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import RegressorMixin
from sklearn.metrics import d2_tweedie_score, r2_score
from sklearn.utils.validation import check_is_fitted

from streamlr.config.sections import ClusterConfig
from streamlr.data.source import Rows
from streamlr.data.sources.adapters import in_memory
from streamlr.errors import ConfigError, LabelError
from streamlr.estimator.checks import features_of, target_of, weights_of
from streamlr.estimator.linear_model import LinearModel, Restraints, shown


class _Regressor(RegressorMixin, LinearModel):  # type: ignore[misc]
    """What the two share: coefficients with one axis, where the target has one."""

    _many_outputs: ClassVar[bool] = False

    def fit(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> Self:
        """Fit to features and numbers, with weights, if any.

        Parameters
        ----------
        X
            (m, n): an array, a sparse matrix, a frame, or a Zarr or Dask array, which is read in
            every pass by its chunks.
        y
            Numbers, (m,); held in memory, as are the weights. Least squares also takes (m, k) of k
            outputs, each of which is a fit of its own.
        sample_weight
            Weight of each example, (m,).
        """
        restraints = self._restraints()
        rows = features_of(self, X, reset=True)
        target = target_of(self, y, numeric=True, outputs=self._many_outputs)
        self._check_target(target)
        weights = weights_of(self, sample_weight, len(target))
        if target.ndim == 2:
            return self._fit_each(rows, target, weights, restraints)
        result = self._train(rows, target, weights, restraints, start=self._start(1, rows.shape[1]))
        self.coef_, self.intercept_ = (
            shown(result.model.coef_[0], rows.dtype),
            float(result.model.intercept_[0]),
        )
        self.n_iter_ = result.passes
        return self

    def _fit_each(
        self,
        rows: NDArray[Any] | Rows,
        targets: NDArray[Any],
        weights: NDArray[np.float64] | None,
        restraints: Restraints,
    ) -> Self:
        """One fit for each column of the target, (m, k); they have nothing in common but the
        features."""
        start = self._start(targets.shape[1], rows.shape[1])
        results = []
        for k, target in enumerate(np.ascontiguousarray(targets.T)):
            own = (
                None
                if start is None
                else replace(start, coef_=start.coef_[[k]], intercept_=start.intercept_[[k]])
            )
            results.append(self._train(rows, target, weights, restraints, start=own))
        coef, intercept = (
            np.concatenate([getattr(result.model, name) for result in results])
            for name in ("coef_", "intercept_")
        )
        self.model_ = replace(self.model_, coef_=coef, intercept_=intercept)
        self.coef_, self.intercept_ = shown(coef, rows.dtype), shown(intercept, rows.dtype)
        self.status_ = next(
            (result.status for result in results if result.status != "converged"), "converged"
        )
        self.n_iter_ = sum(result.passes for result in results)
        return self

    def _check_target(self, target: NDArray[Any]) -> None:
        """Refuse numbers that the family does not know."""

    def _restraints(self) -> Restraints:
        return Restraints()

    def predict(self, X: Any) -> Any:
        """Mean of the target, (m,), or (m, k) of k outputs; of a Dask array a Dask array."""
        check_is_fitted(self)
        n_outputs = len(self.coef_) if self.coef_.ndim == 2 else 0
        return self._by_blocks(
            X,
            lambda model: (
                lambda rows: model.predict(rows).reshape((-1, n_outputs) if n_outputs else -1)
            ),
            n_outputs,
        )


class LinearRegression(_Regressor):
    """Least squares without a penalty; of many optima, where there are more features than rows, the
    one of smallest norm in units of the data.

    Parameters
    ----------
    fit_intercept
        Whether the model has an intercept.
    positive
        Whether no coefficient may be below 0; the intercept may.
    warm_start
        Whether a fit starts from the coefficients of the last one.
    tol
        Largest entry of the gradient of half the mean square, in standardised units of features and
        target, at which the fit has converged.
    max_iter
        Most passes over the data.
    solver
        ``auto``, ``lbfgs`` or ``newton``.
    copy_X, n_jobs
        Taken for scikit-learn's sake: ``X`` is never written to, and ``cluster`` says where the
        work is done.
    verbose
        Whether to show the passes as they end, on standard error.
    cluster
        The ``cluster`` section of a configuration, as a mapping or a
        `streamlr.config.sections.ClusterConfig`; None for threads, and one for what is small.

    Attributes
    ----------
    coef_ : ndarray of shape (n,), or (k, n) of k outputs
    intercept_ : float, or ndarray of shape (k,)
    n_iter_ : int
        Passes over the data, for all outputs.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n,)
        Where ``X`` names all its features.
    status_ : str
        ``converged``, ``pass_limit``, ``stalled`` or ``diverged``; a warning tells of all but the
        first.
    model_ : streamlr.Model
    """

    _family = "linear"
    _many_outputs = True

    def __init__(
        self,
        *,
        fit_intercept: bool = True,
        positive: bool = False,
        warm_start: bool = False,
        tol: float = 1e-8,
        max_iter: int = 100,
        solver: str = "auto",
        copy_X: bool = True,
        n_jobs: int | None = None,
        verbose: int = 0,
        cluster: Mapping[str, Any] | ClusterConfig | None = None,
    ) -> None:
        self.fit_intercept = fit_intercept
        self.positive = positive
        self.warm_start = warm_start
        self.tol = tol
        self.max_iter = max_iter
        self.solver = solver
        self.copy_X = copy_X
        self.n_jobs = n_jobs
        self.verbose = verbose
        self.cluster = cluster

    def _restraints(self) -> Restraints:
        return Restraints(positive=bool(self.positive))

    def score(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> float:
        """R², the share of the variance that is explained."""
        return float(
            r2_score(
                np.asarray(in_memory(y, "y")),
                np.asarray(self.predict(X)),
                sample_weight=sample_weight,
            )
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def _more_tags(self) -> dict[str, bool]:
        """The same for scikit-learn below 1.6."""
        return {"multioutput": True}


class PoissonRegressor(_Regressor):
    """Poisson regression with the logarithm as link.

    The objective is scikit-learn's: half the mean deviance plus ``alpha / 2 * |coef|^2``, the
    intercept not penalised.

    Parameters
    ----------
    alpha
        Strength of the penalty.
    fit_intercept
        Whether the model has an intercept.
    warm_start
        Whether a fit starts from the coefficients of the last one.
    tol
        Largest entry of the gradient, in standardised units of the features, at which the fit has
        converged.
    max_iter
        Most passes over the data.
    solver
        ``auto``, ``lbfgs`` or ``newton`` (or scikit-learn's name for it, ``newton-cholesky``); the
        optimum is one and the same.
    verbose
        Whether to show the passes as they end, on standard error.
    cluster
        The ``cluster`` section of a configuration, as a mapping or a
        `streamlr.config.sections.ClusterConfig`; None for threads, and one for what is small.

    Attributes
    ----------
    coef_ : ndarray of shape (n,)
    intercept_ : float
    n_iter_ : int
        Passes over the data.
    n_features_in_ : int
    feature_names_in_ : ndarray of shape (n,)
        Where ``X`` names all its features.
    status_ : str
        ``converged``, ``pass_limit``, ``stalled`` or ``diverged``; a warning tells of all but the
        first.
    model_ : streamlr.Model
    """

    _family = "poisson"

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        fit_intercept: bool = True,
        warm_start: bool = False,
        tol: float = 1e-8,
        max_iter: int = 100,
        solver: str = "auto",
        verbose: int = 0,
        cluster: Mapping[str, Any] | ClusterConfig | None = None,
    ) -> None:
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.warm_start = warm_start
        self.tol = tol
        self.max_iter = max_iter
        self.solver = solver
        self.verbose = verbose
        self.cluster = cluster

    def _restraints(self) -> Restraints:
        if not self.alpha >= 0:
            raise ConfigError(f"alpha is {self.alpha}; it must be 0 or above (0 for no penalty)")
        return Restraints(l2=float(self.alpha))

    def _check_target(self, target: NDArray[Any]) -> None:
        if target.size and target.min() < 0:
            row = int(np.argmax(target < 0))
            raise LabelError(
                f"Some value(s) of y are out of the valid range of the loss: row {row} has "
                f"{target[row]:g}; a Poisson regression is fitted to "
                "numbers of 0 or above"
            )

    def score(self, X: Any, y: Any, sample_weight: ArrayLike | None = None) -> float:
        """D², the share of the deviance that is explained."""
        return float(
            d2_tweedie_score(
                np.asarray(in_memory(y, "y")),
                np.asarray(self.predict(X)),
                sample_weight=sample_weight,
                power=1,
            )
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = True
        return tags

    def _more_tags(self) -> dict[str, bool]:
        """The same for scikit-learn below 1.6."""
        return {"requires_positive_y": True}
