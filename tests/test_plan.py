"""What a run is said to need before it starts, and what it then does."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from dask.callbacks import Callback
from stores import two_class_data, write_store

from streamlr import train
from streamlr.cli.main import cli
from streamlr.config.sections import DataConfig, TrainConfig, load_config
from streamlr.data import partition as partition_module
from streamlr.data.partition import Partition, partition_rows, with_resident_slabs, with_slabs_for
from streamlr.data.source import ArraySource
from streamlr.data.sources.store import ZarrSource
from streamlr.errors import MemoryLimitError
from streamlr.execution import open_engine
from streamlr.kernels.scans.gradient import GradientScan
from streamlr.planning import workforce as workforce_module
from streamlr.planning.memory import TAKEN_OVER_SLABS
from streamlr.planning.plan import Plan, check_plan, make_plan
from streamlr.planning.workforce import WorkerLayout, workers_of

ROWS, FEATURES, CHUNK = 4000, 6, 50
GIB = 2**30


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return write_store(
        tmp_path_factory.mktemp("plan") / "store.zarr",
        *two_class_data(ROWS, FEATURES),
        (CHUNK, FEATURES),
    )


def settings(
    store: DataConfig, limit: int | None = None, kind: str = "threads", **solver: Any
) -> TrainConfig:
    return load_config(
        {
            "data": {"store": store.store},
            "solver": solver,
            "cluster": {"kind": kind, "memory_limit": limit},
        }
    )


def planned(
    store: DataConfig,
    limit: int | None = None,
    kind: str = "threads",
    threads: int = 2,
    **solver: Any,
) -> Plan:
    config = settings(store, limit, kind, **solver)
    return make_plan(config, ZarrSource(config.data), workers_of(config.cluster, threads))


@pytest.fixture(autouse=True)
def still_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a process holds before the run is measured; here it is to be the same in every plan."""
    monkeypatch.setattr(workforce_module, "process_bytes", lambda: 100_000_000)


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition_module, "_SMALLEST_BLOCK_BYTES", 0)


# slabs --------------------------------------------------------------------------------------------


