"""l1, elastic net, penalty factors and bounds: closed forms, the conditions of an optimum, other
solvers, published fits; exact zeros; few passes."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zarr
from numpy.typing import NDArray
from scipy.optimize import minimize as scipy_minimize
from scipy.special import logsumexp
from sklearn.linear_model import ElasticNet
from sklearn.linear_model import LogisticRegression as ScikitLearn
from stores import put, write_store

import streamlr
from streamlr import train
from streamlr.config.feature_values import OF_FEATURES
from streamlr.config.sections import ModelConfig, load_config
from streamlr.data.synth import Population, SynthSpec
from streamlr.errors import ConfigError
from streamlr.kernels.families import FAMILIES
from streamlr.objective.penalty import with_features_by_number
from streamlr.pilot import size as pilot_size
from streamlr.solvers import Nonsmooth
from streamlr.solvers.quadratic import Curvature, curvature_of, minimum
from streamlr.training.train import TrainResult

Array = NDArray[np.float64]

ROWS, N = 240, 8
SOLVERS = ("auto", "proximal")
FACTORS = [0.0, 2.0, 0.5, 1.0, 1.0, 3.0, 1.0, 0.1]
CASES: dict[str, dict[str, Any]] = {
    "lasso": {"penalty": {"l1": 0.02}},
    "elastic net": {"penalty": {"l1": 0.02, "l2": 0.03}},
    "standardised": {"penalty": {"l1": 0.02, "l2": 0.01}, "standardize": True},
    "factors": {"penalty": {"l1": 0.03, "l2": 0.01, "factors": FACTORS}},
    "factors, standardised": {"penalty": {"l1": 0.03, "factors": FACTORS}, "standardize": True},
    "no intercept": {"penalty": {"l1": 0.02}, "fit_intercept": False},
    "non-negative": {"penalty": {"l2": 0.01}, "bounds": {"lower": 0}},
    "box and l1": {
        "penalty": {"l1": 0.01},
        "bounds": {"lower": -0.2, "upper": {2: 0.1, "3": 0.05}},
    },
    "away from zero": {
        "penalty": {"l1": 0.01, "l2": 0.01},
        "bounds": {"lower": {1: 0.3}, "upper": [math.inf, 1, 1, 1, -0.1, 1, 1, 1]},
    },
}


def data(family: str, rows: int = ROWS) -> tuple[Array, NDArray[Any], Array]:
    """Features of many sizes, two of them nearly the same; a target of few of them; weights."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(rows, N))
    X[:, 7] = X[:, 0] + 0.1 * X[:, 7]
    X = X * 10.0 ** rng.uniform(-0.5, 0.5, N) + rng.normal(size=N)
    V = np.where(rng.random((N, 3)) < 0.5, rng.normal(size=(N, 3)), 0.0)
    Z = (X - X.mean(axis=0)) / X.std(axis=0) @ V
    y: NDArray[Any] = {
        "linear": lambda: Z[:, 0] + rng.normal(size=rows),
        "logistic": lambda: (Z[:, 0] + rng.logistic(size=rows) > 0).astype(np.int64),
        "poisson": lambda: rng.poisson(np.exp(0.5 * Z[:, 0])).astype(np.float64),
        "softmax": lambda: np.argmax(Z + rng.gumbel(size=Z.shape), axis=1),
    }[family]()
    return X, y, rng.uniform(0.5, 2.0, rows)


def fit(
    family: str,
    model: dict[str, Any],
    solver: str = "auto",
    *,
    tolerance: float = 1e-9,
    given: Any = None,
    **sections: Any,
) -> TrainResult:
    X, y, weights = data(family) if given is None else given
    config = {
        "model": {"family": family, **model},
        "solver": {"name": solver, "tolerance": tolerance, "max_passes": 2000},
        "cluster": {"kind": "serial"},
    }
    return train(config | sections, X=X, y=y, sample_weight=weights)


# what is minimised, written down once more --------------------------------------------------------


def penalty_of(
    model: dict[str, Any], X: Array, weights: Array
) -> tuple[Array, Array, Array, Array]:
    """l2, l1, lower and upper of every feature's coefficient in the units of the data, (n,)
    each."""
    penalty, bounds = model.get("penalty", {}), model.get("bounds", {})
    mean = np.average(X, axis=0, weights=weights)
    spread = (
        np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weights))
        if model.get("standardize")
        else np.ones(X.shape[1])
    )

    def spread_out(given: Any, none: float) -> Array:
        out = np.full(X.shape[1], none)
        if isinstance(given, dict):
            for name, value in given.items():
                out[int(name)] = value
        elif given is not None:
            out[:] = given
        return out

    r, lower = spread_out(penalty.get("factors"), 1.0), spread_out(bounds.get("lower"), -np.inf)
    return (
        penalty.get("l2", 0.0) * r * spread**2,
        penalty.get("l1", 0.0) * r * spread,
        lower,
        spread_out(bounds.get("upper"), np.inf),
    )


