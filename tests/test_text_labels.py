"""Labels of text are decoded once at most, and stay what they are for everybody else."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from stores import bits, chunk_paths, files_of, put, runner, two_class_data, write_store
from test_damage import names, refusal, train
from test_ingest import run, write_csv

import streamlr
from streamlr.cli.main import cli
from streamlr.config.sections import DataConfig
from streamlr.data.conventions import coded_text, texts
from streamlr.data.conventions.coded_text import write_codes
from streamlr.data.conventions.texts import Coded, KeptTexts
from streamlr.data.describe import describe_store
from streamlr.data.sources.store import ZarrSource
from streamlr.errors import ChunkError, IngestError
from streamlr.events import Event, PassFinished

ROWS = 400
X, SECOND = two_class_data(ROWS, 3)
WORDS = np.array(["ill", "entirely well"])[SECOND]


def ingested(path: Path, labels: Any = WORDS, chunk_rows: int = 90) -> Path:
    """A store that `ingest` wrote from a table of the features and these labels."""
    rows = [[*row, label] for row, label in zip(X.tolist(), labels, strict=True)]
    source = path.with_name("table.csv")
    source.unlink(missing_ok=True)
    run(write_csv(source, rows), path, chunk_rows=chunk_rows)
    return path


def labels_of(store: Path, **options: Any) -> NDArray[Any]:
    source = ZarrSource(DataConfig(store=str(store)), **options)
    blocks = [
        source.read_columns(at, min(at + 70, ROWS)).target for at in range(0, source.n_rows, 70)
    ]
    return np.concatenate(blocks)


def fit(store: Path, kind: str, *subscribers: Any) -> streamlr.TrainResult:
    """A run of many passes."""
    tree = {"data": {"store": str(store)}, "cluster": {"kind": kind}, "solver": {"name": "lbfgs"}}
    return streamlr.train(tree, subscribers=subscribers)


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many labels were decoded from text, at each time."""
    counts: list[int] = []
    of = Coded.of.__func__  # type: ignore[attr-defined]

    def counting(cls: Any, labels: NDArray[Any]) -> Coded:
        counts.append(len(labels))
        return of(cls, labels)

    monkeypatch.setattr(Coded, "of", classmethod(counting))
    return counts


# what is read -------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["serial", "threads"])
@pytest.mark.parametrize("codes", [True, False])
def test_no_pass_decodes_text_anew(
    codes: bool, kind: str, decoded: list[int], tmp_path: Path
) -> None:
    store = ingested(tmp_path / "s")
    if not codes:  # as stores of others, and those of earlier versions
        shutil.rmtree(store / "y_codes")
    decoded.clear()
    assert fit(store, kind).passes > 4
    assert sorted(decoded) == ([2] if codes else sorted([90, 90, 90, 90, 40]))


def test_text_is_the_same_from_codes_from_memory_and_through_zarr(tmp_path: Path) -> None:
    store = ingested(tmp_path / "s")
    expected = bits(labels_of(store, direct=False))
    assert bits(labels_of(store)) == expected
    assert labels_of(store).tolist() == WORDS.tolist()
    shutil.rmtree(store / "y_codes")
    source = ZarrSource(DataConfig(store=str(store)))
    for _ in range(2):  # the second time from memory
        for at in range(0, ROWS, 90):
            found = source.read_columns(at, min(at + 90, ROWS)).target
            plain = np.array(WORDS[at : at + 90].tolist())
            assert bits(found) == bits(plain)


def test_codes_change_no_bit_of_a_model_nor_the_fingerprint(tmp_path: Path) -> None:
    store = ingested(tmp_path / "s")
    with_codes, _ = train(store)
    shutil.rmtree(store / "y_codes")
    without, _ = train(store)
    assert isinstance(with_codes, streamlr.TrainResult)
    assert isinstance(without, streamlr.TrainResult)
    for key in ("coefficients_sha256", "data_fingerprint", "classes"):
        assert with_codes.summary[key] == without.summary[key]


# what counts --------------------------------------------------------------------------------------


def test_labels_stay_an_array_of_text_for_others(tmp_path: Path) -> None:
    group: Any = zarr.open_group(str(ingested(tmp_path / "s")), mode="r")
    assert isinstance(group["y"], zarr.Array)
    assert group["y"][...].tolist() == WORDS.tolist()
    assert group["y_codes/codes"].dtype == np.int16
    assert group["y_codes/categories"][...].tolist() == list(dict.fromkeys(WORDS.tolist()))


