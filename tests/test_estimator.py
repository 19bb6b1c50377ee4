"""The scikit-learn interface: the same objective, the same optimum, the same manners."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import sklearn
import zarr
from numpy.typing import NDArray
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning, NotFittedError
from sklearn.linear_model import LogisticRegression as Reference

import streamlr
from streamlr import LogisticRegression
from streamlr.errors import ConfigError, LabelError, ShapeError

Array = NDArray[np.float64]
ROWS, FEATURES = 500, 6
MULTINOMIAL = (
    "newton-cholesky" if sklearn.__version__ >= "1.6" else "newton-cg"
)  # before that it fitted each class against the rest


def data(seed: int = 0) -> tuple[Array, NDArray[np.int64], Array]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(ROWS, FEATURES)) * np.array([1, 10, 0.1, 3, 1, 1]) + np.array(
        [0, 5, 0, 0, -2, 0]
    )
    y = (rng.random(ROWS) < 1 / (1 + np.exp(-X @ np.array([1, -0.1, 5, 0.2, 0.0, -1]) + 1))).astype(
        np.int64
    )
    return X, y, rng.uniform(0.2, 3.0, ROWS)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("solver", ["auto", "lbfgs", "newton"])
@pytest.mark.parametrize("C", [0.01, 1.0, 100.0, np.inf])
def test_the_optimum_is_that_of_scikit_learn(
    C: float, solver: str, intercept: bool, weighted: bool
) -> None:
    X, y, weights = data()
    sample_weight = weights if weighted else None
    found = LogisticRegression(C, fit_intercept=intercept, solver=solver, tol=1e-10).fit(
        X, y, sample_weight
    )
    oracle = Reference(
        C=C, fit_intercept=intercept, solver="newton-cholesky", tol=1e-12, max_iter=1000
    ).fit(X, y, sample_weight)
    assert found.status_ == "converged"
    # a gradient of 1e-10 over a curvature of at least 0.02 (standardised) puts each point within
    # 1e-8 of the optimum
    scale = X.std(axis=0)
    np.testing.assert_allclose(found.coef_ * scale, oracle.coef_ * scale, rtol=0, atol=3e-8)
    np.testing.assert_allclose(found.intercept_, oracle.intercept_, rtol=0, atol=3e-7)
    np.testing.assert_allclose(found.predict_proba(X), oracle.predict_proba(X), rtol=0, atol=1e-7)
    np.testing.assert_allclose(
        found.decision_function(X), oracle.decision_function(X), rtol=0, atol=1e-6
    )
    np.testing.assert_array_equal(found.predict(X), oracle.predict(X))
    assert found.score(X, y, sample_weight) == pytest.approx(
        oracle.score(X, y, sample_weight), abs=1e-12
    )


def test_what_is_fitted_has_the_shapes_and_types_of_scikit_learn() -> None:
    X, y, _ = data()
    found, oracle = LogisticRegression().fit(X, y), Reference().fit(X, y)
    for name in ("coef_", "intercept_", "classes_", "n_iter_"):
        assert getattr(found, name).shape == getattr(oracle, name).shape, name
    assert found.n_features_in_ == oracle.n_features_in_ == FEATURES
    assert found.predict_proba(X).shape == (ROWS, 2)
    assert found.decision_function(X).shape == (ROWS,)


@pytest.mark.parametrize("labels", [["no", "yes"], [-1, 1], [False, True], [0.5, 2.5]])
def test_labels_come_back_as_they_were_given(labels: list[Any]) -> None:
    X, y, _ = data()
    named = np.array(labels)[y]
    found = LogisticRegression().fit(X, named)
    assert found.classes_.tolist() == labels
    assert found.classes_.dtype.kind == named.dtype.kind
    assert set(found.predict(X).tolist()) == set(labels)
    assert found.score(X, named) == LogisticRegression().fit(X, y).score(X, y)


def test_python_objects_and_lists_are_taken_as_labels() -> None:
    X, y, _ = data()
    plain = LogisticRegression().fit(X, np.array(["a", "b"])[y])
    for labels in (np.array(["a", "b"], dtype=object)[y], np.array(["a", "b"])[y].tolist()):
        assert LogisticRegression().fit(X.tolist(), labels).coef_.tobytes() == plain.coef_.tobytes()


def test_a_zarr_array_is_fitted_like_its_values() -> None:
    X, y, _ = data()
    group = zarr.create_group(zarr.storage.MemoryStore())
    plain = LogisticRegression().fit(X, y)
    stored = group.create_array("X", data=X, chunks=(ROWS, FEATURES))
    assert LogisticRegression().fit(stored, y).coef_.tobytes() == plain.coef_.tobytes()
    # other chunks are summed in another order, which is worth some rounding of a sample's optimum
    # found to 1e-10 by Newton's method
    in_parts = group.create_array("in parts", data=X, chunks=(100, FEATURES - 1))
    np.testing.assert_allclose(LogisticRegression().fit(in_parts, y).coef_, plain.coef_, rtol=1e-12)


@pytest.mark.parametrize("kind", ["serial", "threads"])
def test_the_cluster_section_chooses_the_engine_and_no_bit(kind: str) -> None:
    X, y, _ = data()
    assert (
        LogisticRegression(cluster={"kind": kind}).fit(X, y).coef_.tobytes()
        == LogisticRegression().fit(X, y).coef_.tobytes()
    )


def test_fitting_changes_neither_the_data_nor_the_parameters() -> None:
    X, y, weights = data()
    copies = X.copy(), y.copy(), weights.copy()
    model = LogisticRegression(0.5, cluster={"kind": "serial"})
    before = model.get_params()
    assert model.fit(X, y, weights) is model
    assert model.get_params() == before
    for array, copy in zip((X, y, weights), copies, strict=True):
        np.testing.assert_array_equal(array, copy)


def test_max_iter_bounds_the_passes_and_the_status_says_so() -> None:
    X, y, _ = data()
    with pytest.warns(
        ConvergenceWarning,
        match=r"LogisticRegression: lbfgs failed to converge \(pass_limit\): the limit of 2 passes",
    ):
        found = LogisticRegression(np.inf, solver="lbfgs", max_iter=2, tol=1e-14).fit(X, y)
    assert found.status_ == "pass_limit"
    assert found.n_iter_.tolist() == [2]


# parameters ---------------------------------------------------------------------------------------

OTHERS: dict[str, Any] = {
    "C": 0.25,
    "penalty": None,
    "l1_ratio": 0.25,
    "class_weight": "balanced",
    "warm_start": True,
    "fit_intercept": False,
    "tol": 1e-5,
    "max_iter": 7,
    "solver": "newton",
    "dual": True,
    "intercept_scaling": 2.0,
    "random_state": 0,
    "n_jobs": 1,
    "verbose": 1,
    "cluster": {"kind": "serial"},
}


def test_parameters_are_got_as_they_were_given() -> None:
    assert set(OTHERS) == set(LogisticRegression().get_params())
    assert LogisticRegression(**OTHERS).get_params() == OTHERS
    assert LogisticRegression(**OTHERS).get_params(deep=False) == OTHERS


@pytest.mark.parametrize("name", list(OTHERS))
def test_each_parameter_can_be_set(name: str) -> None:
    model = LogisticRegression()
    assert model.set_params(**{name: OTHERS[name]}) is model
    assert model.get_params() == {**LogisticRegression().get_params(), name: OTHERS[name]}


def test_a_clone_has_the_parameters_and_nothing_that_was_fitted() -> None:
    X, y, _ = data()
    model = LogisticRegression(
        **{**OTHERS, "max_iter": 50, "dual": False, "n_jobs": None, "C": 1.0}
    ).fit(X, y)
    copy = clone(model)
    assert copy is not model
    assert copy.get_params() == model.get_params()
    with pytest.raises(NotFittedError, match="not fitted yet"):
        copy.predict(X)
    assert copy.fit(X, y).coef_.tobytes() == model.coef_.tobytes()


# errors -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["predict", "predict_proba", "decision_function"])
def test_predicting_before_fitting_is_refused(method: str) -> None:
    with pytest.raises(NotFittedError, match="This LogisticRegression instance is not fitted yet"):
        getattr(LogisticRegression(), method)(np.zeros((2, 3)))


def test_an_unknown_parameter_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(
        ValueError, match=r"Invalid parameter 'learning_rate'.*'C', 'class_weight', 'cluster'"
    ):
        LogisticRegression().set_params(learning_rate=1.0)


@pytest.mark.parametrize("C", [0.0, -1.0, float("nan")])
def test_a_strength_that_is_not_above_0_is_refused(C: float) -> None:
    X, y, _ = data()
    with pytest.raises(ConfigError, match=rf"C is {C}; it must be above 0 \(inf for no penalty\)"):
        LogisticRegression(C).fit(X, y)


def test_three_classes_are_fitted_together_and_one_is_refused() -> None:
    X, y, _ = data()
    three = np.array(["a", "b", "c"])[y + (X[:, 0] > 0)]
    found, oracle = (
        LogisticRegression(tol=1e-10).fit(X, three),
        Reference(solver=MULTINOMIAL, tol=1e-12).fit(X, three),
    )
    # both gradients are below 1e-10, on a Hessian whose smallest eigenvalue is the penalty, 1 / m
    np.testing.assert_allclose(found.coef_, oracle.coef_, rtol=0, atol=1e-7)
    np.testing.assert_allclose(found.predict_proba(X), oracle.predict_proba(X), rtol=0, atol=1e-7)
    assert (found.predict(X) == oracle.predict(X)).all()
    with pytest.raises(LabelError, match="holds one class only"):
        LogisticRegression().fit(X, np.zeros_like(y))


def test_rows_and_labels_of_different_numbers_are_refused() -> None:
    X, y, weights = data()
    with pytest.raises(ShapeError, match=f"{ROWS}.*{ROWS - 1}|{ROWS - 1}.*{ROWS}"):
        LogisticRegression().fit(X, y[1:])
    with pytest.raises(ShapeError, match=f"{ROWS}.*{ROWS - 1}|{ROWS - 1}.*{ROWS}"):
        LogisticRegression().fit(X, y, weights[1:])


def test_features_of_another_number_than_were_fitted_are_refused() -> None:
    X, y, _ = data()
    with pytest.raises(
        ValueError,
        match=r"X has 5 features, but LogisticRegression is expecting 6 features as input",
    ):
        LogisticRegression().fit(X, y).predict(X[:, :5])


def test_an_unknown_solver_is_refused() -> None:
    X, y, _ = data()
    with pytest.raises(ConfigError, match=r"solver\.name"):
        LogisticRegression(solver="simplex").fit(X, y)


def test_the_package_offers_the_estimator() -> None:
    assert streamlr.LogisticRegression is LogisticRegression
