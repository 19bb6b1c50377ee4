"""The sums of every scan against double loops with `math.fsum`, and against scikit-learn."""

from __future__ import annotations

import dataclasses
import math
import tracemalloc
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from batches import batch_of as block_of
from numpy.typing import NDArray
from scipy import stats
from sklearn import metrics as sk
from stores import DTYPES

from streamlr.errors import LabelError, NonFiniteError
from streamlr.kernels.batch import Batch, Workspace
from streamlr.kernels.families import FAMILIES
from streamlr.kernels.fold import fold
from streamlr.kernels.metrics import score_counts as scores
from streamlr.kernels.metrics.classification import ClassSums
from streamlr.kernels.scans.gradient import GradientScan, GradientSums
from streamlr.kernels.scans.labels import LabelScan, LabelSums, indicator
from streamlr.kernels.scans.metrics import MetricScan
from streamlr.kernels.scans.moments import MomentScan, MomentSums, locate_non_finite, row_is_drawn

Array = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)
CLASSES = np.array([0, 1])
WEIGHTED = [False, True]
ORDERS = ["rows", "columns"]
m, n, K = 53, 4, 3


def features(dtype: str, order: str, rng: np.random.Generator) -> NDArray[Any]:
    """X, (n, m), as a view of rows, or stored the other way round."""
    values = rng.integers(0, 2, (m, n)) if dtype == "bool" else rng.normal(size=(m, n)) * 3 + 4
    rows = np.abs(values).astype(dtype) if dtype[0] in "ub" else values.astype(dtype)
    return rows.T if order == "rows" else np.ascontiguousarray(rows.T)


def batch_of(
    dtype: str = "float64",
    order: str = "rows",
    weighted: bool = True,
    seed: int = 0,
    first_row: int = 0,
) -> Batch:
    rng = np.random.default_rng(seed)
    weights = rng.uniform(0.1, 3, m) if weighted else None
    return block_of(first_row, features(dtype, order, rng), rng.integers(0, 2, m), weights)


def candidates(seed: int = 1) -> tuple[Array, Array]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(K, n, 1)) * 0.2, rng.normal(size=(K, 1))


def scan_of(hessian: bool = False, shift: Array | None = None) -> GradientScan:
    W, b = candidates()
    return GradientScan("logistic", CLASSES, W, b, shift, hessian)


def plain_loss(z: float, y: int) -> tuple[float, float]:
    """Loss and activation of one example, from the definition."""
    s = -z if y else z
    loss = math.log1p(math.exp(s)) if s < 0 else s + math.log1p(math.exp(-s))
    return loss, 1 / (1 + math.exp(-z))


def omega(batch: Batch) -> list[float]:
    return [1.0] * batch.X.shape[1] if batch.weights is None else batch.weights.tolist()


def columns(batch: Batch, shift: Array | None) -> list[list[float]]:
    """x of every example less the shift, as Python floats."""
    off = [0.0] * n if shift is None else shift.tolist()
    return [[float(batch.X[j, i]) - off[j] for j in range(n)] for i in range(batch.X.shape[1])]


def double_loop(batch: Batch, W: Array, b: Array, shift: Array | None) -> dict[str, Any]:
    """Every sum at one candidate, one example and one feature at a time."""
    assert batch.target is not None
    X, weights, y = columns(batch, shift), omega(batch), batch.target.tolist()
    z = [math.fsum([*(W[j, 0] * x[j] for j in range(n)), b[0]]) for x in X]
    loss, A = zip(*(plain_loss(z[i], y[i]) for i in range(len(X))), strict=True)
    dz = [weights[i] * (A[i] - y[i]) for i in range(len(X))]
    d = [weights[i] * A[i] * (1 - A[i]) for i in range(len(X))]
    H = [
        [
            math.fsum(d[i] * p * q for i, (p, q) in enumerate(zip((*x_j,), (*x_k,), strict=True)))
            for x_k in zip(*X, strict=True)
        ]
        for x_j in zip(*X, strict=True)
    ]
    edge = [math.fsum(d[i] * X[i][j] for i in range(len(X))) for j in range(n)]
    hessian = np.block(
        [
            [np.array(H), np.array(edge)[:, None]],
            [np.array(edge)[None, :], np.array([[math.fsum(d)]])],
        ]
    )
    return {
        "weight": math.fsum(weights),
        "loss": math.fsum(w * v for w, v in zip(weights, loss, strict=True)),
        "loss_max": max(loss),
        "W": [math.fsum(dz[i] * X[i][j] for i in range(len(X))) for j in range(n)],
        "b": math.fsum(dz),
        "hessian": hessian,
    }


