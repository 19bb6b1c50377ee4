"""Tails of the distributions that tests are made with.

The normal and the chi-squared need nothing but the standard library; Student's t and F are SciPy's
(extra ``inference``).
"""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.errors import ConfigError, either, option

Array = NDArray[np.float64]


def two_sided_p(statistic: Array, df: float | None) -> Array:
    """Probability of a statistic as far from 0, (k,): of Student's t with so many degrees of
    freedom, or of the normal (None)."""
    if df is None:
        return np.array([math.erfc(abs(z) / math.sqrt(2.0)) for z in statistic.tolist()])
    tail: Array = 2.0 * special().stdtr(df, -np.abs(statistic))
    return tail


def quantile(confidence: float, df: float | None) -> float:
    """How many standard errors an interval of this confidence reaches to either side."""
    tail = 0.5 * (1.0 - confidence)
    return -NormalDist().inv_cdf(tail) if df is None else -float(special().stdtrit(df, tail))


def chi_squared_tail(x: float, df: int) -> float:
    """Probability of more than ``x``, 0 or above, with so many degrees of freedom, 1 or more
    (Abramowitz and Stegun 26.4.4 and 26.4.5).

    A sum of positive terms: exp(-x/2) (x/2)^i / Γ(i + 1) for i = 0, 1, ... below df/2, or for i =
    1/2, 3/2, ... and the normal's tails.
    """
    half = 0.5 * x
    if half <= 0:
        return 1.0
    first = 0.5 * (df % 2)
    terms = [
        math.exp(i * math.log(half) - half - math.lgamma(i + 1.0))
        for i in (first + j for j in range((df - df % 2) // 2))
    ]
    return min(1.0, math.fsum([*terms, math.erfc(math.sqrt(half)) if df % 2 else 0.0]))


def f_tail(x: float, df: int, df_residual: float) -> float:
    """Probability of more than ``x`` of the F distribution."""
    return float(special().fdtrc(df, df_residual, x))


def has_scipy() -> bool:
    """Whether t and F are there."""
    try:
        special()
    except ConfigError:
        return False
    return True


def special() -> Any:
    """SciPy's special functions.

    Raises
    ------
    ConfigError
        When SciPy is not installed.
    """
    try:
        import scipy.special
    except ImportError:
        raise ConfigError(
            "Student's t and F need SciPy: pip install 'streamlr[inference]', or take "
            f"{option('errors', 'robust')}, whose statistic is z, or "
            f"{either('--use-z', 'use_t=False')}"
        ) from None
    return scipy.special
