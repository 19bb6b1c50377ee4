"""Real processes, really killed: a run that died anywhere goes on to the bit, and one that is
stopped says how."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from mortal import MARKS, End, Mortal, moments
from stores import two_class_data, write_store

import streamlr
from streamlr.runs.directory import RunDirectory

SOLVERS = ("gradient_descent", "lbfgs", "newton", "proximal", "auto")
KINDS = ("serial", "threads")
PASSES = 5
KILLS = 3  # of each run; the moments are drawn from a seed


@pytest.fixture(scope="module")
def mortal(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mortal]:
    with Mortal(tmp_path_factory.mktemp("mortal")) as server:
        yield server


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("data") / "s.zarr"
    X, y = two_class_data(800, 5)
    write_store(path, X, y, (50, 5))
    return path


def configured(
    folder: Path, store: Path, solver: str = "gradient_descent", kind: str = "serial", **run: Any
) -> list[str]:
    """Arguments of a training run."""
    tree = {
        "data": {"store": str(store)},
        "model": {"penalty": {"l2": 0.01}},
        "cluster": {"kind": kind},
        "solver": {"name": solver, "max_passes": PASSES, "learning_rate": 0.01},
        "run": run,
    }
    (folder / "c.yaml").write_text(yaml.safe_dump(tree))
    return ["train", "--config", str(folder / "c.yaml"), "--quiet", "--json"]


def outcome(directory: Path) -> tuple[str, list[dict[str, Any]]]:
    """What must be the same to the bit: the digest of the coefficients, and the history but for its
    times."""
    history = [json.loads(line) for line in (directory / "history.jsonl").read_text().splitlines()]
    summary = json.loads((directory / "summary.json").read_text())
    assert streamlr.load_model(directory).coefficients_sha256 == summary["coefficients_sha256"]
    return summary["coefficients_sha256"], [
        {key: value for key, value in line.items() if key != "seconds"} for line in history
    ]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("solver", SOLVERS)
def test_a_run_killed_at_any_moment_goes_on_to_the_bit(
    solver: str, kind: str, mortal: Mortal, store: Path, tmp_path: Path
) -> None:
    train = configured(tmp_path, store, solver, kind)
    whole = mortal.run(*train, "--run-dir", tmp_path / "whole")
    assert whole.status == 0, whole.err
    scans = [
        moment
        for moment in whole.counts
        if moment == "labels" or moment.startswith(("pass ", "after pass "))
    ]
    assert {"labels", "pass 1", "the end", *MARKS[:3]} <= set(whole.counts)
    fixed = [("labels", 1), ("pass 1", 2), ("replace", 1), ("the end", 1)]
    drawn = random.Random(f"{solver} {kind}").sample(moments(whole.counts, [*MARKS, *scans]), KILLS)
    for number, at in enumerate(fixed + drawn):
        directory = tmp_path / str(number)
        assert mortal.run(*train, "--run-dir", directory, at=at).status == -signal.SIGKILL, at
        again = mortal.run(*train, "--run-dir", directory, "--resume")
        assert again.status == 0, (at, again.err)
        assert outcome(directory) == outcome(tmp_path / "whole"), at
        assert not list(directory.rglob("*.partial*")), (
            at
        )  # what a death between write and rename left is gone


def test_every_moment_of_a_write_may_be_the_last(
    mortal: Mortal, store: Path, tmp_path: Path
) -> None:
    train = configured(tmp_path, store)
    counts = mortal.run(*train, "--run-dir", tmp_path / "whole").counts
    for at in moments(counts, ["replace"])[1::2]:
        directory = tmp_path / str(at[1])
        assert mortal.run(*train, "--run-dir", directory, at=at).status == -signal.SIGKILL
        assert mortal.run(*train, "--run-dir", directory, "--resume").status == 0
        assert outcome(directory) == outcome(tmp_path / "whole"), at


def test_a_model_that_made_way_for_another_comes_back(
    mortal: Mortal, store: Path, tmp_path: Path
) -> None:
    train = [*configured(tmp_path, store), "--run-dir", str(tmp_path / "run")]
    assert mortal.run(*train).status == 0
    before = outcome(tmp_path / "run")
    counts = mortal.run(*train, "--overwrite").counts
    last_two = counts["replace"] - 1  # the new model takes its place, then the summary
    assert (
        mortal.run(
            *train, "--overwrite", "--set", "model.penalty.l2=1", at=("replace", last_two)
        ).status
        == -signal.SIGKILL
    )
    assert not (tmp_path / "run" / "model.zarr").exists()
    stopped = mortal.run(
        *train, "--overwrite", "--set", "model.penalty.l2=2", at=("pass 1", 3), blow=signal.SIGINT
    )
    assert "is as it was" in stopped.err
    assert streamlr.load_model(tmp_path / "run").coefficients_sha256 == before[0]


def test_a_run_that_is_killed_again_and_again_ends_with_the_same_bits(
    mortal: Mortal, store: Path, tmp_path: Path
) -> None:
    train = configured(tmp_path, store, "lbfgs")
    assert mortal.run(*train, "--run-dir", tmp_path / "whole").status == 0
    for _ in range(PASSES - 1):
        assert (
            mortal.run(
                *train, "--run-dir", tmp_path / "run", "--resume", at=("PassFinished", 1)
            ).status
            == -signal.SIGKILL
        )
    assert mortal.run(*train, "--run-dir", tmp_path / "run", "--resume").status == 0
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


# Stopped by a person


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("kind", KINDS)
def test_a_stopped_run_commits_the_passes_that_no_checkpoint_holds_yet(
    kind: str, blow: signal.Signals, mortal: Mortal, store: Path, tmp_path: Path
) -> None:
    train = configured(tmp_path, store, "gradient_descent", kind, checkpoint_every=100)
    assert mortal.run(*train, "--run-dir", tmp_path / "whole").status == 0
    stopped = mortal.run(*train, "--run-dir", tmp_path / "run", at=("pass 4", 3), blow=blow)
    assert (stopped.status, stopped.out) == (130, "")
    assert (
        stopped.err
        == f"stopped; finished passes are safe in {tmp_path / 'run'}: add --resume to go on\n"
    )
    assert [path.name for path in (tmp_path / "run" / "checkpoint").iterdir()] == [
        "pass-000003.npz"
    ]
    assert mortal.run(*train, "--run-dir", tmp_path / "run", "--resume").status == 0
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


def test_a_stop_between_the_history_and_the_checkpoint_of_a_pass_repeats_no_line(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configured(tmp_path, store, "lbfgs", checkpoint_every=100)
    whole = streamlr.train(tmp_path / "c.yaml", overrides=[f"run.directory={tmp_path / 'whole'}"])
    with monkeypatch.context() as patch:

        def stop(directory: RunDirectory, line: dict[str, Any]) -> None:
            if line["pass"] == 3:
                raise KeyboardInterrupt

        patch.setattr(RunDirectory, "append_history", stop)
        with pytest.raises(KeyboardInterrupt):
            streamlr.train(tmp_path / "c.yaml", overrides=[f"run.directory={tmp_path / 'run'}"])
    again = streamlr.train(
        tmp_path / "c.yaml", overrides=[f"run.directory={tmp_path / 'run'}"], resume=True
    )
    assert [line["pass"] for line in again.history] == [line["pass"] for line in whole.history]
    assert outcome(tmp_path / "run") == outcome(tmp_path / "whole")


@pytest.mark.parametrize(
    ("how", "at", "words"),
    [
        (
            [],
            ("labels", 1),
            "stopped before the first pass was finished: start again; nothing was kept in {run}",
        ),
        (
            [],
            ("pass 1", 2),
            "stopped before the first pass was finished: start again; nothing was kept in {run}",
        ),
        (
            ["--overwrite"],
            ("pass 1", 2),
            "stopped before the first pass was finished: start again with --overwrite; the run "
            "that {run} may hold is as it was",
        ),
        (
            ["--resume"],
            ("pass 4", 2),
            "stopped before another pass was finished; what {run} holds is as it was: add "
            "--resume to go on",
        ),
    ],
)
def test_a_run_stopped_before_it_got_anywhere_says_what_there_is(
    how: list[str], at: tuple[str, int], words: str, mortal: Mortal, store: Path, tmp_path: Path
) -> None:
    train = [*configured(tmp_path, store), "--run-dir", str(tmp_path / "run")]
    if how:
        assert mortal.run(*train, "--set", "solver.max_passes=3").status == 0
    before = files_of(tmp_path / "run")
    stopped = mortal.run(*train, *how, at=at, blow=signal.SIGTERM)
    assert (stopped.status, stopped.err) == (130, words.format(run=tmp_path / "run") + "\n")
    after = files_of(tmp_path / "run")
    if how == ["--resume"]:  # configuration and history are those of this run by then
        del before["config.yaml"], after["config.yaml"]
    assert after == before
    assert mortal.run(*train, *how).status == 0


def files_of(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


# A full disk


def full(end: End, directory: Path, passes: int) -> None:
    """The run has ended as one should whose disk is full after so many passes."""
    assert end.status == 1, end.err
    assert "Traceback" not in end.err
    error = end.err.splitlines()[-1]
    assert error.startswith(f"Error: cannot write '{directory}")
    assert "MB are free there" in error
    safe = (
        f"the checkpoint of pass {passes} in '{directory / 'checkpoint'}' is intact: make "
        "room, then add --resume to go on"
    )
    assert error.endswith(
        safe
        if passes
        else f"no checkpoint had been committed in '{directory}' yet: make room, then start again "
        "with --overwrite"
    )


@pytest.mark.parametrize("solver", ["gradient_descent", "lbfgs"])
@pytest.mark.parametrize(
    ("at", "passes"),
    [(("pass 1", 1), 0), (("pass 3", 1), 2), (("after pass 5", 1), 5)],
    ids=["first pass", "third pass", "model"],
)
def test_a_disk_that_runs_full_costs_no_finished_pass(
    at: tuple[str, int], passes: int, solver: str, mortal: Mortal, store: Path, tmp_path: Path
) -> None:
    train = configured(tmp_path, store, solver)
    whole = mortal.run(*train, "--run-dir", tmp_path / "whole")
    if at[0] not in whole.counts:
        pytest.skip("the solver has converged before")
    directory = tmp_path / "run"
    full(mortal.run(*train, "--run-dir", directory, at=at, blow="full"), directory, passes)
    again = mortal.run(*train, "--run-dir", directory, "--resume" if passes else "--overwrite")
    assert again.status == 0, again.err
    assert outcome(directory) == outcome(tmp_path / "whole")


def test_a_disk_that_runs_full_under_an_overwritten_run_leaves_its_model(
    mortal: Mortal, store: Path, tmp_path: Path
) -> None:
    train = [*configured(tmp_path, store), "--run-dir", str(tmp_path / "run")]
    assert mortal.run(*train).status == 0
    before = streamlr.load_model(tmp_path / "run").coefficients_sha256
    ended = mortal.run(
        *train, "--overwrite", "--set", "model.penalty.l2=1", at=("after pass 5", 1), blow="full"
    )
    full(ended, tmp_path / "run", 5)
    assert streamlr.load_model(tmp_path / "run").coefficients_sha256 == before


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of a megabyte."""
    place = tmp_path / "disk"
    place.mkdir()
    if (
        os.geteuid() != 0
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", place],
            capture_output=True,
            check=False,
        ).returncode
    ):
        pytest.skip("only root may mount a file system")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.parametrize(("after", "left"), [(2, 0), (4, 0), (5, 0), (3, 8)])
