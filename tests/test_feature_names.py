"""Names of features are read by every convention, and a store is matched to a model by name."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import zarr
from click.testing import CliRunner
from numpy.typing import NDArray
from stores import put

import streamlr
from streamlr.cli.main import cli
from streamlr.config.sections import DataConfig
from streamlr.data.describe import describe_store
from streamlr.data.sources.store import ZarrSource
from streamlr.errors import ChunkError, ConfigError, DtypeError, RunDirectoryError, ShapeError
from streamlr.events import Event, Note

ROWS = 300
GENES = ("TP53", "EGFR", "MYC", "KRAS", "BRCA1")
ORDER = [3, 0, 4, 2, 1]
TIGHT = 1e-12
"""Sums of 300 terms of order 1: 300 units in the last place (2e-16) would be 7e-14."""


def data(seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Features of unlike scales and effects, so that a wrong order shows."""
    rng = np.random.default_rng(seed)
    X = rng.normal(size=(ROWS, len(GENES))) * [1.0, 3.0, 0.5, 2.0, 1.0] + [0.0, 1.0, -1.0, 2.0, 0.0]
    z = X @ [2.0, -0.8, 3.0, 0.1, -1.5] + 1.0
    return X, (rng.random(ROWS) < 1 / (1 + np.exp(-z))).astype(np.int64)


def text(group: zarr.Group, name: str, values: Any) -> None:
    """As anndata writes it."""
    put(group, name, np.asarray(values, dtype=str)).attrs.update(
        {"encoding-type": "string-array", "encoding-version": "0.2.0"}
    )


def put_index(frame: zarr.Group, name: str, labels: Any, kind: str) -> None:
    """The index of a frame; chunks of nothing but 0 are left out, as zarr-python does."""
    frame.attrs.update(
        {
            "_index": name,
            "encoding-type": "dataframe",
            "encoding-version": "0.2.0",
            "column-order": [],
        }
    )
    if kind == "text":
        text(frame, name, labels)
        return
    group = frame.create_group(name)
    if kind == "categorical":
        group.attrs.update(
            {"encoding-type": "categorical", "encoding-version": "0.2.0", "ordered": False}
        )
        categories, codes = np.unique(np.asarray(labels, dtype=str), return_inverse=True)
        text(group, "categories", categories)
        put(group, "codes", codes.astype(np.int8), (1,), every_chunk=False)
    else:
        group.attrs.update({"encoding-type": "nullable-string-array", "encoding-version": "0.1.0"})
        text(group, "values", labels)
        put(group, "mask", np.zeros(len(labels), dtype=bool), every_chunk=False)


def anndata(
    path: Path,
    X: NDArray[Any],
    y: Any,
    names: Any,
    zarr_format: Any = 3,
    index: str = "text",
    of: str = "X",
) -> DataConfig:
    """What AnnData.write_zarr leaves, with the features in X, a layer or the raw matrix."""
    root = zarr.open_group(str(path), mode="w", zarr_format=zarr_format)
    root.attrs.update({"encoding-type": "anndata", "encoding-version": "0.1.0"})
    put_index(root.create_group("obs"), "cell", [f"c{i}" for i in range(len(X))], "text")
    put(root, "obs/ill", np.asarray(y))
    frame = "raw/var" if of == "raw/X" else "var"
    for folder in ("layers", "raw"):
        root.require_group(folder)
    put_index(root.create_group(frame), "_index" if index == "text" else "gene_id", names, index)
    if frame == "raw/var":
        put_index(root.create_group("var"), "_index", [f"other {j}" for j in range(7)], "text")
    put(root, of, X, (100, X.shape[1]))
    return DataConfig(store=str(path), features=of, target="obs/ill")


