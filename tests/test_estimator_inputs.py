"""What estimators are given: sparse matrices, Zarr and Dask arrays, memory maps and frames, none of
which is ever dense in memory as a whole."""

from __future__ import annotations

import pickle
import threading
from pathlib import Path
from typing import Any

import dask
import dask.array
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import sklearn
import zarr
from numpy.typing import NDArray
from sklearn.linear_model import LinearRegression as LinearReference
from sklearn.linear_model import LogisticRegression as Reference
from sklearn.linear_model import PoissonRegressor as PoissonReference

from streamlr import LinearRegression, LogisticRegression, PoissonRegressor, train
from streamlr.config.sections import ClusterConfig
from streamlr.data.source import Buffer
from streamlr.data.sources.adapters import SparseRows, ZarrRows, rows_of
from streamlr.errors import ConfigError, LabelError, NonFiniteError, ShapeError
from streamlr.execution.local import ThreadsEngine

Array = NDArray[np.float64]
ROWS, FEATURES, CHUNK = 600, 5, 128
FITTED = {"logistic": LogisticRegression, "linear": LinearRegression, "poisson": PoissonRegressor}
MULTINOMIAL = (
    "newton-cholesky" if sklearn.__version__ >= "1.6" else "newton-cg"
)  # before that it fitted each class against the rest
METHODS = ["predict", "predict_proba", "predict_log_proba", "decision_function"]


def features(seed: int = 0) -> Array:
    """Features of which most are 0."""
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(ROWS, FEATURES))
        * (rng.random((ROWS, FEATURES)) < 0.4)
        * np.array([1.0, 5.0, 0.2, 1.0, 1.0])
    )


def targets(family: str, X: Array, n_classes: int = 2) -> NDArray[Any]:
    rng = np.random.default_rng(7)
    Z = X @ np.array([0.5, -0.1, 2.0, 0.3, -0.4])
    if family == "poisson":
        return rng.poisson(np.exp(0.3 * Z)).astype(np.float64)
    return (
        Z + rng.normal(size=ROWS)
        if family == "linear"
        else np.digitize(Z + rng.logistic(size=ROWS), np.linspace(-1, 1, n_classes + 1)[1:-1])
    )


def weights() -> Array:
    return np.random.default_rng(3).uniform(0.2, 3.0, ROWS)


def in_zarr(X: Array, chunk: int = CHUNK) -> zarr.Array[Any]:
    return zarr.create_group(zarr.storage.MemoryStore()).create_array(
        "X", data=X, chunks=(chunk, X.shape[1])
    )


BROUGHT = {
    "csr_array": scipy.sparse.csr_array,
    "csr_matrix": scipy.sparse.csr_matrix,
    "csc_array": scipy.sparse.csc_array,
    "coo_array": scipy.sparse.coo_array,
    "zarr": in_zarr,
    "dask": lambda X: dask.array.from_array(X, chunks=(CHUNK, 2)),
    "irregular dask": lambda X: dask.array.from_array(X, chunks=((17, 500, 83), -1)),
    "frame": pd.DataFrame,
}


@pytest.mark.parametrize("family", FITTED)
@pytest.mark.parametrize("brought", BROUGHT)
def test_whatever_holds_the_features_the_fit_is_that_of_the_plain_array(
    brought: str, family: str
) -> None:
    X = features()
    y = targets(family, X)
    given = BROUGHT[brought](X)
    if brought == "frame":
        given.columns = [f"feature {j}" for j in range(FEATURES)]
    found, plain = FITTED[family]().fit(given, y, weights()), FITTED[family]().fit(X, y, weights())
    # the same sums in another order: some rounding, on Hessians of condition below 1e3
    np.testing.assert_allclose(found.coef_, plain.coef_, rtol=0, atol=1e-12)
    np.testing.assert_allclose(found.intercept_, plain.intercept_, rtol=0, atol=1e-12)
    np.testing.assert_allclose(
        np.asarray(found.predict(given)), plain.predict(X), rtol=0, atol=1e-11
    )
    assert found.score(given, y, weights()) == pytest.approx(
        plain.score(X, y, weights()), abs=1e-11
    )
    assert found.n_features_in_ == FEATURES
    assert (
        (list(found.feature_names_in_) == list(given.columns))
        if brought == "frame"
        else not hasattr(found, "feature_names_in_")
    )


