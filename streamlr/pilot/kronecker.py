"""A preconditioner for many coupled outputs: the Hessian of a sample of rows, inverted by conjugate
gradients where it is needed.

Of C classes and n features the Hessian has (C (n + 1))² entries. It is never written down: its
product with a direction costs as much as a gradient of the sample, which is in memory. It is near a
Kronecker product, S ⊗ Q, of the features' second moments and the mean of diag(a) - a aᵀ. With the
penalty on the diagonal, D, the inverse of that is closed: let Vᵀ S V = I and Vᵀ D V = diag(μ), and
let U be the eigenvectors of Q, with eigenvalues γ; then

    (S ⊗ Q + D ⊗ I)⁻¹ R  =  V ((Vᵀ R U) / (μ + γ)) Uᵀ

It preconditions the conjugate gradients (Saad, "Iterative Methods for Sparse Linear Systems", 2nd
ed., algorithm 9.1), of which a few steps then suffice, and stands in their place where the sample
has too few rows for its Hessian to say more.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamlr.data.source import ArraySource
from streamlr.execution.engine import Engine, one_blas_thread
from streamlr.execution.local import ThreadsEngine, available_cores
from streamlr.execution.scanner import Scanner, plan_slabs
from streamlr.kernels.scans.curvature import CurvatureScan, PairSums
from streamlr.objective.objective import Coordinates, Objective

Array = NDArray[np.float64]

_RESIDUAL = 0.05
"""The sample's Hessian is that of all rows up to some tenths, so a more exact inverse of it is
worth nothing."""
_MOST_STEPS = 40
_RIDGE = 1e-8


@dataclass(frozen=True, slots=True)
class Kronecker:
    """The inverse of S ⊗ Q + D ⊗ I, restricted to what sums to 0 over the classes."""

    coordinates: Coordinates
    V: Array
    """(p, p), of the n features and the intercept, if there is one."""
    U: Array
    """(c, c)."""
    mu: Array
    """μ, (p,)."""
    gamma: Array
    """γ, (c,)."""
    weights: Array
    """1 / (μ + γ), (p, c); 0 along the common shift of all classes."""

    def __call__(self, q: Array) -> Array:
        R = np.vstack(_rows(self.coordinates, q))
        return _vector(
            self.coordinates, self.V @ ((self.V.T @ R @ self.U) * self.weights) @ self.U.T
        )

    @classmethod
    def of(cls, coordinates: Coordinates, S: Array, Q: Array, D: Array) -> Kronecker:
        """From the means S, (n + 1, n + 1), and Q, (c, c), and the penalty's curvature, (n,)."""
        p = len(D) + coordinates.fit_intercept
        S, D = S[:p, :p], np.append(D, 0.0)[:p]
        diagonal = np.where(np.diag(S) > 0, np.diag(S), 1.0)
        inverse_factor = np.linalg.inv(np.linalg.cholesky(S + _RIDGE * np.diag(diagonal)))
        mu, rotation = np.linalg.eigh((inverse_factor * D) @ inverse_factor.T)
        # it sums to 0 over the classes, but for the rounding of single precision
        Q = Q - Q.mean(axis=0)
        gamma, U = np.linalg.eigh(Q - Q.mean(axis=1)[:, None])
        mu, gamma = np.maximum(mu, 0.0), np.maximum(gamma, _RIDGE * gamma[-1])
        return cls(coordinates, inverse_factor.T @ rotation, U, mu, gamma, _weights(mu, gamma))

    def with_strength(self, share: float) -> Kronecker:
        """The same with so many times the penalty."""
        return replace(self, weights=_weights(share * self.mu, self.gamma))


def _weights(mu: Array, gamma: Array) -> Array:
    weights: Array = 1.0 / (mu[:, None] + gamma)
    weights[:, 0] = 0.0  # eigenvalue 0: the common shift
    return weights


class SampleCurvature:
    """The Hessian of a sample at a point, and its inverse.

    Parameters
    ----------
    objective
        The objective of all rows: coordinates, family and penalty.
    sample
        Rows in memory.
    point
        The parameters at which the curvature is taken, (d,).
    exact
        Whether the sample's own Hessian is to be inverted; else its Kronecker product is.
    """

    def __init__(
        self, objective: Objective, sample: ArraySource, point: Array, *, exact: bool
    ) -> None:
        self._objective = objective
        self._sample = sample
        self.point = point
        self.exact = exact
        self._weight_sum = float(
            sample.n_rows if sample.sample_weight is None else sample.sample_weight.sum()
        )
        with ThreadsEngine(available_cores()) as engine, one_blas_thread():
            means = self._scan(engine, None)
        self.kronecker = Kronecker.of(
            objective.coordinates, means.first, means.second, objective.penalty_scale
        )

    def __call__(self, q: Array) -> Array:
        """About the inverse of the Hessian times ``q``, (d,)."""
        if not self.exact:
            return self.kronecker(q)
        with ThreadsEngine(available_cores()) as engine, one_blas_thread():
            return self._conjugate_gradients(engine, q)

    def _conjugate_gradients(self, engine: Engine, q: Array) -> Array:
        found, residual = np.zeros_like(q), q.copy()
        z = self.kronecker(residual)
        direction, size = z, float(residual @ z)
        goal = _RESIDUAL**2 * size
        for _ in range(_MOST_STEPS):
            product = self._product(engine, direction)
            curvature = float(direction @ product)
            if not curvature > 0:
                break
            found = found + (size / curvature) * direction
            residual = residual - (size / curvature) * product
            z = self.kronecker(residual)
            size, before = float(residual @ z), size
            if size <= goal:
                break
            direction = z + (size / before) * direction
        return found

    def _product(self, engine: Engine, direction: Array) -> Array:
        at = self._objective.coordinates
        V, u = at.split(direction)
        sums = self._scan(engine, (V, u))
        return at.join(sums.first + self._objective.penalty_gradient(V), sums.second)

    def _scan(self, engine: Engine, direction: tuple[Array, Array] | None) -> PairSums:
        at = self._objective.coordinates
        V, u = at.split(self.point)
        basis = at.basis
        center = at.center if basis is None else at.center - basis.moved(basis.shift)
        scan = CurvatureScan(self._objective.model.family, center, at.scale, V, u, direction, basis)
        scanner = Scanner(
            engine,
            self._sample,
            lambda event: None,
            plan_slabs(self._sample, engine.n_threads, at.n_outputs),
        )
        sums: PairSums = scanner.run(scan, "sample")
        return PairSums(sums.first / self._weight_sum, sums.second / self._weight_sum)


def _rows(at: Coordinates, q: Array) -> tuple[Array, Array]:
    V, u = at.split(q)
    return V, u[None, :] if at.fit_intercept else np.empty((0, at.n_outputs))


def _vector(at: Coordinates, R: Array) -> Array:
    n = len(at.scale)
    return at.join(R[:n], R[n] if at.fit_intercept else np.empty(0))
