"""AnnData's columns of a table are read by the names of their groups, as what they mean."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr
from stores import chunk_paths, put, two_class_data
from test_damage import names, refusal, train

import streamlr
from streamlr.config.sections import DataConfig
from streamlr.data.describe import describe_store
from streamlr.data.sources.store import ZarrSource
from streamlr.errors import (
    ChunkError,
    DtypeError,
    MissingValueError,
    RunDirectoryError,
    ShapeError,
    StoreNotFoundError,
)

ROWS = 400
CATEGORICAL = {"encoding-type": "categorical", "encoding-version": "0.2.0", "ordered": False}
X, SECOND = two_class_data(ROWS)


def store_of(path: Path, zarr_format: Any = 3) -> Any:
    group = zarr.open_group(str(path), mode="w", zarr_format=zarr_format)
    put(group, "X", X, (100, 6))
    put(group, "y", SECOND)
    group.create_group("obs").attrs.update({"encoding-type": "dataframe"})
    return group


def put_categorical(
    group: Any, name: str, codes: Any, categories: Any, *, dtype: Any = np.int8, chunk: int = 150
) -> None:
    inner = group.create_group(f"obs/{name}", attributes=CATEGORICAL)
    put(inner, "codes", np.asarray(codes, dtype=dtype), (chunk,))
    put(inner, "categories", np.array(categories))


def put_nullable(
    group: Any, name: str, encoding: str, values: Any, missing: Any, *, every_chunk: bool = True
) -> None:
    attributes = {"encoding-type": encoding, "encoding-version": "0.1.0"}
    inner = group.create_group(f"obs/{name}", attributes=attributes)
    put(inner, "values", values, (150,))
    if missing is not None:
        mask = np.isin(np.arange(ROWS), missing)
        put(inner, "mask", mask, (150,), every_chunk=every_chunk)


def model_of(path: Path, kind: str = "serial", **data: Any) -> Any:
    result, _ = train(path, kind, **data)
    assert isinstance(result, streamlr.TrainResult), result
    return result.model


LABELS: dict[str, list[Any]] = {
    "text": ["ill", "well"],
    "numbers": [3, 7],
    "fractions": [0.5, 1.5],
    "bools": [False, True],
    "not in order": ["well", "ill"],
    "with one that never occurs": ["ill", "well", "dead"],
}


@pytest.mark.parametrize("kind", ["serial", "threads"])
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("labels", list(LABELS))
def test_categories_are_labels_in_their_own_words(
    labels: str, zarr_format: int, kind: str, tmp_path: Path
) -> None:
    group = store_of(tmp_path / "s", zarr_format)
    put_categorical(group, "kind", SECOND, LABELS[labels])
    put(group, "plain", np.array(LABELS[labels][:2])[SECOND], (150,))
    found = model_of(tmp_path / "s", kind, target="obs/kind")
    assert found.classes_.tolist() == sorted(LABELS[labels][:2])
    expected = model_of(tmp_path / "s", kind, target="plain")
    assert found.coef_.tobytes() == expected.coef_.tobytes()


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64", "uint8"])
@pytest.mark.parametrize("shards", [None, (200,)])
def test_codes_may_be_of_any_integer_in_any_layout(dtype: str, shards: Any, tmp_path: Path) -> None:
    group = store_of(tmp_path / "s")
    inner = group.create_group("obs/kind", attributes=CATEGORICAL)
    put(inner, "codes", SECOND.astype(dtype), (50,), codec="zstd, crc32c", shards=shards)
    put(inner, "categories", np.array(["ill", "well"]))
    assert model_of(tmp_path / "s", target="obs/kind").classes_.tolist() == ["ill", "well"]


@pytest.mark.parametrize("kind", ["serial", "threads", "processes"])
def test_a_category_that_is_missing_is_refused_with_row_and_count(
    kind: str, tmp_path: Path
) -> None:
    codes = np.where(np.isin(np.arange(ROWS), [160, 170, 399]), -1, SECOND)
    put_categorical(store_of(tmp_path / "s"), "kind", codes, ["ill", "well"])
    error = refusal(tmp_path / "s", kind, target="obs/kind")
    assert isinstance(error, MissingValueError)
    names(error, "obs/kind in", "holds 3 missing values (code -1; first: row 160, in chunk 1)")
    names(error, "give them a category")


@pytest.mark.parametrize("encoding", ["nullable-integer", "nullable-boolean",
                                      "nullable-string-array"])  # fmt: skip
@pytest.mark.parametrize("missing", [None, [], [160, 399]])
@pytest.mark.parametrize("every_chunk", [True, False])
def test_what_a_mask_covers_is_missing(
    encoding: str, missing: Any, every_chunk: bool, tmp_path: Path
) -> None:
    values = {"nullable-integer": SECOND, "nullable-boolean": SECOND.astype(bool),
              "nullable-string-array": np.array(["ill", "well"])[SECOND]}[encoding]  # fmt: skip
    group = store_of(tmp_path / "s")
    put_nullable(group, "kind", encoding, values, missing, every_chunk=every_chunk)
    if missing:
        error = refusal(tmp_path / "s", target="obs/kind")
        names(error, "obs/kind in", "2 missing values (by obs/kind/mask; first: row 160, in chunk")
    else:
        classes = model_of(tmp_path / "s", target="obs/kind").classes_
        assert classes.tolist() == np.unique(values).tolist()


def test_a_chunk_of_a_mask_that_was_lost_is_told_from_one_left_out(tmp_path: Path) -> None:
    put_nullable(store_of(tmp_path / "s"), "kind", "nullable-integer", SECOND, [])
    chunk_paths(tmp_path / "s" / "obs" / "kind" / "mask")[1].unlink()
    error = refusal(tmp_path / "s", target="obs/kind")
    assert isinstance(error, ChunkError)
    names(error, "chunk 1 of obs/kind/mask (rows 150 to 299)")


@pytest.mark.parametrize("where", ["remote", "zip"])
def test_columns_are_read_through_zarr_alike(where: str, tmp_path: Path) -> None:
    local = tmp_path / "s"
    group = store_of(local)
    put_categorical(group, "kind", SECOND, ["ill", "well"])
    put_nullable(group, "sound", "nullable-integer", SECOND, [], every_chunk=False)
    put_nullable(group, "holes", "nullable-integer", SECOND, [160], every_chunk=False)
    if where == "zip":
        store = str(tmp_path / "s.zip")
        with zipfile.ZipFile(store, "w") as archive:
            for path in sorted(local.rglob("*")):
                archive.write(path, path.relative_to(local))
    else:
        store = "remote://columns"
        for path in sorted(path for path in local.rglob("*") if path.is_file()):
            fsspec.filesystem("remote").pipe(
                f"/columns/{path.relative_to(local)}", path.read_bytes()
            )
    for target in ("obs/kind", "obs/sound"):
        expected = model_of(local, target=target)
        result, _ = train(store, target=target)
        assert isinstance(result, streamlr.TrainResult), result
        assert result.model.coef_.tobytes() == expected.coef_.tobytes()
        assert result.model.classes_.tolist() == expected.classes_.tolist()
    names(refusal(store, target="obs/holes"), "holds 1 missing value", "first: row 160, in chunk 1")


@pytest.mark.parametrize("attribute", ["__categories/kind", "obs/__categories/kind"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_codes_of_older_files_are_read_with_their_categories(
    zarr_format: int, attribute: str, tmp_path: Path
) -> None:
    group = store_of(tmp_path / "s", zarr_format)
    codes = put(group, "obs/kind", SECOND.astype(np.int8), (150,))
    put(group, "obs/__categories/kind", np.array(["ill", "well"])).attrs["ordered"] = False
    codes.attrs["categories"] = attribute
    assert model_of(tmp_path / "s", target="obs/kind").classes_.tolist() == ["ill", "well"]
    codes[9] = codes[11] = -1
    names(refusal(tmp_path / "s", target="obs/kind"), "2 missing values (code -1; first: row 9,")
    error = refusal(tmp_path / "s", target="obs/__categories/kind")
    names(error, "the categories of a column", "name the column, data.target: obs/kind")
    del group["obs/__categories/kind"]
    error = refusal(tmp_path / "s", target="obs/kind")
    names(error, "codes of the categories in '" + attribute)


def test_an_attribute_of_that_name_without_categories_says_nothing(tmp_path: Path) -> None:
    group = store_of(tmp_path / "s")
    group["y"].attrs["categories"] = "ill or well"
    assert model_of(tmp_path / "s").classes_.tolist() == [0, 1]


@pytest.mark.parametrize("key", ["target", "weights", "offset", "groups", "features"])
@pytest.mark.parametrize("part", ["codes", "categories", "values", "mask"])
def test_a_part_of_a_column_is_refused_with_the_column_named(
    part: str, key: str, tmp_path: Path
) -> None:
    group = store_of(tmp_path / "s")
    put_categorical(group, "kind", SECOND, ["ill", "well"])
    put_nullable(group, "other", "nullable-integer", SECOND, [])
    column = "obs/kind" if part in ("codes", "categories") else "obs/other"
    error = refusal(tmp_path / "s", **{key: f"{column}/{part}"})
    assert isinstance(error, DtypeError)
    names(error, f"'{column}/{part}' (data.{key})", f"name the column, data.{key}: {column}")


@pytest.mark.parametrize("code", [2, -2, 100])
def test_a_code_that_stands_for_nothing_is_named(code: int, tmp_path: Path) -> None:
    codes = np.where(np.arange(ROWS) == 301, code, SECOND)
    put_categorical(store_of(tmp_path / "s"), "kind", codes, ["ill", "well"])
    error = refusal(tmp_path / "s", target="obs/kind")
    assert isinstance(error, ChunkError)
    names(error, f"obs/kind in {tmp_path / 's'} has the code {code} at row 301, in chunk 2 of")
    names(error, "2 categories ('ill', 'well')")


def test_parts_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    group = store_of(tmp_path / "s")
    put_categorical(group, "short", SECOND[:300], ["ill", "well"])
    put_categorical(group, "floats", SECOND, ["ill", "well"], dtype=np.float64)
    put_nullable(group, "other", "nullable-integer", SECOND, None)
    put(group, "obs/other/mask", np.zeros(300, dtype=bool))
    put_nullable(group, "odd", "nullable-integer", SECOND, None)
    put(group, "obs/odd/mask", np.zeros(ROWS, dtype=np.int8))
    group.create_group("obs/empty", attributes=CATEGORICAL)
    cases: dict[str, tuple[type[Exception], str]] = {
        "short": (ShapeError, r"obs/short has shape \(300,\); expected \(400,\)"),
        "floats": (DtypeError, "has codes of float64 and categories of .*must be whole numbers"),
        "other": (ShapeError, r"obs/other/mask in .* shape \(300,\); expected bools of the shape"),
        "odd": (ShapeError, "obs/odd/mask in .* is an array of int8.*expected bools"),
        "empty": (StoreNotFoundError, "has no array 'obs/empty/codes'"),
    }
    for name, (kind, words) in cases.items():
        with pytest.raises(kind, match=words):
            ZarrSource(DataConfig(store=str(tmp_path / "s"), target=f"obs/{name}"))


def test_weights_offsets_groups_and_held_out_rows_may_be_columns(tmp_path: Path) -> None:
    group, rng = store_of(tmp_path / "s"), np.random.default_rng(1)
    weights, groups = rng.integers(1, 4, ROWS), rng.integers(0, 9, ROWS)
    offset, held = rng.choice([-0.5, 0.25], ROWS), np.arange(ROWS) % 5 == 0
    put_nullable(group, "w", "nullable-integer", weights, [])
    put_categorical(group, "o", (offset > 0).astype(int), [-0.5, 0.25])
    put_categorical(group, "g", groups, [f"donor {k}" for k in range(9)])
    put_nullable(group, "held", "nullable-boolean", held, [])
    for name, values in (("w", weights), ("o", offset), ("held", held)):
        put(group, name, values)
    put(group, "g", np.array([f"donor {k}" for k in groups]))

    def fit(prefix: str, **validation: Any) -> Any:
        arrays = {"weights": f"{prefix}w", "offset": f"{prefix}o"}
        if "fraction" in validation:
            arrays["groups"] = f"{prefix}g"
        tree = {"data": {"store": str(tmp_path / "s"), **arrays}, "validation": validation}
        return streamlr.train({**tree, "cluster": {"kind": "serial"}}).model.coef_.tobytes()

    assert fit("obs/", fraction=0.3) == fit("", fraction=0.3)
    assert fit("obs/", array="obs/held") == fit("", array="held")


@pytest.mark.parametrize("key", ["weights", "offset", "groups"])
def test_missing_values_of_other_columns_are_refused(key: str, tmp_path: Path) -> None:
    put_nullable(store_of(tmp_path / "s"), "c", "nullable-integer", SECOND, [3, 200])
    tree = {"data": {"store": str(tmp_path / "s"), key: "obs/c"}, "validation": {"fraction": 0.2}}
    with pytest.raises(MissingValueError, match=r"obs/c in .* holds 2 missing values .*row 3,"):
        streamlr.train({**tree, "cluster": {"kind": "serial"}})


def test_text_is_no_weight(tmp_path: Path) -> None:
    put_categorical(store_of(tmp_path / "s"), "kind", SECOND, ["ill", "well"])
    error = refusal(tmp_path / "s", weights="obs/kind")
    names(error, "obs/kind in", "weights must be numbers")


def test_a_number_in_a_column_is_a_target_of_every_family(tmp_path: Path) -> None:
    group = store_of(tmp_path / "s")
    counts = np.random.default_rng(2).integers(0, 5, ROWS)
    put_categorical(group, "counts", counts, [0, 1, 2, 3, 4])
    put(group, "plain", counts)
    for family in ("linear", "poisson", "softmax"):
        models = [
            streamlr.train(
                {"data": {"store": str(tmp_path / "s"), "target": target},
                 "model": {"family": family}, "cluster": {"kind": "serial"}}
            ).model.coef_.tobytes()
            for target in ("obs/counts", "plain")
        ]  # fmt: skip
        assert models[0] == models[1]


def test_labels_keep_their_words_in_scores_and_predictions(tmp_path: Path) -> None:
    put_categorical(store_of(tmp_path / "s"), "kind", SECOND, ["ill", "well"])
    tree = {"data": {"store": str(tmp_path / "s"), "target": "obs/kind"}}
    run = {"directory": str(tmp_path / "run")}
    streamlr.train({**tree, "run": run, "cluster": {"kind": "serial"}})
    scores = streamlr.evaluate(tmp_path / "run", str(tmp_path / "s"))
    assert scores["classes"] == ["ill", "well"]
    streamlr.predict(tmp_path / "run", str(tmp_path / "s"), tmp_path / "p.zarr")
    assert zarr.open_array(str(tmp_path / "p.zarr")).attrs["class"] == "well"
    summary = json.loads((tmp_path / "run" / "summary.json").read_text())
    assert summary["classes"] == ["ill", "well"]
    put_categorical(zarr.open_group(str(tmp_path / "s"), mode="r+"), "gone",
                    np.where(np.arange(ROWS) == 8, -1, SECOND), ["ill", "well"])  # fmt: skip
    with pytest.raises(MissingValueError, match=r"obs/gone in .* holds 1 missing value"):
        streamlr.evaluate(tmp_path / "run", str(tmp_path / "s"),
                          overrides=["data.target=obs/gone"])  # fmt: skip


def test_other_categories_are_other_data(tmp_path: Path) -> None:
    group = store_of(tmp_path / "s")
    put_categorical(group, "kind", SECOND, ["ill", "well"])
    tree: dict[str, Any] = {"data": {"store": str(tmp_path / "s"), "target": "obs/kind"},
                            "cluster": {"kind": "serial"}}  # fmt: skip
    run = {"directory": str(tmp_path / "run")}
    before = ZarrSource(DataConfig(**tree["data"]))
    streamlr.train({**tree, "run": run, "solver": {"max_passes": 2}})
    group["obs/kind/categories"][...] = np.array(["well", "ill"], dtype=object)
    after = ZarrSource(DataConfig(**tree["data"]))
    assert before.target is not None
    assert after.target is not None
    assert before.target.identity != after.target.identity
    with pytest.raises(RunDirectoryError, match="fingerprint"):
        streamlr.train({**tree, "run": run}, resume=True)


def test_info_names_columns_and_their_arrays(tmp_path: Path) -> None:
    group = store_of(tmp_path / "s")
    put_categorical(group, "kind", SECOND, ["ill", "well"])
    found = describe_store(ZarrSource(DataConfig(store=str(tmp_path / "s"), target="obs/kind")))
    assert json.loads(json.dumps(found)) == found
    told = [array["name"] for array in found["arrays"]]
    assert told == ["X", "obs/kind/codes", "obs/kind/categories"]
    assert [entry["label"] for entry in found["classes"]] == ["ill", "well"]
    error = refusal(tmp_path / "s", target="obs/kinds")
    names(error, "no array 'obs/kinds' (data.target); it holds obs/kind")
    error = refusal(tmp_path / "s", target="obs")
    names(error, "'obs' (data.target)", "is a group, not an array; it holds obs/kind")


def test_sparse_features_are_told_from_a_group_of_arrays(tmp_path: Path) -> None:
    group = store_of(tmp_path / "s")
    group.create_group("layers/counts", attributes={"encoding-type": "csr_matrix"})
    put(group, "layers/counts/data", np.ones(5))
    error = refusal(tmp_path / "s", features="layers/counts")
    names(error, "'layers/counts' (data.features)", "a sparse matrix (csr_matrix)", "dense")


def table() -> tuple[Any, Any]:
    anndata = pytest.importorskip("anndata")
    pandas = pytest.importorskip("pandas")
    words = np.array(["ill", "well"], dtype=object)[SECOND]
    holes = np.where(np.isin(np.arange(ROWS), [7, 300]), None, words)
    obs = pandas.DataFrame(
        {
            "categorical": pandas.Categorical(words),
            "categorical, missing": pandas.Categorical(holes),
            "integer": pandas.array(SECOND, dtype="Int64"),
            "integer, missing": pandas.array(
                [None if hole is None else int(hole == "well") for hole in holes], dtype="Int64"
            ),
            "boolean": pandas.array(SECOND == 1, dtype="boolean"),
            "boolean, missing": pandas.array(
                [None if hole is None else hole == "well" for hole in holes], dtype="boolean"
            ),
            "string": pandas.array(words, dtype="string"),
            "string, missing": pandas.array(holes, dtype="string"),
        },
        index=[f"cell {row}" for row in range(ROWS)],
    )
    return anndata, obs


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_what_anndata_writes_is_read_as_anndata_reads_it(zarr_format: Any, tmp_path: Path) -> None:
    anndata, obs = table()
    anndata.settings.allow_write_nullable_strings = True
    from anndata.io import write_elem

    group = zarr.open_group(str(tmp_path / "s"), mode="w", zarr_format=zarr_format)
    write_elem(group, "X", X)
    write_elem(group, "obs", obs)
    for name in obs.columns:
        if name.endswith("missing"):
            error = refusal(tmp_path / "s", target=f"obs/{name}")
            names(error, f"obs/{name} in", "holds 2 missing values", "first: row 7, in chunk 0")
        else:
            found = model_of(tmp_path / "s", target=f"obs/{name}")
            assert found.classes_.tolist() == sorted(obs[name].unique().tolist())
