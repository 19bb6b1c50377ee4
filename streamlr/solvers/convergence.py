"""Whether a solve ends: at the optimum, or where it is proven that there is none."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from streamlr.solvers.loop import FEW_PARAMETERS
from streamlr.solvers.problem import Evaluation, Problem
from streamlr.solvers.state import Status, Termination

Array = NDArray[np.float64]

_STEP_PER_TOLERANCE = 10.0
"""How far the optimum may be thought to be, in tolerances and relative to the largest coefficient,
when the gradient is within the tolerance: beyond it the gradient is small because the objective is
flat, not because the optimum is near."""
_NOTHING = 1e-15
"""A gradient that is no larger is rounding: along a singular direction it still makes for a long
step, which means nothing."""
_NO_DECREMENT = 1e-20
"""A predicted decrease of the objective that is nothing but rounding: the square of the precision
of its gradient, and less."""
_FAR = 1e-3
"""A predicted step this long, relative to the largest coefficient, does not end at the optimum."""
_FADED = 1e-3
"""A gradient so small, with such a step of Newton's method, may be that of a loss that falls along
it for ever."""
_FADED_LONG_AGO = (1e-8, 1e-6)
"""The same of a step of which nobody knows the Hessian: the tolerance, but within these."""
_FLAT = 1e-6
"""Curvature along such a direction, relative to the largest."""
_PART_OF_POINT, _PART_OF_TRIED = 0.1, 0.5
"""What is flat of a point or of a direction, relative to the whole, from which on it may be such a
direction."""
_ALL_FLAT = 0.99
"""The same of a step that still is one of Newton's method along it, and not rounding of everything
else."""
_ROUNDED = 1e-11
"""A gradient below which what is flat about it may be nothing but rounding."""
_SAME = 1e-13
"""How little two directions differ of which one has nothing to tell that the other has not."""

SEPARABLE = (
    "the classes are perfectly separable: every example is classified correctly, so without a "
    "penalty there is no finite optimum; set model.penalty.l2 above 0"
)
ENDLESS = (
    "the coefficients grow without end while the gradient fades: some examples are separable by "
    "the features (quasi-complete separation), so "
    "there is no finite optimum; set model.penalty.l2 above 0"
)


def check_convergence(
    problem: Problem,
    tolerance: float,
    at: Evaluation,
    newton_step: Array | None,
    tried: Array | None = None,
    decrement: float | None = None,
) -> tuple[Termination | None, Array | None]:
    """Whether a solve ends at this evaluation, and if not, along which direction the loss may fall
    for ever.

    The gradient decides. Where a solver can tell how far the optimum is (``newton_step``), it has
    to be near as well: on data that are nearly separable the gradient fades while the coefficients
    still grow. A step along which the objective would not change at all (features that are copies
    of each other leave such directions) says nothing. That there is no optimum is said where it has
    been proven: by a point at which every example is on its side, or by a direction that leads all
    examples there.

    Parameters
    ----------
    problem, tolerance, at
        What is minimised, to where, and the latest evaluation.
    newton_step
        Where the solver believes the optimum to be, relative to the point, (d,).
    tried
        Direction that was tried in the same pass, (d,), if one was.
    decrement
        By how much the objective would fall along the step, to first order, where the gradient
        alone does not tell.

    Returns
    -------
    termination, suspect
        How the solve ends, or None; and a direction that is to be tried in the next pass, or that
        has proven that there is no optimum, (d,), or None.
    """
    if at.separates and problem.is_recession_direction(at.point):
        return Termination(Status.DIVERGED, SEPARABLE), None
    if not np.isfinite(at.value) or not np.isfinite(at.gradient_max):
        return Termination(
            Status.DIVERGED, "the objective is no longer finite; the steps are too long"
        ), None
    if at.recedes:
        return Termination(Status.DIVERGED, ENDLESS), tried
    size = max(0.1, float(np.abs(at.point).max()))
    reach = 0.0
    if (
        newton_step is not None
        and at.gradient_max > _NOTHING
        and (-float(at.gradient @ newton_step) if decrement is None else decrement)
        > _NO_DECREMENT * problem.value_unit
    ):
        reach = float(np.abs(newton_step).max())
    far = newton_step is not None and reach > _FAR * size
    suspect = _suspect(problem, tolerance, at, _way_out(at, newton_step if far else None, tried))
    if at.gradient_max > tolerance or reach > _STEP_PER_TOLERANCE * tolerance * size:
        return None, suspect
    return Termination(
        Status.CONVERGED,
        f"the gradient is {at.gradient_max:.2g}, within the tolerance of {tolerance:g}",
    ), None


def _suspect(
    problem: Problem, tolerance: float, at: Evaluation, direction: Array | None
) -> Array | None:
    """A direction, (d,), as it is to be tried, where the gradient has faded so far that the loss
    may fall along it for ever."""
    faded = _FADED if at.hessian is not None else float(np.clip(tolerance, *_FADED_LONG_AGO))
    if direction is None or at.gradient_max > faded or not problem.may_recede:
        return None
    direction = problem.recession_part(direction)
    size = float(np.abs(direction).max())
    return direction / size if size > 0 else None


def _way_out(at: Evaluation, newton_step: Array | None, tried: Array | None) -> Array | None:
    """Direction along which the loss may fall for ever, (d,), if any: a step that is far, or where
    one was tried in vain, what is flat of others.

    Where a loss falls for ever, the point is on the way there: what is flat about it moves the
    examples that are far on their side, and no others.
    """
    if (
        tried is None
        or at.hessian is None
        or len(tried) > FEW_PARAMETERS
        or not np.isfinite(at.hessian).all()
    ):
        return newton_step
    values, vectors = np.linalg.eigh(at.hessian)
    flat = vectors[:, values <= _FLAT * values[-1]]
    if (
        newton_step is not None
        and at.gradient_max > _ROUNDED
        and _share(flat, newton_step) > _ALL_FLAT
    ):
        return newton_step
    for whole, share in ((at.point, _PART_OF_POINT), (tried, _PART_OF_TRIED)):
        along: Array = flat @ (flat.T @ whole)
        beside = along - tried * (float(along @ tried) / float(tried @ tried))
        if _share(flat, whole) > share and float(np.linalg.norm(beside)) > _SAME * float(
            np.linalg.norm(along)
        ):
            return along
    return newton_step


def _share(basis: Array, whole: Array) -> float:
    """Length of a vector's part in an orthonormal basis, relative to its own."""
    size = float(np.linalg.norm(whole))
    return float(np.linalg.norm(basis.T @ whole)) / size if size > 0 else 0.0
