"""Values that stand for missing ones, as xarray and CF write them: refused where they occur, with
their number and the first, and harmless where they do not."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from stores import put, read_rows, runner
from test_damage import names, refusal, train

import streamlr
from streamlr.cli.main import cli
from streamlr.config.sections import DataConfig
from streamlr.data.describe import describe_store
from streamlr.data.source import Buffer
from streamlr.data.sources.adapters import ZarrRows
from streamlr.data.sources.store import ZarrSource
from streamlr.errors import DtypeError, MissingValueError, NonFiniteError

ROWS, FEATURES = 400, 6
PLACES = ((33, 1), (250, 0), (250, 4), (399, 5))
"""Where the marks of most tests are: four values in three rows."""


def data(dtype: str = "int16", seed: int = 0) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Features from 1 to 40, and labels that overlap."""
    rng = np.random.default_rng(seed)
    X = rng.integers(1, 41, (ROWS, FEATURES))
    y = (X @ rng.standard_normal(FEATURES) + 20 * rng.standard_normal(ROWS) > 0).astype(np.int64)
    return X.astype(dtype), y


def marked(X: NDArray[Any], mark: Any) -> NDArray[Any]:
    X = X.copy()
    for place in PLACES:
        X[place] = mark
    return X


def write(
    path: Path,
    X: NDArray[Any],
    y: Any,
    zarr_format: int = 2,
    *,
    fill: Any = None,
    fill_of_y: Any = None,
    axes: bool = True,
    sample_axis: int = 0,
    attributes: dict[str, Any] | None = None,
    every_chunk: bool = True,
) -> Path:
    """A store as xarray writes it: named axes, and fill values in the metadata of Zarr 2."""
    group = zarr.open_group(str(path), mode="w", zarr_format=zarr_format)  # type: ignore[arg-type]
    features = X if sample_axis == 0 else X.T
    for name, values, chunks, mark in (
        ("X", features, (100, 4) if sample_axis == 0 else (4, 100), fill),
        ("y", np.asarray(y), (150,), fill_of_y),
    ):
        options: dict[str, Any] = {"fill_value": mark} if zarr_format == 2 else {}
        array = put(group, name, values, chunks, every_chunk=every_chunk, **options)
        if axes and zarr_format == 2:
            both = ["row", "column"] if sample_axis == 0 else ["column", "row"]
            array.attrs["_ARRAY_DIMENSIONS"] = both if name == "X" else ["row"]
    zarr.open_array(str(path), path="X", mode="r+").attrs.update(attributes or {})
    return path


def as_xarray_does(value: float) -> str:
    """A float in the attributes of a Zarr 3 array."""
    return base64.b64encode(struct.pack("<d", value)).decode()


def coefficients(result: Any) -> bytes:
    assert isinstance(result, streamlr.TrainResult), result
    return np.asarray(result.model.coef_).tobytes()


# fill values of Zarr 2 ----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["serial", "threads"])
@pytest.mark.parametrize("sample_axis", [0, 1])
@pytest.mark.parametrize(
    ("dtype", "mark"),
    [("int16", -999), ("int32", -1), ("uint16", 9999), ("float32", -9999.0), ("float64", 1e20)],
)
def test_a_fill_value_that_occurs_is_refused_with_count_and_place(
    dtype: str, mark: float, sample_axis: int, kind: str, tmp_path: Path
) -> None:
    X, y = data(dtype)
    write(tmp_path / "s", marked(X, mark), y, fill=mark, sample_axis=sample_axis)
    error = refusal(tmp_path / "s", kind, sample_axis=sample_axis)
    assert isinstance(error, MissingValueError)
    assert isinstance(error, NonFiniteError)
    names(
        error, f"X in {tmp_path / 's'} holds 4 missing values ({mark!r}, in 3 rows; first: row 33,",
        "feature 1, in chunk 0)", "xarray reads its fill_value", "data.fill_value: value",
    )  # fmt: skip


@pytest.mark.parametrize("said", [None, "missing", "value"])
def test_a_fill_value_that_does_not_occur_changes_nothing(said: Any, tmp_path: Path) -> None:
    X, y = data()
    plain, _ = train(write(tmp_path / "plain", X, y))
    found, _ = train(write(tmp_path / "s", X, y, fill=-999, fill_of_y=7), fill_value=said)
    assert coefficients(found) == coefficients(plain)


