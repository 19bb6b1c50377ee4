"""Arrays with one value for each example, and the columns that AnnData keeps in several.

A categorical column is a group of ``codes`` and ``categories`` (-1 is missing), a nullable one a
group of ``values`` and a ``mask`` that is true where there is none; AnnData before 0.8 has the
codes in an array whose attribute ``categories`` names another. They are read by the name of the
column, as what they mean. Missing values are looked for in every read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray

from streamlr.data.chunks.stored_array import StoredArray
from streamlr.data.conventions.coded_text import codes_of
from streamlr.data.conventions.marks import MASK_SUFFIX, Meaning, marks_of, masked
from streamlr.data.footprint import Footprint
from streamlr.data.source import Buffer
from streamlr.errors import ChunkError, DtypeError, MissingValueError, ShapeError
from streamlr.kernels.gaps import Gaps, Marks

_ENCODING = "encoding-type"
_CATEGORICAL = "categorical"
_NULLABLE = "nullable-"
"""What the encoding of a column with a mask begins with."""
_OLD_CATEGORIES = "__categories"
PARTS = ("codes", "categories", "values", "mask")
_NAMED = 5

Node = zarr.Array[Any] | zarr.Group


@dataclass(frozen=True, slots=True)
class Opener:
    """What opens the arrays of a store."""

    node: Callable[[str], Node]
    """The array or group at a path; raises where there is none."""
    find: Callable[[str], Node | None]
    """The same, but None where there is none."""
    stored: Callable[..., StoredArray]
    """What reads an array; with ``filled=True`` an absent chunk stands for the fill value."""
    meaning: Meaning
    """What is to be made of the values."""


def encoding_of(node: Node | None) -> str:
    """What AnnData says that a group or array is; empty where it says nothing."""
    return "" if node is None else str(node.attrs.get(_ENCODING, ""))


def is_column(node: Node | None) -> bool:
    """Whether a group is one column of a table."""
    if not isinstance(node, zarr.Group):
        return False
    return encoding_of(node) == _CATEGORICAL or encoding_of(node).startswith(_NULLABLE)


def refuse_part(name: str, key: str, parent: Node | None, where: str) -> None:
    """Refuse an array that is a part of a column: its values mean something beside the others.

    Raises
    ------
    DtypeError
        Names the column.
    """
    above, _, part = name.strip("/").rpartition("/")
    table, _, folder = above.rpartition("/")
    if part in PARTS and is_column(parent):
        column, of = above, f"the part {part!r} of a column ({encoding_of(parent)})"
    elif folder == _OLD_CATEGORIES:
        column, of = f"{table}/{part}".lstrip("/"), "the categories of a column"
    else:
        return
    raise DtypeError(
        f"{name!r} ({key}) in {where} is {of}, and means nothing without the others: "
        f"name the column, {key}: {column}"
    )


class Column:
    """One value for each example.

    Parameters
    ----------
    name
        What the configuration calls it.
    values
        Its values, or the codes of its categories, (m,).
    where
        How messages name the store, after a name.
    checks
        Arrays of (m,), each with what in it stands for a missing value.
    categories
        What the codes stand for, (k,); None where the values are the column.
    """

    def __init__(
        self,
        name: str,
        values: StoredArray,
        where: str,
        checks: Sequence[tuple[StoredArray, Marks]] = (),
        categories: StoredArray | None = None,
    ) -> None:
        self.name = name
        self.values = values
        self._where = where
        self.checks = tuple(checks)
        self._by_row = (values, *(array for array, _ in checks if array is not values))
        self.arrays = self._by_row if categories is None else (*self._by_row, categories)
        self._categories = None if categories is None else _read_all(categories)
        self.dtype = values.dtype if self._categories is None else self._categories.dtype

    @property
    def shape(self) -> tuple[int, ...]:
        return self.values.shape

    @property
    def axes(self) -> tuple[str, ...]:
        """Names of its axes, or none."""
        return self.values.axes

    @property
    def identity(self) -> str:
        """Shape, type, chunks and codecs of its arrays, and its categories, as a digest."""
        reported = [array.identity for array in self.arrays]
        if self._categories is None and len(reported) == 1:
            return reported[0]
        labels = () if self._categories is None else self._categories.tolist()
        return hashlib.sha256(repr([*reported, *labels]).encode()).hexdigest()

    def footprint(self, rows: int) -> Footprint:
        """Memory of a read of so many rows; a thread keeps the last chunk of each array, and reads
        a whole one at a time."""
        parts = [
            array.footprint(max(rows, min(array.chunk_rows, array.n_rows)))
            for array in self._by_row
        ]
        kept = sum(part.decoded_bytes for part in parts)
        if self._categories is not None:
            kept += rows * self.dtype.itemsize
        passing = max(part.stored_bytes + part.passing_bytes for part in parts)
        return Footprint(kept, 0, passing, sum(part.shared_bytes for part in parts))

    def read_labels(self, start: int, stop: int) -> NDArray[Any]:
        """Values of the examples ``start`` to ``stop``, (stop - start,).

        Raises
        ------
        MissingValueError
            When one of them is missing, with the number of all.
        ChunkError
            For a chunk that is missing or damaged, or a code that stands for nothing.
        """
        values = self.values.read_labels(start, stop)
        for array, marks in self.checks:
            part = values if array is self.values else array.read_labels(start, stop)
            if marks.where(part).any():
                raise _refusal(array, marks)
        if self._categories is None:
            return values
        self._refuse_unknown(values, start)
        labels: NDArray[Any] = self._categories[values]
        return labels

    def read_all(self) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """All values, (m,), of which some may mean nothing, and which of them are missing, (m,).

        Raises
        ------
        ChunkError
            For a chunk that is missing or damaged, or a code that stands for nothing.
        """
        values = _read_all(self.values)
        missing = np.zeros(len(values), dtype=bool)
        for array, marks in self.checks:
            missing |= marks.where(values if array is self.values else _read_all(array))
        if self._categories is None or missing.all():
            return values, missing
        codes = np.where(missing, 0, values)
        self._refuse_unknown(codes, 0)
        return self._categories[codes], missing

    def _refuse_unknown(self, codes: NDArray[Any], start: int) -> None:
        assert self._categories is not None
        count = len(self._categories)
        wrong = (codes < 0) | (codes >= count)
        if wrong.any():
            at = int(np.argmax(wrong))
            chunk = self.values.chunk_name(((start + at) // self.values.chunk_rows,))
            first = [repr(label) for label in self._categories[:_NAMED].tolist()]
            known = ", ".join(first) + ", ..." * (count > _NAMED)
            raise ChunkError(
                f"{self.name}{self._where} has the code {codes[at]} at row {start + at}, in "
                f"{chunk}, and {count} categories ({known}), numbered from 0; write the column "
                "again"
            )


def _read_all(array: StoredArray) -> NDArray[Any]:
    return array.read(0, array.n_rows, Buffer())


def _refusal(array: StoredArray, marks: Marks) -> MissingValueError:
    """The error, with the number of all rows without a value: labels are few beside the features,
    and this ends the run."""
    return marks.refusal(count_gaps(array, marks), array.chunk_rows, of_features=False)


def count_gaps(array: StoredArray, marks: Marks) -> Gaps:
    """The missing values of a whole array: one more read, for the message of an error."""
    buffer, step = Buffer(), array.unit_rows
    total = Gaps(np.zeros(len(marks.values), dtype=np.int64), 0, None)
    for start in range(0, array.n_rows, step):
        values = array.read(start, min(start + step, array.n_rows), buffer)
        if values.ndim == 1:
            values = values[None, :]
        elif array.sample_axis == 0:
            values = values.T
        total = total + marks.gaps(values, start)
    return total


def open_column(name: str, opener: Opener) -> Column:
    """The column at a path: an array, or what a convention keeps in several.

    Parameters
    ----------
    name
        Its path.
    opener
        What opens the arrays of the store.

    Raises
    ------
    DataError
        When its parts do not go together.
    """
    node, where = opener.node(name), opener.meaning.where
    if isinstance(node, zarr.Group):
        if encoding_of(node) == _CATEGORICAL:
            codes, kinds = (_part(opener, f"{name}/{part}") for part in ("codes", "categories"))
            return _categorical(name, codes, kinds, opener)
        values = _named(opener.stored(_part(opener, f"{name}/values")), f"{name}/values")
        mask = opener.find(f"{name}/mask")  # older writers leave it out where nothing is missing
        checks = [] if mask is None else [_mask(opener, f"{name}/mask", mask, values, name)]
        return Column(name, values, where, checks)
    old = _old_categories(name, node, opener)
    if old is not None:
        return _categorical(name, node, old, opener)
    values, marks = opener.stored(node), marks_of(node, name, opener.meaning)
    if values.direct and values.dtype.kind not in "biuf":
        values.coded = codes_of(node, name, opener.find, opener.stored)
    checks = [] if marks is None else [(values, marks)]
    mask = opener.find(name + MASK_SUFFIX) if opener.meaning.vcf else None
    if isinstance(mask, zarr.Array):
        checks.append(_mask(opener, name + MASK_SUFFIX, mask, values, name))
    return Column(name, values, where, checks)


def _part(opener: Opener, path: str) -> zarr.Array[Any]:
    node = opener.node(path)
    if encoding_of(node).startswith(_NULLABLE):
        node = opener.node(f"{path}/values")  # text of pandas; of categories none is missing
    if not isinstance(node, zarr.Array):
        raise ShapeError(
            f"{path}{opener.meaning.where} is a group, where an array of a column is due; "
            "write the column again"
        )
    return node


def _categorical(
    name: str, codes: zarr.Array[Any], categories: zarr.Array[Any], opener: Opener
) -> Column:
    where = opener.meaning.where
    stored = _named(opener.stored(codes), f"{name}/codes")
    labels = _named(opener.stored(categories), f"{name}/categories")
    if stored.dtype.kind not in "iu" or labels.dtype.kind not in "biufUTSO":
        raise DtypeError(
            f"{name}{where} has codes of {stored.dtype} and categories of {labels.dtype}; codes "
            "must be whole numbers, and categories integers, bools, floats or strings: write the "
            "column again"
        )
    if len(labels.shape) != 1:
        raise ShapeError(
            f"{name}{where} has categories of the shape {labels.shape}; expected one axis: "
            "write the column again"
        )
    reason = (
        "the code -1 of a category means that there is none; drop those rows, or give them a "
        "category, and write the store again"
    )
    missing = Marks(np.array([-1]), (reason,), f"{name}{where}", shown="code -1")
    checks = [(stored, missing)] if stored.dtype.kind == "i" else []
    return Column(name, stored, where, checks, labels)


def _mask(
    opener: Opener, path: str, mask: Node, values: StoredArray, name: str
) -> tuple[StoredArray, Marks]:
    """What tells the missing values of a column by an array beside it."""
    if (
        not isinstance(mask, zarr.Array)
        or tuple(mask.shape) != values.shape
        or mask.dtype.kind != "b"
    ):
        reported = "a group"
        if isinstance(mask, zarr.Array):
            reported = f"an array of {mask.dtype} and shape {mask.shape}"
        raise ShapeError(
            f"{path}{opener.meaning.where} is {reported}; expected bools of the shape "
            f"{values.shape}, true where {name} is missing: write the column again"
        )
    marks, written = masked(name, path, opener.meaning), written_share(mask)
    array = opener.stored(mask, filled=written is not None)
    if written and written < 1 and count_gaps(array, marks).first is None:
        array = opener.stored(mask)  # what was written is false too: the others were lost, and
    return _named(array, path), marks  # not left out


def written_share(mask: zarr.Array[Any]) -> float | None:
    """Share of the chunks of a mask that were written: zarr-python leaves out those of nothing but
    false. None where that is not known, or an absent chunk would not stand for that."""
    try:
        return None if mask.fill_value else mask.nchunks_initialized / mask.nchunks
    except Exception:  # stores that cannot list, such as HTTP, raise whatever they like
        return None


def _old_categories(name: str, node: zarr.Array[Any], opener: Opener) -> zarr.Array[Any] | None:
    """The categories that an attribute of codes names, as in AnnData before 0.8; None if none."""
    reported = node.attrs.get("categories")
    if not isinstance(reported, str) or _OLD_CATEGORIES not in reported.split("/"):
        return None
    beside = name.strip("/").rpartition("/")[0]
    for path in (f"{beside}/{reported}".lstrip("/"), reported):
        found = opener.find(path)
        if isinstance(found, zarr.Array):
            return found
    raise ShapeError(
        f"{name}{opener.meaning.where} holds codes of the categories in {reported!r}, and there "
        "is no "
        "such array; write the column again"
    )


def _named(array: StoredArray, name: str) -> StoredArray:
    """The array, called in messages as the column that it is a part of."""
    array.name = name
    return array
