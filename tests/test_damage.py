"""Damage: what a store lacks, or holds wrongly, is an error that names it, before the first pass is
over."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from stores import CHECKSUMMED, CODECS_V2, CODECS_V3, chunk_paths, put, two_class_data, write_store
from zarr.codecs import BytesCodec, ShardingCodec

import streamlr
from streamlr.config.sections import DataConfig
from streamlr.data.source import Buffer
from streamlr.data.sources.store import ZarrSource
from streamlr.errors import (
    ChunkError,
    DataError,
    DtypeError,
    LabelError,
    NonFiniteError,
    ShapeError,
    StoreNotFoundError,
)
from streamlr.events import Event, PassFinished, ScanFinished


def train(
    store: Path | str, kind: str = "serial", **data: Any
) -> tuple[streamlr.TrainResult | DataError, int]:
    """What training ends with, and how many passes it had finished by then."""
    events: list[Event] = []
    settings = {
        "data": {"store": str(store), **data},
        "cluster": {"kind": kind},
        "solver": {"max_passes": 30},
    }
    try:
        result: Any = streamlr.train(settings, subscribers=[events.append])
    except DataError as error:
        result = error
    return result, sum(isinstance(event, PassFinished) for event in events)


def refusal(store: Path | str, kind: str = "serial", **data: Any) -> DataError:
    """The error with which training refuses the store; that it comes with the first pass at the
    latest."""
    result, passes = train(store, kind, **data)
    assert isinstance(result, DataError), "a damaged store was trained on"
    assert passes == 0
    assert result.exit_status == 3
    return result


def names(error: Exception, *parts: str) -> None:
    """Each part stands in the message."""
    for part in parts:
        assert part in str(error)


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "1 byte cut off": lambda content: content[:-1],
    "4 bytes cut off": lambda content: content[:-4],
    "half cut off": lambda content: content[: len(content) // 2],
    "all cut off": lambda content: b"",
    "zeros for its second half": lambda content: (
        content[: len(content) // 2] + bytes(len(content) - len(content) // 2)
    ),
    "a bit flipped": lambda content: (
        content[: len(content) // 2]
        + bytes([content[len(content) // 2] ^ 16])
        + content[len(content) // 2 + 1 :]
    ),
}
CUTS = ("1 byte cut off", "4 bytes cut off", "half cut off", "all cut off")


def _noticed() -> list[Any]:
    """What must be noticed: every cut, whatever the codec; every change where there are checksums.
    No format can notice more."""
    cases = [
        (3, codec, damage)
        for codec in CODECS_V3
        for damage in DAMAGES
        if damage in CUTS or codec in CHECKSUMMED
    ]
    return cases + [
        (2, codec, damage)
        for codec in CODECS_V2
        for damage in DAMAGES
        if damage in CUTS or codec == "gzip"
    ]


def damage_file(path: Path, damage: str) -> None:
    path.write_bytes(DAMAGES[damage](path.read_bytes()))


def chunk_file(store: Path, array: str, *index: int, zarr_format: int = 3) -> Path:
    """The file of a chunk (or shard), which must be there."""
    at = [str(i) for i in index]
    path = store / array / (".".join(at) if zarr_format == 2 else "/".join(["c", *at]))
    assert path.is_file()
    return path


@pytest.mark.parametrize(("zarr_format", "codec", "damage"), _noticed())
def test_a_damaged_chunk_is_refused_and_named(
    tmp_path: Path, zarr_format: int, codec: str, damage: str
) -> None:
    X, y = two_class_data()
    store = tmp_path / "s"
    write_store(store, X, y, (100, 6), zarr_format=zarr_format, codec=codec)
    path = chunk_file(store, "X", 2, 0, zarr_format=zarr_format)
    damage_file(path, damage)
    error = refusal(store)
    assert isinstance(error, ChunkError)
    names(
        error,
        "chunk 2 of X (rows 200 to 299) is damaged",
        str(path),
        "restore that file or write the store again",
    )


@pytest.mark.parametrize("codec", CHECKSUMMED)
def test_a_flipped_bit_is_noticed_at_every_place_of_a_checksummed_chunk(
    tmp_path: Path, codec: str
) -> None:
    if codec == "gzip":
        pytest.skip(
            "the header of gzip holds fields, such as a time, that decide nothing and that its "
            "checksum does not cover"
        )
    X, y = two_class_data(40, 2)
    config = write_store(tmp_path / "s", X, y, codec=codec)
    path = chunk_file(tmp_path / "s", "X", 0, 0)
    content = path.read_bytes()
    source = ZarrSource(config)
    for at in range(len(content)):
        path.write_bytes(content[:at] + bytes([content[at] ^ (1 << at % 8)]) + content[at + 1 :])
        try:
            found = source.read_features(0, 40, Buffer()).T
        except ChunkError:
            continue
        assert found.tobytes() == X.tobytes(), (
            f"byte {at} of {len(content)}"
        )  # a bit of a header that decides nothing


@pytest.mark.parametrize(
    ("damage", "inner"),
    [
        (damage, inner)
        for damage in DAMAGES
        for inner in CODECS_V3
        if damage in CUTS or inner in CHECKSUMMED
    ],
)
def test_a_damaged_shard_is_refused_and_named(tmp_path: Path, inner: str, damage: str) -> None:
    X, y = two_class_data()
    store = tmp_path / "s"
    write_store(store, X, y, (50, 6), shards=(200, 6), codec=inner)
    damage_file(chunk_file(store, "X", 1, 0), damage)
    error = refusal(store)
    assert isinstance(error, ChunkError)
    assert "is damaged" in str(error)
    assert any(
        f"chunk {chunk} of X (rows {50 * chunk} to {50 * chunk + 49})" in str(error)
        for chunk in range(4, 8)
    )


_OFFSET, _NBYTES = 0, 1


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        (_OFFSET, 2**40),
        (_OFFSET, 2**62),
        (_OFFSET, 2**63),
        (_OFFSET, 2**64 - 1),
        (_NBYTES, 0),
        (_NBYTES, 1),
        (_NBYTES, 2**46),
        (_NBYTES, 2**62),
        (_NBYTES, 2**63),
        (_NBYTES, 2**64 - 1),
    ],
)
def test_a_wrong_entry_in_an_unprotected_shard_index_is_refused(
    tmp_path: Path, entry: int, value: int
) -> None:
    X, y = two_class_data()
    store = tmp_path / "s"
    group = zarr.open_group(str(store), mode="w", zarr_format=3)
    sharding = ShardingCodec(
        chunk_shape=(50, 6), codecs=[BytesCodec()], index_codecs=[BytesCodec()]
    )
    zarr.create(
        store=group.store,
        path="X",
        shape=X.shape,
        chunks=(200, 6),
        dtype=X.dtype,
        zarr_format=3,
        codecs=[sharding],
    )[...] = X
    put(group, "y", y)
    path = chunk_file(store, "X", 1, 0)
    index = np.frombuffer(path.read_bytes()[-64:], dtype="<u8").copy()
    index[2 + entry] = value
    path.write_bytes(path.read_bytes()[:-64] + index.tobytes())
    names(refusal(store), "chunk 5 of X (rows 250 to 299)")


OVERLAPS: dict[str, Callable[[Any], None]] = {
    "one for another": lambda index: index.__setitem__(1, index[0]),
    "half of one for half of another": lambda index: index.__setitem__((1, 0), index[1, 0] - 600),
    "the index for a chunk": lambda index: index.__setitem__((3, 0), index[3, 0] + 8),
}


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("overlap", list(OVERLAPS))
def test_chunks_that_overlap_in_their_shard_are_refused(
    overlap: str, direct: bool, tmp_path: Path
) -> None:
    X, y = two_class_data()
    store = tmp_path / "s"
    group = zarr.open_group(str(store), mode="w", zarr_format=3)
    sharding = ShardingCodec(
        chunk_shape=(50, 6), codecs=[BytesCodec()], index_codecs=[BytesCodec()]
    )
    zarr.create(
        store=group.store,
        path="X",
        shape=X.shape,
        chunks=(200, 6),
        dtype=X.dtype,
        zarr_format=3,
        codecs=[sharding],
    )[...] = X
    put(group, "y", y)
    path = chunk_file(store, "X", 1, 0)
    index = np.frombuffer(path.read_bytes()[-64:], dtype="<u8").copy().reshape(4, 2)
    OVERLAPS[overlap](index)
    path.write_bytes(path.read_bytes()[:-64] + index.tobytes())
    source = ZarrSource(DataConfig(store=str(store)), direct=direct)
    np.testing.assert_array_equal(source.read_features(0, 200, Buffer()).T, X[:200])
    if overlap == "the index for a chunk" and not direct:
        pytest.skip("through Zarr the size of a shard, and so the place of its index, is not known")
    with pytest.raises(
        ChunkError,
        match=r"chunk [4-7] of X .*(where another chunk lies too|overlap|by the index it lies at)",
    ):
        source.read_features(200, 400, Buffer())


@pytest.mark.parametrize("kind", ["serial", "threads", "processes"])
def test_damage_found_by_a_worker_reaches_the_caller_whole(tmp_path: Path, kind: str) -> None:
    X, y = two_class_data()
    store = tmp_path / "s"
    write_store(store, X, y, (100, 6), codec="crc32c")
    damage_file(chunk_file(store, "X", 3, 0), "a bit flipped")
    error = refusal(store, kind)
    assert isinstance(error, ChunkError)
    names(error, "chunk 3 of X (rows 300 to 399) is damaged", "checksum crc32c is")


@pytest.mark.parametrize("sample_axis", [0, 1])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_missing_chunk_is_refused_before_anything_is_read(
    tmp_path: Path, zarr_format: int, sample_axis: int
) -> None:
    X, y = two_class_data()
    config = write_store(
        tmp_path / "s", X, y, (100, 6), zarr_format=zarr_format, sample_axis=sample_axis
    )
    chunk_file(
        tmp_path / "s", "X", *((2, 0) if sample_axis == 0 else (0, 2)), zarr_format=zarr_format
    ).unlink()
    with pytest.raises(
        ChunkError,
        match=r"lacks chunk 2 of X \(rows 200 to 299\).*fill value.*data\.missing_chunks: fill",
    ):
        ZarrSource(config).check_chunks()
    names(refusal(tmp_path / "s", sample_axis=sample_axis), "chunk 2 of X (rows 200 to 299)")


def test_many_missing_chunks_are_counted_and_the_first_named(tmp_path: Path) -> None:
    X, y = two_class_data()
    write_store(tmp_path / "s", X, y, (20, 3))
    shutil.rmtree(tmp_path / "s" / "X" / "c")
    names(
        refusal(tmp_path / "s"),
        "chunk 0.0 of X (rows 0 to 19), chunk 0.1 of X (rows 0 to 19), chunk 1.0 of X (rows 20 to "
        "39) and 37 more",
    )


@pytest.mark.parametrize("sharded", [False, True])
@pytest.mark.parametrize("direct", [True, False])
def test_a_chunk_that_goes_missing_while_the_store_is_open_is_refused(
    tmp_path: Path, direct: bool, sharded: bool
) -> None:
    X, y = two_class_data()
    config = write_store(tmp_path / "s", X, y, (50, 6), **({"shards": (100, 6)} if sharded else {}))
    source = ZarrSource(config, direct=direct)
    source.check_chunks()
    chunk_file(tmp_path / "s", "X", 2, 0).unlink()
    first = 200 if sharded else 100
    with pytest.raises(
        ChunkError,
        match=rf"chunk {first // 50} of X \(rows {first} to {first + 49}\) is missing from the "
        rf"store; Zarr would read it as 0",
    ):
        source.read_features(0, 400, Buffer())


@pytest.mark.parametrize("direct", [True, False])
def test_a_store_that_vanishes_while_it_is_open_is_refused(tmp_path: Path, direct: bool) -> None:
    X, y = two_class_data()
    source = ZarrSource(write_store(tmp_path / "s", X, y, (100, 6)), direct=direct)
    shutil.rmtree(tmp_path / "s")
    with pytest.raises(ChunkError, match=r"chunk 0 of X \(rows 0 to 99\) is missing"):
        source.read_features(0, 400, Buffer())


@pytest.mark.parametrize("direct", [True, False])
def test_a_chunk_missing_inside_a_shard_is_refused(tmp_path: Path, direct: bool) -> None:
    X, y = two_class_data()
    X[250:300] = 0
    config = write_store(tmp_path / "s", X, y, (50, 6), shards=(200, 6), every_chunk=False)
    assert chunk_file(tmp_path / "s", "X", 1, 0).stat().st_size < 4 * 50 * 6 * 4
    with pytest.raises(ChunkError, match=r"chunk 5 of X \(rows 250 to 299\) is missing"):
        ZarrSource(config, direct=direct).read_features(0, 400, Buffer())
    if direct:
        names(refusal(tmp_path / "s"), "chunk 5 of X", "data.missing_chunks: fill")


def test_a_missing_shard_is_refused(tmp_path: Path) -> None:
    X, y = two_class_data()
    write_store(tmp_path / "s", X, y, (50, 6), shards=(200, 6))
    chunk_file(tmp_path / "s", "X", 1, 0).unlink()
    names(refusal(tmp_path / "s"), "chunk 4 of X (rows 200 to 249)")


@pytest.mark.parametrize("array", ["y", "weights"])
def test_a_missing_or_damaged_chunk_of_labels_or_weights_is_refused(
    tmp_path: Path, array: str
) -> None:
    X, y = two_class_data()
    store = tmp_path / "s"
    write_store(store, X, y, (100, 6), y_chunk=70, weights=np.ones(400))
    path = chunk_file(store, array, 3)
    path.write_bytes(path.read_bytes()[:-1])
    names(
        refusal(store, weights="weights"),
        f"chunk 3 of {array} (rows 210 to 279) is damaged",
        str(path),
    )
    path.unlink()
    names(
        refusal(store, weights="weights"),
        f"chunk 3 of {array} (rows 210 to 279)",
        "data.missing_chunks: fill",
    )


def test_a_missing_or_damaged_chunk_of_text_labels_is_refused(tmp_path: Path) -> None:
    X, codes = two_class_data()
    store = tmp_path / "s"
    write_store(store, X, np.array(["no", "yes"])[codes], (100, 6), y_chunk=70)
    path = chunk_file(store, "y", 3)
    path.write_bytes(path.read_bytes()[:-1])
    names(refusal(store), "chunk 3 of y (rows 210 to 279) cannot be decoded")
    path.unlink()
    names(refusal(store), "chunk 3 of y (rows 210 to 279) is missing", "data.missing_chunks: fill")


@pytest.mark.parametrize("layout", [{}, {"shards": (200, 6)}])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_chunks_of_zeros_that_zarr_left_out_are_read_where_that_is_asked_for(
    tmp_path: Path, zarr_format: int, layout: dict[str, Any]
) -> None:
    if zarr_format == 2 and layout:
        pytest.skip("Zarr 2 has no shards")
    X, y = two_class_data()
    X[:200] = np.abs(X[:200])
    X[150:200], X[300:] = 0, 0
    y = np.sort(y)  # sorted: whole chunks of labels are 0, and zarr-python writes none of them
    for every, name in [(True, "whole"), (False, "sparse")]:
        write_store(
            tmp_path / name,
            X,
            y,
            (50, 6),
            y_chunk=50,
            zarr_format=zarr_format,
            every_chunk=every,
            **layout,
        )
    assert (
        len(chunk_paths(tmp_path / "sparse" / "y"))
        < len(chunk_paths(tmp_path / "whole" / "y"))
        == 8
    )
    names(refusal(tmp_path / "sparse"), "data.missing_chunks: fill")
    penalty = {"penalty": {"l2": 0.1}}
    settings = [
        {
            "data": {"store": str(tmp_path / name), "missing_chunks": how},
            "cluster": {"kind": "serial"},
            "model": penalty,
        }
        for name, how in [("whole", "error"), ("sparse", "fill")]
    ]
    whole, sparse = (streamlr.train(setting) for setting in settings)
    assert sparse.model.coef_.tobytes() == whole.model.coef_.tobytes()


@contextmanager
def _as_nobody() -> Iterator[None]:
    """Root may read what nobody may: step down for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs file permissions as POSIX has them")
