"""What numbers or names the rows is left out and told of, and --keep brings it back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tables import ingest_here, parquet

from streamlr.errors import ConfigError, IngestError

N = 150
A = np.random.default_rng(0).normal(size=N).round(3).tolist()
Y = [k * 7 % 3 % 2 for k in range(N)]


def csv_with(name: str, values: Any, rows: int = N, quote: str = "") -> str:
    lines = [f"{v},{a},{y}" for v, a, y in zip(values, A[:rows], Y[:rows], strict=True)]
    return "\n".join([f"{quote}{name}{quote},a,y", *lines]) + "\n"


@pytest.mark.parametrize(
    "name", ["", "Unnamed: 0", "Unnamed: 0.1", "rownames", "__null_dask_index__", "...1"]
)
@pytest.mark.parametrize(
    "values", [[0, 1, 2, 3], [5, 9, 2, 7], ["Mazda", "Fiat", "Opel", "Kia"]], ids=str
)
def test_a_header_of_row_names_is_left_out_and_told(
    tmp_path: Path, name: str, values: list[Any]
) -> None:
    made = ingest_here(tmp_path, csv_with(name, values, 4, quote='"'))
    assert made.names == ["a"]
    assert made.X[:, 0].tolist() == A[:4]
    assert f"left out the column {name!r}" in made.told
    assert "--keep" in made.told


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "rownames"])
def test_keep_brings_it_back(tmp_path: Path, name: str) -> None:
    made = ingest_here(tmp_path, csv_with(name, [5, 9, 2, 7], 4), "--keep", name)
    assert made.names == [name, "a"]
    assert made.X[:, 0].tolist() == [5, 9, 2, 7]
    assert "left out" not in made.told


def test_an_index_of_two_levels_is_left_out(tmp_path: Path) -> None:
    assert ingest_here(tmp_path, ",,a,y\n0,x,2,0\n0,z,1,1\n").names == ["a"]


@pytest.mark.parametrize(
    "index", [["pid"], ["__index_level_0__"], ["pid", {"kind": "range"}]], ids=str
)
def test_the_index_of_pandas_metadata_is_left_out(tmp_path: Path, index: list[Any]) -> None:
    table = parquet(a=[1.0, 2.0, 4.0], y=[0, 1, 0]).append_column(index[0], pa.array([7, 3, 5]))
    table = table.replace_schema_metadata({"pandas": json.dumps({"index_columns": index})})
    made = ingest_here(tmp_path, table)
    assert made.names == ["a"]
    assert f"left out the column {index[0]!r}" in made.told
    assert ingest_here(tmp_path, table, "--keep", index[0], "--overwrite").names == ["a", index[0]]


def test_an_index_that_pandas_kept_as_a_range_is_no_column(tmp_path: Path) -> None:
    range_index = {"kind": "range", "name": None, "start": 0, "stop": 3, "step": 1}
    table = parquet(a=[1.0, 2.0, 4.0], y=[0, 1, 0]).replace_schema_metadata(
        {"pandas": json.dumps({"index_columns": [range_index]})}
    )
    assert ingest_here(tmp_path, table).names == ["a"]


@pytest.mark.parametrize("first", [0, 1, 1000])
@pytest.mark.parametrize("kind", ["csv", "int64", "int32", "float64"])
def test_a_column_that_counts_the_rows_is_left_out(tmp_path: Path, first: int, kind: str) -> None:
    numbers = list(range(first, first + N))
    table: Any = csv_with("id", numbers)
    if kind != "csv":
        table = parquet(id=np.array(numbers, kind), a=A, y=Y)
    made = ingest_here(tmp_path, table)
    assert made.names == ["a"]
    assert "left out the column 'id' (it counts the rows)" in made.told
    kept = ingest_here(tmp_path, table, "--keep", "id", "--overwrite")
    assert kept.names == ["id", "a"]
    assert kept.X[:, 0].tolist() == numbers


@pytest.mark.parametrize("again", [True, False], ids=["each part", "all parts"])
def test_a_column_that_counts_the_rows_of_parts_is_left_out(tmp_path: Path, again: bool) -> None:
    half = N // 2
    parts = {
        f"{k}.csv": csv_with(
            "id", range(0 if again else k * half, half if again else (k + 1) * half), half
        )
        for k in (0, 1)
    }
    assert ingest_here(tmp_path, parts).names == ["a"]


@pytest.mark.parametrize(
    "values",
    [[1, 2, 3, 4], list(range(1990, 2020)), [2 * k for k in range(N)], [k % 149 for k in range(N)]],
    ids=["a dose", "years", "steps of two", "all but the last"],
)
def test_what_does_not_count_the_rows_stays(tmp_path: Path, values: list[int]) -> None:
    made = ingest_here(tmp_path, csv_with("x", values, len(values)))
    assert made.names == ["x", "a"]


def test_the_smallest_of_tables_keeps_its_columns(tmp_path: Path) -> None:
    """Eight rows, whose doses count them."""
    rows = [f"{50 + k * k},{k},{'ill' if k % 2 else 'well'}" for k in range(1, 9)]
    made = ingest_here(tmp_path, "age,dose,label\n" + "\n".join(rows) + "\n", target="label")
    assert made.names == ["age", "dose"]
    assert made.X[:, 1].tolist() == list(range(1, 9))


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_text_that_names_each_row_is_left_out(tmp_path: Path, kind: str) -> None:
    names = [f"p{k}" for k in range(N)]
    made = ingest_here(
        tmp_path, csv_with("id", names) if kind == "csv" else parquet(id=names, a=A, y=Y)
    )
    assert made.names == ["a"]
    assert "left out the column 'id' (text, 150 of 150 values distinct)" in made.told


@pytest.mark.parametrize(("distinct", "rows"), [(100, 150), (75, 150), (40, 40)])
def test_text_of_few_kinds_or_in_few_rows_is_refused_as_ever(
    tmp_path: Path, distinct: int, rows: int
) -> None:
    with pytest.raises(IngestError, match="the column 'id' holds string, not numbers"):
        ingest_here(tmp_path, csv_with("id", [f"p{k % distinct}" for k in range(rows)], rows))


def test_identifiers_that_are_kept_have_to_be_numbers(tmp_path: Path) -> None:
    with pytest.raises(IngestError, match=r"'id' holds string, not numbers.*150 categories"):
        ingest_here(tmp_path, csv_with("id", [f"p{k}" for k in range(N)]), "--keep", "id")


def test_features_that_were_named_are_taken_whatever_they_look_like(tmp_path: Path) -> None:
    assert ingest_here(tmp_path, csv_with("id", range(N)), "--features", "id,a").names == [
        "id",
        "a",
    ]


def test_a_target_may_count(tmp_path: Path) -> None:
    made = ingest_here(tmp_path, "a,y\n" + "\n".join(f"{a},{k}" for k, a in enumerate(A)) + "\n")
    assert made.y.tolist() == list(range(N))


def test_keep_and_drop_of_one_column_or_of_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--drop and --keep both name 'a'"):
        ingest_here(tmp_path, "a,b,y\n1,2,0\n", "--keep", "a", "--drop", "a")
    with pytest.raises(IngestError, match="has no column 'z'; it has a, b, y"):
        ingest_here(tmp_path, "a,b,y\n1,2,0\n", "--keep", "z")


def test_a_table_of_row_numbers_alone_says_what_was_left_out(tmp_path: Path) -> None:
    rows = "\n".join(f"{k},{k % 2}" for k in range(30))
    with pytest.raises(
        IngestError, match=r"no column left to be a feature\n.*'a' \(it counts.*--keep a"
    ):
        ingest_here(tmp_path, f"a,y\n{rows}\n")
