"""Nothing gets in, nothing gets out: what others wrote executes nothing and climbs nowhere, and
what is secret is told to nobody."""

from __future__ import annotations

import json
import os
import pickle
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import yaml
import zarr
from numpy.typing import NDArray
from stores import put, two_class_data, write_store
from test_cli import only_json, streamlr_here
from test_damage import _as_nobody, names, refusal
from zarr.storage import FsspecStore

import streamlr
from streamlr.config.sections import DataConfig, load_config, public_url
from streamlr.data.records import commit_file, write_record
from streamlr.data.sources.store import ZarrSource
from streamlr.errors import ChunkError, ConfigError, DataError, RunDirectoryError, StreamlrError
from streamlr.scoring.scoring import evaluate

# Secrets

USER, PASSWORD, SIGNATURE, OPTION, DEEP = (
    "AKIAUSER",
    "pass/word+hidden",
    "c2lnbmF0dXJl",
    "option-secret",
    "deep-secret",
)
SECRETS = (USER, PASSWORD, SIGNATURE, OPTION, DEEP, "pass%2Fword%2Bhidden")
URL = f"remote://{USER}:{PASSWORD}@host/s.zarr?sig={SIGNATURE}"
OPTIONS = {"secret": OPTION, "client_kwargs": {"headers": [DEEP]}}


@pytest.fixture
def remote(tmp_path: Path) -> Iterator[Path]:
    """A folder with a configuration of a store whose address and options hold secrets."""
    X, y = two_class_data()
    group = zarr.open_group(FsspecStore.from_url(URL), mode="w")
    put(group, "X", X, (100, 6))
    put(group, "y", y)
    tree = {
        "data": {"store": URL, "storage_options": OPTIONS},
        "cluster": {"kind": "serial"},
        "solver": {"name": "newton"},
        "run": {"directory": "run"},
    }
    (tmp_path / "c.yaml").write_text(yaml.safe_dump(tree))
    yield tmp_path
    fsspec.filesystem("remote").store.clear()


def tells_nothing(folder: Path, *texts: str) -> None:
    """No secret stands in the texts, nor in any file of the run, at whatever width of its
    characters."""
    written = [
        path.read_text(encoding="latin-1").replace("\0", "")
        for path in (folder / "run").rglob("*")
        if path.is_file()
    ]
    for text in [*texts, *written]:
        for secret in SECRETS:
            assert secret not in text


def told(folder: Path, *arguments: str) -> Any:
    done = streamlr_here(*arguments, cwd=folder)
    tells_nothing(folder, done.stdout, done.stderr)
    return done


def test_no_command_tells_a_secret(remote: Path) -> None:
    train = ["-v", "train", "--config", "c.yaml"]
    assert told(remote, *train, "--json").returncode == 0
    assert told(remote, "plan", "--config", "c.yaml", "--json").returncode == 0
    assert told(remote, "info", URL, "--json").returncode == 0
    assert told(remote, "info", URL).returncode == 0
    assert told(remote, *train).returncode == 2  # there is a run
    assert told(remote, *train, "--resume", "--set", "solver.tolerance=1e-3").returncode == 2
    assert told(remote, *train, "--overwrite", "--set", "data.features=Q").returncode == 3
    assert told(remote, *train, "--set", "data.storage_options=text-option-secret").returncode == 2
    assert told(remote, *train, "--set", f"data.storage_options.secret=[{OPTION}").returncode == 2
    assert (
        told(
            remote, *train, "--set", f"data.store=nothere://{USER}:{PASSWORD}@x/y?sig={SIGNATURE}"
        ).returncode
        == 3
    )
    assert (
        told(
            remote,
            *train,
            "--set",
            f"data.store=remote://{USER}:{PASSWORD}@x/nothing?sig={SIGNATURE}",
        ).returncode
        == 3
    )
    assert "***" in only_json((remote / "run" / "summary.json").read_text())["store"]


@pytest.mark.parametrize("damage", ["missing", "cut", "not finite"])
def test_no_error_of_the_data_tells_a_secret(damage: str, remote: Path) -> None:
    files = fsspec.filesystem("remote")
    path = next(path for path in files.find("/") if path.endswith("X/c/2/0"))
    content = files.cat(path)
    files.rm(path) if damage == "missing" else files.pipe(
        path, content[:-1] if damage == "cut" else content[:-4] + np.float32(np.nan).tobytes()
    )
    done = told(remote, "train", "--config", "c.yaml")
    assert done.returncode == 3
    assert "chunk 2 of X" in done.stderr


