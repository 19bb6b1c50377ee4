"""``streamlr ingest``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import click

from streamlr.cli import options
from streamlr.errors import for_command_line
from streamlr.reporting.console import RowCounter, plain


def _dtypes() -> Sequence[str]:
    from streamlr.data.synth import DTYPES

    return (*DTYPES, "int64", "uint16", "uint32", "uint64")


@click.command("ingest")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.argument("store")
@click.option(
    "--target",
    required=True,
    metavar="COLUMN",
    help="Column of the labels; for .npy its number or another .npy file, for .npz the name of an "
    "array.",
)
@click.option("--weights", metavar="COLUMN", help="Column of sample weights.")
@click.option(
    "--features",
    metavar="A,B,...",
    help="Columns to take as features [default: all others]; for .npz the name of the matrix.",
)
@click.option(
    "--drop", multiple=True, metavar="COLUMN", help="Column to leave out; may be repeated."
)
@click.option(
    "--keep",
    multiple=True,
    metavar="COLUMN",
    help="Column to take though it looks like row numbers or identifiers; may be repeated.",
)
@click.option(
    "--na",
    multiple=True,
    metavar="TEXT,...",
    help="What stands for a gap, in the place of NA, NaN, null, None, ? and the like; a cell with "
    "nothing in it always does. May be repeated.",
)
@click.option(
    "--dtype",
    type=options.ChoiceOf(_dtypes),
    help="Type of the stored features [default: one that holds the source's values exactly].",
)
@click.option(
    "--delimiter",
    default=",",
    show_default=True,
    help="What separates the columns of a CSV file; a tab may be written \\t or tab.",
)
@click.option(
    "--encoding",
    default="utf-8",
    show_default=True,
    help="How a CSV file encodes its text, such as latin-1.",
)
@click.option(
    "--no-header", is_flag=True, help="The CSV file has no names: columns are f0, f1, ..."
)
@options.chunk_rows
@options.compressor
@options.overwrite_store
@options.quiet
def ingest_command(
    sources: tuple[str, ...],
    store: str,
    target: str,
    weights: str | None,
    features: str | None,
    drop: tuple[str, ...],
    keep: tuple[str, ...],
    na: tuple[str, ...],
    dtype: str | None,
    delimiter: str,
    encoding: str,
    no_header: bool,
    chunk_rows: int | None,
    compressor: Any,
    overwrite: bool,
    quiet: bool,
) -> None:
    """Make a STORE from tables (CSV, Parquet, .npy, .npz), streamed; an interrupted ingest goes on
    where it stopped."""
    from streamlr.data.ingest import ingest
    from streamlr.data.ingest.columns import Columns

    columns = Columns(
        target,
        weights,
        None if features is None else tuple(features.split(",")),
        drop,
        delimiter,
        not no_header,
        keep,
        tuple(word for words in na for word in words.split(",")) if na else None,
        encoding,
    )
    spec = ingest.IngestSpec(columns, dtype, chunk_rows, compressor)
    with RowCounter("ingest", None, quiet=quiet) as counter:
        result = ingest.ingest(sources, store, spec, overwrite=overwrite, rows_done=counter)
    if quiet:
        return
    for note in result.notes:
        click.echo(plain(for_command_line(note)), err=True)
    again = (
        f" ({result.resumed_rows:,} of them from an earlier attempt)" if result.resumed_rows else ""
    )
    click.echo(
        f"{result.rows:,} rows of {result.features:,} features in {plain(store)}{again}", err=True
    )
