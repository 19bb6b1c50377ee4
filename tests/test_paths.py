"""Many models fitted together: each is what it would be alone, the data are read as often as for
the slowest of them, and the folds judge them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from batches import batch_of
from numpy.typing import NDArray
from sklearn.linear_model import ElasticNet, LogisticRegression
from sklearn.metrics import accuracy_score, log_loss, roc_auc_score
from stores import runner, write_store

import streamlr
from streamlr.cli.main import cli
from streamlr.config.sections import ClusterConfig, DataConfig, TrainConfig, load_config
from streamlr.data.source import ArraySource
from streamlr.data.sources.group_keys import group_keys
from streamlr.data.sources.store import ZarrSource
from streamlr.errors import ConfigError, RunDirectoryError, ShapeError
from streamlr.events import Event, PathPassFinished, ScanStarted
from streamlr.execution.local import SerialEngine
from streamlr.execution.scanner import Scanner
from streamlr.kernels.scans.fold_scores import FoldScores, bins_for
from streamlr.kernels.scans.moments import MomentScan
from streamlr.kernels.split import folds
from streamlr.objective.objective import Moments, Objective, evaluate_together
from streamlr.pilot import size as pilot_size
from streamlr.planning.plan import make_plan
from streamlr.planning.workforce import workers_of
from streamlr.solvers import Lbfgs, Solve, SolveProgress, minimize_together
from streamlr.training.lambda_grid import CrossValidation, mean_and_error, penalized, strengths
from streamlr.training.path import PathResult

M, N = 900, 5
TOLERANCE = 1e-11
FAMILIES = ("logistic", "softmax", "linear", "poisson")


def data(
    family: str = "logistic", rows: int = M, features: int = N, seed: int = 0
) -> tuple[NDArray[np.float64], NDArray[Any]]:
    """Features of spreads 0.5 to 2, and a target of the family."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, features)) * np.linspace(0.5, 2.0, features) + 1.0
    z = (X - 1.0) @ rng.normal(size=features) / 2
    if family == "linear":
        return X, z + rng.normal(size=rows)
    if family == "poisson":
        return X, rng.poisson(np.exp(np.clip(z, None, 2.0))).astype(np.float64)
    if family == "softmax":
        return X, np.digitize(z + rng.logistic(size=rows), [-1.0, 1.0])
    return X, (z + rng.logistic(size=rows) > 0).astype(np.int64)


def named(family: str) -> str:
    return "logistic" if family == "softmax" else family


def config_of(family: str = "logistic", solver: str = "auto", **path: Any) -> dict[str, Any]:
    return {
        "model": {"family": named(family)},
        "solver": {"tolerance": TOLERANCE, "name": solver},
        "path": path,
    }


def fold_of(
    rows: int, n_folds: int, groups: NDArray[Any] | None = None, seed: int = 0
) -> NDArray[np.intp]:
    """The fold of each row."""
    batch = batch_of(
        0,
        np.empty((1, rows)),
        None,
        None,
        None,
        None if groups is None else group_keys(groups, 0, "groups"),
    )
    return folds(n_folds, seed).parts(batch, slice(0, rows))


def alone(
    family: str, l1: float, l2: float, X: NDArray[Any], y: NDArray[Any], **given: Any
) -> tuple[NDArray[Any], NDArray[Any]]:
    config = {
        "model": {"family": named(family), "penalty": {"l1": l1, "l2": l2}},
        "solver": {"tolerance": TOLERANCE},
    }
    model = streamlr.train(config, X=X, y=y, **given).model
    return model.coef_, model.intercept_


def spread_of(family: str, y: NDArray[Any], weight: NDArray[Any]) -> float:
    """What the l2 of a strength is divided by: of least squares the standard deviation of the
    target, as in glmnet."""
    return float(np.sqrt(np.cov(y, aweights=weight, ddof=0))) if family == "linear" else 1.0


def centred(b: NDArray[Any]) -> NDArray[Any]:
    """Intercepts less what is common to those of several classes, which means nothing; with l1 it
    hangs on the means of the features."""
    return b - b.mean() * (len(b) > 1)


