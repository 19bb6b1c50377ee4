#!/usr/bin/env python3
"""Seconds of a pass over 1, 10 and 100 TB on 10, 100 and 1,000 workers, from rates that were
measured.

    pass = max(bytes / (workers * rate), slabs * overhead) + slab time / 2        the last slabs
    leave workers idle

`--rate` is what one worker reads, decodes and sums (scripts/bench: bytes / pass seconds / cores),
`--overhead` what the scheduler needs for a slab (scripts/overhead.py). The slabs are those that
streamlr would choose. Storage has to deliver workers * rate; it is not part of the projection.
"""

from __future__ import annotations

import argparse

from streamlr.data.partition import partition_rows, with_slabs_for

_FEATURES = 100
_CHUNK_ROWS = 32_768
_ITEMSIZE = 4


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rate", type=float, required=True, help="decoded GB/s of one worker (one core)"
    )
    parser.add_argument(
        "--overhead", type=float, required=True, help="milliseconds of the scheduler for a slab"
    )
    options = parser.parse_args()
    row_bytes = _FEATURES * _ITEMSIZE
    print(
        f"{'data':>8}{'workers':>9}{'slabs':>9}{'slab':>10}{'seconds a pass':>16}{'of which overhead':>19}"
    )
    for terabytes in (1, 10, 100):
        rows = terabytes * 10**12 // row_bytes
        for workers in (10, 100, 1000):
            partition = with_slabs_for(
                partition_rows(rows, _FEATURES, _CHUNK_ROWS, _ITEMSIZE), workers, row_bytes
            )
            slab_bytes = partition.slab_blocks * partition.block_rows * row_bytes
            work = terabytes * 1e12 / (workers * options.rate * 1e9)
            scheduling = partition.n_slabs * options.overhead / 1e3
            idle = slab_bytes / (options.rate * 1e9) / 2
            seconds = max(work, scheduling) + idle
            print(
                f"{terabytes:5} TB{workers:9,}{partition.n_slabs:9,}{slab_bytes / 2**20:6,.0f} "
                f"MiB{seconds:16,.1f}{100 * (seconds - work) / seconds:17.0f} %"
            )


if __name__ == "__main__":
    main()
