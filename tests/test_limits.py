"""Memory limits that nobody told streamlr of are known, and refuse what would end in a kill."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from clusters import scheduler
from distributed import Client
from stores import two_class_data, write_store

import streamlr
from streamlr.config.sections import ClusterConfig, DataConfig, load_config
from streamlr.data.sources.store import ZarrSource
from streamlr.errors import MemoryLimitError
from streamlr.execution import ENGINES, limits
from streamlr.execution.cluster.tasks import _bare_errors
from streamlr.execution.limits import FoundLimit, found_limit, memory_reported
from streamlr.planning.plan import check_plan, make_plan
from streamlr.planning.workforce import WorkerLayout, workers_of

MB = 10**6
GROUP = Path("/sys/fs/cgroup/memory/streamlr-test")


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    return write_store(
        tmp_path_factory.mktemp("limits") / "store.zarr",
        *two_class_data(40_000, 30, dtype="float64"),
        (8000, 30),
    )


@pytest.fixture
def groups(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without limits of its own, whose control groups are files here."""
    monkeypatch.setattr(limits, "_GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(limits, "_MOUNTS", tmp_path / "mountinfo")
    monkeypatch.setattr(limits, "_physical", lambda: iter(()))
    monkeypatch.setattr(limits, "_of_shell", lambda: iter(()))
    return tmp_path


def mount(groups: Path, line: str, of_process: str, values: dict[str, str]) -> None:
    (groups / "mountinfo").write_text(line.format(groups / "tree") + "\n", encoding="utf-8")
    (groups / "cgroup").write_text(of_process + "\n", encoding="utf-8")
    for name, text in values.items():
        path = groups / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n", encoding="utf-8")


V2 = "29 23 0:26 / {} rw,nosuid - cgroup2 cgroup2 rw"
V1 = "35 31 0:32 / {} rw,relatime - cgroup cgroup rw,memory"
IN_CONTAINER = "35 31 0:32 /docker/abc {} ro - cgroup cgroup rw,memory"


@pytest.mark.parametrize(
    ("line", "of_process", "values", "expected"),
    [
        (V2, "0::/", {"memory.max": "200000000"}, 200 * MB),
        (
            V2,
            "0::/user/job",
            {
                "memory.max": "max",
                "user/memory.max": "300000000",
                "user/job/memory.max": "900000000",
            },
            300 * MB,
        ),
        (V2, "0::/user/job", {"user/memory.max": "max", "user/job/memory.max": "max"}, None),
        (V2, "0::/../outside", {"memory.max": "7000000"}, 7 * MB),
        (
            V1,
            "4:memory:/job",
            {
                "memory.limit_in_bytes": "9223372036854771712",
                "job/memory.limit_in_bytes": "160000000",
            },
            160 * MB,
        ),
        (V1, "4:cpu,memory:/job", {"job/memory.limit_in_bytes": "9223372036854771712"}, None),
        (V1, "1:cpu:/job", {"job/memory.limit_in_bytes": "1"}, None),
        (
            IN_CONTAINER,
            "4:memory:/docker/abc/step",
            {"step/memory.limit_in_bytes": "5000000", "memory.limit_in_bytes": "8000000"},
            5 * MB,
        ),
        (IN_CONTAINER, "4:memory:/elsewhere", {"memory.limit_in_bytes": "8000000"}, 8 * MB),
    ],
    ids=lambda value: value if isinstance(value, str) and ":" in value else "",
)
def test_the_least_limit_of_the_groups_above_a_process_counts(
    groups: Path, line: str, of_process: str, values: dict[str, str], expected: int | None
) -> None:
    mount(groups, line, of_process, values)
    found = found_limit()
    assert (found and found.nbytes) == expected
    if found is not None:
        assert str(groups / "tree") in found.source


def test_what_the_shell_leaves_is_what_may_still_be_mapped() -> None:
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_AS, (3 * 10**9, 3 * 10**9))\n"
        "from streamlr.execution.limits import found_limit; print(found_limit().nbytes, "
        "found_limit().source)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    nbytes, source = done.stdout.split(" ", 1)
    assert 10**9 < int(nbytes) < 3 * 10**9
    assert source.strip() == "ulimit -v (3000 MB)"


# what a plan does with it -------------------------------------------------------------------------


def plan_under(store: DataConfig, workers: WorkerLayout, limit: int | None = None):  # type: ignore[no-untyped-def]
    config = load_config(
        {
            "data": {"store": store.store},
            "solver": {"name": "lbfgs"},
            "cluster": {"memory_limit": limit},
        }
    )
    return make_plan(config, ZarrSource(config.data), workers)


