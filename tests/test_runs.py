"""The run directory: what it holds, who may work in it, and that a run goes on to the bit wherever
it was broken off."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import pickle
import random
import signal
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zarr
from numpy.typing import NDArray

import streamlr
from streamlr.config.sections import SolverConfig, load_config
from streamlr.data.partition import partition_rows
from streamlr.errors import ConfigError, DataError, NonFiniteError, RunDirectoryError, StreamlrError
from streamlr.events import Event, PassFinished, ScanStarted
from streamlr.model import Model, load_model
from streamlr.runs.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from streamlr.training.train import TrainResult, train

HISTORY_KEYS = {"pass", "loss", "gradient_max", "step", "seconds", "bytes_read"}
SUMMARY_KEYS = {
    "status",
    "passes",
    "objective",
    "gradient_max",
    "seconds",
    "peak_memory_bytes",
    "rows",
    "features",
    "coefficients_sha256",
}
STATUSES = {"converged", "pass_limit", "stalled", "diverged"}
SOLVERS = typing.get_args(typing.get_type_hints(SolverConfig)["name"])
ROWS, FEATURES, CHUNK = 2000, 5, 256
SIGMA = np.array([1.0, 3.0, 0.2, 1.0, 1.0])
ENOUGH = 100_000  # passes of gradient descent that take longer than anyone waits


def write_store(path: Path, X: NDArray[Any], y: NDArray[Any]) -> Path:
    """A store without compression, so that equal shapes are equal numbers of bytes."""
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    for name, values in (("X", X), ("y", y)):
        group.create_array(
            name,
            data=values,
            chunks=(CHUNK, *values.shape[1:]),
            compressors=None,
            config={"write_empty_chunks": True},
        )
    return path


def draw(seed: int, rows: int = ROWS) -> tuple[NDArray[Any], NDArray[Any]]:
    rng = np.random.default_rng(seed)
    X = (rng.standard_normal((rows, FEATURES)) * SIGMA).astype(np.float32)
    y = rng.random(rows) < 1 / (1 + np.exp(-(X @ [0.7, -0.4, 2.0, 0.0, 2.0] + 1.0)))
    return X, y.astype(np.int8)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_store(tmp_path_factory.mktemp("data") / "s.zarr", *draw(3))


def settings(
    store: Path,
    directory: Path | None,
    solver: str = "gradient_descent",
    passes: int = 12,
    every: int = 1,
) -> dict[str, Any]:
    return {
        "data": {"store": str(store)},
        "model": {"penalty": {"l2": 0.01}},
        "cluster": {"kind": "serial"},
        "solver": {"name": solver, "max_passes": passes, "learning_rate": 0.3},
        "run": {
            "directory": None if directory is None else str(directory),
            "checkpoint_every": every,
        },
    }


def history(directory: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (directory / "history.jsonl").read_text().splitlines()]


def without_seconds(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


class PowerCut(BaseException):
    """No error that anyone catches."""


def cut_after(passes: int) -> Callable[[Event], None]:
    """A subscriber that ends the run after a pass."""

    def see(event: Event) -> None:
        if isinstance(event, PassFinished) and event.number == passes:
            raise PowerCut

    return see


def broken_off(config: dict[str, Any], passes: int, **how: Any) -> None:
    with pytest.raises(PowerCut):
        train(config, subscribers=[cut_after(passes)], **how)


class Scans:
    """A subscriber that lists reads of the data."""

    def __init__(self) -> None:
        self.titles: list[str] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, ScanStarted):
            self.titles.append(event.title)


# What a run leaves


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_run_directory_holds_the_files_and_keys_of_the_contract(
    solver: str, store: Path, tmp_path: Path
) -> None:
    result = train(settings(store, tmp_path / "run", solver))
    directory = tmp_path / "run"
    assert {path.name for path in directory.iterdir() if not path.name.startswith(".")} == {
        "config.yaml",
        "history.jsonl",
        "summary.json",
        "model.zarr",
        "checkpoint",
    }
    summary = json.loads((directory / "summary.json").read_text())
    assert set(summary) >= SUMMARY_KEYS
    assert summary["status"] in STATUSES
    assert (summary["rows"], summary["features"]) == (ROWS, FEATURES)
    assert summary == result.summary
    lines = history(directory)
    assert [line["pass"] for line in lines] == list(range(1, summary["passes"] + 1))
    assert all(set(line) >= HISTORY_KEYS for line in lines)
    assert lines == result.history
    assert (
        summary["coefficients_sha256"]
        == load_model(directory).coefficients_sha256
        == result.model.coefficients_sha256
    )
    assert load_config(directory / "config.yaml") == load_config(settings(store, directory, solver))


def test_the_last_line_of_the_history_is_the_point_of_the_summary(
    store: Path, tmp_path: Path
) -> None:
    result = train(settings(store, tmp_path / "run", "newton"))
    assert (result.history[-1]["loss"], result.history[-1]["gradient_max"]) == (
        result.summary["loss"],
        result.summary["gradient_max"],
    )
    assert result.summary["bytes_read"] == sum(line["bytes_read"] for line in result.history)


def test_a_pass_reads_the_stored_bytes(store: Path, tmp_path: Path) -> None:
    stored = sum(
        path.stat().st_size
        for path in store.rglob("*")
        if path.is_file() and path.name != "zarr.json"
    )
    assert {line["bytes_read"] for line in train(settings(store, tmp_path / "run")).history} == {
        stored
    }


def test_the_history_grows_while_the_run_goes_on(store: Path, tmp_path: Path) -> None:
    seen: list[int] = []
    train(
        settings(store, tmp_path / "run", passes=6),
        subscribers=[
            lambda event: (
                seen.append(len(history(tmp_path / "run")))
                if isinstance(event, PassFinished)
                else None
            )
        ],
    )
    assert seen == [1, 2, 3, 4, 5, 6]


def test_the_last_two_checkpoints_are_kept(store: Path, tmp_path: Path) -> None:
    train(settings(store, tmp_path / "run", passes=9, every=2))
    assert [path.name for path in sorted((tmp_path / "run" / "checkpoint").iterdir())] == [
        "pass-000006.npz",
        "pass-000008.npz",
    ]


def test_without_a_directory_nothing_is_written(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = train(settings(store, None))
    assert list(tmp_path.iterdir()) == []
    assert len(result.history) == 12


def refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def test_the_files_of_a_run_that_diverged_are_json(store: Path, tmp_path: Path) -> None:
    config = settings(store, tmp_path / "run")
    config["solver"]["learning_rate"] = 1e300
    assert train(config).status == "diverged"
    for line in [
        *(tmp_path / "run" / "history.jsonl").read_text().splitlines(),
        (tmp_path / "run" / "summary.json").read_text(),
    ]:
        json.loads(line, parse_constant=refuse_constant)


# Going on


@pytest.mark.parametrize("solver", SOLVERS)
def test_a_run_broken_off_after_any_pass_goes_on_to_the_bit(
    solver: str, store: Path, tmp_path: Path
) -> None:
    whole = train(settings(store, tmp_path / "whole", solver))
    for cut in range(1, whole.passes):
        directory = tmp_path / str(cut)
        broken_off(settings(store, directory, solver), cut)
        scans = Scans()
        again = train(settings(store, directory, solver), resume=True, subscribers=[scans])
        assert again.summary["coefficients_sha256"] == whole.summary["coefficients_sha256"]
        assert without_seconds(history(directory)) == without_seconds(whole.history)
        assert scans.titles == [
            f"pass {number}" for number in range(cut + 1, whole.passes + 1)
        ]  # nothing is read twice
        assert (again.status, again.passes) == (whole.status, whole.passes)
        assert again.summary["seconds"] >= sum(line["seconds"] for line in again.history[cut:])


def run_and_fail_at(monkeypatch: pytest.MonkeyPatch, config: dict[str, Any], at: int) -> int:
    """Train, with the power cut at the ``at``-th write to be made durable; the number of them where
    there were fewer."""
    calls = itertools.count(1)
    last = 0

    def cut(call: Callable[..., Any]) -> Callable[..., Any]:
        def instead(*arguments: Any, **named: Any) -> Any:
            nonlocal last
            last = next(calls)
            if last == at:
                raise PowerCut
            return call(*arguments, **named)

        return instead

    with monkeypatch.context() as patch:
        for name in ("replace", "fsync", "unlink"):
            patch.setattr(os, name, cut(getattr(os, name)))
        with contextlib.suppress(PowerCut):
            train(config)
    return last


def test_a_power_cut_at_any_write_costs_nothing_but_time(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = train(settings(store, None, passes=4))
    writes = run_and_fail_at(monkeypatch, settings(store, tmp_path / "count", passes=4), at=0)
    assert writes > 12  # two for each checkpoint, and those of configuration, model and summary
    for at in range(1, writes + 1):
        directory = tmp_path / str(at)
        run_and_fail_at(monkeypatch, settings(store, directory, passes=4), at)
        again = train(settings(store, directory, passes=4), resume=True)
        assert again.summary["coefficients_sha256"] == whole.summary["coefficients_sha256"], at
        assert without_seconds(history(directory)) == without_seconds(whole.history), at
        assert load_model(directory).coefficients_sha256 == whole.summary["coefficients_sha256"], at


@contextlib.contextmanager
def training_process(config: dict[str, Any], directory: Path) -> Iterator[subprocess.Popen[str]]:
    path = directory.with_suffix(".yaml")
    path.write_text(yaml.safe_dump(config))
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlr.cli.main", "train", "--config", str(path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def wait_for_lines(process: subprocess.Popen[str], directory: Path, lines: int) -> None:
    """Wait until the history of a running process is so long; fail if the process ends before."""
    path = directory / "history.jsonl"
    while not path.exists() or path.read_bytes().count(b"\n") < lines:
        assert process.poll() is None, process.communicate()[0]


@pytest.mark.parametrize("seed", range(3))
def test_a_killed_process_costs_nothing_but_time(seed: int, store: Path, tmp_path: Path) -> None:
    rng = random.Random(seed)
    directory = tmp_path / "run"
    every = rng.choice([1, 1, 7])
    with training_process(
        settings(store, directory, passes=ENOUGH, every=every), directory
    ) as process:
        wait_for_lines(process, directory, rng.randrange(1, 60))
        for _ in range(rng.randrange(5000)):  # a moment in the middle of whatever it does
            pass
        process.send_signal(signal.SIGKILL)
        process.wait()
    passes = (directory / "history.jsonl").read_bytes().count(b"\n") + 10
    whole = train(settings(store, None, passes=passes))
    again = train(settings(store, directory, passes=passes, every=every), resume=True)
    assert again.summary["coefficients_sha256"] == whole.summary["coefficients_sha256"]
    assert without_seconds(history(directory)) == without_seconds(whole.history)


def test_a_run_at_its_limit_goes_on_with_a_higher_one(store: Path, tmp_path: Path) -> None:
    assert train(settings(store, tmp_path / "run", passes=5)).status == "pass_limit"
    again = train(settings(store, tmp_path / "run", passes=12), resume=True)
    assert (
        again.summary["coefficients_sha256"]
        == train(settings(store, None, passes=12)).summary["coefficients_sha256"]
    )


def test_resuming_a_run_that_has_converged_reads_nothing(store: Path, tmp_path: Path) -> None:
    once = train(settings(store, tmp_path / "run", "newton"))
    scans = Scans()
    again = train(settings(store, tmp_path / "run", "newton"), resume=True, subscribers=[scans])
    assert (once.status, again.status, scans.titles) == ("converged", "converged", [])
    assert again.summary["coefficients_sha256"] == once.summary["coefficients_sha256"]


def test_resuming_nothing_starts_from_the_start(store: Path, tmp_path: Path) -> None:
    assert (
        train(settings(store, tmp_path / "run"), resume=True).summary["coefficients_sha256"]
        == train(settings(store, None)).summary["coefficients_sha256"]
    )


@pytest.mark.parametrize(
    "changes",
    [
        ["cluster.kind=threads", "cluster.workers=2"],
        ["run.checkpoint_every=3"],
        ["cluster.memory_limit=4GB"],
    ],
)
def test_what_the_bits_do_not_depend_on_may_change_between_attempts(
    changes: list[str], store: Path, tmp_path: Path
) -> None:
    config = settings(store, tmp_path / "run")
    broken_off(config, 5)
    again = train(config, overrides=changes, resume=True)
    assert (
        again.summary["coefficients_sha256"]
        == train(settings(store, None)).summary["coefficients_sha256"]
    )


@pytest.mark.parametrize(
    ("setting", "named"),
    [
        ("solver.name=newton", r"solver\.name 'gradient_descent', this run has 'newton'"),
        ("solver.tolerance=1e-3", r"solver\.tolerance 1e-08, this run has 0\.001"),
        ("solver.learning_rate=0.2", r"solver\.learning_rate 0\.3, this run has 0\.2"),
        ("model.penalty.l2=1", r"model\.penalty\.l2 0\.01, this run has 1\.0"),
        ("model.fit_intercept=false", r"model\.fit_intercept True, this run has False"),
        ("model.standardize=true", r"model\.standardize False"),
        ("run.seed=4", r"run\.seed 0, this run has 4"),
        ("data.missing_chunks=fill", r"data\.missing_chunks 'error'"),
    ],
)
def test_a_checkpoint_of_another_configuration_is_refused_by_the_key(
    setting: str, named: str, store: Path, tmp_path: Path
) -> None:
    config = settings(store, tmp_path / "run")
    broken_off(config, 3)
    before = history(tmp_path / "run")
    with pytest.raises(
        RunDirectoryError,
        match=named + ".*go back to what it was made with, or start anew with overwrite=True",
    ):
        train(config, overrides=[setting], resume=True)
    assert history(tmp_path / "run") == before


def test_a_checkpoint_of_other_data_is_refused_by_what_differs(store: Path, tmp_path: Path) -> None:
    broken_off(settings(store, tmp_path / "run"), 3)
    other = write_store(tmp_path / "other.zarr", *draw(4))
    with pytest.raises(
        RunDirectoryError, match=r"data\.store '.*s\.zarr', this run has '.*other\.zarr'"
    ):
        train(settings(other, tmp_path / "run"), resume=True)
    moving = write_store(tmp_path / "moving.zarr", *draw(4))
    broken_off(settings(moving, tmp_path / "second"), 3)
    write_store(moving, *draw(4, ROWS + 1))
    with pytest.raises(
        RunDirectoryError, match=r"data shape \(2000, 5\), this run has \(2001, 5\)"
    ):
        train(settings(moving, tmp_path / "second"), resume=True)


def test_the_same_values_in_another_type_are_refused_by_the_type(tmp_path: Path) -> None:
    """Equal values are not enough for equal bits: how many rows make a block follows from the bytes
    of a value, and so does the order of the sums."""
    X, y = draw(4)
    store = write_store(tmp_path / "s.zarr", X, y)
    broken_off(settings(store, tmp_path / "run"), 3)
    narrow, wide = (partition_rows(10**6, FEATURES, CHUNK, itemsize) for itemsize in (4, 8))
    assert narrow.block_rows == 2 * wide.block_rows
    for dtype in ("float64", "int32"):  # the same values, the same bytes
        write_store(store, X.astype(dtype) if dtype == "float64" else X.view(dtype), y)
        with pytest.raises(
            RunDirectoryError,
            match=f"made with data dtype float32, this run has {dtype}; go back .*overwrite=True",
        ):
            train(settings(store, tmp_path / "run"), resume=True)


def test_a_checkpoint_of_data_that_were_written_anew_is_refused(tmp_path: Path) -> None:
    store = write_store(tmp_path / "s.zarr", *draw(4))
    broken_off(settings(store, tmp_path / "run"), 3)
    write_store(store, *draw(5))
    with pytest.raises(
        RunDirectoryError,
        match=r"made with data of fingerprint \w{12}, those in X in .*s\.zarr have \w{12}; bring "
        r"back .*overwrite=True",
    ):
        train(settings(store, tmp_path / "run"), resume=True)


def test_the_same_data_written_anew_are_compared_in_one_read_and_the_run_goes_on(
    tmp_path: Path,
) -> None:
    store = write_store(tmp_path / "s.zarr", *draw(4))
    straight = train(settings(store, tmp_path / "straight"))
    broken_off(settings(store, tmp_path / "run"), 3)
    write_store(store, *draw(4))
    scans = Scans()
    resumed = train(settings(store, tmp_path / "run"), resume=True, subscribers=[scans])
    assert scans.titles.count("compare") == 1
    assert scans.titles[0] == "compare"
    assert resumed.model.coefficients_sha256 == straight.model.coefficients_sha256
    assert resumed.passes == straight.passes


def test_data_that_nobody_touched_are_not_read_to_be_compared(store: Path, tmp_path: Path) -> None:
    broken_off(settings(store, tmp_path / "run"), 3)
    scans = Scans()
    train(settings(store, tmp_path / "run"), resume=True, subscribers=[scans])
    assert "compare" not in scans.titles


# Damage


def checkpoints(directory: Path) -> list[Path]:
    return sorted((directory / "checkpoint").glob("*.npz"))


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "one byte short": lambda content: content[:-1],
    "zeros": lambda content: bytes(len(content)),
    "text": lambda content: b"not a checkpoint",
    "flipped bit": lambda content: content[:700] + bytes([content[700] ^ 1]) + content[701:],
    "a .npy file": lambda content: npy_bytes(),
}


def npy_bytes() -> bytes:
    import io

    file = io.BytesIO()
    np.save(file, np.zeros(3))
    return file.getvalue()


@pytest.mark.parametrize("damage", list(DAMAGE))
def test_a_damaged_checkpoint_costs_a_pass_and_not_the_run(
    damage: str, store: Path, tmp_path: Path
) -> None:
    broken_off(settings(store, tmp_path / "run"), 6)
    newest = checkpoints(tmp_path / "run")[-1]
    newest.write_bytes(DAMAGE[damage](newest.read_bytes()))
    scans = Scans()
    again = train(settings(store, tmp_path / "run"), resume=True, subscribers=[scans])
    assert scans.titles[0] == "pass 6"
    assert (
        again.summary["coefficients_sha256"]
        == train(settings(store, None)).summary["coefficients_sha256"]
    )


def test_damage_anywhere_is_noticed_or_does_no_harm(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    checkpoint = Checkpoint(
        2, {"key": "value"}, {"state.point": rng.standard_normal(30)}, {"state.loss": 0.5}
    )
    save_checkpoint(tmp_path, checkpoint)
    path = next(tmp_path.glob("*.npz"))
    content = path.read_bytes()
    for at in range(0, len(content), 3):
        path.write_bytes(content[:at] + bytes([content[at] ^ (1 << (at % 8))]) + content[at + 1 :])
        with contextlib.suppress(RunDirectoryError):
            found = load_checkpoint(tmp_path, {"key": "value"})
            if found is not None and "state.point" in found.arrays:
                np.testing.assert_array_equal(
                    found.arrays["state.point"],
                    checkpoint.arrays["state.point"],
                    err_msg=f"byte {at}",
                )


def test_where_all_checkpoints_are_damaged_the_run_starts_from_the_start(
    store: Path, tmp_path: Path
) -> None:
    broken_off(settings(store, tmp_path / "run"), 6)
    for path in checkpoints(tmp_path / "run"):
        path.write_bytes(b"")
    again = train(settings(store, tmp_path / "run"), resume=True)
    assert (
        again.summary["coefficients_sha256"]
        == train(settings(store, None)).summary["coefficients_sha256"]
    )
    assert again.passes == 12


def test_a_checkpoint_of_another_format_is_refused_with_both_versions(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, Checkpoint(1, {}, {}, {}))
    path = next(tmp_path.glob("*.npz"))
    with np.load(path) as content:
        header = json.loads(str(content["header"]))
    np.savez(path, header=np.array(json.dumps({**header, "format_version": 99})))
    with pytest.raises(
        RunDirectoryError,
        match=r"format version 99, this streamlr reads 2; resume with the version that wrote it",
    ):
        load_checkpoint(tmp_path, {})


# Who may work in a directory


def test_a_directory_that_holds_a_run_is_refused_unless_told_what_to_do(
    store: Path, tmp_path: Path
) -> None:
    train(settings(store, tmp_path / "run"))
    before = (tmp_path / "run" / "summary.json").read_bytes()
    with pytest.raises(
        RunDirectoryError,
        match=r"run' already holds a run \(config\.yaml, .*\); "
        r"add resume=True to go on with it, overwrite=True to replace it",
    ):
        train(settings(store, tmp_path / "run"))
    assert (tmp_path / "run" / "summary.json").read_bytes() == before
    assert train(settings(store, tmp_path / "run", passes=3), overwrite=True).passes == 3
    assert len(history(tmp_path / "run")) == 3


def test_a_directory_without_a_run_is_not_in_the_way(store: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    assert train(settings(store, tmp_path)).passes == 12
    assert (tmp_path / "notes.txt").read_text() == "mine"
    train(settings(store, tmp_path), overwrite=True)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in directory.rglob("*")
        if path.is_file() and path.name != ".lock"
    }


@pytest.mark.parametrize("failure", ["no store", "bad data", "typo", "memory"])
def test_an_overwrite_that_fails_leaves_the_earlier_run_untouched(
    failure: str, store: Path, tmp_path: Path
) -> None:
    train(settings(store, tmp_path / "run"))
    before = contents(tmp_path / "run")
    config = settings(store, tmp_path / "run")
    if failure == "no store":
        config["data"]["store"] = str(tmp_path / "absent.zarr")
    elif failure == "bad data":
        X, y = draw(4)
        X[-1, -1] = np.nan
        config["data"]["store"] = str(write_store(tmp_path / "bad.zarr", X, y))
    elif failure == "typo":
        config["solver"]["nmae"] = "newton"
    else:
        config["cluster"]["memory_limit"] = 1000
    with pytest.raises(StreamlrError):
        train(config, overwrite=True)
    assert contents(tmp_path / "run") == before


def test_an_overwrite_that_is_broken_off_leaves_the_earlier_model_until_there_is_a_new_one(
    store: Path, tmp_path: Path
) -> None:
    first = train(settings(store, tmp_path / "run"))
    config = settings(store, tmp_path / "run", passes=20)
    broken_off(config, 4, overwrite=True)
    assert load_model(tmp_path / "run").coefficients_sha256 == first.summary["coefficients_sha256"]
    again = train(config, resume=True)
    assert (
        load_model(tmp_path / "run").coefficients_sha256
        == again.summary["coefficients_sha256"]
        == train(settings(store, None, passes=20)).summary["coefficients_sha256"]
    )


def test_a_second_process_is_refused_while_the_first_lives(store: Path, tmp_path: Path) -> None:
    directory = tmp_path / "run"
    with training_process(settings(store, directory, passes=ENOUGH), directory) as process:
        wait_for_lines(process, directory, 2)
        for how in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(
                RunDirectoryError,
                match=rf"run' is in use by another run \(process {process.pid}\); wait for it, "
                rf"stop it, or choose",
            ):
                train(settings(store, directory), **how)
        assert process.poll() is None
    lines = len(history(directory))
    assert lines >= 2
    assert (
        train(settings(store, directory, passes=lines + 1), resume=True).passes == lines + 1
    )  # the lock died with its owner


def test_a_run_directory_that_cannot_be_made_is_refused_with_the_way_out(
    store: Path, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("")
    for directory in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(
            RunDirectoryError,
            match=r"cannot make the run directory '.*file.*; choose another with run\.directory",
        ):
            train(settings(store, directory))


def test_a_run_that_fails_before_its_first_pass_is_not_in_the_way_of_the_next(
    store: Path, tmp_path: Path
) -> None:
    X, y = draw(4)
    X[0, 0] = np.inf
    with pytest.raises(NonFiniteError):
        train(settings(write_store(tmp_path / "bad.zarr", X, y), tmp_path / "run"))
    assert train(settings(store, tmp_path / "run")).passes == 12


# Models


@pytest.mark.parametrize(
    "classes", [[0, 1], [-1.5, 2.0], [False, True], ["benign", "malignant"], ["nö", "ja\x1b[31m"]]
)
@pytest.mark.parametrize("names", [None, ("a", "b\n"), ("", "ä")])
def test_a_model_comes_back_as_it_was_saved(
    classes: list[Any], names: tuple[str, ...] | None, tmp_path: Path
) -> None:
    model = Model(np.array([[np.pi, -5e-324]]), np.array([-0.0]), np.array(classes), names)
    model.save(tmp_path / "model.zarr")
    for path in (tmp_path, tmp_path / "model.zarr", str(tmp_path)):
        again = load_model(path)
        assert again.coef_.tobytes() == model.coef_.tobytes()
        assert again.intercept_.tobytes() == model.intercept_.tobytes()
        assert (
            again.classes_.tolist(),
            again.classes_.dtype,
            again.feature_names,
            again.family,
        ) == (model.classes_.tolist(), model.classes_.dtype, names, "logistic")
        assert again.coefficients_sha256 == model.coefficients_sha256


def saved_model(tmp_path: Path) -> Path:
    Model(np.array([[0.5, -2.0]]), np.array([0.25]), np.array([0, 1])).save(tmp_path / "model.zarr")
    return tmp_path / "model.zarr"


@pytest.mark.parametrize("name", ["coef", "intercept"])
def test_a_model_with_other_coefficients_is_refused(name: str, tmp_path: Path) -> None:
    group = zarr.open_group(str(saved_model(tmp_path)), mode="r+")
    group[name][...] = group[name][...] * (1 + 2.0**-52)  # type: ignore[index]
    with pytest.raises(
        DataError,
        match=r"is not the one that was saved \(sha256 .*, saved as .*\); restore it or train "
        r"again",
    ):
        load_model(tmp_path)


def test_a_model_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    path = saved_model(tmp_path)
    next(path.glob("coef/c/*/*")).write_bytes(b"\x00")
    with pytest.raises(DataError, match=r"cannot be read .*; restore it or train again"):
        load_model(tmp_path)


def test_a_model_of_another_format_is_refused_with_both_versions(tmp_path: Path) -> None:
    zarr.open_group(str(saved_model(tmp_path)), mode="r+").attrs["format_version"] = 99
    with pytest.raises(DataError, match="format version 99; this streamlr reads 1 and 2"):
        load_model(tmp_path)


@pytest.mark.parametrize(
    "change",
    [
        {"family": "unheard of"},
        {"classes_dtype": "nonsense"},
        {"classes": [0]},
        {"feature_names": ["one"]},
        {"feature_names": 7},
    ],
)
def test_a_model_with_damaged_attributes_is_refused(change: dict[str, Any], tmp_path: Path) -> None:
    zarr.open_group(str(saved_model(tmp_path)), mode="r+").attrs.update(change)
    with pytest.raises(DataError):
        load_model(tmp_path)


def test_a_missing_coefficient_chunk_is_no_model_of_zeros(tmp_path: Path) -> None:
    path = saved_model(tmp_path)
    next(path.glob("coef/c/*/*")).unlink()  # Zarr reads it as zeros
    with pytest.raises(DataError, match=r"is not the one that was saved|cannot be read"):
        load_model(tmp_path)


# Nothing is unpickled


class Bomb:
    """What a pickle can do to whoever loads it."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.flag,))