def test_the_names_of_a_frame_come_with_the_model_and_are_compared() -> None:
    X = features()
    frame = pd.DataFrame(X, columns=list("abcde"))
    found = LogisticRegression().fit(frame, pd.Series(targets("logistic", X)), pd.Series(weights()))
    assert found.model_.feature_names == tuple("abcde")
    with pytest.raises(ValueError, match="feature names should match"):
        found.predict(frame[list("edcba")])
    assert not hasattr(found.fit(in_zarr(X), targets("logistic", X)), "feature_names_in_")


# references ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3.0, 1: 0.5}])
@pytest.mark.parametrize("n_classes", [2, 4])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("C", [0.02, 5.0])
def test_classes_are_fitted_as_by_scikit_learn(
    C: float, weighted: bool, n_classes: int, class_weight: Any
) -> None:
    X = features()
    y = targets("logistic", X, n_classes)
    omega = weights() if weighted else None
    known = class_weight
    if isinstance(class_weight, dict):
        known = {label: class_weight.get(label, 1.0) for label in range(n_classes)}
    if class_weight == "balanced":  # scikit-learn below 1.7 leaves the sample weights out
        sums = np.bincount(y, omega)
        known = dict(enumerate(sums.sum() / (n_classes * sums)))
    found = LogisticRegression(
        C,
        class_weight=class_weight and (class_weight if class_weight == "balanced" else known),
        tol=1e-11,
    ).fit(X, y, omega)
    solver = "newton-cholesky" if n_classes == 2 else MULTINOMIAL
    oracle = Reference(C=C, class_weight=known, solver=solver, tol=1e-12, max_iter=1000).fit(
        X, y, omega
    )
    # gradients below 1e-11 on Hessians of at least 1e-3
    np.testing.assert_allclose(found.coef_, oracle.coef_, rtol=0, atol=1e-8)
    np.testing.assert_allclose(found.predict_proba(X), oracle.predict_proba(X), rtol=0, atol=1e-8)
    np.testing.assert_allclose(
        found.predict_log_proba(X), oracle.predict_log_proba(X), rtol=0, atol=1e-7
    )
    assert (found.n_iter_.shape, found.n_iter_.dtype.kind) == ((1,), "i")


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("weighted", [False, True])
def test_numbers_and_counts_are_fitted_as_by_scikit_learn(weighted: bool, intercept: bool) -> None:
    X, omega = features(), weights() if weighted else None
    y = targets("linear", X)
    found: Any = LinearRegression(fit_intercept=intercept, tol=1e-11).fit(X, y, omega)
    oracle: Any = LinearReference(fit_intercept=intercept).fit(X, y, omega)
    np.testing.assert_allclose(
        found.coef_, oracle.coef_, rtol=0, atol=1e-9
    )  # gradients below 1e-11 on Hessians of at least 1e-2
    assert found.intercept_ == pytest.approx(oracle.intercept_, abs=1e-9)
    assert found.score(X, y, omega) == pytest.approx(oracle.score(X, y, omega), abs=1e-9)
    y = targets("poisson", X)
    for alpha in (0.0, 0.3):
        found = PoissonRegressor(alpha=alpha, fit_intercept=intercept, tol=1e-11).fit(X, y, omega)
        oracle = PoissonReference(
            alpha=alpha, fit_intercept=intercept, solver="newton-cholesky", tol=1e-12, max_iter=1000
        ).fit(X, y, omega)
        np.testing.assert_allclose(found.coef_, oracle.coef_, rtol=0, atol=1e-8)
        assert found.intercept_ == pytest.approx(oracle.intercept_, abs=1e-8)
        assert found.score(X, y, omega) == pytest.approx(oracle.score(X, y, omega), abs=1e-8)
        assert (found.coef_.shape, type(found.intercept_), type(found.n_iter_)) == (
            (FEATURES,),
            float,
            int,
        )


def test_logarithms_of_probabilities_keep_their_digits_where_those_are_0_or_1() -> None:
    X = features()
    found = LogisticRegression().fit(X, targets("logistic", X))
    far = np.full((1, FEATURES), 1e4) * np.sign(found.coef_)
    Z = float(found.decision_function(far)[0])
    assert found.predict_log_proba(far).tolist() == [[-Z, 0.0]]
    assert np.isfinite(
        LogisticRegression().fit(X, targets("logistic", X, 4)).predict_log_proba(far)
    ).all()


