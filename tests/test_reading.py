"""Reading: whatever the layout of a store, the values are those that were written, and the fast
path equals the plain one to the bit."""

from __future__ import annotations

import pickle
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import (
    CODECS_V2,
    CODECS_V3,
    DTYPES,
    any_values,
    bits,
    chunk_paths,
    put,
    read_rows,
    two_class_data,
    write_store,
)
from zarr.codecs import BytesCodec, Crc32cCodec, ShardingCodec, TransposeCodec

import streamlr
from streamlr.config.sections import DataConfig
from streamlr.data.source import Buffer
from streamlr.data.sources.store import ZarrSource


def assert_reads(
    config: DataConfig, X: Any, *, step: int = 17, direct: bool | None = True
) -> ZarrSource:
    """Both ways of reading give the bits of X, in blocks that do not fit the chunks; ``direct``:
    whether the fast path must be taken."""
    fast, plain = ZarrSource(config), ZarrSource(config, direct=False)
    if direct is not None:
        assert fast.features.reads_files is direct
    assert not plain.features.reads_files
    assert bits(read_rows(fast, step)) == bits(X)
    assert bits(read_rows(plain, step)) == bits(X)
    return fast


@pytest.mark.parametrize("sample_axis", [0, 1])
@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_of_the_contract_is_read_to_the_bit(
    tmp_path: Path, dtype: str, zarr_format: int, sample_axis: int
) -> None:
    X = any_values(dtype, (53, 7))
    config = write_store(
        tmp_path / "s",
        X,
        np.arange(53) % 2,
        (10, 3),
        sample_axis=sample_axis,
        zarr_format=zarr_format,
        codec="blosc lz4",
    )
    source = assert_reads(config, X)
    assert (source.dtype, source.n_rows, source.n_features) == (np.dtype(dtype), 53, 7)


@pytest.mark.parametrize("sample_axis", [0, 1])
@pytest.mark.parametrize(
    ("zarr_format", "codec"),
    [(2, codec) for codec in CODECS_V2] + [(3, codec) for codec in CODECS_V3],
)
def test_every_codec_is_read_to_the_bit(
    tmp_path: Path, zarr_format: int, codec: str, sample_axis: int
) -> None:
    X = any_values("float32", (64, 5))
    X[:40] = 1.5  # some chunks that compress, some that do not
    assert_reads(
        write_store(
            tmp_path / "s",
            X,
            np.arange(64) % 2,
            (16, 5),
            sample_axis=sample_axis,
            zarr_format=zarr_format,
            codec=codec,
        ),
        X,
    )


@pytest.mark.parametrize("sample_axis", [0, 1])
@pytest.mark.parametrize("codec", CODECS_V3)
def test_every_codec_inside_shards_is_read_to_the_bit(
    tmp_path: Path, codec: str, sample_axis: int
) -> None:
    X = any_values("float64", (70, 9))
    assert_reads(
        write_store(
            tmp_path / "s",
            X,
            np.arange(70) % 2,
            (8, 3),
            shards=(24, 6),
            sample_axis=sample_axis,
            codec=codec,
        ),
        X,
    )


@pytest.mark.parametrize("location", ["start", "end"])
@pytest.mark.parametrize("checksummed", [True, False])
def test_shard_indices_are_found_at_either_end(
    tmp_path: Path, location: str, checksummed: bool
) -> None:
    X, y = two_class_data(64, 4)
    group = zarr.open_group(str(tmp_path / "s"), mode="w", zarr_format=3)
    index = [BytesCodec(), Crc32cCodec()] if checksummed else [BytesCodec()]
    _put_sharded(
        group,
        X,
        ShardingCodec(
            chunk_shape=(8, 4), codecs=[BytesCodec()], index_codecs=index, index_location=location
        ),
    )
    put(group, "y", y)
    assert_reads(DataConfig(store=str(tmp_path / "s")), X)


