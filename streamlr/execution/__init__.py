"""Where the sums are taken: in a plain loop, in threads, in worker processes, or on a Dask cluster that is there already."""

from __future__ import annotations

from collections.abc import Callable

from streamlr.config.sections import ClusterConfig
from streamlr.execution.cluster.opening import default_processes, open_address, open_processes
from streamlr.execution.engine import Engine
from streamlr.execution.limits import FoundLimit
from streamlr.execution.local import SerialEngine, available_cores, open_threads

ENGINES: dict[str, Callable[[ClusterConfig], Engine]] = {
    "serial": lambda config: SerialEngine(),
    "threads": open_threads,
    "processes": open_processes,
    "address": open_address,
}


def open_engine(config: ClusterConfig) -> Engine:
    """Start the engine that the configuration asks for; use it as a context manager."""
    return ENGINES[config.kind](config)


def told_of_engine(config: ClusterConfig) -> tuple[int, FoundLimit | None]:
    """Threads of the engine that the configuration asks for, and what the smallest of its workers may use, where these are
    others' (see `Engine.limit_of_workers`). None is started; a scheduler that is there is asked."""
    if config.kind == "serial":
        return 1, None
    if config.kind == "threads":
        return config.workers or available_cores(), None
    if config.kind == "processes":
        return (config.workers or default_processes(config)) * config.threads_per_worker, None
    with open_engine(config) as engine:
        return engine.n_threads, engine.limit_of_workers()