# a class of labels --------------------------------------------------------------------------------


def test_labels_that_are_objects_and_weights_of_labels_that_are_text_are_taken() -> None:
    X = features()
    codes = targets("logistic", X, 3)
    named = np.array(["c", "a", "b"], dtype=object)[codes]
    found = LogisticRegression(class_weight={"c": 2.0, "a": 1.0, "b": 0.5}).fit(X, named)
    plain = LogisticRegression().fit(X, named, np.array([2.0, 1.0, 0.5])[codes])
    assert found.classes_.tolist() == ["a", "b", "c"]
    assert found.classes_.dtype == object
    assert found.coef_.tobytes() == plain.coef_.tobytes()
    with pytest.raises(ValueError, match=r"classes, \['b'\], are not in class_weight"):
        LogisticRegression(class_weight={"c": 2.0, "a": 1.0, "d": 1.0}).fit(X, named)


@pytest.mark.parametrize("n_classes", [3, 4])
@pytest.mark.parametrize(
    "penalty", [{}, {"penalty": "elasticnet", "l1_ratio": 0.3}, {"penalty": None}]
)
@pytest.mark.parametrize("spelling", ["sample_weight", "class_weight", "balanced"])
def test_a_class_without_weight_is_never_predicted_and_the_others_are_fitted_as_if_alone(
    spelling: str, penalty: dict[str, Any], n_classes: int
) -> None:
    X = features()
    y = np.array(["a", "b", "c", "d"])[targets("logistic", X, n_classes)]
    omega = np.where(y == "a", 0.0, weights())
    known = {"class_weight": {"a": 0, "b": 1, "c": 1, "d": 1}, "balanced": "balanced"}.get(spelling)
    if isinstance(known, dict):
        known = {label: known[label] for label in np.unique(y)}
    model = LogisticRegression(class_weight=known, tol=1e-11, warm_start=True, **penalty).fit(
        X, y, weights() if spelling == "class_weight" else omega
    )
    there = y != "a"
    halved: dict[str, float] = {}
    if (
        n_classes == 3 and penalty.get("penalty", "l2") is not None
    ):  # a softmax of two classes penalises W1 = -W0 = w / 2 twice: |w|^2 / 2 in all
        halved = {"C": 2.0}
    if halved and penalty.get(
        "l1_ratio"
    ):  # while of their absolute values, |w| / 2 each, all is left
        halved = {"C": 1 / 0.65, "l1_ratio": 0.3 / 0.65}  # C (0.35 + 0.3) = 1
    alone = LogisticRegression(
        class_weight="balanced" if known == "balanced" else None, tol=1e-11, **(penalty | halved)
    ).fit(X[there], y[there], omega[there])
    assert model.classes_.tolist() == ["a", "b", "c", "d"][:n_classes]
    # gradients below 1e-11 on Hessians of at least 1e-3
    np.testing.assert_allclose(
        model.predict_proba(X),
        np.column_stack([np.zeros(len(y)), alone.predict_proba(X)]),
        rtol=0,
        atol=1e-7,
    )
    np.testing.assert_allclose(
        model.predict_log_proba(X)[:, 1:], alone.predict_log_proba(X), rtol=0, atol=1e-6
    )
    assert (
        set(model.predict_log_proba(X)[:, 0]) == set(model.decision_function(X)[:, 0]) == {-np.inf}
    )
    assert set(model.predict(X)) <= set("bcd")
    assert (model.coef_[0].tolist(), float(model.intercept_[0])) == ([0.0] * X.shape[1], -np.inf)
    if "l1_ratio" not in penalty:  # as a softmax has it
        np.testing.assert_allclose(model.coef_.sum(axis=0), 0, rtol=0, atol=1e-7)
    again = model.coef_.copy()
    model.set_params(class_weight=None).fit(
        X, y, weights()
    )  # whose model of all classes is no start for fewer
    model.set_params(class_weight=known)
    np.testing.assert_allclose(
        model.fit(X, y, weights() if spelling == "class_weight" else omega).coef_,
        again,
        rtol=0,
        atol=1e-7,
    )


