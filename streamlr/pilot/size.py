"""How many rows a pilot has, and what is worth doing with so many."""

from __future__ import annotations

import numpy as np

MOST_PARAMETERS = 4096
"""Above this many parameters a Hessian is too large to be worth its memory and the time to invert
it."""
MOST_COUPLED_PARAMETERS = 2048
"""The same for coupled outputs, whose Hessian has another way."""
DENSE_PRODUCTS = 2e10
"""Rows times parameters squared up to which a Hessian of coupled outputs is worth being written
down: a second or so."""
NEWTON_PARAMETERS = 256
"""Up to this many parameters Newton's method is worth its Hessians, if there are few rows."""
CHEAP_PRODUCTS = 5e8
"""Rows times parameters squared up to which a Hessian costs little more than to look at the rows,
so that a coarser pilot would save nothing."""
MOST_ANCHORS = 8
"""Strengths of the penalty at which Hessians are summed, at most."""
_LEAST_ROWS_PER_PARAMETER = 3
"""Below, the Hessian of a pilot says little of that of all rows."""
_LEAST_ROWS_PER_PARAMETER_OF_COARSE = 2 * _LEAST_ROWS_PER_PARAMETER
"""The same for a part of the pilot, from which that is solved."""
_LEAST_BYTES = 64 * 2**20
_MOST_BYTES = 1024 * 2**20
_WANTED_ROWS_PER_PARAMETER = 40
_WANTED_ROWS_PER_PARAMETER_OF_MANY = 8
_LEAST_OUTPUTS = 4
_LEAST_LOOKED_AT = 1024
_LOOKED_AT_PER_FEATURE = 8
_MOST_LOOKED_AT_BYTES = 8 * 2**20


def sample_fraction(
    n_rows: int, n_features: int, n_outputs: int, row_bytes: int, *, least: bool = False
) -> float:
    """Share of the rows to draw so that the pilot stays within its budget of memory; 0 where a
    pilot would not help.

    Parameters
    ----------
    n_rows, n_features, n_outputs
        Size of the problem; an intercept counts as a feature.
    row_bytes
        Number of bytes of one row as stored.
    least
        Whether the smallest share of use is asked for.
    """
    if n_features > MOST_PARAMETERS:
        return 0.0
    n_parameters = n_features * n_outputs
    # of many outputs the features' second moments are enough for a metric
    counted = n_features * _LEAST_OUTPUTS if n_outputs > _LEAST_OUTPUTS else n_parameters
    least_rows = _LEAST_ROWS_PER_PARAMETER * counted
    if least:
        return min(1.0, least_rows / n_rows)
    few = n_parameters <= MOST_PARAMETERS
    per_parameter = _WANTED_ROWS_PER_PARAMETER if few else _WANTED_ROWS_PER_PARAMETER_OF_MANY
    wanted_bytes = max(_LEAST_BYTES, per_parameter * n_parameters * row_bytes)
    rows = min(wanted_bytes, _MOST_BYTES) / row_bytes
    if rows >= n_rows:
        return 1.0
    if rows < least_rows:
        return 0.0
    # the number drawn is binomial: stay below the budget
    return float(rows - 4.0 * np.sqrt(rows)) / n_rows


def look_fraction(n_rows: int, n_features: int, row_bytes: int) -> float:
    """Share of the rows to draw where no pilot is solved: enough to tell which features nearly
    repeat one another; 0 for too many features."""
    wanted = max(_LEAST_LOOKED_AT, _LOOKED_AT_PER_FEATURE * n_features)
    rows = min(wanted, _MOST_LOOKED_AT_BYTES // row_bytes)
    if rows >= n_rows:
        return 1.0
    return 0.0 if rows < _LEAST_ROWS_PER_PARAMETER * n_features else rows / n_rows


def is_dense(n_rows: int, n_parameters: int, *, coupled: bool) -> bool:
    """Whether the Hessian of a pilot is worth being written down; of many coupled outputs it is
    not."""
    affordable = n_rows * n_parameters**2 <= DENSE_PRODUCTS
    few = n_parameters <= MOST_COUPLED_PARAMETERS and affordable
    return not coupled or n_parameters <= NEWTON_PARAMETERS or few


def is_cheap(n_rows: int, n_parameters: int) -> bool:
    """Whether Newton's method costs little more than any other."""
    return n_parameters <= NEWTON_PARAMETERS and n_rows * n_parameters**2 <= CHEAP_PRODUCTS


def has_few_rows(n_numbers: int, n_parameters: int) -> bool:
    """Whether there are fewer numbers to be met (rows times outputs) than parameters, and so few of
    these that Newton's method costs next to nothing."""
    return n_numbers < n_parameters <= MOST_COUPLED_PARAMETERS


def tells_hessian(n_rows: int, n_parameters: int) -> bool:
    """Whether there are rows enough for their Hessian to say more than that of fewer numbers."""
    return n_rows >= _LEAST_ROWS_PER_PARAMETER * n_parameters


def most_stride(n_rows: int, n_parameters: int) -> int:
    """Largest k for which every k-th of the rows is of use; less than 1 if none is."""
    return n_rows // (_LEAST_ROWS_PER_PARAMETER_OF_COARSE * n_parameters)
