"""The metrics of every family against scikit-learn; their sums in every partition, at their bounds
and at their edges."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn import metrics as sk
from sklearn.calibration import calibration_curve

from streamlr.kernels.families import FAMILIES
from streamlr.kernels.fold import fold
from streamlr.kernels.metrics import score_counts as scores
from streamlr.kernels.metrics.classification import ClassSums, class_metrics, class_sums
from streamlr.kernels.metrics.ranking import Ranking
from streamlr.kernels.metrics.regression import (
    RegressionSums,
    deviance,
    regression_metrics,
    regression_sums,
)
from streamlr.kernels.metrics.score_counts import ScoreCounts, score_counts

Array = NDArray[np.float64]
ROWS = 900
# sums of 900 terms of order 1 to 10, in another order than scikit-learn's: 900 * 10 * 2e-16 = 2e-12
TIGHT = 1e-11
WEIGHTS = ["none", "whole", "any"]
BINARY_SCORES = ["distinct", "tied", "extreme"]


@dataclass(frozen=True)
class Scored:
    """Examples and what a model says of them."""

    Z: Array
    A: Array
    codes: NDArray[np.intp]
    weights: Array | None

    @property
    def omega(self) -> Array:
        return np.ones(len(self.codes)) if self.weights is None else self.weights

    @property
    def probabilities(self) -> Array:
        """Of all classes, (k, C)."""
        return np.stack([1 - self.A[0], self.A[0]], axis=1) if len(self.A) == 1 else self.A.T

    @property
    def predicted(self) -> NDArray[np.intp]:
        return (self.Z[0] > 0).astype(np.intp) if len(self.Z) == 1 else self.Z.argmax(axis=0)

    def rows(self, start: int, stop: int) -> Scored:
        here = slice(start, stop)
        return Scored(
            self.Z[:, here],
            self.A[:, here],
            self.codes[here],
            None if self.weights is None else self.weights[here],
        )

    def sums(self) -> ClassSums:
        C = max(2, len(self.Z))
        Y = (
            (self.codes == 1)[None].astype(float)
            if len(self.Z) == 1
            else (self.codes == np.arange(C)[:, None]).astype(float)
        )
        if len(self.Z) == 1:
            loss, _ = FAMILIES["logistic"].loss_and_activation(self.Z, Y)
        else:
            top = self.Z.max(axis=0)
            loss = (np.log(np.exp(self.Z - top).sum(axis=0)) + top - (Y * self.Z).sum(axis=0))[None]
        return class_sums(self.Z, Y, loss, self.A, self.omega)

    def in_blocks(self, block: int) -> list[ClassSums]:
        return [
            self.rows(start, start + block).sums() for start in range(0, len(self.codes), block)
        ]

    def report(self) -> dict[str, Any]:
        return class_metrics(fold(self.in_blocks(70)), list(range(max(2, len(self.Z)))))


def weights_of(kind: str, rng: np.random.Generator, rows: int) -> Array | None:
    drawn = {
        "none": None,
        "whole": rng.integers(0, 4, rows).astype(float),
        "any": rng.uniform(0, 2, rows),
    }[kind]
    if drawn is not None:
        drawn[::7] = 0.0
    return drawn


def scored(
    C: int, weights: str = "none", kind: str = "distinct", seed: int = 0, rows: int = ROWS
) -> Scored:
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(1 if C == 2 else C, rows)) * 1.5
    if kind == "tied":
        Z = np.round(Z)
    if C == 2:
        A = FAMILIES["logistic"].activate(Z)
        codes = (rng.random(rows) < A[0] ** 1.3).astype(np.intp)
        if (
            kind == "extreme"
            # probabilities of exactly 0 and 1, all of them right: a wrong one would cost
            # scikit-learn's log-loss its clip
        ):
            Z = np.where(rng.random(rows) < 0.4, np.where(codes == 1, 800.0, -800.0), Z[0])[None]
            A = FAMILIES["logistic"].activate(Z)
    else:
        E = np.exp(Z - Z.max(axis=0))
        A = E / E.sum(axis=0)
        codes = (A.cumsum(axis=0) < rng.random(rows)).sum(axis=0).clip(max=C - 1)
    return Scored(Z, A, codes, weights_of(weights, rng, rows))


def assert_is(found: Any, expected: Any, name: str) -> None:
    np.testing.assert_allclose(
        np.asarray(found, dtype=float), expected, rtol=TIGHT, atol=TIGHT, err_msg=name
    )


# Classes ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize(
    ("C", "kind"),
    [*((2, kind) for kind in BINARY_SCORES), (3, "distinct"), (3, "tied"), (12, "distinct")],
)
def test_what_is_told_of_predicted_classes_is_what_scikit_learn_tells(
    C: int, kind: str, weights: str, seed: int
) -> None:
    data = scored(C, weights, kind, seed)
    found, y, given = data.report(), data.codes, {"sample_weight": data.weights}
    assert_is(
        found["confusion_matrix"],
        sk.confusion_matrix(y, data.predicted, labels=range(C), **given),
        "confusion matrix",
    )
    for name, metric in (
        ("accuracy", sk.accuracy_score),
        ("balanced_accuracy", sk.balanced_accuracy_score),
        ("cohen_kappa", sk.cohen_kappa_score),
        ("matthews_correlation", sk.matthews_corrcoef),
    ):
        assert_is(found[name], metric(y, data.predicted, **given), name)
    report = sk.classification_report(
        y, data.predicted, labels=range(C), output_dict=True, zero_division=0.0, **given
    )
    rows = [
        *((found["per_class"][i], report[str(i)]) for i in range(C)),
        (found["macro_average"], report["macro avg"]),
        (found["weighted_average"], report["weighted avg"]),
    ]
    for mine, theirs in rows:
        for name in ("precision", "recall", "f1_score", "support"):
            assert_is(
                mine[name], theirs[name.replace("_", "-") if name == "f1_score" else name], name
            )


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("kind", BINARY_SCORES)
def test_what_is_told_of_probabilities_of_two_classes_is_what_scikit_learn_tells(
    kind: str, weights: str, seed: int
) -> None:
    data = scored(2, weights, kind, seed)
    found, y, p, given = data.report(), data.codes, data.A[0], {"sample_weight": data.weights}
    for name, metric in (
        ("log_loss", sk.log_loss),
        ("brier_score", sk.brier_score_loss),
        ("auc", sk.roc_auc_score),
        ("average_precision", sk.average_precision_score),
    ):
        assert_is(found[name], metric(y, p, **given), name)
    assert (found["auc_error_bound"], found["average_precision_error_bound"]) == (0.0, 0.0)


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize(("C", "kind"), [(3, "distinct"), (3, "tied"), (12, "distinct")])
def test_what_is_told_of_probabilities_of_many_classes_is_what_scikit_learn_tells(
    C: int, kind: str, weights: str
) -> None:
    data = scored(C, weights, kind)
    found, y, P, given = (
        data.report(),
        data.codes,
        data.probabilities,
        {"sample_weight": data.weights},
    )
    assert_is(found["log_loss"], sk.log_loss(y, P, **given), "log-loss")
    one_hot = np.eye(C)[y]
    assert_is(
        found["brier_score"],
        np.average(((P - one_hot) ** 2).sum(axis=1), weights=data.weights),
        "Brier score",
    )  # of Brier's own scale: 0 to 2
    for average, name in (("macro", "auc"), ("weighted", "auc_weighted")):
        assert_is(
            found[name], sk.roc_auc_score(y, P, multi_class="ovr", average=average, **given), name
        )
    for average, name in (
        ("macro", "average_precision"),
        ("weighted", "average_precision_weighted"),
    ):
        assert_is(
            found[name], sk.average_precision_score(one_hot, P, average=average, **given), name
        )
    for i, row in enumerate(found["per_class"]):
        assert_is(row["auc"], sk.roc_auc_score(y == i, P[:, i], **given), "area of a class")
        assert_is(
            row["average_precision"],
            sk.average_precision_score(y == i, P[:, i], **given),
            "average precision of a class",
        )
    assert (found["auc_error_bound"], found["average_precision_error_bound"]) == (0.0, 0.0)


@pytest.mark.parametrize("rows", [7, 333, 900, 1001])
@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
@pytest.mark.parametrize(("C", "kind"), [*((2, kind) for kind in BINARY_SCORES), (5, "distinct")])
def test_calibration_is_the_curve_of_scikit_learn(
    C: int, kind: str, strategy: str, rows: int
) -> None:
    data = scored(C, "none", kind, rows=rows)
    top, right = (
        (data.A[0], data.codes)
        if C == 2
        else (data.A.max(axis=0), (data.predicted == data.codes).astype(int))
    )
    rate, mean = calibration_curve(right, top, n_bins=10, strategy=strategy)
    found = data.report()["calibration"]
    assert_is([row["observed_rate"] for row in found[strategy]], rate, "rate")
    assert_is([row["mean_predicted"] for row in found[strategy]], mean, "mean")
    weight = np.array([row["weight"] for row in found[strategy]])
    assert weight.sum() == rows
    assert_is(
        found["error" if strategy == "uniform" else "quantile_error"],
        np.average(np.abs(rate - mean), weights=weight),
        "expected error",
    )


@pytest.mark.parametrize("weights", ["whole", "any"])
@pytest.mark.parametrize("strategy", ["uniform", "quantile"])
@pytest.mark.parametrize(("C", "kind"), [(2, "distinct"), (2, "tied"), (5, "distinct")])
def test_weighted_calibration_is_that_of_the_rows_of_each_bin(
    C: int, kind: str, strategy: str, weights: str
) -> None:
    """scikit-learn's curve knows no weights: with whole ones the quantiles are those of repeated
    rows, with others the lowest scores that reach a tenth."""
    data = scored(C, weights, kind)
    top, right, omega = (
        data.probabilities.max(axis=1) if C > 2 else data.A[0],
        data.codes if C == 2 else data.predicted == data.codes,
        data.omega,
    )
    edges = np.linspace(0, 1, 11)[1:-1]
    if strategy == "quantile" and weights == "whole":
        edges = np.percentile(np.repeat(top, omega.astype(int)), edges * 100)
    elif strategy == "quantile":
        there = np.sort(top[omega > 0])
        edges = np.array(
            [
                next(score for score in there if omega[top <= score].sum() >= share * omega.sum())
                for share in edges
            ]
        )
    of = np.array([np.count_nonzero(edges < score) for score in top])
    bins = [
        (
            omega[of == k].sum(),
            np.average(right[of == k], weights=omega[of == k]),
            np.average(top[of == k], weights=omega[of == k]),
        )
        for k in range(10)
        if omega[of == k].sum() > 0
    ]
    found = data.report()["calibration"]
    assert_is(
        [[row["weight"], row["observed_rate"], row["mean_predicted"]] for row in found[strategy]],
        bins,
        strategy,
    )
    error = sum(weight * abs(rate - mean) for weight, rate, mean in bins) / omega.sum()
    assert_is(
        found["error" if strategy == "uniform" else "quantile_error"], error, "expected error"
    )


@pytest.mark.parametrize("C", [2, 4])
def test_whole_weights_equal_repeated_rows(C: int) -> None:
    data = scored(C, "whole")
    at = np.repeat(np.arange(ROWS), data.omega.astype(int))
    repeated = Scored(data.Z[:, at], data.A[:, at], data.codes[at], None)
    once, again = data.report(), repeated.report()
    assert once.pop("rows") != again.pop("rows")
    assert_same(once, again)


def assert_same(one: Any, two: Any) -> None:
    """The same document, numbers to `TIGHT`."""
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for name in one:
            if name != "roc_curve":  # its points are chosen for the eye
                assert_same(one[name], two[name])
    elif isinstance(one, list):
        assert len(one) == len(two)
        for a, b in zip(one, two, strict=True):
            assert_same(a, b)
    else:
        assert one == (
            two if two is None or isinstance(two, str) else pytest.approx(two, rel=TIGHT, abs=TIGHT)
        )


@pytest.mark.parametrize("C", [2, 4])
def test_the_scale_of_weights_changes_weights_alone(C: int) -> None:
    data = scored(C, "any")
    one, two = (
        data.report(),
        replace(data, weights=data.omega / 1024).report(),
    )  # a power of two: exact
    for name in (
        "log_loss",
        "brier_score",
        "accuracy",
        "auc",
        "average_precision",
        "cohen_kappa",
        "matthews_correlation",
    ):
        assert one[name] == two[name], name
    assert [row["mean_predicted"] for row in one["calibration"]["quantile"]] == [
        row["mean_predicted"] for row in two["calibration"]["quantile"]
    ]


@pytest.mark.parametrize("C", [2, 4])
def test_examples_of_no_weight_change_nothing_but_the_number_of_rows(C: int) -> None:
    data = scored(C, "any")
    there = data.omega > 0
    with_them, without = (
        data.sums(),
        Scored(data.Z[:, there], data.A[:, there], data.codes[there], data.omega[there]).sums(),
    )
    assert bits(with_them.scores) == bits(without.scores)
    assert with_them.n_rows == ROWS
    assert_same(
        class_metrics(replace(with_them, n_rows=0), [0] * C),
        class_metrics(replace(without, n_rows=0), [0] * C),
    )


def test_the_two_classes_of_a_softmax_are_told_of_as_those_of_a_sigmoid() -> None:
    one = scored(2, "any")
    Z = np.concatenate([-one.Z / 2, one.Z / 2])
    two = Scored(Z, one.probabilities.T, one.codes, one.weights)
    assert_same(class_metrics(one.sums(), [0, 1]), class_metrics(two.sums(), [0, 1]))


@pytest.mark.parametrize("weights", WEIGHTS)
def test_lift_is_that_of_the_sorted_rows(weights: str) -> None:
    """By the definition: rows in falling order, those at an edge of a tenth divided."""
    data = scored(2, weights)
    order = np.argsort(-data.A[0])
    omega, hit = data.omega[order], (data.codes * data.omega)[order]
    edges = np.linspace(0, omega.sum(), 11)
    captured = np.interp(edges, np.append(0, omega.cumsum()), np.append(0, hit.cumsum()))
    rows = data.report()["lift"]
    assert_is([row["positive_weight"] for row in rows], np.diff(captured), "hits")
    assert_is([row["capture"] for row in rows], captured[1:] / hit.sum(), "capture")
    assert_is([row["rate"] for row in rows], np.diff(captured) / (omega.sum() / 10), "rate")
    assert_is(
        [row["lift"] for row in rows],
        np.diff(captured) / (omega.sum() / 10) / (hit.sum() / omega.sum()),
        "lift",
    )
    assert_is(
        [row["cumulative_lift"] for row in rows],
        captured[1:] / hit.sum() / np.arange(0.1, 1.05, 0.1),
        "cumulative lift",
    )
    if weights == "none":
        assert [row["lowest_score"] for row in rows] == data.A[0][order][89::90].tolist()


def test_scores_that_tie_over_several_tenths_are_divided_in_proportion() -> None:
    rows = Ranking(
        np.array([0.25, 0.75]), np.array([1.0, 7.0]), np.array([4.0, 8.0]), np.zeros(2, dtype=bool)
    ).gains(4)
    assert_is([row["rate"] for row in rows], [7 / 15, 7 / 15, 7 / 15, 1 / 5], "rate")
    assert [row["lowest_score"] for row in rows] == [0.75, 0.75, 0.75, 0.25]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_the_roc_curve_goes_through_points_of_scikit_learns(weights: str) -> None:
    data = scored(2, weights)
    curve = data.report()["roc_curve"]
    false, true, _ = sk.roc_curve(
        data.codes, data.A[0], sample_weight=data.weights, drop_intermediate=False
    )
    exact = np.stack([false, true], axis=1)
    found = np.stack([curve["false_positive_rate"], curve["true_positive_rate"]], axis=1)
    assert max(np.abs(exact - point).max(axis=1).min() for point in found) < TIGHT
    assert found[0].tolist() == [0.0, 0.0]
    assert found[-1] == pytest.approx([1.0, 1.0])
    assert np.trapezoid(found[:, 1], found[:, 0]) == pytest.approx(
        sk.roc_auc_score(data.codes, data.A[0], sample_weight=data.weights), abs=0.01
    )


@pytest.mark.parametrize("there", [0, 1])
def test_of_one_class_alone_what_cannot_be_told_is_none(there: int) -> None:
    data = scored(2)
    found = replace(data, codes=np.full(ROWS, there)).report()
    assert (found["auc"], found["auc_error_bound"], found["roc_curve"]) == (None, None, None)
    assert found["average_precision"] == (None if there == 0 else 1.0)
    assert found["lift"][0]["lift"] == (None if there == 0 else pytest.approx(1.0))
    assert found["balanced_accuracy"] == pytest.approx(np.mean(data.predicted == there))
    assert found["matthews_correlation"] == 0.0
    certain = Scored(
        np.full((1, 9), -1.0 if there == 0 else 1.0),
        np.full((1, 9), float(there)),
        np.full(9, there),
        None,
    ).report()
    assert (certain["cohen_kappa"], certain["accuracy"]) == (None, 1.0)


def test_classes_that_are_not_in_the_store_are_left_out_of_the_means_of_areas() -> None:
    data = scored(4)
    found = replace(data, codes=np.minimum(data.codes, 2)).report()
    assert [row["auc"] is None for row in found["per_class"]] == [False, False, False, True]
    assert found["auc"] == pytest.approx(np.mean([row["auc"] for row in found["per_class"][:3]]))
    assert found["per_class"][3]["support"] == 0.0


# Numbers ------------------------------------------------------------------------------------------


def numbers(
    weights: str, *, counts: bool, scale: float = 1.0, seed: int = 0
) -> tuple[Array, Array, Array, Array | None]:
    """Z, A and Y, (1, k), and weights."""
    rng = np.random.default_rng(seed)
    Z = rng.normal(size=(1, ROWS)) * 0.7 + np.log(scale)
    A = np.exp(Z) if counts else Z
    Y = rng.poisson(A).astype(float) if counts else Z + rng.normal(size=Z.shape) + 1e3
    return Z, A, Y, weights_of(weights, rng, ROWS)


def number_sums(
    Z: Array, A: Array, Y: Array, weights: Array | None, *, counts: bool, block: int = 70
) -> list[RegressionSums]:
    omega = np.ones(Z.shape[1]) if weights is None else weights
    parts = [slice(start, start + block) for start in range(0, Z.shape[1], block)]
    return [
        regression_sums(
            Z[:, at], Y[:, at], (A - Y)[:, at] ** 2 / 2, A[:, at], omega[at], counts=counts
        )
        for at in parts
    ]


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("family", [name for name in FAMILIES if name in ("linear", "poisson")])
def test_what_is_told_of_numbers_is_what_scikit_learn_tells(
    family: str, weights: str, seed: int
) -> None:
    counts = family == "poisson"
    Z, A, Y, omega = numbers(weights, counts=counts, seed=seed)
    found, given = (
        regression_metrics(fold(number_sums(Z, A, Y, omega, counts=counts))),
        {"sample_weight": omega},
    )
    expected = {
        "r2": sk.r2_score,
        "mean_squared_error": sk.mean_squared_error,
        "mean_absolute_error": sk.mean_absolute_error,
    }
    if counts:
        expected |= {
            "mean_poisson_deviance": sk.mean_poisson_deviance,
            "d2_poisson": lambda y, a, sample_weight: sk.d2_tweedie_score(
                y, a, power=1, sample_weight=sample_weight
            ),
        }
    for name, metric in expected.items():
        assert_is(found[name], metric(Y[0], A[0], **given), name)
    assert set(found) == {"rows", "weight", "loss", *expected}


@pytest.mark.parametrize("scale", [1e-3, 1.0, 1e6])
def test_the_deviance_keeps_its_digits_at_any_scale(scale: float) -> None:
    mpmath = pytest.importorskip("mpmath")
    mpmath.mp.dps = 60
    rng = np.random.default_rng(3)
    mean = rng.uniform(0.5, 2, 200) * scale
    y = mean * (1 + np.concatenate([rng.normal(size=100) * 1e-4, rng.uniform(-1, 5, 100)]))
    exact = [
        2 * (a * mpmath.log(mpmath.mpf(a) / b) - mpmath.mpf(a) + b)
        for a, b in zip(y.tolist(), mean.tolist(), strict=True)
    ]
    # r = y / mean - 1 is exact to an eps of 1; 2 mean (r²/2) then to 2 eps / r, where r is 1e-6 at
    # least
    assert np.abs(y / mean - 1).min() > 1e-6
    np.testing.assert_allclose(deviance(y, mean), np.array(exact, dtype=float), rtol=4e-10)


def test_a_mean_too_small_for_a_float_has_its_deviance() -> None:
    found = deviance(
        np.array([2.0, 0.0, 0.0]),
        np.array([0.0, 0.0, 3.0]),
        np.array([-800.0, -800.0, np.log(3.0)]),
    )
    assert found.tolist() == pytest.approx([2 * (2 * (np.log(2) + 800) - 2), 0.0, 6.0])


@pytest.mark.parametrize("value", [0.0, 3.3])
@pytest.mark.parametrize("counts", [False, True])
def test_targets_that_are_all_equal_have_no_share_explained(counts: bool, value: float) -> None:
    Z, A, Y, omega = numbers("any", counts=counts)
    found = regression_metrics(
        fold(number_sums(Z, A, np.full_like(Y, value), omega, counts=counts))
    )
    assert found["r2"] is None
    assert found.get("d2_poisson") is None


def test_a_large_mean_costs_r2_no_digits() -> None:
    Z, A, Y, omega = numbers("any", counts=False)
    near, far = (
        regression_metrics(fold(number_sums(Z + far, A + far, Y + far, omega, counts=False)))["r2"]
        for far in (0.0, 2.0**20)
    )
    assert far == pytest.approx(
        near, rel=1e-8
    )  # the targets themselves lose 20 of their bits: eps * 2**20 = 2e-10 of a spread of 1


# Sums that merge ----------------------------------------------------------------------------------


def bits(record: Any) -> Any:
    """Everything in a record of sums, comparable to the bit."""
    if dataclasses.is_dataclass(record):
        return [bits(getattr(record, field.name)) for field in dataclasses.fields(record)]
    return np.asarray(record, dtype=None if record is not None else float).tobytes()


@pytest.mark.parametrize("kept", [40, 10**6])
@pytest.mark.parametrize("slab", [2, 4, 16])
@pytest.mark.parametrize("kind", ["two", "many", "counts"])
def test_sums_do_not_depend_on_the_slabs(
    kind: str, slab: int, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "SCORES_KEPT", kept)
    nodes: list[Any] = (
        number_sums(*numbers("any", counts=True), counts=True, block=30)
        if kind == "counts"
        else scored(2 if kind == "two" else 5, "any").in_blocks(30)
    )
    assert bits(fold(fold(nodes[at : at + slab]) for at in range(0, len(nodes), slab))) == bits(
        fold(nodes)
    )


@pytest.mark.parametrize("weights", WEIGHTS)
@pytest.mark.parametrize("kept", [16, 64, 256])
@pytest.mark.parametrize("kind", ["distinct", "tied"])
@pytest.mark.parametrize("C", [2, 4])
def test_areas_of_joined_scores_are_within_the_bound_that_is_told(
    C: int, kind: str, kept: int, weights: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = scored(C, weights, kind, rows=2000)
    exact = data.report()
    monkeypatch.setattr(scores, "SCORES_KEPT", kept)
    found = data.report()
    rows = [
        (found, exact),
        *(zip(found["per_class"], exact["per_class"], strict=True) if C > 2 else ()),
    ]
    for mine, truth in rows:
        for name in ("auc", "average_precision"):
            assert abs(mine[name] - truth[name]) <= mine[f"{name}_error_bound"] + TIGHT
            assert kept < 256 or mine[f"{name}_error_bound"] < 0.1  # and the bound says something
    assert [found[name] for name in ("log_loss", "accuracy", "confusion_matrix")] == [
        exact[name] for name in ("log_loss", "accuracy", "confusion_matrix")
    ]
    assert found["calibration"]["uniform"] == exact["calibration"]["uniform"]


@pytest.mark.parametrize("misses_first", [True, False])
def test_the_bound_of_average_precision_holds_and_is_met_by_the_worst_order_within_joined_scores(
    misses_first: bool,
) -> None:
    """Every tenth of the ranking is joined; within it all misses stand above all hits, or below
    them at one score."""
    rng = np.random.default_rng(0)
    hits, misses = (
        rng.integers(100, 300, 10),
        rng.integers(1, 10 if misses_first else 300, 10),
    )  # few misses: more to lose than to gain
    y, p = [], []
    for i, (a, b) in enumerate(zip(hits.tolist(), misses.tolist(), strict=True)):
        within = np.linspace(0, 0.09, a + b)
        y += [1] * a + [0] * b
        p += (
            0.1 * i + (within if misses_first else np.append(np.full(a, 0.095), within[:b]))
        ).tolist()
    exact = sk.average_precision_score(y, p)
    joined = Ranking(
        np.arange(10) / 10, hits.astype(float), misses.astype(float), np.ones(10, dtype=bool)
    ).average_precision()
    assert joined is not None
    value, bound = joined
    assert abs(exact - value) <= bound + TIGHT
    assert (value - exact if misses_first else exact - value) == pytest.approx(
        bound, rel=0.05
    )  # hits of 1 in hundreds are not quite the limit of many


def test_probabilities_on_an_edge_belong_to_the_bin_below() -> None:
    p = np.arange(41) / 40
    A, y = p[None], (np.arange(41) % 3 == 0).astype(np.intp)
    data = Scored(np.log(A.clip(1e-9, 1 - 1e-9) / (1 - A.clip(1e-9, 1 - 1e-9))), A, y, None)
    rate, mean = calibration_curve(y, p, n_bins=10)
    rows = data.report()["calibration"]["uniform"]
    assert_is([row["observed_rate"] for row in rows], rate, "rate")
    assert_is([row["mean_predicted"] for row in rows], mean, "mean")


@pytest.mark.parametrize("C", [2, 4])
def test_calibration_of_joined_scores_is_as_near_as_is_told(
    C: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = scored(C, "none", rows=3000)
    exact = fold(data.in_blocks(70)).scores.of(0)
    monkeypatch.setattr(scores, "SCORES_KEPT", 400)
    joined = fold(data.in_blocks(70)).scores.of(0)
    assert 0 < joined.resolution < 0.2
    of_old = np.searchsorted(
        joined.score * (1 + 2 * joined.resolution), exact.score
    )  # each old score lies in the joined one that covers it
    assert (np.abs(joined.score[of_old] - exact.score) <= 2 * joined.resolution * exact.score).all()
    assert joined.positive.sum() == exact.positive.sum()
    whole, near = exact.quantile_bins(), joined.quantile_bins()
    assert near[:, 2].sum() == pytest.approx(whole[:, 2].sum(), rel=joined.resolution)


@pytest.mark.parametrize(("C", "rows"), [(2, 300_000), (2, 600_000), (300, 1500), (300, 3000)])
def test_memory_of_the_scores_grows_neither_with_rows_nor_with_classes(C: int, rows: int) -> None:
    rng = np.random.default_rng(0)
    groups = 1 if C == 2 else C
    values, codes = rng.random((groups, rows)), rng.integers(0, C, rows)
    halves = [
        score_counts(values[:, half], codes[half], np.ones(rows // 2))
        for half in (slice(0, rows // 2), slice(rows // 2, rows))
    ]
    total = halves[0] + halves[1]
    for counts in (*halves, total):
        assert len(counts.keys) <= scores.SCORES_KEPT
    assert (
        nbytes(total) <= 27 * scores.SCORES_KEPT
    )  # 8 bytes of key, 16 of weights, 2 of group, 1 of spread
    assert len(total.keys) > scores.SCORES_KEPT // 4  # and what there is room for is used
    assert total.positive.sum() + total.negative.sum() == groups * rows


def nbytes(counts: ScoreCounts) -> int:
    return (
        counts.group.nbytes
        + counts.keys.nbytes
        + counts.positive.nbytes
        + counts.negative.nbytes
        + counts.spread.nbytes
    )


def test_more_groups_than_scores_are_kept_keep_one_score_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(scores, "SCORES_KEPT", 3)
    values = np.random.default_rng(0).random((5, 40))
    values[:, :2] = [0.0, 1.0]  # which share no bit
    counts = score_counts(values, np.arange(40) % 5, np.ones(40))
    counts = counts + counts
    assert counts.group.tolist() == [0, 1, 2, 3, 4]
    assert [counts.of(i).area() for i in range(5)] == [(0.5, 0.5)] * 5


def test_no_more_bits_are_dropped_than_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    data = scored(12)
    for kept in range(20, 3000, 77):
        monkeypatch.setattr(scores, "SCORES_KEPT", 10**6)
        everything = data.sums().scores
        monkeypatch.setattr(scores, "SCORES_KEPT", kept)
        dropped = everything.bounded()
        assert (
            len(dropped.keys)
            <= kept
            < len(everything.with_bits_dropped(dropped.dropped_bits - 1).keys)
        )


def test_groups_taken_a_few_at_a_time_give_the_counts_of_all_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    data = scored(6, "any")
    weighty = np.count_nonzero(data.omega)
    at_once = score_counts(data.A, data.codes + 5, data.omega, first_group=5)
    monkeypatch.setattr(scores, "_SORTED_AT_ONCE", 2 * weighty)
    sorted_sizes = []
    counts_of = scores._counts_of
    monkeypatch.setattr(
        scores,
        "_counts_of",
        lambda values, *rest: (sorted_sizes.append(values.size), counts_of(values, *rest))[1],
    )
    assert bits(score_counts(data.A, data.codes + 5, data.omega, first_group=5)) == bits(at_once)
    assert sorted_sizes == [2 * weighty] * 3


@pytest.mark.parametrize("kept", [5, 40, 700, 10**6])
@pytest.mark.parametrize(
    ("groups", "kind"),
    [(1, "distinct"), (1, "tied"), (7, "distinct"), (7, "tied"), (7, "saturated")],
)
def test_sorting_scores_of_equal_weight_gives_the_counts_of_ordering_the_examples(
    groups: int, kind: str, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scores, "SCORES_KEPT", kept)
    rng = np.random.default_rng(kept)
    values = rng.random((groups, 300))
    values = (
        np.round(values, 1)
        if kind == "tied"
        else np.where(values > 0.5, 1.0, -0.0)
        if kind == "saturated"
        else values
    )
    codes = rng.integers(-1, groups + 2, 300) + 3  # some are hits in groups that stand elsewhere
    once, twice = (
        score_counts(values, codes, np.full(300, weight), first_group=3) for weight in (1.0, 2.0)
    )
    assert bits(once) == bits(
        replace(twice, positive=twice.positive / 2, negative=twice.negative / 2)
    )
    assert (once.dropped_bits == 0) == (
        kept > values.size
        or (kind == "saturated" and kept > 2 * groups)
        or (kind == "tied" and kept > 11 * groups)
    )
    for group in range(groups):
        at = once.of(group + 3)
        shifted = np.uint64(once.dropped_bits)
        keys = (values[group] + 0.0).view(np.uint64)
        expected = np.unique(keys >> shifted)
        assert once.keys[once.group == group + 3].tolist() == expected.tolist()
        for i, key in enumerate(expected):
            here = keys >> shifted == key
            hits = np.count_nonzero(codes[here] == group + 3)
            assert (at.positive[i], at.negative[i], at.spread[i]) == (
                hits,
                np.count_nonzero(here) - hits,
                len(np.unique(keys[here])) > 1,
            )


def test_weights_that_are_all_zero_in_a_block_add_nothing() -> None:
    data = scored(3, "any")
    nothing = replace(data, weights=np.zeros(ROWS)).sums()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        both = data.sums() + nothing
    assert bits(both.scores) == bits(data.sums().scores)
    Z, A, Y, omega = numbers("any", counts=True)
    empty, full = (
        fold(number_sums(Z, A, Y, values, counts=True)) for values in (np.zeros(ROWS), omega)
    )
    for total in (empty + full, full + empty):
        assert regression_metrics(replace(total, n_rows=0)) == regression_metrics(
            replace(full, n_rows=0)
        )
