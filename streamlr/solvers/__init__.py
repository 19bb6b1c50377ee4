"""Solvers: each knows a problem (evaluate this point), never a chunk, a path or a scheduler."""

from __future__ import annotations

from streamlr.solvers.early_stopping import EarlyStopping
from streamlr.solvers.gradient_descent import GradientDescent
from streamlr.solvers.lbfgs import Lbfgs
from streamlr.solvers.least_squares import Judged, LeastSquares
from streamlr.solvers.loop import Solve, SolveProgress, minimize, minimize_together, termination_of
from streamlr.solvers.newton import Newton
from streamlr.solvers.problem import Evaluation, Nonsmooth, Problem, Query
from streamlr.solvers.proximal import Proximal
from streamlr.solvers.registry import SOLVERS, SolverKind
from streamlr.solvers.state import Solver, State, Status, Termination

__all__ = [
    "SOLVERS",
    "EarlyStopping",
    "Evaluation",
    "GradientDescent",
    "Judged",
    "Lbfgs",
    "LeastSquares",
    "Newton",
    "Nonsmooth",
    "Problem",
    "Proximal",
    "Query",
    "Solve",
    "SolveProgress",
    "Solver",
    "SolverKind",
    "State",
    "Status",
    "Termination",
    "minimize",
    "minimize_together",
    "termination_of",
]
