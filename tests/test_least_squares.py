"""Least squares at the default settings: as exact as the data allow, in at most three reads, and of
many optima the shortest."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
from conftest import ReadsOfArrays
from interruptions import BrokenOffError, broken_off_after
from nist import DATASETS, Dataset
from numpy.typing import NDArray
from scipy.linalg import lstsq

import streamlr
from streamlr.events import Event, Note
from streamlr.training import least_squares as squares
from streamlr.training.train import TrainResult, train

Array = NDArray[np.float64]
ULP = float(np.finfo(np.float64).eps)


def exactly(
    X: Array,
    y: Array,
    *,
    intercept: bool = True,
    weights: Array | None = None,
    l2: Array | None = None,
) -> tuple[Array, float]:
    """Coefficients and intercept of least squares, by the normal equations in 120 digits.

    ``l2`` is the strength of half the square of each coefficient beside the mean loss, (n,).
    """
    with mpmath.workdps(120):
        m, n = X.shape
        omega = [mpmath.mpf(w) for w in (np.ones(m) if weights is None else weights).tolist()]
        rows = [[mpmath.mpf(x) for x in row] + [mpmath.mpf(1)] * intercept for row in X.tolist()]
        total = sum(omega)
        d = n + intercept
        H, h = mpmath.matrix(d, d), mpmath.matrix(d, 1)
        for w, row, target in zip(omega, rows, y.tolist(), strict=True):
            for i in range(d):
                h[i] += w * row[i] * mpmath.mpf(target)
                for j in range(d):
                    H[i, j] += w * row[i] * row[j]
        for i in range(n if l2 is not None else 0):
            assert l2 is not None
            H[i, i] += total * mpmath.mpf(float(l2[i]))
        found = [float(value) for value in mpmath.lu_solve(H, h)]
    return np.array(found[:n]), found[n] if intercept else 0.0


def by_qr(data: Dataset) -> Array:
    """Digits of Householder's QR of the centred and scaled data, in float64."""
    center, target = (
        (data.X.mean(axis=0), data.y.mean()) if data.intercept else (np.zeros(data.X.shape[1]), 0.0)
    )
    scale = (data.X - center).std(axis=0)
    Q, R = np.linalg.qr((data.X - center) / scale)
    W = np.linalg.solve(R, Q.T @ (data.y - target)) / scale
    return data.digits(W, float(target - center @ W))


def fit(
    X: Any,
    y: Any,
    events: list[Event] | None = None,
    *,
    solver: dict[str, Any] | None = None,
    cluster: str = "serial",
    **model: Any,
) -> TrainResult:
    given = {
        name: model.pop(name)
        for name in ("sample_weight", "offset", "validation", "start")
        if name in model
    }
    config = {
        "model": {"family": "linear", **model},
        "solver": solver or {},
        "cluster": {"kind": cluster},
    }
    return train(config, X=X, y=y, subscribers=[] if events is None else [events.append], **given)


def warnings_of(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Note) and event.warning]


def assert_exact(result: TrainResult, W: Array, b: float, ulps: float = 2.0) -> None:
    assert result.status == "converged", result.reason
    assert result.passes <= 3
    np.testing.assert_allclose(result.model.coef_[0], W, rtol=ulps * ULP, atol=0)
    np.testing.assert_allclose(result.model.intercept_, b, rtol=ulps * ULP, atol=0)


@pytest.mark.parametrize("name", DATASETS)
def test_the_data_are_those_that_nist_certifies(name: str) -> None:
    """Their exact solution has the digits that rounding of the data to float64 leaves: a slip of
    the pen would leave two or three."""
    data = DATASETS[name]
    assert data.digits(*exactly(data.X, data.y, intercept=data.intercept)).min() > (
        7 if name == "Filip" else 13
    )


