#!/usr/bin/env python3
"""What many models cost beside one: a path of penalties, and a path with its folds, against one fit
of the same store.

Every measurement is a fresh process, load time of the store's pages included; one fit and the paths
take turns, and the ratios are those of each turn, of which the median is reported.

    scripts/path_cost.py                                5M x 100 float32, made first, 16 strengths,
    and 4 strengths x (all rows + 3 folds) scripts/path_cost.py --store some.zarr --turns 5
    another store
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

MODELS = 16
KINDS: dict[str, dict[str, Any] | None] = {
    "one model": None,
    "16 strengths": {"count": MODELS},
    "4 strengths, all rows and 3 folds": {"count": MODELS // 4, "folds": 3},
}
"""Sections ``path`` of what is timed; none for one model."""


def measured(store: str, kind: str, options: argparse.Namespace) -> dict[str, Any]:
    """One fit or one path, in this process."""
    import streamlr

    config: dict[str, Any] = {"data": {"store": store}, "solver": {"tolerance": options.tolerance}}
    asked = KINDS[kind]
    start, start_cpu = time.perf_counter(), time.process_time()
    found: Any
    if asked is None:
        found = streamlr.train({**config, "model": {"penalty": {"l2": options.l2}}})
    else:
        found = streamlr.path({**config, "path": {**asked, "alpha": options.alpha}})
    return {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - start_cpu,
        "passes": found.passes,
        "status": found.status,
        "peak_memory_bytes": found.summary["peak_memory_bytes"],
        "pass_seconds": [line["seconds"] for line in found.history],
    }


def in_fresh_process(kind: str, options: argparse.Namespace) -> dict[str, Any]:
    command = [
        sys.executable,
        __file__,
        "--store",
        options.store,
        "--only",
        kind,
        "--l2",
        str(options.l2),
        "--alpha",
        str(options.alpha),
        "--tolerance",
        str(options.tolerance),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def compare(options: argparse.Namespace) -> None:
    turns = [
        {kind: in_fresh_process(kind, options) for kind in KINDS} for _ in range(options.turns)
    ]
    print(
        f"{'':36}{'seconds':>9}{'CPU s':>8}{'passes':>8}{'MB':>8}{'ratio':>8}   of each turn; "
        "status; seconds of the passes"
    )
    for kind in KINDS:
        runs = [turn[kind] for turn in turns]
        ratios = [turn[kind]["seconds"] / turn["one model"]["seconds"] for turn in turns]
        print(
            f"{kind:36}{median(run['seconds'] for run in runs):9.2f}{median(run['cpu_seconds'] for run in runs):8.2f}{runs[0]['passes']:8}"
            f"{max(run['peak_memory_bytes'] for run in runs) / 1e6:8.0f}{median(ratios):8.2f}   "
            f"{', '.join(f'{ratio:.2f}' for ratio in ratios)}; "
            f"{runs[0]['status']}; "
            + " ".join(f"{seconds:.2f}" for seconds in runs[-1]["pass_seconds"]),
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", help="a store; without one it is made")
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--features", type=int, default=100)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--l2", type=float, default=1e-3, help="penalty of the one model")
    parser.add_argument("--alpha", type=float, default=0.0, help="share of l1 in the paths")
    parser.add_argument("--tolerance", type=float, default=1e-8)
    parser.add_argument(
        "--only", choices=list(KINDS), help="measure this once, in this process, and print JSON"
    )
    options = parser.parse_args()
    if options.only is not None:
        print(json.dumps(measured(options.store, options.only, options)))
        return
    with tempfile.TemporaryDirectory() as folder:
        if options.store is None:
            from streamlr.data.synth import SynthSpec, synthesize

            options.store = str(Path(folder, "data.zarr"))
            synthesize(options.store, SynthSpec(options.rows, options.features))
        compare(options)


if __name__ == "__main__":
    main()
