"""Every source keeps what the kit asks of sources."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dask.array as da
import numpy as np
import pytest
import scipy.sparse
import zarr
from stores import put, two_class_data, write_store

from streamlr.config.sections import DataConfig
from streamlr.data.source import ArraySource, Source
from streamlr.data.sources.registry import rows_of
from streamlr.data.sources.resident import ResidentRows
from streamlr.data.sources.reweighted import WeightedByClass
from streamlr.data.sources.selected import SelectedFeatures
from streamlr.data.sources.store import ZarrSource
from streamlr.testing import CountingSource, FaultySource, SlowSource
from streamlr.testing.conformance import SourceConformance

ROWS, FEATURES, CHUNK = 300, 6, 64
X, Y = two_class_data(ROWS, FEATURES)
X += 0.0  # sparse matrices have no -0.0
TEXTS = np.array(["no", "certainly"])[Y]
_RNG = np.random.default_rng(3)
WEIGHTS, OFFSET = _RNG.uniform(0.5, 2.0, ROWS), _RNG.normal(size=ROWS) / 4
GROUPS = _RNG.integers(0, 20, ROWS)
ARRAYS = ArraySource(X, Y, WEIGHTS, offset=OFFSET, groups=GROUPS)
PLAIN = ArraySource(X, Y)


def store(folder: Path, **layout: Any) -> DataConfig:
    """X and all columns in a store of a layout."""
    config = write_store(
        folder / "store.zarr", X, Y, layout.pop("chunks", (CHUNK, FEATURES)), y_chunk=50,
        weights=WEIGHTS, **layout,
    )  # fmt: skip
    group = zarr.open_group(config.store, mode="a")
    put(group, "offset", OFFSET, (50,))
    put(group, "groups", GROUPS, (50,))
    return dataclasses.replace(config, offset="offset", groups="groups")


LAYOUTS: dict[str, dict[str, Any]] = {
    "raw": {},
    "blosc": {"codec": "blosc lz4"},
    "zarr 2": {"zarr_format": 2, "codec": "zstd"},
    "sharded": {"shards": (2 * CHUNK, FEATURES), "codec": "zstd"},
    "sample_axis 1": {"sample_axis": 1},
    "sample_axis 1, zarr 2": {"sample_axis": 1, "zarr_format": 2, "codec": "gzip"},
    "chunked features": {"chunks": (CHUNK, 4), "codec": "gzip"},
    "one chunk": {"chunks": (ROWS, FEATURES)},
}


class TestArraySource(SourceConformance):
    @pytest.fixture(params=["C", "F", "int8", "text", "plain"])
    def source(self, request: pytest.FixtureRequest) -> Source:
        return {
            "C": ARRAYS,
            "F": dataclasses.replace(ARRAYS, X=np.asfortranarray(X)),
            "int8": dataclasses.replace(ARRAYS, X=X.astype(np.int8)),
            "text": dataclasses.replace(ARRAYS, y=TEXTS, groups=TEXTS),
            "plain": PLAIN,
        }[request.param]


class TestZarrSource(SourceConformance):
    @pytest.fixture(params=LAYOUTS)
    def source(self, request: pytest.FixtureRequest, tmp_path: Path) -> Source:
        return ZarrSource(store(tmp_path, **LAYOUTS[request.param]))

    @pytest.fixture
    def expected(self) -> ArraySource:
        return ARRAYS


class TestZarrSourceThroughZarr(TestZarrSource):
    """The same by Zarr's own pipeline."""

    @pytest.fixture(params=["sharded", "sample_axis 1, zarr 2"])
    def source(self, request: pytest.FixtureRequest, tmp_path: Path) -> Source:
        return ZarrSource(store(tmp_path, **LAYOUTS[request.param]), direct=False)