@pytest.mark.parametrize("direct", [True, False])
def test_a_chunk_that_may_not_be_read_is_refused_and_named(direct: bool) -> None:
    X, y = two_class_data()
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, into which root alone may look
        os.chmod(folder, 0o755)
        source = ZarrSource(write_store(Path(folder) / "s", X, y, (100, 6)), direct=direct)
        path = chunk_file(Path(folder) / "s", "X", 2, 0)
        with _as_nobody():
            source.read_features(0, 400, Buffer())
        path.chmod(0)
        with (
            _as_nobody(),
            pytest.raises(
                ChunkError,
                match=r"chunk 2 of X \(rows 200 to 299\) cannot be (read|decoded): .*Permission "
                r"denied",
            ),
        ):
            source.read_features(0, 400, Buffer())


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("sample_axis", [0, 1])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_values_that_are_not_finite_are_named_by_chunk_row_and_feature(
    tmp_path: Path, dtype: str, sample_axis: int, bad: float
) -> None:
    X, y = two_class_data(dtype=dtype)
    X[270, 1] = X[265, 4] = X[265, 5] = bad  # three in chunk 2; one more in chunk 3
    X[333, 0] = bad
    store = tmp_path / "s"
    config = write_store(store, X, y, (100, 2), sample_axis=sample_axis)
    put(
        zarr.open_group(str(store), mode="r+"),
        "feature_names",
        np.array([f"column {j}" for j in range(6)]),
    )
    error = refusal(store, sample_axis=config.sample_axis)
    assert isinstance(error, NonFiniteError)
    names(
        error,
        f"chunk 2 of X in {store} holds 3 non-finite values (first: {bad} at row 265, feature "
        "'column 4'); clean the source",
    )


