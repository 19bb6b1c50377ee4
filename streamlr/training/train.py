"""Training: from a configuration to a model, in as few reads of the data as can be."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamlr.config.sections import TrainConfig, load_config
from streamlr.data.frames import column_names
from streamlr.data.holdout import open_store
from streamlr.data.matching import match_names
from streamlr.data.source import ArraySource, Rows, Source
from streamlr.data.sources.adapters import in_memory, labels_of, rows_of
from streamlr.errors import ConfigError, RunDirectoryError, ShapeError, WriteError
from streamlr.events import Note, PassFinished, Subscriber, finite, publisher
from streamlr.execution import open_engine
from streamlr.execution.engine import one_blas_thread
from streamlr.execution.limits import memory_told
from streamlr.kernels.scans.moments import SampledRows
from streamlr.kernels.split import HELD_OUT
from streamlr.model import Model
from streamlr.objective.objective import Moments, Objective, data_coordinates
from streamlr.pilot.solve import join_sample, sampled_metric, start_from_sample
from streamlr.planning.workforce import with_room
from streamlr.runs.checkpoint import Checkpoint, flatten, unflatten
from streamlr.runs.directory import RunDirectory
from streamlr.runs.record import RunRecord
from streamlr.runs.session import FirstLook
from streamlr.solvers import GradientDescent, Judged, Lbfgs, LeastSquares, Newton, Outcome, Proximal, Solver, State, Watched, minimize
from streamlr.solvers.base import PASS_LIMIT, Function
from streamlr.solvers.gradient_descent import GradientDescentState
from streamlr.solvers.lbfgs import LbfgsState
from streamlr.solvers.least_squares import LeastSquaresState
from streamlr.solvers.newton import NewtonState
from streamlr.solvers.proximal import ProximalState
from streamlr.text import named
from streamlr.training.alignment import align, apart_of
from streamlr.training.least_squares import MANY_OPTIMA, are_many_optima, equations_of, evaluator, findings, is_fine, lacks_pairs, resumed, start_squares
from streamlr.training.normal_equations import Equations

_STATES: dict[str, type[State]] = {"gradient_descent": GradientDescentState, "lbfgs": LbfgsState, "least_squares": LeastSquaresState,
                                  "newton": NewtonState, "proximal": ProximalState}
_SOLVERS: dict[str, type[Lbfgs | Newton | Proximal]] = {"lbfgs": Lbfgs, "newton": Newton, "proximal": Proximal}


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


@memory_told()
def train(config: str | Path | Mapping[str, Any] | TrainConfig, *, X: ArrayLike | Rows | None = None, y: ArrayLike | None = None,
          sample_weight: ArrayLike | None = None, offset: ArrayLike | None = None, groups: ArrayLike | None = None, validation: ArrayLike | None = None,
          start: Model | None = None, overrides: Sequence[str] = (), resume: bool = False, overwrite: bool = False,
          subscribers: Sequence[Subscriber] = ()) -> TrainResult:
    """Fit a model to the optimum of all the data.

    Parameters
    ----------
    config
        Path of a YAML file, a mapping of sections, or a `TrainConfig`.
    X, y, sample_weight, offset
        Data in the place of ``data.store``: (m, n), and (m,) each; the offset is added to Z (the logarithm of an exposure). A sparse matrix is made dense
        by blocks, a Zarr or Dask array is read by its chunks in every pass; all else is held in memory. The columns of a frame name the features.
    groups, validation
        Beside ``X``: the group of each row, (m,), which ``validation.fraction`` holds out as a whole or not at all; or, in the place of a fraction, 1 (or
        true) for each row that is held out, (m,).
    start
        A model of the same classes to start from; that is worth a pass more where it is nearer than what a sample of the rows tells. Its features are
        found by their names, where it and the data have names; those that it does not know start at 0.
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
    with opened(settings, Arrays(X, y, sample_weight, offset, groups, validation), subscribers, resume=resume, overwrite=overwrite) as (look, directory):
        return _Run(look, directory, start).finish(resume)


