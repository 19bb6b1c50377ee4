"""The table: from a covariance and sums of the likelihood to tests, intervals and measures of fit,
named and defined as in statsmodels."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.events import finite
from streamlr.inference.covariance import Layout
from streamlr.inference.distributions import (
    chi_squared_tail,
    f_tail,
    has_scipy,
    quantile,
    two_sided_p,
)
from streamlr.kernels.families import FAMILIES
from streamlr.kernels.scans.information import InformationSums
from streamlr.model import Model
from streamlr.reporting.inference import summary_lines

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Coefficient:
    """One line of the table."""

    name: str
    """Name of the feature, or ``intercept``."""
    label: Any
    """The class whose odds it tells, against the first; None where there is one output."""
    coefficient: float
    """In the units of the data."""
    standard_error: float
    statistic: float
    """Coefficient divided by standard error: z, or t."""
    p_value: float
    """Probability of a statistic as far from 0 where the coefficient is 0."""
    lower: float
    """Lower end of the confidence interval."""
    upper: float
    """Upper end."""


@dataclass(frozen=True, slots=True)
class Summary:
    """What is inferred from a model. A number that the family, the errors or the weights have no
    meaning for is None."""

    family: str
    errors: str
    """``classical``, ``robust`` (HC0), ``HC1`` or ``clustered``."""
    weights: str | None
    """What sample weights mean, ``case`` or ``frequency``; None where there are none."""
    statistic: str
    """``z`` or ``t``."""
    confidence: float
    """Of the intervals."""
    observations: float
    """n: rows that have weight, or the sum of frequency weights."""
    groups: int | None
    """Groups of clustered errors."""
    df_model: int
    """Coefficients without intercepts."""
    df_residual: float
    """Observations less all coefficients."""
    log_likelihood: float | None
    null_log_likelihood: float | None
    """Of the best model of an intercept alone."""
    likelihood_ratio: float | None
    """Twice the difference of the two."""
    likelihood_ratio_p: float | None
    """Its chi-squared tail with ``df_model`` degrees of freedom."""
    pseudo_r2: float | None
    """McFadden's: 1 less the ratio of the two."""
    deviance: float | None
    null_deviance: float | None
    aic: float | None
    bic: float | None
    dispersion: float | None
    """Residual variance, of the linear family."""
    r2: float | None
    adjusted_r2: float | None
    f: float | None
    """Of the test that all coefficients but the intercept are 0, with ``df_model`` and n - d or, of
    groups, G - 1 degrees of freedom."""
    f_p: float | None
    correction: str | None
    """Whose small-sample factor ``HC1`` and ``clustered`` errors have."""
    df_test: float | None
    """Degrees of freedom of t, and of the denominator of F; None where the statistic is z."""
    chi2: float | None
    """The same test by chi-squared: F times ``df_model``."""
    chi2_p: float | None
    coefficients: tuple[Coefficient, ...]
    """Intercept first; of several classes, one class after the other."""
    covariance: Array
    """Of the coefficients in their order, (d, d)."""
    notes: tuple[str, ...]
    """What a reader should know."""

    def to_dict(self) -> dict[str, Any]:
        """The summary as ``--json`` prints it: all but the covariance, and of the joint tests that
        which goes with the statistic."""
        other = ("chi2", "chi2_p") if self.statistic == "t" else ("f", "f_p")
        found = {
            name: None if name in other else finite(value)
            for name, value in asdict(self).items()
            if name != "covariance"
        }
        return {
            **found,
            "coefficients": [
                {key: finite(value) for key, value in asdict(row).items()}
                for row in self.coefficients
            ],
            "notes": list(self.notes),
        }

    def __str__(self) -> str:
        return "\n".join(summary_lines(self.to_dict()))


@dataclass(frozen=True, slots=True)
class Fit:
    """What the passes have settled, beside their sums."""

    model: Model
    layout: Layout
    covariance: Array
    """Of the coefficients as the layout has them, (d, d), in the units of the data."""
    observations: float
    errors: str
    confidence: float
    groups: int
    """0 where there are none."""
    weights: str
    weighted: bool
    """Whether there are sample weights."""
    likely: bool
    """Whether the weighted loss is a likelihood."""
    null_intercept: float
    """Z of the null model, where there is one output."""
    correction: str | None = None
    """Whose small-sample factor the covariance has."""
    with_t: bool = False
    """Whether tests are by t and F."""

    @property
    def df_test(self) -> float:
        """Degrees of freedom of t and F: one less than there are groups, but for R, whose tests
        leave groups out."""
        by_groups = self.groups > 0 and self.correction not in ("R-HC0", "R-HC1")
        return self.groups - 1 if by_groups else self.df_residual

    @property
    def df_model(self) -> int:
        return self.layout.n_slopes

    @property
    def df_residual(self) -> float:
        return self.observations - self.layout.size

    def parameters(self) -> Array:
        """The coefficients as the layout has them, (d,): of coupled outputs those of each less
        those of the first."""
        W, b = self.model.coef_.T, self.model.intercept_
        if FAMILIES[self.model.family].coupled:
            W, b = W[:, 1:] - W[:, :1], b[1:] - b[0]
        return np.concatenate([W.ravel(), b]) if self.layout.fit_intercept else W.ravel()

    def order(self) -> list[int]:
        """The parameters as the table has them: one output after the other, the intercept first."""
        n, c = self.layout.n_features, self.layout.n_outputs
        rows = [n] * self.layout.fit_intercept + list(range(n))
        return [row * c + output for output in range(c) for row in rows]