def test_a_found_limit_lowers_the_threads_then_refuses_with_both_numbers_and_where_it_is_from(
    store: DataConfig,
) -> None:
    four = replace(workers_of(ClusterConfig(), 4), base_bytes=80 * MB)
    peaks = {
        n: plan_under(store, replace(four, threads=n, threads_per_process=n)).peak_bytes
        for n in (1, 2, 4)
    }
    for threads in (1, 2, 4):
        plan = plan_under(
            store, replace(four, found=FoundLimit(peaks[threads], "the group's limit"))
        )
        assert plan.threads == threads
        check_plan(plan)
    assert (
        "2 of 4 threads"
        in plan_under(store, replace(four, found=FoundLimit(peaks[2], "the group's limit"))).fitted
    )
    refused = plan_under(store, replace(four, found=FoundLimit(peaks[1] - 1, "the group's limit")))
    with pytest.raises(
        MemoryLimitError,
        match=rf"needs about {peaks[1] / 1e6:.0f} MB .* the group's limit is "
        rf"{(peaks[1] - 1) / 1e6:.0f} MB",
    ):
        check_plan(refused)


def test_a_set_limit_above_the_found_one_does_not_count(store: DataConfig) -> None:
    workers = replace(
        workers_of(ClusterConfig(), 1),
        base_bytes=80 * MB,
        found=FoundLimit(50 * MB, "the group's limit"),
    )
    with pytest.raises(MemoryLimitError, match="the group's limit is 50 MB"):
        check_plan(plan_under(store, workers, limit=2000 * MB))


def test_rows_stay_resident_under_a_set_limit_alone_and_within_the_found_one(
    store: DataConfig,
) -> None:
    workers = replace(
        workers_of(ClusterConfig(), 1),
        base_bytes=80 * MB,
        found=FoundLimit(2000 * MB, "the group's limit"),
    )
    assert plan_under(store, workers).partition.resident_slabs == 0
    every = plan_under(store, workers, limit=1000 * MB)
    assert every.partition.resident_slabs == every.partition.n_slabs
    least = plan_under(store, workers).peak_bytes
    some = plan_under(
        store,
        replace(workers, found=FoundLimit(least + 4 * MB, "the group's limit")),
        limit=1000 * MB,
    )
    assert some.partition.resident_slabs < some.partition.n_slabs
    assert some.peak_bytes <= least + 4 * MB


def test_processes_of_this_machine_share_its_limit(store: DataConfig) -> None:
    two = WorkerLayout(2, 1, False, 80 * MB, 80 * MB, answer_directly=True)
    plan = plan_under(store, two)
    needed = plan_under(store, replace(two, found=FoundLimit(1, "the group's limit"))).excess
    assert needed is not None
    assert needed.where == "in 3 processes"
    assert needed.needed_bytes > 2 * plan.worker_peak_bytes
    check_plan(
        plan_under(store, replace(two, found=FoundLimit(needed.needed_bytes, "the group's limit")))
    )


def test_the_smallest_worker_of_a_cluster_counts(store: DataConfig) -> None:
    workers = WorkerLayout(
        4,
        1,
        False,
        80 * MB,
        80 * MB,
        worker_found=FoundLimit(100 * MB, "the memory limit of the worker at tcp://a"),
    )
    with pytest.raises(
        MemoryLimitError, match=r"in a worker .*the memory limit of the worker at tcp://a is 100 MB"
    ):
        check_plan(plan_under(store, workers))


# for real -----------------------------------------------------------------------------------------


def run_limited(
    store: DataConfig, tmp_path: Path, before: str, *more: str
) -> subprocess.CompletedProcess[str]:
    program = (
        f"import resource, os, sys\n{before}\nsys.argv[0] = 'streamlr'\nfrom "
        "streamlr.cli.main import program\nprogram()"
    )
    config = tmp_path / "c.yaml"
    config.write_text(
        f"data: {{store: '{store.store}'}}\ncluster: {{workers: 2}}\nsolver: {{max_passes: 3}}\n",
        encoding="utf-8",
    )
    command = [
        sys.executable,
        "-c",
        program,
        "train",
        "--config",
        str(config),
        "--run-dir",
        str(tmp_path / "run"),
        *more,
    ]
    return subprocess.run(command, capture_output=True, text=True, check=False)


@pytest.fixture
def group() -> Iterator[Path]:
    """A real control group of 60 MB."""
    try:
        GROUP.mkdir()
        (GROUP / "memory.limit_in_bytes").write_text(str(60 * MB), encoding="ascii")
    except OSError:
        pytest.skip("control groups of version 1 cannot be made here")
    yield GROUP
    GROUP.rmdir()


@pytest.mark.parametrize("more", [[], ["--set", "cluster.memory_limit=2GB"]], ids=["", "2GB set"])
def test_in_a_small_control_group_the_plan_is_refused_and_nothing_is_killed(
    store: DataConfig, tmp_path: Path, group: Path, more: list[str]
) -> None:
    # the process joins the group after its libraries are loaded: it is the plan that is to refuse,
    # not the interpreter that is to be killed
    before = (
        f"import streamlr.cli.main, streamlr.training.train\nopen('{group}/cgroup.procs', "
        "'w').write(str(os.getpid()))"
    )
    done = run_limited(store, tmp_path, before, *more)
    assert done.returncode == 2, done.stderr
    assert (
        f"memory.limit_in_bytes of the control group '{group}' is 60 MB; raise the limit"
        in done.stderr
    )
    assert "Traceback" not in done.stderr


