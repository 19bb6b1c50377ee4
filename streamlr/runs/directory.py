"""The directory of a run: configuration, history, summary, model and checkpoints, owned by one
process at a time."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from numpy.typing import NDArray

from streamlr.config.places import local_output, local_run
from streamlr.config.sections import TrainConfig
from streamlr.data.locks import FileLock
from streamlr.data.records import commit_file, write_record, writing
from streamlr.errors import RunDirectoryError, WriteError, either, option
from streamlr.model import MODEL_NAME, Model

CONFIG_NAME = "config.yaml"
_RUN_DIR = either("--run-dir", "run.directory")
HISTORY_NAME = "history.jsonl"
SUMMARY_NAME = "summary.json"
CHECKPOINT_NAME = "checkpoint"
PATH_NAME = "path.json"
PATH_ARRAYS_NAME = "path.zarr"
_LOCK_NAME = ".lock"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_OURS = (
    CONFIG_NAME,
    HISTORY_NAME,
    SUMMARY_NAME,
    MODEL_NAME,
    CHECKPOINT_NAME,
    PATH_NAME,
    PATH_ARRAYS_NAME,
)


class RunDirectory:
    """An open run directory; closing it lets the next process in.

    Parameters
    ----------
    path
        Where it is, or is to be.
    resume
        Whether to go on with what it holds.
    overwrite
        Whether to drop what it holds.

    Raises
    ------
    RunDirectoryError
        When it holds a run and neither was asked for, when another process is at work in it, or
        when it cannot be made.
    WriteError
        When there is no room for it; so in every method that writes.
    """

    def __init__(self, path: str | Path, *, resume: bool = False, overwrite: bool = False) -> None:
        self.path = local_output(path, "run.directory")
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.path / _LOCK_NAME, self._in_use)
        except OSError as error:
            kind = WriteError if error.errno in _NO_ROOM else RunDirectoryError
            raise kind(
                f"cannot make the run directory {str(path)!r}: {error}; choose another with "
                f"{either('--run-dir or run.directory', 'run.directory')}"
            ) from error
        held = [name for name in _OURS if (self.path / name).exists()]
        if held and not (resume or overwrite):
            self.close()
            raise RunDirectoryError(
                f"{str(path)!r} already holds a run ({', '.join(held)}); add {option('resume')} to "
                f"go on with it, {option('overwrite')} to replace it, or choose another {_RUN_DIR}"
            )
        _tidy(self.path)
        self.previous_summary = read_summary(self.path)
        self._stale = held if overwrite and not resume else []

    @property
    def checkpoints(self) -> Path:
        return self.path / CHECKPOINT_NAME

    def begin(self) -> None:
        """The first pass has succeeded: drop what an overwritten run left, but for its model, which
        stands until there is a new one."""
        with writing(self.path):
            for name in self._stale:
                if (
                    name in (CHECKPOINT_NAME, PATH_ARRAYS_NAME)
                    and not (self.path / name).is_symlink()
                ):
                    shutil.rmtree(self.path / name)
                elif name not in (MODEL_NAME, SUMMARY_NAME):
                    (self.path / name).unlink()
        self._stale = []

    def write_config(self, config: TrainConfig) -> None:
        self._write(CONFIG_NAME, yaml.safe_dump(config.to_public_dict(), sort_keys=False))

    def write_history(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Put these lines in the place of whatever history there is."""
        self._write(HISTORY_NAME, "".join(json.dumps(line) + "\n" for line in lines))

    def append_history(self, line: Mapping[str, Any]) -> None:
        with (
            writing(self.path / HISTORY_NAME),
            open(self.path / HISTORY_NAME, "a", encoding="utf-8", opener=_at_once) as file,
        ):
            file.write(json.dumps(line) + "\n")

    def write_results(self, model: Model, summary: Mapping[str, Any]) -> None:
        model.save(self.path / MODEL_NAME)
        self._write(SUMMARY_NAME, json.dumps(dict(summary), indent=2) + "\n")

    def write_path(self, table: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """What a path has found: a table as JSON, and its coefficients as a Zarr group."""
        write_record(
            self.path / PATH_ARRAYS_NAME, arrays, {"format": "streamlr path", "format_version": 1}
        )
        self._write(PATH_NAME, json.dumps(dict(table), indent=2) + "\n")

    def close(self) -> None:
        self._lock.release()

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _in_use(self, holder: str) -> RunDirectoryError:
        return RunDirectoryError(
            f"{str(self.path)!r} is in use by another run ({holder}); wait for it, stop it, or "
            f"choose another {_RUN_DIR}"
        )

    def _write(self, name: str, text: str) -> None:
        commit_file(self.path / name, lambda file: file.write(text.encode("utf-8")))


def remedy(error: WriteError) -> str:
    """What to do about a write that failed, for the middle of a sentence."""
    return (
        "make room"
        if isinstance(error.__cause__, OSError) and error.__cause__.errno in _NO_ROOM
        else "see to that"
    )


def read_summary(path: str | Path) -> dict[str, Any] | None:
    """What the run in a directory has come to; None where none has ended there."""
    folder = local_run(path)
    try:
        summary = json.loads((folder / SUMMARY_NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    return summary if isinstance(summary, dict) else None


def _at_once(path: str, flags: int) -> int:
    """Open a file, and never wait for whoever would read what is no file."""
    return os.open(path, flags | os.O_NONBLOCK, 0o666)


def _tidy(path: Path) -> None:
    """Drop what a death between a write and its rename left; a model that had just made way for
    another comes back."""
    for old in path.glob(f".{MODEL_NAME}.old-*"):
        if not (path / MODEL_NAME).exists():
            os.replace(old, path / MODEL_NAME)
    for left in [
        *path.glob(f".{MODEL_NAME}.old-*"),
        *path.glob(".*.partial*"),
        *(path / CHECKPOINT_NAME).glob(".*.partial"),
    ]:
        with contextlib.suppress(OSError):
            if left.is_dir() and not left.is_symlink():
                shutil.rmtree(left)
            else:
                left.unlink()
