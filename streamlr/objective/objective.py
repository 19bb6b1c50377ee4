"""The function that is minimised, in coordinates that suit a solver.

    J(W, b) = sum(ω loss) / sum(ω) + (l2/2) Σ r (σ W)² + l1 Σ r |σ W|,   lower <= W <= upper

with the factors r of the features, and σ = 1 or, with ``standardize``, the spreads of the features.
Solvers work on a vector of parameters: the coefficients of standardised features, V = scale * W,
followed by the intercept at their means, u = b + meanᵀ W. Standardising is implicit: it is done to
the parameters and the sums, never to the data.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from streamlr.config.sections import ModelConfig
from streamlr.execution.scanner import Scanner
from streamlr.kernels.alignment import Basis
from streamlr.kernels.families import FAMILIES, Family
from streamlr.kernels.scans.gradient import Direction, GradientScan, GradientSums
from streamlr.kernels.split import Split
from streamlr.objective.coordinates import Coordinates as Coordinates
from streamlr.objective.coordinates import data_coordinates as data_coordinates
from streamlr.objective.coordinates import spreads_in_penalty
from streamlr.objective.coordinates import standard_coordinates as standard_coordinates
from streamlr.objective.moments import Moments as Moments  # part of what an objective is made of
from streamlr.objective.penalty import Penalty
from streamlr.solvers.problem import Evaluation, Nonsmooth, Query

log = logging.getLogger(__name__)

Array = NDArray[np.float64]

_FAR_FROM_ZERO = 16.0
"""Spreads from 0 from which on a mean is taken from a feature before it is used: sums would lose a
digit or more."""
_STILL = 1e-9
"""A margin along a direction whose largest entry is 1 that is nothing but rounding."""
_AGAINST = 1e-11
"""A margin against an example's side, relative to the largest to some side, that counts as none."""


