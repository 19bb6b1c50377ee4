"""Least squares along a path does not hang on the unit of the target, and every penalty is told as
`train` takes it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from stores import runner, write_store

import streamlr
from streamlr.cli.main import cli
from streamlr.training.path import PathResult

M, N = 600, 30
UNITS = [(1e6, 0.0), (1e-6, 0.0), (1.0, 1e4), (-1e3, 5e3)]

Array = NDArray[Any]


def data(rows: int = M) -> tuple[Array, Array, Array, Array]:
    """More noise than can be fitted well, weights and an offset."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, N)) * np.geomspace(0.1, 10.0, N)
    y = X[:, :8] @ (rng.normal(size=8) / np.geomspace(0.1, 10.0, N)[:8]) + 3 * rng.normal(size=rows)
    return X, y, rng.uniform(0.5, 2.0, rows), rng.normal(size=rows)


def path_of(
    y: Array,
    X: Array,
    given: dict[str, Any] | None = None,
    *,
    standardize: bool = False,
    **path: Any,
) -> PathResult:
    config = {
        "model": {"family": "linear", "standardize": standardize},
        "path": path,
        "solver": {"tolerance": 1e-10},
    }
    return streamlr.path(config, X=X, y=y, **(given or {}))


def r_squared(found: PathResult, X: Array, y: Array) -> float:
    left = y - X @ found.model.coef_[0] - found.model.intercept_[0]
    return 1.0 - float(left @ left / ((y - y.mean()) @ (y - y.mean())))


def spread(y: Array, weight: Array) -> float:
    """Standard deviation, by the weight."""
    return float(np.sqrt(np.average((y - np.average(y, weights=weight)) ** 2, weights=weight)))


@pytest.mark.parametrize(("unit", "shift"), UNITS)
@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("choose", ["min", "1se"])
def test_neither_grid_nor_choice_nor_fit_hang_on_the_unit_of_the_target(
    unit: float, shift: float, standardize: bool, alpha: float, choose: str
) -> None:
    X, y, _, _ = data()
    asked: dict[str, Any] = {"count": 25, "alpha": alpha, "folds": 4, "choose": choose}
    one, other = (
        path_of(y, X, standardize=standardize, **asked),
        path_of(unit * y + shift, X, standardize=standardize, **asked),
    )
    near = {
        "rtol": 1e-7 if shift else 1e-9
    }  # a shift of 1e4 leaves the target four digits fewer, and the tolerance two more than that
    np.testing.assert_allclose(other.lambdas, one.lambdas * abs(unit), **near)
    assert other.chosen == one.chosen
    assert [row["nonzero"] for row in other.table] == [row["nonzero"] for row in one.table]
    assert r_squared(other, X, unit * y + shift) == pytest.approx(r_squared(one, X, y), abs=1e-8)
    assert r_squared(one, X, y) > 0.3  # which the grid of another unit does not reach
    np.testing.assert_allclose(
        other.coefficients / unit,
        one.coefficients,
        rtol=0,
        atol=1e-7 * np.abs(one.coefficients).max(),
    )
    held = [[row["validation_loss"] for row in found.table] for found in (one, other)]
    np.testing.assert_allclose(np.array(held[1]) / unit**2, held[0], rtol=1e-7)


@pytest.mark.parametrize("alpha", [0.0, 0.3])
def test_it_is_the_fit_of_a_target_of_unit_spread(alpha: float) -> None:
    """As glmnet has it: y / s is fitted, with the strength divided by s, and what comes of it
    multiplied by s again."""
    X, y, weight, offset = data()
    y = 250.0 * y
    s = spread(y - offset, weight)
    found = path_of(
        y, X, {"sample_weight": weight, "offset": offset}, lambdas=[0.5 * s, 0.05 * s], alpha=alpha
    )
    for i, strength in enumerate((0.5, 0.05)):
        penalty = {"l1": alpha * strength, "l2": (1 - alpha) * strength}
        config = {"model": {"family": "linear", "penalty": penalty}, "solver": {"tolerance": 1e-10}}
        alone = streamlr.train(config, X=X, y=y / s, sample_weight=weight, offset=offset / s).model
        # of these rows the least curvature is about 0.9 by coefficients of features of unit spread:
        # 2e-10 sqrt(31) / 0.9 of a target of unit spread
        np.testing.assert_allclose(found.coefficients[i] / s, alone.coef_, rtol=0, atol=2e-9 / 0.1)
        np.testing.assert_allclose(found.intercepts[i] / s, alone.intercept_, rtol=0, atol=2e-8)


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("beside", ["nothing", "weights", "offset", "both"])
def test_a_path_of_one_strength_is_a_run_with_the_penalties_that_it_tells(
    beside: str, standardize: bool
) -> None:
    X, y, weight, offset = data()
    given: dict[str, Any] = {}
    if beside in ("weights", "both"):
        given["sample_weight"] = weight
    if beside in ("offset", "both"):
        given["offset"] = 3 * offset
    found = path_of(1e3 * y, X, given, standardize=standardize, lambdas=[40.0], alpha=0.25)
    s = spread(1e3 * y - given.get("offset", 0.0), given.get("sample_weight", np.ones(M)))
    row = found.table[0]
    assert (row["lambda"], row["l1"]) == (40.0, 10.0)
    assert row["l2"] == pytest.approx(30.0 / s, rel=1e-12)
    assert (
        (found.summary["l1"], found.summary["l2"])
        == (row["l1"], row["l2"])
        == (found.scores["l1"], found.scores["l2"])
    )
    config = {
        "model": {
            "family": "linear",
            "standardize": standardize,
            "penalty": {"l1": row["l1"], "l2": row["l2"]},
        },
        "solver": {"tolerance": 1e-10},
    }
    alone = streamlr.train(config, X=X, y=1e3 * y, **given)
    np.testing.assert_allclose(
        found.model.coef_, alone.model.coef_, rtol=0, atol=1e-7 * np.abs(alone.model.coef_).max()
    )
    assert row["objective"] == pytest.approx(alone.summary["objective"], rel=1e-12)


