"""``streamlr path``: models of many penalties, and of the folds that judge them, in the passes of one."""

from __future__ import annotations

import math
import sys
from dataclasses import replace
from pathlib import Path

import click

from streamlr.config import load_config
from streamlr.path_run import PathResult, path
from streamlr.reporting.console import Console, json_text, plain

_MOST_LINES = 20


@click.command("path")
@click.option("--config", "config_path", required=True, metavar="FILE", help="The configuration (YAML); its section `path` says which models.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the configuration, such as path.folds=5.")
@click.option("--run-dir", metavar="DIR", help="Directory of the run [default: run.directory, or runs/ with the configuration's name].")
@click.option("--resume", is_flag=True, help="Go on with the run that the directory holds.")
@click.option("--overwrite", is_flag=True, help="Replace the run that the directory holds.")
@click.option("--quiet", is_flag=True, help="Show warnings and errors alone.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
def path_command(config_path: str, overrides: tuple[str, ...], run_dir: str | None, resume: bool, overwrite: bool, quiet: bool, as_json: bool) -> None:
    """Fit models of many penalties and their folds in shared passes, and keep the best."""
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite exclude each other: one goes on with a run, the other drops it")
    config = load_config(config_path, overrides)
    directory = run_dir or config.run.directory or str(Path("runs", Path(config_path).stem))
    config = replace(config, run=replace(config.run, directory=directory))
    try:
        result = path(config, resume=resume, overwrite=overwrite, subscribers=[Console(quiet=quiet)])
    except KeyboardInterrupt:
        click.echo(plain(f"stopped; add --resume to go on after the last finished pass that {directory} holds"), err=True)
        sys.exit(1)
    if as_json:
        click.echo(json_text(result.summary | {"path": result.table}))
    if not quiet:
        for line in path_lines(result):
            click.echo(plain(line), err=True)
        click.echo(plain(f"model of lambda {result.lambdas[result.chosen]:.6g} in {directory}"), err=True)


def path_lines(result: PathResult) -> list[str]:
    """The table for a person: of a long path every few of the strengths, with those that the folds choose."""
    found, rows = result.scores, result.table
    marks = {found["lambda_min"]: "min", found["lambda_1se"]: "1se"} if found["folds"] else {}
    if marks and found["lambda_min"] == found["lambda_1se"]:
        marks = {found["lambda_min"]: "min, 1se"}
    step = max(1, -(-len(rows) // _MOST_LINES))
    auc = any("held_auc" in row for row in rows)
    lines = [f"{'lambda':>12}{'nonzero':>9}{'loss':>14}" + (f"{'held-out loss':>16}{'(se)':>10}" if marks else "") + (f"{'AUC':>10}" if auc else "")]
    for i, row in enumerate(rows):
        if i % step == 0 or i == len(rows) - 1 or row["lambda"] in marks:
            line = f"{row['lambda']:12.6g}{row['nonzero']:9}{row['loss']:14.9f}"
            if marks:
                line += f"{_number(row['held_loss']):16.9f}{_number(row['held_loss_se']):10.2g}"
            if auc:
                line += f"{_number(row['held_auc']):10.6f}"
            lines.append(f"{line}  {marks.get(row['lambda'], '')}".rstrip())
    lines.append(f"{result.status} after {result.passes} passes in {result.summary['seconds']:.1f} s: {result.reason}")
    return lines


def _number(value: float | None) -> float:
    """As a table shows what JSON has no number for."""
    return math.nan if value is None else value
