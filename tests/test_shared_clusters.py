"""Clusters that others use too: what goes wrong for one run is told at once and harms nobody else.
All processes are real."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np
import pytest
import scipy.sparse
import zarr
from clusters import (
    FEATURES,
    Pause,
    Processes,
    StuckOnce,
    long_task,
    other_streamlr,
    scan,
    scheduler,
)
from distributed import Client, LocalCluster
from stores import two_class_data, write_store
from zarr.storage import LocalStore

import streamlr
from streamlr.config.sections import ClusterConfig, DataConfig
from streamlr.data.partition import Partition
from streamlr.data.source import ArraySource, Buffer, Source
from streamlr.data.sources.resident import ResidentRows
from streamlr.data.sources.reweighted import WeightedByClass
from streamlr.data.sources.store import ZarrSource
from streamlr.data.sources.zarr_rows import ZarrRows
from streamlr.errors import ChunkError, ClusterError, NonFiniteError, StoreNotFoundError
from streamlr.execution import open_engine
from streamlr.execution.cluster import opening
from streamlr.execution.local import SerialEngine
from streamlr.testing import SlowSource

ROWS, CHUNK = 4000, 100
SEEN_FROM_ITS_FOLDER = "/proc/self/cwd/a.zarr"
"""A path from the root on that leads to the store for processes alone that run in its folder."""
needs_proc = pytest.mark.skipif(not Path("/proc/self/cwd").exists(), reason="needs /proc")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the store is."""
    path = tmp_path_factory.mktemp("shared")
    write_store(path / "a.zarr", *two_class_data(ROWS, FEATURES), (CHUNK, FEATURES))
    return path


@pytest.fixture
def here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """This process runs in the folder of the store."""
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def elsewhere(tmp_path: Path) -> Iterator[Processes]:
    """A scheduler, and a folder for its workers from which no store is seen."""
    with scheduler(tmp_path / "elsewhere") as processes:
        yield processes


def settings(
    address: str | None, store: str | Path = SEEN_FROM_ITS_FOLDER, **cluster: Any
) -> dict[str, Any]:
    where: dict[str, Any] = (
        {"kind": "serial"}
        if address is None
        else {"kind": "address", "address": address, **cluster}
    )
    return {"data": {"store": str(store)}, "solver": {"name": "lbfgs"}, "cluster": where}


def expected(folder: Path) -> str:
    return str(streamlr.train(settings(None, folder / "a.zarr")).summary["coefficients_sha256"])


def bits(sums: Any) -> bytes:
    return b"".join(
        np.ascontiguousarray(part).tobytes()
        for part in (sums.loss_sum, sums.coefficient_sum, sums.intercept_sum)
    )


def serial_bits(store: Path) -> bytes:
    source = ZarrSource(DataConfig(store=str(store)))
    return bits(
        SerialEngine().run(source, Partition(ROWS, CHUNK, CHUNK), scan(), lambda slab: None)
    )


def command(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [
            sys.executable,
            "-c",
            "from streamlr.cli.main import program; program()",
            *map(str, arguments),
        ],
        cwd=cwd,
        capture_output=True,
        text=True,
    )


# A worker that does not see the store


@needs_proc
@pytest.mark.parametrize("kind", ["all", "one"])
def test_a_worker_that_does_not_see_the_store_is_named_at_once_and_nobody_is_harmed(
    kind: str, here: Path, tmp_path: Path
) -> None:
    with scheduler(tmp_path / "elsewhere", cwd=here) as processes:
        processes.worker("--name", "blind", threads=2)
        processes.worker(threads=2, cwd=processes.folder if kind == "all" else here)
        with Client(processes.address) as stranger:
            stranger.wait_for_workers(2, timeout=60)
            before = stranger.run(os.getpid)
            theirs = [
                stranger.submit(long_task, str(tmp_path / f"mark-{at}"), 3.0, workers=[address])
                for at, address in enumerate(before)
            ]
            blind = [
                address
                for address, worker in stranger.scheduler_info(n_workers=-1)["workers"].items()
                if worker["name"] == "blind" or kind == "all"
            ]
            with pytest.raises(
                StoreNotFoundError,
                match=rf"the worker at ({'|'.join(blind)}) cannot open the data: "
                rf".*'/proc/self/cwd/a.zarr'.*all workers share",
            ):
                streamlr.train(settings(processes.address))
            assert stranger.gather(theirs) == ["ended"] * 2
            assert stranger.run(os.getpid) == before, "a worker was started anew"
    assert [(tmp_path / f"mark-{at}").read_text() for at in range(2)] == ["begun\nended\n"] * 2


