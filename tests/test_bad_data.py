"""Data that are bad in ways that damage to a chunk is not: they change under a run, hold absurd
values, or their metadata lie."""

from __future__ import annotations

import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import numcodecs
import numpy as np
import pytest
import zarr
from stores import CODECS, put, two_class_data, write_store
from test_damage import DAMAGES, chunk_file, names, refusal
from zarr.storage import FsspecStore, ZipStore

import streamlr
from streamlr.data.describe import describe_store
from streamlr.data.source import Buffer
from streamlr.data.sources.store import ZarrSource
from streamlr.errors import (
    ChunkError,
    DataError,
    LabelError,
    NonFiniteError,
    ShapeError,
    StoreNotFoundError,
)
from streamlr.events import Event, Note, PassFinished

Change = Callable[[Path], None]


# Under a running job


def rewrite_chunk(path: Path, *, keep_time: bool = False) -> None:
    """Other values of the same size, as a job that writes the store anew would leave."""
    before = path.stat()
    path.write_bytes(path.read_bytes()[::-1])
    if keep_time:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns - 10**9))


def in_place_of(path: Path, put_there: Callable[[Path], None]) -> None:
    path.unlink() if path.is_file() or path.is_symlink() else shutil.rmtree(path)
    put_there(path)


def swap(one: Path, other: Path) -> None:
    between = one.with_name("between")
    one.rename(between)
    other.rename(one)
    between.rename(other)


def tell_apart(store: Path) -> None:
    """Give each file a time of its own, as files have that were written in more than a few
    milliseconds."""
    for age, path in enumerate(sorted(path for path in store.rglob("*") if path.is_file())):
        os.utime(path, ns=(before := time.time_ns() - (age + 10) * 10**9, before))


def restate(array: Path, **change: Any) -> None:
    """Change what the metadata of an array state."""
    path = array / "zarr.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))


CHANGES: dict[str, tuple[Change, tuple[str, ...]]] = {
    "written again": (
        lambda store: rewrite_chunk(chunk_file(store, "X", 2, 0)),
        ("chunk 2 of X (rows 200 to 299) was written again", "resume=True", "overwrite=True"),
    ),
    "replaced by an older file": (
        lambda store: rewrite_chunk(chunk_file(store, "X", 2, 0), keep_time=True),
        ("chunk 2 of X (rows 200 to 299) was written again",),
    ),
    "labels written again": (
        lambda store: rewrite_chunk(chunk_file(store, "y", 1)),
        ("chunk 1 of y (rows 100 to 199) was written again",),
    ),
    "a chunk gone": (
        lambda store: chunk_file(store, "X", 2, 0).unlink(),
        ("chunk 2 of X (rows 200 to 299) is missing", "Restore it"),
    ),
    "a chunk cut": (
        lambda store: os.truncate(chunk_file(store, "X", 2, 0), 100),
        ("chunk 2 of X (rows 200 to 299) is damaged",),
    ),
    "a pipe in its place": (
        lambda store: in_place_of(chunk_file(store, "X", 2, 0), os.mkfifo),
        ("chunk 2 of X (rows 200 to 299) is damaged", "is no file"),
    ),
    "an endless file in its place": (
        lambda store: in_place_of(
            chunk_file(store, "X", 2, 0), lambda path: path.symlink_to("/dev/zero")
        ),
        ("chunk 2 of X (rows 200 to 299) is damaged", "is no file"),
    ),
    "neighbours swapped": (
        lambda store: swap(chunk_file(store, "X", 1, 0), chunk_file(store, "X", 2, 0)),
        ("chunk 1 of X (rows 100 to 199) was written again",),
    ),
    "a chunk of another array": (
        lambda store: shutil.copy2(chunk_file(store, "y", 2), chunk_file(store, "X", 2, 0)),
        ("chunk 2 of X", "is damaged"),
    ),
    "a link to its neighbour": (
        lambda store: in_place_of(
            chunk_file(store, "X", 2, 0), lambda path: os.link(chunk_file(store, "X", 1, 0), path)
        ),
        ("chunk 2 of X (rows 200 to 299) was written again",),
    ),
    "rows added": (
        lambda store: restate(store / "X", shape=[500, 6]),
        ("the metadata of X have changed", "X/zarr.json", "resume=True"),
    ),
    "rows taken": (
        lambda store: [restate(store / "X", shape=[300, 6]), restate(store / "y", shape=[300])],
        ("the metadata of X have changed",),
    ),
    "another fill value": (
        lambda store: restate(store / "X", fill_value=7.0),
        ("the metadata of X have changed",),
    ),
    "another type": (
        lambda store: restate(store / "X", data_type="int32", fill_value=0),
        ("the metadata of X have changed",),
    ),
    "another byte order": (
        lambda store: restate(
            store / "X", codecs=[{"name": "bytes", "configuration": {"endian": "big"}}]
        ),
        ("the metadata of X have changed",),
    ),
    "another codec": (
        lambda store: restate(
            store / "X", codecs=[{"name": "bytes"}, {"name": "gzip", "configuration": {"level": 1}}]
        ),
        ("the metadata of X have changed",),
    ),
    "labels of another type": (
        lambda store: restate(store / "y", data_type="uint8"),
        ("the metadata of y have changed",),
    ),
    "no metadata": (
        lambda store: (store / "X" / "zarr.json").unlink(),
        ("the metadata of X have changed", "which is gone"),
    ),
    "half of the metadata": (
        lambda store: os.truncate(store / "X" / "zarr.json", 100),
        ("the metadata of X have changed",),
    ),
    "the store gone": (
        lambda store: shutil.rmtree(store),
        ("chunk 0 of X (rows 0 to 99) is missing",),
    ),
}


