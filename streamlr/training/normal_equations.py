"""The normal equations of least squares, factored: what step leads to the optimum, and of many
optima to which one.

    H = T A T,   A = L Lᵀ   by Cholesky's method with diagonal pivots, T powers of two near the
    roots of the diagonal

H is the Hessian by the coefficients of standardised features, V = S W. Of columns that are
combinations of others the pivots vanish, and L is (n, r). Every solution of H V = h has Lᵀ T V = f
with f from the pivots' rows, and the one whose W is shortest is

    W = Q R⁻ᵀ f,   S T L = Q R           (Golub and Van Loan, "Matrix Computations", 4th ed., 5.6.2)

the minimum-norm solution in the units of the data, as LAPACK has it. H is float64, or a pair where
that many digits are needed: then L is computed in pairs and the steps are refined with H, so that
they are exact though H may be singular to float64. Where there are too many features for H and few
rows, L and Q are had from the rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.pairs import Pair, times

Array = NDArray[np.float64]
Index = NDArray[np.intp]

_EPS = float(np.finfo(np.float64).eps)
_TRUSTED = 1e9
"""Condition of float64 equations up to which two steps with them leave nothing."""
_NOISE = 16.0 * _EPS
"""Pivots of float64 that are rounding, for each row of the matrix."""
_NOISE_OF_PAIRS = 1e-27
_MOST_REFINEMENTS = 30
_STEPS_OF_POWER = 30
_MOST_SINGULAR = 1024
"""Columns whose singular values are worth their time."""
_USABLE = 1e12
"""Condition of the span of V / unit up to which rounding leaves it what it is."""


@dataclass(frozen=True, slots=True)
class Equations:
    """Normal equations with their factor."""

    scale: Array
    """S, (n,)."""
    lean: Array
    """Means of the standardised features about their center, (n,), by which the intercept hangs
    together with V."""
    rows: Index
    """Features of the pivots, (r,)."""
    dependent: Index
    """Features that vary and are combinations of those, (q,); of few rows as many as there are too
    many."""
    into: Array
    """What makes f of the pivots' entries of h, (r, r)."""
    out_of: Array
    """What makes V of f, (n, r)."""
    span: Array | None
    """Orthonormal basis of what the data tell of V / unit, (n, r); None where they tell of
    everything."""
    unit: Array
    """Of many solutions the shortest is that of V / unit, (n,): S, or 1 where the units differ by
    so much that rounding would choose; of rows with a ridge D^-½, by which what they span is told.
    """
    condition: float
    """Of the standardised features: largest over smallest singular value, of those that are not 0.
    """
    certain: bool
    """Whether the digits of H suffice to tell rank and steps."""
    matrix: Pair | None = None
    """H, (n, n), where it is a pair."""

    @property
    def still(self) -> NDArray[np.bool_]:
        """Features that do not vary, (n,): an intercept stands for them."""
        still = np.ones(len(self.scale), dtype=bool)
        still[self.rows] = still[self.dependent] = False
        return still

    def after(self, point: Array, rest: Array, step: Array) -> Array:
        """Where a step leads, and beneath what rounding has cut off from that, (2, d); ``rest`` is
        what it has from the point."""
        found = Pair(point, rest) + Pair.of(step)
        return np.stack([found.hi, found.lo])

    def step(self, gradient: Array, rest: Array | None = None) -> Array:
        """Newton's step from a point with this gradient, (d,): by V and then, if there is one, by
        the intercept.

        ``rest`` is what rounding has cut off from the gradient, without which a step far from the
        optimum has the digits of the working precision less those that the condition takes.
        """
        n = len(self.scale)
        g = Pair.of(gradient) if rest is None else Pair(gradient, rest)
        if len(gradient) == n:
            return -self._solve(g)
        V = -self._solve(g[:n] - Pair.of(self.lean) * g[n:])
        return np.append(V, -gradient[n:] - self.lean @ V)

    def _solve(self, h: Pair) -> Array:
        V = self._rough(h.hi)
        if self.matrix is None:
            return V
        found = Pair.of(V)
        for _ in range(_MOST_REFINEMENTS):
            more = self._rough((h - times(self.matrix, found)).hi)
            found = found + Pair.of(more)
            if not float(np.abs(more).max(initial=0.0)) > _EPS * float(
                np.abs(found.hi).max(initial=0.0)
            ):
                break
        return found.hi

    def _rough(self, h: Array) -> Array:
        return self.out_of @ (
            self.into @ h[self.rows]
        )  # one after the other: their product would lose twice the digits

    def nearest(self, point: Array) -> Array:
        """The point, (d,), or of those that mean the same for all rows the one whose coefficients
        are shortest."""
        if self.span is None:
            return point
        n = len(self.scale)
        W = self.span @ (self.span.T @ (point[:n] / self.unit))
        return np.concatenate([self.unit * W, point[n:]])


