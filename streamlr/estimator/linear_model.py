"""What the estimators share: fitting through `streamlr.train`, and predicting by blocks of rows."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.base import BaseEstimator
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils.validation import check_is_fitted

from streamlr.config.sections import ClusterConfig
from streamlr.data.source import Rows
from streamlr.data.sources.adapters import read_all_by_blocks
from streamlr.data.sources.dask_rows import DaskRows
from streamlr.errors import ConfigError, ShapeError
from streamlr.estimator.checks import features_of
from streamlr.kernels.families import FAMILIES
from streamlr.model import Model
from streamlr.reporting.console import Console
from streamlr.solvers.registry import OF_SMOOTH, knows_smooth_alone
from streamlr.training.train import TrainResult, train

_SMALL_BYTES = 32 * 2**20
_SOLVERS = {
    "lbfgs": "lbfgs",
    "newton-cholesky": "newton",
    "newton-cg": "auto",
    "sag": "auto",
    "saga": "auto",
    "liblinear": "auto",
}
"""scikit-learn's names of solvers, and the method that stands for each: one of the same kind, or
else the quickest; the optimum is one and the same."""


@dataclass(frozen=True, slots=True)
class Restraints:
    """What keeps coefficients from going where the data alone would have them."""

    l2: float = 0.0
    """Strength of half the square of the coefficients beside the mean loss."""
    l1: float = 0.0
    """Strength of their absolute values."""
    positive: bool = False
    """Whether none may be below 0."""


class LinearModel(BaseEstimator):  # type: ignore[misc]
    """A linear model of one family; the estimators derive from it, and add what their target asks
    for."""

    _family: ClassVar[str]

    fit_intercept: bool
    tol: float
    max_iter: int
    solver: str
    verbose: int
    warm_start: bool
    cluster: Mapping[str, Any] | ClusterConfig | None

    coef_: Any
    intercept_: Any
    _column_names: tuple[str, ...] | None
    """Names of the features as `features_of` has noted them: text, whatever the labels are."""

    def _train(
        self,
        X: NDArray[Any] | Rows,
        y: NDArray[Any],
        weights: NDArray[np.float64] | None,
        restraints: Restraints,
        classes: NDArray[Any] | None = None,
        start: Model | None = None,
    ) -> TrainResult:
        """Fit to features that have been checked, from a model or else from a sample, and keep the
        model and how the solve ended."""
        if len(y) != X.shape[0]:
            raise ShapeError(
                f"Found input variables with inconsistent numbers of samples: X has {X.shape[0]} "
                f"rows and y has {len(y)}; they must agree"
            )
        result = (
            self._untrained(X.shape[1], classes, start)
            if self.max_iter == 0
            else train(
                {
                    "model": {
                        "family": self._family,
                        "fit_intercept": _plain(self.fit_intercept),
                        "penalty": {"l2": restraints.l2, "l1": restraints.l1},
                        "bounds": {"lower": 0.0 if restraints.positive else None},
                    },
                    "solver": {
                        "name": self._solver_for(X, weights, restraints),
                        "tolerance": _plain(self.tol),
                        "max_passes": _plain(self.max_iter),
                    },
                    "cluster": self._cluster_for(X),
                },
                X=X,
                y=y,
                sample_weight=weights,
                start=start,
                subscribers=[Console()] if self.verbose else [],
            )
        )
        self.model_ = dataclasses.replace(
            result.model,
            classes_=result.model.classes_ if classes is None else classes,
            feature_names=self._column_names,
        )
        self.status_ = result.status
        if result.status != "converged":
            more = (
                ". Increase the number of iterations (max_iter)"
                if result.status == "pass_limit"
                else ""
            )
            warnings.warn(
                f"{type(self).__name__}: {self.solver} failed to converge ({result.status}): "
                f"{result.reason}{more}",
                ConvergenceWarning,
                stacklevel=3,
            )
        return result

    def _untrained(
        self, n_features: int, classes: NDArray[Any] | None, start: Model | None
    ) -> TrainResult:
        """What no pass at all makes, which is what ``max_iter=0`` asks for: the model to start
        from, or zeros."""
        labels = np.empty(0) if classes is None else classes
        n_outputs = len(labels) if len(labels) > 2 else 1
        family = "softmax" if n_outputs > 1 else self._family
        model = (
            Model(np.zeros((n_outputs, n_features)), np.zeros(n_outputs), labels, family=family)
            if start is None
            else start
        )
        return TrainResult(model, "pass_limit", "the limit of 0 passes", 0, [], {})

    def _shown_model(self) -> Model:
        """The model with what ``coef_`` and ``intercept_`` hold now, since people write to them;
        with all its digits where nobody did."""
        model: Model = self.model_
        coef = self.coef_.toarray() if sparse.issparse(self.coef_) else self.coef_
        return dataclasses.replace(
            model,
            coef_=_unrounded(coef, model.coef_),
            intercept_=_unrounded(self.intercept_, model.intercept_),
        )

    def _solver_for(
        self, X: NDArray[Any] | Rows, weights: NDArray[np.float64] | None, restraints: Restraints
    ) -> str:
        """The solver that was asked for; plain L-BFGS where there are more parameters than rows and
        no penalty, and the loss is no square.

        Of the many optima there it finds the one with the smallest norm in standardised units: its
        steps never leave the span of the rows, as those with a Hessian do by as much as rounding is
        worth there.
        """
        n_rows = X.shape[0] if weights is None else np.count_nonzero(weights)
        wanted = _SOLVERS.get(self.solver, self.solver)
        if knows_smooth_alone(wanted) and (restraints.l1 > 0 or restraints.positive):
            asked = "an l1 penalty" if restraints.l1 > 0 else "bounds (positive=True)"
            raise ConfigError(
                f"Solver {self.solver} supports only 'l2' or None penalties, got {asked}; set "
                "solver='auto'"
            )
        if (
            wanted == "auto"
            and not FAMILIES[self._family].quadratic
            and restraints == Restraints()
            and n_rows < X.shape[1] + bool(self.fit_intercept)
        ):
            return OF_SMOOTH
        return wanted

    def _cluster_for(self, X: NDArray[Any] | Rows) -> Any:
        """The cluster that was asked for; if none was, one thread for what is small, since starting
        more costs more than they save."""
        if self.cluster is None:
            small = isinstance(X, np.ndarray) and X.nbytes <= _SMALL_BYTES
            return {"kind": "serial"} if small else {}
        return (
            dataclasses.asdict(self.cluster)
            if isinstance(self.cluster, ClusterConfig)
            else self.cluster
        )

    def _start(
        self, n_outputs: int, n_features: int, classes: NDArray[Any] | None = None
    ) -> Model | None:
        """The model of the last fit, where it is to be started from and is one of the same outputs,
        features and classes.

        Features are told by their names where both fits have names.
        """
        last = self._shown_model() if self.warm_start and hasattr(self, "model_") else None
        if last is not None and self._column_names is not None:
            last = _in_order(last, self._column_names)
        if (
            last is None
            or last.coef_.shape != (n_outputs, n_features)
            or (classes is not None and not np.array_equal(classes, last.classes_))
        ):
            return None
        same = np.isfinite(last.coef_).all() and np.isfinite(last.intercept_).all()
        return last if same else None

    def _by_blocks(
        self,
        X: Any,
        of_model: Callable[[Model], Callable[[Any], NDArray[Any]]],
        n_columns: int = 0,
        dtype: Any = np.float64,
    ) -> Any:
        """What the model makes of every row: a Dask array of a Dask array, for all else an array,
        of which no more than a block is read at a time."""
        check_is_fitted(self)
        rows = features_of(self, X, reset=False)
        function = of_model(self._shown_model())
        return (
            rows.map(function, n_columns, np.dtype(dtype))
            if isinstance(rows, DaskRows)
            else read_all_by_blocks(rows, function)
        )

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        return tags


def _in_order(model: Model, names: tuple[str, ...]) -> Model | None:
    """The model with its features in the order of these names, by name if it has any; None where
    its names are others."""
    known = model.feature_names
    if known is None or known == names:
        return model
    place = {name: j for j, name in enumerate(names)}
    if set(known) != set(place) or not len(place) == len(names) == len(known):
        return None
    return model.at_columns(np.array([place[name] for name in known]), names)


def shown(coefficients: NDArray[np.float64], features: np.dtype[Any]) -> NDArray[Any]:
    """A copy for ``coef_`` or ``intercept_``, in the precision of the features, as scikit-learn has
    it; ``model_`` keeps all digits."""
    return coefficients.astype(np.float32 if features == np.float32 else np.float64)


def _unrounded(now: Any, fitted: NDArray[np.float64]) -> NDArray[np.float64]:
    """What was fitted if ``now`` is that, in whatever precision, else ``now``; in the shape of what
    was fitted."""
    given = np.asarray(now).reshape(fitted.shape)
    return (
        fitted
        if np.array_equal(given, fitted.astype(given.dtype), equal_nan=True)
        else given.astype(np.float64)
    )


def _plain(value: Any) -> Any:
    """A parameter as Python has it; grids of parameters are often NumPy's."""
    return value.item() if isinstance(value, np.generic) else value
