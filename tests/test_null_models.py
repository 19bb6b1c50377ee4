"""A path begins at the smallest strength that leaves no penalised coefficient, whatever is not
penalised beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from stores import put, write_store

import streamlr
from streamlr.config.sections import load_config
from streamlr.data.source import ArraySource
from streamlr.errors import MemoryLimitError
from streamlr.events import Event, ScanStarted
from streamlr.execution.local import SerialEngine
from streamlr.execution.scanner import Scanner
from streamlr.kernels.families import FAMILIES
from streamlr.kernels.scans.moments import MomentScan
from streamlr.objective.objective import Moments
from streamlr.pilot import size as pilot_size
from streamlr.planning.plan import MOST_SECANTS, make_plan, solves_null_model
from streamlr.planning.workforce import workers_of
from streamlr.training.null_model import intercept_beside_offset

M, N = 900, 6
FACTORS = [0.0, 1.0, 2.0, 1.0, 0.0, 0.5]
ABOVE = 1e-7
"""By how much a path begins above the very edge, relative."""

Array = NDArray[Any]


def data(family: str, seed: int = 5, rows: int = M) -> tuple[Array, Array, Array, Array]:
    """Correlated features, of which the unpenalised ones tell most, a target, weights and an
    offset."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, N)) * np.linspace(0.5, 2.0, N) + 1.0
    X[:, 1] += 0.6 * X[:, 0]
    weight, offset = rng.uniform(0.5, 2.0, rows), rng.normal(size=rows) + 0.5
    z = (X - 1.0) @ np.array([0.8, 0.3, -0.2, 0.1, 0.0, 0.05])
    if family == "linear":
        return X, 1e3 * (z + offset + rng.normal(size=rows)), weight, 1e3 * offset
    if family == "poisson":
        return (
            X,
            rng.poisson(np.exp(np.clip(0.5 * (z + offset), None, 3.0))).astype(float),
            weight,
            offset,
        )
    if family == "softmax":
        return X, np.digitize(z + rng.logistic(size=rows), [-1.0, 1.0]), weight, offset
    return X, (z + offset + rng.logistic(size=rows) > 0).astype(int), weight, offset


def means_of(family: str, Z: Array) -> Array:
    """Means of the target at Z, (m, c)."""
    if family == "linear":
        return Z
    if family == "poisson":
        return np.exp(Z)
    if family == "softmax":
        E = np.exp(Z - Z.max(axis=1, keepdims=True))
        return E / E.sum(axis=1, keepdims=True)
    return 1 / (1 + np.exp(-Z))


def null_gradient(
    family: str,
    X: Array,
    y: Array,
    weight: Array,
    offset: Array,
    free: Array,
    fit_intercept: bool = True,
) -> Array:
    """Mean gradient by all coefficients, (n, c), where intercept and free columns are at their
    optimum: Newton's method on dense matrices."""
    Y = (
        (y[:, None] == np.arange(3)).astype(float)
        if family == "softmax"
        else y[:, None].astype(float)
    )
    c = Y.shape[1]
    D = np.column_stack([X[:, free], np.ones(len(X))]) if fit_intercept else X[:, free]
    B = np.zeros((D.shape[1], c))
    for _ in range(100):
        mu = means_of(family, D @ B + offset[:, None])
        gradient = D.T @ ((mu - Y) * weight[:, None])
        V = np.einsum("mi,ij->mij", mu, np.eye(c)) - np.einsum(
            "mi,mj->mij", mu, mu
        )  # softmax, logistic
        if family in ("linear", "poisson"):
            V = (np.ones_like(mu) if family == "linear" else mu)[:, :, None]
        H = np.einsum("ma,mij,mb,m->aibj", D, V, D, weight).reshape(D.shape[1] * c, D.shape[1] * c)
        step = np.linalg.lstsq(H, gradient.ravel(), rcond=None)[0].reshape(B.shape)
        B -= step
        if np.abs(step).max(initial=0.0) < 1e-12 * max(1.0, np.abs(B).max(initial=0.0)):
            break
    mu = means_of(family, D @ B + offset[:, None])
    return X.T @ ((mu - Y) * weight[:, None]) / weight.sum()


def largest(
    family: str,
    alpha: float,
    factors: list[float] | None,
    standardize: bool,
    *given: Array,
    fit_intercept: bool = True,
) -> float:
    """Where a path is to begin, by dense matrices."""
    X, _, weight, _ = given
    r = np.ones(X.shape[1]) if factors is None else np.array(factors)
    gradient = null_gradient(family, *given, np.flatnonzero(r == 0), fit_intercept)
    mean = np.average(X, axis=0, weights=weight)
    unit = r * (
        np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weight)) if standardize else 1.0
    )
    return float((np.abs(gradient).max(axis=1)[r > 0] / unit[r > 0]).max() / max(alpha, 1e-3))


