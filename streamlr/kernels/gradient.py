"""The sums over a block of rows from which loss, gradient and Hessian are made.

    Z  = Wᵀ X + b          forward      (c, k)
    A  = sigmoid(Z)                     (c, k)     or what else the family has in its place
    dZ = A - Y             backward     (c, k)
    dW = X · dZᵀ                        (n, c)     summed over all blocks, divided by the weight of all examples
    db = sum(dZ)                        (c,)       at the very end

With sample weights ω every column of dZ is multiplied by its ω, and the loss likewise. An offset is added to Z.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.batch import Batch, Workspace, sum_over_leaves
from streamlr.kernels.families import FAMILIES
from streamlr.kernels.hessian import hessian_leaf_rows, hessian_of
from streamlr.kernels.split import Split

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class GradientSums:
    """Sums over some rows, at each of K candidate points: a commutative monoid."""

    n_rows: int
    """Rows summed."""
    weight_sum: float
    """Their weight."""
    held_weight_sum: Array
    """Weight of those that are held out, (K,)."""
    held_loss_sum: Array
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
    """Second derivatives by (W, b) at the first candidate, ((n + 1) c, (n + 1) c), the output running fastest; None where not asked for."""

    @property
    def probe(self) -> Array:
        return self.coefficient_sum

    def __add__(self, other: GradientSums) -> GradientSums:
        hessian = None
        if self.hessian_sum is not None and other.hessian_sum is not None:
            hessian = self.hessian_sum + other.hessian_sum
        return GradientSums(
            self.n_rows + other.n_rows, self.weight_sum + other.weight_sum, self.held_weight_sum + other.held_weight_sum,
            self.held_loss_sum + other.held_loss_sum, self.loss_sum + other.loss_sum,
            np.maximum(self.loss_max, other.loss_max), self.coefficient_sum + other.coefficient_sum,
            self.intercept_sum + other.intercept_sum, hessian)


@dataclass(frozen=True, slots=True)
class GradientScan:
    """Asks for loss and gradient (and the Hessian) at K candidate points in one read of the data."""

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
    """Taken from every feature before it is used, (n,): keeps digits where a mean is far larger than a spread."""
    hessian: bool = False
    """Whether the Hessian at the first candidate is wanted."""
    split: Split | None = None
    """Tells the parts of the rows, where some are held out."""
    held_out: NDArray[np.intp] | None = None
    """The part that is held out of each candidate's sums, (K,); -1 for none."""

    def sums(self, batch: Batch, leaf_rows: int, workspace: Workspace) -> GradientSums:
        """The sums over a batch: its leaves, added from first to last."""
        if self.hessian:
            leaf_rows = hessian_leaf_rows(leaf_rows, *self.coefficients.shape[1:])
        return sum_over_leaves(batch, leaf_rows, lambda leaf: self._leaf_sums(batch, leaf, workspace))

    def _leaf_sums(self, batch: Batch, leaf: slice, workspace: Workspace) -> GradientSums:
        assert batch.target is not None
        K, n, c = self.coefficients.shape
        family = FAMILIES[self.family]
        X = workspace.cast(batch.X[:, leaf], self.shift)
        Y = family.target(batch.target[leaf], self.classes, batch.first_row + leaf.start)
        weights, offset = batch.weights_of(leaf), batch.offset_of(leaf)
        W = self.coefficients.transpose(1, 0, 2).reshape(n, K * c)
        with np.errstate(over="ignore", invalid="ignore"):  # a diverging solver may come here; it is told by the sums
            Z = W.T @ X
            Z += self.intercepts.reshape(K * c, 1)
            if offset is not None:
                Z += offset
            loss, A = family.loss_and_activation(Z.reshape(K, c, -1), Y)
            dZ = np.subtract(A, Y, out=Z.reshape(K, c, -1)).reshape(K * c, -1)
            loss = loss.reshape(K, -1, X.shape[1])
            counted, held = weights, None
            if self.split is not None:
                counted, held = self._shared_out(batch, leaf, weights)
            if counted is not None:
                by_candidate = dZ.reshape(K, c, -1)
                by_candidate *= counted if counted.ndim == 1 else counted[:, None, :]
            dW = X @ dZ.T
            db = dZ.sum(axis=1)
        nothing = np.zeros(K)
        return GradientSums(
            X.shape[1], float(X.shape[1]) if weights is None else float(weights.sum()), nothing if held is None else nothing + held.sum(axis=-1),
            nothing if held is None else _weighted(loss, held), _weighted(loss, counted), _largest(loss, counted),
            dW.reshape(n, K, c).transpose(1, 0, 2), db.reshape(K, c),
            hessian_of(X, A[0], family, counted if counted is None or counted.ndim == 1 else counted[0]) if self.hessian else None)

    def _shared_out(self, batch: Batch, leaf: slice, weights: Array | None) -> tuple[Array, Array]:
        """The weights that count in each candidate's sums, and those of the rows that it holds out: (K, k) each, or (k,) where all hold out the same."""
        assert self.split is not None
        assert self.held_out is not None
        parts = self.split.parts(batch, leaf)
        same = (self.held_out == self.held_out[0]).all()
        out = parts == (self.held_out[0] if same else self.held_out[:, None])
        omega = np.ones(len(parts)) if weights is None else weights
        return omega * ~out, omega * out


def _weighted(loss: Array, weights: Array | None) -> Array:
    """Sum of the loss, (K, ., k), over outputs and examples, with weights (k,) or (K, k), if any: (K,)."""
    if weights is None:
        return loss.sum(axis=2).sum(axis=1)
    return (loss @ weights if weights.ndim == 1 else np.einsum("kij,kj->ki", loss, weights)).sum(axis=1)


def _largest(loss: Array, weights: Array | None) -> Array:
    """Largest loss, of (K, ., k), of an example that has weight, (k,) or (K, k): (K,); 0 where none has."""
    if weights is None:
        return loss.max(axis=(1, 2))
    return np.where((weights if weights.ndim == 1 else weights[:, None, :]) > 0, loss, 0.0).max(axis=(1, 2))
