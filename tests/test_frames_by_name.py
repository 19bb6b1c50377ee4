"""Columns of frames are found by their names, where a model is fitted and where it predicts."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from numpy.typing import NDArray
from stores import put

import streamlr
from streamlr.data.frames import column_names
from streamlr.errors import ShapeError

NAMES = ("age", "dose", "weight")
ORDER = [2, 0, 1]
rng = np.random.default_rng(0)
X = rng.normal(size=(200, 3)) * [1.0, 5.0, 0.2] + [0.0, 1.0, 0.0]
Y = (X @ [1.0, -0.3, 4.0] + rng.logistic(size=200) > 0).astype(int)
TIGHT = 1e-14
"""Sums of three terms of order 1, in another order where a frame is stored by columns."""
OTHER_BITS = 1e-6
"""Of two solves that end at a gradient of 1e-8 where the curvature is 0.02 and more."""
SERIAL = {"cluster": {"kind": "serial"}}


def same(found: Any, expected: Any) -> None:
    np.testing.assert_allclose(found, expected, rtol=TIGHT, atol=TIGHT)


def polars(values: NDArray[Any], names: Any) -> Any:
    return pytest.importorskip("polars").DataFrame(values, schema=[str(name) for name in names])


def xarray(values: NDArray[Any], names: Any) -> Any:
    return pytest.importorskip("xarray").DataArray(
        values, dims=("row", "feature"), coords={"feature": list(names)}
    )


FRAMES: dict[str, Callable[[NDArray[Any], Any], Any]] = {
    "pandas": lambda values, names: pd.DataFrame(values, columns=list(names)),
    "pyarrow table": lambda values, names: pa.table(
        dict(zip(map(str, names), values.T, strict=True))
    ),
    "pyarrow batch": lambda values, names: pa.record_batch(
        dict(zip(map(str, names), map(pa.array, values.T), strict=True))
    ),
    "polars": polars,
    "xarray": xarray,
}
frames = pytest.mark.parametrize("frame", FRAMES.values(), ids=list(FRAMES))


def fitted(family: str = "logistic", **options: Any) -> streamlr.Model:
    target = Y if family != "softmax" else Y + (X[:, 1] > 3)
    return streamlr.train(
        {**SERIAL, "model": {"family": family}},
        X=pd.DataFrame(X, columns=list(NAMES)),
        y=target,
        **options,
    ).model


@frames
def test_a_frame_names_the_features_that_it_is_fitted_to(frame: Any) -> None:
    named = frame(X, NAMES)
    result = streamlr.train(SERIAL, X=named, y=Y)
    assert result.model.feature_names == NAMES
    np.testing.assert_allclose(
        result.model.coef_, streamlr.train(SERIAL, X=X, y=Y).model.coef_, rtol=OTHER_BITS
    )
    assert (
        streamlr.path({**SERIAL, "path": {"count": 2}}, X=named, y=Y).model.feature_names == NAMES
    )
    by_name = streamlr.train(
        {**SERIAL, "model": {"penalty": {"l2": 1.0, "factors": {"dose": 0}}}}, X=named, y=Y
    )
    by_number = streamlr.train(
        {**SERIAL, "model": {"penalty": {"l2": 1.0, "factors": [1, 0, 1]}}}, X=X, y=Y
    )
    np.testing.assert_allclose(by_name.model.coef_, by_number.model.coef_, rtol=OTHER_BITS)


@frames
@pytest.mark.parametrize("family", ["logistic", "softmax", "linear", "poisson"])
def test_columns_in_another_order_predict_the_same(family: str, frame: Any) -> None:
    model = fitted(family)
    asked = [
        "decision_function",
        "predict_mean",
        "predict",
        *(["predict_proba", "predict_log_proba"] if len(model.classes_) else []),
    ]
    for method in asked:
        ask = getattr(model, method)
        np.testing.assert_allclose(
            ask(frame(X[:, ORDER], np.array(NAMES)[ORDER])),
            ask(X),
            rtol=TIGHT,
            atol=TIGHT,
            err_msg=method,
        )


@frames
def test_columns_beside_those_of_the_model_are_left_out_and_told(
    frame: Any, caplog: pytest.LogCaptureFixture
) -> None:
    model = fitted()
    wide = frame(
        np.column_stack([np.full(200, np.nan), X[:, ORDER], Y]),
        ["id", *np.array(NAMES)[ORDER], "ill"],
    )
    with caplog.at_level(logging.WARNING):
        same(model.predict_proba(wide), model.predict_proba(X))
    assert "2 columns that the model does not know ('id', 'ill'): they are left out" in caplog.text


def test_what_is_left_out_need_not_be_numbers() -> None:
    table = pd.DataFrame(X, columns=list(NAMES)).assign(
        name="somebody", when=pd.Timestamp("2020-01-01")
    )
    np.testing.assert_array_equal(fitted().predict(table), fitted().predict(X))


@frames
@pytest.mark.parametrize(
    "method", ["decision_function", "predict_mean", "predict", "predict_proba", "predict_log_proba"]
)
def test_columns_that_are_missing_are_named(method: str, frame: Any) -> None:
    for names, told in (
        (
            ("age", "Dose", "weight"),
            "lacks 1 of the 3 features of the model: 'dose'; it has 3, nearest 'Dose' to 'dose'",
        ),
        (range(3), "lacks 3 of the 3 features of the model: 'age', 'dose', 'weight'; it has 3"),
    ):
        with pytest.raises(ShapeError, match=told):
            getattr(fitted(), method)(frame(X, names))


def test_labels_that_are_no_text_become_text() -> None:
    table = pd.DataFrame(X)
    model = streamlr.train(SERIAL, X=table, y=Y).model
    assert model.feature_names == ("0", "1", "2")
    for turned in (table[[2, 0, 1]], table[[2, 0, 1]].rename(columns=str)):
        same(model.predict_proba(turned), model.predict_proba(X))
    dates = pd.DataFrame(X, columns=pd.date_range("2020-01-01", periods=3))
    assert column_names(dates) == (
        "2020-01-01 00:00:00",
        "2020-01-02 00:00:00",
        "2020-01-03 00:00:00",
    )
    levels = pd.DataFrame(X, columns=pd.MultiIndex.from_tuples([("a", 1), ("a", 2), ("b", 1)]))
    model = streamlr.train(SERIAL, X=levels, y=Y).model
    same(model.predict_proba(levels[[("b", 1), ("a", 1), ("a", 2)]]), model.predict_proba(X))
    truths = pd.DataFrame(X[:, :2], columns=[True, False])
    model = streamlr.train(SERIAL, X=truths, y=Y).model
    same(model.predict_proba(truths.iloc[:, [1, 0]]), model.predict_proba(X[:, :2]))
    assert column_names(pd.DataFrame(X, columns=pd.Categorical(["x", "z", "y"]))) == ("x", "z", "y")


def test_an_array_goes_by_position_and_a_model_without_names_too() -> None:
    model, bare = fitted(), streamlr.train(SERIAL, X=X, y=Y).model
    assert bare.feature_names is None
    same(model.predict_proba(X), bare.predict_proba(pd.DataFrame(X, columns=list("xyz"))))
    same(model.predict_proba(X.tolist()), bare.predict_proba(X))
    for of in (model, bare):
        with pytest.raises(ShapeError, match="fitted to 3 features"):
            of.predict_proba(X[:, :2])
    with pytest.raises(ShapeError, match="fitted to 3 features"):
        bare.predict_proba(pd.DataFrame(X[:, :2]))


def test_labels_that_are_not_unique_serve_by_position_alone() -> None:
    table = pd.DataFrame(X, columns=["a", "b", "a"])
    model = streamlr.train(SERIAL, X=table, y=Y).model
    same(model.predict_proba(table), model.predict_proba(X))
    with pytest.raises(ShapeError, match="'a' is the name of 2 features of the model"):
        model.predict_proba(table.iloc[:, [2, 1, 0]].set_axis(["a", "a", "b"], axis=1))
    with pytest.raises(ShapeError, match="'age' is the name of 2 features of X"):
        fitted().predict_proba(pd.DataFrame(X[:, [0, 0, 1, 2]], columns=["age", *NAMES]))


def test_a_frame_and_a_store_are_matched_to_one_another(tmp_path: Path) -> None:
    import zarr

    group = zarr.open_group(str(tmp_path / "s"), mode="w")
    for name, values in (("X", X[:, ORDER]), ("y", Y), ("feature_names", np.array(NAMES)[ORDER])):
        put(group, name, values)
    settings = {**SERIAL, "run": {"directory": str(tmp_path / "run")}}
    streamlr.train(settings, X=pd.DataFrame(X, columns=list(NAMES)), y=Y)
    streamlr.predict(tmp_path / "run", str(tmp_path / "s"), tmp_path / "out")
    expected = streamlr.load_model(tmp_path / "run").predict_proba(X)[:, 1]
    np.testing.assert_allclose(
        np.asarray(zarr.open_array(str(tmp_path / "out"), mode="r")[:]), expected, rtol=1e-13
    )
    of_store = streamlr.train({**SERIAL, "data": {"store": str(tmp_path / "s")}}).model
    np.testing.assert_allclose(
        of_store.predict_proba(pd.DataFrame(X, columns=list(NAMES))),
        streamlr.load_model(tmp_path / "run").predict_proba(X),
        rtol=1e-6,
    )


def test_a_start_is_put_into_the_order_of_the_frame() -> None:
    start = fitted()
    turned = pd.DataFrame(X[:, ORDER], columns=np.array(NAMES)[ORDER])
    again = streamlr.train(
        {**SERIAL, "solver": {"name": "lbfgs", "tolerance": 1e-6}}, X=turned, y=Y, start=start
    )
    assert again.passes == 2  # the survey, and the look at a start that is the optimum
    np.testing.assert_allclose(again.model.coef_[0], start.coef_[0, ORDER], rtol=1e-6)


def test_a_dask_frame_is_matched_by_name() -> None:
    dask = pytest.importorskip("dask.dataframe")
    table = dask.from_pandas(
        pd.DataFrame(X[:, ORDER], columns=np.array(NAMES)[ORDER]), npartitions=3
    )
    same(fitted().predict_proba(table), fitted().predict_proba(X))


# estimators ---------------------------------------------------------------------------------------

ESTIMATORS = [
    streamlr.LogisticRegression,
    streamlr.LinearRegression,
    streamlr.PoissonRegressor,
    lambda: streamlr.LogisticRegressionCV(Cs=2, cv=2),
]
estimators = pytest.mark.parametrize(
    "make", ESTIMATORS, ids=["logistic", "linear", "poisson", "cv"]
)


@estimators
@frames
def test_an_estimator_refuses_columns_in_another_order(frame: Any, make: Any) -> None:
    estimator = make().fit(frame(X, NAMES), Y)
    assert estimator.model_.feature_names == NAMES
    with pytest.raises(ValueError, match="feature names should match"):
        estimator.predict(frame(X[:, ORDER], np.array(NAMES)[ORDER]))
    with pytest.raises(ValueError, match="feature names should match"):
        estimator.predict(frame(X, ["age", "other", "weight"]))


@estimators
def test_an_estimator_knows_labels_that_are_no_text_too(make: Any) -> None:
    table = pd.DataFrame(X)
    estimator = make().fit(table, Y)
    assert not hasattr(estimator, "feature_names_in_")  # which scikit-learn has for text alone
    assert estimator.model_.feature_names == ("0", "1", "2")
    same(estimator.predict(table), estimator.predict(X))
    for wrong in (table[[2, 0, 1]], table.rename(columns={0: 7})):
        with pytest.raises(
            ShapeError,
            match=r"feature names should match those that were passed during fit.*\('(2|7)' "
            r"stands where '0' did",
        ):
            estimator.predict(wrong)
    estimator.fit(X, Y)
    assert estimator.model_.feature_names is None
    estimator.predict(table[[2, 0, 1]])  # which has nothing to be matched with


def test_a_warm_start_follows_the_names() -> None:
    turned = pd.DataFrame(X[:, ORDER], columns=np.array(NAMES)[ORDER])
    estimator = streamlr.LogisticRegression(
        penalty=None, warm_start=True, solver="lbfgs", tol=1e-6
    ).fit(pd.DataFrame(X, columns=list(NAMES)), Y)
    before = estimator.coef_[0].copy()
    assert estimator.set_params(tol=1e-5).fit(turned, Y).n_iter_[0] == 2
    np.testing.assert_allclose(estimator.coef_[0], before[ORDER], rtol=1e-3)
