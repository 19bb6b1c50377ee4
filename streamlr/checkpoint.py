"""Checkpoints: a solver's state record and all else that a run needs to go on, committed after a pass.

One ``.npz`` file without pickles for each: arrays as they are, and one JSON text with the scalars, the format version and
the fingerprints of data and configuration. Written beside its name, flushed and renamed; the one before is kept, so that
a damaged file costs a pass and not the run.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamlr.errors import RunDirectoryError

log = logging.getLogger(__name__)

FORMAT_VERSION = 2
_KEPT = 2
_HEADER = "header"

Record = TypeVar("Record")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Everything a run needs to go on after a pass."""

    passes: int
    """Passes made."""
    fingerprint: Mapping[str, str]
    """What the run must still agree with, by name: digests or texts of configuration and data."""
    arrays: Mapping[str, NDArray[Any]]
    """Arrays by name."""
    values: Mapping[str, Any]
    """Numbers and texts by name, as JSON holds them."""


def save_checkpoint(directory: Path, checkpoint: Checkpoint) -> None:
    """Commit a checkpoint, then drop all but the last two."""
    directory.mkdir(parents=True, exist_ok=True)
    header = {"format_version": FORMAT_VERSION, "passes": checkpoint.passes, "fingerprint": dict(checkpoint.fingerprint),
              "values": dict(checkpoint.values), "arrays": sorted(checkpoint.arrays)}
    final = directory / f"pass-{checkpoint.passes:06d}.npz"
    partial = final.with_suffix(".partial")
    with open(partial, "wb") as file:
        content: dict[str, Any] = {_HEADER: np.array(json.dumps(header)), **checkpoint.arrays}
        np.savez(file, **content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, final)
    for old in _files(directory)[:-_KEPT]:
        old.unlink(missing_ok=True)


def load_checkpoint(directory: Path, fingerprint: Mapping[str, str]) -> Checkpoint | None:
    """The last checkpoint that can be read whole, or None where there is none.

    Raises
    ------
    RunDirectoryError
        When it belongs to other data, another configuration or another format; the message names the difference.
    """
    for path in reversed(_files(directory)):
        try:
            checkpoint = _read(path)
        except RunDirectoryError:
            raise
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, zipfile.BadZipFile, EOFError) as error:  # whatever damage makes of a zip file
            log.warning("checkpoint %s is damaged (%s); falling back to the one before", path.name, error)
            continue
        for name, expected in fingerprint.items():
            found = checkpoint.fingerprint.get(name)
            if found != expected:
                raise RunDirectoryError(f"the checkpoint {path} was made with {name} {found}, this run has {expected}; go back to what it was "
                                        "made with, or start anew with --overwrite")
        return checkpoint
    return None


def _files(directory: Path) -> list[Path]:
    return sorted(directory.glob("pass-*.npz"))


def _read(path: Path) -> Checkpoint:
    with np.load(path, allow_pickle=False) as content:
        header = json.loads(str(content[_HEADER][()]))
        if header["format_version"] != FORMAT_VERSION:
            raise RunDirectoryError(f"the checkpoint {path} has format version {header['format_version']}, this streamlr reads {FORMAT_VERSION}; "
                                    "resume with the version that wrote it, or start anew with --overwrite")
        arrays = {name: content[name] for name in header["arrays"]}
    return Checkpoint(header["passes"], header["fingerprint"], arrays, header["values"])


def flatten(record: Any, prefix: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays and plain values of a dataclass, their names led by a prefix."""
    arrays: dict[str, NDArray[Any]] = {}
    values: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        (arrays if isinstance(value, np.ndarray) else values)[prefix + field.name] = value
    return arrays, values


def unflatten(record: type[Record], prefix: str, checkpoint: Checkpoint) -> Record:
    """The dataclass that `flatten` took apart."""
    fields = dataclasses.fields(record)  # type: ignore[arg-type]
    everything = {**checkpoint.values, **checkpoint.arrays}
    return record(**{field.name: everything[prefix + field.name] for field in fields})