# Each model is what it would be alone -------------------------------------------------------------


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("family", FAMILIES)
def test_every_model_of_a_path_and_of_its_folds_is_that_of_a_fit_of_its_own(
    family: str, alpha: float
) -> None:
    X, y = data(family)
    weight = np.random.default_rng(1).uniform(0.5, 2.0, M)
    lambdas = [0.3, 0.03, 0.003]
    found = streamlr.path(
        config_of(family, lambdas=lambdas, alpha=alpha, folds=3), X=X, y=y, sample_weight=weight
    )
    assert found.status == "converged"
    parts = fold_of(M, 3)
    # two points whose gradients are within the tolerance lie within 2 tolerance sqrt(d) / mu of
    # each other; of 900 such rows mu, the least curvature by coefficients in units of spreads, is
    # above 1e-3
    near = {"rtol": 0, "atol": 2 * TOLERANCE * np.sqrt(3 * (N + 1)) / 1e-3 / 0.5}
    for i, strength in enumerate(lambdas):
        l1, l2 = alpha * strength, (1 - alpha) * strength
        W, b = alone(family, l1, l2 / spread_of(family, y, weight), X, y, sample_weight=weight)
        np.testing.assert_allclose(found.coefficients[i], W, **near)
        np.testing.assert_allclose(centred(found.intercepts[i]), centred(b), **near)
        for k in range(3):
            kept = parts != k
            W, b = alone(
                family,
                l1,
                l2 / spread_of(family, y[kept], weight[kept]),
                X[kept],
                y[kept],
                sample_weight=weight[kept],
            )
            np.testing.assert_allclose(found.fold_coefficients[i, k], W, **near)
            np.testing.assert_allclose(centred(found.fold_intercepts[i, k]), centred(b), **near)
            assert ((found.fold_coefficients[i, k] == 0) == (W == 0)).all()


def test_ridge_and_elastic_net_are_those_of_scikit_learn() -> None:
    X, y = data()
    lambdas = [0.1, 0.01]
    ridge = streamlr.path(config_of(lambdas=lambdas, folds=4), X=X, y=y)
    parts = fold_of(M, 4)
    for i, strength in enumerate(lambdas):
        for k in range(4):
            kept = parts != k
            theirs = LogisticRegression(
                C=1 / (strength * kept.sum()), solver="newton-cholesky", tol=1e-12
            ).fit(X[kept], y[kept])
            np.testing.assert_allclose(
                ridge.fold_coefficients[i, k], theirs.coef_, atol=1e-7
            )  # theirs stops on the decrement, whose root this is
            assert ridge.fold_scores["loss"][i, k] == pytest.approx(
                log_loss(y[~kept], theirs.predict_proba(X[~kept])), abs=1e-8
            )
            assert ridge.fold_scores["accuracy"][i, k] == pytest.approx(
                accuracy_score(y[~kept], theirs.predict(X[~kept]))
            )
            area = roc_auc_score(y[~kept], theirs.decision_function(X[~kept]))
            assert (
                abs(ridge.fold_scores["auc"][i, k] - area)
                <= ridge.fold_scores["auc_error_bound"][i, k] + 1e-12
            )
            assert ridge.fold_scores["auc_error_bound"][i, k] < 1e-3
    X, y = data("linear")
    net = streamlr.path(config_of("linear", lambdas=lambdas, alpha=0.4), X=X, y=y)
    for i, row in enumerate(
        net.table
    ):  # whose l2 is by the spread of the target; scikit-learn's is not
        theirs = ElasticNet(
            row["l1"] + row["l2"],
            l1_ratio=row["l1"] / (row["l1"] + row["l2"]),
            tol=1e-14,
            max_iter=100_000,
        ).fit(X, y)
        np.testing.assert_allclose(net.coefficients[i, 0], theirs.coef_, atol=1e-8)


@pytest.mark.parametrize("solver", ["lbfgs", "proximal"])
def test_without_a_sample_they_are_the_same(solver: str) -> None:
    X, y = data()
    alpha = 0.5 if solver == "proximal" else 0.0
    with_sample = streamlr.path(config_of(lambdas=[0.1, 0.01], alpha=alpha, folds=2), X=X, y=y)
    without = streamlr.path(
        config_of(solver=solver, lambdas=[0.1, 0.01], alpha=alpha, folds=2), X=X, y=y
    )
    assert without.summary["solver"] == solver
    assert without.passes > with_sample.passes
    np.testing.assert_allclose(
        without.coefficients, with_sample.coefficients, atol=1e-8
    )  # as above: 2e-11 sqrt(6) / 1e-3 and a half
    np.testing.assert_allclose(
        without.fold_scores["loss"], with_sample.fold_scores["loss"], atol=1e-8
    )