def xarray(
    path: Path,
    X: NDArray[Any],
    y: Any,
    names: Any,
    zarr_format: Any = 3,
    sample_axis: int = 0,
    coordinate: str = "gene",
) -> DataConfig:
    """What Dataset.to_zarr leaves: names of axes, and a coordinate named as the axis."""
    root = zarr.open_group(str(path), mode="w", zarr_format=zarr_format)
    axes = ("cell", "gene") if sample_axis == 0 else ("gene", "cell")
    for name, values, dims in (
        ("X", X if sample_axis == 0 else X.T, axes),
        ("y", np.asarray(y), ("cell",)),
        (coordinate, np.asarray(names), ("gene",)),
    ):
        # of Zarr 2 xarray has a fill value where an encoding states one, for others a null
        labelled = {"dimension_names": dims} if zarr_format == 3 else {"fill_value": None}
        array = put(root, name, values, every_chunk=False, **labelled)
        if zarr_format == 2:
            array.attrs["_ARRAY_DIMENSIONS"] = list(dims)
    return DataConfig(store=str(path), sample_axis=1 if sample_axis else 0)


def vcf(path: Path, X: NDArray[Any], y: Any, names: Any, zarr_format: Any = 3) -> DataConfig:
    """Dosages as bio2zarr names them, variants by samples."""
    root = zarr.open_group(str(path), mode="w", zarr_format=zarr_format)
    for name, values, dims in (
        ("call_dosage", X.T, ("variants", "samples")),
        ("ill", np.asarray(y), ("samples",)),
        ("variant_id", np.asarray(names), ("variants",)),
    ):
        array = put(root, name, values, **({"dimension_names": dims} if zarr_format == 3 else {}))
        if zarr_format == 2:
            array.attrs["_ARRAY_DIMENSIONS"] = list(dims)
    return DataConfig(store=str(path), features="call_dosage", target="ill", sample_axis=1)


def listed(path: Path, X: NDArray[Any], y: Any, names: Any, how: str = "array") -> DataConfig:
    """streamlr's own way."""
    root = zarr.open_group(str(path), mode="w")
    put(root, "X", X, (100, X.shape[1]))
    put(root, "y", np.asarray(y))
    if how == "array":
        put(root, "feature_names", np.asarray(names))
    else:
        root.attrs["feature_names"] = list(names)
    return DataConfig(store=str(path))


CONVENTIONS: dict[str, Any] = {
    **{
        f"anndata {of}, {index}, Zarr {version}": lambda *a, i=index, o=of, v=version: anndata(
            *a, zarr_format=v, index=i, of=o
        )
        for version in (2, 3)
        for index in ("text", "categorical", "nullable")
        for of in ("X", "layers/counts", "raw/X")
    },
    **{
        f"xarray, axis {axis}, Zarr {version}": lambda *a, s=axis, v=version: xarray(
            *a, zarr_format=v, sample_axis=s
        )
        for version in (2, 3)
        for axis in (0, 1)
    },
    **{f"vcf, Zarr {version}": lambda *a, v=version: vcf(*a, zarr_format=v) for version in (2, 3)},
    **{
        f"feature_names, {how}": lambda *a, h=how: listed(*a, how=h)
        for how in ("array", "attribute")
    },
}


def settings(config: DataConfig, run: Path | None = None, **model: Any) -> dict[str, Any]:
    return {
        "data": {
            "store": config.store,
            "features": config.features,
            "target": config.target,
            "sample_axis": config.sample_axis,
        },
        "model": model,
        "cluster": {"kind": "serial"},
        "run": {"directory": None if run is None else str(run)},
    }


