"""What a run tells and keeps while it goes on: a line of history after every pass, and checkpoints
to go on from."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from typing import Any

from streamlr.config.sections import TrainConfig
from streamlr.config.tree import flat_settings
from streamlr.data.source import Source
from streamlr.errors import Message, WriteError, option
from streamlr.events import Note, PassFinished, PathPassFinished
from streamlr.objective.objective import Moments
from streamlr.runs.checkpoint import Checkpoint, CheckpointWriter, has_checkpoint, load_checkpoint
from streamlr.runs.directory import RunDirectory, remedy
from streamlr.runs.session import Session

log = logging.getLogger(__name__)

_BITS_DO_NOT_DEPEND_ON = (
    "cluster.",
    "run.directory",
    "run.checkpoint_every",
    "solver.max_passes",
    "data.storage_options",
    "data.fill_value",
    "data.retry_seconds",
    "path.choose",
)


class RunRecord:
    """History and checkpoints of one run; without a directory nothing is kept.

    Parameters
    ----------
    look
        The run's data, and who is told.
    directory
        Of the run; None where nothing is to be kept.

    Attributes
    ----------
    history
        A record for each pass, as in ``history.jsonl``.
    """

    def __init__(self, session: Session, directory: RunDirectory | None) -> None:
        self.session = session
        self.directory = directory
        self.history: list[dict[str, Any]] = []
        self._writer = None if directory is None else CheckpointWriter(directory.checkpoints)
        self._committed = 0
        self._pending: Callable[[], Checkpoint] | None = None
        self._started = self._pass_started = time.monotonic()
        self._seconds_before = 0.0
        self._bytes_told = 0

    @property
    def seconds(self) -> float:
        """Time of the run so far, with that of the attempts before it."""
        return self._seconds_before + time.monotonic() - self._started

    def load(self) -> Checkpoint | None:
        """The last checkpoint, if there is one.

        Raises
        ------
        RunDirectoryError
            When it belongs to other data, another configuration or another format.
        """
        return (
            None
            if self.directory is None
            else load_checkpoint(
                self.directory.checkpoints,
                run_fingerprint(self.session.settings, self.session.source),
            )
        )

    def continue_from(self, saved: Checkpoint) -> None:
        """Take the history from a checkpoint, in the place of what the directory holds."""
        assert self.directory is not None
        self.history = list(saved.values["history"])
        self._committed = saved.passes
        self._seconds_before = float(saved.values["seconds"])
        self.directory.write_config(self.session.settings)
        self.directory.write_history(self.history)
        self.begin_pass()

    def begin_pass(self) -> None:
        """What is read before this, to list labels or to compare data, belongs to no pass."""
        self._pass_started, self._bytes_told = time.monotonic(), self.session.scanner.bytes_read

    def cost_of_pass(self) -> tuple[float, int]:
        """Seconds and bytes since the last pass."""
        seconds, read = (
            time.monotonic() - self._pass_started,
            self.session.scanner.bytes_read - self._bytes_told,
        )
        self.begin_pass()
        return seconds, read

    def pass_done(
        self,
        event: PassFinished | PathPassFinished,
        ended: bool,
        made: Callable[[], Checkpoint] | None,
    ) -> None:
        """Tell of a pass, and keep it.

        Parameters
        ----------
        event
            The line of the history.
        ended
            Whether there is nothing left to solve.
        made
            Makes the checkpoint of what the run has come to (see `checkpoint`); None where it
            cannot be continued from here.
        """
        self.history.append(event.as_line())
        if self.directory is not None:
            if event.number == 1:
                self.directory.begin()
                self.directory.write_config(self.session.settings)
                self.directory.write_history(self.history)
            else:
                self.directory.append_history(self.history[-1])
            self._pending = made or self._pending
            if made is not None and (
                ended
                or event.number - self._committed >= self.session.settings.run.checkpoint_every
            ):
                self._commit()
        self.session.publish(event)

    def checkpoint(
        self, passes: int, arrays: Mapping[str, Any], values: Mapping[str, Any]
    ) -> Checkpoint:
        """One with these arrays and values, and with what every run needs beside them."""
        known = {"class_factors": self.session.class_factors, "strata": self.session.strata}
        arrays = {**arrays, **{name: array for name, array in known.items() if array is not None}}
        values = {
            **values,
            "history": self.history[:passes],
            "modified": self.session.source.modified,
            "seconds": self.seconds,
        }
        return Checkpoint(
            passes, run_fingerprint(self.session.settings, self.session.source), arrays, values
        )

    def commit_finished(self) -> None:
        """The run ends before its time: commit the last finished pass, where
        ``run.checkpoint_every`` has not done so."""
        try:
            self._commit()
        except WriteError as error:
            log.warning("%s; %s", error, Message(self.what_is_safe(error)))

    def what_is_safe(self, error: WriteError) -> str:
        """What the directory holds after a write that failed, and what to do, for the end of a
        message, in both wordings."""
        assert self.directory is not None
        if not self._committed:
            return (
                f"no checkpoint had been committed in {str(self.directory.path)!r} yet: "
                f"{remedy(error)}, then start again with {option('overwrite')}"
            )
        where = f"the checkpoint of pass {self._committed} in {str(self.directory.checkpoints)!r}"
        if not has_checkpoint(self.directory.checkpoints, self._committed):
            return (
                f"{where} is gone: somebody removed or replaced the directory of this run; bring "
                f"it back and add {option('resume')}, or start again with {option('overwrite')}"
            )
        return f"{where} is intact: {remedy(error)}, then add {option('resume')} to go on"

    def announce_changed_data(self, moments: Moments) -> None:
        """Hold the data against those of the run that is being replaced: a flipped bit without a
        checksum shows only so."""
        before = None if self.directory is None else self.directory.previous_summary
        source, store = self.session.source, self.session.settings.data.shown_store
        dtype = str(source.dtype)
        if before is None or (
            before.get("data_fingerprint", moments.fingerprint),
            before.get("dtype", dtype),
        ) == (moments.fingerprint, dtype):
            return
        if before.get("store") == store and before.get("rows") == source.n_rows:
            self.session.publish(
                Note(
                    f"the data in {store} are not those that the run being replaced was trained "
                    "on (fingerprint "
                    f"{moments.fingerprint[:12]}, {dtype}; was {before['data_fingerprint'][:12]}, "
                    f"{before.get('dtype', dtype)}); "
                    "if nobody changed the store, it is damaged",
                    warning=True,
                )
            )

    def _commit(self) -> None:
        if self._pending is None or self._writer is None:
            return
        checkpoint = self._pending()
        if checkpoint.passes > self._committed:
            self._writer.save(checkpoint)
            self._committed = checkpoint.passes
        self._pending = None


def run_fingerprint(settings: TrainConfig, source: Source) -> dict[str, str]:
    """What must be the same for a checkpoint to be continued: all keys that the bits depend on, and
    the shape of the data."""
    flat = {
        key: repr(value)
        for key, value in flat_settings(settings.to_public_dict())
        if not key.startswith(_BITS_DO_NOT_DEPEND_ON)
    }
    data = {
        "data shape": f"({source.n_rows}, {source.n_features})",
        "data dtype": str(source.dtype),
        "data chunk rows": str(source.chunk_rows),
        "data bytes": str(source.stored_bytes),
    }
    return {**flat, **data}