def test_many_classes_have_the_metric_of_a_kronecker_product(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("streamlr.pilot.size.NEWTON_PARAMETERS", 10)
    monkeypatch.setattr("streamlr.pilot.size.DENSE_PRODUCTS", 0)
    for alpha in (0.0, 0.5):
        X, y = data("softmax")
        found = streamlr.path(
            config_of("softmax", lambdas=[0.1, 0.01], alpha=alpha, folds=2), X=X, y=y
        )
        assert found.status == "converged"
        for i, strength in enumerate(found.lambdas):
            W, _ = alone("softmax", alpha * strength, (1 - alpha) * strength, X, y)
            np.testing.assert_allclose(found.coefficients[i], W, atol=1e-8)


def test_factors_bounds_and_offsets_hold_along_a_path() -> None:
    X, y = data("poisson")
    offset = np.random.default_rng(3).normal(size=M) / 4
    model = {
        "family": "poisson",
        "bounds": {"lower": 0.0},
        "penalty": {"factors": [1.0, 0.0, 2.0, 1.0, 0.5]},
    }
    config = config_of(count=4, alpha=0.5, folds=2)
    config["model"] = model
    found = streamlr.path(config, X=X, y=y, offset=offset)
    assert found.status == "converged"
    assert (found.coefficients >= 0).all()
    for i in (1, 3):
        strength = float(found.lambdas[i])
        penalty = {"l1": 0.5 * strength, "l2": 0.5 * strength, "factors": [1.0, 0.0, 2.0, 1.0, 0.5]}
        fit = streamlr.train(
            {"model": {**model, "penalty": penalty}, "solver": {"tolerance": TOLERANCE}},
            X=X,
            y=y,
            offset=offset,
        )
        np.testing.assert_allclose(found.coefficients[i], fit.model.coef_, atol=1e-8)


def test_folds_whose_curvature_is_not_that_of_all_rows_are_solved_all_the_same() -> None:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(150, 30))
    y = (rng.random(150) < 1 / (1 + np.exp(-X[:, 0] - X[:, 1]))).astype(int)
    found = streamlr.path({"path": {"alpha": 1.0, "count": 20, "folds": 2}}, X=X, y=y)
    assert (found.status, found.passes) == ("converged", 3)


# The grid, and what the folds say of it -----------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_the_largest_strength_is_the_smallest_that_leaves_no_coefficient(family: str) -> None:
    X, y = data(family)
    found = streamlr.path(config_of(family, alpha=1.0, count=30), X=X, y=y)
    counted = [row["nonzero"] for row in found.table]
    assert counted[0] == 0
    assert counted[-1] == N
    np.testing.assert_allclose(found.lambdas[1:] / found.lambdas[:-1], 1e-4 ** (1 / 29), rtol=1e-12)
    just_below = streamlr.path(
        config_of(family, alpha=1.0, lambdas=[0.999 * found.lambdas[0]]), X=X, y=y
    )
    assert just_below.table[0]["nonzero"] == 1


def test_the_grid_is_glmnets() -> None:
    X, y = data("linear", rows=4, features=6)
    centred = X - X.mean(axis=0)
    slope = np.abs(centred.T @ (y - y.mean())).max() / 4
    few = streamlr.path(config_of("linear", alpha=0.5, count=3), X=X, y=y)
    np.testing.assert_allclose(
        few.lambdas, slope / 0.5 * np.array([1, 0.1, 0.01]), rtol=1e-6
    )  # fewer rows than features: down to 1e-2
    ridge = streamlr.path(config_of("linear", count=2, ratio=0.5), X=X, y=y)
    np.testing.assert_allclose(ridge.lambdas, slope / 1e-3 * np.array([1, 0.5]), rtol=1e-6)
    assert len(streamlr.path({"model": {"family": "linear"}, "path": {}}, X=X, y=y).lambdas) == 100


def test_the_model_of_one_standard_error_is_the_most_penalised_within_it() -> None:
    losses = np.array([[1.0, 1.2], [0.7, 0.9], [0.6, 0.8], [0.5, 0.9], [0.9, 0.9]])
    weights = np.full((5, 2), 50.0)
    found = CrossValidation.of(losses, weights)
    # means 1.1, 0.8, 0.7, 0.7, 0.9; of the lowest, 0.6 and 0.8 about 0.7: sqrt(0.01 / (2 - 1)) =
    # 0.1, so up to 0.8
    np.testing.assert_allclose(found.mean, [1.1, 0.8, 0.7, 0.7, 0.9])
    np.testing.assert_allclose(found.standard_error[2], 0.1)
    assert found.lowest in (2, 3)
    judged = CrossValidation.of(losses[:3] + 1e-9 * np.arange(3)[:, None], weights[:3])
    assert (judged.lowest, judged.within_one) == (2, 1)
    mean, error = mean_and_error(np.array([[1.0, 4.0]]), np.array([[3.0, 1.0]]))
    np.testing.assert_allclose([mean[0], error[0]], [1.75, np.sqrt((3 * 0.75**2 + 2.25**2) / 4)])


