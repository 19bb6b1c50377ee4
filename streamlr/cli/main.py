"""``streamlr``: the group of commands, and how their errors become a line and an exit status."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from types import FrameType

import click

import streamlr
from streamlr.cli.inference import summary_command
from streamlr.cli.paths import path_command
from streamlr.cli.stores import info_command, ingest_command, synth_command
from streamlr.config import load_config
from streamlr.data.reads import may_wait_for_ever
from streamlr.data.validation import open_store
from streamlr.errors import StreamlrError
from streamlr.events import PassFinished
from streamlr.execution import told_of_engine
from streamlr.execution.limits import memory_told
from streamlr.plan import make_plan
from streamlr.reporting.console import Console, json_text, plain
from streamlr.reporting.metrics import metric_lines
from streamlr.reporting.plots import check_plot, plot_metrics
from streamlr.scoring import evaluate, predict, require_plotted
from streamlr.training import TrainResult, train
from streamlr.workforce import workers_of

_END_SECONDS = 2.0
_set = click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a key of the configuration, such as solver.name=lbfgs.")
_config = click.option("--config", "config_path", required=True, metavar="FILE", help="The configuration (YAML).")
_json = click.option("--json", "as_json", is_flag=True, help="Print one JSON document on standard output.")
_quiet = click.option("--quiet", is_flag=True, help="Show warnings and errors alone.")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(streamlr.__version__, prog_name="streamlr")
@click.option("-v", "--verbose", is_flag=True, help="Log what solvers and engines decide.")
def cli(verbose: bool) -> None:
    """Exact linear models on data that does not fit in memory."""
    logging.basicConfig(level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr)
    logging.getLogger("streamlr").setLevel(logging.INFO if verbose else logging.WARNING)
    if not verbose:
        logging.getLogger("distributed").setLevel(logging.CRITICAL)  # what of its troubles a person should know, streamlr says itself


cli.add_command(synth_command)
cli.add_command(ingest_command)
cli.add_command(info_command)
cli.add_command(path_command)
cli.add_command(summary_command)


@cli.command("plan")
@_config
@_set
@_json
def plan_command(config_path: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show what a run would do and need; trains nothing."""
    config = load_config(config_path, overrides, with_path=None)
    source = open_store(config)
    threads, worker_limit = told_of_engine(config.cluster)
    plan = make_plan(config, source, workers_of(config.cluster, threads, worker_found=worker_limit))
    if as_json:
        click.echo(json_text(plan.to_dict()))
        return
    for key, value in plan.to_dict().items():
        shown = f"{value / 1e6:,.1f} MB" if key.endswith("_bytes") and value is not None else value
        click.echo(f"{key.replace('_bytes', ''):14} {shown}", err=True)


@cli.command("train")
@_config
@_set
@click.option("--run-dir", metavar="DIR", help="Directory of the run [default: run.directory, or runs/ with the configuration's name].")
@click.option("--resume", is_flag=True, help="Go on with the run that the directory holds.")
@click.option("--overwrite", is_flag=True, help="Replace the run that the directory holds.")
@_quiet
@_json
def train_command(config_path: str, overrides: tuple[str, ...], run_dir: str | None, resume: bool, overwrite: bool, quiet: bool,
                  as_json: bool) -> None:
    """Fit a model to the optimum of all the data."""
    if resume and overwrite:
        raise click.UsageError("--resume and --overwrite exclude each other: one goes on with a run, the other drops it")
    config = load_config(config_path, overrides, with_path=False)
    directory = run_dir or config.run.directory or str(Path("runs", Path(config_path).stem))
    config = replace(config, run=replace(config.run, directory=directory))
    finished: list[int] = []
    try:
        result = train(config, resume=resume, overwrite=overwrite, subscribers=[
            Console(quiet=quiet), lambda event: finished.append(event.number) if isinstance(event, PassFinished) else None])
    except KeyboardInterrupt:
        click.echo(plain(_stopped(directory, bool(finished), resume, overwrite)), err=True)
        sys.exit(1)
    if as_json:
        click.echo(json_text(result.summary))
    if not quiet:
        click.echo(_ending(result, directory), err=True)


