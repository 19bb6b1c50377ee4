"""Workers that die, stop or hang, and a scheduler that is lost: the same bits or a clear error, and never a wait without end."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from stores import two_class_data, write_store

from streamlr import train
from streamlr.config import ClusterConfig, DataConfig
from streamlr.data.partition import Partition
from streamlr.data.source import ArraySource
from streamlr.data.store import ZarrSource
from streamlr.errors import ClusterError
from streamlr.execution import cluster as cluster_module
from streamlr.execution import open_engine
from streamlr.execution import workers as workers_module
from streamlr.execution.engine import Engine
from streamlr.execution.local import SerialEngine
from streamlr.execution.workers import Patience, within
from streamlr.kernels.gradient import GradientScan, GradientSums

ROWS, FEATURES, CHUNK = 3200, 5, 100
STALL_SECONDS = 6.0
SLABS = Partition(ROWS, CHUNK, CHUNK)
HELD = replace(SLABS, held_slabs=20)
SCAN = GradientScan("logistic", np.array([0, 1]), np.full((1, FEATURES, 1), 0.1), np.array([[0.2]]), None, False)


@dataclass(frozen=True)
class SlowScan:
    """The gradient, so slowly that there is time to do harm meanwhile; or not at all the first time that it comes to some row."""

    seconds: float
    hangs_at: int = -1
    hung: str = ""

    reads_features = True
    reads_target = True

    def sums(self, batch: Any, leaf_rows: int, workspace: Any) -> GradientSums:
        time.sleep(self.seconds)
        if batch.first_row == self.hangs_at and not os.path.exists(self.hung):
            with open(self.hung, "w", encoding="ascii"):
                pass
            time.sleep(10_000)
        return SCAN.sums(batch, leaf_rows, workspace)


@pytest.fixture(scope="module")
def data() -> tuple[NDArray[Any], NDArray[np.int64]]:
    return two_class_data(ROWS, FEATURES, dtype="float64")


@pytest.fixture(scope="module")
def store(data: Any, tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return write_store(tmp_path_factory.mktemp("faults") / "store.zarr", *data, (CHUNK, FEATURES), y_chunk=CHUNK)


@pytest.fixture(scope="module")
def expected(store: DataConfig) -> list[bytes]:
    return bits(SerialEngine().run(ZarrSource(store), SLABS, SCAN, lambda slab: None))


def bits(sums: GradientSums) -> list[bytes]:
    return [np.asarray(part).tobytes() for part in (sums.weight_sum, sums.loss_sum, sums.coefficient_sum, sums.intercept_sum)]


def processes(workers: int = 2) -> Any:
    return open_engine(ClusterConfig(kind="processes", workers=workers, stall_seconds=STALL_SECONDS))


def pids(engine: Any) -> list[int]:
    return sorted(engine._client.run(os.getpid).values())


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


class Once:
    """Does something when so many slabs are done."""

    def __init__(self, slabs: int, deed: Callable[[], None]) -> None:
        self.slabs = slabs
        self.deed = deed
        self.told: list[int] = []

    def __call__(self, slab: int) -> None:
        self.told.append(slab)
        if len(self.told) == self.slabs:
            self.deed()


def signalled(victims: list[int], number: int) -> Callable[[], None]:
    def deed() -> None:
        for victim in victims:
            os.kill(victim, number)
    return deed


# workers ---------------------------------------------------------------------------------------------------------------

SOURCES: dict[str, tuple[Callable[[DataConfig, Any], Any], Partition]] = {
    "streamed": (lambda store, data: ZarrSource(store), SLABS),
    "held": (lambda store, data: ZarrSource(store), HELD),
    "in memory": (lambda store, data: ArraySource(*data), SLABS),
}


@pytest.fixture(scope="module")
def engine(store: DataConfig) -> Iterator[Any]:
    """Two workers that have imported what they need."""
    with processes() as engine:
        engine.run(ZarrSource(store), SLABS, SCAN, lambda slab: None)
        yield engine


@pytest.mark.parametrize(("name", "victims", "number", "slabs"), [
    ("streamed", 2, signal.SIGKILL, 3), ("held", 2, signal.SIGKILL, 16), ("in memory", 2, signal.SIGKILL, SLABS.n_slabs),
    ("streamed", 1, signal.SIGSTOP, SLABS.n_slabs), ("held", 1, signal.SIGSTOP, 1), ("in memory", 2, signal.SIGSTOP, 16)])
def test_workers_that_die_or_stop_cost_no_bit(name: str, victims: int, number: int, slabs: int, engine: Any, store: DataConfig, data: Any, expected: list[bytes],
                                              monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    """Those that are stopped are killed for good, or they would not let the test end."""
    monkeypatch.setattr(workers_module, "_LEAST_SILENCE", 1.5)
    make, partition = SOURCES[name]
    source = make(store, data)
    caplog.set_level(logging.WARNING)
    t = time.time()
    once = Once(slabs, signalled(pids(engine)[:victims], number))
    assert bits(engine.run(source, partition, SlowScan(0.02), once)) == expected
    assert sorted(once.told) == list(range(partition.n_slabs))
    print(f"{time.time()-t:.1f}")
    assert bits(engine.run(source, partition, SCAN, lambda slab: None)) == expected
    print(f"{time.time()-t:.1f}")
    print([r.getMessage() for r in caplog.records])
    if number == signal.SIGSTOP:
        assert re.search(r"waiting for (the sum of all|\d+ of 32) slabs on tcp://.*: nothing finished for \d+ s", caplog.text)
        assert re.search(r"replacing tcp://.*, which gave no sign of life for", caplog.text)


def test_a_read_that_never_returns_is_done_elsewhere(engine: Any, store: DataConfig, expected: list[bytes], tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scan = SlowScan(0.0, 1200, str(tmp_path / "hung"))
    assert bits(engine.run(ZarrSource(store), SLABS, scan, lambda slab: None)) == expected
    assert re.search(r"waiting for \d+ of 32 slabs on tcp://\S+: nothing finished for \d+ s", caplog.text)
    assert re.search(r"replacing tcp://\S+, which finished nothing for \d s", caplog.text)
    assert (tmp_path / "hung").exists()


@pytest.mark.parametrize("victims", [1, 2])
def test_an_engine_with_stopped_workers_tells_its_peak_and_closes(victims: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster_module, "ASK_SECONDS", 2.0)
    monkeypatch.setattr(cluster_module, "CLOSE_SECONDS", 3)
    with processes() as engine:
        there = pids(engine)
        signalled(there[:victims], signal.SIGSTOP)()
        assert engine.peak_memory_bytes() > 2**20
    while any(alive(pid) for pid in there):  # or this process would wait for them at its end
        time.sleep(0.05)