class Told:
    """A subscriber that keeps what a person is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, event: Event) -> None:
        if isinstance(event, Note):
            self.texts.append(event.text)


def predictions(run: Path, config: DataConfig, out: Path, **options: Any) -> NDArray[np.float64]:
    streamlr.predict(
        run,
        config.store,
        out,
        overrides=[
            f"data.{key}={getattr(config, key)}" for key in ("features", "target", "sample_axis")
        ],
        **options,
    )
    return np.asarray(zarr.open_array(str(out), mode="r")[:])


# where names stand --------------------------------------------------------------------------------


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_names_are_read_by_every_convention(convention: str, tmp_path: Path) -> None:
    assert (
        ZarrSource(CONVENTIONS[convention](tmp_path / "s", *data(), GENES)).feature_names == GENES
    )


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_store_in_another_order_is_scored_as_the_one_it_was_trained_on(
    convention: str, tmp_path: Path
) -> None:
    X, y = data()
    write = CONVENTIONS[convention]
    ours, other = (
        write(tmp_path / "ours", X, y, GENES),
        write(tmp_path / "other", X[:, ORDER], y, np.array(GENES)[ORDER]),
    )
    streamlr.train(settings(ours, tmp_path / "run"))
    told = Told()
    expected, found = (
        streamlr.evaluate(tmp_path / "run", ours.store),
        streamlr.evaluate(tmp_path / "run", other.store, subscribers=[told]),
    )
    for name in ("log_loss", "auc", "accuracy", "brier_score"):
        np.testing.assert_allclose(found[name], expected[name], rtol=TIGHT, err_msg=name)
    assert found["auc"] > 0.8
    assert any("in another order" in line for line in told.texts)
    np.testing.assert_allclose(
        predictions(tmp_path / "run", other, tmp_path / "b"),
        predictions(tmp_path / "run", ours, tmp_path / "a"),
        rtol=TIGHT,
    )


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (np.arange(5), "0 1 2 3 4"),
        (np.array([5, -1, 0, 3, 2], dtype="i2"), "5 -1 0 3 2"),
        (np.array([400.5, 0.1, 3.25, 7.5, 1e-3], dtype="f4"), "400.5 0.1 3.25 7.5 0.001"),
        (np.array([b"a", b"b", b"c", b"d", b"e"]), "a b c d e"),
    ],
    ids=["index", "integers", "float32", "bytes"],
)
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_coordinates_of_any_type_become_names(
    values: Any, names: str, zarr_format: int, tmp_path: Path
) -> None:
    assert ZarrSource(xarray(tmp_path / "s", *data(), values, zarr_format)).feature_names == tuple(
        names.split()
    )


@pytest.mark.parametrize(
    ("attributes", "values", "names"),
    [
        (
            {"units": "days since 2020-01-02 00:00:00", "calendar": "proleptic_gregorian"},
            [0, -1, 30, 365, 2],
            [
                "2020-01-02 00:00:00",
                "2020-01-01 00:00:00",
                "2020-02-01 00:00:00",
                "2021-01-01 00:00:00",
                "2020-01-04 00:00:00",
            ],
        ),
        (
            {"units": "hours since 2020-01-01", "calendar": "noleap"},
            [0, 1, 2, 3, 4],
            [f"{i} hours since 2020-01-01 (noleap)" for i in range(5)],
        ),
        (
            {"units": "days", "dtype": "timedelta64[ns]"},
            [0, 1, 2, 3, 4],
            [f"{i} days" for i in range(5)],
        ),
        (
            {"scale_factor": 0.5, "add_offset": 10.0},
            [0, 1, 2, 3, 4],
            ["10.0", "10.5", "11.0", "11.5", "12.0"],
        ),
        ({"units": "nm"}, [0, 1, 2, 3, 4], list("01234")),
    ],
    ids=["dates", "dates of another calendar", "lags", "packed", "a unit"],
)
def test_coordinates_are_read_as_what_they_stand_for(
    attributes: dict[str, Any], values: list[int], names: list[str], tmp_path: Path
) -> None:
    config = xarray(tmp_path / "s", *data(), np.array(values))
    zarr.open_array(str(tmp_path / "s"), path="gene", mode="r+").attrs.update(attributes)
    assert ZarrSource(config).feature_names == tuple(names)


def test_feature_names_come_first_and_what_lies_across_is_no_name(tmp_path: Path) -> None:
    X, y = data()
    config = xarray(tmp_path / "s", X, y, GENES)
    group = zarr.open_group(str(tmp_path / "s"), mode="r+")
    put(group, "cell", np.arange(ROWS), dimension_names=("cell",))
    assert ZarrSource(config).feature_names == GENES
    group.attrs["feature_names"] = list("abcde")
    assert ZarrSource(config).feature_names == tuple("abcde")


def test_an_array_that_is_no_coordinate_names_nothing(tmp_path: Path) -> None:
    """A target that happens to be called as an axis, and an axis without a name."""
    X, y = data()
    for axes in (("x", "y"), ("cell", None)):
        group = zarr.open_group(str(tmp_path / "s"), mode="w")
        put(group, "X", X, dimension_names=axes)
        put(group, "y", y, dimension_names=("x",) if axes[0] == "x" else None)
        assert ZarrSource(DataConfig(store=str(tmp_path / "s"))).feature_names is None


def test_a_matrix_of_obsm_and_one_of_cells_by_cells(tmp_path: Path) -> None:
    X, y = data()
    config = anndata(tmp_path / "s", X, y, GENES)
    group = zarr.open_group(str(tmp_path / "s"), mode="r+")
    for name, values in (
        ("obsm/X_pca", X[:, :2]),
        ("obsp/distances", np.eye(ROWS)),
        ("varm/loadings", X[:5, :2]),
    ):
        group.require_group(name.split("/")[0])
        put(group, name, values)
    assert (
        ZarrSource(
            DataConfig(store=config.store, features="obsm/X_pca", target="obs/ill")
        ).feature_names
        is None
    )
    names = ZarrSource(
        DataConfig(store=config.store, features="obsp/distances", target="obs/ill")
    ).feature_names
    assert names == tuple(f"c{i}" for i in range(ROWS))
    across = DataConfig(
        store=config.store, features="varm/loadings", target="varm/loadings", sample_axis=1
    )
    assert ZarrSource(across, labelled=False).feature_names == GENES


def test_a_store_within_a_store_has_its_own_names(tmp_path: Path) -> None:
    """As MuData has it; and a group of a DataTree shares the coordinates of the one above."""
    X, y = data()
    group = zarr.open_group(str(tmp_path / "s"), mode="w")
    anndata(tmp_path / "s" / "mod" / "rna", X, y, GENES)
    put(group, "y", y)
    assert (
        ZarrSource(
            DataConfig(store=str(tmp_path / "s"), features="mod/rna/X", target="mod/rna/obs/ill")
        ).feature_names
        == GENES
    )
    xarray(tmp_path / "t", X, y, GENES)
    group = zarr.open_group(str(tmp_path / "t"), mode="r+")
    group.create_group("part")
    put(group, "part/X", X, dimension_names=("cell", "gene"))
    assert (
        ZarrSource(DataConfig(store=str(tmp_path / "t"), features="part/X")).feature_names == GENES
    )


def test_variants_without_an_identifier_are_named_by_their_place(tmp_path: Path) -> None:
    X, y = data()
    config = vcf(tmp_path / "s", X, y, [".", "rs7", ".", ".", ""])
    group = zarr.open_group(config.store, mode="r+")
    for name, values in (
        ("contig_id", np.array(["chr1", "chrX"])),
        ("variant_contig", np.array([0, 0, 0, 1, 1])),
        ("variant_position", np.array([5, 7, 9, 5, 8])),
    ):
        put(group, name, values)
    assert ZarrSource(config).feature_names == ("chr1:5", "rs7", "chr1:9", "chrX:5", "chrX:8")
    put(group, "variant_allele", np.array([["A", "T", ""]] * 3 + [["AC", "A", "G"]] * 2))
    assert ZarrSource(config).feature_names == (
        "chr1:5:A:T",
        "rs7",
        "chr1:9:A:T",
        "chrX:5:AC:A:G",
        "chrX:8:AC:A:G",
    )


@pytest.mark.parametrize(
    "convention",
    ["anndata X, text, Zarr 3", "xarray, axis 0, Zarr 3", "vcf, Zarr 3", "feature_names, array"],
)
def test_names_that_are_too_few_are_refused(convention: str, tmp_path: Path) -> None:
    config = CONVENTIONS[convention](tmp_path / "s", *data(), GENES[:4])
    with pytest.raises(
        ShapeError,
        match=r"has 5 features but 4 (feature_names|names in (var/_index|gene|variant_id)); they "
        r"must agree",
    ):
        streamlr.train(settings(config))


def test_names_that_are_damaged_or_would_be_unpickled_are_refused(tmp_path: Path) -> None:
    config = anndata(tmp_path / "s", *data(), GENES)
    (tmp_path / "s" / "var" / "_index" / "c" / "0").write_bytes(b"\x05\x00\x00")
    with pytest.raises(
        ChunkError,
        match=r"var/_index of .* cannot be read .*; write that array again, or remove it",
    ):
        streamlr.train(settings(config))
    (tmp_path / "s" / "var" / "_index" / "c" / "0").unlink()
    with pytest.raises(
        ChunkError, match=r"var/_index of .* cannot be read"
    ):  # which Zarr would read as five empty names
        streamlr.train(settings(config))
    config = anndata(tmp_path / "t", *data(), GENES, zarr_format=2)
    metadata = tmp_path / "t" / "var" / "_index" / ".zarray"
    filters = [{"id": "vlen-utf8"}, {"id": "pickle"}]
    metadata.write_text(json.dumps({**json.loads(metadata.read_text()), "filters": filters}))
    with pytest.raises(DtypeError, match="pickles"):
        streamlr.train(settings(config))


# what is told, and what they are for --------------------------------------------------------------


def test_info_shows_names_and_where_they_stand(tmp_path: Path) -> None:
    config = anndata(tmp_path / "s", *data(), GENES)
    found = describe_store(ZarrSource(config))
    assert (found["feature_names"], found["feature_names_from"]) == (list(GENES), "var/_index")
    shown = CliRunner().invoke(cli, ["info", config.store, "--set", "data.target=obs/ill"])
    assert shown.exit_code == 0
    assert "features named by var/_index: 'TP53', 'EGFR', 'MYC' and 2 more" in shown.output
    plain = listed(tmp_path / "t", *data(), GENES)
    zarr.open_group(plain.store, mode="r+").attrs.clear()
    assert (
        describe_store(ZarrSource(xarray(tmp_path / "u", *data(), GENES, coordinate="elsewhere")))[
            "feature_names_from"
        ]
        is None
    )


def test_penalties_and_bounds_know_the_names_of_a_convention(tmp_path: Path) -> None:
    X, y = data()
    model = {
        "penalty": {"l2": 0.1, "factors": {"MYC": 0, "KRAS": 5}},
        "bounds": {"upper": {"TP53": 0.5}},
    }
    by_number = {"penalty": {"l2": 0.1, "factors": [1, 1, 0, 5, 1]}, "bounds": {"upper": {0: 0.5}}}
    config = anndata(tmp_path / "s", X, y, GENES)
    found, expected = (
        streamlr.train(settings(config, **model)),
        streamlr.train(settings(config, **by_number)),
    )
    assert found.model.coefficients_sha256 == expected.model.coefficients_sha256
    with pytest.raises(ConfigError, match=r"there is no feature 'Myc'; the nearest name is 'MYC'"):
        streamlr.train(settings(config, penalty={"l2": 0.1, "factors": {"Myc": 0}}))


def test_a_number_that_is_also_the_name_of_another_feature_is_refused(tmp_path: Path) -> None:
    X, y = data()
    config = xarray(tmp_path / "s", X, y, [450, 0, 2, 1, 500])
    for factors in ({450: 0, 2: 3}, {"450": 0, "2": 3}):  # 2 is both
        found = streamlr.train(settings(config, penalty={"l2": 0.1, "factors": factors}))
        assert (
            found.model.coefficients_sha256
            == streamlr.train(
                settings(config, penalty={"l2": 0.1, "factors": [0, 1, 3, 1, 1]})
            ).model.coefficients_sha256
        )
    with pytest.raises(
        ConfigError,
        match=r"1 may be the feature named '1' \(number 3\) or feature number 1 \('0'\)",
    ):
        streamlr.train(settings(config, penalty={"l2": 0.1, "factors": {1: 0}}))


def test_a_name_that_two_features_have_is_no_key(tmp_path: Path) -> None:
    config = listed(tmp_path / "s", *data(), ["a", "b", "a", "c", "d"])
    with pytest.raises(
        ConfigError,
        match=r"model\.bounds\.lower: 2 features are named 'a' \(numbers 0, 2\); give their "
        r"numbers",
    ):
        streamlr.train(settings(config, bounds={"lower": {"a": 0}}))
    streamlr.train(settings(config, bounds={"lower": {"b": 0, 0: 0}}))


# matched by name ----------------------------------------------------------------------------------


@pytest.fixture
def trained(tmp_path: Path) -> tuple[Path, DataConfig]:
    config = anndata(tmp_path / "ours", *data(), GENES)
    streamlr.train(settings(config, tmp_path / "run"))
    return tmp_path / "run", config


@pytest.mark.parametrize("kind", ["serial", "threads", "processes"])
def test_columns_beside_those_of_the_model_are_left_out_and_told(
    kind: str, trained: tuple[Path, DataConfig], tmp_path: Path
) -> None:
    """Whatever they hold; the bits are those of the store that was trained on."""
    run, ours = trained
    X, y = data()
    wide = np.column_stack(
        [np.full(ROWS, np.nan), X[:, ORDER[:2]], np.full(ROWS, np.inf), X[:, ORDER[2:]]]
    )
    names = ["nothing", *np.array(GENES)[ORDER[:2]], "too much", *np.array(GENES)[ORDER[2:]]]
    other = anndata(tmp_path / "other", wide, y, names)
    told, overrides = Told(), [f"cluster.kind={kind}", "cluster.workers=2"]
    assert streamlr.evaluate(
        run, other.store, overrides=overrides, subscribers=[told]
    ) == streamlr.evaluate(run, ours.store)
    assert any(
        "2 features" in line and "left out" in line and "'nothing', 'too much'" in line
        for line in told.texts
    )
    np.testing.assert_array_equal(
        predictions(run, other, tmp_path / "b"), predictions(run, ours, tmp_path / "a")
    )
    turned = xarray(tmp_path / "turned", wide, y, names, sample_axis=1)
    np.testing.assert_allclose(
        predictions(run, turned, tmp_path / "c"), predictions(run, ours, tmp_path / "d"), rtol=TIGHT
    )


def test_a_value_that_is_no_number_is_named_by_its_own_name(
    trained: tuple[Path, DataConfig], tmp_path: Path
) -> None:
    X, y = data()
    X = X.copy()
    X[123, 2] = np.nan
    wide = np.column_stack([np.full(ROWS, np.nan), X[:, ORDER]])
    other = anndata(tmp_path / "other", wide, y, ["nothing", *np.array(GENES)[ORDER]])
    with pytest.raises(
        streamlr.errors.NonFiniteError, match=r"first: nan at row 123, feature 'MYC'"
    ):
        streamlr.evaluate(trained[0], other.store)


@pytest.mark.parametrize(
    "call",
    [
        streamlr.evaluate,
        lambda run, store: streamlr.predict(run, store, Path(run) / "out"),
        streamlr.summary,
    ],
    ids=["evaluate", "predict", "summary"],
)
def test_missing_features_are_named_with_the_nearest_there_are(
    call: Any, trained: tuple[Path, DataConfig], tmp_path: Path
) -> None:
    X, y = data()
    other = anndata(tmp_path / "other", X, y, ["tp53", "EGFR", "Myc", "KRAS", "zzz"])
    with pytest.raises(
        ShapeError,
        match=r"lacks 3 of the 5 features of the model in .*run'.*: 'TP53', 'MYC', 'BRCA1'; it "
        r"has 5, .*nearest .*'Myc'",
    ):
        call(trained[0], other.store)


def test_many_missing_features_are_counted(
    trained: tuple[Path, DataConfig], tmp_path: Path
) -> None:
    X, y = data()
    with pytest.raises(
        ShapeError, match=r"lacks 5 of the 5 features .*: 'TP53', 'EGFR', 'MYC' and 2 more"
    ):
        streamlr.evaluate(
            trained[0], anndata(tmp_path / "other", X, y, [f"gene {j}" for j in range(5)]).store
        )


def test_without_names_on_one_side_features_go_by_position_and_are_counted(
    trained: tuple[Path, DataConfig], tmp_path: Path
) -> None:
    run, ours = trained
    X, y = data()
    for width in (5, 6):
        group = zarr.open_group(str(tmp_path / f"bare {width}"), mode="w")
        put(group, "X", np.column_stack([X, y])[:, :width])
        group.create_group("obs")
        put(group, "obs/ill", y)
    np.testing.assert_allclose(
        streamlr.evaluate(run, str(tmp_path / "bare 5"))["log_loss"],
        streamlr.evaluate(run, ours.store)["log_loss"],
        rtol=TIGHT,
    )
    with pytest.raises(ShapeError, match=r"has 6 features; the model in .* was fitted to 5"):
        streamlr.evaluate(run, str(tmp_path / "bare 6"))


def test_names_that_are_not_unique_serve_by_position_and_not_in_another_order(
    tmp_path: Path,
) -> None:
    X, y = data()
    names = ["a", "b", "a", "c", "d"]
    ours, told = listed(tmp_path / "ours", X, y, names), Told()
    streamlr.train(settings(ours, tmp_path / "run"), subscribers=[told])
    assert any("'a' 2 times" in line and "by their position" in line for line in told.texts)
    told = Told()
    assert streamlr.evaluate(tmp_path / "run", ours.store, subscribers=[told])["auc"] > 0.8
    assert any("'a' 2 times" in line and "by their position" in line for line in told.texts)
    with pytest.raises(
        ShapeError, match=r"name of 2 features of the model.*cannot be matched by name"
    ):
        streamlr.evaluate(
            tmp_path / "run",
            listed(tmp_path / "other", X[:, ORDER], y, np.array(names)[ORDER]).store,
        )
    streamlr.train(settings(listed(tmp_path / "unique", X, y, list("abcde")), tmp_path / "run2"))
    with pytest.raises(
        ShapeError, match=r"'a' is the name of 2 features .*cannot be matched by name"
    ):
        streamlr.evaluate(
            tmp_path / "run2",
            listed(tmp_path / "more", np.column_stack([X, y]), y, list("eabcda")).store,
        )
    twice = listed(
        tmp_path / "beside", np.column_stack([X, y, y]), y, list("edcbazz")
    )  # what the model does not want may have any name
    assert streamlr.evaluate(tmp_path / "run2", twice.store)["rows"] == ROWS


@pytest.mark.parametrize("family", ["logistic", "linear", "poisson"])
@pytest.mark.parametrize("extra", [False, True])
def test_a_summary_of_a_store_in_another_order_is_that_of_the_run(
    family: str, extra: bool, tmp_path: Path
) -> None:
    X, y = data()
    target = y if family != "linear" else X @ np.arange(5.0) + y
    names, columns = np.array(GENES)[ORDER], X[:, ORDER]
    ours = anndata(tmp_path / "ours", X, target, GENES)
    streamlr.train(settings(ours, tmp_path / "run", family=family))
    if extra:
        names, columns = np.append(names, "more"), np.column_stack([columns, y])
    other = anndata(tmp_path / "other", columns, target, names)
    expected, found = (
        streamlr.summary(tmp_path / "run").to_dict(),
        streamlr.summary(tmp_path / "run", other.store).to_dict(),
    )
    assert found == expected


def test_rows_held_out_are_scored_by_name_too(tmp_path: Path) -> None:
    X, y = data()
    ours, other = (
        anndata(tmp_path / "ours", X, y, GENES),
        anndata(tmp_path / "other", X[:, ORDER], y, np.array(GENES)[ORDER]),
    )
    streamlr.train({**settings(ours, tmp_path / "run"), "validation": {"fraction": 0.3}})
    expected, found = (
        streamlr.evaluate(tmp_path / "run", config.store, validation=True)
        for config in (ours, other)
    )
    assert (found["rows"], found["confusion_matrix"]) == (
        expected["rows"],
        expected["confusion_matrix"],
    )
    np.testing.assert_allclose(found["log_loss"], expected["log_loss"], rtol=TIGHT)


def test_a_path_leaves_a_model_that_is_matched_by_name(tmp_path: Path) -> None:
    X, y = data()
    ours, other = (
        anndata(tmp_path / "ours", X, y, GENES),
        anndata(tmp_path / "other", X[:, ORDER], y, np.array(GENES)[ORDER]),
    )
    result = streamlr.path({**settings(ours, tmp_path / "run"), "path": {"count": 3}})
    assert result.model.feature_names == GENES
    np.testing.assert_allclose(
        streamlr.evaluate(tmp_path / "run", other.store)["auc"],
        streamlr.evaluate(tmp_path / "run", ours.store)["auc"],
        rtol=TIGHT,
    )


def test_a_model_of_three_classes_is_matched_by_name(tmp_path: Path) -> None:
    X, y = data()
    y = y + (X[:, 1] > 2)
    ours, other = (
        anndata(tmp_path / "ours", X, y, GENES),
        anndata(tmp_path / "other", X[:, ORDER], y, np.array(GENES)[ORDER]),
    )
    streamlr.train(settings(ours, tmp_path / "run"))
    np.testing.assert_allclose(
        predictions(tmp_path / "run", other, tmp_path / "b"),
        predictions(tmp_path / "run", ours, tmp_path / "a"),
        rtol=TIGHT,
    )


def test_the_command_line_matches_by_name(trained: tuple[Path, DataConfig], tmp_path: Path) -> None:
    X, y = data()
    other = anndata(
        tmp_path / "other", np.column_stack([X[:, ORDER], y]), y, [*np.array(GENES)[ORDER], "more"]
    )
    shown = CliRunner().invoke(cli, ["evaluate", str(trained[0]), other.store])
    assert (shown.exit_code, "1 feature" in shown.output) == (0, True)
    assert "'more'" in shown.output
    assert (
        CliRunner()
        .invoke(cli, ["evaluate", str(trained[0]), other.store, "--json", "--quiet"])
        .exit_code
        == 0
    )


# a model to start from ----------------------------------------------------------------------------


def test_a_start_is_put_into_the_order_of_the_data(tmp_path: Path) -> None:
    X, y = data()
    ours, other = (
        anndata(tmp_path / "ours", X, y, GENES),
        anndata(tmp_path / "other", X[:, ORDER], y, np.array(GENES)[ORDER]),
    )
    start = streamlr.train(settings(ours)).model
    exact = {"solver": {"name": "lbfgs", "tolerance": 1e-6}}
    again = streamlr.train({**settings(other), **exact}, start=start)
    assert again.passes == 2  # the survey, and the look at a start that is the optimum
    np.testing.assert_allclose(again.model.coef_[0], start.coef_[0, ORDER], rtol=1e-6)


def test_a_start_may_know_fewer_features_and_not_others(tmp_path: Path) -> None:
    X, y = data()
    start = streamlr.train(settings(anndata(tmp_path / "few", X[:, :3], y, GENES[:3]))).model
    told = Told()
    more = streamlr.train(
        settings(anndata(tmp_path / "all", X, y, GENES)), start=start, subscribers=[told]
    )
    assert more.status == "converged"
    assert any("2 features" in line and "start at 0" in line for line in told.texts)
    with pytest.raises(ShapeError, match=r"lacks 1 of the 3 features of start: 'MYC'"):
        streamlr.train(settings(anndata(tmp_path / "others", X[:, :2], y, GENES[:2])), start=start)
    with pytest.raises(ShapeError, match=r"start has 3 features, and .* 5"):
        streamlr.train({"cluster": {"kind": "serial"}}, X=X, y=y, start=start)


# elsewhere than in a plain directory --------------------------------------------------------------


@pytest.mark.parametrize("kind", ["zip", "remote", "filled"])
@pytest.mark.parametrize("index", ["text", "categorical", "nullable"])
def test_names_are_read_from_any_store(kind: str, index: str, tmp_path: Path) -> None:
    config = anndata(tmp_path / "s", *data(), GENES, index=index)
    if kind == "zip":
        archive = shutil.make_archive(str(tmp_path / "packed"), "zip", tmp_path / "s")
        config = replace(config, store=archive)
    elif kind == "remote":
        files = {
            f"/names {index}/{path.relative_to(tmp_path / 's')}": path.read_bytes()
            for path in (tmp_path / "s").rglob("*")
            if path.is_file()
        }
        fsspec.filesystem("remote").pipe(files)
        config = replace(config, store=f"remote://names {index}")
    else:
        config = replace(config, missing_chunks="fill")
    assert ZarrSource(config).feature_names == GENES


def test_a_run_does_not_go_on_with_a_store_whose_columns_were_moved(tmp_path: Path) -> None:
    X, y = data()
    ours = anndata(tmp_path / "s", X, y, GENES)
    short = {"solver": {"name": "lbfgs", "max_passes": 3}}
    streamlr.train({**settings(ours, tmp_path / "run"), **short})
    anndata(tmp_path / "s", X[:, ORDER], y, np.array(GENES)[ORDER])
    with pytest.raises(RunDirectoryError, match="made with data of fingerprint"):
        streamlr.train(
            settings(ours, tmp_path / "run", family="logistic") | {"solver": {"name": "lbfgs"}},
            resume=True,
        )