def settings(
    store: Path | str, run: Path | None, kind: str = "serial", **data: Any
) -> dict[str, Any]:
    return {
        "data": {"store": str(store), **data},
        "model": {"penalty": {"l2": 0.01}},
        "cluster": {"kind": kind, "workers": None if kind == "serial" else 1},
        "solver": {"name": "gradient_descent", "learning_rate": 0.01, "max_passes": 6},
        "run": {"directory": None if run is None else str(run)},
    }


def after_pass(number: int, change: Callable[[], None]) -> Callable[[Event], None]:
    def see(event: Event) -> None:
        if isinstance(event, PassFinished) and event.number == number:
            change()

    return see


@pytest.mark.parametrize("kind", ["serial", "threads", "processes"])
@pytest.mark.parametrize("change", list(CHANGES))
def test_a_store_that_changes_between_passes_ends_the_run_with_its_checkpoint_intact(
    change: str, kind: str, tmp_path: Path
) -> None:
    if kind == "processes" and change not in ("written again", "rows added", "the store gone"):
        pytest.skip("what is refused is the same code; a cluster takes a second")
    X, y = two_class_data()
    store, run = tmp_path / "s", tmp_path / "run"
    write_store(store, X, y.astype(np.int8), (100, 6), y_chunk=100)
    tell_apart(store)
    first = streamlr.train({**settings(store, run), "model": {"penalty": {"l2": 1.0}}})
    shutil.copytree(store, tmp_path / "kept", copy_function=shutil.copy2)
    act, words = CHANGES[change]
    with pytest.raises(DataError) as caught:
        streamlr.train(
            settings(store, run, kind),
            overwrite=True,
            subscribers=[after_pass(3, lambda: act(store))],
        )
    names(caught.value, *words)
    assert caught.value.exit_status == 3
    assert streamlr.load_model(run).coefficients_sha256 == first.model.coefficients_sha256
    if kind == "serial":
        shutil.rmtree(store, ignore_errors=True)
        shutil.copytree(tmp_path / "kept", store, copy_function=shutil.copy2)
        again = streamlr.train(settings(store, run), resume=True)
        assert (
            again.model.coefficients_sha256
            == streamlr.train(settings(store, None)).model.coefficients_sha256
        )


def test_attributes_may_change_under_a_run(tmp_path: Path) -> None:
    X, y = two_class_data()
    store = tmp_path / "s"
    write_store(store, X, y, (100, 6))
    told = after_pass(
        2, lambda: restate(store / "X", attributes={"description": "noted while it was read"})
    )
    assert streamlr.train(settings(store, None), subscribers=[told]).passes == 6


