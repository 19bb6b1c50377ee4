"""Rows that are held out: which they are, and that the sums of a fit have no part of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from batches import batch_of
from numpy.typing import NDArray

from streamlr.config.sections import DataConfig, ModelConfig, PenaltyConfig
from streamlr.data.source import ArraySource
from streamlr.data.sources.group_keys import group_keys
from streamlr.data.sources.store import ZarrSource
from streamlr.errors import StoreNotFoundError
from streamlr.execution.local import SerialEngine
from streamlr.execution.scanner import Scanner
from streamlr.kernels.batch import Batch, Workspace
from streamlr.kernels.scans.gradient import GradientScan
from streamlr.kernels.scans.moments import MomentScan
from streamlr.kernels.split import Split, folds
from streamlr.objective.objective import Moments, Objective, evaluate_together
from streamlr.solvers import Query

EPS = float(np.finfo(np.float64).eps)
FAMILIES = {
    "logistic": (np.arange(2), 1),
    "softmax": (np.arange(3), 3),
    "linear": (np.empty(0), 1),
    "poisson": (np.empty(0), 1),
}


def batch(
    m: int = 500, n: int = 3, classes: int = 2, *, weighted: bool = True, groups: bool = False
) -> Batch:
    rng = np.random.default_rng(4)
    X = rng.normal(size=(m, n)).T
    target = rng.integers(0, classes, m)
    return batch_of(
        70,
        X,
        target,
        rng.random(m) if weighted else None,
        rng.normal(size=m) / 9 if classes == 2 else None,
        group_keys(rng.integers(0, 40, m), 0, "g") if groups else None,
    )


def parts_of(split: Split, rows: Batch) -> NDArray[np.intp]:
    return split.parts(rows, slice(0, rows.X.shape[1]))


def only(rows: Batch, kept: NDArray[np.bool_]) -> Batch:
    """The batch of some of the rows alone."""
    return replace(rows, X=rows.X[:, kept], columns=rows.columns.part(kept))


def test_shares_are_kept_within_what_chance_allows() -> None:
    m = 200_000
    rows = batch_of(0, np.zeros((1, m)), None, None)
    for split, expected in [(folds(5, 0), [0.2] * 5), (Split((0.1,), 3), [0.1, 0.9])]:
        share = np.bincount(parts_of(split, rows), minlength=len(expected)) / m
        np.testing.assert_allclose(share, expected, atol=5 * 0.5 / np.sqrt(m))


def test_parts_follow_from_the_number_of_a_row_and_not_from_where_blocks_begin() -> None:
    split = folds(4, 1)
    whole = parts_of(split, batch_of(0, np.zeros((1, 1000)), None, None))
    for start in (0, 1, 137, 999):
        assert (
            parts_of(split, batch_of(start, np.zeros((1, 1000 - start)), None, None))
            == whole[start:]
        ).all()
    assert (whole != parts_of(folds(4, 2), batch_of(0, np.zeros((1, 1000)), None, None))).any()


NAMES: dict[str, NDArray[Any]] = {
    "integers": np.arange(30),
    "floats": np.arange(30.0),
    "halves": np.arange(30.0) + 0.5,
    "texts": np.array([f"group é{i}" for i in range(30)]),
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_rows_of_a_group_are_in_one_part(names: NDArray[Any]) -> None:
    at = np.random.default_rng(0).integers(0, 30, 5000)
    rows = batch_of(0, np.zeros((1, 5000)), None, None, None, group_keys(names[at], 0, "g"))
    parts = parts_of(folds(3, 0), rows)
    assert [len(set(parts[at == g].tolist())) for g in range(30)] == [1] * 30
    assert set(parts.tolist()) == {0, 1, 2}
    assert len(set(group_keys(names, 0, "g").tolist())) == 30


def test_a_group_has_the_same_key_whatever_type_its_number_has() -> None:
    numbers = [-3, 0, 7, 2**40]
    keys = group_keys(np.array(numbers), 0, "g")
    for other in (np.array(numbers, dtype=np.float64), np.array(numbers, dtype=">i8")):
        assert (group_keys(other, 0, "g") == keys).all()
    assert group_keys(np.array([-0.0]), 0, "g") == group_keys(np.array([0.0]), 0, "g")


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("leaf_rows", [500, 64])
def test_sums_without_a_part_are_those_of_the_other_rows_and_the_part_has_its_loss(
    family: str, weighted: bool, leaf_rows: int
) -> None:
    classes, c = FAMILIES[family]
    rows = batch(classes=3 if c == 3 else 2, weighted=weighted)
    rng = np.random.default_rng(1)
    K, n = 4, rows.X.shape[0]
    W, b = rng.normal(size=(K, n, c)), rng.normal(size=(K, c))
    split, holdout = folds(3, 5), np.array([-1, 0, 1, 2])
    found = GradientScan(family, classes, W, b, None, True, split, holdout).sums(
        rows, leaf_rows, Workspace()
    )
    parts = parts_of(split, rows)
    near: dict[str, Any] = {
        "rtol": 500 * EPS,
        "atol": 500 * EPS * 20,
    }  # sums of 500 terms of a few units each
    for k, part in enumerate(holdout):
        scan = GradientScan(family, classes, W[k : k + 1], b[k : k + 1], None, True)
        kept = scan.sums(only(rows, parts != part), leaf_rows, Workspace())
        np.testing.assert_allclose(
            found.weight_sum - found.validation_weight_sum[k], kept.weight_sum, **near
        )
        for name in ("loss_sum", "loss_max", "coefficient_sum", "intercept_sum"):
            np.testing.assert_allclose(getattr(found, name)[k], getattr(kept, name)[0], **near)
        if k == 0:
            np.testing.assert_allclose(found.hessian_sum, kept.hessian_sum, **near)
            assert found.validation_loss_sum[k] == found.validation_weight_sum[k] == 0
        else:
            held = scan.sums(only(rows, parts == part), leaf_rows, Workspace())
            np.testing.assert_allclose(
                [found.validation_loss_sum[k], found.validation_weight_sum[k]],
                [held.loss_sum[0], held.weight_sum],
                **near,
            )


def test_the_hessian_of_the_first_candidate_leaves_out_what_that_holds_out() -> None:
    rows, split = batch(), folds(3, 5)
    W, b = np.ones((1, 3, 1)), np.zeros((1, 1))
    found = GradientScan("logistic", np.arange(2), W, b, None, True, split, np.array([1])).sums(
        rows, 100, Workspace()
    )
    kept = GradientScan("logistic", np.arange(2), W, b, None, True).sums(
        only(rows, parts_of(split, rows) != 1), 100, Workspace()
    )
    np.testing.assert_allclose(found.hessian_sum, kept.hessian_sum, rtol=1e-12)


def test_objectives_of_different_penalties_and_parts_are_evaluated_in_one_pass() -> None:
    rows = batch(weighted=False)
    assert rows.target is not None
    source = ArraySource(np.ascontiguousarray(rows.X.T), rows.target)
    scanner = Scanner(SerialEngine(), source, lambda event: None)
    moments = Moments.from_sums(scanner.run(MomentScan(np.arange(2), 0.0, 0), "survey"))
    split = folds(3, 0)

    def objective(l2: float, part: int) -> Objective:
        return Objective(
            scanner,
            ModelConfig(penalty=PenaltyConfig(l2=l2)),
            np.arange(2),
            moments,
            split=split,
            holdout=part,
        )

    points = np.random.default_rng(2).normal(size=(2, 4))
    asked = [
        Query(objective(0.1, -1), points),
        Query(objective(0.1, 0), points[:1]),
        Query(objective(2.0, 2), points[1:]),
    ]
    before = scanner.passes
    together = evaluate_together(asked, "all")
    assert scanner.passes == before + 1
    assert [len(found) for found in together] == [2, 1, 1]
    for query, found in zip(asked, together, strict=True):
        for apart, near in zip(query.problem.evaluate(query.points, "apart"), found, strict=True):
            np.testing.assert_allclose(
                [near.loss, near.value, near.gradient_max],
                [apart.loss, apart.value, apart.gradient_max],
                rtol=1e-12,
            )
            np.testing.assert_allclose(near.gradient, apart.gradient, rtol=1e-12, atol=1e-14)
            assert near.validation_loss == pytest.approx(
                apart.validation_loss, rel=1e-12, nan_ok=True
            )


def test_groups_come_from_the_store(tmp_path: Path) -> None:
    group = zarr.open_group(tmp_path / "s.zarr", mode="w")
    names = np.array([f"g{i % 5}" for i in range(64)])
    for name, values in {"X": np.zeros((64, 2)), "y": np.arange(64) % 2, "who": names}.items():
        group.create_array(name, data=values, chunks=(10, 2) if name == "X" else (7,))
    source = ZarrSource(DataConfig(store=str(tmp_path / "s.zarr"), groups="who"))
    keys = source.read_columns(3, 60).groups
    assert keys is not None
    assert (keys == group_keys(names, 0, "g")[3:60]).all()
    assert ZarrSource(DataConfig(store=str(tmp_path / "s.zarr"))).read_columns(0, 9).groups is None
    with pytest.raises(StoreNotFoundError, match=r"'whom' \(data.groups\); it holds X, who, y"):
        ZarrSource(DataConfig(store=str(tmp_path / "s.zarr"), groups="whom"))
