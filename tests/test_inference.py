"""What is inferred from a model: standard errors, tests and likelihoods beside published values,
closed forms and dense NumPy."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath
import numpy as np
import pytest
import scipy.stats
import zarr
from numpy.typing import NDArray
from stores import runner

import streamlr
from streamlr.cli.main import cli
from streamlr.data.sources.group_keys import group_keys
from streamlr.errors import (
    ConfigError,
    DataError,
    DtypeError,
    LabelError,
    MemoryLimitError,
    NonFiniteError,
    RunDirectoryError,
    ShapeError,
)
from streamlr.events import Event, Note, ScanStarted
from streamlr.execution import ENGINES
from streamlr.inference import summary as inference
from streamlr.inference.distributions import chi_squared_tail, f_tail, quantile, two_sided_p
from streamlr.kernels.families import FAMILIES
from streamlr.kernels.families.poisson import log_factorial
from streamlr.kernels.scans.groups import sum_by_group

Array = NDArray[Any]
STARTED_HERE = sorted(set(ENGINES) - {"address"})
ERRORS = ("classical", "robust", "HC1", "clustered")
TIGHT = 1e-9
"""The solves end within 1e-10 of the optimum in standardised units, and an error follows the
coefficients by a factor of order 1."""


def write(
    path: Path, arrays: dict[str, Any], names: list[str] | None = None, chunk: int = 70
) -> str:
    group = zarr.open_group(str(path), mode="w")
    for name, values in arrays.items():
        values = np.asarray(values)
        text = values.dtype.kind == "U"
        array = group.create_array(
            name,
            shape=values.shape,
            chunks=(chunk, *values.shape[1:]),
            dtype=str if text else values.dtype,
            config={"write_empty_chunks": True},
        )
        array[...] = values.astype(object) if text else values
    if names is not None:
        group.attrs["feature_names"] = names
    return str(path)


def train(store: str, run: Path, family: str = "logistic", **settings: Any) -> Path:
    """A run that has converged as far as float64 allows."""
    tree = {
        "data": {"store": store},
        "model": {"family": family},
        "solver": {"name": "newton", "tolerance": 1e-10},
        "cluster": {"kind": "serial"},
        "run": {"directory": str(run)},
    }
    for key, value in settings.items():
        section, _, name = key.partition("__")
        tree[section][name] = value
    streamlr.train(tree)
    return run


def columns(found: streamlr.Summary, name: str) -> list[float]:
    return [getattr(row, name) for row in found.coefficients]


# Published values


def test_the_table_of_hosmer_and_lemeshow(tmp_path: Path) -> None:
    x, y = (
        np.repeat([0.0, 0.0, 1.0, 1.0], [22, 51, 21, 6]),
        np.repeat([1, 0, 1, 0], [22, 51, 21, 6]),
    )
    found = streamlr.summary(
        train(write(tmp_path / "s", {"X": x[:, None], "y": y}), tmp_path / "run")
    )
    np.testing.assert_allclose(
        columns(found, "coefficient"),
        [math.log(22 / 51), math.log(21 / 6) - math.log(22 / 51)],
        rtol=TIGHT,
    )
    np.testing.assert_allclose(
        columns(found, "standard_error"),
        [(1 / 22 + 1 / 51) ** 0.5, (1 / 22 + 1 / 51 + 1 / 21 + 1 / 6) ** 0.5],
        rtol=TIGHT,
    )
    np.testing.assert_allclose(
        columns(found, "standard_error"), [0.2550733, 0.5285335], rtol=1e-6
    )  # as printed
    assert found.log_likelihood == pytest.approx(-58.979565, abs=5e-7)


SPECTOR = """2.66 20 0 0;2.89 22 0 0;3.28 24 0 0;2.92 12 0 0;4.0 21 0 1;2.86 17 0 0;2.76 17 0 0;2.87 21 0 0;3.03 25 0 0;3.92 29 0 1;2.63 20 0 0;
3.32 23 0 0;3.57 23 0 0;3.26 25 0 1;3.53 26 0 0;2.74 19 0 0;2.75 25 0 0;2.83 19 0 0;3.12 23 1 0;3.16 25 1 1;2.06 22 1 0;3.62 28 1 1;2.89 14 1 0;
3.51 26 1 0;3.54 24 1 1;2.83 27 1 1;3.39 17 1 1;2.67 24 1 0;3.65 21 1 1;4.0 23 1 1;3.1 21 1 0;2.39 19 1 1"""


def test_the_grades_of_spector_and_mazzeo(tmp_path: Path) -> None:
    """The logit of Greene's Econometric Analysis; all digits are those of statsmodels."""
    table = np.array(
        [list(map(float, row.split())) for row in SPECTOR.replace("\n", "").split(";")]
    )
    run = train(
        write(
            tmp_path / "s",
            {"X": table[:, :3], "y": table[:, 3].astype(int)},
            ["GPA", "TUCE", "PSI"],
            chunk=7,
        ),
        tmp_path / "run",
    )
    found = streamlr.summary(run)
    assert [row.name for row in found.coefficients] == ["intercept", "GPA", "TUCE", "PSI"]
    np.testing.assert_allclose(
        columns(found, "coefficient"),
        [-13.021346858115697, 2.826112594889322, 0.0951576613179095, 2.3786876550933544],
        rtol=TIGHT,
    )
    np.testing.assert_allclose(
        columns(found, "standard_error"),
        [4.931324213602793, 1.2629410756291015, 0.14155420567369387, 1.0645642544971347],
        rtol=TIGHT,
    )
    np.testing.assert_allclose(
        columns(found, "p_value"),
        [0.00827746143548868, 0.025239108802565257, 0.5014342380819201, 0.025455204361278714],
        rtol=1e-8,
    )
    assert (found.df_model, found.df_residual, found.statistic) == (3, 28, "z")
    assert found.log_likelihood == pytest.approx(-12.889634222131413, rel=1e-12)
    assert found.null_log_likelihood == pytest.approx(-20.591729696634204, rel=1e-12)
    assert found.likelihood_ratio_p == pytest.approx(0.0015018786820365808, rel=1e-9)
    robust = streamlr.summary(run, errors="robust")
    np.testing.assert_allclose(
        columns(robust, "standard_error"),
        [5.19758541029959, 1.2675459820157866, 0.11792226774939128, 0.9644192096528881],
        rtol=TIGHT,
    )


