"""What a pilot tells of the curvature of all rows, and solvers that make use of it.

The Hessian of the loss, H, is known at a few strengths of the penalty, the anchors, since it
changes little from one strength to the next; between anchors it is interpolated. The preconditioner
of each model is exact in its own penalty, λ D: with VᵀHV = I and VᵀDV = diag(μ),

    (H + λ D)⁻¹  =  V diag(1 / (1 + λ μ)) Vᵀ

so strengths, and all folds of them, may share V where there is no room for one each. Of one
strength H has the penalty in it already, and μ = 0. With l1 or bounds the Hessian itself is what
the solver asks for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamlr.objective.objective import Objective
from streamlr.pilot.kronecker import Kronecker
from streamlr.solvers import Evaluation, Lbfgs, Proximal, Solve, State
from streamlr.solvers.lbfgs import Preconditioner

Array = NDArray[np.float64]

_RIDGE = 1e-8
"""Relative to the diagonal: a pilot has no more digits of a curvature."""


@dataclass(frozen=True, slots=True)
class RidgePreconditioner:
    """The inverse of H + λ D."""

    V: Array
    """(d, d); shared."""
    weights: Array
    """1 / (1 + λ μ), (d,)."""

    def __call__(self, q: Array) -> Array:
        product: Array = self.V @ (self.weights * (q @ self.V))
        return product


@dataclass(frozen=True, slots=True)
class Curvature:
    """The Hessian of the loss in a form that is quickly inverted with any strength of the
    penalty."""

    V: Array
    """VᵀHV = I, (d, d)."""
    mu: Array
    """VᵀDV = diag(μ), (d,)."""

    def with_strength(self, share: float) -> RidgePreconditioner:
        """The inverse with so many times the penalty."""
        return RidgePreconditioner(self.V, 1.0 / (1.0 + share * self.mu))

    def inverse(self) -> Array:
        """The inverse without a further penalty, (d, d)."""
        return self.V @ self.V.T

    @classmethod
    def of(cls, hessian: Array, penalty: Array) -> Curvature:
        """Of a loss, (d, d), and the second derivatives of a penalty, (d,)."""
        inverse_factor, root = _inverse_factor(hessian)
        D = (inverse_factor * (penalty / root**2)) @ inverse_factor.T
        mu, rotation = np.linalg.eigh(D)
        return cls(inverse_factor.T @ rotation / root[:, None], np.maximum(mu, 0.0))

    @classmethod
    def of_one(cls, hessian: Array, penalty: Array) -> Curvature:
        """The same for no strength but that one: without the eigenvectors, which are most of the
        work. The Hessian is changed."""
        np.einsum("ii->i", hessian)[:] += penalty
        inverse_factor, root = _inverse_factor(hessian)
        return cls(inverse_factor.T / root[:, None], np.zeros(len(root)))


def _inverse_factor(hessian: Array) -> tuple[Array, Array]:
    """The inverse of the Cholesky factor of the Hessian scaled to a unit diagonal, (d, d), and the
    roots by which it is scaled, (d,)."""
    diagonal = np.diag(hessian)
    root = np.sqrt(np.where(diagonal > 0, diagonal, 1.0))
    scaled = hessian / root
    scaled /= root[:, None]
    unit = np.diag(scaled).copy()
    ridge = _RIDGE
    while True:
        np.fill_diagonal(scaled, unit + ridge)
        try:
            factor = np.linalg.cholesky(scaled)
            break
        except np.linalg.LinAlgError:
            ridge *= 10.0
    del scaled  # there are few enough bytes for what LAPACK copies
    return np.linalg.inv(factor), root


CurvatureModel = Curvature | Kronecker | Array
"""What is known of the curvature at some strengths: for L-BFGS what makes its preconditioners, for
the proximal solver the Hessian of the loss, (d, d)."""


@dataclass(frozen=True, slots=True)
class Curvatures:
    """What is known of the curvature along a path; nothing where there is no pilot."""

    known: list[CurvatureModel]
    nearest: list[int]
    """Which of them serves each strength, (L,)."""

    @classmethod
    def none(cls) -> Curvatures:
        """Nothing."""
        return cls([], [])

    @classmethod
    def between(
        cls, anchors: list[int], hessians: list[Array], strengths: Sequence[Objective], most: int
    ) -> Curvatures:
        """From Hessians of the loss at some of the strengths, those of as many as have room.

        Parameters
        ----------
        anchors, hessians
            Indices of strengths, ascending, and the Hessians there, (d, d) each.
        strengths
            The objective of all rows at every strength.
        most
            Number of Hessians that there is room for.
        """
        L, model = len(strengths), strengths[0]
        nodes = anchors
        if len(anchors) > 1:
            nodes = sorted({round(at) for at in np.linspace(0, L - 1, max(1, min(L, most)))})
        known: list[CurvatureModel] = []
        for at in nodes:
            hessian = _between(anchors, hessians, at)
            if not model.smooth:
                known.append(hessian)
            elif L == 1:
                known.append(Curvature.of_one(hessian, model.penalty_curvature))
            else:
                known.append(Curvature.of(hessian, model.penalty_curvature))
        nearest = [int(np.argmin([abs(at - i) for at in nodes])) for i in range(L)]
        return cls(known, nearest)

    def solves(
        self, grid: Sequence[Sequence[Objective]], tolerance: float
    ) -> list[Solve[Objective]]:
        """The solves of a grid of objectives: of each strength, that of all rows and those of the
        folds."""
        first = _strength_of_squares(grid[0][0])
        solves = []
        for row, node in zip(grid, self.nearest or [0] * len(grid), strict=True):
            share = _strength_of_squares(row[0]) / first if first > 0 else 0.0
            known = self.known[node] if self.known else None
            solves += [_solve_of(objective, tolerance, known, share) for objective in row]
        return solves


def _between(anchors: list[int], hessians: list[Array], at: int) -> Array:
    """The Hessian at a strength, from those of its neighbours."""
    right = int(np.searchsorted(anchors, at))
    if right == len(anchors) or anchors[right] == at:
        return hessians[min(right, len(anchors) - 1)]
    if right == 0:
        return hessians[0]
    share = (at - anchors[right - 1]) / (anchors[right] - anchors[right - 1])
    return (1.0 - share) * hessians[right - 1] + share * hessians[right]


def _strength_of_squares(objective: Objective) -> float:
    return objective.model.penalty.l2


def _solve_of(
    objective: Objective, tolerance: float, known: CurvatureModel | None, share: float
) -> Solve[Objective]:
    """A model that begins at the pilot's optimum: the first step counts, since it tells of the
    place and not of the way there."""
    if known is None:
        plain = Lbfgs(objective, tolerance) if objective.smooth else Proximal(objective, tolerance)
        return Solve(objective, plain, lambda found: plain.init(objective, found))
    if not isinstance(known, np.ndarray):
        return preconditioned(objective, tolerance, known.with_strength(share))
    proximal = Proximal(objective, tolerance)

    def begin(found: Evaluation) -> State:
        return replace(proximal.init_with(found, known, None, np.ones(1)), accepted=1)

    return Solve(objective, proximal, begin)


def preconditioned(
    objective: Objective, tolerance: float, preconditioner: Preconditioner
) -> Solve[Objective]:
    """A smooth model that begins where it is nearly solved, by L-BFGS."""
    solver = Lbfgs(objective, tolerance, preconditioner=preconditioner)

    def begin(found: Evaluation) -> State:
        direction = -preconditioner(found.gradient)
        state = solver.init_with(found, np.empty(0), direction, np.ones(1), found.point)
        return replace(state, accepted=1)

    return Solve(objective, solver, begin)
