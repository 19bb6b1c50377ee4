"""Names in stores that anndata and xarray wrote themselves; test_feature_names.py has the same by
hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import streamlr
from streamlr.config.sections import DataConfig
from streamlr.data.sources.store import ZarrSource

ORDER = [3, 0, 2, 1]
rng = np.random.default_rng(1)
X = rng.normal(size=(300, 4))
Y = (X @ [2.0, -1.0, 0.5, 3.0] + rng.logistic(size=300) > 0).astype(int)
zarr_formats = pytest.mark.parametrize("zarr_format", [2, 3])


def same_scores(ours: dict[str, Any], other: dict[str, Any], run: Path) -> None:
    settings = {"data": ours, "cluster": {"kind": "serial"}, "run": {"directory": str(run)}}
    streamlr.train(settings)
    found = streamlr.evaluate(run, other["store"])
    expected = streamlr.evaluate(run, ours["store"])
    # sums of 300 terms of order 1, in another order: 300 units in the last place
    np.testing.assert_allclose(found["log_loss"], expected["log_loss"], rtol=1e-13)
    assert found["auc"] == expected["auc"] > 0.8


@zarr_formats
@pytest.mark.parametrize("index", ["text", "categorical", "nullable"])
@pytest.mark.parametrize("features", ["X", "layers/counts", "raw/X"])
def test_anndata(features: str, index: str, zarr_format: int, tmp_path: Path) -> None:
    anndata = pytest.importorskip("anndata")
    genes = pd.Index(["TP53", "EGFR", "MYC", "KRAS"])
    if index == "categorical":
        genes = pd.CategoricalIndex(genes)
    if index == "nullable":
        genes = pd.Index(pd.array(list(genes), dtype="string"))
    cells = pd.DataFrame({"ill": Y}, index=[f"c{i}" for i in range(len(Y))])
    whole = anndata.AnnData(X, obs=cells, var=pd.DataFrame(index=[f"g{j}" for j in range(4)]))
    whole.layers["counts"] = X
    whole.var.index = genes
    stores = {}
    with anndata.settings.override(
        zarr_write_format=zarr_format, allow_write_nullable_strings=True
    ):
        for name, part in (("ours", whole), ("other", whole[:, ORDER].copy())):
            part.raw = part.copy()
            part.write_zarr(tmp_path / name)
            stores[name] = {
                "store": str(tmp_path / name),
                "features": features,
                "target": "obs/ill",
            }
    same_scores(stores["ours"], stores["other"], tmp_path / "run")


COORDINATES: dict[str, Any] = {
    "text": ["TP53", "EGFR", "MYC", "KRAS"],
    "index": np.arange(4),
    "wavelengths": np.array([400.1, 0.5, 7, 1e-3], "f4"),
    "dates": pd.to_datetime(["2020-01-01", "2020-03-01", "2021-01-01", "2019-12-31"]),
    "lags": pd.to_timedelta([1, 2, 3, 7], unit="D"),
}


@zarr_formats
@pytest.mark.parametrize("sample_axis", [0, 1])
@pytest.mark.parametrize("coordinate", COORDINATES)
def test_xarray(coordinate: str, sample_axis: int, zarr_format: int, tmp_path: Path) -> None:
    """Dates too, which xarray counts from the first of them: another one in another order."""
    xarray = pytest.importorskip("xarray")
    data = xarray.Dataset(
        {"X": (("row", "feature"), X), "y": (("row",), Y)},
        coords={"feature": COORDINATES[coordinate]},
    )
    stores = {}
    for name, part in (("ours", data), ("other", data.isel(feature=ORDER))):
        turned = part.transpose("feature", "row") if sample_axis else part
        turned.to_zarr(tmp_path / name, zarr_format=zarr_format, consolidated=False)
        stores[name] = {"store": str(tmp_path / name), "sample_axis": sample_axis}
    same_scores(stores["ours"], stores["other"], tmp_path / "run")
    names = ZarrSource(DataConfig(**stores["other"])).feature_names
    assert names is not None
    if coordinate == "dates":  # as a frame with the same columns has them
        assert names[0] == str(pd.Timestamp("2019-12-31"))
