"""The files and sessions of docs/extending.md are run as they stand there, and what the files add
is held against what is known otherwise."""

from __future__ import annotations

import doctest
import importlib
import re
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from stores import runner, write_store

import streamlr
from streamlr.cli.main import cli
from streamlr.data.sources import registry as sources
from streamlr.errors import ConfigError, LabelError
from streamlr.execution import registry as engines
from streamlr.kernels.families import registry as families
from streamlr.solvers import registry as solvers

Array = NDArray[np.float64]

PAGE = Path(__file__).parents[1] / "docs" / "extending.md"
TEXT = PAGE.read_text(encoding="utf-8")
FILES = {
    name: textwrap.dedent(code)
    for name, code in re.findall(r"^ *```python (\w+\.py)\n(.*?)^ *```$", TEXT, re.M | re.S)
}
ENTRIES = (
    families.FAMILIES, solvers.SOLVERS, engines.ENGINES,
    sources._stores_from_outside, sources._rows_from_outside,
)  # fmt: skip
ALL = ("auto", "gradient_descent", "lbfgs", "newton", "proximal", "barzilai_borwein")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the page, as somebody would write them."""
    folder = tmp_path_factory.mktemp("extending")
    for name, code in FILES.items():
        (folder / name).write_text(code, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def load(folder: Path) -> Iterator[Callable[[str], Any]]:
    """Imports a file of the page; what is registered is gone after these tests."""
    before = [dict(entries) for entries in ENTRIES]  # type: ignore[call-overload]
    sys.path.insert(0, str(folder))
    yield importlib.import_module
    sys.path.remove(str(folder))
    for name in FILES:
        sys.modules.pop(name.removesuffix(".py"), None)
    for entries, kept in zip(ENTRIES, before, strict=True):
        entries.clear()
        entries.update(kept)  # type: ignore[attr-defined]


def positive_numbers(rows: int = 1500) -> tuple[Array, Array]:
    """Features, (m, 3), and a target, (m,), of the inverse Gaussian distribution."""
    rng = np.random.default_rng(3)
    X = rng.uniform(-1, 1, (rows, 3))
    return X, rng.wald(1 / np.sqrt(2 - 2 * X @ [0.4, -0.3, 0.2]), 2.0)


def by_newton(X: Array, y: Array, omega: Array | float = 1.0, l2: float = 0.0) -> Array:
    """W and b of the inverse Gaussian family, (n + 1,), from its own formulas."""
    rows = np.column_stack([X, np.ones(len(X))])
    omega = np.broadcast_to(omega, y.shape) / np.sum(np.broadcast_to(omega, y.shape))
    ridge = l2 * np.append(np.ones(X.shape[1]), 0.0)
    w = np.append(np.zeros(X.shape[1]), -0.5 / np.average(y, weights=omega) ** 2)
    for _ in range(60):
        mean = (-2 * rows @ w) ** -0.5
        hessian = (rows.T * (omega * mean**3)) @ rows + np.diag(ridge)
        step, length = np.linalg.solve(hessian, rows.T @ (omega * (mean - y)) + ridge * w), 1.0
        while (rows @ (w - length * step)).max() >= 0:
            length /= 2
        w = w - length * step
    return w


def parameters(model: streamlr.Model) -> Array:
    return np.append(model.coef_[0], model.intercept_)


def asked(solver: str = "auto", engine: str = "threads", **model: Any) -> dict[str, Any]:
    """A configuration of the page's own family."""
    passes = {"name": solver, "max_passes": 1000, "tolerance": 1e-10}
    return {
        "model": {"family": "inverse_gaussian", **model},
        "solver": passes,
        "cluster": {"kind": engine, "workers": 2},
    }


# the page ---------------------------------------------------------------------------------------


def test_the_sessions_of_the_page_print_what_it_says(load: Callable[[str], Any]) -> None:
    sessions = "\n".join(re.findall(r"```pycon\n(.*?)```", TEXT, re.S))
    test = doctest.DocTestParser().get_doctest(sessions, {}, PAGE.name, str(PAGE), 0)
    printed: list[str] = []
    outcome = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=printed.append)
    assert outcome.attempted > 30
    assert not outcome.failed, "".join(printed)


