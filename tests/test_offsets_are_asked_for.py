"""A model that was fitted with an offset or an exposure does not predict without one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr
from click.testing import CliRunner
from stores import put, write_store

import streamlr
from streamlr.cli.main import cli
from streamlr.errors import ConfigError, DataError, NonFiniteError, ShapeError, for_command_line
from streamlr.model import Model

rng = np.random.default_rng(3)
X = rng.normal(size=(400, 3))
EXPOSURE = rng.uniform(0.5, 30.0, 400)
COUNTS = rng.poisson(EXPOSURE * np.exp(X @ [0.3, -0.2, 0.1]))
TARGETS = {"poisson": COUNTS, "linear": COUNTS.astype(float), "logistic": (COUNTS > 10).astype(int)}
METHODS = ("decision_function", "predict_mean", "predict", "predict_proba", "predict_log_proba")
TIGHT = 1e-13
families = pytest.mark.parametrize("family", TARGETS)


def settings(family: str, run: Path | None = None, **data: Any) -> dict[str, Any]:
    return {
        "data": data,
        "model": {"family": family, "penalty": {"l2": 0.1}},
        "cluster": {"kind": "serial"},
        "run": {"directory": None if run is None else str(run)},
    }


def fitted(family: str, **options: Any) -> Model:
    return streamlr.train(
        settings(family), X=X, y=TARGETS[family], offset=np.log(EXPOSURE), **options
    ).model


@pytest.fixture
def store(tmp_path: Path) -> str:
    write_store(tmp_path / "s", X, COUNTS, (100, 3))
    group = zarr.open_group(str(tmp_path / "s"), mode="r+")
    put(group, "years", EXPOSURE)
    put(group, "log_years", np.log(EXPOSURE))
    put(group, "none", np.zeros(400))
    return str(tmp_path / "s")


# in memory ----------------------------------------------------------------------------------------


@families
@pytest.mark.parametrize("method", METHODS)
def test_every_prediction_asks_for_the_offset(method: str, family: str) -> None:
    if family != "logistic" and method.endswith("proba"):
        pytest.skip("there are no classes")
    model = fitted(family)
    assert model.fitted_with == "offset"
    with pytest.raises(
        ConfigError,
        match=r"was fitted with an offset, and none was given; give offset=.*, or offset=0 for "
        r"none",
    ):
        getattr(model, method)(X)
    with pytest.raises(ConfigError, match="was fitted with an offset"):
        getattr(model, method)(pd.DataFrame(X))
    getattr(model, method)(X, offset=np.log(EXPOSURE))


@families
def test_the_offset_is_added_and_zero_is_none(family: str) -> None:
    model, Z = fitted(family), X @ fitted(family).coef_[0] + fitted(family).intercept_[0]
    np.testing.assert_array_equal(model.decision_function(X, offset=0), Z)
    np.testing.assert_array_equal(model.decision_function(X, offset=np.zeros(400)), Z)
    np.testing.assert_allclose(model.decision_function(X, offset=1.5), Z + 1.5, rtol=TIGHT)
    np.testing.assert_allclose(
        model.decision_function(X, np.log(EXPOSURE)), Z + np.log(EXPOSURE), rtol=TIGHT, atol=TIGHT
    )


def test_an_exposure_is_its_logarithm() -> None:
    model = fitted("poisson")
    for method in METHODS[:3]:
        ask = getattr(model, method)
        np.testing.assert_array_equal(ask(X, exposure=EXPOSURE), ask(X, offset=np.log(EXPOSURE)))
        np.testing.assert_array_equal(ask(X, exposure=1), ask(X, offset=0))
    # the score of the intercept is 0 at the optimum: counts that are expected add up to those seen
    np.testing.assert_allclose(model.predict(X, exposure=EXPOSURE).sum(), COUNTS.sum(), rtol=1e-7)
    assert model.predict(X, offset=0).mean() < COUNTS.mean() / 5


@pytest.mark.parametrize(
    ("family", "given", "error", "message"),
    [
        (
            "poisson",
            {"offset": np.zeros(3)},
            ShapeError,
            r"offset has shape \(3,\), and X has 400 rows; expected \(400,\)",
        ),
        ("poisson", {"offset": np.zeros((400, 1))}, ShapeError, r"offset has shape \(400, 1\)"),
        (
            "poisson",
            {"offset": np.append(np.zeros(399), np.nan)},
            NonFiniteError,
            "offset holds 1 values that are not finite .*row 399",
        ),
        (
            "poisson",
            {"exposure": np.append(np.ones(399), 0.0)},
            NonFiniteError,
            r"exposure holds 1 exposures that are not above 0 .*row 399",
        ),
        ("poisson", {"exposure": -1}, NonFiniteError, "not above 0"),
        (
            "poisson",
            {"exposure": 1, "offset": 0},
            ConfigError,
            "offset and exposure exclude each other",
        ),
        (
            "logistic",
            {"exposure": 1},
            ConfigError,
            "only a model of the family poisson has one, not logistic",
        ),
    ],
)
def test_what_is_no_offset_is_refused(
    family: str, given: dict[str, Any], error: Any, message: str
) -> None:
    with pytest.raises(error, match=message):
        fitted(family).predict(X, **given)


@families
def test_a_model_without_an_offset_asks_for_none(family: str) -> None:
    model = streamlr.train(settings(family), X=X, y=TARGETS[family]).model
    assert model.fitted_with is None
    np.testing.assert_array_equal(model.predict(X), model.predict(X, offset=0))
    assert model.predict_mean(X, offset=np.ones(400)).shape == (
        400,
    )  # it may be given one all the same


def test_a_path_with_an_offset_asks_too() -> None:
    model = streamlr.path(
        {**settings("poisson"), "model": {"family": "poisson"}, "path": {"count": 2}},
        X=X,
        y=COUNTS,
        offset=np.log(EXPOSURE),
    ).model
    with pytest.raises(ConfigError, match="was fitted with an offset"):
        model.predict(X)


# kept ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "array"), [("offset", "log_years"), ("exposure", "years")])
def test_a_saved_model_still_asks(key: Any, array: str, store: str, tmp_path: Path) -> None:
    result = streamlr.train(settings("poisson", tmp_path / "run", store=store, **{key: array}))
    again = streamlr.load_model(tmp_path / "run")
    assert (again.fitted_with, again.content_sha256) == (key, result.model.content_sha256)
    with pytest.raises(
        ConfigError,
        match=rf"was fitted with an {key}, and none was given; give offset= \(or exposure=",
    ):
        again.predict(X)
    np.testing.assert_array_equal(
        again.predict(X, exposure=EXPOSURE), result.model.predict(X, exposure=EXPOSURE)
    )


def test_only_models_with_an_offset_are_kept_in_a_format_that_older_versions_refuse(
    tmp_path: Path,
) -> None:
    fitted("poisson").save(tmp_path / "with.zarr")
    without = streamlr.train(settings("poisson"), X=X, y=COUNTS).model
    without.save(tmp_path / "without.zarr")
    kept = {
        name: dict(zarr.open_group(str(tmp_path / name), mode="r").attrs)
        for name in ("with.zarr", "without.zarr")
    }
    assert [kept[name]["format_version"] for name in ("with.zarr", "without.zarr")] == [3, 2]
    assert "fitted_with" not in kept["without.zarr"]
    assert streamlr.load_model(tmp_path / "without.zarr").fitted_with is None


@pytest.mark.parametrize("change", [None, "exposure", 7])
def test_a_model_whose_offset_is_tampered_with_is_refused(change: Any, tmp_path: Path) -> None:
    fitted("poisson").save(tmp_path / "model.zarr")
    zarr.open_group(str(tmp_path / "model.zarr"), mode="r+").attrs["fitted_with"] = change
    with pytest.raises(DataError, match="is not the one that was saved"):
        streamlr.load_model(tmp_path)


# stores -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "array"), [("offset", "log_years"), ("exposure", "years")])
def test_scoring_a_store_without_one_is_refused(
    key: str, array: str, store: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    model = streamlr.train(settings("poisson", run, store=store, **{key: array})).model
    calls: tuple[Any, ...] = (
        lambda overrides: streamlr.evaluate(run, store, overrides=overrides),
        lambda overrides: streamlr.predict(
            run, store, tmp_path / "out", overwrite=True, overrides=overrides
        ),
    )
    for call in calls:
        with pytest.raises(
            ConfigError,
            match=rf"was fitted with an {key}, and .* is read without one; name its array with "
            rf"overrides=\['data\.{key}=NAME'\]",
        ):
            call([f"data.{key}=null"])
    calls[1]([])
    np.testing.assert_allclose(
        np.asarray(zarr.open_array(str(tmp_path / "out"), mode="r")[:]),
        model.predict(X, exposure=EXPOSURE),
        rtol=1e-12,
    )
    calls[1]([f"data.{key}=null", "data.offset=none"])
    np.testing.assert_allclose(
        np.asarray(zarr.open_array(str(tmp_path / "out"), mode="r")[:]),
        model.predict(X, offset=0),
        rtol=1e-12,
    )


def test_a_run_whose_offset_was_in_memory_asks_for_an_array(store: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    streamlr.train(settings("poisson", run), X=X, y=COUNTS, offset=np.log(EXPOSURE))
    shown = CliRunner().invoke(cli, ["evaluate", str(run), store])
    assert isinstance(shown.exception, ConfigError)
    assert "--set data.offset=NAME" in for_command_line(shown.exception)
    assert (
        CliRunner()
        .invoke(cli, ["evaluate", str(run), store, "--set", "data.offset=log_years"])
        .exit_code
        == 0
    )
    assert (
        CliRunner()
        .invoke(cli, ["evaluate", str(run), store, "--set", "data.exposure=years"])
        .exit_code
        == 0
    )


def test_a_summary_without_the_offset_is_refused(store: str, tmp_path: Path) -> None:
    run = tmp_path / "run"
    config = settings("poisson", run, store=store, exposure="years")
    streamlr.train({**config, "model": {"family": "poisson"}})
    assert streamlr.summary(run).to_dict()
    with pytest.raises(ConfigError, match="was fitted with an exposure"):
        streamlr.summary(run, overrides=["data.exposure=null"])


def test_a_start_that_knows_an_offset_is_as_good_as_another() -> None:
    start = fitted("poisson")
    again = streamlr.train(settings("poisson"), X=X, y=COUNTS, offset=np.log(EXPOSURE), start=start)
    np.testing.assert_allclose(again.model.coef_, start.coef_, atol=1e-7)
    assert streamlr.train(settings("poisson"), X=X, y=COUNTS, start=start).model.fitted_with is None