class Telltale(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """A file system whose errors repeat all that it was told."""

    protocol = "telltale"
    cachable = False

    def _info(self, path: str, **_: Any) -> None:
        raise OSError(f"403 Forbidden for {path} with {self.storage_options}")

    info = cat_file = open = ls = _info


def test_what_a_file_system_tells_in_its_errors_is_masked(remote: Path) -> None:
    fsspec.register_implementation("telltale", Telltale, clobber=True)
    done = told(
        remote,
        "train",
        "--config",
        "c.yaml",
        "--set",
        f"data.store={URL.replace('remote', 'telltale')}",
    )
    assert done.returncode == 3
    assert "telltale://***@host/s.zarr?sig=***" in done.stderr


def test_a_run_with_secrets_goes_on_also_with_others(remote: Path) -> None:
    train = ["train", "--config", "c.yaml", "--json"]
    whole = only_json(told(remote, *train, "--run-dir", "whole").stdout)
    assert told(remote, *train, "--set", "solver.max_passes=2").returncode == 0
    again = told(remote, *train, "--resume", "--set", "data.storage_options.secret=another")
    assert again.returncode == 0
    assert only_json(again.stdout)["coefficients_sha256"] == whole["coefficients_sha256"]


def test_the_configuration_of_a_run_says_what_has_to_be_filled_in_again(remote: Path) -> None:
    assert told(remote, "train", "--config", "c.yaml").returncode == 0
    done = told(remote, "train", "--config", "run/config.yaml", "--run-dir", "second")
    assert done.returncode == 2
    for key in ("data.storage_options.secret", "data.storage_options.client_kwargs", "data.store"):
        assert key in done.stderr
    assert "fill it in again, for instance with --set data.storage_options." in done.stderr
    again = [
        f"data.store={URL}",
        f"data.storage_options.secret={OPTION}",
        "data.storage_options.client_kwargs={}",
    ]
    filled = load_config(remote / "run" / "config.yaml", again)
    assert (
        streamlr.train(
            filled, overwrite=True, overrides=[f"run.directory={remote / 'third'}"]
        ).status
        == "converged"
    )


def test_a_run_with_secrets_scores_a_local_store_without_them(remote: Path) -> None:
    assert told(remote, "train", "--config", "c.yaml").returncode == 0
    write_store(remote / "local", *two_class_data())
    assert evaluate(remote / "run", str(remote / "local"))["rows"] == 400


@pytest.mark.parametrize(
    ("store", "shown"),
    [
        ("s3://key:sec/ret@bucket/a/x.zarr", "s3://***@bucket/a/x.zarr"),
        ("s3://key@bucket/x", "s3://***@bucket/x"),
        ("https://u:p@h:80/x.zarr?versionId=7;a=b", "https://***@h:80/x.zarr?versionId=***;a=***"),
        ("https://h/x?token", "https://h/x?***"),
        ("https://h/x#token=1", "https://h/x#token=***"),
        ("simplecache::s3://k:s@b/c", "simplecache::s3://***@b/c"),
        ("s3://bucket/a@b.zarr", "s3://bucket/a@b.zarr"),
        ("http://host:80/a", "http://host:80/a"),
        ("/data/a:b@c?d=e", "/data/a:b@c?d=e"),
        ("", ""),
    ],
)
def test_an_address_is_shown_without_what_may_be_secret(store: str, shown: str) -> None:
    assert public_url(store) == shown
    assert OPTION not in repr(DataConfig(store=store, storage_options=OPTIONS))


def test_secrets_too_short_to_be_looked_for_go_with_the_address_they_are_in() -> None:
    config = DataConfig(store="s3://u:p@bucket/x?t=1")
    assert (
        config.without_secrets("no s3://u:p@bucket/x?t=1 at upton")
        == "no s3://***@bucket/x?t=*** at upton"
    )


def test_a_broken_configuration_is_not_quoted(tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f'data:\n  storage_options: {{secret: "{OPTION}\n')
    with pytest.raises(ConfigError, match="not valid YAML") as caught:
        load_config(tmp_path / "c.yaml")
    assert OPTION not in str(caught.value)
    assert "line" in str(caught.value)


# Configurations


def laughs(depth: int) -> str:
    """A few lines of YAML that are ten to the power of their number when written out."""
    lines = ["a0: &a0 [ha, ha, ha, ha, ha, ha, ha, ha, ha, ha]"]
    return "\n".join(
        lines + [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, depth)]
    )


