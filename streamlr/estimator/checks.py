"""What scikit-learn's estimators check of what they are given, without reading anything that is not
in memory."""

from __future__ import annotations

from typing import Any

import numpy as np
import sklearn
from numpy.typing import ArrayLike, NDArray
from sklearn.utils import check_array
from sklearn.utils.validation import column_or_1d

from streamlr.data.frames import column_names
from streamlr.data.source import Rows
from streamlr.data.sources.adapters import in_memory, rows_of, stored_rows, without_gaps
from streamlr.data.sources.dask_rows import DaskFrame
from streamlr.errors import ShapeError

_FUNCTION_VALIDATES = tuple(int(part) for part in sklearn.__version__.split(".")[:2]) >= (1, 6)


def features_of(estimator: Any, X: Any, *, reset: bool) -> NDArray[Any] | Rows:
    """What ``X`` is read from, with the number and the names of its features noted on the estimator
    or compared with those noted there.

    Of arrays in memory the values are checked too; those of memory maps and of what Zarr and Dask
    hold will be by the pass that reads them.
    """
    names = column_names(X)
    if reset:
        estimator._column_names = names
    rows = stored_rows(X)
    if rows is None:
        validated = rows_of(_validated(estimator, X, reset=reset))
        if not reset:
            _compare_names(estimator, names)
        return validated
    if len(rows.shape) != 2:
        raise ShapeError(
            f"Expected 2D array, got an array of the shape {rows.shape} instead; give rows by "
            "features"
        )
    if reset:
        counted = rows_of(rows)  # to predict, the number of rows need not be known
        estimator.n_features_in_ = counted.shape[1]
        _note_names(estimator, X)
        return counted
    if isinstance(X, DaskFrame):
        _check_names(estimator, X, reset=False)
    if rows.shape[1] != estimator.n_features_in_ and not np.isnan(rows.shape[1]):
        raise ShapeError(
            f"X has {rows.shape[1]} features, but {type(estimator).__name__} is expecting "
            f"{estimator.n_features_in_} features as input"
        )
    _compare_names(estimator, names)
    return rows


def _note_names(estimator: Any, X: Any) -> None:
    """Note the names of the features of a fit; only frames have any."""
    if isinstance(X, DaskFrame):
        _check_names(estimator, X, reset=True)
    elif hasattr(estimator, "feature_names_in_"):
        del estimator.feature_names_in_


def _check_names(estimator: Any, frame: Any, *, reset: bool) -> None:
    """Note names, or compare them with those noted, as scikit-learn does of frames in memory."""
    like = frame._meta  # an empty frame with the same columns
    if _FUNCTION_VALIDATES:
        from sklearn.utils.validation import _check_feature_names

        _check_feature_names(estimator, like, reset=reset)
    else:
        estimator._check_feature_names(like, reset=reset)


def _compare_names(estimator: Any, names: tuple[str, ...] | None) -> None:
    """Refuse names that are not those of the fit, also where they are no text to scikit-learn."""
    known = getattr(estimator, "_column_names", None)
    if known is None or names is None or names == known:
        return
    at = next(j for j, (name, was) in enumerate(zip(names, known, strict=True)) if name != was)
    raise ShapeError(
        "The feature names should match those that were passed during fit, in the "
        f"same order ({names[at]!r} stands where {known[at]!r} did); bring the "
        "columns into that order, or give an array without names"
    )


def _validated(estimator: Any, X: Any, *, reset: bool) -> Any:
    finite = not isinstance(X, np.memmap)
    if _FUNCTION_VALIDATES:
        from sklearn.utils.validation import validate_data

        return validate_data(
            estimator, X, reset=reset, accept_sparse="csr", ensure_all_finite=finite
        )
    return estimator._validate_data(X, reset=reset, accept_sparse="csr", force_all_finite=finite)


def target_of(estimator: Any, y: Any, *, numeric: bool, outputs: bool = False) -> NDArray[Any]:
    """The target in memory, (m,), or (m, k) where it has two axes and ``outputs`` allows for
    that."""
    name = type(estimator).__name__
    if y is None:
        raise ValueError(
            f"This {name} estimator requires y to be passed, but the target y is None."
        )
    given = in_memory(y, "y")
    labels = without_gaps(given)
    if labels.dtype.kind == "T":
        given = np.array(labels.tolist())  # scikit-learn does not know the type yet
    checked = check_array(
        given, ensure_2d=False, dtype="numeric" if numeric else None, input_name="y", estimator=name
    )
    if outputs and checked.ndim == 2:
        return np.asarray(checked)
    flat: NDArray[Any] = column_or_1d(checked, warn=True)
    return flat


def weights_of(
    estimator: Any, sample_weight: ArrayLike | None, n_rows: int
) -> NDArray[np.float64] | None:
    """The sample weights, (m,); a number is the weight of every example."""
    if sample_weight is None:
        return None
    if np.isscalar(sample_weight):
        return np.full(n_rows, sample_weight, dtype=np.float64)
    given = in_memory(sample_weight, "sample_weight")
    weights: NDArray[np.float64] = check_array(
        given,
        ensure_2d=False,
        dtype=np.float64,
        input_name="sample_weight",
        estimator=type(estimator).__name__,
    )
    if weights.shape != (n_rows,):
        raise ShapeError(
            f"sample_weight has shape {weights.shape}, and there are {n_rows} rows; expected "
            f"({n_rows},)"
        )
    if not weights.any():
        raise ValueError("Sample weights must contain at least one non-zero number.")
    return weights
