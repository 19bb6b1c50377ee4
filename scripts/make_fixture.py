#!/usr/bin/env python3
"""What a version of streamlr leaves on disk, kept so that every later one is held to it.

    scripts/make_fixture.py                        writes tests/fixtures/version-VERSION.zip
    scripts/make_fixture.py --revision REVISION    the same, by the code of another commit
    scripts/make_fixture.py --to FILE              writes it elsewhere

The archive holds stores, finished runs, runs that were killed, and ``expected.json``: how each was
made and what this version made of it, in full digits. Each version adds its own before it is
released; what is there is never made again, for it is what users have.
`tests/test_earlier_versions.py` reads all of them. Everything is made from within one folder, so
that no place of this machine stands in it.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import zarr

TOP = Path(__file__).resolve().parent.parent
FIXTURES = TOP / "tests" / "fixtures"
ROWS, FEATURES, CHUNK = 400, 5, 64
MOST_BYTES = 400_000
NAMES = ("age", "dose", "größe", "x3", "x4")
WORDS = np.array(["blue", "green", "red"])
TIGHT = {"tolerance": 1e-11}
"""Of all runs: two solves that converge by it have the same coefficients to as many digits."""

RUNS: dict[str, dict[str, Any]] = {
    "logistic": {"data": {"store": "zarr3.zarr", "target": "label", "weights": "weights"}},
    "text": {"data": {"store": "table.zarr"}, "model": {"class_weight": "balanced"}},
    "softmax": {"data": {"store": "zarr2.zarr", "target": "kind"}, "model": {"family": "softmax"}},
    "linear": {
        "data": {
            "store": "zarr2.zarr",
            "target": "number",
            "weights": "weights",
            "offset": "offset",
        },
        "model": {"family": "linear"},
    },
    "poisson": {
        "data": {"store": "zarr3.zarr", "target": "count", "exposure": "exposure"},
        "model": {"family": "poisson"},
    },
    "counts": {
        "data": {"store": "zarr2.zarr", "target": "count", "offset": "offset", "groups": "groups"},
        "model": {"family": "poisson"},
    },
    "synth": {"data": {"store": "synth.zarr"}, "solver": {"name": "newton"}},
    "sharded": {"data": {"store": "sharded.zarr", "target": "label", "sample_axis": 1}},
    "elastic": {
        "data": {"store": "zarr3.zarr", "target": "kind"},
        "model": {"family": "softmax", "standardize": True, "penalty": {"l1": 0.02, "l2": 0.01}},
    },
    "bounded": {
        "data": {"store": "zarr2.zarr", "target": "label"},
        "model": {
            "bounds": {"lower": {"dose": 0.0}},
            "penalty": {"l2": 0.1, "factors": {"age": 0.0}},
        },
    },
    "validated": {
        "data": {"store": "zarr3.zarr", "target": "label", "groups": "groups"},
        "validation": {"fraction": 0.25},
    },
    "path": {
        "data": {"store": "zarr3.zarr", "target": "label"},
        "path": {"count": 4, "ratio": 0.01, "folds": 3, "alpha": 0.5},
    },
}
"""Runs that finish, by name; one with a section ``path`` is of the command of that name."""

KILLED: dict[str, dict[str, Any]] = {
    "killed-lbfgs": {
        "data": {"store": "zarr3.zarr", "target": "label", "weights": "weights"},
        "solver": {"name": "lbfgs"},
    },
    "killed-newton": {
        "data": {"store": "zarr2.zarr", "target": "count", "offset": "offset"},
        "model": {"family": "poisson"},
        "solver": {"name": "newton"},
    },
    "killed-proximal": {
        "data": {"store": "zarr2.zarr", "target": "kind"},
        "model": {"family": "softmax", "penalty": {"l1": 0.01, "l2": 0.01}},
    },
    "killed-path": {
        "data": {"store": "zarr3.zarr", "target": "label"},
        "path": {"count": 3, "ratio": 0.05, "folds": 2, "alpha": 0.5},
    },
}
"""Runs of which a process is killed when it tells of pass 2."""


def features() -> np.ndarray:
    """X, (m, n), of a few digits, so that it packs well."""
    rng = np.random.default_rng(12)
    scale = np.array([10.0, 1.0, 1.0, 3.0, 0.5])
    return np.round(rng.normal(size=(ROWS, FEATURES)) * scale, 1).astype(np.float32)


def columns(X: np.ndarray) -> dict[str, np.ndarray]:
    """A target of each family, and all that may stand beside one, (m,) each."""
    rng = np.random.default_rng(13)
    Z = X @ np.array([0.05, -0.6, 0.4, 0.2, 0.0])
    three = np.stack([Z, -Z, 0.3 * X[:, 1] ** 2], axis=1) + rng.gumbel(size=(ROWS, 3))
    offset = np.round(rng.normal(size=ROWS) * 0.3, 2)
    exposure = rng.integers(1, 9, size=ROWS) / 4.0
    return {
        "label": (Z + rng.logistic(size=ROWS) > 0).astype(np.int8),
        "kind": WORDS[three.argmax(axis=1)],
        "number": np.round(Z + offset + rng.normal(size=ROWS), 2),
        "count": rng.poisson(exposure * np.exp(0.5 * Z)).astype(np.int32),
        "weights": rng.integers(1, 5, size=ROWS) / 2.0,
        "offset": offset,
        "exposure": exposure,
        "groups": rng.integers(0, 40, size=ROWS),
    }


def write_stores() -> None:
    """Stores of Zarr 2 and 3 as others write them, and those of ``synth`` and ``ingest``."""
    X = features()
    beside = columns(X)
    for zarr_format in (2, 3):
        group = zarr.open_group(f"zarr{zarr_format}.zarr", mode="w", zarr_format=zarr_format)
        group.create_array("X", data=X, chunks=(CHUNK, 3 if zarr_format == 2 else FEATURES))
        group.attrs["feature_names"] = list(NAMES)
        for name, values in beside.items():
            text = values.dtype.kind == "U" and zarr_format == 3
            array = group.create_array(
                name, shape=values.shape, chunks=(CHUNK,), dtype=str if text else values.dtype
            )
            array[...] = values.astype(object) if text else values
    group = zarr.open_group("sharded.zarr", mode="w")
    group.create_array(
        "X", data=np.ascontiguousarray(X.T), chunks=(FEATURES, CHUNK), shards=(FEATURES, 2 * CHUNK)
    )
    group.create_array("label", data=beside["label"], chunks=(CHUNK,))
    command("synth", "synth.zarr", "--rows", str(ROWS), "--features", str(FEATURES))
    rows = zip(X[:, 0], X[:, 1], np.where(beside["label"] == 1, "yes", "no"), strict=True)
    lines = ["age,dose,answer", *(f"{age:.1f},{dose:.1f},{answer}" for age, dose, answer in rows)]
    Path("table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    command("ingest", "table.csv", "table.zarr", "--target", "answer")
    Path("table.csv").unlink()


def command(*arguments: str) -> None:
    """What the command line does with these arguments."""
    program = "from streamlr.cli.main import main; main()"
    subprocess.run([sys.executable, "-c", program, *arguments], check=True, capture_output=True)


def settings(name: str, sections: dict[str, Any]) -> dict[str, Any]:
    """The whole configuration of a run."""
    solver = {**TIGHT, **sections.get("solver", {})}
    return {"cluster": {"kind": "serial"}, "run": {"directory": name}, **sections, "solver": solver}


def fit(tree: dict[str, Any], kill_at: int | None = None) -> Any:
    """Fit what a configuration says; at the pass given, this process is killed."""
    import streamlr

    def see(event: object) -> None:
        if type(event).__name__ in ("PassFinished", "PathPassFinished"):
            number: Any = event
            if number.number == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    return (streamlr.path if "path" in tree else streamlr.train)(tree, subscribers=[see])


def numbers(result: Any) -> dict[str, Any]:
    """What was fitted, in full digits."""
    model = result.model
    names = model.feature_names
    return {
        "coef": model.coef_.tolist(),
        "intercept": model.intercept_.tolist(),
        "classes": model.classes_.tolist(),
        "feature_names": None if names is None else list(names),
    }


def finished(name: str, sections: dict[str, Any]) -> dict[str, Any]:
    """Make a run that ends, and tell all that there is to know of it."""
    import streamlr

    tree = settings(name, sections)
    result = fit(tree)
    assert result.status == "converged", (name, result.status)
    store = tree["data"]["store"]
    with tempfile.TemporaryDirectory() as folder:
        streamlr.predict(name, store, f"{folder}/predictions.zarr")
        predicted = np.asarray(zarr.open_array(f"{folder}/predictions.zarr", mode="r")[...])
    found = {
        "config": tree,
        **numbers(result),
        "predictions": predicted.tolist(),
        "metrics": streamlr.evaluate(name, store),
    }
    if "validation" in tree:
        found["validation_metrics"] = streamlr.evaluate(name, store, validation=True)
    try:
        found["summary"] = streamlr.summary(name).to_dict()
    except streamlr.errors.ConfigError as error:  # a penalty has no standard errors
        found["no_summary"] = str(error)
    return found


def killed(name: str, sections: dict[str, Any]) -> dict[str, Any]:
    """Make a run that is killed, and tell what it would have come to."""
    tree = settings(name, sections)
    program = [sys.executable, str(Path(__file__).resolve()), "--die-in", name]
    done = subprocess.run(program, capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, (name, done.returncode, done.stderr)
    assert list(Path(name, "checkpoint").glob("pass-*.npz")), name
    whole = fit({**tree, "run": {"directory": None}})
    assert whole.status == "converged", (name, whole.status)
    return {"config": tree, **numbers(whole)}


def commit_of(tree: Path) -> str:
    """The commit that a source tree is at; nothing where it is no working copy."""
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=tree,
        check=False,
        capture_output=True,
        text=True,
    )
    return done.stdout.strip()


def make(to: Path, tree: Path) -> Path:
    """Write the archive of the streamlr that is imported, whose source lies in ``tree``."""
    import streamlr

    target = to if to.suffix == ".zip" else to / f"version-{streamlr.__version__}.zip"
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_stores()
        expected = {
            "version": streamlr.__version__,
            "commit": commit_of(tree),
            "runs": {name: finished(name, sections) for name, sections in RUNS.items()},
            "killed": {name: killed(name, sections) for name, sections in KILLED.items()},
        }
        Path("expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")
        refuse_places(Path(), (folder, str(TOP), str(tree), str(Path.home())))
        pack(Path(), target)
        os.chdir(TOP)
    size = target.stat().st_size
    assert size <= MOST_BYTES, f"{target} has {size:,} bytes; it is to have {MOST_BYTES:,} at most"
    return target


def refuse_places(folder: Path, places: tuple[str, ...]) -> None:
    """Raise where a file tells where on this machine it was made."""
    for path in folder.rglob("*"):
        if path.is_file():
            reported = [place for place in places if place.encode() in path.read_bytes()]
            assert not reported, f"{path} holds {reported}"


def pack(folder: Path, target: Path) -> None:
    """All files of a folder, with one date, so that the same content makes the same archive."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                entry = zipfile.ZipInfo(path.as_posix())
                entry.compress_type = zipfile.ZIP_DEFLATED
                archive.writestr(entry, path.read_bytes(), compresslevel=9)


def make_by(revision: str, to: Path) -> None:
    """The same by the code of another commit."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(
            ["git", "worktree", "add", "--quiet", "--detach", str(tree), revision],
            cwd=TOP,
            check=True,
        )
        try:
            environment = {**os.environ, "PYTHONPATH": str(tree)}
            script = [sys.executable, str(Path(__file__).resolve())]
            subprocess.run(
                [*script, "--tree", str(tree), "--to", str(to)], env=environment, check=True
            )
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=TOP, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--revision", help="the commit whose code makes it")
    parser.add_argument("--to", type=Path, default=FIXTURES, help="a folder, or a name in .zip")
    parser.add_argument("--tree", type=Path, default=TOP, help=argparse.SUPPRESS)
    parser.add_argument("--die-in", choices=KILLED, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.die_in is not None:
        fit(settings(asked.die_in, KILLED[asked.die_in]), kill_at=2)
        return
    to = asked.to.resolve()
    if asked.revision is not None:
        make_by(asked.revision, to)
        return
    target = make(to, asked.tree)
    print(f"{target}: {target.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