@pytest.mark.parametrize("solver", ["auto", "newton"])
@pytest.mark.parametrize("name", DATASETS)
def test_nists_sets_are_solved_to_the_last_digit_in_three_reads(name: str, solver: str) -> None:
    data = DATASETS[name]
    events: list[Event] = []
    result = fit(data.X, data.y, events, solver={"name": solver}, fit_intercept=data.intercept)
    W, b = exactly(data.X, data.y, intercept=data.intercept)
    assert_exact(result, W, b)
    found = data.digits(result.model.coef_[0], float(result.model.intercept_[0]))
    told = "condition number" in " ".join(warnings_of(events))
    assert told == (name == "Filip")
    if not told:
        # 14: beyond, the certified values themselves are rounded. Decimals that float64 does not
        # hold leave the exact solution itself fewer digits, of which two ulps are next to nothing.
        digits = data.digits(W, b).min() - 0.1
        assert found.min() >= min(by_qr(data).min(), 14.0, digits)


@pytest.mark.parametrize("solver", ["lbfgs", "proximal"])
@pytest.mark.parametrize("name", DATASETS)
def test_a_quasi_newton_method_does_not_say_that_it_converged_far_from_the_optimum(
    name: str, solver: str
) -> None:
    data = DATASETS[name]
    events: list[Event] = []
    result = fit(data.X, data.y, events, solver={"name": solver}, fit_intercept=data.intercept)
    assert result.status == "converged"
    found = data.digits(result.model.coef_[0], float(result.model.intercept_[0]))
    assert found.min() >= min(
        by_qr(data).min(), 13.0
    )  # combinations of features stand in the place of some of Filip's
    assert ("condition number" in " ".join(warnings_of(events))) == (name == "Filip")


def unix_seconds(spread: float, rows: int = 400) -> tuple[Array, Array]:
    """A time in seconds beside features near 0."""
    rng = np.random.default_rng(1)
    X = np.column_stack(
        [1.7e9 + np.round(spread * rng.random(rows), 3), rng.normal(size=(rows, 3))]
    )
    return X, 3.0 * (X[:, 0] - 1.7e9) / spread + X[:, 1] - X[:, 2] + rng.normal(size=rows)


@pytest.mark.parametrize("tolerance", [1e-4, 1e-6, 1e-8, 1e-11, 1e-13, 1e-15])
@pytest.mark.parametrize("spread", [1.0, 86_400.0, 3e7])
def test_a_tighter_tolerance_never_gives_a_worse_answer(spread: float, tolerance: float) -> None:
    X, y = unix_seconds(spread)
    for solver in ("auto", "newton"):
        assert_exact(fit(X, y, solver={"name": solver, "tolerance": tolerance}), *exactly(X, y))
    plain = fit(X, y, solver={"name": "lbfgs", "tolerance": tolerance})
    W, _ = exactly(X, y)
    assert plain.status == "converged" or tolerance < 1e-13, plain.reason
    np.testing.assert_allclose(plain.model.coef_[0], W, rtol=max(1e-13, 20 * tolerance), atol=0)


CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "no intercept": {"fit_intercept": False},
    "ridge": {"penalty": {"l2": 0.3}},
    "a feature without a penalty": {"penalty": {"l2": 0.3, "factors": [0.0, 1.0, 2.0, 1.0, 0.5]}},
    "standardize": {"standardize": True, "penalty": {"l2": 0.3}},
    "a tiny ridge": {"penalty": {"l2": 1e-14}},
    "ridge without an intercept": {"fit_intercept": False, "penalty": {"l2": 2.0}},
}


def drawn(rows: int = 300) -> tuple[Array, Array]:
    """Features in units of their own, at places of their own, two of them near each other."""
    rng = np.random.default_rng(5)
    X = rng.normal(size=(rows, 5)) * [1e-3, 1.0, 50.0, 1.0, 1e4] + [0.0, 1e3, -7.0, 0.0, 2e4]
    X[:, 3] = 20.0 * X[:, 2] + 1e-3 * X[:, 3]
    return X, X @ [300.0, 1.0, 0.1, 0.2, 1e-4] + rng.normal(size=rows)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("case", CASES)
