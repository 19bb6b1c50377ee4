"""The solvers by name: one entry for each, which answers what others need to know of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from streamlr.errors import ConfigError
from streamlr.solvers.gradient_descent import GradientDescent, GradientDescentState
from streamlr.solvers.lbfgs import Lbfgs, LbfgsState
from streamlr.solvers.least_squares import LeastSquaresState
from streamlr.solvers.newton import Newton, NewtonState
from streamlr.solvers.problem import Problem
from streamlr.solvers.proximal import Proximal, ProximalState
from streamlr.solvers.state import Solver, State


class Settings(Protocol):
    """What a configuration says of a solver."""

    @property
    def tolerance(self) -> float: ...

    @property
    def learning_rate(self) -> float: ...


@dataclass(frozen=True, slots=True)
class SolverKind:
    """A method, and what plans, configurations and checkpoints ask of it."""

    name: str
    title: str
    """For a person."""
    state: type[State]
    """Record that a checkpoint holds."""
    make: Callable[[Problem, Settings], Solver] | None = None
    """Makes it; None for that which is made of the equations of least squares."""
    by_name: bool = True
    """Whether a configuration may ask for it."""
    smooth_only: bool = True
    """Whether it knows neither l1 nor bounds."""
    fits_paths: bool = False
    """Whether it can fit the models of a path."""
    needs_hessian: bool = False
    """Whether each pass sums the Hessian."""
    in_data_units: bool = False
    """Whether its parameters are W and b themselves, from 0 on."""
    judged_by_equations: bool = False
    """Whether its verdict on least squares is left to the equations, where these are known."""
    candidates: int = 4
    """Most points that it evaluates in one pass."""

    @property
    def by_equations(self) -> bool:
        """Whether it is made of the equations of least squares."""
        return self.make is None


def _gradient_descent(problem: Problem, settings: Settings) -> Solver:
    penalized = bool(problem.penalty_curvature.any())
    return GradientDescent(settings.learning_rate, settings.tolerance, penalized)


_KINDS = (
    SolverKind(
        "gradient_descent",
        "gradient descent",
        GradientDescentState,
        _gradient_descent,
        in_data_units=True,
        candidates=1,
    ),
    SolverKind(
        "lbfgs",
        "L-BFGS",
        LbfgsState,
        lambda problem, settings: Lbfgs(problem, settings.tolerance),
        fits_paths=True,
        judged_by_equations=True,
    ),
    SolverKind("least_squares", "least squares", LeastSquaresState, by_name=False, candidates=1),
    SolverKind(
        "newton",
        "Newton's method",
        NewtonState,
        lambda problem, settings: Newton(problem, settings.tolerance),
        needs_hessian=True,
        candidates=1,
    ),
    SolverKind(
        "proximal",
        "l1 or bounds: proximal quasi-Newton",
        ProximalState,
        lambda problem, settings: Proximal(problem, settings.tolerance),
        smooth_only=False,
        fits_paths=True,
        judged_by_equations=True,
    ),
)
SOLVERS: dict[str, SolverKind] = {kind.name: kind for kind in _KINDS}
AUTO = "auto"
"""Asks for the one that suits the data."""
OF_SQUARES, OF_SMOOTH, OF_ALL, OF_HESSIANS = "least_squares", "lbfgs", "proximal", "newton"
"""Names of those that are chosen where none is asked for: for least squares whose Hessian is known,
for what is smooth, for what is not; and of that which sums a Hessian in each pass."""


def register(kind: SolverKind) -> None:
    """Take in a solver from outside the package, which a configuration may ask for from then on.

    Registered once more, as a notebook may do, the later one counts.

    Raises
    ------
    ConfigError
        When its name is that of one of the package's own, or chooses among them.
    """
    if kind.name == AUTO or any(kind.name == own.name for own in _KINDS):
        raise ConfigError(f"the solver {kind.name} is one of streamlr's own; name yours otherwise")
    SOLVERS[kind.name] = kind


def names_to_ask_for() -> list[str]:
    """Names that a configuration may have."""
    return [AUTO, *(name for name, kind in SOLVERS.items() if kind.by_name)]


def knows_smooth_alone(name: str) -> bool:
    """Whether a name that a configuration may have is that of a solver which knows neither l1 nor
    bounds."""
    return name in SOLVERS and SOLVERS[name].smooth_only


def fits_paths(name: str) -> bool:
    """Whether a name that a configuration may have is that of a solver which can fit a path."""
    return name not in SOLVERS or SOLVERS[name].fits_paths
