"""What memory a read takes, told without reading."""

from __future__ import annotations

from dataclasses import dataclass

ZARR_CHUNKS_IN_FLIGHT = 10
"""Chunks that Zarr's pipeline fetches and decodes at a time (its setting ``async.concurrency``)."""
STORED_SLACK = 1.02
"""The largest chunk of a shard over their mean, which is all that is known without opening every
shard."""
TEXT_LABEL_BYTES = 250
"""Of one label of text while it is turned from Zarr's objects into NumPy's."""


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes that one thread takes to read some rows of an array."""

    decoded_bytes: int
    """Kept: the rows, with what pads them to whole chunks."""
    stored_bytes: int
    """Kept: memory for the largest chunk as it is stored; 0 where bytes are read straight to their
    place."""
    passing_bytes: int
    """Gone again when the rows are there: what codecs hand over, chunks that do not lie where they
    will stand, Zarr's own copies."""
    shared_bytes: int = 0
    """Kept once in a process, for all of its threads: labels of text as codes."""

    @property
    def kept_bytes(self) -> int:
        """What stays with the thread from read to read."""
        return self.decoded_bytes + self.stored_bytes


IN_MEMORY = Footprint(0, 0, 0)
"""Of arrays that are in memory anyway."""
