"""``streamlr plan``."""

from __future__ import annotations

import click

from streamlr.cli import options
from streamlr.reporting.console import json_text


@click.command("plan")
@options.config_file
@options.overrides()
@options.as_json
def plan_command(config_path: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Show what a run would do and need; trains nothing."""
    from streamlr.config.sections import load_config
    from streamlr.data.holdout import open_store
    from streamlr.execution import engine_facts
    from streamlr.planning.plan import make_plan
    from streamlr.planning.workforce import workers_of

    config = load_config(config_path, overrides, with_path=None)
    source = open_store(config)
    threads, worker_limit = engine_facts(config.cluster)
    workers = workers_of(config.cluster, threads, worker_found=worker_limit)
    plan = make_plan(config, source, workers).to_dict()
    if as_json:
        click.echo(json_text(plan))
        return
    for key, value in plan.items():
        size = key.endswith("_bytes") and value is not None
        shown = f"{value / 1e6:,.1f} MB" if size else value
        click.echo(f"{key.replace('_bytes', ''):14} {shown}", err=True)