def config_of(
    family: str,
    factors: list[float] | None = None,
    *,
    standardize: bool = False,
    fit_intercept: bool = True,
    **path: Any,
) -> dict[str, Any]:
    model = {
        "family": "logistic" if family == "softmax" else family,
        "standardize": standardize,
        "fit_intercept": fit_intercept,
        "penalty": {"factors": factors},
    }
    return {"model": model, "path": path, "solver": {"tolerance": 1e-10}}


def titles_into(scans: list[str]) -> Any:
    def subscriber(event: Event) -> None:
        if isinstance(event, ScanStarted) and event.title != "labels":
            scans.append(event.title)

    return subscriber


# Where the path begins ----------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [1.0, 0.3, 0.0])
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("beside", ["offset", "factors", "both"])
@pytest.mark.parametrize("family", ["logistic", "softmax", "linear", "poisson"])
def test_it_is_the_gradient_of_the_null_model_at_its_optimum(
    family: str, beside: str, standardize: bool, alpha: float
) -> None:
    X, y, weight, offset = data(family)
    if family == "softmax":
        if beside != "factors":
            pytest.skip("an offset common to all classes changes nothing, and is refused")
        offset = np.zeros(M)
    factors = None if beside == "offset" else FACTORS
    used = None if beside == "factors" else offset
    found = streamlr.path(
        config_of(family, factors, standardize=standardize, count=3, alpha=alpha),
        X=X,
        y=y,
        sample_weight=weight,
        offset=used,
    )
    wanted = largest(
        family, alpha, factors, standardize, X, y, weight, np.zeros(M) if used is None else used
    )
    assert found.lambdas[0] == pytest.approx(
        wanted * (1 + ABOVE), rel=1e-8
    )  # the gradient of what is free is 1e-9 of it
    assert found.status == "converged"
    assert found.passes <= 3 + (
        family == "softmax" and alpha > 0
    )  # the survey, the null model, which a sample of all rows gives, and the path
    if alpha > 0:
        penalised = np.flatnonzero(np.ones(N) if factors is None else np.array(factors) > 0)
        assert not found.coefficients[0][:, penalised].any()
        below = config_of(
            family, factors, standardize=standardize, alpha=alpha, lambdas=[wanted * (1 - 1e-3)]
        )
        assert (
            streamlr.path(below, X=X, y=y, sample_weight=weight, offset=used)
            .coefficients[0][:, penalised]
            .any()
        )


@pytest.mark.parametrize("family", ["logistic", "linear", "poisson"])
@pytest.mark.parametrize("factors", [None, FACTORS])
def test_without_an_intercept_the_offset_counts_as_it_is(
    family: str, factors: list[float] | None
) -> None:
    X, y, weight, offset = data(family)
    found = streamlr.path(
        config_of(family, factors, count=2, alpha=1.0, fit_intercept=False),
        X=X,
        y=y,
        sample_weight=weight,
        offset=offset,
    )
    wanted = largest(family, 1.0, factors, False, X, y, weight, offset, fit_intercept=False)
    assert found.lambdas[0] == pytest.approx(wanted * (1 + ABOVE), rel=1e-8)


def test_exposures_are_offsets(tmp_path: Path) -> None:
    X, y, weight, offset = data("poisson")
    store = write_store(tmp_path / "s.zarr", X, y, (100, N), weights=weight)
    put(zarr.open_group(store.store, mode="r+"), "time", np.exp(offset), (100,))
    config = config_of("poisson", FACTORS, count=2, alpha=1.0) | {
        "data": {"store": store.store, "weights": "weights", "exposure": "time"}
    }
    found = streamlr.path(config)
    assert found.lambdas[0] == pytest.approx(
        largest("poisson", 1.0, FACTORS, False, X, y, weight, offset) * (1 + ABOVE), rel=1e-8
    )


