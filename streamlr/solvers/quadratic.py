"""The model of the objective about a point v, and where it is smallest.

    q(x) = gᵀ(x - v) + ½ (x - v)ᵀ B (x - v) + Σ t |x|,   lower <= x <= upper

B is a Hessian that was had cheaply, corrected by the pairs (s, y) of BFGS, written out as a sum (Nocedal and Wright, "Numerical
Optimization", 2nd ed., eq. 6.19):  B = H + Σ σ w wᵀ,  with w = y / √(yᵀs), σ = 1, and w = B s / √(sᵀ B s), σ = -1, for each pair.

Rounds of two steps. On the entries that are free (neither at a bound nor at the kink of l1) q is smooth: Newton's step there is exact, and
what it would take across a kink or a bound stops there. Then entries that others have set free or caught are found, by sweeps over
the coordinates where the Hessian is a matrix, else by steps along the scaled subgradient. Both only ever lower q, so the rounds end, and
once the free entries are the right ones the next Newton step is the answer: that costs no more rounds where features are nearly collinear.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamlr.penalty import Nonsmooth

Array = NDArray[np.float64]
Index = NDArray[np.intp]

_MOST_ROUNDS = 40
_PRECISION = 1e-4
"""Of the model's minimum, by its subgradient, relative to that at the start: the model itself is no better."""
_SWEEPS = 3
_SHORTER = (0.5, 0.25)
"""Parts of Newton's step that are tried where it is not good as a whole."""
_MOST_STOPS = 10
"""Newton's steps in a row that end at a kink or a bound."""
_MOST_HALVINGS = 24
_RIDGE = 1e-11
"""Of the diagonal: far below any curvature that matters, and above the rounding of a Hessian that is singular."""


@dataclass(frozen=True, slots=True)
class Curvature:
    """B = H + Σ σ w wᵀ."""

    hessian: Array
    """H without ``added``: its diagonal, (d,), or whole, (d, d); never written to."""
    added: Array
    """What is added to its diagonal, (d,)."""
    vectors: Array
    """w, (K, d)."""
    signs: Array
    """σ, (K,)."""

    def product(self, p: Array) -> Array:
        """B p, (d,)."""
        first = self.hessian @ p if self.hessian.ndim == 2 else self.hessian * p
        return first + self.added * p + self.vectors.T @ (self.signs * (self.vectors @ p))

    @property
    def diagonal(self) -> Array:
        """Of B, (d,), positive."""
        own = np.diag(self.hessian) if self.hessian.ndim == 2 else self.hessian
        diagonal = own + self.added + self.signs @ self.vectors**2
        least = 1e-10 * float(diagonal.max(initial=0.0))
        return np.maximum(diagonal, least if least > 0 else 1.0)

    def part(self, at: Index) -> Array:
        """Rows and columns of B, (k, k)."""
        assert self.hessian.ndim == 2
        W = self.vectors[:, at]
        B = self.hessian[np.ix_(at, at)]
        B += W.T @ (self.signs[:, None] * W)
        B[np.arange(len(at)), np.arange(len(at))] += self.added[at] + _RIDGE * np.abs(np.diag(B))
        return B

    def solve(self, at: Index, rhs: Array) -> Array:
        """The inverse of a part of B times ``rhs``, (k,)."""
        if self.hessian.ndim == 2:
            return np.asarray(np.linalg.solve(self.part(at), rhs), dtype=np.float64)
        inverse, W = 1.0 / (self.hessian + self.added)[at], self.vectors[:, at]
        small = np.diag(self.signs) + (W * inverse) @ W.T  # Woodbury; the inverse of a sign is itself
        return inverse * rhs - inverse * (W.T @ np.linalg.solve(small, W @ (inverse * rhs)))


def curvature_of(hessian: Array, added: Array, moves: Array, changes: Array) -> Curvature:
    """B from a Hessian, (d,) or (d, d), and the last steps.

    A diagonal is a guess and takes the size that the last pair tells; a matrix has the right size already.

    Parameters
    ----------
    hessian, added
        H is their sum: its diagonal, (d,), or the whole, (d, d); and what is added to its diagonal, (d,).
    moves, changes
        s and y of the last steps, oldest first, (M, d), with sᵀy > 0.
    """
    if hessian.ndim == 1:
        hessian, added = hessian + added, np.zeros_like(added)
        if len(moves):
            hessian = hessian * float((changes[-1] @ (changes[-1] / hessian)) / (moves[-1] @ changes[-1]))
    B = Curvature(hessian, added, np.empty((0, len(added))), np.empty(0))
    for s, y in zip(moves, changes, strict=True):
        Bs = B.product(s)
        size = float(s @ Bs)
        if not size > 0:
            continue
        B = replace(B, vectors=np.vstack([B.vectors, Bs / np.sqrt(size), y / np.sqrt(s @ y)]), signs=np.append(B.signs, [-1.0, 1.0]))
    return B


