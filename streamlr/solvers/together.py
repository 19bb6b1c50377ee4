"""Many problems on the same data, driven together: every pass evaluates what all that have not ended ask for.

A pass over the data costs reading, which is the same for one coefficient vector and for a hundred, and arithmetic, which is not
much. So problems that differ in their penalty, or in the rows that they leave out, share their passes: the data are read as often
as for the slowest of them. One that has ended leaves the scan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from streamlr.objective.objective import Evaluation, Objective, evaluate_together
from streamlr.solvers.base import DIVERGED, PASS_LIMIT, Outcome, Solver, State, with_flattest

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Problem:
    """One of the problems, before it has begun."""

    objective: Objective
    """What to minimise."""
    solver: Solver
    """How."""
    begin: Callable[[Evaluation], State]
    """The solver's state at the first point, once that has been evaluated."""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where one of the problems stands."""

    point: Array
    """Parameters to begin at, (d,); of no further use when there is a state."""
    state: State | None = None
    """What the solver remembers; None where nothing was evaluated yet."""
    passes: int = 0
    """Number of the last pass that had a part of it."""
    held_loss: float = np.nan
    """Mean loss of the rows that are held out, at the state's point."""
    held_weight: float = 0.0
    """Their weight."""

    @property
    def ended(self) -> bool:
        return self.state is not None and self.state.status != ""

    @property
    def outcome(self) -> Outcome:
        """How the solve has ended, if it goes no further."""
        assert self.state is not None
        if self.state.status:
            return Outcome(self.state.status, self.state.reason)
        return Outcome(PASS_LIMIT, f"the limit of passes was reached at a gradient of {self.state.gradient_max:.2g}; raise solver.max_passes")


def minimize_together(problems: Sequence[Problem], standings: Sequence[Standing], passes: int, max_passes: int, most_columns: int,
                      pass_done: Callable[[int, list[Standing], bool], None]) -> list[Standing]:
    """Drive all problems until each has ended or the passes are used up.

    Parameters
    ----------
    problems, standings
        The problems, of the same data, classes and family; and where each stands.
    passes
        Passes already made.
    max_passes
        Most passes in all; a first evaluation is made in any case.
    most_columns
        Points that are evaluated in one pass; where all problems together ask for more, it takes several.
    pass_done
        Called after every pass with its number, the standings, and whether all problems have taken their step by now: only then may they be continued
        to the same bits, since these depend on what shares a pass.
    """
    now = list(standings)
    while active := [i for i, standing in enumerate(now) if not standing.ended and (passes < max_passes or standing.state is None)]:
        asked = [(problems[i].objective, _candidates(problems[i], now[i])) for i in active]
        with np.errstate(over="ignore", invalid="ignore"):  # steps that lead to infinity end in a status, not in a warning
            scans = _scans(asked, most_columns)
            for scan in scans:
                passes += 1
                suspects = [_suspect(now[active[at]]) for at in scan]
                found = evaluate_together([asked[at] for at in scan], f"pass {passes}", directions=suspects)
                for at, evaluations in zip(scan, found, strict=True):
                    now[active[at]] = _stepped(problems[active[at]], now[active[at]], evaluations, passes)
                pass_done(passes, list(now), scan is scans[-1])
    return now


def _candidates(problem: Problem, standing: Standing) -> Array:
    return standing.point[None, :] if standing.state is None else problem.solver.candidates(standing.state)


def _suspect(standing: Standing) -> Array | None:
    return None if standing.state is None else standing.state.suspect


def _scans(asked: Sequence[tuple[Objective, Array]], most_columns: int) -> list[list[int]]:
    """Which of the problems share a scan: all of them, or as many in a row as have room; one that has none has its own."""
    scans: list[list[int]] = [[]]
    columns = 0
    for at, (_, points) in enumerate(asked):
        if scans[-1] and columns + len(points) > most_columns:
            scans.append([])
            columns = 0
        scans[-1].append(at)
        columns += len(points)
    return scans


def _stepped(problem: Problem, standing: Standing, evaluations: list[Evaluation], passes: int) -> Standing:
    if standing.state is None:
        return _begun(problem, standing, evaluations[0], passes)
    state = with_flattest(problem.solver.step(standing.state, evaluations), standing.state)
    for found in evaluations:
        if found.point is state.point:
            return replace(standing, state=state, passes=passes, held_loss=found.held_loss, held_weight=found.held_weight)
    return replace(standing, state=state, passes=passes)


def _begun(problem: Problem, standing: Standing, found: Evaluation, passes: int) -> Standing:
    """The first state; where the point was so bad that nothing is finite there, the start that every problem has is tried before giving up."""
    start = problem.objective.start()
    if not (np.isfinite(found.value) and np.isfinite(found.gradient_max)) and not np.array_equal(standing.point, start):
        return replace(standing, point=start, passes=passes)
    state = problem.begin(found)
    if not np.isfinite(found.value) and not state.status:
        state = replace(state, status=DIVERGED, reason="the objective is not finite at the start")
    return replace(standing, state=state, passes=passes, held_loss=found.held_loss, held_weight=found.held_weight)
