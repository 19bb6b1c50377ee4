"""Loss and activation of every family against 60 digits of mpmath, where naive formulas overflow or
lose their digits."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import mpmath
import numpy as np
import pytest
from numpy.typing import NDArray

from streamlr.errors import DtypeError, LabelError, NonFiniteError
from streamlr.kernels.families import FAMILIES, family_of

Array = NDArray[np.float64]
EPS = float(np.finfo(np.float64).eps)
Z_VALUES = [0.0, 1e-8, -1e-8, 0.3, -2.0, 37.5, -37.5, 232.8, -232.8, 1000.0, -1000.0, 1e20, -1e20]
EXPONENTS = [z for z in Z_VALUES if z < 700]
"""Where exp is finite."""


@dataclass(frozen=True)
class Oracle:
    """A family from its definition, for one example."""

    activation: Callable[[list[Any]], list[Any]]
    loss: Callable[[list[Any], list[Any]], Any]
    Z: list[list[float]]
    """Extreme values of Z, one of each output."""
    Y: list[list[float]]
    """Targets, one of each output."""
    means: list[list[float]]
    """Means of the target."""


def softmax_activation(z: list[Any]) -> list[Any]:
    total = mpmath.fsum(mpmath.exp(v) for v in z)
    return [mpmath.exp(v) / total for v in z]


def softmax_loss(z: list[Any], y: list[Any]) -> Any:
    right = mpmath.fsum(a * b for a, b in zip(z, y, strict=True))
    rest = mpmath.fsum(mpmath.exp(v - right) for v, t in zip(z, y, strict=True) if not t)
    return mpmath.log1p(rest)


ORACLES: dict[str, Oracle] = {
    "linear": Oracle(
        lambda z: z,
        lambda z, y: (z[0] - y[0]) ** 2 / 2,
        [[z] for z in Z_VALUES],
        [[0.0], [1.0], [-3.75], [1e6]],
        [[0.5], [-7.0]],
    ),
    "logistic": Oracle(
        lambda z: [1 / (1 + mpmath.exp(-z[0]))],
        lambda z, y: mpmath.log1p(mpmath.exp(-z[0] if y[0] else z[0])),
        [[z] for z in Z_VALUES],
        [[0.0], [1.0]],
        [[0.5], [0.25], [0.999], [1e-9]],
    ),
    "softmax": Oracle(
        softmax_activation,
        softmax_loss,
        [
            *([0.0, z, 0.0] for z in Z_VALUES),
            *([z, z, z] for z in Z_VALUES),
            *([z, -z, 0.0] for z in Z_VALUES),
            [1000.0, 1000.0, -1000.0],
        ],
        [[1.0, 0.0, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]],
        [[0.25, 0.5, 0.25], [1e-9, 0.999, 1 - 0.999 - 1e-9]],
    ),
    "poisson": Oracle(
        lambda z: [mpmath.exp(z[0])],
        lambda z, y: mpmath.exp(z[0]) - y[0] * z[0],
        [[z] for z in EXPONENTS],
        [[0.0], [1.0], [7.0]],
        [[0.5], [12.0], [1e-9]],
    ),
}

families = pytest.mark.parametrize("name", list(FAMILIES))
CASES = [
    pytest.param(name, z, y, id=f"{name}-{z}-{y}")
    for name, oracle in ORACLES.items()
    for z in oracle.Z
    for y in oracle.Y
]
every_case = pytest.mark.parametrize(("name", "z", "y"), CASES)


def mp(values: list[float]) -> list[Any]:
    return [mpmath.mpf(value) for value in values]


def column(values: list[float]) -> Array:
    return np.array(values)[:, None]


def at(name: str, z: list[float], y: list[float]) -> tuple[float, Array]:
    """Loss and activation of one example, without a warning."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loss, A = FAMILIES[name].loss_and_activation(column(z), column(y))
    return float(loss.sum()), A[:, 0]


def smooth(name: str) -> tuple[Array, Array]:
    """Moderate Z, (c, 49), and the number of outputs."""
    c = len(ORACLES[name].Z[0])
    z = np.linspace(-6, 6, 49)
    return np.stack([z * (0.5 + k) for k in range(c)]) / c, np.eye(c)


@families
def test_every_family_has_an_oracle_here(name: str) -> None:
    assert name in ORACLES
    assert FAMILIES[name].name == name


@every_case
def test_the_activation_is_right_to_a_few_units_in_the_last_place(
    name: str, z: list[float], y: list[float]
) -> None:
    del y
    with mpmath.workdps(60), warnings.catch_warnings():
        warnings.simplefilter("error")
        expected = [float(a) for a in ORACLES[name].activation(mp(z))]
        found = FAMILIES[name].activate(column(z))[:, 0]
    # exp, a sum and a quotient, each rounded once; 1e-300 lets what underflows be 0
    np.testing.assert_allclose(found, expected, rtol=4 * EPS, atol=1e-300)


