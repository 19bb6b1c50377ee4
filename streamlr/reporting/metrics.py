"""The metrics of a model as lines that a person reads."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from streamlr.reporting.console import plain

_CLASSES_SHOWN = 30
_COLUMNS_SHOWN = 10


def metric_lines(metrics: dict[str, Any]) -> Iterator[str]:
    """Numbers one by one, then the tables that there are; labels are shown without control
    characters."""
    for name, value in metrics.items():
        if value is None or isinstance(value, (int, float)):
            yield f"{name:29} {_shown(value)}"
    if "classes" in metrics:
        yield from _class_lines(metrics)
        yield from _calibration_lines(metrics["calibration"])
        if metrics["lift"]:
            yield from _table(
                "lift, from the highest probabilities on", [_named(row) for row in metrics["lift"]]
            )


def _class_lines(metrics: dict[str, Any]) -> Iterator[str]:
    classes, per_class = metrics["classes"], metrics["per_class"]
    rows = [_named(row) for row in per_class[:_CLASSES_SHOWN]]
    rows += [
        {"class": name.replace("_", " "), **metrics[name]}
        for name in ("macro_average", "weighted_average")
    ]
    yield from _table("classes", rows)
    if len(classes) > _CLASSES_SHOWN:
        yield f"({len(classes) - _CLASSES_SHOWN} more classes: --json has them all)"
    if len(classes) <= _COLUMNS_SHOWN:
        names = [_label(label) for label in classes]
        cells = [
            [name, *map(_cell, row)]
            for name, row in zip(names, metrics["confusion_matrix"], strict=True)
        ]
        yield from _aligned("confusion matrix, true by predicted", ["", *names], cells)


def _calibration_lines(calibration: dict[str, Any]) -> Iterator[str]:
    for kind, error in (("uniform", "error"), ("quantile", "quantile_error")):
        yield from _table(
            f"calibration of the {calibration['of']}, {kind} bins: expected error "
            f"{_shown(calibration[error])}",
            calibration[kind],
        )


def _named(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose bounds are left out: they stand beside the means already."""
    return {
        name: _label(value) if name == "class" else value
        for name, value in row.items()
        if not name.endswith("_bound")
    }


def _table(title: str, rows: Sequence[dict[str, Any]]) -> Iterator[str]:
    header = list(rows[0])
    return _aligned(title, header, [[_cell(row.get(name, "")) for name in header] for row in rows])


def _aligned(title: str, header: list[str], cells: list[list[str]]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    yield f"\n{title}"
    for line in (header, *cells):
        yield "  ".join(
            [
                line[0].ljust(widths[0]),
                *(cell.rjust(width) for cell, width in zip(line[1:], widths[1:], strict=True)),
            ]
        ).rstrip()


def _label(label: Any) -> str:
    return plain(str(label)).replace("\n", "\\x0a")


def _shown(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _cell(value: Any) -> str:
    """A number among others: six digits, and all of those before the point."""
    return (
        f"{value:.6g}"
        if isinstance(value, float) and abs(value) < 1e5
        else f"{value:,.10g}"
        if isinstance(value, float)
        else _shown(value)
    )
