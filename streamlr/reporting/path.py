"""A path as the lines that a person reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

_MOST_LINES = 20


def path_lines(table: Sequence[Mapping[str, Any]], scores: Mapping[str, Any]) -> list[str]:
    """The table for a person: of a long path every few of the strengths, with the chosen ones.

    Parameters
    ----------
    table
        A record for each strength, as in ``path.json``.
    scores
        What ``path.json`` holds beside it.
    """
    marks = {scores["lambda_min"]: "min", scores["lambda_1se"]: "1se"} if scores["folds"] else {}
    if marks and scores["lambda_min"] == scores["lambda_1se"]:
        marks = {scores["lambda_min"]: "min, 1se"}
    step = max(1, -(-len(table) // _MOST_LINES))
    auc = any("validation_auc" in row for row in table)
    head = f"{'lambda':>12}{'nonzero':>9}{'loss':>14}"
    if marks:
        head += f"{'held-out loss':>16}{'(se)':>10}"
    lines = [head + (f"{'AUC':>10}" if auc else "")]
    for i, row in enumerate(table):
        if i % step == 0 or i == len(table) - 1 or row["lambda"] in marks:
            line = f"{row['lambda']:12.6g}{row['nonzero']:9}{row['loss']:14.9f}"
            if marks:
                line += f"{_number(row['validation_loss']):16.9f}"
                line += f"{_number(row['validation_loss_se']):10.2g}"
            if auc:
                line += f"{_number(row['validation_auc']):10.6f}"
            lines.append(f"{line}  {marks.get(row['lambda'], '')}".rstrip())
    return lines


def _number(value: float | None) -> float:
    """As a table shows what JSON has no number for."""
    return math.nan if value is None else value
