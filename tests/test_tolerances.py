"""A tolerance has no unit, and a tighter one never gives a worse answer."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from exact import optimum
from numpy.typing import NDArray

import streamlr
from streamlr.training.train import TrainResult

Array = NDArray[np.float64]
SOLVERS = ("auto", "newton", "lbfgs", "proximal")
TOLERANCES = (1e-6, 1e-8, 1e-10, 1e-13)
ROUNDED = 1e-12
"""Where coefficients are as near as sums of some hundred rows are."""


def fit(
    X: Any,
    y: Any,
    family: str,
    solver: str,
    tolerance: float = 1e-8,
    *,
    weights: Array | None = None,
    **model: Any,
) -> TrainResult:
    return streamlr.train(
        {
            "model": {"family": family, **model},
            "solver": {"name": solver, "tolerance": tolerance},
            "cluster": {"kind": "serial"},
        },
        X=X,
        y=y,
        sample_weight=weights,
    )


def features(rows: int) -> Array:
    return np.random.default_rng(0).normal(size=(rows, 3))


def target(eta: Array, family: str, mean: float = 1.0) -> NDArray[Any]:
    rng = np.random.default_rng(1)
    if family == "linear":
        return np.asarray(eta + rng.normal(size=len(eta)))
    return (
        rng.poisson(mean * np.exp(eta))
        if family == "poisson"
        else (rng.random(len(eta)) < 1 / (1 + np.exp(-eta))).astype(int)
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("mean", [1e-1, 1.0, 1e3, 1.3e8, 1e13])
def test_large_counts_cost_no_more_passes_than_small_ones(
    mean: float, solver: str, weighted: bool
) -> None:
    X = features(2000)
    eta = X @ [0.1, -0.2, 0.3]
    weights = np.random.default_rng(2).uniform(0.1, 3.0, len(X)) if weighted else None
    result = fit(X, target(eta, "poisson", mean), "poisson", solver, weights=weights)
    assert result.status == "converged", result.reason
    assert result.passes <= {"auto": 2, "newton": 7, "lbfgs": 11, "proximal": 11}[solver]
    W, b = np.asarray(result.model.coef_)[0], float(np.asarray(result.model.intercept_)[0])
    left = (np.exp(X @ W + b) - target(eta, "poisson", mean)) * (
        1.0 if weights is None else weights
    )
    assert np.abs(np.column_stack([X, np.ones(len(X))]).T @ left).max() <= 1e-7 * len(X) * max(
        mean, 1.0
    )


@pytest.mark.parametrize("solver", SOLVERS)
def test_counts_and_a_multiple_of_them_differ_in_their_intercept(solver: str) -> None:
    """Beside no penalty that is all; numbers above 0 may be what they like."""
    X = features(1000)
    y = target(X @ [0.1, -0.2, 0.3], "poisson", 50.0).astype(float)
    few, many = fit(X, y, "poisson", solver), fit(X, y * 2.0**40, "poisson", solver)
    assert few.passes == many.passes
    np.testing.assert_allclose(many.model.coef_, few.model.coef_, rtol=1e-11)
    np.testing.assert_allclose(
        many.model.intercept_, np.asarray(few.model.intercept_) + 40 * np.log(2), rtol=1e-11
    )


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("family", ["linear", "logistic", "poisson"])
@pytest.mark.parametrize(
    ("base", "span", "intercept", "weighted", "dtype"),
    [
        (1.7e9, 3e7, True, False, np.float64),
        (1.7e9, 1e5, True, True, np.float64),
        (1.7e9, 1e3, True, False, np.float64),
        (1.7e9, 1e6, False, False, np.float64),
        (1.7e9, 1e8, True, False, np.float32),
        (1.7e12, 3e10, True, False, np.float64),
        (-40_000, 500, True, False, np.float64),
    ],
)
def test_a_tighter_tolerance_never_gives_a_worse_answer(
    base: float, span: float, intercept: bool, weighted: bool, dtype: Any, family: str, solver: str
) -> None:
    """With seconds or milliseconds since 1970 or days since 1900 as a feature."""
    rng = np.random.default_rng(3)
    when = np.floor(base + span * rng.random(200))
    X = np.column_stack([when, rng.normal(size=(200, 2))]).astype(dtype)
    y = target((X[:, :1] - when.mean())[:, 0] / when.std() * 0.5 + X[:, 1:] @ [0.3, -0.2], family)
    weights = rng.uniform(0.1, 3.0, 200) if weighted else None
    W, _ = optimum(X, y, family, weights=weights, intercept=intercept)
    unit = (
        X.astype(float).std(axis=0) if intercept else np.sqrt((X.astype(float) ** 2).mean(axis=0))
    )
    far, worst = [], 10 * np.abs(X[:, 0].astype(float)).max() / unit[0] * np.finfo(np.float64).eps
    for tolerance in TOLERANCES:
        result = fit(X, y, family, solver, tolerance, weights=weights, fit_intercept=intercept)
        assert result.status == "converged", (tolerance, result.reason)
        far.append(
            float(
                np.abs((np.asarray(result.model.coef_)[0] - W) * unit).max()
                / np.abs(W * unit).max()
            )
        )
    for before, after in itertools.pairwise(far):
        assert after <= before + max(ROUNDED, worst), far
    assert far[-1] <= max(ROUNDED, worst), far


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("family", ["linear", "logistic", "poisson"])
def test_a_tolerance_that_nothing_meets_gives_the_best_answer_all_the_same(
    family: str, solver: str
) -> None:
    X = features(300) * np.array([1e-3, 1.0, 1e3]) + np.array([0.0, -5.0, 1e6])
    y = target((X - X.mean(axis=0)) / X.std(axis=0) @ np.array([0.5, -0.3, 0.2]), family)
    W, _ = optimum(X, y, family)
    for tolerance in (1e-15, 1e-30):
        result = fit(X, y, family, solver, tolerance)
        assert np.abs((np.asarray(result.model.coef_)[0] - W) / W).max() <= 1e-11
        assert result.status in ("converged", "stalled")