@dataclass(frozen=True, slots=True)
class Design:
    """What is known of the features beside H."""

    scale: Array
    """S, (n,)."""
    lean: Array
    """Means of the standardised features about their center, (n,)."""
    most_rank: int
    """Rank that the rows allow."""
    n_rows: int
    """Their number."""


def factored(H: Array, design: Design) -> Equations:
    """The equations of H, (n, n), in float64; ``H`` is overwritten."""
    T, varying = _near_roots(H), np.flatnonzero(np.diag(H) > 0)
    H /= T
    H /= T[:, None]
    found = _well_conditioned(H)
    if found is None:
        most = min(design.most_rank, len(varying))
        order, L = _cholesky(H, _NOISE * len(H), most)
        equations = _of_factor(L, order, T, design)
        certain = len(order) == most and equations.condition**2 <= _TRUSTED
        return replace(equations, dependent=np.setdiff1d(varying, order), certain=certain)
    half, condition = found
    half /= T
    return Equations(
        design.scale,
        design.lean,
        np.arange(len(H)),
        np.empty(0, dtype=np.intp),
        half,
        half.T,
        None,
        design.scale,
        condition,
        True,
    )


def factored_pairs(H: Pair, design: Design) -> Equations:
    """The same of pairs. Singular values below the precision times the number of rows are rounding,
    as LAPACK has it."""
    T, varying = _near_roots(H.hi), np.flatnonzero(np.diag(H.hi) > 0)
    noise = (_EPS * max(design.n_rows, len(T))) ** 2
    order, L = _cholesky_of_pairs(
        H.scaled(1.0 / T).scaled(1.0 / T[:, None]),
        max(noise, _NOISE_OF_PAIRS),
        min(design.most_rank, len(varying)),
    )
    return replace(
        _of_factor(L, order, T, design), dependent=np.setdiff1d(varying, order), matrix=H
    )


def factored_rows(A: Array, design: Design, ridge: Array | None = None) -> Equations:
    """The equations of H = Aᵀ A + D by the singular values of A, (m, n), m < n: the rows less their
    means, times the root of their share of the weight.

    ``ridge`` is D, (n,), positive where a feature varies; None where there is none. With it the
    optimum is the only one, and D^½ V lies in what the rows of A D^-½ span, so that a step is as
    exact for a tiny D as for none.
    """
    varying, scale = A.any(axis=0), design.scale
    rows, nothing = np.flatnonzero(varying), np.empty(0, dtype=np.intp)
    if ridge is None:
        singular, span, unit, condition = _of_many_optima(A, scale)
        dependent = rows[len(singular) :]
    else:
        unit, dependent = 1.0 / np.sqrt(np.where(ridge > 0, ridge, 1.0)), nothing
        singular, span = _singular(A / scale * unit)
        singular = np.sqrt(1.0 + singular**2)
        condition = float(singular[0] / singular[-1]) if len(singular) else 1.0
    span[~varying] = 0.0
    out_of = unit[:, None] * span / singular
    into = out_of.T if varying.all() else out_of[rows].T
    return Equations(scale, design.lean, rows, dependent, into, out_of, span, unit, condition, True)


def _of_many_optima(A: Array, scale: Array) -> tuple[Array, Array, Array, float]:
    """Singular values, what they span, the unit in which the shortest is taken, and the condition
    of the standardised features."""
    standardised = np.linalg.svd(np.linalg.qr((A / scale).T, mode="r"), compute_uv=False)
    rank = _rank(standardised, A)
    condition = float(standardised[0] / standardised[rank - 1]) if rank else 1.0
    singular, span = _singular(A)
    if len(singular) and not singular[0] <= _USABLE * singular[-1]:
        return *_singular(A / scale), np.ones(len(scale)), condition
    return singular, span, scale, condition


def _singular(A: Array) -> tuple[Array, Array]:
    """Singular values of (m, n), (r,), without those that are rounding, and the vectors that span
    its rows, (n, r)."""
    Q, R = np.linalg.qr(A.T)
    U, singular, _ = np.linalg.svd(R)
    rank = _rank(singular, A)
    return singular[:rank], Q @ U[:, :rank]


def _rank(singular: Array, A: Array) -> int:
    """How many singular values of A are more than rounding, as LAPACK has it."""
    return int(np.count_nonzero(singular > _EPS * max(A.shape) * singular[0]))