def test_an_address_space_that_is_too_small_is_an_error_and_no_traceback(
    store: DataConfig, tmp_path: Path
) -> None:
    before = (
        "import streamlr.cli.main, streamlr.training.train\n"
        "mapped = int(next(l for l in open('/proc/self/status') if "
        "l.startswith('VmSize')).split()[1]) * 1024\n"
        "resource.setrlimit(resource.RLIMIT_AS, (mapped + 4 * 10**6,) * 2)"
    )
    done = run_limited(store, tmp_path, before)
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "limits_of_workers", [["200MB"], ["4GB", "200MB"]], ids=["one", "the smaller of two"]
)
def test_the_limit_of_a_worker_of_others_is_asked_for_and_refuses(
    tmp_path: Path, limits_of_workers: list[str]
) -> None:
    large = write_store(
        tmp_path / "large.zarr",
        *two_class_data(150_000, 50, dtype="float64"),
        (150_000, 50),
        codec="blosc lz4",
    )
    with scheduler(tmp_path / "cluster") as cluster:
        for limit in limits_of_workers:
            cluster.worker("--memory-limit", limit)
        config = {
            "data": {"store": large.store},
            "cluster": {"kind": "address", "address": cluster.address},
            "solver": {"max_passes": 3},
        }
        with Client(cluster.address) as client:
            client.wait_for_workers(len(limits_of_workers), timeout=60)
        with pytest.raises(
            MemoryLimitError,
            match=r"needs about \d+ MB in a worker .*"
            r"the memory limit of the worker at tcp://\S+ \(200 MB\), of which Dask lets it use "
            r"80%, is 160 MB",
        ):
            streamlr.train(config)


@pytest.mark.parametrize("kind", ["threads", "processes"])
def test_threads_that_cannot_be_started_are_that_error(
    store: DataConfig, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setitem(ENGINES, kind, replace(ENGINES[kind], open=fails))
    with pytest.raises(MemoryLimitError, match="can't start new thread"):
        streamlr.train({"data": {"store": store.store}, "cluster": {"kind": kind}})


def fail_for_memory(*_: object) -> None:
    raise OSError(errno.ENOMEM, "Cannot allocate memory")


def test_memory_that_runs_out_on_a_worker_is_that_error() -> None:
    with pytest.raises(
        MemoryLimitError, match=r"Cannot allocate memory.*this process holds \d+ MB"
    ):
        _bare_errors(fail_for_memory)()


@pytest.mark.parametrize(
    "error",
    [
        MemoryError("Unable to allocate 3 GiB"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
        RuntimeError("can't start new thread"),
    ],
    ids=["numpy", "system", "thread"],
)
def test_what_the_system_says_of_memory_is_one_error(error: Exception) -> None:
    with (
        pytest.raises(
            MemoryLimitError,
            match=r"no more memory .*this process holds \d+ MB.*cluster.memory_limit",
        ),
        memory_reported(),
    ):
        raise error


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "full"), RuntimeError("other"), MemoryLimitError("plan")],
    ids=["disk", "other", "plan"],
)
def test_other_errors_stay_what_they_are(error: Exception) -> None:
    with pytest.raises(type(error)) as raised, memory_reported():
        raise error
    assert raised.value is error


def test_memory_that_runs_out_in_a_pass_is_that_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise MemoryError("Unable to allocate 3 GiB")

    monkeypatch.setattr("streamlr.data.source.ArraySource.read_features", fails)
    X, y = two_class_data(200, 3)
    with pytest.raises(MemoryLimitError, match="Unable to allocate"):
        streamlr.train({}, X=np.asarray(X), y=y)


def test_processes_that_would_not_fit_empty_are_refused_before_they_start(
    store: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: ClusterConfig) -> None:
        raise AssertionError("started")

    monkeypatch.setitem(ENGINES, "processes", replace(ENGINES["processes"], open=start))
    few = FoundLimit(160 * MB, "memory.max of the control group 'g'")
    monkeypatch.setattr("streamlr.planning.workforce.found_limit", lambda: few)
    settings = {"data": {"store": store.store}, "cluster": {"kind": "processes", "workers": 2}}
    refused = r"2 worker processes .* MB .*'g' is 160 MB; .*fewer"
    with pytest.raises(MemoryLimitError, match=refused):
        streamlr.train(settings)
    run = {
        "data": settings["data"],
        "cluster": {"kind": "serial"},
        "run": {"directory": str(tmp_path / "run")},
    }
    with monkeypatch.context() as patch:
        patch.setattr("streamlr.planning.workforce.found_limit", lambda: None)
        streamlr.train(run)
    with pytest.raises(MemoryLimitError, match=refused):
        streamlr.summary(
            tmp_path / "run", overrides=["cluster.kind=processes", "cluster.workers=2"]
        )
