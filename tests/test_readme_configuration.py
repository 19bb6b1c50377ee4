"""The configuration that the README shows serves every command: what is said for one of them is
nothing to the others."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from stores import runner, two_class_data, write_store

import streamlr
from streamlr.cli.main import cli
from streamlr.config.sections import load_config
from streamlr.errors import ConfigError

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


@pytest.fixture
def config(tmp_path: Path) -> str:
    """The README's own YAML, of a store of a few rows."""
    (text,) = re.findall(r"```yaml\n(data:.*?)```", README, re.DOTALL)
    assert "\npath:" in text
    write_store(tmp_path / "s", *two_class_data(), (100, 6))
    (tmp_path / "c.yaml").write_text(text.replace("data/quickstart.zarr", str(tmp_path / "s")))
    return str(tmp_path / "c.yaml")


ASKED = [
    ["model.penalty.l2=0.1"],
    ["model.penalty.l1=0.01"],
    ["solver.name=newton"],
    ["solver.name=gradient_descent"],
    ["validation.fraction=0.1"],
    ["path.alpha=0.5", "solver.name=lbfgs"],
    ["path.folds=5", "model.penalty.l2=1"],
    ["path=null"],
    [],
]


@pytest.mark.parametrize("asked", ASKED)
def test_train_and_plan_take_no_notice_of_the_section_of_a_path(
    asked: list[str], config: str, tmp_path: Path
) -> None:
    settings = [part for each in ["solver.max_passes=3", *asked] for part in ("--set", each)]
    done = runner().invoke(
        cli, ["train", "--config", config, "--run-dir", str(tmp_path / "run"), *settings]
    )
    assert done.exit_code == 0, done.output
    alone = [each for each in asked if not each.startswith("path")]
    without = streamlr.train(
        {"data": {"store": str(tmp_path / "s")}}, overrides=["solver.max_passes=3", *alone]
    )
    assert (
        json.loads((tmp_path / "run" / "summary.json").read_text())["coefficients_sha256"]
        == without.model.coefficients_sha256
    )
    assert (
        streamlr.train(
            config, overrides=["run.directory=null", "solver.max_passes=3", *asked]
        ).model.coefficients_sha256
        == without.model.coefficients_sha256
    )
    done = runner().invoke(cli, ["plan", "--config", config, "--json", *settings])
    assert done.exit_code == 0, done.output
    # a plan is one of a path where that could be asked for
    assert json.loads(done.stdout)["models"] == (1 if alone or asked == ["path=null"] else 100)


@pytest.mark.parametrize("asked", [each for each in ASKED if each and each != ["path=null"]])
def test_a_path_refuses_what_it_cannot_mean(asked: list[str], config: str, tmp_path: Path) -> None:
    settings = [part for each in asked for part in ("--set", each)]
    done = runner().invoke(
        cli, ["path", "--config", config, "--run-dir", str(tmp_path / "run"), *settings]
    )
    assert isinstance(done.exception, ConfigError)
    assert not (tmp_path / "run").exists()
    for make in (
        lambda: load_config(config, asked),
        lambda: streamlr.path(config, overrides=asked),
    ):
        with pytest.raises(ConfigError):
            make()


def test_a_section_that_is_no_path_is_told_by_whatever_command(config: str) -> None:
    tree: Any = {"path": {"fold": 3}}
    for make in (
        lambda: load_config(tree, with_path=False),
        lambda: load_config(config, ["path.count=many"], with_path=None),
    ):
        with pytest.raises(ConfigError, match=r"path\.(fold|count)"):
            make()
