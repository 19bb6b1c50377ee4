"""The command line as a person or a script meets it: real processes, exit statuses, and what goes
where."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import zarr
from click.testing import CliRunner
from numpy.typing import NDArray
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import (
    accuracy_score,
    brier_score_loss,
    confusion_matrix,
    log_loss,
    roc_auc_score,
)
from sklearn.preprocessing import scale

import streamlr
from streamlr.cli import main as cli_main
from streamlr.data import synth as synth_module
from streamlr.data.ingest import ingest as ingest_module
from streamlr.data.ingest.ingest import IngestResult, IngestSpec
from streamlr.data.ingest.table import Columns
from streamlr.data.synth import SynthSpec
from streamlr.training.train import TrainResult

COMMANDS = ["synth", "ingest", "info", "plan", "train", "evaluate", "predict", "summary", "path"]
CONTRACT = {  # what the help of every command has to mention
    "synth": [
        "STORE",
        "--rows",
        "--features",
        "--family",
        "--classes",
        "--dtype",
        "--chunk-rows",
        "--compressor",
        "--seed",
    ],
    "ingest": ["SOURCE...", "STORE", "--target"],
    "info": ["STORE", "--json"],
    "plan": ["--config", "--set", "--json"],
    "train": ["--config", "--set", "--run-dir", "--resume", "--overwrite"],
    "evaluate": ["RUN", "STORE", "--validation", "--json", "--plot"],
    "summary": ["RUN", "--store", "--errors", "--groups", "--weights", "--confidence", "--json"],
    "path": ["--config", "--set", "--run-dir", "--resume", "--overwrite", "--json"],
    "predict": ["RUN", "STORE", "OUT"],
}


def streamlr_process(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streamlr.cli.main", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def streamlr_here(*arguments: str | Path, cwd: Path) -> subprocess.CompletedProcess[str]:
    """The same in this process, through the entry point: for what does not depend on a process of
    its own."""
    out, err = io.StringIO(), io.StringIO()
    status: Any = 0
    argv, before, previous = sys.argv, Path.cwd(), signal.getsignal(signal.SIGTERM)
    sys.argv = ["streamlr", *map(str, arguments)]
    os.chdir(cwd)
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli_main.main()
    except SystemExit as ended:
        status = ended.code
    finally:
        sys.argv = argv
        os.chdir(before)
        signal.signal(signal.SIGTERM, previous)
    return subprocess.CompletedProcess(sys.argv, status, out.getvalue(), err.getvalue())


def write_store(
    path: Path, X: NDArray[Any], y: NDArray[Any], names: list[str] | None = None
) -> Path:
    group = zarr.open_group(str(path), mode="w", zarr_format=3)
    for name, values in (("X", X), ("y", y)):
        group.create_array(
            name, data=values, chunks=(128, *values.shape[1:]), config={"write_empty_chunks": True}
        )
    if names is not None:
        group.attrs["feature_names"] = names
    return path


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store, a configuration and a finished run, which tests read and do not
    change."""
    folder = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(1)
    X = rng.standard_normal((600, 3))
    write_store(
        folder / "s.zarr",
        X,
        (rng.random(600) < 1 / (1 + np.exp(-X @ [1.0, -2.0, 0.5]))).astype(np.int8),
    )
    (folder / "c.yaml").write_text(
        "data: {store: s.zarr}\nrun: {directory: runs/c}\ncluster: {kind: serial}\n"
    )
    streamlr.train(
        str(folder / "c.yaml"),
        overrides=[f"data.store={folder / 's.zarr'}", f"run.directory={folder / 'runs' / 'c'}"],
    )
    return folder


def fresh(place: Path, tmp_path: Path) -> Path:
    """A folder of one's own with the same configuration and store."""
    (tmp_path / "s.zarr").symlink_to(place / "s.zarr")
    (tmp_path / "c.yaml").write_bytes((place / "c.yaml").read_bytes())
    return tmp_path


def only_json(text: str) -> Any:
    """One JSON document by the letter of the standard: no NaN, nothing before or after it."""

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


# Help


@pytest.mark.parametrize("name", COMMANDS)
def test_help_mentions_every_option_and_argument(name: str) -> None:
    command = cli_main.cli.commands[name]
    shown = CliRunner().invoke(cli_main.cli, [name, "--help"])
    assert shown.exit_code == 0
    for option in [
        word
        for parameter in command.params
        if isinstance(parameter, click.Option)
        for word in parameter.opts
    ] + CONTRACT[name]:
        assert option in shown.output
    assert command.help
    assert all(
        parameter.help for parameter in command.params if isinstance(parameter, click.Option)
    )


