"""`LogisticRegressionCV` means what scikit-learn's means."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import linear_model
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import log_loss, roc_auc_score
from sklearn.model_selection import GridSearchCV, GroupKFold, PredefinedSplit, ShuffleSplit, StratifiedKFold, TimeSeriesSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from streamlr import LogisticRegressionCV
from streamlr.errors import ConfigError, LabelError

CS = [0.01, 0.1, 1.0]


def data(rows: int = 600) -> tuple[NDArray[np.float64], NDArray[Any]]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, 4))
    return X, np.where(X @ rng.normal(size=4) + rng.logistic(size=rows) > 0, "yes", "no")


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scoring", ["neg_log_loss", "accuracy"])
@pytest.mark.parametrize("cv", [4, PredefinedSplit(np.arange(600) * 7 % 5 - 1)], ids=["stratified", "given, some rows in none"])
def test_it_is_scikit_learns(cv: Any, scoring: str, weighted: bool) -> None:
    X, y = data()
    weight = np.random.default_rng(1).uniform(0.5, 2.0, len(y)) if weighted else None
    ours = LogisticRegressionCV(Cs=CS, cv=cv, scoring=scoring, tol=1e-11).fit(X, y, sample_weight=weight)
    theirs = linear_model.LogisticRegressionCV(Cs=CS, cv=cv, scoring=scoring, solver="newton-cholesky", tol=1e-12).fit(X, y, sample_weight=weight)
    assert ours.C_ == theirs.C_
    near: dict[str, Any] = {"rtol": 0, "atol": 1e-6}  # theirs stops at a decrement of 1e-12, whose root is how far the optimum may be
    np.testing.assert_allclose(ours.coef_, theirs.coef_, **near)
    np.testing.assert_allclose(ours.coefs_paths_["yes"], theirs.coefs_paths_["yes"], **near)
    if not weighted:  # scikit-learn may leave the weights out of its scores
        np.testing.assert_allclose(ours.scores_["yes"], theirs.scores_["yes"], **near)
    np.testing.assert_array_equal(ours.predict(X), theirs.predict(X))
    np.testing.assert_allclose(ours.predict_proba(X), theirs.predict_proba(X), **near)


def test_areas_under_the_curve_are_those_of_the_rows_held_out() -> None:
    X, y = data()
    ours = LogisticRegressionCV(Cs=CS[::-1], cv=3, scoring="roc_auc", l1_ratios=[0.5]).fit(X, y)
    for k, (_, out) in enumerate(StratifiedKFold(3).split(X, y)):
        for i in range(3):
            W = ours.coefs_paths_["yes"][k, i, 0]
            area = roc_auc_score(y[out] == "yes", X[out] @ W[:-1] + W[-1])
            assert ours.scores_["yes"][k, i, 0] == pytest.approx(area, abs=2e-3)  # bins: some 10 pairs of the 10,000 may share one
    best = int(ours.scores_["yes"].mean(axis=0).argmax())
    assert ours.C_[0] == CS[::-1][best] == ours.Cs_[best]


def test_many_classes_and_groups() -> None:
    X, y = load_iris(return_X_y=True)
    groups = np.arange(150) // 3
    ours = LogisticRegressionCV(Cs=3, cv=GroupKFold(3), scoring="neg_log_loss").fit(X, y, groups=groups)
    assert sorted(ours.coefs_paths_) == sorted(ours.scores_) == [0, 1, 2]
    assert ours.coefs_paths_[1].shape == (3, 3, 5)
    assert ours.C_.shape == (3,)
    assert ours.Cs_.tolist() == pytest.approx([1e-4, 1.0, 1e4])
    alone = linear_model.LogisticRegression(C=ours.C_[0], solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(X, y)
    assert log_loss(y, ours.predict_proba(X)) == pytest.approx(log_loss(y, alone.predict_proba(X)), abs=1e-6)
    assert ours.score(X, y) == pytest.approx(-log_loss(y, ours.predict_proba(X)), rel=1e-12)


def test_it_is_an_estimator_among_others() -> None:
    X, y = data(200)
    model = LogisticRegressionCV(Cs=3, cv=3, fit_intercept=False, class_weight="balanced")
    assert clone(model).get_params() == model.get_params()
    fitted = make_pipeline(StandardScaler(), model).fit(X, y)
    assert fitted[-1].coefs_paths_["yes"].shape == (3, 3, 4)
    searched = GridSearchCV(LogisticRegressionCV(Cs=2, cv=2), {"l1_ratios": [[0.0], [1.0]]}, cv=2).fit(X, y)
    assert searched.best_score_ > 0.5


@pytest.mark.parametrize(("parameters", "message"), [
    ({"Cs": [0.1, -1]}, r"Cs is \[0.1, -1\]; it must be a number of strengths, or a list of numbers above 0"), ({"Cs": []}, r"Cs is \[\]"),
    ({"cv": ShuffleSplit(3, random_state=0)}, r"cv: fold [123] of ShuffleSplit.* holds out rows that another does, or trains on fewer"),
    ({"cv": TimeSeriesSplit(3)}, "cv: fold 1 of TimeSeriesSplit"),
    ({"l1_ratios": [0, 2]}, r"l1_ratios is \[0, 2\]; it must be a list of shares"), ({"l1_ratios": 0.5}, "l1_ratios is 0.5"), ({"l1_ratios": []}, r"is \[\]"),
    ({"penalty": "elasticnet"}, "penalty='elasticnet' needs l1_ratios"), ({"penalty": None}, r"penalty is None; .* for none set Cs=\[inf\]"),
    ({"solver": "lbfgs", "l1_ratios": [0, 0.5]}, "Solver lbfgs supports only"), ({"dual": True}, "Solver auto supports only dual=False")])
def test_what_cannot_be_meant_is_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LogisticRegressionCV(**parameters).fit(*data(100))


def test_one_class_is_refused_and_areas_of_three_too() -> None:
    X, _ = data(100)
    with pytest.raises(LabelError, match="one class only: 1"):
        LogisticRegressionCV().fit(X, np.ones(100, dtype=int))
    with pytest.raises(ConfigError, match="is for two classes"):
        LogisticRegressionCV(scoring="roc_auc").fit(X, np.arange(100) % 3)


def test_a_solve_that_does_not_end_is_told() -> None:
    with pytest.warns(ConvergenceWarning, match="pass_limit"):
        LogisticRegressionCV(Cs=3, cv=3, max_iter=2, solver="lbfgs").fit(*data(200))