def test_a_shard_index_of_the_other_byte_order_is_read(tmp_path: Path) -> None:
    X, y = two_class_data(64, 4)
    group = zarr.open_group(str(tmp_path / "s"), mode="w", zarr_format=3)
    index = [BytesCodec(endian="big"), Crc32cCodec()]
    _put_sharded(
        group, X, ShardingCodec(chunk_shape=(8, 4), codecs=[BytesCodec()], index_codecs=index)
    )
    put(group, "y", y)
    assert_reads(DataConfig(store=str(tmp_path / "s")), X, direct=None)


def _put_sharded(group: zarr.Group, X: Any, sharding: ShardingCodec) -> None:
    """create_array has no parameter for the codecs of a shard's index."""
    zarr.create(
        store=group.store,
        path="X",
        shape=X.shape,
        chunks=(32, 4),
        dtype=X.dtype,
        zarr_format=3,
        codecs=[sharding],
    )[...] = X


@pytest.mark.parametrize(
    "chunks",
    [
        pytest.param((312, 13), id="chunked along the features, as zarr's automatic chunks are"),
        pytest.param((1000, 1), id="one feature a chunk"),
        pytest.param((1, 20), id="one row a chunk"),
        pytest.param((333, 20), id="last chunk of one row"),
        pytest.param((5000, 64), id="chunk larger than the array"),
        pytest.param((1000, 20), id="one chunk"),
        pytest.param((128, 7), id="short edges on both axes"),
    ],
)
@pytest.mark.parametrize("sample_axis", [0, 1])
def test_any_chunking_of_either_axis_is_read(
    tmp_path: Path, chunks: tuple[int, int], sample_axis: int
) -> None:
    X = any_values("int32", (1000, 20))
    source = assert_reads(
        write_store(tmp_path / "s", X, np.arange(1000) % 2, chunks, sample_axis=sample_axis),
        X,
        step=129,
    )
    assert source.chunk_rows == chunks[0]


@pytest.mark.parametrize("sample_axis", [0, 1])
@pytest.mark.parametrize(
    "window",
    [(0, 1), (99, 101), (99, 100), (100, 200), (37, 263), (297, 303), (302, 303), (0, 303)],
)
def test_any_window_of_rows_is_read_at_full_width(
    tmp_path: Path, window: tuple[int, int], sample_axis: int
) -> None:
    X = any_values("float32", (303, 6))
    config = write_store(tmp_path / "s", X, np.arange(303) % 2, (100, 4), sample_axis=sample_axis)
    for direct in (True, False):
        source = ZarrSource(config, direct=direct)
        assert bits(source.read_features(*window, Buffer()).T) == bits(X[window[0] : window[1]])


@pytest.mark.parametrize("sample_axis", [0, 1])
def test_features_arrive_as_features_by_examples_in_the_memory_order_of_the_store(
    tmp_path: Path, sample_axis: int
) -> None:
    X, y = two_class_data(200, 6)
    block = ZarrSource(
        write_store(tmp_path / "s", X, y, (100, 6), sample_axis=sample_axis)
    ).read_features(0, 100, Buffer())
    assert block.shape == (6, 100)
    assert block.flags.f_contiguous if sample_axis == 0 else block.flags.c_contiguous


def test_a_buffer_that_held_a_larger_block_does_not_leak_into_a_smaller_one(tmp_path: Path) -> None:
    X = any_values("float32", (250, 5))
    source = ZarrSource(write_store(tmp_path / "s", X, np.arange(250) % 2, (50, 2)))
    buffer = Buffer()
    for start, stop in [(0, 250), (240, 250), (0, 10), (99, 151)]:
        assert bits(source.read_features(start, stop, buffer).T) == bits(X[start:stop])


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", ["float32", "int16", "uint64"])
def test_values_of_the_other_byte_order_are_read(
    tmp_path: Path, dtype: str, zarr_format: int
) -> None:
    X = any_values(dtype, (40, 3))
    group = zarr.open_group(str(tmp_path / "s"), mode="w", zarr_format=zarr_format)
    if zarr_format == 2:
        put(group, "X", X.astype(np.dtype(dtype).newbyteorder(">")), (16, 3), codec="zstd")
    else:
        put(group, "X", X, (16, 3), codec="zstd", serializer=BytesCodec(endian="big"))
    put(group, "y", np.arange(40) % 2)
    assert_reads(DataConfig(store=str(tmp_path / "s")), X, direct=False)


