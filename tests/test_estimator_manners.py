"""What code that was written for scikit-learn's estimators expects beside its checks: names, types,
warnings."""

from __future__ import annotations

import warnings
from typing import Any

import dask.array
import numpy as np
import pytest
import scipy.sparse
import zarr
from numpy.typing import NDArray
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LinearRegression as LinearReference
from sklearn.linear_model import LogisticRegression as Reference
from sklearn.linear_model import PoissonRegressor as PoissonReference

from streamlr import LinearRegression, LogisticRegression, PoissonRegressor
from streamlr.errors import ConfigError, LabelError

Array = NDArray[np.float64]
ROWS, FEATURES = 300, 4
ESTIMATORS = {
    "logistic": LogisticRegression,
    "linear": LinearRegression,
    "poisson": PoissonRegressor,
}
SOLVERS = ["lbfgs", "liblinear", "newton-cg", "newton-cholesky", "sag", "saga"]


def data(family: str = "logistic") -> tuple[Array, NDArray[Any]]:
    """Features that float32 holds exactly, and a target."""
    rng = np.random.default_rng(5)
    X = rng.normal(size=(ROWS, FEATURES)).astype(np.float32).astype(np.float64)
    Z = X @ np.array([1.0, -0.5, 0.3, 0.0]) + 0.5
    return X, {
        "logistic": lambda: np.where(Z + rng.logistic(size=ROWS) > 0, "yes", "no"),
        "linear": lambda: Z + rng.normal(size=ROWS),
        "poisson": lambda: rng.poisson(np.exp(0.5 * Z)).astype(np.float64),
    }[family]()


# parameters ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_of_scikit_learns_is_a_name_for_the_same_optimum(solver: str) -> None:
    X, y = data()
    found = LogisticRegression(solver=solver, tol=1e-10).fit(X, y)
    oracle = Reference(solver="newton-cholesky", tol=1e-12).fit(X, y)
    # gradients of 1e-10 over a curvature of at least 0.02 (features of spread 1) are within 1e-8 of
    # the optimum
    np.testing.assert_allclose(found.coef_, oracle.coef_, rtol=0, atol=3e-8)
    np.testing.assert_allclose(found.intercept_, oracle.intercept_, rtol=0, atol=3e-8)