def assert_sums_are(sums: GradientSums, batch: Batch, scan: GradientScan) -> None:
    # a sum of m products is off by at most m eps times the sum of their sizes, which is below m * 3
    # (weight) * 20 (feature)
    atol = m * EPS * m * 3 * 20
    for k in range(len(scan.coefficients)):
        expected = double_loop(batch, scan.coefficients[k], scan.intercepts[k], scan.shift)
        np.testing.assert_allclose(sums.loss_sum[k], expected["loss"], rtol=m * EPS, atol=atol)
        np.testing.assert_allclose(sums.loss_max[k], expected["loss_max"], rtol=m * EPS)
        np.testing.assert_allclose(sums.coefficient_sum[k, :, 0], expected["W"], rtol=0, atol=atol)
        np.testing.assert_allclose(sums.intercept_sum[k, 0], expected["b"], rtol=0, atol=atol)
        if k == 0 and sums.hessian_sum is not None:
            np.testing.assert_allclose(
                sums.hessian_sum, expected["hessian"], rtol=0, atol=20 * atol
            )
    assert sums.weight_sum == pytest.approx(
        double_loop(batch, scan.coefficients[0], scan.intercepts[0], scan.shift)["weight"],
        rel=m * EPS,
    )
    assert sums.n_rows == m


@pytest.mark.parametrize("weighted", WEIGHTED)
@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_gradient_sums_are_those_of_a_double_loop(dtype: str, order: str, weighted: bool) -> None:
    batch = batch_of(dtype, order, weighted)
    scan = scan_of(hessian=True)
    assert_sums_are(scan.sums(batch, m, Workspace()), batch, scan)


