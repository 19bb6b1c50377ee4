"""The optimum of a model of few features to 20 digits and more: Newton's method in the numbers of
mpmath, with none of the tricks of the package."""

from __future__ import annotations

from typing import Any

import mpmath
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_DIGITS = 60
_MOST_STEPS = 200


def optimum(
    X: NDArray[Any],
    y: NDArray[Any],
    family: str,
    *,
    weights: Array | None = None,
    intercept: bool = True,
) -> tuple[Array, float]:
    """Coefficients of the data's own features, (n,), and the smallest mean loss; of ``linear``,
    ``logistic`` (0 and 1) or ``poisson``.

    Steps are those of features less their means and by their spreads, halved until the loss falls.
    """
    with mpmath.workdps(_DIGITS):
        rows, unit = _standard(X, weights, intercept)
        omega = (
            [mpmath.mpf(1)] * len(rows)
            if weights is None
            else [mpmath.mpf(float(w)) for w in weights]
        )
        total = mpmath.fsum(omega)
        omega = [w / total for w in omega]
        targets = [mpmath.mpf(float(t)) for t in y]
        theta = mpmath.matrix(len(rows[0]), 1)
        if family == "poisson" and intercept:
            theta[len(rows[0]) - 1] = mpmath.log(
                mpmath.fsum(w * t for w, t in zip(omega, targets, strict=True))
            )
        value = _loss(rows, targets, omega, theta, family)
        for _ in range(_MOST_STEPS):
            gradient, hessian = _derivatives(rows, targets, omega, theta, family)
            step = mpmath.lu_solve(hessian, gradient)
            length = mpmath.mpf(1)
            while (
                _loss(rows, targets, omega, theta - length * step, family) > value
                and length > mpmath.mpf(10) ** -20
            ):
                length /= 2
            theta -= length * step
            value = _loss(rows, targets, omega, theta, family)
            if max(abs(s) for s in step) <= mpmath.mpf(10) ** -22 * max(
                1, max(abs(t) for t in theta)
            ):
                return np.array([float(theta[j] / unit[j]) for j in range(X.shape[1])]), float(
                    value
                )
    raise AssertionError("there is no optimum, or Newton's method does not find it")


def _standard(
    X: NDArray[Any], weights: Array | None, intercept: bool
) -> tuple[list[list[Any]], list[Any]]:
    columns, unit = [], []
    omega = [mpmath.mpf(1)] * len(X) if weights is None else [mpmath.mpf(float(w)) for w in weights]
    for column in X.T:
        values = [mpmath.mpf(float(x)) for x in column]
        mean = (
            mpmath.fsum(w * x for w, x in zip(omega, values, strict=True)) / mpmath.fsum(omega)
            if intercept
            else mpmath.mpf(0)
        )
        centred = [x - mean for x in values]
        spread = mpmath.sqrt(
            mpmath.fsum(w * x * x for w, x in zip(omega, centred, strict=True)) / mpmath.fsum(omega)
        )
        columns.append([x / spread for x in centred])
        unit.append(spread)
    if intercept:
        columns.append([mpmath.mpf(1)] * len(X))
    return [list(row) for row in zip(*columns, strict=True)], unit


def _predictors(rows: list[list[Any]], theta: Any) -> list[Any]:
    values = list(theta)
    return [mpmath.fdot(row, values) for row in rows]


def _loss(
    rows: list[list[Any]], targets: list[Any], omega: list[Any], theta: Any, family: str
) -> Any:
    of_row = {
        "linear": lambda z, t: (z - t) ** 2 / 2,
        "logistic": lambda z, t: mpmath.log(1 + mpmath.exp(z)) - t * z,
        "poisson": lambda z, t: mpmath.exp(z) - t * z,
    }[family]
    return mpmath.fsum(
        w * of_row(z, t) for w, z, t in zip(omega, _predictors(rows, theta), targets, strict=True)
    )


def _derivatives(
    rows: list[list[Any]], targets: list[Any], omega: list[Any], theta: Any, family: str
) -> tuple[Any, Any]:
    mean_of = {
        "linear": lambda z: z,
        "logistic": lambda z: 1 / (1 + mpmath.exp(-z)),
        "poisson": mpmath.exp,
    }[family]
    curvature_of = {
        "linear": lambda a: mpmath.mpf(1),
        "logistic": lambda a: a * (1 - a),
        "poisson": lambda a: a,
    }[family]
    d = len(rows[0])
    means = [mean_of(z) for z in _predictors(rows, theta)]
    left = [w * (a - t) for w, a, t in zip(omega, means, targets, strict=True)]
    curvature = [w * curvature_of(a) for w, a in zip(omega, means, strict=True)]
    columns = list(zip(*rows, strict=True))
    gradient, hessian = mpmath.matrix(d, 1), mpmath.matrix(d, d)
    for i in range(d):
        gradient[i] = mpmath.fdot(columns[i], left)
        weighted = [c * x for c, x in zip(curvature, columns[i], strict=True)]
        for j in range(i + 1):
            hessian[i, j] = hessian[j, i] = mpmath.fdot(weighted, columns[j])
    return gradient, hessian