def sized(n_blocks: int, block_bytes: int, threads: int) -> Partition:
    """Slabs of so many chunks of so many bytes."""
    return with_slabs_for(Partition(n_blocks * 1000, 1000, 1000), threads, block_bytes // 1000)


def slab_bytes(partition: Partition, block_bytes: int) -> int:
    return partition.slab_blocks * block_bytes


def test_a_hundred_thousand_chunks_are_not_a_hundred_thousand_tasks() -> None:
    found = sized(100_000, 8_000_000, 4)
    assert found.n_slabs <= 100_000 / 100
    assert found.n_slabs >= 4 * 8, "and still enough to keep all threads busy to the end"


def test_more_data_mean_larger_slabs_and_not_more_tasks() -> None:
    found = [sized(2**k, 8_000_000, 8) for k in range(4, 18)]
    sizes = [partition.slab_blocks for partition in found]
    assert sizes == sorted(sizes)
    assert sizes[-1] > 32 * sizes[0]
    below = [
        partition.n_slabs for partition in found if slab_bytes(partition, 8_000_000) <= 4 * GIB
    ]
    assert (
        max(below) <= 512
        # below 4 TiB the square root of 4 TiB / 7 MB is 793, and a power of two of blocks comes
        # within a factor of two below
    )


@pytest.mark.parametrize("block_bytes", [1_000_000, 8_000_000, 64_000_000, GIB // 1000 * 1000])
@pytest.mark.parametrize("threads", [1, 2, 100])
def test_a_slab_is_never_larger_than_8_gib(block_bytes: int, threads: int) -> None:
    found = sized(
        100_000_000, block_bytes, threads
    )  # 100 TB and more: enough for slabs of any size
    assert 4 * GIB < slab_bytes(found, block_bytes) <= 8 * GIB


def test_a_chunk_that_is_larger_than_a_slab_may_be_is_a_slab_by_itself() -> None:
    assert sized(1000, 9 * GIB // 1000 * 1000, 2).slab_blocks == 1


@pytest.mark.parametrize("threads", [1, 2, 7, 64])
@pytest.mark.parametrize("n_blocks", [1, 2, 15, 16, 100, 1001, 65_536])
def test_a_slab_is_a_power_of_two_of_chunks_and_threads_have_enough_of_them(
    n_blocks: int, threads: int
) -> None:
    found = sized(n_blocks, 1_000_000, threads)
    assert found.slab_blocks & (found.slab_blocks - 1) == 0
    assert found.n_slabs >= min(
        n_blocks, (8 if threads <= 16 else 2) * threads
    )  # many threads cost the scheduler more than idle ends cost them
    assert [found.rows_of_slab(slab)[0] for slab in range(1, found.n_slabs)] == [
        found.rows_of_slab(slab)[1] for slab in range(found.n_slabs - 1)
    ]
    assert found.rows_of_slab(0)[0] == 0
    assert found.rows_of_slab(found.n_slabs - 1)[1] == n_blocks * 1000


def test_blocks_and_leaves_do_not_follow_the_threads() -> None:
    plain = partition_rows(10**7, 100, 10_000, 4)
    for threads in (1, 3, 100):
        assert replace(with_slabs_for(plain, threads, 400), slab_blocks=1) == plain


# what is held -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "slabs"), [(-1, 0), (0, 0), (1599, 0), (1600, 1), (4799, 2), (10**9, 5)]
)
def test_as_many_slabs_are_held_as_fit_whole(budget: int, slabs: int) -> None:
    partition = Partition(1000, 100, 100, slab_blocks=2)  # five slabs of 200 rows, 8 bytes each
    assert with_resident_slabs(partition, budget, 8).resident_slabs == slabs


@pytest.mark.parametrize("kind", ["serial", "threads", "processes"])
def test_what_is_held_counts_in_the_projected_peak_and_stays_within_the_limit(
    kind: str, store: DataConfig, small_blocks: None
) -> None:
    threads = 1 if kind == "serial" else 2
    plain = planned(store, None, kind, threads, name="lbfgs")
    assert plain.partition.resident_slabs == 0
    held = planned(store, 10**9, kind, threads, name="lbfgs")
    assert held.partition.resident_slabs == held.partition.n_slabs
    slab = held.partition.slab_blocks * CHUNK * FEATURES * 4
    share = slab * (
        -(-held.partition.n_slabs // 2) + TAKEN_OVER_SLABS
        if kind == "processes"
        else held.partition.n_slabs
    )
    grown = held.worker_peak_bytes - plain.worker_peak_bytes - min(share, plain.data_bytes)
    spared = 1.05 * threads * CHUNK * FEATURES * 4  # a block that is held is not also in a buffer
    assert -spared - 1 <= grown <= 0
    assert held.to_dict()["held_bytes"] == held.data_bytes == ROWS * FEATURES * 4
    check_plan(held)


def test_a_tight_limit_holds_a_part_and_the_peak_still_fits(
    store: DataConfig, small_blocks: None
) -> None:
    peak = planned(store, name="lbfgs").peak_bytes
    half = planned(store, round((peak + ROWS * FEATURES * 4 / 2) / 0.95), name="lbfgs")
    assert half.memory_limit is not None
    assert (
        0.3 * half.partition.n_slabs
        < half.partition.resident_slabs
        <= 0.5 * half.partition.n_slabs + 1
    )
    assert half.peak_bytes <= half.memory_limit


def test_arrays_in_memory_are_not_held_twice(store: DataConfig) -> None:
    source = ArraySource(*two_class_data(ROWS, FEATURES), None)
    assert (
        make_plan(
            settings(store, 10**9), source, WorkerLayout(2, 2, True, 0, 0)
        ).partition.resident_slabs
        == 0
    )


# the limit ----------------------------------------------------------------------------------------


def test_a_plan_over_its_limit_is_refused_with_both_numbers_and_the_remedy(
    store: DataConfig,
) -> None:
    plan = planned(store, 50_000_000)
    needed = f"{plan.peak_bytes / 1e6:.0f} MB"
    assert plan.peak_bytes > 100_000_000
    with pytest.raises(
        MemoryLimitError,
        match=rf"needs about {needed} in one process .*memory_limit is 50 MB; raise the limit, or "
        rf"write the store in smaller",
    ):
        check_plan(plan)


def test_training_over_the_limit_is_refused_before_anything_is_read_or_written(
    store: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unread(*args: Any, **options: Any) -> Any:
        raise AssertionError("rows were read")

    for name in ("read_features", "read_columns"):
        monkeypatch.setattr(ZarrSource, name, unread)
    config = {
        "data": {"store": store.store},
        "cluster": {"memory_limit": "50MB"},
        "run": {"directory": str(tmp_path / "run")},
    }
    with pytest.raises(MemoryLimitError, match="memory_limit is 50 MB"):
        train(config)
    assert not list(tmp_path.rglob("history.jsonl"))


def test_a_plan_within_its_limit_and_one_without_a_limit_are_accepted(store: DataConfig) -> None:
    check_plan(planned(store, None))
    check_plan(planned(store, 10**9))


# what is told is what is done ---------------------------------------------------------------------


@pytest.mark.parametrize("n_slabs", [1, 2, 8, 9, 64, 65, 500])
def test_tasks_per_pass_are_the_tasks_that_a_pass_has(n_slabs: int) -> None:
    X, y = two_class_data(1000, FEATURES)
    partition = Partition(1000, -(-1000 // n_slabs), 100)
    scan = GradientScan(
        "logistic", np.array([0, 1]), np.zeros((1, FEATURES, 1)), np.zeros((1, 1)), None, False
    )
    plan = Plan("lbfgs", "", partition, FEATURES, "float32", 2, 1, None, 0.0, 24, 1, None)
    started: set[Any] = set()
    with (
        open_engine(load_config({"data": {"store": "none"}}).cluster) as engine,
        Callback(pretask=lambda key, *_: started.add(key)),
    ):
        engine.run(ArraySource(X, y, None), partition, scan, lambda slab: None)
    ours = {
        key for key in started if isinstance(key, tuple)
    }  # the source, the partition and the scan are named by text
    assert plan.to_dict()["tasks_per_pass"] == len(ours)


def test_the_command_tells_the_plan_that_training_follows(
    store: DataConfig, tmp_path: Path
) -> None:
    config = tmp_path / "plan.yaml"
    config.write_text(
        f"data: {{store: {json.dumps(store.store)}}}\ncluster: {{workers: 2, memory_limit: 1GB}}\n",
        encoding="utf-8",
    )
    done = CliRunner().invoke(cli, ["plan", "--config", str(config), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found == planned(store, 10**9, threads=2).to_dict()
    assert found["held_slabs"] == found["slabs"]
    assert found["memory_limit"] == 10**9
    assert found["data_bytes"] == ROWS * FEATURES * 4