@pytest.mark.parametrize("array", ["weights", "offset"])
def test_weights_and_offsets_that_change_under_a_run_end_it(array: str, tmp_path: Path) -> None:
    X, y = two_class_data()
    store = tmp_path / "s"
    write_store(store, X, y, (100, 6))
    put(zarr.open_group(str(store), mode="r+"), array, np.ones(400), (100,))
    change = after_pass(2, lambda: rewrite_chunk(chunk_file(store, array, 1)))
    with pytest.raises(
        ChunkError, match=rf"chunk 1 of {array} \(rows 100 to 199\) was written again"
    ):
        streamlr.train(settings(store, None, **{array: array}), subscribers=[change])


def test_times_in_the_future_hide_no_change(tmp_path: Path) -> None:
    """As a clock leaves that was set back after the store was written."""
    X, y = two_class_data()
    store = tmp_path / "s"
    write_store(store, X, y, (100, 6))
    for path in store.rglob("*"):
        os.utime(path, ns=(4 * 10**18, 4 * 10**18))
    assert streamlr.train(settings(store, None)).passes == 6
    with pytest.raises(ChunkError, match=r"chunk 2 of X .* was written again"):
        streamlr.train(
            settings(store, None),
            subscribers=[after_pass(2, lambda: rewrite_chunk(chunk_file(store, "X", 2, 0)))],
        )


@pytest.mark.parametrize("pass_number", [1, 3])
def test_a_link_that_is_set_to_another_version_of_the_store_ends_the_run(
    pass_number: int, tmp_path: Path
) -> None:
    X, y = two_class_data()
    write_store(tmp_path / "older", X[::-1].copy(), y[::-1].copy(), (100, 6))
    write_store(tmp_path / "newer", X, y, (100, 6))
    link = tmp_path / "s"
    link.symlink_to("newer")
    with pytest.raises(
        ChunkError,
        match=r"chunk 0 of X \(rows 0 to 99\) was written again .* which had another size or time",
    ):
        streamlr.train(
            settings(link, None),
            subscribers=[
                after_pass(
                    pass_number, lambda: in_place_of(link, lambda path: path.symlink_to("older"))
                )
            ],
        )


def test_a_run_whose_data_changed_in_between_is_not_resumed_even_where_checkpoints_came_after(
    tmp_path: Path,
) -> None:
    X, y = two_class_data()
    store, run = tmp_path / "s", tmp_path / "run"
    write_store(store, X, y.astype(np.int8), (100, 6), y_chunk=100)
    with pytest.raises(ChunkError):
        streamlr.train(
            settings(store, run),
            subscribers=[after_pass(3, lambda: rewrite_chunk(chunk_file(store, "X", 2, 0)))],
        )
    with pytest.raises(streamlr.errors.RunDirectoryError, match="made with data of fingerprint"):
        streamlr.train(settings(store, run), resume=True)


@pytest.mark.parametrize("layout", ["bz2", "zip"])
def test_what_zarr_reads_from_files_is_watched_too(layout: str, tmp_path: Path) -> None:
    X, y = two_class_data()
    path = tmp_path / f"s.{layout}"
    location: Any = ZipStore(path, mode="w") if layout == "zip" else path
    group = zarr.open_group(location, mode="w", zarr_format=2)
    group.create_array(
        "X", shape=X.shape, chunks=(100, 6), dtype=X.dtype, compressors=numcodecs.BZ2()
    )[...] = X
    put(group, "y", y)
    if layout == "zip":
        location.close()
    touched = path if layout == "zip" else path / "X" / "2.0"
    with pytest.raises(ChunkError, match=r"was written again"):
        streamlr.train(settings(path, None), subscribers=[after_pass(2, lambda: os.utime(touched))])


def test_a_store_without_times_says_so(tmp_path: Path) -> None:
    X, y = two_class_data()
    store = FsspecStore.from_url("remote://without-times/s.zarr")
    group = zarr.open_group(store, mode="w")
    put(group, "X", X, (100, 6))
    put(group, "y", y)
    problems = describe_store(
        ZarrSource(streamlr.load_config(settings("remote://without-times/s.zarr", None)).data)
    )["problems"]
    assert any("X is in a store that tells no times of writing" in problem for problem in problems)
    write_store(tmp_path / "s", X, y, codec="raw")
    assert not any(
        "no times" in problem
        for problem in describe_store(
            ZarrSource(streamlr.load_config(settings(tmp_path / "s", None)).data)
        )["problems"]
    )


