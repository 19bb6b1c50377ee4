"""Scoring a store with a model: metrics and probabilities, each in one streamed pass, beside
scikit-learn and plain NumPy."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    confusion_matrix,
    d2_tweedie_score,
    log_loss,
    mean_poisson_deviance,
    mean_squared_error,
    r2_score,
    roc_auc_score,
)

import streamlr
from streamlr.errors import (
    ChunkError,
    ConfigError,
    LabelError,
    NonFiniteError,
    RunDirectoryError,
    ShapeError,
    StoreNotFoundError,
)
from streamlr.events import Event, ScanFinished, ScanStarted, SlabFinished
from streamlr.execution import ENGINES
from streamlr.kernels.families import FAMILIES
from streamlr.model import Model
from streamlr.scoring.scoring import evaluate, predict

ROWS, FEATURES, CHUNK = 1000, 4, 150  # the last chunk is short
STARTED_HERE = sorted(
    set(ENGINES) - {"address"}
)  # the engines that need no scheduler from elsewhere
# sums of 1,000 terms of order 1 in float64: 1000 units in the last place (2e-16) would be 2e-13
TIGHT = 1e-12

Arrays = dict[str, NDArray[Any]]


def write_store(path: Path, arrays: Arrays, names: list[str] | None = None) -> str:
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    for name, values in arrays.items():
        group.create_array(
            name,
            data=values,
            chunks=(CHUNK, *values.shape[1:]),
            config={"write_empty_chunks": True},
        )
    if names is not None:
        group.attrs["feature_names"] = names
    return str(path)


@pytest.fixture(scope="module")
def arrays() -> Arrays:
    rng = np.random.default_rng(20)
    X = rng.standard_normal((ROWS, FEATURES)) * [1.0, 30.0, 0.01, 5.0] + [0.0, 7.0, 0.0, -2.0]
    z = X @ [1.0, 0.03, 40.0, -0.2] - 0.3
    return {
        "X": X,
        "y": (rng.random(ROWS) < 1 / (1 + np.exp(-z))).astype(np.int8),
        "w": rng.integers(0, 5, ROWS) / 2,
    }


@pytest.fixture(scope="module")
def model() -> Model:
    return Model(
        np.array([[1.1, 0.02, 35.0, -0.25]]),
        np.array([-0.2]),
        np.array([0, 1], dtype=np.int8),
        ("a", "b", "c", "d"),
    )


@pytest.fixture(scope="module")
def run(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    model.save(folder / "model.zarr")
    (folder / "config.yaml").write_text("cluster: {kind: serial}\n")
    return folder


@pytest.fixture(scope="module")
def store(arrays: Arrays, tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_store(tmp_path_factory.mktemp("data") / "all.zarr", arrays)


def probabilities(model: Model, X: NDArray[Any]) -> NDArray[np.float64]:
    return 1 / (1 + np.exp(-(X @ model.coef_[0] + model.intercept_[0])))


def reference(model: Model, arrays: Arrays, weights: NDArray[Any] | None) -> dict[str, Any]:
    p, y = probabilities(model, arrays["X"]), arrays["y"]
    return {
        "log_loss": log_loss(y, p, sample_weight=weights),
        "accuracy": accuracy_score(y, p > 0.5, sample_weight=weights),
        "brier_score": brier_score_loss(y, p, sample_weight=weights),
        "auc": roc_auc_score(y, p, sample_weight=weights),
        "confusion_matrix": confusion_matrix(y, p > 0.5, sample_weight=weights),
    }


class Reads:
    """A subscriber that counts reads of the data."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.bytes = self.finished = 0

    def __call__(self, event: Event) -> None:
        if isinstance(event, ScanStarted):
            self.titles.append(event.title)
        elif isinstance(event, SlabFinished):
            self.bytes += event.data_bytes
        elif isinstance(event, ScanFinished):
            self.finished += 1


@pytest.mark.parametrize("weighted", [False, True])
def test_metrics_are_those_of_scikit_learn(
    weighted: bool, run: Path, store: str, model: Model, arrays: Arrays
) -> None:
    found = evaluate(run, store, overrides=["data.weights=w"] if weighted else [])
    expected = reference(model, arrays, arrays["w"] if weighted else None)
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=TIGHT, err_msg=name)
    assert (found["rows"], found["classes"], found["auc_error_bound"]) == (ROWS, [0, 1], 0.0)


