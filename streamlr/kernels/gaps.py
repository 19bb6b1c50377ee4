"""Missing values: which stored values stand for them, how many there are, and where the first is.

A writer that has no NaN, as for integers, marks a missing value by one that should not occur.
Whether it does is known when every value has been looked at, which a scan of the features does
anyway: it counts the marks of a block, and asks what it was to ask of blocks that have none.
Counts of two sets of rows add up, so they are exact on every engine.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.errors import MissingValueError
from streamlr.kernels.batch import Batch, Workspace, sum_over_leaves


@dataclass(frozen=True, slots=True)
class Marks:
    """Stored values of one array that stand for missing ones."""

    values: NDArray[Any]
    """The marks, (v,), in the type of the array."""
    reasons: tuple[str, ...]
    """Why each of them is one, and what to do about it: the end of a message."""
    name: str
    """How messages name the array."""
    words: tuple[str, str] = ("row", "feature")
    """What they call an example and a feature."""
    shown: str = ""
    """What they call the mark, where it is no value of the array that is named."""

    def where(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Which of the values, of any shape, are missing."""
        found: NDArray[np.bool_] = values == self.values[0]
        for mark in self.values[1:]:
            found |= values == mark
        return found

    def gaps(self, X: NDArray[Any], first_row: int) -> Gaps:
        """The missing ones among the values of some examples, (n, k)."""
        missing = self.where(X)
        if not missing.any():
            return Gaps(np.zeros(len(self.values), dtype=np.int64), 0, None)
        counts = np.array([np.count_nonzero(mark == X) for mark in self.values], dtype=np.int64)
        examples = missing.any(axis=0)
        at = int(np.argmax(examples))
        first = first_row + at, int(np.argmax(missing[:, at]))
        return Gaps(counts, int(np.count_nonzero(examples)), first)

    def refusal(
        self,
        gaps: Gaps,
        chunk_rows: int,
        feature_names: Sequence[str] | None = None,
        *,
        of_features: bool = True,
    ) -> MissingValueError:
        """The error that names the marks, how many there are, the first place and the remedies."""
        assert gaps.first is not None
        (row, feature), (example, what) = gaps.first, self.words
        found = [i for i, count in enumerate(gaps.counts) if count]
        each = [self._mark(i) + f": {gaps.counts[i]}" * (len(found) > 1) for i in found]
        total, where = int(gaps.counts.sum()), f"{example} {row}"
        if of_features:
            each.append(f"in {gaps.rows} {example}{'s' * (gaps.rows != 1)}")
            named = feature if feature_names is None else repr(feature_names[feature])
            where += f", {what} {named}"
        why = "; ".join(dict.fromkeys(self.reasons[i] for i in found))
        return MissingValueError(
            f"{self.name} holds {total} missing value{'s' * (total != 1)} ({', '.join(each)}; "
            f"first: {where}, in chunk {row // chunk_rows}): {why}"
        )

    def _mark(self, i: int) -> str:
        return self.shown or repr(self.values[i].item())


@dataclass(frozen=True, slots=True)
class Gaps:
    """Missing values of some rows: a monoid, commutative but for which of them is the first."""

    counts: NDArray[np.int64]
    """How many there are of each mark, (v,)."""
    rows: int
    """Rows that have any."""
    first: tuple[int, int] | None
    """Absolute row and number of the feature of the first by rows; None where there is none."""

    def __add__(self, other: Gaps) -> Gaps:
        first = other.first if self.first is None else self.first
        return Gaps(self.counts + other.counts, self.rows + other.rows, first)


@dataclass(frozen=True, slots=True)
class GapSums:
    """Missing values of some rows, and what else was asked of them: a monoid, if the latter is."""

    gaps: Gaps
    """The missing values."""
    sums: Any
    """What else was asked; None where any value is missing, or nothing was asked."""

    @property
    def finite_check(self) -> NDArray[np.float64]:
        finite: NDArray[np.float64] = np.zeros(1) if self.sums is None else self.sums.finite_check
        return finite

    def __add__(self, other: GapSums) -> GapSums:
        known = self.sums is not None and other.sums is not None
        return GapSums(self.gaps + other.gaps, self.sums + other.sums if known else None)


@dataclass(frozen=True, slots=True)
class GapScan:
    """Counts the missing values of the features, beside what another scan asks for."""

    reads_features = True

    marks: Marks
    """What stands for missing values."""
    asked: Any = None
    """The other scan, which sees blocks without missing values alone; None for no other."""

    @property
    def reads_target(self) -> bool:
        return self.asked is not None and bool(self.asked.reads_target)

    def sums(self, batch: Batch, leaf_rows: int, workspace: Workspace) -> GapSums:
        """The sums over a batch; marks are looked for by leaves, which takes little memory."""

        def of_leaf(leaf: slice) -> Gaps:
            return self.marks.gaps(batch.X[:, leaf], batch.first_row + leaf.start)

        gaps = sum_over_leaves(batch, leaf_rows, of_leaf)
        if self.asked is None or gaps.first is not None:
            return GapSums(gaps, None)
        return GapSums(gaps, self.asked.sums(batch, leaf_rows, workspace))