def loss_and_error(family: str, Z: Array, y: NDArray[Any]) -> tuple[Array, Array]:
    """Loss, (m,), and dZ = A - Y, (m, c), of each row at Z, (m, c); nothing of streamlr."""
    if family == "softmax":
        Y = np.eye(Z.shape[1])[y]
        return logsumexp(Z, axis=1) - (Z * Y).sum(axis=1), np.exp(
            Z - logsumexp(Z, axis=1, keepdims=True)
        ) - Y
    z = Z[:, 0]
    if family == "linear":
        return 0.5 * (z - y) ** 2, Z - y[:, None]
    if family == "poisson":
        return np.exp(z) - y * z, np.exp(Z) - y[:, None]
    return np.logaddexp(0, z) - y * z, 1 / (1 + np.exp(-Z)) - y[:, None]


def shortest_subgradient(w: Array, slope: Array, l1: Array, lower: Array, upper: Array) -> Array:
    """Entry by entry, from the cases of the text-book; (c, n) each."""
    out = np.zeros_like(w)
    for at in np.ndindex(*w.shape):
        j = at[1]
        up, down = (
            slope[at] + (l1[j] if w[at] >= 0 else -l1[j]),
            slope[at] + (l1[j] if w[at] > 0 else -l1[j]),
        )
        if up < 0 and w[at] < upper[j]:
            out[at] = up
        elif down > 0 and w[at] > lower[j]:
            out[at] = down
    return out


def largest_violation(
    family: str, model: dict[str, Any], result: TrainResult, given: Any = None
) -> float:
    """Largest entry of the shortest subgradient in standardised units at a fit, its sums over the
    rows by fsum."""
    X, y, weights = data(family) if given is None else given
    w, b, total = result.model.coef_, result.model.intercept_, math.fsum(weights)
    _, dZ = loss_and_error(family, X @ w.T + b, y)
    g0 = np.array([math.fsum(weights * error) / total for error in dZ.T])
    g = np.array(
        [
            [math.fsum(weights * X[:, j] * error) / total for j in range(X.shape[1])]
            for error in dZ.T
        ]
    )
    l2, l1, lower, upper = penalty_of(model, X, weights)
    mean = np.array([math.fsum(weights * X[:, j]) / total for j in range(X.shape[1])])
    spread = np.sqrt(
        [math.fsum(weights * (X[:, j] - mean[j]) ** 2) / total for j in range(X.shape[1])]
    )
    assert ((w >= lower) & (w <= upper)).all()
    intercept = model.get("fit_intercept", True)
    slope = g + l2 * w - np.outer(g0, mean) * intercept
    scaled = shortest_subgradient(w, slope, l1, lower, upper) / spread
    unit = (
        np.sqrt(np.average((y - np.average(y, weights=weights)) ** 2, weights=weights))
        if family == "linear"
        else 1.0
    )
    return float(max(np.abs(scaled).max(), np.abs(g0).max() * intercept) / unit)


def fista(
    family: str, model: dict[str, Any], given: Any, passes: int = 40_000
) -> tuple[Array, Array]:
    """Coefficients, (n, c), and intercepts, (c,), by accelerated proximal gradients with restarts,
    nothing in common with what is tested."""
    X, y, weights = given
    mean, omega, c = X.mean(axis=0), weights / weights.sum(), 3 if family == "softmax" else 1
    l2, l1, lower, upper = penalty_of(model, X, weights)
    scale = X.std(axis=0)
    S = np.column_stack([(X - mean) / scale, np.ones(len(X))])
    size = 1.0 / (
        np.linalg.eigvalsh((S.T * omega) @ S)[-1]
        * (0.5 if family == "softmax" else 0.25 if family == "logistic" else 1.0)
        + (l2 / scale**2).max()
    )
    t, l2, lower, upper = (
        np.append(values, none)[:, None]
        for values, none in (
            (size * l1 / scale, 0.0),
            (l2 / scale**2, 0.0),
            (lower * scale, -np.inf),
            (upper * scale, np.inf),
        )
    )
    v = u = np.clip(np.zeros((N + 1, c)), lower, upper)
    momentum = 1.0
    for _ in range(passes):
        z = u - size * (S.T @ (omega[:, None] * loss_and_error(family, S @ u, y)[1]) + l2 * u)
        following = np.clip(np.sign(z) * np.maximum(np.abs(z) - t, 0), lower, upper)
        if ((u - following) * (following - v)).sum() > 0:  # O'Donoghue and Candès, 2015
            u, momentum = v, 1.0
            continue
        before, momentum = momentum, (1 + math.sqrt(1 + 4 * momentum**2)) / 2
        u = following + (before - 1) / momentum * (following - v)
        if np.array_equal(following, v):
            break
        v = following
    W = v[:N] / scale[:, None]
    return W, v[N] - mean @ W


