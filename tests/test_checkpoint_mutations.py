"""Whatever is changed in a checkpoint, by damage or by hand, a run goes on to the same bits, from
this one or the one before, or is refused."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from stores import two_class_data, write_store

import streamlr
from streamlr.errors import ConfigError
from streamlr.events import Event, PassFinished, PathPassFinished
from streamlr.runs.checkpoint import CheckpointWriter, load_checkpoint

MUTATIONS = 45
"""Of each run; 300 and more were tried when the digest was made."""
RUNS: dict[str, tuple[Callable[..., Any], dict[str, Any]]] = {
    "lbfgs": (streamlr.train, {"solver": {"name": "lbfgs"}, "model": {"class_weight": "balanced"}}),
    "newton": (
        streamlr.train,
        {"validation": {"fraction": 0.2}, "solver": {"name": "newton", "tolerance": 1e-11}},
    ),
    "path": (
        streamlr.path,
        {
            "path": {"lambdas": [0.1, 0.01], "alpha": 0.5, "folds": 2},
            "solver": {"tolerance": 1e-10},
        },
    ),
}
Content = tuple[dict[str, Any], dict[str, NDArray[Any]]]


def read(path: Path) -> Content:
    with np.load(path) as content:
        return json.loads(str(content["header"])), {
            name: content[name] for name in content if name != "header"
        }


def write(path: Path, content: Content) -> None:
    header, arrays = content
    np.savez(path, header=np.array(json.dumps(header)), **arrays)  # type: ignore[arg-type]


def leaves(tree: Any) -> list[tuple[Any, Any]]:
    """Every place in mappings and lists, as what holds it and the key or number there."""
    inner = (
        tree.items()
        if isinstance(tree, dict)
        else enumerate(tree)
        if isinstance(tree, list)
        else ()
    )
    return [place for key, value in inner for place in [(tree, key), *leaves(value)]]


def another(value: Any, rng: np.random.Generator) -> Any:
    """Something else that JSON holds, most often of the same kind."""
    if rng.random() < 0.2:
        return copy.deepcopy(
            [None, -1, 10**6, "x", [], {}, [0.0], True, float("nan"), 1e300][rng.integers(10)]
        )
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + type(value)(rng.integers(1, 5)) * rng.choice([-1, 1]).item()
    return str(value)[:-1] + "?" if isinstance(value, str) else value


def of_bytes(path: Path, rng: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    at, length = int(rng.integers(len(content))), int(rng.integers(1, 40))
    change = rng.integers(5)
    if change == 0:
        content[at] ^= 1 << int(rng.integers(8))
    elif change == 1:
        content[at : at + length] = bytes(length)
    elif change == 2:
        del content[at : at + length]
    elif change == 3:
        content[at:at] = rng.bytes(length)
    else:
        content[at : at + length] = content[-length:]
    path.write_bytes(bytes(content))


def of_a_value(path: Path, rng: np.random.Generator) -> None:
    header, arrays = read(path)
    places = leaves(header)
    holder, key = places[rng.integers(len(places))]
    change = rng.random()
    if change < 0.7:
        holder[key] = another(holder[key], rng)
    elif change < 0.85 and isinstance(holder, dict):
        del holder[key]
    else:
        other, name = places[rng.integers(len(places))]
        if name in other if isinstance(other, dict) else name < len(other):
            holder[key] = copy.deepcopy(other[name])
    write(path, (header, arrays))


def of_an_array(path: Path, rng: np.random.Generator) -> None:
    header, arrays = read(path)
    name, other = rng.choice(sorted(arrays), 2)
    array = arrays[name].copy()
    change = rng.integers(6)
    if change == 0 and array.size and array.dtype.kind == "f":
        array.flat[rng.integers(array.size)] *= rng.choice([1 + 1e-15, 2.0, -1.0, np.nan, np.inf])
    elif change == 1 and array.size:
        array = array.ravel()[:-1]
    elif change == 2:
        array = arrays[other]
    elif change == 3 and array.dtype.kind in "if":
        array = array.astype(rng.choice(["float32", "int64", "float64", "complex128"]))
    elif change == 4:
        array = array[..., None] if rng.random() < 0.5 else array.T[::-1]
    else:
        del arrays[name]
        if rng.random() < 0.5 and name in header["arrays"]:
            header["arrays"].remove(name)
    if name in arrays:
        arrays[name] = array
    write(path, (header, arrays))


@pytest.fixture(scope="module")
def interrupted(
    tmp_path_factory: pytest.TempPathFactory,
) -> Callable[[str], tuple[Path, dict[str, Any], str]]:
    """A run that was stopped after its third pass, and what comes of it when it goes on."""
    folder = tmp_path_factory.mktemp("runs")
    write_store(folder / "s", *two_class_data(2000, 8), (100, 8))
    made: dict[str, tuple[Path, dict[str, Any], str]] = {}

    def stop(event: Event) -> None:
        if isinstance(event, PassFinished | PathPassFinished) and event.number == 3:
            raise KeyboardInterrupt

    def make(kind: str) -> tuple[Path, dict[str, Any], str]:
        if kind not in made:
            run, settings = RUNS[kind]
            config = {
                "data": {"store": str(folder / "s")},
                "cluster": {"kind": "serial"},
                **settings,
            }
            with pytest.raises(KeyboardInterrupt):
                run({**config, "run": {"directory": str(folder / kind)}}, subscribers=[stop])
            made[kind] = folder / kind, config, run(config).model.coefficients_sha256
        return made[kind]

    return make


@pytest.mark.parametrize("mutate", [of_bytes, of_a_value, of_an_array])
@pytest.mark.parametrize("kind", RUNS)
def test_a_changed_checkpoint_leads_to_the_same_bits_or_is_refused(
    kind: str,
    mutate: Callable[[Path, np.random.Generator], None],
    tmp_path: Path,
    interrupted: Callable[[str], tuple[Path, dict[str, Any], str]],
) -> None:
    folder, config, sha256 = interrupted(kind)
    assert len(list((folder / "checkpoint").glob("pass-*.npz"))) == 2
    for seed in range(MUTATIONS // 3):
        rng = np.random.default_rng([seed, len(kind)])
        run = tmp_path / f"{seed}"
        shutil.copytree(folder, run)
        newest = max((run / "checkpoint").glob("pass-*.npz"))
        mutate(newest, rng)
        found, refusal = resumed(kind, {**config, "run": {"directory": str(run)}})
        if found is None:
            assert "overwrite=True" in refusal
        else:
            assert found.model.coefficients_sha256 == sha256, f"seed {seed}"
            assert [line["pass"] for line in found.history] == list(range(1, found.passes + 1))
        shutil.rmtree(run)


def resumed(kind: str, config: dict[str, Any]) -> tuple[Any, str]:
    """What comes of a run that goes on, or why it is refused."""
    try:
        return RUNS[kind][0](config, resume=True), ""
    except ConfigError as error:
        return None, str(error)


def test_a_checkpoint_of_a_version_without_digests_is_gone_on_with(
    tmp_path: Path, interrupted: Callable[[str], tuple[Path, dict[str, Any], str]]
) -> None:
    folder, config, sha256 = interrupted("lbfgs")
    shutil.copytree(folder, tmp_path / "run")
    for path in (tmp_path / "run" / "checkpoint").glob("pass-*.npz"):
        header, arrays = read(path)
        write(
            path,
            ({key: value for key, value in header.items() if not key.startswith("digest")}, arrays),
        )
    assert load_checkpoint(tmp_path / "run" / "checkpoint", {}) is not None
    found = streamlr.train({**config, "run": {"directory": str(tmp_path / "run")}}, resume=True)
    assert found.model.coefficients_sha256 == sha256


def test_what_is_saved_is_what_is_read(
    tmp_path: Path, interrupted: Callable[[str], tuple[Path, dict[str, Any], str]]
) -> None:
    for kind in RUNS:
        saved = load_checkpoint(interrupted(kind)[0] / "checkpoint", {})
        assert saved is not None
        CheckpointWriter(tmp_path / kind).save(saved)
        again = load_checkpoint(tmp_path / kind, {})
        assert again is not None
        assert json.dumps([again.passes, again.fingerprint, again.values]) == json.dumps(
            [saved.passes, saved.fingerprint, saved.values]
        )
        assert {name: array.tobytes() for name, array in again.arrays.items()} == {
            name: array.tobytes() for name, array in saved.arrays.items()
        }
