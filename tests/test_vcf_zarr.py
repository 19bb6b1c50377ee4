"""VCF Zarr: what its specification calls missing is refused, with the first sample and variant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from stores import chunk_paths, put
from test_damage import names, refusal, train

import streamlr
from streamlr.config.sections import DataConfig
from streamlr.data.source import Buffer
from streamlr.data.sources.adapters import ZarrRows
from streamlr.data.sources.store import ZarrSource
from streamlr.errors import DataError, MissingValueError, ShapeError

SAMPLES, VARIANTS = 300, 8
DOSAGES: dict[str, Any] = {"features": "call_DS", "sample_axis": 1}


def data() -> tuple[NDArray[np.int8], NDArray[np.int8]]:
    """Dosages, (variants, samples), and a trait of each sample."""
    rng = np.random.default_rng(0)
    dosages = rng.integers(0, 3, (VARIANTS, SAMPLES)).astype(np.int8)
    trait = (dosages[0] + rng.standard_normal(SAMPLES) > 1).astype(np.int8)
    return dosages, trait


def write(
    path: Path,
    dosages: Any,
    trait: Any,
    zarr_format: Any = 2,
    *,
    versioned: bool = True,
    axes: tuple[str, ...] = ("variants", "samples"),
    mask: Any = None,
    every_chunk: bool = True,
    fill_value: Any = None,
) -> Path:
    """As bio2zarr writes it, in Zarr 2, and as others do in Zarr 3."""
    group = zarr.open_group(str(path), mode="w", zarr_format=zarr_format)
    if versioned:
        group.attrs["vcf_zarr_version"] = "0.5"
    arrays = {"call_DS": (dosages, axes, (3, 70)), "y": (trait, axes[-1:], (70,))}
    if mask is not None:
        arrays["call_DS_mask"] = (mask, axes, (2, 90))
    for name, (values, names_, chunks) in arrays.items():
        if zarr_format == 2:
            array = put(group, name, values, chunks, every_chunk=every_chunk, fill_value=fill_value)
            if names_:
                array.attrs["_ARRAY_DIMENSIONS"] = list(names_)
        else:
            options = {"dimension_names": list(names_)} if names_ else {}
            put(group, name, values, chunks, every_chunk=every_chunk, **options)
    return path


def spoilt(dosages: NDArray[Any]) -> NDArray[Any]:
    dosages = dosages.copy()
    dosages[5, 200], dosages[3, 200], dosages[1, 250] = -2, -1, -1
    return dosages


FOUND = "holds 3 missing values (-1: 2, -2: 1, in 2 samples; first: sample 200, variant 3, in chunk"


@pytest.mark.parametrize("kind", ["serial", "threads", "processes"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_negative_dosages_are_missing(zarr_format: int, kind: str, tmp_path: Path) -> None:
    dosages, trait = data()
    write(tmp_path / "s", spoilt(dosages), trait, zarr_format)
    error = refusal(tmp_path / "s", kind, **DOSAGES)
    assert isinstance(error, MissingValueError)
    names(
        error, f"call_DS in {tmp_path / 's'} {FOUND} 2)", "in VCF Zarr -1 and -2 stand for missing"
    )


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize("axes", [("variants", "samples"), (), ("site", "individual")])
def test_a_store_is_of_vcf_zarr_by_its_version_or_its_axes(
    axes: tuple[str, ...], versioned: bool, zarr_format: int, tmp_path: Path
) -> None:
    dosages, trait = data()
    write(tmp_path / "s", spoilt(dosages), trait, zarr_format, versioned=versioned, axes=axes)
    result, _ = train(tmp_path / "s", **DOSAGES)
    expected = versioned or axes == ("variants", "samples")
    assert isinstance(result, MissingValueError) is expected
    assert isinstance(result, DataError) is expected


@pytest.mark.parametrize("fill", [0, -1])
def test_a_fill_value_by_default_is_no_mark_beside_its_own(fill: int, tmp_path: Path) -> None:
    dosages, trait = data()  # zarr-python's default is 0, as most genotypes are
    expected, _ = train(write(tmp_path / "plain", dosages, trait), **DOSAGES)
    found, _ = train(write(tmp_path / "s", dosages, trait, fill_value=fill), **DOSAGES)
    assert isinstance(expected, streamlr.TrainResult)
    assert isinstance(found, streamlr.TrainResult)
    assert found.model.coefficients_sha256 == expected.model.coefficients_sha256
    names(refusal(write(tmp_path / "t", spoilt(dosages), trait, fill_value=fill), **DOSAGES), FOUND)


def test_a_fill_value_of_0_is_a_mark_where_that_is_said(tmp_path: Path) -> None:
    dosages, trait = data()
    write(tmp_path / "s", dosages, trait, fill_value=0)
    error = refusal(tmp_path / "s", **DOSAGES, fill_value={"call_DS": "missing"})
    names(
        error, f"holds {np.count_nonzero(dosages == 0)} missing values (0, ", "by data.fill_value"
    )


@pytest.mark.parametrize("dtype", ["int8", "int16", "int32", "int64"])
def test_signed_integers_of_every_width_have_the_marks(dtype: str, tmp_path: Path) -> None:
    dosages, trait = data()
    write(tmp_path / "s", spoilt(dosages).astype(dtype), trait)
    names(refusal(tmp_path / "s", **DOSAGES), FOUND)


@pytest.mark.parametrize("dtype", ["uint8", "bool", "float32"])
def test_other_types_have_none(dtype: str, tmp_path: Path) -> None:
    dosages, trait = data()
    write(tmp_path / "s", dosages.astype(dtype), trait)
    config = DataConfig(store=str(tmp_path / "s"), **DOSAGES)
    assert ZarrSource(config).marks is None


def test_variants_may_be_the_examples(tmp_path: Path) -> None:
    dosages, _ = data()
    labels = np.arange(VARIANTS) % 2
    write(tmp_path / "s", spoilt(dosages), labels.astype(np.int8))
    group = zarr.open_group(str(tmp_path / "s"), mode="r+")
    group["y"].attrs["_ARRAY_DIMENSIONS"] = ["variants"]
    error = refusal(tmp_path / "s", features="call_DS")
    names(error, "in 3 variants; first: variant 1, sample 250, in chunk 0)")


@pytest.mark.parametrize("value", [-1, -2])
@pytest.mark.parametrize("of", ["y", "weights", "offset"])
def test_marks_of_traits_count_too(of: str, value: int, tmp_path: Path) -> None:
    dosages, trait = data()
    values = np.where(np.arange(SAMPLES) == 9, value, trait + 1).astype(np.int16)
    write(tmp_path / "s", dosages, values if of == "y" else trait)
    if of != "y":
        put(zarr.open_group(str(tmp_path / "s"), mode="r+"), of, values)
    settings = {} if of == "y" else {of: of}
    error = refusal(tmp_path / "s", **DOSAGES, **settings)
    names(error, f"{of} in", f"holds 1 missing value ({value}; first: sample 9, in chunk 0)")
    names(error, f"data.fill_value: {{{of}: value}} if they are values")


def test_a_trait_of_minus_one_and_one_may_be_said_to_be_one(tmp_path: Path) -> None:
    dosages, trait = data()
    write(tmp_path / "s", dosages, 2 * trait - 1)
    for said in (None, "value"):  # of all arrays it is said of fill values of Zarr 2 alone
        error = refusal(tmp_path / "s", **DOSAGES, fill_value=said)
        names(error, "y in", f"{np.count_nonzero(trait == 0)} missing")
    result, _ = train(tmp_path / "s", **DOSAGES, fill_value={"y": "value"})
    assert isinstance(result, streamlr.TrainResult)
    assert result.model.classes_.tolist() == [-1, 1]
    write(tmp_path / "s", spoilt(dosages), 2 * trait - 1)
    error = refusal(tmp_path / "s", **DOSAGES, fill_value={"y": "value"})
    names(error, "call_DS in", FOUND)


def test_a_point_is_no_label(tmp_path: Path) -> None:
    dosages, trait = data()
    words = np.where(np.isin(np.arange(SAMPLES), [80, 90]), ".", np.array(["a", "b"])[trait])
    write(tmp_path / "s", dosages, words)
    error = refusal(tmp_path / "s", **DOSAGES)
    names(error, "y in", "holds 2 missing values ('.'; first: sample 80, in chunk 1)")


@pytest.mark.parametrize("dtype", ["int8", "float32"])
@pytest.mark.parametrize("every_chunk", [True, False])
@pytest.mark.parametrize("kind", ["serial", "threads", "processes"])
def test_a_mask_is_read_beside_what_it_masks(
    kind: str, every_chunk: bool, dtype: str, tmp_path: Path
) -> None:
    dosages, trait = data()
    mask = np.zeros(dosages.shape, dtype=bool)
    write(tmp_path / "none", dosages.astype(dtype) + 1, trait + 1)
    write(tmp_path / "s", dosages.astype(dtype) + 1, trait + 1, mask=mask, every_chunk=every_chunk)
    plain, found = (train(tmp_path / name, kind, **DOSAGES)[0] for name in ("none", "s"))
    assert isinstance(plain, streamlr.TrainResult)
    assert isinstance(found, streamlr.TrainResult)
    assert found.model.coef_.tobytes() == plain.model.coef_.tobytes()
    assert found.passes == plain.passes
    mask[2, 77] = mask[4, 77] = mask[2, 130] = True
    write(tmp_path / "s", dosages.astype(dtype) + 1, trait + 1, mask=mask, every_chunk=every_chunk)
    error = refusal(tmp_path / "s", kind, **DOSAGES)
    names(
        error, "call_DS in", "holds 3 missing values (by call_DS_mask, in 2 samples; first: sample"
    )
    names(error, "sample 77, variant 2")


def test_a_mask_of_a_trait_counts_and_one_of_another_store_does_not(tmp_path: Path) -> None:
    dosages, trait = data()
    for versioned in (True, False):
        axes = ("variants", "samples") if versioned else ()
        write(tmp_path / "s", dosages, trait, versioned=versioned, axes=axes)
        group = zarr.open_group(str(tmp_path / "s"), mode="r+")
        put(group, "y_mask", np.arange(SAMPLES) == 33)
        result, _ = train(tmp_path / "s", **DOSAGES)
        if versioned:
            assert isinstance(result, MissingValueError)
            names(result, "y in", "holds 1 missing value (by y_mask; first: sample 33, in chunk 0)")
        else:
            assert isinstance(result, streamlr.TrainResult)


def test_a_mask_that_does_not_go_with_the_dosages_is_refused(tmp_path: Path) -> None:
    dosages, trait = data()
    write(tmp_path / "s", dosages, trait, mask=np.ones((VARIANTS, SAMPLES - 1), dtype=bool))
    error = refusal(tmp_path / "s", **DOSAGES)
    assert isinstance(error, ShapeError)
    names(error, f"call_DS_mask in {tmp_path / 's'} has shape (8, 299)", "(8, 300), true where")


def test_scores_and_predictions_look_for_marks_and_masks(tmp_path: Path) -> None:
    dosages, trait = data()
    store, run = str(write(tmp_path / "s", dosages, trait)), tmp_path / "run"
    tree = {"data": {"store": store, **DOSAGES}, "run": {"directory": str(run)}}
    streamlr.train(tree)
    mask = np.zeros(dosages.shape, dtype=bool)
    mask[6, 11] = True
    cases = {"marked": {"dosages": spoilt(dosages)}, "masked": {"dosages": dosages, "mask": mask}}
    for name, given in cases.items():
        write(tmp_path / name, given["dosages"], trait, mask=given.get("mask"))
        with pytest.raises(MissingValueError, match=r"call_DS in .* missing value.* first: sample"):
            streamlr.evaluate(run, str(tmp_path / name))
        with pytest.raises(MissingValueError, match=r"call_DS in .* missing value.* first: sample"):
            streamlr.predict(run, str(tmp_path / name), tmp_path / "p.zarr")
        assert not (tmp_path / "p.zarr").exists()


def test_genotypes_are_refused_with_what_to_write_in_their_place(tmp_path: Path) -> None:
    dosages, trait = data()
    store = write(tmp_path / "s", dosages, trait)
    group: Any = zarr.open_group(str(store), mode="r+")
    alleles = np.stack([dosages > 0, dosages > 1], axis=-1).astype(np.int8)
    alleles[3, 40] = -1, -2
    axes = ["variants", "samples", "ploidy"]
    put(group, "call_genotype", alleles).attrs["_ARRAY_DIMENSIONS"] = axes
    error = refusal(store, features="call_genotype", sample_axis=1)
    assert isinstance(error, ShapeError)
    names(error, "call_genotype in", "has shape (8, 300, 2)", "set data.sample_axis: 1")
    g = group["call_genotype"][...]  # as the message has it
    assert "numpy.where((g < 0).any(-1), -1, (g > 0).sum(-1))" in str(error)
    written = np.where((g < 0).any(-1), -1, (g > 0).sum(-1)).astype(np.int8)
    np.testing.assert_array_equal(np.delete(written, 40, 1), np.delete(dosages, 40, 1))
    group["call_DS"][...] = written
    names(
        refusal(store, **DOSAGES), "1 missing value (-1, in 1 sample; first: sample 40, variant 3"
    )


def test_an_array_that_is_handed_over_is_known_by_its_axes(tmp_path: Path) -> None:
    dosages, _ = data()
    store = write(tmp_path / "s", spoilt(dosages), np.zeros(SAMPLES, dtype=np.int8))
    rows = ZarrRows(zarr.open_array(str(store), path="call_DS", mode="r"))
    with pytest.raises(
        MissingValueError, match=r"X holds 3 missing values .*first: variant 1, sample 250"
    ):
        rows.read(3, 6, Buffer())


def test_a_lost_chunk_is_told_as_everywhere(tmp_path: Path) -> None:
    dosages, trait = data()
    write(tmp_path / "s", dosages, trait, mask=np.zeros(dosages.shape, dtype=bool))
    chunk_paths(tmp_path / "s" / "call_DS")[3].unlink()
    names(refusal(tmp_path / "s", **DOSAGES), "lacks chunk", "of call_DS")
