"""NA, NaN, null, None, ? and nothing at all are gaps where they stand bare; quotes make labels of
them among texts alone; and the user may say what is a gap."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
from tables import ingest_here, parquet

from streamlr.errors import IngestError

BARE = ["NA", "NaN", "nan", "NAN", "null", "NULL", "None", "?", "", " NA", "N/A", "<NA>", "#N/A"]


@pytest.mark.parametrize("gap", BARE)
@pytest.mark.parametrize("labels", [("SE", "DE"), ("0", "1"), ("0.5", "2.5"), ("true", "false")])
def test_a_bare_gap_is_no_label(tmp_path: Path, gap: str, labels: tuple[str, str]) -> None:
    rows = [f"1,{labels[0]}", f"2,{labels[1]}", f"3,{gap}", f"4,{labels[0]}", f"5,{gap}"]
    with pytest.raises(IngestError, match=r"t\.csv: row 2 has no label in .*2 of 5 rows have none"):
        ingest_here(tmp_path, "x,y\n" + "\n".join(rows) + "\n")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("spelling", ["NA", "NAN", "nan", "NaN", "null", "None", "?", "N/A"])
def test_quotes_keep_the_spelling_of_a_gap_a_label_among_texts(
    tmp_path: Path, spelling: str
) -> None:
    made = ingest_here(tmp_path, f'x,y\n1,"{spelling}"\n2,SE\n3,"{spelling}"\n4,DE\n')
    assert made.y.tolist() == [spelling, "SE", spelling, "DE"]
    assert "taken as labels: 2, the first" in made.told


@pytest.mark.parametrize("spelling", ["NA", "NaN", "nan", "None", "?", ""])
def test_quotes_make_no_label_of_a_gap_among_numbers(tmp_path: Path, spelling: str) -> None:
    with pytest.raises(IngestError, match=r"row 1 has no label in .*1 of 3 rows have none"):
        ingest_here(tmp_path, f'x,y\n1,0\n2,"{spelling}"\n3,1\n')


@pytest.mark.parametrize("cell", ["NA", '"NA"', "?", '"?"', "", '""', "null", " NaN"])
def test_bare_or_quoted_a_gap_in_a_feature_is_refused(tmp_path: Path, cell: str) -> None:
    with pytest.raises(IngestError, match=r"row 1 has no value in the column 'x' \(1 of 3 rows"):
        ingest_here(tmp_path, f"x,y\n1,a\n{cell},b\n3,a\n")


@pytest.mark.parametrize(
    ("option", "word"), [("-", "NA"), ("-", "NAN"), ("", "NA"), ("missing,unknown", "None")]
)
def test_what_is_no_gap_by_na_is_a_label(tmp_path: Path, option: str, word: str) -> None:
    made = ingest_here(tmp_path, f"x,y\n1,{word}\n2,SE\n3,{word}\n", "--na", option)
    assert made.y.tolist() == [word, "SE", word]


@pytest.mark.parametrize("options", [["--na", "-999,NA"], ["--na", "-999", "--na", "NA"]])
@pytest.mark.parametrize("cell", ["-999", '"-999"', "-999.0", "NA"])
def test_a_number_may_stand_for_a_gap(tmp_path: Path, options: list[str], cell: str) -> None:
    with pytest.raises(IngestError, match=r"row 1 has no value in the column 'x'"):
        ingest_here(tmp_path, f"x,y\n1,0\n{cell},1\n3,0\n", *options)


def test_a_number_may_stand_for_a_gap_in_parquet_too(tmp_path: Path) -> None:
    with pytest.raises(IngestError, match=r"row 1 has no value in the column 'x'"):
        ingest_here(tmp_path, parquet(x=[1, -999, 3], y=[0, 1, 0]), "--na", "-999")


def test_a_cell_with_nothing_in_it_is_a_gap_whatever_is_said(tmp_path: Path) -> None:
    with pytest.raises(IngestError, match=r"row 1 has no label"):
        ingest_here(tmp_path, "x,y\n1,a\n2,\n3,b\n", "--na", "unknown")


def test_text_of_a_typed_column_is_as_if_in_quotes(tmp_path: Path) -> None:
    made = ingest_here(tmp_path, parquet(x=[1.0, 2.0, 3.0], y=["NA", "SE", "nan"]))
    assert made.y.tolist() == ["NA", "SE", "nan"]


@pytest.mark.parametrize(
    "labels",
    [
        pa.array(["a", None, "b"]),
        pa.array(["a", None, "b"]).dictionary_encode(),
        pa.array(["a", "", "b"]),
        pa.array([1, None, 0], pa.int8()),
        pa.array([1.0, float("nan"), 0.0]),
        pa.array([True, None, False]),
        pa.array([1, None, 2]).cast(pa.decimal128(38, 2)),
    ],
    ids=str,
)
def test_a_typed_column_without_a_label_is_refused_with_row_and_count(
    tmp_path: Path, labels: pa.Array
) -> None:
    with pytest.raises(IngestError, match=r"row 1 has no label in the column 'y'.*1 of 3 rows"):
        ingest_here(tmp_path, parquet(x=[1.0, 2.0, 3.0], y=labels))


def test_gaps_in_the_second_of_two_tables_are_named_there(tmp_path: Path) -> None:
    tables = {"1.csv": "x,y\n1,a\n2,b\n", "2.csv": "x,y\n3,a\n4,NA\n"}
    with pytest.raises(IngestError, match=r"2\.csv: row 1 has no label .*1 of 4 rows"):
        ingest_here(tmp_path, tables)