LONGLEY = """60323 83.0 234289 2356 1590 107608 1947;61122 88.5 259426 2325 1456 108632 1948;60171 88.2 258054 3682 1616 109773 1949;
61187 89.5 284599 3351 1650 110929 1950;63221 96.2 328975 2099 3099 112075 1951;63639 98.1 346999 1932 3594 113270 1952;
64989 99.0 365385 1870 3547 115094 1953;63761 100.0 363112 3578 3350 116219 1954;66019 101.2 397469 2904 3048 117388 1955;
67857 104.6 419180 2822 2857 118734 1956;68169 108.4 442769 2936 2798 120445 1957;66513 110.8 444546 4681 2637 121950 1958;
68655 112.6 482704 3813 2552 123366 1959;69564 114.2 502601 3931 2514 125368 1960;69331 115.7 518173 4806 2572 127852 1961;
70551 116.9 554894 4007 2827 130081 1962"""


def test_the_certified_values_of_longley(tmp_path: Path) -> None:
    """NIST's reference data sets: least squares of features that are nearly combinations of one
    another, at a condition of 5e9."""
    table = np.array(
        [list(map(float, row.split())) for row in LONGLEY.replace("\n", "").split(";")]
    )
    found = streamlr.summary(
        train(
            write(tmp_path / "s", {"X": table[:, 1:], "y": table[:, 0]}), tmp_path / "run", "linear"
        )
    )
    np.testing.assert_allclose(
        columns(found, "coefficient"),
        [
            -3482258.63459582,
            15.0618722713733,
            -0.0358191792925910,
            -2.02022980381683,
            -1.03322686717359,
            -0.0511041056535807,
            1829.15146461355,
        ],
        rtol=1e-7,
    )
    np.testing.assert_allclose(
        columns(found, "standard_error"),
        [
            890420.383607373,
            84.9149257747669,
            0.0334910077722432,
            0.488399681651699,
            0.214274163161675,
            0.226073200069370,
            455.478499142212,
        ],
        rtol=1e-9,
    )
    assert found.dispersion is not None
    assert found.dispersion**0.5 == pytest.approx(304.854073561965, rel=1e-10)
    assert (found.r2, found.f) == (
        pytest.approx(0.995479004577296, rel=1e-12),
        pytest.approx(330.285339234588, rel=1e-9),
    )
    assert (found.f_p, found.statistic, found.df_residual) == (
        pytest.approx(4.98403052872e-10, rel=1e-8),
        "t",
        9,
    )
    np.testing.assert_allclose(
        columns(found, "p_value"),
        2 * scipy.stats.t.sf(np.abs(columns(found, "statistic")), 9),
        rtol=1e-12,
    )


def test_the_counts_of_dobson(tmp_path: Path) -> None:
    """glm.D93 of R's help, to the digits that it prints; every treatment has 50 counts, so its
    errors have a closed form."""
    counts = np.array([18.0, 17, 15, 20, 10, 20, 25, 13, 12])
    X = np.zeros((9, 4))
    for outcome in (1, 2):
        X[outcome::3, outcome - 1] = 1
        X[3 * outcome : 3 * outcome + 3, 1 + outcome] = 1
    found = streamlr.summary(
        train(write(tmp_path / "s", {"X": X, "y": counts}), tmp_path / "run", "poisson")
    )
    np.testing.assert_allclose(
        columns(found, "coefficient")[:3], [3.044522, -0.454255, -0.292987], atol=5e-7
    )
    np.testing.assert_allclose(
        columns(found, "standard_error")[1:],
        [(1 / 63 + 1 / 40) ** 0.5, (1 / 63 + 1 / 47) ** 0.5, 0.2, 0.2],
        rtol=TIGHT,
    )
    np.testing.assert_allclose(columns(found, "statistic")[:3], [17.815, -2.247, -1.520], atol=5e-4)
    np.testing.assert_allclose(columns(found, "p_value")[1:3], [0.0246, 0.1285], atol=5e-5)
    assert (
        round(found.deviance or 0, 4),
        round(found.null_deviance or 0, 4),
        round(found.aic or 0, 2),
    ) == (5.1291, 10.5814, 56.76)