# closed forms -------------------------------------------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("l2", [0.0, 0.5])
@pytest.mark.parametrize("bounds", [{}, {"lower": 0}, {"lower": -0.3, "upper": 0.2}])
def test_of_an_orthonormal_design_least_squares_are_shrunk_entry_by_entry(
    solver: str, l2: float, bounds: dict[str, float]
) -> None:
    rng = np.random.default_rng(0)
    X = np.linalg.qr(rng.normal(size=(64, 6)))[0] * 8.0
    y = X @ np.array([1.0, -0.5, 0.2, 0.05, -0.05, 0.0]) + 0.1 * rng.normal(size=64)
    r = np.array([1.0, 1.0, 2.0, 1.0, 0.0, 0.5])
    plain = X.T @ y / 64
    expected = np.clip(
        np.sign(plain) * np.maximum(np.abs(plain) - 0.1 * r, 0) / (1 + l2 * r),
        bounds.get("lower", -np.inf),
        bounds.get("upper", np.inf),
    )
    model = {
        "fit_intercept": False,
        "penalty": {"l1": 0.1, "l2": l2, "factors": r.tolist()},
        "bounds": bounds,
    }
    found = fit("linear", model, solver, tolerance=1e-12, given=(X, y, None)).model.coef_[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-11)
    np.testing.assert_array_equal(found == 0, expected == 0)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("l1", [0.0, 0.01, 0.05, 0.09, 0.2])
def test_a_two_by_two_table_under_l1_is_closed(solver: str, l1: float) -> None:
    """Of the groups a and b with means p: l1 moves the means towards each other by l1 m / m_a and
    l1 m / m_b, until they meet."""
    x, y = (
        np.repeat([0.0, 1.0], [73, 27]),
        np.concatenate([np.repeat([1, 0], [22, 51]), np.repeat([1, 0], [21, 6])]),
    )
    low, high = 22 / 73 + l1 * 100 / 73, 21 / 27 - l1 * 100 / 27
    slope = max(0.0, math.log(high / (1 - high)) - math.log(low / (1 - low)))
    intercept = math.log(low / (1 - low)) if slope else math.log(43 / 57)
    result = fit(
        "logistic", {"penalty": {"l1": l1}}, solver, tolerance=1e-12, given=(x[:, None], y, None)
    )
    assert result.model.coef_[0, 0] == pytest.approx(slope, abs=1e-10)
    assert (result.model.coef_[0, 0] == 0) == (slope == 0)
    assert result.model.intercept_[0] == pytest.approx(intercept, abs=1e-10)


@pytest.mark.parametrize("family", FAMILIES)
def test_from_the_largest_slope_at_zero_on_all_coefficients_are_zero_and_the_first_pass_is_enough(
    family: str,
) -> None:
    X, y, weights = data(family)
    Y = np.eye(3)[y] if family == "softmax" else y[:, None]
    omega = weights / weights.sum()
    largest = float(np.abs(X.T @ (omega[:, None] * (Y - omega @ Y))).max())
    none = fit(family, {"penalty": {"l1": largest * (1 + 1e-9)}})
    assert (none.passes, none.summary["nonzero"]) == (1, 0)
    assert not none.model.coef_.any()
    one = fit(family, {"penalty": {"l1": largest * 0.999}})
    assert (
        one.summary["nonzero"]
        == np.count_nonzero(one.model.coef_)
        == (2 if family == "softmax" else 1)
        or family == "softmax"
    )
    assert one.summary["nonzero"] >= 1


# published ----------------------------------------------------------------------------------------

# Of the package lars for R (lars(X, y, type="lasso", intercept=FALSE, normalize=FALSE)): five
# examples, and its path at four of the knots
LARS_X = np.array(
    [
        [0.47299829, 0, 0, 0, 0],
        [0.08239882, 0.85784863, 0, 0, 0],
        [0.30114139, -0.07501577, 0.80895216, 0, 0],
        [-0.01460346, -0.1015233, 0.0407278, 0.80338378, 0],
        [-0.69363927, 0.06754067, 0.18064514, -0.0803561, 0.40427291],
    ]
).T
LARS_Y = np.array([-6.45006793, -3.51251449, -8.52445396, 6.12277822, -19.42109366])
LARS = np.array(
    [
        [0, 0, -3.577397088285891, 0, 0],
        [0, 0, -4.702795355871871, 0, -1.218422599914637],
        [0, 0, -7.016748621359461, 2.231558436628169, -3.457726183014808],
        [0, -0.476624256777266, -7.614898471899412, 2.723267514525966, -4.021304522060710],
    ]
)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("knot", range(len(LARS)))
def test_the_lasso_path_that_lars_published(knot: int, solver: str) -> None:
    slopes = (
        LARS_X.T @ (LARS_Y - LARS_X @ LARS[knot]) / 5
    )  # at a knot those that are on the way in are as large as those that are in
    found = fit(
        "linear",
        {"fit_intercept": False, "penalty": {"l1": float(np.abs(slopes).max())}},
        solver,
        tolerance=1e-12,
        given=(LARS_X, LARS_Y, None),
    )
    np.testing.assert_allclose(found.model.coef_[0], LARS[knot], rtol=0, atol=1e-9)