@pytest.mark.parametrize("factors", [None, FACTORS])
def test_of_a_coefficient_within_bounds_the_side_counts_to_which_it_may_move(
    factors: list[float] | None,
) -> None:
    X, y, weight, _ = data("logistic")
    config = config_of("logistic", factors, count=2, alpha=1.0)
    config["model"]["bounds"] = {
        "lower": [-np.inf, -np.inf, 0.0, 0.0, -np.inf, 0.0],
        "upper": [np.inf, 0.0, np.inf, np.inf, np.inf, np.inf],
    }
    found = streamlr.path(config, X=X, y=y, sample_weight=weight)
    r = np.ones(N) if factors is None else np.array(factors)
    gradient = null_gradient("logistic", X, y, weight, np.zeros(M), np.flatnonzero(r == 0))[:, 0]
    pull = np.where(
        np.arange(N) == 0,
        np.abs(gradient),
        np.where(np.arange(N) == 1, np.maximum(gradient, 0.0), np.maximum(-gradient, 0.0)),
    )
    pull[4] = abs(gradient[4])
    assert found.lambdas[0] == pytest.approx((pull[r > 0] / r[r > 0]).max() * (1 + ABOVE), rel=1e-8)
    assert not found.coefficients[0, 0, r > 0].any()
    config["path"] = {"lambdas": [found.lambdas[0] * 0.999], "alpha": 1.0}
    assert (
        np.count_nonzero(
            streamlr.path(config, X=X, y=y, sample_weight=weight).coefficients[0, 0, r > 0]
        )
        == 1
    )


def test_bounds_of_what_is_free_hold_in_the_null_model() -> None:
    X, y, weight, _ = data("logistic")
    config = config_of("logistic", FACTORS, count=2, alpha=1.0)
    config["model"]["bounds"] = {
        "upper": {0: 0.2}
    }  # of its optimum, 0.9: so it is at the bound, and only the other is free
    found = streamlr.path(config, X=X, y=y, sample_weight=weight)
    r = np.array(FACTORS)
    gradient = null_gradient("logistic", X, y, weight, 0.2 * X[:, 0], np.array([4]))[:, 0]
    assert gradient[0] < 0
    assert found.lambdas[0] == pytest.approx(
        (np.abs(gradient)[r > 0] / r[r > 0]).max() * (1 + ABOVE), rel=1e-8
    )
    assert found.coefficients[0, 0, 0] == 0.2


def test_penalised_coefficients_that_may_not_be_0_are_where_they_are_smallest() -> None:
    X, y, weight, _ = data("logistic")
    config = config_of("logistic", None, count=2, alpha=1.0)
    config["model"]["bounds"] = {"lower": {2: 0.25}}
    found = streamlr.path(config, X=X, y=y, sample_weight=weight)
    gradient = null_gradient("logistic", X, y, weight, 0.25 * X[:, 2], np.array([], dtype=int))[
        :, 0
    ]
    gradient[2] = min(gradient[2], 0.0)  # it is at its bound, and may grow
    assert found.lambdas[0] == pytest.approx(np.abs(gradient).max() * (1 + ABOVE), rel=1e-8)
    np.testing.assert_array_equal(found.coefficients[0, 0], [0, 0, 0.25, 0, 0, 0])


@pytest.mark.parametrize("family", ["logistic", "linear", "poisson"])
def test_free_features_that_repeat_each_other_do_no_harm(family: str) -> None:
    X, y, weight, offset = data(family)
    twice = np.hstack([X, X[:, :1]])
    found = streamlr.path(
        config_of(family, [*FACTORS, 0.0], count=2, alpha=1.0),
        X=twice,
        y=y,
        sample_weight=weight,
        offset=offset,
    )
    assert found.lambdas[0] == pytest.approx(
        largest(family, 1.0, FACTORS, False, X, y, weight, offset) * (1 + ABOVE), rel=1e-7
    )


def test_where_nothing_is_penalised_any_strength_will_do() -> None:
    X, y, weight, offset = data("logistic")
    found = streamlr.path(
        config_of("logistic", [0.0] * N, count=2, alpha=1.0),
        X=X,
        y=y,
        sample_weight=weight,
        offset=offset,
    )
    assert found.lambdas[0] == 1.0
    np.testing.assert_allclose(found.coefficients[0], found.coefficients[1], atol=1e-8)


# How often the data are read ----------------------------------------------------------------------


def test_an_offset_costs_the_pass_that_it_always_has_and_scans_of_the_offsets_alone() -> None:
    X, y, weight, offset = data("poisson")
    scans: list[str] = []
    config = config_of("poisson", None, count=2, alpha=1.0)
    found = streamlr.path(
        config, X=X, y=y, sample_weight=weight, offset=offset, subscribers=[titles_into(scans)]
    )
    assert [title for title in scans if title != "offset"] == [
        f"pass {i + 1}" for i in range(found.passes)
    ]
    assert (
        scans.count("offset") == 2
    )  # of counts Newton's method is there after one step, and sees it
    scans.clear()
    X, y, weight, offset = data("logistic")
    streamlr.path(
        config_of("logistic", None, count=2),
        X=X,
        y=y,
        sample_weight=weight,
        offset=3 * offset,
        subscribers=[titles_into(scans)],
    )
    assert scans.count("offset") <= 6