@pytest.mark.parametrize(
    ("dtype", "mark"),
    [("int16", 0), ("int16", -32768), ("int16", 32767), ("uint8", 255), ("int8", -128),
     ("int8", 127), ("uint8", 0), ("float32", 0.0), ("bool", False), ("bool", True)],
)  # fmt: skip
def test_a_fill_value_that_may_be_a_value_is_refused_with_both_ways_out(
    dtype: str, mark: Any, tmp_path: Path
) -> None:
    X, y = data(dtype)
    X = marked(X, mark)
    if dtype == "bool":
        X = np.random.default_rng(1).random(X.shape) < 0.5
    equal = np.equal(X, mark)
    count, rows = np.count_nonzero(equal), np.count_nonzero(equal.any(axis=1))
    write(tmp_path / "s", X, y, fill=mark)
    both = ("data.fill_value: missing if", "data.fill_value: value if", "{X: value}")
    names(refusal(tmp_path / "s"), f"{count} missing values ({mark!r}, in {rows} rows;", *both)
    error = refusal(tmp_path / "s", fill_value="missing")
    names(error, f"{count} missing values", "by data.fill_value", "drop those rows")
    assert "data.fill_value: value" not in str(error)
    expected, _ = train(write(tmp_path / "plain", X, y))
    for said in ("value", {"X": "value"}):
        found, _ = train(tmp_path / "s", fill_value=said)
        assert coefficients(found) == coefficients(expected)


@pytest.mark.parametrize("of", ["y", "weights", "offset", "groups"])
@pytest.mark.parametrize("mark", [-1, 0])
def test_fill_values_of_all_arrays_count(of: str, mark: int, tmp_path: Path) -> None:
    X, y = data()
    write(tmp_path / "s", X, y + 3)
    values = np.where(np.isin(np.arange(ROWS), [151, 320]), mark, y + 3).astype(np.int16)
    group = zarr.open_group(str(tmp_path / "s"), mode="r+")
    if of == "y":
        del group["y"]
    put(group, of, values, (150,), fill_value=mark).attrs["_ARRAY_DIMENSIONS"] = ["row"]
    settings = {} if of == "y" else {of: of}
    tree: dict[str, Any] = {
        "data": {"store": str(tmp_path / "s"), **settings},
        "cluster": {"kind": "serial"},
        "validation": {"fraction": 0.2},
    }
    with pytest.raises(MissingValueError) as caught:
        streamlr.train(tree)
    names(caught.value, f"{of} in", f"holds 2 missing values ({mark}; first: row 151, in chunk 1)")
    assert ("data.fill_value: missing if" in str(caught.value)) is (mark == 0)


def test_one_array_may_be_said_to_hold_values_and_another_not(tmp_path: Path) -> None:
    X, y = data()
    write(tmp_path / "s", marked(X, -32768), y, fill=-32768, fill_of_y=0)
    names(refusal(tmp_path / "s"), "y in", f"holds {np.count_nonzero(y == 0)} missing values (0;")
    error = refusal(tmp_path / "s", fill_value={"y": "value"})
    names(error, "X in", "holds 4 missing values (-32768,")


@pytest.mark.parametrize(
    ("zarr_format", "axes", "fill"),
    [(2, True, None), (2, False, -999), (2, False, 0), (3, True, None)],
)
def test_what_no_convention_marks_is_a_value(
    zarr_format: int, axes: bool, fill: Any, tmp_path: Path
) -> None:
    X, y = data()
    X = marked(X, -999)
    write(tmp_path / "s", X, y, zarr_format, fill=fill, axes=axes)
    source = ZarrSource(DataConfig(store=str(tmp_path / "s")))
    assert source.marks is None
    np.testing.assert_array_equal(read_rows(source, 100), X)
    coefficients(train(tmp_path / "s")[0])


def test_nan_as_the_fill_value_is_told_as_it_always_was(tmp_path: Path) -> None:
    X, y = data("float32")
    write(tmp_path / "s", marked(X, np.nan), y, fill="NaN")
    error = refusal(tmp_path / "s")
    assert type(error) is NonFiniteError
    names(error, "chunk 0 of X in", "non-finite", "row 33")


def test_chunks_that_were_left_out_are_missing_values_where_their_fill_is(tmp_path: Path) -> None:
    X, y = data()
    X[100:200] = -999
    write(tmp_path / "s", X, y, fill=-999, every_chunk=False)
    names(refusal(tmp_path / "s"), "missing_chunks: fill")
    error = refusal(tmp_path / "s", missing_chunks="fill")
    names(error, f"{100 * FEATURES} missing values (-999, in 100 rows; first: row 100, feature 0")
    coefficients(train(tmp_path / "s", missing_chunks="fill", fill_value="value")[0])


