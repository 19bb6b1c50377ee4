"""Least squares of few rows with so many features that their products are never summed: the rows
themselves give the shortest optimum."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from conftest import ReadsOfArrays
from interruptions import BrokenOffError, broken_off_after
from numpy.typing import NDArray
from scipy.linalg import lstsq

import streamlr
from streamlr.events import Event, Note
from streamlr.training.train import TrainResult, train

Array = NDArray[np.float64]
ULP = float(np.finfo(np.float64).eps)
MANY = 4500


def drawn(rows: int = 60, features: int = MANY, dtype: str = "float64") -> tuple[Any, Array]:
    """Features in units of their own, at places of their own."""
    rng = np.random.default_rng(rows + features)
    X = rng.normal(size=(rows, features)) * rng.uniform(0.1, 10, features) + rng.normal(
        size=features
    )
    return X.astype(dtype), rng.normal(size=rows) + 3.0


def shortest(
    X: Any, y: Array, *, intercept: bool = True, weights: Array | None = None
) -> tuple[Array, float]:
    """LAPACK's minimum-norm solution of the centred data."""
    X = X.astype(np.float64)
    omega = np.ones(len(y)) if weights is None else weights
    center, target = np.zeros(X.shape[1]), 0.0
    if intercept:
        center, target = np.average(X, axis=0, weights=omega), np.average(y, weights=omega)
    root = np.sqrt(omega)
    W = lstsq(root[:, None] * (X - center), root * (y - target), cond=ULP * max(X.shape))[0]
    return W, float(target - center @ W)


def fit(
    X: Any,
    y: Any,
    events: list[Event] | None = None,
    *,
    solver: str = "auto",
    cluster: Any = "serial",
    **model: Any,
) -> TrainResult:
    names = ("sample_weight", "offset", "validation", "start")
    given = {name: model.pop(name) for name in names if name in model}
    config = {
        "model": {"family": "linear", **model},
        "solver": {"name": solver},
        "cluster": {"kind": cluster} if isinstance(cluster, str) else cluster,
    }
    return train(config, X=X, y=y, subscribers=[] if events is None else [events.append], **given)


def warnings_of(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Note) and event.warning]


def assert_shortest(result: TrainResult, W: Array, b: float, tolerance: float = 1e-12) -> None:
    """``tolerance`` is what LAPACK's own rounding comes to: the condition is below 100 here."""
    assert result.status == "converged", result.reason
    assert result.passes <= 3
    found = result.model.coef_[0]
    np.testing.assert_allclose(found, W, rtol=0, atol=tolerance * np.abs(W).max())
    assert result.model.intercept_[0] == pytest.approx(b, abs=tolerance * (1 + abs(b)))


@pytest.mark.parametrize("solver", ["auto", "newton"])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_shortest_optimum_in_the_units_of_the_data_is_taken_and_said_once(
    dtype: str, intercept: bool, solver: str
) -> None:
    X, y = drawn(dtype=dtype)
    events: list[Event] = []
    result = fit(X, y, events, solver=solver, fit_intercept=intercept)
    assert_shortest(result, *shortest(X, y, intercept=intercept))
    assert result.summary["solver"] == "least_squares"
    told = warnings_of(events)
    assert len(told) == 1
    assert f"{MANY - 60 + intercept:,} of {MANY:,} features" in told[0]
    assert "in units of the data" in told[0]


@pytest.mark.parametrize("dtype", ["int8", "float16", "int64"])
def test_whatever_the_type_of_the_features(dtype: str) -> None:
    X, y = drawn(rows=30)
    X = np.round(X * 3).clip(-100, 100).astype(dtype)
    assert_shortest(fit(X, y), *shortest(X, y))


@pytest.mark.parametrize("intercept", [True, False])
def test_weights_and_rows_without_any(intercept: bool) -> None:
    X, y = drawn()
    weights = np.random.default_rng(0).uniform(0.1, 3, len(y)) * (np.arange(len(y)) % 7 > 0)
    W, b = shortest(X, y, intercept=intercept, weights=weights)
    assert_shortest(fit(X, y, sample_weight=weights, fit_intercept=intercept), W, b)


def test_an_offset_is_taken_from_the_target() -> None:
    X, y = drawn()
    offset = 100.0 * np.sin(np.arange(len(y)))
    assert_shortest(fit(X, y, offset=offset), *shortest(X, y - offset))


