"""Every scan on small data of every family, and scans that tell how they were run."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_info

from streamlr.data.source import ArraySource, Source
from streamlr.errors import NonFiniteError
from streamlr.execution.engine import Scan
from streamlr.kernels.batch import Batch, Workspace
from streamlr.kernels.families import FAMILIES, Family
from streamlr.kernels.gaps import GapScan, Marks
from streamlr.kernels.pairs import Pair
from streamlr.kernels.residuals import ResidualScan
from streamlr.kernels.scans.curvature import CurvatureScan
from streamlr.kernels.scans.fold_scores import FoldScoreScan, bins_for
from streamlr.kernels.scans.fold_sums import PartScan
from streamlr.kernels.scans.gradient import GradientScan
from streamlr.kernels.scans.groups import GroupScan
from streamlr.kernels.scans.information import InformationScan, MoveScan, NullScan
from streamlr.kernels.scans.intercept import InterceptScan
from streamlr.kernels.scans.labels import LabelScan
from streamlr.kernels.scans.metrics import MetricScan
from streamlr.kernels.scans.moments import MomentScan
from streamlr.kernels.scans.target import TargetScan
from streamlr.kernels.split import Split
from streamlr.kernels.strata import StrataScan, has_strata

Array = NDArray[np.float64]
ROWS, FEATURES = 1300, 4
BLOCK_ROWS, LEAF_ROWS = 96, 40
"""Of the blocks and leaves of these data: 14 blocks, no power of two, the last of them short."""
_SECONDS = 0.01


@dataclass(frozen=True, slots=True)
class ScanCase:
    """A scan and data that it can be asked of."""

    name: str
    """What tests call it."""
    source: Source
    """The data."""
    scan: Scan
    """What is asked of every row."""


@dataclass(frozen=True, slots=True)
class _Point:
    """Data of a family, and a point at which sums are taken."""

    source: ArraySource
    family: Family
    classes: NDArray[Any]
    """The labels; none where the target is a number."""
    W: Array
    """(n, c)."""
    b: Array
    """(c,)."""
    center: Array
    """(n,)."""


def _point(family: Family) -> _Point:
    """Features in units that differ, weights of which some are 0, and groups."""
    rng = np.random.default_rng(11)
    outputs = 3 if family.coupled else 1
    X = rng.normal(size=(ROWS, FEATURES)) * np.array([1.0, 10.0, 0.1, 3.0]) + 1.0
    W = rng.normal(size=(FEATURES, outputs)) * np.array([[0.3], [0.03], [3.0], [0.1]])
    center = X.mean(axis=0)
    y = family.draw(rng, (X - center) @ W)
    weights = rng.uniform(0.5, 2.0, ROWS)
    weights[::50] = 0.0
    offset = rng.normal(size=ROWS) / 4 if family.takes_offset else None
    source = ArraySource(X, y, weights, offset=offset, groups=rng.integers(0, 40, ROWS))
    classes = np.unique(y) if family.labelled else np.empty(0)
    return _Point(source, family, classes, W / 2, np.full(outputs, 0.1), center)


def scan_cases() -> list[ScanCase]:
    """Every scan that there is, of every family that it can be asked of."""
    cases = []
    for family in FAMILIES.values():
        point = _point(family)
        scans = [*_sums_of_features(point), *_sums_of_targets(point)]
        cases += [ScanCase(f"{family.name} {name}", point.source, scan) for name, scan in scans]
    return cases


def gradient_case(hessian: bool = True) -> ScanCase:
    """The scan that fits make most of their passes with."""
    point = _point(next(iter(FAMILIES.values())))
    return ScanCase("gradient", point.source, _gradient(point, hessian))


def _gradient(point: _Point, hessian: bool) -> GradientScan:
    W, b = np.stack([point.W, -point.W]), np.stack([point.b, 2 * point.b])  # two candidates
    return GradientScan(point.family.name, point.classes, W, b, point.center, hessian)


def _sums_of_features(point: _Point) -> Iterator[tuple[str, Scan]]:
    """Scans that read features."""
    name, classes, W, b, center = (
        point.family.name, point.classes, point.W, point.b, point.center
    )  # fmt: skip
    split = Split((0.3, 0.3), 1)
    parts = PartScan(split, 2, True, False)
    yield "survey", MomentScan(classes, 0.2, 3, name, keyed=True, products=True)
    yield "survey of parts", MomentScan(classes, 0.0, 3, name, split, parts=parts)
    yield "gradient", _gradient(point, False)
    yield "gradient and Hessian", _gradient(point, True)
    scale = np.ones(FEATURES)
    yield "curvature", CurvatureScan(name, center, scale, W, b)
    yield "curvature along", CurvatureScan(name, center, scale, W, b, (W, b))
    null = np.zeros_like(b)
    for errors in ("classical", "robust", "clustered"):
        scan = InformationScan(name, classes, W, b, null, center, errors, False)
        yield f"information, {errors}", scan
    yield "move", MoveScan(W, b, center)
    yield "metrics", MetricScan(name, classes, W, b)
    models, intercepts = W[None, None], b[None, None]  # (L, K, n, c), (L, K, c)
    bins = bins_for(models, intercepts, point.source.X[:50])  # type: ignore[index]
    yield "scores of folds", FoldScoreScan(name, classes, models, intercepts, split, bins)
    marks = Marks(np.array([-9999.0]), ("a mark",), "X")
    yield "gaps", GapScan(marks, _gradient(point, False))
    if point.family.quadratic:
        yield "residuals", ResidualScan(Pair.of(W[:, 0]), Pair.of(b[0]), center, products=True)


def _sums_of_targets(point: _Point) -> Iterator[tuple[str, Scan]]:
    """Scans that read no features."""
    name = point.family.name
    yield "target", TargetScan(name)
    yield "groups", GroupScan(1000)
    if point.family.labelled:
        yield "labels", LabelScan()
    elif has_strata(name):
        yield "strata", StrataScan(name)
    if point.family.takes_offset:
        yield "intercept", InterceptScan(name, 0.1)
        yield "null model", NullScan(name, point.classes, 0.1)


@dataclass(frozen=True, slots=True)
class Circumstances:
    """What was seen while sums were taken: a monoid, of which the larger counts."""

    at_a_time: int
    """Blocks that one process summed at a time, at most."""
    blas_threads: int
    """Threads of BLAS, at most."""

    @property
    def finite_check(self) -> Array:
        """No value of the data is in it."""
        return np.zeros(1)

    def __add__(self, other: Circumstances) -> Circumstances:
        return Circumstances(
            max(self.at_a_time, other.at_a_time), max(self.blas_threads, other.blas_threads)
        )


class CircumstancesScan:
    """Asks not for the data but for how the engine goes through them.

    Each block takes a moment, so that blocks that may be summed at a time are.
    """

    reads_features = False
    reads_target = False
    _lock: ClassVar[threading.Lock] = threading.Lock()
    _now: ClassVar[int] = 0

    def sums(self, batch: Batch, leaf_rows: int, workspace: Workspace) -> Circumstances:
        """How many blocks are summed at a time, as far as this one sees."""
        del batch, leaf_rows, workspace
        with CircumstancesScan._lock:
            CircumstancesScan._now += 1
        time.sleep(_SECONDS)
        with CircumstancesScan._lock:
            at_a_time = CircumstancesScan._now
            CircumstancesScan._now -= 1
        return Circumstances(at_a_time, max(blas_threads(), default=1))


@dataclass(frozen=True, slots=True)
class RefusingScan:
    """Fails at the block that contains a row."""

    row: int
    """The row."""
    reads_features: bool = True
    reads_target: bool = True

    def sums(self, batch: Batch, leaf_rows: int, workspace: Workspace) -> Circumstances:
        """Nothing, or a `NonFiniteError`.

        Raises
        ------
        NonFiniteError
            At the row.
        """
        del leaf_rows, workspace
        if batch.first_row <= self.row < batch.first_row + batch.X.shape[1]:
            raise NonFiniteError(f"row {self.row} is refused; leave it out")
        return Circumstances(0, 0)


def blas_threads() -> list[int]:
    """Threads that each BLAS of this process has now."""
    return [info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"]
