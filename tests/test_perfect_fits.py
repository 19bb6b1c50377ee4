"""What is inferred where nothing is left over: residuals and errors are rounding, and the model is
the optimum all the same."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from nist import DATASETS
from numpy.typing import NDArray

import streamlr
from streamlr.cli.main import cli
from streamlr.errors import DataError

Array = NDArray[Any]
PERFECT = ("Wampler1", "Wampler2")
ERRORS = ("classical", "robust", "HC1", "clustered")


def write(path: Path, **arrays: Array) -> str:
    group = zarr.open_group(str(path), mode="w")
    for name, values in arrays.items():
        group.create_array(name, data=values, chunks=(16, *values.shape[1:]))
    return str(path)


def train(
    store: str, run: Path, *, solver: str = "auto", passes: int = 100, intercept: bool = True
) -> streamlr.TrainResult:
    return streamlr.train(
        {
            "data": {"store": store},
            "model": {"family": "linear", "fit_intercept": intercept},
            "solver": {"name": solver, "max_passes": passes},
            "cluster": {"kind": "serial"},
            "run": {"directory": str(run)},
        }
    )


def columns(found: streamlr.Summary, name: str) -> Array:
    return np.array([getattr(row, name) for row in found.coefficients])


@pytest.mark.parametrize("solver", ["auto", "newton", "lbfgs", "proximal"])
@pytest.mark.parametrize("name", sorted(set(DATASETS) - {"Filip"}))
def test_the_standard_errors_that_nist_certifies(name: str, solver: str, tmp_path: Path) -> None:
    data = DATASETS[name]
    store = write(tmp_path / "s", X=data.X, y=data.y)
    train(store, tmp_path / "run", solver=solver, intercept=data.intercept)
    found = streamlr.summary(tmp_path / "run")
    np.testing.assert_allclose(columns(found, "coefficient"), data.certified, rtol=1e-8)
    # of a perfect fit they are 0 but for rounding, relative to the coefficients
    atol = 1e-8 * np.abs(data.certified) if name in PERFECT else 0.0
    assert (
        np.abs(columns(found, "standard_error") - data.errors) <= 1e-6 * data.errors + atol
    ).all()


def exact(rows: int = 40) -> tuple[Array, Array]:
    X = np.random.default_rng(1).integers(-9, 9, (rows, 3)).astype(float)
    return X, X @ [2.0, -1.0, 0.0] + 5.0


@pytest.mark.parametrize("errors", ERRORS)
@pytest.mark.parametrize("unit", [1e-9, 1.0, 1e12])
def test_a_perfect_fit_is_inferred_from_whatever_the_errors_and_the_unit(
    unit: float, errors: Any, tmp_path: Path
) -> None:
    X, y = exact()
    store = write(tmp_path / "s", X=X, y=unit * y, g=np.arange(len(y)) // 4)
    train(store, tmp_path / "run")
    groups = "g" if errors == "clustered" else None
    found = streamlr.summary(tmp_path / "run", errors=errors, groups=groups)
    np.testing.assert_allclose(
        columns(found, "coefficient"),
        unit * np.array([5.0, 2, -1, 0]),
        rtol=0,
        atol=1e-14 * unit * 5,
    )
    assert (columns(found, "standard_error") <= 1e-12 * unit).all()
    assert found.r2 == pytest.approx(1.0, abs=1e-14)


@pytest.mark.parametrize("shift", [0.0, 1e6, 1.7e9])
def test_features_and_targets_far_from_0(shift: float, tmp_path: Path) -> None:
    X, y = exact()
    store = write(tmp_path / "s", X=X + shift, y=y + shift)
    train(store, tmp_path / "run")
    found = streamlr.summary(tmp_path / "run")
    np.testing.assert_allclose(columns(found, "coefficient")[1:], [2.0, -1, 0], atol=1e-7)


def test_the_command_prints_it(tmp_path: Path) -> None:
    X, y = exact()
    train(write(tmp_path / "s", X=X, y=y), tmp_path / "run")
    done = CliRunner().invoke(cli, ["summary", str(tmp_path / "run"), "--json"])
    assert done.exit_code == 0, done.output


def test_a_model_that_is_not_the_optimum_is_refused_however_good_the_fit_could_be(
    tmp_path: Path,
) -> None:
    X, y = exact()
    train(write(tmp_path / "s", X=X, y=y), tmp_path / "run")
    other = write(tmp_path / "other", X=X, y=X @ [2.0, -1.0, 1e-6] + 5.0)
    with pytest.raises(DataError, match="not the optimum of these data"):
        streamlr.summary(tmp_path / "run", other)