@pytest.mark.parametrize("row", [0, 99, 399])
def test_a_value_that_is_not_finite_is_found_even_where_its_row_weighs_nothing(
    tmp_path: Path, row: int
) -> None:
    X, y = two_class_data()
    X[row, 3] = np.nan
    weights = np.ones(400)
    weights[row] = 0
    write_store(tmp_path / "s", X, y, (100, 6), weights=weights)
    names(
        refusal(tmp_path / "s", weights="weights"),
        f"chunk {row // 100} of X",
        "holds 1 non-finite value ",
        f"at row {row}, feature 3",
    )


@pytest.mark.parametrize(
    "y",
    [np.zeros(399), np.zeros(401), np.zeros((400, 1)), np.zeros(())],
    ids=["one short", "one long", "a column", "a scalar"],
)
def test_labels_of_another_shape_are_refused(tmp_path: Path, y: Any) -> None:
    X, _ = two_class_data()
    group = zarr.open_group(str(tmp_path / "s"), mode="w")
    put(group, "X", X, (100, 6))
    put(group, "y", y)
    error = refusal(tmp_path / "s")
    assert isinstance(error, ShapeError)
    names(error, "400 rows", f"y has shape {y.shape}", "expected (400,)")


def test_weights_of_another_shape_are_refused(tmp_path: Path) -> None:
    X, y = two_class_data()
    write_store(tmp_path / "s", X, y, (100, 6), weights=np.ones(4))
    error = refusal(tmp_path / "s", weights="weights")
    assert isinstance(error, ShapeError)
    names(error, "400 rows", "weights has shape (4,)")


