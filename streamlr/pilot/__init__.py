"""Where solvers start: the optimum of a sample of the rows, and its curvature."""
