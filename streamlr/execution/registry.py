"""The engines by name: one entry for each, which answers what others need to know of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from streamlr.config.reading import take_names
from streamlr.config.sections import ClusterConfig
from streamlr.errors import ConfigError
from streamlr.execution.cluster.opening import count_processes, open_address, open_processes
from streamlr.execution.engine import Engine
from streamlr.execution.local import SerialEngine, available_cores, open_threads


@dataclass(frozen=True, slots=True)
class EngineKind:
    """A place where sums are taken, before it is opened."""

    name: str
    open: Callable[[ClusterConfig], Engine]
    """Starts it."""
    count_threads: Callable[[ClusterConfig], int] | None = None
    """How many slabs it will sum at a time; None where a scheduler has to be asked."""
    in_process: bool = False
    """Whether sums are taken in this process."""
    answers_directly: bool = False
    """Whether its workers are ours: they hand over their sums without spilling any."""


_KINDS = (
    EngineKind("serial", lambda config: SerialEngine(), lambda config: 1, in_process=True),
    EngineKind(
        "threads",
        open_threads,
        lambda config: config.workers or available_cores(),
        in_process=True,
    ),
    EngineKind(
        "processes",
        open_processes,
        lambda config: count_processes(config) * config.threads_per_worker,
        answers_directly=True,
    ),
    EngineKind("address", open_address),
)
ENGINES: dict[str, EngineKind] = {kind.name: kind for kind in _KINDS}
take_names("cluster.kind", ENGINES)


def register(kind: EngineKind) -> None:
    """Take in an engine from outside the package, which a configuration may ask for from then on.

    Registered once more, as a notebook may do, the later one counts.

    Raises
    ------
    ConfigError
        When its name is that of one of the package's own.
    """
    if any(kind.name == own.name for own in _KINDS):
        raise ConfigError(f"the engine {kind.name} is one of streamlr's own; name yours otherwise")
    ENGINES[kind.name] = kind