# the conditions of an optimum, and other solvers --------------------------------------------------


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_fit_meets_the_conditions_of_an_optimum(family: str, case: str, solver: str) -> None:
    result = fit(family, CASES[case], solver)
    assert result.status == "converged", result.reason
    unscaled = case == "no intercept"  # whose features are taken as they are, by their size about 0
    assert largest_violation(family, CASES[case], result) <= 1e-9 * (10 if unscaled else 1) + 1e-13
    X, y, weights = data(family)
    l2, l1, _, _ = penalty_of(CASES[case], X, weights)
    w = result.model.coef_
    loss = np.average(
        loss_and_error(family, X @ w.T + result.model.intercept_, y)[0], weights=weights
    )
    assert result.summary["objective"] == pytest.approx(
        loss + 0.5 * float((l2 * w**2).sum()) + float((l1 * np.abs(w)).sum()), rel=1e-12
    )


@pytest.mark.parametrize("case", ["lasso", "factors, standardised", "box and l1"])
@pytest.mark.parametrize("family", ["linear", "logistic", "softmax"])
def test_accelerated_proximal_gradients_come_to_the_same_coefficients_and_zeros(
    family: str, case: str
) -> None:
    given = data(family)
    W, b = fista(family, CASES[case], given)
    for solver in SOLVERS:
        result = fit(family, CASES[case], solver, tolerance=1e-11)
        # both gradients are below 1e-11, and the least curvature of these data is above 1e-3
        np.testing.assert_allclose(result.model.coef_.T, W, rtol=0, atol=1e-7)
        common = (
            (result.model.intercept_ - b).mean() if family == "softmax" else 0.0
        )  # a shift of all classes' intercepts changes nothing
        np.testing.assert_allclose(result.model.intercept_, b + common, rtol=0, atol=1e-7)
        np.testing.assert_array_equal(result.model.coef_.T == 0, W == 0)


@pytest.mark.parametrize("share", [0.1, 0.5, 1.0])
def test_the_elastic_net_of_scikit_learn(share: float) -> None:
    X, y, weights = data("linear")
    other = ElasticNet(alpha=0.1, l1_ratio=share, tol=1e-14, max_iter=100_000).fit(
        X, y, sample_weight=weights
    )
    found = fit(
        "linear", {"penalty": {"l1": 0.1 * share, "l2": 0.1 * (1 - share)}}, tolerance=1e-12
    ).model
    np.testing.assert_allclose(found.coef_[0], other.coef_, rtol=0, atol=1e-8)
    np.testing.assert_array_equal(found.coef_[0] == 0, other.coef_ == 0)


@pytest.mark.parametrize("family", ["logistic", "poisson"])
@pytest.mark.parametrize("bounds", [{"lower": 0}, {"upper": 0}, {"lower": -0.1, "upper": 0.25}])
def test_the_bounded_solver_of_scipy(family: str, bounds: dict[str, float]) -> None:
    X, y, weights = data(family)
    design, omega = np.column_stack([X, np.ones(ROWS)]), weights / weights.sum()

    def value(v: Array) -> tuple[float, Array]:
        loss, dZ = loss_and_error(family, design @ v[:, None], y)
        return float(omega @ loss), design.T @ (omega * dZ[:, 0])

    box = [(bounds.get("lower"), bounds.get("upper"))] * N + [(None, None)]
    other = scipy_minimize(
        value,
        np.zeros(N + 1),
        jac=True,
        method="L-BFGS-B",
        bounds=box,
        options={"ftol": 1e-16, "gtol": 1e-11, "maxiter": 10_000},
    )
    found = fit(family, {"bounds": bounds}, tolerance=1e-11).model.coef_[0]
    np.testing.assert_allclose(
        found, other.x[:N], rtol=0, atol=1e-5
    )  # it stops where the value no longer changes
    at_bound = np.isin(found, [value for value in bounds.values()])
    assert at_bound.any()
    np.testing.assert_array_equal(
        at_bound, np.isin(other.x[:N], [value for value in bounds.values()])
    )


def test_without_l1_and_bounds_the_proximal_solver_comes_to_the_optimum_of_the_others() -> None:
    for family in FAMILIES:
        model = {"penalty": {"l2": 0.01, "factors": FACTORS}, "standardize": True}
        found, other = (
            fit(family, model, "proximal", tolerance=1e-10),
            fit(family, model, "newton", tolerance=1e-10),
        )
        Z, expected = (data(family)[0] @ result.model.coef_.T for result in (found, other))
        np.testing.assert_allclose(Z, expected, rtol=0, atol=1e-6)
        assert largest_violation(family, model, other) < 1e-10 + 1e-13


