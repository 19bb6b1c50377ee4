"""Checkpoint files: whatever stands in them, they are read whole, or the one before is, or they are
refused; nothing in them is executed."""

from __future__ import annotations

import io
import json
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from stores import two_class_data, write_store

import streamlr
from streamlr.errors import RunDirectoryError
from streamlr.runs.checkpoint import (
    FORMAT_VERSION,
    Checkpoint,
    CheckpointWriter,
    load_checkpoint,
    save_checkpoint,
)

LARGE = 200_000  # numbers of an array that is written beside the others


def checkpoint(passes: int, large: NDArray[Any] | None = None) -> Checkpoint:
    arrays = {"state.point": np.arange(5.0) + passes}
    return Checkpoint(
        passes,
        {"key": "value"},
        arrays | ({} if large is None else {"state.metric": large}),
        {"state.loss": 0.5},
    )


def same(found: Checkpoint | None, expected: Checkpoint) -> None:
    assert found is not None
    assert (found.passes, found.fingerprint, found.values) == (
        expected.passes,
        expected.fingerprint,
        expected.values,
    )
    assert {name: array.tobytes() for name, array in found.arrays.items()} == {
        name: array.tobytes() for name, array in expected.arrays.items()
    }


def test_a_checkpoint_cut_at_any_byte_falls_back_to_the_one_before(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    save_checkpoint(tmp_path, checkpoint(2))
    path = tmp_path / "pass-000002.npz"
    content = path.read_bytes()
    for at in range(0, len(content), 7):
        path.write_bytes(content[:at])
        same(load_checkpoint(tmp_path, {}), checkpoint(1))
    path.write_bytes(content)
    same(load_checkpoint(tmp_path, {}), checkpoint(2))


def test_where_all_were_damaged_old_ones_do_not_push_out_new_ones(tmp_path: Path) -> None:
    for passes in (7, 8):
        save_checkpoint(tmp_path, checkpoint(passes))
        (tmp_path / f"pass-{passes:06d}.npz").write_bytes(b"")
    save_checkpoint(tmp_path, checkpoint(1))
    same(load_checkpoint(tmp_path, {}), checkpoint(1))
    save_checkpoint(tmp_path, checkpoint(2))
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "pass-000001.npz",
        "pass-000002.npz",
    ]


# A large array that stays the same


def test_a_large_array_is_written_once_and_again_when_it_is_another(tmp_path: Path) -> None:
    writer = CheckpointWriter(tmp_path)
    metric, other = np.arange(float(LARGE)), np.arange(float(LARGE)) + 1
    writer.save(checkpoint(1, metric))
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("large-*")}
    assert len(times) == 2
    for passes in (2, 3):
        writer.save(checkpoint(passes, metric))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("large-*")} == times
    assert all(path.stat().st_size < 10_000 for path in tmp_path.glob("pass-*"))
    writer.save(checkpoint(4, other))
    (tmp_path / "pass-000004.npz").write_bytes(b"")
    same(
        load_checkpoint(tmp_path, {}), checkpoint(3, metric)
    )  # what the one before needs is still there
    for passes in (5, 6):
        writer.save(checkpoint(passes, other))
        same(load_checkpoint(tmp_path, {}), checkpoint(passes, other))
    assert len(list(tmp_path.glob("large-*"))) == 2


@pytest.mark.parametrize("damage", ["flipped", "cut", "gone", "other"])
@pytest.mark.parametrize("copy", [0, 1])
def test_damage_to_one_copy_of_a_large_array_costs_nothing(
    copy: int, damage: str, tmp_path: Path
) -> None:
    large = np.arange(float(LARGE))
    save_checkpoint(tmp_path, checkpoint(1, large))
    (path,) = tmp_path.glob(f"large-*-{copy}.npy")
    content = path.read_bytes()
    if damage == "gone":
        path.unlink()
    elif damage == "other":
        np.save(path, large + 1)
    else:
        path.write_bytes(
            content[:-1]
            if damage == "cut"
            else content[:5000] + bytes([content[5000] ^ 1]) + content[5001:]
        )
    same(load_checkpoint(tmp_path, {}), checkpoint(1, large))
    for other in tmp_path.glob("large-*"):
        other.unlink()
    assert load_checkpoint(tmp_path, {}) is None


def test_a_run_with_a_large_metric_goes_on_to_the_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamlr.runs.checkpoint._LARGE_BYTES", 100)
    X, y = two_class_data(2000, 20)
    write_store(tmp_path / "s", X, y, (100, 20))
    config: dict[str, Any] = {
        "data": {"store": str(tmp_path / "s")},
        "cluster": {"kind": "serial"},
        "solver": {"name": "lbfgs"},
    }
    whole = streamlr.train(config)
    config["run"] = {"directory": str(tmp_path / "run")}
    for passes in range(2, whole.passes + 1):
        config["solver"]["max_passes"] = passes
        again = streamlr.train(config, resume=True)
        assert list((tmp_path / "run" / "checkpoint").glob("large-*"))
    assert again.model.coefficients_sha256 == whole.model.coefficients_sha256
    assert [line["loss"] for line in again.history] == [line["loss"] for line in whole.history]