def test_the_codes_are_a_column_that_anndata_reads(tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    store = ingested(tmp_path / "s")
    column = anndata.io.read_elem(zarr.open_group(str(store), mode="r")["y_codes"])
    assert column.tolist() == WORDS.tolist()
    result, _ = train(store, target="y_codes")
    assert isinstance(result, streamlr.TrainResult)
    assert result.model.classes_.tolist() == sorted(set(WORDS.tolist()))


def relabel(store: Path) -> NDArray[Any]:
    """Other labels, written by zarr into one chunk."""
    array = zarr.open_array(str(store), path="y", mode="r+")
    labels = WORDS.copy()
    labels[100:120] = labels[100:120][::-1]
    labels[130] = "neither"
    array[90:180] = labels[90:180].astype(object)
    return labels


def exchange(store: Path) -> NDArray[Any]:
    """Two chunks of text in each other's place, each with a checksum of its own that is right."""
    first, second = chunk_paths(store / "y")[:2]
    one, other = first.read_bytes(), second.read_bytes()
    first.write_bytes(other)
    second.write_bytes(one)
    return np.concatenate([WORDS[90:180], WORDS[:90], WORDS[180:]])


def without_a_category(store: Path) -> NDArray[Any]:
    shutil.rmtree(store / "y_codes" / "categories")
    return WORDS


def of_another_length(store: Path) -> NDArray[Any]:
    zarr.open_array(str(store), path="y_codes/codes", mode="r+").resize((ROWS - 1,))
    return WORDS


def out_of_range(store: Path) -> NDArray[Any]:
    zarr.open_array(str(store), path="y_codes/codes", mode="r+")[5:7] = [7, -1]
    return WORDS


@pytest.mark.parametrize(
    "change", [relabel, exchange, without_a_category, of_another_length, out_of_range]
)
def test_it_is_the_text_that_counts(change: Any, tmp_path: Path) -> None:
    store = ingested(tmp_path / "s")
    expected = change(store)
    assert labels_of(store).tolist() == expected.tolist()


@pytest.mark.parametrize("codes", [True, False])
def test_a_changed_letter_is_caught(codes: bool, tmp_path: Path) -> None:
    store = ingested(tmp_path / "s")
    if not codes:
        shutil.rmtree(store / "y_codes")
    path = chunk_paths(store / "y")[2]
    content = bytearray(path.read_bytes())
    content[content.index(b"well")] ^= 1
    path.write_bytes(content)
    error = refusal(store)
    assert isinstance(error, ChunkError)
    names(error, "chunk 2 of y (rows 180 to 269)", "checksum do not match")


@pytest.mark.parametrize("codes", [True, False])
def test_labels_that_are_written_again_during_a_run_end_it(codes: bool, tmp_path: Path) -> None:
    store = ingested(tmp_path / "s")
    if not codes:
        shutil.rmtree(store / "y_codes")

    def rewrite(event: Event) -> None:
        if isinstance(event, PassFinished) and event.number == 2:
            relabel(store)

    with pytest.raises(ChunkError, match=r"chunk 1 of y \(rows 90 to 179\) was written again"):
        fit(store, "serial", rewrite)


# what is told -------------------------------------------------------------------------------------


def test_info_knows_of_the_checksum_of_text(tmp_path: Path) -> None:
    store = ingested(tmp_path / "s")
    found = describe_store(ZarrSource(DataConfig(store=str(store))))
    assert [array["checksummed"] for array in found["arrays"]] == [True, True]
    assert found["problems"] == []
    assert not any("no checksum" in told for told in found["undetectable"])
    assert "no checksum" not in runner().invoke(cli, ["info", str(store)]).output


@pytest.mark.parametrize(
    ("zarr_format", "codec", "known"),
    [(3, "raw", None), (3, "zstd", None), (3, "zstd with checksum", True), (3, "crc32c", True),
     (3, "gzip", True), (3, "blosc lz4, crc32c", True), (2, "raw", None), (2, "zlib", True),
     (2, "blosc zstd", None)],
)  # fmt: skip
def test_checksums_of_text_are_told_by_its_codecs(
    zarr_format: Any, codec: str, known: bool | None, tmp_path: Path
) -> None:
    group = zarr.open_group(str(tmp_path / "s"), mode="w", zarr_format=zarr_format)
    put(group, "X", X)
    put(group, "y", WORDS, codec=codec)
    found = describe_store(ZarrSource(DataConfig(store=str(tmp_path / "s"))))
    assert found["arrays"][1]["checksummed"] is known
    assert any("a chunk of" in told and "y (no" in told for told in found["undetectable"]) is (
        known is None
    )


# what is written ----------------------------------------------------------------------------------


@pytest.mark.parametrize("labels", [["a", "b", "a", "b", "b"], [0, 1, 0, 1, 1]], ids=str)
def test_a_few_rows_take_a_small_chunk(labels: list[Any], tmp_path: Path) -> None:
    rows = [[k, label] for k, label in enumerate(labels)]
    run(write_csv(tmp_path / "t.csv", rows, header="a,y"), tmp_path / "s")
    group: Any = zarr.open_group(str(tmp_path / "s"), mode="r")
    assert (group["X"].chunks, group["y"].chunks) == ((5, 1), (5,))
    assert group["y"][...].tolist() == labels
    assert sum(len(content) for content in files_of(tmp_path / "s").values()) < 20_000


def test_rows_of_more_than_a_chunk_keep_its_size(tmp_path: Path) -> None:
    group: Any = zarr.open_group(str(ingested(tmp_path / "s")), mode="r")
    assert {group[name].chunks[0] for name in ("X", "y", "y_codes/codes")} == {90}


def test_text_of_too_many_kinds_has_no_codes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coded_text, "_MOST_TEXTS", 100)
    store = ingested(tmp_path / "s", [f"label {k % 101}" for k in range(ROWS)])
    assert not (store / "y_codes").exists()
    assert ingested(tmp_path / "t", [f"label {k % 100}" for k in range(ROWS)], 400).exists()
    assert (tmp_path / "t" / "y_codes").exists()
    assert len(set(labels_of(tmp_path / "t").tolist())) == 100


