"""Targets that are numbers, offsets and exposures, and weights of classes: whole solves against
closed forms and scikit-learn."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from sklearn.datasets import load_iris
from sklearn.linear_model import LogisticRegression, PoissonRegressor

from streamlr import train
from streamlr.errors import ConfigError, LabelError, NonFiniteError
from streamlr.events import ScanStarted
from streamlr.model import load_model
from streamlr.scoring.scoring import predict
from streamlr.training.train import TrainResult
from tests.stores import put, write_store

Array = NDArray[np.float64]
rows, n = 600, 4
second_order = pytest.mark.parametrize("solver", ["auto", "newton", "lbfgs"])


def draw(seed: int = 0) -> tuple[Array, Array, Array]:
    """Features, the mean of counts, and weights."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, n)) * [1.0, 0.1, 5.0, 1.0] + [0.0, 1.0, -3.0, 0.5]
    return X, np.exp(X @ [0.3, -1.0, 0.05, 0.0] + 0.4), rng.uniform(0.2, 2, rows)


def counts(seed: int = 0, scale: Array | float = 1.0) -> tuple[Array, NDArray[np.int64], Array]:
    X, mean, omega = draw(seed)
    return X, np.random.default_rng(seed + 1).poisson(mean * scale), omega


def config(family: str, solver: str = "auto", l2: float = 0.0, **model: Any) -> dict[str, Any]:
    return {
        "model": {"family": family, "penalty": {"l2": l2}, **model},
        "solver": {"name": solver, "tolerance": 1e-10},
        "cluster": {"kind": "serial"},
    }


def assert_optimum(result: TrainResult, W: Array, b: Any, atol: float = 1e-8) -> None:
    assert result.status == "converged", result.reason
    np.testing.assert_allclose(result.model.coef_.ravel(), np.ravel(W), rtol=0, atol=atol)
    np.testing.assert_allclose(result.model.intercept_, np.ravel(b), rtol=0, atol=atol)


@second_order
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("l2", [0.0, 0.7])
def test_least_squares_have_their_closed_form(l2: float, intercept: bool, solver: str) -> None:
    X, mean, omega = draw()
    y = mean + np.random.default_rng(2).normal(size=rows)
    result = train(
        config("linear", solver, l2, fit_intercept=intercept), X=X, y=y, sample_weight=omega
    )
    whole = np.column_stack([X, np.ones(rows)]) if intercept else X
    penalty = np.diag(np.append(np.full(n, l2), [0.0] * intercept)) * omega.sum()
    expected = np.linalg.solve((whole.T * omega) @ whole + penalty, (whole.T * omega) @ y)
    assert_optimum(result, expected[:n], expected[n] if intercept else 0.0)
    residual = y - whole @ expected
    assert result.summary["loss"] == pytest.approx(
        float(omega @ residual**2 / omega.sum() / 2), rel=1e-12
    )


@pytest.mark.parametrize("unit", [1e-12, 1e12])
@second_order
def test_the_unit_of_the_target_changes_nothing_but_the_unit_of_the_coefficients(
    unit: float, solver: str
) -> None:
    X, mean, _ = draw()
    plain, scaled = (train(config("linear", solver), X=X, y=mean * u) for u in (1.0, unit))
    assert scaled.status == "converged", scaled.reason
    np.testing.assert_allclose(scaled.model.coef_ / unit, plain.model.coef_, rtol=0, atol=1e-8)