def test_features_along_the_wrong_axis_are_refused_with_the_remedy(tmp_path: Path) -> None:
    X, y = two_class_data()
    write_store(tmp_path / "s", X, y, (100, 6), sample_axis=1)
    error = refusal(tmp_path / "s")
    assert isinstance(error, ShapeError)
    names(error, "X in", "has 6 rows (shape (6, 400), sample_axis 0)", "data.sample_axis: 1")


@pytest.mark.parametrize("shape", [(400,), (400, 2, 3), ()])
def test_features_without_two_axes_are_refused(tmp_path: Path, shape: tuple[int, ...]) -> None:
    group = zarr.open_group(str(tmp_path / "s"), mode="w")
    put(group, "X", np.ones(shape))
    put(group, "y", np.arange(400) % 2)
    error = refusal(tmp_path / "s")
    assert isinstance(error, ShapeError)
    names(
        error,
        f"X in {tmp_path / 's'} has shape {shape}",
        "two axes",
        "or name another array in data.features",
    )


@pytest.mark.parametrize("shape", [(0, 5), (5, 0)])
def test_an_empty_store_is_refused(tmp_path: Path, shape: tuple[int, int]) -> None:
    group = zarr.open_group(str(tmp_path / "s"), mode="w")
    group.create_array("X", shape=shape, chunks=(5, 5), dtype="float32")
    group.create_array("y", shape=shape[:1], chunks=(5,), dtype="int8")
    error = refusal(tmp_path / "s")
    assert isinstance(error, ShapeError)
    names(error, f"has shape {shape}", "nothing to train on")