@pytest.mark.parametrize("how", ["overwrite", "resume"])
def test_a_bit_that_no_checksum_covers_is_found_when_the_store_is_trained_again(
    how: str, tmp_path: Path
) -> None:
    X, y = two_class_data()
    store, run = tmp_path / "s", tmp_path / "run"
    config = write_store(store, X, y, (100, 6))
    assert any(
        "flipped bit in a chunk can go unnoticed" in problem
        for problem in describe_store(ZarrSource(config))["problems"]
    )
    streamlr.train(settings(store, run))
    content = bytearray(chunk_file(store, "X", 2, 0).read_bytes())
    content[2] ^= 1
    chunk_file(store, "X", 2, 0).write_bytes(content)
    notes: list[str] = []
    see = [
        lambda event: (
            notes.append(event.text) if isinstance(event, Note) and event.warning else None
        )
    ]
    if how == "overwrite":
        streamlr.train(settings(store, run), overwrite=True, subscribers=see)
        assert any("if nobody changed the store, it is damaged" in note for note in notes)
    else:
        with pytest.raises(
            streamlr.errors.RunDirectoryError, match="bring back the data that it was made with"
        ):
            streamlr.train(settings(store, run), resume=True)


def test_bytes_that_are_read_as_another_type_are_found_when_the_store_is_trained_again(
    tmp_path: Path,
) -> None:
    X, y = two_class_data()
    store, run = tmp_path / "s", tmp_path / "run"
    write_store(store, X, y, (100, 6))
    streamlr.train(settings(store, run))
    metadata = json.loads((store / "X" / "zarr.json").read_text())
    (store / "X" / "zarr.json").write_text(
        json.dumps({**metadata, "data_type": "int32", "fill_value": 0})
    )
    notes: list[str] = []
    streamlr.train(
        settings(store, run),
        overwrite=True,
        subscribers=[lambda event: notes.append(getattr(event, "text", ""))],
    )
    assert any("int32; was" in note and "float32" in note for note in notes)


# Chunks, in other stores and codecs


@pytest.mark.parametrize(
    ("zarr_format", "codec"),
    [(zarr_format, codec) for zarr_format, codecs in CODECS.items() for codec in codecs],
)
def test_bytes_behind_the_end_of_a_chunk_are_refused(
    zarr_format: int, codec: str, tmp_path: Path
) -> None:
    X, y = two_class_data()
    write_store(tmp_path / "s", X, y, (100, 6), zarr_format=zarr_format, codec=codec)
    path = chunk_file(tmp_path / "s", "X", 2, 0, zarr_format=zarr_format)
    path.write_bytes(path.read_bytes() + b"garbage")
    names(refusal(tmp_path / "s"), "chunk 2 of X (rows 200 to 299) is damaged")


SPOILED: dict[str, Callable[[bytes], bytes | None]] = {
    "missing": lambda content: None,
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "one byte short": lambda content: content[:-1],
}


@pytest.mark.parametrize("codec", [numcodecs.BZ2(), numcodecs.LZMA()], ids=["bz2", "lzma"])
@pytest.mark.parametrize("spoil", [*SPOILED, "flipped"])
def test_chunks_of_codecs_that_zarr_alone_knows_are_refused(
    spoil: str, codec: Any, tmp_path: Path
) -> None:
    X, y = two_class_data()
    group = zarr.open_group(str(tmp_path / "s"), mode="w", zarr_format=2)
    group.create_array(
        "X",
        shape=X.shape,
        chunks=(100, 6),
        dtype=X.dtype,
        compressors=codec,
        filters=[numcodecs.Delta(dtype=X.dtype)],
    )[...] = X
    put(group, "y", y)
    path = tmp_path / "s" / "X" / "2.0"
    content = path.read_bytes()
    spoiled = DAMAGES["a bit flipped"](content) if spoil == "flipped" else SPOILED[spoil](content)
    path.unlink() if spoiled is None else path.write_bytes(spoiled)
    names(refusal(tmp_path / "s"), "chunk 2 of X (rows 200 to 299)")


