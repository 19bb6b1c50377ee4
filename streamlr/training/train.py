"""Training: from a configuration to a model, in as few reads of the data as can be."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamlr.config.sections import TrainConfig, load_config
from streamlr.data.matching import match_names
from streamlr.data.source import Rows, Source
from streamlr.errors import ConfigError, RunDirectoryError, ShapeError, either, option
from streamlr.events import Note, PassFinished, Subscriber, finite
from streamlr.execution.engine import Engine, one_blas_thread
from streamlr.execution.limits import memory_reported
from streamlr.kernels.scans.moments import SampledRows
from streamlr.kernels.split import HOLDOUT
from streamlr.model import Model
from streamlr.objective.objective import Moments, Objective, data_coordinates
from streamlr.pilot.sample import join_sample
from streamlr.pilot.solve import sampled_preconditioner
from streamlr.pilot.start import start_from_sample
from streamlr.runs.checkpoint import Checkpoint, flatten, unflatten
from streamlr.runs.directory import RunDirectory
from streamlr.runs.session import Session
from streamlr.solvers import (
    SOLVERS,
    EarlyStopping,
    Judged,
    Lbfgs,
    LeastSquares,
    Proximal,
    Solve,
    SolveProgress,
    Solver,
    State,
    Status,
    termination_of,
)
from streamlr.solvers.lbfgs import LbfgsState
from streamlr.solvers.least_squares import LeastSquaresState
from streamlr.solvers.loop import Evaluate, by_itself
from streamlr.solvers.problem import Evaluator
from streamlr.text import named
from streamlr.training.alignment import align, apart_of
from streamlr.training.least_squares import (
    MANY_OPTIMA,
    are_many_optima,
    equations_of,
    evaluator,
    findings,
    is_fine,
    lacks_pairs,
    resumed,
    start_squares,
)
from streamlr.training.normal_equations import Equations
from streamlr.training.opening import Arrays, opened
from streamlr.training.run import Packed, Run


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training run leaves behind."""

    model: Model
    """The fitted model."""
    status: str
    """``converged``, ``pass_limit``, ``stalled`` or ``diverged``."""
    reason: str
    """The same for a person."""
    passes: int
    """Reads of all the data."""
    history: list[dict[str, Any]]
    """A record for each pass, as in ``history.jsonl``."""
    summary: dict[str, Any]
    """What ``summary.json`` holds."""


@memory_reported()
def train(
    config: str | Path | Mapping[str, Any] | TrainConfig,
    *,
    X: ArrayLike | Rows | None = None,
    y: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    offset: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    validation: ArrayLike | None = None,
    start: Model | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    subscribers: Sequence[Subscriber] = (),
) -> TrainResult:
    """Fit a model to the optimum of all the data.

    Parameters
    ----------
    config
        Path of a YAML file, a mapping of sections, or a `TrainConfig`.
    X, y, sample_weight, offset
        Data in the place of ``data.store``: (m, n), and (m,) each; the offset is added to Z (the
        logarithm of an exposure). A sparse matrix is made dense by blocks, a Zarr or Dask array is
        read by its chunks in every pass; all else is held in memory. The columns of a frame name
        the features.
    groups, validation
        Beside ``X``: the group of each row, (m,), which ``validation.fraction`` holds out as a
        whole or not at all; or, in the place of a fraction, 1 (or true) for each row that is held
        out, (m,).
    start
        A model of the same classes to start from; that is worth a pass more where it is nearer than
        what a sample of the rows tells. Its features are found by their names, where it and the
        data have names; those that it does not know start at 0.
    overrides
        Settings of the form ``section.key=value``, applied last.
    resume, overwrite
        What to do with a run that ``run.directory`` already holds: go on with it, or replace it.
    subscribers
        Called with every event of the run (see `streamlr.events`).

    Raises
    ------
    ConfigError
        When the configuration is wrong.
    DataError
        When the store or the data cannot be trained on.
    """
    overrides = overrides if validation is None else [*overrides, "validation.array=validation"]
    settings = load_config(config, overrides, with_path=False)
    with opened(
        settings,
        Arrays(X, y, sample_weight, offset, groups, validation),
        subscribers,
        resume=resume,
        overwrite=overwrite,
    ) as (session, directory):
        return _TrainRun(session, directory, start).finish(resume)


@memory_reported()
def fit_source(
    config: TrainConfig, source: Source, engine: Engine, publish: Subscriber
) -> TrainResult:
    """Fit a model to the rows of a source of any kind on an open engine; no directory is kept."""
    with one_blas_thread():
        return _TrainRun(Session(config, source, engine, publish), None, None).finish(False)


