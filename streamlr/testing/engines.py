"""What every engine does: tests to derive from."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest

from streamlr.config.sections import load_config
from streamlr.data.partition import Partition
from streamlr.data.source import ArraySource, Source
from streamlr.errors import ChunkError, NonFiniteError
from streamlr.execution.engine import Engine, Scan
from streamlr.execution.local import SerialEngine
from streamlr.testing.bits import bits_of
from streamlr.testing.scans import (
    BLOCK_ROWS,
    LEAF_ROWS,
    ROWS,
    Circumstances,
    CircumstancesScan,
    RefusingScan,
    ScanCase,
    blas_threads,
    gradient_case,
    scan_cases,
)
from streamlr.testing.wrappers import Fault, FaultySource
from streamlr.training.train import fit_source

PARTITION = Partition(ROWS, BLOCK_ROWS, LEAF_ROWS)
_BAD_ROW = 1000
_CASES = scan_cases()


class EngineConformance:
    """The tests of an engine.

    A class that derives from it, whose name begins with Test, defines ``open_engine``; the engine
    that it gives is entered here. Most tests share one, as several fits would.
    """

    _stack: ClassVar[ExitStack]
    _shared: ClassVar[Engine | None]

    @classmethod
    def setup_class(cls) -> None:
        """What pytest calls first; a class with a cluster of its own starts it after this."""
        cls._stack, cls._shared = ExitStack(), None

    @classmethod
    def teardown_class(cls) -> None:
        """What pytest calls last; a class with a cluster of its own ends it after this."""
        cls._stack.close()

    def open_engine(self) -> Engine:
        """A new engine that was not entered yet."""
        raise NotImplementedError(f"{type(self).__name__} has to define open_engine")

    @pytest.fixture
    def engine(self) -> Engine:
        """The engine that tests share."""
        kind = type(self)
        if kind._shared is None:
            kind._shared = kind._stack.enter_context(self.open_engine())
        return kind._shared

    # the same bits ------------------------------------------------------------------------------

    @pytest.mark.parametrize("case", _CASES, ids=lambda case: case.name)
    def test_every_scan_has_the_bits_of_the_serial_engine(
        self, engine: Engine, case: ScanCase
    ) -> None:
        found = engine.run(case.source, replace(PARTITION, slab_blocks=2), case.scan, _ignore)
        assert bits_of(found) == _serial_bits(case.source, PARTITION, case.scan)

    @pytest.mark.parametrize("slab_blocks", [1, 4, 64])
    @pytest.mark.parametrize("tree_arity", [2, 8])
    def test_slabs_and_tree_change_no_bit(
        self, engine: Engine, slab_blocks: int, tree_arity: int
    ) -> None:
        case = gradient_case()
        partition = replace(PARTITION, slab_blocks=slab_blocks, tree_arity=tree_arity)
        found = engine.run(case.source, partition, case.scan, _ignore)
        assert bits_of(found) == _serial_bits(case.source, PARTITION, case.scan)

    @pytest.mark.parametrize("resident_slabs", [1, 3, 100])
    def test_slabs_that_stay_in_memory_change_no_bit(
        self, engine: Engine, resident_slabs: int
    ) -> None:
        case = gradient_case()
        partition = replace(PARTITION, slab_blocks=2)
        held = replace(partition, resident_slabs=min(resident_slabs, partition.n_slabs))
        for _ in range(2):  # the second time they are in memory
            found = engine.run(case.source, held, case.scan, _ignore)
            assert bits_of(found) == _serial_bits(case.source, PARTITION, case.scan)

    def test_several_sources_and_partitions_are_not_taken_for_one_another(
        self, engine: Engine
    ) -> None:
        case = gradient_case()
        given = case.source
        assert isinstance(given, ArraySource)
        other = replace(given, X=2 * np.asarray(given.X))
        for source, rows in ((given, 96), (other, 96), (given, 192), (other, 192), (given, 96)):
            partition = replace(PARTITION, block_rows=rows)
            found = engine.run(source, partition, case.scan, _ignore)
            assert bits_of(found) == _serial_bits(source, partition, case.scan)

    def test_a_fit_has_the_bits_of_the_serial_engine(self, engine: Engine) -> None:
        settings, source = load_config({}), gradient_case().source
        with SerialEngine() as serial:
            known = fit_source(settings, source, serial, _ignore)
        found = fit_source(settings, source, engine, _ignore)
        assert found.model.coefficients_sha256 == known.model.coefficients_sha256
        assert found.passes == known.passes

    # what is told -------------------------------------------------------------------------------

    def test_every_slab_is_told_once_from_the_thread_that_asked(self, engine: Engine) -> None:
        case, reported, threads = gradient_case(), [], set()

        def done(slab: int) -> None:
            reported.append(slab)
            threads.add(threading.get_ident())

        engine.run(case.source, PARTITION, case.scan, done)
        assert sorted(reported) == list(range(PARTITION.n_slabs))
        assert threads == {threading.get_ident()}

    def test_it_tells_of_itself(self, engine: Engine) -> None:
        assert engine.n_threads >= 1
        assert engine.description.strip()
        assert engine.dashboard_link is None or engine.dashboard_link.startswith("http")
        assert engine.read_retries >= 0
        assert engine.peak_memory_bytes() > 0

    def test_it_tells_of_its_workers_where_it_has_any(self, engine: Engine) -> None:
        now, peak = engine.memory_of_workers(peak=False), engine.memory_of_workers(peak=True)
        assert (now is None) == (peak is None) == (engine.arithmetic_of_workers() is None)
        assert now is None or (now > 0 and peak is not None and peak > 0)
        limit = engine.limit_of_workers()
        assert limit is None or (limit.nbytes > 0 and limit.source.strip())

    # failures -----------------------------------------------------------------------------------

    def test_an_error_of_a_scan_arrives_as_itself_and_the_engine_goes_on(
        self, engine: Engine
    ) -> None:
        case = gradient_case()
        with pytest.raises(NonFiniteError, match=f"^row {_BAD_ROW} is refused; leave it out"):
            engine.run(case.source, PARTITION, RefusingScan(_BAD_ROW), _ignore)
        self._require_usable(engine)

    def test_an_error_of_the_source_arrives_as_itself_and_the_engine_goes_on(
        self, engine: Engine
    ) -> None:
        case = gradient_case()
        faulty = FaultySource(case.source, Fault(ChunkError("chunk 10 of X is bad"), row=_BAD_ROW))
        with pytest.raises(ChunkError, match="chunk 10 of X is bad"):
            engine.run(faulty, PARTITION, case.scan, _ignore)
        self._require_usable(engine)

    def test_values_that_are_not_finite_are_named(self, engine: Engine) -> None:
        case = gradient_case()
        given = case.source
        assert isinstance(given, ArraySource)
        X = np.array(given.X)
        X[_BAD_ROW, 2] = float("nan")
        with pytest.raises(NonFiniteError, match=rf"nan at row {_BAD_ROW}, feature 2\)"):
            engine.run(replace(given, X=X), PARTITION, case.scan, _ignore)
        self._require_usable(engine)

    def test_an_error_of_who_is_told_arrives_as_itself_and_the_engine_goes_on(
        self, engine: Engine
    ) -> None:
        case = gradient_case()
        with pytest.raises(_ToldError):
            engine.run(case.source, PARTITION, case.scan, _fail)
        self._require_usable(engine)

    def _require_usable(self, engine: Engine) -> None:
        case = gradient_case()
        found = engine.run(case.source, PARTITION, case.scan, _ignore)
        assert bits_of(found) == _serial_bits(case.source, PARTITION, case.scan)

    # threads ------------------------------------------------------------------------------------

    def test_blas_has_one_thread_while_sums_are_taken_and_its_own_afterwards(
        self, engine: Engine
    ) -> None:
        before = blas_threads()
        found = self._circumstances(engine)
        assert found.blas_threads == 1
        assert blas_threads() == before

    def test_a_process_sums_no_more_slabs_at_a_time_than_it_may(self) -> None:
        with self.open_engine() as engine:
            before = engine.n_threads
            assert 1 <= self._circumstances(engine).at_a_time <= before
            engine.limit_threads(1)
            assert 1 <= engine.n_threads <= before
            assert self._circumstances(engine).at_a_time == 1
            self._require_usable(engine)

    def _circumstances(self, engine: Engine) -> Circumstances:
        found: Circumstances = engine.run(
            gradient_case().source, PARTITION, CircumstancesScan(), _ignore
        )
        return found

    # its end ------------------------------------------------------------------------------------

    def test_it_closes_after_an_error_lets_it_through_and_may_be_closed_again(self) -> None:
        engine = self.open_engine()
        with pytest.raises(_ToldError), engine as entered:
            entered.run(gradient_case().source, PARTITION, gradient_case().scan, _fail)
        engine.__exit__(None, None, None)


class _ToldError(Exception):
    """What goes wrong where sums are asked for."""


def _ignore(reported: Any) -> None:
    """Whatever is told."""
    del reported


def _fail(slab: int) -> None:
    del slab
    raise _ToldError


def _serial_bits(source: Source, partition: Partition, scan: Scan) -> Any:
    """What the reference makes of it, one block a slab."""
    with SerialEngine() as serial:
        return bits_of(serial.run(source, partition, scan, _ignore))
