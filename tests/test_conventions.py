"""What others write beside an array or a store: where it changes what the values mean the data are
refused, and else it changes nothing."""

from __future__ import annotations

import base64
import gzip
import json
import math
import struct
import tracemalloc
import zlib
from pathlib import Path
from typing import Any, cast

import numcodecs
import numpy as np
import pytest
import zarr
from stores import chunk_paths, put, read_rows, two_class_data, write_store
from test_damage import names, refusal

import streamlr
from streamlr.config.sections import DataConfig
from streamlr.data.chunks.decoding import DamagedChunkError, chunk_decoder
from streamlr.data.describe import describe_store
from streamlr.data.sources.store import ZarrSource
from streamlr.errors import DtypeError, NonFiniteError, ShapeError


def as_xarray_does(value: float) -> str:
    """A float in the attributes of a Zarr 3 array."""
    return base64.b64encode(struct.pack("<d", value)).decode()


# attributes that say what values mean -------------------------------------------------------------


@pytest.mark.parametrize("of", ["X", "y", "weights"])
@pytest.mark.parametrize(
    ("attributes", "told"),
    [
        ({"scale_factor": 0.1}, "scale_factor 0.1"),
        ({"scale_factor": 1.0, "add_offset": -273.15}, "add_offset -273.15"),
        ({"scale_factor": [2.0]}, "scale_factor"),
    ],
    ids=str,
)  # marks of missing values are refused where they occur: test_missing_marks.py
def test_values_that_stand_for_others_are_refused(
    attributes: dict[str, Any], told: str, of: str, tmp_path: Path
) -> None:
    X, y = two_class_data()
    write_store(tmp_path / "s", X, y, (100, 6), weights=np.ones(400))
    zarr.open_array(str(tmp_path / "s"), path=of, mode="r+").attrs.update(attributes)
    error = refusal(tmp_path / "s", weights="weights")
    assert isinstance(error, DtypeError)
    names(error, f"{of} has the attribute {told}", "remove the attribute if")


@pytest.mark.parametrize(
    "attributes",
    [
        {"scale_factor": 1, "add_offset": 0},
        {"scale_factor": [1.0]},
        {"_FillValue": "NaN"},
        {"_FillValue": math.nan},
        {"_FillValue": as_xarray_does(math.nan)},
        {"units": "K", "valid_range": [0, 1]},
    ],
    ids=str,
)
def test_attributes_that_change_no_value_change_nothing(
    attributes: dict[str, Any], tmp_path: Path
) -> None:
    X, y = two_class_data()
    config = write_store(tmp_path / "s", X, y, (100, 6))
    zarr.open_array(str(tmp_path / "s"), path="X", mode="r+").attrs.update(attributes)
    np.testing.assert_array_equal(read_rows(ZarrSource(config), 100), X)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("sample_axis", [0, 1])
def test_a_square_whose_axes_are_named_is_not_read_the_wrong_way_round(
    sample_axis: int, zarr_format: Any, tmp_path: Path
) -> None:
    X, y = two_class_data(rows=6)
    y[:2] = 0, 1
    group = zarr.open_group(str(tmp_path / "s"), mode="w", zarr_format=zarr_format)
    for name, values, axes in (
        (
            "X",
            X.T if sample_axis else X,
            ["feature", "sample"] if sample_axis else ["sample", "feature"],
        ),
        ("y", y, ["sample"]),
    ):
        array = put(group, name, values, **({"dimension_names": axes} if zarr_format == 3 else {}))
        if zarr_format == 2:
            array.attrs["_ARRAY_DIMENSIONS"] = axes
    error = refusal(tmp_path / "s", sample_axis=1 - sample_axis)
    assert isinstance(error, ShapeError)
    names(
        error,
        "'sample'",
        f"lie along axis {sample_axis}, and data.sample_axis is {1 - sample_axis}; set "
        f"data.sample_axis: {sample_axis}",
    )
    right = DataConfig(store=str(tmp_path / "s"), sample_axis=cast(Any, sample_axis))
    np.testing.assert_array_equal(read_rows(ZarrSource(right), 6), X)


@pytest.mark.parametrize("axes", [["sample", "sample"], ["row", "column"], ["feature", "other"]])
def test_names_of_axes_that_tell_nothing_are_passed_over(axes: list[str], tmp_path: Path) -> None:
    X, y = two_class_data()
    group = zarr.open_group(str(tmp_path / "s"), mode="w")
    put(group, "X", X, dimension_names=axes)
    put(group, "y", y, dimension_names=["sample"])
    assert ZarrSource(DataConfig(store=str(tmp_path / "s"))).n_rows == 400


# values that stand for nothing --------------------------------------------------------------------


def test_rows_of_no_group_are_named(tmp_path: Path) -> None:
    X, y = two_class_data()
    write_store(tmp_path / "s", X, y, (100, 6))
    put(
        zarr.open_group(str(tmp_path / "s"), mode="r+"),
        "g",
        np.where(np.arange(400) % 100 == 50, np.nan, 1.0),
        (100,),
    )
    error = refusal(tmp_path / "s", groups="g")
    assert isinstance(error, NonFiniteError)
    names(error, "g in", "not finite", "first: nan at row 50")


