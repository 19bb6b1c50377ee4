"""The one order in which sums are added, and that nobody can change it."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
from batches import batch_of
from hypothesis import given
from hypothesis import strategies as st

from streamlr.execution.engine import sum_tree
from streamlr.kernels.batch import sum_over_leaves
from streamlr.kernels.fold import fold


@dataclass(frozen=True, slots=True)
class Term:
    """A member of the free magma: its text shows every pair of brackets, so two equal texts were
    added in the same order."""

    text: str

    def __add__(self, other: Term) -> Term:
        return Term(f"({self.text}+{other.text})")


def terms(count: int) -> list[Term]:
    return [Term(str(i)) for i in range(count)]


def tree(nodes: list[Term], first: int, width: int) -> Term:
    """The definition, top down: node [first, first + width) is its left half plus its right half,
    if there is one."""
    if width == 1:
        return nodes[first]
    half = width // 2
    left = tree(nodes, first, half)
    return left if first + half >= len(nodes) else left + tree(nodes, first + half, half)


def whole(nodes: list[Term]) -> Term:
    return tree(nodes, 0, 1 << (len(nodes) - 1).bit_length())


def grouped(nodes: list[Any], group: int) -> list[Any]:
    return [fold(nodes[at : at + group]) for at in range(0, len(nodes), group)]


@given(count=st.integers(1, 300))
def test_the_fold_is_the_binary_tree_over_the_block_numbers(count: int) -> None:
    assert fold(terms(count)) == whole(terms(count))


@given(count=st.integers(1, 300), exponents=st.lists(st.integers(0, 9), max_size=4))
def test_groups_of_aligned_powers_of_two_nested_in_any_way_add_in_the_same_order(
    count: int, exponents: list[int]
) -> None:
    nodes = terms(count)
    for k in exponents:
        nodes = grouped(nodes, 2**k)
    assert fold(nodes) == whole(terms(count))


@given(
    values=st.lists(
        st.floats(allow_nan=False, allow_infinity=False, width=32), min_size=1, max_size=200
    ),
    k=st.integers(0, 9),
)
def test_sums_of_floats_have_the_same_bits_for_every_slab_size(values: list[float], k: int) -> None:
    nodes = [np.float64(value) for value in values]
    assert fold(grouped(nodes, 2**k)).tobytes() == fold(nodes).tobytes()


def compute(
    tasks: dict[Hashable, tuple[Any, ...]], key: Hashable, leaves: dict[Hashable, Term]
) -> Term:
    if key in leaves:
        return leaves[key]
    call, keys = tasks[key]
    value: Term = call([compute(tasks, inner, leaves) for inner in keys])
    return value


@given(count=st.integers(1, 600), k=st.integers(0, 4))
def test_the_shallow_tree_of_tasks_adds_slabs_in_the_order_of_the_fold(count: int, k: int) -> None:
    slabs = grouped(terms(count), 2**k)
    shallow = sum_tree([("slab", i) for i in range(len(slabs))], "name")
    assert compute(
        shallow.tasks, shallow.root, {("slab", i): slab for i, slab in enumerate(slabs)}
    ) == whole(terms(count))


@pytest.mark.parametrize("slabs", [1, 7, 8, 9, 64, 1000, 4097])
def test_the_shallow_tree_costs_a_seventh_of_a_task_for_each_slab(slabs: int) -> None:
    levels = max(1, int(np.ceil(np.log(slabs) / np.log(8) - 1e-9)))
    # 1/8 + 1/64 + ... = 1/7, and every level may be rounded up by one
    assert len(sum_tree(list(range(slabs)), "name").tasks) <= slabs / 7 + levels


def test_terms_are_left_as_they_were() -> None:
    arrays = [np.arange(3.0) + i for i in range(5)]
    copies = [array.copy() for array in arrays]
    fold(arrays)
    assert all((a == b).all() for a, b in zip(arrays, copies, strict=True))


@given(count=st.integers(1, 2000))
def test_at_most_one_partial_sum_for_each_level_is_held(count: int) -> None:
    alive = most = 0

    class Counted:
        def __init__(self) -> None:
            nonlocal alive, most
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

        def __add__(self, other: Counted) -> Counted:
            return Counted()

    fold(Counted() for _ in range(count))
    # log2(count) + 1 partial sums, the node that has just come in, the sum of two, and the
    # generator's own
    assert most <= count.bit_length() + 4


@pytest.mark.parametrize("leaves", [1, 2, 7])
def test_the_leaves_of_a_block_are_added_from_first_to_last_and_let_go_of(leaves: int) -> None:
    """A Hessian may take gigabytes, so what lives beside the sum so far is one leaf's, or the sum
    with it."""
    living = 0
    most: list[int] = []

    class Counted:
        def __init__(self, text: str) -> None:
            nonlocal living
            living += 1
            most.append(living)
            self.text = text

        def __add__(self, other: Counted) -> Counted:
            return Counted(f"({self.text}+{other.text})")

        def __del__(self) -> None:
            nonlocal living
            living -= 1

    def leaf_sums(leaf: slice) -> Counted:
        most.append(living + 1)  # the sum so far, and what the leaf's own is made of
        return Counted(str(leaf.start))

    batch = batch_of(0, np.empty((1, leaves)), None, None)
    total = sum_over_leaves(batch, 1, leaf_sums)
    expected = "0"
    for leaf in range(1, leaves):
        expected = f"({expected}+{leaf})"
    assert total.text == expected
    assert max(most) == (1 if leaves == 1 else 3)  # the sum so far, the leaf, and both together
    assert living == 1


def test_a_fold_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to add up: a fold needs at least one node"):
        fold([])
