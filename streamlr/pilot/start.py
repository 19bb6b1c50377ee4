"""Starts the solver of one model from the optimum of a pilot.

Whatever the sample says, the first step is held against the objective of the full data, so a bad
sample costs passes and nothing else.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from streamlr.execution.engine import Engine
from streamlr.kernels.scans.moments import SampledRows
from streamlr.objective.objective import Objective
from streamlr.pilot.curvature import Curvature
from streamlr.pilot.kronecker import Kronecker
from streamlr.pilot.sample import pilot_engine
from streamlr.pilot.solve import PilotOptimum, PilotSolve, sampled_preconditioner
from streamlr.solvers import Evaluation, Lbfgs, Proximal, Status
from streamlr.solvers.lbfgs import LbfgsState, Preconditioner
from streamlr.solvers.proximal import ProximalState
from streamlr.solvers.quasi_newton import FIRST_STEPS

Array = NDArray[np.float64]

_BLOCK_ROWS = 4096
_MOVED = 1e-6
"""Of what a direction moves an example's Z by, relative to the most: less is rounding."""


def start_from_sample(
    objective: Objective, solver: Lbfgs | Proximal, sample: SampledRows, start: Evaluation
) -> tuple[Lbfgs | Proximal, LbfgsState | ProximalState]:
    """The solver, and a state of it that will first try the sample's optimum, with the sample's
    curvature."""
    with pilot_engine(objective) as engine:
        found = _solve(objective, sample, engine).optimum([[start.point]])
        found = _held_back(objective, sample, engine, start.point, found)
    if isinstance(solver, Proximal):
        return solver, _proximal_state(objective, solver, start, found)
    known, point = _known(found), found.points[0][0]
    if isinstance(known, Kronecker):
        at = start.point if found.status == Status.DIVERGED else point
        preconditioner = sampled_preconditioner(objective, sample, at)
        direction = _descent(start, point, preconditioner)
        state = solver.init_with(start, np.empty(0), direction, np.ones(1), at)
        return replace(solver, preconditioner=preconditioner), state
    if isinstance(known, Curvature):
        metric, trials = known.inverse(), np.ones(1)
        direction = _descent(start, point, lambda q: metric @ q)
    else:
        metric, trials = 1.0 / objective.diagonal(), FIRST_STEPS
        direction = _descent(start, point, lambda q: metric * q)
    state = solver.init_with(start, metric, direction, trials)
    return solver, replace(state, suspect=found.suspect)


def _proximal_state(
    objective: Objective, solver: Proximal, start: Evaluation, found: PilotOptimum
) -> ProximalState:
    known, point = _known(found), found.points[0][0]
    if isinstance(known, np.ndarray):
        return solver.init_with(start, known, point, np.ones(1))
    return solver.init_with(start, objective.diagonal(), point, FIRST_STEPS)


def _known(found: PilotOptimum) -> Curvature | Kronecker | Array | None:
    return found.curvatures.known[0] if found.curvatures.known else None


def _descent(start: Evaluation, goal: Array, preconditioner: Preconditioner) -> Array:
    """The way to the goal if it leads downhill, else the quasi-Newton direction."""
    direction = goal - start.point
    if float(direction @ start.gradient) < 0 and np.isfinite(direction).all():
        return direction
    return -preconditioner(start.gradient)


def _solve(objective: Objective, sample: SampledRows, engine: Engine) -> PilotSolve:
    """Of one model and all rows of the sample: those that are held out are not drawn."""
    rows = SampledRows(sample.X, replace(sample.columns, groups=None))
    return PilotSolve([[objective]], rows, engine)


def _held_back(
    objective: Objective,
    sample: SampledRows,
    engine: Engine,
    start: Array,
    found: PilotOptimum,
) -> PilotOptimum:
    """The optimum where the sample's loss falls for ever along a direction, as it often does where
    a feature is rare, not its way there, but where all rows may well have their optimum.

    That is the optimum of the examples that the direction does not move, and along it as far as so
    many examples of the same kind speak for.
    """
    dense = not isinstance(_known(found), Kronecker)
    if found.suspect is None or not dense or len(sample.X) == objective.moments.n_rows:
        return found
    W, b = objective.coordinates.to_data_units(found.suspect)
    blocks = (
        sample.X[at : at + _BLOCK_ROWS].astype(np.float64)
        for at in range(0, len(sample.X), _BLOCK_ROWS)
    )
    # (s,), by how much the direction moves each example's Z
    size = np.concatenate([np.abs(block @ W + b).max(axis=1) for block in blocks])
    moved = size > _MOVED * float(size.max())
    omega = np.ones(len(size)) if sample.weights is None else sample.weights
    columns = replace(sample.columns, weights=np.where(moved, 0.0, omega))
    rest = _solve(objective, SampledRows(sample.X, columns), engine).optimum([[start]])
    if rest.suspect is not None or not rest.curvatures.known:
        return found
    # moved examples, as many as their weights are worth, all of which say the same
    spoken = np.log1p(2.0 * omega[moved].sum() ** 2 / (omega[moved] ** 2).sum())
    length = spoken * omega[moved].sum() / (omega[moved] @ size[moved])
    point = rest.points[0][0] + length * found.suspect
    curvatures = _solve(objective, sample, engine).curvature([[point]])
    return replace(found, points=[[point]], curvatures=curvatures)
