"""What scikit-learn's estimators check of what they are given, without reading anything that is not in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import sklearn
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array
from sklearn.utils.validation import column_or_1d

from streamlr.data.rows import refuse_gaps, rows_of, stored_rows
from streamlr.data.source import Rows
from streamlr.errors import ShapeError

_FUNCTION_VALIDATES = tuple(int(part) for part in sklearn.__version__.split(".")[:2]) >= (1, 6)


def features_of(estimator: Any, X: Any, *, reset: bool) -> NDArray[Any] | Rows:
    """What ``X`` is read from, with the number and the names of its features noted on the estimator or compared with those noted there.

    Of arrays in memory the values are checked too; those of memory maps, Zarr and Dask arrays will be by the pass that reads them.
    """
    rows = stored_rows(X)
    if rows is None:
        return rows_of(_validated(estimator, X, reset=reset))
    if len(rows.shape) != 2:
        raise ShapeError(f"Expected 2D array, got an array of the shape {rows.shape} instead; give rows by features")
    if reset:
        rows_of(rows)  # which refuses an unknown number of rows; to predict it need not be known
        estimator.n_features_in_ = rows.shape[1]
        if hasattr(estimator, "feature_names_in_"):
            del estimator.feature_names_in_
    elif rows.shape[1] != estimator.n_features_in_:
        raise ShapeError(f"X has {rows.shape[1]} features, but {type(estimator).__name__} is expecting {estimator.n_features_in_} features as input")
    return rows


def _validated(estimator: Any, X: Any, *, reset: bool) -> Any:
    finite = not isinstance(X, np.memmap)
    if _FUNCTION_VALIDATES:
        from sklearn.utils.validation import validate_data

        return validate_data(estimator, X, reset=reset, accept_sparse="csr", ensure_all_finite=finite)
    return estimator._validate_data(X, reset=reset, accept_sparse="csr", force_all_finite=finite)


def target_of(estimator: Any, y: Any, *, numeric: bool, outputs: bool = False) -> NDArray[Any]:
    """The target in memory, (m,), or (m, k) where it has two axes and ``outputs`` allows for that."""
    name = type(estimator).__name__
    if y is None:
        raise ValueError(f"This {name} estimator requires y to be passed, but the target y is None.")
    given = y if stored_rows(y) is None else np.asarray(y)
    objects = np.asarray(given)
    if objects.dtype.kind == "O":
        refuse_gaps(objects)
    checked = check_array(given, ensure_2d=False, dtype="numeric" if numeric else None, input_name="y", estimator=name)
    if outputs and checked.ndim == 2:
        return np.asarray(checked)
    flat: NDArray[Any] = column_or_1d(checked, warn=True)
    return flat


def weights_of(estimator: Any, sample_weight: ArrayLike | None, n_rows: int) -> NDArray[np.float64] | None:
    """The sample weights, (m,); a number is the weight of every example."""
    if sample_weight is None:
        return None
    if np.isscalar(sample_weight):
        return np.full(n_rows, sample_weight, dtype=np.float64)
    given = sample_weight if stored_rows(sample_weight) is None else np.asarray(sample_weight)
    weights: NDArray[np.float64] = check_array(given, ensure_2d=False, dtype=np.float64, input_name="sample_weight", estimator=type(estimator).__name__)
    if weights.shape != (n_rows,):
        raise ShapeError(f"sample_weight has shape {weights.shape}, and there are {n_rows} rows; expected ({n_rows},)")
    if not weights.any():
        raise ValueError("Sample weights must contain at least one non-zero number.")
    return weights
