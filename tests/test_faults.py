"""Workers that die, workers that hang, a scheduler that is gone: the same bits, or an error that
says how to go on. All processes are real."""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, ClassVar

import fsspec
import numpy as np
import pytest
from clusters import StuckOnce, free_port, scan
from stores import Remote, two_class_data, write_store

import streamlr
from streamlr.config.sections import ClusterConfig, DataConfig, load_config
from streamlr.data.partition import Partition
from streamlr.data.sources.store import ZarrSource
from streamlr.errors import ChunkError, ClusterError, ConfigError
from streamlr.events import Event, PassFinished
from streamlr.execution import open_engine
from streamlr.execution.local import SerialEngine
from streamlr.execution.process import is_stopped
from streamlr.testing import SlowSource

ROWS, FEATURES = 4000, 6


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("faults") / "a.zarr"
    X, y = two_class_data(ROWS, FEATURES)
    write_store(path, X, y, (100, FEATURES))
    return str(path)


def bits(sums: Any) -> bytes:
    return b"".join(
        np.ascontiguousarray(part).tobytes()
        for part in (sums.loss_sum, sums.coefficient_sum, sums.intercept_sum)
    )


class Signaller:
    """Sends a signal to workers when the first slab is told to be done."""

    def __init__(self, engine: Any, what: int, how_many: int) -> None:
        self.victims = list(engine._client.run(os.getpid).values())[:how_many]
        self.what = what
        self.told: list[int] = []

    def __call__(self, slab: int) -> None:
        if not self.told:
            for victim in self.victims:
                with suppress(
                    ProcessLookupError
                ):  # on a busy machine it may have been slow enough to be replaced
                    os.kill(victim, self.what)
        self.told.append(slab)


@pytest.mark.parametrize(
    ("what", "how_many", "held"),
    [
        (signal.SIGKILL, 1, 0),
        (signal.SIGKILL, 2, 20),
        (signal.SIGSTOP, 1, 20),
        (signal.SIGSTOP, 2, 0),
    ],
    ids=["one killed", "all killed", "one stopped", "all stopped"],
)
def test_workers_that_die_or_hang_cost_no_bit(
    what: int, how_many: int, held: int, store: str
) -> None:
    source, partition = (
        ZarrSource(DataConfig(store=store)),
        Partition(ROWS, 100, 100, resident_slabs=held),
    )
    expected = bits(SerialEngine().run(source, partition, scan(), lambda slab: None))
    with open_engine(ClusterConfig(kind="processes", workers=2, stall_seconds=2.0)) as engine:
        signaller = Signaller(engine, what, how_many)
        assert bits(engine.run(source, partition, scan(), signaller)) == expected
        assert sorted(signaller.told) == list(range(partition.n_slabs))
        assert (
            bits(engine.run(source, partition, scan(), lambda slab: None)) == expected
        )  # the next pass, on those that are left or new


