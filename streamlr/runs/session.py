"""The data as a run has them at hand: a plan for reading them, a scanner that does, and the first
look at what they hold."""

from __future__ import annotations

import logging
import platform
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, cast

import numpy as np
from numpy.typing import NDArray

from streamlr.config.sections import TrainConfig
from streamlr.data.holdout import split_of
from streamlr.data.matching import ambiguous_names
from streamlr.data.source import ArraySource, Source
from streamlr.data.sources.reweighted import class_factors, with_class_weights
from streamlr.errors import ConfigError, RunDirectoryError, option
from streamlr.events import Note, Subscriber
from streamlr.execution.arithmetic import arithmetic
from streamlr.execution.engine import Engine, blas_core
from streamlr.execution.local import SerialEngine
from streamlr.execution.scanner import Scanner
from streamlr.kernels.alignment import Basis
from streamlr.kernels.families import FAMILIES, family_of
from streamlr.kernels.scans.fold_sums import PartScan
from streamlr.kernels.scans.labels import LabelScan, LabelSums
from streamlr.kernels.scans.moments import MomentScan, MomentSums, SampledRows
from streamlr.kernels.strata import StrataScan, StrataSums, fractions_of, has_strata
from streamlr.objective.objective import Moments
from streamlr.objective.penalty import with_features_by_number
from streamlr.planning.plan import check_plan, make_plan
from streamlr.planning.workforce import workers_of
from streamlr.runs.checks import check_classes, check_holdout, check_magnitude, check_target

log = logging.getLogger(__name__)