# factors and bounds by name, and what they mean ---------------------------------------------------


def test_a_factor_is_the_strength_times_it_and_is_not_rescaled() -> None:
    doubled = fit("logistic", {"penalty": {"l1": 0.01, "l2": 0.02, "factors": [2.0] * N}})
    assert (
        doubled.model.coefficients_sha256
        == fit("logistic", {"penalty": {"l1": 0.02, "l2": 0.04}}).model.coefficients_sha256
    )


def test_a_penalty_on_standardised_features_does_not_depend_on_their_units() -> None:
    X, y, weights = data("logistic")
    units = 10.0 ** np.arange(-4.0, 4.0)
    model = {"penalty": {"l1": 0.02, "l2": 0.01}, "standardize": True}
    plain, other = fit("logistic", model), fit("logistic", model, given=(X * units, y, weights))
    np.testing.assert_allclose(other.model.coef_ * units, plain.model.coef_, rtol=0, atol=1e-8)
    np.testing.assert_array_equal(other.model.coef_ == 0, plain.model.coef_ == 0)


def test_features_are_named_by_name_or_number(tmp_path: Path) -> None:
    names = ("age", "bmi", "3", *"defgh")
    model = {
        "penalty": {"l1": 0.01, "factors": {"bmi": 0, "3": 2, 7: 5}},
        "bounds": {"lower": {"age": 0.5, "4": -1}, "upper": 3},
    }
    named = with_features_by_number(load_config({"model": model}).model, N, names)
    assert named.penalty.factors == [1, 0, 2, 1, 1, 1, 1, 5]
    assert named.bounds.lower == [
        0.5,
        -math.inf,
        -math.inf,
        -math.inf,
        -1,
        -math.inf,
        -math.inf,
        -math.inf,
    ]
    assert named.bounds.upper == [3.0] * N
    X, y, weights = data("logistic")
    store = write_store(tmp_path / "s", X, y, (50, N), weights=weights)
    put(zarr.open_group(store.store), "feature_names", list(names))
    by_name = train(
        {
            "data": {"store": store.store, "weights": "weights"},
            "model": model,
            "run": {"directory": str(tmp_path / "run")},
        }
    )
    by_number = {
        "penalty": {"l1": 0.01, "factors": named.penalty.factors},
        "bounds": {"lower": named.bounds.lower, "upper": named.bounds.upper},
    }
    assert by_name.model.feature_names == names
    assert (
        by_name.model.coefficients_sha256
        == fit("logistic", by_number, tolerance=1e-8).model.coefficients_sha256
    )
    again = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
    assert again["model"]["penalty"]["factors"] == {"bmi": 0, "3": 2, 7: 5}


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"penalty": {"factors": [1, 2]}},
            r"model\.penalty\.factors: a list of 2 numbers, and the data have 8 features; give "
            r"one for each, or a mapping",
        ),
        (
            {"penalty": {"factors": {"aeg": 1}}},
            r"model\.penalty\.factors: there is no feature 'aeg'; the nearest name is 'age'",
        ),
        (
            {"bounds": {"lower": {8: 1}}},
            r"model\.bounds\.lower: there is no feature 8; the data have 8, from 0 to 7",
        ),
        ({"bounds": {"lower": {-1: 1}}}, r"model\.bounds\.lower: there is no feature -1"),
        (
            {"bounds": {"lower": {"bmi": 1.0}, "upper": 0.5}},
            r"model\.bounds: lower is 1 and upper 0\.5 for feature 'bmi' \(1 in all\); lower must "
            r"not be above",
        ),
    ],
)
def test_features_and_bounds_that_the_data_contradict_are_refused(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        with_features_by_number(load_config({"model": given}).model, N, ("age", "bmi", *"cdefgh"))


def test_a_name_is_refused_where_features_have_none() -> None:
    with pytest.raises(
        ConfigError,
        match=r"there is no feature 'age'; the features of these data have no names, give their "
        r"numbers",
    ):
        fit("logistic", {"penalty": {"l1": 0.1, "factors": {"age": 0}}})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"model": {"penalty": {"factors": 2}}},
            r"model\.penalty\.factors: 2 is one number; give a list or a mapping",
        ),
        (
            {"model": {"penalty": {"factors": [1, -1]}}},
            r"model\.penalty\.factors\[1\]: -1 is out of range; it must be 0 or above",
        ),
        (
            {"model": {"penalty": {"factors": {"a": "x"}}}},
            r"model\.penalty\.factors\.a: expected a number, got 'x'",
        ),
        (
            {"model": {"penalty": {"factors": {1.5: 1}}}},
            r"model\.penalty\.factors: 1\.5 is neither the name of a feature nor its number",
        ),
        (
            {"model": {"penalty": {"factors": [math.nan]}}},
            r"model\.penalty\.factors\[0\]: nan is out of range",
        ),
        (
            {"model": {"bounds": {"lower": "low"}}},
            r"model\.bounds\.lower: expected a number for all features, a list .*, got 'low'",
        ),
        (
            {"model": {"bounds": {"lower": True}}},
            r"model\.bounds\.lower: expected a number for all features",
        ),
        ({"model": {"bounds": {"lower": math.inf}}}, r"model\.bounds\.lower: inf is out of range"),
        (
            {"model": {"bounds": {"upper": [-math.inf]}}},
            r"model\.bounds\.upper\[0\]: -inf is out of range",
        ),
        (
            {"model": {"bounds": {"lower": 1, "upper": 0}}},
            r"model\.bounds: lower is 1 and upper 0; lower must not be above upper",
        ),
        (
            {"model": {"bounds": {"lowr": 1}}},
            r"unknown key 'model\.bounds\.lowr'; did you mean 'model\.bounds\.lower'",
        ),
    ],
)
def test_what_no_data_could_mean_is_refused_before_they_are_read(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(given)


@pytest.mark.parametrize("solver", ["gradient_descent", "lbfgs", "newton"])
@pytest.mark.parametrize(
    ("model", "key"),
    [
        ({"penalty": {"l1": 0.1}}, r"model\.penalty\.l1 is 0\.1"),
        ({"bounds": {"lower": 0}}, r"model\.bounds is given"),
    ],
)
def test_solvers_of_smooth_functions_refuse_l1_and_bounds(
    solver: str, model: dict[str, Any], key: str
) -> None:
    with pytest.raises(
        ConfigError,
        match=rf"solver\.name: {solver} minimises what is smooth, and {key}; set solver\.name: "
        rf"auto \(or proximal\)",
    ):
        load_config({"model": model, "solver": {"name": solver}})


def test_arrays_and_nothings_are_taken_for_numbers_of_features() -> None:
    model = load_config(
        {
            "model": {
                "penalty": {"factors": np.ones(3)},
                "bounds": {"lower": [None, 1, "1e-3"], "upper": {"a": None}},
            }
        }
    ).model
    assert model.penalty.factors == [1.0, 1.0, 1.0]
    assert model.bounds.lower == [-math.inf, 1.0, 1e-3]
    assert model.bounds.upper == {"a": math.inf}
    assert set(OF_FEATURES) == {"model.penalty.factors", "model.bounds.lower", "model.bounds.upper"}


# optima that are not there ------------------------------------------------------------------------


def separable() -> tuple[Array, NDArray[np.int64], Array]:
    X, y, weights = data("logistic")
    X[:, 2] = np.where(y == 1, 1.0, -1.0) * (1 + X[:, 2] ** 2)
    return X, y, weights


@pytest.mark.parametrize(
    ("model", "status"),
    [
        ({"penalty": {"l1": 1e-3}}, "converged"),
        ({"penalty": {"l1": 1e-3, "factors": {2: 0}}}, "diverged"),
        ({"penalty": {"l2": 1e-3, "factors": {2: 0}}}, "diverged"),
        ({"bounds": {"lower": {2: 0}}, "penalty": {"l2": 1e-3, "factors": {2: 0}}}, "diverged"),
        ({"bounds": {"upper": {2: 0.5}}, "penalty": {"l2": 1e-3, "factors": {2: 0}}}, "converged"),
        ({"bounds": {"lower": -0.2, "upper": 0.2}}, "converged"),
    ],
)
def test_what_nothing_holds_has_no_optimum_where_it_separates(
    model: dict[str, Any], status: str
) -> None:
    result = fit("logistic", model, given=separable(), tolerance=1e-8)
    assert result.status == status, result.reason
    if status == "converged":
        assert largest_violation("logistic", model, result, separable()) <= 1e-8 + 1e-13


# the same bits, and few passes --------------------------------------------------------------------


@pytest.mark.parametrize("case", ["elastic net", "away from zero"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_engines_and_a_resumed_run_come_to_the_same_bits(
    solver: str, case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamlr.data.partition._SMALLEST_BLOCK_BYTES", 0)
    monkeypatch.setattr(pilot_size, "_LEAST_BYTES", 100 * N * 8)
    monkeypatch.setattr(pilot_size, "_WANTED_ROWS_PER_PARAMETER", 1)
    X, y, weights = data("logistic")
    store = write_store(tmp_path / "s", X, y, (20, N), weights=weights)

    def run(kind: str, directory: str, passes: int, resume: bool = False) -> TrainResult:
        return train(
            {
                "data": {"store": store.store, "weights": "weights"},
                "model": CASES[case],
                "cluster": {"kind": kind, "workers": 2},
                "solver": {"name": solver, "max_passes": passes},
                "run": {"directory": str(tmp_path / directory)},
            },
            resume=resume,
        )

    whole = run("serial", "whole", 200)
    assert whole.status == "converged"
    assert whole.passes > 3
    assert (
        run("threads", "threads", 200).model.coefficients_sha256 == whole.model.coefficients_sha256
    )
    for stop in range(1, whole.passes, max(1, whole.passes // 4)):
        run("threads", f"cut {stop}", stop)
        resumed = run("serial", f"cut {stop}", 200, resume=True)
        assert resumed.model.coefficients_sha256 == whole.model.coefficients_sha256
        assert [line["gradient_max"] for line in resumed.history] == [
            line["gradient_max"] for line in whole.history
        ]


@pytest.mark.parametrize("sample_bytes", [64 * 2**20, 200_000 * 120 // 16])
def test_l1_needs_as_few_passes_as_l2_also_where_the_sample_is_a_small_part(
    sample_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pilot_size, "_LEAST_BYTES", sample_bytes)
    monkeypatch.setattr(pilot_size, "_WANTED_ROWS_PER_PARAMETER", 1)
    X, y = Population(SynthSpec(rows=200_000, features=30)).rows(0, 200_000)

    def passes(**penalty: float) -> int:
        result = train(
            {
                "model": {"penalty": penalty, "standardize": True},
                "cluster": {"kind": "threads", "workers": 2},
            },
            X=X,
            y=y,
        )
        assert result.status == "converged", result.reason
        assert result.summary["gradient_max"] <= 1e-8
        return result.passes

    plain = passes(l2=1e-3)
    for l1 in (1e-4, 1e-2):
        assert passes(l1=l1) <= min(8, plain + 1)
    assert passes(l1=1e-3, l2=1e-2) <= min(8, plain + 1)


@pytest.mark.parametrize("share", [1.0, 1 / 16])
def test_nearly_collinear_features_cost_no_more_passes(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = Population(SynthSpec(rows=30_000, features=20)).rows(0, 30_000)
    X = np.column_stack([X, X[:, 0] + 1e-4 * X[:, 1], X[:, 2]]).astype(np.float64)
    monkeypatch.setattr(pilot_size, "_LEAST_BYTES", int(share * X.nbytes) + 1)
    monkeypatch.setattr(pilot_size, "_WANTED_ROWS_PER_PARAMETER", 1)
    config = {
        "model": {"penalty": {"l1": 1e-4}, "standardize": True},
        "cluster": {"kind": "serial"},
        "solver": {"max_passes": 200},
    }
    auto, plain = (
        train(config, X=X, y=y, overrides=[f"solver.name={solver}"]) for solver in SOLVERS
    )
    assert auto.status == plain.status == "converged"
    assert auto.passes <= plain.passes + 1
    assert auto.summary["objective"] <= plain.summary["objective"] * (1 + 1e-12)


# the model of the objective, which is minimised between two passes --------------------------------


def any_model(d: int, seed: int, pairs: int = 3) -> tuple[Array, Array, Curvature, Array]:
    """Gradient, point, B, and B written out by the formula of BFGS."""
    rng = np.random.default_rng(seed)
    factor, other = rng.normal(size=(2, d, d))
    H, A = factor @ factor.T + 0.1 * np.eye(d), other @ other.T + np.eye(d)
    S = rng.normal(size=(pairs, d))
    added = rng.uniform(0, 1, d)
    dense = H + np.diag(added)
    for s, y in zip(S, S @ A, strict=True):
        dense = dense - np.outer(dense @ s, dense @ s) / (s @ dense @ s) + np.outer(y, y) / (s @ y)
    return rng.normal(size=d), rng.normal(size=d), curvature_of(H, added, S, S @ A), dense


@pytest.mark.parametrize("seed", range(4))
def test_the_corrected_curvature_is_that_of_bfgs(seed: int) -> None:
    gradient, p, B, dense = any_model(7, seed)
    at = np.array([1, 2, 5])
    np.testing.assert_allclose(B.product(p), dense @ p, rtol=1e-9)
    np.testing.assert_allclose(B.diagonal, np.diag(dense), rtol=1e-9)
    np.testing.assert_allclose(B.part(at), dense[np.ix_(at, at)], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(
        B.solve(at, gradient[at]), np.linalg.solve(dense[np.ix_(at, at)], gradient[at]), rtol=1e-7
    )


@pytest.mark.parametrize("seed", range(4))
def test_a_diagonal_is_scaled_by_the_last_pair_and_solved_by_woodbury(seed: int) -> None:
    rng = np.random.default_rng(seed)
    D, S, A = rng.uniform(0.5, 2, 7), rng.normal(size=(2, 7)), np.diag(rng.uniform(1, 3, 7))
    Y = S @ A
    dense = np.diag(D) * float((Y[-1] @ (Y[-1] / D)) / (S[-1] @ Y[-1]))
    for s, y in zip(S, Y, strict=True):
        dense = dense - np.outer(dense @ s, dense @ s) / (s @ dense @ s) + np.outer(y, y) / (s @ y)
    B, at, p = curvature_of(D, np.zeros(7), S, Y), np.array([0, 3, 4, 6]), rng.normal(size=7)
    np.testing.assert_allclose(B.product(p), dense @ p, rtol=1e-9)
    np.testing.assert_allclose(
        B.solve(at, p[at]), np.linalg.solve(dense[np.ix_(at, at)], p[at]), rtol=1e-8
    )


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_the_minimum_of_the_model_meets_the_conditions_of_an_optimum(
    seed: int, whole: bool
) -> None:
    rng = np.random.default_rng(seed)
    gradient, point, B, dense = any_model(12, seed)
    if not whole:
        moves = rng.normal(size=(2, 12))
        B = curvature_of(np.diag(dense).copy(), np.zeros(12), moves, moves * rng.uniform(1, 3, 12))
    lower, upper = (
        np.where(rng.random(12) < 0.3, 0.0, -np.inf),
        np.where(rng.random(12) < 0.3, 0.5, np.inf),
    )
    nonsmooth = Nonsmooth(np.where(rng.random(12) < 0.8, rng.uniform(0, 2, 12), 0.0), lower, upper)
    point = nonsmooth.clip(np.where(rng.random(12) < 0.5, point, 0.0))
    for array in (gradient, point, B.hessian, nonsmooth.thresholds):
        array.setflags(write=False)
    x = minimum(gradient, point, B, nonsmooth)
    left = shortest_subgradient(
        x[None, :], (gradient + B.product(x - point))[None, :], nonsmooth.thresholds, lower, upper
    )
    start = shortest_subgradient(
        point[None, :], gradient[None, :], nonsmooth.thresholds, lower, upper
    )
    assert (
        np.abs(left / np.sqrt(B.diagonal)).max()
        <= 1e-4 * np.abs(start / np.sqrt(B.diagonal)).max() + 1e-13
    )
    assert ((x >= lower) & (x <= upper)).all()


def test_the_shortest_subgradient_is_that_of_the_text_book() -> None:
    rng = np.random.default_rng(0)
    v, slope, t = (
        rng.choice([-1.0, 0.0, 1.0], 500),
        rng.choice([-2.0, -1.0, -0.5, 0.0, 0.5, 1.0, 2.0], 500),
        rng.choice([0.0, 1.0], 500),
    )
    lower, upper = rng.choice([-np.inf, -1.0], 500), rng.choice([np.inf, 1.0], 500)
    found = Nonsmooth(t, lower, upper).subgradient(v, slope)
    np.testing.assert_array_equal(
        found, shortest_subgradient(v[None, :], slope[None, :], t, lower, upper)[0]
    )


def test_a_hessian_may_be_shared_by_problems_that_differ_in_their_penalty() -> None:
    """The penalty's curvature is added on the way, not to the matrix."""
    H = np.eye(3)
    H.setflags(write=False)
    B = curvature_of(H, np.array([1.0, 2.0, 3.0]), np.empty((0, 3)), np.empty((0, 3)))
    assert B.hessian is H
    np.testing.assert_array_equal(B.product(np.ones(3)), [2.0, 3.0, 4.0])


# the estimator ------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:'penalty' was deprecated:FutureWarning")
@pytest.mark.parametrize(
    "parameters",
    [
        {"penalty": "l1", "C": 0.1},
        {"penalty": "elasticnet", "l1_ratio": 0.4, "C": 0.2},
        {"l1_ratio": 0.7, "C": 0.05},
    ],
)
@pytest.mark.parametrize("family", ["logistic", "softmax"])
def test_the_estimator_means_what_scikit_learn_means(
    family: str, parameters: dict[str, Any]
) -> None:
    X, y, weights = data(family)
    share = 1.0 if parameters.get("penalty") == "l1" else parameters["l1_ratio"]
    X = (X - X.mean(axis=0)) / X.std(axis=0)  # the other needs features of one size
    found = streamlr.LogisticRegression(**parameters).fit(X, y, sample_weight=weights)
    total = parameters["C"] * weights.sum()
    model = {"penalty": {"l1": share / total, "l2": (1 - share) / total}}
    exact = fit(family, model, tolerance=1e-8, given=(X, y, weights))
    np.testing.assert_allclose(found.coef_, exact.model.coef_, rtol=0, atol=1e-10)
    other = ScikitLearn(
        solver="saga",
        penalty="elasticnet",
        l1_ratio=share,
        C=parameters["C"],
        tol=1e-9,
        max_iter=20_000,
    ).fit(X, y, sample_weight=weights)
    np.testing.assert_allclose(found.coef_, other.coef_, rtol=0, atol=1e-4)


def test_defaults_change_no_model() -> None:
    assert with_features_by_number(ModelConfig(), 3, None) == ModelConfig()
    assert replace(ModelConfig()).bounds.given is False