def _near_roots(H: Array) -> Array:
    """T, with which the diagonal of A lies between a half and 2."""
    diagonal = np.diag(H)
    T: Array = np.exp2(np.round(0.5 * np.log2(np.where(diagonal > 0, diagonal, 1.0))))
    return T


def _well_conditioned(A: Array) -> tuple[Array, float] | None:
    """The inverse of A's factor by LAPACK, and the root of A's condition; None where that is no way
    to tell them."""
    try:
        factor = np.linalg.cholesky(A)
    except np.linalg.LinAlgError:
        return None
    half: Array = np.linalg.inv(factor)
    del factor
    condition = _largest(lambda v: A @ v, len(A)) * _largest(lambda v: half.T @ (half @ v), len(A))
    return (half, float(np.sqrt(condition))) if condition <= _TRUSTED else None


def _largest(multiplied: Callable[[Array], Array], n: int) -> float:
    """Largest eigenvalue of a positive definite matrix, by the power method: a few per cent of it
    may be lacking."""
    v, size = np.cos(np.arange(n) + 1.0), 0.0
    for _ in range(_STEPS_OF_POWER):
        v = multiplied(v / np.linalg.norm(v))
        size = float(np.linalg.norm(v))
    return size


def _cholesky(A: Array, noise: float, most: int) -> tuple[Index, Array]:
    """Pivots in their order, (r,), and L, (n, r), until what is left is noise."""
    n = len(A)
    left, L, order = np.diag(A).copy(), np.zeros((n, most)), np.empty(most, dtype=np.intp)
    for j in range(most):
        p = int(np.argmax(left))
        if not left[p] > noise:
            return order[:j], L[:, :j]
        column = (A[:, p] - L[:, :j] @ L[p, :j]) / np.sqrt(left[p])
        column[order[:j]] = 0.0
        L[:, j], order[j] = column, p
        left -= column**2
        left[order[: j + 1]] = -1.0
    return order, L


def _cholesky_of_pairs(A: Pair, noise: float, most: int) -> tuple[Index, Array]:
    """The same in twice the precision; L is rounded at the end, which costs steps no more than the
    root of the condition."""
    n = A.shape[0]
    left, L, order = (
        Pair(np.diag(A.hi).copy(), np.diag(A.lo).copy()),
        Pair.zeros(n, most),
        np.empty(most, dtype=np.intp),
    )
    for j in range(most):
        p = int(np.argmax(left.hi))
        if not left.hi[p] > noise:
            return order[:j], L.hi[:, :j]
        column = (A[:, p] - times(L[:, :j], L[p, :j])) / left[p].sqrt()
        column.hi[order[:j]] = column.lo[order[:j]] = 0.0
        L.hi[:, j], L.lo[:, j], order[j] = column.hi, column.lo, p
        left = left - column * column
        left.hi[order[: j + 1]], left.lo[order[: j + 1]] = -1.0, 0.0
    return order, L.hi


def _of_factor(L: Array, order: Index, T: Array, design: Design) -> Equations:
    """The equations of L, (n, r), whose rows ``order`` are triangular."""
    (n, r), scale = L.shape, design.scale
    nothing = np.empty(0, dtype=np.intp)
    if r == 0:
        return Equations(
            scale,
            design.lean,
            order,
            nothing,
            np.zeros((0, 0)),
            np.zeros((n, 0)),
            np.zeros((n, 0)),
            scale,
            1.0,
            True,
        )
    inverse: Array = np.asarray(np.linalg.inv(L[order]), dtype=np.float64)
    condition = _condition(L, L[order], inverse)
    into = inverse / T[order]
    if r == n:
        out_of = np.empty((n, n))
        out_of[order] = into.T
        return Equations(
            scale, design.lean, order, nothing, into, out_of, None, scale, condition, True
        )
    for unit in (scale, np.ones(n)):
        Q, R = np.linalg.qr((unit * T)[:, None] * L)
        R_inverse = np.linalg.inv(R)
        if np.linalg.norm(R, 1) * np.linalg.norm(R_inverse, 1) <= _USABLE:
            break
    return Equations(
        scale,
        design.lean,
        order,
        nothing,
        into,
        unit[:, None] * (Q @ R_inverse.T),
        Q,
        unit,
        condition,
        True,
    )


def _condition(L: Array, triangle: Array, inverse: Array) -> float:
    """Largest over smallest singular value of L, (n, r); where it is large a bound that costs
    less."""
    if len(L) > _MOST_SINGULAR:
        return float(np.linalg.norm(triangle, 1) * np.linalg.norm(inverse, 1))
    singular = np.linalg.svd(L, compute_uv=False)
    return float(singular[0] / singular[-1])
