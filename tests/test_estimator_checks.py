"""scikit-learn's own checks of the estimators, and the tools of scikit-learn that people put them
in."""

from __future__ import annotations

import subprocess
import sys
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import sklearn
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer
from sklearn.feature_selection import SelectFromModel
from sklearn.linear_model import LogisticRegression as Reference
from sklearn.model_selection import GridSearchCV
from sklearn.multiclass import OneVsRestClassifier
from sklearn.multioutput import MultiOutputClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from streamlr import LinearRegression, LogisticRegression, LogisticRegressionCV, PoissonRegressor

ESTIMATORS = [
    LogisticRegression(),
    LogisticRegressionCV(Cs=3, cv=2),
    LinearRegression(),
    PoissonRegressor(),
]


@parametrize_with_checks(ESTIMATORS)
def test_scikit_learns_checks_pass_without_exception(
    estimator: Any, check: Callable[[Any], None]
) -> None:
    of_check = getattr(getattr(check, "func", check), "__name__", "")
    if of_check == "check_sample_weights_invariance" and isinstance(
        estimator, LogisticRegressionCV
    ):
        pytest.xfail(
            "of scikit-learn before 1.6: rows without weight move the folds; its own "
            "LogisticRegressionCV is let off too"
        )
    check(estimator)


def cancer() -> tuple[np.ndarray, np.ndarray]:
    X, y = load_breast_cancer(return_X_y=True)
    return X, y


def test_a_grid_over_a_pipeline_finds_what_it_finds_for_scikit_learns_own() -> None:
    X, y = cancer()
    grid = {"model__C": [0.01, 1.0, 100.0]}

    def search(model: Any) -> GridSearchCV:
        pipeline = make_pipeline(StandardScaler(), model)
        pipeline.steps[-1] = ("model", pipeline.steps[-1][1])
        return GridSearchCV(pipeline, grid, cv=3, scoring="neg_log_loss").fit(X, y)

    found, oracle = (
        search(LogisticRegression()),
        search(Reference(tol=1e-10, solver="newton-cholesky")),
    )
    assert found.best_params_ == oracle.best_params_
    # both gradients are below 1e-8 on Hessians of at least 1 / (100 m), so coefficients are within
    # 6e-4, and losses, being flat there, far nearer
    np.testing.assert_allclose(
        found.cv_results_["mean_test_score"], oracle.cv_results_["mean_test_score"], rtol=1e-6
    )


def test_probabilities_are_calibrated_like_scikit_learns_own() -> None:
    X, y = cancer()
    X = StandardScaler().fit_transform(X)
    found = CalibratedClassifierCV(LogisticRegression(), cv=3).fit(X, y).predict_proba(X)
    oracle = (
        CalibratedClassifierCV(Reference(tol=1e-10, solver="newton-cholesky"), cv=3)
        .fit(X, y)
        .predict_proba(X)
    )
    # both are within 1e-8 / (1 / m) of the optimum, and the calibration fits two numbers more to a
    # tolerance of its own
    np.testing.assert_allclose(found, oracle, rtol=0, atol=1e-4)


def test_weights_are_routed_to_fits_and_scores() -> None:
    X, y = cancer()
    X = StandardScaler().fit_transform(X)
    weights = np.random.default_rng(0).uniform(0.1, 3.0, len(y))
    with sklearn.config_context(enable_metadata_routing=True):
        asked = (
            LogisticRegression()
            .set_fit_request(sample_weight=True)
            .set_score_request(sample_weight=True)
        )
        declined = (
            LogisticRegression()
            .set_fit_request(sample_weight=False)
            .set_score_request(sample_weight=True)
        )
        routed = GridSearchCV(asked, {"C": [1.0]}, cv=3).fit(X, y, sample_weight=weights)
        fitted_without = GridSearchCV(declined, {"C": [1.0]}, cv=3).fit(X, y, sample_weight=weights)
    assert (
        routed.best_estimator_.coef_.tobytes()
        == LogisticRegression().fit(X, y, weights).coef_.tobytes()
    )
    assert (
        fitted_without.best_estimator_.coef_.tobytes()
        == LogisticRegression().fit(X, y).coef_.tobytes()
    )


@pytest.mark.parametrize("parameters", [{"penalty": "l1"}, {"l1_ratio": 1.0}, {}])
def test_features_are_selected_as_by_scikit_learns_own(parameters: dict[str, Any]) -> None:
    X, y = cancer()
    X = StandardScaler().fit_transform(X)
    threshold = (
        1e-5 if "l1_ratio" in parameters else None
    )  # by itself older scikit-learn takes the mean where the penalty has another name
    found = (
        SelectFromModel(LogisticRegression(C=0.05, **parameters), threshold=threshold)
        .fit(X, y)
        .get_support()
    )
    oracle = SelectFromModel(
        Reference(
            C=0.05,
            tol=1e-8,
            **(parameters and {"penalty": "l1", "solver": "saga", "max_iter": 20_000}),
        )
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of penalty, which scikit-learn 1.8 has begun to leave
        support = oracle.fit(X, y).get_support()
    assert 0 < support.sum() < X.shape[1]
    np.testing.assert_array_equal(found, support)


@pytest.mark.parametrize("y", [np.arange(120) % 3, (np.arange(120) % 3)[:, None] == np.arange(3)])
def test_tools_that_fit_many_take_it(y: np.ndarray) -> None:
    X = np.random.default_rng(0).normal(size=(120, 3)) + y.reshape(120, -1)[:, :1]
    many = OneVsRestClassifier if y.ndim == 1 else MultiOutputClassifier
    found, oracle = many(LogisticRegression()).fit(X, y), many(Reference(tol=1e-10)).fit(X, y)
    np.testing.assert_array_equal(found.predict(X), oracle.predict(X))
    # gradients of 1e-8 over curvatures of at least 1 / m
    np.testing.assert_allclose(
        np.asarray(found.predict_proba(X)), np.asarray(oracle.predict_proba(X)), rtol=0, atol=1e-5
    )


_WITHOUT = """
import sys
sys.modules["sklearn"] = None
import numpy as np, streamlr
print(streamlr.train({}, X=np.arange(8.0)[:, None], y=[0, 1, 0, 0, 1, 0, 1, 1]).status)
try:
    streamlr.LogisticRegression
except ImportError as error:
    print(error)
"""


def test_streamlr_trains_without_scikit_learn_and_its_estimators_say_that_they_need_it() -> None:
    run = subprocess.run(
        [sys.executable, "-c", _WITHOUT], capture_output=True, text=True, check=True
    )
    assert run.stdout.splitlines()[0] == "converged"
    assert "pip install 'streamlr[sklearn]'" in run.stdout


def test_importing_streamlr_imports_no_scikit_learn() -> None:
    run = subprocess.run(
        [sys.executable, "-c", "import sys, streamlr; print('sklearn' in sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert run.stdout.strip() == "False"


def test_a_name_that_there_is_not_is_refused() -> None:
    import streamlr

    with pytest.raises(AttributeError, match="module 'streamlr' has no attribute 'Lasso'"):
        streamlr.Lasso  # noqa: B018
