"""What is written in one place is written by one process at a time: the second is refused by name,
and a killed one leaves no lock behind."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from stores import files_of, runner, two_class_data, write_store
from test_damage import _as_nobody

import streamlr
from streamlr.cli.main import cli
from streamlr.data import locks
from streamlr.data.ingest.ingest import IngestSpec, ingest
from streamlr.data.ingest.table import Columns
from streamlr.data.locks import FileLock
from streamlr.data.predictions import PredictionWriter
from streamlr.data.synth import SynthSpec, synthesize
from streamlr.data.writing import StoreWriter
from streamlr.errors import ConfigError, RunDirectoryError, WriteError
from streamlr.reporting.plots import plot_metrics
from streamlr.runs.directory import RunDirectory

IN_USE = r"is (being written|in use) by another run \(process \d+"


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a table, a store and a run."""
    monkeypatch.chdir(tmp_path)
    X, y = two_class_data(2000)
    Path("t.csv").write_text(
        "a,b,y\n"
        + "".join(
            f"{row[0]},{row[1]},{label}\n"
            for row, label in zip(X.tolist(), y.tolist(), strict=True)
        )
    )
    write_store(tmp_path / "s", X, y, (100, 6))
    streamlr.train(
        {"data": {"store": "s"}, "model": {"penalty": {"l2": 0.1}}, "run": {"directory": "run"}}
    )
    return tmp_path


def _ingest(out: str, done: Callable[[], object] = lambda: None, overwrite: bool = False) -> None:
    ingest(
        ["t.csv"],
        out,
        IngestSpec(Columns("y"), chunk_rows=500),
        overwrite=overwrite,
        rows_done=lambda rows: done() and None,
    )


def _synth(out: str, done: Callable[[], object] = lambda: None, overwrite: bool = False) -> None:
    synthesize(
        out,
        SynthSpec(2000, 3, chunk_rows=500),
        overwrite=overwrite,
        rows_done=lambda rows: done() and None,
    )


def _predict(out: str, done: Callable[[], object] = lambda: None, overwrite: bool = False) -> None:
    streamlr.predict(
        "run", "s", out, overwrite=overwrite, subscribers=[lambda event: done() and None]
    )


WRITERS: dict[str, Callable[..., None]] = {"ingest": _ingest, "synth": _synth, "predict": _predict}


@pytest.mark.parametrize("second", WRITERS)
@pytest.mark.parametrize("first", WRITERS)
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_second_writer_is_refused_while_the_first_is_at_it(
    first: str, second: str, overwrite: bool, here: Path
) -> None:
    if overwrite:
        _synth("out")
    refused: list[str] = []

    def interfere() -> None:
        if not refused:
            with pytest.raises(ConfigError, match=rf"'.*out' {IN_USE}") as raised:
                WRITERS[second](
                    str(here / "sub" / ".." / "out")
                    if (here / "sub").mkdir(exist_ok=True) is None
                    else "",
                    overwrite=overwrite,
                )
            refused.append(str(raised.value))

    WRITERS[first]("out", interfere, overwrite)
    assert f"process {os.getpid()}" in refused[0]
    assert "wait for it, stop it, or choose another name" in refused[0]
    assert {path.name for path in here.iterdir()} == {
        "t.csv",
        "s",
        "run",
        "out",
        "sub",
    }  # no lock and nothing unfinished is left
    alone = here / "alone"
    WRITERS[first](str(alone))
    assert files_of(here / "out") == files_of(alone)
    WRITERS[second]("out", overwrite=True)  # which is free again


def test_whatever_ends_a_writer_lets_the_next_one_in(here: Path) -> None:
    def fail() -> None:
        raise KeyboardInterrupt

    for name, write in WRITERS.items():
        with pytest.raises(KeyboardInterrupt):
            write(name, fail)
        write(name)
    Path("bad.csv").write_text("a,y\n1,0\nx,1\n")
    for _ in range(2):
        with pytest.raises(streamlr.errors.DataError):
            ingest(["bad.csv"], "other", IngestSpec(Columns("y")))
    assert not Path("other").exists()


PROGRAM = """
import sys
sys.path[:0] = {path!r}
import test_one_writer as t
import time
def wait():
    print("writing", flush=True)
    time.sleep(60)
t.WRITERS[{name!r}]("out", wait)
"""