def test_a_worker_that_hangs_does_not_hide_what_the_others_tell(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with open_engine(ClusterConfig(kind="processes", workers=2, stall_seconds=2.0)) as engine:
        victim = next(iter(engine._client.run(os.getpid).items()))  # type: ignore[attr-defined]
        os.kill(victim[1], signal.SIGSTOP)
        told = engine.memory_of_workers(peak=True)
        assert told is not None
        assert told > 10 * 2**20
    assert f"{victim[0]} did not tell" in caplog.text


@pytest.mark.parametrize("victims", [1, 2])
def test_workers_that_are_stopped_before_they_have_started_are_started_anew(
    victims: int, store: str, caplog: pytest.LogCaptureFixture
) -> None:
    stopped: list[int] = []

    def stop() -> None:
        while len(stopped) < victims:
            for child in multiprocessing.active_children():
                if child.pid is not None and child.pid not in stopped[:victims]:
                    os.kill(child.pid, signal.SIGSTOP)
                    stopped.append(child.pid)
            time.sleep(0.01)

    stopper = threading.Thread(target=stop)
    stopper.start()
    with open_engine(ClusterConfig(kind="processes", workers=2)) as engine:
        source, partition = ZarrSource(DataConfig(store=store)), Partition(ROWS, 100, 100)
        assert bits(engine.run(source, partition, scan(), lambda slab: None)) == bits(
            SerialEngine().run(source, partition, scan(), lambda slab: None)
        )
    stopper.join()
    assert "a worker process is stopped before it has started; killing it" in caplog.text
    for pid in stopped[:victims]:
        assert not is_stopped(pid), "it would be waited for at the end"


def test_a_read_that_never_returns_is_done_elsewhere(
    store: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source, partition = ZarrSource(DataConfig(store=store)), Partition(ROWS, 100, 100)
    expected = bits(SerialEngine().run(source, partition, scan(), lambda slab: None))
    with open_engine(ClusterConfig(kind="processes", workers=2, stall_seconds=2.0)) as engine:
        stuck = SlowSource(source, StuckOnce(str(tmp_path / "stuck")))
        assert bits(engine.run(stuck, partition, scan(), lambda slab: None)) == expected
    assert "replacing tls://" in caplog.text  # a cluster of one's own is encrypted


@contextmanager
def scheduler_and_workers(
    *worker_options: str, scheme: str = "tcp", scheduler_options: Sequence[str] = ()
) -> Iterator[tuple[str, subprocess.Popen[bytes], list[subprocess.Popen[bytes]]]]:
    """A scheduler and two workers as `dask scheduler` and `dask worker` start them."""
    address = f"{scheme}://127.0.0.1:{free_port()}"
    environment = {**os.environ, "PYTHONPATH": str(Path(streamlr.__file__).parents[1])}
    quiet: dict[str, Any] = {
        "stdout": subprocess.DEVNULL,
        "stderr": subprocess.DEVNULL,
        "env": environment,
    }
    scheduler = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "dask",
            "scheduler",
            "--host",
            address,
            "--no-dashboard",
            *scheduler_options,
        ],
        **quiet,
    )
    workers = [
        subprocess.Popen(
            [
                sys.executable,
                "-m",
                "dask",
                "worker",
                address,
                "--nthreads",
                "1",
                "--no-dashboard",
                *worker_options,
            ],
            **quiet,
        )
        for _ in range(2)
    ]
    try:
        yield address, scheduler, workers
    finally:
        for process in (*workers, scheduler):
            process.kill()
            process.wait()


def test_a_stopped_worker_without_a_nanny_is_given_up(store: str) -> None:
    source, partition = ZarrSource(DataConfig(store=store)), Partition(ROWS, 100, 100)
    expected = bits(SerialEngine().run(source, partition, scan(), lambda slab: None))
    with (
        scheduler_and_workers("--no-nanny") as (address, _, workers),
        open_engine(ClusterConfig(kind="address", address=address, stall_seconds=2.0)) as engine,
    ):
        engine._client.wait_for_workers(2, timeout=60)  # type: ignore[attr-defined]
        told: list[int] = []

        def stop_one(slab: int) -> None:
            if not told:
                workers[0].send_signal(signal.SIGSTOP)
            told.append(slab)

        assert bits(engine.run(source, partition, scan(), stop_one)) == expected
        workers[0].send_signal(signal.SIGCONT)


def test_the_loss_of_the_scheduler_ends_the_run_with_its_checkpoint_intact(
    store: str, tmp_path: Path
) -> None:
    def settings(name: str, **cluster: Any) -> dict[str, Any]:
        return {
            "data": {"store": store},
            "solver": {"name": "lbfgs"},
            "cluster": cluster,
            "run": {"directory": str(tmp_path / name)},
        }

    undisturbed = streamlr.train(settings("whole", kind="serial"))
    with scheduler_and_workers() as (address, scheduler, _):

        def kill_scheduler(event: Event) -> None:
            if isinstance(event, PassFinished) and event.number == 3:
                scheduler.kill()
                scheduler.wait()

        with pytest.raises(
            ClusterError, match=f"lost the scheduler at {re.escape(address)}.*resume=True"
        ):
            streamlr.train(
                settings("run", kind="address", address=address, stall_seconds=5.0),
                subscribers=[kill_scheduler],
            )
    resumed = streamlr.train(settings("run", kind="serial"), resume=True)
    assert resumed.passes == undisturbed.passes
    assert resumed.summary["coefficients_sha256"] == undisturbed.summary["coefficients_sha256"]


