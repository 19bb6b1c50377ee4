"""Estimators with scikit-learn's interface, fitted by streamlr's engines and solvers. They alone
need scikit-learn (the extra ``sklearn``)."""

from __future__ import annotations

try:
    import sklearn  # noqa: F401
except ImportError as error:
    raise ImportError(
        "the estimators of streamlr need scikit-learn, which is not installed: pip install "
        "'streamlr[sklearn]'; "
        "streamlr.train does without it"
    ) from error

from streamlr.estimator.classifier import LogisticRegression
from streamlr.estimator.path_classifier import LogisticRegressionCV
from streamlr.estimator.regressors import LinearRegression, PoissonRegressor

__all__ = ["LinearRegression", "LogisticRegression", "LogisticRegressionCV", "PoissonRegressor"]
