"""`LogisticRegressionCV` means what scikit-learn's means."""

from __future__ import annotations

from typing import Any

import dask.array
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import sklearn
import zarr
from numpy.typing import NDArray
from sklearn import linear_model
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.exceptions import ConvergenceWarning
from sklearn.metrics import accuracy_score, fbeta_score, log_loss, make_scorer, roc_auc_score
from sklearn.model_selection import (
    GridSearchCV,
    GroupKFold,
    PredefinedSplit,
    ShuffleSplit,
    StratifiedKFold,
    TimeSeriesSplit,
)
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from streamlr import LogisticRegression, LogisticRegressionCV
from streamlr.errors import ConfigError, LabelError

CS = [0.01, 0.1, 1.0]
THEIRS_HAS_SHAPES = "use_legacy_attributes" in linear_model.LogisticRegressionCV().get_params()


def data(rows: int = 600) -> tuple[NDArray[np.float64], NDArray[Any]]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, 4))
    return X, np.where(X @ rng.normal(size=4) + rng.logistic(size=rows) > 0, "yes", "no")


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("scoring", ["neg_log_loss", "accuracy"])
@pytest.mark.parametrize(
    "cv",
    [4, PredefinedSplit(np.arange(600) * 7 % 5 - 1)],
    ids=["stratified", "given, some rows in none"],
)
def test_it_is_scikit_learns(cv: Any, scoring: str, weighted: bool) -> None:
    X, y = data()
    weight = np.random.default_rng(1).uniform(0.5, 2.0, len(y)) if weighted else None
    ours = LogisticRegressionCV(Cs=CS, cv=cv, scoring=scoring, tol=1e-11).fit(
        X, y, sample_weight=weight
    )
    theirs = linear_model.LogisticRegressionCV(
        Cs=CS, cv=cv, scoring=scoring, solver="newton-cholesky", tol=1e-12
    ).fit(X, y, sample_weight=weight)
    assert ours.C_ == theirs.C_
    near: dict[str, Any] = {
        "rtol": 0,
        "atol": 1e-6,
    }  # theirs stops at a decrement of 1e-12, whose root is how far the optimum may be
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
            assert ours.scores_["yes"][k, i, 0] == pytest.approx(
                area, abs=2e-3
            )  # bins: some 10 pairs of the 10,000 may share one
    best = int(ours.scores_["yes"].mean(axis=0).argmax())
    assert ours.C_[0] == CS[::-1][best] == ours.Cs_[best]


def test_many_classes_and_groups() -> None:
    X, y = load_iris(return_X_y=True)
    groups = np.arange(150) // 3
    ours = LogisticRegressionCV(Cs=3, cv=GroupKFold(3), scoring="neg_log_loss").fit(
        X, y, groups=groups
    )
    assert sorted(ours.coefs_paths_) == sorted(ours.scores_) == [0, 1, 2]
    assert ours.coefs_paths_[1].shape == (3, 3, 5)
    assert ours.C_.shape == (3,)
    assert ours.Cs_.tolist() == pytest.approx([1e-4, 1.0, 1e4])
    alone = linear_model.LogisticRegression(
        C=ours.C_[0], solver="lbfgs", tol=1e-10, max_iter=10_000
    ).fit(X, y)
    assert log_loss(y, ours.predict_proba(X)) == pytest.approx(
        log_loss(y, alone.predict_proba(X)), abs=1e-6
    )
    assert ours.score(X, y) == pytest.approx(-log_loss(y, ours.predict_proba(X)), rel=1e-12)


