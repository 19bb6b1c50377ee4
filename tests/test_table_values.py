"""Values are kept to the last digit or refused, whatever the type of a column's other parts."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from tables import ingest_here, parquet

from streamlr.data.ingest import table as tables
from streamlr.errors import IngestError

BIG = 2**53 + 1
DIGITS = ["12345678901234567890", "12345678901234567891"]
MORE_DIGITS = ["123456789012345678901", "123456789012345678902"]


def decimals(values: list[Any], scale: int = 0) -> pa.Array:
    return pa.array([Decimal(value) for value in values], pa.decimal128(38, scale))


@pytest.mark.parametrize(
    "number", [str(BIG), DIGITS[0], f"+{BIG}", f"-{BIG}", f"{BIG}.0", "9" * 30]
)
def test_a_number_that_no_double_equals_is_refused_by_file_row_and_column(
    tmp_path: Path, number: str
) -> None:
    with pytest.raises(IngestError) as refusal:
        ingest_here(tmp_path, f"a,b,y\n1,2,0\n3,{number},1\n5,6,0\n")
    for part in ("t.csv", "row 1", "'b'", number, "1 of 3 rows", "--drop 'b'"):
        assert part in str(refusal.value)


@pytest.mark.parametrize("number", [str(2**53), "9007199254740994", str(10**22), "1e300", "0.1"])
def test_a_number_that_has_its_double_is_kept(tmp_path: Path, number: str) -> None:
    made = ingest_here(tmp_path, f"a,y\n{number},0\n0.5,1\n")
    assert made.X[:, 0].tolist() == [float(number), 0.5]


def test_integers_of_64_bits_are_kept_where_they_are_asked_for(tmp_path: Path) -> None:
    made = ingest_here(tmp_path, f"a,b,y\n{BIG},-7,0\n1,{-BIG},1\n", "--dtype", "int64")
    assert made.X.dtype == np.int64
    assert made.X.tolist() == [[BIG, -7], [1, -BIG]]


def test_float32_that_was_asked_for_may_round(tmp_path: Path) -> None:
    made = ingest_here(tmp_path, f"a,y\n{BIG},0\n0.1,1\n", "--dtype", "float32")
    assert made.X[:, 0].tolist() == [np.float32(BIG), np.float32(0.1)]


@pytest.mark.parametrize("number", [BIG, DIGITS[0]])
def test_a_decimal_feature_is_kept_or_refused(tmp_path: Path, number: Any) -> None:
    table = parquet(a=decimals([1, number]), y=[0, 1])
    with pytest.raises(IngestError, match=rf"t\.parquet: row 1 holds {number} in the column 'a'"):
        ingest_here(tmp_path, table)


def test_decimals_become_the_nearest_doubles(tmp_path: Path) -> None:
    texts = [f"{k}.{k * 7919 % 10**6:06d}" for k in range(1, 400)]
    made = ingest_here(tmp_path, parquet(a=decimals(texts, 6), y=decimals(texts, 6)))
    assert made.X[:, 0].tolist() == made.y.tolist() == [float(text) for text in texts]


@pytest.mark.parametrize("labels", [[str(BIG), str(BIG - 1)], DIGITS, MORE_DIGITS], ids=str)
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_two_long_labels_stay_two(tmp_path: Path, labels: list[str], kind: str) -> None:
    table = parquet(a=[1.0, 2.0], y=decimals(labels))
    if kind == "csv":
        table = f"a,y\n1,{labels[0]}\n2,{labels[1]}\n"
    made = ingest_here(tmp_path, table)
    assert [str(label) for label in made.y.tolist()] == labels
    if labels == MORE_DIGITS:
        assert "'y' stay text" in made.told


@pytest.mark.parametrize("labels", [["01", "1"], ["1", "01"], ["007", "7"], ["00", "0"]], ids=str)
def test_labels_that_differ_by_a_zero_in_front_are_two(tmp_path: Path, labels: list[str]) -> None:
    made = ingest_here(tmp_path, f"a,y\n1,{labels[0]}\n2,{labels[1]}\n3,12\n")
    assert made.y.tolist() == [*labels, "12"]
    assert "'y' stay text" in made.told


def test_a_zero_in_front_is_no_code_among_fractions(tmp_path: Path) -> None:
    assert ingest_here(tmp_path, "a,y\n1,05\n2,0.5\n").y.tolist() == [5.0, 0.5]


def test_a_long_label_beside_fractions_is_refused(tmp_path: Path) -> None:
    with pytest.raises(IngestError, match=rf"row 0 holds {BIG} in the column 'y'.*fractions"):
        ingest_here(tmp_path, f"a,y\n1,{BIG}\n2,0.5\n")


def test_decimal_targets_are_numbers(tmp_path: Path) -> None:
    made = ingest_here(tmp_path, parquet(a=[1.0, 2.0], y=decimals(["1.50", "2.25"], 2)))
    assert made.y.dtype == np.float64
    assert made.y.tolist() == [1.5, 2.25]


@pytest.mark.parametrize(
    ("first", "second", "joined"),
    [
        (pa.array([0, 1], pa.int8()), pa.array([2**40, 2], pa.int64()), "int64"),
        (pa.array([0, 1], pa.int64()), pa.array([1, 2], pa.int8()), "int64"),
        (pa.array([0, 1], pa.uint8()), pa.array([-1, 2], pa.int8()), "int16"),
        (pa.array([0, 1], pa.int64()), pa.array([2**63 - 1, 2], pa.uint64()), "int64"),
        (pa.array([0, 1], pa.int64()), pa.array([2**64 - 1, 2], pa.uint64()), "uint64"),
        (pa.array([0, 0.5], pa.float32()), pa.array([0.1, 2.0]), "float64"),
        (pa.array([0, 7], pa.int32()), pa.array([0.1, 2.0]), "float64"),
        (pa.array([0.1, 2.0]), pa.array([3, 7], pa.int64()), "float64"),
        (pa.array([0, 1]), pa.array([True, False]), "int64"),
        (decimals(["1", "2"]), pa.array([3, 4]), "int64"),
        (decimals(["1.5", "2"], 1), pa.array([3, 4]), "float64"),
    ],
    ids=str,
)
def test_labels_of_several_types_become_one_that_holds_them_all(
    tmp_path: Path, first: pa.Array, second: pa.Array, joined: str
) -> None:
    parts = {
        "1.parquet": parquet(a=[1.0, 2.0], y=first),
        "2.parquet": parquet(a=[1.0, 2.0], y=second),
    }
    made = ingest_here(tmp_path, parts)
    assert made.y.dtype == joined
    assert made.y.tolist() == [
        float(v) if isinstance(v, Decimal) else v for v in (*first.to_pylist(), *second.to_pylist())
    ]


def test_labels_that_no_type_holds_exactly_are_refused(tmp_path: Path) -> None:
    parts = {"1.parquet": parquet(a=[1.0], y=[BIG]), "2.parquet": parquet(a=[1.0], y=[0.5])}
    with pytest.raises(IngestError, match=rf"1\.parquet: row 0 holds {BIG} in the column 'y'"):
        ingest_here(tmp_path, parts)


@pytest.mark.parametrize("where", ["y", "a"])
def test_a_fraction_behind_many_whole_numbers_is_one(
    tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "BATCH_BYTES", 4096)
    rows = [f"{k % 7},{k % 5}" for k in range(5000)]
    rows.append("1,0.5" if where == "y" else "0.5,1")
    made = ingest_here(tmp_path, "a,y\n" + "\n".join(rows) + "\n")
    assert (made.y if where == "y" else made.X[:, 0])[-1] == 0.5
    assert made.y[:-1].tolist() == [k % 5 for k in range(5000)]


@pytest.mark.parametrize("words", [("true", "false"), ("TRUE", "FALSE"), ("True", "False")])
@pytest.mark.parametrize("words_first", [True, False])
@pytest.mark.parametrize("n_tables", [1, 2])
def test_truth_values_go_with_0_and_1(
    tmp_path: Path,
    words: tuple[str, str],
    words_first: bool,
    n_tables: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Each in a block of its own, also where they share a table."""
    monkeypatch.setattr(tables, "BATCH_BYTES", 4096)
    halves = [f"{words[0]},{words[0]}\n{words[1]},{words[1]}\n" * 800, "1,1\n0,0\n" * 800]
    halves = halves if words_first else halves[::-1]
    parts = {"1.csv": "a,y\n" + "".join(halves)}
    if n_tables == 2:
        parts = {f"{k}.csv": f"a,y\n{half}" for k, half in enumerate(halves)}
    made = ingest_here(tmp_path, parts)
    assert made.y.tolist() == made.X[:, 0].tolist() == [1, 0] * 1600