class Session:
    """Plans the reading of the data, lists their labels and surveys them.

    Parameters
    ----------
    settings
        The configuration.
    source
        The data.
    engine
        Where sums are taken; of its threads only as many go on as the plan has room for.
    publish
        Told of what a person should know.

    Attributes
    ----------
    plan, scanner
        What will be read and kept, and what reads it; made anew when the number of outputs is
        known.
    model
        The configured model, with the family that the classes ask for.
    split
        Tells the rows that are held out of the fit; None where none are.
    class_factors
        What the weights of each class are multiplied by, (c,); None for nothing.
    strata
        Rows of each stratum, by which the sample is drawn (see `streamlr.kernels.strata`), (S,);
        None where there are none.

    Raises
    ------
    MemoryLimitError
        For a plan over its limit.
    """

    def __init__(
        self, settings: TrainConfig, source: Source, engine: Engine, publish: Subscriber
    ) -> None:
        self.settings = settings
        self.source = source
        self.engine = engine
        self.publish = publish
        self.model = settings.model
        self.split = split_of(settings)
        self.class_factors: NDArray[np.float64] | None = None
        self.strata: NDArray[np.int64] | None = None
        self._make_plan(1)

    def _make_plan(self, n_outputs: int) -> None:
        workers = workers_of(
            self.settings.cluster,
            self.engine.n_threads,
            self.engine.memory_of_workers(peak=False),
            self.engine.limit_of_workers(),
        )
        self.plan = make_plan(self.settings, self.source, workers, n_outputs)
        check_plan(self.plan)
        if self.plan.threads < workers.threads:
            self.engine.limit_threads(self.plan.threads // workers.processes)
        self.scanner = Scanner(self.engine, self.source, self.publish, self.plan.partition)

    def list_labels(self) -> NDArray[Any]:
        """The classes, with what follows from them; none where the target is a number."""
        classes, factors = np.empty(0), None
        if FAMILIES[self.settings.model.family].labelled:
            labels: LabelSums = self.scanner.run(
                LabelScan(self.source.describe("target"), self._weights_name(), self.split),
                "labels",
            )
            classes = check_classes(
                labels, self.source.describe("target"), holdout=self.split is not None
            )
            if self.settings.model.class_weight is not None:
                factors = class_factors(self.settings.model.class_weight, labels)
            self.strata = labels.row_counts
        self.use_classes(classes, factors)
        if (
            self.strata is None
            and has_strata(self.model.family)
            and 0.0 < self.plan.sample_fraction < 1.0
        ):
            counts: StrataSums = self.scanner.run(StrataScan(self.model.family), "labels")
            self.strata = counts.row_counts
        return classes

    def use_classes(self, classes: NDArray[Any], factors: NDArray[np.float64] | None) -> None:
        """What follows from the classes and their weights: the source, the family, and a plan for
        as many outputs as it has."""
        self.class_factors = factors
        model = with_features_by_number(
            self.settings.model, self.source.n_features, self.source.feature_names
        )
        self.model = replace(model, family=cast(Any, family_of(model.family, classes).name))
        if factors is not None:
            self.source = with_class_weights(self.source, classes, factors)
            self._make_plan(1)
        if FAMILIES[self.model.family].coupled:
            if self.source.has_offset:
                raise ConfigError(
                    f"{self.source.describe('target')} holds {len(classes)} classes, and an "
                    "offset common to all of them changes nothing; "
                    "remove data.offset"
                )
            self._make_plan(len(classes))
            self.publish(Note(f"{len(classes)} classes, {self.plan.solver}: {self.plan.reason}"))

    def sum_moments(
        self,
        classes: NDArray[Any],
        sample_fraction: float,
        title: str = "pass 1",
        *,
        keyed: bool = False,
        products: bool = False,
        parts: PartScan | None = None,
    ) -> MomentSums:
        """Moments, fingerprint and a sample of the rows: one pass.

        Where they are asked for, the sampled rows come with the keys of their parts, and with the
        moments of all rows the features' products with one another, or the moments of parts.
        """
        fractions = () if self.strata is None else fractions_of(self.strata, sample_fraction)
        scan = MomentScan(
            classes,
            sample_fraction,
            self.settings.run.seed,
            self.model.family,
            self.split,
            keyed,
            products,
            fractions=fractions,
            parts=parts,
        )
        sums: MomentSums = self.scanner.run(scan, title)
        return sums

    def moments_along(
        self, classes: NDArray[Any], basis: Basis, rows: SampledRows | None
    ) -> MomentSums:
        """Moments of features in a basis, less its shift: of rows in memory, or of all by one
        pass."""
        scan = MomentScan(
            classes,
            0.0,
            0,
            self.model.family,
            None if rows is not None else self.split,
            basis=basis,
        )
        scanner = self.scanner
        if rows is not None:
            source = ArraySource.of(rows.X, replace(rows.columns, groups=None))
            scanner = Scanner(SerialEngine(), source, lambda event: None)
        sums: MomentSums = scanner.run(scan, f"pass {scanner.passes + 1}")
        return sums

    def moments_from(self, sums: MomentSums) -> Moments:
        """The moments of the statistics pass, when the data may be trained on.

        Raises
        ------
        DataError
            When they may not.
        """
        check_holdout(self.source, self.settings.validation, sums)
        check_target(self.source, self.model.family, sums)
        moments = Moments.from_sums(sums)
        check_magnitude(self.source, self.plan.partition, moments)
        self._announce_constant_features(moments)
        if self.split is not None:
            self.publish(
                Note(
                    f"validation: {moments.holdout_rows:,} of {sums.n_rows:,} rows are held out "
                    "of the fit"
                )
            )
        return moments

    def require_same_data(
        self, classes: NDArray[Any], moments: Moments, modified: object, *, keyed: bool = False
    ) -> None:
        """Hold the data against those of a checkpoint: by when they were written, or if that does
        not tell, by reading them once.

        Raises
        ------
        RunDirectoryError
            When they are others.
        """
        if self.source.modified is not None and self.source.modified == modified:
            return
        sums = self.sum_moments(classes, 0.0, "compare", keyed=keyed)
        if sums.groups_digest.hex() != moments.groups_digest:
            raise RunDirectoryError(
                "the checkpoint was made with rows dealt out to other folds than those that are "
                "now; bring back the groups or folds that "
                f"it was made with, or start anew with {option('overwrite')}"
            )
        if sums.holdout is not None and sums.holdout.digest.hex() != moments.holdout_digest:
            raise RunDirectoryError(
                "the checkpoint was made with other rows held out than those that are now; bring "
                "back the array that says which, or "
                f"start anew with {option('overwrite')}"
            )
        if sums.fingerprint.hex() != moments.fingerprint:
            raise RunDirectoryError(
                f"the checkpoint was made with data of fingerprint {moments.fingerprint[:12]}, "
                "those in "
                f"{self.source.describe('features')} have {sums.fingerprint.hex()[:12]}; bring "
                "back the data that it was made with, "
                f"or start anew with {option('overwrite')}"
            )

    def announce_plan(self) -> None:
        """Say what will be read, where and how."""
        plan = self.plan
        slabs = f"{plan.partition.n_slabs:,} slab{'s' * (plan.partition.n_slabs != 1)}"
        held = (
            f", {plan.partition.resident_slabs:,} of them kept in memory"
            if plan.partition.resident_slabs
            else ""
        )
        self.publish(
            Note(
                f"{self.source.n_rows:,} rows, {plan.features:,} features, {plan.dtype}: "
                f"{_size(plan.data_bytes)} in {slabs}{held}, "
                f"on {self.engine.description}"
            )
        )
        ambiguous = ambiguous_names(self.source.feature_names)
        if ambiguous is not None:
            self.publish(Note(ambiguous, warning=True))
        if self.engine.dashboard_link:
            self.publish(Note(f"dashboard: {self.engine.dashboard_link}"))
        self.publish(Note(f"solver {plan.solver}: {plan.reason}"))
        if plan.fitted:
            self.publish(Note(plan.fitted))
        log.info("solver %s: %s", plan.solver, plan.reason)

    def summary(self, history: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """What ``summary.json`` tells of data, plan and process, whatever was fitted in the passes
        of the history."""
        source, engine, plan = self.source, self.engine, self.plan
        return {
            "passes": len(history),
            "bytes_read": sum(line["bytes_read"] for line in history),
            "read_retries": engine.read_retries,
            "peak_memory_bytes": engine.peak_memory_bytes(),
            "projected_memory_bytes": plan.peak_bytes,
            "worker_peak_memory_bytes": engine.memory_of_workers(peak=True),
            "projected_worker_memory_bytes": plan.worker_peak_bytes,
            "store": self.settings.data.shown_store or None,
            "rows": source.n_rows,
            "features": source.n_features,
            "dtype": str(source.dtype),
            "family": self.model.family,
            "engine": engine.description,
            "python": platform.python_version(),
            "numpy": np.__version__,
            "blas": blas_core(),
            "arithmetic": arithmetic().digest,
            "worker_arithmetic": engine.arithmetic_of_workers(),
        }

    @property
    def fitted_with(self) -> Literal["offset", "exposure"] | None:
        """What is added to Z, as the model that is fitted records it."""
        if not self.source.has_offset:
            return None
        return "offset" if self.settings.data.exposure is None else "exposure"

    def _weights_name(self) -> str:
        return self.source.describe("weights") if self.source.weighted else ""

    def _announce_constant_features(self, moments: Moments) -> None:
        constant = np.flatnonzero(moments.spread == 0)
        if len(constant):
            names = self.source.feature_names
            first = ", ".join(repr(names[j]) if names is not None else str(j) for j in constant[:5])
            self.publish(
                Note(
                    f"{len(constant)} of {self.source.n_features} features are constant (first: "
                    f"{first})"
                    + ("; their coefficients stay 0" if self.settings.model.fit_intercept else ""),
                    warning=True,
                )
            )


def _size(nbytes: int) -> str:
    return f"{nbytes / 1e9:.3g} GB" if nbytes >= 1e9 else f"{nbytes / 1e6:.3g} MB"
