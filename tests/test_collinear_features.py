"""Features that nearly repeat one another: every method comes to the optimum, and says what is not
known."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from exact import optimum
from numpy.typing import NDArray
from sklearn.datasets import make_classification, make_regression

import streamlr
from streamlr.training.train import TrainResult

Array = NDArray[np.float64]
FAMILIES = ("linear", "logistic", "poisson")
SOLVERS = ("auto", "newton", "lbfgs", "proximal")
CLUSTERS = ("serial", "threads", "processes")
ULP = float(np.finfo(np.float64).eps)


def features(
    rows: int, noise: float | None, *, away: float = 0.0, dtype: Any = np.float64
) -> NDArray[Any]:
    """Three normals and their first two's sum, in float32 or but for some noise."""
    rng = np.random.default_rng(1)
    x = rng.normal(size=(rows, 3))
    total = x[:, 0] + x[:, 1]
    near = total.astype(np.float32) if noise is None else total + noise * rng.normal(size=rows)
    return (np.column_stack([x, near]) + away).astype(dtype)


def target(X: NDArray[Any], family: str) -> NDArray[Any]:
    rng = np.random.default_rng(2)
    eta = (X - X.mean(axis=0))[:, :3] @ [0.5, -0.3, 0.2]
    if family == "linear":
        return np.asarray(eta + rng.normal(size=len(X)))
    return (
        rng.poisson(np.exp(eta))
        if family == "poisson"
        else (rng.random(len(X)) < 1 / (1 + np.exp(-eta))).astype(int)
    )


def fit(
    X: Any,
    y: Any,
    family: str = "logistic",
    solver: str = "auto",
    *,
    weights: Array | None = None,
    kind: str = "serial",
    tolerance: float = 1e-8,
    run: dict[str, Any] | None = None,
    **model: Any,
) -> TrainResult:
    return streamlr.train(
        {
            "model": {"family": family, **model},
            "solver": {"name": solver, "tolerance": tolerance},
            "cluster": {"kind": kind},
            "run": run or {},
        },
        X=X,
        y=y,
        sample_weight=weights,
    )


def rounding(X: NDArray[Any], found: Array, lengths: Array) -> float:
    """How far predictors of such coefficients are off by rounding, seen along what hardly varies:
    half a unit in the last place of each term."""
    return float(ULP * (np.abs(X.astype(float)) @ np.abs(found)).max() / lengths.min())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize(
    ("noise", "away", "dtype", "weighted", "intercept"),
    [
        (None, 0.0, np.float64, False, True),
        (1e-10, 0.0, np.float64, False, True),
        (1e-6, 0.0, np.float32, True, True),
        (1e-4, 5.0, np.float64, True, True),
        (None, 0.0, np.float64, True, False),
        (1e-3, 1e3, np.float64, False, True),
    ],
)
def test_the_optimum_is_found(
    noise: float | None,
    away: float,
    dtype: Any,
    weighted: bool,
    intercept: bool,
    family: str,
    solver: str,
) -> None:
    X = features(300, noise, away=away, dtype=dtype)
    y = target(X, family)
    weights = np.random.default_rng(3).uniform(0.2, 3.0, len(X)) if weighted else None
    W, loss = optimum(X, y, family, weights=weights, intercept=intercept)
    result = fit(X, y, family, solver, weights=weights, fit_intercept=intercept)
    assert result.status == "converged", result.reason
    found = np.asarray(result.model.coef_)[0]
    sizes = np.linalg.svd(
        (X - X.mean(axis=0)).astype(np.float64) / np.sqrt(len(X)), compute_uv=False
    )
    # the tolerance is one of gradients, and steps are held to 10 of it relative to what is largest
    assert np.abs(found - W).max() <= 1e-5 * np.abs(W).max() + 10 * rounding(X, W, sizes)
    assert abs(result.summary["objective"] - loss) <= 1e-12 + rounding(X, W, np.ones(1))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_optimum_is_the_same_to_the_bit_on_every_engine(family: str) -> None:
    X = features(2000, None)
    y = target(X, family)
    first, *others = [
        np.asarray(fit(X, y, family, kind=kind).model.coef_).tobytes() for kind in CLUSTERS
    ]
    assert all(other == first for other in others)


@pytest.mark.parametrize("solver", ["auto", "newton", "lbfgs"])
@pytest.mark.parametrize("classes", [2, 3])
def test_redundant_features_in_single_precision_are_settled(classes: int, solver: str) -> None:
    """What is redundant in float64 nearly is in float32: no sooner an optimum than in float64, and
    no later."""
    X, y = make_classification(
        10_000, 20, n_informative=5, n_redundant=2, random_state=0, n_classes=classes
    )
    wide, narrow = fit(X, y, solver=solver), fit(X.astype(np.float32), y, solver=solver)
    assert (wide.status, narrow.status) == ("converged", "converged")
    assert narrow.passes <= 2 * wide.passes
    assert (
        narrow.summary["objective"] <= wide.summary["objective"]
    )  # rounding sets two features free
    if solver == "auto":
        assert narrow.passes == 2


@pytest.mark.parametrize("size", [100, 200])
def test_as_many_rows_as_unknowns_are_solved_as_least_squares(size: int) -> None:
    X, y = make_regression(size, size, noise=10, random_state=0)
    model = streamlr.LinearRegression().fit(X, y)
    center, middle = X.mean(axis=0), y.mean()
    want = np.linalg.lstsq(X - center, y - middle, rcond=None)[0]
    np.testing.assert_allclose(model.coef_, want, rtol=0, atol=1e-9 * np.abs(want).max())
    assert model.n_iter_ <= 4


