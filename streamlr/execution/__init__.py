"""Where the sums are taken: in a plain loop, in threads, in worker processes, or on a cluster."""

from __future__ import annotations

from streamlr.config.sections import ClusterConfig
from streamlr.execution.engine import Engine
from streamlr.execution.limits import FoundLimit
from streamlr.execution.registry import ENGINES

__all__ = ["ENGINES", "Engine", "open_engine", "told_of_engine"]


def open_engine(config: ClusterConfig) -> Engine:
    """Start the engine that the configuration asks for; use it as a context manager."""
    return ENGINES[config.kind].open(config)


def engine_facts(config: ClusterConfig) -> tuple[int, FoundLimit | None]:
    """Number of threads of the engine that the configuration asks for, and what the smallest of its
    workers may use, where these are others' (see `Engine.limit_of_workers`).

    None is started; a scheduler that is there is asked.
    """
    kind = ENGINES[config.kind]
    if kind.count_threads is not None:
        return kind.count_threads(config), None
    with open_engine(config) as engine:
        return engine.n_threads, engine.limit_of_workers()