@pytest.mark.parametrize("choose", ["min", "1se"])
def test_the_chosen_model_is_that_of_the_table(choose: str) -> None:
    X, y = data()
    found = streamlr.path(config_of(count=12, folds=4, choose=choose), X=X, y=y)
    mean = np.array([row["validation_loss"] for row in found.table])
    error = np.array([row["validation_loss_se"] for row in found.table])
    lowest = int(mean.argmin())
    expected = (
        lowest if choose == "min" else int(np.flatnonzero(mean <= mean[lowest] + error[lowest])[0])
    )
    assert found.chosen == expected
    np.testing.assert_array_equal(found.model.coef_, found.coefficients[expected])
    losses = found.fold_scores["loss"]
    held = np.bincount(fold_of(M, 4))
    np.testing.assert_allclose(mean, losses @ held / M, rtol=1e-12)
    without_folds = streamlr.path(config_of(count=12), X=X, y=y)
    assert without_folds.chosen == 11
    assert "validation_loss" not in without_folds.table[0]


@pytest.mark.parametrize(
    ("lambdas", "told"), [([0.3, 0.1], True), ([0.3, 1e-2, 1e-9], False), ([0.1], False)]
)
def test_a_grid_that_ends_before_the_lowest_loss_is_told(lambdas: list[float], told: bool) -> None:
    X, y = data()
    X = np.hstack(
        [X, np.random.default_rng(3).normal(size=(M, 60))]
    )  # noise enough for a penalty to be of use
    notes: list[str] = []
    streamlr.path(
        config_of(lambdas=lambdas, folds=3),
        X=X,
        y=y,
        subscribers=[lambda event: notes.append(getattr(event, "text", ""))],
    )
    assert (
        any("lowest at the smallest strength, 0.1: smaller path.lambdas" in text for text in notes)
        == told
    )


def test_models_without_coefficients_rank_nothing_and_that_exactly() -> None:
    X, y = data()
    found = streamlr.path(config_of(lambdas=[1e3, 0.01], alpha=1.0, folds=3), X=X, y=y)
    assert not found.fold_coefficients[0].any()
    assert (found.fold_scores["auc"][0] == 0.5).all()
    assert (found.fold_scores["auc_error_bound"][0] == 0.0).all()
    assert (found.fold_scores["auc_error_bound"][1] > 0.0).all()


def test_rows_of_a_group_are_held_out_together() -> None:
    X, y = data()
    groups = np.random.default_rng(2).integers(0, 40, M)
    parts = fold_of(M, 3, groups)
    assert all(len(set(parts[groups == g])) == 1 for g in range(40))
    found = streamlr.path(config_of(lambdas=[0.01], folds=3), X=X, y=y, groups=groups)
    for k in range(3):
        W, _ = alone("logistic", 0, 0.01, X[parts != k], y[parts != k])
        np.testing.assert_allclose(found.fold_coefficients[0, k], W, atol=1e-8)


def test_folds_that_are_dealt_out_already_are_those() -> None:
    X, y = data()
    fold = np.arange(M) * 7 % 4 - 1
    found = streamlr.path(config_of(lambdas=[0.01], folds=3), X=X, y=y, folds=fold)
    for k in range(3):
        W, _ = alone("logistic", 0.0, 0.01, X[fold != k], y[fold != k])
        np.testing.assert_allclose(found.fold_coefficients[0, k], W, rtol=0, atol=1e-7)
    with pytest.raises(ConfigError, match="groups and folds exclude each other"):
        streamlr.path(config_of(lambdas=[0.01], folds=3), X=X, y=y, folds=fold, groups=fold)


def test_a_fold_without_rows_is_refused() -> None:
    X, y = data(rows=60)
    with pytest.raises(
        ShapeError,
        match=r"fold \d of 3 holds no rows .* among the 60 of the data; set path.folds lower",
    ):
        streamlr.path(config_of(lambdas=[0.1], folds=3), X=X, y=y, groups=np.zeros(60, dtype=int))


