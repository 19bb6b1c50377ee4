"""What the weights of hits and misses at every distinct score tell of a ranking.

    area under the ROC curve    the chance that a hit is ranked above a miss, ties counting half
    (Mann and Whitney) average precision           the sum over the scores, from the highest, of
    (gain of recall) x (precision there and above) gains                       what share of the
    hits stands in the first tenth, fifth, ... of the ranking quantile bins               mean score
    and share of hits between the tenths of the scores

Different scores that were joined are a *spread* score. The hits and misses in it have some order
that is not known; both areas come with a bound of what that can change.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Row = dict[str, float | None]

BINS = 10
CURVE_POINTS = 257


@dataclass(frozen=True, slots=True)
class Ranking:
    """Weights of hits and misses by score."""

    score: Array
    """Distinct scores, ascending, (s,)."""
    positive: Array
    """Weight of hits at each, (s,)."""
    negative: Array
    """Weight of misses at each, (s,)."""
    spread: NDArray[np.bool_]
    """Whether different scores were joined there, (s,)."""
    resolution: float = 0.0
    """Relative error of the scores."""

    def area(self) -> tuple[float, float] | None:
        """Area under the ROC curve and the bound of its error; None where there are no hits, or no
        misses."""
        pairs = self.positive.sum() * self.negative.sum()
        if pairs <= 0:
            return None
        below = np.cumsum(self.negative) - self.negative
        ties = self.positive * self.negative
        area = float((self.positive @ below + 0.5 * ties.sum()) / pairs)
        return area, float(0.5 * ties[self.spread].sum() / pairs)

    def average_precision(self) -> tuple[float, float] | None:
        """Average precision and the bound of its error; None where there are no hits.

        At worst all misses of a spread score stand above all its hits, which then follow one by
        one: the integral of t / (t + misses). At best its hits stand above its misses, at one
        score.
        """
        total = self.positive.sum()
        if total <= 0:
            return None
        above, misses_above, all_above = self._descending()
        hits, misses = self.positive[::-1], self.negative[::-1]
        with np.errstate(
            invalid="ignore", divide="ignore"
        ):  # 0 / 0 where there are no hits, which gain nothing
            tied = np.where(hits > 0, hits * above / all_above, 0.0)
        joined = self.spread[::-1] & (hits > 0) & (misses > 0)
        h, before = hits[joined], (misses_above - misses)[joined]
        best = h * above[joined] / (above[joined] + before)
        f = misses_above[joined]
        worst = h - f * np.log1p(h / ((above - hits)[joined] + f))
        bound = (
            max(float((best - tied[joined]).sum()), float((tied[joined] - worst).sum()), 0.0)
            / total
        )
        return float(tied.sum() / total), float(bound)

    def roc_curve(self) -> dict[str, list[float]] | None:
        """Rates of false and true positives, at no more points than a picture shows; None where
        there is no area."""
        if self.area() is None:
            return None
        hits, misses, _ = self._descending()
        true = np.concatenate([[0.0], hits / hits[-1]])
        false = np.concatenate([[0.0], misses / misses[-1]])
        way = true + false
        at = np.unique(
            np.minimum(np.searchsorted(way, np.linspace(0.0, way[-1], CURVE_POINTS)), len(way) - 1)
        )
        return {"false_positive_rate": false[at].tolist(), "true_positive_rate": true[at].tolist()}

    def gains(self, bins: int = BINS) -> list[Row]:
        """Tenths of the weight, from the highest scores on; a score that lies in two of them is
        divided in proportion."""
        hits, _, weight = self._descending()
        if not len(hits):
            return []
        total, share = float(weight[-1]), np.linspace(0.0, 1.0, bins + 1)
        captured = np.interp(
            share * total, np.concatenate([[0.0], weight]), np.concatenate([[0.0], hits])
        )
        lowest = self.score[::-1][
            np.minimum(np.searchsorted(weight, share[1:] * total * (1.0 - 1e-12)), len(weight) - 1)
        ]
        rate = float(hits[-1]) / total
        rows: list[Row] = []
        for i, found in enumerate(np.diff(captured).tolist()):
            here, known = found * bins / total, rate > 0
            rows.append(
                {
                    "share": float(share[i + 1]),
                    "lowest_score": float(lowest[i]),
                    "weight": total / bins,
                    "positive_weight": found,
                    "rate": here,
                    "lift": here / rate if known else None,
                    "capture": float(captured[i + 1] / hits[-1]) if known else None,
                    "cumulative_lift": float(captured[i + 1] / hits[-1] / share[i + 1])
                    if known
                    else None,
                }
            )
        return rows

    def quantile_bins(self, bins: int = BINS) -> Array:
        """Weight, weight of hits and sum of scores between the quantiles of the scores, (bins,
        3)."""
        if not len(self.score):
            return np.zeros((bins, 3))
        at = np.searchsorted(self._quantiles(bins)[1:-1], self.score)
        weight = self.positive + self.negative
        return np.stack(
            [
                np.bincount(at, values, bins)
                for values in (weight, self.positive, weight * self.score)
            ],
            axis=1,
        )

    def _quantiles(self, bins: int) -> Array:
        """Quantiles of the scores, (bins + 1,).

        Whole weights count rows, and the quantiles are NumPy's, between two rows if need be; with
        other weights they are the lowest scores at or below which lies that share of the weight.
        """
        share = (
            np.linspace(0.0, 1.0, bins + 1) * 100 / 100
        )  # rounded as scikit-learn's percentages are
        reached = np.cumsum(self.positive + self.negative)
        if (reached != np.floor(reached)).any():
            return self.score[
                np.minimum(np.searchsorted(reached, share * reached[-1]), len(reached) - 1)
            ]
        row = (reached[-1] - 1) * share
        below = np.floor(row)
        low, high = (
            self.score[np.searchsorted(reached, np.minimum(at, reached[-1] - 1), side="right")]
            for at in (below, below + 1)
        )
        quantiles: Array = np.where(
            row - below < 0.5,
            low + (high - low) * (row - below),
            high - (high - low) * (1 - (row - below)),
        )
        return quantiles

    def _descending(self) -> tuple[Array, Array, Array]:
        """Weight of hits, of misses and of both at each score and above, from the highest score
        on."""
        hits, misses = np.cumsum(self.positive[::-1]), np.cumsum(self.negative[::-1])
        return hits, misses, hits + misses