class Flaky(Remote):
    """Remote files whose first reads of each chunk fail as a network does."""

    protocol = "flaky"
    cachable = False

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(super()._strip_protocol(path.replace("flaky://", "remote://", 1)))

    failures = 2
    left: ClassVar[Counter[str]] = Counter()

    def cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **options: Any
    ) -> bytes:
        if "/X/c/" in path and self.left[path] < self.failures:
            self.left[path] += 1
            raise ConnectionError("connection reset by peer")
        content: bytes = super().cat_file(path, start, end, **options)
        return content


@pytest.mark.parametrize("kind", ["serial", "threads"])
def test_reads_that_fail_for_a_moment_are_tried_again_and_counted(
    kind: str, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr("streamlr.data.chunks.retries._FIRST_WAIT_SECONDS", 0.0)
    Flaky.left.clear()
    there = Flaky()
    there.put(store, "/flaky.zarr", recursive=True)
    config = {
        "data": {"store": "flaky:///flaky.zarr"},
        "cluster": {"kind": kind, "workers": 2},
        "solver": {"name": "lbfgs"},
    }
    found = streamlr.train(config)
    whole = streamlr.train({**config, "data": {"store": store}})
    assert found.summary["coefficients_sha256"] == whole.summary["coefficients_sha256"]
    assert (
        found.summary["read_retries"] == Flaky.failures
    )  # all rows are one block, which is read again as a whole
    assert whole.summary["read_retries"] == 0


def test_reads_that_go_on_failing_end_the_run_and_say_how_to_go_on(
    store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    fsspec.register_implementation("flaky", Flaky, clobber=True)
    monkeypatch.setattr("streamlr.data.chunks.retries._FIRST_WAIT_SECONDS", 0.0)
    monkeypatch.setattr(Flaky, "failures", 10**6)
    Flaky().put(store, "/flaky.zarr", recursive=True)
    with pytest.raises(
        ChunkError,
        match=r"X.* cannot be read, in \d+ attempts within 1 s: connection reset by peer; "
        r".*resume=True",
    ):
        streamlr.train(
            {
                "data": {"store": "flaky:///flaky.zarr", "retry_seconds": 1.0},
                "cluster": {"kind": "serial"},
            }
        )


def test_an_encrypted_address_without_files_for_it_is_refused() -> None:
    with pytest.raises(
        ClusterError, match=r"tls://127.0.0.1:1.*check cluster.address and cluster.tls"
    ):
        open_engine(ClusterConfig(kind="address", address="tls://127.0.0.1:1"))


@pytest.mark.parametrize(
    ("tls", "message"),
    [
        ({"cert": "c", "key": "k"}, "cluster.tls.ca_file: missing"),
        (
            {"ca_file": "nowhere.pem", "cert": "c", "key": "k"},
            r"cluster.tls.ca_file: cannot read 'nowhere.pem' \(No such file or directory\)",
        ),
    ],
)
def test_files_for_tls_that_are_missing_are_named(tls: dict[str, str], message: str) -> None:
    config = {
        "data": {"store": "s.zarr"},
        "cluster": {"kind": "address", "address": "tls://127.0.0.1:1", "tls": tls},
    }
    with pytest.raises(ConfigError, match=message):
        open_engine(load_config(config).cluster)


@pytest.mark.skipif(
    shutil.which("openssl") is None, reason="needs the openssl command to make a certificate"
)
def test_a_scheduler_behind_tls_is_reached_with_the_files_of_the_configuration(
    store: str, tmp_path: Path
) -> None:
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-keyout",
            key,
            "-out",
            cert,
            "-days",
            "2",
            "-subj",
            "/CN=localhost",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ],
        check=True,
        capture_output=True,
    )
    files = ("--tls-ca-file", cert, "--tls-cert", cert, "--tls-key", key)
    with scheduler_and_workers(*files, scheme="tls", scheduler_options=files) as (address, _, _):
        config = {
            "data": {"store": store},
            "cluster": {
                "kind": "address",
                "address": address,
                "tls": {"ca_file": cert, "cert": cert, "key": key},
            },
        }
        found = streamlr.train(config)
    assert (
        found.summary["coefficients_sha256"]
        == streamlr.train({"data": {"store": store}, "cluster": {"kind": "serial"}}).summary[
            "coefficients_sha256"
        ]
    )
