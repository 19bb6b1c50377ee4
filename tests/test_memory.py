"""Memory is a contract: what is projected is what fresh processes come to, and a limit is kept by
means that leave the bits alone."""

from __future__ import annotations

import re
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import dask
import numpy as np
import pytest
from stores import any_values, bits, read_rows, two_class_data, write_store

from streamlr import train
from streamlr.config.sections import ClusterConfig, DataConfig, TrainConfig, load_config
from streamlr.data.chunks import stored_array as arrays_module
from streamlr.data.source import Buffer
from streamlr.data.sources.store import ZarrSource
from streamlr.errors import ChunkError, MemoryLimitError
from streamlr.execution import ENGINES, open_engine
from streamlr.execution import local as local_module
from streamlr.execution.engine import slab_sums
from streamlr.kernels.columns import Columns
from streamlr.kernels.scans.moments import SampledRows
from streamlr.pilot.sample import join_sample
from streamlr.pilot.size import is_dense
from streamlr.planning import workforce as workforce_module
from streamlr.planning.memory import RunShape, client_peak, local_peak, worker_peak
from streamlr.planning.plan import Plan, check_plan, make_plan
from streamlr.planning.workforce import workers_of

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"
MB = 1_000_000
ROWS, FEATURES, CHUNK = 60_000, 40, 6000
CHUNK_BYTES = CHUNK * FEATURES * 8


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Ten chunks of 1.9 MB: blocks of two."""
    return write_store(
        tmp_path_factory.mktemp("memory") / "store.zarr",
        *two_class_data(ROWS, FEATURES, dtype="float64"),
        (CHUNK, FEATURES),
        codec="blosc lz4",
    )


def settings(
    store: DataConfig,
    kind: str = "threads",
    limit: int | None = None,
    solver: str = "lbfgs",
    **cluster: Any,
) -> TrainConfig:
    return load_config(
        {
            "data": {"store": store.store, "sample_axis": store.sample_axis},
            "solver": {"name": solver},
            "cluster": {"kind": kind, "memory_limit": limit, **cluster},
        }
    )


def planned(config: TrainConfig, threads: int = 4) -> Plan:
    return make_plan(config, ZarrSource(config.data), workers_of(config.cluster, threads))


@pytest.fixture
def still_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process holds before a run is measured; here it is to be the same in every plan."""
    monkeypatch.setattr(workforce_module, "process_bytes", lambda: 80 * MB)


# measured -----------------------------------------------------------------------------------------


def test_fresh_processes_need_what_was_projected_and_no_less_than_two_thirds_of_it() -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "memory_contract.py"), "--subset"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    *lines, last = done.stdout.splitlines()[1:]
    assert last == f"{len(lines)} cells, 0 outside 0.67 to 1.0"
    assert len(lines) >= 12
    assert {kind for kind in ENGINES if any(f" {kind} " in line for line in lines)} == set(ENGINES)
    assert all(0.67 <= float(line.split()[2]) <= 1.0 for line in lines)


def test_blocks_that_are_freed_go_back_to_the_system_whatever_was_freed_before() -> None:
    """Left alone, the C library keeps blocks of up to 32 MiB once one of that size was freed."""
    program = """
import numpy as np
from streamlr.execution.process import process_bytes, configure_allocator
configure_allocator()
del (first := [np.ones(2**21)])[:]
before = process_bytes()
blocks = [np.ones(2**21) for _ in range(8)]
del blocks[:-1]
print(process_bytes() - before)
"""
    if not sys.platform.startswith("linux"):
        pytest.skip("other systems' allocators are left alone")
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 2 * 2**24  # one block of 16 MiB is left, and not the eight


# a limit, and what is done about it ---------------------------------------------------------------


def limits(config: TrainConfig) -> list[int]:
    """Projected peaks on 1, 2, ... 4 threads."""
    return [planned(config, threads).peak_bytes for threads in range(1, 5)]