@pytest.mark.parametrize("name", WRITERS)
def test_a_killed_writer_leaves_no_lock(name: str, here: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(path=[str(Path(__file__).parent)], name=name)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    with pytest.raises(
        ConfigError, match=rf"'out' is being written by another run \(process {process.pid}\)"
    ):
        WRITERS[name]("out")
    assert not Path("out").exists()
    process.send_signal(signal.SIGKILL)
    process.wait()
    WRITERS[name]("out")
    WRITERS[name]("alone")
    assert files_of(Path("out")) == files_of(Path("alone"))
    assert {path.name for path in here.iterdir()} == {"t.csv", "s", "run", "out", "alone"}


def test_of_many_ingests_at_once_one_writes_and_the_others_say_so(here: Path) -> None:
    for round_ in range(3):
        command = [
            sys.executable,
            "-m",
            "streamlr.cli.main",
            "ingest",
            "t.csv",
            f"many-{round_}",
            "--target",
            "y",
            "--chunk-rows",
            "50",
            "--quiet",
        ]
        processes = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(4)]
        ends = [(process.communicate()[1], process.returncode) for process in processes]
        assert sorted(status for _, status in ends) == [0, 2, 2, 2], ends
        for text, status in ends:
            assert status == 0 or (
                "is being written by another run (process" in text or "exists already" in text
            ), text
        group = zarr.open_group(f"many-{round_}", mode="r")
        assert np.array_equal(np.asarray(group["y"]), two_class_data(2000)[1])
    assert {path.name for path in here.iterdir()} == {
        "t.csv",
        "s",
        "run",
        "many-0",
        "many-1",
        "many-2",
    }


# Where the file system has no locks


@pytest.fixture(params=[errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS], ids=errno.errorcode.get)
def no_flock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.mark.usefixtures("no_flock")
def test_without_flock_all_is_written_and_a_second_writer_is_refused(here: Path) -> None:
    for name, write in WRITERS.items():
        refused: list[str] = []

        def interfere(
            write: Callable[..., None] = write, name: str = name, refused: list[str] = refused
        ) -> None:
            if not refused:
                with pytest.raises(
                    ConfigError,
                    match=rf"{IN_USE} on {socket.gethostname()}, by '.*\.held', since this file "
                    rf"system has no locks",
                ) as raised:
                    write(name)
                refused.append(str(raised.value))

        write(name, interfere)
        assert f"process {os.getpid()} on" in refused[0]
    config = {"data": {"store": "s"}, "run": {"directory": "other"}, "solver": {"max_passes": 1}}
    streamlr.train(config)
    with (
        RunDirectory("other", resume=True),
        pytest.raises(RunDirectoryError, match=rf"'other' {IN_USE} on .*remove the file"),
    ):
        streamlr.train(config, resume=True)
    streamlr.train({**config, "solver": {"max_passes": 2}}, resume=True)
    assert {path.name for path in here.iterdir()} == {"t.csv", "s", "run", "other", *WRITERS}
    assert ".lock.held" not in os.listdir("other")


@pytest.mark.usefixtures("no_flock")
def test_without_flock_the_lock_of_a_dead_process_is_taken_away_and_one_of_another_machine_is_left(
    here: Path,
) -> None:
    ended = subprocess.Popen(["true"])
    ended.wait()
    held = here / ".out.lock.held"
    mine = locks._owner_of(os.getpid()).split()
    dead = [
        f"{ended.pid} {' '.join(mine[1:3])} 12345",
        f"{os.getpid()} {' '.join(mine[1:3])} 12345",
    ]  # the second: a number that was given again
    for owner in dead:
        held.write_text(owner)
        _synth("out", overwrite=True)
        assert not held.exists()
    alive = [
        f"{ended.pid} elsewhere {mine[2]} 1",
        f"{ended.pid} {mine[1]} pid:[1] 1",
        "",
        "?",
        " ".join(mine),
        "1e9 x y z",
    ]
    for owner in alive:
        held.write_text(owner)
        with pytest.raises(
            ConfigError,
            match=r"is being written by another run \(process .*; if that process is gone, remove "
            r"the file\)",
        ):
            _synth("out", overwrite=True)
        assert held.read_text() == owner
    held.write_text(alive[0])
    with pytest.raises(ConfigError, match=f"process {ended.pid} on elsewhere, by"):
        _synth("out", overwrite=True)


@pytest.mark.usefixtures("no_flock")
def test_without_flock_processes_that_die_and_come_exclude_each_other(tmp_path: Path) -> None:
    """Every one that holds the lock finds nobody else at it; every third dies while it does."""
    children = []
    for number in range(9):
        child = os.fork()
        if child == 0:
            os._exit(_contend(tmp_path, dies=number % 3 == 0))
        children.append(child)
    statuses = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    assert set(statuses) <= {0, -signal.SIGKILL}, statuses
    assert statuses.count(0) == 6