@pytest.mark.parametrize("order", [["0", "2", "true"], ["true", "0", "2"]], ids=str)
def test_truth_values_go_with_no_other_numbers(tmp_path: Path, order: list[str]) -> None:
    parts = {f"{k}.csv": f"a,y\n1,{label}\n" for k, label in enumerate(order)}
    with pytest.raises(IngestError, match=r"labels are .* here and .* before; bring them to one"):
        ingest_here(tmp_path, parts)
    parts = {f"{k}.csv": f"a,y\n{label},1\n" for k, label in enumerate(order)}
    with pytest.raises(IngestError, match=r"'true'.*truth values go with 0 and 1 alone"):
        ingest_here(tmp_path, parts)


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("labels", [["ill", "well"], ["0", "1"], ["0.5", "1"], ["true", "false"]])
def test_a_part_with_a_header_alone_has_no_say(tmp_path: Path, at: int, labels: list[str]) -> None:
    parts = [("1.csv", f"a,y\n1,{labels[0]}\n"), ("2.csv", f"a,y\n2,{labels[1]}\n")]
    parts.insert(at, ("none.csv", "a,y\n"))
    made = ingest_here(tmp_path, dict(parts))
    alone = ingest_here(
        tmp_path, "".join(["a,y\n", f"1,{labels[0]}\n", f"2,{labels[1]}\n"]), "--overwrite"
    )
    assert made.y.tolist() == alone.y.tolist()
    assert made.y.dtype == alone.y.dtype
    assert made.X.tolist() == [[1], [2]]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_columns_in_another_order_are_taken_by_name(tmp_path: Path, kind: str) -> None:
    parts: dict[str, Any] = {"1.csv": "a,b,y\n1,2,0\n", "2.csv": "y,b,a\n1,4,3\n"}
    if kind == "parquet":
        parts = {
            "1.parquet": parquet(a=[1.0], b=[2.0], y=[0]),
            "2.parquet": parquet(y=[1], b=[4.0], a=[3.0]),
        }
    made = ingest_here(tmp_path, parts)
    assert made.names == ["a", "b"]
    assert made.X.tolist() == [[1, 2], [3, 4]]
    assert made.y.tolist() == [0, 1]
