"""Weights of classes, multiplied into the sample weights: the one place where they enter."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.data.footprint import Footprint
from streamlr.data.source import ArraySource, Buffer, Source
from streamlr.errors import ConfigError
from streamlr.kernels.gaps import Marks
from streamlr.kernels.scans.labels import LabelSums, codes_of


def class_factors(wanted: str | Mapping[Any, float], labels: LabelSums) -> NDArray[np.float64]:
    """What the weight of an example of each label is multiplied by, (L,).

    ``balanced`` is scikit-learn's: the weight of all, divided by that of the class and by the number of classes.

    Raises
    ------
    ConfigError
        For a weight of a label that there is not.
    """
    if isinstance(wanted, str):
        factors: NDArray[np.float64] = labels.weight_sums.sum() / (len(labels.labels) * labels.weight_sums)
        return factors
    found = labels.labels.tolist()
    for label in wanted:
        if label not in found:
            named = ", ".join(repr(known) for known in found[:5]) + ", ..." * (len(found) > 5)
            quoted = "; its labels are text: put them in quotes" * (isinstance(found[0], str) and not isinstance(label, str))
            raise ConfigError(f"model.class_weight: the target has no label {label!r}; it has {named}{quoted}")
    return np.array([float(wanted.get(label, 1.0)) for label in found])


@dataclass(frozen=True)
class WeightedByClass:
    """A source whose sample weights are multiplied by the weight of the class."""

    source: Source
    """Where the rows come from."""
    classes: NDArray[Any]
    """The sorted labels, (L,)."""
    factors: NDArray[np.float64]
    """What the weights of each are multiplied by, (L,)."""

    weighted = True

    @property
    def n_rows(self) -> int:
        return self.source.n_rows

    @property
    def n_features(self) -> int:
        return self.source.n_features

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.source.dtype

    @property
    def chunk_rows(self) -> int:
        return self.source.chunk_rows

    @property
    def unit_rows(self) -> int:
        return self.source.unit_rows

    @property
    def has_offset(self) -> bool:
        return self.source.has_offset

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        return self.source.feature_names

    @property
    def marks(self) -> Marks | None:
        return self.source.marks

    @property
    def mask(self) -> Source | None:
        return self.source.mask

    @property
    def stored_bytes(self) -> int | None:
        return self.source.stored_bytes

    @property
    def modified(self) -> str | None:
        return self.source.modified

    def describe(self, what: str) -> str:
        return "the weights of the classes" if what == "weights" and not self.source.weighted else self.source.describe(what)

    def footprint(self, rows: int) -> Footprint:
        return self.source.footprint(rows)

    def label_footprint(self, rows: int) -> Footprint:
        return self.source.label_footprint(rows)

    def read_features(self, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        return self.source.read_features(start, stop, buffer)

    def read_target(self, start: int, stop: int) -> NDArray[Any]:
        return self.source.read_target(start, stop)

    def read_weights(self, start: int, stop: int) -> NDArray[np.float64] | None:
        factors: NDArray[np.float64] = self.factors[codes_of(self.source.read_target(start, stop), self.classes, start)]
        weights = self.source.read_weights(start, stop)
        return factors if weights is None else factors * weights

    def read_offset(self, start: int, stop: int) -> NDArray[np.float64] | None:
        return self.source.read_offset(start, stop)

    def read_groups(self, start: int, stop: int) -> NDArray[np.uint64] | None:
        return self.source.read_groups(start, stop)


def with_class_weights(source: Source, classes: NDArray[Any], factors: NDArray[np.float64]) -> Source:
    """The source with sample weights multiplied by the weight of the class; arrays in memory stay such."""
    weighted = WeightedByClass(source, classes, factors)
    return replace(source, sample_weight=weighted.read_weights(0, source.n_rows)) if isinstance(source, ArraySource) else weighted