def test_as_many_threads_work_as_fit_and_the_plan_says_so(
    store: DataConfig, still_process: None
) -> None:
    peaks = limits(settings(store))
    assert peaks == sorted(set(peaks))
    for threads, peak in enumerate(peaks, 1):
        found = planned(settings(store, limit=peak))
        assert found.threads == threads
        assert found.peak_bytes <= peak
        assert found.fitted == (
            ""
            if threads == 4
            else f"{threads} of 4 threads: {peak / 1e6:.0f} MB of cluster.memory_limit"
        )
        assert found.to_dict()["fitted"] == found.fitted
        check_plan(found)


def test_where_one_thread_does_not_fit_the_plan_is_refused_with_both_numbers(
    store: DataConfig, still_process: None
) -> None:
    least = limits(settings(store))[0]
    plan = planned(settings(store, limit=least - 1))
    assert plan.threads == 1
    needed, given = f"{least / 1e6:.0f} MB", f"{(least - 1) / 1e6:.0f} MB"
    with pytest.raises(
        MemoryLimitError,
        match=rf"needs about {needed} in one process \(1 thread in all.*memory_limit is {given}; "
        rf"raise the limit, or write",
    ):
        check_plan(plan)


def test_fewer_threads_change_no_bit_and_no_more_work_at_a_time(
    store: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    working, most, lock = 0, 0, threading.Lock()

    def counted(*arguments: Any) -> Any:
        nonlocal working, most
        with lock:
            working += 1
            most = max(most, working)
        try:
            return slab_sums(*arguments)
        finally:
            with lock:
                working -= 1

    monkeypatch.setattr(local_module, "slab_sums", counted)
    free = train(settings(store, workers=4))
    assert most > 1
    most = 0
    monkeypatch.setattr(workforce_module, "process_bytes", lambda: 80 * MB)
    limited = train(settings(store, limit=limits(settings(store))[0], workers=4))
    assert most == 1
    assert limited.model.coefficients_sha256 == free.model.coefficients_sha256


def test_threads_of_a_worker_process_take_turns_and_change_no_bit(
    store: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = train(settings(store, kind="serial"))
    monkeypatch.setattr(
        workforce_module, "process_bytes", lambda: 50 * MB
    )  # of the process that runs the tests; the worker is measured
    config = settings(store, "processes", workers=1, threads_per_worker=4)
    all_four = planned(config).worker_peak_bytes
    told: list[Any] = []
    limited = train(
        settings(store, "processes", limit=all_four - 20 * MB, workers=1, threads_per_worker=4),
        subscribers=[told.append],
    )
    assert any(re.search("[123] of 4 threads in each process", str(event)) for event in told)
    assert limited.model.coefficients_sha256 == free.model.coefficients_sha256
    assert (
        limited.summary["worker_peak_memory_bytes"]
        <= limited.summary["projected_worker_memory_bytes"]
    )


@pytest.mark.parametrize("kind", ["serial", "threads", "processes"])
def test_a_sample_is_made_smaller_last_and_by_the_limit_alone(
    kind: str, store: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sample decides the last bits, so nothing that is measured, and no engine, may have a part
    in its size."""
    wide = planned(settings(store, kind, 10**9, "auto"))
    assert wide.sample_fraction == 1.0
    assert "sample" not in wide.fitted
    found = []
    for held in (20 * MB, 60 * MB):
        monkeypatch.setattr(workforce_module, "process_bytes", lambda held=held: held)
        found.append(planned(settings(store, kind, 215 * MB, "auto")))
    assert found[0].sample_fraction == found[1].sample_fraction
    assert 0 < found[0].sample_fraction < 1
    assert (
        found[0].sample_fraction
        == planned(settings(store, "serial", 215 * MB, "auto"), 1).sample_fraction
    )
    assert "sample of" in found[0].fitted
    assert "215 MB of cluster.memory_limit" in found[0].fitted


def test_workers_of_ours_are_never_paused_and_nothing_is_moved_to_disk() -> None:
    with open_engine(ClusterConfig(kind="processes", workers=1, memory_limit=10**9)) as engine:
        client: Any = engine._client  # type: ignore[attr-defined]
        for threshold in ("target", "spill", "pause"):
            assert set(
                client.run(dask.config.get, f"distributed.worker.memory.{threshold}").values()
            ) == {False}
    assert dask.config.get("distributed.worker.memory.pause") == 0.8, (
        "the setting is for workers of ours alone"
    )


# what is projected --------------------------------------------------------------------------------


def demand(store: DataConfig, **changes: Any) -> RunShape:
    source = ZarrSource(store)
    partition = planned(settings(store)).partition
    plain = RunShape(
        partition,
        FEATURES,
        8,
        1,
        4,
        False,
        0,
        source.footprint(partition.block_rows),
        source.label_footprint(partition.block_rows),
    )
    return replace(plain, **changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"outputs": 3},
        {"candidates": 8},
        {"newton": True},
        {"sample_rows": 10_000},
        {"sample_rows": 10_000, "proximal": True},
    ],
)
def test_whatever_is_asked_for_besides_is_projected_too(
    changes: dict[str, Any], store: DataConfig
) -> None:
    assert local_peak(demand(store, n_features=500, **changes), 2, 0) > local_peak(
        demand(store, n_features=500), 2, 0
    )


def test_a_process_is_projected_by_its_own_threads_and_the_leader_without_data(
    store: DataConfig,
) -> None:
    plain = demand(store)
    one, two = (worker_peak(plain, threads, 3, 0) for threads in (1, 2))
    assert two > one + 2 * CHUNK_BYTES
    assert client_peak(plain, 2, 0) < 20 * MB
    assert client_peak(replace(plain, sample_rows=ROWS), 2, 0) > ROWS * FEATURES * 8


# large chunks in parts ----------------------------------------------------------------------------


@pytest.fixture
def small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrays_module, "_LARGEST_WHOLE_BYTES", 50_000)
    monkeypatch.setattr(arrays_module, "_PART_BYTES", 20_000)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("dtype", ["float16", "float32", "int64", "bool"])
def test_parts_of_raw_chunks_hold_what_whole_ones_do(
    dtype: str, zarr_format: int, tmp_path: Path, small_parts: None
) -> None:
    X = any_values(dtype, (3000, 70))
    source = ZarrSource(
        write_store(
            tmp_path / "s.zarr", X, np.arange(3000) % 2, (1000, 70), zarr_format=zarr_format
        )
    )
    parts = source.unit_rows
    assert parts & (parts - 1) == 0
    assert parts * 70 * X.dtype.itemsize <= 20_000 < 2 * parts * 70 * X.dtype.itemsize
    for step in (parts, 37, 1000, 2999):  # within a chunk, across two and over all
        assert bits(read_rows(source, step)) == bits(X)


@pytest.mark.parametrize("codec", ["blosc lz4", "zstd", "crc32c"])
def test_chunks_that_are_encoded_are_read_whole_and_projected_so(
    codec: str, tmp_path: Path, small_parts: None
) -> None:
    source = ZarrSource(
        write_store(
            tmp_path / "s.zarr", *two_class_data(3000, 70, dtype="float64"), (1000, 70), codec=codec
        )
    )
    assert source.unit_rows == 1000
    assert source.footprint(1000).decoded_bytes == 1000 * 70 * 8
    assert source.footprint(1000).stored_bytes == max(
        path.stat().st_size
        for path in (tmp_path / "s.zarr" / "X" / "c").rglob("*")
        if path.is_file()
    )


def test_parts_change_no_bit_and_are_those_of_a_store_with_small_chunks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small_parts: None
) -> None:
    """How a chunk is divided follows from the store alone."""
    monkeypatch.setattr("streamlr.data.partition._SMALLEST_BLOCK_BYTES", 0)
    X, y = two_class_data(4096, 20)
    large = write_store(tmp_path / "large.zarr", X, y, (2048, 20))
    small = write_store(tmp_path / "small.zarr", X, y, (128, 20))
    assert ZarrSource(large).unit_rows == ZarrSource(small).unit_rows == 128
    expected = train(settings(small, "serial")).model.coefficients_sha256
    for kind, limit in (("serial", None), ("threads", None), ("threads", 10**9)):
        assert train(settings(large, kind, limit)).model.coefficients_sha256 == expected


def test_a_large_chunk_that_is_stored_as_it_is_costs_the_memory_of_a_part(
    tmp_path: Path, still_process: None, small_parts: None
) -> None:
    X, y = two_class_data(4096, 20)
    whole, raw = (
        write_store(tmp_path / f"{codec}.zarr", X, y, (2048, 20), codec=codec)
        for codec in ("blosc lz4", "raw")
    )
    assert ZarrSource(raw).footprint(128).kept_bytes == 128 * 80
    assert ZarrSource(whole).footprint(2048).kept_bytes > 2048 * 80
    assert ZarrSource(whole).footprint(2048).passing_bytes == 0


def test_parts_of_damaged_and_of_missing_chunks_are_refused_by_name(
    tmp_path: Path, small_parts: None
) -> None:
    config = write_store(tmp_path / "s.zarr", *two_class_data(3000, 70), (1000, 70))
    chunk = tmp_path / "s.zarr" / "X" / "c" / "1" / "0"
    chunk.write_bytes(chunk.read_bytes()[:-1])
    source = ZarrSource(config)
    source.read_features(0, 1000, Buffer())
    with pytest.raises(
        ChunkError,
        match=r"chunk 1 of X \(rows 1000 to 1999\) is damaged: its file has 279999 bytes instead "
        r"of 280000",
    ):
        source.read_features(990, 1010, Buffer())
    chunk.unlink()
    with pytest.raises(ChunkError, match=r"chunk 1 of X .* is missing"):
        source.read_features(1500, 1600, Buffer())
    assert (
        ZarrSource(replace(config, missing_chunks="fill")).read_features(1500, 1600, Buffer()) == 0
    ).all()


# the sample ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("weighted", [False, True])
def test_sampled_rows_are_joined_in_their_order_and_let_go_of(weighted: bool) -> None:
    rng = np.random.default_rng(0)
    parts = [
        SampledRows(
            rng.random((size, 7)).astype(np.float32),
            Columns(rng.integers(0, 2, size), rng.random(size) if weighted else None),
        )
        for size in (3, 1, 900_000, 5)
    ]  # more than is given back at once
    X, target = (
        np.concatenate([part.X for part in parts]),
        np.concatenate([part.columns.target for part in parts]),
    )
    weights = (
        np.concatenate([part.weights for part in parts if part.weights is not None])
        if weighted
        else None
    )
    left = list(parts)
    found = join_sample(left)
    assert found is not None
    assert not left
    np.testing.assert_array_equal(found.X, X)
    np.testing.assert_array_equal(found.columns.target, target)
    assert (found.weights is None) == (weights is None)
    if weights is not None:
        np.testing.assert_array_equal(found.weights, weights)
    assert join_sample([]) is None


def test_the_script_names_its_cells(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "memory_contract.py"), "--only", "nothing of the kind"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(r"^0 cells, 0 outside", done.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("features", "outputs", "rows"),
    [
        (127, 2, 10**9),
        (128, 2, 305_000),
        (128, 2, 302_000),
        (1023, 2, 4_700),
        (1023, 2, 4_800),
        (1024, 2, 1_000),
        (4_096, 1, 10**9),
    ],
)
def test_what_is_projected_of_a_metric_is_what_the_pilot_makes_of_it(
    features: int, outputs: int, rows: int, store: DataConfig
) -> None:
    parameters = (features + 1) * outputs
    affordable = parameters <= 2048 and rows * parameters**2 <= 2e10
    wanted = outputs == 1 or parameters <= 256 or affordable
    shape = demand(store, n_features=features, outputs=outputs, sample_rows=rows)
    assert shape.dense_metric == wanted
    assert is_dense(rows, parameters, coupled=outputs > 1) == wanted
