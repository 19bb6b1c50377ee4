"""Slabs that stay in memory after their first read: fewer reads of the store, the same bits."""

from __future__ import annotations

import os
import signal
import sys
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from stores import two_class_data, write_store

from streamlr import train
from streamlr.config.sections import ClusterConfig, DataConfig, TrainConfig, load_config
from streamlr.data import partition as partition_module
from streamlr.data.partition import Partition, partition_rows
from streamlr.data.source import ArraySource, Buffer
from streamlr.data.sources.resident import ResidentRows
from streamlr.data.sources.store import ZarrSource
from streamlr.execution import ENGINES, open_engine
from streamlr.execution import scanner as scanner_module
from streamlr.execution.cluster.engine import ClusterEngine
from streamlr.execution.local import SerialEngine
from streamlr.kernels.scans.gradient import GradientScan
from streamlr.planning import workforce as workforce_module
from streamlr.planning.memory import WORKER_BYTES
from streamlr.planning.plan import Plan, make_plan
from streamlr.planning.workforce import workers_of
from streamlr.testing import CountingSource
from streamlr.training.train import TrainResult

ROWS, FEATURES, CHUNK = 3000, 5, 100
ROW_BYTES = FEATURES * 8
LIMITED = sorted(set(ENGINES) - {"address"})
"""Engines whose memory a configuration can limit; an address has workers with limits of their own.
"""


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    X, y = two_class_data(ROWS, FEATURES, dtype="float64")
    weights = np.random.default_rng(1).uniform(0.5, 2.0, ROWS)
    return write_store(
        tmp_path_factory.mktemp("held") / "store.zarr",
        X,
        y,
        (CHUNK, FEATURES),
        y_chunk=CHUNK,
        weights=weights,
        codec="blosc lz4",
    )


@pytest.fixture(autouse=True)
def still_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process holds before a run is measured; here slabs are so small that the same has to
    be found each time."""
    monkeypatch.setattr(workforce_module, "process_bytes", lambda: 60_000_000)
    monkeypatch.setattr(ClusterEngine, "memory_of_workers", lambda self, peak: WORKER_BYTES)


@pytest.fixture(autouse=True)
def small_slabs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two chunks a slab, so that small data have fifteen."""
    monkeypatch.setattr(partition_module, "_SMALLEST_BLOCK_BYTES", 0)
    monkeypatch.setattr(partition_module, "_LEAF_BYTES", 64 * FEATURES * 8)
    monkeypatch.setattr(
        scanner_module, "with_slabs_for", lambda partition, *_: replace(partition, slab_blocks=2)
    )


def settings(store: DataConfig, kind: str, limit: int | None) -> TrainConfig:
    assert store.weights is not None
    return load_config(
        {
            "data": {"store": store.store, "weights": store.weights},
            "solver": {"name": "lbfgs"},
            "cluster": {
                "kind": kind,
                "workers": None if kind == "serial" else 2,
                "memory_limit": limit,
            },
        }
    )


def planned(config: TrainConfig) -> Plan:
    return make_plan(
        config,
        ZarrSource(config.data),
        workers_of(config.cluster, 1 if config.cluster.kind == "serial" else 2),
    )


def limit_for(store: DataConfig, kind: str, slabs: int) -> int:
    """The least limit, to a kilobyte, under which so many slabs are held."""
    few, many = 1, 2**31
    while many - few > 1024:
        middle = (few + many) // 2
        few, many = (
            (few, middle)
            if planned(settings(store, kind, middle)).partition.resident_slabs >= slabs
            else (middle, many)
        )
    return many


def fit(store: DataConfig, kind: str, limit: int | None) -> TrainResult:
    return train(settings(store, kind, limit))


@pytest.fixture(scope="module")
def streaming(store: DataConfig) -> TrainResult:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(partition_module, "_SMALLEST_BLOCK_BYTES", 0)
        patch.setattr(partition_module, "_LEAF_BYTES", 64 * FEATURES * 8)
        return fit(store, "serial", None)


# the same bits, for fewer bytes -------------------------------------------------------------------


@pytest.mark.parametrize("slabs", [1, 7, 15])
@pytest.mark.parametrize("kind", LIMITED)
def test_held_slabs_do_not_change_a_bit_and_are_read_once(
    kind: str, slabs: int, store: DataConfig, streaming: TrainResult
) -> None:
    limit = limit_for(store, kind, slabs)
    resident_slabs = planned(settings(store, kind, limit)).partition.resident_slabs
    assert resident_slabs == slabs
    found = fit(store, kind, limit)
    assert found.model.coefficients_sha256 == streaming.model.coefficients_sha256
    read = [line["bytes_read"] for line in found.history]
    whole = streaming.history[0]["bytes_read"]
    assert read[0] == whole
    assert len(read) > 2
    assert set(read[1:]) == {
        round(whole * (1 - 2 * CHUNK * slabs / ROWS))
    }  # pro rata: chunks are charged by their rows
    assert found.summary["bytes_read"] == sum(read)


def test_without_a_limit_nothing_is_held(store: DataConfig, streaming: TrainResult) -> None:
    assert planned(settings(store, "threads", None)).partition.resident_slabs == 0
    assert len({line["bytes_read"] for line in streaming.history}) == 1


