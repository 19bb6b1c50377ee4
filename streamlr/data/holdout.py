"""The rows that a configuration holds out of a fit."""

from __future__ import annotations

from streamlr.config.sections import TrainConfig
from streamlr.data.sources.store import ZarrSource
from streamlr.kernels.split import Split


def split_of(config: TrainConfig) -> Split | None:
    """What tells the rows that are held out; None where none are to be."""
    validation = config.validation
    if validation.array is not None:
        return Split((), config.run.seed, listed=validation.array)
    return Split((validation.fraction,), config.run.seed) if validation.fraction else None


def open_store(config: TrainConfig) -> ZarrSource:
    """The store of a configuration, read with the array that lists the rows that are held out, if
    it names one."""
    return ZarrSource(config.data, listed=config.validation.array)
