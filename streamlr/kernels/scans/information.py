"""The sums from which standard errors and likelihoods are made, at a fitted model.

    g = [x; 1] (a - y)                            score of an example, less its sign H = Σ ω [x; 1]
    A' [x; 1]ᵀ                     information; observed and expected are the same where the link is
    canonical M = Σ ω² g gᵀ                                 the meat of the sandwich H⁻¹ M H⁻¹
    (White 1980) M = Σ over groups of (Σ ω g)(Σ ω g)ᵀ          the same where examples of a group
    are not independent (Liang and Zeger 1986)

Where a row of weight ω stands for ω rows, M = Σ ω g gᵀ. Of coupled outputs, whose Z may all be
moved by the same, the first is the one that the others are compared with: it has no parameters.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.batch import Batch, Workspace, sum_over_leaves
from streamlr.kernels.families import FAMILIES, Family
from streamlr.kernels.hessian import hessian_leaf_rows, hessian_of, weighted_squares
from streamlr.kernels.scans.groups import GroupSums, sum_by_group

Array = NDArray[np.float64]
Errors = Literal["classical", "robust", "clustered"]


@dataclass(frozen=True, slots=True)
class InformationSums:
    """Sums over some rows: a commutative monoid. Parameters are those of features less their
    center, the output running fastest."""

    n_weighted: int
    """Rows that have weight."""
    weight_sum: float
    """Weight of the rows."""
    log_weight_sum: float
    """Logarithm of the weights that are not 0."""
    loss_sum: Array
    """Weighted loss at the model and at the null model, (2,)."""
    deviance_sum: Array
    """Weighted deviance of both, (2,)."""
    base_sum: float
    """What the log-likelihood has beside the loss, weighted."""
    score: Array
    """Σ ω g, (d,)."""
    information: Array
    """H, (d, d)."""
    meat: Array | None
    """M, (d, d), where every row is its own."""
    groups: GroupSums | None
    """Σ ω g and, last, Σ ω of each group, (g, d + 1)."""

    @property
    def finite_check(self) -> Array:
        return self.score

    def __add__(self, other: InformationSums) -> InformationSums:
        return InformationSums(
            self.n_weighted + other.n_weighted,
            self.weight_sum + other.weight_sum,
            self.log_weight_sum + other.log_weight_sum,
            self.loss_sum + other.loss_sum,
            self.deviance_sum + other.deviance_sum,
            self.base_sum + other.base_sum,
            self.score + other.score,
            self.information + other.information,
            None if self.meat is None or other.meat is None else self.meat + other.meat,
            None if self.groups is None or other.groups is None else self.groups + other.groups,
        )


@dataclass(frozen=True, slots=True)
class InformationScan:
    """Asks for the information, the meat and the likelihood at a model."""

    reads_features = True
    reads_target = True

    family: str
    """Name of the family."""
    classes: NDArray[np.generic]
    """The sorted labels; none where the target is a number."""
    coefficients: Array
    """W, (n, c)."""
    intercepts: Array
    """b, (c,), that goes with features less their center."""
    null_intercepts: Array
    """Z of the null model, (c,)."""
    center: Array
    """Taken from every feature, (n,)."""
    errors: Errors
    """Which meat is wanted."""
    frequency: bool
    """Whether a row of weight ω stands for ω rows."""

    def sums(self, batch: Batch, leaf_rows: int, workspace: Workspace) -> InformationSums:
        """The sums over a batch: its leaves, added from first to last."""
        leaf_rows = hessian_leaf_rows(leaf_rows, *self.coefficients.shape)
        return sum_over_leaves(
            batch, leaf_rows, lambda leaf: self._leaf_sums(batch, leaf, workspace)
        )

    def _leaf_sums(self, batch: Batch, leaf: slice, workspace: Workspace) -> InformationSums:
        assert batch.target is not None
        family = FAMILIES[self.family]
        Y = family.target(batch.target[leaf], self.classes, batch.first_row + leaf.start)
        X = workspace.cast(batch.X[:, leaf], self.center)
        weights, offset = batch.weights_of(leaf), batch.offset_of(leaf)
        omega = np.ones(X.shape[1]) if weights is None else weights
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # data that are not finite show in the sums, and are looked for there
            Z = self.coefficients.T @ X + self.intercepts[:, None]
            Z_null = np.repeat(self.null_intercepts[:, None], X.shape[1], axis=1)
            if offset is not None:
                Z, Z_null = Z + offset, Z_null + offset
            loss, A = family.loss_and_activation(Z, Y)
            loss_null, A_null = family.loss_and_activation(Z_null, Y)
            deviances = (
                family.deviance(loss, Y, A, Z),
                family.deviance(loss_null, Y, A_null, Z_null),
            )
            kept = slice(1, None) if family.coupled else slice(None)
            dZ = A[kept] - Y[kept]
            score = np.concatenate([X @ (dZ * omega).T, (dZ @ omega)[None, :]]).ravel()
            groups, meat = self._meat(batch, leaf, X, dZ, omega)
            X = workspace.cast(batch.X[:, leaf], self.center)  # the meat may have overwritten it
            information = hessian_of(X, A[kept], family, weights)
        log_weights = 0.0 if weights is None else float(np.log(weights[weights > 0]).sum())
        base = family.likelihood_base(Y)
        return InformationSums(
            int(np.count_nonzero(omega)),
            float(omega.sum()),
            log_weights,
            np.array([loss[0] @ omega, loss_null[0] @ omega]),
            np.array([each @ omega for each in deviances]),
            0.0 if base is None else float(base @ omega),
            score,
            information,
            meat,
            groups,
        )

    def _meat(
        self, batch: Batch, leaf: slice, X: Array, dZ: Array, omega: Array
    ) -> tuple[GroupSums | None, Array | None]:
        """Sums of the scores by group, or of their squares, as far as they are wanted; may
        overwrite ``X``."""
        if self.errors == "classical":
            return None, None
        if self.errors == "clustered":
            assert batch.groups is not None
            return sum_by_group(
                batch.groups[leaf], np.concatenate([_scores(X, dZ * omega), omega[None, :]])
            ), None
        root = np.sqrt(omega) if self.frequency else omega
        if len(dZ) == 1:
            return None, weighted_squares(X, (dZ[0] * root) ** 2)
        columns = _scores(X, dZ * root)
        return None, columns @ columns.T


def _scores(X: Array, dZ: Array) -> Array:
    """[X; 1] dZ of every example, ((n + 1) c, k), the output running fastest."""
    (n, k), c = X.shape, len(dZ)
    scores = np.empty((n + 1, c, k))
    np.multiply(X[:, None, :], dZ, out=scores[:n])
    scores[n] = dZ
    return scores.reshape((n + 1) * c, k)


@dataclass(frozen=True, slots=True)
class NullSums:
    """First and second derivative of the loss by a common intercept: a commutative monoid."""

    score: float
    curvature: float

    def __add__(self, other: NullSums) -> NullSums:
        return NullSums(self.score + other.score, self.curvature + other.curvature)


@dataclass(frozen=True, slots=True)
class NullScan:
    """Asks how well an intercept alone fits where there is an offset; reads no features."""

    reads_features = False
    reads_target = True

    family: str
    """Name of the family, of one output."""
    classes: NDArray[np.generic]
    """The sorted labels; none where the target is a number."""
    intercept: float
    """At which derivatives are taken."""

    def sums(self, batch: Batch, leaf_rows: int, workspace: Workspace) -> NullSums:
        """The sums over a batch: its leaves, added from first to last."""
        del workspace
        return sum_over_leaves(batch, leaf_rows, lambda leaf: self._leaf_sums(batch, leaf))

    def _leaf_sums(self, batch: Batch, leaf: slice) -> NullSums:
        assert batch.target is not None
        family: Family = FAMILIES[self.family]
        Y = family.target(batch.target[leaf], self.classes, batch.first_row + leaf.start)
        weights, offset = batch.weights_of(leaf), batch.offset_of(leaf)
        omega = np.ones(Y.shape[1]) if weights is None else weights
        A = family.activate(
            self.intercept + (np.zeros_like(Y) if offset is None else offset[None, :])
        )
        return NullSums(float((A - Y)[0] @ omega), float(family.curvature(A)[0] @ omega))


@dataclass(frozen=True, slots=True)
class MoveSums:
    """Largest change of a Z: a commutative monoid."""

    largest: float
    finite_check: Array
    """Sum of the changes."""

    def __add__(self, other: MoveSums) -> MoveSums:
        return MoveSums(max(self.largest, other.largest), self.finite_check + other.finite_check)


@dataclass(frozen=True, slots=True)
class MoveScan:
    """Asks how much a step of the parameters changes the Z of a row that has weight, at most."""

    reads_features = True
    reads_target = True

    coefficients: Array
    """Step of W, (n, c)."""
    intercepts: Array
    """Step of b, (c,), that goes with features less their center."""
    center: Array
    """Taken from every feature, (n,)."""

    def sums(self, batch: Batch, leaf_rows: int, workspace: Workspace) -> MoveSums:
        """The largest over a batch."""
        return sum_over_leaves(
            batch, leaf_rows, lambda leaf: self._leaf_sums(batch, leaf, workspace)
        )

    def _leaf_sums(self, batch: Batch, leaf: slice, workspace: Workspace) -> MoveSums:
        moved = np.abs(
            self.coefficients.T @ workspace.cast(batch.X[:, leaf], self.center)
            + self.intercepts[:, None]
        )
        weights = batch.weights_of(leaf)
        return MoveSums(
            float((moved if weights is None else np.where(weights > 0, moved, 0.0)).max()),
            moved.sum(keepdims=True),
        )
