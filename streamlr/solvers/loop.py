"""The one loop that drives all solvers: many problems on the same data, or one.

A pass over the data costs reading, which is the same for one coefficient vector and for a hundred,
and arithmetic, which is not much. So problems that differ in their penalty, or in the rows that
they leave out, share their passes: the data are read as often as for the slowest of them. One that
has ended leaves the scan.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Generic

import numpy as np
from numpy.typing import NDArray

from streamlr.solvers.problem import Evaluation, Evaluator, Problem, ProblemOf, Query
from streamlr.solvers.state import Solver, State, Status, Termination, flattest, with_flattest

Array = NDArray[np.float64]

FEW_PARAMETERS = 512
"""Up to which a Hessian is cheap: it tells a direction without a minimum better than a curvature
that was had otherwise."""


@dataclass(frozen=True, slots=True)
class Solve(Generic[ProblemOf]):
    """One of the problems, and how it is solved, before it has begun."""

    problem: ProblemOf
    """What to minimise."""
    solver: Solver
    """How."""
    begin: Callable[[Evaluation], State]
    """Makes the solver's state at the first point, once that has been evaluated."""


@dataclass(frozen=True, slots=True)
class SolveProgress:
    """Where one of the solves stands."""

    point: Array
    """Parameters to begin at, (d,); of no further use when there is a state."""
    state: State | None = None
    """What the solver remembers; None where nothing was evaluated yet."""
    passes: int = 0
    """Number of the last pass that had a part of it."""
    validation_loss: float = np.nan
    """Mean loss of the rows that are held out, at the state's point."""
    validation_weight: float = 0.0
    """Their weight."""

    @property
    def ended(self) -> bool:
        return self.state is not None and self.state.status != Status.RUNNING

    @property
    def reached(self) -> State:
        """The state, of a solve that has begun."""
        assert self.state is not None
        return self.state


Evaluate = Callable[[Sequence[Query[ProblemOf]], str], list[list[Evaluation]]]
"""Answers queries, each at its points, in one pass with a title."""


def minimize(
    problem: Problem,
    solver: Solver,
    state: State,
    passes: int,
    max_passes: int,
    pass_done: Callable[[int, State], None] = lambda number, reached: None,
) -> tuple[State, Termination]:
    """Drive one solver until it ends or the passes are used up.

    Parameters
    ----------
    problem, solver, state
        What to minimise, how, and from where.
    passes
        Number of passes already made.
    max_passes
        Most passes in all.
    pass_done
        Called after every pass with its number and the new state.
    """
    solves = [Solve(problem, solver, lambda found: state)]
    done = minimize_together(
        solves,
        [SolveProgress(state.point, state)],
        passes,
        max_passes,
        by_itself(problem),
        lambda number, progress, complete: pass_done(number, progress[0].reached),
    )
    return done[0].reached, termination_of(done[0].reached, max_passes)


def by_itself(evaluator: Evaluator) -> Evaluate[ProblemOf]:
    """The passes of one problem that shares them with no other."""

    def evaluate(queries: Sequence[Query[ProblemOf]], title: str) -> list[list[Evaluation]]:
        (query,) = queries
        hessian, direction = query.hessian, query.direction
        return [evaluator.evaluate(query.points, title, hessian=hessian, direction=direction)]

    return evaluate


def termination_of(state: State, max_passes: int) -> Termination:
    """How a solve has ended, if it goes no further."""
    if state.status:
        return Termination(Status(state.status), state.reason)
    return Termination(
        Status.PASS_LIMIT,
        f"the limit of {max_passes} passes was reached at a gradient of {state.gradient_max:.2g}; "
        "raise solver.max_passes, or accept the model as it is",
    )


