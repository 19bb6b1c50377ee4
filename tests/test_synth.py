"""Synthetic stores: the same for the same seed, complete or absent, and drawn from the model that
they state."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from stores import bits, chunk_paths, files_of, read_rows

from streamlr import train
from streamlr.config.sections import DataConfig
from streamlr.data.describe import describe_store
from streamlr.data.sources.store import ZarrSource
from streamlr.data.synth import DTYPES, Population, SynthSpec, synthesize
from streamlr.errors import ConfigError
from streamlr.kernels.families import FAMILIES


def read(path: Path, name: str) -> Any:
    array: Any = zarr.open_group(str(path), mode="r")[name]
    return np.asarray(array[...])


def test_the_same_seed_gives_the_same_files_whatever_the_threads(tmp_path: Path) -> None:
    spec = SynthSpec(rows=20_000, features=7, chunk_rows=1500, seed=3)
    for threads in (1, 2, 5):
        synthesize(tmp_path / str(threads), spec, threads=threads)
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2") == files_of(tmp_path / "5")


@pytest.mark.parametrize(
    "other",
    [
        {"chunk_rows": 1},
        {"chunk_rows": 1000},
        {"chunk_rows": 4096},
        {"chunk_rows": 9999},
        {"compressor": "none"},
        {"compressor": "zstd"},
        {"sample_axis": 1},
    ],
    ids=str,
)
def test_values_do_not_depend_on_how_they_are_stored(tmp_path: Path, other: dict[str, Any]) -> None:
    spec = SynthSpec(rows=300 if other == {"chunk_rows": 1} else 9000, features=3, seed=1)
    synthesize(tmp_path / "a", spec)
    synthesize(tmp_path / "b", replace(spec, **other))
    X = read(tmp_path / "b", "X")
    assert bits(X.T if "sample_axis" in other else X) == bits(read(tmp_path / "a", "X"))
    for name in ("y", "true_coefficients", "true_intercept", "feature_names"):
        assert read(tmp_path / "b", name).tolist() == read(tmp_path / "a", name).tolist()


def test_a_longer_store_begins_with_the_shorter_one(tmp_path: Path) -> None:
    for rows in (5000, 8200):
        synthesize(tmp_path / str(rows), SynthSpec(rows, 3))
    assert bits(read(tmp_path / "8200", "X")[:5000]) == bits(read(tmp_path / "5000", "X"))
    assert bits(read(tmp_path / "8200", "y")[:5000]) == bits(read(tmp_path / "5000", "y"))


def test_another_seed_gives_other_values(tmp_path: Path) -> None:
    for seed in (0, 1):
        synthesize(tmp_path / str(seed), SynthSpec(1000, 3, seed=seed))
    assert np.mean(read(tmp_path / "0", "X") == read(tmp_path / "1", "X")) < 0.01
    assert not np.allclose(
        read(tmp_path / "0", "true_coefficients"), read(tmp_path / "1", "true_coefficients")
    )


def test_rows_of_different_blocks_are_not_alike(tmp_path: Path) -> None:
    synthesize(tmp_path / "s", SynthSpec(8192, 2))
    X = read(tmp_path / "s", "X").astype(np.float64)
    # independent columns of 4096 correlate by about 1/64; the same draw twice would correlate by 1
    assert abs(np.corrcoef(X[:4096, 0], X[4096:, 0])[0, 1]) < 6 / 64


@pytest.mark.parametrize("dtype", ["float32", "float64", "int16", "bool"])
@pytest.mark.parametrize("seed", [0, 1])
def test_labels_follow_the_stored_coefficients(tmp_path: Path, seed: int, dtype: str) -> None:
    """Under the model, sum x_j (y - p) has mean 0 and variance sum x_j² p (1 - p); five standard
    deviations are one chance in 1.7 million."""
    synthesize(tmp_path / "s", SynthSpec(40_000, 6, dtype=dtype, seed=seed))
    X, y = read(tmp_path / "s", "X").astype(np.float64), read(tmp_path / "s", "y")
    w, b = read(tmp_path / "s", "true_coefficients")[0], read(tmp_path / "s", "true_intercept")[0]
    p = 1 / (1 + np.exp(-(X @ w + b)))
    columns = np.column_stack([np.ones(len(X)), X - X.mean(axis=0), np.where(p > 0.5, 1.0, -1.0)])

    def deviations(probability: Any) -> Any:
        return (y - probability) @ columns / np.sqrt((p * (1 - p)) @ columns**2)

    assert np.abs(deviations(p)).max() < 5
    assert (
        np.abs(deviations(1 / (1 + np.exp(-0.9 * (X @ w + b))))).max() > 5
    )  # the test can tell coefficients that are a tenth too small


def test_labels_of_several_classes_follow_the_stored_coefficients(tmp_path: Path) -> None:
    synthesize(tmp_path / "s", SynthSpec(40_000, 5, classes=4, seed=2))
    X, y = read(tmp_path / "s", "X").astype(np.float64), read(tmp_path / "s", "y")
    W, b = read(tmp_path / "s", "true_coefficients"), read(tmp_path / "s", "true_intercept")
    assert W.shape == (4, 5)
    Z = X @ W.T + b
    A = np.exp(Z - Z.max(axis=1, keepdims=True))
    A /= A.sum(axis=1, keepdims=True)
    Y = np.eye(4)[y]
    columns = np.column_stack([np.ones(len(X)), X - X.mean(axis=0)])
    deviations = columns.T @ (Y - A) / np.sqrt((columns**2).T @ (A * (1 - A)))
    assert np.abs(deviations).max() < 5  # 24 deviations, each beyond 5 once in 1.7 million
    permuted = A[:, [1, 0, 2, 3]]
    assert (
        np.abs(
            columns.T @ (Y - permuted) / np.sqrt((columns**2).T @ (permuted * (1 - permuted)))
        ).max()
        > 5
    )


@pytest.mark.parametrize(
    "family", [name for name, family in FAMILIES.items() if not family.labelled]
)
@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "bool"])
def test_numbers_follow_the_stored_coefficients(tmp_path: Path, dtype: str, family: str) -> None:
    """As for labels; the variance of a number is 1, that of a count its mean."""
    synthesize(tmp_path / "s", SynthSpec(40_000, 6, dtype=dtype, family=family))
    X, y = read(tmp_path / "s", "X").astype(np.float64), read(tmp_path / "s", "y")
    Z = X @ read(tmp_path / "s", "true_coefficients")[0] + read(tmp_path / "s", "true_intercept")[0]
    mean = FAMILIES[family].activate(Z)
    columns = np.column_stack([np.ones(len(X)), X - X.mean(axis=0), Z - Z.mean()])

    def deviations(of: Any) -> Any:
        return (y - of) @ columns / np.sqrt(FAMILIES[family].curvature(mean) @ columns**2)

    assert np.abs(deviations(mean)).max() < 5
    assert (
        np.abs(deviations(FAMILIES[family].activate(0.9 * Z))).max() > 5
    )  # the test can tell coefficients that are a tenth too small
    assert np.mean((y - mean) ** 2 / FAMILIES[family].curvature(mean)) == pytest.approx(1, abs=0.1)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_model_of_every_family_finds_its_coefficients_again(tmp_path: Path, family: str) -> None:
    """To six standard errors, by the inverse of the Hessian; of softmax, whose Z are known but for
    a common shift, beside the first class."""
    synthesize(tmp_path / "s", SynthSpec(20_000, 4, family=family))
    found = train(
        {
            "data": {"store": str(tmp_path / "s")},
            "model": {"family": family},
            "cluster": {"kind": "serial"},
        }
    )
    assert found.status == "converged"
    X = read(tmp_path / "s", "X").astype(np.float64)
    true, intercept = (
        read(tmp_path / "s", "true_coefficients"),
        read(tmp_path / "s", "true_intercept"),
    )
    assert true.shape == found.model.coef_.shape
    error = found.model.coef_ - true
    if family == "softmax":
        error, true, intercept = (each[1:] - each[0] for each in (error, true, intercept))
    curvature = FAMILIES["logistic" if family == "softmax" else family]
    columns = np.column_stack([X, np.ones(len(X))])
    omega = curvature.curvature(curvature.activate(X @ true[0] + intercept[0]))
    size = np.sqrt(np.diag(np.linalg.inv((columns * omega[:, None]).T @ columns)))[:-1]
    assert (np.abs(error[0]) < 6 * size).all()


@pytest.mark.parametrize("compressor", ["lz4", "zstd", "none"])
@pytest.mark.parametrize("sample_axis", [0, 1])
def test_every_chunk_is_written_with_a_checksum_and_read_directly(
    tmp_path: Path, compressor: Any, sample_axis: int
) -> None:
    synthesize(
        tmp_path / "s",
        SynthSpec(1050, 5, chunk_rows=100, compressor=compressor, sample_axis=sample_axis),
    )
    source = ZarrSource(DataConfig(store=str(tmp_path / "s"), sample_axis=1 if sample_axis else 0))
    source.check_chunks()
    assert [array.checksummed for array in source.arrays] == [True, True]
    assert source.features.reads_files
    assert len(chunk_paths(tmp_path / "s" / "X")) == len(chunk_paths(tmp_path / "s" / "y")) == 11
    assert describe_store(source)["problems"] == []
    assert source.feature_names == ("x0", "x1", "x2", "x3", "x4")
    X = read(tmp_path / "s", "X")
    assert bits(read_rows(source, 77)) == bits(X.T if sample_axis else X)


def test_chunks_of_nothing_but_zeros_are_written(tmp_path: Path) -> None:
    synthesize(
        tmp_path / "s", SynthSpec(300, 1, chunk_rows=1, dtype="bool")
    )  # of 300 labels and bools some are 0, alone in their chunk
    assert 0 in read(tmp_path / "s", "y")
    assert not read(tmp_path / "s", "X").all()
    assert len(chunk_paths(tmp_path / "s" / "X")) == len(chunk_paths(tmp_path / "s" / "y")) == 300


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_is_drawn_within_its_range_and_not_constant(tmp_path: Path, dtype: str) -> None:
    synthesize(tmp_path / "s", SynthSpec(5000, 4, dtype=dtype))
    X = read(tmp_path / "s", "X")
    assert X.dtype == np.dtype(dtype)
    assert X.shape == (5000, 4)
    assert np.isfinite(X.astype(np.float64)).all()
    assert (X.astype(np.float64).std(axis=0) > 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_labels_are_not_all_alike_whatever_the_dtype(dtype: str) -> None:
    shares = [
        Population(SynthSpec(4096, 20, dtype=dtype, seed=seed)).rows(0, 4096)[1].mean()
        for seed in range(5)
    ]
    assert 0.05 < min(shares) <= max(shares) < 0.95, shares


def test_a_store_gets_its_name_when_it_is_complete(tmp_path: Path) -> None:
    seen: list[int] = []

    def rows_done(count: int) -> None:
        seen.append(count)
        assert not (tmp_path / "s").exists()
        assert (tmp_path / "s.partial").is_dir()

    synthesize(tmp_path / "s", SynthSpec(20_000, 3, chunk_rows=4096), rows_done=rows_done)
    assert sum(seen) == 20_000
    assert len(seen) == 5
    assert [path.name for path in tmp_path.iterdir()] == ["s"]


def test_what_was_left_half_written_is_replaced_and_never_mixed_in(tmp_path: Path) -> None:
    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path / "s", SynthSpec(20_000, 3, seed=1, chunk_rows=4096), rows_done=stop)
    assert not (tmp_path / "s").exists()
    synthesize(tmp_path / "s", SynthSpec(20_000, 3, seed=2, chunk_rows=4096))
    synthesize(tmp_path / "t", SynthSpec(20_000, 3, seed=2, chunk_rows=4096))
    assert files_of(tmp_path / "s") == files_of(tmp_path / "t")


def test_a_store_that_stands_there_is_kept_unless_told_otherwise(tmp_path: Path) -> None:
    synthesize(tmp_path / "s", SynthSpec(500, 3, seed=1))
    before = files_of(tmp_path / "s")
    with pytest.raises(
        ConfigError, match=r"'.*s' exists already; choose another name, or add overwrite=True"
    ):
        synthesize(tmp_path / "s", SynthSpec(500, 3, seed=2))
    assert files_of(tmp_path / "s") == before

    def stop(count: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synthesize(tmp_path / "s", SynthSpec(500, 3, seed=2), overwrite=True, rows_done=stop)
    assert files_of(tmp_path / "s") == before
    synthesize(tmp_path / "s", SynthSpec(500, 3, seed=2), overwrite=True)
    synthesize(tmp_path / "t", SynthSpec(500, 3, seed=2))
    assert files_of(tmp_path / "s") == files_of(tmp_path / "t")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (SynthSpec(0, 3), "at least one row and one feature; got 0 rows and 3 features"),
        (SynthSpec(3, 0), "got 3 rows and 0 features"),
        (SynthSpec(3, 3, classes=1), "classes must be 2 or more; got 1"),
        (SynthSpec(3, 3, chunk_rows=0), "chunk_rows must be 1 or more; got 0"),
        (SynthSpec(3, 3, dtype="complex64"), "dtype 'complex64' is none of float16"),
        (SynthSpec(3, 3, seed=-1), "seed.*-1"),
        (
            SynthSpec(3, 3, family="gamma"),
            "family 'gamma' is none of logistic, softmax, linear, poisson",
        ),
        (
            SynthSpec(3, 3, family="poisson", classes=3),
            "family poisson draws numbers, not labels; leave out classes=3",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(tmp_path: Path, spec: SynthSpec, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        synthesize(tmp_path / "s", spec)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("n", [1, 4095, 4096, 4097])
def test_stores_of_any_length_are_whole(tmp_path: Path, n: int) -> None:
    spec = SynthSpec(n, 2, chunk_rows=1000)
    synthesize(tmp_path / "s", spec)
    X, y = Population(spec).rows(0, n)
    assert bits(read(tmp_path / "s", "X")) == bits(X)
    assert read(tmp_path / "s", "y").tolist() == y.tolist()