def test_weights_and_penalties_are_solved_to_the_last_digit(case: str, weighted: bool) -> None:
    X, y = drawn()
    model = CASES[case]
    weights = (
        np.random.default_rng(0).random(len(y)) * (np.arange(len(y)) % 7 > 0) if weighted else None
    )
    result = fit(X, y, sample_weight=weights, **model)
    l2 = None
    if "penalty" in model:
        l2 = model["penalty"]["l2"] * np.array(model["penalty"].get("factors", np.ones(5)))
        if model.get("standardize"):
            l2 = (
                l2
                * np.cov(
                    X.T, aweights=np.ones(len(y)) if weights is None else weights, ddof=0
                ).diagonal()
            )
    W, b = exactly(X, y, intercept=model.get("fit_intercept", True), weights=weights, l2=l2)
    assert_exact(
        result, W, b, ulps=1e4 if model.get("standardize") else 8
    )  # the spreads in the penalty are float64's, and so is the sum of weights


def test_an_offset_is_taken_from_the_target() -> None:
    X, y = drawn()
    offset = 1e3 * np.sin(np.arange(len(y)))
    with mpmath.workdps(60):
        less = [
            mpmath.mpf(a) - mpmath.mpf(b) for a, b in zip(y.tolist(), offset.tolist(), strict=True)
        ]
    assert_exact(fit(X, y, offset=offset), *exactly(X, np.array(less, dtype=object)))


def test_a_start_changes_nothing() -> None:
    X, y = drawn()
    first = fit(X, y)
    again = fit(X, y, start=first.model)
    assert_exact(again, first.model.coef_[0], float(first.model.intercept_[0]), ulps=0)
    far = fit(X, y, start=streamlr.Model(np.ones((1, 5)), np.ones(1), np.empty(0), None, "linear"))
    assert_exact(far, first.model.coef_[0], float(first.model.intercept_[0]), ulps=0)


def test_rows_that_are_held_out_have_no_part() -> None:
    X, y = drawn()
    out = np.arange(len(y)) % 3 == 0
    result = fit(X, y, validation=out)
    W, b = exactly(X[~out], y[~out])
    assert_exact(result, W, b)
    known = 0.5 * float(np.mean((X[out] @ W + b - y[out]) ** 2))
    assert result.summary["validation_loss"] == pytest.approx(known, rel=1e-9)
    assert result.summary["validation_rows"] == out.sum()


# --- columns that are combinations of others ---


def shortest(X: Array, y: Array, *, intercept: bool = True) -> tuple[Array, float]:
    """LAPACK's minimum-norm solution of the centred data."""
    center, target = (X.mean(axis=0), y.mean()) if intercept else (np.zeros(X.shape[1]), 0.0)
    W = lstsq(X - center, y - target, cond=ULP * max(X.shape))[0]
    return W, float(target - center @ W)


def _square(size: int) -> tuple[Array, Array]:
    rng = np.random.default_rng(size)
    X = rng.normal(size=(size, size))
    return X, X @ rng.normal(size=size) + 10 * rng.normal(size=size)


def _repeated(rows: int = 400) -> tuple[Array, Array]:
    rng = np.random.default_rng(2)
    X = rng.normal(size=(rows, 6)) * [1, 10, 0.1, 1, 1, 1] + 5
    X = np.column_stack([X, X[:, 0], 2 * X[:, 1], X[:, 2], X[:, 3] + X[:, 4]])
    return X, X @ rng.normal(size=10) + rng.normal(size=rows)


def _wide() -> tuple[Array, Array]:
    rng = np.random.default_rng(3)
    return rng.normal(size=(20, 50)) * rng.uniform(0.1, 10, 50) + 3, rng.normal(size=20)


DEFICIENT = {
    "repeated": _repeated(),
    "20 x 50": _wide(),
    "100 x 100": _square(100),
    "200 x 200": _square(200),
    "more than 512": (
        np.random.default_rng(4).normal(size=(90, 600)),
        np.random.default_rng(5).normal(size=90),
    ),
}


