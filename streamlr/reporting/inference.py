"""A summary of a model as the lines that a person reads: the measures of fit in two columns, then a
line for each coefficient."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby, zip_longest
from typing import Any

from streamlr.reporting.console import plain

_LEFT = {
    "observations": "observations",
    "groups": "groups",
    "df_model": "df of the model",
    "df_residual": "df of the residuals",
    "log_likelihood": "log-likelihood",
    "null_log_likelihood": "of the null model",
    "likelihood_ratio": "likelihood ratio",
    "likelihood_ratio_p": "its p",
    "df_test": "df of t",
    "f": "F",
    "f_p": "its p",
    "chi2": "Wald chi²",
    "chi2_p": "its p",
}
_RIGHT = {
    "deviance": "deviance",
    "null_deviance": "null deviance",
    "aic": "AIC",
    "bic": "BIC",
    "pseudo_r2": "pseudo R²",
    "dispersion": "residual variance",
    "r2": "R²",
    "adjusted_r2": "adjusted R²",
}


def summary_lines(summary: dict[str, Any]) -> Iterator[str]:
    """The lines of `streamlr.Summary.to_dict`; names are shown without control characters."""
    weights = f", weights of {summary['weights']}" if summary["weights"] else ""
    factor = f" (small-sample factor: {summary['correction']})" if summary["correction"] else ""
    yield f"{summary['family']} model, {summary['errors']} errors{factor}{weights}"
    pairs = [
        [
            (label, _shown(summary[key], digits=10))
            for key, label in names.items()
            if summary[key] is not None
        ]
        for names in (_LEFT, _RIGHT)
    ]
    for left, right in zip_longest(*pairs, fillvalue=("", "")):
        yield f"{left[0]:20} {left[1]:>16}    {right[0]:18} {right[1]:>16}".rstrip()
    tail = 0.5 * (1.0 - summary["confidence"])
    letter = summary["statistic"]
    header = [
        "coefficient",
        "std error",
        letter,
        f"P>|{letter}|",
        f"[{tail:.4g}",
        f"{1 - tail:.4g}]",
    ]
    for label, rows in groupby(summary["coefficients"], key=lambda row: row["label"]):
        yield ""
        yield from _aligned("" if label is None else f"class {_plain(label)}", header, list(rows))
    for note in summary["notes"]:
        yield f"note: {_plain(note)}"


def _aligned(corner: str, header: Sequence[str], rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    names = [_plain(row["name"]) for row in rows]
    cells = [
        [
            _shown(row[key])
            for key in ("coefficient", "standard_error", "statistic", "p_value", "lower", "upper")
        ]
        for row in rows
    ]
    width = max(map(len, [corner, *names]))
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    for name, line in zip([corner, *names], [header, *cells], strict=True):
        yield "  ".join(
            [name.ljust(width), *(cell.rjust(w) for cell, w in zip(line, widths, strict=True))]
        )


def _plain(text: Any) -> str:
    return plain(str(text)).replace("\n", "\\x0a")


def _shown(value: Any, digits: int = 6) -> str:
    if value is None:
        return "-"
    if isinstance(value, int) or (value.is_integer() and abs(value) < 1e15):
        return f"{int(value):,}"
    return f"{value:.{digits}g}"