@pytest.mark.parametrize("kind", ["serial", "threads"])
def test_the_store_is_really_read_once_where_slabs_are_held(
    kind: str, store: DataConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is told of the bytes is held against the reads that the store sees."""
    reads: Counter[int] = Counter()
    read = ZarrSource.read_features

    def counted(self: ZarrSource, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        reads.update([start])
        return read(self, start, stop, buffer)

    monkeypatch.setattr(ZarrSource, "read_features", counted)
    found = fit(store, kind, limit_for(store, kind, 7))
    resident_rows = 7 * 2 * CHUNK
    assert sorted(reads) == list(range(0, ROWS, CHUNK))
    assert {reads[start] for start in reads if start < resident_rows} == {1}
    assert {reads[start] for start in reads if start >= resident_rows} == {found.passes}


# failures -----------------------------------------------------------------------------------------


class KillsAHolder:
    """Kills a worker process that holds slabs, the first time that a slab is told to be done."""

    def __init__(self, engine: Any) -> None:
        holders = {
            address: [key for key in keys if "-resident-" in str(key)]
            for address, keys in engine._client.has_what().items()
        }
        self.address, self.lost = max(holders.items(), key=lambda item: len(item[1]))
        self.victim = engine._client.run(os.getpid)[self.address]
        self.told: list[int] = []

    def __call__(self, slab: int) -> None:
        if not self.told:
            os.kill(self.victim, signal.SIGKILL)
        self.told.append(slab)


def test_a_killed_worker_that_holds_slabs_costs_no_bit(store: DataConfig) -> None:
    source = ZarrSource(store)
    partition = replace(partition_rows(ROWS, FEATURES, CHUNK, 8), slab_blocks=2, resident_slabs=9)
    scan = GradientScan(
        "logistic", np.array([0, 1]), np.full((1, FEATURES, 1), 0.1), np.array([[0.2]]), None, False
    )
    expected = SerialEngine().run(
        source, replace(partition, resident_slabs=0), scan, lambda slab: None
    )
    with open_engine(ClusterConfig(kind="processes", workers=2)) as engine:
        first = engine.run(source, partition, scan, lambda slab: None)
        killer = KillsAHolder(engine)
        second = engine.run(source, partition, scan, killer)
        third = engine.run(source, partition, scan, lambda slab: None)
    assert len(killer.lost) >= 4, (
        "nine slabs on two workers, dealt out by turns; an idle worker may take over some"
    )
    assert sorted(killer.told) == list(range(partition.n_slabs))
    for sums in (first, second, third):
        for part in ("loss_sum", "coefficient_sum", "intercept_sum", "weight_sum"):
            assert (
                np.asarray(getattr(sums, part)).tobytes()
                == np.asarray(getattr(expected, part)).tobytes()
            )


# the rows that are kept ---------------------------------------------------------------------------


def test_rows_inside_are_kept_and_all_others_are_read_again() -> None:
    X, y = two_class_data(40, 3, dtype="float64")
    source = CountingSource(ArraySource(X, y, np.arange(40.0)))
    held, buffer = ResidentRows(source, 10, 30), Buffer()
    for _ in range(3):
        for start in range(0, 40, 10):
            np.testing.assert_array_equal(
                held.read_features(start, start + 10, buffer), X[start : start + 10].T
            )
            np.testing.assert_array_equal(
                held.read_columns(start, start + 10).target, y[start : start + 10]
            )
            np.testing.assert_array_equal(
                held.read_columns(start, start + 10).weights, np.arange(start, start + 10.0)
            )
    assert source.of_each_row("features").tolist() == [3] * 10 + [1] * 20 + [3] * 10


def test_what_is_kept_outlives_the_buffer_that_others_read_into(store: DataConfig) -> None:
    held, buffer = ResidentRows(ZarrSource(store), 0, CHUNK), Buffer()
    kept = held.read_features(0, CHUNK, buffer)
    before = kept.copy()
    held.read_features(CHUNK, 2 * CHUNK, buffer)
    np.testing.assert_array_equal(held.read_features(0, CHUNK, buffer), before)
    assert held.read_features(0, CHUNK, buffer) is kept


def test_the_bytes_held_are_told_to_whoever_asks_for_the_size(store: DataConfig) -> None:
    held = ResidentRows(ZarrSource(store), 0, ROWS)
    empty = sys.getsizeof(held)
    held.read_features(0, CHUNK, Buffer())
    target, weights = held.read_columns(0, CHUNK).target, held.read_columns(0, CHUNK).weights
    assert weights is not None
    grown = sys.getsizeof(held) - empty
    assert (
        0 <= grown - (CHUNK * ROW_BYTES + target.nbytes + weights.nbytes) < 1024
    )  # the dictionary itself


def test_a_source_that_holds_says_of_itself_what_the_store_says(store: DataConfig) -> None:
    source = ZarrSource(store)
    held = ResidentRows(source, 0, CHUNK)
    for name in (
        "n_rows",
        "n_features",
        "dtype",
        "chunk_rows",
        "weighted",
        "feature_names",
        "stored_bytes",
        "modified",
    ):
        assert getattr(held, name) == getattr(source, name)
    assert held.describe("features") == source.describe("features")


def test_held_rows_end_with_the_data() -> None:
    assert Partition(250, 100, 100, slab_blocks=2, resident_slabs=1).resident_rows == 200
    assert Partition(250, 100, 100, slab_blocks=2, resident_slabs=2).resident_rows == 250