def test_the_group_lists_exactly_the_commands_of_the_contract() -> None:
    assert sorted(cli_main.cli.commands) == sorted(COMMANDS)
    shown = CliRunner().invoke(cli_main.cli, ["-h"])
    assert all(re.search(rf"^  {name}\s+\w", shown.output, re.MULTILINE) for name in COMMANDS)
    assert streamlr.__version__ in CliRunner().invoke(cli_main.cli, ["--version"]).output


def test_help_goes_to_standard_output_of_a_real_process(tmp_path: Path) -> None:
    done = streamlr_process("--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Exact linear models" in done.stdout


# Flags become exact arguments of one call


class Calls:
    """Stands in for a function of the library and keeps what it was called with."""

    def __init__(self, result: Any) -> None:
        self.result = result
        self.made: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        self.made.append(
            (
                arguments,
                {
                    key: value
                    for key, value in named.items()
                    if key not in ("subscribers", "rows_done", "threads")
                },
            )
        )
        return self.result


def calls_of(
    monkeypatch: pytest.MonkeyPatch, module: Any, name: str, result: Any, arguments: list[str]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    calls = Calls(result)
    monkeypatch.setattr(module, name, calls)
    done = CliRunner().invoke(cli_main.cli, arguments, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    assert len(calls.made) == 1
    return calls.made[0]


@pytest.mark.parametrize(
    ("flags", "spec", "overwrite"),
    [
        ([], SynthSpec(9, 2), False),
        (
            [
                "--classes",
                "3",
                "--dtype",
                "float64",
                "--chunk-rows",
                "4",
                "--compressor",
                "none",
                "--sample-axis",
                "1",
                "--seed",
                "5",
                "--overwrite",
            ],
            SynthSpec(9, 2, 3, "float64", 5, 4, "none", 1),
            True,
        ),
        (["--family", "poisson"], SynthSpec(9, 2, family="poisson"), False),
    ],
)
def test_synth_hands_every_flag_on(
    flags: list[str], spec: SynthSpec, overwrite: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = calls_of(
        monkeypatch,
        synth_module,
        "synthesize",
        None,
        ["synth", "S", "--rows", "9", "--features", "2", *flags],
    )
    assert made == (("S", spec), {"overwrite": overwrite})


@pytest.mark.parametrize(
    ("flags", "spec", "overwrite"),
    [
        (["--target", "t"], IngestSpec(Columns("t")), False),
        (
            [
                "--target",
                "t",
                "--weights",
                "w",
                "--features",
                "a,b",
                "--drop",
                "c",
                "--drop",
                "d",
                "--dtype",
                "float16",
                "--delimiter",
                ";",
                "--no-header",
                "--chunk-rows",
                "7",
                "--compressor",
                "zstd",
                "--overwrite",
            ],
            IngestSpec(Columns("t", "w", ("a", "b"), ("c", "d"), ";", False), "float16", 7, "zstd"),
            True,
        ),
        (
            [
                "--target",
                "t",
                "--keep",
                "id",
                "--keep",
                "",
                "--na",
                "-",
                "--na",
                "NA,-999",
                "--encoding",
                "latin-1",
                "--dtype",
                "int64",
            ],
            IngestSpec(
                Columns("t", keep=("id", ""), na=("-", "NA", "-999"), encoding="latin-1"), "int64"
            ),
            False,
        ),
    ],
)
def test_ingest_hands_every_flag_on(
    flags: list[str], spec: IngestSpec, overwrite: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = calls_of(
        monkeypatch,
        ingest_module,
        "ingest",
        IngestResult(1, 1, 0),
        ["ingest", "one.csv", "two.csv", "S", *flags],
    )
    assert made == ((("one.csv", "two.csv"), "S", spec), {"overwrite": overwrite})


@pytest.mark.parametrize(
    ("flags", "directory", "overrides", "resume", "overwrite"),
    [
        ([], "runs/c", [], False, False),
        (["--run-dir", "there"], "there", [], False, False),
        (["--resume"], "runs/c", [], True, False),
        (["--overwrite"], "runs/c", [], False, True),
        (["--set", "run.directory=set"], "set", ["run.directory=set"], False, False),
        (
            ["--set", "solver.name=newton", "--set", "solver.max_passes=3"],
            "runs/c",
            ["solver.name=newton", "solver.max_passes=3"],
            False,
            False,
        ),
    ],
)
def test_train_hands_every_flag_on(
    flags: list[str],
    directory: str,
    overrides: list[str],
    resume: bool,
    overwrite: bool,
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    summary = {"seconds": 0.0, "objective": 0.0, "peak_memory_bytes": 0}
    result = TrainResult(None, "converged", "", 1, [], summary)  # type: ignore[arg-type]
    (config,), named = calls_of(
        monkeypatch, streamlr, "train", result, ["train", "--config", str(place / "c.yaml"), *flags]
    )
    assert config == streamlr.load_config(
        place / "c.yaml", [*overrides, f"run.directory={directory}"]
    )
    assert named == {"resume": resume, "overwrite": overwrite}


def test_evaluate_and_predict_hand_every_flag_on(monkeypatch: pytest.MonkeyPatch) -> None:
    made = calls_of(
        monkeypatch,
        streamlr,
        "evaluate",
        {},
        ["evaluate", "R", "S", "--set", "data.target=t", "--json"],
    )
    assert made == (("R", "S"), {"overrides": ("data.target=t",), "validation": False})
    made = calls_of(
        monkeypatch, streamlr, "evaluate", {}, ["evaluate", "R", "S", "--validation", "--json"]
    )
    assert made == (("R", "S"), {"overrides": (), "validation": True})
    made = calls_of(
        monkeypatch,
        streamlr,
        "predict",
        1,
        ["predict", "R", "S", "O", "--overwrite", "--set", "data.features=F"],
    )
    assert made == (("R", "S", "O"), {"overwrite": True, "overrides": ("data.features=F",)})


def test_a_configuration_without_a_directory_trains_in_runs_under_its_own_name(
    place: Path, tmp_path: Path
) -> None:
    fresh(place, tmp_path)
    (tmp_path / "mine.yaml").write_text("data: {store: s.zarr}\n")
    assert streamlr_here("train", "--config", "mine.yaml", cwd=tmp_path).returncode == 0
    assert (tmp_path / "runs" / "mine" / "model.zarr").is_dir()


# Newer versions of Zarr read a path given as text as an address: what follows # or ? is cut off,
# and a colon ends the name of a scheme
@pytest.mark.parametrize(
    "name", ["rüns", "年", "with blank", "null", "12", "~", "#hash", "a: b", "q?", "😀"]
)
def test_run_directories_of_any_name_are_taken_as_they_are(
    name: str, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(fresh(place, tmp_path))
    done = CliRunner().invoke(cli_main.cli, ["train", "--config", "c.yaml", "--run-dir", name])
    assert done.exit_code == 0, done.output
    assert (tmp_path / name / "summary.json").exists()


@pytest.mark.parametrize(
    "command",
    [
        ["train", "--config", "c.yaml", "--run-dir", "{here}/big#2"],
        ["predict", "{place}/runs/c", "s.zarr", "{here}/big#2"],
        ["synth", "{here}/big#2", "--rows", "9", "--features", "2"],
    ],
    ids=lambda value: value[0],
)
def test_what_stands_beside_is_left_alone(command: list[str], place: Path, tmp_path: Path) -> None:
    fresh(place, tmp_path)
    neighbours = [tmp_path / name for name in ("big", ".big")]
    for folder in neighbours:
        folder.mkdir()
        (folder / "precious").write_text("mine")
    done = streamlr_here(
        *(word.format(here=tmp_path, place=place) for word in command), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert [(folder / "precious").read_text() for folder in neighbours] == ["mine", "mine"]
    assert (tmp_path / "big#2").is_dir()


# Exit statuses, and what goes where


@pytest.mark.parametrize(
    ("arguments", "keys"),
    [
        (["train", "--config", "c.yaml"], {"status", "passes", "objective", "coefficients_sha256"}),
        (["evaluate", "runs/c", "s.zarr"], {"log_loss", "auc"}),
        (["plan", "--config", "c.yaml"], {"slabs", "peak_bytes", "data_bytes"}),
        (["info", "s.zarr"], {"rows", "classes", "problems"}),
    ],
    ids=["train", "evaluate", "plan", "info"],
)
def test_with_json_standard_output_holds_one_document_and_nothing_else(
    arguments: list[str], keys: set[str], place: Path, tmp_path: Path
) -> None:
    folder = fresh(place, tmp_path)
    if arguments[0] == "evaluate":
        (folder / "runs").symlink_to(place / "runs")
    done = streamlr_process(*arguments, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr
    assert set(only_json(done.stdout)) >= keys


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--config", "c.yaml", "--overwrite"],
        ["evaluate", "runs/c", "s.zarr"],
        ["plan", "--config", "c.yaml"],
        ["info", "s.zarr"],
        ["predict", "runs/c", "s.zarr", "p.zarr"],
        ["synth", "n.zarr", "--rows", "9", "--features", "2"],
    ],
    ids=lambda value: value[0],
)
def test_without_json_what_a_person_reads_goes_to_standard_error(
    arguments: list[str], place: Path, tmp_path: Path
) -> None:
    folder = fresh(place, tmp_path)
    if arguments[0] in ("evaluate", "predict"):
        (folder / "runs").symlink_to(place / "runs")
    done = streamlr_here(*arguments, cwd=folder)
    assert (done.returncode, done.stdout) == (0, "")
    assert done.stderr
    assert "\r" not in done.stderr
    assert "Traceback" not in done.stderr


def test_training_tells_data_engine_solver_passes_and_the_end(place: Path, tmp_path: Path) -> None:
    done = streamlr_here("train", "--config", "c.yaml", cwd=fresh(place, tmp_path))
    summary = json.loads((tmp_path / "runs" / "c" / "summary.json").read_text())
    lines = done.stderr.splitlines()
    assert re.match(
        r"600 rows, 3 features, float64: 0\.0144 MB in \d+ slabs?,? on one thread", lines[0]
    )
    assert lines[1].startswith("solver lbfgs: ")
    assert [line.split()[1] for line in lines if line.startswith("pass ")] == [
        str(number + 1) for number in range(summary["passes"])
    ]
    assert re.match(rf"converged after {summary['passes']} passes in \d+\.\d s: ", lines[-2])
    assert lines[-1].endswith("model in runs/c")


@pytest.mark.parametrize("command", ["train", "evaluate", "predict", "synth", "ingest"])
def test_quiet_says_nothing(command: str, place: Path, tmp_path: Path) -> None:
    folder = fresh(place, tmp_path)
    (folder / "t.csv").write_text("a,y\n1,0\n2,1\n")
    arguments = {
        "train": ["--config", "c.yaml", "--run-dir", "r"],
        "evaluate": [place / "runs" / "c", "s.zarr", "--json"],
        "predict": [place / "runs" / "c", "s.zarr", "p.zarr"],
        "synth": ["n.zarr", "--rows", "9", "--features", "2"],
        "ingest": ["t.csv", "i.zarr", "--target", "y"],
    }[command]
    done = streamlr_here(command, *arguments, "--quiet", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert bool(done.stdout) == (command == "evaluate")


def test_the_log_of_dask_is_for_verbose(place: Path, tmp_path: Path) -> None:
    """In a process of its own: the level of that log is set when Dask is imported, after the
    command line has begun."""
    train = [
        "train",
        "--config",
        "c.yaml",
        "--set",
        "cluster.kind=processes",
        "--set",
        "cluster.workers=1",
        "--quiet",
        "--run-dir",
    ]
    folder = fresh(place, tmp_path)
    done = streamlr_process(*train, "quiet", cwd=folder)
    assert (done.returncode, done.stderr) == (0, "")
    assert (
        "distributed.scheduler: "
        in streamlr_process("--verbose", *train, "told", cwd=folder).stderr
    )


def test_quiet_with_json_leaves_the_document(place: Path, tmp_path: Path) -> None:
    done = streamlr_here(
        "train", "--config", "c.yaml", "--quiet", "--json", cwd=fresh(place, tmp_path)
    )
    assert done.stderr == ""
    assert only_json(done.stdout)["status"] == "converged"


@pytest.mark.parametrize("status", ["pass_limit", "diverged"])
def test_a_solve_that_ends_otherwise_still_is_a_model_and_status_0(
    status: str, place: Path, tmp_path: Path
) -> None:
    if status == "pass_limit":
        folder = fresh(place, tmp_path)
    else:
        folder = tmp_path
        x = np.arange(20.0)[:, None]
        write_store(
            folder / "s.zarr", x, (x[:, 0] > 10).astype(int)
        )  # separable: no finite optimum
        (folder / "c.yaml").write_bytes((place / "c.yaml").read_bytes())
    passes = (
        ["--set", "solver.name=newton", "--set", "solver.max_passes=2"]
        if status == "pass_limit"
        else []
    )
    done = streamlr_here("train", "--config", "c.yaml", "--json", *passes, cwd=folder)
    assert done.returncode == 0
    assert only_json(done.stdout)["status"] == status
    assert f"{status} after" in done.stderr
    assert streamlr.load_model(folder / "runs" / "c").coef_.shape[0] == 1


USAGE = {
    "no command": ([], "Usage: "),
    "unknown command": (["trian"], "No such command 'trian'"),
    "no config": (["train"], "Missing option '--config'"),
    "unknown option": (["train", "--config", "c.yaml", "--bacth"], "No such option"),
    "missing argument": (["predict", "a", "b"], "Missing argument 'OUT'"),
    "absent configuration": (
        ["train", "--config", "absent.yaml"],
        "no configuration file at 'absent.yaml'; check the path given to --config",
    ),
    "typo": (
        ["train", "--config", "c.yaml", "--set", "solver.tolernace=1"],
        "unknown key 'solver.tolernace'; did you mean 'solver.tolerance'?",
    ),
    "no value": (["plan", "--config", "c.yaml", "--set", "solver.name"], "expected KEY=VALUE"),
    "wrong kind": (
        ["plan", "--config", "c.yaml", "--set", "solver.max_passes=lots"],
        "solver.max_passes: expected a whole number, got 'lots'",
    ),
    "both": (
        ["train", "--config", "c.yaml", "--resume", "--overwrite"],
        "--resume and --overwrite exclude each other",
    ),
    "memory": (
        ["train", "--config", "c.yaml", "--run-dir", "m", "--set", "cluster.memory_limit=1MB"],
        "cluster.memory_limit is 1 MB; raise the limit",
    ),
    "not a number": (
        ["synth", "n.zarr", "--rows", "many", "--features", "2"],
        "'many' is not a valid integer",
    ),
    "no rows": (["synth", "n.zarr", "--rows", "0", "--features", "2"], "at least one row"),
    "bad choice": (
        ["synth", "n.zarr", "--rows", "1", "--features", "2", "--compressor", "gzip"],
        "'gzip' is not one of 'lz4', 'zstd', 'none'",
    ),
    "store exists": (
        ["synth", "s.zarr", "--rows", "1", "--features", "2"],
        "'s.zarr' exists already; choose another name, or add --overwrite",
    ),
    "no run": (["evaluate", "runs/absent", "s.zarr"], "no model at 'runs/absent'"),
    "no picture": (
        ["evaluate", "runs/c", "s.zarr", "--plot", "p.pdf"],
        "'p.pdf' is no name of a picture that can be drawn: it must end in .png or .svg",
    ),
    "empty store name": (
        ["train", "--config", "c.yaml", "--set", "data.store=''"],
        "data.store: missing; give the path or URL",
    ),
}
DATA = {
    "no store": (
        ["train", "--config", "c.yaml", "--set", "data.store=data/s.zarr"],
        "no store at 'data/s.zarr': it does not exist",
    ),
    "no array": (
        ["train", "--config", "c.yaml", "--set", "data.target=label"],
        r"'s.zarr' has no array 'label' (data.target); it holds X, y",
    ),
    "info": (["info", "absent.zarr"], "no store at 'absent.zarr'"),
    "plan": (["plan", "--config", "c.yaml", "--set", "data.store=absent"], "no store at 'absent'"),
    "wrong axis": (
        ["train", "--config", "c.yaml", "--set", "data.sample_axis=1"],
        "data.sample_axis: 0",
    ),
    "no source": (
        ["ingest", "absent.csv", "n.zarr", "--target", "y"],
        "no file at 'absent.csv'; check SOURCE",
    ),
    "no column": (
        ["ingest", "t.csv", "n.zarr", "--target", "label"],
        "has no column 'label'; it has a, y",
    ),
    "evaluate": (["evaluate", "runs/c", "absent.zarr"], "no store at 'absent.zarr'"),
}


@pytest.mark.parametrize(
    ("status", "arguments", "words"),
    [(2, *case) for case in USAGE.values()] + [(3, *case) for case in DATA.values()],
    ids=[*USAGE, *DATA],
)
def test_mistakes_end_in_one_line_and_their_status(
    status: int, arguments: list[str], words: str, place: Path, tmp_path: Path
) -> None:
    fresh(place, tmp_path)
    (tmp_path / "t.csv").write_text("a,y\n1,0\n2,1\n")
    (tmp_path / "runs").symlink_to(place / "runs")
    done = streamlr_here(*arguments, cwd=tmp_path)
    assert done.returncode == status
    assert words in done.stderr
    assert done.stdout == ""
    errors = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert len(errors) == (words != "Usage: ")
    assert not (tmp_path / "n.zarr").exists()


@pytest.mark.parametrize(("arguments", "status"), [(USAGE["typo"][0], 2), (DATA["no store"][0], 3)])
def test_statuses_are_those_of_the_process(
    arguments: list[str], status: int, place: Path, tmp_path: Path
) -> None:
    done = streamlr_process(*arguments, "--json", cwd=fresh(place, tmp_path))
    assert (done.returncode, done.stdout) == (status, "")
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1


def test_a_scheduler_that_is_not_there_is_status_1(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        "streamlr.execution.cluster.opening._CONNECT_SECONDS", 1
    )  # it waits for 30 s else
    done = streamlr_here(
        "train",
        "--config",
        "c.yaml",
        "--set",
        "cluster.kind=address",
        "--set",
        "cluster.address=tcp://127.0.0.1:9",
        cwd=fresh(place, tmp_path),
    )
    assert done.returncode == 1
    assert "tcp://127.0.0.1:9" in done.stderr
    assert "Traceback" not in done.stderr


# Runs that are there already


def test_an_existing_run_is_refused_resumed_or_replaced_as_told(
    place: Path, tmp_path: Path
) -> None:
    folder = fresh(place, tmp_path)
    slow = ["--set", "solver.name=gradient_descent", "--json"]
    first = streamlr_here(
        "train", "--config", "c.yaml", *slow, "--set", "solver.max_passes=3", cwd=folder
    )
    before = (folder / "runs" / "c" / "summary.json").read_bytes()
    refused = streamlr_here("train", "--config", "c.yaml", *slow, cwd=folder)
    assert refused.returncode == 2
    assert "'runs/c' already holds a run" in refused.stderr
    assert "add --resume to go on with it, --overwrite to replace it" in refused.stderr
    assert (folder / "runs" / "c" / "summary.json").read_bytes() == before
    resumed = only_json(
        streamlr_here(
            "train",
            "--config",
            "c.yaml",
            *slow,
            "--set",
            "solver.max_passes=5",
            "--resume",
            cwd=folder,
        ).stdout
    )
    replaced = only_json(
        streamlr_here(
            "train",
            "--config",
            "c.yaml",
            *slow,
            "--set",
            "solver.max_passes=5",
            "--overwrite",
            cwd=folder,
        ).stdout
    )
    assert (only_json(first.stdout)["passes"], resumed["passes"], replaced["passes"]) == (3, 5, 5)
    assert (
        resumed["coefficients_sha256"]
        == replaced["coefficients_sha256"]
        != only_json(first.stdout)["coefficients_sha256"]
    )


def test_an_overwrite_that_fails_leaves_the_earlier_model(place: Path, tmp_path: Path) -> None:
    folder = fresh(place, tmp_path)
    streamlr_process("train", "--config", "c.yaml", cwd=folder)
    before = streamlr.load_model(folder / "runs" / "c").coefficients_sha256
    X = np.ones((300, 3))
    X[299, 1] = np.nan
    write_store(folder / "bad.zarr", X, np.arange(300) % 2, ["a", "b\x1b[31m", "c"])
    done = streamlr_process(
        "train", "--config", "c.yaml", "--overwrite", "--set", "data.store=bad.zarr", cwd=folder
    )
    assert done.returncode == 3
    assert "chunk 2 of X in bad.zarr holds 1 non-finite value (first: nan at row 299" in done.stderr
    assert "\x1b" not in done.stderr
    assert streamlr.load_model(folder / "runs" / "c").coefficients_sha256 == before
    assert (
        only_json(streamlr_process("evaluate", "runs/c", "s.zarr", "--json", cwd=folder).stdout)[
            "rows"
        ]
        == 600
    )


@pytest.mark.parametrize("blow", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_how_to_go_on_and_does_so_to_the_bit(
    blow: signal.Signals, place: Path, tmp_path: Path
) -> None:
    folder = fresh(place, tmp_path)
    history = folder / "runs" / "c" / "history.jsonl"
    slow = [
        "train",
        "--config",
        "c.yaml",
        "--set",
        "solver.name=gradient_descent",
        "--set",
        "solver.learning_rate=0.01",
    ]
    signal.signal(
        signal.SIGINT, signal.default_int_handler
    )  # a shell has it ignored in the background, which a child would inherit
    process = subprocess.Popen(
        [sys.executable, "-m", "streamlr.cli.main", *slow, "--set", "solver.max_passes=100000"],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not history.exists() or history.read_bytes().count(b"\n") < 20:
        assert process.poll() is None, process.communicate()
    process.send_signal(blow)
    out, err = process.communicate()
    assert (process.returncode, out) == (130, "")
    assert (
        err.splitlines()[-1] == "stopped; finished passes are safe in runs/c: add --resume to go on"
    )
    assert "Traceback" not in err
    limit = f"solver.max_passes={len(history.read_text().splitlines()) + 5}"
    resumed = streamlr_process(*slow, "--set", limit, "--resume", "--json", cwd=folder)
    assert "resuming after pass" in resumed.stderr
    undisturbed = streamlr_process(
        *slow, "--set", limit, "--run-dir", "other", "--json", cwd=folder
    )
    assert (
        only_json(resumed.stdout)["coefficients_sha256"]
        == only_json(undisturbed.stdout)["coefficients_sha256"]
    )


# Names that come from data


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "--config", "c.yaml", "--run-dir", "r"],
        ["info", "s\x1b.zarr"],
        ["evaluate", "m.zarr", "s\x1b.zarr"],
    ],
    ids=lambda value: value[0],
)
@pytest.mark.parametrize(
    "labels", [["a\x1b[31m", "b\x07"], ["a\x1b[31m", "b\x07", "c\x9b"]], ids=["two", "three"]
)
def test_control_characters_of_names_and_labels_do_not_reach_the_terminal(
    arguments: list[str], labels: list[str], place: Path, tmp_path: Path
) -> None:
    (tmp_path / "c.yaml").write_bytes((place / "c.yaml").read_bytes())
    rng = np.random.default_rng(0)
    X = rng.standard_normal((300, 2))
    X[:, 1] = 1.0  # constant: training names it
    y = np.array(labels)[rng.integers(0, len(labels), 300)]
    group = zarr.open_group(
        str(tmp_path / "s.zarr"), mode="w", zarr_format=2
    )  # format 2 takes text of fixed length without a warning
    group.create_array("X", data=X)
    group.create_array("y", data=y)
    group.attrs["feature_names"] = ["one\x1b]0;owned\x07", "two\x1b[2J\r"]
    (tmp_path / "s\x1b.zarr").symlink_to(tmp_path / "s.zarr")
    streamlr.Model(
        np.zeros((1, 2)), np.zeros(1), np.array(labels[:2]), ("one\x1b]0;owned\x07", "two\x1b[2J\r")
    ).save(tmp_path / "m.zarr")
    done = streamlr_here(*arguments, cwd=tmp_path)
    assert done.returncode in (0, 3)  # three labels are refused, and by a plain line as well
    shown = done.stdout + done.stderr
    assert "x1b" in shown
    assert not set(re.findall(r"[^\n\x20-\x7e]", shown))


# The whole way, with real data


@pytest.fixture(scope="module")
def cancer(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, NDArray[np.float64], NDArray[Any], LogisticRegression]:
    """A table with scikit-learn's breast cancer data, as CSV and as Parquet, and scikit-learn's
    optimum."""
    folder = tmp_path_factory.mktemp("cancer")
    data = load_breast_cancer()
    X, y = scale(data.data), data.target
    columns = {name: X[:, j] for j, name in enumerate(data.feature_names)} | {
        "diagnosis": data.target_names[y].astype(object)
    }
    table = pa.table(columns)
    pa.parquet.write_table(table, folder / "t.parquet")
    with open(folder / "t.csv", "w", encoding="utf-8") as file:
        file.write(",".join(columns) + "\n")
        file.writelines(
            ",".join([*map(repr, row[:-1]), row[-1]]) + "\n"
            for row in zip(*(table[name].to_pylist() for name in columns), strict=True)
        )
    oracle = LogisticRegression(C=1.0, solver="newton-cholesky", tol=1e-12, max_iter=1000).fit(
        X, y
    )  # l2 = 1 / (C m)
    return folder, X, y, oracle


@pytest.mark.parametrize("source", ["t.csv", "t.parquet"])
def test_from_a_table_to_probabilities_the_numbers_are_those_of_scikit_learn(
    source: str,
    cancer: tuple[Path, NDArray[np.float64], NDArray[Any], LogisticRegression],
    tmp_path: Path,
) -> None:
    folder, X, y, oracle = cancer

    def run(*arguments: str | Path) -> str:
        done = streamlr_process(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("ingest", folder / source, "s.zarr", "--target", "diagnosis", "--chunk-rows", "100")
    stored = zarr.open_group(str(tmp_path / "s.zarr"), mode="r")
    np.testing.assert_array_equal(stored["X"][...], X)  # type: ignore[index]
    (tmp_path / "c.yaml").write_text(
        f"data: {{store: s.zarr}}\nmodel: {{penalty: {{l2: {1 / len(y)!r}}}}}\nsolver: "
        f"{{tolerance: 1e-12}}\n"
    )
    summary = only_json(run("train", "--config", "c.yaml", "--json"))
    assert summary["status"] == "converged"
    model = streamlr.load_model(tmp_path / "runs" / "c")
    assert model.classes_.tolist() == ["benign", "malignant"]
    benign = y == 1  # in scikit-learn's coding malignant comes first: the signs turn round
    np.testing.assert_allclose(-model.coef_, oracle.coef_, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(-model.intercept_, oracle.intercept_, rtol=1e-6, atol=1e-6)
    metrics = only_json(run("evaluate", "runs/c", "s.zarr", "--json"))
    p = 1 - oracle.predict_proba(X)[:, 1]
    malignant = ~benign
    expected = {
        "log_loss": log_loss(malignant, p),
        "accuracy": accuracy_score(malignant, p > 0.5),
        "brier_score": brier_score_loss(malignant, p),
        "auc": roc_auc_score(malignant, p),
    }
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(value, rel=1e-9, abs=1e-9), name
    assert metrics["confusion_matrix"] == confusion_matrix(malignant, p > 0.5).tolist()
    run("predict", "runs/c", "s.zarr", "p.zarr")
    np.testing.assert_allclose(zarr.open_array(tmp_path / "p.zarr", mode="r")[:], p, atol=1e-9)


def test_a_store_of_known_coefficients_is_made_described_planned_and_fitted(tmp_path: Path) -> None:
    def run(*arguments: str) -> Any:
        done = streamlr_here(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return only_json(done.stdout) if "--json" in arguments else None

    run(
        "synth",
        "s.zarr",
        "--rows",
        "50000",
        "--features",
        "4",
        "--chunk-rows",
        "4096",
        "--seed",
        "7",
    )
    (tmp_path / "c.yaml").write_text("data: {store: s.zarr}\n")
    info, plan = run("info", "s.zarr", "--json"), run("plan", "--config", "c.yaml", "--json")
    assert (info["rows"], info["features"], info["problems"], len(info["classes"])) == (
        50000,
        4,
        [],
        2,
    )
    assert (plan["rows"], plan["features"], plan["data_bytes"]) == (50000, 4, 50000 * 4 * 4)
    assert not (tmp_path / "runs").exists()
    assert run("train", "--config", "c.yaml", "--json")["status"] == "converged"
    group = zarr.open_group(str(tmp_path / "s.zarr"), mode="r")
    X, truth = (
        np.asarray(group["X"][...], dtype=np.float64),
        np.asarray(group["true_coefficients"][...]),
    )  # type: ignore[index]
    model = streamlr.load_model(tmp_path / "runs" / "c")
    z = X @ truth[0] + float(group["true_intercept"][0])  # type: ignore[index, arg-type]
    variance = 1 / (1 + np.exp(-z)) / (1 + np.exp(z))
    design = np.column_stack([X, np.ones(len(X))])
    error = np.sqrt(
        np.diag(np.linalg.inv(design.T @ (variance[:, None] * design)))
    )  # of the maximum-likelihood estimate (Fisher)
    assert (
        np.abs(model.coef_[0] - truth[0]) < 5 * error[:-1]
    ).all()  # five standard errors: less than one in a million


def test_errors_name_the_command_line_and_not_python(place: Path, tmp_path: Path) -> None:
    checks: list[Callable[[], subprocess.CompletedProcess[str]]] = [
        lambda: streamlr_here("train", "--config", str(tmp_path), cwd=tmp_path),
        lambda: streamlr_here("info", os.devnull, cwd=tmp_path),
        lambda: streamlr_here(
            "predict", place / "runs" / "c", place / "s.zarr", place / "s.zarr", cwd=tmp_path
        ),
    ]
    for check in checks:
        done = check()
        assert done.returncode in (2, 3)
        assert "Traceback" not in done.stderr
        assert done.stderr.startswith("Error: ")
