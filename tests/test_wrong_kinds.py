"""What is no path, no matrix or no number is told as that, with what to give; it ends in no
traceback, and nothing that was given is lost."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr
from stores import two_class_data, write_store

import streamlr
from streamlr.errors import (
    ConfigError,
    DtypeError,
    NonFiniteError,
    RunDirectoryError,
    StoreNotFoundError,
)

X, Y = two_class_data()
SERIAL = {"cluster": {"kind": "serial"}, "solver": {"max_passes": 3}}


class AnnData:
    """What tells anndata's from other things."""

    def __init__(self) -> None:
        self.X, self.obs, self.var, self.layers = (
            X,
            pd.DataFrame({"y": Y}),
            pd.DataFrame(),
            {"counts": X},
        )


@pytest.fixture
def finished(tmp_path: Path) -> tuple[streamlr.TrainResult, Path]:
    write_store(tmp_path / "s", X, Y, (100, 6), weights=np.ones(400))
    settings = {
        **SERIAL,
        "data": {"store": str(tmp_path / "s")},
        "run": {"directory": str(tmp_path / "run")},
    }
    return streamlr.train(settings), tmp_path


def test_what_is_no_path_is_told(
    finished: tuple[streamlr.TrainResult, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    result, folder = finished
    monkeypatch.chdir(folder)
    before = sorted(folder.iterdir())
    for given in (result.model, result, None, 3, {}, [1.0] * 1000):
        told = rf"expected a path, got {type(given).__name__};"
        for call in (
            lambda run: streamlr.evaluate(run, "s"),
            lambda run: streamlr.predict(run, "s", "p"),
            lambda run: streamlr.summary(run, "s"),
            streamlr.load_model,
        ):
            with pytest.raises(RunDirectoryError, match=f"run: {told} .*model.save"):
                call(given)  # type: ignore[arg-type]
        with pytest.raises(ConfigError, match=f"out: {told}"):
            streamlr.predict("run", "s", given)  # type: ignore[arg-type]
        if given is None or given == {}:
            continue
        for fit in (streamlr.train, streamlr.path):
            with pytest.raises(ConfigError, match=f"config: {told}"):
                fit(given, X=X, y=Y)  # type: ignore[operator]
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    "given", [X, pd.DataFrame(X), AnnData()], ids=["array", "frame", "anndata"]
)
def test_a_store_is_named_by_a_path_of_either_kind(
    finished: tuple[streamlr.TrainResult, Path], given: Any
) -> None:
    _, folder = finished
    for store in (given, zarr.open_group(folder / "s"), zarr.open_group(folder / "s")["X"]):
        for call in (
            streamlr.evaluate,
            lambda run, store: streamlr.predict(run, store, folder / "p"),
        ):
            with pytest.raises(
                ConfigError,
                match=r"store: expected a path, got .*give the path or URL of a Zarr group",
            ):
                call(folder / "run", store)
    assert streamlr.evaluate(folder / "run", folder / "s")["rows"] == 400  # type: ignore[arg-type]
    assert streamlr.predict(folder / "run", folder / "s", folder / "p") == 400  # type: ignore[arg-type]


def test_names_that_no_file_can_have_are_told(finished: tuple[streamlr.TrainResult, Path]) -> None:
    _, folder = finished
    with pytest.raises(RunDirectoryError, match=r"no model at .*name too long"):
        streamlr.evaluate("r" * 5000, str(folder / "s"))
    with pytest.raises(StoreNotFoundError, match=r"no store at .*name too long"):
        streamlr.evaluate(folder / "run", "s" * 5000)


def test_a_start_is_a_model(finished: tuple[streamlr.TrainResult, Path]) -> None:
    result, folder = finished
    for start in (result, str(folder / "run")):
        with pytest.raises(
            ConfigError,
            match=f"start: expected a Model, got {type(start).__name__}; .*result.model",
        ):
            streamlr.train(SERIAL, X=X, y=Y, start=start)  # type: ignore[arg-type]


def everything_that_takes_features(model: streamlr.Model) -> list[Callable[[Any], Any]]:
    fitted = streamlr.LogisticRegression().fit(X, Y)
    return [
        lambda X: streamlr.train(SERIAL, X=X, y=Y),
        lambda X: streamlr.path(SERIAL, X=X, y=Y),
        model.predict_proba,
        model.predict,
        lambda X: streamlr.LogisticRegression().fit(X, Y),
        lambda X: streamlr.LinearRegression().fit(X, Y),
        fitted.predict,
    ]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (AnnData(), r"X is an AnnData, .*adata\.X.*data\.store"),
        ("s.zarr", "X is the text 's.zarr', .*data.store"),
        (Path("s.zarr"), "X is the text 's.zarr'"),
    ],
    ids=["anndata", "text", "path"],
)
def test_what_holds_features_is_told_from_features(
    finished: tuple[streamlr.TrainResult, Path], given: Any, told: str
) -> None:
    for call in everything_that_takes_features(finished[0].model):
        with pytest.raises(DtypeError, match=told):
            call(given)