@pytest.mark.parametrize("spoil", list(SPOILED))
@pytest.mark.parametrize("place", ["zip", "remote"])
def test_chunks_in_archives_and_remote_stores_are_refused(
    place: str, spoil: str, tmp_path: Path
) -> None:
    X, y = two_class_data()
    url = f"remote://{spoil.replace(' ', '-')}/s.zarr"
    store: Any = (
        ZipStore(tmp_path / "whole.zip", mode="w") if place == "zip" else FsspecStore.from_url(url)
    )
    group = zarr.open_group(store, mode="w")
    put(group, "X", X, (100, 6))
    put(group, "y", y)
    if place == "zip":
        store.close()
        with (
            zipfile.ZipFile(tmp_path / "whole.zip") as whole,
            zipfile.ZipFile(tmp_path / "s.zip", "w") as spoiled,
        ):
            for name in whole.namelist():
                content = (
                    SPOILED[spoil](whole.read(name)) if name == "X/c/2/0" else whole.read(name)
                )
                if content is not None:
                    spoiled.writestr(name, content)
    else:
        files = fsspec.filesystem("remote")
        path = next(
            path for path in files.find(url.removeprefix("remote:/")) if path.endswith("X/c/2/0")
        )
        content = SPOILED[spoil](files.cat(path))
        files.rm(path) if content is None else files.pipe(path, content)
    names(refusal(tmp_path / "s.zip" if place == "zip" else url), "chunk 2 of X (rows 200 to 299)")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and then nothing", b"no archive at all"])
def test_an_archive_that_is_none_is_refused(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "s.zip").write_bytes(content)
    error = refusal(tmp_path / "s.zip")
    assert isinstance(error, StoreNotFoundError)
    names(error, "s.zip", "check data.store")


@pytest.mark.parametrize(
    ("where", "put_there"),
    [
        ("X/c/2/0", lambda path: path.mkdir()),
        ("X/c/2/0", lambda path: path.symlink_to(path)),
        ("X/c/2", lambda path: path.symlink_to(path)),
        ("X/c/2/0", lambda path: path.symlink_to("nowhere")),
    ],
    ids=["a directory", "a circle", "a circle above", "a link to nowhere"],
)
def test_what_is_no_file_is_no_chunk(where: str, put_there: Change, tmp_path: Path) -> None:
    X, y = two_class_data()
    write_store(tmp_path / "s", X, y, (100, 6))
    in_place_of(tmp_path / "s" / where, put_there)
    names(refusal(tmp_path / "s"), "chunk 2 of X (rows 200 to 299)")


def test_a_store_that_is_a_circle_of_links_is_refused(tmp_path: Path) -> None:
    (tmp_path / "s").symlink_to(tmp_path / "s")
    names(refusal(tmp_path / "s"), "a link that leads nowhere, or in a circle")


def test_a_sparse_file_of_the_right_size_is_named_by_info_as_undetectable(tmp_path: Path) -> None:
    X, y = two_class_data()
    config = write_store(tmp_path / "s", X, y, (100, 6))
    path = chunk_file(tmp_path / "s", "X", 2, 0)
    size = path.stat().st_size
    path.write_bytes(b"")
    os.truncate(path, size)
    assert (ZarrSource(config).read_features(200, 300, Buffer()) == 0).all()
    assert (
        "X has no checksums: a flipped bit in a chunk can go unnoticed"
        in describe_store(ZarrSource(config))["problems"]
    )


@pytest.mark.parametrize("codec", ["raw", "blosc lz4, crc32c"])
def test_chunks_that_changed_places_are_named_by_info_and_found_when_the_store_is_trained_again(
    codec: str, tmp_path: Path
) -> None:
    X, y = two_class_data()
    store, run = tmp_path / "s", tmp_path / "run"
    config = write_store(store, X, y, (100, 6), codec=codec)
    assert any(
        "a chunk in the place of another" in kind
        for kind in describe_store(ZarrSource(config))["undetectable"]
    )
    streamlr.train(settings(store, run))
    swap(chunk_file(store, "X", 1, 0), chunk_file(store, "X", 2, 0))
    os.utime(
        chunk_file(store, "X", 1, 0)
    )  # a rename leaves the times, by which the store would be the one that it was
    with pytest.raises(streamlr.errors.RunDirectoryError, match="made with data of fingerprint"):
        streamlr.train(settings(store, run), resume=True)
    notes: list[str] = []
    streamlr.train(
        settings(store, run),
        overwrite=True,
        subscribers=[lambda event: notes.append(getattr(event, "text", ""))],
    )
    assert any("if nobody changed the store, it is damaged" in note for note in notes)