@every_case
def test_the_loss_is_right_to_a_few_units_in_the_last_place(
    name: str, z: list[float], y: list[float]
) -> None:
    """Also where the example is right and its loss is tiny: log1p(e) must not be added to a large Z
    before Y Z is taken off."""
    with mpmath.workdps(60):
        expected = float(ORACLES[name].loss(mp(z), mp(y)))
    # the loss of counts is a difference of two terms that are rounded before
    terms = float(np.exp(z[0])) + abs(y[0] * z[0]) if name == "poisson" else 0.0
    assert at(name, z, y)[0] == pytest.approx(expected, rel=4 * EPS, abs=1e-300 + 2 * EPS * terms)


@every_case
def test_the_activation_beside_the_loss_is_the_activation(
    name: str, z: list[float], y: list[float]
) -> None:
    assert at(name, z, y)[1].tolist() == FAMILIES[name].activate(column(z))[:, 0].tolist()


@families
def test_candidates_are_carried_along(name: str) -> None:
    Z, _ = smooth(name)
    Y = np.zeros_like(Z)
    Y[0] = 1.0
    many = np.stack([Z, -Z, 0.5 * Z])
    loss, A = FAMILIES[name].loss_and_activation(many, Y)
    for k, one in enumerate(many):
        alone = FAMILIES[name].loss_and_activation(one, Y)
        assert (loss[k].tolist(), A[k].tolist()) == (alone[0].tolist(), alone[1].tolist())


@families
def test_the_backward_term_is_the_derivative_of_the_loss(name: str) -> None:
    """dZ = A - Y, the one line, is right for each of them."""
    (Z, unit), family, h = smooth(name), FAMILIES[name], 1e-5
    for y in ORACLES[name].Y:
        Y = np.repeat(column(y), Z.shape[1], axis=1) if abs(y[0]) < 10 else np.zeros_like(Z)
        A = family.loss_and_activation(Z, Y)[1]
        for output, direction in enumerate(unit):
            step = h * direction[:, None]
            slope = (
                family.loss_and_activation(Z + step, Y)[0]
                - family.loss_and_activation(Z - step, Y)[0]
            ).sum(axis=0) / (2 * h)
            # truncation h²/6 times the third derivative (at most exp(3) = 20 here) = 3e-10,
            # rounding eps * 50 / h = 1e-9
            np.testing.assert_allclose((A - Y)[output], slope, rtol=0, atol=2e-9)


@families
def test_the_curvature_is_the_derivative_of_the_activation(name: str) -> None:
    (Z, unit), family, h = smooth(name), FAMILIES[name], 1e-5
    curvature = family.curvature(family.activate(Z))
    for output, direction in enumerate(unit):
        step = h * direction[:, None]
        slope = (family.activate(Z + step) - family.activate(Z - step))[output] / (2 * h)
        # truncation as above, relative to an activation of at most 20
        np.testing.assert_allclose(curvature[output], slope, rtol=0, atol=2e-9)


@families
def test_the_link_undoes_the_activation(name: str) -> None:
    for mean in ORACLES[name].means:
        # an error of 4 eps in a link of at most 21 moves a small mean by 80 eps of itself
        np.testing.assert_allclose(
            FAMILIES[name].activate(FAMILIES[name].link(np.array(mean))[:, None])[:, 0],
            mean,
            rtol=1e-13,
            atol=0,
        )


def test_the_logistic_link_undoes_the_activation_at_the_ends() -> None:
    mean, family = np.array([1e-300, 1e-12, 0.1, 0.5, 0.75, 1 - 1e-12]), FAMILIES["logistic"]
    # an error of 4 eps in a link of at most 691 moves a small mean by 691 * 4 eps of itself = 6e-13
    np.testing.assert_allclose(family.activate(family.link(mean)), mean, rtol=1e-12, atol=0)


def test_the_link_of_softmax_sums_to_zero() -> None:
    assert FAMILIES["softmax"].link(np.array([0.2, 0.3, 0.5])).sum() == pytest.approx(
        0, abs=4 * EPS
    )


