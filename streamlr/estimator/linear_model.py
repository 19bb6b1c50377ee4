"""What the estimators share: fitting through `streamlr.train`, and predicting by blocks of rows."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from streamlr.config import ClusterConfig
from streamlr.data.rows import DaskRows, read_all_by_blocks
from streamlr.data.source import Rows
from streamlr.errors import ShapeError
from streamlr.estimator.checks import features_of
from streamlr.model import Model
from streamlr.training import TrainResult, train

_SMALL_BYTES = 32 * 2**20
_SOLVERS = {"newton-cholesky": "newton"}


class LinearModel(BaseEstimator):  # type: ignore[misc]
    """A linear model of one family; the estimators derive from it, and add what their target asks for."""

    _family: ClassVar[str]

    fit_intercept: bool
    tol: float
    max_iter: int
    solver: str
    warm_start: bool
    cluster: Mapping[str, Any] | ClusterConfig | None

    def _train(self, X: NDArray[Any] | Rows, y: NDArray[Any], weights: NDArray[np.float64] | None, l2: float,
               classes: NDArray[Any] | None = None, l1: float = 0.0) -> TrainResult:
        """Fit to features that have been checked, and keep the model and how the solve ended."""
        if len(y) != X.shape[0]:
            raise ShapeError(f"Found input variables with inconsistent numbers of samples: X has {X.shape[0]} rows and y has {len(y)}; they must agree")
        result = train(
            {"model": {"family": self._family, "fit_intercept": self.fit_intercept, "penalty": {"l2": l2, "l1": l1}},
             "solver": {"name": self._solver_for(X, weights, l2 + l1), "tolerance": self.tol, "max_passes": self.max_iter},
             "cluster": self._cluster_for(X)}, X=X, y=y, sample_weight=weights, start=self._start(X.shape[1], classes))
        names = getattr(self, "feature_names_in_", None)
        self.model_ = dataclasses.replace(
            result.model, classes_=result.model.classes_ if classes is None else classes,
            feature_names=None if names is None else tuple(str(name) for name in names))
        self.status_ = result.status
        if result.status != "converged":
            warnings.warn(f"{type(self).__name__} did not converge ({result.status}): {result.reason}", ConvergenceWarning, stacklevel=3)
        return result

    def _solver_for(self, X: NDArray[Any] | Rows, weights: NDArray[np.float64] | None, penalty: float) -> str:
        """The solver that was asked for; plain L-BFGS where there are more features than rows and no penalty.

        Of the many optima there it finds the one with the smallest norm in standardised units: its steps never leave the span of the rows, as those
        with a Hessian do by as much as rounding is worth there.
        """
        n_rows = X.shape[0] if weights is None else np.count_nonzero(weights)
        if self.solver == "auto" and penalty == 0 and n_rows <= X.shape[1]:
            return "lbfgs"
        return _SOLVERS.get(self.solver, self.solver)

    def _cluster_for(self, X: NDArray[Any] | Rows) -> Any:
        """The cluster that was asked for; if none was, one thread for what is small, since starting more costs more than they save."""
        if self.cluster is None:
            small = isinstance(X, np.ndarray) and X.nbytes <= _SMALL_BYTES
            return {"kind": "serial"} if small else {}
        return dataclasses.asdict(self.cluster) if isinstance(self.cluster, ClusterConfig) else self.cluster

    def _start(self, n_features: int, classes: NDArray[Any] | None) -> Model | None:
        """The model of the last fit, where it is to be started from and is one of the same features and classes."""
        last: Model | None = getattr(self, "model_", None) if self.warm_start else None
        if last is None or last.coef_.shape[1] != n_features or (classes is not None and not np.array_equal(classes, last.classes_)):
            return None
        same = np.isfinite(last.coef_).all() and np.isfinite(last.intercept_).all()
        return last if same else None

    def _by_blocks(self, X: Any, of_model: Callable[[Model], Callable[[Any], NDArray[Any]]], n_columns: int = 0, dtype: Any = np.float64) -> Any:
        """What the model makes of every row: a Dask array of a Dask array, for all else an array, of which no more than a block is read at a time."""
        check_is_fitted(self)
        rows = features_of(self, X, reset=False)
        function = of_model(self.model_)
        return rows.map(function, n_columns, np.dtype(dtype)) if isinstance(rows, DaskRows) else read_all_by_blocks(rows, function)

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags
