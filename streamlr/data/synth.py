"""Stores with known coefficients, of any size: features correlated and of different scales, targets
drawn from the model.

    x_j = mean_j + scale_j (L f + 0.6 e)_j      five common factors f; scales spread over four
    decades z   = wᵀ x + b P(y = 1) = sigmoid(z)                       logistic; P(y = k) =
    softmax(z)_k for more than two classes y ~ N(z, 1)                                 linear y ~
    Poisson(exp z)                          poisson, of a third of the signal, so that counts stay
    small

Rows are drawn in fixed blocks of 4096, each from a generator of its own (Philox, keyed by seed and
block), so that the values depend on the seed and the row alone: not on chunks, threads, or how many
rows follow.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from streamlr.config.places import local_output
from streamlr.data.writing import (
    Compressor,
    StoreWriter,
    chunk_rows_for,
    create_array,
    put,
    write_names,
)
from streamlr.errors import ConfigError, either
from streamlr.kernels.families import FAMILIES

Array = NDArray[np.float64]

_BLOCK_ROWS = 4096
_FACTORS = 5
_UNSIGNED_OFFSET = 64.0
_DECADES = {"float16": 0.5, "float32": 2.0, "float64": 2.0}
DTYPES = ("float16", "float32", "float64", "int8", "int16", "int32", "uint8", "bool")


@dataclass(frozen=True, slots=True)
class SynthSpec:
    """What to draw."""

    rows: int
    """m."""
    features: int
    """n."""
    classes: int = 2
    """Number of labels."""
    dtype: str = "float32"
    """Type of the features."""
    seed: int = 0
    """Seed of everything random."""
    chunk_rows: int | None = None
    """Rows of a chunk; None: as many as measured best."""
    compressor: Compressor = "lz4"
    """Compression of the chunks."""
    sample_axis: int = 0
    """Axis of the examples."""
    family: str = "logistic"
    """Family of the model; ``logistic`` of more than two classes is ``softmax``."""

    @property
    def outputs(self) -> int:
        """Rows of coefficients."""
        return (
            self.classes
            if self.labelled and (self.classes > 2 or FAMILIES[self.family].coupled)
            else 1
        )

    @property
    def labelled(self) -> bool:
        return FAMILIES[self.family].labelled

    @property
    def target_dtype(self) -> np.dtype[Any]:
        if self.labelled:
            return np.dtype(np.int8 if self.classes < 128 else np.int32)
        return np.dtype(np.int64 if FAMILIES[self.family].counted else np.float64)

    def check(self) -> None:
        if self.rows < 1 or self.features < 1:
            raise ConfigError(
                f"a store needs at least one row and one feature; got {self.rows} rows and "
                f"{self.features} features"
            )
        if self.family not in FAMILIES:
            raise ConfigError(
                f"{either('--family', 'family')} {self.family!r} is none of {', '.join(FAMILIES)}"
            )
        if self.classes < 2:
            raise ConfigError(
                f"{either('--classes', 'classes')} must be 2 or more; got {self.classes}"
            )
        if self.classes > 2 and not self.labelled:
            raise ConfigError(
                f"{either('--family', 'family')} {self.family} draws numbers, not labels; leave "
                "out "
                f"{either(f'--classes {self.classes}', f'classes={self.classes}')}"
            )
        if self.chunk_rows is not None and self.chunk_rows < 1:
            raise ConfigError(
                f"{either('--chunk-rows', 'chunk_rows')} must be 1 or more; got {self.chunk_rows}"
            )
        if self.seed < 0:
            raise ConfigError(f"{either('--seed', 'seed')} must be 0 or more; got {self.seed}")
        if self.dtype not in DTYPES:
            raise ConfigError(
                f"{either('--dtype', 'dtype')} {self.dtype!r} is none of {', '.join(DTYPES)}"
            )


class Population:
    """The distribution of the rows: what `synth` draws from."""

    def __init__(self, spec: SynthSpec) -> None:
        rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([spec.seed, 0])))
        n, outputs = spec.features, spec.outputs
        self._spec = spec
        self._floating = spec.dtype.startswith("float")
        decades = _DECADES.get(spec.dtype, 0.0)
        self.scale = (
            10.0 ** rng.uniform(-decades, decades, n) if self._floating else np.full(n, 12.0)
        )
        self.mean = self.scale * rng.uniform(-1.0, 1.0, n)
        self._loadings = rng.standard_normal((_FACTORS, n)) * (0.8 / np.sqrt(_FACTORS))
        spread_of_score = FAMILIES[spec.family].signal / np.sqrt(n)
        spread = np.full(n, 0.5) if spec.dtype == "bool" else self.scale
        self.coefficients: Array = rng.standard_normal((outputs, n)) * spread_of_score / spread
        self._offset = _UNSIGNED_OFFSET if np.dtype(spec.dtype).kind == "u" else 0.0
        center = np.full(n, 0.5) if spec.dtype == "bool" else self.mean + self._offset
        self.intercept: Array = rng.standard_normal(outputs) * 0.3 - self.coefficients @ center

    def rows(self, start: int, stop: int) -> tuple[NDArray[Any], NDArray[Any]]:
        """Features, (stop - start, n), and targets of a range of rows."""
        first, last = start // _BLOCK_ROWS, -(-stop // _BLOCK_ROWS)
        parts = [self._block(block) for block in range(first, last)]
        here = slice(start - first * _BLOCK_ROWS, stop - first * _BLOCK_ROWS)
        return np.concatenate([X for X, _ in parts])[here], np.concatenate([y for _, y in parts])[
            here
        ]

    def _block(self, block: int) -> tuple[NDArray[Any], NDArray[Any]]:
        rng = np.random.Generator(
            np.random.Philox(np.random.SeedSequence([self._spec.seed, 1, block]))
        )
        n = self._spec.features
        X = rng.standard_normal((_BLOCK_ROWS, n), dtype=np.float32)
        X *= np.float32(0.6)
        X += rng.standard_normal((_BLOCK_ROWS, _FACTORS), dtype=np.float32) @ self._loadings.astype(
            np.float32
        )
        X *= self.scale.astype(np.float32)
        X += self.mean.astype(np.float32)
        stored = self._stored(X)
        Z = stored.astype(np.float64) @ self.coefficients.T + self.intercept
        return stored, FAMILIES[self._spec.family].draw(rng, Z)

    def _stored(self, X: NDArray[np.float32]) -> NDArray[Any]:
        dtype = np.dtype(self._spec.dtype)
        if dtype.kind == "b":
            return X > 0
        if dtype.kind in "iu":
            limits = np.iinfo(dtype)
            X = np.clip(
                np.rint(X + np.float32(self._offset)),
                max(limits.min, -(2.0**23)),
                min(limits.max, 2.0**23),
            )
        return X.astype(dtype)


def synthesize(
    path: str | Path,
    spec: SynthSpec,
    *,
    overwrite: bool = False,
    threads: int = 2,
    rows_done: Callable[[int], None] = lambda rows: None,
) -> None:
    """Write a store of synthetic data, chunk after chunk.

    Parameters
    ----------
    path
        Where the store is to be.
    spec
        What to draw.
    overwrite
        Whether to replace a store that stands there.
    threads
        Chunks drawn and written at a time; does not change a bit.
    rows_done
        Called with the number of rows that have just been written.
    """
    path = local_output(path, either("STORE", "path"))
    spec.check()
    with StoreWriter(path, overwrite=overwrite) as writer:
        _draw(writer, spec, threads, rows_done)
        writer.commit()


def _draw(
    writer: StoreWriter, spec: SynthSpec, threads: int, rows_done: Callable[[int], None]
) -> None:
    """Write the arrays of a store in the making."""
    population = Population(spec)
    dtype = np.dtype(spec.dtype)
    chunk = min(spec.rows, spec.chunk_rows or chunk_rows_for(spec.features, dtype.itemsize))
    group = writer.start(
        {
            "made_by": "streamlr synth",
            "seed": spec.seed,
            "family": spec.family,
            **({"classes": spec.classes} if spec.labelled else {}),
        }
    )
    across = spec.sample_axis == 0
    X = create_array(
        group,
        "X",
        (spec.rows, spec.features) if across else (spec.features, spec.rows),
        (chunk, spec.features) if across else (spec.features, chunk),
        dtype,
        spec.compressor,
    )
    y = create_array(group, "y", (spec.rows,), (chunk,), spec.target_dtype, spec.compressor)
    for name, truth in (
        ("true_coefficients", population.coefficients),
        ("true_intercept", population.intercept),
    ):
        put(
            group,
            create_array(group, name, truth.shape, truth.shape, np.float64, "none"),
            slice(None),
            truth,
        )
    write_names(group, [f"x{j}" for j in range(spec.features)])
    unit = chunk * max(
        1, -(-_BLOCK_ROWS // chunk)
    )  # whole chunks, and no block drawn more than twice

    def write(start: int) -> int:
        stop = min(start + unit, spec.rows)
        features, targets = population.rows(start, stop)
        here = slice(start, stop)
        put(
            group,
            X,
            here if across else (slice(None), here),
            features if across else np.ascontiguousarray(features.T),
        )
        put(group, y, here, targets.astype(y.dtype))
        return stop - start

    with ThreadPoolExecutor(threads) as pool:
        for count in pool.map(write, range(0, spec.rows, unit)):
            rows_done(count)