@pytest.mark.parametrize(
    "key",
    [
        "data: {store: *a11}",
        "data: {storage_options: {x: *a11}}",
        "solver: {name: *a11}",
        "unknown: *a11",
    ],
)
def test_a_bomb_of_aliases_is_refused_at_once(key: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(f"{laughs(12)}\n{key}\n")
    with pytest.raises(ConfigError, match="more than 10,000 values"):
        load_config(tmp_path / "c.yaml")


@pytest.mark.parametrize(
    "text",
    [
        "a: &a [*a]",
        "a: " + "[" * 100_000,
        "a: " + "{b: " * 100_000,
        "x: " + "9" * 10_000,
        "? [a]\n: b",
    ],
    ids=["a circle", "deep list", "deep mapping", "a long number", "a list as key"],
)
def test_odd_yaml_is_a_configuration_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "c.yaml").write_text(text)
    with pytest.raises(ConfigError):
        load_config(tmp_path / "c.yaml")


# Names


MARKUP = [
    "<script>alert(1)</script>",
    "a|b\n# c",
    "[x](javascript:1)",
    "\x1b]8;;http://x\x07",
    "\u202eabc",
    "../../up",
]


def test_names_and_labels_with_mark_up_stay_text(tmp_path: Path) -> None:
    X, codes = two_class_data()
    X[:, 0] = 1  # constant: training names it
    write_store(tmp_path / "s", X, np.array([MARKUP[0], MARKUP[3]])[codes], (100, 6))
    zarr.open_group(str(tmp_path / "s"), mode="r+").attrs["feature_names"] = MARKUP
    (tmp_path / "c.yaml").write_text(
        "data: {store: s}\nrun: {directory: run}\ncluster: {kind: serial}\n"
    )
    before = {path.name for path in tmp_path.parent.iterdir()}
    for arguments in (
        ["train", "--config", "c.yaml", "--json"],
        ["info", "s", "--json"],
        ["info", "s"],
        ["evaluate", "run", "s", "--json"],
    ):
        done = streamlr_here(*arguments, cwd=tmp_path)
        assert done.returncode == 0
        for character in ("\x1b", "\x07", "\u202e"):
            assert character not in done.stdout + done.stderr
        if "--json" in arguments:
            only_json(done.stdout)
    assert {path.name for path in tmp_path.parent.iterdir()} == before
    assert {path.name for path in tmp_path.iterdir()} == {"s", "c.yaml", "run"}
    assert streamlr.load_model(tmp_path / "run").feature_names == tuple(MARKUP)


@pytest.mark.parametrize("name", ["../other/X", "a/../../other/X", "/../X", "..", "."])
def test_array_names_do_not_climb_out_of_the_store(name: str, tmp_path: Path) -> None:
    X, y = two_class_data()
    write_store(tmp_path / "other", X, y)
    write_store(tmp_path / "s", X, y)
    names(refusal(tmp_path / "s", features=name), "data.features")


@pytest.mark.parametrize(
    "link",
    [
        ".lock",
        ".config.yaml.partial",
        "history.jsonl",
        "config.yaml",
        "checkpoint",
        ".model.zarr.partial-1",
    ],
)
def test_links_in_a_run_directory_do_not_lead_out_of_it(link: str, tmp_path: Path) -> None:
    write_store(tmp_path / "s", *two_class_data(), (100, 6))
    victim = tmp_path / "victim"
    if link in ("checkpoint", ".model.zarr.partial-1"):
        victim.mkdir()
        (victim / "kept").write_text("mine")
    else:
        victim.write_text("mine")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / link).symlink_to(victim)
    config = {
        "data": {"store": str(tmp_path / "s")},
        "cluster": {"kind": "serial"},
        "run": {"directory": str(tmp_path / "run")},
    }
    if link == ".lock":
        with pytest.raises(RunDirectoryError, match="cannot make the run directory"):
            streamlr.train(config, overwrite=True)
    else:
        assert streamlr.train(config, overwrite=True).status == "converged"
    assert (victim / "kept" if victim.is_dir() else victim).read_text() == "mine"
    assert not victim.is_dir() or [path.name for path in victim.iterdir()] == ["kept"]


