"""Metadata that hold something else than they may are told in a line, whatever stands in them; they
never end in a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr
from stores import put, runner, two_class_data, write_store

import streamlr
from streamlr.cli.main import cli
from streamlr.errors import DataError, DtypeError

NO_MAPPINGS = [[], [1], ["a", "b"], [["a", 1]], 3, 1.5, "x", True]


def with_attributes(folder: Path, zarr_format: int, where: str, attributes: Any) -> dict[str, Any]:
    """The configuration of a store of which one node has these attributes."""
    X, y = two_class_data()
    write_store(folder / "s", X, y, (100, 6), zarr_format=zarr_format, weights=np.ones(400))
    put(zarr.open_group(str(folder / "s"), mode="r+"), "feature_names", np.array(list("abcdef")))
    if zarr_format == 3:
        path = folder / "s" / where / "zarr.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "attributes": attributes}))
    else:
        (folder / "s" / where / ".zattrs").write_text(json.dumps(attributes))
    return {
        "data": {"store": str(folder / "s"), "weights": "weights"},
        "solver": {"max_passes": 2},
        "cluster": {"kind": "serial"},
    }


def taken_for_a_mapping(store: Path, where: str) -> bool:
    """Whether Zarr makes a mapping of what is none, as it does from 3.4 on of lists of pairs, and
    of none."""
    try:
        group = zarr.open_group(str(store), mode="r")
        return isinstance((group[where] if where else group).metadata.attributes, dict)
    except Exception:
        return False


@pytest.mark.parametrize("attributes", NO_MAPPINGS, ids=repr)
@pytest.mark.parametrize("where", ["", "X", "y", "weights", "feature_names"])
@pytest.mark.parametrize("zarr_format", [2, 3])
def test_attributes_that_are_no_mapping_are_refused(
    zarr_format: int, where: str, attributes: Any, tmp_path: Path
) -> None:
    config = with_attributes(tmp_path, zarr_format, where, attributes)
    if taken_for_a_mapping(tmp_path / "s", where):
        assert streamlr.train(config).summary["rows"] == 400
        return
    message = "no Zarr group at "
    if where:
        message = (
            rf"the attributes of '{where}' \(.*\) in '.*s' are a "
            rf"{type(attributes).__name__} .*must be a mapping of names .*zarr\.json or \.zattrs"
        )
    with pytest.raises(DataError, match=message):
        streamlr.train(config)
    done = runner().invoke(cli, ["info", str(tmp_path / "s"), "--set", "data.weights=weights"])
    assert isinstance(done.exception, DataError)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_no_attributes_at_all_and_such_as_mean_nothing_are_fine(
    zarr_format: int, tmp_path: Path
) -> None:
    for where, attributes in (
        ("X", {}),
        ("y", {"a": [1, None]}),
        ("", {}),
        ("feature_names", {}),
        *([("X", None)] if zarr_format == 3 else []),
    ):
        assert (
            streamlr.train(with_attributes(tmp_path, zarr_format, where, attributes)).summary[
                "rows"
            ]
            == 400
        )


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_an_array_that_is_brought_by_hand_is_looked_at_too(
    zarr_format: int, tmp_path: Path
) -> None:
    with_attributes(tmp_path, zarr_format, "X", [1])
    try:
        array = zarr.open_array(str(tmp_path / "s" / "X"), mode="r")
    except (TypeError, ValueError):
        pytest.skip("this Zarr opens no such array, so that nobody can bring one")
    for fit in (streamlr.LogisticRegression().fit, lambda X, y: streamlr.train({}, X=X, y=y)):
        with pytest.raises(
            DtypeError,
            match=r"the attributes of the array are a list \(\[1\]\), and must be a mapping",
        ):
            fit(array, two_class_data()[1])


def damaged(change: Callable[[dict[str, Any]], object], path: Path) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def test_a_model_with_such_metadata_is_told(tmp_path: Path) -> None:
    X, y = two_class_data()
    model = streamlr.train({"model": {"penalty": {"l2": 1}}}, X=X, y=y).model
    for where in ("", "coef"):
        for attributes in NO_MAPPINGS:
            model.save(tmp_path / "model.zarr")
            damaged(
                lambda content, attributes=attributes: content.update(attributes=attributes),
                tmp_path / "model.zarr" / where / "zarr.json",
            )  # type: ignore[misc]
            if where == "coef":  # whose attributes nobody reads, but Zarr from 3.4 on
                try:
                    found = streamlr.load_model(tmp_path / "model.zarr")
                except DataError as error:
                    assert "restore it or train again" in str(error)  # noqa: PT017
                else:
                    assert found.content_sha256 == model.content_sha256
            elif not taken_for_a_mapping(tmp_path / "model.zarr", where):
                with pytest.raises(streamlr.errors.StreamlrError, match="no model at"):
                    streamlr.load_model(tmp_path / "model.zarr")