def test_whole_weights_equal_repeated_rows(run: Path, arrays: Arrays, tmp_path: Path) -> None:
    counts = (2 * arrays["w"]).astype(int)
    repeated = write_store(
        tmp_path / "r.zarr", {name: np.repeat(arrays[name], counts, axis=0) for name in ("X", "y")}
    )
    weighted = write_store(tmp_path / "w.zarr", {**arrays, "w": counts.astype(np.float64)})
    once, again = evaluate(run, weighted, overrides=["data.weights=w"]), evaluate(run, repeated)
    for name in ("log_loss", "accuracy", "brier_score", "auc", "confusion_matrix"):
        np.testing.assert_allclose(once[name], again[name], rtol=TIGHT, err_msg=name)


@pytest.mark.parametrize(
    "call",
    [
        lambda run, store, out, see: evaluate(run, store, subscribers=[see]),
        lambda run, store, out, see: predict(run, store, out, subscribers=[see]),
    ],
    ids=["evaluate", "predict"],
)
def test_scoring_reads_the_data_once(
    call: Callable[..., Any], run: Path, store: str, arrays: Arrays, tmp_path: Path
) -> None:
    reads = Reads()
    call(run, store, tmp_path / "p.zarr", reads)
    assert len(reads.titles) == reads.finished == 1
    assert reads.bytes == arrays["X"].nbytes


@pytest.mark.parametrize("kind", STARTED_HERE)
def test_every_engine_gives_the_same_bits(kind: str, run: Path, store: str, tmp_path: Path) -> None:
    overrides = [f"cluster.kind={kind}", "cluster.workers=2"]
    assert evaluate(run, store, overrides=overrides) == evaluate(run, store)
    predict(run, store, tmp_path / "one.zarr")
    predict(run, store, tmp_path / "other.zarr", overrides=overrides)
    np.testing.assert_array_equal(
        zarr.open_array(tmp_path / "one.zarr", mode="r")[:],
        zarr.open_array(tmp_path / "other.zarr", mode="r")[:],
    )


def model_and_target(
    family: str, X: NDArray[Any]
) -> tuple[Model, NDArray[Any], Callable[[dict[str, Any]], None]]:
    """A model of a family, a target for its store, and a look at what is told of them."""
    rng = np.random.default_rng(5)
    labels = {"logistic": np.array(["no", "yes"]), "softmax": np.array([-1, 4, 9])}.get(
        family, np.empty(0)
    )
    c = max(1, len(labels) if family == "softmax" else 1)
    model = Model(
        rng.normal(size=(c, FEATURES)) / [1.0, 30.0, 0.01, 5.0] / 2,
        rng.normal(size=c),
        labels,
        ("a", "b", "c", "d"),
        family,
    )
    Z = X @ model.coef_.T + model.intercept_
    if len(labels):
        P = (
            np.exp(Z) / np.exp(Z).sum(axis=1, keepdims=True)
            if c > 1
            else 1 / (1 + np.exp(-Z * [-1.0, 1.0]))
        )
        y = labels[
            (P.cumsum(axis=1) < rng.random((len(X), 1))).sum(axis=1).clip(max=len(labels) - 1)
        ]
        expected = {
            "log_loss": log_loss(y, P),
            "auc": roc_auc_score(y, P if c > 1 else P[:, 1], multi_class="ovr"),
            "confusion_matrix": confusion_matrix(y, labels[P.argmax(axis=1)]),
        }
    else:
        mean = Z[:, 0] if family == "linear" else np.exp(Z[:, 0])
        y = (
            mean + rng.normal(size=len(X))
            if family == "linear"
            else rng.poisson(mean).astype(float)
        )
        expected = {"r2": r2_score(y, mean), "mean_squared_error": mean_squared_error(y, mean)}
        if family == "poisson":
            expected |= {
                "mean_poisson_deviance": mean_poisson_deviance(y, mean),
                "d2_poisson": d2_tweedie_score(y, mean, power=1),
            }

    def look(found: dict[str, Any]) -> None:
        for name, value in expected.items():
            np.testing.assert_allclose(found[name], value, rtol=1e-11, err_msg=name)

    return model, y, look


