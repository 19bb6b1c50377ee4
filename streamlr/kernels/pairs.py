"""Numbers in twice the working precision: unevaluated sums of two float64, and products of matrices
that are exact.

    a + b = s + e,   s = fl(a + b)          Knuth; Dekker, "A floating-point technique for extending
    the available precision" (1971) a b   = p + e,   p = fl(a b)            Dekker, with Veltkamp's
    split

A product of matrices is had from BLAS without an error (Ozaki, Ogita, Oishi and Rump, "Error-free
transformations of matrix multiplication by using fast routines of matrix multiplication and its
applications", Numerical Algorithms 59, 2012): entries of at most 1 are cut into slices of 20 bits,
and the product of two slices over at most 4,096 terms is an integer of less than 53 bits times a
power of two, which no order of summation rounds. So it has the same bits on every machine.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MOST_TERMS = 4096
"""Of a product of slices that no order of summation rounds."""
SLICES = 5
_BITS = 20
_SPLITTER = 2.0**27 + 1.0


@dataclass(frozen=True, slots=True)
class Pair:
    """``hi + lo`` with ``hi`` the float64 that is nearest to the sum; of any shape, which
    operations broadcast as NumPy does."""

    hi: Array
    lo: Array

    @classmethod
    def of(cls, values: Any) -> Pair:
        """Of numbers of the working precision."""
        hi = np.asarray(values, dtype=np.float64)
        return cls(hi, np.zeros_like(hi))

    @classmethod
    def zeros(cls, *shape: int) -> Pair:
        return cls(np.zeros(shape), np.zeros(shape))

    @property
    def shape(self) -> tuple[int, ...]:
        return self.hi.shape

    def __getitem__(self, key: Any) -> Pair:
        return Pair(np.asarray(self.hi[key]), np.asarray(self.lo[key]))

    def __neg__(self) -> Pair:
        return Pair(-self.hi, -self.lo)

    def __add__(self, other: Pair) -> Pair:
        s, t = two_sum(self.hi, other.hi), two_sum(self.lo, other.lo)
        v = quick_two_sum(s.hi, s.lo + t.hi)
        return quick_two_sum(v.hi, v.lo + t.lo)

    def __sub__(self, other: Pair) -> Pair:
        return self + -other

    def __mul__(self, other: Pair) -> Pair:
        p = two_product(self.hi, other.hi)
        return quick_two_sum(p.hi, p.lo + (self.hi * other.lo + self.lo * other.hi))

    def __truediv__(self, other: Pair) -> Pair:
        first = self.hi / other.hi
        rest = self - other * Pair.of(first)
        second = rest.hi / other.hi
        third = (rest - other * Pair.of(second)).hi / other.hi
        q = quick_two_sum(first, second)
        return quick_two_sum(q.hi, q.lo + third)

    def scaled(self, power: Array | float) -> Pair:
        """Times powers of two, which is exact."""
        return Pair(self.hi * power, self.lo * power)

    def sqrt(self) -> Pair:
        """Of numbers above 0."""
        root = np.sqrt(self.hi)
        rest = self - two_product(root, root)
        return quick_two_sum(root, rest.hi / (2.0 * root))

    def total(self, axis: int = -1) -> Pair:
        """Sum along an axis, by halves: the order depends on the length alone."""
        left = Pair(np.moveaxis(self.hi, axis, 0), np.moveaxis(self.lo, axis, 0))
        if not left.shape[0]:
            return Pair.zeros(*left.shape[1:])
        while (length := left.shape[0]) > 1:
            half = length // 2
            both = left[:half] + left[half : 2 * half]
            odd = left[2 * half :]
            left = Pair(np.concatenate([both.hi, odd.hi]), np.concatenate([both.lo, odd.lo]))
        return left[0]


def two_sum(a: Any, b: Any) -> Pair:
    """``a + b`` without an error."""
    s = a + b
    part = s - a
    return Pair(s, (a - (s - part)) + (b - part))


def quick_two_sum(a: Any, b: Any) -> Pair:
    """``a + b`` without an error, where no ``b`` is larger in size than its ``a``."""
    s = a + b
    return Pair(s, b - (s - a))


def two_product(a: Any, b: Any) -> Pair:
    """``a b`` without an error, but for what falls below the range of float64."""
    p = a * b
    (a1, a2), (b1, b2) = _split(a), _split(b)
    return Pair(p, ((a1 * b1 - p) + a1 * b2 + a2 * b1) + a2 * b2)


def _split(a: Any) -> tuple[Any, Any]:
    """Two halves of 26 bits."""
    wide = _SPLITTER * a
    high = wide - (wide - a)
    return high, a - high


def power_above(sizes: Array) -> Array:
    """The power of two that is at least as large as each size; 1 for 0."""
    return np.ldexp(1.0, np.frexp(sizes)[1])


def slices(values: Pair) -> Array:
    """Numbers of at most 1 in size in slices of 20 bits, (5, ...): their sum is the number, but for
    what is below 2**-100."""
    parts = np.empty((SLICES, *values.shape))
    rest = values.hi.copy()
    for number in range(SLICES):
        if number == 2:  # of the first 53 bits 13 are left: no digit is lost any more
            rest += values.lo
        unit = 2.0 ** (_BITS * (number + 1))
        part = parts[number]
        np.multiply(rest, unit, out=part)
        np.rint(part, out=part)
        part *= 1.0 / unit
        rest -= part
    return parts


def product(A: Array, B: Array) -> Pair:
    """The product of matrices in slices, (5, p, K) and (5, K, q), K at most 4,096: (p, q), but for
    what is below 2**-98 of the sizes' product."""
    if A.shape[2] > MOST_TERMS:
        raise ValueError(
            f"a product over {A.shape[2]} terms would be rounded; {MOST_TERMS} are the most"
        )
    exact = [A[s] @ B[: SLICES - s] for s in range(SLICES)]
    total = Pair.zeros(A.shape[1], B.shape[2])
    for order in reversed(range(SLICES)):
        alike = [exact[s][order - s] for s in range(order + 1)]  # multiples of one power of two
        if SLICES * A.shape[2] <= MOST_TERMS:
            alike = [sum(alike[1:], alike[0])]
        for part in alike:
            total = total + Pair.of(part)
    return total


def cross_product(A: Array, B: Array) -> Pair:
    """Aᵀ B, (p, q), of matrices in slices, (5, K, p) and (5, K, q), K at most 819: the slices that
    make for digits of one size in one product."""
    n_terms = SLICES * A.shape[1]
    if n_terms > MOST_TERMS:
        raise ValueError(
            f"a product over {n_terms} terms would be rounded; {MOST_TERMS} are the most"
        )
    backwards = np.ascontiguousarray(B[::-1])
    total = Pair.zeros(A.shape[2], B.shape[2])
    for order in range(SLICES, 0, -1):
        total = total + Pair.of(
            A[:order].reshape(-1, A.shape[2]).T
            @ backwards[SLICES - order :].reshape(-1, B.shape[2])
        )
    return total


def times(A: Pair, x: Pair) -> Pair:
    """A x, (p,), of a matrix, (p, q), and a vector, (q,)."""
    return (A * x).total(axis=1)
