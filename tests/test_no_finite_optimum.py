"""That there is no finite optimum is said where there is none, and only there; a linear program
tells."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.optimize import linprog

import streamlr
from streamlr.training.train import TrainResult

Array = NDArray[np.float64]
SOLVERS = ("auto", "newton", "lbfgs", "proximal")


def margins(A: Array, y: NDArray[Any], family: str) -> tuple[Array, Array]:
    """Rows of which the products with a direction must be at least 0, and be 0, where the loss
    never grows along it."""
    if family == "poisson":
        return -A[y == 0], A[y > 0]
    if family == "logistic":
        return (2 * y - 1)[:, None] * A, np.empty((0, A.shape[1]))
    rows = []
    for a, own in zip(A, y, strict=True):
        for other in set(range(3)) - {int(own)}:
            row = np.zeros((3, A.shape[1]))
            row[own], row[other] = a, -a
            rows.append(row.ravel())
    return np.array(rows), np.empty((0, 3 * A.shape[1]))


def recedes(X: NDArray[Any], y: NDArray[Any], family: str) -> bool:
    """Whether the loss falls for ever along some direction, of features that are whole numbers."""
    least, still = margins(np.column_stack([X, np.ones(len(X))]), y, family)
    found = linprog(
        -least.sum(axis=0),
        A_ub=-least,
        b_ub=np.zeros(len(least)),
        A_eq=still,
        b_eq=np.zeros(len(still)),
        bounds=(-1, 1),
    )
    assert found.status == 0
    return bool(found.fun < -1e-6)


def examples(seed: int, rare: bool, family: str) -> tuple[Array, NDArray[Any]] | None:
    """Few, of features in units of their own; None where the target does not vary."""
    rng = np.random.default_rng(seed)
    m, n = int(rng.integers(8, 250 if rare else 60)), int(rng.integers(1, 5))
    X = (
        (rng.random((m, n)) < 0.15).astype(float)
        if rare
        else rng.integers(-1, 3, (m, n)).astype(float)
    )
    eta = (
        (X - X.mean(axis=0))
        / np.where(X.std(axis=0) > 0, X.std(axis=0), 1.0)
        @ rng.normal(size=n)
        * 2
    )
    if family == "poisson":
        y = rng.poisson(np.exp(np.clip(eta - 2, -20, 4)))
        return (X, y) if y.any() else None
    if family == "logistic":
        y = (eta + rng.logistic(size=m) > 0).astype(int)
    else:
        y = np.argmax(np.column_stack([eta, -eta, 0 * eta]) + rng.gumbel(size=(m, 3)), axis=1)
    return (X, y) if len(set(y)) == (2 if family == "logistic" else 3) else None


def fit(
    X: Any, y: Any, family: str, solver: str, kind: str = "serial", weights: Array | None = None
) -> TrainResult:
    return streamlr.train(
        {
            "model": {"family": "poisson" if family == "poisson" else "logistic"},
            "solver": {"name": solver, "max_passes": 300},
            "cluster": {"kind": kind},
        },
        X=X,
        y=y,
        sample_weight=weights,
    )


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("rare", [False, True])
@pytest.mark.parametrize("family", ["logistic", "poisson", "softmax"])
def test_it_is_told_where_there_is_none_and_only_there(
    family: str, rare: bool, solver: str
) -> None:
    told = []
    for seed in range(30):
        given = examples(seed, rare, family)
        if given is None:
            continue
        X, y = given
        unit = 10.0 ** np.random.default_rng(seed).uniform(-4, 4, X.shape[1])
        none = recedes(X, y, family)
        result = fit(X * unit, y, family, solver)
        assert result.status == ("diverged" if none else "converged"), (seed, none, result.reason)
        told.append(none)
    assert set(told) == {False, True}


@pytest.mark.parametrize(
    ("family", "solver"), list(itertools.product(["logistic", "poisson", "softmax"], SOLVERS))
)
def test_a_far_optimum_is_no_proof(family: str, solver: str) -> None:
    """Three normals and the float32 of a sum: the largest coefficient is some 10⁵."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2000, 3))
    X = np.column_stack([x, (x[:, 0] + x[:, 1]).astype(np.float32)])
    eta = x @ [0.5, -0.3, 0.2]
    y = {
        "logistic": (rng.random(2000) < 1 / (1 + np.exp(-eta))).astype(int),
        "poisson": rng.poisson(np.exp(eta)),
        "softmax": np.argmax(
            np.column_stack([eta, -eta, 0.3 * eta]) + rng.gumbel(size=(2000, 3)), axis=1
        ),
    }[family]
    result = fit(X, y, family, solver)
    assert result.status == "converged", result.reason
    assert np.abs(result.model.coef_).max() > 1e4


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_few_examples_on_the_wrong_side_make_an_optimum(solver: str) -> None:
    """Near it the gradient fades along the feature as if it were none."""
    x = np.concatenate([np.linspace(-3, -1, 3000), np.linspace(1, 3, 3000)])
    y = (x > 0).astype(int)
    assert fit(x[:, None], y, "logistic", solver).status == "diverged"
    weights = np.ones(len(x))
    y[0], weights[0] = 1, 1e-3
    result = fit(x[:, None], y, "logistic", solver, weights=weights)
    assert result.status == "converged", result.reason
    w, b = (
        float(np.asarray(result.model.coef_)[0, 0]),
        float(np.asarray(result.model.intercept_)[0]),
    )
    left = (1 / (1 + np.exp(-(w * x + b))) - y) * weights / weights.sum()
    assert np.abs([left.sum(), left @ x]).max() <= 3e-8


def test_every_engine_says_the_same() -> None:
    given = next(
        found
        for seed in range(30)
        if (found := examples(seed, False, "softmax")) is not None and recedes(*found, "softmax")
    )
    first, *others = [
        fit(*given, "softmax", "auto", kind) for kind in ("serial", "threads", "processes")
    ]
    assert first.status == "diverged"
    assert all(
        (other.status, other.passes, other.reason) == (first.status, first.passes, first.reason)
        for other in others
    )
    assert all(
        np.asarray(other.model.coef_).tobytes() == np.asarray(first.model.coef_).tobytes()
        for other in others
    )