@dataclass(frozen=True, slots=True)
class _Problem:
    """What the first look at the data has settled."""

    objective: Objective
    """What is minimised, with classes and moments."""
    solver: Solver
    """How."""
    equations: Equations | None = None
    """Of least squares, what the statistics pass's products make, where these were summed."""


class _TrainRun(Run[TrainResult]):
    """One training run."""

    problem: _Problem

    def __init__(
        self, session: Session, directory: RunDirectory | None, start: Model | None
    ) -> None:
        super().__init__(session, directory)
        self.start = None if start is None else _in_order_of_data(start, session)
        self.sample_fraction = 0.0

    def begin(self) -> list[SolveProgress]:
        self.problem, state = self._begin()
        progress = self._progress(state)
        for number in range(1, self.session.scanner.passes + 1):
            self.pass_done(number, progress, number == self.session.scanner.passes)
        return progress

    def go_on(self, saved: Checkpoint) -> list[SolveProgress]:
        self.problem, state = self._continue(saved)
        return self._progress(state)

    def evaluate(self) -> Evaluate[Objective]:
        return by_itself(_function(self.problem))

    def event(self, number: int, progress: Sequence[SolveProgress]) -> PassFinished:
        state = progress[0].reached
        validation = None if self.session.split is None else state.validation_loss
        return PassFinished(
            number,
            state.loss,
            state.value,
            state.gradient_max,
            state.step,
            *self.record.cost_of_pass(),
            validation,
        )

    def packed(self, progress: Sequence[SolveProgress]) -> Packed:
        objective = self.problem.objective
        arrays, values = flatten(progress[0].reached, "state.")
        moment_arrays, moment_values = flatten(objective.moments, "moments.")
        arrays |= moment_arrays | {"classes": objective.classes}
        values |= moment_values
        values |= {"sample_fraction": self.sample_fraction, "solver": self.problem.solver.name}
        return arrays, values

    def _progress(self, state: State) -> list[SolveProgress]:
        self.solves = [
            Solve(self.problem.objective, self._watched(self.problem), lambda found: state)
        ]
        return [SolveProgress(state.point, state)]

    def _watched(self, problem: _Problem) -> EarlyStopping:
        return EarlyStopping(problem.solver, self.settings.validation.patience)

    def _begin(self) -> tuple[_Problem, State]:
        """List the labels, sum the moments (pass 1), and set the solver up; with an offset or a
        start, of which the statistics pass knows too little, one pass more."""
        classes = self.session.list_labels()
        self.record.begin_pass()
        self.sample_fraction = self.session.plan.sample_fraction
        sums = self.session.sum_moments(
            classes,
            self.sample_fraction or self.session.plan.look_fraction,
            products=self.session.plan.products,
        )
        moments = self.session.moments_from(sums)
        self.record.announce_changed_data(moments)
        parts = list(sums.sample)
        del sums  # or the rows would stay in memory beside those that they are joined to
        sample = join_sample(parts)
        moments = align(
            self.session,
            self.session.model,
            classes,
            moments,
            sample,
            apart_of(self.session, moments),
        )
        problem = self._problem(classes, moments, sample if self.sample_fraction else None)
        point = _start_point(problem, self.start)
        unknown = (
            self.session.source.has_offset
            or self.start is not None
            or bool(problem.objective.coordinates.split(point)[0].any())
        )
        if isinstance(problem.solver, LeastSquares):
            return self._begin_squares(problem, point, known=not unknown)
        if problem.equations is not None:
            self._announce(problem.equations)
        elif moments.collinearity:
            self.session.publish(
                Note(
                    f"{moments.collinearity} (condition number {moments.condition_number:.2g})",
                    warning=True,
                )
            )
        elif are_many_optima(problem.objective):
            self.session.publish(Note(MANY_OPTIMA, warning=True))
        start = (
            problem.objective.evaluate(point[None, :], "pass 2")[0]
            if unknown
            else problem.objective.without_features(point)
        )
        if (
            isinstance(problem.solver, Lbfgs | Proximal)
            and sample is not None
            and self.sample_fraction
        ):
            solver, state = start_from_sample(problem.objective, problem.solver, sample, start)
            problem = replace(problem, solver=solver)
            return problem, self._watched(problem).begun(state, start)
        return problem, self._watched(problem).init(problem.objective, start)

    def _begin_squares(
        self, problem: _Problem, point: NDArray[np.float64], *, known: bool
    ) -> tuple[_Problem, State]:
        """What is quadratic has its Hessian from the statistics pass, or from a second pass."""
        assert problem.equations is not None
        wanted = self.settings.solver
        start = start_squares(
            problem.objective,
            point,
            wanted.tolerance,
            problem.equations,
            known=known,
            most_passes=wanted.max_passes,
        )
        self._announce(start.equations)
        problem = replace(problem, solver=start.solver)
        return problem, self._watched(problem).begun(start.state, start.found)

    def _announce(self, equations: Equations) -> None:
        for text in findings(
            equations, self.session.source.n_rows, self.session.source.feature_names
        ):
            self.session.publish(Note(text, warning=True))

    def _problem(
        self, classes: NDArray[Any], moments: Moments, sample: SampledRows | None = None
    ) -> _Problem:
        """The objective in the coordinates of the solver that was asked for.

        ``auto`` is what the plan says, which `_begin` gives a sample to start from.
        """
        session, wanted, kind = (
            self.session,
            self.settings.solver,
            SOLVERS[self.session.plan.solver],
        )
        coordinates = None
        if kind.in_data_units:
            coordinates = data_coordinates(moments, session.model.fit_intercept)
        objective = Objective(
            session.scanner, session.model, classes, moments, coordinates, session.split, HOLDOUT
        )
        if kind.make is None:
            equations = equations_of(objective, sample)
            return _Problem(
                objective, LeastSquares(objective, wanted.tolerance, equations), equations
            )
        solver = kind.make(objective, wanted)
        by_name = kind.judged_by_equations and wanted.name == kind.name
        if by_name and objective.quadratic and moments.correlation is not None:
            equations = equations_of(objective)
            judged = Judged(solver, objective, wanted.tolerance, equations)
            return _Problem(objective, judged, equations)
        return _Problem(objective, solver)

    def _continue(self, saved: Checkpoint) -> tuple[_Problem, State]:
        """Take everything from a checkpoint."""
        assert self.directory is not None
        if "lambdas" in saved.arrays:
            raise RunDirectoryError(
                f"the run in {str(self.directory.path)!r} is a path; go on with "
                f"{either('streamlr path', 'streamlr.path')}, or start anew with "
                f"{option('overwrite')}"
            )
        moments = unflatten(Moments, "moments.", saved)
        classes = saved.arrays["classes"]
        self.session.use_classes(classes, saved.arrays.get("class_factors"))
        self.session.strata = saved.arrays.get("strata")
        self.session.require_same_data(classes, moments, saved.values["modified"])
        self.sample_fraction = float(saved.values["sample_fraction"])
        self._go_on_by(saved.values["solver"])
        few_rows = SOLVERS[self.session.plan.solver].by_equations and self.sample_fraction > 0
        problem = self._problem(classes, moments, self._drawn_again(classes) if few_rows else None)
        state = unflatten(SOLVERS[problem.solver.name].state, "state.", saved)
        problem = self._with_sample(problem, state)
        self.record.continue_from(saved)
        self.session.publish(
            Note(f"resuming after pass {saved.passes}, at a gradient of {state.gradient_max:.3g}")
        )
        may_go_on, equations = saved.passes < self.settings.solver.max_passes, problem.equations
        if (
            may_go_on
            and isinstance(state, LeastSquaresState)
            and equations is not None
            and lacks_pairs(problem.objective, equations, state)
        ):
            problem, begun = self._begin_squares(problem, state.point, known=False)
            self.problem = problem
            self.pass_done(saved.passes + 1, self._progress(begun))
            return problem, begun
        return problem, state

    def _go_on_by(self, method: str) -> None:
        """With another limit of memory the plan may have another method than the run had: its own
        goes on, where there is room for it."""
        plan = self.session.plan
        if SOLVERS[method].by_equations and plan.solver != method:
            limit = plan.memory_limit or 0
            raise RunDirectoryError(
                "the run solves least squares by its normal equations, for which a "
                f"cluster.memory_limit of {limit / 1e6:.0f} MB has no room; "
                f"raise it to what the run began with, or start anew with {option('overwrite')}"
            )
        self.session.plan = replace(plan, solver=method)

    def _with_sample(self, problem: _Problem, state: State) -> _Problem:
        """Draw the sample again where its curvature is the metric, which no checkpoint holds: one
        more read of the data."""
        if isinstance(problem.solver, LeastSquares) and isinstance(state, LeastSquaresState):
            return replace(problem, solver=resumed(problem.objective, problem.solver, state))
        if not (
            isinstance(problem.solver, Lbfgs)
            and isinstance(state, LbfgsState)
            and len(state.preconditioner_point)
        ):
            return problem
        sample = self._drawn_again(problem.objective.classes)
        return replace(
            problem,
            solver=replace(
                problem.solver,
                preconditioner=sampled_preconditioner(
                    problem.objective, sample, state.preconditioner_point
                ),
            ),
        )

    def _drawn_again(self, classes: NDArray[Any]) -> SampledRows:
        sums = self.session.sum_moments(classes, self.sample_fraction, "sample")
        parts = list(sums.sample)
        del sums
        sample = join_sample(parts)
        assert sample is not None
        return sample

    def result(self, progress: Sequence[SolveProgress]) -> TrainResult:
        state, problem = progress[0].reached, self.problem
        termination = termination_of(state, self.settings.solver.max_passes)
        objective, solver = problem.objective, self._watched(problem)
        with np.errstate(over="ignore", invalid="ignore"):
            W, b = objective.to_data_units(solver.result(state))
        model = Model(
            np.ascontiguousarray(W.T),
            b,
            objective.classes,
            self.session.source.feature_names,
            self.session.model.family,
            self.session.fitted_with,
        )
        status = str(termination.status)
        summary = {
            "status": status,
            "reason": termination.reason,
            "objective": state.value,
            "loss": state.loss,
            "gradient_max": state.gradient_max,
            "seconds": self.record.seconds,
            "solver": solver.name,
            "classes": objective.classes.tolist(),
            "nonzero": int(np.count_nonzero(W)),
            "coefficients_sha256": model.coefficients_sha256,
            "data_fingerprint": objective.moments.fingerprint,
            "condition_number": objective.moments.condition_number,
            "collinearity": objective.moments.collinearity or None,
            **self.session.summary(self.record.history),
        }
        if self.session.split is not None:
            summary |= _validation_summary(self.record.history, objective.moments, state, solver)
        summary = {key: finite(value) for key, value in summary.items()}
        if self.directory is not None:
            self.directory.write_results(model, summary)
        return TrainResult(
            model,
            status,
            termination.reason,
            len(self.record.history),
            self.record.history,
            summary,
        )