def test_one_class_with_weight_is_too_few() -> None:
    X = features()
    y = np.array(["a", "b", "c"])[targets("logistic", X, 3)]
    for labels, kept in ((y, "c"), (np.where(y == "c", "c", "a"), "c")):
        for model, weight in (
            (LogisticRegression(class_weight="balanced"), labels == kept),
            (LogisticRegression(), labels == kept),
            (
                LogisticRegression(
                    class_weight={label: float(label == kept) for label in np.unique(labels)}
                ),
                None,
            ),
        ):
            with pytest.raises(
                LabelError,
                match="all examples of the class 'a' weigh 0, and at most one other class has "
                "weight",
            ):
                model.fit(X, labels, weight)


# lazy and streamed --------------------------------------------------------------------------------


class Counted:
    """An array that Dask slices, which counts the rows that are out at a time and those read in
    all."""

    def __init__(self, X: Array) -> None:
        self.X, self.shape, self.dtype, self.ndim = X, X.shape, X.dtype, X.ndim
        self.lock, self.reads, self.most = threading.Lock(), 0, 0

    def __getitem__(self, index: Any) -> Array:
        part = self.X[index]
        with self.lock:
            self.reads += part.size > 0
            self.most = max(self.most, part.shape[0])
        return part


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("n_classes", [2, 3])
def test_predicting_of_a_dask_array_reads_nothing_until_it_is_computed(
    method: str, n_classes: int
) -> None:
    X = features()
    found = LogisticRegression().fit(
        X, np.array(["no", "perhaps", "yes"])[targets("logistic", X, n_classes)]
    )
    counted = Counted(X)
    lazy = getattr(found, method)(
        dask.array.from_array(counted, chunks=(CHUNK, 2), meta=np.empty((0, 0)))
    )
    assert isinstance(lazy, dask.array.Array)
    assert counted.reads == 0
    plain = getattr(found, method)(X)
    assert (lazy.shape, lazy.dtype) == (plain.shape, plain.dtype)
    assert lazy.chunks[0] == (128, 128, 128, 128, 88)
    np.testing.assert_allclose(
        lazy.compute(), plain, rtol=1e-12
    ) if plain.dtype.kind == "f" else np.testing.assert_array_equal(lazy.compute(), plain)
    assert counted.reads == 5 * 3
    assert counted.most == CHUNK


def test_a_fit_to_a_dask_array_reads_it_once_a_pass_a_block_at_a_time() -> None:
    X = features()
    counted = Counted(X)
    given = dask.array.from_array(counted, chunks=(CHUNK, -1), meta=np.empty((0, 0)))
    found = LogisticRegression(cluster=ClusterConfig(kind="serial")).fit(
        given, targets("logistic", X)
    )
    assert counted.reads == 5 * found.n_iter_[0]


class Store(zarr.storage.MemoryStore):
    """A store in memory that counts the chunks that are read."""

    reads = 0

    async def get(self, key: str, prototype: Any, byte_range: Any = None) -> Any:
        type(self).reads += "/c/" in key
        return await super().get(key, prototype, byte_range)


