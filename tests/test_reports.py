"""Metrics as a person meets them: the lines and tables of the command, and its pictures."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from click.testing import CliRunner

import streamlr
from streamlr.cli import evaluate as evaluate_module
from streamlr.cli import main as cli_main
from streamlr.errors import ConfigError, for_command_line
from streamlr.events import Event, ScanStarted
from streamlr.kernels.metrics.classification import class_metrics, class_sums
from streamlr.kernels.metrics.regression import regression_metrics, regression_sums
from streamlr.model import Model
from streamlr.reporting.metrics import metric_lines
from streamlr.reporting.plots import check_plot, plot_metrics

HOSTILE = ["a\x1b[31m", "b\nrows 7", "c$x^2$\x07"]


def report_of(labels: list[Any], seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    C, rows = len(labels), 400
    Z = rng.normal(size=(C, rows))
    A = np.exp(Z) / np.exp(Z).sum(axis=0)
    Y = np.eye(C)[rng.integers(0, C, rows)].T
    return class_metrics(
        class_sums(Z, Y, -np.log((A * Y).sum(axis=0))[None], A, np.ones(rows)), labels
    )


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a store and a model of its two labels."""
    folder = tmp_path_factory.mktemp("place")
    rng = np.random.default_rng(0)
    group = zarr.open_group(str(folder / "s.zarr"), mode="w", zarr_format=2)
    X = rng.standard_normal((300, 2))
    group.create_array("X", data=X)
    group.create_array(
        "y", data=np.array(HOSTILE[:2])[(X[:, 0] + rng.standard_normal(300) > 0).astype(int)]
    )
    Model(np.array([[1.0, 0.0]]), np.zeros(1), np.array(HOSTILE[:2])).save(folder / "m.zarr")
    return folder


def evaluated(place: Path, *arguments: str) -> Any:
    return CliRunner().invoke(
        cli_main.cli, ["evaluate", str(place / "m.zarr"), str(place / "s.zarr"), *arguments]
    )


# Lines


def test_every_number_and_every_table_is_shown(place: Path) -> None:
    metrics = streamlr.evaluate(place / "m.zarr", str(place / "s.zarr"))
    shown = evaluated(place).output
    for name, value in metrics.items():
        if isinstance(value, int | float):
            assert re.search(rf"^{name} +{re.escape(f'{value:.10g}')}$", shown, re.MULTILINE), name
    for title in (
        "classes",
        "confusion matrix, true by predicted",
        "calibration of the probability, uniform bins",
        "lift, from the highest",
    ):
        assert f"\n\n{title}" in shown
    cells = [
        [float(cell.replace(",", "")) for cell in line.split()]
        for line in shown.rstrip().splitlines()[-10:]
    ]
    np.testing.assert_allclose(
        cells, [list(row.values()) for row in metrics["lift"]], rtol=1e-5
    )  # six digits are shown


@pytest.mark.parametrize("labels", [HOSTILE, HOSTILE[:2]])
def test_labels_steer_neither_the_terminal_nor_the_table(labels: list[str]) -> None:
    shown = "\n".join(metric_lines(report_of(labels)))
    assert "\\x1b[31m" in shown
    assert not set(re.findall(r"[^\n\x20-\x7e]", shown))
    assert "\nrows 7" not in shown


@pytest.mark.parametrize("C", [11, 60])
def test_of_many_classes_the_lines_stay_few(C: int) -> None:
    lines = list(metric_lines(report_of(list(range(C)))))
    assert max(map(len, lines)) < 120
    assert len(lines) < 90
    assert not any("confusion" in line for line in lines)
    assert any(line == f"({C - 30} more classes: --json has them all)" for line in lines) == (
        C > 30
    )


def test_what_is_not_known_is_shown_as_a_dash() -> None:
    rng = np.random.default_rng(0)
    Z = rng.normal(size=(1, 9))
    lines = list(
        metric_lines(
            regression_metrics(
                regression_sums(Z, np.ones((1, 9)), Z**2, Z, np.ones(9), counts=False)
            )
        )
    )
    assert [line for line in lines if line.startswith("r2 ")] == [f"{'r2':29} -"]
    assert len(lines) == 6


# Pictures


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "p.pdf",
            r"'.*p\.pdf' is no name of a picture that can be drawn: it must end in \.png or \.svg",
        ),
        ("absent/p.png", "folder '.*absent' of the picture"),
        ("folder.png", "is a folder; choose another name"),
    ],
)
def test_a_picture_that_cannot_be_written_is_refused_before_the_data_are_read(
    name: str, words: str, place: Path, tmp_path: Path
) -> None:
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(ConfigError, match=words):
        check_plot(str(tmp_path / name))


def test_without_matplotlib_a_plot_is_refused_by_the_name_of_the_extra(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        sys.modules, "matplotlib", None
    )  # as Python marks a module that cannot be imported
    done = evaluated(place, "--plot", str(tmp_path / "p.png"))
    assert isinstance(done.exception, ConfigError)
    assert re.fullmatch(
        r"a plot needs matplotlib, which is not installed: pip install 'streamlr\[plot\]', or "
        r"leave out --plot",
        for_command_line(done.exception),
    )
    assert evaluated(place).exit_code == 0


@pytest.mark.parametrize("suffix", ["png", "svg"])
@pytest.mark.parametrize(
    "labels", [[0, 1], HOSTILE, list(range(40))], ids=["two", "three", "forty"]
)
def test_a_picture_is_drawn_whole_and_the_same_each_time(
    labels: list[Any], suffix: str, tmp_path: Path
) -> None:
    pytest.importorskip("matplotlib")
    drawn = []
    for _ in range(2):
        plot_metrics(report_of(labels), str(tmp_path / f"p.{suffix}"))
        drawn.append((tmp_path / f"p.{suffix}").read_bytes())
    assert drawn[0] == drawn[1]
    assert drawn[0].startswith(b"\x89PNG" if suffix == "png" else b"<?xml")
    assert [path.name for path in tmp_path.iterdir()] == [f"p.{suffix}"]
    if suffix == "svg":
        assert not re.search(rb"[\x00-\x08\x0b-\x1f]", drawn[0])
        assert (b"ROC curve" in drawn[0]) == (len(labels) == 2)


def test_a_picture_can_be_drawn_where_only_one_class_is_left(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    Z = np.random.default_rng(0).normal(size=(1, 50))
    A = 1 / (1 + np.exp(-Z))
    plot_metrics(
        class_metrics(class_sums(Z, np.zeros((1, 50)), A, A, np.ones(50)), [0, 1]),
        str(tmp_path / "p.svg"),
    )
    assert (tmp_path / "p.svg").exists()


def test_the_command_draws_in_the_pass_that_it_makes_and_prints_as_without(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("matplotlib")
    scans: list[Event] = []
    console = evaluate_module.Console
    monkeypatch.setattr(
        evaluate_module,
        "Console",
        lambda quiet: lambda event: (scans.append(event), console(quiet=quiet)(event)),
    )
    done = evaluated(place, "--plot", str(tmp_path / "p.png"), "--json")
    assert done.exit_code == 0, done.output
    assert sum(isinstance(event, ScanStarted) for event in scans) == 1
    assert (tmp_path / "p.png").read_bytes().startswith(b"\x89PNG")
    assert done.stdout == evaluated(place, "--json").stdout