@pytest.mark.parametrize("weighted", WEIGHTED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_shift_is_taken_from_the_features_in_float64(dtype: str, weighted: bool) -> None:
    """An unsigned 3 less 4 is -1, and not the largest number of its type."""
    batch = batch_of(dtype, "rows", weighted)
    scan = scan_of(hessian=True, shift=np.array([4.0, -1.5, 0.0, 7.25]))
    assert_sums_are(scan.sums(batch, m, Workspace()), batch, scan)


@pytest.mark.parametrize("leaf_rows", [1, 2, 7, 32, m - 1, m + 1])
def test_leaves_of_any_size_agree_to_rounding(leaf_rows: int) -> None:
    batch, scan = batch_of(), scan_of(hessian=True)
    assert_sums_are(scan.sums(batch, leaf_rows, Workspace()), batch, scan)


def test_the_two_memory_orders_agree_to_rounding() -> None:
    scan = scan_of()
    one, other = (scan.sums(batch_of(order=order), 16, Workspace()) for order in ORDERS)
    np.testing.assert_allclose(
        one.coefficient_sum, other.coefficient_sum, rtol=0, atol=m * m * 60 * EPS
    )


def test_a_candidate_has_the_same_sums_in_company_as_alone() -> None:
    batch, scan = batch_of(), scan_of()
    together = scan.sums(batch, m, Workspace())
    for k in range(K):
        alone = replace(
            scan, coefficients=scan.coefficients[k : k + 1], intercepts=scan.intercepts[k : k + 1]
        ).sums(batch, m, Workspace())
        # a GEMV and a column of a GEMM differ in their last bits
        np.testing.assert_allclose(
            together.coefficient_sum[k], alone.coefficient_sum[0], rtol=0, atol=m * m * 60 * EPS
        )
        np.testing.assert_allclose(together.loss_sum[k], alone.loss_sum[0], rtol=m * EPS)


@pytest.mark.parametrize("weighted", WEIGHTED)
def test_the_hessian_is_the_derivative_of_the_gradient(weighted: bool) -> None:
    batch, h = batch_of(weighted=weighted), 1e-5
    W, b = candidates()

    def gradient(theta: Array) -> Array:
        sums = GradientScan("logistic", CLASSES, theta[None, :n, None], theta[None, n:]).sums(
            batch, m, Workspace()
        )
        return np.append(sums.coefficient_sum[0, :, 0], sums.intercept_sum[0, 0])

    theta = np.append(W[0, :, 0], b[0])
    slopes = np.stack(
        [(gradient(theta + h * e) - gradient(theta - h * e)) / (2 * h) for e in np.eye(n + 1)],
        axis=1,
    )
    sums = GradientScan("logistic", CLASSES, W[:1], b[:1], None, True).sums(batch, m, Workspace())
    assert sums.hessian_sum is not None
    # truncation h²/6 * sum(ω |x|³) * 0.1 = 1e-6 at most for |x| up to 14, rounding 1e-12 / h = 1e-7
    np.testing.assert_allclose(sums.hessian_sum, slopes, rtol=1e-7, atol=2e-6)


def frozen(batch: Batch) -> Batch:
    for array in (batch.X, batch.target, batch.weights):
        if array is not None:
            array.setflags(write=False)
    return batch


SCANS: dict[str, Any] = {
    "gradient": lambda: scan_of(hessian=True, shift=np.ones(n)),
    "survey": lambda: MomentScan(CLASSES, 0.5, 0),
    "labels": lambda: LabelScan(),
    "metrics": lambda: MetricScan("logistic", CLASSES, candidates()[0][0], candidates()[1][0]),
}


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", SCANS)
def test_inputs_are_not_written_to(name: str, dtype: str, order: str) -> None:
    batch = frozen(batch_of(dtype, order))
    before = batch.X.copy()
    SCANS[name]().sums(batch, 8, Workspace())
    np.testing.assert_array_equal(batch.X, before)


def bits(record: Any) -> Any:
    """Everything in a record of sums, comparable to the bit."""
    if dataclasses.is_dataclass(record):
        return [bits(getattr(record, field.name)) for field in dataclasses.fields(record)]
    if isinstance(record, tuple):
        return [bits(part) for part in record]
    return None if record is None else np.asarray(record).tobytes()


@pytest.mark.parametrize("name", SCANS)
def test_a_used_workspace_gives_the_bits_of_a_fresh_one(name: str) -> None:
    used = Workspace()
    SCANS[name]().sums(batch_of(seed=5), m, used)
    one, other = (
        SCANS[name]().sums(batch_of(), 8, used),
        SCANS[name]().sums(batch_of(), 8, Workspace()),
    )
    assert bits(one) == bits(other)


@pytest.mark.parametrize("name", SCANS)
def test_adding_leaves_both_terms_as_they_were(name: str) -> None:
    scan = SCANS[name]()
    one, other = scan.sums(batch_of(), 8, Workspace()), scan.sums(batch_of(seed=2), 8, Workspace())
    before = bits(one), bits(other)
    _ = one + other
    assert (bits(one), bits(other)) == before


# survey -------------------------------------------------------------------------------------------


def pieces(batch: Batch, block: int) -> list[Batch]:
    assert batch.target is not None
    return [
        block_of(
            batch.first_row + at,
            batch.X[:, at : at + block],
            batch.target[at : at + block],
            None if batch.weights is None else batch.weights[at : at + block],
        )
        for at in range(0, batch.X.shape[1], block)
    ]


def survey(
    batch: Batch, block: int = 1000, leaf_rows: int = 16, fraction: float = 0.0, seed: int = 0
) -> MomentSums:
    scan = MomentScan(CLASSES, fraction, seed)
    return fold([scan.sums(part, leaf_rows, Workspace()) for part in pieces(batch, block)])


def moments_by_fsum(batch: Batch) -> dict[str, Array]:
    assert batch.target is not None
    w, y = omega(batch), batch.target.tolist()
    total = math.fsum(w)
    X = [[float(v) for v in row] for row in batch.X]
    mean = [math.fsum(a * b for a, b in zip(w, x, strict=True)) / total for x in X]
    y_mean = math.fsum(a * b for a, b in zip(w, y, strict=True)) / total
    square = [
        math.fsum(a * (v - c) ** 2 for a, v in zip(w, x, strict=True))
        for x, c in zip(X, mean, strict=True)
    ]
    comoment = [
        math.fsum(a * (v - c) * (t - y_mean) for a, v, t in zip(w, x, y, strict=True))
        for x, c in zip(X, mean, strict=True)
    ]
    return {
        "mean": np.array(mean),
        "square": np.array(square),
        "target": np.array([y_mean]),
        "comoment": np.array(comoment),
    }


@pytest.mark.parametrize("block", [1, 7, 16, 1000])
@pytest.mark.parametrize("weighted", WEIGHTED)
@pytest.mark.parametrize("dtype", DTYPES)
def test_moments_are_those_of_a_double_loop(dtype: str, weighted: bool, block: int) -> None:
    batch = batch_of(dtype, "rows", weighted)
    found, expected = survey(batch, block), moments_by_fsum(batch)
    np.testing.assert_allclose(found.mean, expected["mean"], rtol=m * EPS, atol=m * EPS * 20)
    np.testing.assert_allclose(found.square_sum, expected["square"], rtol=8 * m * EPS)
    np.testing.assert_allclose(found.target_mean, expected["target"], rtol=m * EPS)
    np.testing.assert_allclose(
        found.comoment[:, 0], expected["comoment"], rtol=0, atol=m * EPS * m * 60
    )
    assert found.n_rows == m


def far_batch(weighted: bool) -> Batch:
    rng = np.random.default_rng(3)
    X = rng.normal(size=(n, m)) + np.array([1e9, -1e9, 1e6, 0.0])[:, None]
    return block_of(0, X, rng.integers(0, 2, m), rng.uniform(0.1, 3, m) if weighted else None)


@pytest.mark.parametrize("block", [1, 8, 1000])
@pytest.mark.parametrize("weighted", WEIGHTED)
def test_a_mean_far_larger_than_the_spread_costs_no_digits_of_the_spread(
    weighted: bool, block: int
) -> None:
    batch = far_batch(weighted)
    found, expected = survey(batch, block), moments_by_fsum(batch)
    np.testing.assert_allclose(found.mean, expected["mean"], rtol=8 * EPS, atol=m * EPS)
    # a mean of 1e9 is rounded to 1e-7, and a join of two sets puts that beside differences of about
    # 1; the textbook sum(x²) - m mean² would be off by 1e18 m eps = 1e4
    np.testing.assert_allclose(found.square_sum, expected["square"], rtol=1e-6)
    np.testing.assert_allclose(found.comoment[:, 0], expected["comoment"], rtol=0, atol=1e-6 * m)


@pytest.mark.parametrize("block", [1, 5, 1000])
@pytest.mark.parametrize("weighted", WEIGHTED)
@pytest.mark.parametrize("value", [0.1, -1e9 / 3, 1e-200, 0.0])
def test_a_constant_column_has_a_spread_of_exactly_zero_and_its_own_mean(
    value: float, weighted: bool, block: int
) -> None:
    batch = batch_of(weighted=weighted)
    X = batch.X.copy()
    X[1] = value
    found = survey(replace(batch, X=X), block)
    assert found.square_sum[1] == 0.0
    assert found.comoment[1, 0] == 0.0
    assert found.mean[1] == value


def with_idle_rows(batch: Batch, value: float, at: slice) -> Batch:
    """The batch with rows of weight 0 at some places, all of whose features have one value."""
    assert batch.weights is not None
    X, weights = batch.X.copy(), batch.weights.copy()
    X[:, at], weights[at] = value, 0.0
    return block_of(0, X, batch.target, weights)


def without_rows(batch: Batch, at: slice) -> Batch:
    kept = np.delete(np.arange(batch.X.shape[1]), np.arange(batch.X.shape[1])[at])
    assert batch.target is not None
    assert batch.weights is not None
    return block_of(0, batch.X[:, kept], batch.target[kept], batch.weights[kept])


IDLE_PLACES = {
    "within a leaf": slice(3, 9),
    "first of a leaf": slice(0, 2),
    "whole leaves": slice(16, 48),
    "the first block": slice(0, 16),
}


@pytest.mark.parametrize("value", [5.0, 1e20])
@pytest.mark.parametrize("place", ["first of a leaf", "the first block"])
def test_rows_of_weight_zero_do_not_touch_the_moments_wherever_they_stand(
    place: str, value: float
) -> None:
    at = IDLE_PLACES[place]
    batch = with_idle_rows(batch_of(), value, at)
    found, expected = survey(batch, 16), moments_by_fsum(without_rows(batch, at))
    np.testing.assert_allclose(found.mean, expected["mean"], rtol=1e-12)
    np.testing.assert_allclose(found.square_sum, expected["square"], rtol=1e-12)


@pytest.mark.parametrize("place", ["within a leaf", "whole leaves"])
def test_rows_of_weight_zero_do_not_touch_the_moments(place: str) -> None:
    at = IDLE_PLACES[place]
    batch = with_idle_rows(batch_of(), 5.0, at)
    found, expected = survey(batch, 16), moments_by_fsum(without_rows(batch, at))
    np.testing.assert_allclose(found.mean, expected["mean"], rtol=m * EPS)
    np.testing.assert_allclose(found.square_sum, expected["square"], rtol=8 * m * EPS)
    np.testing.assert_allclose(
        found.comoment[:, 0], expected["comoment"], rtol=0, atol=m * EPS * m * 60
    )
    assert found.n_rows == m


def test_rows_of_no_weight_at_all_have_no_moments_and_raise_no_warning() -> None:
    batch = with_idle_rows(batch_of(), 5.0, slice(None))
    found = survey(batch, 16)
    assert found.weight_sum == 0
    assert (found.square_sum == 0).all()


def test_the_gradient_at_a_constant_activation_is_minus_the_comoment() -> None:
    """sum(ω (a - Y)(X - mean)) does not depend on a."""
    batch = batch_of()
    found = survey(batch)
    b = FAMILIES["logistic"].link(np.array([0.3]))
    scan = GradientScan("logistic", CLASSES, np.zeros((1, n, 1)), b[None, :], found.mean)
    np.testing.assert_allclose(
        scan.sums(batch, m, Workspace()).coefficient_sum[0],
        -found.comoment,
        rtol=0,
        atol=m * EPS * m * 60,
    )


# the sample of rows -------------------------------------------------------------------------------


def numbered(n_rows: int, first_row: int = 0) -> Batch:
    """A batch whose first feature is the number of the row."""
    rows = np.arange(first_row, first_row + n_rows)
    return block_of(first_row, rows[None, :].astype(np.float64), rows % 2, rows.astype(np.float64))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_sums_of_non_finite_features_tell_of_them_without_a_warning(value: float) -> None:
    batch = batch_of("float64", "rows", True)
    X = batch.X.copy()
    X[1, [3, 20, 40]] = value
    X[2, [3, 20, 40]] = [np.inf, -np.inf, np.nan]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = survey(replace(batch, X=X), 20)
    assert np.isfinite(found.finite_check).tolist() == [
        True,
        False,
        False,
        *[True] * (len(found.finite_check) - 3),
    ]


def drawn_rows(sums: MomentSums) -> NDArray[np.int64]:
    return np.concatenate([part.X[:, 0] for part in sums.sample]).astype(np.int64)


@pytest.mark.parametrize(("block", "leaf_rows"), [(1, 1), (7, 3), (64, 64), (1000, 10)])
def test_the_sample_depends_on_the_number_of_the_row_and_the_seed_alone(
    block: int, leaf_rows: int
) -> None:
    found = survey(numbered(500, first_row=123), block, leaf_rows, fraction=0.3, seed=9)
    rows = drawn_rows(found)
    np.testing.assert_array_equal(rows, 123 + np.flatnonzero(row_is_drawn(123, 500, 0.3, 9)))
    np.testing.assert_array_equal(
        row_is_drawn(123, 500, 0.3, 9), row_is_drawn(0, 1000, 0.3, 9)[123:623]
    )
    np.testing.assert_array_equal(
        np.concatenate([part.columns.target for part in found.sample]), rows % 2
    )
    np.testing.assert_array_equal(
        np.concatenate([part.weights for part in found.sample if part.weights is not None]), rows
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_sample_keeps_the_type_and_the_values_of_the_data(dtype: str) -> None:
    batch = batch_of(dtype, "columns")
    found = survey(batch, fraction=1.0)
    X = np.concatenate([part.X for part in found.sample])
    assert X.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(X, batch.X.T)


@pytest.mark.parametrize("seed", [0, 1, 2, 12345, 2**40])
@pytest.mark.parametrize("fraction", [1 / 64, 0.1, 0.5, 0.9])
def test_the_sample_has_its_fraction_of_the_rows_and_no_liking_for_any(
    seed: int, fraction: float
) -> None:
    n_rows = 2**16
    drawn = row_is_drawn(10**12, n_rows, fraction, seed)
    deviation = math.sqrt(n_rows * fraction * (1 - fraction))
    assert abs(int(drawn.sum()) - n_rows * fraction) < 5 * deviation
    # 64 bins by place, and 64 by the last digits of the number: each a chi-square with 63 degrees
    # of freedom
    for counts in (drawn.reshape(64, -1).sum(axis=1), drawn.reshape(-1, 64).sum(axis=0)):
        expected = n_rows / 64
        chi_square = float(
            (((counts - expected * fraction) ** 2) / (expected * fraction * (1 - fraction))).sum()
        )
        assert 1e-6 < stats.chi2.sf(chi_square, 64) < 1 - 1e-6


def test_neighbouring_rows_and_seeds_are_drawn_independently() -> None:
    n_rows, fraction = 2**16, 0.25
    one = row_is_drawn(0, n_rows, fraction, 0)
    deviation = math.sqrt(n_rows * fraction**2 * (1 - fraction**2))
    others = [
        np.roll(one, 1),
        np.roll(one, 2),
        *(row_is_drawn(0, n_rows, fraction, seed) for seed in (1, 2, 3)),
    ]
    for other in others:
        assert abs(int((one & other).sum()) - n_rows * fraction**2) < 5 * deviation


def test_a_fraction_of_one_draws_every_row_and_of_zero_none() -> None:
    assert row_is_drawn(5, 100, 1.0, 0).all()
    assert not row_is_drawn(5, 100, 0.0, 0).any()


@pytest.mark.parametrize("fraction", [0.0, 1.0])
def test_where_no_row_or_every_row_is_drawn_none_is_hashed(fraction: float) -> None:
    tracemalloc.start()
    try:
        row_is_drawn(5, 10**5, fraction, 0)
        assert (
            tracemalloc.get_traced_memory()[1] < 2 * 10**5
        )  # a byte a row; a hash alone has eight
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(("small", "large"), [(0.1, 0.2), (0.5, 0.51)])
def test_a_smaller_sample_is_part_of_a_larger_one(small: float, large: float) -> None:
    assert not (row_is_drawn(0, 5000, small, 4) & ~row_is_drawn(0, 5000, large, 4)).any()


@pytest.mark.parametrize("dtype", DTYPES)
def test_only_floats_can_be_non_finite(dtype: str) -> None:
    X = features(dtype, "rows", np.random.default_rng(0)).copy()
    assert locate_non_finite(X) is None
    if np.dtype(dtype).kind == "f":
        X[3, 7] = X[1, 11] = np.nan
        X[2, 7] = np.inf
        assert locate_non_finite(X) == (3, 7, 2)


# labels -------------------------------------------------------------------------------------------


def labels_of(target: NDArray[Any], weights: Array | None = None, block: int = 4) -> LabelSums:
    parts = [
        block_of(
            at,
            np.empty((0, len(target[at : at + block]))),
            target[at : at + block],
            None if weights is None else weights[at : at + block],
        )
        for at in range(0, len(target), block)
    ]
    return fold([LabelScan().sums(part, 100, Workspace()) for part in parts])


@pytest.mark.parametrize("labels", [["no", "yes"], [-1, 1], [0.5, 2.5], [False, True], [3, 1, 2]])
@pytest.mark.parametrize("weighted", WEIGHTED)
def test_labels_are_listed_with_their_rows_and_weights(labels: list[Any], weighted: bool) -> None:
    rng = np.random.default_rng(0)
    target = np.array(labels)[rng.integers(0, len(labels), 50)]
    weights = rng.uniform(0, 2, 50) if weighted else None
    found = labels_of(target, weights)
    np.testing.assert_array_equal(found.labels, sorted(labels))
    np.testing.assert_array_equal(
        found.row_counts, [np.count_nonzero(target == label) for label in sorted(labels)]
    )
    share = np.ones(50) if weights is None else weights
    np.testing.assert_allclose(
        found.weight_sums,
        [math.fsum(share[target == label]) for label in sorted(labels)],
        rtol=50 * EPS,
    )


def test_too_many_labels_are_refused_within_a_block_and_across_blocks() -> None:
    for block in (2000, 600):
        with pytest.raises(
            LabelError,
            match=r"more than 1000 distinct values .*is data.target a continuous quantity",
        ):
            labels_of(np.arange(1200), block=block)


def test_a_label_that_is_no_number_is_refused_with_its_row() -> None:
    target = np.array([0.0, 1.0, 1.0, 0.0, 1.0, np.nan, np.inf])
    with pytest.raises(
        NonFiniteError,
        match=r"y holds 2 non-finite labels in the rows from 4 on \(first at row 5\); drop or "
        r"label",
    ):
        labels_of(target)


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_a_weight_that_is_negative_or_not_finite_is_refused_with_its_row(bad: float) -> None:
    weights = np.ones(8)
    weights[6] = bad
    with pytest.raises(
        NonFiniteError,
        match=rf"weights holds 1 weights .*rows from 4 on \(first: {bad} at row 6\); weights must "
        rf"be finite and 0",
    ):
        labels_of(np.arange(8) % 2, weights)


def test_a_label_that_was_not_listed_is_refused_with_its_row() -> None:
    with pytest.raises(
        LabelError, match=r"row 102 has the label .*7.*neither of the classes .*0.* and .*1"
    ):
        indicator(np.array([0, 1, 7]), CLASSES, 100)


# metrics ------------------------------------------------------------------------------------------


def scored(weighted: bool, ties: bool, rows: int = 400) -> Batch:
    rng = np.random.default_rng(7)
    X = rng.integers(-2, 3, (2, rows)).astype(np.float64) if ties else rng.normal(size=(2, rows))
    y = (rng.random(rows) < 1 / (1 + np.exp(-X.sum(axis=0)))).astype(np.int64)
    weights = rng.uniform(0, 2, rows) if weighted else None
    if weights is not None:
        weights[::9] = 0.0
    return block_of(0, X, y, weights)


METRIC_SCAN = MetricScan("logistic", CLASSES, np.array([[0.75], [1.25]]), np.array([0.125]))


def metric_sums(batch: Batch, block: int = 10**6, leaf_rows: int = 64) -> ClassSums:
    return fold([METRIC_SCAN.sums(part, leaf_rows, Workspace()) for part in pieces(batch, block)])


def probabilities(batch: Batch) -> Array:
    Z = METRIC_SCAN.coefficients.T @ batch.X + METRIC_SCAN.intercept[:, None]
    return FAMILIES["logistic"].activate(Z)[0]


def area_of(sums: ClassSums) -> tuple[float, float]:
    found = sums.scores.of(0).area()
    assert found is not None
    return found


@pytest.mark.parametrize("block", [37, 10**6])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("weighted", WEIGHTED)
def test_metrics_are_those_of_scikit_learn(weighted: bool, ties: bool, block: int) -> None:
    batch = scored(weighted, ties)
    sums, p, y = metric_sums(batch, block), probabilities(batch), batch.target
    given: dict[str, Any] = {"sample_weight": batch.weights}
    tolerance = 400 * EPS * 10  # sums of 400 terms, of at most 10 each
    assert sums.log_loss_sum / sums.weight_sum == pytest.approx(
        sk.log_loss(y, p, **given), abs=tolerance
    )
    assert sums.brier_sum / sums.weight_sum == pytest.approx(
        sk.brier_score_loss(y, p, **given), abs=tolerance
    )
    assert float(np.trace(sums.confusion_sum)) / sums.weight_sum == pytest.approx(
        sk.accuracy_score(y, p > 0.5, **given), abs=tolerance
    )
    np.testing.assert_allclose(
        sums.confusion_sum, sk.confusion_matrix(y, p > 0.5, **given), atol=tolerance * 400
    )
    area, bound = area_of(sums)
    assert area == pytest.approx(sk.roc_auc_score(y, p, **given), abs=tolerance)
    assert bound == 0.0


def test_pairs_with_equal_scores_count_half() -> None:
    batch = block_of(0, np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 0.0]]), np.array([0, 1, 1]), None)
    assert area_of(metric_sums(batch)) == (0.75, 0.0)


