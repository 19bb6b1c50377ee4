"""The model of the objective about a point v, and where it is smallest.

    q(x) = gᵀ(x - v) + ½ (x - v)ᵀ B (x - v) + Σ t |x|,   lower <= x <= upper

B is a Hessian that was had cheaply, corrected by the pairs (s, y) of BFGS (see
`streamlr.solvers.curvature`).

Rounds of two steps. On the entries that are free (neither at a bound nor at the kink of l1) q is
smooth: Newton's step there is exact, and what it would take across a kink or a bound stops there.
Then entries that others have set free or caught are found, by sweeps over the coordinates where the
Hessian is a matrix, else by steps along the scaled subgradient. Both only ever lower q, so the
rounds end, and once the free entries are the right ones the next Newton step is the answer: that
costs no more rounds where features are nearly collinear. Where some rounds have not found them, as
where there are fewer examples than features, `streamlr.solvers.active_set` does.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamlr.solvers.active_set import settled
from streamlr.solvers.curvature import Curvature as Curvature
from streamlr.solvers.curvature import curvature_of as curvature_of
from streamlr.solvers.problem import Nonsmooth

Array = NDArray[np.float64]
Index = NDArray[np.intp]

_MOST_ROUNDS = 40
_FEW_ROUNDS = 8
"""After which entries are set free one at a time, where the Hessian is a matrix: there are so many
of about the same use that sweeps take turns."""
_PRECISION = 1e-4
"""Of the model's minimum, by its subgradient, relative to that at the start: the model itself is no
better."""
_SWEEPS = 3
_SHORTER = (0.5, 0.25)
"""Parts of Newton's step that are tried where it is not good as a whole."""
_MOST_STOPS = 10
"""Newton's steps in a row that end at a kink or a bound."""
_MOST_HALVINGS = 24


def minimum(
    gradient: Array, point: Array, B: Curvature, nonsmooth: Nonsmooth, *, singular: bool = False
) -> Array:
    """Where q is smallest, (d,), with exact zeros and bounds that are met exactly.

    Parameters
    ----------
    gradient, point
        g and v, (d,) each; v within the bounds.
    B
        Curvature of the model.
    nonsmooth
        t and the bounds.
    singular
        Whether B is known to be so, which sweeps take long to find out.
    """
    diagonal = B.diagonal
    unit = np.sqrt(diagonal)
    x, slope = point.copy(), gradient.copy()
    goal = _PRECISION * float(np.max(np.abs(nonsmooth.subgradient(x, slope)) / unit, initial=0.0))
    for done in range(_MOST_ROUNDS):
        if B.hessian.ndim == 2 and (singular or done == _FEW_ROUNDS):
            return settled(x, slope, B, nonsmooth, goal)[0]
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

    What would cross a kink or a bound stops there. Where the model does not fall that way, the step
    goes as far as the first entry that has to stop, which it always may, and the next one is taken
    without that entry.
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


def _first_stop(
    x: Array, at: Index, direction: Array, nonsmooth: Nonsmooth
) -> tuple[float, int, float]:
    """Length of a step to the first kink or bound on the way, which of the entries ``at`` meets it,
    and where; infinity where none does."""
    here = x[at]
    kink = np.where((nonsmooth.thresholds[at] > 0) & (here * direction < 0), 0.0, np.nan)
    bound = np.where(direction > 0, nonsmooth.upper[at], nonsmooth.lower[at])
    goal = np.where(
        np.isnan(kink),
        bound,
        np.where(direction > 0, np.minimum(kink, bound), np.maximum(kink, bound)),
    )
    with np.errstate(divide="ignore", invalid="ignore"):
        lengths = np.where(direction != 0, (goal - here) / direction, np.inf)
    stopped = int(np.argmin(lengths))
    return float(lengths[stopped]), stopped, float(goal[stopped])


def _rise(x: Array, y: Array, nonsmooth: Nonsmooth) -> float:
    """By how much Σ t |.| grows from x to y: entry by entry, which keeps the digits of a short
    step."""
    return float(nonsmooth.thresholds @ (np.abs(y) - np.abs(x)))


def _coordinates(x: Array, slope: Array, B: Curvature, nonsmooth: Nonsmooth, at: Index) -> Array:
    """Each of some entries in turn to where the model is smallest along it, a few times."""
    part = B.part(at)
    curvature = np.maximum(np.diag(part), B.diagonal[at]).tolist()
    u = slope[at].copy()
    thresholds, lower, upper, values = (
        array[at].tolist() for array in (nonsmooth.thresholds, nonsmooth.lower, nonsmooth.upper, x)
    )
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
    """A step of proximal gradients, scaled by the diagonal, shortened until the model falls by what
    it promises."""
    diagonal, length = B.diagonal, 1.0
    for _ in range(_MOST_HALVINGS):
        y = nonsmooth.nearest(x - length * slope / diagonal, diagonal / length)
        p = y - x
        if float(p @ B.product(p)) <= float(p @ (diagonal * p)) / length:
            return y
        length *= 0.5
    return x
