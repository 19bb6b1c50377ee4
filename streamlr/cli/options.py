"""Options that several commands share, each spelled and explained once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

INTERRUPTED = 130
"""Exit status after Ctrl-C or SIGTERM, as shells tell it of a program that Ctrl-C has ended."""

config_file = click.option(
    "--config",
    "config_path",
    required=True,
    metavar="FILE",
    help="The configuration (YAML).",
)
run_directory = click.option(
    "--run-dir",
    metavar="DIR",
    help="Directory of the run [default: run.directory, or runs/ with the configuration's name].",
)
resume = click.option("--resume", is_flag=True, help="Go on with the run that the directory holds.")
overwrite_run = click.option(
    "--overwrite", is_flag=True, help="Replace the run that the directory holds."
)
overwrite_store = click.option(
    "--overwrite", is_flag=True, help="Replace a store that stands there."
)
chunk_rows = click.option(
    "--chunk-rows", type=int, help="Rows of a chunk [default: chunks of at most 8 MiB]."
)
compressor = click.option(
    "--compressor",
    type=click.Choice(["lz4", "zstd", "none"]),
    default="lz4",
    show_default=True,
    help="Compression of the chunks.",
)
quiet = click.option("--quiet", is_flag=True, help="Show warnings and errors alone.")
as_json = click.option(
    "--json", "as_json", is_flag=True, help="Print one JSON document on standard output."
)


def overrides(
    text: str = "Override a key of the configuration, such as solver.name=lbfgs.",
) -> Callable[[Any], Any]:
    """``--set KEY=VALUE``, which may be repeated, with the help that suits the command."""
    return click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help=text)


def refuse_both(resume: bool, overwrite: bool) -> None:
    """Raise where a run is to be both gone on with and replaced."""
    if resume and overwrite:
        raise click.UsageError(
            "--resume and --overwrite exclude each other: one goes on with a run, the other drops "
            "it"
        )


class ChoiceOf(click.Choice[str]):
    """A choice among what a registry of the library holds, which is imported when it is needed.

    Parameters
    ----------
    find
        Imports the registry and returns its names.
    """

    def __init__(self, find: Callable[[], Sequence[str]]) -> None:
        self._find = find
        self.case_sensitive = True

    @property
    def choices(self) -> Sequence[str]:  # type: ignore[override]
        return tuple(self._find())
