"""The first pass sums the products of the features with one another, where they are few."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from batches import batch_of
from numpy.typing import NDArray

from streamlr.data.partition import partition_rows
from streamlr.data.source import ArraySource
from streamlr.execution.local import SerialEngine, ThreadsEngine
from streamlr.execution.scanner import Scanner
from streamlr.kernels.scans.moments import MomentScan, MomentSums
from streamlr.kernels.split import Split
from streamlr.objective.moments import Moments

ROWS = 3000


def features(dtype: Any = np.float64) -> NDArray[Any]:
    """Correlated, in units and at places of their own, one of them constant."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(ROWS, 6)) @ rng.normal(size=(6, 6)) * np.logspace(-3, 3, 6) + np.array(
        [0, 1e5, -3, 0, 7, 1e3]
    )
    X[:, 4] = 7.0
    return X.astype(dtype)


def survey(
    X: NDArray[Any],
    products: bool,
    *,
    weights: NDArray[np.float64] | None = None,
    chunk: int = 100,
    split: Split | None = None,
    engine: Any = None,
    family: str = "linear",
) -> MomentSums:
    y = np.arange(len(X)) % 7.0
    source = ArraySource(X, y, weights)
    partition = partition_rows(len(X), X.shape[1], chunk, X.dtype.itemsize)
    partition = dataclasses.replace(partition, block_rows=chunk, leaf_rows=min(chunk, 64))
    scan = MomentScan(np.empty(0), 0.0, 0, family, split, False, products)
    found: MomentSums = Scanner(
        engine or SerialEngine(), source, lambda event: None, partition
    ).run(scan, "survey")
    return found


def exact_correlation(X: NDArray[Any], omega: NDArray[np.float64]) -> NDArray[np.float64]:
    wide = X.astype(np.longdouble)
    centred = wide - (omega[:, None] * wide).sum(axis=0) / omega.sum()
    C = (centred * omega[:, None]).T @ centred
    unit = np.sqrt(np.diag(C))
    unit[unit <= 1e-12 * np.abs(wide).max(axis=0)] = np.inf
    return (C / unit[:, None] / unit).astype(np.float64)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("chunk", [37, 512, ROWS])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_correlations_are_those_of_the_rows(dtype: Any, chunk: int, weighted: bool) -> None:
    X = features(dtype)
    omega = (
        np.random.default_rng(1).random(ROWS) * (np.arange(ROWS) % 5 > 0)
        if weighted
        else np.ones(ROWS)
    )
    found = Moments.from_sums(
        survey(X, True, weights=omega if weighted else None, chunk=chunk)
    ).correlation
    assert found is not None
    np.testing.assert_allclose(
        found, exact_correlation(X, omega), rtol=0, atol=1e-11
    )  # a mean of 1e5 spreads costs 5 digits of 16
    assert np.array_equal(np.diag(found), [1, 1, 1, 1, 0, 1])


def test_rows_that_are_held_out_have_no_part_in_them() -> None:
    X = features()
    split = Split((0.3,), 0)
    whole = survey(X, True, split=split)
    assert whole.holdout is not None
    out = split.holdout(batch_of(0, X.T, None, None), slice(0, ROWS))
    found = Moments.from_sums(whole).correlation
    assert found is not None
    np.testing.assert_allclose(
        found, exact_correlation(X, (~out).astype(np.float64)), rtol=0, atol=1e-11
    )


def test_to_ask_for_them_changes_no_bit_of_the_other_moments() -> None:
    """But of least squares, whose equations are of one piece."""
    X = features()
    without, beside = survey(X, False, family="poisson"), survey(X, True, family="poisson")
    assert without.cross is None
    for field in dataclasses.fields(MomentSums):
        if field.name not in ("cross", "sample"):
            assert np.array_equal(getattr(without, field.name), getattr(beside, field.name)), (
                field.name
            )


def test_every_engine_has_the_same_bits() -> None:
    X = features()
    with ThreadsEngine(3) as engine:
        one, three = survey(X, True), survey(X, True, engine=engine)
    assert one.cross is not None
    assert three.cross is not None
    assert one.cross.tobytes() == three.cross.tobytes()
