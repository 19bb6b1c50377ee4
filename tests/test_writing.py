"""Writing stores and predictions: what is called safe is on the disk, and a full one ends in an
error that leaves nothing in the way."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mortal import Mortal
from stores import chunk_paths, files_of, two_class_data, write_store

from streamlr.data.ingest.ingest import IngestSpec, ingest
from streamlr.data.ingest.table import Columns


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mortal]:
    with Mortal(tmp_path_factory.mktemp("mortal")) as server:
        yield server


def table(folder: Path, rows: int = 1000) -> Path:
    X, y = two_class_data(rows, 4)
    np.save(folder / "t.npy", np.column_stack([X, y]).astype(np.float32))
    return folder / "t.npy"


def test_the_journal_calls_no_rows_safe_that_a_power_cut_could_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: set[str] = set()
    journals = 0
    fsync, replace = os.fsync, os.replace

    def watched_fsync(descriptor: int) -> None:
        synced.add(os.readlink(f"/proc/self/fd/{descriptor}"))
        fsync(descriptor)

    def watched_replace(source: Any, target: Any, **how: Any) -> None:
        nonlocal journals
        if Path(target).name == "ingest.json":
            journals += 1
            chunks = [
                path for name in ("X", "y") for path in chunk_paths(Path(target).parent / name)
            ]
            assert len(chunks) == 2 * journals
            assert {str(path) for path in chunks} <= synced
            assert {
                str(folder)
                for path in chunks
                for folder in path.parents
                if folder.is_relative_to(Path(target).parent / "X")
            } <= synced
        replace(source, target, **how)

    monkeypatch.setattr(os, "fsync", watched_fsync)
    monkeypatch.setattr(os, "replace", watched_replace)
    ingest([table(tmp_path)], tmp_path / "s", IngestSpec(Columns("4"), chunk_rows=256))
    assert journals == 4


@pytest.mark.parametrize("blow", ["full", signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize("at", [1, 8, 15, 22])
def test_an_ingest_that_ends_before_its_time_goes_on_to_the_same_store(
    at: int, blow: Any, mortal: Mortal, tmp_path: Path
) -> None:
    arguments = [
        "ingest",
        table(tmp_path),
        tmp_path / "s",
        "--target",
        "4",
        "--chunk-rows",
        "256",
        "--quiet",
    ]
    assert mortal.run(*arguments).status == 0
    (tmp_path / "s").rename(tmp_path / "whole")
    ended = mortal.run(*arguments, at=("replace", at), blow=blow)
    assert ended.status == {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 130, "full": 1}[blow]
    assert "Traceback" not in ended.err
    if blow == "full":
        assert "File too large" in ended.err
        assert f"Error: cannot write '{tmp_path / 's'}" in ended.err
    assert not (tmp_path / "s").exists()
    assert mortal.run(*arguments).status == 0
    assert files_of(tmp_path / "s") == files_of(tmp_path / "whole")


@pytest.mark.parametrize("at", [1, 3, 5])
def test_a_full_disk_under_synth_is_told(at: int, mortal: Mortal, tmp_path: Path) -> None:
    ended = mortal.run(
        "synth",
        tmp_path / "s",
        "--rows",
        "500",
        "--features",
        "3",
        "--chunk-rows",
        "100",
        at=("replace", at),
        blow="full",
    )
    assert ended.status == 1
    assert ended.err.splitlines()[-1].startswith(f"Error: cannot write '{tmp_path / 's'}")
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("kind", ["serial", "threads"])
def test_a_full_disk_under_predictions_leaves_the_earlier_ones(
    kind: str, mortal: Mortal, tmp_path: Path
) -> None:
    write_store(tmp_path / "s", *two_class_data(), (100, 6))
    (tmp_path / "c.yaml").write_text(
        f"data: {{store: {tmp_path / 's'}}}\ncluster: {{kind: {kind}}}\nrun: {{directory: "
        f"{tmp_path / 'run'}}}\n"
    )
    assert mortal.run("train", "--config", tmp_path / "c.yaml").status == 0
    predict = ["predict", tmp_path / "run", tmp_path / "s", tmp_path / "out"]
    assert mortal.run(*predict).status == 0
    before = files_of(tmp_path / "out")
    ended = mortal.run(*predict, "--overwrite", at=("replace", 1), blow="full")
    assert ended.status == 1
    assert ended.err.splitlines()[-1].startswith("Error: cannot write '")
    assert files_of(tmp_path / "out") == before
    assert {path.name for path in tmp_path.iterdir()} == {"s", "c.yaml", "run", "out"}