# Metadata that lie


@pytest.mark.parametrize(
    "change",
    [
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [0, 6]}}},
        {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": [10**12, 6]}}},
        {"chunk_grid": {"name": "hexagonal"}},
        {"chunk_key_encoding": {"name": "default", "configuration": {"separator": "../../"}}},
        {"chunk_key_encoding": {"name": "evil"}},
        {"shape": [-400, 6]},
        {"shape": [400.5, 6]},
        {"shape": ["400", 6]},
        {"shape": [500, 6]},
        {"shape": [400, 10**9]},
        {"data_type": "float33"},
        {"data_type": "float64"},
        {"codecs": []},
        {"codecs": [{"name": "evil"}]},
        {"node_type": "group"},
        {"zarr_format": 7},
    ],
    ids=str,
)
def test_metadata_that_lie_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    X, y = two_class_data()
    write_store(tmp_path / "s", X, y, (100, 6))
    path = tmp_path / "s" / "X" / "zarr.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    names(refusal(tmp_path / "s"), "X")


@pytest.mark.parametrize(
    "change",
    [
        {"chunks": [0, 6]},
        {"chunks": [-100, 6]},
        {"chunks": [100]},
        {"chunks": "abc"},
        {"shape": [-4, 6]},
        {"shape": [500, 6]},
        {"shape": [400, "6"]},
        {"dtype": "<f3"},
        {"dtype": "<f8"},
        {"dtype": "|O"},
        {"dtype": [["a", "<f4"]]},
        {"compressor": {"id": "evil"}},
        {"compressor": {}},
        {"compressor": "zlib"},
        {"compressor": {"id": "zstd"}},
        {"filters": [{"id": "pickle"}]},
        {"filters": "x"},
        {"order": "Q"},
        {"fill_value": "abc"},
        {"dimension_separator": "/../"},
        {"zarr_format": 1},
        {"zarr_format": 3},
    ],
    ids=str,
)
def test_metadata_of_format_2_that_lie_are_refused(change: dict[str, Any], tmp_path: Path) -> None:
    X, y = two_class_data()
    write_store(tmp_path / "s", X, y, (100, 6), zarr_format=2)
    path = tmp_path / "s" / "X" / ".zarray"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    names(refusal(tmp_path / "s"), "X")


def test_metadata_that_claim_more_chunks_than_there_can_be_do_not_keep_one_waiting(
    tmp_path: Path,
) -> None:
    X, y = two_class_data()
    write_store(tmp_path / "s", X, y, (1, 6), y_chunk=1)
    for name, shape in (("X", [10**15, 6]), ("y", [10**15])):
        path = tmp_path / "s" / name / "zarr.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "shape": shape}))
    names(refusal(tmp_path / "s"), "chunk 400 of X (rows 400 to 400)", "and at least 997 more")


@pytest.mark.parametrize("of", ["", "X", "y"])
@pytest.mark.parametrize(
    "content",
    [b"null", b"3", b'"x"', b"\xff\xfe\x00", b"[" * 100_000, b'{"a":' * 100_000],
    ids=lambda content: repr(content[:6]),
)
def test_metadata_that_are_no_metadata_are_refused(of: str, content: bytes, tmp_path: Path) -> None:
    X, y = two_class_data()
    write_store(tmp_path / "s", X, y)
    (tmp_path / "s" / of / "zarr.json").write_bytes(content)
    names(refusal(tmp_path / "s"), str(tmp_path / "s"))


@pytest.mark.parametrize("attribute", [7, "abcdef", {"a": 1}, [["a"]] * 6, [None] * 6])
def test_feature_names_that_are_no_texts_are_refused(attribute: Any, tmp_path: Path) -> None:
    X, y = two_class_data()
    write_store(tmp_path / "s", X, y)
    zarr.open_group(str(tmp_path / "s"), mode="r+").attrs["feature_names"] = attribute
    error = refusal(tmp_path / "s")
    assert isinstance(error, ShapeError)
    names(error, "feature_names", "no list of texts")


# Absurd values