@dataclass(frozen=True, slots=True)
class Arrays:
    """Data in the place of a store, as they were given."""

    X: ArrayLike | Rows | None
    y: ArrayLike | None
    sample_weight: ArrayLike | None = None
    offset: ArrayLike | None = None
    groups: ArrayLike | None = None
    validation: ArrayLike | None = None


@contextmanager
def opened(settings: TrainConfig, given: Arrays, subscribers: Sequence[Subscriber], *, resume: bool,
           overwrite: bool) -> Iterator[tuple[FirstLook, RunDirectory | None]]:
    """The data of a run, on its engine, and its directory, if it has one; a plan over its limit is refused.

    Raises
    ------
    ConfigError, DataError, RunDirectoryError, ClusterError, MemoryLimitError
        When there is no such run to be made.
    """
    if resume and overwrite:
        raise ConfigError("resume and overwrite exclude each other: one goes on with a run, the other drops it")
    publish = publisher(subscribers)
    with ExitStack() as stack:
        source = _open_source(settings, given)
        where = settings.run.directory
        directory = None if where is None else stack.enter_context(RunDirectory(where, resume=resume, overwrite=overwrite))
        if settings.cluster.kind == "address":
            publish(Note(f"asking the scheduler at {settings.cluster.address}"))
        engine = stack.enter_context(open_engine(with_room(settings.cluster)))
        stack.enter_context(one_blas_thread())
        yield FirstLook(settings, source, engine, publish), directory


def _open_source(settings: TrainConfig, given: Arrays) -> Source:
    """The store, or the arrays in its place."""
    if given.X is None and given.y is None:
        if given.groups is not None or given.validation is not None:
            raise ConfigError("groups and validation go with X and y; of a store, data.groups and validation.array name them")
        store = open_store(settings)
        store.check_chunks()
        return store
    if given.X is None or given.y is None:
        raise ConfigError("X and y go together: one was given without the other")
    if given.validation is None and settings.validation.array is not None:
        raise ConfigError(f"validation.array: {settings.validation.array!r} is an array of a store; with X and y give its values as validation=")
    fill_value = settings.data.fill_value
    beside = {"sample_weight": given.sample_weight, "offset": given.offset}
    numbers = [
        None if values is None else np.asarray(in_memory(values, name, fill_value), dtype=np.float64)
        for name, values in beside.items()
    ]
    groups = given.groups if given.validation is None else given.validation
    groups = in_memory(groups, "groups" if given.validation is None else "validation", fill_value)
    X, y = rows_of(given.X, fill_value), labels_of(given.y, fill_value)
    return ArraySource(X, y, numbers[0], column_names(given.X), offset=numbers[1],
                       groups=None if groups is None else np.asarray(groups))


@dataclass(frozen=True, slots=True)
class _Problem:
    """What the first look at the data has settled."""

    objective: Objective
    """What is minimised, with classes and moments."""
    solver: Solver
    """How."""
    equations: Equations | None = None
    """Of least squares, what the survey's products make, where these were summed."""


