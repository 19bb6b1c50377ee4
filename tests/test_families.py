"""Loss and activation of every family against 60 digits of mpmath, where naive formulas overflow or lose their digits."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import mpmath
import numpy as np
import pytest

from streamlr.kernels.families import FAMILIES

EPS = float(np.finfo(np.float64).eps)
Z_VALUES = [0.0, 1e-8, -1e-8, 0.3, -2.0, 37.5, -37.5, 232.8, -232.8, 1000.0, -1000.0, 1e20, -1e20]


def logistic_activation(z: mpmath.mpf) -> mpmath.mpf:
    return 1 / (1 + mpmath.exp(-z))


def logistic_loss(z: mpmath.mpf, y: int) -> mpmath.mpf:
    return mpmath.log1p(mpmath.exp(z if y == 0 else -z))


ACTIVATIONS: dict[str, Callable[[mpmath.mpf], mpmath.mpf]] = {"logistic": logistic_activation}
LOSSES: dict[str, Callable[[mpmath.mpf, int], mpmath.mpf]] = {"logistic": logistic_loss}

families = pytest.mark.parametrize("name", list(FAMILIES))
at_z = pytest.mark.parametrize("z", Z_VALUES)
with_y = pytest.mark.parametrize("y", [0, 1])


def reference(value: mpmath.mpf) -> float:
    """Rounded to float64; what lies below its smallest number is 0."""
    return float(value)


def at(name: str, z: float, y: int) -> tuple[float, float]:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss, A = FAMILIES[name].loss_and_activation(np.array([[z]]), np.array([[float(y)]]))
    return float(loss[0, 0]), float(A[0, 0])


@families
def test_every_family_has_an_oracle_here(name: str) -> None:
    assert name in ACTIVATIONS
    assert name in LOSSES


@families
@at_z
def test_the_activation_is_right_to_a_few_units_in_the_last_place(name: str, z: float) -> None:
    with mpmath.workdps(60), warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = reference(ACTIVATIONS[name](mpmath.mpf(z)))
        found = float(FAMILIES[name].activate(np.array([z]))[0])
    # exp, a sum and a quotient, each rounded once; 1e-300 lets what underflows be 0
    assert found == pytest.approx(expected, rel=4 * EPS, abs=1e-300)


@families
@at_z
@with_y
def test_the_loss_is_right_to_a_few_units_in_the_last_place(name: str, z: float, y: int) -> None:
    """Also where the example is right and its loss is tiny: log1p(e) must not be added to a large Z before Y Z is taken off."""
    with mpmath.workdps(60):
        expected = reference(LOSSES[name](mpmath.mpf(z), y))
    assert at(name, z, y)[0] == pytest.approx(expected, rel=4 * EPS, abs=1e-300)


@families
@with_y
@at_z
def test_the_activation_beside_the_loss_is_the_activation(name: str, z: float, y: int) -> None:
    assert at(name, z, y)[1] == float(FAMILIES[name].activate(np.array([z]))[0])


@families
@with_y
@at_z
def test_the_backward_term_is_right_to_rounding_of_a_number_of_size_one(name: str, z: float, y: int) -> None:
    with mpmath.workdps(60):
        expected = reference(ACTIVATIONS[name](mpmath.mpf(z)) - y)
    # dZ = A - Y is taken of an A that is rounded once at size 1
    assert at(name, z, y)[1] - y == pytest.approx(expected, rel=4 * EPS, abs=EPS)


@families
def test_the_backward_term_is_the_derivative_of_the_loss(name: str) -> None:
    z, h = np.linspace(-6, 6, 49)[None, :], 1e-5
    for y in (0.0, 1.0):
        Y = np.full_like(z, y)
        slope = (FAMILIES[name].loss_and_activation(z + h, Y)[0] - FAMILIES[name].loss_and_activation(z - h, Y)[0]) / (2 * h)
        # truncation h²/6 · max|third derivative| (below 0.1) = 2e-12, rounding eps · 6 / h = 1e-10
        np.testing.assert_allclose(FAMILIES[name].activate(z) - Y, slope, rtol=0, atol=5e-10)


@families
def test_the_curvature_is_the_derivative_of_the_activation(name: str) -> None:
    z, h = np.linspace(-6, 6, 49)[None, :], 1e-5
    family = FAMILIES[name]
    slope = (family.activate(z + h) - family.activate(z - h)) / (2 * h)
    np.testing.assert_allclose(family.curvature(family.activate(z)), slope, rtol=0, atol=1e-10)


@families
def test_the_link_undoes_the_activation(name: str) -> None:
    mean = np.array([1e-300, 1e-12, 0.1, 0.5, 0.75, 1 - 1e-12])
    # an error of 4 eps in a link of at most 691 moves a small mean by 691 * 4 eps of itself = 6e-13
    np.testing.assert_allclose(FAMILIES[name].activate(FAMILIES[name].link(mean)), mean, rtol=1e-12, atol=0)


@families
@pytest.mark.parametrize("mean", [0.5, 0.25, 0.999, 1e-9])
@at_z
def test_the_mean_loss_is_the_mean_of_the_losses_at_one_z(name: str, mean: float, z: float) -> None:
    with mpmath.workdps(60), warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = reference(mean * LOSSES[name](mpmath.mpf(z), 1) + (1 - mpmath.mpf(mean)) * LOSSES[name](mpmath.mpf(z), 0))
        found = FAMILIES[name].mean_loss(np.array([mean]), np.array([z]))
    # one term is the difference of two numbers of size |z|
    assert found == pytest.approx(expected, rel=8 * EPS, abs=4 * EPS * abs(z))


@families
def test_a_loss_below_the_certain_loss_means_that_the_example_is_on_its_own_side(name: str) -> None:
    bound = FAMILIES[name].certain_loss
    for z in np.linspace(-3, 3, 121):
        for y in (0, 1):
            right = z > 0 if y == 1 else z < 0
            assert right or at(name, float(z), y)[0] >= bound * (1 - 2 * EPS)


@families
def test_inputs_are_not_written_to(name: str) -> None:
    Z, Y = np.array([Z_VALUES]), np.tile([0.0, 1.0], 7)[None, : len(Z_VALUES)]
    Z.setflags(write=False)
    Y.setflags(write=False)
    FAMILIES[name].loss_and_activation(Z, Y)
    FAMILIES[name].activate(Z)
    FAMILIES[name].curvature(FAMILIES[name].activate(Z))
