"""What must give the same bits does, and bits that were stored come again where the arithmetic is
that of then."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "golden.py"


def load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("golden", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


golden = load()


@pytest.fixture(scope="module")
def digests() -> dict[str, str]:
    found: dict[str, str] = golden.digests()
    return found


def test_every_scenario_has_a_digest(digests: dict[str, str]) -> None:
    assert not {name: found for name, found in digests.items() if ":" in found}


@pytest.mark.parametrize("family", golden.FAMILIES)
@pytest.mark.parametrize("solver", golden.SOLVERS)
def test_every_engine_gives_the_bits_of_the_serial_one(
    digests: dict[str, str], family: str, solver: str
) -> None:
    assert len({digests[f"{family} / {solver} / {engine}"] for engine in golden.ENGINES}) == 1


@pytest.mark.parametrize("family", golden.FAMILIES)
def test_a_resumed_run_gives_the_bits_of_an_unbroken_one(
    digests: dict[str, str], family: str
) -> None:
    assert digests[f"{family} / resumed"] == digests[f"{family} / auto / serial"]


@pytest.mark.parametrize(
    "name",
    [
        "layout zarr 2",
        "layout sharded",
        "layout chunked features",
        "resident rows",
        "arrays in memory",
    ],
)
def test_layouts_of_the_same_rows_in_memory_give_the_same_bits(
    digests: dict[str, str], name: str
) -> None:
    assert digests[name] == digests["layout zarr 3"]


def test_bits_are_those_that_were_stored(digests: dict[str, str]) -> None:
    stored = json.loads(golden.STORED.read_text(encoding="utf-8"))
    if stored["arithmetic"] != golden.arithmetic():
        pytest.skip("the stored digests were made with another NumPy or another processor")
    other = {
        name: (digest[:12], digests.get(name, "-")[:12])
        for name, digest in stored["digests"].items()
        if digests.get(name) != digest
    }
    assert not other, (
        "if the bits are meant to be others, say so in CHANGELOG.md and run scripts/golden.py "
        "--write"
    )
