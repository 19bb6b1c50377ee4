"""The data of a run, opened on its engine: a store, or arrays in its place."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from streamlr.config.sections import TrainConfig
from streamlr.data.frames import column_names
from streamlr.data.holdout import open_store
from streamlr.data.source import ArraySource, Rows, Source
from streamlr.data.sources.adapters import in_memory, labels_of, numbers_of, rows_of
from streamlr.errors import ConfigError
from streamlr.events import Note, Subscriber, publisher
from streamlr.execution import ENGINES, open_engine
from streamlr.execution.engine import one_blas_thread
from streamlr.planning.workforce import with_room
from streamlr.runs.directory import RunDirectory
from streamlr.runs.session import Session
from streamlr.training.given import refuse_lost


@dataclass(frozen=True, slots=True)
class Arrays:
    """Data in the place of a store, as they were given."""

    X: ArrayLike | Rows | None
    y: ArrayLike | None
    sample_weight: ArrayLike | None = None
    offset: ArrayLike | None = None
    groups: ArrayLike | None = None
    validation: ArrayLike | None = None


@contextmanager
def opened(
    settings: TrainConfig,
    given: Arrays,
    subscribers: Sequence[Subscriber],
    *,
    resume: bool,
    overwrite: bool,
) -> Iterator[tuple[Session, RunDirectory | None]]:
    """The data of a run, on its engine, and its directory, if it has one.

    Raises
    ------
    ConfigError, DataError, RunDirectoryError, ClusterError, MemoryLimitError
        When there is no such run to be made; a plan over its limit is refused.
    """
    if resume and overwrite:
        raise ConfigError(
            "resume and overwrite exclude each other: one goes on with a run, the other drops it"
        )
    publish = publisher(subscribers)
    with ExitStack() as stack:
        source = _open_source(settings, given)
        where = settings.run.directory
        directory = None
        if where is not None:
            kept = RunDirectory(where, resume=resume, overwrite=overwrite)
            directory = stack.enter_context(kept)
        if ENGINES[settings.cluster.kind].count_threads is None:
            publish(Note(f"asking the scheduler at {settings.cluster.address}"))
        engine = stack.enter_context(open_engine(with_room(settings.cluster)))
        stack.enter_context(one_blas_thread())
        yield Session(settings, source, engine, publish), directory


def _open_source(settings: TrainConfig, given: Arrays) -> Source:
    """The store, or the arrays in its place."""
    beside = {"sample_weight": given.sample_weight, "offset": given.offset}
    others = {"groups": given.groups, "validation": given.validation}
    of_store = given.X is None and given.y is None
    refuse_lost(settings.data, beside | others, of_store=of_store)
    if of_store:
        store = open_store(settings)
        store.check_chunks()
        return store
    if given.X is None or given.y is None:
        raise ConfigError("X and y go together: one was given without the other")
    array = settings.validation.array
    if given.validation is None and array is not None:
        raise ConfigError(
            f"validation.array: {array!r} is an array of a store; "
            "with X and y give its values as validation="
        )
    fill_value = settings.data.fill_value
    numbers = [
        None if values is None else numbers_of(values, name, fill_value)
        for name, values in beside.items()
    ]
    groups = given.groups if given.validation is None else given.validation
    named = "groups" if given.validation is None else "validation"
    groups = in_memory(groups, named, fill_value)
    X, y = rows_of(given.X, fill_value), labels_of(given.y, fill_value)
    return ArraySource(
        X,
        y,
        numbers[0],
        column_names(given.X),
        offset=numbers[1],
        groups=None if groups is None else np.asarray(groups),
    )
