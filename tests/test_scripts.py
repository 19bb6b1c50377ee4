"""The scripts that measure run, and print what they say they print."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


def run(script: str, *options: str) -> str:
    """Standard output of a script that has to succeed."""
    done = subprocess.run([sys.executable, str(SCRIPTS / script), *options], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_vectorisation_takes_the_same_step_four_ways_and_prints_their_times() -> None:
    lines = run("vectorization", "--rows", "2000", "--features", "5").splitlines()
    assert lines[0] == "one step on 2,000 rows of 5 float32 features"
    assert lines[1].split() == ["seconds", "speed-up"]
    found = {line[:24].strip(): line[24:].split() for line in lines[2:]}
    assert list(found) == ["two loops", "one loop", "vectorised", "streamlr, from a store"]
    assert found["two loops"][1] == "1x"
    for seconds, ratio in found.values():
        assert float(seconds) >= 0
        assert re.fullmatch(r"\d+x", ratio)


def test_the_benchmark_prints_a_table_and_both_reach_one_optimum(tmp_path: Path) -> None:
    names = ["streamlr, streaming", "scikit-learn newton-cholesky"]
    out = run("bench.py", "--data", "tiny", "--only", *names, "--rounds", "1", "--out", str(tmp_path / "out"), "--store", str(tmp_path / "s.zarr"))
    lines = out.splitlines()
    assert re.fullmatch(r"20,000 x 10 float32, lz4, \d+ cores, median of 1", lines[0])
    results = json.loads((tmp_path / "out" / "tiny-lz4.json").read_text(encoding="utf-8"))
    assert list(results) == ["read, zarr-python", "read, streamlr", *names]
    for name, found in results.items():
        assert "error" not in found, f"{name}: {found}"
        assert found["seconds"] > 0
        assert found["runs"] == 1
        assert found["peak_memory_bytes"] > 10 * 2**20
        assert any(line.startswith(name) for line in lines)
    ours, theirs = (results[name] for name in names)
    assert ours["status"] == "converged"
    assert ours["passes"] >= 2
    for found in (ours, theirs):
        assert found["gradient_max"] <= 1e-6
    # convex: f - f* <= |g|^2 / (2 mu), so at gradients of 1e-6 objectives differ by rounding alone
    assert ours["objective"] == pytest.approx(theirs["objective"], abs=1e-11)
    shown = [line.split()[-2] for line in lines if line.startswith(tuple(names))]
    assert [float(value) for value in shown] == pytest.approx([ours["objective"], theirs["objective"]], abs=1e-12)


def test_the_overhead_is_printed_for_each_number_of_slabs() -> None:
    head, *rows = run("overhead.py", "--slabs", "200", "--workers", "2").splitlines()
    assert head.split() == ["workers", "slabs", "seconds", "ms", "a", "slab"]
    (row,) = rows
    workers, slabs, seconds, each = row.split()
    assert (workers, slabs) == ("2", "200")
    # both are rounded: seconds to 0.01, so 1000 / 200 of that is 0.025 ms to either side
    assert float(each) > 0
    assert float(each) == pytest.approx(1000 * float(seconds) / 200, abs=0.026)


def test_the_cost_of_a_path_is_told_beside_one_model() -> None:
    head, *rows = run("path_cost.py", "--rows", "3000", "--features", "4", "--turns", "1").splitlines()
    assert head.split()[:6] == ["seconds", "CPU", "s", "passes", "MB", "ratio"]
    found = {row[:36].strip(): row[36:].split() for row in rows}
    assert list(found) == ["one model", "16 strengths", "4 strengths, all rows and 3 folds"]
    for seconds, cpu, passes, megabytes, ratio, *rest in found.values():
        assert min(float(seconds), float(cpu), float(megabytes)) > 0
        assert float(ratio) == pytest.approx(float(seconds) / float(found["one model"][0]), abs=0.5 * (1 + float(ratio)))  # of seconds that are rounded
        assert "converged;" in rest
        assert len(rest) - rest.index("converged;") - 1 == int(passes)  # the seconds of each pass


def test_chaos_kills_workers_and_clients_and_finds_the_same_bits() -> None:
    *trials, tally, kinds = run("chaos.py", "--kills", "6", "--rows", "20000", "--passes", "15").splitlines()
    assert len([line for line in trials if "same bits" in line]) == 6
    assert tally.startswith("6 kills: 6 times the same bits, 0 failed, ")
    assert sum(int(part.split()[-1]) for part in kinds.split(", ")) == 6
