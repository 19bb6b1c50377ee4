"""Every engine keeps what the kit asks of engines."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any, ClassVar

from distributed import LocalCluster

import streamlr.kernels
from streamlr.config.sections import ClusterConfig
from streamlr.execution import ENGINES, Engine, open_engine
from streamlr.testing.conformance import EngineConformance
from streamlr.testing.scans import scan_cases


class TestSerialEngine(EngineConformance):
    def open_engine(self) -> Engine:
        return open_engine(ClusterConfig(kind="serial"))


class TestThreadsEngine(EngineConformance):
    def open_engine(self) -> Engine:
        return open_engine(ClusterConfig(kind="threads", workers=3))


class TestProcessesEngine(EngineConformance):
    def open_engine(self) -> Engine:
        return open_engine(ClusterConfig(kind="processes", workers=2))


class TestAddressEngine(EngineConformance):
    cluster: ClassVar[LocalCluster]

    @classmethod
    def setup_class(cls) -> None:
        super().setup_class()
        cls.cluster = LocalCluster(
            n_workers=1, threads_per_worker=2, dashboard_address=None, silence_logs=50
        )

    @classmethod
    def teardown_class(cls) -> None:
        super().teardown_class()
        cls.cluster.close()

    def open_engine(self) -> Engine:
        return open_engine(ClusterConfig(kind="address", address=self.cluster.scheduler_address))


def test_every_engine_is_held_to_it_here() -> None:
    tested = {kind.__name__ for kind in EngineConformance.__subclasses__()}
    assert tested == {f"Test{name.capitalize()}Engine" for name in ENGINES}


def scans() -> Iterator[type[Any]]:
    """Every class of the kernels that is asked for sums over blocks."""
    for module in pkgutil.walk_packages(streamlr.kernels.__path__, "streamlr.kernels."):
        for name, kind in vars(importlib.import_module(module.name)).items():
            if name.endswith("Scan") and hasattr(kind, "reads_target"):
                yield kind


def test_every_scan_is_among_those_that_engines_are_held_to() -> None:
    assert {type(case.scan) for case in scan_cases()} == set(scans())