@pytest.mark.parametrize(
    "values",
    [
        np.ones((4, 2), dtype=complex),
        np.array([["a", "b"]] * 4),
        np.zeros((4, 2), dtype="datetime64[s]"),
    ],
    ids=["complex", "text", "dates"],
)
def test_features_of_another_dtype_are_refused(tmp_path: Path, values: Any) -> None:
    group = zarr.open_group(str(tmp_path / "s"), mode="w")
    put(group, "X", values)
    put(group, "y", np.arange(4) % 2)
    error = refusal(tmp_path / "s")
    assert isinstance(error, DtypeError)
    names(
        error,
        f"X in {tmp_path / 's'} has dtype",
        "features must be float16, float32, float64, an integer type or bool",
    )


def test_labels_and_weights_of_another_dtype_are_refused(tmp_path: Path) -> None:
    X, y = two_class_data(4, 2)
    write_store(tmp_path / "s", X, y)
    group = zarr.open_group(str(tmp_path / "s"), mode="r+")
    put(group, "dates", np.zeros(4, dtype="datetime64[s]"))
    put(group, "text", np.array(["a", "b", "a", "b"]))
    for error, name in [
        (refusal(tmp_path / "s", target="dates"), "dates"),
        (refusal(tmp_path / "s", weights="text"), "text"),
    ]:
        assert isinstance(error, DtypeError)
        names(error, f"{name} in {tmp_path / 's'} has dtype")


