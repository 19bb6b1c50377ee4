"""What one look at the data tells before any model is fitted: moments, the target's co-moments, and
a sample of rows.

Means and centred sums of squares of two sets of rows are joined as in Chan, Golub and LeVeque,
"Updating formulae and a pairwise algorithm for computing sample variances" (1979); no digits are
lost when a mean is far larger than a spread. The gradient at a model of intercepts alone follows
from them without another look:

    sum(ω (a - Y) (X - mean)) = -comoment         for any constant activation a

Rows that are held out of the fit have no part in the moments and are not drawn; of them it is the
targets' mean that is told.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from streamlr.kernels.alignment import Basis, aligned_features
from streamlr.kernels.batch import Batch, Workspace, sum_over_leaves
from streamlr.kernels.columns import Columns
from streamlr.kernels.families import FAMILIES
from streamlr.kernels.hessian import hessian_leaf_rows
from streamlr.kernels.scans.fold_sums import PartScan, PartSums
from streamlr.kernels.split import Split, hashed, split_keys
from streamlr.kernels.strata import strata_of

Array = NDArray[np.float64]
_ROWS_SPLIT_AT_ONCE = 65_536
_LEAST_SQUARES = 1e-250
"""Below, squares lose their digits to the range of float64."""


@dataclass(frozen=True, slots=True)
class SampledRows:
    """Some rows of the data, in the order in which they stand there."""

    X: NDArray[np.generic]
    """Features, (s, n), one row an example, in the data's own type."""
    columns: Columns
    """What stands beside them. The groups are the keys by which `streamlr.kernels.split` tells the
    part of each row, its group or its absolute number; None where nobody asked."""

    @property
    def weights(self) -> Array | None:
        """Sample weights, (s,)."""
        return self.columns.weights

    def every(self, step: int) -> SampledRows:
        """One row of so many."""
        return SampledRows(self.X[::step], self.columns.part(slice(None, None, step)))


@dataclass(frozen=True, slots=True)
class HoldoutSums:
    """What the statistics pass tells of those of some rows that are held out: a commutative monoid,
    but for the digest."""

    n_rows: int
    """Rows that are held out."""
    weight_sum: float
    """Their weight."""
    target_mean: Array
    """Weighted mean of their Y, (c,); 0 where there is no weight."""
    target_square_sum: Array
    """Weighted sum of squares of their Y about its mean, (c,)."""
    digest: bytes
    """Of which rows are held out, in the order of the rows."""

    def __add__(self, other: HoldoutSums) -> HoldoutSums:
        weight = self.weight_sum + other.weight_sum
        share = other.weight_sum / weight if weight > 0 else 0.0
        apart = other.target_mean - self.target_mean
        return HoldoutSums(
            self.n_rows + other.n_rows,
            weight,
            self.target_mean + share * apart,
            self.target_square_sum + other.target_square_sum + self.weight_sum * share * apart**2,
            digest(self.digest, other.digest),
        )

    @classmethod
    def of(cls, out: NDArray[np.bool_], Y: Array, omega: Array) -> HoldoutSums:
        """Of some rows, of which those marked in (k,) are held out; their Y, (c, k), and weights,
        (k,)."""
        Y, omega = Y[:, out], omega[out]
        weight = float(omega.sum())
        mean = Y @ omega / weight if weight > 0 else np.zeros(len(Y))
        return cls(
            len(omega), weight, mean, (Y - mean[:, None]) ** 2 @ omega, check_sums(np.packbits(out))
        )


@dataclass(frozen=True, slots=True)
class MomentSums:
    """Moments of some rows, but those that are held out: a commutative monoid, but for the order of
    the sampled rows, which is that of the data."""

    n_rows: int
    """Rows summed, with those that are held out."""
    weight_sum: float
    """Weight of the others."""
    mean: Array
    """Weighted mean of the features, (n,)."""
    square_sum: Array
    """Weighted sum of squares about the mean, (n,)."""
    target_mean: Array
    """Weighted mean of Y, (c,)."""
    comoment: Array
    """Weighted sum of (X - mean)(Y - target_mean)ᵀ, (n, c)."""
    sample: tuple[SampledRows, ...]
    """Rows drawn, block after block."""
    fingerprint: bytes
    """Digest of every bit of features, labels, weights and offset, in the order of the rows, with
    those that are held out."""
    target_square_sum: Array
    """Weighted sum of squares of Y about its mean, (c,)."""
    offset_mean: float
    """Weighted mean of the offset; 0 where there is none."""
    holdout: HoldoutSums | None = None
    """The same of the rows that are held out; None where none are to be."""
    groups_digest: bytes = b""
    """Of the groups that deal the rows out to folds, in the order of the rows; empty where none do.
    """
    cross: Array | None = None
    """Weighted sum of (X - mean)(X - mean)ᵀ, (n, n); None where it was not asked for."""
    parts: PartSums | None = None
    """Moments of the parts of the rows; None where nobody asks for them."""

    @property
    def finite_check(self) -> Array:
        return self.square_sum

    def __add__(self, other: MomentSums) -> MomentSums:
        weight = self.weight_sum + other.weight_sum
        holdout = (
            None if self.holdout is None or other.holdout is None else self.holdout + other.holdout
        )
        groups = digest(self.groups_digest, other.groups_digest) if self.groups_digest else b""
        parts = None if self.parts is None or other.parts is None else self.parts + other.parts
        if (
            self.weight_sum == 0 or other.weight_sum == 0
        ):  # moments of no weight mean nothing, and must not cost the others digits
            known = other if self.weight_sum == 0 else self
            return replace(
                known,
                n_rows=self.n_rows + other.n_rows,
                weight_sum=weight,
                sample=self.sample + other.sample,
                fingerprint=digest(self.fingerprint, other.fingerprint),
                holdout=holdout,
                groups_digest=groups,
                parts=parts,
            )
        share = other.weight_sum / weight
        common = self.weight_sum * share
        with np.errstate(
            invalid="ignore", over="ignore"
        ):  # non-finite data show in the sums, and are looked for there
            by_feature = other.mean - self.mean
            by_target = other.target_mean - self.target_mean
            cross = None
            if self.cross is not None and other.cross is not None:
                cross = self.cross + other.cross
                cross += np.outer(common * by_feature, by_feature)
            return MomentSums(
                self.n_rows + other.n_rows,
                weight,
                self.mean + share * by_feature,
                self.square_sum + other.square_sum + common * by_feature**2,
                self.target_mean + share * by_target,
                self.comoment + other.comoment + common * np.outer(by_feature, by_target),
                self.sample + other.sample,
                digest(self.fingerprint, other.fingerprint),
                self.target_square_sum + other.target_square_sum + common * by_target**2,
                self.offset_mean + share * (other.offset_mean - self.offset_mean),
                holdout,
                groups,
                cross,
                parts,
            )


@dataclass(frozen=True, slots=True)
class MomentScan:
    """Asks for the moments, and for a sample of rows."""

    reads_features = True
    reads_target = True

    classes: NDArray[np.generic]
    """The sorted labels; none where the target is a number."""
    sample_fraction: float
    """Share of the rows to draw, 0 to 1."""
    seed: int
    """Seed of the draw."""
    family: str = "logistic"
    """Name of the family."""
    split: Split | None = None
    """Tells which rows are held out, where some are."""
    keyed: bool = False
    """Whether the sampled rows are to come with the keys of their parts."""
    products: bool = False
    """Whether the features' products with one another are wanted."""
    basis: Basis | None = None
    """The features that the moments are to be of, less their shift, where they are not those of the
    data."""
    fractions: tuple[float, ...] = ()
    """Share of the rows of each stratum to draw, in the place of the same of all (see
    `streamlr.kernels.strata`)."""
    parts: PartScan | None = None
    """Asks for the moments of the parts, where somebody does."""

    def sums(self, batch: Batch, leaf_rows: int, workspace: Workspace) -> MomentSums:
        """The sums over a batch: its leaves, added from first to last."""
        rows = hessian_leaf_rows(leaf_rows, batch.X.shape[0], 1) if self.products else leaf_rows
        total = sum_over_leaves(batch, rows, lambda leaf: self._leaf_sums(batch, leaf, workspace))
        if rows != leaf_rows:
            total = self._with_digests(total, batch, leaf_rows)
        return replace(total, sample=self._draw(batch))

    def _with_digests(self, total: MomentSums, batch: Batch, leaf_rows: int) -> MomentSums:
        """With the digests that there are without products, whose leaves are others: who compares
        data need not know how they were fitted."""
        leaves = list(batch.leaves(leaf_rows))
        holdout = total.holdout
        if holdout is not None and self.split is not None:
            holdout = replace(
                holdout,
                digest=reduce(
                    digest,
                    (check_sums(np.packbits(self.split.holdout(batch, leaf))) for leaf in leaves),
                ),
            )
        return replace(
            total,
            fingerprint=reduce(digest, (_fingerprint(batch, leaf) for leaf in leaves)),
            holdout=holdout,
            groups_digest=reduce(digest, (self._groups_digest(batch, leaf) for leaf in leaves))
            if total.groups_digest
            else b"",
        )

    def _groups_digest(self, batch: Batch, leaf: slice) -> bytes:
        return (
            b""
            if batch.groups is None or not self.keyed
            else check_sums(np.ascontiguousarray(batch.groups[leaf]).view(np.uint8))
        )

    def _leaf_sums(self, batch: Batch, leaf: slice, workspace: Workspace) -> MomentSums:
        assert batch.target is not None
        Y = FAMILIES[self.family].target(
            batch.target[leaf], self.classes, batch.first_row + leaf.start
        )
        weights, beside = batch.weights_of(leaf), batch.offset_of(leaf)
        k = Y.shape[1]
        omega, holdout = np.ones(k) if weights is None else weights, None
        if self.split is not None:
            out = self.split.holdout(batch, leaf)
            holdout = HoldoutSums.of(out, Y, omega)
            omega = np.where(out, 0.0, omega)
        weight_sum = float(omega.sum())
        with np.errstate(
            invalid="ignore", over="ignore"
        ):  # non-finite data show in the sums, and are looked for there
            parts = (
                None if self.parts is None else self._part_sums(batch, leaf, Y, omega, workspace)
            )
            target_mean = Y @ omega / weight_sum if weight_sum > 0 else np.zeros(len(Y))
            Y -= target_mean[:, None]
            block = batch.X[:, leaf]
            moments = None
            if weights is None and weight_sum > 0:
                moments = _moments_about_zero(
                    aligned_features(workspace, block, None, self.basis), Y, omega
                )
            if moments is None:
                moments = _moments_about_a_row(
                    aligned_features(workspace, block, None, self.basis), Y, omega, weight_sum
                )
            mean, square_sum, comoment = moments
            cross, quadratic = None, FAMILIES[self.family].quadratic
            if self.products:
                centred = workspace.cast(block, mean)
                if quadratic:  # the equations of least squares: all of it about the same means
                    comoment = centred @ (Y * omega).T
                cross = _products_about_mean(centred, omega)
                square_sum = np.diag(cross).copy() if quadratic else square_sum
            target_square_sum = Y**2 @ omega
        offset_mean = (
            0.0 if beside is None or weight_sum == 0 else float(beside @ omega / weight_sum)
        )
        return MomentSums(
            k,
            weight_sum,
            mean,
            square_sum,
            target_mean,
            comoment,
            (),
            _fingerprint(batch, leaf),
            target_square_sum,
            offset_mean,
            holdout,
            self._groups_digest(batch, leaf),
            cross,
            parts,
        )

    def _part_sums(
        self, batch: Batch, leaf: slice, Y: Array, omega: Array, workspace: Workspace
    ) -> PartSums:
        """Of each part by itself: about what all rows share, what is constant in a part would not
        be."""
        assert self.parts is not None
        by_row = batch.X[:, leaf].T

        def moments(rows: NDArray[np.intp]) -> tuple[Array, Array]:
            X, ours, no_target = by_row[rows].T, omega[rows], np.empty((0, len(rows)))
            found = None
            if batch.weights is None:
                found = _moments_about_zero(workspace.cast(X), no_target, ours)
            if found is None:
                found = _moments_about_a_row(workspace.cast(X), no_target, ours, float(ours.sum()))
            return found[0], found[1]

        return self.parts.sums(batch, leaf, Y, omega, FAMILIES[self.family], moments)

    def _draw(self, batch: Batch) -> tuple[SampledRows, ...]:
        assert batch.target is not None
        is_drawn, factors = self._drawn_of_strata(batch)
        drawn = np.flatnonzero(is_drawn)
        if self.split is not None and len(
            drawn
        ):  # by leaves: what it takes to tell is several times as long as what it tells
            drawn = drawn[
                ~np.concatenate(
                    [self.split.holdout(batch, leaf) for leaf in batch.leaves(_ROWS_SPLIT_AT_ONCE)]
                )[drawn]
            ]
        if not len(drawn):
            return ()
        weights = None if batch.weights is None else batch.weights[drawn]
        if factors is not None:
            weights = factors[drawn] if weights is None else weights * factors[drawn]
        keys = split_keys(batch)[drawn] if self.keyed else None
        columns = replace(batch.columns.part(drawn), weights=weights, groups=keys)
        return (SampledRows(np.ascontiguousarray(batch.X[:, drawn].T), columns),)

    def _drawn_of_strata(self, batch: Batch) -> tuple[NDArray[np.bool_], Array | None]:
        """Which rows belong to the sample, (k,), and what their weights are multiplied by, (k,), if
        by anything."""
        assert batch.target is not None
        n_rows = batch.X.shape[1]
        if not self.fractions or not 0.0 < self.sample_fraction < 1.0:
            return row_is_drawn(batch.first_row, n_rows, self.sample_fraction, self.seed), None
        strata = strata_of(self.family, batch.target, self.classes, batch.first_row)
        drawn, factors = np.zeros(n_rows, dtype=bool), np.ones(n_rows)
        for fraction in sorted(set(self.fractions)):
            here = np.array([one == fraction for one in self.fractions])[strata]
            drawn |= here & row_is_drawn(batch.first_row, n_rows, fraction, self.seed)
            factors[here] = self.sample_fraction / fraction
        return drawn, factors


def _moments_about_zero(X: Array, Y: Array, omega: Array) -> tuple[Array, Array, Array] | None:
    """Mean, centred sum of squares and co-moment of (n, k) with Y, (c, k), about its mean; rows
    weigh 1 or, held out, 0; overwrites ``X``.

    The square of the mean is taken off at the end, which costs four digits of sixteen at most where
    the mean is not far from zero beside the spread; None where it is.
    """
    weight = float(omega.sum())
    total = X @ omega
    comoment = X @ (Y * omega).T
    about_zero = np.multiply(X, X, out=X) @ omega
    about_mean = about_zero - total**2 / weight
    near_zero = (about_mean >= 1e-4 * about_zero) & ((about_zero > _LEAST_SQUARES) | (total == 0))
    return (total / weight, about_mean, comoment) if near_zero.all() else None


def _moments_about_a_row(
    X: Array, Y: Array, omega: Array, weight_sum: float
) -> tuple[Array, Array, Array]:
    """The same, weighted, at any mean, for two walks more; overwrites ``X``.

    A constant column keeps an exact mean and a centred sum of exactly zero when it is centred about
    a value of its own.
    """
    origin = X[:, int(np.argmax(omega > 0))].copy()
    X -= origin[:, None]
    offset = X @ (omega / weight_sum) if weight_sum > 0 else np.zeros(len(origin))
    weightless = omega == 0
    if weightless.any():
        X[:, weightless] = 0.0  # after the sums above, which tell whether all values are finite
    comoment = X @ (Y * omega).T
    X -= offset[:, None]
    X[:, weightless] = 0.0
    return origin + offset, np.multiply(X, X, out=X) @ omega, comoment


def _products_about_mean(X: Array, omega: Array) -> Array:
    """Weighted sum of x xᵀ, (n, n), of (n, k) less its mean; overwrites ``X``."""
    if not (omega == 1.0).all():
        X *= np.sqrt(omega)
    products: Array = (
        X @ X.T
    )  # NumPy hands a product with its own transpose to a symmetric rank-k update: half the work
    return products


def digest(*parts: bytes) -> bytes:
    """A digest of the parts in their order, 16 bytes."""
    return hashlib.blake2b(b"".join(parts), digest_size=16).digest()


def _fingerprint(batch: Batch, leaf: slice) -> bytes:
    """Of a leaf: what `check_sums` makes of its arrays.

    Equal bytes of another type have the same, and equal values of another type do not: a run
    compares the type beside it, for blocks, and with them the order of the sums, depend on the
    bytes of a value.
    """
    assert batch.target is not None
    beside = [batch.weights_of(leaf), batch.offset_of(leaf)]
    arrays = [
        batch.X[:, leaf].T,
        batch.target[leaf],
        *(array for array in beside if array is not None),
    ]
    return digest(
        *(check_sums(np.ascontiguousarray(array).reshape(-1).view(np.uint8)) for array in arrays)
    )


def check_sums(content: NDArray[np.uint8]) -> bytes:
    """A digest of bytes at the speed of memory: sums of 64-bit words along the rows and the columns
    of a square of them.

    Any change of one word shows in a row and a column, a swap of two in four of them. (A CRC took a
    third of the statistics pass.)
    """
    words = content[: content.size - content.size % 8].view(np.uint64)
    width = max(1, int(np.sqrt(words.size)))
    whole = words[: words.size - words.size % width].reshape(-1, width)
    return digest(
        whole.sum(axis=0, dtype=np.uint64).tobytes(),
        whole.sum(axis=1, dtype=np.uint64).tobytes(),
        words[whole.size :].tobytes(),
        content[8 * words.size :].tobytes(),
    )


def row_is_drawn(first_row: int, n_rows: int, fraction: float, seed: int) -> NDArray[np.bool_]:
    """Which of the rows ``first_row``, ``first_row + 1``, ... belong to the sample: (n_rows,).

    A row is drawn when a hash of its absolute number (splitmix64; Steele, Lea and Flood 2014) falls
    below the fraction, so that the sample depends on neither chunks nor engines, and the order of
    the rows cannot bias it.
    """
    if not 0.0 < fraction < 1.0:
        return np.full(n_rows, fraction > 0.0)
    return hashed(np.arange(first_row, first_row + n_rows, dtype=np.uint64), seed) < np.uint64(
        int(fraction * 2.0**64)
    )


def locate_non_finite(X: NDArray[np.generic]) -> tuple[int, int, int] | None:
    """How many entries of (n, k) are not finite, and (example, feature) of the first by example;
    None where all are finite."""
    if X.dtype.kind != "f":
        return None
    bad = ~np.isfinite(X)
    count = int(np.count_nonzero(bad))
    if count == 0:
        return None
    example = int(np.argmax(bad.any(axis=0)))
    return count, example, int(np.argmax(bad[:, example]))
