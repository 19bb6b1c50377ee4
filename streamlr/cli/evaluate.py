"""``streamlr evaluate``."""

from __future__ import annotations

import click

import streamlr
from streamlr.cli import options
from streamlr.reporting.console import Console, json_text
from streamlr.reporting.metrics import metric_lines


@click.command("evaluate")
@click.argument("run")
@click.argument("store")
@click.option(
    "--plot",
    metavar="FILE",
    help="Draw calibration, ROC curve and lift (.png or .svg; needs the extra `plot`).",
)
@click.option(
    "--validation",
    is_flag=True,
    help="Score the rows alone that the run held out; STORE is to be the one that it was "
    "trained on.",
)
@options.overrides()
@options.quiet
@options.as_json
def evaluate_command(
    run: str,
    store: str,
    plot: str | None,
    validation: bool,
    overrides: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Score the model of RUN on STORE in one streamed pass."""
    if plot is not None:
        from streamlr.reporting.plots import check_plot
        from streamlr.scoring.scoring import require_plotted

        check_plot(plot)
        require_plotted(run)
    metrics = streamlr.evaluate(
        run,
        store,
        validation=validation,
        overrides=overrides,
        subscribers=[Console(quiet=quiet)],
    )
    if plot is not None:
        from streamlr.reporting.plots import plot_metrics

        plot_metrics(metrics, plot)
    if as_json:
        click.echo(json_text(metrics))
        return
    for line in metric_lines(metrics):
        click.echo(line, err=True)