@needs_proc
def test_the_command_line_ends_with_the_status_of_data_that_cannot_be_read(
    here: Path, elsewhere: Processes
) -> None:
    elsewhere.worker()
    (here / "blind.yaml").write_text(
        f"data: {{store: {SEEN_FROM_ITS_FOLDER}}}\ncluster: {{kind: address, address: "
        f"'{elsewhere.address}'}}\n"
    )
    ended = command(
        "train", "--config", "blind.yaml", "--run-dir", elsewhere.folder / "run", cwd=here
    )
    assert ended.returncode == 3
    assert "cannot open the data: no store at" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_relative_path_is_that_of_the_run_and_not_of_the_worker(
    here: Path, elsewhere: Processes
) -> None:
    elsewhere.worker()
    found = streamlr.train(settings(elsewhere.address, "a.zarr"))
    assert found.summary["coefficients_sha256"] == expected(here)
    assert found.summary["store"] == "a.zarr"


@needs_proc
def test_a_scheduler_that_sees_no_store_and_has_no_streamlr_serves_those_who_do(
    here: Path, tmp_path: Path
) -> None:
    with scheduler(tmp_path / "elsewhere", with_streamlr=False) as processes:
        processes.worker(cwd=here)
        assert streamlr.train(settings(processes.address)).summary[
            "coefficients_sha256"
        ] == expected(here)


def sources(folder: Path) -> dict[str, Source]:
    store = ZarrSource(DataConfig(store=str(folder / "a.zarr")))
    array: Any = zarr.open_array(str(folder / "a.zarr"), path="X", mode="r")
    y = np.arange(ROWS) % 2
    return {
        "store": store,
        "of classes that weigh": WeightedByClass(store, np.array([0, 1]), np.array([1.0, 2.0])),
        "held": ResidentRows(store, 0, 100),
        "array of Zarr": ArraySource(ZarrRows(array), y),
        "part of one": ArraySource(ZarrRows(array), y).part(100, 300),
    }


@pytest.mark.parametrize(
    "kind", ["store", "of classes that weigh", "held", "array of Zarr", "part of one"]
)
def test_to_unpickle_a_source_opens_nothing_and_to_read_it_tells_what_is_missing(
    kind: str, folder: Path, tmp_path: Path
) -> None:
    shutil.copytree(folder / "a.zarr", tmp_path / "a.zarr")
    source = sources(tmp_path)[kind]
    before = source.read_features(100, 200, Buffer()).copy()
    travelled = pickle.dumps(source)
    assert np.array_equal(pickle.loads(travelled).read_features(100, 200, Buffer()), before)
    (tmp_path / "a.zarr").rename(tmp_path / "gone.zarr")
    ended = subprocess.run(
        [sys.executable, "-c", READ_ELSEWHERE], input=travelled, capture_output=True
    )  # one that has nothing open
    assert ended.stdout.decode() == "unpickled\nDataError\n", ended.stderr.decode()


READ_ELSEWHERE = """
import pickle, sys
source = pickle.load(sys.stdin.buffer)
print("unpickled", flush=True)
from streamlr.data.source import Buffer
from streamlr.errors import DataError
try:
    source.read_features(100, 200, Buffer())
except DataError:
    print("DataError")
"""