@pytest.mark.parametrize("classes", [2, 3])
def test_scores_of_held_out_rows_merge(classes: int) -> None:
    rng = np.random.default_rng(0)
    c = 1 if classes == 2 else 3
    bins = bins_for(rng.normal(size=(2, 3, 4, c)), np.zeros((2, 3, c)), rng.normal(size=(20, 4)))
    assert bins.width.shape == (2, 3)
    assert (bins.width > 0).all()
    some = FoldScores(np.ones((2, 3)), np.ones((2, 3)), np.ones((2, 3, bins.count, 2)), np.zeros(1))
    twice = some + some
    np.testing.assert_array_equal(twice.bin_sum, 2.0)
    if classes == 2:
        np.testing.assert_allclose(twice.areas()[0], 0.5)


# How often the data are read ----------------------------------------------------------------------


def test_64_coefficient_vectors_take_one_pass() -> None:
    X, y = data()
    scanner = Scanner(SerialEngine(), ArraySource(X, y), lambda event: None)
    moments = Moments.from_sums(scanner.run(MomentScan(np.arange(2), 0.0, 0), "survey"))
    assert scanner.passes == 1
    model = load_config({}).model
    problems, numbers = [], []
    for k in range(64):
        objective = Objective(
            scanner,
            penalized(model, 1e-3 * (k + 1), 0.0),
            np.arange(2),
            moments,
            split=folds(4, 0),
            holdout=k % 5 - 1,
        )
        solver = Lbfgs(objective, 1e-8)
        problems.append(
            Solve(
                objective,
                solver,
                lambda found, solver=solver, objective=objective: solver.init(objective, found),
            )
        )  # type: ignore[misc]
    standings = [SolveProgress(problem.problem.start()) for problem in problems]
    minimize_together(
        problems, standings, 1, 2, evaluate_together, lambda number, *_: numbers.append(number), 64
    )
    assert (numbers, scanner.passes) == ([2], 2)
    minimize_together(
        problems,
        standings,
        1,
        3,
        evaluate_together,
        lambda number, _, complete: numbers.append((number, complete)),
        32,
    )  # type: ignore[arg-type]
    assert numbers[1:] == [(2, False), (3, True)]


