"""What `streamlr info` finds out about a store, and which problems it names."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from batches import batch_of
from click.testing import CliRunner
from stores import CHECKSUMMED, CODECS_V3, chunk_paths, put, two_class_data, write_store

from streamlr.cli.main import cli
from streamlr.config.sections import DataConfig
from streamlr.data.describe import describe_store
from streamlr.data.sources.store import ZarrSource
from streamlr.kernels.batch import Workspace
from streamlr.kernels.fold import fold
from streamlr.kernels.scans.target import TargetScan


def describe(config: DataConfig, family: str = "logistic") -> dict[str, Any]:
    found = describe_store(ZarrSource(config), family)
    assert json.loads(json.dumps(found)) == found  # goes out as JSON as it is
    return found


@pytest.mark.parametrize("sample_axis", [0, 1])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_shapes_chunks_and_sizes_are_those_of_the_store(
    tmp_path: Path, zarr_format: int, sample_axis: int
) -> None:
    X, y = two_class_data()
    config = write_store(
        tmp_path / "s",
        X,
        y,
        (100, 3),
        y_chunk=70,
        sample_axis=sample_axis,
        zarr_format=zarr_format,
        codec="zstd",
    )
    put(zarr.open_group(str(tmp_path / "s"), mode="r+"), "feature_names", np.array(list("abcdef")))
    found = describe(config)
    assert (found["store"], found["rows"], found["features"], found["dtype"]) == (
        str(tmp_path / "s"),
        400,
        6,
        "float32",
    )
    assert found["sample_axis"] == sample_axis
    assert found["data_bytes"] == 400 * 6 * 4
    assert found["stored_bytes"] == sum(
        path.stat().st_size for name in "Xy" for path in chunk_paths(tmp_path / "s" / name)
    )
    assert found["feature_names"] == list("abcdef")
    features, target = found["arrays"]
    assert (features["name"], features["n_chunks"], features["zarr_format"], features["read"]) == (
        "X",
        8,
        zarr_format,
        "directly",
    )
    assert features["shape"] == ([400, 6] if sample_axis == 0 else [6, 400])
    assert features["chunks"] == ([100, 3] if sample_axis == 0 else [3, 100])
    assert "zstd" in features["codecs"]
    assert (target["name"], target["shape"], target["chunks"], target["n_chunks"]) == (
        "y",
        [400],
        [70],
        6,
    )


def test_shards_and_their_chunks_are_told_apart(tmp_path: Path) -> None:
    X, y = two_class_data()
    features = describe(
        write_store(tmp_path / "s", X, y, (50, 6), shards=(200, 6), codec="crc32c")
    )["arrays"][0]
    assert (
        features["chunks"],
        features["shards"],
        features["n_chunks"],
        features["checksummed"],
    ) == ([50, 6], [200, 6], 8, True)


@pytest.mark.parametrize("codec", CODECS_V3)
def test_stores_without_checksums_are_a_problem(tmp_path: Path, codec: str) -> None:
    X, y = two_class_data()
    config = write_store(tmp_path / "s", X, y, (100, 6), codec=codec)
    found = describe(config)
    assert found["arrays"][0]["checksummed"] is (codec in CHECKSUMMED)
    assert any("X has no checksums" in problem for problem in found["problems"]) is (
        codec not in CHECKSUMMED
    )


@pytest.mark.parametrize(
    "labels", [[0, 1], [-1, 1], [False, True], [0.5, 2.0], ["ill", "well"]], ids=str
)
def test_classes_are_counted_with_their_weights(tmp_path: Path, labels: list[Any]) -> None:
    X, y = two_class_data()
    weights = np.arange(400) / 4  # quarters: their sums are exact in any order
    found = describe(
        write_store(tmp_path / "s", X, np.array(labels)[y], (100, 6), y_chunk=30, weights=weights)
    )
    assert found["classes"] == [
        {"label": label, "rows": int((y == k).sum()), "weight": float(weights[y == k].sum())}
        for k, label in enumerate(labels)
    ]


def test_without_weights_each_row_weighs_one(tmp_path: Path) -> None:
    X, y = two_class_data()
    assert [
        (entry["rows"], entry["weight"])
        for entry in describe(write_store(tmp_path / "s", X, y))["classes"]
    ] == [(int((y == 0).sum()), float((y == 0).sum())), (int(y.sum()), float(y.sum()))]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("family", ["logistic", "linear", "poisson"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "uint64"])
def test_numbers_are_told_by_their_range_and_mean(
    tmp_path: Path, dtype: str, family: str, weighted: bool
) -> None:
    X, _ = two_class_data()
    rng = np.random.default_rng(1)
    y = (rng.poisson(3.0, 400) if dtype[0] in "iu" else rng.gamma(2.0, 3.0, 400)).astype(dtype)
    weights = rng.random(400) if weighted else None
    found = describe(
        write_store(tmp_path / "s", X, y, (100, 6), y_chunk=30, weights=weights), family
    )
    target, counts = found["target"], dtype[0] in "iu"
    mean = math.fsum(y.astype(float) * (np.ones(400) if weights is None else weights)) / (
        400 if weights is None else math.fsum(weights)
    )
    assert target["mean"] == pytest.approx(
        mean, rel=400 * np.finfo(float).eps
    )  # a rounding or two for each row at most: all terms are positive
    assert (target["least"], target["largest"], target["whole_numbers"], target["distinct"]) == (
        y.min(),
        y.max(),
        counts,
        len(set(y.tolist())),
    )
    assert bool(found["classes"]) is (counts and family == "logistic")
    assert not any("classes" in problem for problem in found["problems"])


def test_a_quantity_of_more_values_than_there_can_be_classes_is_no_problem(tmp_path: Path) -> None:
    y = np.random.default_rng(1).standard_normal(3000)
    for values, whole in ((y, False), (np.arange(3000) - 2**53, True)):
        found = describe(write_store(tmp_path / "s", np.zeros((3000, 1)), values, y_chunk=400))
        assert (
            found["classes"],
            found["target"]["distinct"],
            found["target"]["whole_numbers"],
        ) == ([], None, whole)
        assert (found["target"]["least"], found["target"]["largest"]) == (
            values.min(),
            values.max(),
        )
        assert [problem for problem in found["problems"] if not problem.endswith("unnoticed")] == []


def test_the_mean_of_numbers_near_the_largest_is_finite(tmp_path: Path) -> None:
    largest = 1e154  # near the largest of which there is a square
    found = describe(
        write_store(tmp_path / "s", np.zeros((300, 1)), np.full(300, largest), y_chunk=100),
        "linear",
    )
    assert found["target"]["mean"] == pytest.approx(largest, rel=1e-13)
    assert any(
        "y is 1e+154 in every row: there is nothing to learn" in problem
        for problem in found["problems"]
    )


@pytest.mark.parametrize(
    ("family", "y", "problem"),
    [
        (
            "poisson",
            np.arange(400.0) - 1,
            "row 0 has the target -1; the family poisson is fitted to numbers of 0 or above",
        ),
        ("linear", np.where(np.arange(400) == 123, np.nan, 0.5), "row 123 has the target nan"),
        (
            "linear",
            np.array(["ill", "well"])[np.arange(400) % 2],
            "the family linear is fitted to numbers",
        ),
        ("poisson", np.zeros(400), "y is 0.0 in every row"),
    ],
)
def test_targets_that_the_family_is_not_fitted_to_are_a_problem(
    tmp_path: Path, family: str, y: Any, problem: str
) -> None:
    assert any(
        problem in found
        for found in describe(
            write_store(tmp_path / "s", np.zeros((400, 1)), y, y_chunk=100), family
        )["problems"]
    )


@pytest.mark.parametrize(
    ("y", "lines"),
    [
        (np.arange(400) % 2, ["class 0: 200 rows", "class 1: 200 rows"]),
        (
            np.array(["ill", "well", "?"])[np.arange(400) % 3],
            ["class '?': 133 rows", "class 'ill': 134 rows", "class 'well': 133 rows"],
        ),
        (
            np.arange(400) / 4,
            [
                "target: numbers from 0 to 99.75, mean 49.875, 400 distinct: a quantity "
                "(model.family: linear)"
            ],
        ),
        (
            -(np.arange(400) % 3),
            [
                "target: whole numbers from -2 to 0, mean -0.9975, 3 distinct: classes or a "
                "quantity (model.family: linear)",
                "class -2: 133 rows",
                "class -1: 133 rows",
                "class 0: 134 rows",
            ],
        ),
        (
            np.arange(3000),
            [
                "target: whole numbers from 0 to 2999, mean 1499.5: counts (model.family: "
                "poisson) or a quantity (model.family: linear)"
            ],
        ),
    ],
)
def test_the_command_names_classes_of_labels_and_the_range_of_a_quantity(
    tmp_path: Path, y: Any, lines: list[str]
) -> None:
    write_store(tmp_path / "s", np.zeros((len(y), 1)), y)
    shown = CliRunner().invoke(cli, ["info", str(tmp_path / "s")]).output.splitlines()
    assert [line.strip() for line in shown if line.startswith(("  target", "  class"))] == lines


@pytest.mark.parametrize(
    ("y", "problem"),
    [(np.zeros(400), "holds 1 classes"), (np.full(400, np.nan), "non-finite labels")],
    ids=["one class", "no numbers"],
)
def test_labels_that_no_model_fits_are_a_problem_and_no_error(
    tmp_path: Path, y: Any, problem: str
) -> None:
    X, _ = two_class_data()
    assert any(
        problem in found for found in describe(write_store(tmp_path / "s", X, y))["problems"]
    )


def test_missing_chunks_are_counted_and_named(tmp_path: Path) -> None:
    X, y = two_class_data()
    config = write_store(tmp_path / "s", X, y, (20, 6), y_chunk=100)
    for at in (3, *range(7, 14)):
        (tmp_path / "s" / "X" / "c" / str(at) / "0").unlink()
    (tmp_path / "s" / "y" / "c" / "1").unlink()
    problems = describe(config)["problems"]
    assert any(
        "8 of 20 chunks of X are missing (chunk 3 of X (rows 60 to 79), chunk 7 of X" in problem
        and ", ...)" in problem
        for problem in problems
    )
    assert any(
        "1 of 4 chunks of y are missing (chunk 1 of y (rows 100 to 199))" in problem
        for problem in problems
    )
    filled = describe(replace(config, missing_chunks="fill"))
    assert not any("missing" in problem for problem in filled["problems"])
    assert filled["classes"][0]["rows"] == int((y == 0).sum() + y[100:200].sum())


def test_a_damaged_chunk_of_labels_is_a_problem_and_no_error(tmp_path: Path) -> None:
    X, y = two_class_data()
    config = write_store(tmp_path / "s", X, y, (100, 6), y_chunk=100)
    path = tmp_path / "s" / "y" / "c" / "2"
    path.write_bytes(path.read_bytes()[:-1])
    assert any(
        "chunk 2 of y (rows 200 to 299) is damaged" in problem
        for problem in describe(config)["problems"]
    )


def test_describing_reads_no_features(tmp_path: Path) -> None:
    X, y = two_class_data()
    config = write_store(tmp_path / "s", X, y, (100, 6), codec="crc32c")
    for path in chunk_paths(tmp_path / "s" / "X"):
        path.write_bytes(bytes(path.stat().st_size))
    assert describe(config)["problems"] == [
        "y has no checksums: a flipped bit in a chunk can go unnoticed"
    ]


def test_chunks_too_large_to_hold_are_a_problem(tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path / "s"), mode="w")
    group.create_array(
        "X", shape=(1_000_000, 100), chunks=(1_000_000, 10), dtype="float64"
    )  # metadata alone: nothing is written
    put(group, "y", np.arange(1_000_000) % 2)
    found = describe(DataConfig(store=str(tmp_path / "s"), missing_chunks="fill"))
    assert any(
        "rows of X come in chunks of 800 MB at full width" in problem
        for problem in found["problems"]
    )


def test_what_is_read_through_zarr_says_so(tmp_path: Path) -> None:
    X, y = two_class_data()
    config = write_store(tmp_path / "s", X, y, (100, 6), zarr_format=2, order="F")
    features = describe(config)["arrays"][0]
    assert (features["read"], features["checksummed"]) == ("through zarr", None)


@pytest.mark.parametrize("weighted", [False, True])
def test_what_is_told_of_numbers_does_not_depend_on_the_partition(weighted: bool) -> None:
    rng = np.random.default_rng(3)
    y, weights = rng.gamma(2.0, 3.0, 2500), rng.random(2500) if weighted else None
    if weights is not None:
        weights[:700] = 0.0
    cuts = [
        0,
        300,
        600,
        601,
        1700,
        2500,
    ]  # the first blocks weigh nothing, and none but one has more values than there can be classes
    parts = [
        TargetScan("linear").sums(
            batch_of(a, np.empty((0, b - a)), y[a:b], None if weights is None else weights[a:b]),
            64,
            Workspace(),
        )
        for a, b in itertools.pairwise(cuts)
    ]
    found = fold(parts)
    assert found.labels is None
    assert found.numbers is not None
    assert (found.numbers.least, found.numbers.largest, found.numbers.whole) == (
        y.min(),
        y.max(),
        False,
    )
    assert found.numbers.mean == pytest.approx(
        np.average(y, weights=weights), rel=2500 * np.finfo(float).eps
    )
    halves = [
        TargetScan("linear").sums(
            batch_of(a, np.empty((0, 600)), np.arange(a, a + 600), None), 64, Workspace()
        )
        for a in (0, 600)
    ]
    assert fold(halves).labels is None  # each has few enough
    same = fold([halves[0], halves[0]]).labels
    assert same is not None
    np.testing.assert_array_equal(same.row_counts, 2)
