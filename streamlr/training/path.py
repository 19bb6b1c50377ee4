"""A regularisation path with its folds: all models in the passes of the slowest of them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamlr.config.path import PathConfig
from streamlr.config.sections import TrainConfig, load_config
from streamlr.data.source import Rows
from streamlr.errors import ConfigError, ShapeError
from streamlr.events import Note, PathPassFinished, Subscriber, finite
from streamlr.execution.limits import memory_reported
from streamlr.kernels.scans.fold_scores import FoldScores, FoldScoreScan, bins_for, probe_rows
from streamlr.kernels.scans.moments import SampledRows
from streamlr.kernels.split import Split
from streamlr.kernels.split import folds as equal_folds
from streamlr.model import Model
from streamlr.objective.objective import Moments, Objective, evaluate_together
from streamlr.pilot.curvature import Curvatures
from streamlr.pilot.sample import join_sample
from streamlr.pilot.solve import start_plain, start_together
from streamlr.planning.plan import models_of
from streamlr.runs.checkpoint import Checkpoint, flatten, unflatten
from streamlr.runs.directory import RunDirectory
from streamlr.runs.packing import (
    pack_curvatures,
    pack_progress,
    unpack_curvatures,
    unpack_progress,
)
from streamlr.runs.session import Session
from streamlr.solvers import Solve, SolveProgress
from streamlr.solvers.loop import Evaluate
from streamlr.training.folds import FoldMoments, parts_asked
from streamlr.training.lambda_grid import given_strengths, penalized, strengths
from streamlr.training.null_model import NullModel
from streamlr.training.opening import Arrays, opened
from streamlr.training.path_table import FoldVerdicts, Scores, path_table, penalties, worst
from streamlr.training.run import Packed, Run

log = logging.getLogger(__name__)

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class PathResult:
    """What a path leaves behind."""

    model: Model
    """The chosen model, fitted to all rows."""
    lambdas: Array
    """Strengths of the penalty, from the largest on, (L,)."""
    coefficients: Array
    """Of the models fitted to all rows, (L, c, n), in the units of the data."""
    intercepts: Array
    """(L, c)."""
    fold_coefficients: Array
    """Of the models of the folds, (L, K, c, n)."""
    fold_intercepts: Array
    """(L, K, c)."""
    fold_scores: dict[str, Array]
    """``loss`` of the rows held out, and where the target is a class their ``accuracy`` and (of
    two) ``auc``, (L, K) each."""
    fold_moments: FoldMoments
    """What the folds leave and hold out, and which classes they lack."""
    table: list[dict[str, Any]]
    """A record for each strength, as in ``path.json``."""
    chosen: int
    """Index of the chosen strength."""
    status: str
    """``converged``, or how the worst of the solves ended."""
    reason: str
    """The same for a person."""
    passes: int
    """Reads of all the data."""
    history: list[dict[str, Any]]
    """A record for each pass, as in ``history.jsonl``."""
    summary: dict[str, Any]
    """What ``summary.json`` holds."""
    scores: dict[str, Any]
    """What ``path.json`` holds beside the table."""


@memory_reported()
def path(
    config: str | Path | Mapping[str, Any] | TrainConfig,
    *,
    X: ArrayLike | Rows | None = None,
    y: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    offset: ArrayLike | None = None,
    groups: ArrayLike | None = None,
    folds: ArrayLike | None = None,
    fold_shares: Sequence[float] | None = None,
    overrides: Sequence[str] = (),
    resume: bool = False,
    overwrite: bool = False,
    subscribers: Sequence[Subscriber] = (),
) -> PathResult:
    """Fit the models of many penalties, and of the folds that judge them, in the passes of the
    slowest of them.

    Parameters
    ----------
    config
        Path of a YAML file, a mapping of sections, or a `TrainConfig`; its section ``path`` says
        what is asked for.
    X, y, sample_weight, offset
        Data in the place of ``data.store``, as for `streamlr.train`.
    groups
        The group of each row, (m,): those of one group are held out together.
    folds
        In the place of a hash the fold of each row, (m,), from 0 to ``path.folds`` - 1; -1 for rows
        that none holds out. It goes with X and y.
    fold_shares
        Strengths of the penalty in the folds over those of all rows, (K,); none: the same.
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
        When the store or the data cannot be trained on, or a fold holds no rows.
    """
    settings = load_config(config, overrides)
    if settings.path is None:
        settings = load_config(replace(settings, path=PathConfig()))
    if folds is not None and groups is not None:
        raise ConfigError(
            "groups and folds exclude each other: groups are dealt out to folds by a hash, folds "
            "are dealt out already"
        )
    given = Arrays(X, y, sample_weight, offset, groups if folds is None else folds)
    with opened(settings, given, subscribers, resume=resume, overwrite=overwrite) as (
        session,
        directory,
    ):
        return _PathRun(session, directory, fold_shares, numbered=folds is not None).finish(resume)


@dataclass(frozen=True, slots=True)
class _Models:
    """All models of a path, and what is known of them."""

    grid: list[list[Objective]]
    """Of every strength, the objective of all rows, then those of the folds."""
    solves: list[Solve[Objective]]
    """The same in a row, with their solvers."""
    curvatures: Curvatures
    probe: Array
    """A few of the rows, (s, n)."""


class _PathRun(Run[PathResult]):
    """One path."""

    models: _Models

    def __init__(
        self,
        session: Session,
        directory: RunDirectory | None,
        fold_shares: Sequence[float] | None,
        *,
        numbered: bool,
    ) -> None:
        super().__init__(session, directory)
        assert session.settings.path is not None
        self.asked = session.settings.path
        folds, seed = self.asked.folds, self.settings.run.seed
        self.split = None
        if folds:
            self.split = Split((), seed, numbered=True) if numbered else equal_folds(folds, seed)
        self.fold_shares = [1.0] * folds if fold_shares is None else list(fold_shares)
        self.folds = FoldMoments.none()

    def evaluate(self) -> Evaluate[Objective]:
        return evaluate_together

    def event(self, number: int, progress: Sequence[SolveProgress]) -> PathPassFinished:
        active = sum(not here.ended for here in progress)
        begun = [here.state.gradient_max for here in progress if here.state is not None]
        return PathPassFinished(
            number,
            active,
            len(progress),
            max(begun, default=np.nan),
            *self.record.cost_of_pass(),
        )

    def pass_done(
        self, number: int, progress: Sequence[SolveProgress], complete: bool = True
    ) -> None:
        super().pass_done(number, progress, complete)
        self._refuse_empty_folds(progress)

    def begin(self) -> list[SolveProgress]:
        """List the labels, sum the moments (pass 1), and solve the sample for all models."""
        classes = self.session.list_labels()
        self.record.begin_pass()
        asked = parts_asked(self.session.model, self.asked.folds, self.split)
        sums = self.session.sum_moments(
            classes, self.session.plan.sample_fraction, keyed=self.asked.folds > 0, parts=asked
        )
        moments = self.session.moments_from(sums)
        self.record.announce_changed_data(moments)
        if sums.parts is not None:
            self.folds = FoldMoments.of(sums.parts, moments, self.session.model)
        self._announce_folds(classes)
        parts = list(sums.sample)
        del sums  # or the rows would stay in memory beside those that they are joined to
        sample = join_sample(parts)
        self.lambdas = self._strengths(classes, moments, sample)
        grid = self._objectives(classes, moments)
        curvatures, standings = (
            start_plain(grid)
            if sample is None
            else start_together(
                grid, sample, self.session.plan.curvatures, self.session.plan.columns
            )
        )
        self._know(grid, curvatures, _probe(sample, moments))
        self._announce_passes(self.session.scanner.passes, standings, complete=True)
        return standings

    def _know(self, grid: list[list[Objective]], curvatures: Curvatures, probe: Array) -> None:
        """All models and their solvers."""
        self.solves = curvatures.solves(grid, self.settings.solver.tolerance)
        self.models = _Models(grid, self.solves, curvatures, probe)

    def _announce_passes(self, last: int, progress: list[SolveProgress], *, complete: bool) -> None:
        """Tell of the passes up to that one that have not been told of."""
        for number in range(len(self.record.history) + 1, last + 1):
            self.pass_done(number, progress, complete and number == last)

    def _strengths(
        self, classes: NDArray[Any], moments: Moments, sample: SampledRows | None
    ) -> Array:
        """As they were given, or from the model without penalised features on, which may take
        passes."""
        if self.asked.lambdas is not None:
            return given_strengths(self.asked.lambdas)
        unit = Objective(
            self.session.scanner, penalized(self.session.model, 1.0, 1.0), classes, moments
        )
        none = [SolveProgress(np.empty(0))] * models_of(self.settings)
        null = NullModel(unit, self.session.plan)
        return strengths(
            self.asked,
            unit,
            null.found(sample, lambda last: self._announce_passes(last, none, complete=False)),
        )

    def _announce_folds(self, classes: NDArray[Any]) -> None:
        for text in self.folds.warnings(self.session.model.family, classes.tolist()):
            self.session.publish(Note(text, warning=True))

    def _objectives(self, classes: NDArray[Any], moments: Moments) -> list[list[Objective]]:
        """Of every strength that of all rows, then those of the folds."""
        alpha, folds = self.asked.alpha, range(-1, self.asked.folds)
        each = list(zip([1.0, *self.fold_shares], self.folds.target_spread.tolist(), strict=True))
        models = [
            [
                penalized(self.session.model, strength * share, alpha, spread)
                for share, spread in each
            ]
            for strength in self.lambdas.tolist()
        ]
        spreads = [self.folds.penalty_spread(fold) for fold in folds]
        return [
            [
                Objective(
                    self.session.scanner, model, classes, moments, None, self.split, fold, spread
                )
                for fold, model, spread in zip(folds, row, spreads, strict=True)
            ]
            for row in models
        ]

    def go_on(self, saved: Checkpoint) -> list[SolveProgress]:
        """Take everything from a checkpoint."""
        classes, moments = saved.arrays["classes"], unflatten(Moments, "moments.", saved)
        self.session.use_classes(classes, saved.arrays.get("class_factors"))
        self.lambdas, self.folds = saved.arrays["lambdas"], unflatten(FoldMoments, "folds.", saved)
        self.session.require_same_data(
            classes, moments, saved.values["modified"], keyed=self.asked.folds > 0
        )
        grid = self._objectives(classes, moments)
        curvatures = unpack_curvatures(saved, grid[0][0].coordinates)
        standings = unpack_progress(saved, curvatures.known)
        self.record.continue_from(saved)
        self._announce_folds(classes)
        self.session.publish(
            Note(
                f"resuming after pass {saved.passes}, with {sum(not s.ended for s in standings)} "
                f"of {len(standings)} models to go on"
            )
        )
        self._know(grid, curvatures, saved.arrays["probe"])
        return standings

    def _refuse_empty_folds(self, standings: Sequence[SolveProgress]) -> None:
        """As soon as a model without a fold is evaluated it is known what that fold weighs."""
        for k, standing in enumerate(standings[1 : self.asked.folds + 1]):
            if standing.state is not None and not standing.validation_weight > 0:
                raise ShapeError(
                    f"fold {k + 1} of {self.asked.folds} holds no rows (or none that have weight) "
                    f"among the {self.session.source.n_rows} of the "
                    "data; set path.folds lower, or use larger data or more groups"
                )

    def packed(self, progress: Sequence[SolveProgress]) -> Packed:
        models, objective = self.models, self.models.grid[0][0]
        arrays: dict[str, NDArray[Any]] = {
            "classes": objective.classes,
            "lambdas": self.lambdas,
            "probe": models.probe,
        }
        values: dict[str, Any] = {}
        known, solver = models.curvatures.known, models.solves[0].solver.name
        for some, others in (
            flatten(objective.moments, "moments."),
            flatten(self.folds, "folds."),
            pack_curvatures(models.curvatures),
            pack_progress(list(progress), solver, known),
        ):
            arrays |= some
            values |= others
        return arrays, values

    def _judge(self, standings: Sequence[SolveProgress]) -> Scores:
        """Values and weights of every score of the rows held out, (L, K) each; one pass where the
        target is a class."""
        L, K = len(self.lambdas), self.asked.folds
        if not K:
            return {}
        table = np.array([(s.validation_loss, s.validation_weight) for s in standings]).reshape(
            L, K + 1, 2
        )[:, 1:]
        scores = {"loss": (table[:, :, 0], table[:, :, 1])}
        models = self.models
        model = models.grid[0][0]
        if not model.family.labelled:
            return scores
        coefficients, intercepts = (
            values[:, 1:] for values in _in_data_units(models.grid, standings)
        )
        c = model.coordinates.n_outputs
        assert model.split is not None
        scan = FoldScoreScan(
            model.model.family,
            model.classes,
            coefficients,
            intercepts,
            model.split,
            bins_for(coefficients, intercepts, models.probe),
        )
        sums: FoldScores = self.session.scanner.run(scan, f"pass {len(self.record.history) + 1}")
        self.pass_done(len(self.record.history) + 1, standings, complete=False)
        scores["accuracy"] = sums.correct_sum / sums.weight_sum, sums.weight_sum
        if c == 1:
            area, bound = sums.areas()
            if not self.session.source.has_offset:
                bound = np.where(coefficients.any(axis=(2, 3)), bound, 0.0)  # ties that are ties
            ranked = np.where(
                np.isnan(area), 0.0, sums.weight_sum
            )  # of rows of one class there is no area
            scores |= {"auc": (area, ranked), "auc_error_bound": (bound, ranked)}
        return scores

    def result(self, progress: Sequence[SolveProgress]) -> PathResult:
        grid, standings, scores = self.models.grid, progress, self._judge(progress)
        W, b = _in_data_units(grid, standings)
        W = np.ascontiguousarray(np.swapaxes(W, 2, 3))
        family = self.session.model.family
        out, unsolved = self.folds.left_out(family), self.folds.unsolved(family)
        folds = FoldVerdicts(scores, out, unsolved, self.folds.least_loss)
        found, chosen = self._found(grid, folds)
        objective, state = grid[0][0], standings[chosen * (self.asked.folds + 1)].reached
        model = Model(
            W[chosen, 0],
            b[chosen, 0],
            objective.classes,
            self.session.source.feature_names,
            family,
            self.session.fitted_with,
        )
        table = path_table(
            self.lambdas, grid, standings, W[:, 0], folds, self.settings.solver.max_passes
        )
        status, reason = worst(folds.solved(standings), self.settings.solver.max_passes)
        summary = {
            "status": status,
            "reason": reason,
            "objective": state.value,
            "loss": state.loss,
            "gradient_max": state.gradient_max,
            "seconds": self.record.seconds,
            "solver": self.session.plan.solver,
            "classes": objective.classes.tolist(),
            "models": len(standings),
            **found,
            "coefficients_sha256": model.coefficients_sha256,
            "data_fingerprint": objective.moments.fingerprint,
            **self.session.summary(self.record.history),
        }
        summary = {key: finite(value) for key, value in summary.items()}
        if self.directory is not None:
            of_folds = (
                {"fold_coef": W[:, 1:], "fold_intercept": b[:, 1:]} if self.asked.folds else {}
            )
            kept = {
                "lambda": self.lambdas,
                **penalties(grid),
                "coef": W[:, 0],
                "intercept": b[:, 0],
            } | of_folds
            self.directory.write_path(found | {"path": table}, kept)
            self.directory.write_results(model, summary)
        values = {name: values for name, (values, _) in scores.items()}
        return PathResult(
            model,
            self.lambdas,
            W[:, 0],
            b[:, 0],
            W[:, 1:],
            b[:, 1:],
            values,
            self.folds,
            table,
            chosen,
            status,
            reason,
            len(self.record.history),
            self.record.history,
            summary,
            found,
        )

    def _found(
        self, grid: list[list[Objective]], folds: FoldVerdicts
    ) -> tuple[dict[str, Any], int]:
        """What ``path.json`` has beside the table, and the index of the chosen strength."""
        L, judged = len(self.lambdas), folds.cross_validation
        chosen = L - 1
        if judged is not None:
            chosen = judged.lowest if self.asked.choose == "min" else judged.within_one
        if judged is not None and L > 1 and judged.lowest == L - 1:
            smaller = (
                "smaller path.lambdas" if self.asked.lambdas is not None else "a smaller path.ratio"
            )
            self.session.publish(
                Note(
                    f"the held-out loss is lowest at the smallest strength, {self.lambdas[-1]:g}: "
                    f"{smaller} may find a lower one"
                )
            )
        penalty = grid[chosen][0].model.penalty
        return {
            "alpha": self.asked.alpha,
            "folds": self.asked.folds,
            "choose": self.asked.choose,
            "chosen": chosen,
            "lambda": float(self.lambdas[chosen]),
            "l2": penalty.l2,
            "l1": penalty.l1,
            "lambda_min": None if judged is None else float(self.lambdas[judged.lowest]),
            "lambda_1se": None if judged is None else float(self.lambdas[judged.within_one]),
            "folds_left_out": (np.flatnonzero(folds.left_out) + 1).tolist(),
        }, chosen


def _in_data_units(
    grid: list[list[Objective]], standings: Sequence[SolveProgress]
) -> tuple[Array, Array]:
    """W, (L, 1 + K, n, c), and b, (L, 1 + K, c), of all models."""
    found = [
        objective.to_data_units(s.reached.point)
        for objective, s in zip((o for row in grid for o in row), standings, strict=True)
    ]
    W, b = (np.stack(values) for values in zip(*found, strict=True))
    return W.reshape(len(grid), -1, *W.shape[1:]), b.reshape(len(grid), -1, *b.shape[1:])


def _probe(sample: SampledRows | None, moments: Moments) -> Array:
    """A few rows; where there is no sample, two that are the spread of the features apart."""
    return (
        np.stack([moments.mean - moments.spread, moments.mean + moments.spread])
        if sample is None
        else probe_rows(sample.X)
    )