@pytest.mark.parametrize(
    ("y", "parts"),
    [
        (
            np.ones(400, dtype=np.int64),
            ("holds one class only: 1 (400 rows)", "needs examples of two"),
        ),
        (
            np.arange(400) % 3 / 2,
            (
                "holds 3 classes: 0.0 (134 rows), 0.5 (133 rows), 1.0 (133 rows)",
                "data.target",
                "model.family: linear",
            ),
        ),
        (np.linspace(0, 1, 400), ("holds 400 classes", "look like a quantity")),
    ],
    ids=["one", "three fractions", "all different"],
)
def test_labels_that_are_no_classes_are_refused(
    tmp_path: Path, y: Any, parts: tuple[str, ...]
) -> None:
    X, _ = two_class_data()
    write_store(tmp_path / "s", X, y, (100, 6), y_chunk=70)
    error = refusal(tmp_path / "s")
    assert isinstance(error, LabelError)
    names(error, f"y in {tmp_path / 's'}", *parts)


def test_a_continuous_target_is_refused_as_soon_as_it_shows(tmp_path: Path) -> None:
    y = np.random.default_rng(0).standard_normal(3000)
    write_store(tmp_path / "s", np.ones((3000, 1), dtype=np.float32), y, (100, 1), y_chunk=500)
    error = refusal(tmp_path / "s")
    assert isinstance(error, LabelError)
    names(error, "more than 1000 distinct values", "data.target")


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_labels_that_are_not_finite_are_named_by_row(tmp_path: Path, bad: float) -> None:
    X, y = two_class_data()
    labels = y.astype(np.float64)
    labels[[205, 210]] = bad
    write_store(tmp_path / "s", X, labels, (100, 6))
    error = refusal(tmp_path / "s")
    assert isinstance(error, NonFiniteError)
    names(error, f"y in {tmp_path / 's'} holds 2 non-finite labels", "first at row 205")


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_weights_that_are_negative_or_not_finite_are_named_by_row(
    tmp_path: Path, bad: float
) -> None:
    X, y = two_class_data()
    weights = np.ones(400)
    weights[321] = bad
    write_store(tmp_path / "s", X, y, (100, 6), weights=weights)
    error = refusal(tmp_path / "s", weights="weights")
    assert isinstance(error, NonFiniteError)
    names(
        error,
        f"weights in {tmp_path / 's'} holds 1 weights",
        f"first: {bad} at row 321",
        "0 or above",
    )