def test_a_real_full_file_system_costs_no_finished_pass(
    after: int, left: int, mortal: Mortal, store: Path, small_disk: Path, tmp_path: Path
) -> None:
    train = configured(tmp_path, store)
    assert mortal.run(*train, "--run-dir", tmp_path / "whole").status == 0
    directory, filler = small_disk / "run", small_disk / "filler"
    fill = f"cat /dev/zero > {filler} 2>/dev/null || truncate -s -{left}K {filler}"
    full(
        mortal.run(*train, "--run-dir", directory, at=(f"after pass {after}", 1), blow=fill),
        directory,
        after,
    )
    stuck = mortal.run(*train, "--run-dir", directory, "--resume")
    full(stuck, directory, after)  # no worse for trying again before there is room
    filler.unlink()
    assert mortal.run(*train, "--run-dir", directory, "--resume").status == 0
    assert outcome(directory) == outcome(tmp_path / "whole")


def test_a_disk_without_any_room_is_told_before_the_data_are_read(
    mortal: Mortal, store: Path, small_disk: Path, tmp_path: Path
) -> None:
    filler = small_disk / "filler"
    subprocess.run(f"cat /dev/zero > {filler} 2>/dev/null", shell=True, check=False)
    ended = mortal.run(*configured(tmp_path, store), "--run-dir", small_disk / "run")
    assert ended.status == 1
    assert "Traceback" not in ended.err
    assert "No space left on device" in ended.err