def test_every_file_that_registers_does_it_by_its_last_statement() -> None:
    registering = [
        code for code in FILES.values() if "import register" in code or ", register" in code
    ]
    assert len(registering) == 5
    for code in registering:
        assert re.search(r"\nregister\w*\((?:[^\n]*|\n.*\n)\)\n$", code, re.S)


def test_the_readme_leads_to_the_page() -> None:
    assert "docs/extending.md" in (PAGE.parents[1] / "README.md").read_text(encoding="utf-8")


# the family -------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["serial", "threads", "backwards"])
@pytest.mark.parametrize("solver", ALL)
def test_every_solver_finds_the_optimum_of_the_family(
    solver: str, engine: str, load: Callable[[str], Any]
) -> None:
    for name in ("inverse_gaussian", "barzilai_borwein", "backwards"):
        load(name)
    X, y = positive_numbers()
    result = streamlr.train(asked(solver, engine), X=X, y=y)
    assert result.status == "converged"
    np.testing.assert_allclose(parameters(result.model), by_newton(X, y), rtol=0, atol=1e-8)


def test_the_family_takes_weights_and_a_penalty(load: Callable[[str], Any]) -> None:
    load("inverse_gaussian")
    X, y = positive_numbers()
    omega = np.random.default_rng(0).uniform(0, 2, len(y))
    result = streamlr.train(asked(penalty={"l2": 0.05}), X=X, y=y, sample_weight=omega)
    expected = by_newton(X, y, omega, 0.05)
    np.testing.assert_allclose(parameters(result.model), expected, rtol=0, atol=1e-8)


def test_a_run_of_the_family_is_scored_summed_up_and_resumed(
    tmp_path: Path, load: Callable[[str], Any]
) -> None:
    load("inverse_gaussian")
    X, y = positive_numbers()
    store, run = str(tmp_path / "s.zarr"), str(tmp_path / "run")
    write_store(Path(store), X, y, (400, 3))
    config = asked("lbfgs") | {"data": {"store": store}, "run": {"directory": run}}
    stopped = streamlr.train(config, overrides=["solver.max_passes=4"])
    assert stopped.status == "pass_limit"
    model = streamlr.train(config, resume=True).model
    alone = streamlr.train(asked("lbfgs"), X=X, y=y).model
    np.testing.assert_allclose(parameters(model), parameters(alone), rtol=0, atol=1e-8)

    mean = (-2 * (X @ model.coef_[0] + model.intercept_)) ** -0.5
    scores = streamlr.evaluate(run, store)
    assert scores["mean_squared_error"] == pytest.approx(np.mean((y - mean) ** 2), rel=1e-12)
    assert streamlr.predict(run, store, tmp_path / "p.zarr") == len(y)
    written = zarr.open_array(str(tmp_path / "p.zarr"), mode="r")[...]
    np.testing.assert_allclose(written, mean, rtol=1e-12)

    found = streamlr.summary(run)
    deviance = np.sum((y - mean) ** 2 / (mean**2 * y))
    assert found.deviance == pytest.approx(deviance, rel=1e-10)
    assert found.dispersion == pytest.approx(deviance / (len(y) - 4), rel=1e-10)
    assert found.log_likelihood is None
    assert found.aic is None
    rows = np.column_stack([np.ones(len(y)), X])
    covariance = found.dispersion * np.linalg.inv((rows.T * mean**3) @ rows)
    np.testing.assert_allclose(found.covariance, covariance, rtol=1e-6)
    assert re.search(r"dispersion +0\.\d+", str(found))


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_a_path_of_the_family_ends_at_what_train_finds(
    alpha: float, load: Callable[[str], Any]
) -> None:
    load("inverse_gaussian")
    X, y = positive_numbers()
    config = asked() | {"path": {"alpha": alpha, "lambdas": [0.1, 0.02], "folds": 3}}
    result = streamlr.path(config, X=X, y=y)
    assert result.summary["status"] == "converged"
    chosen = result.summary["lambda"]
    penalty = {"l1": alpha * chosen, "l2": (1 - alpha) * chosen}
    alone = streamlr.train(asked(penalty=penalty), X=X, y=y)
    np.testing.assert_allclose(parameters(result.model), parameters(alone.model), rtol=0, atol=1e-8)


