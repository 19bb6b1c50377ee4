#!/usr/bin/env python3
"""Projected against measured memory, each fit in a fresh process.

For every cell of a grid (features, type, chunk, codec, solver, engine, ...) a store is written, a
run is planned and made, and the largest resident memory of its processes (VmHWM) is held against
what the plan said: measured / projected must lie between 0.67 and 1.

Run it in the environment of scripts/test: .venv/bin/python scripts/memory_contract.py [--only
TEXT...] [--out FILE]
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from distributed import LocalCluster
from zarr.codecs import BloscCodec, Crc32cCodec, GzipCodec, ZstdCodec

LEAST, MOST = 0.67, 1.0
CODECS: dict[str, list[Any]] = {
    "raw": [],
    "lz4": [BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle")],
    "zstd": [ZstdCodec(level=1)],
    "gzip": [GzipCodec(level=1)],
    "crc32c": [Crc32cCodec()],
    "lz4+crc32c": [BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle"), Crc32cCodec()],
}
MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Cell:
    """One fit."""

    features: int = 100
    dtype: str = "float32"
    chunk_mb: float = 8.0
    codec: str = "lz4"
    solver: str = "auto"
    kind: str = "threads"
    layout: str = "plain"
    """``plain``, ``sharded``, ``axis 1``, ``narrow`` (chunked along the features too), ``zip``
    (read through zarr), ``weights`` or ``held out`` (a share of the rows, for validation)."""
    chunks: int = 6
    workers: int = 2
    limit_mb: float | None = None
    max_passes: int = 4
    workers_threads: int = 1
    classes: int = 2
    strengths: int = 0
    """Of a path, with 3 folds; 0: one model. With solver ``proximal`` half of the penalty is l1."""
    family: str = "logistic"
    """Of the model; of ``linear`` the target is noise, and of ``collinear`` the last feature
    repeats the first beside it."""
    free: bool = False
    """Whether the path begins beside an unpenalised feature, and its folds have spreads of their
    own."""

    @property
    def store_name(self) -> str:
        name = f"{self.features}-{self.dtype}-{self.chunk_mb:g}-{self.codec}-{self.layout}-{self.chunks}-{self.classes}-{self.family}".replace(
            " ", ""
        )
        return name + ".zip" * (self.layout == "zip")

    @property
    def title(self) -> str:
        held = "" if self.limit_mb is None else f" limit {self.limit_mb:g} MB"
        held += "" if self.classes == 2 else f" {self.classes} classes"
        held += "" if self.family == "logistic" else f" {self.family}"
        held += f" path of {self.strengths}" if self.strengths else ""
        held += " beside a free feature" if self.free else ""
        return (
            f"{self.features} {self.dtype} chunk {self.chunk_mb:g} MB x {self.chunks} "
            f"{self.codec} {self.layout} {self.solver} {self.kind} "
            f"{self.workers}x{self.workers_threads}{held}"
        )


def write(path: Path, cell: Cell) -> None:
    """A store of noise in ``cell.chunks`` chunks: the values are the same in all of them but for a
    factor, since only their size matters."""
    dtype, rng = np.dtype(cell.dtype), np.random.default_rng(0)
    rows = max(1, round(cell.chunk_mb * MB / (cell.features * dtype.itemsize)))
    block = rng.standard_normal(
        (min(rows, max(1, 8 * MB // cell.features)), cell.features), dtype=np.float32
    )
    block = (
        block.astype(dtype)
        if dtype.kind == "f"
        else np.clip(np.rint(block * 20), -100, 100).astype(dtype)
    )
    if cell.family == "collinear":
        block[:, -1] = block[:, 0]
    chunk = np.concatenate([block] * -(-rows // len(block)))[:rows]
    zipped = cell.layout == "zip"
    store: Any = zarr.storage.ZipStore(path, mode="w") if zipped else str(path)
    group = zarr.open_group(store, mode="w", zarr_format=3)
    m, turned = rows * cell.chunks, slice(None, None, -1 if cell.layout == "axis 1" else 1)
    options: dict[str, Any] = (
        {"shards": (4 * rows, cell.features)} if cell.layout == "sharded" else {}
    )
    width = -(-cell.features // 4) if cell.layout == "narrow" else cell.features
    codec = CODECS.get(cell.codec)
    X = group.create_array(
        "X",
        shape=(m, cell.features)[turned],
        chunks=(rows, width)[turned],
        dtype=dtype,
        compressors=codec or None,
        **options,
    )
    step = 4 * rows if cell.layout == "sharded" else rows
    for start in range(0, m, step):
        part = np.concatenate(
            [np.roll(chunk, start // rows + i, axis=0) for i in range(min(step, m - start) // rows)]
        )
        if cell.layout == "axis 1":
            X[:, start : start + len(part)] = part.T
        else:
            X[start : start + len(part)] = part
    labels: Any = (
        (rng.random(m) < 0.4).astype(np.int8)
        if cell.classes == 2
        else rng.integers(0, cell.classes, m).astype(np.int8)
    )
    if cell.family != "logistic":
        labels = rng.standard_normal(m)
    group.create_array("y", data=labels, chunks=(min(m, 4 * rows),))
    if cell.layout == "weights":
        group.create_array("w", data=rng.random(m), chunks=(min(m, rows),))
    if zipped:
        store.close()


def settings(cell: Cell, store: Path, run: Path, address: str | None) -> dict[str, Any]:
    """The configuration of a cell."""
    l1 = 0.5 if cell.solver == "proximal" else 0.0
    family = "logistic" if cell.family == "logistic" else "linear"
    path = {"path": {"count": cell.strengths, "folds": 3, "alpha": l1}} if cell.strengths else {}
    penalty: dict[str, Any] = {"l2": 1e-4, "l1": l1 * 1e-3}
    if path or cell.family == "collinear":
        penalty = {"factors": {0: 0} if cell.free else None}
    return {
        **path,
        "data": {
            "store": str(store),
            "sample_axis": 1 if cell.layout == "axis 1" else 0,
            "weights": "w" if cell.layout == "weights" else None,
        },
        "model": {"family": family, "penalty": penalty, "standardize": cell.free},
        "solver": {
            "name": "auto" if l1 else cell.solver,
            "max_passes": cell.max_passes,
            "learning_rate": 0.1,
        },
        "validation": {"fraction": 0.2 if cell.layout == "held out" else 0.0},
        "cluster": {
            "kind": cell.kind,
            "workers": cell.workers,
            "threads_per_worker": cell.workers_threads,
            "address": address,
            "memory_limit": None if cell.limit_mb is None else round(cell.limit_mb * MB),
        },
        "run": {"directory": str(run)},
    }


def measure(cell: Cell, store: Path, seconds: float = 600.0) -> dict[str, Any]:
    """What the summary of a fit in a fresh process says, or its error."""
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(dir=store.parent))
        address = None
        if cell.kind == "address":
            cluster = stack.enter_context(
                LocalCluster(
                    n_workers=cell.workers,
                    threads_per_worker=cell.workers_threads,
                    dashboard_address=None,
                    silence_logs=50,
                    memory_limit=0,
                )
            )
            address = cluster.scheduler_address
        config = settings(cell, store, Path(folder, "run"), address)
        done = subprocess.run(
            [sys.executable, __file__, "--fit", json.dumps(config)],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
        )
        if done.returncode != 0:
            return {
                "error": done.stderr.strip().splitlines()[-1]
                if done.stderr.strip()
                else f"exit status {done.returncode}"
            }
        return json.loads(done.stdout.splitlines()[-1])


def fit(config: dict[str, Any]) -> None:
    """What the fresh process does."""
    import streamlr

    result: Any = streamlr.path(config) if "path" in config else streamlr.train(config)
    print(
        json.dumps(
            {
                key: result.summary.get(key)
                for key in (
                    "peak_memory_bytes",
                    "projected_memory_bytes",
                    "worker_peak_memory_bytes",
                    "projected_worker_memory_bytes",
                    "status",
                    "passes",
                    "coefficients_sha256",
                )
            }
        )
    )


def grid() -> Iterator[Cell]:
    """The cells: every axis at its ends and between, crossed where one could hide another."""
    for features, chunk_mb, dtype in itertools.product(
        (10, 100, 1000, 10_000), (1, 8, 64, 500), ("float16", "float32", "float64")
    ):
        if chunk_mb < 500 or dtype == "float32":
            chunks = {1: 40, 8: 12, 64: 6, 500: 3}[chunk_mb]
            yield from (
                Cell(features, dtype, chunk_mb, "lz4", solver, chunks=chunks)
                for solver in ("auto", "lbfgs")
            )
    for features, chunk_mb in itertools.product((10, 100, 1000, 2000), (8, 64)):
        yield from (
            Cell(features, "float32", chunk_mb, solver=solver)
            for solver in ("newton", "gradient_descent")
        )
    for kind, workers, solver in itertools.product(
        ("serial", "threads", "processes", "address"), (1, 2), ("auto", "lbfgs", "newton")
    ):
        if kind != "serial" or workers == 1:
            yield from (
                Cell(features, "float32", 32, solver=solver, kind=kind, workers=workers)
                for features in (10, 100, 1000, 4000)
            )
    for codec, chunk_mb in itertools.product(CODECS, (8, 100, 500)):
        yield Cell(100, "int16", chunk_mb, codec, "lbfgs", chunks=3)
    for layout, codec, chunk_mb in itertools.product(
        ("sharded", "axis 1", "narrow", "zip", "weights", "held out"),
        ("raw", "lz4", "zstd"),
        (4, 60),
    ):
        yield Cell(200, "float32", chunk_mb, codec, "lbfgs", layout=layout, chunks=8)
    for features, solver in itertools.product((10, 100), ("auto", "lbfgs", "newton")):
        yield Cell(features, "float32", 16, solver=solver, layout="held out")
    for kind, solver, limit_mb in itertools.product(
        ("serial", "threads", "processes"), ("auto", "lbfgs"), (500, 700, 2000)
    ):
        yield Cell(100, "float32", 16, solver=solver, kind=kind, chunks=32, limit_mb=limit_mb)
    for classes, features, kind in itertools.product(
        (10, 100), (10, 100, 500), ("serial", "threads", "processes", "address")
    ):
        yield from (
            Cell(
                features,
                "float32",
                16,
                solver=solver,
                kind=kind,
                workers=1 if kind == "serial" else 2,
                classes=classes,
            )
            for solver in ("auto", "lbfgs")
        )
    yield from (
        Cell(features, "float32", 8, solver="newton", classes=classes)
        for classes, features in ((10, 20), (10, 100), (100, 10))
    )
    yield from (
        Cell(2000, "float32", 64, solver=solver, classes=10, chunks=8)
        for solver in ("auto", "gradient_descent")
    )
    for kind, workers, solver in itertools.product(
        ("serial", "threads", "processes", "address"), (1, 2), ("auto", "lbfgs", "newton")
    ):
        if kind != "serial" or workers == 1:
            yield Cell(2000, "float32", 32, solver=solver, kind=kind, workers=workers)
    yield from (
        Cell(6000, "float32", 32, solver="newton", kind=kind, chunks=4, max_passes=2)
        for kind in ("threads", "processes", "address")
    )
    yield Cell(8000, "float32", 64, solver="newton", chunks=4, max_passes=2)
    for kind, workers, (chunk_mb, chunks), limit_mb in itertools.product(
        ("processes", "address"), (2, 4), ((4, 96), (32, 16)), (400, 800)
    ):
        yield Cell(
            100,
            "float32",
            chunk_mb,
            solver="lbfgs",
            kind=kind,
            workers=workers,
            chunks=chunks,
            limit_mb=limit_mb,
        )
    for features, kind in itertools.product((10, 100, 1000), ("threads", "processes")):
        yield Cell(features, "float32", 16, solver="proximal", kind=kind)
        yield from (
            Cell(
                features, "float32", 16, solver=solver, kind=kind, strengths=strengths, max_passes=3
            )
            for solver in ("auto", "proximal")
            for strengths in (4, 50)
        )
    for features, kind in itertools.product((10, 100, 1000), ("threads", "processes")):
        yield from (
            Cell(
                features,
                "float32",
                16,
                solver=solver,
                kind=kind,
                strengths=4,
                max_passes=3,
                free=True,
            )
            for solver in ("auto", "proximal")
        )
    yield Cell(100, "float32", 16, classes=10, strengths=4, max_passes=3)
    for features, kind in itertools.product(
        (10, 100, 1000, 4000), ("serial", "threads", "processes", "address")
    ):
        yield Cell(
            features,
            "float32",
            32,
            kind=kind,
            workers=1 if kind == "serial" else 2,
            family="linear",
            max_passes=3,
        )
    for features, family, chunk_mb in itertools.product(
        (10, 100, 500, 600, 2000), ("linear", "collinear"), (8, 64)
    ):
        yield Cell(features, "float32", chunk_mb, family=family, max_passes=3)
    yield from (
        Cell(20_000, "float32", 8, chunks=chunks, kind=kind, family="collinear", max_passes=2)
        for chunks, kind in itertools.product((1, 6, 12), ("serial", "threads", "processes"))
    )
    yield from (
        Cell(features, "float64", 16, solver="lbfgs", family="linear")
        for features in (50, 500, 2000)
    )
    yield Cell(100, "float32", 32, solver="lbfgs", kind="processes", workers=1, workers_threads=2)
    yield Cell(100, "float32", 64, solver="lbfgs", workers=4, limit_mb=450, chunks=8)
    yield Cell(
        100,
        "float32",
        64,
        solver="lbfgs",
        kind="processes",
        workers=1,
        workers_threads=4,
        limit_mb=450,
        chunks=8,
    )


def subset() -> Iterator[Cell]:
    """A few cells that have each kind of memory in them: the test of every day."""
    yield Cell(10, "float16", 4, "lz4", "auto", chunks=8)
    yield Cell(100, "float32", 32, "lz4", "lbfgs", "serial", chunks=3, workers=1, max_passes=2)
    yield Cell(100, "float64", 100, "raw", "lbfgs", chunks=3, max_passes=2)
    yield Cell(100, "int16", 64, "zstd", "gradient_descent", chunks=3, max_passes=2)
    yield Cell(600, "float32", 16, "lz4", "auto", chunks=8, max_passes=2)
    yield Cell(600, "float32", 16, "lz4", "auto", chunks=8, max_passes=2, family="linear")
    yield Cell(200, "float32", 16, "lz4", "auto", chunks=8, max_passes=3, family="collinear")
    yield Cell(20_000, "float32", 8, "lz4", "auto", max_passes=2, family="collinear")
    yield Cell(1000, "float32", 32, "lz4", "newton", chunks=4, max_passes=2)
    yield Cell(200, "float32", 16, "lz4", "lbfgs", layout="sharded", chunks=8, max_passes=2)
    yield Cell(100, "float32", 16, "lz4", "proximal", chunks=8, max_passes=2)
    yield Cell(100, "float32", 16, "lz4", "auto", chunks=8, max_passes=2, strengths=4)
    yield Cell(100, "float32", 16, "lz4", "auto", chunks=8, max_passes=2, strengths=4, free=True)
    yield Cell(200, "float32", 32, "lz4", "lbfgs", layout="axis 1", chunks=3, max_passes=2)
    yield Cell(200, "float32", 32, "lz4", "lbfgs", layout="zip", chunks=3, max_passes=2)
    yield Cell(100, "float32", 16, "lz4", "auto", "processes", chunks=12, max_passes=2)
    yield Cell(
        100,
        "float32",
        32,
        "lz4",
        "lbfgs",
        "processes",
        workers=1,
        workers_threads=4,
        limit_mb=300,
        chunks=6,
        max_passes=2,
    )
    yield Cell(
        100, "float32", 16, "lz4", "lbfgs", "address", chunks=12, limit_mb=1000, max_passes=2
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--subset", action="store_true", help="some cells that have each kind of memory in them"
    )
    parser.add_argument(
        "--only", nargs="*", default=[], help="cells whose title holds all of these texts"
    )
    parser.add_argument(
        "--out", type=Path, help="a file to which a line of JSON is added for each cell"
    )
    parser.add_argument("--folder", type=Path, help="where stores are written meanwhile")
    parser.add_argument("--fit", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.fit:
        fit(json.loads(options.fit))
        return
    wanted = (
        cell
        for cell in set(subset() if options.subset else grid())
        if all(text in cell.title for text in options.only)
    )
    cells = sorted(wanted, key=lambda cell: (cell.store_name, cell.title))
    outside = 0
    print(f"{'projected':>10}{'measured':>10}{'ratio':>7}{'worker':>16}  (MB)")
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        for store_name, group in itertools.groupby(cells, key=lambda cell: cell.store_name):
            store = Path(name, store_name)
            for number, cell in enumerate(group):
                if number == 0:
                    write(store, cell)
                outside += tell(cell, measure(cell, store), options.out)
            shutil.rmtree(store, ignore_errors=True)
            store.unlink(missing_ok=True)
    print(f"{len(cells)} cells, {outside} outside {LEAST} to {MOST}")
    sys.exit(1 if outside else 0)


def tell(cell: Cell, found: dict[str, Any], out: Path | None) -> bool:
    """Print a cell; whether it is outside the contract."""
    if out is not None:
        with open(out, "a", encoding="utf-8") as file:
            file.write(json.dumps({**asdict(cell), **found}) + "\n")
    if "error" in found:
        print(f"{'':27} {cell.title}: {found['error']}", flush=True)
        return True
    ratios = [found["peak_memory_bytes"] / found["projected_memory_bytes"]]
    worker = ""
    if found["worker_peak_memory_bytes"] is not None:
        ratios.append(found["worker_peak_memory_bytes"] / found["projected_worker_memory_bytes"])
        worker = (
            f"{found['projected_worker_memory_bytes'] / 1e6:.0f} "
            f"{found['worker_peak_memory_bytes'] / 1e6:.0f} {ratios[1]:.2f}"
        )
    bad = not all(LEAST <= ratio <= MOST for ratio in ratios)
    projected, peak = found["projected_memory_bytes"] / 1e6, found["peak_memory_bytes"] / 1e6
    print(
        f"{projected:10.0f}{peak:10.0f}{ratios[0]:7.2f}{worker:>16}{' ! ' if bad else '   '}{cell.title}",
        flush=True,
    )
    return bad


if __name__ == "__main__":
    main()