class Objective:
    """Evaluates J and its derivatives at points; each call of `evaluate` is one pass over the data.

    Parameters
    ----------
    scanner, model, classes, moments, coordinates
        The data, what is fitted to them, and what is known of them.
    split, holdout
        The part of the rows that is left out of J, if any. Moments and coordinates may be those of
        all rows all the same, which changes no optimum but where the penalty is by the spreads.
    penalty_spread
        With ``standardize``, the spreads that the penalty is by, (n,); None: those of the moments.
    """

    def __init__(
        self,
        scanner: Scanner,
        model: ModelConfig,
        classes: NDArray[np.generic],
        moments: Moments,
        coordinates: Coordinates | None = None,
        split: Split | None = None,
        holdout: int = -1,
        penalty_spread: Array | None = None,
    ) -> None:
        self.scanner = scanner
        self.split = split
        self.holdout = holdout
        self.model = model
        self.classes = classes
        self.moments = moments
        self.family: Family = FAMILIES[model.family]
        self._standard = standard_coordinates(
            moments, model.fit_intercept, by_size=not self.family.quadratic
        )
        self.coordinates = coordinates or self._standard
        self.penalty_spread = (
            spreads_in_penalty(moments, model.fit_intercept)
            if penalty_spread is None
            else penalty_spread
        )
        spread_in_penalty = self.penalty_spread if model.standardize else np.ones_like(moments.mean)
        penalty = Penalty.of(model, len(moments.mean))
        self._penalty = penalty.per(self.coordinates.scale, spread_in_penalty)
        self._l2 = penalty.l2
        self.penalty_scale = (
            self._penalty.l2
            if self.coordinates.basis is None
            else np.diag(self._penalty_of_basis(self.coordinates.basis)).copy()
        )
        self.nonsmooth = self._nonsmooth(self._penalty)
        self._nonsmooth_by_standard = self._nonsmooth(
            penalty.per(self._standard.scale, spread_in_penalty)
        )
        basis = self.coordinates.basis
        far = (
            np.abs(moments.mean)
            > (1.0 if self.family.quadratic and model.fit_intercept else _FAR_FROM_ZERO)
            * moments.spread
        )
        self._shift = (
            np.where(far, moments.mean, 0.0) if basis is None else basis.moved(basis.shift)
        )
        self.target_unit = self.family.target_unit(moments.target_mean, moments.target_variance)

    def _nonsmooth(self, penalty: Penalty) -> Nonsmooth:
        c = self.coordinates.n_outputs

        def of_parameters(values: Array, intercept: float) -> Array:
            return self.coordinates.join(
                np.repeat(values[:, None], c, axis=1), np.full(c, intercept)
            )

        return Nonsmooth(
            of_parameters(penalty.l1, 0.0),
            of_parameters(penalty.lower, -np.inf),
            of_parameters(penalty.upper, np.inf),
        )

    @property
    def penalized(self) -> bool:
        """Whether penalty and bounds hold every coefficient, so that the optimum is finite; a
        factor of 0 lets one go."""
        return bool(self._penalty.bounded.all())

    @property
    def value_unit(self) -> float:
        """What the objective's values go by."""
        return self.target_unit**2 if self.family.quadratic else self.target_unit

    @property
    def smooth(self) -> bool:
        """Whether there is neither l1 nor a bound."""
        return self.model.penalty.l1 == 0 and not self.model.bounds.given

    @property
    def quadratic(self) -> bool:
        """Whether it is a quadratic function of the parameters."""
        return self.family.quadratic and self.smooth

    @property
    def penalty_curvature(self) -> Array:
        """Second derivatives of the penalty by the parameters, (d,)."""
        c = self.coordinates.n_outputs
        return self.coordinates.join(np.repeat(self.penalty_scale[:, None], c, axis=1), np.zeros(c))

    def penalty_gradient(self, V: Array) -> Array:
        """Derivative by V of what the penalty's squares are, (n, c)."""
        at = self.coordinates
        if at.basis is None:
            return self.penalty_scale[:, None] * V
        return (
            at.basis.moved(self._l2[:, None] * at.basis.to_features(V / at.scale[:, None]))
            / at.scale[:, None]
        )

    def _penalty_of_basis(self, basis: Basis) -> Array:
        """Second derivatives of these squares by V, (n, n): where combinations stand in the place
        of features no diagonal."""
        rows = basis.moved(basis.moved(np.diag(self._l2)).T)
        return rows / np.outer(self.coordinates.scale, self.coordinates.scale)

    @property
    def may_recede(self) -> bool:
        """Whether there may be a direction along which it falls for ever."""
        return self.family.may_recede and not self.penalized

    def recession_part(self, direction: Array) -> Array:
        """A direction, (d,), without what the penalty or the bounds do not let grow without end."""
        V, u = self.coordinates.split(direction)
        basis, scale = self.coordinates.basis, self.coordinates.scale[:, None]
        W = V if basis is None else basis.to_features(V / scale)
        W = np.where(self._penalty.free(W), W, 0.0)
        return self.coordinates.join(W if basis is None else basis.from_features(W) * scale, u)

    def is_recession_direction(self, point: Array) -> bool:
        """Whether the point's coefficients may grow without end at no cost."""
        V, basis = self.coordinates.split(point)[0], self.coordinates.basis
        return self._penalty.is_recession_direction(
            V if basis is None else basis.to_features(V / self.coordinates.scale[:, None])
        )

    def from_data_units(self, W: Array, b: Array) -> Array:
        """The parameters of W, (n, c), and b, (c,), within the bounds."""
        return self.nonsmooth.clip(self.coordinates.from_data_units(W, b))

    def to_data_units(self, parameters: Array) -> tuple[Array, Array]:
        """W, (n, c), and b, (c,), in the units of the data; at its bounds exactly where the
        parameters are, which a division by the scale need not be."""
        W, b = self.coordinates.to_data_units(parameters)
        if not self.model.bounds.given:
            return W, b
        V, bounds = self.coordinates.split(parameters)[0], Penalty.of(self.model, len(W))
        lower, upper = bounds.lower[:, None], bounds.upper[:, None]
        W = np.where(
            self._penalty.lower[:, None] >= V,
            lower,
            np.where(self._penalty.upper[:, None] <= V, upper, W),
        )
        return np.clip(W, lower, upper), b

    @property
    def size(self) -> int:
        """Number of parameters."""
        return self.coordinates.size

    @property
    def n_coefficients(self) -> int:
        """Number of parameters that are coefficients; the rest are intercepts."""
        return len(self.coordinates.scale) * self.coordinates.n_outputs

    @property
    def underdetermined(self) -> bool:
        """Whether there are fewer rows times outputs than parameters."""
        return self.moments.n_rows * self.coordinates.n_outputs < self.size

    @property
    def shift(self) -> Array | None:
        """What is taken from every feature before it is used, (n,), where that keeps digits; a
        basis has its own."""
        return self._shift if self._shift.any() and self.coordinates.basis is None else None

    def start(self) -> Array:
        """The parameters at which no feature counts and the intercept fits the mean of the target
        (about, where there is an offset)."""
        c = self.coordinates.n_outputs
        u = (
            self.family.link(self.moments.target_mean) - self.moments.offset_mean
            if self.model.fit_intercept
            else np.zeros(c)
        )
        return self.nonsmooth.clip(self.coordinates.join(np.zeros((len(self.moments.mean), c)), u))

    def diagonal(self) -> Array:
        """Diagonal of the Hessian at the start, (d,), which the moments give: spread² or so, times
        the curvature."""
        m, at = self.moments, self.coordinates
        c = at.n_outputs
        curvature = self.family.curvature(
            m.target_mean
            if self.model.fit_intercept
            else self.family.activate(np.zeros((c, 1)))[:, 0]
        )
        # the same for all classes, so that steps keep the sum of the parameters over the classes
        if self.family.coupled:
            curvature = np.full(c, curvature.mean())
        square = (m.spread**2 + (m.mean - at.center) ** 2) / at.scale**2
        V = np.maximum(np.outer(square, curvature) + self.penalty_scale[:, None], 1e-12)
        return at.join(V, np.broadcast_to(curvature, (c,)))

    def without_features(self, point: Array) -> Evaluation:
        """The objective at a point of intercepts alone, from the statistics pass: no pass. Not
        where there is an offset, which is no constant."""
        _, u = self.coordinates.split(point)
        m = self.moments
        db = self.family.activate(u[:, None])[:, 0] - m.target_mean
        dW = np.outer(m.mean - self._shift, db) - m.comoment
        held = np.nan
        if m.holdout_target_mean is not None and m.holdout_target_variance is not None:
            held = self.family.mean_loss(m.holdout_target_mean, u, m.holdout_target_variance)
        return self._evaluation(
            point,
            self.family.mean_loss(m.target_mean, u, m.target_variance),
            dW,
            db,
            None,
            False,
            held,
        )

    def evaluate(
        self, points: Array, title: str, *, hessian: bool = False, direction: Array | None = None
    ) -> list[Evaluation]:
        """The objective at each row of ``points``, (K, d); the Hessian, where asked for, at the
        first alone. One pass.

        Parameters
        ----------
        points
            Parameters to evaluate.
        title
            What a person is told meanwhile.
        hessian
            Whether second derivatives are wanted.
        direction
            Along which the loss may fall for ever, (d,), which the first evaluation then tells.
        """
        return evaluate_together([Query(self, points, hessian, direction)], title)[0]

    def found(
        self, point: Array, sums: GradientSums, k: int, margins: Array | None = None
    ) -> Evaluation:
        """What the sums say of candidate ``k``, which is ``point``; and the margins, (2,), of the
        direction that was tried with it, if one was."""
        held = float(sums.validation_weight_sum[k])
        weight = sums.weight_sum - held
        return self._evaluation(
            point,
            float(sums.loss_sum[k] / weight),
            sums.coefficient_sum[k] / weight,
            sums.intercept_sum[k] / weight,
            None if sums.hessian_sum is None or k > 0 else sums.hessian_sum / weight,
            bool(sums.loss_max[k] < self.family.certain_loss),
            float(sums.validation_loss_sum[k]) / held if held > 0 else np.nan,
            held,
            _falls_for_ever(margins),
        )

    def shifted_units(self, point: Array) -> tuple[Array, Array]:
        """W, and the intercept that goes with features less their shift."""
        V, u = self.coordinates.split(point)
        W = V / self.coordinates.scale[:, None]
        return W, u - (self.coordinates.center - self._shift) @ W

    def _evaluation(
        self,
        point: Array,
        loss: float,
        dW: Array,
        db: Array,
        hessian: Array | None,
        separates: bool,
        validation_loss: float = np.nan,
        validation_weight: float = 0.0,
        recedes: bool = False,
    ) -> Evaluation:
        """From derivatives by W and b of features less their shift to those by the parameters."""
        V, _ = self.coordinates.split(point)
        # the sum over the classes is 0, but for rounding, which would move the point where nothing
        # holds it
        if self.family.coupled:
            dW, db = dW - dW.mean(axis=1, keepdims=True), db - db.mean()
        penalty = self.penalty_scale[:, None]
        by_V = self.penalty_gradient(V)
        gradient = self._gradient(self.coordinates, dW, db, by_V)
        in_standard = V * (self._standard.scale / self.coordinates.scale)[:, None]
        by_standard, squares = (
            penalty * (self.coordinates.scale / self._standard.scale)[:, None] ** 2 * in_standard,
            penalty * V**2,
        )
        if self.coordinates.basis is not None:  # whose coordinates are the standard ones
            by_standard, squares = by_V, V * by_V
        gradient_by_standard = self._gradient(self._standard, dW, db, by_standard)
        value = loss + 0.5 * float(np.sum(squares))
        if not self.smooth:
            value += self.nonsmooth.value(point)
            scaled = self._standard.join(
                in_standard, np.zeros(len(db))
            )  # an intercept has neither threshold nor bound: any value will do
            gradient_by_standard = self._nonsmooth_by_standard.subgradient(
                scaled, gradient_by_standard
            )
        gradient_max = float(np.abs(gradient_by_standard).max()) / self.target_unit
        return Evaluation(
            point,
            loss,
            value,
            gradient,
            gradient_max,
            None if hessian is None else self._hessian(hessian),
            separates,
            validation_loss,
            validation_weight,
            recedes,
        )

    def _gradient(self, at: Coordinates, dW: Array, db: Array, penalty: Array) -> Array:
        by_V = (dW - np.outer(at.center - self._shift, db)) / at.scale[:, None]
        return at.join(by_V + penalty, db)

    def _hessian(self, by_raw: Array) -> Array:
        """By the parameters; row by row, since another matrix of this size is what a run may not
        have room for."""
        at = self.coordinates
        n, c = len(at.scale), at.n_outputs
        raw = by_raw.reshape(n + 1, c, n + 1, c)
        a, scale = (at.center - self._shift)[:, None], at.scale[:, None]
        h, h_across, h0 = raw[:n, :, n], raw[n, :, :n], raw[n, :, n]
        H = np.empty((n + at.fit_intercept, c, n + at.fit_intercept, c))
        for i in range(n):
            for j in range(c):
                H[i, j, :n] = (
                    raw[i, j, :n] - a[i] * h_across[j] - h[i, j] * a + h0[j] * (a[i] * a)
                ) / (scale[i] * scale)
        if at.fit_intercept:
            H[:n, :, n] = (h - a[:, :, None] * h0) / scale[:, :, None]
            H[n, :, :n] = H[:n, :, n].transpose(2, 0, 1)
            H[n, :, n] = h0
        if self.family.coupled:
            _hold_common_shift(
                H,
                np.append(
                    (self._penalty.l1 == 0)
                    & np.isinf(self._penalty.lower)
                    & np.isinf(self._penalty.upper),
                    True,
                ),
            )
        for output in range(c):
            if at.basis is None:
                H[np.arange(n), output, np.arange(n), output] += self.penalty_scale
            elif self._l2.any():
                H[:n, output, :n, output] += self._penalty_of_basis(at.basis)
        return H.reshape(at.size, at.size)


