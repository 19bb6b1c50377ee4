"""Checkpoints: a solver's state record and all else that a run needs to go on, committed after a
pass.

One ``.npz`` file without pickles for each: arrays as they are, and one JSON text with the scalars,
the format version, the fingerprints of data and configuration, the digests of the arrays and one of
all that the text says. Written beside its name, flushed and renamed; the one before is kept, so
that a damaged file costs a pass and not the run. Large arrays that stay the same stand beside them.

Earlier versions wrote no digests: what has none is gone on with as it is, and they read what has
some.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from streamlr.data.records import commit_file, writing
from streamlr.errors import RunDirectoryError, option

log = logging.getLogger(__name__)

FORMAT_VERSION = 2
_DIGEST, _DIGESTS = "digest", "digests"
_KEPT = 2
_LARGE_BYTES = 2**20
_COPIES = 2
_HEADER = "header"

Record = TypeVar("Record")


class _LackingError(RunDirectoryError):
    """An array is gone that was saved."""


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


class CheckpointWriter:
    """Commits the checkpoints of one run.

    An array of a megabyte or more (the metric of a wide L-BFGS) is written once, and again only
    when it is another: its content does not change from pass to pass, and writing it anew would
    cost more than all the rest. It stands in two copies, so that damage to one of them does not
    take both checkpoints with it.

    Parameters
    ----------
    directory
        Where they are to be.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._large: dict[str, tuple[NDArray[Any], str]] = {}
        self._saved = False

    def save(self, checkpoint: Checkpoint) -> None:
        """Commit a checkpoint, then drop all but this one and the one before.

        Raises
        ------
        WriteError
            When it cannot be written; those before are intact.
        """
        with writing(self._directory):
            self._directory.mkdir(parents=True, exist_ok=True)
        before = {digest for _, digest in self._large.values()}
        self._large = {
            name: (array, self._write_large(name, array))
            for name, array in checkpoint.arrays.items()
            if array.nbytes >= _LARGE_BYTES
        }
        small = {
            name: array for name, array in checkpoint.arrays.items() if name not in self._large
        }
        large = {name: digest for name, (_, digest) in self._large.items()}
        header = {
            "format_version": FORMAT_VERSION,
            "passes": checkpoint.passes,
            "fingerprint": dict(checkpoint.fingerprint),
            "values": dict(checkpoint.values),
            "arrays": sorted(small),
            "large": large,
        }
        header[_DIGESTS] = {name: _digest(array) for name, array in small.items()}
        header[_DIGEST] = _header_digest(header)
        content: dict[str, Any] = {_HEADER: np.array(json.dumps(header)), **small}
        final = _path(self._directory, checkpoint.passes)
        commit_file(final, lambda file: np.savez(file, **content))
        self._drop_old(final, before)
        self._saved = True

    def _write_large(self, name: str, array: NDArray[Any]) -> str:
        """Write both copies of an array, if it is not the one that was written last; its digest, by
        which they are called."""
        if name in self._large and self._large[name][0] is array:
            digest = self._large[name][1]
            if all(_large_path(self._directory, digest, copy).exists() for copy in range(_COPIES)):
                return digest
        digest = _digest(array)
        for copy in range(_COPIES):
            commit_file(
                _large_path(self._directory, digest, copy), lambda file: np.save(file, array)
            )
        return digest

    def _drop_old(self, newest: Path, large_before: set[str]) -> None:
        """Also later ones: where all were damaged the run has begun anew, and they must not push
        out the new ones."""
        files = _files(self._directory)
        kept = [path for path in files if path <= newest][-_KEPT:]
        large = {digest for _, digest in self._large.values()}
        stale = [path for path in files if path not in kept]
        if (
            self._saved or large == large_before
        ):  # else the one before is another writer's, and may need others
            stale += [
                path
                for path in self._directory.glob("large-*.npy")
                if path.name.split("-")[1] not in large | large_before
            ]
        for path in stale:
            path.unlink(missing_ok=True)


def save_checkpoint(directory: Path, checkpoint: Checkpoint) -> None:
    """Commit one checkpoint (see `CheckpointWriter`)."""
    CheckpointWriter(directory).save(checkpoint)


def load_checkpoint(directory: Path, fingerprint: Mapping[str, str]) -> Checkpoint | None:
    """The last checkpoint that can be read whole, or None where there is none.

    Raises
    ------
    RunDirectoryError
        When it belongs to other data, another configuration or another format; the message names
        the difference.
    """
    lacking: _LackingError | None = None
    for path in reversed(_files(directory)):
        try:
            checkpoint = _read(path)
        except _LackingError as error:  # no crash makes such a one
            log.warning("%s; falling back to the one before", error)
            lacking = lacking or error
            continue
        except RunDirectoryError:
            raise
        except Exception as error:  # whatever damage makes of a zip file
            log.warning(
                "checkpoint %s is damaged (%s); falling back to the one before", path.name, error
            )
            continue
        for name, expected in fingerprint.items():
            found = checkpoint.fingerprint.get(name)
            if found != expected:
                raise RunDirectoryError(
                    f"the checkpoint {path} was made with {name} {found}, this run has "
                    f"{expected}; go back to what it was "
                    f"made with, or start anew with {option('overwrite')}"
                )
        return checkpoint
    if lacking is not None:
        raise lacking
    return None