# Stores and models that execute


class Bomb:
    """What a pickle can do to whoever loads it."""

    def __init__(self, flag: Path) -> None:
        self.flag = flag

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.flag,))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("of", ["y", "weights", "feature_names", "X"])
@pytest.mark.parametrize(
    "codecs",
    [
        {"filters": [{"id": "pickle", "protocol": 5}], "compressor": None},
        {
            "filters": [{"id": "vlen-utf8"}, {"id": "pickle"}],
            "compressor": {"id": "zlib", "level": 1},
        },
        {"filters": None, "compressor": {"id": "pickle"}},
    ],
    ids=["filter", "second filter", "compressor"],
)
def test_no_array_of_a_store_is_unpickled(codecs: dict[str, Any], of: str, tmp_path: Path) -> None:
    group = zarr.open_group(str(tmp_path / "s"), mode="w", zarr_format=2)
    arrays: dict[str, NDArray[Any]] = {
        "X": np.eye(4),
        "y": np.array([0, 1, 0, 1]),
        "weights": np.ones(4),
    }
    for name, values in arrays.items():
        put(group, name, values)
    folder = tmp_path / "s" / of
    folder.mkdir(exist_ok=True)
    shape = [4, 4] if of == "X" else [4]
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
    (folder / ".".join("0" for _ in shape)).write_bytes(pickle.dumps(Bomb(tmp_path / "flag")))
    with pytest.raises(DataError):
        streamlr.train(
            {
                "data": {"store": str(tmp_path / "s"), "weights": "weights"},
                "cluster": {"kind": "serial"},
            }
        )
    assert not (tmp_path / "flag").exists()


@pytest.mark.parametrize("value", [["[" * 50_000], "x" * 10**6, {"a": 1}, 10**400])
def test_a_model_with_absurd_attributes_is_refused(value: Any, tmp_path: Path) -> None:
    write_record(
        tmp_path / "model.zarr",
        {"coef": np.ones((1, 2)), "intercept": np.ones(1)},
        {
            "format": "streamlr model",
            "format_version": 1,
            "family": "logistic",
            "classes": value,
            "classes_dtype": "<i8",
            "feature_names": None,
            "content_sha256": "0",
        },
    )
    with pytest.raises(StreamlrError):
        streamlr.load_model(tmp_path)


# Permissions


def test_a_folder_of_chunks_that_may_not_be_listed_is_refused() -> None:
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, into which root alone may look
        os.chmod(folder, 0o755)
        config = write_store(Path(folder) / "s", *two_class_data(), (100, 6))
        os.chmod(Path(folder) / "s" / "X" / "c", 0)
        source = ZarrSource(config)
        with (
            _as_nobody(),
            pytest.raises(ChunkError, match=r"(chunks of X cannot be listed|lacks chunk 0 of X)"),
        ):
            source.check_chunks()


def test_a_run_directory_that_may_not_be_written_is_refused() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        write_store(Path(folder) / "s", *two_class_data(), (100, 6))
        with (
            _as_nobody(),
            pytest.raises(RunDirectoryError, match=r"Permission denied.*run\.directory"),
        ):
            streamlr.train(
                {
                    "data": {"store": str(Path(folder) / "s")},
                    "cluster": {"kind": "serial"},
                    "run": {"directory": str(Path(folder) / "run")},
                }
            )


def test_a_file_is_not_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("mine")
    (tmp_path / ".file.partial").symlink_to(tmp_path / "victim")
    commit_file(tmp_path / "file", lambda file: file.write(b"new"))
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        "victim": "mine",
        "file": "new",
    }


def test_a_file_that_cannot_be_written_keeps_what_stood_there(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("before")

    def fail(file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with pytest.raises(
        StreamlrError,
        match=r"cannot write '.*file' \(No space left on device; .* MB are free there\)",
    ):
        commit_file(tmp_path / "file", fail)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"file": "before"}
