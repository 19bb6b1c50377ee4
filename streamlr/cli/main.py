"""``streamlr``: the group of commands, and how their errors become a line and an exit status.

The modules of the commands import what the help needs; what does the work is imported when a
command is called.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
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
from streamlr.data.chunks.reads import may_wait_for_ever
from streamlr.errors import Message, StreamlrError, for_command_line
from streamlr.reporting.console import plain

_END_SECONDS = 2.0
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
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter("%(name)s: %(message)s"))
    if not verbose:
        handler.addFilter(_is_for_all)
    logging.basicConfig(level=logging.WARNING, handlers=[handler])
    logging.getLogger("streamlr").setLevel(logging.INFO if verbose else logging.WARNING)


for _command in COMMANDS:
    cli.add_command(_command)


class _Formatter(logging.Formatter):
    """Shows records in the wording of the command line."""

    def format(self, record: logging.LogRecord) -> str:
        """The line of a record, whose arguments are errors and messages that know two wordings."""
        if isinstance(record.args, tuple) and any(map(_has_wordings, record.args)):
            reported = [
                for_command_line(part) if _has_wordings(part) else part for part in record.args
            ]
            record = logging.makeLogRecord({**vars(record), "args": tuple(reported)})
        return super().format(record)


def _has_wordings(part: object) -> bool:
    return isinstance(part, StreamlrError | Message)


def _is_for_all(record: logging.LogRecord) -> bool:
    """Whether a record is of no log that is for ``--verbose`` alone: what a person should know of
    Dask's troubles, or of requests that were left behind, streamlr says itself. Asked of each
    record, since Dask sets the level of its log when it is imported, which is later."""
    library = record.name.partition(".")[0]
    return record.levelno >= logging.CRITICAL or library not in ("asyncio", "distributed")


def _interrupt(signum: int, frame: FrameType | None) -> None:
    del signum, frame
    raise KeyboardInterrupt


@contextmanager
def _memory_told() -> Iterator[None]:
    """As `streamlr.execution.limits.memory_reported`, which is imported when there is something to
    tell."""
    try:
        yield
    except (MemoryError, OSError, RuntimeError):
        from streamlr.execution.limits import memory_reported

        with memory_reported():
            raise


def program() -> None:
    """Entry point of a process: `main`, and an end even where a thread waits for a server that
    never answers, for which Python would wait."""
    try:
        main()
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


def main() -> None:
    """Run the command line: errors that streamlr raises on purpose end in one line and their exit
    status."""
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with _memory_told():
            sys.exit(cli.main(standalone_mode=False) or 0)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except StreamlrError as error:
        click.echo(f"Error: {plain(for_command_line(error))}", err=True)
        sys.exit(error.exit_status)
    except (KeyboardInterrupt, click.Abort):
        click.echo(
            "stopped; nothing that was there before has changed, and an unfinished store "
            "(STORE.partial) is used or replaced the next time",
            err=True,
        )
        sys.exit(options.INTERRUPTED)


if __name__ == "__main__":
    program()