def test_anndata_itself_and_its_file_are_told(tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    table = anndata.AnnData(
        X.astype(np.float32), obs=pd.DataFrame({"y": Y}, index=[str(row) for row in range(len(Y))])
    )
    with pytest.raises(DtypeError, match=r"X is an AnnData, .*adata\.X.*data\.store"):
        streamlr.train(SERIAL, X=table, y=Y)
    table.write_h5ad(tmp_path / "a.h5ad")
    with pytest.raises(StoreNotFoundError, match=r"AnnData in HDF5; .*write_zarr"):
        streamlr.train({**SERIAL, "data": {"store": str(tmp_path / "a.h5ad")}})


def test_a_frame_that_is_still_to_be_made_is_told(
    finished: tuple[streamlr.TrainResult, Path],
) -> None:
    polars = pytest.importorskip("polars")
    frame = polars.DataFrame(X, schema=list("abcdef"))
    for call in everything_that_takes_features(finished[0].model):
        call(frame)
        with pytest.raises(
            DtypeError, match=r"X is a LazyFrame, which holds no rows yet; give X\.collect\(\)"
        ):
            call(frame.lazy())


def test_ragged_rows_are_told(finished: tuple[streamlr.TrainResult, Path]) -> None:
    with pytest.raises(DtypeError, match="X is a list, of which NumPy makes no array"):
        streamlr.train(SERIAL, X=[[1.0, 2.0], [3.0]], y=[0, 1])


def test_nullable_columns_are_numbers_and_text_is_named() -> None:
    frame = pd.DataFrame(
        {
            "a": pd.array(np.arange(400) % 7, dtype="Int64"),
            "b": X[:, 0],
            "c": pd.array(X[:, 1], dtype="Float64"),
        }
    )
    plain = frame.astype(np.float64)
    found, expected = (streamlr.train({}, X=given, y=Y).model for given in (frame, plain))
    np.testing.assert_array_equal(found.coef_, expected.coef_)
    np.testing.assert_array_equal(found.predict_proba(frame), expected.predict_proba(plain))
    frame.loc[3, "a"] = pd.NA
    with pytest.raises(NonFiniteError, match="row 3, feature 'a'"):
        streamlr.train({}, X=frame, y=Y)
    with pytest.raises(
        DtypeError, match=r"X has 1 of 4 columns that are no numbers: 'word' \(.*\); encode or drop"
    ):
        streamlr.train({}, X=frame.assign(word="x"), y=Y)


@pytest.mark.parametrize("missing", [None, np.nan, pd.NA])
def test_a_missing_group_is_told_by_its_row(missing: Any) -> None:
    groups = np.array(["a", "b", "c", "d"] * 100, dtype=object)
    groups[7] = missing
    with pytest.raises(NonFiniteError, match=r"groups holds 1 missing label.*row 7"):
        streamlr.train({**SERIAL, "validation": {"fraction": 0.2}}, X=X, y=Y, groups=groups)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("encoding", "parts"),
    [("categorical", ("codes", "categories")), ("nullable-integer", ("values", "mask"))],
)
def test_parts_of_a_column_are_no_labels(
    zarr_format: Any, encoding: str, parts: tuple[str, str], tmp_path: Path
) -> None:
    root = zarr.open_group(tmp_path / "a", mode="w", zarr_format=zarr_format)
    column = root.create_group("obs/kind", attributes={"encoding-type": encoding})
    for part in parts:
        column.create_array(part, shape=(400,), dtype=np.int8)[...] = Y
    for given in (column[part] for part in parts):
        for fit in (
            lambda y: streamlr.train(SERIAL, X=X, y=y),
            lambda y: streamlr.LogisticRegression().fit(X, y),
            lambda w: streamlr.train(SERIAL, X=X, y=Y, sample_weight=w),
        ):
            with pytest.raises(
                DtypeError,
                match=rf"is the part '\w+' of the column 'obs/kind' \({encoding}\).*read_elem",
            ):
                fit(given)
    with pytest.raises(DtypeError, match=r"y is the Zarr group '/obs/kind', .*read_elem"):
        streamlr.train(SERIAL, X=X, y=column)
    plain = zarr.open_group(tmp_path / "b", mode="w", zarr_format=zarr_format).create_array(
        "values", shape=(400,), dtype=np.int8
    )
    plain[...] = Y
    assert streamlr.train(SERIAL, X=X, y=plain).summary["rows"] == 400


@pytest.mark.parametrize("name", ["sample_weight", "offset"])
def test_weights_and_offsets_are_numbers(name: str) -> None:
    with pytest.raises(DtypeError, match=f"{name} has the type .*must be numbers"):
        streamlr.train(SERIAL, X=X, y=Y, **{name: np.array(["a"] * 400)})


@pytest.mark.parametrize("name", ["sample_weight", "offset", "groups"])
def test_what_is_given_beside_a_store_is_not_lost(
    finished: tuple[streamlr.TrainResult, Path], name: str
) -> None:
    store = {**SERIAL, "data": {"store": str(finished[1] / "s")}}
    for fit in (streamlr.train, streamlr.path):
        with pytest.raises(
            ConfigError, match=f"{name}: goes with X and y; of a store, data.weights"
        ):
            fit(store, **{name: np.ones(400)})  # type: ignore[operator]


@pytest.mark.parametrize(
    ("key", "argument"),
    [
        ("weights", "sample_weight"),
        ("offset", "offset"),
        ("exposure", "offset"),
        ("groups", "groups"),
    ],
)
def test_what_the_configuration_names_is_not_lost_beside_arrays(key: str, argument: str) -> None:
    family = "poisson" if key == "exposure" else "logistic"
    named = {**SERIAL, "data": {key: "w"}, "model": {"family": family}}
    for fit in (streamlr.train, streamlr.path):
        with pytest.raises(
            ConfigError,
            match=f"data.{key}: 'w' is an array of a store; with X and y give .*{argument}=",
        ):
            fit(named, X=X, y=Y)
    assert streamlr.train(named, X=X, y=Y, **{argument: np.ones(400)}).summary["rows"] == 400
