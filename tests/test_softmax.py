"""More than two classes: the sums, the curvature and whole solves, against definitions, closed
forms and scikit-learn."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from batches import batch_of
from numpy.typing import NDArray
from sklearn.datasets import load_digits, load_iris, load_wine
from sklearn.linear_model import LogisticRegression
from threadpoolctl import threadpool_limits

from streamlr import train
from streamlr.config.sections import ModelConfig, PenaltyConfig
from streamlr.data.partition import partition_rows
from streamlr.data.source import ArraySource
from streamlr.data.synth import Population, SynthSpec
from streamlr.errors import ConfigError
from streamlr.events import Event, PassFinished
from streamlr.execution.local import SerialEngine
from streamlr.execution.scanner import Scanner
from streamlr.kernels.batch import Workspace
from streamlr.kernels.scans.gradient import GradientScan
from streamlr.kernels.scans.moments import MomentScan
from streamlr.model import load_model
from streamlr.objective.objective import Moments, Objective, data_coordinates, standard_coordinates
from streamlr.pilot import size as pilot_size
from streamlr.pilot.kronecker import SampleCurvature
from streamlr.scoring.scoring import predict
from streamlr.training.train import TrainResult
from tests.stores import write_store

Array = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)
CLASSES = np.array(["a", "b", "c", "d"])
m, n, c, K = 47, 3, 4, 2

SETTINGS = list(
    itertools.product((0.0, 0.3), (False, True), (True, False), ("standard", "data"), (False, True))
)
every_setting = pytest.mark.parametrize(
    ("l2", "standardize", "intercept", "coordinates", "weighted"), SETTINGS
)
second_order = pytest.mark.parametrize("solver", ["auto", "newton", "lbfgs"])


def draw(rows: int = m, seed: int = 0) -> tuple[Array, NDArray[Any], Array]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, n)) * [0.5, 3.0, 1.0] + [1.0, -4.0, 0.25]
    return X, CLASSES[rng.integers(0, c, rows)], rng.uniform(0.2, 2.0, rows)


# sums ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("leaf_rows", [8, 64])
def test_the_sums_of_every_candidate_are_those_of_a_double_loop(
    leaf_rows: int, weighted: bool
) -> None:
    X, y, omega = draw()
    rng = np.random.default_rng(1)
    W, b = rng.normal(size=(K, n, c)) * 0.5, rng.normal(size=(K, c))
    shift = np.array([1.0, -4.0, 0.0])
    batch = batch_of(0, X.T, y, omega if weighted else None)
    found = GradientScan("softmax", CLASSES, W, b, shift, hessian=True).sums(
        batch, leaf_rows, Workspace()
    )
    weight = omega if weighted else np.ones(m)
    for k in range(K):
        losses: list[float] = []
        dZ = np.empty((m, c))
        H = np.zeros((n + 1, c, n + 1, c))
        for i in range(m):
            x = np.append(X[i] - shift, 1.0)
            z = [math.fsum(x[j] * W[k, j, a] for j in range(n)) + b[k, a] for a in range(c)]
            e = [math.exp(v) for v in z]
            a = np.array(e) / math.fsum(e)
            right = int(np.flatnonzero(y[i] == CLASSES)[0])
            losses.append(math.log(math.fsum(e)) - z[right])
            dZ[i] = a - np.eye(c)[right]
            H += weight[i] * np.einsum("i,j,ab->iajb", x, x, np.diag(a) - np.outer(a, a))
        # up to 47 terms of size 20, each with the rounding of a Z of that size
        assert found.loss_sum[k] == pytest.approx(
            math.fsum(w * v for w, v in zip(weight, losses, strict=True)), rel=1e-13
        )
        assert found.loss_max[k] == pytest.approx(max(losses), rel=1e-13)
        np.testing.assert_allclose(
            found.coefficient_sum[k], (X - shift).T @ (weight[:, None] * dZ), rtol=0, atol=1e-12
        )
        np.testing.assert_allclose(
            found.intercept_sum[k], (weight[:, None] * dZ).sum(axis=0), rtol=0, atol=1e-13
        )
        if k == 0:
            assert found.hessian_sum is not None
            np.testing.assert_allclose(
                found.hessian_sum, H.reshape((n + 1) * c, (n + 1) * c), rtol=0, atol=1e-11
            )


def test_a_leaf_of_many_classes_has_fewer_rows_and_depends_on_nothing_else() -> None:
    many = partition_rows(10**6, 16, 10**5, 2, 1000)
    assert many.leaf_rows * 1000 * 8 <= 8 * 2**20 < 2 * many.leaf_rows * 1000 * 8
    assert partition_rows(10**6, 2000, 10**5, 2, 1000) == partition_rows(10**6, 2000, 10**5, 2)


# objective ----------------------------------------------------------------------------------------


def problem(
    l2: float = 0.0,
    standardize: bool = False,
    intercept: bool = True,
    coordinates: str = "standard",
    weighted: bool = False,
    rows: int = m,
) -> tuple[Objective, ArraySource]:
    X, y, omega = draw(rows)
    source = ArraySource(X, y, omega if weighted else None)
    scanner = Scanner(SerialEngine(), source, lambda event: None)
    moments = Moments.from_sums(scanner.run(MomentScan(CLASSES, 0.0, 0, "softmax"), "survey"))
    make = {"standard": standard_coordinates, "data": data_coordinates}[coordinates]
    model = ModelConfig("softmax", intercept, standardize, PenaltyConfig(l2))
    return Objective(scanner, model, CLASSES, moments, make(moments, intercept)), source


def sums_to_zero(at: Objective, vector: Array) -> Array:
    V, u = at.coordinates.split(vector)
    return at.coordinates.join(V - V.mean(axis=1, keepdims=True), u - u.mean())


def some_point(at: Objective, seed: int = 1) -> Array:
    return sums_to_zero(at, np.random.default_rng(seed).normal(size=at.size) * 0.4)


@every_setting
def test_the_value_is_that_of_the_definition(
    l2: float, standardize: bool, intercept: bool, coordinates: str, weighted: bool
) -> None:
    at, source = problem(l2, standardize, intercept, coordinates, weighted)
    point = some_point(at)
    W, b = at.coordinates.to_data_units(point)
    omega = np.ones(m) if source.sample_weight is None else source.sample_weight
    Z = source.X @ W + b
    loss = np.log(np.exp(Z).sum(axis=1)) - Z[np.arange(m), np.searchsorted(CLASSES, source.y)]
    mean = omega @ source.X / omega.sum()
    spread = np.sqrt(omega @ (source.X - mean) ** 2 / omega.sum()) if standardize else np.ones(n)
    expected = omega @ loss / omega.sum() + l2 / 2 * np.sum((spread[:, None] * W) ** 2)
    assert at.evaluate(point[None, :], "t")[0].value == pytest.approx(expected, rel=1e-12)


@every_setting
def test_gradient_and_hessian_are_the_differences_of_value_and_gradient(
    l2: float, standardize: bool, intercept: bool, coordinates: str, weighted: bool
) -> None:
    at, _ = problem(l2, standardize, intercept, coordinates, weighted)
    point, h = some_point(at), 1e-4
    found = at.evaluate(point[None, :], "t", hessian=True)[0]
    assert found.hessian is not None
    for seed in range(5):
        way = some_point(at, 10 + seed)
        before, after = at.evaluate(np.stack([point - h * way, point + h * way]), "t")
        # central differences: h² times a third derivative of at most 10³ in the units of the data,
        # and rounding eps * 3 / h
        assert found.gradient @ way == pytest.approx(
            (after.value - before.value) / (2 * h), rel=1e-5, abs=1e-8
        )
        np.testing.assert_allclose(
            found.hessian @ way, (after.gradient - before.gradient) / (2 * h), rtol=1e-5, atol=1e-5
        )
    assert np.linalg.eigvalsh(found.hessian)[0] > 0, "the common shift has to be held"


@every_setting
def test_a_point_of_intercepts_needs_no_pass(
    l2: float, standardize: bool, intercept: bool, coordinates: str, weighted: bool
) -> None:
    at, _ = problem(l2, standardize, intercept, coordinates, weighted)
    free, paid = at.without_features(at.start()), at.evaluate(at.start()[None, :], "t")[0]
    assert free.value == pytest.approx(paid.value, rel=1e-13)
    np.testing.assert_allclose(free.gradient, paid.gradient, rtol=0, atol=1e-12)
    if intercept:
        np.testing.assert_allclose(at.coordinates.split(free.gradient)[1], 0, rtol=0, atol=1e-15)


# the curvature of a sample ------------------------------------------------------------------------


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_the_sampled_metric_inverts_the_hessian(
    l2: float, weighted: bool, intercept: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamlr.pilot.kronecker._RESIDUAL", 1e-6)
    at, source = problem(l2, False, intercept, "standard", weighted, rows=400)
    point = some_point(at)
    found = at.evaluate(point[None, :], "t", hessian=True)[0]
    assert found.hessian is not None
    goal = some_point(at, 3)
    metric = SampleCurvature(at, source, point, exact=True)
    # products in single precision, eps = 6e-8, times the condition of the Hessian, below 100
    np.testing.assert_allclose(metric(found.hessian @ goal), goal, rtol=0, atol=2e-5)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_where_no_feature_counts_the_kronecker_product_is_the_hessian(
    l2: float, intercept: bool
) -> None:
    at, source = problem(l2, False, intercept, "standard", rows=400)
    start = at.start()
    hessian = at.evaluate(start[None, :], "t", hessian=True)[0].hessian
    assert hessian is not None
    goal = some_point(at, 3)
    np.testing.assert_allclose(
        SampleCurvature(at, source, start, exact=False)(hessian @ goal), goal, rtol=0, atol=2e-5
    )


def test_the_metric_keeps_the_sum_over_the_classes() -> None:
    at, source = problem(0.1, rows=400)
    for exact in (False, True):
        moved = SampleCurvature(at, source, some_point(at), exact=exact)(
            np.random.default_rng(0).normal(size=at.size)
        )
        np.testing.assert_allclose(moved, sums_to_zero(at, moved), rtol=0, atol=1e-12)


# whole solves -------------------------------------------------------------------------------------


def fit(
    X: Array,
    y: NDArray[Any],
    solver: str = "auto",
    l2: float = 0.0,
    family: str = "logistic",
    weights: Array | None = None,
    **model: Any,
) -> TrainResult:
    config = {
        "model": {"family": family, "penalty": {"l2": l2}, **model},
        "solver": {"name": solver, "tolerance": 1e-10, "max_passes": 400},
        "cluster": {"kind": "serial"},
    }
    return train(config, X=X, y=y, sample_weight=weights)


TABLES: dict[str, Callable[..., Any]] = {
    "iris": load_iris,
    "wine": load_wine,
    "digits": load_digits,
}


@functools.cache
def oracle(name: str, intercept: bool, weighted: bool) -> tuple[Array, Array]:
    X, y = TABLES[name](return_X_y=True)
    omega = np.random.default_rng(0).uniform(0.2, 2, len(y)) if weighted else np.ones(len(y))
    with threadpool_limits(1):
        model = LogisticRegression(
            C=0.1, solver="newton-cholesky", tol=1e-12, max_iter=1000, fit_intercept=intercept
        ).fit(X, y, omega)
    return model.coef_, model.intercept_


@second_order
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("name", ["iris", "wine"])
def test_every_solver_finds_the_optimum_of_scikit_learn(
    name: str, intercept: bool, weighted: bool, solver: str
) -> None:
    if (name, intercept, solver) == ("wine", False, "lbfgs"):
        pytest.skip(
            "without an intercept the features are not centred, and a diagonal metric needs "
            "thousands of passes"
        )
    X, y = TABLES[name](return_X_y=True)
    omega = np.random.default_rng(0).uniform(0.2, 2, len(y)) if weighted else None
    result = fit(
        X,
        y,
        solver,
        1 / (0.1 * (len(y) if omega is None else omega.sum())),
        weights=omega,
        fit_intercept=intercept,
    )
    W, b = oracle(name, intercept, weighted)
    assert result.status == "converged", result.reason
    size = max(np.abs(W).max(), np.abs(b).max())
    np.testing.assert_allclose(result.model.coef_, W, rtol=0, atol=1e-6 * size)
    np.testing.assert_allclose(result.model.intercept_, b - b.mean(), rtol=0, atol=1e-6 * size)


@pytest.mark.parametrize("solver", ["auto", "newton"])
@pytest.mark.parametrize("many", [False, True])
def test_digits_have_the_optimum_of_scikit_learn(
    solver: str, many: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """650 parameters, some of features that never vary; ``many`` takes the way of problems whose
    Hessian is too large."""
    if many:
        monkeypatch.setattr(pilot_size, "MOST_COUPLED_PARAMETERS", 0)
        monkeypatch.setattr(pilot_size, "NEWTON_PARAMETERS", 0)
    X, y = load_digits(return_X_y=True)
    result = fit(X, y, solver, 1 / (0.1 * len(y)))
    W, b = oracle("digits", True, False)
    assert result.status == "converged", result.reason
    np.testing.assert_allclose(result.model.coef_, W, rtol=0, atol=1e-6)
    np.testing.assert_allclose(result.model.intercept_, b - b.mean(), rtol=0, atol=1e-6)


@second_order
@pytest.mark.parametrize("by_weights", [False, True])
def test_a_table_of_groups_by_classes_has_its_closed_form(by_weights: bool, solver: str) -> None:
    """One indicator and an intercept fit every count, so coefficients are differences of
    logarithms, less their mean over the classes."""
    counts = np.array([[20, 7, 13], [5, 30, 11]])
    cells = np.array(list(itertools.product(range(2), range(3))))
    rows = np.arange(6) if by_weights else np.repeat(np.arange(6), counts.ravel())
    result = fit(
        cells[rows, :1].astype(float),
        cells[rows, 1],
        solver,
        weights=counts.ravel().astype(float) if by_weights else None,
    )
    logarithm = np.log(counts) - np.log(counts).mean(axis=1, keepdims=True)
    assert result.status == "converged", result.reason
    assert result.model.family == "softmax"
    np.testing.assert_allclose(result.model.intercept_, logarithm[0], rtol=0, atol=1e-8)
    np.testing.assert_allclose(
        result.model.coef_[:, 0], logarithm[1] - logarithm[0], rtol=0, atol=1e-8
    )


@second_order
def test_without_a_penalty_the_coefficients_sum_to_zero_over_the_classes(solver: str) -> None:
    X, y, _ = draw(300)
    result = fit(X, y, solver)
    assert result.status == "converged", result.reason
    size = np.abs(result.model.coef_).max()
    np.testing.assert_allclose(result.model.coef_.sum(axis=0), 0, rtol=0, atol=1e-9 * size)
    assert result.model.intercept_.sum() == pytest.approx(0, abs=1e-9 * size)


@second_order
def test_softmax_of_two_classes_is_logistic_with_half_the_penalty(solver: str) -> None:
    """With V and -V the difference w = 2 V has the penalty l2 (|V|² + |V|²) / 2 = (l2 / 2) |w|² /
    2."""
    X, y, _ = draw(300)
    two = y > "b"
    wide, narrow = fit(X, two, solver, 0.02, "softmax"), fit(X, two, solver, 0.01)
    assert (wide.model.family, wide.model.coef_.shape, narrow.model.coef_.shape) == (
        "softmax",
        (2, n),
        (1, n),
    )
    np.testing.assert_allclose(
        wide.model.coef_[1] - wide.model.coef_[0], narrow.model.coef_[0], rtol=0, atol=1e-8
    )
    np.testing.assert_allclose(
        wide.model.predict_proba(X), narrow.model.predict_proba(X), rtol=0, atol=1e-8
    )


@second_order
def test_separable_classes_are_told(solver: str) -> None:
    X = np.repeat(np.eye(3), 5, axis=0) + 0.01 * np.random.default_rng(0).normal(size=(15, 3))
    result = fit(X, np.repeat([3, 5, 9], 5), solver)
    assert (result.status, "separable" in result.reason) == ("diverged", True)


@pytest.mark.parametrize("labels", [[5, -2, 9, 0], ["zz", "a", "mm", "é"], [2.0, -1.0, 7.0, 3.0]])
def test_labels_come_back_as_they_were(labels: list[Any], tmp_path: Path) -> None:
    X, y, _ = draw(300)
    named = np.array(labels)[np.searchsorted(CLASSES, y)]
    result = fit(X, named, l2=0.01)
    assert result.model.classes_.tolist() == sorted(labels)
    result.model.save(tmp_path / "model.zarr")
    again = load_model(tmp_path)
    expected = LogisticRegression(C=1 / (0.01 * 300), solver="newton-cholesky", tol=1e-12).fit(
        X, named
    )
    assert again.predict(X).tolist() == expected.predict(X).tolist()
    np.testing.assert_allclose(again.predict_proba(X), expected.predict_proba(X), rtol=0, atol=1e-8)


# runs ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def population() -> tuple[NDArray[Any], NDArray[np.int64]]:
    return Population(SynthSpec(20_000, 20, 10)).rows(0, 20_000)


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small problems take the way of those with very many parameters, on a sample of 8 rows a
    parameter."""
    monkeypatch.setattr(pilot_size, "MOST_COUPLED_PARAMETERS", 0)
    monkeypatch.setattr(pilot_size, "NEWTON_PARAMETERS", 0)
    monkeypatch.setattr(pilot_size, "_LEAST_BYTES", 0)
    monkeypatch.setattr(pilot_size, "_WANTED_ROWS_PER_PARAMETER", 8)