class TestZarrSourceOfManyRows(SourceConformance):
    """Some megabytes, of which the memory that a read takes is told apart from what Python takes."""

    LARGE, LARGE_Y = two_class_data(9_000, 40, dtype="float64")

    @pytest.fixture(params=["sharded", "zarr 2", "sample_axis 1"])
    def source(self, request: pytest.FixtureRequest, tmp_path: Path) -> Source:
        layout: dict[str, Any] = {
            "sharded": {"shards": (6000, 40), "codec": "zstd"},
            "zarr 2": {"zarr_format": 2, "codec": "blosc lz4"},
            "sample_axis 1": {"sample_axis": 1, "codec": "gzip"},
        }[request.param]
        path = tmp_path / "large.zarr"
        config = write_store(path, self.LARGE, self.LARGE_Y, (3000, 40), y_chunk=3000, **layout)
        return ZarrSource(config)

    @pytest.fixture
    def expected(self) -> ArraySource:
        return ArraySource(self.LARGE, self.LARGE_Y)


class TestZarrSourceOfText(SourceConformance):
    @pytest.fixture
    def source(self, tmp_path: Path) -> Source:
        return ZarrSource(write_store(tmp_path / "text.zarr", X, TEXTS, (CHUNK, FEATURES)))

    @pytest.fixture
    def expected(self) -> ArraySource:
        return ArraySource(X, TEXTS)


ROWS_OF: dict[str, Callable[[Path], Any]] = {
    "dask": lambda folder: da.from_array(X, chunks=((90, 100, 110), (FEATURES,))),
    "dask, by feature": lambda folder: da.from_array(X, chunks=((100, 200), (4, 2))),
    "sparse": lambda folder: scipy.sparse.csr_array(X),
    "zarr": lambda folder: zarr.create_array(str(folder / "X.zarr"), data=X, chunks=(CHUNK, 4)),
}


class TestRows(SourceConformance):
    """Dask arrays, sparse matrices and Zarr arrays in the place of features."""

    @pytest.fixture(params=ROWS_OF)
    def source(self, request: pytest.FixtureRequest, tmp_path: Path) -> Source:
        return dataclasses.replace(ARRAYS, X=rows_of(ROWS_OF[request.param](tmp_path)))

    @pytest.fixture
    def expected(self) -> ArraySource:
        return ARRAYS


INNER = ["arrays", "store", "sample_axis 1"]


def inner(name: str, folder: Path) -> Source:
    """What a wrapper stands around."""
    layouts = {"store": {}, "sample_axis 1": {"sample_axis": 1}}
    return ZarrSource(store(folder, **layouts[name])) if name in layouts else ARRAYS


class TestWeightedByClass(SourceConformance):
    @pytest.fixture(params=[*INNER, "without weights"])
    def source(self, request: pytest.FixtureRequest, tmp_path: Path) -> Source:
        of = PLAIN if request.param == "without weights" else inner(request.param, tmp_path)
        return WeightedByClass(of, np.array([0, 1]), np.array([0.5, 3.0]))


class TestSelectedFeatures(SourceConformance):
    @pytest.fixture(params=INNER)
    def source(self, request: pytest.FixtureRequest, tmp_path: Path) -> Source:
        return SelectedFeatures(inner(request.param, tmp_path), np.array([4, 0, 5]))

    @pytest.fixture
    def expected(self) -> ArraySource:
        return dataclasses.replace(ARRAYS, X=X[:, [4, 0, 5]])


class TestResidentRows(SourceConformance):
    @pytest.fixture(params=INNER)
    def source(self, request: pytest.FixtureRequest, tmp_path: Path) -> Source:
        return ResidentRows(inner(request.param, tmp_path), 0, 2 * CHUNK)

    @pytest.fixture
    def expected(self) -> ArraySource:
        return ARRAYS


def _at_once(read: object) -> None:
    del read


WRAPPERS: dict[str, Callable[[Source], Source]] = {
    "counting": CountingSource,
    "faulty": FaultySource,
    "slow": lambda source: SlowSource(source, _at_once),
}


class TestWrappersOfTheKit(SourceConformance):
    @pytest.fixture(params=INNER)
    def of(self, request: pytest.FixtureRequest, tmp_path: Path) -> Source:
        return inner(request.param, tmp_path)

    @pytest.fixture(params=WRAPPERS)
    def source(self, request: pytest.FixtureRequest, of: Source) -> Source:
        return WRAPPERS[request.param](of)

    @pytest.fixture
    def expected(self) -> ArraySource:
        return ARRAYS