@pytest.mark.parametrize("solver", ["auto", "newton", "lbfgs"])
@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("name", DEFICIENT)
def test_of_many_optima_the_shortest_in_the_units_of_the_data_is_taken_and_said_once(
    name: str, intercept: bool, solver: str
) -> None:
    X, y = DEFICIENT[name]
    if solver == "lbfgs" and (name in ("100 x 100", "200 x 200") or len(X[0]) > 512):
        pytest.skip("a method of gradients takes hundreds of passes there")
    events: list[Event] = []
    result = fit(X, y, events, solver={"name": solver}, fit_intercept=intercept)
    W, b = shortest(X, y, intercept=intercept)
    tolerance = (
        1e-5 if solver == "lbfgs" else 1e-10
    )  # what LAPACK's own rounding comes to at a condition of 1e4
    np.testing.assert_allclose(result.model.coef_[0], W, rtol=0, atol=tolerance * np.abs(W).max())
    assert result.model.intercept_[0] == pytest.approx(b, abs=tolerance * (1 + abs(b)))
    assert result.status == "converged"
    if solver != "lbfgs":
        assert result.passes <= 3
        assert len(warnings_of(events)) == (intercept or name not in ("100 x 100", "200 x 200"))


def test_a_constant_feature_beside_repeated_ones() -> None:
    X, y = _repeated()
    X[:, 5] = 3.0
    W, _ = shortest(X, y)
    result = fit(X, y)
    assert result.model.coef_[0][5] == 0
    np.testing.assert_allclose(result.model.coef_[0], W, rtol=0, atol=1e-12 * np.abs(W).max())


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("noise", ["float32", 1e-6, 1e-8, 1e-10])
def test_columns_that_nearly_repeat_each_other_have_their_optimum(
    noise: Any, intercept: bool
) -> None:
    rng = np.random.default_rng(6)
    X = rng.normal(size=(250, 3))
    last = (
        (X[:, 0] + X[:, 1]).astype(np.float32)
        if noise == "float32"
        else X[:, 0] + noise * rng.normal(size=250)
    )
    X = np.column_stack([X, last])
    y = X[:, 0] - X[:, 2] + rng.normal(size=250)
    events: list[Event] = []
    result = fit(
        X, y, events, fit_intercept=intercept, solver={"tolerance": 1e-6}
    )  # coefficients are so large that their rounding shows in the gradient
    assert_exact(result, *exactly(X, y, intercept=intercept))
    assert ("condition number" in " ".join(warnings_of(events))) == (
        noise not in (1e-6, "float32") or (noise == "float32" and intercept is None)
    )


def test_so_many_features_that_no_pairs_are_summed_are_told_of() -> None:
    rng = np.random.default_rng(7)
    X = rng.normal(size=(1500, 520))
    X = np.column_stack([X, X[:, 0] + X[:, 1]])
    y = X[:, 0] + rng.normal(size=1500)
    events: list[Event] = []
    result = fit(X, y, events)
    W, _ = shortest(X, y)
    assert result.status == "converged"
    assert result.passes <= 3
    np.testing.assert_allclose(result.model.coef_[0], W, rtol=0, atol=1e-10)
    assert "float64 does not tell them apart" in " ".join(warnings_of(events))


# --- costs, engines, interruptions ---


def large(rows: int = 30_000) -> tuple[Array, Array]:
    rng = np.random.default_rng(8)
    X = rng.normal(size=(rows, 12)) @ rng.normal(size=(12, 12)) + rng.normal(size=12) * 30
    return X, X @ rng.normal(size=12) + rng.normal(size=rows)


