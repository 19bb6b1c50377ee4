"""The objective and its derivatives, in every setting of the model and in both coordinates, against
extended precision."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray

from streamlr.config.sections import ModelConfig, PenaltyConfig
from streamlr.data.source import ArraySource
from streamlr.execution.local import SerialEngine
from streamlr.execution.scanner import Scanner
from streamlr.kernels.families import FAMILIES
from streamlr.kernels.scans.moments import MomentScan
from streamlr.objective.objective import Moments, Objective, data_coordinates, standard_coordinates

Array = NDArray[np.float64]
Wide = NDArray[np.longdouble]
m, n = 60, 3

SETTINGS = [
    pytest.param(
        l2,
        standardize,
        intercept,
        coordinates,
        weighted,
        id=f"l2={l2}-{'standardize' if standardize else 'as given'}-{'intercept' if intercept else 'no intercept'}-{coordinates}-"
        f"{'weighted' if weighted else 'plain'}",
    )
    for l2, standardize, intercept, coordinates, weighted in itertools.product(
        (0.0, 0.3), (False, True), (True, False), ("standard", "data"), (False, True)
    )
]
every_setting = pytest.mark.parametrize(
    ("l2", "standardize", "intercept", "coordinates", "weighted"), SETTINGS
)


@dataclass(frozen=True)
class Problem:
    """Data in memory and the objective on them."""

    X: Array
    y: NDArray[np.int64]
    weights: Array
    l2: float
    standardize: bool
    objective: Objective

    def value(self, W: Wide, b: np.longdouble) -> np.longdouble:
        """J from its definition, in extended precision where the machine has it."""
        X, omega, y = self.X.astype(np.longdouble), self.weights.astype(np.longdouble), self.y
        z = X @ W + b
        loss = np.log1p(np.exp(-np.abs(z))) + (np.maximum(z, 0) - y * z)
        mean = (omega @ X) / omega.sum()
        spread = (
            np.sqrt(omega @ (X - mean) ** 2 / omega.sum())
            if self.standardize
            else np.ones(n, dtype=np.longdouble)
        )
        return (omega @ loss) / omega.sum() + np.longdouble(self.l2) / 2 * np.sum((spread * W) ** 2)

    def value_at(self, point: Wide) -> np.longdouble:
        """J as a function of the parameters."""
        at = self.objective.coordinates
        W = point[:n] / at.scale
        b = point[n] - at.center @ W if at.fit_intercept else np.longdouble(0)
        return self.value(W, b)


def arrays(weighted: bool, seed: int = 0) -> tuple[Array, NDArray[np.int64], Array]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(m, n)) * np.array([0.5, 3.0, 1.0]) + np.array([1.0, -4.0, 0.25])
    return X, rng.integers(0, 2, m), rng.uniform(0.2, 2.0, m) if weighted else np.ones(m)


def problem(
    l2: float = 0.0,
    standardize: bool = False,
    intercept: bool = True,
    coordinates: str = "standard",
    weighted: bool = False,
    units: Array | None = None,
) -> Problem:
    X, y, weights = arrays(weighted)
    if units is not None:
        X = X * units
    source = ArraySource(X, y, weights if weighted else None)
    scanner = Scanner(SerialEngine(), source, lambda event: None)
    classes = np.array([0, 1])
    moments = Moments.from_sums(scanner.run(MomentScan(classes, 0.0, 0), "survey"))
    make = {"standard": standard_coordinates, "data": data_coordinates}[coordinates]
    model = ModelConfig("logistic", intercept, standardize, PenaltyConfig(l2))
    return Problem(
        X,
        y,
        weights,
        l2,
        standardize,
        Objective(scanner, model, classes, moments, make(moments, intercept)),
    )


def some_point(size: int, seed: int = 1) -> Array:
    return np.random.default_rng(seed).normal(size=size) * 0.5


def central(values: list[np.longdouble] | list[Array], h: float) -> Array:
    """Derivative from values at -2h, -h, h and 2h; the truncation is h⁴/30 of the fifth
    derivative."""
    a, b, c, d = values
    return np.asarray((8 * (c - b) - (d - a)) / (12 * h), dtype=np.float64)


def stencil(point: Array, j: int, h: float) -> list[Wide]:
    e = np.zeros(len(point), dtype=np.longdouble)
    e[j] = h
    return [point.astype(np.longdouble) + k * e for k in (-2, -1, 1, 2)]


@every_setting
def test_the_value_and_its_gradient_are_those_of_the_definition(
    l2: float, standardize: bool, intercept: bool, coordinates: str, weighted: bool
) -> None:
    p = problem(l2, standardize, intercept, coordinates, weighted)
    point = some_point(p.objective.size)
    found = p.objective.evaluate(point[None, :], "t")[0]
    # 60 terms of size 10 in float64
    assert found.value == pytest.approx(float(p.value_at(point.astype(np.longdouble))), rel=1e-13)
    slopes = [
        central([p.value_at(x) for x in stencil(point, j, 1e-3)], 1e-3)
        for j in range(p.objective.size)
    ]
    # truncation: h⁴/30 times the fifth derivative, at most 20⁵ / 10 for |x| up to 15 = 1e-8 in the
    # units of the data
    np.testing.assert_allclose(
        found.gradient, slopes, rtol=0, atol=1e-8 if coordinates == "data" else 1e-11
    )


@every_setting
def test_the_hessian_is_the_derivative_of_the_gradient(
    l2: float, standardize: bool, intercept: bool, coordinates: str, weighted: bool
) -> None:
    p = problem(l2, standardize, intercept, coordinates, weighted)
    point = some_point(p.objective.size)
    found = p.objective.evaluate(point[None, :], "t", hessian=True)[0]
    assert found.hessian is not None
    slopes = []
    for j in range(p.objective.size):
        around = np.stack([x.astype(np.float64) for x in stencil(point, j, 1e-3)])
        slopes.append(central([at.gradient for at in p.objective.evaluate(around, "t")], 1e-3))
    np.testing.assert_allclose(
        found.hessian, np.stack(slopes), rtol=0, atol=1e-7 if coordinates == "data" else 1e-10
    )


@every_setting
def test_a_point_of_intercepts_needs_no_pass(
    l2: float, standardize: bool, intercept: bool, coordinates: str, weighted: bool
) -> None:
    p = problem(l2, standardize, intercept, coordinates, weighted)
    point = p.objective.start()
    if intercept:
        point[-1] += 0.7  # any intercept will do, not the best alone
    passes = p.objective.scanner.passes
    free = p.objective.without_features(point)
    assert p.objective.scanner.passes == passes
    paid = p.objective.evaluate(point[None, :], "t")[0]
    # the same sums by another way: m terms of size 10
    assert free.value == pytest.approx(paid.value, rel=1e-13)
    assert free.loss == pytest.approx(paid.loss, rel=1e-13)
    np.testing.assert_allclose(free.gradient, paid.gradient, rtol=0, atol=1e-12)
    assert free.gradient_max == pytest.approx(paid.gradient_max, abs=1e-12)


def test_the_gradient_is_right_to_50_digits_of_mpmath() -> None:
    p = problem(l2=0.3, coordinates="data", weighted=True)
    point = some_point(n + 1)
    with mpmath.workdps(50):
        total = mpmath.fsum(mpmath.mpf(w) for w in p.weights)
        z = [
            mpmath.fsum(
                [
                    *(mpmath.mpf(x) * mpmath.mpf(v) for x, v in zip(row, point[:n], strict=True)),
                    mpmath.mpf(point[n]),
                ]
            )
            for row in p.X
        ]
        dz = [
            mpmath.mpf(w) * (1 / (1 + mpmath.exp(-t)) - int(y))
            for w, t, y in zip(p.weights, z, p.y, strict=True)
        ]
        expected = [
            float(
                mpmath.fsum(d * mpmath.mpf(row[j]) for d, row in zip(dz, p.X, strict=True)) / total
                + mpmath.mpf(0.3) * mpmath.mpf(point[j])
            )
            for j in range(n)
        ] + [float(mpmath.fsum(dz) / total)]
    np.testing.assert_allclose(
        p.objective.evaluate(point[None, :], "t")[0].gradient,
        expected,
        rtol=0,
        atol=m * 10 * 2.3e-16,
    )


@every_setting
def test_both_coordinates_describe_the_same_function(
    l2: float, standardize: bool, intercept: bool, coordinates: str, weighted: bool
) -> None:
    one, other = (
        problem(l2, standardize, intercept, kind, weighted) for kind in ("standard", "data")
    )
    W, b = one.objective.coordinates.to_data_units(some_point(one.objective.size))
    found = [
        p.objective.evaluate(p.objective.coordinates.from_data_units(W, b)[None, :], "t")[0]
        for p in (one, other)
    ]
    assert found[0].value == pytest.approx(found[1].value, rel=1e-13)
    assert found[0].gradient_max == pytest.approx(found[1].gradient_max, rel=1e-11)
    del coordinates


@pytest.mark.parametrize("standardize", [False, True])
@pytest.mark.parametrize("l2", [0.0, 0.3])
@pytest.mark.parametrize("coordinates", ["standard", "data"])
@pytest.mark.parametrize("intercept", [True, False])
def test_the_gradient_that_the_tolerance_is_held_against_does_not_depend_on_the_units(
    intercept: bool, coordinates: str, l2: float, standardize: bool
) -> None:
    """Features in other units with coefficients that make the same predictions and, where the
    penalty follows the units, the same penalty."""
    if l2 > 0 and not standardize:
        pytest.skip(
            "a penalty on the coefficients as they are depends on the units by its definition"
        )
    units = np.array([1e-6, 1.0, 1e6])
    plain, scaled = (
        problem(l2, standardize, intercept, coordinates),
        problem(l2, standardize, intercept, coordinates, units=units),
    )
    W, b = plain.objective.coordinates.to_data_units(some_point(plain.objective.size))
    here = plain.objective.evaluate(
        plain.objective.coordinates.from_data_units(W, b)[None, :], "t"
    )[0]
    there = scaled.objective.evaluate(
        scaled.objective.coordinates.from_data_units(W / units[:, None], b)[None, :], "t"
    )[0]
    assert there.gradient_max == pytest.approx(here.gradient_max, rel=1e-11)


@pytest.mark.parametrize("coordinates", ["standard", "data"])
def test_the_gradient_max_is_the_largest_entry_by_standardised_coefficients(
    coordinates: str,
) -> None:
    p = problem(coordinates=coordinates)
    W, b = p.objective.coordinates.to_data_units(some_point(p.objective.size))
    found = p.objective.evaluate(p.objective.coordinates.from_data_units(W, b)[None, :], "t")[0]
    dz = 1 / (1 + np.exp(-(p.X @ W[:, 0] + b[0]))) - p.y
    standardised = (p.X - p.X.mean(axis=0)) / p.X.std(axis=0)
    assert found.gradient_max == pytest.approx(
        float(np.abs(np.append(standardised.T @ dz, dz.sum()) / m).max()), rel=1e-12
    )


@every_setting
def test_parameters_go_to_the_units_of_the_data_and_back(
    l2: float, standardize: bool, intercept: bool, coordinates: str, weighted: bool
) -> None:
    at = problem(l2, standardize, intercept, coordinates, weighted).objective.coordinates
    point = some_point(at.size)
    W, b = at.to_data_units(point)
    np.testing.assert_allclose(at.from_data_units(W, b), point, rtol=1e-13, atol=1e-14)
    assert intercept or b == 0


@every_setting
def test_the_diagonal_is_that_of_the_hessian_at_the_start(
    l2: float, standardize: bool, intercept: bool, coordinates: str, weighted: bool
) -> None:
    """Exactly where all curvatures are the same, which they are where no feature counts."""
    p = problem(l2, standardize, intercept, coordinates, weighted)
    hessian = p.objective.evaluate(p.objective.start()[None, :], "t", hessian=True)[0].hessian
    assert hessian is not None
    np.testing.assert_allclose(p.objective.diagonal(), np.diag(hessian), rtol=1e-12)


def test_the_intercept_is_never_penalised() -> None:
    for standardize in (False, True):
        p, free = (
            problem(100.0, standardize, coordinates="data"),
            problem(0.0, standardize, coordinates="data"),
        )
        point = np.append(np.zeros(n), 5.0)
        assert (
            p.objective.evaluate(point[None, :], "t")[0].value
            == free.objective.evaluate(point[None, :], "t")[0].value
        )


def test_an_intercept_is_a_column_of_ones() -> None:
    p = problem(coordinates="data")
    X, y, _ = arrays(False)
    source = ArraySource(np.column_stack([X, np.ones(m)]), y)
    scanner = Scanner(SerialEngine(), source, lambda event: None)
    classes = np.array([0, 1])
    moments = Moments.from_sums(scanner.run(MomentScan(classes, 0.0, 0), "survey"))
    other = Objective(
        scanner,
        ModelConfig(fit_intercept=False),
        classes,
        moments,
        data_coordinates(moments, False),
    )
    point = some_point(n + 1)
    one, two = (
        p.objective.evaluate(point[None, :], "t", hessian=True)[0],
        other.evaluate(point[None, :], "t", hessian=True)[0],
    )
    assert one.value == pytest.approx(two.value, rel=1e-14)
    np.testing.assert_allclose(one.gradient, two.gradient, rtol=0, atol=1e-13)
    assert one.hessian is not None
    assert two.hessian is not None
    np.testing.assert_allclose(one.hessian, two.hessian, rtol=0, atol=1e-12)


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("coordinates", ["standard", "data"])
def test_a_mean_far_larger_than_the_spread_costs_no_digits_of_the_gradient(
    coordinates: str, intercept: bool
) -> None:
    """The features are shifted before they are multiplied: 1e9 + x with coefficients of size 1 has
    the slopes of x."""
    X, y, _ = arrays(False)
    far = np.round(X * 2.0**20) / 2.0**20  # so that adding 2^30 is exact
    classes, at = np.array([0, 1]), []
    for offset in (0.0, 2.0**30):
        scanner = Scanner(SerialEngine(), ArraySource(far + offset, y), lambda event: None)
        moments = Moments.from_sums(scanner.run(MomentScan(classes, 0.0, 0), "survey"))
        make = standard_coordinates if coordinates == "standard" else data_coordinates
        objective = Objective(
            scanner,
            ModelConfig(fit_intercept=intercept),
            classes,
            moments,
            make(moments, intercept),
        )
        W = np.array([0.5, -0.25, -0.25])[
            :, None
        ]  # sums to 0, so the offset cancels in Z also without an intercept
        at.append(
            objective.evaluate(
                objective.coordinates.from_data_units(W, np.zeros(1))[None, :], "t", hessian=True
            )[0]
        )
    assert at[1].loss == pytest.approx(at[0].loss, abs=1e-6)
    if intercept:  # without one, the slopes by W hold the offset itself
        assert at[1].gradient_max == pytest.approx(at[0].gradient_max, abs=1e-6)


def test_evaluating_many_points_is_one_pass_and_the_same_as_one_by_one() -> None:
    p = problem(0.3)
    points = np.stack([some_point(p.objective.size, seed) for seed in range(5)])
    before = p.objective.scanner.passes
    together = p.objective.evaluate(points, "t", hessian=True)
    assert p.objective.scanner.passes == before + 1
    assert [found.hessian is not None for found in together] == [True, False, False, False, False]
    for point, found in zip(points, together, strict=True):
        alone = p.objective.evaluate(point[None, :], "t")[0]
        assert found.value == pytest.approx(alone.value, rel=1e-14)
        np.testing.assert_allclose(found.gradient, alone.gradient, rtol=0, atol=1e-14)


def test_a_point_that_classifies_every_example_correctly_separates() -> None:
    X, y = np.arange(6.0)[:, None], np.array([0, 0, 0, 1, 1, 1])
    scanner = Scanner(SerialEngine(), ArraySource(X, y), lambda event: None)
    classes = np.array([0, 1])
    moments = Moments.from_sums(scanner.run(MomentScan(classes, 0.0, 0), "survey"))
    objective = Objective(scanner, ModelConfig(), classes, moments, data_coordinates(moments, True))
    found = objective.evaluate(np.array([[1.0, -2.5], [1.0, -2.0], [-1.0, 2.5]]), "t")
    assert [at.separates for at in found] == [True, False, False]


@pytest.mark.parametrize("value", [0.1, 7.0])
@pytest.mark.parametrize("intercept", [True, False])
def test_a_constant_feature_has_a_gradient_of_zero_beside_an_intercept(
    intercept: bool, value: float
) -> None:
    X, y, _ = arrays(False)
    X[:, 1] = value
    scanner = Scanner(SerialEngine(), ArraySource(X, y), lambda event: None)
    classes = np.array([0, 1])
    moments = Moments.from_sums(scanner.run(MomentScan(classes, 0.0, 0), "survey"))
    objective = Objective(scanner, ModelConfig(fit_intercept=intercept), classes, moments)
    found = objective.evaluate(some_point(objective.size)[None, :], "t")[0]
    # without an intercept a constant is a feature like any other
    assert (abs(found.gradient[1]) < 1e-13) == intercept


def test_the_start_is_the_best_model_without_features() -> None:
    p = problem(weighted=True)
    start = p.objective.start()
    assert FAMILIES["logistic"].activate(start[-1:])[0] == pytest.approx(
        np.average(p.y, weights=p.weights), rel=1e-14
    )
    assert p.objective.evaluate(start[None, :], "t")[0].gradient[-1] == pytest.approx(0, abs=1e-14)
