"""From tables to a store: exact values, errors that say where, an interrupted ingest that goes on,
and memory that stays where it is."""

from __future__ import annotations

import gzip
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import pytest
import zarr
from stores import DTYPES, any_values, bits, files_of, two_class_data

import streamlr
from streamlr.config.sections import DataConfig
from streamlr.data.describe import describe_store
from streamlr.data.ingest import numpy_files as array_tables
from streamlr.data.ingest import table as tables
from streamlr.data.ingest.ingest import IngestResult, IngestSpec, ingest
from streamlr.data.ingest.table import Columns
from streamlr.data.sources.store import ZarrSource
from streamlr.errors import ConfigError, IngestError

DATA = [
    [0.1, -2.5e-300, 3.0],
    [1e22, 0.30000000000000004, -0.0],
    [123456789.123, 5e-324, 1.7976931348623157e308],
    [2.0, 7.0, -1.5],
]
Y = [0, 1, 1, 0]


def use_small_blocks(patch: pytest.MonkeyPatch) -> None:
    """Many blocks of even a small table; array_tables took the number over by name."""
    for module in (tables, array_tables):
        patch.setattr(module, "BATCH_BYTES", 4096)


def run(sources: Any, store: Path, target: str = "y", **options: Any) -> IngestResult:
    """Ingest with the options of `Columns` and `IngestSpec` together."""
    spec = {
        key: options.pop(key) for key in ("dtype", "chunk_rows", "compressor") if key in options
    }
    overwrite = options.pop("overwrite", False)
    return ingest(
        sources if isinstance(sources, list) else [sources],
        store,
        IngestSpec(Columns(target, **options), **spec),
        overwrite=overwrite,
    )


def read(store: Path, name: str) -> Any:
    array: Any = zarr.open_group(str(store), mode="r")[name]
    return np.asarray(array[...])


def write_csv(
    path: Path, rows: Sequence[Sequence[Any]], header: str | None = "a,b,c,y", delimiter: str = ","
) -> Path:
    """repr of a float is the shortest text that reads back as the same bits."""
    lines = ([] if header is None else [header.replace(",", delimiter)]) + [
        delimiter.join(str(value) for value in row) for row in rows
    ]
    text = "\n".join(lines) + "\n"
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode()))
    else:
        path.write_text(text)
    return path


def small_csv(path: Path) -> Path:
    return write_csv(path, [[*row, label] for row, label in zip(DATA, Y, strict=True)])


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz", "t.txt", "My.Table.csv"])
def test_csv_values_are_stored_to_the_bit(tmp_path: Path, name: str) -> None:
    result = run(small_csv(tmp_path / name), tmp_path / "s")
    assert (result.rows, result.features, result.resumed_rows) == (4, 3, 0)
    assert bits(read(tmp_path / "s", "X")) == bits(np.array(DATA))
    assert read(tmp_path / "s", "y").tolist() == Y
    assert read(tmp_path / "s", "feature_names").tolist() == ["a", "b", "c"]


@pytest.mark.parametrize("name", ["t.tsv", "t.tsv.gz", "2024.01.tsv", "t.TSV"])
def test_tabs_separate_the_columns_of_tsv_files(tmp_path: Path, name: str) -> None:
    rows = [[*row, label] for row, label in zip(DATA, Y, strict=True)]
    run(write_csv(tmp_path / name, rows, delimiter="\t"), tmp_path / "s")
    assert bits(read(tmp_path / "s", "X")) == bits(np.array(DATA))


def test_a_csv_file_may_have_another_delimiter_and_no_header(tmp_path: Path) -> None:
    rows = [[*row, label] for row, label in zip(DATA, Y, strict=True)]
    run(
        write_csv(tmp_path / "t.csv", rows, header=None, delimiter=";"),
        tmp_path / "s",
        "f3",
        header=False,
        delimiter=";",
    )
    assert bits(read(tmp_path / "s", "X")) == bits(np.array(DATA))
    assert read(tmp_path / "s", "y").tolist() == Y
    assert read(tmp_path / "s", "feature_names").tolist() == ["f0", "f1", "f2"]


