"""Where the sums are taken does not change a bit of them."""

from __future__ import annotations

import itertools
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from dask.callbacks import Callback
from distributed import LocalCluster
from distributed.diagnostics.plugin import SchedulerPlugin
from numpy.typing import NDArray
from threadpoolctl import threadpool_info

from streamlr import train
from streamlr.config.sections import ClusterConfig, DataConfig
from streamlr.data import partition as partition_module
from streamlr.data import source as source_module
from streamlr.data.partition import Partition
from streamlr.data.source import ArraySource
from streamlr.data.sources.store import ZarrSource
from streamlr.errors import NonFiniteError
from streamlr.execution import ENGINES, open_engine
from streamlr.execution import scanner as scanner_module
from streamlr.execution.engine import Engine
from streamlr.execution.local import SerialEngine
from streamlr.kernels.scans.gradient import GradientScan, GradientSums
from streamlr.training.train import TrainResult

Array = NDArray[np.float64]
ROWS, FEATURES, CHUNK = 6000, 5, 256
IN_PROCESS = ["serial", "threads"]


def arrays(rows: int = ROWS) -> tuple[Array, NDArray[np.int64]]:
    rng = np.random.default_rng(0)
    X = rng.normal(size=(rows, FEATURES)) * np.array([1, 10, 0.1, 3, 1])
    return X, (
        rng.random(rows) < 1 / (1 + np.exp(-X @ np.array([1, -0.1, 5, 0.2, 0.0]) - 0.5))
    ).astype(np.int64)


def write_store(
    path: Path, chunk: int = CHUNK, sample_axis: int = 0, bad: tuple[int, int] | None = None
) -> str:
    X, y = arrays()
    if bad is not None:
        X[bad] = np.nan
    group = zarr.create_group(str(path))
    across = sample_axis == 0
    group.create_array(
        "X",
        data=np.ascontiguousarray(X if across else X.T),
        chunks=(chunk, FEATURES) if across else (FEATURES, chunk),
    )
    group.create_array("y", data=y, chunks=(chunk,))
    return str(path)


def use_small_blocks(patch: pytest.MonkeyPatch) -> None:
    """One chunk a block, of a store as of arrays in memory, so that small data have many."""
    patch.setattr(partition_module, "_SMALLEST_BLOCK_BYTES", 0)
    patch.setattr(partition_module, "_LEAF_BYTES", 100 * FEATURES * 8)
    patch.setattr(source_module, "_MEMORY_CHUNK_BYTES", CHUNK * FEATURES * 8)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    use_small_blocks(monkeypatch)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    return write_store(tmp_path_factory.mktemp("engines") / "store.zarr")


def fit(
    store: str | None, *, sample_axis: int = 0, solver: str = "lbfgs", **cluster: Any
) -> TrainResult:
    """A solve from the store, or from the same data in memory."""
    config = {
        "data": {"store": store or "", "sample_axis": sample_axis},
        "solver": {"name": solver},
        "cluster": cluster,
    }
    X, y = arrays() if store is None else (None, None)
    return train(config, X=X, y=y)


@pytest.fixture(scope="module")
def reference(store: str) -> dict[str, str]:
    """Digests of the serial engine with one block a slab, by solver."""
    with pytest.MonkeyPatch.context() as patch:
        use_small_blocks(patch)
        patch.setattr(scanner_module, "with_slabs_for", lambda partition, *_: partition)
        return {
            solver: fit(store, solver=solver, kind="serial").model.coefficients_sha256
            for solver in ("lbfgs", "newton", "auto")
        }


def slabs_of(monkeypatch: pytest.MonkeyPatch, slab_blocks: int) -> None:
    monkeypatch.setattr(
        scanner_module,
        "with_slabs_for",
        lambda partition, *_: replace(partition, slab_blocks=slab_blocks),
    )


@contextmanager
def running(kind: str, workers: int = 2) -> Iterator[Engine]:
    """An engine of a kind; for ``address`` with a cluster of the test's own."""
    if kind != "address":
        with open_engine(ClusterConfig(kind=kind, workers=workers)) as engine:  # type: ignore[arg-type]
            yield engine
        return
    with LocalCluster(
        n_workers=workers, threads_per_worker=1, dashboard_address=None, silence_logs=50
    ) as cluster:
        config = ClusterConfig(kind="address", address=cluster.scheduler_address)
        with open_engine(config) as engine:
            yield engine


def blas_threads() -> list[int]:
    return [info["num_threads"] for info in threadpool_info() if info["user_api"] == "blas"]


SCAN = GradientScan(
    "logistic",
    np.array([0, 1]),
    np.full((2, FEATURES, 1), 0.1),
    np.array([[0.2], [-0.2]]),
    None,
    True,
)
PARTITION = Partition(ROWS, CHUNK, 100)


