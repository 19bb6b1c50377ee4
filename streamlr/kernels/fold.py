"""The one order in which sums are added.

Blocks are numbered 0, 1, 2, ... A node of the tree covers the blocks ``[i 2^l, (i + 1) 2^l)``; its
value is the value of its left half plus that of its right half, or the left half alone where the
right one lies past the end. The order depends on the number of blocks and on nothing else, so
whoever adds, wherever, in whatever groups of aligned 2^k blocks, obtains the same bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol, Self, TypeVar


class Sums(Protocol):
    """A member of a commutative monoid, whose ``+`` returns a new value and leaves both terms as
    they were."""

    def __add__(self, other: Self) -> Self: ...


S = TypeVar("S", bound=Sums)


def fold(nodes: Iterable[S]) -> S:
    """Add consecutive nodes of one level in the order of the tree.

    The first node must be a left child at every level that the fold spans: that is, start at an
    aligned position. At most log2(count) + 1 partial sums are held at a time.

    Raises
    ------
    ValueError
        For no nodes at all.
    """
    partial: list[tuple[int, S]] = []
    for node in nodes:
        level = 0
        while partial and partial[-1][0] == level:
            node = partial.pop()[1] + node
            level += 1
        partial.append((level, node))
    if not partial:
        raise ValueError("nothing to add up: a fold needs at least one node")
    total = partial.pop()[1]
    while partial:
        total = partial.pop()[1] + total
    return total
