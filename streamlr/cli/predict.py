"""``streamlr predict``."""

from __future__ import annotations

import click

import streamlr
from streamlr.cli import options
from streamlr.reporting.console import Console, plain


@click.command("predict")
@click.argument("run")
@click.argument("store")
@click.argument("out")
@click.option("--overwrite", is_flag=True, help="Replace what stands at OUT.")
@options.overrides()
@options.quiet
def predict_command(
    run: str, store: str, out: str, overwrite: bool, overrides: tuple[str, ...], quiet: bool
) -> None:
    """Write what is predicted for every row of STORE into the Zarr array OUT: the probability of
    the second class, of each, or a mean."""
    rows = streamlr.predict(
        run,
        store,
        out,
        overwrite=overwrite,
        overrides=overrides,
        subscribers=[Console(quiet=quiet)],
    )
    if not quiet:
        click.echo(f"{rows:,} predictions in {plain(out)}", err=True)