# Beside dense NumPy


def draw(family: str, rows: int = 400, seed: int = 7) -> dict[str, Any]:
    """Features in any units, a target that they tell something of, weights, groups and offsets."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((rows, 3)) * [1.0, 50.0, 0.02] + [0.0, 400.0, 3.0]
    eta = X @ [0.6, 0.01, 20.0] - 64.3
    offset = 0.4 * rng.standard_normal(rows)
    y: Array = {
        "logistic": lambda: np.where(rng.random(rows) < 1 / (1 + np.exp(-eta)), "yes", "no"),
        "softmax": lambda: np.argmax(
            np.stack([0 * eta, eta, -0.4 * eta]) + rng.gumbel(size=(3, rows)), axis=0
        ),
        "linear": lambda: eta + rng.standard_normal(rows) * np.exp(0.3 * X[:, 0]),
        "poisson": lambda: rng.poisson(np.exp(0.4 * eta + offset)),
    }[family]()
    return {
        "X": X,
        "y": y,
        "w": rng.integers(0, 4, rows).astype(float),
        "g": np.array([f"site {k}" for k in rng.integers(0, 30, rows)]),
        "offset": offset,
    }


def dense(
    family: str,
    model: streamlr.Model,
    data: dict[str, Any],
    errors: str,
    *,
    weights: str | None,
    intercept: bool,
    offset: bool,
) -> dict[str, Any]:
    """Errors and log-likelihood with every score written down; features are scaled, which changes
    what is computed by rounding alone."""
    scale = np.array([1.0, 50.0, 0.02])
    X = (
        np.column_stack([np.ones(len(data["X"])), data["X"] / scale])
        if intercept
        else data["X"] / scale
    )
    w = data["w"] if weights else np.ones(len(X))
    A = model.predict_mean(data["X"], data["offset"] if offset else None).reshape(len(X), -1)
    if family == "linear":
        Y, V = data["y"][:, None], np.ones((len(X), 1, 1))
    elif family == "poisson":
        Y, V = data["y"][:, None], A[:, :, None]
    else:
        Y = (data["y"][:, None] == model.classes_[1:]).astype(float)
        A = A[:, -Y.shape[1] :]
        V = np.einsum("ij,jk->ijk", A, np.eye(A.shape[1])) - A[:, :, None] * A[:, None, :]
    scores = np.einsum("ic,ij->icj", Y - A, X).reshape(len(X), -1)  # one output after the other
    H = np.einsum("i,icd,ij,ik->cjdk", w, V, X, X).reshape(scores.shape[1], -1)
    n, d = (w.sum() if weights == "frequency" else np.count_nonzero(w)), scores.shape[1]
    bread = np.linalg.inv(H)
    if errors == "classical":
        covariance = bread * (
            float(w @ (Y - A)[:, 0] ** 2) / (n - d) if family == "linear" else 1.0
        )
    elif errors == "clustered":
        S = np.stack(
            [(w[:, None] * scores)[data["g"] == g].sum(axis=0) for g in np.unique(data["g"])]
        )
        covariance = bread @ S.T @ S @ bread * (len(S) / (len(S) - 1) * (n - 1) / (n - d))
    else:
        meat = scores.T @ ((w if weights == "frequency" else w**2)[:, None] * scores)
        covariance = bread @ meat @ bread * (n / (n - d) if errors == "HC1" else 1.0)
    units = np.tile(np.concatenate([[1.0], scale]) if intercept else scale, d // X.shape[1])
    loglike = {
        "linear": lambda: float(
            np.sum(
                w * scipy.stats.norm.logpdf(data["y"], A[:, 0], (w @ (Y - A)[:, 0] ** 2 / n) ** 0.5)
            )
            if weights != "case"
            else np.sum(
                scipy.stats.norm.logpdf(
                    data["y"], A[:, 0], (w @ (Y - A)[:, 0] ** 2 / n / np.where(w > 0, w, 1)) ** 0.5
                )[w > 0]
            )
        ),
        "poisson": lambda: float(w @ scipy.stats.poisson.logpmf(data["y"], A[:, 0])),
    }.get(
        family,
        lambda: float(
            w @ np.log(np.where(Y.sum(axis=1) > 0, (A * Y).sum(axis=1), 1 - A.sum(axis=1)))
        ),
    )()
    return {
        "errors": np.sqrt(np.diag(covariance)) / units,
        "log_likelihood": loglike,
        "n": n,
        "d": d,
    }


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, dict[str, Any]]]:
    """Runs by family, weights, intercept and offset, each trained once."""
    made: dict[Any, tuple[Path, dict[str, Any]]] = {}

    def make(
        family: str, *, weighted: bool = False, intercept: bool = True, offset: bool = False
    ) -> tuple[Path, dict[str, Any]]:
        key = family, weighted, intercept, offset
        if key not in made:
            folder = tmp_path_factory.mktemp("fit")
            data = draw(family)
            made[key] = (
                train(
                    write(folder / "s", data),
                    folder / "run",
                    family,
                    model__fit_intercept=intercept,
                    data__weights="w" if weighted else None,
                    data__offset="offset" if offset else None,
                ),
                data,
            )
        return made[key]

    return make


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("errors", ERRORS)
@pytest.mark.parametrize(
    ("weights", "intercept", "offset"),
    [
        (None, True, False),
        ("case", True, False),
        ("frequency", True, False),
        (None, False, False),
        ("case", True, True),
    ],
)
def test_errors_are_those_of_scores_that_are_written_down(
    family: str,
    errors: str,
    weights: Any,
    intercept: bool,
    offset: bool,
    fitted: Callable[..., tuple[Path, dict[str, Any]]],
) -> None:
    if offset and family == "softmax":
        pytest.skip("an offset common to all classes changes nothing")
    run, data = fitted(family, weighted=weights is not None, intercept=intercept, offset=offset)
    found = streamlr.summary(
        run, errors=errors, groups="g" if errors == "clustered" else None, weights=weights or "case"
    )
    expected = dense(
        family,
        streamlr.load_model(run),
        data,
        errors,
        weights=weights,
        intercept=intercept,
        offset=offset,
    )
    # the inverse of the reference loses what it is conditioned by, 1e6 of 2e-16 at most
    np.testing.assert_allclose(columns(found, "standard_error"), expected["errors"], rtol=1e-8)
    np.testing.assert_allclose(
        np.sqrt(np.diag(found.covariance)), columns(found, "standard_error"), rtol=1e-14
    )
    assert found.log_likelihood == pytest.approx(expected["log_likelihood"], rel=1e-11)
    assert (found.observations, len(found.coefficients)) == (expected["n"], expected["d"])
    assert found.aic == pytest.approx(2 * expected["d"] - 2 * expected["log_likelihood"], rel=1e-11)
    assert found.bic == pytest.approx(
        expected["d"] * math.log(expected["n"]) - 2 * expected["log_likelihood"], rel=1e-11
    )
    assert found.groups == (30 if errors == "clustered" else None)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("errors", ERRORS)
def test_a_frequency_of_three_is_three_rows(
    family: str, errors: str, fitted: Callable[..., tuple[Path, dict[str, Any]]], tmp_path: Path
) -> None:
    run, data = fitted(family, weighted=True)
    repeated = {
        name: np.repeat(values, data["w"].astype(int), axis=0) for name, values in data.items()
    }
    again = train(write(tmp_path / "s", repeated), tmp_path / "run", family)
    groups = "g" if errors == "clustered" else None
    once, other = (
        streamlr.summary(where, errors=errors, groups=groups, weights="frequency").to_dict()
        for where in (run, again)
    )
    for name, value in once.items():
        if name == "coefficients":
            for a, b in zip(value, other[name], strict=True):
                for key in ("coefficient", "standard_error", "p_value", "lower", "upper"):
                    assert a[key] == pytest.approx(b[key], rel=1e-7), (
                        a["name"],
                        key,
                    )  # p follows z by a factor of z²
        elif isinstance(value, float):
            assert value == pytest.approx(other[name], rel=1e-9), name


def test_the_unit_of_case_weights_is_nothing_to_least_squares_nor_to_robust_errors(
    tmp_path: Path,
) -> None:
    for family, errors in (
        ("linear", "classical"),
        ("linear", "robust"),
        ("logistic", "robust"),
        ("logistic", "clustered"),
    ):
        data = draw(family)
        found = []
        for unit in (1.0, 1000.0):
            folder = tmp_path / f"{family}-{errors}-{unit}"
            run = train(
                write(folder / "s", {**data, "w": data["w"] * unit}),
                folder / "run",
                family,
                data__weights="w",
            )
            found.append(
                columns(
                    streamlr.summary(
                        run, errors=errors, groups="g" if errors == "clustered" else None
                    ),
                    "standard_error",
                )
            )
        np.testing.assert_allclose(*found, rtol=TIGHT)


def test_two_classes_are_the_same_by_softmax(
    fitted: Callable[..., tuple[Path, dict[str, Any]]], tmp_path: Path
) -> None:
    run, data = fitted("logistic")
    one, two = (
        streamlr.summary(run),
        streamlr.summary(train(write(tmp_path / "s", data), tmp_path / "run", "softmax")),
    )
    for name in ("coefficient", "standard_error", "p_value"):
        np.testing.assert_allclose(columns(one, name), columns(two, name), rtol=1e-7)
    assert {row.label for row in two.coefficients} == {"yes"}
    assert (one.log_likelihood, one.null_log_likelihood) == (
        pytest.approx(two.log_likelihood),
        pytest.approx(two.null_log_likelihood),
    )


def test_a_mean_of_a_million_spreads_costs_no_digits(tmp_path: Path) -> None:
    data = draw("logistic")
    X = (
        np.round((data["X"] - [0, 400, 3]) / [1, 50, 0.02] * 2**20) / 2**20
    )  # so that a shift of 2^20 is exact
    near, far = (
        streamlr.summary(
            train(
                write(tmp_path / f"s{shift}", {"X": X + shift, "y": data["y"]}),
                tmp_path / f"run{shift}",
            )
        )
        for shift in (0.0, 2.0**20)
    )
    np.testing.assert_allclose(
        columns(near, "standard_error")[1:], columns(far, "standard_error")[1:], rtol=1e-9
    )
    # the intercept's variance is aᵀ cov a, of a = (1, -2^20, ...)
    a = np.array([1.0, *[-(2.0**20)] * 3])
    assert columns(far, "standard_error")[0] == pytest.approx(
        float(a @ near.covariance @ a) ** 0.5, rel=1e-9
    )


@pytest.mark.parametrize("family", ["logistic", "poisson", "linear"])
def test_the_null_model_has_the_offset_too(
    family: str, fitted: Callable[..., tuple[Path, dict[str, Any]]]
) -> None:
    run, data = fitted(family, offset=True)
    model = FAMILIES[family]
    y = (data["y"] == "yes").astype(float) if family == "logistic" else data["y"].astype(float)
    b = 0.0
    for _ in range(50):
        A = model.activate((b + data["offset"])[None])
        b -= float((A - y).sum() / model.curvature(A).sum())
    found = streamlr.summary(run)
    expected = {
        "logistic": lambda: 2 * np.log1p(np.exp(-(2 * y - 1) * (b + data["offset"]))).sum(),
        "poisson": lambda: (
            2
            * (
                scipy.stats.poisson.logpmf(y, np.maximum(y, 1e-300))
                - scipy.stats.poisson.logpmf(y, np.exp(b + data["offset"]))
            ).sum()
        ),
        "linear": lambda: ((y - data["offset"] - b) ** 2).sum(),
    }[family]()
    assert found.null_deviance == pytest.approx(expected, rel=1e-11)


def test_robust_tests_of_all_coefficients_are_walds(
    fitted: Callable[..., tuple[Path, dict[str, Any]]],
) -> None:
    run, _ = fitted("linear")
    for errors, df in (("robust", 396), ("clustered", 29)):
        found = streamlr.summary(run, errors=errors, groups="g" if errors == "clustered" else None)
        beta = np.array(columns(found, "coefficient"))[1:]
        F = float(beta @ np.linalg.inv(found.covariance[1:, 1:]) @ beta) / 3
        assert (found.f, found.f_p, found.statistic) == (
            pytest.approx(F, rel=1e-6),
            pytest.approx(scipy.stats.f.sf(F, 3, df), rel=1e-4),
            "z",
        )


# Passes, engines, groups


class Reads:
    """A subscriber that keeps the titles of reads, and notes."""

    def __init__(self) -> None:
        self.titles: list[str] = []
        self.notes: list[str] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, ScanStarted):
            self.titles.append(event.title)
        elif isinstance(event, Note):
            self.notes.append(event.text)


def test_features_are_read_twice(
    fitted: Callable[..., tuple[Path, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    scanners = []
    finish = inference._Inference.finish
    monkeypatch.setattr(
        inference._Inference, "finish", lambda self: (scanners.append(self), finish(self))[1]
    )
    for family, errors, offset, extra in (
        ("logistic", "classical", False, ["labels"]),
        ("softmax", "robust", False, ["labels"]),
        ("linear", "classical", False, []),
        ("logistic", "clustered", False, ["labels", "groups"]),
        ("poisson", "classical", True, ["null model"]),
    ):
        reads = Reads()
        streamlr.summary(
            fitted(family, offset=offset)[0],
            errors=errors,
            groups="g" if errors == "clustered" else None,
            subscribers=[reads],
        )
        assert scanners[-1].scanner.passes == 2
        assert (
            list(
                dict.fromkeys(
                    title for title in reads.titles if title not in ("statistics", "information")
                )
            )
            == extra
        )
        assert reads.notes == []


def test_every_engine_gives_the_same_bits(
    fitted: Callable[..., tuple[Path, dict[str, Any]]],
) -> None:
    for family, errors in (("logistic", "robust"), ("softmax", "clustered")):
        found = []
        for kind in STARTED_HERE:
            overrides = [f"cluster.kind={kind}"] + (
                [] if kind == "serial" else ["cluster.workers=2"]
            )
            summary = streamlr.summary(
                fitted(family, weighted=True)[0],
                errors=errors,
                groups="g" if errors == "clustered" else None,
                overrides=overrides,
            )
            found.append((summary.covariance.tobytes(), summary.to_dict()))
        assert all(each == found[0] for each in found)


def test_groups_may_have_labels_of_any_kind(
    fitted: Callable[..., tuple[Path, dict[str, Any]]], tmp_path: Path
) -> None:
    _, data = fitted("logistic")
    codes = np.unique(data["g"], return_inverse=True)[1]
    arrays = {
        **data,
        "ints": codes - 7,
        "floats": codes - 0.5,
        "bools": codes % 2 == 0,
        "bytes": codes.astype("uint8"),
    }
    run = train(write(tmp_path / "s", arrays), tmp_path / "run")
    by_text = streamlr.summary(run, groups="g")
    for name in ("ints", "floats", "bytes"):
        np.testing.assert_allclose(
            columns(streamlr.summary(run, groups=name), "standard_error"),
            columns(by_text, "standard_error"),
            rtol=1e-12,
        )
    notes = Reads()
    assert streamlr.summary(run, groups="bools", subscribers=[notes]).groups == 2
    assert "2 groups are no more than the 4 coefficients" in notes.notes[0]


def test_groups_of_one_row_each_are_robust_errors_but_for_the_factor(
    fitted: Callable[..., tuple[Path, dict[str, Any]]], tmp_path: Path
) -> None:
    _, data = fitted("poisson")
    n = len(data["y"])
    run = train(write(tmp_path / "s", {**data, "row": np.arange(n)}), tmp_path / "run", "poisson")
    alone, robust = streamlr.summary(run, groups="row"), streamlr.summary(run, errors="HC1")
    np.testing.assert_allclose(
        alone.covariance, robust.covariance, rtol=1e-9
    )  # n/(n-1) (n-1)/(n-d) is n/(n-d)


def test_keys_are_equal_where_labels_are() -> None:
    for labels in (
        np.array(["a", "b", "a"]),
        np.array([1, -1, 1]),
        np.array([0.0, 2.5, -0.0]),
        np.array([True, False, True]),
        np.array([b"x", b"", b"x"]),
    ):
        keys = group_keys(labels, 0, "g")
        assert keys.dtype == np.uint64
        assert (keys[0] == keys[2], keys[0] == keys[1]) == (True, False)
    with pytest.raises(NonFiniteError, match=r"g holds 1 labels that are not finite.*row 12"):
        group_keys(np.array([0.0, 1.0, np.nan]), 10, "g")
    with pytest.raises(DtypeError, match="complex"):
        group_keys(np.array([1j]), 0, "g")


def test_sums_of_groups_do_not_depend_on_who_was_added_first() -> None:
    rng = np.random.default_rng(0)
    keys, values = (
        rng.integers(0, 9, 100).astype(np.uint64),
        rng.integers(-50, 50, (3, 100)).astype(float),
    )  # sums of whole numbers are exact
    whole = sum_by_group(keys, values)
    for cut in (1, 50, 99):
        both = sum_by_group(keys[cut:], values[:, cut:]) + sum_by_group(keys[:cut], values[:, :cut])
        np.testing.assert_array_equal(both.keys, whole.keys)
        np.testing.assert_array_equal(both.sums, whole.sums)
    for key, total in zip(whole.keys, whole.sums, strict=True):
        np.testing.assert_array_equal(total, values[:, keys == key].sum(axis=1))


# Refusals


def test_a_penalty_is_refused(
    fitted: Callable[..., tuple[Path, dict[str, Any]]], tmp_path: Path
) -> None:
    run = train(
        write(tmp_path / "s", draw("logistic")), tmp_path / "run", model__penalty={"l2": 0.25}
    )
    with pytest.raises(ConfigError, match=r"fitted with model\.penalty\.l2: 0\.25.*Train again"):
        streamlr.summary(run)
    with pytest.raises(
        ConfigError, match=r"model\.penalty\.l2: 0\.25"
    ):  # what the run was, not what one would have it be
        streamlr.summary(run, overrides=["model.penalty.l2=0"])


def test_a_run_that_has_not_converged_is_refused(tmp_path: Path) -> None:
    store = write(tmp_path / "s", draw("logistic"))
    run = train(store, tmp_path / "run", solver__max_passes=2)
    with pytest.raises(
        RunDirectoryError, match=r"has not converged \(status pass_limit.*resume=True"
    ):
        streamlr.summary(run)
    x = np.linspace(-1, 1, 40)
    run = train(
        write(tmp_path / "separable", {"X": x[:, None], "y": (x > 0).astype(int)}),
        tmp_path / "diverged",
        solver__max_passes=40,
    )
    with pytest.raises(RunDirectoryError, match=r"status diverged.*no optimum"):
        streamlr.summary(run)
    (tmp_path / "bare").mkdir()
    streamlr.load_model(run).save(tmp_path / "bare" / "model.zarr")
    with pytest.raises(RunDirectoryError, match=r"no summary\.json"):
        streamlr.summary(tmp_path / "bare")


@pytest.mark.parametrize("family", ["logistic", "poisson", "softmax"])
def test_classes_that_are_separated_in_part_are_refused_though_the_gradient_vanishes(
    family: str, tmp_path: Path
) -> None:
    data = draw(family)
    rare = np.zeros(len(data["y"]))
    rare[np.flatnonzero(data["y"] == ("no" if family == "logistic" else 0))[:8]] = (
        1.0  # whoever has it has one outcome, or no count at all
    )
    run = train(
        write(
            tmp_path / "s",
            {"X": np.column_stack([data["X"], rare]), "y": data["y"]},
            ["a", "b", "c", "rare"],
        ),
        tmp_path / "run",
        family,
        solver__tolerance=1e-6,
    )
    facts = json.loads((run / "summary.json").read_text())
    # Newton's method and L-BFGS tell so themselves; gradient descent, which knows no curvature,
    # takes it for the optimum, after ten thousand passes
    assert facts["status"] == "diverged"
    (run / "summary.json").write_text(json.dumps({**facts, "status": "converged"}))
    with pytest.raises(DataError, match=r"rises for ever.*'rare'.*separated.*leave out or merge"):
        streamlr.summary(run)


@pytest.mark.parametrize(
    ("combine", "named"),
    [
        (lambda X: X[:, 0] + 2 * X[:, 2], r"'a', 'c', 'd' is a combination of the others"),
        (lambda X: np.full(len(X), 3.0), r"coefficient of 'd'.*constant"),
    ],
)
@pytest.mark.parametrize("family", ["logistic", "softmax"])
def test_features_that_are_combinations_of_others_are_named(
    combine: Callable[[Array], Array], named: str, family: str, tmp_path: Path
) -> None:
    data = draw(family)
    X = (data["X"] - [0, 400, 3]) / [1, 50, 0.02]
    store = write(
        tmp_path / "s",
        {"X": np.column_stack([X, combine(X)]), "y": data["y"]},
        ["a", "b", "c", "d"],
    )
    run = train(store, tmp_path / "run", family, solver__name="lbfgs", solver__tolerance=1e-7)
    with pytest.raises(DataError, match=named):
        streamlr.summary(run)


def test_other_data_are_refused_or_told(tmp_path: Path) -> None:
    data = draw("logistic")
    run = train(write(tmp_path / "s", data), tmp_path / "run")
    with pytest.raises(ShapeError, match=r"has 399 rows, and the model in .* was trained on 400"):
        streamlr.summary(
            run, write(tmp_path / "short", {name: values[:399] for name, values in data.items()})
        )
    with pytest.raises(DataError, match=r"not the optimum of these data: .* standard errors away"):
        streamlr.summary(run, write(tmp_path / "other", draw("logistic", seed=8)))
    with pytest.raises(DataError, match="not the optimum of these data"):
        streamlr.summary(run, overrides=["data.weights=w"])
    with pytest.raises(
        LabelError, match=r"holds the classes \['maybe', 'no'\].*trained on \['no', 'yes'\]"
    ):
        streamlr.summary(
            run,
            write(tmp_path / "labels", {**data, "y": np.where(data["y"] == "yes", "maybe", "no")}),
        )
    reads = Reads()
    moved = streamlr.summary(run, write(tmp_path / "moved", data))
    changed = streamlr.summary(
        run,
        write(tmp_path / "touched", {**data, "X": data["X"] * (1 + 1e-12)}),
        subscribers=[reads],
    )
    assert (moved.notes, "not, bit by bit, those" in reads.notes[0]) == ((), True)
    assert changed.notes == tuple(reads.notes)


def test_a_model_near_its_optimum_says_how_near(tmp_path: Path) -> None:
    run = train(
        write(tmp_path / "s", draw("linear")),
        tmp_path / "run",
        "linear",
        solver__name="gradient_descent",
        solver__learning_rate=1e-5,
        solver__tolerance=10.0,
    )
    with pytest.raises(DataError, match=r"standard errors away from it.*smaller solver\.tolerance"):
        streamlr.summary(run)


def test_class_weights_make_no_likelihood(tmp_path: Path) -> None:
    run = train(
        write(tmp_path / "s", draw("logistic")), tmp_path / "run", model__class_weight="balanced"
    )
    with pytest.raises(
        ConfigError, match=r"weights of classes make no likelihood.*errors='robust'"
    ):
        streamlr.summary(run)
    found = streamlr.summary(run, errors="robust")
    assert (found.log_likelihood, found.aic, found.pseudo_r2) == (None, None, None)
    assert any("no likelihood" in note for note in found.notes)
    data = draw("logistic")
    share = {label: float(np.mean(data["y"] == label)) for label in ("no", "yes")}
    weighted = {**data, "w": np.array([0.5 / share[label] for label in data["y"]])}
    same = streamlr.summary(
        train(write(tmp_path / "w", weighted), tmp_path / "weighted", data__weights="w"),
        errors="robust",
    )
    np.testing.assert_allclose(
        columns(found, "standard_error"), columns(same, "standard_error"), rtol=TIGHT
    )


def test_more_than_there_is_room_for_is_refused_with_both_numbers(
    fitted: Callable[..., tuple[Path, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    run, _ = fitted("logistic")
    with pytest.raises(MemoryLimitError, match=r"the run needs about .* MB .* is 60 MB"):
        streamlr.summary(run, overrides=["cluster.memory_limit=60MB"])
    with monkeypatch.context() as patch:
        patch.setattr(inference, "MOST_GROUP_VALUES", 4 * 29)
        with pytest.raises(
            MemoryLimitError,
            match=r"g in .* holds 30 groups or more, and there is room for the sums of 29 ",
        ):
            streamlr.summary(run, groups="g")
    with monkeypatch.context() as patch:
        patch.setattr(inference, "_COPIES_OF_GROUPS", 10**9)
        with pytest.raises(
            MemoryLimitError,
            match=r"errors clustered of 4 parameters and 30 groups need about .* and "
            r"cluster\.memory_limit is 2000 MB",
        ):
            streamlr.summary(run, groups="g", overrides=["cluster.memory_limit=2GB"])
    monkeypatch.setattr(inference, "MOST_PARAMETERS", 3)
    with pytest.raises(
        MemoryLimitError, match="4 parameters, and a covariance is made of 3 at most"
    ):
        streamlr.summary(run)


def test_what_cannot_be_meant_is_refused(
    fitted: Callable[..., tuple[Path, dict[str, Any]]], tmp_path: Path
) -> None:
    run, data = fitted("logistic")
    for arguments, message in (
        ({"errors": "HC7"}, "errors: 'HC7' is none of"),
        ({"weights": "importance"}, "weights: 'importance' is none of"),
        ({"confidence": 95}, "confidence: 95 is out of range"),
        ({"errors": "robust", "groups": "g"}, "take every row for its own"),
        ({"errors": "clustered"}, "there are no groups; name an array"),
    ):
        with pytest.raises(ConfigError, match=message):
            streamlr.summary(run, **arguments)  # type: ignore[arg-type]
    with pytest.raises(DataError, match="no array 'nowhere'"):
        streamlr.summary(run, groups="nowhere")
    one = train(write(tmp_path / "s", {**data, "g": np.zeros(len(data["y"]))}), tmp_path / "run")
    with pytest.raises(DataError, match="holds one group only"):
        streamlr.summary(one, groups="g")
    tiny = train(
        write(tmp_path / "tiny", {"X": np.array([[0.0], [1.0]]), "y": [1.0, 2.0]}),
        tmp_path / "two",
        "linear",
    )
    with pytest.raises(
        DataError, match="2 observations and 2 parameters leave no degree of freedom"
    ):
        streamlr.summary(tiny)


# Tails


def test_tails_are_those_of_scipy() -> None:
    z = np.array([0.0, 1e-9, 0.5, 1.96, 8.0, 37.0])
    np.testing.assert_allclose(
        two_sided_p(z, None), 2 * scipy.stats.norm.sf(z), rtol=1e-12
    )  # exponentials of numbers of 700
    for df in (1.0, 9.0, 4994.0, 5e6):
        expected = [
            float(mpmath.betainc(df / 2, 0.5, 0, df / (df + t * t), regularized=True))
            for t in z[1:5]
        ]
        np.testing.assert_allclose(two_sided_p(z[1:5], df), expected, rtol=1e-9)
        assert quantile(0.95, df) == pytest.approx(scipy.stats.t.isf(0.025, df), rel=1e-9)
    for confidence in (0.5, 0.95, 1 - 1e-12):
        assert quantile(confidence, None) == pytest.approx(
            scipy.stats.norm.isf(0.5 * (1 - confidence)), rel=1e-12
        )
    for df in (1, 2, 3, 10, 501, 4000):
        for x in (0.0, 0.3 * df, df, 2.0 * df, 700.0):
            exact = float(mpmath.gammainc(df / 2, x / 2, regularized=True))
            assert chi_squared_tail(x, df) == pytest.approx(
                exact, rel=1e-11, abs=1e-300
            )  # terms are exponentials of numbers of 1,000
    assert f_tail(330.285339234588, 6, 9) == pytest.approx(
        scipy.stats.f.sf(330.285339234588, 6, 9), rel=1e-12
    )


def test_logarithms_of_factorials() -> None:
    y = np.array([0.0, 1.0, 2.0, 0.5, 3.25, 12.0, 170.0, 1e6, 1e12])
    exact = np.array([float(mpmath.loggamma(mpmath.mpf(value) + 1)) for value in y])
    np.testing.assert_allclose(
        log_factorial(y), exact, rtol=4e-15, atol=1e-13
    )  # beside numbers of 15, which cancel where the result is small


def test_without_scipy_there_is_z(
    fitted: Callable[..., tuple[Path, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "scipy.special", None)
    assert streamlr.summary(fitted("logistic")[0]).likelihood_ratio_p is not None
    with pytest.raises(ConfigError, match=r"pip install 'streamlr\[inference\]'.*errors='robust'"):
        streamlr.summary(fitted("linear")[0])
    robust = streamlr.summary(fitted("linear")[0], errors="robust")
    assert (robust.f_p, robust.f is None, any("SciPy" in note for note in robust.notes)) == (
        None,
        False,
        True,
    )


# Command line


def test_the_command_prints_the_table_or_json(
    fitted: Callable[..., tuple[Path, dict[str, Any]]],
) -> None:
    run, _ = fitted("softmax")
    result = runner().invoke(cli, ["summary", str(run), "--confidence", "0.9"])
    assert result.exit_code == 0, result.output
    for text in (
        "softmax model, classical errors",
        "pseudo R²",
        "class 1 ",
        "class 2 ",
        "P>|z|",
        "[0.05",
        "0.95]",
    ):
        assert text in result.stderr
    assert result.stderr.strip() == str(streamlr.summary(run, confidence=0.9))
    result = runner().invoke(
        cli,
        [
            "summary",
            str(run),
            "--groups",
            "g",
            "--weights",
            "frequency",
            "--set",
            "cluster.kind=threads",
            "--quiet",
            "--json",
        ],
    )
    assert json.loads(result.stdout) == streamlr.summary(run, groups="g").to_dict()
    assert result.stderr == ""


def test_names_from_the_data_steer_no_terminal(tmp_path: Path) -> None:
    run = train(
        write(tmp_path / "s", draw("logistic"), ["a\x1b[2J", "b\nc", "d"]), tmp_path / "run"
    )
    shown = str(streamlr.summary(run))
    assert "\x1b" not in shown
    assert "b\\x0ac" in shown