def _stopped(directory: str, finished: bool, resume: bool, overwrite: bool) -> str:
    """What there is after an interruption, and how to go on."""
    if finished:
        return f"stopped; finished passes are safe in {directory}: add --resume to go on"
    if resume:
        return f"stopped before another pass was finished; what {directory} holds is as it was: add --resume to go on"
    held = f" with --overwrite; the run that {directory} may hold is as it was" if overwrite else f"; nothing was kept in {directory}"
    return f"stopped before the first pass was finished: start again{held}"


def _ending(result: TrainResult, directory: str) -> str:
    summary = result.summary
    validation = f"validation loss {summary['validation_loss']:.9g} of {summary['validation_rows']:,} rows, lowest at pass " \
        f"{summary['validation_best_pass']}\n" if summary.get("validation_loss") is not None else ""
    return plain(
        f"{result.status} after {result.passes} passes in {summary['seconds']:.1f} s: {result.reason}\n{validation}"
        f"objective {summary['objective']:.12g}, peak memory {summary['peak_memory_bytes'] / 1e6:.0f} MB, model in {directory}")


@cli.command("evaluate")
@click.argument("run")
@click.argument("store")
@click.option("--plot", metavar="FILE", help="Draw calibration, ROC curve and lift (.png or .svg; needs the extra `plot`).")
@click.option("--validation", is_flag=True, help="Score the rows alone that the run held out; STORE is to be the one that it was trained on.")
@_set
@_quiet
@_json
def evaluate_command(run: str, store: str, plot: str | None, validation: bool, overrides: tuple[str, ...], quiet: bool, as_json: bool) -> None:
    """Score the model of RUN on STORE in one streamed pass."""
    if plot is not None:
        check_plot(plot)
        require_plotted(run)
    metrics = evaluate(run, store, validation=validation, overrides=overrides, subscribers=[Console(quiet=quiet)])
    if plot is not None:
        plot_metrics(metrics, plot)
    if as_json:
        click.echo(json_text(metrics))
        return
    for line in metric_lines(metrics):
        click.echo(line, err=True)


@cli.command("predict")
@click.argument("run")
@click.argument("store")
@click.argument("out")
@click.option("--overwrite", is_flag=True, help="Replace what stands at OUT.")
@_set
@_quiet
def predict_command(run: str, store: str, out: str, overwrite: bool, overrides: tuple[str, ...], quiet: bool) -> None:
    """Write what is predicted for every row of STORE into the Zarr array OUT: the probability of the second class, of each, or a mean."""
    rows = predict(run, store, out, overwrite=overwrite, overrides=overrides, subscribers=[Console(quiet=quiet)])
    if not quiet:
        click.echo(f"{rows:,} predictions in {plain(out)}", err=True)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise KeyboardInterrupt


def main() -> None:
    """Entry point: ends even where a thread waits for a server that never answers, for which Python
    would wait."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        _main()
    except SystemExit as end:
        if may_wait_for_ever():
            status = end.code if isinstance(end.code, int) else 1
            try:
                threading.Thread(target=_end_anyway, args=(status,), daemon=True).start()
            except RuntimeError:  # there is no room for one more thread
                os._exit(status)
        raise


def _end_anyway(status: int) -> None:
    time.sleep(_END_SECONDS)
    os._exit(status)


def _main() -> None:
    """Errors that streamlr raises on purpose end in one line and their exit status."""
    try:
        with memory_told():
            sys.exit(cli.main(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except StreamlrError as error:
        click.echo(f"Error: {plain(str(error))}", err=True)
        sys.exit(error.exit_status)
    except (KeyboardInterrupt, click.Abort):
        click.echo("stopped; nothing that was there before has changed, and an unfinished store (STORE.partial) is used or replaced the next time", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
