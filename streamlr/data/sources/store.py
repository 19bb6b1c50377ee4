"""The store contract: a Zarr group with features, labels and, possibly, weights."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import json
import os
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from streamlr.config.places import local_path
from streamlr.config.sections import DataConfig
from streamlr.data.chunks.absent import RefuseMissing
from streamlr.data.chunks.retries import Retries
from streamlr.data.chunks.stored_array import StoredArray
from streamlr.data.conventions import nodes
from streamlr.data.conventions.attributes import refuse_turned
from streamlr.data.conventions.columns import Column
from streamlr.data.conventions.marks import marks_of, masked, meaning_of, shape_hint
from streamlr.data.conventions.names import FeatureNames, NamedAxis, read_names
from streamlr.data.conventions.nodes import Place
from streamlr.data.footprint import Footprint
from streamlr.data.source import (
    Buffer,
    Source,
    check_feature_dtype,
    log_of_exposure,
    refuse_bad_offset,
)
from streamlr.data.sources.far import is_far_address
from streamlr.data.sources.group_keys import group_keys
from streamlr.data.sources.lazy import LazySource
from streamlr.data.sources.opening import NOBODY_SECONDS, open_group
from streamlr.errors import ChunkError, DtypeError, ShapeError
from streamlr.kernels.columns import Columns
from streamlr.kernels.gaps import Marks

_MISSING_NAMED = 3
MISSING_COUNTED = 1000
"""Missing chunks that are looked for: damaged metadata may claim any number of chunks."""


class ZarrSource(Source):
    """Rows of a store that keeps the contract. Travels to workers as its configuration and is
    opened once in each process, when it is first read.

    Parameters
    ----------
    config
        Where the store is and how it names its arrays.
    direct
        Whether chunks in local files may be read without Zarr's own pipeline.
    labelled
        Whether labels and weights are wanted; a store to predict from need not have any.
    listed
        Name of an array that lists rows, which is read in the place of groups.
    again
        Whether it has been opened before, elsewhere, so that its address is right: it is waited for
        longer where nobody answers there.

    Raises
    ------
    DataError
        When the store breaks the contract.
    """

    def __init__(
        self,
        config: DataConfig,
        *,
        direct: bool = True,
        labelled: bool = True,
        listed: str | None = None,
        again: bool = False,
    ) -> None:
        self.config = config
        self._options = (direct, labelled, listed)  # as `_opened` takes them
        self._retries = retries_of(config)
        opening = dataclasses.replace(
            self._retries, nobody_seconds=None if again else NOBODY_SECONDS
        )
        group = open_group(config, opening)
        place = Place(group, config, opening)
        features = nodes.member(place, config.features, "data.features")
        if features.ndim != 2:
            raise ShapeError(
                f"{config.features} in {config.shown_store} has shape {features.shape}; features "
                "must have two axes, rows and features: "
                f"{shape_hint(features, config.features)}"
            )
        check_feature_dtype(np.dtype(features.dtype), f"{config.features} in {config.shown_store}")
        self._meaning = meaning = meaning_of(group, features, config)
        self._marks = marks_of(features, config.features, meaning)
        self._mask_name = nodes.mask_of(place, features, meaning)
        self.features = self._stored(features, config.sample_axis)

        def column(name: str | None, key: str) -> Column | None:
            return None if name is None else nodes.column(place, name, key, meaning, self._stored)

        self._groups_name = listed or config.groups
        self.target = column(config.target if labelled else None, "data.target")
        self.weights = column(config.weights if labelled else None, "data.weights")
        self.offset = column(
            config.offset or config.exposure, "data.offset" if config.offset else "data.exposure"
        )
        self.groups = column(
            self._groups_name if labelled else None, "validation.array" if listed else "data.groups"
        )
        self._check_shapes()
        self._check_dtypes()
        refuse_turned(
            self.features.axes,
            {column.name: column.axes for column in self.columns},
            config.sample_axis,
            self.describe("features"),
        )
        self._identity = (self.features.identity, *(column.identity for column in self.columns))
        self._newest: tuple[int | None, ...] = (None,) * len(self.arrays)
        self._group = group
        self.attributes: dict[str, Any] = dict(group.attrs)

    def __reduce__(self) -> tuple[Any, ...]:
        # a worker may stand in another folder, and unpickling must not open anything: an error
        # there costs the worker its life
        config = dataclasses.replace(self.config, store=absolute_store(self.config.store))
        return LazySource, (_reopen, config, self._options, self._identity, self._newest)

    @property
    def n_rows(self) -> int:
        return self.features.n_rows

    @property
    def n_features(self) -> int:
        return self.features.shape[1 - self.features.sample_axis]

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.features.dtype

    @property
    def chunk_rows(self) -> int:
        return self.features.chunk_rows

    @property
    def unit_rows(self) -> int:
        return self.features.unit_rows

    @property
    def marks(self) -> Marks | None:
        return self._marks

    @property
    def weighted(self) -> bool:
        return self.weights is not None

    @property
    def has_offset(self) -> bool:
        return self.offset is not None

    @functools.cached_property
    def named(self) -> FeatureNames | None:
        """Names of the features and where they stand.

        They are read when they are first asked for: a worker needs them for a message alone.
        """
        config = self.config
        return read_names(
            NamedAxis(
                self._group,
                config.features,
                self.features.axes,
                1 - config.sample_axis,
                self.n_features,
                config.shown_store,
                self._retries,
            )
        )

    @property
    def feature_names(self) -> tuple[str, ...] | None:
        return None if self.named is None else self.named.names

    @functools.cached_property
    def modified(self) -> str | None:
        """When the store was written last, as it was when this was asked first; None where that is
        not known."""
        self.watch(tuple(array.modified() for array in self.arrays))
        return None if None in self._newest else " ".join(str(time) for time in self._newest)

    def watch(self, newest: tuple[int | None, ...]) -> None:
        """Refuse from now on to read chunks that were written after these times, one for each
        array."""
        self._newest = newest
        for array, time in zip(self.arrays, newest, strict=True):
            array.watch(time)

    @functools.cached_property
    def stored_bytes(self) -> int | None:
        sizes = [array.stored_bytes() for array in self.arrays]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    @property
    def columns(self) -> list[Column]:
        """Target, weights, offset and groups, where they are read."""
        return [
            column
            for column in (self.target, self.weights, self.offset, self.groups)
            if column is not None
        ]

    @property
    def arrays(self) -> list[StoredArray]:
        """Features and all arrays of the columns."""
        return [self.features, *(array for column in self.columns for array in column.arrays)]

    @functools.cached_property
    def mask(self) -> ZarrSource | None:
        """What is true where a feature is missing, in the place of the features."""
        if self._mask_name is None:
            return None
        config = dataclasses.replace(
            self.config,
            features=self._mask_name,
            offset=None,
            exposure=None,
            fill_value=None,
            missing_chunks="fill",
        )  # left out: not missing
        source = ZarrSource(config, direct=self._options[0], labelled=False)
        source._marks = masked(self.config.features, self._mask_name, self._meaning)
        return source

    def describe(self, what: str) -> str:
        name = {
            "features": self.config.features,
            "target": self.config.target,
            "weights": self.config.weights,
            "offset": self.config.offset or self.config.exposure,
            "groups": self._groups_name,
        }[what]
        return f"{name} in {self.config.shown_store}"

    def check_chunks(self) -> None:
        """Look for absent chunks before anything is read; from now on, a chunk that is written anew
        is an error.

        Raises
        ------
        ChunkError
            Names the first few.
        ShapeError, DtypeError
            For names of features that are not what they should be.
        """
        _ = self.named
        for array in self.arrays:
            missing = list(itertools.islice(array.missing_chunks(), MISSING_COUNTED))
            if missing:
                named = ", ".join(array.chunk_name(index) for index in missing[:_MISSING_NAMED])
                least = "at least " if len(missing) == MISSING_COUNTED else ""
                more = (
                    f" and {least}{len(missing) - _MISSING_NAMED} more"
                    if len(missing) > _MISSING_NAMED
                    else ""
                )
                raise ChunkError(
                    f"{self.config.shown_store} lacks {named}{more}; Zarr would read them as the "
                    "fill value. Restore them or write "
                    "the store again; if chunks of nothing but the fill value were left out on "
                    "purpose, set "
                    "data.missing_chunks: fill"
                )
        _ = self.modified  # which watches

    def footprint(self, rows: int) -> Footprint:
        return self.features.footprint(rows)

    def label_footprint(self, rows: int) -> Footprint:
        """A thread keeps the last chunk of labels and of weights, and reads a whole one at a
        time."""
        parts = [column.footprint(rows) for column in self.columns]
        passing = max((part.passing_bytes for part in parts), default=0) + 8 * rows * self.weighted
        return Footprint(
            sum(part.decoded_bytes for part in parts),
            0,
            passing,
            sum(part.shared_bytes for part in parts),
        )

    def read_features(self, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        rows = self.features.read(start, stop, buffer)
        self.features.prefetch(stop, min(stop + (stop - start), self.n_rows))
        return rows.T if self.features.sample_axis == 0 else rows

    def read_columns(self, start: int, stop: int, *, labels: bool = True) -> Columns:
        offset = self._read_offset(start, stop)
        if not labels:
            return Columns(offset=offset)
        target, weights, groups = (
            None if column is None else column.read_labels(start, stop)
            for column in (self.target, self.weights, self.groups)
        )
        return Columns(
            target,
            None if weights is None else weights.astype(np.float64, copy=False),
            offset,
            None if groups is None else group_keys(groups, start, self.describe("groups")),
        )

    def _read_offset(self, start: int, stop: int) -> NDArray[np.float64] | None:
        if self.offset is None:
            return None
        values = self.offset.read_labels(start, stop).astype(np.float64, copy=False)
        check = refuse_bad_offset if self.config.offset is not None else log_of_exposure
        return check(values, start, self.describe("offset"))

    def _stored(
        self, array: zarr.Array[Any], sample_axis: int = 0, *, filled: bool = False
    ) -> StoredArray:
        """What reads an array; ``filled`` where an absent chunk stands for the fill value, whatever
        the configuration says."""
        fill = filled or self.config.missing_chunks == "fill"
        if filled and isinstance(array.store, RefuseMissing):
            array = zarr.open_array(array.store.wrapped, path=array.path, mode="r")
        return StoredArray(
            array, sample_axis, fill_missing=fill, direct=self._options[0], retries=self._retries
        )

    def _check_shapes(self) -> None:
        if 0 in self.features.shape:
            raise ShapeError(
                f"{self.describe('features')} has shape {self.features.shape}: there is nothing "
                "to train on"
            )
        for array in self.columns:
            if array.shape != (self.n_rows,):
                hint = "; name the array that goes with them, or write it again"
                if array.shape == (self.n_rows, 1):
                    hint = "; write it again without the axis of one"
                if array.shape == (self.n_features,):
                    hint = (
                        "; are the examples along the other axis (data.sample_axis: "
                        f"{1 - self.config.sample_axis})?"
                    )
                raise ShapeError(
                    f"{self.describe('features')} has {self.n_rows} rows (shape "
                    f"{self.features.shape}, sample_axis "
                    f"{self.config.sample_axis}), but {array.name} has shape {array.shape}; "
                    f"expected ({self.n_rows},){hint}"
                )

    def _check_dtypes(self) -> None:
        if self.target is not None and self.target.dtype.kind not in "biufUTSO":
            raise DtypeError(
                f"{self.describe('target')} has dtype {self.target.dtype}; labels must be "
                "integers, bools, floats or strings"
            )
        if self.weights is not None and self.weights.dtype.kind not in "biuf":
            raise DtypeError(
                f"{self.describe('weights')} has dtype {self.weights.dtype}; weights must be "
                "numbers"
            )
        if self.offset is not None and self.offset.dtype.kind not in "biuf":
            raise DtypeError(
                f"{self.describe('offset')} has dtype {self.offset.dtype}; offsets and exposures "
                "must be numbers"
            )
        if self.groups is not None and self.groups.dtype.kind not in "biufUTSO":
            raise DtypeError(
                f"{self.describe('groups')} has dtype {self.groups.dtype}; groups must be "
                "integers, bools, floats or strings"
            )
        if (
            self.groups is not None
            and self._options[2] is not None
            and self.groups.dtype.kind not in "biuf"
        ):
            raise DtypeError(
                f"{self.describe('groups')} has dtype {self.groups.dtype}; an array that lists "
                "rows must be bool, or 0 and 1"
            )


@functools.lru_cache(maxsize=4)
def _opened(
    config: str,
    direct: bool,
    labelled: bool,
    listed: str | None,
    identity: tuple[str, ...],
    newest: tuple[int | None, ...],
) -> ZarrSource:
    del identity  # part of the key alone: a store that was written again is opened again
    source = ZarrSource(
        DataConfig(**json.loads(config)),
        direct=direct,
        labelled=labelled,
        listed=listed,
        again=True,
    )
    if len(source.arrays) == len(newest):
        source.watch(newest)
    return source


def _reopen(
    config: DataConfig,
    options: tuple[bool, bool, str | None],
    identity: tuple[str, ...],
    newest: tuple[int | None, ...],
) -> ZarrSource:
    """What the first use of a source that has travelled does: one opened source serves all tasks of
    a process."""
    source = _opened(
        json.dumps(dataclasses.asdict(config), sort_keys=True), *options, identity, newest
    )
    if source._identity != identity:
        raise ShapeError(
            f"the arrays of {config.shown_store!r} have other shapes, types or chunks on this "
            "worker than where the run started; the store must "
            "not change while it is read, and all workers must see the same one"
        )
    return source


def retries_of(config: DataConfig) -> Retries:
    """How reads of a store are tried again; each opened store has its own."""
    return Retries(
        config.retry_seconds, is_far_address(local_path(config.store)), scrub=config.without_secrets
    )


def absolute_store(store: str) -> str:
    """The same as seen from any folder: a URL as it is, a path from the root on."""
    path = local_path(store)
    return path if "://" in path or not path else os.path.abspath(path)