class _Run:
    """One training run: what is known so far, and the steps that add to it."""

    def __init__(self, look: FirstLook, directory: RunDirectory | None, start: Model | None) -> None:
        self.settings = look.settings
        self.start = None if start is None else _in_order_of_data(start, look)
        self.look = look
        self.directory = directory
        self.record = RunRecord(look, directory)
        self.sample_fraction = 0.0

    def finish(self, resume: bool) -> TrainResult:
        self.look.tell_plan()
        saved = self.record.load() if resume else None
        try:
            problem, state = self._begin() if saved is None else self._continue(saved)
            if saved is None:
                for number in range(1, self.look.scanner.passes + 1):
                    self._pass_done(number, state, problem, complete=number == self.look.scanner.passes)
            state, outcome = minimize(_function(problem), self._watched(problem), state, len(self.record.history), self.settings.solver.max_passes,
                                      lambda number, reached: self._pass_done(number, reached, problem))
            return self._result(problem, state, outcome)
        except WriteError as error:
            raise WriteError(f"{error}; {self.record.what_is_safe(error)}") from error
        except (Exception, KeyboardInterrupt):
            self.record.commit_finished()
            raise

    def _watched(self, problem: _Problem) -> Watched:
        return Watched(problem.solver, self.settings.validation.patience)

    def _begin(self) -> tuple[_Problem, State]:
        """List the labels, survey the data (pass 1), and set the solver up; with an offset or a start, of which the survey knows too
        little, one pass more."""
        classes = self.look.list_labels()
        self.record.begin_pass()
        self.sample_fraction = self.look.plan.sample_fraction
        survey = self.look.survey(classes, self.sample_fraction or self.look.plan.look_fraction, products=self.look.plan.products)
        moments = self.look.take(survey)
        self.record.tell_changed_data(moments)
        parts = list(survey.sample)
        del survey  # or the rows would stay in memory beside those that they are joined to
        sample = join_sample(parts)
        moments = align(self.look, self.look.model, classes, moments, sample, apart_of(self.look, moments))
        problem = self._problem(classes, moments, sample if self.sample_fraction else None)
        point = _start_point(problem, self.start)
        unknown = self.look.source.has_offset or self.start is not None or bool(problem.objective.coordinates.split(point)[0].any())
        if isinstance(problem.solver, LeastSquares):
            return self._begin_squares(problem, point, known=not unknown)
        if problem.equations is not None:
            self._tell(problem.equations)
        elif moments.collinearity:
            self.look.publish(Note(f"{moments.collinearity} (condition number {moments.condition_number:.2g})", warning=True))
        elif are_many_optima(problem.objective):
            self.look.publish(Note(MANY_OPTIMA, warning=True))
        start = problem.objective.evaluate(point[None, :], "pass 2")[0] if unknown else problem.objective.without_features(point)
        if isinstance(problem.solver, Lbfgs | Proximal) and sample is not None and self.sample_fraction:
            solver, state = start_from_sample(problem.objective, problem.solver, sample, start)
            problem = replace(problem, solver=solver)
            return problem, self._watched(problem).begun(state, start)
        return problem, self._watched(problem).init(problem.objective, start)

    def _begin_squares(self, problem: _Problem, point: NDArray[np.float64], *, known: bool) -> tuple[_Problem, State]:
        """What is quadratic has its Hessian from the survey, or from a second pass."""
        assert problem.equations is not None
        wanted = self.settings.solver
        start = start_squares(problem.objective, point, wanted.tolerance, problem.equations, known=known, most_passes=wanted.max_passes)
        self._tell(start.equations)
        problem = replace(problem, solver=start.solver)
        return problem, self._watched(problem).begun(start.state, start.found)

    def _tell(self, equations: Equations) -> None:
        for text in findings(equations, self.look.source.n_rows, self.look.source.feature_names):
            self.look.publish(Note(text, warning=True))

    def _problem(self, classes: NDArray[Any], moments: Moments, sample: SampledRows | None = None) -> _Problem:
        """The objective in the coordinates of the solver that was asked for; ``auto`` is what the plan says, which `_begin` gives a sample to start from."""
        wanted, model = self.settings.solver, self.look.model
        if wanted.name == "gradient_descent":
            objective = Objective(self.look.scanner, model, classes, moments, data_coordinates(moments, model.fit_intercept), self.look.split, HELD_OUT)
            return _Problem(objective, GradientDescent(wanted.learning_rate, wanted.tolerance, bool(objective.penalty_scale.any())))
        objective = Objective(self.look.scanner, model, classes, moments, split=self.look.split, held_out=HELD_OUT)
        if self.look.plan.solver == "least_squares":
            equations = equations_of(objective, sample)
            return _Problem(objective, LeastSquares(objective, wanted.tolerance, equations), equations)
        solver = _SOLVERS[self.look.plan.solver](objective, wanted.tolerance)
        if self.look.plan.solver == "lbfgs" and wanted.name == "lbfgs" and model.family == "linear" and objective.smooth and moments.correlation is not None:
            equations = equations_of(objective)
            return _Problem(objective, Judged(solver, objective, wanted.tolerance, equations), equations)
        return _Problem(objective, solver)

    def _pass_done(self, number: int, state: State, problem: _Problem, *, complete: bool = True) -> None:
        """Tell of a pass, and keep where the run stands if it is all that the state hangs on."""
        event = PassFinished(number, state.loss, state.value, state.gradient_max, state.step, *self.record.cost_of_pass(),
                             None if self.look.split is None else state.held_loss)
        self.record.pass_done(event, bool(state.status), (lambda: self._checkpoint(number, state, problem)) if complete else None)

    def _checkpoint(self, number: int, state: State, problem: _Problem) -> Checkpoint:
        arrays, values = flatten(state, "state.")
        moment_arrays, moment_values = flatten(problem.objective.moments, "moments.")
        return self.record.checkpoint(number, {**arrays, **moment_arrays, "classes": problem.objective.classes},
                                      {**values, **moment_values, "sample_fraction": self.sample_fraction, "solver": problem.solver.name})

    def _continue(self, saved: Checkpoint) -> tuple[_Problem, State]:
        """Take everything from a checkpoint."""
        assert self.directory is not None
        if "lambdas" in saved.arrays:
            raise RunDirectoryError(f"the run in {str(self.directory.path)!r} is a path; go on with streamlr path, or start anew with --overwrite")
        moments = unflatten(Moments, "moments.", saved)
        classes = saved.arrays["classes"]
        self.look.use_classes(classes, saved.arrays.get("class_factors"))
        self.look.strata = saved.arrays.get("strata")
        self.look.require_same_data(classes, moments, saved.values["modified"])
        self.sample_fraction = float(saved.values["sample_fraction"])
        self._go_on_by(saved.values["solver"])
        few_rows = self.look.plan.solver == "least_squares" and self.sample_fraction > 0
        problem = self._problem(classes, moments, self._drawn_again(classes) if few_rows else None)
        state = unflatten(_STATES[problem.solver.name], "state.", saved)
        problem = self._with_sample(problem, state)
        self.record.continue_from(saved)
        self.look.publish(Note(f"resuming after pass {saved.passes}, at a gradient of {state.gradient_max:.3g}"))
        may_go_on, equations = saved.passes < self.settings.solver.max_passes, problem.equations
        if may_go_on and isinstance(state, LeastSquaresState) and equations is not None and lacks_pairs(problem.objective, equations, state):
            problem, begun = self._begin_squares(problem, state.point, known=False)
            self._pass_done(saved.passes + 1, begun, problem)
            return problem, begun
        return problem, state

    def _go_on_by(self, method: str) -> None:
        """With another limit of memory the plan may have another method than the run had: its own goes on, where there is room for it."""
        plan = self.look.plan
        if method == "least_squares" and plan.solver != method:
            limit = plan.memory_limit or 0
            raise RunDirectoryError(
                f"the run solves least squares by its normal equations, for which a cluster.memory_limit of {limit / 1e6:.0f} MB has no room; "
                "raise it to what the run began with, or start anew with --overwrite")
        self.look.plan = replace(plan, solver=method)

    def _with_sample(self, problem: _Problem, state: State) -> _Problem:
        """Draw the sample again where its curvature is the metric, which no checkpoint holds: one more read of the data."""
        if isinstance(problem.solver, LeastSquares) and isinstance(state, LeastSquaresState):
            return replace(problem, solver=resumed(problem.objective, problem.solver, state))
        if not (isinstance(problem.solver, Lbfgs) and isinstance(state, LbfgsState) and len(state.curvature_at)):
            return problem
        sample = self._drawn_again(problem.objective.classes)
        return replace(problem, solver=replace(problem.solver, sampled=sampled_metric(problem.objective, sample, state.curvature_at)))

    def _drawn_again(self, classes: NDArray[Any]) -> SampledRows:
        survey = self.look.survey(classes, self.sample_fraction, "sample")
        parts = list(survey.sample)
        del survey
        sample = join_sample(parts)
        assert sample is not None
        return sample

    def _result(self, problem: _Problem, state: State, outcome: Outcome) -> TrainResult:
        objective, solver = problem.objective, self._watched(problem)
        with np.errstate(over="ignore", invalid="ignore"):
            W, b = objective.to_data_units(solver.result(state))
        model = Model(np.ascontiguousarray(W.T), b, objective.classes, self.look.source.feature_names,
                      self.look.model.family, self.look.fitted_with)
        summary = {
            "status": outcome.status, "reason": outcome.reason, "objective": state.value, "loss": state.loss, "gradient_max": state.gradient_max,
            "seconds": self.record.seconds, "solver": solver.name, "classes": objective.classes.tolist(),
            "nonzero": int(np.count_nonzero(W)), "coefficients_sha256": model.coefficients_sha256, "data_fingerprint": objective.moments.fingerprint,
            "condition_number": objective.moments.condition_number, "collinearity": objective.moments.collinearity or None,
            **self.look.summary(self.record.history)}
        if self.look.split is not None:
            summary |= _validation_summary(self.record.history, objective.moments, state, solver)
        summary = {key: finite(value) for key, value in summary.items()}
        if self.directory is not None:
            self.directory.write_results(model, summary)
        return TrainResult(model, outcome.status, outcome.reason, len(self.record.history), self.record.history, summary)


