"""``streamlr path``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import click

import streamlr
from streamlr.cli import options
from streamlr.reporting.console import Console, json_text, plain
from streamlr.reporting.path import path_lines


@click.command("path")
@options.config_file
@options.overrides("Override a key of the configuration, such as path.folds=5.")
@options.run_directory
@options.resume
@options.overwrite_run
@options.quiet
@options.as_json
def path_command(
    config_path: str,
    overrides: tuple[str, ...],
    run_dir: str | None,
    resume: bool,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Fit models of many penalties and their folds in shared passes, and keep the best."""
    options.refuse_both(resume, overwrite)
    config = streamlr.load_config(config_path, overrides)
    directory = run_dir or config.run.directory or str(Path("runs", Path(config_path).stem))
    config = replace(config, run=replace(config.run, directory=directory))
    try:
        result = streamlr.path(
            config, resume=resume, overwrite=overwrite, subscribers=[Console(quiet=quiet)]
        )
    except KeyboardInterrupt:
        reported = (
            f"stopped; add --resume to go on after the last finished pass that {directory} holds"
        )
        click.echo(plain(reported), err=True)
        sys.exit(options.INTERRUPTED)
    if as_json:
        click.echo(json_text(result.summary | {"path": result.table}))
    if not quiet:
        for line in path_lines(result.table, result.scores):
            click.echo(plain(line), err=True)
        click.echo(
            plain(
                f"{result.status} after {result.passes} passes in "
                f"{result.summary['seconds']:.1f} s: {result.reason}\n"
                f"model of lambda {result.lambdas[result.chosen]:.6g} in {directory}"
            ),
            err=True,
        )