def test_quoted_newlines_and_delimiters_belong_to_the_value(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(
        'a,"b,\nb",y\n1,2,"no, not\nat all"\n3,4,"""yes"""\n5,6,"no, not\nat all"\n'
    )
    run(tmp_path / "t.csv", tmp_path / "s")
    assert read(tmp_path / "s", "y").tolist() == ["no, not\nat all", '"yes"', "no, not\nat all"]
    assert read(tmp_path / "s", "X").tolist() == [[1, 2], [3, 4], [5, 6]]
    assert read(tmp_path / "s", "feature_names").tolist() == ["a", "b,\nb"]


@pytest.mark.parametrize(
    ("labels", "kind"),
    [
        (["ill", "well"], "T"),
        (['"NA"', "SE"], "T"),
        ([3, 7], "i"),
        (["true", "false"], "b"),
        ([0.5, 1.5], "f"),
    ],
    ids=str,
)
def test_labels_keep_their_kind(tmp_path: Path, labels: list[Any], kind: str) -> None:
    write_csv(tmp_path / "t.csv", [[*row, labels[k]] for row, k in zip(DATA, Y, strict=True)])
    run(tmp_path / "t.csv", tmp_path / "s")
    y = read(tmp_path / "s", "y")
    assert y.dtype.kind == kind or (kind == "T" and y.dtype.kind in "UO")
    assert y.tolist() == [
        {"true": True, "false": False, '"NA"': "NA"}.get(labels[k], labels[k]) for k in Y
    ]


def test_true_and_false_are_features(tmp_path: Path) -> None:
    write_csv(tmp_path / "t.csv", [["True", 1, 2, 0], ["False", 3, 4, 1]])
    run(tmp_path / "t.csv", tmp_path / "s")
    assert read(tmp_path / "s", "X").tolist() == [[1, 1, 2], [0, 3, 4]]


def test_weights_features_and_dropped_columns_are_told_apart(tmp_path: Path) -> None:
    write_csv(
        tmp_path / "t.csv", [[1, "text", 2, 0.5, 0], [3, "text", 4, 1.5, 1]], header="a,note,b,w,y"
    )
    run(tmp_path / "t.csv", tmp_path / "dropped", weights="w", drop=("note",))
    run(tmp_path / "t.csv", tmp_path / "chosen", features=("b", "a"))
    assert read(tmp_path / "dropped", "X").tolist() == [[1, 2], [3, 4]]
    assert read(tmp_path / "dropped", "weights").tolist() == [0.5, 1.5]
    assert read(tmp_path / "dropped", "weights").dtype == np.float64
    assert read(tmp_path / "chosen", "X").tolist() == [[2, 1], [4, 3]]
    assert read(tmp_path / "chosen", "feature_names").tolist() == ["b", "a"]
    assert "weights" not in zarr.open_group(str(tmp_path / "chosen"), mode="r")


def test_parquet_of_several_row_groups_keeps_values_and_order(tmp_path: Path) -> None:
    X, y = any_finite("float64", (1000, 3)), np.arange(1000)
    table = pa.table({"a": X[:, 0], "y": y, "b": X[:, 1], "c": X[:, 2]})
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet", row_group_size=130)
    run(tmp_path / "t.parquet", tmp_path / "s", chunk_rows=64)
    assert bits(read(tmp_path / "s", "X")) == bits(X)
    assert read(tmp_path / "s", "y").tolist() == y.tolist()


def any_finite(dtype: str, shape: tuple[int, int]) -> Any:
    X = any_values(dtype, shape)
    return np.where(np.isfinite(X), X, np.dtype(dtype).type(1)) if X.dtype.kind == "f" else X


@pytest.mark.parametrize(
    ("kinds", "stored"),
    [
        (["int8", "uint8"], "int16"),
        (["bool", "float32"], "float32"),
        (["int16", "float32"], "float32"),
        (["int32", "float32"], "float64"),
        (["float32", "float64"], "float64"),
        (["bool", "bool"], "bool"),
        (["uint16", "uint16"], "uint16"),
        (["int32", "uint32"], "int64"),
    ],
    ids=str,
)
def test_columns_of_mixed_types_are_stored_as_one_that_holds_them_all(
    tmp_path: Path, kinds: list[str], stored: str
) -> None:
    columns = [any_finite(kind, (200, 1))[:, 0] for kind in kinds]
    pyarrow.parquet.write_table(
        pa.table({"a": columns[0], "b": columns[1], "y": np.arange(200) % 2}),
        tmp_path / "t.parquet",
    )
    run(tmp_path / "t.parquet", tmp_path / "s")
    X = read(tmp_path / "s", "X")
    assert X.dtype == np.dtype(stored)
    for at, column in enumerate(columns):
        assert X[:, at].tolist() == column.tolist()


@pytest.mark.parametrize("kind", ["csv", "mixed parquet", "int64 and uint64"])
def test_integers_that_float64_cannot_hold_are_refused_or_kept(tmp_path: Path, kind: str) -> None:
    large = [2**53 + 1, 2**60 + 1]
    other = (
        np.array([2**63 + 1, 1], dtype=np.uint64)
        if kind == "int64 and uint64"
        else np.array([0.5, 1.5])
    )
    path = tmp_path / ("t.csv" if kind == "csv" else "t.parquet")
    if kind == "csv":
        write_csv(path, [[large[0], 0.5, 0], [large[1], 1.5, 1]], header="a,b,y")
    else:
        pyarrow.parquet.write_table(pa.table({"a": large, "b": other, "y": [0, 1]}), path)
    try:
        run(path, tmp_path / "s")
    except IngestError as error:
        assert "'a'" in str(error)  # noqa: PT017  (either outcome keeps the promise)
        return
    assert [int(value) for value in read(tmp_path / "s", "X")[:, 0]] == large


@pytest.mark.parametrize(
    "labels",
    [
        pa.array(["ill", "well", "ill"]),
        pa.array(["ill", "well", "ill"]).dictionary_encode(),
        pa.array(["ill", "well", "ill"], pa.large_string()),
    ],
    ids=["text", "dictionary", "large text"],
)
def test_text_labels_of_parquet_are_stored_as_text(tmp_path: Path, labels: Any) -> None:
    pyarrow.parquet.write_table(
        pa.table({"a": [1.0, 2.0, 3.0], "y": labels}), tmp_path / "t.parquet"
    )
    run(tmp_path / "t.parquet", tmp_path / "s")
    assert read(tmp_path / "s", "y").tolist() == ["ill", "well", "ill"]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_npy_values_of_every_dtype_are_stored_to_the_bit(
    tmp_path: Path, dtype: str, order: Any
) -> None:
    X, y = any_finite(dtype, (300, 5)), np.arange(300) % 2
    np.save(tmp_path / "X.npy", np.asarray(X, order=order))
    np.save(tmp_path / "y.npy", y)
    run(tmp_path / "X.npy", tmp_path / "s", str(tmp_path / "y.npy"), chunk_rows=64)
    assert bits(read(tmp_path / "s", "X")) == bits(X)
    assert read(tmp_path / "s", "y").tolist() == y.tolist()


def test_npy_of_the_other_byte_order_is_stored_to_the_bit(tmp_path: Path) -> None:
    X = any_finite("float64", (30, 5))
    np.save(tmp_path / "X.npy", X.astype(">f8"))
    np.save(tmp_path / "y.npy", np.arange(30).astype(">i4") % 2)
    run(tmp_path / "X.npy", tmp_path / "s", str(tmp_path / "y.npy"))
    assert bits(read(tmp_path / "s", "X")) == bits(X)
    assert read(tmp_path / "s", "y").tolist() == (np.arange(30) % 2).tolist()


@pytest.mark.parametrize("column", ["2", "-3"])
def test_a_column_of_a_npy_file_may_be_the_labels(tmp_path: Path, column: str) -> None:
    X = any_finite("float32", (30, 5))
    np.save(tmp_path / "X.npy", X)
    run(tmp_path / "X.npy", tmp_path / "s", column)
    assert bits(read(tmp_path / "s", "X")) == bits(X[:, [0, 1, 3, 4]])
    assert bits(read(tmp_path / "s", "y")) == bits(X[:, 2])


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
@pytest.mark.parametrize(
    "labels", [np.arange(300) % 2, np.array(["no", "yes"] * 150)], ids=["numbers", "text"]
)
def test_npz_values_are_stored_to_the_bit(tmp_path: Path, save: Any, labels: Any) -> None:
    X = any_finite("float32", (300, 5))
    save(tmp_path / "t.npz", data=X, label=labels)
    run(tmp_path / "t.npz", tmp_path / "s", "label", chunk_rows=64)
    assert bits(read(tmp_path / "s", "X")) == bits(X)
    assert read(tmp_path / "s", "y").tolist() == labels.tolist()


def test_one_of_several_matrices_of_a_npz_file_is_chosen_by_name(tmp_path: Path) -> None:
    X = any_finite("float32", (30, 5))
    np.savez(tmp_path / "t.npz", left=X, right=X[:, :2], y=np.arange(30) % 2)
    run(tmp_path / "t.npz", tmp_path / "s", features=("right",))
    assert bits(read(tmp_path / "s", "X")) == bits(X[:, :2])
    with pytest.raises(
        IngestError,
        match=r"t\.npz holds left \(30, 5\), right \(30, 2\), y \(30,\); name the matrix with "
        r"features=",
    ):
        run(tmp_path / "t.npz", tmp_path / "t")


def test_several_sources_follow_one_another(tmp_path: Path) -> None:
    rows = [[i, 2 * i, 3 * i, i % 2] for i in range(100)]
    names = [
        str(write_csv(tmp_path / f"{at}.csv", rows[start:stop]))
        for at, (start, stop) in enumerate([(0, 30), (30, 31), (31, 100)])
    ]
    assert run(list(names), tmp_path / "s", chunk_rows=16).rows == 100
    write_csv(tmp_path / "all.csv", rows)
    run(tmp_path / "all.csv", tmp_path / "t", chunk_rows=16)
    assert files_of(tmp_path / "s") == files_of(tmp_path / "t")


@pytest.mark.parametrize("chunk_rows", [1, 7, 99, 100, 101, None])
@pytest.mark.parametrize("compressor", ["lz4", "none"])
def test_the_store_keeps_the_contract_whatever_its_chunks(
    tmp_path: Path, compressor: str, chunk_rows: int | None
) -> None:
    X, y = two_class_data(100, 3)
    np.savez(tmp_path / "t.npz", X=X, y=y)
    run(tmp_path / "t.npz", tmp_path / "s", chunk_rows=chunk_rows, compressor=compressor)
    source = ZarrSource(DataConfig(store=str(tmp_path / "s")))
    source.check_chunks()
    found = describe_store(source)
    assert found["problems"] == []
    assert (found["rows"], found["features"]) == (100, 3)
    assert all(array.checksummed for array in source.arrays)
    assert bits(read(tmp_path / "s", "X")) == bits(X)


def test_sorted_labels_and_columns_of_zeros_are_written_whole(tmp_path: Path) -> None:
    X, y = two_class_data()
    X[100:200] = 0
    np.savez(tmp_path / "t.npz", X=X, y=np.sort(y))
    run(tmp_path / "t.npz", tmp_path / "s", chunk_rows=50)
    ZarrSource(DataConfig(store=str(tmp_path / "s"))).check_chunks()


def test_what_was_ingested_is_trained_on_like_the_same_data_in_memory(tmp_path: Path) -> None:
    X, y = two_class_data(dtype="float64")
    np.savez(tmp_path / "t.npz", X=X, y=np.array(["no", "yes"])[y])
    run(tmp_path / "t.npz", tmp_path / "s", chunk_rows=100)
    stored = streamlr.train({"data": {"store": str(tmp_path / "s")}, "cluster": {"kind": "serial"}})
    here = streamlr.train({"cluster": {"kind": "serial"}}, X=X, y=y)
    # one optimum, and both solves end at a gradient of 1e-8 or less
    np.testing.assert_allclose(stored.model.coef_, here.model.coef_, rtol=1e-6)


@pytest.mark.parametrize(
    ("dtype", "values", "bad"),
    [
        ("float32", [0.5, 1e-3], None),
        ("int8", [-128.0, 127.0], None),
        ("int8", [1.0, 128.0], 1),
        ("int8", [1.0, 0.5], 1),
        ("float16", [1.0, 1e6], 1),
        ("uint8", [-1.0, 1.0], 0),
        ("bool", [0.0, 1.0], None),
        ("bool", [0.0, 2.0], 1),
    ],
)
def test_another_dtype_is_taken_where_it_holds_the_values(
    tmp_path: Path, dtype: str, values: list[float], bad: int | None
) -> None:
    write_csv(tmp_path / "t.csv", [[values[0], 0], [values[1], 1]], header="a,y")
    if bad is None:
        run(tmp_path / "t.csv", tmp_path / "s", dtype=dtype)
        assert read(tmp_path / "s", "X")[:, 0].tolist() == np.array(values).astype(dtype).tolist()
        return
    why = f"is too large for {dtype}" if dtype.startswith("float") else f"cannot be held by {dtype}"
    with pytest.raises(
        IngestError,
        match=rf"t\.csv: the value {values[bad]} in row {bad}, column 'a', {why}; choose another "
        rf"dtype",
    ):
        run(tmp_path / "t.csv", tmp_path / "s", dtype=dtype)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "a,b,y\n1,2,0\n3,,1\n5,6,0\n",
            r"t\.csv: row 1 has no value in the column 'b' .*fill or drop such rows",
        ),
        ("a,b,y\n1,2,0\n3,NA,1\n", r"t\.csv: row 1 has no value in the column 'b'"),
        ("a,b,y\n1,2,0\n3,4,\n", r"t\.csv: row 1 has no label in the column 'y'; drop such rows"),
        (
            "a,b,y\n1,x,0\n3,y,1\n",
            r"t\.csv: the column 'b' holds string, not numbers; leave it out with drop=\['b'\]",
        ),
        ("a,b,y\n1,2024-01-01,0\n", r"t\.csv: the column 'b' holds date32"),
        ("a,a,y\n1,2,0\n", r"t\.csv: the column 'a' occurs more than once; rename one"),
        ("a,b\n1,2\n", r"t\.csv has no column 'y'; it has a, b"),
        ("y\n1\n", r"t\.csv has no column left to be a feature"),
        ("a,b,y\n1,2\n", r"t\.csv cannot be read as CSV: .*Expected 3 columns, got 2"),
        ("", r"t\.csv cannot be read as CSV: .*[Ee]mpty"),
        ("a,b,y\n", r"t\.csv"),
        ("a,b,y\n1,2,\n3,4,\n", r"t\.csv: the column 'y' begins without labels"),
    ],
)
def test_what_is_wrong_in_a_csv_file_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(IngestError, match=f"(?s){message}"):
        run(tmp_path / "t.csv", tmp_path / "s")
    assert not (tmp_path / "s").exists()


