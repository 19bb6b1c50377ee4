#!/usr/bin/env python3
"""How time and memory grow: with the rows, and with the candidate coefficient vectors of a pass.

    rows          a fit of M rows and one of 32 M rows of the same population, each in a fresh
    process: time per row and peak
                  memory, as ratios. Both stream.
    candidates    a pass that evaluates 1, 2, 4 and 8 coefficient vectors, in turn, as ratios to one

Run it in the environment of scripts/test: .venv/bin/python scripts/scaling.py [--rows M] [--times
32]
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from bench import measure

from streamlr.config.sections import DataConfig
from streamlr.data.sources.store import ZarrSource
from streamlr.data.synth import SynthSpec, synthesize
from streamlr.execution.local import ThreadsEngine, available_cores
from streamlr.execution.scanner import Scanner
from streamlr.kernels.scans.gradient import GradientScan


def rows(folder: Path, count: int, times: int, features: int, rounds: int) -> None:
    found: dict[int, list[dict[str, float]]] = {1: [], times: []}
    for factor in found:
        synthesize(folder / f"{factor}.zarr", SynthSpec(count * factor, features))
    for _ in range(rounds):
        for factor, runs in found.items():
            runs.append(measure("streamlr, streaming", folder / f"{factor}.zarr", "", 3600.0))
    one, many = (
        {
            key: median(run[key] for run in found[factor])
            for key in ("seconds", "pass_seconds", "peak_memory_bytes", "passes")
        }
        for factor in found
    )
    print(f"{'rows':>14}{'seconds':>10}{'a pass':>10}{'passes':>8}{'MB':>8}")
    for factor, run in ((1, one), (times, many)):
        print(
            f"{count * factor:14,}{run['seconds']:10.2f}{run['pass_seconds']:10.3f}{run['passes']:8.0f}{run['peak_memory_bytes'] / 1e6:8.0f}"
        )
    print(
        f"{times} times the rows: fit / {times} = {many['seconds'] / one['seconds'] / times:.2f}, "
        f"pass / {times} = "
        f"{many['pass_seconds'] / one['pass_seconds'] / times:.2f}, peak memory = "
        f"{many['peak_memory_bytes'] / one['peak_memory_bytes']:.2f}"
    )


def candidates(store: Path, rounds: int) -> None:
    source = ZarrSource(DataConfig(store=str(store)))
    rng = np.random.default_rng(0)
    W = rng.standard_normal((8, source.n_features, 1)) * 1e-3
    seconds: dict[int, list[float]] = {1: [], 2: [], 4: [], 8: []}
    with ThreadsEngine(available_cores()) as engine:
        scanner = Scanner(engine, source, lambda event: None)
        for _ in range(rounds + 1):
            for count, times in seconds.items():
                start = time.perf_counter()
                scanner.run(
                    GradientScan("logistic", np.array([0, 1]), W[:count], np.zeros((count, 1))),
                    "candidates",
                )
                times.append(time.perf_counter() - start)
    for count, times in seconds.items():
        print(
            f"{count} candidate{'s' * (count > 1)}: {median(times[1:]):.3f} s a pass, "
            f"{median(times[1:]) / median(seconds[1][1:]):.2f} times one"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=1_500_000)
    parser.add_argument("--times", type=int, default=32)
    parser.add_argument("--features", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        rows(folder, options.rows, options.times, options.features, options.rounds)
        candidates(folder / "1.zarr", options.rounds)


if __name__ == "__main__":
    main()