def test_it_is_an_estimator_among_others() -> None:
    X, y = data(200)
    model = LogisticRegressionCV(Cs=3, cv=3, fit_intercept=False, class_weight="balanced")
    assert clone(model).get_params() == model.get_params()
    fitted = make_pipeline(StandardScaler(), model).fit(X, y)
    assert fitted[-1].coefs_paths_["yes"].shape == (3, 3, 4)
    searched = GridSearchCV(
        LogisticRegressionCV(Cs=2, cv=2), {"l1_ratios": [[0.0], [1.0]]}, cv=2
    ).fit(X, y)
    assert searched.best_score_ > 0.5


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        (
            {"Cs": [0.1, -1]},
            r"Cs is \[0.1, -1\]; it must be a number of strengths, or a list of numbers above 0",
        ),
        ({"Cs": []}, r"Cs is \[\]"),
        (
            {"cv": ShuffleSplit(3, random_state=0)},
            r"cv: fold [123] of ShuffleSplit.* holds out rows that another does, or trains on "
            r"fewer",
        ),
        ({"cv": TimeSeriesSplit(3)}, "cv: fold 1 of TimeSeriesSplit"),
        ({"l1_ratios": [0, 2]}, r"l1_ratios is \[0, 2\]; it must be a list of shares"),
        ({"l1_ratios": 0.5}, "l1_ratios is 0.5"),
        ({"l1_ratios": []}, r"is \[\]"),
        ({"penalty": "elasticnet"}, "penalty='elasticnet' needs l1_ratios"),
        ({"penalty": None}, r"penalty is None; .* for none set Cs=\[inf\]"),
        ({"solver": "lbfgs", "l1_ratios": [0, 0.5]}, "Solver lbfgs supports only"),
        ({"dual": True}, "Solver auto supports only dual=False"),
    ],
)
def test_what_cannot_be_meant_is_refused(parameters: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        LogisticRegressionCV(**parameters).fit(*data(100))


def test_one_class_is_refused_and_areas_of_three_too() -> None:
    X, _ = data(100)
    with pytest.raises(LabelError, match="one class only: 1"):
        LogisticRegressionCV().fit(X, np.ones(100, dtype=int))
    with pytest.raises(ConfigError, match="is for two classes"):
        LogisticRegressionCV(scoring="roc_auc").fit(X, np.arange(100) % 3)
    with pytest.raises(ConfigError, match="does not support multiclass"):
        LogisticRegressionCV(solver="liblinear").fit(X, np.arange(100) % 3)


def test_a_solve_that_does_not_end_is_told() -> None:
    with pytest.warns(ConvergenceWarning, match="pass_limit"):
        LogisticRegressionCV(Cs=3, cv=3, max_iter=2, solver="lbfgs").fit(*data(200))


def sides(**parameters: Any) -> tuple[Any, Any]:
    """Ours and scikit-learn's, both to the optimum."""
    theirs = {"Cs": CS, "scoring": "accuracy", "l1_ratios": np.zeros(1), **parameters}
    smooth = not np.any(theirs["l1_ratios"])
    solver = (
        {"solver": "newton-cholesky", "tol": 1e-12}
        if smooth
        else {"solver": "saga", "tol": 1e-10, "max_iter": 100_000, "random_state": 0}
    )
    return LogisticRegressionCV(
        cv=3, tol=1e-11, **{"Cs": CS, **parameters}
    ), linear_model.LogisticRegressionCV(cv=3, **solver, **theirs)


def with_centred_intercepts(found: Any, name: str) -> Any:
    """A constant added to all classes' intercepts changes nothing, so only differences can be
    compared; of two classes there is one, and it is told."""
    values = np.stack(list(found.values())) if isinstance(found, dict) else np.array(found)
    classes_at = {"intercept_": -1, "coefs_paths_": 0 if isinstance(found, dict) else -2}.get(name)
    if classes_at is not None and values.shape[classes_at] > 1:
        intercepts = values if name == "intercept_" else values[..., -1]
        intercepts -= intercepts.mean(axis=-1 if classes_at < 0 else 0, keepdims=True)
    return values


def assert_the_same(ours: Any, theirs: Any, atol: float) -> None:
    for name in (
        "Cs_",
        "C_",
        "l1_ratios_",
        "l1_ratio_",
        "coef_",
        "intercept_",
        "coefs_paths_",
        "scores_",
    ):
        found, wanted = getattr(ours, name), getattr(theirs, name)
        assert type(found) is type(wanted), name
        assert not isinstance(wanted, dict) or list(found) == list(wanted)
        found, wanted = with_centred_intercepts(found, name), with_centred_intercepts(wanted, name)
        assert found.shape == wanted.shape, name
        np.testing.assert_allclose(found, wanted, rtol=0, atol=atol, err_msg=name)
    assert ours.n_iter_.shape == theirs.n_iter_.shape


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.skipif(
    not THEIRS_HAS_SHAPES, reason="this scikit-learn has the legacy attributes alone"
)
@pytest.mark.parametrize("legacy", [True, False])
@pytest.mark.parametrize("refit", [True, False])
@pytest.mark.parametrize("three", [False, True], ids=["two classes", "three"])
def test_shares_of_l1_shapes_and_means_of_folds_are_scikit_learns(
    three: bool, refit: bool, legacy: bool
) -> None:
    X, y = data(200)
    labels = np.where((y == "yes") & (X[:, 0] > 0), "maybe", y) if three else y
    ours, theirs = sides(
        Cs=[0.1, 1.0],
        l1_ratios=np.array([0.0, 0.5, 1.0]),
        scoring="neg_log_loss",
        refit=refit,
        use_legacy_attributes=legacy,
    )
    assert_the_same(
        ours.fit(X, labels), theirs.fit(X, labels), 1e-6
    )  # saga stops at steps of 1e-10 of the largest coefficient, of thousands


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("text", [False, True], ids=["numbers", "text"])
@pytest.mark.parametrize(
    "scoring",
    [
        "f1",
        "balanced_accuracy",
        "neg_brier_score",
        "average_precision",
        make_scorer(fbeta_score, beta=2),
    ],
    ids=str,
)
def test_any_scorer_scores_rows_in_memory_as_for_scikit_learn(scoring: Any, text: bool) -> None:
    X, y = data(300)
    numbers_alone = (
        ["average_precision"] if THEIRS_HAS_SHAPES else ["average_precision", "neg_brier_score"]
    )  # which are not told the positive label
    labels = y if text and scoring not in numbers_alone else (y == "yes").astype(int)
    ours, theirs = (model.fit(X, labels) for model in sides(scoring=scoring))
    (found,), (wanted,) = ours.scores_.values(), theirs.scores_.values()
    np.testing.assert_allclose(
        found, wanted[..., 0], rtol=0, atol=1e-8
    )  # of models within 1e-8, of which no row is at the fence
    assert ours.C_ == theirs.C_
    if not text:
        assert ours.score(X, labels) == pytest.approx(theirs.score(X, labels), abs=1e-8)


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.skipif(
    not THEIRS_HAS_SHAPES,
    reason="of more than two classes this scikit-learn's newton-cholesky fits each against the "
    "rest",
)
@pytest.mark.parametrize(
    "scoring",
    ["accuracy", "precision_macro", "f1_weighted", "recall_macro", "neg_log_loss", "roc_auc_ovr"],
)
def test_scores_of_three_classes_are_scikit_learns(scoring: str) -> None:
    X, y = data(300)
    labels = np.where((y == "yes") & (X[:, 0] > 0), "maybe", y)
    ours, theirs = (
        model.fit(X, labels)
        for model in sides(scoring=scoring, l1_ratios=np.zeros(1), use_legacy_attributes=False)
    )
    assert_the_same(ours, theirs, 1e-8)


@pytest.mark.parametrize("make", [list, scipy.sparse.csr_array, pd.DataFrame])
def test_rows_held_out_are_taken_from_whatever_is_in_memory(make: Any) -> None:
    X, y = data(200)
    wanted = LogisticRegressionCV(Cs=CS, cv=3, scoring="balanced_accuracy").fit(X, y).scores_["yes"]
    np.testing.assert_array_equal(
        LogisticRegressionCV(Cs=CS, cv=3, scoring="balanced_accuracy")
        .fit(make(X), y)
        .scores_["yes"],
        wanted,
    )


@pytest.mark.parametrize("make", [zarr.array, dask.array.from_array])
def test_of_stored_rows_the_summed_scores_choose_and_others_are_refused(make: Any) -> None:
    X, y = data(200)
    model = LogisticRegressionCV(Cs=CS, cv=3, scoring="neg_log_loss").fit(make(X), y)
    assert model.score(make(X), y) == pytest.approx(-log_loss(y, model.predict_proba(X)), rel=1e-12)
    with pytest.raises(
        ConfigError,
        match=r"scoring is 'f1', and X is a Array, .* must be one of accuracy, neg_log_loss, "
        r"roc_auc, which are summed",
    ):
        LogisticRegressionCV(scoring="f1").fit(make(X), y)


@pytest.mark.parametrize(
    "solver",
    ["lbfgs", "liblinear", "newton", "newton-cg", "newton-cholesky", "proximal", "sag", "saga"],
)
def test_every_name_of_a_solver_leads_to_the_one_optimum(solver: str) -> None:
    X, y = data(200)
    wanted = LogisticRegressionCV(Cs=CS, cv=3).fit(X, y)
    found = LogisticRegressionCV(
        Cs=CS,
        cv=3,
        solver=solver,
        dual=solver == "liblinear",
        random_state=np.random.RandomState(3),
        n_jobs=2,
    ).fit(X, y)
    np.testing.assert_allclose(
        found.coef_, wanted.coef_, rtol=0, atol=1e-6
    )  # gradients of 1e-8 over curvatures of 1e-2 and more


def test_an_infinite_strength_is_no_penalty_and_l1_is_the_share_one() -> None:
    X, y = data(200)
    free = LogisticRegressionCV(Cs=[np.inf], cv=3).fit(X, y)
    np.testing.assert_allclose(
        free.coef_, LogisticRegression(penalty=None).fit(X, y).coef_, rtol=0, atol=1e-6
    )
    some, others = (
        LogisticRegressionCV(Cs=CS, cv=3, penalty="l1").fit(X, y),
        LogisticRegressionCV(Cs=CS, cv=3, l1_ratios=[1.0]).fit(X, y),
    )
    assert some.coef_.tobytes() == others.coef_.tobytes()
    assert some.l1_ratio_.tolist() == [1.0]


def test_scorer_and_splitter_get_what_they_request_and_nothing_else() -> None:
    X, y = data(300)
    weight, groups = np.random.default_rng(1).uniform(0.5, 2.0, len(y)), np.arange(len(y)) // 10
    with sklearn.config_context(enable_metadata_routing=True):
        wants, declines = (
            make_scorer(accuracy_score).set_score_request(sample_weight=asked)
            for asked in (True, False)
        )
        with_weights, without = (
            LogisticRegressionCV(Cs=CS, cv=GroupKFold(3), scoring=scorer).fit(
                X, y, sample_weight=weight, groups=groups
            )
            for scorer in (wants, declines)
        )
        with pytest.raises(TypeError, match="sample_weight"):
            without.score(X, y, sample_weight=weight)
        assert with_weights.score(X, y, sample_weight=weight) == pytest.approx(
            accuracy_score(y, with_weights.predict(X), sample_weight=weight), rel=1e-12
        )
    plain = LogisticRegressionCV(Cs=CS, cv=GroupKFold(3)).fit(
        X, y, sample_weight=weight, groups=groups
    )
    np.testing.assert_allclose(with_weights.scores_["yes"], plain.scores_["yes"], rtol=1e-12)
    np.testing.assert_array_equal(with_weights.coefs_paths_["yes"], without.coefs_paths_["yes"])
    assert (with_weights.scores_["yes"] != without.scores_["yes"]).any()
    with pytest.raises(ValueError, match="enable_metadata_routing=True"):
        plain.fit(X, y, extra=1)
