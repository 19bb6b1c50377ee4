"""Stores of unusual shape and layout: each is trained on, to the optimum of its normal equations,
or refused with what, where and the remedy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from stores import put

import streamlr
from streamlr.errors import ShapeError, StoreNotFoundError

FORMATS = [2, 3]
L2 = 0.01


def numbers(rows: int = 200, features: int = 4) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(rows + features)
    X = rng.standard_normal((rows, features))
    return X, X.sum(axis=1) + rng.standard_normal(rows) + 0.5


def trained(store: Path | str, **data: Any) -> streamlr.TrainResult:
    return streamlr.train(
        {
            "data": {"store": str(store), **data},
            "model": {"family": "linear", "penalty": {"l2": L2}},
            "solver": {"tolerance": 1e-12},
            "cluster": {"kind": "serial"},
            "run": {"directory": None},
        }
    )


def assert_optimal(result: streamlr.TrainResult, X: NDArray[Any], y: NDArray[Any]) -> None:
    """The gradient is below 1e-12, and the penalty keeps the smallest eigenvalue of the Hessian
    above 0.01: an error below 1e-10 for a spread of about 1."""
    centred = X - X.mean(axis=0)
    W = np.linalg.solve(
        centred.T @ centred / len(y) + L2 * np.eye(X.shape[1]), centred.T @ (y - y.mean()) / len(y)
    )
    assert result.status == "converged"
    np.testing.assert_allclose(result.model.coef_[0], W, atol=1e-9)
    np.testing.assert_allclose(result.model.intercept_[0], y.mean() - X.mean(axis=0) @ W, atol=1e-9)


@pytest.mark.parametrize("zarr_format", FORMATS)
@pytest.mark.parametrize("sample_axis", [0, 1])
@pytest.mark.parametrize(
    ("shape", "chunks", "y_chunk"),
    [
        ((1, 4), (1, 4), 1),
        ((1, 1), (1, 1), 1),
        ((2, 4), (1, 1), 1),
        ((200, 1), (50, 1), 200),
        ((3, 7), (2, 2), 3),
        ((200, 4), (1000, 64), 777),
        ((200, 4), (1, 4), 1),
        ((20, 4), (1, 1), 7),
        ((200, 4), (199, 3), 201),
    ],
    ids=str,
)
def test_any_shape_and_chunks_are_trained_on(
    tmp_path: Path,
    shape: tuple[int, int],
    chunks: tuple[int, int],
    y_chunk: int,
    sample_axis: int,
    zarr_format: Any,
) -> None:
    X, y = numbers(*shape)
    group = zarr.open_group(str(tmp_path / "s"), mode="w", zarr_format=zarr_format)
    put(group, "X", X if sample_axis == 0 else X.T, chunks if sample_axis == 0 else chunks[::-1])
    put(group, "y", y, (y_chunk,))
    assert_optimal(trained(tmp_path / "s", sample_axis=sample_axis), X, y)


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
@pytest.mark.parametrize("consolidated", [False, True])
@pytest.mark.parametrize("zarr_format", FORMATS)
def test_a_store_may_lie_below_other_groups(
    tmp_path: Path, zarr_format: Any, consolidated: bool
) -> None:
    X, y = numbers()
    group = (
        zarr.open_group(str(tmp_path / "s"), mode="w", zarr_format=zarr_format)
        .create_group("a")
        .create_group("b")
    )
    put(group, "X", X, (50, 2))
    put(group, "y", y)
    if consolidated:
        zarr.consolidate_metadata(str(tmp_path / "s"))
    for store, features, target in (
        ("s", "a/b/X", "a/b/y"),
        ("s", "/a/b/X", "/a/b/y"),
        ("s/a", "b/X", "b/y"),
        ("s/a/b", "X", "y"),
        ("s/a/b/", "X", "y"),
    ):
        assert_optimal(trained(f"{tmp_path}/{store}", features=features, target=target), X, y)


@pytest.mark.parametrize("zarr_format", FORMATS)
def test_the_group_of_the_arrays_is_named_where_another_one_is_given(
    tmp_path: Path, zarr_format: Any
) -> None:
    root = zarr.open_group(str(tmp_path / "s"), mode="w", zarr_format=zarr_format)
    put(root.create_group("a").create_group("b"), "X", np.ones((4, 2)))
    with pytest.raises(
        StoreNotFoundError,
        match=r"has no array 'X' \(data\.features\); it holds no arrays, but groups \(a\): set "
        r"data\.features: a/NAME",
    ):
        trained(tmp_path / "s")
    with pytest.raises(
        StoreNotFoundError,
        match=r"'a' \(data\.features\) in .* is a group, not an array; it holds no arrays, but "
        r"groups \(a/b\)",
    ):
        trained(tmp_path / "s", features="a")
    with pytest.raises(
        StoreNotFoundError,
        match=r"'a/b' \(data\.features\) in .* is a group, not an array; it holds a/b/X$",
    ):
        trained(tmp_path / "s", features="a/b")
    for number in range(25):
        root.create_array(f"f{number:02}", shape=(1,), dtype="i1")
    with pytest.raises(StoreNotFoundError, match=r"it holds f00, f01, .*, f19 and 5 more$"):
        trained(tmp_path / "s")


@pytest.mark.parametrize("zarr_format", FORMATS)
@pytest.mark.parametrize("shape", [(), (200,), (10, 4, 5), (200, 1, 1)], ids=str)
def test_features_of_other_than_two_axes_are_refused(
    tmp_path: Path, shape: tuple[int, ...], zarr_format: Any
) -> None:
    group = zarr.open_group(str(tmp_path / "s"), mode="w", zarr_format=zarr_format)
    put(group, "X", np.ones(shape))
    put(group, "y", np.ones(200))
    with pytest.raises(
        ShapeError,
        match=r"X in .*s has shape \(.*\); features must have two axes, .* write it again so, or "
        r"name another array",
    ):
        trained(tmp_path / "s")


@pytest.mark.parametrize("zarr_format", FORMATS)
@pytest.mark.parametrize(
    ("shape", "remedy"),
    [
        ((), "name the array that goes with them, or write it again"),
        ((200, 2), "name the array that goes with them, or write it again"),
        ((199,), "name the array that goes with them, or write it again"),
        ((200, 1), "write it again without the axis of one"),
        ((4,), "are the examples along the other axis"),
    ],
    ids=str,
)
def test_targets_that_do_not_go_with_the_features_are_refused(
    tmp_path: Path, shape: tuple[int, ...], remedy: str, zarr_format: Any
) -> None:
    group = zarr.open_group(str(tmp_path / "s"), mode="w", zarr_format=zarr_format)
    put(group, "X", np.ones((200, 4)))
    put(group, "y", np.ones(shape))
    with pytest.raises(
        ShapeError,
        match=rf"X in .* has 200 rows .* but y has shape \(.*\); expected \(200,\); {remedy}",
    ):
        trained(tmp_path / "s")


@pytest.mark.parametrize("zarr_format", FORMATS)
def test_an_array_is_no_store(tmp_path: Path, zarr_format: Any) -> None:
    zarr.create_array(str(tmp_path / "root"), data=np.ones((4, 2)), zarr_format=zarr_format)
    put(
        zarr.open_group(str(tmp_path / "s"), mode="w", zarr_format=zarr_format),
        "X",
        np.ones((4, 2)),
    )
    for store in (tmp_path / "root", tmp_path / "s" / "X"):
        with pytest.raises(
            StoreNotFoundError,
            match=r"is a Zarr array; data\.store must be the group that holds features and target",
        ):
            trained(store)
