"""Sparse matrices that anndata leaves in a store are read by rows, dense a block at a time; what
cannot be read so is refused by name."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.sparse
import zarr
from numpy.typing import NDArray

from streamlr import LogisticRegression, train
from streamlr.data.source import Buffer
from streamlr.data.sources.adapters import rows_of
from streamlr.data.sources.sparse_rows import StoredSparseRows
from streamlr.errors import DtypeError

Array = NDArray[np.float64]
ROWS, FEATURES = 500, 40


def matrix() -> Any:
    return scipy.sparse.random(ROWS, FEATURES, 0.2, format="csr", random_state=0)


def labels(X: Any) -> NDArray[Any]:
    rng = np.random.default_rng(1)
    return (X @ rng.normal(size=FEATURES) + rng.logistic(size=ROWS) > 0).astype(int)


class StandIn:
    """What is used of anndata's classes, where it is not installed; as anndata does, it reads
    values by their rows."""

    def __init__(self, group: zarr.Group, backend: str = "zarr") -> None:
        self.group, self.backend = group, backend
        self.format = str(group.attrs["encoding-type"])[:3]
        self.shape, self.dtype = tuple(group.attrs["shape"]), np.dtype(group["data"].dtype)  # type: ignore[arg-type, union-attr]
        self.most = 0

    def __getitem__(self, index: slice) -> Any:
        assert self.format == "csr"
        self.most = max(self.most, index.stop - index.start)
        ends = np.asarray(self.group["indptr"])[index.start : index.stop + 1]
        values = slice(int(ends[0]), int(ends[-1]))
        parts = [np.asarray(self.group[name][values]) for name in ("data", "indices")]  # type: ignore[index]
        return scipy.sparse.csr_matrix(
            (*parts, ends - ends[0]), shape=(len(ends) - 1, self.shape[1])
        )

    def to_memory(self) -> Any:
        return self[0 : self.shape[0]]


def stored(folder: Path, X: Any) -> zarr.Group:
    """A matrix as anndata writes it."""
    group = zarr.open_group(str(folder / "a.zarr"), mode="w").create_group("X")
    for name in ("data", "indices", "indptr"):
        group.create_array(name, data=getattr(X, name), chunks=(700,))
    group.attrs.update(
        {"encoding-type": f"{X.format}_matrix", "encoding-version": "0.1.0", "shape": list(X.shape)}
    )
    return group


@pytest.fixture(params=["stand-in", "anndata"])
def dataset(request: pytest.FixtureRequest) -> Any:
    """Makes of a stored matrix what anndata does."""
    if request.param == "stand-in":
        return StandIn
    return pytest.importorskip("anndata.io").sparse_dataset


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_stored_matrix_is_fitted_and_predicted_as_the_one_in_memory(
    dataset: Any, tmp_path: Path
) -> None:
    X = matrix()
    y, given = labels(X), dataset(stored(tmp_path, X))
    for cluster in (
        {"kind": "serial"},
        {"kind": "threads", "workers": 2},
        {"kind": "processes", "workers": 1},
    ):
        if isinstance(given, StandIn) and cluster["kind"] == "processes":
            continue  # whose workers do not know this module
        found, plain = (LogisticRegression(cluster=cluster).fit(each, y) for each in (given, X))
        assert found.coef_.tobytes() == plain.coef_.tobytes()
    for method in ("predict", "predict_proba", "decision_function"):
        np.testing.assert_array_equal(getattr(found, method)(given), getattr(found, method)(X))
    assert (
        train({}, X=given, y=y).model.coefficients_sha256
        == train({}, X=X, y=y).model.coefficients_sha256
    )


def test_no_more_than_a_block_is_read_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streamlr.data.source._MEMORY_CHUNK_BYTES", 64 * FEATURES * 8)
    X = matrix()
    given = StandIn(stored(tmp_path, X))
    found = LogisticRegression(cluster={"kind": "serial"}).fit(given, labels(X))
    assert given.most <= ROWS  # of such small data a block is the whole
    given.most = 0
    found.predict_proba(given)
    assert given.most == 64


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_rows_are_read_whole_in_parts_and_after_a_journey(dataset: Any, tmp_path: Path) -> None:
    X = matrix()
    rows, buffer = rows_of(dataset(stored(tmp_path, X))), Buffer()
    assert isinstance(rows, StoredSparseRows)
    buffer.array((ROWS, FEATURES), np.dtype(np.float64))[...] = 7.0
    np.testing.assert_array_equal(rows.read(0, ROWS, buffer), X.toarray())
    part = pickle.loads(pickle.dumps(rows.part(100, 400).part(50, 300)))
    assert (part.shape, part.dtype, rows_of(part) is part) == ((250, FEATURES), np.float64, True)
    np.testing.assert_array_equal(part.read(3, 250, buffer), X.toarray()[153:400])


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_what_cannot_be_read_by_rows_is_refused_by_name(dataset: Any, tmp_path: Path) -> None:
    X = matrix()
    y = labels(X)
    by_columns = dataset(stored(tmp_path, X.tocsc()))
    for use in (
        lambda given: LogisticRegression().fit(given, y),
        lambda given: train({}, X=given, y=y),
    ):
        with pytest.raises(
            DtypeError,
            match=r"sparse_dataset of anndata's \(.*\) in the format csc, .*give X\.to_memory\(\) "
            r"where it fits",
        ):
            use(by_columns)
    found = LogisticRegression().fit(X, y)
    with pytest.raises(DtypeError, match="in the format csc"):
        found.predict(by_columns)


def test_a_matrix_in_an_hdf5_file_is_refused_by_name(tmp_path: Path) -> None:
    X = matrix()
    with pytest.raises(
        DtypeError,
        match=r"sparse_dataset of anndata's \(StandIn\) in a file of hdf5, .*or write it to a "
        r"Zarr store in the format CSR",
    ):
        LogisticRegression().fit(StandIn(stored(tmp_path, X), "hdf5"), labels(X))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_a_file_of_anndata_is_refused_by_name_and_fitted_lazily(tmp_path: Path) -> None:
    anndata, h5py = pytest.importorskip("anndata"), pytest.importorskip("h5py")
    X = matrix()
    y = labels(X)
    anndata.AnnData(X).write_h5ad(tmp_path / "a.h5ad")
    plain = LogisticRegression(tol=1e-11).fit(X, y)
    with (
        h5py.File(tmp_path / "a.h5ad") as file,
        pytest.raises(DtypeError, match=r"\(_?CSRDataset\) in a file of hdf5"),
    ):
        LogisticRegression().fit(anndata.io.sparse_dataset(file["X"]), y)
    with pytest.raises(DtypeError, match="in a file of hdf5"):
        LogisticRegression().fit(anndata.read_h5ad(tmp_path / "a.h5ad", backed="r").X, y)
    anndata.AnnData(X).write_zarr(tmp_path / "a.zarr")
    group = zarr.open_group(str(tmp_path / "a.zarr"), mode="r")["X"]
    for chunks in (None, (77, FEATURES)):
        lazy = anndata.experimental.read_elem_lazy(group, chunks=chunks)
        found = LogisticRegression(tol=1e-11).fit(lazy, y)
        np.testing.assert_allclose(
            found.coef_, plain.coef_, rtol=0, atol=1e-8
        )  # gradients of 1e-11 over curvatures of 1e-3 at least
        np.testing.assert_allclose(
            found.predict_proba(lazy).compute(), plain.predict_proba(X), rtol=0, atol=1e-8
        )


def test_a_group_is_no_array(tmp_path: Path) -> None:
    X = matrix()
    with pytest.raises(
        DtypeError, match=r"X is the Zarr group '/X', .*anndata\.io\.sparse_dataset\(X\)"
    ):
        LogisticRegression().fit(stored(tmp_path, X), labels(X))