def test_the_family_is_that_of_statsmodels(load: Callable[[str], Any]) -> None:
    statsmodels = pytest.importorskip("statsmodels.api")
    load("inverse_gaussian")
    X, y = positive_numbers()
    glm = statsmodels.GLM(
        y, np.column_stack([X, np.ones(len(y))]), family=statsmodels.families.InverseGaussian()
    ).fit(tol=1e-14, maxiter=200)
    result = streamlr.train(asked(), X=X, y=y)
    np.testing.assert_allclose(parameters(result.model), glm.params / -2, rtol=0, atol=1e-8)


def test_a_target_that_is_not_positive_is_refused_by_row(load: Callable[[str], Any]) -> None:
    load("inverse_gaussian")
    X, y = positive_numbers(50)
    y[7] = 0.0
    with pytest.raises(LabelError, match=r"row 7 has the target 0.*numbers above 0"):
        streamlr.train(asked(), X=X, y=y)


def test_worker_processes_import_what_the_script_imports(folder: Path) -> None:
    script = """
        import numpy as np, streamlr, inverse_gaussian
        if __name__ == "__main__":
            X = np.random.default_rng(0).uniform(-1, 1, (400, 2))
            y = 1.0 + X[:, 0] ** 2
            for kind in ("serial", "processes"):
                config = {"model": {"family": "inverse_gaussian"}, "cluster": {"kind": kind, "workers": 1}}
                print(streamlr.train(config, X=X, y=y).model.coefficients_sha256)
    """
    (folder / "script.py").write_text(textwrap.dedent(script))
    command = [sys.executable, "script.py"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert len(set(done.stdout.split())) == 1


def test_the_command_line_takes_it_through_a_script_of_two_lines(
    folder: Path, tmp_path: Path
) -> None:
    X, y = positive_numbers(200)
    write_store(tmp_path / "s.zarr", X, y, (100, 3))
    settings = [f"data.store={tmp_path / 's.zarr'}", "model.family=inverse_gaussian"]
    (tmp_path / "c.yaml").write_text("{}")
    arguments = ["train", "--config", str(tmp_path / "c.yaml"), "--run-dir", str(tmp_path / "run")]
    arguments += [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "my_streamlr.py", *arguments]
    subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    assert (tmp_path / "run" / "model.zarr").is_dir()


# names ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "known"),
    [
        ("model.family", "logistic, softmax, linear, poisson"),
        ("solver.name", "auto, gradient_descent, lbfgs, newton, proximal"),
        ("cluster.kind", "serial, threads, processes, address"),
    ],
)
def test_a_name_that_nobody_has_registered_is_refused_as_ever(key: str, known: str) -> None:
    with pytest.raises(ConfigError, match=f"^{key}: 'nothing' is none of {known}"):
        streamlr.load_config({}, [f"{key}=nothing"])


def test_a_model_of_a_family_that_is_not_there_says_what_to_import(tmp_path: Path) -> None:
    X, y = positive_numbers(50)
    model = streamlr.train({"model": {"family": "linear"}}, X=X, y=y).model
    replace(model, family="gamma").save(tmp_path / "m.zarr")
    with pytest.raises(ConfigError, match=r"no family 'gamma' is known .*import the module"):
        streamlr.load_model(tmp_path / "m.zarr").predict(X)


def test_names_of_the_package_stay_its_own() -> None:
    with pytest.raises(ConfigError, match="the family linear is one of streamlr's own"):
        families.register(families.FAMILIES["linear"])
    with pytest.raises(ConfigError, match="the solver newton is one of streamlr's own"):
        solvers.register(solvers.SOLVERS["newton"])
    with pytest.raises(ConfigError, match="the engine serial is one of streamlr's own"):
        engines.register(engines.ENGINES["serial"])