def test_rows_are_numbered_through_the_whole_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_blocks(monkeypatch)
    rows: list[list[Any]] = [[i, i + 0.5, i % 2] for i in range(3000)]
    rows[2345][1] = ""
    write_csv(tmp_path / "t.csv", rows, header="a,b,y")
    with pytest.raises(IngestError, match="row 2345 has no value in the column 'b'"):
        run(tmp_path / "t.csv", tmp_path / "s", chunk_rows=64)
    rows[2345][1] = "oops"
    write_csv(tmp_path / "t.csv", rows, header="a,b,y")
    with pytest.raises(IngestError, match=r"t\.csv, after row \d+: .*'oops'.*drop="):
        run(tmp_path / "t.csv", tmp_path / "s", chunk_rows=64)
    table = pa.table(
        {
            "a": range(3000),
            "b": [None if i == 2345 else i for i in range(3000)],
            "y": [i % 2 for i in range(3000)],
        }
    )
    pyarrow.parquet.write_table(table, tmp_path / "t.parquet", row_group_size=700)
    with pytest.raises(IngestError, match=r"t\.parquet: row 2345 has no value in the column 'b'"):
        run(tmp_path / "t.parquet", tmp_path / "s", chunk_rows=64)


@pytest.mark.parametrize("kind", ["parquet", "npy", "npz"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_named_by_file_row_and_column(
    tmp_path: Path, kind: str, bad: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_blocks(monkeypatch)
    source, target = _with_value(tmp_path, kind, bad)
    column = "'b'" if kind == "parquet" else "1"
    with pytest.raises(IngestError, match=rf"t\.{kind}.*row 2345.*column {column}"):
        run(source, tmp_path / "s", target, chunk_rows=64)


@pytest.mark.parametrize("kind", ["parquet", "npy", "npz"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite_are_refused(tmp_path: Path, kind: str, bad: float) -> None:
    source, target = _with_value(tmp_path, kind, bad)
    with pytest.raises(
        IngestError,
        match=rf"t\.{kind}: the value {bad} in row 2345, column ('b'|1), is not finite; clean the "
        rf"source",
    ):
        run(source, tmp_path / "s", target, chunk_rows=64)
    assert not (tmp_path / "s").exists()


def _with_value(folder: Path, kind: str, bad: float) -> tuple[Path, str]:
    X, y = np.ones((3000, 3)), np.arange(3000) % 2
    X[2345, 1] = bad
    path = folder / f"t.{kind}"
    if kind == "parquet":
        pyarrow.parquet.write_table(
            pa.table({"a": X[:, 0], "b": X[:, 1], "c": X[:, 2], "y": y}), path
        )
    elif kind == "npy":
        np.save(path, X)
        np.save(folder / "y.npy", y)
        return path, str(folder / "y.npy")
    else:
        np.savez(path, X=X, y=y)
    return path, "y"


def test_text_columns_and_missing_labels_of_parquet_are_named(tmp_path: Path) -> None:
    pyarrow.parquet.write_table(
        pa.table({"a": [1.0, 2.0], "city": ["x", "y"], "y": [0, None]}), tmp_path / "t.parquet"
    )
    with pytest.raises(
        IngestError,
        match=r"t\.parquet: the column 'city' holds string, not numbers; leave it out with "
        r"drop=\['city'\]",
    ):
        run(tmp_path / "t.parquet", tmp_path / "s")
    with pytest.raises(IngestError, match=r"t\.parquet: row 1 has no label in the column 'y'"):
        run(tmp_path / "t.parquet", tmp_path / "s", drop=("city",))


def test_a_column_that_one_source_lacks_is_told_alone(tmp_path: Path) -> None:
    write_csv(tmp_path / "1.csv", [[1, 2, 0]], header="a,b,y")
    write_csv(tmp_path / "2.csv", [[1, 0]], header="a,y")
    with pytest.raises(IngestError, match=r"columns: only the second has \['b'\]; .*drop="):
        run([tmp_path / "1.csv", tmp_path / "2.csv"], tmp_path / "s")


def test_sources_with_different_columns_are_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "1.csv", [[1, 2, 0]], header="a,b,y")
    write_csv(tmp_path / "2.csv", [[1, 2, 0]], header="a,c,y")
    with pytest.raises(
        IngestError,
        match=r"2\.csv and .*1\.csv differ in their columns: only the first has \['c'\], only the "
        r"second has \['b'\]",
    ):
        run([tmp_path / "1.csv", tmp_path / "2.csv"], tmp_path / "s")


@pytest.mark.parametrize("chunk_rows", [4, None])
def test_arrays_of_different_width_are_refused(tmp_path: Path, chunk_rows: int | None) -> None:
    np.save(tmp_path / "1.npy", np.eye(6)[:, :4])
    np.save(tmp_path / "2.npy", np.eye(6)[:, :5])
    with pytest.raises(IngestError, match=r"2\.npy.*1\.npy"):
        run([tmp_path / "1.npy", tmp_path / "2.npy"], tmp_path / "s", "0", chunk_rows=chunk_rows)


def test_labels_that_change_their_type_between_sources_are_refused(tmp_path: Path) -> None:
    write_csv(tmp_path / "1.csv", [[1, 2, 0]], header="a,b,y")
    write_csv(tmp_path / "2.csv", [[1, 2, "ill"]], header="a,b,y")
    with pytest.raises(
        IngestError, match=r"2\.csv: labels are .* here and int64 before; bring them to one type"
    ):
        run([tmp_path / "1.csv", tmp_path / "2.csv"], tmp_path / "s")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.npy", b"no array", "cannot be read as .npy"),
        ("t.npz", b"no archive", "cannot be read as .npz"),
        ("t.parquet", b"no table", "cannot be read as Parquet"),
        ("t.csv.gz", b"no gzip", "cannot be read as CSV"),
        ("t.xlsx", b"", r"ends in '\.xlsx'; streamlr reads \.csv"),
        ("none", b"", "streamlr reads"),
    ],
)
def test_files_that_are_not_what_they_are_called_are_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(IngestError, match=message):
        run(tmp_path / name, tmp_path / "s", "0")


def test_a_compressed_file_that_was_cut_short_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_small_blocks(monkeypatch)
    rng = np.random.default_rng(0)
    path = write_csv(
        tmp_path / "t.csv.gz", [[*row, 0] for row in rng.standard_normal((20_000, 3)).tolist()]
    )
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(IngestError, match=r"t\.csv\.gz, after row \d+"):
        run(path, tmp_path / "s")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IngestError, match=r"no file at '.*t\.csv'; check sources"):
        run(tmp_path / "t.csv", tmp_path / "s")


@pytest.mark.parametrize("options", [{"weights": "w"}, {"drop": ("a",)}])
@pytest.mark.parametrize("kind", ["npy", "npz"])
def test_options_that_an_array_cannot_follow_are_refused(
    tmp_path: Path, kind: str, options: dict[str, Any]
) -> None:
    X, y = two_class_data(30, 3)
    np.save(tmp_path / "t.npy", X)
    np.savez(tmp_path / "t.npz", X=X, y=y, w=np.ones(30))
    with pytest.raises(IngestError, match="drop and weights"):
        run(tmp_path / f"t.{kind}", tmp_path / "s", "0" if kind == "npy" else "y", **options)


@pytest.mark.parametrize(
    ("save", "message"),
    [
        (
            lambda path: np.save(path / "t.npy", np.ones(5)),
            r"t\.npy has shape \(5,\); expected a matrix",
        ),
        (
            lambda path: np.save(path / "t.npy", np.ones((5, 2))),
            r"t\.npy has 2 columns; target 7 is none of them",
        ),
        (
            lambda path: np.savez(path / "t.npz", X=np.ones((5, 2)), **{"7": np.ones(4)}),
            r"X has 5 rows and 7 has shape \(4,\); they must agree",
        ),
        (
            lambda path: np.savez(
                path / "t.npz", X=np.asfortranarray(np.ones((5, 2))), **{"7": np.ones(5)}
            ),
            "Fortran order",
        ),
        (
            lambda path: np.savez(path / "t.npz", X=np.ones((5, 2)), **{"7": np.array([None] * 5)}),
            "Python objects",
        ),
    ],
)
def test_arrays_of_the_wrong_form_are_refused(tmp_path: Path, save: Any, message: str) -> None:
    save(tmp_path)
    with pytest.raises(IngestError, match=message):
        run(next(tmp_path.glob("t.np?")), tmp_path / "s", "7")


def test_labels_of_another_length_are_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", np.ones((5, 2)))
    np.save(tmp_path / "y.npy", np.ones(4))
    with pytest.raises(
        IngestError, match=r"X\.npy has 5 rows and .*y\.npy has shape \(4,\); they must agree"
    ):
        run(tmp_path / "X.npy", tmp_path / "s", str(tmp_path / "y.npy"))


def test_a_store_that_stands_there_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    small_csv(tmp_path / "t.csv")
    run(tmp_path / "t.csv", tmp_path / "s")
    before = files_of(tmp_path / "s")
    with pytest.raises(
        ConfigError, match="exists already; choose another name, or add overwrite=True"
    ):
        run(tmp_path / "t.csv", tmp_path / "s", drop=("c",))
    assert files_of(tmp_path / "s") == before
    run(tmp_path / "t.csv", tmp_path / "s", drop=("c",), overwrite=True)
    assert read(tmp_path / "s", "X").shape == (4, 2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["s", "t.csv"]


_KILLED = """
import os, signal, sys
from streamlr.data.ingest import numpy_files as array_tables
from streamlr.data.ingest import table as tables
from streamlr.data.ingest.ingest import IngestSpec, ingest
from streamlr.data.ingest.table import Columns
assert array_tables.BATCH_BYTES == tables.BATCH_BYTES  # fails where the name has moved, and with it what is set here
tables.BATCH_BYTES = array_tables.BATCH_BYTES = 4096
store, target, after, *sources = sys.argv[1:]
done = 0
def rows_done(count):
    global done
    done += count
    if done >= int(after):
        os.kill(os.getpid(), signal.SIGKILL)
ingest(sources, store, IngestSpec(Columns(target), chunk_rows=64), rows_done=rows_done)
"""


def killed_after(rows: int, store: Path, target: str, *sources: Path) -> None:
    """Ingest in a process of its own, which is killed as soon as so many rows have been written."""
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(store), target, str(rows), *map(str, sources)],
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    assert not store.exists()


def _sources(folder: Path, kind: str) -> tuple[list[Path], str]:
    """1000 rows in two files, the first of which ends in the middle of a chunk."""
    X = np.random.default_rng(0).standard_normal((1000, 3))
    y = np.arange(1000) % 2
    paths = []
    for at, part in enumerate([slice(0, 500), slice(500, 1000)]):
        path = folder / f"{at}.{kind}"
        if kind == "csv":
            write_csv(
                path,
                [
                    [*row, label]
                    for row, label in zip(X[part].tolist(), y[part].tolist(), strict=True)
                ],
            )
        elif kind == "parquet":
            pyarrow.parquet.write_table(
                pa.table({**{f"x{j}": X[part, j] for j in range(3)}, "y": y[part]}),
                path,
                row_group_size=90,
            )
        elif kind == "npy":
            np.save(path, np.column_stack([X[part], y[part]]))
        else:
            np.savez_compressed(path, X=X[part], y=y[part])
        paths.append(path)
    return paths, "-1" if kind == "npy" else "y"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
@pytest.mark.parametrize(
    ("kind", "after"),
    [("csv", 1), ("csv", 600), ("parquet", 300), ("npy", 900), ("npz", 512), ("csv", 1000)],
)
def test_an_ingest_that_was_killed_goes_on_to_the_same_store(
    tmp_path: Path, kind: str, after: int
) -> None:
    sources, target = _sources(tmp_path, kind)
    killed_after(after, tmp_path / "s", target, *sources)
    result = run(list(sources), tmp_path / "s", target, chunk_rows=64)
    assert result.rows == 1000
    assert result.resumed_rows == min(-(-after // 64) * 64, 960)  # whole chunks
    run(list(sources), tmp_path / "whole", target, chunk_rows=64)
    assert files_of(tmp_path / "s") == files_of(tmp_path / "whole")
    assert not (tmp_path / "s.partial").exists()


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
@pytest.mark.parametrize("change", ["options", "source"])
def test_an_ingest_of_something_else_begins_anew(tmp_path: Path, change: str) -> None:
    sources, target = _sources(tmp_path, "csv")
    killed_after(300, tmp_path / "s", target, *sources)
    options: dict[str, Any] = {"chunk_rows": 64}
    if change == "options":
        options["dtype"] = "float32"
    else:
        write_csv(sources[0], [[i, 0, 0, i % 2] for i in range(500)])
    assert run(list(sources), tmp_path / "s", target, **options).resumed_rows == 0
    run(list(sources), tmp_path / "whole", target, **options)
    assert files_of(tmp_path / "s") == files_of(tmp_path / "whole")


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL here")
def test_labels_that_changed_in_between_are_not_mixed(tmp_path: Path) -> None:
    np.save(tmp_path / "X.npy", np.random.default_rng(0).standard_normal((1000, 3)))
    np.save(tmp_path / "y.npy", np.zeros(1000, dtype=np.int64))
    killed_after(300, tmp_path / "s", str(tmp_path / "y.npy"), tmp_path / "X.npy")
    np.save(tmp_path / "y.npy", np.ones(1000, dtype=np.int64))
    run(tmp_path / "X.npy", tmp_path / "s", str(tmp_path / "y.npy"), chunk_rows=64)
    assert read(tmp_path / "s", "y").tolist() == [1] * 1000


_PEAK = """
import sys
from streamlr.data.ingest import numpy_files as array_tables
from streamlr.data.ingest import table as tables
from streamlr.data.ingest.ingest import IngestSpec, ingest
from streamlr.data.ingest.table import Columns
from streamlr.execution.process import process_peak_bytes
assert array_tables.BATCH_BYTES == tables.BATCH_BYTES  # fails where the name has moved, and with it what is set here
tables.BATCH_BYTES = array_tables.BATCH_BYTES = 2**18
ingest([sys.argv[1]], sys.argv[2], IngestSpec(Columns("y"), chunk_rows=1024))
print(process_peak_bytes())
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peaks are read from /proc")
def test_peak_memory_does_not_grow_with_a_row_group(tmp_path: Path) -> None:
    """One row group of 144 MB may cost no more than a quarter of what it has more than one of 48
    MB."""
    peaks = []
    for rows in (300_000, 900_000):
        X = np.random.default_rng(0).normal(size=(rows, 20))
        table = pa.table({**{f"x{j}": X[:, j] for j in range(20)}, "y": np.arange(rows) % 2})
        path = tmp_path / f"{rows}.parquet"
        pyarrow.parquet.write_table(table, path, row_group_size=rows)
        out = subprocess.run(
            [sys.executable, "-c", _PEAK, str(path), str(tmp_path / f"{rows}.zarr")],
            check=True,
            capture_output=True,
            text=True,
        )
        peaks.append(int(out.stdout))
    assert peaks[1] - peaks[0] < 24e6


@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="peaks are read from /proc")
@pytest.mark.parametrize("kind", ["csv", "parquet", "npz"])
def test_peak_memory_does_not_grow_with_the_file(tmp_path: Path, kind: str) -> None:
    """A file four times as large, 73 MB more of decoded rows, may cost half of that: a CSV reader
    looks some blocks ahead."""
    peaks = []
    for times in (2, 8):
        path = tmp_path / f"{times}.{kind}"
        _write_large(path, 15_000 * times)
        out = subprocess.run(
            [sys.executable, "-c", _PEAK, str(path), str(tmp_path / f"{times}.zarr")],
            check=True,
            capture_output=True,
            text=True,
        )
        peaks.append(int(out.stdout))
        assert read(tmp_path / f"{times}.zarr", "y").shape == (15_000 * times,)
    assert peaks[1] - peaks[0] < 36e6


def _write_large(path: Path, rows: int) -> None:
    """100 features of few digits, in row groups of 2000."""
    X = np.random.default_rng(0).integers(0, 1000, (rows, 100)).astype(np.float64)
    y = np.arange(rows) % 2
    table = pa.table({**{f"x{j}": X[:, j] for j in range(100)}, "y": y})
    if path.suffix == ".parquet":
        pyarrow.parquet.write_table(table, path, row_group_size=2000)
    elif path.suffix == ".npz":
        np.savez(path, X=X, y=y)
    else:
        with pa.output_stream(str(path), compression="detect") as out:
            pyarrow.csv.write_csv(table, out)
