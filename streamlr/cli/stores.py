"""Commands that make stores and look into them."""

from __future__ import annotations

from typing import Any

import click

from streamlr.config import load_config
from streamlr.data.info import describe_store
from streamlr.data.ingest import IngestSpec, ingest
from streamlr.data.matching import named
from streamlr.data.store import ZarrSource
from streamlr.data.synth import DRAWS, DTYPES, SynthSpec, synthesize
from streamlr.data.table_columns import Columns
from streamlr.execution.local import available_cores
from streamlr.reporting.console import RowCounter, json_text, plain

INGEST_DTYPES = (*DTYPES, "int64", "uint16", "uint32", "uint64")
_chunk_rows = click.option("--chunk-rows", type=int, help="Rows of a chunk [default: chunks of at most 8 MiB].")
_compressor = click.option("--compressor", type=click.Choice(["lz4", "zstd", "none"]), default="lz4", show_default=True, help="Compression of the chunks.")
_overwrite = click.option("--overwrite", is_flag=True, help="Replace a store that stands there.")
_quiet = click.option("--quiet", is_flag=True, help="Show warnings and errors alone.")


@click.command("synth")
@click.argument("store")
@click.option("--rows", type=int, required=True, help="Number of examples.")
@click.option("--features", type=int, required=True, help="Number of features.")
@click.option("--family", type=click.Choice(tuple(DRAWS)), default="logistic", show_default=True, help="Family that the targets are drawn from.")
@click.option("--classes", type=int, default=2, show_default=True, help="Number of classes.")
@click.option("--dtype", type=click.Choice(DTYPES), default="float32", show_default=True, help="Type of the features.")
@_chunk_rows
@_compressor
@click.option("--sample-axis", type=click.Choice(["0", "1"]), default="0", show_default=True, help="Axis of the examples.")
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of everything random.")
@_overwrite
@_quiet
def synth_command(store: str, rows: int, features: int, family: str, classes: int, dtype: str, chunk_rows: int | None, compressor: Any,
                  sample_axis: str, seed: int, overwrite: bool, quiet: bool) -> None:
    """Write a STORE with known coefficients: features correlated and of different scales, targets drawn from the model."""
    spec = SynthSpec(rows, features, classes, dtype, seed, chunk_rows, compressor, int(sample_axis), family)
    with RowCounter("synth", rows, quiet=quiet) as counter:
        synthesize(store, spec, overwrite=overwrite, threads=available_cores(), rows_done=counter)
    if not quiet:
        click.echo(f"{rows:,} rows of {features:,} features in {plain(store)}", err=True)


@click.command("ingest")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.argument("store")
@click.option("--target", required=True, metavar="COLUMN",
              help="Column of the labels; for .npy its number or another .npy file, for .npz the name of an array.")
@click.option("--weights", metavar="COLUMN", help="Column of sample weights.")
@click.option("--features", metavar="A,B,...", help="Columns to take as features [default: all others]; for .npz the name of the matrix.")
@click.option("--drop", multiple=True, metavar="COLUMN", help="Column to leave out; may be repeated.")
@click.option("--keep", multiple=True, metavar="COLUMN", help="Column to take though it looks like row numbers or identifiers; may be repeated.")
@click.option("--na", multiple=True, metavar="TEXT,...",
              help="What stands for a gap, in the place of NA, NaN, null, None, ? and the like; a cell with nothing in it always does. May be repeated.")
