"""Rows that are held out of a fit: they change no bit of it but by their absence, tell their loss
at every pass for nothing, and may stop it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import zarr
from batches import batch_of
from click.testing import CliRunner
from numpy.typing import NDArray

from streamlr import train
from streamlr.cli.main import cli
from streamlr.config.sections import SolverConfig, load_config
from streamlr.data.sources.group_keys import group_keys
from streamlr.errors import (
    ConfigError,
    DtypeError,
    LabelError,
    NonFiniteError,
    RunDirectoryError,
    StoreNotFoundError,
    StreamlrError,
)
from streamlr.events import Event, PassFinished, ScanStarted
from streamlr.execution import ENGINES
from streamlr.kernels.batch import Workspace
from streamlr.kernels.scans.moments import MomentScan
from streamlr.kernels.split import Split
from streamlr.model import Model
from streamlr.objective.objective import Moments
from streamlr.reporting.console import pass_line
from streamlr.scoring.scoring import evaluate
from streamlr.training.train import TrainResult

Array = NDArray[np.float64]
SOLVERS: tuple[str, ...] = get_args(get_type_hints(SolverConfig)["name"])
STARTED_HERE = [kind for kind in ENGINES if kind != "address"]
ROWS, FEATURES, CHUNK, FRACTION = 1500, 4, 128, 0.25
TOLERANCE = 1e-9
# the gradients at both points are within 1e-9, and the penalty gives every curvature at least 0.05:
# 2 · 1e-9 · sqrt(d) / 0.05
NEAR = 2e-7
RATE = 0.08
EPS = float(np.finfo(np.float64).eps)


def features() -> Array:
    return np.random.default_rng(1).normal(size=(ROWS, FEATURES)) * np.array(
        [1.0, 2.0, 0.7, 1.0]
    ) + np.array([0.0, 1.0, 0.0, -0.5])


def targets(family: str) -> NDArray[Any]:
    rng, z = np.random.default_rng(2), features() @ np.array([0.5, -0.3, 0.4, 0.0])
    if family == "linear":
        return np.asarray(z + rng.normal(size=ROWS))
    if family == "poisson":
        return rng.poisson(np.exp(z / 2)).astype(np.float64)
    if family == "softmax":
        return np.array(["a", "b", "c"])[np.digitize(z + rng.logistic(size=ROWS), [-1.0, 0.5])]
    return (z + rng.logistic(size=ROWS) > 0.7).astype(np.int64)


def weights() -> Array:
    return np.random.default_rng(3).integers(0, 4, ROWS) / 2.0


def holdout_rows(seed: int = 0, groups: NDArray[Any] | None = None) -> NDArray[np.bool_]:
    """Which rows the hash holds out, each by its own number or group: `test_split` holds it to its
    shares."""
    split = Split((FRACTION,), seed)
    rows = batch_of(
        0,
        np.zeros((1, ROWS)),
        None,
        None,
        None,
        None if groups is None else group_keys(groups, 0, "g"),
    )
    return split.parts(rows, slice(0, ROWS)) == 0


def settings(family: str = "logistic", solver: str = "newton", **validation: Any) -> dict[str, Any]:
    return {
        "model": {
            "family": "logistic" if family == "softmax" else family,
            "penalty": {"l2": 0.1},
            "standardize": True,
        },
        "cluster": {"kind": "serial"},
        "solver": {
            "name": solver,
            "tolerance": TOLERANCE,
            "max_passes": 2000,
            "learning_rate": 0.2,
        },
        "validation": validation,
    }


def mean_loss(
    model: Model, family: str, rows: NDArray[np.bool_], omega: Array, offset: Array | None = None
) -> float:
    """The weighted mean loss of some rows, one by one from the formulas."""
    y, X = targets(family), features()
    losses = []
    for i in np.flatnonzero(rows):
        z = [
            math.fsum(w * x for w, x in zip(W, X[i], strict=True))
            + b
            + (0.0 if offset is None else offset[i])
            for W, b in zip(model.coef_, model.intercept_, strict=True)
        ]
        if family == "linear":
            loss = 0.5 * (z[0] - y[i]) ** 2
        elif family == "poisson":
            loss = math.exp(z[0]) - y[i] * z[0]
        elif family == "softmax":
            loss = math.log(math.fsum(map(math.exp, z))) - z[model.classes_.tolist().index(y[i])]
        else:
            loss = math.log1p(math.exp(z[0])) - y[i] * z[0]
        losses.append(omega[i] * loss)
    return math.fsum(losses) / math.fsum(omega[rows])


class Scans:
    """A subscriber that counts reads of the features."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, event: Event) -> None:
        self.count += isinstance(event, ScanStarted) and event.title != "labels"


