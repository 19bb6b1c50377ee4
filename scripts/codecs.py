#!/usr/bin/env python3
"""How fast chunks of each layout are read and decoded, GB/s of decoded data, page cache warm: what
the default layout rests on.

Three ways of reading, each in a fresh process: Zarr's own pipeline, the `zarrs` pipeline where it
is installed (pip install zarrs), and streamlr's reader of local files. Run it in the environment of
scripts/bench: .venv/bin/python scripts/codecs.py
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import zarr
from bench import in_threads
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec

LAYOUTS = {
    "raw": [],
    "raw + crc32c": [Crc32cCodec()],
    "lz4": [BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=4)],
    "lz4 + crc32c": [
        BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=4),
        Crc32cCodec(),
    ],
    "blosc zstd + crc32c": [
        BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle", typesize=4),
        Crc32cCodec(),
    ],
    "zstd": [ZstdCodec(level=0)],
    "sharded lz4 + crc32c": [
        BloscCodec(cname="lz4", clevel=5, shuffle="bitshuffle", typesize=4),
        Crc32cCodec(),
    ],
}
READERS = ("zarr", "zarrs", "streamlr")


def write(path: Path, layout: str, rows: int, features: int, chunk_rows: int) -> None:
    from streamlr.data.synth import Population, SynthSpec

    population = Population(SynthSpec(rows, features))
    group = zarr.open_group(path, mode="w", zarr_format=3)
    shards = (8 * chunk_rows, features) if layout.startswith("sharded") else None
    X = group.create_array(
        "X",
        shape=(rows, features),
        chunks=(chunk_rows, features),
        shards=shards,
        dtype=np.float32,
        compressors=LAYOUTS[layout] or None,
    )
    unit = 8 * chunk_rows
    for start in range(0, rows, unit):
        X[start : start + unit] = population.rows(start, min(start + unit, rows))[0]
    y = group.create_array("y", shape=(rows,), chunks=(rows,), dtype=np.int8)
    y[:] = np.arange(rows) % 2


def read(path: Path, reader: str, threads: int) -> float:
    """GB/s of one read, the best of three."""
    import threading

    if reader == "zarrs":
        import zarrs  # noqa: F401

        zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"})
    local = threading.local()
    if reader == "streamlr":
        from streamlr.config.sections import DataConfig
        from streamlr.data.source import Buffer
        from streamlr.data.sources.store import ZarrSource

        source = ZarrSource(DataConfig(store=str(path)))
        rows, total, width = source.chunk_rows, source.n_rows, source.n_features

        def work(i: int) -> None:
            if not hasattr(local, "buffer"):
                local.buffer = Buffer()
            source.features.read(i * rows, min((i + 1) * rows, total), local.buffer)
    else:
        X = zarr.open_array(path / "X", mode="r")
        rows, total, width = X.chunks[0], X.shape[0], X.shape[1]

        def work(i: int) -> None:
            X[i * rows : (i + 1) * rows]

    best = 0.0
    for _ in range(3):
        start = time.perf_counter()
        in_threads(work, -(-total // rows), threads)
        best = max(best, total * width * 4 / (time.perf_counter() - start) / 1e9)
    return best


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--features", type=int, default=100)
    parser.add_argument("--chunk-rows", type=int, nargs="+", default=[32768])
    parser.add_argument("--layouts", nargs="+", choices=list(LAYOUTS), default=list(LAYOUTS))
    parser.add_argument("--child", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        path, reader, threads = options.child
        print(json.dumps(read(Path(path), reader, int(threads))))
        return
    print(f"GB/s with 1 / 2 threads{'':16}" + "".join(f"{reader:>16}" for reader in READERS))
    for chunk_rows in options.chunk_rows:
        for layout in options.layouts:
            with tempfile.TemporaryDirectory() as folder:
                path = Path(folder, "s.zarr")
                write(path, layout, options.rows, options.features, chunk_rows)
                cells = []
                for reader in READERS:
                    rates = []
                    for threads in ("1", "2"):
                        done = subprocess.run(
                            [sys.executable, __file__, "--child", str(path), reader, threads],
                            capture_output=True,
                            text=True,
                            check=False,
                        )
                        rates.append(
                            f"{json.loads(done.stdout):.1f}" if done.returncode == 0 else "-"
                        )
                    cells.append(f"{' / '.join(rates):>16}")
                print(
                    f"{layout:24}{chunk_rows * options.features * 4 / 2**20:8.1f} MiB   "
                    + "".join(cells),
                    flush=True,
                )


if __name__ == "__main__":
    main()