@pytest.mark.parametrize(
    ("value", "words"),
    [(1e300, "so large that their squares overflow"), (-1.7e308, "so large"), (1e155, "so large")],
)
@pytest.mark.parametrize("row", [0, 250, 399])
def test_a_value_whose_square_overflows_is_named(
    row: int, value: float, words: str, tmp_path: Path
) -> None:
    X, y = two_class_data(dtype="float64")
    X[row, 3] = value
    write_store(tmp_path / "s", X, y, (100, 6))
    error = refusal(tmp_path / "s")
    assert isinstance(error, NonFiniteError)
    names(
        error,
        words,
        f"feature 3, largest {abs(value):.3g} at row {row}, in chunk {row // 100}; 1 features in "
        "all",
        "clean or rescale",
    )


def test_values_whose_squares_vanish_are_named(tmp_path: Path) -> None:
    X, y = two_class_data(dtype="float64")
    X[:, 2] *= 1e-300
    write_store(tmp_path / "s", X, y, (100, 6))
    names(
        refusal(tmp_path / "s"),
        "so small that their squares vanish (feature 2, largest",
        "clean or rescale",
    )


@pytest.mark.parametrize("factor", [1e-140, 1e140])
def test_values_of_any_other_size_have_the_optimum_of_their_unit(
    factor: float, tmp_path: Path
) -> None:
    X, y = two_class_data(dtype="float64")
    fitted = []
    for scale in (1.0, factor):
        write_store(tmp_path / str(scale), X * scale, y, (100, 6))
        fitted.append(
            streamlr.train(
                {"data": {"store": str(tmp_path / str(scale))}, "cluster": {"kind": "serial"}}
            ).model.coef_
            * scale
        )
    np.testing.assert_allclose(fitted[1], fitted[0], rtol=1e-6)  # to the tolerance of the gradient


def test_a_negative_zero_is_zero(tmp_path: Path) -> None:
    X, y = two_class_data()
    assert (X == 0).any()
    write_store(tmp_path / "a", X, y, (100, 6))
    write_store(tmp_path / "b", np.where(X == 0, np.float32(-0.0), X), y, (100, 6))
    a, b = (
        streamlr.train(
            {"data": {"store": str(tmp_path / name)}, "cluster": {"kind": "serial"}}
        ).model.coef_
        for name in "ab"
    )
    np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("weights", "kind", "words"),
    [
        (np.zeros(400), LabelError, "weigh 0"),
        (np.full(400, 1e307), NonFiniteError, "add up to inf"),
        (np.full(400, 5e-324), NonFiniteError, "leaves float64 no room"),
    ],
    ids=["zero", "huge", "tiny"],
)
def test_weights_that_no_sum_can_hold_are_refused(
    weights: Any, kind: type[DataError], words: str, tmp_path: Path
) -> None:
    X, y = two_class_data()
    write_store(tmp_path / "s", X, y, (100, 6), weights=weights)
    error = refusal(tmp_path / "s", weights="weights")
    assert isinstance(error, kind)
    names(error, words)


def test_one_row_is_one_class(tmp_path: Path) -> None:
    X, y = two_class_data(1, 6)
    write_store(tmp_path / "s", X, y)
    names(refusal(tmp_path / "s"), "one class only", "(1 rows)")


# What stands in the place of a file of the run


@pytest.mark.parametrize(("name", "ended"), [("history.jsonl", False), ("model.zarr", True)])
def test_a_pipe_in_the_place_of_a_file_of_the_run_keeps_nobody_waiting(
    name: str, ended: bool, tmp_path: Path
) -> None:
    X, y = two_class_data()
    store, run = tmp_path / "s", tmp_path / "run"
    write_store(store, X, y, (100, 6))
    expected = streamlr.train(settings(store, run)).model.coefficients_sha256
    put_pipe = after_pass(3, lambda: in_place_of(run / name, os.mkfifo))
    if ended:
        streamlr.train(settings(store, run), overwrite=True, subscribers=[put_pipe])
    else:
        with pytest.raises(
            streamlr.errors.WriteError,
            match=rf"cannot write '.*{name}'.*the checkpoint of pass 3 in .* is intact",
        ):
            streamlr.train(settings(store, run), overwrite=True, subscribers=[put_pipe])
        (run / name).unlink()
        streamlr.train(settings(store, run), resume=True)
    assert streamlr.load_model(run).coefficients_sha256 == expected