# What is fitted


@pytest.mark.parametrize(
    ("family", "solver"),
    [
        *(("logistic", solver) for solver in SOLVERS),
        ("softmax", "auto"),
        ("softmax", "newton"),
        ("linear", "lbfgs"),
        ("poisson", "auto"),
        ("poisson", "newton"),
    ],
)
@pytest.mark.parametrize("how", ["fraction", "array"])
def test_the_model_is_that_of_the_other_rows_alone_and_the_loss_that_of_the_rows_held_out(
    family: str, solver: str, how: str
) -> None:
    X, y, omega = features(), targets(family), weights()
    offset = X[:, 0] / 5 if family == "poisson" else None
    held = (
        holdout_rows() if how == "fraction" else np.arange(ROWS) >= 1100
    )  # the last rows: whole blocks of nothing else
    chosen: dict[str, Any] = {"fraction": FRACTION} if how == "fraction" else {}
    scans = Scans()
    found = train(
        settings(family, solver, **chosen),
        X=X,
        y=y,
        sample_weight=omega,
        offset=offset,
        validation=None if how == "fraction" else held,
        subscribers=[scans],
    )
    alone = train(
        settings(family, solver),
        X=X[~held],
        y=y[~held],
        sample_weight=omega[~held],
        offset=None if offset is None else offset[~held],
    )
    assert found.status == alone.status == "converged"
    np.testing.assert_allclose(found.model.coef_, alone.model.coef_, rtol=0, atol=NEAR)
    np.testing.assert_allclose(
        found.model.intercept_, alone.model.intercept_, rtol=0, atol=NEAR * 3
    )  # times the means, of about 1
    assert scans.count == found.passes == len(found.history)
    assert (
        abs(found.passes - alone.passes) <= 2
        # another sample or rounding may take a pass more; reading for the loss would take twice as
        # many
    )
    summary = found.summary
    expected = mean_loss(found.model, family, held, omega, offset)
    assert summary["validation_loss"] == pytest.approx(
        expected, rel=ROWS * EPS * 10
    )  # sums of 400 terms of size 1, Z of a few units
    assert summary["validation_loss"] == found.history[-1]["validation_loss"]
    assert (summary["validation_rows"], summary["validation_weight"]) == (
        np.count_nonzero(held),
        pytest.approx(omega[held].sum(), rel=1e-14),
    )
    assert summary["early_stopped"] is False


@pytest.mark.parametrize("solver", SOLVERS)
def test_the_first_pass_tells_the_loss_of_intercepts_alone(solver: str) -> None:
    y, held = targets("logistic"), holdout_rows()
    found = train(settings("logistic", solver, fraction=FRACTION), X=features(), y=y)
    p = 0.5 if solver == "gradient_descent" else y[~held].mean()  # which starts at zero
    expected = -(np.log(p) * y[held].mean() + np.log1p(-p) * (1 - y[held].mean()))
    assert found.history[0]["validation_loss"] == pytest.approx(expected, rel=1e-13)


def test_balanced_class_weights_are_those_of_the_rows_that_are_fitted() -> None:
    X, y = features(), targets("softmax")
    held = (y == "a") & (
        np.arange(ROWS) % 3 > 0
    )  # the classes of what is left are far from those of all
    config = settings("softmax")
    config["model"]["class_weight"] = "balanced"
    found, alone = train(config, X=X, y=y, validation=held), train(config, X=X[~held], y=y[~held])
    np.testing.assert_allclose(found.model.coef_, alone.model.coef_, rtol=0, atol=NEAR)


def test_rows_of_a_group_are_held_out_together() -> None:
    X, y = features(), targets("linear")
    groups = np.array([f"person {i}" for i in np.random.default_rng(5).integers(0, 60, ROWS)])
    held = holdout_rows(groups=groups)
    assert set(groups[held]).isdisjoint(groups[~held])
    found = train(settings("linear", fraction=FRACTION), X=X, y=y, groups=groups)
    alone = train(settings("linear"), X=X[~held], y=y[~held])
    assert found.summary["validation_rows"] == np.count_nonzero(held)
    np.testing.assert_allclose(found.model.coef_, alone.model.coef_, rtol=0, atol=NEAR)


