"""A fold of a path is what a fit of its rows alone is, its losses say how sure they are, and what
it lacks is told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from batches import batch_of
from numpy.typing import NDArray
from sklearn.model_selection import KFold, PredefinedSplit
from stores import runner, write_store

import streamlr
from streamlr.cli.main import cli
from streamlr.errors import ConfigError
from streamlr.events import Event, Note, PathPassFinished
from streamlr.kernels.batch import Batch, Workspace
from streamlr.kernels.families import FAMILIES
from streamlr.kernels.scans.fold_sums import PartScan, PartSums, spread_of
from streamlr.kernels.scans.moments import MomentScan
from streamlr.kernels.split import Split, folds
from streamlr.pilot import size as pilot_size
from streamlr.training.path import PathResult

M, N, K = 900, 6, 4
Array = NDArray[Any]
DATA_FAMILIES = ("logistic", "softmax", "linear", "poisson")


def data(family: str, seed: int = 3) -> tuple[Array, Array, Array, Array]:
    """Features whose spreads differ by fold, one of them constant without fold 2; a target, weights
    and folds."""
    rng = np.random.default_rng(seed)
    fold = rng.integers(0, K, M)
    X = rng.normal(size=(M, N)) * np.linspace(0.5, 2.0, N) + 100.0
    X[fold == 2, 3] = 100.0 + 5 * (X[fold == 2, 3] - 100.0)
    X[:, 5] = 0.25
    X[np.flatnonzero(fold == 1)[:9], 5] = 3.0
    weight = rng.uniform(0.5, 2.0, M)
    z = (X - 100.0) @ np.array([0.8, 0.3, -0.2, 0.3, 0.0, 0.05])
    if family == "linear":
        y = z + rng.normal(size=M)
        y[fold == 3] *= 3
        return X, y, weight, fold
    if family == "poisson":
        return X, rng.poisson(np.exp(np.clip(z / 4 + 2.0, None, 4.0))).astype(float), weight, fold
    if family == "softmax":
        return X, np.digitize(z + rng.logistic(size=M), [-1.0, 1.0]), weight, fold
    return X, (z + rng.logistic(size=M) > 0).astype(int), weight, fold


def config_of(
    family: str, *, standardize: bool = False, fit_intercept: bool = True, **path: Any
) -> dict[str, Any]:
    model = {
        "family": "logistic" if family == "softmax" else family,
        "standardize": standardize,
        "fit_intercept": fit_intercept,
    }
    return {"model": model, "path": path, "solver": {"tolerance": 1e-11}}


def notes_into(notes: list[Note]) -> Any:
    return lambda event: notes.append(event) if isinstance(event, Note) and event.warning else None


# Fits of their rows alone -------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("fit_intercept", [True, False])
@pytest.mark.parametrize("family", DATA_FAMILIES)
def test_with_standardize_a_fold_is_a_path_of_its_rows_alone(
    family: str, fit_intercept: bool, alpha: float
) -> None:
    X, y, weight, fold = data(family)
    if not fit_intercept:
        X = X - 100.0
    config = config_of(
        family,
        standardize=True,
        fit_intercept=fit_intercept,
        lambdas=[0.2, 0.02],
        alpha=alpha,
        folds=K,
    )
    found = streamlr.path(config, X=X, y=y, sample_weight=weight, folds=fold)
    assert found.status == "converged"
    del config["path"]["folds"]
    for k in range(K):
        kept = fold != k
        alone = streamlr.path(config, X=X[kept], y=y[kept], sample_weight=weight[kept])
        np.testing.assert_allclose(
            found.fold_coefficients[:, k], alone.coefficients, rtol=0, atol=1e-8
        )
        assert (
            alpha == 0 or ((found.fold_coefficients[:, k] == 0) == (alone.coefficients == 0)).all()
        )
    if fit_intercept:
        assert (
            not np.abs(found.fold_coefficients[:, 1, :, 5]).max() > 1e-8
        )  # constant without that fold


def test_its_spreads_are_those_of_a_run_that_is_told_them() -> None:
    """The penalty of standardised coefficients is one of features that are divided by their
    spreads, which anybody can do."""
    X, y, weight, fold = data("logistic")
    found = streamlr.path(
        config_of("logistic", standardize=True, lambdas=[0.05], alpha=0.5, folds=K),
        X=X,
        y=y,
        sample_weight=weight,
        folds=fold,
    )
    for k in (0, 2, 3):
        kept = fold != k
        mean = np.average(X[kept], axis=0, weights=weight[kept])
        s = np.sqrt(np.average((X[kept] - mean) ** 2, axis=0, weights=weight[kept]))
        config = {"model": {"penalty": {"l1": 0.025, "l2": 0.025}}, "solver": {"tolerance": 1e-11}}
        alone = streamlr.train(
            config, X=(X[kept] - mean) / s, y=y[kept], sample_weight=weight[kept]
        ).model
        np.testing.assert_allclose(
            found.fold_coefficients[0, k] * s, alone.coef_, rtol=0, atol=1e-8
        )


@pytest.mark.parametrize("dtype", ["float32", "int16"])
@pytest.mark.parametrize(
    "layout", [{}, {"sample_axis": 1}, {"zarr_format": 2}, {"shards": (200, N)}], ids=str
)
def test_however_the_store_is_laid_out(layout: dict[str, Any], dtype: str, tmp_path: Path) -> None:
    X, y, weight, _ = data("logistic")
    X = np.rint(X * 8).astype(dtype)
    made = write_store(tmp_path / "s.zarr", X, y, (100, N), weights=weight, **layout)
    config = config_of("logistic", standardize=True, lambdas=[0.05], folds=3)
    config["data"] = {"store": made.store, "weights": "weights", "sample_axis": made.sample_axis}
    found = streamlr.path(config)
    parts = folds(3, 0).parts(batch_of(0, np.empty((1, M)), None, None), slice(0, M))
    del config["path"]["folds"], config["data"]
    for k in range(3):
        kept = parts != k
        alone = streamlr.path(config, X=X[kept], y=y[kept], sample_weight=weight[kept])
        np.testing.assert_allclose(
            found.fold_coefficients[:, k], alone.coefficients, rtol=0, atol=1e-8
        )


def test_without_standardize_nothing_is_gathered_and_nothing_changes() -> None:
    X, y, _, fold = data("logistic")
    seen: list[MomentScan] = []
    original = MomentScan.sums

    def watched(scan: MomentScan, batch: Batch, leaf_rows: int, workspace: Workspace) -> Any:
        seen.append(scan)
        return original(scan, batch, leaf_rows, workspace)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MomentScan, "sums", watched)
        streamlr.path(config_of("logistic", lambdas=[0.1], folds=K), X=X, y=y, folds=fold)
        streamlr.path(
            config_of("logistic", standardize=True, lambdas=[0.1], folds=K), X=X, y=y, folds=fold
        )
        streamlr.path(config_of("logistic", standardize=True, lambdas=[0.1]), X=X, y=y)
    told = [scan.parts and scan.parts.features for scan in seen]
    assert told == sorted(told, key=[False, True, None].index)
    assert set(told) == {False, True, None}


# Moments of parts ---------------------------------------------------------------------------------


def sums_of(
    X: Array,
    Y: Array,
    omega: Array,
    parts: Array,
    leaf_rows: int,
    family: str = "linear",
    offset: Array | None = None,
) -> PartSums:
    """By the survey, in leaves of so many rows."""
    classes = np.arange(3) if family == "softmax" else np.arange(2)
    scan = MomentScan(
        classes,
        0.0,
        0,
        family,
        parts=PartScan(Split((), 0, numbered=True), K, True, family == "linear"),
    )
    batch = batch_of(0, X.T, Y, omega, offset, parts.astype(np.int64).view(np.uint64))
    found = scan.sums(batch, leaf_rows, Workspace()).parts
    assert found is not None
    return found


@pytest.mark.parametrize("leaf_rows", [1, 7, 64, M])
def test_moments_of_parts_are_those_of_their_rows(leaf_rows: int) -> None:
    X, y, weight, fold = data("linear")
    weight[::5] = 0.0
    fold[np.flatnonzero(fold != 1)[::11]] = -1
    offset = np.linspace(0, 3, M)
    sums = sums_of(X, y, weight, fold, leaf_rows, offset=offset)
    others = sums.without_each()
    assert sums.weight_sum.shape == (K + 1,)
    for k, (its, at) in enumerate(
        [(sums, p) for p in range(K + 1)] + [(others, p) for p in range(K)]
    ):
        rows = np.flatnonzero(
            (fold == (at if at < K else -1) if its is sums else fold != at) & (weight > 0)
        )
        w, t = weight[rows], (y - offset)[rows]
        assert its.n_rows[at] == len(rows), k
        np.testing.assert_allclose(its.weight_sum[at], w.sum(), rtol=1e-13)
        np.testing.assert_allclose(its.mean[at], np.average(X[rows], axis=0, weights=w), rtol=1e-13)
        mean = np.average(X[rows].astype(np.longdouble), axis=0, weights=w)
        np.testing.assert_allclose(
            its.square_sum[at],
            ((X[rows] - mean) ** 2 * w[:, None]).sum(axis=0).astype(float),
            rtol=1e-11,
            atol=1e-11,
        )
        np.testing.assert_allclose(its.target_mean[at, 0], np.average(t, weights=w), rtol=1e-12)
        np.testing.assert_allclose(
            its.target_square_sum[at, 0],
            np.average((t - np.average(t, weights=w)) ** 2, weights=w) * w.sum(),
            rtol=1e-12,
        )
        assert (its.least[at, 0], its.most[at, 0]) == (t.min(), t.max())
    assert (
        spread_of(others.mean[1], others.square_sum[1], float(others.weight_sum[1]))[5] == 0.0
    )  # exactly
    np.testing.assert_array_equal(sums.whole().n_rows, [np.count_nonzero(weight)])


@pytest.mark.parametrize("value", [0.1, 1e6 + 1 / 3, -7e-5])
@pytest.mark.parametrize("leaf_rows", [3, 50, M])
def test_what_is_constant_in_a_part_has_no_spread_there(value: float, leaf_rows: int) -> None:
    rng = np.random.default_rng(0)
    fold = rng.integers(0, K, M)
    X, y = rng.normal(size=(M, 2)), rng.normal(size=M)
    X[fold != 2, 1], y[fold != 2] = value, value
    left = sums_of(X, y, rng.uniform(0.1, 3.0, M), fold, leaf_rows).without_each()
    assert left.square_sum[2, 1] == left.target_square_sum[2, 0] == 0.0
    assert (left.mean[2, 1], left.target_mean[2, 0]) == (value, value)
    assert (left.square_sum[[0, 1, 3], 1] > 0).all()


def test_the_least_loss_of_counts_is_that_of_the_saturated_model() -> None:
    y = np.array([[0.0, 1.0, 2.5, 1e8]])
    least = FAMILIES["poisson"].least_loss(y)
    assert least[0] == 0.0
    loss, _ = FAMILIES["poisson"].loss_and_activation(np.log(y[:, 1:]), y[:, 1:])
    np.testing.assert_allclose(least[1:], loss[0], rtol=1e-14)
    for name in ("linear", "logistic", "softmax"):
        assert not FAMILIES[name].least_loss(np.ones((1, 3))).any()


# How sure the losses are --------------------------------------------------------------------------


def deviance(family: str, y: Array, Z: Array) -> Array:
    """Of every row, (m,), by its own formula."""
    if family == "linear":
        return (y - Z[:, 0]) ** 2
    if family == "poisson":
        return 2 * (
            np.where(y > 0, y * np.log(np.where(y > 0, y, 1.0)), 0.0)
            - y
            - (y * Z[:, 0] - np.exp(Z[:, 0]))
        )
    if family == "softmax":
        return 2 * (np.log(np.exp(Z).sum(axis=1)) - Z[np.arange(len(y)), y])
    return 2 * (np.log1p(np.exp(Z[:, 0])) - y * Z[:, 0])


@pytest.mark.parametrize("family", DATA_FAMILIES)
def test_standard_errors_are_those_of_the_deviance(family: str) -> None:
    """glmnet's cvm and cvsd: the weighted mean over the folds, and the root of their weighted
    variance over one fold less."""
    X, y, weight, fold = data(family)
    found = streamlr.path(
        config_of(family, lambdas=np.geomspace(0.5, 1e-4, 25).tolist(), alpha=1.0, folds=K),
        X=X,
        y=y,
        sample_weight=weight,
        folds=fold,
    )
    by_fold = np.empty((25, K))
    for i, k in np.ndindex(25, K):
        rows = fold == k
        Z = X[rows] @ found.fold_coefficients[i, k].T + found.fold_intercepts[i, k]
        by_fold[i, k] = np.average(deviance(family, y[rows], Z), weights=weight[rows])
    w = np.bincount(fold, weight)
    mean = by_fold @ w / w.sum()
    error = np.sqrt((by_fold - mean[:, None]) ** 2 @ w / w.sum() / (K - 1))
    np.testing.assert_allclose(
        [2 * row["validation_loss_se"] for row in found.table], error, rtol=1e-7
    )
    constant = (
        2
        * np.average(np.where(y > 0, y * np.log(np.where(y > 0, y, 1.0)), 0.0) - y, weights=weight)
        if family == "poisson"
        else 0.0
    )
    np.testing.assert_allclose(
        [2 * row["validation_loss"] for row in found.table], mean - constant, rtol=1e-9
    )
    lowest = int(mean.argmin())
    assert found.scores["lambda_min"] == found.lambdas[lowest]
    assert (
        found.scores["lambda_1se"]
        == found.lambdas[np.flatnonzero(mean <= mean[lowest] + error[lowest])[0]]
    )
    if family == "poisson":  # with what no model can change in them, the losses choose another
        losses = found.fold_scores["loss"]
        larger = np.sqrt((losses - (losses @ w / w.sum())[:, None]) ** 2 @ w / w.sum() / (K - 1))
        assert larger[lowest] > 1.5 * error[lowest] / 2
        assert (
            found.scores["lambda_1se"]
            < found.lambdas[np.flatnonzero(mean / 2 <= mean[lowest] / 2 + larger[lowest])[0]]
        )


# What a fold lacks --------------------------------------------------------------------------------


def three(seed: int = 0) -> tuple[Array, Array, Array]:
    """Two classes, and a few rows of a third in the second of three folds."""
    rng = np.random.default_rng(seed)
    X, fold = rng.normal(size=(600, 4)), np.arange(600) % 3
    y = np.where(X[:, 0] + rng.logistic(size=600) > 0, "yes", "no").astype(object)
    y[[1, 4, 7, 10]] = "rare"
    return X, y.astype(str), fold


def told(y: Array, X: Array, **given: Any) -> tuple[PathResult, list[str]]:
    notes: list[Note] = []
    family = given.pop("family", "logistic")
    found = streamlr.path(
        config_of(family, lambdas=[0.1, 0.01], folds=3),
        X=X,
        y=y,
        subscribers=[notes_into(notes)],
        **given,
    )
    return found, [note.text for note in notes]


def test_a_fold_that_holds_out_every_row_of_a_class_is_told_and_has_no_say() -> None:
    X, y, fold = three()
    found, notes = told(y, X, folds=fold)
    assert (
        "left to be fitted in fold 2 (class 'rare') of 3: the models there cannot know it"
        in notes[0]
    )
    assert "held out in fold 1 (class 'rare'), fold 3 (class 'rare') of 3" in notes[1]
    assert len(notes) == 2
    losses, weight = found.fold_scores["loss"], np.bincount(fold)
    assert (losses[:, 1] > losses[:, [0, 2]].max(axis=1) + 0.2).all()  # which it would have spoilt
    for i, row in enumerate(found.table):
        assert row["validation_loss"] == pytest.approx(
            np.average(losses[i, [0, 2]], weights=weight[[0, 2]]), rel=1e-12
        )
        assert row["validation_accuracy"] == pytest.approx(
            found.fold_scores["accuracy"][i, [0, 2]].mean(), rel=1e-12
        )
        assert row["validation_loss_se"] == pytest.approx(np.std(losses[i, [0, 2]]), rel=1e-9)
    assert found.scores["folds_left_out"] == [2]
    assert found.status == "converged"


def test_groups_of_which_one_has_all_rows_of_a_class_are_told() -> None:
    X, y, _ = three()
    groups = np.arange(600) % 40
    groups[y == "rare"] = 7
    found, notes = told(y, X, groups=groups)
    (left_out,) = found.scores["folds_left_out"]
    assert f"left to be fitted in fold {left_out} (class 'rare') of 3" in notes[0]


def test_a_class_that_weighs_nothing_in_a_fold_is_missing() -> None:
    X, y, fold = three()
    y[:12] = np.where(
        np.arange(12) % 3 == 1, y[:12], "rare"
    )  # now in every fold, but of no weight in two of them
    weight = np.where((y == "rare") & (fold != 1), 0.0, 1.0)
    found, notes = told(y, X, folds=fold, sample_weight=weight)
    assert "(that weighs anything) is left to be fitted in fold 2 (class 'rare') of 3" in notes[0]
    assert found.scores["folds_left_out"] == [2]
    assert told(y, X, folds=fold)[1] == []


def test_of_two_classes_nobody_is_left_out_but_it_is_told() -> None:
    X, y, fold = three()
    y = np.where(y == "rare", "yes", "no")
    found, notes = told(y, X, folds=fold)
    assert (
        "left to be fitted in fold 2 (class 'yes') of 3: the models there cannot know it, and the "
        "held-out scores say little" in notes[0]
    )
    assert found.scores["folds_left_out"] == []
    assert found.status == "converged"  # which the models of that fold cannot be
    assert np.isfinite([row["validation_loss"] for row in found.table]).all()


def test_areas_are_those_of_folds_that_hold_out_both_classes() -> None:
    X, y, fold = three()
    y = np.where(y == "rare", "yes", "no")
    y[:12:3] = "yes"  # in folds 1 and 2; fold 3 holds out none
    found, notes = told(y, X, folds=fold)
    assert notes == [
        "no row of a class (that weighs anything) is held out in fold 3 (class 'yes') of 3: the "
        "held-out scores there say nothing of it"
    ]
    areas, weight = found.fold_scores["auc"], np.bincount(fold)
    assert np.isnan(areas[:, 2]).all()
    for i, row in enumerate(found.table):
        assert row["validation_auc"] == pytest.approx(
            np.average(areas[i, :2], weights=weight[:2]), rel=1e-12
        )
        assert row["validation_auc_se"] == pytest.approx(np.std(areas[i, :2]), rel=1e-9)


def test_every_fold_that_lacks_a_class_is_counted() -> None:
    X = np.random.default_rng(0).normal(size=(150, 3))
    found, notes = told(np.repeat(["a", "b", "c"], 50), X, folds=np.repeat([0, 1, 2], 50))
    assert "in fold 1 (class 'a'), fold 2 (class 'b'), fold 3 (class 'c') of 3" in notes[0]
    assert "fold 1 (class 'b', class 'c'), fold 2 (class 'a', class 'c')" in notes[1]
    assert found.scores["folds_left_out"] == []
    many = np.arange(150) % 30
    shown: list[Note] = []
    streamlr.path(
        config_of("logistic", lambdas=[1.0], folds=30),
        X=X,
        y=many,
        folds=many,
        subscribers=[notes_into(shown)],
    )
    assert (
        "fold 1 (class 0), fold 2 (class 1), fold 3 (class 2), fold 4 (class 3), fold 5 (class 4) "
        "and 25 more of 30" in shown[0].text
    )
    assert (
        "in fold 1 (class 1, class 2, class 3, class 4, class 5 and 24 more), fold 2 ("
        in shown[1].text
    )


def test_whoever_leaves_one_row_out_at_a_time_is_told_nothing() -> None:
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(40, 2)), rng.permutation(np.arange(40) % 2)
    notes: list[Note] = []
    found = streamlr.path(
        config_of("logistic", lambdas=[1.0], folds=40),
        X=X,
        y=y,
        folds=np.arange(40),
        subscribers=[notes_into(notes)],
    )
    assert not notes
    assert found.scores["folds_left_out"] == []


@pytest.mark.parametrize(
    ("family", "fitted", "holdout"),
    [
        (
            "poisson",
            "every count that is left to be fitted is 0 in fold 2 of 3: no finite rate fits them",
            "that is held out is 0 in fold 1, fold 3 of 3",
        ),
        (
            "linear",
            "every target that is left to be fitted is the same in fold 2 of 3: the models there "
            "are constants",
            "is the same in fold 1, fold 3 of 3",
        ),
    ],
)
def test_numbers_that_are_all_the_same_in_a_fold_are_told(
    family: str, fitted: str, holdout: str
) -> None:
    X, _, fold = three()
    y = np.zeros(600)
    y[[1, 4, 7, 10]] = [1, 2, 1, 4]
    found, notes = told(y, X, folds=fold, family=family)
    assert fitted in notes[0]
    assert holdout in notes[1]
    assert found.status == "converged"
    assert told(y + (np.arange(600) % 7), X, folds=fold, family=family)[1] == []


def test_the_command_says_so_and_the_table_is_printed(tmp_path: Path) -> None:
    X, y, _ = three()
    y[:] = np.where(np.arange(600) == 5, "yes", "no")
    store = write_store(tmp_path / "s.zarr", X, y, (100, 4)).store
    (tmp_path / "c.yaml").write_text(f"data: {{store: {store}}}\npath: {{count: 3, folds: 3}}\n")
    done = runner().invoke(
        cli, ["path", "--config", str(tmp_path / "c.yaml"), "--run-dir", str(tmp_path / "run")]
    )
    assert done.exit_code == 0, done.stderr
    assert "(class 'yes') of 3: the models there cannot know it" in " ".join(done.stderr.split())
    assert json.loads((tmp_path / "run" / "path.json").read_text())["folds_left_out"] == []


def test_it_is_told_again_where_a_run_goes_on(tmp_path: Path) -> None:
    X, y, fold = three()
    config = config_of("logistic", lambdas=[0.1, 0.01], folds=3) | {
        "run": {"directory": str(tmp_path / "run")}
    }

    def stop(event: Event) -> None:
        if isinstance(event, PathPassFinished) and event.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        streamlr.path(config, X=X, y=y, folds=fold, subscribers=[stop])
    notes: list[Note] = []
    again = streamlr.path(
        config, X=X, y=y, folds=fold, resume=True, subscribers=[notes_into(notes)]
    )
    assert any("cannot know it" in note.text for note in notes)
    assert again.table == told(y, X, folds=fold)[0].table


@pytest.mark.parametrize("family", ["logistic", "poisson", "linear"])
def test_folds_have_the_same_bits_on_every_engine_and_after_a_stop(
    family: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y, weight, _ = data(family)
    monkeypatch.setattr(pilot_size, "_LEAST_BYTES", 8_000)
    monkeypatch.setattr(pilot_size, "_WANTED_ROWS_PER_PARAMETER", 1)
    store = write_store(tmp_path / "s.zarr", X, y, (60, N), weights=weight).store
    config = config_of(family, standardize=True, count=4, alpha=0.5, folds=3) | {
        "data": {"store": store, "weights": "weights"}
    }

    def bits(found: PathResult) -> list[bytes]:
        return [
            found.lambdas.tobytes(),
            found.fold_coefficients.tobytes(),
            found.fold_scores["loss"].tobytes(),
            json.dumps(found.table).encode(),
        ]

    whole = streamlr.path(config | {"cluster": {"kind": "serial"}})
    for cluster in (
        {"kind": "threads", "workers": 3},
        {"kind": "processes", "workers": 2},
        {"kind": "threads", "memory_limit": "2GB"},
    ):
        assert bits(streamlr.path(config | {"cluster": cluster})) == bits(whole)
    config["run"] = {"directory": str(tmp_path / "run")}
    for most in range(2, whole.passes + 1):
        config["solver"]["max_passes"] = most
        again = streamlr.path(config, resume=True)
    assert bits(again) == bits(whole)


# The estimator ------------------------------------------------------------------------------------


def test_the_estimator_warns_of_a_class_that_a_fold_cannot_know() -> None:
    X, y, fold = three()
    with pytest.warns(
        UserWarning,
        match=r"cv: no row of a class .* left to be fitted in fold 2 \(class 'rare'\) of 3: the "
        r"models there cannot know it",
    ):
        model = streamlr.LogisticRegressionCV(
            Cs=[0.1, 1.0], cv=PredefinedSplit(fold), scoring="neg_log_loss"
        ).fit(X, y)
    assert model.scores_["rare"].shape == (3, 2)


def test_an_area_that_a_fold_does_not_have_chooses_nothing() -> None:
    X, y, fold = three()
    y = np.where(y == "rare", "yes", "no")
    y[:12:3] = "yes"
    with pytest.warns(
        UserWarning,
        match=r"held out in fold 3 \(class 'yes'\) of 3: there is no area under a curve there",
    ):
        model = streamlr.LogisticRegressionCV(
            Cs=[1e-3, 0.1, 10.0], cv=PredefinedSplit(fold), scoring="roc_auc"
        ).fit(X, y)
    scores = model.scores_["yes"]
    assert np.isnan(scores[2]).all()
    assert model.C_[0] == [1e-3, 0.1, 10.0][int(scores[:2].sum(axis=0).argmax())]
    apart = np.arange(600) >= 300
    with (
        pytest.warns(UserWarning, match="cv: no row of a class"),
        pytest.raises(ConfigError, match="no fold has such a score for each of its models"),
    ):
        streamlr.LogisticRegressionCV(Cs=[1.0], cv=KFold(2), scoring="roc_auc").fit(X, apart)