@pytest.mark.parametrize("sample_axis", [0, 1])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_chunks_stored_by_columns_are_read(
    tmp_path: Path, zarr_format: int, sample_axis: int
) -> None:
    X = any_values("float32", (40, 3))
    options: Any = (
        {"order": "F"} if zarr_format == 2 else {"filters": [TransposeCodec(order=(1, 0))]}
    )
    config = write_store(
        tmp_path / "s",
        X,
        np.arange(40) % 2,
        (16, 2),
        zarr_format=zarr_format,
        sample_axis=sample_axis,
        **options,
    )
    assert_reads(config, X, direct=False)


@pytest.mark.parametrize(
    "encoding",
    [
        {"name": "v2", "separator": "."},
        {"name": "v2", "separator": "/"},
        {"name": "default", "separator": "."},
    ],
)
def test_every_naming_of_chunk_files_is_read(tmp_path: Path, encoding: Any) -> None:
    X = any_values("float32", (40, 6))
    assert_reads(
        write_store(tmp_path / "s", X, np.arange(40) % 2, (16, 2), chunk_key_encoding=encoding), X
    )


def test_zarr_2_arrays_in_nested_folders_are_read(tmp_path: Path) -> None:
    X = any_values("float32", (40, 6))
    config = write_store(
        tmp_path / "s",
        X,
        np.arange(40) % 2,
        (16, 2),
        zarr_format=2,
        chunk_key_encoding={"name": "v2", "separator": "/"},
    )
    assert (tmp_path / "s" / "X" / "0").is_dir()
    assert_reads(config, X)


@st.composite
def _layouts(draw: st.DrawFn) -> dict[str, Any]:
    rows, features = draw(st.integers(1, 40)), draw(st.integers(1, 9))
    chunks = (draw(st.integers(1, rows + 3)), draw(st.integers(1, features + 2)))
    layout: dict[str, Any] = {
        "shape": (rows, features),
        "chunks": chunks,
        "sample_axis": draw(st.integers(0, 1)),
        "y_chunk": draw(st.integers(1, rows)),
        "dtype": draw(st.sampled_from(DTYPES)),
        "zarr_format": draw(st.sampled_from([2, 3])),
        "options": {},
    }
    layout["codec"] = draw(
        st.sampled_from(sorted(CODECS_V2 if layout["zarr_format"] == 2 else CODECS_V3))
    )
    if layout["zarr_format"] == 3 and draw(st.booleans()):
        layout["options"] = {
            "shards": (chunks[0] * draw(st.integers(1, 4)), chunks[1] * draw(st.integers(1, 3)))
        }
    start = draw(st.integers(0, rows - 1))
    layout["window"] = (start, draw(st.integers(start + 1, rows)))
    layout["step"] = draw(st.integers(1, rows))
    return layout


@settings(max_examples=60, deadline=None, derandomize=True)
@given(layout=_layouts())
def test_values_do_not_depend_on_the_partition_into_chunks(layout: dict[str, Any]) -> None:
    X = any_values(layout["dtype"], layout["shape"])
    y = np.arange(len(X), dtype=np.int32)
    start, stop = layout["window"]
    with tempfile.TemporaryDirectory() as folder:
        config = write_store(
            Path(folder) / "s",
            X,
            y,
            layout["chunks"],
            y_chunk=layout["y_chunk"],
            sample_axis=layout["sample_axis"],
            zarr_format=layout["zarr_format"],
            codec=layout["codec"],
            **layout["options"],
        )
        for direct in (True, False):
            source = ZarrSource(config, direct=direct)
            assert bits(read_rows(source, layout["step"], start, stop)) == bits(X[start:stop])
            assert source.read_columns(start, stop).target.tolist() == y[start:stop].tolist()