def _function(problem: _Problem) -> Evaluator:
    """What the solver's points are evaluated by."""
    solver, objective = problem.solver, problem.objective
    if isinstance(solver, LeastSquares):
        return evaluator(objective, solver.fine)
    return (
        evaluator(objective, is_fine(objective, solver.equations.condition))
        if isinstance(solver, Judged)
        else objective
    )


def _in_order_of_data(start: Model, session: Session) -> Model:
    """The model to start from with the features of the data, by name where both have names.

    Features that it does not know start at 0.
    """
    if not isinstance(start, Model):
        raise ConfigError(
            f"start: expected a Model, got {type(start).__name__}; "
            "give that of a result (result.model) or streamlr.load_model(RUN)"
        )
    source, n_features = session.source, start.coef_.shape[1]
    if start.feature_names is None or source.feature_names is None:
        if n_features != source.n_features:
            raise ShapeError(
                f"start has {n_features} features, and {source.describe('features')} has "
                f"{source.n_features}; start from a model of the same ones"
            )
        return start
    names = source.feature_names
    match = match_names(start.feature_names, names, "start", source.describe("features"))
    if match.extra:
        count = f"{len(match.extra)} feature{'s' * (len(match.extra) > 1)}"
        session.publish(
            Note(
                f"{count} that the model to start from does not know ({named(match.extra)}) start "
                "at 0"
            )
        )
    return start if match.in_place else start.at_columns(match.columns, names)