def bits(sums: GradientSums) -> list[bytes]:
    assert sums.hessian_sum is not None
    return [
        np.asarray(part).tobytes()
        for part in (
            sums.weight_sum,
            sums.loss_sum,
            sums.coefficient_sum,
            sums.intercept_sum,
            sums.hessian_sum,
        )
    ]


# the same bits ------------------------------------------------------------------------------------


@pytest.mark.parametrize("slab_blocks", [1, 2, 4, 8, 16, 64])
@pytest.mark.parametrize("kind", IN_PROCESS)
def test_the_slab_size_does_not_change_a_bit(
    kind: str,
    slab_blocks: int,
    store: str,
    reference: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    slabs_of(monkeypatch, slab_blocks)
    assert fit(store, kind=kind).model.coefficients_sha256 == reference["lbfgs"]


@pytest.mark.parametrize("solver", ["lbfgs", "newton", "auto"])
@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_the_number_of_threads_does_not_change_a_bit(
    workers: int, solver: str, store: str, reference: dict[str, str]
) -> None:
    assert (
        fit(store, solver=solver, kind="threads", workers=workers).model.coefficients_sha256
        == reference[solver]
    )


@pytest.mark.parametrize("workers", [1, 2, 3, 7])
def test_the_number_of_worker_processes_does_not_change_a_bit(
    workers: int, store: str, reference: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    slabs_of(monkeypatch, workers if workers in (1, 2) else 4)
    assert (
        fit(store, solver="auto", kind="processes", workers=workers).model.coefficients_sha256
        == reference["auto"]
    )


def test_a_cluster_that_is_there_already_gives_the_same_bits_for_stores_and_for_arrays(
    store: str, reference: dict[str, str]
) -> None:
    with LocalCluster(
        n_workers=2, threads_per_worker=2, dashboard_address=None, silence_logs=50
    ) as cluster:
        for where in (store, None):
            found = fit(where, kind="address", address=cluster.scheduler_address)
            assert found.model.coefficients_sha256 == reference["lbfgs"]


@pytest.mark.parametrize("kind", [*IN_PROCESS, "processes"])
def test_arrays_in_memory_have_the_bits_of_a_store_with_the_same_chunks(
    kind: str, reference: dict[str, str]
) -> None:
    assert fit(None, kind=kind, workers=2).model.coefficients_sha256 == reference["lbfgs"]


def test_every_engine_is_held_to_the_same_bits_here() -> None:
    assert set(ENGINES) == {*IN_PROCESS, "processes", "address"}


@pytest.mark.parametrize("kind", IN_PROCESS)
def test_the_direct_path_gives_the_bits_of_zarr_s_own(kind: str, store: str) -> None:
    found = []
    with running(kind) as engine:
        for direct in (True, False):
            found.append(
                bits(
                    engine.run(
                        ZarrSource(DataConfig(store=store), direct=direct),
                        PARTITION,
                        SCAN,
                        lambda slab: None,
                    )
                )
            )
    assert found[0] == found[1]


@pytest.mark.parametrize("sample_axis", [0, 1])
@pytest.mark.parametrize("chunk", [37, 100, 1000, ROWS])
def test_chunks_and_orientations_agree_to_rounding(
    chunk: int, sample_axis: int, store: str, tmp_path: Path
) -> None:
    plain = fit(store, kind="serial").model
    other = fit(
        write_store(tmp_path / "other.zarr", chunk, sample_axis),
        sample_axis=sample_axis,
        kind="serial",
    ).model
    np.testing.assert_allclose(other.coef_, plain.coef_, rtol=1e-9)
    np.testing.assert_allclose(other.intercept_, plain.intercept_, rtol=1e-9)


# what a pass costs --------------------------------------------------------------------------------


def test_a_pass_on_threads_is_a_task_for_each_slab_and_a_shallow_tree(store: str) -> None:
    started: list[Any] = []
    with running("threads") as engine, Callback(pretask=lambda key, *_: started.append(key)):
        engine.run(
            ZarrSource(DataConfig(store=store)), Partition(ROWS, 16, 16), SCAN, lambda slab: None
        )
    slabs = -(-ROWS // 16)
    assert slabs <= len(started) <= 1.16 * slabs


class TaskCounter(SchedulerPlugin):
    """Names of the tasks that a worker finished."""

    def __init__(self) -> None:
        self.finished: set[str] = set()

    def transition(self, key: Any, start: str, finish: str, *args: Any, **kwargs: Any) -> None:
        if start == "processing" and finish == "memory":
            self.finished.add(str(key))


def test_a_pass_on_a_cluster_is_a_task_for_each_slab_and_a_shallow_tree(store: str) -> None:
    slabs = 240
    with LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None, silence_logs=50
    ) as cluster:
        counter = TaskCounter()
        cluster.scheduler.add_plugin(counter, name="counter")
        with open_engine(
            ClusterConfig(kind="address", address=cluster.scheduler_address)
        ) as engine:
            engine.run(
                ZarrSource(DataConfig(store=store)),
                Partition(ROWS, ROWS // slabs, 16),
                SCAN,
                lambda slab: None,
            )
    # 240 slabs, 30 + 4 + 1 sums, and the source, the partition and the scan
    assert slabs <= len(counter.finished) <= 1.17 * slabs


@pytest.mark.parametrize("kind", IN_PROCESS)
def test_every_slab_is_told_once_from_the_thread_that_asked(kind: str, store: str) -> None:
    told: list[int] = []
    threads: set[int] = set()

    def done(slab: int) -> None:
        told.append(slab)
        threads.add(threading.get_ident())

    with running(kind) as engine:
        engine.run(ZarrSource(DataConfig(store=store)), PARTITION, SCAN, done)
    assert sorted(told) == list(range(PARTITION.n_slabs))
    assert threads == {threading.get_ident()}


# what an engine leaves behind ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", IN_PROCESS)
@pytest.mark.parametrize("fails", [False, True])
def test_blas_has_its_threads_back_afterwards(
    kind: str, fails: bool, store: str, tmp_path: Path
) -> None:
    before = blas_threads()
    if fails:
        with pytest.raises(NonFiniteError, match="non-finite"):
            fit(write_store(tmp_path / "bad.zarr", bad=(1000, 2)), kind=kind)
    else:
        fit(store, kind=kind)
    assert blas_threads() == before


class NotesBlas:
    """A scan that notes how many threads BLAS has while it runs."""

    reads_features = False
    reads_target = False

    def __init__(self, seen: set[int]) -> None:
        self.seen = seen

    def sums(self, batch: Any, leaf_rows: int, workspace: Any) -> float:
        self.seen.update(blas_threads())
        return 0.0


@pytest.mark.parametrize("kind", IN_PROCESS)
def test_blas_has_one_thread_while_sums_are_taken(kind: str) -> None:
    seen: set[int] = set()
    with running(kind) as engine:
        engine.run(ArraySource(*arrays()), PARTITION, NotesBlas(seen), lambda slab: None)
    assert seen == {1}


def test_the_same_engine_serves_several_sources_and_partitions() -> None:
    """Arrays that were sent out before must not be taken for others, or for other parts of
    themselves."""
    X, y = arrays()
    with running("processes") as engine:
        for source, rows in itertools.product(
            (ArraySource(X, y), ArraySource(2 * X, y)), (CHUNK, 2 * CHUNK)
        ):
            partition = Partition(ROWS, rows, 100)
            expected = SerialEngine().run(source, partition, SCAN, lambda slab: None)
            assert bits(engine.run(source, partition, SCAN, lambda slab: None)) == bits(expected)


# failures -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [*IN_PROCESS, "processes"])
def test_an_error_in_a_task_arrives_as_itself(kind: str, tmp_path: Path) -> None:
    path = write_store(tmp_path / "bad.zarr", bad=(1000, 2))
    with pytest.raises(
        NonFiniteError,
        match=r"chunk 3 of X in .*bad\.zarr holds 1 non-finite value \(first: nan at row 1000, "
        r"feature 2\); clean the source",
    ):
        fit(path, kind=kind, workers=2)


class Killer:
    """Kills a worker process the first time that a slab is told to be done."""

    def __init__(self, engine: Any) -> None:
        self.victim = next(iter(engine._client.run(os.getpid).values()))
        self.told: list[int] = []

    def __call__(self, slab: int) -> None:
        if not self.told:
            os.kill(self.victim, signal.SIGKILL)
        self.told.append(slab)


SOURCES: dict[str, Callable[[str], Any]] = {
    "store": lambda store: ZarrSource(DataConfig(store=store)),
    "arrays": lambda store: ArraySource(*arrays()),
}


@pytest.mark.parametrize("name", list(SOURCES))
def test_a_worker_that_is_killed_during_a_pass_costs_no_bit(name: str, store: str) -> None:
    source, partition = SOURCES[name](store), Partition(ROWS, 16, 16)
    expected = SerialEngine().run(source, partition, SCAN, lambda slab: None)
    with running("processes") as engine:
        killer = Killer(engine)
        found = engine.run(source, partition, SCAN, killer)
    assert bits(found) == bits(expected)
    assert sorted(killer.told) == list(range(partition.n_slabs))