@pytest.mark.parametrize(("free", "most"), [(1, 3), (4, 3), (18, 11)])
@pytest.mark.parametrize("family", ["logistic", "poisson", "linear"])
def test_a_sample_leaves_few_passes_for_a_few_free_features(
    family: str, free: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y, weight, offset = data(family, rows=20_000)
    X = np.hstack([X, np.random.default_rng(0).normal(size=(20_000, 18))])
    monkeypatch.setattr(pilot_size, "_LEAST_BYTES", int(0.1 * X.nbytes))
    monkeypatch.setattr(pilot_size, "_WANTED_ROWS_PER_PARAMETER", 1)
    factors = [0.0] * free + [1.0] * (24 - free)
    scans: list[str] = []
    config = config_of(family, factors, count=2, alpha=1.0)
    config["solver"]["tolerance"] = 1e-8
    begun = streamlr.path(
        config, X=X, y=y, sample_weight=weight, offset=offset, subscribers=[titles_into(scans)]
    )
    config["path"] = {"lambdas": begun.lambdas.tolist(), "alpha": 1.0}
    given = streamlr.path(config, X=X, y=y, sample_weight=weight, offset=offset)
    assert scans == [f"pass {i + 1}" for i in range(begun.passes)]
    assert [line["pass"] for line in begun.history] == list(range(1, begun.passes + 1))
    assert given.passes > 2, "of a sample that is no part of the data nothing would be learnt here"
    assert begun.passes - given.passes <= most
    assert begun.lambdas[0] == pytest.approx(
        largest(family, 1.0, factors, False, X, y, weight, offset) * (1 + ABOVE), rel=1e-8
    )


@pytest.mark.parametrize("solver", ["lbfgs", "proximal"])
def test_without_a_sample_it_is_the_same(solver: str) -> None:
    X, y, weight, offset = data("logistic")
    config = config_of("logistic", FACTORS, count=2, alpha=0.0 if solver == "lbfgs" else 1.0)
    config["solver"]["name"] = solver
    found = streamlr.path(config, X=X, y=y, sample_weight=weight, offset=offset)
    wanted = largest(
        "logistic", 0.0 if solver == "lbfgs" else 1.0, FACTORS, False, X, y, weight, offset
    )
    assert found.lambdas[0] == pytest.approx(wanted * (1 + ABOVE), rel=1e-7)


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_where_all_is_penalised_and_there_is_no_offset_no_pass_is_added(alpha: float) -> None:
    X, y, weight, _ = data("logistic")
    with_grid = streamlr.path(
        config_of("logistic", None, count=3, alpha=alpha), X=X, y=y, sample_weight=weight
    )
    given = streamlr.path(
        config_of("logistic", None, lambdas=with_grid.lambdas.tolist(), alpha=alpha),
        X=X,
        y=y,
        sample_weight=weight,
    )
    assert with_grid.passes == given.passes
    np.testing.assert_array_equal(with_grid.coefficients, given.coefficients)


# Bits, engines and memory -------------------------------------------------------------------------


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """A path beside free features and an offset, of a store of which the sample is a part."""
    X, y, weight, offset = data("logistic", rows=4000)
    monkeypatch.setattr(pilot_size, "_LEAST_BYTES", 20_000)
    monkeypatch.setattr(pilot_size, "_WANTED_ROWS_PER_PARAMETER", 1)
    store = write_store(tmp_path / "s.zarr", X, y, (250, N), weights=weight).store
    put(zarr.open_group(store, mode="r+"), "offset", offset, (250,))
    made = config_of("logistic", FACTORS, standardize=True, count=4, alpha=0.5, folds=2)
    made["solver"]["tolerance"] = 1e-8
    return made | {
        "data": {"store": store, "weights": "weights", "offset": "offset"},
        "cluster": {"kind": "serial"},
    }


def bits_of(found: Any) -> list[bytes]:
    return [
        array.tobytes()
        for array in (
            found.lambdas,
            found.coefficients,
            found.intercepts,
            found.fold_coefficients,
            found.fold_scores["loss"],
        )
    ]


@pytest.mark.parametrize(
    "cluster",
    [
        {"kind": "threads", "workers": 3},
        {"kind": "processes", "workers": 2},
        {"kind": "threads", "memory_limit": "2GB"},
    ],
)
def test_engines_agree_to_the_bit(config: dict[str, Any], cluster: dict[str, Any]) -> None:
    assert bits_of(streamlr.path(config | {"cluster": cluster})) == bits_of(streamlr.path(config))


@pytest.mark.parametrize("free", ["factors", "offset alone"])
def test_it_goes_on_to_the_bit_from_wherever_it_stopped(
    free: str, config: dict[str, Any], tmp_path: Path
) -> None:
    if free == "offset alone":
        config["model"]["penalty"] = {}
    whole = streamlr.path(config)
    for stop in range(1, whole.passes):
        run = {**config, "run": {"directory": str(tmp_path / f"run-{stop}")}}
        seen: list[Event] = []

        def break_off(event: Event, stop: int = stop, seen: list[Event] = seen) -> None:
            seen.append(event)
            if isinstance(event, ScanStarted) and event.title == f"pass {stop + 1}":
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            streamlr.path(run, subscribers=[break_off])
        again = streamlr.path(run, resume=True)
        assert bits_of(again) == bits_of(whole)
        assert again.table == whole.table
        assert again.passes == whole.passes


def test_the_strengths_do_not_hang_on_the_limit_of_passes(
    config: dict[str, Any], tmp_path: Path
) -> None:
    whole = streamlr.path(config)
    config["run"] = {"directory": str(tmp_path / "run")}
    config["solver"]["max_passes"] = 2
    first = streamlr.path(config)
    config["solver"]["max_passes"] = 100
    again = streamlr.path(config, resume=True)
    assert first.lambdas.tobytes() == whole.lambdas.tobytes()
    assert bits_of(again) == bits_of(whole)


@pytest.mark.parametrize(
    ("model", "path", "wanted"),
    [
        ({"penalty": {"factors": {1: 0}}}, {}, True),
        ({"penalty": {"factors": [1, 0, 1]}}, {}, True),
        ({"penalty": {"factors": {1: 2}}}, {}, False),
        ({"bounds": {"lower": 0.5}}, {}, True),
        ({"bounds": {"upper": [1, -1, 1]}}, {}, True),
        ({"bounds": {"lower": 0}}, {}, False),
        ({}, {}, False),
        ({"penalty": {"factors": {1: 0}}}, {"lambdas": [1]}, False),
    ],
)
def test_the_plan_knows_of_the_passes_that_need_more_room(
    model: dict[str, Any], path: dict[str, Any], wanted: bool
) -> None:
    assert solves_null_model(load_config({"model": model, "path": path})) == wanted
    assert not solves_null_model(load_config({"model": model}))


def test_room_for_its_points_is_projected() -> None:
    source = ArraySource(np.zeros((5000, 400)), np.arange(5000) % 2)

    def planned(factors: Any) -> Any:
        settings = load_config({"model": {"penalty": {"factors": factors}}, "path": {"count": 2}})
        return make_plan(settings, source, workers_of(settings.cluster, 2))

    few, many = planned(None), planned({0: 0})
    assert (few.columns, many.columns) == (4, MOST_SECANTS)
    assert many.peak_bytes > few.peak_bytes
    with pytest.raises(MemoryLimitError):
        streamlr.path(
            {
                "model": {"penalty": {"factors": {0: 0}}},
                "path": {"count": 2},
                "cluster": {"memory_limit": "60MB"},
            },
            X=source.X,
            y=source.y,
        )


# The intercept beside an offset -------------------------------------------------------------------


@pytest.mark.parametrize("far", [0.0, 1.0, 30.0, 700.0])
@pytest.mark.parametrize("family", ["logistic", "poisson"])
def test_the_intercept_is_the_root_of_its_equation(family: str, far: float) -> None:
    rng = np.random.default_rng(1)
    y = (rng.random(500) < 0.2).astype(float)
    offset = far * rng.choice([-1.0, 1.0], 500) + rng.normal(size=500)
    weight = rng.choice([0.0, 1.0, 2.5], 500)
    offset[weight == 0] = 1e300  # which no sum may notice
    source = ArraySource(np.zeros((500, 1)), y, weight, offset=offset)
    scanner = Scanner(SerialEngine(), source, lambda event: None)
    moments = Moments.from_sums(scanner.run(MomentScan(np.arange(2.0), 0.0, 0, family), "survey"))
    u = intercept_beside_offset(scanner, FAMILIES[family], moments)
    kept = weight > 0
    z = np.longdouble(u) + offset[kept].astype(np.longdouble)
    mean = np.exp(z) if family == "poisson" else 1 / (1 + np.exp(-z))
    assert float(np.average(mean, weights=weight[kept])) == pytest.approx(
        np.average(y, weights=weight), rel=1e-10
    )
    assert scanner.passes == 1
