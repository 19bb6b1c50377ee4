"""Training: from a configuration to a model, in as few reads of the data as can be."""

from __future__ import annotations

import logging
import platform
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from threadpoolctl import threadpool_info

from streamlr.checkpoint import Checkpoint, flatten, load_checkpoint, save_checkpoint, unflatten
from streamlr.config import TrainConfig, load_config
from streamlr.data.source import ArraySource, Source
from streamlr.data.store import ZarrSource
from streamlr.errors import ConfigError, LabelError, RunDirectoryError
from streamlr.events import Note, PassFinished, Subscriber, finite, publisher
from streamlr.execution import open_engine
from streamlr.execution.engine import Engine, one_blas_thread
from streamlr.execution.scanner import Scanner
from streamlr.kernels.labels import LabelScan, LabelSums
from streamlr.kernels.survey import SurveyScan, SurveySums
from streamlr.model import Model
from streamlr.objective import Moments, Objective, data_coordinates
from streamlr.plan import check_plan, make_plan, workers_of
from streamlr.run_directory import RunDirectory
from streamlr.solvers import GradientDescent, Lbfgs, Newton, Outcome, Solver, State, minimize
from streamlr.solvers.gradient_descent import GradientDescentState
from streamlr.solvers.lbfgs import LbfgsState
from streamlr.solvers.newton import NewtonState
from streamlr.warm_start import join_sample, start_from_sample

log = logging.getLogger(__name__)

_STATES: dict[str, type[State]] = {"gradient_descent": GradientDescentState, "lbfgs": LbfgsState, "newton": NewtonState}
_BITS_DO_NOT_DEPEND_ON = ("cluster.", "run.directory", "run.checkpoint_every", "solver.max_passes", "data.storage_options")


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


