"""Where a quadratic model with a penalty is smallest, one entry at a time: an active-set method.

    q(x) = gᵀ(x - v) + ½ (x - v)ᵀ B (x - v) + Σ t |x|,   lower <= x <= upper

The free entries go to where q is smallest with the signs that they have, or as far as the first of
them meets a kink or a bound, which then is free no longer; once they are there, the entry whose
subgradient is largest is set free (Lee, Battle, Raina and Ng, "Efficient sparse coding algorithms",
2006, algorithm 1, one entry at a time, as in Lawson and Hanson's method for bounds). q falls with
every step, so that no set of free entries comes twice.

Where there are fewer examples than features B is singular. An entry that the free ones make up for
is not set free beside them: they move together along the direction in which q has no curvature,
which lets one of them go, and it takes that one's place. So the free entries' part of B keeps an
inverse, which is bordered and cut at k² operations a step; the whole costs about as much as to
factor B once.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streamlr.solvers.curvature import Curvature
from streamlr.solvers.problem import Nonsmooth

Array = NDArray[np.float64]
Index = NDArray[np.intp]

_DEPENDENT = 1e-9
"""Curvature left of an entry beside the free ones, relative to its own, that is none."""
_INEXACT = 1e-7
"""Residual of a step, relative to what it solves, from which on the inverse is made anew."""
_STEPS_OF_ENTRY = 4
"""Steps for each entry after which an end is made: one in and one out is usual."""
_FACTOR = 4.0
"""By which thresholds fall from stage to stage: entries are set free in about the order in which
they count."""
_ROUGH = 0.25
"""Subgradient, relative to the threshold, that is left at the end of a stage before the last."""
_REFINEMENTS = 4
_EPS = float(np.finfo(np.float64).eps)


def settled(
    x: Array, slope: Array, B: Curvature, nonsmooth: Nonsmooth, goal: float
) -> tuple[Array, Array]:
    """The minimum of a model whose curvature is a matrix, (d,), and its slope there, (d,).

    Parameters
    ----------
    x, slope
        Where to begin, within the bounds, and the derivative of the smooth part there, (d,) each.
    B, nonsmooth
        Curvature, thresholds t, and bounds.
    goal
        Largest subgradient, scaled by the roots of the curvature's diagonal, at which it ends.
    """
    unit = np.sqrt(B.diagonal)
    goal = max(goal, 8.0 * _EPS * float(np.max((np.abs(slope) + nonsmooth.thresholds) / unit)))
    search = ActiveSet(x, slope, B, nonsmooth)
    for share in _shares(np.abs(search.left()), nonsmooth.thresholds):
        search.use(share * nonsmooth.thresholds)
        enough = goal * unit if share == 1.0 else _ROUGH * share * nonsmooth.thresholds
        for _ in range(_STEPS_OF_ENTRY * len(x)):
            if search.descend():
                continue
            left = search.left()
            entry = int(np.argmax((np.abs(left) - enough) / unit))
            if not abs(left[entry]) > enough[entry]:
                break
            search.release(entry, -float(np.sign(left[entry])))
    return search.x, search.slope


def _shares(left: Array, thresholds: Array) -> list[float]:
    """Multiples of the thresholds, falling to 1, from where none of the entries that are not free
    would be set free."""
    held = thresholds > 0
    largest = 1.0 + float(np.max(left[held] / thresholds[held], initial=0.0))
    shares = [1.0]
    while shares[0] * _FACTOR < largest:
        shares.insert(0, shares[0] * _FACTOR)
    return shares


class ActiveSet:
    """A point, the entries that are free there, their rows of B, and the inverse of their part of
    it.

    Attributes
    ----------
    x, slope
        The point and the derivative of the smooth part, (d,) each.
    steps
        Steps taken so far: of all free entries together, and of entries set free.
    """

    def __init__(self, x: Array, slope: Array, B: Curvature, nonsmooth: Nonsmooth) -> None:
        self.x, self.slope = x.copy(), slope.copy()
        self.steps = 0
        self._B, self._nonsmooth = B, nonsmooth
        self._curvature, self._signs = B.diagonal, np.sign(x)
        self._tied = np.zeros(len(x), dtype=bool)
        self._k, size = 0, 16
        self._entries, self._rows, self._inverse = (
            np.empty(size, dtype=np.intp),
            np.empty((size, len(x))),
            np.empty((size, size)),
        )
        free = np.flatnonzero(nonsmooth.free(x))
        if self._take_all(free):
            return
        for entry in free.tolist():
            if nonsmooth.free(self.x)[entry]:  # one before it may have moved it
                self._take(entry)

    def use(self, thresholds: Array) -> None:
        """Go on with other thresholds, (d,)."""
        self._nonsmooth = replace(self._nonsmooth, thresholds=thresholds)
        self._tied[:] = False

    @property
    def entries(self) -> Index:
        """Those that are free, (k,)."""
        return self._entries[: self._k]

    def left(self) -> Array:
        """The shortest subgradient of the entries that are not free, (d,), 0 for the others."""
        left = self._nonsmooth.subgradient(self.x, self.slope)
        left[self.entries] = 0.0
        left[self._tied] = 0.0
        return left

    def descend(self) -> bool:
        """Move the free entries to where the model is smallest, or to the first stop on the way;
        whether there was one."""
        at = self.entries
        step = self._solve(-(self.slope[at] + self._nonsmooth.thresholds[at] * self._signs[at]))
        return self._move(at, step, self._rows[: self._k], 1.0) >= 0

    def release(self, entry: int, sign: float) -> None:
        """Set an entry free, which is to move in the direction of a sign."""
        self._signs[entry] = np.sign(self.x[entry]) or sign
        self._take(entry)

    def _move(self, at: Index, step: Array, rows: Array, most: float) -> int:
        """Take a step of some entries, (k,), or so much of it as leads to a stop, and let go of
        what stops; its place among them, -1 for none."""
        self.steps += 1
        length, stopped, end = self._first_stop(at, step, most)
        self.x[at] += length * step
        self.slope += (length * step) @ rows
        if stopped >= 0:
            entry = int(at[stopped])
            self.x[entry], self._signs[entry] = end, np.sign(end)
            if stopped < self._k:
                self._drop(stopped)
            self._tied[:] = False
        return stopped

    def _first_stop(self, at: Index, step: Array, most: float) -> tuple[float, int, float]:
        """How much of a step is taken, which entry stops it, -1 for none, and where that ends."""
        if not len(at):
            return most, -1, 0.0
        bound = np.where(step > 0, self._nonsmooth.upper[at], self._nonsmooth.lower[at])
        kinked = (self._nonsmooth.thresholds[at] > 0) & (self._signs[at] * step < 0)
        end = np.where(
            kinked, np.where(step > 0, np.minimum(0.0, bound), np.maximum(0.0, bound)), bound
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            lengths = np.where(step != 0, np.maximum((end - self.x[at]) / step, 0.0), np.inf)
        first = int(np.argmin(lengths))
        return (
            (float(lengths[first]), first, float(end[first]))
            if lengths[first] < most
            else (most, -1, 0.0)
        )

    def _take_all(self, entries: Index) -> bool:
        """Set entries free at once where none makes up for another; whether that is so."""
        if not len(entries):
            return True
        rows = self._B.rows(entries)
        try:
            factor = np.linalg.cholesky(rows[:, entries])
        except np.linalg.LinAlgError:
            return False
        if not (np.diag(factor) ** 2 > _DEPENDENT * self._curvature[entries]).all():
            return False
        while len(self._entries) < len(entries):
            self._grow()
        k = self._k = len(entries)
        self._entries[:k], self._rows[:k], self._inverse[:k, :k] = (
            entries,
            rows,
            np.linalg.inv(rows[:, entries]),
        )
        self.steps += k
        return True

    def _take(self, entry: int) -> None:
        """Set one more entry free, in the place of another one where the free ones make up for
        it."""
        for _ in range(2):
            row = self._B.rows(np.array([entry]))[0]
            across = self._solve(row[self.entries])
            rest = float(row[entry] - row[self.entries] @ across)
            if rest > _DEPENDENT * self._curvature[entry]:
                self._border(entry, row, across, rest)
                return
            if not self._slide(entry, row, across, max(rest, 0.0)):
                return

    def _slide(self, entry: int, row: Array, across: Array, rest: float) -> bool:
        """Move an entry and the free ones that make up for it to where the model is smallest;
        whether one of those has stopped, and is free no longer."""
        at = np.append(self.entries, entry)
        direction = np.append(-across, 1.0)
        fall = float(
            direction @ (self.slope[at] + self._nonsmooth.thresholds[at] * self._signs[at])
        )
        rows = np.vstack([self._rows[: self._k], row])
        most = abs(fall) / rest if rest > 0 else np.inf
        places = self._k
        if (
            not np.isfinite(most)
            and self._first_stop(at, -np.sign(fall or 1.0) * direction, np.inf)[1] < 0
        ):
            self._tied[entry] = True
            return False
        stopped = self._move(at, -np.sign(fall or 1.0) * direction, rows, most)
        if stopped < 0:
            self._tied[entry] = True
        return 0 <= stopped < places

    def _solve(self, rhs: Array) -> Array:
        """The inverse of the free entries' part of B times (k,), refined once."""
        if not self._k:
            return rhs
        part, size = self._rows[: self._k, self.entries], float(np.abs(rhs).max())
        for _ in range(2):
            found, left = self._times(rhs), rhs
            for _ in range(_REFINEMENTS):
                left = rhs - part @ found
                if np.abs(left).max() <= _INEXACT * size:
                    return found + self._times(left)
                found += self._times(left)
            self._inverse[: self._k, : self._k] = np.linalg.inv(part)
        return found

    def _times(self, rhs: Array) -> Array:
        product: Array = self._inverse[: self._k, : self._k] @ rhs
        return product

    def _border(self, entry: int, row: Array, across: Array, rest: float) -> None:
        k = self._k
        if k == len(self._entries):
            self._grow()
        self._entries[k], self._rows[k] = entry, row
        inverse = self._inverse
        inverse[:k, :k] += np.outer(across, across / rest)
        inverse[:k, k] = inverse[k, :k] = -across / rest
        inverse[k, k] = 1.0 / rest
        self._k += 1
        self.steps += 1

    def _drop(self, at: int) -> None:
        """Let go of a free entry by its place; the last one takes it."""
        last, inverse = self._k - 1, self._inverse
        self._entries[at], self._rows[at] = self._entries[last], self._rows[last]
        inverse[: last + 1, [at, last]] = inverse[: last + 1, [last, at]]
        inverse[[at, last], : last + 1] = inverse[[last, at], : last + 1]
        column = inverse[:last, last].copy()
        inverse[:last, :last] -= np.outer(column, column / inverse[last, last])
        self._k -= 1

    def _grow(self) -> None:
        k, size = self._k, 2 * len(self._entries)
        entries, rows, inverse = (
            np.empty(size, dtype=np.intp),
            np.empty((size, self._rows.shape[1])),
            np.empty((size, size)),
        )
        entries[:k], rows[:k], inverse[:k, :k] = (
            self._entries[:k],
            self._rows[:k],
            self._inverse[:k, :k],
        )
        self._entries, self._rows, self._inverse = entries, rows, inverse