@click.option("--dtype", type=click.Choice(INGEST_DTYPES), help="Type of the stored features [default: one that holds the source's values exactly].")
@click.option("--delimiter", default=",", show_default=True, help="What separates the columns of a CSV file; a tab may be written \\t or tab.")
@click.option("--encoding", default="utf-8", show_default=True, help="How a CSV file encodes its text, such as latin-1.")
@click.option("--no-header", is_flag=True, help="The CSV file has no names: columns are f0, f1, ...")
@_chunk_rows
@_compressor
@_overwrite
@_quiet
def ingest_command(sources: tuple[str, ...], store: str, target: str, weights: str | None, features: str | None, drop: tuple[str, ...],
                   keep: tuple[str, ...], na: tuple[str, ...], dtype: str | None, delimiter: str, encoding: str, no_header: bool,
                   chunk_rows: int | None, compressor: Any, overwrite: bool, quiet: bool) -> None:
    """Make a STORE from tables (CSV, Parquet, .npy, .npz), streamed; an interrupted ingest goes on where it stopped."""
    columns = Columns(target, weights, None if features is None else tuple(features.split(",")), drop, delimiter, not no_header, keep,
                      tuple(word for words in na for word in words.split(",")) if na else None, encoding)
    spec = IngestSpec(columns, dtype, chunk_rows, compressor)
    with RowCounter("ingest", None, quiet=quiet) as counter:
        result = ingest(sources, store, spec, overwrite=overwrite, rows_done=counter)
    if not quiet:
        for note in result.notes:
            click.echo(plain(note), err=True)
        again = f" ({result.resumed_rows:,} of them from an earlier attempt)" if result.resumed_rows else ""
        click.echo(f"{result.rows:,} rows of {result.features:,} features in {plain(store)}{again}", err=True)


@click.command("info")
@click.argument("store")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE",
              help="How the store names its arrays, such as data.target=label, and what the target is for, such as model.family=poisson.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
def info_command(store: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show what STORE holds: shape, chunks, codecs, classes or range of the target, problems."""
    config = load_config({"data": {"store": store}}, overrides)
    found = describe_store(ZarrSource(config.data), config.model.family)
    if as_json:
        click.echo(json_text(found))
        return
    click.echo(plain(_info_text(found)), err=True)


def _info_text(found: dict[str, Any]) -> str:
    lines = [f"{found['store']}: {found['rows']:,} rows, {found['features']:,} features, {found['dtype']}, {found['data_bytes'] / 1e6:,.1f} MB decoded"]
    if found["stored_bytes"] is not None:
        lines[0] += f", {found['stored_bytes'] / 1e6:,.1f} MB stored"
    for array in found["arrays"]:
        shards = f" in shards of {tuple(array['shards'])}" if array["shards"] else ""
        lines.append(f"  {array['name']}: {tuple(array['shape'])} {array['dtype']}, {array['n_chunks']:,} chunks of {tuple(array['chunks'])}{shards}, "
                     f"{' + '.join(array['codecs'])}, Zarr {array['zarr_format']}, read {array['read']}"
                     + f", missing where {' or '.join(repr(mark) for mark in array['missing'])}" * bool(array["missing"]))
    if found["feature_names"]:
        names, origin = named(found["feature_names"]), found["feature_names_from"]
        lines.append(f"  features named by {origin}: {names}")
    if found["target"] is not None and len(found["classes"]) != 2:
        lines.append(f"  target: {_target_text(found['target'], bool(found['classes']))}")
    for entry in found["classes"]:
        lines.append(f"  class {entry['label']!r}: {entry['rows']:,} rows")
    lines += [f"  problem: {problem}" for problem in found["problems"]] or ["  no problems found"]
    lines += [f"  not to be noticed in one run: {kind}" for kind in found["undetectable"]]
    lines.append("  (the fingerprint of the data shows these when the store is trained on again: train --overwrite or --resume compares it)")
    return "\n".join(lines)


def _target_text(target: dict[str, Any], classes: bool) -> str:
    kind = "whole numbers" if target["whole_numbers"] else "numbers"
    counts = target["whole_numbers"] and target["least"] >= 0
    means = [*["classes"] * classes, *["counts (model.family: poisson)"] * counts, "a quantity (model.family: linear)"]
    distinct = "" if target["distinct"] is None else f", {target['distinct']:,} distinct"
    return f"{kind} from {target['least']:.6g} to {target['largest']:.6g}, mean {target['mean']:.6g}{distinct}: {' or '.join(means)}"
