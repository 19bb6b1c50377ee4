"""What can be inferred from a fitted model: standard errors, tests, intervals and likelihoods, from
two passes over its data.

The first pass surveys the data, as training does: it tells whether they are those that the model
was trained on, and the means about which the second sums information and scores without loss of
digits (see `streamlr.kernels.scans.information`).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.config.places import local_run
from streamlr.config.sections import TrainConfig, load_config
from streamlr.data.holdout import split_of
from streamlr.data.source import Source
from streamlr.errors import (
    ConfigError,
    DataError,
    LabelError,
    MemoryLimitError,
    RunDirectoryError,
    ShapeError,
    either,
    option,
)
from streamlr.events import Event, Note, Subscriber, publisher
from streamlr.execution import ENGINES, open_engine
from streamlr.execution.engine import one_blas_thread
from streamlr.execution.limits import memory_reported
from streamlr.execution.scanner import Scanner
from streamlr.inference.covariance import Bread, Layout, small_sample_factor
from streamlr.inference.distributions import special
from streamlr.inference.options import SummaryOptions
from streamlr.inference.table import Fit, Summary, summarize
from streamlr.kernels.families import FAMILIES
from streamlr.kernels.hessian import hessian_leaf_rows
from streamlr.kernels.scans.groups import GroupKeys, GroupScan
from streamlr.kernels.scans.information import (
    InformationScan,
    InformationSums,
    MoveScan,
    MoveSums,
    NullScan,
    NullSums,
)
from streamlr.model import Model
from streamlr.objective.objective import Moments
from streamlr.planning.memory import HESSIANS_OF_THREAD
from streamlr.planning.workforce import with_room
from streamlr.runs.directory import CONFIG_NAME, read_summary
from streamlr.runs.session import Session
from streamlr.scoring.scoring import open_run
from streamlr.solvers.registry import OF_HESSIANS

Array = NDArray[np.float64]

MOST_PARAMETERS = 4096
"""Of a model whose covariance, a square of them, is made."""
MOST_GROUP_VALUES = 2**25
"""Sums of groups times parameters that are kept: 256 MB each time that they lie in memory."""
_COPIES_OF_GROUPS = 2
"""Times that they do for each thread, and once more for what waits to be added to."""
_COPIES_OF_SCORES = 3
"""Times that the scores of a leaf do, while they are put in the order of their groups."""
_NEWTON_STEPS = 100
_MAY_MOVE = 1e-4
"""A step of Newton's method, in spreads of the features, from which on a look is taken at what it
does to Z."""
_MOVES = 0.1
"""A step that changes a Z by more is no rest of a solve that has converged."""
_STORE = either("--store", "store=")
_FAR_FROM_OPTIMUM = 0.1
"""Standard errors between a model and the optimum from which on the one tells nothing of the other.
"""
_ROUNDING = 16.0 * float(np.finfo(np.float64).eps)
_NOT_NEAR_OPTIMUM = 1e-3
"""The same from which on a person is told."""


@memory_reported()
def summary(
    run: str | Path,
    store: str | None = None,
    *,
    errors: Any = None,
    groups: str | None = None,
    weights: Any = "case",
    confidence: float = 0.95,
    correction: str | None = None,
    use_t: bool | None = None,
    overrides: Sequence[str] = (),
    subscribers: Sequence[Subscriber] = (),
) -> Summary:
    """Standard errors, tests and likelihoods of a trained model, in two passes over its data.

    Parameters
    ----------
    run
        Directory of the run.
    store
        Where its data are now, if they have moved.
    errors
        ``classical``, ``robust`` (``HC0``), ``HC1`` or ``clustered``; by default the last where
        there are groups, else the first.
    groups
        Name of the store's array of groups, whose rows are not independent; by default
        ``data.groups``.
    weights
        What sample weights mean: ``case`` or ``frequency``.
    confidence
        Of the intervals.
    correction
        Whose small-sample factor ``HC1`` and ``clustered`` errors have: ``statsmodels`` (default),
        ``stata``, ``R-HC1``, ``R-HC0`` or ``none`` (see
        `streamlr.inference.covariance.small_sample_factor`).
    use_t
        Whether tests are by t and F, with n - d degrees of freedom or, of clustered errors, with
        one less than there are groups (``R-HC1`` and ``R-HC0`` have n - d there too, as
        ``coeftest`` of R's lmtest); otherwise by z and chi-squared. By default those of classical
        errors of the linear family are by t and F.
    overrides
        Settings that differ from the run's, as ``section.key=value``.
    subscribers
        Called with every event.

    Raises
    ------
    ConfigError
        Where there is a penalty, or the solve had not converged.
    DataError
        For data that are not those of the run, separate the classes, or whose features are
        combinations of one another.
    MemoryLimitError
        For more parameters or groups than there is room for.
    """
    options = SummaryOptions(
        errors or ("classical" if groups is None else "clustered"),
        weights,
        confidence,
        correction,
        use_t,
    )
    if groups is not None:
        overrides = [*overrides, _override_of(groups, options)]
    facts = _facts(run)
    publish = publisher(subscribers)
    model, config, source = open_run(
        run,
        store,
        overrides,
        publish,
        labelled=True,
        grouped=options.errors == "clustered",
        as_fitted=True,
    )
    _refuse_unfit(run, model, config, source, facts, options)
    config = replace(
        config,
        model=replace(config.model, family=model.family),  # type: ignore[arg-type]
        solver=replace(config.solver, name=OF_HESSIANS),  # type: ignore[arg-type]
    )
    with open_engine(with_room(config.cluster)) as engine, one_blas_thread():
        session = Session(config, source, engine, lambda event: _warnings_alone(event, publish))
        return _Inference(model, session, options, facts, publish).finish()


def _override_of(groups: str, options: SummaryOptions) -> str:
    """The setting that names the array of groups, where the errors are those of groups."""
    if options.errors != "clustered":
        raise ConfigError(
            f"groups: errors {options.errors} take every row for its own; leave out one of the two"
        )
    return f"data.groups={json.dumps(groups)}"


def _warnings_alone(event: Event, publish: Subscriber) -> None:
    """What is said of a plan to train means nothing here."""
    if not isinstance(event, Note) or event.warning:
        publish(event)


def _facts(run: str | Path) -> dict[str, Any]:
    """What ``summary.json`` tells of a run that has ended at an optimum without a penalty.

    Raises
    ------
    RunDirectoryError, ConfigError
    """
    facts = read_summary(run)
    if facts is None:
        raise RunDirectoryError(
            f"{str(run)!r} holds no summary.json, which tells whether its model is an optimum; "
            "give the directory of a finished run"
        )
    trained = load_config(local_run(run) / CONFIG_NAME)
    if trained.model.bounds.given:
        raise ConfigError(
            f"the model in {str(run)!r} was fitted with model.bounds, and the distribution of a "
            "coefficient at its bound is not normal; train "
            "again without bounds"
        )
    if trained.path is not None:
        raise ConfigError(
            f"the model in {str(run)!r} is one of a path of penalties; a penalty biases "
            "coefficients, and standard errors and p that leave that "
            "out would be wrong. Train with model.penalty: {l2: 0, l1: 0}"
        )
    if split_of(trained) is not None:
        raise ConfigError(
            f"the model in {str(run)!r} was fitted to a part of the rows (validation), and "
            "standard errors are those of all; train again without "
            "validation"
        )
    for name, strength in (("l2", trained.model.penalty.l2), ("l1", trained.model.penalty.l1)):
        if strength > 0:
            raise ConfigError(
                f"the model in {str(run)!r} was fitted with model.penalty.{name}: {strength:g}; a "
                "penalty biases coefficients, and "
                "standard errors and p that leave that out would be wrong. Train again with "
                "model.penalty: {l2: 0, l1: 0}"
            )
    status = facts.get("status")
    if status not in (
        "converged",
        "stalled",
    ):  # stalled at rounding is an optimum as well; whether it is one shows in the sums
        cause = (
            "; where a combination of features separates the classes, there is no optimum: leave "
            "out what separates them"
            if status == "diverged"
            else ""
        )
        raise RunDirectoryError(
            f"the run in {str(run)!r} has not converged (status {status}: {facts.get('reason')}), "
            "and standard errors are those of an "
            f"optimum; train on with {option('resume')} and a larger solver.max_passes, or "
            f"another solver{cause}"
        )
    return facts


def _refuse_unfit(
    run: str | Path,
    model: Model,
    config: TrainConfig,
    source: Source,
    facts: dict[str, Any],
    options: SummaryOptions,
) -> None:
    """Refuse what can be told before the data are read."""
    if facts.get("rows") != source.n_rows:
        raise ShapeError(
            f"{source.describe('features')} has {source.n_rows} rows, and the model in "
            f"{str(run)!r} was trained on {facts.get('rows')}; "
            f"standard errors need those same rows: name their store with {_STORE}, or train again"
        )
    size = Layout(_names(model), _outputs(model), config.model.fit_intercept).size
    if size > MOST_PARAMETERS:
        raise MemoryLimitError(
            f"the model has {size:,} parameters, and a covariance is made of {MOST_PARAMETERS:,} "
            "at most (their square is "
            f"{8e-6 * MOST_PARAMETERS**2:.0f} MB, several times over); train a model of fewer "
            "features for inference"
        )
    if options.errors == "clustered" and config.data.groups is None:
        raise ConfigError(
            "errors clustered: there are no groups; name an array of the store with "
            f"{either('--groups', 'groups=')}, or data.groups"
        )
    if config.model.class_weight is not None and options.errors == "classical":
        raise ConfigError(
            "model.class_weight: weights of classes make no likelihood, so that classical errors "
            "would be wrong; take "
            f"{option('errors', 'robust')}, or train without them"
        )
    if options.with_t(FAMILIES[model.family].has_dispersion):
        special()


def _outputs(model: Model) -> int:
    """Outputs that have parameters of their own."""
    return len(model.coef_) - FAMILIES[model.family].coupled


def _names(model: Model) -> tuple[str, ...]:
    return model.feature_names or tuple(f"x{j}" for j in range(model.coef_.shape[1]))


class _Inference:
    """The two passes, and what is made of them."""

    def __init__(
        self,
        model: Model,
        session: Session,
        options: SummaryOptions,
        facts: dict[str, Any],
        publish: Subscriber,
    ) -> None:
        self.model = model
        self.session = session
        self.options = options
        self.facts = facts
        self.publish = publish
        self.family = FAMILIES[model.family]
        self.layout = Layout(_names(model), _outputs(model), session.settings.model.fit_intercept)
        self.notes: list[str] = []

    @property
    def scanner(self) -> Scanner:
        return self.session.scanner

    def finish(self) -> Summary:
        classes = self._classes()
        self._check_memory(self._count_groups())
        moment_sums = self.session.sum_moments(classes, 0.0, "statistics")
        moments = self.session.moments_from(moment_sums)
        if moments.fingerprint != self.facts.get("data_fingerprint"):
            self._note(
                "the data are not, bit by bit, those that the model was trained on (fingerprint "
                f"{moments.fingerprint[:12]}, trained on "
                f"{str(self.facts.get('data_fingerprint'))[:12]})",
                warning=True,
            )
        center = moments.mean if self.layout.fit_intercept else np.zeros_like(moments.mean)
        W = self.model.coef_.T
        null = self._null_intercepts(moments, classes)
        scan = InformationScan(
            self.model.family,
            classes,
            W,
            self.model.intercept_ + center @ W,
            null,
            center,
            self.options.meat,
            self.options.weights == "frequency",
        )
        sums: InformationSums = self.scanner.run(scan, "information")
        bread = Bread(sums.information, self.layout, center)
        self._check_optimum(bread, sums, moments)
        return self._summary(bread, sums, float(null[0]))

    def _classes(self) -> NDArray[Any]:
        """The classes of the data, which must be those of the model."""
        classes = self.session.list_labels()
        if classes.tolist() != self.model.classes_.tolist():
            raise LabelError(
                f"{self.session.source.describe('target')} holds the classes "
                f"{classes.tolist()[:5]}, and the model was trained on "
                f"{self.model.classes_.tolist()[:5]}; name the store that it was trained on with "
                f"{_STORE}"
            )
        return classes

    def _count_groups(self) -> int:
        if self.options.errors != "clustered":
            return 0
        name = self.session.source.describe("groups")
        found: GroupKeys = self.scanner.run(
            GroupScan(MOST_GROUP_VALUES // self.layout.size, name), "groups"
        )
        if len(found.keys) < 2:
            raise DataError(
                f"{name} holds one group only; clustered errors compare groups with one another, "
                "so they need two, and better forty or more"
            )
        if len(found.keys) <= self.layout.size:
            self._note(
                f"{len(found.keys)} groups are no more than the {self.layout.size} coefficients; "
                "their errors are too small, and no joint test of "
                "all of them is possible",
                warning=True,
            )
        return len(found.keys)

    def _check_memory(self, n_groups: int) -> None:
        """Refuse what the meat adds to a pass that sums a Hessian, where that is over the limit."""
        plan, cluster, d = self.session.plan, self.session.settings.cluster, self.layout.size
        threads = (
            plan.threads
            if ENGINES[cluster.kind].in_process
            else min(plan.threads, cluster.threads_per_worker)
        )
        scores = (
            8 * (d + 1) * hessian_leaf_rows(plan.partition.leaf_rows, *self.model.coef_.T.shape)
        )
        extra = 0
        if n_groups:
            extra = threads * _COPIES_OF_SCORES * scores + 8 * n_groups * (
                d + 1
            ) * _COPIES_OF_GROUPS * (threads + 1)
        elif self.options.errors != "classical":
            extra = threads * scores * (self.layout.n_outputs > 1) + 8 * d**2 * (
                HESSIANS_OF_THREAD * threads + plan.partition.n_blocks.bit_length()
            )
        if plan.memory_limit is not None and plan.peak_bytes + extra > plan.memory_limit:
            groups = f" and {n_groups:,} groups" if n_groups else ""
            raise MemoryLimitError(
                f"errors {self.options.errors} of {self.layout.size:,} parameters{groups} need "
                "about "
                f"{(plan.peak_bytes + extra) / 1e6:.0f} MB in one process, and "
                f"cluster.memory_limit is {plan.memory_limit / 1e6:.0f} MB; "
                f"raise the limit, or take {option('errors', 'classical')}"
            )

    def _null_intercepts(self, moments: Moments, classes: NDArray[Any]) -> Array:
        """Z of the best model without features, (c,); where there is an offset by Newton's method,
        which reads targets and offsets alone."""
        best = self.family.link(moments.target_mean)
        if not self.session.source.has_offset:
            return best
        b, low, high = float(best[0]) - moments.offset_mean, -np.inf, np.inf
        for _ in range(_NEWTON_STEPS):
            sums: NullSums = self.scanner.run(NullScan(self.model.family, classes, b), "null model")
            low, high = (b, high) if sums.score < 0 else (low, b)
            step = -sums.score / sums.curvature if sums.curvature > 0 else -np.sign(sums.score)
            if abs(step) <= 1e-12 * (1.0 + abs(b)):
                break
            b += step if self.family.quadratic else float(np.clip(step, -2.0, 2.0))
            if not low < b < high:
                b = 0.5 * (low + high)
        return np.array([b])

    def _check_optimum(self, bread: Bread, sums: InformationSums, moments: Moments) -> None:
        """A step of Newton's method from the model must lead nowhere."""
        step = bread.step(sums.score)
        same = moments.fingerprint == self.facts.get("data_fingerprint")
        if same and self.family.may_recede:
            self._refuse_separated(step, moments)
        steps = float(
            np.sqrt(np.abs(step @ sums.score[: len(step)]) / sums.weight_sum)
        )  # a Z, in the root of the mean square
        if steps <= self._rounding(
            moments
        ):  # where a fit is perfect, rounding is all that is left, in errors and in steps
            return
        with np.errstate(divide="ignore", invalid="ignore"):
            away = np.abs(step) / np.sqrt(self._dispersion(sums) * bread.variances_of_centered())
        worst = int(np.argmax(away))
        if not away[worst] < _FAR_FROM_OPTIMUM:
            raise DataError(
                "the model is not the optimum of these data: the coefficient of "
                f"{self.layout.name(worst)} is {away[worst]:.2g} standard errors "
                "away from it. Name the store and the weights that it was trained on, or train "
                "again with a smaller solver.tolerance"
            )
        if away[worst] > _NOT_NEAR_OPTIMUM:
            self._note(
                f"the coefficient of {self.layout.name(worst)} is {away[worst]:.1g} standard "
                "errors away from the optimum; train with a smaller "
                "solver.tolerance for more digits",
                warning=True,
            )

    def _rounding(self, moments: Moments) -> float:
        """What rounding may do to a Z of least squares: that of the target, and of the terms that
        it is the sum of; 0 for other families."""
        if not self.family.quadratic:
            return 0.0
        terms = (
            np.abs(self.model.coef_[0]) @ (moments.spread + np.abs(moments.mean))
            + np.abs(self.model.intercept_).max()
        )
        target = float(np.sqrt(moments.target_variance.max())) + float(
            np.abs(moments.target_mean).max()
        )
        return _ROUNDING * (float(terms) + target)

    def _refuse_separated(self, step: Array, moments: Moments) -> None:
        """Where classes are separated, or nearly so, score and information vanish together: the
        step stays large however small the gradient.

        A step may be large also where features are nearly combinations of one another; but then it
        changes no Z. One more pass tells, where need be.
        """
        c = self.layout.n_outputs
        W, u = (
            step[: self.layout.n_slopes].reshape(-1, c),
            step[self.layout.n_slopes :] if self.layout.fit_intercept else np.zeros(c),
        )
        size = np.where(moments.spread > 0, moments.spread, np.abs(moments.mean))
        if max((np.abs(W) * size[:, None]).max(), np.abs(u).max()) < _MAY_MOVE:
            return
        center = moments.mean if self.layout.fit_intercept else np.zeros_like(moments.mean)
        moved: MoveSums = self.scanner.run(MoveScan(W, u, center), "separation")
        if moved.largest > _MOVES:
            feature = self.layout.name(c * int(np.argmax((np.abs(W) * size[:, None]).max(axis=1))))
            raise DataError(
                "the likelihood rises for ever along a combination of features in which "
                f"{feature} counts most: a step of Newton's method still "
                f"moves a Z by {moved.largest:.2g}, though the gradient is within the tolerance. "
                "Some classes or counts are separated from "
                "the others, so there is no optimum and no standard error; leave out or merge "
                "what separates them"
            )

    def _dispersion(self, sums: InformationSums) -> float:
        """Variance of the target about its mean: estimated of families with a dispersion, by the
        deviance; 1 of the others, whose mean tells it."""
        if not self.family.has_dispersion:
            return 1.0
        df = self._observations(sums) - self.layout.size
        if not df > 0:
            raise DataError(
                f"{self._observations(sums):g} observations and {self.layout.size} parameters "
                "leave no degree of freedom to estimate a variance; "
                "use more rows or fewer features"
            )
        return float(sums.deviance_sum[0]) / df

    def _observations(self, sums: InformationSums) -> float:
        return sums.weight_sum if self.options.weights == "frequency" else float(sums.n_weighted)

    def _summary(self, bread: Bread, sums: InformationSums, null: float) -> Summary:
        n, d = self._observations(sums), self.layout.size
        n_groups = 0
        if sums.groups is not None:
            n_groups = int(np.count_nonzero(sums.groups.sums[:, -1] > 0))
            covariance = bread.clustered(sums.groups.sums)
        elif sums.meat is not None:
            covariance = bread.sandwich(sums.meat)
        else:
            covariance = bread.classical() * self._dispersion(sums)
        factor, linear = self.options.factor, self.family.quadratic
        if factor is not None:
            covariance = covariance * small_sample_factor(
                factor, linear=linear, n=n, d=d, groups=n_groups
            )
        if self.session.class_factors is not None:
            self._note("weights of classes make no likelihood: what follows from one is left out")
        fit = Fit(
            self.model,
            self.layout,
            covariance,
            n,
            self.options.errors,
            self.options.confidence,
            n_groups,
            self.options.weights,
            self.session.source.weighted,
            self.session.class_factors is None,
            null,
            factor,
            self.options.with_t(self.family.has_dispersion),
        )
        return summarize(fit, sums, tuple(self.notes))

    def _note(self, text: str, *, warning: bool = False) -> None:
        self.notes.append(text)
        if warning:
            self.publish(Note(text, warning=True))
