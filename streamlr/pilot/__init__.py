"""Where solvers start: the optimum of a pilot, a sample of the rows, and its curvature."""