def test_what_is_large_and_well_conditioned_pays_for_no_more_digits_than_it_needs(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    X, y = large()
    monkeypatch.setattr(squares, "_SMALL", 0)
    monkeypatch.setattr(squares, "_CONDITION", 1e4)
    monkeypatch.setattr(squares.FineSquares, "evaluate", None)
    result = fit(X, y)
    assert result.passes == 2
    W, b = shortest(X, y)
    np.testing.assert_allclose(result.model.coef_[0], W, rtol=1e-12)
    assert result.model.intercept_[0] == pytest.approx(b, rel=1e-12)


@pytest.mark.parametrize("name", ["plain", "repeated"])
def test_every_engine_has_the_same_bits(name: str) -> None:
    X, y = large(4000) if name == "plain" else _repeated(4000)
    bits = {
        fit(X, y, cluster=kind, penalty={"l2": 0.0}).summary["coefficients_sha256"]
        for kind in ("serial", "threads", "processes")
    }
    assert len(bits) == 1


@pytest.mark.parametrize("name", ["Norris", "Longley", "Filip", "Wampler5"])
def test_reads_are_counted_as_passes(name: str, reads: ReadsOfArrays) -> None:
    data = DATASETS[name]
    result = fit(data.X, data.y)
    assert reads("features") == result.passes == len(result.history) <= 3


@pytest.mark.parametrize("passes", [1, 2])
def test_the_limit_holds(passes: int, reads: ReadsOfArrays) -> None:
    data = DATASETS["Filip"]
    result = fit(data.X, data.y, solver={"max_passes": passes})
    assert reads("features") == passes
    assert result.status == "pass_limit"


@pytest.mark.parametrize(
    ("name", "passes"), list(itertools.product(["Filip", "Wampler1", "Longley"], [1, 2]))
)
def test_a_run_that_is_broken_off_goes_on_to_the_bit(
    name: str, passes: int, tmp_path: Path
) -> None:
    data = DATASETS[name]
    config: dict[str, Any] = {
        "model": {"family": "linear"},
        "run": {"directory": str(tmp_path / "run")},
    }
    whole = fit(data.X, data.y)
    try:
        train(config, X=data.X, y=data.y, subscribers=[broken_off_after(passes)])
    except BrokenOffError:
        resumed = train(config, X=data.X, y=data.y, resume=True)
        assert resumed.summary["coefficients_sha256"] == whole.summary["coefficients_sha256"]
        assert resumed.passes == whole.passes


@pytest.mark.parametrize("name", list(DATASETS))
@pytest.mark.parametrize("first", [1, 2])
@pytest.mark.parametrize("offset", [False, True])
def test_a_run_that_ends_at_its_limit_goes_on_to_the_bit_under_another(
    name: str, first: int, offset: bool, tmp_path: Path
) -> None:
    """Also where the pass that it had no room for was to sum the products as pairs."""
    data = DATASETS[name]
    given = {"X": data.X, "y": data.y, **({"offset": 0.1 * data.X[:, 0]} if offset else {})}
    config: dict[str, Any] = {
        "model": {"family": "linear"},
        "run": {"directory": str(tmp_path / "run")},
    }
    whole = train({"model": {"family": "linear"}}, **given)
    train({**config, "solver": {"max_passes": first}}, **given)
    resumed = train(config, **given, resume=True)
    assert resumed.summary["coefficients_sha256"] == whole.summary["coefficients_sha256"]
    assert (resumed.status, resumed.passes) == (whole.status, len(resumed.history))


def test_a_limit_that_has_no_room_for_the_products_leaves_the_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "streamlr.planning.workforce.process_bytes", lambda: 2**27
    )  # whatever ran here before
    rng = np.random.default_rng(9)
    X = rng.normal(size=(3000, 3000)).astype(np.float32)
    y = X[:, 0] + rng.normal(size=3000)
    events: list[Event] = []
    config = {
        "model": {"family": "linear", "penalty": {"l2": 1.0}},
        "cluster": {"kind": "serial", "memory_limit": "420MB"},
    }
    result = train(config, X=X, y=y, subscribers=[events.append])
    assert result.summary["solver"] == "lbfgs"
    assert "no products of the features" in " ".join(
        event.text for event in events if isinstance(event, Note)
    )
