"""The scripts that measure run, and print what they say they print."""

from __future__ import annotations

import importlib.util
import json
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


def run(script: str, *options: str) -> str:
    """Standard output of a script that has to succeed."""
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / script), *options],
        capture_output=True,
        text=True,
        check=False,
    )
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
    out = run(
        "bench.py",
        "--data",
        "tiny",
        "--only",
        *names,
        "--rounds",
        "1",
        "--out",
        str(tmp_path / "out"),
        "--store",
        str(tmp_path / "s.zarr"),
    )
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
    assert [float(value) for value in shown] == pytest.approx(
        [ours["objective"], theirs["objective"]], abs=1e-12
    )


def test_the_overhead_is_printed_for_each_number_of_slabs() -> None:
    head, *rows = run("overhead.py", "--slabs", "200", "--workers", "2").splitlines()
    assert head.split() == ["workers", "slabs", "seconds", "ms", "a", "slab"]
    (row,) = rows
    workers, slabs, seconds, each = row.split()
    assert (workers, slabs) == ("2", "200")
    # both are rounded: seconds to 0.01, so 1000 / 200 of that is 0.025 ms to either side
    assert float(each) > 0
    assert float(each) == pytest.approx(1000 * float(seconds) / 200, abs=0.026)


SELECTED = [
    f"test_{name}*"
    for name in (
        "logistic.py::test_predict_?_classes",
        "logistic.py::test_logistic_glmnet",
        "logistic.py::test_sparsify",
        "logistic.py::test_inconsistent_input",
        "logistic.py::test_write_parameters",
        "logistic.py::test_logistic_regression_solvers[[]",
        "logistic.py::test_logistic_regression_solver_",
        "logistic.py::test_logreg_",
        "logistic.py::test_max_iter",
        "logistic.py::test_dtype_match",
        "logistic.py::test_zero_max_iter",
        "logistic.py::test_c_inf_",
        "logistic.py::test_penalty_none",
        "logistic.py::test_large_sparse_matrix",
        "logistic.py::test_elastic_net_l1_l2",
        "logistic.py::test_l1_ratio",
        "base.py::test_linear_regression_positive",
        "base.py::test_linear_regression_sparse",
        "base.py::test_linear_regression_pd",
        "base.py::test_fit_intercept",
        "glm.py::test_glm_regression[[]*Poisson",
        "glm.py::test_glm_family_argument",
        "glm.py::test_glm_wrong_y_range",
    )
]


@pytest.mark.skipif(
    importlib.util.find_spec("sklearn.linear_model.tests") is None,
    reason="scikit-learn was installed without its tests",
)
def test_scikit_learns_own_tests_pass_but_for_those_that_are_not_followed() -> None:
    head, _, names, *rows = run("sklearn_tests.py", "--only", *SELECTED).splitlines()
    concerned, selected = (
        int(number) for number in re.findall(r"(\d+) of its (\d+) tests", head)[0]
    )
    assert 0 < concerned <= selected
    assert names.split() == ["passed", "expected", "to", "fail", "failed", "skipped"]
    tallies = {row.split()[0]: [int(number) for number in row.split()[1:]] for row in rows[:3]}
    assert list(tallies) == ["test_base.py", "test_glm.py", "test_logistic.py"]
    for passed, expected, failed, _ in tallies.values():
        assert passed > expected
        assert failed == 0
    assert sum(sum(tally) for tally in tallies.values()) == concerned