@pytest.mark.parametrize("family", list(FAMILIES))
def test_every_family_is_told_of_as_by_scikit_learn_and_with_the_same_bits_on_every_engine(
    family: str, arrays: Arrays, tmp_path: Path
) -> None:
    model, y, look = model_and_target(family, arrays["X"])
    model.save(tmp_path / "m.zarr")
    store = write_store(tmp_path / "s.zarr", {"X": arrays["X"], "y": y})
    found = {
        kind: evaluate(
            tmp_path / "m.zarr",
            store,
            overrides=[f"cluster.kind={kind}", "cluster.workers=2", f"model.family={family}"],
        )
        for kind in STARTED_HERE
    }
    assert all(metrics == found["serial"] for metrics in found.values())
    look(found["serial"])


def test_predictions_are_the_probabilities_of_the_second_class_in_the_order_of_the_rows(
    run: Path, store: str, model: Model, arrays: Arrays, tmp_path: Path
) -> None:
    out = tmp_path / "deep" / "p.zarr"
    assert predict(run, store, out) == ROWS
    written = zarr.open_array(out, mode="r")
    np.testing.assert_allclose(written[:], probabilities(model, arrays["X"]), rtol=TIGHT)
    assert (written.shape, written.dtype, written.attrs["class"], written.attrs["classes"]) == (
        (ROWS,),
        np.float64,
        1,
        [0, 1],
    )


def test_predictions_and_the_model_agree(
    run: Path, store: str, arrays: Arrays, tmp_path: Path
) -> None:
    predict(run, store, tmp_path / "p.zarr")
    loaded = streamlr.load_model(run)
    np.testing.assert_allclose(
        zarr.open_array(tmp_path / "p.zarr", mode="r")[:],
        loaded.predict_proba(arrays["X"])[:, 1],
        rtol=TIGHT,
    )


def test_a_store_to_predict_from_needs_no_labels_and_no_weights(
    run: Path, arrays: Arrays, tmp_path: Path
) -> None:
    bare = write_store(tmp_path / "bare.zarr", {"X": arrays["X"]})
    overrides = ["data.weights=w"]  # as a run that was weighted has it
    assert predict(run, bare, tmp_path / "p.zarr", overrides=overrides) == ROWS
    with pytest.raises(StoreNotFoundError, match=r"has no array 'y' \(data\.target\); it holds X"):
        evaluate(run, bare)


def test_examples_may_lie_along_the_other_axis(
    run: Path, store: str, arrays: Arrays, tmp_path: Path
) -> None:
    other = write_store(
        tmp_path / "t.zarr", {"X": np.ascontiguousarray(arrays["X"].T), "y": arrays["y"]}
    )
    found = evaluate(run, other, overrides=["data.sample_axis=1"])
    for name in ("log_loss", "accuracy", "auc"):
        np.testing.assert_allclose(found[name], evaluate(run, store)[name], rtol=TIGHT)


@pytest.mark.parametrize(("label", "accuracy"), [(0, "wrong"), (1, "right")])
def test_a_store_of_one_class_has_metrics_but_no_area(
    label: int, accuracy: str, run: Path, model: Model, arrays: Arrays, tmp_path: Path
) -> None:
    one = write_store(
        tmp_path / "one.zarr", {"X": arrays["X"], "y": np.full(ROWS, label, dtype=np.int8)}
    )
    found = evaluate(run, one)
    p = probabilities(model, arrays["X"])
    assert found["auc"] is None
    assert found["auc_error_bound"] is None
    assert found["accuracy"] == pytest.approx(np.mean((p > 0.5) == label), rel=TIGHT)
    assert found["log_loss"] == pytest.approx(-np.mean(np.log(p if label else 1 - p)), rel=TIGHT)


@pytest.mark.parametrize("labels", [["no", "yes"], [-1.5, 2.0], [False, True], [3, 700]])
def test_labels_of_every_kind_are_scored(
    labels: list[Any], model: Model, arrays: Arrays, tmp_path: Path
) -> None:
    classes = np.array(labels)
    Model(model.coef_, model.intercept_, classes).save(tmp_path / "m.zarr")
    store = write_store(
        tmp_path / "s.zarr", {"X": arrays["X"], "y": classes[arrays["y"].astype(int)]}
    )
    found = evaluate(tmp_path / "m.zarr", store)
    assert found["log_loss"] == pytest.approx(reference(model, arrays, None)["log_loss"], rel=TIGHT)
    assert found["classes"] == labels


# What is refused


