"""Addresses of other systems: how they are told from paths, and what may be shown of them.

Stores are read from wherever an address leads. What is written, runs and models included, are local
files: a path that begins like an address would else become a folder ``s3:`` here, and nobody would
be told.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from streamlr.errors import ConfigError, RunDirectoryError

HIDDEN = "***"
"""What stands in files and messages for a part of a URL that may be secret."""
_URL = re.compile(r"\s*(?:[a-z][a-z0-9+.-]*::?)+/", re.IGNORECASE)  # a Path makes one slash of two
_FILE = re.compile(r"file:(?://(?:localhost(?=/))?(?=.)|(?!//))(.+)", re.IGNORECASE | re.DOTALL)


_NO_PATH_OF_RUN = (
    "give the directory of a run (run.directory), or where a model was saved (model.save(PATH)); a "
    "model in memory predicts by its own methods, such as model.predict(X)"
)


def is_url(path: str | Path) -> bool:
    """Whether a text is an address, such as ``s3://bucket/a``, and no path."""
    return _URL.match(str(path)) is not None


def local_path(path: str | Path) -> str:
    """The path that a ``file://`` address names; anything else as it is."""
    found = _FILE.fullmatch(str(path)) if is_url(path) else None
    return str(path) if found is None else found[1]


def path_text(given: Any, what: str, remedy: str, kind: type[ConfigError] = ConfigError) -> str:
    """A path as text; whatever else is given where one is wanted is refused, not printed into a
    path.

    Parameters
    ----------
    given
        What is to be a path.
    what, remedy
        How messages name the argument, and what they advise.
    kind
        What is raised.
    """
    if isinstance(given, str | os.PathLike):
        return os.fsdecode(given)
    raise kind(f"{what}: expected a path, got {type(given).__name__}; {remedy}")


def local_output(path: str | Path, what: str) -> Path:
    """Where something is to be written.

    Parameters
    ----------
    path
        A path, or a ``file://`` address.
    what
        How messages name it: an argument, an option or a key.

    Raises
    ------
    ConfigError
        For an address of another system, and for what is no path.
    """
    local = local_path(path_text(path, what, "give the path of a file or folder of this machine"))
    if not is_url(local):
        return Path(local)
    raise ConfigError(
        f"{what}: {_shown(local)!r} is an address, and results are written to local files alone; "
        "give a local path, and copy from there what is to be elsewhere"
    )


def local_run(path: str | Path) -> Path:
    """Where a run or a model is to be read.

    Raises
    ------
    RunDirectoryError
        For an address of another system, and for what is no path.
    """
    local = local_path(path_text(path, "run", _NO_PATH_OF_RUN, RunDirectoryError))
    if not is_url(local):
        return Path(local)
    raise RunDirectoryError(
        f"no run at {_shown(local)!r}: it is an address, and a run is read from local files; copy "
        "it "
        "here first"
    )


def _shown(url: str) -> str:
    """An address without what may be secret, with the slash back that a Path has taken."""
    return public_url(re.sub(r":/(?!/)", "://", url, count=1))


def public_url(store: str) -> str:
    """A path as it is; a URL without user, password and the values of its query."""
    if "://" not in store:
        return store
    parts = re.match(r"([^?#]*)([?#]?)(.*)", store, re.DOTALL)
    assert parts is not None  # it matches anything
    address, mark, query = parts.groups()
    # a password may hold a slash; what is cut too much stays hidden, so everything up to the last @
    # goes where a colon comes before it
    address = re.sub(r"://([^/@]*:.*|[^/@]*)@", f"://{HIDDEN}@", address)
    return (
        address
        + mark
        + re.sub(
            r"(=)[^&#;]*|(?<![^&;])[^=&#;]+(?![^&#;])",
            lambda found: (found[1] or "") + HIDDEN,
            query,
        )
    )
