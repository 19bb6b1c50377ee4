"""A label that is None, NaN or NA is none: refused with its row, and never made a class."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

import streamlr
from streamlr.errors import DtypeError, LabelError

X = np.random.default_rng(0).normal(size=(6, 2))
WITH_GAPS = {
    "objects": np.array(["a", None, "b", "a", "b", "a"], object),
    "list": ["a", None, "b", "a", "b", "a"],
    "nan in a list": ["a", float("nan"), "b", "a", "b", "a"],
    "tuple": ("a", float("nan"), "b", "a", "b", "a"),
    "nan": np.array(["a", np.nan, "b", "a", "b", "a"], object),
    "NA": pd.Series(["a", pd.NA, "b", "a", "b", "a"], dtype="string"),
    "category": pd.Series(["a", None, "b", "a", "b", "a"], dtype="category"),
    "numbers": [0, None, 1, 0, 1, 0],
    "bools": np.array([True, None, False, True, False, True], object),
    "texts of NumPy": np.array(
        ["a", None, "b", "a", "b", "a"], dtype=np.dtypes.StringDType(na_object=None)
    ),
}


@pytest.mark.parametrize("kind", WITH_GAPS)
def test_a_label_that_is_missing_is_refused(kind: str, tmp_path: Path) -> None:
    y: Any = WITH_GAPS[kind]
    message = r"y holds 1 missing label \(first: .* at row 1\); drop or label those rows"
    with pytest.raises(LabelError, match=message):
        streamlr.train({"run": {"directory": str(tmp_path / "r")}}, X=X, y=y)
    with pytest.raises(LabelError, match=message):
        streamlr.LogisticRegression().fit(X, y)
    if kind == "numbers":
        with pytest.raises(LabelError, match=message):
            streamlr.LinearRegression().fit(X, y)


def test_labels_that_spell_a_gap_are_labels() -> None:
    y = ["NA", "nan", "None", "NA", "nan", "None"]
    assert streamlr.LogisticRegression().fit(X, y).classes_.tolist() == ["NA", "None", "nan"]
    texts = np.array(y, dtype=np.dtypes.StringDType())
    assert streamlr.LogisticRegression().fit(X, texts).classes_.tolist() == ["NA", "None", "nan"]


def test_decimals_are_numbers(tmp_path: Path) -> None:
    y = np.array([Decimal(k) / 4 for k in range(6)], object)
    config = {"model": {"family": "linear"}, "run": {"directory": str(tmp_path / "r")}}
    made = streamlr.train(config, X=X, y=y).model
    plain = streamlr.train(config, X=X, y=y.astype(float), overwrite=True).model
    assert made.coef_.tobytes() == plain.coef_.tobytes()


@pytest.mark.parametrize(
    "y",
    [np.array(["2020-01-01"] * 6, "M8[ns]"), np.array([{}, [], {}, [], {}, []], object)],
    ids=["dates", "objects"],
)
def test_labels_that_are_neither_numbers_nor_text_are_refused(y: Any, tmp_path: Path) -> None:
    with pytest.raises(DtypeError, match="labels must be integers, bools, floats or text"):
        streamlr.train({"run": {"directory": str(tmp_path / "r")}}, X=X, y=y)