def has_checkpoint(directory: Path, passes: int) -> bool:
    """Whether the checkpoint after so many passes is where it was committed."""
    return _path(directory, passes).is_file()


def _path(directory: Path, passes: int) -> Path:
    return directory / f"pass-{passes:06d}.npz"


def _files(directory: Path) -> list[Path]:
    return sorted(directory.glob("pass-*.npz"))


def _read(path: Path) -> Checkpoint:
    _refuse_compressed(path)
    with np.load(path, allow_pickle=False) as content:
        header = json.loads(str(content[_HEADER][()]))
        if header["format_version"] != FORMAT_VERSION:
            raise RunDirectoryError(
                f"the checkpoint {path} has format version {header['format_version']}, this "
                f"streamlr reads {FORMAT_VERSION}; "
                f"resume with the version that wrote it, or start anew with {option('overwrite')}"
            )
        arrays = {name: content[name] for name in header["arrays"]}
    if {_DIGEST, _DIGESTS} & header.keys():
        _refuse_other_content(header, arrays)
    arrays |= {name: _read_large(path.parent, digest) for name, digest in header["large"].items()}
    return Checkpoint(header["passes"], header["fingerprint"], arrays, header["values"])


def _refuse_other_content(header: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Raise a ValueError where anything differs from what was saved, and tell of an array that is
    gone."""
    for name in header[_DIGESTS]:
        if name not in arrays:
            raise _LackingError(_lacks(header["passes"], repr(name)))
    found = {name: _digest(array) for name, array in arrays.items()}
    if found != header[_DIGESTS] or _header_digest(header) != header[_DIGEST]:
        raise ValueError("its content is not what was saved")


def _header_digest(header: Mapping[str, Any]) -> str:
    """Of everything that the header says, as JSON keeps it."""
    said = json.loads(
        json.dumps({name: value for name, value in header.items() if name != _DIGEST})
    )
    return hashlib.blake2b(json.dumps(said, sort_keys=True).encode(), digest_size=16).hexdigest()


def _lacks(passes: int, what: str) -> str:
    return (
        f"the checkpoint of pass {passes} lacks {what}: another version of streamlr wrote it; "
        "resume with that "
        f"version, or start anew with {option('overwrite')}"
    )


def _refuse_compressed(path: Path) -> None:
    """Checkpoints are stored as they are: what would swell on reading was put there by somebody
    else."""
    size = path.stat().st_size
    with zipfile.ZipFile(path) as packed:
        for member in packed.infolist():
            if member.compress_type != zipfile.ZIP_STORED or member.file_size > size:
                raise ValueError(f"{member.filename!r} in it is compressed")


def _read_large(directory: Path, digest: str) -> NDArray[Any]:
    for copy in range(_COPIES):
        path = _large_path(directory, digest, copy)
        try:
            array: NDArray[Any] = np.load(path, allow_pickle=False)
        except Exception as error:  # whatever damage makes of it
            log.warning("%s is damaged (%s); %d copies are kept", path.name, error, _COPIES)
            continue
        if _digest(array) == digest:
            return array
        log.warning(
            "%s is damaged (its content has changed); %d copies are kept", path.name, _COPIES
        )
    raise ValueError(f"no copy of {_large_path(directory, digest, 0).name} is whole")


def _large_path(directory: Path, digest: str, copy: int) -> Path:
    if not (isinstance(digest, str) and digest.isalnum()):
        raise ValueError(f"{digest!r} is no digest")
    return directory / f"large-{digest}-{copy}.npy"


def _digest(array: NDArray[Any]) -> str:
    digest = hashlib.blake2b(f"{array.dtype.str} {array.shape}".encode(), digest_size=16)
    digest.update(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data)
    return digest.hexdigest()


def flatten(record: Any, prefix: str) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays and plain values of a dataclass, their names led by a prefix."""
    arrays: dict[str, NDArray[Any]] = {}
    values: dict[str, Any] = {}
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        (arrays if isinstance(value, np.ndarray) else values)[prefix + _key(field)] = value
    return arrays, values


def _key(field: dataclasses.Field[Any]) -> str:
    """Name of a field in a checkpoint."""
    key: str = field.metadata.get("key", field.name)
    return key


def unflatten(record: type[Record], prefix: str, checkpoint: Checkpoint) -> Record:
    """The dataclass that `flatten` took apart."""
    fields = dataclasses.fields(record)  # type: ignore[arg-type]
    everything = {**checkpoint.values, **checkpoint.arrays}
    try:
        return record(**{field.name: everything[prefix + _key(field)] for field in fields})
    except KeyError as error:
        raise RunDirectoryError(_lacks(checkpoint.passes, str(error))) from None
