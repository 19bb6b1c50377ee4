#!/usr/bin/env python3
"""The bits of what streamlr computes, as digests: one for each solver, family, engine, layout, path
and resumed run.

    scripts/golden.py                       prints them scripts/golden.py --write
    stores them for the suite (tests/contract/golden.json) scripts/golden.py --against REVISION
    prints them beside those of another commit, both made on this machine

Bits depend on the processor: NumPy's loops and OpenBLAS's kernels differ between instruction sets.
So digests of different machines say nothing of each other, and the stored ones come with a digest
of the arithmetic that they were made with.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import zarr

TOP = Path(__file__).resolve().parent.parent
STORED = TOP / "tests" / "contract" / "golden.json"
ROWS, FEATURES, CHUNK = 3000, 6, 256
FAMILIES = ("logistic", "softmax", "linear", "poisson")
SOLVERS = ("auto", "lbfgs", "newton", "proximal", "gradient_descent")
ENGINES: dict[str, dict[str, Any]] = {
    "serial": {"kind": "serial"},
    "threads": {"kind": "threads", "workers": 3},
    "processes": {"kind": "processes", "workers": 2},
}
LAYOUTS: dict[str, dict[str, Any]] = {
    "zarr 3": {},
    "zarr 2": {"zarr_format": 2},
    "sharded": {"shards": (2 * CHUNK, FEATURES), "chunks": (CHUNK, FEATURES)},
    "sample_axis 1": {"sample_axis": 1},
    "chunked features": {"chunks": (CHUNK, 4)},
}


def arithmetic() -> str:
    """Digest of this machine's exp, log1p and matrix product on fixed inputs, and NumPy's
    version."""
    x = np.linspace(-30.0, 30.0, 4096)
    product = np.outer(np.sin(x[:64]), np.cos(x)) @ np.outer(np.cos(x), np.sin(x[:64]))
    parts = (
        np.exp(x),
        np.log1p(np.exp(-np.abs(x))),
        product,
        product.astype(np.float32) @ product.astype(np.float32),
    )
    digest = hashlib.sha256(np.__version__.encode())
    for part in parts:
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:16]


def features() -> np.ndarray:
    """X, (m, n), with units that differ and two features that go together."""
    rng = np.random.default_rng(7)
    X = rng.normal(size=(ROWS, FEATURES)) * np.array([1.0, 10.0, 0.1, 3.0, 1.0, 2.0])
    X[:, 5] += 0.9 * X[:, 0]
    return (X + np.array([0.0, 5.0, 0.0, 0.0, -2.0, 0.0])).astype(np.float32)


def targets(X: np.ndarray) -> dict[str, np.ndarray]:
    """A target for each family, (m,)."""
    rng = np.random.default_rng(8)
    Z = (X - X.mean(axis=0)) / X.std(axis=0) @ np.array([1.0, -0.5, 0.3, 0.0, 0.7, 0.2])
    three = np.stack([Z, -Z, 0.5 * Z**2], axis=1) + rng.gumbel(size=(ROWS, 3))
    return {
        "logistic": (Z + rng.logistic(size=ROWS) > 0).astype(np.int8),
        "softmax": three.argmax(axis=1).astype(np.int8),
        "linear": Z + rng.normal(size=ROWS),
        "poisson": rng.poisson(np.exp(0.4 * Z)).astype(np.int32),
    }


def write_stores(folder: Path) -> None:
    """A store of all targets in each layout."""
    X = features()
    beside = targets(X)
    for name, layout in LAYOUTS.items():
        options = {"chunks": (CHUNK, FEATURES), **layout}
        turned = slice(None, None, -1) if options.pop("sample_axis", 0) else slice(None)
        group = zarr.open_group(
            str(folder / name), mode="w", zarr_format=options.pop("zarr_format", 3)
        )
        options = {key: tuple(value)[turned] for key, value in options.items()}
        group.create_array(
            "X", data=X if turned == slice(None) else np.ascontiguousarray(X.T), **options
        )
        for target, values in beside.items():
            group.create_array(target, data=values, chunks=(CHUNK,))
        group.create_array("weights", data=1.0 + (np.arange(ROWS) % 3), chunks=(CHUNK,))


def settings(folder: Path, family: str, layout: str = "zarr 3", **sections: Any) -> dict[str, Any]:
    """The configuration of a run; sections are added to what every run has."""
    data = {
        "store": str(folder / layout),
        "target": family,
        "sample_axis": LAYOUTS[layout].get("sample_axis", 0),
    }
    model = {"family": family, "penalty": {"l2": 0.01}}
    tree: dict[str, Any] = {"data": data, "model": model, "cluster": {"kind": "serial"}}
    for name, section in sections.items():
        tree[name] = {**tree.get(name, {}), **section}
    return tree


def scenarios(folder: Path) -> Iterator[tuple[str, Callable[[], str]]]:
    """Names and what computes their digests."""
    from streamlr import train

    def fit(tree: dict[str, Any], **options: Any) -> str:
        return train(tree, **options).model.coefficients_sha256

    for family in FAMILIES:
        for solver in SOLVERS:
            passes = (
                {"max_passes": 5, "learning_rate": 1e-3} if solver == "gradient_descent" else {}
            )
            wanted = {"name": solver, **passes}
            for engine, cluster in ENGINES.items():
                tree = settings(folder, family, solver=wanted, cluster=cluster)
                yield f"{family} / {solver} / {engine}", partial(fit, tree)
        for name, sections in {
            "l1": {"model": {"penalty": {"l1": 0.01, "l2": 0.001}}},
            "bounds": {"model": {"bounds": {"lower": -0.01, "upper": 0.2}}},
            "weights": {"data": {"weights": "weights"}},
            "standardize": {"model": {"standardize": True, "penalty": {"l2": 0.1}}},
            "validation": {"validation": {"fraction": 0.2}},
        }.items():
            yield f"{family} / {name}", partial(fit, settings(folder, family, **sections))
        yield f"{family} / path", partial(path_digest, settings(folder, family))
        yield f"{family} / resumed", partial(resumed_digest, folder, family)
        yield f"{family} / scores", partial(scores_digest, folder, family)
    for layout in LAYOUTS:
        yield f"layout {layout}", partial(fit, settings(folder, "logistic", layout))
    resident = settings(
        folder, "logistic", cluster={"kind": "threads", "workers": 2, "memory_limit": "2GB"}
    )
    yield "resident rows", lambda: fit(resident)
    X = features()
    in_memory = {"model": {"penalty": {"l2": 0.01}}, "cluster": {"kind": "serial"}}
    yield "arrays in memory", lambda: fit(in_memory, X=X, y=targets(X)["logistic"])


def path_digest(tree: dict[str, Any]) -> str:
    """Digest of the model that a path with folds keeps."""
    from streamlr import path

    tree = {
        **tree,
        "model": {**tree["model"], "penalty": {}},
        "path": {"count": 4, "folds": 3, "alpha": 0.5},
    }
    return path(tree).model.coefficients_sha256


def resumed_digest(folder: Path, family: str) -> str:
    """Digest of a run that was stopped after its second pass and resumed."""
    from streamlr import train
    from streamlr.events import PassFinished

    def stop(event: object) -> None:
        if isinstance(event, PassFinished) and event.number == 2:
            raise KeyboardInterrupt

    with tempfile.TemporaryDirectory() as run:
        tree = settings(folder, family, run={"directory": f"{run}/run"})
        try:
            result = train(tree, subscribers=[stop])
        except KeyboardInterrupt:
            result = train(tree, resume=True)
    return result.model.coefficients_sha256


def scores_digest(folder: Path, family: str) -> str:
    """Digest of what is derived from a run: standard errors, metrics and predictions."""
    from streamlr import evaluate, predict, summary, train

    with tempfile.TemporaryDirectory() as kept:
        run, store = f"{kept}/run", str(folder / "zarr 3")
        tree = settings(folder, family, run={"directory": run})
        train({**tree, "model": {"family": family}})
        predict(run, store, f"{kept}/predictions.zarr")
        predicted = zarr.open_array(f"{kept}/predictions.zarr", mode="r")
        parts = (np.asarray(predicted[...]), summary(run, store).covariance)
        digest = hashlib.sha256(
            json.dumps(evaluate(run, store), sort_keys=True, default=str).encode()
        )
    for part in parts:
        digest.update(str(part.tolist()).encode())
    return digest.hexdigest()


def digests(only: str = "") -> dict[str, str]:
    """Name and digest of every scenario whose name holds ``only``; an error stands in the place of
    a digest."""
    found: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_stores(Path(folder))
        for name, compute in scenarios(Path(folder)):
            if only in name:
                try:
                    found[name] = compute()
                except Exception as error:  # a commit that cannot do it is part of the answer
                    found[name] = f"{type(error).__name__}: {error}"
    return found


def digests_of(revision: str, only: str) -> dict[str, str]:
    """The same, computed by the code of another commit."""
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(
            ["git", "worktree", "add", "--quiet", "--detach", str(tree), revision],
            cwd=TOP,
            check=True,
        )
        try:
            environment = {**os.environ, "PYTHONPATH": str(tree)}
            command = [sys.executable, str(Path(__file__).resolve()), "--json", "--only", only]
            done = subprocess.run(
                command, cwd=tree, env=environment, capture_output=True, text=True, check=True
            )
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(tree)], cwd=TOP, check=True)
    return dict(json.loads(done.stdout))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--against",
        metavar="REVISION",
        help="print them beside those of this commit; exit status 1 where some differ",
    )
    parser.add_argument("--only", default="", help="scenarios whose names hold this text alone")
    parser.add_argument("--write", action="store_true", help="store them for the suite")
    parser.add_argument("--json", action="store_true", help="print them as JSON")
    asked = parser.parse_args()
    here = digests(asked.only)
    if asked.write:
        STORED.write_text(
            json.dumps({"arithmetic": arithmetic(), "digests": here}, indent=1) + "\n",
            encoding="utf-8",
        )
    if asked.json:
        print(json.dumps(here))
        return 0
    there = digests_of(asked.against, asked.only) if asked.against else {}
    for name, digest in here.items():
        beside = (
            f"  {there.get(name, '-')[:16]:16}  {'same' if there.get(name) == digest else 'OTHER'}"
            if asked.against
            else ""
        )
        print(f"{name:44}{digest[:16]}{beside}")
    return (
        int(any(there.get(name) != digest for name, digest in here.items())) if asked.against else 0
    )


if __name__ == "__main__":
    sys.exit(main())