def _function(problem: _Problem) -> Function:
    """What the solver's points are evaluated by."""
    solver, objective = problem.solver, problem.objective
    if isinstance(solver, LeastSquares):
        return evaluator(objective, solver.fine)
    return evaluator(objective, is_fine(objective, solver.equations.condition)) if isinstance(solver, Judged) else objective


def _in_order_of_data(start: Model, look: FirstLook) -> Model:
    """The model to start from with the features of the data, by name where both have names.

    Features that it does not know start at 0.
    """
    source, n_features = look.source, start.coef_.shape[1]
    if start.feature_names is None or source.feature_names is None:
        if n_features != source.n_features:
            raise ShapeError(f"start has {n_features} features, and {source.describe('features')} has "
                             f"{source.n_features}; start from a model of the same ones")
        return start
    names = source.feature_names
    match = match_names(start.feature_names, names, "start", source.describe("features"))
    if match.extra:
        count = f"{len(match.extra)} feature{'s' * (len(match.extra) > 1)}"
        look.publish(Note(f"{count} that the model to start from does not know ({named(match.extra)}) start at 0"))
    return start if match.in_place else start.at_columns(match.columns, names)


def _start_point(problem: _Problem, model: Model | None) -> NDArray[np.float64]:
    """The model's, if there is one; else zero for gradient descent, as its formulas have it, and the best intercept for the others."""
    if model is not None:
        return problem.objective.from_data_units(model.coef_.T, model.intercept_)
    return np.zeros(problem.objective.size) if isinstance(problem.solver, GradientDescent) else problem.objective.start()


def _validation_summary(history: Sequence[Mapping[str, Any]], moments: Moments, state: State, solver: Watched) -> dict[str, Any]:
    """What the summary says of the rows that are held out; where the model is that of an earlier pass, also what is said of it elsewhere."""
    known = [line for line in history if line["validation_loss"] is not None]
    best = min(known, key=lambda line: float(line["validation_loss"]), default=None)
    found = {"validation_loss": state.held_loss, "validation_best_pass": best and best["pass"], "validation_rows": moments.held_rows,
             "validation_weight": moments.held_weight_sum, "early_stopped": state.status == PASS_LIMIT}
    if best is not None and solver.keeps_best(state):
        found |= {key: best[key] for key in ("validation_loss", "objective", "loss", "gradient_max")}
    return found
