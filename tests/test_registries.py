"""Solvers, families and engines: an entry of a registry says all that others ask of it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import get_args, get_type_hints

import pytest

from streamlr.config.sections import ClusterConfig, ModelConfig, SolverConfig
from streamlr.execution import ENGINES
from streamlr.kernels.families import FAMILIES
from streamlr.solvers.registry import SOLVERS

PACKAGE = Path(__file__).parents[1] / "streamlr"
ENTRIES = {*SOLVERS, *FAMILIES, *ENGINES}
OWN = {
    "solvers/registry.py",
    "kernels/families/registry.py",
    "execution/registry.py",
    "config/sections.py",  # whose keys these are
}


def choices(section: type, key: str) -> set[str]:
    """What the configuration takes under a key."""
    return set(get_args(get_type_hints(section)[key]))


def test_the_configuration_takes_the_names_of_the_registries() -> None:
    asked = {name for name, kind in SOLVERS.items() if kind.by_name}
    assert choices(SolverConfig, "name") == asked | {"auto"}
    assert choices(ModelConfig, "family") == set(FAMILIES)
    assert choices(ClusterConfig, "kind") == set(ENGINES)


def test_every_entry_stands_under_its_own_name() -> None:
    for registry in (SOLVERS, FAMILIES, ENGINES):
        assert [entry.name for entry in registry.values()] == list(registry)  # type: ignore[attr-defined]


def compared(tree: ast.AST) -> list[tuple[str, int]]:
    """Names of entries that something is compared with, and where."""
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, ast.Compare):
            continue
        for part in (node.left, *node.comparators):
            every = part.elts if isinstance(part, ast.Tuple | ast.List | ast.Set) else [part]
            found += [
                (str(each.value), node.lineno)
                for each in every
                if isinstance(each, ast.Constant) and each.value in ENTRIES
            ]
    return found


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_nobody_else_asks_for_the_name_of_an_entry(path: Path) -> None:
    if str(path.relative_to(PACKAGE)) not in OWN:
        assert not compared(ast.parse(path.read_text(encoding="utf-8")))


def test_the_search_for_names_finds_them() -> None:
    source = (
        'if family == "linear": pass\nif name in ("newton", "x"): pass\nif "threads" != '
        "kind: pass\n"
    )
    assert compared(ast.parse(source)) == [("linear", 1), ("newton", 2), ("threads", 3)]