def evaluate_together(queries: Sequence[Query[Objective]], title: str) -> list[list[Evaluation]]:
    """Evaluate objectives of the same data, each at the points of its query: one pass for all.

    They differ in their penalty and in the rows that they leave out.

    Parameters
    ----------
    queries
        The objectives and their points; all of the same family, classes, moments and split. A
        Hessian can be had at the very first point alone.
    title
        What a person is told meanwhile.
    """
    first = queries[0].problem
    columns = [(query.problem, point) for query in queries for point in query.points]
    raw = [objective.shifted_units(point) for objective, point in columns]
    starts = np.cumsum([0, *(len(query.points) for query in queries)]).tolist()
    tried = tuple(
        Direction(starts[at], *query.problem.shifted_units(query.direction))
        for at, query in enumerate(queries)
        if query.direction is not None
    )
    holdout = np.array([objective.holdout for objective, _ in columns])
    scan = GradientScan(
        first.model.family,
        first.classes,
        np.stack([W for W, _ in raw]),
        np.stack([b for _, b in raw]),
        first.shift,
        queries[0].hessian,
        first.split,
        None if first.split is None else holdout,
        first.coordinates.basis,
        tried,
    )
    sums: GradientSums = first.scanner.run(scan, title)
    margins = {}
    if sums.margins is not None:
        candidates = [direction.candidate for direction in tried]
        margins = dict(zip(candidates, sums.margins, strict=True))
    found = iter(
        [
            objective.found(point, sums, k, margins.get(k))
            for k, (objective, point) in enumerate(columns)
        ]
    )
    return [[next(found) for _ in query.points] for query in queries]


def _falls_for_ever(margins: Array | None) -> bool:
    """Whether no example is moved against its side, but for rounding and what a solver leaves of a
    direction's other parts, and some are moved."""
    return margins is not None and bool(
        margins[1] > _STILL and margins[0] >= -_AGAINST * margins[1]
    )


def _hold_common_shift(H: Array, where: NDArray[np.bool_]) -> None:
    """Give a Hessian, (n + 1, c, n + 1, c), curvature where it has none: along a common shift of a
    feature's coefficients in all classes.

    Points and gradients have no part there, so it changes no step; without it the Hessian had no
    inverse. Not of features with l1 or bounds (``where`` is False, (n + 1,)): these tell where
    along the shift the optimum lies, and curvature that is not there would make the steps to it
    short.
    """
    n, c = H.shape[0], H.shape[1]
    at = np.flatnonzero(where[:n])
    size = np.trace(H[at, :, at, :], axis1=1, axis2=2) / c
    H[at, :, at, :] += (np.where(size > 0, size, 1.0) / c)[:, None, None]