@pytest.mark.skipif(
    importlib.util.find_spec("sklearn.linear_model.tests") is None,
    reason="scikit-learn was installed without its tests",
)
def test_a_test_of_scikit_learns_that_fails_is_told() -> None:
    done = subprocess.run(
        [
            sys.executable,
            str(SCRIPTS / "sklearn_tests.py"),
            "--strict",
            "--only",
            "*::test_liblinear_with_large_values",
            "*::test_nan",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert (
        "FAILED test_logistic.py::test_liblinear_with_large_values\n      Failed: DID NOT RAISE"
        in done.stdout
    )
    assert re.search(r"test_logistic.py +1 +0 +1 +0", done.stdout)


@pytest.mark.skipif(
    importlib.util.find_spec("sklearn.linear_model.tests") is None,
    reason="scikit-learn was installed without its tests",
)
@pytest.mark.parametrize(
    ("outcomes", "idle"),
    [
        (["passed", "passed"], True),
        (["passed", "failed"], False),
        (["skipped"], False),
        ([], False),
    ],
)
def test_a_reason_is_idle_where_all_its_tests_pass(
    outcomes: list[str], idle: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = importlib.util.spec_from_file_location("sklearn_tests", SCRIPTS / "sklearn_tests.py")
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "sklearn_tests", script)
    spec.loader.exec_module(script)
    pattern = next(iter(script.EXPECTED))
    results = [
        script.Result(pattern.replace("*", f"[{k}]"), outcome, True, "", "")
        for k, outcome in enumerate(outcomes)
    ]
    assert script.idle_patterns(results) == ([pattern] if idle else [])


def test_the_cost_of_a_path_is_told_beside_one_model() -> None:
    head, *rows = run(
        "path_cost.py", "--rows", "3000", "--features", "4", "--turns", "1"
    ).splitlines()
    assert head.split()[:6] == ["seconds", "CPU", "s", "passes", "MB", "ratio"]
    found = {row[:36].strip(): row[36:].split() for row in rows}
    assert list(found) == ["one model", "16 strengths", "4 strengths, all rows and 3 folds"]
    for seconds, cpu, passes, megabytes, ratio, *rest in found.values():
        assert min(float(seconds), float(cpu), float(megabytes)) > 0
        assert float(ratio) == pytest.approx(
            float(seconds) / float(found["one model"][0]), abs=0.5 * (1 + float(ratio))
        )  # of seconds that are rounded
        assert "converged;" in rest
        assert len(rest) - rest.index("converged;") - 1 == int(passes)  # the seconds of each pass


def test_chaos_kills_workers_and_clients_and_finds_the_same_bits() -> None:
    # how long a trial takes beside an undisturbed run is for the machine to say that runs it alone,
    # so no bound here
    lines = run(
        "chaos.py",
        "--kills",
        "4",
        "--rows",
        "20000",
        "--passes",
        "15",
        "--most",
        "inf",
        "--hang",
        "1000",
        "--every",
        "100",
        "--neighbours",
        "1",
    ).splitlines()
    trials = [
        line
        for line in lines
        if re.match(r" *\d+ (threads|processes|held) +(SIG|worker|stopped)", line)
    ]
    kills = [line for line in trials if "no kill" not in line]
    assert len(kills) == 4
    assert all("same bits" in line for line in trials)
    assert sum("undisturbed:" in line for line in lines) == 3 * 2 + 1
    tally = re.match(
        r"4 kills \((.*)\): 4 times the same bits, 0 failed or hung, 0 took more than inf times "
        r"the undisturbed run \(worst [\d.]+\); "
        r"(\d+) came too late",
        lines[-1],
    )
    assert tally is not None, lines[-1]
    assert sum(int(part.split()[-1]) for part in tally[1].split(", ")) == 4
    assert int(tally[2]) == len(trials) - 4


def test_chaos_counts_no_blow_that_struck_nobody(tmp_path: Path) -> None:
    spec = importlib.util.spec_from_file_location("chaos", SCRIPTS / "chaos.py")
    assert spec is not None
    assert spec.loader is not None
    chaos = importlib.util.module_from_spec(spec)
    sys.modules["chaos"] = chaos  # where dataclasses look for it
    spec.loader.exec_module(chaos)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    for kind in (*chaos.CLIENT_SIGNALS, *chaos.ON_WORKERS):
        assert not chaos.strike(ended, kind, random.Random(0))
    with subprocess.Popen(
        [sys.executable, "-c", "import time; time.sleep(2)"]
    ) as alone:  # no worker ever comes, and then it ends
        assert not chaos.strike(alone, "worker", random.Random(0))
    session = chaos.Session(tmp_path, 1, random.Random(0), 2, {"threads": [1.0, 2.0, 30.0, 40.0]})
    trial = chaos.Trial("threads", "SIGKILL", 0.5, 31.0, True, "", 2)
    assert trial.usual(session) == 16.0  # the median of the two before and the two after
    assert chaos.tell(session, [trial], 3.0)
    assert not chaos.tell(session, [trial], 1.9)  # 31 / 16
    assert not chaos.tell(
        session, [chaos.Trial("threads", "SIGKILL", 0.5, 1.0, True, "HUNG for 9 s", 2)], 3.0
    )
