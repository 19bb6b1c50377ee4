"""Whole solves against closed forms, published values and scikit-learn's newton-cholesky; and data
that have no optimum."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer, load_digits, load_iris, load_wine
from sklearn.linear_model import LogisticRegression

from streamlr import train
from streamlr.training.train import TrainResult

Array = NDArray[np.float64]
Table = tuple[Array, NDArray[np.int64]]

SECOND_ORDER = ["auto", "newton", "lbfgs"]
EVERY_SOLVER = [*SECOND_ORDER, "gradient_descent"]
second_order = pytest.mark.parametrize("solver", SECOND_ORDER)


def fit(
    X: Array,
    y: NDArray[Any],
    solver: str = "auto",
    *,
    l2: float = 0.0,
    weights: Array | None = None,
    standardize: bool = False,
    intercept: bool = True,
    tolerance: float = 1e-10,
    max_passes: int = 300,
    learning_rate: float = 1.0,
) -> TrainResult:
    config = {
        "model": {"penalty": {"l2": l2}, "standardize": standardize, "fit_intercept": intercept},
        "solver": {
            "name": solver,
            "tolerance": tolerance,
            "max_passes": max_passes,
            "learning_rate": learning_rate,
        },
        "cluster": {"kind": "serial"},
    }
    return train(config, X=X, y=y, sample_weight=weights)


def assert_coefficients(
    result: TrainResult, coefficients: Any, intercept: float, relative: float = 1e-6
) -> None:
    """Each to ``relative`` of the largest of them, as a coefficient near 0 has no relative error of
    its own."""
    assert result.status == "converged", result.reason
    coefficients = np.asarray(coefficients).ravel()
    size = float(np.abs(coefficients).max())
    np.testing.assert_allclose(
        result.model.coef_[0], coefficients, rtol=relative, atol=relative * size
    )
    assert result.model.intercept_[0] == pytest.approx(intercept, rel=relative, abs=relative * size)


def log_likelihood(
    result: TrainResult, X: Array, y: NDArray[Any], weights: Array | None = None
) -> float:
    z = result.model.decision_function(X)
    return -float(
        np.sum((np.ones(len(y)) if weights is None else weights) * (np.logaddexp(0, z) - y * z))
    )


# closed forms and published values ----------------------------------------------------------------


@second_order
@pytest.mark.parametrize("by_weights", [False, True])
def test_a_two_by_two_table_has_its_closed_form(solver: str, by_weights: bool) -> None:
    """Hosmer and Lemeshow: below 55 years 22 cases and 51 controls, from 55 on 21 cases and 6
    controls."""
    X, y, counts = (
        np.array([[0.0], [0.0], [1.0], [1.0]]),
        np.array([1, 0, 1, 0]),
        np.array([22.0, 51.0, 21.0, 6.0]),
    )
    if by_weights:
        result = fit(X, y, solver, weights=counts)
        likelihood = log_likelihood(result, X, y, counts)
    else:
        many = np.repeat(np.arange(4), counts.astype(int))
        result = fit(X[many], y[many], solver)
        likelihood = log_likelihood(result, X[many], y[many])
    slope, intercept = np.log(21 / 6) - np.log(22 / 51), np.log(22 / 51)
    assert (round(slope, 6), round(intercept, 7)) == (2.093546, -0.8407832)
    assert_coefficients(result, [slope], intercept)
    assert likelihood == pytest.approx(-58.979565, abs=5e-7)
    assert result.summary["loss"] == pytest.approx(58.979565 / 100, abs=5e-9)


@pytest.mark.parametrize("solver", EVERY_SOLVER)
def test_four_points_of_two_features_have_their_known_optimum(solver: str) -> None:
    X, y = np.array([[1.0, 2], [1, 3], [2, 1], [3, 1]]), np.array([1, 1, 0, 0])
    result = fit(X, y, solver, l2=1 / 4, learning_rate=0.5, max_passes=2000)  # C = 1 and four rows
    # by symmetry W = (-a, a) and b = 0, and the derivative of J by a is 0 where a = σ(-a) + 2
    # σ(-2a)
    with mpmath.workdps(30):
        a = float(
            mpmath.findroot(
                lambda t: t - 1 / (1 + mpmath.exp(t)) - 2 / (1 + mpmath.exp(2 * t)), 0.7
            )
        )
    assert a == pytest.approx(0.71483314, abs=1e-8)
    assert result.status == "converged"
    np.testing.assert_allclose(result.model.coef_[0], [-a, a], rtol=0, atol=1e-8)
    assert result.model.intercept_[0] == pytest.approx(0, abs=1e-8)


def iris_pair() -> Table:
    X, y = load_iris(return_X_y=True)
    return X[y > 0], (y[y > 0] == 2).astype(np.int64)


@second_order
@pytest.mark.parametrize("tolerance", [1e-8, 1e-10])
def test_unpenalised_iris_has_its_published_optimum(solver: str, tolerance: float) -> None:
    X, y = iris_pair()
    result = fit(X, y, solver, tolerance=tolerance)
    assert_coefficients(
        result,
        [-2.4652201951866641, -6.6808870140785497, 9.4293851539266421, 18.2861368878509855],
        -42.637803813021989,
    )
    assert log_likelihood(result, X, y) == pytest.approx(-5.94927339567942, abs=1e-9)


@second_order
def test_penalised_iris_has_its_published_optimum(solver: str) -> None:
    X, y = iris_pair()
    assert_coefficients(
        fit(X, y, solver, l2=1 / 100),
        [-0.39443347857205945, -0.51327740442843437, 2.9307513838533587, 2.4170321883370082],
        -14.4307581801686765,
    )


# scikit-learn on real tables ----------------------------------------------------------------------


def pair(load: Callable[..., Any], first: int, second: int) -> Table:
    X, y = load(return_X_y=True)
    kept = (y == first) | (y == second)
    return X[kept], (y[kept] == second).astype(np.int64)


TABLES: dict[str, Callable[[], Table]] = {
    "breast_cancer": lambda: load_breast_cancer(return_X_y=True),
    "iris 1 against 2": iris_pair,
    "wine 0 against 1": lambda: pair(load_wine, 0, 1),
    "wine 1 against 2": lambda: pair(load_wine, 1, 2),
    "digits 3 against 8": lambda: pair(load_digits, 3, 8),
}
tables = pytest.mark.parametrize("name", list(TABLES))


@functools.cache
def table(name: str) -> Table:
    X, y = TABLES[name]()
    return X, y


@functools.cache
def reference(
    name: str, C: float, weighted: bool, intercept: bool, scaled: bool
) -> tuple[Array, float]:
    """Coefficients and intercept by scikit-learn, in the units of the data.

    It is given features in units in which its Newton steps are well conditioned only where that
    leaves the penalty as it is.
    """
    X, y = table(name)
    weights = weights_of(name) if weighted else None
    scale = spreads(X, weights) if scaled else np.ones(X.shape[1])
    model = LogisticRegression(
        C=C, solver="newton-cholesky", tol=1e-12, max_iter=1000, fit_intercept=intercept
    )
    model.fit(X / scale, y, sample_weight=weights)
    return model.coef_[0] / scale, float(model.intercept_[0]) if intercept else 0.0


def weights_of(name: str) -> Array:
    return np.random.default_rng(len(name)).uniform(0.1, 3.0, len(table(name)[1]))


def spreads(X: Array, weights: Array | None) -> Array:
    mean = np.average(X, axis=0, weights=weights)
    spread: Array = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weights))
    spread[spread < 1e-12] = 1.0  # digits have pixels that are always blank
    return spread


@pytest.mark.filterwarnings(
    "ignore::sklearn.exceptions.ConvergenceWarning"
)  # rounding may keep its gradient above 1e-12
@second_order
@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("weighted", [False, True])
@tables
def test_penalised_optima_are_those_of_scikit_learn(
    name: str, weighted: bool, intercept: bool, scaled: bool, solver: str
) -> None:
    if solver == "lbfgs" and not scaled and (name == "breast_cancer" or not intercept):
        pytest.skip(
            "without a sample's Hessian the plain method needs thousands of passes where units "
            "differ by 1e5"
        )
    C = 0.5
    X, y = table(name)
    weights = weights_of(name) if weighted else None
    l2 = 1 / (C * (len(y) if weights is None else weights.sum()))
    expected = reference(name, C, weighted, intercept, scaled)
    # the plain method crawls over its last digits on these data; 1e-9 already leaves less than 3e-7
    # in the coefficients
    tolerance = 1e-9 if solver == "lbfgs" else 1e-10
    result = fit(
        X,
        y,
        solver,
        l2=l2,
        weights=weights,
        standardize=scaled,
        intercept=intercept,
        tolerance=tolerance,
    )
    assert_coefficients(result, *expected)


@second_order
@pytest.mark.parametrize("name", ["iris 1 against 2", "breast_cancer"])
def test_weights_are_repeated_rows(name: str, solver: str) -> None:
    X, y = table(name)
    counts = np.random.default_rng(4).integers(0, 4, len(y))
    repeated = fit(
        np.repeat(X, counts, axis=0), np.repeat(y, counts), solver, l2=0.01, standardize=True
    )
    weighted = fit(X, y, solver, l2=0.01, standardize=True, weights=counts.astype(np.float64))
    assert_coefficients(weighted, repeated.model.coef_, float(repeated.model.intercept_[0]))


@second_order
def test_doubling_all_weights_changes_nothing(solver: str) -> None:
    X, y = iris_pair()
    once, twice = (fit(X, y, solver, l2=0.01, weights=np.full(len(y), w)) for w in (1.0, 2.0))
    assert_coefficients(twice, once.model.coef_, float(once.model.intercept_[0]), 1e-9)


@second_order
@pytest.mark.parametrize("value", [100.0, 1e20])
def test_rows_of_weight_zero_change_nothing_whatever_they_hold(value: float, solver: str) -> None:
    X, y = iris_pair()
    plain = fit(X, y, solver, l2=0.01)
    idle = fit(
        np.vstack([np.full((3, 4), value), X]),
        np.append([0, 1, 0], y),
        solver,
        l2=0.01,
        weights=np.append(np.zeros(3), np.ones(len(y))),
    )
    assert_coefficients(idle, plain.model.coef_, float(plain.model.intercept_[0]))


# data that have no optimum ------------------------------------------------------------------------


def against_rest(load: Callable[..., Any], label: int) -> Table:
    X, y = load(return_X_y=True)
    return X, (y == label).astype(np.int64)


SEPARABLE: dict[str, Callable[[], Table]] = {
    "iris setosa": lambda: against_rest(load_iris, 0),
    "wine 0": lambda: against_rest(load_wine, 0),
    "wine 1": lambda: against_rest(load_wine, 1),
    "wine 2": lambda: against_rest(load_wine, 2),
    "breast_cancer": lambda: load_breast_cancer(return_X_y=True),
    "one feature": lambda: (np.arange(6.0)[:, None], np.array([0, 0, 0, 1, 1, 1])),
}


@pytest.mark.parametrize("intercept", [True, False])
@second_order
@pytest.mark.parametrize("name", list(SEPARABLE))
def test_separable_data_are_told_to_have_no_optimum(
    name: str, solver: str, intercept: bool
) -> None:
    if (name, solver) == ("breast_cancer", "lbfgs"):
        pytest.skip("the plain method may use up its passes before it separates the last example")
    X, y = SEPARABLE[name]()
    if not intercept:
        X = np.column_stack([X, np.ones(len(X))])
    result = fit(X, y, solver, intercept=intercept, tolerance=1e-8, max_passes=500)
    assert result.status == "diverged"
    assert "perfectly separable" in result.reason
    assert "set model.penalty.l2 above 0" in result.reason
    assert result.passes < 500


@pytest.mark.parametrize("learning_rate", [1000.0, 1e6])
def test_gradient_descent_does_not_claim_an_optimum_of_separable_data(learning_rate: float) -> None:
    X, y = np.array([[-2.0], [-1.0], [1.0], [2.0]]), np.array([0, 0, 1, 1])
    assert (
        fit(
            X, y, "gradient_descent", learning_rate=learning_rate, tolerance=1e-4, max_passes=50
        ).status
        != "converged"
    )


@pytest.mark.parametrize("solver", SECOND_ORDER)
def test_rows_of_weight_zero_do_not_hide_that_the_others_are_separable(solver: str) -> None:
    X, y = (
        np.array([[1.0], [2.0], [3.0], [4.0], [5.0], [6.0], [10.0]]),
        np.array([0, 0, 0, 1, 1, 1, 0]),
    )
    result = fit(X, y, solver, weights=np.array([1.0] * 6 + [0.0]), tolerance=1e-8)
    assert result.status == "diverged"
    assert "perfectly separable" in result.reason


def touching() -> Table:
    """Separable but for two equal points with different labels."""
    return np.array([[1.0], [2.0], [3.0], [3.0], [4.0], [5.0]]), np.array([0, 0, 0, 1, 1, 1])


def one_sided_indicator() -> Table:
    """An indicator that is only ever on for one class, beside a feature that overlaps."""
    rng = np.random.default_rng(0)
    y = np.append(rng.integers(0, 2, 150), np.ones(50, dtype=np.int64))
    return np.column_stack([rng.normal(size=200), np.repeat([0.0, 1.0], [150, 50])]), y


QUASI_SEPARABLE = {"touching": touching, "one-sided indicator": one_sided_indicator}


@pytest.mark.parametrize("solver", SECOND_ORDER)
@pytest.mark.parametrize("name", list(QUASI_SEPARABLE))
def test_quasi_separable_data_end_without_a_claim_of_convergence(name: str, solver: str) -> None:
    X, y = QUASI_SEPARABLE[name]()
    result = fit(X, y, solver, tolerance=1e-8, max_passes=300)
    assert result.status != "converged"
    assert result.status != "pass_limit"
    assert "quasi-complete separation" in result.reason
    assert np.isfinite(result.model.coef_).all()


@second_order
@pytest.mark.parametrize("name", [*QUASI_SEPARABLE, *SEPARABLE])
def test_with_a_penalty_there_always_is_an_optimum(name: str, solver: str) -> None:
    X, y = {**QUASI_SEPARABLE, **SEPARABLE}[name]()
    result = fit(X, y, solver, l2=0.01, standardize=True, tolerance=1e-8)
    assert result.status == "converged", result.reason


# awkward features ---------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", ["auto", "newton", "lbfgs"])
def test_a_feature_that_stands_there_twice_shares_its_coefficient(solver: str) -> None:
    """Which share each copy has is free without a penalty; their sum and the likelihood are not."""
    X, y = iris_pair()
    plain = fit(X, y, solver)
    result = fit(np.column_stack([X, X[:, 2]]), y, solver)
    together = result.model.coef_[0, :4].copy()
    together[2] += result.model.coef_[0, 4]
    assert result.status == "converged", result.reason
    np.testing.assert_allclose(together, plain.model.coef_[0], rtol=1e-5)
    assert result.summary["loss"] == pytest.approx(plain.summary["loss"], rel=1e-10)


@second_order
def test_a_penalty_shares_equally_between_two_copies(solver: str) -> None:
    X, y = iris_pair()
    result = fit(np.column_stack([X, X[:, 2]]), y, solver, l2=0.01)
    assert result.status == "converged", result.reason
    assert result.model.coef_[0, 2] == pytest.approx(result.model.coef_[0, 4], rel=1e-6)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -1e9 / 3])
@pytest.mark.parametrize("solver", SECOND_ORDER)
def test_a_constant_feature_beside_an_intercept_keeps_a_coefficient_of_zero(
    solver: str, value: float
) -> None:
    X, y = iris_pair()
    plain = fit(X, y, solver)
    result = fit(np.column_stack([X, np.full(len(X), value)]), y, solver)
    assert_coefficients(result, np.append(plain.model.coef_, 0.0), float(plain.model.intercept_[0]))
    assert result.model.coef_[0, 4] == 0.0


@second_order
@pytest.mark.parametrize("value", [1.0, 0.1, 250.0])
def test_a_constant_feature_without_an_intercept_serves_as_one(value: float, solver: str) -> None:
    X, y = iris_pair()
    plain = fit(X, y, solver)
    result = fit(np.column_stack([X, np.full(len(X), value)]), y, solver, intercept=False)
    assert_coefficients(
        result, np.append(plain.model.coef_, plain.model.intercept_[0] / value), 0.0
    )


@second_order
@pytest.mark.parametrize("intercept", [True, False])
def test_the_units_of_the_features_do_not_matter_without_a_penalty(
    intercept: bool, solver: str
) -> None:
    X, y = iris_pair()
    units = np.array([1e-6, 1e-3, 1e3, 1e6])
    plain, scaled = (
        fit(X, y, solver, intercept=intercept),
        fit(X * units, y, solver, intercept=intercept),
    )
    assert_coefficients(plain, plain.model.coef_, float(plain.model.intercept_[0]))
    assert scaled.status == "converged", scaled.reason
    assert abs(scaled.passes - plain.passes) <= 1
    np.testing.assert_allclose(scaled.model.coef_[0] * units, plain.model.coef_[0], rtol=1e-6)


@second_order
def test_the_units_of_the_features_do_not_matter_with_a_penalty_on_standardised_coefficients(
    solver: str,
) -> None:
    X, y = table("breast_cancer")
    units = 10.0 ** np.linspace(-6, 6, X.shape[1])
    plain, scaled = (fit(data, y, solver, l2=0.01, standardize=True) for data in (X, X * units))
    assert scaled.status == "converged", scaled.reason
    np.testing.assert_allclose(scaled.model.coef_[0] * units, plain.model.coef_[0], rtol=1e-6)


@second_order
def test_a_feature_far_from_zero_is_fitted_as_if_it_were_near(solver: str) -> None:
    X, y = iris_pair()
    grid = np.round(X * 2**20) / 2**20  # so that adding 2^24 is exact
    plain, far = fit(grid, y, solver), fit(grid + 2.0**24, y, solver)
    assert far.status == "converged", far.reason
    np.testing.assert_allclose(far.model.coef_[0], plain.model.coef_[0], rtol=1e-5)


@second_order
@pytest.mark.parametrize("name", ["breast_cancer", "iris 1 against 2"])
def test_rows_sorted_by_label_give_the_same_model(name: str, solver: str) -> None:
    X, y = table(name)
    order = np.argsort(y, kind="stable")
    shuffled = np.random.default_rng(0).permutation(len(y))
    one, other = (
        fit(X[rows], y[rows], solver, l2=0.01, standardize=True) for rows in (order, shuffled)
    )
    assert_coefficients(one, other.model.coef_, float(other.model.intercept_[0]))


@pytest.mark.parametrize("labels", [["no", "yes"], [-1, 1], [False, True], [2.5, 7.5]])
def test_the_second_of_the_sorted_labels_is_the_positive_one(labels: list[Any]) -> None:
    X, y = iris_pair()
    result, plain = fit(X, np.array(labels)[y]), fit(X, y)
    assert result.model.coefficients_sha256 == plain.model.coefficients_sha256
    assert result.model.classes_.tolist() == labels
