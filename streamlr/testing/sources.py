"""What every source does: tests to derive from."""

from __future__ import annotations

import pickle
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from streamlr.config.sections import load_config
from streamlr.data.footprint import Footprint
from streamlr.data.source import (
    ArraySource,
    Buffer,
    ForwardingSource,
    Source,
    check_feature_dtype,
)
from streamlr.execution.local import SerialEngine
from streamlr.kernels.columns import Columns
from streamlr.kernels.memory import page_memory
from streamlr.testing.bits import require_same
from streamlr.training.train import TrainResult, fit_source

_MOST_READS = 12
"""Reads of one split, evenly chosen, so that stores of many rows do not take long."""
_READERS = 4
_SLACK_BYTES = 2**18
_SLACK = 1.25
"""What a read may take beyond what was told: objects of Python, and a quarter more."""
_NAMES = ("features", "target", "weights", "offset", "groups")


class SourceConformance:
    """The tests of a source.

    A class that derives from it, whose name begins with Test, defines a fixture ``source`` that
    gives a fresh one of a few hundred rows with a target; and, where it knows them, a fixture
    ``expected``: the same rows as an `ArraySource`. What holds only of larger data, such as what
    memory a read takes, is told by larger data alone.
    """

    settings: ClassVar[dict[str, Any]] = {}
    """Configuration of the fit that is tried, beside that of the engine."""

    @pytest.fixture
    def expected(self) -> ArraySource | None:
        """The rows that the source should have; None where only the source can tell them."""
        return None

    # what it says of itself ---------------------------------------------------------------------

    def test_the_shape_and_type_are_told(self, source: Source) -> None:
        for name in ("n_rows", "n_features", "chunk_rows", "unit_rows"):
            value = getattr(source, name)
            assert isinstance(value, int), f"{name} is a {type(value).__name__}"
            assert value >= 1, f"{name} is {value}"
        assert source.unit_rows <= source.chunk_rows, "units are chunks or parts of them"
        check_feature_dtype(source.dtype, "features")

    def test_what_is_not_known_is_none(self, source: Source) -> None:
        names, stored, modified = source.feature_names, source.stored_bytes, source.modified
        assert names is None or len(names) == len(set(names)) == source.n_features
        assert names is None or all(isinstance(name, str) for name in names)
        assert stored is None or stored >= 0
        assert modified is None or isinstance(modified, str)
        mask = source.mask
        if mask is not None:
            assert (mask.n_rows, mask.n_features) == (source.n_rows, source.n_features)
            assert mask.marks is not None, "a mask says which of its values stand for missing ones"

    def test_messages_name_what_there_is(self, source: Source) -> None:
        there = [True, True, source.weighted, source.has_offset, False]
        for name in [name for name, is_there in zip(_NAMES, there, strict=True) if is_there]:
            assert source.describe(name).strip(), name

    # the rows -----------------------------------------------------------------------------------

    def test_the_rows_are_those_expected(
        self, source: Source, expected: ArraySource | None
    ) -> None:
        if expected is None:
            return
        require_same(_features(source), np.asarray(expected.X), "features")
        for name, found, known in _pairs(_columns(source), expected.read_columns(0, source.n_rows)):
            require_same(found, known, name)

    def test_any_split_of_the_rows_gives_the_same_values(self, source: Source) -> None:
        whole, beside = _features(source), _columns(source)
        assert whole.shape == (source.n_rows, source.n_features)
        assert whole.dtype == source.dtype
        for start, stop in _stretches(source):
            found = _features(source, start, stop)
            require_same(found, whole[start:stop], f"features of the rows {start} to {stop}")
            columns = _columns(source, start, stop)
            for name, read, known in _pairs(columns, beside.part(slice(start, stop))):
                require_same(read, known, f"{name} of the rows {start} to {stop}")

    def test_columns_stand_beside_the_features(self, source: Source) -> None:
        columns, rows = _columns(source), source.n_rows
        assert columns.target is not None
        for name, values, _ in _pairs(columns, columns):
            assert values is None or values.shape == (rows,), name
        assert (columns.weights is not None) == source.weighted
        assert (columns.offset is not None) == source.has_offset
        for name, numbers in (("weights", columns.weights), ("offset", columns.offset)):
            assert numbers is None or numbers.dtype == np.float64, name
        assert columns.groups is None or columns.groups.dtype == np.uint64

    def test_without_labels_the_offset_comes_alone(self, source: Source) -> None:
        alone = source.read_columns(0, source.n_rows, labels=False)
        assert alone.target is None
        assert alone.weights is None
        assert alone.groups is None
        require_same(alone.offset, _columns(source).offset, "the offset")

    def test_a_read_lasts_until_its_buffer_is_used_again(self, source: Source) -> None:
        unit, buffer, other = min(source.unit_rows, source.n_rows), Buffer(), Buffer()
        first = source.read_features(0, unit, buffer)
        kept = first.copy()
        source.read_features(source.n_rows - unit, source.n_rows, other)
        require_same(first, kept, "what was read, after a read into another buffer")

    def test_threads_may_read_at_a_time(self, source: Source) -> None:
        whole, stretches = _features(source), list(_stretches(source))
        with ThreadPoolExecutor(_READERS) as pool:
            each = list(pool.map(lambda rows: _features(source, *rows), stretches))
        for (start, stop), found in zip(stretches, each, strict=True):
            require_same(found, whole[start:stop], f"features of the rows {start} to {stop}")

    # how it travels -----------------------------------------------------------------------------

    def test_it_may_be_opened_more_than_once(self, source: Source) -> None:
        source.open()
        whole = _features(source)
        source.open()
        require_same(_features(source), whole, "features after it was opened again")

    def test_it_travels_by_pickle_before_and_after_it_was_read(self, source: Source) -> None:
        unread = pickle.dumps(source)
        whole, beside = _features(source), _columns(source)
        for packed in (unread, pickle.dumps(source)):
            twin = pickle.loads(packed)
            twin.open()
            require_same(_features(twin), whole, "features of the copy")
            for name, found, known in _pairs(_columns(twin), beside):
                require_same(found, known, f"{name} of the copy")
            for name in ("n_rows", "n_features", "dtype", "chunk_rows", "unit_rows", "weighted"):
                assert getattr(twin, name) == getattr(source, name), name

    def test_a_part_has_the_same_rows_by_the_same_numbers(self, source: Source) -> None:
        whole, beside, m = _features(source), _columns(source), source.n_rows
        for start, stop in ((0, m), (m // 3, m), (0, m - m // 3), (m // 3, m - m // 3)):
            part = pickle.loads(pickle.dumps(source.part(start, stop)))
            assert (part.n_rows, part.n_features) == (m, source.n_features)
            assert (part.unit_rows, part.chunk_rows) == (source.unit_rows, source.chunk_rows)
            middle = (start + stop) // 2
            for first, last in ((start, stop), (start, middle), (middle, stop)):
                if first < last:
                    found = _features(part, first, last)
                    require_same(found, whole[first:last], f"features of {first} to {last}")
                    columns = _columns(part, first, last)
                    for name, read, known in _pairs(columns, beside.part(slice(first, last))):
                        require_same(read, known, f"{name} of the rows {first} to {last}")

    # what it costs ------------------------------------------------------------------------------

    def test_a_read_takes_no_more_memory_than_was_told(self, source: Source) -> None:
        for rows in {1, min(source.unit_rows, source.n_rows), source.n_rows}:

            def read_features(buffer: Buffer, stop: int = rows) -> Any:
                return source.read_features(0, stop, buffer)

            def read_columns(buffer: Buffer, stop: int = rows) -> Any:
                return source.read_columns(0, stop)

            _require_within(source.footprint(rows), read_features, f"{rows} rows of features")
            _require_within(source.label_footprint(rows), read_columns, f"{rows} rows of columns")

    def test_more_rows_take_no_less_memory(self, source: Source) -> None:
        for reported in (source.footprint, source.label_footprint):
            few, many = reported(1), reported(source.n_rows)
            assert 0 <= few.kept_bytes <= many.kept_bytes
            assert 0 <= few.passing_bytes <= many.passing_bytes

    # what is made of it -------------------------------------------------------------------------

    def test_the_fit_is_that_of_the_same_rows_in_memory_to_the_bit(self, source: Source) -> None:
        columns = _columns(source)
        in_memory = _InBlocksOf(source, ArraySource.of(_features(source), columns))
        found, known = self._fit(source), self._fit(in_memory)
        assert found.passes == known.passes
        require_same(found.model.coef_, known.model.coef_, "coefficients")
        require_same(found.model.intercept_, known.model.intercept_, "intercept")
        assert [line["objective"] for line in found.history] == [
            line["objective"] for line in known.history
        ]

    def _fit(self, source: Source) -> TrainResult:
        settings = load_config({**self.settings, "cluster": {"kind": "serial"}})
        with SerialEngine() as engine:
            return fit_source(settings, source, engine, lambda event: None)


@dataclass(frozen=True)
class _InBlocksOf(ForwardingSource):
    """Rows in memory that are read in the blocks and the memory order of another source."""

    other: Source
    source: ArraySource

    @property
    def chunk_rows(self) -> int:
        return self.other.chunk_rows

    @property
    def unit_rows(self) -> int:
        return self.other.unit_rows

    def read_features(self, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        rows = self.source.read_features(start, stop, buffer)
        like = self.other.read_features(start, stop, Buffer())
        by_feature = like.strides[0] >= like.strides[1] and like.shape[1] > 1
        return np.ascontiguousarray(rows) if by_feature else rows


class _MeasuredBuffer(Buffer):
    """A buffer that notes how much was asked of it, of memory that is not traced."""

    def __init__(self) -> None:
        super().__init__()
        self.decoded_bytes = self.encoded_bytes = 0

    def array(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        nbytes = int(np.prod(shape)) * dtype.itemsize
        self.decoded_bytes = max(self.decoded_bytes, nbytes)
        return _untraced(nbytes).view(dtype).reshape(shape)

    def encoded(self, nbytes: int) -> NDArray[np.uint8]:
        self.encoded_bytes = max(self.encoded_bytes, nbytes)
        return _untraced(nbytes)


def _untraced(nbytes: int) -> NDArray[np.uint8]:
    """Bytes in pages of their own, (nbytes,), however few they are."""
    return page_memory(nbytes + 2**20)[:nbytes]


def _require_within(reported: Footprint, read: Callable[[Buffer], Any], what: str) -> None:
    """Read, and raise an `AssertionError` if that takes much more memory than was told."""
    read(Buffer())  # what is imported, opened and kept from the first read on is none of it
    buffer = _MeasuredBuffer()
    tracemalloc.start()
    try:
        read(buffer)
        traced = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    taken = traced + buffer.decoded_bytes + buffer.encoded_bytes
    most = reported.kept_bytes + reported.passing_bytes + reported.shared_bytes
    assert taken <= _SLACK * most + _SLACK_BYTES, (
        f"a read of {what} took {taken:,} bytes, and its footprint says {most:,}"
    )


def _features(source: Source, start: int = 0, stop: int | None = None) -> NDArray[Any]:
    """Rows, (k, n), that are the caller's own."""
    rows = source.read_features(start, source.n_rows if stop is None else stop, Buffer())
    return np.array(rows.T, order="C")


def _columns(source: Source, start: int = 0, stop: int | None = None) -> Columns:
    """What stands beside the rows, the caller's own."""
    found = source.read_columns(start, source.n_rows if stop is None else stop)
    return Columns(*(None if values is None else values.copy() for values in found.arrays))


def _pairs(one: Columns, other: Columns) -> Iterator[tuple[str, Any, Any]]:
    """The columns of both by name."""
    return zip(_NAMES[1:], one.arrays, other.arrays, strict=True)


def _stretches(source: Source) -> Iterator[tuple[int, int]]:
    """Rows to be read together: splits by different steps, and what crosses the ends of
    chunks and units, in an order that goes back and forth."""
    m = source.n_rows
    for step in {1, 7, source.unit_rows, source.chunk_rows, source.chunk_rows + 1, m}:
        splits = [(at, min(at + step, m)) for at in range(0, m, step)]
        yield from splits[:: -(-len(splits) // _MOST_READS)]
    ends = [at for at in (source.unit_rows, source.chunk_rows, m // 2) if 1 <= at < m]
    for at in reversed(ends):
        yield from ((at - 1, min(at + 1, m)), (at, at + 1), (0, at), (at, m))