def test_an_ingest_that_ends_at_the_codes_goes_on_to_the_same_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = files_of(ingested(tmp_path / "whole"))

    def fail(group: zarr.Group, name: str, compressor: Any) -> None:
        write_codes(group, name, compressor)
        raise IngestError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr("streamlr.data.ingest.ingest.write_codes", fail)
        with pytest.raises(IngestError, match="the power went"):
            ingested(tmp_path / "s")
    run(tmp_path / "table.csv", tmp_path / "s", chunk_rows=90)
    assert files_of(tmp_path / "s") == whole


# what is kept -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "labels",
    [
        ["b", "a", "b"],
        ["", "", ""],
        ["ä", "日本", "ä"],
        ["x" * 300, "", "y"],
        [b"\xff", b"a", b""],
        [1, None, 2.5],
        [True, 1, "1"],
    ],
    ids=str,
)
def test_codes_of_labels_are_their_texts(labels: list[Any]) -> None:
    array = np.array(labels, dtype=object)
    expected = np.array([texts.text_of(label) for label in labels], dtype=np.str_)
    assert bits(Coded.of(array).labels) == bits(expected)
    if all(isinstance(label, str) for label in labels):
        for kind in (np.str_, np.dtypes.StringDType()):
            assert bits(Coded.of(np.array(labels, dtype=kind)).labels) == bits(expected)


@pytest.mark.parametrize(("kinds", "width"), [(1, 1), (256, 1), (257, 2), (65_537, 4)])
def test_codes_are_no_wider_than_they_have_to_be(kinds: int, width: int) -> None:
    coded = Coded.of(np.array([str(k) for k in range(kinds)]))
    assert coded.codes.dtype.itemsize == width
    np.testing.assert_array_equal(coded.codes, np.arange(kinds))


def test_no_more_is_kept_than_there_is_room_for(monkeypatch: pytest.MonkeyPatch) -> None:
    coded = Coded.of(np.array(["a", "b"] * 50))
    monkeypatch.setattr(texts, "KEPT_BYTES", 2 * coded.nbytes + 1)
    kept = KeptTexts()
    for chunk in (4, 4, 2, 7):
        kept.keep(chunk, coded)
    found = {chunk for chunk in range(9) if kept.labels(chunk) is not None}
    assert found == {4, 2}
    kept = KeptTexts()
    kept.keep(0, Coded.of(np.array([str(k) for k in range(2**16 + 1)])))
    assert kept.labels(0) is None


def test_what_is_kept_of_text_is_planned_for_once_in_a_process(tmp_path: Path) -> None:
    config = write_store(tmp_path / "s", X, WORDS, (100, 3))
    footprint = ZarrSource(config).label_footprint(100)
    assert footprint.shared_bytes == 2 * ROWS
    assert ZarrSource(write_store(tmp_path / "n", X, SECOND)).label_footprint(100).shared_bytes == 0


def test_columns_of_a_store_are_told_as_before(tmp_path: Path) -> None:
    store = ingested(tmp_path / "s")
    found = json.loads(runner().invoke(cli, ["info", str(store), "--json"]).stdout)
    assert [array["name"] for array in found["arrays"]] == ["X", "y"]
    assert [entry["label"] for entry in found["classes"]] == ["entirely well", "ill"]