@pytest.mark.parametrize("family", ["logistic", "poisson"])
def test_of_all_else_the_l2_is_the_strength_times_its_share(family: str) -> None:
    X, y, _, _ = data()
    target = (y > 0).astype(int) if family == "logistic" else np.floor(np.abs(y))
    found = streamlr.path(
        {"model": {"family": family}, "path": {"lambdas": [0.3], "alpha": 0.25}}, X=X, y=target
    )
    assert (found.table[0]["l1"], found.table[0]["l2"]) == (0.25 * 0.3, 0.75 * 0.3)


def test_lasso_has_the_bits_that_it_has_without_a_spread() -> None:
    X, y, _, _ = data()
    found = path_of(y, X, lambdas=[0.1], alpha=1.0)
    alone = streamlr.train(
        {"model": {"family": "linear", "penalty": {"l1": 0.1}}, "solver": {"tolerance": 1e-10}},
        X=X,
        y=y,
    ).model
    np.testing.assert_allclose(found.model.coef_, alone.coef_, rtol=0, atol=1e-8)
    assert found.table[0]["l2"] == 0.0


def test_a_constant_target_has_a_path_without_coefficients() -> None:
    X, *_ = data()
    found = path_of(np.full(M, 7.5), X, count=3, alpha=0.5, folds=3)
    assert found.status == "converged"
    assert not found.coefficients.any()
    np.testing.assert_allclose(found.intercepts, 7.5, rtol=1e-12)


def test_the_directory_holds_the_penalties_of_all_models(tmp_path: Path) -> None:
    X, y, weight, _ = data()
    store = write_store(tmp_path / "s.zarr", X, 100 * y, (100, N), weights=weight).store
    (tmp_path / "c.yaml").write_text(
        f"data: {{store: {store}, weights: weights}}\nmodel: {{family: linear}}\npath: {{count: "
        "4, folds: 3, alpha: 0.5}\n"
    )
    done = runner().invoke(
        cli, ["path", "--config", str(tmp_path / "c.yaml"), "--run-dir", str(tmp_path / "run")]
    )
    assert done.exit_code == 0, done.stderr
    kept, group = (
        json.loads((tmp_path / "run" / "path.json").read_text()),
        zarr.open_group(str(tmp_path / "run" / "path.zarr"), mode="r"),
    )
    l1, l2, fold_l1, fold_l2 = (
        np.asarray(group[name]) for name in ("l1", "l2", "fold_l1", "fold_l2")
    )
    np.testing.assert_array_equal(
        [[row["l1"], row["l2"]] for row in kept["path"]], np.stack([l1, l2], axis=1)
    )
    chosen = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (chosen["l1"], chosen["l2"]) == (l1[kept["chosen"]], l2[kept["chosen"]])
    np.testing.assert_array_equal(fold_l1, np.repeat(l1[:, None], 3, axis=1))
    assert fold_l2.shape == (4, 3)
    assert len(set(fold_l2[0].tolist())) == 3  # by the spread of what each leaves
    np.testing.assert_allclose(
        fold_l2 / l2[:, None], np.repeat(fold_l2[:1] / l2[0], 4, axis=0), rtol=1e-12
    )
    config = {
        "data": {"store": store, "weights": "weights"},
        "model": {"family": "linear", "penalty": {"l1": float(l1[2]), "l2": float(l2[2])}},
    }
    near = {"rtol": 0, "atol": 1e-5}  # gradients of 1e-8 of the spread of the target, 400
    np.testing.assert_allclose(
        np.asarray(group["coef"])[2], streamlr.train(config).model.coef_, **near
    )
