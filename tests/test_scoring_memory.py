"""A pass that scores a store keeps to the memory there is: fewer threads, or a refusal before it
reads."""

from __future__ import annotations

import itertools
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from stores import two_class_data, write_store

import streamlr
from streamlr.config.sections import DataConfig
from streamlr.data.sources.store import ZarrSource
from streamlr.errors import MemoryLimitError
from streamlr.execution import ENGINES
from streamlr.execution import local as local_module
from streamlr.execution.engine import slab_sums
from streamlr.execution.limits import FoundLimit
from streamlr.kernels.families import FAMILIES
from streamlr.kernels.metrics.classification import class_sums
from streamlr.kernels.metrics.room import SumsRoom
from streamlr.kernels.metrics.score_counts import score_counts
from streamlr.model import Model
from streamlr.planning.scoring import ScoringPlan, plan_scoring
from streamlr.planning.workforce import WorkerLayout

MB = 10**6
ROWS, FEATURES, CHUNK = 60_000, 40, 6000
GROUP = Path("/sys/fs/cgroup/memory/streamlr-scoring-test")
Score = Callable[..., Any]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """Ten chunks of 1.9 MB."""
    place = tmp_path_factory.mktemp("scoring") / "store.zarr"
    return write_store(place, *two_class_data(ROWS, FEATURES, dtype="float64"), (CHUNK, FEATURES))


def saved(place: Path, n_features: int) -> str:
    """The directory of a run that holds a model alone."""
    place.mkdir()
    coefficients = np.linspace(-0.5, 0.5, n_features)[None]
    Model(coefficients, np.zeros(1), np.array([0, 1])).save(place / "model.zarr")
    return str(place)


@pytest.fixture
def run(tmp_path: Path) -> str:
    return saved(tmp_path / "run", FEATURES)


@pytest.fixture(params=["evaluate", "predict"])
def score(request: pytest.FixtureRequest, run: str, store: DataConfig, tmp_path: Path) -> Score:
    """Scores the store with these overrides; what comes of it."""
    numbers = itertools.count()

    def of_metrics(*overrides: str) -> Any:
        return streamlr.evaluate(run, store.store, overrides=overrides)

    def of_rows(*overrides: str) -> Any:
        out = tmp_path / f"out{next(numbers)}.zarr"
        try:
            streamlr.predict(run, store.store, out, overrides=overrides)
        except MemoryLimitError:
            assert not out.exists()
            raise
        array: Any = zarr.open_array(out, mode="r")
        return array[:].tobytes()

    return of_metrics if request.param == "evaluate" else of_rows


@pytest.fixture
def plans(monkeypatch: pytest.MonkeyPatch) -> list[ScoringPlan]:
    """Those that were made; this process holds 80 MB before each, whatever ran before."""
    made: list[ScoringPlan] = []

    def noted(*arguments: Any) -> ScoringPlan:
        made.append(plan_scoring(*arguments))
        return made[-1]

    monkeypatch.setattr("streamlr.scoring.scoring.plan_scoring", noted)
    monkeypatch.setattr("streamlr.planning.workforce.process_bytes", lambda: 80 * MB)
    return made


def find(monkeypatch: pytest.MonkeyPatch, nbytes: int) -> None:
    """Have so many bytes found as the limit of this machine."""
    limit = FoundLimit(nbytes, "memory.max of the control group 'g'")
    monkeypatch.setattr("streamlr.planning.workforce.found_limit", lambda: limit)


def unwanted(*_: Any, **__: Any) -> Any:
    """What is not to be called."""
    raise AssertionError("called")


