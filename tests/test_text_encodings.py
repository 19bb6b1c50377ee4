"""Text in another encoding is read where it is named, and else told of by its place."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from tables import ingest_here

from streamlr.errors import ConfigError, IngestError

TABLE = "größe,y\n1,café\n2,naïve\n"


@pytest.mark.parametrize(
    "encoding",
    ["latin-1", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-8", "utf-8-sig", "iso8859_15"],
)
def test_text_is_read_in_the_encoding_that_is_named(tmp_path: Path, encoding: str) -> None:
    made = ingest_here(tmp_path, TABLE.encode(encoding), "--encoding", encoding)
    assert made.names == ["größe"]
    assert made.y.tolist() == ["café", "naïve"]


@pytest.mark.parametrize("name", ["t.csv", "t.csv.gz"])
@pytest.mark.parametrize(
    ("text", "byte", "line"), [("größe,y\n1,a\n", 2, 1), ("x,y\n1,café\n", 9, 2)]
)
def test_latin_1_is_told_by_byte_and_line(
    tmp_path: Path, name: str, text: str, byte: int, line: int
) -> None:
    content = text.encode("latin-1")
    content = gzip.compress(content) if name.endswith("gz") else content
    with pytest.raises(
        IngestError,
        match=rf"{name}: byte {byte} \(0x..\), in line {line}, is no utf-8 text.* latin-1",
    ):
        ingest_here(tmp_path, {name: content})


def test_latin_1_behind_many_blocks_is_told_too(tmp_path: Path) -> None:
    many = 3_000_000
    content = ("x,y\n" + "1,a\n" * many + "1,café\n").encode("latin-1")
    with pytest.raises(
        IngestError, match=rf"byte {4 + 4 * many + 5} \(0xe9\), in line {many + 2},"
    ):
        ingest_here(tmp_path, content)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_text_of_two_bytes_a_letter_is_told(tmp_path: Path, encoding: str) -> None:
    for table in ("x,y\n1,a\n", "x y\n1 a\n"):
        with pytest.raises(IngestError, match=rf"is no utf-8 text; .*--encoding {encoding}$"):
            ingest_here(tmp_path, table.encode(encoding))


def test_text_that_is_not_in_the_encoding_that_is_named_is_told(tmp_path: Path) -> None:
    with pytest.raises(IngestError, match=r"is no utf-16 text; .*--encoding utf-8"):
        ingest_here(tmp_path, TABLE, "--encoding", "utf-16")
    with pytest.raises(
        IngestError, match=r"byte 2 \(0xc3\), in line 1, is no ascii text; .*--encoding utf-8"
    ):
        ingest_here(tmp_path, TABLE, "--encoding", "ascii")


@pytest.mark.parametrize("name", ["klingon", "", "zlib"])
def test_an_encoding_that_there_is_not_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match=rf"--encoding {name!r} is no encoding of text"):
        ingest_here(tmp_path, TABLE, "--encoding", name)


@pytest.mark.parametrize("typed", ["\\t", "tab", "\t"])
def test_a_tab_may_be_typed_as_people_type_it(tmp_path: Path, typed: str) -> None:
    made = ingest_here(tmp_path, "a\ty\n1\tc\n2\tx, z\n", "--delimiter", typed)
    assert made.y.tolist() == ["c", "x, z"]


@pytest.mark.parametrize("typed", [";;", "", "\\n", "é", '"'])
def test_what_cannot_separate_columns_is_refused(tmp_path: Path, typed: str) -> None:
    with pytest.raises(ConfigError, match=r"--delimiter .* is not one character that separates"):
        ingest_here(tmp_path, "a,y\n1,2\n", "--delimiter", typed)
