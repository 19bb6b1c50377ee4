#!/usr/bin/env python3
"""Benchmark: streamlr, plain reading, and packaged peers on the same store, in one session, turn by
turn.

Every measurement is a fresh process, load time included; the runs of one data set alternate, and
what is reported is the median of the rounds. Ratios are to one plain read of the same store with as
many threads: chunk by chunk through zarr-python, and, as the stricter floor, through streamlr's own
reader of local files.

    scripts/bench                      the tall data, 5M x 100 float32, all peers           (some
    ten minutes) scripts/bench --data wide          300k x 2000 float32 scripts/bench --data tiny
    seconds; what the test suite runs
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np


@dataclass(frozen=True)
class DataSet:
    rows: int
    features: int
    limit: str
    """A memory limit under which the decoded data fit."""


DATA = {
    "tiny": DataSet(20_000, 10, "2GB"),
    "tall": DataSet(5_000_000, 100, "4GB"),
    "tall32": DataSet(32 * 5_000_000, 100, "4GB"),
    "wide": DataSet(300_000, 2000, "8GB"),
}


# -- what is measured; each runs in a process of its own -------------------------------------------


def _chunks(store: Path) -> tuple[Any, int, int]:
    import zarr

    X = zarr.open_array(store / "X", mode="r")
    return X, X.chunks[0], X.shape[0]


def in_threads(work: Callable[[int], Any], count: int, threads: int = 0) -> None:
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(threads or len(os.sched_getaffinity(0))) as pool:
        for _ in pool.map(work, range(count)):
            pass


def read_zarr(store: Path) -> dict[str, Any]:
    """One read through zarr-python, chunk by chunk."""
    X, rows, total = _chunks(store)

    def work(i: int) -> int:
        return int(X[i * rows : (i + 1) * rows].shape[0])

    start = time.perf_counter()
    in_threads(work, -(-total // rows))
    return {"seconds": time.perf_counter() - start}


def read_direct(store: Path) -> dict[str, Any]:
    """One read through streamlr's reader, buffers reused."""
    import threading

    from streamlr.config.sections import DataConfig
    from streamlr.data.source import Buffer
    from streamlr.data.sources.store import ZarrSource

    source, local = ZarrSource(DataConfig(store=str(store))), threading.local()
    rows = source.chunk_rows

    def work(i: int) -> None:
        if not hasattr(local, "buffer"):
            local.buffer = Buffer()
        source.features.read(i * rows, min((i + 1) * rows, source.n_rows), local.buffer)

    start = time.perf_counter()
    in_threads(work, -(-source.n_rows // rows))
    return {"seconds": time.perf_counter() - start}


def _streamlr(store: Path, **sections: Any) -> dict[str, Any]:
    import streamlr

    start = time.perf_counter()
    result = streamlr.train({"data": {"store": str(store)}, **sections})
    seconds = time.perf_counter() - start
    later = [line["seconds"] for line in result.history[1:]]
    return {
        "seconds": seconds,
        "passes": result.passes,
        "pass_seconds": median(later) if later else None,
        "status": result.status,
        "coef": result.model.coef_[0].tolist(),
        "intercept": float(result.model.intercept_[0]),
    }


def streamlr_streaming(store: Path) -> dict[str, Any]:
    return _streamlr(store)


def streamlr_held(store: Path) -> dict[str, Any]:
    return _streamlr(store, cluster={"memory_limit": os.environ["BENCH_LIMIT"]})


def streamlr_processes(store: Path) -> dict[str, Any]:
    return _streamlr(store, cluster={"kind": "processes"})


def _load(store: Path) -> tuple[np.ndarray, np.ndarray]:
    """All data in memory, in float64: in float32 the peers do not reach the optimum."""
    X, rows, total = _chunks(store)
    out = np.empty(X.shape)

    def work(i: int) -> None:
        out[i * rows : (i + 1) * rows] = X[i * rows : (i + 1) * rows]

    in_threads(work, -(-total // rows))
    import zarr

    return out, zarr.open_array(store / "y", mode="r")[:]


def _sklearn(store: Path, solver: str) -> dict[str, Any]:
    from sklearn.linear_model import LogisticRegression

    start = time.perf_counter()
    X, y = _load(store)
    model = LogisticRegression(C=np.inf, solver=solver, tol=1e-8, max_iter=1000).fit(X, y)
    return {
        "seconds": time.perf_counter() - start,
        "passes": int(model.n_iter_[0]),
        "coef": model.coef_[0].astype(float).tolist(),
        "intercept": float(model.intercept_[0]),
    }


def sklearn_lbfgs(store: Path) -> dict[str, Any]:
    return _sklearn(store, "lbfgs")


def sklearn_newton(store: Path) -> dict[str, Any]:
    return _sklearn(store, "newton-cholesky")


def glum_irls(store: Path) -> dict[str, Any]:
    from glum import GeneralizedLinearRegressor

    start = time.perf_counter()
    X, y = _load(store)
    model = GeneralizedLinearRegressor(
        family="binomial", alpha=0, gradient_tol=1e-8, max_iter=200
    ).fit(X, y.astype(X.dtype))
    return {
        "seconds": time.perf_counter() - start,
        "passes": int(model.n_iter_),
        "coef": model.coef_.astype(float).tolist(),
        "intercept": float(model.intercept_),
    }


def _dask_ml(store: Path, solver: str) -> dict[str, Any]:
    import dask.array as da
    from dask_ml.linear_model import LogisticRegression

    start = time.perf_counter()
    X, y = da.from_zarr(str(store / "X")), da.from_zarr(str(store / "y"))
    model = LogisticRegression(penalty="l2", C=1e12, solver=solver, tol=1e-8, max_iter=100).fit(
        X, y
    )
    return {
        "seconds": time.perf_counter() - start,
        "passes": None,
        "coef": np.ravel(model.coef_).astype(float).tolist(),
        "intercept": float(np.ravel(model.intercept_)[0]),
    }


def dask_ml_lbfgs(store: Path) -> dict[str, Any]:
    return _dask_ml(store, "lbfgs")


def dask_ml_newton(store: Path) -> dict[str, Any]:
    return _dask_ml(store, "newton")


MEASURED: dict[str, Callable[[Path], dict[str, Any]]] = {
    "read, zarr-python": read_zarr,
    "read, streamlr": read_direct,
    "streamlr, streaming": streamlr_streaming,
    "streamlr, held in memory": streamlr_held,
    "streamlr, processes": streamlr_processes,
    "scikit-learn lbfgs": sklearn_lbfgs,
    "scikit-learn newton-cholesky": sklearn_newton,
    "glum": glum_irls,
    "dask-ml lbfgs": dask_ml_lbfgs,
    "dask-ml newton": dask_ml_newton,
}


# -- the session -----------------------------------------------------------------------------------


def child(name: str, store: Path) -> None:
    """Measure one thing in this process and print it as the last line."""
    from streamlr.execution.process import process_peak_bytes

    found = MEASURED[name](store)
    print("\n" + json.dumps({**found, "peak_memory_bytes": process_peak_bytes()}))


def measure(name: str, store: Path, limit: str, timeout: float) -> dict[str, Any]:
    environment = {**os.environ, "BENCH_LIMIT": limit}
    command = [sys.executable, __file__, "--child", name, "--store", str(store)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=timeout
        )
    except subprocess.TimeoutExpired:
        return {"error": f"not done after {timeout:.0f} s"}
    lines = done.stdout.strip().splitlines()
    if done.returncode != 0 or not lines:
        return {"error": (done.stderr.strip().splitlines() or ["failed"])[-1][:100]}
    found: dict[str, Any] = json.loads(lines[-1])
    return found


def objective(store: Path, found: dict[str, Any]) -> tuple[float, float]:
    """Exact mean loss and gradient (in standardised units) of coefficients, by streamlr's serial
    reference."""
    from streamlr.config.sections import DataConfig, ModelConfig
    from streamlr.data.sources.store import ZarrSource
    from streamlr.execution.local import SerialEngine
    from streamlr.execution.scanner import Scanner
    from streamlr.kernels.scans.labels import LabelScan
    from streamlr.kernels.scans.moments import MomentScan
    from streamlr.objective.objective import Moments, Objective

    scanner = Scanner(SerialEngine(), ZarrSource(DataConfig(store=str(store))), lambda event: None)
    classes = scanner.run(LabelScan(), "labels").labels
    moments = Moments.from_sums(scanner.run(MomentScan(classes, 0.0, 0), "survey"))
    at = Objective(scanner, ModelConfig(), classes, moments)
    W, b = np.array(found["coef"])[:, None], np.array([found["intercept"]])
    evaluation = at.evaluate(at.coordinates.from_data_units(W, b)[None, :], "objective")[0]
    return evaluation.loss, evaluation.gradient_max


def session(
    names: list[str], store: Path, data: DataSet, rounds: int, timeout: float
) -> dict[str, Any]:
    """Measure everything in turn, ``rounds`` times; peers that take over a minute once only."""
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in names}
    for at in range(rounds):
        for name in names:
            if at and (runs[name][0].get("error") or runs[name][0]["seconds"] > 60):
                continue
            runs[name].append(measure(name, store, data.limit, timeout))
            shown = runs[name][-1]
            print(
                f"  round {at + 1}: {name:30} "
                f"{shown.get('error') or format(shown['seconds'], '.2f') + ' s'}",
                file=sys.stderr,
                flush=True,
            )
    return {name: summarise(store, found) for name, found in runs.items()}


def summarise(store: Path, runs: list[dict[str, Any]]) -> dict[str, Any]:
    if runs[0].get("error"):
        return {"error": runs[0]["error"]}
    summary = {
        "seconds": median(run["seconds"] for run in runs),
        "runs": len(runs),
        "passes": runs[0].get("passes"),
        "peak_memory_bytes": max(run["peak_memory_bytes"] for run in runs),
        "status": runs[0].get("status"),
    }
    if runs[0].get("pass_seconds"):
        summary["pass_seconds"] = median(run["pass_seconds"] for run in runs)
    if "coef" in runs[0]:
        summary["objective"], summary["gradient_max"] = objective(store, runs[0])
    return summary


def table(results: dict[str, Any]) -> str:
    reads = [
        results[name]["seconds"]
        for name in ("read, zarr-python", "read, streamlr")
        if name in results
    ]
    lines = [
        f"{'':30}{'seconds':>9}{'/ read':>8}{'/ own':>8}{'a pass':>8}{'passes':>8}{'MB':>8}  "
        f"{'objective':<17}{'gradient':>9}"
    ]
    for name, found in results.items():
        if "error" in found:
            lines.append(f"{name:30}{found['error']}")
            continue
        cells = f"{name:30}{found['seconds']:9.2f}" + "".join(
            f"{found['seconds'] / read:8.2f}" for read in reads
        )
        cells += (
            f"{found['pass_seconds'] / reads[0]:8.2f}" if found.get("pass_seconds") else f"{'':8}"
        )
        cells += f"{found['passes'] if found.get('passes') is not None else '':>8}"
        cells += f"{found['peak_memory_bytes'] / 1e6:8.0f}"
        if "objective" in found:
            cells += f"  {found['objective']:<17.13f}{found['gradient_max']:9.1e}"
        lines.append(cells)
    return "\n".join(lines)


def plot(results: dict[str, Any], path: Path, title: str) -> None:
    try:
        import matplotlib
    except ImportError:
        print(
            "no plot: matplotlib is not installed (it comes with the extra `bench`)",
            file=sys.stderr,
        )
        return
    matplotlib.use("Agg")
    from matplotlib import pyplot

    timed = {name: found["seconds"] for name, found in results.items() if "seconds" in found}
    figure, axes = pyplot.subplots(figsize=(8, 0.45 * len(timed) + 1.2), layout="constrained")
    bars = axes.barh(
        list(timed),
        list(timed.values()),
        color=["#1f6f8b" if "streamlr" in name else "#b5b5b5" for name in timed],
    )
    axes.bar_label(bars, fmt="%.1f s", padding=3)
    axes.set(xscale="log", xlabel="seconds, load time included", title=title)
    axes.invert_yaxis()
    axes.margins(x=0.15)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", choices=list(DATA), default="tall")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=list(MEASURED),
        help="measure these alone (reads are always measured)",
    )
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--timeout", type=float, default=900.0, help="seconds for one run of a peer"
    )
    parser.add_argument("--store", type=Path, help="where the data set is, or is to be")
    parser.add_argument("--compressor", choices=["lz4", "zstd", "none"], default="lz4")
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("bench-results"),
        help="folder of the JSON document and the plot",
    )
    parser.add_argument("--child", choices=list(MEASURED), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        child(options.child, options.store)
        return
    data = DATA[options.data]
    store = (
        options.store
        or Path(tempfile.gettempdir()) / f"streamlr-bench-{options.data}-{options.compressor}.zarr"
    )
    if not store.exists():
        from streamlr.data.synth import SynthSpec, synthesize

        print(f"writing {store}", file=sys.stderr)
        synthesize(store, SynthSpec(data.rows, data.features, compressor=options.compressor))
    names = [
        name
        for name in MEASURED
        if options.only is None or name in options.only or name.startswith("read")
    ]
    results = session(names, store, data, options.rounds, options.timeout)
    print(
        f"{data.rows:,} x {data.features:,} float32, {options.compressor}, "
        f"{len(os.sched_getaffinity(0))} cores, median of {options.rounds}\n"
    )
    print(table(results))
    options.out.mkdir(parents=True, exist_ok=True)
    (options.out / f"{options.data}-{options.compressor}.json").write_text(
        json.dumps(results, indent=2) + "\n", encoding="utf-8"
    )
    plot(
        results,
        options.out / f"{options.data}-{options.compressor}.png",
        f"{data.rows:,} x {data.features:,} float32",
    )


if __name__ == "__main__":
    main()
