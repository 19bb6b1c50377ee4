"""Solvers against their textbook recursions, and the ways in which a solve ends."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, replace
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
from numpy.typing import NDArray

from streamlr import train
from streamlr.config.sections import SolverConfig
from streamlr.solvers import Evaluation, State, Status, Termination, minimize
from streamlr.solvers.lbfgs import quasi_newton_direction
from streamlr.solvers.line_search import SUFFICIENT_DECREASE, best_acceptable, shorter_steps
from streamlr.solvers.newton import inverse_of
from streamlr.training.train import TrainResult

Array = NDArray[np.float64]

SOLVERS: tuple[str, ...] = get_args(get_type_hints(SolverConfig)["name"])
every_solver = pytest.mark.parametrize("solver", SOLVERS)


def data(rows: int = 400, n: int = 4, seed: int = 0) -> tuple[Array, NDArray[np.int64]]:
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(rows, n))
    return X, (rng.random(rows) < 1 / (1 + np.exp(-X @ np.linspace(-1, 1, n) - 0.3))).astype(
        np.int64
    )


def fit(
    solver: str,
    X: Array,
    y: NDArray[np.int64],
    *,
    weights: Array | None = None,
    l2: float = 0.0,
    intercept: bool = True,
    **settings: Any,
) -> TrainResult:
    config = {
        "model": {"penalty": {"l2": l2}, "fit_intercept": intercept},
        "solver": {"name": solver, **settings},
        "cluster": {"kind": "serial"},
    }
    return train(config, X=X, y=y, sample_weight=weights)


# gradient descent ---------------------------------------------------------------------------------


@pytest.mark.parametrize("intercept", [True, False])
@pytest.mark.parametrize("l2", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [False, True])
def test_gradient_descent_is_the_loop_of_its_formulas_pass_by_pass(
    weighted: bool, l2: float, intercept: bool
) -> None:
    rows, y = data()
    omega = np.random.default_rng(1).uniform(0.5, 2, len(y)) if weighted else np.ones(len(y))
    passes, alpha, losses = 25, 0.7, []
    X, Y, W, b = rows.T, y[None, :], np.zeros((4, 1)), np.zeros((1, 1))
    for _ in range(passes):
        Z = W.T @ X + b
        A = 1 / (1 + np.exp(-Z))
        losses.append(
            float(-(omega * (Y * np.log(A) + (1 - Y) * np.log(1 - A))).sum() / omega.sum())
        )
        dZ = omega * (A - Y) / omega.sum()
        dW, db = X @ dZ.T + l2 * W, dZ.sum()
        W = W - alpha * dW
        b = b - alpha * db * intercept
    result = fit(
        "gradient_descent",
        rows,
        y,
        weights=omega if weighted else None,
        l2=l2,
        intercept=intercept,
        learning_rate=alpha,
        max_passes=passes,
        tolerance=1e-12,
    )
    # each update rounds at 400 eps, and the updates contract
    np.testing.assert_allclose(
        [line["loss"] for line in result.history], losses, rtol=0, atol=1e-12
    )
    np.testing.assert_allclose(result.model.coef_[0], W[:, 0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(result.model.intercept_, b[0], rtol=0, atol=1e-12)
    assert result.passes == passes


# the ways in which a solve ends -------------------------------------------------------------------


@every_solver
@pytest.mark.parametrize("max_passes", [1, 2, 3])
def test_no_more_passes_are_made_than_are_allowed_and_what_is_left_is_a_model(
    solver: str, max_passes: int
) -> None:
    X, y = data()
    result = fit(solver, X, y, max_passes=max_passes, tolerance=1e-30)
    assert result.status == Status.PASS_LIMIT
    assert f"the limit of {max_passes} passes was reached" in result.reason
    assert "raise solver.max_passes" in result.reason
    assert [line["pass"] for line in result.history] == list(range(1, max_passes + 1))
    assert result.passes == result.summary["passes"] == max_passes
    assert np.isfinite(result.model.coef_).all()
    assert result.model.predict_proba(X).shape == (len(y), 2)


@every_solver
@pytest.mark.parametrize("tolerance", [1e-3, 1e-6, 1e-9])
def test_a_converged_model_has_a_gradient_within_the_tolerance(
    solver: str, tolerance: float
) -> None:
    X, y = data()
    result = fit(solver, X, y, tolerance=tolerance, max_passes=500)
    assert result.status == Status.CONVERGED
    assert result.summary["gradient_max"] <= tolerance
    assert f"{tolerance:g}" in result.reason
    standardised = np.column_stack([(X - X.mean(axis=0)) / X.std(axis=0), np.ones(len(y))])
    gradient = standardised.T @ (result.model.predict_proba(X)[:, 1] - y) / len(y)
    assert np.abs(gradient).max() <= tolerance + 1e-14


@every_solver
def test_a_solve_stops_at_the_first_pass_within_the_tolerance(solver: str) -> None:
    X, y = data()
    gradients = [
        line["gradient_max"] for line in fit(solver, X, y, tolerance=1e-4, max_passes=500).history
    ]
    assert all(gradient > 1e-4 for gradient in gradients[:-1])


@every_solver
def test_a_tighter_tolerance_goes_the_same_way_and_further(solver: str) -> None:
    X, y = data()
    loose, tight = (
        fit(solver, X, y, tolerance=tolerance, max_passes=500).history for tolerance in (1e-2, 1e-6)
    )
    assert len(tight) >= len(loose)
    if solver != "auto":  # which solves its sample anew
        assert [line["loss"] for line in tight[: len(loose)]] == [line["loss"] for line in loose]


@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "gradient_descent"])
def test_a_tolerance_below_rounding_ends_as_stalled_at_an_optimum(solver: str) -> None:
    X, y = data()
    result = fit(solver, X, y, tolerance=1e-30, max_passes=500)
    assert result.status == Status.STALLED
    assert "no step lowers the objective any further" in result.reason
    assert "the tolerance of 1e-30 is below what rounding allows" in result.reason
    assert result.passes < 60
    assert result.summary["gradient_max"] < 1e-13
    np.testing.assert_allclose(
        result.model.coef_, fit(solver, X, y, tolerance=1e-9).model.coef_, rtol=1e-7
    )


@pytest.mark.parametrize("solver", [name for name in SOLVERS if name != "gradient_descent"])
def test_the_objective_never_rises_from_pass_to_pass(solver: str) -> None:
    X, y = data(seed=3)
    values = np.array(
        [
            line["objective"]
            for line in fit(
                solver, X * np.array([1e-3, 1, 10, 1e4]), y, l2=1e-4, max_passes=60
            ).history
        ]
    )
    assert (np.diff(values) <= 1e-13 * values[:-1]).all()


def test_a_learning_rate_that_is_too_long_is_told_and_not_hidden() -> None:
    X, y = data()
    with np.errstate(over="ignore", invalid="ignore"):
        result = fit("gradient_descent", X, y, l2=1.0, learning_rate=1e100, max_passes=50)
    assert result.status == Status.DIVERGED
    assert "lower solver.learning_rate (now 1e+100)" in result.reason


def test_the_summary_is_that_of_the_state_that_was_reached() -> None:
    X, y = data()
    for solver in SOLVERS:
        result = fit(solver, X, y, l2=0.1, max_passes=500)
        last = result.history[-1]
        assert (
            result.summary["objective"],
            result.summary["loss"],
            result.summary["gradient_max"],
        ) == (last["objective"], last["loss"], last["gradient_max"])
        z = result.model.decision_function(X)
        loss = float(np.mean(np.logaddexp(0, z) - y * z))
        # at an optimum the objective is flat: a step of 1e-8 moves it by 1e-16
        assert loss + 0.05 * float((result.model.coef_**2).sum()) == pytest.approx(
            result.summary["objective"], rel=1e-12
        )


# the loop -----------------------------------------------------------------------------------------


class CountingObjective:
    """Says how often it was asked."""

    def __init__(self) -> None:
        self.titles: list[str] = []

    def evaluate(
        self, points: Array, title: str, *, hessian: bool = False, direction: Array | None = None
    ) -> list[Evaluation]:
        self.titles.append(title)
        return []


@dataclass(frozen=True)
class EndsAfter:
    """A solver that ends at a given step."""

    steps: int
    name: str = "ends"
    needs_hessian: bool = False

    def candidates(self, state: State) -> Array:
        return state.point[None, :]

    def step(self, state: State, evaluations: list[Evaluation]) -> State:
        done = state.step + 1 == self.steps
        return replace(
            state,
            step=state.step + 1,
            status=Status.CONVERGED if done else "",
            reason="there" if done else "",
        )


EMPTY = State(np.zeros(1), 1.0, 1.0, np.ones(1), 1.0, 0.0, "", "")


@pytest.mark.parametrize(
    ("already", "limit", "steps", "made", "status"),
    [
        (1, 10, 3, 3, Status.CONVERGED),
        (1, 3, 5, 2, Status.PASS_LIMIT),
        (3, 3, 1, 0, Status.PASS_LIMIT),
        (2, 3, 1, 1, Status.CONVERGED),
    ],
)
def test_the_loop_makes_one_evaluation_a_pass_until_the_end_or_the_limit(
    already: int, limit: int, steps: int, made: int, status: str
) -> None:
    objective, told = CountingObjective(), []
    solver: Any = EndsAfter(steps)
    state, outcome = minimize(
        objective, solver, EMPTY, already, limit, lambda number, reached: told.append(number)
    )  # type: ignore[arg-type]
    assert objective.titles == [f"pass {already + k + 1}" for k in range(made)]
    assert told == [already + k + 1 for k in range(made)]
    assert outcome.status == status
    assert state.step == made


def test_what_a_pass_found_is_let_go_of_before_the_next_one() -> None:
    """It may hold a Hessian of gigabytes."""

    class Found(list[Evaluation]):
        """A list that can be watched."""

    watched: list[weakref.ref[Found]] = []
    alive: list[int] = []

    class WatchedObjective:
        def evaluate(
            self,
            points: Array,
            title: str,
            *,
            hessian: bool = False,
            direction: Array | None = None,
        ) -> list[Evaluation]:
            alive.append(sum(reference() is not None for reference in watched))
            found = Found()
            watched.append(weakref.ref(found))
            return found

    objective: Any = WatchedObjective()
    solver: Any = EndsAfter(3)
    minimize(objective, solver, EMPTY, 1, 10, lambda number, reached: None)
    assert alive == [0, 0, 0]


def test_a_state_that_has_ended_is_left_alone() -> None:
    objective: Any = CountingObjective()
    solver: Any = EndsAfter(1)
    state = replace(EMPTY, status=Status.DIVERGED, reason="so it is")
    assert minimize(objective, solver, state, 1, 10, lambda number, reached: None) == (
        state,
        Termination(Status.DIVERGED, "so it is"),
    )
    assert objective.titles == []


# L-BFGS -------------------------------------------------------------------------------------------


def pairs(count: int, d: int, seed: int) -> tuple[Array, Array]:
    """Steps, and changes of the gradient of a strictly convex quadratic."""
    rng = np.random.default_rng(seed)
    factor = rng.normal(size=(d, d))
    S = rng.normal(size=(count, d))
    return S, S @ (factor @ factor.T + np.eye(d))


def dense_bfgs(gradient: Array, S: Array, Y: Array, H: Array) -> Array:
    """H+ = (I - ρ s yᵀ) H (I - ρ y sᵀ) + ρ s sᵀ (Nocedal and Wright, 6.17), with whole matrices."""
    eye = np.eye(len(gradient))
    for s, y in zip(S, Y, strict=True):
        rho = 1 / (s @ y)
        H = (eye - rho * np.outer(s, y)) @ H @ (eye - rho * np.outer(y, s)) + rho * np.outer(s, s)
    return -H @ gradient


@pytest.mark.parametrize("count", [0, 1, 3, 7, 20])
@pytest.mark.parametrize("whole", [True, False])
def test_the_two_loop_recursion_is_the_dense_update(whole: bool, count: int) -> None:
    d = 6
    S, Y = pairs(count, d, seed=count)
    rng = np.random.default_rng(9)
    gradient, diagonal = rng.normal(size=d), rng.uniform(0.5, 2, d)
    if whole:
        metric = H = np.linalg.inv(np.cov(rng.normal(size=(d, 30))))
    else:  # a diagonal is scaled by the last pair, sᵀy / yᵀ H₀ y
        metric, H = diagonal, np.diag(diagonal)
        if count:
            H = H * (S[-1] @ Y[-1]) / (Y[-1] @ (diagonal * Y[-1]))
    found, expected = quasi_newton_direction(gradient, S, Y, metric), dense_bfgs(gradient, S, Y, H)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-10 * float(np.abs(expected).max()))


def test_the_recursion_writes_to_none_of_its_inputs() -> None:
    S, Y = pairs(3, 4, 0)
    inputs = [np.ones(4), S, Y, np.ones(4)]
    for array in inputs:
        array.setflags(write=False)
    quasi_newton_direction(*inputs)


@pytest.mark.parametrize("d", [1, 5, 40])
def test_the_inverse_of_a_positive_definite_matrix_is_its_inverse(d: int) -> None:
    rng = np.random.default_rng(d)
    units = 10.0 ** rng.uniform(-5, 5, d)
    factor = rng.normal(size=(d, 2 * d))
    hessian = (factor @ factor.T) * np.outer(units, units)
    np.testing.assert_allclose(
        (inverse_of(hessian) * np.outer(units, units)) @ (factor @ factor.T),
        np.eye(d),
        rtol=0,
        atol=1e-9,
    )


@pytest.mark.parametrize(
    "hessian",
    [np.zeros((2, 2)), np.ones((2, 2)), np.diag([1.0, 0.0]), np.array([[1.0, 0], [0, -1e-14]])],
)
def test_a_singular_matrix_is_given_as_little_ridge_as_makes_it_positive_definite(
    hessian: Array,
) -> None:
    inverse = inverse_of(hessian)
    assert np.isfinite(inverse).all()
    assert (np.linalg.eigvalsh(inverse) > 0).all()


# the line search ----------------------------------------------------------------------------------


def at(value: float, slope: float, gradient_max: float = 1.0) -> Evaluation:
    """An evaluation in one dimension."""
    return Evaluation(np.zeros(1), value, value, np.array([slope]), gradient_max)


def choose(
    evaluations: list[Evaluation], steps: list[float], value: float = 1.0, slope: float = -1.0
) -> int | None:
    return best_acceptable(value, np.array([slope]), np.ones(1), np.array(steps), evaluations)


def test_the_lowest_of_the_acceptable_steps_is_taken() -> None:
    assert choose([at(0.9, -1), at(0.5, 0), at(0.7, 0.2)], [0.1, 0.5, 1.0]) == 1


def test_a_decrease_out_of_proportion_to_the_step_is_refused() -> None:
    enough, short = 1.0 - SUFFICIENT_DECREASE * 1.01, 1.0 - SUFFICIENT_DECREASE * 0.99
    assert choose([at(enough, 5.0)], [1.0]) == 0
    assert choose([at(short, 5.0)], [1.0]) is None
    assert choose([at(1.1, 0.0)], [1.0]) is None


def test_where_the_decrease_drowns_in_rounding_the_slope_decides() -> None:
    assert choose([at(1.0, 1e-9)], [1.0], slope=-1e-8) == 0
    assert choose([at(1.0, 2e-8)], [1.0], slope=-1e-8) is None
    assert choose([at(1.0 + 1e-12, 0.0)], [1.0], slope=-1e-8) is None


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_never_taken(bad: float) -> None:
    assert (
        choose([at(bad, 0.0), at(0.9, 0.0), at(0.5, 0.0, gradient_max=np.nan)], [1.0, 0.5, 0.25])
        == 1
    )


@pytest.mark.parametrize("curvature", [1.0, 2.0, 10.0])
def test_shorter_steps_begin_at_the_minimum_of_the_parabola(curvature: float) -> None:
    """value - t + c t² has its minimum at 1 / (2c); steps of 1.5 are refused for each of these
    c."""
    step = 1.5
    found = 1.0 - step + curvature * step**2
    steps = shorter_steps(1.0, -1.0, step, found, 3)
    np.testing.assert_allclose(
        steps, 1 / (2 * curvature) * np.array([1, 1 / 4, 1 / 16]), rtol=1e-14
    )


@pytest.mark.parametrize("found", [np.nan, np.inf, 1e300, 1.0, 0.99999, -1e9])
def test_shorter_steps_are_shorter_and_above_zero_whatever_was_found(found: float) -> None:
    steps = shorter_steps(1.0, -1.0, 0.5, found, 4)
    assert (steps > 0).all()
    assert (steps < 0.5).all()
    assert (np.diff(steps) < 0).all()