def _start_point(problem: _Problem, model: Model | None) -> NDArray[np.float64]:
    """The model's, if there is one; else 0 for gradient descent, as its formulas have it, where the
    loss is finite there, and the best intercept for the others, (d,)."""
    objective = problem.objective
    if model is not None:
        return objective.from_data_units(model.coef_.T, model.intercept_)
    mean = objective.moments.target_mean
    finite_at_0 = np.isfinite(objective.family.mean_loss(mean, np.zeros_like(mean)))
    if SOLVERS[problem.solver.name].in_data_units and finite_at_0:
        return np.zeros(objective.size)
    return objective.start()


def _validation_summary(
    history: Sequence[Mapping[str, Any]], moments: Moments, state: State, solver: EarlyStopping
) -> dict[str, Any]:
    """What the summary says of the rows that are held out; where the model is that of an earlier
    pass, also what is said of it elsewhere."""
    known = [line for line in history if line["validation_loss"] is not None]
    best = min(known, key=lambda line: float(line["validation_loss"]), default=None)
    found = {
        "validation_loss": state.validation_loss,
        "validation_best_pass": best and best["pass"],
        "validation_rows": moments.holdout_rows,
        "validation_weight": moments.validation_weight_sum,
        "early_stopped": state.status == Status.PASS_LIMIT,
    }
    if best is not None and solver.keeps_best(state):
        found |= {
            key: best[key] for key in ("validation_loss", "objective", "loss", "gradient_max")
        }
    return found
