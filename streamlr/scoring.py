"""What a model makes of a store: its metrics, or its probabilities, each in one streamed pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.config import TrainConfig, load_config
from streamlr.data.predictions import PredictionWriter, write_rows
from streamlr.data.store import ZarrSource
from streamlr.data.validation import split_of
from streamlr.errors import ConfigError, LabelError, NonFiniteError, ShapeError
from streamlr.events import Subscriber, finite, publisher
from streamlr.execution import open_engine
from streamlr.execution.limits import memory_told
from streamlr.execution.scanner import Scanner, plan_slabs
from streamlr.kernels.batch import Batch, Workspace
from streamlr.kernels.metrics import METRICS, MetricScan, linear, refuse_overflow
from streamlr.model import Model, load_model, mean_of
from streamlr.run_directory import CONFIG_NAME

Array = NDArray[np.float64]


@memory_told()
def evaluate(run: str | Path, store: str, *, validation: bool = False, overrides: Sequence[str] = (), subscribers: Sequence[Subscriber] = ()) -> dict[str, Any]:
    """Metrics of a trained model on a store, in one pass.

    Parameters
    ----------
    run
        Directory of the run.
    store
        The store to score, with arrays named as in the run's configuration.
    validation
        Whether to score the rows alone that the run held out of the fit, by their number, group or mark: of the store that it was trained on.
    overrides
        Settings that differ from the run's, as ``section.key=value``.
    subscribers
        Called with every event.

    Returns
    -------
    dict
        Of classes: ``rows``, ``weight``, ``log_loss``, ``brier_score``, ``accuracy``, ``balanced_accuracy``, ``cohen_kappa``,
        ``matthews_correlation``; ``auc`` and ``average_precision``, each with its ``..._error_bound`` (0 where exact; None where there
        is one class only; of more than two classes, the mean of each against the rest); ``confusion_matrix`` (true by predicted, in
        the order of ``classes``); ``per_class``, ``macro_average`` and ``weighted_average`` of precision, recall and F1;
        ``calibration``; and, of two classes, ``lift`` (tenths from the highest scores on) and ``roc_curve``.
        Of numbers: ``rows``, ``weight``, ``loss``, ``r2``, ``mean_squared_error``, ``mean_absolute_error``, and of counts
        ``mean_poisson_deviance`` and ``d2_poisson``.
    """
    model, config, source = open_run(run, store, overrides, labelled=True, validation=validation)
    with open_engine(config.cluster) as engine:
        scan = MetricScan(model.family, model.classes_, model.coef_.T, model.intercept_, source.describe("weights") if source.weighted else "",
                          split_of(config) if validation else None)
        try:
            sums = Scanner(engine, source, publisher(subscribers), plan_slabs(source, engine.n_threads, len(model.coef_))).run(scan, "evaluate")
        except LabelError as error:
            raise LabelError(f"{source.describe('target')}: {error}") from error
    if validation and not sums.weight_sum > 0:
        raise ConfigError(f"the run in {str(run)!r} holds out {sums.n_rows} of the {source.n_rows} rows of {config.data.shown_store!r}, and they weigh "
                          "nothing: there is nothing to score; give the store that it was trained on")
    if not sums.weight_sum > 0:
        raise NonFiniteError(f"{source.describe('weights')} are all 0: there is nothing to score")
    with np.errstate(over="ignore", invalid="ignore"):  # sums of what is finite may still overflow
        return {name: finite(value) for name, value in METRICS[model.family].report(sums, model.classes_.tolist()).items()}


def require_plotted(run: str | Path) -> None:
    """Raise a `ConfigError` where the metrics of the model of a run are none that are drawn."""
    family = load_model(run).family
    if not METRICS[family].plotted:
        raise ConfigError(f"the model of {str(run)!r} is of the family {family}; calibration, ROC curve and lift are drawn of classes: leave out --plot")


@memory_told()
def predict(run: str | Path, store: str, out: str | Path, *, overwrite: bool = False, overrides: Sequence[str] = (),
            subscribers: Sequence[Subscriber] = ()) -> int:
    """Write what is predicted for every row of a store as a Zarr array; returns the number of rows, m.

    Of two classes that is the probability of the second, (m,), of more the probability of each, (m, c); of a number its mean, (m,).

    Every block of rows is written by the task that computed it, as a chunk of its own; the array appears when it is whole.
    """
    model, config, source = open_run(run, store, overrides, labelled=False)
    with open_engine(config.cluster) as engine:
        scanner = Scanner(engine, source, publisher(subscribers), plan_slabs(source, engine.n_threads, len(model.coef_)))
        with PredictionWriter(out, source.n_rows, scanner.partition.block_rows, model.classes_.tolist(), len(model.coef_), overwrite=overwrite) as writer:
            written: Count = scanner.run(PredictScan(model.family, model.coef_.T, model.intercept_, writer.partial), "predict")
    return written.n_rows


@dataclass(frozen=True, slots=True)
class Count:
    """How many rows were written; and whether all were numbers."""

    n_rows: int
    probe: Array

    def __add__(self, other: Count) -> Count:
        return Count(self.n_rows + other.n_rows, self.probe + other.probe)


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
        """Predictions of a leaf, and the sum of its Z, which is not finite if any feature is not."""
        Z = linear(workspace.cast(batch.X[:, leaf]), self.coefficients, self.intercept)
        offset = batch.offset_of(leaf)
        if offset is not None:
            Z += offset
        with np.errstate(over="ignore", invalid="ignore"):
            A, total = mean_of(self.family, Z), float(Z.sum())
        refuse_overflow(A.reshape(len(A), -1).T, Z, batch, leaf)
        return A, total


def open_run(run: str | Path, store: str | None, overrides: Sequence[str], *, labelled: bool, grouped: bool = False,
             validation: bool = False) -> tuple[Model, TrainConfig, ZarrSource]:
    """The model of a run, its configuration with other settings, and a store of the same features; None for the store that it was trained on."""
    model = load_model(run)
    path = Path(run) / CONFIG_NAME
    config = load_config(path if path.exists() else {}, overrides)
    store = config.data.store if store is None else store
    options = {key: value for key, value in config.data.storage_options.items() if "://" in store}  # a path takes none
    config = replace(config, data=replace(config.data, store=store, storage_options=options, groups=config.data.groups if grouped or validation else None))
    if validation and split_of(config) is None:
        raise ConfigError(f"the run in {str(run)!r} held out no rows (validation.fraction, validation.array); leave out --validation")
    source = ZarrSource(config.data, labelled=labelled, listed=config.validation.array if validation else None)
    source.check_chunks()
    if source.n_features != model.coef_.shape[1]:
        raise ShapeError(f"{source.describe('features')} has {source.n_features} features; the model in {str(run)!r} was fitted to {model.coef_.shape[1]}")
    if source.feature_names is not None and model.feature_names is not None and source.feature_names != model.feature_names:
        at = next(j for j, (a, b) in enumerate(zip(source.feature_names, model.feature_names, strict=True)) if a != b)
        raise ShapeError(f"feature {at} of {config.data.shown_store!r} is {source.feature_names[at]!r}, of the model {model.feature_names[at]!r}; "
                         "bring the store's features to the order of the model's")
    return model, config, source
