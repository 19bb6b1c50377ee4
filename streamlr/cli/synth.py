"""``streamlr synth``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from streamlr.cli import options
from streamlr.reporting.console import RowCounter, plain


def _families() -> Sequence[str]:
    from streamlr.kernels.families import FAMILIES

    return tuple(FAMILIES)


def _dtypes() -> Sequence[str]:
    from streamlr.data.synth import DTYPES

    return DTYPES


@click.command("synth")
@click.argument("store")
@click.option("--rows", type=int, required=True, help="Number of examples.")
@click.option("--features", type=int, required=True, help="Number of features.")
@click.option(
    "--family",
    type=options.ChoiceOf(_families),
    default="logistic",
    show_default=True,
    help="Family that the targets are drawn from.",
)
@click.option("--classes", type=int, default=2, show_default=True, help="Number of classes.")
@click.option(
    "--dtype",
    type=options.ChoiceOf(_dtypes),
    default="float32",
    show_default=True,
    help="Type of the features.",
)
@options.chunk_rows
@options.compressor
@click.option(
    "--sample-axis",
    type=click.Choice(["0", "1"]),
    default="0",
    show_default=True,
    help="Axis of the examples.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random.")
@options.overwrite_store
@options.quiet
def synth_command(
    store: str,
    rows: int,
    features: int,
    family: str,
    classes: int,
    dtype: str,
    chunk_rows: int | None,
    compressor: Any,
    sample_axis: str,
    seed: int,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Write a STORE with known coefficients: features correlated and of different scales, targets
    drawn from the model."""
    from streamlr.data import synth
    from streamlr.execution.local import available_cores

    spec = synth.SynthSpec(
        rows, features, classes, dtype, seed, chunk_rows, compressor, int(sample_axis), family
    )
    with RowCounter("synth", rows, quiet=quiet) as counter:
        synth.synthesize(
            store, spec, overwrite=overwrite, threads=available_cores(), rows_done=counter
        )
    if not quiet:
        click.echo(f"{rows:,} rows of {features:,} features in {plain(store)}", err=True)