# the others -------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ["serial", "threads", "backwards"])
def test_a_folder_of_files_gives_the_bits_of_a_store(
    engine: str, tmp_path: Path, load: Callable[[str], Any]
) -> None:
    load("npy_folder")
    load("backwards")
    rng = np.random.default_rng(1)
    X = rng.standard_normal((1100, 4)).astype(np.float32)
    y = np.array(["no", "yes"])[(X[:, 0] + rng.standard_normal(1100) > 0).astype(int)]
    write_store(tmp_path / "s.zarr", X, y, (250, 4))
    (tmp_path / "f").mkdir()
    for block, start in enumerate(range(0, 1100, 250)):
        np.save(tmp_path / "f" / f"X-{block:05}.npy", X[start : start + 250])
        np.save(tmp_path / "f" / f"y-{block:05}.npy", y[start : start + 250])
    digests = [
        streamlr.train({"data": {"store": str(tmp_path / name)}, "cluster": {"kind": kind}})
        .model.coefficients_sha256
        for name, kind in (("f", engine), ("s.zarr", "serial"))
    ]  # fmt: skip
    assert digests[0] == digests[1]


def test_a_folder_of_files_is_planned_and_refuses_what_it_does_not_hold(
    tmp_path: Path, load: Callable[[str], Any]
) -> None:
    load("npy_folder")
    np.save(tmp_path / "X-00000.npy", np.ones((10, 2)))
    np.save(tmp_path / "y-00000.npy", np.arange(10) % 2)
    (tmp_path / "c.yaml").write_text(f"data: {{store: {tmp_path}}}")
    done = runner().invoke(cli, ["plan", "--config", str(tmp_path / "c.yaml"), "--json"])
    assert done.exit_code == 0, done.output
    with pytest.raises(ConfigError, match="features and a target alone"):
        streamlr.train({"data": {"store": str(tmp_path), "weights": "w"}})


def test_a_registered_solver_is_resumed_to_the_bit(
    tmp_path: Path, load: Callable[[str], Any]
) -> None:
    load("inverse_gaussian")
    load("barzilai_borwein")
    X, y = positive_numbers()
    config = asked("barzilai_borwein")
    whole = streamlr.train(config, X=X, y=y)
    kept = config | {"run": {"directory": str(tmp_path / "run")}}
    streamlr.train(kept, X=X, y=y, overrides=["solver.max_passes=4"])
    resumed = streamlr.train(kept, X=X, y=y, resume=True)
    assert resumed.passes == whole.passes > 4
    assert resumed.model.coefficients_sha256 == whole.model.coefficients_sha256


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"model": {"penalty": {"l1": 0.1}}}, "barzilai_borwein"),
        (
            {"path": {"folds": 0}},
            "a path is fitted by auto, lbfgs or proximal, not barzilai_borwein",
        ),
    ],
)
def test_what_a_registered_solver_cannot_do_is_refused_by_its_name(
    section: dict[str, Any], message: str, load: Callable[[str], Any]
) -> None:
    load("barzilai_borwein")
    X, y = positive_numbers(50)
    fit = streamlr.path if "path" in section else streamlr.train
    with pytest.raises(ConfigError, match=message):
        fit({"solver": {"name": "barzilai_borwein"}, **section}, X=X, y=y > 1)


def test_the_concave_penalty_ends_where_its_own_equations_hold(load: Callable[[str], Any]) -> None:
    mcp = load("mcp")
    rng = np.random.default_rng(2)
    X = rng.standard_normal((500, 6))
    y = X @ [2.0, -1.0, 0.25, 0.2, 0.0, 0.0] + rng.standard_normal(500)
    strength, gamma = 0.12, 3.0
    model, _ = mcp.fit(X, y, "linear", strength, gamma)
    w = model.coef_[0]
    slope = X.T @ (X @ w + model.intercept_ - y) / len(y)
    tangent = np.sign(w) * np.maximum(strength - np.abs(w) / gamma, 0.0)
    zero = w == 0
    assert 0 < zero.sum() < 6
    np.testing.assert_allclose(slope[~zero], -tangent[~zero], rtol=0, atol=1e-8)
    assert (np.abs(slope[zero]) <= strength + 1e-8).all()
    assert ((tangent != 0) & ~zero).any()  # some coefficient is where the penalty still bends
