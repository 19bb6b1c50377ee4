"""Reads of the data: an engine, a source and its partition, with a count of what they cost."""

from __future__ import annotations

import logging
from typing import Any

from streamlr.data.partition import Partition, partition_rows, with_slabs_for
from streamlr.data.source import Source
from streamlr.events import ScanFinished, ScanStarted, SlabFinished, Subscriber
from streamlr.execution.engine import Engine, Scan
from streamlr.kernels.gaps import GapScan, GapSums

log = logging.getLogger(__name__)

_LABEL_BYTES = 8


class Scanner:
    """Runs scans over one source on one engine.

    Attributes
    ----------
    passes
        Reads of all features so far.
    bytes_read
        Bytes read from storage so far (decoded bytes where the stored size is not known).
    """

    def __init__(
        self,
        engine: Engine,
        source: Source,
        publish: Subscriber,
        partition: Partition | None = None,
    ) -> None:
        self.engine = engine
        self.source = source
        self.partition = partition or plan_slabs(source, engine.n_threads)
        self.passes = 0
        self.bytes_read = 0
        self._publish = publish
        self._without_gaps = False

    @property
    def data_bytes(self) -> int:
        """Decoded bytes of the features."""
        return self.source.n_rows * self.source.n_features * self.source.dtype.itemsize

    def run(self, scan: Scan, title: str) -> Any:
        """Sum over all rows; one pass where the scan reads features.

        Parameters
        ----------
        scan
            What is asked of every row.
        title
            What a person is told meanwhile.

        Raises
        ------
        DataError
            For what cannot be read; for missing values with their number, at the end of the first
            read of the features.
        """
        if not scan.reads_features or self._without_gaps:
            return self._run(scan, title)
        mask = self.source.mask
        if mask is not None and mask.marks is not None:
            marked = Scanner(self.engine, mask, self._publish)
            marked._refuse_gaps(marked._run(GapScan(mask.marks), "missing values"))
        sums = self._run(
            scan if self.source.marks is None else GapScan(self.source.marks, scan), title
        )
        self._without_gaps = True
        return self._refuse_gaps(sums)

    def _refuse_gaps(self, sums: Any) -> Any:
        """What else was asked for where marks were counted and there are none."""
        if not isinstance(sums, GapSums):
            return sums
        if sums.gaps.first is not None:
            assert self.source.marks is not None
            raise self.source.marks.refusal(
                sums.gaps, self.source.chunk_rows, self.source.feature_names
            )
        return sums.sums

    def _run(self, scan: Scan, title: str) -> Any:
        row_bytes = (
            self.source.n_features * self.source.dtype.itemsize
            if scan.reads_features
            else _LABEL_BYTES
        )
        self._publish(ScanStarted(title, self.partition.n_slabs, self.source.n_rows * row_bytes))

        def slab_done(slab: int) -> None:
            start, stop = self.partition.rows_of_slab(slab)
            self._publish(SlabFinished((stop - start) * row_bytes))

        try:
            sums = self.engine.run(self.source, self.partition, scan, slab_done)
        finally:
            self._publish(ScanFinished())
        if scan.reads_features:
            self.passes += 1
            self.bytes_read += self._bytes_of_pass()
        return sums

    def _bytes_of_pass(self) -> int:
        whole = self.data_bytes if self.source.stored_bytes is None else self.source.stored_bytes
        if self.passes == 1:
            return whole
        return round(whole * (1.0 - self.partition.resident_rows / self.source.n_rows))


def plan_slabs(source: Source, n_threads: int, n_outputs: int = 1) -> Partition:
    """The partition of a source for an engine with so many threads."""
    itemsize = source.dtype.itemsize
    partition = partition_rows(
        source.n_rows, source.n_features, source.unit_rows, itemsize, n_outputs
    )
    return with_slabs_for(partition, n_threads, source.n_features * itemsize)
