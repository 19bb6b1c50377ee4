"""Results are written to local files alone: an address of another system is refused before anything
is read or written, and never becomes a folder."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from stores import files_of, runner, two_class_data, write_store

import streamlr
from streamlr.cli.main import cli
from streamlr.config.places import is_url, local_output, local_path
from streamlr.data.ingest.ingest import IngestSpec, ingest
from streamlr.data.ingest.table import Columns
from streamlr.data.synth import SynthSpec, synthesize
from streamlr.errors import ConfigError, RunDirectoryError

URLS = [
    "s3://bucket/out",
    "gs://bucket/out",
    "memory://out",
    "http://host/out",
    "https://host/out?sig=secret",
    "s3:/bucket/out",
    "abfs://c@host/out",
    "simplecache::s3://bucket/out",
    "S3://bucket/out",
    "file+x://host/out",
]
NOWHERE = "nowhere/at/all"
"""What is not read cannot be found to be missing."""

COMMANDS: dict[str, Callable[[str], list[str]]] = {
    "predict": lambda url: ["predict", NOWHERE, NOWHERE, url],
    "synth": lambda url: ["synth", url, "--rows", "10", "--features", "2"],
    "ingest": lambda url: ["ingest", f"{NOWHERE}.csv", url, "--target", "y"],
    "train, --run-dir": lambda url: ["train", "--config", "c.yaml", "--run-dir", url],
    "train, --set": lambda url: ["train", "--config", "c.yaml", "--set", f"run.directory={url}"],
    "path, --run-dir": lambda url: ["path", "--config", "c.yaml", "--run-dir", url],
    "path, --set": lambda url: ["path", "--config", "c.yaml", "--set", f"run.directory={url}"],
    "evaluate --plot": lambda url: ["evaluate", NOWHERE, NOWHERE, "--plot", f"{url}.png"],
}
FUNCTIONS: dict[str, Callable[[Any], object]] = {
    "predict": lambda out: streamlr.predict(NOWHERE, NOWHERE, out),
    "synthesize": lambda out: synthesize(out, SynthSpec(10, 2)),
    "ingest": lambda out: ingest([f"{NOWHERE}.csv"], out, IngestSpec(Columns("y"))),
    "train": lambda out: streamlr.train({"data": {"store": NOWHERE}, "run": {"directory": out}}),
    "path": lambda out: streamlr.path({"data": {"store": NOWHERE}, "run": {"directory": out}}),
    "load_config": lambda out: streamlr.load_config({"run": {"directory": out}}),
    "save": lambda out: streamlr.Model(np.ones((1, 2)), np.zeros(1), np.array([0, 1])).save(out),
}


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("c.yaml").write_text(f"data: {{store: {NOWHERE}}}\n")


@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_writes_to_an_address(command: str, url: str, tmp_path: Path) -> None:
    done = runner().invoke(cli, COMMANDS[command](url))
    assert isinstance(done.exception, ConfigError), done.output
    assert done.exception.exit_status == 2
    assert "results are written to local files" in str(done.exception)
    assert "give a local path" in str(done.exception)
    assert "secret" not in str(done.exception)
    assert list(files_of(tmp_path)) == ["c.yaml"]
    assert os.listdir(tmp_path) == ["c.yaml"]


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("url", URLS)
@pytest.mark.parametrize("function", FUNCTIONS)
def test_no_function_writes_to_an_address(
    function: str, url: str, kind: type, tmp_path: Path
) -> None:
    with pytest.raises(
        ConfigError,
        match="is an address, and results are written to local files alone; give a local path",
    ):
        FUNCTIONS[function](kind(url))
    assert os.listdir(tmp_path) == ["c.yaml"]


def test_the_run_directory_of_a_file_is_refused_too(tmp_path: Path) -> None:
    Path("c.yaml").write_text(
        f"data: {{store: {NOWHERE}}}\nrun: {{directory: 's3://bucket/runs/a'}}\n"
    )
    for command in (["train"], ["path"], ["plan"]):
        done = runner().invoke(cli, [*command, "--config", "c.yaml"])
        assert isinstance(done.exception, ConfigError)
        assert str(done.exception).startswith("run.directory: 's3://bucket/runs/a' is an address")
    assert os.listdir(tmp_path) == ["c.yaml"]


def test_secrets_of_an_address_are_not_told() -> None:
    for text in ("s3://key:hidden@bucket/out?sig=hidden", "s3:/key:hidden@bucket/out"):
        with pytest.raises(ConfigError) as raised:
            local_output(text, "OUT")
        assert "hidden" not in str(raised.value)


def test_names_with_colons_are_local() -> None:
    for name in ("run-12:30", "a:b", "/data/a:b/c", "./x", "x/y:z", "", ".", "C", "12:/x"):
        assert not is_url(name)
        assert local_output(name, "OUT") == Path(name)


def test_a_file_address_is_a_local_path() -> None:
    for address, path in (
        ("file:///a/b", "/a/b"),
        ("file:/a/b", "/a/b"),
        ("file://localhost/a/b", "/a/b"),
        ("file://a/b", "a/b"),
        ("FILE:///a", "/a"),
        ("/a/b", "/a/b"),
        ("a", "a"),
    ):
        assert local_path(address) == path
        assert local_output(address, "OUT") == Path(path)
    with pytest.raises(ConfigError, match="is an address"):
        local_output("file://", "OUT")


def test_whatever_is_written_by_a_file_address_stands_at_its_path_and_is_read_by_it(
    tmp_path: Path,
) -> None:
    X, y = two_class_data()
    Path("t.csv").write_text(
        "a,b,y\n"
        + "".join(
            f"{row[0]},{row[1]},{label}\n"
            for row, label in zip(X.tolist(), y.tolist(), strict=True)
        )
    )
    at = f"file://{tmp_path}"
    for arguments in (
        ["synth", f"{at}/synth.zarr", "--rows", "50", "--features", "2"],
        ["ingest", "t.csv", f"{at}/s.zarr", "--target", "y"],
        [
            "train",
            "--config",
            "c.yaml",
            "--set",
            f"data.store={at}/s.zarr",
            "--set",
            "model.penalty.l2=0.1",
            "--run-dir",
            f"{at}/run",
        ],
        ["evaluate", f"{at}/run", f"{at}/s.zarr", "--plot", f"{at}/plot.png"],
        ["predict", f"{at}/run", f"{at}/s.zarr", f"{at}/p.zarr"],
    ):
        done = runner().invoke(cli, arguments)
        assert done.exit_code == 0, (arguments, done.output, done.exception)
    assert {"synth.zarr", "s.zarr", "run", "plot.png", "p.zarr"} <= set(os.listdir(tmp_path))
    assert not (tmp_path / "file:").exists()
    assert zarr.open_array(str(tmp_path / "p.zarr"), mode="r").shape == (400,)
    assert json.loads((tmp_path / "run" / "summary.json").read_text())["rows"] == 400
    model = streamlr.load_model(f"{at}/run")
    model.save(f"{at}/copy.zarr")
    assert streamlr.load_model(tmp_path / "copy.zarr").content_sha256 == model.content_sha256
    run = streamlr.train(
        {"data": {"store": str(tmp_path / "s.zarr")}, "run": {"directory": f"{at}/plain"}}
    )
    assert (
        streamlr.summary(f"{at}/plain").to_dict() == streamlr.summary(tmp_path / "plain").to_dict()
    )
    assert run.status == "converged"


def test_a_run_is_not_looked_for_at_an_address(tmp_path: Path) -> None:
    write_store(tmp_path / "s", *two_class_data(), (100, 6))
    for read in (
        streamlr.load_model,
        streamlr.summary,
        lambda run: streamlr.evaluate(run, "s"),
        lambda run: streamlr.predict(run, "s", "out"),
    ):
        with pytest.raises(
            RunDirectoryError,
            match=r"'s3://\*\*\*@bucket/run'.* is read from local files; copy it here first",
        ):
            read("s3://key:secret@bucket/run")
