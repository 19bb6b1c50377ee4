"""What earlier versions left on disk is as good as it was: their stores, runs and checkpoints.

Each archive in ``fixtures/`` was written by the version in its name, with what that version made of
it (``expected.json``); `scripts/make_fixture.py` says how. What the version of today writes stands
beside them: so the script goes on to work, and what is true of the next archive is true before it
is kept.
"""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from stores import files_of, runner

import streamlr
from streamlr.cli.main import cli
from streamlr.errors import ConfigError, RunDirectoryError, StreamlrError, for_command_line

Array = NDArray[np.float64]

TOP = Path(__file__).resolve().parent.parent
ARCHIVES = {path.stem: path for path in sorted((TOP / "tests" / "fixtures").glob("version-*.zip"))}
TODAY = "today"
REFUSED = (
    r"(another version of streamlr wrote it; resume with that version"
    r"|resume with the version that wrote it), or start anew with --overwrite"
)
EPS = float(np.finfo(np.float64).eps)
GRADIENT_TOLERANCE = 1e-11
"""Of all runs in the archives."""
SAME_OPTIMUM = 2 * 18**0.5 * GRADIENT_TOLERANCE / 0.05
"""Two points at which the gradients by d standardised coefficients are within the tolerance lie
within 2 sqrt(d) tolerance / curvature of one another: d is at most 18 here, and the least curvature
of the mean loss at these optima is 0.07 (of `synth`)."""


def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_fixture", TOP / "scripts/make_fixture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@cache
def expected_in(archive: Path) -> dict[str, Any]:
    with zipfile.ZipFile(archive) as packed:
        found: dict[str, Any] = json.loads(packed.read("expected.json"))
    return found


def cases(kind: str) -> list[tuple[str, str]]:
    """Archive and name of all that it holds of a kind, ``runs`` or ``killed``."""
    maker = script()
    found = {name: expected_in(path)[kind] for name, path in ARCHIVES.items()}
    found[TODAY] = {"runs": maker.RUNS, "killed": maker.KILLED}[kind]
    return [(version, name) for version, names in found.items() for name in names]


@dataclass(frozen=True)
class Kept:
    """One run that a version left."""

    folder: Path
    """What its archive holds."""
    name: str
    """Of its directory."""
    expected: dict[str, Any]
    """What its version made of it."""
    today: bool
    """Whether this version wrote it."""

    @property
    def command(self) -> str:
        return "path" if "path" in self.expected["config"] else "train"

    @property
    def store(self) -> str:
        store: str = self.expected["config"]["data"]["store"]
        return store

    def array(self, key: str) -> Any:
        """The array of the store that a key of the section ``data`` names, read by Zarr alone."""
        names = {"features": "X", "target": "y", **self.expected["config"]["data"]}
        group = zarr.open_group(str(self.folder / self.store), mode="r")
        return np.asarray(group[names[key]][...]) if names.get(key) else None  # type: ignore[index]

    def features(self) -> NDArray[Any]:
        """X, (m, n)."""
        X: NDArray[Any] = self.array("features")
        return X.T if self.expected["config"]["data"].get("sample_axis") else X