def test_text_that_is_the_fill_value_is_missing(tmp_path: Path) -> None:
    X, y = data()
    labels = np.array(["no", "yes"])[y].astype(object)
    labels[[3, 270]] = "unknown"
    group = zarr.open_group(str(tmp_path / "s"), mode="w", zarr_format=2)
    put(group, "X", X)
    put(group, "y", labels, fill_value="unknown").attrs["_ARRAY_DIMENSIONS"] = ["row"]
    names(refusal(tmp_path / "s"), "y in", "2 missing values ('unknown'; first: row 3, in chunk 0)")


# attributes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("dtype", "attributes", "mark"),
    [("int16", {"_FillValue": -999}, -999), ("int16", {"_FillValue": 0}, 0),
     ("int8", {"_FillValue": [-128]}, -128), ("int16", {"_FillValue": -999.0}, -999),
     ("int16", {"missing_value": [math.nan, 99]}, 99), ("int64", {"missing_value": "-7"}, -7),
     ("float32", {"_FillValue": as_xarray_does(9.96921e36)}, np.float32(9.96921e36)),
     ("float64", {"_FillValue": -9999}, -9999.0), ("float32", {"missing_value": 0.1}, 0.1),
     ("uint8", {"_FillValue": 255}, 255), ("bool", {"_FillValue": 1}, True)],
    ids=str,
)  # fmt: skip
def test_a_mark_of_the_attributes_is_refused_where_it_occurs(
    dtype: str, attributes: dict[str, Any], mark: Any, zarr_format: int, tmp_path: Path
) -> None:
    X, y = data(dtype)
    if dtype == "bool":
        X[:] = not mark
    write(tmp_path / "s", marked(X, mark), y, zarr_format, attributes=attributes)
    (key,) = attributes
    for said in (None, "value"):  # which is said of fill values of Zarr 2 that nobody states
        error = refusal(tmp_path / "s", fill_value=said)
        names(
            error, "X in", "4 missing values", "in 3 rows; first: row 33, feature 1", f"its {key}"
        )
    names(error, "or set data.fill_value: {X: value}")
    expected, _ = train(write(tmp_path / "unmarked", marked(X, mark), y, zarr_format))
    found, _ = train(tmp_path / "s", fill_value={"X": "value"})
    assert coefficients(found) == coefficients(expected)
    write(tmp_path / "clean", X, y, zarr_format, attributes=attributes)
    plain, _ = train(write(tmp_path / "plain", X, y, zarr_format))
    assert coefficients(train(tmp_path / "clean")[0]) == coefficients(plain)


@pytest.mark.parametrize(
    ("dtype", "mark"),
    [("uint8", -999), ("int8", 1000), ("int16", 0.5), ("int16", 1e300), ("int16", "NaN"),
     ("int32", as_xarray_does(math.inf)), ("float16", 1e20), ("float32", "nan"), ("int16", None)],
)  # fmt: skip
def test_a_mark_that_no_value_can_equal_marks_nothing(
    dtype: str, mark: Any, tmp_path: Path
) -> None:
    X, y = data(dtype)
    write(tmp_path / "s", X, y, 3, attributes={"_FillValue": mark})
    assert ZarrSource(DataConfig(store=str(tmp_path / "s"))).marks is None


@pytest.mark.parametrize("mark", ["none", {"value": 3}, "2020-01-01"])
def test_a_mark_that_cannot_be_understood_is_refused(mark: Any, tmp_path: Path) -> None:
    X, y = data()
    write(tmp_path / "s", X, y, 3, attributes={"_FillValue": mark})
    error = refusal(tmp_path / "s")
    assert isinstance(error, DtypeError)
    names(error, "X has the attribute _FillValue", "write a number, or remove it")


@pytest.mark.parametrize(("dtype", "told"), [("int8", "true"), ("uint8", "false")])
def test_integers_that_others_read_with_another_sign_are_refused(
    dtype: str, told: str, tmp_path: Path
) -> None:
    X, y = data(dtype)
    write(tmp_path / "s", X, y, 3, attributes={"_Unsigned": told})
    names(
        refusal(tmp_path / "s"), "X has the attribute _Unsigned", dtype, "Write the array decoded"
    )
    write(tmp_path / "s", X, y, 3, attributes={"_Unsigned": "false" if told == "true" else "true"})
    coefficients(train(tmp_path / "s")[0])


