"""All that keeps a table from being taken is told at once: what, where, how often, the remedy."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pyarrow as pa
import pytest
from tables import ingest_here, parquet

from streamlr.data.ingest import table as tables
from streamlr.errors import IngestError

TROUBLED = """a,city,when,b b,c,d,big,e,y
1,x,2020-01-01,inf,,,9007199254740993,4,0
2,z,2020-01-02,3,4,,1,true,1
3,x,2020-01-03,4,5,,2,5,0
"""


def test_one_message_has_all_columns_and_what_each_needs(tmp_path: Path) -> None:
    with pytest.raises(IngestError) as refusal:
        ingest_here(tmp_path, TROUBLED)
    head, *lines, last = str(refusal.value).splitlines()
    assert head == "7 columns cannot be taken as they are:"
    for line, parts in zip(
        lines,
        [
            ("'city' holds string", "2 categories"),
            ("'when' holds date32", "turn it into numbers"),
            ("value inf in row 0, column 'b b'", "not finite"),
            ("row 0 has no value in the column 'c'", "1 of 3 rows", "fill or drop"),
            ("'d' (3 of 3 rows have none)", "--drop 'd'"),
            ("row 0 holds 9007199254740993 in the column 'big'",),
            ("row 1 of the column 'e' holds 'true'", "0 and 1 alone"),
        ],
        strict=True,
    ):
        assert "t.csv" in line
        assert all(part in line for part in parts), (line, parts)
    options = shlex.split(re.sub(r".*, add: ", "", last))
    assert options == [
        part for name in ("city", "when", "b b", "c", "d", "big", "e") for part in ("--drop", name)
    ]
    assert ingest_here(tmp_path, TROUBLED, *options).X.tolist() == [[1], [2], [3]]


def test_troubles_of_parquet_of_labels_and_of_weights_stand_in_the_same_message(
    tmp_path: Path,
) -> None:
    table = parquet(
        a=[1.0, 2.0],
        s=["p", "q"],
        n=[1, None],
        l=[[1], [2]],
        t=pa.array([1, 2], pa.timestamp("s")),
        w=[1.0, float("nan")],
        y=[0, None],
    )
    with pytest.raises(IngestError) as refusal:
        ingest_here(tmp_path, table, "--weights", "w")
    text = str(refusal.value)
    assert text.startswith("6 columns cannot be taken as they are:")
    for part in (
        "'s' holds string",
        "row 1 has no value in the column 'n'",
        "'l' holds list",
        "'t' holds timestamp",
        "row 1, column 'w'",
        "row 1 has no label in the column 'y'",
    ):
        assert part in text
    assert text.endswith("add: --drop s --drop n --drop l --drop t")


def test_a_word_behind_many_numbers_is_named_by_its_column(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "BATCH_BYTES", 4096)
    rows = [f"{k * k},{k % 7},{k % 2}" for k in range(3000)]
    rows[2500] = "3,oops,1"
    with pytest.raises(
        IngestError,
        match=r"t\.csv.*'oops' in row 2500 of the column 'b' is no number \(1 of 3,000 rows",
    ) as refusal:
        ingest_here(tmp_path, "a,b,y\n" + "\n".join(rows) + "\n")
    assert "#" not in str(refusal.value)


def test_many_troubled_columns_take_one_call(tmp_path: Path) -> None:
    names = [f"s{j}" for j in range(40)]
    text = (
        ",".join(["a", *names, "y"])
        + "\n"
        + "".join(
            f"{k}," + ",".join(["u", "v"][k % 2] for _ in names) + f",{k % 2}\n" for k in range(6)
        )
    )
    with pytest.raises(IngestError, match="40 columns cannot be taken") as refusal:
        ingest_here(tmp_path, text)
    options = shlex.split(str(refusal.value).splitlines()[-1].partition(", add: ")[2])
    assert ingest_here(tmp_path, text, *options).names == ["a"]


def test_a_store_that_stands_there_is_told_before_the_tables_are_read(tmp_path: Path) -> None:
    ingest_here(tmp_path, "a,y\n1,0\n2,1\n")
    with pytest.raises(Exception, match="exists already"):
        ingest_here(tmp_path, TROUBLED)
