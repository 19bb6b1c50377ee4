"""Solvers: each knows an objective (evaluate this point), never a chunk, a path or a scheduler."""

from __future__ import annotations

from streamlr.solvers.base import Outcome, Solver, State, minimize
from streamlr.solvers.gradient_descent import GradientDescent
from streamlr.solvers.lbfgs import Lbfgs
from streamlr.solvers.least_squares import Judged, LeastSquares
from streamlr.solvers.newton import Newton
from streamlr.solvers.proximal import Proximal
from streamlr.solvers.together import Problem, Standing, minimize_together
from streamlr.solvers.watched import Watched

__all__ = ["GradientDescent", "Judged", "Lbfgs", "LeastSquares", "Newton", "Outcome", "Problem", "Proximal", "Solver", "Standing", "State",
           "Watched", "minimize", "minimize_together"]