def test_features_of_the_weakest_direction_are_named(tmp_path: Path) -> None:
    X = features(1000, None)
    directory = tmp_path / "run"
    result = fit(X, target(X, "logistic"), run={"directory": str(directory)})
    summary = json.loads((directory / "summary.json").read_text(encoding="utf-8"))
    Z = (X - X.mean(axis=0)) / X.std(axis=0)
    sizes = np.linalg.svd(Z, compute_uv=False)
    assert summary["condition_number"] == pytest.approx(sizes[0] / sizes[-1], rel=1e-4)
    told = str(summary["collinearity"])
    assert [f"x{j}" in told for j in range(4)] == [True, True, False, True]
    assert "little is known" in told
    assert result.status == "converged"


def test_the_condition_number_is_that_of_standardised_features() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 5)) @ rng.normal(size=(5, 5)) * np.logspace(-3, 3, 5)
    for family in FAMILIES:
        sizes = np.linalg.svd((X - X.mean(axis=0)) / X.std(axis=0), compute_uv=False)
        y = target(np.asarray((X - X.mean(axis=0)) / X.std(axis=0)), family)
        assert fit(X, y, family).summary["condition_number"] == pytest.approx(
            sizes[0] / sizes[-1], rel=1e-6
        )


@pytest.mark.parametrize(("family", "solver"), list(itertools.product(FAMILIES, SOLVERS)))
def test_a_penalty_says_what_the_data_do_not(family: str, solver: str) -> None:
    """Then nothing stands in the place of a feature, and the optimum is where its gradient is 0."""
    X = features(500, None)
    y = target(X, family)
    result = fit(X, y, family, solver, penalty={"l2": 1e-2}, tolerance=1e-10)
    W, b = np.asarray(result.model.coef_)[0], float(np.asarray(result.model.intercept_)[0])
    Z = X @ W + b
    mean = {"linear": Z, "logistic": 1 / (1 + np.exp(-Z)), "poisson": np.exp(Z)}[family]
    assert result.status == "converged"
    assert np.abs(X.T @ (mean - y) / len(X) + 1e-2 * W).max() <= 1e-9


@pytest.mark.parametrize("solver", ["auto", "newton", "lbfgs"])
@pytest.mark.parametrize("family", ["logistic", "poisson"])
def test_some_of_the_rows_tell_what_all_of_many_features_repeat(family: str, solver: str) -> None:
    """Two combinations that hardly vary among more features than are multiplied with one another in
    the first pass."""
    rng = np.random.default_rng(4)
    x = rng.normal(size=(4000, 70)) * np.logspace(-2, 2, 70)
    X = np.column_stack(
        [
            x,
            x[:, 0] + x[:, 1] + 1e-7 * rng.normal(size=4000),
            x[:, 2] - 3 * x[:, 3] + 1e-5 * rng.normal(size=4000),
        ]
    )
    eta = (X / X.std(axis=0))[:, :3] @ [0.5, -0.3, 0.2]
    y = (
        rng.poisson(np.exp(eta))
        if family == "poisson"
        else (rng.random(len(X)) < 1 / (1 + np.exp(-eta))).astype(int)
    )
    result = fit(X, y, family, solver)
    plain = X.copy()  # the same models, by features that do not repeat one another
    plain[:, 70] = in_its_own_units(X[:, 70] - x[:, 0] - x[:, 1])
    plain[:, 71] = in_its_own_units(X[:, 71] - x[:, 2] + 3 * x[:, 3])
    want = fit(plain, y, family, solver)
    assert (result.status, want.status) == ("converged", "converged")
    assert result.summary["objective"] == pytest.approx(want.summary["objective"], abs=1e-9)
    sizes = np.linalg.svd((X - X.mean(axis=0)) / X.std(axis=0), compute_uv=False)
    # from the largest sigma among some of the rows
    assert result.summary["condition_number"] == pytest.approx(sizes[0] / sizes[-1], rel=0.2)


def in_its_own_units(noise: Array) -> Array:
    """In units of its own spread."""
    return np.asarray((noise - noise.mean()) / noise.std())


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("more", [0, 68])
@pytest.mark.parametrize("family", ["logistic", "poisson"])
def test_a_run_goes_on_to_the_bit_where_it_was_broken_off(
    family: str, more: int, solver: str, tmp_path: Path
) -> None:
    X = features(5000, None)
    y = target(X, family)
    X = np.column_stack([np.random.default_rng(5).normal(size=(5000, more)), X])

    def run(name: str, passes: int, *, resume: bool = False) -> TrainResult:
        return streamlr.train(
            {
                "model": {"family": family},
                "solver": {"name": solver, "max_passes": passes},
                "cluster": {"kind": "serial"},
                "run": {"directory": str(tmp_path / name)},
            },
            X=X,
            y=y,
            resume=resume,
        )

    whole = run("whole", 100)
    run("parts", whole.passes - 1)
    again = run("parts", 100, resume=True)
    assert (again.status, again.passes) == (whole.status, whole.passes)
    for known in ("coefficients_sha256", "condition_number", "collinearity"):
        assert again.summary[known] == whole.summary[known]