def test_a_class_without_weight_is_refused(tmp_path: Path) -> None:
    X, y = two_class_data()
    write_store(tmp_path / "s", X, y, (100, 6), weights=(y == 0).astype(np.float64))
    names(refusal(tmp_path / "s", weights="weights"), "all examples of the class 1 weigh 0")


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_an_array_in_the_place_of_a_group_is_refused(tmp_path: Path, zarr_format: int) -> None:
    X, y = two_class_data()
    write_store(tmp_path / "s", X, y, zarr_format=zarr_format)
    error = refusal(tmp_path / "s" / "X")
    assert isinstance(error, StoreNotFoundError)
    names(error, f"{str(tmp_path / 's' / 'X')!r} is a Zarr array", "data.store must be the group")


def test_a_store_that_is_not_there_is_refused_with_the_nearest_folder(tmp_path: Path) -> None:
    error = refusal(tmp_path / "no" / "such" / "store")
    assert isinstance(error, StoreNotFoundError)
    names(
        error,
        "no store at",
        "does not exist",
        f"the nearest folder that does is {str(tmp_path)!r}",
        "data.store",
    )


@pytest.mark.parametrize("kind", ["an empty folder", "a text file", "a folder of other things"])
def test_what_is_no_store_is_refused(tmp_path: Path, kind: str) -> None:
    store = tmp_path / "s"
    if kind == "a text file":
        store.write_text("no store")
    else:
        store.mkdir()
        if kind != "an empty folder":
            (store / "notes.txt").write_text("no store")
    error = refusal(store)
    assert isinstance(error, StoreNotFoundError)
    remedy = (
        "it is a file; make a store of a table with `streamlr ingest`"
        if kind == "a text file"
        else "check data.store"
    )
    names(error, f"no Zarr group at {str(store)!r}", remedy)


