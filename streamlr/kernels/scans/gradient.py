"""The sums over a block of rows from which loss, gradient and Hessian are made.

    Z  = Wᵀ X + b          forward      (c, k) A  = sigmoid(Z)                     (c, k)     or
    what else the family has in its place dZ = A - Y             backward     (c, k) dW = X · dZᵀ
    (n, c)     summed over all blocks, divided by the weight of all examples db = sum(dZ)
    (c,)       at the very end

With sample weights ω every column of dZ is multiplied by its ω, and the loss likewise. An offset is
added to Z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.alignment import Basis, aligned_features
from streamlr.kernels.batch import Batch, Workspace, sum_over_leaves
from streamlr.kernels.families import FAMILIES, Family
from streamlr.kernels.hessian import hessian_leaf_rows, hessian_of
from streamlr.kernels.recession import joined, margins_of
from streamlr.kernels.split import Split

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GradientSums:
    """Sums over some rows, at each of K candidate points: a commutative monoid."""

    n_rows: int
    """Rows summed."""
    weight_sum: float
    """Their weight."""
    validation_weight_sum: Array
    """Weight of those that are held out, (K,)."""
    validation_loss_sum: Array
    """Weighted loss of those that are held out, (K,)."""
    loss_sum: Array
    """Weighted loss, (K,), without that of the rows that are held out."""
    loss_max: Array
    """Largest loss of a single example that has weight and is not held out, (K,)."""
    coefficient_sum: Array
    """X · dZᵀ, (K, n, c)."""
    intercept_sum: Array
    """sum(dZ), (K, c)."""
    hessian_sum: Array | None
    """Second derivatives by (W, b) at the first candidate, ((n + 1) c, (n + 1) c), the output
    running fastest; None where not asked for."""
    margins: Array | None = None
    """Smallest and largest margin along each of the directions that were to be tried, (D, 2) (see
    `streamlr.kernels.recession`); None where none were."""

    @property
    def finite_check(self) -> Array:
        return self.coefficient_sum

    def __add__(self, other: GradientSums) -> GradientSums:
        hessian = None
        if self.hessian_sum is not None and other.hessian_sum is not None:
            hessian = self.hessian_sum + other.hessian_sum
        margins = (
            None
            if self.margins is None or other.margins is None
            else joined(self.margins, other.margins)
        )
        return GradientSums(
            self.n_rows + other.n_rows,
            self.weight_sum + other.weight_sum,
            self.validation_weight_sum + other.validation_weight_sum,
            self.validation_loss_sum + other.validation_loss_sum,
            self.loss_sum + other.loss_sum,
            np.maximum(self.loss_max, other.loss_max),
            self.coefficient_sum + other.coefficient_sum,
            self.intercept_sum + other.intercept_sum,
            hessian,
            margins,
        )


@dataclass(frozen=True, slots=True)
class Direction:
    """A direction along which the loss of a candidate may fall for ever."""

    candidate: int
    """Its number: the rows that it holds out do not count."""
    coefficients: Array
    """W, (n, c)."""
    intercepts: Array
    """b, (c,)."""


@dataclass(frozen=True, slots=True)
class GradientScan:
    """Asks for loss and gradient (and the Hessian) at K candidate points in one read of the
    data."""

    reads_features = True
    reads_target = True

    family: str
    """Name of the family."""
    classes: NDArray[np.generic]
    """The sorted labels; none where the target is a number."""
    coefficients: Array
    """W of each candidate, (K, n, c), by features less their shift."""
    intercepts: Array
    """b of each candidate, (K, c)."""
    shift: Array | None = None
    """Taken from every feature before it is used, (n,): keeps digits where a mean is far larger
    than a spread."""
    hessian: bool = False
    """Whether the Hessian at the first candidate is wanted."""
    split: Split | None = None
    """Tells the parts of the rows, where some are held out."""
    holdout: NDArray[np.intp] | None = None
    """The part that is held out of each candidate's sums, (K,); -1 for none."""
    basis: Basis | None = None
    """The features that the candidates are coefficients of, where they are not those of the data;
    it has its own shift."""
    directions: tuple[Direction, ...] = ()
    """Along which the loss of some candidates may fall for ever, (D,)."""

    def sums(self, batch: Batch, leaf_rows: int, workspace: Workspace) -> GradientSums:
        """The sums over a batch: its leaves, added from first to last."""
        if self.hessian:
            leaf_rows = hessian_leaf_rows(leaf_rows, *self.coefficients.shape[1:])
        return sum_over_leaves(
            batch, leaf_rows, lambda leaf: self._leaf_sums(batch, leaf, workspace)
        )

    def _leaf_sums(self, batch: Batch, leaf: slice, workspace: Workspace) -> GradientSums:
        assert batch.target is not None
        K, n, c = self.coefficients.shape
        family = FAMILIES[self.family]
        X = aligned_features(workspace, batch.X[:, leaf], self.shift, self.basis)
        Y = family.target(batch.target[leaf], self.classes, batch.first_row + leaf.start)
        weights, offset = batch.weights_of(leaf), batch.offset_of(leaf)
        W = self.coefficients.transpose(1, 0, 2).reshape(n, K * c)
        with np.errstate(
            over="ignore", invalid="ignore"
        ):  # a diverging solver may come here; it is told by the sums
            margins = self._margins(X, Y, batch, leaf, weights) if self.directions else None
            Z = W.T @ X
            Z += self.intercepts.reshape(K * c, 1)
            if offset is not None:
                Z += offset
            loss, A = _derived(family, Z.reshape(K, c, -1), Y, self.hessian)
            dZ = Z.reshape(K * c, -1)
            by_candidate = dZ.reshape(K, c, -1)
            validation_weight, validation_loss = np.zeros(K), np.zeros(K)
            if self.split is not None:
                self._hold_out(
                    self.split.parts(batch, leaf),
                    weights,
                    loss,
                    by_candidate,
                    validation_weight,
                    validation_loss,
                )
            if weights is not None:
                by_candidate *= weights
            dW = X @ dZ.T
            db = dZ.sum(axis=1)
            loss_sum, loss_max = _weighted(loss, weights), _largest(loss, weights)
        return GradientSums(
            X.shape[1],
            float(X.shape[1]) if weights is None else float(weights.sum()),
            validation_weight,
            validation_loss,
            loss_sum,
            loss_max,
            dW.reshape(n, K, c).transpose(1, 0, 2),
            db.reshape(K, c),
            None if A is None else hessian_of(X, A, family, self._counted(batch, leaf, weights)),
            margins,
        )

    def _hold_out(
        self,
        parts: NDArray[np.intp],
        weights: Array | None,
        loss: Array,
        dZ: Array,
        validation_weight: Array,
        validation_loss: Array,
    ) -> None:
        """Tell the weight and the loss of the rows that each candidate holds out, (K,) each, and
        take them from ``loss``, (K, ., k), and ``dZ``, (K, c, k)."""
        assert self.holdout is not None
        rows_of = {part: np.flatnonzero(parts == part) for part in set(self.holdout.tolist())}
        omega_of = {
            part: np.ones(len(rows)) if weights is None else weights[rows]
            for part, rows in rows_of.items()
        }
        for k, part in enumerate(self.holdout.tolist()):
            rows, omega = rows_of[part], omega_of[part]
            if len(rows):
                validation_weight[k] = omega.sum()
                validation_loss[k] = (loss[k][:, rows] @ omega).sum()
                loss[k][:, rows] = 0.0
                dZ[k][:, rows] = 0.0

    def _margins(
        self, X: Array, Y: Array, batch: Batch, leaf: slice, weights: Array | None
    ) -> Array:
        """Of the examples that count in the sums of each direction's candidate, (D, 2)."""
        margins = []
        for direction in self.directions:
            counted = self._counted(batch, leaf, weights, direction.candidate)
            Z = direction.coefficients.T @ X + direction.intercepts[:, None]
            margins.append(
                margins_of(FAMILIES[self.family], Z, Y, None if counted is None else counted > 0)
            )
        return np.stack(margins)

    def _counted(
        self, batch: Batch, leaf: slice, weights: Array | None, candidate: int = 0
    ) -> Array | None:
        """The weights that count in a candidate's sums, (k,); None where all are 1."""
        if self.split is None or self.holdout is None:
            return weights
        kept = (self.split.parts(batch, leaf) != self.holdout[candidate]).astype(np.float64)
        return kept if weights is None else kept * weights


