"""Weights of classes, multiplied into the sample weights: the one place where they enter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.data.source import ArraySource, ForwardingSource, Source
from streamlr.errors import ConfigError
from streamlr.kernels.columns import Columns
from streamlr.kernels.scans.labels import LabelSums, codes_of


def class_factors(wanted: str | Mapping[Any, float], labels: LabelSums) -> NDArray[np.float64]:
    """What the weight of an example of each label is multiplied by, (L,).

    ``balanced`` is scikit-learn's: the weight of all, divided by that of the class and by the
    number of classes.

    Raises
    ------
    ConfigError
        For a weight of a label that there is not.
    """
    if isinstance(wanted, str):
        factors: NDArray[np.float64] = labels.weight_sums.sum() / (
            len(labels.labels) * labels.weight_sums
        )
        return factors
    found = labels.labels.tolist()
    for label in wanted:
        if label not in found:
            named = ", ".join(repr(known) for known in found[:5]) + ", ..." * (len(found) > 5)
            quoted = "; its labels are text: put them in quotes" * (
                isinstance(found[0], str) and not isinstance(label, str)
            )
            raise ConfigError(
                f"model.class_weight: the target has no label {label!r}; it has {named}{quoted}"
            )
    return np.array([float(wanted.get(label, 1.0)) for label in found])


@dataclass(frozen=True)
class WeightedByClass(ForwardingSource):
    """A source whose sample weights are multiplied by the weight of the class."""

    source: Source
    """Where the rows come from."""
    classes: NDArray[Any]
    """The sorted labels, (L,)."""
    factors: NDArray[np.float64]
    """What the weights of each are multiplied by, (L,)."""

    @property
    def weighted(self) -> bool:
        return True

    def part(self, start: int, stop: int) -> Source:
        return replace(self, source=self.source.part(start, stop))

    def describe(self, what: str) -> str:
        if what == "weights" and not self.source.weighted:
            return "the weights of the classes"
        return self.source.describe(what)

    def read_columns(self, start: int, stop: int, *, labels: bool = True) -> Columns:
        columns = self.source.read_columns(start, stop, labels=labels)
        if columns.target is None:
            return columns
        factors = self.factors[codes_of(columns.target, self.classes, start)]  # (stop - start,)
        weights = factors if columns.weights is None else factors * columns.weights
        return replace(columns, weights=weights)


def with_class_weights(
    source: Source, classes: NDArray[Any], factors: NDArray[np.float64]
) -> Source:
    """The source with sample weights multiplied by the weight of the class."""
    weighted = WeightedByClass(source, classes, factors)
    if not isinstance(source, ArraySource):
        return weighted
    # labels in memory are looked up once, and not in every pass
    return replace(source, sample_weight=weighted.read_columns(0, source.n_rows).weights)