def test_rows_that_are_held_out_have_no_part() -> None:
    X, y = drawn()
    out = np.arange(len(y)) % 3 == 0
    W, b = shortest(X[~out], y[~out])
    result = fit(X, y, validation=out)
    assert_shortest(result, W, b)
    known = 0.5 * float(np.mean((X[out] @ W + b - y[out]) ** 2))
    assert result.summary["validation_loss"] == pytest.approx(known, rel=1e-9)


def test_a_start_changes_nothing_but_the_last_digits() -> None:
    X, y = drawn()
    start = streamlr.Model(np.ones((1, MANY)), np.ones(1), np.empty(0), None, "linear")
    assert_shortest(fit(X, y, start=start), *shortest(X, y))


def test_features_that_are_constant_and_rows_that_repeat_each_other() -> None:
    X, y = drawn()
    X[:, 5] = 3.0
    X[:, 17] = -1e6
    X[1::2] = X[::2]
    result = fit(X, y)
    W, b = shortest(X, y)
    assert result.model.coef_[0][5] == result.model.coef_[0][17] == 0
    assert_shortest(result, W, b)


def test_as_many_features_as_are_too_many_by_one_are_like_one_fewer() -> None:
    """On both sides of the border between products and rows the answer is the same one."""
    for features in (4095, 4096):
        X, y = drawn(rows=20, features=features)
        assert_shortest(fit(X, y), *shortest(X, y))


def test_features_far_from_0() -> None:
    """Rounding of their means is 1e-8 of their spreads, and passed for a direction that the data
    tell of."""
    X, y = drawn()
    X = np.round(X, 6) + 2.0**33
    X -= 2.0**33  # what is left has been rounded as it was far away
    W, b = shortest(X, y)
    result = fit(X + 2.0**33, y)
    assert_shortest(result, W, b - 2.0**33 * W.sum(), tolerance=1e-9)
    np.testing.assert_allclose(result.model.coef_[0], W, rtol=0, atol=1e-12 * np.abs(W).max())


def test_units_that_differ_by_more_than_digits_are_told_of() -> None:
    X, y = drawn(rows=30)
    X *= np.logspace(-18, 18, 30)[:, None]
    events: list[Event] = []
    result = fit(X, y, events)
    assert np.isfinite(result.model.coef_).all()
    assert "condition number" in " ".join(warnings_of(events))


def test_a_single_row_of_weight_leaves_nothing_to_be_told() -> None:
    X, y = drawn(rows=3)
    result = fit(X, y, sample_weight=np.array([0.0, 1.0, 0.0]))
    assert result.status == "converged"
    assert not result.model.coef_.any()
    assert result.model.intercept_[0] == y[1]


@pytest.mark.parametrize("rows", [60, 300])
def test_every_engine_has_the_same_bits(rows: int, tmp_path: Path) -> None:
    X, y = drawn(rows)
    root = zarr.open_group(str(tmp_path / "data.zarr"), mode="w")
    root.create_array("X", data=X, chunks=(23, MANY))
    root.create_array("y", data=y)
    bits = set()
    for kind in ("serial", "threads", "processes"):
        for limit in (None, "2GB"):  # with room for the rows they stay in memory
            result = train(
                {
                    "data": {"store": str(tmp_path / "data.zarr")},
                    "model": {"family": "linear"},
                    "cluster": {"kind": kind, "memory_limit": limit},
                    "run": {"directory": str(tmp_path / f"{kind}-{limit}")},
                }
            )
            bits.add(result.summary["coefficients_sha256"])
    assert len(bits) == 1
    assert_shortest(result, *shortest(X, y))


@pytest.mark.parametrize("rows", [60, 300])
def test_reads_are_counted_as_passes(rows: int, reads: ReadsOfArrays) -> None:
    X, y = drawn(rows)
    result = fit(X, y)
    assert reads("features") == result.passes == len(result.history) <= 3


@pytest.mark.parametrize("l2", [0.0, 0.1])
@pytest.mark.parametrize("rows", [60, 300])
@pytest.mark.parametrize("passes", [1, 2])
def test_a_run_that_is_broken_off_goes_on_to_the_bit(
    passes: int, rows: int, l2: float, tmp_path: Path
) -> None:
    X, y = drawn(rows)
    config: dict[str, Any] = {
        "model": {"family": "linear", "penalty": {"l2": l2}},
        "run": {"directory": str(tmp_path / "run")},
    }
    whole = fit(X, y, penalty={"l2": l2})
    with pytest.raises(BrokenOffError):
        train(config, X=X, y=y, subscribers=[broken_off_after(passes)])
    resumed = train(config, X=X, y=y, resume=True)
    assert resumed.summary["coefficients_sha256"] == whole.summary["coefficients_sha256"]
    assert resumed.passes == whole.passes


