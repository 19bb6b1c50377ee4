"""An array of predictions that many tasks write, each its own chunks, and that appears when it is
whole."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import Crc32cCodec

from streamlr.data.records import commit_directory, local_store, writing
from streamlr.data.writing import claim

PREDICTION_COPIES = 3
"""Of the predictions of a block, while they are written: by leaves, joined, and with a checksum."""


class PredictionWriter:
    """A Zarr array in the making, one float64 for each row, or one for each row and class; use it
    as a context manager.

    Parameters
    ----------
    path
        Where it is to be.
    n_rows
        Its length.
    block_rows
        Rows that one task writes at a time: the chunks.
    classes
        The labels, kept as an attribute; none where the target is a number.
    n_outputs
        Values for each row: 1, or the number of classes.
    overwrite
        Whether to replace what stands there.

    Raises
    ------
    ConfigError
        When something stands there and may not be replaced, or another writer is at it.
    WriteError
        When nothing can be written there.
    """

    def __init__(
        self,
        path: str | Path,
        n_rows: int,
        block_rows: int,
        classes: list[Any],
        n_outputs: int = 1,
        *,
        overwrite: bool,
    ) -> None:
        self.path = Path(path)
        self._lock = claim(self.path, "the array of predictions", overwrite=overwrite)
        self._partial = self.path.with_name(f".{self.path.name}.partial")
        across = () if n_outputs == 1 else (n_outputs,)
        attributes: dict[str, Any] = (
            {"class": classes[1], "classes": classes}
            if len(classes) == 2 and not across
            else {"classes": classes}
            if classes
            else {}
        )
        try:
            with writing(self.path):
                shutil.rmtree(self._partial, ignore_errors=True)  # of a writer that was killed
                zarr.create_array(
                    local_store(self._partial),
                    shape=(n_rows, *across),
                    chunks=(min(block_rows, n_rows), *across),
                    dtype=np.float64,
                    compressors=[Crc32cCodec()],
                    attributes=attributes,
                    config={"write_empty_chunks": True},
                    overwrite=True,
                )
        except BaseException:
            self._lock.release()
            raise

    @property
    def partial(self) -> str:
        """Path for `write_rows`, the same in every process."""
        return str(self._partial.resolve())

    def __enter__(self) -> PredictionWriter:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                with writing(self.path):
                    commit_directory(self._partial, self.path)
        finally:
            shutil.rmtree(self._partial, ignore_errors=True)
            self._lock.release()


def write_rows(partial: str, first_row: int, values: NDArray[np.float64]) -> None:
    """Write whole chunks of the array in the making."""
    with writing(Path(partial)):
        zarr.open_array(local_store(partial), mode="r+")[first_row : first_row + len(values)] = (
            values
        )