def test_without_rows_held_out_nothing_is_told_of_any() -> None:
    found = train(settings(), X=features(), y=targets("logistic"))
    assert not [
        key
        for record in (*found.history, found.summary)
        for key in record
        if "validation" in key or "stopped" in key
    ]


def test_moments_and_sample_have_no_part_of_the_rows_held_out() -> None:
    X, y, omega, held = features(), targets("linear"), weights(), holdout_rows()
    rows = batch_of(0, X.T, y, omega)
    found = MomentScan(np.empty(0), 0.5, 0, "linear", Split((FRACTION,), 0)).sums(
        rows, 100, Workspace()
    )
    kept = Moments.from_sums(
        MomentScan(np.empty(0), 0.0, 0, "linear").sums(
            batch_of(0, X[~held].T, y[~held], omega[~held]), 100, Workspace()
        )
    )
    moments = Moments.from_sums(found)
    assert moments.n_rows == kept.n_rows == np.count_nonzero(~held)
    for name in ("weight_sum", "mean", "spread", "target_mean", "target_variance", "comoment"):
        np.testing.assert_allclose(
            getattr(moments, name), getattr(kept, name), rtol=1e-12, atol=1e-13
        )
    assert moments.holdout_target_mean is not None
    np.testing.assert_allclose(
        moments.holdout_target_mean, [np.average(y[held], weights=omega[held])], rtol=1e-12
    )
    drawn = np.concatenate([part.columns.target for part in found.sample])
    assert len(drawn) > 400
    assert not np.isin(drawn, y[held]).any()  # no two targets are equal
    assert (
        found.fingerprint
        == MomentScan(np.empty(0), 0.0, 0, "linear").sums(rows, 100, Workspace()).fingerprint
    )


# Stopping


def small() -> tuple[Array, NDArray[np.int64], NDArray[np.bool_]]:
    """More features than so few rows can carry: the loss of others falls first and rises then."""
    rng = np.random.default_rng(8)
    X = rng.normal(size=(90, 25))
    return X, (X[:, 0] + 2 * rng.logistic(size=90) > 0).astype(np.int64), np.arange(90) % 3 == 0


def descent(steps: int) -> list[tuple[Array, float, float]]:
    """W, b and the held-out loss after 0, 1, ... updates of the formulas."""
    X, y, held = small()
    W, b, found = np.zeros(X.shape[1]), 0.0, []
    for _ in range(steps):
        z = X @ W + b
        found.append(
            (
                W.copy(),
                b,
                float(
                    np.mean(
                        np.log1p(np.exp(-np.abs(z[held])))
                        + np.maximum(z[held], 0)
                        - y[held] * z[held]
                    )
                ),
            )
        )
        dz = 1 / (1 + np.exp(-z[~held])) - y[~held]
        W, b = W - RATE * X[~held].T @ dz / len(dz), b - RATE * dz.mean()
    return found


def stopping(solver: str, patience: int, directory: Path | None = None) -> dict[str, Any]:
    return {
        "cluster": {"kind": "serial"},
        "solver": {"name": solver, "learning_rate": RATE, "max_passes": 300},
        "validation": {"patience": patience},
        "run": {"directory": None if directory is None else str(directory)},
    }


@pytest.mark.parametrize("patience", [1, 4])
def test_a_run_stops_when_the_loss_has_not_fallen_and_keeps_the_model_at_which_it_was_lowest(
    patience: int,
) -> None:
    X, y, held = small()
    path = descent(100)
    losses = [loss for _, _, loss in path]
    best = next(t for t in range(100) if min(losses[t + 1 : t + 1 + patience]) >= losses[t])
    found = train(stopping("gradient_descent", patience), X=X, y=y, validation=held)
    assert found.status == "pass_limit"
    assert found.reason.startswith(
        f"early stopping: the validation loss has not fallen for {patience} step"
    )
    assert found.summary["early_stopped"] is True
    np.testing.assert_allclose(found.model.coef_[0], path[best][0], rtol=1e-11, atol=1e-13)
    assert 2 < best < 90
    assert found.passes == best + patience + 1  # the first pass, the survey, is at zero
    line = found.history[found.summary["validation_best_pass"] - 1]
    assert (
        line["validation_loss"]
        == found.summary["validation_loss"]
        == min(line["validation_loss"] for line in found.history)
    )
    assert line["validation_loss"] == pytest.approx(losses[best], rel=1e-12)
    assert [line[key] for key in ("loss", "objective", "gradient_max")] == [
        found.summary[key] for key in ("loss", "objective", "gradient_max")
    ]


