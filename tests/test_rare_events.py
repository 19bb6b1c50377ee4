"""What is rare costs the start from a sample no passes: it is drawn more often, and counts for
less."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import streamlr
from streamlr.training.train import TrainResult

Array = NDArray[np.float64]
ROWS = 300_000


def features(dtype: Any = np.float32) -> tuple[NDArray[Any], Array]:
    """Twenty, and for each row by how much it is an event sooner than others."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(ROWS, 20)).astype(dtype)
    return X, X[:, :10] @ np.linspace(-0.5, 0.5, 10) - rng.logistic(size=ROWS)


def events(haste: Array, count: int) -> NDArray[np.int64]:
    return (haste >= np.sort(haste)[-count]).astype(np.int64)


def fit(
    X: Any,
    y: Any,
    solver: str,
    family: str = "logistic",
    *,
    weights: Array | None = None,
    kind: str = "serial",
) -> TrainResult:
    return streamlr.train(
        {"model": {"family": family}, "solver": {"name": solver}, "cluster": {"kind": kind}},
        X=X,
        y=y,
        sample_weight=weights,
    )


@pytest.fixture(autouse=True)
def sampled(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sample of a tenth: of so few rows all would be in it."""
    monkeypatch.setattr("streamlr.pilot.size._LEAST_BYTES", 30_000 * 20 * 4)
    monkeypatch.setattr("streamlr.pilot.size._WANTED_ROWS_PER_PARAMETER", 1000)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("count", [30, 90, 300, 3000])
def test_events_cost_no_more_passes_than_without_a_sample(count: int, weighted: bool) -> None:
    X, haste = features()
    y = events(haste, count)
    weights = np.random.default_rng(1).uniform(0.1, 3.0, ROWS) if weighted else None
    auto, plain = fit(X, y, "auto", weights=weights), fit(X, y, "lbfgs", weights=weights)
    assert (auto.status, plain.status) == ("converged", "converged")
    assert auto.passes <= plain.passes
    np.testing.assert_allclose(
        auto.model.coef_, plain.model.coef_, rtol=0, atol=ROWS / count * 2e-7
    )


def test_counts_of_which_few_are_above_0_cost_no_more_either() -> None:
    X, haste = features()
    y = events(haste, 90) * (1 + np.random.default_rng(2).poisson(1.5, ROWS))
    auto, plain = fit(X, y, "auto", "poisson"), fit(X, y, "lbfgs", "poisson")
    assert (auto.status, plain.status) == ("converged", "converged")
    assert auto.passes <= plain.passes


def test_one_rare_class_of_three_costs_less_than_by_a_plain_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """L-BFGS without a sample, which takes 53 passes here, would be no yardstick."""
    X, haste = features()
    y = np.random.default_rng(3).integers(0, 2, ROWS)
    y[events(haste, 30) > 0] = 2
    auto = fit(X, y, "auto")
    monkeypatch.setattr("streamlr.runs.session.fractions_of", lambda counts, fraction: ())
    plain = fit(X, y, "auto")
    assert (auto.status, plain.status) == ("converged", "converged")
    assert auto.passes <= 0.75 * plain.passes


def test_a_sample_of_rare_events_is_the_same_on_every_engine() -> None:
    X, haste = features()
    y = events(haste, 90)
    first, *others = [
        np.asarray(fit(X, y, "auto", kind=kind).model.coef_).tobytes()
        for kind in ("serial", "threads", "processes")
    ]
    assert all(other == first for other in others)