# Made by somebody else


def header_of(path: Path) -> tuple[dict[str, Any], dict[str, NDArray[Any]]]:
    with np.load(path) as content:
        return json.loads(str(content["header"])), {
            name: content[name] for name in content if name != "header"
        }


def npy(values: NDArray[Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, values)
    return file.getvalue()


def compressed(path: Path) -> None:
    header, arrays = header_of(path)
    np.savez_compressed(
        path, header=np.array(json.dumps(header)), **{**arrays, "state.point": np.zeros(10**6)}
    )


def names_that_climb(path: Path) -> None:
    header, arrays = header_of(path)
    header["arrays"] = ["../../climbed"]
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("header.npy", npy(np.array(json.dumps(header))))
        file.writestr("../../climbed.npy", npy(arrays["state.point"]))


def digests_that_climb(path: Path) -> None:
    header, arrays = header_of(path)
    np.savez(
        path,
        header=np.array(json.dumps({**header, "large": {"state.metric": "../../../etc/x"}})),
        **arrays,
    )


def claims_too_much(path: Path) -> None:
    header, _ = header_of(path)
    claim = npy(np.zeros(4)).replace(
        b"'shape': (4,), }               ", b"'shape': (4000000000000000,), }"
    )
    assert b"4000000000000000" in claim
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("header.npy", npy(np.array(json.dumps(header))))
        file.writestr("state.point.npy", claim)


def nested(path: Path) -> None:
    np.savez(path, header=np.array("[" * 100_000))


def no_mapping(path: Path) -> None:
    np.savez(path, header=np.array("[1, 2]"))


@pytest.mark.parametrize(
    "hostile",
    [compressed, names_that_climb, digests_that_climb, claims_too_much, nested, no_mapping],
)
def test_a_hostile_checkpoint_does_no_harm(hostile: Callable[[Path], None], tmp_path: Path) -> None:
    folder = tmp_path / "run" / "checkpoint"
    save_checkpoint(folder, checkpoint(1))
    save_checkpoint(folder, checkpoint(2))
    hostile(folder / "pass-000002.npz")
    found = load_checkpoint(folder, {})
    assert found is not None
    if hostile is not names_that_climb:  # whose array has an odd name and lies in memory, no more
        same(found, checkpoint(1))
    assert {path.name for path in tmp_path.rglob("*")} == {
        "run",
        "checkpoint",
        "pass-000001.npz",
        "pass-000002.npz",
    }


def test_a_checkpoint_that_lacks_what_the_solver_needs_is_refused(tmp_path: Path) -> None:
    X, y = two_class_data()
    write_store(tmp_path / "s", X, y, (100, 6))
    config = {
        "data": {"store": str(tmp_path / "s")},
        "cluster": {"kind": "serial"},
        "solver": {"name": "newton"},
        "run": {"directory": str(tmp_path / "run")},
    }
    streamlr.train(config)
    for path in (tmp_path / "run" / "checkpoint").glob("*.npz"):
        header, arrays = header_of(path)
        del arrays["state.point"]
        header["arrays"].remove("state.point")
        np.savez(path, header=np.array(json.dumps(header)), **arrays)
    before = {
        path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()
    }
    with pytest.raises(
        RunDirectoryError,
        match=r"lacks 'state\.point': another version of streamlr wrote it; .*overwrite=True",
    ):
        streamlr.train(config, resume=True)
    assert {
        path.name: path.read_bytes() for path in (tmp_path / "run").iterdir() if path.is_file()
    } == before


@pytest.mark.parametrize("version", [FORMAT_VERSION - 1, FORMAT_VERSION + 1, None, "2"])
def test_another_format_is_refused_before_anything_is_made_of_it(
    version: Any, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path, checkpoint(1))
    header, _ = header_of(tmp_path / "pass-000001.npz")
    np.savez(
        tmp_path / "pass-000001.npz",
        header=np.array(json.dumps({"format_version": version, "else": header})),
    )
    with pytest.raises(
        RunDirectoryError,
        match=f"has format version {version}, this streamlr reads {FORMAT_VERSION}",
    ):
        load_checkpoint(tmp_path, {})


def test_a_checkpoint_and_its_name_are_on_the_disk_when_it_is_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[str, str]] = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(
        os,
        "fsync",
        lambda descriptor: (
            calls.append(("fsync", os.readlink(f"/proc/self/fd/{descriptor}"))),
            fsync(descriptor),
        )[1],
    )
    monkeypatch.setattr(
        os,
        "replace",
        lambda source, target: (calls.append(("replace", str(target))), replace(source, target))[1],
    )
    save_checkpoint(tmp_path, checkpoint(1))
    assert calls == [
        ("fsync", str(tmp_path / ".pass-000001.npz.partial")),
        ("replace", str(tmp_path / "pass-000001.npz")),
        ("fsync", str(tmp_path)),
    ]
