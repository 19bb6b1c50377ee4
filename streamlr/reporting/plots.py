"""Pictures of how well a model fits: calibration, ROC curve and lift of two classes; calibration
and confusion of more.

They need matplotlib, which comes with the extra ``plot``.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

from streamlr.config.places import local_output
from streamlr.errors import ConfigError, WriteError, either
from streamlr.reporting.console import plain

_SUFFIXES = (".png", ".svg")
_DRAWN, _GUIDE = "#1f6f8b", "#b5b5b5"
_LABELS_SHOWN = 20


def check_plot(path: str) -> None:
    """Refuse what cannot be drawn before the data are read.

    Raises
    ------
    ConfigError
        For an address, a name without a known suffix, a folder that cannot be written to, or where
        matplotlib is missing.
    """
    target = local_output(path, either("--plot", "path"))
    if target.suffix.lower() not in _SUFFIXES:
        raise ConfigError(
            f"{path!r} is no name of a picture that can be drawn: it must end in "
            f"{' or '.join(_SUFFIXES)}"
        )
    folder = target.parent
    if not folder.is_dir() or not os.access(
        folder, os.W_OK, effective_ids=os.access in os.supports_effective_ids
    ):
        raise ConfigError(
            f"the folder {str(folder)!r} of the picture {path!r} is not there or cannot be "
            "written to; choose another name"
        )
    if target.is_dir():
        raise ConfigError(f"{path!r} is a folder; choose another name for the picture")
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            "a plot needs matplotlib, which is not installed: pip install 'streamlr[plot]', or "
            f"{either('leave out --plot', 'draw none')}"
        ) from error


def plot_metrics(metrics: dict[str, Any], path: str) -> None:
    """Draw the report of a model of classes; the file appears when it is whole. Same metrics, same
    bytes (of one version of matplotlib).

    Raises
    ------
    WriteError
        When it cannot be written.
    """
    from matplotlib import rc_context
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    two = len(metrics["classes"]) == 2
    with rc_context(
        {"svg.hashsalt": "streamlr", "text.usetex": False, "text.parse_math": False}
    ):  # labels of data are no formulas
        figure = Figure(figsize=(13.5 if two else 10.0, 4.4), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.subplots(1, 3 if two else 2)
        _draw_calibration(axes[0], metrics["calibration"])
        if two:
            _draw_roc(axes[1], metrics)
            _draw_lift(axes[2], metrics["lift"])
        else:
            _draw_confusion(axes[1], metrics)
        target = local_output(path, either("--plot", "path"))
        partial = target.with_name(f".{target.stem}.partial-{os.getpid()}{target.suffix}")
        try:
            figure.savefig(
                partial,
                dpi=120,
                metadata={"Date": None} if target.suffix.lower() == ".svg" else {"Software": None},
            )
            os.replace(partial, target)
        except OSError as error:
            raise WriteError(
                f"cannot write {str(target)!r} ({error.strerror or error}); choose another name"
                f"{either(' with --plot', '')}"
            ) from error
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)


def _draw_calibration(axes: Any, calibration: dict[str, Any]) -> None:
    axes.plot([0, 1], [0, 1], color=_GUIDE, linestyle="--", label="perfect")
    for kind, marker in (("uniform", "o"), ("quantile", "s")):
        rows = calibration[kind]
        axes.plot(
            [row["mean_predicted"] for row in rows],
            [row["observed_rate"] for row in rows],
            marker=marker,
            color=_DRAWN,
            alpha=1.0 if kind == "uniform" else 0.5,
            label=f"{kind} bins",
        )
    axes.set(
        xlabel=f"mean {calibration['of']}",
        ylabel="observed rate",
        title=f"calibration: expected error {calibration['error']:.4g}",
    )
    axes.legend()


def _draw_roc(axes: Any, metrics: dict[str, Any]) -> None:
    axes.plot([0, 1], [0, 1], color=_GUIDE, linestyle="--")
    axes.set(xlabel="false positive rate", ylabel="true positive rate", title="ROC curve")
    if metrics["roc_curve"] is not None:
        axes.plot(
            metrics["roc_curve"]["false_positive_rate"],
            metrics["roc_curve"]["true_positive_rate"],
            color=_DRAWN,
        )
        axes.set_title(f"ROC curve: area {metrics['auc']:.6g}")


def _draw_lift(axes: Any, rows: list[dict[str, Any]]) -> None:
    axes.axhline(1.0, color=_GUIDE, linestyle="--")
    axes.bar(
        [100 * row["share"] - 5 for row in rows],
        [row["lift"] or 0.0 for row in rows],
        width=9,
        color=_DRAWN,
    )
    axes.set(xlabel="per cent, from the highest probability on", ylabel="lift", title="lift")


def _draw_confusion(axes: Any, metrics: dict[str, Any]) -> None:
    rates = [[cell / (sum(row) or 1.0) for cell in row] for row in metrics["confusion_matrix"]]
    image = axes.imshow(rates, cmap="Blues", vmin=0.0, vmax=1.0)
    axes.figure.colorbar(image, ax=axes, label="share of the true class")
    axes.set(
        xlabel="predicted", ylabel="true", title=f"confusion: accuracy {metrics['accuracy']:.4g}"
    )
    if len(rates) <= _LABELS_SHOWN:
        names = [plain(str(label)).replace("\n", "\\x0a")[:20] for label in metrics["classes"]]
        axes.set_xticks(range(len(names)), names, rotation=90)
        axes.set_yticks(range(len(names)), names)
