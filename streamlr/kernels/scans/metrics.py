"""The metrics of a model in one read of the data: what is summed and what is told of it is a matter
of the family."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.errors import NonFiniteError
from streamlr.kernels.batch import Batch, Workspace, sum_over_leaves
from streamlr.kernels.families import FAMILIES
from streamlr.kernels.scans.labels import refuse_bad_weights
from streamlr.kernels.scans.moments import locate_non_finite
from streamlr.kernels.split import Split

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class MetricScan:
    """Asks how well a model fits."""

    reads_features = True
    reads_target = True

    family: str
    """Name of the family."""
    classes: NDArray[np.generic]
    """The sorted labels."""
    coefficients: Array
    """W, (n, c)."""
    intercept: Array
    """b, (c,)."""
    weights_name: str = "weights"
    """How messages name the weights."""
    split: Split | None = None
    """Tells the rows that were held out, where those alone are to count."""

    def sums(self, batch: Batch, leaf_rows: int, workspace: Workspace) -> Any:
        """The sums over a batch: its leaves, added from first to last."""
        return sum_over_leaves(
            batch, leaf_rows, lambda leaf: self._leaf_sums(batch, leaf, workspace)
        )

    def _leaf_sums(self, batch: Batch, leaf: slice, workspace: Workspace) -> Any:
        assert batch.target is not None
        if batch.weights is not None:
            refuse_bad_weights(batch.weights[leaf], batch.first_row + leaf.start, self.weights_name)
        family = FAMILIES[self.family]
        Y = family.target(batch.target[leaf], self.classes, batch.first_row + leaf.start)
        weights, offset = batch.weights_of(leaf), batch.offset_of(leaf)
        Z = linear(workspace.cast(batch.X[:, leaf]), self.coefficients, self.intercept)
        if offset is not None:
            Z += offset
        with np.errstate(over="ignore", invalid="ignore"):
            loss, A = family.loss_and_activation(Z, Y)
        refuse_overflow(loss, Z, batch, leaf)
        omega = np.ones(Y.shape[1]) if weights is None else weights
        if self.split is None:
            return family.metrics.sums(Z, Y, loss, A, omega)
        counted = self.split.holdout(batch, leaf)
        return replace(
            family.metrics.sums(Z, Y, loss, A, np.where(counted, omega, 0.0)),
            n_rows=int(np.count_nonzero(counted)),
        )


def refuse_overflow(values: Array, Z: Array, batch: Batch, leaf: slice) -> None:
    """Raise a `NonFiniteError` that names the first example of which ``values``, (c, k), are not
    finite, though all features of the leaf are.

    Features that are not finite are looked for where a chunk can be named.
    """
    bad = ~np.isfinite(values).all(axis=0)
    if bad.any() and locate_non_finite(batch.X[:, leaf]) is None:
        at = int(np.argmax(bad))
        raise NonFiniteError(
            f"row {batch.first_row + leaf.start + at}: its features are finite, but the model "
            f"makes {Z[np.abs(Z[:, at]).argmax(), at]:.3g} of "
            "them, which overflows; are the features of the store in the units of those that the "
            "model was fitted to?"
        )


def linear(X: Array, W: Array, b: Array) -> Array:
    """Z = Wᵀ X + b, (c, k)."""
    with np.errstate(over="ignore", invalid="ignore"):
        Z: Array = W.T @ X + b[:, None]
    return Z