@pytest.mark.parametrize(("per_parameter", "most"), [(8, 14), (4, 22), (1, 50)])
def test_many_parameters_need_few_passes(
    per_parameter: int,
    most: int,
    population: tuple[NDArray[Any], NDArray[np.int64]],
    many: None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also with a row of the sample for each parameter, which is too little for a Hessian, and more
    than enough for second moments."""
    monkeypatch.setattr(pilot_size, "_WANTED_ROWS_PER_PARAMETER", per_parameter)
    X, y = population
    result = train(
        {"solver": {"tolerance": 1e-6}, "cluster": {"kind": "threads", "workers": 2}}, X=X, y=y
    )
    assert result.status == "converged", result.reason
    assert 2 < result.passes <= most


def store_of(path: Path, population: tuple[NDArray[Any], NDArray[np.int64]]) -> dict[str, Any]:
    X, y = population
    config = write_store(
        path / "s.zarr",
        X[:6000],
        np.array([f"class {k}" for k in range(10)])[y[:6000]],
        (512, 20),
        y_chunk=1000,
    )
    return {
        "data": {"store": config.store},
        "model": {"penalty": {"l2": 1e-4}, "class_weight": "balanced"},
    }


def test_every_engine_gives_the_same_bits(
    population: tuple[NDArray[Any], NDArray[np.int64]], many: None, tmp_path: Path
) -> None:
    config = store_of(tmp_path, population)
    found = {
        train({**config, "cluster": {"kind": kind, "workers": workers}}).summary[
            "coefficients_sha256"
        ]
        for kind, workers in [("serial", None), ("threads", 3), ("processes", 2)]
    }
    assert len(found) == 1


@pytest.mark.parametrize("passes", [1, 3])
def test_a_run_that_is_broken_off_goes_on_to_the_bit(
    passes: int, population: tuple[NDArray[Any], NDArray[np.int64]], many: None, tmp_path: Path
) -> None:
    config = {**store_of(tmp_path, population), "cluster": {"kind": "serial"}}
    whole = train(config)
    directory = {**config, "run": {"directory": str(tmp_path / "run")}}

    def cut(event: Event) -> None:
        if isinstance(event, PassFinished) and event.number == passes:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train(directory, subscribers=[cut])
    again = train(directory, resume=True)
    assert again.summary["coefficients_sha256"] == whole.summary["coefficients_sha256"]
    assert again.passes == whole.passes > passes


def test_predictions_of_a_store_are_a_column_for_each_class(
    population: tuple[NDArray[Any], NDArray[np.int64]], tmp_path: Path
) -> None:
    config = {
        **store_of(tmp_path, population),
        "cluster": {"kind": "serial"},
        "run": {"directory": str(tmp_path / "run")},
    }
    model = train(config).model
    assert predict(tmp_path / "run", config["data"]["store"], tmp_path / "out") == 6000
    out = zarr.open_array(str(tmp_path / "out"), mode="r")
    assert out.attrs["classes"] == model.classes_.tolist()
    np.testing.assert_allclose(
        out[...], model.predict_proba(population[0][:6000]), rtol=1e-12, atol=1e-15
    )


def test_an_offset_of_all_classes_is_refused() -> None:
    X, y, omega = draw()
    with pytest.raises(
        ConfigError, match="holds 4 classes, and an offset common to all of them changes nothing"
    ):
        train({"cluster": {"kind": "serial"}}, X=X, y=y, offset=omega)
