"""How well probabilities of classes fit labels, as one sum that merges.

Log-loss, Brier score, confusion matrix, calibration in fixed bins, and the weights at every
distinct score, from which areas and gains follow. Two classes are ranked by the probability of the
second; of more, each is ranked against the rest, and calibration is that of the *confidence*: the
probability of the most probable class, beside how often that is the right one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.metrics.confusion import agreement, class_report
from streamlr.kernels.metrics.ranking import BINS, Ranking
from streamlr.kernels.metrics.score_counts import ScoreCounts, score_counts

Array = NDArray[np.float64]
_EDGES = np.linspace(0.0, 1.0, BINS + 1)


@dataclass(frozen=True, slots=True)
class ClassSums:
    """Sums over some rows: a commutative monoid."""

    n_rows: int
    """Rows."""
    weight_sum: float
    """Their weight."""
    log_loss_sum: float
    """Weighted loss."""
    brier_sum: float
    """Weighted squared difference of probability and Y: of the second class of two, of all classes
    of more."""
    confusion_sum: Array
    """Weight by true and predicted class, (C, C)."""
    calibration_sum: Array
    """Weight, weight of hits and weighted sum of scores by score in bins of equal width, (bins, 3).
    """
    scores: ScoreCounts
    """Of the second class of two; of each class of more, and of the confidence, which comes last.
    """

    @property
    def finite_check(self) -> Array:
        return np.array([self.log_loss_sum, self.brier_sum])

    def __add__(self, other: ClassSums) -> ClassSums:
        return ClassSums(
            self.n_rows + other.n_rows,
            self.weight_sum + other.weight_sum,
            self.log_loss_sum + other.log_loss_sum,
            self.brier_sum + other.brier_sum,
            self.confusion_sum + other.confusion_sum,
            self.calibration_sum + other.calibration_sum,
            self.scores + other.scores,
        )


def class_sums(Z: Array, Y: Array, loss: Array, A: Array, omega: Array) -> ClassSums:
    """The sums over some examples.

    Parameters
    ----------
    Z
        The linear predictor, (c, k): one output for two classes, one for each class of more.
    Y
        1 where the example belongs to the output's class, (c, k).
    loss
        Loss of every example, (1, k).
    A
        Probabilities, (c, k).
    omega
        Weight of each, (k,).
    """
    C = max(2, len(Y))
    codes = Y[0].astype(np.intp) if len(Y) == 1 else (np.arange(float(C)) @ Y).astype(np.intp)
    predicted = (Z[0] > 0).astype(np.intp) if len(Z) == 1 else _largest(Z)
    if C == 2:
        A, Y = A[-1:], Y[-1:]
    rest = A - Y
    brier = float(np.einsum("ck,ck->k", rest, rest) @ omega)
    if not np.isfinite(A).all():  # a NaN has no rank; the probe of the sums has the batch looked at
        A = np.zeros_like(A)
    if C == 2:
        top, hits, counts = A[0], codes == 1, score_counts(A, 1 - codes, omega)
    else:
        top, hits = A[predicted, np.arange(len(predicted))], codes == predicted
        counts = score_counts(A, codes, omega) + score_counts(
            top[None], np.where(hits, C, -1), omega, first_group=C
        )
    bins = np.searchsorted(_EDGES[1:-1], top)
    calibration = np.stack(
        [
            np.bincount(bins, values, BINS)
            for values in (omega, np.where(hits, omega, 0.0), omega * top)
        ],
        axis=1,
    ).astype(np.float64)
    confusion = np.bincount(C * codes + predicted, omega, C * C).astype(np.float64).reshape(C, C)
    return ClassSums(
        len(omega),
        float(omega.sum()),
        float(loss[0] @ omega),
        brier,
        confusion,
        calibration,
        counts,
    )


def _largest(Z: Array) -> NDArray[np.intp]:
    """The first row that holds the largest of each column, (k,): `argmax` along columns takes ten
    times as long."""
    rows, columns = np.nonzero(Z.max(axis=0) == Z)
    found = np.zeros(Z.shape[1], dtype=np.intp)
    found[columns[::-1]] = rows[::-1]  # of several the first is written last
    return found


def class_metrics(sums: ClassSums, classes: list[Any]) -> dict[str, Any]:
    """What is reported of the sums; ``weight_sum`` must not be 0."""
    binary = len(classes) == 2
    ranked = sums.scores.of(0 if binary else len(classes))
    report = class_report(sums.confusion_sum, classes)
    areas = _areas_of_two(ranked) if binary else _areas_of_many(sums, report["per_class"])
    return {
        "rows": sums.n_rows,
        "weight": sums.weight_sum,
        "log_loss": sums.log_loss_sum / sums.weight_sum,
        "brier_score": sums.brier_sum / sums.weight_sum,
        **agreement(sums.confusion_sum),
        **areas,
        "classes": classes,
        "confusion_matrix": sums.confusion_sum.tolist(),
        **report,
        "calibration": _calibration(
            sums.calibration_sum, ranked, "probability" if binary else "confidence"
        ),
        "lift": ranked.gains() if binary else None,
        "roc_curve": ranked.roc_curve() if binary else None,
    }


def _areas_of_two(ranked: Ranking) -> dict[str, float | None]:
    area, precision = ranked.area() or (None, None), ranked.average_precision() or (None, None)
    return {
        "auc": area[0],
        "auc_error_bound": area[1],
        "average_precision": precision[0],
        "average_precision_error_bound": precision[1],
    }


def _areas_of_many(sums: ClassSums, per_class: list[dict[str, Any]]) -> dict[str, float | None]:
    """Areas of each class against the rest, entered in its report; and their means, over the
    classes that have one."""
    for i, row in enumerate(per_class):
        row.update(_areas_of_two(sums.scores.of(i)))
    found: dict[str, float | None] = {}
    for name in ("auc", "average_precision"):
        known = [row for row in per_class if row[name] is not None]
        values, bounds, support = (
            np.array([row[key] for row in known])
            for key in (name, f"{name}_error_bound", "support")
        )
        found[name] = float(values.mean()) if known else None
        found[f"{name}_error_bound"] = float(bounds.mean()) if known else None
        found[f"{name}_weighted"] = (
            float(values @ support / support.sum()) if known and support.sum() > 0 else None
        )
    return found


def _calibration(uniform: Array, ranked: Ranking, of: str) -> dict[str, Any]:
    """Both tables, without their empty bins, and the expected calibration error of each: the mean
    distance of score and share of hits."""
    quantile = ranked.quantile_bins()
    return {
        "of": of,
        "error": _calibration_error(uniform),
        "uniform": _bin_rows(uniform),
        "quantile_error": _calibration_error(quantile),
        "quantile": _bin_rows(quantile),
        "quantile_score_resolution": ranked.resolution,
    }


def _calibration_error(bins: Array) -> float:
    return float(np.abs(bins[:, 2] - bins[:, 1]).sum() / bins[:, 0].sum())


def _bin_rows(bins: Array) -> list[dict[str, float]]:
    return [
        {
            "mean_predicted": float(score / weight),
            "observed_rate": float(hits / weight),
            "weight": float(weight),
        }
        for weight, hits, score in bins
        if weight > 0
    ]