def test_there_is_no_area_where_a_class_has_no_weight() -> None:
    assert (
        metric_sums(block_of(0, np.ones((2, 3)), np.ones(3, dtype=int), None)).scores.of(0).area()
        is None
    )
    assert (
        metric_sums(block_of(0, np.ones((2, 2)), np.array([0, 1]), np.array([0.0, 1.0])))
        .scores.of(0)
        .area()
        is None
    )


@pytest.mark.parametrize("weighted", WEIGHTED)
def test_the_area_is_exact_up_to_the_number_of_distinct_scores_that_are_kept(
    monkeypatch: pytest.MonkeyPatch, weighted: bool
) -> None:
    batch = scored(weighted, ties=False)
    exact = sk.roc_auc_score(batch.target, probabilities(batch), sample_weight=batch.weights)
    distinct = len(np.unique(probabilities(batch)[np.array(omega(batch)) > 0]))
    monkeypatch.setattr(scores, "SCORES_KEPT", distinct)
    assert area_of(metric_sums(batch, 50)) == (pytest.approx(exact, abs=400 * EPS), 0.0)
    monkeypatch.setattr(scores, "SCORES_KEPT", distinct - 1)
    assert metric_sums(batch, 50).scores.dropped_bits > 0


@pytest.mark.parametrize("kept", [2, 8, 32, 128])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("weighted", WEIGHTED)
def test_the_area_of_joined_scores_is_within_the_bound_that_is_told(
    monkeypatch: pytest.MonkeyPatch, weighted: bool, ties: bool, kept: int
) -> None:
    batch = scored(weighted, ties, rows=1500)
    exact = sk.roc_auc_score(batch.target, probabilities(batch), sample_weight=batch.weights)
    monkeypatch.setattr(scores, "SCORES_KEPT", kept)
    sums = metric_sums(batch, 100)
    area, bound = area_of(sums)
    assert len(sums.scores.keys) <= kept
    assert abs(area - exact) <= bound + 1500 * EPS
    assert bound <= 0.5
    assert kept < 128 or bound < 0.05  # and the bound says something


@pytest.mark.parametrize("slab_blocks", [2, 8, 64])
def test_the_area_has_the_same_bits_for_every_slab_size(
    monkeypatch: pytest.MonkeyPatch, slab_blocks: int
) -> None:
    monkeypatch.setattr(scores, "SCORES_KEPT", 32)
    nodes = [
        METRIC_SCAN.sums(part, 16, Workspace())
        for part in pieces(scored(True, False, rows=1500), 25)
    ]
    slabs = [fold(nodes[at : at + slab_blocks]) for at in range(0, len(nodes), slab_blocks)]
    assert bits(fold(slabs)) == bits(fold(nodes))
