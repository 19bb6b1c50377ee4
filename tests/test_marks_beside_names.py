"""Missing values and the names of features: marks count in the features that a model knows, and the
columns that name features are read as those that hold labels are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from stores import put
from test_damage import names

import streamlr
from streamlr.config.sections import DataConfig
from streamlr.data.source import Buffer
from streamlr.data.sources.adapters import ZarrRows
from streamlr.data.sources.store import ZarrSource
from streamlr.errors import ChunkError, MissingValueError, ShapeError

ROWS = 240
GENES = ("TP53", "EGFR", "MYC", "KRAS")
SERIAL: dict[str, Any] = {"cluster": {"kind": "serial"}}


def data() -> tuple[Any, Any]:
    rng = np.random.default_rng(3)
    X = rng.integers(1, 30, (ROWS, len(GENES))).astype(np.int16)
    return X, (X[:, 0] + 10 * rng.standard_normal(ROWS) > 15).astype(np.int64)


def write(path: Path, X: Any, y: Any, genes: tuple[str, ...], fill: int | None = None) -> str:
    group = zarr.open_group(str(path), mode="w", zarr_format=2)
    put(group, "X", X, (60, 2), fill_value=fill).attrs["_ARRAY_DIMENSIONS"] = ["cell", "gene"]
    put(group, "y", y, fill_value=None).attrs["_ARRAY_DIMENSIONS"] = ["cell"]
    put(group, "gene", np.asarray(genes)).attrs["_ARRAY_DIMENSIONS"] = ["gene"]
    return str(path)


def trained(tmp_path: Path) -> str:
    store, run = write(tmp_path / "s", *data(), GENES), str(tmp_path / "run")
    streamlr.train({**SERIAL, "data": {"store": store}, "run": {"directory": run}})
    return run


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_marks_in_features_that_the_model_does_not_know_do_not_matter(
    command: str, tmp_path: Path
) -> None:
    run, (X, y) = trained(tmp_path), data()
    wider = np.hstack([np.full((ROWS, 1), -999, np.int16), X])
    store = write(tmp_path / "wider", wider, y, ("ACTB", *GENES), fill=-999)

    def ask(of: str) -> Any:
        if command == "evaluate":
            return streamlr.evaluate(run, of)
        out = tmp_path / f"{Path(of).name} p"
        streamlr.predict(run, of, out)
        predicted: Any = zarr.open_array(str(out), mode="r")[...]
        return predicted.tolist()

    assert ask(store) == ask(str(tmp_path / "s"))
    wider[77, 3] = -999
    write(tmp_path / "wider", wider, y, ("ACTB", *GENES), fill=-999)
    with pytest.raises(MissingValueError) as caught:
        ask(store) if command == "evaluate" else streamlr.predict(run, store, tmp_path / "other")
    names(caught.value, "holds 1 missing value (-999, in 1 row; first: row 77, feature 'MYC'")


@pytest.mark.parametrize("column", [0, 2])
def test_so_it_is_with_masks(column: int, tmp_path: Path) -> None:
    dosages, y = data()[0] % 3, data()[1]
    mask = np.zeros((ROWS, 5), dtype=bool)
    mask[50:52, column] = True
    for name, values, genes in (
        ("s", dosages, GENES),
        ("wider", np.hstack([np.zeros((ROWS, 1), np.int16), dosages]), ("rs0", *GENES)),
    ):
        group = zarr.open_group(str(tmp_path / name), mode="w")
        put(group, "X", values, dimension_names=["samples", "variants"])
        put(group, "y", y, dimension_names=["samples"])
        put(group, "variant_id", np.asarray(genes), dimension_names=["variants"])
    put(group, "X_mask", mask, dimension_names=["samples", "variants"])
    run = str(tmp_path / "run")
    streamlr.train({**SERIAL, "data": {"store": str(tmp_path / "s")}, "run": {"directory": run}})
    if column == 0:
        found = streamlr.evaluate(run, str(tmp_path / "wider"))
        assert found == streamlr.evaluate(run, str(tmp_path / "s"))
        return
    with pytest.raises(MissingValueError) as caught:
        streamlr.evaluate(run, str(tmp_path / "wider"))
    names(caught.value, "2 missing values (by X_mask, in 2 samples; first: sample 50", "'EGFR'")


def of_anndata(path: Path, codes: Any, categories: Any = GENES) -> Any:
    group = zarr.open_group(str(path), mode="w")
    put(group, "X", np.eye(4))
    put(group, "y", np.array([0, 1, 0, 1]))
    var = group.create_group("var", attributes={"_index": "gene"})
    told = {"encoding-type": "categorical", "encoding-version": "0.2.0", "ordered": False}
    gene = var.create_group("gene", attributes=told)
    put(gene, "codes", np.asarray(codes, np.int8), (2,), every_chunk=False)
    if categories is not None:
        put(gene, "categories", np.asarray(categories))
    return ZarrSource(DataConfig(store=str(path)))


def test_names_that_are_missing_are_empty(tmp_path: Path) -> None:
    assert of_anndata(tmp_path / "a", [0, 0, 3, -1]).feature_names == ("TP53", "TP53", "KRAS", "")
    assert of_anndata(tmp_path / "b", [-1] * 4).feature_names == ("",) * 4


def test_columns_of_names_that_are_damaged_are_told(tmp_path: Path) -> None:
    with pytest.raises(ChunkError, match=r"var/gene of .* has the code 4 at row 2, in chunk 1"):
        _ = of_anndata(tmp_path / "a", [0, 1, 4, -1]).feature_names
    with pytest.raises(ShapeError, match="has no var/gene/categories, a part of a column"):
        _ = of_anndata(tmp_path / "b", [0, 1, 2, 3], None).feature_names
    with pytest.raises(ShapeError, match="4 features but 3 names in var/gene"):
        _ = of_anndata(tmp_path / "c", [0, 1, 2]).feature_names


def test_rows_that_have_travelled_look_for_marks_too(tmp_path: Path) -> None:
    X, y = data()
    X[130, 1] = -999
    write(tmp_path / "s", X, y, GENES, fill=-999)
    array: Any = zarr.open_array(str(tmp_path / "s"), path="X", mode="r")
    for said, found in ((None, MissingValueError), ({"X": "value"}, None)):
        rebuild, arguments = ZarrRows(array, fill_value=said).__reduce__()
        rows = rebuild(*arguments)
        if found is None:
            np.testing.assert_array_equal(rows.read(120, 180, Buffer()), X[120:180])
            continue
        with pytest.raises(found, match=r"X holds 1 missing value .*row 130, feature 1"):
            rows.read(120, 180, Buffer())


@pytest.mark.parametrize("what", ["sample_weight", "offset", "groups", "validation"])
def test_what_is_handed_over_beside_the_features_is_looked_through(
    what: str, tmp_path: Path
) -> None:
    X, y = data()
    beside = np.arange(ROWS) % 2
    group = zarr.open_group(str(tmp_path / "s"), mode="w", zarr_format=2)
    beside[9] = 7
    array = put(group, what, beside, fill_value=7)
    array.attrs["_ARRAY_DIMENSIONS"] = ["cell"]
    given: dict[str, Any] = {what: array}
    with pytest.raises(MissingValueError) as caught:
        streamlr.train(SERIAL, X=X, y=y, **given)
    names(caught.value, f"{what} holds 1 missing value (7; first: row 9")


def test_an_offset_of_zarr_is_looked_through_at_prediction(tmp_path: Path) -> None:
    X, y = data()
    group = zarr.open_group(str(tmp_path / "s"), mode="w", zarr_format=2)
    array = put(group, "offset", np.arange(ROWS), fill_value=5)
    array.attrs["_ARRAY_DIMENSIONS"] = ["cell"]
    model = streamlr.train(SERIAL, X=X, y=y, offset=np.zeros(ROWS)).model
    with pytest.raises(MissingValueError, match=r"offset holds 1 missing value .*first: row 5"):
        model.predict_proba(X, array)