def minimum(gradient: Array, point: Array, B: Curvature, nonsmooth: Nonsmooth) -> Array:
    """Where q is smallest, (d,), with exact zeros and bounds that are met exactly.

    Parameters
    ----------
    gradient, point
        g and v, (d,) each; v within the bounds.
    B
        Curvature of the model.
    nonsmooth
        t and the bounds.
    """
    diagonal = B.diagonal
    unit = np.sqrt(diagonal)
    x, slope = point.copy(), gradient.copy()
    goal = _PRECISION * float(np.max(np.abs(nonsmooth.subgradient(x, slope)) / unit, initial=0.0))
    for _ in range(_MOST_ROUNDS):
        x, slope = _newton(x, slope, B, nonsmooth)
        left = np.abs(nonsmooth.subgradient(x, slope)) / unit
        if not float(np.max(left, initial=0.0)) > goal:
            break
        movable = np.flatnonzero(nonsmooth.free(x) | (left > 0))
        sweep = _coordinates if B.hessian.ndim == 2 else _steps
        moved = sweep(x, slope, B, nonsmooth, movable)
        if np.array_equal(moved, x):
            break
        x = moved
        slope = gradient + B.product(x - point)
    return x


def _newton(x: Array, slope: Array, B: Curvature, nonsmooth: Nonsmooth) -> tuple[Array, Array]:
    """Newton's steps on the free entries; the new point and its slope.

    What would cross a kink or a bound stops there. Where the model does not fall that way, the step goes as far as the first entry that has to
    stop, which it always may, and the next one is taken without that entry.
    """
    for _ in range(_MOST_STOPS):
        at = np.flatnonzero(nonsmooth.free(x))
        if not len(at):
            break
        try:
            direction = -B.solve(at, slope[at] + nonsmooth.thresholds[at] * np.sign(x[at]))
        except np.linalg.LinAlgError:
            break
        if not np.isfinite(direction).all():
            break
        first, stopped, goal = _first_stop(x, at, direction, nonsmooth)
        for length in (1.0, *_SHORTER, first) if first < 1.0 else (1.0,):
            y = x.copy()
            y[at] += length * direction
            y[(nonsmooth.thresholds > 0) & (y * x < 0)] = 0.0
            if length == first:
                y[at[stopped]] = goal
            y = nonsmooth.clip(y)
            p = y - x
            Bp = B.product(p)
            if float(slope @ p) + 0.5 * float(p @ Bp) + _rise(x, y, nonsmooth) < 0.0:
                break
        else:
            break
        x, slope = y, slope + Bp
        if length == 1.0:
            break
    return x, slope


def _first_stop(x: Array, at: Index, direction: Array, nonsmooth: Nonsmooth) -> tuple[float, int, float]:
    """Length of a step to the first kink or bound on the way, which of the entries ``at`` meets it, and where; infinity where none does."""
    here = x[at]
    kink = np.where((nonsmooth.thresholds[at] > 0) & (here * direction < 0), 0.0, np.nan)
    bound = np.where(direction > 0, nonsmooth.upper[at], nonsmooth.lower[at])
    goal = np.where(np.isnan(kink), bound, np.where(direction > 0, np.minimum(kink, bound), np.maximum(kink, bound)))
    with np.errstate(divide="ignore", invalid="ignore"):
        lengths = np.where(direction != 0, (goal - here) / direction, np.inf)
    stopped = int(np.argmin(lengths))
    return float(lengths[stopped]), stopped, float(goal[stopped])


def _rise(x: Array, y: Array, nonsmooth: Nonsmooth) -> float:
    """By how much Σ t |.| grows from x to y: entry by entry, which keeps the digits of a short step."""
    return float(nonsmooth.thresholds @ (np.abs(y) - np.abs(x)))


def _coordinates(x: Array, slope: Array, B: Curvature, nonsmooth: Nonsmooth, at: Index) -> Array:
    """Each of some entries in turn to where the model is smallest along it, a few times."""
    part = B.part(at)
    curvature = np.maximum(np.diag(part), B.diagonal[at]).tolist()
    u = slope[at].copy()
    thresholds, lower, upper, values = (array[at].tolist() for array in (nonsmooth.thresholds, nonsmooth.lower, nonsmooth.upper, x))
    for _ in range(_SWEEPS):
        for j, a in enumerate(curvature):
            before = values[j]
            z, t = before - float(u[j]) / a, thresholds[j] / a
            now = min(max(z - t if z > t else z + t if z < -t else 0.0, lower[j]), upper[j])
            if now != before:
                values[j] = now
                u += part[j] * (now - before)
    moved = x.copy()
    moved[at] = values
    return moved


def _steps(x: Array, slope: Array, B: Curvature, nonsmooth: Nonsmooth, at: Index) -> Array:
    """A step of proximal gradients, scaled by the diagonal, shortened until the model falls by what it promises."""
    diagonal, length = B.diagonal, 1.0
    for _ in range(_MOST_HALVINGS):
        y = nonsmooth.nearest(x - length * slope / diagonal, diagonal / length)
        p = y - x
        if float(p @ B.product(p)) <= float(p @ (diagonal * p)) / length:
            return y
        length *= 0.5
    return x
