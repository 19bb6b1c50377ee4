"""The kit for tests: its wrappers do what they say, and its tests find what is wrong."""

from __future__ import annotations

import pickle
import re
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from stores import two_class_data

import streamlr.testing
from streamlr.data.footprint import IN_MEMORY, Footprint
from streamlr.data.partition import Partition
from streamlr.data.source import ArraySource, Buffer, ForwardingSource, Source
from streamlr.errors import ChunkError
from streamlr.execution.local import SerialEngine, ThreadsEngine
from streamlr.kernels.columns import Columns
from streamlr.testing import CountingSource, Fault, FaultySource, Gate, Read, SlowSource
from streamlr.testing.bits import bits_of, require_same
from streamlr.testing.conformance import EngineConformance, SourceConformance
from streamlr.testing.scans import CircumstancesScan, gradient_case

X, Y = two_class_data(40, 3, dtype="float64")
ARRAYS = ArraySource(X, Y, np.arange(1.0, 41.0), offset=np.zeros(40))


# the wrappers --------------------------------------------------------------------------------


def test_reads_are_counted_by_kind_and_rows() -> None:
    source = CountingSource(ARRAYS)
    for start in (0, 20, 20):
        source.read_features(start, start + 20, Buffer())
    source.read_columns(0, 40)
    source.read_columns(0, 40, labels=False)
    source.read_columns(0, 40, labels=False)
    assert source.reads == {
        Read("features", 0, 20): 1, Read("features", 20, 40): 2,
        Read("labels", 0, 40): 1, Read("offset", 0, 40): 2,
    }  # fmt: skip
    assert source.of_each_row("features").tolist() == [1] * 20 + [2] * 20
    assert (source.times("labels"), source.times("offset")) == (1, 2)
    with pytest.raises(AssertionError, match="features were read 1 times of row 0 and 2 times"):
        source.times("features")
    source.forget()
    assert source.times("features") == 0


def test_parts_are_counted_with_the_whole_and_copies_by_themselves() -> None:
    source = CountingSource(ARRAYS)
    source.part(10, 20).read_features(10, 20, Buffer())
    copy = pickle.loads(pickle.dumps(source))
    copy.read_features(0, 40, Buffer())
    assert source.reads == {Read("features", 10, 20): 1}
    assert copy.reads == {Read("features", 0, 40): 1}


@pytest.mark.parametrize(("fault", "failing"), [
    (Fault(ChunkError("bad")), [True, True, True]),
    (Fault(ChunkError("bad"), read=1), [False, True, False]),
    (Fault(ChunkError("bad"), row=25), [False, False, True]),
    (Fault(ChunkError("bad"), times=2), [True, True, False]),
    (Fault(ChunkError("bad"), kind="labels"), [False, False, False]),
])  # fmt: skip
def test_errors_are_raised_at_the_reads_that_were_named(fault: Fault, failing: list[bool]) -> None:
    source = FaultySource(ARRAYS, fault)
    found: list[ChunkError | None] = []
    for start in (0, 10, 20):
        try:
            source.read_features(start, start + 10, Buffer())
            found.append(None)
        except ChunkError as error:
            found.append(error)
    assert found == [fault.error if fails else None for fails in failing]


def test_a_gate_holds_up_the_reads_of_an_engine_until_it_is_opened() -> None:
    case, gate, told = gradient_case(), Gate(row=500), []
    partition = Partition(case.source.n_rows, 100, 50)
    with ThreadsEngine(2) as engine:
        run = threading.Thread(
            target=engine.run,
            args=(SlowSource(case.source, gate), partition, case.scan, told.append),
        )
        run.start()
        gate.wait_for_arrival()
        assert 5 not in told
        gate.open()
        run.join()
    assert sorted(told) == list(range(partition.n_slabs))


def test_a_gate_that_nobody_opens_says_so() -> None:
    gate = Gate(timeout=0.01)
    with pytest.raises(TimeoutError, match=r"no read came to the gate within 0\.01 s"):
        gate.wait_for_arrival()
    with pytest.raises(TimeoutError, match=r"the gate was not opened within 0\.01 s"):
        SlowSource(ARRAYS, gate).read_features(0, 1, Buffer())