@pytest.mark.parametrize(
    ("kind", "reference", "without"),
    [
        (LogisticRegression, Reference, {"multi_class"}),
        (LinearRegression, LinearReference, set()),
        (PoissonRegressor, PoissonReference, set()),
    ],
)
def test_what_scikit_learns_estimator_is_told_can_be_told_here(
    kind: Any, reference: Any, without: set[str]
) -> None:
    told = {name: value for name, value in reference().get_params().items() if name not in without}
    X, y = data(
        {LogisticRegression: "logistic", LinearRegression: "linear", PoissonRegressor: "poisson"}[
            kind
        ]
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = kind(**told).fit(X, y)
    # scikit-learn's default tolerances of 1e-4 or more are of gradients; the curvature is 0.05 or
    # more
    np.testing.assert_allclose(found.coef_, reference().fit(X, y).coef_, rtol=0, atol=1e-2)


@pytest.mark.parametrize("family", ESTIMATORS)
def test_parameters_may_be_numpys(family: str) -> None:
    X, y = data(family)
    plain = ESTIMATORS[family](max_iter=9, tol=1e-7, fit_intercept=True).fit(X, y)
    numpys = ESTIMATORS[family](
        max_iter=np.int64(9), tol=np.float32(1e-7), fit_intercept=np.bool_(True)
    ).fit(X, y)
    assert numpys.coef_.tobytes() == plain.coef_.tobytes()


def test_a_dual_is_liblinears_alone() -> None:
    X, y = data()
    assert (
        LogisticRegression(solver="liblinear", dual=True).fit(X, y).coef_.tobytes()
        == LogisticRegression().fit(X, y).coef_.tobytes()
    )
    with pytest.raises(ConfigError, match="Solver sag supports only dual=False, got dual=True"):
        LogisticRegression(solver="sag", dual=True).fit(X, y)


def test_liblinear_of_more_than_two_classes_would_be_another_model_and_is_refused() -> None:
    X, y = data()
    three = np.where(X[:, 1] > 0.5, "perhaps", y)
    with pytest.raises(
        ConfigError,
        match=r"The 'liblinear' solver does not support multiclass classification \(y holds 3 "
        r"classes\)",
    ):
        LogisticRegression(solver="liblinear").fit(X, three)


def test_what_has_no_effect_is_warned_of() -> None:
    X, y = data()
    with pytest.warns(FutureWarning, match="'n_jobs' has no effect"):
        LogisticRegression(n_jobs=2).fit(X, y)
    with pytest.warns(
        UserWarning,
        match=r"Setting penalty=None will ignore the C and l1_ratio parameters \(C is 4",
    ):
        LogisticRegression(4.0, penalty=None).fit(X, y)


@pytest.mark.parametrize("family", ESTIMATORS)
def test_verbose_shows_the_passes(family: str, capsys: pytest.CaptureFixture[str]) -> None:
    X, y = data(family)
    found = ESTIMATORS[family](verbose=1).fit(X, y)
    told = capsys.readouterr()
    assert [line.split()[:2] for line in told.err.splitlines() if line.startswith("pass ")] == [
        ["pass", str(k + 1)] for k in range(np.max(found.n_iter_))
    ]
    ESTIMATORS[family]().fit(X, y)
    assert capsys.readouterr() == ("", "")


# what is fitted -----------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ESTIMATORS)
@pytest.mark.parametrize(
    "brought",
    [
        np.asarray,
        scipy.sparse.csr_array,
        lambda X: zarr.create_group(zarr.storage.MemoryStore()).create_array("X", data=X),
    ],
)
def test_coefficients_have_the_precision_of_the_features_and_the_model_has_all_digits(
    family: str, brought: Any
) -> None:
    X, y = data(family)
    wide, narrow = (
        ESTIMATORS[family]().fit(brought(X), y),
        ESTIMATORS[family]().fit(brought(X.astype(np.float32)), y),
    )
    assert wide.coef_.dtype == wide.model_.coef_.dtype == narrow.model_.coef_.dtype == np.float64
    assert narrow.coef_.dtype == np.float32
    assert narrow.coef_.tobytes() == narrow.model_.coef_.astype(np.float32).tobytes()
    # the values are the same; other blocks may be summed in another order, which is rounding on a
    # Hessian of condition below 100
    np.testing.assert_allclose(narrow.model_.coef_, wide.model_.coef_, rtol=0, atol=1e-12)
    method = "predict" if family != "logistic" else "predict_proba"
    np.testing.assert_allclose(
        getattr(narrow, method)(X), getattr(wide, method)(X), rtol=0, atol=1e-11
    )


def test_what_people_write_to_the_coefficients_is_what_predicts() -> None:
    X, y = data()
    found = LogisticRegression().fit(X.astype(np.float32), y)
    kept = found.model_.coef_.copy()
    found.coef_[:] = [[0, 0, 0, 2]]
    # the intercept was not written to, and keeps all its digits
    np.testing.assert_array_equal(
        found.decision_function(X), 2 * X[:, 3] + found.model_.intercept_[0]
    )
    np.testing.assert_array_equal(found.model_.coef_, kept)
    found.intercept_ = np.array([1.5])
    np.testing.assert_array_equal(found.decision_function(X), 2 * X[:, 3] + 1.5)
    regressor = LinearRegression().fit(X, X[:, 0])
    regressor.coef_, regressor.intercept_ = np.array([0.0, 0.0, 3.0, 0.0]), -1.0
    np.testing.assert_array_equal(regressor.predict(X), 3 * X[:, 2] - 1.0)


@pytest.mark.parametrize("n_classes", [2, 3])
def test_sparse_coefficients_predict_the_same(n_classes: int) -> None:
    X, y = data()
    found = LogisticRegression().fit(
        X, y if n_classes == 2 else np.where(X[:, 1] > 0.5, "perhaps", y)
    )
    dense, before = found.coef_.copy(), found.decision_function(X)
    assert scipy.sparse.issparse(found.sparsify().coef_)
    np.testing.assert_array_equal(found.decision_function(X), before)
    np.testing.assert_array_equal(found.densify().coef_, dense)
    np.testing.assert_array_equal(found.densify().decision_function(X), before)


@pytest.mark.parametrize("family", ESTIMATORS)
def test_no_iterations_read_no_data_and_leave_the_start(family: str) -> None:
    X, y = data(family)
    with pytest.warns(
        ConvergenceWarning,
        match=r"failed to converge \(pass_limit\): the limit of 0 passes. Increase the number of "
        r"iterations",
    ):
        found = ESTIMATORS[family](max_iter=0).fit(X, y)
    assert not found.coef_.any()
    assert not np.any(found.intercept_)
    assert found.n_iter_ == 0
    assert found.predict(X).shape == (ROWS,)
    warm = ESTIMATORS[family](warm_start=True).fit(X, y)
    before = warm.model_.coef_.copy()
    with pytest.warns(ConvergenceWarning):
        warm.set_params(max_iter=0).fit(X, y)
    np.testing.assert_array_equal(warm.coef_.reshape(before.shape), before)


def test_no_iterations_of_three_classes_are_three_equal_probabilities() -> None:
    X, y = data()
    with pytest.warns(ConvergenceWarning):
        found = LogisticRegression(max_iter=0).fit(X, np.where(X[:, 1] > 0.5, "perhaps", y))
    np.testing.assert_array_equal(found.predict_proba(X), np.full((ROWS, 3), 1 / 3))


@pytest.mark.parametrize("intercept", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_least_squares_without_coefficients_below_0_are_those_of_scikit_learn(
    weighted: bool, intercept: bool
) -> None:
    X, y = data("linear")
    omega = np.random.default_rng(1).uniform(0.1, 3.0, ROWS) if weighted else None
    found = LinearRegression(positive=True, fit_intercept=intercept).fit(X, y, omega)
    oracle = LinearReference(positive=True, fit_intercept=intercept).fit(
        X, y, omega
    )  # the active set method of Lawson and Hanson
    assert (oracle.coef_ == 0).any()
    np.testing.assert_array_equal(found.coef_ == 0, oracle.coef_ == 0)
    np.testing.assert_allclose(
        found.coef_, oracle.coef_, rtol=0, atol=1e-7
    )  # gradients of 1e-8 in units of the target's spread, on a Hessian of about 1
    assert found.intercept_ == pytest.approx(oracle.intercept_, abs=1e-7)


@pytest.mark.parametrize("n_outputs", [1, 3])
@pytest.mark.parametrize("positive", [False, True])
def test_least_squares_of_many_outputs_is_one_fit_for_each(positive: bool, n_outputs: int) -> None:
    X, y = data("linear")
    targets = np.column_stack([y, -2 * y + X[:, 3], np.arange(ROWS)])[:, :n_outputs]
    model, each = LinearRegression(positive=positive, warm_start=True).fit(X, targets), []
    for k in range(n_outputs):
        each.append(LinearRegression(positive=positive).fit(X, targets[:, k]))
        assert model.coef_[k].tobytes() == each[k].coef_.tobytes()
        assert model.intercept_[k] == each[k].intercept_
    assert (model.coef_.shape, model.intercept_.shape, model.status_) == (
        (n_outputs, FEATURES),
        (n_outputs,),
        "converged",
    )
    assert model.n_iter_ == sum(one.n_iter_ for one in each)
    predicted = np.column_stack([one.predict(X) for one in each])
    # a product with a matrix of coefficients may be summed in another order than those with its
    # rows
    np.testing.assert_allclose(model.predict(X), predicted, rtol=1e-13, atol=1e-13)
    np.testing.assert_array_equal(
        model.predict(dask.array.from_array(X, chunks=(70, FEATURES))).compute().shape,
        (ROWS, n_outputs),
    )
    assert model.score(X, targets) == pytest.approx(
        LinearReference(positive=positive).fit(X, targets).score(X, targets), abs=1e-9
    )
    before = model.coef_.copy()
    np.testing.assert_allclose(
        model.fit(X, targets).coef_, before, rtol=0, atol=1e-6
    )  # started where it ended, it stays within its tolerance
    assert (
        model.n_iter_ == 2 * n_outputs
    )  # a look at the data, and one at the start, which is the optimum of its own output
    assert (
        model.fit(X, y).coef_.tobytes() == each[0].coef_.tobytes() or n_outputs == 1
    )  # three outputs are no start for one


def test_a_solver_of_what_is_smooth_refuses_bounds() -> None:
    X, y = data("linear")
    with pytest.raises(
        ConfigError,
        match=r"Solver newton supports only 'l2' or None penalties, got bounds \(positive=True\); "
        r"set solver='auto'",
    ):
        LinearRegression(positive=True, solver="newton").fit(X, y)


def test_a_square_system_is_solved() -> None:
    X, y = data("linear")
    square, target = X[:FEATURES], y[:FEATURES]
    found = LinearRegression(fit_intercept=False).fit(square, target)
    assert found.status_ == "converged"
    # the gradient is 1e-8 or less in units of the spread of the target, on a Hessian of the
    # condition of the square of that of the rows
    np.testing.assert_allclose(
        found.coef_,
        np.linalg.solve(square, target),
        rtol=0,
        atol=1e-8 * np.linalg.cond(square) ** 2,
    )


def test_counts_below_0_are_refused_with_scikit_learns_words() -> None:
    X, y = data("poisson")
    y[17] = -2
    with pytest.raises(
        LabelError,
        match=r"Some value\(s\) of y are out of the valid range of the loss: row 17 has -2",
    ):
        PoissonRegressor().fit(X, y)
