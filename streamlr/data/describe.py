"""What a store holds, and what may be wrong with it."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

import numpy as np

from streamlr.data.chunks.stored_array import StoredArray
from streamlr.data.partition import partition_rows
from streamlr.data.sources.store import MISSING_COUNTED, ZarrSource
from streamlr.errors import DataError, Message, both
from streamlr.kernels.batch import Batch, Workspace
from streamlr.kernels.families import FAMILIES
from streamlr.kernels.fold import fold
from streamlr.kernels.scans.labels import looks_like_a_quantity
from streamlr.kernels.scans.target import TargetScan, TargetSums

_LARGE_CHUNK_BYTES = 512 * 2**20
_MISSING_NAMED = 5


def describe_store(source: ZarrSource, family: str = "logistic") -> dict[str, Any]:
    """Shapes, chunks, codecs, targets and problems of a store; reads the targets, not the features.

    Parameters
    ----------
    source
        The store.
    family
        Name of the family that the targets are for; of numbers there are no classes.

    Returns
    -------
    dict
        ``store``, ``rows``, ``features``, ``dtype``, ``sample_axis``, ``data_bytes``,
        ``stored_bytes``, ``arrays`` (a record for each), ``target`` (least, largest and mean of
        numbers, whether they are whole, and how many are distinct: None for more than can be
        classes; None for text), ``classes`` (label, rows and weight of each; none for a quantity),
        ``feature_names``, ``feature_names_from`` (path of the array or attribute that holds them),
        ``problems`` (a list of sentences) and ``undetectable`` (a list of what could be wrong with
        any store of this kind and would not be noticed in one run).
    """
    problems = [problem for array in source.arrays for problem in _array_problems(array)]
    target, classes = None, None
    try:
        sums = _target_sums(source, family)
        target, classes = _numbers(sums), _classes(sums, family)
        if classes is not None and len(classes) < 2:
            problems.append(
                f"{source.config.target} holds {len(classes)} classes; a classifier needs two or "
                "more"
            )
        if classes is None and sums.labels is not None and len(sums.labels.labels) == 1:
            problems.append(
                f"{source.config.target} is {sums.labels.labels[0].item()} in every row: there is "
                "nothing to learn"
            )
    except DataError as error:
        problems.append(Message(both(error)))
    if source.named is not None and len(set(source.named.names)) < len(source.named.names):
        name, times = Counter(source.named.names).most_common(1)[0]
        problems.append(
            f"{source.named.origin} has {name!r} {times} times: what is told of features by their "
            "names is ambiguous"
        )
    return {
        "store": source.config.shown_store,
        "rows": source.n_rows,
        "features": source.n_features,
        "dtype": str(source.dtype),
        "sample_axis": source.config.sample_axis,
        "data_bytes": source.n_rows * source.n_features * source.dtype.itemsize,
        "stored_bytes": source.stored_bytes,
        "arrays": _arrays(source),
        "target": target,
        "classes": classes or [],
        "feature_names": None if source.named is None else list(source.named.names),
        "feature_names_from": None if source.named is None else source.named.origin,
        "problems": problems,
        "undetectable": _undetectable(source),
    }


def _arrays(source: ZarrSource) -> list[dict[str, Any]]:
    """A record of each array, with the values that stand for missing ones in it."""
    marks = {
        source.features.name: source.marks,
        **{array.name: found for column in source.columns for array, found in column.checks},
    }
    found = []
    for array in source.arrays:
        missing = marks.get(array.name)
        found.append(
            {**array.describe(), "missing": [] if missing is None else missing.values.tolist()}
        )
    return found


def _undetectable(source: ZarrSource) -> list[str]:
    """What no check of one run can find. The fingerprint of the data finds all of it when the store
    is trained again, if it was sound the first time."""
    found = [
        "a chunk in the place of another of its array (nothing in a chunk tells where it belongs)",
        "metadata that give the values another type of the same size or another byte order",
    ]
    bare = [array.name for array in source.arrays if array.checksummed is not True]
    if bare:
        found.insert(
            0,
            f"a changed value in a chunk of {', '.join(bare)} (no checksum covers it, or none "
            "that streamlr knows of)",
        )
    if all(array.modified() is not None for array in source.arrays):
        found.append(
            "a chunk that is replaced, while a run reads the store, by a file of the same size "
            "and time of writing"
        )
    return found


def _target_sums(source: ZarrSource, family: str) -> TargetSums:
    partition = partition_rows(source.n_rows, 1, source.chunk_rows, 8)
    scan = TargetScan(
        family, source.describe("target"), source.describe("weights") if source.weighted else ""
    )

    def sums() -> Any:
        for block in range(partition.n_blocks):
            start, stop = partition.rows_of_block(block)
            batch = Batch(start, np.empty((0, stop - start)), source.read_columns(start, stop))
            yield scan.sums(batch, stop - start, Workspace())

    total: TargetSums = fold(sums())
    return total


def _numbers(sums: TargetSums) -> dict[str, Any] | None:
    if sums.numbers is None:
        return None
    return {
        "least": sums.numbers.least,
        "largest": sums.numbers.largest,
        "mean": sums.numbers.mean,
        "whole_numbers": sums.numbers.whole,
        "distinct": None if sums.labels is None else len(sums.labels.labels),
    }


def _classes(sums: TargetSums, family: str) -> list[dict[str, Any]] | None:
    """Label, rows and weight of each class; None for targets that are a quantity."""
    if not FAMILIES[family].labelled or sums.labels is None or looks_like_a_quantity(sums.labels):
        return None
    return [
        {"label": label, "rows": int(rows), "weight": float(weight)}
        for label, rows, weight in zip(
            sums.labels.labels.tolist(),
            sums.labels.row_counts,
            sums.labels.weight_sums,
            strict=True,
        )
    ]


def _array_problems(array: StoredArray) -> list[str]:
    problems = []
    missing = list(itertools.islice(array.missing_chunks(), MISSING_COUNTED))
    if missing:
        least = "at least " if len(missing) == MISSING_COUNTED else ""
        named = ", ".join(array.chunk_name(index) for index in missing[:_MISSING_NAMED])
        named += ", ..." if len(missing) > _MISSING_NAMED else ""
        problems.append(
            f"{least}{len(missing)} of {array.n_chunks} chunks of {array.name} are missing "
            f"({named})"
        )
    if array.checksummed is False:
        problems.append(f"{array.name} has no checksums: a flipped bit in a chunk can go unnoticed")
    if array.modified() is None:
        problems.append(
            f"{array.name} is in a store that tells no times of writing: if it is changed while a "
            "run reads it, that can go unnoticed"
        )
    chunk_bytes = (
        array.unit_rows
        * int(np.prod([size for axis, size in enumerate(array.shape) if axis != array.sample_axis]))
        * array.dtype.itemsize
    )
    if array.dtype.kind in "biuf" and chunk_bytes > _LARGE_CHUNK_BYTES:
        problems.append(
            f"rows of {array.name} come in chunks of {chunk_bytes / 1e6:.0f} MB at full width, "
            "each of which has to be in memory whole"
        )
    return problems