@pytest.fixture(scope="module")
def unpacked(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    @cache
    def folder_of(version: str) -> Path:
        folder = tmp_path_factory.mktemp(version)
        archive = ARCHIVES.get(version, folder.with_suffix(".zip"))
        if version == TODAY:
            program = [sys.executable, str(TOP / "scripts/make_fixture.py"), "--to", str(archive)]
            done = subprocess.run(program, capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr
        with zipfile.ZipFile(archive) as packed:
            packed.extractall(folder)
        return folder

    return folder_of


@pytest.fixture
def kept(
    request: pytest.FixtureRequest,
    unpacked: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
) -> Kept:
    version, name = request.param
    folder = unpacked(version)
    expected = json.loads((folder / "expected.json").read_text(encoding="utf-8"))
    monkeypatch.chdir(folder)  # the stores are named from there
    return Kept(folder, name, {**expected["runs"], **expected["killed"]}[name], version == TODAY)


def of(kind: str) -> pytest.MarkDecorator:
    found = cases(kind)
    return pytest.mark.parametrize("kept", found, indirect=True, ids=[" ".join(x) for x in found])


def ended(*arguments: str | Path) -> tuple[int, str, str]:
    """Exit status, standard output, and message of a command."""
    result = runner().invoke(cli, [str(argument) for argument in arguments])
    if isinstance(result.exception, StreamlrError):
        return result.exception.exit_status, result.stdout, for_command_line(result.exception)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.exit_code, result.stdout, result.stderr


def printed(*arguments: str | Path) -> Any:
    """The JSON document that a command which has to succeed prints."""
    status, out, message = ended(*arguments, "--json")
    assert status == 0, message
    return json.loads(out)


def same(found: Any, expected: Any, tolerance: float, where: str = "") -> None:
    """Whether all that is expected is found: texts alike, numbers within a relative tolerance.

    A tail probability p falls as exp(-s²/2) or exp(-s/2) with its statistic, so its relative error
    is up to s² times that one's: 1000 times and less here.
    """
    if isinstance(expected, dict):
        for key, value in expected.items():
            assert key in found, f"{where}.{key} is gone"
            tail = key == "p_value" or key.endswith("_p")
            same(found[key], value, tolerance * (1000 if tail else 1), f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for index, pair in enumerate(zip(found, expected, strict=True)):
            same(*pair, tolerance, f"{where}[{index}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=tolerance, abs=tolerance), where
    else:
        assert found == expected, where


def same_optimum(model: streamlr.Model, kept: Kept) -> None:
    """Whether two solves of a run have come to one point, by standardised coefficients."""
    X = kept.features().astype(np.float64)
    mean, spread = X.mean(axis=0), X.std(axis=0)
    W, b = model.coef_ * spread, model.intercept_ + model.coef_ @ mean
    coef = np.array(kept.expected["coef"])
    np.testing.assert_allclose(W, coef * spread, rtol=0, atol=SAME_OPTIMUM)
    centred = np.array(kept.expected["intercept"]) + coef @ mean
    np.testing.assert_allclose(b, centred, rtol=0, atol=SAME_OPTIMUM)
    assert model.classes_.tolist() == kept.expected["classes"]


def offset_of(kept: Kept) -> dict[str, Any]:
    """What `Model.predict` has to be given beside the features."""
    found = {key: kept.array(key) for key in ("offset", "exposure")}
    if found["exposure"] is not None:  # as the first versions have it, which knew offsets alone
        return {"offset": np.log(found["exposure"])}
    return {} if found["offset"] is None else {"offset": found["offset"]}


def rounding_of(kept: Kept) -> Array:
    """How far predictions may differ by the order of sums, (m,) or (m, c).

    Z is a sum of n + 2 products, each version's within (n + 2) eps times that of their sizes, and A
    moves with Z by no more than itself or 1; exp and its quotient add a few roundings.
    """
    coef, intercept = np.array(kept.expected["coef"]), np.array(kept.expected["intercept"])
    sizes = np.abs(kept.features()) @ np.abs(coef.T) + np.abs(intercept)
    sizes += np.abs(offset_of(kept).get("offset", np.zeros(len(sizes))))[:, None]
    rounding: Array = 2 * (coef.shape[1] + 2) * EPS * sizes.max(axis=1) + 8 * EPS
    A = np.array(kept.expected["predictions"])
    return (rounding if A.ndim == 1 else rounding[:, None]) * np.maximum(1.0, np.abs(A))


def test_there_is_an_archive_of_every_version_that_was() -> None:
    assert "version-0.1.0" in ARCHIVES
    assert all(path.stat().st_size <= script().MOST_BYTES for path in ARCHIVES.values())
    told = {name: f"version-{expected_in(path)['version']}" for name, path in ARCHIVES.items()}
    assert all(name == found for name, found in told.items())


@of("runs")
def test_a_store_is_described(kept: Kept) -> None:
    before = files_of(kept.folder)
    data = {key: value for key, value in kept.expected["config"]["data"].items() if key != "store"}
    family = kept.expected["config"].get("model", {}).get("family", "logistic")
    sets = [f"data.{key}={value}" for key, value in data.items()] + [f"model.family={family}"]
    told = printed("info", kept.store, *(f"--set={setting}" for setting in sets))
    assert (told["rows"], told["features"]) == kept.features().shape
    # stores that others write may have no checksums, which is said; ours have them
    assert [text for text in told["problems"] if "no checksums" not in text] == []
    labels, counts = np.unique(kept.array("target"), return_counts=True)
    if kept.expected["classes"]:
        found = [(entry["label"], entry["rows"]) for entry in told["classes"]]
        assert found == list(zip(labels.tolist(), counts.tolist(), strict=True))
    assert told["feature_names"] == kept.expected["feature_names"]
    assert files_of(kept.folder) == before


@of("runs")
def test_a_store_trains_to_the_optimum_of_then(kept: Kept) -> None:
    before = files_of(kept.folder)
    tree = {**kept.expected["config"], "run": {"directory": None}}
    fit = streamlr.path if kept.command == "path" else streamlr.train
    same_optimum(fit(tree).model, kept)
    assert files_of(kept.folder) == before


@of("runs")
def test_a_model_is_loaded_to_the_bit_and_predicts_as_it_did(kept: Kept) -> None:
    before = files_of(kept.folder)
    model, X, beside = streamlr.load_model(kept.name), kept.features(), offset_of(kept)
    assert model.coef_.tolist() == kept.expected["coef"]
    assert model.intercept_.tolist() == kept.expected["intercept"]
    assert model.classes_.tolist() == kept.expected["classes"]
    names = model.feature_names
    assert (None if names is None else list(names)) == kept.expected["feature_names"]
    A = np.array(kept.expected["predictions"])
    off = np.abs(model.predict_mean(X, **beside) - A) / rounding_of(kept)
    assert off.max() <= 1.0
    if kept.expected["classes"]:
        likely = A.argmax(axis=1) if A.ndim == 2 else (A > 0.5).astype(int)
        assert model.predict(X, **beside).tolist() == model.classes_[likely].tolist()
    assert files_of(kept.folder) == before


@of("runs")
def test_a_run_predicts_as_it_did(kept: Kept, tmp_path: Path) -> None:
    before = files_of(kept.folder)
    out = tmp_path / "predictions.zarr"
    status, _, message = ended("predict", kept.name, kept.store, out)
    assert status == 0, message
    predicted = np.asarray(zarr.open_array(str(out), mode="r")[...])
    off = np.abs(predicted - np.array(kept.expected["predictions"])) / rounding_of(kept)
    assert off.max() <= 1.0
    assert files_of(kept.folder) == before


@of("runs")
def test_a_run_scores_as_it_did(kept: Kept) -> None:
    before = files_of(kept.folder)
    # quotients of sums of m terms, each of which is off by a prediction's rounding
    rows = len(kept.expected["predictions"])
    tolerance = 4 * (rows * EPS + float(rounding_of(kept).max()))
    same(printed("evaluate", kept.name, kept.store), kept.expected["metrics"], tolerance)
    if "validation_metrics" in kept.expected:
        told = printed("evaluate", kept.name, kept.store, "--validation")
        same(told, kept.expected["validation_metrics"], tolerance)
    assert files_of(kept.folder) == before


@of("runs")
def test_a_run_has_the_standard_errors_that_it_had(kept: Kept) -> None:
    before = files_of(kept.folder)
    if "summary" in kept.expected:
        # of m rows whose information, in units of the data, has a condition below 1e5
        tolerance = 1e5 * len(kept.expected["predictions"]) * EPS
        same(printed("summary", kept.name), kept.expected["summary"], tolerance)
    else:
        status, _, message = ended("summary", kept.name)
        assert status == ConfigError.exit_status == 2
        reasons = ("penalty", "bounds", "validation", "class_weight")
        assert any(text in message for text in reasons if text in kept.expected["no_summary"])
    assert files_of(kept.folder) == before


def content_of(folder: Path) -> dict[str, bytes]:
    """Every file and what it holds, but for those by which one process at a time is let in."""
    return {name: held for name, held in files_of(folder).items() if not name.endswith(".lock")}


def history_of(run: Path) -> list[dict[str, Any]]:
    """What a run has told of its passes."""
    lines = (run / "history.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def safe_passes(run: Path) -> list[dict[str, Any]]:
    """Those of which there is a checkpoint; the last of a finished path scores, and has none."""
    newest = max((run / "checkpoint").glob("pass-*.npz"))
    return history_of(run)[: int(newest.stem.removeprefix("pass-"))]


def goes_on(kept: Kept, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--resume` comes to the optimum, or is refused by name and changes nothing; then what the
    message says, `--overwrite`, comes to it."""
    for name in (kept.name, kept.store):
        shutil.copytree(kept.folder / name, folder / name)
    monkeypatch.chdir(folder)
    before, safe = content_of(folder), safe_passes(folder / kept.name)
    assert safe
    again = [kept.command, "--config", f"{kept.name}/config.yaml", "--run-dir", kept.name]
    status, _, message = ended(*again, "--resume")
    if status != 0:
        assert not kept.today, message
        assert status == RunDirectoryError.exit_status == 2
        assert re.search(REFUSED, message), message
        assert content_of(folder) == before
        status, _, message = ended(*again, "--overwrite")
    else:  # and not begun anew, which would have other times
        assert history_of(folder / kept.name)[: len(safe)] == safe
    assert status == 0, message
    same_optimum(streamlr.load_model(kept.name), kept)
    assert files_of(folder / kept.store) == files_of(kept.folder / kept.store)


@of("killed")
def test_a_killed_run_is_gone_on_with_or_refused_by_name(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert len(history_of(kept.folder / kept.name)) == 2
    goes_on(kept, tmp_path, monkeypatch)


@of("runs")
def test_a_finished_run_is_gone_on_with_or_refused_by_name(
    kept: Kept, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    goes_on(kept, tmp_path, monkeypatch)


@pytest.mark.parametrize("version", ARCHIVES)
def test_a_process_that_refuses_says_so_and_has_the_exit_status(
    version: str, unpacked: Callable[[str], Path], tmp_path: Path
) -> None:
    shutil.copytree(unpacked(version), tmp_path / "moved")
    program = [sys.executable, "-m", "streamlr.cli.main", "train", "--resume"]
    where = ["--config", "killed-lbfgs/config.yaml", "--run-dir", "killed-lbfgs"]
    done = subprocess.run(
        [*program, *where], cwd=tmp_path / "moved", capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        assert done.returncode == 2
        assert re.search(f"^Error: the checkpoint .*{REFUSED}$", done.stderr.strip(), re.MULTILINE)
        assert "Traceback" not in done.stderr