@pytest.mark.parametrize("alpha", [0.0, 0.5])
def test_the_data_are_read_as_often_as_for_the_slowest_model(
    alpha: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = data(rows=20_000)
    monkeypatch.setattr(pilot_size, "_LEAST_BYTES", int(0.1 * X.nbytes))
    monkeypatch.setattr(pilot_size, "_WANTED_ROWS_PER_PARAMETER", 1)
    scans: list[str] = []

    def count(event: Event) -> None:
        if isinstance(event, ScanStarted) and event.title != "labels":
            scans.append(event.title)

    lambdas = [0.1, 0.03, 0.01, 0.003]
    config = config_of(lambdas=lambdas, alpha=alpha)
    config["solver"]["tolerance"] = 1e-8
    found = streamlr.path(config, X=X, y=y, subscribers=[count])
    passes = []
    for strength in lambdas:
        penalty = {"l1": alpha * strength, "l2": (1 - alpha) * strength}
        passes.append(
            streamlr.train(
                {"model": {"penalty": penalty}, "solver": {"tolerance": 1e-8}}, X=X, y=y
            ).passes
        )
    assert found.status == "converged"
    assert min(passes) > 2, (
        "of a sample that is no longer a part of the data nothing would be learnt here"
    )
    assert (
        found.passes <= max(passes) + 1
    )  # the samples' optima differ by what their solves leave, which is worth a pass at most
    assert scans == [f"pass {i + 1}" for i in range(found.passes)]
    config["path"]["folds"] = 3
    assert (
        streamlr.path(config, X=X, y=y).passes <= max(passes) + 3
    )  # folds are smaller than the whole, and the areas under the curve take a pass


# Directories, checkpoints and memory --------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> str:
    X, y = data(rows=3000)
    return write_store(tmp_path / "s.zarr", X, y, (250, N)).store


def bits_of(found: PathResult) -> list[bytes]:
    arrays = [
        found.coefficients,
        found.intercepts,
        found.fold_coefficients,
        found.fold_intercepts,
        *found.fold_scores.values(),
    ]
    return [array.tobytes() for array in arrays]


@pytest.mark.parametrize(
    ("family", "alpha", "solver"),
    [
        ("logistic", 0.0, "auto"),
        ("logistic", 0.5, "auto"),
        ("logistic", 0.0, "lbfgs"),
        ("softmax", 0.0, "auto"),
        ("softmax", 0.5, "auto"),
    ],
)
def test_a_path_goes_on_to_the_bit(
    family: str, alpha: float, solver: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = data(family, rows=4000)
    monkeypatch.setattr(pilot_size, "_LEAST_BYTES", 20_000)
    monkeypatch.setattr(pilot_size, "_WANTED_ROWS_PER_PARAMETER", 1)
    monkeypatch.setattr("streamlr.runs.checkpoint._LARGE_BYTES", 200)
    if family == "softmax":
        monkeypatch.setattr("streamlr.pilot.size.NEWTON_PARAMETERS", 10)
    monkeypatch.setattr("streamlr.pilot.size.DENSE_PRODUCTS", 0)
    config = config_of(family, solver=solver, lambdas=[0.1, 0.01, 0.001], alpha=alpha, folds=2)
    config |= {
        "data": {"store": write_store(tmp_path / "s.zarr", X, y, (250, N)).store},
        "cluster": {"kind": "serial"},
    }
    config["solver"]["tolerance"] = 1e-8
    whole = streamlr.path(config)
    solves = len([line for line in whole.history if line["active"] or line["pass"] == 1])
    assert solves > 2
    config["run"] = {"directory": str(tmp_path / "run")}
    for most in sorted({2, 3, solves // 2 + 1, whole.passes}):
        config["solver"]["max_passes"] = most
        again = streamlr.path(config, resume=True)
    assert bits_of(again) == bits_of(whole)
    assert again.table == whole.table
    assert again.passes == whole.passes
    assert len(list((tmp_path / "run" / "checkpoint").glob("pass-*"))) == 2


@pytest.mark.parametrize("given", ["groups", "folds"])
def test_rows_dealt_out_otherwise_are_another_path(given: str, tmp_path: Path) -> None:
    X, y = data()
    config = {
        **config_of(lambdas=[0.1, 0.01], folds=3),
        "run": {"directory": str(tmp_path / "run")},
    }
    dealt = np.arange(M) % (
        3 if given == "folds" else 31
    )  # groups go to folds by a hash, which leaves a fold of few groups empty

    def stop(event: Event) -> None:
        if isinstance(event, PathPassFinished) and event.number == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        streamlr.path(config, X=X, y=y, subscribers=[stop], **{given: dealt})
    for other in ({given: dealt[::-1].copy()}, {}):
        with pytest.raises(
            RunDirectoryError,
            match=r"dealt out to other folds than those that are now.*overwrite=True",
        ):
            streamlr.path(config, X=X, y=y, resume=True, **other)
    again = streamlr.path(config, X=X, y=y, resume=True, **{given: dealt})
    whole = streamlr.path(config_of(lambdas=[0.1, 0.01], folds=3), X=X, y=y, **{given: dealt})
    assert again.model.coefficients_sha256 == whole.model.coefficients_sha256


def test_data_that_are_others_than_those_of_the_path_being_replaced_are_told(
    store: str, tmp_path: Path
) -> None:
    config = {
        **config_of(lambdas=[0.1]),
        "data": {"store": store},
        "run": {"directory": str(tmp_path / "run")},
    }
    streamlr.path(config)
    zarr.open_group(store, mode="r+")["X"][3, 0] += 1.0
    notes: list[str] = []
    streamlr.path(
        config, overwrite=True, subscribers=[lambda event: notes.append(getattr(event, "text", ""))]
    )
    assert any("are not those that the run being replaced was trained on" in text for text in notes)


def test_an_empty_fold_is_found_before_the_models_are_solved() -> None:
    X, y = data()
    seen: list[Event] = []
    with pytest.raises(ShapeError, match="fold 3 of 3 holds no rows"):
        streamlr.path(
            config_of(solver="lbfgs", lambdas=[0.01], folds=3),
            X=X,
            y=y,
            folds=np.arange(M) % 2,
            subscribers=[seen.append],
        )
    assert sum(isinstance(event, PathPassFinished) for event in seen) == 2


def test_a_checkpoint_of_another_path_is_refused_but_another_choice_is_none(
    store: str, tmp_path: Path
) -> None:
    config = config_of(count=40, folds=3, choose="min") | {
        "data": {"store": store},
        "run": {"directory": str(tmp_path / "run")},
    }
    first = streamlr.path(config)
    config["path"]["choose"] = "1se"
    other = streamlr.path(config, resume=True)
    assert other.chosen != first.chosen
    np.testing.assert_array_equal(other.coefficients, first.coefficients)
    with pytest.raises(ConfigError, match="is one of a path of penalties"):
        streamlr.summary(tmp_path / "run", store)
    with pytest.raises(RunDirectoryError, match=r"is a path; go on with streamlr\.path"):
        streamlr.train(config, resume=True)
    config["path"]["folds"] = 4
    with pytest.raises(RunDirectoryError, match=r"made with path.folds 3, this run has 4"):
        streamlr.path(config, resume=True)
    with pytest.raises(RunDirectoryError, match="overwrite=True"):
        streamlr.path(config)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_engines_agree_to_the_bit(kind: str, store: str) -> None:
    config = config_of(count=4, folds=2) | {"data": {"store": store}}
    here = streamlr.path(config | {"cluster": {"kind": "serial"}})
    there = streamlr.path(config | {"cluster": {"kind": kind, "workers": 2}})
    assert bits_of(there) == bits_of(here)


def test_the_plan_counts_the_models(store: str) -> None:
    def planned(limit: int | None = None, **path: Any) -> Any:
        settings: TrainConfig = load_config(
            {"data": {"store": store}, "path": path, "cluster": {"memory_limit": limit}}
        )
        return make_plan(settings, ZarrSource(settings.data), workers_of(settings.cluster, 2))

    few, many = planned(count=2), planned(count=2000, folds=9)
    assert (few.models, few.columns) == (2, 4)
    assert (many.models, many.columns) == (20_000, 20_000)
    # of each model at least 110 vectors of its state
    assert many.peak_bytes - few.peak_bytes > 19_998 * 110 * (N + 1) * 8
    one_thread = make_plan(
        load_config({"data": {"store": store}, "path": {"count": 2000, "folds": 9}}),
        ZarrSource(DataConfig(store=store)),
        workers_of(ClusterConfig(), 1),
    )
    tight = planned(one_thread.peak_bytes - 10_000_000, count=2000, folds=9)
    assert tight.columns < tight.models == 20_000
    assert f"{tight.columns} of 20000 models in a pass" in tight.fitted


def test_models_that_have_no_room_in_one_pass_take_several(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(count=6, folds=2) | {"data": {"store": store}}
    whole = streamlr.path(config)
    from streamlr.planning.plan import Plan
    from streamlr.runs import session as first_look

    def narrow(*arguments: Any, **named: Any) -> Plan:
        from dataclasses import replace

        return replace(make_plan(*arguments, **named), columns=5)

    monkeypatch.setattr(first_look, "make_plan", narrow)
    several = streamlr.path(config)
    assert (
        several.passes >= whole.passes + 3
    )  # 18 models, 5 at a time: four passes for the first step, fewer for the next
    assert [line["pass"] for line in several.history] == list(range(1, several.passes + 1))
    np.testing.assert_allclose(several.coefficients, whole.coefficients, atol=1e-8)


# Configuration and command line -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": {"lambdas": [1, -1]}}, r"path.lambdas: -1.0 is out of range"),
        ({"path": {"lambdas": []}}, r"path.lambdas: 0 strengths; expected 1 to 10000"),
        ({"path": {"lambdas": [1, 0.5, 1]}}, r"path.lambdas: 1 is there twice"),
        ({"path": {"lambdas": "1"}}, r"path.lambdas: expected a list of numbers, or null, got '1'"),
        ({"path": {"count": 0}}, r"path.count: 0 is out of range"),
        ({"path": {"ratio": 1.0}}, r"path.ratio: 1.0 is out of range"),
        ({"path": {"alpha": 1.5}}, r"path.alpha: 1.5 is out of range; it must be 0 to 1"),
        ({"path": {"folds": 1}}, r"path.folds: 1 is out of range; it must be 2 to 100, or 0"),
        ({"path": {"choose": "max"}}, r"path.choose: 'max' is none of min, 1se"),
        ({"path": {"fold": 3}}, r"unknown key 'path.fold'; did you mean 'path.folds'"),
        (
            {"path": {}, "model": {"penalty": {"l2": 0.1}}},
            r"model.penalty: l1 is 0 and l2 is 0.1, and a path goes through penalties of its own",
        ),
        (
            {"path": {}, "solver": {"name": "newton"}},
            r"solver.name: a path is fitted by auto, lbfgs or proximal, not newton",
        ),
        (
            {"path": {"alpha": 0.5}, "solver": {"name": "lbfgs"}},
            r"solver.name: lbfgs minimises what is smooth, and path.alpha is 0.5",
        ),
        (
            {"path": {}, "validation": {"fraction": 0.1}},
            r"validation: a path judges its models by folds",
        ),
    ],
)
def test_what_a_path_cannot_mean_is_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        load_config(settings)


def test_numbers_that_yaml_reads_as_texts_are_strengths(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text("path: {lambdas: [1e-3, 1, 0.5]}\n")
    found = load_config(tmp_path / "c.yaml").path
    assert found is not None
    assert found.lambdas == (1e-3, 1.0, 0.5)
    assert "path" not in load_config({}).to_dict()


def test_the_command_writes_a_table_and_a_model(store: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(
        f"data: {{store: {store}}}\npath: {{count: 6, folds: 3, choose: 1se}}\n"
    )
    run = tmp_path / "run"
    arguments = ["path", "--config", str(tmp_path / "c.yaml"), "--run-dir", str(run)]
    done = runner().invoke(cli, [*arguments, "--json"])
    assert done.exit_code == 0, done.stderr
    printed = json.loads(done.stdout)
    kept = json.loads((run / "path.json").read_text())
    assert printed["path"] == kept["path"]
    assert [row["lambda"] for row in kept["path"]] == sorted(
        (row["lambda"] for row in kept["path"]), reverse=True
    )
    chosen = kept["path"][kept["chosen"]]
    assert kept["lambda"] == chosen["lambda"] == kept["lambda_1se"]
    assert {
        "l1",
        "l2",
        "loss",
        "nonzero",
        "validation_loss",
        "validation_loss_se",
        "validation_auc",
        "validation_accuracy",
        "status",
        "passes",
    } <= set(chosen)
    group = zarr.open_group(str(run / "path.zarr"), mode="r")
    coef = np.asarray(group["coef"])
    assert coef.shape == (6, 1, N)
    assert np.asarray(group["fold_coef"]).shape == (6, 3, 1, N)
    np.testing.assert_array_equal(streamlr.load_model(run).coef_, coef[kept["chosen"]])
    assert json.loads((run / "summary.json").read_text())["models"] == 24
    lines = done.stderr.splitlines()
    assert any(line.split()[:3] == ["lambda", "nonzero", "loss"] for line in lines)
    assert any(line.endswith("1se") for line in lines)
    assert any("of 24 models go on" in line for line in lines)
    history = [json.loads(line) for line in (run / "history.jsonl").read_text().splitlines()]
    assert [line["pass"] for line in history] == list(range(1, printed["passes"] + 1))

    refused = runner().invoke(cli, arguments, catch_exceptions=True)
    assert refused.exit_code != 0
    again = runner().invoke(
        cli, [*arguments, "--overwrite", "--set", "path.alpha=1", "--set", "path.folds=0"]
    )
    assert again.exit_code == 0, again.stderr
    assert not any("held-out" in line for line in again.stderr.splitlines())
    both = runner().invoke(cli, [*arguments, "--overwrite", "--resume"])
    assert both.exit_code == 2
    assert "exclude each other" in both.stderr


def test_train_takes_no_notice_of_the_section(store: str) -> None:
    plain = {"data": {"store": store}, "solver": {"tolerance": 1e-8}}
    assert (
        streamlr.train({**plain, "path": {"count": 3}}).model.coefficients_sha256
        == streamlr.train(plain).model.coefficients_sha256
    )


def test_passes_are_told_with_the_models_that_go_on() -> None:
    X, y = data()
    told: list[PathPassFinished] = []
    found = streamlr.path(
        config_of(count=3, folds=2),
        X=X,
        y=y,
        subscribers=[
            lambda event: told.append(event) if isinstance(event, PathPassFinished) else None
        ],
    )
    assert [event.as_line() for event in told] == found.history
    assert {event.models for event in told} == {9}
    assert (told[0].active, told[-1].active) == (9, 0)


def test_strengths_are_sorted_from_the_largest_on() -> None:
    asked = load_config({"path": {"lambdas": [0.1, 3, 1]}}).path
    assert asked is not None
    np.testing.assert_array_equal(strengths(asked, None, None), [3, 1, 0.1])  # type: ignore[arg-type]
