"""``streamlr summary``."""

from __future__ import annotations

from collections.abc import Sequence

import click

import streamlr
from streamlr.cli import options
from streamlr.reporting.console import Console, json_text
from streamlr.reporting.inference import summary_lines


def _corrections() -> Sequence[str]:
    from streamlr.inference.covariance import CORRECTIONS

    return CORRECTIONS


@click.command("summary")
@click.argument("run")
@click.option(
    "--store",
    metavar="STORE",
    help="Where the data of the run are now [default: where they were].",
)
@click.option(
    "--errors",
    type=click.Choice(["classical", "robust", "HC0", "HC1", "clustered"]),
    help="From the likelihood, or robust against a wrong one: every row its own, or by groups "
    "[default: clustered with --groups, else classical].",
)
@click.option(
    "--groups",
    metavar="ARRAY",
    help="Array of the store with the group of every row [default: data.groups].",
)
@click.option(
    "--weights",
    type=click.Choice(["case", "frequency"]),
    default="case",
    show_default=True,
    help="What a sample weight means: how much the row counts, or how many rows it stands for.",
)
@click.option(
    "--correction",
    type=options.ChoiceOf(_corrections),
    help="Whose small-sample factor HC1 and clustered errors have [default: statsmodels].",
)
@click.option(
    "--use-t/--use-z",
    default=None,
    help="Tests by t and F, of clustered errors with G - 1 degrees of freedom, or by z and "
    "chi-squared [default: t for linear, classical].",
)
@click.option("--confidence", type=float, default=0.95, show_default=True, help="Of the intervals.")
@options.overrides("Override a key of the run's configuration, such as cluster.workers=4.")
@options.quiet
@options.as_json
def summary_command(
    run: str,
    store: str | None,
    errors: str | None,
    groups: str | None,
    weights: str,
    correction: str | None,
    use_t: bool | None,
    confidence: float,
    overrides: tuple[str, ...],
    quiet: bool,
    as_json: bool,
) -> None:
    """Standard errors, tests and likelihoods of the model of RUN, from two more passes over its
    data."""
    found = streamlr.summary(
        run,
        store,
        errors=errors,
        groups=groups,
        weights=weights,
        confidence=confidence,
        correction=correction,
        use_t=use_t,
        overrides=overrides,
        subscribers=[Console(quiet=quiet)],
    ).to_dict()
    if as_json:
        click.echo(json_text(found))
        return
    for line in summary_lines(found):
        click.echo(line, err=True)