def minimize_together(
    solves: Sequence[Solve[ProblemOf]],
    progress: Sequence[SolveProgress],
    passes: int,
    max_passes: int,
    evaluate: Evaluate[ProblemOf],
    pass_done: Callable[[int, list[SolveProgress], bool], None],
    most_columns: int = 1,
) -> list[SolveProgress]:
    """Drive all solves until each has ended or the passes are used up.

    Parameters
    ----------
    solves, progress
        The problems, of the same data, classes and family; and where each stands.
    passes
        Number of passes already made.
    max_passes
        Most passes in all; a first evaluation is made in any case.
    evaluate
        Makes a pass.
    pass_done
        Called after every pass with its number, the progress, and whether all problems have taken
        their step by now: only then may they be continued to the same bits, since these depend on
        what shares a pass.
    most_columns
        Number of points that are evaluated in one pass; where all problems together ask for more,
        it takes several.
    """
    now = list(progress)
    while active := [i for i in range(len(now)) if _goes_on(now[i], passes < max_passes)]:
        queries = [_query(solves[i], now[i], alone=len(solves) == 1) for i in active]
        scans = _scans(queries, most_columns)
        for scan in scans:
            passes += 1
            # steps that lead to infinity end in a status, not in a warning
            with np.errstate(over="ignore", invalid="ignore"):
                # what is found has no name here, or its Hessian would be kept throughout the
                # next pass
                for i, following in _advanced(
                    [(active[at], solves[active[at]], now[active[at]]) for at in scan],
                    evaluate([queries[at] for at in scan], f"pass {passes}"),
                    passes,
                ):
                    now[i] = following
            pass_done(passes, list(now), scan is scans[-1])
    return [_settled(here) for here in now]


def _goes_on(progress: SolveProgress, more: bool) -> bool:
    return not progress.ended and (more or progress.state is None)


def _settled(progress: SolveProgress) -> SolveProgress:
    """A solve that the limit has ended stands at the point of its smallest gradient."""
    if progress.state is None or progress.ended:
        return progress
    state = flattest(progress.state)
    return progress if state is progress.state else replace(progress, state=state)


def _query(solve: Solve[ProblemOf], progress: SolveProgress, *, alone: bool) -> Query[ProblemOf]:
    """What a solve asks for next.

    Where a direction is to be tried, a problem that has the pass to itself asks for the Hessian as
    well, if that is cheap.
    """
    state = progress.state
    if state is None:
        return Query(solve.problem, progress.point[None, :])
    hessian = alone and (
        solve.solver.needs_hessian
        or (state.suspect is not None and solve.problem.size <= FEW_PARAMETERS)
    )
    return Query(solve.problem, solve.solver.candidates(state), hessian, state.suspect)


def _scans(queries: Sequence[Query[ProblemOf]], most_columns: int) -> list[list[int]]:
    """Which of the queries share a scan.

    All of them, or as many in a row as have room; one that has none has its own.
    """
    scans: list[list[int]] = [[]]
    columns = 0
    for at, query in enumerate(queries):
        if scans[-1] and columns + len(query.points) > most_columns:
            scans.append([])
            columns = 0
        scans[-1].append(at)
        columns += len(query.points)
    return scans


def _advanced(
    steps: Sequence[tuple[int, Solve[ProblemOf], SolveProgress]],
    found: list[list[Evaluation]],
    passes: int,
) -> list[tuple[int, SolveProgress]]:
    """Where the solves that shared a pass stand after it."""
    return [
        (i, _stepped(solve, before, evaluations, passes))
        for (i, solve, before), evaluations in zip(steps, found, strict=True)
    ]


def _stepped(
    solve: Solve[ProblemOf], progress: SolveProgress, evaluations: list[Evaluation], passes: int
) -> SolveProgress:
    if progress.state is None:
        return _begun(solve, progress, evaluations[0], passes)
    state = with_flattest(solve.solver.step(progress.state, evaluations), progress.state)
    for found in evaluations:
        if found.point is state.point:
            return SolveProgress(
                progress.point, state, passes, found.validation_loss, found.validation_weight
            )
    return replace(progress, state=state, passes=passes)


def _begun(
    solve: Solve[ProblemOf], progress: SolveProgress, found: Evaluation, passes: int
) -> SolveProgress:
    """The first state.

    Where the point was so bad that nothing is finite there, the start that every problem has is
    tried before giving up.
    """
    start = solve.problem.start()
    finite = np.isfinite(found.value) and np.isfinite(found.gradient_max)
    if not finite and not np.array_equal(progress.point, start):
        return replace(progress, point=start, passes=passes)
    state = solve.begin(found)
    if not np.isfinite(found.value) and not state.status:
        reason = "the objective is not finite at the start"
        state = replace(state, status=Status.DIVERGED, reason=reason)
    return SolveProgress(
        progress.point, state, passes, found.validation_loss, found.validation_weight
    )