@pytest.mark.parametrize(
    ("data", "parts"),
    [
        ({"features": "Q"}, ("no array 'Q' (data.features)", "it holds X, y")),
        ({"target": "label"}, ("no array 'label' (data.target)", "it holds X, y")),
        ({"weights": "w"}, ("no array 'w' (data.weights)", "it holds X, y")),
        ({"features": "below"}, ("'below' (data.features)", "is a group, not an array")),
    ],
)
def test_an_array_that_is_not_there_is_refused_with_those_that_are(
    tmp_path: Path, data: dict[str, str], parts: tuple[str, ...]
) -> None:
    X, y = two_class_data()
    write_store(tmp_path / "s", X, y)
    zarr.open_group(str(tmp_path / "s"), mode="r+").create_group("below")
    error = refusal(tmp_path / "s", **data)
    assert isinstance(error, StoreNotFoundError)
    names(error, *parts)


@pytest.mark.parametrize(
    ("of", "content"),
    [
        (of, content)
        for of in ("", "X", "y")
        for content in ("", "{", '{"zarr_format": 3, "node_type": "array"}')
    ]
    + [("X", "[]"), ("y", "{}"), ("", "[]")],
)
def test_damaged_metadata_are_refused(tmp_path: Path, of: str, content: str) -> None:
    X, y = two_class_data()
    write_store(tmp_path / "s", X, y)
    (tmp_path / "s" / of / "zarr.json").write_text(content)
    names(refusal(tmp_path / "s"), str(tmp_path / "s"), of)


@pytest.mark.parametrize("kind", ["missing", "damaged"])
def test_a_missing_or_damaged_chunk_of_feature_names_is_refused(tmp_path: Path, kind: str) -> None:
    X, y = two_class_data()
    write_store(tmp_path / "s", X, y)
    put(
        zarr.open_group(str(tmp_path / "s"), mode="r+"),
        "feature_names",
        np.array(list("abcdef")),
        codec="crc32c",
    )
    path = chunk_file(tmp_path / "s", "feature_names", 0)
    if kind == "missing":
        path.unlink()
    else:
        damage_file(path, "a bit flipped")
    names(refusal(tmp_path / "s"), "feature_names")


def test_feature_names_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    X, y = two_class_data()
    write_store(tmp_path / "s", X, y)
    put(zarr.open_group(str(tmp_path / "s"), mode="r+"), "feature_names", np.array(list("abc")))
    error = refusal(tmp_path / "s")
    assert isinstance(error, ShapeError)
    names(error, "has 6 features but 3 feature_names")


@pytest.mark.parametrize("codec", CODECS_V3)
def test_what_the_plain_path_cannot_decode_is_named_too(tmp_path: Path, codec: str) -> None:
    X, y = two_class_data()
    config = write_store(tmp_path / "s", X, y, (100, 3), codec=codec)
    damage_file(chunk_file(tmp_path / "s", "X", 2, 1), "half cut off")
    with pytest.raises(ChunkError, match=r"chunk 2\.1 of X \(rows 200 to 299\) cannot be decoded"):
        ZarrSource(config, direct=False).read_features(0, 400, Buffer())


def test_labels_changed_behind_the_listing_are_refused_by_row(tmp_path: Path) -> None:
    X, y = two_class_data()
    store = tmp_path / "s"
    write_store(store, X, y, (100, 6), y_chunk=100)

    def change(event: Event) -> None:
        if isinstance(event, ScanFinished):
            array: Any = zarr.open_group(str(store), mode="r+")["y"]
            path = chunk_file(store, "y", 0)
            before = path.stat()
            array[7] = 9
            os.utime(
                path, ns=(before.st_atime_ns, before.st_mtime_ns)
            )  # else the time would tell, and earlier

    with pytest.raises(
        LabelError,
        match=r"row 7 has the label .*9.*neither of the classes .*were the labels changed",
    ):
        streamlr.train(
            {"data": {"store": str(store)}, "cluster": {"kind": "serial"}}, subscribers=[change]
        )


def test_an_unharmed_store_is_trained_on(tmp_path: Path) -> None:
    X, y = two_class_data()
    write_store(tmp_path / "s", X, y, (100, 6), weights=np.ones(400))
    result, passes = train(tmp_path / "s", weights="weights")
    assert not isinstance(result, DataError)
    assert result.status == "converged"
    assert passes == result.passes > 0