def summarize(fit: Fit, sums: InformationSums, notes: tuple[str, ...]) -> Summary:
    """The table of a fit and the sums at its model."""
    linear = FAMILIES[fit.model.family].quadratic
    order = fit.order()
    covariance = fit.covariance[np.ix_(order, order)]
    table = _lines(
        fit,
        fit.parameters()[order],
        np.sqrt(np.diag(covariance)),
        order,
        fit.df_test if fit.with_t else None,
    )
    measures = _linear_measures(fit, sums) if linear else _measures(fit, sums)
    if fit.df_model > 0 and linear and not has_scipy():
        notes = (*notes, "the tail of F needs SciPy: pip install 'streamlr[inference]'")
    if fit.weighted:
        notes = (
            *notes,
            "every row of weight ω stands for ω rows"
            if fit.weights == "frequency"
            else "weights say how much a row counts, not how many it is",
        )
    empty = dict.fromkeys(
        (
            "log_likelihood",
            "null_log_likelihood",
            "likelihood_ratio",
            "likelihood_ratio_p",
            "pseudo_r2",
            "deviance",
            "null_deviance",
            "aic",
            "bic",
            "dispersion",
            "r2",
            "adjusted_r2",
            "f",
            "f_p",
            "chi2",
            "chi2_p",
        )
    )
    return Summary(
        family=fit.model.family,
        errors=fit.errors,
        weights=fit.weights if fit.weighted else None,
        statistic="t" if fit.with_t else "z",
        confidence=fit.confidence,
        observations=fit.observations,
        groups=fit.groups or None,
        df_model=fit.df_model,
        df_residual=fit.df_residual,
        correction=fit.correction,
        df_test=fit.df_test if fit.with_t else None,
        coefficients=table,
        covariance=covariance,
        notes=notes,
        **{**empty, **measures},
    )


def _lines(
    fit: Fit, values: Array, errors: Array, order: list[int], df: float | None
) -> tuple[Coefficient, ...]:
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = values / errors
    reach = quantile(fit.confidence, df) * errors
    n, c = fit.layout.n_features, fit.layout.n_outputs
    coupled = FAMILIES[fit.model.family].coupled
    classes = fit.model.classes_.tolist()
    columns = (
        values,
        errors,
        statistic,
        two_sided_p(statistic, df),
        values - reach,
        values + reach,
    )
    return tuple(
        Coefficient(
            "intercept" if at // c == n else fit.layout.names[at // c],
            classes[1 + at % c] if coupled else None,
            *map(float, numbers),
        )
        for at, *numbers in zip(order, *columns, strict=True)
    )


def _measures(fit: Fit, sums: InformationSums) -> dict[str, float | None]:
    """Of a family whose likelihood has no parameter beside the mean."""
    if not fit.likely:
        return {}
    llf, null = (sums.base_sum - float(loss) for loss in sums.loss_sum)
    ratio, d = 2.0 * float(sums.loss_sum[1] - sums.loss_sum[0]), fit.layout.size
    return {
        "log_likelihood": llf,
        "null_log_likelihood": null,
        "likelihood_ratio": ratio,
        "likelihood_ratio_p": chi_squared_tail(max(ratio, 0.0), fit.df_model),
        "pseudo_r2": 1.0 - llf / null if null != 0 else None,
        "deviance": float(sums.deviance_sum[0]),
        "null_deviance": float(sums.deviance_sum[1]),
        "aic": 2.0 * d - 2.0 * llf,
        "bic": d * math.log(fit.observations) - 2.0 * llf,
    }


def _linear_measures(fit: Fit, sums: InformationSums) -> dict[str, float | None]:
    """Of least squares: the likelihood at the variance that makes it largest, which is the squares
    that are left, divided by n."""
    rest, n, d = float(sums.deviance_sum[0]), fit.observations, fit.layout.size
    # a model without an intercept is compared with 0, not with a mean
    whole = float(sums.deviance_sum[1]) + (
        0.0 if fit.layout.fit_intercept else sums.weight_sum * fit.null_intercept**2
    )
    weight_term = 0.5 * sums.log_weight_sum if fit.weights == "case" else 0.0
    llf = (
        -0.5 * n * (math.log(2.0 * math.pi * rest / n) + 1.0) + weight_term
        if rest > 0
        else math.inf
    )
    r2 = 1.0 - rest / whole if whole > 0 else None
    f = _f(fit, rest, whole)
    return {
        "log_likelihood": llf,
        "deviance": rest,
        "null_deviance": float(sums.deviance_sum[1]),
        "aic": 2.0 * d - 2.0 * llf,
        "bic": d * math.log(n) - 2.0 * llf,
        "dispersion": rest / fit.df_residual,
        "r2": r2,
        "adjusted_r2": None
        if r2 is None
        else 1.0 - (n - fit.layout.fit_intercept) / fit.df_residual * (1.0 - r2),
        "f": f,
        "f_p": None if f is None or not has_scipy() else f_tail(f, fit.df_model, fit.df_test),
        "chi2": None if f is None else f * fit.df_model,
        "chi2_p": None if f is None else chi_squared_tail(max(f, 0.0) * fit.df_model, fit.df_model),
    }


def _f(fit: Fit, rest: float, whole: float) -> float | None:
    """Of the squares, or where errors are not classical of Wald's test."""
    if fit.errors == "classical":
        return (whole - rest) / fit.df_model / (rest / fit.df_residual) if rest > 0 else None
    if 0 < fit.groups <= fit.layout.size:
        return None
    slopes = slice(0, fit.df_model)
    values = fit.parameters()[slopes]
    try:
        return (
            float(values @ np.linalg.solve(fit.covariance[slopes, slopes], values)) / fit.df_model
        )
    except np.linalg.LinAlgError:
        return None