def test_a_limit_that_has_no_room_for_all_rows_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "streamlr.planning.workforce.process_bytes", lambda: 2**27
    )  # whatever ran here before
    X, y = drawn(rows=900, dtype="float32")
    events: list[Event] = []
    cluster = {"kind": "serial", "memory_limit": "250MB"}
    result = train(
        {"model": {"family": "linear"}, "solver": {"max_passes": 3}, "cluster": cluster},
        X=X,
        y=y,
        subscribers=[events.append],
    )
    assert result.summary["solver"] == "lbfgs"
    assert "not all rows at once" in " ".join(e.text for e in events if isinstance(e, Note))
    assert "many optima" in " ".join(warnings_of(events))


# --- a ridge ---


def by_dual(
    X: Any, y: Array, l2: Array, *, intercept: bool = True, weights: Array | None = None
) -> tuple[Array, float]:
    """The optimum of a ridge of strengths ``l2``, (n,), by the singular values of (X - mean) /
    l2^½."""
    share = np.full(len(y), 1.0 / len(y)) if weights is None else weights / weights.sum()
    X, center, target = X.astype(np.float64), np.zeros(X.shape[1]), 0.0
    if intercept:
        center, target = share @ X, float(share @ y)
    root = np.sqrt(share)
    U, s, Vt = np.linalg.svd(root[:, None] * (X - center) / np.sqrt(l2), full_matrices=False)
    W = Vt.T @ (s / (s**2 + 1) * (U.T @ (root * (y - target)))) / np.sqrt(l2)
    return W, float(target - center @ W)


@pytest.mark.parametrize("solver", ["auto", "newton"])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("l2", [1e-14, 1e-6, 0.1, 1e4])
def test_a_ridge_has_one_optimum_and_nothing_to_be_told(
    l2: float, intercept: bool, solver: str
) -> None:
    X, y = drawn(rows=40)
    events: list[Event] = []
    result = fit(X, y, events, solver=solver, fit_intercept=intercept, penalty={"l2": l2})
    assert_shortest(result, *by_dual(X, y, np.full(MANY, l2), intercept=intercept))
    assert result.summary["solver"] == "least_squares"
    assert not warnings_of(events)


@pytest.mark.parametrize("weighted", [False, True])
def test_a_ridge_of_standardised_features(weighted: bool) -> None:
    X, y = drawn(rows=40)
    X[:, 3] = 2.0  # does not vary, and has no spread to be penalised by
    weights = np.random.default_rng(2).uniform(0.1, 3, len(y)) if weighted else None
    spread = np.sqrt(np.cov(X.T, aweights=weights, ddof=0).diagonal())
    spread[3] = 1.0
    W, b = by_dual(X, y, 0.1 * spread**2, weights=weights)
    result = fit(X, y, sample_weight=weights, standardize=True, penalty={"l2": 0.1})
    assert result.model.coef_[0][3] == 0
    assert_shortest(result, W, b, tolerance=1e-11)  # spreads are float64's


def test_a_start_of_a_ridge_is_forgotten() -> None:
    X, y = drawn(rows=40)
    start = streamlr.Model(np.ones((1, MANY)), np.ones(1), np.empty(0), None, "linear")
    result = fit(X, y, start=start, penalty={"l2": 0.1})
    assert_shortest(result, *by_dual(X, y, np.full(MANY, 0.1)))


def test_what_a_penalty_of_some_features_holds_is_left_to_the_methods_of_many_rows() -> None:
    X, y = drawn(rows=20)
    for penalty in ({"l2": 0.1, "factors": [0.0] + [1.0] * (MANY - 1)}, {"l1": 0.1}):
        events: list[Event] = []
        model, solver = {"family": "linear", "penalty": penalty}, {"max_passes": 2}
        result = train({"model": model, "solver": solver}, X=X, y=y, subscribers=[events.append])
        assert result.summary["solver"] != "least_squares"
        assert "many optima" not in " ".join(warnings_of(events))
