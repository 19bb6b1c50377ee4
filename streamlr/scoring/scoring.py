"""What a model makes of a store: its metrics, or its probabilities, each in one streamed pass."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.config.places import local_output, local_run, path_text
from streamlr.config.sections import TrainConfig, load_config
from streamlr.data.holdout import split_of
from streamlr.data.matching import ambiguous_names, match_names
from streamlr.data.partition import Partition
from streamlr.data.predictions import PREDICTION_COPIES, PredictionWriter, write_rows
from streamlr.data.source import Source
from streamlr.data.sources.selected import SelectedFeatures
from streamlr.data.sources.store import ZarrSource
from streamlr.errors import (
    ConfigError,
    LabelError,
    NonFiniteError,
    ShapeError,
    both,
    either,
    option,
    override,
)
from streamlr.events import Note, Subscriber, finite, publisher
from streamlr.execution import open_engine
from streamlr.execution.limits import memory_reported
from streamlr.execution.scanner import Scanner
from streamlr.kernels.batch import Batch, Workspace
from streamlr.kernels.families import FAMILIES
from streamlr.kernels.metrics.room import SumsRoom
from streamlr.kernels.scans.metrics import MetricScan, linear, refuse_overflow
from streamlr.model import Model, load_model, mean_of
from streamlr.planning.scoring import plan_scoring
from streamlr.planning.workforce import with_room, workers_of
from streamlr.runs.directory import CONFIG_NAME
from streamlr.text import named

Array = NDArray[np.float64]

_LEAF_VECTORS = 4
"""Of Z and what is made of it, while a leaf is predicted."""
_NO_STORE = (
    "give the path or URL of a Zarr group; of arrays in memory the model predicts by itself, "
    "such as streamlr.load_model(RUN).predict(X)"
)


@memory_reported()
def evaluate(
    run: str | Path,
    store: str,
    *,
    validation: bool = False,
    overrides: Sequence[str] = (),
    subscribers: Sequence[Subscriber] = (),
) -> dict[str, Any]:
    """Metrics of a trained model on a store, in one pass.

    Parameters
    ----------
    run
        Directory of the run.
    store
        The store to score, with arrays named as in the run's configuration.
    validation
        Whether to score the rows alone that the run held out of the fit, by their number, group or
        mark: of the store that it was trained on.
    overrides
        Settings that differ from the run's, as ``section.key=value``.
    subscribers
        Called with every event.

    Returns
    -------
    dict
        Of classes: ``rows``, ``weight``, ``log_loss``, ``brier_score``, ``accuracy``,
        ``balanced_accuracy``, ``cohen_kappa``, ``matthews_correlation``; ``auc`` and
        ``average_precision``, each with its ``..._error_bound`` (0 where exact; None where there is
        one class only; of more than two classes, the mean of each against the rest);
        ``confusion_matrix`` (true by predicted, in the order of ``classes``); ``per_class``,
        ``macro_average`` and ``weighted_average`` of precision, recall and F1; ``calibration``;
        and, of two classes, ``lift`` (tenths from the highest scores on) and ``roc_curve``. Of
        numbers: ``rows``, ``weight``, ``loss``, ``r2``, ``mean_squared_error``,
        ``mean_absolute_error``, and of counts ``mean_poisson_deviance`` and ``d2_poisson``.
    """
    publish = publisher(subscribers)
    model, config, source = open_run(
        run, store, overrides, publish, labelled=True, validation=validation
    )
    with _scanner(config, source, model, publish, _room_of_metrics(model)) as scanner:
        scan = MetricScan(
            model.family,
            model.classes_,
            model.coef_.T,
            model.intercept_,
            source.describe("weights") if source.weighted else "",
            split_of(config) if validation else None,
        )
        try:
            sums = scanner.run(scan, "evaluate")
        except LabelError as error:
            raise LabelError(f"{source.describe('target')}: {both(error)}") from error
    if validation and not sums.weight_sum > 0:
        raise ConfigError(
            f"the run in {str(run)!r} holds out {sums.n_rows} of the {source.n_rows} rows of "
            f"{config.data.shown_store!r}, and they weigh "
            "nothing: there is nothing to score; give the store that it was trained on"
        )
    if not sums.weight_sum > 0:
        raise NonFiniteError(f"{source.describe('weights')} are all 0: there is nothing to score")
    with np.errstate(over="ignore", invalid="ignore"):  # sums of what is finite may still overflow
        return {
            name: finite(value)
            for name, value in FAMILIES[model.family]
            .metrics.report(sums, model.classes_.tolist())
            .items()
        }


def require_plotted(run: str | Path) -> None:
    """Raise a `ConfigError` where the metrics of the model of a run are none that are drawn."""
    family = load_model(run).family
    if not FAMILIES[family].metrics.plotted:
        raise ConfigError(
            f"the model of {str(run)!r} is of the family {family}; calibration, ROC curve and "
            "lift are drawn of classes: "
            f"{either('leave out --plot', 'draw none')}"
        )


@memory_reported()
def predict(
    run: str | Path,
    store: str,
    out: str | Path,
    *,
    overwrite: bool = False,
    overrides: Sequence[str] = (),
    subscribers: Sequence[Subscriber] = (),
) -> int:
    """Write what is predicted for every row of a store as a Zarr array; returns the number of rows,
    m.

    Of two classes that is the probability of the second, (m,), of more the probability of each, (m,
    c); of a number its mean, (m,).

    Every block of rows is written by the task that computed it, as a chunk of its own; the array
    appears when it is whole.
    """
    out = local_output(out, either("OUT", "out"))
    publish = publisher(subscribers)
    model, config, source = open_run(run, store, overrides, publish, labelled=False)
    with (
        _scanner(config, source, model, publish, _room_of_predictions(model)) as scanner,
        PredictionWriter(
            out,
            source.n_rows,
            scanner.partition.block_rows,
            model.classes_.tolist(),
            len(model.coef_),
            overwrite=overwrite,
        ) as writer,
    ):
        scan = PredictScan(model.family, model.coef_.T, model.intercept_, writer.partial)
        written: Count = scanner.run(scan, "predict")
    return written.n_rows


@contextmanager
def _scanner(
    config: TrainConfig,
    source: Source,
    model: Model,
    publish: Subscriber,
    room_of: Callable[[Partition], SumsRoom],
) -> Iterator[Scanner]:
    """What reads the source on the engine of the configuration, on as many threads as there is
    memory for.

    Raises
    ------
    MemoryLimitError
        Where there is none even for one, before anything is read.
    """
    cluster = with_room(config.cluster)
    with open_engine(cluster) as engine:
        reported = engine.memory_of_workers(peak=False)
        workers = workers_of(cluster, engine.n_threads, reported, engine.limit_of_workers())
        plan = plan_scoring(cluster.memory_limit, source, workers, len(model.coef_), room_of)
        if plan.threads_per_process < workers.threads_per_process:
            engine.limit_threads(plan.threads_per_process)
            publish(Note(plan.fitted))
        yield Scanner(engine, source, publish, plan.partition)


def _room_of_metrics(model: Model) -> Callable[[Partition], SumsRoom]:
    """Bytes that the sums of a `MetricScan` take."""
    room, outputs = FAMILIES[model.family].metrics.room, len(model.coef_)
    return lambda partition: room(outputs, partition.leaf_rows, partition.n_rows)


def _room_of_predictions(model: Model) -> Callable[[Partition], SumsRoom]:
    """Bytes that a `PredictScan` takes: it sums nothing, and holds the predictions of a block."""
    row_bytes = 8 * len(model.coef_)
    return lambda partition: SumsRoom(
        leaf_bytes=_LEAF_VECTORS * row_bytes * partition.leaf_rows,
        block_bytes=PREDICTION_COPIES * row_bytes * partition.block_rows,
    )


@dataclass(frozen=True, slots=True)
class Count:
    """How many rows were written; and whether all were numbers."""

    n_rows: int
    finite_check: Array

    def __add__(self, other: Count) -> Count:
        return Count(self.n_rows + other.n_rows, self.finite_check + other.finite_check)


@dataclass(frozen=True, slots=True)
class PredictScan:
    """Writes probabilities or means; what it sums is how many."""

    reads_features = True
    reads_target = False

    family: str
    """Name of the family."""
    coefficients: Array
    """W, (n, c)."""
    intercept: Array
    """b, (c,)."""
    out: str
    """Path of the array, whose chunks are the blocks."""

    def sums(self, batch: Batch, leaf_rows: int, workspace: Workspace) -> Count:
        """Write the predictions of one block, which are one chunk of the array."""
        parts = [self._leaf(batch, leaf, workspace) for leaf in batch.leaves(leaf_rows)]
        write_rows(self.out, batch.first_row, np.concatenate([A for A, _ in parts]))
        return Count(batch.X.shape[1], np.array([total for _, total in parts]).sum(keepdims=True))

    def _leaf(self, batch: Batch, leaf: slice, workspace: Workspace) -> tuple[Array, float]:
        """Predictions of a leaf, and the sum of its Z, which is not finite if any feature is
        not."""
        Z = linear(workspace.cast(batch.X[:, leaf]), self.coefficients, self.intercept)
        offset = batch.offset_of(leaf)
        if offset is not None:
            Z += offset
        with np.errstate(over="ignore", invalid="ignore"):
            A, total = mean_of(self.family, Z), float(Z.sum())
        refuse_overflow(A.reshape(len(A), -1).T, Z, batch, leaf)
        return A, total


def open_run(
    run: str | Path,
    store: str | None,
    overrides: Sequence[str],
    publish: Subscriber,
    *,
    labelled: bool,
    grouped: bool = False,
    validation: bool = False,
    as_fitted: bool = False,
) -> tuple[Model, TrainConfig, Source]:
    """The model of a run, its configuration with other settings, and a store of the same features.

    Features are matched by name where both have names, else by position. Where their order differs,
    that of the coefficients follows the store's, which costs no memory; ``as_fitted`` asks for the
    store's features in the order of the model's.

    Parameters
    ----------
    run, store, overrides
        As for `evaluate`; None for the store that the run was trained on.
    publish
        Told of what is matched and left out.
    labelled, grouped, validation
        Whether the targets, the groups and the rows that were held out are wanted.
    as_fitted
        See above.
    """
    model = load_model(run)
    path = local_run(run) / CONFIG_NAME
    config = load_config(path if path.exists() else {}, overrides)
    store = config.data.store if store is None else path_text(store, "store", _NO_STORE)
    options = {
        key: value for key, value in config.data.storage_options.items() if "://" in store
    }  # a path takes none
    config = replace(
        config,
        data=replace(
            config.data,
            store=store,
            storage_options=options,
            groups=config.data.groups if grouped or validation else None,
        ),
    )
    if validation and split_of(config) is None:
        raise ConfigError(
            f"the run in {str(run)!r} held out no rows (validation.fraction, validation.array); "
            f"leave out {option('validation')}"
        )
    source = ZarrSource(
        config.data, labelled=labelled, listed=config.validation.array if validation else None
    )
    source.check_chunks()
    _ask_for_offset(run, model, source)
    model, seen = _matched(run, model, source, publish, as_fitted=as_fitted)
    return model, config, seen


def _ask_for_offset(run: str | Path, model: Model, source: ZarrSource) -> None:
    """A model that was fitted with an offset means nothing without one."""
    if model.fitted_with is not None and not source.has_offset:
        none = "ones" if model.fitted_with == "exposure" else "zeros"
        raise ConfigError(
            f"the model in {str(run)!r} was fitted with an {model.fitted_with}, and "
            f"{source.config.shown_store!r} is read without one; name its array with "
            f"{override(f'data.{model.fitted_with}=NAME')} (one of {none} where there is none)"
        )


def _matched(
    run: str | Path, model: Model, source: ZarrSource, publish: Subscriber, *, as_fitted: bool
) -> tuple[Model, Source]:
    """The model and the source with the same features in the same order."""
    store, found, n = source.config.shown_store, source.feature_names, model.coef_.shape[1]
    if found is None or model.feature_names is None:
        if source.n_features != n:
            raise ShapeError(
                f"{source.describe('features')} has {source.n_features} features; the "
                f"model in {str(run)!r} was fitted to {n}"
            )
        return model, source
    match = match_names(model.feature_names, found, f"the model in {str(run)!r}", repr(store))
    if match.in_place:
        ambiguous = ambiguous_names(found)
        if ambiguous is not None:
            publish(Note(f"{store}: {ambiguous}", warning=True))
        return model, source
    if match.extra:
        count = f"{len(match.extra)} feature{'s' * (len(match.extra) > 1)}"
        publish(
            Note(
                f"{store} has {count} that the model does not know ({named(match.extra)}): left out"
            )
        )
    if (np.diff(match.columns) < 0).any():
        publish(
            Note(f"{store} has the model's features in another order: they are matched by name")
        )
    if match.extra or as_fitted:
        return model, SelectedFeatures(source, match.columns)
    return model.at_columns(match.columns, found), source