@pytest.mark.parametrize(
    "solver", [solver for solver in SOLVERS if solver != "auto"]
)  # whose sample of so few rows is all of them: it starts at the optimum
def test_every_solver_can_be_stopped_and_goes_on_to_the_same_bits_from_every_pass(
    solver: str, tmp_path: Path
) -> None:
    X, y, held = small()

    def run(directory: Path, **how: Any) -> TrainResult:
        return train(stopping(solver, 2, directory), X=X, y=y, validation=held, **how)

    whole = run(tmp_path / "whole")
    assert whole.summary["early_stopped"] is True
    for passes in {1, 2, whole.passes // 2, whole.passes - 1}:

        def cut(event: Event, passes: int = passes) -> None:
            if isinstance(event, PassFinished) and event.number == passes:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / str(passes), subscribers=[cut])
        resumed = run(tmp_path / str(passes), resume=True)
        for key in (
            "coefficients_sha256",
            "validation_loss",
            "validation_best_pass",
            "reason",
            "passes",
            "loss",
        ):
            assert resumed.summary[key] == whole.summary[key], key
        assert [line["validation_loss"] for line in resumed.history] == [
            line["validation_loss"] for line in whole.history
        ]


def test_a_solve_that_converges_first_keeps_the_optimum() -> None:
    X, y, held = features(), targets("logistic"), holdout_rows()
    found = train(settings(fraction=FRACTION, patience=50), X=X, y=y)
    assert found.status == "converged"
    np.testing.assert_allclose(
        found.model.coef_, train(settings(), X=X[~held], y=y[~held]).model.coef_, rtol=0, atol=NEAR
    )


def test_at_the_limit_of_passes_the_model_is_that_of_the_lowest_loss_too() -> None:
    X, y, held = small()
    config = stopping("gradient_descent", 100)
    config["solver"]["max_passes"] = 60
    found, path = train(config, X=X, y=y, validation=held), descent(59)
    best = int(np.argmin([loss for _, _, loss in path]))
    assert best < 50
    assert (found.status, found.summary["early_stopped"]) == ("pass_limit", False)
    np.testing.assert_allclose(found.model.coef_[0], path[best][0], rtol=1e-11, atol=1e-13)


# From a store


def write_store(path: Path, family: str = "logistic", **more: Any) -> str:
    group = zarr.create_group(str(path))
    arrays = {
        "X": features(),
        "y": targets(family),
        "w": weights(),
        "test": holdout_rows(),
        "who": np.arange(ROWS) // 7,
        **more,
    }
    for name, values in arrays.items():
        values = np.asarray(values)
        group.create_array(
            name,
            data=values,
            chunks=(CHUNK if name == "X" else 200, *values.shape[1:]),
            config={"write_empty_chunks": True},
        )
    return str(path)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_store(tmp_path_factory.mktemp("data") / "s.zarr")


def of_store(
    store: str,
    directory: Path | None = None,
    kind: str = "serial",
    groups: str | None = None,
    **validation: Any,
) -> dict[str, Any]:
    return {
        **settings(solver="lbfgs", **validation),
        "data": {"store": store, "weights": "w", "groups": groups},
        "cluster": {"kind": kind, "workers": 2},
        "run": {"directory": None if directory is None else str(directory)},
    }


