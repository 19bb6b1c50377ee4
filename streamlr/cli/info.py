"""``streamlr info``."""

from __future__ import annotations

import click

from streamlr.cli import options
from streamlr.errors import for_command_line
from streamlr.reporting.console import json_text, plain
from streamlr.reporting.store import store_text


@click.command("info")
@click.argument("store")
@options.overrides(
    "How the store names its arrays, such as data.target=label, and what the target is for, such "
    "as model.family=poisson."
)
@options.as_json
def info_command(store: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show what STORE holds: shape, chunks, codecs, classes or range of the target, problems."""
    from streamlr.config.sections import load_config
    from streamlr.data.describe import describe_store
    from streamlr.data.sources.store import ZarrSource

    config = load_config({"data": {"store": store}}, overrides)
    found = describe_store(ZarrSource(config.data), config.model.family)
    found["problems"] = [for_command_line(problem) for problem in found["problems"]]
    if as_json:
        click.echo(json_text(found))
        return
    click.echo(plain(store_text(found)), err=True)
