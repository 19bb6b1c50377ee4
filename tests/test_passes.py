"""How often the data are read: the unit of cost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from conftest import ReadsOfArrays
from numpy.typing import NDArray

from streamlr import train
from streamlr.config.sections import SolverConfig
from streamlr.data.source import ArraySource
from streamlr.data.synth import Population, SynthSpec
from streamlr.events import Event, ScanStarted
from streamlr.execution.local import SerialEngine
from streamlr.execution.scanner import Scanner
from streamlr.kernels.scans.labels import LabelScan, codes_of
from streamlr.kernels.scans.moments import MomentScan
from streamlr.pilot import size as pilot_size
from streamlr.testing import CountingSource
from streamlr.training.train import TrainResult

SOLVERS: tuple[str, ...] = get_args(get_type_hints(SolverConfig)["name"])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """64 rows a block, so that small data have many."""
    monkeypatch.setattr("streamlr.data.source._MEMORY_CHUNK_BYTES", 64 * 4 * 8)
    monkeypatch.setattr("streamlr.data.partition._SMALLEST_BLOCK_BYTES", 0)


def data(rows: int = 1000) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, 4))
    return X, (rng.random(rows) < 1 / (1 + np.exp(-X[:, 0]))).astype(np.int64)


def fit(
    solver: str, kind: str, events: list[Event], weighted: bool = False, **settings: Any
) -> TrainResult:
    X, y = data()
    config = {"solver": {"name": solver, **settings}, "cluster": {"kind": kind, "workers": 2}}
    return train(
        config,
        X=X,
        y=y,
        sample_weight=np.ones(len(y)) if weighted else None,
        subscribers=[events.append],
    )


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("kind", ["serial", "threads"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_training_lists_the_labels_once_and_reads_the_features_once_a_pass(
    solver: str, kind: str, weighted: bool, reads: ReadsOfArrays
) -> None:
    events: list[Event] = []
    result = fit(solver, kind, events, weighted)
    assert reads("features") == result.passes == len(result.history)
    assert reads("labels") == 1 + result.passes
    titles = [event.title for event in events if isinstance(event, ScanStarted)]
    assert titles == ["labels", *(f"pass {number}" for number in range(1, result.passes + 1))]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("max_passes", [1, 2, 5])
def test_the_limit_holds_for_reads_of_the_data(
    solver: str, max_passes: int, reads: ReadsOfArrays
) -> None:
    fit(solver, "serial", [], max_passes=max_passes, tolerance=1e-30)
    assert reads("features") == max_passes


def test_a_scanner_counts_reads_of_features_alone() -> None:
    X, y = data()
    source = CountingSource(ArraySource(X, y))
    scanner = Scanner(SerialEngine(), source, lambda event: None)
    scanner.run(LabelScan(), "labels")
    assert scanner.passes == source.times("features") == 0
    scanner.run(MomentScan(np.array([0, 1]), 0.0, 0), "survey")
    assert scanner.passes == source.times("features") == 1


def synth_like(rows: int, features: int) -> tuple[NDArray[Any], NDArray[np.int64]]:
    return Population(SynthSpec(rows=rows, features=features)).rows(0, rows)


@pytest.fixture(scope="module")
def large() -> tuple[NDArray[Any], NDArray[np.int64]]:
    return synth_like(200_000, 30)


@pytest.mark.parametrize(("sample_bytes", "most"), [(64 * 2**20, 7), (200_000 * 120 // 16, 7)])
def test_auto_needs_few_passes_also_where_the_sample_is_a_small_part(
    large: tuple[NDArray[Any], NDArray[np.int64]],
    sample_bytes: int,
    most: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(pilot_size, "_LEAST_BYTES", sample_bytes)
    X, y = large
    result = train(
        {"solver": {"name": "auto"}, "cluster": {"kind": "threads", "workers": 2}}, X=X, y=y
    )
    assert result.status == "converged", result.reason
    assert result.summary["gradient_max"] <= 1e-8
    assert result.passes <= most


def _rare_feature(X: NDArray[np.float64], y: NDArray[np.int64]) -> NDArray[np.float64]:
    """A feature that is 0 but for a handful of rows, which a sample of a sixteenth is likely to
    lack."""
    X[:, 3] = 0.0
    X[:: len(X) // 7, 3] = 1.0
    return X


def _sorted_rows(X: NDArray[np.float64], y: NDArray[np.int64]) -> NDArray[np.float64]:
    order = np.argsort(y, kind="stable")
    y[:] = y[order]
    return X[order]


def _heavy_tails(X: NDArray[np.float64], y: NDArray[np.int64]) -> NDArray[np.float64]:
    X[:, 5] = np.sinh(3 * X[:, 5])
    return X


DEGENERATE: dict[str, Callable[[NDArray[np.float64], NDArray[np.int64]], NDArray[np.float64]]] = {
    "plain": lambda X, y: X,
    "constant feature": lambda X, y: np.column_stack([X, np.full(len(X), 3.0)]),
    "duplicated feature": lambda X, y: np.column_stack([X, X[:, 0]]),
    "nearly collinear": lambda X, y: np.column_stack([X, X[:, 0] + 1e-4 * X[:, 1]]),
    "duplicated rows": lambda X, y: np.repeat(X[:: len(X) // 5][:5], len(X) // 5, axis=0),
    "other units": lambda X, y: X * np.logspace(-6, 6, X.shape[1]) + 1e3,
    "rare feature": _rare_feature,
    "sorted rows": _sorted_rows,
    "heavy tails": _heavy_tails,
}


@pytest.mark.parametrize("share", [1.0, 1 / 16])
@pytest.mark.parametrize("kind", DEGENERATE)
def test_auto_costs_at_most_the_first_pass_more_than_plain_lbfgs_whatever_the_data(
    kind: str, share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    X, y = synth_like(30_000, 20)
    X = np.ascontiguousarray(DEGENERATE[kind](X.astype(np.float64), y))
    monkeypatch.setattr(pilot_size, "_LEAST_BYTES", int(share * X.nbytes) + 1)
    monkeypatch.setattr(pilot_size, "_WANTED_ROWS_PER_PARAMETER", 1)
    passes, values = {}, {}
    for solver in ("auto", "lbfgs"):
        result = train(
            {"solver": {"name": solver, "max_passes": 200}, "cluster": {"kind": "serial"}}, X=X, y=y
        )
        passes[solver], values[solver] = result.passes, result.summary["objective"]
        assert result.status in ("converged", "stalled" if solver == "lbfgs" else "converged"), (
            result.reason
        )
    assert passes["auto"] <= passes["lbfgs"] + 1
    assert values["auto"] <= values["lbfgs"] * (
        1 + 1e-12
    )  # at a gradient of 1e-8 both are some 1e-15 above the optimum


@pytest.mark.parametrize("share", [1.0, 1 / 16])
def test_auto_finds_that_classes_are_separable(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    X, _ = synth_like(30_000, 20)
    monkeypatch.setattr(pilot_size, "_LEAST_BYTES", int(share * X.nbytes) + 1)
    assert (
        train({"cluster": {"kind": "serial"}}, X=X, y=(X[:, 0] > 0).astype(np.int64)).status
        == "diverged"
    )


def test_labels_in_memory_are_looked_up_once_for_the_weights_of_their_classes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_up: list[int] = []

    def counting(target: NDArray[Any], classes: NDArray[Any], first_row: int) -> NDArray[Any]:
        looked_up.append(len(target))
        return codes_of(target, classes, first_row)

    monkeypatch.setattr("streamlr.data.sources.reweighted.codes_of", counting)
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(300, 3)), np.array(["no", "yes"])[rng.integers(0, 2, 300)]
    config = {"model": {"class_weight": "balanced"}, "cluster": {"kind": "serial"}}
    assert train({**config, "solver": {"name": "lbfgs"}}, X=X, y=y).passes > 2
    assert looked_up == [300]
