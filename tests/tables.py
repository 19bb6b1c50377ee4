"""Tables as other people write them, and what `streamlr ingest` makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import zarr
from click.testing import CliRunner
from numpy.typing import NDArray

from streamlr.cli.main import cli
from streamlr.errors import StreamlrError, for_command_line


@dataclass(frozen=True)
class Ingested:
    """The store, and what was said."""

    names: list[str]
    X: NDArray[Any]
    y: NDArray[Any]
    told: str


def write_tables(folder: Path, tables: dict[str, Any]) -> list[Path]:
    """Text, bytes and pyarrow tables under the names of files."""
    for name, content in tables.items():
        if isinstance(content, str):
            (folder / name).write_text(content, encoding="utf-8", newline="")
        elif isinstance(content, bytes):
            (folder / name).write_bytes(content)
        else:
            pyarrow.parquet.write_table(content, folder / name)
    return [folder / name for name in tables]


def ingest_here(folder: Path, tables: Any, *options: str, target: str = "y") -> Ingested:
    """Through the command, whose error is raised as it shows it; ``tables`` is a mapping, or one
    table.

    A str is a CSV file and a pyarrow table a Parquet file.
    """
    if not isinstance(tables, dict):
        tables = {"t.csv" if isinstance(tables, str | bytes) else "t.parquet": tables}
    sources = [str(path) for path in write_tables(folder, tables)]
    store = folder / "s"
    arguments = ["ingest", *sources, str(store), "--target", target, *options]
    try:
        done = CliRunner().invoke(cli, arguments, catch_exceptions=False)
    except StreamlrError as error:
        raise type(error)(for_command_line(error)) from error
    assert done.exit_code == 0, done.output
    group: Any = zarr.open_group(str(store), mode="r")
    names, X, y = (np.asarray(group[name][...]) for name in ("feature_names", "X", "y"))
    return Ingested(names.tolist(), X, y, done.output)


def parquet(**columns: Any) -> Any:
    """A pyarrow table."""
    return pa.table(columns)