@pytest.mark.parametrize(
    ("name", "mean", "z"),
    [
        (name, mean, z)
        for name, oracle in ORACLES.items()
        for mean in oracle.means
        for z in oracle.Z
    ],
)
def test_the_mean_loss_is_the_mean_of_the_losses_at_one_z(
    name: str, mean: list[float], z: list[float]
) -> None:
    """The loss is linear in Y but for least squares, where the variance of Y adds half of
    itself."""
    with mpmath.workdps(60), warnings.catch_warnings():
        warnings.simplefilter("error")
        oracle, exact = ORACLES[name], mp(mean)
        if name == "softmax":
            exact[-1] = 1 - sum(exact[:-1])
            expected = float(
                mpmath.fsum(
                    weight * oracle.loss(mp(z), mp(list(one)))
                    for weight, one in zip(exact, np.eye(len(z)).tolist(), strict=True)
                )
            )
        elif name == "logistic":
            expected = float(
                exact[0] * oracle.loss(mp(z), mp([1.0]))
                + (1 - exact[0]) * oracle.loss(mp(z), mp([0.0]))
            )
        else:
            expected = float(oracle.loss(mp(z), exact) + (1.5 if name == "linear" else 0))
        found = FAMILIES[name].mean_loss(np.array(mean), np.array(z), np.array([3.0]))
    # one term is the difference of two numbers of size |z|
    assert found == pytest.approx(expected, rel=8 * EPS, abs=8 * EPS * max(map(abs, z)))


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if family.labelled])
def test_a_loss_below_the_certain_loss_means_that_the_example_is_on_its_own_side(name: str) -> None:
    bound = FAMILIES[name].certain_loss
    assert bound > 0
    for z in np.linspace(-3, 3, 121):
        for y in ORACLES[name].Y:
            Z = [float(z), -0.3 * float(z), 0.25][: len(y)]
            right = (
                (Z[0] > 0) == bool(y[0]) if len(y) == 1 else int(np.argmax(Z)) == int(np.argmax(y))
            )
            assert right or at(name, Z, y)[0] >= bound * (1 - 2 * EPS)


@pytest.mark.parametrize("name", [name for name, family in FAMILIES.items() if not family.labelled])
def test_numbers_are_never_separable(name: str) -> None:
    """The loss of counts is below 0 wherever the mean is above e and near the count."""
    family = FAMILIES[name]
    Y = np.array([[3.0, 20.0, 500.0]])
    loss, _ = family.loss_and_activation(family.link(Y), Y)
    assert not loss.max() < family.certain_loss


def test_counts_at_an_overflowing_z_cost_infinity_and_no_warning() -> None:
    """So that no line search takes a step there."""
    loss, A = at("poisson", [1000.0], [3.0])
    assert (loss, A[0]) == (np.inf, np.inf)


def test_logistic_of_more_than_two_classes_is_softmax() -> None:
    two, three = np.array([0, 1]), np.array(["a", "b", "c"])
    assert [
        family_of(name, classes).name
        for name, classes in [
            ("logistic", two),
            ("logistic", three),
            ("softmax", two),
            ("poisson", np.empty(0)),
        ]
    ] == ["logistic", "softmax", "softmax", "poisson"]


@pytest.mark.parametrize(
    "classes", [np.array([-3, 0, 7]), np.array(["a", "bb", "c"]), np.array([0.0, 1.0, 2.0])]
)
def test_one_hot_has_one_where_the_label_is(classes: NDArray[Any]) -> None:
    labels = classes[[2, 0, 0, 1]]
    assert FAMILIES["softmax"].target(labels, classes).tolist() == [
        [0, 1, 1, 0],
        [0, 0, 0, 1],
        [1, 0, 0, 0],
    ]
    with pytest.raises(
        LabelError,
        match=r"row 11 has the label .*, which is none of the 2 classes .*were the labels changed",
    ):
        FAMILIES["softmax"].target(labels[1:], classes[:1].repeat(2), 9)


@pytest.mark.parametrize(
    ("name", "values", "error", "message"),
    [
        ("linear", np.array([1.0, np.nan]), NonFiniteError, "row 6 has the target nan"),
        ("linear", np.array(["a", "b"]), DtypeError, "fitted to numbers"),
        ("poisson", np.array([1.0, np.inf]), NonFiniteError, "row 6 has the target inf"),
        (
            "poisson",
            np.array([0, -2]),
            LabelError,
            "row 6 has the target -2; the family poisson is fitted to numbers of 0 or above",
        ),
    ],
)
def test_targets_that_are_no_fitting_numbers_are_refused_by_row(
    name: str, values: NDArray[Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        FAMILIES[name].target(values, np.empty(0), 5)


@families
def test_inputs_are_not_written_to(name: str) -> None:
    Z, Y = (
        np.array(ORACLES[name].Z).T.copy(),
        np.ones((len(ORACLES[name].Z[0]), len(ORACLES[name].Z))),
    )
    Z.setflags(write=False)
    Y.setflags(write=False)
    FAMILIES[name].loss_and_activation(Z, Y)
    A = FAMILIES[name].activate(Z)
    A.setflags(write=False)
    FAMILIES[name].curvature(A)