@second_order
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_counts_have_the_optimum_of_scikit_learn(alpha: float, weighted: bool, solver: str) -> None:
    """Its objective is half the mean deviance, which differs from the loss by what does not depend
    on the parameters."""
    X, y, omega = counts()
    weights = omega if weighted else None
    oracle = PoissonRegressor(alpha=alpha, solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(
        X, y, weights
    )
    assert_optimum(
        train(config("poisson", solver, alpha), X=X, y=y, sample_weight=weights),
        oracle.coef_,
        oracle.intercept_,
        1e-7,
    )


def newton(X: Array, y: NDArray[Any], offset: Array, family: str) -> Array:
    """Textbook iterations to the last digit, without a penalty."""
    whole, beta = np.column_stack([X, np.ones(len(X))]), np.zeros(X.shape[1] + 1)
    beta[-1] = np.log(y.mean()) - np.log(np.mean(np.exp(offset))) if family == "poisson" else 0.0
    for _ in range(50):
        z = whole @ beta + offset
        a = np.exp(z) if family == "poisson" else 1 / (1 + np.exp(-z))
        d = a if family == "poisson" else a * (1 - a)
        beta -= np.linalg.solve((whole.T * d) @ whole, whole.T @ (a - y))
    return beta


@second_order
@pytest.mark.parametrize("family", ["poisson", "logistic", "linear"])
def test_an_offset_is_added_to_z(family: str, solver: str) -> None:
    offset = np.random.default_rng(5).normal(size=rows) * 2 - 3
    X, y, _ = counts(scale=np.exp(offset))
    y = (y > 0).astype(int) if family == "logistic" else y
    result = train(config(family, solver), X=X, y=y, offset=offset)
    expected = (
        np.linalg.lstsq(np.column_stack([X, np.ones(rows)]), y - offset, rcond=None)[0]
        if family == "linear"
        else newton(X, y, offset, family)
    )
    assert_optimum(result, expected[:n], expected[n], 1e-7)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_offsets_and_exposures_of_a_store_are_read_beside_the_weights(
    kind: str, tmp_path: Path
) -> None:
    exposure = np.random.default_rng(5).uniform(0.1, 9, rows)
    X, y, omega = counts(scale=exposure)
    write_store(tmp_path / "s", X, y, (100, n), weights=omega)
    group = zarr.open_group(str(tmp_path / "s"), mode="r+")
    put(group, "years", exposure, (70,))
    put(group, "log_years", np.log(exposure), (50,))
    memory = train(config("poisson"), X=X, y=y, sample_weight=omega, offset=np.log(exposure))
    for key, name in (("exposure", "years"), ("offset", "log_years")):
        settings = {
            **config("poisson"),
            "data": {"store": str(tmp_path / "s"), "weights": "weights", key: name},
            "cluster": {"kind": kind, "workers": 2},
            "run": {"directory": str(tmp_path / key)},
        }
        result = train(settings)
        np.testing.assert_allclose(result.model.coef_, memory.model.coef_, rtol=0, atol=1e-9)
    predict(tmp_path / "offset", str(tmp_path / "s"), tmp_path / "out")
    out: Any = zarr.open_array(str(tmp_path / "out"), mode="r")
    np.testing.assert_allclose(
        out[:],
        np.exp(X @ result.model.coef_[0] + result.model.intercept_[0]) * exposure,
        rtol=1e-12,
    )
    again = load_model(tmp_path / "offset")
    assert (again.family, again.classes_.tolist(), again.coef_.tobytes()) == (
        "poisson",
        [],
        result.model.coef_.tobytes(),
    )


@pytest.mark.parametrize(
    ("with_offset", "expected"),
    [(False, ["pass 1", "pass 2"]), (True, ["pass 1", "pass 2", "pass 3"])],
)
def test_numbers_need_no_list_of_labels_and_an_offset_one_pass_more(
    with_offset: bool, expected: list[str]
) -> None:
    """Also where the offset is far from 0, which the intercept of the start takes off, and the
    sample knows of it."""
    X, y, _ = counts()
    titles: list[str] = []
    result = train(
        config("poisson"),
        X=X,
        y=y,
        offset=300 + np.random.default_rng(3).normal(size=rows) if with_offset else None,
        subscribers=[
            lambda event: titles.append(event.title) if isinstance(event, ScanStarted) else None
        ],
    )
    assert titles == expected
    assert [line["pass"] for line in result.history] == list(range(1, len(expected) + 1))


@second_order
def test_steps_that_overflow_are_not_taken(solver: str) -> None:
    """Counts from nothing to thousands: from the mean a full step leads to exp of hundreds."""
    X = np.append(np.linspace(0, 1, 199), 40.0)[:, None]
    y = np.append(np.arange(199) % 3, 5000)
    result = train(config("poisson", solver), X=X, y=y)
    assert result.status == "converged", result.reason
    assert all(np.isfinite(line["loss"]) for line in result.history)
    with np.errstate(over="ignore"), pytest.raises(np.linalg.LinAlgError):
        newton(X, y, np.zeros(200), "poisson")
    residual = result.model.predict(X) - y
    assert residual.mean() == pytest.approx(0, abs=1e-9)
    assert residual @ (X[:, 0] - X.mean()) / (200 * X.std()) == pytest.approx(0, abs=1e-9)


@pytest.mark.parametrize(
    ("family", "row", "value", "error", "message"),
    [
        ("poisson", 123, -1.0, LabelError, "row 123 has the target -1;"),
        ("linear", 7, np.nan, NonFiniteError, "row 7 has the target nan"),
    ],
)
def test_bad_targets_are_refused_by_row(
    family: str, row: int, value: float, error: type[Exception], message: str
) -> None:
    X, y, _ = counts()
    bad = y.astype(float)
    bad[row] = value
    with pytest.raises(error, match=message):
        train(config(family), X=X, y=bad)


def test_bad_exposures_are_refused_by_row_and_counts_of_nothing_too(tmp_path: Path) -> None:
    X, y, _ = counts()
    exposure = np.ones(rows)
    exposure[[5, 17]] = 0, -1
    write_store(tmp_path / "s", X, y, (100, n))
    put(zarr.open_group(str(tmp_path / "s"), mode="r+"), "e", exposure, (rows,))
    with pytest.raises(
        NonFiniteError,
        match=r"e in .* holds 2 exposures that are not above 0 and finite in the rows from 0 on "
        r"\(first: 0.0 at row 5\)",
    ):
        train({**config("poisson"), "data": {"store": str(tmp_path / "s"), "exposure": "e"}})
    with pytest.raises(NonFiniteError, match="offset holds 1 values that are not finite"):
        train(config("poisson"), X=X, y=y, offset=np.append(np.ones(rows - 1), np.inf))
    with pytest.raises(LabelError, match="is 0 at every example that has weight"):
        train(config("poisson"), X=X, y=np.zeros(rows))


# weights of classes -------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("class_weight", ["balanced", {0: 3.0, 2: 0.25}])
@pytest.mark.parametrize("classes", [2, 3])
def test_weights_of_classes_are_those_of_scikit_learn(
    classes: int, class_weight: Any, weighted: bool, tmp_path: Path
) -> None:
    """They multiply the sample weights; C does not change, so l2 is one over C times the sum of the
    products."""
    X, y = load_iris(return_X_y=True)
    y = np.minimum(y[10:], classes - 1)
    X = X[10:]
    class_weight = (
        class_weight
        if class_weight == "balanced"
        else {label: w for label, w in class_weight.items() if label < classes}
    )
    omega = np.random.default_rng(0).uniform(0.2, 2, len(y)) if weighted else None
    oracle = LogisticRegression(
        C=0.5, class_weight=class_weight, solver="newton-cholesky", tol=1e-12, max_iter=1000
    ).fit(X, y, omega)
    weight = np.ones(len(y)) if omega is None else omega
    sums = np.bincount(y, weight)
    factors = (
        sums.sum() / (classes * sums)
        if class_weight == "balanced"
        else np.array([class_weight.get(label, 1.0) for label in range(classes)])
    )
    settings = config(
        "logistic", l2=1 / (0.5 * float((factors[y] * weight).sum())), class_weight=class_weight
    )
    result = train(settings, X=X, y=y, sample_weight=omega)
    assert_optimum(
        result,
        oracle.coef_,
        oracle.intercept_ - (oracle.intercept_.mean() if classes > 2 else 0),
        1e-6,
    )
    store = write_store(tmp_path / "s", X, y, (16, 4), weights=omega, y_chunk=50)
    stored = {**settings, "data": {"store": store.store, "weights": store.weights}}
    found = {
        train({**stored, "cluster": {"kind": kind, "workers": 2}}).summary["coefficients_sha256"]
        for kind in ("serial", "threads")
    }
    assert len(found) == 1
    assert_optimum(
        train(stored),
        oracle.coef_,
        oracle.intercept_ - (oracle.intercept_.mean() if classes > 2 else 0),
        1e-6,
    )


def test_a_weight_of_an_unknown_class_is_refused() -> None:
    X, y = load_iris(return_X_y=True)
    with pytest.raises(ConfigError, match="the target has no label 'setosa'; it has 0, 1, 2"):
        train(config("logistic", class_weight={"setosa": 2.0}), X=X, y=y)