@pytest.mark.parametrize(
    ("family", "value"), [("linear", 1e300), ("linear", -1e155), ("poisson", 1e200)]
)
def test_a_target_whose_square_overflows_is_named(
    family: str, value: float, tmp_path: Path
) -> None:
    X, y = two_class_data()
    config = write_store(tmp_path / "s", X, np.where(np.arange(400) == 250, value, y), (100, 6))
    with pytest.raises(
        NonFiniteError,
        match=rf"row 250 has the target {value:g}; its square overflows.*rescale".replace(
            "+", r"\+"
        ),
    ):
        streamlr.train(
            {
                "data": {"store": config.store},
                "model": {"family": family},
                "cluster": {"kind": "serial"},
            }
        )


@pytest.mark.parametrize("kind", ["serial", "threads"])
def test_targets_whose_squares_do_not_add_up_are_refused(kind: str, tmp_path: Path) -> None:
    X, y = two_class_data()
    config = write_store(
        tmp_path / "s", X, y * 1.2e154, (100, 6)
    )  # each square is a number, and two together are none
    with pytest.raises(
        NonFiniteError,
        match=r"the numbers of y in .* are so large that the sum of their squares overflows; "
        r"rescale",
    ):
        streamlr.train(
            {
                "data": {"store": config.store},
                "model": {"family": "linear"},
                "cluster": {"kind": kind},
            }
        )


# chunks that unfold -------------------------------------------------------------------------------

_BOMB_BYTES = 2**28
BOMBS = {
    "gzip": lambda: gzip.compress(bytes(_BOMB_BYTES), 1),
    "zlib": lambda: zlib.compress(bytes(_BOMB_BYTES), 1),
    "zstd": lambda: numcodecs.Zstd(1).encode(bytes(_BOMB_BYTES)),
    "blosc lz4": lambda: numcodecs.Blosc("lz4").encode(bytes(_BOMB_BYTES)),
}


@pytest.mark.parametrize("codec", list(BOMBS))
def test_a_small_chunk_that_unfolds_to_much_is_refused_before_it_does(
    codec: str, tmp_path: Path
) -> None:
    X, y = two_class_data()
    config = write_store(
        tmp_path / "s", X, y, (100, 6), codec=codec, zarr_format=2 if codec == "zlib" else 3
    )
    chunk_paths(tmp_path / "s" / "X")[2].write_bytes(BOMBS[codec]())
    source = ZarrSource(config)
    read_rows(source, 100, 0, 100)
    tracemalloc.start()
    try:
        names(
            refusal(tmp_path / "s"),
            "chunk 2 of X (rows 200 to 299) is damaged: it decodes to",
            "2400",
        )
        assert tracemalloc.get_traced_memory()[1] < _BOMB_BYTES / 8
    finally:
        tracemalloc.stop()


def test_a_gzip_chunk_of_several_members_is_read_and_cut_ones_are_refused() -> None:
    values = np.arange(1000, dtype="<f4").reshape(100, 10)
    raw = values.tobytes()
    decoder = chunk_decoder([{"name": "bytes"}, {"name": "gzip"}])
    assert decoder is not None
    out = np.empty_like(values)
    decoder.decode(gzip.compress(raw[:1700]) + gzip.compress(raw[1700:]), out)
    np.testing.assert_array_equal(out, values)
    for wrong in (
        gzip.compress(raw)[:-1],
        gzip.compress(raw) + b"x",
        gzip.compress(raw) * 2,
        gzip.compress(raw[:1700]),
        zlib.compress(raw),
        b"",
    ):
        with pytest.raises(DamagedChunkError):
            decoder.decode(wrong, out)


# what stands beside -------------------------------------------------------------------------------


def leave_files(store: Path) -> None:
    """As network file systems, writers that were killed and other systems do."""
    for name in (".nfs0000000", "0.3f2a.partial", "Thumbs.db"):
        (store / "X" / "c" / "2" / name).write_bytes(b"x" * 99)
    (store / "X" / "c" / "9").mkdir()
    (store / "X" / "c" / "9" / "0").write_bytes(b"of an array that had more rows")


def consolidate_and_lie(store: Path) -> None:
    zarr.consolidate_metadata(str(store))
    path = store / "zarr.json"
    metadata = json.loads(path.read_text())
    metadata["consolidated_metadata"]["metadata"]["X"]["shape"] = [300, 6]
    path.write_text(json.dumps(metadata))


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("beside", [leave_files, consolidate_and_lie])
def test_what_is_no_part_of_an_array_changes_nothing(beside: Any, tmp_path: Path) -> None:
    X, y = two_class_data()
    config = write_store(tmp_path / "s", X, y, (100, 6))
    settings = {"data": {"store": config.store}, "cluster": {"kind": "serial"}}
    before = streamlr.train(settings).model.coefficients_sha256
    beside(tmp_path / "s")
    assert streamlr.train(settings).model.coefficients_sha256 == before


def test_feature_names_that_are_there_twice_are_a_problem_and_no_error(tmp_path: Path) -> None:
    X, y = two_class_data()
    config = write_store(tmp_path / "s", X, y, (100, 6))
    zarr.open_group(str(tmp_path / "s"), mode="r+").attrs["feature_names"] = [
        "age",
        "dose",
        "age",
        "a",
        "b",
        "c",
    ]
    assert any(
        "feature_names has 'age' 2 times" in problem
        for problem in describe_store(ZarrSource(config))["problems"]
    )