@pytest.mark.parametrize("method", METHODS)
def test_predicting_of_a_zarr_array_holds_a_block_at_a_time(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = features()
    found = LogisticRegression().fit(X, targets("logistic", X))
    given = zarr.create_group(Store()).create_array("X", data=X, chunks=(CHUNK, FEATURES))
    monkeypatch.setattr(
        "streamlr.data.source._MEMORY_CHUNK_BYTES", CHUNK * FEATURES * 8
    )  # as small beside these data as it is beside large ones
    asked: list[int] = []
    read = ZarrRows.read

    def noted(self: ZarrRows, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        asked.append(stop - start)
        return read(self, start, stop, buffer)

    monkeypatch.setattr(ZarrRows, "read", noted)
    Store.reads = 0
    made = getattr(found, method)(given)
    np.testing.assert_allclose(made, getattr(found, method)(X), rtol=1e-12)
    assert asked == [128, 128, 128, 128, 88]
    assert Store.reads == 5


def test_a_memory_map_is_fitted_where_it_lies(tmp_path: Path) -> None:
    X = features()
    np.save(tmp_path / "X.npy", X)
    given = np.load(tmp_path / "X.npy", mmap_mode="r")
    found = LogisticRegression().fit(given, targets("logistic", X))
    assert (
        found.coef_.tobytes() == LogisticRegression().fit(X, targets("logistic", X)).coef_.tobytes()
    )
    assert np.shares_memory(rows_of(given), given)


def test_numbers_that_are_not_finite_are_found_wherever_they_lie(tmp_path: Path) -> None:
    X = features()
    X[301, 2] = np.nan
    y = targets("logistic", features())
    np.save(tmp_path / "X.npy", X)
    for given in (
        in_zarr(X),
        dask.array.from_array(X, chunks=(CHUNK, -1)),
        np.load(tmp_path / "X.npy", mmap_mode="r"),
    ):
        with pytest.raises(
            NonFiniteError, match=r"of X holds 1 non-finite value.*row 301, feature 2"
        ):
            LogisticRegression().fit(given, y)
    with pytest.raises(ValueError, match="contains NaN"):
        LogisticRegression().fit(scipy.sparse.csr_array(X), y)


# rows ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("brought", ["csr_array", "zarr", "dask", "irregular dask"])
def test_rows_are_read_whole_in_parts_and_after_a_journey(brought: str) -> None:
    X = features()
    rows, buffer = rows_of(BROUGHT[brought](X)), Buffer()
    assert not isinstance(rows, np.ndarray)
    buffer.array((ROWS, FEATURES), np.dtype(np.float64))[...] = (
        7.0  # what is read must not depend on what the buffer held
    )
    part = rows.part(100, 400).part(50, 300)
    assert (rows.shape, part.shape, part.dtype) == ((ROWS, FEATURES), (250, FEATURES), np.float64)
    for travelled in (part, pickle.loads(pickle.dumps(part))):
        np.testing.assert_array_equal(travelled.read(3, 250, buffer), X[153:400])
    np.testing.assert_array_equal(rows.read(0, ROWS, buffer), X)
    assert rows_of(rows) is rows


def test_only_what_is_read_of_a_sparse_matrix_is_dense() -> None:
    rng, n_values = np.random.default_rng(0), 4_000
    places = rng.integers(2_000, size=n_values), rng.integers(200_000, size=n_values)
    wide = scipy.sparse.csr_array(
        (rng.normal(size=n_values), places), shape=(2_000, 200_000)
    )  # 3.2 GB if it were dense
    rows = rows_of(wide)
    assert isinstance(rows, SparseRows)
    assert rows.chunk_rows * 200_000 * 8 <= 16 * 2**20
    assert rows.read(0, rows.chunk_rows, Buffer()).sum() == pytest.approx(
        wide[: rows.chunk_rows].sum(), rel=1e-12
    )


def test_train_takes_the_same() -> None:
    X = features()
    y = targets("logistic", X)
    plain = train({}, X=X, y=y).model.coef_
    for brought in ("csr_array", "zarr", "dask"):
        np.testing.assert_allclose(
            train(
                {"cluster": {"kind": "threads", "workers": 2}}, X=BROUGHT[brought](X), y=y
            ).model.coef_,
            plain,
            rtol=0,
            atol=1e-9,
        )


def test_parts_of_rows_travel_to_worker_processes() -> None:
    X = features()
    y = targets("logistic", X)
    cluster = {"kind": "processes", "workers": 1}
    for brought in ("csr_array", "dask"):
        given = BROUGHT[brought](X)
        found = LogisticRegression(cluster=cluster).fit(given, y)
        assert (
            found.coef_.tobytes()
            == LogisticRegression(cluster={"kind": "serial"}).fit(given, y).coef_.tobytes()
        )


def test_what_has_no_shape_to_read_is_refused() -> None:
    X = features()
    y = targets("logistic", X)
    lazy = dask.array.from_array(X, chunks=(CHUNK, -1))
    with pytest.raises(
        ShapeError, match=f"X has {np.count_nonzero(X[:, 0] > 0)} rows and y has {ROWS}"
    ):  # rows that Dask does not know are counted
        LogisticRegression().fit(lazy[lazy[:, 0] > 0], y)
    with pytest.raises(ShapeError, match="Expected 2D array, got an array of the shape"):
        LogisticRegression().fit(lazy[:, 0], y)
    with pytest.raises(ShapeError, match=f"X has {ROWS} rows and y has 5"):
        LogisticRegression().fit(lazy, [0, 1, 0, 1, 0])
    found = LogisticRegression().fit(lazy, y)
    some = found.predict_proba(
        lazy[lazy[:, 0] > 0]
    )  # to predict, the number of rows need not be known
    np.testing.assert_allclose(some.compute(), found.predict_proba(X[X[:, 0] > 0]), rtol=1e-12)
    for given in (lazy[:, :3], in_zarr(X[:, :3])):
        with pytest.raises(
            ShapeError,
            match="X has 3 features, but LogisticRegression is expecting 5 features as input",
        ):
            found.predict(given)


# parameters ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FITTED)
@pytest.mark.parametrize("solver", ["auto", "lbfgs", "newton"])
def test_a_warm_start_ends_at_the_same_optimum_in_no_more_passes_than_it_takes_to_see_that(
    family: str, solver: str
) -> None:
    X = features()
    y = targets(family, X)
    model = FITTED[family](solver=solver, warm_start=True, tol=1e-9).fit(X, y)
    cold, passes = model.coef_, int(np.max(model.n_iter_))
    again = model.fit(X, y)
    np.testing.assert_allclose(again.coef_, cold, rtol=0, atol=1e-6)
    assert int(np.max(again.n_iter_)) <= 3  # survey, start, and one step that confirms it
    assert solver != "lbfgs" or passes > 3
    fresh = FITTED[family](solver=solver, tol=1e-9).fit(X[:, :4], y)
    np.testing.assert_array_equal(
        model.fit(X[:, :4], y).coef_, fresh.coef_
    )  # of other features there is nothing to start from


def test_no_penalty_is_an_infinite_c() -> None:
    X = features()
    y = targets("logistic", X)
    assert (
        LogisticRegression(penalty=None).fit(X, y).coef_.tobytes()
        == LogisticRegression(np.inf).fit(X, y).coef_.tobytes()
    )


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"penalty": "elasticnet", "l1_ratio": None}, "penalty='elasticnet' needs l1_ratio"),
        ({"l1_ratio": 1.5}, r"l1_ratio is 1\.5; .* from 0 to 1"),
        (
            {"penalty": "l1", "solver": "lbfgs"},
            "Solver lbfgs supports only 'l2' or None penalties, got an l1 penalty; set "
            "solver='auto'",
        ),
    ],
)
def test_an_l1_penalty_that_cannot_be_meant_is_refused(
    parameters: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        LogisticRegression(**parameters).fit(features(), targets("logistic", features()))


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (LogisticRegression(penalty="l3"), "penalty is 'l3'"),
        (PoissonRegressor(alpha=-1.0), "alpha is -1.0; it must be 0 or above"),
        (PoissonRegressor(alpha=float("nan")), "alpha is nan"),
        (LinearRegression(solver="svd"), r"solver\.name: 'svd' is none of"),
    ],
)
def test_parameters_that_cannot_be_meant_are_refused(model: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        model.fit(features(), targets("logistic", features()))


@pytest.mark.parametrize(
    ("given", "started"), [(None, 0), ({"kind": "threads"}, 1), (ClusterConfig(kind="threads"), 1)]
)
def test_small_data_need_no_threads_unless_they_are_asked_for(
    given: Any, started: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    X = features()
    kinds: list[str] = []
    monkeypatch.setattr(
        "streamlr.training.opening.open_engine",
        lambda config: (kinds.append(config.kind), ThreadsEngine(1))[1],
    )
    LogisticRegression(cluster=given).fit(X, targets("logistic", X))
    assert kinds == ["threads" if started else "serial"]


def test_of_more_features_than_rows_least_squares_finds_the_smallest_norm_in_units_of_the_data() -> (
    None
):
    """As LAPACK and scikit-learn do; it was that in standardised units as long as L-BFGS took the
    steps."""
    rng = np.random.default_rng(0)
    X, y = rng.normal(size=(20, 60)) * rng.uniform(0.1, 10, 60), rng.normal(size=20)
    found = LinearRegression(tol=1e-12).fit(X, y)
    oracle = np.linalg.lstsq(X - X.mean(axis=0), y - y.mean(), rcond=None)[0]
    np.testing.assert_allclose(found.coef_, oracle, rtol=0, atol=1e-13)