def test_several_marks_are_counted_apart(tmp_path: Path) -> None:
    X, y = data()
    X = marked(X, -1)
    X[7, 2] = X[8, 2] = -2
    write(tmp_path / "s", X, y, 3, attributes={"missing_value": [-1, -2, -3]})
    names(
        refusal(tmp_path / "s"),
        "6 missing values (-1: 4, -2: 2, in 5 rows; first: row 7, feature 2",
    )


# every command, every engine ----------------------------------------------------------------------


def run_and_spoil(tmp_path: Path, spoil: Callable[[Path], None]) -> tuple[Path, Path]:
    X, y = data()
    store = write(tmp_path / "s", X, y, fill=-999)
    tree = {"data": {"store": str(store)}, "run": {"directory": str(tmp_path / "run")}}
    streamlr.train(tree)
    spoil(store)
    return tmp_path / "run", store


def spoil_features(store: Path) -> None:
    X, _ = data()
    zarr.open_array(str(store), path="X", mode="r+")[...] = marked(X, -999)


@pytest.mark.parametrize("command", ["train", "path", "evaluate", "predict", "summary"])
def test_every_command_refuses_missing_values(command: str, tmp_path: Path) -> None:
    run, store = run_and_spoil(tmp_path, spoil_features)
    arguments = {
        "train": ["train", "--set", f"data.store={store}", "--run-dir", str(tmp_path / "r")],
        "path": ["path", "--set", f"data.store={store}", "--run-dir", str(tmp_path / "r")],
        "evaluate": ["evaluate", str(run), str(store)],
        "predict": ["predict", str(run), str(store), str(tmp_path / "out.zarr")],
        "summary": ["summary", str(run)],
    }[command]
    if command in ("train", "path"):
        (tmp_path / "c.yaml").write_text("cluster: {kind: threads, workers: 2}\n")
        arguments[1:1] = ["--config", str(tmp_path / "c.yaml")]
    done = runner().invoke(cli, arguments)
    error = done.exception
    assert isinstance(error, MissingValueError)
    assert error.exit_status == 3
    names(error, "holds 4 missing values (-999, in 3 rows; first: row 33, feature 1")
    assert not (tmp_path / "out.zarr").exists()


def test_processes_and_threads_count_alike(tmp_path: Path) -> None:
    X, y = data()
    write(tmp_path / "s", marked(X, -999), y, fill=-999)
    messages = {str(refusal(tmp_path / "s", kind)) for kind in ("serial", "threads", "processes")}
    assert len(messages) == 1


def test_info_tells_marks_of_features_and_missing_labels(tmp_path: Path) -> None:
    X, y = data()
    write(tmp_path / "s", marked(X, -999), np.where(np.arange(ROWS) == 5, -1, y), fill=-999,
          fill_of_y=-1)  # fmt: skip
    found = describe_store(ZarrSource(DataConfig(store=str(tmp_path / "s"))))
    assert json.loads(json.dumps(found)) == found
    assert [array["missing"] for array in found["arrays"]] == [[-999], [-1]]
    assert any(
        "y in" in told and "holds 1 missing value (-1; first: row 5" in told
        for told in found["problems"]
    )
    shown = runner().invoke(cli, ["info", str(tmp_path / "s")]).stderr
    assert "read directly, missing where -999" in shown


def test_a_plan_reads_nothing_and_refuses_no_mark(tmp_path: Path) -> None:
    X, y = data()
    write(tmp_path / "s", marked(X, -999), y, fill=-999)
    (tmp_path / "c.yaml").write_text(f"data: {{store: {tmp_path / 's'}}}\n")
    assert runner().invoke(cli, ["plan", "--config", str(tmp_path / "c.yaml")]).exit_code == 0


def test_an_interrupted_run_is_resumed_whatever_is_said_of_fill_values(tmp_path: Path) -> None:
    X, y = data()
    store = write(tmp_path / "s", X, y, fill=-999)
    tree: dict[str, Any] = {
        "data": {"store": str(store)},
        "run": {"directory": str(tmp_path / "r")},
    }
    streamlr.train({**tree, "solver": {"max_passes": 2}})
    tree["data"]["fill_value"] = "missing"
    assert streamlr.train(tree, resume=True).status == "converged"


# arrays that are handed over ----------------------------------------------------------------------


