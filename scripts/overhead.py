#!/usr/bin/env python3
"""What a pass costs beside the data: slabs that hold nothing, on clusters of many workers.

Prints the time of a pass for each number of slabs and workers (threads with a worker each, or
processes with --processes), and the scheduler's time per slab. Run it in the environment of
scripts/test: .venv/bin/python scripts/overhead.py
"""

from __future__ import annotations

import argparse
import logging
import time
from dataclasses import dataclass

import numpy as np
from distributed import Client, LocalCluster

from streamlr.data.partition import Partition
from streamlr.execution.cluster.engine import ClusterEngine
from streamlr.kernels.batch import Batch, Workspace


@dataclass(frozen=True)
class EmptyScan:
    """Reads nothing."""

    reads_features: bool = False
    reads_target: bool = False

    def sums(self, batch: Batch, leaf_rows: int, workspace: Workspace) -> int:
        return 1


@dataclass(frozen=True)
class NoRows:
    """Just enough of a source for a scan that reads nothing."""

    n_rows: int
    resident: bool = False

    def open(self) -> None:
        """There is nothing to open."""


def seconds_of_pass(engine: ClusterEngine, slabs: int) -> float:
    partition = Partition(n_rows=slabs, block_rows=1, leaf_rows=1)
    start = time.perf_counter()
    total = engine.run(NoRows(slabs), partition, EmptyScan(), lambda slab: None)
    if total != slabs:
        raise SystemExit(f"{total} of {slabs} slabs were summed")
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--slabs", type=int, nargs="+", default=[1_000, 10_000, 100_000])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument(
        "--processes", action="store_true", help="workers in processes of their own"
    )
    options = parser.parse_args()
    print(f"{'workers':>8}{'slabs':>10}{'seconds':>10}{'ms a slab':>11}")
    for workers in options.workers:
        with (
            LocalCluster(
                n_workers=workers,
                threads_per_worker=1,
                processes=options.processes,
                dashboard_address=None,
                silence_logs=logging.ERROR,
                memory_limit=0,
            ) as cluster,
            ClusterEngine(Client(cluster), cluster.scheduler_address, 300.0) as engine,
        ):
            seconds_of_pass(engine, 100)
            for slabs in options.slabs:
                seconds = float(
                    np.median(
                        [seconds_of_pass(engine, slabs) for _ in range(3 if slabs <= 10_000 else 1)]
                    )
                )
                print(
                    f"{workers:8}{slabs:10,}{seconds:10.2f}{1000 * seconds / slabs:11.3f}",
                    flush=True,
                )


if __name__ == "__main__":
    main()