CHOICES: dict[str, dict[str, Any]] = {
    "hash": {"fraction": FRACTION},
    "array": {"array": "test"},
    "groups, stop": {"fraction": FRACTION, "groups": "who", "patience": 3},
}


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_every_engine_gives_the_same_bits(choice: dict[str, Any], store: str) -> None:
    kinds = [
        kind for kind in STARTED_HERE if kind != "processes" or choice != CHOICES["hash"]
    ]  # whose processes take seconds to start
    found = [train(of_store(store, kind=kind, **choice)) for kind in kinds]
    assert len({result.model.coefficients_sha256 for result in found}) == 1
    losses = [[line["validation_loss"] for line in result.history] for result in found]
    assert losses.count(losses[0]) == len(found)
    assert found[0].summary["validation_rows"] == np.count_nonzero(
        holdout_rows(groups=np.arange(ROWS) // 7 if "groups" in choice else None)
    )


@pytest.mark.parametrize("choice", CHOICES.values(), ids=CHOICES)
def test_the_rows_held_out_are_scored_alone(
    choice: dict[str, Any], store: str, tmp_path: Path
) -> None:
    result = train(of_store(store, tmp_path / "run", **choice))
    held = holdout_rows(groups=np.arange(ROWS) // 7 if "groups" in choice else None)
    apart = write_store(
        tmp_path / "held.zarr", X=features()[held], y=targets("logistic")[held], w=weights()[held]
    )
    found, expected = (
        evaluate(tmp_path / "run", store, validation=True),
        evaluate(tmp_path / "run", apart),
    )
    assert found["rows"] == expected["rows"] == result.summary["validation_rows"]
    for name in ("weight", "log_loss", "brier_score", "accuracy", "auc", "average_precision"):
        assert found[name] == pytest.approx(expected[name], rel=1e-12)
    assert found["log_loss"] == pytest.approx(result.summary["validation_loss"], rel=1e-12)


def test_the_rows_of_numbers_that_are_held_out_are_scored_alone(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s.zarr", "linear")
    config = of_store(store, tmp_path / "run", array="test")
    config["model"]["family"] = "linear"
    result = train(config)
    found = evaluate(tmp_path / "run", store, validation=True)
    held, omega = holdout_rows(), weights()
    rest = targets("linear")[held] - result.model.predict(features()[held])
    assert found["rows"] == np.count_nonzero(held)
    assert found["mean_squared_error"] == pytest.approx(
        np.average(rest**2, weights=omega[held]), rel=1e-12
    )
    assert found["loss"] == pytest.approx(result.summary["validation_loss"], rel=1e-12)


def test_the_command_line_shows_the_loss_and_scores_the_rows(store: str, tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(json.dumps(of_store(store, tmp_path / "run", fraction=FRACTION)))
    trained = CliRunner().invoke(cli, ["train", "--config", str(path)])
    assert trained.exit_code == 0, trained.output
    lines = [
        json.loads(line) for line in (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    ]
    for line in lines:
        assert f"   validation {line['validation_loss']:.9f}   gradient" in trained.output
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert (
        f"validation loss {summary['validation_loss']:.9g} of {summary['validation_rows']:,} "
        "rows, lowest at pass" in trained.output
    )
    scored = CliRunner().invoke(
        cli, ["evaluate", str(tmp_path / "run"), store, "--validation", "--json", "--quiet"]
    )
    assert json.loads(scored.output)["log_loss"] == pytest.approx(
        summary["validation_loss"], rel=1e-12
    )
    assert (
        CliRunner()
        .invoke(
            cli,
            [
                "plan",
                "--config",
                str(path),
                "--set",
                "validation.fraction=0",
                "--set",
                "validation.array=test",
            ],
        )
        .exit_code
        == 0
    )


def test_a_line_without_rows_held_out_shows_no_loss_of_them() -> None:
    assert "validation" not in pass_line(PassFinished(1, 1.0, 1.0, 1.0, 1.0, 1.0, 0))
    assert "validation 0.500000000   gradient" in pass_line(
        PassFinished(1, 1.0, 1.0, 1.0, 1.0, 1.0, 0, 0.5)
    )


# What is refused


REFUSALS: dict[str, tuple[dict[str, Any], type[StreamlrError], str]] = {
    "a mark that is neither": ({"array": "bad"}, LabelError, "row 1234 of bad is neither 0 nor 1"),
    "marks of text": (
        {"array": "texts"},
        DtypeError,
        "texts in .* has dtype .*an array that lists rows must be bool, or 0 and 1",
    ),
    "not a number": (
        {"array": "nan"},
        NonFiniteError,
        r"nan in .* holds 1 labels that are not finite .* \(first: nan at row 3\)",
    ),
    "no such array": (
        {"array": "there"},
        StoreNotFoundError,
        r"no array 'there' \(validation.array\); it holds .*test",
    ),
    "no rows": (
        {"array": "none"},
        ConfigError,
        "none in .* holds out 0 of 1,500 rows, which weigh nothing",
    ),
    "rows of no weight": (
        {"array": "light"},
        ConfigError,
        "light in .* holds out [0-9]+ of 1,500 rows, which weigh nothing",
    ),
    "too small a share": (
        {"fraction": 1e-9},
        ConfigError,
        "validation.fraction: 1e-09 holds out 0 of 1,500 rows",
    ),
    "a class of its own": (
        {"array": "ones"},
        LabelError,
        "no example of the class 1 that weighs anything is left in the fit",
    ),
}


@pytest.mark.parametrize(("validation", "error", "words"), REFUSALS.values(), ids=REFUSALS)
def test_a_split_that_cannot_be_meant_is_refused(
    validation: dict[str, Any], error: type[StreamlrError], words: str, tmp_path: Path
) -> None:
    held = holdout_rows()
    not_a_number = held.astype(np.float32)
    not_a_number[3] = np.nan
    store = write_store(
        tmp_path / "s.zarr",
        bad=np.where(np.arange(ROWS) == 1234, 2, held),
        texts=np.where(held, "yes", "no"),
        nan=not_a_number,
        none=np.zeros(ROWS, dtype=bool),
        light=weights() == 0,
        ones=targets("logistic"),
    )
    with pytest.raises(error, match=words):
        train(of_store(store, **validation))


def test_all_rows_held_out_leave_nothing_to_fit() -> None:
    with pytest.raises(
        ConfigError, match="holds out 1,500 of 1,500 rows, and the others weigh nothing"
    ):
        train(settings("linear"), X=features(), y=targets("linear"), validation=np.ones(ROWS))


def test_a_value_that_is_no_number_is_found_among_the_rows_held_out_too() -> None:
    X, held = features(), holdout_rows()
    X[np.flatnonzero(held)[7], 2] = np.nan
    with pytest.raises(NonFiniteError, match=f"row {np.flatnonzero(held)[7]}, feature 2"):
        train(settings(fraction=FRACTION), X=X, y=targets("logistic"))


def test_a_run_goes_on_only_with_the_same_rows_held_out(tmp_path: Path) -> None:
    X, y, held = small()
    train(stopping("newton", 1, tmp_path / "run"), X=X, y=y, validation=held)
    with pytest.raises(RunDirectoryError, match="other rows held out"):
        train(stopping("newton", 1, tmp_path / "run"), X=X, y=y, validation=~held, resume=True)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        ({"X": None, "groups": np.zeros(ROWS)}, "data.groups and validation.array name them"),
        ({"X": None, "validation": np.zeros(ROWS)}, "data.groups and validation.array name them"),
        (
            {"X": features(), "y": targets("logistic")},
            "with X and y give its values as validation=",
        ),
    ],
)
def test_arrays_that_go_with_others_are_refused_alone(how: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        train(settings(array="test"), **how)


@pytest.mark.parametrize(
    ("validation", "words"),
    [
        ({"fraction": 1.0}, "validation.fraction: 1.0 is out of range"),
        ({"fraction": -0.1}, "validation.fraction: -0.1 is out of range"),
        ({"fraction": float("nan")}, "validation.fraction: nan is out of range"),
        ({"fraction": 0.1, "array": "test"}, "validation.array: goes without validation.fraction"),
        ({"fraction": 0.1, "patience": 0}, "validation.patience: 0 is out of range"),
        ({"patience": 3}, "validation.patience: no row is held out"),
    ],
)
def test_a_configuration_that_cannot_be_meant_is_refused(
    validation: dict[str, Any], words: str
) -> None:
    with pytest.raises(ConfigError, match=words):
        load_config({"validation": validation})


def test_the_other_keys_are_read() -> None:
    config = load_config({"validation": {"array": "test", "patience": 4.0}}).validation
    assert (config.array, config.patience, config.fraction) == ("test", 4, 0.0)


def test_rows_of_a_run_that_held_out_none_cannot_be_scored(store: str, tmp_path: Path) -> None:
    train(of_store(store, tmp_path / "run"))
    with pytest.raises(ConfigError, match="held out no rows"):
        evaluate(tmp_path / "run", store, validation=True)