LABELS: dict[str, Any] = {
    "int8": np.array([-1, 1], dtype=np.int8),
    "int64": np.array([3, 2**60]),
    "uint8": np.array([0, 255], dtype=np.uint8),
    "bool": np.array([False, True]),
    "float32": np.array([0.5, 2.0], dtype=np.float32),
    "float64": np.array([-1.0, 1.0]),
    "str": np.array(["healthy", "ill, ümlaut ☂"]),
}


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("y_chunk", [1, 7, 100, 1000])
@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_every_kind_are_read_though_their_chunks_differ_from_those_of_the_features(
    tmp_path: Path, kind: str, y_chunk: int, direct: bool
) -> None:
    y = LABELS[kind][np.random.default_rng(1).integers(0, 2, 30 if y_chunk == 1 else 230)]
    X = np.zeros((len(y), 2), dtype=np.float32)
    source = ZarrSource(write_store(tmp_path / "s", X, y, (64, 2), y_chunk=y_chunk), direct=direct)
    for start, stop in [(0, len(y)), (0, 8), (6, 15), (len(y) - 1, len(y)), (5, len(y) - 3)]:
        assert source.read_columns(start, stop).target.tolist() == y[start:stop].tolist()


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("kind", LABELS)
def test_training_keeps_the_labels_as_they_are_stored(
    tmp_path: Path, kind: str, zarr_format: int
) -> None:
    X, codes = two_class_data()
    config = write_store(
        tmp_path / "s", X, LABELS[kind][codes], (100, 6), y_chunk=70, zarr_format=zarr_format
    )
    result = streamlr.train({"data": {"store": config.store}, "cluster": {"kind": "serial"}})
    assert result.model.classes_.tolist() == LABELS[kind].tolist()
    reference = streamlr.train({"cluster": {"kind": "serial"}}, X=X, y=codes)
    # same rows and labels, other blocks: the optimum is one, and each solve ends within the
    # tolerance of 1e-8 of it in gradient
    np.testing.assert_allclose(result.model.coef_, reference.model.coef_, rtol=1e-6)


def test_fixed_width_byte_labels_and_names_are_text(tmp_path: Path) -> None:
    X, codes = two_class_data(40, 2)
    write_store(tmp_path / "s", X, codes, zarr_format=2)
    group = zarr.open_group(str(tmp_path / "s"), mode="r+")
    for name, values in (
        ("label", np.array([b"no", b"yes"])[codes]),
        ("feature_names", np.array([b"age", b"bp"])),
    ):
        group.create_array(name, shape=values.shape, dtype=values.dtype)[...] = values
    source = ZarrSource(DataConfig(store=str(tmp_path / "s"), target="label"))
    assert source.feature_names == ("age", "bp")
    assert source.read_columns(0, 40).target.tolist() == np.array(["no", "yes"])[codes].tolist()


@pytest.mark.parametrize("direct", [True, False])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_weights_are_read_as_float64(tmp_path: Path, dtype: str, direct: bool) -> None:
    weights = np.arange(50).astype(dtype)
    source = ZarrSource(
        write_store(
            tmp_path / "s",
            np.ones((50, 2)),
            np.arange(50) % 2,
            (20, 2),
            y_chunk=13,
            weights=weights,
        ),
        direct=direct,
    )
    found = source.read_columns(11, 41).weights
    assert found is not None
    assert found.dtype == np.float64
    assert found.tolist() == weights[11:41].tolist()


def _fills() -> list[Any]:
    return [
        (fill, zarr_format, direct)
        for fill in (0, 7, None)
        for zarr_format in (2, 3)
        for direct in (True, False)
    ]


@pytest.mark.parametrize(("fill_value", "zarr_format", "direct"), _fills())
@pytest.mark.parametrize("dtype", ["float32", "int16"])
def test_absent_chunks_read_as_zarr_reads_them_where_that_is_asked_for(
    tmp_path: Path, dtype: str, fill_value: Any, zarr_format: int, direct: bool
) -> None:
    X = any_values(dtype, (60, 4))
    config = write_store(
        tmp_path / "s",
        X,
        np.arange(60) % 2,
        (20, 3),
        zarr_format=zarr_format,
        fill_value=fill_value,
    )
    chunk_paths(tmp_path / "s" / "X")[2].unlink()
    expected = zarr.open_array(str(tmp_path / "s"), path="X", mode="r")[...]
    source = ZarrSource(replace(config, missing_chunks="fill"), direct=direct)
    source.check_chunks()
    assert bits(read_rows(source, 25)) == bits(np.asarray(expected))