def _derived(family: Family, Z: Array, Y: Array, keep: bool) -> tuple[Array, Array | None]:
    """Loss of each candidate, (K, ., k), and A of the first, (c, k), where it is kept; ``Z``, (K,
    c, k), becomes dZ.

    Coupled outputs take their candidates one at a time: what is computed on the way is as large as
    their Z.
    """
    if not family.coupled:
        loss, A = family.loss_and_activation(Z, Y)
        np.subtract(A, Y, out=Z)
        return loss, A[0] if keep else None
    losses, first = [], None
    for of_candidate in Z:
        loss, A = family.loss_and_activation(of_candidate, Y)
        np.subtract(A, Y, out=of_candidate)
        losses.append(loss)
        first = A if keep and first is None else first
        del A  # or it would be there while the next is computed
    return np.stack(losses), first


def _weighted(loss: Array, weights: Array | None) -> Array:
    """Sum of the loss, (K, ., k), over outputs and examples, with weights (k,), if any: (K,)."""
    return loss.sum(axis=2).sum(axis=1) if weights is None else (loss @ weights).sum(axis=1)


def _largest(loss: Array, weights: Array | None) -> Array:
    """Largest loss, of (K, ., k), of an example that has weight, (k,): (K,); 0 where none has."""
    return (
        loss.max(axis=(1, 2))
        if weights is None
        else np.where(weights > 0, loss, 0.0).max(axis=(1, 2))
    )
