"""Where the sums are taken: in a plain loop, in threads, in worker processes, or on a Dask cluster that is there already."""

from __future__ import annotations

from collections.abc import Callable

from streamlr.config import ClusterConfig
from streamlr.execution.cluster import open_address, open_processes
from streamlr.execution.engine import Engine
from streamlr.execution.local import SerialEngine, open_threads

ENGINES: dict[str, Callable[[ClusterConfig], Engine]] = {
    "serial": lambda config: SerialEngine(),
    "threads": open_threads,
    "processes": open_processes,
    "address": open_address,
}


def open_engine(config: ClusterConfig) -> Engine:
    """Start the engine that the configuration asks for; use it as a context manager."""
    return ENGINES[config.kind](config)
