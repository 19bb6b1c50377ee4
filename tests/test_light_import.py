"""Importing streamlr, and asking its commands for help, loads little: who waits for a prompt does
not wait for libraries that are not needed yet."""

from __future__ import annotations

import subprocess
import sys

import pytest

import streamlr
from streamlr.cli.main import COMMANDS

_LOADED = (
    "import sys; before = set(sys.modules); {code}; "
    "names = {{name.partition('.')[0] for name in set(sys.modules) - before}}; "
    "print(*sorted(names - set(sys.stdlib_module_names) - {{'streamlr'}}), file=sys.stderr)"
)
_HELP = (
    "from click.testing import CliRunner; from streamlr.cli.main import cli; "
    "assert CliRunner().invoke(cli, {arguments}).exit_code == 0"
)


def loaded_by(code: str) -> set[str]:
    """Libraries that a fresh process has loaded after some code."""
    done = subprocess.run(
        [sys.executable, "-c", _LOADED.format(code=code)],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return set(done.stderr.split())


def test_the_import_loads_no_library() -> None:
    assert loaded_by("import streamlr, streamlr.errors, streamlr.events") == set()


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"]], ids=str)
def test_help_loads_the_command_line_alone(arguments: list[str]) -> None:
    assert loaded_by(_HELP.format(arguments=arguments)) <= {"click", "tqdm", "colorama"}


def test_what_loads_the_libraries_is_the_first_use() -> None:
    assert {"numpy", "zarr", "dask"} <= loaded_by("import streamlr; streamlr.train")
    assert "sklearn" in loaded_by("import streamlr; streamlr.LogisticRegression")
    assert "sklearn" not in loaded_by("import streamlr; streamlr.train")


def test_every_public_name_is_listed_and_found() -> None:
    assert {*streamlr.__all__, "errors", "events", "__version__"} <= set(dir(streamlr))
    assert all(getattr(streamlr, name) is getattr(streamlr, name) for name in streamlr.__all__)
    with pytest.raises(AttributeError, match="module 'streamlr' has no attribute 'fit'"):
        _ = streamlr.fit


def test_every_command_has_a_module_of_its_own() -> None:
    homes = {command.name: command.callback.__module__ for command in COMMANDS if command.callback}
    assert homes == {name: f"streamlr.cli.{name}" for name in homes}
