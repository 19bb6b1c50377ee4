"""``streamlr train``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

import streamlr
from streamlr.cli import options
from streamlr.events import PassFinished
from streamlr.reporting.console import Console, json_text, plain

if TYPE_CHECKING:
    from streamlr.training.train import TrainResult


@click.command("train")
@options.config_file
@options.overrides()
@options.run_directory
@options.resume
@options.overwrite_run
@options.quiet
@options.as_json
def train_command(
    config_path: str,
    overrides: tuple[str, ...],
    run_dir: str | None,
    resume: bool,
    overwrite: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Fit a model to the optimum of all the data."""
    options.refuse_both(resume, overwrite)
    config = streamlr.load_config(config_path, overrides, with_path=False)
    directory = run_dir or config.run.directory or str(Path("runs", Path(config_path).stem))
    config = replace(config, run=replace(config.run, directory=directory))
    finished: list[int] = []
    try:
        result = streamlr.train(
            config,
            resume=resume,
            overwrite=overwrite,
            subscribers=[
                Console(quiet=quiet),
                lambda event: (
                    finished.append(event.number) if isinstance(event, PassFinished) else None
                ),
            ],
        )
    except KeyboardInterrupt:
        reported = _stopped(directory, bool(finished), resume, overwrite)
        click.echo(plain(reported), err=True)
        sys.exit(options.INTERRUPTED)
    if as_json:
        click.echo(json_text(result.summary))
    if not quiet:
        click.echo(_ending(result, directory), err=True)


def _stopped(directory: str, finished: bool, resume: bool, overwrite: bool) -> str:
    """What there is after an interruption, and how to go on."""
    if finished:
        return f"stopped; finished passes are safe in {directory}: add --resume to go on"
    if resume:
        return (
            f"stopped before another pass was finished; what {directory} holds is as it was: "
            "add --resume to go on"
        )
    kept = (
        f" with --overwrite; the run that {directory} may hold is as it was"
        if overwrite
        else f"; nothing was kept in {directory}"
    )
    return f"stopped before the first pass was finished: start again{kept}"


def _ending(result: TrainResult, directory: str) -> str:
    summary, validation = result.summary, ""
    if summary.get("validation_loss") is not None:
        validation = (
            f"validation loss {summary['validation_loss']:.9g} of "
            f"{summary['validation_rows']:,} rows, lowest at pass "
            f"{summary['validation_best_pass']}\n"
        )
    return plain(
        f"{result.status} after {result.passes} passes in {summary['seconds']:.1f} s: "
        f"{result.reason}\n{validation}objective {summary['objective']:.12g}, peak memory "
        f"{summary['peak_memory_bytes'] / 1e6:.0f} MB, model in {directory}"
    )