def test_another_number_of_features_is_refused_with_both_numbers(
    run: Path, arrays: Arrays, tmp_path: Path
) -> None:
    narrow = write_store(tmp_path / "n.zarr", {"X": arrays["X"][:, :3], "y": arrays["y"]})
    for call in (lambda: evaluate(run, narrow), lambda: predict(run, narrow, tmp_path / "p.zarr")):
        with pytest.raises(
            ShapeError, match=r"X in .*n\.zarr has 3 features; the model in .* was fitted to 4"
        ):
            call()
    assert not (tmp_path / "p.zarr").exists()


def test_features_in_another_order_are_matched_and_others_refused_by_name(
    run: Path, arrays: Arrays, tmp_path: Path
) -> None:
    """The former were once refused too: that asked people to rewrite a store to be told what its
    names say (see test_feature_names.py)."""
    swapped = write_store(
        tmp_path / "s.zarr", {**arrays, "X": arrays["X"][:, [0, 2, 1, 3]]}, ["a", "c", "b", "d"]
    )
    straight = evaluate(run, write_store(tmp_path / "straight.zarr", arrays, ["a", "b", "c", "d"]))
    np.testing.assert_allclose(evaluate(run, swapped)["log_loss"], straight["log_loss"], rtol=TIGHT)
    with pytest.raises(
        ShapeError, match=r"s\.zarr' lacks 1 of the 4 features of the model in .*: 'b'; it has 4"
    ):
        evaluate(run, write_store(tmp_path / "s.zarr", arrays, ["a", "c", "e", "d"]))
    assert (
        evaluate(run, write_store(tmp_path / "same.zarr", arrays, ["a", "b", "c", "d"]))["rows"]
        == ROWS
    )


@pytest.mark.parametrize(
    ("label", "words"),
    [(2, "has the label .*2.*, which is neither of the classes .*0.* and .*1"), (np.nan, "nan")],
)
def test_a_label_that_is_no_class_of_the_model_is_refused_with_its_row(
    label: float, words: str, run: Path, arrays: Arrays, tmp_path: Path
) -> None:
    y = arrays["y"].astype(np.float64)
    y[407] = label
    store = write_store(tmp_path / "s.zarr", {"X": arrays["X"], "y": y})
    with pytest.raises(
        (LabelError, NonFiniteError), match=f"y in .*row 407.*{words}|y in .*{words}.*row 407"
    ):
        evaluate(run, store)


@pytest.mark.parametrize("weight", [np.nan, np.inf, -1000.0])
def test_weights_that_are_no_weights_are_refused_with_their_row(
    weight: float, run: Path, arrays: Arrays, tmp_path: Path
) -> None:
    store = write_store(
        tmp_path / "s.zarr", {**arrays, "w": np.where(np.arange(ROWS) == 407, weight, 1.0)}
    )
    with pytest.raises(NonFiniteError, match=r"w in .*s\.zarr holds 1 weights? that .* row 407"):
        evaluate(run, store, overrides=["data.weights=w"])


def test_weights_that_are_all_zero_are_refused(run: Path, arrays: Arrays, tmp_path: Path) -> None:
    store = write_store(tmp_path / "s.zarr", {**arrays, "w": np.zeros(ROWS)})
    with pytest.raises((LabelError, NonFiniteError), match="weigh"):
        evaluate(run, store, overrides=["data.weights=w"])


