"""A fitted model: coefficients in the units of the data, kept as a Zarr group that executes nothing when it is loaded.

Format 1 knows two classes alone; format 2 holds any family, with no classes where the target is a number.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from streamlr.data.records import read_array, read_attributes, write_record
from streamlr.errors import ConfigError, DataError, RunDirectoryError, ShapeError
from streamlr.kernels.families import FAMILIES
from streamlr.urls import local_output, local_run

Array = NDArray[np.float64]

FORMAT_VERSION = 2
_READABLE = (1, 2)
MODEL_NAME = "model.zarr"
_FORMAT = "streamlr model"


@dataclass(frozen=True, slots=True)
class Model:
    """A linear model: of the probability of the second class, of each class, or of the mean of a number."""

    coef_: Array
    """Coefficients, (c, n), in the units of the data."""
    intercept_: Array
    """Intercepts, (c,)."""
    classes_: NDArray[Any]
    """The sorted labels; none where the target is a number."""
    feature_names: tuple[str, ...] | None = None
    """Names of the features."""
    family: str = "logistic"
    """Name of the family."""

    @property
    def coefficients_sha256(self) -> str:
        """Digest of the bits of coefficients and intercepts (little-endian float64)."""
        digest = hashlib.sha256()
        for array in (self.coef_, self.intercept_):
            digest.update(np.ascontiguousarray(array, dtype="<f8").tobytes())
        return digest.hexdigest()

    @property
    def content_sha256(self) -> str:
        """Digest of everything that the model is: coefficients, classes, names and family."""
        rest = [self.classes_.tolist(), self.classes_.dtype.str, self.feature_names, self.family, self.coef_.shape]
        return hashlib.sha256(f"{self.coefficients_sha256} {json.dumps(rest)}".encode()).hexdigest()

    def decision_function(self, X: ArrayLike, offset: ArrayLike | None = None) -> Array:
        """Z of every row of ``X``, (m, n), with its offset, (m,), if any: (m,) of one output, (m, c) of more."""
        rows = np.asarray(X, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != self.coef_.shape[1]:
            raise ShapeError(f"X has shape {rows.shape}; the model was fitted to {self.coef_.shape[1]} features: expected (rows, {self.coef_.shape[1]})")
        beside = 0.0 if offset is None else np.asarray(offset, dtype=np.float64)
        Z: Array = rows @ self.coef_[0] + self.intercept_[0] + beside if len(self.coef_) == 1 else rows @ self.coef_.T + self.intercept_
        return Z

    def predict_mean(self, X: ArrayLike, offset: ArrayLike | None = None) -> Array:
        """A of every row of ``X``: the mean of the target, or the probability of the second class, (m,); of each class, (m, c)."""
        return mean_of(self.family, np.atleast_2d(self.decision_function(X, offset).T))

    def predict_proba(self, X: ArrayLike, offset: ArrayLike | None = None) -> Array:
        """Probability of each class for every row of ``X``: (m, c).

        Raises
        ------
        ConfigError
            Where the target is a number.
        """
        if not FAMILIES[self.family].labelled:
            raise ConfigError(f"a model of the family {self.family} has no classes; ask for predict")
        A = self.predict_mean(X, offset)
        return A if A.ndim == 2 else np.column_stack([1.0 - A, A])

    def predict_log_proba(self, X: ArrayLike, offset: ArrayLike | None = None) -> Array:
        """Logarithm of the probability of each class for every row of ``X``, to full precision where that is near 0 or 1: (m, c).

        Raises
        ------
        ConfigError
            Where the target is a number.
        """
        if not FAMILIES[self.family].labelled:
            raise ConfigError(f"a model of the family {self.family} has no classes; ask for predict")
        Z = self.decision_function(X, offset)
        if Z.ndim == 1:
            return np.column_stack([-np.logaddexp(0.0, Z), -np.logaddexp(0.0, -Z)])
        Z = Z - Z.max(axis=1, keepdims=True)
        return Z - np.log(np.exp(Z).sum(axis=1, keepdims=True))

    def predict(self, X: ArrayLike, offset: ArrayLike | None = None) -> NDArray[Any]:
        """The most probable label for every row of ``X``, or the mean of the target where that is a number: (m,)."""
        if not FAMILIES[self.family].labelled:
            return self.predict_mean(X, offset)
        Z = self.decision_function(X, offset)
        labels: NDArray[Any] = self.classes_[Z.argmax(axis=1) if Z.ndim == 2 else (Z > 0).astype(np.intp)]
        return labels

    def save(self, path: str | Path) -> None:
        """Write the model as a Zarr group; it appears whole or not at all."""
        arrays: dict[str, NDArray[Any]] = {"coef": self.coef_, "intercept": self.intercept_}
        attributes: dict[str, Any] = {
            "format": _FORMAT, "format_version": FORMAT_VERSION, "family": self.family,
            "classes": self.classes_.tolist(), "classes_dtype": self.classes_.dtype.str,
            "feature_names": None if self.feature_names is None else list(self.feature_names),
            "coefficients_sha256": self.coefficients_sha256, "content_sha256": self.content_sha256}
        write_record(local_output(path, "the path of the model"), arrays, attributes)


def mean_of(family: str, Z: Array) -> Array:
    """A of the examples, (c, k), as predictions have it: (k,) of one output, (k, c) of more."""
    A = FAMILIES[family].activate(Z)
    return A[0] if len(A) == 1 else np.ascontiguousarray(A.T)


def load_model(path: str | Path) -> Model:
    """Load a model from a run directory or from the model's own group. Nothing in it is executed.

    Raises
    ------
    RunDirectoryError
        When there is no model.
    DataError
        When it is damaged, or of a format that this version does not know.
    """
    folder = local_run(path)
    if (folder / MODEL_NAME).is_dir():
        folder = folder / MODEL_NAME
    if not folder.is_dir():
        raise RunDirectoryError(f"no model at {str(path)!r}: neither a run directory with a {MODEL_NAME} nor a model itself; has the run finished?")
    attributes = read_attributes(folder)
    if attributes is None or attributes.get("format") != _FORMAT:
        raise RunDirectoryError(f"no model at {str(path)!r}: it is no run with a {MODEL_NAME}; has the run finished, and is it the run that you mean?")
    if attributes.get("format_version") not in _READABLE:
        raise DataError(f"the model at {str(path)!r} has format version {attributes.get('format_version')}; this streamlr reads "
                        f"{' and '.join(map(str, _READABLE))}")
    try:
        names = attributes["feature_names"]
        model = Model(read_array(folder, "coef"), read_array(folder, "intercept"),
                      np.array(attributes["classes"], dtype=np.dtype(attributes["classes_dtype"])), None if names is None else tuple(names),
                      attributes["family"])
        saved = attributes["content_sha256"]
    except (KeyError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise DataError(f"the model at {str(path)!r} is damaged ({type(error).__name__}: {error}); restore it or train again") from error
    if model.content_sha256 != saved:
        raise DataError(f"the model at {str(path)!r} is not the one that was saved (sha256 {model.content_sha256[:12]}..., saved as {str(saved)[:12]}...); "
                        "restore it or train again")
    return model
