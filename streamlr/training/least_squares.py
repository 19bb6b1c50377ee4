"""Least squares where its Hessian is known: equations from the statistics pass, and evaluations in
twice the working precision.

A step with the Hessian leads to the optimum but for rounding. That of the residuals is multiplied
by the condition of the features, which a gradient in twice the precision is rid of; that of the
Hessian only makes for another step, unless it is singular to float64. So the statistics pass's
products and a pass or two do where the features are well conditioned, and one pass that sums the
products as pairs where they are not.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.pairs import Pair, power_above, two_product
from streamlr.kernels.residuals import MOST_FEATURES_OF_PRODUCTS, ResidualScan, ResidualSums
from streamlr.kernels.scans.moments import SampledRows
from streamlr.objective.objective import Objective
from streamlr.solvers import Evaluation, LeastSquares
from streamlr.solvers.least_squares import LeastSquaresState
from streamlr.training.normal_equations import (
    Design,
    Equations,
    factored,
    factored_pairs,
    factored_rows,
)

Array = NDArray[np.float64]

_SMALL = 2**20
"""Values of data that are read in a moment, whatever is made of them."""
_ILL = 1e8
"""Condition of the features from which on a person is told: of the digits of the data less than
half are left in the coefficients."""
_MOST_NAMED = 5
MANY_OPTIMA = (
    "there are fewer rows than features, and nothing holds these, so there are many optima; that "
    "to which the steps of the solver lead from 0 is "
    "taken, with L-BFGS the one whose coefficients have the smallest norm in units of their "
    "spreads; solver.name: auto takes that in units of the "
    "data, of up to 1,024 rows if there are more than 4,095 features"
)
_FAR = 1e9
"""Spreads from 0 to a mean that rounding moves by more than steps can do with."""
_FAR_TARGET = 1e6
"""The same of a target, whose rounding shows in gradients."""
_CONDITION = 100.0
"""Of the features, from which on rounding of the residuals would show in what a solver of the data
themselves would find."""


def equations_of(objective: Objective, rows: SampledRows | None = None) -> Equations:
    """The equations that the statistics pass's products make, or where there are none all rows of
    the data."""
    correlation, at = objective.moments.correlation, objective.coordinates
    if correlation is None:
        assert rows is not None
        return _equations_of_rows(objective, rows)
    H = correlation.copy()
    if not at.fit_intercept:
        means = objective.moments.mean / at.scale
        H += np.outer(means, means)
    H[np.diag_indices_from(H)] += objective.penalty_scale
    return factored(H, _design(objective, np.zeros(len(H))))


def _equations_of_rows(objective: Objective, rows: SampledRows) -> Equations:
    """Those of all rows in memory. What rounding has left of their means goes too, or it would pass
    for one more direction of the features."""
    moments, at = objective.moments, objective.coordinates
    omega = np.ones(len(rows.X)) if rows.weights is None else rows.weights
    share = omega / moments.weight_sum
    A = rows.X.astype(np.float64)
    A -= at.center
    left = share @ A if at.fit_intercept else np.zeros(A.shape[1])
    A -= left
    A *= np.sqrt(share)[:, None]
    if at.fit_intercept:
        A[:, moments.spread == 0] = 0.0  # but for rounding
    penalty = objective.penalty_scale
    return factored_rows(A, _design(objective, left / at.scale), penalty if penalty.any() else None)


def _is_far(objective: Objective) -> bool:
    """Whether a feature is so far from 0 that rounding of its mean shows in steps: it is a part of
    1e-7 of the spread or more."""
    moments = objective.moments
    return objective.coordinates.fit_intercept and bool(
        (np.abs(moments.mean) > _FAR * moments.spread)[moments.spread > 0].any()
    )


def equations_of_pairs(objective: Objective, H: Pair, lean: Array) -> Equations:
    """The equations of a matrix that a pass of its own has summed."""
    return factored_pairs(H, _design(objective, lean))


def _design(objective: Objective, lean: Array) -> Design:
    at, n = objective.coordinates, len(lean)
    rank = objective.moments.n_rows - at.fit_intercept
    return Design(
        at.scale,
        lean,
        n if objective.penalty_scale.any() else max(0, min(n, rank)),
        objective.moments.n_rows,
    )


class FineSquares:
    """Evaluates an objective of least squares in twice the working precision; each call is one pass
    over the data.

    Parameters
    ----------
    objective
        Of the family ``linear``, with neither l1 nor bounds, in standard coordinates.
    """

    def __init__(self, objective: Objective) -> None:
        self._objective = objective
        self._weight_unit = float(
            power_above(np.array(objective.moments.weight_sum / objective.moments.n_rows))
        )

    def evaluate(
        self, points: Array, title: str, *, hessian: bool = False, direction: Array | None = None
    ) -> list[Evaluation]:
        """The objective at each row of ``points``, (K, d), of several in the working precision
        alone; or at a pair, (1, 2, d). One pass."""
        if len(points) > 1 or hessian:
            return self._objective.evaluate(points, title, hessian=hessian, direction=direction)
        point = Pair(*points[0]) if points.ndim == 3 else Pair.of(points[0])
        return [self._found(point.hi, self._scan(point, title, products=False))]

    def equations(self, point: Array, title: str) -> tuple[Evaluation, Equations]:
        """The objective at one point, and its equations as pairs. One pass."""
        sums = self._scan(Pair.of(point), title, products=True)
        assert sums.products is not None
        assert sums.feature_sum is not None
        weight, scale = Pair.of(sums.weight_sum), Pair.of(self._objective.coordinates.scale)
        H = sums.products / weight / scale / scale[:, None]
        lean = Pair.zeros(len(scale.hi))
        if self._objective.coordinates.fit_intercept:
            lean = sums.feature_sum / weight / scale
            H = H - lean[:, None] * lean
        still = self._objective.coordinates.fit_intercept & (
            self._objective.moments.spread == 0
        )  # but for rounding
        H.hi[still] = H.lo[still] = H.hi[:, still] = H.lo[:, still] = 0.0
        H = H + Pair.of(np.diag(self._objective.penalty_scale))
        return self._found(point, sums), equations_of_pairs(self._objective, H, lean.hi)

    def _scan(self, point: Pair, title: str, *, products: bool) -> ResidualSums:
        at, objective = self._objective.coordinates, self._objective
        (V, u), (V_rest, u_rest) = at.split(point.hi), at.split(point.lo)
        scan = ResidualScan(
            Pair(V[:, 0], V_rest[:, 0]) / Pair.of(at.scale),
            Pair(u[0], u_rest[0]),
            at.center,
            products,
            objective.split,
            self._weight_unit,
        )
        sums: ResidualSums = objective.scanner.run(scan, title)
        return sums

    def _found(self, point: Array, sums: ResidualSums) -> Evaluation:
        objective, at = self._objective, self._objective.coordinates
        V, weight, penalty = (
            at.split(point)[0][:, 0],
            Pair.of(sums.weight_sum),
            objective.penalty_scale,
        )
        by_V = sums.coefficient_sum / weight / Pair.of(at.scale) + two_product(penalty, V)
        by_u = sums.intercept_sum / weight
        gradient = at.join(by_V.hi[:, None], by_u.hi.reshape(1))
        loss = sums.loss_sum / sums.weight_sum
        held = sums.validation_weight_sum
        return Evaluation(
            point,
            loss,
            loss + 0.5 * float(penalty @ V**2),
            gradient,
            float(np.abs(gradient).max()) / objective.target_unit,
            validation_loss=sums.validation_loss_sum / held if held > 0 else np.nan,
            validation_weight=held * self._weight_unit,
            gradient_rest=at.join(by_V.lo[:, None], by_u.lo.reshape(1)),
        )


def is_fine(objective: Objective, condition: float) -> bool:
    """Whether features of this condition, or a target far from 0, ask for more digits than float64
    has; data that are small have them in any case."""
    source, moments = objective.scanner.source, objective.moments
    far = (
        float(np.abs(moments.target_mean).max()) + abs(moments.offset_mean)
        > _FAR_TARGET * objective.target_unit
    )
    return condition > _CONDITION or far or source.n_rows * source.n_features <= _SMALL


def evaluator(objective: Objective, fine: bool) -> Objective | FineSquares:
    """What evaluates the objective, in twice the working precision or in that."""
    return FineSquares(objective) if fine else objective


@dataclass(frozen=True, slots=True)
class Start:
    """Where a solve begins."""

    solver: LeastSquares
    state: LeastSquaresState
    found: Evaluation
    """At the point of the state."""
    equations: Equations
    """Those of the solver."""


def start_squares(
    objective: Objective,
    point: Array,
    tolerance: float,
    equations: Equations,
    *,
    known: bool,
    most_passes: int,
) -> Start:
    """The solver and its state at a point.

    Parameters
    ----------
    objective, point, tolerance
        What is minimised, from where, and up to what gradient.
    equations
        Those that the statistics pass makes.
    known
        Whether the statistics pass tells the objective there.
    most_passes
        Most passes, with that of the statistics pass.
    """
    title = f"pass {objective.scanner.passes + 1}"
    pairs = _asks_for_pairs(objective, equations) and most_passes > 1
    fine = pairs or is_fine(objective, equations.condition)
    if pairs:
        found, equations = FineSquares(objective).equations(point, title)
    elif known:
        found = objective.without_features(point)
    else:
        found = evaluator(objective, fine).evaluate(point[None, :], title)[0]
    solver = LeastSquares(objective, tolerance, equations, fine)
    state, H = replace(solver.init(objective, found), spare=known and not pairs), equations.matrix
    if H is not None:
        state = replace(state, products=H.hi, products_rest=H.lo, lean=equations.lean)
    return Start(solver, state, found, equations)


def _asks_for_pairs(objective: Objective, equations: Equations) -> bool:
    """Whether the statistics pass's products have too few digits, and a pass of its own is to sum
    them as pairs."""
    return (not equations.certain or _is_far(objective)) and len(
        equations.scale
    ) <= MOST_FEATURES_OF_PRODUCTS


def lacks_pairs(objective: Objective, equations: Equations, state: LeastSquaresState) -> bool:
    """Whether a run ended, by its limit, before the pass that was to sum the products as pairs."""
    return state.products is None and _asks_for_pairs(objective, equations)


def resumed(objective: Objective, solver: LeastSquares, state: LeastSquaresState) -> LeastSquares:
    """The solver with the equations that it had when it was interrupted."""
    if state.products is None or state.products_rest is None or state.lean is None:
        return replace(solver, fine=is_fine(objective, solver.equations.condition))
    return replace(
        solver,
        equations=equations_of_pairs(
            objective, Pair(state.products, state.products_rest), state.lean
        ),
        fine=True,
    )


def are_many_optima(objective: Objective) -> bool:
    """Whether there are fewer rows than features of least squares, and nothing holds these."""
    n_rows, n_features = (
        objective.moments.n_rows - objective.coordinates.fit_intercept,
        len(objective.moments.mean),
    )
    return objective.quadratic and not objective.penalty_scale.any() and n_rows < n_features


def findings(equations: Equations, n_rows: int, names: Sequence[str] | None) -> list[str]:
    """What a person should know of the features."""
    found, n, q = [], len(equations.scale), len(equations.dependent)
    named = ", ".join(
        repr(names[j]) if names is not None else str(j)
        for j in equations.dependent[:_MOST_NAMED].tolist()
    )
    if not equations.certain:
        found.append(
            "features are combinations of others, or so nearly that float64 does not tell them "
            "apart (condition number of those that it does: "
            f"{equations.condition:.2g}{'; left out: ' * (q > 0)}{named}): what is common to them "
            "is exact, what sets them apart is not"
        )
    elif q:
        why = (
            f"{n_rows:,} rows tell no more of {n:,} features" if n_rows <= n else f"first: {named}"
        )
        units = (
            "of the data"
            if equations.unit is equations.scale
            else "of their spreads, since those of the data differ by too much"
        )
        found.append(
            f"{q:,} of {n:,} features are combinations of the others ({why}), so there are many "
            "optima; that whose coefficients have the smallest "
            f"norm, in units {units}, is taken"
        )
    if equations.certain and equations.condition > _ILL:
        digit = max(1, round(16 - np.log10(equations.condition)))
        found.append(
            "the features are nearly combinations of one another: the condition number of the "
            f"standardised ones is {equations.condition:.2g}, so a "
            f"change in the 16th digit of the data can change digit {digit} of the coefficients"
        )
    return found
