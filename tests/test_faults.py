"""Workers that die, workers that hang, a scheduler that is gone: the same bits, or an error that says how to go on. All processes are real."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stores import two_class_data, write_store

import streamlr
from streamlr.config import ClusterConfig, DataConfig
from streamlr.data.partition import Partition
from streamlr.data.store import ZarrSource
from streamlr.errors import ClusterError
from streamlr.events import Event, PassFinished
from streamlr.execution import open_engine
from streamlr.execution.local import SerialEngine
from streamlr.execution.patience import Patience
from streamlr.kernels.gradient import GradientScan

ROWS, FEATURES = 4000, 6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("faults") / "a.zarr"
    X, y = two_class_data(ROWS, FEATURES)
    write_store(path, X, y, (100, FEATURES))
    return str(path)


def scan() -> GradientScan:
    return GradientScan("logistic", np.array([0, 1]), np.full((1, FEATURES, 1), 0.1), np.zeros((1, 1)))


def bits(sums: Any) -> bytes:
    return b"".join(np.ascontiguousarray(part).tobytes() for part in (sums.loss_sum, sums.coefficient_sum, sums.intercept_sum))


class Signaller:
    """Sends a signal to workers when the first slab is told to be done."""

    def __init__(self, engine: Any, what: int, how_many: int) -> None:
        self.victims = list(engine._client.run(os.getpid).values())[:how_many]
        self.what = what
        self.told: list[int] = []

    def __call__(self, slab: int) -> None:
        if not self.told:
            for victim in self.victims:
                os.kill(victim, self.what)
        self.told.append(slab)


@pytest.mark.parametrize("held", [0, 20])
@pytest.mark.parametrize(("what", "how_many"), [(signal.SIGKILL, 1), (signal.SIGKILL, 2), (signal.SIGSTOP, 1), (signal.SIGSTOP, 2)],
                         ids=["one killed", "all killed", "one stopped", "all stopped"])
def test_workers_that_die_or_hang_cost_no_bit(what: int, how_many: int, held: int, store: str) -> None:
    source, partition = ZarrSource(DataConfig(store=store)), Partition(ROWS, 100, 100, held_slabs=held)
    expected = bits(SerialEngine().run(source, partition, scan(), lambda slab: None))
    with open_engine(ClusterConfig(kind="processes", workers=2, stall_seconds=2.0)) as engine:
        signaller = Signaller(engine, what, how_many)
        assert bits(engine.run(source, partition, scan(), signaller)) == expected
        assert sorted(signaller.told) == list(range(partition.n_slabs))
        assert bits(engine.run(source, partition, scan(), lambda slab: None)) == expected  # the next pass, on those that are left or new


def test_a_wait_says_what_it_is_for_and_ends(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    import queue

    for name in ("_TELL_SECONDS", "_LOOK_SECONDS"):
        monkeypatch.setattr(f"streamlr.execution.patience.{name}", 0.05)
    nothing: queue.SimpleQueue[int] = queue.SimpleQueue()
    assert Patience(0.2).next(nothing, lambda: "3 of 40 slabs", lambda: False) is None
    assert Patience(1e9).next(nothing, lambda: "3 of 40 slabs", lambda: True) is None  # nobody is at work
    assert "waiting for 3 of 40 slabs: nothing has come for 0 s" in caplog.text


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return int(server.getsockname()[1])


@contextmanager
def scheduler_and_workers(*worker_options: str) -> Iterator[tuple[str, subprocess.Popen[bytes], list[subprocess.Popen[bytes]]]]:
    """A scheduler and two workers as `dask scheduler` and `dask worker` start them."""
    address = f"tcp://127.0.0.1:{free_port()}"
    environment = {**os.environ, "PYTHONPATH": str(Path(streamlr.__file__).parents[1])}
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
    scheduler = subprocess.Popen([sys.executable, "-m", "dask", "scheduler", "--host", address, "--no-dashboard"], **quiet)
    workers = [subprocess.Popen([sys.executable, "-m", "dask", "worker", address, "--nthreads", "1", "--no-dashboard", *worker_options], **quiet)
               for _ in range(2)]
    try:
        yield address, scheduler, workers
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()


def test_a_stopped_worker_without_a_nanny_is_given_up(store: str) -> None:
    source, partition = ZarrSource(DataConfig(store=store)), Partition(ROWS, 100, 100)
    expected = bits(SerialEngine().run(source, partition, scan(), lambda slab: None))
    with scheduler_and_workers("--no-nanny") as (address, _, workers), \
            open_engine(ClusterConfig(kind="address", address=address, stall_seconds=2.0)) as engine:
        engine._client.wait_for_workers(2, timeout=60)  # type: ignore[attr-defined]
        told: list[int] = []

        def stop_one(slab: int) -> None:
            if not told:
                workers[0].send_signal(signal.SIGSTOP)
            told.append(slab)

        assert bits(engine.run(source, partition, scan(), stop_one)) == expected
        workers[0].send_signal(signal.SIGCONT)


def test_the_loss_of_the_scheduler_ends_the_run_with_its_checkpoint_intact(store: str, tmp_path: Path) -> None:
    def settings(name: str, **cluster: Any) -> dict[str, Any]:
        return {"data": {"store": store}, "solver": {"name": "lbfgs"}, "cluster": cluster, "run": {"directory": str(tmp_path / name)}}

    undisturbed = streamlr.train(settings("whole", kind="serial"))
    with scheduler_and_workers() as (address, scheduler, _):

        def kill_scheduler(event: Event) -> None:
            if isinstance(event, PassFinished) and event.number == 3:
                scheduler.kill()
                scheduler.wait()

        with pytest.raises(ClusterError, match=f"the scheduler at {re.escape(address)} .*--resume"):
            streamlr.train(settings("run", kind="address", address=address, stall_seconds=5.0), subscribers=[kill_scheduler])
    resumed = streamlr.train(settings("run", kind="serial"), resume=True)
    assert resumed.passes == undisturbed.passes
    assert resumed.summary["coefficients_sha256"] == undisturbed.summary["coefficients_sha256"]
