"""``streamlr``: the group of commands, and how their errors become a line and an exit status.

The modules of the commands import what the help needs; what does the work is imported when a
command is called.
"""

from __future__ import annotations

import logging
import signal
import sys
from types import FrameType

import click

import streamlr
from streamlr.cli import options
from streamlr.cli.evaluate import evaluate_command
from streamlr.cli.info import info_command
from streamlr.cli.ingest import ingest_command
from streamlr.cli.path import path_command
from streamlr.cli.plan import plan_command
from streamlr.cli.predict import predict_command
from streamlr.cli.summary import summary_command
from streamlr.cli.synth import synth_command
from streamlr.cli.train import train_command
from streamlr.errors import StreamlrError
from streamlr.reporting.console import plain

COMMANDS = (
    synth_command,
    ingest_command,
    info_command,
    plan_command,
    train_command,
    path_command,
    evaluate_command,
    predict_command,
    summary_command,
)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(streamlr.__version__, prog_name="streamlr")
@click.option("-v", "--verbose", is_flag=True, help="Log what solvers and engines decide.")
def cli(verbose: bool) -> None:
    """Exact linear models on data that does not fit in memory."""
    logging.basicConfig(
        level=logging.WARNING, format="%(name)s: %(message)s", stream=sys.stderr
    )
    logging.getLogger("streamlr").setLevel(logging.INFO if verbose else logging.WARNING)
    if not verbose:
        # what of its troubles a person should know, streamlr says itself
        logging.getLogger("distributed").setLevel(logging.CRITICAL)


for _command in COMMANDS:
    cli.add_command(_command)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise KeyboardInterrupt


def main() -> None:
    """Entry point: errors that streamlr raises on purpose end in one line and their exit status."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        sys.exit(cli.main(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except StreamlrError as error:
        click.echo(f"Error: {plain(str(error))}", err=True)
        sys.exit(error.exit_status)
    except (KeyboardInterrupt, click.Abort):
        click.echo(
            "stopped; nothing that was there before has changed, and an unfinished store "
            "(STORE.partial) is used or replaced the next time",
            err=True,
        )
        sys.exit(options.INTERRUPTED)


if __name__ == "__main__":
    main()