@pytest.mark.parametrize("told", [True, False], ids=["set", "found"])
def test_as_many_threads_score_as_fit_and_no_bit_changes(
    score: Score, plans: list[ScoringPlan], monkeypatch: pytest.MonkeyPatch, told: bool
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
    results = [score("cluster.kind=threads", f"cluster.workers={n}") for n in (1, 2, 4)]
    peaks = [plan.peaks.client for plan in plans]
    assert peaks == sorted(set(peaks))
    assert results[0] == results[1] == results[2]
    for threads, peak in zip((1, 2), peaks, strict=False):
        most, more = 0, [f"cluster.memory_limit={peak}"] if told else []
        if not told:
            find(monkeypatch, peak)
        assert score("cluster.kind=threads", "cluster.workers=4", *more) == results[0]
        assert most <= threads
        assert plans[-1].threads_per_process == threads
        source = "cluster.memory_limit" if told else "memory.max of the control group 'g'"
        assert plans[-1].fitted == f"{threads} of 4 threads: {peak / 1e6:.0f} MB of {source}"


def test_where_one_thread_does_not_fit_nothing_is_read_and_both_numbers_are_told(
    score: Score, plans: list[ScoringPlan], monkeypatch: pytest.MonkeyPatch
) -> None:
    score("cluster.kind=serial")
    least = plans[0].peaks.client
    find(monkeypatch, least)
    score("cluster.kind=serial")  # just fits
    find(monkeypatch, least - 1)
    monkeypatch.setattr(ZarrSource, "read_features", unwanted)
    monkeypatch.setattr(ZarrSource, "read_columns", unwanted)
    needed, given = f"{least / 1e6:.0f} MB", f"{(least - 1) / 1e6:.0f} MB"
    refusal = (
        rf"the pass needs about {needed} in one process \(1 thread in all, .*"
        rf"memory.max of the control group 'g' is {given}; raise the limit, or write"
    )
    for kind in ("serial", "threads"):
        with pytest.raises(MemoryLimitError, match=refusal):
            score(f"cluster.kind={kind}")


def test_processes_that_have_no_room_are_not_started(
    score: Score, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ENGINES, "processes", replace(ENGINES["processes"], open=unwanted))
    find(monkeypatch, 160 * MB)
    with pytest.raises(
        MemoryLimitError, match=r"2 worker processes .* MB .*'g' is 160 MB; .*fewer"
    ):
        score("cluster.kind=processes", "cluster.workers=2")


def planned(
    store: DataConfig, workers: WorkerLayout, sums: SumsRoom, outputs: int = 1
) -> ScoringPlan:
    return plan_scoring(None, ZarrSource(store), workers, outputs, lambda _: sums)


def test_processes_of_this_machine_share_its_limit_and_are_told_to_be_fewer(
    store: DataConfig,
) -> None:
    def two(found: int | None) -> WorkerLayout:
        limit = None if found is None else FoundLimit(found, "the group's limit")
        return WorkerLayout(2, 1, False, 80 * MB, 80 * MB, answer_directly=True, found=limit)

    peaks = planned(store, two(None), SumsRoom()).peaks
    together = peaks.client + 2 * peaks.worker
    assert planned(store, two(together), SumsRoom()).peaks == peaks
    with pytest.raises(
        MemoryLimitError,
        match=rf"{together / 1e6:.0f} MB in 3 processes .*set cluster.workers to fewer",
    ):
        planned(store, two(together - 1), SumsRoom())


def test_the_smallest_worker_of_a_cluster_counts(store: DataConfig) -> None:
    limit = FoundLimit(90 * MB, "the memory limit of the worker at tcp://a")
    workers = WorkerLayout(4, 1, False, 80 * MB, 80 * MB, worker_found=limit)
    with pytest.raises(MemoryLimitError, match=r"in a worker .*worker at tcp://a is 90 MB"):
        planned(store, workers, SumsRoom())


def test_each_thread_costs_its_block_and_what_is_made_of_it(store: DataConfig) -> None:
    def peak(threads: int, sums: SumsRoom) -> int:
        free = WorkerLayout(threads, threads, True, 80 * MB, 0)
        return planned(store, free, sums).peaks.client

    block = CHUNK * FEATURES * 8
    assert peak(2, SumsRoom()) - peak(1, SumsRoom()) > block
    made = SumsRoom(leaf_bytes=5 * MB, block_bytes=50 * MB)
    for threads in (1, 3):
        assert peak(threads, made) - peak(threads, SumsRoom()) >= threads * 55 * MB - block
    # sums are added two at a time, and each of their scores is in one of them
    counts = SumsRoom(kept_bytes=10 * MB, adding_bytes=40 * MB, apart_bytes=20 * MB)
    one = peak(1, counts) - peak(1, SumsRoom())
    assert one >= 50 * MB
    assert peak(4, counts) - peak(4, SumsRoom()) <= one + 1  # there is one pair to be added


@pytest.mark.parametrize("outputs", [1, 3, 30])
@pytest.mark.parametrize("weighted", [False, True])
def test_sums_of_classes_take_no_more_than_is_said(outputs: int, weighted: bool) -> None:
    """By what NumPy allocates, of a leaf and of two sums that are added."""
    rows = 2**15
    rng = np.random.default_rng(0)
    family = FAMILIES["logistic" if outputs == 1 else "softmax"]
    classes = np.arange(max(2, outputs))
    labels = rng.integers(0, len(classes), rows)
    omega = rng.random(rows) if weighted else np.ones(rows)

    def leaf() -> Any:
        Z, Y = rng.standard_normal((outputs, rows)), family.target(labels, classes)
        loss, A = family.loss_and_activation(Z, Y)
        return class_sums(Z, Y, loss, A, omega)

    def peak(made: Callable[[], Any]) -> tuple[int, Any]:
        tracemalloc.start()
        try:
            result = made()
            return int(tracemalloc.get_traced_memory()[1]), result
        finally:
            tracemalloc.stop()

    room = family.metrics.room(outputs, rows, rows)
    taken, sums = peak(leaf)
    assert room.leaf_bytes / 3 < taken <= room.leaf_bytes + 2**16
    kept = sum(
        getattr(sums.scores, name).nbytes
        for name in ("group", "keys", "positive", "negative", "spread")
    )
    assert kept <= room.kept_bytes <= room.apart_bytes
    many = 2**18 // max(1, outputs)
    one, other = (
        score_counts(rng.random((outputs, many)), rng.integers(0, 2, many), np.ones(many))
        for _ in range(2)
    )
    taken, _ = peak(lambda: one + other)
    adding = family.metrics.room(outputs, rows, 10**9).adding_bytes
    assert adding / 3 < taken <= adding


# for real ---------------------------------------------------------------------------------------


@pytest.fixture
def group() -> Iterator[Path]:
    """A real control group of version 1."""
    try:
        GROUP.mkdir()
    except OSError:
        pytest.skip("control groups of version 1 cannot be made here")
    yield GROUP
    GROUP.rmdir()


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Four chunks of 40 MB."""
    place = tmp_path_factory.mktemp("large") / "large.zarr"
    data = two_class_data(200_000, 100, dtype="float64")
    return write_store(place, *data, (50_000, 100), codec="blosc lz4").store


@pytest.mark.parametrize("command", ["evaluate", "predict"])
@pytest.mark.parametrize(("kind", "limit"), [("threads", 130 * MB), ("processes", 160 * MB)])
def test_in_a_small_control_group_scoring_is_refused_and_nothing_is_killed(
    large: str, group: Path, tmp_path: Path, command: str, kind: str, limit: int
) -> None:
    run, out = saved(tmp_path / "run", 100), tmp_path / "out.zarr"
    (group / "memory.limit_in_bytes").write_text(str(limit), encoding="ascii")
    arguments = [command, run, large, *([str(out)] if command == "predict" else [])]
    arguments += ["--set", f"cluster.kind={kind}", "--set", "cluster.workers=2"]
    # the process joins the group after its libraries are loaded: the pass is to be refused
    program = (
        "import os, sys, streamlr.cli.main, streamlr.scoring.scoring\n"
        f"open('{group}/cgroup.procs', 'w').write(str(os.getpid()))\n"
        "sys.argv[0] = 'streamlr'\nstreamlr.cli.main.program()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert f"memory.limit_in_bytes of the control group '{group}' is" in done.stderr
    assert "raise the limit" in done.stderr
    assert "Traceback" not in done.stderr
    assert not out.exists()


@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_an_address_space_that_is_too_small_refuses_with_both_numbers(
    large: str, tmp_path: Path, command: str
) -> None:
    run, out = saved(tmp_path / "run", 100), tmp_path / "out.zarr"
    arguments = [command, run, large, *([str(out)] if command == "predict" else [])]
    # what is mapped until then is for the libraries; the pass alone is to have too little
    program = (
        "import resource, sys, streamlr.cli.main\n"
        "import streamlr.scoring.scoring as scoring\n"
        "def limited(cluster):\n"
        "    status = open('/proc/self/status').read().split()\n"
        "    mapped = int(status[status.index('VmSize:') + 1]) * 1024\n"
        "    resource.setrlimit(resource.RLIMIT_AS, (mapped + 45 * 10**6,) * 2)\n"
        "    return with_room(cluster)\n"
        "with_room, scoring.with_room = scoring.with_room, limited\n"
        "sys.argv[0] = 'streamlr'\nstreamlr.cli.main.program()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2, done.stderr
    assert "the pass needs about" in done.stderr
    assert "ulimit -v" in done.stderr
    assert "Traceback" not in done.stderr
