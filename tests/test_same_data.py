"""Whether data are those of before is told by their bytes, however the first pass was asked to sum
them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from interruptions import BrokenOffError, broken_off_after
from numpy.typing import NDArray

import streamlr
from streamlr.errors import RunDirectoryError
from streamlr.events import Event, Note
from streamlr.training.train import train

Array = NDArray[Any]


def drawn(rows: int = 2200, features: int = 1100) -> tuple[Array, Array]:
    """So many features that the products of the features are summed over leaves of their own."""
    rng = np.random.default_rng(features)
    X = rng.normal(size=(rows, features))
    return X, X[:, 0] + rng.normal(size=rows)


def settings(run: Path, limit: str | None = None, **more: Any) -> dict[str, Any]:
    cluster = {"kind": "serial", "memory_limit": limit}
    return {
        "model": {"family": "linear"},
        "cluster": cluster,
        "run": {"directory": str(run)},
        **more,
    }


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("held", [False, True])
def test_least_squares_of_many_features_goes_on_with_arrays_to_the_bit(
    held: bool, weighted: bool, tmp_path: Path
) -> None:
    X, y = drawn()
    weights = np.linspace(0.5, 2.0, len(y)) if weighted else None
    out = np.arange(len(y)) % 5 == 0 if held else None
    whole = train(settings(tmp_path / "a"), X=X, y=y, validation=out, sample_weight=weights)
    config = settings(tmp_path / "b")
    with pytest.raises(BrokenOffError):
        train(
            config,
            X=X,
            y=y,
            validation=out,
            sample_weight=weights,
            subscribers=[broken_off_after(1)],
        )
    resumed = train(config, X=X, y=y, validation=out, sample_weight=weights, resume=True)
    for key in ("coefficients_sha256", "data_fingerprint", "passes"):
        assert resumed.summary[key] == whole.summary[key]


def test_other_arrays_are_still_refused(tmp_path: Path) -> None:
    X, y = drawn()
    config = settings(tmp_path / "run")
    with pytest.raises(BrokenOffError):
        train(config, X=X, y=y, subscribers=[broken_off_after(1)])
    X[1700, 3] += 1e-9
    with pytest.raises(RunDirectoryError, match="made with data of fingerprint"):
        train(config, X=X, y=y, resume=True)


def test_other_rows_held_out_are_still_refused(tmp_path: Path) -> None:
    X, y = drawn()
    config, out = settings(tmp_path / "run"), np.arange(len(y)) % 5 == 0
    with pytest.raises(BrokenOffError):
        train(config, X=X, y=y, validation=out, subscribers=[broken_off_after(1)])
    with pytest.raises(RunDirectoryError, match="other rows held out"):
        train(config, X=X, y=y, validation=np.roll(out, 1), resume=True)


@pytest.mark.parametrize("solver", ["auto", "lbfgs"])
@pytest.mark.parametrize("features", [40, 400, 1100])
def test_a_summary_knows_the_data_that_the_model_was_trained_on(
    features: int, solver: str, tmp_path: Path
) -> None:
    X, y = drawn(features=features)
    root = zarr.open_group(str(tmp_path / "s"), mode="w")
    root.create_array("X", data=X, chunks=(1500, features))
    root.create_array("y", data=y)
    config = settings(
        tmp_path / "run", data={"store": str(tmp_path / "s")}, solver={"name": solver}
    )
    streamlr.train(config)
    events: list[Event] = []
    streamlr.summary(tmp_path / "run", subscribers=[events.append])
    told = " ".join(event.text for event in events if isinstance(event, Note))
    assert "bit by bit" not in told


@pytest.fixture
def nominal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever ran in this process before."""
    monkeypatch.setattr("streamlr.planning.workforce.process_bytes", lambda: 2**27)


WIDE = {"rows for products": (900, 5000, "400MB"), "products": (3000, 3000, "420MB")}


@pytest.mark.parametrize("name", WIDE)
def test_a_run_goes_on_by_its_own_method_under_a_higher_limit(
    name: str, nominal: None, tmp_path: Path
) -> None:
    rows, features, limit = WIDE[name]
    X, y = drawn(rows, features)
    X = X.astype(np.float32)
    config = settings(tmp_path / "run", limit, solver={"max_passes": 3})
    with pytest.raises(BrokenOffError):
        train(config, X=X, y=y, subscribers=[broken_off_after(1)])
    resumed = train({**config, "cluster": {"kind": "serial"}}, X=X, y=y, resume=True)
    assert resumed.summary["solver"] == "lbfgs"


@pytest.mark.parametrize("name", WIDE)
def test_a_limit_without_room_for_the_method_of_the_run_is_told(
    name: str, nominal: None, tmp_path: Path
) -> None:
    rows, features, limit = WIDE[name]
    X, y = drawn(rows, features)
    X = X.astype(np.float32)
    config = settings(tmp_path / "run")
    with pytest.raises(BrokenOffError):
        train(config, X=X, y=y, subscribers=[broken_off_after(1)])
    config = settings(tmp_path / "run", limit)
    with pytest.raises(RunDirectoryError, match=r"by its normal equations.*no room; raise it"):
        train(config, X=X, y=y, resume=True)