def test_zarr_arrays_that_are_handed_over_are_looked_through(tmp_path: Path) -> None:
    X, y = data()
    write(tmp_path / "s", marked(X, -32768), y, fill=-32768, fill_of_y=-1)
    group: Any = zarr.open_group(str(tmp_path / "s"), mode="r")
    serial: dict[str, Any] = {"cluster": {"kind": "serial"}}
    with pytest.raises(
        MissingValueError, match=r"X holds 4 missing values \(-32768, in 3 rows;.*X\[\.\.\.\]"
    ):
        streamlr.train(serial, X=group["X"], y=y)
    found = streamlr.train({**serial, "data": {"fill_value": "value"}}, X=group["X"], y=y)
    plain = streamlr.train(serial, X=group["X"][...], y=y)
    np.testing.assert_allclose(found.model.coef_, plain.model.coef_, rtol=1e-6)
    zarr.open_array(str(tmp_path / "s"), path="y", mode="r+")[17] = -1
    with pytest.raises(
        MissingValueError, match=r"y holds 1 missing value \(-1; first: row 17, in chunk 0\)"
    ):
        streamlr.train(serial, X=X, y=group["y"])


def test_rows_of_a_zarr_array_are_refused_in_whatever_block_they_are_read(tmp_path: Path) -> None:
    X, y = data()
    write(tmp_path / "s", marked(X, -999), y, fill=-999)
    rows = ZarrRows(zarr.open_array(str(tmp_path / "s"), path="X", mode="r"))
    np.testing.assert_array_equal(rows.read(100, 200, Buffer()), X[100:200])
    for start in (0, 200, 300):
        with pytest.raises(MissingValueError, match=r"holds 4 missing values .*first: row 33"):
            rows.read(start, start + 100, Buffer())


def test_an_estimator_refuses_them_too(tmp_path: Path) -> None:
    pytest.importorskip("sklearn")
    X, y = data()
    write(tmp_path / "s", marked(X, -999), y, fill=-999, fill_of_y=1)
    group: Any = zarr.open_group(str(tmp_path / "s"), mode="r")
    estimator = streamlr.LogisticRegression()
    with pytest.raises(MissingValueError, match="X holds 4 missing values"):
        estimator.fit(group["X"], y)
    with pytest.raises(MissingValueError, match=f"y holds {np.count_nonzero(y)} missing values"):
        estimator.fit(X, group["y"])
    estimator.fit(X, y)
    with pytest.raises(MissingValueError, match="X holds 4 missing values"):
        estimator.predict(group["X"])
    with pytest.raises(MissingValueError, match=r"X holds 4 missing values .*row 33, feature 1"):
        estimator.model_.predict_proba(group["X"])
    for other in (streamlr.LogisticRegression(), streamlr.LinearRegression()):
        with pytest.raises(MissingValueError, match="y holds"):
            other.fit(X, y).score(X, group["y"])


# what it costs ------------------------------------------------------------------------------------


def test_marks_are_looked_for_in_the_first_pass_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    X, y = data()
    store, asked = write(tmp_path / "s", X, y, fill=-999), []
    from streamlr.kernels.gaps import GapScan

    sums = GapScan.sums

    def counting(self: GapScan, *given: Any) -> Any:
        asked.append(given[0].first_row)
        return sums(self, *given)

    monkeypatch.setattr(GapScan, "sums", counting)
    result, _ = train(store)
    assert isinstance(result, streamlr.TrainResult)
    assert result.passes > 1
    assert len(asked) == len(set(asked)) > 0


# the tools themselves -----------------------------------------------------------------------------


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(("dtype", "mark"), [("int16", -32768), ("int8", -1), ("float32", -9999.0)])
def test_what_xarray_writes_is_read_as_xarray_reads_it(
    zarr_format: Any, dtype: str, mark: float, tmp_path: Path
) -> None:
    xarray = pytest.importorskip("xarray")
    X, y = data("float64")
    X = marked(X, np.nan)
    table = xarray.Dataset({"X": (("row", "column"), X), "y": ("row", y.astype(np.int8))})
    encoding = {"X": {"dtype": dtype, "_FillValue": mark, "chunks": (100, FEATURES)}}
    table.to_zarr(tmp_path / "s", zarr_format=zarr_format, encoding=encoding, consolidated=False)
    names(
        refusal(tmp_path / "s"), "X in",
        f"holds {int(np.isnan(xarray.open_zarr(tmp_path / 's', consolidated=False).X).sum())} "
        f"missing values ({mark}, in 3 rows; first: row 33, feature 1, in chunk 0)",
    )  # fmt: skip
    table = xarray.Dataset({"X": (("row", "column"), data()[0]), "y": ("row", y.astype(np.int8))})
    table.to_zarr(
        tmp_path / "clean", zarr_format=zarr_format, encoding=encoding, consolidated=False
    )
    coefficients(train(tmp_path / "clean")[0])