@pytest.mark.parametrize("kind", ["array", "attribute"])
def test_names_of_features_come_from_an_array_or_an_attribute(tmp_path: Path, kind: str) -> None:
    X, y = two_class_data(40, 2)
    config = write_store(tmp_path / "s", X, y)
    group = zarr.open_group(str(tmp_path / "s"), mode="r+")
    if kind == "array":
        put(group, "feature_names", np.array(["age", "blood pressure"]))
    else:
        group.attrs["feature_names"] = ["age", "blood pressure"]
    assert ZarrSource(config).feature_names == ("age", "blood pressure")


def test_arrays_may_lie_in_groups_below_and_have_any_name(tmp_path: Path) -> None:
    X, y = two_class_data(40, 3)
    group = zarr.open_group(str(tmp_path / "s"), mode="w")
    put(group, "layers/counts", X, (16, 3))
    put(group, "obs/ill", y)
    assert_reads(
        DataConfig(store=str(tmp_path / "s"), features="layers/counts", target="obs/ill"), X
    )


def test_a_file_url_is_read_as_directly_as_a_path(tmp_path: Path) -> None:
    X, y = two_class_data(40, 3)
    config = write_store(tmp_path / "s", X, y, (16, 3))
    assert_reads(replace(config, store=f"file://{tmp_path / 's'}"), X)


def test_stale_consolidated_metadata_are_not_believed(tmp_path: Path) -> None:
    X, y = two_class_data(40, 3)
    config = write_store(tmp_path / "s", X[:30], y[:30], (10, 3), y_chunk=10, zarr_format=2)
    zarr.consolidate_metadata(str(tmp_path / "s"))
    group = zarr.open_group(str(tmp_path / "s"), mode="r+", use_consolidated=False)
    for name, values in (("X", X), ("y", y)):
        array: Any = group[name]
        array.resize(values.shape)
        array[30:] = values[30:]
    assert_reads(config, X)


@pytest.mark.parametrize("direct", [True, False])
def test_a_source_that_travelled_reads_the_same(tmp_path: Path, direct: bool) -> None:
    X = any_values("float32", (40, 3))
    source = ZarrSource(write_store(tmp_path / "s", X, np.arange(40) % 2, (16, 3)), direct=direct)
    there = pickle.loads(pickle.dumps(source))
    assert there.features.reads_files is direct
    assert bits(read_rows(there, 7)) == bits(X)


def test_a_worker_that_outlives_a_store_reads_the_one_that_took_its_place(tmp_path: Path) -> None:
    X, y = two_class_data(40, 3)
    before = ZarrSource(write_store(tmp_path / "s", X, y, (16, 3)))
    assert bits(read_rows(pickle.loads(pickle.dumps(before)), 7)) == bits(X)
    other = X.astype(np.int32) + 1  # as many bytes: only the metadata tell
    after = ZarrSource(write_store(tmp_path / "s", other, y, (16, 3)))
    assert bits(read_rows(pickle.loads(pickle.dumps(after)), 7)) == bits(other)


def test_training_takes_the_same_path_to_the_bit_however_chunks_are_encoded(tmp_path: Path) -> None:
    X, y = two_class_data()
    prints = set()
    for at, (codec, options) in enumerate(
        [
            ("raw", {}),
            ("blosc lz4, crc32c", {}),
            ("gzip", {"shards": (200, 6)}),
            ("zstd", {"chunks": (100, 2)}),
            ("raw", {"filters": [TransposeCodec(order=(1, 0))]}),
        ]
    ):
        config = write_store(
            tmp_path / str(at), X, y, options.pop("chunks", (100, 6)), codec=codec, **options
        )  # type: ignore[arg-type]
        result = streamlr.train({"data": {"store": config.store}, "cluster": {"kind": "serial"}})
        prints.add(result.summary["coefficients_sha256"])
    assert len(prints) == 1