def _contend(folder: Path, dies: bool) -> int:
    for _ in range(5000):
        try:
            lock = FileLock(folder / "lock", lambda holder: ConfigError(holder))
        except ConfigError:
            time.sleep(0.002)
            continue
        mark = folder / f"{os.getpid()}.mark"
        mark.with_suffix(".new").write_text(locks._owner_of(os.getpid()))
        mark.with_suffix(".new").rename(mark)
        time.sleep(0.003)
        others = [
            path
            for path in folder.glob("*.mark")
            if path != mark and not locks._has_ended(path.read_text())
        ]
        if dies:
            os.kill(os.getpid(), signal.SIGKILL)
        mark.unlink()
        lock.release()
        return 1 if others else 0
    return 2


# Where nothing may be written


@contextmanager
def unwritable() -> Iterator[Path]:
    """A folder that nobody but root may write to, entered as somebody else, with a store and a
    run."""
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, into which root alone may look
        place = Path(folder)
        X, y = two_class_data()
        write_store(place / "s", X, y, (100, 6))
        streamlr.train(
            {"data": {"store": str(place / "s")}, "run": {"directory": str(place / "run")}}
        )
        (place / "t.csv").write_text("a,y\n1,0\n2,1\n")
        (place / "c.yaml").write_text(
            f"data: {{store: {place / 's'}}}\ncluster: {{kind: serial}}\n"
        )
        (place / "closed").mkdir()
        for path in [place, *place.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        with _as_nobody():
            yield place


@pytest.mark.skipif(not hasattr(os, "seteuid"), reason="needs file permissions as POSIX has them")
@pytest.mark.parametrize("below", ["out", "deep/er/out"])
def test_a_folder_that_may_not_be_written_to_is_told_in_a_line(below: str) -> None:
    with unwritable() as place:
        out = str(place / "closed" / below)
        for arguments in (
            ["predict", str(place / "run"), str(place / "s"), out, "--set", "cluster.kind=serial"],
            ["synth", out, "--rows", "10", "--features", "2"],
            ["ingest", str(place / "t.csv"), out, "--target", "y"],
            ["train", "--config", str(place / "c.yaml"), "--run-dir", out],
            [
                "evaluate",
                str(place / "run"),
                str(place / "s"),
                "--plot",
                f"{out}.png",
                "--set",
                "cluster.kind=serial",
            ],
        ):
            done = runner().invoke(cli, arguments)
            assert isinstance(done.exception, WriteError | ConfigError), (
                arguments,
                done.output,
                done.exception,
            )
            assert "ermission denied" in str(done.exception) or "cannot be written to" in str(
                done.exception
            )


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_file_in_the_place_of_a_folder_is_told_in_a_line(overwrite: bool, here: Path) -> None:
    for name, write in WRITERS.items():
        with pytest.raises(
            WriteError, match=r"cannot write 't\.csv/out' \((Not a directory|File exists)"
        ):
            write("t.csv/out", overwrite=overwrite)
        with pytest.raises(WriteError, match="File name too long"):
            write("x" * 300, overwrite=overwrite)
        for odd in (".", "/", ".."):
            with pytest.raises(ConfigError, match="is no name for what is to be written"):
                write(odd, overwrite=overwrite)
        write(name)
    with pytest.raises(RunDirectoryError, match="cannot make the run directory"):
        RunDirectory("t.csv/run")
    assert {path.name for path in here.iterdir()} == {"t.csv", "s", "run", *WRITERS}


def test_a_lock_is_never_taken_through_a_link(here: Path) -> None:
    victim = here / "victim"
    victim.write_text("precious")
    (here / ".out.lock").symlink_to(victim)
    with pytest.raises(WriteError, match="cannot write 'out'"):
        _synth("out")
    assert victim.read_text() == "precious"


def test_a_disk_that_fills_up_while_predictions_are_begun_is_told(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(zarr, "create_array", full)
        with pytest.raises(WriteError, match=r"cannot write 'p' \(No space left on device"):
            _predict("p")
    _predict("p")


@pytest.mark.usefixtures("here")
def test_a_picture_that_cannot_be_written_is_told() -> None:
    metrics = streamlr.evaluate("run", "s")
    with pytest.raises(
        WriteError, match=r"cannot write 't\.csv/p\.png' \(Not a directory\); choose another name"
    ):
        plot_metrics(metrics, "t.csv/p.png")


def test_a_writer_that_is_dropped_lets_go() -> None:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out"
        for _ in range(2):
            writer: Any = StoreWriter(out)
            del writer
            predictions: Any = PredictionWriter(out, 10, 5, [], overwrite=False)
            del predictions