def train(config: str | Path | Mapping[str, Any] | TrainConfig, *, X: ArrayLike | None = None, y: ArrayLike | None = None,
          sample_weight: ArrayLike | None = None, overrides: Sequence[str] = (), resume: bool = False, overwrite: bool = False,
          subscribers: Sequence[Subscriber] = ()) -> TrainResult:
    """Fit a model to the optimum of all the data.

    Parameters
    ----------
    config
        Path of a YAML file, a mapping of sections, or a `TrainConfig`.
    X, y, sample_weight
        Data in memory, in the place of ``data.store``: (m, n), (m,) and (m,).
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
    settings = load_config(config, overrides)
    if resume and overwrite:
        raise ConfigError("resume and overwrite exclude each other: one goes on with a run, the other drops it")
    publish = publisher(subscribers)
    with ExitStack() as stack:
        source = _open_source(settings, X, y, sample_weight)
        directory = None
        if settings.run.directory is not None:
            directory = stack.enter_context(RunDirectory(settings.run.directory, resume=resume, overwrite=overwrite))
        if settings.cluster.kind == "address":
            publish(Note(f"asking the scheduler at {settings.cluster.address}"))
        engine = stack.enter_context(open_engine(settings.cluster))
        stack.enter_context(one_blas_thread())
        return _Run(settings, source, engine, directory, publish).finish(resume)


def _open_source(settings: TrainConfig, X: ArrayLike | None, y: ArrayLike | None, sample_weight: ArrayLike | None) -> Source:
    if X is None and y is None:
        source = ZarrSource(settings.data)
        source.check_chunks()
        return source
    if X is None or y is None:
        raise ConfigError("X and y go together: one was given without the other")
    weights = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
    return ArraySource(np.asarray(X), _as_labels(np.asarray(y)), weights)


def _as_labels(y: NDArray[Any]) -> NDArray[Any]:
    """Labels of a type that sorts and travels: Python objects become text or numbers."""
    return np.array(y.tolist()) if y.dtype.kind in "OT" else y


@dataclass(frozen=True, slots=True)
class _Problem:
    """What the first look at the data has settled."""

    objective: Objective
    """What is minimised, with classes and moments."""
    solver: Solver
    """How."""


class _Run:
    """One training run: what is known so far, and the steps that add to it."""

    def __init__(self, settings: TrainConfig, source: Source, engine: Engine, directory: RunDirectory | None, publish: Subscriber) -> None:
        self.settings = settings
        self.source = source
        self.engine = engine
        self.directory = directory
        self.publish = publish
        self.plan = make_plan(settings, source, workers_of(settings.cluster, engine.n_threads))
        check_plan(self.plan)
        self.scanner = Scanner(engine, source, publish, self.plan.partition)
        self.history: list[dict[str, Any]] = []
        self.started = self.pass_started = time.monotonic()
        self.seconds_before = 0.0
        self.bytes_told = 0

    def finish(self, resume: bool) -> TrainResult:
        self._tell_plan()
        saved = None
        if self.directory is not None:
            saved = load_checkpoint(self.directory.checkpoints, self._fingerprint()) if resume else None
        problem, state = self._begin() if saved is None else self._continue(saved)
        if saved is None:
            self._pass_done(1, state, problem)
        state, outcome = minimize(problem.objective, problem.solver, state, len(self.history), self.settings.solver.max_passes,
                                  lambda number, reached: self._pass_done(number, reached, problem))
        return self._result(problem, state, outcome)

    def _tell_plan(self) -> None:
        plan = self.plan
        slabs = f"{plan.partition.n_slabs:,} slab{'s' * (plan.partition.n_slabs != 1)}"
        held = f", {plan.partition.held_slabs:,} of them kept in memory" if plan.partition.held_slabs else ""
        self.publish(Note(f"{self.source.n_rows:,} rows, {plan.features:,} features, {plan.dtype}: {_size(plan.data_bytes)} in {slabs}{held}, "
                          f"on {self.engine.description}"))
        if self.engine.dashboard_link:
            self.publish(Note(f"dashboard: {self.engine.dashboard_link}"))
        self.publish(Note(f"solver {plan.solver}: {plan.reason}"))
        log.info("solver %s: %s", plan.solver, plan.reason)

    def _begin(self) -> tuple[_Problem, State]:
        """List the labels, survey the data (pass 1), and set the solver up."""
        labels: LabelSums = self.scanner.run(LabelScan(self.source.describe("target"), self._weights_name()), "labels")
        classes = check_classes(labels, self.source.describe("target"))
        self.pass_started = time.monotonic()
        survey: SurveySums = self.scanner.run(SurveyScan(classes, self.plan.sample_fraction, self.settings.run.seed), "pass 1")
        moments = Moments.from_sums(survey)
        self._tell_constant_features(moments)
        self._tell_changed_data(moments)
        problem = self._problem(classes, moments)
        sample = join_sample(survey.sample)
        start = problem.objective.without_features(_start_point(problem))
        if isinstance(problem.solver, Lbfgs) and sample is not None:
            return problem, start_from_sample(problem.objective, problem.solver, sample, start)
        return problem, problem.solver.init(problem.objective, start)

    def _problem(self, classes: NDArray[Any], moments: Moments) -> _Problem:
        """The objective in the coordinates of the solver that was asked for; ``auto`` is L-BFGS, which `_begin` gives a sample to start from."""
        wanted, model = self.settings.solver, self.settings.model
        if wanted.name == "gradient_descent":
            objective = Objective(self.scanner, model, classes, moments, data_coordinates(moments, model.fit_intercept))
            return _Problem(objective, GradientDescent(wanted.learning_rate, wanted.tolerance, objective.penalized))
        objective = Objective(self.scanner, model, classes, moments)
        return _Problem(objective, Newton(objective, wanted.tolerance) if wanted.name == "newton" else Lbfgs(objective, wanted.tolerance))

    def _weights_name(self) -> str:
        return self.source.describe("weights") if self.source.weighted else ""

    def _tell_constant_features(self, moments: Moments) -> None:
        constant = np.flatnonzero(moments.spread == 0)
        if len(constant):
            names = self.source.feature_names
            first = ", ".join(repr(names[j]) if names is not None else str(j) for j in constant[:5])
            self.publish(Note(f"{len(constant)} of {self.source.n_features} features are constant (first: {first})"
                              + ("; their coefficients stay 0" if self.settings.model.fit_intercept else ""), warning=True))

    def _tell_changed_data(self, moments: Moments) -> None:
        """Hold the data against those of the run that is being replaced: a flipped bit without a checksum shows only so."""
        before = None if self.directory is None else self.directory.previous_summary
        if before is None or before.get("data_fingerprint", moments.fingerprint) == moments.fingerprint:
            return
        if before.get("store") == self.settings.data.store and before.get("rows") == self.source.n_rows:
            self.publish(Note(f"the data in {self.settings.data.store} are not those that the run being replaced was trained on (fingerprint "
                              f"{moments.fingerprint[:12]}, was {before['data_fingerprint'][:12]}); if nobody changed the store, it is damaged", warning=True))

    def _pass_done(self, number: int, state: State, problem: _Problem) -> None:
        now = time.monotonic()
        event = PassFinished(number, state.loss, state.value, state.gradient_max, state.step, now - self.pass_started,
                             self.scanner.bytes_read - self.bytes_told)
        self.pass_started, self.bytes_told = now, self.scanner.bytes_read
        self.history.append(event.as_line())
        if self.directory is not None:
            if number == 1:
                self.directory.begin()
                self.directory.write_config(self.settings)
                self.directory.write_history(self.history)
            else:
                self.directory.append_history(self.history[-1])
            if number % self.settings.run.checkpoint_every == 0 or state.status:
                self._save(number, state, problem)
        self.publish(event)

    def _save(self, number: int, state: State, problem: _Problem) -> None:
        assert self.directory is not None
        arrays, values = flatten(state, "state.")
        moment_arrays, moment_values = flatten(problem.objective.moments, "moments.")
        values |= {**moment_values, "solver": problem.solver.name, "history": self.history, "modified": self.source.modified,
                   "seconds": self.seconds_before + time.monotonic() - self.started}
        save_checkpoint(self.directory.checkpoints, Checkpoint(
            number, self._fingerprint(), {**arrays, **moment_arrays, "classes": problem.objective.classes}, values))

    def _continue(self, saved: Checkpoint) -> tuple[_Problem, State]:
        """Take everything from a checkpoint."""
        assert self.directory is not None
        moments = unflatten(Moments, "moments.", saved)
        classes = saved.arrays["classes"]
        problem = self._problem(classes, moments)
        state = unflatten(_STATES[problem.solver.name], "state.", saved)
        self.history = list(saved.values["history"])
        self.seconds_before = float(saved.values["seconds"])
        self._require_same_data(classes, moments, saved)
        self.directory.write_config(self.settings)
        self.directory.write_history(self.history)
        self.publish(Note(f"resuming after pass {saved.passes}, at a gradient of {state.gradient_max:.3g}"))
        return problem, state

    def _require_same_data(self, classes: NDArray[Any], moments: Moments, saved: Checkpoint) -> None:
        """Hold the data against those of the checkpoint: by when they were written, or if that does not tell, by reading them once."""
        if self.source.modified is not None and self.source.modified == saved.values["modified"]:
            return
        survey: SurveySums = self.scanner.run(SurveyScan(classes, 0.0, self.settings.run.seed), "compare")
        self.bytes_told, self.pass_started = self.scanner.bytes_read, time.monotonic()
        if survey.fingerprint.hex() != moments.fingerprint:
            raise RunDirectoryError(f"the checkpoint was made with data of fingerprint {moments.fingerprint[:12]}, those in "
                                    f"{self.source.describe('features')} have {survey.fingerprint.hex()[:12]}; bring back the data that it was made with, "
                                    "or start anew with --overwrite")

    def _fingerprint(self) -> dict[str, str]:
        """What must be the same for a checkpoint to be continued: all keys that the bits depend on, and the shape of the data."""
        flat = {key: repr(value) for key, value in _flat(self.settings.to_dict()) if not key.startswith(_BITS_DO_NOT_DEPEND_ON)}
        data = {"data shape": f"({self.source.n_rows}, {self.source.n_features})", "data dtype": str(self.source.dtype),
                "data chunk rows": str(self.source.chunk_rows), "data bytes": str(self.source.stored_bytes)}
        return {**flat, **data}

    def _result(self, problem: _Problem, state: State, outcome: Outcome) -> TrainResult:
        objective, solver = problem.objective, problem.solver
        with np.errstate(over="ignore", invalid="ignore"):
            W, b = objective.coordinates.to_data_units(solver.result(state))
        model = Model(np.ascontiguousarray(W.T), b, objective.classes, self.source.feature_names, self.settings.model.family)
        summary = {
            "status": outcome.status, "reason": outcome.reason, "passes": len(self.history), "objective": state.value, "loss": state.loss,
            "gradient_max": state.gradient_max, "seconds": self.seconds_before + time.monotonic() - self.started,
            "peak_memory_bytes": self.engine.peak_memory_bytes(), "bytes_read": sum(line["bytes_read"] for line in self.history),
            "read_retries": self.engine.read_retries,
            "store": self.settings.data.store or None, "rows": self.source.n_rows, "features": self.source.n_features,
            "classes": objective.classes.tolist(), "data_fingerprint": objective.moments.fingerprint,
            "coefficients_sha256": model.coefficients_sha256, "solver": solver.name, "engine": self.engine.description,
            "python": platform.python_version(), "numpy": np.__version__, "blas": _blas_core()}
        summary = {key: finite(value) for key, value in summary.items()}
        if self.directory is not None:
            self.directory.write_results(model, summary)
        return TrainResult(model, outcome.status, outcome.reason, len(self.history), self.history, summary)


def _start_point(problem: _Problem) -> NDArray[np.float64]:
    """Zero for gradient descent, as its formulas have it; the best intercept for the others."""
    return np.zeros(problem.objective.size) if isinstance(problem.solver, GradientDescent) else problem.objective.start()


def check_classes(labels: LabelSums, where: str) -> NDArray[Any]:
    """The two classes.

    Raises
    ------
    LabelError
        When there are not exactly two labels, or one of them has no weight.
    """
    found = labels.labels
    named = ", ".join(f"{label!r} ({count} rows)" for label, count in list(zip(found.tolist(), labels.row_counts.tolist(), strict=True))[:5])
    if len(found) < 2:
        raise LabelError(f"{where} holds one class only: {named}; a classifier needs examples of two")
    if len(found) > 2:
        raise LabelError(f"{where} holds {len(found)} classes: {named}{', ...' if len(found) > 5 else ''}; the logistic family fits two. Was the "
                         "right array named in data.target? Merge labels into two, or drop the others")
    if (labels.weight_sums <= 0).any():
        raise LabelError(f"{where}: all examples of the class {found[int(np.argmin(labels.weight_sums))].item()!r} weigh 0; both classes need weight")
    return found


def _flat(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    pairs: list[tuple[str, Any]] = []
    for key, value in tree.items():
        pairs += _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) and value else [(prefix + key, value)]
    return pairs


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.3g} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.3g} MB"


def _blas_core() -> str:
    """The kernel that BLAS chose for this processor: bits are the same only where it is."""
    cores = {f"{info.get('internal_api')} {info.get('version')} {info.get('architecture', '')}".strip()
             for info in threadpool_info() if info.get("user_api") == "blas"}
    return ", ".join(sorted(cores))