def refuses_non_finite(
    call: Callable[[str], Any], value: float, arrays: Arrays, tmp_path: Path
) -> None:
    X = arrays["X"].copy()
    X[407, 2] = value
    store = write_store(tmp_path / "s.zarr", {"X": X, "y": arrays["y"]})
    with pytest.raises(
        NonFiniteError,
        match=rf"chunk {407 // CHUNK} of X in .* holds 1 non-finite value \(first: {value} at row "
        rf"407, feature 2\)",
    ):
        call(store)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_not_evaluated(
    value: float, run: Path, arrays: Arrays, tmp_path: Path
) -> None:
    refuses_non_finite(lambda store: evaluate(run, store), value, arrays, tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_features_that_are_not_finite_are_not_predicted_from(
    value: float, run: Path, arrays: Arrays, tmp_path: Path
) -> None:
    refuses_non_finite(
        lambda store: predict(run, store, tmp_path / "p.zarr"), value, arrays, tmp_path
    )
    assert [path.name for path in tmp_path.iterdir()] == [
        "s.zarr"
    ]  # neither the array nor anything half-written


@pytest.mark.parametrize("family", FAMILIES)
def test_finite_features_of_which_a_model_makes_too_much_are_refused_with_their_row(
    family: str, arrays: Arrays, tmp_path: Path
) -> None:
    model, y, _ = model_and_target(family, arrays["X"])
    replace(model, coef_=model.coef_ * 1e300).save(tmp_path / "m.zarr")
    X = np.zeros((ROWS, FEATURES))
    X[407] = 1e200 * np.sign(model.coef_[0])
    store = write_store(tmp_path / "s.zarr", {"X": X, "y": y})
    overrides = [f"model.family={family}", "cluster.kind=serial"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            NonFiniteError,
            match=r"row 407: its features are finite, but the model makes inf of them, which "
            r"overflows; are the features",
        ):
            evaluate(tmp_path / "m.zarr", store, overrides=overrides)
        if family != "logistic":  # a probability of 1 is what infinity means there
            with pytest.raises(NonFiniteError, match="row 407"):
                predict(tmp_path / "m.zarr", store, tmp_path / "p.zarr", overrides=overrides)


def test_a_metric_that_overflows_is_none(arrays: Arrays, tmp_path: Path) -> None:
    Model(np.zeros((1, FEATURES)), np.full(1, 1.3e154), np.empty(0), None, "linear").save(
        tmp_path / "m.zarr"
    )
    store = write_store(
        tmp_path / "s.zarr", {"X": arrays["X"], "y": np.zeros(ROWS)}
    )  # of whose squares one alone is a float
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = evaluate(tmp_path / "m.zarr", store, overrides=["model.family=linear"])
    assert found["mean_squared_error"] is None
    assert found["mean_absolute_error"] == pytest.approx(1.3e154)


def test_missing_chunks_are_refused_before_anything_is_read(
    run: Path, arrays: Arrays, tmp_path: Path
) -> None:
    store = write_store(tmp_path / "s.zarr", arrays)
    (tmp_path / "s.zarr" / "X" / "2.0").unlink()
    reads = Reads()
    with pytest.raises(
        ChunkError, match=r"lacks chunk 2 of X \(rows 300 to 449\).*data\.missing_chunks: fill"
    ):
        predict(run, store, tmp_path / "p.zarr", subscribers=[reads])
    assert reads.titles == []


def test_predictions_are_replaced_only_when_asked_and_only_by_whole_ones(
    run: Path, store: str, arrays: Arrays, tmp_path: Path
) -> None:
    out = tmp_path / "p.zarr"
    predict(run, store, out)
    with pytest.raises(
        ConfigError, match=r"p\.zarr' exists already; choose another name, or add overwrite=True"
    ):
        predict(run, store, out)
    X = arrays["X"].copy()
    X[-1, 0] = np.nan
    bad = write_store(tmp_path / "bad.zarr", {"X": X})
    with pytest.raises(NonFiniteError, match="row 999"):
        predict(run, bad, out, overwrite=True)
    assert zarr.open_array(out, mode="r").shape == (ROWS,)
    half = write_store(tmp_path / "half.zarr", {"X": arrays["X"][:500]})
    assert predict(run, half, out, overwrite=True) == 500
    assert zarr.open_array(out, mode="r").shape == (500,)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.zarr", "half.zarr", "p.zarr"]


def test_a_path_without_a_model_is_refused(store: str, tmp_path: Path) -> None:
    with pytest.raises(RunDirectoryError, match=r"no model at '.*absent'.*has the run finished\?"):
        evaluate(tmp_path / "absent", store)
    with pytest.raises(
        RunDirectoryError,
        match=r"no model at .*: it is no run with a model\.zarr; has the run finished",
    ):
        evaluate(store, store)


def test_a_run_that_has_not_finished_is_told_from_a_damaged_model(
    store: str, tmp_path: Path
) -> None:
    (tmp_path / "history.jsonl").write_text("")
    with pytest.raises(RunDirectoryError, match="has the run finished"):
        predict(tmp_path, store, tmp_path / "p.zarr")


def test_run_and_store_that_changed_places_are_refused_without_reading_the_store(
    run: Path, arrays: Arrays, tmp_path: Path
) -> None:
    store = write_store(tmp_path / "s.zarr", arrays)
    (tmp_path / "s.zarr" / "X" / "2.0").write_bytes(b"unreadable")  # whoever reads it fails
    with pytest.raises(
        RunDirectoryError,
        match=r"no model at .*: it is no run with a model\.zarr; has the run finished",
    ):
        evaluate(store, str(run))