def test_data_in_the_place_of_a_store_come_to_workers_in_other_folders(
    here: Path, elsewhere: Processes
) -> None:
    elsewhere.worker()
    group: Any = zarr.open_group("a.zarr", mode="r")
    X, y = group["X"][:], group["y"][:]
    given = {
        "array": X,
        "array by columns": np.asfortranarray(X),
        "sparse": scipy.sparse.csr_array(X),
        "Zarr": zarr.open_array(LocalStore(Path("a.zarr")), path="X", mode="r"),
        "Zarr in memory": zarr.array(X, chunks=(CHUNK, FEATURES)),
        "Dask": dask.array.from_array(X, chunks=(1000, FEATURES)),
    }
    for kind, features in given.items():
        model = {"solver": {"name": "lbfgs"}}
        there = {"kind": "address", "address": elsewhere.address}
        found = streamlr.train({**model, "cluster": there}, X=features, y=y).summary
        alone = streamlr.train({**model, "cluster": {"kind": "serial"}}, X=features, y=y).summary
        assert found["coefficients_sha256"] == alone["coefficients_sha256"], kind


@needs_proc
def test_an_array_that_workers_do_not_see_is_an_error_and_not_its_fill_value(
    here: Path, elsewhere: Processes
) -> None:
    elsewhere.worker()
    array = zarr.open_array(LocalStore(Path("/proc/self/cwd/a.zarr")), path="X", mode="r")
    y = np.arange(ROWS) % 2
    there = {"kind": "address", "address": elsewhere.address}
    message = (
        r"the worker at tcp://\S+ cannot open the data: no Zarr array at file:///proc/self/cwd"
    )
    with pytest.raises(StoreNotFoundError, match=message):
        streamlr.train({"cluster": there}, X=array, y=y)


def test_a_folder_that_may_not_be_entered_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", refuse)  # who runs the tests may be allowed everything
    with pytest.raises(
        StoreNotFoundError, match=r"can be opened: Permission denied \('.*s.zarr'\)"
    ):
        ZarrSource(DataConfig(store=str(tmp_path / "s.zarr")))


# Workers with another streamlr, or none

SCALED = {"kernels/scans/gradient.py": ("dW = X @ dZ.T", "dW = 1.5 * (X @ dZ.T)")}