def test_the_bomb_of_these_tests_goes_off_when_unpickled(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "flag")))
    assert (tmp_path / "flag").exists()


@pytest.mark.parametrize("kind", ["object array", "object header", "bare pickle"])
def test_a_pickle_in_a_checkpoint_is_not_executed(kind: str, store: Path, tmp_path: Path) -> None:
    flag = tmp_path / "flag"
    broken_off(settings(store, tmp_path / "run"), 3)
    hostile = np.empty(1, dtype=object)
    hostile[0] = Bomb(flag)
    for path in checkpoints(tmp_path / "run"):
        with np.load(path) as content:
            arrays = dict(content)
        if kind == "bare pickle":
            path.write_bytes(pickle.dumps(Bomb(flag)))
        else:
            np.savez(
                path, **{**arrays, "header" if kind == "object header" else "state.point": hostile}
            )
    train(settings(store, tmp_path / "run"), resume=True)
    assert not flag.exists()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "codecs",
    [
        {"compressor": {"id": "pickle"}, "filters": [{"id": "vlen-utf8"}]},
        {"compressor": None, "filters": [{"id": "pickle"}]},
    ],
    ids=["compressor", "filter"],
)
def test_a_pickle_in_a_model_or_a_store_is_not_executed(
    codecs: dict[str, Any], tmp_path: Path
) -> None:
    flag = tmp_path / "flag"
    path = saved_model(tmp_path)
    attributes = {
        **zarr.open_group(str(path), mode="r").attrs,
        "feature_names": ["a", "b", "c", "d"],
    }
    group = zarr.open_group(
        str(tmp_path / "hostile.zarr"), mode="w", zarr_format=2, attributes=attributes
    )
    group.create_array("X", data=np.eye(4))
    for name, shape in (("coef", (1, 2)), ("intercept", (1,)), ("y", (4,))):
        folder = tmp_path / "hostile.zarr" / name
        folder.mkdir()
        (folder / ".zarray").write_text(
            json.dumps(
                {
                    "zarr_format": 2,
                    "shape": shape,
                    "chunks": shape,
                    "dtype": "|O",
                    "fill_value": None,
                    "order": "C",
                    **codecs,
                }
            )
        )
        (folder / ".".join("0" for _ in shape)).write_bytes(pickle.dumps(Bomb(flag)))
    with pytest.raises(DataError):
        load_model(tmp_path / "hostile.zarr")
    with pytest.raises(DataError):
        train({"data": {"store": str(tmp_path / "hostile.zarr")}})
    assert not flag.exists()


# Python's own way in


def test_the_python_interface_offers_what_the_contract_names(store: Path, tmp_path: Path) -> None:
    result = streamlr.train(settings(store, tmp_path / "run", "newton"))
    assert isinstance(result, TrainResult)
    assert (result.model.coef_.shape, result.model.intercept_.shape) == ((1, FEATURES), (1,))
    assert (result.status, result.passes) == ("converged", len(result.history))
    assert (
        streamlr.load_model(tmp_path / "run").coefficients_sha256
        == result.model.coefficients_sha256
    )
    assert (
        streamlr.train(
            streamlr.load_config(settings(store, None, "newton"))
        ).model.coefficients_sha256
        == result.model.coefficients_sha256
    )
    assert hasattr(streamlr, "LogisticRegression")


def test_resume_and_overwrite_exclude_each_other(store: Path, tmp_path: Path) -> None:
    train(settings(store, tmp_path / "run"))
    with pytest.raises(ConfigError, match=r"resume.*overwrite"):
        train(settings(store, tmp_path / "run"), resume=True, overwrite=True)