# its tests find what is wrong ----------------------------------------------------------------


@dataclass(frozen=True)
class Wrong(ForwardingSource):
    """A source that is right in all but one thing."""

    source: Source

    def part(self, start: int, stop: int) -> Source:
        return replace(self, source=self.source.part(start, stop))


class OfOtherRows(Wrong):
    """Reads that begin within a chunk are one row off."""

    def read_features(self, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        start -= start % 2
        return self.source.read_features(start, stop, buffer)[:, : stop - start]


class OfOtherType(Wrong):
    def read_features(self, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        return self.source.read_features(start, stop, buffer).astype(np.float32)


class WithoutItsWeights(Wrong):
    def read_columns(self, start: int, stop: int, *, labels: bool = True) -> Columns:
        return replace(self.source.read_columns(start, stop, labels=labels), weights=None)


class WithLabelsUnasked(Wrong):
    def read_columns(self, start: int, stop: int, *, labels: bool = True) -> Columns:
        return self.source.read_columns(start, stop)


class IntoOneArray(Wrong):
    """All reads share memory that is no buffer."""

    memory = np.empty((3, 40))

    def read_features(self, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        self.memory[:, : stop - start] = self.source.read_features(start, stop, buffer)
        return self.memory[:, : stop - start]


class WithoutAPickle(Wrong):
    def __reduce__(self) -> tuple[Any, ...]:
        raise pickle.PicklingError("an open file")


class OfRenumberedParts(Wrong):
    def part(self, start: int, stop: int) -> Source:
        return ArraySource(X[start:stop], Y[start:stop])


class OfMoreMemory(Wrong):
    def footprint(self, rows: int) -> Footprint:
        return IN_MEMORY

    def read_features(self, start: int, stop: int, buffer: Buffer) -> NDArray[Any]:
        np.empty(2**20)
        return self.source.read_features(start, stop, buffer)


class WithoutAName(Wrong):
    def describe(self, what: str) -> str:
        return ""


class OfTooFewNames(Wrong):
    feature_names = ("a", "b")


class OfAnotherFit(Wrong):
    """Labels that are others from the second read on of a stretch."""

    seen: set[tuple[int, int]] = set()  # noqa: RUF012

    def read_columns(self, start: int, stop: int, *, labels: bool = True) -> Columns:
        columns = self.source.read_columns(start, stop, labels=labels)
        if (start, stop) in self.seen and columns.target is not None:
            return replace(columns, target=1 - columns.target)
        self.seen.add((start, stop))
        return columns


FOUND_BY: dict[type[Wrong], Callable[..., None]] = {
    OfOtherRows: SourceConformance.test_any_split_of_the_rows_gives_the_same_values,
    OfOtherType: SourceConformance.test_any_split_of_the_rows_gives_the_same_values,
    WithoutItsWeights: SourceConformance.test_columns_stand_beside_the_features,
    WithLabelsUnasked: SourceConformance.test_without_labels_the_offset_comes_alone,
    IntoOneArray: SourceConformance.test_a_read_lasts_until_its_buffer_is_used_again,
    WithoutAPickle: SourceConformance.test_it_travels_by_pickle_before_and_after_it_was_read,
    OfRenumberedParts: SourceConformance.test_a_part_has_the_same_rows_by_the_same_numbers,
    OfMoreMemory: SourceConformance.test_a_read_takes_no_more_memory_than_was_told,
    WithoutAName: SourceConformance.test_messages_name_what_there_is,
    OfTooFewNames: SourceConformance.test_what_is_not_known_is_none,
    OfAnotherFit: SourceConformance.test_the_fit_is_that_of_the_same_rows_in_memory_to_the_bit,
}


@pytest.fixture
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight rows a unit, so that there are several."""
    monkeypatch.setattr("streamlr.data.source._MEMORY_CHUNK_BYTES", 8 * 3 * 8)


@pytest.mark.parametrize("wrong", FOUND_BY, ids=lambda wrong: wrong.__name__)
def test_a_source_that_is_wrong_in_one_thing_is_found_out(
    wrong: type[Wrong], small_units: None
) -> None:
    test = FOUND_BY[wrong]
    test(SourceConformance(), ARRAYS)
    with pytest.raises((AssertionError, pickle.PicklingError)):
        test(SourceConformance(), wrong(ARRAYS))


class AddsFromTheEnd(SerialEngine):
    """Another order of the sums."""

    def run(self, source: Source, partition: Partition, scan: Any, slab_done: Any) -> Any:
        each = []
        for slab in range(partition.n_slabs):
            rows = partition.rows_of_slab(slab)
            block = Partition(rows[1] - rows[0], partition.block_rows, partition.leaf_rows)
            arrays = source.part(*rows)
            assert isinstance(arrays, ArraySource)
            alone = replace(arrays, first_row=0, total_rows=None)
            each.append(super().run(alone, block, scan, lambda _: None))
        total = each.pop()
        while each:
            total = each.pop() + total
        return total


class TellsTwice(SerialEngine):
    def run(self, source: Source, partition: Partition, scan: Any, slab_done: Any) -> Any:
        slab_done(0)
        return super().run(source, partition, scan, slab_done)


class KeepsToNoLimit(ThreadsEngine):
    def limit_threads(self, per_process: int) -> None:
        pass


class OtherErrors(SerialEngine):
    def run(self, source: Source, partition: Partition, scan: Any, slab_done: Any) -> Any:
        try:
            return super().run(source, partition, scan, slab_done)
        except ChunkError as error:
            raise RuntimeError(str(error)) from error


def test_an_engine_that_is_wrong_in_one_thing_is_found_out() -> None:
    tests = EngineConformance()
    with pytest.raises(AssertionError):
        tests.test_slabs_and_tree_change_no_bit(AddsFromTheEnd(), 1, 8)
    with pytest.raises(AssertionError):
        tests.test_every_slab_is_told_once_from_the_thread_that_asked(TellsTwice())
    with pytest.raises(RuntimeError):
        tests.test_an_error_of_the_source_arrives_as_itself_and_the_engine_goes_on(OtherErrors())

    class Unlimited(EngineConformance):
        def open_engine(self) -> ThreadsEngine:
            return KeepsToNoLimit(3)

    with pytest.raises(AssertionError):
        Unlimited().test_a_process_sums_no_more_slabs_at_a_time_than_it_may()
    with pytest.raises(NotImplementedError, match="EngineConformance has to define open_engine"):
        tests.open_engine()


def test_blocks_that_are_summed_at_a_time_are_seen() -> None:
    source = gradient_case().source
    with ThreadsEngine(3) as engine:
        found = engine.run(source, Partition(source.n_rows, 20, 20), CircumstancesScan(), print)
    assert 2 <= found.at_a_time <= 3


def test_bits_tell_apart_what_is_equal_to_numpy() -> None:
    assert bits_of(np.array([0.0])) != bits_of(np.array([-0.0]))
    assert bits_of(np.array([np.nan])) == bits_of(np.array([np.nan]))
    assert bits_of(np.array([1.0])) != bits_of(np.array([1.0], dtype=np.float32))
    with pytest.raises(AssertionError, match=r"y: at \(1,\) stand np.int64\(2\) and np.int64\(3\)"):
        require_same(np.array([1, 2]), np.array([1, 3]), "y")


# how it is used ------------------------------------------------------------------------------


def test_the_example_runs(tmp_path: Path) -> None:
    assert streamlr.testing.__doc__ is not None
    _, example = streamlr.testing.__doc__.split("::\n")
    (tmp_path / "test_example.py").write_text(textwrap.dedent(example))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_example.py"],
        cwd=tmp_path, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    tests = sum(name.startswith("test_") for name in vars(SourceConformance))
    assert re.search(rf"\b{tests} passed", done.stdout)


WITHOUT_PYTEST = """
import sys
sys.modules["pytest"] = None
import streamlr.testing
try:
    import streamlr.testing.conformance
except ImportError as error:
    print(error)
"""


def test_without_pytest_the_wrappers_are_there_and_the_tests_say_what_they_need() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_PYTEST], check=True, capture_output=True, text=True
    )
    assert done.stdout.startswith("streamlr.testing.conformance needs pytest, which is not")


def test_no_fit_loads_the_kit() -> None:
    code = "import sys, streamlr; streamlr.train; print('streamlr.testing' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout == "False\n"