@pytest.mark.parametrize("kind", ["none", "another"])
def test_workers_that_cannot_take_part_are_left_out_and_refused_where_there_are_no_others(
    kind: str, folder: Path, elsewhere: Processes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = other_streamlr(tmp_path / "other", SCALED) if kind == "another" else None
    elsewhere.worker(environment=other, with_streamlr=kind != "none")
    why = {
        "none": "ModuleNotFoundError: No module named 'streamlr",
        "another": r"it has streamlr 0\.1\.0 \(sources \w+\), this process 0\.1\.0",
    }[kind]
    with Client(elsewhere.address) as stranger:
        stranger.wait_for_workers(1, timeout=60)
        ((bad, process),) = stranger.run(os.getpid).items()
        refusal = rf"none of the 1 workers .* can take part \({bad}: {why}"
        with pytest.raises(ClusterError, match=refusal):
            streamlr.train(settings(elsewhere.address, folder / "a.zarr"))
        elsewhere.worker()
        stranger.wait_for_workers(2, timeout=60)
        found = streamlr.train(settings(elsewhere.address, folder / "a.zarr"))
        processes = stranger.run(os.getpid)
        assert processes[bad] == process
        assert stranger.submit(sum, [1, 2], workers=[bad]).result(timeout=30) == 3
    assert found.summary["coefficients_sha256"] == expected(folder)
    assert f"leaving out {bad}: " in caplog.text
    (computed,) = found.summary["worker_arithmetic"]
    assert computed["workers"] == [address for address in processes if address != bad]


@pytest.mark.parametrize(("kind", "held"), [("none", 20), ("another", 0)])
def test_a_worker_that_joins_during_a_pass_and_cannot_take_part_costs_no_bit(
    kind: str,
    held: int,
    folder: Path,
    elsewhere: Processes,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    source, partition = (
        ZarrSource(DataConfig(store=str(folder / "a.zarr"))),
        Partition(ROWS, CHUNK, CHUNK, resident_slabs=held),
    )
    other = other_streamlr(tmp_path / "other", SCALED) if kind == "another" else None
    elsewhere.worker()
    with (
        open_engine(ClusterConfig(kind="address", address=elsewhere.address)) as engine,
        Client(elsewhere.address) as stranger,
    ):
        joined: list[int] = []

        def join(slab: int) -> None:
            if not joined:
                elsewhere.worker(threads=4, environment=other, with_streamlr=kind != "none")
                stranger.wait_for_workers(2, timeout=60)
            joined.append(slab)

        slow = SlowSource(source, Pause(0.1))
        assert bits(engine.run(slow, partition, scan(), join)) == serial_bits(folder / "a.zarr")
        assert sorted(joined) == list(range(partition.n_slabs))
        assert bits(engine.run(source, partition, scan(), lambda slab: None)) == serial_bits(
            folder / "a.zarr"
        )
        assert len(stranger.run(os.getpid)) == 2
    assert "leaving out" in caplog.text


def test_workers_that_compute_with_other_arithmetic_are_named(
    folder: Path, elsewhere: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere.worker(
        environment={
            "OPENBLAS_CORETYPE": "Prescott",
            "NPY_DISABLE_CPU_FEATURES": "X86_V3 X86_V4 AVX2 FMA3 AVX512F",
        }
    )
    elsewhere.worker()
    with Client(elsewhere.address) as stranger:
        stranger.wait_for_workers(2, timeout=60)
        found = streamlr.train(settings(elsewhere.address, folder / "a.zarr"))
        told = found.summary["worker_arithmetic"]
        if len(told) == 1:
            pytest.skip("this machine has one arithmetic alone")
        assert sorted(address for record in told for address in record["workers"]) == sorted(
            stranger.run(os.getpid)
        )
    other = next(record for record in told if record["digest"] != found.summary["arithmetic"])
    assert (
        f"{other['workers'][0]}: computing with other arithmetic, {other['digest']}" in caplog.text
    )


# Workers that are busy with tasks of others


def test_a_worker_is_not_taken_from_a_stranger_whose_task_it_runs(
    folder: Path, elsewhere: Processes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere.worker()
    elsewhere.worker()
    with Client(elsewhere.address) as stranger:
        stranger.wait_for_workers(2, timeout=60)
        theirs = [
            stranger.submit(long_task, str(tmp_path / f"mark-{at}"), 20.0, key=f"long-{at}")
            for at in range(2)
        ]
        while len(list(tmp_path.glob("mark-*"))) < 2:
            pass
        found = streamlr.train(settings(elsewhere.address, folder / "a.zarr", stall_seconds=1.0))
        assert stranger.gather(theirs) == ["ended"] * 2
    assert [(tmp_path / f"mark-{at}").read_text() for at in range(2)] == ["begun\nended\n"] * 2
    assert found.summary["coefficients_sha256"] == expected(folder)
    assert "the workers are busy with tasks of others: waiting for " in caplog.text


def test_a_worker_that_is_stuck_in_a_task_of_ours_is_replaced_where_others_only_wait(
    folder: Path, elsewhere: Processes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, partition = (
        ZarrSource(DataConfig(store=str(folder / "a.zarr"))),
        Partition(ROWS, CHUNK, CHUNK),
    )
    elsewhere.worker()
    with (
        open_engine(
            ClusterConfig(kind="address", address=elsewhere.address, stall_seconds=2.0)
        ) as engine,
        Client(elsewhere.address) as stranger,
    ):
        theirs: list[Any] = []

        def submit(slab: int) -> None:
            if not theirs:
                theirs.append(stranger.submit(long_task, str(tmp_path / "mark"), 0.1))

        stuck = SlowSource(source, StuckOnce(str(tmp_path / "stuck")))
        found = bits(engine.run(stuck, partition, scan(), submit))
        assert found == serial_bits(folder / "a.zarr")
        assert stranger.gather(theirs) == ["ended"] * len(theirs)
    assert "replacing tcp://" in caplog.text


def test_work_that_waits_behind_many_tasks_of_others_is_not_taken_for_lost(
    folder: Path, elsewhere: Processes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere.worker()
    with Client(elsewhere.address) as stranger:
        stranger.wait_for_workers(1, timeout=60)
        theirs = [
            stranger.submit(long_task, str(tmp_path / "marks"), 0.5, key=f"short-{at}")
            for at in range(24)
        ]
        found = streamlr.train(settings(elsewhere.address, folder / "a.zarr", stall_seconds=0.5))
        assert stranger.gather(theirs) == ["ended"] * 24
    assert (tmp_path / "marks").read_text().count("begun") == 24
    assert found.summary["coefficients_sha256"] == expected(folder)
    assert "sending the pass again" not in caplog.text
    assert "busy with tasks of others" in caplog.text


def test_a_worker_that_is_stuck_in_a_task_of_ours_is_replaced_when_that_of_others_has_ended(
    folder: Path, elsewhere: Processes, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source = ZarrSource(DataConfig(store=str(folder / "a.zarr")))
    partition = Partition(ROWS, CHUNK, CHUNK)
    elsewhere.worker(threads=2)
    cluster = ClusterConfig(kind="address", address=elsewhere.address, stall_seconds=1.0)
    with open_engine(cluster) as engine, Client(elsewhere.address) as stranger:
        task = stranger.submit(long_task, str(tmp_path / "mark"), 12.0)
        while not (tmp_path / "mark").exists():
            time.sleep(0.01)
        stuck = SlowSource(source, StuckOnce(str(tmp_path / "stuck")))
        task.add_done_callback(
            lambda done: done.release()
        )  # so that no result is lost with the worker
        found = bits(engine.run(stuck, partition, scan(), lambda slab: None))
        assert found == serial_bits(folder / "a.zarr")
    assert (tmp_path / "mark").read_text() == "begun\nended\n"
    assert "busy with tasks of others, so tcp://" in caplog.text
    assert "replacing tcp://" in caplog.text


@needs_proc
def test_a_chunk_that_one_worker_cannot_read_is_named_with_the_worker(
    here: Path, elsewhere: Processes
) -> None:
    shutil.copytree(here / "a.zarr", elsewhere.folder / "a.zarr")
    (elsewhere.folder / "a.zarr" / "X" / "c" / "17" / "0").unlink()
    elsewhere.worker()
    message = r"chunk 17 of X .* is missing .*\(found by the worker at tcp://"
    with pytest.raises(ChunkError, match=message):
        streamlr.train(settings(elsewhere.address))


class UnpicklableError(Exception):
    """As those of libraries may be."""

    def __init__(self, one: str, other: str) -> None:
        super().__init__(one)


@dataclass(frozen=True)
class FailingScan:
    """Fails with an error of ours that has a cause which cannot be pickled."""

    reads_features: bool = True
    reads_target: bool = True

    def sums(self, batch: Any, leaf_rows: int, workspace: Any) -> Any:
        try:
            raise UnpicklableError("one", "other")
        except UnpicklableError:
            raise NonFiniteError("this is what went wrong") from None


def test_an_error_of_ours_stays_one_on_its_way_from_a_worker(folder: Path) -> None:
    source = ZarrSource(DataConfig(store=str(folder / "a.zarr")))
    with (
        open_engine(ClusterConfig(kind="processes", workers=1)) as engine,
        pytest.raises(NonFiniteError, match="this is what went wrong"),
    ):
        engine.run(source, Partition(ROWS, CHUNK, CHUNK), FailingScan(), lambda slab: None)


@pytest.mark.parametrize("kind", ["processes", "address", "nobody there"])
def test_what_else_a_process_computes_with_dask_stays_where_it_was(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run has its own workers; neither it nor one that finds none makes them those of all."""
    monkeypatch.setattr(opening, "_CONNECT_SECONDS", 1)
    before = dask.config.get("scheduler", None)
    with ExitStack() as stack:
        if kind == "processes":
            stack.enter_context(open_engine(ClusterConfig(kind="processes", workers=1)))
        elif kind == "address":
            own = stack.enter_context(
                LocalCluster(n_workers=1, processes=False, dashboard_address=None, silence_logs=50)
            )
            config = ClusterConfig(kind="address", address=own.scheduler_address)
            stack.enter_context(open_engine(config))
        else:
            with pytest.raises(ClusterError, match="no Dask scheduler answers"):
                open_engine(ClusterConfig(kind="address", address="tcp://127.0.0.1:9"))
        assert dask.config.get("scheduler", None) == before
        assert dask.delayed(os.getpid)().compute() == os.getpid()
